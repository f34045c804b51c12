//! The recipe of training: data, optimizer, schedule. Plain numbers; the language fills it, the training loop reads it.

use serde::{Deserialize, Serialize};

/// How to train a model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Recipe {
    /// What to train on.
    pub data: Data,
    /// Images in a step.
    pub batch: usize,
    /// Passes over the training set.
    pub epochs: usize,
    /// The update rule.
    pub optimizer: Optimizer,
    /// The learning rate over time.
    pub schedule: Schedule,
    /// Which images an epoch has.
    pub order: Order,
    /// Arithmetic.
    pub precision: Precision,
    /// Seed of everything random.
    pub seed: u64,
    /// Fraction of the training set held out for validation, in [0, 0.5]; never the test set.
    pub validation: f64,
}

/// What to train on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Data {
    /// The format.
    pub dataset: Dataset,
    /// Where it lies, as written in the spec; `--data` overrides it.
    pub path: Option<String>,
    /// Random changes to training images, in order.
    pub augment: Vec<Augment>,
    /// (mean, standard deviation) per channel of pixels in [0, 1]; the dataset's own where it is not written.
    pub normalize: Option<(Vec<f64>, Vec<f64>)>,
}

/// The formats that can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Dataset {
    /// IDX files, gzip or plain.
    Mnist,
    /// CIFAR-10 binary batches, gzip or plain.
    Cifar10,
    /// CIFAR-100 binary, fine labels.
    Cifar100,
    /// A folder per class under `train/` and `val/` (or `test/`).
    ImageFolder,
}

/// A random change to a training image.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Augment {
    /// Zero-pad by `pad` on every side, then crop at random to the input's size.
    Crop {
        /// Pixels.
        pad: usize,
    },
    /// Mirror left to right with probability one half.
    Flip,
    /// A random part of at least `scale` of the area and aspect 3/4 to 4/3, resized to the input's size.
    ResizedCrop {
        /// Least fraction of the area.
        scale: f64,
    },
}

/// Which images an epoch has; they are shuffled.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub enum Order {
    /// All of them.
    #[default]
    Shuffle,
    /// A pool of them that grows from epoch to epoch, by their difficulty.
    Difficulty {
        /// The net whose cross-entropy of an image, as it stands when the training or its phase begins, is how difficult the
        /// image is.
        snapshot: String,
        /// Which come first.
        mode: Curriculum,
        /// The size of the pool.
        pace: Pace,
    },
}

/// Which images a pool that grows takes first (Wu, Dyer and Neyshabur 2021).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Curriculum {
    /// The easiest.
    Curriculum,
    /// The hardest.
    AntiCurriculum,
    /// Any, in an order that is drawn once.
    RandomCurriculum,
}

/// The size of a pool in each epoch, as a fraction of the images: linear from the first epoch to the last.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pace {
    /// In the first epoch.
    pub from: f64,
    /// In the last one.
    pub to: f64,
}

impl Pace {
    /// How many of `images` the pool of epoch `epoch` (from 0) of `epochs` has: what the fraction comes to, rounded up.
    pub fn images(&self, epoch: usize, epochs: usize, images: usize) -> usize {
        let way = if epochs > 1 { epoch as f64 / (epochs - 1) as f64 } else { 0.0 };
        let exact = (self.from + (self.to - self.from) * way) * images as f64;
        // A rounding error of the fraction is no further image.
        ((exact - 1e-9 * images as f64).ceil().max(0.0) as usize).min(images)
    }
}

/// The update rule.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Optimizer {
    /// Stochastic gradient descent.
    Sgd {
        /// Base learning rate.
        lr: f64,
        /// Momentum.
        momentum: f64,
        /// Nesterov's variant.
        nesterov: bool,
        /// L2 penalty.
        weight_decay: f64,
    },
    /// AdamW.
    Adamw {
        /// Base learning rate.
        lr: f64,
        /// Decay of the first moment.
        beta1: f64,
        /// Decay of the second moment.
        beta2: f64,
        /// Added to the denominator.
        eps: f64,
        /// Decoupled decay.
        weight_decay: f64,
    },
}

impl Optimizer {
    /// The base learning rate.
    pub fn lr(&self) -> f64 {
        match *self {
            Optimizer::Sgd { lr, .. } | Optimizer::Adamw { lr, .. } => lr,
        }
    }
}

/// The learning rate over time: a linear warm-up over `warmup` epochs, then `kind`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Schedule {
    /// Epochs of linear warm-up from 0.
    pub warmup: f64,
    /// What follows.
    pub kind: ScheduleKind,
}

/// The shape of a schedule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ScheduleKind {
    /// The base rate.
    Constant,
    /// Times `gamma` from the start of each epoch in `milestones` on (epochs counted from 0).
    Multistep {
        /// Epochs.
        milestones: Vec<f64>,
        /// Factor.
        gamma: f64,
    },
    /// Half a cosine from the base rate to `end` times it.
    Cosine {
        /// Fraction of the base rate at the end.
        end: f64,
    },
    /// Up along half a cosine from lr/div to lr over `rise` of the steps, then down to lr/div/final_div
    /// (Smith & Topin 2018, as PyTorch's OneCycleLR).
    OneCycle {
        /// Fraction of the steps that rise.
        rise: f64,
        /// lr over the first rate.
        div: f64,
        /// First rate over the last.
        final_div: f64,
    },
}

impl Schedule {
    /// The factor on the base rate at step `step` of `total`, with `steps_per_epoch` steps an epoch.
    pub fn factor(&self, step: u64, total: u64, steps_per_epoch: u64) -> f64 {
        let epoch = step / steps_per_epoch.max(1);
        self.factor_in(step, total, epoch, self.warmup * steps_per_epoch as f64)
    }

    /// The factor on the base rate at step `step` of `total`, in the epoch `epoch` (from 0), with `warmup` steps of warm-up.
    pub fn factor_in(&self, step: u64, total: u64, epoch: u64, warmup: f64) -> f64 {
        let at = step as f64;
        if at < warmup {
            return (at + 1.0) / warmup.max(1.0).ceil();
        }
        let cosine =
            |from: f64, to: f64, t: f64| to + (from - to) * 0.5 * (1.0 + (std::f64::consts::PI * t).cos());
        match &self.kind {
            ScheduleKind::Constant => 1.0,
            ScheduleKind::Multistep { milestones, gamma } => {
                let passed = milestones.iter().filter(|&&m| epoch as f64 >= m).count();
                gamma.powi(i32::try_from(passed).unwrap_or(i32::MAX))
            }
            ScheduleKind::Cosine { end } => {
                let t = (at - warmup) / (total as f64 - warmup).max(1.0);
                cosine(1.0, *end, t.min(1.0))
            }
            ScheduleKind::OneCycle { rise, div, final_div } => {
                let last = (total as f64 - 1.0).max(1.0);
                let peak = (rise * total as f64 - 1.0).clamp(0.0, last);
                let first = 1.0 / div;
                if at <= peak && peak > 0.0 {
                    cosine(first, 1.0, at / peak)
                } else {
                    let t = (at - peak) / (last - peak).max(1.0);
                    cosine(1.0, first / final_div, t.min(1.0))
                }
            }
        }
    }
}

/// Arithmetic of the step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Precision {
    /// 32-bit floats throughout.
    F32,
    /// Convolutions, matrix products and the activations between them in bf16; weights, statistics, gradients of
    /// weights, losses and the optimizer in 32-bit floats.
    Bf16,
}

impl Precision {
    /// The word for it in specs and reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Precision::F32 => "f32",
            Precision::Bf16 => "bf16",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Pace;

    #[test]
    fn pools_grow_at_their_pace() {
        let sizes = |from, to, epochs, images| {
            let pace = Pace { from, to };
            (0..epochs).map(|epoch| pace.images(epoch, epochs, images)).collect::<Vec<_>>()
        };
        assert_eq!(sizes(0.4, 1.0, 4, 50), [20, 30, 40, 50]);
        assert_eq!(sizes(0.1, 1.0, 4, 10), [1, 4, 7, 10]);
        // Rounded up: 3.3, 6.65, 10.
        assert_eq!(sizes(0.33, 1.0, 3, 10), [4, 7, 10]);
        assert_eq!(sizes(0.3, 1.0, 1, 10), [3], "the first epoch is where it begins");
        assert_eq!(sizes(1.0, 1.0, 2, 7), [7, 7]);
    }
}
