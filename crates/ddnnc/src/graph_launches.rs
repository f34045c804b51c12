//! The launches of a training step by the parts of a picture that they compute, and how many there are of each kind.

use crate::graph_parts::Parts;
use crate::launches;
use ddnnc_ir::{Graph, GroupKind, IrError, Model, Node, NodeId, Op, is_convolution};
use std::collections::BTreeSet;

/// Equal launches of one part.
#[derive(Clone, Debug, PartialEq)]
pub struct PartLaunch {
    /// The group's name, or the operator's mnemonic.
    pub name: String,
    /// The group's kind; a convolution on its own counts as one of a convolution.
    pub kind: Option<GroupKind>,
    /// Indices of the nets that it serves, in the order of declaration.
    pub nets: Vec<usize>,
    /// How many there are.
    pub count: usize,
}

/// The launches of a training step.
#[derive(Debug, Default)]
pub struct StepLaunches {
    /// Those of the forward pass for each part, in the order of computation.
    pub of_part: Vec<Vec<PartLaunch>>,
    /// Forward and backward launches of each kind, in the order of [`GroupKind::ALL`].
    pub counts: [[usize; 2]; GroupKind::ALL.len()],
    /// The names of the groups that update parameters and states.
    pub updates: Vec<String>,
}

impl StepLaunches {
    /// Finds the parts of every launch of a training step; `fused` is its graph after all passes.
    ///
    /// A launch of the forward pass is one that a logit or a loss needs. It belongs to the parts that hold what it is
    /// there for: its convolutions, else the operators whose results leave it.
    ///
    /// # Errors
    ///
    /// A graph with a cycle.
    pub fn new(model: &Model, parts: &Parts, fused: &Graph) -> Result<StepLaunches, IrError> {
        let order = fused.topological()?;
        let forward = forward(fused, &order);
        let mut found = StepLaunches { of_part: vec![Vec::new(); parts.parts.len()], ..Default::default() };
        for &id in &order {
            let node = fused.node(id);
            if node.op.is_source() || node.op.is_sink() || node.op.is_alias() {
                continue;
            }
            let kind = kind(&node.op);
            if kind == Some(GroupKind::Update) {
                found.updates.push(launches::name(&node.op).to_string());
            }
            if let Some(kind) = kind {
                found.counts[kind as usize][usize::from(!forward[id.index()])] += 1;
            }
            if forward[id.index()] {
                found.take_up(model, parts, node, kind);
            }
        }
        Ok(found)
    }

    fn take_up(&mut self, model: &Model, parts: &Parts, node: &Node, kind: Option<GroupKind>) {
        let is_of = |name: &str| node.origin.nets.iter().any(|net| **net == *name);
        let nets: Vec<usize> = (0..model.nets.len()).filter(|&net| is_of(&model.nets[net].name)).collect();
        let purpose = purpose(node);
        let here = parts.parts.iter().enumerate().filter(|(_, part)| {
            part.nets.iter().all(|net| nets.contains(net))
                && purpose.iter().any(|(op, path)| part.holds.contains(&(*op, path.to_string())))
        });
        for (part, _) in here {
            let name = launches::name(&node.op).to_string();
            let launch = PartLaunch { name, kind, nets: nets.clone(), count: 1 };
            let launches = &mut self.of_part[part];
            match launches.iter_mut().find(|l| PartLaunch { count: 1, ..(*l).clone() } == launch) {
                Some(known) => known.count += 1,
                None => launches.push(launch),
            }
        }
    }
}

fn kind(op: &Op) -> Option<GroupKind> {
    match op {
        Op::Fused(group) => Some(group.kind),
        op if is_convolution(op) => Some(GroupKind::Convolution),
        _ => None,
    }
}

/// Which nodes some net's logits or a loss term is computed from.
fn forward(graph: &Graph, order: &[NodeId]) -> Vec<bool> {
    let mut needed = vec![false; graph.index_bound()];
    for &id in order.iter().rev() {
        if needed[id.index()] || matches!(graph.node(id).op, Op::Output { .. }) {
            for value in graph.operands(id) {
                needed[value.node.index()] = true;
            }
        }
    }
    needed
}

/// Mnemonic and path of the operators that a launch is there for; what is computed on the way to them may belong to the
/// part before.
fn purpose(node: &Node) -> BTreeSet<(&'static str, &str)> {
    let Op::Fused(group) = &node.op else {
        return BTreeSet::from([(node.op.mnemonic(), &*node.origin.path)]);
    };
    let convolutions: BTreeSet<_> =
        group.convolutions().map(|(_, step)| (step.op.mnemonic(), step.path.as_str())).collect();
    if !convolutions.is_empty() {
        return convolutions;
    }
    let results = group.results.iter().filter_map(|&result| group.step_of(result));
    results.map(|(step, _)| (step.op.mnemonic(), step.path.as_str())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Spec, Ui};
    use ddnnc_ir::Mode;
    use ddnnc_passes::{Goal, Options, compile_with};

    fn phase(model: &Model, goal: Goal, options: &Options, wanted: &str) -> Graph {
        let mut found = None;
        let mut see = |phase: &str, graph: &Graph| {
            if phase == wanted {
                found = Some(graph.clone());
            }
        };
        compile_with(model, goal, options, &mut see).expect("the spec compiles");
        found.expect("every goal has the phase")
    }

    #[test]
    fn unfused_launches_are_the_operators_of_their_part() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../specs/quickstart.ddnn");
        let spec = Spec::load(path.as_ref(), &[], Ui { color: false, quiet: true }).expect("a spec");
        let model = spec.lower(Mode::Train, Some(2)).expect("the spec lowers");
        let plain = Options::without_fusion();
        let shared = phase(&model, Goal::Evaluate, &plain, "shared");
        let parts = Parts::new(&model, &shared).expect("no cycle");
        let graph = phase(&model, Goal::Train, &plain, "fused");
        let step = StepLaunches::new(&model, &parts, &graph).expect("no cycle");
        for (part, launches) in parts.parts.iter().zip(&step.of_part) {
            for launch in launches {
                let inside = part.operators.iter().filter(|(name, _)| *name == launch.name).count();
                assert_eq!((&launch.nets, launch.count), (&part.nets, inside), "{}: {launch:?}", part.path);
            }
            let convolutions = |launch: &&PartLaunch| launch.kind == Some(GroupKind::Convolution);
            let stem_or_block = part.stage.is_some() || part.place == "stem";
            assert_eq!(launches.iter().any(|l| convolutions(&l)), stem_or_block, "{}", part.path);
        }
        assert!(step.updates.is_empty(), "{:?}", step.updates);
    }
}
