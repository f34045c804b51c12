//! A device with little memory, of another kind.

use cudarc::driver::{CudaContext, sys::CUresult};

#[test]
fn memory_runs_out() {
    // SAFETY: no other thread of this test runs yet.
    unsafe {
        std::env::set_var("DDNNC_EMU_MEMORY", "1M");
        std::env::set_var("DDNNC_EMU_ARCH", "sm_80");
    }
    ddnnc_emu::install().expect("the shared library");
    let context = CudaContext::new(0).expect("a context");
    assert_eq!(context.compute_capability(), Ok((8, 0)));
    assert_eq!(context.mem_get_info().expect("bytes"), (1 << 20, 1 << 20));
    let stream = context.default_stream();
    let half = stream.alloc_zeros::<u8>(600 << 10).expect("memory");
    let more = stream.alloc_zeros::<u8>(600 << 10);
    assert_eq!(more.err().map(|e| e.0), Some(CUresult::CUDA_ERROR_OUT_OF_MEMORY));
    // What is only queued to be freed is freed when memory lacks.
    drop(half);
    stream.alloc_zeros::<u8>(600 << 10).expect("memory");
    stream.synchronize().expect("running out of memory is no fault");
}
