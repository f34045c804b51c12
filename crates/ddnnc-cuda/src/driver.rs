//! The CUDA driver behind types that free what they hold. Besides this file only `module.rs` calls it.
//!
//! Every object belongs to the device's primary context and keeps it alive; a call first makes that context the thread's
//! own, so that programs may move between threads. The `result` layer of cudarc is used, not its safe one: that one
//! records events of its own on every access, which a stream that is being captured must not wait for.

use cudarc::driver::{result, sys};
use ddnnc_passes::DeviceError;
use std::ffi::{CStr, c_void};
use std::sync::Arc;

/// Whether the loader finds the driver's library. Every other call of this file needs it: without, cudarc panics.
pub fn is_present() -> bool {
    // SAFETY: opening the driver's library runs its initialisers only.
    unsafe { sys::is_culib_present() }
}

/// What the driver calls an error, and what it says of it.
pub fn words(error: result::DriverError) -> String {
    let text = |text: Result<&CStr, result::DriverError>| text.ok().map(|t| t.to_string_lossy().into_owned());
    let name = text(error.error_name()).unwrap_or_else(|| format!("error {}", error.0 as u32));
    match text(error.error_string()) {
        Some(said) => format!("{name} ({said})"),
        None => name,
    }
}

/// A failure of the driver as a sentence that says what was being done.
pub fn check<T>(doing: &str, result: Result<T, result::DriverError>) -> Result<T, DeviceError> {
    result.map_err(|error| DeviceError::Failed(format!("{doing}: the CUDA driver reports {}", words(error))))
}

/// The driver's version: 13000 is 13.0.
pub fn version() -> Result<i32, result::DriverError> {
    let mut version = 0;
    // SAFETY: a place to write to.
    unsafe { sys::cuDriverGetVersion(&mut version) }.result()?;
    Ok(version)
}

/// A device's primary context.
#[derive(Debug)]
pub struct Context {
    device: sys::CUdevice,
    context: sys::CUcontext,
}

// SAFETY: the driver's contexts may be used from every thread.
unsafe impl Send for Context {}
// SAFETY: as above.
unsafe impl Sync for Context {}

impl Context {
    /// Of a device that exists.
    pub fn new(ordinal: i32) -> Result<Arc<Context>, result::DriverError> {
        let device = result::device::get(ordinal)?;
        // SAFETY: a device that the driver has just named.
        let context = unsafe { result::primary_ctx::retain(device) }?;
        let context = Context { device, context };
        // SAFETY: a context that was retained above.
        unsafe { result::ctx::set_current(context.context) }?;
        Ok(Arc::new(context))
    }

    /// Makes the context this thread's.
    pub fn bind(&self) -> Result<(), DeviceError> {
        // SAFETY: the context is retained as long as `self` lives.
        check("the device's context", unsafe { result::ctx::set_current(self.context) })
    }

    /// A number that describes the device.
    pub fn attribute(&self, attribute: sys::CUdevice_attribute) -> Result<i32, result::DriverError> {
        // SAFETY: a device that exists.
        unsafe { result::device::get_attribute(self.device, attribute) }
    }

    /// The device's name.
    pub fn name(&self) -> Result<String, result::DriverError> {
        result::device::get_name(self.device)
    }

    /// Bytes of device memory that are free.
    pub fn free_memory(&self) -> Result<usize, DeviceError> {
        self.bind()?;
        check("asking for free memory", result::mem_get_info()).map(|(free, _)| free)
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: retained once, released once. There is nobody to tell of a failure.
        let _ = unsafe { result::primary_ctx::release(self.device) };
    }
}

/// Memory of the device.
#[derive(Debug)]
pub struct DeviceMemory {
    address: u64,
    context: Arc<Context>,
}

impl DeviceMemory {
    /// `bytes` of it, not initialised.
    pub fn new(context: &Arc<Context>, bytes: usize) -> Result<DeviceMemory, DeviceError> {
        context.bind()?;
        // SAFETY: an allocation touches nothing that exists.
        match unsafe { result::malloc_sync(bytes.max(1)) } {
            Ok(address) => Ok(DeviceMemory { address, context: Arc::clone(context) }),
            Err(result::DriverError(sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY)) => {
                Err(DeviceError::OutOfMemory { needed: bytes })
            }
            Err(error) => check("allocating device memory", Err(error)),
        }
    }

    /// Where it begins.
    pub fn address(&self) -> u64 {
        self.address
    }
}

impl Drop for DeviceMemory {
    fn drop(&mut self) {
        if self.context.bind().is_ok() {
            // SAFETY: allocated once, freed once; who queued work on it has waited for that work.
            let _ = unsafe { result::free_sync(self.address) };
        }
    }
}

/// Page-locked memory of the host, which the device copies from and to on its own.
#[derive(Debug)]
pub struct Pinned {
    start: *mut u8,
    bytes: usize,
    context: Arc<Context>,
}

// SAFETY: plain memory that its owner alone reaches.
unsafe impl Send for Pinned {}

impl Pinned {
    /// `bytes` of it, zeros.
    pub fn new(context: &Arc<Context>, bytes: usize) -> Result<Pinned, DeviceError> {
        context.bind()?;
        // SAFETY: an allocation touches nothing that exists.
        let start =
            check("allocating page-locked host memory", unsafe { result::malloc_host(bytes.max(1), 0) })?;
        let start: *mut u8 = start.cast();
        // SAFETY: `bytes` were allocated at `start`.
        unsafe { start.write_bytes(0, bytes) };
        Ok(Pinned { start, bytes, context: Arc::clone(context) })
    }

    /// How many bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Copies `data` to `offset`. No copy of the device on these bytes may be under way.
    pub fn write(&mut self, offset: usize, data: &[u8]) {
        assert!(offset + data.len() <= self.bytes, "the caller's offsets lie inside");
        // SAFETY: inside the allocation, which `data` cannot overlap: no reference to it is ever given out.
        unsafe { self.start.add(offset).copy_from_nonoverlapping(data.as_ptr(), data.len()) };
    }

    /// Copies from `offset` to `data`. No copy of the device to these bytes may be under way.
    pub fn read(&self, offset: usize, data: &mut [u8]) {
        assert!(offset + data.len() <= self.bytes, "the caller's offsets lie inside");
        // SAFETY: as in `write`.
        unsafe { self.start.add(offset).copy_to_nonoverlapping(data.as_mut_ptr(), data.len()) };
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        if self.context.bind().is_ok() {
            // SAFETY: allocated once, freed once; who queued copies has waited for them.
            let _ = unsafe { result::free_host(self.start.cast()) };
        }
    }
}

/// A moment in a stream.
#[derive(Debug)]
pub struct Event {
    event: sys::CUevent,
    context: Arc<Context>,
}

// SAFETY: the driver's objects may be used from every thread.
unsafe impl Send for Event {}

impl Event {
    /// One that counts as past until it is recorded.
    pub fn new(context: &Arc<Context>) -> Result<Event, DeviceError> {
        Event::with(context, sys::CUevent_flags::CU_EVENT_DISABLE_TIMING)
    }

    /// The same, for [`Event::seconds_since`]; recording it takes the device longer.
    pub fn timed(context: &Arc<Context>) -> Result<Event, DeviceError> {
        Event::with(context, sys::CUevent_flags::CU_EVENT_DEFAULT)
    }

    fn with(context: &Arc<Context>, flags: sys::CUevent_flags) -> Result<Event, DeviceError> {
        context.bind()?;
        let event = check("making an event", result::event::create(flags))?;
        Ok(Event { event, context: Arc::clone(context) })
    }

    /// Seconds from `earlier` to this one, which are both timed, recorded and past.
    pub fn seconds_since(&self, earlier: &Event) -> Result<f64, DeviceError> {
        // SAFETY: both live.
        let milliseconds = unsafe { result::event::elapsed(earlier.event, self.event) };
        Ok(f64::from(check("the time between two events", milliseconds)?) / 1e3)
    }

    /// Puts it behind what `stream` holds now.
    pub fn record(&self, stream: &Stream) -> Result<(), DeviceError> {
        // SAFETY: both live.
        check("recording an event", unsafe { result::event::record(self.event, stream.stream) })
    }

    /// Waits until it is past.
    pub fn wait(&self) -> Result<(), DeviceError> {
        // SAFETY: it lives.
        check("a step on the device", unsafe { result::event::synchronize(self.event) })
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        if self.context.bind().is_ok() {
            // SAFETY: made once, destroyed once.
            let _ = unsafe { result::event::destroy(self.event) };
        }
    }
}

/// Work in order, with no order to the work of other streams.
#[derive(Debug)]
pub struct Stream {
    stream: sys::CUstream,
    context: Arc<Context>,
}

// SAFETY: the driver's objects may be used from every thread.
unsafe impl Send for Stream {}

impl Stream {
    /// One that does not wait for the null stream.
    pub fn new(context: &Arc<Context>) -> Result<Stream, DeviceError> {
        context.bind()?;
        let stream = result::stream::create(result::stream::StreamKind::NonBlocking);
        Ok(Stream { stream: check("making a stream", stream)?, context: Arc::clone(context) })
    }

    /// Waits until all its work is done.
    pub fn wait(&self) -> Result<(), DeviceError> {
        // SAFETY: it lives.
        check("work on the device", unsafe { result::stream::synchronize(self.stream) })
    }

    /// What is queued from now on runs after `event`.
    pub fn wait_for(&self, event: &Event) -> Result<(), DeviceError> {
        let flags = sys::CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT;
        // SAFETY: both live.
        check("ordering streams", unsafe { result::stream::wait_event(self.stream, event.event, flags) })
    }

    /// Queues writing the same byte everywhere.
    ///
    /// # Safety
    ///
    /// Allocated memory, which stays until the work is done.
    pub unsafe fn fill(&self, address: u64, byte: u8, bytes: usize) -> Result<(), DeviceError> {
        if bytes == 0 {
            return Ok(());
        }
        // SAFETY: the caller's promise.
        check("filling memory", unsafe { result::memset_d8_async(address, byte, bytes, self.stream) })
    }

    /// Queues a copy to the device of `bytes` at `offset`.
    ///
    /// # Safety
    ///
    /// Both memories stay, and those host bytes are not written, until the work is done.
    pub unsafe fn copy_in(
        &self,
        to: u64,
        from: &Pinned,
        offset: usize,
        bytes: usize,
    ) -> Result<(), DeviceError> {
        assert!(offset + bytes <= from.bytes, "the caller's offsets lie inside");
        // SAFETY: inside the allocation; the rest is the caller's promise.
        let copied = unsafe {
            sys::cuMemcpyHtoDAsync_v2(to, from.start.add(offset).cast::<c_void>(), bytes, self.stream)
                .result()
        };
        check("copying to the device", copied)
    }

    /// Queues a copy from the device to `offset`.
    ///
    /// # Safety
    ///
    /// Both memories stay, and those host bytes are not touched, until the work is done.
    pub unsafe fn copy_out(
        &self,
        to: &Pinned,
        offset: usize,
        from: u64,
        bytes: usize,
    ) -> Result<(), DeviceError> {
        assert!(offset + bytes <= to.bytes, "the caller's offsets lie inside");
        // SAFETY: inside the allocation; the rest is the caller's promise.
        let copied = unsafe {
            sys::cuMemcpyDtoHAsync_v2(to.start.add(offset).cast::<c_void>(), from, bytes, self.stream)
                .result()
        };
        check("copying from the device", copied)
    }

    /// Queues a copy within the device's memory.
    ///
    /// # Safety
    ///
    /// Allocated memory that does not overlap and stays until the work is done.
    pub unsafe fn copy_within(&self, to: u64, from: u64, bytes: usize) -> Result<(), DeviceError> {
        // SAFETY: the caller's promise.
        check("copying on the device", unsafe { result::memcpy_dtod_async(to, from, bytes, self.stream) })
    }

    /// Records what `work` queues on this stream, instead of running it.
    pub fn capture(&self, work: impl FnOnce() -> Result<(), DeviceError>) -> Result<Graph, DeviceError> {
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: a stream that is not capturing.
        check("capturing a step", unsafe { result::stream::begin_capture(self.stream, mode) })?;
        let worked = work();
        // A capture is ended whatever has happened in it.
        // SAFETY: it was begun above.
        let ended = unsafe { result::stream::end_capture(self.stream) }.map(Captured);
        worked?;
        let captured = check("capturing a step", ended)?;
        // SAFETY: a graph that the driver has just given.
        let ready = unsafe { result::graph::instantiate(captured.0, sys::CUgraphInstantiate_flags(0)) };
        Ok(Graph { graph: check("making a CUDA graph", ready)?, context: Arc::clone(&self.context) })
    }

    /// Queues a captured step.
    ///
    /// # Safety
    ///
    /// The memory and modules that it was captured with stay until the work is done.
    pub unsafe fn replay(&self, graph: &Graph) -> Result<(), DeviceError> {
        // SAFETY: both live; the rest is the caller's promise.
        check("starting a step", unsafe { result::graph::launch(graph.graph, self.stream) })
    }

    /// Queues a kernel whose parameters are pointers. They lie one after the other here, so that a kernel may as well
    /// take all of them as one struct.
    ///
    /// # Safety
    ///
    /// The parameters are those that the kernel's code takes: allocated memory that stays, as its module does, until
    /// the work is done.
    pub unsafe fn launch(
        &self,
        function: Function,
        grid: [u32; 3],
        block: u32,
        shared: u32,
        parameters: &mut [u64],
    ) -> Result<(), result::DriverError> {
        let mut places: Vec<*mut c_void> =
            parameters.iter_mut().map(|p| std::ptr::from_mut(p).cast::<c_void>()).collect();
        let (grid, block) = ((grid[0], grid[1], grid[2]), (block, 1, 1));
        // SAFETY: as many parameters as the kernel has, each of eight bytes, or one struct of all of them at the first place;
        // the driver copies them in the call.
        unsafe { result::launch_kernel(function.0, grid, block, shared, self.stream, &mut places) }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if self.context.bind().is_ok() {
            // SAFETY: made once, destroyed once; the driver lets its work end.
            let _ = unsafe { result::stream::destroy(self.stream) };
        }
    }
}

/// What a capture gave, until a graph that runs is made from it, which does not need it any more.
struct Captured(sys::CUgraph);

impl Drop for Captured {
    fn drop(&mut self) {
        // SAFETY: given by the driver once, destroyed once, in the context that it was captured in.
        let _ = unsafe { result::graph::destroy(self.0) };
    }
}

/// A captured step, ready to run.
#[derive(Debug)]
pub struct Graph {
    graph: sys::CUgraphExec,
    context: Arc<Context>,
}

// SAFETY: the driver's objects may be used from every thread; a graph is launched by its one owner.
unsafe impl Send for Graph {}

impl Drop for Graph {
    fn drop(&mut self) {
        if self.context.bind().is_ok() {
            // SAFETY: made once, destroyed once; its owner has waited for its last run.
            let _ = unsafe { result::graph::exec_destroy(self.graph) };
        }
    }
}

/// A kernel that is loaded; lives as long as its module.
#[derive(Clone, Copy, Debug)]
pub struct Function(pub(crate) sys::CUfunction);

// SAFETY: the driver's objects may be used from every thread.
unsafe impl Send for Function {}
// SAFETY: as above.
unsafe impl Sync for Function {}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ptr::null_mut;
    use std::time::Duration;

    /// Whether a number is the handle of a captured graph; the emulator numbers what it makes in ascending order.
    fn is_graph(handle: usize) -> bool {
        let mut nodes = 0;
        // SAFETY: the emulator refuses what is no handle; no nodes are asked for, only how many there are.
        let code = unsafe { sys::cuGraphGetNodes(handle as sys::CUgraph, null_mut(), &mut nodes) };
        code == sys::CUresult::CUDA_SUCCESS
    }

    /// The handle of a graph that is made and destroyed again.
    fn next_handle(stream: &Stream) -> usize {
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: a stream that is not capturing, and a graph that the driver has just given.
        unsafe {
            result::stream::begin_capture(stream.stream, mode).expect("a capture begins");
            let graph = result::stream::end_capture(stream.stream).expect("a graph");
            assert!(is_graph(graph as usize));
            result::graph::destroy(graph).expect("its end");
            graph as usize
        }
    }

    #[test]
    fn a_failed_capture_leaves_no_graph() {
        ddnnc_emu::install().expect("the emulator's library");
        result::init().expect("a driver");
        let stream = Stream::new(&Context::new(0).expect("a device")).expect("a stream");
        let before = next_handle(&stream);
        let failed = stream.capture(|| Err(DeviceError::Failed("the work inside".to_owned())));
        assert!(failed.expect_err("a failure").to_string().contains("the work inside"));
        let after = next_handle(&stream);
        // Another test may have a graph for a moment; one that is leaked stays.
        let is_left = || (before..=after).any(is_graph);
        for _ in 0..50 {
            if !is_left() {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        assert!(!is_left(), "a graph between {before} and {after}");
    }
}
