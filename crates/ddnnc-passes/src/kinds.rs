//! What values are made of: what a layout or an element type is chosen by.

use ddnnc_ir::{Graph, NodeId, Op};

/// What a value is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Of the batch's images.
    Activation,
    /// Of parameters, states and their gradients alone.
    Weight,
    /// Of constants and repeated values alone, which can be made in either layout and of any precision.
    Free,
}

/// How the operator combines the kinds of its operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Holds, makes or updates weights.
    Weight,
    /// A constant, or a value repeated.
    Free,
    /// Works on images channel by channel or position by position.
    Image,
    /// Takes its operands of the result's rank in one layout, any, and gives results of that.
    KeepsLayout,
    /// Gives the elements of its operand, or sums of them, in another shape.
    Reshapes,
    /// Converts between layouts.
    Converts,
    /// Everything else.
    Fixed,
}

pub(crate) fn role(op: &Op) -> Role {
    match op {
        Op::Parameter { .. }
        | Op::State { .. }
        | Op::Conv2dGradWeight { .. }
        | Op::Ema { .. }
        | Op::SgdUpdate { .. }
        | Op::AdamwUpdate { .. } => Role::Weight,
        Op::Constant { .. } | Op::Broadcast { .. } => Role::Free,
        Op::BiasAdd
        | Op::Conv2d(_)
        | Op::Conv2dGradInput { .. }
        | Op::ChannelStats
        | Op::Normalize { .. }
        | Op::NormalizeGradReduce { .. }
        | Op::NormalizeGradInput { .. }
        | Op::NormalizeGradFixed { .. }
        | Op::MaxPool(_)
        | Op::MaxPoolGrad(_)
        | Op::AvgPool(_)
        | Op::AvgPoolGrad { .. } => Role::Image,
        Op::Unary { .. }
        | Op::UnaryGrad { .. }
        | Op::Binary { .. }
        | Op::Scale { .. }
        | Op::Dropout { .. }
        | Op::StopGradient
        | Op::Cast { .. }
        | Op::Concat { .. }
        | Op::Slice { .. }
        | Op::Pad { .. }
        | Op::Standardize { .. }
        | Op::StandardizeGrad { .. }
        | Op::L2Normalize { .. }
        | Op::L2NormalizeGrad { .. }
        | Op::MeanSquaredError
        | Op::MeanSquaredErrorGrad => Role::KeepsLayout,
        Op::Reshape { .. } | Op::Reduce { .. } => Role::Reshapes,
        Op::ConvertLayout { .. } => Role::Converts,
        Op::Input { .. }
        | Op::Store { .. }
        | Op::Output { .. }
        | Op::MatMul { .. }
        | Op::Softmax
        | Op::SoftmaxGrad
        | Op::LogSoftmax
        | Op::LogSoftmaxGrad
        | Op::CrossEntropy { .. }
        | Op::CrossEntropyGrad { .. }
        | Op::KlDivergence { .. }
        | Op::KlGradTeacher { .. }
        | Op::KlGradStudent { .. }
        | Op::RelationDistance
        | Op::RelationDistanceGrad
        | Op::RelationAngle
        | Op::RelationAngleGrad
        | Op::Fused(_) => Role::Fixed,
    }
}

/// The kind of every operator's results, by the index of its node; `order` is topological.
pub(crate) fn kinds(graph: &Graph, order: &[NodeId]) -> Vec<Kind> {
    let mut kinds = vec![Kind::Free; graph.index_bound()];
    for &id in order {
        let operands = graph.operands(id);
        let any = |kind| operands.iter().any(|v| kinds[v.node.index()] == kind);
        let joined = if any(Kind::Activation) {
            Kind::Activation
        } else if any(Kind::Weight) {
            Kind::Weight
        } else {
            Kind::Free
        };
        kinds[id.index()] = match role(&graph.node(id).op) {
            Role::Weight => Kind::Weight,
            Role::Free => Kind::Free,
            Role::KeepsLayout | Role::Converts => joined,
            Role::Reshapes if joined == Kind::Weight => Kind::Weight,
            Role::Image | Role::Reshapes | Role::Fixed => Kind::Activation,
        };
    }
    kinds
}
