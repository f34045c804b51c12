//! Operators that follow from one another, or work on the same values, run in one launch.
//!
//! The graph is looked at as single operators in clusters ([`Clusters`]); groups that are there already are clusters
//! from the start. Every cluster has a position, that of the operator it began with in a topological order, and an
//! operator joins a cluster only if all else it needs has a smaller position: so no circle can come of it.

use crate::cheap_part::is_cheap;
use crate::clusters::Clusters;
use ddnnc_ir::{
    Graph, IrError, Layout, NodeId, Op, Value, ValueType, is_convolution, is_pointwise, is_reduction,
    is_update, is_vector_step,
};
use rustc_hash::FxHashMap;
use smallvec::SmallVec;

/// The longest chain of cheap operators that is computed again in every launch that reads its end.
const LONGEST_CHAIN: usize = 8;

/// How many clusters at one place of the network are tried as neighbours.
const NEIGHBOURS: usize = 8;

/// Fuses:
/// - cheap elementwise chains on one large value that is kept anyway (normalise and ReLU of a convolution's result) into
///   every launch that reads them, as its prologue: reading them again costs no more than reading what they give;
/// - elementwise operators and reductions behind a convolution into it, as its epilogue (batch statistics; residual
///   additions, ReLU gradients and the sums of batch norm's backward pass behind an input gradient);
/// - elementwise chains with their reductions into one group, chains of the same operands or of sub-nets at one place
///   of the network side by side;
/// - small operators (losses, softmax, products of scalars) that wait for the same launches into one sequence;
/// - all updates into one group, or a few where a group cannot hold so many operands.
///
/// Launches that have become one stand at another place of the order, and others may now join them: it goes over the
/// graph until nothing more is found.
pub fn fuse(graph: &mut Graph) -> Result<(), IrError> {
    for _ in 0..MOST_ROUNDS {
        let before = graph.len();
        let mut fuse = Fuse::new(Clusters::expand(graph)?);
        fuse.find_free();
        fuse.grow();
        fuse.join_updates();
        fuse.join_small();
        *graph = fuse.clusters.build()?;
        if graph.len() >= before {
            break;
        }
    }
    Ok(())
}

/// Rounds over the graph at most; two are the rule.
const MOST_ROUNDS: usize = 8;

struct Fuse {
    clusters: Clusters,
    /// Position of a cluster.
    position: Vec<usize>,
    /// What may join a cluster.
    kind: Vec<Kind>,
    /// The one large value that a free node is computed from; `None` for one that needs none.
    leaf: Vec<Option<Value>>,
    /// Length of the chain of free nodes that ends in a node.
    chain: Vec<usize>,
    /// The convolution whose rows an epilogue's node works on, by node.
    part: Vec<Option<NodeId>>,
    /// Latest position of what a free node needs.
    free_ready: Vec<usize>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Convolution,
    Pointwise,
    Other,
}

/// Operands and results of one group, counted for each of its operators.
const MOST_VALUES: usize = u16::MAX as usize;

/// Operands and results of an operator.
fn values_of(graph: &Graph, id: NodeId) -> usize {
    graph.operands(id).len() + graph.node(id).results.len()
}

/// Whether a value is large: a map, not a vector, a row or a scalar.
fn is_large(ty: &ValueType) -> bool {
    ty.shape.rank() == 4
}

/// Whether an operator repeats a smaller value over a map whose channels are not innermost, as behind a reshape: groups go
/// by rows and channels, so that is a launch of its own.
fn repeats_row_major(op: &Op, result: &ValueType) -> bool {
    let smaller = matches!(op, Op::Broadcast { axes, .. } if !axes.is_empty() && axes.len() < 4);
    smaller && is_large(result) && result.layout == Layout::RowMajor
}

fn types<'g>(graph: &'g Graph, operands: &[Value]) -> SmallVec<[&'g ValueType; 8]> {
    operands.iter().map(|&v| graph.ty(v)).collect()
}

/// How many nodes use a value.
fn distinct(users: &[(NodeId, u16)]) -> usize {
    let mut nodes: Vec<NodeId> = users.iter().map(|(user, _)| *user).collect();
    nodes.dedup();
    nodes.len()
}

/// Whether operand `operand` of the operator can be computed as it is read.
fn takes_prologue(graph: &Graph, id: NodeId, operand: usize) -> bool {
    let op = &graph.node(id).op;
    let operands = graph.operands(id);
    if !is_large(graph.ty(operands[operand])) {
        return false;
    }
    match op {
        Op::Conv2d(_) | Op::Conv2dGradInput { .. } => operand == 0,
        Op::Conv2dGradWeight { .. } => true,
        op => is_pointwise(op) || is_reduction(op, &types(graph, &operands)),
    }
}

impl Fuse {
    fn new(clusters: Clusters) -> Fuse {
        let bound = clusters.graph.index_bound();
        let mut fuse = Fuse {
            position: (0..clusters.count).collect(),
            kind: vec![Kind::Other; clusters.count],
            leaf: vec![None; bound],
            chain: vec![0; bound],
            part: vec![None; bound],
            free_ready: vec![0; bound],
            clusters,
        };
        let graph = &fuse.clusters.graph;
        for id in graph.nodes() {
            let op = &graph.node(id).op;
            let kind = &mut fuse.kind[fuse.clusters.of[id.index()]];
            if is_convolution(op) {
                *kind = Kind::Convolution;
                fuse.part[id.index()] = Some(id);
            }
        }
        fuse
    }

    /// Finds the values that every reader computes for itself.
    fn find_free(&mut self) {
        let graph = &self.clusters.graph;
        let order: Vec<NodeId> = graph.nodes().collect();
        // Forward: what could be free, from what it is computed.
        let mut could = vec![false; graph.index_bound()];
        for &id in &order {
            let node = graph.node(id);
            let constant = matches!(node.op, Op::Constant { .. });
            let one_large = node.results.len() == 1 && is_large(&node.results[0]);
            if !one_large
                || !(constant || is_cheap(&node.op))
                || repeats_row_major(&node.op, &node.results[0])
            {
                continue;
            }
            let mut leaf: Option<Value> = None;
            let (mut length, mut single) = (1, true);
            for v in graph.operands(id) {
                let through = could[v.node.index()];
                let of = if through {
                    length = length.max(self.chain[v.node.index()] + 1);
                    self.leaf[v.node.index()]
                } else if is_large(graph.ty(v)) {
                    Some(v)
                } else {
                    None
                };
                if let Some(of) = of {
                    single &= leaf.is_none_or(|l| l == of);
                    leaf = Some(of);
                }
            }
            let kept = leaf.is_none_or(|l| {
                // What is computed from a value that nothing else reads had better follow it at once.
                graph.op(l).is_source() || graph.users(l).len() > 1
            });
            if single && kept && length <= LONGEST_CHAIN {
                could[id.index()] = true;
                self.leaf[id.index()] = leaf;
                self.chain[id.index()] = length;
            }
        }
        // Backward: all readers must be able to compute it, and must run before what has to wait for it.
        let mut last_reader = vec![0usize; graph.index_bound()];
        let mut waits: Vec<Vec<NodeId>> = vec![Vec::new(); graph.index_bound()];
        for &id in &order {
            for before in graph.order_predecessors(id) {
                waits[before.index()].push(id);
            }
        }
        for &id in order.iter().rev() {
            if !could[id.index()] {
                continue;
            }
            let value = Value { node: id, result: 0 };
            let users = graph.users(value);
            let all = users.iter().all(|&(user, operand)| takes_prologue(graph, user, operand as usize));
            let reads = |user: NodeId| {
                let i = user.index();
                if self.clusters.free[i] { last_reader[i] } else { self.position[self.clusters.of[i]] }
            };
            let last = users.iter().map(|&(user, _)| reads(user)).max().unwrap_or(0);
            let waits = waits[id.index()].iter();
            let in_time = waits.map(|s| self.position[self.clusters.of[s.index()]]).all(|p| p > last);
            last_reader[id.index()] = last;
            self.clusters.free[id.index()] = all && in_time && !users.is_empty();
        }
        // A chain whose middle is not free ends there.
        for &id in &order {
            if self.clusters.free[id.index()] {
                let through = |v: &Value| {
                    let i = v.node.index();
                    self.clusters.free[i] || !is_large(graph.ty(*v)) || Some(*v) == self.leaf[id.index()]
                };
                let whole = graph.operands(id).iter().all(through);
                self.clusters.free[id.index()] = whole || self.new_leaf(id);
            }
        }
    }

    /// Settles a free node whose chain was cut: it stays free where it now reads one large value.
    fn new_leaf(&self, id: NodeId) -> bool {
        let graph = &self.clusters.graph;
        let mut large = graph
            .operands(id)
            .into_iter()
            .filter(|v| is_large(graph.ty(*v)) && !self.clusters.free[v.node.index()]);
        let first = large.next();
        first.is_none_or(|l| large.all(|v| v == l) && graph.users(l).len() > 1)
            && graph.operands(id).iter().all(|v| !self.clusters.free[v.node.index()] || first.is_none())
    }

    /// Lets elementwise operators and reductions join the launches before them, in topological order.
    fn grow(&mut self) {
        let order: Vec<NodeId> = self.clusters.graph.nodes().collect();
        let mut size = vec![0usize; self.clusters.count];
        for &id in &order {
            if !self.clusters.free[id.index()] {
                size[self.clusters.cluster(id)] += 1;
            }
        }
        // Pointwise clusters by what they read and by where they stand in the network.
        let mut readers: FxHashMap<Value, Vec<usize>> = FxHashMap::default();
        let mut places: FxHashMap<(std::sync::Arc<str>, &'static str), Vec<usize>> = FxHashMap::default();
        for &id in &order {
            let i = id.index();
            if self.clusters.free[i] {
                self.free_ready[i] = self.ready_of(id);
                continue;
            }
            let own = self.clusters.cluster(id);
            let (elementwise, name, path) = {
                let graph = &self.clusters.graph;
                let operands = graph.operands(id);
                let node = graph.node(id);
                let large = operands.iter().any(|&v| is_large(graph.ty(v)))
                    || node.results.first().is_some_and(is_large);
                let alone = node.results.first().is_some_and(|ty| repeats_row_major(&node.op, ty));
                let elementwise = large
                    && !alone
                    && (is_pointwise(&node.op) || is_reduction(&node.op, &types(graph, &operands)));
                // Casts of weights can all run at the step's start.
                let of_weight = matches!(node.op, Op::Cast { .. }) && graph.op(operands[0]).is_source();
                let path = if of_weight { "".into() } else { node.origin.path.clone() };
                (elementwise, node.op.mnemonic(), path)
            };
            let vector = {
                let node = self.clusters.graph.node(id);
                is_vector_step(&node.op) && !is_update(&node.op) && node.results[0].shape.rank() == 1
            };
            let sum = self.is_weight_step(id);
            if (!elementwise && !vector && !sum) || size[own] > 1 {
                continue;
            }
            let needed = self.clusters.with_free(&[id]);
            let target = self.producer_to_join(&needed, vector || sum);
            if let Some(target) = target.filter(|&t| !sum || self.kind[t] == Kind::Convolution) {
                self.clusters.of[i] = target;
                self.part[i] = self.part_of(&needed, target);
                continue;
            }
            if !elementwise {
                continue;
            }
            let mut neighbours: SmallVec<[usize; 16]> = SmallVec::new();
            for &n in &needed {
                for v in self.clusters.graph.operands(n) {
                    if is_large(self.clusters.graph.ty(v))
                        && let Some(found) = readers.get(&v)
                    {
                        neighbours.extend(found.iter().rev().take(NEIGHBOURS).copied());
                    }
                }
            }
            let place = places.entry((path, name)).or_default();
            neighbours.extend(place.iter().rev().take(NEIGHBOURS).copied());
            let joined = neighbours.into_iter().find(|&c| self.may_stand_beside(&needed, c));
            let cluster = joined.unwrap_or(own);
            self.clusters.of[i] = cluster;
            if joined.is_none() {
                self.kind[cluster] = Kind::Pointwise;
                place.push(cluster);
            }
            for &n in &needed {
                for v in self.clusters.graph.operands(n) {
                    if is_large(self.clusters.graph.ty(v)) {
                        let list = readers.entry(v).or_default();
                        if list.last() != Some(&cluster) {
                            list.push(cluster);
                        }
                    }
                }
            }
        }
    }

    /// Whether the node adds or scales weight gradients.
    fn is_weight_step(&self, id: NodeId) -> bool {
        let graph = &self.clusters.graph;
        matches!(graph.node(id).op, Op::Binary { .. } | Op::Scale { .. })
            && graph.operands(id).iter().any(|v| {
                matches!(graph.op(*v), Op::Conv2dGradWeight { .. })
                    || (matches!(graph.op(*v), Op::Binary { .. } | Op::Scale { .. })
                        && self.is_weight_gradient(v.node))
            })
    }

    /// Whether a node has joined a convolution group as a step on weight gradients.
    fn is_weight_gradient(&self, id: NodeId) -> bool {
        let part = self.part[id.index()];
        part.is_some_and(|p| matches!(self.clusters.graph.node(p).op, Op::Conv2dGradWeight { .. }))
    }

    /// The position before which a value is there.
    fn ready(&self, v: Value) -> usize {
        if self.clusters.graph.op(v).is_source() { 0 } else { self.node_ready(v.node) }
    }

    /// The position before which all is there that a free node needs.
    fn ready_of(&self, id: NodeId) -> usize {
        let graph = &self.clusters.graph;
        let values = graph.operands(id).into_iter().map(|v| self.ready(v));
        values.chain(graph.order_predecessors(id).into_iter().map(|p| self.node_ready(p))).max().unwrap_or(0)
    }

    /// The position before which a node has run.
    fn node_ready(&self, id: NodeId) -> usize {
        let i = id.index();
        if self.clusters.free[i] { self.free_ready[i] } else { self.position[self.clusters.of[i]] + 1 }
    }

    /// Whether everything that nodes need from outside a cluster is there before the cluster runs.
    fn is_ready(&self, needed: &[NodeId], cluster: usize) -> bool {
        let position = self.position[cluster];
        let graph = &self.clusters.graph;
        needed.iter().all(|&id| {
            let outside = |n: NodeId| self.clusters.free[n.index()] || self.clusters.of[n.index()] != cluster;
            let operands = graph.operands(id);
            operands.iter().all(|v| {
                needed.binary_search(&v.node).is_ok() || !outside(v.node) || self.ready(*v) <= position
            }) && graph
                .order_predecessors(id)
                .into_iter()
                .all(|p| needed.binary_search(&p).is_ok() || !outside(p) || self.node_ready(p) <= position)
        })
    }

    /// The cluster before an operator that it can join, with the free nodes it needs (`needed`, the operator last).
    fn producer_to_join(&self, needed: &[NodeId], vector: bool) -> Option<usize> {
        let graph = &self.clusters.graph;
        let mut found: SmallVec<[usize; 4]> = SmallVec::new();
        for &id in needed {
            for v in graph.operands(id) {
                if needed.binary_search(&v.node).is_err() && !graph.op(v).is_source() {
                    found.push(self.clusters.cluster(v.node));
                }
            }
        }
        // The latest: all else must be there before it.
        let target = found.into_iter().max_by_key(|&c| self.position[c])?;
        let fits = self.kind[target] != Kind::Other
            && self.is_ready(needed, target)
            && if vector { self.takes_vector(needed, target) } else { self.takes(needed, target) };
        fits.then_some(target)
    }

    /// Whether a value of a cluster comes of a reduction there: it is complete only when the launch ends.
    fn is_reduced(&self, v: Value) -> bool {
        let graph = &self.clusters.graph;
        let operands = graph.operands(v.node);
        is_reduction(graph.op(v), &types(graph, &operands)) || !is_large(graph.ty(v))
    }

    /// Whether elementwise nodes can work on the rows of a cluster as they are made.
    fn takes(&self, needed: &[NodeId], cluster: usize) -> bool {
        let graph = &self.clusters.graph;
        let mut from: Option<NodeId> = None;
        let mut shape = None;
        for &id in needed {
            for v in graph.operands(id) {
                if needed.binary_search(&v.node).is_ok()
                    || graph.op(v).is_source()
                    || self.clusters.free[v.node.index()]
                    || self.clusters.cluster(v.node) != cluster
                {
                    continue;
                }
                if self.is_reduced(v) || matches!(graph.op(v), Op::Conv2dGradWeight { .. }) {
                    return false;
                }
                if self.kind[cluster] == Kind::Convolution {
                    let part = self.part[v.node.index()];
                    if part.is_none() || from.is_some_and(|f| Some(f) != part) {
                        return false;
                    }
                    from = part;
                }
                shape = Some(graph.shape(v).clone());
            }
        }
        // All large values on the way are of the rows that the cluster makes.
        let Some(shape) = shape else { return false };
        needed.iter().all(|&id| {
            let operands = graph.operands(id);
            let values = operands.into_iter().chain(graph.results(id));
            values.into_iter().all(|v| !is_large(graph.ty(v)) || *graph.shape(v) == shape)
        })
    }

    /// Whether a step on channel vectors, or on weight gradients, can work on what a cluster's reductions give.
    fn takes_vector(&self, needed: &[NodeId], cluster: usize) -> bool {
        let graph = &self.clusters.graph;
        let [id] = needed else { return false };
        graph.operands(*id).iter().all(|v| {
            self.clusters.free[v.node.index()]
                || self.clusters.cluster(v.node) != cluster
                || graph.ty(*v) == &graph.node(*id).results[0]
        })
    }

    /// The convolution of a cluster whose rows nodes work on.
    fn part_of(&self, needed: &[NodeId], cluster: usize) -> Option<NodeId> {
        let graph = &self.clusters.graph;
        needed.iter().flat_map(|&id| graph.operands(id)).find_map(|v| {
            let i = v.node.index();
            let inside = !self.clusters.free[i] && !graph.op(v).is_source() && self.clusters.of[i] == cluster;
            if inside { self.part[i] } else { None }
        })
    }

    /// Whether nodes that need nothing of a cluster can run beside it.
    fn may_stand_beside(&self, needed: &[NodeId], cluster: usize) -> bool {
        let graph = &self.clusters.graph;
        let apart = needed.iter().flat_map(|&id| graph.operands(id)).all(|v| {
            let i = v.node.index();
            graph.op(v).is_source() || self.clusters.free[i] || self.clusters.of[i] != cluster
        });
        self.kind[cluster] == Kind::Pointwise && apart && self.is_ready(needed, cluster)
    }

    /// Makes one cluster of all updates that nothing waits for but what stores them.
    fn join_updates(&mut self) {
        let graph = &self.clusters.graph;
        // Backwards, so that the first update of a chain finds the second in the group.
        let order: Vec<NodeId> = graph.nodes().collect();
        let mut inside = vec![false; graph.index_bound()];
        let mut joined: Vec<NodeId> = Vec::new();
        for &id in order.iter().rev() {
            if !is_update(&graph.node(id).op) {
                continue;
            }
            let chained = graph
                .successors(id)
                .into_iter()
                .all(|s| matches!(graph.node(s).op, Op::Store { .. }) || inside[s.index()]);
            if chained {
                inside[id.index()] = true;
                joined.push(id);
            }
        }
        let values = |id: NodeId| values_of(graph, id);
        if joined.iter().map(|&id| values(id)).sum::<usize>() > MOST_VALUES {
            // Several groups, each of neighbours in the order; once made, they stay as they are.
            let members = self.clusters.members();
            if joined.iter().any(|id| members[self.clusters.of[id.index()]].len() > 1) {
                return;
            }
        }
        let mut group: Option<(usize, usize)> = None;
        for id in joined {
            let own = (self.clusters.of[id.index()], 0);
            let (cluster, held) = group.filter(|(_, held)| held + values(id) <= MOST_VALUES).unwrap_or(own);
            self.clusters.of[id.index()] = cluster;
            group = Some((cluster, held + values(id)));
        }
    }

    /// Makes sequences of small operators that wait for the same launches: of one level, where the level is how many
    /// times a path to the operator goes from a large launch into a small one.
    fn join_small(&mut self) {
        let members = self.clusters.members();
        let graph = &self.clusters.graph;
        let alone = |id: NodeId| members[self.clusters.of[id.index()]].len() == 1;
        let small = |id: NodeId| {
            let node = graph.node(id);
            let operands = graph.operands(id);
            let every = operands.iter().map(|&v| graph.ty(v)).chain(&node.results);
            let launched = !node.op.is_source() && !node.op.is_sink();
            launched
                && !is_update(&node.op)
                && !matches!(node.op, Op::MatMul { .. })
                && alone(id)
                && every.into_iter().all(|ty| ty.shape.rank() < 4)
        };
        // Levels of clusters, over the order in which they can run.
        let Some(sequence) = self.clusters.sequence() else { return };
        let mut level = vec![0usize; self.clusters.count];
        let mut is_small = vec![false; self.clusters.count];
        // By level: the sequence that is being filled, and how many values it has.
        let mut groups: FxHashMap<usize, (usize, usize)> = FxHashMap::default();
        let mut join: Vec<(NodeId, usize)> = Vec::new();
        for cluster in sequence {
            let nodes = &members[cluster];
            let smallness = nodes.len() == 1 && small(nodes[0]);
            is_small[cluster] = smallness;
            let before = self.clusters.before(cluster, &members);
            level[cluster] = before
                .into_iter()
                .map(|b| {
                    level[b] + usize::from(smallness && !is_small[b] && !self.is_plain_source(&members[b]))
                })
                .max()
                .unwrap_or(0);
            if smallness {
                let group = groups.entry(level[cluster]).or_insert((cluster, 0));
                let values = values_of(graph, nodes[0]);
                if group.1 + values > MOST_VALUES {
                    *group = (cluster, 0);
                }
                group.1 += values;
                join.push((nodes[0], group.0));
            }
        }
        // A group in which nothing is computed would be a launch more.
        let mut computes = vec![0usize; self.clusters.count];
        for &(id, cluster) in &join {
            computes[cluster] += usize::from(!graph.node(id).op.is_alias());
        }
        for (id, cluster) in join {
            if computes[cluster] > 1 {
                self.clusters.of[id.index()] = cluster;
            }
        }
        self.host_constants(&computes);
    }

    /// Lets sequences fill the constants that they alone read.
    fn host_constants(&mut self, computes: &[usize]) {
        let graph = &self.clusters.graph;
        for id in graph.nodes() {
            let users = graph.users(Value { node: id, result: 0 });
            let free = matches!(graph.node(id).op, Op::Constant { .. })
                && graph.order_predecessors(id).is_empty()
                && graph.successors(id).len() == distinct(&users)
                && users.iter().all(|(user, _)| {
                    let i = user.index();
                    !self.clusters.free[i]
                        && !graph.node(*user).op.is_sink()
                        && computes[self.clusters.of[i]] > 1
                });
            if free && !users.is_empty() {
                self.clusters.free[id.index()] = true;
            }
        }
    }

    /// Whether a cluster is a source.
    fn is_plain_source(&self, members: &[NodeId]) -> bool {
        members.iter().all(|&id| self.clusters.graph.node(id).op.is_source())
    }
}
