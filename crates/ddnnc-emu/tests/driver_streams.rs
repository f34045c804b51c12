//! Streams and events: what nothing orders is done as late as possible, so that a forgotten wait shows.

mod device;

use std::ffi::c_void;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicU32, Ordering};

use cudarc::driver::sys::{self, CUevent_flags, CUresult};
use cudarc::driver::{CudaContext, CudaStream};
use device::{Device, N, device, fails, ok};

/// A stream that the legacy default stream waits for.
fn blocking_stream(context: &CudaContext) -> sys::CUstream {
    context.bind_to_thread().expect("a context");
    let mut stream = null_mut();
    // SAFETY: a place for the handle.
    ok(unsafe { sys::cuStreamCreate(&mut stream, 0) });
    stream
}

/// The first stream writes, the second one reads what it wrote; gives what it read.
fn write_then_read(d: &Device, ordered: bool) -> Vec<f32> {
    let (writer, reader) = (d.stream(), d.stream());
    let (x, y) = (d.zeros(), d.zeros());
    d.add(&writer, x, 1.0).expect("a launch");
    if ordered {
        let event = writer.record_event(None).expect("an event");
        reader.wait(&event).expect("a wait");
    }
    d.copy(&reader, y, x).expect("a launch");
    d.read(&reader, y).expect("numbers")
}

#[test]
fn a_missing_wait_is_seen() {
    let d = device();
    assert_eq!(write_then_read(&d, true), vec![1.0; N]);
    assert_eq!(write_then_read(&d, false), vec![0.0; N]);
}

#[test]
fn waits_reach_through_several_streams() {
    let d = device();
    let streams: Vec<_> = (0..4).map(|_| d.stream()).collect();
    let buffers: Vec<u64> = (0..5).map(|_| d.zeros()).collect();
    d.add(&streams[0], buffers[0], 3.0).expect("a launch");
    for (i, stream) in streams.iter().enumerate() {
        if i > 0 {
            stream.wait(&streams[i - 1].record_event(None).expect("an event")).expect("a wait");
        }
        d.copy(stream, buffers[i + 1], buffers[i]).expect("a launch");
    }
    assert_eq!(d.read(&streams[3], buffers[4]).expect("numbers"), vec![3.0; N]);
}

/// An event is what it was when the wait was asked for.
#[test]
fn an_event_recorded_again_orders_later_waits_only() {
    let d = device();
    let (writer, early, late) = (d.stream(), d.stream(), d.stream());
    let (x, y, z) = (d.zeros(), d.zeros(), d.zeros());
    let event = d.context.new_event(None).expect("an event");
    d.add(&writer, x, 1.0).expect("a launch");
    event.record(&writer).expect("a record");
    early.wait(&event).expect("a wait");
    d.add(&writer, x, 1.0).expect("a launch");
    event.record(&writer).expect("a record");
    late.wait(&event).expect("a wait");
    d.copy(&early, y, x).expect("a launch");
    d.copy(&late, z, x).expect("a launch");
    assert_eq!(d.read(&early, y).expect("numbers"), vec![1.0; N]);
    assert_eq!(d.read(&late, z).expect("numbers"), vec![2.0; N]);
}

#[test]
fn staging_memory_reused_too_early_is_seen() {
    let d = device();
    let stream = d.stream();
    let p = d.zeros();
    let bytes = 4 * N;
    let mut staging: *mut c_void = null_mut();
    // SAFETY: a place for the address; copies inside both buffers; the pinned memory is freed last.
    unsafe {
        ok(sys::cuMemHostAlloc(&mut staging, bytes, 0));
        let numbers = std::slice::from_raw_parts_mut(staging.cast::<f32>(), N);
        for (wait, seen) in [(true, 1.0), (false, 2.0)] {
            numbers.fill(1.0);
            ok(sys::cuMemcpyHtoDAsync_v2(p, staging, bytes, stream.cu_stream()));
            if wait {
                stream.synchronize().expect("a copy");
            }
            numbers.fill(2.0);
            assert_eq!(d.read(&stream, p).expect("numbers"), vec![seen; N]);
        }
        ok(sys::cuMemFreeHost(staging));
    }
}

#[test]
fn pageable_memory_is_read_at_once() {
    let d = device();
    let stream = d.stream();
    let p = d.zeros();
    let mut numbers = vec![1.0f32; N];
    // SAFETY: a copy inside both buffers.
    ok(unsafe { sys::cuMemcpyHtoDAsync_v2(p, numbers.as_ptr().cast(), 4 * N, stream.cu_stream()) });
    numbers.fill(2.0);
    assert_eq!(d.read(&stream, p).expect("numbers"), vec![1.0; N]);
}

#[test]
fn copies_to_pinned_memory_arrive_when_waited_for() {
    let d = device();
    let stream = d.stream();
    let p = d.zeros();
    d.add(&stream, p, 4.0).expect("a launch");
    let mut numbers = vec![-1.0f32; N];
    let host: *mut c_void = numbers.as_mut_ptr().cast();
    // SAFETY: the range is the vector, unregistered before it goes; volatile, as the copy writes behind its back.
    unsafe {
        ok(sys::cuMemHostRegister_v2(host, 4 * N, 0));
        ok(sys::cuMemcpyDtoHAsync_v2(host, p, 4 * N, stream.cu_stream()));
        assert_eq!(host.cast::<f32>().read_volatile(), -1.0);
        stream.synchronize().expect("a copy");
        assert_eq!(host.cast::<f32>().read_volatile(), 4.0);
        let again = sys::cuMemHostRegister_v2(host.cast::<u8>().add(8).cast(), 8, 0);
        assert_eq!(again, CUresult::CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED);
        ok(sys::cuMemHostUnregister(host));
    }
}

#[test]
fn the_default_stream_orders_blocking_streams_only() {
    let d = device();
    let default = d.context.default_stream();
    // SAFETY: the handle is a stream's, which goes with the context.
    let blocking = unsafe { d.context.wrap_borrowed_stream(blocking_stream(&d.context)) };
    let free = d.stream();
    let order = |first: &CudaStream, second: &CudaStream| {
        let (x, y) = (d.zeros(), d.zeros());
        d.add(first, x, 1.0).expect("a launch");
        d.copy(second, y, x).expect("a launch");
        d.read(second, y).expect("numbers")[0]
    };
    assert_eq!(order(&blocking, &default), 1.0);
    assert_eq!(order(&default, &blocking), 1.0);
    assert_eq!(order(&free, &default), 0.0);
    assert_eq!(order(&default, &free), 0.0);
    assert_eq!(order(&blocking, &free), 0.0);
    // The thread's own stream is a blocking one.
    assert_eq!(order(&default, &d.context.per_thread_stream()), 1.0);
}

#[test]
fn queries_are_not_ready_before_they_are() {
    let d = device();
    let stream = d.stream();
    let p = d.zeros();
    let event = d.context.new_event(None).expect("an event");
    assert_eq!(event.try_is_complete(), Ok(true), "never recorded");
    d.add(&stream, p, 1.0).expect("a launch");
    event.record(&stream).expect("a record");
    assert_eq!(event.try_is_complete(), Ok(false));
    assert_eq!(event.try_is_complete(), Ok(true));
    d.add(&stream, p, 1.0).expect("a launch");
    let ready = || {
        // SAFETY: the handle is a stream's.
        unsafe { sys::cuStreamQuery(stream.cu_stream()) }
    };
    assert_eq!(ready(), CUresult::CUDA_ERROR_NOT_READY);
    ok(ready());
    assert_eq!(d.read(&stream, p).expect("numbers"), vec![2.0; N]);
}

#[test]
fn events_take_the_time_of_what_is_between() {
    let d = device();
    let stream = d.stream();
    let p = d.zeros();
    let timed = Some(CUevent_flags::CU_EVENT_DEFAULT);
    let start = stream.record_event(timed).expect("an event");
    d.add(&stream, p, 1.0).expect("a launch");
    let end = stream.record_event(timed).expect("an event");
    let mut ms = 0.0;
    // SAFETY: a place for the number, handles of events.
    let early = unsafe { sys::cuEventElapsedTime_v2(&mut ms, start.cu_event(), end.cu_event()) };
    assert_eq!(early, CUresult::CUDA_ERROR_NOT_READY);
    let ms = start.elapsed_ms(&end).expect("a time");
    assert!(ms > 0.0 && ms < 60_000.0, "{ms}");
    let untimed = stream.record_event(None).expect("an event");
    fails(start.elapsed_ms(&untimed), CUresult::CUDA_ERROR_INVALID_HANDLE);
}

static SEEN: AtomicU32 = AtomicU32::new(0);

/// Notes the first number of a pinned buffer, and what the driver says to a call from here.
unsafe extern "C" fn note(data: *mut c_void) {
    // SAFETY: the test passes pinned memory that holds a number.
    let number = unsafe { data.cast::<f32>().read_volatile() };
    // SAFETY: no arguments.
    let code = unsafe { sys::cuCtxSynchronize() } as u32;
    SEEN.store(number as u32 * 1000 + code, Ordering::Relaxed);
}

#[test]
fn host_functions_run_in_order_and_may_not_call_back() {
    let d = device();
    let stream = d.stream();
    let p = d.zeros();
    let mut host: *mut c_void = null_mut();
    // SAFETY: a place for the address; the copy fits; the function reads the pinned number.
    unsafe {
        ok(sys::cuMemHostAlloc(&mut host, 4 * N, 0));
        d.add(&stream, p, 5.0).expect("a launch");
        ok(sys::cuMemcpyDtoHAsync_v2(host, p, 4 * N, stream.cu_stream()));
        ok(sys::cuLaunchHostFunc(stream.cu_stream(), Some(note), host));
        assert_eq!(SEEN.load(Ordering::Relaxed), 0);
        stream.synchronize().expect("all done");
        assert_eq!(SEEN.load(Ordering::Relaxed), 5800, "5, and CUDA_ERROR_NOT_PERMITTED");
        ok(sys::cuMemFreeHost(host));
    }
}

/// A stream that is let go still does what it was given, when somebody waits for it.
#[test]
fn a_destroyed_stream_ends_its_work() {
    let d = device();
    let (writer, reader) = (d.stream(), d.stream());
    let p = d.zeros();
    d.add(&writer, p, 1.0).expect("a launch");
    let event = writer.record_event(None).expect("an event");
    drop(writer);
    reader.wait(&event).expect("a wait");
    drop(event);
    assert_eq!(d.read(&reader, p).expect("numbers"), vec![1.0; N]);
}

#[test]
fn memory_freed_in_a_stream_lives_until_then() {
    let d = device();
    let stream = d.stream();
    let (p, y) = (d.zeros(), d.zeros());
    d.add(&stream, p, 1.0).expect("a launch");
    d.copy(&stream, y, p).expect("a launch");
    // SAFETY: an allocation, freed once.
    ok(unsafe { sys::cuMemFreeAsync(p, stream.cu_stream()) });
    assert_eq!(d.read(&stream, y).expect("numbers"), vec![1.0; N]);
    // SAFETY: it is gone, which is what the call must survive.
    let again = unsafe { sys::cuMemFreeAsync(p, stream.cu_stream()) };
    assert_eq!(again, CUresult::CUDA_ERROR_INVALID_VALUE);
}
