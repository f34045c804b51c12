//! Random choices, all from one seed.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// A stream of choices: the same for the same seed on every machine.
pub(super) struct Dice(ChaCha8Rng);

impl Dice {
    /// The stream of a seed.
    pub(super) fn new(seed: u64) -> Dice {
        Dice(ChaCha8Rng::seed_from_u64(seed))
    }

    /// A number from `from` to `to`, both included.
    pub(super) fn between(&mut self, from: usize, to: usize) -> usize {
        self.0.random_range(from..=to)
    }

    /// True in so many of a hundred cases.
    pub(super) fn percent(&mut self, of_hundred: usize) -> bool {
        self.between(1, 100) <= of_hundred
    }

    /// One of a list.
    pub(super) fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.between(0, of.len() - 1)]
    }

    /// One of a list, each as often as its weight says.
    pub(super) fn weighted<T: Copy>(&mut self, of: &[(usize, T)]) -> T {
        let total: usize = of.iter().map(|(weight, _)| weight).sum();
        let mut at = self.between(1, total);
        for &(weight, choice) in of {
            if at <= weight {
                return choice;
            }
            at -= weight;
        }
        of[of.len() - 1].1
    }

    /// Brings a list into a random order.
    pub(super) fn shuffle<T>(&mut self, of: &mut [T]) {
        for i in (1..of.len()).rev() {
            of.swap(i, self.between(0, i));
        }
    }
}
