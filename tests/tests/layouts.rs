//! Where conversions between layouts stand in the training steps of the specs.

use ddnnc_ir::{Graph, Layout, Mode, Op, Value};
use ddnnc_passes::Goal;
use ddnnc_tests::harness::{model, spec, specs, unfused};

/// The operator whose result each conversion takes, by name.
fn conversions(graph: &Graph) -> Vec<&'static str> {
    graph
        .nodes()
        .filter(|&id| matches!(graph.node(id).op, Op::ConvertLayout { .. }))
        .map(|id| graph.op(graph.operands(id)[0]).mnemonic())
        .collect()
}

fn channels_last(name: &str, goal: Goal) -> Graph {
    unfused(&model(&spec(name), Mode::Train, 4), goal)
}

#[test]
fn only_images_and_what_is_flattened_is_converted() {
    for name in specs() {
        for goal in [Goal::Train, Goal::Gradients, Goal::Statistics, Goal::Evaluate] {
            let graph = channels_last(&name, goal);
            let found = conversions(&graph);
            // (before reshapes in the forward pass, behind them in the backward pass)
            let flattened = graph
                .nodes()
                .filter(|&id| {
                    let taken = |v: &Value| graph.shape(*v).rank() == 4;
                    matches!(graph.node(id).op, Op::Reshape { .. })
                        && (graph.operands(id).iter().any(taken) || graph.results(id).iter().any(taken))
                })
                .count();
            let images = found.iter().filter(|from| **from == "input").count();
            // The running statistics of a net without norms take nothing.
            let unused = goal == Goal::Statistics && found.is_empty();
            assert!(images == 1 || unused, "{name}, {goal:?}: {found:?}");
            assert!(found.len() <= images + flattened, "{name}: {found:?}");
            if name.contains("resnet") {
                assert_eq!(found, ["input"], "{name}");
            }
        }
    }
}

#[test]
fn activations_are_channels_last() {
    for name in specs() {
        let graph = channels_last(&name, Goal::Train);
        for id in graph.nodes() {
            let node = graph.node(id);
            let image =
                matches!(node.op, Op::Conv2d(_) | Op::MaxPool(_) | Op::Normalize { .. } | Op::Unary { .. });
            for ty in node.results.iter().filter(|ty| image && ty.shape.rank() == 4) {
                assert_eq!(ty.layout, Layout::ChannelsLast, "{name}: {} {ty}", node.op.mnemonic());
            }
        }
    }
}
