//! Forward convolution and input gradient of channels-last rows of bf16, summed in f32.
//!
//! As `correlation`, with panels of pairs of terms: the terms of a run follow one another in the data. A run is a row of
//! taps with all channels, or one tap where the columns of taps are apart.

use crate::ahead::Ahead;
use crate::bf16_tile::{LANES, PAIRS, Products, Sum, WIDTH, Walk, gather, pack_turned};
use crate::convolution::{Emit, Geometry, Part, Weights};
use crate::correlation::{LISTED, each_list, launch, scratch};
use crate::device::Machine;
use crate::launch::Need;
use crate::memory::halves;
use crate::plan::{Axis, Data, Plan};
use crate::pointwise_kernels::narrow;
use crate::tile::Blocks;
use std::ops::Range;

/// The runs of a phase.
#[derive(Clone, Copy, Debug)]
struct Runs {
    /// Rows of taps, and runs in each.
    counts: [usize; 2],
    /// Terms of a run.
    terms: usize,
    /// What multiplies them.
    products: Products,
}

impl Runs {
    fn new([row, column]: [Axis; 2], channels: usize, products: Products) -> Runs {
        let columns = if column.step == 1 { column.taps } else { column.taps.min(1) };
        let inner = column.taps.checked_div(columns).unwrap_or(0);
        let terms = columns * channels;
        Runs { counts: [row.taps, if terms == 0 { 0 } else { inner }], terms, products }
    }

    /// Pairs of one run.
    fn pairs(&self) -> usize {
        self.products.pairs(self.terms)
    }

    /// Pairs of all.
    fn all(&self) -> usize {
        self.counts[0] * self.counts[1] * self.pairs()
    }

    /// Pieces in which the sum with panels of that width is taken: how many, and the rows, runs of a row or pairs of a run of
    /// one.
    fn cut(&self, width: usize) -> (usize, Cut) {
        let [rows, inner] = self.counts;
        let (pairs, depth) = (self.pairs(), self.products.depth(width));
        if self.all() == 0 {
            (0, Cut::Rows(0))
        } else if inner * pairs <= depth {
            let some = rows.div_ceil(self.all().div_ceil(depth));
            (rows.div_ceil(some), Cut::Rows(some))
        } else {
            let pieces = pairs.div_ceil(depth);
            let some = self.products.pairs(2 * pairs.div_ceil(pieces));
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
fn phases(plan: &Plan, products: Products) -> impl Iterator<Item = ([Axis; 2], Runs, usize)> + use<> {
    let from = plan.from;
    plan.phases().scan(0, move |pairs, (phase, _)| {
        let (runs, before) = (Runs::new(phase, from, products), *pairs);
        *pairs += runs.all();
        Some((phase, runs, before))
    })
}

/// Pairs of a panel: the number of images does not matter to the taps.
fn pairs(g: &Geometry, backward: bool, products: Products) -> usize {
    phases(&Plan::new(g, backward, 1), products).map(|(_, runs, _)| runs.all()).sum()
}

/// Workspace of a launch, whatever multiplies.
pub fn need(g: &Geometry, backward: bool, images: &[usize]) -> Need {
    let blocks = Blocks::new(channels(g, backward)[1], WIDTH, LANES);
    let shared = blocks.count * blocks.width * pairs(g, backward, Products::Tiles);
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
    let products = Products::of(machine.level);
    let piece = pairs(g, backward, products) * blocks.width;
    let (machine, shared) = machine.with_shared(blocks.count * piece);
    machine.pool.split(shared, piece, |block, out, _| {
        let first = block * blocks.width;
        let rows = first..rows.min(first + blocks.width);
        let pack = Pack { g, backward, rows, width: blocks.width, products };
        machine.level.run(|| match w {
            Weights::F32(w) => pack.run(halves(out), w, narrow),
            Weights::Bf16(w) if g.taps() == 1 && !backward => pack.turn(halves(out), w),
            Weights::Bf16(w) => pack.run(halves(out), w, |w| w),
        });
    });
    let sums = Sums { blocks, panels: halves(shared), piece: 2 * piece, rows, products };
    launch::<u16>(&machine, g, backward, parts, emit, |plan, data, lines, spare, out, ahead| {
        sums.task(plan, data, lines, halves(spare), out, ahead);
    });
}

/// The packing of one panel.
struct Pack<'a> {
    g: &'a Geometry,
    backward: bool,
    /// Result channels.
    rows: Range<usize>,
    width: usize,
    products: Products,
}

impl Pack<'_> {
    #[inline(always)]
    fn run<T: Copy>(&self, out: &mut [u16], w: &[T], number: impl Fn(T) -> u16) {
        let taps = self.g.taps();
        let inner = self.g.inputs * taps;
        let [channels, _] = channels(self.g, self.backward);
        let (row_step, channel_step) = if self.backward { (taps, inner) } else { (inner, taps) };
        for ([row, column], runs, before) in phases(&Plan::new(self.g, self.backward, 1), self.products) {
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
                    if 2 * pair >= runs.terms {
                        out.fill(0);
                        continue;
                    }
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
        let w = &w[self.rows.start * terms..];
        pack_turned(w, terms, self.rows.len(), terms, self.products.pairs(terms), self.width, out);
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
    products: Products,
}

impl Sums<'_> {
    fn task(
        &self,
        plan: &Plan,
        data: Data<'_, u16>,
        lines: Range<usize>,
        spare: &mut [u16],
        out: &mut [f32],
        ahead: &Ahead,
    ) {
        // Phases have about as many positions each.
        let phases = || phases(plan, self.products);
        let width = self.blocks.width;
        let positions = lines.len() * plan.result[1] / phases().count().max(1);
        let pieces: usize = phases().map(|(_, runs, _)| runs.cut(width).0).sum();
        let tiles = positions.div_ceil(self.products.columns(width)) * self.blocks.count * pieces;
        let ahead = (ahead, ahead.share(tiles));
        // Positions that no tap reaches are among those of the others.
        if phases().any(|(_, runs, _)| runs.all() == 0) {
            out.fill(0.0);
        }
        for (phase, runs, before) in phases().filter(|(_, runs, _)| runs.all() > 0) {
            each_list(plan, phase, data, lines.clone(), |sources, results| {
                let positions = Positions { phase, runs, before, data, sources, results, ahead };
                if self.products == Products::Pairs || are_even(sources) {
                    self.in_place(&positions, out);
                } else {
                    self.gathered(&positions, spare, out);
                }
            });
        }
    }

    /// The sums of some positions, whose sources are read as they lie.
    fn in_place(&self, p: &Positions<'_>, out: &mut [f32]) {
        let (pieces, cut) = p.runs.cut(self.blocks.width);
        for block in 0..self.blocks.count {
            for i in 0..pieces {
                let (walk, pair, at) = p.runs.piece(i, cut, p.steps());
                let far = p.data.direct && block == 0;
                let data = (&p.data.elements[at..], far);
                self.sum(p, block, (walk, pair), i > 0, data, p.sources, p.results, out);
            }
        }
    }

    /// The same; the sources of a piece of the sum are brought together first, for all panels, so that they lie evenly.
    fn gathered(&self, p: &Positions<'_>, spare: &mut [u16], out: &mut [f32]) {
        let (pieces, cut) = p.runs.cut(self.blocks.width);
        let terms = |walk: &Walk| 2 * walk.counts[0] * walk.counts[1] * self.products.pairs(walk.terms);
        let most = (0..pieces).map(|i| terms(&p.runs.piece(i, cut, p.steps()).0)).max().unwrap_or(0);
        // Columns that are a power of two apart share few sets of the cache.
        let pitch = most + if most.is_multiple_of(512) { 2 * PAIRS } else { 0 };
        let some = spare.len() / pitch / EVEN * EVEN;
        if some == 0 {
            return self.in_place(p, out);
        }
        let mut places = [0; LISTED];
        for (j, place) in places.iter_mut().enumerate() {
            *place = j * pitch;
        }
        for (sources, results) in p.sources.chunks(some).zip(p.results.chunks(some)) {
            for i in 0..pieces {
                let (walk, pair, at) = p.runs.piece(i, cut, p.steps());
                gather(&walk, &p.data.elements[at..], sources, spare, pitch);
                let walk = Walk { counts: [1, 1], steps: [0, 0], terms: terms(&walk) };
                for block in 0..self.blocks.count {
                    let places = &places[..sources.len()];
                    self.sum(p, block, (walk, pair), i > 0, (spare, false), places, results, out);
                }
            }
        }
    }

    /// A piece of the sums of some positions with one panel.
    #[expect(clippy::too_many_arguments, reason = "the operands of a product")]
    fn sum(
        &self,
        p: &Positions<'_>,
        block: usize,
        (walk, pair): (Walk, usize),
        add: bool,
        (data, far): (&[u16], bool),
        sources: &[usize],
        results: &[usize],
        out: &mut [f32],
    ) {
        let (width, products) = (self.blocks.width, self.products);
        let first = block * width;
        let panel = &self.panels[block * self.piece..][..self.piece][2 * (p.before + pair) * width..];
        let rows = width.min(self.rows - first);
        let sum = Sum { rows, width, walk, panel, data, add, far, ahead: p.ahead, products };
        sum.run(sources, &mut out[first..], results);
    }
}

/// Some positions of a phase.
struct Positions<'a> {
    phase: [Axis; 2],
    runs: Runs,
    /// Pairs of the phases before.
    before: usize,
    data: Data<'a, u16>,
    /// Where the sources and the results of each begin.
    sources: &'a [usize],
    results: &'a [usize],
    ahead: (&'a Ahead, usize),
}

impl Positions<'_> {
    /// Data steps of rows of taps and of runs.
    fn steps(&self) -> [usize; 2] {
        let [row, column] = self.phase;
        [row.step * self.data.pitch, column.step * self.data.channels]
    }
}

/// Positions that a tile takes at once where they lie evenly.
const EVEN: usize = 32;

/// Whether sixteen neighbours each lie at equal distances.
fn are_even(at: &[usize]) -> bool {
    at.chunks_exact(EVEN / 2)
        .all(|at| at.windows(3).all(|at| at[1].wrapping_sub(at[0]) == at[2].wrapping_sub(at[1])))
}
