//! A device on the emulator, and kernels as PTX.
#![allow(dead_code)]

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cudarc::driver::{CudaContext, CudaFunction, CudaStream, DriverError, LaunchConfig, PushKernelArg, sys};
use cudarc::nvrtc::Ptx;

/// `add(p, value, n)` adds a value to each number, `copy(to, from, n)` copies numbers, `poke(at)` writes one anywhere.
pub const PTX: &str = r#"
.version 8.0
.target sm_80
.address_size 64
.global .align 4 .u32 counter = 7;

.visible .entry add(.param .u64 p, .param .f32 value, .param .u32 n)
{
    .reg .pred %p<2>;
    .reg .b32 %r<6>;
    .reg .f32 %f<4>;
    .reg .b64 %rd<5>;
    ld.param.u64 %rd1, [p];
    ld.param.f32 %f1, [value];
    ld.param.u32 %r1, [n];
    mov.u32 %r2, %ctaid.x;
    mov.u32 %r3, %ntid.x;
    mov.u32 %r4, %tid.x;
    mad.lo.s32 %r5, %r2, %r3, %r4;
    setp.ge.u32 %p1, %r5, %r1;
    @%p1 bra done;
    cvta.to.global.u64 %rd2, %rd1;
    mul.wide.u32 %rd3, %r5, 4;
    add.s64 %rd4, %rd2, %rd3;
    ld.global.f32 %f2, [%rd4];
    add.f32 %f3, %f2, %f1;
    st.global.f32 [%rd4], %f3;
done:
    ret;
}

.visible .entry copy(.param .u64 to, .param .u64 from, .param .u32 n)
{
    .reg .pred %p<2>;
    .reg .b32 %r<6>;
    .reg .b64 %rd<8>;
    ld.param.u64 %rd1, [to];
    ld.param.u64 %rd2, [from];
    ld.param.u32 %r1, [n];
    mov.u32 %r2, %ctaid.x;
    mov.u32 %r3, %ntid.x;
    mov.u32 %r4, %tid.x;
    mad.lo.s32 %r5, %r2, %r3, %r4;
    setp.ge.u32 %p1, %r5, %r1;
    @%p1 bra done;
    mul.wide.u32 %rd3, %r5, 4;
    add.s64 %rd4, %rd1, %rd3;
    add.s64 %rd5, %rd2, %rd3;
    ld.global.b32 %r2, [%rd5];
    st.global.b32 [%rd4], %r2;
done:
    ret;
}

.visible .entry poke(.param .u64 at)
{
    .reg .b32 %r<2>;
    .reg .b64 %rd<2>;
    ld.param.u64 %rd1, [at];
    mov.u32 %r1, 1;
    st.global.b32 [%rd1], %r1;
    ret;
}
"#;

/// Numbers in a buffer of the tests; two blocks, the second of which is not full.
pub const N: usize = 200;

pub struct Device {
    pub context: Arc<CudaContext>,
    pub add: CudaFunction,
    pub copy: CudaFunction,
    pub poke: CudaFunction,
    _alone: MutexGuard<'static, ()>,
}

/// A context of its own, in which no other test runs meanwhile: freeing pinned memory does what all contexts have
/// queued. Waits are the tests' own business, not cudarc's.
pub fn device() -> Device {
    static ALONE: Mutex<()> = Mutex::new(());
    let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    ddnnc_emu::install().expect("the shared library is built beside the test");
    let context = CudaContext::new_non_primary(0, 0).expect("a context");
    // SAFETY: every test orders what it does itself, or wants to see that it did not.
    unsafe { context.disable_event_tracking() };
    let module = context.load_module(Ptx::from_src(PTX)).expect("a module");
    let load = |name| module.load_function(name).expect("a kernel");
    Device { add: load("add"), copy: load("copy"), poke: load("poke"), context, _alone: alone }
}

pub fn grid() -> LaunchConfig {
    LaunchConfig { grid_dim: (2, 1, 1), block_dim: (128, 1, 1), shared_mem_bytes: 0 }
}

impl Device {
    pub fn stream(&self) -> Arc<CudaStream> {
        self.context.new_stream().expect("a stream")
    }

    /// `p[i] += value`
    pub fn add(&self, stream: &CudaStream, p: u64, value: f32) -> Result<(), DriverError> {
        let n = N as u32;
        let mut launch = stream.launch_builder(&self.add);
        launch.arg(&p).arg(&value).arg(&n);
        // SAFETY: the arguments are those of the kernel; the emulator checks addresses.
        unsafe { launch.launch(grid()) }.map(|_| ())
    }

    /// `to[i] = from[i]`
    pub fn copy(&self, stream: &CudaStream, to: u64, from: u64) -> Result<(), DriverError> {
        let n = N as u32;
        let mut launch = stream.launch_builder(&self.copy);
        launch.arg(&to).arg(&from).arg(&n);
        // SAFETY: as above.
        unsafe { launch.launch(grid()) }.map(|_| ())
    }

    /// Writes a word at an address.
    pub fn poke(&self, stream: &CudaStream, at: u64) -> Result<(), DriverError> {
        let mut launch = stream.launch_builder(&self.poke);
        launch.arg(&at);
        // SAFETY: as above.
        unsafe {
            launch.launch(LaunchConfig { grid_dim: (1, 1, 1), block_dim: (1, 1, 1), shared_mem_bytes: 0 })
        }
        .map(|_| ())
    }

    /// A buffer of [`N`] numbers, zeros, which nothing will free before the context goes.
    pub fn zeros(&self) -> u64 {
        let mut address = 0;
        let bytes = 4 * N;
        // SAFETY: a place for the address; the range is the allocation.
        unsafe {
            ok(sys::cuMemAlloc_v2(&mut address, bytes));
            ok(sys::cuMemsetD8_v2(address, 0, bytes));
            ok(sys::cuStreamSynchronize(std::ptr::null_mut()));
        }
        address
    }

    /// What a stream sees in a buffer once it has done what it was given.
    pub fn read(&self, stream: &CudaStream, from: u64) -> Result<Vec<f32>, DriverError> {
        let mut numbers = vec![-1.0f32; N];
        // SAFETY: the vector has the bytes, and the copy has ended when `synchronize` returns.
        unsafe {
            let code =
                sys::cuMemcpyDtoHAsync_v2(numbers.as_mut_ptr().cast(), from, 4 * N, stream.cu_stream());
            code.result()?;
        }
        stream.synchronize()?;
        Ok(numbers)
    }
}

#[track_caller]
pub fn ok(code: sys::CUresult) {
    assert_eq!(code, sys::CUresult::CUDA_SUCCESS);
}

#[track_caller]
pub fn fails<T>(result: Result<T, DriverError>, code: sys::CUresult) {
    assert_eq!(result.err().map(|e| e.0), Some(code));
}
