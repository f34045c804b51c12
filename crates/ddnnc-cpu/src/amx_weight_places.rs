//! Where a weight gradient by tiles finds what it multiplies.
//!
//! A pair is one position of two neighbouring images, a couple. For a chunk of lines of y of some couples, dy is steps of
//! sixteen pairs: line after line, in each the couples of one column after another, and zeros up to a whole step. The rows of
//! x lie in planes, one for each phase of the stride that a tap reads, so that what lies beneath neighbouring columns of y
//! are neighbours. A line of a plane has a place for every column that any tap reads, with zeros for those outside the map:
//! so each tap of a line is a run of places as long as that of dy. Lines outside the map are left out.

use crate::convolution::Geometry;
use crate::plan::gcd;
use std::ops::Range;

/// Pairs of a step.
pub const STEP: usize = 16;

/// f32 of the tile that sixteen pairs of sixteen channels are.
pub const TILE: usize = 256;

/// Pairs that a chunk aims at: enough that sums are read and written seldom, while its operands stay in the second cache.
pub const PAIRS: usize = 384;

/// The most couples of a chunk of some lines of a map.
const COUPLES: usize = 16;

/// One axis of a convolution.
#[derive(Clone, Copy, Debug)]
pub struct Axis {
    stride: usize,
    pad: usize,
    dilation: usize,
    taps: usize,
    /// Lines of x.
    source: usize,
    /// Lines of y.
    pub result: usize,
}

impl Axis {
    fn new(g: &Geometry, i: usize) -> Axis {
        let (stride, pad, dilation) = (g.conv.stride[i], g.conv.pad[i], g.conv.dilation[i]);
        Axis { stride, pad, dilation, taps: g.kernel[i], source: g.input[i], result: g.output[i] }
    }

    /// Planes that taps read: their phases come again after so many taps.
    pub fn planes(&self) -> usize {
        self.taps.min(self.stride / gcd(self.stride, self.dilation))
    }

    /// The line of x that a tap reads for line 0 of y, which may be outside.
    fn first(&self, tap: usize) -> isize {
        (tap * self.dilation) as isize - self.pad as isize
    }

    /// The line of x at place 0 of a plane.
    fn phase(&self, plane: usize) -> usize {
        self.first(plane).rem_euclid(self.stride as isize) as usize
    }

    /// How many places ahead of a line of y a tap reads.
    fn ahead(&self, tap: usize) -> isize {
        self.first(tap).div_euclid(self.stride as isize)
    }

    /// The least and the most of that.
    fn reach(&self) -> [isize; 2] {
        [self.ahead(0), self.ahead(self.taps - 1)]
    }

    /// Lines of x of a plane.
    fn filled(&self, plane: usize) -> usize {
        self.source.saturating_sub(self.phase(plane)).div_ceil(self.stride)
    }

    /// Places from the first that so many lines of y read to past the last.
    fn read(&self, lines: usize) -> usize {
        let [least, most] = self.reach();
        lines + (most - least) as usize
    }

    /// The lines of y for which a tap reads a line that is there.
    fn inside(&self, tap: usize) -> Range<usize> {
        let ahead = self.ahead(tap);
        let first = (-ahead).max(0) as usize;
        let end = (self.filled(tap % self.planes()) as isize - ahead).clamp(0, self.result as isize) as usize;
        first.min(end)..end
    }

    /// Whether a tap reads that place of a plane for some of those lines of y.
    fn is_read(&self, plane: usize, place: usize, lines: &Range<usize>) -> bool {
        let line = |tap: usize| place as isize - self.ahead(tap);
        let reads = |tap| line(tap) >= lines.start as isize && line(tap) < lines.end as isize;
        (plane..self.taps).step_by(self.planes()).any(reads)
    }

    /// Places of planes that lines of y read, but those outside all of them.
    fn places(&self, lines: &Range<usize>) -> Range<usize> {
        let [least, most] = self.reach();
        let all = (0..self.planes()).map(|plane| self.filled(plane)).max().unwrap_or(0);
        let inside = |at: isize| at.clamp(0, all as isize) as usize;
        inside(lines.start as isize + least)..inside(lines.end as isize + most)
    }
}

/// The places of a convolution, and how it is cut into chunks.
#[derive(Clone, Copy, Debug)]
pub struct Places {
    pub rows: Axis,
    pub columns: Axis,
    /// The most lines of y of a chunk.
    pub lines: usize,
    /// The most couples of a chunk.
    pub couples: usize,
}

/// Lines of y of some couples.
#[derive(Clone, Debug)]
pub struct Part {
    pub lines: Range<usize>,
    pub couples: usize,
    /// The places of planes for one couple, down.
    down: Range<usize>,
    /// Places of a plane, for all couples, with room for a last step that is not full.
    plane: usize,
}

/// A line of a plane: of what row of x its places are from which place on, how many of them, and how many rows apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line {
    /// The line of x.
    pub row: usize,
    /// The first column of x.
    pub column: usize,
    /// Columns from one to the next.
    pub step: usize,
    /// Their number.
    pub count: usize,
    /// Places before the first, which are zeros.
    pub before: usize,
}

impl Places {
    /// For so many couples and output channels of a task.
    pub fn new(g: &Geometry, couples: usize, outputs: usize) -> Places {
        let (rows, columns) = (Axis::new(g, 0), Axis::new(g, 1));
        let mut places = Places { rows, columns, lines: 1, couples: 1 };
        let (height, across) = (rows.result.max(1), columns.result.max(1));
        let mut best = f64::INFINITY;
        for some in 1..=couples.clamp(1, COUPLES) {
            let lines = (PAIRS / (across * some)).clamp(1, height);
            let lines = height.div_ceil(height.div_ceil(lines));
            // A map that is smaller than a chunk.
            let some =
                if lines == height { some.max(PAIRS / (across * height)).min(couples.max(1)) } else { some };
            let pairs = (lines * across * some) as f64;
            let steps = (lines * (across * some).div_ceil(STEP)) as f64;
            // Cycles of a position: products, packing of dy and of x, sums that are read and written again.
            let blocks = outputs.div_ceil(32) as f64;
            let taps = g.taps() as f64;
            let products = steps * 64.0 * taps * blocks;
            let packing =
                steps * 120.0 * blocks + 4.0 * (rows.read(lines) * columns.read(across) * some) as f64;
            let sums = 128.0 * taps * blocks;
            let cost = (products + packing + sums) / pairs;
            if cost < best {
                best = cost;
                (places.lines, places.couples) = (lines, some);
            }
        }
        places
    }

    /// Steps of one line of dy.
    fn line_steps(&self, couples: usize) -> usize {
        (self.columns.result * couples).div_ceil(STEP)
    }

    /// Steps of dy.
    pub fn steps(&self, part: &Part) -> usize {
        part.lines.len() * self.line_steps(part.couples)
    }

    /// The most steps of a chunk.
    pub fn most_steps(&self) -> usize {
        self.lines * self.line_steps(self.couples)
    }

    /// Places of a line of a plane, for one couple.
    pub fn across(&self) -> usize {
        self.columns.read(self.columns.result)
    }

    /// Some lines of y of so many couples.
    pub fn part(&self, lines: Range<usize>, couples: usize) -> Part {
        let down = self.rows.places(&lines);
        let plane = down.len() * self.across() * couples + STEP;
        Part { lines, couples, down, plane }
    }

    /// Places of all planes.
    pub fn size(&self, part: &Part) -> usize {
        self.rows.planes() * self.columns.planes() * part.plane
    }

    /// The most places of all planes of a chunk.
    pub fn most_size(&self) -> usize {
        let lines = self.rows.read(self.lines);
        self.rows.planes() * self.columns.planes() * (lines * self.across() * self.couples + STEP)
    }

    /// Calls `f(places, line)` for the lines of all planes in order; `None` where the map has no such line, or no tap reads
    /// it. Between them and behind the last is nothing but the room for a last step. Lines that lie side by side in x and in
    /// the plane are one.
    pub fn each_line(&self, part: &Part, mut f: impl FnMut(Range<usize>, Option<Line>)) {
        let (rows, columns) = (&self.rows, &self.columns);
        let (least, across) = (columns.reach()[0], self.across());
        let (line, before) = (across * part.couples, (-least).max(0) as usize);
        for plane in 0..rows.planes() * columns.planes() {
            let (down, right) = (plane / columns.planes(), plane % columns.planes());
            let count = columns.filled(right).min(across.saturating_sub(before));
            let (filled, phase) = (rows.filled(down), rows.phase(down));
            let from = |place: usize, lines: usize| Line {
                row: place * rows.stride + phase,
                column: columns.phase(right),
                step: columns.stride,
                count: count * lines,
                before: before.min(across),
            };
            let first = plane * part.plane;
            if rows.taps == 1
                && rows.stride == 1
                && columns.stride == 1
                && across == columns.source
                && count == across
            {
                f(first..first + part.down.len() * line, Some(from(part.down.start, part.down.len())));
                continue;
            }
            for (i, place) in part.down.clone().enumerate() {
                let there = count > 0 && place < filled && rows.is_read(down, place, &part.lines);
                let first = first + i * line;
                f(first..first + line, there.then(|| from(place, 1)));
            }
        }
    }

    /// Lists the steps that the taps of one row of the kernel multiply: the step of dy, and the place in the planes that the
    /// row reads, of which [`Places::shift`] says the tap's. Returns how many.
    pub fn list(&self, part: &Part, row: usize, out: &mut [[u32; 2]]) -> usize {
        let (inside, steps) = (self.rows.inside(row), self.line_steps(part.couples));
        let base = row % self.rows.planes() * self.columns.planes() * part.plane;
        let mut count = 0;
        for line in inside.start.max(part.lines.start)..inside.end.min(part.lines.end) {
            let place = (line as isize + self.rows.ahead(row)) as usize - part.down.start;
            for step in 0..steps {
                let of_dy = (line - part.lines.start) * steps + step;
                let of_x = base + place * self.across() * part.couples + step * STEP;
                out[count] = [of_dy as u32, of_x as u32];
                count += 1;
            }
        }
        count
    }

    /// How many places further the tap of a column of the kernel reads.
    pub fn shift(&self, part: &Part, column: usize) -> usize {
        let [least, _] = self.columns.reach();
        let plane = column % self.columns.planes();
        plane * part.plane + (self.columns.ahead(column) - least) as usize * part.couples
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ddnnc_ir::Conv;

    #[test]
    fn taps_find_their_positions_or_zeros() {
        for kernel in 1..5 {
            for (stride, pad, dilation) in
                (1..4).flat_map(|s| (0..4).flat_map(move |p| (1..4).map(move |d| (s, p, d))))
            {
                for side in [1, 2, 5, 9] {
                    let conv =
                        Conv { stride: [stride; 2], pad: [pad; 2], dilation: [dilation; 2], groups: 1 };
                    if let Some(output) = conv.output([side, side + 3], [kernel; 2]) {
                        let input = [side, side + 3];
                        let g = Geometry { conv, input, output, kernel: [kernel; 2], inputs: 1, outputs: 1 };
                        for (lines, couples) in [(1, 1), (2, 3), (output[0], 2)] {
                            check(&g, lines.min(output[0]), couples);
                        }
                    }
                }
            }
        }
    }

    /// The column and the couple of each pair of a step of a line; `None` for the zeros behind the last.
    fn pairs(columns: usize, couples: usize, step: usize) -> impl Iterator<Item = Option<[usize; 2]>> {
        (step * STEP..(step + 1) * STEP)
            .map(move |at| (at < columns * couples).then(|| [at / couples, at % couples]))
    }

    /// Every product of the definition once, and zeros else.
    fn check(g: &Geometry, lines: usize, couples: usize) {
        let places = Places { lines, couples, ..Places::new(g, couples, 1) };
        for first in (0..g.output[0]).step_by(lines) {
            let part = places.part(first..g.output[0].min(first + lines), couples);
            // What lies at each place: the position and couple, or zero; not a number where nothing was put.
            let size = places.size(&part);
            assert!(size <= places.most_size() && places.steps(&part) <= places.most_steps());
            let mut planes = vec![None; size];
            let mut end = 0;
            places.each_line(&part, |at, line| {
                planes[end..at.end].fill(Some(None));
                end = at.end;
                let Some(line) = line else { return };
                for i in 0..line.count {
                    // Lines may be one.
                    let position = line.row * g.input[1] + line.column + i * line.step;
                    let position = [position / g.input[1], position % g.input[1]];
                    assert!(position[0] < g.input[0], "{g:?} {position:?}");
                    for couple in 0..couples {
                        let place = at.start + (line.before + i) * couples + couple;
                        planes[place] = Some(Some((position, couple)));
                    }
                }
            });
            planes[end..].fill(Some(None));
            let mut list = vec![[0; 2]; places.steps(&part)];
            for tap in 0..g.taps() {
                let at = [tap / g.kernel[1], tap % g.kernel[1]];
                let count = places.list(&part, at[0], &mut list);
                let shift = places.shift(&part, at[1]);
                let mut found = Vec::new();
                for &[step, place] in &list[..count] {
                    let line_steps = places.line_steps(couples);
                    let (line, step) = (first + step as usize / line_steps, step as usize % line_steps);
                    for (i, pair) in pairs(g.output[1], couples, step).enumerate() {
                        let x = planes[place as usize + shift + i].expect("something was put there");
                        if let (Some([column, couple]), Some((position, other))) = (pair, x) {
                            assert_eq!(couple, other);
                            found.push(([line, column], position, couple));
                        }
                    }
                }
                let mut expected = Vec::new();
                for line in part.lines.clone() {
                    for column in 0..g.output[1] {
                        let [row, across] = [0, 1].map(|i| {
                            ([line, column][i] * g.conv.stride[i] + at[i] * g.conv.dilation[i])
                                .checked_sub(g.conv.pad[i])
                                .filter(|&p| p < g.input[i])
                        });
                        if let (Some(row), Some(across)) = (row, across) {
                            expected.extend((0..couples).map(|c| ([line, column], [row, across], c)));
                        }
                    }
                }
                assert_eq!(found, expected, "{g:?} {part:?} tap {at:?}");
            }
        }
    }
}
