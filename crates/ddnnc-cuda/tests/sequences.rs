//! Sequences and the operators that they hold: every kernel compiles without spills, and groups give what the reference
//! says.

mod common;

use common::compare::check;
use ddnnc_cases::group::{Builder, group_of as group_of_case, unfused};
use ddnnc_cases::{Case, cases, fixed_groups, number};
use ddnnc_cuda::arch::{Arch, Target};
use ddnnc_cuda::code::LaunchCode;
use ddnnc_cuda::emit::{emit_group, group_of};
use ddnnc_cuda::nvrtc::{self, Output};
use ddnnc_ir::{
    BinaryKind, DType, GroupKind, Layout, Local, Op, Pool, ReduceKind, Shape, ValueType, is_pointwise,
    is_reduction,
};
use std::collections::BTreeSet;

/// The last case of each operator that is a sequence, in each element type: the largest of its kind.
fn one_of_each() -> Vec<Case> {
    let mut seen = BTreeSet::new();
    let mut all = cases();
    all.reverse();
    all.retain(|case| {
        let program = case.program(&[]);
        let launch = program.launches.iter().find(|l| l.op == case.op).expect("the launch");
        let sequence = group_of(&program, launch).kind == GroupKind::Sequence;
        let dtype = case.operands.first().map(|ty| ty.dtype);
        sequence && !matches!(case.op, Op::MatMul { .. }) && seen.insert((number(&case.op), dtype))
    });
    all.extend([fixed_groups::losses(), fixed_groups::gates(), fixed_groups::relations(5)]);
    all.push(heads(32, 10, 64));
    all.push(heads(256, 1000, 2048));
    all
}

fn emitted(case: &Case) -> LaunchCode {
    emit_group(group_of_case(case), &Target::new(Arch(80))).expect("kernels")
}

#[test]
fn every_kernel_compiles_without_spills() {
    let (mut count, mut wrong) = (0, Vec::new());
    for case in one_of_each() {
        let program = case.program(&[]);
        let launch = program.launches.iter().find(|l| l.op == case.op).expect("the launch");
        let group = group_of(&program, launch);
        for arch in [Arch(80), Arch(120)] {
            let code = match emit_group(&group, &Target::new(arch)) {
                Ok(code) => code,
                Err(message) => {
                    wrong.push(format!("{case:?}: {message}"));
                    continue;
                }
            };
            for kernel in &code.kernels {
                count += 1;
                match nvrtc::compile(&kernel.name, &kernel.source, arch, Output::Cubin) {
                    Err(e) => wrong.push(e.to_string()),
                    Ok(binary) => {
                        let spills: Vec<&str> = binary.log.lines().filter(|l| l.contains("spill")).collect();
                        let well = !spills.is_empty()
                            && spills.iter().all(|l| l.contains("0 bytes spill stores"))
                            && !binary.log.contains("warning");
                        if !well {
                            wrong.push(format!("{case:?}: {}", binary.log));
                        }
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {count} kernels:\n{}", wrong.len(), wrong.join("\n"));
    assert!(count > 40, "{count} kernels");
}

/// Steps that need nothing of each other run side by side.
#[test]
fn steps_side_by_side_agree_with_the_reference() {
    let pool = Pool { kernel: [3, 3], stride: [2, 2], pad: [1, 1] };
    let mut b = Builder::new(GroupKind::Sequence);
    let mut results = Vec::new();
    for n in [3, 2, 5] {
        let x = b.operand(fixed_groups::rows([n, 20, 9, 8]));
        results.push(b.step(Op::MaxPool(pool), &[x]));
        results.push(b.step(Op::Reduce { kind: ReduceKind::Mean, axes: vec![2, 3] }, &[x]));
        results.push(b.step(Op::Reduce { kind: ReduceKind::Sum, axes: vec![0, 1, 2, 3] }, &[x]));
        let (a, c) = (b.operand(ValueType::f32([n, 9000])), b.operand(ValueType::f32([n, 9000])));
        results.push(b.step(Op::MeanSquaredError, &[a, c]));
        results.push(b.step(Op::ConvertLayout { layout: Layout::RowMajor }, &[x]));
    }
    let case = b.finish(&results);
    assert_eq!(emitted(&case).kernels.len(), 1);
    check(&[case]);
}

/// Little work in several levels is one block.
#[test]
fn losses_and_gates_agree_with_the_reference() {
    let cases = [fixed_groups::losses(), fixed_groups::gates()];
    for case in &cases {
        assert_eq!(emitted(case).kernels.len(), 1);
    }
    check(&cases);
}

/// Phases of the relations of few samples are parts of one block. Of many each needs a kernel: distances, sums of losses or
/// slopes, gradients; before them the mean and a scalar, behind them the sums.
#[test]
fn relations_agree_with_the_reference() {
    let all = [fixed_groups::relations(5), fixed_groups::relations(34)];
    assert_eq!(all.each_ref().map(|case| emitted(case).kernels.len()), [1, 5]);
    check(&all);
}

/// Heads of three sub-nets as the compiler groups them: biases, losses of labels, of the last sub-net's logits and of
/// features, weighted sums, and all gradients.
fn heads(batch: usize, classes: usize, features: usize) -> Case {
    let mut b = Builder::new(GroupKind::Sequence);
    let label = b.operand(ValueType::i64([batch]));
    let (one, weight) = (b.operand(ValueType::scalar()), b.operand(ValueType::scalar()));
    let bias = b.operand(ValueType::f32([classes]));
    let mut nets = Vec::new();
    for _ in 0..3 {
        let x = b.operand(ValueType::f32([batch, classes]));
        let map = b.operand(ValueType::f32([batch, features, 1, 1]));
        let logits = b.step(Op::BiasAdd, &[x, bias]);
        let flat = b.step(Op::Reshape { shape: Shape::from([batch, features]) }, &[map]);
        let normal = b.step(Op::Standardize { eps: 1e-5 }, &[flat]);
        nets.push((logits, flat, normal));
    }
    let (mut total, mut results) = (None, Vec::new());
    let (teacher, _, target) = nets[2];
    let add = |b: &mut Builder, x, y| b.step(Op::Binary { kind: BinaryKind::Add }, &[x, y]);
    let mut bias_grads = None;
    for (i, &(logits, flat, normal)) in nets.iter().enumerate() {
        let mut terms = vec![b.step(Op::CrossEntropy { smoothing: 0.1 }, &[logits, label])];
        let mut grad = b.step(Op::CrossEntropyGrad { smoothing: 0.1 }, &[logits, label, one]);
        if i < 2 {
            let kl = b.step(Op::KlDivergence { temperature: 4.0 }, &[teacher, logits]);
            terms.push(b.step(Op::Binary { kind: BinaryKind::Mul }, &[kl, weight]));
            let soft = b.step(Op::KlGradStudent { temperature: 4.0 }, &[teacher, logits, weight]);
            grad = add(&mut b, grad, soft);
            terms.push(b.step(Op::MeanSquaredError, &[normal, target]));
            let dnormal = b.step(Op::MeanSquaredErrorGrad, &[normal, target, weight]);
            results.push(b.step(Op::StandardizeGrad { eps: 1e-5 }, &[flat, dnormal]));
        }
        for term in terms {
            results.push(term);
            total = Some(match total {
                None => term,
                Some(before) => add(&mut b, before, term),
            });
        }
        let dbias = b.step(Op::Reduce { kind: ReduceKind::Sum, axes: vec![0] }, &[grad]);
        bias_grads = Some(match bias_grads {
            None => dbias,
            Some(before) => add(&mut b, before, dbias),
        });
        results.extend([logits, grad]);
    }
    results.extend([total.expect("losses"), bias_grads.expect("gradients")]);
    b.finish(&results)
}

/// Little work is one block; the work of a batch of a thousand classes is a kernel for each level, the chain of scalar
/// sums one more at the end.
#[test]
fn heads_agree_with_the_reference() {
    let small = heads(8, 10, 33);
    assert_eq!(emitted(&small).kernels.len(), 1);
    let large = heads(128, 300, 64);
    let count = emitted(&large).kernels.len();
    assert!((3..=6).contains(&count), "{count}");
    check(&[small, large]);
}

/// More work: a kernel for each level. A result that is given twice, names of memory, and sums over the batch.
#[test]
fn levels_agree_with_the_reference() {
    let mut b = Builder::new(GroupKind::Sequence);
    let x = b.operand(ValueType::f32([150, 300]));
    let label = b.operand(ValueType::i64([150]));
    let w = b.operand(ValueType::f32([300, 10]));
    let one = b.operand(ValueType::scalar());
    let bias = b.operand(ValueType::f32([300]));
    let logits = b.step(Op::BiasAdd, &[x, bias]);
    let loss = b.step(Op::CrossEntropy { smoothing: 0.1 }, &[logits, label]);
    let half = b.step(Op::Scale { factor: 0.5 }, &[loss]);
    let grad = b.step(Op::CrossEntropyGrad { smoothing: 0.1 }, &[logits, label, one]);
    let dbias = b.step(Op::Reduce { kind: ReduceKind::Sum, axes: vec![0] }, &[grad]);
    let flat = b.step(Op::Reshape { shape: Shape::from([150, 3, 100]) }, &[grad]);
    let normal = b.step(Op::Standardize { eps: 1e-5 }, &[flat]);
    let product = b.step(Op::MatMul { transpose_a: false, transpose_b: false }, &[logits, w]);
    let case = b.finish(&[loss, half, grad, dbias, normal, grad, product]);
    assert!(emitted(&case).kernels.len() > 2);
    check(&[case]);
}

/// Convolutions, statistics and updates one after the other, as if no group held them together.
#[test]
fn steps_of_other_groups_agree_with_the_reference() {
    let mut all = vec![unfused(&fixed_groups::updates())];
    for dtype in [DType::F32, DType::Bf16] {
        all.extend(fixed_groups::convolution_groups(dtype).iter().map(|c| unfused(&c.1)));
    }
    check(&all);
}

/// Elementwise operators and reductions over channels as steps of a sequence.
#[test]
fn elementwise_steps_agree_with_the_reference() {
    let mut all = cases();
    all.retain(|case| {
        let types: Vec<&ValueType> = case.operands.iter().collect();
        let elementwise =
            is_pointwise(&case.op) || is_reduction(&case.op, &types) || case.op.mnemonic() == "ema";
        let plain = !matches!(case.op, Op::Constant { .. });
        elementwise && plain && case.operands.iter().all(|ty| ty.elements() < 300)
    });
    let alone = |case: &Case| {
        let mut b = Builder::new(GroupKind::Sequence);
        let operands: Vec<Local> = case.operands.iter().map(|ty| b.operand(ty.clone())).collect();
        let results = b.steps(case.op.clone(), &operands);
        b.finish(&results)
    };
    let all: Vec<Case> = all.iter().map(alone).collect();
    assert!(all.len() > 100, "{}", all.len());
    check(&all);
}
