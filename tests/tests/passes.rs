//! Every spec's training step on the reference evaluator, before and after every pass alone and all of them in every
//! order that the pipeline allows: outputs, updated parameters, optimizer state and running statistics are the same.

use ddnnc_ir::reference::{Evaluation, Tensor, evaluate};
use ddnnc_ir::{Graph, Mode, Model, Op, append_optimizer, differentiate, verify};
use ddnnc_passes::{PASSES, Pass};
use ddnnc_tests::harness::{narrow, random_batch, random_weights};
use indexmap::IndexMap;

const BATCH: usize = 2;

/// The training step of a model in which every net is computed on its own.
fn step(model: &Model) -> Graph {
    let mut graph = model.graph.clone();
    let total = graph.output("loss.total").expect("a model has a loss");
    let gradients = differentiate(&mut graph, total).expect("every operator has a gradient");
    append_optimizer(&mut graph, &gradients, &model.recipe.optimizer).expect("parameters are there");
    verify(&graph).expect("the step obeys the rules");
    graph
}

/// Random values for everything that a graph reads; what outlives the step begins with plausible values.
fn feeds(graph: &Graph, model: &Model) -> IndexMap<String, Tensor> {
    let weights = random_weights(model, 7);
    let (image, label) = random_batch(model, 7);
    let mut feeds = IndexMap::new();
    for id in graph.nodes() {
        let node = graph.node(id);
        let (Op::Input { name } | Op::Parameter { name, .. } | Op::State { name }) = &node.op else {
            continue;
        };
        let ty = node.results[0].clone();
        let n = ty.elements();
        let data = if *name == model.input.0 {
            image.iter().map(|&x| f64::from(x)).collect()
        } else if *name == model.target.0 {
            label.iter().map(|&x| x as f64).collect()
        } else if let Some(known) = weights.get(name) {
            known.iter().map(|&x| f64::from(x)).collect()
        } else if name == "lr" {
            vec![0.05; n]
        } else if matches!(node.op, Op::State { .. }) {
            (0..n).map(|i| 1e-3 * ((i % 17) as f64 + 1.0)).collect()
        } else {
            vec![1.0; n]
        };
        feeds.insert(name.clone(), Tensor { ty, data });
    }
    feeds
}

/// The largest difference of two evaluations, relative to max(1, |value|); infinite where one lacks a tensor.
fn difference(a: &Evaluation, b: &Evaluation) -> f64 {
    let of = |a: &IndexMap<String, Tensor>, b: &IndexMap<String, Tensor>| {
        if a.len() != b.len() {
            return f64::INFINITY;
        }
        let mut worst = 0.0f64;
        for (name, x) in a {
            let Some(y) = b.get(name).filter(|y| y.data.len() == x.data.len()) else { return f64::INFINITY };
            for (x, y) in x.data.iter().zip(&y.data) {
                let off = (x - y).abs() / x.abs().max(1.0);
                // Not a number is no small difference.
                worst = if off <= worst { worst } else { off };
            }
        }
        worst
    };
    let (outputs, stores) = (of(&a.outputs, &b.outputs), of(&a.stores, &b.stores));
    if outputs <= stores { stores } else { outputs }
}

fn pass(name: &str) -> Pass {
    PASSES.iter().find(|(n, _)| *n == name).expect("there is such a pass").1
}

/// The orders that the pipeline allows: the ordinary passes in any order, then those that build on one another.
fn orders() -> Vec<Vec<&'static str>> {
    let late: Vec<&'static str> = ["assign_layout", "batch_shared_weights", "fuse", "recompute"]
        .into_iter()
        .filter(|name| PASSES.iter().any(|(n, _)| n == name))
        .collect();
    let early = ["dead_code", "share_prefixes", "canonical"];
    let mut orders = Vec::new();
    for i in 0..3 {
        for j in (0..3).filter(|&j| j != i) {
            let mut order = vec![early[i], early[j], early[3 - i - j]];
            order.extend(&late);
            orders.push(order);
        }
    }
    orders
}

fn check(name: &str) {
    let model = narrow(name, Mode::Train, BATCH);
    let before = step(&model);
    let feeds = feeds(&before, &model);
    let expected = evaluate(&before, &feeds).expect("the step evaluates");
    let alone = PASSES.iter().map(|(n, _)| vec![*n]);
    for passes in alone.chain(orders()) {
        let mut graph = before.clone();
        for name in &passes {
            pass(name)(&mut graph).unwrap_or_else(|e| panic!("{name}: {e}"));
            verify(&graph).unwrap_or_else(|e| panic!("{name}: {e}"));
        }
        if graph.len() == before.len() && ddnnc_ir::print(&graph) == ddnnc_ir::print(&before) {
            continue;
        }
        let found = evaluate(&graph, &feeds).expect("the step evaluates");
        let off = difference(&expected, &found);
        assert!(off <= 1e-9, "{name}: {passes:?} changes the step by {off}");
    }
}

macro_rules! specs {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            check(stringify!($name));
        })*

        #[test]
        fn every_spec_is_here() {
            let mut here = [$(stringify!($name)),*];
            here.sort_unstable();
            assert_eq!(ddnnc_tests::harness::specs(), here);
        }
    };
}

specs! {
    assistant_chain branchynet_alexnet byot_resnet18 cifar100_densenet_exits cifar100_resnet50_ekd cifar100_resnet56_ekd cifar10_resnet20_ekd kd_two_networks mobilenetv2_ekd
    quickstart resnet34_ekd resnet50_ekd vgg19_ekd
}
