//! The reference evaluator: every operator in f64 with plain loops. It is the oracle for gradients, passes and devices.

mod conv;
mod elementwise;
mod loss;
mod normalize;
mod operator;
mod pool;
mod relation;
mod sample;
mod shape;
mod update;

use crate::{Graph, IrError, NodeId, Op, Value, ValueType};
use indexmap::IndexMap;
use rustc_hash::FxHashMap;

pub use operator::{evaluate_op, to_bf16};

/// A value: its type and its elements in row-major order; i64 elements are exact integers.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// The type.
    pub ty: ValueType,
    /// As many elements as the type has.
    pub data: Vec<f64>,
}

impl Tensor {
    /// A tensor of one number.
    pub fn filled(ty: ValueType, value: f64) -> Tensor {
        let data = vec![value; ty.elements()];
        Tensor { ty, data }
    }

    /// An f32 scalar.
    pub fn scalar(value: f64) -> Tensor {
        Tensor { ty: ValueType::scalar(), data: vec![value] }
    }

    /// The extents.
    pub fn dims(&self) -> &[usize] {
        self.ty.dims()
    }
}

/// What a step leaves behind.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Evaluation {
    /// The outputs by name, in topological order.
    pub outputs: IndexMap<String, Tensor>,
    /// The new contents of parameters and states by name, in topological order.
    pub stores: IndexMap<String, Tensor>,
}

/// Runs one step; `feeds` holds every input, parameter and state of the graph by name (more do no harm).
///
/// # Errors
///
/// [`IrError::Feed`] where a feed is missing or of another type; [`IrError::Cycle`]; what [`evaluate_op`] gives.
pub fn evaluate(graph: &Graph, feeds: &IndexMap<String, Tensor>) -> Result<Evaluation, IrError> {
    run(graph, feeds, false).map(|(evaluation, _)| evaluation)
}

/// As [`evaluate`], and gives every value of the graph as well.
///
/// # Errors
///
/// As [`evaluate`].
pub fn evaluate_all(
    graph: &Graph,
    feeds: &IndexMap<String, Tensor>,
) -> Result<(Evaluation, FxHashMap<Value, Tensor>), IrError> {
    run(graph, feeds, true)
}

fn run(
    graph: &Graph,
    feeds: &IndexMap<String, Tensor>,
    keep: bool,
) -> Result<(Evaluation, FxHashMap<Value, Tensor>), IrError> {
    let order = graph.topological()?;
    let mut values: FxHashMap<Value, Tensor> = FxHashMap::default();
    let mut uses: FxHashMap<Value, usize> = FxHashMap::default();
    for &id in &order {
        for v in graph.operands(id) {
            *uses.entry(v).or_default() += 1;
        }
    }
    let mut evaluation = Evaluation::default();
    for &id in &order {
        let operands = graph.operands(id);
        match &graph.node(id).op {
            Op::Input { name } | Op::Parameter { name, .. } | Op::State { name } => {
                values.insert(Value { node: id, result: 0 }, feed(graph, id, name, feeds)?);
            }
            Op::Output { name } => {
                evaluation.outputs.insert(name.clone(), value(&values, operands[0], graph)?.clone());
            }
            Op::Store { name } => {
                evaluation.stores.insert(name.clone(), value(&values, operands[0], graph)?.clone());
            }
            op => {
                let taken =
                    operands.iter().map(|&v| value(&values, v, graph)).collect::<Result<Vec<_>, _>>()?;
                let results = evaluate_op(op, &taken, &graph.node(id).results)?;
                for (v, tensor) in graph.results(id).into_iter().zip(results) {
                    values.insert(v, tensor);
                }
            }
        }
        if !keep {
            for v in operands {
                if let Some(n) = uses.get_mut(&v) {
                    *n -= 1;
                    if *n == 0 {
                        values.remove(&v);
                    }
                }
            }
        }
    }
    Ok((evaluation, values))
}

fn value<'a>(values: &'a FxHashMap<Value, Tensor>, v: Value, graph: &Graph) -> Result<&'a Tensor, IrError> {
    values.get(&v).ok_or_else(|| IrError::Invalid {
        node: graph.op(v).mnemonic().to_string(),
        message: format!("has no result {}", v.result),
    })
}

fn feed(graph: &Graph, id: NodeId, name: &str, feeds: &IndexMap<String, Tensor>) -> Result<Tensor, IrError> {
    let fail = |message: String| Err(IrError::Feed { name: name.to_string(), message });
    let ty = &graph.node(id).results[0];
    match feeds.get(name) {
        None => fail(format!("a value of type {ty} is needed and was not given")),
        Some(t) if t.ty != *ty => fail(format!("is {ty}, not {}", t.ty)),
        Some(t) if t.data.len() != ty.elements() => {
            fail(format!("is {ty} and was given {} elements", t.data.len()))
        }
        Some(t) => Ok(t.clone()),
    }
}
