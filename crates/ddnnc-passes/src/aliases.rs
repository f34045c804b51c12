//! Which values are only names for other values' memory.

use ddnnc_ir::{Graph, NodeId, Op, Value};

/// Whether a value is, under any name, the old content of a parameter or state.
pub(crate) fn is_persistent(graph: &Graph, mut v: Value) -> bool {
    while graph.op(v).is_alias()
        && let Some(&below) = graph.operands(v.node).first()
    {
        v = below;
    }
    matches!(graph.op(v), Op::Parameter { .. } | Op::State { .. })
}

/// A dense numbering of a graph's values, and for each the value whose memory it names.
pub(crate) struct Aliases {
    first: Vec<usize>,
    root: Vec<Option<Value>>,
}

impl Aliases {
    /// The aliases of a graph; `order` is topological and holds every node.
    pub(crate) fn new(graph: &Graph, order: &[NodeId]) -> Aliases {
        let mut first = vec![0; graph.index_bound()];
        let mut count = 0;
        for &id in order {
            first[id.index()] = count;
            count += graph.node(id).results.len();
        }
        let mut aliases = Aliases { first, root: vec![None; count] };
        for &id in order {
            let through =
                if graph.node(id).op.is_alias() { graph.operands(id).first().copied() } else { None };
            for value in graph.results(id) {
                let i = aliases.index(value);
                aliases.root[i] = Some(through.map_or(value, |v| aliases.root(v)));
            }
        }
        aliases
    }

    /// How many values there are.
    pub(crate) fn len(&self) -> usize {
        self.root.len()
    }

    /// The number of a value, below [`Aliases::len`].
    pub(crate) fn index(&self, value: Value) -> usize {
        self.first[value.node.index()] + value.result as usize
    }

    /// The value whose memory this one names (itself where it has memory of its own).
    pub(crate) fn root(&self, value: Value) -> Value {
        self.root[self.index(value)].unwrap_or(value)
    }
}
