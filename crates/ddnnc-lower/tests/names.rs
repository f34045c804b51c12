//! Public names: which sub-nets share a norm or a head, and what the private ones are called.

mod support;

use ddnnc_ir::{Mode, Model, NetKind};
use support::{model, net};

/// Depths (3,4,6,3), (2,3,4,2) and (2,2,2,2) of one family, small.
fn nested(rest: &str) -> String {
    format!(
        "model nested
        input  image : f32[3, 32, 32]
        target label : class[10]
        block unit(out, stride = 1) {{ in |> conv(out, 3, stride) |> bn |> relu }}
        backbone net {{
            stem     = conv(4, 3) |> bn |> relu
            stage s1 = 3 * unit(4)
            stage s2 = unit(8, stride = 2), 3 * unit(8)
            stage s3 = unit(8, stride = 2), 5 * unit(8)
            stage s4 = unit(8, stride = 2), 2 * unit(8)
            head     = global_avg_pool |> linear(classes)
        }}
        subnet full  = net
        subnet mid   = net depth [2, 3, 4, 2]
        subnet small = net depth [2, 2, 2, 2]
        {rest}
        train {{ data = cifar10 }}"
    )
}

fn norm_of(model: &Model, which: &str, place: &str) -> String {
    let prefix = format!("net.{place}.bn1");
    let found: Vec<&String> = net(model, which)
        .parameters
        .iter()
        .filter(|p| p.starts_with(&prefix) && p.ends_with(".weight"))
        .collect();
    assert_eq!(found.len(), 1, "{which} at {place}: {found:?}");
    found[0].trim_start_matches("net.").trim_end_matches(".weight").to_string()
}

#[test]
fn norms_are_private_from_where_the_values_part() {
    let lowered = model(&nested(""), Mode::Train, 4);
    // (place, full, mid, small); an empty word where the sub-net has no such block.
    let expected = [
        ("stem", "stem.bn1", "stem.bn1", "stem.bn1"),
        ("s1.0", "s1.0.bn1", "s1.0.bn1", "s1.0.bn1"),
        ("s1.1", "s1.1.bn1", "s1.1.bn1", "s1.1.bn1"),
        ("s1.2", "s1.2.bn1", "", ""),
        ("s2.0", "s2.0.bn1", "s2.0.bn1@mid", "s2.0.bn1@mid"),
        ("s2.1", "s2.1.bn1", "s2.1.bn1@mid", "s2.1.bn1@mid"),
        ("s2.2", "s2.2.bn1", "s2.2.bn1@mid", ""),
        ("s2.3", "s2.3.bn1", "", ""),
        ("s3.0", "s3.0.bn1", "s3.0.bn1@mid", "s3.0.bn1@small"),
        ("s3.3", "s3.3.bn1", "s3.3.bn1@mid", ""),
        ("s4.1", "s4.1.bn1", "s4.1.bn1@mid", "s4.1.bn1@small"),
    ];
    for (place, full, mid, small) in expected {
        for (which, name) in [("full", full), ("mid", mid), ("small", small)] {
            if name.is_empty() {
                let there = format!("net.{place}.");
                assert!(
                    !net(&lowered, which).parameters.iter().any(|p| p.starts_with(&there)),
                    "{which} at {place}"
                );
            } else {
                assert_eq!(norm_of(&lowered, which, place), name, "{which} at {place}");
            }
        }
    }
    // One update a statistic, though three nets see the values of the stem.
    let stores = |name: &str| {
        let op = ddnnc_ir::Op::Store { name: name.to_string() };
        lowered.graph.nodes().filter(|&id| lowered.graph.node(id).op == op).count()
    };
    for state in lowered.states.keys() {
        assert_eq!(stores(state), 1, "{state}");
    }
    let emas =
        lowered.graph.nodes().filter(|&id| matches!(lowered.graph.node(id).op, ddnnc_ir::Op::Ema { .. }));
    assert_eq!(emas.count(), lowered.states.len());
}

#[test]
fn heads_are_private_or_shared() {
    let private = model(&nested(""), Mode::Train, 4);
    let shared = model(&nested("share net { head = shared }"), Mode::Train, 4);
    let head = |model: &Model, which: &str| {
        net(model, which).parameters.iter().find(|p| p.contains("head")).expect("a head").clone()
    };
    assert_eq!(head(&private, "full"), "net.head.linear1.weight");
    assert_eq!(head(&private, "mid"), "net.head.linear1@mid.weight");
    assert_eq!(head(&private, "small"), "net.head.linear1@small.weight");
    for which in ["full", "mid", "small"] {
        assert_eq!(head(&shared, which), "net.head.linear1.weight");
    }
}

#[test]
fn norms_private_everywhere() {
    let lowered = model(&nested("share net { norm = private_everywhere }"), Mode::Train, 4);
    assert_eq!(norm_of(&lowered, "full", "stem"), "stem.bn1");
    assert_eq!(norm_of(&lowered, "mid", "stem"), "stem.bn1@mid");
    assert_eq!(norm_of(&lowered, "small", "stem"), "stem.bn1@small");
    assert_eq!(norm_of(&lowered, "small", "s2.0"), "s2.0.bn1@small");
}

#[test]
fn shared_norms_take_every_sub_net_in_turn() {
    let lowered = model(&nested("share net { norm = shared, head = shared }"), Mode::Train, 4);
    assert!(lowered.parameters.keys().chain(lowered.states.keys()).all(|name| !name.contains('@')));
    let emas = |state: &str| {
        // From the store back to the state: one link for each different value.
        let store = lowered.graph.find(&ddnnc_ir::Op::Store { name: state.to_string() }).expect("a store");
        let mut at = lowered.graph.operands(store)[0];
        let mut links = 0;
        while let ddnnc_ir::Op::Ema { .. } = lowered.graph.op(at) {
            links += 1;
            at = lowered.graph.operands(at.node)[0];
        }
        assert_eq!(*lowered.graph.op(at), ddnnc_ir::Op::State { name: state.to_string() });
        links
    };
    assert_eq!(emas("net.stem.bn1.running_mean"), 1);
    assert_eq!(emas("net.s1.2.bn1.running_var"), 1);
    assert_eq!(emas("net.s2.0.bn1.running_mean"), 2);
    assert_eq!(emas("net.s3.0.bn1.running_var"), 3);
}

#[test]
fn recalibrated_norms_share_gains_and_not_statistics() {
    let lowered = model(&nested("share net { norm = recalibrated }"), Mode::Train, 4);
    assert_eq!(norm_of(&lowered, "small", "s3.0"), "s3.0.bn1");
    assert!(net(&lowered, "small").states.contains(&"net.s3.0.bn1@small.running_mean".to_string()));
    assert!(net(&lowered, "full").states.contains(&"net.s3.0.bn1.running_mean".to_string()));
    assert!(lowered.states.values().all(|s| s.recalibrate));
    assert!(model(&nested(""), Mode::Train, 4).states.values().all(|s| !s.recalibrate));
}

#[test]
fn the_full_net_may_be_declared_last() {
    let text = nested("").replace("subnet full  = net\n", "") + " subnet whole = net";
    let lowered = model(&text, Mode::Train, 4);
    assert_eq!(norm_of(&lowered, "whole", "s2.0"), "s2.0.bn1");
    assert_eq!(norm_of(&lowered, "small", "s2.0"), "s2.0.bn1@mid");
}

#[test]
fn operators_are_numbered_by_kind_and_nested_blocks_have_a_component() {
    let text = "model numbers
        input  image : f32[3, 8, 8]
        target label : class[4]
        block inner(out) { in |> depthwise(3) |> bn |> conv(out, 1) }
        block outer(out) {
            let skip = in |> conv(out, 1) as proj
            in |> inner(out) |> relu |> inner(out) as deep |> conv(out, 3, bias = true) |> batch_norm |> add(skip)
        }
        backbone net {
            stem     = inner(4)
            stage s1 = outer(4), conv(4, 1) |> bn
            head     = flatten |> linear(8) |> relu |> linear(classes)
        }
        subnet full = net
        exit early = full after stem |> inner(4) |> global_avg_pool |> linear(classes)
        train { data = mnist }";
    let lowered = model(text, Mode::Train, 2);
    let names: Vec<&str> =
        lowered.parameters.keys().map(String::as_str).filter(|n| n.ends_with("weight")).collect();
    let expected = [
        "net.stem.inner1.conv1.weight",
        "net.stem.inner1.bn1.weight",
        "net.stem.inner1.conv2.weight",
        "net.s1.0.inner1.conv1.weight",
        "net.s1.0.inner1.bn1.weight",
        "net.s1.0.inner1.conv2.weight",
        "net.s1.0.deep.conv1.weight",
        "net.s1.0.deep.bn1.weight",
        "net.s1.0.deep.conv2.weight",
        "net.s1.0.conv1.weight",
        "net.s1.0.bn1.weight",
        "net.s1.0.proj.weight",
        "net.s1.1.conv1.weight",
        "net.s1.1.bn1.weight",
        "net.head.linear1.weight",
        "net.head.linear2.weight",
        "net.early.inner1.conv1.weight",
        "net.early.inner1.bn1.weight",
        "net.early.inner1.conv2.weight",
        "net.early.linear1.weight",
    ];
    let mut sorted = names.clone();
    sorted.sort_unstable();
    let mut wanted = expected.to_vec();
    wanted.sort_unstable();
    assert_eq!(sorted, wanted);
    assert!(lowered.parameters.contains_key("net.s1.0.conv1.bias"));
    let early = net(&lowered, "early");
    assert_eq!(early.kind, NetKind::Exit);
    assert_eq!(early.depth, 5);
    assert!(early.parameters.contains(&"net.stem.inner1.conv1.weight".to_string()));
    assert!(!early.parameters.iter().any(|p| p.starts_with("net.s1")));
}

#[test]
fn a_count_repeats_the_whole_pipe_of_its_entry() {
    let text = "model m
        input image : f32[3, 8, 8]
        target label : class[10]
        backbone net { stage s1 = 2 * conv(4, 3) |> bn, relu  head = global_avg_pool |> linear(classes) }
        subnet full = net
        train { data = cifar10 }";
    let lowered = model(text, Mode::Train, 2);
    let names: Vec<&str> = lowered.parameters.keys().map(String::as_str).collect();
    for block in ["0", "1"] {
        for operator in ["conv1", "bn1"] {
            let name = format!("net.s1.{block}.{operator}.weight");
            assert!(names.contains(&name.as_str()), "{name} in {names:?}");
        }
    }
    assert_eq!(net(&lowered, "full").stages, [("s1".to_string(), 3)]);
}
