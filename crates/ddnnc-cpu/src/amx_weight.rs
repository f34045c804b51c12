//! The weight gradient of a convolution without groups by products of tiles of bf16.
//!
//! `packed_weight_cut.rs` says what a task is, `amx_weight_places.rs` what it multiplies. For each chunk of lines of y a task
//! packs dy into tiles, which turns it, and the rows of x into planes, both once for all taps. A tile of sums has sixteen
//! channels of y and sixteen of x. A task's sums stay in its cache, tile after tile, until it brings them into the order of
//! the weights.
//!
//! Rows that do not lie in memory as bf16 are computed as that: those of x as the cut says, those of dy for each chunk.

use crate::amx::{LANES, Registers};
use crate::amx_weight_places::{Line, PAIRS, Part, Places, TILE};
use crate::amx_weight_tile::{Block, Couple, NONE, Products, Step, WIDE};
use crate::convolution::{Geometry, Rows};
use crate::convolution_weight::GradPart;
use crate::device::Machine;
use crate::launch::Need;
use crate::memory::{halves, places};
use crate::packed_weight_chunk::{Chunk, Extent, Load, Packed, Source, Stored, line};
use crate::packed_weight_cut::{Cut, Room, Round, Task, floats};
use crate::packed_weight_tile::Ordered;
use std::ops::Range;

/// Channels of a block are whole pairs of tiles.
const WIDTH: usize = 2 * WIDE;

/// f32 that are skipped between panels of x where they would be a multiple of a page apart.
const APART: usize = 64;

/// What of a task is in the caches.
const ROOM: Room = Room { pairs: PAIRS, sums: 1 << 17 };

/// How a weight gradient is cut.
struct Blocks {
    cut: Cut,
    places: Places,
    extent: Extent,
    kernel: [usize; 2],
}

/// Scratch memory of a task.
struct Scratch<'a> {
    sums: &'a mut [f32],
    dy: &'a mut [f32],
    x: &'a mut [f32],
    /// Steps of the rows of a kernel.
    listed: &'a mut [[u32; 2]],
    zeros: &'a mut [u16],
    /// Rows as they are computed, before they are rounded.
    line: &'a mut [f32],
    /// Rows of x and of dy of a chunk.
    windows: [&'a mut [u16]; 2],
}

impl Blocks {
    fn new(g: &Geometry, images: impl Iterator<Item = usize>) -> Blocks {
        let cut = Cut::new::<u16>(g, images, WIDTH, ROOM);
        let places = Places::new(g, cut.couples.div_ceil(cut.pieces), cut.sizes[0]);
        Blocks::with(g, cut, places)
    }

    fn with(g: &Geometry, cut: Cut, places: Places) -> Blocks {
        let extent = Extent::of(g, u16::TOGETHER, places.couples, places.lines);
        Blocks { cut, places, extent, kernel: g.kernel }
    }

    /// Tiles of a block along axis 0 (outputs) or 1 (inputs).
    fn tiles(&self, axis: usize) -> usize {
        self.cut.sizes[axis].div_ceil(WIDE)
    }

    /// f32 of a panel of x of sixteen channels.
    fn panel(&self) -> usize {
        let size = self.places.most_size() * LANES;
        if size.is_multiple_of(1024) { size + APART } else { size }
    }

    /// f32 that a worker needs, as [`Scratch`] has them.
    fn scratch(&self, g: &Geometry) -> [usize; 8] {
        let taps = self.kernel[0] * self.kernel[1];
        let pairs = self.places.lines * self.places.couples * g.output[1];
        let needed = [
            taps * self.tiles(0) * self.tiles(1) * TILE,
            self.tiles(0) * self.places.most_steps() * TILE,
            self.tiles(1) * self.panel(),
            2 * self.kernel[0] * (self.places.most_steps() + 1),
            self.cut.sizes[0].div_ceil(2),
            line(g.inputs).max(line(g.outputs)),
            floats::<u16>(self.extent.window()),
            floats::<u16>(2 * pairs * g.outputs),
        ];
        needed.map(|n| n.next_multiple_of(LANES))
    }

    fn need(&self, g: &Geometry) -> Need {
        let scratch = self.scratch(g).iter().sum();
        Need { scratch, shared: self.cut.shared::<u16>(g), ..Need::default() }
    }

    fn task(&self, round: &Round<'_, u16>, task: usize, worker: usize) {
        let Some(task) = round.task(task) else { return };
        let (machine, g) = (round.machine, round.g);
        let sizes = self.scratch(g);
        machine.with_scratch(worker, |scratch| {
            let mut scratch = Scratch::new(scratch, sizes);
            scratch.zeros.fill(0);
            let load = Load { machine, worker, g };
            let mut add = false;
            round.each_part(&task, |part, couples, before| {
                self.extent.each_chunk(part.images, couples, |chunk| {
                    let x = match (part.x.direct_bf16(), part.x.direct(), round.kept(&task, before)) {
                        (Some(rows), ..) => whole(rows, g.input),
                        (None, None, Some(kept)) => kept,
                        _ => chunk.window(&load, part.x, scratch.line, &mut *scratch.windows[0]),
                    };
                    let couples = (chunk.images - chunk.first).div_ceil(u16::TOGETHER);
                    let of = self.places.part(chunk.lines(), couples);
                    self.pack_x(&chunk, &of, x, task.inner.clone(), g, scratch.x);
                    let dy = match part.dy.direct_bf16() {
                        Some(rows) => whole(rows, g.output),
                        None => {
                            let window = &mut *scratch.windows[1];
                            chunk_rows(&load, part.dy, &chunk, g.output, scratch.line, window)
                        }
                    };
                    self.pack_dy(&chunk, &of, dy, task.outer.clone(), g, scratch.zeros, scratch.dy);
                    self.multiply(&of, &task, scratch.sums, scratch.x, scratch.dy, scratch.listed, add);
                    add = true;
                });
            });
            self.order(round, &task, scratch.sums);
        });
    }

    /// Packs channels of the rows of x into planes.
    fn pack_x(
        &self,
        chunk: &Chunk<'_>,
        of: &Part,
        x: Source<'_>,
        channels: Range<usize>,
        g: &Geometry,
        out: &mut [f32],
    ) {
        let Stored::Bf16(rows) = x.rows else { unreachable!("rows are bf16") };
        let (panel, panels) = (self.panel(), channels.len().div_ceil(WIDE));
        let (n, all) = (of.couples, g.inputs);
        let fill = |out: &mut [f32], places: Range<usize>| {
            for i in (0..panels).filter(|_| !places.is_empty()) {
                out[i * panel + places.start * LANES..i * panel + places.end * LANES].fill(0.0);
            }
        };
        let mut done = 0;
        self.places.each_line(of, |places, line| {
            let at = std::mem::replace(&mut done, places.end);
            let Some(Line { row, column, step, count, before }) = line else {
                return fill(out, at..places.end);
            };
            let first = places.start + before * n;
            fill(out, at..first);
            fill(out, first + count * n..places.end);
            for couple in 0..n {
                let image = chunk.first + 2 * couple;
                let from = (image * x.image + row * g.input[1] + column - x.base) * all + channels.start;
                let later = (image + 1 < chunk.images).then_some(from + x.image * all);
                let channels = channels.len();
                let to = &mut out[(first + couple) * LANES..];
                let runs = Couple { rows, first: (from, later), step: step * all, count, channels };
                runs.pack(to, n * LANES, panel);
            }
        });
        fill(out, done..self.places.size(of));
    }

    /// Packs channels of the rows of dy into tiles.
    #[expect(clippy::too_many_arguments, reason = "rows, what of them, and where to")]
    fn pack_dy(
        &self,
        chunk: &Chunk<'_>,
        of: &Part,
        dy: Source<'_>,
        channels: Range<usize>,
        g: &Geometry,
        zeros: &[u16],
        out: &mut [f32],
    ) {
        let Stored::Bf16(rows) = dy.rows else { unreachable!("rows are bf16") };
        let (all, columns) = (g.outputs, g.output[1]);
        let steps = self.places.steps(of);
        let of_line = steps / of.lines.len().max(1);
        let later = dy.image * all;
        for (i, line) in of.lines.clone().enumerate() {
            let first = (chunk.first * dy.image + line * columns - dy.base) * all + channels.start;
            let (mut column, mut couple, mut row) = (0, 0, first);
            for step in i * of_line..(i + 1) * of_line {
                let mut pairs = [[NONE; 2]; LANES];
                for pair in &mut pairs {
                    if column == columns {
                        break;
                    }
                    pair[0] = row;
                    if chunk.first + 2 * couple + 1 < chunk.images {
                        pair[1] = row + later;
                    }
                    (couple, row) = (couple + 1, row + 2 * later);
                    if couple == of.couples {
                        (column, couple) = (column + 1, 0);
                        row = first + column * all;
                    }
                }
                let to = &mut out[step * TILE..];
                let ahead = LANES.div_ceil(of.couples) * all;
                Step { rows, pairs, channels: channels.len(), zeros, ahead }.pack(to, steps * TILE);
            }
        }
    }

    /// Sums over a chunk.
    #[expect(clippy::too_many_arguments, reason = "a product's operands and result")]
    fn multiply(
        &self,
        of: &Part,
        task: &Task,
        sums: &mut [f32],
        x: &[f32],
        dy: &[f32],
        listed: &mut [[u32; 2]],
        add: bool,
    ) {
        // SAFETY: the level has them.
        let registers = unsafe { Registers::new() };
        let [outer, inner] = [task.outer.len(), task.inner.len()].map(|n| n.div_ceil(WIDE));
        let panel = self.panel();
        let across = self.places.steps(of);
        // The first of a row's list says how many follow.
        let list = self.places.most_steps() + 1;
        for (row, list) in listed.chunks_exact_mut(list).take(self.kernel[0]).enumerate() {
            list[0][0] = self.places.list(of, row, &mut list[1..]) as u32;
        }
        for first in (0..inner).step_by(2) {
            let some = first..inner.min(first + 2);
            for o in (0..outer).step_by(2) {
                let count = 2.min(outer - o);
                for (row, list) in listed.chunks_exact(list).take(self.kernel[0]).enumerate() {
                    let steps = &list[1..][..list[0][0] as usize];
                    let products = Products::new(steps, dy, across, x);
                    let (mut columns, mut n) = ([(0, 0); 4], 0);
                    let together = if count == 2 { 2 } else { 4 };
                    let block = Block { outer: o, count, columns: &[], step: self.tiles(1), add };
                    for column in 0..self.kernel[1] {
                        let shift = self.places.shift(of, column) * LANES;
                        for c in some.clone() {
                            let tap = row * self.kernel[1] + column;
                            let to = (tap * self.tiles(0) + o) * self.tiles(1) + c;
                            columns[n] = (c * panel + shift, to);
                            n += 1;
                            if n == together {
                                products.run(&registers, Block { columns: &columns[..n], ..block }, sums);
                                n = 0;
                            }
                        }
                    }
                    if n > 0 {
                        products.run(&registers, Block { columns: &columns[..n], ..block }, sums);
                    }
                }
            }
        }
    }

    /// Brings the sums into the order of the weights.
    fn order(&self, round: &Round<'_, u16>, task: &Task, sums: &[f32]) {
        let taps = self.kernel[0] * self.kernel[1];
        let step = self.tiles(0) * self.tiles(1) * TILE;
        for (i, o) in task.outer.clone().enumerate() {
            // SAFETY: each task has channels of one piece to itself.
            let out = unsafe { round.out(task, o) };
            for (c, out) in out.chunks_mut(WIDE * taps).enumerate() {
                let from = (i / WIDE * self.tiles(1) + c) * TILE + i % WIDE * LANES;
                let sums = &sums[from..];
                if taps > 1 {
                    Ordered { sums, step, taps, add: task.add }.run(round.machine.level, out);
                } else if task.add {
                    out.iter_mut().zip(sums).for_each(|(out, sum)| *out += sum);
                } else {
                    out.copy_from_slice(&sums[..out.len()]);
                }
            }
        }
    }
}

impl<'a> Scratch<'a> {
    fn new(all: &'a mut [f32], sizes: [usize; 8]) -> Scratch<'a> {
        let mut all = all;
        let mut some = [(); 8].map(|()| &mut [][..]);
        for (some, size) in some.iter_mut().zip(sizes) {
            (*some, all) = std::mem::take(&mut all).split_at_mut(size);
        }
        let [sums, dy, x, listed, zeros, line, window, other] = some;
        Scratch {
            sums,
            dy,
            x,
            listed: places(listed),
            zeros: halves(zeros),
            line,
            windows: [halves(window), halves(other)],
        }
    }
}

/// Rows of maps that lie in memory.
fn whole(rows: &[u16], map: [usize; 2]) -> Source<'_> {
    Source { rows: Stored::Bf16(rows), image: map[0] * map[1], base: 0 }
}

/// Computes the rows of dy of a chunk.
fn chunk_rows<'a>(
    load: &Load<'_>,
    dy: &dyn Rows,
    chunk: &Chunk<'_>,
    [height, width]: [usize; 2],
    line: &mut [f32],
    window: &'a mut [u16],
) -> Source<'a> {
    let lines = chunk.lines();
    let count = lines.len() * width;
    let size = count * dy.channels();
    for (image, out) in (chunk.first..chunk.images).zip(window.chunks_exact_mut(size.max(1))) {
        load.rows(dy, (image * height + lines.start) * width, count, line, out);
    }
    Source { rows: Stored::Bf16(window), image: count, base: chunk.first * count + lines.start * width }
}

/// Workspace of [`run`] for parts of so many images.
pub fn need(g: &Geometry, images: &[usize]) -> Need {
    Blocks::new(g, images.iter().copied()).need(g)
}

/// dw = the sum over all parts, of which some have images.
pub fn run(machine: &mut Machine<'_>, g: &Geometry, parts: &[GradPart<'_>], dw: &mut [f32]) {
    run_blocks(machine, g, parts, dw, &Blocks::new(g, parts.iter().map(|p| p.images)));
}

/// The same, cut so.
fn run_blocks(
    machine: &mut Machine<'_>,
    g: &Geometry,
    parts: &[GradPart<'_>],
    dw: &mut [f32],
    blocks: &Blocks,
) {
    assert!(machine.level.multiplies_tiles(), "a level that has tiles");
    blocks.cut.run(machine, g, parts, dw, &|round, task, worker| blocks.task(round, task, worker));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packed_weight::tests::{Drawn, rows};
    use crate::packed_weight_cut::Kept;
    use crate::simd::Level;
    use ddnnc_ir::Conv;
    use std::sync::atomic::Ordering;

    /// The definition, on whole numbers.
    fn expected(g: &Geometry, images: &[usize], xs: &[Drawn], dys: &[Drawn]) -> Vec<f32> {
        let wide = |x: u16| f32::from_bits(u32::from(x) << 16);
        let mut dw = vec![0.0; g.outputs * g.inputs * g.taps()];
        let Conv { stride, pad, dilation, .. } = g.conv;
        for ((&n, x), dy) in images.iter().zip(xs).zip(dys) {
            for (at, dy) in dy.all.chunks_exact(g.outputs).take(n * g.output[0] * g.output[1]).enumerate() {
                let (image, position) = (at / (g.output[0] * g.output[1]), at % (g.output[0] * g.output[1]));
                let position = [position / g.output[1], position % g.output[1]];
                for tap in 0..g.taps() {
                    let tap2 = [tap / g.kernel[1], tap % g.kernel[1]];
                    let source = [0, 1].map(|i| {
                        let line = (position[i] * stride[i] + tap2[i] * dilation[i]).checked_sub(pad[i]);
                        line.filter(|&line| line < g.input[i])
                    });
                    let [Some(row), Some(column)] = source else { continue };
                    let from = ((image * g.input[0] + row) * g.input[1] + column) * g.inputs;
                    for (o, &dy) in dy.iter().enumerate() {
                        for (c, &x) in x.all[from..from + g.inputs].iter().enumerate() {
                            dw[(o * g.inputs + c) * g.taps() + tap] += wide(dy) * wide(x);
                        }
                    }
                }
            }
        }
        dw
    }

    /// Cuts of a launch, beside that which is chosen: pieces, blocks, lines and couples of a chunk, and room for kept rows.
    const CUTS: [(usize, [usize; 2], usize, usize, usize); 6] = [
        (1, [1, 1], 1, 1, 0),
        (2, [1, 2], 2, 1, usize::MAX),
        (3, [2, 1], 3, 2, 1),
        (1, [2, 2], usize::MAX, 3, 0),
        (4, [1, 1], usize::MAX, 1, 0),
        (1, [1, 2], 2, 5, usize::MAX),
    ];

    fn check(conv: Conv, input: [usize; 2], kernel: [usize; 2], channels: [usize; 2], images: &[usize]) {
        let Some(level) = Level::available().find(|l| l.multiplies_tiles()) else { return };
        let output = conv.output(input, kernel).expect("the kernel fits");
        let [inputs, outputs] = channels;
        let g = Geometry { conv, input, output, kernel, inputs, outputs };
        let map = |[h, w]: [usize; 2]| h * w;
        for (computed, of_dy, halves) in
            [(false, false, false), (true, false, true), (true, true, false), (false, true, true)]
        {
            let drawn = |channels: usize, map: usize, computed: bool| -> Vec<Drawn> {
                images.iter().map(|n| rows(channels, n * map, computed, halves)).collect()
            };
            let (xs, dys) = (drawn(inputs, map(input), computed), drawn(outputs, map(output), of_dy));
            let expected = expected(&g, images, &xs, &dys);
            let parts: Vec<GradPart<'_>> = (images.iter().zip(&xs).zip(&dys))
                .map(|((&images, x), dy)| GradPart { images, x, dy })
                .collect();
            let chosen = Blocks::new(&g, images.iter().copied());
            let couples = chosen.cut.couples;
            let cut = |(pieces, counts, lines, some, room): (usize, [usize; 2], usize, usize, usize)| {
                let (pieces, channels) = (pieces.min(couples), [outputs, inputs]);
                let size =
                    |i: usize| channels[i].div_ceil(counts[i]).next_multiple_of(WIDTH).min(channels[i]);
                let sizes = [size(0), size(1)];
                let counts = [0, 1].map(|i| channels[i].div_ceil(sizes[i]));
                let least = 2 * pieces * map(input) * inputs;
                let room = if room == 1 { least } else { room };
                let kept = Kept::new::<u16>(&g, couples, pieces, room);
                let places = Places { lines: lines.min(output[0]), couples: some, ..chosen.places };
                Blocks::with(&g, Cut { couples, pieces, counts, sizes, kept }, places)
            };
            let all = std::iter::once(Blocks::new(&g, images.iter().copied()));
            for (i, blocks) in all.chain(CUTS.map(cut)).enumerate() {
                for threads in 1..=3 {
                    let mut dw = vec![f32::NAN; outputs * inputs * g.taps()];
                    xs.iter().for_each(|x| x.loaded.store(0, Ordering::Relaxed));
                    Machine::testing(level, threads, blocks.need(&g), |machine| {
                        run_blocks(machine, &g, &parts, &mut dw, &blocks);
                    });
                    let wrong =
                        dw.iter().zip(&expected).filter(|(a, b)| a.to_bits() != b.to_bits() && *a != *b);
                    let what = format!("{g:?} {images:?} cut {i}, computed {computed} {of_dy}");
                    assert_eq!(wrong.count(), 0, "{what}");
                    if blocks.cut.kept.is_some() {
                        for (x, n) in xs.iter().zip(images) {
                            assert!(x.loaded.load(Ordering::Relaxed) <= n * map(input), "computed once");
                        }
                    }
                }
            }
        }
    }

    fn conv(stride: usize, pad: usize, dilation: usize) -> Conv {
        Conv { stride: [stride; 2], pad: [pad; 2], dilation: [dilation; 2], groups: 1 }
    }

    #[test]
    fn sums_are_exact_however_they_are_cut() {
        check(conv(1, 1, 1), [5, 7], [3, 3], [35, 70], &[3, 0, 4]);
        check(conv(1, 0, 1), [4, 4], [1, 1], [64, 17], &[1, 5]);
        check(conv(2, 1, 1), [9, 8], [3, 3], [16, 40], &[5]);
        check(conv(2, 0, 1), [7, 7], [1, 1], [24, 33], &[2, 3]);
        check(conv(3, 2, 1), [10, 11], [5, 5], [3, 16], &[1]);
        check(conv(2, 3, 1), [15, 14], [7, 7], [3, 64], &[3]);
        check(conv(1, 2, 2), [8, 6], [3, 3], [48, 15], &[2, 1]);
        check(conv(2, 2, 3), [9, 9], [3, 2], [17, 1], &[7]);
        check(conv(1, 1, 1), [1, 1], [3, 3], [20, 20], &[40]);
        check(conv(1, 1, 1), [18, 19], [3, 3], [1, 5], &[1]);
        check(
            Conv { stride: [1, 2], pad: [2, 0], dilation: [3, 1], groups: 1 },
            [6, 9],
            [2, 3],
            [33, 31],
            &[4],
        );
    }
}
