//! The device, and programs loaded on it.

use crate::choices::Kind;
use crate::gemm::Gemm;
use crate::launch::{self, Kernel, Need};
use crate::limits;
use crate::memory::{Memory, Plan, Region};
use crate::method::{Direction, Method, Settings};
use crate::pool::Pool;
use crate::simd::Level;
use crate::tune::{Tune, Tuning};
use ddnnc_ir::DType;
use ddnnc_passes::{BufferId, Device, DeviceError, Executable, Limits, Place, Program, freed_after};
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// What is chosen for the device where the user does not say it.
#[derive(Clone, Debug)]
pub struct CpuOptions {
    /// How many threads compute; as many as the machine runs at once where not given.
    pub threads: Option<usize>,
    /// The instructions that kernels use; the best that the processor has where not given.
    pub level: Option<Level>,
    /// Whether convolutions may be computed by Winograd's algorithm.
    pub winograd: bool,
    /// Whether methods are chosen by measuring them when a program is loaded.
    pub tune: Option<Tune>,
}

impl Default for CpuOptions {
    fn default() -> CpuOptions {
        CpuOptions { threads: None, level: None, winograd: true, tune: None }
    }
}

/// The CPU with a pool of threads.
#[derive(Clone)]
pub struct CpuDevice {
    pool: Arc<Pool>,
    settings: Settings,
    tuning: Option<Arc<Tuning>>,
}

impl CpuDevice {
    /// Opens the device with that many threads, by default as many as the machine runs at once.
    ///
    /// # Errors
    ///
    /// [`DeviceError::Failed`] for zero threads, or where a thread cannot be started.
    pub fn new(threads: Option<usize>) -> Result<CpuDevice, DeviceError> {
        CpuDevice::open(&CpuOptions { threads, ..CpuOptions::default() })
    }

    /// One device for each level of the processor that this machine has, so that tests reach the kernels of all.
    ///
    /// # Errors
    ///
    /// As [`CpuDevice::new`].
    #[doc(hidden)]
    pub fn at_every_level(threads: usize, winograd: bool) -> Result<Vec<CpuDevice>, DeviceError> {
        let at = |level| CpuOptions {
            threads: Some(threads),
            level: Some(level),
            winograd,
            ..CpuOptions::default()
        };
        Level::available().map(|level| CpuDevice::open(&at(level))).collect()
    }

    /// Opens the device as the options say.
    ///
    /// # Errors
    ///
    /// [`DeviceError::Failed`] for zero threads or instructions that the processor does not have, or where a thread cannot
    /// be started.
    pub fn open(options: &CpuOptions) -> Result<CpuDevice, DeviceError> {
        let level = options.level.unwrap_or_else(Level::detect);
        if !Level::available().any(|there| there == level) {
            let there: Vec<&str> = Level::available().map(Level::name).collect();
            return Err(DeviceError::Failed(format!(
                "this processor does not have the instructions of `{}`; it has {}",
                level.name(),
                there.join(", ")
            )));
        }
        let threads = match options.threads {
            Some(0) => {
                return Err(DeviceError::Failed("the CPU device needs at least one thread".to_owned()));
            }
            Some(n) => n,
            None => std::thread::available_parallelism().map_or(1, usize::from),
        };
        let (pairs, winograd) = (level.pairs_pay(), options.winograd);
        let settings = Settings { level, pairs, winograd, choices: Arc::default() };
        let tuning =
            options.tune.as_ref().map(|tune| Tuning::new(tune.clone(), Kind::here(&settings, threads)));
        Ok(CpuDevice { pool: Arc::new(Pool::new(threads)?), settings, tuning: tuning.map(Arc::new) })
    }

    /// How many threads compute.
    pub fn threads(&self) -> usize {
        self.pool.threads()
    }

    /// The instructions that kernels use.
    pub fn level(&self) -> Level {
        self.settings.level
    }

    /// What the processor reaches with these instructions and so many threads, measured now.
    pub fn limits(&self) -> Limits {
        limits::measure(&self.pool, self.settings.level)
    }

    /// As [`Device::load`], with the executable's own type.
    ///
    /// # Errors
    ///
    /// [`DeviceError::Failed`] for a program that is not valid, [`DeviceError::OutOfMemory`].
    pub fn load_cpu(&self, program: &Program) -> Result<CpuExecutable, DeviceError> {
        let prepared = match &self.tuning {
            Some(tuning) => self.prepare(program, &tuning.settings(self, program)?)?,
            None => self.prepare(program, &self.settings)?,
        };
        self.assemble(program, prepared)
    }

    /// What kernels are chosen by where nothing is measured.
    pub(crate) fn untuned_settings(&self) -> &Settings {
        &self.settings
    }

    /// Takes the memory for a program whose launches, or some in their place, were made ready.
    pub(crate) fn assemble(
        &self,
        program: &Program,
        prepared: Prepared,
    ) -> Result<CpuExecutable, DeviceError> {
        let needed = program.peak_bytes().saturating_add(prepared.workspace(self.threads()));
        let Prepared { kernels, need, work } = prepared;
        let region = |bytes: usize| Region::new(bytes, needed);
        let bytes = |count: usize, size: usize| count.saturating_mul(size);
        let scratch = (0..self.threads()).map(|_| Ok(Mutex::new(region(bytes(need.scratch, 4))?)));
        let tiles = (0..self.threads())
            .map(|_| Ok(Mutex::new((region(bytes(need.tile, 4))?, region(bytes(need.sums, 8))?))));
        Ok(CpuExecutable {
            program: program.clone(),
            kernels,
            device: self.clone(),
            arena: region(program.arena_bytes)?,
            persistent: region(program.persistent_bytes)?,
            scratch: scratch.collect::<Result<_, DeviceError>>()?,
            tiles: tiles.collect::<Result<_, DeviceError>>()?,
            shared: region(bytes(need.shared, 4))?,
            partials: region(bytes(need.partials, 8))?,
            work: region(work)?,
        })
    }

    /// Bytes that a program takes on this device besides its plan: scratch of every thread, packed weights, partial
    /// sums, and what small operators hand to one another inside a launch.
    ///
    /// # Errors
    ///
    /// [`DeviceError::Failed`] for a program that is not valid, or that this device does not run.
    pub fn workspace_bytes(&self, program: &Program) -> Result<usize, DeviceError> {
        self.prepare(program, &self.settings).map(|prepared| prepared.workspace(self.threads()))
    }

    /// Chooses the kernels of a program.
    pub(crate) fn prepare(&self, program: &Program, settings: &Settings) -> Result<Prepared, DeviceError> {
        program.validate().map_err(|e| DeviceError::Failed(e.to_string()))?;
        let (mut need, mut work) = (Need::default(), 0);
        let mut kernels = Vec::with_capacity(program.launches.len());
        for launch in &program.launches {
            let mut plan = Plan::default();
            let kernel = launch::prepare(program, launch, settings, &mut plan)?;
            need.include(kernel.need());
            work = work.max(plan.bytes);
            kernels.push(kernel);
        }
        Ok(Prepared { kernels, need, work })
    }
}

/// What loading a program settles before any memory is taken.
pub(crate) struct Prepared {
    pub(crate) kernels: Vec<Kernel>,
    pub(crate) need: Need,
    /// Bytes of the region that launches hand values on in.
    pub(crate) work: usize,
}

impl Prepared {
    /// Bytes of memory besides the plan.
    fn workspace(&self, threads: usize) -> usize {
        let Prepared { need, work, .. } = self;
        let bytes = |count: usize, size: usize| count.saturating_mul(size);
        let worker =
            bytes(need.scratch, 4).saturating_add(bytes(need.tile, 4)).saturating_add(bytes(need.sums, 8));
        worker
            .saturating_mul(threads)
            .saturating_add(bytes(need.shared, 4))
            .saturating_add(bytes(need.partials, 8))
            .saturating_add(*work)
    }
}

impl std::fmt::Debug for CpuDevice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CpuDevice")
            .field("threads", &self.threads())
            .field("settings", &self.settings)
            .finish()
    }
}

impl Device for CpuDevice {
    fn name(&self) -> &str {
        "cpu"
    }

    fn load(&self, program: &Program) -> Result<Box<dyn Executable>, DeviceError> {
        Ok(Box::new(self.load_cpu(program)?))
    }

    fn settings(&self) -> Vec<(&'static str, String)> {
        let mut settings =
            vec![("threads", self.threads().to_string()), ("instructions", self.level().name().to_owned())];
        if !self.settings.winograd {
            settings.push(("winograd", "off".to_owned()));
        }
        if self.tuning.is_some() {
            settings.push(("tune", "on".to_owned()));
        }
        settings
    }

    fn limits(&self) -> Option<Limits> {
        Some(CpuDevice::limits(self))
    }
}

/// What a kernel computes with.
pub struct Machine<'a> {
    /// The threads.
    pub pool: &'a Pool,
    /// The level of the processor.
    pub level: Level,
    /// Its products.
    pub gemm: Gemm,
    scratch: &'a [Mutex<Region>],
    /// Registers and running sums of tile programs.
    tiles: &'a [Mutex<(Region, Region)>],
    shared: &'a mut [f32],
    partials: &'a mut [f64],
}

impl Machine<'_> {
    /// Lends the scratch memory of a worker.
    pub fn with_scratch<R>(&self, worker: usize, f: impl FnOnce(&mut [f32]) -> R) -> R {
        // A worker runs one task at a time, so nobody waits here; what a panic left behind is overwritten.
        let mut region = self.scratch[worker].lock().unwrap_or_else(PoisonError::into_inner);
        f(region.floats())
    }

    /// Lends a worker's registers and running sums of tile programs, apart from its scratch memory.
    pub fn with_tile_scratch<R>(&self, worker: usize, f: impl FnOnce(&mut [f32], &mut [f64]) -> R) -> R {
        let mut regions = self.tiles[worker].lock().unwrap_or_else(PoisonError::into_inner);
        let (registers, sums) = &mut *regions;
        f(registers.floats(), sums.doubles())
    }

    /// Takes `n` elements that all tasks of a launch share; none are left.
    pub fn with_shared(&mut self, n: usize) -> (Machine<'_>, &mut [f32]) {
        let Machine { pool, level, gemm, scratch, tiles, .. } = *self;
        let machine = Machine { pool, level, gemm, scratch, tiles, shared: &mut [], partials: &mut [] };
        (machine, &mut self.shared[..n])
    }

    /// Takes `n` partial sums; none are left, and what tasks share is as before.
    pub fn with_partials(&mut self, n: usize) -> (Machine<'_>, &mut [f64]) {
        let Machine { pool, level, gemm, scratch, tiles, .. } = *self;
        let shared = &mut *self.shared;
        (Machine { pool, level, gemm, scratch, tiles, shared, partials: &mut [] }, &mut self.partials[..n])
    }
}

/// A program on the CPU, with its memory.
#[derive(Debug)]
pub struct CpuExecutable {
    program: Program,
    kernels: Vec<Kernel>,
    device: CpuDevice,
    arena: Region,
    persistent: Region,
    scratch: Vec<Mutex<Region>>,
    tiles: Vec<Mutex<(Region, Region)>>,
    shared: Region,
    partials: Region,
    work: Region,
}

impl CpuExecutable {
    /// The region of a buffer, its offset there and its elements, if it takes `len` elements of that type.
    fn find(
        &self,
        name: &str,
        found: Option<BufferId>,
        dtype: DType,
        len: usize,
    ) -> Result<(&Region, usize), DeviceError> {
        let Some(b) = found else {
            return Err(DeviceError::UnknownName { name: name.to_owned() });
        };
        let buffer = self.program.buffer(b);
        if buffer.ty.dtype != dtype || buffer.ty.elements() != len || !buffer.ty.is_row_major() {
            let got = format!("{len} elements of {}, row-major", dtype.as_str());
            return Err(DeviceError::Mismatch {
                name: name.to_owned(),
                expected: buffer.ty.to_string(),
                got,
            });
        }
        Ok(match buffer.place {
            Place::Arena { offset } => (&self.arena, offset),
            Place::Persistent { offset } => (&self.persistent, offset),
        })
    }

    fn persistent(&self, name: &str) -> Option<BufferId> {
        self.program.persistent.get(name).map(|p| p.buffer)
    }

    fn write<T: Copy>(&mut self, name: &str, dtype: DType, data: &[T]) -> Result<(), DeviceError> {
        let found = self.program.inputs.get(name).copied().or_else(|| self.persistent(name));
        let (region, offset) = self.find(name, found, dtype, data.len())?;
        // SAFETY: `self` is borrowed exclusively, so no other view exists; T is the buffer's element type, f32 or i64.
        unsafe { region.view_mut::<T>(offset, data.len()) }.copy_from_slice(data);
        Ok(())
    }
}

impl Executable for CpuExecutable {
    fn program(&self) -> &Program {
        &self.program
    }

    fn write_f32(&mut self, name: &str, data: &[f32]) -> Result<(), DeviceError> {
        self.write(name, DType::F32, data)
    }

    fn write_i64(&mut self, name: &str, data: &[i64]) -> Result<(), DeviceError> {
        self.write(name, DType::I64, data)
    }

    fn read_f32(&self, name: &str, data: &mut [f32]) -> Result<(), DeviceError> {
        let found = self.program.outputs.get(name).copied().or_else(|| self.persistent(name));
        let (region, offset) = self.find(name, found, DType::F32, data.len())?;
        // SAFETY: writing needs `&mut self`, so nothing writes now; the buffer holds f32.
        data.copy_from_slice(unsafe { region.view::<f32>(offset, data.len()) });
        Ok(())
    }

    fn run(&mut self) -> Result<(), DeviceError> {
        self.run_some(0..self.kernels.len())
    }

    fn run_timed(&mut self, seconds: &mut [f64]) -> Result<bool, DeviceError> {
        for (launch, seconds) in seconds.iter_mut().enumerate() {
            let start = Instant::now();
            self.run_some(launch..launch + 1)?;
            *seconds += start.elapsed().as_secs_f64();
        }
        Ok(true)
    }

    fn methods(&self) -> Option<Vec<String>> {
        let named = |methods: Vec<(Direction, Method)>| {
            let mut names: Vec<&str> = methods.iter().map(|m| m.1.name()).collect();
            names.dedup();
            names.join("+")
        };
        Some(CpuExecutable::methods(self).map(named).collect())
    }
}

impl CpuExecutable {
    /// The convolutions of every launch, and how they are computed.
    pub fn methods(&self) -> impl Iterator<Item = Vec<(Direction, Method)>> {
        self.kernels.iter().map(Kernel::methods)
    }

    /// Runs some launches of the step.
    pub(crate) fn run_some(&mut self, launches: Range<usize>) -> Result<(), DeviceError> {
        let CpuExecutable {
            kernels, device, arena, persistent, scratch, tiles, shared, partials, work, ..
        } = self;
        let mut machine = Machine {
            pool: &device.pool,
            level: device.settings.level,
            gemm: Gemm::new(device.settings.level),
            scratch,
            tiles,
            shared: shared.floats(),
            partials: partials.doubles(),
        };
        let memory = Memory { arena, persistent, work };
        kernels[launches].iter().try_for_each(|kernel| kernel.run(&mut machine, memory))
    }

    /// Runs one launch of the step on what its operands hold.
    ///
    /// # Errors
    ///
    /// As [`Executable::run`].
    #[doc(hidden)]
    pub fn run_launch(&mut self, launch: usize) -> Result<(), DeviceError> {
        self.run_some(launch..launch + 1)
    }

    /// Runs one step, and after every launch overwrites with NaN what nobody may read any more: a step whose plan gives
    /// memory away too early ends with other numbers than [`Executable::run`].
    ///
    /// # Errors
    ///
    /// As [`Executable::run`].
    #[doc(hidden)]
    pub fn run_poisoned(&mut self) -> Result<(), DeviceError> {
        for (i, freed) in freed_after(&self.program).iter().enumerate() {
            self.run_some(i..i + 1)?;
            for &(offset, len) in freed {
                self.arena.floats()[offset / 4..(offset + len).div_ceil(4)].fill(f32::NAN);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
impl Machine<'_> {
    /// Calls `f` with a machine of that level and so many threads, whose workspace is `need` and holds no numbers.
    pub fn testing<R>(level: Level, threads: usize, need: Need, f: impl FnOnce(&mut Machine<'_>) -> R) -> R {
        let pool = Pool::new(threads).expect("threads start");
        let region = |bytes: usize| {
            let mut region = Region::new(bytes, 0).expect("memory");
            region.floats().fill(f32::NAN);
            region
        };
        let scratch: Vec<Mutex<Region>> =
            (0..threads).map(|_| Mutex::new(region(need.scratch * 4))).collect();
        let tiles: Vec<Mutex<(Region, Region)>> =
            (0..threads).map(|_| Mutex::new((region(need.tile * 4), region(need.sums * 8)))).collect();
        let (mut shared, mut partials) = (vec![f32::NAN; need.shared], vec![f64::NAN; need.partials]);
        f(&mut Machine {
            pool: &pool,
            level,
            gemm: Gemm::new(level),
            scratch: &scratch,
            tiles: &tiles,
            shared: &mut shared,
            partials: &mut partials,
        })
    }
}
