//! Making a graph anew, node by node: how passes regroup operators, and fix the order that [`Graph::topological`] gives.

use ddnnc_ir::{Graph, IrError, Node, NodeId, Op, Origin, Value};
use smallvec::SmallVec;

/// A graph in the making, and what became of the values and nodes of the old one.
pub(crate) struct Rebuild<'g> {
    pub(crate) old: &'g Graph,
    pub(crate) new: Graph,
    /// New values by old node and result.
    values: Vec<SmallVec<[Option<Value>; 2]>>,
    /// What the old node's order edges now go to.
    nodes: Vec<Option<NodeId>>,
}

impl<'g> Rebuild<'g> {
    /// An empty graph of the same name.
    pub(crate) fn new(old: &'g Graph) -> Rebuild<'g> {
        let mut values = vec![SmallVec::new(); old.index_bound()];
        for id in old.nodes() {
            values[id.index()] = SmallVec::from_elem(None, old.node(id).results.len());
        }
        Rebuild { old, new: Graph::new(old.name.clone()), values, nodes: vec![None; old.index_bound()] }
    }

    /// The new value of an old one; [`IrError::Cycle`] where it is not there yet.
    pub(crate) fn value(&self, old: Value) -> Result<Value, IrError> {
        self.values[old.node.index()][old.result as usize].ok_or(IrError::Cycle)
    }

    /// Lets a new value stand for an old one from here on.
    pub(crate) fn set_value(&mut self, old: Value, new: Value) {
        self.values[old.node.index()][old.result as usize] = Some(new);
    }

    /// Lets a new node stand for an old one in order edges.
    pub(crate) fn set_node(&mut self, old: NodeId, new: NodeId) {
        self.nodes[old.index()] = Some(new);
    }

    /// The new node that stands for an old one in order edges.
    pub(crate) fn node(&self, old: NodeId) -> Option<NodeId> {
        self.nodes[old.index()]
    }

    /// Lets a new node stand for an old one, result by result and in order edges.
    pub(crate) fn replace(&mut self, old: NodeId, new: NodeId) {
        for (old, new) in self.old.results(old).into_iter().zip(self.new.results(new)) {
            self.set_value(old, new);
        }
        self.set_node(old, new);
    }

    /// Adds a node as it was, on the new values of its operands.
    pub(crate) fn copy(&mut self, id: NodeId) -> Result<NodeId, IrError> {
        let Node { op, results, origin } = self.old.node(id).clone();
        let new = if op.is_source() {
            let ty = results.into_iter().next().ok_or(IrError::Cycle)?;
            self.new.add_source(op, ty, origin)?.node
        } else {
            let operands: SmallVec<[Value; 8]> =
                self.old.operands(id).into_iter().map(|v| self.value(v)).collect::<Result<_, _>>()?;
            self.new.add(op, &operands, origin)?
        };
        self.replace(id, new);
        Ok(new)
    }

    /// Adds an operator on new values.
    pub(crate) fn add(&mut self, op: Op, operands: &[Value], origin: Origin) -> Result<NodeId, IrError> {
        self.new.add(op, operands, origin)
    }

    /// The new graph, with the order edges of the old one between the nodes that stand for theirs.
    pub(crate) fn finish(mut self) -> Graph {
        for id in self.old.nodes() {
            let Some(after) = self.nodes[id.index()] else { continue };
            for before in self.old.order_predecessors(id) {
                if let Some(before) = self.nodes[before.index()]
                    && before != after
                {
                    self.new.add_order(before, after);
                }
            }
        }
        self.new
    }
}
