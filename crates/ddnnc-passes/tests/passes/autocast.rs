use crate::build::{ADAMW, Builder, SGD, assert_program, assert_same, eval, model, options_for, refused};
use ddnnc_ir::{DType, Graph, Layout, Model, Op, Precision, ValueType, parse, print, verify};
use ddnnc_passes::{Goal, autocast, compile, compile_with};

/// The pass rounds, so that only text is compared; what it leaves is verified, and a second run leaves it as it is.
fn check_cast(before: &str, after: &str) {
    let mut graph = parse(before).unwrap();
    autocast(&mut graph).unwrap();
    assert_eq!(print(&graph).unwrap(), after);
    verify(&graph).unwrap();
    refused(autocast, after);
}

#[test]
fn activations_are_bf16_and_every_weight_is_cast_once() {
    check_cast(
        r#"graph "g" {
  v0 = input name="image" : f32[2,3,4,4]
  v1 = parameter name="w" frozen=false : f32[3,3,3,3]
  v2 = parameter name="gain" frozen=false : f32[3]
  v3 = conv2d(v0, v1) stride=[1,1] pad=[1,1] dilation=[1,1] groups=1 : f32[2,3,4,4] @ "net.conv1" [full]
  v4, v5 = channel_stats(v3) : f32[3], f32[3]
  v6 = normalize(v3, v4, v5, v2, v2) eps=1e-5 batch_stats=true : f32[2,3,4,4]
  v7 = relu(v6) : f32[2,3,4,4]
  v8 = conv2d(v7, v1) stride=[1,1] pad=[1,1] dilation=[1,1] groups=1 : f32[2,3,4,4]
  v9 = add(v7, v8) : f32[2,3,4,4]
  v10 = square(v9) : f32[2,3,4,4]
  v11 = reduce_sum(v10) axes=[1] : f32[2,4,4]
  v12 = standardize(v11) eps=1e-5 : f32[2,4,4]
  v13 = mean_squared_error(v9, v7) : f32[]
  n14 = output(v12) name="attention"
  n15 = output(v9) name="map"
  n16 = output(v13) name="loss.map"
}
"#,
        r#"graph "g" {
  v0 = input name="image" : f32[2,3,4,4]
  v1 = parameter name="w" frozen=false : f32[3,3,3,3]
  v2 = parameter name="gain" frozen=false : f32[3]
  v3 = cast(v0) dtype="bf16" : bf16[2,3,4,4]
  v4 = cast(v1) dtype="bf16" : bf16[3,3,3,3]
  v5 = conv2d(v3, v4) stride=[1,1] pad=[1,1] dilation=[1,1] groups=1 : bf16[2,3,4,4] @ "net.conv1" [full]
  v6, v7 = channel_stats(v5) : f32[3], f32[3]
  v8 = normalize(v5, v6, v7, v2, v2) eps=1e-5 batch_stats=true : bf16[2,3,4,4]
  v9 = relu(v8) : bf16[2,3,4,4]
  v10 = conv2d(v9, v4) stride=[1,1] pad=[1,1] dilation=[1,1] groups=1 : bf16[2,3,4,4]
  v11 = add(v9, v10) : bf16[2,3,4,4]
  v12 = square(v11) : bf16[2,3,4,4]
  v13 = reduce_sum(v12) axes=[1] : f32[2,4,4]
  v14 = standardize(v13) eps=1e-5 : f32[2,4,4]
  v15 = cast(v11) dtype="f32" : f32[2,3,4,4]
  v16 = cast(v9) dtype="f32" : f32[2,3,4,4]
  v17 = mean_squared_error(v15, v16) : f32[]
  n18 = output(v14) name="attention"
  n19 = output(v15) name="map"
  n20 = output(v17) name="loss.map"
}
"#,
    );
}

#[test]
fn gradients_of_weights_and_updates_stay_f32() {
    check_cast(
        r#"graph "g" {
  v0 = input name="x" : f32[2,2,4,4]
  v1 = input name="dy" : f32[2,2]
  v2 = input name="lr" : f32[]
  v3 = parameter name="w" frozen=false : f32[2,2,3,3]
  v4 = scale(v1) factor=0.0625 : f32[2,2]
  v5 = broadcast(v4) shape=[2,2,4,4] axes=[0,1] layout="row_major" : f32[2,2,4,4]
  v6 = relu_grad(v0, v5) : f32[2,2,4,4]
  v7 = conv2d_grad_weight(v0, v6) stride=[1,1] pad=[1,1] dilation=[1,1] groups=1 kernel=[3,3] : f32[2,2,3,3]
  v8 = conv2d_grad_input(v6, v3) stride=[1,1] pad=[1,1] dilation=[1,1] groups=1 input=[4,4] : f32[2,2,4,4]
  v9 = scale(v3) factor=0.01 : f32[2,2,3,3]
  v10 = add(v7, v9) : f32[2,2,3,3]
  v11 = sgd_update(v3, v10, v2) momentum=0.0 nesterov=false weight_decay=0.0 : f32[2,2,3,3] after v8, v9
  v12 = reduce_sum(v8) axes=[0,2,3] : f32[2]
  n13 = store(v11) name="w"
  n14 = output(v12) name="db"
}
"#,
        r#"graph "g" {
  v0 = input name="x" : f32[2,2,4,4]
  v1 = input name="dy" : f32[2,2]
  v2 = input name="lr" : f32[]
  v3 = parameter name="w" frozen=false : f32[2,2,3,3]
  v4 = scale(v1) factor=0.0625 : f32[2,2]
  v5 = cast(v4) dtype="bf16" : bf16[2,2]
  v6 = broadcast(v5) shape=[2,2,4,4] axes=[0,1] layout="row_major" : bf16[2,2,4,4]
  v7 = cast(v0) dtype="bf16" : bf16[2,2,4,4]
  v8 = relu_grad(v7, v6) : bf16[2,2,4,4]
  v9 = conv2d_grad_weight(v7, v8) stride=[1,1] pad=[1,1] dilation=[1,1] groups=1 kernel=[3,3] : f32[2,2,3,3]
  v10 = cast(v3) dtype="bf16" : bf16[2,2,3,3]
  v11 = conv2d_grad_input(v8, v10) stride=[1,1] pad=[1,1] dilation=[1,1] groups=1 input=[4,4] : bf16[2,2,4,4]
  v12 = scale(v3) factor=0.01 : f32[2,2,3,3]
  v13 = add(v9, v12) : f32[2,2,3,3]
  v14 = sgd_update(v3, v13, v2) momentum=0.0 nesterov=false weight_decay=0.0 : f32[2,2,3,3] after v10, v11, v12
  v15 = reduce_sum(v11) axes=[0,2,3] : f32[2]
  n16 = store(v14) name="w"
  n17 = output(v15) name="db"
}
"#,
    );
}

#[test]
fn matrix_products_take_bf16_and_give_f32() {
    check_cast(
        r#"graph "g" {
  v0 = input name="image" : f32[2,2,2,2]
  v1 = input name="label" : i64[2]
  v2 = parameter name="w" frozen=false : f32[3,8]
  v3 = parameter name="b" frozen=false : f32[3]
  v4 = max_pool(v0) kernel=[1,1] stride=[1,1] pad=[0,0] : f32[2,2,2,2]
  v5 = reshape(v4) shape=[2,8] : f32[2,8]
  v6 = matmul(v5, v2) transpose_a=false transpose_b=true : f32[2,3]
  v7 = bias_add(v6, v3) : f32[2,3]
  v8 = cross_entropy(v7, v1) smoothing=0.0 : f32[]
  v9 = matmul(v7, v2) transpose_a=false transpose_b=false : f32[2,8]
  n10 = output(v7) name="logits.full"
  n11 = output(v8) name="loss.ce"
  n12 = output(v9) name="again"
}
"#,
        r#"graph "g" {
  v0 = input name="image" : f32[2,2,2,2]
  v1 = input name="label" : i64[2]
  v2 = parameter name="w" frozen=false : f32[3,8]
  v3 = parameter name="b" frozen=false : f32[3]
  v4 = cast(v0) dtype="bf16" : bf16[2,2,2,2]
  v5 = max_pool(v4) kernel=[1,1] stride=[1,1] pad=[0,0] : bf16[2,2,2,2]
  v6 = reshape(v5) shape=[2,8] : bf16[2,8]
  v7 = cast(v2) dtype="bf16" : bf16[3,8]
  v8 = matmul(v6, v7) transpose_a=false transpose_b=true : f32[2,3]
  v9 = bias_add(v8, v3) : f32[2,3]
  v10 = cross_entropy(v9, v1) smoothing=0.0 : f32[]
  v11 = cast(v9) dtype="bf16" : bf16[2,3]
  v12 = matmul(v11, v7) transpose_a=false transpose_b=false : f32[2,8]
  n13 = output(v9) name="logits.full"
  n14 = output(v10) name="loss.ce"
  n15 = output(v12) name="again"
}
"#,
    );
}

#[test]
fn constants_and_broadcasts_are_made_of_every_type_that_is_asked_for() {
    check_cast(
        r#"graph "g" {
  v0 = input name="image" : f32[2,2,3,3]
  v1 = parameter name="w" frozen=false : f32[2,2,3,3]
  v2 = parameter name="b" frozen=false : f32[2]
  v3 = broadcast(v2) shape=[2,2,3,3] axes=[1] layout="row_major" : f32[2,2,3,3]
  v4 = constant value=0.1 : f32[2,2,3,3]
  v5 = mul(v1, v3) : f32[2,2,3,3]
  v6 = conv2d(v0, v5) stride=[1,1] pad=[1,1] dilation=[1,1] groups=1 : f32[2,2,3,3]
  v7 = mul(v6, v3) : f32[2,2,3,3]
  v8 = add(v7, v4) : f32[2,2,3,3]
  v9 = reduce_sum(v8) axes=[0,2,3] : f32[2]
  n10 = output(v9) name="sum"
}
"#,
        r#"graph "g" {
  v0 = input name="image" : f32[2,2,3,3]
  v1 = parameter name="w" frozen=false : f32[2,2,3,3]
  v2 = parameter name="b" frozen=false : f32[2]
  v3 = broadcast(v2) shape=[2,2,3,3] axes=[1] layout="row_major" : f32[2,2,3,3]
  v4 = constant value=0.1 : bf16[2,2,3,3]
  v5 = mul(v1, v3) : f32[2,2,3,3]
  v6 = cast(v0) dtype="bf16" : bf16[2,2,3,3]
  v7 = cast(v5) dtype="bf16" : bf16[2,2,3,3]
  v8 = conv2d(v6, v7) stride=[1,1] pad=[1,1] dilation=[1,1] groups=1 : bf16[2,2,3,3]
  v9 = cast(v2) dtype="bf16" : bf16[2]
  v10 = broadcast(v9) shape=[2,2,3,3] axes=[1] layout="row_major" : bf16[2,2,3,3]
  v11 = mul(v8, v10) : bf16[2,2,3,3]
  v12 = add(v11, v4) : bf16[2,2,3,3]
  v13 = reduce_sum(v12) axes=[0,2,3] : f32[2]
  n14 = output(v13) name="sum"
}
"#,
    );
}

#[test]
fn what_is_f32_stays_so_in_another_shape() {
    check_cast(
        r#"graph "g" {
  v0 = input name="x" : f32[2,2,3,3]
  v1 = input name="row" : f32[2,8]
  v2 = parameter name="w" frozen=false : f32[8,8]
  v3 = matmul(v1, v2) transpose_a=false transpose_b=true : f32[2,8]
  v4 = reshape(v3) shape=[2,2,2,2] : f32[2,2,2,2]
  v5 = conv2d_grad_weight(v0, v4) stride=[1,1] pad=[0,0] dilation=[1,1] groups=1 kernel=[2,2] : f32[2,2,2,2]
  v6 = reshape(v5) shape=[4,4] : f32[4,4]
  n7 = output(v4) name="map"
  n8 = output(v6) name="grad.w"
}
"#,
        r#"graph "g" {
  v0 = input name="x" : f32[2,2,3,3]
  v1 = input name="row" : f32[2,8]
  v2 = parameter name="w" frozen=false : f32[8,8]
  v3 = cast(v1) dtype="bf16" : bf16[2,8]
  v4 = cast(v2) dtype="bf16" : bf16[8,8]
  v5 = matmul(v3, v4) transpose_a=false transpose_b=true : f32[2,8]
  v6 = reshape(v5) shape=[2,2,2,2] : f32[2,2,2,2]
  v7 = cast(v0) dtype="bf16" : bf16[2,2,3,3]
  v8 = cast(v6) dtype="bf16" : bf16[2,2,2,2]
  v9 = conv2d_grad_weight(v7, v8) stride=[1,1] pad=[0,0] dilation=[1,1] groups=1 kernel=[2,2] : f32[2,2,2,2]
  v10 = reshape(v9) shape=[4,4] : f32[4,4]
  n11 = output(v6) name="map"
  n12 = output(v10) name="grad.w"
}
"#,
    );
}

#[test]
fn casts_that_are_there_stay() {
    // The way by bf16 rounds: what reads behind it must not read what is before.
    check_cast(
        r#"graph "g" {
  v0 = input name="x" : f32[2,3]
  v1 = parameter name="w" frozen=false : f32[4,3]
  v2 = cast(v0) dtype="bf16" : bf16[2,3]
  v3 = cast(v2) dtype="f32" : f32[2,3]
  v4 = matmul(v3, v1) transpose_a=false transpose_b=true : f32[2,4]
  n5 = output(v3) name="rounded"
  n6 = output(v4) name="y"
}
"#,
        r#"graph "g" {
  v0 = input name="x" : f32[2,3]
  v1 = parameter name="w" frozen=false : f32[4,3]
  v2 = cast(v0) dtype="bf16" : bf16[2,3]
  v3 = cast(v2) dtype="f32" : f32[2,3]
  v4 = cast(v3) dtype="bf16" : bf16[2,3]
  v5 = cast(v1) dtype="bf16" : bf16[4,3]
  v6 = matmul(v4, v5) transpose_a=false transpose_b=true : f32[2,4]
  n7 = output(v3) name="rounded"
  n8 = output(v6) name="y"
}
"#,
    );
}

#[test]
fn graphs_that_multiply_nothing_stay_as_they_are() {
    refused(
        autocast,
        r#"graph "g" {
  v0 = input name="x" : f32[2,2,3,3]
  v1 = relu(v0) : f32[2,2,3,3]
  v2 = max_pool(v1) kernel=[2,2] stride=[1,1] pad=[0,0] : f32[2,2,2,2]
  v3 = reshape(v2) shape=[2,8] : f32[2,8]
  v4 = softmax(v3) : f32[2,8]
  n5 = output(v4) name="y"
}
"#,
    );
}

#[test]
fn order_edges_are_kept() {
    let mut b = Builder::new();
    let x = b.input("x", ValueType::f32([2, 3]));
    let s = b.state("s", &[4, 3]);
    let y = b.op(Op::MatMul { transpose_a: false, transpose_b: true }, &[x, s]);
    b.output("y", y);
    let new = b.input("new", ValueType::f32([4, 3]));
    let ema = b.op(Op::Ema { momentum: 0.5, scale: 1.0 }, &[s, new]);
    b.store("s", ema);
    b.graph.add_order(y.node, ema.node);
    let mut graph = b.graph;
    autocast(&mut graph).unwrap();
    verify(&graph).unwrap();
    let update = graph.nodes().find(|&id| matches!(graph.node(id).op, Op::Ema { .. })).unwrap();
    let waits = graph.order_predecessors(update).into_iter().map(|id| graph.node(id).op.mnemonic());
    assert_eq!(waits.collect::<Vec<_>>(), ["cast", "matmul"]);
}

fn half(optimizer: ddnnc_ir::Optimizer) -> Model {
    let mut model = model(optimizer);
    model.recipe.precision = Precision::Bf16;
    model
}

fn count(graph: &Graph, mnemonic: &str) -> usize {
    graph.nodes().filter(|&id| graph.node(id).op.mnemonic() == mnemonic).count()
}

#[test]
fn a_step_in_bf16_is_close_to_one_in_f32() {
    for optimizer in [SGD, ADAMW] {
        let model = half(optimizer);
        let exact =
            eval(&compile(&crate::build::model(optimizer), Goal::Gradients, &mut |_, _| {}).unwrap().graph);
        let compiled = crate::build::unfused(&model, Goal::Gradients);
        assert!(count(&compiled.graph, "cast") > 0);
        let rounded = eval(&compiled.graph);
        assert_program(&compiled.graph, &compiled.program);
        let mut differ = 0;
        for (name, exact) in &exact.outputs {
            let rounded = &rounded.outputs[name];
            assert_eq!(exact.ty, rounded.ty, "{name}");
            let scale = exact.data.iter().fold(1e-3f64, |m, x| m.max(x.abs()));
            let tolerance = if name.starts_with("loss.") { 0.02 } else { 0.1 };
            for (x, y) in exact.data.iter().zip(&rounded.data) {
                let within = (x - y).abs() <= tolerance * scale;
                assert!(within, "{name}: {x} and {y}");
                differ += usize::from(x != y);
            }
        }
        assert!(differ > 0, "nothing was rounded");
    }
}

#[test]
fn every_goal_follows_the_precision_in_both_layouts() {
    let mut seen = 0;
    for layout in [Layout::RowMajor, Layout::ChannelsLast] {
        for goal in [Goal::Train, Goal::Gradients, Goal::Statistics, Goal::Evaluate] {
            let compiled = compile_with(&half(ADAMW), goal, &options_for(layout), &mut |_, _| {}).unwrap();
            let graph = &compiled.graph;
            assert_program(graph, &compiled.program);
            for id in graph.nodes() {
                for v in graph.operands(id) {
                    let ty = graph.ty(v);
                    match &graph.node(id).op {
                        Op::Conv2d(_)
                        | Op::Conv2dGradInput { .. }
                        | Op::Conv2dGradWeight { .. }
                        | Op::MatMul { .. } => {
                            assert_eq!(ty.dtype, DType::Bf16);
                            seen += 1;
                        }
                        Op::Output { .. } | Op::Store { .. } => assert_eq!(ty.dtype, DType::F32),
                        _ => {}
                    }
                }
                let casts = graph
                    .results(id)
                    .iter()
                    .flat_map(|&v| graph.users(v))
                    .filter(|(user, _)| matches!(graph.node(*user).op, Op::Cast { .. }))
                    .count();
                assert!(casts <= 1, "{} is cast {casts} times", graph.node(id).op.mnemonic());
            }
        }
    }
    assert!(seen > 100, "{seen}");
}

#[test]
fn layouts_mean_the_same_in_bf16() {
    let run =
        |layout| compile_with(&half(SGD), Goal::Train, &options_for(layout), &mut |_, _| {}).unwrap().graph;
    assert_same(&run(Layout::RowMajor), &run(Layout::ChannelsLast));
}
