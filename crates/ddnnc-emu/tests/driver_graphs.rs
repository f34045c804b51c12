//! Capturing streams into graphs, replaying them, and what a capture forbids.

mod device;

use std::ptr::null_mut;

use cudarc::driver::sys::{self, CUgraphInstantiate_flags as Flags, CUresult, CUstreamCaptureMode as Mode};
use cudarc::driver::{CudaGraph, CudaStream, DriverError};
use device::{Device, N, device, fails, ok};
use std::sync::Arc;

const MODE: Mode = Mode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;

/// What `work` gives a stream, as a graph.
fn captured(stream: &Arc<CudaStream>, work: impl FnOnce()) -> Result<CudaGraph, DriverError> {
    stream.begin_capture(MODE).expect("a capture begins");
    work();
    stream.end_capture(Flags(0)).map(|graph| graph.expect("a graph"))
}

#[test]
fn a_graph_does_what_direct_launches_do() {
    let d = device();
    let stream = d.stream();
    let (x, y) = (d.zeros(), d.zeros());
    let work = |value: f32| {
        d.add(&stream, x, value).expect("a launch");
        d.copy(&stream, y, x).expect("a launch");
        d.add(&stream, y, 0.5).expect("a launch");
    };
    let before = ddnnc_emu::report().expect("a report");
    let graph = captured(&stream, || work(2.0)).expect("a graph");
    assert_eq!(d.read(&stream, y).expect("numbers"), vec![0.0; N], "captured, not done");
    for _ in 0..3 {
        graph.launch().expect("a launch");
    }
    let replayed = (d.read(&stream, x).expect("numbers"), d.read(&stream, y).expect("numbers"));
    let (x2, y2) = (d.zeros(), d.zeros());
    for _ in 0..3 {
        d.add(&stream, x2, 2.0).expect("a launch");
        d.copy(&stream, y2, x2).expect("a launch");
        d.add(&stream, y2, 0.5).expect("a launch");
    }
    let direct = (d.read(&stream, x2).expect("numbers"), d.read(&stream, y2).expect("numbers"));
    assert_eq!(replayed, direct);
    assert_eq!(direct, (vec![6.0; N], vec![6.5; N]));
    let after = ddnnc_emu::report().expect("a report");
    assert_eq!((after.graphs - before.graphs, after.kernels - before.kernels), (3, 18));
}

#[test]
fn a_graph_reads_pinned_memory_anew() {
    let d = device();
    let stream = d.stream();
    let p = d.zeros();
    let mut staging = null_mut();
    // SAFETY: a place for the address; copies inside both buffers; freed when nothing is queued.
    unsafe {
        ok(sys::cuMemHostAlloc(&mut staging, 4 * N, 0));
        let numbers = std::slice::from_raw_parts_mut(staging.cast::<f32>(), N);
        let graph = captured(&stream, || {
            ok(sys::cuMemcpyHtoDAsync_v2(p, staging, 4 * N, stream.cu_stream()));
            d.add(&stream, p, 1.0).expect("a launch");
        })
        .expect("a graph");
        for value in [3.0, 4.0] {
            numbers.fill(value);
            graph.launch().expect("a launch");
            assert_eq!(d.read(&stream, p).expect("numbers"), vec![value + 1.0; N]);
        }
        ok(sys::cuMemFreeHost(staging));
    }
}

/// Two branches of a graph: the second one reads what the first one writes.
fn fork(d: &Device, ordered: bool) -> f32 {
    let (main, side) = (d.stream(), d.stream());
    let (x, y) = (d.zeros(), d.zeros());
    let graph = captured(&main, || {
        side.join(&main).expect("it joins the capture");
        d.add(&main, x, 1.0).expect("a launch");
        if ordered {
            side.join(&main).expect("a wait");
        }
        d.copy(&side, y, x).expect("a launch");
        main.join(&side).expect("it joins back");
    })
    .expect("a graph");
    graph.launch().expect("a launch");
    d.read(&main, y).expect("numbers")[N - 1]
}

#[test]
fn a_forgotten_dependency_of_a_graph_is_seen() {
    let d = device();
    assert_eq!(fork(&d, true), 1.0);
    assert_eq!(fork(&d, false), 0.0);
}

#[test]
fn an_event_from_outside_cannot_be_waited_for() {
    let d = device();
    let (stream, other) = (d.stream(), d.stream());
    let event = other.record_event(None).expect("an event");
    let p = d.zeros();
    stream.begin_capture(MODE).expect("a capture begins");
    fails(stream.wait(&event), CUresult::CUDA_ERROR_STREAM_CAPTURE_ISOLATION);
    fails(d.add(&stream, p, 1.0), CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
    fails(stream.end_capture(Flags(0)).map(|_| ()), CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
    // The stream is as before.
    d.add(&stream, p, 1.0).expect("a launch");
    assert_eq!(d.read(&stream, p).expect("numbers"), vec![1.0; N]);
}

/// What a call answers while a stream captures; afterwards the capture is worthless.
fn while_capturing(d: &Device, call: impl FnOnce(&Arc<CudaStream>) -> CUresult) -> CUresult {
    let stream = d.stream();
    stream.begin_capture(MODE).expect("a capture begins");
    let code = call(&stream);
    fails(stream.end_capture(Flags(0)).map(|_| ()), CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
    code
}

#[test]
fn calls_that_wait_are_refused() {
    let d = device();
    let unsupported = CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    let p = d.zeros();
    let mut number = 0f32;
    let to = (&raw mut number).cast();
    // SAFETY: copies inside the buffer and the number; every call is refused.
    unsafe {
        assert_eq!(while_capturing(&d, |s| sys::cuStreamSynchronize(s.cu_stream())), unsupported);
        assert_eq!(while_capturing(&d, |s| sys::cuStreamQuery(s.cu_stream())), unsupported);
        assert_eq!(while_capturing(&d, |_| sys::cuCtxSynchronize()), unsupported);
        assert_eq!(while_capturing(&d, |_| sys::cuMemAlloc_v2(&mut 0, 4)), unsupported);
        assert_eq!(while_capturing(&d, |_| sys::cuMemFree_v2(p)), unsupported);
        assert_eq!(while_capturing(&d, |_| sys::cuMemcpyDtoH_v2(to, p, 4)), unsupported);
        assert_eq!(while_capturing(&d, |s| sys::cuMemAllocAsync(&mut 0, 4, s.cu_stream())), unsupported);
        let pageable = |s: &Arc<CudaStream>| sys::cuMemcpyDtoHAsync_v2(to, p, 4, s.cu_stream());
        assert_eq!(while_capturing(&d, pageable), unsupported);
        let captured = while_capturing(&d, |s| {
            let event = s.record_event(None).expect("an event");
            sys::cuEventQuery(event.cu_event())
        });
        assert_eq!(captured, CUresult::CUDA_ERROR_CAPTURED_EVENT);
    }
    assert_eq!(number, 0.0);
}

#[test]
fn the_default_stream_is_kept_out() {
    let d = device();
    let default = d.context.default_stream();
    let p = d.zeros();
    fails(default.begin_capture(MODE), CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    let mut stream = null_mut();
    // SAFETY: a place for the handle; a stream that the default stream waits for.
    unsafe {
        ok(sys::cuStreamCreate(&mut stream, 0));
        ok(sys::cuStreamBeginCapture_v2(stream, MODE));
        fails(d.add(&default, p, 1.0), CUresult::CUDA_ERROR_STREAM_CAPTURE_IMPLICIT);
        let code = sys::cuStreamEndCapture(stream, &mut null_mut());
        assert_eq!(code, CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
    }
    d.add(&default, p, 1.0).expect("a launch");
}

#[test]
fn streams_that_joined_must_join_back() {
    let d = device();
    let (main, side) = (d.stream(), d.stream());
    let p = d.zeros();
    main.begin_capture(MODE).expect("a capture begins");
    side.join(&main).expect("it joins the capture");
    d.add(&side, p, 1.0).expect("a launch");
    fails(side.end_capture(Flags(0)).map(|_| ()), CUresult::CUDA_ERROR_STREAM_CAPTURE_UNMATCHED);
    fails(main.end_capture(Flags(0)).map(|_| ()), CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
    main.begin_capture(MODE).expect("a capture begins");
    side.join(&main).expect("it joins the capture");
    d.add(&side, p, 1.0).expect("a launch");
    fails(main.end_capture(Flags(0)).map(|_| ()), CUresult::CUDA_ERROR_STREAM_CAPTURE_UNJOINED);
    fails(main.end_capture(Flags(0)).map(|_| ()), CUresult::CUDA_ERROR_INVALID_VALUE);
}

#[test]
fn another_threads_calls_depend_on_the_mode() {
    let d = device();
    let allocate = || {
        let context = d.context.clone();
        let call = move || {
            context.bind_to_thread().expect("a context");
            // SAFETY: a place for the address.
            unsafe { sys::cuMemAlloc_v2(&mut 0, 4) }
        };
        std::thread::spawn(call).join().expect("no panic")
    };
    let stream = d.stream();
    stream.begin_capture(MODE).expect("a capture begins");
    ok(allocate());
    stream.end_capture(Flags(0)).expect("a graph");
    stream.begin_capture(Mode::CU_STREAM_CAPTURE_MODE_GLOBAL).expect("a capture begins");
    assert_eq!(allocate(), CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    fails(stream.end_capture(Flags(0)).map(|_| ()), CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
}

/// Launches of one graph follow each other, whichever streams they are in.
#[test]
fn a_graph_is_not_launched_beside_itself() {
    let d = device();
    let (first, second) = (d.stream(), d.stream());
    let p = d.zeros();
    let graph = captured(&first, || d.add(&first, p, 1.0).expect("a launch")).expect("a graph");
    graph.launch().expect("a launch");
    // SAFETY: handles of the graph and of a stream.
    ok(unsafe { sys::cuGraphLaunch(graph.cu_graph_exec(), second.cu_stream()) });
    assert_eq!(d.read(&second, p).expect("numbers"), vec![2.0; N]);
}

#[test]
fn flags_are_checked() {
    let d = device();
    let stream = d.stream();
    for (flags, code) in [(5, CUresult::CUDA_ERROR_INVALID_VALUE), (4, CUresult::CUDA_ERROR_NOT_SUPPORTED)] {
        stream.begin_capture(MODE).expect("a capture begins");
        fails(stream.end_capture(Flags(flags)).map(|_| ()), code);
    }
}

/// A graph keeps addresses as they were: memory freed since is no memory.
#[test]
fn a_graph_with_freed_memory_faults() {
    let d = device();
    let stream = d.stream();
    let p = d.zeros();
    let graph = captured(&stream, || d.add(&stream, p, 1.0).expect("a launch")).expect("a graph");
    graph.launch().expect("a launch");
    stream.synchronize().expect("memory is there");
    // SAFETY: an allocation, freed once.
    ok(unsafe { sys::cuMemFree_v2(p) });
    graph.launch().expect("it is queued");
    fails(stream.synchronize(), CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
    let text = ddnnc_emu::last_fault().expect("a text");
    assert!(text.contains("access out of bounds in kernel `add`"), "{text}");
}
