//! Fused groups: small functions of operators that run as one launch.
//!
//! A [`Group`] is the body of an [`Op::Fused`]: straight-line steps on operands, some of whose values are the results.
//! Its meaning is that of its steps one after the other, which is how the reference evaluator runs it; how a device may
//! run it is its [`GroupKind`]. A group holds what sub-nets do side by side (one convolution per sub-net, of one weight)
//! as well as what follows from one another (a convolution and the statistics of its result).

use crate::{Op, ValueType, infer};
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;
use std::fmt;

/// A value inside a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Local {
    /// The group's operand of that number; printed as `p3`.
    Operand(u32),
    /// Result `result` of step `step`; printed as `s7`, counting the results of all steps.
    Step {
        /// The step.
        step: u32,
        /// Which of its results.
        result: u32,
    },
}

/// One operator of a group.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// What it does.
    pub op: Op,
    /// What it takes: operands of the group, or results of earlier steps.
    pub operands: SmallVec<[Local; 4]>,
    /// The types of its results.
    pub results: SmallVec<[ValueType; 1]>,
    /// Path of what it computes; may be empty.
    pub path: String,
}

/// How a group can be run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum GroupKind {
    /// Elementwise chains, tile by tile: every step is elementwise ([`is_pointwise`]), or a reduction
    /// ([`is_reduction`]) of such values, or works on what reductions gave ([`is_vector_step`]). Chains that share no
    /// value stand side by side.
    Pointwise,
    /// Convolutions of one kind and geometry, one per sub-net: forward or input gradients of one weight, or weight
    /// gradients and their sum. Elementwise steps before make an operand as it is read (the prologue); elementwise
    /// steps and reductions behind work on the result while it is at hand (the epilogue).
    Convolution,
    /// Small operators, one after the other.
    Sequence,
    /// Updates of parameters and states side by side.
    Update,
}

impl GroupKind {
    /// Every kind.
    pub const ALL: [GroupKind; 4] =
        [GroupKind::Pointwise, GroupKind::Convolution, GroupKind::Sequence, GroupKind::Update];

    /// The printed form.
    pub fn as_str(self) -> &'static str {
        match self {
            GroupKind::Pointwise => "pointwise",
            GroupKind::Convolution => "convolution",
            GroupKind::Sequence => "sequence",
            GroupKind::Update => "update",
        }
    }
}

/// A small function of operators.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Group {
    /// How it can be run.
    pub kind: GroupKind,
    /// Named after what it holds: `conv2d+channel_stats`.
    pub name: String,
    /// The types of its operands.
    pub operands: Vec<ValueType>,
    /// Its operators, each after all it takes.
    pub steps: Vec<Step>,
    /// Its results.
    pub results: Vec<Local>,
}

/// What an operator can be in a group that is no sequence.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    /// See [`is_pointwise`].
    Pointwise,
    /// Sums over axes: see [`is_reduction`].
    Sum,
    /// See [`is_convolution`].
    Convolution,
    /// See [`is_update`]: for each result, the operand whose memory it takes over.
    Update(&'static [usize]),
    /// Nothing: sequences alone hold it, or nothing does.
    None,
}

fn part(op: &Op) -> Part {
    match op {
        Op::Unary { .. }
        | Op::UnaryGrad { .. }
        | Op::Binary { .. }
        | Op::Scale { .. }
        | Op::BiasAdd
        | Op::Dropout { .. }
        | Op::StopGradient
        | Op::Normalize { .. }
        | Op::NormalizeGradInput { .. }
        | Op::NormalizeGradFixed { .. }
        | Op::Broadcast { .. }
        | Op::Cast { .. }
        | Op::Constant { .. } => Part::Pointwise,
        Op::ChannelStats | Op::NormalizeGradReduce { .. } | Op::Reduce { .. } => Part::Sum,
        Op::Conv2d(_) | Op::Conv2dGradInput { .. } | Op::Conv2dGradWeight { .. } => Part::Convolution,
        Op::Ema { .. } => Part::Update(&[0]),
        Op::SgdUpdate { .. } => Part::Update(&[0, 2]),
        Op::AdamwUpdate { .. } => Part::Update(&[0, 2, 3]),
        Op::Input { .. }
        | Op::Parameter { .. }
        | Op::State { .. }
        | Op::Store { .. }
        | Op::Output { .. }
        | Op::MatMul { .. }
        | Op::MaxPool(_)
        | Op::MaxPoolGrad(_)
        | Op::AvgPool(_)
        | Op::AvgPoolGrad { .. }
        | Op::Reshape { .. }
        | Op::Concat { .. }
        | Op::Slice { .. }
        | Op::Pad { .. }
        | Op::ConvertLayout { .. }
        | Op::Standardize { .. }
        | Op::StandardizeGrad { .. }
        | Op::L2Normalize { .. }
        | Op::L2NormalizeGrad { .. }
        | Op::Softmax
        | Op::SoftmaxGrad
        | Op::LogSoftmax
        | Op::LogSoftmaxGrad
        | Op::CrossEntropy { .. }
        | Op::CrossEntropyGrad { .. }
        | Op::KlDivergence { .. }
        | Op::KlGradTeacher { .. }
        | Op::KlGradStudent { .. }
        | Op::MeanSquaredError
        | Op::MeanSquaredErrorGrad
        | Op::RelationDistance
        | Op::RelationDistanceGrad
        | Op::RelationAngle
        | Op::RelationAngleGrad
        | Op::Fused(_) => Part::None,
    }
}

/// Whether the operator is elementwise on its operands of the result's shape; others are channel vectors, scalars,
/// random states, or smaller values that it repeats.
pub fn is_pointwise(op: &Op) -> bool {
    part(op) == Part::Pointwise
}

/// Whether the operator, on operands of these types, sums over the rows of a value (to channel vectors), or over its
/// channels.
pub fn is_reduction(op: &Op, operands: &[&ValueType]) -> bool {
    let Op::Reduce { axes, .. } = op else { return part(op) == Part::Sum };
    let rank = operands.first().map_or(0, |ty| ty.shape.rank());
    let but_channels = axes.len() + 1 == rank && !axes.contains(&1);
    rank >= 2 && (but_channels || axes.as_slice() == [1])
}

/// Whether the operator can work on the channel vectors that reductions of the same launch gave: those few that follow
/// statistics and sums of gradients.
pub fn is_vector_step(op: &Op) -> bool {
    matches!(op, Op::Binary { .. } | Op::Scale { .. } | Op::Ema { .. })
}

/// Whether the operator is one of the three directions of a convolution.
pub fn is_convolution(op: &Op) -> bool {
    part(op) == Part::Convolution
}

/// Whether the operator updates a parameter or state.
pub fn is_update(op: &Op) -> bool {
    matches!(part(op), Part::Update(_))
}

/// The operand whose memory a result of an update takes over, or of a group through its updates; `None` for all that
/// are no updates.
pub(crate) fn updated_operand(op: &Op, result: usize) -> Option<usize> {
    match (op, part(op)) {
        (Op::Fused(group), _) => group.updated_operand(result),
        (_, Part::Update(operands)) => operands.get(result).copied(),
        (_, Part::Pointwise | Part::Sum | Part::Convolution | Part::None) => None,
    }
}

impl Group {
    /// The type of a local value; `None` where there is no such value.
    pub fn ty(&self, local: Local) -> Option<&ValueType> {
        match local {
            Local::Operand(i) => self.operands.get(i as usize),
            Local::Step { step, result } => self.steps.get(step as usize)?.results.get(result as usize),
        }
    }

    /// The types of the results.
    pub fn result_types(&self) -> SmallVec<[ValueType; 1]> {
        self.results.iter().filter_map(|&r| self.ty(r)).cloned().collect()
    }

    /// The operand whose memory a result takes over through updates of this group; `None` for all other results.
    pub fn updated_operand(&self, result: usize) -> Option<usize> {
        let mut at = *self.results.get(result)?;
        loop {
            match at {
                Local::Operand(i) => return Some(i as usize),
                Local::Step { step, result } => {
                    let step = self.steps.get(step as usize)?;
                    let operand = updated_operand(&step.op, result as usize)?;
                    at = *step.operands.get(operand)?;
                }
            }
        }
    }

    /// The step that makes a local value, and which of its results that is.
    pub fn step_of(&self, local: Local) -> Option<(&Step, usize)> {
        match local {
            Local::Operand(_) => None,
            Local::Step { step, result } => Some((self.steps.get(step as usize)?, result as usize)),
        }
    }

    /// Checks the body: locals in range and made before they are taken, types as inferred, steps as the kind demands.
    ///
    /// # Errors
    ///
    /// A sentence that says what is wrong.
    pub fn check(&self) -> Result<(), String> {
        for (i, step) in self.steps.iter().enumerate() {
            let name = step.op.mnemonic();
            let made = |local: &Local| match *local {
                Local::Operand(_) => true,
                Local::Step { step, .. } => (step as usize) < i,
            };
            let types: Option<SmallVec<[&ValueType; 8]>> =
                step.operands.iter().map(|l| if made(l) { self.ty(*l) } else { None }).collect();
            let Some(types) = types else {
                return Err(format!("step {i} ({name}) takes a value that is not there"));
            };
            match &step.op {
                Op::Constant { .. } => {
                    let well = step.operands.is_empty() && step.results.len() == 1;
                    if !well {
                        return Err(format!("step {i} ({name}) has no operands and one result"));
                    }
                }
                Op::Fused(_) => return Err("a group holds no group".to_owned()),
                op if op.is_source() || op.is_sink() => {
                    return Err(format!("step {i} ({name}) is a source or a sink"));
                }
                op => {
                    let inferred = infer::result_types(op, &types).map_err(|e| format!("step {i}: {e}"))?;
                    if inferred != step.results {
                        return Err(format!("step {i} ({name}) has other types than its operands give"));
                    }
                }
            }
            if !self.allows(&step.op, &types) {
                return Err(format!("step {i} ({name}) has no place in a {} group", self.kind));
            }
        }
        if self.results.is_empty() || self.results.iter().any(|&r| self.ty(r).is_none()) {
            return Err("a result is a value that is not there".to_owned());
        }
        if self.results.iter().any(|r| matches!(r, Local::Operand(_))) {
            return Err("a result is an operand".to_owned());
        }
        if self.kind == GroupKind::Convolution {
            self.check_convolutions()?;
        }
        Ok(())
    }

    fn allows(&self, op: &Op, types: &[&ValueType]) -> bool {
        match self.kind {
            GroupKind::Update => is_update(op),
            GroupKind::Sequence => true,
            GroupKind::Pointwise => is_pointwise(op) || is_reduction(op, types) || is_vector_step(op),
            GroupKind::Convolution => {
                is_convolution(op) || is_pointwise(op) || is_reduction(op, types) || is_vector_step(op)
            }
        }
    }

    /// The steps that are convolutions.
    pub fn convolutions(&self) -> impl Iterator<Item = (usize, &Step)> {
        self.steps.iter().enumerate().filter(|(_, s)| is_convolution(&s.op))
    }

    fn check_convolutions(&self) -> Result<(), String> {
        let mut all = self.convolutions();
        let Some((_, first)) = all.next() else {
            return Err("a convolution group holds a convolution".to_owned());
        };
        let weight = |s: &Step| match s.op {
            Op::Conv2dGradWeight { .. } => None,
            _ => s.operands.get(1).copied(),
        };
        for (i, step) in all {
            if step.op != first.op
                || weight(step) != weight(first)
                || step.results[0].dims()[1..] != first.results[0].dims()[1..]
            {
                return Err(format!(
                    "step {i}: the convolutions of a group have one weight and one geometry"
                ));
            }
        }
        Ok(())
    }
}

impl fmt::Display for GroupKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
