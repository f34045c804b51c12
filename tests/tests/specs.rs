//! Every spec under `specs/`: tree, forward graph and training graph as snapshots; the figures that are known from
//! elsewhere; text that reads back to the same bytes.

use ddnnc_ir::{Graph, Mode};
use ddnnc_passes::{Goal, compile};
use ddnnc_tests::digest::{digest, schedule};
use ddnnc_tests::harness::{model, spec, specs};

const BATCH: usize = 4;

#[test]
fn the_tree_of_every_spec() {
    for name in specs() {
        let file = ddnnc_syntax::parse(&spec(&name), ddnnc_diag::SourceId(0)).expect("a spec parses");
        insta::assert_snapshot!(format!("ast__{name}"), ddnnc_syntax::dump(&file));
    }
}

#[test]
fn the_forward_graph_of_every_spec() {
    for name in specs() {
        let lowered = model(&spec(&name), Mode::Train, BATCH);
        insta::assert_snapshot!(format!("forward__{name}"), digest(&lowered.graph));
    }
}

/// The phases of compiling for training, by name.
fn phases(name: &str) -> Vec<(String, Graph)> {
    let lowered = model(&spec(name), Mode::Train, BATCH);
    let mut seen = Vec::new();
    compile(&lowered, Goal::Train, &mut |phase, graph| seen.push((phase.to_string(), graph.clone())))
        .expect("a spec compiles");
    seen
}

#[test]
fn the_training_graph_of_every_spec() {
    for name in specs() {
        let phases = phases(&name);
        let (_, step) = phases.last().expect("compiling has phases");
        insta::assert_snapshot!(format!("training__{name}"), digest(step));
    }
}

#[test]
fn the_schedule_of_every_spec() {
    for name in specs() {
        let lowered = model(&spec(&name), Mode::Train, BATCH);
        let program = compile(&lowered, Goal::Train, &mut |_, _| {}).expect("a spec compiles").program;
        insta::assert_snapshot!(format!("schedule__{name}"), schedule(&program));
    }
}

#[test]
fn the_graphs_of_a_tiny_model_in_full() {
    let text = "model tiny
        input image : f32[1, 4, 4]
        target label : class[3]
        backbone net {
            stem     = conv(2, 3) |> bn |> relu
            stage s1 = 2 * conv(2, 3)
            head     = global_avg_pool |> linear(classes)
        }
        subnet full  = net
        subnet small = net depth [1]
        distill full -> small { kl }
        train { data = mnist }";
    let lowered = model(text, Mode::Train, 2);
    insta::assert_snapshot!("tiny_forward", ddnnc_ir::print(&lowered.graph).expect("printable"));
    let mut last = None;
    compile(&lowered, Goal::Train, &mut |_, graph| last = Some(graph.clone())).expect("it compiles");
    let step = last.expect("compiling has phases");
    insta::assert_snapshot!("tiny_training", ddnnc_ir::print(&step).expect("printable"));
}

#[test]
fn every_graph_reads_back_to_the_same_bytes() {
    for name in specs() {
        for (phase, graph) in phases(&name) {
            let text = ddnnc_ir::print(&graph).expect("printable");
            let again = ddnnc_ir::parse(&text).unwrap_or_else(|e| panic!("{name}, {phase}: {e}"));
            let printed = ddnnc_ir::print(&again).expect("printable");
            assert!(text == printed, "{name}, {phase}: printing what was read gives other bytes");
        }
    }
}

#[test]
fn compiling_twice_gives_the_same_program() {
    for name in specs() {
        let program = || {
            let lowered = model(&spec(&name), Mode::Train, BATCH);
            let program = compile(&lowered, Goal::Train, &mut |_, _| {}).expect("it compiles").program;
            serde_json::to_string(&program).expect("a program serialises")
        };
        assert!(program() == program(), "{name}");
    }
}

/// (spec, net, parameters, multiply-accumulates of one image in millions, depth): published figures, or counted by
/// hand from the papers' tables.
const KNOWN: &[(&str, &str, u64, Option<f64>, usize)] = &[
    ("resnet50_ekd", "full", 25_557_032, Some(4089.0), 50),
    ("resnet34_ekd", "full", 21_797_672, Some(3664.0), 34),
    ("resnet34_ekd", "r18", 11_689_512, Some(1814.0), 18),
    ("vgg19_ekd", "full", 143_678_248, Some(19_632.0), 19),
    ("vgg19_ekd", "vgg16", 138_365_992, Some(15_470.0), 16),
    ("vgg19_ekd", "vgg13", 133_053_736, Some(11_308.0), 13),
    ("mobilenetv2_ekd", "full", 3_504_872, Some(300.8), 53),
];

#[test]
fn published_sizes() {
    for &(name, net, parameters, macs, depth) in KNOWN {
        let lowered = model(&spec(name), Mode::Eval, 1);
        let found = lowered.nets.iter().find(|n| n.name == net).expect("the net is there");
        assert_eq!(found.parameter_count, parameters, "{name}: parameters of {net}");
        assert_eq!(found.depth, depth, "{name}: depth of {net}");
        if let Some(macs) = macs {
            let millions = found.macs as f64 / 1e6;
            let off = (millions - macs).abs() / macs;
            assert!(off <= 2e-3, "{name}: {net} has {millions} million multiply-accumulates");
        }
    }
}
