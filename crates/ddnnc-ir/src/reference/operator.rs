//! Which function evaluates which operator.

use super::{Tensor, conv, elementwise, loss, normalize, pool, relation, sample, shape, update};
use crate::{DType, Group, IrError, Local, Op, ValueType, infer};
use smallvec::SmallVec;

/// Evaluates one operator on its operands; `results` are the types of its results.
///
/// # Errors
///
/// [`IrError::Type`] where operands or result types do not fit the operator, as [`infer::result_types`] says;
/// [`IrError::Invalid`] for inputs, parameters, states, stores and outputs, which have no value of their own, and for
/// a label out of range.
pub fn evaluate_op(op: &Op, operands: &[&Tensor], results: &[ValueType]) -> Result<Vec<Tensor>, IrError> {
    check(op, operands, results)?;
    let x = operands;
    let data = match op {
        Op::Input { .. } | Op::Parameter { .. } | Op::State { .. } | Op::Store { .. } | Op::Output { .. } => {
            return Err(IrError::Invalid {
                node: op.mnemonic().to_string(),
                message: "is not computed: it stands for what goes in or comes out".to_string(),
            });
        }
        Op::Constant { value } => vec![vec![*value; results[0].elements()]],
        Op::Unary { kind } => vec![x[0].data.iter().map(|&x| elementwise::unary(*kind, x)).collect()],
        Op::UnaryGrad { kind } => {
            vec![elementwise::zip(x[0], x[1], |saved, dy| dy * elementwise::derivative(*kind, saved))]
        }
        Op::Binary { kind } => vec![elementwise::zip(x[0], x[1], |a, b| elementwise::binary(*kind, a, b))],
        Op::Scale { factor } => vec![x[0].data.iter().map(|x| factor * x).collect()],
        Op::BiasAdd => vec![elementwise::bias_add(x[0], x[1])],
        Op::Dropout { p, site } => vec![elementwise::dropout(x[0], x[1], *p, *site)],
        Op::StopGradient | Op::Reshape { .. } | Op::ConvertLayout { .. } | Op::Cast { .. } => {
            vec![x[0].data.clone()]
        }
        Op::Conv2d(geometry) => vec![conv::forward(geometry, x[0], x[1], &results[0])],
        Op::Conv2dGradInput { conv: geometry, .. } => {
            vec![conv::grad_input(geometry, x[0], x[1], &results[0])]
        }
        Op::Conv2dGradWeight { conv: geometry, .. } => {
            vec![conv::grad_weight(geometry, x[0], x[1], &results[0])]
        }
        Op::MatMul { transpose_a, transpose_b } => {
            vec![conv::matmul(x[0], *transpose_a, x[1], *transpose_b, &results[0])]
        }
        Op::ChannelStats => normalize::stats(x[0]).into(),
        Op::Normalize { eps, .. } => vec![normalize::forward(x[0], x[1], x[2], x[3], x[4], *eps)],
        Op::NormalizeGradReduce { eps } => normalize::grad_reduce(x[0], x[1], x[2], x[3], *eps).into(),
        Op::NormalizeGradInput { eps } => vec![normalize::grad_input(x, *eps)],
        Op::NormalizeGradFixed { eps } => vec![normalize::grad_fixed(x[0], x[1], x[2], *eps)],
        Op::Ema { momentum, scale } => {
            vec![elementwise::zip(x[0], x[1], |old, new| (1.0 - momentum) * old + momentum * scale * new)]
        }
        Op::MaxPool(geometry) => vec![pool::max(geometry, x[0], &results[0])],
        Op::MaxPoolGrad(geometry) => vec![pool::max_grad(geometry, x[0], x[1])],
        Op::AvgPool(geometry) => vec![pool::avg(geometry, x[0], &results[0])],
        Op::AvgPoolGrad { pool: geometry, .. } => vec![pool::avg_grad(geometry, x[0], &results[0])],
        Op::Concat { axis } => vec![shape::concat(x, *axis)],
        Op::Slice { axis, start, len } => vec![shape::slice(x[0], *axis, *start, *len)],
        Op::Pad { axis, start, total } => vec![shape::pad(x[0], *axis, *start, *total)],
        Op::Reduce { kind, axes } => vec![shape::reduce(x[0], *kind, axes, &results[0])],
        Op::Broadcast { axes, .. } => vec![shape::broadcast(x[0], axes, &results[0])],
        Op::Standardize { eps } => vec![sample::standardize(x[0], *eps)],
        Op::StandardizeGrad { eps } => vec![sample::standardize_grad(x[0], x[1], *eps)],
        Op::L2Normalize { eps } => vec![sample::l2_normalize(x[0], *eps)],
        Op::L2NormalizeGrad { eps } => vec![sample::l2_normalize_grad(x[0], x[1], *eps)],
        Op::Softmax => vec![sample::softmax(x[0])],
        Op::SoftmaxGrad => vec![sample::softmax_grad(x[0], x[1])],
        Op::LogSoftmax => vec![sample::log_softmax(x[0])],
        Op::LogSoftmaxGrad => vec![sample::log_softmax_grad(x[0], x[1])],
        Op::CrossEntropy { smoothing } => vec![vec![loss::cross_entropy(x[0], x[1], *smoothing)?]],
        Op::CrossEntropyGrad { smoothing } => vec![loss::cross_entropy_grad(x[0], x[1], x[2], *smoothing)?],
        Op::KlDivergence { temperature } => vec![vec![loss::kl(x[0], x[1], *temperature)]],
        Op::KlGradTeacher { temperature } => vec![loss::kl_grad_teacher(x[0], x[1], x[2], *temperature)],
        Op::KlGradStudent { temperature } => vec![loss::kl_grad_student(x[0], x[1], x[2], *temperature)],
        Op::MeanSquaredError => vec![vec![loss::mean_squared_error(x[0], x[1])]],
        Op::MeanSquaredErrorGrad => vec![loss::mean_squared_error_grad(x[0], x[1], x[2])],
        Op::RelationDistance => vec![vec![relation::distance(x[0], x[1])]],
        Op::RelationDistanceGrad => vec![relation::distance_grad(x[0], x[1], x[2])],
        Op::RelationAngle => vec![vec![relation::angle(x[0], x[1])]],
        Op::RelationAngleGrad => vec![relation::angle_grad(x[0], x[1], x[2])],
        Op::SgdUpdate { momentum, nesterov, weight_decay } => {
            update::sgd(x, *momentum, *nesterov, *weight_decay)
        }
        Op::AdamwUpdate { beta1, beta2, eps, weight_decay } => {
            update::adamw(x, *beta1, *beta2, *eps, *weight_decay)
        }
        Op::Fused(group) => fused(group, x)?,
    };
    let tensor = |(ty, mut data): (ValueType, Vec<f64>)| {
        if ty.dtype == DType::Bf16 {
            data.iter_mut().for_each(|x| *x = to_bf16(*x));
        }
        Tensor { ty, data }
    };
    Ok(results.iter().cloned().zip(data).map(tensor).collect())
}

/// The steps of a group one after the other.
fn fused(group: &Group, operands: &[&Tensor]) -> Result<Vec<Vec<f64>>, IrError> {
    let missing =
        || IrError::Invalid { node: "fused".to_string(), message: "a value is not there".to_string() };
    let mut made: Vec<Vec<Tensor>> = Vec::with_capacity(group.steps.len());
    for step in &group.steps {
        let taken: Option<Vec<&Tensor>> = step.operands.iter().map(|&l| local(operands, &made, l)).collect();
        made.push(evaluate_op(&step.op, &taken.ok_or_else(missing)?, &step.results)?);
    }
    let results = group.results.iter().map(|&l| local(operands, &made, l).map(|t| t.data.clone()));
    results.collect::<Option<_>>().ok_or_else(missing)
}

fn local<'a>(operands: &[&'a Tensor], made: &'a [Vec<Tensor>], local: Local) -> Option<&'a Tensor> {
    match local {
        Local::Operand(i) => operands.get(i as usize).copied(),
        Local::Step { step, result } => made.get(step as usize)?.get(result as usize),
    }
}

/// The nearest bf16, ties to even; beyond its range infinity.
pub fn to_bf16(x: f64) -> f64 {
    // Rounding to f32 first may round twice; the sticky bit of the f32 keeps ties true.
    let single = x as f32;
    if !single.is_finite() {
        return f64::from(single);
    }
    let mut bits = single.to_bits();
    if f64::from(single) != x {
        // Not exact: make the f32 truncated with an odd last bit, so that no false tie arises.
        let truncated = if f64::from(single).abs() > x.abs() { bits - 1 } else { bits };
        bits = truncated | 1;
    }
    let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) & 0xffff_0000;
    f64::from(f32::from_bits(rounded))
}

/// Refuses what the functions below could only answer with a panic.
fn check(op: &Op, operands: &[&Tensor], results: &[ValueType]) -> Result<(), IrError> {
    let fail =
        |message: String| Err(IrError::Type { op: op.mnemonic(), message, operand: None, against: None });
    for t in operands {
        if t.data.len() != t.ty.elements() {
            return fail(format!("an operand of type {} has {} elements", t.ty, t.data.len()));
        }
    }
    if op.is_source() {
        return if results.len() == 1 { Ok(()) } else { fail("has one result".to_string()) };
    }
    let types: SmallVec<[&ValueType; 8]> = operands.iter().map(|t| &t.ty).collect();
    let inferred = infer::result_types(op, &types)?;
    if inferred.as_slice() != results {
        return fail("the stated result types are not those of the operator".to_string());
    }
    Ok(())
}
