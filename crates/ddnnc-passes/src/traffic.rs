//! What a training step keeps for its backward pass, and the least that it could move through memory for it.

use crate::{BufferId, Place, Program};
use ddnnc_ir::{Op, UnaryKind, is_update};
use rustc_hash::FxHashSet;

/// A training step in two directions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Traffic {
    /// The first launch of the backward pass: the first with the gradient of an operator of a net. Losses and their own
    /// gradients come before it. The number of launches where there is no backward pass.
    pub backward: usize,
    /// Kept activations: values of the arena that depend on an input, were made in the forward pass (or are the input)
    /// and are read in the backward pass. In the order in which they are read there.
    pub kept: Vec<BufferId>,
    /// Their bytes.
    pub kept_bytes: u64,
}

impl Traffic {
    /// Of a program.
    pub fn new(program: &Program) -> Traffic {
        let backward = program.launches.iter().position(|l| holds(&l.op, is_gradient_of_a_net));
        let backward = backward.unwrap_or(program.launches.len());
        let (forward, rest) = program.launches.split_at(backward);
        let mut made: FxHashSet<BufferId> = program.inputs.values().copied().collect();
        for launch in forward {
            if launch.operands.iter().any(|b| made.contains(b)) {
                made.extend(&launch.results);
            }
        }
        let in_arena = |b: &BufferId| matches!(program.buffer(*b).place, Place::Arena { .. });
        let mut kept = Vec::new();
        for b in rest.iter().filter(|l| !holds(&l.op, is_update)).flat_map(|l| &l.operands) {
            // Removed, so that each counts once.
            if in_arena(b) && made.remove(b) {
                kept.push(*b);
            }
        }
        let kept_bytes = kept.iter().map(|&b| program.buffer(b).ty.bytes() as u64).sum();
        Traffic { backward, kept, kept_bytes }
    }

    /// A measure of what a step must move: every kept activation written once and read once in each direction, itself in the
    /// forward pass and its gradient in the backward pass, and nothing else. No program reaches it, as the backward pass
    /// also reads what is kept. A program that computes values again keeps fewer and has a smaller measure.
    pub fn minimum_bytes(&self) -> u64 {
        4 * self.kept_bytes
    }
}

/// Whether an operator, or a step of a group, is of a sort.
fn holds(op: &Op, sort: fn(&Op) -> bool) -> bool {
    match op {
        Op::Fused(group) => group.steps.iter().any(|step| sort(&step.op)),
        op => sort(op),
    }
}

/// Gradients of operators that nets are made of, and losses are not.
fn is_gradient_of_a_net(op: &Op) -> bool {
    match op {
        // Squares are of attention losses, logarithms of sets of teachers.
        Op::UnaryGrad { kind } => !matches!(kind, UnaryKind::Square | UnaryKind::Log),
        Op::Conv2dGradInput { .. }
        | Op::Conv2dGradWeight { .. }
        | Op::NormalizeGradInput { .. }
        | Op::NormalizeGradReduce { .. }
        | Op::NormalizeGradFixed { .. }
        | Op::MaxPoolGrad(_)
        | Op::AvgPoolGrad { .. } => true,
        // Gradients that nets and losses both have (of products, sums, moves and rows), and all that are none.
        Op::Input { .. }
        | Op::Parameter { .. }
        | Op::State { .. }
        | Op::Constant { .. }
        | Op::Store { .. }
        | Op::Output { .. }
        | Op::Unary { .. }
        | Op::Binary { .. }
        | Op::Scale { .. }
        | Op::BiasAdd
        | Op::Dropout { .. }
        | Op::StopGradient
        | Op::Conv2d(_)
        | Op::MatMul { .. }
        | Op::ChannelStats
        | Op::Normalize { .. }
        | Op::Ema { .. }
        | Op::MaxPool(_)
        | Op::AvgPool(_)
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
        | Op::SgdUpdate { .. }
        | Op::AdamwUpdate { .. }
        | Op::Fused(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Buffer, Launch, Persistent, PersistentKind};
    use ddnnc_ir::{Conv, DType, ValueType};
    use indexmap::IndexMap;

    fn launch(op: Op, operands: &[u32], results: &[u32]) -> Launch {
        let ids = |ids: &[u32]| ids.iter().map(|&i| BufferId(i)).collect();
        Launch { op, operands: ids(operands), results: ids(results), path: String::new() }
    }

    /// Two convolutions of 1×1 by one weight with a ReLU between: x → a → b → c, and back.
    fn step() -> Program {
        let (map, weight) = (ValueType::f32([2, 3, 4, 5]), ValueType::f32([3, 3, 1, 1]));
        let conv = Conv { stride: [1; 2], pad: [0; 2], dilation: [1; 2], groups: 1 };
        let relu = Op::Unary { kind: UnaryKind::Relu };
        // x, weight, its cast, a, b, c, gradients of c (given by an input's name), b, a, of the weight.
        let types = [&map, &weight, &weight, &map, &map, &map, &map, &map, &map, &weight];
        let place = |i: usize| match i {
            1 => Place::Persistent { offset: 0 },
            _ => Place::Arena { offset: 1024 * i },
        };
        let persistent = Persistent { kind: PersistentKind::Parameter, buffer: BufferId(1) };
        Program {
            name: "step".to_owned(),
            buffers: types
                .iter()
                .enumerate()
                .map(|(i, ty)| Buffer { ty: (*ty).clone(), place: place(i) })
                .collect(),
            launches: vec![
                launch(Op::Cast { dtype: DType::F32 }, &[1], &[2]),
                launch(Op::Conv2d(conv), &[0, 2], &[3]),
                launch(relu, &[3], &[4]),
                launch(Op::Conv2d(conv), &[4, 2], &[5]),
                launch(Op::Unary { kind: UnaryKind::Relu }, &[5], &[6]),
                launch(Op::Conv2dGradWeight { conv, kernel: [1, 1] }, &[4, 6], &[9]),
                launch(Op::Conv2dGradInput { conv, input: [4, 5] }, &[6, 2], &[7]),
                launch(Op::UnaryGrad { kind: UnaryKind::Relu }, &[3, 7], &[8]),
                launch(Op::Conv2dGradWeight { conv, kernel: [1, 1] }, &[0, 8], &[9]),
            ],
            inputs: IndexMap::from([("x".to_owned(), BufferId(0))]),
            outputs: IndexMap::new(),
            persistent: IndexMap::from([("w".to_owned(), persistent)]),
            arena_bytes: 16384,
            persistent_bytes: 36,
        }
    }

    #[test]
    fn what_is_kept_is_what_the_backward_pass_reads_of_the_forward_pass() {
        let program = step();
        let traffic = Traffic::new(&program);
        assert_eq!(traffic.backward, 5);
        // Not the weight and its cast, which do not depend on an input; not c, which only the forward pass reads.
        assert_eq!(traffic.kept, [4, 6, 3, 0].map(BufferId));
        assert_eq!(traffic.kept_bytes, 4 * 4 * 120);
        assert_eq!(traffic.minimum_bytes(), 4 * traffic.kept_bytes);
    }

    #[test]
    fn without_a_backward_pass_nothing_is_kept() {
        let mut program = step();
        program.launches.truncate(5);
        let traffic = Traffic::new(&program);
        assert_eq!((traffic.backward, traffic.kept_bytes), (5, 0));
    }
}
