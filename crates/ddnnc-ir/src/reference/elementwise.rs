//! Elementwise operators.

use super::Tensor;
use crate::random::dropout_keeps;
use crate::{BinaryKind, UnaryKind};

pub(super) fn zip(a: &Tensor, b: &Tensor, f: impl Fn(f64, f64) -> f64) -> Vec<f64> {
    a.data.iter().zip(&b.data).map(|(&a, &b)| f(a, b)).collect()
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// The distribution function of the standard normal distribution.
fn phi(x: f64) -> f64 {
    0.5 * (1.0 + libm::erf(x * std::f64::consts::FRAC_1_SQRT_2))
}

/// f(x); not a number stays so.
pub(super) fn unary(kind: UnaryKind, x: f64) -> f64 {
    match kind {
        UnaryKind::Relu => clamp(x, f64::INFINITY),
        UnaryKind::Relu6 => clamp(x, 6.0),
        UnaryKind::Sigmoid => sigmoid(x),
        UnaryKind::Tanh => x.tanh(),
        UnaryKind::HardSwish => x * clamp(x + 3.0, 6.0) / 6.0,
        UnaryKind::Silu => x * sigmoid(x),
        UnaryKind::Gelu => x * phi(x),
        UnaryKind::Square => x * x,
        UnaryKind::Log => {
            let least = f64::from(f32::MIN_POSITIVE);
            (if x < least { least } else { x }).ln()
        }
    }
}

fn clamp(x: f64, top: f64) -> f64 {
    if x <= 0.0 {
        0.0
    } else if x >= top {
        top
    } else {
        x
    }
}

/// f' as a function of f's result or operand, as [`UnaryKind::differentiates_from_result`] says.
pub(super) fn derivative(kind: UnaryKind, saved: f64) -> f64 {
    let s = saved;
    match kind {
        UnaryKind::Relu => f64::from(s > 0.0),
        UnaryKind::Relu6 => f64::from(s > 0.0 && s < 6.0),
        UnaryKind::Sigmoid => s * (1.0 - s),
        UnaryKind::Tanh => 1.0 - s * s,
        UnaryKind::HardSwish => {
            if s <= -3.0 {
                0.0
            } else if s >= 3.0 {
                1.0
            } else {
                s / 3.0 + 0.5
            }
        }
        UnaryKind::Silu => {
            let g = sigmoid(s);
            g * (1.0 + s * (1.0 - g))
        }
        UnaryKind::Gelu => {
            let density = (-0.5 * s * s).exp() / (2.0 * std::f64::consts::PI).sqrt();
            phi(s) + s * density
        }
        UnaryKind::Square => 2.0 * s,
        UnaryKind::Log => {
            if s > f64::from(f32::MIN_POSITIVE) {
                1.0 / s
            } else {
                0.0
            }
        }
    }
}

pub(super) fn binary(kind: BinaryKind, a: f64, b: f64) -> f64 {
    match kind {
        BinaryKind::Add => a + b,
        BinaryKind::Sub => a - b,
        BinaryKind::Mul => a * b,
    }
}

/// The channel of each element of a value `[N,C,…]`, in order.
pub(super) fn channels(t: &Tensor) -> impl Iterator<Item = usize> {
    let dims = t.dims();
    let (c, inner) = (dims[1], dims[2..].iter().product::<usize>());
    (0..t.data.len()).map(move |i| i / inner % c)
}

pub(super) fn bias_add(x: &Tensor, b: &Tensor) -> Vec<f64> {
    x.data.iter().zip(channels(x)).map(|(x, c)| x + b.data[c]).collect()
}

pub(super) fn dropout(x: &Tensor, rng: &Tensor, p: f64, site: u64) -> Vec<f64> {
    let (seed, step) = (rng.data[0] as i64, rng.data[1] as i64);
    let keep = |i: usize| dropout_keeps(seed, step, site, i as u64, p);
    x.data.iter().enumerate().map(|(i, &x)| if keep(i) { x / (1.0 - p) } else { 0.0 }).collect()
}
