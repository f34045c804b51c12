//! The Program: what every device runs. Buffers with their places, launches in order, tables of names.
//!
//! A program holds no path and no time: the same spec gives the same bytes.

use ddnnc_ir::{Group, GroupKind, Local, Op, ValueType};
use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

/// A buffer of a [`Program`], printed as `b12`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct BufferId(pub u32);

impl BufferId {
    /// Its index in [`Program::buffers`].
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// Every offset is a multiple of this many bytes.
pub const ALIGNMENT: usize = 64;

/// Where a buffer lies. Offsets are bytes, multiples of [`ALIGNMENT`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Place {
    /// In the arena: its content lasts from the launch that writes it to the last that reads it (for an output, to the
    /// end of the step; for an input, from the start).
    Arena {
        /// Bytes from the arena's start.
        offset: usize,
    },
    /// In the region that outlives the step: parameters, running statistics, optimizer state.
    Persistent {
        /// Bytes from the region's start.
        offset: usize,
    },
}

/// A typed piece of memory.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Buffer {
    /// Element type and shape.
    pub ty: ValueType,
    /// Where it lies.
    pub place: Place,
}

/// One kernel execution.
///
/// A result lies exactly on an operand's memory or apart from all of them, never partly across, and exactly on one only
/// where [`may_overwrite`] allows it. `Op::Store` appears as a copy of its operand to its result; `Op::Constant` as a
/// fill of its result; inputs, parameters, states, outputs, reshapes and gradient stops never appear (they are names
/// for memory).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Launch {
    /// What it computes.
    pub op: Op,
    /// Buffers read.
    pub operands: Vec<BufferId>,
    /// Buffers written.
    pub results: Vec<BufferId>,
    /// Path of what it computes, for profiles and messages; may be empty.
    pub path: String,
}

/// What a persistent buffer holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PersistentKind {
    /// A weight.
    Parameter,
    /// A running statistic.
    Statistic,
    /// Optimizer state (momentum, moments).
    Optimizer,
}

/// A named persistent buffer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Persistent {
    /// What it holds.
    pub kind: PersistentKind,
    /// Where.
    pub buffer: BufferId,
}

/// One step, ready for a device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Program {
    /// The graph's name.
    pub name: String,
    /// Every buffer; several may share memory where their lives do not overlap.
    pub buffers: Vec<Buffer>,
    /// What runs, in order.
    pub launches: Vec<Launch>,
    /// Given anew before every step, by name. A device need not keep an input's content after the step.
    pub inputs: IndexMap<String, BufferId>,
    /// Left behind by every step, by name; valid until the next one begins.
    pub outputs: IndexMap<String, BufferId>,
    /// What outlives the step, by public name.
    pub persistent: IndexMap<String, Persistent>,
    /// Size of the arena.
    pub arena_bytes: usize,
    /// Size of the persistent region.
    pub persistent_bytes: usize,
}

impl Program {
    /// The buffer of an id.
    pub fn buffer(&self, id: BufferId) -> &Buffer {
        &self.buffers[id.index()]
    }

    /// The buffer behind a name: an input, an output or something persistent.
    pub fn named(&self, name: &str) -> Option<BufferId> {
        self.inputs
            .get(name)
            .or_else(|| self.outputs.get(name))
            .copied()
            .or_else(|| self.persistent.get(name).map(|p| p.buffer))
    }

    /// Planned peak: arena and persistent region.
    pub fn peak_bytes(&self) -> usize {
        self.arena_bytes + self.persistent_bytes
    }
}

/// The operands on whose memory result `result` of `op` may lie (each element of the result is written after the
/// elements of that operand at the same index have been read, and needs no other element of it).
pub fn may_overwrite(op: &Op, result: usize) -> SmallVec<[usize; 2]> {
    match op {
        Op::Fused(group) => group_may_overwrite(group, result, &readers(group)),
        op => SmallVec::from_slice(operator_may_overwrite(op, result)),
    }
}

/// [`may_overwrite`] for every result of an operator, in time linear in the size of a group of updates.
pub(crate) fn overwrites(op: &Op, results: usize) -> Vec<SmallVec<[usize; 2]>> {
    match op {
        Op::Fused(group) => {
            let readers = readers(group);
            (0..results).map(|r| group_may_overwrite(group, r, &readers)).collect()
        }
        op => (0..results).map(|r| SmallVec::from_slice(operator_may_overwrite(op, r))).collect(),
    }
}

/// How often the steps of a group read each operand.
fn readers(group: &Group) -> Vec<usize> {
    let mut readers = vec![0usize; group.operands.len()];
    for local in group.steps.iter().flat_map(|step| &step.operands) {
        if let Local::Operand(i) = *local {
            readers[i as usize] += 1;
        }
    }
    readers
}

/// An update overwrites what it updates. In an elementwise group a tile's operands are all read before its results are
/// written: a result may lie on an operand of its type that the chains around it read, and no other chain.
fn group_may_overwrite(group: &Group, result: usize, readers: &[usize]) -> SmallVec<[usize; 2]> {
    match group.kind {
        GroupKind::Update => group.updated_operand(result).filter(|&i| readers[i] == 1).into_iter().collect(),
        GroupKind::Pointwise => {
            let Some(&Local::Step { step, .. }) = group.results.get(result) else { return SmallVec::new() };
            let ty = group.ty(group.results[result]);
            let chain = chain_of(group, step as usize);
            let same = |i: &usize| group.operands.get(*i) == ty && ty.is_some_and(|ty| ty.shape.rank() > 1);
            let apart = |i: &usize| {
                let mut steps = group.steps.iter().enumerate();
                steps.all(|(s, step)| chain[s] || !step.operands.contains(&Local::Operand(*i as u32)))
            };
            (0..group.operands.len()).filter(same).filter(apart).collect()
        }
        GroupKind::Convolution | GroupKind::Sequence => SmallVec::new(),
    }
}

/// For every step of a group, whether values connect it with step `from`.
fn chain_of(group: &Group, from: usize) -> Vec<bool> {
    // The first step of each chain, found by joining chains that share a value of some size.
    let mut first: Vec<usize> = (0..group.steps.len()).collect();
    let mut of_operand: Vec<Option<usize>> = vec![None; group.operands.len()];
    fn root(first: &mut [usize], mut i: usize) -> usize {
        while first[i] != i {
            first[i] = first[first[i]];
            i = first[i];
        }
        i
    }
    for (i, step) in group.steps.iter().enumerate() {
        for local in &step.operands {
            let other = match *local {
                Local::Step { step, .. } => Some(step as usize),
                Local::Operand(o) if group.operands[o as usize].shape.rank() > 1 => {
                    of_operand[o as usize].replace(i)
                }
                Local::Operand(_) => None,
            };
            if let Some(other) = other {
                let (a, b) = (root(&mut first, i), root(&mut first, other));
                first[a.max(b)] = a.min(b);
            }
        }
    }
    let of = root(&mut first, from);
    (0..group.steps.len()).map(|i| root(&mut first, i) == of).collect()
}

fn operator_may_overwrite(op: &Op, result: usize) -> &'static [usize] {
    match op {
        Op::Unary { .. } | Op::Scale { .. } | Op::BiasAdd | Op::Dropout { .. } | Op::Normalize { .. } => &[0],
        Op::UnaryGrad { .. } | Op::Binary { .. } => &[0, 1],
        Op::NormalizeGradInput { .. } => &[0, 4],
        Op::NormalizeGradFixed { .. } => &[2],
        Op::Ema { .. } => &[0],
        Op::SgdUpdate { .. } => [&[0], &[2]][result],
        Op::AdamwUpdate { .. } => [&[0], &[2], &[3]][result],
        Op::Input { .. }
        | Op::Parameter { .. }
        | Op::State { .. }
        | Op::Constant { .. }
        | Op::Store { .. }
        | Op::Output { .. }
        | Op::StopGradient
        | Op::Conv2d(_)
        | Op::Conv2dGradInput { .. }
        | Op::Conv2dGradWeight { .. }
        | Op::MatMul { .. }
        | Op::ChannelStats
        | Op::NormalizeGradReduce { .. }
        | Op::MaxPool(_)
        | Op::MaxPoolGrad(_)
        | Op::AvgPool(_)
        | Op::AvgPoolGrad { .. }
        | Op::Reshape { .. }
        | Op::Concat { .. }
        | Op::Slice { .. }
        | Op::Pad { .. }
        | Op::Reduce { .. }
        | Op::Broadcast { .. }
        | Op::ConvertLayout { .. }
        | Op::Cast { .. }
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
        | Op::Fused(_) => &[],
    }
}
