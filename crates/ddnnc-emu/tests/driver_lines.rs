//! Lines of the CUDA source in the reports of kernels that NVRTC has compiled.

mod device;
mod nvrtc;

use cudarc::driver::sys::CUresult;
use cudarc::driver::{LaunchConfig, PushKernelArg};
use cudarc::nvrtc::Ptx;
use device::{Device, device, fails};

/// Each kernel writes one number before its buffer, by itself and in a function of a function.
const SOURCE: &str = "\
__device__ __forceinline__ void put(float* p, int i) {
    p[i] = 1.0f;
}
__device__ __forceinline__ void put_before(float* p, int i) {
    put(p, i - 1);
}
extern \"C\" __global__ void plain(float* p) {
    p[threadIdx.x] = 2.0f;
    p[-1] = 3.0f;  // here
}
extern \"C\" __global__ void inlined(float* p) {
    p[threadIdx.x] = 2.0f;
    put_before(p, 0);
}
";

/// The lines of the report of a kernel's fault but the first, with each `PTX line` found to be one of a store.
fn places(d: &Device, ptx: &Ptx, kernel: &str) -> Vec<String> {
    let function = d.context.load_module(ptx.clone()).expect("a module").load_function(kernel).expect(kernel);
    let stream = d.stream();
    let p = d.zeros();
    let mut launch = stream.launch_builder(&function);
    launch.arg(&p);
    let one = LaunchConfig { grid_dim: (1, 1, 1), block_dim: (1, 1, 1), shared_mem_bytes: 0 };
    // SAFETY: the argument is that of the kernel.
    unsafe { launch.launch(one) }.expect("it is queued");
    fails(stream.synchronize(), CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
    let text = ddnnc_emu::last_fault().expect("a text");
    let mut lines = text.lines();
    let first = lines.next().expect("a line");
    assert!(first.starts_with(&format!("access out of bounds in kernel `{kernel}`, PTX line ")), "{text}");
    let number = first.split("PTX line ").nth(1).and_then(|rest| rest.split(',').next()).expect("a number");
    let index: usize = number.parse().expect("a number");
    assert!(ptx.to_src().lines().nth(index - 1).is_some_and(|line| line.contains("st.global")), "{text}");
    lines.map(|line| line.replace(&format!("PTX line {number}: "), "")).collect()
}

#[test]
fn reports_name_lines_and_show_what_stands_there() {
    let folder = std::env::temp_dir().join(format!("ddnnc-emu-lines-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let file = folder.join("put.cu");
    std::fs::write(&file, SOURCE).expect("a file");
    let name = file.to_str().expect("a path of ASCII");
    let ptx = nvrtc::compile(SOURCE, name, "sm_90", &["-lineinfo"]);
    let plain = places(&device(), &ptx, "plain");
    let inlined = places(&device(), &ptx, "inlined");
    std::fs::remove_dir_all(&folder).expect("it is there");
    assert_eq!(plain, [format!("  {name}:9:5"), "    9 | p[-1] = 3.0f;  // here".to_owned()]);
    let calls = format!("  {name}:2:5, inlined at {name}:5:5, inlined at {name}:13:5");
    assert_eq!(inlined, [calls, "    2 | p[i] = 1.0f;".to_owned()]);
    // The file is gone, and the line is still known.
    assert_eq!(places(&device(), &ptx, "plain"), [format!("  {name}:9:5")]);
}

#[test]
fn a_source_that_is_in_no_file_is_named_as_seen_from_here() {
    let ptx = nvrtc::compile(SOURCE, "./put.cu", "sm_90", &["-lineinfo"]);
    assert_eq!(places(&device(), &ptx, "plain"), ["  put.cu:9:5"]);
    let comment: String = SOURCE.lines().map(|line| format!("//|{line}\n")).collect();
    let with_source = Ptx::from_src(format!("{}\n// source 1 text of put\n{comment}", ptx.to_src()));
    let expected = ["  text of put:9:5", "    9 | p[-1] = 3.0f;  // here"];
    assert_eq!(places(&device(), &with_source, "plain"), expected);
}

#[test]
fn without_line_information_there_are_no_places() {
    let ptx = nvrtc::compile(SOURCE, "put.cu", "sm_90", &[]);
    assert!(places(&device(), &ptx, "inlined").is_empty());
}
