use crate::build::{Builder, assert_same, check, refused};
use ddnnc_ir::{Op, ValueType};
use ddnnc_passes::share_prefixes;

#[test]
fn equal_operators_on_equal_operands_become_one() {
    check(
        share_prefixes,
        r#"graph "g" {
  v0 = input name="x" : f32[4]
  v1 = relu(v0) : f32[4] @ "net.relu1" [full]
  v2 = relu(v0) : f32[4] @ "net.relu1" [small]
  v3 = scale(v1) factor=2.0 : f32[4] @ "net.scale1" [full]
  v4 = scale(v2) factor=2.0 : f32[4] @ "net.scale1" [small]
  v5 = scale(v2) factor=3.0 : f32[4] @ "net.scale2" [small]
  n6 = output(v3) name="a"
  n7 = output(v4) name="b"
  n8 = output(v5) name="c"
}
"#,
        r#"graph "g" {
  v0 = input name="x" : f32[4]
  v1 = relu(v0) : f32[4] @ "net.relu1" [full, small]
  v2 = scale(v1) factor=2.0 : f32[4] @ "net.scale1" [full, small]
  v3 = scale(v1) factor=3.0 : f32[4] @ "net.scale2" [small]
  n4 = output(v2) name="a"
  n5 = output(v2) name="b"
  n6 = output(v3) name="c"
}
"#,
    );
}

#[test]
fn every_result_is_taken_over() {
    check(
        share_prefixes,
        r#"graph "g" {
  v0 = input name="x" : f32[4,2]
  v1, v2 = channel_stats(v0) : f32[2], f32[2]
  v3, v4 = channel_stats(v0) : f32[2], f32[2]
  n5 = output(v1) name="a"
  n6 = output(v4) name="b"
}
"#,
        r#"graph "g" {
  v0 = input name="x" : f32[4,2]
  v1, v2 = channel_stats(v0) : f32[2], f32[2]
  n3 = output(v1) name="a"
  n4 = output(v2) name="b"
}
"#,
    );
}

#[test]
fn operand_order_and_attributes_count() {
    refused(
        share_prefixes,
        r#"graph "g" {
  v0 = input name="x" : f32[4]
  v1 = input name="y" : f32[4]
  v2 = input name="rng" : i64[2]
  v3 = sub(v0, v1) : f32[4]
  v4 = sub(v1, v0) : f32[4]
  v5 = dropout(v0, v2) p=0.5 site=1 : f32[4]
  v6 = dropout(v0, v2) p=0.5 site=2 : f32[4]
  n7 = output(v3) name="a"
  n8 = output(v4) name="b"
  n9 = output(v5) name="c"
  n10 = output(v6) name="d"
}
"#,
    );
}

#[test]
fn private_norms_stay_apart() {
    refused(
        share_prefixes,
        r#"graph "g" {
  v0 = input name="x" : f32[4,2]
  v1 = parameter name="bn1.weight" frozen=false : f32[2]
  v2 = parameter name="bn1@small.weight" frozen=false : f32[2]
  v3 = bias_add(v0, v1) : f32[4,2]
  v4 = bias_add(v0, v2) : f32[4,2]
  n5 = output(v3) name="a"
  n6 = output(v4) name="b"
}
"#,
    );
}

#[test]
fn constants_are_shared_by_value_and_type() {
    check(
        share_prefixes,
        r#"graph "g" {
  v0 = constant value=1.0 : f32[2]
  v1 = constant value=1.0 : f32[2]
  v2 = constant value=1.0 : f32[3]
  v3 = constant value=0.0 : f32[2]
  v4 = constant value=-0.0 : f32[2]
  n5 = output(v0) name="a"
  n6 = output(v1) name="b"
  n7 = output(v2) name="c"
  n8 = output(v3) name="d"
  n9 = output(v4) name="e"
}
"#,
        r#"graph "g" {
  v0 = constant value=1.0 : f32[2]
  v1 = constant value=1.0 : f32[3]
  v2 = constant value=0.0 : f32[2]
  v3 = constant value=-0.0 : f32[2]
  n4 = output(v0) name="a"
  n5 = output(v0) name="b"
  n6 = output(v1) name="c"
  n7 = output(v2) name="d"
  n8 = output(v3) name="e"
}
"#,
    );
}

#[test]
fn stores_and_outputs_of_one_name_become_one() {
    let mut b = Builder::new();
    let x = b.input("x", ValueType::f32([4]));
    let old = b.state("s", &[4]);
    for _ in 0..2 {
        let new = b.op(Op::Ema { momentum: 0.1, scale: 1.0 }, &[old, x]);
        b.store("s", new);
        b.output("new", new);
    }
    let mut graph = b.graph.clone();
    share_prefixes(&mut graph).unwrap();
    assert_eq!(graph.len(), 5);
    let once = graph.clone();
    share_prefixes(&mut graph).unwrap();
    assert_same(&once, &graph);
}

#[test]
fn what_waits_for_a_merged_node_waits_for_the_one_that_stays() {
    let mut b = Builder::new();
    let w = b.parameter("w", &[4]);
    let (first, second) = (b.relu(w), b.relu(w));
    b.output("a", first);
    b.output("b", second);
    let g = b.input("g", ValueType::f32([4]));
    let lr = b.input("lr", ValueType::scalar());
    let sgd = Op::SgdUpdate { momentum: 0.0, nesterov: false, weight_decay: 0.0 };
    let new = b.op(sgd, &[w, g, lr]);
    b.store("w", new);
    b.graph.add_order(second.node, new.node);
    let mut graph = b.graph;
    share_prefixes(&mut graph).unwrap();
    assert!(!graph.contains(second.node));
    assert_eq!(graph.order_predecessors(new.node), [first.node]);
}

#[test]
fn a_node_that_waits_is_not_merged_with_one_that_does_not() {
    let mut b = Builder::new();
    let x = b.input("x", ValueType::f32([4]));
    let y = b.scale(2.0, x);
    b.output("y", y);
    let (first, second) = (b.relu(x), b.relu(x));
    b.output("a", first);
    b.output("b", second);
    b.graph.add_order(y.node, second.node);
    let mut graph = b.graph;
    share_prefixes(&mut graph).unwrap();
    assert!(graph.contains(first.node) && graph.contains(second.node));
}
