//! The weight gradient of a convolution without groups, with products of pairs of bf16 and sums in f32.
//!
//! Pairs are neighbouring positions of y. A task is a piece of the batch, a block of output channels and one of input
//! channels. For each chunk of positions it packs dy once, and the rows of x into panels once for every tap. Input
//! channels are the rows of the products, so that sums lie in the order of weights of one tap. The batch is cut into
//! pieces and the channels into blocks by shape alone; the sums of the pieces are added in order.

use crate::bf16_weight_tile::{Half, NONE, Product, WIDTH, pack};
use crate::convolution::{Geometry, Rows};
use crate::convolution_weight::{Cut, GradPart};
use crate::device::Machine;
use crate::launch::Need;
use crate::plan::Plan;
use std::ops::Range;

/// Tasks that a launch should have.
const TASKS: usize = 16;

/// f32 of a vector.
const LANES: usize = 16;

/// Positions whose places are listed at a time; even, so that pairs are whole.
const LISTED: usize = 128;

/// The fewest channels of a block that others are cut off.
const BLOCK: usize = 64;

/// Rows that are computed at a time; even, so that pairs are whole.
const LOADED: usize = 16;

/// The most positions of a chunk, whose panel of x fills most of the first cache.
const POSITIONS: usize = 512;

/// Output channels whose sums are collected together.
const OUTPUTS: usize = 4;

/// Elements of packed dy that a chunk aims at, so that they stay in the second cache.
const PACKED: usize = 1 << 18;

/// How a weight gradient is cut.
struct Blocks {
    cut: Cut,
    /// Blocks of output and of input channels.
    counts: [usize; 2],
    /// Channels of a block.
    sizes: [usize; 2],
    taps: usize,
}

impl Blocks {
    fn new(g: &Geometry, images: usize) -> Blocks {
        let cut = Cut::new(g, images, false);
        let (mut counts, mut sizes) = ([1, 1], [g.outputs, g.inputs]);
        let channels = [g.outputs, g.inputs];
        let whole = cut.pieces == 1 && g.taps() == 1 && g.inputs.is_multiple_of(LANES);
        // What is packed for each task grows with its rows of dy, and with its rows of x for each tap: the larger is cut.
        while cut.pieces * counts[0] * counts[1] < TASKS {
            let i = usize::from(sizes[0] <= g.taps() * sizes[1]);
            let i = if sizes[i] >= 2 * BLOCK { i } else { 1 - i };
            // Blocks of whole weights are where they belong as they are summed.
            let i = if whole && counts[1] == 1 && (sizes[0] >= 2 * BLOCK || counts[0] >= TASKS / 2) {
                0
            } else {
                i
            };
            if sizes[i] < 2 * BLOCK {
                break;
            }
            sizes[i] = channels[i].div_ceil(2 * counts[i]).next_multiple_of(WIDTH);
            counts[i] = channels[i].div_ceil(sizes[i]);
        }
        let positions = (PACKED / sizes[0].max(1)).clamp(POSITIONS / 4, POSITIONS);
        Blocks { cut: cut.with_positions(positions), counts, sizes, taps: g.taps() }
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

    /// Whether the sums of each task are a piece of the weights as they lie in memory.
    fn direct(&self, g: &Geometry) -> bool {
        self.cut.pieces == 1 && self.taps == 1 && self.counts[1] == 1 && self.row() == g.inputs
    }

    fn tasks(&self) -> usize {
        self.cut.pieces * self.counts[0] * self.counts[1]
    }

    /// Elements between pairs of packed dy: no power of two, so that a column's pairs do not share few sets of the cache.
    fn pitch(&self) -> usize {
        self.sizes[0].next_multiple_of(LANES) + LANES
    }

    /// f32 that a worker needs: packed dy, packed x, rows as they are computed, a window of x.
    fn scratch(&self, g: &Geometry, images: impl Iterator<Item = usize>) -> [usize; 4] {
        let mut most = [0, 0, LOADED * g.inputs.max(g.outputs), 0];
        for images in images.filter(|&n| n > 0) {
            let plan = self.cut.plan(g, images);
            let pairs = plan.task_rows().div_ceil(2);
            most[0] = most[0].max(pairs * self.pitch());
            most[1] = most[1].max(self.sizes[1].div_ceil(WIDTH) * panel_step(pairs));
            let [height, width] = plan.source;
            let lines = if plan.lines >= plan.result[0] {
                plan.lines / plan.result[0] * height
            } else {
                let reach = (g.kernel[0] - 1) * g.conv.dilation[0];
                height.min((plan.lines - 1) * g.conv.stride[0] + reach + 1)
            };
            most[3] = most[3].max(lines * width * self.sizes[1]);
        }
        most
    }
}

/// Elements between panels, which are no power of two apart.
fn panel_step(pairs: usize) -> usize {
    pairs * WIDTH + 16
}

/// Workspace of [`run`] for parts of so many images.
pub fn need(g: &Geometry, images: &[usize]) -> Need {
    let blocks = Blocks::new(g, images.iter().sum());
    let scratch = blocks.scratch(g, images.iter().copied()).iter().sum();
    let shared = if blocks.direct(g) { 0 } else { blocks.tasks() * blocks.sums() };
    Need { scratch, shared, ..Need::default() }
}

/// dw = the sum over all parts, of which some have images.
pub fn run(machine: &mut Machine<'_>, g: &Geometry, parts: &[GradPart<'_>], dw: &mut [f32]) {
    if dw.is_empty() {
        return;
    }
    let blocks = Blocks::new(g, parts.iter().map(|p| p.images).sum());
    let sizes = blocks.scratch(g, parts.iter().map(|p| p.images));
    let direct = blocks.direct(g);
    let (machine, shared) = machine.with_shared(if direct { 0 } else { blocks.tasks() * blocks.sums() });
    let [_, inputs] = blocks.counts;
    let sums = |task: usize, out: &mut [f32], worker: usize| {
        let piece = task / (blocks.counts[0] * inputs);
        let outer = blocks.channels(0, g.outputs, task / inputs % blocks.counts[0]);
        let inner = blocks.channels(1, g.inputs, task % inputs);
        machine.with_scratch(worker, |scratch| {
            let (dy, scratch) = scratch.split_at_mut(sizes[0]);
            let (x, scratch) = scratch.split_at_mut(sizes[1]);
            let (line, scratch) = scratch.split_at_mut(sizes[2]);
            let window = &mut scratch[..sizes[3]];
            let (pitch, mut add) = (blocks.pitch(), false);
            blocks.cut.each_chunk(g, parts.iter().map(|p| p.images), piece, |part, plan, lines| {
                let part = &parts[part];
                let chunk = Chunk { machine: &machine, worker, g, plan, lines };
                chunk.pack_dy(part.dy, outer.clone(), line, pitch, dy);
                let source = chunk.source(part.x, inner.clone(), line, window);
                let pairs = chunk.positions().div_ceil(2);
                for tap in 0..blocks.taps {
                    match source.rows {
                        Stored::F32(rows) => chunk.pack_x(rows, &source, inner.len(), tap, x),
                        Stored::Bf16(rows) => chunk.pack_x(rows, &source, inner.len(), tap, x),
                    }
                    let out = &mut out[tap * blocks.sizes[0] * blocks.row()..];
                    for (i, panel) in
                        x.chunks(panel_step(pairs)).take(inner.len().div_ceil(WIDTH)).enumerate()
                    {
                        let rows = WIDTH.min(inner.len() - i * WIDTH);
                        let product = Product { pairs, panel, rows, data: dy, pitch, columns: outer.len() };
                        product.run(&mut out[i * WIDTH..], blocks.row(), add);
                    }
                }
                add = true;
            });
        });
    };
    if direct {
        machine.pool.split(dw, blocks.sums(), sums);
    } else {
        machine.pool.split(shared, blocks.sums(), sums);
        collect(&machine, g, &blocks, shared, dw);
    }
}

/// Rows as they lie in memory.
#[derive(Clone, Copy)]
enum Stored<'a> {
    F32(&'a [f32]),
    Bf16(&'a [u16]),
}

/// Rows of x.
struct Source<'a> {
    rows: Stored<'a>,
    /// The row with which they begin.
    base: usize,
    /// Elements of a row.
    pitch: usize,
    /// The first channel of the block within a row.
    channel: usize,
}

/// Positions that a task sums over in one go.
struct Chunk<'a> {
    machine: &'a Machine<'a>,
    worker: usize,
    g: &'a Geometry,
    plan: &'a Plan,
    /// Lines of y.
    lines: Range<usize>,
}

impl Chunk<'_> {
    fn positions(&self) -> usize {
        self.lines.len() * self.plan.result[1]
    }

    /// Packs some channels of the rows of dy, pairs `pitch` apart.
    fn pack_dy(
        &self,
        dy: &dyn Rows,
        channels: Range<usize>,
        line: &mut [f32],
        pitch: usize,
        out: &mut [f32],
    ) {
        let (all, count) = (dy.channels(), self.positions());
        let first = self.lines.start * self.plan.result[1];
        let (stored, bf16) = (dy.direct(), dy.direct_bf16());
        let step = if stored.is_some() || bf16.is_some() { LISTED } else { LOADED };
        for at in (0..count).step_by(step) {
            let some = step.min(count - at);
            let out = &mut out[at / 2 * pitch..];
            let places = |first: usize| std::array::from_fn(|i| (first + i) * all + channels.start);
            let (near, far): ([usize; LISTED], [usize; LISTED]) = (places(0), places(first + at));
            match (bf16, stored) {
                (Some(rows), _) => pack(rows, &far[..some], channels.len(), out, pitch, WIDTH),
                (_, Some(rows)) => pack(rows, &far[..some], channels.len(), out, pitch, WIDTH),
                _ => {
                    let rows = &mut line[..some * all];
                    dy.load(self.machine, first + at, some, self.worker, rows);
                    pack(rows, &near[..some], channels.len(), out, pitch, WIDTH);
                }
            }
        }
    }

    /// The rows of x that the positions need: all, or a window of some channels.
    fn source<'b>(
        &self,
        x: &'b dyn Rows,
        channels: Range<usize>,
        line: &mut [f32],
        window: &'b mut [f32],
    ) -> Source<'b> {
        let (pitch, channel) = (x.channels(), channels.start);
        match (x.direct_bf16(), x.direct()) {
            (Some(rows), _) => return Source { rows: Stored::Bf16(rows), base: 0, pitch, channel },
            (_, Some(rows)) => return Source { rows: Stored::F32(rows), base: 0, pitch, channel },
            _ => {}
        }
        let ([height, width], result) = (self.plan.source, self.plan.result[0]);
        let (stride, pad, dilation) = (self.g.conv.stride[0], self.g.conv.pad[0], self.g.conv.dilation[0]);
        let (image, last) = (self.lines.start / result, (self.lines.end - 1) / result);
        let mut read = image * height..(last + 1) * height;
        if image == last {
            let line = |y: usize, tap: usize| (y * stride + tap * dilation).saturating_sub(pad).min(height);
            let end = line(self.lines.end - 1 - image * result, self.g.kernel[0] - 1);
            read = image * height + line(self.lines.start - image * result, 0)
                ..image * height + (end + 1).min(height);
        }
        let (all, some) = (pitch, channels.len());
        let base = read.start * width;
        for source in read {
            let reads = |tap: usize| {
                let from = source % height + pad;
                from >= tap * dilation && (from - tap * dilation).is_multiple_of(stride)
            };
            if !(0..self.g.kernel[0]).any(reads) {
                continue;
            }
            for at in (0..width).step_by(LOADED) {
                let count = LOADED.min(width - at);
                let out = &mut window[(source * width + at - base) * some..][..count * some];
                if some == all {
                    x.load(self.machine, source * width + at, count, self.worker, out);
                    continue;
                }
                let line = &mut line[..count * all];
                x.load(self.machine, source * width + at, count, self.worker, line);
                for (out, row) in out.chunks_exact_mut(some.max(1)).zip(line.chunks_exact(all)) {
                    out.copy_from_slice(&row[channels.clone()]);
                }
            }
        }
        Source { rows: Stored::F32(window), base, pitch: some, channel: 0 }
    }

    /// Packs the rows of x that a tap reads into panels.
    fn pack_x<T: Half>(&self, rows: &[T], source: &Source<'_>, channels: usize, tap: usize, out: &mut [f32]) {
        let ([height, width], [result, columns]) = (self.plan.source, self.plan.result);
        let conv = &self.g.conv;
        let tap = [tap / self.g.kernel[1] * conv.dilation[0], tap % self.g.kernel[1] * conv.dilation[1]];
        let (positions, mut done) = (self.positions(), 0);
        let step = panel_step(positions.div_ceil(2));
        let (mut line, mut column) = (self.lines.start, 0);
        while done < positions {
            let mut places = [NONE; LISTED];
            let count = LISTED.min(positions - done);
            for place in &mut places[..count] {
                // The line and column of x beneath a position; past the end where there is none.
                let h = (line % result * conv.stride[0] + tap[0]).wrapping_sub(conv.pad[0]);
                let w = (column * conv.stride[1] + tap[1]).wrapping_sub(conv.pad[1]);
                if h < height && w < width {
                    let row = (line / result * height + h) * width + w;
                    *place = (row - source.base) * source.pitch + source.channel;
                }
                column += 1;
                if column == columns {
                    (line, column) = (line + 1, 0);
                }
            }
            pack(rows, &places[..count], channels, &mut out[done / 2 * WIDTH..], WIDTH, step);
            done += count;
        }
    }
}

/// Adds the sums of the pieces up, in order, and brings them into the order of the weights.
fn collect(machine: &Machine<'_>, g: &Geometry, blocks: &Blocks, sums: &[f32], dw: &mut [f32]) {
    let (taps, row, inputs) = (g.taps(), blocks.row(), blocks.counts[1]);
    let piece = blocks.counts[0] * inputs * blocks.sums();
    machine.pool.split(dw, OUTPUTS * g.inputs * taps, |task, dw, _| {
        machine.level.run(|| {
            for (i, dw) in dw.chunks_exact_mut(g.inputs * taps).enumerate() {
                let o = task * OUTPUTS + i;
                let (block, o) = (o / blocks.sizes[0] * inputs, o % blocks.sizes[0]);
                for (c, dw) in dw.chunks_mut(taps * LANES).enumerate() {
                    let c = c * LANES;
                    let at = (block + c / blocks.sizes[1]) * blocks.sums() + o * row + c % blocks.sizes[1];
                    for tap in 0..taps {
                        let at = at + tap * blocks.sizes[0] * row;
                        let mut total = [0.0f32; LANES];
                        for piece in sums[at..].chunks(piece).take(blocks.cut.pieces) {
                            total.iter_mut().zip(&piece[..LANES]).for_each(|(t, s)| *t += s);
                        }
                        if taps == 1 {
                            dw.copy_from_slice(&total[..dw.len()]);
                            continue;
                        }
                        for (dw, t) in dw[tap..].iter_mut().step_by(taps).zip(total) {
                            *dw = t;
                        }
                    }
                }
            }
        });
    });
}
