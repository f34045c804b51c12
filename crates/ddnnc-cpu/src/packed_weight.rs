//! The weight gradient of a convolution without groups from packed operands, in f32 or with products of pairs of bf16.
//!
//! What is multiplied is an f32, or a pair of bf16: one position of two neighbouring images (`packed_weight_chunk.rs`).
//! `packed_weight_cut.rs` says what a task is. For each chunk of positions it packs dy once, and the rows of x into panels
//! once, which all taps read. Input channels are the rows of the products. A task's sums stay in its cache until it brings
//! them into the order of the weights.

use crate::ahead::Ahead;
use crate::convolution::Geometry;
use crate::convolution_weight::GradPart;
use crate::device::Machine;
use crate::launch::Need;
use crate::memory::{places, spans};
use crate::packed_weight_chunk::{Chunk, Extent, Load, Packed, Source, Stored, line};
use crate::packed_weight_cut::{Cut, Room, Round, floats};
use crate::packed_weight_rows::{NARROW, Row, TAPS as ROW};
use crate::packed_weight_tile::{Ordered, Product, Span, columns, width};
use crate::simd::Level;
use std::marker::PhantomData;

/// f32 of a vector.
const LANES: usize = 16;

/// The most taps whose pairs are listed at a time.
const TAPS: usize = 9;

/// With vectors of AVX-512 a panel of x is read from the second cache, else it stays in the first; and processors without
/// them have a smaller second cache.
fn room(level: Level) -> Room {
    if level.is_avx512() { Room { pairs: 256, sums: 1 << 17 } } else { Room { pairs: 128, sums: 1 << 16 } }
}

/// How a weight gradient is cut, whose computed rows of x are kept as T.
struct Blocks<T> {
    cut: Cut,
    taps: usize,
    extent: Extent,
    /// Rows of a panel of x.
    width: usize,
    /// Columns of a panel of dy, where it is panels.
    columns: Option<usize>,
    /// Whether rows of taps are summed at once.
    rows: bool,
    element: PhantomData<T>,
}

impl<T: Packed> Blocks<T> {
    fn new(level: Level, g: &Geometry, images: impl Iterator<Item = usize>) -> Blocks<T> {
        let rows = sums_rows::<T>(level, g);
        let (width, room) = (if rows { NARROW } else { width(level) }, room(level));
        Blocks {
            cut: Cut::new::<T>(g, images, width, room),
            taps: g.taps(),
            extent: Extent::new(g, T::TOGETHER, room.pairs, width),
            width,
            columns: columns(level),
            rows,
            element: PhantomData,
        }
    }

    /// Elements of the sums of one tap and output channel, in whole vectors.
    fn row(&self) -> usize {
        self.cut.sizes[1].next_multiple_of(LANES)
    }

    /// Elements of the sums of a task.
    fn sums(&self) -> usize {
        self.taps * self.cut.sizes[0] * self.row()
    }

    /// Workspace.
    fn need(&self, g: &Geometry) -> Need {
        Need { scratch: self.scratch(g).iter().sum(), shared: self.cut.shared::<T>(g), ..Need::default() }
    }

    /// Elements between pairs of packed dy, in panels those of one, else no power of two, so that a column's pairs do not
    /// share few sets of the cache; an odd number of lines where all of it is to stay in the first cache.
    fn pitch(&self) -> usize {
        let lines = self.cut.sizes[0].div_ceil(LANES);
        self.columns.unwrap_or(if self.rows { lines | 1 } else { lines + 1 } * LANES)
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
            Some(columns) => self.cut.sizes[0].div_ceil(columns) * self.across(),
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
        let window = if self.cut.kept.is_none() { floats::<T>(extent.window()) } else { 0 };
        [
            self.sums(),
            self.dy(),
            self.cut.sizes[1].div_ceil(self.width) * self.panel(),
            self.taps.min(TAPS) * self.listed(),
            line(g.inputs).max(line(g.outputs)),
            window,
        ]
    }
}

/// Whether these kernels compute it in f32: of a few input channels, most of a vector would be empty.
pub fn fits(level: Level, g: &Geometry) -> bool {
    g.conv.groups == 1 && g.inputs >= LANES && packs(level)
}

/// Whether the sums of a row of taps are taken together, where columns of x follow one another: of pairs, and of f32 where one
/// vector has all input channels.
fn sums_rows<T: Packed>(level: Level, g: &Geometry) -> bool {
    let even = (g.conv.stride, g.conv.dilation) == ([1, 1], [1, 1]) && g.kernel[1] == ROW;
    even && (T::TOGETHER == 2 || g.inputs <= NARROW) && level.is_avx512()
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
    let sizes = blocks.scratch(g);
    let task = |round: &Round<'_, T>, i: usize, worker: usize| blocks.task(round, i, worker, sizes);
    blocks.cut.run(machine, g, parts, dw, &task);
}

impl<T: Packed> Blocks<T> {
    fn task(&self, round: &Round<'_, T>, task: usize, worker: usize, sizes: [usize; 6]) {
        let Some(task) = round.task(task) else { return };
        let (machine, g) = (round.machine, round.g);
        let (outer, inner) = (task.outer.clone(), task.inner.clone());
        machine.with_scratch(worker, |scratch| {
            let (sums, scratch) = scratch.split_at_mut(sizes[0]);
            let (dy, scratch) = scratch.split_at_mut(sizes[1]);
            let (x, scratch) = scratch.split_at_mut(sizes[2]);
            let (listed, scratch) = scratch.split_at_mut(sizes[3]);
            let (line, scratch) = scratch.split_at_mut(sizes[4]);
            let window = &mut scratch[..sizes[5]];
            let (pitch, across, panel) = (self.pitch(), self.across(), self.panel());
            let width = self.width;
            let load = Load { machine, worker, g };
            let mut add = false;
            round.each_part(&task, |part, couples, before| {
                let last = couples.end;
                self.extent.each_chunk(part.images, couples, |chunk| {
                    chunk.pack_dy(&load, part.dy, outer.clone(), line, [pitch, across], dy);
                    let image = g.input[0] * g.input[1];
                    let source = match (part.x.direct_bf16(), part.x.direct(), round.kept(&task, before)) {
                        (Some(rows), ..) => Source { rows: Stored::Bf16(rows), image, base: 0 },
                        (_, Some(rows), _) => Source { rows: Stored::F32(rows), image, base: 0 },
                        (.., Some(kept)) => kept,
                        _ => chunk.window(&load, part.x, line, T::of(window)),
                    };
                    chunk.pack_x(machine.level, &source, inner.clone(), x, panel);
                    let mut ahead = Ahead::default();
                    // Else other tasks ask for the same rows, or have them.
                    if self.cut.counts == [1, 1] {
                        chunk.list_next(part.x, part.dy, part.images, last, &mut ahead);
                    }
                    if self.rows {
                        let channels = [outer.len(), inner.len()];
                        self.sum_rows(g, &chunk, (x, dy), places(listed), channels, sums, (add, &ahead));
                        add = true;
                        return;
                    }
                    let panels = inner.len().div_ceil(width);
                    let ahead = (&ahead, ahead.share(self.taps * panels * Product::tiles(outer.len())));
                    let mut counts = [0; TAPS];
                    for first in (0..self.taps).step_by(TAPS) {
                        let taps = first..self.taps.min(first + TAPS);
                        let lists = listed.chunks_exact_mut(self.listed());
                        for ((tap, count), listed) in taps.clone().zip(&mut counts).zip(lists) {
                            *count = match self.columns {
                                Some(_) => chunk.spans(tap, pitch, spans(listed)),
                                None => chunk.list(tap, pitch, places(listed)),
                            };
                        }
                        for (i, panel) in x.chunks(panel).take(panels).enumerate() {
                            let rows = width.min(inner.len() - i * width);
                            let lists = listed.chunks_exact_mut(self.listed());
                            for ((tap, &count), listed) in taps.clone().zip(&counts).zip(lists) {
                                let (columns, pairs) = (outer.len(), T::TOGETHER == 2);
                                let (places, spans): (&[[u32; 2]], &[Span]) = match self.columns {
                                    Some(_) => (&[], &spans(listed)[..count]),
                                    None => (&places(listed)[..count], &[]),
                                };
                                let product = Product {
                                    places,
                                    spans,
                                    panel,
                                    rows,
                                    data: dy,
                                    across,
                                    columns,
                                    pairs,
                                    ahead,
                                };
                                let out = &mut sums[tap * self.cut.sizes[0] * self.row() + i * width..];
                                product.run(machine.level, out, self.row(), add);
                            }
                        }
                    }
                    add = true;
                });
            });
            machine.level.run(|| {
                for (i, o) in outer.clone().enumerate() {
                    // SAFETY: each task has channels of one piece to itself.
                    let out = unsafe { round.out(&task, o) };
                    let step = self.cut.sizes[0] * self.row();
                    order(machine.level, &sums[i * self.row()..], step, self.taps, out, task.add);
                }
            });
        });
    }
}

impl<T: Packed> Blocks<T> {
    /// The sums of a chunk, a row of taps at a time.
    #[expect(clippy::too_many_arguments, reason = "the operands of a product")]
    fn sum_rows(
        &self,
        g: &Geometry,
        chunk: &Chunk<'_>,
        (x, data): (&[f32], &[f32]),
        listed: &mut [[u32; 2]],
        [columns, channels]: [usize; 2],
        sums: &mut [f32],
        (add, ahead): (bool, &Ahead),
    ) {
        let (panel_step, data_step) = (self.width, self.pitch());
        let tap = self.cut.sizes[0] * self.row();
        let panels = channels.div_ceil(NARROW);
        let ahead = (ahead, ahead.share(g.kernel[0] * panels * Row::tiles(columns)));
        for row in 0..g.kernel[0] {
            let count = chunk.whole_lines(row, data_step, listed);
            for (i, panel) in x.chunks(self.panel()).take(panels).enumerate() {
                let product = Row {
                    lines: &listed[..count],
                    positions: [g.input[1], g.output[1]],
                    pad: g.conv.pad[1],
                    panel,
                    panel_step,
                    data,
                    data_step,
                    columns,
                    pairs: T::TOGETHER == 2,
                    ahead,
                };
                let out = &mut sums[row * ROW * tap + i * NARROW..];
                product.run(out, [tap, self.row()], add);
            }
        }
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

#[cfg(test)]
pub mod tests {
    use super::{Blocks, packs, run_blocks};
    use crate::ahead::Ahead;
    use crate::convolution::{Geometry, Rows};
    use crate::convolution_weight::GradPart;
    use crate::device::Machine;
    use crate::packed_weight_chunk::Packed;
    use crate::packed_weight_cut::Kept;
    use crate::simd::Level;
    use ddnnc_ir::Conv;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// Rows that are computed, as bf16 or as f32, or lie in memory.
    pub struct Drawn {
        pub channels: usize,
        pub all: Vec<u16>,
        pub computed: bool,
        pub halves: bool,
        pub loaded: AtomicUsize,
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
    pub fn rows(channels: usize, count: usize, computed: bool, halves: bool) -> Drawn {
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
                    assert!(blocks.cut.tasks() > blocks.cut.pieces, "tasks share rows");
                    let least = T::TOGETHER * blocks.cut.pieces * map(input) * inputs;
                    let room = if room == 1 { least } else { room };
                    blocks.cut.kept = Kept::new::<T>(&g, blocks.cut.couples, blocks.cut.pieces, room);
                    assert_eq!(blocks.cut.kept.is_none(), room == 0);
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
