//! Every gradient rule against central differences in f64.

mod common;

use common::*;
use ddnnc_ir::reference::{Tensor, evaluate};
use ddnnc_ir::{
    BinaryKind, DType, Graph, GroupKind, IrError, Layout, Op, Origin, ReduceKind, Shape, UnaryKind, Value,
    ValueType, differentiate, has_gradient, verify,
};
use rand::seq::SliceRandom;
use std::collections::BTreeSet;

const STEP: f64 = 1e-5;

/// How operands are drawn.
#[derive(Clone, Copy, PartialEq)]
enum Draw {
    /// Uniform in ±1.5.
    Any,
    /// Uniform in 0.5 to 2.
    Positive,
    /// Distinct multiples of this, moved off zero: apart from each other and from kinks by far more than the step.
    Apart(f64),
}

struct Case {
    op: Op,
    operands: Vec<ValueType>,
    draw: Draw,
}

fn case(op: Op, operands: &[ValueType]) -> Case {
    Case { op, operands: operands.to_vec(), draw: Draw::Any }
}

fn cases() -> Vec<Case> {
    let mut out = Vec::new();
    for kind in UnaryKind::ALL {
        for dims in [&[7][..], &[2, 3, 4, 2]] {
            out.push(Case { op: Op::Unary { kind }, operands: vec![f32(dims)], draw: Draw::Apart(0.31) });
        }
    }
    for kind in [BinaryKind::Add, BinaryKind::Sub, BinaryKind::Mul] {
        out.push(case(Op::Binary { kind }, &[f32(&[3, 2]), f32(&[3, 2])]));
        out.push(case(Op::Binary { kind }, &[f32(&[]), f32(&[])]));
    }
    out.push(case(Op::Scale { factor: -2.5 }, &[f32(&[4])]));
    for dims in [&[3, 2][..], &[2, 2, 3], &[2, 3, 2, 2]] {
        out.push(case(Op::BiasAdd, &[f32(dims), f32(&[dims[1]])]));
    }
    out.push(case(Op::Dropout { p: 0.4, site: 7 }, &[f32(&[5, 6]), i64(&[2])]));

    for (x, w, c) in [
        ([2, 2, 5, 5], [3, 2, 3, 3], conv([1, 1], [1, 1], [1, 1], 1)),
        ([1, 3, 6, 5], [2, 3, 3, 3], conv([2, 2], [1, 1], [1, 1], 1)),
        ([2, 2, 4, 4], [4, 2, 1, 1], conv([2, 2], [0, 0], [1, 1], 1)),
        ([1, 4, 5, 6], [6, 2, 3, 2], conv([1, 2], [2, 0], [1, 1], 2)),
        ([1, 3, 5, 5], [3, 1, 3, 3], conv([1, 1], [1, 1], [1, 1], 3)),
        ([1, 2, 7, 8], [2, 2, 3, 2], conv([1, 3], [2, 1], [2, 3], 1)),
        ([1, 1, 3, 3], [1, 1, 3, 3], conv([1, 1], [0, 0], [1, 1], 1)),
        ([1, 2, 2, 2], [2, 2, 5, 5], conv([3, 3], [4, 4], [1, 1], 1)),
        ([1, 4, 9, 9], [4, 1, 3, 3], conv([2, 2], [2, 2], [2, 2], 4)),
    ] {
        out.push(case(Op::Conv2d(c), &[f32(&x), f32(&w)]));
    }
    for (transpose_a, transpose_b) in [(false, false), (false, true), (true, false), (true, true)] {
        let a = if transpose_a { [4, 2] } else { [2, 4] };
        let b = if transpose_b { [3, 4] } else { [4, 3] };
        out.push(case(Op::MatMul { transpose_a, transpose_b }, &[f32(&a), f32(&b)]));
    }
    for dims in [&[5, 3][..], &[3, 2, 2, 3], &[2, 2, 4]] {
        for batch_stats in [false, true] {
            let c = f32(&[dims[1]]);
            let op = Op::Normalize { eps: 1e-3, batch_stats };
            let operands = vec![f32(dims), c.clone(), c.clone(), c.clone(), c];
            out.push(Case { op, operands, draw: Draw::Positive });
        }
    }
    for (x, p) in [
        ([2, 2, 4, 4], pool([2, 2], [2, 2], [0, 0])),
        ([1, 2, 5, 6], pool([3, 3], [2, 2], [1, 1])),
        ([1, 1, 5, 7], pool([2, 3], [1, 2], [0, 1])),
        ([2, 3, 3, 3], pool([3, 3], [1, 1], [0, 0])),
    ] {
        out.push(Case { op: Op::MaxPool(p), operands: vec![f32(&x)], draw: Draw::Apart(0.1) });
        out.push(case(Op::AvgPool(p), &[f32(&x)]));
    }
    out.push(case(Op::Reshape { shape: Shape::from([3, 4]) }, &[f32(&[2, 6])]));
    for axis in 0..3 {
        let mut dims = [[2, 3, 2]; 3];
        dims[1][axis] = 1;
        dims[2][axis] = 4;
        out.push(case(Op::Concat { axis }, &dims.map(|d| f32(&d))));
        out.push(case(Op::Slice { axis, start: 1, len: 1 }, &[f32(&[2, 3, 2])]));
        out.push(case(Op::Pad { axis, start: 2, total: 6 }, &[f32(&[2, 3, 2])]));
    }
    for kind in [ReduceKind::Sum, ReduceKind::Mean] {
        for axes in [vec![], vec![0], vec![1], vec![0, 2], vec![1, 2], vec![0, 1, 2]] {
            out.push(case(Op::Reduce { kind, axes }, &[f32(&[2, 3, 4])]));
        }
    }
    for (dims, axes) in
        [(vec![], vec![]), (vec![3], vec![1]), (vec![2, 4], vec![0, 2]), (vec![2, 3, 4], vec![0, 1, 2])]
    {
        out.push(case(
            Op::Broadcast { shape: Shape::from([2, 3, 4]), axes, layout: Layout::RowMajor },
            &[f32(&dims)],
        ));
    }
    for dims in [&[3, 5][..], &[2, 1, 3, 2], &[2, 4, 4]] {
        out.push(case(Op::Standardize { eps: 1e-3 }, &[f32(dims)]));
        out.push(case(Op::L2Normalize { eps: 1e-6 }, &[f32(dims)]));
        // Below the least norm the map is linear.
        out.push(case(Op::L2Normalize { eps: 1e3 }, &[f32(dims)]));
    }
    for dims in [[1, 3], [4, 5]] {
        out.push(case(Op::Softmax, &[f32(&dims)]));
        out.push(case(Op::LogSoftmax, &[f32(&dims)]));
        for smoothing in [0.0, 0.2] {
            out.push(case(Op::CrossEntropy { smoothing }, &[f32(&dims), i64(&dims[..1])]));
        }
        for temperature in [1.0, 3.0, 0.7] {
            out.push(case(Op::KlDivergence { temperature }, &[f32(&dims), f32(&dims)]));
        }
        out.push(case(Op::MeanSquaredError, &[f32(&dims), f32(&dims)]));
    }
    out.push(case(Op::MeanSquaredError, &[f32(&[2, 2, 3]), f32(&[2, 2, 3])]));
    // One column has differences of quotients and of cosines beyond 1.
    for (samples, a, b) in [(2, 3, 2), (3, 2, 2), (6, 1, 1), (5, 2, 4)] {
        for op in [Op::RelationDistance, Op::RelationAngle] {
            out.push(case(op, &[f32(&[samples, a]), f32(&[samples, b])]));
        }
    }
    out
}

fn draw(ty: &ValueType, draw: Draw, rng: &mut rand_chacha::ChaCha8Rng) -> Tensor {
    match draw {
        Draw::Any => random(ty, -1.5, 1.5, rng),
        Draw::Positive => random(ty, 0.5, 2.0, rng),
        Draw::Apart(step) => {
            let n = ty.elements() as i64;
            let mut data: Vec<f64> = (0..n).map(|i| (i - n / 2) as f64 * step + 0.033).collect();
            data.shuffle(rng);
            Tensor { ty: ty.clone(), data }
        }
    }
}

/// Whether the operand can have a gradient.
fn differentiable(case: &Case, i: usize) -> bool {
    let statistics = matches!(case.op, Op::Normalize { .. }) && matches!(i, 1 | 2);
    case.operands[i].dtype == DType::F32 && !statistics
}

/// Σ out · weights as the loss, with those operands as parameters that `trained` says and the rest as inputs.
fn build(case: &Case, trained: &[bool]) -> (Graph, Value) {
    let mut graph = Graph::new("case");
    let mut operands: Vec<Value> = (0..trained.len())
        .map(|i| {
            let name = format!("x{i}");
            let ty = &case.operands[i];
            if trained[i] { parameter(&mut graph, &name, ty) } else { input(&mut graph, &name, ty) }
        })
        .collect();
    if matches!(case.op, Op::Normalize { batch_stats: true, .. }) {
        let stats = graph.add(Op::ChannelStats, &operands[..1], Origin::default()).unwrap();
        operands[1] = Value { node: stats, result: 0 };
        operands[2] = Value { node: stats, result: 1 };
    }
    let y = add(&mut graph, case.op.clone(), &operands);
    let ty = graph.ty(y).clone();
    let weights = input(&mut graph, "weights", &ty);
    let product = add(&mut graph, Op::Binary { kind: BinaryKind::Mul }, &[y, weights]);
    let axes = (0..ty.shape.rank()).collect();
    let loss = add(&mut graph, Op::Reduce { kind: ReduceKind::Sum, axes }, &[product]);
    output(&mut graph, "loss.total", loss);
    (graph, loss)
}

fn loss_at(graph: &Graph, feeds: &Feeds) -> f64 {
    evaluate(graph, feeds).unwrap().outputs["loss.total"].data[0]
}

/// Compares the gradients of `loss` with central differences; gives a line for each element that differs.
fn mismatches(graph: &Graph, loss: Value, feeds: &Feeds, what: &str) -> Vec<String> {
    let forward = graph.clone();
    let mut graph = graph.clone();
    let gradients = differentiate(&mut graph, loss).unwrap_or_else(|e| panic!("{what}: {e}"));
    for (name, &v) in &gradients {
        output(&mut graph, &format!("grad.{name}"), v);
    }
    verify(&graph).unwrap_or_else(|e| panic!("{what}: {e}"));
    let outputs = evaluate(&graph, feeds).unwrap().outputs;
    let mut out = Vec::new();
    for name in gradients.keys() {
        let gradient = &outputs[&format!("grad.{name}")];
        assert_eq!(gradient.ty, feeds[name].ty, "{what}: type of the gradient of {name}");
        for i in 0..gradient.data.len() {
            let mut moved = feeds.clone();
            let at = feeds[name].data[i];
            moved[name].data[i] = at + STEP;
            let above = loss_at(&forward, &moved);
            moved[name].data[i] = at - STEP;
            let below = loss_at(&forward, &moved);
            let expected = (above - below) / (2.0 * STEP);
            let diff = (gradient.data[i] - expected).abs();
            let close = diff <= 1e-6 * expected.abs().max(1.0);
            if !close {
                out.push(format!(
                    "{what}: d{name}[{i}] is {}, differences give {expected}",
                    gradient.data[i]
                ));
            }
        }
    }
    out
}

#[test]
fn rules_agree_with_central_differences() {
    let mut wrong = Vec::new();
    for (number, case) in cases().iter().enumerate() {
        let n = case.operands.len();
        let can: Vec<usize> = (0..n).filter(|&i| differentiable(case, i)).collect();
        let alone = can.iter().map(|&i| vec![i]);
        // All operands at once, and each alone: a rule computes only what is wanted.
        for wanted in std::iter::once(can.clone()).chain(alone) {
            let trained: Vec<bool> = (0..n).map(|i| wanted.contains(&i)).collect();
            let (graph, loss) = build(case, &trained);
            let mut rng = rng(number as u64);
            let mut feeds = Feeds::new();
            for (i, ty) in case.operands.iter().enumerate() {
                let tensor =
                    if ty.dtype == DType::I64 { labels(ty, &mut rng) } else { draw(ty, case.draw, &mut rng) };
                feeds.insert(format!("x{i}"), tensor);
            }
            let ty = graph.nodes().find_map(|id| match &graph.node(id).op {
                Op::Input { name } if name == "weights" => Some(graph.node(id).results[0].clone()),
                _ => None,
            });
            feeds.insert("weights".to_string(), random(&ty.unwrap(), 0.5, 1.5, &mut rng));
            let what = format!("case {number}, {:?} with respect to {wanted:?}", case.op);
            let mut with_grads = graph.clone();
            let found: Vec<String> = differentiate(&mut with_grads, loss).unwrap().into_keys().collect();
            let expected: Vec<String> = wanted.iter().map(|i| format!("x{i}")).collect();
            assert_eq!(found, expected, "{what}");
            wrong.extend(mismatches(&graph, loss, &feeds, &what));
        }
    }
    assert!(wrong.is_empty(), "{} mismatches:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn every_elementwise_function_is_listed() {
    let listed = UnaryKind::ALL.map(|kind| format!("{kind:?}"));
    assert_eq!(listed, *variants::<UnaryKind>(), "UnaryKind::ALL has every kind once, in its order");
}

#[test]
fn every_kind_of_group_is_listed() {
    let listed = GroupKind::ALL.map(|kind| format!("{kind:?}"));
    assert_eq!(listed, *variants::<GroupKind>(), "GroupKind::ALL has every kind once, in its order");
}

#[test]
fn every_rule_has_a_case_and_every_operator_a_sample() {
    let known: BTreeSet<String> = samples().iter().map(|(op, _)| variant(op)).collect();
    assert_eq!(known, names(variants::<Op>()), "samples() has one of every operator");
    let tested: BTreeSet<&str> = cases().iter().map(|c| c.op.mnemonic()).collect();
    for (op, _) in samples() {
        if has_gradient(&op) && !matches!(op, Op::Parameter { .. }) {
            assert!(tested.contains(op.mnemonic()), "{} has a gradient rule and no case", op.mnemonic());
        }
    }
}

#[test]
fn every_kind_of_an_operator_has_a_sample() {
    let of = |kind: fn(&Op) -> Option<String>| -> BTreeSet<String> {
        samples().iter().filter_map(|(op, _)| kind(op)).collect()
    };
    let binary = of(|op| if let Op::Binary { kind } = op { Some(format!("{kind:?}")) } else { None });
    assert_eq!(binary, names(variants::<BinaryKind>()));
    let reductions = of(|op| if let Op::Reduce { kind, .. } = op { Some(format!("{kind:?}")) } else { None });
    assert_eq!(reductions, names(variants::<ReduceKind>()));
    let layouts =
        of(|op| if let Op::ConvertLayout { layout } = op { Some(format!("{layout:?}")) } else { None });
    assert_eq!(layouts, names(variants::<Layout>()));
}

fn names(variants: &[&str]) -> BTreeSet<String> {
    variants.iter().map(|name| name.to_string()).collect()
}

#[test]
fn contributions_of_several_uses_are_added() {
    let mut graph = Graph::new("uses");
    let x = parameter(&mut graph, "x", &f32(&[2, 3]));
    let square = add(&mut graph, Op::Unary { kind: UnaryKind::Square }, &[x]);
    let sum = add(&mut graph, Op::Binary { kind: BinaryKind::Add }, &[x, x]);
    let all = add(&mut graph, Op::Concat { axis: 0 }, &[square, sum, x]);
    let soft = add(&mut graph, Op::LogSoftmax, &[all]);
    let square = add(&mut graph, Op::Unary { kind: UnaryKind::Square }, &[soft]);
    let loss = add(&mut graph, Op::Reduce { kind: ReduceKind::Mean, axes: vec![0, 1] }, &[square]);
    output(&mut graph, "loss.total", loss);
    let feeds = feeds(&graph, -1.0, 1.0, 3);
    assert_eq!(mismatches(&graph, loss, &feeds, "uses"), Vec::<String>::new());
}

/// conv, batch norm, ReLU, pool, linear, cross-entropy and a KL pairing in one graph, the teacher detached or not.
fn network(detach: bool, frozen: bool) -> (Graph, Value) {
    let mut g = Graph::new("network");
    let image = input(&mut g, "image", &f32(&[3, 2, 4, 4]));
    let label = input(&mut g, "label", &i64(&[3]));
    let mut logits = Vec::new();
    for net in ["teacher", "student"] {
        let op = Op::Parameter { name: format!("{net}.w"), frozen: frozen && net == "teacher" };
        let w = g.add_source(op, f32(&[3, 2, 3, 3]), Origin::default()).unwrap();
        let y = add(&mut g, Op::Conv2d(conv([1, 1], [1, 1], [1, 1], 1)), &[image, w]);
        let stats = g.add(Op::ChannelStats, &[y], Origin::default()).unwrap();
        let stats = g.results(stats);
        let gain = parameter(&mut g, &format!("{net}.gain"), &f32(&[3]));
        let bias = parameter(&mut g, &format!("{net}.bias"), &f32(&[3]));
        let op = Op::Normalize { eps: 1e-5, batch_stats: true };
        let y = add(&mut g, op, &[y, stats[0], stats[1], gain, bias]);
        let y = add(&mut g, Op::Unary { kind: UnaryKind::Silu }, &[y]);
        logits.push(add(&mut g, Op::Reduce { kind: ReduceKind::Mean, axes: vec![2, 3] }, &[y]));
    }
    let cut = if detach { add(&mut g, Op::StopGradient, &[logits[0]]) } else { logits[0] };
    let ce = add(&mut g, Op::CrossEntropy { smoothing: 0.0 }, &[logits[1], label]);
    let kl = add(&mut g, Op::KlDivergence { temperature: 3.0 }, &[cut, logits[1]]);
    let loss = add(&mut g, Op::Binary { kind: BinaryKind::Add }, &[ce, kl]);
    output(&mut g, "loss.total", loss);
    (g, loss)
}

#[test]
fn a_whole_network_agrees_with_central_differences() {
    let (graph, loss) = network(false, false);
    let feeds = feeds(&graph, -1.0, 1.0, 11);
    assert_eq!(mismatches(&graph, loss, &feeds, "network"), Vec::<String>::new());
}

#[test]
fn stop_gradient_and_frozen_parameters_get_no_gradient() {
    let student = ["student.w", "student.gain", "student.bias"];
    let (mut graph, loss) = network(true, false);
    let nodes = graph.len();
    let found: Vec<String> = differentiate(&mut graph, loss).unwrap().into_keys().collect();
    assert_eq!(found, student);
    let teachers =
        graph.nodes().skip(nodes).filter(|&id| matches!(graph.node(id).op, Op::KlGradTeacher { .. }));
    assert_eq!(teachers.count(), 0, "nothing is computed for a detached teacher");

    let (mut graph, loss) = network(false, true);
    let found: Vec<String> = differentiate(&mut graph, loss).unwrap().into_keys().collect();
    assert_eq!(found, ["teacher.gain", "teacher.bias", "student.w", "student.gain", "student.bias"]);
}

#[test]
fn the_image_gets_no_gradient() {
    let (mut graph, loss) = network(false, false);
    differentiate(&mut graph, loss).unwrap();
    assert!(!graph.nodes().any(|id| matches!(graph.node(id).op, Op::Conv2dGradInput { .. })));
}

#[test]
fn a_loss_without_parameters_has_no_gradients() {
    let mut graph = Graph::new("none");
    let loss = input(&mut graph, "x", &f32(&[]));
    let nodes = graph.len();
    assert!(differentiate(&mut graph, loss).unwrap().is_empty());
    assert_eq!(graph.len(), nodes);
    let x = parameter(&mut graph, "w", &f32(&[2]));
    assert!(matches!(differentiate(&mut graph, x), Err(IrError::Type { .. })));
}

#[test]
fn operators_without_a_rule_are_listed_together() {
    let mut graph = Graph::new("norule");
    let x = parameter(&mut graph, "x", &f32(&[2, 3]));
    let at = |path: &str| Origin::new(path, &[]);
    let stats = graph.add(Op::ChannelStats, &[x], at("net.bn1")).unwrap();
    let [mean, _] = [0, 1].map(|i| graph.results(stats)[i]);
    let y = graph.add1(Op::UnaryGrad { kind: UnaryKind::Relu }, &[mean, mean], at("net.relu1")).unwrap();
    let loss = add(&mut graph, Op::Reduce { kind: ReduceKind::Sum, axes: vec![0] }, &[y]);
    let nodes = graph.len();
    let operators = vec!["channel_stats at net.bn1".to_string(), "relu_grad at net.relu1".to_string()];
    assert_eq!(differentiate(&mut graph, loss), Err(IrError::NoGradient { operators }));
    assert_eq!(graph.len(), nodes, "the graph is unchanged");
}

#[test]
fn gradient_operators_take_the_origin_of_what_they_differentiate() {
    let mut graph = Graph::new("origin");
    let x = parameter(&mut graph, "x", &f32(&[2]));
    let origin = Origin::new("net.act", &["full".into()]);
    let y = graph.add1(Op::Unary { kind: UnaryKind::Tanh }, &[x], origin.clone()).unwrap();
    let loss = add(&mut graph, Op::Reduce { kind: ReduceKind::Sum, axes: vec![0] }, &[y]);
    let dx = differentiate(&mut graph, loss).unwrap()["x"];
    assert_eq!(*graph.op(dx), Op::UnaryGrad { kind: UnaryKind::Tanh });
    assert_eq!(graph.node(dx.node).origin, origin);
}
