//! Operators that move, repeat and add up elements.

use crate::channels::sum;
use crate::device::Machine;
use crate::elementwise::{BLOCK, PIECE};
use ddnnc_passes::DeviceError;

/// Elements before and after an axis.
fn around(dims: &[usize], axis: usize) -> (usize, usize) {
    (dims[..axis].iter().product(), dims[axis + 1..].iter().product())
}

/// Writes into the run at `start` of each of the runs of `total` entries of `inner` elements.
fn insert(out: &mut [f32], x: &[f32], len: usize, start: usize, total: usize) {
    if len == 0 {
        return;
    }
    for (out, x) in out.chunks_exact_mut(total).zip(x.chunks_exact(len)) {
        out[start..start + len].copy_from_slice(x);
    }
}

/// One operand of a concatenation, at entry `start` of `axis`.
pub fn concat_one(
    out: &mut [f32],
    out_dims: &[usize],
    x: &[f32],
    x_dims: &[usize],
    axis: usize,
    start: usize,
) {
    let (_, inner) = around(out_dims, axis);
    insert(out, x, x_dims[axis] * inner, start * inner, (out_dims[axis] * inner).max(1));
}

/// out = `len` entries from `start` along `axis`.
pub fn slice(
    machine: &Machine<'_>,
    out: &mut [f32],
    x: &[f32],
    dims: &[usize],
    axis: usize,
    start: usize,
    len: usize,
) {
    let (_, inner) = around(dims, axis);
    let (run, total) = (len * inner, dims[axis] * inner);
    machine
        .pool
        .split(out, run, |task, out, _| out.copy_from_slice(&x[task * total + start * inner..][..out.len()]));
}

/// out = zeros with x at `start` along `axis`.
pub fn pad(
    machine: &Machine<'_>,
    out: &mut [f32],
    x: &[f32],
    dims: &[usize],
    axis: usize,
    start: usize,
    total: usize,
) {
    let (_, inner) = around(dims, axis);
    let (run, start) = (dims[axis] * inner, start * inner);
    machine.pool.split(out, total * inner, |task, out, _| {
        out.fill(0.0);
        out[start..start + run].copy_from_slice(&x[task * run..][..run]);
    });
}

/// The most runs of axes that alternate between two kinds.
const RUNS: usize = 16;

/// The axes of a value as runs of neighbouring axes of one kind: marked or not.
#[derive(Clone, Copy, Debug, Default)]
pub struct Runs {
    /// (extent, step between entries), outermost first.
    marked: [(usize, usize); RUNS],
    other: [(usize, usize); RUNS],
    marked_count: usize,
    other_count: usize,
    /// Whether the innermost axis longer than one is marked.
    marked_inside: bool,
}

impl Runs {
    /// Splits the axes of a value of these extents; `axes`, ascending, are the marked ones.
    ///
    /// # Errors
    ///
    /// Where the axes alternate more than sixteen times.
    pub fn new(dims: &[usize], axes: &[usize]) -> Result<Runs, DeviceError> {
        let mut runs = Runs::default();
        let mut step = 1;
        let mut last = None;
        for (axis, &d) in dims.iter().enumerate().rev() {
            if d == 1 {
                continue;
            }
            let marked = axes.contains(&axis);
            if last.is_none() {
                runs.marked_inside = marked;
            }
            let (list, count) = match marked {
                true => (&mut runs.marked, &mut runs.marked_count),
                false => (&mut runs.other, &mut runs.other_count),
            };
            if last == Some(marked) {
                list[*count - 1].0 *= d;
            } else if *count < RUNS {
                list[*count] = (d, step);
                *count += 1;
            } else {
                return Err(DeviceError::Failed(format!("axes {axes:?} of {dims:?} alternate too often")));
            }
            last = Some(marked);
            step *= d;
        }
        // They were gathered from the innermost outwards.
        runs.marked[..runs.marked_count].reverse();
        runs.other[..runs.other_count].reverse();
        Ok(runs)
    }

    fn marked(&self) -> &[(usize, usize)] {
        &self.marked[..self.marked_count]
    }

    fn other(&self) -> &[(usize, usize)] {
        &self.other[..self.other_count]
    }
}

/// Where entry `index` of these runs lies.
#[inline(always)]
fn locate(runs: &[(usize, usize)], mut index: usize) -> usize {
    let mut at = 0;
    for &(extent, step) in runs.iter().rev() {
        at += index % extent * step;
        index /= extent;
    }
    at
}

/// out = factor · Σ over the marked axes of x.
pub fn reduce(machine: &Machine<'_>, runs: &Runs, out: &mut [f32], x: &[f32], factor: f64) {
    let count: usize = runs.marked().iter().map(|r| r.0).product();
    let piece = (PIECE / count.max(1)).next_multiple_of(BLOCK);
    if x.is_empty() {
        return out.fill((0.0 * factor) as f32);
    }
    machine.pool.split(out, piece, |task, out, _| {
        machine.level.run(|| {
            if runs.marked_inside || runs.other_count == 0 {
                reduce_inside(runs, out, task * piece, x, factor);
            } else {
                reduce_outside(runs, out, task * piece, count, x, factor);
            }
        });
    });
}

/// The innermost run vanishes: contiguous sums.
#[inline(always)]
fn reduce_inside(runs: &Runs, out: &mut [f32], first: usize, x: &[f32], factor: f64) {
    let (outer, len) = match runs.marked().split_last() {
        Some((inner, outer)) => (outer, inner.0),
        None => (&[][..], 1),
    };
    let rounds: usize = outer.iter().map(|r| r.0).product();
    for (i, out) in out.iter_mut().enumerate() {
        let base = locate(runs.other(), first + i);
        let mut total = 0.0;
        for round in 0..rounds {
            let x = &x[base + locate(outer, round)..][..len];
            total += sum(len, |i| f64::from(x[i]));
        }
        *out = (total * factor) as f32;
    }
}

/// The innermost run stays: sums of blocks side by side.
#[inline(always)]
fn reduce_outside(runs: &Runs, out: &mut [f32], first: usize, count: usize, x: &[f32], factor: f64) {
    let extent = runs.other().last().map_or(1, |r| r.0);
    let mut at = 0;
    while at < out.len() {
        let index = first + at;
        let n = BLOCK.min(out.len() - at).min(extent - index % extent);
        let base = locate(runs.other(), index);
        let mut totals = [0.0f64; BLOCK];
        for round in 0..count {
            let x = &x[base + locate(runs.marked(), round)..][..n];
            totals[..n].iter_mut().zip(x).for_each(|(t, &x)| *t += f64::from(x));
        }
        out[at..at + n].iter_mut().zip(&totals).for_each(|(o, t)| *o = (t * factor) as f32);
        at += n;
    }
}

/// out, of extents `dims`, = x, whose axes are `axes` of the result, repeated along the others.
pub fn broadcast(machine: &Machine<'_>, dims: &[usize], axes: &[usize], out: &mut [f32], x: &[f32]) {
    // The elements after the last axis of x repeat; before them, x's own last axis runs along.
    let inner: usize = match axes.last() {
        Some(&axis) => dims[axis + 1..].iter().product(),
        None => out.len(),
    };
    if inner == 0 || x.is_empty() {
        return;
    }
    // Neighbouring axes of x at the end of the marked ones are one contiguous run of x.
    let mut run = 1;
    let mut next = axes.last().map_or(0, |a| a + 1);
    for &axis in axes.iter().rev() {
        if axis + 1 != next {
            break;
        }
        run *= dims[axis];
        next = axis;
    }
    let index_of = |entry: usize| {
        // Entry counts the extents up to the last axis of x.
        let (mut rest, mut at, mut step) = (entry, 0, 1);
        let Some(&last) = axes.last() else { return 0 };
        for axis in (0..=last).rev() {
            let i = rest % dims[axis];
            rest /= dims[axis];
            if axes.binary_search(&axis).is_ok() {
                at += i * step;
                step *= dims[axis];
            }
        }
        at
    };
    let per_task = (PIECE / (run * inner)).max(1);
    machine.pool.split(out, per_task * run * inner, |task, out, _| {
        for (i, out) in out.chunks_exact_mut(run * inner).enumerate() {
            let x = &x[index_of((task * per_task + i) * run)..][..run];
            if inner == 1 {
                out.copy_from_slice(x);
            } else {
                out.chunks_exact_mut(inner).zip(x).for_each(|(out, &x)| out.fill(x));
            }
        }
    });
}
