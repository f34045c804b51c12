//! A device with little memory, of another kind.

use cudarc::driver::{CudaContext, sys::CUresult};
use cudarc::nvrtc::Ptx;

#[test]
fn memory_runs_out_and_modules_are_for_others() {
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
    // Of another device than this one: a newer one, and exactly one.
    for target in ["sm_90", "sm_90a", "sm_100a"] {
        let ptx = format!(".version 8.6\n.target {target}\n.address_size 64\n.visible .entry k() {{ ret; }}");
        let error = context.load_module(Ptx::from_src(ptx)).expect_err(target);
        assert_eq!(error.0, CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU);
        assert_eq!(ddnnc_emu::last_fault(), Some(format!("PTX for {target} on sm_80")));
    }
}
