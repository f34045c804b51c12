//! A lowered model: the forward graph and the tables around it.

use crate::{Graph, IrError, NodeId, Op, Recipe, Shape};
use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

/// Whether batch norms take the batch's statistics and dropouts drop (train), or neither (eval).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mode {
    /// Batch statistics, running statistics updated, dropout on.
    Train,
    /// Running statistics, nothing updated, no dropout.
    Eval,
}

/// What the front end makes of a spec.
///
/// The graph is the forward pass of every net, each lowered on its own (a pass merges what they share), and the loss
/// terms. Its sources: inputs `image` f32 `[N,C,H,W]` and `label` i64 `[N]` (under the names of the spec's `input` and
/// `target`: see `input` and `target`), `rng` i64 `[2]` (seed, step) where something drops out, and `weight.<term>`
/// f32 [] for each term whose weight changes with time. Its outputs: `logits.<net>` f32 `[N,K]` for each net that has
/// them, `loss.<term>` f32 [] (unweighted) and `loss.total` f32 [] (weighted sum). In [`Mode::Train`] it stores the
/// running statistics.
#[derive(Clone, Debug)]
pub struct Model {
    /// The model's name.
    pub name: String,
    /// Train or eval.
    pub mode: Mode,
    /// N of every shape in the graph.
    pub batch: usize,
    /// Name and shape per sample of the input: `[C,H,W]`.
    pub input: (String, Shape),
    /// Name of the target, and the number of classes K.
    pub target: (String, usize),
    /// The forward graph.
    pub graph: Graph,
    /// Every parameter by public name, in the order of first use.
    pub parameters: IndexMap<String, Parameter>,
    /// Every running statistic by public name, in the order of first use.
    pub states: IndexMap<String, State>,
    /// Sub-nets, exits and networks, in the order of declaration.
    pub nets: Vec<Net>,
    /// The loss terms, in order.
    pub terms: Vec<Term>,
    /// The feature pairings that the terms make, for pictures and summaries.
    pub pairings: Vec<Pairing>,
    /// How to train; of a model with phases, in the phase at hand.
    pub recipe: Recipe,
    /// The phases of training, in order; none where the spec declares none.
    pub phases: Vec<Phase>,
    /// The place among `phases` of the one that the graph, its terms and `recipe` are of; 0 where there are none.
    ///
    /// In [`Mode::Train`] the graph has the logits of the nets that the terms of that phase read. The tables are those of
    /// all phases, but for what is `frozen`: weights carry from one to the next by name.
    pub phase: usize,
}

/// A part of the training.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Phase {
    /// Its name.
    pub name: String,
    /// Passes over the training set.
    pub epochs: usize,
}

impl Model {
    /// Epochs of the whole training.
    pub fn epochs(&self) -> usize {
        if self.phases.is_empty() { self.recipe.epochs } else { self.phases.iter().map(|p| p.epochs).sum() }
    }

    /// Leaves one net: its logits, what leads to them, its parameters and running statistics; no losses.
    ///
    /// # Errors
    ///
    /// A graph with a cycle, which no public call makes.
    pub fn keep_only(&mut self, net: &str) -> Result<(), IrError> {
        self.nets.retain(|n| n.name == net);
        let nets = &self.nets;
        self.parameters.retain(|name, _| nets.iter().any(|n| n.parameters.contains(name)));
        self.states.retain(|name, _| nets.iter().any(|n| n.states.contains(name)));
        self.terms.clear();
        self.pairings.clear();
        let logits = format!("logits.{net}");
        self.keep_sinks(|op| matches!(op, Op::Output { name } if *name == logits))
    }

    /// Leaves the outputs and stores that `kept` says, and what leads to them.
    ///
    /// # Errors
    ///
    /// A graph with a cycle, which no public call makes.
    pub fn keep_sinks(&mut self, kept: impl Fn(&Op) -> bool) -> Result<(), IrError> {
        let order: Vec<NodeId> = self.graph.topological()?;
        for &id in order.iter().rev() {
            let op = &self.graph.node(id).op;
            let used = || self.graph.results(id).iter().any(|&v| !self.graph.users(v).is_empty());
            if !(if op.is_sink() { kept(op) } else { used() }) {
                self.graph.remove(id);
            }
        }
        Ok(())
    }
}

/// How a parameter begins.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Init {
    /// Normal with standard deviation `std` (He et al. 2015: √(2/fan) for what feeds a ReLU).
    Normal {
        /// Standard deviation.
        std: f64,
    },
    /// Uniform in ±`bound`.
    Uniform {
        /// Bound.
        bound: f64,
    },
    /// One number everywhere.
    Constant {
        /// The number.
        value: f64,
    },
}

/// A weight's entry in the table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Parameter {
    /// Its shape.
    pub shape: Shape,
    /// How it begins where no file gives it.
    pub init: Init,
    /// No gradient, no update.
    pub frozen: bool,
    /// The weights file that gives it, as written in the spec.
    pub load: Option<String>,
}

/// A running statistic's entry in the table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Its shape.
    pub shape: Shape,
    /// Its value before training.
    pub initial: f64,
    /// The weights file that gives it, as written in the spec.
    pub load: Option<String>,
    /// To be estimated anew over training data once training ends (`norm = recalibrated`).
    pub recalibrate: bool,
}

/// What a net is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NetKind {
    /// A sub-net of a backbone, sharing its weights.
    Subnet,
    /// An early exit.
    Exit,
    /// A network with weights of its own.
    Network,
}

/// One sub-net, exit or network.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Net {
    /// Its name.
    pub name: String,
    /// What it is.
    pub kind: NetKind,
    /// The names of all parameters that it alone needs to run, in order of use.
    pub parameters: Vec<String>,
    /// The names of all running statistics that it needs, in order of use.
    pub states: Vec<String>,
    /// Elements of its parameters.
    pub parameter_count: u64,
    /// Multiply-accumulates of one sample.
    pub macs: u64,
    /// Convolutions and linear operators on the longest path from input to logits.
    pub depth: usize,
    /// Nothing of it is trained.
    pub frozen: bool,
    /// Blocks kept of each stage: (stage, blocks).
    pub stages: Vec<(String, usize)>,
}

/// A number that may change during training.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Weight {
    /// Always the same; it stands in the graph as a `scale`.
    Constant(f64),
    /// Linear from `from` to `to` over the first `epochs` epochs, then `to`; it is the input `weight.<term>`.
    Ramp {
        /// At the first step.
        from: f64,
        /// From `epochs` on.
        to: f64,
        /// Length in epochs.
        epochs: f64,
    },
}

impl Weight {
    /// The weight after `epochs` epochs (a fraction within an epoch).
    pub fn at(&self, epochs: f64) -> f64 {
        match *self {
            Weight::Constant(w) => w,
            Weight::Ramp { from, to, epochs: length } => {
                if epochs >= length {
                    to
                } else {
                    from + (to - from) * (epochs / length)
                }
            }
        }
    }
}

/// One term of the loss.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Term {
    /// `ce.full`, `kl.full.r20`, `attention.full.r20.s3`, `hint.full.r20.s2`; the graph's output is `loss.<name>`.
    pub name: String,
    /// Its factor in the total.
    pub weight: Weight,
}

/// Which part teaches which.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pairing {
    /// The term that it makes.
    pub term: String,
    /// (net, stage or `logits`) of the teacher.
    pub teacher: (String, String),
    /// (net, stage or `logits`) of the student.
    pub student: (String, String),
}
