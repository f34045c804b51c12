//! Vectors of f32 as the levels of the processor have them, and how code that is generic over them is entered.

use crate::simd::Level;

/// A vector of f32. Its operations want a processor of its level.
pub trait Vector: Copy {
    /// Elements.
    const LANES: usize;
    /// As the level's loads.
    ///
    /// # Safety
    ///
    /// The elements can be read; the processor has the level, here and below.
    unsafe fn load(from: *const f32) -> Self;
    /// The first `n` elements, at most the lanes, and zeros.
    ///
    /// # Safety
    ///
    /// So many elements can be read.
    #[inline(always)]
    unsafe fn load_first(from: *const f32, n: usize) -> Self {
        let mut all = [0.0f32; 16];
        // SAFETY: promised; there are no more lanes than that.
        unsafe {
            std::ptr::copy_nonoverlapping(from, all.as_mut_ptr(), n);
            Self::load(all.as_ptr())
        }
    }
    /// As the level's stores.
    ///
    /// # Safety
    ///
    /// The elements can be written.
    unsafe fn store(self, to: *mut f32);
    /// Stores past the caches, where the processor can and the place is one of whole vectors; what others see of it is in
    /// order only behind [`settle`](crate::half_vector::settle).
    ///
    /// # Safety
    ///
    /// As [`Vector::store`].
    #[inline(always)]
    unsafe fn store_past(self, to: *mut f32) {
        // SAFETY: promised.
        unsafe { self.store(to) }
    }
    /// Stores the first `n` lanes.
    ///
    /// # Safety
    ///
    /// So many elements can be written.
    #[inline(always)]
    unsafe fn store_first(self, to: *mut f32, n: usize) {
        let mut all = [0.0f32; 16];
        // SAFETY: promised; there are no more lanes than that.
        unsafe {
            self.store(all.as_mut_ptr());
            std::ptr::copy_nonoverlapping(all.as_ptr(), to, n);
        }
    }
    /// Stores the first `n` lanes, fewer than all; what was there is added where `add`.
    ///
    /// # Safety
    ///
    /// So many elements can be read and written.
    #[inline(always)]
    unsafe fn store_some(self, to: *mut f32, n: usize, add: bool) {
        let mut all = [0.0f32; 16];
        // SAFETY: promised; there are no more lanes than that.
        unsafe {
            self.store(all.as_mut_ptr());
            store_lanes(&all[..n], to, add);
        }
    }
    /// `number` in every lane.
    ///
    /// # Safety
    ///
    /// The processor has the level.
    unsafe fn splat(number: f32) -> Self;
    /// `a · b + self`.
    ///
    /// # Safety
    ///
    /// The processor has the level.
    unsafe fn sum(self, a: Self, b: Self) -> Self;
    /// `self + a`.
    ///
    /// # Safety
    ///
    /// The processor has the level.
    unsafe fn plus(self, a: Self) -> Self;
    /// `self - a`.
    ///
    /// # Safety
    ///
    /// The processor has the level.
    unsafe fn minus(self, a: Self) -> Self;
    /// `self · number`.
    ///
    /// # Safety
    ///
    /// The processor has the level.
    unsafe fn times(self, number: f32) -> Self;
}

/// [`Vector::store_some`] where there are no masks, out of the way of the loops.
///
/// # Safety
///
/// As [`Vector::store_some`].
#[inline(never)]
unsafe fn store_lanes(from: &[f32], to: *mut f32, add: bool) {
    for (i, x) in from.iter().enumerate() {
        // SAFETY: promised.
        unsafe {
            let to = to.add(i);
            *to = if add { *to + x } else { *x };
        }
    }
}

/// The vector of every processor.
#[derive(Clone, Copy)]
pub struct Plain([f32; 8]);

#[expect(clippy::needless_range_loop, reason = "an iterator over lanes may become calls")]
impl Vector for Plain {
    const LANES: usize = 8;
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Plain {
        // SAFETY: promised.
        Plain(unsafe { from.cast::<[f32; 8]>().read() })
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: promised.
        unsafe { to.cast::<[f32; 8]>().write(self.0) }
    }
    #[inline(always)]
    unsafe fn splat(number: f32) -> Plain {
        Plain([number; 8])
    }
    #[inline(always)]
    unsafe fn sum(self, a: Plain, b: Plain) -> Plain {
        let mut all = self.0;
        for i in 0..8 {
            all[i] += a.0[i] * b.0[i];
        }
        Plain(all)
    }
    #[inline(always)]
    unsafe fn plus(self, a: Plain) -> Plain {
        let mut all = self.0;
        for i in 0..8 {
            all[i] += a.0[i];
        }
        Plain(all)
    }
    #[inline(always)]
    unsafe fn minus(self, a: Plain) -> Plain {
        let mut all = self.0;
        for i in 0..8 {
            all[i] -= a.0[i];
        }
        Plain(all)
    }
    #[inline(always)]
    unsafe fn times(self, number: f32) -> Plain {
        let mut all = self.0;
        for i in 0..8 {
            all[i] *= number;
        }
        Plain(all)
    }
}

/// Code that is generic over the vectors; mark it and what it calls `#[inline(always)]`. Arrays of vectors are filled by
/// loops: a closure that a library function calls may stay a function of its own, without the level's instructions.
pub trait Vectored {
    /// Runs with vectors of S.
    ///
    /// # Safety
    ///
    /// The processor has the level of S.
    unsafe fn run<S: Vector>(self);
}

/// Runs `code` with the vectors of a level, compiled for it.
#[inline]
pub fn with_vectors(level: Level, code: impl Vectored) {
    // SAFETY: levels are those that the processor has.
    unsafe {
        match level {
            Level::Portable => code.run::<Plain>(),
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => x86::avx2(code),
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 | Level::Avx512Bf16 | Level::Amx => x86::avx512(code),
            #[cfg(target_arch = "aarch64")]
            Level::Neon => code.run::<std::arch::aarch64::float32x4_t>(),
        }
    }
}

/// The operations that are one instruction each.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
macro_rules! vector {
    ($load:ident, $store:ident, $splat:ident, $sum:ident, $plus:ident, $minus:ident, $times:ident) => {
        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self {
            // SAFETY: promised.
            unsafe { $load(from) }
        }
        #[inline(always)]
        unsafe fn store(self, to: *mut f32) {
            // SAFETY: promised.
            unsafe { $store(to, self) }
        }
        #[inline(always)]
        unsafe fn splat(number: f32) -> Self {
            // SAFETY: the processor has the level.
            unsafe { $splat(number) }
        }
        #[inline(always)]
        unsafe fn sum(self, a: Self, b: Self) -> Self {
            // SAFETY: the processor has the level.
            unsafe { $sum(a, b, self) }
        }
        #[inline(always)]
        unsafe fn plus(self, a: Self) -> Self {
            // SAFETY: the processor has the level.
            unsafe { $plus(self, a) }
        }
        #[inline(always)]
        unsafe fn minus(self, a: Self) -> Self {
            // SAFETY: the processor has the level.
            unsafe { $minus(self, a) }
        }
        #[inline(always)]
        unsafe fn times(self, number: f32) -> Self {
            // SAFETY: the processor has the level.
            unsafe { $times(self, $splat(number)) }
        }
    };
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{Vector, Vectored};
    use std::arch::asm;
    use std::arch::x86_64::*;

    impl Vector for __m256 {
        const LANES: usize = 8;
        vector!(
            _mm256_loadu_ps,
            _mm256_storeu_ps,
            _mm256_set1_ps,
            _mm256_fmadd_ps,
            _mm256_add_ps,
            _mm256_sub_ps,
            _mm256_mul_ps
        );
        #[inline(always)]
        unsafe fn store_past(self, to: *mut f32) {
            // SAFETY: promised; the place is that of a whole vector.
            unsafe { if to.addr().is_multiple_of(32) { _mm256_stream_ps(to, self) } else { self.store(to) } }
        }
    }

    impl Vector for __m512 {
        const LANES: usize = 16;
        vector!(
            _mm512_loadu_ps,
            _mm512_storeu_ps,
            _mm512_set1_ps,
            _mm512_fmadd_ps,
            _mm512_add_ps,
            _mm512_sub_ps,
            _mm512_mul_ps
        );
        #[inline(always)]
        unsafe fn load_first(from: *const f32, n: usize) -> __m512 {
            // SAFETY: promised; lanes that are not asked for are not read.
            unsafe { _mm512_maskz_loadu_ps(((1u32 << n) - 1) as u16, from) }
        }
        #[inline(always)]
        unsafe fn store_first(self, to: *mut f32, n: usize) {
            // SAFETY: promised; lanes that are not asked for are not written.
            unsafe { _mm512_mask_storeu_ps(to, ((1u32 << n) - 1) as u16, self) }
        }
        #[inline(always)]
        unsafe fn store_some(self, to: *mut f32, n: usize, add: bool) {
            // SAFETY: promised.
            unsafe { (if add { self.plus(Self::load_first(to, n)) } else { self }).store_first(to, n) }
        }
    }

    /// 32 bits in every lane of a register, at this place in the order of such calls: as an operand in memory they would be
    /// loaded again by every instruction, and loaded long before they would take a register from a sum.
    ///
    /// # Safety
    ///
    /// They can be read; the processor has AVX-512.
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub unsafe fn loaded(bits: *const u8) -> __m512i {
        // SAFETY: promised; nothing else happens.
        unsafe {
            let mut all = _mm512_set1_epi32(bits.cast::<i32>().read_unaligned());
            asm!("/* {0} */", inout(zmm_reg) all, options(nomem, nostack, preserves_flags));
            all
        }
    }

    /// # Safety
    ///
    /// The processor has these features.
    #[target_feature(enable = "avx2,fma")]
    pub(super) unsafe fn avx2(code: impl Vectored) {
        // SAFETY: promised.
        unsafe { code.run::<__m256>() }
    }

    /// # Safety
    ///
    /// The processor has these features.
    #[target_feature(enable = "avx2,fma,avx512f,avx512vl,avx512bw,avx512dq")]
    pub(super) unsafe fn avx512(code: impl Vectored) {
        // SAFETY: promised.
        unsafe { code.run::<__m512>() }
    }
}

#[cfg(target_arch = "x86_64")]
pub use x86::loaded;

#[cfg(target_arch = "aarch64")]
mod arm {
    use super::Vector;
    use std::arch::aarch64::*;

    #[inline]
    #[target_feature(enable = "neon")]
    fn multiply_add(a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t {
        vfmaq_f32(c, a, b)
    }

    impl Vector for float32x4_t {
        const LANES: usize = 4;
        vector!(vld1q_f32, vst1q_f32, vdupq_n_f32, multiply_add, vaddq_f32, vsubq_f32, vmulq_f32);
    }
}
