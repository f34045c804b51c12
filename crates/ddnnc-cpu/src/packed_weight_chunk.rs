//! What a weight gradient sums over in one go, and how its operands are packed.
//!
//! What is multiplied is an f32, or a pair of bf16: one position in each of two neighbouring images, a couple. So a pair of x
//! serves every tap as an f32 does, and is packed once; and a position that a tap finds outside the map is outside for both,
//! and left out. The image behind an odd last one is zero. A couple in f32 is one image.

use crate::ahead::Ahead;
use crate::convolution::{Geometry, Rows};
use crate::device::Machine;
use crate::packed_weight_tile::{Half, Runs, Span, columns};
use crate::plan::Element;
use crate::simd::Level;
use std::ops::Range;

/// f32 of rows that are computed at a time, about, where they are rounded to bf16 behind it.
const LOADED: usize = 1 << 12;

/// f32 that computed rows of so many channels need.
pub fn line(channels: usize) -> usize {
    2 * loaded(channels) * channels
}

/// Rows of each of two images that are computed at a time.
fn loaded(channels: usize) -> usize {
    (LOADED / 2 / channels.max(1)).clamp(1, 64)
}

/// One axis of a convolution.
#[derive(Clone, Copy, Debug)]
struct Axis {
    stride: usize,
    pad: usize,
    dilation: usize,
    taps: usize,
    /// Lines of x.
    source: usize,
    /// Lines of y.
    result: usize,
}

impl Axis {
    fn new(g: &Geometry, i: usize) -> Axis {
        let (stride, pad, dilation) = (g.conv.stride[i], g.conv.pad[i], g.conv.dilation[i]);
        Axis { stride, pad, dilation, taps: g.kernel[i], source: g.input[i], result: g.output[i] }
    }

    /// The lines of y whose line of x beneath a tap is inside.
    fn inside(&self, tap: usize) -> Range<usize> {
        let ahead = tap * self.dilation;
        let before =
            |line: usize| (line + self.pad).saturating_sub(ahead).div_ceil(self.stride).min(self.result);
        before(0)..before(self.source)
    }

    /// The line of x beneath a tap, for a line of y for which that is inside.
    fn line(&self, result: usize, tap: usize) -> usize {
        result * self.stride + tap * self.dilation - self.pad
    }

    /// Lines of x from the first that lines of y read to past the last.
    fn reads(&self, lines: Range<usize>) -> Range<usize> {
        let reach = (self.taps - 1) * self.dilation;
        let first = (lines.start * self.stride).saturating_sub(self.pad).min(self.source);
        let end = ((lines.end - 1) * self.stride + reach + 1).saturating_sub(self.pad).min(self.source);
        first..end.max(first)
    }

    /// The most lines of x that are packed for so many lines of y: of one tap, those beneath them alone.
    fn packed(&self, lines: usize) -> usize {
        if self.taps == 1 {
            return lines;
        }
        self.source.min((lines - 1) * self.stride + (self.taps - 1) * self.dilation + 1)
    }

    /// Places for the columns of x: those of a phase of the stride lie side by side.
    fn columns(&self) -> usize {
        if self.taps == 1 { self.result } else { self.stride * self.source.div_ceil(self.stride) }
    }

    /// The place of the column of x beneath a tap.
    fn column(&self, result: usize, tap: usize) -> usize {
        if self.taps == 1 {
            return result;
        }
        let at = self.line(result, tap);
        at % self.stride * self.source.div_ceil(self.stride) + at / self.stride
    }
}

/// The extents of chunks.
#[derive(Clone, Copy, Debug)]
pub struct Extent {
    rows: Axis,
    columns: Axis,
    /// Couples of images of a chunk.
    couples: usize,
    /// Lines of y of a chunk; all where it has several couples.
    lines: usize,
    /// Channels of x.
    inputs: usize,
    /// Images of a couple: two where elements become pairs of bf16.
    together: usize,
    /// Rows of a panel of x.
    width: usize,
}

impl Extent {
    /// For about so many positions of couples of so many images, and panels of x of so many rows.
    pub fn new(g: &Geometry, together: usize, pairs: usize, width: usize) -> Extent {
        let (rows, columns) = (Axis::new(g, 0), Axis::new(g, 1));
        let [height, across] = g.output;
        let lines = height.div_ceil(height.div_ceil((pairs / across.max(1)).max(1)).max(1));
        let couples = if lines < height { 1 } else { (pairs / (height * across).max(1)).max(1) };
        Extent { rows, columns, couples, lines, inputs: g.inputs, together, width }
    }

    /// For chunks of so many couples of so many images, and lines; panels are not packed.
    #[cfg(target_arch = "x86_64")]
    pub fn of(g: &Geometry, together: usize, couples: usize, lines: usize) -> Extent {
        let (rows, columns) = (Axis::new(g, 0), Axis::new(g, 1));
        Extent { rows, columns, couples, lines, inputs: g.inputs, together, width: 0 }
    }

    /// The most positions of y, of a couple at once.
    pub fn pairs(&self) -> usize {
        self.couples * self.lines * self.columns.result
    }

    /// The most positions of x, of a couple at once.
    pub fn packed(&self) -> usize {
        self.couples * self.rows.packed(self.lines) * self.columns.columns()
    }

    /// The most elements of a window of computed rows of x.
    pub fn window(&self) -> usize {
        let reach = (self.rows.taps - 1) * self.rows.dilation;
        let lines = self.rows.source.min((self.lines - 1) * self.rows.stride + reach + 1);
        self.together * self.couples * lines * self.columns.source * self.inputs
    }

    /// Calls `f` for the chunks of some couples of a part of so many images.
    pub fn each_chunk(&self, images: usize, couples: Range<usize>, mut f: impl FnMut(Chunk<'_>)) {
        for couple in couples.clone().step_by(self.couples) {
            let couples = self.couples.min(couples.end - couple);
            for line in (0..self.rows.result).step_by(self.lines) {
                let lines = line..self.rows.result.min(line + self.lines);
                let [first, end] = [couple, couple + couples].map(|c| c * self.together);
                f(Chunk { extent: self, first, images: images.min(end), lines });
            }
        }
    }
}

/// Rows as they lie in memory.
#[derive(Clone, Copy)]
pub enum Stored<'a> {
    F32(&'a [f32]),
    Bf16(&'a [u16]),
}

/// What computed rows of x are kept as, and what that makes of a couple.
pub trait Packed: Element {
    /// Images of a couple.
    const TOGETHER: usize;

    /// Rows of such elements.
    fn stored(rows: &[Self]) -> Stored<'_>;
}

impl Packed for f32 {
    const TOGETHER: usize = 1;

    fn stored(rows: &[f32]) -> Stored<'_> {
        Stored::F32(rows)
    }
}

impl Packed for u16 {
    const TOGETHER: usize = 2;

    fn stored(rows: &[u16]) -> Stored<'_> {
        Stored::Bf16(rows)
    }
}

/// Rows of x.
#[derive(Clone, Copy)]
pub struct Source<'a> {
    pub rows: Stored<'a>,
    /// Rows of an image.
    pub image: usize,
    /// The row with which they begin.
    pub base: usize,
}

/// Some lines of y, of some images.
pub struct Chunk<'a> {
    extent: &'a Extent,
    /// The first image, of a couple the first.
    pub first: usize,
    /// The image past the last.
    pub images: usize,
    lines: Range<usize>,
}

impl Chunk<'_> {
    /// Lines of y.
    #[cfg(target_arch = "x86_64")]
    pub fn lines(&self) -> Range<usize> {
        self.lines.clone()
    }

    /// The first image of each couple, and whether there is a second.
    fn couples(&self) -> impl Iterator<Item = (usize, bool)> + use<> {
        let (images, together) = (self.images, self.extent.together);
        (self.first..images)
            .step_by(self.extent.together)
            .map(move |image| (image, together == 2 && image + 1 < images))
    }

    /// Lines of x that are packed, of each couple.
    fn packed_lines(&self) -> usize {
        if self.extent.rows.taps == 1 {
            self.lines.len()
        } else {
            self.extent.rows.reads(self.lines.clone()).len()
        }
    }

    /// Calls `f(x, dy, count)` for runs of positions that a tap multiplies: the first place in packed x and the first position
    /// in packed dy, in positions, and how many follow one another in both.
    fn each_run(&self, tap: usize, mut f: impl FnMut(usize, usize, usize)) {
        let Extent { rows, columns, .. } = self.extent;
        let tap = [tap / columns.taps, tap % columns.taps];
        let inside = rows.inside(tap[0]);
        let lines = inside.start.max(self.lines.start)..inside.end.min(self.lines.end);
        let across = columns.inside(tap[1]);
        let (packed, top) = (self.packed_lines(), rows.reads(self.lines.clone()).start);
        if across.is_empty() {
            return;
        }
        for couple in 0..(self.images - self.first).div_ceil(self.extent.together) {
            for line in lines.clone() {
                let below =
                    if rows.taps == 1 { line - self.lines.start } else { rows.line(line, tap[0]) - top };
                let from =
                    (couple * packed + below) * columns.columns() + columns.column(across.start, tap[1]);
                let to =
                    (couple * self.lines.len() + line - self.lines.start) * columns.result + across.start;
                f(from, to, across.len());
            }
        }
    }

    /// Lists the pairs of positions that a tap multiplies: where they begin in a panel of x and in dy, whose pairs are
    /// `pitch` apart. Returns how many.
    pub fn list(&self, tap: usize, pitch: usize, out: &mut [[u32; 2]]) -> usize {
        let width = self.extent.width;
        let mut count = 0;
        self.each_run(tap, |from, to, n| {
            let (mut from, mut to) = ((from * width) as u32, (to * pitch) as u32);
            for place in &mut out[count..count + n] {
                *place = [from, to];
                (from, to) = (from + width as u32, to + pitch as u32);
            }
            count += n;
        });
        count
    }

    /// Lists the rows of x and dy of the chunk behind it, if there is one among the couples before that end.
    pub fn list_next(&self, x: &dyn Rows, dy: &dyn Rows, images: usize, end: usize, ahead: &mut Ahead) {
        let Extent { rows, columns, lines, together, .. } = *self.extent;
        let (below, end) = (self.lines.end, images.min(end * together));
        let (images, lines) = if below < rows.result {
            (self.first..self.images, below..rows.result.min(below + lines))
        } else {
            let next = self.images..end.min(self.images + self.extent.couples * together);
            (next, 0..lines.min(rows.result))
        };
        let of_x = rows.reads(lines.clone());
        let whole = lines.len() == rows.result;
        // Whole images follow one another.
        for image in images.clone().step_by(if whole { images.len().max(1) } else { 1 }) {
            let count = if whole { images.len() } else { 1 };
            for (map, height, lines, width) in
                [(x, rows.source, &of_x, columns.source), (dy, rows.result, &lines, columns.result)]
            {
                let lines = if whole { 0..count * height } else { lines.clone() };
                map.list((image * height + lines.start) * width, lines.len() * width, ahead);
            }
        }
    }

    /// Lists the lines that a row of taps multiplies, of a convolution of stride 1: where they begin in a panel of x and in dy,
    /// whose pairs are `pitch` apart. Returns how many.
    pub fn whole_lines(&self, row: usize, pitch: usize, out: &mut [[u32; 2]]) -> usize {
        let Extent { rows, columns, width, .. } = *self.extent;
        let inside = rows.inside(row);
        let lines = inside.start.max(self.lines.start)..inside.end.min(self.lines.end);
        let (packed, top) = (self.packed_lines(), rows.reads(self.lines.clone()).start);
        let mut count = 0;
        for couple in 0..(self.images - self.first).div_ceil(self.extent.together) {
            for line in lines.clone() {
                let below = if rows.taps == 1 { line - self.lines.start } else { rows.line(line, row) - top };
                let from = (couple * packed + below) * columns.columns() * width;
                let to = (couple * self.lines.len() + line - self.lines.start) * columns.result * pitch;
                out[count] = [from as u32, to as u32];
                count += 1;
            }
        }
        count
    }

    /// Lists them as spans; runs that follow one another are one. Returns how many.
    pub fn spans(&self, tap: usize, pitch: usize, out: &mut [Span]) -> usize {
        let width = self.extent.width;
        let mut count = 0;
        self.each_run(tap, |from, to, n| {
            let (place, n) = ([(from * width) as u32, (to * pitch) as u32], n as u32);
            let last = out[..count].last_mut();
            let next = |s: &Span| [s.place[0] + s.count * width as u32, s.place[1] + s.count * pitch as u32];
            match last {
                Some(last) if next(last) == place => last.count += n,
                _ => {
                    out[count] = Span { place, count: n, rest: 0 };
                    count += 1;
                }
            }
        });
        count
    }

    /// Packs some channels of the rows of dy, pairs `pitch` apart, and panels `step` where it is some.
    pub fn pack_dy(
        &self,
        load: &Load<'_>,
        dy: &dyn Rows,
        channels: Range<usize>,
        line: &mut [f32],
        [pitch, step]: [usize; 2],
        out: &mut [f32],
    ) {
        let (all, across) = (dy.channels(), self.extent.columns.result);
        let count = self.lines.len() * across;
        let map = self.extent.rows.result * across;
        let level = load.machine.level;
        let width = columns(level).unwrap_or(step);
        for (couple, (image, two)) in self.couples().enumerate() {
            let out = &mut out[couple * count * pitch..];
            let row = image * map + self.lines.start * across;
            let first = row * all + channels.start;
            let first = (first, two.then_some(first + map * all));
            let (channels, pairs) = (channels.len(), self.extent.together == 2);
            match (dy.direct_bf16(), dy.direct()) {
                (Some(rows), _) => Runs { rows, first, step: all, count, channels, pairs, width }
                    .pack(level, out, pitch, step),
                (_, Some(rows)) => Runs { rows, first, step: all, count, channels, pairs, width }
                    .pack(level, out, pitch, step),
                _ => {
                    let some = loaded(all);
                    for at in (0..count).step_by(some) {
                        let count = some.min(count - at);
                        let (one, other) = line.split_at_mut(some * all);
                        dy.load(load.machine, row + at, count, load.worker, &mut one[..count * all]);
                        if two {
                            dy.load(
                                load.machine,
                                row + map + at,
                                count,
                                load.worker,
                                &mut other[..count * all],
                            );
                        }
                        let begin = first.0 - row * all;
                        let first = (begin, two.then_some(begin + some * all));
                        let runs = Runs { rows: &*line, first, step: all, count, channels, pairs, width };
                        runs.pack(level, &mut out[at * pitch..], pitch, step);
                    }
                }
            }
        }
    }

    /// Computes the rows of x that the chunk reads.
    pub fn window<'b, T: Packed>(
        &self,
        load: &Load<'_>,
        x: &dyn Rows,
        line: &mut [f32],
        window: &'b mut [T],
    ) -> Source<'b> {
        let Extent { rows, columns, inputs, .. } = *self.extent;
        let lines = rows.reads(self.lines.clone());
        let size = lines.len() * columns.source * inputs;
        for (image, out) in (self.first..self.images).zip(window.chunks_exact_mut(size.max(1))) {
            let above = image * rows.source;
            load.lines(x, above + lines.start..above + lines.end, line, out);
        }
        let image = lines.len() * columns.source;
        let base = self.first * image + lines.start * columns.source;
        Source { rows: T::stored(window), image, base }
    }

    /// Packs some channels of the rows of x into panels, `step` apart.
    pub fn pack_x(
        &self,
        level: Level,
        source: &Source<'_>,
        channels: Range<usize>,
        out: &mut [f32],
        step: usize,
    ) {
        match source.rows {
            Stored::F32(rows) => self.pack_rows(level, rows, source, channels, out, step),
            Stored::Bf16(rows) => self.pack_rows(level, rows, source, channels, out, step),
        }
    }

    fn pack_rows<T: Half>(
        &self,
        level: Level,
        stored: &[T],
        source: &Source<'_>,
        channels: Range<usize>,
        out: &mut [f32],
        step: usize,
    ) {
        let Extent { rows, columns, inputs, width, .. } = *self.extent;
        let (packed, places) = (self.packed_lines(), columns.columns());
        let reads = rows.reads(self.lines.clone());
        // Lines and columns that are packed: with one tap those beneath lines of y, else all.
        let lines = if rows.taps == 1 {
            let inside = rows.inside(0);
            inside.start.max(self.lines.start)..inside.end.min(self.lines.end)
        } else {
            reads
        };
        let first_line = if rows.taps == 1 { self.lines.start } else { lines.start };
        let phases = if columns.taps == 1 { 1 } else { columns.stride };
        // Lines that lie side by side, in memory and packed, are one run.
        let whole = columns.stride == 1 && places == columns.source && (rows.taps > 1 || rows.stride == 1);
        let together = if whole { lines.len().max(1) } else { 1 };
        for (couple, (image, two)) in self.couples().enumerate() {
            for line in lines.clone().step_by(together) {
                let row = if rows.taps == 1 { rows.line(line, 0) } else { line };
                for phase in 0..phases {
                    let (column, to, count) = if columns.taps == 1 {
                        let inside = columns.inside(0);
                        if inside.is_empty() {
                            continue;
                        }
                        (columns.line(inside.start, 0), inside.start, inside.len())
                    } else {
                        let count = columns.source.saturating_sub(phase).div_ceil(columns.stride);
                        (phase, phase * columns.source.div_ceil(columns.stride), count)
                    };
                    if count == 0 {
                        continue;
                    }
                    let at = image * source.image + row * columns.source + column - source.base;
                    let first = at * inputs + channels.start;
                    let runs = Runs {
                        rows: stored,
                        first: (first, two.then_some(first + source.image * inputs)),
                        step: columns.stride * inputs,
                        count: count * together,
                        channels: channels.len(),
                        pairs: self.extent.together == 2,
                        width,
                    };
                    let to = (couple * packed + line - first_line) * places + to;
                    runs.pack(level, &mut out[to * width..], width, step);
                }
            }
        }
    }
}

/// Computes rows.
pub struct Load<'a> {
    pub machine: &'a Machine<'a>,
    pub worker: usize,
    pub g: &'a Geometry,
}

impl Load<'_> {
    /// Lines of x, one image after another, but those that no tap reads.
    pub fn lines<T: Element>(&self, x: &dyn Rows, lines: Range<usize>, line: &mut [f32], out: &mut [T]) {
        let (conv, [height, width]) = (&self.g.conv, self.g.input);
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

    /// Rows from one on.
    pub fn rows<T: Element>(
        &self,
        x: &dyn Rows,
        first: usize,
        count: usize,
        line: &mut [f32],
        out: &mut [T],
    ) {
        if count == 0 || T::load(self.machine, x, first, count, self.worker, out) {
            return;
        }
        let all = x.channels();
        let some = 2 * loaded(all);
        for (i, out) in out.chunks_mut(some * all).enumerate() {
            let line = &mut line[..out.len()];
            x.load(self.machine, first + i * some, out.len() / all, self.worker, line);
            T::take(self.machine, out, line);
        }
    }
}
