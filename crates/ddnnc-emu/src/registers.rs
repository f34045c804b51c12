//! The registers of a warp, and what its lanes know of their place.

use crate::inst::{Address, File, Reg, Special, Src};

/// Threads of a warp.
pub const LANES: usize = 32;

/// The registers of one warp: one entry per virtual register, one element per lane. A predicate register is a mask.
#[derive(Clone, Debug, Default)]
pub struct Registers {
    /// `.pred`: bit i is lane i.
    pub pred: Vec<u32>,
    /// 8-bit and 16-bit registers.
    pub b16: Vec<[u16; LANES]>,
    /// 32-bit registers.
    pub b32: Vec<[u32; LANES]>,
    /// 64-bit registers.
    pub b64: Vec<[u64; LANES]>,
    /// 128-bit registers.
    pub b128: Vec<[u128; LANES]>,
    /// The carry flag of each lane (`add.cc`, `addc`).
    pub carry: u32,
}

impl Registers {
    /// Registers for a kernel that declares so many of each file (Pred, B16, B32, B64, B128), filled with poison: a
    /// signalling pattern that is a NaN as a float and no valid address.
    pub fn new(counts: [u32; 5]) -> Registers {
        let [pred, b16, b32, b64, b128] = counts.map(|n| n as usize);
        Registers {
            pred: vec![0; pred],
            b16: vec![[0x7fd1; LANES]; b16],
            b32: vec![[0x7fd1_dead; LANES]; b32],
            b64: vec![[0x7ffd_1dea_d7fd_1dea; LANES]; b64],
            b128: vec![[0x7ffd_1dea_d7fd_1dea_7ffd_1dea_d7fd_1dea; LANES]; b128],
            carry: 0,
        }
    }

    /// Fills every register with poison again.
    pub fn reset(&mut self) {
        self.pred.fill(0);
        self.b16.fill([0x7fd1; LANES]);
        self.b32.fill([0x7fd1_dead; LANES]);
        self.b64.fill([0x7ffd_1dea_d7fd_1dea; LANES]);
        self.b128.fill([0x7ffd_1dea_d7fd_1dea_7ffd_1dea_d7fd_1dea; LANES]);
        self.carry = 0;
    }

    /// The mask of a predicate register.
    pub fn predicate(&self, reg: Reg) -> u32 {
        self.pred[reg.index as usize]
    }

    /// The lanes where a predicate operand holds.
    pub fn condition(&self, src: &Src, negate: bool) -> u32 {
        let mask = match *src {
            Src::Reg(reg) => self.predicate(reg),
            Src::Imm(0) => 0,
            _ => u32::MAX,
        };
        if negate { !mask } else { mask }
    }

    /// The low 32 bits of an operand in each lane.
    pub fn source32(&self, src: &Src, context: &Context<'_>) -> [u32; LANES] {
        match *src {
            Src::Reg(Reg { file: File::B32, index }) => self.b32[index as usize],
            Src::Imm(bits) => [bits as u32; LANES],
            _ => self.source64(src, context).map(|bits| bits as u32),
        }
    }

    /// An operand in each lane, zero-extended where it is narrower than 64 bits, its low half where it is wider.
    pub fn source64(&self, src: &Src, context: &Context<'_>) -> [u64; LANES] {
        match *src {
            Src::Reg(Reg { file, index }) => {
                let index = index as usize;
                match file {
                    File::Pred => std::array::from_fn(|lane| u64::from(self.pred[index] >> lane & 1)),
                    File::B16 => self.b16[index].map(u64::from),
                    File::B32 => self.b32[index].map(u64::from),
                    File::B64 => self.b64[index],
                    File::B128 => self.b128[index].map(|bits| bits as u64),
                }
            }
            Src::Imm(bits) => [bits; LANES],
            Src::Special(special) => std::array::from_fn(|lane| context.special(special, lane)),
            Src::Variable { variable, offset } => {
                [context.variables[variable as usize].wrapping_add_signed(offset); LANES]
            }
        }
    }

    /// The address that each lane means.
    pub fn addresses(&self, address: &Address, context: &Context<'_>) -> [u64; LANES] {
        let mut at = self.source64(&address.base, context);
        if address.offset == 0 {
            return at;
        }
        // A base of 32 bits may lie below zero, with an offset that brings it back.
        let narrow = matches!(address.base, Src::Reg(Reg { file: File::B32, .. }));
        for a in &mut at {
            let sum = a.wrapping_add_signed(address.offset);
            *a = if narrow { u64::from(sum as u32) } else { sum };
        }
        at
    }

    /// Puts values into a register for the lanes of a mask, cut to the register's width.
    pub fn put64(&mut self, reg: Reg, values: &[u64; LANES], mask: u32) {
        let index = reg.index as usize;
        match reg.file {
            File::Pred => {
                let bits = (0..LANES).fold(0, |bits, lane| bits | ((values[lane] & 1) as u32) << lane);
                let old = &mut self.pred[index];
                *old = *old & !mask | bits & mask;
            }
            File::B16 => blend(&mut self.b16[index], &values.map(|v| v as u16), mask),
            File::B32 => blend(&mut self.b32[index], &values.map(|v| v as u32), mask),
            File::B64 => blend(&mut self.b64[index], values, mask),
            File::B128 => blend(&mut self.b128[index], &values.map(u128::from), mask),
        }
    }

    /// [`Registers::put64`] of 32-bit values.
    pub fn put32(&mut self, reg: Reg, values: &[u32; LANES], mask: u32) {
        if reg.file == File::B32 {
            blend(&mut self.b32[reg.index as usize], values, mask);
        } else {
            self.put64(reg, &values.map(u64::from), mask);
        }
    }
}

/// Replaces the elements of the lanes of a mask.
pub fn blend<T: Copy>(old: &mut [T; LANES], new: &[T; LANES], mask: u32) {
    if mask == u32::MAX {
        *old = *new;
        return;
    }
    for lane in 0..LANES {
        if mask >> lane & 1 != 0 {
            old[lane] = new[lane];
        }
    }
}

/// What a warp's lanes read besides registers.
#[derive(Clone, Debug)]
pub struct Context<'a> {
    /// `%tid` of each lane: x, y, z.
    pub tid: [[u32; LANES]; 3],
    /// `%ntid`
    pub ntid: [u32; 3],
    /// `%ctaid`
    pub ctaid: [u32; 3],
    /// `%nctaid`
    pub nctaid: [u32; 3],
    /// `%warpid`
    pub warp: u32,
    /// `%nwarpid`
    pub warps: u32,
    /// `%smid`, `%nsmid`
    pub sm: [u32; 2],
    /// `%dynamic_smem_size`, `%total_smem_size`
    pub shared_bytes: [u32; 2],
    /// Executed instructions of this warp, for clocks.
    pub clock: u64,
    /// The address of each variable in the window of its state space, as [`crate::inst::Src::Variable`] numbers them.
    pub variables: &'a [u64],
}

impl Context<'_> {
    /// The value of a special register in a lane.
    pub fn special(&self, special: Special, lane: usize) -> u64 {
        let lane32 = lane as u32;
        u64::from(match special {
            Special::TidX => self.tid[0][lane],
            Special::TidY => self.tid[1][lane],
            Special::TidZ => self.tid[2][lane],
            Special::NtidX => self.ntid[0],
            Special::NtidY => self.ntid[1],
            Special::NtidZ => self.ntid[2],
            Special::CtaidX => self.ctaid[0],
            Special::CtaidY => self.ctaid[1],
            Special::CtaidZ => self.ctaid[2],
            Special::NctaidX => self.nctaid[0],
            Special::NctaidY => self.nctaid[1],
            Special::NctaidZ => self.nctaid[2],
            Special::LaneId => lane32,
            Special::WarpId => self.warp,
            Special::NWarpId => self.warps,
            Special::SmId => self.sm[0],
            Special::NSmId => self.sm[1],
            Special::GridId => 0,
            Special::LanemaskEq => 1 << lane32,
            Special::LanemaskLe => u32::MAX >> (31 - lane32),
            Special::LanemaskLt => (1 << lane32) - 1,
            Special::LanemaskGe => u32::MAX << lane32,
            Special::LanemaskGt => !(u32::MAX >> (31 - lane32)),
            Special::DynamicSharedSize => self.shared_bytes[0],
            Special::TotalSharedSize => self.shared_bytes[1],
            Special::Clock => self.clock as u32,
            Special::Clock64 | Special::GlobalTimer => return self.clock,
        })
    }
}
