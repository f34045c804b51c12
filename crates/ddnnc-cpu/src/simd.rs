//! One source of a loop, compiled for several levels of the processor and chosen at run time.

/// What the processor can do, found once when the device is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// What the build was compiled for.
    Portable,
    /// AVX2 and FMA.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// AVX-512 F, VL, BW and DQ.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// AVX-512 with products of pairs of bf16.
    #[cfg(target_arch = "x86_64")]
    Avx512Bf16,
    /// The same, with products of tiles of bf16: AMX.
    #[cfg(target_arch = "x86_64")]
    Amx,
    /// NEON, which every 64-bit Arm processor has.
    #[cfg(target_arch = "aarch64")]
    Neon,
}

impl Level {
    /// The levels of this machine, the best last.
    pub fn available() -> impl Iterator<Item = Level> {
        #[cfg(target_arch = "x86_64")]
        let more = {
            let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
            let avx512 = is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq");
            let bf16 = avx512 && is_x86_feature_detected!("avx512bf16");
            let amx = avx2 && bf16 && crate::amx::is_usable();
            [
                avx2.then_some(Level::Avx2),
                (avx2 && avx512).then_some(Level::Avx512),
                (avx2 && bf16).then_some(Level::Avx512Bf16),
                amx.then_some(Level::Amx),
            ]
        };
        #[cfg(target_arch = "aarch64")]
        let more = [Some(Level::Neon)];
        #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
        let more: [Option<Level>; 0] = [];
        std::iter::once(Level::Portable).chain(more.into_iter().flatten())
    }

    /// All levels of this kind of processor, by name, the best last.
    pub const ALL: &[Level] = &[
        Level::Portable,
        #[cfg(target_arch = "x86_64")]
        Level::Avx2,
        #[cfg(target_arch = "x86_64")]
        Level::Avx512,
        #[cfg(target_arch = "x86_64")]
        Level::Avx512Bf16,
        #[cfg(target_arch = "x86_64")]
        Level::Amx,
        #[cfg(target_arch = "aarch64")]
        Level::Neon,
    ];

    /// As users write it.
    pub fn name(self) -> &'static str {
        match self {
            Level::Portable => "portable",
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => "avx512",
            #[cfg(target_arch = "x86_64")]
            Level::Avx512Bf16 => "avx512-bf16",
            #[cfg(target_arch = "x86_64")]
            Level::Amx => "amx",
            #[cfg(target_arch = "aarch64")]
            Level::Neon => "neon",
        }
    }

    /// Whether products of pairs of bf16 are one instruction.
    pub fn multiplies_bf16(self) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            Level::Avx512Bf16 | Level::Amx => true,
            _ => false,
        }
    }

    /// Whether products of pairs of bf16 are faster than as many of f32, on this machine: on Intel's processors, which have tiles
    /// for bf16 where they are newer, they are half as fast (measured on one of the Emerald Rapids class).
    pub fn pairs_pay(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        let pay = {
            let vendor = std::arch::x86_64::__cpuid(0);
            [vendor.ebx, vendor.edx, vendor.ecx].map(u32::to_le_bytes).as_flattened() != b"GenuineIntel"
        };
        #[cfg(not(target_arch = "x86_64"))]
        let pay = true;
        self.multiplies_bf16() && pay
    }

    /// Whether products of tiles of bf16 are one instruction.
    pub fn multiplies_tiles(self) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            Level::Amx => true,
            _ => false,
        }
    }

    /// Whether vectors are those of AVX-512.
    pub fn is_avx512(self) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 | Level::Avx512Bf16 | Level::Amx => true,
            _ => false,
        }
    }

    /// The best level of this machine.
    pub fn detect() -> Level {
        Level::available().last().unwrap_or(Level::Portable)
    }

    /// Calls `f`, compiled for this level (as far as it is inlined: mark what it calls `#[inline(always)]`).
    #[inline(always)]
    pub fn run<R>(self, f: impl FnOnce() -> R) -> R {
        match self {
            Level::Portable => f(),
            // SAFETY: levels come from `available` alone, which found these features.
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => unsafe { avx2(f) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => unsafe { avx512(f) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Level::Avx512Bf16 | Level::Amx => unsafe { avx512bf16(f) },
            // The build is for it.
            #[cfg(target_arch = "aarch64")]
            Level::Neon => f(),
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn avx2<R>(f: impl FnOnce() -> R) -> R {
    f()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,avx512f,avx512vl,avx512bw,avx512dq")]
fn avx512<R>(f: impl FnOnce() -> R) -> R {
    f()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,avx512f,avx512vl,avx512bw,avx512dq,avx512bf16")]
fn avx512bf16<R>(f: impl FnOnce() -> R) -> R {
    f()
}

/// Functions whose first argument is the level, each compiled for every level: unlike what is called in
/// [`Level::run`], their bodies are inlined there whatever their size.
macro_rules! at_every_level {
    ($($(#[$doc:meta])* pub fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $body:block)*) => {$(
        $(#[$doc])*
        #[allow(clippy::too_many_arguments, reason = "as many as the function has")]
        pub fn $name(level: $crate::simd::Level, $($arg: $ty),*) {
            #[inline(always)]
            fn body($($arg: $ty),*) $body
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            fn avx2($($arg: $ty),*) {
                body($($arg),*);
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,avx512f,avx512vl,avx512bw,avx512dq")]
            fn avx512($($arg: $ty),*) {
                body($($arg),*);
            }
            match level {
                $crate::simd::Level::Portable => body($($arg),*),
                // SAFETY: levels come from `Level::available` alone, which found these features.
                #[cfg(target_arch = "x86_64")]
                $crate::simd::Level::Avx2 => unsafe { avx2($($arg),*) },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                $crate::simd::Level::Avx512 | $crate::simd::Level::Avx512Bf16 | $crate::simd::Level::Amx => unsafe {
                    avx512($($arg),*)
                },
                #[cfg(target_arch = "aarch64")]
                $crate::simd::Level::Neon => body($($arg),*),
            }
        }
    )*};
}

pub(crate) use at_every_level;
