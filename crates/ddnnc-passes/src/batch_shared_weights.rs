//! Sub-nets that use one weight on different values run in one launch.

use crate::clusters::Clusters;
use ddnnc_ir::{BinaryKind, Graph, IrError, NodeId, Op, Value, ValueType};
use rustc_hash::FxHashMap;
use std::sync::Arc;

/// Makes one fused group of the operators in which sub-nets do the same with one weight, each on a value of its own:
/// convolutions and their input gradients, part by part; their weight gradients and the sum of them, which is then one
/// result. Pooling and products of the sub-nets at one place of the network go along.
///
/// What runs together must not need one another, not even through operators in between: groups that would are left
/// apart.
pub fn batch_shared_weights(graph: &mut Graph) -> Result<(), IrError> {
    let mut clusters = Clusters::expand(graph)?;
    let mut changed = false;
    let mut groups: FxHashMap<Key, Vec<Open>> = FxHashMap::default();
    for id in clusters.graph.nodes().collect::<Vec<_>>() {
        let Some(key) = key(&clusters.graph, id) else { continue };
        let nets = &clusters.graph.node(id).origin.nets;
        let open = groups.entry(key).or_default();
        // A net's second use of a weight goes to the second group.
        match open.iter_mut().find(|o| nets.iter().all(|n| !o.nets.contains(n)) && !nets.is_empty()) {
            Some(group) => {
                group.nets.extend(nets.iter().cloned());
                let cluster = group.cluster;
                changed |= clusters.cluster(id) != cluster;
                clusters.of[id.index()] = cluster;
            }
            None => open.push(Open { cluster: clusters.cluster(id), nets: nets.to_vec() }),
        }
    }
    if !changed {
        return Ok(());
    }
    clusters.dissolve_circles();
    absorb_sums(&mut clusters);
    clusters.dissolve_circles();
    *graph = clusters.build()?;
    Ok(())
}

/// A group that may still take members.
struct Open {
    cluster: usize,
    nets: Vec<Arc<str>>,
}

/// What operators of one launch have in common. Where they stand in the network is only a hint: any operators with
/// equal keys may run together.
#[derive(PartialEq, Eq, Hash)]
struct Key {
    op: String,
    path: Arc<str>,
    results: Vec<ValueType>,
    weight: Option<Value>,
}

fn key(graph: &Graph, id: NodeId) -> Option<Key> {
    let node = graph.node(id);
    let weight = match node.op {
        Op::Conv2d(_) | Op::Conv2dGradInput { .. } => graph.operands(id).get(1).copied(),
        Op::Conv2dGradWeight { .. }
        | Op::MatMul { .. }
        | Op::MaxPool(_)
        | Op::MaxPoolGrad(_)
        | Op::AvgPool(_)
        | Op::AvgPoolGrad { .. } => None,
        Op::Reduce { ref axes, .. } if axes.as_slice() == [2, 3] => None,
        // All others join a launch in `fuse`, or run for each net by itself.
        _ => return None,
    };
    Some(Key {
        op: format!("{:?}", node.op),
        path: node.origin.path.clone(),
        results: node.results.to_vec(),
        weight,
    })
}

/// Takes into a group of weight gradients the additions that sum them.
fn absorb_sums(clusters: &mut Clusters) {
    let graph = &clusters.graph;
    let mut sizes: FxHashMap<usize, usize> = FxHashMap::default();
    for id in graph.nodes() {
        *sizes.entry(clusters.of[id.index()]).or_default() += 1;
    }
    for id in graph.nodes() {
        if !matches!(graph.node(id).op, Op::Binary { kind: BinaryKind::Add }) {
            continue;
        }
        let operands = graph.operands(id);
        let cluster = clusters.of[operands[0].node.index()];
        let of_gradients = operands.iter().all(|v| {
            let op = graph.op(*v);
            let sums = matches!(op, Op::Conv2dGradWeight { .. } | Op::Binary { kind: BinaryKind::Add });
            sums && clusters.of[v.node.index()] == cluster && graph.users(*v).len() == 1
        });
        let is_group = sizes.get(&cluster).is_some_and(|&n| n > 1);
        if of_gradients && is_group && graph.order_predecessors(id).is_empty() {
            clusters.of[id.index()] = cluster;
        }
    }
}
