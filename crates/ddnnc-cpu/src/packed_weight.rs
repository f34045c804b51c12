//! The weight gradient of a convolution without groups from packed operands, in f32 or with products of pairs of bf16.
//!
//! What is multiplied is an f32, or a pair of bf16: one position of two neighbouring images (`packed_weight_chunk.rs`). A
//! task is a piece of the batch, a block of output channels and one of input channels. For each chunk of positions it packs
//! dy once, and the rows of x into panels once, which all taps read. Input channels are the rows of the products. A task's
//! sums stay in its cache until it brings them into the order of the weights; the batch is cut into pieces and the channels
//! into blocks by shape alone, and the sums of the pieces are added in order.
//!
//! Rows of x that are not in memory are computed, as bf16 where pairs are multiplied: by the task, for each chunk, where no
//! other task reads them, else once for all tasks, some images of each piece at a time.

use crate::convolution::{Geometry, Rows};
use crate::convolution_weight::GradPart;
use crate::device::Machine;
use crate::launch::Need;
use crate::memory::{places, spans};
use crate::packed_weight_chunk::{Extent, Load, Packed, Source, Stored, line};
use crate::packed_weight_tile::{Ordered, Product, Span, columns, width};
use crate::pointwise::Cells;
use crate::simd::Level;
use std::marker::PhantomData;
use std::ops::Range;

/// Tasks that a launch should have.
const TASKS: usize = 16;

/// f32 of a vector.
const LANES: usize = 16;

/// The most elements of computed rows of x that are kept for all tasks.
const KEPT: usize = 1 << 21;

/// Elements of those rows that are computed as one task, about.
const KEPT_TASK: usize = 1 << 15;

/// What of a task is in the caches while it computes.
#[derive(Clone, Copy, Debug)]
struct Room {
    /// Pairs of positions that a chunk aims at.
    pairs: usize,
    /// Elements of sums that stay in the second cache beside the operands.
    sums: usize,
}

impl Room {
    /// With vectors of AVX-512 a panel of x is read from the second cache, else it stays in the first; and processors
    /// without them have a smaller second cache.
    fn new(level: Level) -> Room {
        if level.is_avx512() {
            Room { pairs: 256, sums: 1 << 17 }
        } else {
            Room { pairs: 128, sums: 1 << 16 }
        }
    }
}

/// The most taps whose pairs are listed at a time.
const TAPS: usize = 9;

/// Weights that are added up as one task.
const COLLECTED: usize = 1 << 12;

/// How a weight gradient is cut, whose computed rows of x are kept as T.
struct Blocks<T> {
    /// Couples of neighbouring images of all parts.
    couples: usize,
    /// Pieces of the batch.
    pieces: usize,
    /// Blocks of output and of input channels.
    counts: [usize; 2],
    /// Channels of a block.
    sizes: [usize; 2],
    taps: usize,
    extent: Extent,
    /// Rows of a panel of x.
    width: usize,
    /// Columns of a panel of dy, where it is panels.
    columns: Option<usize>,
    /// How computed rows of x are kept for all tasks; `None` where each task computes what it reads.
    kept: Option<Kept>,
    element: PhantomData<T>,
}

/// Couples of neighbouring images of a part.
fn couples<T: Packed>(images: usize) -> usize {
    images.div_ceil(T::TOGETHER)
}

impl<T: Packed> Blocks<T> {
    fn new(level: Level, g: &Geometry, images: impl Iterator<Item = usize>) -> Blocks<T> {
        let couples = images.map(couples::<T>).sum::<usize>();
        let channels = [g.outputs, g.inputs];
        let width = width(level);
        let room = Room::new(level);
        let cut = |axis: usize, count: usize| {
            let size = channels[axis].div_ceil(count).next_multiple_of(width).min(channels[axis].max(1));
            (channels[axis].div_ceil(size).max(1), size)
        };
        let mut best = (0, f64::INFINITY, (1, [1, 1], channels));
        for pieces in (0..5).map(|i| 1 << i).filter(|&n| n == 1 || n <= couples) {
            for (i, j) in (0..5).flat_map(|i| (0..5).map(move |j| (i, j))) {
                let (outer, inner) = (cut(0, 1 << i), cut(1, 1 << j));
                let (counts, sizes) = ([outer.0, inner.0], [outer.1, inner.1]);
                let tasks = (pieces * counts[0] * counts[1]).min(TASKS);
                let cost = cost(g, couples, pieces, counts, sizes, room);
                if tasks > best.0 || tasks == best.0 && cost < best.1 {
                    best = (tasks, cost, (pieces, counts, sizes));
                }
            }
        }
        let (pieces, counts, sizes) = best.2;
        // Where one task reads the rows, they are in its cache as it computes them.
        let many = counts[0] * counts[1] > 1;
        let kept = if many { Kept::new::<T>(g, couples, pieces, KEPT) } else { None };
        Blocks {
            couples,
            pieces,
            counts,
            sizes,
            taps: g.taps(),
            extent: Extent::new(g, T::TOGETHER, room.pairs, width),
            width,
            columns: columns(level),
            kept,
            element: PhantomData,
        }
    }

    /// Channels of block `i` along axis 0 (outputs) or 1 (inputs).
    fn channels(&self, axis: usize, all: usize, i: usize) -> Range<usize> {
        let first = i * self.sizes[axis];
        first..all.min(first + self.sizes[axis])
    }

    /// Elements of the sums of one tap and output channel, in whole vectors.
    fn row(&self) -> usize {
        self.sizes[1].next_multiple_of(LANES)
    }

    /// Elements of the sums of a task.
    fn sums(&self) -> usize {
        self.taps * self.sizes[0] * self.row()
    }

    /// Elements that the pieces need to themselves.
    fn partials(&self, g: &Geometry) -> usize {
        if self.pieces == 1 { 0 } else { self.pieces * weights(g) }
    }

    /// Workspace.
    fn need(&self, g: &Geometry) -> Need {
        let shared = self.partials(g) + self.kept.map_or(0, |kept| floats::<T>(kept.size()));
        Need { scratch: self.scratch(g).iter().sum(), shared, ..Need::default() }
    }

    fn tasks(&self) -> usize {
        self.pieces * self.counts[0] * self.counts[1]
    }

    /// Elements between pairs of packed dy, in panels those of one, else no power of two, so that a column's pairs do not
    /// share few sets of the cache.
    fn pitch(&self) -> usize {
        self.columns.unwrap_or(self.sizes[0].next_multiple_of(LANES) + LANES)
    }

    /// Elements between panels of dy; of a panel of x where there are none.
    fn across(&self) -> usize {
        match self.columns {
            Some(columns) => (self.extent.pairs() * columns).next_multiple_of(LANES) + LANES,
            None => self.width,
        }
    }

    /// f32 of packed dy.
    fn dy(&self) -> usize {
        match self.columns {
            Some(columns) => self.sizes[0].div_ceil(columns) * self.across(),
            None => self.extent.pairs() * self.pitch(),
        }
    }

    /// f32 of the list of a tap's pairs.
    fn listed(&self) -> usize {
        (if self.columns.is_some() { 4 } else { 2 }) * self.extent.pairs()
    }

    /// Elements between panels of x, which are no power of two apart.
    fn panel(&self) -> usize {
        self.extent.packed() * self.width + LANES
    }

    /// f32 that a worker needs: sums, packed dy, packed x, the places of pairs, rows as they are computed, a window of x as
    /// bf16.
    fn scratch(&self, g: &Geometry) -> [usize; 6] {
        let extent = &self.extent;
        let window = if self.kept.is_none() { floats::<T>(extent.window()) } else { 0 };
        [
            self.sums(),
            self.dy(),
            self.sizes[1].div_ceil(self.width) * self.panel(),
            self.taps.min(TAPS) * self.listed(),
            line(g.inputs).max(line(g.outputs)),
            window,
        ]
    }
}

/// f32 that take as much memory as so many elements.
fn floats<T>(elements: usize) -> usize {
    (elements * size_of::<T>()).div_ceil(4)
}

fn weights(g: &Geometry) -> usize {
    g.outputs * g.inputs * g.taps()
}

/// About how many cycles go to all but products: packing, sums that are read and written again, and their order.
fn cost(
    g: &Geometry,
    couples: usize,
    pieces: usize,
    counts: [usize; 2],
    sizes: [usize; 2],
    room: Room,
) -> f64 {
    let taps = g.taps();
    let positions = |axis: usize| if g.kernel[axis] == 1 { g.output[axis] } else { g.input[axis] };
    let packed = (positions(0) * positions(1) * g.inputs * counts[0]
        + g.output[0] * g.output[1] * g.outputs * counts[1]) as f64;
    let pairs = (couples * g.output[0] * g.output[1]) as f64;
    let again = if taps * sizes[0] * sizes[1] > room.sums { 0.6 } else { 0.2 };
    let order = match (taps, pieces) {
        (1, 1) => 0.3,
        (1, _) => 0.6,
        (_, 1) => 1.5,
        _ => 1.8,
    };
    let all = weights(g) as f64;
    0.3 * couples as f64 * packed + all * (again * pairs / room.pairs as f64 + order * pieces as f64)
}

/// Rows of x that are computed once and kept while all tasks read them. That is done in rounds, so that they take
/// little memory: in a round, tasks sum over the same share of the couples of each piece.
#[derive(Clone, Copy)]
struct Kept {
    /// Couples of all parts.
    couples: usize,
    /// Images of a couple.
    together: usize,
    pieces: usize,
    rounds: usize,
    /// The most couples of a piece in a round.
    share: usize,
    /// Elements of one image.
    image: usize,
}

impl Kept {
    /// For room for so many elements; `None` where one couple of each piece is more.
    fn new<T: Packed>(g: &Geometry, couples: usize, pieces: usize, room: usize) -> Option<Kept> {
        let image = g.input[0] * g.input[1] * g.inputs;
        let together = T::TOGETHER;
        let most = room / (together * pieces * image).max(1);
        if most == 0 || couples == 0 {
            return None;
        }
        let rounds = couples.div_ceil(pieces * most);
        Some(Kept { couples, together, pieces, rounds, share: couples.div_ceil(pieces * rounds), image })
    }

    /// Elements of a round.
    fn size(&self) -> usize {
        self.pieces * self.share * self.together * self.image
    }

    /// The couples of a piece in a round, counted over all parts.
    fn range(&self, piece: usize, round: usize) -> Range<usize> {
        let [from, to] =
            [0, 1].map(|i| self.couples * (piece * self.rounds + round + i) / (self.pieces * self.rounds));
        from..to
    }

    /// Computes the rows of a round, of the parts that do not lie in memory.
    fn fill<T: Packed>(
        &self,
        machine: &Machine<'_>,
        g: &Geometry,
        parts: &[GradPart<'_>],
        round: usize,
        out: &mut [T],
    ) {
        let some = (KEPT_TASK / self.image.max(1)).max(1);
        machine.pool.split(out, some * self.image, |task, out, worker| {
            machine.with_scratch(worker, |line| {
                for (i, out) in out.chunks_exact_mut(self.image).enumerate() {
                    let image = task * some + i;
                    let together = self.together;
                    let (piece, image) = (image / (together * self.share), image % (together * self.share));
                    let range = self.range(piece, round);
                    let (mut couple, mut part) = (range.start + image / together, 0);
                    if couple >= range.end {
                        continue;
                    }
                    while couple >= couples::<T>(parts[part].images) {
                        couple -= couples::<T>(parts[part].images);
                        part += 1;
                    }
                    let (x, image) = (parts[part].x, together * couple + image % together);
                    if is_computed(x) && image < parts[part].images {
                        let lines = image * g.input[0]..(image + 1) * g.input[0];
                        Load { machine, worker, g }.lines(x, lines, line, out);
                    }
                }
            });
        });
    }

    /// The kept rows of a piece that belong to the part behind so many couples.
    fn rows<'a, T: Packed>(
        &self,
        g: &Geometry,
        piece: usize,
        round: usize,
        before: usize,
        kept: &'a [T],
    ) -> Source<'a> {
        let range = self.range(piece, round);
        let first = range.start.max(before);
        let rows = &kept[self.image * self.together * (piece * self.share + first - range.start)..];
        let image = g.input[0] * g.input[1];
        Source { rows: T::stored(rows), image, base: self.together * (first - before) * image }
    }
}

/// Whether rows do not lie in memory.
fn is_computed(rows: &dyn Rows) -> bool {
    rows.direct().is_none() && rows.direct_bf16().is_none()
}

/// Whether these kernels compute it in f32: of a few input channels, most of a vector would be empty.
pub fn fits(level: Level, g: &Geometry) -> bool {
    g.conv.groups == 1 && g.inputs >= LANES && packs(level)
}

/// Whether a level has the vectors.
fn packs(level: Level) -> bool {
    match level {
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => true,
        level => level.is_avx512(),
    }
}

/// Workspace of [`run`] for parts of so many images, whatever the level.
pub fn need<T: Packed>(g: &Geometry, images: &[usize]) -> Need {
    let mut need = Need::default();
    for &level in Level::ALL.iter().filter(|&&level| packs(level)) {
        need.include(Blocks::<T>::new(level, g, images.iter().copied()).need(g));
    }
    need
}

/// dw = the sum over all parts, of which some have images; products are of f32, or of pairs of bf16 where T is `u16`.
pub fn run<T: Packed>(machine: &mut Machine<'_>, g: &Geometry, parts: &[GradPart<'_>], dw: &mut [f32]) {
    let blocks = Blocks::<T>::new(machine.level, g, parts.iter().map(|p| p.images));
    run_blocks(machine, g, parts, dw, &blocks);
}

/// The same, cut so.
fn run_blocks<T: Packed>(
    machine: &mut Machine<'_>,
    g: &Geometry,
    parts: &[GradPart<'_>],
    dw: &mut [f32],
    blocks: &Blocks<T>,
) {
    if dw.is_empty() {
        return;
    }
    let sizes = blocks.scratch(g);
    let kept = blocks.kept.filter(|_| parts.iter().any(|p| is_computed(p.x)));
    let own = blocks.partials(g);
    let (machine, shared) = machine.with_shared(own + kept.map_or(0, |kept| floats::<T>(kept.size())));
    let (partials, rows) = shared.split_at_mut(own);
    for round in 0..kept.map_or(1, |kept| kept.rounds) {
        if let Some(kept) = kept {
            kept.fill(&machine, g, parts, round, &mut T::of(rows)[..kept.size()]);
        }
        let out = Cells::new(if own == 0 { &mut *dw } else { &mut *partials });
        let launch =
            Launch { machine: &machine, g, blocks, parts, sizes, kept, rows: T::of(rows), round, out };
        machine.pool.run(blocks.tasks(), &|task, worker| launch.task(task, worker));
    }
    if own > 0 {
        collect(&machine, partials, dw);
    }
}

/// What the tasks of a round share.
struct Launch<'a, T> {
    machine: &'a Machine<'a>,
    g: &'a Geometry,
    blocks: &'a Blocks<T>,
    parts: &'a [GradPart<'a>],
    sizes: [usize; 6],
    kept: Option<Kept>,
    /// Kept rows of x.
    rows: &'a [T],
    round: usize,
    /// The weights' gradient of each piece.
    out: Cells<'a, f32>,
}

impl<T: Packed> Launch<'_, T> {
    fn task(&self, task: usize, worker: usize) {
        let Launch { machine, g, blocks, parts, sizes, round, .. } = *self;
        let inputs = blocks.counts[1];
        let piece = task / (blocks.counts[0] * inputs);
        let outer = blocks.channels(0, g.outputs, task / inputs % blocks.counts[0]);
        let inner = blocks.channels(1, g.inputs, task % inputs);
        let [from, to] = [piece, piece + 1].map(|p| blocks.couples * p / blocks.pieces);
        let (range, before) = match self.kept {
            Some(kept) => (kept.range(piece, round), kept.range(piece, 0).start),
            None => (from..to, from),
        };
        if range.is_empty() {
            return;
        }
        machine.with_scratch(worker, |scratch| {
            let (sums, scratch) = scratch.split_at_mut(sizes[0]);
            let (dy, scratch) = scratch.split_at_mut(sizes[1]);
            let (x, scratch) = scratch.split_at_mut(sizes[2]);
            let (listed, scratch) = scratch.split_at_mut(sizes[3]);
            let (line, scratch) = scratch.split_at_mut(sizes[4]);
            let window = &mut scratch[..sizes[5]];
            let (pitch, across, panel) = (blocks.pitch(), blocks.across(), blocks.panel());
            let width = blocks.width;
            let load = Load { machine, worker, g };
            let (mut passed, mut add) = (0, false);
            for part in parts {
                let all = couples::<T>(part.images);
                let inside = |couple: usize| couple.clamp(passed, passed + all) - passed;
                blocks.extent.each_chunk(part.images, inside(range.start)..inside(range.end), |chunk| {
                    chunk.pack_dy(&load, part.dy, outer.clone(), line, [pitch, across], dy);
                    let image = g.input[0] * g.input[1];
                    let source = match (part.x.direct_bf16(), part.x.direct(), self.kept) {
                        (Some(rows), ..) => Source { rows: Stored::Bf16(rows), image, base: 0 },
                        (_, Some(rows), _) => Source { rows: Stored::F32(rows), image, base: 0 },
                        (.., Some(kept)) => kept.rows(g, piece, round, passed, self.rows),
                        _ => chunk.window(&load, part.x, line, T::of(window)),
                    };
                    chunk.pack_x(machine.level, &source, inner.clone(), x, panel);
                    let mut counts = [0; TAPS];
                    for first in (0..blocks.taps).step_by(TAPS) {
                        let taps = first..blocks.taps.min(first + TAPS);
                        let lists = listed.chunks_exact_mut(blocks.listed());
                        for ((tap, count), listed) in taps.clone().zip(&mut counts).zip(lists) {
                            *count = match blocks.columns {
                                Some(_) => chunk.spans(tap, pitch, spans(listed)),
                                None => chunk.list(tap, pitch, places(listed)),
                            };
                        }
                        for (i, panel) in x.chunks(panel).take(inner.len().div_ceil(width)).enumerate() {
                            let rows = width.min(inner.len() - i * width);
                            let lists = listed.chunks_exact_mut(blocks.listed());
                            for ((tap, &count), listed) in taps.clone().zip(&counts).zip(lists) {
                                let (columns, pairs) = (outer.len(), T::TOGETHER == 2);
                                let (places, spans): (&[[u32; 2]], &[Span]) = match blocks.columns {
                                    Some(_) => (&[], &spans(listed)[..count]),
                                    None => (&places(listed)[..count], &[]),
                                };
                                let product =
                                    Product { places, spans, panel, rows, data: dy, across, columns, pairs };
                                let out = &mut sums[tap * blocks.sizes[0] * blocks.row() + i * width..];
                                product.run(machine.level, out, blocks.row(), add);
                            }
                        }
                    }
                    add = true;
                });
                passed += all;
            }
            let add = range.start > before;
            machine.level.run(|| {
                for (i, o) in outer.clone().enumerate() {
                    let first = (piece * g.outputs + o) * g.inputs + inner.start;
                    // SAFETY: each task has channels of one piece to itself.
                    let out = unsafe { self.out.range(first * blocks.taps, inner.len() * blocks.taps) };
                    let step = blocks.sizes[0] * blocks.row();
                    order(machine.level, &sums[i * blocks.row()..], step, blocks.taps, out, add);
                }
            });
        });
    }
}

/// Brings the sums of one output channel, tap after tap and `step` apart, into the order of the weights.
#[inline(always)]
fn order(level: Level, sums: &[f32], step: usize, taps: usize, out: &mut [f32], add: bool) {
    if taps == 1 {
        let sums = &sums[..out.len()];
        if add {
            out.iter_mut().zip(sums).for_each(|(out, sum)| *out += sum);
        } else {
            out.copy_from_slice(sums);
        }
        return;
    }
    Ordered { sums, step, taps, add }.run(level, out);
}

/// Adds the gradients of the pieces up, in order.
fn collect(machine: &Machine<'_>, partials: &[f32], dw: &mut [f32]) {
    let size = dw.len();
    machine.pool.split(dw, COLLECTED, |task, dw, _| {
        machine.level.run(|| {
            for (piece, all) in partials.chunks_exact(size).enumerate() {
                let from = &all[task * COLLECTED..][..dw.len()];
                if piece == 0 {
                    dw.copy_from_slice(from);
                } else {
                    dw.iter_mut().zip(from).for_each(|(to, from)| *to += from);
                }
            }
        });
    });
}

#[cfg(test)]
mod tests {
    use super::{Blocks, Kept, Packed, packs, run_blocks};
    use crate::ahead::Ahead;
    use crate::convolution::{Geometry, Rows};
    use crate::convolution_weight::GradPart;
    use crate::device::Machine;
    use crate::simd::Level;
    use ddnnc_ir::Conv;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// Rows that are computed, as bf16 or as f32, or lie in memory.
    struct Drawn {
        channels: usize,
        all: Vec<u16>,
        computed: bool,
        halves: bool,
        loaded: AtomicUsize,
    }

    impl Rows for Drawn {
        fn channels(&self) -> usize {
            self.channels
        }

        fn direct(&self) -> Option<&[f32]> {
            None
        }

        fn direct_bf16(&self) -> Option<&[u16]> {
            (!self.computed).then_some(&self.all)
        }

        fn load(&self, _: &Machine<'_>, first: usize, count: usize, _: usize, out: &mut [f32]) {
            assert_eq!(out.len(), count * self.channels);
            self.loaded.fetch_add(count, Ordering::Relaxed);
            let from = &self.all[first * self.channels..];
            out.iter_mut().zip(from).for_each(|(o, &x)| *o = f32::from_bits(u32::from(x) << 16));
        }

        fn load_bf16(&self, _: &Machine<'_>, first: usize, count: usize, _: usize, out: &mut [u16]) -> bool {
            if self.halves {
                assert_eq!(out.len(), count * self.channels);
                self.loaded.fetch_add(count, Ordering::Relaxed);
                out.copy_from_slice(&self.all[first * self.channels..][..out.len()]);
            }
            self.halves
        }

        fn list(&self, first: usize, count: usize, _: &mut Ahead) {
            assert!((first + count) * self.channels <= self.all.len(), "rows that are not there");
        }
    }

    /// Small whole numbers, so that sums are exact in every order.
    fn rows(channels: usize, count: usize, computed: bool, halves: bool) -> Drawn {
        let number = |i: usize| ((i * 7919 + i / 13) % 7) as f32 - 3.0;
        let all = (0..count * channels).map(|i| (number(i).to_bits() >> 16) as u16).collect();
        Drawn { channels, all, computed, halves, loaded: AtomicUsize::new(0) }
    }

    #[test]
    fn computed_rows_are_kept_in_rounds() {
        for level in Level::available().filter(|&level| packs(level)) {
            keep_in_rounds::<f32>(level);
        }
        if let Some(level) = Level::available().find(|l| l.multiplies_bf16()) {
            keep_in_rounds::<u16>(level);
        }
    }

    fn keep_in_rounds<T: Packed>(level: Level) {
        // Kernel, stride, padding; channels of x and y.
        for (kernel, stride, pad, inputs, outputs) in
            [(3, 1, 1, 129, 128), (3, 2, 1, 64, 160), (1, 1, 0, 128, 192), (1, 2, 0, 65, 256)]
        {
            let conv = Conv { stride: [stride; 2], pad: [pad; 2], dilation: [1; 2], groups: 1 };
            let (input, kernel) = ([5, 7], [kernel; 2]);
            let output = conv.output(input, kernel).expect("the kernel fits");
            let g = Geometry { conv, input, output, kernel, inputs, outputs };
            let images = [3, 0, 4];
            let map = |[h, w]: [usize; 2]| h * w;
            let dys: Vec<Drawn> =
                images.iter().map(|n| rows(outputs, n * map(output), false, false)).collect();
            let mut first: Option<Vec<f32>> = None;
            // In memory; kept, in few and in many rounds; computed by each task.
            for (computed, room) in [
                (false, 0),
                (true, usize::MAX),
                (true, 4 * T::TOGETHER * map(input) * inputs),
                (true, 1),
                (true, 0),
            ] {
                for halves in [false, true] {
                    let xs: Vec<Drawn> = (images.iter().enumerate())
                        .map(|(i, n)| rows(inputs, n * map(input), computed && i != 1, halves))
                        .collect();
                    let parts: Vec<GradPart<'_>> = (images.iter().zip(&xs).zip(&dys))
                        .map(|((&images, x), dy)| GradPart { images, x, dy })
                        .collect();
                    let mut blocks = Blocks::<T>::new(level, &g, images.iter().copied());
                    assert!(blocks.tasks() > blocks.pieces, "tasks share rows");
                    let least = T::TOGETHER * blocks.pieces * map(input) * inputs;
                    let room = if room == 1 { least } else { room };
                    blocks.kept = Kept::new::<T>(&g, blocks.couples, blocks.pieces, room);
                    assert_eq!(blocks.kept.is_none(), room == 0);
                    let mut dw = vec![f32::NAN; outputs * inputs * g.taps()];
                    Machine::testing(level, 2, blocks.need(&g), |machine| {
                        run_blocks(machine, &g, &parts, &mut dw, &blocks);
                    });
                    if room > 0 {
                        for (x, n) in xs.iter().zip(images) {
                            let loaded = x.loaded.load(Ordering::Relaxed);
                            assert!(loaded <= n * map(input), "rows are computed once");
                        }
                    }
                    let first = first.get_or_insert_with(|| dw.clone());
                    assert!(*first == dw, "{g:?} room {room} halves {halves}");
                }
            }
        }
    }
}
