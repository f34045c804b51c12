//! What cards can do at most: the figures behind the floors that `compile --arch` prints.
//!
//! Peaks are those of NVIDIA's data sheets for dense matrices at boost clock (a sheet that gives a rate with sparsity is
//! halved): A100 80GB SXM (data sheet of 2021), H100 SXM (data sheet of 2023), HGX B200 (data sheet of 2024, its sums over
//! eight cards divided by eight), GeForce RTX 5090 (the Blackwell architecture white paper of 2025). What a multiprocessor
//! holds is the table "Technical Specifications per Compute Capability" of the CUDA C++ Programming Guide.

use crate::arch::Arch;

/// A card.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// As its maker calls it.
    pub card: &'static str,
    /// Its architecture.
    pub arch: Arch,
    /// Streaming multiprocessors.
    pub multiprocessors: u32,
    /// Dense bf16 products with f32 accumulation, in 10¹² operations a second (a multiply-add is two).
    pub bf16_tflops: f64,
    /// Dense tf32 products, likewise.
    pub tf32_tflops: f64,
    /// f32 arithmetic without matrix units.
    pub f32_tflops: f64,
    /// Device memory, in 10⁹ bytes a second.
    pub memory_gbs: f64,
    /// L2 cache, in bytes.
    pub l2_bytes: u64,
}

/// The cards, oldest first.
pub const CARDS: [Limits; 4] = [
    Limits {
        card: "A100 80GB SXM",
        arch: Arch(80),
        multiprocessors: 108,
        bf16_tflops: 312.0,
        tf32_tflops: 156.0,
        f32_tflops: 19.5,
        memory_gbs: 2039.0,
        l2_bytes: 40 << 20,
    },
    Limits {
        card: "H100 SXM",
        arch: Arch(90),
        multiprocessors: 132,
        bf16_tflops: 989.4,
        tf32_tflops: 494.7,
        f32_tflops: 66.9,
        memory_gbs: 3350.0,
        l2_bytes: 50 << 20,
    },
    Limits {
        card: "B200 (HGX)",
        arch: Arch(100),
        multiprocessors: 148,
        bf16_tflops: 2250.0,
        tf32_tflops: 1125.0,
        f32_tflops: 75.0,
        memory_gbs: 7700.0,
        l2_bytes: 126 << 20,
    },
    Limits {
        card: "GeForce RTX 5090",
        arch: Arch(120),
        multiprocessors: 170,
        bf16_tflops: 209.5,
        tf32_tflops: 104.8,
        f32_tflops: 104.8,
        memory_gbs: 1792.0,
        l2_bytes: 96 << 20,
    },
];

/// The newest card of the table whose architecture is not newer than `arch`.
pub fn card_of(arch: Arch) -> &'static Limits {
    CARDS.iter().rev().find(|card| card.arch <= arch).unwrap_or(&CARDS[0])
}

/// What one multiprocessor holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Multiprocessor {
    /// Threads.
    pub threads: u32,
    /// Blocks.
    pub blocks: u32,
    /// 32-bit registers.
    pub registers: u32,
    /// Bytes of shared memory, those that the system keeps for itself included.
    pub shared: u32,
    /// Bytes of shared memory that one block may have.
    pub shared_per_block: u32,
}

/// Bytes of shared memory that the system keeps of every block.
const RESERVED_SHARED: u32 = 1024;
/// Registers are given to a warp in multiples of this.
const REGISTER_UNIT: u32 = 256;

/// What a multiprocessor of that architecture holds.
pub fn multiprocessor(arch: Arch) -> Multiprocessor {
    let kib = |n: u32| n << 10;
    let (threads, blocks, shared, shared_per_block) = match arch.0 {
        80 | 87 => (2048, 32, kib(164), kib(163)),
        86 => (1536, 16, kib(100), kib(99)),
        89 => (1536, 24, kib(100), kib(99)),
        90..=119 => (2048, 32, kib(228), kib(227)),
        _ => (1536, 24, kib(100), kib(99)),
    };
    Multiprocessor { threads, blocks, registers: 65536, shared, shared_per_block }
}

/// Blocks of a kernel that a multiprocessor holds at once; 0 where not even one fits.
pub fn resident_blocks(arch: Arch, threads: u32, registers: u32, shared: u32) -> u32 {
    let limits = multiprocessor(arch);
    let warps = threads.div_ceil(32);
    let per_warp = (registers * 32).next_multiple_of(REGISTER_UNIT).max(REGISTER_UNIT);
    if shared > limits.shared_per_block {
        return 0;
    }
    let by_registers = limits.registers / (per_warp * warps);
    let by_threads = limits.threads / (warps * 32);
    let by_shared = limits.shared / (shared + RESERVED_SHARED).next_multiple_of(128);
    limits.blocks.min(by_registers).min(by_threads).min(by_shared)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resident_blocks_are_bounded_by_the_scarcest_resource() {
        // 2048 threads; 32 registers x 2048 = 65536: nothing in the way of full occupancy.
        assert_eq!(resident_blocks(Arch(80), 256, 32, 0), 8);
        assert_eq!(resident_blocks(Arch(90), 256, 255, 0), 1);
        assert_eq!(resident_blocks(Arch(80), 128, 128, 48 << 10), 3);
        assert_eq!(resident_blocks(Arch(120), 128, 128, 100 << 10), 0);
        assert_eq!(resident_blocks(Arch(120), 32, 16, 0), 24);
    }

    #[test]
    fn an_architecture_between_two_cards_counts_as_the_older() {
        assert_eq!(card_of(Arch(86)).arch, Arch(80));
        assert_eq!(card_of(Arch(90)).arch, Arch(90));
        assert_eq!(card_of(Arch(121)).arch, Arch(120));
    }
}
