//! The parts that a picture of a model shows: blocks, stems, heads and exits, each drawn once for all nets that compute
//! it on the same values.

use ddnnc_ir::{Graph, IrError, Model, Net, NetKind, NodeId, Op};
use indexmap::IndexMap;
use std::collections::BTreeSet;

/// What several nets, or one, compute together in one place of a backbone.
#[derive(Clone, Debug)]
pub struct Part {
    /// Indices of the nets that it serves, in the order of declaration.
    pub nets: Vec<usize>,
    /// Its path: `resnet.s1.0`.
    pub path: String,
    /// The stage that it belongs to, where it is a block.
    pub stage: Option<String>,
    /// Its place along the network, equal for equal places of different nets: `s1.0`, `head`.
    pub place: String,
    /// What the picture calls it: `s1 · 0`.
    pub label: String,
    /// Mnemonic and result type of each operator.
    pub operators: Vec<(&'static str, String)>,
    /// Mnemonic and path of each operator.
    pub holds: BTreeSet<(&'static str, String)>,
    /// Elements of the parameters that it uses.
    pub parameters: usize,
    /// Shapes of a sample that come in.
    pub inputs: Vec<String>,
    /// Shape of a sample that goes out; of nothing but statistics, how many channels they are of.
    pub output: String,
}

impl Part {
    /// The operators with their counts: `3 conv2d, 3 normalize`.
    pub fn operator_counts(&self) -> String {
        let mut counts: IndexMap<&str, usize> = IndexMap::new();
        for (mnemonic, _) in &self.operators {
            *counts.entry(mnemonic).or_default() += 1;
        }
        counts.iter().map(|(name, n)| format!("{n} {name}")).collect::<Vec<_>>().join(", ")
    }
}

/// Parts, what flows between them, and where nets and loss terms hold on to them.
#[derive(Debug, Default)]
pub struct Parts {
    /// In the order of computation.
    pub parts: Vec<Part>,
    /// From the part that gives a value to one that takes it; each pair once.
    pub edges: BTreeSet<(usize, usize)>,
    /// Parts that take the model's input.
    pub entries: BTreeSet<usize>,
    /// The part that gives each net's logits.
    pub logits: Vec<Option<usize>>,
    /// For each loss term, the first net that it is computed from.
    pub term_nets: Vec<Option<usize>>,
}

impl Parts {
    /// Collects the parts of a model from its forward graph with prefixes shared.
    ///
    /// # Errors
    ///
    /// A graph with a cycle.
    pub fn new(model: &Model, shared: &Graph) -> Result<Parts, IrError> {
        let order = shared.topological()?;
        let feeds_logits = feeds_logits(shared, &order);
        let mut parts = Parts::default();
        let mut known: IndexMap<(String, Vec<usize>), usize> = IndexMap::new();
        let mut part_of: Vec<Option<usize>> = vec![None; shared.index_bound()];
        for &id in &order {
            let node = shared.node(id);
            let path = &*node.origin.path;
            if node.op.is_source() || node.op.is_sink() || node.origin.nets.is_empty() {
                continue;
            }
            // What no logits need is of a loss term, unless it is of a net without logits.
            if !feeds_logits[id.index()] && path.starts_with("loss") {
                continue;
            }
            let mut nets: Vec<usize> = node
                .origin
                .nets
                .iter()
                .filter_map(|name| model.nets.iter().position(|net| net.name == **name))
                .collect();
            nets.sort_unstable();
            if nets.is_empty() {
                continue;
            }
            let named = name_part(path, model, &nets);
            let part = *known.entry((named.path.clone(), nets.clone())).or_insert_with(|| {
                parts.parts.push(Part { nets, ..named });
                parts.parts.len() - 1
            });
            part_of[id.index()] = Some(part);
            parts.take_up(shared, id, part, &part_of);
        }
        parts.logits = vec![None; model.nets.len()];
        parts.term_nets = vec![None; model.terms.len()];
        for &id in &order {
            let Op::Output { name } = &shared.node(id).op else { continue };
            let value = shared.operands(id).first().copied();
            if let Some(net) = name.strip_prefix("logits.") {
                let net = model.nets.iter().position(|n| n.name == net);
                if let (Some(net), Some(value)) = (net, value) {
                    parts.logits[net] = behind(shared, value.node, &part_of);
                }
            } else if let Some(term) = name.strip_prefix("loss.") {
                let term = model.terms.iter().position(|t| t.name == term);
                if let (Some(term), Some(value)) = (term, value) {
                    let nets = &shared.node(value.node).origin.nets;
                    parts.term_nets[term] =
                        nets.first().and_then(|name| model.nets.iter().position(|net| net.name == **name));
                }
            }
        }
        Ok(parts)
    }

    /// Adds a node to its part.
    fn take_up(&mut self, graph: &Graph, id: NodeId, part: usize, part_of: &[Option<usize>]) {
        let node = graph.node(id);
        for value in graph.operands(id) {
            let operand = graph.node(value.node);
            let ty = graph.ty(value);
            match (&operand.op, part_of[value.node.index()]) {
                (Op::Parameter { .. }, _) => self.parts[part].parameters += ty.elements(),
                (Op::Input { .. }, _) if ty.dims().len() > 1 => {
                    self.entries.insert(part);
                    self.comes_in(part, sample(ty.dims()));
                }
                (_, Some(from)) if from != part => {
                    self.edges.insert((from, part));
                    // Statistics have no sample: they come with the map that they are of.
                    if ty.dims().len() > 1 {
                        self.comes_in(part, sample(ty.dims()));
                    }
                }
                _ => {}
            }
        }
        let part = &mut self.parts[part];
        part.holds.insert((node.op.mnemonic(), node.origin.path.to_string()));
        if let Some(ty) = node.results.first() {
            part.operators.push((node.op.mnemonic(), ty.to_string()));
            if ty.dims().len() > 1 {
                part.output = sample(ty.dims());
            } else if part.output.is_empty() {
                // A part that gives nothing but statistics: two norms, private to their nets, of one map.
                part.output = ty.shape.elements().to_string();
            }
        }
    }

    fn comes_in(&mut self, part: usize, shape: String) {
        let inputs = &mut self.parts[part].inputs;
        if !inputs.contains(&shape) {
            inputs.push(shape);
        }
    }

    /// The part that a pairing means by (net, stage or `logits`): the last block of that stage.
    pub fn end_of(&self, model: &Model, (net, part): &(String, String)) -> Option<usize> {
        let net = model.nets.iter().position(|n| n.name == *net)?;
        let of_stage = |p: &Part| p.nets.contains(&net) && p.stage.as_deref() == Some(part);
        let of_place = |p: &Part| p.nets.contains(&net) && p.place == *part;
        self.parts
            .iter()
            .rposition(of_stage)
            .or_else(|| self.parts.iter().rposition(of_place))
            .or(self.logits[net])
    }
}

/// Which nodes some net's logits are computed from.
fn feeds_logits(graph: &Graph, order: &[NodeId]) -> Vec<bool> {
    let mut feeds = vec![false; graph.index_bound()];
    for &id in order.iter().rev() {
        let is_logits = matches!(&graph.node(id).op, Op::Output { name } if name.starts_with("logits."));
        if is_logits || feeds[id.index()] {
            for value in graph.operands(id) {
                feeds[value.node.index()] = true;
            }
        }
    }
    feeds
}

/// The part that makes a value, through nodes that belong to none.
fn behind(graph: &Graph, mut id: NodeId, part_of: &[Option<usize>]) -> Option<usize> {
    loop {
        if let Some(part) = part_of[id.index()] {
            return Some(part);
        }
        id = graph.operands(id).first()?.node;
    }
}

/// `64×56×56`: the shape of one sample.
fn sample(dims: &[usize]) -> String {
    let dims: Vec<String> = dims.iter().skip(1).map(usize::to_string).collect();
    dims.join("×")
}

/// The part that an operator's path lies in, still without content.
fn name_part(path: &str, model: &Model, nets: &[usize]) -> Part {
    let words: Vec<&str> = path.split('.').collect();
    let is_stage = |word: &str| {
        let has = |net: &Net| net.stages.iter().any(|(stage, _)| stage == word);
        // An exit names no stages of its own: those of every net count.
        model.nets.iter().any(has)
    };
    let is_exit =
        |word: &str| nets.iter().any(|&n| model.nets[n].kind == NetKind::Exit && model.nets[n].name == word);
    let (len, stage, label) = match words.as_slice() {
        [_, stage, index, _, ..] if is_stage(stage) => {
            (3, Some(stage.to_string()), format!("{stage} · {index}"))
        }
        [_, exit, block, _, ..] if is_exit(exit) => (3, None, format!("{exit} · {block}")),
        [_, exit, _] if is_exit(exit) => (2, None, format!("{exit} · head")),
        [_, name, _, ..] => (2, None, name.to_string()),
        _ => (1, None, words.first().copied().unwrap_or_default().to_string()),
    };
    let words = &words[..len.min(words.len())];
    Part {
        nets: Vec::new(),
        path: words.join("."),
        stage,
        place: words[words.len().min(2) - 1..].join("."),
        label,
        operators: Vec::new(),
        holds: BTreeSet::new(),
        parameters: 0,
        inputs: Vec::new(),
        output: String::new(),
    }
}
