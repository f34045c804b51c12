//! What the processor can do at most, measured: the rates beside which the speed of a kernel means something.

use crate::pool::Pool;
use crate::simd::Level;
use ddnnc_passes::Limits;
use std::hint::black_box;
use std::time::Instant;

/// Turns of the loop of one task, a few milliseconds.
const TURNS: usize = 1 << 19;

/// Independent sums: enough to hide the latency of an addition.
const SUMS: usize = 16;

/// f32 that are copied.
const COPIED: usize = 16 << 20;

/// Measures for these threads, in some tens of milliseconds; the best of a few runs.
pub fn measure(pool: &Pool, level: Level) -> Limits {
    let best = |run: &mut dyn FnMut()| {
        let mut time = f64::INFINITY;
        for _ in 0..4 {
            let start = Instant::now();
            run();
            time = time.min(start.elapsed().as_secs_f64());
        }
        time
    };
    let tasks = 4 * pool.threads();
    let rate = |work: fn(Level) -> f64| {
        let flops = tasks as f64 * work(level);
        flops / best(&mut || pool.run(tasks, &|_, _| _ = black_box(work(level))))
    };
    let f32_flops = rate(multiply_add);
    let bf16_flops = if level.multiplies_bf16() { rate(dot_bf16) } else { f32_flops };
    let (from, mut to) = (vec![1.0f32; COPIED], vec![0.0f32; COPIED]);
    let piece = 1 << 16;
    let time = best(&mut || {
        pool.split(&mut to, piece, |i, to, _| to.copy_from_slice(&from[i * piece..][..to.len()]));
    });
    Limits { f32_flops, bf16_flops, bytes: 8.0 * COPIED as f64 / time }
}

/// Multiplies and adds in registers; returns how many operations that were.
fn multiply_add(level: Level) -> f64 {
    let lanes = match level {
        Level::Portable => 4,
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => 8,
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 | Level::Avx512Bf16 | Level::Amx => 16,
        #[cfg(target_arch = "aarch64")]
        Level::Neon => 4,
    };
    match level {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: levels are those that the processor has.
        Level::Avx2 => unsafe { x86::avx2() },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Level::Avx512 | Level::Avx512Bf16 | Level::Amx => unsafe { x86::avx512() },
        #[cfg(target_arch = "aarch64")]
        // SAFETY: as above.
        Level::Neon => unsafe { neon() },
        Level::Portable => {
            let mut sums = [[0.5f32; 4]; SUMS];
            let (a, b) = (black_box([0.5f32; 4]), black_box([0.25f32; 4]));
            for _ in 0..TURNS {
                for sum in &mut sums {
                    *sum = std::array::from_fn(|i| sum[i] * a[i] + b[i]);
                }
            }
            black_box(sums);
        }
    }
    (2 * lanes * SUMS * TURNS) as f64
}

/// Multiplies and adds pairs of bf16; returns how many operations that were.
fn dot_bf16(level: Level) -> f64 {
    #[cfg(target_arch = "x86_64")]
    if level.multiplies_tiles() {
        // SAFETY: the level says that the processor has them.
        return unsafe { x86::tiles() };
    } else if level.multiplies_bf16() {
        // SAFETY: as above.
        unsafe { x86::avx512bf16() };
    }
    let _ = level;
    (2 * 32 * SUMS * TURNS) as f64
}

#[cfg(target_arch = "aarch64")]
#[target_feature(enable = "neon")]
fn neon() {
    use std::arch::aarch64::{vdupq_n_f32, vfmaq_f32};
    let mut sums = [vdupq_n_f32(0.5); SUMS];
    let (a, b) = (black_box(vdupq_n_f32(0.5)), black_box(vdupq_n_f32(0.25)));
    for _ in 0..TURNS {
        for sum in &mut sums {
            *sum = vfmaq_f32(b, *sum, a);
        }
    }
    black_box(sums);
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{SUMS, TURNS};
    use crate::amx::{Registers, multiply};
    use std::arch::x86_64::*;
    use std::hint::black_box;

    #[target_feature(enable = "avx2,fma")]
    pub(super) fn avx2() {
        let mut sums = [_mm256_set1_ps(0.5); SUMS];
        let (a, b) = (black_box(_mm256_set1_ps(0.5)), black_box(_mm256_set1_ps(0.25)));
        for _ in 0..TURNS {
            // Fewer than all, so that they stay in the sixteen registers.
            for sum in &mut sums[..SUMS / 2] {
                *sum = _mm256_fmadd_ps(*sum, a, b);
            }
        }
        for _ in 0..TURNS {
            for sum in &mut sums[SUMS / 2..] {
                *sum = _mm256_fmadd_ps(*sum, a, b);
            }
        }
        black_box(sums);
    }

    #[target_feature(enable = "avx512f")]
    pub(super) fn avx512() {
        let mut sums = [_mm512_set1_ps(0.5); SUMS];
        let (a, b) = (black_box(_mm512_set1_ps(0.5)), black_box(_mm512_set1_ps(0.25)));
        for _ in 0..TURNS {
            for sum in &mut sums {
                *sum = _mm512_fmadd_ps(*sum, a, b);
            }
        }
        black_box(sums);
    }

    /// Returns how many operations that were.
    ///
    /// # Safety
    ///
    /// The processor has AMX, and this process may use it.
    pub(super) unsafe fn tiles() -> f64 {
        // SAFETY: promised.
        unsafe {
            let _registers = Registers::new();
            for _ in 0..TURNS / 4 {
                multiply!(0, 4, 6);
                multiply!(1, 4, 7);
                multiply!(2, 5, 6);
                multiply!(3, 5, 7);
            }
        }
        // Sixteen rows by sixteen lanes of sixteen pairs each.
        (4 * (TURNS / 4) * 2 * 16 * 16 * 32) as f64
    }

    #[target_feature(enable = "avx512f,avx512bf16")]
    pub(super) fn avx512bf16() {
        let mut sums = [_mm512_set1_ps(0.5); SUMS];
        let half = |x: f32| _mm512_cvtne2ps_pbh(_mm512_set1_ps(x), _mm512_set1_ps(x));
        let (a, b) = (black_box(half(0.5)), black_box(half(0.25)));
        for _ in 0..TURNS {
            for sum in &mut sums {
                *sum = _mm512_dpbf16_ps(*sum, a, b);
            }
        }
        black_box(sums);
    }
}
