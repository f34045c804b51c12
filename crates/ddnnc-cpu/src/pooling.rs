//! Pooling of channels-last maps, vectors of channels at a time.

use crate::device::Machine;
use crate::half_vector::{Halves, HalvesVectored, with_floats, with_halves};
use crate::pointwise_kernels;
use crate::pointwise_pass::Element;
use crate::simd::Level;
use ddnnc_ir::Pool;
use std::ops::Range;

/// Elements of a task.
const PIECE: usize = 1 << 13;

/// An element of a map.
pub trait Number: Element + Send + Sync {
    /// Writes a vector, rounded, or `some` elements unless FULL.
    ///
    /// # Safety
    ///
    /// The elements can be written; the processor has the level of S.
    unsafe fn store<S: Halves, const FULL: bool>(x: S, to: *mut Self, some: usize);
}

impl Number for f32 {
    #[inline(always)]
    unsafe fn store<S: Halves, const FULL: bool>(x: S, to: *mut f32, some: usize) {
        // SAFETY: promised.
        unsafe { if FULL { x.store(to) } else { x.store_first(to, some) } }
    }
}

impl Number for u16 {
    #[inline(always)]
    unsafe fn store<S: Halves, const FULL: bool>(x: S, to: *mut u16, some: usize) {
        // SAFETY: promised.
        unsafe { if FULL { x.store_half(to) } else { x.store_half_first(to, some) } }
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

    /// f32 that a worker needs for [`max_grad`] and [`avg_grad`]: the lines of a window.
    pub fn scratch(&self, pool: &Pool) -> usize {
        pool.kernel[0].min(self.x[0]) * self.x[1] * self.channels
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

    fn rows_per_task(&self) -> usize {
        (PIECE / (self.y[1] * self.channels).max(1)).max(1)
    }
}

/// The largest of each window; not a number is larger than any.
pub fn max<T: Number>(machine: &Machine<'_>, pool: &Pool, e: Extents, x: &[T], y: &mut [T]) {
    windows::<T, true>(machine, pool, e, x, y);
}

/// The mean of each window, the border counted.
pub fn avg<T: Number>(machine: &Machine<'_>, pool: &Pool, e: Extents, x: &[T], y: &mut [T]) {
    windows::<T, false>(machine, pool, e, x, y);
}

/// LARGEST for the largest of each window, else for the mean.
fn windows<T: Number, const LARGEST: bool>(
    machine: &Machine<'_>,
    pool: &Pool,
    extents: Extents,
    x: &[T],
    y: &mut [T],
) {
    let rows = extents.rows_per_task();
    machine.pool.split(y, rows * extents.y[1] * extents.channels, |task, y, _| {
        run::<T>(machine.level, Windows::<T, LARGEST> { pool, extents, x, first: task * rows, y });
    });
}

/// What the sum of a window is multiplied with.
fn share(pool: &Pool) -> f32 {
    1.0 / (pool.kernel[0] * pool.kernel[1]) as f32
}

/// What is f32 rounds nothing, and is compiled for fewer levels.
fn run<T: Number>(level: Level, code: impl HalvesVectored) {
    if T::RAW { with_floats(level, code) } else { with_halves(level, code) }
}

/// Some rows of outputs.
struct Windows<'a, T, const LARGEST: bool> {
    pool: &'a Pool,
    extents: Extents,
    x: &'a [T],
    /// The first row, counted over all images.
    first: usize,
    y: &'a mut [T],
}

impl<T: Number, const LARGEST: bool> HalvesVectored for Windows<'_, T, LARGEST> {
    #[inline(always)]
    unsafe fn run<S: Halves>(self) {
        let Windows { pool, extents: e, x, first, y } = self;
        let share = share(pool);
        let (image, _) = e.images();
        for (i, y) in y.chunks_exact_mut(e.y[1] * e.channels).enumerate() {
            let row = first + i;
            let x = &x[row / e.y[0] * image..][..image];
            for (column, y) in y.chunks_exact_mut(e.channels).enumerate() {
                let window = Window::new(&e, pool, [row % e.y[0], column]);
                window.check(image);
                let mut c = 0;
                // SAFETY: the window lies in the image, a row of outputs has all channels; the processor has the level.
                unsafe {
                    let (x, y) = (x.as_ptr(), y.as_mut_ptr());
                    while c + S::LANES <= e.channels {
                        let value = window.value::<S, T, LARGEST, true>(x.add(c), share, S::LANES);
                        T::store::<S, true>(value, y.add(c), S::LANES);
                        c += S::LANES;
                    }
                    let some = e.channels - c;
                    if some > 0 {
                        let value = window.value::<S, T, LARGEST, false>(x.add(c), share, some);
                        T::store::<S, false>(value, y.add(c), some);
                    }
                }
            }
        }
    }
}

/// The positions of a window in its image.
#[derive(Clone, Copy)]
struct Window {
    /// Elements before the first.
    start: usize,
    /// Lines, and columns of a line.
    counts: [usize; 2],
    /// Their steps.
    steps: [usize; 2],
}

impl Window {
    #[inline(always)]
    fn new(e: &Extents, pool: &Pool, at: [usize; 2]) -> Window {
        let [rows, columns] = e.window(pool, at);
        let steps = [e.x[1] * e.channels, e.channels];
        let start = rows.start * steps[0] + columns.start * steps[1];
        Window { start, counts: [rows.len(), columns.len()], steps }
    }

    /// # Panics
    ///
    /// Where it does not lie in an image of so many elements.
    #[inline(always)]
    fn check(&self, image: usize) {
        let Window { start, counts, steps } = *self;
        if counts[0] * counts[1] > 0 {
            let last = start + (counts[0] - 1) * steps[0] + counts[1] * steps[1];
            assert!(last <= image, "windows lie in the map");
        }
    }

    /// What it gives of a vector of channels, those from `x` on.
    ///
    /// # Safety
    ///
    /// The window lies in the image, with these channels; the processor has the level of S, here and below.
    #[inline(always)]
    unsafe fn value<S: Halves, T: Number, const LARGEST: bool, const FULL: bool>(
        &self,
        x: *const T,
        share: f32,
        some: usize,
    ) -> S {
        // SAFETY: promised.
        unsafe {
            let mut line = x.wrapping_add(self.start);
            let mut all = S::splat(if LARGEST { f32::NEG_INFINITY } else { 0.0 });
            for _ in 0..self.counts[0] {
                let mut at = line;
                for _ in 0..self.counts[1] {
                    let x = T::load::<S, FULL>(at, some);
                    all = if LARGEST { x.larger(all) } else { all.plus(x) };
                    at = at.wrapping_add(self.steps[1]);
                }
                line = line.wrapping_add(self.steps[0]);
            }
            if LARGEST { all } else { all.times(share) }
        }
    }
}

/// dx of the first of the largest of each window.
pub fn max_grad<T: Number>(machine: &Machine<'_>, pool: &Pool, e: Extents, x: &[T], dy: &[T], dx: &mut [T]) {
    grad::<T, true>(machine, pool, e, x, dy, dx);
}

/// dx of the mean of each window.
pub fn avg_grad<T: Number>(machine: &Machine<'_>, pool: &Pool, e: Extents, dy: &[T], dx: &mut [T]) {
    grad::<T, false>(machine, pool, e, &[], dy, dx);
}

/// `x` is read where LARGEST alone.
fn grad<T: Number, const LARGEST: bool>(
    machine: &Machine<'_>,
    pool: &Pool,
    extents: Extents,
    x: &[T],
    dy: &[T],
    dx: &mut [T],
) {
    let (image, result) = extents.images();
    machine.pool.split(dx, image, |n, dx, worker| {
        machine.with_scratch(worker, |scratch| {
            let x = if LARGEST { &x[n * image..][..image] } else { x };
            let dy = &dy[n * result..][..result];
            let lines = &mut scratch[..extents.scratch(pool)];
            run::<T>(machine.level, Grad::<T, LARGEST> { pool, extents, x, dy, dx, lines });
        });
    });
}

/// dx of an image. Only the lines of a window are sums at a time: those before it are complete, those behind it zero.
struct Grad<'a, T, const LARGEST: bool> {
    pool: &'a Pool,
    extents: Extents,
    /// The image, of the largest alone.
    x: &'a [T],
    dy: &'a [T],
    dx: &'a mut [T],
    /// Sums of a line, by its number modulo how many there are.
    lines: &'a mut [f32],
}

impl<T: Number, const LARGEST: bool> HalvesVectored for Grad<'_, T, LARGEST> {
    #[inline(always)]
    unsafe fn run<S: Halves>(self) {
        let Grad { pool, extents: e, x, dy, dx, lines } = self;
        let part = share(pool);
        let pitch = e.x[1] * e.channels;
        if pitch == 0 {
            return;
        }
        let room = lines.len() / pitch;
        let (mut done, mut begun) = (0, 0);
        let whole = !LARGEST || x.len() == e.x[0] * pitch;
        assert!(whole && dx.len() == e.x[0] * pitch && dy.len() == e.y[0] * e.y[1] * e.channels);
        for row in 0..=e.y[0] {
            let rows = if row < e.y[0] { e.window(pool, [row, 0])[0].clone() } else { e.x[0]..e.x[0] };
            while done < rows.start {
                let dx = &mut dx[done * pitch..][..pitch];
                let sums = if done < begun { Some(&lines[done % room * pitch..][..pitch]) } else { None };
                // SAFETY: the processor has the level; the line and its sums are of one length.
                unsafe { write::<S, T>(dx, sums) };
                done += 1;
            }
            while begun < rows.end {
                lines[begun % room * pitch..][..pitch].fill(0.0);
                begun += 1;
            }
            for column in 0..if row < e.y[0] { e.y[1] } else { 0 } {
                let window = Window::new(&e, pool, [row, column]);
                window.check(dx.len());
                let dy = &dy[(row * e.y[1] + column) * e.channels..][..e.channels];
                let at = window.start - rows.start * pitch;
                let mut c = 0;
                // SAFETY: the window lies in the image, its lines in the sums, of which there are as many as a window has;
                // the processor has the level.
                unsafe {
                    let sums = Sums { start: lines.as_mut_ptr(), first: rows.start, room, pitch, at };
                    while c + S::LANES <= e.channels {
                        window.share::<S, T, LARGEST, true>(x, dy, part, sums, c, S::LANES);
                        c += S::LANES;
                    }
                    if c < e.channels {
                        window.share::<S, T, LARGEST, false>(x, dy, part, sums, c, e.channels - c);
                    }
                }
            }
        }
    }
}

/// Where a window adds to the sums of its lines.
#[derive(Clone, Copy)]
struct Sums {
    start: *mut f32,
    /// The number of the first line.
    first: usize,
    /// Lines of sums, and elements of each.
    room: usize,
    pitch: usize,
    /// The window's first element in a line.
    at: usize,
}

impl Window {
    /// Adds the shares of a vector of channels, those from `c` on, of what is written for the window.
    ///
    /// # Safety
    ///
    /// As [`Window::value`]; so do its lines in the sums.
    #[inline(always)]
    unsafe fn share<S: Halves, T: Number, const LARGEST: bool, const FULL: bool>(
        &self,
        x: &[T],
        dy: &[T],
        part: f32,
        sums: Sums,
        c: usize,
        some: usize,
    ) {
        // SAFETY: promised.
        unsafe {
            let mut rest = T::load::<S, FULL>(dy.as_ptr().add(c), some);
            let mut best = rest;
            if LARGEST {
                best = self.value::<S, T, LARGEST, FULL>(x.as_ptr().add(c), part, some);
            } else {
                rest = rest.times(part);
            }
            let mut line = x.as_ptr().wrapping_add(self.start + c);
            for i in 0..self.counts[0] {
                let mut at = line;
                let mut to = sums.start.add((sums.first + i) % sums.room * sums.pitch + sums.at + c);
                for _ in 0..self.counts[1] {
                    let mut share = rest;
                    if LARGEST {
                        [share, rest] = rest.parted(T::load::<S, FULL>(at, some), best);
                    }
                    let sum = <f32 as Element>::load::<S, FULL>(to, some).plus(share);
                    <f32 as Number>::store::<S, FULL>(sum, to, some);
                    at = at.wrapping_add(self.steps[1]);
                    to = to.wrapping_add(self.steps[1]);
                }
                line = line.wrapping_add(self.steps[0]);
            }
        }
    }
}

/// Writes a line from its sums, or zeros.
///
/// # Safety
///
/// The sums are as long; the processor has the level of S.
#[inline(always)]
unsafe fn write<S: Halves, T: Number>(dx: &mut [T], sums: Option<&[f32]>) {
    let mut c = 0;
    // SAFETY: promised.
    unsafe {
        while c < dx.len() {
            let some = S::LANES.min(dx.len() - c);
            let to = dx.as_mut_ptr().add(c);
            let from = sums.map(|sums| sums.as_ptr().add(c));
            if some == S::LANES {
                let value = if let Some(from) = from { S::load(from) } else { S::splat(0.0) };
                T::store::<S, true>(value, to, some);
            } else {
                let value = if let Some(from) = from { S::load_first(from, some) } else { S::splat(0.0) };
                T::store::<S, false>(value, to, some);
            }
            c += some;
        }
    }
}

/// out = x as f32.
pub fn widen_all(machine: &Machine<'_>, out: &mut [f32], x: &[u16]) {
    machine.pool.split(out, PIECE, |task, out, _| {
        pointwise_kernels::widen_all(machine.level, out, &x[task * PIECE..][..out.len()]);
    });
}
