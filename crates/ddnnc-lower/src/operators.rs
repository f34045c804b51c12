//! The built-in operators: one table of names and parameters.

use crate::signature::Fixed;
use ddnnc_ir::UnaryKind;

/// What an operator of the language does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operator {
    /// Convolution.
    Conv,
    /// Convolution of every channel on its own.
    Depthwise,
    /// Matrix product.
    Linear,
    /// LSTM over the columns of a map.
    Lstm,
    /// Batch norm.
    Norm,
    /// An elementwise function.
    Unary(UnaryKind),
    /// Largest of a window.
    MaxPool,
    /// Mean of a window.
    AvgPool,
    /// Mean of a map.
    GlobalAvgPool,
    /// To one dimension.
    Flatten,
    /// To another shape.
    Reshape,
    /// Random zeros in training.
    Dropout,
    /// Probabilities.
    Softmax,
    /// Their logarithms.
    LogSoftmax,
    /// To length one.
    L2Normalize,
    /// Sum.
    Add,
    /// Product.
    Mul,
    /// Side by side.
    Concat,
    /// Nothing.
    Identity,
}

/// An operator's entry.
pub(crate) struct Entry {
    /// What it does.
    pub(crate) operator: Operator,
    /// Name and parameters.
    pub(crate) fixed: Fixed,
    /// The kind that its numbers count.
    pub(crate) counted: &'static str,
}

const fn entry(
    operator: Operator,
    name: &'static str,
    counted: &'static str,
    params: &'static [&'static str],
) -> Entry {
    Entry { operator, fixed: Fixed { name, params }, counted }
}

const fn unary(kind: UnaryKind, name: &'static str) -> Entry {
    entry(Operator::Unary(kind), name, name, &[])
}

/// Every operator.
pub(crate) const OPERATORS: &[Entry] = &[
    entry(
        Operator::Conv,
        "conv",
        "conv",
        &["out!", "kernel!", "stride", "pad", "groups", "dilation", "bias"],
    ),
    entry(Operator::Depthwise, "depthwise", "conv", &["kernel!", "stride", "pad", "dilation", "bias"]),
    entry(Operator::Linear, "linear", "linear", &["out!", "bias"]),
    entry(Operator::Lstm, "lstm", "lstm", &["hidden!", "sequence", "bidirectional"]),
    entry(Operator::Norm, "bn", "bn", &["eps", "momentum"]),
    entry(Operator::Norm, "batch_norm", "bn", &["eps", "momentum"]),
    unary(UnaryKind::Relu, "relu"),
    unary(UnaryKind::Relu6, "relu6"),
    unary(UnaryKind::Sigmoid, "sigmoid"),
    unary(UnaryKind::Tanh, "tanh"),
    unary(UnaryKind::HardSwish, "hard_swish"),
    unary(UnaryKind::Silu, "silu"),
    unary(UnaryKind::Gelu, "gelu"),
    entry(Operator::MaxPool, "max_pool", "max_pool", &["kernel!", "stride", "pad"]),
    entry(Operator::AvgPool, "avg_pool", "avg_pool", &["kernel!", "stride", "pad"]),
    entry(Operator::GlobalAvgPool, "global_avg_pool", "global_avg_pool", &[]),
    entry(Operator::Flatten, "flatten", "flatten", &[]),
    entry(Operator::Reshape, "reshape", "reshape", &["shape!"]),
    entry(Operator::Dropout, "dropout", "dropout", &["p"]),
    entry(Operator::Softmax, "softmax", "softmax", &[]),
    entry(Operator::LogSoftmax, "log_softmax", "log_softmax", &[]),
    entry(Operator::L2Normalize, "l2_normalize", "l2_normalize", &["eps"]),
    entry(Operator::Add, "add", "add", &["other!"]),
    entry(Operator::Mul, "mul", "mul", &["other!"]),
    entry(Operator::Concat, "concat", "concat", &["other!", "..."]),
    entry(Operator::Identity, "identity", "identity", &[]),
];

/// The operator of that name.
pub(crate) fn find(name: &str) -> Option<&'static Entry> {
    OPERATORS.iter().find(|e| e.fixed.name == name)
}

/// Whether the language keeps the name for itself.
pub(crate) fn reserved(name: &str) -> Option<&'static str> {
    match name {
        "in" => Some("the input of a block"),
        "classes" => Some("the number of classes"),
        "ramp" => Some("a weight that grows"),
        _ => find(name).map(|_| "an operator"),
    }
}
