//! What is written to `metrics.jsonl`: one JSON object a line, its `kind` first.

use crate::evaluate::NetResult;
use indexmap::IndexMap;
use serde::Serialize;

/// One line of the metrics. A number that is not finite is written as `null`.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Record {
    /// One training step.
    Step(StepRecord),
    /// The end of an epoch.
    Epoch(EpochRecord),
    /// The last word.
    Test(TestRecord),
}

/// One training step.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct StepRecord {
    /// Steps done, this one included.
    pub step: u64,
    /// Number of the epoch, from 1.
    pub epoch: u64,
    /// The phase, where the training has several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phase: Option<String>,
    /// Learning rate of this step.
    pub lr: f64,
    /// Every loss term (unweighted) by name, and the weighted sum under `total`.
    pub loss: IndexMap<String, f64>,
    /// Training images per second since the record before.
    pub images_per_second: f64,
}

/// The end of an epoch.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct EpochRecord {
    /// Number of the epoch, from 1.
    pub epoch: u64,
    /// Steps done.
    pub step: u64,
    /// The phase, where the training has several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phase: Option<String>,
    /// Learning rate of the last step.
    pub lr: f64,
    /// Mean over the epoch of every loss term, and of `total`.
    pub loss: IndexMap<String, f64>,
    /// Accuracy on the training batches, as trained, by net.
    pub train: IndexMap<String, f64>,
    /// Results on the held-out images by net; empty where nothing is held out.
    pub validation: IndexMap<String, NetScore>,
    /// Training images per second over the epoch.
    pub images_per_second: f64,
    /// Seconds that the epoch's training steps took (since the resumption, in an epoch that was interrupted).
    pub seconds: f64,
}

/// The evaluation on the test images.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct TestRecord {
    /// Steps done.
    pub step: u64,
    /// Epochs begun.
    pub epoch: u64,
    /// Results by net.
    pub test: IndexMap<String, NetScore>,
}

/// A [`NetResult`] without the name, as the metrics write it.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct NetScore {
    /// Fraction of images whose class has the largest logit.
    pub accuracy: f64,
    /// Fraction of images whose class is among the five largest.
    pub top5: f64,
    /// Mean cross-entropy.
    pub loss: f64,
    /// Images.
    pub images: u64,
}

/// Results by the name of the net.
pub(crate) fn by_net(results: &[NetResult]) -> IndexMap<String, NetScore> {
    results
        .iter()
        .map(|r| {
            (r.name.clone(), NetScore { accuracy: r.accuracy, top5: r.top5, loss: r.loss, images: r.images })
        })
        .collect()
}

/// Sums over the steps of an epoch; part of a checkpoint, so that an epoch that was interrupted reports the same means.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Sums {
    /// Steps summed.
    pub steps: u64,
    /// Images summed.
    pub images: u64,
    /// Sum of each loss term.
    pub loss: IndexMap<String, f64>,
    /// Images classified rightly, by net.
    pub correct: IndexMap<String, u64>,
}

impl Sums {
    /// As text. Floats are written by their bits, so that reading them back is exact.
    pub(crate) fn to_text(&self) -> String {
        let loss: IndexMap<&String, u64> = self.loss.iter().map(|(k, v)| (k, v.to_bits())).collect();
        // Not by way of a `Value`, whose maps are sorted by name. Counts under names always become JSON.
        serde_json::to_string(&(self.steps, self.images, loss, &self.correct)).unwrap_or_default()
    }

    /// From the text; `None` where it is not one of ours.
    pub(crate) fn from_text(text: &str) -> Option<Sums> {
        type Parts = (u64, u64, IndexMap<String, u64>, IndexMap<String, u64>);
        let (steps, images, loss, correct): Parts = serde_json::from_str(text).ok()?;
        let loss = loss.into_iter().map(|(k, v)| (k, f64::from_bits(v))).collect();
        Some(Sums { steps, images, loss, correct })
    }
}

#[cfg(test)]
mod tests {
    use super::Sums;

    /// An epoch that goes on has its terms and nets in the order of the spec, as one that was never interrupted.
    #[test]
    fn sums_are_read_back_in_their_order() {
        let loss = [("kl.full.small", 0.1), ("ce.small", 1.0 / 3.0), ("total", f64::NAN)];
        let sums = Sums {
            steps: 3,
            images: 96,
            loss: loss.map(|(name, value)| (name.to_string(), value)).into_iter().collect(),
            correct: [("small", 7), ("early", 5)].map(|(net, n)| (net.to_string(), n)).into_iter().collect(),
        };
        let read = Sums::from_text(&sums.to_text()).expect("it is one of ours");
        assert_eq!((read.steps, read.images), (3, 96));
        let bits = |sums: &Sums| sums.loss.iter().map(|(k, v)| (k.clone(), v.to_bits())).collect::<Vec<_>>();
        assert_eq!(bits(&read), bits(&sums));
        assert!(read.correct.iter().eq(&sums.correct), "{:?}", read.correct);
    }
}
