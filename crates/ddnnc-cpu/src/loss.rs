//! Losses and their gradients: means over the batch; the rows' shares are added in order.

use crate::device::Machine;
use crate::pointwise_kernels::{map2, sum};
use crate::sample::log_sum_exp;
use ddnnc_passes::DeviceError;

/// Elements of a task.
const PIECE: usize = 1 << 14;

/// Checks that every label is below `classes`.
pub fn check_labels(labels: &[i64], classes: usize) -> Result<(), DeviceError> {
    match labels.iter().find(|&l| !(0..classes as i64).contains(l)) {
        None => Ok(()),
        Some(label) => {
            Err(DeviceError::Failed(format!("cross_entropy: label {label} is not in 0..{classes}")))
        }
    }
}

/// −Σ q log p / N.
pub fn cross_entropy(
    machine: &mut Machine<'_>,
    classes: usize,
    logits: &[f32],
    labels: &[i64],
    smoothing: f64,
) -> f32 {
    let (machine, shares) = machine.with_partials(labels.len());
    machine.pool.split(shares, 32, |task, shares, _| {
        for (i, share) in shares.iter_mut().enumerate() {
            let n = task * 32 + i;
            let row = &logits[n * classes..][..classes];
            let shift = log_sum_exp(row, 1.0);
            let mean = sum(classes, |i| f64::from(row[i])) / classes as f64 - shift;
            let hit = f64::from(row[labels[n] as usize]) - shift;
            *share = -((1.0 - smoothing) * hit + smoothing * mean);
        }
    });
    (shares.iter().sum::<f64>() / labels.len() as f64) as f32
}

/// out = dl · (p − q) / N.
pub fn cross_entropy_grad(
    machine: &Machine<'_>,
    classes: usize,
    out: &mut [f32],
    (logits, labels, dl): (&[f32], &[i64], f32),
    smoothing: f64,
) {
    let factor = f64::from(dl) / labels.len() as f64;
    let even = smoothing / classes as f64;
    machine.pool.split(out, classes, |n, out, _| {
        let row = &logits[n * classes..][..classes];
        let shift = log_sum_exp(row, 1.0);
        let label = labels[n] as usize;
        for (i, (o, &x)) in out.iter_mut().zip(row).enumerate() {
            let q = if i == label { 1.0 - smoothing + even } else { even };
            *o = (factor * ((f64::from(x) - shift).exp() - q)) as f32;
        }
    });
}

/// Two rows of logits at a temperature, as log-probabilities.
struct Pair<'a> {
    teacher: &'a [f32],
    student: &'a [f32],
    factor: f64,
    shifts: (f64, f64),
}

impl<'a> Pair<'a> {
    fn new(teacher: &'a [f32], student: &'a [f32], n: usize, classes: usize, temperature: f64) -> Pair<'a> {
        let factor = 1.0 / temperature;
        let (teacher, student) = (&teacher[n * classes..][..classes], &student[n * classes..][..classes]);
        let shifts = (log_sum_exp(teacher, factor), log_sum_exp(student, factor));
        Pair { teacher, student, factor, shifts }
    }

    /// (log p, log q) of each class.
    fn logs(&self) -> impl Iterator<Item = (f64, f64)> {
        let log = |x: f32, shift: f64| self.factor * f64::from(x) - shift;
        self.teacher
            .iter()
            .zip(self.student)
            .map(move |(&t, &s)| (log(t, self.shifts.0), log(s, self.shifts.1)))
    }

    fn divergence(&self) -> f64 {
        self.logs().map(|(p, q)| p.exp() * (p - q)).sum()
    }
}

/// T²/N · Σ p (log p − log q).
pub fn kl(
    machine: &mut Machine<'_>,
    classes: usize,
    teacher: &[f32],
    student: &[f32],
    temperature: f64,
) -> f32 {
    let rows = teacher.len() / classes.max(1);
    let (machine, shares) = machine.with_partials(rows);
    machine.pool.split(shares, 32, |task, shares, _| {
        for (i, share) in shares.iter_mut().enumerate() {
            *share = Pair::new(teacher, student, task * 32 + i, classes, temperature).divergence();
        }
    });
    (temperature * temperature * shares.iter().sum::<f64>() / rows as f64) as f32
}

/// out = dl · T/N · p · (r − Σ p·r), r = log p − log q.
pub fn kl_grad_teacher(
    machine: &Machine<'_>,
    classes: usize,
    out: &mut [f32],
    (teacher, student, dl): (&[f32], &[f32], f32),
    temperature: f64,
) {
    let factor = f64::from(dl) * temperature / (teacher.len() / classes.max(1)) as f64;
    machine.pool.split(out, classes, |n, out, _| {
        let pair = Pair::new(teacher, student, n, classes, temperature);
        let mean = pair.divergence();
        out.iter_mut()
            .zip(pair.logs())
            .for_each(|(o, (p, q))| *o = (factor * p.exp() * (p - q - mean)) as f32);
    });
}

/// out = dl · T/N · (q − p).
pub fn kl_grad_student(
    machine: &Machine<'_>,
    classes: usize,
    out: &mut [f32],
    (teacher, student, dl): (&[f32], &[f32], f32),
    temperature: f64,
) {
    let factor = f64::from(dl) * temperature / (teacher.len() / classes.max(1)) as f64;
    machine.pool.split(out, classes, |n, out, _| {
        let pair = Pair::new(teacher, student, n, classes, temperature);
        out.iter_mut().zip(pair.logs()).for_each(|(o, (p, q))| *o = (factor * (q.exp() - p.exp())) as f32);
    });
}

/// Shares of a mean squared error over that many elements.
pub fn squared_error_shares(elements: usize) -> usize {
    elements.div_ceil(PIECE)
}

/// Mean (a − b)².
pub fn mean_squared_error(machine: &mut Machine<'_>, a: &[f32], b: &[f32]) -> f32 {
    let (machine, shares) = machine.with_partials(squared_error_shares(a.len()));
    machine.pool.split(shares, 1, |task, share, _| {
        let end = a.len().min((task + 1) * PIECE);
        let (a, b) = (&a[task * PIECE..end], &b[task * PIECE..end]);
        share[0] = machine.level.run(|| {
            sum(a.len().min(b.len()), |i| {
                let d = f64::from(a[i]) - f64::from(b[i]);
                d * d
            })
        });
    });
    (shares.iter().sum::<f64>() / a.len() as f64) as f32
}

/// out = dl · 2(a − b)/n.
pub fn mean_squared_error_grad(machine: &Machine<'_>, out: &mut [f32], a: &[f32], b: &[f32], dl: f32) {
    let factor = (2.0 * f64::from(dl) / a.len() as f64) as f32;
    machine.pool.split(out, PIECE, |task, out, _| {
        let piece = task * PIECE..task * PIECE + out.len();
        let (a, b) = (&a[piece.clone()], &b[piece]);
        map2(machine.level, out, a, b, |a, b| factor * (a - b));
    });
}
