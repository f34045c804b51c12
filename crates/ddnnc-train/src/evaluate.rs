//! Accuracy and loss of every net over a split, from the logits.

use crate::data::Loader;
use crate::error::TrainError;
use crate::feed::{self, Clock, Feed};
use crate::weights::Tensors;
use ddnnc_ir::Model;
use ddnnc_passes::{Device, Executable, Program};
use serde::Serialize;

/// How well one net does.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct NetResult {
    /// The net.
    pub name: String,
    /// Fraction of images whose class has the largest logit.
    pub accuracy: f64,
    /// Fraction of images whose class is among the five largest logits.
    pub top5: f64,
    /// Mean cross-entropy, computed in f64.
    pub loss: f64,
    /// Images.
    pub images: u64,
}

/// How many logits stand before the label's: larger ones, and equal ones of a smaller class. What cannot be compared
/// (NaN) stands before.
pub(crate) fn rank(logits: &[f32], label: usize) -> usize {
    let own = logits.get(label).copied().unwrap_or(f32::NAN);
    // Written as a negation, so that it holds for NaN.
    let before = |(class, &x): (usize, &f32)| class != label && !(x < own || (x == own && class > label));
    logits.iter().enumerate().filter(|&entry| before(entry)).count()
}

/// log softmax(logits), class by class, in f64; NaN for all where a logit is no number.
pub fn log_probabilities(logits: &[f32]) -> impl Iterator<Item = f64> + Clone + '_ {
    let most = logits.iter().fold(f64::NEG_INFINITY, |m, &x| m.max(f64::from(x)));
    let sum: f64 = logits.iter().map(|&x| (f64::from(x) - most).exp()).sum();
    let all = most + sum.ln();
    logits.iter().map(move |&x| f64::from(x) - all)
}

/// −log softmax(logits)[label], in f64.
fn cross_entropy(logits: &[f32], label: usize) -> f64 {
    log_probabilities(logits).nth(label).map_or(f64::NAN, |log| -log)
}

/// The nets whose logits a program gives: name, name of the output, classes.
pub(crate) fn nets_with_logits(model: &Model, program: &Program) -> Vec<(String, String, usize)> {
    let found = model.nets.iter().filter_map(|net| {
        let output = format!("logits.{}", net.name);
        let classes = program.buffer(*program.outputs.get(&output)?).ty.dims().last().copied()?;
        Some((net.name.clone(), output, classes))
    });
    found.collect()
}

/// A program in eval mode on a device, used again for every evaluation.
pub struct Evaluator {
    exec: Box<dyn Executable>,
    feed: Feed,
    nets: Vec<(String, String, usize)>,
    batch: usize,
    logits: Vec<f32>,
}

impl Evaluator {
    /// Loads `program` (made from `model` in eval mode).
    pub fn new(model: &Model, program: &Program, device: &dyn Device) -> Result<Evaluator, TrainError> {
        let nets = nets_with_logits(model, program);
        if nets.is_empty() {
            return Err(feed::misfit(program, "it gives no net's logits".to_string()));
        }
        let feed = Feed::new(model, program)?;
        let exec = device.load(program)?;
        Ok(Evaluator { exec, feed, nets, batch: feed::batch_of(model, program), logits: Vec::new() })
    }

    /// Images in a step.
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// Sets parameters and running statistics.
    pub fn set(&mut self, values: &Tensors) -> Result<(), TrainError> {
        feed::upload(self.exec.as_mut(), values)
    }

    /// Where a net stands among those whose logits the program gives.
    pub(crate) fn place(&self, name: &str) -> Result<usize, TrainError> {
        let found = self.nets.iter().position(|(net, ..)| net == name);
        found.ok_or_else(|| feed::misfit(self.exec.program(), format!("it gives no logits of `{name}`")))
    }

    /// The cross-entropy of one net on each image that `loader` gives.
    pub(crate) fn scores(&mut self, name: &str, loader: Loader) -> Result<Vec<f32>, TrainError> {
        let (wanted, mut scores) = (self.place(name)?, Vec::new());
        self.run_seeing(loader, |net, logits, label| {
            if net == wanted {
                scores.push(cross_entropy(logits, label) as f32);
            }
        })?;
        Ok(scores)
    }

    /// Evaluates every net on what `loader` gives; its batches must be of [`Evaluator::batch`] images.
    pub fn run(&mut self, loader: Loader) -> Result<Vec<NetResult>, TrainError> {
        self.run_seeing(loader, |_, _, _| {})
    }

    /// The same, and shows the logits: `see(net, logits, label)`, image by image for each net in turn. Padding at the end of
    /// the last batch is not shown.
    pub(crate) fn run_seeing(
        &mut self,
        mut loader: Loader,
        mut see: impl FnMut(usize, &[f32], usize),
    ) -> Result<Vec<NetResult>, TrainError> {
        let zero = |(name, _, _): &(String, String, usize)| NetResult {
            name: name.clone(),
            accuracy: 0.0,
            top5: 0.0,
            loss: 0.0,
            images: 0,
        };
        let mut results: Vec<NetResult> = self.nets.iter().map(zero).collect();
        let mut counts = vec![(0u64, 0u64); self.nets.len()];
        while let Some(batch) = loader.next_batch() {
            let batch = batch?;
            let clock = Clock { step: batch.number, of_phase: 0, lr: 0.0, epochs: 0.0 };
            self.feed.write(self.exec.as_mut(), &batch, clock)?;
            self.exec.run()?;
            for (net, (_, output, classes)) in self.nets.iter().enumerate() {
                self.logits.resize(self.batch * classes, 0.0);
                self.exec.read_f32(output, &mut self.logits)?;
                let rows = self.logits.chunks_exact((*classes).max(1)).zip(&batch.labels[..batch.real]);
                for (row, &label) in rows {
                    let label = label as usize;
                    let before = rank(row, label);
                    counts[net].0 += u64::from(before == 0);
                    counts[net].1 += u64::from(before < 5);
                    results[net].loss += cross_entropy(row, label);
                    results[net].images += 1;
                    see(net, row, label);
                }
            }
            loader.recycle(batch);
        }
        for (result, (first, five)) in results.iter_mut().zip(counts) {
            let images = result.images.max(1) as f64;
            result.accuracy = first as f64 / images;
            result.top5 = five as f64 / images;
            result.loss /= images;
        }
        Ok(results)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_break_ties_by_class_and_put_nan_first() {
        let nan = f32::NAN;
        for (logits, label, wanted) in [
            (vec![1.0, 3.0, 2.0], 1, 0),
            (vec![1.0, 3.0, 2.0], 0, 2),
            (vec![2.0, 2.0, 2.0], 0, 0),
            (vec![2.0, 2.0, 2.0], 2, 2),
            (vec![1.0, nan, 0.0], 0, 1),
            (vec![nan, 1.0, 0.0], 0, 2),
            (vec![1.0], 3, 1),
        ] {
            assert_eq!(rank(&logits, label), wanted, "{logits:?} {label}");
        }
    }

    #[test]
    fn cross_entropy_survives_large_logits() {
        assert!((cross_entropy(&[1000.0, 1000.0], 0) - 2f64.ln()).abs() < 1e-12);
        assert!((cross_entropy(&[0.0, 0.0, 0.0], 2) - 3f64.ln()).abs() < 1e-12);
        assert!(cross_entropy(&[f32::NAN, 0.0], 1).is_nan());
    }
}
