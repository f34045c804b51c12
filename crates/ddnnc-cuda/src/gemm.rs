//! Groups of convolutions, and matrix products: what runs on the tiles of `kernels/gemm.cuh`.

use crate::arch::Target;
use crate::code::LaunchCode;
use crate::depthwise;
pub use crate::matmul::emit_matmuls;
use crate::regroup::{self, Times};
use crate::split::in_turn;
use crate::{convolution, weight_gradient};
use ddnnc_ir::{Group, GroupKind, Local, Op, is_convolution};

/// The kernels of a group of convolutions.
///
/// # Errors
///
/// What no kernel can do.
pub fn emit(group: &Group, target: &Target) -> Result<LaunchCode, String> {
    let Some((_, first)) = group.convolutions().next() else {
        return Err("a convolution group holds a convolution".to_owned());
    };
    if matches!(first.op, Op::Conv2dGradWeight { .. }) {
        return weights(group, target);
    }
    rows(group, target)
}

/// Runs what must come before and after in kernels of its own; `None` where there is no such thing.
fn cut(group: &Group, times: &Times, target: &Target) -> Option<Result<LaunchCode, String>> {
    if times.early.is_empty() && times.late.is_empty() {
        return None;
    }
    let parts = [
        (GroupKind::Pointwise, times.early.clone()),
        (GroupKind::Convolution, times.middle.clone()),
        (GroupKind::Pointwise, times.late.clone()),
    ];
    let parts: Vec<_> = parts.into_iter().filter(|p| !p.1.is_empty()).collect();
    Some(in_turn(group, &parts, target))
}

fn weights(group: &Group, target: &Target) -> Result<LaunchCode, String> {
    match cut(group, &regroup::times_of_weights(group, target), target) {
        Some(code) => code,
        None if depthwise::suits(group) => {
            depthwise::emit(group, target).or_else(|message| bare(group, target).unwrap_or(Err(message)))
        }
        None => weight_gradient::emit(group, target)
            .or_else(|message| bare(group, target).unwrap_or(Err(message))),
    }
}

fn rows(group: &Group, target: &Target) -> Result<LaunchCode, String> {
    let merged = regroup::merge_sums(group);
    if let Some(code) = cut(&merged, &regroup::times_of_rows(&merged, target)?, target) {
        return code;
    }
    let apart = regroup::apart(&merged, &merged.results);
    let made = match depthwise::suits(&apart) {
        true => depthwise::emit(&apart, target),
        false => convolution::emit(&apart, target),
    };
    made.or_else(|message| bare(&merged, target).unwrap_or(Err(message)))
}

/// The convolutions alone, with what is before them and behind them in kernels of its own; `None` where they are alone.
fn bare(group: &Group, target: &Target) -> Option<Result<LaunchCode, String>> {
    let convolutions = regroup::convolutions_before(group);
    let mut parts =
        [(GroupKind::Pointwise, vec![]), (GroupKind::Convolution, vec![]), (GroupKind::Pointwise, vec![])];
    // Steps before come early only where a convolution needs them.
    let mut before = vec![false; group.steps.len()];
    for (i, step) in group.steps.iter().enumerate().rev() {
        if is_convolution(&step.op) || before[i] {
            for local in &step.operands {
                if let Local::Step { step, .. } = *local {
                    before[step as usize] = true;
                }
            }
        }
    }
    for (i, step) in group.steps.iter().enumerate() {
        let at = if is_convolution(&step.op) {
            1
        } else if before[i] && convolutions[i].is_empty() {
            0
        } else {
            2
        };
        parts[at].1.push(i);
    }
    let parts: Vec<_> = parts.into_iter().filter(|p| !p.1.is_empty()).collect();
    (parts.len() > 1).then(|| in_turn(group, &parts, target))
}
