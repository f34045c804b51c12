//! Who is told what happens during a run.

use crate::NetResult;
use crate::metrics::{EpochRecord, StepRecord};

/// What a run is going to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Steps done before (0 unless resumed).
    pub first_step: u64,
    /// Steps at which it ends.
    pub last_step: u64,
    /// Steps in an epoch.
    pub steps_per_epoch: u64,
    /// Epochs of the whole training.
    pub epochs: u64,
    /// Images in a step.
    pub batch: usize,
}

/// Is told what happens during a run. Every method does nothing unless it is written.
pub trait Observer {
    /// The run begins.
    fn begin(&mut self, _plan: &Plan) {}
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
