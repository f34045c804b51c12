//! Matrix products and convolutions: pipeline, fragments, borders, memory.

use crate::plant::{Plant, Seen, Site};
use ddnnc_cases::{Case, case};
use ddnnc_cuda::arch::{Arch, Math, Target};
use ddnnc_cuda::code::LaunchCode;
use ddnnc_ir::{Conv, DType, Layout, Op};
use ddnnc_passes::{Place, Program};

const BARRIER_OF_A_STAGE: &str =
    "nobody reads the stage that is written next any more.\n        __syncthreads();\n        sums.begin";

fn target(math: Math, tile: [usize; 3]) -> Target {
    Target { math, tile: Some(tile), ..Target::new(Arch(80)) }
}

/// A product of 40 × 200 by 200 × 36: rows, columns and depth all end inside a tile. `outer` says for each factor
/// whether its rows are the depth.
fn product(dtype: DType, outer: [bool; 2]) -> Site {
    product_of_depth(200, dtype, outer)
}

fn product_of_depth(depth: usize, dtype: DType, outer: [bool; 2]) -> Site {
    let [a, b] =
        [if outer[0] { [depth, 40] } else { [40, depth] }, if outer[1] { [depth, 36] } else { [36, depth] }];
    let mut case = case(Op::MatMul { transpose_a: outer[0], transpose_b: !outer[1] }, &[&a, &b]);
    case.operands.iter_mut().for_each(|ty| ty.dtype = dtype);
    Site { case, target: target(Math::Tf32, [32, 32, 32]), coarse: true }
}

fn on_matrix_units() -> Site {
    product(DType::Bf16, [false, true])
}

fn on_f32_units() -> Site {
    let site = product(DType::F32, [false, true]);
    Site { target: target(Math::Exact, [32, 32, 16]), ..site }
}

/// A convolution with a border of padding all around.
fn convolution() -> Site {
    let conv = Conv { stride: [1, 1], pad: [1, 1], dilation: [1, 1], groups: 1 };
    let mut case: Case = case(Op::Conv2d(conv), &[&[2, 8, 6, 5], &[12, 8, 3, 3]]);
    case.operands[0].layout = Layout::ChannelsLast;
    Site { case, target: target(Math::Tf32, [32, 32, 32]), coarse: true }
}

#[test]
fn no_barrier_between_copies_and_products() {
    for site in [on_matrix_units(), on_f32_units()] {
        let without = "nobody reads the stage that is written next any more.\n        sums.begin";
        site.catches(Plant::Text(BARRIER_OF_A_STAGE, without), &[Seen::AsyncCopy, Seen::Race]);
    }
}

#[test]
fn no_barrier_before_a_stage_is_filled_again() {
    // The barrier is there, but the copies of the next round begin before it.
    let behind = "        __syncthreads();\n        sums.begin((const E*)stage, (const E*)(stage + A::TILE_BYTES));\n        \
                  if (t + AHEAD < tiles) load(t + AHEAD);\n";
    let before = "        if (t + AHEAD < tiles) load(t + AHEAD);\n        __syncthreads();\n        \
                  sums.begin((const E*)stage, (const E*)(stage + A::TILE_BYTES));\n";
    on_matrix_units().catches(Plant::Text(behind, before), &[Seen::Race]);
}

#[test]
fn no_commit_of_copies() {
    let plant = Plant::Text("load(t + AHEAD);\n        copy_commit();", "load(t + AHEAD);");
    on_matrix_units().catches(plant, &[Seen::AsyncCopy]);
    on_f32_units().catches(plant, &[Seen::AsyncCopy]);
}

#[test]
fn waiting_for_one_group_too_few() {
    let plant = Plant::Text("copy_wait<AHEAD - 1>();", "copy_wait<AHEAD>();");
    on_matrix_units().catches(plant, &[Seen::AsyncCopy]);
}

#[test]
fn no_barrier_before_the_stages_become_the_finished_tile() {
    let plant = Plant::Text("    copy_wait<0>();\n    __syncthreads();\n}", "    copy_wait<0>();\n}");
    // Of four stages, that of the last of five tiles is the first, which the finished tile overlies.
    product_of_depth(140, DType::Bf16, [false, true]).catches(plant, &[Seen::Race]);
}

#[test]
fn no_barrier_between_the_finished_tile_and_its_epilogue() {
    let plant = Plant::Text("sums.store(tile);\n        __syncthreads();", "sums.store(tile);");
    on_matrix_units().catches(plant, &[Seen::Race, Seen::Uninitialised]);
}

#[test]
fn registers_of_the_first_operand_swapped() {
    let plant = Plant::Text(
        "place<E, BK, false>(m + l % 16, kc + l / 16)",
        "place<E, BK, false>(m + l % 8 + l / 16 * 8, kc + l / 8 % 2)",
    );
    on_matrix_units().catches(plant, &[Seen::Wrong]);
}

#[test]
fn registers_of_the_second_operand_swapped() {
    let plant = Plant::Text(
        "multiply_tf32(c[i][j], x[i], y[j / 2][j % 2 * 2], y[j / 2][j % 2 * 2 + 1])",
        "multiply_tf32(c[i][j], x[i], y[j / 2][j % 2 * 2 + 1], y[j / 2][j % 2 * 2])",
    );
    product(DType::F32, [false, true]).catches(plant, &[Seen::Wrong]);
}

#[test]
fn matrices_not_transposed() {
    let plant = Plant::Text("m8n8.x4.trans.shared.b16", "m8n8.x4.shared.b16");
    product(DType::Bf16, [false, true]).catches(plant, &[Seen::Wrong]);
    product(DType::Bf16, [true, false]).catches(plant, &[Seen::Wrong]);
}

/// A product by Hopper's warpgroups, of a depth of seven stages; rows, columns and depth end inside a tile.
fn by_warpgroups(outer: [bool; 2]) -> Site {
    let [a, b] =
        [if outer[0] { [424, 72] } else { [72, 424] }, if outer[1] { [424, 136] } else { [136, 424] }];
    let mut case = case(Op::MatMul { transpose_a: outer[0], transpose_b: !outer[1] }, &[&a, &b]);
    case.operands.iter_mut().for_each(|ty| ty.dtype = DType::Bf16);
    let target = Target { tile: Some([64, 128, 64]), ..Target::new(Arch(90)) };
    Site { case, target, coarse: true }
}

#[test]
fn copies_not_published_to_the_matrix_units() {
    let plant = Plant::Text("        sums.publish();\n", "");
    by_warpgroups([false, true]).catches(plant, &[Seen::ProxyFence]);
}

#[test]
fn products_not_waited_for_before_their_stage_is_filled_again() {
    let plant = Plant::Text("warpgroup_wait<1>();", "warpgroup_wait<3>();");
    by_warpgroups([false, false]).catches(plant, &[Seen::AsyncProduct]);
}

#[test]
fn products_not_waited_for_at_the_end() {
    let plant = Plant::Text("        warpgroup_wait<0>();\n", "");
    by_warpgroups([false, true]).catches(plant, &[Seen::AsyncProduct, Seen::Wrong]);
}

#[test]
fn no_fence_between_the_cleared_sums_and_the_first_product() {
    let plant = Plant::Text("        warpgroup_fence();\n", "");
    by_warpgroups([false, false]).catches(plant, &[Seen::AsyncProduct]);
}

#[test]
fn copies_one_stage_too_far_ahead_of_products() {
    let plant = Plant::Text("AHEAD = STAGES - 1 - Accumulator::IN_FLIGHT", "AHEAD = STAGES - 1");
    by_warpgroups([true, true]).catches(plant, &[Seen::AsyncProduct]);
}

#[test]
fn an_operand_said_to_lie_the_other_way() {
    // B's rows are the depth; the product is told that its columns are, and reads into another stage.
    let plant = Plant::Text("add, 1, 1, 0, 1; }", "add, 1, 1, 0, 0; }");
    by_warpgroups([false, true]).catches(plant, &[Seen::Wrong, Seen::AsyncCopy]);
}

#[test]
fn panels_of_an_operand_at_the_wrong_distance() {
    let plant = Plant::Text("(ulong)(PANEL_BYTES / 16) << 16", "(ulong)(1024 / 16) << 16");
    by_warpgroups([false, true]).catches(plant, &[Seen::Wrong]);
}

#[test]
fn the_next_depth_of_an_operand_at_the_wrong_distance() {
    let plant = Plant::Text("(m * 128 + k * 32) / 16", "(m * 128 + k * 16) / 16");
    by_warpgroups([false, true]).catches(plant, &[Seen::Wrong]);
}

#[test]
fn sums_not_cleared() {
    let plant = Plant::Text("        sums.clear();\n        add_products", "        add_products");
    on_matrix_units().catches(plant, &[Seen::Wrong]);
}

#[test]
fn the_last_tile_of_the_depth_left_out() {
    let plant = Plant::Text("tiles = (depth + BK - 1) / BK", "tiles = depth / BK");
    on_matrix_units().catches(plant, &[Seen::Wrong]);
    on_f32_units().catches(plant, &[Seen::Wrong]);
}

#[test]
fn the_left_border_of_a_map_not_told_apart() {
    let plant = Plant::Text(
        "const bool there = (uint)h < (uint)C::IN_H && (uint)w < (uint)C::IN_W;",
        "const bool there = (uint)h < (uint)C::IN_H && w < C::IN_W;",
    );
    convolution().catches(plant, &[Seen::Wrong]);
}

#[test]
fn rows_behind_the_last_one_read() {
    let plant = Plant::Text("{r < ROWS ? r * PITCH : -1}", "{r * PITCH}");
    product(DType::F32, [false, false]).catches(plant, &[Seen::OutOfBounds]);
}

#[test]
fn rows_behind_the_last_one_written() {
    let plant = Plant::Text("(first_row + (r) < 40 ? first_row + (r) : -1)", "(first_row + (r))");
    on_matrix_units().catches(plant, &[Seen::OutOfBounds]);
}

#[test]
fn shared_memory_too_small_by_a_row() {
    fn less(code: &mut LaunchCode) -> bool {
        let mut tiled = code.kernels.iter_mut().filter(|kernel| kernel.dynamic_shared > 0);
        tiled.any(|kernel| {
            kernel.dynamic_shared -= 64;
            true
        })
    }
    on_matrix_units().catches(Plant::Code(less), &[Seen::OutOfBounds]);
}

#[test]
fn a_result_on_an_operand_that_is_still_read() {
    fn overlap(program: &mut Program) {
        let Some(launch) = program.launches.iter().find(|launch| matches!(launch.op, Op::MatMul { .. }))
        else {
            return;
        };
        let (from, to) = (launch.operands[0], launch.results[0]);
        if let Place::Arena { offset } = program.buffer(from).place {
            program.buffers[to.0 as usize].place = Place::Arena { offset: offset + 512 };
        }
    }
    on_matrix_units().catches(Plant::Plan(overlap), &[Seen::Wrong]);
}
