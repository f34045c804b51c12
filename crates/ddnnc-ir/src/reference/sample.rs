//! Operators per sample, and per row of a matrix: each takes everything but axis 0 together.

use super::Tensor;

/// Applies `f(sample of x, sample of dy, result)` to each sample.
fn each(x: &Tensor, other: &Tensor, f: impl Fn(&[f64], &[f64], &mut [f64])) -> Vec<f64> {
    let entries = x.dims()[1..].iter().product::<usize>().max(1);
    let mut out = vec![0.0; x.data.len()];
    let samples = x.data.chunks_exact(entries).zip(other.data.chunks_exact(entries));
    for ((x, other), out) in samples.zip(out.chunks_exact_mut(entries)) {
        f(x, other, out);
    }
    out
}

fn fill(out: &mut [f64], f: impl Fn(usize) -> f64) {
    out.iter_mut().enumerate().for_each(|(i, y)| *y = f(i));
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Mean and √(unbiased variance + eps).
fn moments(x: &[f64], eps: f64) -> (f64, f64) {
    let n = x.len() as f64;
    let mean = x.iter().sum::<f64>() / n;
    let var = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (n - 1.0);
    (mean, (var + eps).sqrt())
}

pub(super) fn standardize(x: &Tensor, eps: f64) -> Vec<f64> {
    each(x, x, |x, _, out| {
        let (mean, s) = moments(x, eps);
        fill(out, |i| (x[i] - mean) / s);
    })
}

/// dx = (dy − mean dy − y · Σ dy·y / (m − 1)) / s.
pub(super) fn standardize_grad(x: &Tensor, dy: &Tensor, eps: f64) -> Vec<f64> {
    each(x, dy, |x, dy, out| {
        let (mean, s) = moments(x, eps);
        let m = x.len() as f64;
        let mean_dy = dy.iter().sum::<f64>() / m;
        let along = x.iter().zip(dy).map(|(x, dy)| (x - mean) / s * dy).sum::<f64>() / (m - 1.0);
        fill(out, |i| (dy[i] - mean_dy - (x[i] - mean) / s * along) / s);
    })
}

pub(super) fn l2_normalize(x: &Tensor, eps: f64) -> Vec<f64> {
    each(x, x, |x, _, out| {
        let norm = dot(x, x).sqrt().max(eps);
        fill(out, |i| x[i] / norm);
    })
}

/// dx = (dy − y · Σ dy·y) / ‖x‖; below the least norm dx = dy / eps.
pub(super) fn l2_normalize_grad(x: &Tensor, dy: &Tensor, eps: f64) -> Vec<f64> {
    each(x, dy, |x, dy, out| {
        let norm = dot(x, x).sqrt();
        if norm > eps {
            let along = dot(x, dy) / (norm * norm);
            fill(out, |i| (dy[i] - x[i] * along) / norm);
        } else {
            fill(out, |i| dy[i] / eps);
        }
    })
}

/// log softmax of factor · x, shifted by the largest entry so that nothing overflows.
pub(super) fn log_softmax_row(x: &[f64], factor: f64) -> Vec<f64> {
    let top = x.iter().map(|x| factor * x).fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = x.iter().map(|x| (factor * x - top).exp()).sum();
    x.iter().map(|x| factor * x - top - sum.ln()).collect()
}

pub(super) fn softmax(x: &Tensor) -> Vec<f64> {
    each(x, x, |x, _, out| {
        let log = log_softmax_row(x, 1.0);
        fill(out, |i| log[i].exp());
    })
}

pub(super) fn softmax_grad(y: &Tensor, dy: &Tensor) -> Vec<f64> {
    each(y, dy, |y, dy, out| {
        let along = dot(y, dy);
        fill(out, |i| y[i] * (dy[i] - along));
    })
}

pub(super) fn log_softmax(x: &Tensor) -> Vec<f64> {
    each(x, x, |x, _, out| out.copy_from_slice(&log_softmax_row(x, 1.0)))
}

pub(super) fn log_softmax_grad(y: &Tensor, dy: &Tensor) -> Vec<f64> {
    each(y, dy, |y, dy, out| {
        let total: f64 = dy.iter().sum();
        fill(out, |i| dy[i] - y[i].exp() * total);
    })
}
