//! A model in stages, one for each net of a cascade: what a net needs that those before it have not computed.

use crate::share_prefixes;
use ddnnc_ir::{Graph, IrError, Model, Node, NodeId, Op, Origin, Value, infer};
use rustc_hash::{FxHashMap, FxHashSet};

/// What the names of values begin with that a stage hands on.
pub const HANDED_ON: &str = "kept.";

/// The name of a net's logits among a graph's outputs.
fn logits(net: &str) -> String {
    format!("logits.{net}")
}

/// Cuts a model in eval mode into one model for each of these nets, in the order in which they are asked.
///
/// The graph of a stage gives `logits.<net>`, and as outputs `kept.<number>` what later stages go on with; those have inputs
/// of the same names, types and numbers. What does not depend on the input is computed again where it is needed, so that all
/// values that are handed on are of the batch. Every stage has the parameters and running statistics that its graph reads, and
/// no losses. Together the stages compute what all nets compute with common prefixes computed once.
///
/// # Errors
///
/// A graph with a cycle, or without the logits of a net.
pub fn stages(model: &Model, nets: &[&str]) -> Result<Vec<Model>, IrError> {
    let mut graph = model.graph.clone();
    share_prefixes(&mut graph)?;
    let order = graph.topological()?;
    let of_input = of_input(&graph, &order, &model.input.0);
    // The stage that computes a node first.
    let mut stage_of: FxHashMap<NodeId, usize> = FxHashMap::default();
    for (stage, net) in nets.iter().enumerate() {
        let last = last(&graph, &logits(net))?;
        for id in ancestors(&graph, last.node) {
            stage_of.entry(id).or_insert(stage);
        }
    }
    let mut cut = Cut { graph: &graph, order: &order, of_input, stage_of, numbers: FxHashMap::default() };
    let mut parts = Vec::with_capacity(nets.len());
    for (stage, net) in nets.iter().enumerate() {
        parts.push(cut.part(stage, &logits(net))?);
    }
    let numbers = &cut.numbers;
    let models = parts.into_iter().zip(nets).enumerate().map(|(stage, ((mut part, values), net))| {
        // What later stages have taken, in the order of its numbers.
        let mut kept: Vec<(usize, Value)> = Vec::new();
        for (old, &number) in numbers {
            if cut.stage_of.get(&old.node) == Some(&stage)
                && let Some(&new) = values.get(old)
            {
                kept.push((number, new));
            }
        }
        kept.sort_unstable_by_key(|(number, _)| *number);
        for (number, value) in kept {
            let op = Op::Output { name: format!("{HANDED_ON}{number}") };
            part.add(op, &[value], Origin::default())?;
        }
        Ok(of_graph(model, net, part))
    });
    models.collect()
}

/// The value that an output shows.
fn last(graph: &Graph, output: &str) -> Result<Value, IrError> {
    let none = || IrError::Invalid { node: output.to_owned(), message: "no such output".to_owned() };
    graph.output(output).ok_or_else(none)
}

/// The nodes that a node needs, itself among them.
fn ancestors(graph: &Graph, last: NodeId) -> FxHashSet<NodeId> {
    let mut found = FxHashSet::default();
    let mut ahead = vec![last];
    while let Some(id) = ahead.pop() {
        if found.insert(id) {
            ahead.extend(graph.operands(id).iter().map(|v| v.node));
        }
    }
    found
}

/// The nodes that depend on the input, without the input itself.
fn of_input(graph: &Graph, order: &[NodeId], input: &str) -> FxHashSet<NodeId> {
    let is_input = |id: NodeId| matches!(&graph.node(id).op, Op::Input { name } if name == input);
    let mut found: FxHashSet<NodeId> = FxHashSet::default();
    for &id in order {
        if graph.operands(id).iter().any(|v| is_input(v.node) || found.contains(&v.node)) {
            found.insert(id);
        }
    }
    found
}

/// A graph being cut.
struct Cut<'g> {
    graph: &'g Graph,
    order: &'g [NodeId],
    of_input: FxHashSet<NodeId>,
    stage_of: FxHashMap<NodeId, usize>,
    /// The number of each value that is handed on, in the order in which they are taken.
    numbers: FxHashMap<Value, usize>,
}

impl Cut<'_> {
    /// The graph of a stage, without what it hands on, and its values by the old ones.
    fn part(&mut self, stage: usize, output: &str) -> Result<(Graph, FxHashMap<Value, Value>), IrError> {
        let mut part = Graph::new(self.graph.name.clone());
        let mut values: FxHashMap<Value, Value> = FxHashMap::default();
        let last = last(self.graph, output)?;
        let earlier = |id: &NodeId| {
            self.of_input.contains(id) && self.stage_of.get(id).is_some_and(|&first| first < stage)
        };
        // What is handed on is not computed again, nor what only leads to it.
        let mut wanted: FxHashSet<NodeId> = FxHashSet::default();
        let mut read: FxHashSet<Value> = FxHashSet::from_iter([last]);
        let mut ahead = vec![last.node];
        while let Some(id) = ahead.pop() {
            if wanted.insert(id) && !earlier(&id) {
                let operands = self.graph.operands(id);
                ahead.extend(operands.iter().map(|v| v.node));
                read.extend(operands);
            }
        }
        for id in self.order.iter().copied().filter(|id| wanted.contains(id)) {
            let Node { op, results, origin } = self.graph.node(id).clone();
            if earlier(&id) {
                let taken = self.graph.results(id).into_iter().zip(results);
                for (value, ty) in taken.filter(|(value, _)| read.contains(value)) {
                    let next = self.numbers.len();
                    let number = *self.numbers.entry(value).or_insert(next);
                    let op = Op::Input { name: format!("{HANDED_ON}{number}") };
                    values.insert(value, part.add_source(op, ty, origin.clone())?);
                }
                continue;
            }
            let new = if op.is_source() {
                let ty = results.into_iter().next().ok_or(IrError::Cycle)?;
                part.add_source(op, ty, origin)?.node
            } else {
                let operands = self.graph.operands(id);
                let operands = operands.iter().map(|v| values.get(v).copied().ok_or(IrError::Cycle));
                let operands = operands.collect::<Result<Vec<Value>, IrError>>()?;
                part.add(op, &operands, origin)?
            };
            values.extend(self.graph.results(id).into_iter().zip(part.results(new)));
        }
        let logits = values.get(&last).copied().ok_or(IrError::Cycle)?;
        part.add(Op::Output { name: output.to_owned() }, &[logits], Origin::default())?;
        Ok((part, values))
    }
}

/// The model of one net with that graph.
fn of_graph(model: &Model, net: &str, graph: Graph) -> Model {
    let mut of_net = model.clone();
    of_net.nets.retain(|n| n.name == net);
    of_net.terms.clear();
    of_net.pairings.clear();
    let read: FxHashSet<&str> = graph
        .nodes()
        .filter_map(|id| match &graph.node(id).op {
            Op::Parameter { name, .. } | Op::State { name } => Some(name.as_str()),
            _ => None,
        })
        .collect();
    of_net.parameters.retain(|name, _| read.contains(name.as_str()));
    of_net.states.retain(|name, _| read.contains(name.as_str()));
    of_net.graph = graph;
    of_net
}

/// Multiply-accumulates of one sample of the batch up to each net of a cascade: of the stages of it and the nets before it.
///
/// # Errors
///
/// As [`stages`].
pub fn macs_until(model: &Model, nets: &[&str]) -> Result<Vec<u64>, IrError> {
    let mut macs = 0u64;
    let until = stages(model, nets)?.into_iter().map(|stage| {
        let graph = &stage.graph;
        for id in graph.nodes() {
            let node = graph.node(id);
            let operands = graph.operands(id);
            let types: Vec<_> = operands.iter().map(|&v| graph.ty(v)).collect();
            macs =
                macs.saturating_add(infer::macs(&node.op, &types, &node.results) / model.batch.max(1) as u64);
        }
        macs
    });
    Ok(until.collect())
}
