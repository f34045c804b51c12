//! Programs on the emulator's machine, without a driver: what shows a kernel's fault most directly.
#![allow(dead_code)]

pub mod agree;
pub mod compare;

use ddnnc_cuda::arch::{Arch, Target};
use ddnnc_cuda::code::{Argument, LaunchCode};
use ddnnc_cuda::emit::emit_launch;
use ddnnc_cuda::nvrtc::{self, Output};
use ddnnc_cuda::{CudaDevice, CudaOptions};
use ddnnc_emu::{Machine, ModuleId, Options, Order, Properties};
use ddnnc_passes::{Buffer, BufferId, Device, DeviceError, Executable, Place, Program};
use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Mutex, OnceLock};

/// Runs programs on the emulator, kernel by kernel.
pub struct EmulatedDevice {
    pub target: Target,
    pub options: Options,
}

impl EmulatedDevice {
    /// Every check on, warps in that order.
    pub fn new(order: Order) -> EmulatedDevice {
        EmulatedDevice {
            target: Target::new(Arch(80)),
            options: Options { order, uninitialised: true, ..Options::default() },
        }
    }

    /// Forward, reverse and three random orders; twice the same where a card has its own.
    pub fn orders() -> Vec<EmulatedDevice> {
        if on_gpu() {
            return [Order::Forward, Order::Forward].map(EmulatedDevice::new).into();
        }
        [Order::Forward, Order::Reverse, Order::Random(1), Order::Random(2), Order::Random(3)]
            .map(EmulatedDevice::new)
            .into()
    }
}

/// PTX of a kernel; each text is compiled once in a process.
pub fn ptx(name: &str, source: &str, arch: Arch) -> String {
    static CACHE: OnceLock<Mutex<HashMap<(String, Arch), String>>> = OnceLock::new();
    let cache = CACHE.get_or_init(Default::default);
    let key = (source.to_owned(), arch);
    if let Some(ptx) = cache.lock().expect("no panic while locked").get(&key) {
        return ptx.clone();
    }
    let binary = nvrtc::compile(name, source, arch, Output::PtxWithLines)
        .unwrap_or_else(|e| panic!("{e}\n(`bash .ci/nvrtc` installs NVRTC for the tests)"));
    let text = String::from_utf8_lossy(&binary.bytes).trim_end_matches('\0').to_owned();
    cache.lock().expect("no panic while locked").insert(key, text.clone());
    text
}

/// Whether cases run on the machine's GPU instead of the emulator: `DDNNC_TEST_GPU=1`.
pub fn on_gpu() -> bool {
    std::env::var_os("DDNNC_TEST_GPU").is_some_and(|v| v == "1")
}

/// The machine's GPU. One device is kept to the end of the process, so that the driver makes its context once.
fn gpu(options: CudaOptions) -> CudaDevice {
    static FIRST: OnceLock<CudaDevice> = OnceLock::new();
    let open = |options| CudaDevice::open(options).expect("DDNNC_TEST_GPU=1 needs a GPU and NVRTC");
    FIRST.get_or_init(|| open(CudaOptions::default()));
    open(CudaOptions { poison: true, threads: 1, ..options })
}

impl Device for EmulatedDevice {
    fn name(&self) -> &str {
        if on_gpu() { "cuda" } else { "emulated" }
    }

    /// What no kernel has written is NaN, here as there.
    fn load(&self, program: &Program) -> Result<Box<dyn Executable>, DeviceError> {
        if on_gpu() {
            let Target { math, tile, .. } = self.target;
            return gpu(CudaOptions { math, tile, ..CudaOptions::default() }).load(program);
        }
        Ok(Box::new(self.load_emulated(program)?))
    }
}

impl EmulatedDevice {
    pub fn load_emulated(&self, program: &Program) -> Result<Emulated, DeviceError> {
        self.load_edited(program, &|_| ())
    }

    /// Loads what emission gives for each launch as `edit` leaves it.
    pub fn load_edited(
        &self,
        program: &Program,
        edit: &dyn Fn(&mut LaunchCode),
    ) -> Result<Emulated, DeviceError> {
        let failed = |e: String| DeviceError::Failed(e);
        let mut codes = Vec::new();
        for launch in &program.launches {
            let mut code = emit_launch(program, launch, &self.target).map_err(|e| failed(e.to_string()))?;
            edit(&mut code);
            codes.push(code);
        }
        let mut machine = Machine::new(Properties::default(), self.options.clone());
        let mut alloc = |bytes: usize| {
            machine.alloc(bytes.max(1) as u64).ok_or(DeviceError::OutOfMemory { needed: bytes })
        };
        let arguments = || codes.iter().flat_map(|code| &code.kernels).flat_map(|kernel| &kernel.arguments);
        let whole = arguments().any(|argument| matches!(argument, Argument::Arena));
        let mut arena = Vec::new();
        let one = std::iter::once(0..program.arena_bytes);
        for values in if whole { one.collect() } else { apart(program) } {
            arena.push((values.start, alloc(values.len())?));
        }
        let persistent = alloc(program.persistent_bytes)?;
        machine.write(persistent, &vec![0; program.persistent_bytes]).map_err(failed)?;
        let mut launches = Vec::new();
        for code in codes {
            let counters = machine.alloc(4 * code.counters.max(1) as u64).expect("small");
            machine.write(counters, &vec![0; 4 * code.counters.max(1)]).map_err(failed)?;
            let mut modules = Vec::new();
            for kernel in &code.kernels {
                let text = ptx(&kernel.name, &kernel.source, self.target.arch);
                let module = ddnnc_emu::parse(&text).map_err(|e| failed(e.to_string()))?;
                modules.push(machine.load(module).map_err(failed)?);
            }
            launches.push(EmulatedLaunch { code, modules, counters });
        }
        let program = program.clone();
        Ok(Emulated { program, machine, arena, persistent, launches })
    }
}

/// The parts of the arena that no value reaches across: what is laid out there apart is allocated apart, so that an access
/// past the end of a value is one out of bounds.
fn apart(program: &Program) -> Vec<Range<usize>> {
    let range = |buffer: &Buffer| match buffer.place {
        Place::Arena { offset } => Some(offset..offset + buffer.ty.bytes()),
        Place::Persistent { .. } => None,
    };
    let mut all: Vec<Range<usize>> = program.buffers.iter().filter_map(range).collect();
    all.sort_by_key(|r| (r.start, r.end));
    let mut parts: Vec<Range<usize>> = Vec::new();
    for r in all {
        match parts.last_mut() {
            Some(last) if r.start < last.end || r.start == last.start => last.end = last.end.max(r.end),
            _ => parts.push(r),
        }
    }
    parts
}

struct EmulatedLaunch {
    code: LaunchCode,
    modules: Vec<ModuleId>,
    counters: u64,
}

/// A program on the emulator.
pub struct Emulated {
    program: Program,
    machine: Machine,
    /// Where parts of the arena begin: offset and address.
    arena: Vec<(usize, u64)>,
    persistent: u64,
    launches: Vec<EmulatedLaunch>,
}

impl Emulated {
    fn address(&self, id: BufferId) -> u64 {
        match self.program.buffer(id).place {
            Place::Arena { offset } => {
                let part = self.arena.partition_point(|&(start, _)| start <= offset) - 1;
                let (start, address) = self.arena[part];
                address + (offset - start) as u64
            }
            Place::Persistent { offset } => self.persistent + offset as u64,
        }
    }

    fn named(&self, name: &str) -> Result<BufferId, DeviceError> {
        self.program.named(name).ok_or_else(|| DeviceError::UnknownName { name: name.to_owned() })
    }
}

impl Executable for Emulated {
    fn program(&self) -> &Program {
        &self.program
    }

    fn write_f32(&mut self, name: &str, data: &[f32]) -> Result<(), DeviceError> {
        let id = self.named(name)?;
        let bytes: Vec<u8> = data.iter().flat_map(|x| x.to_le_bytes()).collect();
        assert_eq!(bytes.len(), self.program.buffer(id).ty.bytes(), "{name}");
        let at = self.address(id);
        self.machine.write(at, &bytes).map_err(DeviceError::Failed)
    }

    fn write_i64(&mut self, name: &str, data: &[i64]) -> Result<(), DeviceError> {
        let id = self.named(name)?;
        let bytes: Vec<u8> = data.iter().flat_map(|x| x.to_le_bytes()).collect();
        assert_eq!(bytes.len(), self.program.buffer(id).ty.bytes(), "{name}");
        let at = self.address(id);
        self.machine.write(at, &bytes).map_err(DeviceError::Failed)
    }

    fn read_f32(&self, name: &str, data: &mut [f32]) -> Result<(), DeviceError> {
        let id = self.named(name)?;
        let mut bytes = vec![0; 4 * data.len()];
        assert_eq!(bytes.len(), self.program.buffer(id).ty.bytes(), "{name}");
        self.machine.read(self.address(id), &mut bytes).map_err(DeviceError::Failed)?;
        for (x, b) in data.iter_mut().zip(bytes.chunks_exact(4)) {
            *x = f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
        }
        Ok(())
    }

    fn run(&mut self) -> Result<(), DeviceError> {
        for i in 0..self.program.launches.len() {
            let (program, launch) = (&self.program.launches[i], &self.launches[i]);
            // Fresh workspace each time: what a launch reads there it has written itself.
            let bytes = launch.code.workspace_bytes.max(1) as u64;
            let workspace = self.machine.alloc(bytes).ok_or(DeviceError::OutOfMemory { needed: 1 })?;
            let launch = &self.launches[i];
            let mut calls = Vec::new();
            for (kernel, &module) in launch.code.kernels.iter().zip(&launch.modules) {
                let address = |argument: &Argument| match *argument {
                    Argument::Operand(o) => self.address(program.operands[o]),
                    Argument::Result(r) => self.address(program.results[r]),
                    Argument::Workspace(offset) => workspace + offset as u64,
                    Argument::Counter(c) => launch.counters + 4 * c as u64,
                    Argument::Arena => self.arena[0].1,
                    Argument::Persistent => self.persistent,
                };
                let params: Vec<u8> =
                    kernel.arguments.iter().flat_map(|a| address(a).to_le_bytes()).collect();
                calls.push((module, kernel.clone(), params));
            }
            for (module, kernel, params) in calls {
                self.machine
                    .launch(
                        module,
                        &kernel.name,
                        kernel.grid,
                        [kernel.block, 1, 1],
                        kernel.dynamic_shared,
                        &params,
                    )
                    .map_err(|fault| DeviceError::Failed(fault.to_string()))?;
            }
            self.machine.free(workspace);
            let launch = &self.launches[i];
            let mut counters = vec![0; 4 * launch.code.counters];
            self.machine.read(launch.counters, &mut counters).map_err(DeviceError::Failed)?;
            if counters.iter().any(|&byte| byte != 0) {
                return Err(DeviceError::Failed(format!("launch {i} leaves counters that are not 0")));
            }
        }
        Ok(())
    }
}
