//! Inference that stops early: nets are asked one after the other, and the first that is sure enough answers.
//!
//! Thresholds are given, or chosen on held-out images so that the nets answer wanted shares of them (Huang et al. 2018,
//! "Multi-Scale Dense Networks": the share of net k is proportional to the k-th power of a ratio), and what comes of them is
//! measured on others.

use crate::data::Loader;
use crate::error::TrainError;
use crate::evaluate::{Evaluator, NetResult, log_probabilities, rank};

/// How sure a net is of an image.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Confidence {
    /// The largest probability; NaN where a logit is no number.
    pub probability: f64,
    /// Entropy of the probabilities, in nats; NaN likewise.
    pub entropy: f64,
}

impl Confidence {
    /// Of the logits of one image, computed in f64.
    pub fn of(logits: &[f32]) -> Confidence {
        let logs = log_probabilities(logits);
        let entropy = logs.clone().map(|log| {
            // What is never expected adds nothing, however unlikely.
            let p = log.exp();
            if p == 0.0 { 0.0 } else { -p * log }
        });
        Confidence { probability: logs.reduce(f64::max).map_or(f64::NAN, f64::exp), entropy: entropy.sum() }
    }
}

/// What a net says of an image whose label is known.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Answer {
    /// Whether the class of the largest logit is the label.
    pub correct: bool,
    /// How sure it is.
    pub confidence: Confidence,
}

/// What nets say of the same images: a list for each net, in the order in which they are asked.
pub type Answers = Vec<Vec<Answer>>;

/// When a net answers; the last one always does.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Sure {
    /// Where its largest probability is at least this.
    Probability(f64),
    /// Where the entropy of its probabilities, in nats, is at most this.
    Entropy(f64),
    /// Never.
    Never,
}

impl Sure {
    /// Whether a net answers. What is no number is not sure.
    pub fn holds(self, confidence: Confidence) -> bool {
        match self {
            Sure::Probability(least) => confidence.probability >= least,
            Sure::Entropy(most) => confidence.entropy <= most,
            Sure::Never => false,
        }
    }
}

/// What comes of a cascade on some images.
#[derive(Clone, Debug, PartialEq)]
pub struct CascadeResult {
    /// Fraction of the images that each net answers.
    pub shares: Vec<f64>,
    /// Fraction of images of which the answer is the label.
    pub accuracy: f64,
    /// Mean multiply-accumulates of an image.
    pub macs: f64,
    /// Images.
    pub images: u64,
}

impl Evaluator {
    /// As [`Evaluator::run`], and what the nets of those names say of every image, in that order.
    ///
    /// # Errors
    ///
    /// A name of no net, data or a device that fail.
    pub fn run_with_answers(
        &mut self,
        nets: &[&str],
        loader: Loader,
    ) -> Result<(Vec<NetResult>, Answers), TrainError> {
        let places = nets.iter().map(|name| self.place(name)).collect::<Result<Vec<usize>, _>>()?;
        let mut answers: Answers = vec![Vec::new(); nets.len()];
        let results = self.run_seeing(loader, |net, logits, label| {
            for (place, answers) in places.iter().zip(&mut answers) {
                if *place == net {
                    answers.push(Answer {
                        correct: rank(logits, label) == 0,
                        confidence: Confidence::of(logits),
                    });
                }
            }
        })?;
        Ok((results, answers))
    }
}

/// Shares of `nets` nets, the k-th proportional to the k-th power of `ratio`: below 1 the first nets answer most.
pub fn shares(nets: usize, ratio: f64) -> Vec<f64> {
    let powers: Vec<f64> = (1..=nets).map(|k| ratio.powi(k as i32)).collect();
    let sum: f64 = powers.iter().sum();
    powers.iter().map(|p| p / sum).collect()
}

/// Thresholds on the largest probability with which every net but the last answers that share of these images: one for each
/// net, the last one's is 0. Equally sure images are answered together, so that a net may answer more.
pub fn thresholds(answers: &[Vec<Answer>], shares: &[f64]) -> Vec<Sure> {
    let images = answers.first().map_or(0, Vec::len);
    let mut left: Vec<usize> = (0..images).collect();
    let mut all = Vec::with_capacity(answers.len());
    for (k, (of_net, share)) in answers.iter().zip(shares).enumerate() {
        if k + 1 == answers.len() {
            all.push(Sure::Probability(0.0));
            break;
        }
        let wanted = ((share * images as f64).round() as usize).min(left.len());
        // What is no number is never sure.
        let mut sure: Vec<f64> =
            left.iter().map(|&i| of_net[i].confidence.probability).filter(|p| !p.is_nan()).collect();
        sure.sort_by(|a, b| b.total_cmp(a));
        let threshold = match wanted.min(sure.len()) {
            0 => Sure::Never,
            n => Sure::Probability(sure[n - 1]),
        };
        left.retain(|&i| !threshold.holds(of_net[i].confidence));
        all.push(threshold);
    }
    all
}

/// What a cascade does on images: net k answers where `sure[k]` holds, the last one otherwise; an image that net k answers
/// costs `macs[k]`, what it and the nets before it compute together.
pub fn cascade(answers: &[Vec<Answer>], sure: &[Sure], macs: &[u64]) -> CascadeResult {
    let images = answers.first().map_or(0, Vec::len);
    let last = answers.len().saturating_sub(1);
    let answering = |image: usize| {
        let mut nets = answers[..last].iter().zip(sure);
        nets.position(|(of_net, sure)| sure.holds(of_net[image].confidence)).unwrap_or(last)
    };
    let mut counts = vec![0u64; answers.len()];
    let mut correct = 0u64;
    (0..images).map(|image| (image, answering(image))).for_each(|(image, net)| {
        counts[net] += 1;
        correct += u64::from(answers[net][image].correct);
    });
    let all = images.max(1) as f64;
    CascadeResult {
        shares: counts.iter().map(|&n| n as f64 / all).collect(),
        accuracy: correct as f64 / all,
        macs: counts.iter().zip(macs).map(|(&n, &macs)| n as f64 * macs as f64).sum::<f64>() / all,
        images: images as u64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(correct: bool, probability: f64) -> Answer {
        Answer { correct, confidence: Confidence { probability, entropy: 1.0 - probability } }
    }

    #[test]
    fn confidence_is_of_the_softmax_in_f64() {
        // Probabilities 1/5 and 4/5.
        let a = Confidence::of(&[0.0, 4f32.ln()]);
        let entropy = -(0.2 * 0.2f64.ln() + 0.8 * 0.8f64.ln());
        assert!((a.probability - 0.8).abs() < 1e-7 && (a.entropy - entropy).abs() < 1e-7, "{a:?}");
        let a = Confidence::of(&[1e4, -1e4, 0.0]);
        assert_eq!((a.probability, a.entropy), (1.0, 0.0));
        let a = Confidence::of(&[f32::NAN, 0.0]);
        assert!(!Sure::Probability(0.0).holds(a) && !Sure::Entropy(100.0).holds(a), "{a:?}");
    }

    #[test]
    fn the_first_that_is_sure_answers() {
        let answers = vec![
            vec![answer(true, 0.9), answer(false, 0.95), answer(true, 0.4), answer(false, f64::NAN)],
            vec![answer(false, 0.9), answer(true, 0.9), answer(false, 0.6), answer(true, 0.1)],
            vec![answer(false, 0.9), answer(true, 0.9), answer(true, 0.2), answer(true, 0.2)],
        ];
        let macs = [10, 30, 70];
        let sure = [Sure::Probability(0.9), Sure::Probability(0.6), Sure::Probability(0.0)];
        // Nets 0, 0, 1 and 2 answer: right, wrong, wrong and right.
        let wanted = CascadeResult {
            shares: vec![0.5, 0.25, 0.25],
            accuracy: 0.5,
            macs: (10.0 + 10.0 + 30.0 + 70.0) / 4.0,
            images: 4,
        };
        assert_eq!(cascade(&answers, &sure, &macs), wanted);
        // The same, as entropies are 1 − probability here.
        let sure = [Sure::Entropy(0.1 + 1e-12), Sure::Entropy(0.4), Sure::Never];
        assert_eq!(cascade(&answers, &sure, &macs), wanted);
        let sure = [Sure::Never, Sure::Never, Sure::Never];
        assert_eq!(cascade(&answers, &sure, &macs).shares, [0.0, 0.0, 1.0]);
    }

    #[test]
    fn thresholds_give_the_shares_that_are_wanted() {
        // 100 images, each net surest of others than the one before.
        let net =
            |k: usize| (0..100).map(|i| answer(true, ((i * (7 + 4 * k)) % 100) as f64 / 100.0)).collect();
        let answers: Answers = (0..3).map(net).collect();
        for ratio in [0.25, 1.0, 3.0] {
            let wanted = shares(3, ratio);
            let sure = thresholds(&answers, &wanted);
            let got = cascade(&answers, &sure, &[1, 2, 3]).shares;
            for (got, wanted) in got.iter().zip(&wanted) {
                assert!((got - wanted).abs() <= 0.0101, "{got} of {wanted}");
            }
        }
        assert!(
            shares(3, 0.5).iter().zip([4.0 / 7.0, 2.0 / 7.0, 1.0 / 7.0]).all(|(a, b)| (a - b).abs() < 1e-12)
        );
        // A net of which nothing is wanted never answers; ties are answered together.
        let even: Answers = vec![vec![answer(true, 0.5); 10], vec![answer(true, 0.5); 10]];
        assert_eq!(thresholds(&even, &[0.0, 1.0])[0], Sure::Never);
        assert_eq!(cascade(&even, &thresholds(&even, &[0.3, 0.7]), &[1, 2]).shares, [1.0, 0.0]);
    }
}
