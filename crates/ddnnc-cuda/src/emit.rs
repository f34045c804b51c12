//! From launches to kernels: one group, one function.

use crate::arch::Target;
use crate::code::{EmitError, LaunchCode};
use crate::{gemm, pointwise, sequence, split, update};
use ddnnc_ir::{
    Group, GroupKind, Local, Op, Step, ValueType, is_convolution, is_pointwise, is_reduction, is_update,
};
use ddnnc_passes::{Launch, Program};
use std::sync::Arc;

/// The text that every kernel begins with.
pub const PRELUDE: &str = include_str!("../../../kernels/prelude.cuh");

/// The kernels of one launch of a program.
///
/// # Errors
///
/// What no kernel can do yet, with the launch's name.
pub fn emit_launch(program: &Program, launch: &Launch, target: &Target) -> Result<LaunchCode, EmitError> {
    let group = group_of(program, launch);
    emit_group(&group, target)
        .map_err(|message| EmitError { launch: format!("{} @ {}", group.name, launch.path), message })
}

/// A launch as a group: its own, or one step for an operator that stands alone.
pub fn group_of(program: &Program, launch: &Launch) -> Arc<Group> {
    if let Op::Fused(group) = &launch.op {
        return Arc::clone(group);
    }
    let ty = |ids: &[ddnnc_passes::BufferId]| -> Vec<ValueType> {
        ids.iter().map(|&id| program.buffer(id).ty.clone()).collect()
    };
    Arc::new(single(&launch.op, ty(&launch.operands), ty(&launch.results)))
}

/// An operator as a group of one step.
pub fn single(op: &Op, operands: Vec<ValueType>, results: Vec<ValueType>) -> Group {
    let types: Vec<&ValueType> = operands.iter().collect();
    let kind = if is_convolution(op) {
        GroupKind::Convolution
    } else if is_update(op) {
        GroupKind::Update
    } else if (is_pointwise(op) && !matches!(op, Op::Constant { .. })) || is_reduction(op, &types) {
        GroupKind::Pointwise
    } else {
        GroupKind::Sequence
    };
    let count = results.len();
    Group {
        kind,
        name: op.mnemonic().to_owned(),
        steps: vec![Step {
            op: op.clone(),
            operands: (0..operands.len() as u32).map(Local::Operand).collect(),
            results: results.into_iter().collect(),
            path: String::new(),
        }],
        operands,
        results: (0..count as u32).map(|result| Local::Step { step: 0, result }).collect(),
    }
}

/// The kernels of a group.
pub fn emit_group(group: &Group, target: &Target) -> Result<LaunchCode, String> {
    match group.kind {
        GroupKind::Pointwise => pointwise::emit(group, target),
        GroupKind::Convolution => gemm::emit(group, target),
        GroupKind::Sequence => sequence::emit(group, target),
        GroupKind::Update => update::emit(group, target),
    }
    .or_else(
        |message| {
            if group.steps.len() > 1 { split::one_by_one(group, target) } else { Err(message) }
        },
    )
}
