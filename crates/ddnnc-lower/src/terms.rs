//! The loss terms as planned: who, what, and with which weight. Names and ranges are checked here; the shapes of paired
//! features in `losses`.

use crate::value::Tensor;
use ddnnc_diag::Span;
use ddnnc_ir::Weight;
use std::rc::Rc;

/// One term of the loss.
#[derive(Clone, Debug)]
pub(crate) struct TermPlan<'a> {
    /// Its public name.
    pub(crate) name: String,
    /// Its factor.
    pub(crate) weight: Weight,
    /// Where it is written, or the net that it is the default of.
    pub(crate) span: Span,
    /// What it computes.
    pub(crate) kind: TermKind<'a>,
}

/// Two nets of which one teaches the other.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pair<'a> {
    /// The teacher.
    pub(crate) teacher: &'a str,
    /// The student.
    pub(crate) student: &'a str,
    /// Whether the gradient stops before the teacher.
    pub(crate) detach: bool,
}

/// Two features: the stage and the value of each.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Features<'a> {
    /// The teacher's stage and its value.
    pub(crate) teacher: (&'a str, Tensor),
    /// The student's stage and its value.
    pub(crate) student: (&'a str, Tensor),
}

/// Nets that teach as one.
#[derive(Clone, Debug)]
pub(crate) struct Ensemble<'a> {
    /// The teachers, in the order of declaration.
    pub(crate) teachers: Vec<&'a str>,
    /// Whether the gradient stops before the teachers.
    pub(crate) detach: bool,
    /// How much each of them counts.
    pub(crate) weights: Weights,
}

/// How much each teacher of a set counts; `path` begins the names of the parameters that say so.
#[derive(Clone, Debug)]
pub(crate) enum Weights {
    /// All the same.
    Equal,
    /// What a linear operator on their features gives.
    Gate {
        /// The step of each teacher's feature.
        features: Vec<usize>,
        /// The path of the gate.
        path: String,
    },
    /// What the student's feature and a vector for each teacher give.
    Adaptive {
        /// The step of the student's feature.
        feature: usize,
        /// The path of the vectors.
        path: String,
    },
}

/// How an attention map is made of a feature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Map {
    /// Sum over the channels, standardised per sample.
    ZScore,
    /// Mean of squares over the channels, L2-normalised per sample.
    At,
}

/// What is compared between the samples of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Relation {
    /// Distances of pairs, by their mean.
    Distance,
    /// Angles of triples.
    Angle,
}

/// What a term computes.
#[derive(Clone, Debug)]
pub(crate) enum TermKind<'a> {
    /// Against the label.
    CrossEntropy {
        /// The net.
        net: &'a str,
        /// Label smoothing.
        smoothing: f64,
    },
    /// Between softened logits.
    Kl {
        /// Who teaches whom.
        pair: Pair<'a>,
        /// T
        temperature: f64,
    },
    /// Between the softened logits of a set and of a student.
    Ensemble {
        /// Who teaches.
        ensemble: Rc<Ensemble<'a>>,
        /// Who learns.
        student: &'a str,
        /// T
        temperature: f64,
    },
    /// The cross-entropy of a gated set's logits against the label.
    Gate {
        /// The set.
        ensemble: Rc<Ensemble<'a>>,
    },
    /// The squares of the parameters that weigh an adaptive set's teachers.
    Penalty {
        /// What the parameters' names begin with.
        path: String,
        /// The student that they belong to.
        student: &'a str,
    },
    /// Between attention maps.
    Attention {
        /// Who teaches whom.
        pair: Pair<'a>,
        /// The features.
        features: Features<'a>,
        /// The kind of map.
        map: Map,
        /// Added to the variance (z-score only).
        eps: f64,
    },
    /// Between the relations of a batch.
    Relation {
        /// Who teaches whom.
        pair: Pair<'a>,
        /// The features.
        features: Features<'a>,
        /// Distances or angles.
        relation: Relation,
    },
    /// Between features.
    Hint {
        /// Who teaches whom.
        pair: Pair<'a>,
        /// The features.
        features: Features<'a>,
        /// The path of the 1×1 convolution on the student's feature, where there is one.
        adapter: Option<String>,
    },
}

impl<'a> TermKind<'a> {
    /// The nets that it reads, a teacher first.
    pub(crate) fn nets(&self) -> Vec<&'a str> {
        match self {
            TermKind::CrossEntropy { net, .. } => vec![net],
            TermKind::Kl { pair, .. }
            | TermKind::Attention { pair, .. }
            | TermKind::Relation { pair, .. }
            | TermKind::Hint { pair, .. } => {
                vec![pair.teacher, pair.student]
            }
            TermKind::Ensemble { ensemble, student, .. } => {
                let others = ensemble.teachers.iter().filter(|teacher| *teacher != student);
                others.chain([student]).copied().collect()
            }
            TermKind::Gate { ensemble } => ensemble.teachers.to_vec(),
            TermKind::Penalty { student, .. } => vec![student],
        }
    }
}
