//! Blocks of sixteen rows of sixteen words of 32 bits, transposed in registers: a word is an f32 or a pair of bf16.

use crate::plan::Element;

/// Words of a row, and rows of a block.
pub const SIDE: usize = 16;

/// Word w of row r, which begins at `from[r · step]`, becomes word r of row w, which begins at word `w · width` of `to`.
///
/// The processor has AVX-512.
///
/// # Panics
///
/// Where they do not hold that many elements.
pub fn transpose<T: Element>(from: &[T], step: usize, to: &mut [T], width: usize) {
    let (last, word) = (SIDE - 1, 4 / size_of::<T>());
    assert!(
        last * step + SIDE * word <= from.len() && (last * width + SIDE) * word <= to.len(),
        "the block is whole"
    );
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the assertion holds every access inside the slices; the processor has the instructions.
    unsafe {
        x86::block(from.as_ptr(), step, to.as_mut_ptr().cast(), width);
    }
    #[cfg(not(target_arch = "x86_64"))]
    unreachable!("no such instructions");
}

#[cfg(target_arch = "x86_64")]
pub mod x86 {
    use super::SIDE;
    use std::arch::x86_64::*;

    /// # Safety
    ///
    /// Both hold sixteen rows of sixteen words at those steps; the processor has the feature.
    #[target_feature(enable = "avx512f")]
    pub(super) unsafe fn block<T>(from: *const T, step: usize, to: *mut i32, width: usize) {
        let mut rows = [_mm512_setzero_si512(); SIDE];
        // SAFETY: promised.
        unsafe {
            for (r, row) in rows.iter_mut().enumerate() {
                *row = _mm512_loadu_si512(from.add(r * step).cast());
            }
            for (w, row) in lanes(rows).iter().enumerate() {
                _mm512_storeu_si512(to.add(w * width).cast(), *row);
            }
        }
    }

    /// Lane l of row r becomes lane r of row l.
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub fn lanes(rows: [__m512i; SIDE]) -> [__m512i; SIDE] {
        // No closures: what calls them is compiled without the instructions, and they are not always inlined.
        let (mut a, mut b) = (rows, rows);
        // Pairs of neighbouring rows, then fours, within each quarter of a vector.
        for i in 0..8 {
            let (x, y) = (a[2 * i], a[2 * i + 1]);
            (b[2 * i], b[2 * i + 1]) = (_mm512_unpacklo_epi32(x, y), _mm512_unpackhi_epi32(x, y));
        }
        for i in 0..4 {
            for j in 0..2 {
                let (x, y) = (b[4 * i + j], b[4 * i + 2 + j]);
                a[4 * i + 2 * j] = _mm512_unpacklo_epi64(x, y);
                a[4 * i + 2 * j + 1] = _mm512_unpackhi_epi64(x, y);
            }
        }
        // Quarter q of row 4 i + l is now lanes 4 q + l of rows 4 i to 4 i + 3.
        for l in 0..4 {
            let (x, y, z, w) = (a[l], a[4 + l], a[8 + l], a[12 + l]);
            let (low, high) = (_mm512_shuffle_i32x4::<0x88>(x, y), _mm512_shuffle_i32x4::<0xdd>(x, y));
            let (low2, high2) = (_mm512_shuffle_i32x4::<0x88>(z, w), _mm512_shuffle_i32x4::<0xdd>(z, w));
            b[l] = _mm512_shuffle_i32x4::<0x88>(low, low2);
            b[8 + l] = _mm512_shuffle_i32x4::<0xdd>(low, low2);
            b[4 + l] = _mm512_shuffle_i32x4::<0x88>(high, high2);
            b[12 + l] = _mm512_shuffle_i32x4::<0xdd>(high, high2);
        }
        b
    }
}
