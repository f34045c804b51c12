//! Gathering the columns of a convolution: row k = (channel, tap row, tap column), one entry per output position.

use ddnnc_ir::Conv;

/// Which entry of the source a tap at an output position reads along one axis: position · scale + tap · step + offset,
/// where that is inside; else zero.
#[derive(Clone, Copy, Debug)]
struct Axis {
    scale: usize,
    step: isize,
    offset: isize,
    /// Extent of the source.
    size: usize,
}

impl Axis {
    fn source(&self, position: usize, tap: usize) -> Option<usize> {
        let at = usize::try_from(self.begin(position, tap)).ok()?;
        (at < self.size).then_some(at)
    }

    /// As `source`, whether inside or not.
    fn begin(&self, position: usize, tap: usize) -> isize {
        (position * self.scale) as isize + tap as isize * self.step + self.offset
    }
}

/// The geometry of a gathering.
#[derive(Clone, Copy, Debug)]
pub struct Columns {
    rows: Axis,
    columns: Axis,
    kernel: [usize; 2],
    /// Columns of the map of positions.
    width: usize,
}

impl Columns {
    /// What a convolution reads of its input for each output position; `source` is (H, W), `width` is W'.
    pub fn forward(conv: &Conv, source: [usize; 2], kernel: [usize; 2], width: usize) -> Columns {
        let axis = |i: usize| Axis {
            scale: conv.stride[i],
            step: conv.dilation[i] as isize,
            offset: -(conv.pad[i] as isize),
            size: source[i],
        };
        Columns { rows: axis(0), columns: axis(1), kernel, width }
    }

    /// What the input gradient reads of dy, whose extents are `source`, for the inputs of a phase.
    pub fn backward(conv: &Conv, source: [usize; 2], [rows, columns]: [Phase; 2]) -> Columns {
        let axis = |i: usize, phase: Phase| Axis {
            scale: 1,
            step: -((phase.skip * conv.dilation[i] / conv.stride[i]) as isize),
            offset: phase.offset,
            size: source[i],
        };
        let kernel = [rows.taps, columns.taps];
        Columns { rows: axis(0, rows), columns: axis(1, columns), kernel, width: columns.positions }
    }

    /// Gathers rows `from..from + count` of the columns at `positions` positions from `first` on.
    ///
    /// `maps` begins with the group's first channel of one image. Row i goes to `out[i · pitch..]`; entries
    /// from `positions` to `pitch` stay as they were.
    #[inline(always)]
    pub fn gather(
        &self,
        maps: &[f32],
        (from, count): (usize, usize),
        (first, positions): (usize, usize),
        out: &mut [f32],
        pitch: usize,
    ) {
        let taps = self.kernel[0] * self.kernel[1];
        let area = self.rows.size * self.columns.size;
        for (i, out) in out.chunks_exact_mut(pitch).take(count).enumerate() {
            let k = from + i;
            let map = &maps[k / taps * area..][..area];
            let tap = [k % taps / self.kernel[1], k % self.kernel[1]];
            let mut at = 0;
            while at < positions {
                let (row, column) = ((first + at) / self.width, (first + at) % self.width);
                let run = (self.width - column).min(positions - at);
                let to = &mut out[at..at + run];
                match self.rows.source(row, tap[0]) {
                    None => to.fill(0.0),
                    Some(h) => self.gather_run(
                        &map[h * self.columns.size..][..self.columns.size],
                        column,
                        tap[1],
                        to,
                    ),
                }
                at += run;
            }
        }
    }

    /// One run of positions in a row of the map.
    #[inline(always)]
    fn gather_run(&self, line: &[f32], column: usize, tap: usize, to: &mut [f32]) {
        let axis = &self.columns;
        let begin = axis.begin(column, tap);
        // Positions before `low` read left of the line, positions from `high` on right of it.
        let low = (-begin).max(0).unsigned_abs().div_ceil(axis.scale).min(to.len());
        let space = (line.len() as isize - begin).max(0).unsigned_abs();
        let high = space.div_ceil(axis.scale).clamp(low, to.len());
        to[..low].fill(0.0);
        to[high..].fill(0.0);
        if low < high {
            let start = (begin + (low * axis.scale) as isize) as usize;
            if axis.scale == 1 {
                to[low..high].copy_from_slice(&line[start..start + high - low]);
            } else {
                let from = line[start..].iter().step_by(axis.scale);
                to[low..high].iter_mut().zip(from).for_each(|(t, f)| *t = *f);
            }
        }
    }
}

/// Along one axis, the inputs of one residue modulo the stride, and the taps through which the input gradient reaches
/// them.
///
/// Input i = first + stride · p gets dy[o] through tap k where i + pad = stride · o + dilation · k. That has a whole o
/// for every p or for none, so the taps of a phase are `tap`, `tap + skip`, …, and o = p + offset for the first of
/// them, dilation · skip / stride less for each that follows. Every tap belongs to one phase.
#[derive(Clone, Copy, Debug)]
pub struct Phase {
    /// The first input.
    pub first: usize,
    /// Inputs.
    pub positions: usize,
    /// The first tap.
    pub tap: usize,
    /// Taps; may be none.
    pub taps: usize,
    /// Step between taps.
    pub skip: usize,
    offset: isize,
}

impl Phase {
    /// The phases along axis `i` of `size` inputs under a kernel of `kernel` taps, those without inputs left out.
    pub fn along(conv: Conv, i: usize, size: usize, kernel: usize) -> impl Iterator<Item = Phase> + Clone {
        let (stride, pad, dilation) = (conv.stride[i], conv.pad[i], conv.dilation[i]);
        let skip = stride / gcd(stride, dilation);
        (0..stride.min(size)).map(move |first| {
            let tap = (0..skip.min(kernel)).find(|k| (first + pad) % stride == k * dilation % stride);
            let offset = (first + pad) as isize - (tap.unwrap_or(0) * dilation) as isize;
            Phase {
                first,
                positions: (size - first).div_ceil(stride),
                tap: tap.unwrap_or(0),
                taps: tap.map_or(0, |tap| (kernel - tap).div_ceil(skip)),
                skip,
                offset: offset / stride as isize,
            }
        })
    }
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}
