//! Faults: sticky errors, their text, and that nothing outlives them.

mod device;

use cudarc::driver::sys::{self, CUresult};
use device::{N, device, fails, ok};

#[test]
fn a_fault_stays() {
    let d = device();
    let (stream, other) = (d.stream(), d.stream());
    let p = d.zeros();
    d.poke(&stream, p + 4 * N as u64).expect("it is queued");
    d.add(&other, p, 1.0).expect("it is queued");
    let illegal = CUresult::CUDA_ERROR_ILLEGAL_ADDRESS;
    fails(stream.synchronize(), illegal);
    let text = ddnnc_emu::last_fault().expect("a text");
    assert!(text.starts_with("access out of bounds in kernel `poke`, PTX line "), "{text}");
    assert!(text.contains("block (0, 0, 0), thread (0, 0, 0)"), "{text}");
    fails(stream.synchronize(), illegal);
    fails(other.synchronize(), illegal);
    fails(d.context.synchronize(), illegal);
    fails(d.add(&stream, p, 1.0), illegal);
    fails(d.read(&stream, p), illegal);
    // SAFETY: a place for the address, a call that takes none.
    unsafe {
        assert_eq!(sys::cuMemAlloc_v2(&mut 0, 4), illegal);
        assert_eq!(sys::cuMemFree_v2(p), illegal);
    }
    let mut count = 0;
    // SAFETY: a place for the number.
    ok(unsafe { sys::cuDeviceGetCount(&mut count) });
    assert_eq!(count, 1);
}

#[test]
fn a_misaligned_address_has_its_own_code() {
    let d = device();
    let stream = d.stream();
    let p = d.zeros();
    d.poke(&stream, p + 2).expect("it is queued");
    fails(stream.synchronize(), CUresult::CUDA_ERROR_MISALIGNED_ADDRESS);
    assert!(ddnnc_emu::last_fault().expect("a text").starts_with("misaligned access in kernel `poke`"));
}

#[test]
fn another_context_is_not_hurt() {
    let hurt = {
        let d = device();
        let stream = d.stream();
        d.poke(&stream, 8).expect("it is queued");
        fails(stream.synchronize(), CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
        d.context.clone()
    };
    let d = device();
    let stream = d.stream();
    let p = d.zeros();
    d.add(&stream, p, 1.0).expect("a launch");
    assert_eq!(d.read(&stream, p).expect("numbers"), vec![1.0; N]);
    drop(hurt);
}

/// Freed memory is no memory for kernels of other streams that come after.
#[test]
fn memory_used_after_it_was_freed_faults() {
    let d = device();
    let (first, second) = (d.stream(), d.stream());
    let p = d.zeros();
    // SAFETY: an allocation, freed once.
    ok(unsafe { sys::cuMemFreeAsync(p, first.cu_stream()) });
    second.join(&first).expect("a wait");
    d.add(&second, p, 1.0).expect("it is queued");
    fails(second.synchronize(), CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
}
