//! Which operators run together, while passes decide it: a graph of single operators, each in a cluster, and the way
//! from clusters to fused groups and back.

use crate::dead_code;
use crate::rebuild::Rebuild;
use ddnnc_ir::{
    Graph, Group, GroupKind, IrError, Local, NodeId, Op, Origin, Step, Value, is_convolution, is_pointwise,
    is_reduction, is_update, is_vector_step,
};
use rustc_hash::{FxHashMap, FxHashSet};
use smallvec::SmallVec;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

/// A graph without fused groups, whose operators stand in clusters instead.
pub(crate) struct Clusters {
    /// Nodes are inserted in topological order: a larger id never comes before a smaller one.
    pub(crate) graph: Graph,
    /// The cluster of a node, by node.
    pub(crate) of: Vec<usize>,
    /// The cluster that a node came in, by node.
    initial: Vec<usize>,
    /// Nodes that every cluster which needs them computes for itself, by node; they are in no cluster.
    pub(crate) free: Vec<bool>,
    /// How many clusters there have been; numbers of merged ones stay unused.
    pub(crate) count: usize,
}

impl Clusters {
    /// Takes fused groups apart: their steps are one cluster, every other node is one of its own. Gradient stops have
    /// done their work by now and vanish, but for those that stand in the order of others.
    pub(crate) fn expand(graph: &Graph) -> Result<Clusters, IrError> {
        let order = graph.topological()?;
        let mut ordered = vec![false; graph.index_bound()];
        for &id in &order {
            for before in graph.order_predecessors(id) {
                ordered[before.index()] = true;
                ordered[id.index()] = true;
            }
        }
        let mut rebuild = Rebuild::new(graph);
        let mut of = Vec::new();
        // Order edges: what waits for a group waits for each of its steps, for other clusters may come to compute them
        // too; a group waits as its last step does, which none but it computes.
        let mut atoms: FxHashMap<NodeId, Vec<NodeId>> = FxHashMap::default();
        for (cluster, &id) in order.iter().enumerate() {
            let node = graph.node(id);
            match &node.op {
                Op::StopGradient if !ordered[id.index()] => {
                    let operand = rebuild.value(graph.operands(id)[0])?;
                    rebuild.set_value(Value { node: id, result: 0 }, operand);
                }
                Op::Fused(group) => {
                    let operands: Vec<Value> =
                        graph.operands(id).into_iter().map(|v| rebuild.value(v)).collect::<Result<_, _>>()?;
                    let made = add_steps(&mut rebuild, group, &operands, &node.origin)?;
                    let local = |local: Local| match local {
                        Local::Operand(i) => operands.get(i as usize).copied(),
                        Local::Step { step, result } => {
                            made.get(step as usize).map(|&node| Value { node, result: result as u16 })
                        }
                    };
                    for (result, &l) in group.results.iter().enumerate() {
                        let value = local(l).ok_or(IrError::Cycle)?;
                        rebuild.set_value(Value { node: id, result: result as u16 }, value);
                    }
                    for atom in &made {
                        set(&mut of, atom.index(), cluster);
                    }
                    atoms.insert(id, made);
                }
                _ => {
                    let new = rebuild.copy(id)?;
                    set(&mut of, new.index(), cluster);
                    atoms.insert(id, vec![new]);
                }
            }
        }
        let count = order.len();
        let mut new = rebuild.new;
        for &id in &order {
            for before in graph.order_predecessors(id) {
                let (Some(before), Some(after)) = (atoms.get(&before), atoms.get(&id)) else { continue };
                if let Some(&after) = after.last() {
                    before.iter().for_each(|&b| new.add_order(b, after));
                }
            }
        }
        // What nobody wants would be in the way: a group would have results for it.
        dead_code(&mut new)?;
        let free = vec![false; new.index_bound()];
        let initial = of.clone();
        Ok(Clusters { graph: new, of, initial, free, count })
    }

    /// The cluster of a node that is in one.
    pub(crate) fn cluster(&self, id: NodeId) -> usize {
        self.of[id.index()]
    }

    /// The members of every cluster, in order.
    pub(crate) fn members(&self) -> Vec<Vec<NodeId>> {
        let mut members = vec![Vec::new(); self.count];
        for id in self.graph.nodes() {
            if !self.free[id.index()] {
                members[self.of[id.index()]].push(id);
            }
        }
        members
    }

    /// The free nodes that nodes need, and the nodes themselves, each after all it takes.
    pub(crate) fn with_free(&self, nodes: &[NodeId]) -> Vec<NodeId> {
        let mut found: FxHashSet<NodeId> = nodes.iter().copied().collect();
        let mut open: Vec<NodeId> = nodes.to_vec();
        while let Some(id) = open.pop() {
            for v in self.graph.operands(id) {
                if self.free[v.node.index()] && found.insert(v.node) {
                    open.push(v.node);
                }
            }
        }
        let mut all: Vec<NodeId> = found.into_iter().collect();
        all.sort_unstable();
        all
    }

    /// The clusters in an order in which each comes after all it needs; `None` where they need one another in a
    /// circle, with the clusters that cannot be placed.
    fn order(&self, hosted: &[Vec<NodeId>]) -> Result<Vec<usize>, Vec<usize>> {
        let graph = &self.graph;
        // The clusters that run a node: its own, or all that host it.
        let mut hosts: Vec<SmallVec<[usize; 2]>> = vec![SmallVec::new(); graph.index_bound()];
        for (cluster, nodes) in hosted.iter().enumerate() {
            for id in nodes {
                hosts[id.index()].push(cluster);
            }
        }
        let mut successors: Vec<Vec<usize>> = vec![Vec::new(); self.count];
        let mut waiting = vec![0usize; self.count];
        for (cluster, nodes) in hosted.iter().enumerate() {
            let mut before: Vec<usize> = Vec::new();
            for &id in nodes {
                for v in graph.operands(id) {
                    if !self.free[v.node.index()] {
                        before.push(self.of[v.node.index()]);
                    }
                }
                for p in graph.order_predecessors(id) {
                    before.extend(&hosts[p.index()]);
                }
            }
            before.sort_unstable();
            before.dedup();
            before.retain(|&b| b != cluster);
            waiting[cluster] = before.len();
            for b in before {
                successors[b].push(cluster);
            }
        }
        let key = |cluster: usize| hosted[cluster].iter().find(|id| !self.free[id.index()]).copied();
        let mut ready: BinaryHeap<Reverse<(Option<NodeId>, usize)>> = BinaryHeap::new();
        let alive: Vec<usize> = (0..self.count).filter(|&c| !hosted[c].is_empty()).collect();
        for &c in &alive {
            if waiting[c] == 0 {
                ready.push(Reverse((key(c), c)));
            }
        }
        let mut order = Vec::with_capacity(alive.len());
        while let Some(Reverse((_, c))) = ready.pop() {
            order.push(c);
            for &next in &successors[c] {
                waiting[next] -= 1;
                if waiting[next] == 0 {
                    ready.push(Reverse((key(next), next)));
                }
            }
        }
        if order.len() == alive.len() {
            return Ok(order);
        }
        Err(alive.into_iter().filter(|&c| waiting[c] > 0).collect())
    }

    /// The clusters so that each comes after all it needs; `None` where they need one another in a circle.
    pub(crate) fn sequence(&self) -> Option<Vec<usize>> {
        let hosted: Vec<Vec<NodeId>> = self.members().iter().map(|m| self.with_free(m)).collect();
        self.order(&hosted).ok()
    }

    /// The clusters that a cluster needs, for values or for order.
    pub(crate) fn before(&self, cluster: usize, members: &[Vec<NodeId>]) -> Vec<usize> {
        let mut found: Vec<usize> = Vec::new();
        for id in self.with_free(&members[cluster]) {
            for p in self.graph.predecessors(id) {
                if !self.free[p.index()] {
                    found.push(self.of[p.index()]);
                }
            }
        }
        found.sort_unstable();
        found.dedup();
        found.retain(|&b| b != cluster);
        found
    }

    /// Lets members of clusters that stand in a circle of needs go back to where they came from, until there is none.
    pub(crate) fn dissolve_circles(&mut self) {
        loop {
            let hosted: Vec<Vec<NodeId>> = self.members().iter().map(|m| self.with_free(m)).collect();
            let Err(stuck) = self.order(&hosted) else { return };
            let mut changed = false;
            for cluster in stuck {
                for &id in &hosted[cluster] {
                    let i = id.index();
                    changed |= !self.free[i] && self.of[i] != self.initial[i];
                    self.of[i] = self.initial[i];
                }
            }
            if !changed {
                return;
            }
        }
    }

    /// The graph with one node per cluster.
    ///
    /// # Errors
    ///
    /// [`IrError::Cycle`] where clusters need one another in a circle.
    pub(crate) fn build(&self) -> Result<Graph, IrError> {
        let members = self.members();
        let hosted: Vec<Vec<NodeId>> = members.iter().map(|m| self.with_free(m)).collect();
        let order = self.order(&hosted).map_err(|_| IrError::Cycle)?;
        let mut wanted: FxHashSet<Value> = FxHashSet::default();
        for (cluster, nodes) in hosted.iter().enumerate() {
            for &id in nodes {
                for v in self.graph.operands(id) {
                    let i = v.node.index();
                    if !self.free[i] && self.of[i] != cluster {
                        wanted.insert(v);
                    }
                }
            }
        }
        let mut rebuild = Rebuild::new(&self.graph);
        let mut node_of: Vec<Option<NodeId>> = vec![None; self.count];
        for &cluster in &order {
            let nodes = &hosted[cluster];
            let made = match nodes.as_slice() {
                [one] => Some(rebuild.copy(*one)?),
                nodes => self.add_group(&mut rebuild, nodes, &members[cluster], &wanted)?,
            };
            node_of[cluster] = made;
        }
        // Order edges: of every cluster that hosts a node.
        let mut hosts: Vec<SmallVec<[usize; 2]>> = vec![SmallVec::new(); self.graph.index_bound()];
        for (cluster, nodes) in hosted.iter().enumerate() {
            for id in nodes {
                hosts[id.index()].push(cluster);
            }
        }
        let mut new = rebuild.new;
        for id in self.graph.nodes() {
            for before in self.graph.order_predecessors(id) {
                for &b in &hosts[before.index()] {
                    for &a in &hosts[id.index()] {
                        if a != b
                            && let (Some(b), Some(a)) = (node_of[b], node_of[a])
                        {
                            new.add_order(b, a);
                        }
                    }
                }
            }
        }
        Ok(new)
    }

    /// Adds the fused group of some nodes; its results are the wanted values of its members. Nothing is added where
    /// nobody wants any.
    fn add_group(
        &self,
        rebuild: &mut Rebuild<'_>,
        nodes: &[NodeId],
        members: &[NodeId],
        wanted: &FxHashSet<Value>,
    ) -> Result<Option<NodeId>, IrError> {
        let graph = &self.graph;
        let mut operands: Vec<Value> = Vec::new();
        let mut local: FxHashMap<Value, Local> = FxHashMap::default();
        let mut group = Group {
            kind: kind_of(graph, nodes),
            name: name_of(graph, nodes),
            operands: Vec::new(),
            steps: Vec::new(),
            results: Vec::new(),
        };
        let mut results: Vec<Value> = Vec::new();
        let member: FxHashSet<NodeId> = members.iter().copied().collect();
        for (step, &id) in nodes.iter().enumerate() {
            let node = graph.node(id);
            let mut taken = SmallVec::new();
            for v in graph.operands(id) {
                let l = match local.get(&v) {
                    Some(&l) => l,
                    None => {
                        let l = Local::Operand(operands.len() as u32);
                        group.operands.push(graph.ty(v).clone());
                        operands.push(v);
                        local.insert(v, l);
                        l
                    }
                };
                taken.push(l);
            }
            for (result, v) in graph.results(id).into_iter().enumerate() {
                let l = Local::Step { step: step as u32, result: result as u32 };
                local.insert(v, l);
                if member.contains(&id) && wanted.contains(&v) {
                    results.push(v);
                    group.results.push(l);
                }
            }
            group.steps.push(Step {
                op: node.op.clone(),
                operands: taken,
                results: node.results.clone(),
                path: node.origin.path.to_string(),
            });
        }
        if results.is_empty() {
            return Ok(None);
        }
        let mut origin = graph.node(main_of(graph, members)).origin.clone();
        members.iter().for_each(|&id| origin.merge(&graph.node(id).origin));
        let operands: Vec<Value> =
            operands.into_iter().map(|v| rebuild.value(v)).collect::<Result<_, _>>()?;
        let made = rebuild.add(Op::Fused(std::sync::Arc::new(group)), &operands, origin)?;
        for (result, v) in results.into_iter().enumerate() {
            rebuild.set_value(v, Value { node: made, result: result as u16 });
        }
        Ok(Some(made))
    }
}

fn set(of: &mut Vec<usize>, index: usize, cluster: usize) {
    if of.len() <= index {
        of.resize(index + 1, usize::MAX);
    }
    of[index] = cluster;
}

/// Adds the steps of a group as operators of their own.
fn add_steps(
    rebuild: &mut Rebuild<'_>,
    group: &Group,
    operands: &[Value],
    origin: &Origin,
) -> Result<Vec<NodeId>, IrError> {
    let mut made: Vec<NodeId> = Vec::with_capacity(group.steps.len());
    for step in &group.steps {
        let origin = Origin { path: step.path.as_str().into(), nets: origin.nets.clone() };
        let node = if let Op::Constant { .. } = step.op {
            rebuild.new.add_source(step.op.clone(), step.results[0].clone(), origin)?.node
        } else {
            let taken: SmallVec<[Value; 8]> = step
                .operands
                .iter()
                .map(|&l| match l {
                    Local::Operand(i) => operands[i as usize],
                    Local::Step { step, result } => {
                        Value { node: made[step as usize], result: result as u16 }
                    }
                })
                .collect();
            rebuild.add(step.op.clone(), &taken, origin)?
        };
        made.push(node);
    }
    Ok(made)
}

/// The node that a cluster is named after: its first convolution, else the first that is no constant.
fn main_of(graph: &Graph, members: &[NodeId]) -> NodeId {
    let first = |wanted: fn(&Op) -> bool| members.iter().copied().find(|&id| wanted(&graph.node(id).op));
    first(is_convolution).or_else(|| first(|op| !op.is_source())).unwrap_or(members[0])
}

/// How a group of these nodes can be run.
fn kind_of(graph: &Graph, nodes: &[NodeId]) -> GroupKind {
    let op = |id: &NodeId| &graph.node(*id).op;
    let pointwise = |id: &NodeId| {
        let operands = graph.operands(*id);
        let types: SmallVec<[_; 8]> = operands.iter().map(|&v| graph.ty(v)).collect();
        is_pointwise(op(id)) || is_reduction(op(id), &types) || is_vector_step(op(id))
    };
    if nodes.iter().all(|id| is_update(op(id))) {
        GroupKind::Update
    } else if nodes.iter().any(|id| is_convolution(op(id))) {
        GroupKind::Convolution
    } else if nodes.iter().any(|id| graph.node(*id).results[0].shape.rank() == 4)
        && nodes.iter().all(pointwise)
    {
        GroupKind::Pointwise
    } else {
        GroupKind::Sequence
    }
}

/// How many kinds of operators a group's name spells out.
const NAMED: usize = 6;

/// `conv2d*3+channel_stats*3`: the operators of a group in the order in which they first appear, with their numbers.
fn name_of(graph: &Graph, nodes: &[NodeId]) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    let mut names: Vec<&str> = Vec::new();
    for &id in nodes {
        let name = graph.node(id).op.mnemonic();
        let n = counts.entry(name).or_default();
        if *n == 0 {
            names.push(name);
        }
        *n += 1;
    }
    let mut out = String::new();
    for (i, name) in names.iter().enumerate() {
        if i == NAMED {
            out.push_str("+more");
            break;
        }
        if i > 0 {
            out.push('+');
        }
        out.push_str(name);
        if counts[name] > 1 {
            out.push_str(&format!("*{}", counts[name]));
        }
    }
    out
}
