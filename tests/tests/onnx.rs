//! Nets as ONNX: the nodes of a small one in full, every net of every spec, and what has no form. `tests/onnx/check.py` runs
//! such files in ONNX Runtime.

use ddnnc_ir::{Mode, Model};
use ddnnc_lower::Callable;
use ddnnc_tests::harness::{model, narrow, random_weights, specs, try_model};
use ddnnc_tests::onnx::{FORMS, listing, net_as_onnx, of_graph, shaped};
use ddnnc_tests::random_spec::random_spec;
use ddnnc_tests::vocabulary::uses;
use ddnnc_train::onnx::MAX_BYTES;
use ddnnc_train::onnx::message::{ModelProto, StringStringEntryProto};
use ddnnc_train::{OnnxError, begins_as_onnx, onnx_bytes, onnx_model};
use prost::Message;
use std::collections::{BTreeMap, BTreeSet};

const SMALL: &str = "model small
    input picture : f32[2, 8, 8]
    target label : class[3]
    block gated(out) {
        let gate = in |> global_avg_pool |> linear(out, bias = false) |> gelu
        in |> conv(out, 3, bias = true) |> mul(gate) |> add(in)
    }
    backbone net {
        stem     = conv(4, [3, 1], stride = 2) |> bn |> hard_swish |> dropout
        stage s1 = 2 * gated(4)
        head     = avg_pool(2, stride = 1, pad = 1) |> reshape([4, 25]) |> l2_normalize |> flatten |> linear(classes) |> dropout
    }
    subnet full  = net
    subnet small = net depth [1]
    distill full -> small { kl }
    train { data = mnist }";

#[test]
fn the_nodes_of_a_small_net() {
    let model = model(SMALL, Mode::Eval, 1);
    insta::assert_snapshot!("onnx_small", listing(&net_as_onnx(&model, "small").expect("it has a form")));
}

#[test]
fn the_nodes_of_what_no_spec_asks_for() {
    let onnx = net_as_onnx(&of_graph(FORMS), "small").expect("it has a form");
    check_form("forms", &onnx);
    insta::assert_snapshot!("onnx_forms", listing(&onnx));
}

/// A value is defined once and before it is used, every tensor is used, and the tensors are those of the net and constants.
fn check_form(what: &str, onnx: &ModelProto) {
    let graph = onnx.graph.as_ref().expect("a model has a graph");
    let mut defined: BTreeSet<&str> = graph.input.iter().map(|v| v.name.as_str()).collect();
    for tensor in &graph.initializer {
        assert!(defined.insert(&tensor.name), "{what}: `{}` twice", tensor.name);
    }
    let (mut names, mut used) = (BTreeSet::new(), BTreeSet::new());
    for node in &graph.node {
        assert!(names.insert(&node.name), "{what}: the name `{}` twice", node.name);
        for input in &node.input {
            assert!(defined.contains(input.as_str()), "{what}: `{input}` before it is there");
            used.insert(input.as_str());
        }
        for output in &node.output {
            assert!(defined.insert(output), "{what}: `{output}` twice");
        }
    }
    for output in &graph.output {
        assert!(defined.contains(output.name.as_str()), "{what}: no `{}`", output.name);
    }
    for tensor in &graph.initializer {
        assert!(used.contains(tensor.name.as_str()), "{what}: nothing uses `{}`", tensor.name);
    }
}

/// Every net of a model, lowered for two batches: the same bytes, which read back as the same model and hold the net's tensors.
fn check_nets(what: &str, of_batch: impl Fn(usize) -> Model) {
    let [one, three] = [1, 3].map(of_batch);
    for net in &one.nets {
        let what = format!("{what}, {}", net.name);
        let onnx = net_as_onnx(&one, &net.name).unwrap_or_else(|e| panic!("{what}: {e}"));
        check_form(&what, &onnx);
        let bytes = onnx_bytes(&onnx, MAX_BYTES).expect("a small model");
        let other = net_as_onnx(&three, &net.name).expect("as for one image");
        assert!(onnx_bytes(&other, MAX_BYTES).expect("as large") == bytes, "{what}: the batch is in it");
        assert!(begins_as_onnx(&bytes), "{what}: {:?}", &bytes[..16]);
        assert!(ModelProto::decode(&bytes[..]).expect("what was encoded") == onnx, "{what}: another model");
        let graph = onnx.graph.as_ref().expect("a model has a graph");
        let held = graph.initializer.iter().map(|t| t.name.as_str()).filter(|name| !name.contains('/'));
        let wanted: BTreeSet<&str> = net.parameters.iter().chain(&net.states).map(String::as_str).collect();
        assert_eq!(held.collect::<BTreeSet<_>>(), wanted, "{what}");
    }
}

#[test]
fn every_net_of_every_spec_has_a_form() {
    for name in specs() {
        check_nets(&name, |batch| narrow(&name, Mode::Eval, batch));
    }
}

#[test]
fn every_net_of_random_specs_has_a_form() {
    for seed in 0..60 {
        let text = random_spec(seed).text;
        check_nets(&format!("seed {seed}"), |batch| {
            try_model(&text, Mode::Eval, Some(batch)).unwrap_or_else(|e| panic!("seed {seed}: {e}"))
        });
    }
}

/// What is called in a spec and is no operator.
const OF_TRAINING: [&str; 25] = [
    "adamw",
    "adaptive",
    "attention",
    "cifar10",
    "cifar100",
    "constant",
    "cosine",
    "crop",
    "cross_entropy",
    "difficulty",
    "flip",
    "gated",
    "hint",
    "image_folder",
    "kl",
    "mean",
    "mnist",
    "multistep",
    "normalize",
    "one_cycle",
    "ramp",
    "relation",
    "resized_crop",
    "sgd",
    "shuffle",
];

/// The spec that is compared in ONNX Runtime uses the operators of the language with all their parameters.
#[test]
fn the_spec_of_all_operators_has_them_all() {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/onnx/operators.ddnn"))
        .expect("the spec is there");
    let file = ddnnc_syntax::parse(&text, ddnnc_diag::SourceId::default()).expect("it parses");
    let used = uses(&file);
    for Callable { name, parameters } in ddnnc_lower::vocabulary() {
        if OF_TRAINING.contains(&name) {
            continue;
        }
        let words = parameters.iter().map(|parameter| format!("{name}.{parameter}"));
        // A running statistic's momentum means nothing in evaluation.
        for word in words.chain([name.to_string()]).filter(|word| !word.ends_with(".momentum")) {
            assert!(used.contains_key(&word), "`{word}` is not used");
        }
    }
    check_nets("operators", |batch| model(&text, Mode::Eval, batch));
}

#[test]
fn metadata_is_kept_in_the_order_of_its_keys() {
    let model = model(SMALL, Mode::Eval, 1);
    let tensors = shaped(&model, random_weights(&model, 1));
    let metadata = BTreeMap::from([("b", "2"), ("a", "1")].map(|(k, v)| (k.to_string(), v.to_string())));
    let onnx = onnx_model(&model, "full", tensors.clone(), &metadata).expect("it has a form");
    let entry = |key: &str, value: &str| StringStringEntryProto { key: key.into(), value: value.into() };
    assert_eq!(onnx.metadata_props, [entry("a", "1"), entry("b", "2")]);
    assert!(matches!(
        onnx_model(&model, "full", ddnnc_train::Tensors::new(), &metadata),
        Err(OnnxError::Missing { name }) if name == "net.stem.conv1.weight"
    ));
    assert!(matches!(onnx_model(&model, "none", tensors, &metadata), Err(OnnxError::Missing { .. })));
}

#[test]
fn a_model_that_is_too_large_is_refused() {
    let onnx = net_as_onnx(&model(SMALL, Mode::Eval, 1), "full").expect("it has a form");
    let length = onnx.encoded_len();
    assert_eq!(onnx_bytes(&onnx, length).expect("as large as it may be").len(), length);
    let refused = onnx_bytes(&onnx, length - 1);
    assert!(
        matches!(refused, Err(OnnxError::TooLarge { bytes, limit }) if bytes == length && limit + 1 == length)
    );
}

/// Operators that have no form are all named, each with its place, and nothing that hangs on them.
#[test]
fn what_has_no_form_is_named() {
    let training = model(SMALL, Mode::Train, 4);
    let text = net_as_onnx(&training, "full").expect_err("a training graph").to_string();
    assert_eq!(text, "no ONNX form for `channel_stats` at `net.stem.bn1`, `input` at `rng`");

    // Operators behind `v0`, the images, and the result of the last one.
    let cases = [
        (r#"v1 = reduce_mean(v0) axes=[0,2] : f32[4,5] @ "x""#, "v1", "reduce_mean"),
        (r#"v1 = reduce_sum(v0) axes=[0,2] : f32[4,5] @ "x""#, "v1", "reduce_sum"),
        (r#"v1 = concat(v0, v0) axis=0 : f32[4,4,6,5] @ "x""#, "v1", "concat"),
        (r#"v1 = slice(v0) axis=0 start=1 len=1 : f32[1,4,6,5] @ "x""#, "v1", "slice"),
        (r#"v1 = reshape(v0) shape=[8,30] : f32[8,30] @ "x""#, "v1", "reshape"),
        (r#"v1 = cast(v0) dtype="bf16" : bf16[2,4,6,5] @ "x""#, "v1", "cast"),
        (
            r#"v1 = standardize(v0) eps=0.1 : f32[2,4,6,5] @ "x"
            v2 = relu(v1) : f32[2,4,6,5] @ "y""#,
            "v2",
            "standardize",
        ),
        (
            r#"v1 = reduce_mean(v0) axes=[2,3] : f32[2,4]
            v2 = matmul(v1, v1) transpose_a=false transpose_b=true : f32[2,2] @ "x""#,
            "v2",
            "matmul",
        ),
        (
            r#"v1 = reduce_mean(v0) axes=[2,3] : f32[2,4]
            v2 = parameter name="p" frozen=false : f32[2,3]
            v3 = matmul(v1, v2) transpose_a=true transpose_b=false : f32[4,3] @ "x""#,
            "v3",
            "matmul",
        ),
        (
            r#"v1 = parameter name="p" frozen=false : f32[4]
            v2 = broadcast(v1) shape=[2,4] axes=[1] layout="row_major" : f32[2,4]
            v3 = relu(v2) : f32[2,4] @ "x""#,
            "v3",
            "relu",
        ),
        (
            r#"v1 = reduce_mean(v0) axes=[1,2,3] : f32[2]
            v2 = broadcast(v1) shape=[3,2] axes=[1] layout="row_major" : f32[3,2] @ "x""#,
            "v2",
            "broadcast",
        ),
        (
            r#"v1 = parameter name="p" frozen=false : f32[2,4,6,5]
            v2 = add(v0, v1) : f32[2,4,6,5] @ "x""#,
            "v2",
            "add",
        ),
        (
            r#"v1 = fused(v0) kind="pointwise" name="relu" {
                s0 = relu(p0) : f32[2,4,6,5]
                give s0
            } : f32[2,4,6,5] @ "x""#,
            "v1",
            "fused",
        ),
    ];
    for (body, last, named) in cases {
        let graph = format!(
            "graph \"g\" {{\n v0 = input name=\"image\" : f32[2,4,6,5]\n {body}\n n9 = output({last}) name=\"logits.small\"\n}}\n"
        );
        let error = net_as_onnx(&of_graph(&graph), "small").expect_err(named);
        assert_eq!(error.to_string(), format!("no ONNX form for `{named}` at `x`"));
    }
}
