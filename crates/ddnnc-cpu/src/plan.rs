//! What each task of a convolution over channels-last rows computes and reads.
//!
//! Along an axis, result line `first + p · apart` is a sum over taps t of source line `p · scale + t · step + offset`.
//! The forward direction is one such set of lines per axis; the input gradient is one for each phase of the stride. A
//! task is a run of result lines (rows of the map, of one image after another), cut by shape alone. What it reads
//! of each image is a window, which is the source itself where that needs neither padding nor computing.

use crate::convolution::{Geometry, Rows};
use crate::device::Machine;
use crate::memory::halves;
use crate::pointwise_kernels::narrow_all;
use ddnnc_ir::Conv;
use std::ops::Range;

/// Elements of the results that a task aims at, so that they stay in the second cache until they are emitted.
const RESULTS: usize = 1 << 15;

/// The fewest and the most result positions that a task aims at: fewer use packed weights too seldom.
const POSITIONS: [usize; 2] = [64, 512];

/// Weights past which a task aims at twice the fewest positions: they come from beyond the second cache each time.
const LARGE: usize = 1 << 18;

/// Tasks that a launch should have, as long as they have at least half the fewest positions.
const TASKS: usize = 16;

/// Sets of result lines along an axis that a plan holds: computing them for every task would show.
const KNOWN: usize = 2;

/// What windows hold.
pub trait Element: Copy + Default + Send + Sync + 'static {
    /// f32 that rows are computed in, about, before they are rounded; none where they are computed in place.
    const LINE: usize;

    /// f32 that a task needs beside its window and results once the window is there; rows are computed in them before.
    const SPARE: usize;

    /// All rows where they lie in memory as such elements.
    fn direct(x: &dyn Rows) -> Option<&[Self]>;

    /// Scratch memory as such elements.
    fn of(scratch: &mut [f32]) -> &mut [Self];

    /// Computes rows from `first` on in the window itself, `count` of them, where that can be; whether it did.
    fn load(
        machine: &Machine<'_>,
        x: &dyn Rows,
        first: usize,
        count: usize,
        worker: usize,
        out: &mut [Self],
    ) -> bool;

    /// Takes computed rows.
    fn take(machine: &Machine<'_>, out: &mut [Self], rows: &[f32]);
}

impl Element for f32 {
    const LINE: usize = 0;
    const SPARE: usize = 0;

    fn direct(x: &dyn Rows) -> Option<&[f32]> {
        x.direct()
    }

    fn of(scratch: &mut [f32]) -> &mut [f32] {
        scratch
    }

    fn load(
        machine: &Machine<'_>,
        x: &dyn Rows,
        first: usize,
        count: usize,
        worker: usize,
        out: &mut [f32],
    ) -> bool {
        x.load(machine, first, count, worker, out);
        true
    }

    fn take(_: &Machine<'_>, out: &mut [f32], rows: &[f32]) {
        out.copy_from_slice(rows);
    }
}

/// bf16, to which computed rows are rounded; where both operands are of that type they hold such numbers already.
impl Element for u16 {
    const LINE: usize = 1 << 12;
    const SPARE: usize = 13 << 11;

    fn direct(x: &dyn Rows) -> Option<&[u16]> {
        x.direct_bf16()
    }

    fn of(scratch: &mut [f32]) -> &mut [u16] {
        halves(scratch)
    }

    fn load(
        machine: &Machine<'_>,
        x: &dyn Rows,
        first: usize,
        count: usize,
        worker: usize,
        out: &mut [u16],
    ) -> bool {
        x.load_bf16(machine, first, count, worker, out)
    }

    fn take(machine: &Machine<'_>, out: &mut [u16], rows: &[f32]) {
        narrow_all(machine.level, out, rows);
    }
}

/// One set of result lines along an axis and the taps that reach it.
#[derive(Clone, Copy, Debug)]
pub struct Axis {
    /// The first result line.
    pub first: usize,
    /// Step between result lines.
    pub apart: usize,
    /// Result lines.
    pub positions: usize,
    /// Source step between result lines.
    pub scale: usize,
    /// Source step between taps.
    pub step: usize,
    offset: isize,
    /// Taps; may be none.
    pub taps: usize,
    tap: usize,
    skip: isize,
}

impl Axis {
    fn forward(conv: &Conv, i: usize, output: usize, kernel: usize) -> Axis {
        Axis {
            first: 0,
            apart: 1,
            positions: output,
            scale: conv.stride[i],
            step: conv.dilation[i],
            offset: -(conv.pad[i] as isize),
            taps: kernel,
            tap: 0,
            skip: 1,
        }
    }

    /// The inputs `first`, `first + stride`, … of `input`.
    ///
    /// Input i = first + stride · p gets dy[o] through tap k where i + pad = stride · o + dilation · k. That has a whole
    /// o for every p or for none, so the taps of a phase are k, k + skip, …; o = p + offset for the first of them, and
    /// dilation · skip / stride less for each that follows. They are taken from the last on, so that o grows.
    fn backward(conv: &Conv, i: usize, input: usize, kernel: usize, first: usize) -> Axis {
        let (stride, pad, dilation) = (conv.stride[i], conv.pad[i], conv.dilation[i]);
        let skip = stride / gcd(stride, dilation);
        let tap = (0..skip.min(kernel)).find(|k| (first + pad) % stride == k * dilation % stride);
        let taps = tap.map_or(0, |tap| (kernel - tap).div_ceil(skip));
        let tap = tap.unwrap_or(0);
        let offset = ((first + pad) as isize - (tap * dilation) as isize) / stride as isize;
        let (step, more) = (skip * dilation / stride, taps.saturating_sub(1));
        Axis {
            first,
            apart: stride,
            positions: input.saturating_sub(first).div_ceil(stride),
            scale: 1,
            step,
            offset: offset - (more * step) as isize,
            taps,
            tap: tap + more * skip,
            skip: -(skip as isize),
        }
    }

    /// The tap of the kernel that tap `t` of this set is.
    pub fn tap(&self, t: usize) -> usize {
        self.tap.wrapping_add_signed(t as isize * self.skip)
    }

    /// The positions whose result lines lie in `lines`.
    pub fn positions_in(&self, lines: Range<usize>) -> Range<usize> {
        let before = |line: usize| line.saturating_sub(self.first).div_ceil(self.apart).min(self.positions);
        before(lines.start)..before(lines.end)
    }

    /// The source line that tap 0 reads at position p, counted from line `low`, which no position reads beneath.
    pub fn begin(&self, p: usize, low: isize) -> usize {
        ((p * self.scale) as isize + self.offset - low) as usize
    }

    /// Source lines from the first that these positions read to past the last.
    fn reads(&self, positions: Range<usize>) -> Option<[isize; 2]> {
        if positions.is_empty() || self.taps == 0 {
            return None;
        }
        let begin = |p: usize| (p * self.scale) as isize + self.offset;
        let reach = ((self.taps - 1) * self.step) as isize;
        Some([begin(positions.start), begin(positions.end - 1) + reach + 1])
    }
}

/// Brings lines that follow one another at the end of `out` to `inside` of every `pitch` elements, between zeros. What is
/// written ends before the next line that is to be read.
pub fn spread<T: Element>(out: &mut [T], pitch: usize, inside: Range<usize>) {
    let count = out.len() / pitch;
    for i in 0..count {
        let from = out.len() - (count - i) * inside.len();
        let to = i * pitch;
        out.copy_within(from..from + inside.len(), to + inside.start);
        out[to..to + inside.start].fill(T::default());
        out[to + inside.end..to + pitch].fill(T::default());
    }
}

/// A set of result lines along axis `i`, of (result lines, taps); one past the last has no line.
fn axis(conv: &Conv, backward: bool, i: usize, [result, kernel]: [usize; 2], phase: usize) -> Axis {
    if backward {
        Axis::backward(conv, i, result, kernel, phase)
    } else {
        Axis::forward(conv, i, result, kernel)
    }
}

/// The greatest common divisor.
pub fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

fn join(all: impl Iterator<Item = [isize; 2]>) -> [isize; 2] {
    all.reduce(|a, b| [a[0].min(b[0]), a[1].max(b[1])]).unwrap_or([0, 0])
}

/// One part of a launch.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    conv: Conv,
    backward: bool,
    kernel: [usize; 2],
    /// Images; one where rows need no neighbours, so that all are one map.
    pub images: usize,
    /// (H, W) of the source.
    pub source: [usize; 2],
    /// (H, W) of the result.
    pub result: [usize; 2],
    /// Channels of the source.
    pub from: usize,
    /// Channels of the result.
    pub to: usize,
    /// Result lines of a task.
    pub lines: usize,
    /// Source columns of a window.
    columns: [isize; 2],
    /// Whether no window reaches out of the source.
    bare: bool,
    /// The first sets of result lines along each axis.
    known: [[Axis; KNOWN]; 2],
}

/// The part of a task that lies in one image.
#[derive(Clone, Debug)]
pub struct Segment {
    image: usize,
    /// Result lines within the image.
    pub lines: Range<usize>,
    /// The first result row of the image, counted from the task's first row; below zero where that is inside.
    pub row: isize,
    /// Source lines of the window.
    pub rows: [isize; 2],
    /// Where the window begins in the data.
    pub at: usize,
}

/// The data of a task: windows in scratch, or the source itself.
#[derive(Clone, Copy, Debug)]
pub struct Data<'a, T = f32> {
    /// Elements.
    pub elements: &'a [T],
    /// Whether they are the source itself.
    pub direct: bool,
    /// Elements of a line.
    pub pitch: usize,
    /// Elements of a position.
    pub channels: usize,
    /// The source column with which lines begin.
    pub left: isize,
}

impl Plan {
    /// The plan of y = conv(x, w), or of dx where `backward`.
    pub fn new(g: &Geometry, backward: bool, images: usize) -> Plan {
        let Geometry { conv, kernel, .. } = *g;
        let (mut source, mut result, mut images) = (g.input, g.output, images);
        let flat = kernel == [1, 1] && conv.stride == [1, 1] && conv.pad == [0, 0];
        if flat {
            // Of one column, so that lines can be cut anywhere.
            source = [images * source[0] * source[1], 1];
            result = source;
            images = 1;
        } else if backward {
            std::mem::swap(&mut source, &mut result);
        }
        let (from, to) = if backward { (g.outputs, g.inputs) } else { (g.inputs, g.outputs) };
        let (columns, bare) = ([0, 0], false);
        let known = std::array::from_fn(|i| {
            std::array::from_fn(|phase| axis(&conv, backward, i, [result[i], kernel[i]], phase))
        });
        let mut plan =
            Plan { conv, backward, kernel, images, source, result, from, to, lines: 1, columns, bare, known };
        plan.columns = join(plan.axes(1).filter_map(|a| a.reads(0..a.positions)));
        let rows = plan.window_rows(0..result[0]);
        let inside = |[low, high]: [isize; 2], size: usize| low >= 0 && high <= size as isize;
        plan.bare = inside(rows, source[0]) && inside(plan.columns, source[1]);
        plan.lines = plan.cut();
        plan
    }

    /// Result lines of a task.
    fn cut(&self) -> usize {
        let [height, width] = self.result;
        let all = self.images * height * width;
        let [mut few, many] = POSITIONS;
        if self.from * self.to / self.conv.groups * self.kernel[0] * self.kernel[1] > LARGE {
            few *= 2;
        }
        let target = (RESULTS / self.to.max(1)).clamp(few, many).min((all / TASKS).max(few / 2));
        let lines = (target / width.max(1)).max(1);
        if lines >= height {
            return (lines / height.max(1)).max(1) * height.max(1);
        }
        let lines = height.div_ceil(height.div_ceil(lines));
        if self.backward { lines.next_multiple_of(self.conv.stride[0]) } else { lines }
    }

    /// Cuts tasks anew, into so many result lines each.
    pub fn with_lines(self, lines: usize) -> Plan {
        Plan { lines, ..self }
    }

    /// Tasks.
    pub fn tasks(&self) -> usize {
        (self.images * self.result[0]).div_ceil(self.lines)
    }

    /// Result rows of a task, but for the last.
    pub fn task_rows(&self) -> usize {
        self.lines * self.result[1]
    }

    /// Result lines of a task.
    pub fn task_lines(&self, task: usize) -> Range<usize> {
        let all = self.images * self.result[0];
        (task * self.lines).min(all)..((task + 1) * self.lines).min(all)
    }

    /// The source rows that result lines need, those of whole lines.
    pub fn source_rows(&self, lines: Range<usize>) -> Range<usize> {
        let [height, width] = self.source;
        let data = self.padded::<u16>(&[], 0);
        let reads = self.segments(lines, data).filter(|s| s.rows[0] < s.rows[1]).map(|s| {
            let inside = |line: isize| (s.image * height + line.clamp(0, height as isize) as usize) * width;
            [inside(s.rows[0]) as isize, inside(s.rows[1]) as isize]
        });
        let [first, last] = join(reads);
        first as usize..last as usize
    }

    /// The sets of result lines along axis `i`.
    pub fn axes(&self, i: usize) -> impl Iterator<Item = Axis> + use<> {
        let Plan { conv, backward, known, .. } = *self;
        let (sizes, known) = ([self.result[i], self.kernel[i]], known[i]);
        let count = if backward { conv.stride[i].min(sizes[0]) } else { 1 };
        (0..count).map(move |phase| match known.get(phase) {
            Some(&axis) => axis,
            None => axis(&conv, backward, i, sizes, phase),
        })
    }

    /// The pairs of such sets, each with the taps of the pairs before it; every tap is in at most one pair.
    pub fn phases(&self) -> impl Iterator<Item = ([Axis; 2], usize)> + use<> {
        let plan = *self;
        self.axes(0).flat_map(move |row| plan.axes(1).map(move |column| [row, column])).scan(
            0,
            |taps, phase| {
                let before = *taps;
                *taps += phase[0].taps * phase[1].taps;
                Some((phase, before))
            },
        )
    }

    /// Source lines that result lines of an image need.
    fn window_rows(&self, lines: Range<usize>) -> [isize; 2] {
        join(self.axes(0).filter_map(|a| a.reads(a.positions_in(lines.clone()))))
    }

    /// The images that a run of result lines meets.
    pub fn segments<T>(
        &self,
        lines: Range<usize>,
        data: Data<'_, T>,
    ) -> impl Iterator<Item = Segment> + use<T> {
        let plan = *self;
        let height = plan.result[0];
        let Data { direct, pitch, .. } = data;
        let (mut line, mut at) = (lines.start, 0);
        std::iter::from_fn(move || {
            if line >= lines.end {
                return None;
            }
            let (image, begin) = (line / height, line % height);
            let end = height.min(begin + lines.end - line);
            let row = (image * height) as isize - lines.start as isize;
            let mut segment =
                Segment { image, lines: begin..end, row: row * plan.result[1] as isize, rows: [0, 0], at };
            if direct {
                segment.rows[1] = plan.source[0] as isize;
                segment.at = image * plan.source[0] * pitch;
            } else {
                segment.rows = plan.window_rows(begin..end);
                at += (segment.rows[1] - segment.rows[0]) as usize * pitch;
            }
            line += end - begin;
            Some(segment)
        })
    }

    /// Elements of the windows of `channels` channels that a run of result lines needs in scratch.
    pub fn window(&self, lines: Range<usize>, channels: usize) -> usize {
        let data = self.padded::<f32>(&[], channels);
        self.segments(lines, data).map(|s| (s.rows[1] - s.rows[0]) as usize * data.pitch).sum()
    }

    /// f32 in which rows of all channels are computed, where that is not in the window itself.
    pub fn line<T: Element>(&self) -> usize {
        if T::LINE == 0 { 0 } else { (T::LINE / self.from.max(1)).max(1) * self.from }
    }

    fn padded<'a, T>(&self, elements: &'a [T], channels: usize) -> Data<'a, T> {
        let pitch = (self.columns[1] - self.columns[0]) as usize * channels;
        Data { elements, direct: false, pitch, channels, left: self.columns[0] }
    }

    /// The source itself as data, for readers that take what lies outside of it as zero.
    pub fn unpadded<'a>(&self, all: &'a [f32]) -> Data<'a> {
        Data { elements: all, direct: true, pitch: self.source[1] * self.from, channels: self.from, left: 0 }
    }

    /// The data of a run of result lines: channels `channels` of `x`, in `scratch` if need be.
    ///
    /// `line` is memory for one or more source rows with all channels, needed where `channels` are not all, and as
    /// [`Plan::line`] says.
    #[expect(clippy::too_many_arguments, reason = "the operands of a copy")]
    pub fn data<'a, T: Element>(
        &self,
        machine: &Machine<'_>,
        x: &'a dyn Rows,
        lines: Range<usize>,
        channels: Range<usize>,
        worker: usize,
        scratch: &'a mut [T],
        line: &mut [f32],
    ) -> Data<'a, T> {
        if self.bare
            && let Some(all) = T::direct(x)
        {
            let elements = if all.is_empty() { all } else { &all[channels.start..] };
            let pitch = self.source[1] * self.from;
            return Data { elements, direct: true, pitch, channels: self.from, left: 0 };
        }
        let data = self.padded::<T>(&[], channels.len());
        for segment in self.segments(lines, data) {
            let size = (segment.rows[1] - segment.rows[0]) as usize * data.pitch;
            let out = &mut scratch[segment.at..segment.at + size];
            self.fill(machine, x, &segment, channels.clone(), worker, out, line);
        }
        Data { elements: scratch, ..data }
    }

    /// Fills the window of one segment.
    #[expect(clippy::too_many_arguments, reason = "the operands of a copy")]
    fn fill<T: Element>(
        &self,
        machine: &Machine<'_>,
        x: &dyn Rows,
        segment: &Segment,
        channels: Range<usize>,
        worker: usize,
        out: &mut [T],
        line: &mut [f32],
    ) {
        let ([low, high], [left, right]) = (segment.rows, self.columns);
        let [height, width] = self.source;
        let some = channels.len();
        let pitch = (right - left) as usize * some;
        let inside = |at: isize, size: usize| at.clamp(0, size as isize) as usize;
        let (top, bottom) = (inside(low, height), inside(high, height));
        let (first, last) = (inside(left, width), inside(right, width));
        let count = last - first;
        if top >= bottom || count == 0 || some == 0 {
            return out.fill(T::default());
        }
        let above = (top as isize - low) as usize * pitch;
        let (begin, end) = ((first as isize - left) as usize * some, (last as isize - left) as usize * some);
        out[..above].fill(T::default());
        let below = above + (bottom - top) * pitch;
        out[below..].fill(T::default());
        let out = &mut out[above..below];
        let source = |h: usize| (segment.image * height + h) * width + first;
        if count == width && self.reads_every_line() && (count * some == pitch || T::direct(x).is_none()) {
            // All lines at once, which a program computes faster than one by one, where the last of them belongs.
            let len = (bottom - top) * count * some;
            let lines = out.len() - len;
            let rows = source(top)..source(bottom);
            self.copy(machine, x, rows, channels, worker, &mut out[lines..], line);
            return if lines > 0 {
                spread(out, pitch, begin..end)
            };
        }
        for (i, out) in out.chunks_exact_mut(pitch).enumerate() {
            let h = top + i;
            if self.reads_line((h as isize - low) as usize) {
                out[..begin].fill(T::default());
                out[end..].fill(T::default());
                let rows = source(h)..source(h) + count;
                self.copy(machine, x, rows, channels.clone(), worker, &mut out[begin..end], line);
            }
        }
    }

    /// Copies some channels of source rows.
    #[expect(clippy::too_many_arguments, reason = "the operands of a copy")]
    fn copy<T: Element>(
        &self,
        machine: &Machine<'_>,
        x: &dyn Rows,
        rows: Range<usize>,
        channels: Range<usize>,
        worker: usize,
        out: &mut [T],
        line: &mut [f32],
    ) {
        let (all, some) = (self.from, channels.len());
        if let Some(x) = T::direct(x) {
            let x = &x[rows.start * all..rows.end * all];
            if some == all {
                return out.copy_from_slice(x);
            }
            for (out, row) in out.chunks_exact_mut(some).zip(x.chunks_exact(all)) {
                out.copy_from_slice(&row[channels.clone()]);
            }
            return;
        }
        if some == all && T::load(machine, x, rows.start, rows.len(), worker, out) {
            return;
        }
        let most = line.len() / all;
        for (i, out) in out.chunks_mut(most * some).enumerate() {
            let count = out.len() / some;
            let line = &mut line[..count * all];
            x.load(machine, rows.start + i * most, count, worker, line);
            if some == all {
                T::take(machine, out, line);
                continue;
            }
            for (out, row) in out.chunks_exact_mut(some).zip(line.chunks_exact(all)) {
                T::take(machine, out, &row[channels.clone()]);
            }
        }
    }

    /// Whether no line of a window is passed over.
    fn reads_every_line(&self) -> bool {
        self.backward || self.conv.dilation[0] > 1 || self.kernel[0] >= self.conv.stride[0]
    }

    /// Whether a tap reads that line of a window.
    fn reads_line(&self, line: usize) -> bool {
        self.reads_every_line() || line % self.conv.stride[0] < self.kernel[0]
    }
}
