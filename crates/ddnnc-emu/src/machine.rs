//! The machine: global memory, and kernels that run on it.

use std::sync::atomic::AtomicU64;

use crate::block::Launch;
use crate::fault::Fault;
use crate::grid;
use crate::inst::{Module, Space};
use crate::memory::GlobalMemory;
use crate::order::Order;
use crate::program::{Program, prepare};

/// What to check and how to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Whose turn it is.
    pub order: Order,
    /// Report accesses to shared memory by different threads, one of them a write, with no barrier between them.
    pub races: bool,
    /// Report reads of global memory that nothing has written since it was allocated.
    pub uninitialised: bool,
    /// Threads of the host over which blocks are spread; 1 where races or a random order are asked for gives the same
    /// report each time.
    pub threads: usize,
    /// Instructions a warp may execute in a launch before it counts as hung.
    pub fuel: u64,
}

impl Default for Options {
    fn default() -> Options {
        Options { order: Order::Forward, races: true, uninitialised: false, threads: 1, fuel: 1 << 34 }
    }
}

/// What a device of that kind has; what `cuDeviceGetAttribute` tells and launches are checked against.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Properties {
    /// As it calls itself.
    pub name: String,
    /// 80 for sm_80.
    pub arch: u32,
    /// Streaming multiprocessors.
    pub multiprocessors: u32,
    /// Bytes of global memory.
    pub memory: u64,
    /// Bytes of shared memory a block may have (opt-in limit).
    pub shared_per_block: u32,
    /// Bytes of shared memory of a multiprocessor.
    pub shared_per_multiprocessor: u32,
}

impl Default for Properties {
    /// An H100 SXM, as NVIDIA's data sheet describes it.
    fn default() -> Properties {
        Properties {
            name: "ddnnc-emu sm_90".to_owned(),
            arch: 90,
            multiprocessors: 132,
            memory: 16 << 30,
            shared_per_block: 227 << 10,
            shared_per_multiprocessor: 228 << 10,
        }
    }
}

/// What a launch did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LaunchReport {
    /// Instructions times active lanes.
    pub thread_instructions: u64,
    /// Instructions of warps.
    pub warp_instructions: u64,
    /// Matrix instructions of warps.
    pub matrix_instructions: u64,
    /// Bytes read from global memory by loads and cp.async.
    pub global_read: u64,
    /// Bytes written to global memory.
    pub global_written: u64,
}

impl LaunchReport {
    /// Adds what another launch, or part of this one, did.
    pub fn add(&mut self, other: &LaunchReport) {
        self.thread_instructions += other.thread_instructions;
        self.warp_instructions += other.warp_instructions;
        self.matrix_instructions += other.matrix_instructions;
        self.global_read += other.global_read;
        self.global_written += other.global_written;
    }
}

/// Global memory and the rules for running on it. Kernels of different launches run one after the other.
pub struct Machine {
    properties: Properties,
    options: Options,
    memory: GlobalMemory,
    modules: Vec<Option<Loaded>>,
}

struct Loaded {
    module: Module,
    /// One per kernel, in the module's order.
    programs: Vec<Program>,
    /// Of the module's variables; 0 where a variable has no place of its own.
    addresses: Vec<u64>,
}

impl Machine {
    /// A device with nothing allocated.
    pub fn new(properties: Properties, options: Options) -> Machine {
        let memory = GlobalMemory::new(properties.memory);
        Machine { properties, options, memory, modules: Vec::new() }
    }

    /// Its properties.
    pub fn properties(&self) -> &Properties {
        &self.properties
    }

    /// How it runs.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// Changes how it runs. Memory allocated while `uninitialised` is off counts as written for ever.
    pub fn set_options(&mut self, options: Options) {
        self.options = options;
    }

    /// Allocates global memory, aligned to 512 bytes, with a gap behind it that no allocation uses; `None` where the
    /// device has not that much. No address is used twice, so that accesses to freed memory are faults.
    pub fn alloc(&mut self, bytes: u64) -> Option<u64> {
        self.memory.alloc(bytes, self.options.uninitialised)
    }

    /// Frees an allocation; false where none begins there.
    pub fn free(&mut self, address: u64) -> bool {
        self.memory.free(address)
    }

    /// Base and bytes of the allocation that an address lies in.
    pub fn allocation(&self, address: u64) -> Option<(u64, u64)> {
        self.memory.allocation(address)
    }

    /// Bytes not allocated.
    pub fn free_bytes(&self) -> u64 {
        self.memory.free_bytes()
    }

    /// Copies to global memory.
    ///
    /// # Errors
    ///
    /// A sentence where the range is not inside one allocation.
    pub fn write(&mut self, address: u64, data: &[u8]) -> Result<(), String> {
        self.memory.write(address, data)
    }

    /// Copies from global memory. What nothing has written reads as poison: a NaN in every floating-point type.
    ///
    /// # Errors
    ///
    /// A sentence where the range is not inside one allocation.
    pub fn read(&self, address: u64, data: &mut [u8]) -> Result<(), String> {
        self.memory.read(address, data)
    }

    /// Copies within global memory; the ranges may overlap.
    ///
    /// # Errors
    ///
    /// As for [`Machine::write`].
    pub fn copy(&mut self, to: u64, from: u64, bytes: u64) -> Result<(), String> {
        self.memory.copy(to, from, bytes)
    }

    /// Makes a module's `.global` and `.const` variables; gives its handle.
    ///
    /// # Errors
    ///
    /// A sentence where memory lacks, where the module is for a newer device, or where a kernel cannot run.
    pub fn load(&mut self, module: Module) -> Result<ModuleId, String> {
        if !module.runs_on(self.properties.arch) {
            let arch = self.properties.arch;
            return Err(format!("a module for {} on a device of sm_{arch}", module.target_name()));
        }
        let mut addresses = Vec::with_capacity(module.variables.len());
        let files = module.files.clone().into();
        let made = self
            .make_variables(&module, &mut addresses)
            .and_then(|()| module.kernels.iter().map(|k| prepare(k, &module, &files, &addresses)).collect());
        match made {
            Ok(programs) => {
                self.modules.push(Some(Loaded { module, programs, addresses }));
                Ok(ModuleId(self.modules.len() as u32 - 1))
            }
            Err(message) => {
                addresses.into_iter().filter(|a| *a != 0).for_each(|a| {
                    self.free(a);
                });
                Err(message)
            }
        }
    }

    fn make_variables(&mut self, module: &Module, addresses: &mut Vec<u64>) -> Result<(), String> {
        for v in &module.variables {
            if !matches!(v.space, Space::Global | Space::Const) {
                addresses.push(0);
                continue;
            }
            let missing = || format!("no memory for the {} bytes of `{}`", v.bytes, v.name);
            let address = self.alloc(v.bytes).ok_or_else(missing)?;
            addresses.push(address);
            let mut content = v.init.clone();
            content.resize(v.bytes as usize, 0);
            self.write(address, &content)?;
        }
        Ok(())
    }

    /// Frees a module's variables.
    pub fn unload(&mut self, module: ModuleId) {
        let Some(loaded) = self.modules.get_mut(module.0 as usize).and_then(Option::take) else { return };
        for address in loaded.addresses.into_iter().filter(|a| *a != 0) {
            self.free(address);
        }
    }

    fn loaded(&self, module: ModuleId) -> Option<&Loaded> {
        self.modules.get(module.0 as usize)?.as_ref()
    }

    /// A loaded module.
    ///
    /// # Panics
    ///
    /// If the module was unloaded, or is another machine's.
    pub fn module(&self, module: ModuleId) -> &Module {
        match self.loaded(module) {
            Some(loaded) => &loaded.module,
            None => panic!("{module:?} is not loaded"),
        }
    }

    /// Address and bytes of a module's variable.
    pub fn variable(&self, module: ModuleId, name: &str) -> Option<(u64, u64)> {
        let loaded = self.loaded(module)?;
        let at = loaded.module.variables.iter().position(|v| v.name == name)?;
        let address = loaded.addresses[at];
        (address != 0).then(|| (address, loaded.module.variables[at].bytes))
    }

    /// Bytes of static shared memory of a kernel, as far as where dynamic shared memory begins.
    pub fn static_shared(&self, module: ModuleId, kernel: &str) -> Option<u32> {
        self.program(module, kernel).map(|p| p.static_shared)
    }

    /// Bytes of local memory of each thread of a kernel.
    pub fn local_bytes(&self, module: ModuleId, kernel: &str) -> Option<u64> {
        self.program(module, kernel).map(|p| p.local_bytes)
    }

    fn program(&self, module: ModuleId, kernel: &str) -> Option<&Program> {
        self.loaded(module)?.programs.iter().find(|p| p.name == kernel)
    }

    /// Whether a launch is possible, without doing it.
    ///
    /// # Errors
    ///
    /// A fault of kind [`crate::FaultKind::Launch`].
    pub fn check(
        &self,
        module: ModuleId,
        kernel: &str,
        grid: [u32; 3],
        block: [u32; 3],
        dynamic_shared: u32,
        param_bytes: u64,
    ) -> Result<(), Fault> {
        let Some(program) = self.program(module, kernel) else {
            return Err(grid::refused(kernel, "no loaded module has it".to_owned()));
        };
        grid::check(program, &self.properties, grid, block, dynamic_shared, param_bytes)
            .map_err(|message| grid::refused(kernel, message))
    }

    /// Runs a kernel to its end. `params` is the parameter block: each parameter at its aligned offset.
    ///
    /// # Errors
    ///
    /// The first fault.
    pub fn launch(
        &mut self,
        module: ModuleId,
        kernel: &str,
        grid: [u32; 3],
        block: [u32; 3],
        dynamic_shared: u32,
        params: &[u8],
    ) -> Result<LaunchReport, Fault> {
        self.check(module, kernel, grid, block, dynamic_shared, params.len() as u64)?;
        let Some(program) = self.program(module, kernel) else {
            return Err(grid::refused(kernel, "no loaded module has it".to_owned()));
        };
        // Whole words, so that every parameter can be read at its own width.
        let words = params.chunks(8).map(|chunk| {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            AtomicU64::new(u64::from_ne_bytes(word))
        });
        let params: Vec<AtomicU64> = words.collect();
        grid::run(&Launch {
            program,
            memory: &self.memory,
            options: &self.options,
            grid,
            block,
            params: &params,
            dynamic_shared,
            multiprocessors: self.properties.multiprocessors,
        })
    }
}

/// A loaded module of a [`Machine`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ModuleId(pub u32);
