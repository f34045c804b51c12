//! The order of launches: a topological order that lets memory go early.

use crate::aliases::Aliases;
use crate::program::overwrites;
use ddnnc_ir::{Graph, IrError, NodeId, Op, Value};
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Every node, sources and sinks included, so that each comes after all it needs.
///
/// The base is [`Graph::topological`]: forward, losses, backward from the end. Out of turn, as soon as they can run,
/// go first operators that take no memory (an optimizer's update right after its gradient is complete), then those that
/// free at least as many bytes as they take (the last reader of an activation); a constant comes just before its first
/// reader.
pub fn schedule(graph: &Graph) -> Result<Vec<NodeId>, IrError> {
    let base = graph.topological()?;
    let mut scheduler = Scheduler::new(graph, &base);
    scheduler.run();
    if scheduler.order.len() < base.len() {
        return Err(IrError::Cycle);
    }
    Ok(scheduler.order)
}

struct Scheduler<'g> {
    graph: &'g Graph,
    aliases: Aliases,
    /// Place in the base order, by node.
    place: Vec<usize>,
    /// Predecessors not yet scheduled, by node; constants that wait for nothing do not count.
    waiting: Vec<usize>,
    /// Nodes that wait for a node, by node.
    successors: Vec<Vec<NodeId>>,
    /// Nodes that read a value's memory, by root value; each once.
    readers: Vec<Vec<NodeId>>,
    /// Readers of a root value not yet scheduled.
    unread: Vec<usize>,
    /// Root values whose memory a step cannot free: outputs, stored values, parameters and states.
    pinned: Vec<bool>,
    done: Vec<bool>,
    /// (rank, place in the base order, node); a node may stand twice.
    ready: BinaryHeap<Reverse<(Rank, usize, NodeId)>>,
    order: Vec<NodeId>,
}

/// What running a node now does to the memory in use, best first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    TakesNone,
    Frees,
    Grows,
}

/// A constant that can stand anywhere before its readers.
fn is_late_constant(graph: &Graph, id: NodeId) -> bool {
    matches!(graph.node(id).op, Op::Constant { .. }) && graph.order_predecessors(id).is_empty()
}

impl<'g> Scheduler<'g> {
    fn new(graph: &'g Graph, base: &[NodeId]) -> Scheduler<'g> {
        let aliases = Aliases::new(graph, base);
        let bound = graph.index_bound();
        let mut s = Scheduler {
            graph,
            place: vec![0; bound],
            waiting: vec![0; bound],
            successors: vec![Vec::new(); bound],
            readers: vec![Vec::new(); aliases.len()],
            unread: vec![0; aliases.len()],
            pinned: vec![false; aliases.len()],
            done: vec![false; bound],
            ready: BinaryHeap::new(),
            order: Vec::with_capacity(base.len()),
            aliases,
        };
        for (i, &id) in base.iter().enumerate() {
            s.place[id.index()] = i;
            let op = &graph.node(id).op;
            let operands = graph.operands(id);
            let mut before: Vec<NodeId> = operands.iter().map(|v| v.node).collect();
            before.extend(graph.order_predecessors(id));
            before.sort_unstable();
            before.dedup();
            before.retain(|&b| !is_late_constant(graph, b));
            s.waiting[id.index()] = before.len();
            for b in before {
                s.successors[b.index()].push(id);
            }
            for &v in &operands {
                let root = s.aliases.index(s.aliases.root(v));
                if op.is_sink() {
                    s.pinned[root] = true;
                } else if !op.is_alias() && s.readers[root].last() != Some(&id) {
                    s.readers[root].push(id);
                    s.unread[root] += 1;
                }
            }
            if matches!(op, Op::Parameter { .. } | Op::State { .. }) {
                for v in graph.results(id) {
                    let root = s.aliases.index(v);
                    s.pinned[root] = true;
                }
            }
        }
        s
    }

    fn run(&mut self) {
        let nodes: Vec<NodeId> = self.graph.nodes().collect();
        for &id in &nodes {
            if self.waiting[id.index()] == 0 && !is_late_constant(self.graph, id) {
                self.push(id);
            }
        }
        while let Some(Reverse((_, _, id))) = self.ready.pop() {
            self.emit(id);
        }
        // Constants that nobody reads.
        for &id in &nodes {
            if is_late_constant(self.graph, id) {
                self.emit(id);
            }
        }
    }

    fn push(&mut self, id: NodeId) {
        self.ready.push(Reverse((self.rank(id), self.place[id.index()], id)));
    }

    fn emit(&mut self, id: NodeId) {
        if std::mem::replace(&mut self.done[id.index()], true) {
            return;
        }
        let graph = self.graph;
        let operands = graph.operands(id);
        let constants = operands.iter().map(|v| v.node).chain(graph.order_predecessors(id));
        for constant in constants {
            if is_late_constant(graph, constant) && !std::mem::replace(&mut self.done[constant.index()], true)
            {
                self.order.push(constant);
            }
        }
        self.order.push(id);
        for next in std::mem::take(&mut self.successors[id.index()]) {
            self.waiting[next.index()] -= 1;
            if self.waiting[next.index()] == 0 {
                self.push(next);
            }
        }
        if graph.node(id).op.is_alias() || graph.node(id).op.is_sink() {
            return;
        }
        for root in self.distinct_roots(id) {
            self.unread[root] -= 1;
            if self.unread[root] == 1 {
                // Its last reader may now free it, and is tried again where it is ready already.
                let last = self.readers[root].iter().copied().find(|r| !self.done[r.index()]);
                if let Some(last) = last.filter(|r| self.waiting[r.index()] == 0) {
                    self.push(last);
                }
            }
        }
    }

    /// The numbers of the values whose memory a node reads, each once.
    fn distinct_roots(&self, id: NodeId) -> Vec<usize> {
        let mut roots: Vec<usize> =
            self.graph.operands(id).iter().map(|&v| self.aliases.index(self.aliases.root(v))).collect();
        roots.sort_unstable();
        roots.dedup();
        roots
    }

    fn rank(&self, id: NodeId) -> Rank {
        let node = self.graph.node(id);
        if node.op.is_source() || node.op.is_sink() || node.op.is_alias() {
            return Rank::TakesNone;
        }
        let freed: usize = {
            let mut roots: Vec<Value> =
                self.graph.operands(id).iter().map(|&v| self.aliases.root(v)).collect();
            roots.sort_unstable();
            roots.dedup();
            roots
                .into_iter()
                .filter(|&r| {
                    let i = self.aliases.index(r);
                    self.unread[i] == 1 && !self.pinned[i]
                })
                .map(|r| self.graph.ty(r).bytes())
                .sum()
        };
        let operands = self.graph.operands(id);
        let persistent = |k: &usize| {
            operands.get(*k).is_some_and(|&v| {
                matches!(self.graph.op(self.aliases.root(v)), Op::Parameter { .. } | Op::State { .. })
            })
        };
        let over = overwrites(&node.op, node.results.len());
        let elsewhere = node.results.iter().zip(&over).filter(|(_, over)| !over.iter().any(persistent));
        let taken: usize = elsewhere.map(|(ty, _)| ty.bytes()).sum();
        match taken {
            0 => Rank::TakesNone,
            _ if freed >= taken => Rank::Frees,
            _ => Rank::Grows,
        }
    }
}
