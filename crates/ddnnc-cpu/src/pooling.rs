//! Pooling, a map of one channel at a time.

use crate::device::Machine;
use ddnnc_ir::Pool;

/// Extents of the input's and the output's maps.
#[derive(Clone, Copy)]
pub struct Extents {
    /// (H, W)
    pub x: [usize; 2],
    /// (H', W')
    pub y: [usize; 2],
}

impl Extents {
    /// Of an input and an output `[N,C,H,W]`.
    pub fn new(x: &[usize], y: &[usize]) -> Extents {
        Extents { x: [x[2], x[3]], y: [y[2], y[3]] }
    }

    fn areas(&self) -> (usize, usize) {
        (self.x[0] * self.x[1], self.y[0] * self.y[1])
    }

    /// Calls `f(output index, rows, columns)` for every window, the ranges clipped to the map.
    #[inline(always)]
    fn each_window(
        &self,
        pool: &Pool,
        mut f: impl FnMut(usize, std::ops::Range<usize>, std::ops::Range<usize>),
    ) {
        let range = |at: usize, i: usize| {
            let from = at * pool.stride[i];
            let to = (from + pool.kernel[i]).saturating_sub(pool.pad[i]).min(self.x[i]);
            from.saturating_sub(pool.pad[i])..to
        };
        for row in 0..self.y[0] {
            for column in 0..self.y[1] {
                f(row * self.y[1] + column, range(row, 0), range(column, 1));
            }
        }
    }

    /// Index of the first of the largest entries of a window; not a number is larger than any.
    #[inline(always)]
    fn largest(&self, x: &[f32], rows: std::ops::Range<usize>, columns: std::ops::Range<usize>) -> usize {
        let mut best = (rows.start * self.x[1] + columns.start).min(x.len().saturating_sub(1));
        for h in rows {
            for w in columns.clone() {
                let i = h * self.x[1] + w;
                if x[i] > x[best] || (x[i].is_nan() && !x[best].is_nan()) {
                    best = i;
                }
            }
        }
        best
    }
}

/// The largest of each window.
pub fn max(machine: &Machine<'_>, pool: &Pool, e: Extents, x: &[f32], y: &mut [f32]) {
    let (area, piece) = e.areas();
    machine.pool.split(y, piece, |map, y, _| {
        let x = &x[map * area..][..area];
        machine.level.run(|| e.each_window(pool, |at, rows, columns| y[at] = x[e.largest(x, rows, columns)]));
    });
}

/// dx of the largest of each window.
pub fn max_grad(machine: &Machine<'_>, pool: &Pool, e: Extents, x: &[f32], dy: &[f32], dx: &mut [f32]) {
    let (area, piece) = e.areas();
    machine.pool.split(dx, area, |map, dx, _| {
        let (x, dy) = (&x[map * area..][..area], &dy[map * piece..][..piece]);
        dx.fill(0.0);
        machine
            .level
            .run(|| e.each_window(pool, |at, rows, columns| dx[e.largest(x, rows, columns)] += dy[at]));
    });
}

/// The mean of each window, the border counted.
pub fn avg(machine: &Machine<'_>, pool: &Pool, e: Extents, x: &[f32], y: &mut [f32]) {
    let (area, piece) = e.areas();
    let scale = 1.0 / (pool.kernel[0] * pool.kernel[1]) as f32;
    machine.pool.split(y, piece, |map, y, _| {
        let x = &x[map * area..][..area];
        machine.level.run(|| {
            e.each_window(pool, |at, rows, columns| {
                let mut total = 0.0;
                for h in rows {
                    total += x[h * e.x[1]..][columns.clone()].iter().sum::<f32>();
                }
                y[at] = total * scale;
            });
        });
    });
}

/// dx of the mean of each window.
pub fn avg_grad(machine: &Machine<'_>, pool: &Pool, e: Extents, dy: &[f32], dx: &mut [f32]) {
    let (area, piece) = e.areas();
    let scale = 1.0 / (pool.kernel[0] * pool.kernel[1]) as f32;
    machine.pool.split(dx, area, |map, dx, _| {
        let dy = &dy[map * piece..][..piece];
        dx.fill(0.0);
        machine.level.run(|| {
            e.each_window(pool, |at, rows, columns| {
                let share = dy[at] * scale;
                for h in rows {
                    dx[h * e.x[1]..][columns.clone()].iter_mut().for_each(|dx| *dx += share);
                }
            });
        });
    });
}
