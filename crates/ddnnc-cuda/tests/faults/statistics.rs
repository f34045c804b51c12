//! Statistics of channels: merged by threads in a tree, then over blocks.

use crate::plant::{Plant, Seen, Site};
use ddnnc_cases::case;
use ddnnc_cuda::arch::{Arch, Target};
use ddnnc_ir::{Layout, Op};

fn statistics() -> Site {
    let mut case = case(Op::ChannelStats, &[&[5, 24, 17, 16]]);
    case.operands[0].layout = Layout::ChannelsLast;
    Site { case, target: Target::new(Arch(80)), coarse: false }
}

#[test]
fn merged_before_the_others_have_written() {
    let plant = Plant::Text(
        "            __syncthreads();\n            if (group < n - half) {",
        "            if (group < n - half) {",
    );
    statistics().catches(plant, &[Seen::Race, Seen::Uninitialised]);
}

#[test]
fn written_again_before_the_others_have_merged() {
    let plant = Plant::Text(
        "                merge(other);\n            }\n            __syncthreads();\n",
        "                merge(other);\n            }\n",
    );
    statistics().catches(plant, &[Seen::Race]);
}

#[test]
fn the_distance_of_the_means_left_out_of_a_variance() {
    let plant = Plant::Text(
        "square[i][v] += fmaf(d * d, count * share, o.square[i][v]);",
        "square[i][v] += o.square[i][v];",
    );
    statistics().catches(plant, &[Seen::Wrong]);
}
