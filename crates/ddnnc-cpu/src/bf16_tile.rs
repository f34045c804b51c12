//! The micro-kernel of convolutions of bf16: a tile of f32 sums held in registers, to which each instruction adds the
//! products of two neighbouring terms.
//!
//! A panel holds pairs of terms of up to [`WIDTH`] rows, `[pair][row][2]`, in the order in which they are summed. The data
//! are runs of terms, of which a pair is 32 bits that go to all rows. Where a run has an odd number of terms its last
//! pair takes zero instead of what follows the run. With AMX ([`Products::Tiles`]) the run is followed by zeros in the panel.

#![cfg_attr(
    not(target_arch = "x86_64"),
    expect(dead_code, reason = "no such processor multiplies bf16 here")
)]

use crate::ahead::Ahead;
#[cfg(target_arch = "x86_64")]
use crate::ahead::ask_near;
#[cfg(target_arch = "x86_64")]
use crate::amx_tile;
use crate::simd::Level;
use crate::transpose::transpose;

/// Rows of the widest panel.
pub const WIDTH: usize = 64;

/// Pairs that tiles multiply at once: a run in a panel is a multiple of them.
pub const PAIRS: usize = 16;

/// Columns of a tile of sums.
const ROWS: usize = 16;

/// Rows in a vector of sums; panels are whole vectors.
pub const LANES: usize = 16;

/// Two nested loops over runs of terms.
#[derive(Clone, Copy, Debug)]
pub struct Walk {
    /// Turns of each loop, the outer first.
    pub counts: [usize; 2],
    /// Step of each in the data.
    pub steps: [usize; 2],
    /// Terms of a run.
    pub terms: usize,
}

/// Sums of one panel with columns of the data.
#[derive(Clone, Copy, Debug)]
pub struct Sum<'a> {
    /// Rows that are stored.
    pub rows: usize,
    /// Rows of the panel, a multiple of [`LANES`].
    pub width: usize,
    /// The terms.
    pub walk: Walk,
    /// The panel, from the walk's first pair on.
    pub panel: &'a [u16],
    /// Where all columns read.
    pub data: &'a [u16],
    /// Whether the sums are added to what the results hold.
    pub add: bool,
    /// Whether the data may lie beyond the caches, so that the next tile's are asked for before a tile is computed.
    pub far: bool,
    /// What else is asked for, so many lines beside every tile.
    pub ahead: (&'a Ahead, usize),
    /// Which instructions multiply.
    pub products: Products,
}

/// The instructions that multiply bf16.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Products {
    /// A pair with vectors of pairs.
    Pairs,
    /// Tiles of pairs.
    Tiles,
}

impl Products {
    /// The fastest of a level that has any.
    pub fn of(level: Level) -> Products {
        if level.multiplies_tiles() { Products::Tiles } else { Products::Pairs }
    }

    /// Pairs that a run of so many terms takes in a panel.
    pub fn pairs(self, terms: usize) -> usize {
        match self {
            Products::Pairs => terms.div_ceil(2),
            Products::Tiles => terms.div_ceil(2).next_multiple_of(PAIRS),
        }
    }

    /// Pairs that are added up in one go, about, with panels of that width: of tiles as many as leave the panel in the first
    /// cache.
    pub fn depth(self, width: usize) -> usize {
        match self {
            Products::Pairs => 512,
            Products::Tiles => 12288 / width.max(LANES) / PAIRS * PAIRS,
        }
    }

    /// Columns of a full tile for panels of that width.
    pub fn columns(self, width: usize) -> usize {
        match self {
            Products::Pairs => columns(width),
            Products::Tiles => ROWS * (4 * LANES / width.max(LANES)).max(1),
        }
    }
}

fn columns(width: usize) -> usize {
    match width / LANES {
        1 => 24,
        2 => 12,
        3 => 8,
        _ => 6,
    }
}

impl Sum<'_> {
    /// Result (row, j) at `out_at[j] + row` is the sum with the data from `data_at[j]` on, for any number of columns.
    ///
    /// The processor has the instructions.
    ///
    /// # Panics
    ///
    /// Where panel, data or result do not hold that many entries.
    pub fn run(&self, data_at: &[usize], out: &mut [f32], out_at: &[usize]) {
        let Walk { counts: [outer, inner], steps, terms } = self.walk;
        if self.rows == 0 || data_at.is_empty() {
            return;
        }
        assert!(self.rows <= self.width && self.width <= WIDTH && self.width.is_multiple_of(LANES));
        assert!(data_at.len() == out_at.len(), "a place for every column");
        if outer * inner * terms > 0 {
            let pairs = outer * inner * self.products.pairs(terms);
            assert!(pairs * self.width * 2 <= self.panel.len(), "the panel is whole");
            let last = (outer - 1) * steps[0] + (inner - 1) * steps[1] + terms;
            assert!(most(data_at) + last <= self.data.len(), "the data are whole");
        }
        assert!(most(out_at) + self.rows <= out.len(), "the result has room");
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the assertions hold every access inside the slices; the processor has the feature.
        unsafe {
            match self.products {
                Products::Pairs => x86::run(self, data_at, out.as_mut_ptr(), out_at),
                Products::Tiles => amx_tile::run(self, data_at, out.as_mut_ptr(), out_at),
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        unreachable!("no such instruction");
    }
}

/// The largest, 0 of none.
fn most(all: &[usize]) -> usize {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the processor multiplies bf16.
    return unsafe { x86::most(all) };
    #[cfg(not(target_arch = "x86_64"))]
    all.iter().fold(0, |most, &one| most.max(one))
}

/// Copies the data of some columns so that column j begins at `j · pitch`: its runs, each with zeros up to a multiple of the
/// terms that tiles multiply at once.
///
/// The processor has AVX-512.
///
/// # Panics
///
/// Where the data or the copy do not hold that many elements.
pub fn gather(walk: &Walk, data: &[u16], data_at: &[usize], to: &mut [u16], pitch: usize) {
    let Walk { counts: [outer, inner], steps, terms } = *walk;
    if outer * inner * terms == 0 || data_at.is_empty() {
        return;
    }
    let last = (outer - 1) * steps[0] + (inner - 1) * steps[1] + terms;
    assert!(most(data_at) + last <= data.len(), "the data are whole");
    let copied = 2 * outer * inner * Products::Tiles.pairs(terms);
    assert!(copied <= pitch && data_at.len() * pitch <= to.len(), "the copy has room");
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the assertions hold every access inside the slices; the processor has the feature.
    unsafe {
        amx_tile::gather(walk, data.as_ptr(), data_at, to.as_mut_ptr(), pitch);
    }
    #[cfg(not(target_arch = "x86_64"))]
    unreachable!("no such instruction");
}

/// Packs `rows` rows, `step` apart, whose terms follow one another, into a panel of that width: so many pairs of a run, zeros
/// where there are no terms any more.
///
/// The processor has AVX-512.
#[inline(always)]
pub fn pack_turned(
    from: &[u16],
    step: usize,
    rows: usize,
    terms: usize,
    pairs: usize,
    width: usize,
    panel: &mut [u16],
) {
    for first in (0..rows).step_by(LANES) {
        let from = &from[first * step..];
        let rows = LANES.min(rows - first);
        for term in (0..terms).step_by(2 * LANES) {
            let panel = &mut panel[term * width + 2 * first..];
            if rows == LANES && term + 2 * LANES <= terms {
                transpose(&from[term..], step, panel, width);
                continue;
            }
            for (i, panel) in panel.chunks_mut(2 * width).enumerate().take(LANES.min(pairs - term / 2)) {
                for (row, panel) in panel.chunks_exact_mut(2).enumerate().take(rows) {
                    let from = &from[row * step..][..terms];
                    for (term, to) in (term + 2 * i..).zip(panel) {
                        *to = from.get(term).copied().unwrap_or(0);
                    }
                }
            }
        }
    }
}

/// Asks for the first run of some columns.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub fn ask(s: &Sum<'_>, data_at: &[usize]) {
    for &at in data_at {
        let run = s.data.as_ptr().wrapping_add(at);
        for line in (0..s.walk.terms).step_by(32) {
            ask_near(run.wrapping_add(line).addr());
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{LANES, Sum, ask};
    use crate::ahead::Pace;
    use crate::vector::loaded;
    use std::arch::asm;
    use std::arch::x86_64::*;
    use std::mem::transmute;
    use std::ops::RangeInclusive;

    /// Pairs of terms between the lines that are asked for.
    const EVERY: usize = 4;

    /// Columns of a tile that may lie at equal distances: one address serves them.
    const GROUP: usize = 4;

    /// # Safety
    ///
    /// The panel holds the walk, the data all that the columns read, the result all that they write; the processor has the
    /// features.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    pub(super) unsafe fn run(s: &Sum<'_>, data_at: &[usize], out: *mut f32, out_at: &[usize]) {
        // SAFETY: promised.
        unsafe {
            match s.width / LANES {
                1 => columns::<1, 24, 12, 4>(s, data_at, out, out_at),
                2 => columns::<2, 12, 12, 4>(s, data_at, out, out_at),
                3 => columns::<3, 8, 8, 4>(s, data_at, out, out_at),
                _ => columns::<4, 6, 6, 3>(s, data_at, out, out_at),
            }
        }
    }

    /// The largest, 0 of none.
    #[target_feature(enable = "avx512f")]
    pub(super) fn most(all: &[usize]) -> usize {
        all.iter().fold(0, |most, &one| most.max(one))
    }

    /// The distance at which the columns of each group of [`GROUP`] follow one another, if it is one.
    #[inline(always)]
    fn distance(data_at: &[usize]) -> Option<usize> {
        let step = data_at.get(1)?.wrapping_sub(data_at[0]);
        let mut even = data_at.len().is_multiple_of(GROUP);
        for group in data_at.chunks_exact(GROUP) {
            for j in 1..GROUP {
                even &= group[j].wrapping_sub(group[j - 1]) == step;
            }
        }
        even.then_some(step)
    }

    /// Tiles of EVEN columns, where those lie evenly in groups, of N where not, and of M where no more are left.
    #[inline(always)]
    unsafe fn columns<const V: usize, const EVEN: usize, const N: usize, const M: usize>(
        s: &Sum<'_>,
        data_at: &[usize],
        out: *mut f32,
        out_at: &[usize],
    ) {
        let mut done = 0;
        while done < data_at.len() {
            let left = data_at.len() - done;
            let step = if EVEN.is_multiple_of(GROUP) {
                distance(&data_at[done..done + left.min(EVEN)])
            } else {
                None
            };
            let some = left.min(if step.is_some() { EVEN } else { N });
            let end = done + some;
            if s.far {
                ask(s, &data_at[end..data_at.len().min(end + some)]);
            }
            let asked = s.ahead.0.take(s.ahead.1);
            if let (1, Some(distance)) = (V, step)
                && let Some(count) = slides(s, distance, &data_at[done..])
            {
                let end = done + count;
                // SAFETY: promised.
                unsafe { slide(s, &data_at[done..end], distance, out, &out_at[done..end], asked) };
                done = end;
                continue;
            }
            let (data_at, out_at) = (&data_at[done..end], &out_at[done..end]);
            // SAFETY: promised.
            unsafe {
                match step {
                    Some(step) if some > N => tile::<V, EVEN, GROUP>(s, data_at, step, out, out_at, asked),
                    Some(step) if some > M => tile::<V, N, GROUP>(s, data_at, step, out, out_at, asked),
                    None if some > M => tile::<V, N, 1>(s, data_at, 0, out, out_at, asked),
                    _ => tile::<V, M, 1>(s, data_at, 0, out, out_at, asked),
                }
            }
            done = end;
        }
    }

    /// The same bits as pairs of bf16.
    #[inline(always)]
    fn pairs_of(bits: __m512i) -> __m512bh {
        // SAFETY: both are vectors of one size, and any bits are both.
        unsafe { transmute::<__m512i, __m512bh>(bits) }
    }

    /// The same address, of which nothing else is known where it serves a group: or every column would be given a register
    /// of its own, of which there are too few.
    #[inline(always)]
    fn moved(mut at: *const u16, group: usize) -> *const u16 {
        if group > 1 {
            // SAFETY: nothing happens.
            unsafe {
                asm!("/* {at} */", at = inout(reg) at, options(pure, readonly, nostack, preserves_flags))
            };
        }
        at
    }

    /// Taps of a run of which [`slide`] takes the terms of every column but the first from the column before.
    const TAPS: usize = 3;

    /// The columns that [`slide`] takes: at least as many as keep the additions of a sum far enough apart.
    const SLIDES: RangeInclusive<usize> = 12..=16;

    /// How many columns are one tile of [`slide`], if the first are: one a position of the data further than another, and a
    /// run the positions of [`TAPS`] taps.
    #[inline(always)]
    fn slides(s: &Sum<'_>, distance: usize, data_at: &[usize]) -> Option<usize> {
        if distance == 0 || !distance.is_multiple_of(2) || s.walk.terms != TAPS * distance {
            return None;
        }
        let most = data_at.len().min(2 * SLIDES.end());
        let apart = |at: &[usize]| at[1].wrapping_sub(at[0]) == distance;
        let all = data_at[..most].windows(2).take_while(|at| apart(at)).count() + 1;
        let some = all.div_ceil(all.div_ceil(*SLIDES.end()));
        SLIDES.contains(&some).then_some(some)
    }

    /// A tile of one vector by columns that [`slides`] finds.
    #[inline(always)]
    unsafe fn slide(
        s: &Sum<'_>,
        data_at: &[usize],
        distance: usize,
        out: *mut f32,
        out_at: &[usize],
        asked: (usize, usize),
    ) {
        let from = s.data.as_ptr().wrapping_add(data_at[0]);
        // SAFETY: promised.
        unsafe {
            match data_at.len() {
                12 => sliding::<12>(s, from, distance, out, out_at, asked),
                13 => sliding::<13>(s, from, distance, out, out_at, asked),
                14 => sliding::<14>(s, from, distance, out, out_at, asked),
                15 => sliding::<15>(s, from, distance, out, out_at, asked),
                _ => sliding::<16>(s, from, distance, out, out_at, asked),
            }
        }
    }

    /// One vector by N columns, each a position of the data further than the one before: a pair is loaded once for the three
    /// columns that have it under one of their taps.
    #[inline(always)]
    #[expect(clippy::needless_range_loop, reason = "indices that are constants keep the sums in registers")]
    unsafe fn sliding<const N: usize>(
        s: &Sum<'_>,
        from: *const u16,
        distance: usize,
        out: *mut f32,
        out_at: &[usize],
        asked: (usize, usize),
    ) {
        let [outer, inner] = s.walk.counts;
        let pairs = distance / 2;
        let mut pace = Pace::new(asked, outer * inner * pairs);
        // SAFETY: promised.
        unsafe {
            let mut sums = [_mm512_setzero_ps(); N];
            let mut panel = s.panel.as_ptr();
            for o in 0..outer {
                for i in 0..inner {
                    let mut at = from.wrapping_add(o * s.walk.steps[0] + i * s.walk.steps[1]);
                    for _ in 0..pairs {
                        pace.ask();
                        let mut left = [pairs_of(_mm512_setzero_si512()); TAPS];
                        for t in 0..TAPS {
                            let tap = panel.wrapping_add(t * pairs * 2 * LANES);
                            left[t] = pairs_of(_mm512_loadu_si512(tap.cast()));
                        }
                        // Written out by position, so that the sums are registers, not an array.
                        let mut term = at;
                        macro_rules! positions {
                            ($($p:literal)*) => {$(
                                if $p < N + TAPS - 1 {
                                    let right = pairs_of(loaded(term.cast()));
                                    for t in 0..TAPS {
                                        if t <= $p && $p < N + t {
                                            let sum = &mut sums[($p - t) % N];
                                            *sum = _mm512_dpbf16_ps(*sum, left[t], right);
                                        }
                                    }
                                    term = term.wrapping_add(distance);
                                }
                            )*};
                        }
                        positions!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17);
                        _ = term;
                        panel = panel.wrapping_add(2 * LANES);
                        at = at.wrapping_add(2);
                    }
                    panel = panel.wrapping_add((TAPS - 1) * pairs * 2 * LANES);
                }
            }
            // Written out by column, so that the sums are registers, not an array.
            macro_rules! store {
                ($($j:literal)*) => {$(
                    if $j < N {
                        column(s, out.add(*out_at.get_unchecked($j)), [sums[if $j < N { $j } else { 0 }]]);
                    }
                )*};
            }
            store!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);
        }
    }

    /// V vectors by N columns, groups of G of which are `distance` apart in the data; columns past the last repeat the last
    /// group and are not stored. Asks for those lines meanwhile, and maybe for some that follow.
    #[inline(always)]
    unsafe fn tile<const V: usize, const N: usize, const G: usize>(
        s: &Sum<'_>,
        data_at: &[usize],
        distance: usize,
        out: *mut f32,
        out_at: &[usize],
        asked: (usize, usize),
    ) {
        let n = data_at.len();
        let [outer, inner] = s.walk.counts;
        let (pairs, odd) = (s.walk.terms / 2, s.walk.terms % 2 == 1);
        let mut pace = Pace::new(asked, outer * inner * pairs.div_ceil(EVERY));
        let every = pace.terms(EVERY, pairs);
        // SAFETY: promised.
        unsafe {
            let mut groups = [s.data.as_ptr(); N];
            for (g, group) in groups.iter_mut().enumerate().take(N / G) {
                *group = s.data.as_ptr().wrapping_add(*data_at.get_unchecked((g * G).min(n - G)));
            }
            let mut sums = [[_mm512_setzero_ps(); V]; N];
            let mut panel = s.panel.as_ptr();
            macro_rules! step {
                ($at:ident, $term:ident, $right:expr) => {{
                    let mut left = [pairs_of(_mm512_setzero_si512()); V];
                    for v in 0..V {
                        left[v] = pairs_of(_mm512_loadu_si512(panel.add(v * 2 * LANES).cast()));
                    }
                    for g in 0..N / G {
                        for j in 0..G {
                            let $term = $at[g].wrapping_add(j * distance);
                            let right = pairs_of($right);
                            for v in 0..V {
                                let sum = &mut sums[g * G + j][v];
                                *sum = _mm512_dpbf16_ps(*sum, left[v], right);
                            }
                        }
                    }
                    panel = panel.wrapping_add(V * 2 * LANES);
                }};
            }
            for o in 0..outer {
                for i in 0..inner {
                    let mut at = groups;
                    for g in 0..N / G {
                        at[g] = groups[g].wrapping_add(o * s.walk.steps[0] + i * s.walk.steps[1]);
                    }
                    let mut left = pairs;
                    while left > 0 {
                        pace.ask();
                        let some = left.min(every);
                        for _ in 0..some {
                            step!(at, term, _mm512_set1_epi32(term.cast::<i32>().read_unaligned()));
                            for at in at.iter_mut().take(N / G) {
                                *at = moved(at.wrapping_add(2), G);
                            }
                        }
                        left -= some;
                    }
                    if odd {
                        step!(at, term, _mm512_maskz_set1_epi16(0x5555_5555, *term.cast::<i16>()));
                    }
                }
            }
            // Written out by column, so that the sums are registers, not an array.
            macro_rules! store {
                ($($j:literal)*) => {$(
                    if $j < N && $j < n {
                        column(s, out.add(*out_at.get_unchecked($j)), sums[if $j < N { $j } else { 0 }]);
                    }
                )*};
            }
            store!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23);
        }
    }

    /// Stores the sums of a column.
    #[inline(always)]
    #[expect(clippy::needless_range_loop, reason = "an iterator over vectors may become calls")]
    unsafe fn column<const V: usize>(s: &Sum<'_>, to: *mut f32, sums: [__m512; V]) {
        for v in 0..V {
            let mut sum = sums[v];
            let to = to.wrapping_add(v * LANES);
            let rows = s.rows.saturating_sub(v * LANES);
            // SAFETY: promised.
            unsafe {
                if rows >= LANES {
                    if s.add {
                        sum = _mm512_add_ps(_mm512_loadu_ps(to), sum);
                    }
                    _mm512_storeu_ps(to, sum);
                } else {
                    let mask = (1u16 << rows) - 1;
                    if s.add {
                        sum = _mm512_add_ps(_mm512_maskz_loadu_ps(mask, to), sum);
                    }
                    _mm512_mask_storeu_ps(to, mask, sum);
                }
            }
        }
    }
}
