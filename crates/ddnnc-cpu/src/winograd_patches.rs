//! The transforms of patches and of the sums of their products that give a weight gradient by Winograd's F(4×4, 3×3).

use crate::convolution::Rows;
use crate::device::Machine;
use crate::plan::spread;
use crate::simd::Level;
use crate::vector::{Vector, Vectored, with_vectors};
use crate::winograd_source::{Held, Positions};
use std::ops::Range;

pub use crate::winograd_source::POINTS;

/// Some lines of one image, maybe with zeros around it.
pub struct Map<'a> {
    /// Their elements.
    elements: &'a [f32],
    /// Which lines of the map with its zeros.
    lines: Range<usize>,
    /// Columns of the map with its zeros.
    columns: usize,
    /// Lines and columns of zeros before the image.
    zeros: [usize; 2],
    /// Elements of a position.
    channels: usize,
}

impl<'a> Map<'a> {
    /// Lines of image number `image` with `pad` (lines, columns) of zeros around it: in place and without the zeros, where that
    /// can be, else in `scratch`, which holds `lines · (W + 2 · pad[1]) · C` elements.
    pub fn load(
        machine: &Machine<'_>,
        x: &'a dyn Rows,
        (image, size): (usize, [usize; 2]),
        lines: Range<usize>,
        pad: [usize; 2],
        worker: usize,
        scratch: &'a mut [f32],
    ) -> Map<'a> {
        let ([height, width], channels) = (size, x.channels());
        let inside = |line: usize| line.saturating_sub(pad[0]).min(height);
        let there = inside(lines.start)..inside(lines.end);
        let (first, count) = ((image * height + there.start) * width, there.len() * width);
        if let Some(all) = x.direct() {
            let elements = &all[first * channels..(first + count) * channels];
            return Map { elements, lines: there, columns: width, zeros: [0, 0], channels };
        }
        let columns = width + 2 * pad[1];
        let pitch = columns * channels;
        let elements = &mut scratch[..lines.len() * pitch];
        let above = (there.start + pad[0]).min(lines.end).saturating_sub(lines.start) * pitch;
        let (zeros, rest) = elements.split_at_mut(above);
        let (map, below) = rest.split_at_mut(there.len() * pitch);
        zeros.fill(0.0);
        below.fill(0.0);
        let end = map.len() - count * channels;
        x.load(machine, first, count, worker, &mut map[end..]);
        if end > 0 {
            spread(map, pitch, pad[1] * channels..(pad[1] + width) * channels);
        }
        Map { elements, lines, columns, zeros: pad, channels }
    }
}

/// Where transformed patches go to: blocks of channels, each `[ξ][patch][channel]`.
#[derive(Clone, Copy, Debug)]
pub struct Into {
    /// Patches of the group.
    pub patches: usize,
    /// Patches for which there is room: the step between points, in patches.
    pub room: usize,
    /// The first that is written.
    pub first: usize,
    /// Channels of a block, a multiple of the vector length.
    pub width: usize,
}

/// Bᵀ d B of the 6×6 patches of x that belong to `count` (rows, columns) of patches of y, the first at `corner` of y;
/// `beside` is called for each patch.
#[expect(clippy::too_many_arguments, reason = "the operands of a transform")]
pub fn input(
    level: Level,
    x: &Map<'_>,
    corner: [usize; 2],
    pad: [usize; 2],
    count: [usize; 2],
    into: Into,
    out: &mut [f32],
    beside: impl FnMut(),
) {
    let corner = std::array::from_fn(|i| (corner[i] + x.zeros[i]) as isize - pad[i] as isize);
    with_vectors(level, Patches::<_, 6> { map: x, corner, count, into, out, beside });
}

/// A dY Aᵀ of `count` (rows, columns) of 4×4 patches of dy, the first at `corner`; `beside` is called for each patch.
pub fn gradient(
    level: Level,
    dy: &Map<'_>,
    corner: [usize; 2],
    count: [usize; 2],
    into: Into,
    out: &mut [f32],
    beside: impl FnMut(),
) {
    let corner = corner.map(|x| x as isize);
    with_vectors(level, Patches::<_, 4> { map: dy, corner, count, into, out, beside });
}

/// Patches of N×N positions, four apart.
struct Patches<'a, F, const N: usize> {
    map: &'a Map<'a>,
    corner: [isize; 2],
    count: [usize; 2],
    into: Into,
    out: &'a mut [f32],
    /// Called for each patch.
    beside: F,
}

impl<F: FnMut(), const N: usize> Vectored for Patches<'_, F, N> {
    #[inline(always)]
    unsafe fn run<S: Vector>(self) {
        let Patches { map, corner, count, into, out, mut beside } = self;
        let Into { patches, room, first, width } = into;
        let (channels, columns) = (map.channels, map.columns);
        let pitch = columns * channels;
        let blocks = channels.div_ceil(width.max(1));
        assert!(map.elements.len() == map.lines.len() * pitch, "the map is whole");
        assert!(width.is_multiple_of(S::LANES), "whole vectors");
        assert!(patches <= room && out.len() >= blocks * POINTS * room * width, "the result has room");
        assert!(first + count[0] * count[1] <= patches, "the patches of a group");
        // Which of the positions from `begin` on lie in a range.
        let inside = |begin: isize, range: Range<usize>| {
            let clamp = |at: usize| (at as isize - begin).clamp(0, N as isize) as usize;
            clamp(range.start)..clamp(range.end).max(clamp(range.start))
        };
        let mut held = Held::new();
        for patch in 0..count[0] * count[1] {
            beside();
            let line = corner[0] + 4 * (patch / count[1]) as isize;
            let column = corner[1] + 4 * (patch % count[1]) as isize;
            let at = (line - map.lines.start as isize) * pitch as isize + column * channels as isize;
            let positions = Positions {
                from: map.elements.as_ptr().wrapping_offset(at),
                steps: [pitch, channels],
                rows: inside(line, map.lines.clone()),
                columns: inside(column, 0..columns),
            };
            for c in (0..channels).step_by(S::LANES) {
                let some = S::LANES.min(channels - c);
                let to = (c / width * POINTS * room + first + patch) * width + c % width;
                // SAFETY: positions that are there lie in the map, which is whole, and the result has room for every
                // patch, point and block, whose width is whole vectors: both by the assertions above.
                unsafe {
                    positions.transform::<S, N>(c, some, out.as_mut_ptr().add(to), room * width, &mut held);
                }
            }
        }
    }
}

/// Gᵀ dU G: `[tap][element]` of `[ξ][element]`; added to what is there where `add`.
pub fn weight(level: Level, du: &[f32], out: &mut [f32], add: bool) {
    with_vectors(level, Weight { du, out, add });
}

struct Weight<'a> {
    du: &'a [f32],
    out: &'a mut [f32],
    add: bool,
}

impl Vectored for Weight<'_> {
    #[inline(always)]
    #[expect(clippy::needless_range_loop, reason = "closures would not be compiled for the level")]
    unsafe fn run<S: Vector>(self) {
        let Weight { du, out, add } = self;
        let n = du.len() / POINTS;
        assert!(out.len() >= 9 * n && n.is_multiple_of(S::LANES), "the result has room for whole vectors");
        for at in (0..n).step_by(S::LANES) {
            // SAFETY: every point and tap has n elements, in whole vectors, by the assertion above.
            unsafe {
                let (from, to) = (du.as_ptr().add(at), out.as_mut_ptr().add(at));
                let mut half = [[S::splat(0.0); 6]; 3];
                for j in 0..6 {
                    let mut u = [S::splat(0.0); 6];
                    for i in 0..6 {
                        u[i] = S::load(from.add((6 * i + j) * n));
                    }
                    let column = taps(u);
                    for i in 0..3 {
                        half[i][j] = column[i];
                    }
                }
                for i in 0..3 {
                    let done = taps(half[i]);
                    for j in 0..3 {
                        let to = to.add((3 * i + j) * n);
                        (if add { done[j].plus(S::load(to)) } else { done[j] }).store(to);
                    }
                }
            }
        }
    }
}

/// Gᵀ u.
///
/// # Safety
///
/// The processor has the level of S.
#[inline(always)]
unsafe fn taps<S: Vector>(u: [S; 6]) -> [S; 3] {
    // SAFETY: promised.
    unsafe {
        let (near, near_odd) = (u[1].plus(u[2]), u[2].minus(u[1]));
        let (far, far_odd) = (u[3].plus(u[4]), u[3].minus(u[4]));
        let sixth = S::splat(1.0 / 6.0);
        [
            u[0].times(0.25).sum(near, S::splat(-1.0 / 6.0)).sum(far, S::splat(1.0 / 24.0)),
            near_odd.times(1.0 / 6.0).sum(far_odd, S::splat(1.0 / 12.0)),
            u[5].sum(far.minus(near), sixth),
        ]
    }
}
