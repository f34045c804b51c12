//! The gate that compiled CUDA kernels pass, on a small set of launches; `cargo run --release -p ddnnc-tests --example
//! kernel_gate` holds every kernel of every spec against it.

use ddnnc_cuda::analysis::examine;
use ddnnc_cuda::arch::{Arch, Math, Target};
use ddnnc_cuda::emitted::Emitted;
use ddnnc_ir::{Mode, Op, Precision};
use ddnnc_passes::{Goal, Program};
use ddnnc_tests::gate::{Silent, complaints, gate};
use ddnnc_tests::harness::{model, program, spec};
use std::collections::BTreeSet;

/// The step of a spec with one launch of every kind: of those that differ in counts alone, the first.
fn kinds(name: &str, precision: Precision) -> Program {
    let mut model = model(&spec(name), Mode::Train, 16);
    model.recipe.precision = precision;
    let mut program = program(&model, Goal::Train);
    let mut seen = BTreeSet::new();
    program.launches.retain(|launch| {
        let name = match &launch.op {
            Op::Fused(group) => &group.name,
            op => op.mnemonic(),
        };
        seen.insert(name.replace(|c: char| c.is_ascii_digit() || c == '*', ""))
    });
    program
}

fn pass(precision: Precision, math: Math) {
    let program = kinds("quickstart", precision);
    for arch in Arch::GATED {
        let target = Target { math, ..Target::new(arch) };
        let found = gate(&program, &target, None, &Silent).unwrap_or_else(|e| panic!("{e}")).complaints;
        assert!(found.is_empty(), "{}", found.join("\n"));
    }
}

#[test]
fn kernels_of_a_bf16_step_pass() {
    pass(Precision::Bf16, Math::Exact);
}

#[test]
fn kernels_of_a_tf32_step_pass() {
    pass(Precision::F32, Math::Tf32);
}

/// Losses between the relations of a batch, in one block and in kernels of their own. `ddnnc-cuda/tests/sequences.rs` has them
/// for the other architectures.
#[test]
fn kernels_of_relations_pass() {
    let text = "model relations
        input image : f32[3, 8, 8]
        target label : class[10]
        backbone net(width) { stage s1 = conv(width, 3), conv(width, 3) head = global_avg_pool |> linear(classes) }
        network large = net(64)
        network small = net(32) depth [1]
        distill large -> small { relation(detach = false) }
        train { data = cifar10 }";
    for (batch, arch) in [(8, Arch(100)), (128, Arch(90))] {
        let mut program = program(&model(text, Mode::Train, batch), Goal::Train);
        program.launches.retain(|launch| {
            let name = match &launch.op {
                Op::Fused(group) => &group.name,
                op => op.mnemonic(),
            };
            name.contains("relation")
        });
        let found = gate(&program, &Target::new(arch), None, &Silent).unwrap_or_else(|e| panic!("{e}"));
        assert!(found.kernels > 0 && found.complaints.is_empty(), "{}", found.complaints.join("\n"));
    }
}

/// Wide convolutions, which Hopper multiplies by warpgroups.
#[test]
fn kernels_of_warpgroups_pass() {
    let program = kinds("byot_resnet18", Precision::Bf16);
    let target = Target::new(Arch(90));
    let emitted = Emitted::new(&program, &target).expect("every launch has kernels");
    let kernels = emitted.launches.iter().flat_map(|code| &code.kernels);
    let count = kernels.filter(|k| k.choice.contains("warpgroups")).count();
    assert!(count >= 6, "{count} products by warpgroups");
    let found = gate(&program, &target, None, &Silent).unwrap_or_else(|e| panic!("{e}")).complaints;
    assert!(found.is_empty(), "{}", found.join("\n"));
}

/// Changes a matrix kernel's text, and gives what the gate then says of it.
fn broken(from: &str, to: &str) -> Vec<String> {
    broken_in("quickstart", Arch(80), from, from, to)
}

/// Of the first kernel on matrix units of a spec that holds a text.
fn broken_in(name: &str, arch: Arch, holds: &str, from: &str, to: &str) -> Vec<String> {
    let mut program = kinds(name, Precision::Bf16);
    let target = Target::new(arch);
    let mut emitted = Emitted::new(&program, &target).expect("every launch has kernels");
    let matrix = |k: &ddnnc_cuda::code::Kernel| k.cost.matrix_flops > 0 && k.source.contains(holds);
    let at = emitted.launches.iter().position(|code| code.kernels.iter().any(matrix));
    program.launches =
        vec![program.launches.swap_remove(at.expect("a launch on matrix units with that text"))];
    emitted = Emitted::new(&program, &target).expect("as before");
    let kernels = &mut emitted.launches[0].kernels;
    let at = kernels.iter().position(matrix).expect("found above");
    assert!(kernels[at].source.contains(from), "the kernel's text no longer has `{from}`");
    kernels[at].source = kernels[at].source.replace(from, to);
    let kernel = kernels[at].clone();
    let compiled = examine(&emitted, target.arch, true, None, &Silent).unwrap_or_else(|e| panic!("{e}"));
    complaints(&kernel, &compiled[emitted.text_of[0][at]])
}

#[test]
fn a_kernel_without_matrix_instructions_is_seen() {
    let found = broken("mma.sync.aligned", "// mma.sync.aligned");
    assert!(found.iter().any(|c| c.contains("no matrix instruction")), "{found:?}");
}

#[test]
fn a_kernel_without_asynchronous_copies_is_seen() {
    let found = broken("cp.async.c", "// cp.async.c");
    assert!(found.iter().any(|c| c.contains("no asynchronous copy")), "{found:?}");
}

#[test]
fn a_kernel_that_spills_is_seen() {
    // So few registers that the accumulators cannot stay in them.
    let found = broken("BLOCK_OF(THREADS)", "__maxnreg__(32)");
    assert!(found.iter().any(|c| c.contains("spilled")), "{found:?}");
}

#[test]
fn products_that_wait_for_one_another_are_seen() {
    // A stride leaves pixels that meet no tap: there sums go past the products.
    let phases = "depth = 0; }";
    let found = broken_in("byot_resnet18", Arch(90), phases, "if (tiles <= 0) return;", "");
    assert!(found.iter().any(|c| c.contains("wait for one another")), "{found:?}");
}
