//! What compiled CUDA kernels must keep: nothing spilled, nothing in local memory, matrix units and asynchronous copies
//! where they belong.

use ddnnc_cuda::analysis::{AnalysisError, Compiled, examine, is_bf16};
use ddnnc_cuda::arch::{Math, Target};
use ddnnc_cuda::binaries::Progress;
use ddnnc_cuda::cache::Cache;
use ddnnc_cuda::code::Kernel;
use ddnnc_cuda::emitted::Emitted;
use ddnnc_ir::{Conv, Group, Op};
use ddnnc_passes::{Launch, Program};

/// Whether a launch multiplies matrices: convolutions but depthwise ones, and matrix products.
pub fn multiplies(program: &Program, launch: &Launch) -> bool {
    let depthwise = |conv: &Conv, channels: usize| conv.groups > 1 && conv.groups == channels;
    let step = |op: &Op, channels: usize| match op {
        Op::Conv2d(conv) | Op::Conv2dGradInput { conv, .. } | Op::Conv2dGradWeight { conv, .. } => {
            !depthwise(conv, channels)
        }
        Op::MatMul { .. } => true,
        _ => false,
    };
    match &launch.op {
        Op::Fused(group) => {
            let channels = |s: &ddnnc_ir::Step| {
                s.operands.first().and_then(|&l| Group::ty(group, l)?.dims().get(1).copied()).unwrap_or(0)
            };
            group.steps.iter().any(|s| step(&s.op, channels(s)))
        }
        op => {
            let first = launch.operands.first().map(|&b| &program.buffer(b).ty);
            step(op, first.and_then(|ty| ty.dims().get(1).copied()).unwrap_or(0))
        }
    }
}

/// What is wrong with a compiled kernel.
pub fn complaints(kernel: &Kernel, compiled: &Compiled) -> Vec<String> {
    let mut found = Vec::new();
    let mut complain = |wrong: bool, what: String| {
        if wrong {
            found.push(format!("{} ({}): {what}", kernel.name, kernel.choice));
        }
    };
    let resources = compiled.resources;
    complain(resources.spills > 0, format!("{} bytes spilled", resources.spills));
    complain(resources.stack > 0, format!("{} bytes of stack", resources.stack));
    complain(resources.serialized, "products of warpgroups wait for one another".to_owned());
    complain(compiled.resident_blocks == 0, "no block fits on a multiprocessor".to_owned());
    match compiled.instructions {
        None => complain(true, "not disassembled".to_owned()),
        Some(count) => {
            complain(count.local > 0, format!("{} accesses to local memory", count.local));
            let matrix = kernel.cost.matrix_flops > 0;
            complain(matrix && count.matrix == 0, "no matrix instruction".to_owned());
            complain(matrix && count.async_copies == 0, "no asynchronous copy".to_owned());
        }
    }
    found
}

/// Tells nobody.
pub struct Silent;

impl Progress for Silent {
    fn compiling(&self, _: usize, _: usize) {}
    fn not_kept(&self, _: &std::io::Error) {}
}

/// What the gate says of a program.
pub struct Verdict {
    /// Distinct kernels that were examined.
    pub kernels: usize,
    /// What is wrong.
    pub complaints: Vec<String>,
}

/// Compiles the kernels of a program for the target, and holds them against the gate.
///
/// # Errors
///
/// What cannot be compiled or disassembled.
pub fn gate(
    program: &Program,
    target: &Target,
    cache: Option<&Cache>,
    progress: &dyn Progress,
) -> Result<Verdict, String> {
    let emitted = Emitted::new(program, target).map_err(|e| e.to_string())?;
    let compiled =
        examine(&emitted, target.arch, true, cache, progress).map_err(|e: AnalysisError| e.to_string())?;
    let mut found = Vec::new();
    for (index, launch) in program.launches.iter().enumerate() {
        let name = match &launch.op {
            Op::Fused(group) => &group.name,
            op => op.mnemonic(),
        };
        let place = format!("{} {name} @ {}", target.arch, launch.path);
        let kernels = &emitted.launches[index].kernels;
        for (kernel, &text) in kernels.iter().zip(&emitted.text_of[index]) {
            let of_kernel = complaints(kernel, &compiled[text]);
            found.extend(of_kernel.into_iter().map(|c| format!("{place}: {c}")));
        }
        let on_matrix_units = kernels.iter().any(|k| k.cost.matrix_flops > 0);
        let wants = is_bf16(program, launch) || target.math == Math::Tf32;
        if wants && multiplies(program, launch) && !on_matrix_units {
            found.push(format!("{place}: products are not on matrix units"));
        }
    }
    Ok(Verdict { kernels: compiled.len(), complaints: found })
}
