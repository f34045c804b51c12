//! The attributes of each operator: what is printed, and how an operator is made of what was read.

use super::cursor::{Attributes, Fault};
use crate::{BinaryKind, Conv, DType, Layout, Op, Pool, ReduceKind, Shape, UnaryKind};
use smallvec::{SmallVec, smallvec};

/// The value of an attribute, to print.
pub(super) enum Attribute<'a> {
    Name(&'a str),
    Flag(bool),
    Count(u64),
    Float(f64),
    List(&'a [usize]),
}

type List<'a> = SmallVec<[(&'static str, Attribute<'a>); 5]>;

fn conv_attributes(conv: &Conv) -> List<'_> {
    smallvec![
        ("stride", Attribute::List(&conv.stride)),
        ("pad", Attribute::List(&conv.pad)),
        ("dilation", Attribute::List(&conv.dilation)),
        ("groups", Attribute::Count(conv.groups as u64)),
    ]
}

fn pool_attributes(pool: &Pool) -> List<'_> {
    smallvec![
        ("kernel", Attribute::List(&pool.kernel)),
        ("stride", Attribute::List(&pool.stride)),
        ("pad", Attribute::List(&pool.pad)),
    ]
}

/// The attributes of an operator in the order in which they are printed.
pub(super) fn attributes(op: &Op) -> List<'_> {
    use Attribute::{Count, Flag, Float, List as Dims, Name};
    match op {
        Op::Input { name } | Op::State { name } | Op::Store { name } | Op::Output { name } => {
            smallvec![("name", Name(name))]
        }
        Op::Parameter { name, frozen } => smallvec![("name", Name(name)), ("frozen", Flag(*frozen))],
        Op::Constant { value } => smallvec![("value", Float(*value))],
        Op::Scale { factor } => smallvec![("factor", Float(*factor))],
        Op::Dropout { p, site } => smallvec![("p", Float(*p)), ("site", Count(*site))],
        Op::Conv2d(conv) => conv_attributes(conv),
        Op::Conv2dGradInput { conv, input } => {
            let mut list = conv_attributes(conv);
            list.push(("input", Dims(input)));
            list
        }
        Op::Conv2dGradWeight { conv, kernel } => {
            let mut list = conv_attributes(conv);
            list.push(("kernel", Dims(kernel)));
            list
        }
        Op::MatMul { transpose_a, transpose_b } => {
            smallvec![("transpose_a", Flag(*transpose_a)), ("transpose_b", Flag(*transpose_b))]
        }
        Op::Normalize { eps, batch_stats } => {
            smallvec![("eps", Float(*eps)), ("batch_stats", Flag(*batch_stats))]
        }
        Op::NormalizeGradReduce { eps }
        | Op::NormalizeGradInput { eps }
        | Op::NormalizeGradFixed { eps }
        | Op::Standardize { eps }
        | Op::StandardizeGrad { eps }
        | Op::L2Normalize { eps }
        | Op::L2NormalizeGrad { eps } => smallvec![("eps", Float(*eps))],
        Op::Ema { momentum, scale } => smallvec![("momentum", Float(*momentum)), ("scale", Float(*scale))],
        Op::MaxPool(pool) | Op::MaxPoolGrad(pool) | Op::AvgPool(pool) => pool_attributes(pool),
        Op::AvgPoolGrad { pool, input } => {
            let mut list = pool_attributes(pool);
            list.push(("input", Dims(input)));
            list
        }
        Op::Reshape { shape } => smallvec![("shape", Dims(shape.dims()))],
        Op::Concat { axis } => smallvec![("axis", Count(*axis as u64))],
        Op::Slice { axis, start, len } => smallvec![
            ("axis", Count(*axis as u64)),
            ("start", Count(*start as u64)),
            ("len", Count(*len as u64)),
        ],
        Op::Pad { axis, start, total } => smallvec![
            ("axis", Count(*axis as u64)),
            ("start", Count(*start as u64)),
            ("total", Count(*total as u64)),
        ],
        Op::Reduce { axes, .. } => smallvec![("axes", Dims(axes))],
        Op::Broadcast { shape, axes, layout } => {
            smallvec![("shape", Dims(shape.dims())), ("axes", Dims(axes)), ("layout", Name(layout.as_str()))]
        }
        Op::ConvertLayout { layout } => smallvec![("layout", Name(layout.as_str()))],
        Op::Cast { dtype } => smallvec![("dtype", Name(dtype.as_str()))],
        Op::CrossEntropy { smoothing } | Op::CrossEntropyGrad { smoothing } => {
            smallvec![("smoothing", Float(*smoothing))]
        }
        Op::KlDivergence { temperature }
        | Op::KlGradTeacher { temperature }
        | Op::KlGradStudent { temperature } => smallvec![("temperature", Float(*temperature))],
        Op::SgdUpdate { momentum, nesterov, weight_decay } => smallvec![
            ("momentum", Float(*momentum)),
            ("nesterov", Flag(*nesterov)),
            ("weight_decay", Float(*weight_decay)),
        ],
        Op::AdamwUpdate { beta1, beta2, eps, weight_decay } => smallvec![
            ("beta1", Float(*beta1)),
            ("beta2", Float(*beta2)),
            ("eps", Float(*eps)),
            ("weight_decay", Float(*weight_decay)),
        ],
        Op::Unary { .. }
        | Op::UnaryGrad { .. }
        | Op::Binary { .. }
        | Op::BiasAdd
        | Op::StopGradient
        | Op::ChannelStats
        | Op::Softmax
        | Op::SoftmaxGrad
        | Op::LogSoftmax
        | Op::LogSoftmaxGrad
        | Op::MeanSquaredError
        | Op::MeanSquaredErrorGrad
        | Op::RelationDistance
        | Op::RelationDistanceGrad
        | Op::RelationAngle
        | Op::RelationAngleGrad => smallvec![],
        Op::Fused(group) => smallvec![("kind", Name(group.kind.as_str())), ("name", Name(&group.name))],
    }
}

fn conv(a: &mut Attributes<'_>) -> Result<Conv, Fault> {
    Ok(Conv {
        stride: a.pair("stride")?,
        pad: a.pair("pad")?,
        dilation: a.pair("dilation")?,
        groups: a.size("groups")?,
    })
}

fn pool(a: &mut Attributes<'_>) -> Result<Pool, Fault> {
    Ok(Pool { kernel: a.pair("kernel")?, stride: a.pair("stride")?, pad: a.pair("pad")? })
}

fn layout(a: &mut Attributes<'_>) -> Result<Layout, Fault> {
    a.one_of("layout", &[Layout::RowMajor, Layout::ChannelsLast].map(|l| (l.as_str(), l)))
}

/// The operator of that name with the attributes that were read; `None` where there is no such operator.
pub(super) fn operator(mnemonic: &str, a: &mut Attributes<'_>) -> Result<Option<Op>, Fault> {
    for kind in UnaryKind::ALL {
        for op in [Op::Unary { kind }, Op::UnaryGrad { kind }] {
            if op.mnemonic() == mnemonic {
                return Ok(Some(op));
            }
        }
    }
    Ok(Some(match mnemonic {
        "input" => Op::Input { name: a.name("name")? },
        "parameter" => Op::Parameter { name: a.name("name")?, frozen: a.flag("frozen")? },
        "state" => Op::State { name: a.name("name")? },
        "constant" => Op::Constant { value: a.float("value")? },
        "store" => Op::Store { name: a.name("name")? },
        "output" => Op::Output { name: a.name("name")? },
        "add" => Op::Binary { kind: BinaryKind::Add },
        "sub" => Op::Binary { kind: BinaryKind::Sub },
        "mul" => Op::Binary { kind: BinaryKind::Mul },
        "scale" => Op::Scale { factor: a.float("factor")? },
        "bias_add" => Op::BiasAdd,
        "dropout" => Op::Dropout { p: a.float("p")?, site: a.count("site")? },
        "stop_gradient" => Op::StopGradient,
        "conv2d" => Op::Conv2d(conv(a)?),
        "conv2d_grad_input" => Op::Conv2dGradInput { conv: conv(a)?, input: a.pair("input")? },
        "conv2d_grad_weight" => Op::Conv2dGradWeight { conv: conv(a)?, kernel: a.pair("kernel")? },
        "matmul" => Op::MatMul { transpose_a: a.flag("transpose_a")?, transpose_b: a.flag("transpose_b")? },
        "channel_stats" => Op::ChannelStats,
        "normalize" => Op::Normalize { eps: a.float("eps")?, batch_stats: a.flag("batch_stats")? },
        "normalize_grad_reduce" => Op::NormalizeGradReduce { eps: a.float("eps")? },
        "normalize_grad_input" => Op::NormalizeGradInput { eps: a.float("eps")? },
        "normalize_grad_fixed" => Op::NormalizeGradFixed { eps: a.float("eps")? },
        "ema" => Op::Ema { momentum: a.float("momentum")?, scale: a.float("scale")? },
        "max_pool" => Op::MaxPool(pool(a)?),
        "max_pool_grad" => Op::MaxPoolGrad(pool(a)?),
        "avg_pool" => Op::AvgPool(pool(a)?),
        "avg_pool_grad" => Op::AvgPoolGrad { pool: pool(a)?, input: a.pair("input")? },
        "reshape" => Op::Reshape { shape: Shape::from(a.list("shape")?.as_slice()) },
        "concat" => Op::Concat { axis: a.size("axis")? },
        "slice" => Op::Slice { axis: a.size("axis")?, start: a.size("start")?, len: a.size("len")? },
        "pad" => Op::Pad { axis: a.size("axis")?, start: a.size("start")?, total: a.size("total")? },
        "reduce_sum" => Op::Reduce { kind: ReduceKind::Sum, axes: a.list("axes")? },
        "reduce_mean" => Op::Reduce { kind: ReduceKind::Mean, axes: a.list("axes")? },
        "broadcast" => {
            let (shape, axes) = (Shape::from(a.list("shape")?.as_slice()), a.list("axes")?);
            Op::Broadcast { shape, axes, layout: layout(a)? }
        }
        "convert_layout" => Op::ConvertLayout { layout: layout(a)? },
        "cast" => Op::Cast { dtype: a.one_of("dtype", &[("f32", DType::F32), ("bf16", DType::Bf16)])? },
        "standardize" => Op::Standardize { eps: a.float("eps")? },
        "standardize_grad" => Op::StandardizeGrad { eps: a.float("eps")? },
        "l2_normalize" => Op::L2Normalize { eps: a.float("eps")? },
        "l2_normalize_grad" => Op::L2NormalizeGrad { eps: a.float("eps")? },
        "softmax" => Op::Softmax,
        "softmax_grad" => Op::SoftmaxGrad,
        "log_softmax" => Op::LogSoftmax,
        "log_softmax_grad" => Op::LogSoftmaxGrad,
        "cross_entropy" => Op::CrossEntropy { smoothing: a.float("smoothing")? },
        "cross_entropy_grad" => Op::CrossEntropyGrad { smoothing: a.float("smoothing")? },
        "kl_divergence" => Op::KlDivergence { temperature: a.float("temperature")? },
        "kl_grad_teacher" => Op::KlGradTeacher { temperature: a.float("temperature")? },
        "kl_grad_student" => Op::KlGradStudent { temperature: a.float("temperature")? },
        "mean_squared_error" => Op::MeanSquaredError,
        "mean_squared_error_grad" => Op::MeanSquaredErrorGrad,
        "relation_distance" => Op::RelationDistance,
        "relation_distance_grad" => Op::RelationDistanceGrad,
        "relation_angle" => Op::RelationAngle,
        "relation_angle_grad" => Op::RelationAngleGrad,
        "sgd_update" => Op::SgdUpdate {
            momentum: a.float("momentum")?,
            nesterov: a.flag("nesterov")?,
            weight_decay: a.float("weight_decay")?,
        },
        "adamw_update" => Op::AdamwUpdate {
            beta1: a.float("beta1")?,
            beta2: a.float("beta2")?,
            eps: a.float("eps")?,
            weight_decay: a.float("weight_decay")?,
        },
        _ => return Ok(None),
    }))
}
