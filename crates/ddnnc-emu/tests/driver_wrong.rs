//! A configuration that cannot be understood.

use cudarc::driver::{CudaContext, sys::CUresult};

#[test]
fn a_wrong_value_is_refused_and_named() {
    // SAFETY: no other thread of this test runs yet.
    unsafe { std::env::set_var("DDNNC_EMU_ORDER", "sideways") };
    ddnnc_emu::install().expect("the shared library");
    let error = CudaContext::new(0).expect_err("a wrong order");
    assert_eq!(error.0, CUresult::CUDA_ERROR_INVALID_VALUE);
    let text = ddnnc_emu::last_fault().expect("a text");
    assert_eq!(text, "DDNNC_EMU_ORDER=sideways: expected forward, reverse or random:SEED");
}
