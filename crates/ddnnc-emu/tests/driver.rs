//! The driver through cudarc: contexts, memory, modules, launches, and what is refused.

mod device;
mod nvrtc;

use std::ffi::{CStr, c_void};
use std::ptr::null_mut;

use cudarc::driver::sys::{self, CUresult};
use cudarc::driver::{CudaContext, LaunchConfig, PushKernelArg};
use cudarc::nvrtc::Ptx;
use device::{N, PTX, device, fails, grid, ok};

#[test]
fn both_names_lead_to_the_emulator() {
    ddnnc_emu::install().expect("the shared library");
    for name in ["libcuda.so.1", "libcuda.so"] {
        // SAFETY: loaded already; the function has the type that is asked for.
        unsafe {
            let library = libloading::Library::new(name).expect(name);
            library
                .get::<unsafe extern "C" fn(*mut u8, usize) -> usize>(b"ddnnc_emu_last_fault\0")
                .expect("a function that no other driver has");
            library.get::<unsafe extern "C" fn(u32) -> u32>(b"cuInit\0").expect("cuInit");
        }
    }
}

#[test]
fn a_device_has_the_properties_of_its_card() {
    let d = device();
    assert_eq!(d.context.name().expect("a name"), "ddnnc-emu h100 (sm_90)");
    assert_eq!(d.context.compute_capability().expect("a capability"), (9, 0));
    assert_eq!(d.context.total_mem().expect("bytes"), 16 << 30);
    let attribute = |a| d.context.attribute(a).expect("an attribute");
    use sys::CUdevice_attribute as A;
    assert_eq!(attribute(A::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT), 132);
    assert_eq!(attribute(A::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN), 227 << 10);
    assert_eq!(attribute(A::CU_DEVICE_ATTRIBUTE_WARP_SIZE), 32);
    assert_eq!(CudaContext::device_count().expect("a count"), 1);
    fails(CudaContext::new(1), CUresult::CUDA_ERROR_INVALID_DEVICE);
    assert_eq!(d.add.max_threads_per_block().expect("threads"), 1024);
    let blocks = d.add.occupancy_max_active_blocks_per_multiprocessor(256, 0, None);
    assert_eq!(blocks.expect("blocks"), 8);
}

#[test]
fn memory_is_copied_set_and_counted() {
    let d = device();
    let stream = d.context.default_stream();
    let (before, total) = d.context.mem_get_info().expect("bytes");
    let numbers: Vec<f32> = (0..N).map(|i| i as f32).collect();
    let mut x = stream.clone_htod(&numbers).expect("a copy");
    let y = stream.clone_dtod(&x).expect("a copy");
    assert_eq!(stream.clone_dtoh(&y).expect("numbers"), numbers);
    stream.memset_zeros(&mut x).expect("zeros");
    assert_eq!(stream.clone_dtoh(&x).expect("numbers"), vec![0.0; N]);
    assert_eq!(stream.clone_dtoh(&y).expect("numbers"), numbers);
    let (during, same) = d.context.mem_get_info().expect("bytes");
    assert_eq!((before - during, same), (2048, total));
    drop((x, y));
    stream.synchronize().expect("frees");
    assert_eq!(d.context.mem_get_info().expect("bytes").0, before);
}

#[test]
fn words_are_set() {
    let d = device();
    let p = d.zeros();
    // SAFETY: ranges inside the buffer.
    unsafe {
        ok(sys::cuMemsetD32_v2(p, 1.5f32.to_bits(), N));
        ok(sys::cuMemsetD16_v2(p + 4, 0x4000, 2));
        ok(sys::cuMemsetD8_v2(p + 8, 0, 4));
        assert_eq!(sys::cuMemsetD32_v2(p + 2, 0, 1), CUresult::CUDA_ERROR_INVALID_VALUE);
        assert_eq!(sys::cuMemsetD8_v2(p, 0, 4 * N + 1), CUresult::CUDA_ERROR_INVALID_VALUE);
    }
    let numbers = d.read(&d.context.default_stream(), p).expect("numbers");
    assert_eq!(numbers[..4], [1.5, f32::from_bits(0x4000_4000), 0.0, 1.5]);
    assert_eq!(numbers[N - 1], 1.5);
}

#[test]
fn a_kernel_runs_and_is_counted() {
    let d = device();
    let stream = d.stream();
    let p = d.zeros();
    let before = ddnnc_emu::report().expect("a report");
    d.add(&stream, p, 2.5).expect("a launch");
    let queued = ddnnc_emu::report().expect("a report");
    assert_eq!(queued.kernels, before.kernels, "nothing has asked for the result yet");
    assert_eq!(d.read(&stream, p).expect("numbers"), vec![2.5; N]);
    let after = ddnnc_emu::report().expect("a report");
    assert_eq!(after.kernels - before.kernels, 1);
    assert_eq!(after.global_read - before.global_read, 4 * N as u64);
    assert_eq!(after.global_written - before.global_written, 4 * N as u64);
    assert_eq!(after.device_to_host - before.device_to_host, 4 * N as u64);
    assert!(after.warp_instructions - before.warp_instructions >= 8 * 10);
}

#[test]
fn parameters_come_in_a_buffer_too() {
    let d = device();
    let p = d.zeros();
    let mut block = Vec::new();
    block.extend(p.to_ne_bytes());
    block.extend(1.25f32.to_ne_bytes());
    block.extend((N as u32).to_ne_bytes());
    let mut bytes = block.len();
    let mut extra: [*mut c_void; 5] =
        [1 as _, block.as_mut_ptr().cast(), 2 as _, (&raw mut bytes).cast(), null_mut()];
    // SAFETY: the function is the kernel, whose parameters these are.
    unsafe {
        let f = raw_function(&d.context, "add");
        ok(sys::cuLaunchKernel(f, 2, 1, 1, 128, 1, 1, 0, null_mut(), null_mut(), extra.as_mut_ptr()));
        bytes = block.len() - 4;
        let code = sys::cuLaunchKernel(f, 2, 1, 1, 128, 1, 1, 0, null_mut(), null_mut(), extra.as_mut_ptr());
        assert_eq!(bytes, 12);
        assert_eq!(code, CUresult::CUDA_ERROR_INVALID_VALUE);
    }
    assert_eq!(d.read(&d.context.default_stream(), p).expect("numbers"), vec![1.25; N]);
}

#[test]
fn a_refused_launch_says_why_and_names_no_place() {
    let d = device();
    // SAFETY: null addresses are what the function must survive; the kernel reads no more than it is given.
    unsafe {
        let f = raw_function(&d.context, "add");
        let (mut p, mut number) = (0u64, 1.0f32);
        let mut given: [*mut c_void; 3] = [(&raw mut p).cast(), (&raw mut number).cast(), null_mut()];
        let refused = |given: &mut [*mut c_void; 3], threads| {
            let each = given.as_mut_ptr();
            let code = sys::cuLaunchKernel(f, 1, 1, 1, threads, 1, 1, 0, null_mut(), each, null_mut());
            assert_eq!(code, CUresult::CUDA_ERROR_INVALID_VALUE);
            ddnnc_emu::last_fault().expect("a text")
        };
        let text = refused(&mut given, 32);
        assert_eq!(text, "launch refused of kernel `add`: parameter 2 of 3 (from 0) has a null address");
        given[2] = (&raw mut number).cast();
        let text = refused(&mut given, 2048);
        assert!(
            text.starts_with("launch refused of kernel `add`: a block of [2048, 1, 1] threads; "),
            "{text}"
        );
    }
}

/// A function of a module of its own, which goes with the context.
fn raw_function(context: &CudaContext, name: &str) -> sys::CUfunction {
    context.bind_to_thread().expect("a context");
    let text = format!("{PTX}\0");
    let name = format!("{name}\0");
    let (mut module, mut function) = (null_mut(), null_mut());
    // SAFETY: places for handles; texts that end with a zero.
    unsafe {
        ok(sys::cuModuleLoadData(&mut module, text.as_ptr().cast()));
        ok(sys::cuModuleGetFunction(&mut function, module, name.as_ptr().cast()));
    }
    function
}

#[test]
fn variables_of_modules_are_found() {
    let d = device();
    let module = d.context.load_module(Ptx::from_src(PTX)).expect("a module");
    let stream = d.context.default_stream();
    let counter = module.get_global("counter", &stream).expect("a variable");
    assert_eq!(stream.clone_dtoh(&counter).expect("bytes"), 7u32.to_ne_bytes());
    fails(module.get_global("nothing", &stream), CUresult::CUDA_ERROR_NOT_FOUND);
    fails(module.load_function("nothing"), CUresult::CUDA_ERROR_NOT_FOUND);
}

#[test]
fn images_that_are_no_ptx_are_refused() {
    let d = device();
    let mut cubin = vec![0u8; 64];
    for magic in [b"\x7fELF", b"\x50\xed\x55\xba", b"\xb1\x43\x62\x46"] {
        cubin[..4].copy_from_slice(magic);
        fails(d.context.load_module(Ptx::from_binary(cubin.clone())), CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU);
    }
    let newer = PTX.replace("sm_80", "sm_100");
    fails(d.context.load_module(Ptx::from_src(newer)), CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU);
    let wrong = PTX.replace("add.f32 ", "add.magic.f32 ");
    fails(d.context.load_module(Ptx::from_src(wrong)), CUresult::CUDA_ERROR_INVALID_PTX);
    assert!(ddnnc_emu::last_fault().expect("a text").contains("magic"));
}

#[test]
fn what_is_wrong_with_ptx_is_in_the_log() {
    let d = device();
    d.context.bind_to_thread().expect("a context");
    let text = format!("{}\0", PTX.replace("add.f32 ", "add.magic.f32 "));
    let mut log = vec![1u8; 200];
    use sys::CUjit_option as O;
    let mut options = [O::CU_JIT_ERROR_LOG_BUFFER, O::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES];
    let mut values: [*mut c_void; 2] = [log.as_mut_ptr().cast(), log.len() as _];
    let mut module = null_mut();
    // SAFETY: arrays of two, a buffer as long as it says, a text that ends with a zero.
    let code = unsafe {
        sys::cuModuleLoadDataEx(
            &mut module,
            text.as_ptr().cast(),
            2,
            options.as_mut_ptr(),
            values.as_mut_ptr(),
        )
    };
    assert_eq!(code, CUresult::CUDA_ERROR_INVALID_PTX);
    let said = CStr::from_bytes_until_nul(&log).expect("a zero").to_str().expect("a text");
    let line = PTX.lines().position(|l| l.contains("add.f32")).expect("the line") + 1;
    assert!(said.starts_with(&format!("PTX line {line}: ")) && said.contains("add.magic.f32"), "{said}");
    assert_eq!(values[1] as usize, said.len());
}

#[test]
fn refused_launches_leave_the_context_sound() {
    let d = device();
    let stream = d.stream();
    let p = d.zeros();
    let launch = |config: LaunchConfig| {
        let (value, n) = (1.0f32, N as u32);
        let mut launch = stream.launch_builder(&d.add);
        launch.arg(&p).arg(&value).arg(&n);
        // SAFETY: the arguments are those of the kernel.
        unsafe { launch.launch(config) }
    };
    let invalid = CUresult::CUDA_ERROR_INVALID_VALUE;
    fails(launch(LaunchConfig { block_dim: (1025, 1, 1), ..grid() }), invalid);
    fails(launch(LaunchConfig { grid_dim: (0, 1, 1), ..grid() }), invalid);
    fails(launch(LaunchConfig { shared_mem_bytes: 50 << 10, ..grid() }), invalid);
    assert!(ddnnc_emu::last_fault().expect("a text").contains("MAX_DYNAMIC_SHARED_SIZE_BYTES"));
    let dynamic = sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
    fails(d.add.set_attribute(dynamic, 228 << 10), invalid);
    d.add.set_attribute(dynamic, 50 << 10).expect("an H100 has them");
    launch(LaunchConfig { shared_mem_bytes: 50 << 10, ..grid() }).expect("a launch");
    assert_eq!(d.read(&stream, p).expect("numbers"), vec![1.0; N]);
}

#[test]
fn wrong_arguments_are_errors() {
    let d = device();
    d.context.bind_to_thread().expect("a context");
    let (value, handle) = (CUresult::CUDA_ERROR_INVALID_VALUE, CUresult::CUDA_ERROR_INVALID_HANDLE);
    let stale = 0x1235 as *mut c_void;
    let mut numbers = [0f32; 4];
    let p = d.zeros();
    // SAFETY: null and invented handles are what the functions must survive.
    unsafe {
        assert_eq!(sys::cuDeviceGetCount(null_mut()), value);
        assert_eq!(sys::cuMemAlloc_v2(null_mut(), 4), value);
        assert_eq!(sys::cuMemAlloc_v2(&mut 0, 0), value);
        assert_eq!(sys::cuMemFree_v2(p + 4), value);
        assert_eq!(sys::cuMemcpyHtoD_v2(p, std::ptr::null(), 4), value);
        assert_eq!(sys::cuMemcpyHtoD_v2(12, numbers.as_ptr().cast(), 4), value);
        assert_eq!(sys::cuMemcpyDtoH_v2(numbers.as_mut_ptr().cast(), p + 4 * N as u64 - 4, 8), value);
        assert_eq!(sys::cuMemcpyDtoD_v2(p, p, 4 * N + 1), value);
        assert_eq!(sys::cuStreamSynchronize(stale.cast()), handle);
        assert_eq!(sys::cuStreamCreate(null_mut(), 0), value);
        assert_eq!(sys::cuStreamDestroy_v2(stale.cast()), handle);
        assert_eq!(sys::cuStreamDestroy_v2(null_mut()), handle);
        assert_eq!(sys::cuEventRecord(stale.cast(), null_mut()), handle);
        assert_eq!(sys::cuEventQuery(null_mut()), handle);
        assert_eq!(sys::cuModuleLoadData(&mut null_mut(), std::ptr::null()), value);
        assert_eq!(sys::cuModuleGetFunction(&mut null_mut(), stale.cast(), c"add".as_ptr()), handle);
        assert_eq!(sys::cuGraphLaunch(stale.cast(), null_mut()), handle);
        assert_eq!(sys::cuMemFreeHost(stale), value);
        let f = raw_function(&d.context, "add");
        let launch =
            |f, parameters| sys::cuLaunchKernel(f, 1, 1, 1, 1, 1, 1, 0, null_mut(), parameters, null_mut());
        assert_eq!(launch(f, null_mut()), value);
        assert_eq!(launch(f, [null_mut(); 3].as_mut_ptr()), value);
        assert_eq!(launch(stale.cast(), null_mut()), handle);
        ok(sys::cuCtxSynchronize());
    }
}

#[test]
fn a_context_goes_with_what_it_had() {
    let d = device();
    let mut free = 0;
    let primary = CudaContext::new(0).expect("the primary context");
    let before = primary.mem_get_info().expect("bytes").0;
    let stream = primary.default_stream();
    let x = stream.alloc_zeros::<f32>(N).expect("memory");
    // SAFETY: a place for the number. The slice is forgotten, so that nothing frees it twice.
    unsafe {
        ok(sys::cuMemGetInfo_v2(&mut free, &mut 0));
        std::mem::forget(x);
        ok(sys::cuDevicePrimaryCtxReset_v2(0));
        assert_eq!(sys::cuCtxSynchronize(), CUresult::CUDA_ERROR_CONTEXT_IS_DESTROYED);
    }
    assert!(free < before);
    assert_eq!(d.context.mem_get_info().expect("bytes").0, before);
    std::mem::forget((stream, primary));
}

/// A function that NVRTC calls at its start, which needs no device.
#[test]
fn nvrtc_lives_with_this_driver() {
    let source = r#"extern "C" __global__ void twice(float *p) { p[threadIdx.x] *= 2.0f; }"#;
    let ptx = nvrtc::compile(source, "twice.cu", "sm_90", &[]);
    let d = device();
    let stream = d.stream();
    let twice = d.context.load_module(ptx).expect("a module").load_function("twice").expect("a kernel");
    let mut x = stream.clone_htod(&vec![3.0f32; 32]).expect("a copy");
    let mut launch = stream.launch_builder(&twice);
    launch.arg(&mut x);
    // SAFETY: the argument is that of the kernel.
    unsafe {
        launch.launch(LaunchConfig { grid_dim: (1, 1, 1), block_dim: (32, 1, 1), shared_mem_bytes: 0 })
    }
    .expect("a launch");
    assert_eq!(stream.clone_dtoh(&x).expect("numbers"), vec![6.0; 32]);
}

/// Products of a warpgroup, as NVRTC prints them now: one block of 128 x 64, with 96 KiB of shared memory.
#[test]
fn products_of_warpgroups_run() {
    let ptx = nvrtc::compile(include_str!("machine/ptx/warpgroup.cu"), "warpgroup.cu", "compute_90a", &[]);
    let d = device();
    let stream = d.stream();
    let gemm = d.context.load_module(ptx).expect("a module").load_function("gemm").expect("a kernel");
    const SHARED: u32 = 96 << 10;
    let attribute = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
    gemm.set_attribute(attribute, SHARED as i32).expect("as much shared memory");
    let (m, n, k) = (128, 64, 128);
    let one = 0x3f80u16;
    let a = stream.clone_htod(&vec![one; m * k]).expect("a copy");
    let b = stream.clone_htod(&vec![one; k * n]).expect("a copy");
    let mut c = stream.alloc_zeros::<f32>(m * n).expect("memory");
    let (columns, depth) = (n as i32, k as i32);
    let mut launch = stream.launch_builder(&gemm);
    launch.arg(&a).arg(&b).arg(&mut c).arg(&columns).arg(&depth);
    let config = LaunchConfig { grid_dim: (1, 1, 1), block_dim: (256, 1, 1), shared_mem_bytes: SHARED };
    // SAFETY: the arguments are those of the kernel.
    unsafe { launch.launch(config) }.expect("a launch");
    assert_eq!(stream.clone_dtoh(&c).expect("numbers"), vec![128.0; m * n]);
}
