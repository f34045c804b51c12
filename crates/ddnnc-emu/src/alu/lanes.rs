//! Operands as arrays of 32 lanes, results under a mask, and loops over lanes that the compiler turns into vectors.

use crate::inst::{File, Reg, Src};
use crate::registers::{Context, LANES, Registers};

/// The 32-bit elements of an operand; `space` holds them where they are no 32-bit register.
#[inline(always)]
pub(super) fn view32<'a>(
    registers: &'a Registers,
    src: &Src,
    context: &Context<'_>,
    space: &'a mut [u32; LANES],
) -> &'a [u32; LANES] {
    if let Src::Reg(Reg { file: File::B32, index }) = *src {
        return &registers.b32[index as usize];
    }
    *space = registers.source32(src, context);
    space
}

/// The 64-bit elements of an operand, zero-extended.
#[inline(always)]
pub(super) fn view64<'a>(
    registers: &'a Registers,
    src: &Src,
    context: &Context<'_>,
    space: &'a mut [u64; LANES],
) -> &'a [u64; LANES] {
    if let Src::Reg(Reg { file: File::B64, index }) = *src {
        return &registers.b64[index as usize];
    }
    *space = registers.source64(src, context);
    space
}

/// The low 16 bits of an operand's elements.
pub(super) fn view16(registers: &Registers, src: &Src, context: &Context<'_>) -> [u16; LANES] {
    match *src {
        Src::Reg(Reg { file: File::B16, index }) => registers.b16[index as usize],
        _ => registers.source32(src, context).map(|bits| bits as u16),
    }
}

/// Puts 16-bit values into a register.
pub(super) fn put16(registers: &mut Registers, reg: Reg, values: &[u16; LANES], mask: u32) {
    registers.put64(reg, &values.map(u64::from), mask);
}

/// `out` = f(a), lane by lane.
#[inline(always)]
pub(super) fn map<A: Copy, T>(a: &[A; LANES], out: &mut [T; LANES], f: impl Fn(A) -> T) {
    for lane in 0..LANES {
        out[lane] = f(a[lane]);
    }
}

/// `out` = f(a, b), lane by lane.
#[inline(always)]
pub(super) fn map2<A: Copy, B: Copy, T>(
    a: &[A; LANES],
    b: &[B; LANES],
    out: &mut [T; LANES],
    f: impl Fn(A, B) -> T,
) {
    for lane in 0..LANES {
        out[lane] = f(a[lane], b[lane]);
    }
}

/// `out` = f(a, b, c), lane by lane.
#[inline(always)]
pub(super) fn map3<A: Copy, B: Copy, C: Copy, T>(
    a: &[A; LANES],
    b: &[B; LANES],
    c: &[C; LANES],
    out: &mut [T; LANES],
    f: impl Fn(A, B, C) -> T,
) {
    for lane in 0..LANES {
        out[lane] = f(a[lane], b[lane], c[lane]);
    }
}

/// The lanes where `f` holds.
#[inline(always)]
pub(super) fn test<A: Copy>(a: &[A; LANES], b: &[A; LANES], f: impl Fn(A, A) -> bool) -> u32 {
    let mut lanes = 0;
    for lane in 0..LANES {
        lanes |= u32::from(f(a[lane], b[lane])) << lane;
    }
    lanes
}

/// Makes of a function one that is compiled twice, the second time for processors with AVX2 and FMA, and that chooses
/// when it is called.
macro_rules! vectorised {
    ($(#[$doc:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $result:ty)? $body:block) => {
        $(#[$doc])*
        #[inline]
        $vis fn $name($($arg: $ty),*) $(-> $result)? {
            #[inline(always)]
            fn generic($($arg: $ty),*) $(-> $result)? $body

            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2,fma,bmi2")]
                fn wide($($arg: $ty),*) $(-> $result)? {
                    generic($($arg),*)
                }
                if std::arch::is_x86_feature_detected!("avx2")
                    && std::arch::is_x86_feature_detected!("fma")
                    && std::arch::is_x86_feature_detected!("bmi2")
                {
                    // SAFETY: the processor has been asked for every feature that `wide` is compiled with.
                    return unsafe { wide($($arg),*) };
                }
            }
            generic($($arg),*)
        }
    };
}
pub(crate) use vectorised;
