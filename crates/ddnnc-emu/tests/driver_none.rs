//! A machine with the driver and without a device.

use cudarc::driver::{CudaContext, sys};

#[test]
fn there_is_no_device() {
    // SAFETY: no other thread of this test runs yet.
    unsafe { std::env::set_var("DDNNC_EMU_DEVICES", "0") };
    ddnnc_emu::install().expect("the shared library");
    let error = CudaContext::new(0).expect_err("no device");
    assert_eq!(error.0, sys::CUresult::CUDA_ERROR_NO_DEVICE);
    assert!(error.to_string().contains("no CUDA-capable device"), "{error}");
    assert_eq!(ddnnc_emu::report(), None);
}
