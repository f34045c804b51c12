//! Forward convolution and input gradient of channels-last rows of bf16, summed in f32.
//!
//! As `correlation`, with panels of pairs of terms: the terms of a run follow one another in the data. A run is a row of
//! taps with all channels, or one tap where the columns of taps are apart.

use crate::ahead::Ahead;
use crate::bf16_tile::{LANES, Sum, WIDTH, Walk, columns};
use crate::convolution::{Emit, Geometry, Part, Weights};
use crate::correlation::{each_list, each_position, launch, scratch};
use crate::device::Machine;
use crate::launch::Need;
use crate::memory::halves;
use crate::plan::{Axis, Data, Plan};
use crate::pointwise_kernels::narrow;
use crate::tile::Blocks;
use crate::transpose::transpose;
use std::ops::Range;

/// Pairs of terms that are added up in registers in one go, about.
const DEPTH: usize = 512;

/// The runs of a phase.
#[derive(Clone, Copy, Debug)]
struct Runs {
    /// Rows of taps, and runs in each.
    counts: [usize; 2],
    /// Terms of a run.
    terms: usize,
}

impl Runs {
    fn new([row, column]: [Axis; 2], channels: usize) -> Runs {
        let columns = if column.step == 1 { column.taps } else { column.taps.min(1) };
        let inner = column.taps.checked_div(columns).unwrap_or(0);
        let terms = columns * channels;
        Runs { counts: [row.taps, if terms == 0 { 0 } else { inner }], terms }
    }

    /// Pairs of one run.
    fn pairs(&self) -> usize {
        self.terms.div_ceil(2)
    }

    /// Pairs of all.
    fn all(&self) -> usize {
        self.counts[0] * self.counts[1] * self.pairs()
    }

    /// Pieces in which the sum is taken: how many, and the rows, runs of a row or pairs of a run of one.
    fn cut(&self) -> (usize, Cut) {
        let [rows, inner] = self.counts;
        let pairs = self.pairs();
        if self.all() == 0 {
            (0, Cut::Rows(0))
        } else if inner * pairs <= DEPTH {
            let some = rows.div_ceil(self.all().div_ceil(DEPTH));
            (rows.div_ceil(some), Cut::Rows(some))
        } else {
            let pieces = pairs.div_ceil(DEPTH);
            let some = pairs.div_ceil(pieces);
            (rows * inner * pairs.div_ceil(some), Cut::Pairs(some))
        }
    }

    /// Piece `i`: its walk, its first pair in the panel, and where it begins in the data.
    fn piece(&self, i: usize, cut: Cut, steps: [usize; 2]) -> (Walk, usize, usize) {
        let [rows, inner] = self.counts;
        let pairs = self.pairs();
        match cut {
            Cut::Rows(some) => {
                let first = i * some;
                let walk = Walk { counts: [some.min(rows - first), inner], steps, terms: self.terms };
                (walk, first * inner * pairs, first * steps[0])
            }
            Cut::Pairs(some) => {
                let per_run = pairs.div_ceil(some);
                let (run, first) = (i / per_run, i % per_run * some);
                let at = run / inner * steps[0] + run % inner * steps[1] + 2 * first;
                let terms = (2 * some).min(self.terms - 2 * first);
                (Walk { counts: [1, 1], steps: [0, 0], terms }, run * pairs + first, at)
            }
        }
    }
}

/// What a piece of a sum is.
#[derive(Clone, Copy, Debug)]
enum Cut {
    /// So many rows of taps.
    Rows(usize),
    /// So many pairs of one run.
    Pairs(usize),
}

/// Source channels, and result channels.
fn channels(g: &Geometry, backward: bool) -> [usize; 2] {
    if backward { [g.outputs, g.inputs] } else { [g.inputs, g.outputs] }
}

/// The phases with their runs, and the pairs of those before each.
fn phases(plan: &Plan) -> impl Iterator<Item = ([Axis; 2], Runs, usize)> + use<> {
    let from = plan.from;
    plan.phases().scan(0, move |pairs, (phase, _)| {
        let (runs, before) = (Runs::new(phase, from), *pairs);
        *pairs += runs.all();
        Some((phase, runs, before))
    })
}

/// Pairs of a panel: the number of images does not matter to the taps.
fn pairs(g: &Geometry, backward: bool) -> usize {
    phases(&Plan::new(g, backward, 1)).map(|(_, runs, _)| runs.all()).sum()
}

/// Workspace of a launch.
pub fn need(g: &Geometry, backward: bool, images: &[usize]) -> Need {
    let blocks = Blocks::new(channels(g, backward)[1], WIDTH, LANES);
    let shared = blocks.count * blocks.width * pairs(g, backward);
    Need { scratch: scratch::<u16>(g, backward, images), shared, ..Need::default() }
}

/// y = conv(x, w), or dx where `backward`.
pub fn run(
    machine: &mut Machine<'_>,
    g: &Geometry,
    backward: bool,
    w: Weights<'_>,
    parts: &mut [Part<'_>],
    emit: Option<&dyn Emit>,
) {
    let rows = channels(g, backward)[1];
    let blocks = Blocks::new(rows, WIDTH, LANES);
    // A pair takes the place of one f32.
    let piece = pairs(g, backward) * blocks.width;
    let (machine, shared) = machine.with_shared(blocks.count * piece);
    machine.pool.split(shared, piece, |block, out, _| {
        let first = block * blocks.width;
        let pack = Pack { g, backward, rows: first..rows.min(first + blocks.width), width: blocks.width };
        machine.level.run(|| match w {
            Weights::F32(w) => pack.run(halves(out), w, narrow),
            Weights::Bf16(w) if g.taps() == 1 && !backward => pack.turn(halves(out), w),
            Weights::Bf16(w) => pack.run(halves(out), w, |w| w),
        });
    });
    let sums = Sums { blocks, panels: halves(shared), piece: 2 * piece, rows };
    launch::<u16>(&machine, g, backward, parts, emit, |plan, data, lines, out, ahead| {
        sums.task(plan, data, lines, out, ahead);
    });
}

/// The packing of one panel.
struct Pack<'a> {
    g: &'a Geometry,
    backward: bool,
    /// Result channels.
    rows: Range<usize>,
    width: usize,
}

impl Pack<'_> {
    #[inline(always)]
    fn run<T: Copy>(&self, out: &mut [u16], w: &[T], number: impl Fn(T) -> u16) {
        let taps = self.g.taps();
        let inner = self.g.inputs * taps;
        let [channels, _] = channels(self.g, self.backward);
        let (row_step, channel_step) = if self.backward { (taps, inner) } else { (inner, taps) };
        for ([row, column], runs, before) in phases(&Plan::new(self.g, self.backward, 1)) {
            for run in 0..runs.counts[0] * runs.counts[1] {
                let (r, c) = (run / runs.counts[1], run % runs.counts[1]);
                let first = row.tap(r) * self.g.kernel[1];
                // Where a term of the first row lies.
                let at = |term: usize| {
                    let tap = first + column.tap(c + term / channels);
                    self.rows.start * row_step + tap + term % channels * channel_step
                };
                for pair in 0..runs.pairs() {
                    let to = 2 * (before + run * runs.pairs() + pair) * self.width;
                    let out = &mut out[to..to + 2 * self.rows.len()];
                    let one = at(2 * pair);
                    let two = (2 * pair + 1 < runs.terms).then(|| at(2 * pair + 1));
                    if row_step == 1
                        && let Some(two) = two
                    {
                        let from = w[one..].iter().zip(&w[two..]);
                        for (out, (&one, &two)) in out.chunks_exact_mut(2).zip(from) {
                            (out[0], out[1]) = (number(one), number(two));
                        }
                        continue;
                    }
                    for (i, out) in out.chunks_exact_mut(2).enumerate() {
                        out[0] = number(w[one + i * row_step]);
                        out[1] = two.map_or(0, |two| number(w[two + i * row_step]));
                    }
                }
            }
        }
    }
}

impl Pack<'_> {
    /// The packing of forward weights of one tap, whose pairs follow one another in memory.
    #[inline(always)]
    fn turn(&self, out: &mut [u16], w: &[u16]) {
        let terms = self.g.inputs;
        for first in (0..self.rows.len()).step_by(LANES) {
            let w = &w[(self.rows.start + first) * terms..];
            let rows = LANES.min(self.rows.len() - first);
            for from in (0..terms).step_by(2 * LANES) {
                let out = &mut out[from * self.width + 2 * first..];
                if rows == LANES && from + 2 * LANES <= terms {
                    transpose(&w[from..], terms, out, self.width);
                    continue;
                }
                for (i, out) in
                    out.chunks_mut(2 * self.width).enumerate().take(LANES.min(terms.div_ceil(2) - from / 2))
                {
                    let term = from + 2 * i;
                    for (row, out) in out.chunks_exact_mut(2).enumerate().take(rows) {
                        let w = &w[row * terms..][..terms];
                        (out[0], out[1]) = (w[term], w.get(term + 1).copied().unwrap_or(0));
                    }
                }
            }
        }
    }
}

/// The computation of tasks.
struct Sums<'a> {
    blocks: Blocks,
    panels: &'a [u16],
    /// Elements of a panel.
    piece: usize,
    /// Result channels.
    rows: usize,
}

impl Sums<'_> {
    fn task(&self, plan: &Plan, data: Data<'_, u16>, lines: Range<usize>, out: &mut [f32], ahead: &Ahead) {
        // Phases have about as many positions each.
        let positions = lines.len() * plan.result[1] / phases(plan).count().max(1);
        let pieces: usize = phases(plan).map(|(_, runs, _)| runs.cut().0).sum();
        let tiles = positions.div_ceil(columns(self.blocks.width)) * self.blocks.count * pieces;
        let ahead = (ahead, ahead.share(tiles));
        for (phase, runs, before) in phases(plan) {
            if runs.all() == 0 {
                each_position(plan, phase, data, lines.clone(), |_, row| {
                    out[row * plan.to..][..plan.to].fill(0.0);
                });
                continue;
            }
            each_list(plan, phase, data, lines.clone(), |sources, results| {
                self.positions(phase, runs, before, data, sources, out, results, ahead);
            });
        }
    }

    /// Some positions of a phase.
    #[expect(clippy::too_many_arguments, reason = "the operands of a product")]
    fn positions(
        &self,
        [row, column]: [Axis; 2],
        runs: Runs,
        before: usize,
        data: Data<'_, u16>,
        sources: &[usize],
        out: &mut [f32],
        results: &[usize],
        ahead: (&Ahead, usize),
    ) {
        let (pieces, cut) = runs.cut();
        let steps = [row.step * data.pitch, column.step * data.channels];
        let width = self.blocks.width;
        for (block, panel) in self.panels.chunks_exact(self.piece).take(self.blocks.count).enumerate() {
            let first = block * width;
            for i in 0..pieces {
                let (walk, pair, at) = runs.piece(i, cut, steps);
                let panel = &panel[2 * (before + pair) * width..];
                let rows = width.min(self.rows - first);
                let far = data.direct && block == 0;
                let data = &data.elements[at..];
                let sum = Sum { rows, width, walk, panel, data, add: i > 0, far, ahead };
                sum.run(sources, &mut out[first..], results);
            }
        }
    }
}
