//! Operators per sample and per row: everything but axis 0 together.

use crate::device::Machine;
use crate::pointwise_kernels::sum;

/// Elements of a task, in quarters.
const PIECE: usize = 1 << 14;

/// Runs `f(x, other, result)` for every sample of `len` elements.
fn each(
    machine: &Machine<'_>,
    len: usize,
    out: &mut [f32],
    x: &[f32],
    other: &[f32],
    f: impl Fn(&[f32], &[f32], &mut [f32]) + Sync,
) {
    if len == 0 {
        return;
    }
    let per_task = (PIECE / 4 / len).max(1);
    machine.pool.split(out, per_task * len, |task, out, _| {
        machine.level.run(|| {
            for (i, out) in out.chunks_exact_mut(len).enumerate() {
                let at = (task * per_task + i) * len;
                f(&x[at..at + len], &other[at..at + len], out);
            }
        });
    });
}

#[inline(always)]
fn dot(a: &[f32], b: &[f32]) -> f64 {
    let len = a.len().min(b.len());
    sum(len, |i| f64::from(a[i]) * f64::from(b[i]))
}

/// Mean and 1/√(unbiased variance + eps).
#[inline(always)]
fn moments(x: &[f32], eps: f64) -> (f64, f64) {
    let n = x.len() as f64;
    let mean = sum(x.len(), |i| f64::from(x[i])) / n;
    let squares = sum(x.len(), |i| {
        let d = f64::from(x[i]) - mean;
        d * d
    });
    (mean, 1.0 / (squares / (n - 1.0) + eps).sqrt())
}

/// out = (x − mean) / √(unbiased var + eps).
pub fn standardize(machine: &Machine<'_>, len: usize, out: &mut [f32], x: &[f32], eps: f64) {
    each(machine, len, out, x, x, |x, _, out| {
        let (mean, inverse) = moments(x, eps);
        out.iter_mut().zip(x).for_each(|(o, &x)| *o = ((f64::from(x) - mean) * inverse) as f32);
    });
}

/// out = (dy − mean dy − y · Σ dy·y / (m − 1)) / s.
pub fn standardize_grad(machine: &Machine<'_>, len: usize, out: &mut [f32], x: &[f32], dy: &[f32], eps: f64) {
    each(machine, len, out, x, dy, |x, dy, out| {
        let (mean, inverse) = moments(x, eps);
        let m = x.len() as f64;
        let mean_dy = sum(dy.len(), |i| f64::from(dy[i])) / m;
        let along =
            sum(x.len().min(dy.len()), |i| (f64::from(x[i]) - mean) * f64::from(dy[i])) * inverse / (m - 1.0);
        for ((o, &x), &dy) in out.iter_mut().zip(x).zip(dy) {
            let y = (f64::from(x) - mean) * inverse;
            *o = ((f64::from(dy) - mean_dy - y * along) * inverse) as f32;
        }
    });
}

/// out = x / max(‖x‖, eps).
pub fn l2_normalize(machine: &Machine<'_>, len: usize, out: &mut [f32], x: &[f32], eps: f64) {
    each(machine, len, out, x, x, |x, _, out| {
        let norm = dot(x, x).sqrt();
        let scale = 1.0 / if norm < eps { eps } else { norm };
        out.iter_mut().zip(x).for_each(|(o, &x)| *o = (f64::from(x) * scale) as f32);
    });
}

/// out = (dy − y · Σ dy·y) / ‖x‖, below the least norm dy / eps.
pub fn l2_normalize_grad(
    machine: &Machine<'_>,
    len: usize,
    out: &mut [f32],
    x: &[f32],
    dy: &[f32],
    eps: f64,
) {
    each(machine, len, out, x, dy, |x, dy, out| {
        let norm = dot(x, x).sqrt();
        let below = norm <= eps;
        let (scale, along) = if below { (1.0 / eps, 0.0) } else { (1.0 / norm, dot(x, dy) / (norm * norm)) };
        for ((o, &x), &dy) in out.iter_mut().zip(x).zip(dy) {
            let inner = if below { f64::from(dy) } else { f64::from(dy) - f64::from(x) * along };
            *o = (inner * scale) as f32;
        }
    });
}

/// The number that, taken from factor · x, gives log softmax.
#[inline(always)]
pub fn log_sum_exp(x: &[f32], factor: f64) -> f64 {
    let top = x.iter().fold(f64::NEG_INFINITY, |top, &x| top.max(factor * f64::from(x)));
    let total: f64 = x.iter().map(|&x| (factor * f64::from(x) - top).exp()).sum();
    top + total.ln()
}

/// out = softmax along the rows.
pub fn softmax(machine: &Machine<'_>, len: usize, out: &mut [f32], x: &[f32]) {
    each(machine, len, out, x, x, |x, _, out| {
        let shift = log_sum_exp(x, 1.0);
        out.iter_mut().zip(x).for_each(|(o, &x)| *o = (f64::from(x) - shift).exp() as f32);
    });
}

/// out = y · (dy − Σ y·dy).
pub fn softmax_grad(machine: &Machine<'_>, len: usize, out: &mut [f32], y: &[f32], dy: &[f32]) {
    each(machine, len, out, y, dy, |y, dy, out| {
        let along = dot(y, dy);
        for ((o, &y), &dy) in out.iter_mut().zip(y).zip(dy) {
            *o = (f64::from(y) * (f64::from(dy) - along)) as f32;
        }
    });
}

/// out = log softmax along the rows.
pub fn log_softmax(machine: &Machine<'_>, len: usize, out: &mut [f32], x: &[f32]) {
    each(machine, len, out, x, x, |x, _, out| {
        let shift = log_sum_exp(x, 1.0);
        out.iter_mut().zip(x).for_each(|(o, &x)| *o = (f64::from(x) - shift) as f32);
    });
}

/// out = dy − eʸ · Σ dy.
pub fn log_softmax_grad(machine: &Machine<'_>, len: usize, out: &mut [f32], y: &[f32], dy: &[f32]) {
    each(machine, len, out, y, dy, |y, dy, out| {
        let total = sum(dy.len(), |i| f64::from(dy[i]));
        for ((o, &y), &dy) in out.iter_mut().zip(y).zip(dy) {
            *o = (f64::from(dy) - f64::from(y).exp() * total) as f32;
        }
    });
}
