//! Batch statistics and normalisation over channels; x is `[N,C,…]`.

use super::Tensor;
use super::elementwise::channels;

/// Entries per channel.
fn count(x: &Tensor) -> f64 {
    (x.data.len() / x.dims()[1].max(1)) as f64
}

/// Σ of f(element index) per channel.
fn sums(x: &Tensor, f: impl Fn(usize, usize) -> f64) -> Vec<f64> {
    let mut out = vec![0.0; x.dims()[1]];
    for (i, c) in channels(x).enumerate() {
        out[c] += f(i, c);
    }
    out
}

/// Mean and biased variance.
pub(super) fn stats(x: &Tensor) -> [Vec<f64>; 2] {
    let n = count(x);
    let mean: Vec<f64> = sums(x, |i, _| x.data[i]).iter().map(|s| s / n).collect();
    let var = sums(x, |i, c| (x.data[i] - mean[c]).powi(2)).iter().map(|s| s / n).collect();
    [mean, var]
}

fn deviations(var: &Tensor, eps: f64) -> Vec<f64> {
    var.data.iter().map(|v| (v + eps).sqrt()).collect()
}

pub(super) fn forward(
    x: &Tensor,
    mean: &Tensor,
    var: &Tensor,
    gain: &Tensor,
    bias: &Tensor,
    eps: f64,
) -> Vec<f64> {
    let s = deviations(var, eps);
    let one = |(x, c): (&f64, usize)| gain.data[c] * (x - mean.data[c]) / s[c] + bias.data[c];
    x.data.iter().zip(channels(x)).map(one).collect()
}

/// dgain = Σ dy · x̂, dbias = Σ dy.
pub(super) fn grad_reduce(x: &Tensor, mean: &Tensor, var: &Tensor, dy: &Tensor, eps: f64) -> [Vec<f64>; 2] {
    let s = deviations(var, eps);
    let dgain = sums(x, |i, c| dy.data[i] * (x.data[i] - mean.data[c]) / s[c]);
    let dbias = sums(x, |i, _| dy.data[i]);
    [dgain, dbias]
}

/// dx = gain/s · (dy − dbias/m − x̂ · dgain/m); the operands are (x, mean, var, gain, dy, dgain, dbias).
pub(super) fn grad_input(operands: &[&Tensor], eps: f64) -> Vec<f64> {
    let [x, mean, var, gain, dy, dgain, dbias] = [0, 1, 2, 3, 4, 5, 6].map(|i| operands[i]);
    let s = deviations(var, eps);
    let m = count(x);
    let one = |((x, dy), c): ((&f64, &f64), usize)| {
        let xhat = (x - mean.data[c]) / s[c];
        gain.data[c] / s[c] * (dy - dbias.data[c] / m - xhat * dgain.data[c] / m)
    };
    x.data.iter().zip(&dy.data).zip(channels(x)).map(one).collect()
}

pub(super) fn grad_fixed(var: &Tensor, gain: &Tensor, dy: &Tensor, eps: f64) -> Vec<f64> {
    let s = deviations(var, eps);
    dy.data.iter().zip(channels(dy)).map(|(dy, c)| dy * gain.data[c] / s[c]).collect()
}
