//! Pooling of channels-last maps, a block of channels at a time.

use crate::device::Machine;
use crate::pointwise_kernels::{self, narrow};
use crate::shape::Element;
use ddnnc_ir::Pool;
use std::ops::Range;

/// Channels of a block.
const BLOCK: usize = 64;

/// Elements of a task.
const PIECE: usize = 1 << 13;

/// An element that a computed number is written as.
pub trait Number: Element {
    /// From f32, rounded.
    fn from_value(x: f32) -> Self;
}

impl Number for f32 {
    #[inline(always)]
    fn from_value(x: f32) -> f32 {
        x
    }
}

impl Number for u16 {
    #[inline(always)]
    fn from_value(x: f32) -> u16 {
        narrow(x)
    }
}

/// Extents of the input's and the output's maps.
#[derive(Clone, Copy, Debug)]
pub struct Extents {
    /// (H, W)
    pub x: [usize; 2],
    /// (H', W')
    pub y: [usize; 2],
    /// C
    pub channels: usize,
}

impl Extents {
    /// Of an input and an output `[N,C,H,W]`.
    pub fn new(x: &[usize], y: &[usize]) -> Extents {
        Extents { x: [x[2], x[3]], y: [y[2], y[3]], channels: x[1] }
    }

    /// Elements of an image of the input and of the output.
    fn images(&self) -> (usize, usize) {
        (self.x[0] * self.x[1] * self.channels, self.y[0] * self.y[1] * self.channels)
    }

    /// f32 that a worker needs for [`max_grad`] and [`avg_grad`].
    pub fn scratch(&self) -> usize {
        self.x[0] * self.x[1] * BLOCK
    }

    /// The window of an output, clipped to the map.
    #[inline(always)]
    fn window(&self, pool: &Pool, at: [usize; 2]) -> [Range<usize>; 2] {
        [0, 1].map(|i| {
            let from = at[i] * pool.stride[i];
            let to = (from + pool.kernel[i]).saturating_sub(pool.pad[i]).min(self.x[i]);
            from.saturating_sub(pool.pad[i])..to
        })
    }

    /// Calls `f(position)` for every position of a window, in row order.
    #[inline(always)]
    fn each(&self, [rows, columns]: [Range<usize>; 2], mut f: impl FnMut(usize)) {
        for h in rows {
            for w in columns.clone() {
                f(h * self.x[1] + w);
            }
        }
    }

    /// Calls `f(channels, input of the image, window, outputs)` for every output of a piece that begins with output
    /// row `first`, counted over all images.
    #[inline(always)]
    fn each_output<T: Number>(
        &self,
        pool: &Pool,
        x: &[T],
        first: usize,
        y: &mut [T],
        f: impl Fn(Range<usize>, &[T], [Range<usize>; 2], &mut [T]),
    ) {
        let (image, _) = self.images();
        for (i, y) in y.chunks_exact_mut(self.y[1] * self.channels).enumerate() {
            let row = first + i;
            let x = &x[row / self.y[0] * image..][..image];
            for (column, y) in y.chunks_exact_mut(self.channels).enumerate() {
                let window = self.window(pool, [row % self.y[0], column]);
                for (block, y) in y.chunks_mut(BLOCK).enumerate() {
                    f(block * BLOCK..block * BLOCK + y.len(), x, window.clone(), y);
                }
            }
        }
    }

    fn rows_per_task(&self) -> usize {
        (PIECE / (self.y[1] * self.channels).max(1)).max(1)
    }

    /// Runs `f(image, channels, sums)` for every block of channels of every image and writes its sums to dx.
    fn each_image<T: Number>(
        &self,
        machine: &Machine<'_>,
        dx: &mut [T],
        f: impl Fn(usize, Range<usize>, &mut [[f32; BLOCK]]) + Sync,
    ) {
        let (image, _) = self.images();
        let positions = self.x[0] * self.x[1];
        machine.pool.split(dx, image, |n, dx, worker| {
            machine.with_scratch(worker, |scratch| {
                let (sums, _) = scratch.as_chunks_mut::<BLOCK>();
                let sums = &mut sums[..positions];
                machine.level.run(|| {
                    for first in (0..self.channels).step_by(BLOCK) {
                        let channels = first..self.channels.min(first + BLOCK);
                        sums.fill([0.0; BLOCK]);
                        f(n, channels.clone(), sums);
                        for (dx, sums) in dx.chunks_exact_mut(self.channels).zip(&*sums) {
                            let dx = &mut dx[channels.clone()];
                            dx.iter_mut().zip(sums).for_each(|(dx, &s)| *dx = T::from_value(s));
                        }
                    }
                });
            });
        });
    }
}

/// Whether a takes the place of the largest so far; not a number is larger than any.
#[inline(always)]
fn larger(a: f32, best: f32) -> bool {
    (a > best) | (a.is_nan() & !best.is_nan())
}

/// The largest of each window.
pub fn max<T: Number>(machine: &Machine<'_>, pool: &Pool, e: Extents, x: &[T], y: &mut [T]) {
    let rows = e.rows_per_task();
    machine.pool.split(y, rows * e.y[1] * e.channels, |task, y, _| {
        machine.level.run(|| {
            e.each_output(pool, x, task * rows, y, |channels, x, window, y| {
                let mut best = [f32::NEG_INFINITY; BLOCK];
                e.each(window, |position| {
                    let x = &x[position * e.channels..][channels.clone()];
                    for (best, x) in best.iter_mut().zip(x) {
                        let x = x.value();
                        *best = if larger(x, *best) { x } else { *best };
                    }
                });
                y.iter_mut().zip(&best).for_each(|(y, &best)| *y = T::from_value(best));
            });
        });
    });
}

/// dx of the first of the largest of each window.
pub fn max_grad<T: Number>(machine: &Machine<'_>, pool: &Pool, e: Extents, x: &[T], dy: &[T], dx: &mut [T]) {
    let (image, result) = e.images();
    e.each_image(machine, dx, |n, channels, sums| {
        let (x, dy) = (&x[n * image..][..image], &dy[n * result..][..result]);
        for at in 0..e.y[0] * e.y[1] {
            let window = e.window(pool, [at / e.y[1], at % e.y[1]]);
            let start = window[0].start * e.x[1] + window[1].start;
            let mut best = [f32::NEG_INFINITY; BLOCK];
            let mut place = [start as u32; BLOCK];
            e.each(window, |position| {
                let x = &x[position * e.channels..][channels.clone()];
                for ((best, place), x) in best.iter_mut().zip(&mut place).zip(x) {
                    let x = x.value();
                    let take = larger(x, *best);
                    *best = if take { x } else { *best };
                    *place = if take { position as u32 } else { *place };
                }
            });
            let dy = &dy[at * e.channels..][channels.clone()];
            for (c, (dy, &place)) in dy.iter().zip(&place).enumerate() {
                sums[place as usize][c] += dy.value();
            }
        }
    });
}

/// The mean of each window, the border counted.
pub fn avg<T: Number>(machine: &Machine<'_>, pool: &Pool, e: Extents, x: &[T], y: &mut [T]) {
    let scale = 1.0 / (pool.kernel[0] * pool.kernel[1]) as f32;
    let rows = e.rows_per_task();
    machine.pool.split(y, rows * e.y[1] * e.channels, |task, y, _| {
        machine.level.run(|| {
            e.each_output(pool, x, task * rows, y, |channels, x, window, y| {
                let mut total = [0.0f32; BLOCK];
                e.each(window, |position| {
                    let x = &x[position * e.channels..][channels.clone()];
                    total.iter_mut().zip(x).for_each(|(t, x)| *t += x.value());
                });
                y.iter_mut().zip(&total).for_each(|(y, t)| *y = T::from_value(t * scale));
            });
        });
    });
}

/// dx of the mean of each window.
pub fn avg_grad<T: Number>(machine: &Machine<'_>, pool: &Pool, e: Extents, dy: &[T], dx: &mut [T]) {
    let (_, result) = e.images();
    let scale = 1.0 / (pool.kernel[0] * pool.kernel[1]) as f32;
    e.each_image(machine, dx, |n, channels, sums| {
        let dy = &dy[n * result..][..result];
        for at in 0..e.y[0] * e.y[1] {
            let dy = &dy[at * e.channels..][channels.clone()];
            e.each(e.window(pool, [at / e.y[1], at % e.y[1]]), |position| {
                sums[position].iter_mut().zip(dy).for_each(|(s, dy)| *s += dy.value() * scale);
            });
        }
    });
}

/// out = x as f32.
pub fn widen_all(machine: &Machine<'_>, out: &mut [f32], x: &[u16]) {
    machine.pool.split(out, PIECE, |task, out, _| {
        pointwise_kernels::widen_all(machine.level, out, &x[task * PIECE..][..out.len()]);
    });
}
