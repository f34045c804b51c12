//! Vectors of f32 that are bf16 in memory, as x86-64 has them.

use crate::half_vector::{Halves, HalvesVectored};
use crate::vector::Vector;
use std::arch::x86_64::*;
use std::mem::transmute;

/// Lanes whose upper halves are bf16.
trait Upper: Sized {
    /// Rounded there; the lower halves are of no meaning.
    unsafe fn up(self) -> __m256i;
    /// The upper halves, side by side.
    unsafe fn halves(bits: __m256i) -> __m128i;
    /// Those of two vectors.
    unsafe fn pair(bits: [__m256i; 2]) -> __m256i;
}

impl Upper for __m256 {
    #[inline(always)]
    unsafe fn up(self) -> __m256i {
        // SAFETY: promised by the caller, here and below.
        unsafe {
            let bits = _mm256_castps_si256(self);
            let odd = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
            let up = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd);
            let quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x40_0000));
            let number = _mm256_cmp_ps::<_CMP_ORD_Q>(self, self);
            _mm256_blendv_epi8(quiet, up, _mm256_castps_si256(number))
        }
    }
    #[inline(always)]
    unsafe fn halves(bits: __m256i) -> __m128i {
        // SAFETY: as above.
        unsafe {
            let bits = _mm256_srli_epi32::<16>(bits);
            _mm_packus_epi32(_mm256_castsi256_si128(bits), _mm256_extracti128_si256::<1>(bits))
        }
    }
    #[inline(always)]
    unsafe fn pair([low, high]: [__m256i; 2]) -> __m256i {
        // SAFETY: as above.
        unsafe {
            let packed = _mm256_packus_epi32(_mm256_srli_epi32::<16>(low), _mm256_srli_epi32::<16>(high));
            _mm256_permute4x64_epi64::<0b1101_1000>(packed)
        }
    }
}

impl Halves for __m256 {
    type Double = __m256d;
    #[inline(always)]
    unsafe fn doubles(self) -> [__m256d; 2] {
        // SAFETY: promised.
        unsafe {
            let (low, high) = (_mm256_castps256_ps128(self), _mm256_extractf128_ps::<1>(self));
            [_mm256_cvtps_pd(low), _mm256_cvtps_pd(high)]
        }
    }
    #[inline(always)]
    unsafe fn load_double(from: *const f64) -> __m256d {
        // SAFETY: promised.
        unsafe { _mm256_loadu_pd(from) }
    }
    #[inline(always)]
    unsafe fn store_double(x: __m256d, to: *mut f64) {
        // SAFETY: promised.
        unsafe { _mm256_storeu_pd(to, x) }
    }
    #[inline(always)]
    unsafe fn sum_double(sum: __m256d, a: __m256d, b: __m256d) -> __m256d {
        // SAFETY: promised.
        unsafe { _mm256_fmadd_pd(a, b, sum) }
    }
    #[inline(always)]
    unsafe fn plus_double(sum: __m256d, a: __m256d) -> __m256d {
        // SAFETY: promised.
        unsafe { _mm256_add_pd(sum, a) }
    }
    #[inline(always)]
    unsafe fn load_half(from: *const u16) -> __m256 {
        // SAFETY: promised; the processor has the level, here and below.
        unsafe {
            let wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(from.cast()));
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide))
        }
    }
    #[inline(always)]
    unsafe fn store_half(self, to: *mut u16) {
        // SAFETY: promised.
        unsafe { _mm_storeu_si128(to.cast(), <__m256 as Upper>::halves(self.up())) }
    }
    #[inline(always)]
    unsafe fn store_exact(self, to: *mut u16) {
        // SAFETY: promised.
        unsafe { _mm_storeu_si128(to.cast(), <__m256 as Upper>::halves(_mm256_castps_si256(self))) }
    }
    #[inline(always)]
    unsafe fn store_pair<const EXACT: bool, const PAST: bool>(pair: [__m256; 2], to: *mut u16) {
        let [low, high] = pair;
        // SAFETY: promised; the place that is written past the caches is that of a whole vector.
        unsafe {
            let bits = match EXACT {
                true => [_mm256_castps_si256(low), _mm256_castps_si256(high)],
                false => [low.up(), high.up()],
            };
            let all = <__m256 as Upper>::pair(bits);
            if PAST && to.addr().is_multiple_of(32) {
                _mm256_stream_si256(to.cast(), all);
            } else {
                _mm256_storeu_si256(to.cast(), all);
            }
        }
    }
    #[inline(always)]
    unsafe fn stream(self, to: *mut f32) {
        // SAFETY: promised; the place is that of a whole vector.
        unsafe { if to.addr().is_multiple_of(32) { _mm256_stream_ps(to, self) } else { self.store(to) } }
    }
    #[inline(always)]
    unsafe fn rounded(self) -> __m256 {
        // SAFETY: promised.
        unsafe {
            let upper = _mm256_set1_epi32(0xffff_0000u32 as i32);
            _mm256_castsi256_ps(_mm256_and_si256(self.up(), upper))
        }
    }
    #[inline(always)]
    unsafe fn product(self, a: __m256) -> __m256 {
        // SAFETY: promised.
        unsafe { _mm256_mul_ps(self, a) }
    }
    #[inline(always)]
    unsafe fn relu(self) -> __m256 {
        // SAFETY: promised. Of what is not a number, the second operand is taken.
        unsafe { _mm256_max_ps(_mm256_setzero_ps(), self) }
    }
    #[inline(always)]
    unsafe fn larger(self, best: __m256) -> __m256 {
        // SAFETY: promised.
        unsafe {
            let above = _mm256_cmp_ps::<_CMP_NLE_UQ>(self, best);
            let number = _mm256_cmp_ps::<_CMP_ORD_Q>(best, best);
            _mm256_blendv_ps(best, self, _mm256_and_ps(above, number))
        }
    }
    #[inline(always)]
    unsafe fn parted(self, x: __m256, best: __m256) -> [__m256; 2] {
        // SAFETY: promised.
        unsafe {
            let not_a_number = _mm256_cmp_ps::<_CMP_UNORD_Q>(x, x);
            let found = _mm256_or_ps(_mm256_cmp_ps::<_CMP_EQ_OQ>(x, best), not_a_number);
            [_mm256_and_ps(found, self), _mm256_andnot_ps(found, self)]
        }
    }
    #[inline(always)]
    unsafe fn gated(self, by: __m256) -> __m256 {
        // SAFETY: promised.
        unsafe {
            let open = _mm256_cmp_ps::<_CMP_GT_OQ>(by, _mm256_setzero_ps());
            _mm256_mul_ps(self, _mm256_and_ps(open, _mm256_set1_ps(1.0)))
        }
    }
}

/// What the two kinds of AVX-512 have in common.
macro_rules! avx512 {
    () => {
        type Double = __m512d;
        #[inline(always)]
        unsafe fn load_double(from: *const f64) -> __m512d {
            // SAFETY: promised.
            unsafe { _mm512_loadu_pd(from) }
        }
        #[inline(always)]
        unsafe fn store_double(x: __m512d, to: *mut f64) {
            // SAFETY: promised.
            unsafe { _mm512_storeu_pd(to, x) }
        }
        #[inline(always)]
        unsafe fn sum_double(sum: __m512d, a: __m512d, b: __m512d) -> __m512d {
            // SAFETY: promised.
            unsafe { _mm512_fmadd_pd(a, b, sum) }
        }
        #[inline(always)]
        unsafe fn plus_double(sum: __m512d, a: __m512d) -> __m512d {
            // SAFETY: promised.
            unsafe { _mm512_add_pd(sum, a) }
        }
        #[inline(always)]
        unsafe fn load_half(from: *const u16) -> Self {
            // SAFETY: promised; the processor has the level, here and below.
            unsafe { Self::from_halves(_mm256_loadu_si256(from.cast())) }
        }
        #[inline(always)]
        unsafe fn load_half_first(from: *const u16, n: usize) -> Self {
            // SAFETY: promised; lanes that are not asked for are not read.
            unsafe { Self::from_halves(_mm256_maskz_loadu_epi16(((1u32 << n) - 1) as u16, from.cast())) }
        }
        #[inline(always)]
        unsafe fn store_half(self, to: *mut u16) {
            // SAFETY: promised.
            unsafe { _mm256_storeu_si256(to.cast(), self.halves()) }
        }
        #[inline(always)]
        unsafe fn stream_half(self, to: *mut u16) {
            // SAFETY: promised; the place is that of a whole vector.
            unsafe {
                if to.addr().is_multiple_of(32) {
                    _mm256_stream_si256(to.cast(), self.halves());
                } else {
                    self.store_half(to);
                }
            }
        }
        #[inline(always)]
        unsafe fn store_half_first(self, to: *mut u16, n: usize) {
            // SAFETY: promised; lanes that are not asked for are not written.
            unsafe { _mm256_mask_storeu_epi16(to.cast(), ((1u32 << n) - 1) as u16, self.halves()) }
        }
        #[inline(always)]
        unsafe fn rounded(self) -> Self {
            // SAFETY: promised.
            unsafe { Self::from_halves(self.halves()) }
        }
    };
}

trait Rounds: Copy {
    unsafe fn halves(self) -> __m256i;
    unsafe fn from_halves(x: __m256i) -> Self;
}

impl Rounds for __m512 {
    #[inline(always)]
    unsafe fn halves(self) -> __m256i {
        // SAFETY: promised by the caller.
        unsafe {
            let bits = _mm512_castps_si512(self);
            let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
            let up = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
            let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(self, self);
            let all = _mm512_mask_or_epi32(up, nan, bits, _mm512_set1_epi32(0x40_0000));
            _mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(all))
        }
    }
    #[inline(always)]
    unsafe fn from_halves(x: __m256i) -> __m512 {
        // SAFETY: promised by the caller.
        unsafe { _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(x))) }
    }
}

impl Halves for __m512 {
    avx512!();
    #[inline(always)]
    unsafe fn stream(self, to: *mut f32) {
        // SAFETY: promised; the place is that of a whole vector.
        unsafe { if to.addr().is_multiple_of(64) { _mm512_stream_ps(to, self) } else { self.store(to) } }
    }
    #[inline(always)]
    unsafe fn doubles(self) -> [__m512d; 2] {
        // SAFETY: promised.
        unsafe {
            let (low, high) = (_mm512_castps512_ps256(self), _mm512_extractf32x8_ps::<1>(self));
            [_mm512_cvtps_pd(low), _mm512_cvtps_pd(high)]
        }
    }
    #[inline(always)]
    unsafe fn product(self, a: __m512) -> __m512 {
        // SAFETY: promised.
        unsafe { _mm512_mul_ps(self, a) }
    }
    #[inline(always)]
    unsafe fn relu(self) -> __m512 {
        // SAFETY: promised. Of what is not a number, the second operand is taken.
        unsafe { _mm512_max_ps(_mm512_setzero_ps(), self) }
    }
    #[inline(always)]
    unsafe fn larger(self, best: __m512) -> __m512 {
        // SAFETY: promised.
        unsafe {
            let number = _mm512_cmp_ps_mask::<_CMP_ORD_Q>(best, best);
            let above = _mm512_mask_cmp_ps_mask::<_CMP_NLE_UQ>(number, self, best);
            _mm512_mask_mov_ps(best, above, self)
        }
    }
    #[inline(always)]
    unsafe fn parted(self, x: __m512, best: __m512) -> [__m512; 2] {
        // SAFETY: promised.
        unsafe {
            let not_a_number = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(x, x);
            let found = _mm512_cmp_ps_mask::<_CMP_EQ_OQ>(x, best) | not_a_number;
            [_mm512_maskz_mov_ps(found, self), _mm512_maskz_mov_ps(!found, self)]
        }
    }
    #[inline(always)]
    unsafe fn gated(self, by: __m512) -> __m512 {
        // SAFETY: promised.
        unsafe {
            let open = _mm512_cmp_ps_mask::<_CMP_GT_OQ>(by, _mm512_setzero_ps());
            _mm512_mul_ps(self, _mm512_maskz_mov_ps(open, _mm512_set1_ps(1.0)))
        }
    }
}

/// A vector of a processor that rounds to bf16 by one instruction.
#[derive(Clone, Copy)]
pub struct Rounding(__m512);

impl Rounds for Rounding {
    #[inline(always)]
    unsafe fn halves(self) -> __m256i {
        // SAFETY: promised by the caller; both types are 256 bits.
        unsafe { transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(self.0)) }
    }
    #[inline(always)]
    unsafe fn from_halves(x: __m256i) -> Rounding {
        // SAFETY: promised by the caller.
        unsafe { Rounding(<__m512 as Rounds>::from_halves(x)) }
    }
}

impl Vector for Rounding {
    const LANES: usize = 16;
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Rounding {
        // SAFETY: promised, here and below.
        Rounding(unsafe { __m512::load(from) })
    }
    #[inline(always)]
    unsafe fn load_first(from: *const f32, n: usize) -> Rounding {
        // SAFETY: promised.
        Rounding(unsafe { __m512::load_first(from, n) })
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: promised.
        unsafe { self.0.store(to) }
    }
    #[inline(always)]
    unsafe fn store_first(self, to: *mut f32, n: usize) {
        // SAFETY: promised.
        unsafe { self.0.store_first(to, n) }
    }
    #[inline(always)]
    unsafe fn splat(number: f32) -> Rounding {
        // SAFETY: promised.
        Rounding(unsafe { __m512::splat(number) })
    }
    #[inline(always)]
    unsafe fn sum(self, a: Rounding, b: Rounding) -> Rounding {
        // SAFETY: promised.
        Rounding(unsafe { self.0.sum(a.0, b.0) })
    }
    #[inline(always)]
    unsafe fn plus(self, a: Rounding) -> Rounding {
        // SAFETY: promised.
        Rounding(unsafe { self.0.plus(a.0) })
    }
    #[inline(always)]
    unsafe fn minus(self, a: Rounding) -> Rounding {
        // SAFETY: promised.
        Rounding(unsafe { self.0.minus(a.0) })
    }
    #[inline(always)]
    unsafe fn times(self, number: f32) -> Rounding {
        // SAFETY: promised.
        Rounding(unsafe { self.0.times(number) })
    }
}

impl Halves for Rounding {
    avx512!();
    #[inline(always)]
    unsafe fn stream(self, to: *mut f32) {
        // SAFETY: promised.
        unsafe { self.0.stream(to) }
    }
    #[inline(always)]
    unsafe fn doubles(self) -> [__m512d; 2] {
        // SAFETY: promised.
        unsafe { self.0.doubles() }
    }
    #[inline(always)]
    unsafe fn product(self, a: Rounding) -> Rounding {
        // SAFETY: promised.
        Rounding(unsafe { self.0.product(a.0) })
    }
    #[inline(always)]
    unsafe fn relu(self) -> Rounding {
        // SAFETY: promised.
        Rounding(unsafe { self.0.relu() })
    }
    #[inline(always)]
    unsafe fn larger(self, best: Rounding) -> Rounding {
        // SAFETY: promised.
        Rounding(unsafe { self.0.larger(best.0) })
    }
    #[inline(always)]
    unsafe fn parted(self, x: Rounding, best: Rounding) -> [Rounding; 2] {
        // SAFETY: promised.
        let [found, rest] = unsafe { self.0.parted(x.0, best.0) };
        [Rounding(found), Rounding(rest)]
    }
    #[inline(always)]
    unsafe fn gated(self, by: Rounding) -> Rounding {
        // SAFETY: promised.
        Rounding(unsafe { self.0.gated(by.0) })
    }
}

/// # Safety
///
/// The processor has these features.
#[target_feature(enable = "avx2,fma")]
pub unsafe fn avx2(code: impl HalvesVectored) {
    // SAFETY: promised.
    unsafe { code.run::<__m256>() }
}

/// # Safety
///
/// The processor has these features.
#[target_feature(enable = "avx2,fma,avx512f,avx512vl,avx512bw,avx512dq")]
pub unsafe fn avx512(code: impl HalvesVectored) {
    // SAFETY: promised.
    unsafe { code.run::<__m512>() }
}

/// # Safety
///
/// The processor has these features.
#[target_feature(enable = "avx2,fma,avx512f,avx512vl,avx512bw,avx512dq,avx512bf16")]
pub unsafe fn avx512bf16(code: impl HalvesVectored) {
    // SAFETY: promised.
    unsafe { code.run::<Rounding>() }
}
