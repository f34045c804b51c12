//! The rules of a graph. A graph that obeys them can be planned and run without a panic.
//!
//! 1. The graph is acyclic, and every operand is a result that its operator has.
//! 2. The result types of every operator but the sources are those that inference gives; a source has one result.
//! 3. One node per name: no two inputs, parameters or states of one name (nor a parameter and a state), no two outputs
//!    of one name, no two stores of one name.
//! 4. A store's name is that of a parameter or state of the same type; it is not a frozen parameter.
//! 5. An old content is read before it is overwritten. Let the writer of a store be the first operator of the chain of
//!    updates (`sgd_update`, `adamw_update`, `ema`, through the operand whose memory they take over) from the old
//!    content to the stored value, or the store itself where there is no such chain. Every other operator that reads the
//!    old content, also through `reshape` and `stop_gradient`, has a path (data or order) to the writer.
//! 6. The mean and variance of a `normalize` with `batch_stats` are results 0 and 1 of the `channel_stats` of its own x
//!    (also of one in a fused group; inside groups nothing asks for it any more).
//! 7. Attributes have sane values: numbers are finite; eps > 0; p, smoothing, momentum of SGD and the betas of AdamW in
//!    [0, 1); momentum of an average in [0, 1]; decay ≥ 0; temperature > 0; Nesterov only with momentum.
//! 8. Outputs named `loss.…` are f32 scalars.
//! 9. Inputs, parameters and states are row-major, of f32; inputs also of i64. Constants are of any type.

use crate::optimizer::{closure, persistent, readers, update_of};
use crate::text::describe;
use crate::{DType, Graph, Group, IrError, Layout, Local, NodeId, Op, Value, ValueType, infer};
use rustc_hash::{FxHashMap, FxHashSet};
use smallvec::SmallVec;

/// Checks the rules above.
///
/// # Errors
///
/// [`IrError::Cycle`], or [`IrError::Invalid`] with the first operator in topological order that breaks a rule of one
/// operator, else with the first store that breaks rule 4 or 5.
pub fn verify(graph: &Graph) -> Result<(), IrError> {
    check(graph).map_err(|broken| broken.error)
}

/// A rule that is broken, and the operator that breaks it, where it is one.
pub(crate) struct Broken {
    pub(crate) node: Option<NodeId>,
    pub(crate) error: IrError,
}

impl From<IrError> for Broken {
    fn from(error: IrError) -> Broken {
        Broken { node: None, error }
    }
}

/// As [`verify`], which says what it finds in words alone.
pub(crate) fn check(graph: &Graph) -> Result<(), Broken> {
    let order = graph.topological()?;
    let mut names: FxHashSet<(Space, &str)> = FxHashSet::default();
    for &id in &order {
        types(graph, id)?;
        if let Some(named) = name(&graph.node(id).op)
            && !names.insert(named)
        {
            return invalid(graph, id, format!("the name `{}` is taken by another operator", named.1));
        }
        if let Some(message) = attribute_fault(&graph.node(id).op) {
            return invalid(graph, id, message);
        }
        match &graph.node(id).op {
            Op::Normalize { batch_stats: true, .. } => batch_statistics(graph, id)?,
            Op::Output { name } if name.starts_with("loss.") => {
                let ty = graph.ty(graph.operands(id)[0]);
                if *ty != ValueType::scalar() {
                    return invalid(graph, id, format!("a loss is an f32 scalar, not {ty}"));
                }
            }
            Op::Input { .. } | Op::Parameter { .. } | Op::State { .. } => fed(graph, id)?,
            // The other rules are those of every operator, or of its attributes.
            _ => {}
        }
    }
    stores(graph, &order)
}

fn invalid<T>(graph: &Graph, id: NodeId, message: impl Into<String>) -> Result<T, Broken> {
    let error = IrError::Invalid { node: describe(graph.node(id)), message: message.into() };
    Err(Broken { node: Some(id), error })
}

/// Names of one space are unique.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Space {
    Input,
    Persistent,
    Store,
    Output,
}

/// The name of an operator; only sources and sinks have one.
fn name(op: &Op) -> Option<(Space, &str)> {
    match op {
        Op::Input { name } => Some((Space::Input, name)),
        Op::Parameter { name, .. } | Op::State { name } => Some((Space::Persistent, name)),
        Op::Store { name } => Some((Space::Store, name)),
        Op::Output { name } => Some((Space::Output, name)),
        _ => None,
    }
}

/// Rules 1 and 2.
fn types(graph: &Graph, id: NodeId) -> Result<(), Broken> {
    let node = graph.node(id);
    let operands = graph.operands(id);
    if operands.iter().any(|v| v.result as usize >= graph.node(v.node).results.len()) {
        return invalid(graph, id, "an operand is a result that its operator does not have");
    }
    if node.op.is_source() {
        let well = operands.is_empty() && node.results.len() == 1;
        return if well { Ok(()) } else { invalid(graph, id, "a source has no operands and one result") };
    }
    let types: SmallVec<[&ValueType; 8]> = operands.iter().map(|&v| graph.ty(v)).collect();
    match infer::result_types(&node.op, &types) {
        Ok(inferred) if inferred == node.results => Ok(()),
        Ok(inferred) => {
            let list =
                |types: &[ValueType]| types.iter().map(ValueType::to_string).collect::<Vec<_>>().join(", ");
            let message = format!("results are {}, and should be {}", list(&node.results), list(&inferred));
            invalid(graph, id, message)
        }
        Err(e) => invalid(graph, id, e.to_string()),
    }
}

/// Rule 9.
fn fed(graph: &Graph, id: NodeId) -> Result<(), Broken> {
    let node = graph.node(id);
    let ty = &node.results[0];
    let integers = ty.dtype == DType::I64 && matches!(node.op, Op::Input { .. });
    if ty.layout == Layout::RowMajor && (ty.dtype == DType::F32 || integers) {
        return Ok(());
    }
    let also = if matches!(node.op, Op::Input { .. }) { " or i64" } else { "" };
    invalid(graph, id, format!("is row-major and of f32{also}, not {ty}"))
}

/// Rule 6.
fn batch_statistics(graph: &Graph, id: NodeId) -> Result<(), Broken> {
    let v = graph.operands(id);
    let stats = v[1].node;
    if let Op::Fused(group) = &graph.node(stats).op {
        let local =
            |v: Value| (v.node == stats).then(|| group.results.get(v.result as usize).copied()).flatten();
        if fused_statistics(group, local(v[1]), local(v[2]), local(v[0]), &|x| {
            graph.operands(stats).get(x).copied() == Some(v[0])
        }) {
            return Ok(());
        }
    }
    let of_this = matches!(graph.node(stats).op, Op::ChannelStats)
        && graph.operands(stats)[0] == v[0]
        && v[1] == (Value { node: stats, result: 0 })
        && v[2] == (Value { node: stats, result: 1 });
    if of_this {
        return Ok(());
    }
    invalid(graph, id, "mean and variance are not the channel_stats of the value that is normalised")
}

/// Whether two values of a group are mean and variance of x, which is a value of the group or one of its operands.
fn fused_statistics(
    group: &Group,
    mean: Option<Local>,
    variance: Option<Local>,
    x: Option<Local>,
    is_x: &dyn Fn(usize) -> bool,
) -> bool {
    let (Some(Local::Step { step, result: 0 }), Some(Local::Step { step: other, result: 1 })) =
        (mean, variance)
    else {
        return false;
    };
    let Some(stats) = group.steps.get(step as usize).filter(|_| step == other) else { return false };
    matches!(stats.op, Op::ChannelStats)
        && match stats.operands[0] {
            Local::Operand(i) => is_x(i as usize),
            of => x == Some(of),
        }
}

/// Rules 4 and 5.
fn stores(graph: &Graph, order: &[NodeId]) -> Result<(), Broken> {
    let persistent: FxHashMap<&str, Value> = persistent(graph).into_iter().collect();
    for &id in order {
        let Op::Store { name } = &graph.node(id).op else { continue };
        let Some(&old) = persistent.get(name.as_str()) else {
            return invalid(graph, id, format!("there is no parameter or state `{name}`"));
        };
        if matches!(graph.op(old), Op::Parameter { frozen: true, .. }) {
            return invalid(graph, id, format!("the parameter `{name}` is frozen"));
        }
        let stored = graph.operands(id)[0];
        if graph.ty(stored) != graph.ty(old) {
            return invalid(graph, id, format!("`{name}` is {}, not {}", graph.ty(old), graph.ty(stored)));
        }
        let writer = update_of(graph, stored, old).unwrap_or(id);
        let near = graph.predecessors(writer);
        let mut far: Option<FxHashSet<NodeId>> = None;
        for reader in readers(graph, old) {
            if reader == writer || near.binary_search(&reader).is_ok() {
                continue;
            }
            let before = far.get_or_insert_with(|| closure(writer, |id| graph.predecessors(id)));
            if !before.contains(&reader) {
                let message = format!(
                    "reads `{name}`, and nothing makes it run before {}",
                    describe(graph.node(writer))
                );
                return invalid(graph, reader, message);
            }
        }
    }
    Ok(())
}

/// Rule 7: what is wrong with an operator's attributes, where something is. What inference refuses is not here.
fn attribute_fault(op: &Op) -> Option<String> {
    let check = |name: &str, value: f64, well: bool, range: &str| {
        (!well || !value.is_finite()).then(|| format!("{name} is {value}, and must be {range}"))
    };
    let finite = |name: &str, value: f64| check(name, value, true, "finite");
    let positive = |name: &str, value: f64| check(name, value, value > 0.0, "greater than 0");
    let fraction = |name: &str, value: f64| check(name, value, (0.0..1.0).contains(&value), "in [0, 1)");
    let not_negative = |name: &str, value: f64| check(name, value, value >= 0.0, "at least 0");
    if let Op::Fused(group) = op {
        return group.steps.iter().find_map(|step| attribute_fault(&step.op));
    }
    match *op {
        Op::Constant { value } => finite("value", value),
        Op::Scale { factor } => finite("factor", factor),
        Op::Dropout { p, .. } => fraction("p", p),
        Op::Normalize { eps, .. }
        | Op::NormalizeGradReduce { eps }
        | Op::NormalizeGradInput { eps }
        | Op::NormalizeGradFixed { eps }
        | Op::Standardize { eps }
        | Op::StandardizeGrad { eps }
        | Op::L2Normalize { eps }
        | Op::L2NormalizeGrad { eps } => positive("eps", eps),
        Op::Ema { momentum, scale } => {
            check("momentum", momentum, (0.0..=1.0).contains(&momentum), "in [0, 1]")
                .or(finite("scale", scale))
        }
        Op::CrossEntropy { smoothing } | Op::CrossEntropyGrad { smoothing } => {
            fraction("smoothing", smoothing)
        }
        Op::KlDivergence { temperature }
        | Op::KlGradTeacher { temperature }
        | Op::KlGradStudent { temperature } => positive("temperature", temperature),
        Op::SgdUpdate { momentum, nesterov, weight_decay } => fraction("momentum", momentum)
            .or(not_negative("weight_decay", weight_decay))
            .or((nesterov && momentum == 0.0).then(|| "nesterov needs a momentum".to_string())),
        Op::AdamwUpdate { beta1, beta2, eps, weight_decay } => fraction("beta1", beta1)
            .or(fraction("beta2", beta2))
            .or(positive("eps", eps))
            .or(not_negative("weight_decay", weight_decay)),
        Op::Input { .. }
        | Op::Parameter { .. }
        | Op::State { .. }
        | Op::Store { .. }
        | Op::Output { .. }
        | Op::Unary { .. }
        | Op::UnaryGrad { .. }
        | Op::Binary { .. }
        | Op::BiasAdd
        | Op::StopGradient
        | Op::Conv2d(_)
        | Op::Conv2dGradInput { .. }
        | Op::Conv2dGradWeight { .. }
        | Op::MatMul { .. }
        | Op::ChannelStats
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
        | Op::Softmax
        | Op::SoftmaxGrad
        | Op::LogSoftmax
        | Op::LogSoftmaxGrad
        | Op::MeanSquaredError
        | Op::MeanSquaredErrorGrad
        | Op::RelationDistance
        | Op::RelationDistanceGrad
        | Op::RelationAngle
        | Op::RelationAngleGrad
        | Op::Fused(_) => None,
    }
}
