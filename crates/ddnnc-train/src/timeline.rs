//! Where the epochs and phases of a run lie among its steps.

use std::ops::Range;

/// The steps of a run, by epoch and phase.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Timeline {
    /// Steps done at the end of each epoch.
    ends: Vec<u64>,
    phases: Vec<Stretch>,
}

/// A phase of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stretch {
    name: Option<String>,
    /// Its epochs, counted from 0 through the run.
    epochs: Range<usize>,
    /// Steps of each of its epochs, where they all have as many.
    even: Option<u64>,
}

/// Where a step lies in its phase.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Moment {
    /// Steps of the phase before it.
    pub(crate) step: u64,
    /// Steps of the phase.
    pub(crate) total: u64,
    /// Epochs of the phase that are complete.
    pub(crate) epoch: u64,
    /// The same, with the fraction of the epoch that is not.
    pub(crate) epochs: f64,
}

impl Timeline {
    /// Adds a phase with these steps in its epochs; without a name where it is the whole training.
    pub fn push(&mut self, name: Option<&str>, steps: &[u64]) {
        let first = self.ends.len();
        for &steps in steps {
            let before = self.steps();
            self.ends.push(before.saturating_add(steps));
        }
        let even = steps.first().copied().filter(|one| steps.iter().all(|n| n == one));
        let epochs = first..self.ends.len();
        self.phases.push(Stretch { name: name.map(String::from), epochs, even });
    }

    /// Steps of the run.
    pub fn steps(&self) -> u64 {
        self.ends.last().copied().unwrap_or(0)
    }

    /// Epochs of the run.
    pub fn epochs(&self) -> u64 {
        self.ends.len() as u64
    }

    /// Epochs that are complete after so many steps.
    pub fn epochs_done(&self, step: u64) -> u64 {
        self.ends.partition_point(|&end| end <= step) as u64
    }

    /// Epochs that have begun after so many steps.
    pub fn epochs_begun(&self, step: u64) -> u64 {
        let done = self.epochs_done(step);
        done + u64::from(self.epoch_steps(done).start < step)
    }

    /// The steps of an epoch, counted from 0; behind the last one, none at the end.
    pub fn epoch_steps(&self, epoch: u64) -> Range<u64> {
        let at = usize::try_from(epoch).map_or(self.ends.len(), |at| at.min(self.ends.len()));
        let end = |i: usize| self.ends.get(i).copied().unwrap_or(self.steps());
        at.checked_sub(1).map_or(0, end)..end(at)
    }

    /// The place of the phase of the step that comes after so many; of the last one at the end.
    pub fn phase_at(&self, step: u64) -> usize {
        let last = self.phases.len().saturating_sub(1);
        (0..last).find(|&phase| step < self.phase_steps(phase).end).unwrap_or(last)
    }

    /// Name, steps and epochs (counted from 0) of the phase at a place; the name is `None` where there are no phases.
    pub fn phase(&self, phase: usize) -> (Option<&str>, Range<u64>, Range<u64>) {
        let epochs = self.phases.get(phase).map_or(0..0, |p| p.epochs.start as u64..p.epochs.end as u64);
        (self.phases.get(phase).and_then(|p| p.name.as_deref()), self.phase_steps(phase), epochs)
    }

    /// How many phases there are; 1 where the training is one.
    pub fn phases(&self) -> usize {
        self.phases.len()
    }

    fn phase_steps(&self, phase: usize) -> Range<u64> {
        let Some(Stretch { epochs, .. }) = self.phases.get(phase) else { return 0..0 };
        let first = self.epoch_steps(epochs.start as u64).start;
        first..self.epoch_steps((epochs.end as u64).saturating_sub(1)).end.max(first)
    }

    /// Where the step that comes after `step` others lies in a phase that it belongs to.
    pub(crate) fn moment(&self, phase: usize, step: u64) -> Moment {
        let (_, steps, epochs) = self.phase(phase);
        let within = step.saturating_sub(steps.start);
        let done = self.epochs_done(step);
        let epoch = done.saturating_sub(epochs.start);
        let fraction = match self.phases.get(phase).and_then(|p| p.even) {
            Some(even) => within as f64 / even as f64,
            None => {
                let of = self.epoch_steps(done);
                epoch as f64 + (step - of.start) as f64 / (of.end - of.start).max(1) as f64
            }
        };
        Moment { step: within, total: steps.end - steps.start, epoch, epochs: fraction }
    }

    /// The steps of so many epochs from the beginning of a phase, which may be a fraction.
    pub(crate) fn steps_of(&self, phase: usize, epochs: f64) -> f64 {
        let Some(stretch) = self.phases.get(phase) else { return 0.0 };
        if let Some(even) = stretch.even {
            return epochs * even as f64;
        }
        let (mut steps, mut left) = (0.0, epochs);
        for epoch in stretch.epochs.clone() {
            let of = self.epoch_steps(epoch as u64);
            let share = left.clamp(0.0, 1.0);
            steps += share * (of.end - of.start) as f64;
            left -= share;
        }
        // Beyond the last one, in steps such as its own.
        let last = self.epoch_steps((stretch.epochs.end as u64).saturating_sub(1));
        steps + left.max(0.0) * (last.end - last.start) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_belong_to_epochs_and_phases() {
        let mut timeline = Timeline::default();
        timeline.push(Some("a"), &[4, 4]);
        timeline.push(Some("b"), &[2, 3, 5]);
        assert_eq!((timeline.steps(), timeline.epochs(), timeline.phases()), (18, 5, 2));
        let done: Vec<u64> =
            [0, 3, 4, 7, 8, 9, 10, 12, 13, 17, 18, 30].map(|s| timeline.epochs_done(s)).to_vec();
        assert_eq!(done, [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]);
        let begun: Vec<u64> = [0, 1, 4, 5, 8, 9, 18].map(|s| timeline.epochs_begun(s)).to_vec();
        assert_eq!(begun, [0, 1, 1, 2, 2, 3, 5]);
        assert_eq!(timeline.epoch_steps(3), 10..13);
        assert_eq!(timeline.epoch_steps(9), 18..18);
        let phases: Vec<usize> = [0, 7, 8, 17, 18].map(|s| timeline.phase_at(s)).to_vec();
        assert_eq!(phases, [0, 0, 1, 1, 1]);
        assert_eq!(timeline.phase(1), (Some("b"), 8..18, 2..5));
        assert_eq!(timeline.moment(0, 6), Moment { step: 6, total: 8, epoch: 1, epochs: 1.5 });
        assert_eq!(timeline.moment(1, 11), Moment { step: 3, total: 10, epoch: 1, epochs: 1.0 + 1.0 / 3.0 });
        assert_eq!((timeline.steps_of(0, 1.5), timeline.steps_of(1, 1.5)), (6.0, 3.5));
        assert_eq!((timeline.steps_of(0, 3.0), timeline.steps_of(1, 4.0)), (12.0, 15.0));
    }

    #[test]
    fn a_training_without_phases_is_one() {
        let mut timeline = Timeline::default();
        timeline.push(None, &[6, 6, 6]);
        assert_eq!(timeline.phase(0), (None, 0..18, 0..3));
        assert_eq!(timeline.moment(0, 8), Moment { step: 8, total: 18, epoch: 1, epochs: 8.0 / 6.0 });
        assert_eq!(Timeline::default().epoch_steps(0), 0..0);
    }
}
