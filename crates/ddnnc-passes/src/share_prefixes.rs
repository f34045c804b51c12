//! Computes once what several sub-nets compute alike: value numbering.

use ddnnc_ir::{Graph, IrError, NodeId, Op, Value};
use rustc_hash::FxHashMap;
use smallvec::SmallVec;

/// What two nodes have in common before their operators are compared in full.
#[derive(PartialEq, Eq, Hash)]
struct Key {
    mnemonic: &'static str,
    name: Option<Box<str>>,
    number: Option<u64>,
    operands: SmallVec<[Value; 4]>,
    after: Vec<NodeId>,
}

/// Makes operators that are equal and have equal operands one, from the sources on.
///
/// Sub-nets are lowered each on its own, so their common stem and first blocks stand in the graph once per sub-net;
/// after this pass they stand there once, serving all of them (the origins are merged). Before differentiation this
/// makes the common backward pass one as well; after it, the pass is common-subexpression elimination. Sources and
/// sinks of one name and operand become one too. A node with order edges into it is merged only with one that waits
/// for the same nodes; order edges out of a merged node move to the one that stays.
pub fn share_prefixes(graph: &mut Graph) -> Result<(), IrError> {
    let order = graph.topological()?;
    let mut waiting_for: FxHashMap<NodeId, Vec<NodeId>> = FxHashMap::default();
    for &id in &order {
        for before in graph.order_predecessors(id) {
            waiting_for.entry(before).or_default().push(id);
        }
    }
    let mut known: FxHashMap<Key, SmallVec<[NodeId; 1]>> = FxHashMap::default();
    for id in order {
        let node = graph.node(id);
        let key = Key {
            mnemonic: node.op.mnemonic(),
            name: name_of(&node.op).map(Box::from),
            number: number_of(&node.op),
            operands: graph.operands(id),
            after: graph.order_predecessors(id),
        };
        let candidates = known.entry(key).or_default();
        let same = candidates.iter().copied().find(|&other| {
            let other = graph.node(other);
            equal(&other.op, &node.op) && other.results == node.results
        });
        let Some(kept) = same else {
            candidates.push(id);
            continue;
        };
        let origin = node.origin.clone();
        graph.node_mut(kept).origin.merge(&origin);
        for (mine, theirs) in graph.results(id).into_iter().zip(graph.results(kept)) {
            graph.replace_uses(mine, theirs);
        }
        if let Some(later) = waiting_for.remove(&id) {
            for &after in &later {
                graph.add_order(kept, after);
            }
            waiting_for.entry(kept).or_default().extend(later);
        }
        graph.remove(id);
    }
    Ok(())
}

/// The name that sources and sinks carry. As the number below it only keeps candidates few: what is equal is decided by
/// [`equal`], on all attributes.
fn name_of(op: &Op) -> Option<&str> {
    match op {
        Op::Input { name }
        | Op::Parameter { name, .. }
        | Op::State { name }
        | Op::Store { name }
        | Op::Output { name } => Some(name),
        _ => None,
    }
}

/// The bits of a number that becomes a value: many constants stand in one graph.
fn number_of(op: &Op) -> Option<u64> {
    match op {
        Op::Constant { value } | Op::Scale { factor: value } => Some(value.to_bits()),
        _ => None,
    }
}

/// Equality of operators, with 0 and −0 told apart where the number becomes a value.
fn equal(a: &Op, b: &Op) -> bool {
    match (a, b) {
        (Op::Constant { value: a }, Op::Constant { value: b })
        | (Op::Scale { factor: a }, Op::Scale { factor: b }) => a.to_bits() == b.to_bits(),
        _ => a == b,
    }
}
