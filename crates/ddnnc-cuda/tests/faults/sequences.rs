//! Losses, moves, conversions: several steps in one block, reductions in warps, tiles that are transposed.

use crate::plant::{Plant, Seen, Site};
use ddnnc_cases::{Case, case, fixed_groups};
use ddnnc_cuda::arch::{Arch, Target};
use ddnnc_ir::{DType, Layout, Op};

fn site(case: Case) -> Site {
    Site { case, target: Target::new(Arch(80)), coarse: false }
}

/// The losses of a sub-net on shared features, one block.
fn losses() -> Site {
    site(fixed_groups::losses())
}

#[test]
fn no_barrier_between_steps_of_one_block() {
    let barrier = "            r0[e] = total(s);\n        }\n    }\n    __syncthreads();\n";
    let without = "            r0[e] = total(s);\n        }\n    }\n";
    losses().catches(Plant::Text(barrier, without), &[Seen::Wrong, Seen::Uninitialised]);
}

#[test]
fn distances_summed_before_all_are_there() {
    let site = site(fixed_groups::relations(5));
    let plant = Plant::Code(|code| {
        let Some(source) = code.kernels.iter_mut().map(|k| &mut k.source).find(|s| s.contains("sum_rows("))
        else {
            return false;
        };
        let sums = source.rfind("sum_rows(").expect("rows are summed");
        let barrier = source[..sums].rfind("    __syncthreads();\n").expect("a barrier before");
        source.replace_range(barrier..barrier + "    __syncthreads();\n".len(), "");
        true
    });
    site.catches(plant, &[Seen::Wrong, Seen::Uninitialised]);
}

#[test]
fn the_last_slice_of_angles_left_out() {
    let plant = Plant::Text("item < N * SLICES;", "item < N * SLICES - 1;");
    site(case(Op::RelationAngle, &[&[9, 4], &[9, 3]])).catches(plant, &[Seen::Wrong, Seen::Uninitialised]);
}

#[test]
fn the_angle_across_a_distance_left_out() {
    let plant = Plant::Text("            sum -= at_r * x.by_pr * x.by_qr;\n", "");
    site(case(Op::RelationAngleGrad, &[&[9, 4], &[9, 3], &[]])).catches(plant, &[Seen::Wrong]);
}

#[test]
fn the_mean_distance_taken_for_a_constant() {
    let plant = Plant::Text("(slopes[row + q] - even)", "(slopes[row + q])");
    site(case(Op::RelationDistanceGrad, &[&[9, 4], &[9, 3], &[]])).catches(plant, &[Seen::Wrong]);
}

#[test]
fn a_shuffle_that_one_lane_makes_alone() {
    let plant = Plant::Text(
        "        const float x = warp_total(s);\n        if ((t & 31) == 0) out[o] = x * factor;",
        "        if ((t & 31) == 0) out[o] = warp_total(s) * factor;",
    );
    losses().catches(plant, &[Seen::Divergence]);
}

#[test]
fn half_of_a_warp_left_out_of_a_sum() {
    let plant = Plant::Text(
        "    for (int d = 16; d > 0; d >>= 1) {\n        const float hi",
        "    for (int d = 8; d > 0; d >>= 1) {\n        const float hi",
    );
    site(case(Op::L2Normalize { eps: 1e-6 }, &[&[4, 100]])).catches(plant, &[Seen::Wrong]);
}

#[test]
fn a_tile_read_before_it_is_filled() {
    let mut case = case(Op::ConvertLayout { layout: Layout::ChannelsLast }, &[&[2, 20, 9, 7]]);
    case.operands[0].layout = Layout::RowMajor;
    let plant = Plant::Text(
        "        __syncthreads();\n        for (uint i = me; i < R * S; i += THREADS) {\n            const uint s = i / R",
        "        for (uint i = me; i < R * S; i += THREADS) {\n            const uint s = i / R",
    );
    site(case).catches(plant, &[Seen::Race, Seen::Uninitialised]);
}

#[test]
fn bf16_cut_instead_of_rounded() {
    let plant = Plant::Text("cvt.rn.bf16x2.f32", "cvt.rz.bf16x2.f32");
    site(case(Op::Cast { dtype: DType::Bf16 }, &[&[4, 64]])).catches(plant, &[Seen::Wrong]);
}
