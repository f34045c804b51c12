//! Who is told what happens during a run.

use crate::metrics::{EpochRecord, StepRecord};
use crate::{NetResult, Timeline};

/// What a run is going to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Steps done before (0 unless resumed).
    pub first_step: u64,
    /// Steps at which it ends.
    pub last_step: u64,
    /// The epochs and phases of the whole training.
    pub timeline: Timeline,
    /// Images in a step.
    pub batch: usize,
}

/// Is told what happens during a run. Every method does nothing unless it is written.
pub trait Observer {
    /// The run begins.
    fn begin(&mut self, _plan: &Plan) {}
    /// A phase begins, or goes on: its name, its place among how many, its epochs.
    fn phase(&mut self, _name: &str, _place: usize, _of: usize, _epochs: u64) {}
    /// A step is done (every one, whether it goes to the metrics or not).
    fn step(&mut self, _record: &StepRecord) {}
    /// An epoch is done.
    fn epoch(&mut self, _record: &EpochRecord) {}
    /// The test images are evaluated.
    fn test(&mut self, _results: &[NetResult]) {}
    /// Something that the user should know: a skipped checkpoint, an interruption.
    fn note(&mut self, _text: &str) {}
}

/// Tells nobody.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Observer for Silent {}
