use crate::build::{Builder, assert_same, check, refused};
use ddnnc_ir::{Op, ValueType, verify};
use ddnnc_passes::fuse;

#[test]
fn statistics_follow_a_convolution_and_cheap_chains_come_before_the_next() {
    check(
        fuse,
        r#"graph "g" {
  v0 = input name="a" : f32[2,3,4,4]
  v1 = parameter name="w1" frozen=false : f32[5,3,1,1]
  v2 = parameter name="w2" frozen=false : f32[4,5,1,1]
  v3 = parameter name="gain" frozen=false : f32[5]
  v4 = parameter name="bias" frozen=false : f32[5]
  v5 = conv2d(v0, v1) stride=[1,1] pad=[0,0] dilation=[1,1] groups=1 : f32[2,5,4,4] @ "net.conv1"
  v6, v7 = channel_stats(v5) : f32[5], f32[5] @ "net.bn1"
  v8 = normalize(v5, v6, v7, v3, v4) eps=1e-5 batch_stats=true : f32[2,5,4,4] @ "net.bn1"
  v9 = relu(v8) : f32[2,5,4,4] @ "net.relu1"
  v10 = conv2d(v9, v2) stride=[1,1] pad=[0,0] dilation=[1,1] groups=1 : f32[2,4,4,4] @ "net.conv2"
  n11 = output(v10) name="y"
}
"#,
        r#"graph "g" {
  v0 = input name="a" : f32[2,3,4,4]
  v1 = parameter name="w1" frozen=false : f32[5,3,1,1]
  v2 = parameter name="w2" frozen=false : f32[4,5,1,1]
  v3 = parameter name="gain" frozen=false : f32[5]
  v4 = parameter name="bias" frozen=false : f32[5]
  v5, v6, v7 = fused(v0, v1) kind="convolution" name="conv2d+channel_stats" {
    s0 = conv2d(p0, p1) stride=[1,1] pad=[0,0] dilation=[1,1] groups=1 : f32[2,5,4,4] @ "net.conv1"
    s1, s2 = channel_stats(s0) : f32[5], f32[5] @ "net.bn1"
    give s0, s1, s2
  } : f32[2,5,4,4], f32[5], f32[5] @ "net.conv1"
  v8 = fused(v5, v6, v7, v3, v4, v2) kind="convolution" name="normalize+relu+conv2d" {
    s0 = normalize(p0, p1, p2, p3, p4) eps=1e-5 batch_stats=true : f32[2,5,4,4] @ "net.bn1"
    s1 = relu(s0) : f32[2,5,4,4] @ "net.relu1"
    s2 = conv2d(s1, p5) stride=[1,1] pad=[0,0] dilation=[1,1] groups=1 : f32[2,4,4,4] @ "net.conv2"
    give s2
  } : f32[2,4,4,4] @ "net.conv2"
  n9 = output(v8) name="y"
}
"#,
    );
}

#[test]
fn an_input_gradient_takes_what_follows_up_to_the_sums_that_the_next_needs_whole() {
    check(
        fuse,
        r#"graph "g" {
  v0 = input name="dy" : f32[2,4,4,4]
  v1 = input name="z" : f32[2,3,4,4]
  v2 = input name="skip" : f32[2,3,4,4]
  v3 = input name="x" : f32[2,3,4,4]
  v4 = state name="mean" : f32[3]
  v5 = state name="var" : f32[3]
  v6 = parameter name="gain" frozen=false : f32[3]
  v7 = parameter name="w" frozen=false : f32[4,3,1,1]
  v8 = conv2d_grad_input(v0, v7) stride=[1,1] pad=[0,0] dilation=[1,1] groups=1 input=[4,4] : f32[2,3,4,4] @ "net.conv1"
  v9 = add(v8, v2) : f32[2,3,4,4] @ "net.add1"
  v10 = relu_grad(v1, v9) : f32[2,3,4,4] @ "net.relu1"
  v11, v12 = normalize_grad_reduce(v3, v4, v5, v10) eps=1e-5 : f32[3], f32[3] @ "net.bn1"
  v13 = normalize_grad_input(v3, v4, v5, v6, v10, v11, v12) eps=1e-5 : f32[2,3,4,4] @ "net.bn1"
  n14 = output(v13) name="dx"
  n15 = output(v11) name="dgain"
}
"#,
        r#"graph "g" {
  v0 = input name="dy" : f32[2,4,4,4]
  v1 = input name="z" : f32[2,3,4,4]
  v2 = input name="skip" : f32[2,3,4,4]
  v3 = input name="x" : f32[2,3,4,4]
  v4 = state name="mean" : f32[3]
  v5 = state name="var" : f32[3]
  v6 = parameter name="gain" frozen=false : f32[3]
  v7 = parameter name="w" frozen=false : f32[4,3,1,1]
  v8, v9, v10 = fused(v0, v7, v2, v1, v3, v4, v5) kind="convolution" name="conv2d_grad_input+add+relu_grad+normalize_grad_reduce" {
    s0 = conv2d_grad_input(p0, p1) stride=[1,1] pad=[0,0] dilation=[1,1] groups=1 input=[4,4] : f32[2,3,4,4] @ "net.conv1"
    s1 = add(s0, p2) : f32[2,3,4,4] @ "net.add1"
    s2 = relu_grad(p3, s1) : f32[2,3,4,4] @ "net.relu1"
    s3, s4 = normalize_grad_reduce(p4, p5, p6, s2) eps=1e-5 : f32[3], f32[3] @ "net.bn1"
    give s2, s3, s4
  } : f32[2,3,4,4], f32[3], f32[3] @ "net.conv1"
  v11 = normalize_grad_input(v3, v4, v5, v6, v8, v9, v10) eps=1e-5 : f32[2,3,4,4] @ "net.bn1"
  n12 = output(v11) name="dx"
  n13 = output(v9) name="dgain"
}
"#,
    );
}

#[test]
fn what_is_dear_or_read_by_others_is_not_computed_again() {
    refused(
        fuse,
        r#"graph "g" {
  v0 = input name="a" : f32[2,3,4,4]
  v1 = parameter name="w" frozen=false : f32[3,3,1,1]
  v2 = gelu(v0) : f32[2,3,4,4] @ "net.gelu1"
  v3 = max_pool(v2) kernel=[2,2] stride=[2,2] pad=[0,0] : f32[2,3,2,2] @ "net.pool1"
  v4 = conv2d(v2, v1) stride=[1,1] pad=[0,0] dilation=[1,1] groups=1 : f32[2,3,4,4] @ "net.conv1"
  n5 = output(v3) name="x"
  n6 = output(v4) name="y"
}
"#,
    );
}

#[test]
fn losses_run_as_one_sequence_and_updates_as_one_group() {
    check(
        fuse,
        r#"graph "g" {
  v0 = input name="x" : f32[4,3]
  v1 = input name="label" : i64[4]
  v2 = parameter name="bias" frozen=false : f32[3]
  v3 = bias_add(v0, v2) : f32[4,3] @ "net.linear1"
  v4 = cross_entropy(v3, v1) smoothing=0.0 : f32[] @ "loss.ce"
  v5 = constant value=1.0 : f32[]
  v6 = cross_entropy_grad(v3, v1, v5) smoothing=0.0 : f32[4,3] @ "loss.ce"
  v7 = reduce_sum(v6) axes=[0] : f32[3] @ "net.linear1"
  v8 = input name="lr" : f32[]
  v9 = sgd_update(v2, v7, v8) momentum=0.0 nesterov=false weight_decay=0.0 : f32[3] after v3
  v10 = state name="running" : f32[3]
  v11 = ema(v10, v7) momentum=0.1 scale=1.0 : f32[3]
  n12 = output(v4) name="loss.total"
  n13 = store(v9) name="bias"
  n14 = store(v11) name="running"
}
"#,
        r#"graph "g" {
  v0 = input name="x" : f32[4,3]
  v1 = input name="label" : i64[4]
  v2 = parameter name="bias" frozen=false : f32[3]
  v3, v4 = fused(v0, v2, v1) kind="sequence" name="bias_add+cross_entropy+constant+cross_entropy_grad+reduce_sum" {
    s0 = bias_add(p0, p1) : f32[4,3] @ "net.linear1"
    s1 = cross_entropy(s0, p2) smoothing=0.0 : f32[] @ "loss.ce"
    s2 = constant value=1.0 : f32[]
    s3 = cross_entropy_grad(s0, p2, s2) smoothing=0.0 : f32[4,3] @ "loss.ce"
    s4 = reduce_sum(s3) axes=[0] : f32[3] @ "net.linear1"
    give s1, s4
  } : f32[], f32[3] @ "net.linear1"
  v5 = input name="lr" : f32[]
  v6 = state name="running" : f32[3]
  v7, v8 = fused(v2, v4, v5, v6) kind="update" name="sgd_update+ema" {
    s0 = sgd_update(p0, p1, p2) momentum=0.0 nesterov=false weight_decay=0.0 : f32[3]
    s1 = ema(p3, p1) momentum=0.1 scale=1.0 : f32[3]
    give s0, s1
  } : f32[3], f32[3] after v3
  n9 = output(v3) name="loss.total"
  n10 = store(v7) name="bias"
  n11 = store(v8) name="running"
}
"#,
    );
}

#[test]
fn what_an_update_waits_for_is_not_computed_again_behind_it() {
    // The weight gradient comes after the update, so it must not read the parameter's old content itself.
    refused(
        fuse,
        r#"graph "g" {
  v0 = parameter name="p" frozen=false : f32[2,3,4,4]
  v1 = input name="g" : f32[2,3,4,4]
  v2 = input name="lr" : f32[]
  v3 = scale(v0) factor=2.0 : f32[2,3,4,4] @ "net.scale1"
  v4 = sgd_update(v0, v1, v2) momentum=0.0 nesterov=false weight_decay=0.0 : f32[2,3,4,4] after v3
  v5 = max_pool(v4) kernel=[1,1] stride=[1,1] pad=[0,0] : f32[2,3,4,4] @ "net.pool1"
  v6 = conv2d_grad_weight(v3, v5) stride=[1,1] pad=[0,0] dilation=[1,1] groups=1 kernel=[1,1] : f32[3,3,1,1] @ "net.conv1"
  n7 = output(v6) name="y"
  n8 = store(v4) name="p"
}
"#,
    );
}

/// The training step of two small sub-nets with a frozen teacher: what ResNets need of the passes, counted.
#[test]
fn a_residual_step_has_a_third_of_the_launches() {
    use crate::build::{SGD, model};
    use ddnnc_passes::{Goal, Options, compile_with};
    let model = model(SGD);
    let launches = |options: &Options| {
        compile_with(&model, Goal::Train, options, &mut |_, _| {}).unwrap().program.launches.len()
    };
    let (fused, unfused) = (launches(&all()), launches(&Options::without_fusion()));
    assert!(3 * fused <= unfused, "{fused} of {unfused}");
}

fn all() -> ddnnc_passes::Options {
    let names: Vec<&str> = ddnnc_passes::PASSES.iter().map(|(name, _)| *name).collect();
    ddnnc_passes::Options::named(&names).unwrap()
}

#[test]
fn names_of_passes_and_their_order_are_checked() {
    use ddnnc_passes::{Options, PassError};
    assert_eq!(Options::named(&["fuze"]).unwrap_err(), PassError::NoPass { name: "fuze".to_owned() });
    let wrong = Options::named(&["fuse", "canonical", "batch_shared_weights"]).unwrap_err();
    assert_eq!(wrong.to_string(), "the pass `batch_shared_weights` must come before `fuse`");
    assert!(Options::named(&["fuse", "dead_code"]).is_ok());
}

#[test]
fn more_updates_than_a_group_can_hold_are_several_groups() {
    const UPDATES: usize = 33_000;
    let mut text = String::from("graph \"g\" {\n  v0 = input name=\"lr\" : f32[]\n");
    for i in 0..UPDATES {
        let v = 1 + 4 * i;
        text += &format!("  v{v} = parameter name=\"p{i}\" frozen=false : f32[3]\n");
        text += &format!("  v{} = input name=\"g{i}\" : f32[3]\n", v + 1);
        text += &format!(
            "  v{} = sgd_update(v{v}, v{}, v0) momentum=0.0 nesterov=false weight_decay=0.0 : f32[3]\n",
            v + 2,
            v + 1
        );
        text += &format!("  n{} = store(v{}) name=\"p{i}\"\n", v + 3, v + 2);
    }
    text += "}\n";
    let mut graph = ddnnc_ir::parse(&text).expect("a graph");
    fuse(&mut graph).expect("groups that a graph can hold");
    graph.topological().expect("no circle");
    let launched = |id: &ddnnc_ir::NodeId| {
        let op = &graph.node(*id).op;
        !op.is_source() && !op.is_sink()
    };
    let launches: Vec<_> = graph.nodes().filter(launched).collect();
    assert_eq!(launches.len(), 3, "groups of updates, and nothing else");
}

/// What a gradient stop is ordered before waits for all that the stop follows from.
#[test]
fn an_update_waits_for_a_reader_behind_a_gradient_stop() {
    let mut b = Builder::new();
    let w = b.parameter("w", &[4]);
    let read = b.relu(w);
    let read = b.op(Op::StopGradient, &[read]);
    b.output("y", read);
    let (g, lr) = (b.input("g", ValueType::f32([4])), b.input("lr", ValueType::scalar()));
    let sgd = Op::SgdUpdate { momentum: 0.0, nesterov: false, weight_decay: 0.0 };
    let new = b.op(sgd, &[w, g, lr]);
    b.store("w", new);
    b.graph.add_order(read.node, new.node);
    verify(&b.graph).unwrap();
    let mut graph = b.graph.clone();
    fuse(&mut graph).unwrap();
    verify(&graph).unwrap();
    assert_same(&b.graph, &graph);
}
