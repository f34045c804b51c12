//! What a spec can call without declaring it, in one list.

use crate::losses::{DISTILLED, RAMP, SUPERVISED};
use crate::operators::OPERATORS;
use crate::order::ORDERS;
use crate::recipe::{AUGMENTS, DATASETS, NORMALIZE, OPTIMIZERS, SCHEDULES};
use crate::signature::Fixed;
use crate::teachers::SETS;

/// A word of the language that takes arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Callable {
    /// The word.
    pub name: &'static str,
    /// Its parameters, in the order of arguments without names.
    pub parameters: Vec<&'static str>,
}

/// Every operator, loss term, set of teachers, data set, augmentation, optimizer, schedule and order of the language.
pub fn vocabulary() -> Vec<Callable> {
    let operators = OPERATORS.iter().map(|entry| &entry.fixed);
    operators
        .chain(words(SUPERVISED))
        .chain(words(DISTILLED))
        .chain(words(SETS))
        .chain(words(RAMP))
        .chain(words(DATASETS))
        .chain(words(AUGMENTS))
        .chain(words(NORMALIZE))
        .chain(words(OPTIMIZERS))
        .chain(words(SCHEDULES))
        .chain(words(ORDERS))
        .map(|fixed| {
            let signature = fixed.signature();
            Callable {
                name: fixed.name,
                parameters: signature.params.iter().map(|(name, _)| *name).collect(),
            }
        })
        .collect()
}

/// The words of a list, without what they mean.
fn words<T>(list: &'static [(Fixed, T)]) -> impl Iterator<Item = &'static Fixed> {
    list.iter().map(|(fixed, _)| fixed)
}
