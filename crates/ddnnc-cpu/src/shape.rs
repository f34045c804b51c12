//! Operators that move, repeat and add up elements. Extents and axes are those of memory, outermost first.

use crate::device::Machine;
use crate::pointwise_kernels::{sum, widen};
use ddnnc_ir::{Layout, ValueType};
use ddnnc_passes::DeviceError;

/// Elements of a task.
const PIECE: usize = 1 << 14;

/// Elements of a block of sums.
const BLOCK: usize = 64;

/// An element of a float value.
pub trait Element: Copy + Default + Send + Sync {
    /// As f32.
    fn value(self) -> f32;
}

impl Element for f32 {
    #[inline(always)]
    fn value(self) -> f32 {
        self
    }
}

impl Element for u16 {
    #[inline(always)]
    fn value(self) -> f32 {
        widen(self)
    }
}

/// The extents of a value in the order of memory.
pub fn extents(ty: &ValueType) -> Vec<usize> {
    let d = ty.dims();
    match ty.layout {
        Layout::ChannelsLast if d.len() == 4 => vec![d[0], d[2], d[3], d[1]],
        _ => d.to_vec(),
    }
}

/// The place in memory's order of an axis of a value.
pub fn axis(ty: &ValueType, axis: usize) -> usize {
    match ty.layout {
        Layout::ChannelsLast if ty.dims().len() == 4 => [0, 3, 1, 2][axis],
        _ => axis,
    }
}

/// Elements before and after an axis.
fn around(dims: &[usize], axis: usize) -> (usize, usize) {
    (dims[..axis].iter().product(), dims[axis + 1..].iter().product())
}

/// Entries along an axis: of a whole of `total`, those at `start`.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    /// First entry.
    pub start: usize,
    /// Entries, of `inner` elements each.
    pub len: usize,
    /// Entries of the whole.
    pub total: usize,
    /// Elements of an entry.
    pub inner: usize,
}

impl Span {
    /// Entries `start..start + len` of an axis of a value of these extents.
    pub fn new(dims: &[usize], axis: usize, start: usize, len: usize) -> Span {
        Span { start, len, total: dims[axis], inner: around(dims, axis).1 }
    }

    /// Runs in a task: as many as make about a piece.
    fn runs(&self) -> usize {
        (PIECE / (self.total * self.inner).max(1)).max(1)
    }
}

/// Writes one operand of a concatenation to its span.
pub fn insert<T: Element>(machine: &Machine<'_>, span: Span, out: &mut [T], x: &[T]) {
    let (whole, part) = (span.total * span.inner, span.len * span.inner);
    let runs = span.runs();
    machine.pool.split(out, runs * whole, |task, out, _| {
        for (i, out) in out.chunks_exact_mut(whole.max(1)).enumerate() {
            out[span.start * span.inner..][..part].copy_from_slice(&x[(task * runs + i) * part..][..part]);
        }
    });
}

/// out = the span of x.
pub fn slice<T: Element>(machine: &Machine<'_>, span: Span, out: &mut [T], x: &[T]) {
    let (whole, part) = (span.total * span.inner, span.len * span.inner);
    let runs = span.runs();
    machine.pool.split(out, runs * part, |task, out, _| {
        for (i, out) in out.chunks_exact_mut(part.max(1)).enumerate() {
            out.copy_from_slice(&x[(task * runs + i) * whole + span.start * span.inner..][..part]);
        }
    });
}

/// out = zeros with x at the span.
pub fn pad<T: Element>(machine: &Machine<'_>, span: Span, out: &mut [T], x: &[T]) {
    let (whole, part) = (span.total * span.inner, span.len * span.inner);
    let runs = span.runs();
    machine.pool.split(out, runs * whole, |task, out, _| {
        for (i, out) in out.chunks_exact_mut(whole.max(1)).enumerate() {
            out.fill(T::default());
            out[span.start * span.inner..][..part].copy_from_slice(&x[(task * runs + i) * part..][..part]);
        }
    });
}

/// out = x, matrix for matrix transposed: x holds matrices of `rows` rows of `columns` elements.
pub fn transpose<T: Element>(machine: &Machine<'_>, rows: usize, columns: usize, out: &mut [T], x: &[T]) {
    let size = rows * columns;
    machine.pool.split(out, size, |task, out, _| {
        let x = &x[task * size..][..size];
        for first in (0..rows).step_by(16) {
            let some = 16.min(rows - first);
            for (column, out) in out.chunks_exact_mut(rows).enumerate() {
                for (i, out) in out[first..first + some].iter_mut().enumerate() {
                    *out = x[(first + i) * columns + column];
                }
            }
        }
    });
}

/// out = x.
pub fn copy<T: Element>(machine: &Machine<'_>, out: &mut [T], x: &[T]) {
    machine.pool.split(out, PIECE, |task, out, _| out.copy_from_slice(&x[task * PIECE..][..out.len()]));
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
pub fn reduce<T: Element>(machine: &Machine<'_>, runs: &Runs, out: &mut [f32], x: &[T], factor: f64) {
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
fn reduce_inside<T: Element>(runs: &Runs, out: &mut [f32], first: usize, x: &[T], factor: f64) {
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
            total += sum(len, |i| f64::from(x[i].value()));
        }
        *out = (total * factor) as f32;
    }
}

/// The innermost run stays: sums of blocks side by side.
#[inline(always)]
fn reduce_outside<T: Element>(
    runs: &Runs,
    out: &mut [f32],
    first: usize,
    count: usize,
    x: &[T],
    factor: f64,
) {
    let extent = runs.other().last().map_or(1, |r| r.0);
    let mut at = 0;
    while at < out.len() {
        let index = first + at;
        let n = BLOCK.min(out.len() - at).min(extent - index % extent);
        let base = locate(runs.other(), index);
        let mut totals = [0.0f64; BLOCK];
        for round in 0..count {
            let x = &x[base + locate(runs.marked(), round)..][..n];
            totals[..n].iter_mut().zip(x).for_each(|(t, &x)| *t += f64::from(x.value()));
        }
        out[at..at + n].iter_mut().zip(&totals).for_each(|(o, t)| *o = (t * factor) as f32);
        at += n;
    }
}

/// out, of extents `dims` in memory's order, = x: entry i of axis a of the result moves by `steps[a]` in x.
pub fn broadcast<T: Element>(machine: &Machine<'_>, dims: &[usize], steps: &[usize], out: &mut [T], x: &[T]) {
    let (Some((&len, outer)), Some((&step, outer_steps))) = (dims.split_last(), steps.split_last()) else {
        return out.copy_from_slice(&x[..out.len()]);
    };
    let runs = (PIECE / len.max(1)).max(1);
    machine.pool.split(out, runs * len, |task, out, _| {
        for (i, out) in out.chunks_exact_mut(len.max(1)).enumerate() {
            let (mut rest, mut from) = (task * runs + i, 0);
            for (&extent, &step) in outer.iter().zip(outer_steps).rev() {
                from += rest % extent * step;
                rest /= extent;
            }
            match step {
                0 => out.fill(x[from]),
                1 => out.copy_from_slice(&x[from..from + len]),
                _ => out.iter_mut().enumerate().for_each(|(k, out)| *out = x[from + k * step]),
            }
        }
    });
}
