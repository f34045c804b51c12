//! Packing for the weight gradient by tiles of bf16, and its products.

use crate::amx::{LANES, Registers, clear, load, multiply, store};
use crate::amx_weight_places::{STEP, TILE};
use std::arch::x86_64::*;

/// Channels of a tile.
pub const WIDE: usize = 16;

/// Bytes from a row of a tile to the next.
const ROW: usize = 64;

/// Rows ahead that are asked for: rows of a few channels are too short for the processor to see them coming.
const AHEAD: usize = 16;

/// Two runs of rows of bf16, which become pairs.
#[derive(Clone, Copy, Debug)]
pub struct Couple<'a> {
    /// What the rows lie in.
    pub rows: &'a [u16],
    /// Where the first row of the earlier run begins, and of the later, which may be missing: zeros then.
    pub first: (usize, Option<usize>),
    /// Elements from a row to the next.
    pub step: usize,
    /// Rows of each run.
    pub count: usize,
    /// Elements of a row that count.
    pub channels: usize,
}

impl Couple<'_> {
    /// Channel c of pair p goes to `p · pitch + c / 16 · panel + c % 16`; what is left of the last sixteen is zero.
    ///
    /// The processor has AVX-512.
    ///
    /// # Panics
    ///
    /// Where the rows do not lie in the slice, or the result has no room.
    pub fn pack(&self, out: &mut [f32], pitch: usize, panel: usize) {
        if self.count == 0 || self.channels == 0 {
            return;
        }
        let last = self.first.0.max(self.first.1.unwrap_or(0)) + (self.count - 1) * self.step;
        assert!(last + self.channels <= self.rows.len(), "the rows are whole");
        let deepest = (self.channels - 1) / WIDE * panel + (self.count - 1) * pitch + LANES;
        assert!(deepest <= out.len(), "the result has room");
        // SAFETY: the assertions hold every access inside the slices; the caller's level has the instructions.
        unsafe { pairs(self, out.as_mut_ptr(), pitch, panel) }
    }
}

/// [`Couple::pack`].
///
/// # Safety
///
/// The rows lie in the slice, and the result has room; the processor has the instructions.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn pairs(couple: &Couple<'_>, out: *mut f32, pitch: usize, panel: usize) {
    let (rows, two) = (couple.rows.as_ptr(), couple.first.1.is_some());
    let (mut one, mut other) = (couple.first.0, couple.first.1.unwrap_or(couple.first.0));
    let (whole, rest) = (couple.channels / WIDE, couple.channels % WIDE);
    let mut to = out;
    let upper = if two { !0 } else { 0 };
    for _ in 0..couple.count {
        // SAFETY: promised; elements that are masked out are not touched, and any address may be asked for.
        unsafe {
            let far = AHEAD * couple.step;
            for i in (0..couple.channels).step_by(2 * WIDE) {
                _mm_prefetch::<_MM_HINT_T0>(rows.wrapping_add(one + far + i).cast());
                _mm_prefetch::<_MM_HINT_T0>(rows.wrapping_add(other + far + i).cast());
            }
            for i in 0..whole {
                let a = _mm256_loadu_si256(rows.add(one + i * WIDE).cast());
                let b = _mm256_loadu_si256(rows.add(other + i * WIDE).cast());
                _mm512_storeu_si512(to.add(i * panel).cast(), together(a, b, upper));
            }
            if rest > 0 {
                let mask = (1u16 << rest) - 1;
                let a = _mm256_maskz_loadu_epi16(mask, rows.add(one + whole * WIDE).cast());
                let b = _mm256_maskz_loadu_epi16(mask, rows.add(other + whole * WIDE).cast());
                _mm512_storeu_si512(to.add(whole * panel).cast(), together(a, b, upper));
            }
        }
        (one, other) = (one + couple.step, other + couple.step);
        to = to.wrapping_add(pitch);
    }
}

/// Words whose lower halves are those of `a`, and whose upper halves are those of `b` or, where the mask is 0, zeros.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn together(a: __m256i, b: __m256i, upper: u16) -> __m512i {
    let high = _mm512_maskz_slli_epi32::<16>(upper, _mm512_cvtepu16_epi32(b));
    _mm512_or_si512(_mm512_cvtepu16_epi32(a), high)
}

/// A row that is not there.
pub const NONE: usize = usize::MAX;

/// Sixteen pairs of rows of bf16, turned so that the pairs of a channel follow one another.
#[derive(Clone, Copy, Debug)]
pub struct Step<'a> {
    /// What the rows lie in.
    pub rows: &'a [u16],
    /// Where the rows of each pair begin; [`NONE`] for zeros.
    pub pairs: [[usize; 2]; STEP],
    /// Elements of a row that count.
    pub channels: usize,
    /// As many zeros, at least.
    pub zeros: &'a [u16],
    /// How many elements behind a row one of the next step begins, to ask for it.
    pub ahead: usize,
}

impl Step<'_> {
    /// Pair p of channel c goes to `c / 16 · tile + c % 16 · 16 + p`; rows of the last tile that have no channel are zero.
    ///
    /// The processor has AVX-512.
    ///
    /// # Panics
    ///
    /// Where the rows do not lie in the slice, or the result has no room.
    pub fn pack(&self, out: &mut [f32], tile: usize) {
        if self.channels == 0 {
            return;
        }
        let last = |most: usize, &[a, b]: &[usize; 2]| {
            let at = |row: usize| if row == NONE { 0 } else { row };
            most.max(at(a)).max(at(b))
        };
        let last = self.pairs.iter().fold(0, last);
        assert!(last + self.channels <= self.rows.len() && self.channels <= self.zeros.len(), "whole rows");
        assert!((self.channels - 1) / WIDE * tile + TILE <= out.len(), "the result has room");
        // SAFETY: the assertions hold every access inside the slices; the caller's level has the instructions.
        unsafe { turn(self, out.as_mut_ptr(), tile) }
    }
}

/// [`Step::pack`].
///
/// # Safety
///
/// The rows lie in the slice, and the result has room; the processor has the instructions.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn turn(step: &Step<'_>, out: *mut f32, tile: usize) {
    let mut rows = [[step.zeros.as_ptr(); 2]; STEP];
    for (to, from) in rows.iter_mut().zip(&step.pairs) {
        for i in 0..2 {
            if from[i] != NONE {
                to[i] = step.rows.as_ptr().wrapping_add(from[i]);
                let next = to[i].wrapping_add(step.ahead);
                for channel in (0..step.channels).step_by(2 * WIDE) {
                    _mm_prefetch::<_MM_HINT_T0>(next.wrapping_add(channel).cast());
                }
            }
        }
    }
    let all = step.channels;
    for first in (0..all.next_multiple_of(WIDE)).step_by(8) {
        // SAFETY: promised.
        unsafe {
            let to = out.add(first / WIDE * tile + first % WIDE * LANES);
            if first + 8 <= all {
                eight::<true>(&rows, first, 0xff, to);
            } else {
                let some = all.saturating_sub(first);
                eight::<false>(&rows, first, ((1u32 << some) - 1) as u8, to);
            }
        }
    }
}

/// Turns eight channels, of which those in the mask are there.
///
/// # Safety
///
/// Each row has those channels, and the result has room; the processor has the instructions.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn eight<const ALL: bool>(rows: &[[*const u16; 2]; STEP], first: usize, mask: u8, to: *mut f32) {
    // No closures: what calls them is compiled without the instructions, and they are not always inlined.
    let mut lanes = [[_mm512_setzero_si512(); 2]; 4];
    for (i, lanes) in lanes.iter_mut().enumerate() {
        for (j, lanes) in lanes.iter_mut().enumerate() {
            // SAFETY: promised; elements that are masked out are not touched.
            unsafe {
                // Lane l has row 4 l + i.
                let a = half::<ALL>(rows[i][j].wrapping_add(first), mask);
                let b = half::<ALL>(rows[4 + i][j].wrapping_add(first), mask);
                let c = half::<ALL>(rows[8 + i][j].wrapping_add(first), mask);
                let d = half::<ALL>(rows[12 + i][j].wrapping_add(first), mask);
                let low = _mm512_inserti32x4::<1>(_mm512_castsi128_si512(a), b);
                *lanes = _mm512_inserti32x4::<3>(_mm512_inserti32x4::<2>(low, c), d);
            }
        }
    }
    let mut four = [[_mm512_setzero_si512(); 4]; 2];
    for i in 0..4 {
        four[0][i] = _mm512_unpacklo_epi16(lanes[i][0], lanes[i][1]);
        four[1][i] = _mm512_unpackhi_epi16(lanes[i][0], lanes[i][1]);
    }
    for (i, four) in four.iter().enumerate() {
        let (a, b) = (_mm512_unpacklo_epi32(four[0], four[1]), _mm512_unpackhi_epi32(four[0], four[1]));
        let (c, d) = (_mm512_unpacklo_epi32(four[2], four[3]), _mm512_unpackhi_epi32(four[2], four[3]));
        // SAFETY: promised.
        unsafe {
            let to = to.add(4 * i * LANES);
            _mm512_storeu_si512(to.cast(), _mm512_unpacklo_epi64(a, c));
            _mm512_storeu_si512(to.add(LANES).cast(), _mm512_unpackhi_epi64(a, c));
            _mm512_storeu_si512(to.add(2 * LANES).cast(), _mm512_unpacklo_epi64(b, d));
            _mm512_storeu_si512(to.add(3 * LANES).cast(), _mm512_unpackhi_epi64(b, d));
        }
    }
}

/// Eight channels, of which those in the mask are there.
///
/// # Safety
///
/// They are there; the processor has the instructions.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn half<const ALL: bool>(from: *const u16, mask: u8) -> __m128i {
    // SAFETY: promised; elements that are masked out are not touched.
    unsafe { if ALL { _mm_loadu_si128(from.cast()) } else { _mm_maskz_loadu_epi16(mask, from.cast()) } }
}

/// Products of a row of the kernel: of tiles of dy and tiles of the planes of x.
#[derive(Clone, Copy, Debug)]
pub struct Products<'a> {
    /// The steps: tiles of dy, and places in the planes.
    steps: &'a [[u32; 2]],
    /// The last tile and the last place of them.
    last: [usize; 2],
    /// dy: tile after tile.
    dy: &'a [f32],
    /// Tiles from sixteen channels of dy to the next.
    across: usize,
    /// x: place after place, sixteen channels each.
    x: &'a [f32],
}

/// One of the products: sixteen or 32 channels of y, and up to four runs of sixteen columns.
#[derive(Clone, Copy, Debug)]
pub struct Block<'a> {
    /// The first sixteen channels of y.
    pub outer: usize,
    /// Sixteens of channels of y: 1 or 2.
    pub count: usize,
    /// What is added to the places, in f32, and where the sums go, in tiles.
    pub columns: &'a [(usize, usize)],
    /// Tiles from the sums of sixteen channels of y to the next.
    pub step: usize,
    /// Whether what was there is added.
    pub add: bool,
}

impl<'a> Products<'a> {
    /// Of these steps.
    pub fn new(steps: &'a [[u32; 2]], dy: &'a [f32], across: usize, x: &'a [f32]) -> Products<'a> {
        let last = steps.iter().fold([0, 0], |last, at| [at[0].max(last[0]), at[1].max(last[1])]);
        Products { steps, last: last.map(|at| at as usize), dy, across, x }
    }

    /// Sums over all steps.
    ///
    /// The processor has AMX, and the thread its registers.
    ///
    /// # Panics
    ///
    /// Where operands or sums are too short, or there are more tiles than registers.
    pub fn run(&self, _: &Registers, block: Block<'_>, sums: &mut [f32]) {
        let Block { outer, count, columns, step, add } = block;
        let last = self.last;
        let most = columns.iter().fold([0, 0], |most, at| [at.0.max(most[0]), at.1.max(most[1])]);
        let deepest = (outer + count - 1) * self.across + last[0];
        assert!(self.steps.is_empty() || (deepest + 1) * TILE <= self.dy.len(), "tiles of dy");
        let far = most[0] + last[1] * LANES + TILE;
        assert!(self.steps.is_empty() || far <= self.x.len(), "places of x");
        assert!((most[1] + (count - 1) * step + 1) * TILE <= sums.len(), "the sums have room");
        assert!(columns.iter().all(|at| at.0 % LANES == 0), "whole rows");
        let dy = self.dy.as_ptr().wrapping_add(outer * self.across * TILE);
        let (mut x, mut to) = ([self.x.as_ptr(); 4], [[sums.as_mut_ptr(); 2]; 4]);
        assert!((1..=4).contains(&columns.len()), "as many columns as there are registers");
        for (i, at) in columns.iter().enumerate() {
            x[i] = x[i].wrapping_add(at.0);
            to[i] = [0, step].map(|step| to[i][0].wrapping_add((at.1 + step) * TILE));
        }
        let rows = [dy, dy.wrapping_add(self.across * TILE)];
        let operands = Operands { steps: self.steps, rows, x, to, add };
        // SAFETY: the assertions hold every access inside the slices; there are registers.
        unsafe {
            match (count, columns.len()) {
                (2, 2) => two_by_two(&operands),
                (2, 1) => two_by_one(&operands),
                (1, 1) => one_by_one(&operands),
                (1, 2) => one_by_two(&operands),
                (1, 3) => one_by_three(&operands),
                (1, 4) => one_by_four(&operands),
                _ => unreachable!("channels and columns are cut into tiles"),
            }
        }
    }
}

struct Operands<'a> {
    steps: &'a [[u32; 2]],
    rows: [*const f32; 2],
    x: [*const f32; 4],
    to: [[*mut f32; 2]; 4],
    add: bool,
}

/// A function that sums over all steps, of tiles (row, column, sums), with registers for rows, and each column's in turn.
macro_rules! sums {
    ($name:ident: $(($row:literal in $left:literal))*; $([$column:literal in $right:literal: $($of:literal x $by:literal to $sum:literal),*])*) => {
        /// # Safety
        ///
        /// Tiles and places are there; the thread has the registers.
        unsafe fn $name(o: &Operands<'_>) {
            // SAFETY: promised.
            unsafe {
                $($(if o.add {
                    load!($sum, o.to[$column][$of], ROW);
                } else {
                    clear!($sum);
                })*)*
                for &[tile, place] in o.steps {
                    let (tile, place) = (tile as usize * TILE, place as usize * LANES);
                    $(load!($left, o.rows[$row].wrapping_add(tile), ROW);)*
                    $(load!($right, o.x[$column].wrapping_add(place), ROW);
                    $(multiply!($sum, $by, $right);)*)*
                }
                $($(store!($sum, o.to[$column][$of], ROW);)*)*
            }
        }
    };
}

sums!(two_by_two: (0 in 4) (1 in 5); [0 in 6: 0 x 4 to 0, 1 x 5 to 1] [1 in 7: 0 x 4 to 2, 1 x 5 to 3]);
sums!(two_by_one: (0 in 4) (1 in 5); [0 in 6: 0 x 4 to 0, 1 x 5 to 1]);
sums!(one_by_one: (0 in 4); [0 in 5: 0 x 4 to 0]);
sums!(one_by_two: (0 in 4); [0 in 5: 0 x 4 to 0] [1 in 6: 0 x 4 to 1]);
sums!(one_by_three: (0 in 4); [0 in 5: 0 x 4 to 0] [1 in 6: 0 x 4 to 1] [2 in 7: 0 x 4 to 2]);
sums!(one_by_four:
    (0 in 4); [0 in 5: 0 x 4 to 0] [1 in 6: 0 x 4 to 1] [2 in 7: 0 x 4 to 2] [3 in 5: 0 x 4 to 3]);
