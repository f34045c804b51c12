//! Matrix products against the reference evaluator, on the emulator, in five orders of warps with every check on.

mod common;

use common::agree::check_all;
use ddnnc_cases::group::Builder;
use ddnnc_cases::{Case, cases};
use ddnnc_cuda::arch::{Arch, Math, Target};
use ddnnc_cuda::emit::{emit_group, single};
use ddnnc_ir::{DType, GroupKind, Op, ValueType};

fn products(dtype: DType) -> Vec<Case> {
    let mut all = cases();
    all.retain(|c| matches!(c.op, Op::MatMul { .. }) && c.operands[0].dtype == dtype);
    all
}

fn target(math: Math) -> Target {
    Target { math, ..Target::new(Arch(80)) }
}

fn product(m: usize, k: usize, n: usize, transposed: [bool; 2], dtype: DType) -> Case {
    let [transpose_a, transpose_b] = transposed;
    let a = if transpose_a { [k, m] } else { [m, k] };
    let b = if transpose_b { [n, k] } else { [k, n] };
    let operands = [a, b].map(|d| ValueType::f32(d).with_dtype(dtype)).to_vec();
    Case { op: Op::MatMul { transpose_a, transpose_b }, operands }
}

/// The tiles that a kernel of a product may have, as the message for an illegal one lists them.
fn tiles(dtype: DType, target: &Target) -> Vec<[usize; 3]> {
    let case = product(64, 64, 64, [false; 2], dtype);
    let group = single(&case.op, case.operands.clone(), case.results());
    let target = Target { tile: Some([1, 1, 1]), ..target.clone() };
    let message = emit_group(&group, &target).expect_err("no such tile");
    let list = message.split("legal are ").nth(1).expect("a list").to_owned();
    let number = |n: &str| n.parse().expect("a number");
    let tile = |t: &str| t.split('x').map(number).collect::<Vec<_>>().try_into().expect("three numbers");
    list.split(", ").map(tile).collect()
}

#[test]
fn exact() {
    check_all((1..).zip(&products(DType::F32)), &target(Math::Exact), 5);
}

#[test]
fn tf32() {
    check_all((1..).zip(&products(DType::F32)), &target(Math::Tf32), 5);
}

#[test]
fn bf16() {
    check_all((1..).zip(&products(DType::Bf16)), &target(Math::Exact), 5);
}

/// Every tile, every way that the operands may lie, at extents that fill no tile.
#[test]
fn every_tile() {
    let every = |math: Math, dtype: DType| (target(math), tiles(dtype, &target(math)), dtype);
    // Hopper's own tiles come first there.
    let hopper = Target::new(Arch(90));
    let mut own = tiles(DType::Bf16, &hopper);
    own.truncate(own.len() - tiles(DType::Bf16, &target(Math::Exact)).len());
    let all = [
        every(Math::Exact, DType::F32),
        every(Math::Tf32, DType::F32),
        every(Math::Exact, DType::Bf16),
        (hopper, own, DType::Bf16),
    ];
    for (target, tiles, dtype) in all {
        assert!(tiles.len() > 4);
        for tile in tiles {
            let target = Target { tile: Some(tile), ..target.clone() };
            let all: Vec<Case> = [[false, false], [false, true], [true, false], [true, true]]
                .into_iter()
                .map(|t| product(tile[0] + 9, 3 * tile[2] + 8, tile[1] + 16, t, dtype))
                .collect();
            check_all((1..).zip(&all), &target, 2);
        }
    }
}

/// Products of unlike extents, types and forms side by side: what is alike runs in one kernel.
#[test]
fn several_at_once() {
    let mut b = Builder::new(GroupKind::Sequence);
    let mut results = Vec::new();
    for (m, k, n) in [(16, 64, 10), (16, 64, 10), (40, 20, 33), (16, 64, 10)] {
        let (x, w) = (b.operand(ValueType::f32([m, k])), b.operand(ValueType::f32([k, n])));
        results.push(b.step(Op::MatMul { transpose_a: false, transpose_b: false }, &[x, w]));
    }
    let x = b.operand(ValueType::f32([30, 24]));
    results.push(b.step(Op::MatMul { transpose_a: true, transpose_b: false }, &[x, x]));
    let case = b.finish(&results);
    check_all([(5, &case)], &target(Math::Exact), 5);
    let code = emit_group(ddnnc_cases::group::group_of(&case), &target(Math::Exact)).expect("kernels");
    assert_eq!(code.kernels.len(), 2, "one for each form");
}

#[test]
fn sums_over_nothing_are_zero() {
    check_all([(1, &product(3, 0, 5, [false; 2], DType::F32))], &target(Math::Exact), 1);
}
