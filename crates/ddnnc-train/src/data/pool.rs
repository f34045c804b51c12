//! Pools of training images that grow from epoch to epoch (curricula).

use super::DataSource;
use crate::random::{self, Purpose};
use ddnnc_ir::Curriculum;
use std::ops::Range;
use std::sync::Arc;

/// The images of each epoch of a phase.
#[derive(Clone, Debug, PartialEq)]
pub struct Pools {
    /// Images of the training split, those that come first at the front.
    pub(super) ranking: Arc<Vec<u32>>,
    /// Number of the first epoch, from 0 through the run.
    pub(super) first_epoch: u64,
    /// The steps of each epoch, and how many images its pool has.
    pub(super) epochs: Arc<Vec<(Range<u64>, usize)>>,
}

impl Pools {
    /// Pools of these sizes, each taken from the front of a ranking; the steps of an epoch follow those of the one before.
    pub fn new(ranking: Vec<u32>, first_epoch: u64, epochs: Vec<(Range<u64>, usize)>) -> Pools {
        Pools { ranking: Arc::new(ranking), first_epoch, epochs: Arc::new(epochs) }
    }

    /// Of a step: the number of its epoch, its place in it, and the images of the pool.
    pub(super) fn place(&self, step: u64) -> (u64, u64, &[u32]) {
        let at = self
            .epochs
            .partition_point(|(steps, _)| steps.end <= step)
            .min(self.epochs.len().saturating_sub(1));
        let (start, size) = self.epochs.get(at).map_or((0, 0), |(steps, size)| (steps.start, *size));
        let pool = &self.ranking[..size.min(self.ranking.len())];
        (self.first_epoch + at as u64, step.saturating_sub(start), pool)
    }
}

impl DataSource {
    /// The images to train on by difficulty: `scores` has one for each, in the order of [`DataSource::scored`]. Equal ones
    /// stand in that order; a random order is that of the epoch, and needs no scores.
    pub fn ranking(&self, mode: Curriculum, scores: &[f32], epoch: u64) -> Vec<u32> {
        let mut places: Vec<usize> = (0..self.train_indices.len()).collect();
        let score = |place: &usize| scores.get(*place).copied().unwrap_or(f32::INFINITY);
        match mode {
            Curriculum::Curriculum => places.sort_by(|a, b| score(a).total_cmp(&score(b))),
            Curriculum::AntiCurriculum => places.sort_by(|a, b| score(b).total_cmp(&score(a))),
            Curriculum::RandomCurriculum => {
                random::shuffle(&mut random::stream(self.seed, Purpose::Pool, epoch, 0), &mut places);
            }
        }
        places.into_iter().map(|place| self.train_indices[place]).collect()
    }
}
