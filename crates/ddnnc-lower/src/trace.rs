//! What a net computes, as a straight list of operators on values of one sample.

use ddnnc_diag::Span;
use ddnnc_ir::{Conv, Pool, Shape, UnaryKind};
use std::rc::Rc;

/// An operator with its attributes; weights are the step's own.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Kind {
    /// The image.
    Image,
    /// Weight [out, in/groups, kh, kw].
    Conv {
        /// Geometry.
        conv: Conv,
        /// (kh, kw)
        kernel: [usize; 2],
        /// Whether a bias follows.
        bias: bool,
    },
    /// Weight [out, in].
    Linear {
        /// Whether a bias follows.
        bias: bool,
    },
    /// Weights [4·hidden, C·H] and [4·hidden, hidden] and two biases [4·hidden] for each direction.
    Lstm(Lstm),
    /// Gain, bias and running statistics per channel.
    Norm {
        /// Added to the variance.
        eps: f64,
        /// Weight of the batch in the running statistics.
        momentum: f64,
    },
    /// Elementwise.
    Unary(UnaryKind),
    /// Largest of a window.
    MaxPool(Pool),
    /// Mean of a window.
    AvgPool(Pool),
    /// `[C,H,W]` → `[C]`
    GlobalAvgPool,
    /// To the step's shape.
    Reshape,
    /// Random zeros in training.
    Dropout {
        /// Their probability.
        p: f64,
    },
    /// On `[K]`.
    Softmax,
    /// On `[K]`.
    LogSoftmax,
    /// To length one.
    L2Normalize {
        /// Least length.
        eps: f64,
    },
    /// Sum, the smaller operand stretched.
    Add,
    /// Product, the smaller operand stretched.
    Mul,
    /// Along the channels.
    Concat,
}

impl Kind {
    /// Whether the step has weights.
    pub(crate) fn has_weights(&self) -> bool {
        self.weight_field().is_some()
    }

    /// The field of the weight that [`Trace::weight_shape`] is the shape of.
    pub(crate) fn weight_field(&self) -> Option<&'static str> {
        match self {
            Kind::Conv { .. } | Kind::Linear { .. } | Kind::Norm { .. } => Some("weight"),
            Kind::Lstm(_) => Some("weight_ih"),
            Kind::Image
            | Kind::Unary(_)
            | Kind::MaxPool(_)
            | Kind::AvgPool(_)
            | Kind::GlobalAvgPool
            | Kind::Reshape
            | Kind::Dropout { .. }
            | Kind::Softmax
            | Kind::LogSoftmax
            | Kind::L2Normalize { .. }
            | Kind::Add
            | Kind::Mul
            | Kind::Concat => None,
        }
    }
}

/// An LSTM over the columns of a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lstm {
    /// Numbers in the state of a direction.
    pub(crate) hidden: usize,
    /// Whether it gives the states behind all columns.
    pub(crate) sequence: bool,
    /// Whether columns are read from the last to the first as well.
    pub(crate) bidirectional: bool,
}

/// One operator of a net.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    /// What it does.
    pub(crate) kind: Kind,
    /// The steps it reads.
    pub(crate) operands: Vec<usize>,
    /// Its result, without the batch.
    pub(crate) shape: Shape,
    /// `s1.0.conv1`: its path in the backbone.
    pub(crate) path: Rc<str>,
    /// Where it is written.
    pub(crate) span: Span,
    /// Whether it stands in the head.
    pub(crate) head: bool,
}

/// A net's operators, operands before their users.
#[derive(Clone, Debug, Default)]
pub(crate) struct Trace {
    /// The steps.
    pub(crate) steps: Vec<Step>,
}

impl Trace {
    /// Which steps `result` needs.
    pub(crate) fn live(&self, result: usize) -> Vec<bool> {
        let mut live = vec![false; self.steps.len()];
        live[result] = true;
        for i in (0..=result).rev() {
            if live[i] {
                for &o in &self.steps[i].operands {
                    live[o] = true;
                }
            }
        }
        live
    }

    /// Whether a step computes its value from that of step `of`, or is that step.
    pub(crate) fn follows(&self, step: usize, of: usize) -> bool {
        let Some(distance) = step.checked_sub(of) else { return false };
        // Of the steps from `of` on, those that `step` needs.
        let mut needed = vec![false; distance + 1];
        needed[distance] = true;
        for i in (1..=distance).rev() {
            if needed[i] {
                for operand in self.steps[of + i].operands.iter().filter_map(|o| o.checked_sub(of)) {
                    needed[operand] = true;
                }
            }
        }
        needed[0]
    }

    /// Convolutions, linear operators and LSTMs on the longest path to `result`.
    pub(crate) fn depth(&self, result: usize) -> usize {
        let mut depth = vec![0usize; self.steps.len()];
        for (i, step) in self.steps.iter().enumerate() {
            let before = step.operands.iter().map(|&o| depth[o]).max().unwrap_or(0);
            let counts = matches!(step.kind, Kind::Conv { .. } | Kind::Linear { .. } | Kind::Lstm(_));
            depth[i] = before + usize::from(counts);
        }
        depth[result]
    }

    /// The shape of a step's first operand.
    pub(crate) fn input_shape(&self, step: usize) -> &Shape {
        let first = self.steps[step].operands.first().copied().unwrap_or(step);
        &self.steps[first].shape
    }

    /// The shape of a step's (first) weight, where it has one.
    pub(crate) fn weight_shape(&self, step: usize) -> Option<Shape> {
        let (input, output) = (self.input_shape(step).dims(), self.steps[step].shape.dims());
        match &self.steps[step].kind {
            Kind::Conv { conv, kernel, .. } => {
                Some(Shape::from([output[0], input[0] / conv.groups, kernel[0], kernel[1]]))
            }
            Kind::Linear { .. } => Some(Shape::from([output[0], input[0]])),
            Kind::Lstm(lstm) => Some(Shape::from([4 * lstm.hidden, input.iter().take(2).product()])),
            Kind::Norm { .. } => Some(Shape::from([output[0]])),
            _ => None,
        }
    }
}
