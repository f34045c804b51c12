//! Optimizer updates and running means, in place where the plan says so.

use crate::device::Machine;
use crate::elementwise::{Arg, BLOCK, PIECE, each_block, map2};

/// The constants of an SGD update.
#[derive(Clone, Copy)]
pub struct Sgd {
    /// Zero where there is no buffer.
    pub momentum: f64,
    /// Look ahead.
    pub nesterov: bool,
    /// L2 penalty.
    pub weight_decay: f64,
}

/// out = w − lr · (g + weight_decay · w); `nesterov` without a buffer has no effect (momentum is zero).
pub fn sgd_plain(machine: &Machine<'_>, sgd: Sgd, out: &mut [f32], w: Arg<'_>, g: &[f32], lr: f32) {
    let decay = sgd.weight_decay as f32;
    map2(machine, out, w, Arg::Apart(g), |w, g| w - lr * (g + decay * w));
}

/// w', b' = w − lr · step, momentum · b + g.
pub fn sgd(
    machine: &Machine<'_>,
    sgd: Sgd,
    (out, out_b): (&mut [f32], &mut [f32]),
    (w, g, b): (Arg<'_>, &[f32], Arg<'_>),
    lr: f32,
) {
    let (momentum, decay) = (sgd.momentum as f32, sgd.weight_decay as f32);
    machine.pool.split2((out, out_b), PIECE, |task, out, out_b| {
        machine.level.run(|| {
            for (i, (out, out_b)) in out.chunks_mut(BLOCK).zip(out_b.chunks_mut(BLOCK)).enumerate() {
                let at = task * PIECE + i * BLOCK;
                let n = out.len();
                let mut w = w.block(at, out);
                let mut b = b.block(at, out_b);
                let g = Arg::Apart(g).block(at, out);
                for i in 0..BLOCK {
                    let g = g[i] + decay * w[i];
                    b[i] = momentum * b[i] + g;
                    w[i] -= lr * if sgd.nesterov { g + momentum * b[i] } else { b[i] };
                }
                out.copy_from_slice(&w[..n]);
                out_b.copy_from_slice(&b[..n]);
            }
        });
    });
}

/// The constants of an AdamW update.
#[derive(Clone, Copy)]
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

/// w', m', v'; t counts from 1.
pub fn adamw(
    machine: &Machine<'_>,
    adamw: Adamw,
    outs: (&mut [f32], &mut [f32], &mut [f32]),
    (w, g, m, v): (Arg<'_>, &[f32], Arg<'_>, Arg<'_>),
    lr: f32,
    t: f32,
) {
    let (lr, t) = (f64::from(lr), f64::from(t));
    let (beta1, beta2, eps) = (adamw.beta1 as f32, adamw.beta2 as f32, adamw.eps as f32);
    let (gain1, gain2) = ((1.0 - adamw.beta1) as f32, (1.0 - adamw.beta2) as f32);
    let rate = (lr / (1.0 - adamw.beta1.powf(t))) as f32;
    let bias2 = (1.0 / (1.0 - adamw.beta2.powf(t))) as f32;
    let keep = (1.0 - lr * adamw.weight_decay) as f32;
    machine.pool.split3(outs, PIECE, |task, out, out_m, out_v| {
        machine.level.run(|| {
            let blocks = out.chunks_mut(BLOCK).zip(out_m.chunks_mut(BLOCK)).zip(out_v.chunks_mut(BLOCK));
            for (i, ((out, out_m), out_v)) in blocks.enumerate() {
                let at = task * PIECE + i * BLOCK;
                let n = out.len();
                let (mut w, g) = (w.block(at, out), Arg::Apart(g).block(at, out));
                let (mut m, mut v) = (m.block(at, out_m), v.block(at, out_v));
                for i in 0..BLOCK {
                    m[i] = beta1 * m[i] + gain1 * g[i];
                    v[i] = beta2 * v[i] + gain2 * g[i] * g[i];
                    w[i] = w[i] * keep - rate * m[i] / ((v[i] * bias2).sqrt() + eps);
                }
                out.copy_from_slice(&w[..n]);
                out_m.copy_from_slice(&m[..n]);
                out_v.copy_from_slice(&v[..n]);
            }
        });
    });
}

/// out = (1 − momentum) · old + momentum · scale · new.
pub fn ema(machine: &Machine<'_>, out: &mut [f32], old: Arg<'_>, new: &[f32], momentum: f64, scale: f64) {
    let (keep, take) = ((1.0 - momentum) as f32, (momentum * scale) as f32);
    machine.pool.split(out, PIECE, |task, out, _| {
        machine.level.run(|| {
            each_block(out, task * PIECE, |at, before| {
                let (mut a, b) = (old.block(at, before), Arg::Apart(new).block(at, before));
                for i in 0..BLOCK {
                    a[i] = keep * a[i] + take * b[i];
                }
                a
            });
        });
    });
}
