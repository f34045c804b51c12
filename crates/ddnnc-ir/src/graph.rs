//! The graph: operators as nodes, operands and order as edges.

use crate::{IrError, Layout, Op, Shape, ValueType, infer};
use petgraph::Direction;
use petgraph::stable_graph::{NodeIndex, StableDiGraph};
use petgraph::visit::EdgeRef;
use smallvec::SmallVec;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

/// One operator in a [`Graph`]. Its number never appears in output: the printer numbers values anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(NodeIndex<u32>);

impl NodeId {
    /// A number that is unique within the graph and grows in the order of insertion; for dense side tables.
    pub fn index(self) -> usize {
        self.0.index()
    }
}

/// One result of one operator, printed as `v12`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Value {
    /// The operator.
    pub node: NodeId,
    /// Which of its results.
    pub result: u16,
}

/// Where an operator comes from: for messages, summaries and pictures; no pass may depend on it for correctness.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Origin {
    /// Path of what it computes: `resnet.s1.0.conv1`; empty where it has none.
    pub path: Arc<str>,
    /// The sub-nets, exits and networks that it serves, in the order of their declaration.
    pub nets: SmallVec<[Arc<str>; 2]>,
}

impl Origin {
    /// An origin from its parts.
    pub fn new(path: &str, nets: &[Arc<str>]) -> Origin {
        Origin { path: Arc::from(path), nets: SmallVec::from_iter(nets.iter().cloned()) }
    }

    /// Takes up the nets of another origin as well (where two operators become one).
    pub fn merge(&mut self, other: &Origin) {
        for net in &other.nets {
            if !self.nets.contains(net) {
                self.nets.push(net.clone());
            }
        }
    }
}

/// An operator with the types of its results.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// What it does.
    pub op: Op,
    /// The types of its results, in order.
    pub results: SmallVec<[ValueType; 1]>,
    /// Where it comes from.
    pub origin: Origin,
}

/// Why one operator comes after another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Edge {
    /// The target's operand `operand` is the source's result `result`.
    Data {
        /// Position among the target's operands.
        operand: u16,
        /// Position among the source's results.
        result: u16,
    },
    /// The target runs after the source and takes no value from it (a store after the last reader).
    Order,
}

/// A directed acyclic graph of operators.
///
/// A value exists as long as its node does; a node may only refer to nodes of the same graph. The graph is acyclic and
/// well typed after every public call but [`Graph::replace_uses`], [`Graph::set_operand`] and [`Graph::add_order`],
/// whose callers owe both (the verifier checks).
#[derive(Clone, Debug, Default)]
pub struct Graph {
    /// The graph's name, printed in its first line.
    pub name: String,
    dag: StableDiGraph<Node, Edge, u32>,
}

impl Graph {
    /// An empty graph.
    pub fn new(name: impl Into<String>) -> Graph {
        Graph { name: name.into(), dag: StableDiGraph::default() }
    }

    /// Adds a source (input, parameter, state, constant) of a stated type.
    ///
    /// # Errors
    ///
    /// [`IrError::NotASource`]; [`IrError::TooLarge`]; [`IrError::Type`] where a value of other than four dimensions is
    /// channels-last.
    pub fn add_source(&mut self, op: Op, ty: ValueType, origin: Origin) -> Result<Value, IrError> {
        if !op.is_source() {
            return Err(IrError::NotASource { op: op.mnemonic() });
        }
        if ty.shape.checked_elements().is_none() {
            return Err(IrError::TooLarge { op: op.mnemonic(), ty });
        }
        if ty.layout == Layout::ChannelsLast && ty.shape.rank() != 4 {
            return Err(misused(
                &op,
                format!("only a value of four dimensions can be channels-last, not {ty}"),
            ));
        }
        let node = self.dag.add_node(Node { op, results: SmallVec::from_elem(ty, 1), origin });
        Ok(Value { node: NodeId(node), result: 0 })
    }

    /// Adds an operator on operands; its result types follow from theirs.
    ///
    /// # Errors
    ///
    /// [`IrError::Type`] where the operator does not take these operands, or there are more than 65,535;
    /// [`IrError::TooLarge`].
    pub fn add(&mut self, op: Op, operands: &[Value], origin: Origin) -> Result<NodeId, IrError> {
        if operands.len() > usize::from(u16::MAX) {
            return Err(misused(&op, format!("takes at most {} operands, not {}", u16::MAX, operands.len())));
        }
        let results = {
            let types: SmallVec<[&ValueType; 8]> = operands.iter().map(|&v| self.ty(v)).collect();
            infer::result_types(&op, &types)?
        };
        let node = self.dag.add_node(Node { op, results, origin });
        for (i, v) in operands.iter().enumerate() {
            self.dag.add_edge(v.node.0, node, Edge::Data { operand: i as u16, result: v.result });
        }
        Ok(NodeId(node))
    }

    /// Adds an operator with exactly one result, and gives that.
    pub fn add1(&mut self, op: Op, operands: &[Value], origin: Origin) -> Result<Value, IrError> {
        let node = self.add(op, operands, origin)?;
        debug_assert_eq!(self.node(node).results.len(), 1);
        Ok(Value { node, result: 0 })
    }

    /// The node of an id of this graph.
    pub fn node(&self, id: NodeId) -> &Node {
        &self.dag[id.0]
    }

    /// The node of an id of this graph, to change its operator or origin; the types must stay right.
    pub fn node_mut(&mut self, id: NodeId) -> &mut Node {
        &mut self.dag[id.0]
    }

    /// Whether the node is still there.
    pub fn contains(&self, id: NodeId) -> bool {
        self.dag.contains_node(id.0)
    }

    /// The operator that makes a value.
    pub fn op(&self, v: Value) -> &Op {
        &self.node(v.node).op
    }

    /// The type of a value.
    pub fn ty(&self, v: Value) -> &ValueType {
        &self.node(v.node).results[v.result as usize]
    }

    /// The shape of a value.
    pub fn shape(&self, v: Value) -> &Shape {
        &self.ty(v).shape
    }

    /// The values of a node, in order of its results.
    pub fn results(&self, id: NodeId) -> SmallVec<[Value; 3]> {
        (0..self.node(id).results.len()).map(|i| Value { node: id, result: i as u16 }).collect()
    }

    /// The operands of a node, in order.
    pub fn operands(&self, id: NodeId) -> SmallVec<[Value; 4]> {
        let mut found: SmallVec<[(u16, Value); 4]> = SmallVec::new();
        for edge in self.dag.edges_directed(id.0, Direction::Incoming) {
            if let Edge::Data { operand, result } = *edge.weight() {
                found.push((operand, Value { node: NodeId(edge.source()), result }));
            }
        }
        found.sort_unstable_by_key(|(operand, _)| *operand);
        found.into_iter().map(|(_, v)| v).collect()
    }

    /// Who takes a value, as (node, operand position), in a deterministic order.
    pub fn users(&self, v: Value) -> Vec<(NodeId, u16)> {
        let mut found: Vec<(NodeId, u16)> = self
            .dag
            .edges_directed(v.node.0, Direction::Outgoing)
            .filter_map(|edge| match *edge.weight() {
                Edge::Data { operand, result } if result == v.result => {
                    Some((NodeId(edge.target()), operand))
                }
                _ => None,
            })
            .collect();
        found.sort_unstable();
        found
    }

    /// Nodes that must run before `id` without giving it a value, in a deterministic order.
    pub fn order_predecessors(&self, id: NodeId) -> Vec<NodeId> {
        let mut found: Vec<NodeId> = self
            .dag
            .edges_directed(id.0, Direction::Incoming)
            .filter(|edge| *edge.weight() == Edge::Order)
            .map(|edge| NodeId(edge.source()))
            .collect();
        found.sort_unstable();
        found.dedup();
        found
    }

    /// Nodes that must run before `id`, for a value or for order, in a deterministic order.
    pub fn predecessors(&self, id: NodeId) -> Vec<NodeId> {
        self.neighbours(id, Direction::Incoming)
    }

    /// Nodes that must run after `id`, for a value or for order, in a deterministic order.
    pub fn successors(&self, id: NodeId) -> Vec<NodeId> {
        self.neighbours(id, Direction::Outgoing)
    }

    fn neighbours(&self, id: NodeId, direction: Direction) -> Vec<NodeId> {
        let mut found: Vec<NodeId> = self.dag.neighbors_directed(id.0, direction).map(NodeId).collect();
        found.sort_unstable();
        found.dedup();
        found
    }

    /// Demands that `before` runs before `after`.
    pub fn add_order(&mut self, before: NodeId, after: NodeId) {
        let known = self.dag.edges_connecting(before.0, after.0).any(|edge| *edge.weight() == Edge::Order);
        if !known {
            self.dag.add_edge(before.0, after.0, Edge::Order);
        }
    }

    /// Makes `new` operand number `operand` of `id` in place of what it was.
    pub fn set_operand(&mut self, id: NodeId, operand: u16, new: Value) {
        let old = self
            .dag
            .edges_directed(id.0, Direction::Incoming)
            .find(|edge| matches!(*edge.weight(), Edge::Data { operand: o, .. } if o == operand))
            .map(|edge| edge.id());
        if let Some(old) = old {
            self.dag.remove_edge(old);
        }
        self.dag.add_edge(new.node.0, id.0, Edge::Data { operand, result: new.result });
    }

    /// Gives every user of `old` the value `new` instead.
    pub fn replace_uses(&mut self, old: Value, new: Value) {
        for (user, operand) in self.users(old) {
            self.set_operand(user, operand, new);
        }
    }

    /// Removes a node and its edges; its values must have no users.
    pub fn remove(&mut self, id: NodeId) {
        debug_assert!(self.results(id).iter().all(|&v| self.users(v).is_empty()));
        self.dag.remove_node(id.0);
    }

    /// Every node, in the order of insertion.
    pub fn nodes(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.dag.node_indices().map(NodeId)
    }

    /// How many nodes there are.
    pub fn len(&self) -> usize {
        self.dag.node_count()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.dag.node_count() == 0
    }

    /// One past the largest [`NodeId::index`].
    pub fn index_bound(&self) -> usize {
        use petgraph::visit::NodeIndexable;
        self.dag.node_bound()
    }

    /// The nodes so that each comes after all it needs; among those that may come next, the first inserted.
    ///
    /// Nodes inserted in such an order keep it, which is what makes printing and parsing inverse to each other.
    pub fn topological(&self) -> Result<Vec<NodeId>, IrError> {
        let mut waiting = vec![0usize; self.index_bound()];
        let mut ready = BinaryHeap::new();
        for id in self.nodes() {
            let n = self.dag.edges_directed(id.0, Direction::Incoming).count();
            waiting[id.index()] = n;
            if n == 0 {
                ready.push(Reverse(id));
            }
        }
        let mut order = Vec::with_capacity(self.len());
        while let Some(Reverse(id)) = ready.pop() {
            order.push(id);
            for edge in self.dag.edges_directed(id.0, Direction::Outgoing) {
                let target = NodeId(edge.target());
                waiting[target.index()] -= 1;
                if waiting[target.index()] == 0 {
                    ready.push(Reverse(target));
                }
            }
        }
        if order.len() < self.len() {
            return Err(IrError::Cycle);
        }
        Ok(order)
    }

    /// The first source or sink of that operator (`Input`, `Parameter`, `State`, `Output`, `Store` with its name).
    pub fn find(&self, op: &Op) -> Option<NodeId> {
        self.nodes().find(|&id| self.node(id).op == *op)
    }

    /// The value that the output `name` shows.
    pub fn output(&self, name: &str) -> Option<Value> {
        let id = self.nodes().find(|&id| matches!(&self.node(id).op, Op::Output { name: n } if n == name))?;
        self.operands(id).first().copied()
    }
}

/// An error of an operator as a whole.
fn misused(op: &Op, message: String) -> IrError {
    IrError::Type { op: op.mnemonic(), message, operand: None, against: None }
}
