//! `relation`: distances and angles between the samples of a batch (Park et al. 2019), each a term of its own.

use crate::args::{Args, Range};
use crate::diags::Diags;
use crate::eval::Evaluator;
use crate::limits;
use crate::nets::Nets;
use crate::terms::{Features, Pair, Relation};
use ddnnc_diag::{Code, Diagnostic, Span};
use ddnnc_ir::{Mode, Weight};

/// The least samples between which something can differ: of two, the distance by the mean of all is 1 whatever they are, and
/// an angle takes three.
const LEAST_SAMPLES: usize = 3;

impl Relation {
    /// What its terms are called.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Relation::Distance => "relation_distance",
            Relation::Angle => "relation_angle",
        }
    }

    /// The factor's name in a `relation`.
    fn parameter(self) -> &'static str {
        match self {
            Relation::Distance => "distance",
            Relation::Angle => "angle",
        }
    }
}

fn times(weight: Weight, factor: f64) -> Weight {
    match weight {
        Weight::Constant(weight) => Weight::Constant(weight * factor),
        Weight::Ramp { from, to, epochs } => Weight::Ramp { from: from * factor, to: to * factor, epochs },
    }
}

impl<'a> Evaluator<'a> {
    /// What a `relation` compares, each with its weight: the term's, times the factor. `None` where something is wrong.
    pub(crate) fn relations(
        &mut self,
        args: &Args,
        weight: Option<Weight>,
        at: Span,
    ) -> Option<Vec<(Relation, Weight)>> {
        let factors = [(Relation::Distance, 1.0), (Relation::Angle, 2.0)].map(|(relation, usual)| {
            let given = args.number(relation.parameter(), usual, Range::NotNegative, &mut self.diags);
            given.map(|factor| (relation, factor))
        });
        let [distance, angle] = factors;
        let (factors, weight) = ([distance?, angle?], weight?);
        if factors.iter().all(|(_, factor)| *factor == 0.0) {
            self.diags.push(
                Diagnostic::error(Code::Pairing, "a `relation` of neither distances nor angles")
                    .at(at, "both factors are 0")
                    .hint("give one of them: `distance = 1`, `angle = 2`; or remove the term"),
            );
            return None;
        }
        let mut parts = Vec::new();
        for (relation, factor) in factors.into_iter().filter(|(_, factor)| *factor != 0.0) {
            let weight = times(weight, factor);
            let most = match weight {
                Weight::Constant(weight) => weight,
                Weight::Ramp { from, to, .. } => from.max(to),
            };
            if !(most as f32).is_finite() {
                let message = format!("`weight` times `{}` is {most:e}", relation.parameter());
                self.diags.push(
                    Diagnostic::error(Code::OutOfRange, message)
                        .at(at, format!("it must be at most {:e}", f32::MAX)),
                );
                return None;
            }
            parts.push((relation, weight));
        }
        Some(parts)
    }

    /// Whether both features are maps or vectors.
    pub(crate) fn check_embeddings(
        &mut self,
        nets: &Nets<'a>,
        pair: Pair<'a>,
        features: &Features<'a>,
        at: Span,
    ) -> bool {
        let Some(paired) = Self::paired(nets, pair, features) else { return false };
        let (a, b) = paired.shapes();
        let fits = [a, b].iter().all(|dims| matches!(dims.len(), 1 | 3));
        if !fits {
            let message = "`relation` pairs maps [C,H,W], averaged over their positions, or vectors [C]";
            let error = paired.error(Code::Pairing, message.into(), at);
            self.fail(error.hint("end the stage with `flatten`, or pair another"));
        }
        fits
    }
}

/// Refuses batches of training that have nothing to compare, or far too much.
pub(crate) fn check_batch(relation: Relation, batch: usize, mode: Mode, at: Span, diags: &mut Diags) {
    if mode == Mode::Eval {
        return;
    }
    if batch < LEAST_SAMPLES {
        diags.push_once(
            Diagnostic::error(
                Code::Pairing,
                format!("`relation` compares the samples of a batch, and a batch of {batch} has nothing to compare"),
            )
            .at(at, "")
            .hint(
                "use a batch of 3 or more: of two samples, the distance divided by the mean distance is 1 whatever they are",
            ),
        );
        return;
    }
    let (most, count, what) = match relation {
        Relation::Distance => (limits::SAMPLES_OF_DISTANCES, (batch as u64).pow(2), "distances"),
        Relation::Angle => (limits::SAMPLES_OF_ANGLES, (batch as u64).pow(3), "angles"),
    };
    if batch > most {
        let hint = match relation {
            Relation::Distance => {
                format!("use a batch of at most {most}, or leave distances out: `distance = 0`")
            }
            Relation::Angle => format!("use a batch of at most {most}, or leave angles out: `angle = 0`"),
        };
        diags.push(
            Diagnostic::error(
                Code::TooLarge,
                format!("`relation` compares {count} {what} of a batch of {batch}"),
            )
            .at(at, "")
            .hint(hint),
        );
    }
}
