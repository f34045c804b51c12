//! Convolutions in their three directions, alone and with what surrounds them, against the reference evaluator, on the
//! emulator, in five orders of warps with every check on.

mod common;

use common::agree::check_all;
use ddnnc_cases::fixed_groups::{ADD, EPS, RELU, RELU_GRAD, convolution_groups, rows, vector};
use ddnnc_cases::group::{Builder, group_of};
use ddnnc_cases::{Case, cases};
use ddnnc_cuda::arch::{Arch, Math, Target};
use ddnnc_cuda::emit::{emit_group, single};
use ddnnc_ir::{Conv, DType, GroupKind, Local, Op, ValueType, is_convolution};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

fn target(math: Math) -> Target {
    Target { math, ..Target::new(Arch(80)) }
}

fn convolutions(dtype: DType) -> Vec<Case> {
    let mut all = cases();
    all.retain(|c| is_convolution(&c.op) && c.operands[0].dtype == dtype);
    all
}

#[test]
fn exact() {
    check_all((1..).zip(&convolutions(DType::F32)), &target(Math::Exact), 5);
}

#[test]
fn tf32() {
    check_all((1..).zip(&convolutions(DType::F32)), &target(Math::Tf32), 5);
}

#[test]
fn bf16() {
    check_all((1..).zip(&convolutions(DType::Bf16)), &target(Math::Exact), 5);
}

/// The three directions of one convolution.
fn directions(x: [usize; 4], outputs: usize, kernel: [usize; 2], conv: Conv, dtype: DType) -> Vec<Case> {
    let extent =
        |i: usize| (x[2 + i] + 2 * conv.pad[i] - conv.dilation[i] * (kernel[i] - 1) - 1) / conv.stride[i] + 1;
    let map = |d: [usize; 4]| rows(d).with_dtype(dtype);
    let y = map([x[0], outputs, extent(0), extent(1)]);
    let w = ValueType::f32([outputs, x[1] / conv.groups, kernel[0], kernel[1]]).with_dtype(dtype);
    let input = [x[2], x[3]];
    vec![
        Case { op: Op::Conv2d(conv), operands: vec![map(x), w.clone()] },
        Case { op: Op::Conv2dGradInput { conv, input }, operands: vec![y.clone(), w] },
        Case { op: Op::Conv2dGradWeight { conv, kernel }, operands: vec![map(x), y] },
    ]
}

fn geometry(stride: usize, pad: usize, groups: usize) -> Conv {
    Conv { stride: [stride; 2], pad: [pad; 2], dilation: [1; 2], groups }
}

/// What the fixed cases do not reach: maps of one pixel, whole chunks and odd ones, groups that fill a tile, several
/// runs of the depth, phases of unlike depths.
#[test]
fn more_geometries() {
    let list = [
        ([3, 64, 1, 1], 48, [1, 1], geometry(1, 0, 1)),
        ([1, 16, 1, 1], 8, [3, 3], geometry(1, 1, 1)),
        ([2, 24, 7, 6], 40, [3, 3], geometry(2, 1, 1)),
        ([2, 64, 8, 8], 64, [3, 3], geometry(1, 1, 2)),
        ([1, 24, 9, 9], 12, [3, 3], geometry(1, 1, 3)),
        ([1, 32, 5, 5], 40, [5, 5], geometry(3, 2, 1)),
        ([4, 8, 13, 11], 32, [1, 1], geometry(2, 0, 1)),
        ([1, 256, 3, 3], 16, [3, 3], geometry(1, 1, 1)),
    ];
    for dtype in [DType::F32, DType::Bf16] {
        let all: Vec<Case> = list.iter().flat_map(|&(x, o, k, c)| directions(x, o, k, c, dtype)).collect();
        check_all((1..).zip(&all), &target(Math::Exact), 2);
        if dtype == DType::F32 {
            check_all((1..).zip(&all), &target(Math::Tf32), 2);
        }
    }
}

/// Hopper's warpgroups, in tiles of every shape; what surrounds the products is that of any bf16 product.
fn by_warpgroups(tile: [usize; 3]) -> Target {
    Target { tile: Some(tile), ..Target::new(Arch(90)) }
}

#[test]
fn tiles_of_warpgroups() {
    let list = [
        ([3, 64, 3, 3], 72, [3, 3], geometry(1, 1, 1)),
        ([2, 24, 7, 6], 40, [3, 3], geometry(2, 1, 1)),
        ([4, 136, 5, 5], 264, [1, 1], geometry(1, 0, 1)),
        ([1, 128, 4, 4], 128, [3, 3], geometry(1, 1, 2)),
    ];
    let all: Vec<Case> = list.iter().flat_map(|&(x, o, k, c)| directions(x, o, k, c, DType::Bf16)).collect();
    let tiles = [
        [64, 64, 64],
        [64, 128, 64],
        [128, 64, 64],
        [128, 128, 64],
        [256, 64, 64],
        [128, 256, 64],
        [256, 128, 64],
    ];
    let alone = single(&all[0].op, all[0].operands.clone(), all[0].results());
    for tile in tiles {
        check_all((1..).zip(&all), &by_warpgroups(tile), 2);
        let code = emit_group(&alone, &by_warpgroups(tile)).expect("kernels");
        let product = code.kernels.iter().find(|k| k.cost.matrix_flops > 0).expect("a product");
        assert!(product.choice.ends_with("warpgroups"), "{tile:?}: {}", product.choice);
    }
}

#[test]
fn groups_by_warpgroups() {
    let target = by_warpgroups([64, 64, 64]);
    let mut all: Vec<(u64, Case)> =
        (100..).zip(convolution_groups(DType::Bf16).into_iter().map(|c| c.1)).collect();
    all.extend((2000..2048).map(|seed| (seed, random_convolutions(seed))));
    // Groups of channels that do not fill a tile cannot have something behind them in it.
    all.retain(|(_, case)| {
        let code = emit_group(group_of(case), &target);
        code.is_ok_and(|c| c.kernels.iter().any(|k| k.choice.ends_with("warpgroups")))
    });
    assert!(all.len() >= 28, "{}", all.len());
    all.truncate(28);
    check_all(all.iter().map(|(seed, case)| (*seed, case)), &target, 2);
}

#[test]
fn exact_groups() {
    let all = convolution_groups(DType::F32);
    check_all((100..).zip(all.iter().map(|c| &c.1)), &target(Math::Exact), 5);
}

#[test]
fn tf32_groups() {
    let all = convolution_groups(DType::F32);
    check_all((100..).zip(all.iter().map(|c| &c.1)), &target(Math::Tf32), 5);
}

#[test]
fn bf16_groups() {
    let all = convolution_groups(DType::Bf16);
    check_all((100..).zip(all.iter().map(|c| &c.1)), &target(Math::Exact), 5);
}

/// Input gradients that meet in a sum before anything else happens to them: one convolution of the operands' sum.
#[test]
fn sums_of_convolutions() {
    for dtype in [DType::F32, DType::Bf16] {
        let act = |dims: [usize; 4]| rows(dims).with_dtype(dtype);
        let mut b = Builder::new(GroupKind::Convolution);
        let w = b.operand(ValueType::f32([24, 16, 3, 3]).with_dtype(dtype));
        let op = Op::Conv2dGradInput { conv: geometry(2, 1, 1), input: [9, 8] };
        let residual = b.operand(act([2, 16, 9, 8]));
        let mut sum = residual;
        for _ in 0..3 {
            let dy = b.operand(act([2, 24, 5, 4]));
            let dx = b.step(op.clone(), &[dy, w]);
            sum = b.step(ADD, &[sum, dx]);
        }
        let saved = b.operand(act([2, 16, 9, 8]));
        let z = b.step(RELU_GRAD, &[saved, sum]);
        let case = b.finish(&[z]);
        check_all([(7, &case)], &target(Math::Exact), 5);
        let code = emit_group(group_of(&case), &target(Math::Exact)).expect("kernels");
        let products = code.kernels.iter().filter(|k| k.name == "convolution_input").count();
        assert_eq!((products, code.kernels.len()), (1, 2), "one product, behind the packing of its weights");
    }
}

/// An operand of a convolution: as it is, normalised, a sum, or with a bias, which must not reach the padding.
fn prologue(b: &mut Builder, kind: usize, ty: ValueType) -> Local {
    let channels = ty.dims()[1];
    let x = b.operand(ty.clone());
    match kind {
        0 => x,
        1 => {
            let mut all = vec![x];
            all.extend((0..4).map(|_| b.operand(vector(channels))));
            let y = b.step(Op::Normalize { eps: EPS, batch_stats: false }, &all);
            b.step(RELU, &[y])
        }
        2 => {
            let other = b.operand(ty);
            b.step(ADD, &[x, other])
        }
        _ => {
            let bias = b.operand(vector(channels));
            b.step(Op::BiasAdd, &[x, bias])
        }
    }
}

/// What follows a convolution's result: nothing, statistics, a sum, a gradient and its sums, or a bias and ReLU.
fn epilogue(b: &mut Builder, kind: usize, y: Local, results: &mut Vec<Local>) {
    let ty = b.ty(y);
    let channels = ty.dims()[1];
    match kind {
        0 => results.push(y),
        1 => {
            results.push(y);
            results.extend(b.steps(Op::ChannelStats, &[y]));
        }
        2 => {
            let other = b.operand(ty);
            results.push(b.step(ADD, &[y, other]));
        }
        3 => {
            let (saved, x) = (b.operand(ty.clone()), b.operand(ty));
            let dz = b.step(RELU_GRAD, &[saved, y]);
            let (mean, var) = (b.operand(vector(channels)), b.operand(vector(channels)));
            results.push(dz);
            results.extend(b.steps(Op::NormalizeGradReduce { eps: EPS }, &[x, mean, var, dz]));
        }
        _ => {
            let bias = b.operand(vector(channels));
            let z = b.step(Op::BiasAdd, &[y, bias]);
            results.push(b.step(RELU, &[z]));
        }
    }
}

/// A group of one to three convolutions, with random prologues and epilogues.
fn random_convolutions(seed: u64) -> Case {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut any = |list: &[usize]| list[rng.random_range(0..list.len())];
    let dtype = [DType::F32, DType::Bf16][any(&[0, 1])];
    let groups = any(&[1, 1, 1, 2]);
    let (inputs, outputs) = (groups * any(&[3, 8, 12, 20, 32]), groups * any(&[2, 8, 10, 16, 40]));
    let kernel = any(&[1, 3, 3, 2]);
    let conv = Conv {
        stride: [any(&[1, 1, 2]), any(&[1, 1, 2, 3])],
        pad: [any(&[0, 1]); 2],
        dilation: [1; 2],
        groups,
    };
    let size = [any(&[3, 4, 7]), any(&[3, 5, 6])];
    let extent = |i: usize| (size[i] + 2 * conv.pad[i] - kernel) / conv.stride[i] + 1;
    let out = [extent(0), extent(1)];
    let map = |n: usize, c: usize, s: [usize; 2]| rows([n, c, s[0], s[1]]).with_dtype(dtype);
    let direction = any(&[0, 1, 2]);
    let mut b = Builder::new(GroupKind::Convolution);
    let weight = ValueType::f32([outputs, inputs / groups, kernel, kernel]).with_dtype(dtype);
    let w = (direction < 2).then(|| b.operand(weight));
    let mut results = Vec::new();
    let mut gradients: Vec<Local> = Vec::new();
    let (alike, first) = (any(&[0, 1]) == 1, [any(&[1, 2, 4]), any(&[0, 1, 2, 3]), any(&[0, 1, 2, 3, 4])]);
    for _ in 0..any(&[1, 2, 3]) {
        let other = [any(&[1, 2, 4]), any(&[0, 1, 2, 3]), any(&[0, 1, 2, 3, 4])];
        let [images, before, behind] = if alike { first } else { other };
        let (x, y) = (map(images, inputs, size), map(images, outputs, out));
        match (direction, w) {
            (0, Some(w)) => {
                let x = prologue(&mut b, before, x);
                let y = b.step(Op::Conv2d(conv), &[x, w]);
                epilogue(&mut b, behind, y, &mut results);
            }
            (1, Some(w)) => {
                let dy = prologue(&mut b, before, y);
                let dx = b.step(Op::Conv2dGradInput { conv, input: size }, &[dy, w]);
                epilogue(&mut b, behind, dx, &mut results);
            }
            _ => {
                let (x, dy) = (prologue(&mut b, before, x), prologue(&mut b, behind % 4, y));
                gradients.push(b.step(Op::Conv2dGradWeight { conv, kernel: [kernel; 2] }, &[x, dy]));
            }
        }
    }
    if let Some((&first, rest)) = gradients.split_first() {
        if any(&[0, 1]) == 0 {
            results.extend(&gradients);
        } else {
            let sum = rest.iter().fold(first, |sum, &g| b.step(ADD, &[sum, g]));
            results.push(sum);
        }
    }
    b.finish(&results)
}

/// Where a launch costs nothing, operands that are read often are made by kernels of their own.
#[test]
fn operands_that_are_made_before() {
    for (dtype, math, arch) in [(DType::Bf16, Math::Exact, 90), (DType::F32, Math::Tf32, 80)] {
        let target = Target { math, launch_us: 0.0, ..Target::new(Arch(arch)) };
        let never = Target { launch_us: 1e9, ..target.clone() };
        let mut all: Vec<(u64, Case)> =
            (100..).zip(convolution_groups(dtype).into_iter().map(|c| c.1)).collect();
        all.extend((3000..3300).map(|seed| (seed, random_convolutions(seed))));
        let kernels =
            |case: &Case, target| emit_group(group_of(case), target).expect("kernels").kernels.len();
        all.retain(|(_, case)| kernels(case, &target) > kernels(case, &never));
        assert!(all.len() >= 20, "{} groups", all.len());
        all.truncate(12);
        check_all(all.iter().map(|(seed, case)| (*seed, case)), &target, 2);
    }
}

#[test]
fn random_groups() {
    let all: Vec<(u64, Case)> = (1000..1040).map(|seed| (seed, random_convolutions(seed))).collect();
    for math in [Math::Exact, Math::Tf32] {
        check_all(all.iter().map(|(seed, case)| (*seed, case)), &target(math), 2);
    }
}
