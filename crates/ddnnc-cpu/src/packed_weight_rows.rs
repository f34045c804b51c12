//! The micro-kernel of weight gradients from packed operands for rows of three taps of stride 1, with AVX-512: the sums of the
//! taps are taken together, so that a number of dy is loaded once for all of them.
//!
//! The operands are those of `packed_weight_tile`, an f32 or a pair of bf16 a position. Panels of x are one vector wide.

#![cfg_attr(
    not(target_arch = "x86_64"),
    expect(dead_code, reason = "no processor has the instructions here")
)]

use crate::ahead::Ahead;

/// Taps of a row that [`Row`] sums at once.
pub const TAPS: usize = 3;

/// Rows of a panel that [`Row`] takes.
pub const NARROW: usize = 16;

/// The most columns of a tile of [`Row`].
const COLUMNS: usize = 8;

/// Lines of a panel of at most [`NARROW`] rows, and of columns of the other operand, for a row of [`TAPS`] taps of stride 1:
/// with AVX-512. A number of the data is loaded once for all taps, where [`Product`] would load one for each sum.
#[derive(Clone, Copy, Debug)]
pub struct Row<'a> {
    /// Where the lines that are multiplied begin, in the panel and in the data.
    pub lines: &'a [[u32; 2]],
    /// Positions of a line in either.
    pub positions: [usize; 2],
    /// Zeros before a line of the panel, as the convolution pads it.
    pub pad: usize,
    /// Row r of a position at its place + r, and positions so far apart.
    pub panel: &'a [f32],
    pub panel_step: usize,
    /// Column c of a position at its place + c, and positions so far apart.
    pub data: &'a [f32],
    pub data_step: usize,
    /// Columns.
    pub columns: usize,
    /// Whether the operands hold pairs of bf16, not f32.
    pub pairs: bool,
    /// What is asked for, so many lines beside every tile.
    pub ahead: (&'a Ahead, usize),
}

impl Row<'_> {
    /// Tiles that so many columns are.
    pub fn tiles(columns: usize) -> usize {
        columns.div_ceil(COLUMNS)
    }

    /// Sum (r, c) of tap t goes to `t · tap_step + c · step + r`, in whole vectors of rows; what was there is added where `add`.
    ///
    /// # Panics
    ///
    /// Where operands or result are too short.
    #[cfg(target_arch = "x86_64")]
    pub fn run(&self, out: &mut [f32], [tap_step, step]: [usize; 2], add: bool) {
        let last = self.lines.iter().fold([0, 0], |last, at| [at[0].max(last[0]), at[1].max(last[1])]);
        let ends = |i: usize, apart: usize, n: usize, all: &[f32]| {
            let positions = self.positions[i];
            self.lines.is_empty()
                || positions == 0
                || last[i] as usize + (positions - 1) * apart + n <= all.len()
        };
        if self.columns == 0 {
            return;
        }
        assert!(ends(0, self.panel_step, NARROW, self.panel), "the panel is whole");
        assert!(ends(1, self.data_step, self.columns, self.data), "the columns are whole");
        let most = (TAPS - 1) * tap_step + (self.columns - 1) * step + NARROW;
        assert!(most <= out.len(), "the result has room");
        let tiles = Row::tiles(self.columns);
        let (mut first, mut left) = (0, self.columns);
        for tile in 0..tiles {
            let n = left.div_ceil(tiles - tile);
            // SAFETY: the assertions above hold every access inside the slices; the method is chosen where the processor
            // has the instructions.
            unsafe {
                let (out, steps) = (out.as_mut_ptr().add(first * step), [tap_step, step]);
                x86::tile(n, x86::Tile { row: self, first, out, steps, add });
            }
            (first, left) = (first + n, left - n);
        }
    }

    /// Never called where there are no such instructions.
    #[cfg(not(target_arch = "x86_64"))]
    pub fn run(&self, _: &mut [f32], _: [usize; 2], _: bool) {
        unreachable!("the processor does not have the instructions");
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{COLUMNS, Row, TAPS};
    use crate::ahead::Pace;
    use crate::vector::loaded;
    use std::arch::asm;
    use std::arch::x86_64::*;
    use std::mem::transmute;

    /// Positions between the lines that are asked for.
    const EVERY: usize = 4;

    /// A tile of [`Row`], from column `first` on.
    #[derive(Clone, Copy)]
    pub(super) struct Tile<'a> {
        pub row: &'a Row<'a>,
        pub first: usize,
        /// Where its first sum goes.
        pub out: *mut f32,
        /// Steps between taps and between columns of the result.
        pub steps: [usize; 2],
        pub add: bool,
    }

    /// A tile of `n` columns.
    ///
    /// # Safety
    ///
    /// Panel, data and result hold what [`Row`] says; the processor has the instructions.
    pub(super) unsafe fn tile(n: usize, t: Tile<'_>) {
        macro_rules! columns {
            ($($n:literal)*) => {
                // SAFETY: promised.
                unsafe {
                    match (t.row.pairs, n) {
                        $((false, $n) => singles::<$n>(t),
                        (true, $n) => halves::<$n>(t),)*
                        _ => unreachable!("columns are cut into tiles"),
                    }
                }
            };
        }
        columns!(1 2 3 4 5 6 7 8);
    }

    /// # Safety
    ///
    /// As [`tile`].
    #[target_feature(enable = "avx512f,avx512bf16")]
    unsafe fn halves<const N: usize>(t: Tile<'_>) {
        // SAFETY: promised.
        unsafe { sums::<N, true>(t) }
    }

    /// # Safety
    ///
    /// As [`tile`].
    #[target_feature(enable = "avx512f")]
    unsafe fn singles<const N: usize>(t: Tile<'_>) {
        // SAFETY: promised.
        unsafe { sums::<N, false>(t) }
    }

    /// Sums whose additions end here in the order of calls of [`loaded`].
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn added(sums: [__m512; TAPS]) -> [__m512; TAPS] {
        let [mut a, mut b, mut c] = sums;
        // SAFETY: nothing happens.
        unsafe {
            asm!("/* {0} {1} {2} */", inout(zmm_reg) a, inout(zmm_reg) b, inout(zmm_reg) c, options(nomem, nostack, preserves_flags));
        }
        [a, b, c]
    }

    /// # Safety
    ///
    /// As [`tile`].
    #[inline(always)]
    #[expect(clippy::needless_range_loop, reason = "indices that are constants keep the sums in registers")]
    unsafe fn sums<const N: usize, const PAIRS: bool>(t: Tile<'_>) {
        let Tile { row: a, first, out, steps: [tap_step, step], add } = t;
        const { assert!(N <= COLUMNS) };
        let Row { positions: [source, result], pad, panel_step, data_step, .. } = *a;
        // Positions of which every tap finds one of the panel.
        let low = pad.min(result);
        let high = (source + pad + 1).saturating_sub(TAPS).clamp(low, result);
        // SAFETY: promised.
        unsafe {
            let mut sums = [[_mm512_setzero_ps(); N]; TAPS];
            if add {
                for t in 0..TAPS {
                    for j in 0..N {
                        sums[t][j] = _mm512_loadu_ps(out.add(t * tap_step + j * step));
                    }
                }
            }
            macro_rules! add {
                ($t:literal, $j:expr, $left:expr, $right:expr) => {
                    if PAIRS {
                        // Both types are 512 bits.
                        let [a, b] =
                            [transmute::<__m512, __m512bh>($left), transmute::<__m512, __m512bh>($right)];
                        sums[$t][$j] = _mm512_dpbf16_ps(sums[$t][$j], a, b);
                    } else {
                        sums[$t][$j] = _mm512_fmadd_ps($left, $right, sums[$t][$j]);
                    }
                };
            }
            // Taps one by one, where the map has an edge.
            macro_rules! edge {
                ($p:expr, $panel:expr, $data:expr) => {{
                    macro_rules! tap {
                        ($t:literal) => {
                            let at = $p + $t;
                            if at >= pad && at - pad < source {
                                let left = _mm512_loadu_ps($panel.add((at - pad) * panel_step));
                                for j in 0..N {
                                    add!($t, j, left, _mm512_set1_ps(*$data.add($p * data_step + j)));
                                }
                            }
                        };
                    }
                    tap!(0);
                    tap!(1);
                    tap!(2);
                }};
            }
            let turns = a.lines.len() * (high - low).div_ceil(EVERY);
            let mut pace = Pace::new(a.ahead.0.take(a.ahead.1), turns);
            let every = pace.terms(EVERY, high - low);
            for &[panel, data] in a.lines {
                let panel = a.panel.as_ptr().add(panel as usize);
                let data = a.data.as_ptr().add(data as usize + first);
                for p in 0..low {
                    edge!(p, panel, data);
                }
                let mut left = panel.wrapping_add((low - pad.min(low)) * panel_step);
                let mut right = data.wrapping_add(low * data_step);
                let mut positions = high - low;
                while positions > 0 {
                    pace.ask();
                    let some = positions.min(every);
                    for _ in 0..some {
                        let (a, b, c) = (
                            _mm512_loadu_ps(left),
                            _mm512_loadu_ps(left.add(panel_step)),
                            _mm512_loadu_ps(left.add(2 * panel_step)),
                        );
                        for j in 0..N {
                            let right = _mm512_castsi512_ps(loaded(right.add(j).cast()));
                            add!(0, j, a, right);
                            add!(1, j, b, right);
                            add!(2, j, c, right);
                            [sums[0][j], sums[1][j], sums[2][j]] =
                                added([sums[0][j], sums[1][j], sums[2][j]]);
                        }
                        (left, right) = (left.wrapping_add(panel_step), right.wrapping_add(data_step));
                    }
                    positions -= some;
                }
                for p in high..result {
                    edge!(p, panel, data);
                }
            }
            // Written out, so that the sums are registers, not an array.
            macro_rules! store {
                ($($j:literal)*) => {$(
                    if $j < N {
                        let j = if $j < N { $j } else { 0 };
                        _mm512_storeu_ps(out.add($j * step), sums[0][j]);
                        _mm512_storeu_ps(out.add(tap_step + $j * step), sums[1][j]);
                        _mm512_storeu_ps(out.add(2 * tap_step + $j * step), sums[2][j]);
                    }
                )*};
            }
            store!(0 1 2 3 4 5 6 7);
        }
    }
}
