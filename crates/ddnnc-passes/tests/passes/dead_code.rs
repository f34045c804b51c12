use crate::build::{Builder, check, refused};
use ddnnc_ir::ValueType;
use ddnnc_passes::dead_code;

#[test]
fn what_no_sink_needs_goes_with_its_sources() {
    check(
        dead_code,
        r#"graph "g" {
  v0 = input name="x" : f32[4]
  v1 = parameter name="idle" frozen=false : f32[4]
  v2 = relu(v0) : f32[4]
  v3 = mul(v1, v2) : f32[4]
  v4 = relu(v3) : f32[4]
  n5 = output(v2) name="a"
}
"#,
        r#"graph "g" {
  v0 = input name="x" : f32[4]
  v1 = relu(v0) : f32[4]
  n2 = output(v1) name="a"
}
"#,
    );
}

#[test]
fn one_needed_result_keeps_the_operator() {
    refused(
        dead_code,
        r#"graph "g" {
  v0 = input name="x" : f32[4,2]
  v1, v2 = channel_stats(v0) : f32[2], f32[2]
  n3 = output(v2) name="a"
}
"#,
    );
}

#[test]
fn a_store_keeps_what_it_stores() {
    refused(
        dead_code,
        r#"graph "g" {
  v0 = state name="s" : f32[2]
  v1 = input name="x" : f32[2]
  v2 = ema(v0, v1) momentum=0.1 scale=1.0 : f32[2]
  n3 = store(v2) name="s"
}
"#,
    );
}

#[test]
fn a_stored_state_stays_without_readers() {
    refused(
        dead_code,
        r#"graph "g" {
  v0 = state name="s" : f32[2]
  v1 = input name="x" : f32[2]
  n2 = store(v1) name="s"
}
"#,
    );
}

#[test]
fn order_alone_keeps_nothing_alive() {
    let mut b = Builder::new();
    let x = b.input("x", ValueType::f32([4]));
    let (dead, kept) = (b.relu(x), b.scale(2.0, x));
    b.output("a", kept);
    b.graph.add_order(dead.node, kept.node);
    let mut graph = b.graph;
    dead_code(&mut graph).unwrap();
    assert!(!graph.contains(dead.node));
    assert_eq!(graph.len(), 3);
}

#[test]
fn an_empty_graph_stays_empty() {
    check(dead_code, "graph \"g\" {\n}\n", "graph \"g\" {\n}\n");
}
