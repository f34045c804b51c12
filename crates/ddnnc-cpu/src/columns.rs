//! Gathering the columns of a convolution: row k = (channel, tap row, tap column), one entry per output position.

use ddnnc_ir::Conv;

/// Which entry of the source a tap at an output position reads along one axis:
/// (position · scale + tap · step + offset) / divisor, where that is whole and inside; else zero.
#[derive(Clone, Copy, Debug)]
struct Axis {
    scale: isize,
    step: isize,
    offset: isize,
    divisor: isize,
    /// Extent of the source.
    size: usize,
}

impl Axis {
    fn source(&self, position: usize, tap: usize) -> Option<usize> {
        let at = position as isize * self.scale + tap as isize * self.step + self.offset;
        if at < 0 || at % self.divisor != 0 {
            return None;
        }
        let at = (at / self.divisor) as usize;
        (at < self.size).then_some(at)
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
            scale: conv.stride[i] as isize,
            step: conv.dilation[i] as isize,
            offset: -(conv.pad[i] as isize),
            divisor: 1,
            size: source[i],
        };
        Columns { rows: axis(0), columns: axis(1), kernel, width }
    }

    /// What the input gradient reads of dy for each input position; `source` is (H', W'), `width` is W.
    pub fn backward(conv: &Conv, source: [usize; 2], kernel: [usize; 2], width: usize) -> Columns {
        let axis = |i: usize| Axis {
            scale: 1,
            step: -(conv.dilation[i] as isize),
            offset: conv.pad[i] as isize,
            divisor: conv.stride[i] as isize,
            size: source[i],
        };
        Columns { rows: axis(0), columns: axis(1), kernel, width }
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
        let begin = column as isize * axis.scale + tap as isize * axis.step + axis.offset;
        if axis.divisor == 1 {
            // Positions before `low` read left of the line, positions from `high` on right of it.
            let low = ((-begin).max(0) as usize).div_ceil(axis.scale as usize).min(to.len());
            let space = (line.len() as isize - begin).max(0) as usize;
            let high = space.div_ceil(axis.scale as usize).clamp(low, to.len());
            to[..low].fill(0.0);
            to[high..].fill(0.0);
            if low < high {
                let start = (begin + low as isize * axis.scale) as usize;
                if axis.scale == 1 {
                    to[low..high].copy_from_slice(&line[start..start + high - low]);
                } else {
                    let from = line[start..].iter().step_by(axis.scale as usize);
                    to[low..high].iter_mut().zip(from).for_each(|(t, f)| *t = *f);
                }
            }
        } else {
            for (i, t) in to.iter_mut().enumerate() {
                *t = axis.source(column + i, tap).map_or(0.0, |w| line[w]);
            }
        }
    }
}
