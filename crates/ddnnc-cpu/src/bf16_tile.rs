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
use crate::amx_tile;
use crate::simd::Level;

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
        1 | 2 => 12,
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
            let at = data_at.iter().fold(0, |most, &at| most.max(at));
            assert!(at + last <= self.data.len(), "the data are whole");
        }
        let at = out_at.iter().fold(0, |most, &at| most.max(at));
        assert!(at + self.rows <= out.len(), "the result has room");
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
    let at = data_at.iter().fold(0, |most, &at| most.max(at));
    assert!(at + last <= data.len(), "the data are whole");
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

/// Asks for the first run of some columns.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub fn ask(s: &Sum<'_>, data_at: &[usize]) {
    for &at in data_at {
        let run = s.data.as_ptr().wrapping_add(at);
        for line in (0..s.walk.terms).step_by(32) {
            // SAFETY: any address may be asked for.
            unsafe {
                std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(
                    run.wrapping_add(line).cast(),
                )
            };
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{LANES, Sum, ask};
    use crate::ahead::{self, LINE};
    use std::arch::x86_64::*;
    use std::mem::transmute;

    /// Pairs of terms between the lines that are asked for.
    const EVERY: usize = 4;

    /// # Safety
    ///
    /// The panel holds the walk, the data all that the columns read, the result all that they write; the processor has the
    /// features.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    pub(super) unsafe fn run(s: &Sum<'_>, data_at: &[usize], out: *mut f32, out_at: &[usize]) {
        // SAFETY: promised.
        unsafe {
            match s.width / LANES {
                1 => columns::<1, 12, 4>(s, data_at, out, out_at),
                2 => columns::<2, 12, 4>(s, data_at, out, out_at),
                3 => columns::<3, 8, 4>(s, data_at, out, out_at),
                _ => columns::<4, 6, 3>(s, data_at, out, out_at),
            }
        }
    }

    /// Tiles of N columns, and of M where no more are left.
    #[inline(always)]
    unsafe fn columns<const V: usize, const N: usize, const M: usize>(
        s: &Sum<'_>,
        data_at: &[usize],
        out: *mut f32,
        out_at: &[usize],
    ) {
        let mut next = data_at.chunks(N).skip(1);
        for (data_at, out_at) in data_at.chunks(N).zip(out_at.chunks(N)) {
            if s.far {
                ask(s, next.next().unwrap_or_default());
            }
            let asked = s.ahead.0.take(s.ahead.1);
            // SAFETY: promised.
            unsafe {
                if data_at.len() > M {
                    tile::<V, N>(s, data_at, out, out_at, asked);
                } else {
                    tile::<V, M>(s, data_at, out, out_at, asked);
                }
            }
        }
    }

    /// The same bits as pairs of bf16.
    #[inline(always)]
    fn pairs_of(bits: __m512i) -> __m512bh {
        // SAFETY: both are vectors of one size, and any bits are both.
        unsafe { transmute::<__m512i, __m512bh>(bits) }
    }

    /// V vectors by N columns; columns past the last repeat it and are not stored. Asks for those lines meanwhile, and maybe
    /// for some that follow.
    #[inline(always)]
    unsafe fn tile<const V: usize, const N: usize>(
        s: &Sum<'_>,
        data_at: &[usize],
        out: *mut f32,
        out_at: &[usize],
        (mut line, lines): (usize, usize),
    ) {
        let n = data_at.len();
        let [outer, inner] = s.walk.counts;
        let (pairs, odd) = (s.walk.terms / 2, s.walk.terms % 2 == 1);
        // Without branches that depend on what is left.
        let beside = lines.div_ceil((outer * inner * pairs.div_ceil(EVERY)).max(1));
        let end = line.wrapping_add(lines * LINE);
        // SAFETY: promised.
        unsafe {
            let data: [*const u16; N] =
                std::array::from_fn(|j| s.data.as_ptr().wrapping_add(*data_at.get_unchecked(j.min(n - 1))));
            let mut sums = [[_mm512_setzero_ps(); V]; N];
            let mut panel = s.panel.as_ptr();
            macro_rules! step {
                ($j:ident, $right:expr) => {{
                    let mut left = [pairs_of(_mm512_setzero_si512()); V];
                    for v in 0..V {
                        left[v] = pairs_of(_mm512_loadu_si512(panel.add(v * 2 * LANES).cast()));
                    }
                    for $j in 0..N {
                        let right = pairs_of($right);
                        for v in 0..V {
                            sums[$j][v] = _mm512_dpbf16_ps(sums[$j][v], left[v], right);
                        }
                    }
                    panel = panel.wrapping_add(V * 2 * LANES);
                }};
            }
            for o in 0..outer {
                for i in 0..inner {
                    let mut at = o * s.walk.steps[0] + i * s.walk.steps[1];
                    let mut left = pairs;
                    while left > 0 {
                        for _ in 0..beside {
                            ahead::ask(line);
                            line = line.wrapping_add(LINE).min(end);
                        }
                        let some = left.min(EVERY);
                        for _ in 0..some {
                            step!(j, _mm512_set1_epi32(data[j].add(at).cast::<i32>().read_unaligned()));
                            at += 2;
                        }
                        left -= some;
                    }
                    if odd {
                        step!(j, _mm512_maskz_set1_epi16(0x5555_5555, *data[j].add(at).cast::<i16>()));
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
            store!(0 1 2 3 4 5 6 7 8 9 10 11);
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
