//! Losses and their gradients; each is a mean over the batch.

use super::Tensor;
use super::sample::log_softmax_row;
use crate::IrError;

fn rows(t: &Tensor) -> std::slice::ChunksExact<'_, f64> {
    t.data.chunks_exact(t.dims()[1].max(1))
}

/// The label as an index below `classes`.
fn class(label: f64, classes: usize) -> Result<usize, IrError> {
    if label >= 0.0 && label < classes as f64 {
        return Ok(label as usize);
    }
    Err(IrError::Invalid {
        node: "cross_entropy".to_string(),
        message: format!("label {label} is not in 0..{classes}"),
    })
}

/// −Σ q log p / N, q = (1 − smoothing) · onehot + smoothing/K.
pub(super) fn cross_entropy(logits: &Tensor, labels: &Tensor, smoothing: f64) -> Result<f64, IrError> {
    let k = logits.dims()[1];
    let mut total = 0.0;
    for (row, &label) in rows(logits).zip(&labels.data) {
        let log = log_softmax_row(row, 1.0);
        let mean: f64 = log.iter().sum::<f64>() / k as f64;
        total -= (1.0 - smoothing) * log[class(label, k)?] + smoothing * mean;
    }
    Ok(total / logits.dims()[0] as f64)
}

/// dl · (p − q) / N.
pub(super) fn cross_entropy_grad(
    logits: &Tensor,
    labels: &Tensor,
    dl: &Tensor,
    smoothing: f64,
) -> Result<Vec<f64>, IrError> {
    let k = logits.dims()[1];
    let factor = dl.data[0] / logits.dims()[0] as f64;
    let mut out = Vec::with_capacity(logits.data.len());
    for (row, &label) in rows(logits).zip(&labels.data) {
        let class = class(label, k)?;
        for (i, log) in log_softmax_row(row, 1.0).iter().enumerate() {
            let q = (1.0 - smoothing) * f64::from(i == class) + smoothing / k as f64;
            out.push(factor * (log.exp() - q));
        }
    }
    Ok(out)
}

/// Per sample (log p, log q) of teacher and student at the temperature.
fn tempered<'a>(
    teacher: &'a Tensor,
    student: &'a Tensor,
    temperature: f64,
) -> impl Iterator<Item = (Vec<f64>, Vec<f64>)> + 'a {
    let at = move |row: &[f64]| log_softmax_row(row, 1.0 / temperature);
    rows(teacher).zip(rows(student)).map(move |(t, s)| (at(t), at(s)))
}

/// T²/N · Σ p (log p − log q).
pub(super) fn kl(teacher: &Tensor, student: &Tensor, temperature: f64) -> f64 {
    let sum: f64 = tempered(teacher, student, temperature)
        .map(|(p, q)| p.iter().zip(&q).map(|(p, q)| p.exp() * (p - q)).sum::<f64>())
        .sum();
    temperature * temperature * sum / teacher.dims()[0] as f64
}

/// dl · T/N · p · (r − Σ p·r), r = log p − log q.
pub(super) fn kl_grad_teacher(teacher: &Tensor, student: &Tensor, dl: &Tensor, temperature: f64) -> Vec<f64> {
    let factor = dl.data[0] * temperature / teacher.dims()[0] as f64;
    let mut out = Vec::with_capacity(teacher.data.len());
    for (p, q) in tempered(teacher, student, temperature) {
        let mean: f64 = p.iter().zip(&q).map(|(p, q)| p.exp() * (p - q)).sum();
        out.extend(p.iter().zip(&q).map(|(p, q)| factor * p.exp() * (p - q - mean)));
    }
    out
}

/// dl · T/N · (q − p).
pub(super) fn kl_grad_student(teacher: &Tensor, student: &Tensor, dl: &Tensor, temperature: f64) -> Vec<f64> {
    let factor = dl.data[0] * temperature / teacher.dims()[0] as f64;
    tempered(teacher, student, temperature)
        .flat_map(|(p, q)| p.into_iter().zip(q).map(|(p, q)| q.exp() - p.exp()).collect::<Vec<_>>())
        .map(|d| factor * d)
        .collect()
}

pub(super) fn mean_squared_error(a: &Tensor, b: &Tensor) -> f64 {
    a.data.iter().zip(&b.data).map(|(a, b)| (a - b).powi(2)).sum::<f64>() / a.data.len() as f64
}

/// dl · 2(a − b)/n.
pub(super) fn mean_squared_error_grad(a: &Tensor, b: &Tensor, dl: &Tensor) -> Vec<f64> {
    let factor = 2.0 * dl.data[0] / a.data.len() as f64;
    a.data.iter().zip(&b.data).map(|(a, b)| factor * (a - b)).collect()
}
