//! The transforms of Winograd's F(4×4, 3×3), vectors of channels at a time.
//!
//! A result patch of 4×4 positions is Aᵀ [(G g Gᵀ) ⊙ (Bᵀ d B)] A, where g are the 3×3 taps of a channel pair and d the
//! 6×6 source positions that the patch reads: 36 products where the sum over the taps has 144. The points of the
//! underlying polynomials are 0, 1, −1, 2, −2 and infinity. The 36 elements of all patches are 36 matrices, [`Planes`].

#![expect(clippy::needless_range_loop, reason = "indices that are constants keep the vectors in registers")]

use crate::plan::{Data, Plan};
use crate::simd::Level;
use crate::vector::{Vector, Vectored, with_vectors};
use crate::winograd_source::{Held, Positions};
use std::ops::Range;

pub use crate::winograd_source::POINTS;

/// Result positions of a patch along an axis.
pub const SIDE: usize = 4;

/// Source positions of a patch along an axis.
pub const REACH: usize = 6;

/// Elements of a cache line.
const LINE: usize = 16;

/// Where the elements of transformed patches lie: element k of a channel of a patch at `k · plane + patch · row + channel`.
#[derive(Clone, Copy, Debug)]
pub struct Planes {
    /// Channels, without those that fill a row.
    pub channels: usize,
    /// Step between patches.
    pub row: usize,
    /// Step between elements.
    pub plane: usize,
}

impl Planes {
    /// For so many patches and channels.
    ///
    /// Both steps are an odd number of cache lines, so that neither columns of a product nor the elements of a patch
    /// push each other out of the cache.
    pub fn new(patches: usize, channels: usize) -> Planes {
        let odd = |elements: usize| (elements.div_ceil(LINE) | 1) * LINE;
        let row = odd(channels);
        Planes { channels, row, plane: odd(patches * row) }
    }

    /// Elements of all.
    pub fn size(&self) -> usize {
        POINTS * self.plane
    }
}

/// A patch of a task.
#[derive(Clone, Debug)]
pub struct Patch {
    /// Where its source begins in the data; may wrap where the first positions lie outside.
    at: usize,
    /// Source lines, of [`REACH`], that are in the data; what is not is zero.
    rows: Range<usize>,
    /// Source columns that are in the data.
    columns: Range<usize>,
    /// The result row of its first position, counted from the task's first row.
    to: usize,
    /// Result lines, at most [`SIDE`].
    height: usize,
    /// Result columns, at most [`SIDE`].
    width: usize,
}

/// Calls `f` for the patches that cover a run of result lines, image by image, in the order of the planes.
///
/// The plan is one of a 3×3 convolution of stride 1.
#[inline(always)]
fn each_patch(plan: &Plan, data: &Data<'_>, lines: Range<usize>, mut f: impl FnMut(Patch)) {
    let Some(([row, column], _)) = plan.phases().next() else { return };
    let right = if data.pitch == 0 { 0 } else { data.pitch / data.channels };
    // What of `REACH` positions from `begin` on lies in 0..size.
    let inside = |begin: isize, size: usize| {
        let clamp = |at: isize| at.clamp(0, REACH as isize) as usize;
        clamp(-begin)..clamp(size as isize - begin).max(clamp(-begin))
    };
    for segment in plan.segments(lines, *data) {
        let height = (segment.rows[1] - segment.rows[0]) as usize;
        for line in segment.lines.clone().step_by(SIDE) {
            let top = row.begin(line, segment.rows[0]) as isize;
            let to = (line * plan.result[1]).wrapping_add_signed(segment.row);
            for p in (0..plan.result[1]).step_by(SIDE) {
                let left = column.begin(p, data.left) as isize;
                let at = top * data.pitch as isize + left * data.channels as isize;
                f(Patch {
                    at: segment.at.wrapping_add_signed(at),
                    rows: inside(top, height),
                    columns: inside(left, right),
                    to: to + p,
                    height: SIDE.min(segment.lines.end - line),
                    width: SIDE.min(plan.result[1] - p),
                });
            }
        }
    }
}

/// The patches that cover a run of result lines.
pub fn patches(plan: &Plan, lines: Range<usize>) -> usize {
    let (height, mut line, mut count) = (plan.result[0], lines.start, 0);
    while line < lines.end {
        let end = lines.end.min((line / height + 1) * height);
        count += (end - line).div_ceil(SIDE);
        line = end;
    }
    count * plan.result[1].div_ceil(SIDE)
}

/// Bᵀ d B of all patches of a run of result lines.
///
/// # Panics
///
/// Where data or `out` are too small.
pub fn input(
    level: Level,
    plan: &Plan,
    data: Data<'_>,
    lines: Range<usize>,
    planes: &Planes,
    out: &mut [f32],
) {
    assert!(out.len() >= planes.size() && patches(plan, lines.clone()) * planes.row <= planes.plane);
    with_vectors(level, Input { plan, data, lines, planes, out });
}

struct Input<'a> {
    plan: &'a Plan,
    data: Data<'a>,
    lines: Range<usize>,
    planes: &'a Planes,
    out: &'a mut [f32],
}

impl Vectored for Input<'_> {
    #[inline(always)]
    unsafe fn run<S: Vector>(self) {
        let Input { plan, data, lines, planes, out } = self;
        // Copies, which no store can change.
        let (Planes { channels, row, plane }, pitch, step) = (*planes, data.pitch, data.channels);
        let mut to = out.as_mut_ptr();
        let mut held = Held::new();
        each_patch(plan, &data, lines, |patch| {
            if !patch.rows.is_empty() && !patch.columns.is_empty() {
                let at = |i: usize, j: usize| patch.at.wrapping_add(i * pitch + j * step);
                let last = at(patch.rows.end - 1, patch.columns.end - 1);
                let room = data.elements.len().checked_sub(channels);
                assert!(room.is_some_and(|room| last <= room), "the data are whole");
                assert!(at(patch.rows.start, patch.columns.start) <= last, "the data are whole");
            }
            let positions = Positions {
                from: data.elements.as_ptr().wrapping_add(patch.at),
                steps: [pitch, step],
                rows: patch.rows,
                columns: patch.columns,
            };
            for c in (0..channels).step_by(S::LANES) {
                let some = S::LANES.min(channels - c);
                // SAFETY: positions in the data are there by the assertions above, with all channels; rows are padded to
                // whole vectors, and `input` asserts room for all patches.
                unsafe { positions.transform::<S, REACH>(c, some, to.wrapping_add(c), plane, &mut held) }
            }
            to = to.wrapping_add(row);
        });
    }
}

/// G g.
#[inline(always)]
unsafe fn taps<S: Vector>(g: [S; 3]) -> [S; 6] {
    // SAFETY: promised.
    unsafe {
        let outer = g[0].plus(g[2]).times(-1.0 / 6.0);
        let far = g[0].times(1.0 / 24.0).sum(g[2], S::splat(1.0 / 6.0));
        let (near, twelfth) = (S::splat(1.0 / 6.0), S::splat(1.0 / 12.0));
        [
            g[0].times(0.25),
            outer.minus(g[1].times(1.0 / 6.0)),
            outer.sum(g[1], near),
            far.sum(g[1], twelfth),
            far.minus(g[1].times(1.0 / 12.0)),
            g[2],
        ]
    }
}

/// Aᵀ m.
#[inline(always)]
unsafe fn result<S: Vector>(m: [S; 6]) -> [S; 4] {
    // SAFETY: promised.
    unsafe {
        let (near, near_odd) = (m[1].plus(m[2]), m[1].minus(m[2]));
        let (far, far_odd) = (m[3].plus(m[4]), m[3].minus(m[4]));
        [
            m[0].plus(near).plus(far),
            near_odd.sum(far_odd, S::splat(2.0)),
            near.sum(far, S::splat(4.0)),
            near_odd.sum(far_odd, S::splat(8.0)).plus(m[5]),
        ]
    }
}

/// Result channels whose weights are gathered together.
pub const ROWS: usize = 16;

/// G g Gᵀ of `rows` result channels, whole vectors of them: tap `t` of a channel at `(channel · 9 + t) · ROWS + row`,
/// element k at `k · plane + channel · width + row`.
///
/// # Panics
///
/// Where an operand is too small.
pub fn weight(
    level: Level,
    [channels, rows]: [usize; 2],
    g: &[f32],
    out: &mut [f32],
    plane: usize,
    width: usize,
) {
    if channels == 0 {
        return;
    }
    assert!(rows <= ROWS && g.len() >= channels * 9 * ROWS, "the taps are whole");
    assert!(out.len() >= (POINTS - 1) * plane + (channels - 1) * width + rows, "the result has room");
    with_vectors(level, Weight { channels, rows, g, out, plane, width });
}

struct Weight<'a> {
    channels: usize,
    rows: usize,
    g: &'a [f32],
    out: &'a mut [f32],
    plane: usize,
    width: usize,
}

impl Vectored for Weight<'_> {
    #[inline(always)]
    unsafe fn run<S: Vector>(self) {
        let Weight { channels, rows, g, out, plane, width } = self;
        assert!(rows.is_multiple_of(S::LANES), "whole vectors");
        for channel in 0..channels {
            for row in (0..rows).step_by(S::LANES) {
                // SAFETY: `weight` asserts that all of these lie in their slices.
                unsafe {
                    let g = g.as_ptr().add(channel * 9 * ROWS + row);
                    let to = out.as_mut_ptr().add(channel * width + row);
                    let load = |i: usize, j: usize| S::load(g.add((i * 3 + j) * ROWS));
                    let mut columns = [[S::splat(0.0); REACH]; 3];
                    for j in 0..3 {
                        let mut column = [S::splat(0.0); 3];
                        for i in 0..3 {
                            column[i] = load(i, j);
                        }
                        columns[j] = taps(column);
                    }
                    for i in 0..REACH {
                        let mut line = [S::splat(0.0); 3];
                        for j in 0..3 {
                            line[j] = columns[j][i];
                        }
                        let line = taps(line);
                        for j in 0..REACH {
                            line[j].store(to.add((i * REACH + j) * plane));
                        }
                    }
                }
            }
        }
    }
}

/// Aᵀ m A of all patches of a run of result lines: channels `first..first + planes.channels` of the result rows `out`.
///
/// # Panics
///
/// Where `m` or `out` are too small.
#[expect(clippy::too_many_arguments, reason = "the operands of a transform")]
pub fn output(
    level: Level,
    plan: &Plan,
    data: Data<'_>,
    lines: Range<usize>,
    planes: &Planes,
    m: &[f32],
    out: &mut [f32],
    first: usize,
) {
    assert!(m.len() >= planes.size() && patches(plan, lines.clone()) * planes.row <= planes.plane);
    assert!(out.len() >= lines.len() * plan.result[1] * plan.to && first + planes.channels <= plan.to);
    with_vectors(level, Output { plan, data, lines, planes, m, out, first });
}

struct Output<'a> {
    plan: &'a Plan,
    data: Data<'a>,
    lines: Range<usize>,
    planes: &'a Planes,
    m: &'a [f32],
    out: &'a mut [f32],
    first: usize,
}

impl Vectored for Output<'_> {
    #[inline(always)]
    unsafe fn run<S: Vector>(self) {
        let Output { plan, data, lines, planes, m, out, first } = self;
        // Copies, which no store can change.
        let (Planes { channels, row, plane }, step) = (*planes, plan.to);
        let pitch = plan.result[1] * step;
        let mut from = m.as_ptr();
        each_patch(plan, &data, lines, |patch| {
            let whole = patch.height == SIDE && patch.width == SIDE;
            for c in (0..channels).step_by(S::LANES) {
                let some = S::LANES.min(channels - c);
                // SAFETY: `output` asserts room for all patches, whose rows are padded to whole vectors, and for all
                // channels of the result rows of the run, inside which the positions of a patch lie.
                unsafe {
                    let from = from.wrapping_add(c);
                    let to = out.as_mut_ptr().add(patch.to * step + first + c);
                    let mut columns = [[S::splat(0.0); SIDE]; REACH];
                    for j in 0..REACH {
                        let mut column = [S::splat(0.0); REACH];
                        let mut at = from.wrapping_add(j * plane);
                        for i in 0..REACH {
                            column[i] = S::load(at);
                            at = at.wrapping_add(REACH * plane);
                        }
                        columns[j] = result(column);
                    }
                    for i in 0..SIDE {
                        let mut line = [S::splat(0.0); REACH];
                        for j in 0..REACH {
                            line[j] = columns[j][i];
                        }
                        let line = result(line);
                        let mut to = to.wrapping_add(i * pitch);
                        for j in 0..SIDE {
                            let there = whole || i < patch.height && j < patch.width;
                            if there && some == S::LANES {
                                line[j].store(to)
                            } else if there {
                                line[j].store_first(to, some)
                            }
                            to = to.wrapping_add(step);
                        }
                    }
                }
            }
            from = from.wrapping_add(row);
        });
    }
}
