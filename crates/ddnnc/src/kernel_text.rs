//! `compile --emit cuda|ptx|sass`: the kernels of a program as text, in the order in which it first needs them.

use crate::Failure;
use crate::cli::Emit;
use crate::device_args::CodeArgs;
use crate::launches::name;
use ddnnc_cuda::arch::{Arch, Math, Target};
use ddnnc_cuda::binaries::{Build, Built, Progress, Unit};
use ddnnc_cuda::cache::Cache;
use ddnnc_cuda::code::EmitError;
use ddnnc_cuda::emit::PRELUDE;
use ddnnc_cuda::emitted::{Emitted, Use};
use ddnnc_cuda::machine_code::{DisassemblyError, disassemble, nvdisasm};
use ddnnc_cuda::nvrtc::{self, NvrtcError, Output};
use ddnnc_passes::Program;
use std::fmt::Write;

/// What kernels are made for where the user does not say.
const DEFAULT_ARCH: Arch = Arch(90);

/// Whether a phase is one of kernels.
pub fn is_kernels(emit: Option<Emit>) -> bool {
    matches!(emit, Some(Emit::Cuda | Emit::Ptx | Emit::Sass))
}

/// A launch without a kernel: the command line's fault where that names the tile.
pub fn no_kernel(error: &EmitError, target: &Target) -> Failure {
    let message = format!("a launch has no CUDA kernel: {error}");
    if target.tile.is_some() { Failure::usage(message) } else { Failure::input(message) }
}

/// The kernels of a program as `emit` says; equal programs give equal text.
pub fn text(program: &Program, emit: Emit, args: &CodeArgs) -> Result<String, Failure> {
    let target = args.kernels.target(args.arch.unwrap_or(DEFAULT_ARCH));
    let output = match emit {
        Emit::Ptx => Some(Output::Ptx),
        Emit::Sass => Some(Output::Cubin),
        _ => None,
    };
    if output.is_some() {
        nvrtc::knows(target.arch).map_err(no_compiler)?;
    }
    if emit == Emit::Sass {
        nvdisasm().map_err(no_disassembly)?;
    }
    let emitted = Emitted::new(program, &target).map_err(|e| no_kernel(&e, &target))?;
    let built = match output {
        Some(output) => compile(&emitted, output, target.arch)?,
        None => Vec::new(),
    };
    let mut text = head(program, &emitted, &target);
    if emit == Emit::Cuda {
        let _ = write!(text, "\n// ---- every kernel begins with\n\n{PRELUDE}");
    }
    for (i, uses) in emitted.texts.iter().enumerate() {
        let kernel = emitted.first(i);
        let _ = writeln!(text, "\n// ---- kernel {} of {}: {}", i + 1, emitted.texts.len(), kernel.name);
        uses.iter().for_each(|&of| use_line(&mut text, program, &emitted, of));
        text.push('\n');
        match built.get(i) {
            None => text.push_str(kernel.source.strip_prefix(PRELUDE).unwrap_or(&kernel.source).trim_start()),
            Some(built) if emit == Emit::Ptx => text.push_str(&String::from_utf8_lossy(&built.binary.bytes)),
            Some(built) => text.push_str(&disassemble(&built.binary.bytes).map_err(no_disassembly)?),
        }
        if !text.ends_with('\n') {
            text.push('\n');
        }
    }
    Ok(text)
}

fn head(program: &Program, emitted: &Emitted, target: &Target) -> String {
    let math = match target.math {
        Math::Exact => "f32",
        Math::Tf32 => "tf32",
    };
    let calls: usize = emitted.launches.iter().map(|code| code.kernels.len()).sum();
    format!(
        "// {}: {} launches, {calls} calls of {} kernels, for {}; products of f32 values in {math}\n",
        program.name,
        program.launches.len(),
        emitted.texts.len(),
        target.arch,
    )
}

/// `// launch 12, conv2d+stats @ full.s1: grid 4x1x1 of 128 threads, 49152 bytes of shared memory; tile 64x64x32`
fn use_line(text: &mut String, program: &Program, emitted: &Emitted, of: Use) {
    let (launch, kernel) = (&program.launches[of.launch], emitted.kernel(of));
    let [x, y, z] = kernel.grid;
    let _ = write!(text, "// launch {}", of.launch);
    if emitted.launches[of.launch].kernels.len() > 1 {
        let _ = write!(text, ", call {}", of.kernel + 1);
    }
    let _ = write!(text, ", {}", name(&launch.op));
    if !launch.path.is_empty() {
        let _ = write!(text, " @ {}", launch.path);
    }
    let _ = write!(text, ": grid {x}x{y}x{z} of {} threads", kernel.block);
    if kernel.dynamic_shared > 0 {
        let _ = write!(text, ", {} bytes of shared memory", kernel.dynamic_shared);
    }
    if !kernel.choice.is_empty() {
        let _ = write!(text, "; {}", kernel.choice);
    }
    text.push('\n');
}

/// Tells nobody: the text is what was asked for.
pub struct Silent;

impl Progress for Silent {
    fn compiling(&self, _: usize, _: usize) {}
    fn not_kept(&self, _: &std::io::Error) {}
}

fn compile(emitted: &Emitted, output: Output, arch: Arch) -> Result<Vec<Built>, Failure> {
    let cache = Cache::default_folder().map(Cache::new);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let units: Vec<Unit> = (0..emitted.texts.len())
        .map(|i| Unit { name: &emitted.first(i).name, source: &emitted.first(i).source })
        .collect();
    Build { arch, output, cache: cache.as_ref(), threads }.run(&units, &Silent).map_err(no_compiler)
}

/// A compiler that failed.
pub fn no_compiler(error: NvrtcError) -> Failure {
    match error {
        NvrtcError::Unknown { .. } => Failure::usage(format!("--arch: {error}")),
        error => Failure::environment(error),
    }
}

/// A disassembler that failed.
pub fn no_disassembly(error: DisassemblyError) -> Failure {
    Failure::environment(error)
}
