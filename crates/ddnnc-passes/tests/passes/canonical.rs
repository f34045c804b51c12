use crate::build::{Builder, SGD, assert_same, model};
use ddnnc_ir::{Op, ValueType, order_stores, parse, print, verify};
use ddnnc_passes::{canonical, dead_code};

/// The operators of `body` (which defines `v9` from the inputs x f32[2,3] `v0` and y f32[2,3] `v1`) after the pass.
fn canonical_body(body: &str) -> String {
    let text = format!(
        "graph \"g\" {{\n  v0 = input name=\"x\" : f32[2,3]\n  v1 = input name=\"y\" : f32[2,3]\n{body}  n10 = output(v9) \
         name=\"z\"\n  n11 = output(v0) name=\"x\"\n  n12 = output(v1) name=\"y\"\n}}\n"
    );
    let before = parse(&text).unwrap_or_else(|e| panic!("{e}\n{text}"));
    let mut after = before.clone();
    canonical(&mut after).unwrap();
    dead_code(&mut after).unwrap();
    assert_same(&before, &after);
    let is_body = |line: &&str| !line.contains("input") && !line.contains("output") && line.starts_with("  ");
    print(&after).unwrap().lines().filter(is_body).map(|l| l.trim().to_owned() + "\n").collect()
}

#[test]
fn each_rule() {
    for (body, expected) in [
        ("v9 = scale(v0) factor=1.0 : f32[2,3]", ""),
        (
            "v2 = scale(v0) factor=2.0 : f32[2,3]\nv9 = scale(v2) factor=-3.0 : f32[2,3]",
            "v2 = scale(v0) factor=-6.0",
        ),
        ("v2 = scale(v0) factor=2.0 : f32[2,3]\nv9 = scale(v2) factor=0.5 : f32[2,3]", ""),
        (
            "v2 = constant value=3.0 : f32[2,3]\nv9 = scale(v2) factor=2.0 : f32[2,3]",
            "v2 = constant value=6.0",
        ),
        ("v2 = constant value=3.0 : f32[2,3]\nv9 = mul(v0, v2) : f32[2,3]", "v2 = scale(v0) factor=3.0"),
        (
            "v2 = constant value=1.0 : f32[]\nv3 = broadcast(v2) shape=[2,3] axes=[] layout=\"row_major\" : f32[2,3]\nv9 = mul(v3, v0) : f32[2,3]",
            "",
        ),
        ("v2 = constant value=0.0 : f32[2,3]\nv9 = add(v2, v1) : f32[2,3]", ""),
        ("v2 = constant value=0.0 : f32[2,3]\nv9 = add(v1, v2) : f32[2,3]", ""),
        (
            "v2 = constant value=0.5 : f32[2,3]\nv3 = constant value=2.0 : f32[2,3]\nv9 = add(v2, v3) : f32[2,3]",
            "v2 = constant value=2.5",
        ),
        (
            "v2 = constant value=0.5 : f32[2,3]\nv3 = constant value=2.0 : f32[2,3]\nv9 = sub(v2, v3) : f32[2,3]",
            "v2 = constant value=-1.5",
        ),
        ("v2 = constant value=0.0 : f32[2,3]\nv9 = sub(v1, v2) : f32[2,3]", ""),
        ("v2 = constant value=0.0 : f32[2,3]\nv9 = sub(v2, v1) : f32[2,3]", "v2 = scale(v1) factor=-1.0"),
        ("v9 = reshape(v0) shape=[2,3] : f32[2,3]", ""),
        (
            "v2 = reshape(v0) shape=[6] : f32[6]\nv9 = reshape(v2) shape=[3,2] : f32[3,2]",
            "v2 = reshape(v0) shape=[3,2]",
        ),
        ("v2 = reshape(v0) shape=[6] : f32[6]\nv9 = reshape(v2) shape=[2,3] : f32[2,3]", ""),
        (
            "v2 = constant value=4.0 : f32[6]\nv9 = reshape(v2) shape=[2,3] : f32[2,3]",
            "v2 = constant value=4.0",
        ),
        ("v9 = broadcast(v0) shape=[2,3] axes=[0,1] layout=\"row_major\" : f32[2,3]", ""),
        ("v9 = reduce_sum(v0) axes=[] : f32[2,3]", ""),
        (
            "v2 = constant value=4.0 : f32[2,3]\nv9 = reduce_sum(v2) axes=[1] : f32[2]",
            "v2 = constant value=12.0",
        ),
        (
            "v2 = constant value=4.0 : f32[2,3]\nv9 = reduce_mean(v2) axes=[0,1] : f32[]",
            "v2 = constant value=4.0",
        ),
        ("v9 = concat(v0) axis=1 : f32[2,3]", ""),
        ("v9 = slice(v0) axis=1 start=0 len=3 : f32[2,3]", ""),
        ("v9 = pad(v0) axis=1 start=0 total=3 : f32[2,3]", ""),
        ("v9 = convert_layout(v0) layout=\"row_major\" : f32[2,3]", ""),
        (
            "v2 = reshape(v0) shape=[1,2,3,1] : f32[1,2,3,1]\nv3 = convert_layout(v2) layout=\"nhwc\" : f32[1,2,3,1]{nhwc}\n\
             v4 = convert_layout(v3) layout=\"row_major\" : f32[1,2,3,1]\nv9 = relu(v4) : f32[1,2,3,1]",
            "v2 = reshape(v0) shape=[1,2,3,1]\nv3 = relu(v2)",
        ),
        (
            "v2 = constant value=4.0 : f32[1,2,3,1]\nv9 = convert_layout(v2) layout=\"nhwc\" : f32[1,2,3,1]{nhwc}",
            "v2 = constant value=4.0 : f32[1,2,3,1]{nhwc}",
        ),
        ("v9 = cast(v0) dtype=\"f32\" : f32[2,3]", ""),
        (
            "v2 = cast(v0) dtype=\"bf16\" : bf16[2,3]\nv3 = cast(v2) dtype=\"f32\" : f32[2,3]\n\
             v4 = cast(v3) dtype=\"bf16\" : bf16[2,3]\nv9 = relu(v4) : bf16[2,3]",
            "v2 = cast(v0) dtype=\"bf16\"\nv3 = relu(v2)",
        ),
        (
            "v2 = constant value=0.1 : bf16[2,3]\nv9 = cast(v2) dtype=\"f32\" : f32[2,3]",
            "v2 = constant value=0.10009765625 : f32[2,3]",
        ),
        // What no rule touches.
        (
            "v2 = cast(v0) dtype=\"bf16\" : bf16[2,3]\nv9 = cast(v2) dtype=\"f32\" : f32[2,3]",
            "v2 = cast(v0) dtype=\"bf16\"\nv3 = cast(v2) dtype=\"f32\"",
        ),
        (
            "v2 = cast(v0) dtype=\"bf16\" : bf16[2,3]\nv3 = scale(v2) factor=3.1 : bf16[2,3]\nv9 = scale(v3) factor=0.7 : bf16[2,3]",
            "v2 = cast(v0)\nv3 = scale(v2) factor=3.1\nv4 = scale(v3) factor=0.7",
        ),
        (
            "v2 = reshape(v0) shape=[1,2,3,1] : f32[1,2,3,1]\nv9 = convert_layout(v2) layout=\"nhwc\" : f32[1,2,3,1]{nhwc}",
            "v2 = reshape(v0) shape=[1,2,3,1]\nv3 = convert_layout(v2)",
        ),
        ("v9 = slice(v0) axis=1 start=1 len=2 : f32[2,2]", "v2 = slice(v0)"),
        ("v9 = pad(v0) axis=1 start=1 total=4 : f32[2,4]", "v2 = pad(v0)"),
        ("v9 = concat(v0, v1) axis=1 : f32[2,6]", "v2 = concat(v0, v1)"),
        // Parts that make up a whole, in any order; with a gap, or where two lie at one place, they stay as they are.
        (
            "v2 = slice(v0) axis=1 start=0 len=1 : f32[2,1]\nv3 = slice(v1) axis=1 start=1 len=2 : f32[2,2]\nv4 = pad(v2) axis=1 start=2 total=3 : f32[2,3]\nv5 = pad(v3) axis=1 start=0 total=3 : f32[2,3]\nv9 = add(v4, v5) : f32[2,3]",
            "v2 = slice(v0)\nv3 = slice(v1)\nv4 = concat(v3, v2) axis=1",
        ),
        (
            "v2 = slice(v0) axis=1 start=0 len=1 : f32[2,1]\nv3 = pad(v2) axis=1 start=1 total=3 : f32[2,3]\nv4 = pad(v2) axis=1 start=0 total=3 : f32[2,3]\nv5 = pad(v2) axis=1 start=2 total=3 : f32[2,3]\nv6 = add(v3, v5) : f32[2,3]\nv9 = add(v6, v4) : f32[2,3]",
            "v2 = slice(v0)\nv3 = concat(v2, v2, v2) axis=1",
        ),
        (
            "v2 = slice(v0) axis=1 start=0 len=1 : f32[2,1]\nv3 = pad(v2) axis=1 start=0 total=3 : f32[2,3]\nv4 = pad(v2) axis=1 start=2 total=3 : f32[2,3]\nv9 = add(v3, v4) : f32[2,3]",
            "v2 = slice(v0)\nv3 = pad(v2)\nv4 = pad(v2)\nv5 = add(v3, v4)",
        ),
        (
            "v2 = slice(v0) axis=1 start=0 len=2 : f32[2,2]\nv3 = pad(v2) axis=1 start=0 total=3 : f32[2,3]\nv4 = pad(v2) axis=1 start=1 total=3 : f32[2,3]\nv9 = add(v3, v4) : f32[2,3]",
            "v2 = slice(v0)\nv3 = pad(v2)\nv4 = pad(v2)\nv5 = add(v3, v4)",
        ),
        (
            "v2 = slice(v0) axis=0 start=0 len=1 : f32[1,3]\nv3 = pad(v2) axis=0 start=0 total=2 : f32[2,3]\nv4 = slice(v0) axis=1 start=1 len=2 : f32[2,2]\nv5 = pad(v4) axis=1 start=1 total=3 : f32[2,3]\nv9 = add(v3, v5) : f32[2,3]",
            "v2 = slice(v0)\nv3 = pad(v2)\nv4 = slice(v0)\nv5 = pad(v4)\nv6 = add(v3, v5)",
        ),
        ("v9 = scale(v0) factor=-1.0 : f32[2,3]", "v2 = scale(v0) factor=-1.0"),
        ("v9 = scale(v0) factor=0.0 : f32[2,3]", "v2 = scale(v0) factor=0.0"),
        ("v9 = stop_gradient(v0) : f32[2,3]", "v2 = stop_gradient(v0)"),
        ("v9 = reduce_sum(v0) axes=[0] : f32[3]", "v2 = reduce_sum(v0)"),
        (
            "v2 = constant value=2.0 : f32[2,3]\nv9 = add(v0, v2) : f32[2,3]",
            "v2 = constant value=2.0 : f32[2,3]\nv3 = add(v0, v2)",
        ),
    ] {
        let got = canonical_body(&(body.lines().map(|l| format!("  {l}\n")).collect::<String>()));
        let lines = |s: &str| s.lines().map(str::to_owned).collect::<Vec<_>>();
        let (got_lines, expected_lines) = (lines(&got), lines(expected));
        assert_eq!(got_lines.len(), expected_lines.len(), "{body}\n{got}");
        for (got, expected) in got_lines.iter().zip(&expected_lines) {
            assert!(got.starts_with(expected.as_str()), "{body}\n{got}");
        }
    }
}

#[test]
fn what_is_stored_gets_no_new_reader() {
    let scales = |stored: bool, flat: bool| {
        let mut b = Builder::new();
        let mut w = b.parameter("w", &[4]);
        let old = w;
        if flat {
            w = b.op(Op::StopGradient, &[w]);
        }
        let once = b.scale(3.0, w);
        let twice = b.scale(2.0, once);
        b.output("twice", twice);
        if stored {
            let g = b.input("g", ValueType::f32([4]));
            let lr = b.input("lr", ValueType::scalar());
            let sgd = Op::SgdUpdate { momentum: 0.0, nesterov: false, weight_decay: 0.0 };
            let new = b.op(sgd, &[old, g, lr]);
            b.store("w", new);
            order_stores(&mut b.graph);
        }
        let mut graph = b.graph;
        canonical(&mut graph).unwrap();
        dead_code(&mut graph).unwrap();
        verify(&graph).unwrap();
        graph.nodes().filter(|&id| matches!(graph.node(id).op, Op::Scale { .. })).count()
    };
    for flat in [false, true] {
        assert_eq!(scales(true, flat), 2);
        assert_eq!(scales(false, flat), 1);
    }
}

#[test]
fn order_edges_are_kept() {
    let mut b = Builder::new();
    let w = b.parameter("w", &[4]);
    let y = b.relu(w);
    b.output("y", y);
    let g = b.input("g", ValueType::f32([4]));
    let lr = b.input("lr", ValueType::scalar());
    let sgd = Op::SgdUpdate { momentum: 0.0, nesterov: false, weight_decay: 0.0 };
    let new = b.op(sgd, &[w, g, lr]);
    b.store("w", new);
    b.graph.add_order(y.node, new.node);
    let before = print(&b.graph).unwrap();
    canonical(&mut b.graph).unwrap();
    assert_eq!(print(&b.graph).unwrap(), before);
}

#[test]
fn a_model_keeps_its_meaning() {
    let graph = model(SGD).graph;
    let mut after = graph.clone();
    canonical(&mut after).unwrap();
    assert_same(&graph, &after);
}

#[test]
fn what_is_not_finite_is_not_folded() {
    let text = r#"graph "g" {
  v0 = constant value=1e300 : f32[]
  v1 = scale(v0) factor=1e300 : f32[]
  v2 = input name="x" : f32[]
  v3 = scale(v2) factor=1e300 : f32[]
  v4 = scale(v3) factor=1e300 : f32[]
  n5 = output(v1) name="a"
  n6 = output(v4) name="b"
}
"#;
    let mut graph = ddnnc_ir::parse(text).expect("a graph");
    canonical(&mut graph).expect("a pass");
    ddnnc_ir::verify(&graph).expect("a graph that obeys the rules");
    assert_eq!(ddnnc_ir::print(&graph).expect("a graph"), text);
}

#[test]
fn a_sum_that_doubles_again_and_again_is_looked_at_once() {
    let mut b = Builder::new();
    let x = b.input("x", ValueType::f32([2, 1]));
    let mut sum = b.op(Op::Pad { axis: 1, start: 0, total: 3 }, &[x]);
    for _ in 0..60 {
        sum = b.add(sum, sum);
    }
    b.output("y", sum);
    let before = b.graph.clone();
    canonical(&mut b.graph).unwrap();
    assert_eq!(print(&b.graph).unwrap(), print(&before).unwrap());
}
