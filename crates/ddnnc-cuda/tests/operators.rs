//! Every operator against the reference evaluator, on the emulator, in five orders of warps with every check on.

mod common;

use common::EmulatedDevice;
use common::compare::{check, difference, tolerances};
use ddnnc_cases::{Case, LAUNCHED, case, cases, number};
use ddnnc_cuda::arch::{Arch, Target};
use ddnnc_cuda::emit::{emit_launch, group_of};
use ddnnc_ir::{GroupKind, Layout, Op, Pool, ReduceKind, ValueType};

/// Whether the operator by itself is a sequence of one step.
fn is_sequence(case: &Case) -> bool {
    let program = case.program(&[]);
    let launch = program.launches.iter().find(|l| l.op == case.op).expect("the launch");
    group_of(&program, launch).kind == GroupKind::Sequence && !matches!(case.op, Op::MatMul { .. })
}

/// Sequence operators by number, in quarters so that the tests run side by side.
fn quarter(which: usize) {
    let mut all = cases();
    all.retain(|case| is_sequence(case) && number(&case.op).is_some_and(|n| n % 4 == which));
    assert!(!all.is_empty());
    check(&all);
}

#[test]
fn operators_agree_with_the_reference_0() {
    quarter(0);
}

#[test]
fn operators_agree_with_the_reference_1() {
    quarter(1);
}

#[test]
fn operators_agree_with_the_reference_2() {
    quarter(2);
}

#[test]
fn operators_agree_with_the_reference_3() {
    quarter(3);
}

/// Rows that a whole block takes together, sums in slices that the last block adds, and rows of many rounds.
#[test]
fn large_operators_agree_with_the_reference() {
    let labels = |rows: usize| ValueType::i64([rows]);
    let mut all = vec![
        case(Op::Standardize { eps: 1e-5 }, &[&[3, 5000]]),
        case(Op::StandardizeGrad { eps: 1e-5 }, &[&[2, 4100], &[2, 4100]]),
        case(Op::L2NormalizeGrad { eps: 1e-12 }, &[&[2, 4100], &[2, 4100]]),
        case(Op::LogSoftmax, &[&[2, 4099]]),
        case(Op::KlGradTeacher { temperature: 2.0 }, &[&[2, 4099], &[2, 4099], &[]]),
        case(Op::MeanSquaredError, &[&[5, 8191], &[5, 8191]]),
        case(Op::Reduce { kind: ReduceKind::Mean, axes: vec![0, 1] }, &[&[70, 301]]),
        case(Op::Reduce { kind: ReduceKind::Sum, axes: vec![0] }, &[&[300, 3]]),
    ];
    for smoothing in [0.0, 0.1] {
        let logits = ValueType::f32([300, 33]);
        let mut operands = vec![logits, labels(300)];
        all.push(Case { op: Op::CrossEntropy { smoothing }, operands: operands.clone() });
        operands.push(ValueType::scalar());
        all.push(Case { op: Op::CrossEntropyGrad { smoothing }, operands });
    }
    check(&all);
}

#[test]
fn relations_of_nearly_equal_embeddings() {
    let device = EmulatedDevice::orders().remove(0);
    for (case, operands) in ddnnc_cases::crowded_relations() {
        let expected = case.reference(&operands);
        let found = case.run(&device, &operands, &[]).expect("runs");
        let wrong = difference(&expected, &found, &tolerances(&case, &operands, &expected));
        assert_eq!(wrong, None, "{case:?}");
    }
}

/// Not a number is larger than any, and a label that is no class gives not a number.
#[test]
fn not_a_number_stays_so() {
    let device = EmulatedDevice::orders().remove(0);
    let pool = Pool { kernel: [2, 2], stride: [2, 2], pad: [0, 0] };
    let mut pooled = case(Op::MaxPool(pool), &[&[1, 1, 4, 4]]);
    pooled.operands[0].layout = Layout::ChannelsLast;
    for at in [0, 1, 4, 5] {
        let mut operands = pooled.draw(2);
        operands[0].data[at] = f64::NAN;
        let found = pooled.run(&device, &operands, &[]).expect("runs");
        assert!(found[0][0].is_nan() && found[0][1..].iter().all(|x| !x.is_nan()), "{at}");
    }
    for label in [-1.0, 10.0, 1e18] {
        let operands = vec![ValueType::f32([4, 10]), ValueType::i64([4])];
        let loss = Case { op: Op::CrossEntropy { smoothing: 0.1 }, operands };
        let mut operands = loss.draw(3);
        operands[1].data[2] = label;
        let found = loss.run(&device, &operands, &[]).expect("runs");
        assert!(found[0][0].is_nan(), "{label}: {found:?}");
        let mut types = loss.operands.clone();
        types.push(ValueType::scalar());
        let gradient = Case { op: Op::CrossEntropyGrad { smoothing: 0.1 }, operands: types };
        let mut operands = gradient.draw(3);
        operands[1].data[2] = label;
        let found = gradient.run(&device, &operands, &[]).expect("runs");
        let expected = |i: usize| (20..30).contains(&i);
        assert!(found[0].iter().enumerate().all(|(i, x)| x.is_nan() == expected(i)), "{label}: {found:?}");
    }
}

/// Windows of negative infinity alone, of not a number, and of more positions than one byte or two count.
#[test]
fn the_gradient_of_max_pooling_finds_the_first_of_the_largest() {
    let device = EmulatedDevice::orders().remove(0);
    let small = Pool { kernel: [3, 3], stride: [2, 2], pad: [1, 1] };
    let large = Pool { kernel: [17, 16], stride: [1, 1], pad: [0, 0] };
    let huge = Pool { kernel: [257, 256], stride: [1, 1], pad: [0, 0] };
    for (pool, x) in [(small, [1, 1, 6, 6]), (large, [1, 2, 18, 17]), (huge, [1, 1, 257, 256])] {
        let [h, w] = pool.output([x[2], x[3]]).expect("the window fits");
        let mut gradient = case(Op::MaxPoolGrad(pool), &[&x, &[x[0], x[1], h, w]]);
        gradient.operands.iter_mut().for_each(|ty| ty.layout = Layout::ChannelsLast);
        for special in [f64::NEG_INFINITY, f64::NAN] {
            let mut operands = gradient.draw(5);
            operands[0].data[..2 * x[3]].fill(special);
            // The last position of the last window.
            *operands[0].data.last_mut().expect("a map") = 100.0;
            let found = gradient.run(&device, &operands, &[]).expect("runs");
            let expected: Vec<f32> = gradient.reference(&operands)[0].iter().map(|&y| y as f32).collect();
            assert!(found[0] == expected, "{pool:?} of {special}");
        }
        let mut operands = gradient.draw(6);
        operands[0].data.fill(f64::NEG_INFINITY);
        let found = gradient.run(&device, &operands, &[]).expect("runs");
        let expected: Vec<f32> = gradient.reference(&operands)[0].iter().map(|&y| y as f32).collect();
        assert!(found[0] == expected, "{pool:?} of nothing larger");
    }
}

/// Every operator that is launched has kernels, in every representation, for every architecture.
#[test]
fn every_operator_has_kernels() {
    let mut seen = [false; LAUNCHED];
    let mut wrong = Vec::new();
    for case in cases() {
        let program = case.program(&[]);
        let launch = program.launches.iter().find(|l| l.op == case.op).expect("the launch");
        for arch in Arch::GATED {
            match emit_launch(&program, launch, &Target::new(arch)) {
                Ok(code) if code.kernels.is_empty() => wrong.push(format!("{case:?}: no kernel")),
                Ok(_) => {}
                Err(e) => wrong.push(format!("{case:?}: {e}")),
            }
        }
        if let Some(n) = number(&case.op) {
            seen[n] = true;
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
    let missing: Vec<usize> = (0..LAUNCHED).filter(|&n| !seen[n]).collect();
    assert!(missing.is_empty(), "operators without a case: {missing:?}");
}
