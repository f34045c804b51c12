//! Vectors of f32 that are bf16 in memory, as the levels of the processor have them.

use crate::pointwise_kernels::{narrow, widen};
use crate::simd::Level;
use crate::vector::{Plain, Vector};

/// Makes what was written past the caches visible before anything that this thread writes later.
pub fn settle() {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every x86-64 processor has the instruction.
    unsafe {
        std::arch::x86_64::_mm_sfence();
    }
}

/// A vector that can be read from bf16 and rounded to it, to the nearest, ties to even; not a number stays so.
///
/// What is not overridden goes lane by lane. Numbers below the least normal one may become zero where the processor has an
/// instruction that rounds.
pub trait Halves: Vector {
    /// Reads bf16.
    ///
    /// # Safety
    ///
    /// The elements can be read; the processor has the level, here and below.
    #[inline(always)]
    unsafe fn load_half(from: *const u16) -> Self {
        let mut all = [0.0f32; 16];
        // SAFETY: promised; there are no more lanes than that.
        unsafe {
            for (i, x) in all.iter_mut().enumerate().take(Self::LANES) {
                *x = widen(*from.add(i));
            }
            Self::load(all.as_ptr())
        }
    }

    /// Reads the first `n` bf16, and zeros.
    ///
    /// # Safety
    ///
    /// So many elements can be read.
    #[inline(always)]
    unsafe fn load_half_first(from: *const u16, n: usize) -> Self {
        let mut all = [0u16; 16];
        // SAFETY: promised; there are no more lanes than that.
        unsafe {
            std::ptr::copy_nonoverlapping(from, all.as_mut_ptr(), n);
            Self::load_half(all.as_ptr())
        }
    }

    /// Writes bf16.
    ///
    /// # Safety
    ///
    /// The elements can be written.
    #[inline(always)]
    unsafe fn store_half(self, to: *mut u16) {
        let mut all = [0.0f32; 16];
        // SAFETY: promised; there are no more lanes than that.
        unsafe {
            self.store(all.as_mut_ptr());
            for (i, &x) in all.iter().enumerate().take(Self::LANES) {
                *to.add(i) = narrow(x);
            }
        }
    }

    /// Writes past the caches, where the processor can and the place is one of whole vectors; what others see of it
    /// is in order only behind [`settle`].
    ///
    /// # Safety
    ///
    /// As [`Vector::store`].
    #[inline(always)]
    unsafe fn stream(self, to: *mut f32) {
        // SAFETY: promised.
        unsafe { self.store(to) }
    }

    /// The same as bf16.
    ///
    /// # Safety
    ///
    /// As [`Halves::store_half`].
    #[inline(always)]
    unsafe fn stream_half(self, to: *mut u16) {
        // SAFETY: promised.
        unsafe { self.store_half(to) }
    }

    /// Writes the first `n` lanes as bf16.
    ///
    /// # Safety
    ///
    /// So many elements can be written.
    #[inline(always)]
    unsafe fn store_half_first(self, to: *mut u16, n: usize) {
        let mut all = [0u16; 16];
        // SAFETY: promised; there are no more lanes than that.
        unsafe {
            self.store_half(all.as_mut_ptr());
            std::ptr::copy_nonoverlapping(all.as_ptr(), to, n);
        }
    }

    /// Rounds to bf16.
    ///
    /// # Safety
    ///
    /// The processor has the level.
    #[inline(always)]
    unsafe fn rounded(self) -> Self {
        let mut all = [0u16; 16];
        // SAFETY: promised; there are no more lanes than that.
        unsafe {
            self.store_half(all.as_mut_ptr());
            Self::load_half(all.as_ptr())
        }
    }

    /// `self · a`.
    ///
    /// # Safety
    ///
    /// The processor has the level.
    #[inline(always)]
    unsafe fn product(self, a: Self) -> Self {
        let (mut one, mut two) = ([0.0f32; 16], [0.0f32; 16]);
        // SAFETY: promised; there are no more lanes than that.
        unsafe {
            self.store(one.as_mut_ptr());
            a.store(two.as_mut_ptr());
            one.iter_mut().zip(two).for_each(|(one, two)| *one *= two);
            Self::load(one.as_ptr())
        }
    }

    /// 0 for what is below it.
    ///
    /// # Safety
    ///
    /// The processor has the level.
    #[inline(always)]
    unsafe fn relu(self) -> Self {
        let mut all = [0.0f32; 16];
        // SAFETY: promised; there are no more lanes than that.
        unsafe {
            self.store(all.as_mut_ptr());
            all.iter_mut().for_each(|x| *x = if *x < 0.0 { 0.0 } else { *x });
            Self::load(all.as_ptr())
        }
    }

    /// A vector of half as many f64.
    type Double: Copy;

    /// The lower and the upper lanes as f64.
    ///
    /// # Safety
    ///
    /// The processor has the level, here and below.
    unsafe fn doubles(self) -> [Self::Double; 2];

    /// Reads f64.
    ///
    /// # Safety
    ///
    /// The elements can be read.
    unsafe fn load_double(from: *const f64) -> Self::Double;

    /// Writes f64.
    ///
    /// # Safety
    ///
    /// The elements can be written.
    unsafe fn store_double(x: Self::Double, to: *mut f64);

    /// `sum + a · b`.
    ///
    /// # Safety
    ///
    /// The processor has the level.
    unsafe fn sum_double(sum: Self::Double, a: Self::Double, b: Self::Double) -> Self::Double;

    /// `sum + a`.
    ///
    /// # Safety
    ///
    /// The processor has the level.
    unsafe fn plus_double(sum: Self::Double, a: Self::Double) -> Self::Double;

    /// Reads f64 for both halves of the lanes.
    ///
    /// # Safety
    ///
    /// The elements can be read; the processor has the level, here and below.
    #[inline(always)]
    unsafe fn load_doubles(from: *const f64) -> [Self::Double; 2] {
        // SAFETY: promised.
        unsafe { [Self::load_double(from), Self::load_double(from.add(Self::LANES / 2))] }
    }

    /// Writes both halves.
    ///
    /// # Safety
    ///
    /// The elements can be written.
    #[inline(always)]
    unsafe fn store_doubles(x: [Self::Double; 2], to: *mut f64) {
        // SAFETY: promised.
        unsafe {
            Self::store_double(x[0], to);
            Self::store_double(x[1], to.add(Self::LANES / 2));
        }
    }

    /// `a + b`.
    ///
    /// # Safety
    ///
    /// The processor has the level.
    #[inline(always)]
    unsafe fn plus_doubles(a: [Self::Double; 2], b: [Self::Double; 2]) -> [Self::Double; 2] {
        // SAFETY: promised.
        unsafe { [Self::plus_double(a[0], b[0]), Self::plus_double(a[1], b[1])] }
    }

    /// `sum + a · b`.
    ///
    /// # Safety
    ///
    /// The processor has the level.
    #[inline(always)]
    unsafe fn sum_doubles(
        sum: [Self::Double; 2],
        a: [Self::Double; 2],
        b: [Self::Double; 2],
    ) -> [Self::Double; 2] {
        // SAFETY: promised.
        unsafe { [Self::sum_double(sum[0], a[0], b[0]), Self::sum_double(sum[1], a[1], b[1])] }
    }

    /// `a − b`; exact, as in f64 nearly all differences of f32 are.
    ///
    /// # Safety
    ///
    /// The processor has the level.
    #[inline(always)]
    unsafe fn distance(a: [Self::Double; 2], b: [Self::Double; 2]) -> [Self::Double; 2] {
        // SAFETY: promised; the array holds half of the lanes.
        unsafe {
            let minus = Self::load_double([-1.0f64; 8].as_ptr());
            Self::sum_doubles(a, b, [minus; 2])
        }
    }

    /// `self` times 1 where `by` is above 0, and times 0 elsewhere.
    ///
    /// # Safety
    ///
    /// The processor has the level.
    #[inline(always)]
    unsafe fn gated(self, by: Self) -> Self {
        let mut all = [0.0f32; 16];
        // SAFETY: promised; there are no more lanes than that.
        unsafe {
            by.store(all.as_mut_ptr());
            all.iter_mut().for_each(|x| *x = if *x > 0.0 { 1.0 } else { 0.0 });
            self.product(Self::load(all.as_ptr()))
        }
    }
}

impl Halves for Plain {
    type Double = [f64; 4];
    #[inline(always)]
    unsafe fn doubles(self) -> [[f64; 4]; 2] {
        let mut all = [0.0f32; 8];
        // SAFETY: the array holds all lanes.
        unsafe { self.store(all.as_mut_ptr()) };
        let [a, b, c, d, e, f, g, h] = all.map(f64::from);
        [[a, b, c, d], [e, f, g, h]]
    }
    #[inline(always)]
    unsafe fn load_double(from: *const f64) -> [f64; 4] {
        // SAFETY: promised.
        unsafe { from.cast::<[f64; 4]>().read() }
    }
    #[inline(always)]
    unsafe fn store_double(x: [f64; 4], to: *mut f64) {
        // SAFETY: promised.
        unsafe { to.cast::<[f64; 4]>().write(x) }
    }
    #[inline(always)]
    unsafe fn sum_double(sum: [f64; 4], a: [f64; 4], b: [f64; 4]) -> [f64; 4] {
        std::array::from_fn(|i| sum[i] + a[i] * b[i])
    }
    #[inline(always)]
    unsafe fn plus_double(sum: [f64; 4], a: [f64; 4]) -> [f64; 4] {
        std::array::from_fn(|i| sum[i] + a[i])
    }
}

/// Code that is generic over such vectors; as [`crate::vector::Vectored`].
pub trait HalvesVectored {
    /// Runs with vectors of S.
    ///
    /// # Safety
    ///
    /// The processor has the level of S.
    unsafe fn run<S: Halves>(self);
}

/// Runs `code` with the vectors of a level, compiled for it.
#[inline]
pub fn with_halves(level: Level, code: impl HalvesVectored) {
    // SAFETY: levels are those that the processor has.
    unsafe {
        match level {
            Level::Portable => code.run::<Plain>(),
            // The processor's own instructions are what the build is compiled for.
            #[cfg(target_arch = "aarch64")]
            Level::Neon => code.run::<Plain>(),
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => x86::avx2(code),
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => x86::avx512(code),
            #[cfg(target_arch = "x86_64")]
            Level::Avx512Bf16 => x86::avx512bf16(code),
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{Halves, HalvesVectored};
    use crate::vector::Vector;
    use std::arch::x86_64::*;
    use std::mem::transmute;

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
            unsafe {
                let bits = _mm256_castps_si256(self.rounded());
                let high = _mm256_srli_epi32::<16>(bits);
                let packed = _mm256_permute4x64_epi64::<0b1000>(_mm256_packus_epi32(high, high));
                _mm_storeu_si128(to.cast(), _mm256_castsi256_si128(packed));
            }
        }
        #[inline(always)]
        unsafe fn rounded(self) -> __m256 {
            // SAFETY: promised.
            unsafe {
                let bits = _mm256_castps_si256(self);
                let odd = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
                let up = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd);
                let quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x40_0000));
                let number = _mm256_cmp_ps::<_CMP_ORD_Q>(self, self);
                let all = _mm256_blendv_epi8(quiet, up, _mm256_castps_si256(number));
                _mm256_castsi256_ps(_mm256_and_si256(all, _mm256_set1_epi32(0xffff_0000u32 as i32)))
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
    pub(super) struct Rounding(__m512);

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
        unsafe fn gated(self, by: Rounding) -> Rounding {
            // SAFETY: promised.
            Rounding(unsafe { self.0.gated(by.0) })
        }
    }

    /// # Safety
    ///
    /// The processor has these features.
    #[target_feature(enable = "avx2,fma")]
    pub(super) unsafe fn avx2(code: impl HalvesVectored) {
        // SAFETY: promised.
        unsafe { code.run::<__m256>() }
    }

    /// # Safety
    ///
    /// The processor has these features.
    #[target_feature(enable = "avx2,fma,avx512f,avx512vl,avx512bw,avx512dq")]
    pub(super) unsafe fn avx512(code: impl HalvesVectored) {
        // SAFETY: promised.
        unsafe { code.run::<__m512>() }
    }

    /// # Safety
    ///
    /// The processor has these features.
    #[target_feature(enable = "avx2,fma,avx512f,avx512vl,avx512bw,avx512dq,avx512bf16")]
    pub(super) unsafe fn avx512bf16(code: impl HalvesVectored) {
        // SAFETY: promised.
        unsafe { code.run::<Rounding>() }
    }
}

#[cfg(test)]
mod tests {
    use super::{Halves, HalvesVectored, with_halves};
    use crate::pointwise_kernels::{narrow, widen};
    use crate::simd::Level;

    /// All operations on runs of every length up to two vectors.
    struct Everything<'a> {
        x: &'a [f32],
        y: &'a [f32],
        /// Rounded, times y, without what is below 0, gated by y.
        out: &'a mut [Vec<f32>; 4],
        halves: &'a mut Vec<u16>,
    }

    impl HalvesVectored for Everything<'_> {
        #[inline(always)]
        unsafe fn run<S: Halves>(self) {
            for (at, x) in self.x.chunks(S::LANES).enumerate() {
                let (n, y) = (x.len(), &self.y[at * S::LANES..]);
                let (mut numbers, mut bits) = ([0.0f32; 16], [0xaaaau16; 16]);
                // SAFETY: the arrays hold a vector, and `n` elements are there.
                unsafe {
                    let (x, y) = (S::load_first(x.as_ptr(), n), S::load_first(y.as_ptr(), n));
                    for (out, made) in
                        self.out.iter_mut().zip([x.rounded(), x.product(y), x.relu(), x.gated(y)])
                    {
                        made.store(numbers.as_mut_ptr());
                        out.extend(&numbers[..n]);
                    }
                    x.store_half_first(bits.as_mut_ptr(), n);
                    self.halves.extend(&bits[..n]);
                    assert!(bits[n..].iter().all(|&b| b == 0xaaaa), "nothing behind is written");
                    if n == S::LANES {
                        x.store_half(bits.as_mut_ptr());
                        assert_eq!(bits[..n], self.halves[self.halves.len() - n..]);
                        S::load_half(bits.as_ptr()).store(numbers.as_mut_ptr());
                    } else {
                        S::load_half_first(bits.as_ptr(), n).store(numbers.as_mut_ptr());
                    }
                    for (&bits, &number) in bits[..n].iter().zip(&numbers) {
                        assert_eq!(widen(bits).to_bits(), number.to_bits());
                    }
                }
            }
        }
    }

    #[test]
    fn every_level_rounds_and_gates_as_lane_by_lane() {
        let edges = [
            0.0,
            -0.0,
            1.0,
            -1.0,
            f32::MAX,
            f32::MIN,
            f32::INFINITY,
            f32::NEG_INFINITY,
            f32::NAN,
            -f32::NAN,
            f32::from_bits(0x7f80_0001),
            f32::MIN_POSITIVE,
            1.0 + 1.0 / 256.0,
            1.0 + 3.0 / 256.0,
            1.0 + 1.0 / 256.0 + f32::EPSILON,
            3.3895314e38,
        ];
        let mut bits = 1u32;
        let mut next = || {
            bits = bits.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            f32::from_bits(bits & 0xbfff_ffff | 0x2000_0000)
        };
        let x: Vec<f32> = edges.into_iter().chain((0..203).map(|_| next())).collect();
        let y: Vec<f32> = (0..x.len()).map(|i| if i % 5 == 0 { edges[i / 5 % 16] } else { next() }).collect();
        let same = |a: f32, b: f32| a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan();
        for level in Level::available() {
            let (mut out, mut halves) = (Default::default(), Vec::new());
            with_halves(level, Everything { x: &x, y: &y, out: &mut out, halves: &mut halves });
            for (i, (&x, &y)) in x.iter().zip(&y).enumerate() {
                let exact = [
                    widen(narrow(x)),
                    x * y,
                    if x < 0.0 { 0.0 } else { x },
                    x * if y > 0.0 { 1.0 } else { 0.0 },
                ];
                assert_eq!(halves[i], narrow(x), "{} of {x} at {}", i, level.name());
                for (what, exact) in exact.into_iter().enumerate() {
                    let found = out[what][i];
                    assert!(
                        same(found, exact),
                        "{what} of {x}, {y} at {}: {found}, not {exact}",
                        level.name()
                    );
                }
            }
        }
    }
}
