//! Steps on samples and rows.

use crate::ctext::float;
use crate::steps::{Library, Phase, Writer, not_a};
use ddnnc_ir::Op;

/// Rows and their length: axis 0, and all the rest.
pub fn rows(dims: &[usize]) -> (usize, usize) {
    let rows = dims.first().copied().unwrap_or(1);
    (rows, dims.iter().skip(1).product())
}

/// The phases of an operator on rows.
pub fn phases(w: &mut Writer<'_>, s: usize) -> Result<Vec<Phase>, String> {
    let group = w.group;
    let step = &group.steps[s];
    let ty = w.ty(step, 0);
    let (count, len) = rows(ty.dims());
    if count * len == 0 {
        return Ok(Vec::new());
    }
    let team = w.team(len);
    // Function, number of operands, attribute, operations per element.
    let (name, operands, eps, flops) = match &step.op {
        Op::Standardize { eps } => ("standardize_rows", 1, Some(*eps), 18),
        Op::StandardizeGrad { eps } => ("standardize_grad_rows", 2, Some(*eps), 36),
        Op::L2Normalize { eps } => ("l2_normalize_rows", 1, Some(*eps), 10),
        Op::L2NormalizeGrad { eps } => ("l2_normalize_grad_rows", 2, Some(*eps), 21),
        Op::Softmax => ("softmax_rows", 1, None, 14),
        Op::SoftmaxGrad => ("softmax_grad_rows", 2, None, 11),
        Op::LogSoftmax => ("log_softmax_rows", 1, None, 13),
        Op::LogSoftmaxGrad => ("log_softmax_grad_rows", 2, None, 11),
        _ => return Err(not_a(step, "operator on rows")),
    };
    let mut arguments: Vec<String> = (0..operands).map(|i| w.operand(step, i)).collect();
    arguments.push(w.result(s, 0));
    arguments.extend(eps.map(float));
    w.needs(Library::Samples);
    // A row stays in the caches between the passes over it.
    w.costs(operands * ty.bytes(), ty.bytes(), flops * count * len);
    let text =
        format!("        {name}<{team}, {count}, {len}>({}, t, n, (float*)shared);\n", arguments.join(", "));
    Ok(vec![Phase::new(text, count * team)])
}
