use crate::build::{
    ADAMW, Builder, PLAIN, SGD, assert_program, assert_same, check, model, options_for, refused,
};
use ddnnc_ir::{Graph, Layout, Op, ValueType, order_stores, parse, print, verify};
use ddnnc_passes::{Goal, assign_layout, compile_with};

/// As [`check`]; what the pass leaves is verified, and a second run leaves it as it is.
fn check_layout(before: &str, after: &str) {
    check(assign_layout, before, after);
    verify(&parse(after).unwrap()).unwrap();
    refused(assign_layout, after);
}

fn conversions(graph: &Graph) -> usize {
    graph.nodes().filter(|&id| matches!(graph.node(id).op, Op::ConvertLayout { .. })).count()
}

#[test]
fn images_are_converted_once_and_everything_between_is_channels_last() {
    check_layout(
        r#"graph "g" {
  v0 = input name="image" : f32[2,3,4,4]
  v1 = parameter name="w" frozen=false : f32[5,3,3,3]
  v2 = parameter name="b" frozen=false : f32[5]
  v3 = conv2d(v0, v1) stride=[1,1] pad=[1,1] dilation=[1,1] groups=1 : f32[2,5,4,4] @ "net.conv1" [full]
  v4 = relu(v3) : f32[2,5,4,4]
  v5 = broadcast(v2) shape=[2,5,4,4] axes=[1] layout="row_major" : f32[2,5,4,4]
  v6 = constant value=0.5 : f32[2,5,4,4]
  v7 = add(v4, v5) : f32[2,5,4,4]
  v8 = add(v7, v6) : f32[2,5,4,4]
  v9 = mul(v0, v0) : f32[2,3,4,4]
  v10 = reduce_mean(v8) axes=[2,3] : f32[2,5]
  v11 = reduce_sum(v8) axes=[1] : f32[2,4,4]
  v12 = reduce_sum(v8) axes=[3] : f32[2,5,4]
  n13 = output(v8) name="map"
  n14 = output(v9) name="square"
  n15 = output(v10) name="mean"
  n16 = output(v11) name="attention"
  n17 = output(v12) name="rows"
}
"#,
        r#"graph "g" {
  v0 = input name="image" : f32[2,3,4,4]
  v1 = parameter name="w" frozen=false : f32[5,3,3,3]
  v2 = parameter name="b" frozen=false : f32[5]
  v3 = convert_layout(v0) layout="nhwc" : f32[2,3,4,4]{nhwc}
  v4 = conv2d(v3, v1) stride=[1,1] pad=[1,1] dilation=[1,1] groups=1 : f32[2,5,4,4]{nhwc} @ "net.conv1" [full]
  v5 = relu(v4) : f32[2,5,4,4]{nhwc}
  v6 = broadcast(v2) shape=[2,5,4,4] axes=[1] layout="nhwc" : f32[2,5,4,4]{nhwc}
  v7 = constant value=0.5 : f32[2,5,4,4]{nhwc}
  v8 = add(v5, v6) : f32[2,5,4,4]{nhwc}
  v9 = add(v8, v7) : f32[2,5,4,4]{nhwc}
  v10 = mul(v3, v3) : f32[2,3,4,4]{nhwc}
  v11 = reduce_mean(v9) axes=[2,3] : f32[2,5]
  v12 = reduce_sum(v9) axes=[1] : f32[2,4,4]
  v13 = convert_layout(v9) layout="row_major" : f32[2,5,4,4]
  v14 = reduce_sum(v13) axes=[3] : f32[2,5,4]
  n15 = output(v13) name="map"
  v16 = convert_layout(v10) layout="row_major" : f32[2,3,4,4]
  n17 = output(v16) name="square"
  n18 = output(v11) name="mean"
  n19 = output(v12) name="attention"
  n20 = output(v14) name="rows"
}
"#,
    );
}

#[test]
fn weights_and_their_gradients_stay_row_major() {
    check_layout(
        r#"graph "g" {
  v0 = input name="x" : f32[2,3,4,4]
  v1 = input name="dy" : f32[2,8]
  v2 = input name="lr" : f32[]
  v3 = parameter name="w" frozen=false : f32[2,3,3,3]
  v4 = reshape(v1) shape=[2,2,2,2] : f32[2,2,2,2]
  v5 = conv2d_grad_weight(v0, v4) stride=[1,1] pad=[0,0] dilation=[1,1] groups=1 kernel=[3,3] : f32[2,3,3,3]
  v6 = conv2d_grad_input(v4, v3) stride=[1,1] pad=[0,0] dilation=[1,1] groups=1 input=[4,4] : f32[2,3,4,4]
  v7 = scale(v3) factor=0.01 : f32[2,3,3,3]
  v8 = constant value=0.5 : f32[2,3,3,3]
  v9 = add(v5, v7) : f32[2,3,3,3]
  v10 = add(v9, v8) : f32[2,3,3,3]
  v11 = sgd_update(v3, v10, v2) momentum=0.0 nesterov=false weight_decay=0.0 : f32[2,3,3,3] after v6, v7
  n12 = store(v11) name="w"
  n13 = output(v6) name="dx"
}
"#,
        r#"graph "g" {
  v0 = input name="x" : f32[2,3,4,4]
  v1 = input name="dy" : f32[2,8]
  v2 = input name="lr" : f32[]
  v3 = parameter name="w" frozen=false : f32[2,3,3,3]
  v4 = reshape(v1) shape=[2,2,2,2] : f32[2,2,2,2]
  v5 = convert_layout(v0) layout="nhwc" : f32[2,3,4,4]{nhwc}
  v6 = convert_layout(v4) layout="nhwc" : f32[2,2,2,2]{nhwc}
  v7 = conv2d_grad_weight(v5, v6) stride=[1,1] pad=[0,0] dilation=[1,1] groups=1 kernel=[3,3] : f32[2,3,3,3]
  v8 = conv2d_grad_input(v6, v3) stride=[1,1] pad=[0,0] dilation=[1,1] groups=1 input=[4,4] : f32[2,3,4,4]{nhwc}
  v9 = scale(v3) factor=0.01 : f32[2,3,3,3]
  v10 = constant value=0.5 : f32[2,3,3,3]
  v11 = add(v7, v9) : f32[2,3,3,3]
  v12 = add(v11, v10) : f32[2,3,3,3]
  v13 = sgd_update(v3, v12, v2) momentum=0.0 nesterov=false weight_decay=0.0 : f32[2,3,3,3] after v8, v9
  n14 = store(v13) name="w"
  v15 = convert_layout(v8) layout="row_major" : f32[2,3,4,4]
  n16 = output(v15) name="dx"
}
"#,
    );
}

#[test]
fn reshapes_take_row_major_values() {
    check_layout(
        r#"graph "g" {
  v0 = input name="image" : f32[2,3,4,4]
  v1 = max_pool(v0) kernel=[2,2] stride=[2,2] pad=[0,0] : f32[2,3,2,2]
  v2 = reshape(v1) shape=[2,12] : f32[2,12]
  v3 = max_pool(v1) kernel=[2,2] stride=[2,2] pad=[0,0] : f32[2,3,1,1]
  v4 = reshape(v3) shape=[2,3] : f32[2,3]
  v5 = constant value=1.0 : f32[2,3,1,1]
  v6 = add(v3, v5) : f32[2,3,1,1]
  v7 = reshape(v5) shape=[2,3] : f32[2,3]
  n8 = output(v2) name="flat"
  n9 = output(v4) name="last"
  n10 = output(v6) name="more"
  n11 = output(v7) name="ones"
}
"#,
        r#"graph "g" {
  v0 = input name="image" : f32[2,3,4,4]
  v1 = convert_layout(v0) layout="nhwc" : f32[2,3,4,4]{nhwc}
  v2 = max_pool(v1) kernel=[2,2] stride=[2,2] pad=[0,0] : f32[2,3,2,2]{nhwc}
  v3 = convert_layout(v2) layout="row_major" : f32[2,3,2,2]
  v4 = reshape(v3) shape=[2,12] : f32[2,12]
  v5 = max_pool(v2) kernel=[2,2] stride=[2,2] pad=[0,0] : f32[2,3,1,1]{nhwc}
  v6 = reshape(v5) shape=[2,3] : f32[2,3]
  v7 = constant value=1.0 : f32[2,3,1,1]{nhwc}
  v8 = add(v5, v7) : f32[2,3,1,1]{nhwc}
  v9 = reshape(v7) shape=[2,3] : f32[2,3]
  n10 = output(v4) name="flat"
  n11 = output(v6) name="last"
  v12 = convert_layout(v8) layout="row_major" : f32[2,3,1,1]
  n13 = output(v12) name="more"
  n14 = output(v9) name="ones"
}
"#,
    );
}

#[test]
fn a_conversion_of_a_parameter_comes_before_its_update() {
    check_layout(
        r#"graph "g" {
  v0 = input name="image" : f32[2,2,3,3]
  v1 = input name="dw" : f32[2,2,3,3]
  v2 = input name="lr" : f32[]
  v3 = parameter name="w" frozen=false : f32[2,2,3,3]
  v4 = max_pool(v0) kernel=[3,3] stride=[1,1] pad=[1,1] : f32[2,2,3,3]
  v5 = stop_gradient(v3) : f32[2,2,3,3]
  v6 = mul(v4, v5) : f32[2,2,3,3]
  v7 = sgd_update(v3, v1, v2) momentum=0.0 nesterov=false weight_decay=0.0 : f32[2,2,3,3] after v6
  n8 = store(v7) name="w"
  n9 = output(v6) name="y"
}
"#,
        r#"graph "g" {
  v0 = input name="image" : f32[2,2,3,3]
  v1 = input name="dw" : f32[2,2,3,3]
  v2 = input name="lr" : f32[]
  v3 = parameter name="w" frozen=false : f32[2,2,3,3]
  v4 = convert_layout(v0) layout="nhwc" : f32[2,2,3,3]{nhwc}
  v5 = max_pool(v4) kernel=[3,3] stride=[1,1] pad=[1,1] : f32[2,2,3,3]{nhwc}
  v6 = stop_gradient(v3) : f32[2,2,3,3]
  v7 = convert_layout(v6) layout="nhwc" : f32[2,2,3,3]{nhwc}
  v8 = mul(v5, v7) : f32[2,2,3,3]{nhwc}
  v9 = sgd_update(v3, v1, v2) momentum=0.0 nesterov=false weight_decay=0.0 : f32[2,2,3,3] after v7, v8
  n10 = store(v9) name="w"
  v11 = convert_layout(v8) layout="row_major" : f32[2,2,3,3]
  n12 = output(v11) name="y"
}
"#,
    );
}

#[test]
fn constants_and_broadcasts_are_made_in_every_layout_that_is_asked_for() {
    check_layout(
        r#"graph "g" {
  v0 = input name="image" : f32[2,2,3,3]
  v1 = parameter name="w" frozen=false : f32[2,2,3,3]
  v2 = parameter name="b" frozen=false : f32[2]
  v3 = broadcast(v2) shape=[2,2,3,3] axes=[1] layout="row_major" : f32[2,2,3,3]
  v4 = constant value=0.25 : f32[2,2,3,3]
  v5 = add(v3, v4) : f32[2,2,3,3]
  v6 = mul(v1, v3) : f32[2,2,3,3]
  v7 = conv2d(v0, v6) stride=[1,1] pad=[1,1] dilation=[1,1] groups=1 : f32[2,2,3,3]
  v8 = mul(v7, v5) : f32[2,2,3,3]
  v9 = reduce_sum(v8) axes=[0,2,3] : f32[2]
  n10 = output(v9) name="sum"
}
"#,
        r#"graph "g" {
  v0 = input name="image" : f32[2,2,3,3]
  v1 = parameter name="w" frozen=false : f32[2,2,3,3]
  v2 = parameter name="b" frozen=false : f32[2]
  v3 = broadcast(v2) shape=[2,2,3,3] axes=[1] layout="nhwc" : f32[2,2,3,3]{nhwc}
  v4 = constant value=0.25 : f32[2,2,3,3]{nhwc}
  v5 = add(v3, v4) : f32[2,2,3,3]{nhwc}
  v6 = broadcast(v2) shape=[2,2,3,3] axes=[1] layout="row_major" : f32[2,2,3,3]
  v7 = mul(v1, v6) : f32[2,2,3,3]
  v8 = convert_layout(v0) layout="nhwc" : f32[2,2,3,3]{nhwc}
  v9 = conv2d(v8, v7) stride=[1,1] pad=[1,1] dilation=[1,1] groups=1 : f32[2,2,3,3]{nhwc}
  v10 = mul(v9, v5) : f32[2,2,3,3]{nhwc}
  v11 = reduce_sum(v10) axes=[0,2,3] : f32[2]
  n12 = output(v11) name="sum"
}
"#,
    );
}

#[test]
fn conversions_that_are_there_are_placed_anew() {
    check_layout(
        r#"graph "g" {
  v0 = input name="image" : f32[2,2,3,3]
  v1 = convert_layout(v0) layout="nhwc" : f32[2,2,3,3]{nhwc}
  v2 = convert_layout(v1) layout="row_major" : f32[2,2,3,3]
  v3 = convert_layout(v0) layout="nhwc" : f32[2,2,3,3]{nhwc}
  v4 = max_pool(v2) kernel=[2,2] stride=[1,1] pad=[0,0] : f32[2,2,2,2]
  v5 = avg_pool(v3) kernel=[2,2] stride=[1,1] pad=[0,0] : f32[2,2,2,2]{nhwc}
  v6 = convert_layout(v5) layout="row_major" : f32[2,2,2,2]
  v7 = add(v4, v6) : f32[2,2,2,2]
  n8 = output(v7) name="y"
}
"#,
        r#"graph "g" {
  v0 = input name="image" : f32[2,2,3,3]
  v1 = convert_layout(v0) layout="nhwc" : f32[2,2,3,3]{nhwc}
  v2 = max_pool(v1) kernel=[2,2] stride=[1,1] pad=[0,0] : f32[2,2,2,2]{nhwc}
  v3 = avg_pool(v1) kernel=[2,2] stride=[1,1] pad=[0,0] : f32[2,2,2,2]{nhwc}
  v4 = add(v2, v3) : f32[2,2,2,2]{nhwc}
  v5 = convert_layout(v4) layout="row_major" : f32[2,2,2,2]
  n6 = output(v5) name="y"
}
"#,
    );
}

#[test]
fn graphs_without_images_stay_as_they_are() {
    refused(
        assign_layout,
        r#"graph "g" {
  v0 = input name="x" : f32[2,2,3,3]
  v1 = parameter name="w" frozen=false : f32[5,18]
  v2 = parameter name="b" frozen=false : f32[5]
  v3 = relu(v0) : f32[2,2,3,3]
  v4 = reshape(v3) shape=[2,18] : f32[2,18]
  v5 = matmul(v4, v1) transpose_a=false transpose_b=true : f32[2,5]
  v6 = bias_add(v5, v2) : f32[2,5]
  n7 = output(v6) name="y"
}
"#,
    );
}

#[test]
fn order_edges_are_kept() {
    let mut b = Builder::new();
    let image = b.input("image", ValueType::f32([2, 2, 3, 3]));
    let w = b.parameter("w", &[2, 2, 3, 3]);
    let b1 = b.add(image, w);
    let y = b.conv("conv", b1, 2);
    b.output("y", y);
    let lr = b.input("lr", ValueType::scalar());
    let sgd = Op::SgdUpdate { momentum: 0.0, nesterov: false, weight_decay: 0.0 };
    let new = b.op(sgd, &[w, image, lr]);
    b.store("w", new);
    order_stores(&mut b.graph);
    b.graph.add_order(y.node, new.node);
    let before = b.graph;
    let mut after = before.clone();
    assign_layout(&mut after).unwrap();
    verify(&after).unwrap();
    assert_same(&before, &after);
    let update = |g: &Graph| g.nodes().find(|&id| matches!(g.node(id).op, Op::SgdUpdate { .. })).unwrap();
    let waits: Vec<&str> =
        after.order_predecessors(update(&after)).into_iter().map(|id| after.node(id).op.mnemonic()).collect();
    assert_eq!(waits, ["convert_layout", "add", "conv2d"]);
    let once = print(&after).unwrap();
    assign_layout(&mut after).unwrap();
    assert_eq!(print(&after).unwrap(), once);
}

#[test]
fn a_training_program_in_channels_last_does_what_the_row_major_one_does() {
    let options = options_for(Layout::ChannelsLast);
    for optimizer in [SGD, PLAIN, ADAMW] {
        let model = model(optimizer);
        let mut phases = Vec::new();
        let compiled = compile_with(&model, Goal::Train, &options, &mut |name, graph| {
            phases.push((name.to_owned(), graph.clone()));
        })
        .unwrap();
        assert_eq!(phases[3].0, "step");
        assert_same(&phases[3].1, &compiled.graph);
        assert_program(&phases[3].1, &compiled.program);
        // The image alone: the teacher flattens it as it came.
        assert_eq!(conversions(&compiled.graph), 1);
        for goal in [Goal::Gradients, Goal::Statistics, Goal::Evaluate] {
            let compiled = compile_with(&model, goal, &options, &mut |_, _| {}).unwrap();
            assert_eq!(conversions(&compiled.graph), 1);
            assert_program(&compiled.graph, &compiled.program);
        }
    }
}
