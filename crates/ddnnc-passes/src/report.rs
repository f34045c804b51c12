//! Figures about a compiled program, for summaries.

use crate::work::macs;
use crate::{Place, Program};
use ddnnc_ir::{Graph, NodeId, Op, ValueType, is_update};
use rustc_hash::FxHashSet;

/// A value of the arena and its size.
#[derive(Clone, Debug, PartialEq)]
pub struct LargeValue {
    /// The operator that makes it, by mnemonic; `input` for an input.
    pub op: String,
    /// The path of what makes it, or the input's name; may be empty.
    pub path: String,
    /// Its type.
    pub ty: ValueType,
    /// Its size in bytes.
    pub bytes: usize,
}

/// What a summary shows of a compiled program.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// Operators of the step where every net is computed on its own and no pass runs; sources and sinks do not count.
    pub operators_before_fusion: usize,
    /// Operators of the graph after all passes, counted alike.
    pub operators_after: usize,
    /// Launches of the program.
    pub launches: usize,
    /// Multiply-accumulates of the step on its whole batch: convolutions and matrix products, forward and backward.
    pub macs: u64,
    /// Bytes of the arena.
    pub arena_bytes: usize,
    /// Bytes of the persistent region.
    pub persistent_bytes: usize,
    /// Both together.
    pub peak_bytes: usize,
    /// Bytes of all values of the step before fusion, each in memory of its own: inputs, and what operators give.
    pub value_bytes: usize,
    /// The largest values of the arena, largest first, at most [`LARGEST`].
    pub largest: Vec<LargeValue>,
}

/// How many values a report names.
pub const LARGEST: usize = 10;

impl Report {
    pub(crate) fn new(
        operators_before_fusion: usize,
        value_bytes: usize,
        graph: &Graph,
        program: &Program,
    ) -> Report {
        let mut values: Vec<LargeValue> = Vec::new();
        let mut counted: FxHashSet<u32> = FxHashSet::default();
        let mut add = |op: &str, path: &str, b: crate::BufferId| {
            let buffer = program.buffer(b);
            if matches!(buffer.place, Place::Arena { .. }) && counted.insert(b.0) {
                let (op, path) = (op.to_owned(), path.to_owned());
                values.push(LargeValue { op, path, ty: buffer.ty.clone(), bytes: buffer.ty.bytes() });
            }
        };
        for (name, &b) in &program.inputs {
            add("input", name, b);
        }
        for launch in &program.launches {
            for &b in &launch.results {
                add(launch.op.mnemonic(), &launch.path, b);
            }
        }
        values.sort_by_key(|v| std::cmp::Reverse(v.bytes));
        values.truncate(LARGEST);
        Report {
            operators_before_fusion,
            operators_after: operators(graph),
            launches: program.launches.len(),
            macs: program.launches.iter().map(|l| macs(program, l)).fold(0, u64::saturating_add),
            arena_bytes: program.arena_bytes,
            persistent_bytes: program.persistent_bytes,
            peak_bytes: program.peak_bytes(),
            value_bytes,
            largest: values,
        }
    }
}

/// Nodes that are neither sources nor sinks.
pub(crate) fn operators(graph: &Graph) -> usize {
    graph.nodes().filter(|&id| !graph.node(id).op.is_source() && !graph.node(id).op.is_sink()).count()
}

/// Bytes of the inputs of a graph and of what its operators give; names of memory and updates in place take none.
pub(crate) fn value_bytes(graph: &Graph) -> usize {
    let made = |id: &NodeId| {
        let op = &graph.node(*id).op;
        let elsewhere =
            matches!(op, Op::Parameter { .. } | Op::State { .. }) || op.is_alias() || is_update(op);
        !elsewhere
    };
    graph.nodes().filter(made).flat_map(|id| &graph.node(id).results).map(ValueType::bytes).sum()
}
