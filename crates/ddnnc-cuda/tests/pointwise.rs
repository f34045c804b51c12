//! Elementwise groups: maps, sums over rows and channels, and what follows from sums.

mod common;

use common::EmulatedDevice;
use common::compare::check;
use ddnnc_cases::fixed_groups::{
    ADD, EPS, MUL, RELU, RELU_GRAD, convolution_groups, overwritten, rows, vector,
};
use ddnnc_cases::group::{Builder, group_of};
use ddnnc_cases::random_group::random_group;
use ddnnc_cases::{Case, cases};
use ddnnc_cuda::arch::{Arch, Target};
use ddnnc_cuda::code::LaunchCode;
use ddnnc_cuda::emit::{emit_group, group_of as group_of_launch};
use ddnnc_cuda::nvrtc::{self, Output};
use ddnnc_emu::Order;
use ddnnc_ir::{DType, GroupKind, Layout, Local, Op, ReduceKind, Shape, UnaryKind, ValueType};
use ddnnc_passes::may_overwrite;
use std::collections::BTreeSet;

fn emitted(case: &Case, arch: Arch) -> LaunchCode {
    let program = case.program(&[]);
    let launch = program.launches.iter().find(|l| l.op == case.op).expect("the launch");
    emit_group(&group_of_launch(&program, launch), &Target::new(arch))
        .unwrap_or_else(|e| panic!("{case:?}: {e}"))
}

/// Operators that are elementwise groups by themselves.
fn operators() -> Vec<Case> {
    let mut all = cases();
    all.retain(|case| {
        let program = case.program(&[]);
        let launch = program.launches.iter().find(|l| l.op == case.op).expect("the launch");
        group_of_launch(&program, launch).kind == GroupKind::Pointwise
    });
    all
}

/// Statistics of a map in batches of several tiles, with the running statistics that follow.
fn statistics(dims: [usize; 4], dtype: DType) -> Case {
    let mut b = Builder::new(GroupKind::Pointwise);
    let x = b.operand(rows(dims).with_dtype(dtype));
    let y = b.step(Op::Unary { kind: UnaryKind::Silu }, &[x]);
    let stats = b.steps(Op::ChannelStats, &[y]);
    let old = b.operand(vector(dims[1]));
    let new = b.step(Op::Ema { momentum: 0.1, scale: 1.25 }, &[old, stats[1]]);
    b.finish(&[y, stats[0], stats[1], new])
}

/// The sums of a norm's backward pass, of three sub-nets of which two are alike.
fn gains(dtype: DType) -> Case {
    let mut b = Builder::new(GroupKind::Pointwise);
    let mut results = Vec::new();
    for images in [6, 2, 6] {
        let map = rows([images, 24, 7, 9]).with_dtype(dtype);
        let (saved, dy, x) = (b.operand(map.clone()), b.operand(map.clone()), b.operand(map));
        let (mean, var) = (b.operand(vector(24)), b.operand(vector(24)));
        let dz = b.step(RELU_GRAD, &[saved, dy]);
        results.push(dz);
        results.extend(b.steps(Op::NormalizeGradReduce { eps: EPS }, &[x, mean, var, dz]));
    }
    let (a, c) = (results[1], results[4]);
    results.push(b.step(ADD, &[a, c]));
    b.finish(&results)
}

/// An attention map: the mean square over channels, of more channels than a tile has.
fn attention(channels: usize) -> Case {
    let mut b = Builder::new(GroupKind::Pointwise);
    let x = b.operand(rows([3, channels, 5, 4]));
    let square = b.step(Op::Unary { kind: UnaryKind::Square }, &[x]);
    let mean = b.step(Op::Reduce { kind: ReduceKind::Mean, axes: vec![1] }, &[square]);
    let half = b.step(Op::Scale { factor: 0.5 }, &[mean]);
    let bias = b.step(Op::Reduce { kind: ReduceKind::Sum, axes: vec![0, 2, 3] }, &[x]);
    b.finish(&[mean, half, bias])
}

/// Normalised by its own statistics: the sum must be whole first, and the result may lie on the operand.
fn by_its_own() -> Case {
    let mut b = Builder::new(GroupKind::Pointwise);
    let x = b.operand(rows([4, 12, 6, 6]));
    let y = b.step(RELU, &[x]);
    let stats = b.steps(Op::ChannelStats, &[y]);
    let (gain, bias) = (b.operand(vector(12)), b.operand(vector(12)));
    let z = b.step(Op::Normalize { eps: EPS, batch_stats: true }, &[y, stats[0], stats[1], gain, bias]);
    let again = b.step(MUL, &[z, x]);
    b.finish(&[y, z, again])
}

/// Sums of a row-major map run by themselves; the map of the other step may lie on what they read.
fn row_major_sums() -> Case {
    let mut b = Builder::new(GroupKind::Pointwise);
    let x = b.operand(ValueType::f32([3, 5, 4, 6]));
    let y = b.step(Op::Scale { factor: -3.0 }, &[x]);
    let stats = b.steps(Op::ChannelStats, &[x]);
    b.finish(&[y, stats[0], stats[1]])
}

fn groups() -> Vec<Case> {
    let mut all =
        vec![overwritten(), attention(64), attention(1028), attention(263), by_its_own(), row_major_sums()];
    for dtype in [DType::F32, DType::Bf16] {
        all.extend([statistics([3, 24, 5, 7], dtype), statistics([9, 40, 31, 37], dtype), gains(dtype)]);
    }
    all
}

#[test]
fn kernels_compile_without_spills() {
    let mut all = groups();
    all.extend((0..6).map(random_group));
    let mut seen = BTreeSet::new();
    all.extend(
        operators().into_iter().filter(|case| {
            seen.insert((case.op.mnemonic(), case.operands[0].dtype, case.operands[0].layout))
        }),
    );
    let mut wrong = Vec::new();
    for case in &all {
        for arch in [Arch(80), Arch(120)] {
            for kernel in &emitted(case, arch).kernels {
                match nvrtc::compile(&kernel.name, &kernel.source, arch, Output::Cubin) {
                    Err(e) => wrong.push(format!("{case:?}: {e}")),
                    Ok(binary) => {
                        let well =
                            binary.log.contains(" 0 bytes spill stores") && !binary.log.contains("warning");
                        if !well {
                            wrong.push(format!("{case:?}: {}", binary.log));
                        }
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn operators_agree_with_the_reference() {
    check(&operators());
}

#[test]
fn groups_agree_with_the_reference() {
    check(&groups());
}

#[test]
fn random_groups_agree_with_the_reference() {
    check(&(0..24).map(random_group).collect::<Vec<_>>());
}

#[test]
fn convolutions_with_what_follows_agree_with_the_reference() {
    let all: Vec<Case> =
        [DType::F32, DType::Bf16].into_iter().flat_map(convolution_groups).map(|c| c.1).collect();
    check(&all);
}

/// What can be done at once is one kernel.
#[test]
fn groups_are_one_kernel() {
    for case in [statistics([9, 40, 31, 37], DType::F32), attention(64), attention(1028)] {
        assert_eq!(emitted(&case, Arch(80)).kernels.len(), 1, "{case:?}");
    }
}

/// The sums of thousands of tiles are merged in two levels.
#[test]
fn sums_of_many_tiles_agree_with_the_reference() {
    let case = statistics([70, 8, 64, 64], DType::F32);
    let code = emitted(&case, Arch(80));
    assert!(code.kernels[0].grid[0] > 64 && code.counters > 2, "{:?}", code.kernels[0].grid);
    let operands = case.draw(7);
    let expected = case.reference(&operands);
    let found = case.run(&EmulatedDevice::new(Order::Random(1)), &operands, &[]).expect("runs");
    for (expected, found) in expected.iter().zip(&found) {
        let wrong = expected.iter().zip(found).filter(|(e, f)| (*e - f64::from(**f)).abs() <= 4e-6).count();
        assert_eq!(wrong, expected.len());
    }
}

/// Each result on each operand that it may lie on has the bits of a run apart.
#[test]
fn results_may_lie_on_operands() {
    let device = EmulatedDevice::new(Order::Random(2));
    let mut tried = 0;
    for case in groups().into_iter().chain((0..16).map(random_group)) {
        if case.operands.iter().any(|ty| ty.elements() > 1 << 15) {
            continue;
        }
        let operands = case.draw(3);
        let apart = case.run(&device, &operands, &[]).expect("runs");
        let count = case.results().len();
        let mut places: Vec<Option<usize>> = vec![None; count];
        for r in 0..count {
            let free = may_overwrite(&case.op, r).into_iter().find(|i| !places.contains(&Some(*i)));
            places[r] = free;
        }
        if places.iter().all(Option::is_none) {
            continue;
        }
        tried += 1;
        let found = case.run(&device, &operands, &places).expect("runs in place");
        let bits = |all: &[Vec<f32>]| all.iter().flatten().map(|x| x.to_bits()).collect::<Vec<_>>();
        assert!(bits(&apart) == bits(&found), "{places:?}\n{case:?}");
    }
    assert!(tried > 4, "{tried}");
}

/// A map row-major, with channel vectors.
#[test]
fn row_major_maps_agree_with_the_reference() {
    let mut b = Builder::new(GroupKind::Pointwise);
    let x = b.operand(ValueType::f32([3, 5, 4, 6]));
    let rng = b.operand(ValueType::i64([2]));
    let bias = b.operand(vector(5));
    let y = b.step(Op::BiasAdd, &[x, bias]);
    let y = b.step(Op::Dropout { p: 0.3, site: 4 }, &[y, rng]);
    let small = b.operand(ValueType::f32([3, 6]));
    let op = Op::Broadcast { shape: Shape::from([3, 5, 4, 6]), axes: vec![0, 3], layout: Layout::RowMajor };
    let wide = b.step(op, &[small]);
    let z = b.step(ADD, &[y, wide]);
    let case = b.finish(&[y, z]);
    assert!(group_of(&case).results.iter().all(|l| matches!(l, Local::Step { .. })));
    check(&[case]);
}
