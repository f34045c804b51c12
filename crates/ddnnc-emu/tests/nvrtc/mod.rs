//! NVRTC beside the emulator.

use cudarc::nvrtc::{CompileOptions, Ptx, compile_ptx_with_opts};
use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};

/// Compiles a text of that name, with these options besides.
pub fn compile(source: &str, name: &str, arch: &'static str, options: &[&str]) -> Ptx {
    ddnnc_emu::install().expect("the shared library");
    let folder = std::env::var_os("DDNNC_NVRTC").expect("`.ci/nvrtc` installs NVRTC");
    let path = std::path::Path::new(&folder).join("libnvrtc.so.13");
    // SAFETY: NVRTC's initialisers; the library stays loaded.
    let nvrtc = unsafe { Library::open(Some(&path), RTLD_NOW | RTLD_GLOBAL) }.expect("NVRTC");
    let options = CompileOptions {
        arch: Some(arch),
        name: Some(name.to_owned()),
        options: options.iter().map(|&option| option.to_owned()).collect(),
        ..Default::default()
    };
    let ptx = compile_ptx_with_opts(source, options).expect("it compiles");
    std::mem::forget(nvrtc);
    ptx
}
