//! The operators: a closed enum. `docs/adding-an-op.md` is the walk through every place that matches on it.
//!
//! Shapes in the comments: N batch, C channels, H and W rows and columns, K classes; `[]` is a scalar. Operands stand
//! in parentheses in their order, results after the arrow. Gradient operators stand beside what they differentiate.

use crate::{DType, Group, Layout, Shape};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Geometry of a two-dimensional convolution; pairs are (rows, columns).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Conv {
    /// Step between outputs.
    pub stride: [usize; 2],
    /// Zeros on each side.
    pub pad: [usize; 2],
    /// Step between taps.
    pub dilation: [usize; 2],
    /// Groups of channels that do not mix.
    pub groups: usize,
}

/// Geometry of a pooling window; pairs are (rows, columns).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Pool {
    /// Extent of the window.
    pub kernel: [usize; 2],
    /// Step between windows.
    pub stride: [usize; 2],
    /// Border on each side: zeros that count in an average, and never win a maximum.
    pub pad: [usize; 2],
}

/// Elementwise functions of one value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum UnaryKind {
    /// max(x, 0)
    Relu,
    /// min(max(x, 0), 6)
    Relu6,
    /// 1 / (1 + e^-x)
    Sigmoid,
    /// tanh x
    Tanh,
    /// x · min(max(x + 3, 0), 6) / 6
    HardSwish,
    /// x · sigmoid(x)
    Silu,
    /// x · Φ(x), exact (with the error function)
    Gelu,
    /// x²
    Square,
    /// ln max(x, 2⁻¹²⁶): the least normal number takes the place of what is smaller, so that nothing is infinite
    Log,
}

impl UnaryKind {
    /// Every kind.
    pub const ALL: [UnaryKind; 9] = [
        UnaryKind::Relu,
        UnaryKind::Relu6,
        UnaryKind::Sigmoid,
        UnaryKind::Tanh,
        UnaryKind::HardSwish,
        UnaryKind::Silu,
        UnaryKind::Gelu,
        UnaryKind::Square,
        UnaryKind::Log,
    ];

    /// Whether the derivative is a function of the result (else of the operand).
    pub fn differentiates_from_result(self) -> bool {
        match self {
            UnaryKind::Relu | UnaryKind::Relu6 | UnaryKind::Sigmoid | UnaryKind::Tanh => true,
            UnaryKind::HardSwish | UnaryKind::Silu | UnaryKind::Gelu | UnaryKind::Square | UnaryKind::Log => {
                false
            }
        }
    }
}

/// Elementwise functions of two values of one shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum BinaryKind {
    /// a + b
    Add,
    /// a − b
    Sub,
    /// a · b
    Mul,
}

/// How a reduction combines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ReduceKind {
    /// Σ
    Sum,
    /// Σ / n
    Mean,
}

/// An operator with its attributes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Op {
    // ---- sources: no operands; the type is stated where the node is added ----
    /// A value given anew at every step: `image`, `label`, `lr`, `rng`, `optimizer.step`, `weight.<term>`.
    Input {
        /// Its name.
        name: String,
    },
    /// A weight, as it stands at the start of the step.
    Parameter {
        /// Its public name.
        name: String,
        /// No gradient and no training behaviour (a fact of the network; `StopGradient` is one of a use).
        frozen: bool,
    },
    /// Persistent and not trained by gradient: running statistics, optimizer state; its value at the step's start.
    State {
        /// Its public name.
        name: String,
    },
    /// One number in every element.
    Constant {
        /// The number.
        value: f64,
    },

    // ---- sinks: no results ----
    /// (x) Makes x the new content of the parameter or state `name` once every reader of the old one has run.
    Store {
        /// The parameter's or state's public name.
        name: String,
    },
    /// (x) A result of the step, by name: `logits.<net>`, `loss.<term>`, `loss.total`, `grad.<parameter>`.
    Output {
        /// Its name.
        name: String,
    },

    // ---- elementwise ----
    /// (x) → f(x)
    Unary {
        /// f
        kind: UnaryKind,
    },
    /// (saved, dy) → dx, where saved is the result of f, or its operand
    /// (see [`UnaryKind::differentiates_from_result`]).
    UnaryGrad {
        /// f
        kind: UnaryKind,
    },
    /// (a, b) → a ∘ b, equal types
    Binary {
        /// ∘
        kind: BinaryKind,
    },
    /// (x) → factor · x
    Scale {
        /// The factor.
        factor: f64,
    },
    /// (x `[N,C,…]`, b `[C]`) → x + b along the channels
    BiasAdd,
    /// (x, rng i64 `[2]`) → x masked: each element kept with probability 1 − p and scaled by 1/(1 − p).
    /// The mask is a pure function of (seed, step, site, element index); applied to dy it is the gradient.
    Dropout {
        /// Probability of zero.
        p: f64,
        /// Tells the dropouts of a program apart; equal sites on equal values are one operator.
        site: u64,
    },
    /// (x) → x; lets no gradient through.
    StopGradient,

    // ---- linear maps ----
    /// (x `[N,C,H,W]`, w `[O,C/groups,kh,kw]`) → `[N,O,H',W']`
    Conv2d(Conv),
    /// (dy `[N,O,H',W']`, w) → dx `[N,C,H,W]`
    Conv2dGradInput {
        /// Geometry of the convolution.
        conv: Conv,
        /// (H, W)
        input: [usize; 2],
    },
    /// (x `[N,C,H,W]`, dy `[N,O,H',W']`) → dw `[O,C/groups,kh,kw]`
    Conv2dGradWeight {
        /// Geometry of the convolution.
        conv: Conv,
        /// (kh, kw)
        kernel: [usize; 2],
    },
    /// (a, b) → op(a) · op(b), two-dimensional
    MatMul {
        /// Transpose a.
        transpose_a: bool,
        /// Transpose b.
        transpose_b: bool,
    },

    // ---- normalisation; x is [N,C,…], statistics and gains are [C] ----
    /// (x) → mean, biased variance over everything but the channels
    ChannelStats,
    /// (x, mean, var, gain, bias) → gain · (x − mean) / √(var + eps) + bias
    Normalize {
        /// Added to the variance.
        eps: f64,
        /// Whether mean and var are the `ChannelStats` of this very x (the verifier checks), so that the gradient
        /// flows through them; else they are constants of the step.
        batch_stats: bool,
    },
    /// (x, mean, var, dy) → dgain, dbias
    NormalizeGradReduce {
        /// As in the forward operator.
        eps: f64,
    },
    /// (x, mean, var, gain, dy, dgain, dbias) → dx, through the batch statistics
    NormalizeGradInput {
        /// As in the forward operator.
        eps: f64,
    },
    /// (var, gain, dy) → dx = dy · gain / √(var + eps), statistics fixed
    NormalizeGradFixed {
        /// As in the forward operator.
        eps: f64,
    },
    /// (state, x) → (1 − momentum) · state + momentum · scale · x
    Ema {
        /// Weight of the new value.
        momentum: f64,
        /// n/(n−1) for an unbiased variance, else 1.
        scale: f64,
    },

    // ---- pooling ----
    /// (x `[N,C,H,W]`) → `[N,C,H',W']`; ties go to the first element in row order
    MaxPool(Pool),
    /// (x, dy) → dx
    MaxPoolGrad(Pool),
    /// (x `[N,C,H,W]`) → `[N,C,H',W']`; the border counts
    AvgPool(Pool),
    /// (dy) → dx
    AvgPoolGrad {
        /// Geometry of the pooling.
        pool: Pool,
        /// (H, W)
        input: [usize; 2],
    },

    // ---- shape ----
    /// (x) → the same elements in another shape
    Reshape {
        /// The shape.
        shape: Shape,
    },
    /// (x…) → one after the other along `axis`
    Concat {
        /// The axis.
        axis: usize,
    },
    /// (x) → `len` entries from `start` along `axis`
    Slice {
        /// The axis.
        axis: usize,
        /// First entry.
        start: usize,
        /// How many.
        len: usize,
    },
    /// (x) → x at `start` along `axis` of a value with `total` entries there, zeros elsewhere (Slice's gradient)
    Pad {
        /// The axis.
        axis: usize,
        /// Where x begins.
        start: usize,
        /// Extent of the result.
        total: usize,
    },
    /// (x) → Σ or mean over `axes`, which vanish
    Reduce {
        /// Σ or mean.
        kind: ReduceKind,
        /// Ascending.
        axes: Vec<usize>,
    },
    /// (x) → `shape`, where axis i of x is axis `axes[i]` of the result and the rest repeats
    Broadcast {
        /// Shape of the result.
        shape: Shape,
        /// Ascending; one per axis of x.
        axes: Vec<usize>,
        /// Layout of the result.
        layout: Layout,
    },

    // ---- representation ----
    /// (x) → x in another layout
    ConvertLayout {
        /// The layout of the result.
        layout: Layout,
    },
    /// (x) → x rounded to another element type: bf16 to the nearest, ties to even
    Cast {
        /// f32 or bf16.
        dtype: DType,
    },

    // ---- per sample (everything but axis 0) ----
    /// (x `[N,…]`) → (x − mean) / √(unbiased var + eps) per sample
    Standardize {
        /// Added to the variance.
        eps: f64,
    },
    /// (x, dy) → dx
    StandardizeGrad {
        /// As in the forward operator.
        eps: f64,
    },
    /// (x `[N,…]`) → x / max(‖x‖₂, eps) per sample
    L2Normalize {
        /// Least norm.
        eps: f64,
    },
    /// (x, dy) → dx
    L2NormalizeGrad {
        /// As in the forward operator.
        eps: f64,
    },
    /// (x `[N,K]`) → softmax along the last axis
    Softmax,
    /// (y, dy) → dx
    SoftmaxGrad,
    /// (x `[N,K]`) → log softmax along the last axis
    LogSoftmax,
    /// (y, dy) → dx
    LogSoftmaxGrad,

    // ---- losses: scalars, means over the batch ----
    /// (logits `[N,K]`, label i64 `[N]`) → −Σ q log p / N, q = (1 − smoothing)·onehot + smoothing/K
    CrossEntropy {
        /// Label smoothing.
        smoothing: f64,
    },
    /// (logits, label, dl []) → dlogits
    CrossEntropyGrad {
        /// Label smoothing.
        smoothing: f64,
    },
    /// (teacher logits `[N,K]`, student logits `[N,K]`) → T² · KL(softmax(t/T) ‖ softmax(s/T)), mean over N
    KlDivergence {
        /// T
        temperature: f64,
    },
    /// (teacher, student, dl []) → dteacher
    KlGradTeacher {
        /// T
        temperature: f64,
    },
    /// (teacher, student, dl []) → dstudent
    KlGradStudent {
        /// T
        temperature: f64,
    },
    /// (a, b) → mean (a − b)² over every element
    MeanSquaredError,
    /// (a, b, dl []) → da
    MeanSquaredErrorGrad,
    /// (a `[N,A]`, b `[N,B]`), embeddings of N samples → mean over i, j of h(‖aᵢ − aⱼ‖/m(a) − ‖bᵢ − bⱼ‖/m(b)), h(x) = x²/2
    /// where |x| < 1 and |x| − ½ elsewhere; m is the mean of the distances that are not 0, and where all are, so are the
    /// quotients (distance-wise loss of Park et al. 2019)
    RelationDistance,
    /// (a, b, dl []) → da; a distance that is 0 has the derivative 0
    RelationDistanceGrad,
    /// (a `[N,A]`, b `[N,B]`), embeddings of N samples → mean over i, j, k of h(cos ∠ aᵢaⱼaₖ − cos ∠ bᵢbⱼbₖ), h as above;
    /// the cosine is ⟨u(aᵢ − aⱼ), u(aₖ − aⱼ)⟩ with u(x) = x/‖x‖ and u(0) = 0 (angle-wise loss of Park et al. 2019)
    RelationAngle,
    /// (a, b, dl []) → da; u has the derivative 0 at 0
    RelationAngleGrad,

    // ---- optimizer ----
    /// (parameter, gradient, buffer, lr []) → parameter', buffer'; without momentum (parameter, gradient, lr) →
    /// parameter'. g += weight_decay · w; b = momentum · b + g; w −= lr · (nesterov ? g + momentum · b : b).
    SgdUpdate {
        /// Zero means no buffer.
        momentum: f64,
        /// Look ahead.
        nesterov: bool,
        /// L2 penalty, added to the gradient.
        weight_decay: f64,
    },
    /// (parameter, gradient, m, v, lr [], t []) → parameter', m', v'; t counts from 1 (Loshchilov & Hutter 2019).
    AdamwUpdate {
        /// Decay of m.
        beta1: f64,
        /// Decay of v.
        beta2: f64,
        /// Added to √v̂.
        eps: f64,
        /// Decoupled decay.
        weight_decay: f64,
    },

    // ---- fused ----
    /// The operators of a group as one launch; operands and results are the group's.
    Fused(Arc<Group>),
}

impl Op {
    /// The operator's name in text and messages.
    pub fn mnemonic(&self) -> &'static str {
        match self {
            Op::Input { .. } => "input",
            Op::Parameter { .. } => "parameter",
            Op::State { .. } => "state",
            Op::Constant { .. } => "constant",
            Op::Store { .. } => "store",
            Op::Output { .. } => "output",
            Op::Unary { kind } => match kind {
                UnaryKind::Relu => "relu",
                UnaryKind::Relu6 => "relu6",
                UnaryKind::Sigmoid => "sigmoid",
                UnaryKind::Tanh => "tanh",
                UnaryKind::HardSwish => "hard_swish",
                UnaryKind::Silu => "silu",
                UnaryKind::Gelu => "gelu",
                UnaryKind::Square => "square",
                UnaryKind::Log => "log",
            },
            Op::UnaryGrad { kind } => match kind {
                UnaryKind::Relu => "relu_grad",
                UnaryKind::Relu6 => "relu6_grad",
                UnaryKind::Sigmoid => "sigmoid_grad",
                UnaryKind::Tanh => "tanh_grad",
                UnaryKind::HardSwish => "hard_swish_grad",
                UnaryKind::Silu => "silu_grad",
                UnaryKind::Gelu => "gelu_grad",
                UnaryKind::Square => "square_grad",
                UnaryKind::Log => "log_grad",
            },
            Op::Binary { kind } => match kind {
                BinaryKind::Add => "add",
                BinaryKind::Sub => "sub",
                BinaryKind::Mul => "mul",
            },
            Op::Scale { .. } => "scale",
            Op::BiasAdd => "bias_add",
            Op::Dropout { .. } => "dropout",
            Op::StopGradient => "stop_gradient",
            Op::Conv2d(_) => "conv2d",
            Op::Conv2dGradInput { .. } => "conv2d_grad_input",
            Op::Conv2dGradWeight { .. } => "conv2d_grad_weight",
            Op::MatMul { .. } => "matmul",
            Op::ChannelStats => "channel_stats",
            Op::Normalize { .. } => "normalize",
            Op::NormalizeGradReduce { .. } => "normalize_grad_reduce",
            Op::NormalizeGradInput { .. } => "normalize_grad_input",
            Op::NormalizeGradFixed { .. } => "normalize_grad_fixed",
            Op::Ema { .. } => "ema",
            Op::MaxPool(_) => "max_pool",
            Op::MaxPoolGrad(_) => "max_pool_grad",
            Op::AvgPool(_) => "avg_pool",
            Op::AvgPoolGrad { .. } => "avg_pool_grad",
            Op::Reshape { .. } => "reshape",
            Op::Concat { .. } => "concat",
            Op::Slice { .. } => "slice",
            Op::Pad { .. } => "pad",
            Op::Reduce { kind, .. } => match kind {
                ReduceKind::Sum => "reduce_sum",
                ReduceKind::Mean => "reduce_mean",
            },
            Op::Broadcast { .. } => "broadcast",
            Op::ConvertLayout { .. } => "convert_layout",
            Op::Cast { .. } => "cast",
            Op::Standardize { .. } => "standardize",
            Op::StandardizeGrad { .. } => "standardize_grad",
            Op::L2Normalize { .. } => "l2_normalize",
            Op::L2NormalizeGrad { .. } => "l2_normalize_grad",
            Op::Softmax => "softmax",
            Op::SoftmaxGrad => "softmax_grad",
            Op::LogSoftmax => "log_softmax",
            Op::LogSoftmaxGrad => "log_softmax_grad",
            Op::CrossEntropy { .. } => "cross_entropy",
            Op::CrossEntropyGrad { .. } => "cross_entropy_grad",
            Op::KlDivergence { .. } => "kl_divergence",
            Op::KlGradTeacher { .. } => "kl_grad_teacher",
            Op::KlGradStudent { .. } => "kl_grad_student",
            Op::MeanSquaredError => "mean_squared_error",
            Op::MeanSquaredErrorGrad => "mean_squared_error_grad",
            Op::RelationDistance => "relation_distance",
            Op::RelationDistanceGrad => "relation_distance_grad",
            Op::RelationAngle => "relation_angle",
            Op::RelationAngleGrad => "relation_angle_grad",
            Op::SgdUpdate { .. } => "sgd_update",
            Op::AdamwUpdate { .. } => "adamw_update",
            Op::Fused(_) => "fused",
        }
    }

    /// Whether the operator has no operands and its type is stated.
    pub fn is_source(&self) -> bool {
        self.effect() == Effect::Source
    }

    /// Whether the operator is kept for its effect (it has no results).
    pub fn is_sink(&self) -> bool {
        self.effect() == Effect::Sink
    }

    /// Whether the operator moves nothing: its result is its operand's memory under another name.
    pub fn is_alias(&self) -> bool {
        self.effect() == Effect::Alias
    }

    fn effect(&self) -> Effect {
        match self {
            Op::Input { .. } | Op::Parameter { .. } | Op::State { .. } | Op::Constant { .. } => {
                Effect::Source
            }
            Op::Store { .. } | Op::Output { .. } => Effect::Sink,
            Op::Reshape { .. } | Op::StopGradient => Effect::Alias,
            Op::Unary { .. }
            | Op::UnaryGrad { .. }
            | Op::Binary { .. }
            | Op::Scale { .. }
            | Op::BiasAdd
            | Op::Dropout { .. }
            | Op::Conv2d(_)
            | Op::Conv2dGradInput { .. }
            | Op::Conv2dGradWeight { .. }
            | Op::MatMul { .. }
            | Op::ChannelStats
            | Op::Normalize { .. }
            | Op::NormalizeGradReduce { .. }
            | Op::NormalizeGradInput { .. }
            | Op::NormalizeGradFixed { .. }
            | Op::Ema { .. }
            | Op::MaxPool(_)
            | Op::MaxPoolGrad(_)
            | Op::AvgPool(_)
            | Op::AvgPoolGrad { .. }
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
            | Op::Fused(_) => Effect::Results,
        }
    }
}

/// What there is of an operator when it has run.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Effect {
    /// A value of a stated type.
    Source,
    /// Its operand, kept.
    Sink,
    /// Another name for its operand's memory.
    Alias,
    /// Results in memory of their own, or in that of operands which nothing reads later.
    Results,
}
