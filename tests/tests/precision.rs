//! The training steps of the specs in bf16: what is cast, and what stays in f32.

use ddnnc_ir::{DType, Graph, Mode, Op, Precision};
use ddnnc_passes::Goal;
use ddnnc_tests::harness::{model, spec, specs, unfused};

fn in_bf16(name: &str, goal: Goal) -> Graph {
    let mut lowered = model(&spec(name), Mode::Train, 4);
    lowered.recipe.precision = Precision::Bf16;
    unfused(&lowered, goal)
}

#[test]
fn between_the_layers_of_a_resnet_nothing_is_cast() {
    let mut seen = 0;
    for name in specs().into_iter().filter(|name| name.contains("resnet")) {
        for goal in [Goal::Train, Goal::Gradients, Goal::Statistics, Goal::Evaluate] {
            let graph = in_bf16(&name, goal);
            for id in graph.nodes().filter(|&id| matches!(graph.node(id).op, Op::Cast { .. })) {
                let mut of = graph.operands(id)[0];
                if matches!(graph.op(of), Op::ConvertLayout { .. }) {
                    of = graph.operands(of.node)[0];
                }
                let given = matches!(graph.op(of), Op::Input { .. } | Op::Parameter { .. });
                let map = graph.shape(of).rank() == 4;
                assert!(given || !map, "{name}, {goal:?}: the result of {} is cast", graph.op(of).mnemonic());
                seen += usize::from(given);
            }
        }
    }
    assert!(seen > 0);
}

#[test]
fn every_value_is_cast_once() {
    for name in specs() {
        let graph = in_bf16(&name, Goal::Train);
        for v in graph.nodes().flat_map(|id| graph.results(id)) {
            let users = graph.users(v);
            let casts = users.iter().filter(|(user, _)| matches!(graph.node(*user).op, Op::Cast { .. }));
            assert!(casts.count() <= 1, "{name}: {}", graph.op(v).mnemonic());
        }
    }
}

#[test]
fn products_take_bf16_and_parameters_and_outputs_stay_f32() {
    for name in specs() {
        let graph = in_bf16(&name, Goal::Train);
        for id in graph.nodes() {
            let node = graph.node(id);
            let f32_only = matches!(
                node.op,
                Op::Output { .. }
                    | Op::Store { .. }
                    | Op::SgdUpdate { .. }
                    | Op::AdamwUpdate { .. }
                    | Op::Ema { .. }
            );
            let product = matches!(node.op, Op::MatMul { .. }) || ddnnc_ir::is_convolution(&node.op);
            for v in graph.operands(id) {
                let ty = graph.ty(v);
                assert!(!f32_only || ty.dtype == DType::F32, "{name}: {} takes {ty}", node.op.mnemonic());
                assert!(!product || ty.dtype == DType::Bf16, "{name}: {} takes {ty}", node.op.mnemonic());
            }
            let maps = matches!(
                node.op,
                Op::Normalize { .. } | Op::Unary { .. } | Op::MaxPool(_) | Op::UnaryGrad { .. }
            );
            for ty in node.results.iter().filter(|ty| maps && ty.shape.rank() == 4) {
                assert_eq!(ty.dtype, DType::Bf16, "{name}: {}", node.op.mnemonic());
            }
        }
    }
}
