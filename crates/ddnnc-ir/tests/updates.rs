//! The reference evaluator and the optimizer's updates against formulas worked by hand.

mod common;

use common::*;
use ddnnc_ir::reference::{Tensor, evaluate, evaluate_op};
use ddnnc_ir::{
    BinaryKind, Graph, IrError, Op, Optimizer, UnaryKind, append_optimizer, differentiate, dropout_keeps,
};

fn tensor(dims: &[usize], data: &[f64]) -> Tensor {
    Tensor { ty: f32(dims), data: data.to_vec() }
}

fn close(a: &[f64], b: &[f64]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() <= 1e-12 * b.abs().max(1.0))
}

/// loss = Σ w² / 2 · 3, so the gradient is 3w; two steps of an optimizer.
fn two_steps(optimizer: &Optimizer, w: f64, lrs: [f64; 2]) -> Vec<f64> {
    let mut g = Graph::new("step");
    let p = parameter(&mut g, "w", &f32(&[1]));
    let square = add(&mut g, Op::Unary { kind: UnaryKind::Square }, &[p]);
    let scaled = add(&mut g, Op::Scale { factor: 1.5 }, &[square]);
    let loss = add(&mut g, Op::Reduce { kind: ddnnc_ir::ReduceKind::Sum, axes: vec![0] }, &[scaled]);
    let gradients = differentiate(&mut g, loss).unwrap();
    append_optimizer(&mut g, &gradients, optimizer).unwrap();
    let mut feeds = feeds(&g, 0.0, 1.0, 0);
    feeds.values_mut().for_each(|t| t.data.fill(0.0));
    feeds["w"].data[0] = w;
    let mut seen = Vec::new();
    for (t, lr) in lrs.into_iter().enumerate() {
        feeds["lr"].data[0] = lr;
        if let Some(step) = feeds.get_mut("optimizer.step") {
            step.data[0] = (t + 1) as f64;
        }
        for (name, new) in evaluate(&g, &feeds).unwrap().stores {
            feeds[&name] = new;
        }
        seen.push(feeds["w"].data[0]);
    }
    seen
}

#[test]
fn sgd_follows_its_formula() {
    let lrs = [0.1, 0.05];
    for (momentum, nesterov, weight_decay) in
        [(0.0, false, 0.0), (0.0, false, 0.01), (0.9, false, 0.0), (0.9, false, 0.01), (0.8, true, 0.02)]
    {
        let (mut w, mut b, mut expected) = (2.0, 0.0, Vec::new());
        for lr in lrs {
            let g = 3.0 * w + weight_decay * w;
            b = momentum * b + g;
            w -= lr * if nesterov { g + momentum * b } else { b };
            expected.push(w);
        }
        let optimizer = Optimizer::Sgd { lr: 0.1, momentum, nesterov, weight_decay };
        let found = two_steps(&optimizer, 2.0, lrs);
        assert!(close(&found, &expected), "{optimizer:?}: {found:?}, expected {expected:?}");
    }
}

#[test]
fn adamw_follows_its_formula() {
    let (beta1, beta2, eps, weight_decay) = (0.9, 0.99, 1e-3, 0.1);
    let (mut w, mut m, mut v, mut expected) = (2.0f64, 0.0, 0.0, Vec::new());
    for (t, lr) in [(1, 0.1), (2, 0.05)] {
        let g = 3.0 * w;
        w -= lr * weight_decay * w;
        m = beta1 * m + (1.0 - beta1) * g;
        v = beta2 * v + (1.0 - beta2) * g * g;
        let (m_hat, v_hat) = (m / (1.0 - beta1.powi(t)), v / (1.0 - beta2.powi(t)));
        w -= lr * m_hat / (f64::sqrt(v_hat) + eps);
        expected.push(w);
    }
    let optimizer = Optimizer::Adamw { lr: 0.1, beta1, beta2, eps, weight_decay };
    let found = two_steps(&optimizer, 2.0, [0.1, 0.05]);
    assert!(close(&found, &expected), "{found:?}, expected {expected:?}");
}

#[test]
fn gradients_of_unknown_parameters_are_refused() {
    let mut g = Graph::new("g");
    let x = input(&mut g, "x", &f32(&[1]));
    let gradients = [("x".to_string(), x)].into_iter().collect();
    let optimizer = Optimizer::Sgd { lr: 0.1, momentum: 0.9, nesterov: false, weight_decay: 0.0 };
    assert!(
        matches!(append_optimizer(&mut g, &gradients, &optimizer), Err(IrError::Feed { name, .. }) if name == "x")
    );
}

#[test]
fn operators_have_the_values_of_their_formulas() {
    let x = tensor(&[1, 3], &[1.0, 2.0, 4.0]);
    let y = tensor(&[1, 3], &[0.5, 0.0, 1.0]);
    let label = Tensor { ty: i64(&[1]), data: vec![2.0] };
    let sum: f64 = x.data.iter().map(|x| x.exp()).sum();
    let log: Vec<f64> = x.data.iter().map(|x| x - sum.ln()).collect();
    let mean = (log[0] + log[1] + log[2]) / 3.0;
    let soft = |t: &Tensor, i: usize| {
        let total: f64 = t.data.iter().map(|x| (x / 2.0).exp()).sum();
        (t.data[i] / 2.0).exp() / total
    };
    let kl: f64 = (0..3).map(|i| soft(&x, i) * (soft(&x, i) / soft(&y, i)).ln()).sum();
    let image = tensor(&[1, 1, 2, 3], &[5.0, 5.0, -1.0, 2.0, 5.0, 3.0]);
    let p = pool([2, 2], [1, 1], [0, 1]);
    let dy = tensor(&[1, 1, 1, 4], &[1.0, 2.0, 3.0, 4.0]);
    // Distances 1, 2, 9, 1, 8, 7 of mean 14/3, and 2, 1, 0, 1, 2, 1, of which five have the mean 7/5.
    let lines = [tensor(&[4, 1], &[0.0, 1.0, 2.0, 9.0]), tensor(&[4, 1], &[0.0, 2.0, 1.0, 0.0])];
    // Angles of 90°, 45° and 45°, and of 0°, 180° and 0°.
    let corner = tensor(&[3, 2], &[0.0, 0.0, 1.0, 0.0, 0.0, 1.0]);
    let line = tensor(&[3, 1], &[5.0, 6.0, 8.0]);
    let cases: Vec<(Op, Vec<&Tensor>, Vec<f64>)> = vec![
        (
            Op::Unary { kind: UnaryKind::Gelu },
            vec![&x],
            vec![0.841344746068543, 1.9544997361036416, 3.999873315031617],
        ),
        (Op::Binary { kind: BinaryKind::Sub }, vec![&x, &y], vec![0.5, 2.0, 3.0]),
        (Op::CrossEntropy { smoothing: 0.0 }, vec![&x, &label], vec![-log[2]]),
        (Op::CrossEntropy { smoothing: 0.3 }, vec![&x, &label], vec![-(0.7 * log[2] + 0.3 * mean)]),
        (Op::KlDivergence { temperature: 2.0 }, vec![&x, &y], vec![4.0 * kl]),
        (Op::MeanSquaredError, vec![&x, &y], vec![(0.25 + 4.0 + 9.0) / 3.0]),
        (Op::RelationDistance, lines.iter().collect(), vec![521.0 / 1568.0]),
        (Op::RelationAngle, vec![&corner, &line], vec![3.5 / 27.0]),
        (Op::MaxPool(p), vec![&image], vec![5.0, 5.0, 5.0, 3.0]),
        (Op::MaxPoolGrad(p), vec![&image, &dy], vec![3.0, 3.0, 0.0, 0.0, 0.0, 4.0]),
        (Op::AvgPool(p), vec![&image], vec![7.0 / 4.0, 17.0 / 4.0, 12.0 / 4.0, 2.0 / 4.0]),
        (Op::Ema { momentum: 0.1, scale: 2.0 }, vec![&x, &y], vec![1.0, 1.8, 3.8]),
    ];
    for (op, operands, expected) in cases {
        let types: Vec<_> = operands.iter().map(|t| &t.ty).collect();
        let results = ddnnc_ir::infer::result_types(&op, &types).unwrap();
        let found = evaluate_op(&op, &operands, &results).unwrap();
        assert!(close(&found[0].data, &expected), "{op:?}: {:?}, expected {expected:?}", found[0].data);
    }
    let wrong = Tensor { ty: i64(&[1]), data: vec![3.0] };
    let results = [f32(&[])];
    assert!(evaluate_op(&Op::CrossEntropy { smoothing: 0.0 }, &[&x, &wrong], &results).is_err());
    assert!(evaluate_op(&Op::Input { name: "x".into() }, &[], &results).is_err());
}

/// What one operator gives for these operands.
fn evaluated(op: &Op, operands: &[&Tensor]) -> Vec<f64> {
    let types: Vec<_> = operands.iter().map(|t| &t.ty).collect();
    let results = ddnnc_ir::infer::result_types(op, &types).unwrap();
    evaluate_op(op, operands, &results).unwrap().remove(0).data
}

#[test]
fn relations_do_not_see_turns_sizes_and_places() {
    let mut rng = rng(11);
    let teacher = random(&f32(&[5, 2]), -1.0, 1.0, &mut rng);
    let (sin, cos) = 0.7f64.sin_cos();
    // Turned, three times as large, moved, and in another space.
    let copied = teacher
        .data
        .chunks(2)
        .flat_map(|x| [3.0 * (cos * x[0] - sin * x[1]) + 4.0, 0.5, 3.0 * (sin * x[0] + cos * x[1]) - 2.0]);
    let copy = Tensor { ty: f32(&[5, 3]), data: copied.collect() };
    let other = random(&f32(&[5, 3]), -1.0, 1.0, &mut rng);
    let dl = tensor(&[], &[1.0]);
    for (op, grad) in
        [(Op::RelationDistance, Op::RelationDistanceGrad), (Op::RelationAngle, Op::RelationAngleGrad)]
    {
        let loss = |student: &Tensor| evaluated(&op, &[student, &teacher])[0];
        let pull = |student: &Tensor| {
            evaluated(&grad, &[student, &teacher, &dl]).iter().fold(0.0f64, |m, x| m.max(x.abs()))
        };
        assert!(loss(&copy) <= 1e-28 && pull(&copy) <= 1e-15, "{op:?}: {} {}", loss(&copy), pull(&copy));
        assert!(loss(&other) >= 1e-2 && pull(&other) >= 1e-3, "{op:?}: {} {}", loss(&other), pull(&other));
    }
}

#[test]
fn relations_of_equal_embeddings_have_gradients() {
    let teacher = random(&f32(&[4, 2]), -1.0, 1.0, &mut rng(12));
    let dl = tensor(&[], &[1.0]);
    // Samples 0 and 2 are equal, or all are.
    let some = tensor(&[4, 2], &[0.5, 1.0, -1.0, 0.25, 0.5, 1.0, 2.0, -0.5]);
    let all = tensor(&[4, 2], &[0.5, 1.0, 0.5, 1.0, 0.5, 1.0, 0.5, 1.0]);
    for grad in [Op::RelationDistanceGrad, Op::RelationAngleGrad] {
        let gradient = evaluated(&grad, &[&some, &teacher, &dl]);
        assert!(gradient.iter().all(|x| x.is_finite()), "{grad:?}: {gradient:?}");
        assert!(gradient.iter().any(|x| x.abs() >= 1e-3), "{grad:?}: {gradient:?}");
        assert_eq!(evaluated(&grad, &[&all, &teacher, &dl]), [0.0; 8], "{grad:?}");
        assert!(evaluated(&grad, &[&teacher, &all, &dl]).iter().all(|x| x.is_finite()), "{grad:?}");
    }
    // All distances count as 0, and no angle has a cosine but 0.
    let line = tensor(&[3, 1], &[0.0, 4.0, 5.0]);
    let point = tensor(&[3, 1], &[7.0, 7.0, 7.0]);
    let quotients = [4.0, 5.0, 1.0].map(|d: f64| d * 3.0 / 10.0);
    let huber = |x: f64| if x < 1.0 { x * x / 2.0 } else { x - 0.5 };
    let expected = quotients.iter().map(|&x| 2.0 * huber(x)).sum::<f64>() / 9.0;
    assert!(close(&evaluated(&Op::RelationDistance, &[&line, &point]), &[expected]));
    // Twelve of 27 cosines are those of an angle from an edge to itself or to the other, ±1: each has h(±1) = ½.
    assert!(close(&evaluated(&Op::RelationAngle, &[&point, &line]), &[6.0 / 27.0]));
}

#[test]
fn relations_of_numbers_that_are_none_are_none() {
    let teacher = random(&f32(&[3, 2]), -1.0, 1.0, &mut rng(13));
    let mut student = teacher.clone();
    student.data[1] = f64::NAN;
    for op in [Op::RelationDistance, Op::RelationAngle] {
        assert!(evaluated(&op, &[&student, &teacher])[0].is_nan(), "{op:?}");
    }
}

#[test]
fn feeds_are_checked() {
    let mut g = Graph::new("g");
    let x = input(&mut g, "x", &f32(&[2]));
    output(&mut g, "y", x);
    let wrong = |feeds: &Feeds| matches!(evaluate(&g, feeds), Err(IrError::Feed { name, .. }) if name == "x");
    assert!(wrong(&Feeds::new()));
    assert!(wrong(&[("x".to_string(), tensor(&[3], &[0.0; 3]))].into_iter().collect()));
    assert!(wrong(&[("x".to_string(), tensor(&[2], &[0.0; 3]))].into_iter().collect()));
}

#[test]
fn dropout_keeps_its_share_and_depends_on_every_counter() {
    let kept = |seed, step, site| (0..20_000).filter(|&i| dropout_keeps(seed, step, site, i, 0.3)).count();
    for (seed, step, site) in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (-5, 1 << 40, u64::MAX)] {
        let n = kept(seed, step, site);
        // 14000 expected, with a standard deviation of 65.
        assert!((13_700..14_300).contains(&n), "{n} of 20000 at {seed}, {step}, {site}");
    }
    let mask =
        |seed, step, site| (0..64).map(|i| dropout_keeps(seed, step, site, i, 0.5)).collect::<Vec<_>>();
    let masks = [mask(0, 0, 0), mask(1, 0, 0), mask(0, 1, 0), mask(0, 0, 1)];
    for (i, a) in masks.iter().enumerate() {
        assert!(masks[..i].iter().all(|b| a != b));
    }
    assert!((0..100).all(|i| dropout_keeps(1, 2, 3, i, 0.0)));
}
