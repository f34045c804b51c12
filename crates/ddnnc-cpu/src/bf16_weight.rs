//! The weight gradient of a convolution without groups, with products of pairs of bf16 and sums in f32.
//!
//! Pairs are neighbouring positions of y. A task is a piece of the batch, a block of output channels and one of input
//! channels. For each chunk of positions it packs dy once, and the rows of x into panels once for every tap. Input
//! channels are the rows of the products, so that sums lie in the order of weights of one tap. The batch is cut into
//! pieces and the channels into blocks by shape alone; the sums of the pieces are added in order.
//!
//! Rows of x that are not in memory are computed as bf16: by the task, for each chunk, where no other task reads them, else
//! once for all tasks, some images of each piece at a time.

use crate::bf16_weight_tile::{Half, NONE, Product, WIDTH, pack};
use crate::convolution::{Geometry, Rows};
use crate::convolution_weight::{Cut, GradPart};
use crate::device::Machine;
use crate::launch::Need;
use crate::memory::halves;
use crate::plan::{Element, Plan};
use std::ops::Range;

/// Tasks that a launch should have.
const TASKS: usize = 16;

/// f32 of a vector.
const LANES: usize = 16;

/// Positions whose places are listed at a time; even, so that pairs are whole.
const LISTED: usize = 128;

/// The fewest channels of a block that others are cut off.
const BLOCK: usize = 64;

/// f32 of rows that are computed at a time, about, where they are rounded to bf16 behind it.
const LOADED: usize = 1 << 12;

/// The most elements of computed rows of x that are kept for all tasks.
const KEPT: usize = 1 << 21;

/// Elements of those rows that are computed as one task, about.
const KEPT_TASK: usize = 1 << 15;

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
    /// How computed rows of x are kept for all tasks; `None` where each task computes what it reads.
    kept: Option<Kept>,
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
        // Where one task reads the rows, they are in its cache as it computes them.
        let many = counts[0] * counts[1] > 1;
        let kept = if many { Kept::new(g, images, cut.pieces, KEPT) } else { None };
        Blocks { cut: cut.with_positions(positions), counts, sizes, taps: g.taps(), kept }
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

    /// Workspace for parts of so many images.
    fn need(&self, g: &Geometry, images: &[usize]) -> Need {
        let scratch = self.scratch(g, images.iter().copied()).iter().sum();
        let sums = if self.direct(g) { 0 } else { self.tasks() * self.sums() };
        let shared = sums + self.kept.map_or(0, |kept| kept.size().div_ceil(2));
        Need { scratch, shared, ..Need::default() }
    }

    fn tasks(&self) -> usize {
        self.cut.pieces * self.counts[0] * self.counts[1]
    }

    /// Elements between pairs of packed dy: no power of two, so that a column's pairs do not share few sets of the cache.
    fn pitch(&self) -> usize {
        self.sizes[0].next_multiple_of(LANES) + LANES
    }

    /// f32 that a worker needs: packed dy, packed x, rows as they are computed, a window of x as bf16.
    fn scratch(&self, g: &Geometry, images: impl Iterator<Item = usize>) -> [usize; 4] {
        let line = |channels: usize| loaded(channels) * channels;
        let mut most = [0, 0, line(g.inputs).max(line(g.outputs)), 0];
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
            if self.kept.is_none() {
                most[3] = most[3].max((lines * width * g.inputs).div_ceil(2));
            }
        }
        most
    }
}

/// Rows of x that are computed once and kept as bf16 while all tasks read them. That is done in rounds, so that they take
/// little memory: in a round, tasks sum over the same share of the images of each piece.
#[derive(Clone, Copy)]
struct Kept {
    /// Images of all parts.
    images: usize,
    pieces: usize,
    rounds: usize,
    /// The most images of a piece in a round.
    share: usize,
    /// Elements of one image.
    image: usize,
}

impl Kept {
    /// For room for so many elements; `None` where one image of each piece is more.
    fn new(g: &Geometry, images: usize, pieces: usize, room: usize) -> Option<Kept> {
        let image = g.input[0] * g.input[1] * g.inputs;
        let most = room / (pieces * image).max(1);
        if most == 0 || images == 0 {
            return None;
        }
        let rounds = images.div_ceil(pieces * most);
        Some(Kept { images, pieces, rounds, share: images.div_ceil(pieces * rounds), image })
    }

    /// Elements of a round.
    fn size(&self) -> usize {
        self.pieces * self.share * self.image
    }

    /// The images of a piece in a round, counted over all parts.
    fn range(&self, piece: usize, round: usize) -> Range<usize> {
        let [from, to] =
            [0, 1].map(|i| self.images * (piece * self.rounds + round + i) / (self.pieces * self.rounds));
        from..to
    }

    /// Computes the rows of a round, of the parts that do not lie in memory.
    fn fill(
        &self,
        machine: &Machine<'_>,
        g: &Geometry,
        parts: &[GradPart<'_>],
        round: usize,
        out: &mut [u16],
    ) {
        let some = (KEPT_TASK / self.image.max(1)).max(1);
        machine.pool.split(out, some * self.image, |task, out, worker| {
            machine.with_scratch(worker, |line| {
                for (i, out) in out.chunks_exact_mut(self.image).enumerate() {
                    let (piece, image) = ((task * some + i) / self.share, (task * some + i) % self.share);
                    let range = self.range(piece, round);
                    let (mut image, mut part) = (range.start + image, 0);
                    if image >= range.end {
                        continue;
                    }
                    while image >= parts[part].images {
                        image -= parts[part].images;
                        part += 1;
                    }
                    let x = parts[part].x;
                    if is_computed(x) {
                        let lines = image * g.input[0]..(image + 1) * g.input[0];
                        let load = Load { machine, worker, g, source: g.input };
                        load.lines(x, lines, line, out);
                    }
                }
            });
        });
    }

    /// The kept rows of a piece that belong to the part behind so many images, and the first of them.
    fn rows<'a>(
        &self,
        g: &Geometry,
        piece: usize,
        round: usize,
        before: usize,
        kept: &'a [u16],
    ) -> (&'a [u16], usize) {
        let range = self.range(piece, round);
        let first = range.start.max(before);
        let kept = &kept[self.image * (piece * self.share + first - range.start)..];
        (kept, (first - before) * g.input[0] * g.input[1])
    }
}

/// Whether rows do not lie in memory.
fn is_computed(rows: &dyn Rows) -> bool {
    rows.direct().is_none() && rows.direct_bf16().is_none()
}

/// Rows that are computed at a time; even, so that pairs are whole.
fn loaded(channels: usize) -> usize {
    (LOADED / channels.max(1)).clamp(2, LISTED).next_multiple_of(2)
}

/// Computes rows as bf16.
struct Load<'a> {
    machine: &'a Machine<'a>,
    worker: usize,
    g: &'a Geometry,
    /// (H, W) of the maps.
    source: [usize; 2],
}

impl Load<'_> {
    /// Lines of x, one image after another, but those that no tap reads.
    fn lines(&self, x: &dyn Rows, lines: Range<usize>, line: &mut [f32], out: &mut [u16]) {
        let (conv, [height, width]) = (&self.g.conv, self.source);
        let (stride, dilation) = (conv.stride[0], conv.dilation[0]);
        let reads = |line: usize| {
            let from = line % height + conv.pad[0];
            (0..self.g.kernel[0])
                .any(|t| from >= t * dilation && (from - t * dilation).is_multiple_of(stride))
        };
        let all = stride == 1;
        let (mut at, size) = (lines.start, width * x.channels());
        while at < lines.end {
            let end = if all { lines.end } else { (at..lines.end).find(|&h| !reads(h)).unwrap_or(lines.end) };
            let out = &mut out[(at - lines.start) * size..(end - lines.start) * size];
            self.rows(x, at * width, (end - at) * width, line, out);
            at = (end..lines.end).find(|&h| reads(h)).unwrap_or(lines.end);
        }
    }

    fn rows(&self, x: &dyn Rows, first: usize, count: usize, line: &mut [f32], out: &mut [u16]) {
        if count == 0 || u16::load(self.machine, x, first, count, self.worker, out) {
            return;
        }
        let all = x.channels();
        let some = loaded(all);
        for (i, out) in out.chunks_mut(some * all).enumerate() {
            let line = &mut line[..out.len()];
            x.load(self.machine, first + i * some, out.len() / all, self.worker, line);
            u16::take(self.machine, out, line);
        }
    }
}

/// Elements between panels, which are no power of two apart.
fn panel_step(pairs: usize) -> usize {
    pairs * WIDTH + 16
}

/// Workspace of [`run`] for parts of so many images.
pub fn need(g: &Geometry, images: &[usize]) -> Need {
    Blocks::new(g, images.iter().sum()).need(g, images)
}

/// dw = the sum over all parts, of which some have images.
pub fn run(machine: &mut Machine<'_>, g: &Geometry, parts: &[GradPart<'_>], dw: &mut [f32]) {
    run_blocks(machine, g, parts, dw, &Blocks::new(g, parts.iter().map(|p| p.images).sum()));
}

/// The same, cut so.
fn run_blocks(
    machine: &mut Machine<'_>,
    g: &Geometry,
    parts: &[GradPart<'_>],
    dw: &mut [f32],
    blocks: &Blocks,
) {
    if dw.is_empty() {
        return;
    }
    let sizes = blocks.scratch(g, parts.iter().map(|p| p.images));
    let direct = blocks.direct(g);
    let kept = blocks.kept.filter(|_| parts.iter().any(|p| is_computed(p.x)));
    let own = if direct { 0 } else { blocks.tasks() * blocks.sums() };
    let (machine, shared) = machine.with_shared(own + kept.map_or(0, |kept| kept.size().div_ceil(2)));
    let (shared, rows) = shared.split_at_mut(own);
    for round in 0..kept.map_or(1, |kept| kept.rounds) {
        if let Some(kept) = kept {
            kept.fill(&machine, g, parts, round, &mut halves(rows)[..kept.size()]);
        }
        let launch = Launch { machine: &machine, g, blocks, parts, sizes, kept, rows: halves(rows), round };
        let task = |task: usize, out: &mut [f32], worker: usize| launch.task(task, out, worker);
        machine.pool.split(if direct { &mut *dw } else { &mut *shared }, blocks.sums(), task);
    }
    if !direct {
        collect(&machine, g, blocks, shared, dw);
    }
}

/// What the tasks of a round share.
struct Launch<'a> {
    machine: &'a Machine<'a>,
    g: &'a Geometry,
    blocks: &'a Blocks,
    parts: &'a [GradPart<'a>],
    sizes: [usize; 4],
    kept: Option<Kept>,
    /// Kept rows of x.
    rows: &'a [u16],
    round: usize,
}

impl Launch<'_> {
    /// Writes the sums of a task, or adds to those of the rounds before.
    fn task(&self, task: usize, out: &mut [f32], worker: usize) {
        let Launch { machine, g, blocks, parts, sizes, round, .. } = *self;
        let inputs = blocks.counts[1];
        let piece = task / (blocks.counts[0] * inputs);
        let outer = blocks.channels(0, g.outputs, task / inputs % blocks.counts[0]);
        let inner = blocks.channels(1, g.inputs, task % inputs);
        let (mut cut, mut share, mut add) = (blocks.cut, piece, false);
        if let Some(kept) = self.kept {
            cut.pieces *= kept.rounds;
            share = piece * kept.rounds + round;
            add = kept.range(piece, round).start > kept.range(piece, 0).start;
        }
        machine.with_scratch(worker, |scratch| {
            let (dy, scratch) = scratch.split_at_mut(sizes[0]);
            let (x, scratch) = scratch.split_at_mut(sizes[1]);
            let (line, scratch) = scratch.split_at_mut(sizes[2]);
            let window = &mut scratch[..sizes[3]];
            let pitch = blocks.pitch();
            cut.each_chunk(g, parts.iter().map(|p| p.images), share, |index, plan, lines| {
                let part = &parts[index];
                let chunk = Chunk { machine, worker, g, plan, lines };
                chunk.pack_dy(part.dy, outer.clone(), line, pitch, dy);
                let (pitch_x, channel) = (g.inputs, inner.start);
                let source = match (part.x.direct_bf16(), part.x.direct(), self.kept) {
                    (Some(rows), ..) => Source { rows: Stored::Bf16(rows), base: 0, pitch: pitch_x, channel },
                    (_, Some(rows), _) => {
                        Source { rows: Stored::F32(rows), base: 0, pitch: pitch_x, channel }
                    }
                    (.., Some(kept)) => {
                        let before = parts[..index].iter().map(|p| p.images).sum();
                        let (rows, base) = kept.rows(g, piece, round, before, self.rows);
                        Source { rows: Stored::Bf16(rows), base, pitch: pitch_x, channel }
                    }
                    _ => {
                        let (rows, base) = chunk.window(part.x, line, halves(window));
                        Source { rows: Stored::Bf16(rows), base, pitch: pitch_x, channel }
                    }
                };
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
        let step = if stored.is_some() || bf16.is_some() { LISTED } else { loaded(all) };
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

    /// Computes the rows of x that the positions need, and says which is the first.
    fn window<'b>(&self, x: &dyn Rows, line: &mut [f32], window: &'b mut [u16]) -> (&'b [u16], usize) {
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
        let base = read.start * width;
        let load = Load { machine: self.machine, worker: self.worker, g: self.g, source: self.plan.source };
        let size = read.len() * width * self.g.inputs;
        load.lines(x, read, line, &mut window[..size]);
        (window, base)
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

#[cfg(test)]
mod tests {
    use super::{Blocks, Kept, run_blocks};
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
        let Some(level) = Level::available().find(|l| l.multiplies_bf16()) else { return };
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
            for (computed, room) in
                [(false, 0), (true, usize::MAX), (true, 4 * map(input) * inputs), (true, 1), (true, 0)]
            {
                for halves in [false, true] {
                    let xs: Vec<Drawn> = (images.iter().enumerate())
                        .map(|(i, n)| rows(inputs, n * map(input), computed && i != 1, halves))
                        .collect();
                    let parts: Vec<GradPart<'_>> = (images.iter().zip(&xs).zip(&dys))
                        .map(|((&images, x), dy)| GradPart { images, x, dy })
                        .collect();
                    let mut blocks = Blocks::new(&g, 7);
                    assert!(blocks.tasks() > blocks.cut.pieces, "tasks share rows");
                    let least = blocks.cut.pieces * map(input) * inputs;
                    blocks.kept =
                        Kept::new(&g, 7, blocks.cut.pieces, room.max(if room == 1 { least } else { 0 }));
                    assert_eq!(blocks.kept.is_none(), room == 0);
                    let mut dw = vec![f32::NAN; outputs * inputs * g.taps()];
                    Machine::testing(level, 2, blocks.need(&g, &images), |machine| {
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
