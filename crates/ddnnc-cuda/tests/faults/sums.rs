//! Sums that several blocks share, and what the last one of them does.

use crate::plant::{Plant, Seen, Site};
use ddnnc_cases::case;
use ddnnc_cuda::arch::{Arch, Target};
use ddnnc_ir::{Conv, Layout, Op};

/// A product so deep that its depth is split, in three for 108 multiprocessors.
fn split() -> Site {
    let case = case(Op::MatMul { transpose_a: false, transpose_b: false }, &[&[40, 200], &[200, 36]]);
    let target = Target { tile: Some([32, 32, 16]), ..Target::new(Arch(80)) };
    Site { case, target, coarse: false }
}

/// A depthwise weight gradient whose positions are summed in several slices.
fn slices() -> Site {
    let conv = Conv { stride: [1, 1], pad: [1, 1], dilation: [1, 1], groups: 6 };
    let op = Op::Conv2dGradWeight { conv, kernel: [3, 3] };
    let mut case = case(op, &[&[8, 6, 16, 16], &[8, 6, 16, 16]]);
    case.operands.iter_mut().for_each(|ty| ty.layout = Layout::ChannelsLast);
    Site { case, target: Target::new(Arch(80)), coarse: false }
}

const PLACE: &str = "partial + (first_summand + split) * (BM * BN)";

#[test]
fn all_splits_in_one_place() {
    split().catches(Plant::Text(PLACE, "partial + first_summand * (BM * BN)"), &[Seen::Uninitialised]);
}

#[test]
fn one_split_left_out() {
    let plant =
        Plant::Text("add_partials(sums, partial, summands);", "add_partials(sums, partial, summands - 1);");
    split().catches(plant, &[Seen::Wrong]);
}

#[test]
fn splits_added_in_the_order_of_their_arrival() {
    // Right to a rounding, and other bits in another order of blocks.
    let arrival = "partial + (first_summand + *(volatile uint*)(c0_arrived + at)) * (BM * BN)";
    split().catches(Plant::Text(PLACE, arrival), &[Seen::OtherBits]);
}

#[test]
fn the_first_block_adds_instead_of_the_last() {
    let plant =
        Plant::Text("last = atomicAdd(counter, 1u) == blocks - 1;", "last = atomicAdd(counter, 1u) == 0;");
    split().catches(plant, &[Seen::Uninitialised]);
}

#[test]
fn a_counter_left_as_it_is() {
    let plant = Plant::Text("        if (last) *counter = 0;\n", "");
    split().catches(plant, &[Seen::Counters]);
}

#[test]
fn no_barrier_before_a_shared_flag_is_read() {
    let plant =
        Plant::Text("    __syncthreads();\n    if (last) __threadfence();", "    if (last) __threadfence();");
    split().catches(plant, &[Seen::Race, Seen::Uninitialised]);
}

#[test]
fn the_first_slice_left_out() {
    slices().catches(Plant::Text("for (int s = 0; s <", "for (int s = 1; s <"), &[Seen::Wrong]);
}

#[test]
fn rows_of_sums_read_before_they_are_written() {
    let barrier = "= sum[k][v];\n        __syncthreads();";
    slices().catches(Plant::Text(barrier, "= sum[k][v];"), &[Seen::Race, Seen::Uninitialised]);
}

#[test]
fn a_barrier_that_half_of_the_block_skips() {
    let barrier = "= sum[k][v];\n        __syncthreads();";
    let half = "= sum[k][v];\n        if (threadIdx.x < 128) __syncthreads();";
    slices().catches(Plant::Text(barrier, half), &[Seen::Race, Seen::Deadlock]);
}
