//! Elementwise operators, in blocks small enough for registers: a block of every operand is read before the block of the
//! result is written, so a result may lie on an operand.

use crate::device::Machine;
use ddnnc_ir::{BinaryKind, UnaryKind, dropout_keeps};

/// Elements of a task.
pub const PIECE: usize = 1 << 14;

/// Elements of a block.
pub const BLOCK: usize = 64;

/// An operand of the result's shape.
#[derive(Clone, Copy)]
pub enum Arg<'a> {
    /// Its memory is the result's.
    Result,
    /// It lies apart.
    Apart(&'a [f32]),
}

impl Arg<'_> {
    /// Elements `at..at + n`, which are `result` where the operand lies there; what is past them is zeros.
    #[inline(always)]
    pub fn block(&self, at: usize, result: &[f32]) -> [f32; BLOCK] {
        let mut block = [0.0; BLOCK];
        let n = result.len();
        match self {
            Arg::Result if n == BLOCK => block.copy_from_slice(result),
            Arg::Result => block[..n].copy_from_slice(result),
            Arg::Apart(x) if n == BLOCK => block.copy_from_slice(&x[at..at + BLOCK]),
            Arg::Apart(x) => block[..n].copy_from_slice(&x[at..at + n]),
        }
        block
    }
}

/// Writes block for block what `f(first element's index, old content)` gives; the piece begins at element `at`.
#[inline(always)]
pub fn each_block(out: &mut [f32], at: usize, mut f: impl FnMut(usize, &[f32]) -> [f32; BLOCK]) {
    for (i, block) in out.chunks_mut(BLOCK).enumerate() {
        let made = f(at + i * BLOCK, block);
        if block.len() == BLOCK {
            block.copy_from_slice(&made);
        } else {
            block.copy_from_slice(&made[..block.len()]);
        }
    }
}

/// out = f(a).
#[inline(always)]
pub fn map(machine: &Machine<'_>, out: &mut [f32], a: Arg<'_>, f: impl Fn(f32) -> f32 + Sync) {
    machine.pool.split(out, PIECE, |task, out, _| {
        machine.level.run(|| each_block(out, task * PIECE, |at, old| a.block(at, old).map(&f)));
    });
}

/// out = f(a, b).
#[inline(always)]
pub fn map2(
    machine: &Machine<'_>,
    out: &mut [f32],
    a: Arg<'_>,
    b: Arg<'_>,
    f: impl Fn(f32, f32) -> f32 + Sync,
) {
    machine.pool.split(out, PIECE, |task, out, _| {
        machine.level.run(|| {
            each_block(out, task * PIECE, |at, old| {
                let (mut a, b) = (a.block(at, old), b.block(at, old));
                for i in 0..BLOCK {
                    a[i] = f(a[i], b[i]);
                }
                a
            });
        });
    });
}

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

/// The distribution function of the standard normal distribution.
fn phi(x: f32) -> f32 {
    0.5 * (1.0 + libm::erff(x * std::f32::consts::FRAC_1_SQRT_2))
}

/// min(max(x, 0), top), where not a number stays so.
#[inline(always)]
fn clamp(x: f32, top: f32) -> f32 {
    let x = if x < 0.0 { 0.0 } else { x };
    if x > top { top } else { x }
}

/// out = f(x).
pub fn unary(machine: &Machine<'_>, kind: UnaryKind, out: &mut [f32], x: Arg<'_>) {
    match kind {
        UnaryKind::Relu => map(machine, out, x, |x| if x < 0.0 { 0.0 } else { x }),
        UnaryKind::Relu6 => map(machine, out, x, |x| clamp(x, 6.0)),
        UnaryKind::Sigmoid => map(machine, out, x, sigmoid),
        UnaryKind::Tanh => map(machine, out, x, f32::tanh),
        UnaryKind::HardSwish => map(machine, out, x, |x| x * clamp(x + 3.0, 6.0) * (1.0 / 6.0)),
        UnaryKind::Silu => map(machine, out, x, |x| x * sigmoid(x)),
        UnaryKind::Gelu => map(machine, out, x, |x| x * phi(x)),
        UnaryKind::Square => map(machine, out, x, |x| x * x),
    }
}

/// out = dy · f'.
pub fn unary_grad(machine: &Machine<'_>, kind: UnaryKind, out: &mut [f32], saved: Arg<'_>, dy: Arg<'_>) {
    match kind {
        UnaryKind::Relu => map2(machine, out, saved, dy, |s, dy| dy * f32::from(s > 0.0)),
        UnaryKind::Relu6 => map2(machine, out, saved, dy, |s, dy| dy * f32::from(s > 0.0 && s < 6.0)),
        UnaryKind::Sigmoid => map2(machine, out, saved, dy, |s, dy| dy * (s * (1.0 - s))),
        UnaryKind::Tanh => map2(machine, out, saved, dy, |s, dy| dy * (1.0 - s * s)),
        UnaryKind::HardSwish => map2(machine, out, saved, dy, |s, dy| {
            let slope = if s >= 3.0 { 1.0 } else { s * (1.0 / 3.0) + 0.5 };
            dy * if s <= -3.0 { 0.0 } else { slope }
        }),
        UnaryKind::Silu => map2(machine, out, saved, dy, |s, dy| {
            let g = sigmoid(s);
            dy * (g * (1.0 + s * (1.0 - g)))
        }),
        UnaryKind::Gelu => map2(machine, out, saved, dy, |s, dy| {
            // 1/√(2π)
            let density = (-0.5 * s * s).exp() * 0.398_942_3;
            dy * (phi(s) + s * density)
        }),
        UnaryKind::Square => map2(machine, out, saved, dy, |s, dy| dy * (2.0 * s)),
    }
}

/// out = a ∘ b.
pub fn binary(machine: &Machine<'_>, kind: BinaryKind, out: &mut [f32], a: Arg<'_>, b: Arg<'_>) {
    match kind {
        BinaryKind::Add => map2(machine, out, a, b, |a, b| a + b),
        BinaryKind::Sub => map2(machine, out, a, b, |a, b| a - b),
        BinaryKind::Mul => map2(machine, out, a, b, |a, b| a * b),
    }
}

/// out = x masked and scaled; `rng` is (seed, step).
pub fn dropout(machine: &Machine<'_>, out: &mut [f32], x: Arg<'_>, rng: &[i64], p: f64, site: u64) {
    let &[seed, step] = rng else { return };
    let scale = (1.0 / (1.0 - p)) as f32;
    machine.pool.split(out, PIECE, |task, out, _| {
        each_block(out, task * PIECE, |at, old| {
            let mut block = x.block(at, old);
            for (i, x) in block.iter_mut().enumerate() {
                *x = if dropout_keeps(seed, step, site, (at + i) as u64, p) { *x * scale } else { 0.0 };
            }
            block
        });
    });
}

/// out = value everywhere.
pub fn fill(machine: &Machine<'_>, out: &mut [f32], value: f32) {
    machine.pool.split(out, PIECE, |_, out, _| out.fill(value));
}

/// out = x.
pub fn copy(machine: &Machine<'_>, out: &mut [f32], x: &[f32]) {
    machine.pool.split(out, PIECE, |task, out, _| out.copy_from_slice(&x[task * PIECE..][..out.len()]));
}
