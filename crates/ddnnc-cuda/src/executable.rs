//! A program on the device: its memory, its inputs and outputs, and the step as one CUDA graph.

use crate::driver::{Context, DeviceMemory, Event, Function, Graph, Pinned, Stream, check};
use crate::layout::{Addresses, MemoryPlan};
use crate::module::Module;
use crate::staging::Staging;
use ddnnc_ir::DType;
use ddnnc_passes::{BufferId, DeviceError, Executable, Place, Program};
use indexmap::IndexMap;
use std::cell::RefCell;
use std::sync::Arc;

/// What a call of a kernel needs; parameters are addresses.
#[derive(Debug)]
pub struct Call {
    /// The launch that it belongs to, for messages.
    pub launch: usize,
    /// The kernel.
    pub function: Function,
    /// Its name, for messages.
    pub name: String,
    /// Blocks.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub block: u32,
    /// Bytes of dynamic shared memory.
    pub shared: u32,
    /// How the kernel's work is cut; may be empty.
    pub choice: String,
    /// The addresses.
    pub parameters: Vec<u64>,
}

/// How a program came onto the device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LoadReport {
    /// Launches of the program.
    pub launches: usize,
    /// Calls of kernels in a step.
    pub calls: usize,
    /// Kernels whose texts differ.
    pub kernels: usize,
    /// Those of them that NVRTC compiled, now.
    pub compiled: usize,
    /// Those that the cache on disk had; the rest were on the device already.
    pub cached: usize,
    /// Whether the driver compiled PTX, rather than taking machine code.
    pub ptx: bool,
    /// Bytes on the device.
    pub memory: MemoryPlan,
    /// Milliseconds from the program to the loaded step.
    pub milliseconds: u64,
}

/// Outputs of at most this many bytes come to the host with every step; others when they are asked for.
const SMALL_OUTPUT: usize = 64 << 10;

/// Page-locked memory that other reads and writes pass through, a piece at a time.
const BOUNCE_BYTES: usize = 4 << 20;

/// A program on the device.
#[derive(Debug)]
pub struct CudaExecutable {
    program: Program,
    report: LoadReport,
    /// The step's calls.
    calls: Vec<Call>,
    /// The same, captured; `None` where a step makes them one by one and waits for each, so that a failure names its launch.
    graph: Option<Graph>,
    staging: Staging,
    /// Outputs that come to `small` with every step, by name.
    small_outputs: IndexMap<String, SmallOutput>,
    small: Pinned,
    bounce: RefCell<Pinned>,
    /// The last step has ended.
    done: Event,
    /// Before the first call and behind every one, for steps that are timed; made when the first of them is.
    moments: Vec<Event>,
    compute: Stream,
    addresses: Addresses,
    _memory: DeviceMemory,
    /// The kernels' code, which the step needs.
    _modules: Vec<Arc<Module>>,
    context: Arc<Context>,
}

/// An output and its place in page-locked memory.
#[derive(Clone, Copy, Debug)]
struct SmallOutput {
    /// Where it lies on the device.
    address: u64,
    bytes: usize,
    /// Where it lies in the memory of small outputs.
    offset: usize,
}

/// What makes an executable.
pub struct Parts {
    /// The program.
    pub program: Program,
    /// Where its parts lie in `memory`.
    pub addresses: Addresses,
    /// All its memory.
    pub memory: DeviceMemory,
    /// The code of the calls.
    pub modules: Vec<Arc<Module>>,
    /// The step.
    pub calls: Vec<Call>,
    /// Whether calls are made one by one.
    pub stepwise: bool,
    /// Whether arena and workspace begin as NaN.
    pub poison: bool,
    /// How it was loaded so far.
    pub report: LoadReport,
}

impl CudaExecutable {
    /// Clears persistent buffers and counters, and captures the step.
    pub fn new(context: &Arc<Context>, parts: Parts) -> Result<CudaExecutable, DeviceError> {
        let Parts { program, addresses, memory, modules, calls, stepwise, poison, report } = parts;
        let compute = Stream::new(context)?;
        // SAFETY: all lie in `memory`, and the stream is waited for below.
        unsafe {
            compute.fill(addresses.persistent, 0, report.memory.persistent)?;
            compute.fill(addresses.counters, 0, report.memory.counters)?;
            if poison {
                compute.fill(addresses.arena, 0xff, report.memory.arena)?;
                compute.fill(addresses.workspace, 0xff, report.memory.workspace)?;
            }
        }
        compute.wait()?;
        let (mut small_outputs, mut small_bytes) = (IndexMap::new(), 0);
        for (name, &id) in &program.outputs {
            let buffer = program.buffer(id);
            let (bytes, in_arena) = (buffer.ty.bytes(), matches!(buffer.place, Place::Arena { .. }));
            // A step that is made call by call is for faults: what it gives is read when it is asked for.
            if in_arena && bytes <= SMALL_OUTPUT && !stepwise {
                let address = addresses.buffer(&program, id);
                small_outputs.insert(name.clone(), SmallOutput { address, bytes, offset: small_bytes });
                small_bytes += bytes.next_multiple_of(64);
            }
        }
        let small = Pinned::new(context, small_bytes)?;
        let mut calls = calls;
        let mut capture = || {
            compute.capture(|| {
                calls.iter_mut().try_for_each(|call| queue(&compute, &program, call))?;
                copy_small(&compute, &small, &small_outputs)
            })
        };
        let graph = if stepwise { None } else { Some(capture()?) };
        Ok(CudaExecutable {
            staging: Staging::new(context, &program, &addresses)?,
            bounce: RefCell::new(Pinned::new(context, BOUNCE_BYTES)?),
            done: Event::new(context)?,
            moments: Vec::new(),
            program,
            report,
            calls,
            graph,
            small_outputs,
            small,
            compute,
            addresses,
            _memory: memory,
            _modules: modules,
            context: Arc::clone(context),
        })
    }

    /// How it was loaded.
    pub fn report(&self) -> &LoadReport {
        &self.report
    }

    /// The buffer, if it takes `len` elements of that type.
    fn fitting(
        &self,
        name: &str,
        found: Option<BufferId>,
        dtype: DType,
        len: usize,
    ) -> Result<BufferId, DeviceError> {
        let id = found.ok_or_else(|| DeviceError::UnknownName { name: name.to_owned() })?;
        let ty = &self.program.buffer(id).ty;
        if ty.dtype != dtype || ty.elements() != len || !ty.is_row_major() {
            let got = format!("{len} elements of {}, row-major", dtype.as_str());
            return Err(DeviceError::Mismatch { name: name.to_owned(), expected: ty.to_string(), got });
        }
        Ok(id)
    }

    fn persistent(&self, name: &str) -> Option<BufferId> {
        self.program.persistent.get(name).map(|p| p.buffer)
    }

    fn write(&mut self, name: &str, dtype: DType, len: usize, data: &[u8]) -> Result<(), DeviceError> {
        let input = self.program.inputs.get(name).copied();
        let id = self.fitting(name, input.or_else(|| self.persistent(name)), dtype, len)?;
        self.context.bind()?;
        if input.is_some() {
            return self.staging.write(name, data);
        }
        let to = self.addresses.buffer(&self.program, id);
        let bounce = self.bounce.get_mut();
        let piece = bounce.bytes();
        for (i, data) in data.chunks(piece).enumerate() {
            bounce.write(0, data);
            // SAFETY: the buffer lies in the executable's memory, and the copy is waited for at once. It is queued
            // behind the step, which reads the buffer.
            unsafe { self.compute.copy_in(to + (i * piece) as u64, bounce, 0, data.len()) }?;
            self.compute.wait()?;
        }
        Ok(())
    }

    fn read(&self, name: &str, id: BufferId, data: &mut [u8]) -> Result<(), DeviceError> {
        self.context.bind()?;
        if let Some(output) = self.small_outputs.get(name) {
            self.done.wait()?;
            self.small.read(output.offset, data);
            return Ok(());
        }
        let from = self.addresses.buffer(&self.program, id);
        let bounce = self.bounce.borrow_mut();
        let piece = bounce.bytes();
        for (i, data) in data.chunks_mut(piece).enumerate() {
            // SAFETY: as in `write`.
            unsafe { self.compute.copy_out(&bounce, 0, from + (i * piece) as u64, data.len()) }?;
            self.compute.wait()?;
            bounce.read(0, data);
        }
        Ok(())
    }
}

/// Queues the copies of small outputs behind the step that makes them.
fn copy_small(
    stream: &Stream,
    small: &Pinned,
    outputs: &IndexMap<String, SmallOutput>,
) -> Result<(), DeviceError> {
    outputs.values().try_for_each(|output| {
        // SAFETY: the executable owns both and waits for its stream before it lets go of them; a read waits for `done`,
        // which comes after the copies.
        unsafe { stream.copy_out(small, output.offset, output.address, output.bytes) }
    })
}

/// Queues a call on a stream.
fn queue(stream: &Stream, program: &Program, call: &mut Call) -> Result<(), DeviceError> {
    // SAFETY: emission gives the parameters that the kernel takes, all in the executable's memory, which like the modules
    // outlives the step.
    let queued =
        unsafe { stream.launch(call.function, call.grid, call.block, call.shared, &mut call.parameters) };
    match queued {
        Ok(()) => Ok(()),
        Err(_) => check(&format!("starting {}", described(program, call)), queued),
    }
}

/// `kernel gemm of launch 12 (conv2d @ full.s1)`
fn described(program: &Program, call: &Call) -> String {
    let launch = program.launches.get(call.launch);
    let path = launch.map_or(String::new(), |l| format!(" ({} @ {})", l.op.mnemonic(), l.path));
    format!("kernel `{}` of launch {}{path}", call.name, call.launch)
}

/// The bytes of numbers, as the device holds them.
fn bytes_of<T: Number>(data: &[T]) -> &[u8] {
    // SAFETY: f32 and i64 have no padding, and every byte may be read.
    unsafe { std::slice::from_raw_parts(data.as_ptr().cast(), size_of_val(data)) }
}

fn bytes_of_mut(data: &mut [f32]) -> &mut [u8] {
    // SAFETY: as above; every pattern of bits is an f32.
    unsafe { std::slice::from_raw_parts_mut(data.as_mut_ptr().cast(), size_of_val(data)) }
}

/// Numbers without padding.
trait Number {}
impl Number for f32 {}
impl Number for i64 {}

impl Executable for CudaExecutable {
    fn program(&self) -> &Program {
        &self.program
    }

    fn write_f32(&mut self, name: &str, data: &[f32]) -> Result<(), DeviceError> {
        self.write(name, DType::F32, data.len(), bytes_of(data))
    }

    fn write_i64(&mut self, name: &str, data: &[i64]) -> Result<(), DeviceError> {
        self.write(name, DType::I64, data.len(), bytes_of(data))
    }

    fn read_f32(&self, name: &str, data: &mut [f32]) -> Result<(), DeviceError> {
        let found = self.program.outputs.get(name).copied().or_else(|| self.persistent(name));
        let id = self.fitting(name, found, DType::F32, data.len())?;
        self.read(name, id, bytes_of_mut(data))
    }

    /// Begins the step and returns; reading waits for it.
    fn run(&mut self) -> Result<(), DeviceError> {
        self.context.bind()?;
        self.staging.take(&self.compute)?;
        if let Some(graph) = &self.graph {
            // SAFETY: the executable owns what the graph was captured with, and waits before it lets go of it.
            unsafe { self.compute.replay(graph) }?;
        } else {
            for call in &mut self.calls {
                queue(&self.compute, &self.program, call)?;
                self.compute.wait().map_err(|error| {
                    DeviceError::Failed(format!("{}: {error}", described(&self.program, call)))
                })?;
            }
        }
        self.done.record(&self.compute)
    }

    /// Makes the calls one after the other with a moment between launches, where `run` replays them as one graph. Where
    /// kernels are shorter than the driver takes to start one, that time is in them.
    fn run_timed(&mut self, seconds: &mut [f64]) -> Result<bool, DeviceError> {
        self.context.bind()?;
        while self.moments.len() <= self.report.launches {
            self.moments.push(Event::timed(&self.context)?);
        }
        self.staging.take(&self.compute)?;
        self.moments[0].record(&self.compute)?;
        let mut calls = self.calls.iter_mut().peekable();
        for launch in 0..self.report.launches {
            while let Some(call) = calls.next_if(|call| call.launch == launch) {
                queue(&self.compute, &self.program, call)?;
            }
            self.moments[launch + 1].record(&self.compute)?;
        }
        copy_small(&self.compute, &self.small, &self.small_outputs)?;
        self.done.record(&self.compute)?;
        self.done.wait()?;
        for (pair, seconds) in self.moments.windows(2).zip(seconds) {
            *seconds += pair[1].seconds_since(&pair[0])?;
        }
        Ok(true)
    }

    /// The tiles of matrix products: `128x64x32`.
    fn methods(&self) -> Option<Vec<String>> {
        let mut methods = vec![String::new(); self.report.launches];
        for call in &self.calls {
            if let Some(tile) = call.choice.strip_prefix("tile ") {
                methods[call.launch] = tile.split(',').next().unwrap_or_default().to_owned();
            }
        }
        Some(methods)
    }

    fn inputs_wait_apart(&self) -> bool {
        true
    }
}

impl Drop for CudaExecutable {
    fn drop(&mut self) {
        // The graph's memory and code go after it; a failure here is one that the step has reported already.
        let _ = self.context.bind().and_then(|()| self.compute.wait()).and_then(|()| self.staging.wait());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::{CudaDevice, CudaOptions};
    use ddnnc_ir::Op;

    /// A planted fault: the graph holds the addresses of memory that has been given back.
    #[test]
    fn a_graph_with_stale_addresses_is_seen() {
        ddnnc_emu::install().expect("the emulator's library");
        let device = CudaDevice::open(CudaOptions { cache: None, lines: true, ..CudaOptions::default() })
            .expect("a device");
        // No inputs, so that the graph's own accesses are all that a run makes.
        let program = ddnnc_cases::case(Op::Constant { value: 0.1 }, &[]).program(&[]);
        let mut step = device.load_cuda(&program).expect("a step");
        let mut y = vec![0.0; program.buffer(program.outputs["y0"]).ty.elements()];
        step.run().and_then(|()| step.read_f32("y0", &mut y)).expect("a run");
        assert!(y.iter().all(|v| *v == 0.1), "{y:?}");

        step._memory = DeviceMemory::new(&step.context, 1).expect("other memory");
        let error = step.run().and_then(|()| step.read_f32("y0", &mut y)).expect_err("memory that is gone");
        assert!(error.to_string().contains("CUDA_ERROR_ILLEGAL_ADDRESS"), "{error}");
        let fault = ddnnc_emu::last_fault().expect("a fault");
        assert!(fault.contains("access out of bounds in kernel"), "{fault}");
        let line = fault.lines().last().expect("a line");
        assert!(line.contains(" | ") && line.contains("r0[e] = from_float<float>("), "{fault}");
    }
}
