//! AMX: eight registers that are tiles of sixteen rows of 64 bytes, and products of tiles of bf16 with sums of f32.
//!
//! Compilers do not keep anything in these registers, so they are named here as the processor names them, by number. A
//! thread that uses them holds [`Registers`] meanwhile.

use std::arch::asm;
use std::marker::PhantomData;
use std::sync::OnceLock;

/// Rows of a register.
pub const ROWS: usize = 16;

/// Elements of f32, or pairs of bf16, in a row of a register.
pub const LANES: usize = 16;

/// Whether the processor has these registers and products of bf16, and the system lets the process use them. Asks the
/// system, once.
pub fn is_usable() -> bool {
    static USABLE: OnceLock<bool> = OnceLock::new();
    *USABLE.get_or_init(|| is_present() && is_permitted())
}

/// Whether the processor has them and the system saves them.
fn is_present() -> bool {
    use std::arch::x86_64::{__cpuid, __cpuid_count};
    /// Bits of leaf 7: products of bf16, and tiles.
    const FEATURES: u32 = 1 << 22 | 1 << 24;
    /// Bits of what the system saves: the tiles and their configuration.
    const SAVED: u64 = 3 << 17;
    /// Bit of leaf 1: the system saves what it says it does.
    const OSXSAVE: u32 = 1 << 27;
    if __cpuid(0).eax < 7 || __cpuid(1).ecx & OSXSAVE == 0 || __cpuid_count(7, 0).edx & FEATURES != FEATURES {
        return false;
    }
    let (low, high): (u32, u32);
    // SAFETY: the processor has the instruction, as OSXSAVE says.
    unsafe { asm!("xgetbv", in("ecx") 0, out("eax") low, out("edx") high, options(nomem, nostack)) };
    (u64::from(high) << 32 | u64::from(low)) & SAVED == SAVED
}

/// Asks Linux for the registers, for all threads of this process: larger than the others, they are saved for whoever asks.
#[cfg(target_os = "linux")]
fn is_permitted() -> bool {
    /// `arch_prctl`, its request for a component, and the component of tiles.
    const CALL: [i64; 3] = [158, 0x1023, 18];
    let mut result = CALL[0];
    // SAFETY: the call reads and writes no memory of ours; a system that does not know it says so.
    unsafe {
        asm!("syscall", inlateout("rax") result, in("rdi") CALL[1], in("rsi") CALL[2], out("rcx") _, out("r11") _,
            options(nostack));
    }
    result == 0
}

/// Elsewhere it is not known how to ask.
#[cfg(not(target_os = "linux"))]
fn is_permitted() -> bool {
    false
}

/// How the registers are divided.
#[repr(C, align(64))]
struct Configuration([u8; 64]);

impl Configuration {
    /// Every register whole.
    const WHOLE: Configuration = {
        let mut bytes = [0; 64];
        bytes[0] = 1;
        let mut register = 0;
        while register < 8 {
            bytes[16 + 2 * register] = 64;
            bytes[48 + register] = ROWS as u8;
            register += 1;
        }
        Configuration(bytes)
    };
}

/// This thread's registers, all of them whole, until it is dropped: then they need not be saved any more.
#[derive(Debug)]
pub struct Registers(PhantomData<*const ()>);

impl Registers {
    /// Zeros in all of them.
    ///
    /// # Safety
    ///
    /// They are usable.
    pub unsafe fn new() -> Registers {
        // SAFETY: promised.
        unsafe {
            asm!("ldtilecfg [{}]", in(reg) Configuration::WHOLE.0.as_ptr(), options(nostack, preserves_flags));
        }
        Registers(PhantomData)
    }
}

impl Drop for Registers {
    fn drop(&mut self) {
        // SAFETY: that there is a value says that the processor has the instruction.
        unsafe { asm!("tilerelease", options(nomem, nostack, preserves_flags)) };
    }
}

/// Register = rows at an address, so many bytes apart. Unsafe: sixteen rows of 64 bytes are there, and the thread holds
/// [`Registers`].
macro_rules! load {
    ($register:literal, $from:expr, $step:expr) => {
        std::arch::asm!(concat!("tileloadd tmm", $register, ", [{from} + {step}]"), from = in(reg) $from,
            step = in(reg) $step, options(nostack, preserves_flags))
    };
}

/// The reverse.
macro_rules! store {
    ($register:literal, $to:expr, $step:expr) => {
        std::arch::asm!(concat!("tilestored [{to} + {step}], tmm", $register), to = in(reg) $to,
            step = in(reg) $step, options(nostack, preserves_flags))
    };
}

/// Register = 0. Unsafe: the thread holds [`Registers`].
macro_rules! clear {
    ($register:literal) => {
        std::arch::asm!(concat!("tilezero tmm", $register), options(nomem, nostack, preserves_flags))
    };
}

/// Sums += left · right: row i, lane j is the sum over the pairs of row i of `left` and of lane j of `right`'s rows, one row
/// to a pair. Unsafe: the thread holds [`Registers`].
macro_rules! multiply {
    ($sums:literal, $left:literal, $right:literal) => {
        std::arch::asm!(
            concat!("tdpbf16ps tmm", $sums, ", tmm", $left, ", tmm", $right),
            options(nomem, nostack, preserves_flags)
        )
    };
}

pub(crate) use {clear, load, multiply, store};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registers_hold_tiles_and_multiply_pairs() {
        if !is_usable() {
            return;
        }
        // Rows of the left are 32 small whole numbers; so is everything on the right.
        let left: Vec<u16> = (0..512).map(|i| half((i * 7 % 13) as f32 - 6.0)).collect();
        let right: Vec<u16> = (0..512).map(|i| half((i * 5 % 11) as f32 - 5.0)).collect();
        let mut sums: Vec<f32> = (0..256).map(|i| i as f32).collect();
        // SAFETY: each of the three is sixteen rows of 64 bytes, and the registers are usable.
        unsafe {
            let _registers = Registers::new();
            load!(0, sums.as_ptr(), 64usize);
            load!(1, left.as_ptr(), 64usize);
            load!(2, right.as_ptr(), 64usize);
            multiply!(0, 1, 2);
            store!(0, sums.as_mut_ptr(), 64usize);
        }
        for (at, &sum) in sums.iter().enumerate() {
            let (row, lane) = (at / LANES, at % LANES);
            let one = |k: usize| wide(left[row * 32 + k]) * wide(right[k / 2 * 32 + 2 * lane + k % 2]);
            assert_eq!(sum, at as f32 + (0..32).map(one).sum::<f32>(), "{row} {lane}");
        }
    }

    fn half(x: f32) -> u16 {
        (x.to_bits() >> 16) as u16
    }

    fn wide(x: u16) -> f32 {
        f32::from_bits(u32::from(x) << 16)
    }
}
