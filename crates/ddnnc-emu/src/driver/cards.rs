//! Cards whose properties a device can have, as NVIDIA's data sheets and `deviceQuery` give them.

use crate::machine::Properties;

/// A card: what [`Properties`] does not say and attributes ask for.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Card {
    pub name: &'static str,
    pub arch: u32,
    pub multiprocessors: u32,
    pub memory: u64,
    /// KiB of shared memory: of a block by opting in, of a multiprocessor.
    pub shared: (u32, u32),
    /// Of a multiprocessor.
    pub threads: u32,
    /// Of a multiprocessor.
    pub blocks: u32,
    /// Bytes of the second-level cache.
    pub cache: u32,
    /// kHz of the multiprocessors and of the memory, and the width of its bus in bits.
    pub clocks: (u32, u32, u32),
}

const CARDS: [Card; 6] = [
    Card {
        name: "a100",
        arch: 80,
        multiprocessors: 108,
        memory: 40 << 30,
        shared: (163, 164),
        threads: 2048,
        blocks: 32,
        cache: 40 << 20,
        clocks: (1_410_000, 1_215_000, 5120),
    },
    Card {
        name: "rtx3090",
        arch: 86,
        multiprocessors: 82,
        memory: 24 << 30,
        shared: (99, 100),
        threads: 1536,
        blocks: 16,
        cache: 6 << 20,
        clocks: (1_695_000, 9_751_000, 384),
    },
    Card {
        name: "rtx4090",
        arch: 89,
        multiprocessors: 128,
        memory: 24 << 30,
        shared: (99, 100),
        threads: 1536,
        blocks: 24,
        cache: 72 << 20,
        clocks: (2_520_000, 10_501_000, 384),
    },
    Card {
        name: "h100",
        arch: 90,
        multiprocessors: 132,
        memory: 80 << 30,
        shared: (227, 228),
        threads: 2048,
        blocks: 32,
        cache: 50 << 20,
        clocks: (1_980_000, 2_619_000, 5120),
    },
    Card {
        name: "b200",
        arch: 100,
        multiprocessors: 148,
        memory: 180 << 30,
        shared: (227, 228),
        threads: 2048,
        blocks: 32,
        cache: 126 << 20,
        clocks: (1_965_000, 3_996_000, 8192),
    },
    Card {
        name: "rtx5090",
        arch: 120,
        multiprocessors: 170,
        memory: 32 << 30,
        shared: (99, 100),
        threads: 1536,
        blocks: 24,
        cache: 96 << 20,
        clocks: (2_407_000, 14_001_000, 512),
    },
];

/// What a device is unless told otherwise.
pub(super) fn default() -> Card {
    CARDS[3].clone()
}

/// By name, `sm_90`, or `90`; `rtx` is the newest of them.
pub(super) fn find(name: &str) -> Option<Card> {
    let name = name.to_ascii_lowercase();
    if name == "rtx" {
        return CARDS.last().cloned();
    }
    let arch = name.strip_prefix("sm_").unwrap_or(&name).parse().ok();
    CARDS.iter().find(|c| c.name == name || arch == Some(c.arch)).cloned()
}

/// Every name, for messages.
pub(super) fn names() -> String {
    let names: Vec<String> = CARDS.iter().map(|c| format!("{} (sm_{})", c.name, c.arch)).collect();
    names.join(", ")
}

impl Card {
    pub fn properties(&self, memory: u64) -> Properties {
        Properties {
            name: format!("ddnnc-emu {} (sm_{})", self.name, self.arch),
            arch: self.arch,
            multiprocessors: self.multiprocessors,
            memory,
            shared_per_block: self.shared.0 << 10,
            shared_per_multiprocessor: self.shared.1 << 10,
        }
    }

    /// A `CUdevice_attribute` of a device with this card's properties; 0 for what it does not have; `None` for what
    /// is no attribute.
    pub fn attribute(&self, p: &Properties, attribute: i32, ordinal: i32) -> Option<i32> {
        let value = match attribute {
            // Threads and blocks of a launch: block, three ways each.
            1..=3 => 1024,
            4 => 64,
            5 => i32::MAX,
            6 | 7 => 65535,
            // Shared memory: without opting in, by opting in, reserved, of a multiprocessor.
            8 => 48 << 10,
            97 => p.shared_per_block as i32,
            111 => 1 << 10,
            81 => p.shared_per_multiprocessor as i32,
            // Constant memory, warp size, pitch.
            9 => 64 << 10,
            10 => 32,
            11 => i32::MAX,
            // Registers of a block and of a multiprocessor.
            12 | 82 => 65536,
            13 => self.clocks.0 as i32,
            36 => self.clocks.1 as i32,
            37 => self.clocks.2 as i32,
            // Alignments.
            14 | 30 => 512,
            51 => 32,
            // Copies overlap kernels, kernels overlap, copy engines.
            15 | 31 => 1,
            40 => 2,
            16 => p.multiprocessors as i32,
            33 => ordinal + 1,
            38 => self.cache as i32,
            39 => self.threads as i32,
            106 => self.blocks as i32,
            // One address space, priorities, caches, preemption, registered host memory.
            41 | 78 | 79 | 80 | 90 | 99 => 1,
            75 => (p.arch / 10) as i32,
            76 => (p.arch % 10) as i32,
            87 => {
                if matches!(p.arch, 80 | 90 | 100) {
                    2
                } else {
                    64
                }
            }
            // Memory pools: allocation in the order of a stream.
            115 => 1,
            _ if (1..=200).contains(&attribute) => 0,
            _ => return None,
        };
        Some(value)
    }

    /// Blocks of a kernel that a multiprocessor can hold, as far as threads and shared memory limit them. Registers,
    /// which PTX does not say, are not counted.
    pub fn resident(&self, p: &Properties, threads: u32, shared: u64) -> u32 {
        if threads == 0 || threads > 1024 || shared > u64::from(p.shared_per_block) {
            return 0;
        }
        let warps = threads.div_ceil(32);
        // A block takes a KiB more than it asks for, and shared memory is given in units of 128 bytes.
        let room = u64::from(p.shared_per_multiprocessor) / (shared.next_multiple_of(128) + 1024);
        self.blocks.min(self.threads / 32 / warps).min(room.min(u64::from(u32::MAX)) as u32)
    }
}
