//! Removes what no sink needs.

use ddnnc_ir::{Graph, IrError, Op};
use rustc_hash::FxHashSet;

/// Removes every node, sources included, from which no path of values leads to an output or a store.
///
/// A parameter or state that is stored stays, read or not: the store needs a place of that type. An order edge keeps
/// nothing alive: it only says when something runs that is needed for its value.
pub fn dead_code(graph: &mut Graph) -> Result<(), IrError> {
    let order = graph.topological()?;
    let mut live = vec![false; graph.index_bound()];
    let mut stored: FxHashSet<&str> = FxHashSet::default();
    for &id in &order {
        if let Op::Store { name } = &graph.node(id).op {
            stored.insert(name);
        }
    }
    for &id in order.iter().rev() {
        let op = &graph.node(id).op;
        let place = match op {
            Op::Parameter { name, .. } | Op::State { name } => stored.contains(name.as_str()),
            _ => false,
        };
        if op.is_sink() || place {
            live[id.index()] = true;
        }
        if live[id.index()] {
            for value in graph.operands(id) {
                live[value.node.index()] = true;
            }
        }
    }
    for &id in order.iter().rev() {
        if !live[id.index()] {
            graph.remove(id);
        }
    }
    Ok(())
}
