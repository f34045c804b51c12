//! The transforms of the patches that Winograd's F(4×4, 3×3) multiplies, one vector of channels at a time: Bᵀ d B of the 6×6
//! source positions of a patch and, for weight gradients, A y Aᵀ of the 4×4 positions of its result.
//!
//! Both compute three lines of the 6×6 elements, then the other three: the halves of three lines stay in registers, and
//! neither half of the lines shares an operation with the other.

#![expect(clippy::needless_range_loop, reason = "indices that are constants keep the vectors in registers")]

use crate::vector::Vector;
use std::ops::Range;

/// Elements of a transformed patch.
pub const POINTS: usize = 36;

/// The most lanes of a vector.
const LANES: usize = 16;

/// What positions outside the map hold.
static ZEROS: [f32; LANES] = [0.0; LANES];

/// Some channels of the positions of edges that do not fill a vector, with zeros behind them.
pub struct Held([[f32; LANES]; POINTS]);

impl Held {
    /// With nothing but zeros; to be used for one number of channels.
    pub fn new() -> Held {
        Held([[0.0; LANES]; POINTS])
    }
}

/// N×N positions of a map, some of which may lie outside.
#[derive(Clone, Debug)]
pub struct Positions {
    /// The first channel of the first position; may wrap where that lies outside.
    pub from: *const f32,
    /// Steps between lines and between columns.
    pub steps: [usize; 2],
    /// Lines that are in the map.
    pub rows: Range<usize>,
    /// Columns that are in the map.
    pub columns: Range<usize>,
}

impl Positions {
    /// Transforms `some` channels from `c` on, at most a vector; element k goes to `to + k · plane`, as a whole vector.
    /// N is 6 for Bᵀ d B, 4 for A y Aᵀ.
    ///
    /// # Safety
    ///
    /// Positions in the map can be read with these channels, the elements can be written; the processor has the level
    /// of S, here and below.
    #[inline(always)]
    pub unsafe fn transform<S: Vector, const N: usize>(
        &self,
        c: usize,
        some: usize,
        to: *mut f32,
        plane: usize,
        held: &mut Held,
    ) {
        let from = self.from.wrapping_add(c);
        let [line, column] = self.steps;
        // SAFETY: promised.
        unsafe {
            if some == S::LANES && self.rows == (0..N) && self.columns == (0..N) {
                return spread::<S, N>(&Inside { from, steps: self.steps }, to, plane);
            }
            let mut at = [ZEROS.as_ptr(); POINTS];
            for i in self.rows.clone() {
                for j in self.columns.clone() {
                    let from = from.wrapping_add(i * line + j * column);
                    let at = &mut at[i * N + j];
                    *at = from;
                    if some < S::LANES {
                        let held = &mut held.0[i * N + j];
                        std::ptr::copy_nonoverlapping(from, held.as_mut_ptr(), some);
                        *at = held.as_ptr();
                    }
                }
            }
            spread::<S, N>(&Edge::<N>(at), to, plane);
        }
    }
}

/// Where vectors of the positions of a patch are loaded from.
trait Load {
    /// # Safety
    ///
    /// The position can be read; the processor has the level of S.
    unsafe fn load<S: Vector>(&self, i: usize, j: usize) -> S;
}

/// All positions are in the map.
struct Inside {
    from: *const f32,
    steps: [usize; 2],
}

impl Load for Inside {
    #[inline(always)]
    unsafe fn load<S: Vector>(&self, i: usize, j: usize) -> S {
        // SAFETY: promised.
        unsafe { S::load(self.from.add(i * self.steps[0] + j * self.steps[1])) }
    }
}

/// Every position lies somewhere else.
struct Edge<const N: usize>([*const f32; POINTS]);

impl<const N: usize> Load for Edge<N> {
    #[inline(always)]
    unsafe fn load<S: Vector>(&self, i: usize, j: usize) -> S {
        // SAFETY: promised.
        unsafe { S::load(self.0[i * N + j]) }
    }
}

/// # Safety
///
/// As [`Positions::transform`].
#[inline(always)]
unsafe fn spread<S: Vector, const N: usize>(d: &impl Load, to: *mut f32, plane: usize) {
    // SAFETY: promised.
    unsafe {
        let mut half = [[S::splat(0.0); N]; 3];
        for j in 0..N {
            let mut column = [S::splat(0.0); N];
            for i in 0..N.min(5) {
                column[i] = d.load(i, j);
            }
            let column = first(column);
            for i in 0..3 {
                half[i][j] = column[i];
            }
        }
        for i in 0..3 {
            line(half[i], to.add(6 * i * plane), plane);
        }
        for j in 0..N {
            let mut column = [S::splat(0.0); N];
            for i in N - N.min(5)..N {
                column[i] = d.load(i, j);
            }
            let column = last(column);
            for i in 0..3 {
                half[i][j] = column[i];
            }
        }
        for i in 0..3 {
            line(half[i], to.add(6 * (i + 3) * plane), plane);
        }
    }
}

/// # Safety
///
/// As [`Positions::transform`].
#[inline(always)]
unsafe fn line<S: Vector, const N: usize>(half: [S; N], to: *mut f32, plane: usize) {
    // SAFETY: promised.
    unsafe {
        let (a, b) = (first(half), last(half));
        // One address that moves on: 36 of them would not stay in registers.
        let mut to = to;
        for all in [a, b] {
            for j in 0..3 {
                all[j].store(to);
                to = to.wrapping_add(plane);
            }
        }
    }
}

/// The first three elements of Bᵀ d where N is 6, of A y where it is 4; the last position of d does not count.
///
/// # Safety
///
/// As [`Positions::transform`].
#[inline(always)]
unsafe fn first<S: Vector, const N: usize>(d: [S; N]) -> [S; 3] {
    // SAFETY: promised.
    unsafe {
        if N == 6 {
            let less_four = S::splat(-4.0);
            let (a, b) = (d[4].sum(d[2], less_four), d[3].sum(d[1], less_four));
            [d[4].sum(d[2], S::splat(-5.0)).sum(d[0], S::splat(4.0)), a.plus(b), a.minus(b)]
        } else {
            let (a, b) = (d[0].plus(d[2]), d[1].plus(d[3]));
            [d[0], a.plus(b), a.minus(b)]
        }
    }
}

/// The last three elements; the first position of d does not count where N is 6.
///
/// # Safety
///
/// As [`Positions::transform`].
#[inline(always)]
unsafe fn last<S: Vector, const N: usize>(d: [S; N]) -> [S; 3] {
    // SAFETY: promised.
    unsafe {
        let (two, four) = (S::splat(2.0), S::splat(4.0));
        if N == 6 {
            let (c, e) = (d[4].minus(d[2]), d[3].minus(d[1]));
            let five = S::splat(-5.0);
            [c.sum(e, two), c.sum(e, S::splat(-2.0)), d[5].sum(d[3], five).sum(d[1], four)]
        } else {
            let (c, e) = (d[0].sum(d[2], four), d[1].sum(d[3], four));
            [c.sum(e, two), c.sum(e, S::splat(-2.0)), d[3]]
        }
    }
}
