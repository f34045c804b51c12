//! Depthwise convolution (one channel per group) of channels-last rows and its gradients, directly, vectors of channels at a
//! time.
//!
//! A tap of a channel is one multiply-add, and its operands are as many loads, so that what a tile of sums shares decides
//! the speed: positions that lie side by side share a weight, the taps of a weight gradient a number of dy.

use crate::ahead::{Ahead, Pace};
use crate::convolution::{Emit, Geometry, Part, Weights};
use crate::convolution_weight::{Cut, GradPart, dy_rows};
use crate::correlation::{Line, each_line, launch, scratch};
use crate::device::Machine;
use crate::launch::Need;
use crate::plan::{Data, Plan};
use crate::simd::Level;
use crate::vector::{Vector, Vectored, with_vectors};
use std::ops::Range;

/// Positions whose sums are a tile: as many as keep the additions of a sum apart.
const TILE: usize = 8;

/// Lanes of the widest vector.
const MOST_LANES: usize = 16;

/// Taps of a row whose sums are a tile, where not all taps are.
const TAPS: usize = 8;

/// Workspace of [`run`].
pub fn need(g: &Geometry, backward: bool, images: &[usize]) -> Need {
    Need { scratch: scratch::<f32>(g, backward, images), shared: g.taps() * g.inputs, ..Need::default() }
}

/// y of x and w, or dx where `backward`; the arguments are those of [`crate::convolution::run`].
pub fn run(
    machine: &mut Machine<'_>,
    g: &Geometry,
    backward: bool,
    w: Weights<'_>,
    parts: &mut [Part<'_>],
    emit: Option<&dyn Emit>,
) {
    let (channels, taps) = (g.inputs, g.taps());
    let (machine, weights) = machine.with_shared(taps * channels);
    // The weights of a tap follow one another; taps in the order of the phases.
    for (phase, before) in Plan::new(g, backward, 1).phases() {
        for t in 0..phase[0].taps * phase[1].taps {
            let tap = [phase[0].tap(t / phase[1].taps), phase[1].tap(t % phase[1].taps)];
            let from = tap[0] * g.kernel[1] + tap[1];
            for (c, to) in weights[(before + t) * channels..][..channels].iter_mut().enumerate() {
                *to = match w {
                    Weights::F32(w) => w[c * taps + from],
                    Weights::Bf16(w) => f32::from_bits(u32::from(w[c * taps + from]) << 16),
                };
            }
        }
    }
    let (weights, level) = (&*weights, machine.level);
    launch(&machine, g, backward, parts, emit, |plan, data, lines, _, out, ahead| {
        let tiles = (lines.len() * plan.result[1]).div_ceil(TILE);
        let ahead = (ahead, ahead.share(tiles));
        for (phase, before) in plan.phases() {
            let [row, column] = phase;
            let taps = [row.taps, column.taps];
            let weights = &weights[before * channels..][..taps[0] * taps[1] * channels];
            let steps = [row.step * data.pitch, column.step * channels];
            each_line(plan, phase, data, lines.clone(), |line| {
                let data = data.elements;
                with_vectors(level, Positions { line, channels, taps, steps, data, weights, out, ahead });
            });
        }
    });
}

/// Results of a line of positions: the sums over the taps of a phase.
struct Positions<'a> {
    line: Line,
    channels: usize,
    /// Rows of taps, and taps of a row.
    taps: [usize; 2],
    /// Their steps in the data.
    steps: [usize; 2],
    data: &'a [f32],
    /// `[tap][channel]`
    weights: &'a [f32],
    out: &'a mut [f32],
    /// What is asked for, so many lines beside every tile.
    ahead: (&'a Ahead, usize),
}

impl Vectored for Positions<'_> {
    #[inline(always)]
    unsafe fn run<S: Vector>(mut self) {
        let Positions { line: Line { count, data: at, row }, channels, taps, steps, .. } = self;
        let Some(last) = count.checked_sub(1) else { return };
        if taps[0] * taps[1] > 0 {
            let reach = (taps[0] - 1) * steps[0] + (taps[1] - 1) * steps[1] + channels;
            assert!(at[0] + last * at[1] + reach <= self.data.len(), "the data are whole");
        }
        assert!(taps[0] * taps[1] * channels <= self.weights.len(), "every tap has its weights");
        assert!((row[0] + last * row[1] + 1) * channels <= self.out.len(), "the result has room");
        // Tiles of about one size.
        let tile = count.div_ceil(count.div_ceil(TILE));
        for first in (0..count).step_by(tile) {
            // SAFETY: the assertions hold every access inside the slices; the processor has the level.
            unsafe {
                match tile.min(count - first) {
                    1 => self.tile::<S, 1>(first),
                    2 => self.tile::<S, 2>(first),
                    3 => self.tile::<S, 3>(first),
                    4 => self.tile::<S, 4>(first),
                    5 => self.tile::<S, 5>(first),
                    6 => self.tile::<S, 6>(first),
                    7 => self.tile::<S, 7>(first),
                    _ => self.tile::<S, TILE>(first),
                }
            }
        }
    }
}

impl Positions<'_> {
    /// N positions from one on.
    ///
    /// # Safety
    ///
    /// They are positions of the line, and data, weights and result have room; the processor has the level of S, here and
    /// below.
    #[inline(always)]
    unsafe fn tile<S: Vector, const N: usize>(&mut self, first: usize) {
        let Line { data, row, .. } = self.line;
        let from = self.data.as_ptr().wrapping_add(data[0] + first * data[1]);
        let to = self.out.as_mut_ptr().wrapping_add((row[0] + first * row[1]) * self.channels);
        let mut pace = Pace::new(self.ahead.0.take(self.ahead.1), self.channels / S::LANES);
        let mut c = 0;
        // SAFETY: promised.
        unsafe {
            while c + S::LANES <= self.channels {
                pace.ask();
                self.vector::<S, N, true>(c, from.wrapping_add(c), to.wrapping_add(c));
                c += S::LANES;
            }
            if c < self.channels {
                self.vector::<S, N, false>(c, from.wrapping_add(c), to.wrapping_add(c));
            }
        }
    }

    /// Channels from `c` on: a vector where WHOLE, else those that are left.
    #[inline(always)]
    #[expect(clippy::needless_range_loop, reason = "indices that are constants keep the sums in registers")]
    unsafe fn vector<S: Vector, const N: usize, const WHOLE: bool>(
        &self,
        c: usize,
        from: *const f32,
        to: *mut f32,
    ) {
        let left = self.channels - c;
        let step = self.line.data[1];
        // SAFETY: promised.
        unsafe {
            let mut sums = [S::splat(0.0); N];
            let mut weight = self.weights.as_ptr().add(c);
            let mut row = from;
            for _ in 0..self.taps[0] {
                let mut at = row;
                for _ in 0..self.taps[1] {
                    let w = load::<S, WHOLE>(weight, left);
                    for j in 0..N {
                        sums[j] = sums[j].sum(load::<S, WHOLE>(at.wrapping_add(j * step), left), w);
                    }
                    weight = weight.wrapping_add(self.channels);
                    at = at.wrapping_add(self.steps[1]);
                }
                row = row.wrapping_add(self.steps[0]);
            }
            for j in 0..N {
                store::<S, WHOLE>(sums[j], to.wrapping_add(j * self.line.row[1] * self.channels), left);
            }
        }
    }
}

/// A vector, of which only `n` elements are there unless WHOLE.
///
/// # Safety
///
/// These can be read; the processor has the level of S.
#[inline(always)]
unsafe fn load<S: Vector, const WHOLE: bool>(from: *const f32, n: usize) -> S {
    // SAFETY: promised.
    unsafe { if WHOLE { S::load(from) } else { S::load_first(from, n) } }
}

/// # Safety
///
/// As [`load`], of elements that can be written.
#[inline(always)]
unsafe fn store<S: Vector, const WHOLE: bool>(x: S, to: *mut f32, n: usize) {
    // SAFETY: promised.
    unsafe { if WHOLE { x.store(to) } else { x.store_first(to, n) } }
}

/// Workspace of [`grad_weight`].
pub fn grad_weight_need(g: &Geometry, images: &[usize]) -> Need {
    let cut = Cut::new(g, images.iter().sum(), false);
    let scratch = cut.scratch(g, images.iter().copied(), g.inputs).iter().sum();
    Need { scratch, shared: cut.pieces * g.taps() * g.inputs, ..Need::default() }
}

/// dw = the sum over all parts, of which at least one has an image.
pub fn grad_weight(machine: &mut Machine<'_>, g: &Geometry, parts: &[GradPart<'_>], dw: &mut [f32]) {
    let (channels, taps) = (g.inputs, g.taps());
    let cut = Cut::new(g, parts.iter().map(|p| p.images).sum(), false);
    let sizes = cut.scratch(g, parts.iter().map(|p| p.images), channels);
    let (machine, shared) = machine.with_shared(cut.pieces * taps * channels);
    machine.pool.split(shared, taps * channels, |piece, out, worker| {
        out.fill(0.0);
        machine.with_scratch(worker, |scratch| {
            let (window, dy) = scratch.split_at_mut(sizes[0]);
            cut.each_chunk(g, parts.iter().map(|p| p.images), piece, |part, plan, lines| {
                let part = &parts[part];
                let rows = lines.start * plan.result[1]..lines.end * plan.result[1];
                let dy = dy_rows(&machine, part.dy, rows, true, worker, dy);
                let x = plan.data(&machine, part.x, lines.clone(), 0..channels, worker, window, &mut []);
                let mut ahead = Ahead::default();
                // The chunk that comes next is as large.
                let later = lines.end..(lines.end + lines.len()).min(plan.images * plan.result[0]);
                let source = plan.source_rows(later.clone());
                part.x.list(source.start, source.len(), &mut ahead);
                part.dy.list(later.start * plan.result[1], later.len() * plan.result[1], &mut ahead);
                chunk(machine.level, plan, x, dy, lines, &ahead, out);
            });
        });
    });
    let sums = &*shared;
    machine.pool.split(dw, 16 * taps, |task, dw, _| {
        for (i, dw) in dw.iter_mut().enumerate() {
            let (c, tap) = (task * 16 + i / taps, i % taps);
            *dw = (0..cut.pieces).map(|piece| sums[(piece * taps + tap) * channels + c]).sum();
        }
    });
}

/// Adds the terms of a chunk; out\[tap, c\] += the sum over positions of dy\[position, c\] · x\[position + tap, c\].
fn chunk(
    level: Level,
    plan: &Plan,
    x: Data<'_>,
    dy: &[f32],
    lines: Range<usize>,
    ahead: &Ahead,
    out: &mut [f32],
) {
    let channels = x.channels;
    let ahead = (ahead, ahead.share(lines.len() * channels.div_ceil(MOST_LANES)));
    for ([row, column], _) in plan.phases() {
        for segment in plan.segments(lines.clone(), x) {
            let first = segment.lines.start;
            let dy = &dy[(first * plan.result[1]).wrapping_add_signed(segment.row) * channels..];
            let at =
                segment.at + row.begin(first, segment.rows[0]) * x.pitch + column.begin(0, x.left) * channels;
            let terms = Terms {
                counts: [segment.lines.len(), column.positions],
                channels,
                taps: [row.taps, column.taps],
                steps: [row.step * x.pitch, column.step * channels],
                x: &x.elements[at..],
                apart: [row.scale * x.pitch, column.scale * channels],
                dy,
                out,
                ahead,
            };
            with_vectors(level, terms);
        }
    }
}

/// What lines of positions add to the sums of all taps.
struct Terms<'a> {
    /// Lines, and positions of a line.
    counts: [usize; 2],
    channels: usize,
    /// Rows of taps, and taps of a row.
    taps: [usize; 2],
    /// Their steps in x.
    steps: [usize; 2],
    x: &'a [f32],
    /// Steps of lines and positions in x.
    apart: [usize; 2],
    /// `[line][position][channel]`
    dy: &'a [f32],
    /// `[tap][channel]`
    out: &'a mut [f32],
    /// What is asked for, so many lines beside every line of positions of a vector.
    ahead: (&'a Ahead, usize),
}

impl Vectored for Terms<'_> {
    #[inline(always)]
    unsafe fn run<S: Vector>(mut self) {
        let Terms { counts, channels, taps, steps, apart, .. } = self;
        if counts[0] * counts[1] * taps[0] * taps[1] == 0 {
            return;
        }
        let last =
            |counts: [usize; 2], steps: [usize; 2]| (counts[0] - 1) * steps[0] + (counts[1] - 1) * steps[1];
        assert!(last(counts, apart) + last(taps, steps) + channels <= self.x.len(), "x is whole");
        assert!(counts[0] * counts[1] * channels <= self.dy.len(), "dy is whole");
        assert!(taps[0] * taps[1] * channels <= self.out.len(), "every tap has its sums");
        // SAFETY: the assertions hold every access inside the slices; the processor has the level.
        unsafe {
            if taps == [3, 3] {
                return self.taps::<S, 3, 3>(0, 0);
            }
            for row in 0..taps[0] {
                for first in (0..taps[1]).step_by(TAPS) {
                    match TAPS.min(taps[1] - first) {
                        1 => self.taps::<S, 1, 1>(row, first),
                        2 => self.taps::<S, 1, 2>(row, first),
                        3 => self.taps::<S, 1, 3>(row, first),
                        4 => self.taps::<S, 1, 4>(row, first),
                        5 => self.taps::<S, 1, 5>(row, first),
                        6 => self.taps::<S, 1, 6>(row, first),
                        7 => self.taps::<S, 1, 7>(row, first),
                        _ => self.taps::<S, 1, TAPS>(row, first),
                    }
                }
            }
        }
    }
}

impl Terms<'_> {
    /// R rows of C taps from (row, column) on.
    ///
    /// # Safety
    ///
    /// The taps are there, and x, dy and sums are whole; the processor has the level of S, here and below.
    #[inline(always)]
    unsafe fn taps<S: Vector, const R: usize, const C: usize>(&mut self, row: usize, column: usize) {
        let mut c = 0;
        // SAFETY: promised.
        unsafe {
            while c + S::LANES <= self.channels {
                self.vector::<S, R, C, true>([row, column], c);
                c += S::LANES;
            }
            if c < self.channels {
                self.vector::<S, R, C, false>([row, column], c);
            }
        }
    }

    /// Channels from `c` on: a vector where WHOLE, else those that are left.
    #[inline(always)]
    #[expect(clippy::needless_range_loop, reason = "indices that are constants keep the sums in registers")]
    unsafe fn vector<S: Vector, const R: usize, const C: usize, const WHOLE: bool>(
        &mut self,
        [row, column]: [usize; 2],
        c: usize,
    ) {
        let (channels, left) = (self.channels, self.channels - c);
        let (steps, apart) = (self.steps, self.apart);
        // SAFETY: promised.
        unsafe {
            let to = self.out.as_mut_ptr().add((row * self.taps[1] + column) * channels + c);
            let mut sums = [[S::splat(0.0); C]; R];
            for r in 0..R {
                for u in 0..C {
                    sums[r][u] = load::<S, WHOLE>(to.add((r * self.taps[1] + u) * channels), left);
                }
            }
            let mut line = self.x.as_ptr().add(row * steps[0] + column * steps[1] + c);
            let mut dy = self.dy.as_ptr().add(c);
            for _ in 0..self.counts[0] {
                let mut at = line;
                let mut pace = Pace::new(self.ahead.0.take(self.ahead.1), self.counts[1]);
                for _ in 0..self.counts[1] {
                    pace.ask();
                    let y = load::<S, WHOLE>(dy, left);
                    for r in 0..R {
                        let row = at.wrapping_add(r * steps[0]);
                        for u in 0..C {
                            let x = load::<S, WHOLE>(row.wrapping_add(u * steps[1]), left);
                            sums[r][u] = sums[r][u].sum(x, y);
                        }
                    }
                    dy = dy.wrapping_add(channels);
                    at = at.wrapping_add(apart[1]);
                }
                line = line.wrapping_add(apart[0]);
            }
            for r in 0..R {
                for u in 0..C {
                    store::<S, WHOLE>(sums[r][u], to.add((r * self.taps[1] + u) * channels), left);
                }
            }
        }
    }
}
