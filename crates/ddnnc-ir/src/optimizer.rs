//! The optimizer's update as part of the graph, and the order that lets updates work in place.

use crate::group::updated_operand;
use crate::{Graph, IrError, NodeId, Op, Optimizer, Origin, Value, ValueType};
use indexmap::IndexMap;
use rustc_hash::{FxHashMap, FxHashSet};
use smallvec::SmallVec;
use std::collections::BTreeMap;

/// Appends the update of every parameter in `gradients` (by public name, as `differentiate` gives them).
///
/// Adds the input `lr` f32 \[\], for AdamW the input `optimizer.step` f32 \[\] (from 1), the states
/// `momentum.<parameter>` or `adamw.m.<parameter>` and `adamw.v.<parameter>` (zeros before the first step), the update
/// operators, the stores, and the order edges of [`order_stores`]. SGD without momentum has no buffer.
///
/// # Errors
///
/// [`IrError::Feed`] where a gradient names no parameter or a frozen one; [`IrError::Type`] where shapes differ.
pub fn append_optimizer(
    graph: &mut Graph,
    gradients: &IndexMap<String, Value>,
    optimizer: &Optimizer,
) -> Result<(), IrError> {
    let mut parameters: FxHashMap<String, Value> = FxHashMap::default();
    for id in graph.nodes() {
        if let Op::Parameter { name, frozen: false } = &graph.node(id).op {
            parameters.insert(name.clone(), Value { node: id, result: 0 });
        }
    }
    if gradients.is_empty() {
        order_stores(graph);
        return Ok(());
    }
    let lr = input(graph, "lr")?;
    let step = match optimizer {
        Optimizer::Sgd { .. } => None,
        Optimizer::Adamw { .. } => Some(input(graph, "optimizer.step")?),
    };
    for (name, &gradient) in gradients {
        let Some(&parameter) = parameters.get(name) else {
            return Err(IrError::Feed {
                name: name.clone(),
                message: "has a gradient and is no trained parameter of the graph".to_string(),
            });
        };
        let origin = graph.node(parameter.node).origin.clone();
        let mut operands: SmallVec<[Value; 6]> = SmallVec::from_slice(&[parameter, gradient]);
        let (op, buffers): (Op, &[&str]) = match *optimizer {
            Optimizer::Sgd { momentum, nesterov, weight_decay, .. } => {
                let buffers: &[&str] = if momentum == 0.0 { &[] } else { &["momentum"] };
                (Op::SgdUpdate { momentum, nesterov, weight_decay }, buffers)
            }
            Optimizer::Adamw { beta1, beta2, eps, weight_decay, .. } => {
                (Op::AdamwUpdate { beta1, beta2, eps, weight_decay }, &["adamw.m", "adamw.v"])
            }
        };
        let mut stored = vec![name.clone()];
        for buffer in buffers {
            let name = format!("{buffer}.{name}");
            let ty = graph.ty(parameter).clone();
            operands.push(graph.add_source(Op::State { name: name.clone() }, ty, origin.clone())?);
            stored.push(name);
        }
        operands.push(lr);
        operands.extend(step);
        let update = graph.add(op, &operands, origin.clone())?;
        for (name, value) in stored.into_iter().zip(graph.results(update)) {
            graph.add(Op::Store { name }, &[value], origin.clone())?;
        }
    }
    order_stores(graph);
    Ok(())
}

/// The scalar input of that name, added where it is not there yet.
fn input(graph: &mut Graph, name: &str) -> Result<Value, IrError> {
    let op = Op::Input { name: name.to_string() };
    match graph.find(&op) {
        Some(node) => Ok(Value { node, result: 0 }),
        None => graph.add_source(op, ValueType::scalar(), Origin::default()),
    }
}

/// The first update in the chain of updates that leads from the old content to the stored value.
///
/// `None` where the stored value is no such chain: the store then copies.
pub(crate) fn update_of(graph: &Graph, stored: Value, old: Value) -> Option<NodeId> {
    let mut at = stored;
    loop {
        let operand = updated_operand(graph.op(at), usize::from(at.result))?;
        let from = graph.operands(at.node).get(operand).copied()?;
        if from == old {
            return Some(at.node);
        }
        at = from;
    }
}

/// The operators that read a value's memory: its users, and those of its other names ([`Op::is_alias`]).
/// In a deterministic order, without repetition.
pub(crate) fn readers(graph: &Graph, value: Value) -> Vec<NodeId> {
    let mut found = Vec::new();
    let mut names = vec![value];
    while let Some(name) = names.pop() {
        for (user, _) in graph.users(name) {
            if graph.node(user).op.is_alias() {
                names.extend(graph.results(user));
            } else {
                found.push(user);
            }
        }
    }
    found.sort_unstable();
    found.dedup();
    found
}

/// Parameters and states by name.
pub(crate) fn persistent(graph: &Graph) -> BTreeMap<&str, Value> {
    let named = |id: NodeId| match &graph.node(id).op {
        Op::Parameter { name, .. } | Op::State { name } => {
            Some((name.as_str(), Value { node: id, result: 0 }))
        }
        _ => None,
    };
    graph.nodes().filter_map(named).collect()
}

/// Adds the order edges that let each store's update work in place.
///
/// For every store whose value is made from the old content by updates (`sgd_update`, `adamw_update`, `ema`), each
/// other reader of the old content comes before the first of those updates; for every other store, before the store. A
/// reader that itself needs the new content cannot, nor can two updates that read each other's old content: no edge is
/// added there, so that no cycle comes of it, and the verifier refuses the graph.
pub fn order_stores(graph: &mut Graph) {
    let old = persistent(graph);
    let mut stores: Vec<(NodeId, Value)> = Vec::new();
    for id in graph.nodes() {
        if let Op::Store { name } = &graph.node(id).op
            && let Some(&old) = old.get(name.as_str())
        {
            stores.push((id, old));
        }
    }
    for (store, old) in stores {
        let Some(&stored) = graph.operands(store).first() else { continue };
        let writer = update_of(graph, stored, old).unwrap_or(store);
        let before = graph.predecessors(writer);
        let later = closure(writer, |id| graph.successors(id));
        let missing = |r: &NodeId| !later.contains(r) && before.binary_search(r).is_err();
        let readers: Vec<NodeId> = readers(graph, old).into_iter().filter(missing).collect();
        for reader in readers {
            graph.add_order(reader, writer);
        }
    }
}

/// A node and all that `next` leads to from it.
pub(crate) fn closure(from: NodeId, next: impl Fn(NodeId) -> Vec<NodeId>) -> FxHashSet<NodeId> {
    let mut found = FxHashSet::from_iter([from]);
    let mut open = vec![from];
    while let Some(id) = open.pop() {
        open.extend(next(id).into_iter().filter(|&id| found.insert(id)));
    }
    found
}
