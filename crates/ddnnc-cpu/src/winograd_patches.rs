//! The transforms of patches and of the sums of their products that give a weight gradient by Winograd's F(4×4, 3×3).

use crate::convolution::Rows;
use crate::device::Machine;
use crate::simd::Level;
use crate::vector::{Vector, Vectored, with_vectors};
use std::ops::Range;

/// Elements of a transformed patch.
pub const POINTS: usize = 36;

/// Some lines of one image.
pub struct Map<'a> {
    /// Their elements.
    pub elements: &'a [f32],
    /// Which lines.
    pub lines: Range<usize>,
    /// (H, W) of the map.
    pub size: [usize; 2],
    /// Elements of a position.
    pub channels: usize,
}

impl<'a> Map<'a> {
    /// With the elements of the lines: in place, or in `scratch`.
    pub fn load(
        self,
        machine: &Machine<'_>,
        x: &'a dyn Rows,
        image: usize,
        worker: usize,
        scratch: &'a mut [f32],
    ) -> Map<'a> {
        let [height, width] = self.size;
        let first = (image * height + self.lines.start) * width;
        let count = self.lines.len() * width;
        let elements = match x.direct() {
            Some(all) => &all[first * self.channels..(first + count) * self.channels],
            None => {
                let scratch = &mut scratch[..count * self.channels];
                x.load(machine, first, count, worker, scratch);
                &*scratch
            }
        };
        Map { elements, ..self }
    }
}

/// Where transformed patches go to: blocks of channels, each `[ξ][patch][channel]`.
#[derive(Clone, Copy, Debug)]
pub struct Into {
    /// Patches of the group.
    pub patches: usize,
    /// The first that is written.
    pub first: usize,
    /// Channels of a block, a multiple of the vector length.
    pub width: usize,
}

/// Bᵀ d B of the 6×6 patches of x that belong to `count` (rows, columns) of patches of y, the first at `corner` of y.
pub fn input(
    level: Level,
    x: &Map<'_>,
    corner: [usize; 2],
    pad: [usize; 2],
    count: [usize; 2],
    into: Into,
    out: &mut [f32],
) {
    let corner = std::array::from_fn(|i| corner[i] as isize - pad[i] as isize);
    with_vectors(level, Patches::<6> { map: x, corner, count, into, out });
}

/// A dY Aᵀ of `count` (rows, columns) of 4×4 patches of dy, the first at `corner`.
pub fn gradient(
    level: Level,
    dy: &Map<'_>,
    corner: [usize; 2],
    count: [usize; 2],
    into: Into,
    out: &mut [f32],
) {
    let corner = corner.map(|x| x as isize);
    with_vectors(level, Patches::<4> { map: dy, corner, count, into, out });
}

/// Patches of N×N positions, four apart.
struct Patches<'a, const N: usize> {
    map: &'a Map<'a>,
    corner: [isize; 2],
    count: [usize; 2],
    into: Into,
    out: &'a mut [f32],
}

impl<const N: usize> Vectored for Patches<'_, N> {
    #[inline(always)]
    #[expect(clippy::needless_range_loop, reason = "closures would not be compiled for the level")]
    unsafe fn run<S: Vector>(self) {
        let Patches { map, corner, count, into: Into { patches, first, width }, out } = self;
        let (channels, columns) = (map.channels, map.size[1]);
        let pitch = columns * channels;
        let blocks = channels.div_ceil(width.max(1));
        assert!(map.elements.len() == map.lines.len() * pitch, "the map is whole");
        assert!(width.is_multiple_of(S::LANES), "whole vectors");
        assert!(out.len() >= blocks * POINTS * patches * width, "the result has room");
        assert!(first + count[0] * count[1] <= patches, "the patches of a group");
        let inside = |begin: isize, range: Range<usize>| -> [bool; N] {
            std::array::from_fn(|i| range.contains(&((begin + i as isize) as usize)))
        };
        for patch in 0..count[0] * count[1] {
            let line = corner[0] + 4 * (patch / count[1]) as isize;
            let column = corner[1] + 4 * (patch % count[1]) as isize;
            let (there, across) = (inside(line, map.lines.clone()), inside(column, 0..columns));
            let whole = there == [true; N] && across == [true; N];
            let at = (line - map.lines.start as isize) * pitch as isize + column * channels as isize;
            let from = map.elements.as_ptr().wrapping_offset(at);
            for c in (0..channels).step_by(S::LANES) {
                let some = S::LANES.min(channels - c);
                let from = from.wrapping_add(c);
                let to = (c / width * POINTS * patches + first + patch) * width + c % width;
                // SAFETY: the assertions above leave room for every patch, point and block, whose width is whole vectors.
                unsafe {
                    let to = out.as_mut_ptr().add(to);
                    let mut half = [[S::splat(0.0); N]; 6];
                    for j in 0..N {
                        let mut d = [S::splat(0.0); N];
                        // Positions that are there lie in the map, which the assertion above says is whole.
                        for i in 0..N {
                            let from = from.wrapping_add(i * pitch + j * channels);
                            if whole || (there[i] && across[j]) {
                                d[i] =
                                    if some == S::LANES { S::load(from) } else { S::load_first(from, some) };
                            }
                        }
                        let column = spread::<S, N>(d);
                        for i in 0..6 {
                            half[i][j] = column[i];
                        }
                    }
                    for i in 0..6 {
                        let done = spread(half[i]);
                        for j in 0..6 {
                            done[j].store(to.add((6 * i + j) * patches * width));
                        }
                    }
                }
            }
        }
    }
}

/// Bᵀ d where N is 6, A y where it is 4.
///
/// # Safety
///
/// The processor has the level of S, here and below.
#[inline(always)]
unsafe fn spread<S: Vector, const N: usize>(d: [S; N]) -> [S; 6] {
    // SAFETY: promised.
    unsafe {
        let (four, eight) = (S::splat(4.0), S::splat(8.0));
        if N == 6 {
            let (a, b) = (d[4].sum(d[2], S::splat(-4.0)), d[3].sum(d[1], S::splat(-4.0)));
            let (c, e) = (d[4].minus(d[2]), d[3].minus(d[1]).times(2.0));
            let five = S::splat(-5.0);
            [
                d[4].sum(d[2], five).sum(d[0], four),
                a.plus(b),
                a.minus(b),
                c.plus(e),
                c.minus(e),
                d[5].sum(d[3], five).sum(d[1], four),
            ]
        } else {
            let (a, b) = (d[0].plus(d[2]), d[1].plus(d[3]));
            let (c, e) = (d[0].sum(d[2], four), d[1].times(2.0).sum(d[3], eight));
            [d[0], a.plus(b), a.minus(b), c.plus(e), c.minus(e), d[3]]
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
                    for (j, x) in done.into_iter().enumerate() {
                        let to = to.add((3 * i + j) * n);
                        (if add { x.plus(S::load(to)) } else { x }).store(to);
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
