//! Batches prepared ahead on threads, in an order that does not depend on them.
//!
//! Thread t of n makes the batches first+t, first+t+n, …; each has a bounded channel of its own, and the consumer asks
//! them in turn. Used batches go back to their thread, so that nothing is allocated in the steady state.

use super::augment::{Scratch, View};
use super::{DataError, ImageSet, Pools};
use crate::random::{self, Purpose};
use crossbeam_channel::{Receiver, Sender, bounded};
use std::ops::Range;
use std::sync::Arc;
use std::thread::JoinHandle;

/// Inputs and labels of one step.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Batch {
    /// Its number: for training, the step from 0.
    pub number: u64,
    /// `[N,C,H,W]`, normalised.
    pub images: Vec<f32>,
    /// `[N]`; 0 where padded.
    pub labels: Vec<i64>,
    /// How many are images rather than padding.
    pub real: usize,
}

/// Which images make a batch.
#[derive(Clone)]
pub(super) enum Order {
    /// One after the other, unaugmented, the last batch padded.
    Sequential,
    /// Shuffled anew each epoch, augmented, the last partial batch dropped.
    Shuffled { seed: u64, steps_per_epoch: u64 },
    /// The pool of each epoch in the same way.
    Pooled { seed: u64, pools: Pools },
}

/// Batches ready or in preparation.
pub struct Loader {
    lanes: Vec<Lane>,
    next: u64,
    range: Range<u64>,
}

struct Lane {
    ready: Option<Receiver<Result<Batch, DataError>>>,
    used: Option<Sender<Batch>>,
    thread: Option<JoinHandle<()>>,
}

/// Batches that a thread may be ahead of the consumer.
const AHEAD: usize = 2;

struct Source {
    images: Arc<ImageSet>,
    indices: Arc<Vec<u32>>,
    view: Arc<View>,
    order: Order,
    batch: usize,
}

impl Loader {
    pub(super) fn start(
        images: Arc<ImageSet>,
        indices: Arc<Vec<u32>>,
        view: Arc<View>,
        order: Order,
        batch: usize,
        range: Range<u64>,
        threads: usize,
    ) -> Loader {
        let threads = threads.clamp(1, 64);
        let lanes = (0..threads)
            .map(|lane| {
                let source = Source {
                    images: images.clone(),
                    indices: indices.clone(),
                    view: view.clone(),
                    order: order.clone(),
                    batch,
                };
                let (ready_in, ready) = bounded(AHEAD);
                let (used, used_out) = bounded(AHEAD + 2);
                let numbers = (range.start + lane as u64..range.end).step_by(threads);
                let thread = std::thread::spawn(move || source.work(numbers, &ready_in, &used_out));
                Lane { ready: Some(ready), used: Some(used), thread: Some(thread) }
            })
            .collect();
        Loader { lanes, next: range.start, range }
    }

    /// The next batch; `None` at the end of the range.
    pub fn next_batch(&mut self) -> Option<Result<Batch, DataError>> {
        if self.next >= self.range.end {
            return None;
        }
        let lane = ((self.next - self.range.start) % self.lanes.len() as u64) as usize;
        let received = self.lanes[lane].ready.as_ref()?.recv();
        self.next += 1;
        let batch = received.unwrap_or_else(|_| {
            Err(DataError::Setting { message: "a thread that loads data has stopped".to_string() })
        });
        if batch.is_err() {
            self.next = self.range.end;
        }
        Some(batch)
    }

    /// Gives a batch's memory back.
    pub fn recycle(&mut self, batch: Batch) {
        let lane = (batch.number.wrapping_sub(self.range.start) % self.lanes.len() as u64) as usize;
        if let Some(used) = &self.lanes[lane].used {
            // A full channel or a finished thread needs no memory.
            let _ = used.try_send(batch);
        }
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        for lane in &mut self.lanes {
            // Without a receiver the thread's next send fails, and it ends.
            lane.ready = None;
            lane.used = None;
        }
        for lane in &mut self.lanes {
            if let Some(thread) = lane.thread.take() {
                let _ = thread.join();
            }
        }
    }
}

impl Source {
    fn work(
        &self,
        numbers: impl Iterator<Item = u64>,
        ready: &Sender<Result<Batch, DataError>>,
        used: &Receiver<Batch>,
    ) {
        let mut scratch = Scratch::default();
        let mut permutation: (Option<u64>, Vec<u32>) = (None, Vec::new());
        for number in numbers {
            let mut batch = used.try_recv().unwrap_or_default();
            let outcome = self.fill(number, &mut batch, &mut permutation, &mut scratch);
            let failed = outcome.is_err();
            if ready.send(outcome.map(|()| batch)).is_err() || failed {
                return;
            }
        }
    }

    fn fill(
        &self,
        number: u64,
        batch: &mut Batch,
        permutation: &mut (Option<u64>, Vec<u32>),
        scratch: &mut Scratch,
    ) -> Result<(), DataError> {
        let elements = self.view.elements();
        batch.number = number;
        batch.images.resize(self.batch * elements, 0.0);
        batch.labels.resize(self.batch, 0);
        let shuffled: Option<(u64, u64, u64, &[u32])> = match &self.order {
            Order::Sequential => None,
            Order::Shuffled { seed, steps_per_epoch } => {
                Some((*seed, number / steps_per_epoch, number % steps_per_epoch, &self.indices))
            }
            Order::Pooled { seed, pools } => {
                let (epoch, step, pool) = pools.place(number);
                Some((*seed, epoch, step, pool))
            }
        };
        let (indices, start, augmented): (&[u32], usize, Option<(u64, u64)>) = match shuffled {
            None => (&self.indices, number as usize * self.batch, None),
            Some((seed, epoch, step, pool)) => {
                if permutation.0 != Some(epoch) {
                    permutation.1.clear();
                    permutation.1.extend_from_slice(pool);
                    random::shuffle(
                        &mut random::stream(seed, Purpose::Shuffle, epoch, 0),
                        &mut permutation.1,
                    );
                    permutation.0 = Some(epoch);
                }
                (&permutation.1, step as usize * self.batch, Some((seed, epoch)))
            }
        };
        let taken = &indices[start.min(indices.len())..(start + self.batch).min(indices.len())];
        batch.real = taken.len();
        let slots = batch.images.chunks_exact_mut(elements).zip(&mut batch.labels);
        for (slot, (image, label)) in slots.enumerate() {
            match taken.get(slot) {
                Some(&index) => {
                    let rng = augmented
                        .map(|(seed, epoch)| random::stream(seed, Purpose::Augment, epoch, u64::from(index)));
                    self.view.render(&self.images, index as usize, rng, scratch, image)?;
                    *label = i64::from(self.images.labels[index as usize]);
                }
                None => {
                    image.fill(0.0);
                    *label = 0;
                }
            }
        }
        Ok(())
    }
}
