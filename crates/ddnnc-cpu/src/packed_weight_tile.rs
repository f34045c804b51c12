//! The micro-kernel of weight gradients from packed operands: products of f32, or of pairs of bf16 by one instruction, are
//! summed in f32. With vectors of AVX-512; `packed_weight_vectors` has those of other levels.
//!
//! Both operands have an f32 for a position, or a pair of bf16 for two: the 32 bits of one f32, the earlier position in the
//! lower half.

#![cfg_attr(
    not(target_arch = "x86_64"),
    expect(dead_code, reason = "no processor has the instructions here")
)]

use crate::ahead::Ahead;
#[cfg(target_arch = "x86_64")]
use crate::packed_weight_vectors as vectors;
use crate::pointwise_pass::Element;
use crate::simd::Level;

/// Rows of a panel of AVX-512, two vectors.
const WIDTH: usize = 32;

/// Rows of a panel, two vectors where they are not those of AVX-512.
pub fn width(level: Level) -> usize {
    if level.is_avx512() { WIDTH } else { WIDTH / 2 }
}

/// Columns of a panel of dy; `None` where it is no panels: with vectors of AVX-512 tiles are wide enough to read their
/// columns from rows.
pub fn columns(level: Level) -> Option<usize> {
    (!level.is_avx512()).then_some(FEW_COLUMNS)
}

/// Pairs that lie at equal distances in both operands, those of a panel each.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Span {
    /// Where the first begins in the panel and in the data.
    pub place: [u32; 2],
    /// How many.
    pub count: u32,
    /// Fills four words.
    pub rest: u32,
}

/// The most columns of a tile of AVX-512.
const COLUMNS: usize = 14;

/// Columns of a tile of other vectors: twelve sums, the rows and a number are the sixteen registers of AVX2.
pub const FEW_COLUMNS: usize = 6;

/// A panel of one operand, and columns of the other.
#[derive(Clone, Copy, Debug)]
pub struct Product<'a> {
    /// Where the pairs that are multiplied begin, in the panel and in the data; with vectors of AVX-512.
    pub places: &'a [[u32; 2]],
    /// The same with other vectors.
    pub spans: &'a [Span],
    /// Row r of a pair at its place + r.
    pub panel: &'a [f32],
    /// Rows that count, at most [`width`].
    pub rows: usize,
    /// Column c of a pair at its place + c, or panels of [`columns`].
    pub data: &'a [f32],
    /// Elements from a panel of the data to the next.
    pub across: usize,
    /// Columns.
    pub columns: usize,
    /// Whether the operands hold pairs of bf16, not f32.
    pub pairs: bool,
    /// What is asked for, so many lines beside every tile; with vectors of AVX-512.
    pub ahead: (&'a Ahead, usize),
}

impl Product<'_> {
    /// Tiles that so many columns are, with vectors of AVX-512.
    pub fn tiles(columns: usize) -> usize {
        columns.div_ceil(COLUMNS)
    }

    /// Sum (r, c) goes to `c · step + r`, in whole vectors of rows; what was there is added where `add`.
    ///
    /// # Panics
    ///
    /// Where operands or result are too short.
    #[cfg(target_arch = "x86_64")]
    pub fn run(&self, level: Level, out: &mut [f32], step: usize, add: bool) {
        let Product { places, panel, rows, data, columns, pairs, ahead, .. } = *self;
        if rows == 0 || columns == 0 {
            return;
        }
        if !level.is_avx512() {
            return self.run_vectors(level, out, step, add);
        }
        assert!(rows <= WIDTH, "rows are cut into panels");
        let wide = rows.next_multiple_of(16);
        // SAFETY: the level has AVX-512.
        let last = unsafe { x86::last(places) };
        let whole = |last: u32, n: usize, all: &[f32]| places.is_empty() || last as usize + n <= all.len();
        assert!(whole(last[0], wide, panel), "the panel is whole");
        assert!(whole(last[1], columns, data), "the columns are whole");
        assert!(out.len() >= (columns - 1) * step + wide, "the result has room");
        let tiles = Product::tiles(columns);
        let (mut first, mut left) = (0, columns);
        for tile in 0..tiles {
            let n = left.div_ceil(tiles - tile);
            // SAFETY: the assertions above hold every access inside the slices; the method is chosen where the processor
            // has the instructions.
            unsafe {
                let (data, out) = (data.as_ptr().add(first), out.as_mut_ptr().add(first * step));
                let panel = panel.as_ptr();
                let asked = ahead.0.take(ahead.1);
                x86::tile(pairs, wide > 16, n, x86::Tile { places, panel, data, out, step, add, asked });
            }
            (first, left) = (first + n, left - n);
        }
    }

    /// [`Product::run`] where vectors are not those of AVX-512.
    #[cfg(target_arch = "x86_64")]
    fn run_vectors(&self, level: Level, out: &mut [f32], step: usize, add: bool) {
        let Product { spans, panel, rows, data, across, columns, pairs, .. } = *self;
        let wide = width(level);
        let of = FEW_COLUMNS;
        assert!(rows <= wide && !pairs, "rows are cut into panels, of what the level multiplies");
        let last = |i: usize, step: usize| {
            let ends = spans.iter().filter(|s| s.count > 0);
            ends.map(|s| s.place[i] as usize + s.count as usize * step).max().unwrap_or(0)
        };
        assert!(last(0, wide) <= panel.len(), "the panel is whole");
        assert!((columns.div_ceil(of) - 1) * across + last(1, of) <= data.len(), "the columns are whole");
        assert!(out.len() >= (columns - 1) * step + wide, "the result has room");
        // SAFETY: the assertions hold every access inside the slices.
        unsafe { vectors::sums(level, self, out.as_mut_ptr(), step, add) };
    }

    /// Never chosen where there are no such instructions.
    #[cfg(not(target_arch = "x86_64"))]
    pub fn run(&self, _: Level, _: &mut [f32], _: usize, _: bool) {
        unreachable!("the processor does not have the instructions");
    }
}

/// Sums of several taps.
#[derive(Clone, Copy, Debug)]
pub struct Ordered<'a> {
    /// Channel c of tap t at `t · step + c`, in whole vectors of channels.
    pub sums: &'a [f32],
    /// Elements from a tap to the next.
    pub step: usize,
    /// Taps.
    pub taps: usize,
    /// Whether they are added to what there is.
    pub add: bool,
}

impl Ordered<'_> {
    /// The sum of channel c and tap t goes to `c · taps + t`.
    ///
    /// # Panics
    ///
    /// Where there are fewer sums than places for them.
    #[cfg(target_arch = "x86_64")]
    pub fn run(&self, level: Level, out: &mut [f32]) {
        let channels = out.len() / self.taps;
        let whole = (self.taps - 1) * self.step + channels.next_multiple_of(16);
        assert!(whole <= self.sums.len(), "sums of every channel and tap");
        if !level.is_avx512() {
            return vectors::order(self, out);
        }
        // SAFETY: the assertion holds every access inside the slices; the method is chosen where the processor has the
        // instructions.
        unsafe { x86::order(self, channels, out.as_mut_ptr()) }
    }

    /// Never called where there are no such instructions.
    #[cfg(not(target_arch = "x86_64"))]
    pub fn run(&self, _: Level, _: &mut [f32]) {
        unreachable!("the processor does not have the instructions");
    }
}

/// An element of a row that is stored as bf16, or as f32 and rounded to the nearest.
pub trait Half: Element {
    /// The first `n` elements, at most 32, as bf16; zeros behind them.
    ///
    /// # Safety
    ///
    /// There are so many; the processor has the instructions.
    #[cfg(target_arch = "x86_64")]
    unsafe fn halves(from: *const Self, n: usize) -> std::arch::x86_64::__m512i;

    /// The first elements whose bit is set as f32; zeros elsewhere.
    ///
    /// # Safety
    ///
    /// There are so many; the processor has the instructions.
    #[cfg(target_arch = "x86_64")]
    unsafe fn floats(from: *const Self, mask: u16) -> std::arch::x86_64::__m512;
}

/// Two runs of rows, whose elements become pairs of bf16; or one, whose elements become f32.
#[derive(Clone, Copy, Debug)]
pub struct Runs<'a, T> {
    /// What the rows lie in.
    pub rows: &'a [T],
    /// Where the first row of the earlier run begins, and of the later, which may be missing: zeros then.
    pub first: (usize, Option<usize>),
    /// Elements from a row to the next.
    pub step: usize,
    /// Rows of each run.
    pub count: usize,
    /// Elements of a row that count.
    pub channels: usize,
    /// Whether they become pairs.
    pub pairs: bool,
    /// Elements of a panel, as [`width`] or [`columns`]; with vectors of AVX-512 the former.
    pub width: usize,
}

impl<T: Half> Runs<'_, T> {
    /// Element c of pair p goes to `p · pitch + c / width · step + c % width`.
    ///
    /// # Panics
    ///
    /// Where the rows do not lie in the slice, or the result has no room.
    #[cfg(target_arch = "x86_64")]
    pub fn pack(&self, level: Level, out: &mut [f32], pitch: usize, step: usize) {
        let (n, width) = (self.channels, self.width);
        if n == 0 || self.count == 0 {
            return;
        }
        let last = self.first.0.max(self.first.1.unwrap_or(0)) + (self.count - 1) * self.step;
        assert!(last + n <= self.rows.len(), "the rows are whole");
        // Vectors may spill over what a panel of a few holds, to where the next row goes.
        let spill = if width < 8 { 8 } else { 0 };
        let deepest = (n - 1) / width * step + (n - 1) % width + 1 + spill;
        assert!(step >= width && (self.count - 1) * pitch + deepest <= out.len(), "the result has room");
        if !level.is_avx512() {
            assert!(!self.pairs, "a level that multiplies them");
            // SAFETY: the assertions hold every access inside the slices.
            return unsafe { vectors::copy(level, self, out.as_mut_ptr(), pitch, step) };
        }
        let two = 2 * n;
        if self.pairs && two == WIDTH && (self.step, pitch) == (n, n) && self.count >= 2 {
            // Rows of half a vector that follow one another here and there are rows of a whole one.
            let whole = Runs { step: two, count: self.count / 2, channels: two, width: two, ..*self };
            // SAFETY: as below.
            unsafe { x86::pack(&whole, out.as_mut_ptr(), two, two) };
            let done = self.count / 2 * two;
            let first = (self.first.0 + done, self.first.1.map(|first| first + done));
            return Runs { first, count: self.count % 2, ..*self }.pack(level, &mut out[done..], pitch, step);
        }
        // SAFETY: the assertions hold every access inside the slices; the method is chosen where the processor has the
        // instructions.
        unsafe {
            if self.pairs {
                x86::pack(self, out.as_mut_ptr(), pitch, step);
            } else {
                x86::copy(self, out.as_mut_ptr(), pitch, step);
            }
        }
    }

    /// Never called where there are no such instructions.
    #[cfg(not(target_arch = "x86_64"))]
    pub fn pack(&self, _: Level, _: &mut [f32], _: usize, _: usize) {
        unreachable!("the processor does not have the instructions");
    }
}

#[cfg(not(target_arch = "x86_64"))]
impl Half for u16 {}

#[cfg(not(target_arch = "x86_64"))]
impl Half for f32 {}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{Half, Ordered, Runs, WIDTH};
    use crate::ahead::Pace;
    use crate::transpose::x86::lanes;
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

        #[inline]
        #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
        unsafe fn floats(from: *const u16, mask: u16) -> __m512 {
            // SAFETY: elements that are masked out are not touched.
            let halves = unsafe { _mm256_maskz_loadu_epi16(mask, from.cast()) };
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(halves)))
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

        #[inline]
        #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
        unsafe fn floats(from: *const f32, mask: u16) -> __m512 {
            // SAFETY: elements that are masked out are not touched.
            unsafe { _mm512_maskz_loadu_ps(mask, from) }
        }
    }

    /// The lowest `n` bits.
    #[inline(always)]
    fn mask(n: usize) -> u32 {
        1u32.checked_shl(n as u32).unwrap_or(0).wrapping_sub(1)
    }

    /// Rows ahead that are asked for: rows of a few channels are too short for the processor to see them coming.
    const AHEAD: usize = 16;

    /// [`Runs::pack`].
    ///
    /// # Safety
    ///
    /// The rows lie in the slice, and the result has room; the processor has the instructions.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    pub(super) unsafe fn pack<T: Half>(runs: &Runs<'_, T>, out: *mut f32, pitch: usize, step: usize) {
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
        // The second half of a vector is in the next panel of narrow ones.
        let narrow = runs.width == WIDTH / 2;
        let (half, step) = if narrow { (step, 2 * step) } else { (16, step) };
        let n = runs.channels;
        let (mut one, two) = (runs.rows.as_ptr().wrapping_add(runs.first.0), runs.first.1.is_some());
        let mut other = runs.rows.as_ptr().wrapping_add(runs.first.1.unwrap_or(runs.first.0));
        let mut out = out;
        for _ in 0..runs.count {
            let mut to = out;
            let mut from = 0;
            while from < n {
                let some = WIDTH.min(n - from);
                // SAFETY: promised; any address may be asked for.
                unsafe {
                    let far = AHEAD * runs.step + from;
                    let mut c = 0;
                    while c < WIDTH {
                        _mm_prefetch::<_MM_HINT_T0>(one.wrapping_add(far + c).cast());
                        _mm_prefetch::<_MM_HINT_T0>(other.wrapping_add(far + c).cast());
                        c += line;
                    }
                    let a = T::halves(one.add(from), some);
                    let b = if two { T::halves(other.add(from), some) } else { _mm512_setzero_si512() };
                    let (first, second) =
                        (_mm512_permutex2var_epi16(a, low, b), _mm512_permutex2var_epi16(a, high, b));
                    if some == WIDTH {
                        _mm512_storeu_si512(to.cast(), first);
                        _mm512_storeu_si512(to.add(half).cast(), second);
                    } else {
                        let mask = mask(some);
                        _mm512_mask_storeu_epi32(to.cast(), mask as u16, first);
                        // A store of nothing to where no memory is would be slow.
                        if some > WIDTH / 2 {
                            let to = to.wrapping_add(half);
                            _mm512_mask_storeu_epi32(to.cast(), (mask >> 16) as u16, second);
                        }
                    }
                }
                to = to.wrapping_add(step);
                from += WIDTH;
            }
            one = one.wrapping_add(runs.step);
            other = other.wrapping_add(runs.step);
            out = out.wrapping_add(pitch);
        }
    }

    /// [`Runs::pack`] of f32.
    ///
    /// # Safety
    ///
    /// As [`pack`].
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    pub(super) unsafe fn copy<T: Half>(runs: &Runs<'_, T>, out: *mut f32, pitch: usize, step: usize) {
        let n = runs.channels;
        let (mut row, mut out) = (runs.rows.as_ptr().wrapping_add(runs.first.0), out);
        for _ in 0..runs.count {
            let mut to = out;
            for from in (0..n).step_by(WIDTH) {
                // SAFETY: promised; any address may be asked for, and elements that are masked out are not touched.
                unsafe {
                    let far = row.wrapping_add(AHEAD * runs.step + from);
                    _mm_prefetch::<_MM_HINT_T0>(far.cast());
                    _mm_prefetch::<_MM_HINT_T0>(far.wrapping_add(WIDTH / 2).cast());
                    let mask = mask(WIDTH.min(n - from));
                    let (low, high) = (mask as u16, (mask >> 16) as u16);
                    _mm512_mask_storeu_ps(to, low, T::floats(row.add(from), low));
                    let next = row.wrapping_add(from + 16);
                    _mm512_mask_storeu_ps(to.wrapping_add(16), high, T::floats(next, high));
                }
                to = to.wrapping_add(step);
            }
            row = row.wrapping_add(runs.step);
            out = out.wrapping_add(pitch);
        }
    }

    /// [`Ordered::run`] for so many channels.
    ///
    /// # Safety
    ///
    /// Sums and result hold what it says; the processor has the instructions.
    #[target_feature(enable = "avx512f")]
    pub(super) unsafe fn order(a: &Ordered<'_>, channels: usize, out: *mut f32) {
        for first in (0..a.taps).step_by(16) {
            let taps = (a.taps - first).min(16);
            let mask = mask(taps) as u16;
            for c in (0..channels).step_by(16) {
                let mut rows = [_mm512_setzero_si512(); 16];
                // SAFETY: promised; the array holds no more taps.
                unsafe {
                    for (t, row) in rows.iter_mut().enumerate().take(taps) {
                        *row = _mm512_loadu_si512(a.sums.as_ptr().add((first + t) * a.step + c).cast());
                    }
                    for (i, row) in lanes(rows).iter().enumerate().take(channels - c) {
                        let to = out.add((c + i) * a.taps + first);
                        let row = _mm512_castsi512_ps(*row);
                        let all =
                            if a.add { _mm512_add_ps(_mm512_maskz_loadu_ps(mask, to), row) } else { row };
                        _mm512_mask_storeu_ps(to, mask, all);
                    }
                }
            }
        }
    }

    /// The operands of a tile, from its first column on.
    #[derive(Clone, Copy)]
    pub(super) struct Tile<'a> {
        pub places: &'a [[u32; 2]],
        pub panel: *const f32,
        pub data: *const f32,
        pub out: *mut f32,
        pub step: usize,
        pub add: bool,
        /// Lines that are asked for meanwhile: where they begin, and how many.
        pub asked: (usize, usize),
    }

    /// Pairs between the lines that are asked for.
    const EVERY: usize = 8;

    /// The last place in either operand, 0 of none.
    #[target_feature(enable = "avx512f")]
    pub(super) fn last(places: &[[u32; 2]]) -> [u32; 2] {
        let (some, rest) = places.as_chunks::<8>();
        let mut last = [[0; 2]; 8];
        for some in some {
            for i in 0..8 {
                last[i] = [last[i][0].max(some[i][0]), last[i][1].max(some[i][1])];
            }
        }
        last.iter().chain(rest).fold([0, 0], |last, at| [at[0].max(last[0]), at[1].max(last[1])])
    }

    /// One tile of `n` columns, of two vectors of rows or of one.
    ///
    /// # Safety
    ///
    /// Panel, data and result hold what [`super::Product`] says; the processor has the instructions.
    pub(super) unsafe fn tile(pairs: bool, two: bool, n: usize, t: Tile<'_>) {
        macro_rules! columns {
            ($($n:literal)*) => {
                // SAFETY: promised.
                unsafe {
                    match (pairs, two, n) {
                        $((false, false, $n) => singles::<1, $n>(t),
                        (false, true, $n) => singles::<2, $n>(t),
                        (true, false, $n) => halves::<1, $n>(t),
                        (true, true, $n) => halves::<2, $n>(t),)*
                        _ => unreachable!("columns are cut into tiles"),
                    }
                }
            };
        }
        columns!(1 2 3 4 5 6 7 8 9 10 11 12 13 14);
    }

    /// # Safety
    ///
    /// As [`tile`].
    #[target_feature(enable = "avx512f,avx512bf16")]
    unsafe fn halves<const V: usize, const N: usize>(t: Tile<'_>) {
        // SAFETY: promised.
        unsafe { sums::<V, N, true>(t) }
    }

    /// # Safety
    ///
    /// As [`tile`].
    #[target_feature(enable = "avx512f")]
    unsafe fn singles<const V: usize, const N: usize>(t: Tile<'_>) {
        // SAFETY: promised.
        unsafe { sums::<V, N, false>(t) }
    }

    /// # Safety
    ///
    /// As [`tile`].
    #[inline(always)]
    #[expect(clippy::needless_range_loop, reason = "indices that are constants keep the sums in registers")]
    unsafe fn sums<const V: usize, const N: usize, const PAIRS: bool>(t: Tile<'_>) {
        let Tile { places, panel, data, out, step, add, asked } = t;
        let mut pace = Pace::new(asked, places.len().div_ceil(EVERY));
        let every = pace.terms(EVERY, places.len());
        // SAFETY: promised.
        unsafe {
            let mut sums = [[_mm512_setzero_ps(); V]; N];
            for places in places.chunks(every) {
                pace.ask();
                for &[at, column] in places {
                    let (panel, data) = (panel.wrapping_add(at as usize), data.wrapping_add(column as usize));
                    // No closures: what calls them is compiled without the instructions, and they are not always inlined.
                    let mut left = [_mm512_setzero_ps(); V];
                    for v in 0..V {
                        left[v] = _mm512_loadu_ps(panel.add(v * 16));
                    }
                    for j in 0..N {
                        let right = _mm512_set1_ps(*data.add(j));
                        for v in 0..V {
                            if PAIRS {
                                // Both types are 512 bits.
                                let [a, b] = [
                                    transmute::<__m512, __m512bh>(left[v]),
                                    transmute::<__m512, __m512bh>(right),
                                ];
                                sums[j][v] = _mm512_dpbf16_ps(sums[j][v], a, b);
                            } else {
                                sums[j][v] = _mm512_fmadd_ps(left[v], right, sums[j][v]);
                            }
                        }
                    }
                }
            }
            // Written out by column, so that the sums are registers, not an array.
            macro_rules! columns {
                ($($j:literal)*) => {$(
                    if $j < N {
                        let sums = sums[if $j < N { $j } else { 0 }];
                        for v in 0..V {
                            let to = out.add($j * step + v * 16);
                            let sum = if add { _mm512_add_ps(sums[v], _mm512_loadu_ps(to)) } else { sums[v] };
                            _mm512_storeu_ps(to, sum);
                        }
                    }
                )*};
            }
            columns!(0 1 2 3 4 5 6 7 8 9 10 11 12 13);
        }
    }
}
