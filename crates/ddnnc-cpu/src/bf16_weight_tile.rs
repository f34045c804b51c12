//! The micro-kernel of weight gradients of bf16: pairs of bf16 are multiplied and summed in f32, by one instruction.
//!
//! Two operands, each with pairs of positions side by side: a pair is the 32 bits of one f32, the earlier position in the
//! lower half.

#![cfg_attr(
    not(target_arch = "x86_64"),
    expect(dead_code, reason = "no such processor multiplies bf16 here")
)]

/// Rows of a panel.
pub const WIDTH: usize = 32;

/// The most columns of a tile.
pub const COLUMNS: usize = 14;

/// A panel of one operand, and columns of the other.
#[derive(Clone, Copy, Debug)]
pub struct Product<'a> {
    /// Pairs of positions.
    pub pairs: usize,
    /// Pair p of row r at `p · WIDTH + r`.
    pub panel: &'a [f32],
    /// Rows that count, at most [`WIDTH`].
    pub rows: usize,
    /// Pair p of column c at `p · pitch + c`.
    pub data: &'a [f32],
    /// Elements between pairs of a column.
    pub pitch: usize,
    /// Columns.
    pub columns: usize,
}

impl Product<'_> {
    /// Sum (r, c) goes to `c · step + r`, in whole vectors of rows; what was there is added where `add`.
    ///
    /// # Panics
    ///
    /// Where operands or result are too short.
    #[cfg(target_arch = "x86_64")]
    pub fn run(&self, out: &mut [f32], step: usize, add: bool) {
        let Product { pairs, panel, rows, data, pitch, columns } = *self;
        if rows == 0 || columns == 0 {
            return;
        }
        assert!(rows <= WIDTH && panel.len() >= pairs * WIDTH, "the panel is whole");
        assert!(pairs == 0 || data.len() >= (pairs - 1) * pitch + columns, "the columns are whole");
        let wide = rows.next_multiple_of(16);
        assert!(out.len() >= (columns - 1) * step + wide, "the result has room");
        let tiles = columns.div_ceil(COLUMNS);
        let (mut first, mut left) = (0, columns);
        for tile in 0..tiles {
            let n = left.div_ceil(tiles - tile);
            // SAFETY: the assertions above hold every access inside the slices; the method is chosen where the processor
            // has the instructions.
            unsafe {
                let (data, out) = (data.as_ptr().add(first), out.as_mut_ptr().add(first * step));
                x86::tile(wide > 16, n, [pairs, pitch, step], panel.as_ptr(), data, out, add);
            }
            (first, left) = (first + n, left - n);
        }
    }

    /// Never chosen where there are no such instructions.
    #[cfg(not(target_arch = "x86_64"))]
    pub fn run(&self, _: &mut [f32], _: usize, _: bool) {
        unreachable!("the processor does not multiply pairs of bf16");
    }
}

/// An element of a row that is stored as bf16, or as f32 and rounded to the nearest.
pub trait Half: Copy {
    /// The first `n` elements, at most 32, as bf16; zeros behind them.
    ///
    /// # Safety
    ///
    /// There are so many; the processor has the instructions.
    #[cfg(target_arch = "x86_64")]
    unsafe fn halves(from: *const Self, n: usize) -> std::arch::x86_64::__m512i;
}

/// A row that is not there, for [`pack`].
pub const NONE: usize = usize::MAX;

/// Pairs of the elements of rows, which begin at `places`: element c of pair p to
/// `p · pitch + c / WIDTH · step + c % WIDTH`. A row that is [`NONE`], or past the last place, is zero.
///
/// # Panics
///
/// Where the rows do not lie in `from`, or the result has no room.
#[cfg(target_arch = "x86_64")]
pub fn pack<T: Half>(from: &[T], places: &[usize], n: usize, out: &mut [f32], pitch: usize, step: usize) {
    if n == 0 || places.is_empty() {
        return;
    }
    let room = from.len().checked_sub(n);
    assert!(places.iter().all(|&at| at == NONE || room.is_some_and(|room| at <= room)), "the rows are whole");
    let last = (places.len().div_ceil(2) - 1) * pitch;
    let deepest = (0..n).step_by(WIDTH).map(|c| c / WIDTH * step + WIDTH.min(n - c)).max().unwrap_or(0);
    assert!(last + deepest <= out.len(), "the result has room");
    // SAFETY: the assertions hold every access inside the slices; the method is chosen where the processor has the
    // instructions.
    unsafe { x86::pack(from.as_ptr(), places, n, out.as_mut_ptr(), [pitch, step]) }
}

/// Never called where there are no such instructions.
#[cfg(not(target_arch = "x86_64"))]
pub fn pack<T: Half>(_: &[T], _: &[usize], _: usize, _: &mut [f32], _: usize, _: usize) {
    unreachable!("the processor does not multiply pairs of bf16");
}

#[cfg(not(target_arch = "x86_64"))]
impl Half for u16 {}

#[cfg(not(target_arch = "x86_64"))]
impl Half for f32 {}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{Half, NONE, WIDTH};
    use std::arch::x86_64::*;
    use std::mem::transmute;

    impl Half for u16 {
        #[inline]
        #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
        unsafe fn halves(from: *const u16, n: usize) -> __m512i {
            if n == WIDTH {
                // SAFETY: promised.
                return unsafe { _mm512_loadu_epi16(from.cast()) };
            }
            // SAFETY: elements that are masked out are not touched.
            unsafe { _mm512_maskz_loadu_epi16(mask(n), from.cast()) }
        }
    }

    impl Half for f32 {
        #[inline]
        #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
        unsafe fn halves(from: *const f32, n: usize) -> __m512i {
            let mask = mask(n);
            // SAFETY: elements that are masked out are not touched; both types are 512 bits.
            unsafe {
                let low = _mm512_maskz_loadu_ps(mask as u16, from);
                let high = _mm512_maskz_loadu_ps((mask >> 16) as u16, from.wrapping_add(16));
                transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low))
            }
        }
    }

    /// The lowest `n` bits.
    #[inline(always)]
    fn mask(n: usize) -> u32 {
        1u32.checked_shl(n as u32).unwrap_or(0).wrapping_sub(1)
    }

    /// Pairs ahead whose rows are asked for: rows of a few channels are too short for the processor to see them coming.
    const AHEAD: usize = 8;

    /// [`super::pack`].
    ///
    /// # Safety
    ///
    /// The rows lie in `rows`, and the result has room; the processor has the instructions.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    pub(super) unsafe fn pack<T: Half>(
        rows: *const T,
        places: &[usize],
        n: usize,
        out: *mut f32,
        [pitch, step]: [usize; 2],
    ) {
        // Words 0, 32, 1, 33, …: one of each row in turn.
        const TURNS: [u16; 64] = {
            let mut turns = [0; 64];
            let mut i = 0;
            while i < 64 {
                turns[i] = (i / 2 + i % 2 * 32) as u16;
                i += 1;
            }
            turns
        };
        // SAFETY: the array holds 64 words.
        let (low, high) = unsafe {
            let turns = TURNS.as_ptr();
            (_mm512_loadu_epi16(turns.cast()), _mm512_loadu_epi16(turns.add(32).cast()))
        };
        let line = 64 / size_of::<T>();
        for (p, pair) in places.chunks(2).enumerate() {
            for &at in places.iter().skip(2 * (p + AHEAD)).take(2) {
                if at != NONE {
                    let mut c = 0;
                    while c < n {
                        _mm_prefetch::<_MM_HINT_T0>(rows.wrapping_add(at + c).cast());
                        c += line;
                    }
                }
            }
            let (one, two) = (pair[0], if pair.len() == 2 { pair[1] } else { NONE });
            let mut to = out.wrapping_add(p * pitch);
            let mut from = 0;
            while from < n {
                let some = WIDTH.min(n - from);
                // SAFETY: promised.
                unsafe {
                    let [mut a, mut b] = [_mm512_setzero_si512(); 2];
                    // No closures: they would be compiled without the instructions.
                    if one != NONE {
                        a = T::halves(rows.add(one + from), some);
                    }
                    if two != NONE {
                        b = T::halves(rows.add(two + from), some);
                    }
                    let (first, second) =
                        (_mm512_permutex2var_epi16(a, low, b), _mm512_permutex2var_epi16(a, high, b));
                    if some == WIDTH {
                        _mm512_storeu_si512(to.cast(), first);
                        _mm512_storeu_si512(to.add(16).cast(), second);
                    } else {
                        let mask = mask(some);
                        _mm512_mask_storeu_epi32(to.cast(), mask as u16, first);
                        _mm512_mask_storeu_epi32(to.wrapping_add(16).cast(), (mask >> 16) as u16, second);
                    }
                }
                to = to.wrapping_add(step);
                from += WIDTH;
            }
        }
    }

    /// One tile of `n` columns, of two vectors of rows or of one.
    ///
    /// # Safety
    ///
    /// Panel, data and result hold what [`super::Product`] says; the processor has the instructions.
    #[target_feature(enable = "avx512f,avx512bf16")]
    pub(super) unsafe fn tile(
        two: bool,
        n: usize,
        sizes: [usize; 3],
        panel: *const f32,
        data: *const f32,
        out: *mut f32,
        add: bool,
    ) {
        macro_rules! columns {
            ($($n:literal)*) => {
                match (two, n) {
                    // SAFETY: promised.
                    $((false, $n) => unsafe { sums::<1, $n>(sizes, panel, data, out, add) },
                    // SAFETY: promised.
                    (true, $n) => unsafe { sums::<2, $n>(sizes, panel, data, out, add) },)*
                    _ => unreachable!("columns are cut into tiles"),
                }
            };
        }
        columns!(1 2 3 4 5 6 7 8 9 10 11 12 13 14);
    }

    /// # Safety
    ///
    /// As [`tile`].
    #[target_feature(enable = "avx512f,avx512bf16")]
    #[expect(clippy::needless_range_loop, reason = "indices that are constants keep the sums in registers")]
    unsafe fn sums<const V: usize, const N: usize>(
        [pairs, pitch, step]: [usize; 3],
        mut panel: *const f32,
        mut data: *const f32,
        out: *mut f32,
        add: bool,
    ) {
        let mut sums = [[_mm512_setzero_ps(); V]; N];
        for _ in 0..pairs {
            // SAFETY: promised; both types are 512 bits.
            unsafe {
                // No closures: what calls them is compiled without the instructions, and they are not always inlined.
                let mut left = [transmute::<__m512, __m512bh>(_mm512_setzero_ps()); V];
                for v in 0..V {
                    left[v] = transmute::<__m512, __m512bh>(_mm512_loadu_ps(panel.add(v * 16)));
                }
                for j in 0..N {
                    let right = transmute::<__m512, __m512bh>(_mm512_set1_ps(*data.add(j)));
                    for v in 0..V {
                        sums[j][v] = _mm512_dpbf16_ps(sums[j][v], left[v], right);
                    }
                }
            }
            panel = panel.wrapping_add(WIDTH);
            data = data.wrapping_add(pitch);
        }
        // Written out by column, so that the sums are registers, not an array.
        macro_rules! columns {
            ($($j:literal)*) => {$(
                if $j < N {
                    let sums = sums[if $j < N { $j } else { 0 }];
                    for v in 0..V {
                        // SAFETY: promised.
                        unsafe {
                            let to = out.add($j * step + v * 16);
                            let sum = if add { _mm512_add_ps(sums[v], _mm512_loadu_ps(to)) } else { sums[v] };
                            _mm512_storeu_ps(to, sum);
                        }
                    }
                }
            )*};
        }
        columns!(0 1 2 3 4 5 6 7 8 9 10 11 12 13);
    }
}
