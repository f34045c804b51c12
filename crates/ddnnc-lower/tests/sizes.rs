//! Every spec of the project lowers in both modes; parameters, multiply-accumulates and depth are the published ones.

mod support;

use ddnnc_ir::{Mode, Model};
use support::{model, model_in_phase, net, spec, specs};

/// A spec for training, in each of its phases.
fn trained(name: &str) -> Vec<Model> {
    let first = model(&spec(name), Mode::Train, 4);
    let others = 1..first.phases.len();
    let others: Vec<Model> = others.map(|phase| model_in_phase(&spec(name), Mode::Train, 4, phase)).collect();
    std::iter::once(first).chain(others).collect()
}

#[test]
fn every_spec_lowers_in_both_modes() {
    let names = specs();
    assert!(names.len() >= 10);
    for name in names {
        let trained = trained(&name);
        let evaluated = [model(&spec(&name), Mode::Eval, 4)];
        for models in [&trained[..], &evaluated] {
            let gives = |output: &str| models.iter().any(|model| model.graph.output(output).is_some());
            for net in &models[0].nets {
                assert!(gives(&format!("logits.{}", net.name)), "{name}: {}", net.name);
            }
            for model in models {
                assert!(!model.terms.is_empty(), "{name}");
                for term in &model.terms {
                    let output = model.graph.output(&format!("loss.{}", term.name));
                    assert!(output.is_some(), "{name}: {}", term.name);
                }
                assert!(model.graph.output("loss.total").is_some(), "{name}");
            }
        }
    }
}

/// (spec, net, parameters, multiply-accumulates in millions, depth)
const KNOWN: &[(&str, &str, u64, f64, usize)] = &[
    ("resnet50_ekd", "full", 25_557_032, 4089.0, 50),
    ("resnet34_ekd", "full", 21_797_672, 3664.0, 34),
    ("resnet34_ekd", "r18", 11_689_512, 1814.0, 18),
    ("vgg19_ekd", "full", 143_678_248, 19_632.0, 19),
    ("vgg19_ekd", "vgg16", 138_365_992, 15_470.0, 16),
    ("vgg19_ekd", "vgg13", 133_053_736, 11_308.0, 13),
    ("mobilenetv2_ekd", "full", 3_504_872, 300.8, 53),
    // DenseNet-BC of 100 layers, growth 12: 0.8 M parameters.
    ("cifar100_densenet_exits", "full", 800_032, 288.0, 100),
    // 6n + 2 layers on the path, with projections of 1x1 at the two changes of width.
    ("cifar10_resnet20_ekd", "full", 272_474, 40.81, 20),
    ("cifar10_resnet20_ekd", "r14", 175_258, 26.66, 14),
    ("cifar10_resnet20_ekd", "r8", 78_042, 12.50, 8),
];

#[test]
fn published_sizes() {
    for &(name, which, parameters, macs, depth) in KNOWN {
        let lowered = model(&spec(name), Mode::Eval, 1);
        let found = net(&lowered, which);
        assert_eq!(found.parameter_count, parameters, "{name}: parameters of {which}");
        assert_eq!(found.depth, depth, "{name}: depth of {which}");
        let millions = found.macs as f64 / 1e6;
        let near = (millions - macs).abs() <= 5e-3 * macs;
        assert!(near, "{name}: {which} has {millions} million multiply-accumulates");
    }
}

#[test]
fn parameters_are_those_that_the_graph_reads() {
    for name in specs() {
        let models = trained(&name);
        for parameter in models[0].parameters.keys() {
            let found = models.iter().filter_map(|model| {
                let entry = &model.parameters[parameter];
                let op = ddnnc_ir::Op::Parameter { name: parameter.clone(), frozen: entry.frozen };
                let node = model.graph.find(&op)?;
                assert_eq!(model.graph.node(node).results[0].shape, entry.shape, "{name}: {parameter}");
                Some(node)
            });
            assert!(found.count() > 0, "{name}: no {parameter} in the graph");
        }
        for state in models[0].states.keys() {
            let op = ddnnc_ir::Op::State { name: state.clone() };
            assert!(models.iter().any(|model| model.graph.find(&op).is_some()), "{name}: {state}");
        }
    }
}
