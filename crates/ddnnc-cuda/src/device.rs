//! The device: finding one that can be used, and loading programs on it.

use crate::arch::{Arch, Math, Target};
use crate::binaries::{self, Build, Progress, Unit};
use crate::cache::{Cache, Key};
use crate::driver::{self, Context, DeviceMemory};
use crate::emitted::Emitted;
use crate::executable::{Call, CudaExecutable, LoadReport, Parts};
use crate::layout::{Addresses, MemoryPlan};
use crate::limits;
use crate::module::{Module, Refused};
use crate::nvrtc::{self, NvrtcError, Output};
use cudarc::driver::{result, sys};
use ddnnc_passes::{Device, DeviceError, Executable, Limits, Program};
use rustc_hash::FxHashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Instant;

/// Why there is no CUDA device to use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// No driver's library.
    #[error("no CUDA driver was found: looked for libcuda.so and libcuda.so.1 on the loader's paths")]
    NoDriver,
    /// A driver that is too old to be called.
    #[error("the CUDA driver is too old: it is for CUDA {major}.{minor}, and 12.0 or newer is needed")]
    OldDriver {
        /// The newest CUDA that it supports.
        major: i32,
        /// Likewise.
        minor: i32,
    },
    /// No device.
    #[error("the CUDA driver has no device to offer: {said}")]
    NoDevice {
        /// What the driver says.
        said: String,
    },
    /// A device that kernels are not made for.
    #[error("{name} has compute capability {}.{}, and kernels need 8.0 (sm_80) or newer", arch / 10, arch % 10)]
    OldDevice {
        /// Its name.
        name: String,
        /// Its compute capability, as one number.
        arch: u32,
    },
    /// No compiler.
    #[error(transparent)]
    Nvrtc(#[from] NvrtcError),
    /// Something else.
    #[error("the CUDA device cannot be opened: the driver reports {said}")]
    Failed {
        /// What the driver says.
        said: String,
    },
}

/// Who is told what loading a program does; any thread tells it.
pub trait Watch: Send + Sync {
    /// So many of the kernels that have to be compiled are.
    fn compiling(&self, done: usize, of: usize) {
        let _ = (done, of);
    }
    /// A program is on the device.
    fn loaded(&self, report: &LoadReport) {
        let _ = report;
    }
    /// Something that takes time or space, but changes no result.
    fn warn(&self, text: &str) {
        let _ = text;
    }
}

/// Tells nobody.
struct Nobody;
impl Watch for Nobody {}

/// How programs are made and run.
#[derive(Clone)]
pub struct CudaOptions {
    /// Which device, of those that the driver shows.
    pub ordinal: i32,
    /// Products of f32 values.
    pub math: Math,
    /// See [`Target::tile`].
    pub tile: Option<[usize; 3]>,
    /// See [`Target::warpgroups`].
    pub warpgroups: bool,
    /// Where compiled kernels are kept; without, every process compiles its own.
    pub cache: Option<Cache>,
    /// Threads that compile.
    pub threads: usize,
    /// Runs a step kernel by kernel and waits for each, so that a failure names its launch; slow.
    pub stepwise: bool,
    /// Fills memory with NaN before the first step, so that what no kernel has written shows; for tests.
    pub poison: bool,
    /// Where the driver gets PTX it says what line of the kernel's text each instruction comes from; for the emulator.
    pub lines: bool,
    /// Who is told what loading does.
    pub watch: Arc<dyn Watch>,
}

impl Default for CudaOptions {
    /// The first device, exact products, the user's cache, a thread for each core, nobody told.
    fn default() -> CudaOptions {
        CudaOptions {
            ordinal: 0,
            math: Math::Exact,
            tile: None,
            warpgroups: true,
            cache: Cache::default_folder().map(Cache::new),
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            stepwise: false,
            poison: false,
            lines: false,
            watch: Arc::new(Nobody),
        }
    }
}

/// An NVIDIA GPU.
pub struct CudaDevice {
    context: Arc<Context>,
    name: String,
    target: Target,
    /// Bytes of shared memory that a block may have.
    shared_per_block: usize,
    options: CudaOptions,
    /// Whether the driver gets PTX instead of machine code; known once it has seen a kernel.
    ptx: OnceLock<bool>,
    /// That the cache cannot be written was said.
    warned: AtomicBool,
    /// What is loaded: programs share kernels, and are loaded again and again.
    modules: Mutex<FxHashMap<Key, Arc<Module>>>,
}

impl std::fmt::Debug for CudaDevice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CudaDevice").field("name", &self.name).field("target", &self.target).finish()
    }
}

impl CudaDevice {
    /// Whether there is a driver's library, so that a user may expect a device.
    pub fn has_driver() -> bool {
        driver::is_present()
    }

    /// Opens a device, once everything that it needs is known to be there: driver, device, NVRTC.
    ///
    /// # Errors
    ///
    /// [`OpenError`]: the first of these that is not.
    pub fn open(options: CudaOptions) -> Result<CudaDevice, OpenError> {
        let failed = |e: result::DriverError| OpenError::Failed { said: driver::words(e) };
        if !driver::is_present() {
            return Err(OpenError::NoDriver);
        }
        let version = driver::version().map_err(failed)?;
        // What is called here is in every driver since CUDA 11.4; cudarc panics at a missing symbol.
        if version < 12_000 {
            return Err(OpenError::OldDriver { major: version / 1000, minor: version % 1000 / 10 });
        }
        let none = |said: String| OpenError::NoDevice { said };
        result::init().map_err(|e| none(driver::words(e)))?;
        let count = result::device::get_count().map_err(|e| none(driver::words(e)))?;
        if !(0..count).contains(&options.ordinal) {
            return Err(none(format!("device {} of {count}", options.ordinal)));
        }
        let context = Context::new(options.ordinal).map_err(failed)?;
        let number = |attribute: sys::CUdevice_attribute| {
            let value = context.attribute(attribute).map_err(failed)?;
            u32::try_from(value).map_err(|_| OpenError::Failed { said: format!("{attribute:?} = {value}") })
        };
        use sys::CUdevice_attribute as Of;
        let name = context.name().map_err(failed)?;
        let major = number(Of::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
        let arch = 10 * major + number(Of::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
        if arch < 80 {
            return Err(OpenError::OldDevice { name, arch });
        }
        let (compiled_for, own) = code_architecture(Arch(arch))?;
        let multiprocessors = number(Of::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?;
        let shared_per_block = number(Of::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)? as usize;
        let CudaOptions { math, tile, warpgroups, .. } = options;
        let target = Target { math, multiprocessors, tile, warpgroups, ..Target::new(compiled_for) };
        Ok(CudaDevice {
            context,
            name,
            target,
            shared_per_block,
            options,
            ptx: if own { OnceLock::new() } else { OnceLock::from(true) },
            warned: AtomicBool::new(false),
            modules: Mutex::new(FxHashMap::default()),
        })
    }

    /// The card's name.
    pub fn card(&self) -> &str {
        &self.name
    }

    /// What kernels are made for.
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// Bytes of device memory that are free.
    ///
    /// # Errors
    ///
    /// What the driver says.
    pub fn free_memory(&self) -> Result<usize, DeviceError> {
        self.context.free_memory()
    }

    /// As [`Device::load`], with the executable's own type.
    ///
    /// # Errors
    ///
    /// [`DeviceError::Failed`] for a program that is not valid, a launch that no kernel does, a kernel that does not
    /// compile; [`DeviceError::TooLarge`] where the device has not that much memory free.
    pub fn load_cuda(&self, program: &Program) -> Result<CudaExecutable, DeviceError> {
        let start = Instant::now();
        let failed = |e: &dyn std::fmt::Display| DeviceError::Failed(e.to_string());
        program.validate().map_err(|e| failed(&e))?;
        let emitted = Emitted::new(program, &self.target).map_err(|e| failed(&e))?;
        let memory_plan = MemoryPlan::new(program, &emitted);
        let mut report =
            LoadReport { launches: program.launches.len(), memory: memory_plan, ..LoadReport::default() };
        let modules = self.modules(&emitted, &mut report)?;
        let (needed, free) = (memory_plan.total(), self.context.free_memory()?);
        if needed > free {
            return Err(DeviceError::TooLarge { needed, free });
        }
        let memory = DeviceMemory::new(&self.context, needed)?;
        let addresses = Addresses::new(&memory_plan, memory.address());
        let calls = self.calls(program, &emitted, &modules, &addresses)?;
        report.calls = calls.len();
        report.milliseconds = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
        let CudaOptions { stepwise, poison, .. } = self.options;
        let program = program.clone();
        let parts = Parts { program, addresses, memory, modules, calls, stepwise, poison, report };
        let executable = CudaExecutable::new(&self.context, parts)?;
        self.options.watch.loaded(executable.report());
        Ok(executable)
    }

    /// The code of every text, on the device.
    fn modules(&self, emitted: &Emitted, report: &mut LoadReport) -> Result<Vec<Arc<Module>>, DeviceError> {
        report.kernels = emitted.texts.len();
        let mut modules = Vec::with_capacity(emitted.texts.len());
        // One kernel shows whether the driver takes machine code at all.
        let first = if self.ptx.get().is_some() { 0 } else { 1.min(emitted.texts.len()) };
        for texts in [0..first, first..emitted.texts.len()] {
            let texts: Vec<usize> = texts.collect();
            modules.extend(self.load_texts(emitted, &texts, report)?);
        }
        report.ptx = self.ptx.get().copied().unwrap_or(false);
        Ok(modules)
    }

    fn load_texts(
        &self,
        emitted: &Emitted,
        texts: &[usize],
        report: &mut LoadReport,
    ) -> Result<Vec<Arc<Module>>, DeviceError> {
        let units = |texts: &[usize]| -> Vec<Unit> {
            let unit = |&text: &usize| {
                let kernel = emitted.first(text);
                Unit { name: &kernel.name, source: &kernel.source }
            };
            texts.iter().map(unit).collect()
        };
        if texts.is_empty() {
            return Ok(Vec::new());
        }
        if !self.ptx.get().is_some_and(|&ptx| ptx) {
            let loaded = self.load_as(Output::Cubin, &units(texts), report);
            // Two programs that are loaded at once learn the same.
            let _ = self.ptx.set(matches!(loaded, Err(Refused::Image(_))));
            match loaded {
                Err(Refused::Image(_)) => {}
                Err(Refused::Failed(error)) => return Err(error),
                Ok(modules) => return Ok(modules),
            }
        }
        let ptx = if self.options.lines { Output::PtxWithLines } else { Output::Ptx };
        self.load_as(ptx, &units(texts), report).map_err(|refused| match refused {
            Refused::Failed(error) => error,
            Refused::Image(said) => {
                let (major, minor) = nvrtc::find().unwrap_or_default();
                DeviceError::Failed(format!(
                    "the CUDA driver takes neither machine code nor PTX of NVRTC {major}.{minor}: it may be older than that: {said}"
                ))
            }
        })
    }

    fn load_as(
        &self,
        output: Output,
        units: &[Unit],
        report: &mut LoadReport,
    ) -> Result<Vec<Arc<Module>>, Refused> {
        let failed = |e: NvrtcError| Refused::Failed(DeviceError::Failed(e.to_string()));
        let arch = self.target.arch;
        let keys: Vec<Key> = units
            .iter()
            .map(|unit| binaries::key(unit.source, arch, output))
            .collect::<Result<_, _>>()
            .map_err(failed)?;
        // Held throughout, so that two programs loaded at once do not compile the same kernel twice.
        let mut loaded = self.modules.lock().unwrap_or_else(PoisonError::into_inner);
        let missing: Vec<usize> = (0..units.len()).filter(|&i| !loaded.contains_key(&keys[i])).collect();
        let wanted: Vec<Unit> = missing.iter().map(|&i| units[i]).collect();
        let cache = self.options.cache.as_ref();
        let build = Build { arch, output, cache, threads: self.options.threads };
        let built = build.run(&wanted, self).map_err(failed)?;
        for (&i, built) in missing.iter().zip(built) {
            let module = Module::new(&self.context, &built.binary.bytes)?;
            report.compiled += usize::from(!built.cached);
            report.cached += usize::from(built.cached);
            loaded.insert(keys[i], Arc::new(module));
        }
        Ok(keys.iter().filter_map(|key| loaded.get(key).cloned()).collect())
    }

    fn calls(
        &self,
        program: &Program,
        emitted: &Emitted,
        modules: &[Arc<Module>],
        addresses: &Addresses,
    ) -> Result<Vec<Call>, DeviceError> {
        let (mut calls, mut first_counter) = (Vec::new(), 0);
        for (l, (launch, code)) in program.launches.iter().zip(&emitted.launches).enumerate() {
            for (kernel, &text) in code.kernels.iter().zip(&emitted.text_of[l]) {
                let shared = kernel.dynamic_shared as usize;
                if shared > self.shared_per_block {
                    return Err(DeviceError::Failed(format!(
                        "kernel `{}` of launch {l} ({}) needs {shared} bytes of shared memory, and {} has {}",
                        kernel.name, launch.path, self.name, self.shared_per_block
                    )));
                }
                let address = |&argument: &_| {
                    addresses.argument(program, launch, first_counter, argument).ok_or_else(|| {
                        DeviceError::Failed(format!(
                            "kernel `{}` of launch {l} ({}) takes {argument:?}, which the launch does not have",
                            kernel.name, launch.path
                        ))
                    })
                };
                calls.push(Call {
                    launch: l,
                    function: modules[text].function(&kernel.name, kernel.dynamic_shared)?,
                    name: kernel.name.clone(),
                    grid: kernel.grid,
                    block: kernel.block,
                    shared: kernel.dynamic_shared,
                    choice: kernel.choice.clone(),
                    parameters: kernel.arguments.iter().map(address).collect::<Result<_, _>>()?,
                });
            }
            first_counter += code.counters;
        }
        Ok(calls)
    }
}

/// What to compile for: the device's own architecture where NVRTC knows it, else the newest before it whose PTX the driver
/// can bring up to date, and whether it is its own.
fn code_architecture(arch: Arch) -> Result<(Arch, bool), NvrtcError> {
    match newest(&nvrtc::architectures()?, arch) {
        Some(found) => Ok((found, found == arch)),
        None => nvrtc::knows(arch).map(|()| (arch, true)),
    }
}

/// The newest of these architectures whose code runs on a device: that for Hopper runs on Hopper alone.
fn newest(known: &[Arch], device: Arch) -> Option<Arch> {
    known.iter().copied().filter(|&k| k == device || k < device && k != Arch(90)).max()
}

impl Progress for CudaDevice {
    fn compiling(&self, done: usize, of: usize) {
        self.options.watch.compiling(done, of);
    }

    fn not_kept(&self, error: &std::io::Error) {
        if !self.warned.swap(true, Ordering::Relaxed) {
            let folder = self.options.cache.as_ref().map(|c| c.folder().display().to_string());
            self.options
                .watch
                .warn(&format!("compiled kernels cannot be kept in {}: {error}", folder.unwrap_or_default()));
        }
    }
}

impl Device for CudaDevice {
    fn name(&self) -> &str {
        "cuda"
    }

    fn load(&self, program: &Program) -> Result<Box<dyn Executable>, DeviceError> {
        Ok(Box::new(self.load_cuda(program)?))
    }

    fn settings(&self) -> Vec<(&'static str, String)> {
        let tf32 = (self.target.math == Math::Tf32).then(|| ("tf32", "on".to_owned()));
        [("card", self.name.clone())].into_iter().chain(tf32).collect()
    }

    /// What the data sheet says of the newest card in the table of [`limits`] that is not newer than this.
    fn limits(&self) -> Option<Limits> {
        let card = limits::card_of(self.target.arch);
        let f32_tflops = if self.target.math == Math::Tf32 { card.tf32_tflops } else { card.f32_tflops };
        Some(Limits {
            f32_flops: f32_tflops * 1e12,
            bf16_flops: card.bf16_tflops * 1e12,
            bytes: card.memory_gbs * 1e9,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::newest;
    use crate::arch::Arch;

    #[test]
    fn code_for_hopper_is_for_hopper() {
        let known = [80, 86, 89, 90, 100].map(Arch);
        assert_eq!(newest(&known, Arch(90)), Some(Arch(90)));
        assert_eq!(newest(&known, Arch(100)), Some(Arch(100)));
        assert_eq!(newest(&known, Arch(120)), Some(Arch(100)));
        assert_eq!(newest(&known[..4], Arch(100)), Some(Arch(89)), "not sm_90a");
        assert_eq!(newest(&known[1..], Arch(80)), None);
    }
}
