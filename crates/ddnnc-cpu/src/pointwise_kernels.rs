//! The inner loops of tile programs: plain slices of one length, so that they vectorise. Each loop is compiled for every
//! level of the processor on its own. The innermost loops are
//! functions of slices, which tells the compiler that the slices are apart; what a closure captures does not.

use crate::functions::{exp, ln, phi, sigmoid, tanh};
use crate::simd::{Level, at_every_level};
use ddnnc_ir::UnaryKind;

/// The nearest bf16, ties to even, as its 16 bits; not a number stays so.
#[inline(always)]
pub fn narrow(x: f32) -> u16 {
    let bits = x.to_bits();
    let rounded = (bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16) as u16;
    if x.is_nan() { (bits >> 16) as u16 | 0x40 } else { rounded }
}

/// The number of 16 bits of bf16.
#[inline(always)]
pub fn widen(x: u16) -> f32 {
    f32::from_bits(u32::from(x) << 16)
}

#[inline(always)]
fn each<A: Copy, B>(out: &mut [B], a: &[A], f: impl Fn(A) -> B) {
    out.iter_mut().zip(a).for_each(|(out, &a)| *out = f(a));
}

#[inline(always)]
fn each2(out: &mut [f32], a: &[f32], b: &[f32], f: impl Fn(f32, f32) -> f32) {
    let n = out.len();
    let (a, b) = (&a[..n], &b[..n]);
    for i in 0..n {
        out[i] = f(a[i], b[i]);
    }
}

/// out = f(a).
#[inline(always)]
pub fn map(level: Level, out: &mut [f32], a: &[f32], f: impl Fn(f32) -> f32) {
    level.run(|| each(out, a, f));
}

/// out = f(a, b).
#[inline(always)]
pub fn map2(level: Level, out: &mut [f32], a: &[f32], b: &[f32], f: impl Fn(f32, f32) -> f32) {
    level.run(|| each2(out, a, b, f));
}

at_every_level! {
    /// Rounds every element to bf16 where it lies.
    pub fn round(x: &mut [f32]) {
        x.iter_mut().for_each(|x| *x = widen(narrow(*x)));
    }

    /// out = x.
    pub fn widen_all(out: &mut [f32], x: &[u16]) {
        each(out, x, widen);
    }

    /// out = x, rounded.
    pub fn narrow_all(out: &mut [u16], x: &[f32]) {
        each(out, x, narrow);
    }

    /// w', b' = w − lr · step, momentum · b + g.
    pub fn sgd(sgd: Sgd, out: &mut [f32], out_b: &mut [f32], operands: [&[f32]; 3], lr: f32) {
        let n = out.len();
        let [w, g, b] = operands.map(|x| &x[..n]);
        let out_b = &mut out_b[..n];
        let Sgd { momentum, nesterov, decay } = sgd;
        if nesterov {
            for i in 0..n {
                let g = g[i] + decay * w[i];
                let b = momentum * b[i] + g;
                out_b[i] = b;
                out[i] = w[i] - lr * (g + momentum * b);
            }
        } else {
            for i in 0..n {
                let b = momentum * b[i] + (g[i] + decay * w[i]);
                out_b[i] = b;
                out[i] = w[i] - lr * b;
            }
        }
    }

    /// total += x.
    pub fn add_up(x: &[f32], total: &mut [f64]) {
        #[inline(always)]
        fn row(x: &[f32], total: &mut [f64]) {
            let total = &mut total[..x.len()];
            for i in 0..x.len() {
                total[i] += f64::from(x[i]);
            }
        }
        x.chunks(total.len()).for_each(|x| row(x, total));
    }
}

/// out = f(x), or 0 where that is infinite or no number.
pub fn shifts<A: Copy>(level: Level, out: &mut [f64], x: &[A], f: impl Fn(A) -> f32) {
    level.run(|| {
        each(out, x, |x| {
            let x = f(x);
            if x.is_finite() { f64::from(x) } else { 0.0 }
        });
    });
}

/// min(max(x, 0), top), where not a number stays so.
#[inline(always)]
fn clamp(x: f32, top: f32) -> f32 {
    let x = if x < 0.0 { 0.0 } else { x };
    if x > top { top } else { x }
}

/// out = f(x).
pub fn unary(level: Level, kind: UnaryKind, out: &mut [f32], x: &[f32]) {
    match kind {
        UnaryKind::Relu => map(level, out, x, |x| if x < 0.0 { 0.0 } else { x }),
        UnaryKind::Relu6 => map(level, out, x, |x| clamp(x, 6.0)),
        UnaryKind::Sigmoid => map(level, out, x, sigmoid),
        UnaryKind::Tanh => map(level, out, x, tanh),
        UnaryKind::HardSwish => map(level, out, x, |x| x * clamp(x + 3.0, 6.0) * (1.0 / 6.0)),
        UnaryKind::Silu => map(level, out, x, |x| x * sigmoid(x)),
        UnaryKind::Gelu => map(level, out, x, |x| x * phi(x)),
        UnaryKind::Square => map(level, out, x, |x| x * x),
        UnaryKind::Log => map(level, out, x, ln),
    }
}

/// out = dy · f'.
pub fn unary_grad(level: Level, kind: UnaryKind, out: &mut [f32], saved: &[f32], dy: &[f32]) {
    match kind {
        UnaryKind::Relu => map2(level, out, saved, dy, |s, dy| dy * if s > 0.0 { 1.0 } else { 0.0 }),
        UnaryKind::Relu6 => map2(level, out, saved, dy, |s, dy| dy * f32::from(s > 0.0 && s < 6.0)),
        UnaryKind::Sigmoid => map2(level, out, saved, dy, |s, dy| dy * (s * (1.0 - s))),
        UnaryKind::Tanh => map2(level, out, saved, dy, |s, dy| dy * (1.0 - s * s)),
        UnaryKind::HardSwish => map2(level, out, saved, dy, |s, dy| {
            let slope = if s >= 3.0 { 1.0 } else { s * (1.0 / 3.0) + 0.5 };
            dy * if s <= -3.0 { 0.0 } else { slope }
        }),
        UnaryKind::Silu => map2(level, out, saved, dy, |s, dy| {
            let g = sigmoid(s);
            dy * (g * (1.0 + s * (1.0 - g)))
        }),
        UnaryKind::Gelu => map2(level, out, saved, dy, |s, dy| {
            // 1/√(2π)
            let density = exp(-0.5 * s * s) * 0.398_942_3;
            dy * (phi(s) + s * density)
        }),
        UnaryKind::Square => map2(level, out, saved, dy, |s, dy| dy * (2.0 * s)),
        UnaryKind::Log => {
            map2(level, out, saved, dy, |s, dy| dy * if s > f32::MIN_POSITIVE { 1.0 / s } else { 0.0 });
        }
    }
}

/// The constants of an SGD update.
#[derive(Clone, Copy, Debug)]
pub struct Sgd {
    /// Weight of the buffer; zero where there is none.
    pub momentum: f32,
    /// Look ahead.
    pub nesterov: bool,
    /// L2 penalty.
    pub decay: f32,
}

/// out = w − lr · (g + decay · w).
pub fn sgd_plain(level: Level, sgd: Sgd, out: &mut [f32], w: &[f32], g: &[f32], lr: f32) {
    map2(level, out, w, g, |w, g| w - lr * (g + sgd.decay * w));
}

/// The constants of an AdamW update.
#[derive(Clone, Copy, Debug)]
pub struct Adamw {
    /// Decay of m.
    pub beta1: f64,
    /// Decay of v.
    pub beta2: f64,
    /// Added to √v̂.
    pub eps: f64,
    /// Decoupled decay.
    pub weight_decay: f64,
}

at_every_level! {
    /// w', m', v'; t counts from 1.
    pub fn adamw(
        adamw: Adamw,
        out: &mut [f32],
        out_m: &mut [f32],
        out_v: &mut [f32],
        operands: [&[f32]; 4],
        lr: f32,
        t: f32,
    ) {
        let (lr, t) = (f64::from(lr), f64::from(t));
        let (beta1, beta2, eps) = (adamw.beta1 as f32, adamw.beta2 as f32, adamw.eps as f32);
        let (gain1, gain2) = ((1.0 - adamw.beta1) as f32, (1.0 - adamw.beta2) as f32);
        let rate = (lr / (1.0 - adamw.beta1.powf(t))) as f32;
        let bias2 = (1.0 / (1.0 - adamw.beta2.powf(t))) as f32;
        let keep = (1.0 - lr * adamw.weight_decay) as f32;
        let n = out.len();
        let [w, g, m, v] = operands.map(|x| &x[..n]);
        let (out_m, out_v) = (&mut out_m[..n], &mut out_v[..n]);
        for i in 0..n {
            let new_m = beta1 * m[i] + gain1 * g[i];
            let new_v = beta2 * v[i] + gain2 * g[i] * g[i];
            out_m[i] = new_m;
            out_v[i] = new_v;
            out[i] = w[i] * keep - rate * new_m / ((new_v * bias2).sqrt() + eps);
        }
    }
}

/// Σ f(i) over a run, in eight lanes.
#[inline(always)]
pub fn sum(len: usize, f: impl Fn(usize) -> f64) -> f64 {
    let mut lanes = [0.0f64; 8];
    let whole = len / 8 * 8;
    for i in (0..whole).step_by(8) {
        for (j, lane) in lanes.iter_mut().enumerate() {
            *lane += f(i + j);
        }
    }
    for i in whole..len {
        lanes[i - whole] += f(i);
    }
    lanes.iter().sum()
}
