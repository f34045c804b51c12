//! The registers that a kernel gives to `wgmma`, and which instructions access them besides.

use crate::inst::{File, FirstFactor, Inst, Op, Reg, Src, Wgmma};
use crate::program::sources;

/// No register that is watched.
const NONE: u32 = u32::MAX;

/// Of a kernel without `wgmma`: nothing.
#[derive(Default)]
pub(crate) struct Watched {
    /// How many registers are watched.
    pub count: usize,
    /// For each register of 32 bits the number that it is watched by.
    numbers: Vec<u32>,
    /// For each instruction, where its list begins; one more at the end.
    starts: Vec<u32>,
    /// The watched registers that instructions other than `wgmma` access.
    lists: Vec<u32>,
}

/// The registers that a product takes its first factor from.
pub(crate) fn first_factor(product: &Wgmma) -> &[Reg] {
    match &product.a {
        FirstFactor::Registers(registers) => registers,
        FirstFactor::Descriptor(_) => &[],
    }
}

impl Watched {
    pub fn new(code: &[Inst], registers: u32) -> Watched {
        let mut watched = Watched::default();
        let products = || {
            code.iter().filter_map(|inst| match &inst.op {
                Op::Wgmma(product) => Some(product),
                _ => None,
            })
        };
        if products().next().is_none() {
            return watched;
        }
        watched.numbers = vec![NONE; registers as usize];
        for reg in products().flat_map(|p| p.d.iter().chain(first_factor(p))) {
            let number = &mut watched.numbers[reg.index as usize];
            if *number == NONE {
                *number = watched.count as u32;
                watched.count += 1;
            }
        }
        for inst in code {
            let first = watched.lists.len();
            watched.starts.push(first as u32);
            if matches!(inst.op, Op::Wgmma(_)) {
                continue;
            }
            let (numbers, lists) = (&watched.numbers, &mut watched.lists);
            let mut note = |reg: Reg| {
                let number = if reg.file == File::B32 { numbers[reg.index as usize] } else { NONE };
                if number != NONE && !lists[first..].contains(&number) {
                    lists.push(number);
                }
            };
            destinations(&inst.op, &mut note);
            sources(&mut inst.op.clone(), &mut |src| {
                if let Src::Reg(reg) = *src {
                    note(reg);
                }
            });
        }
        watched.starts.push(watched.lists.len() as u32);
        watched
    }

    /// The number that a register of a product is watched by.
    pub fn number(&self, reg: Reg) -> usize {
        self.numbers[reg.index as usize] as usize
    }

    /// The watched registers that an instruction accesses.
    #[inline]
    pub fn accessed(&self, pc: u32) -> &[u32] {
        match self.starts.get(pc as usize..pc as usize + 2) {
            Some(&[from, to]) => &self.lists[from as usize..to as usize],
            _ => &[],
        }
    }
}

/// Calls `f` for each register that takes a result.
fn destinations(op: &Op, f: &mut dyn FnMut(Reg)) {
    match op {
        Op::Mov { dst, .. }
        | Op::Pack { dst, .. }
        | Op::Unary { dst, .. }
        | Op::Binary { dst, .. }
        | Op::Ternary { dst, .. }
        | Op::Bfi { dst, .. }
        | Op::Set { dst, .. }
        | Op::Selp { dst, .. }
        | Op::Cvt { dst, .. }
        | Op::CvtPack { dst, .. }
        | Op::Cvta { dst, .. }
        | Op::IsSpace { dst, .. }
        | Op::BarRed { dst, .. }
        | Op::Vote { dst, .. }
        | Op::Activemask { dst }
        | Op::MatchAny { dst, .. }
        | Op::Redux { dst, .. } => f(*dst),
        Op::Unpack { parts: list, .. } | Op::Ld { dst: list, .. } => {
            list.iter().flatten().for_each(|reg| f(*reg))
        }
        Op::Setp { dst, other, .. } => dst.iter().chain(other).for_each(|reg| f(*reg)),
        Op::Atom { dst, .. } => dst.iter().for_each(|reg| f(*reg)),
        Op::Shfl { dst, valid, .. } => Some(dst).into_iter().chain(valid).for_each(|reg| f(*reg)),
        Op::LdMatrix { dst, .. } => dst.iter().for_each(|reg| f(*reg)),
        // Its sources are registers, not operands that `sources` would give.
        Op::StMatrix { src, .. } => src.iter().for_each(|reg| f(*reg)),
        Op::Mma { d, .. } => d.iter().for_each(|reg| f(*reg)),
        Op::Wgmma(product) => product.d.iter().for_each(|reg| f(*reg)),
        Op::St { .. }
        | Op::Fence
        | Op::ProxyFence
        | Op::Bra { .. }
        | Op::Brx { .. }
        | Op::BarSync { .. }
        | Op::BarArrive { .. }
        | Op::BarWarp { .. }
        | Op::CpAsync { .. }
        | Op::CpAsyncCommit
        | Op::CpAsyncWait { .. }
        | Op::CpAsyncWaitAll
        | Op::WgmmaFence
        | Op::WgmmaCommit
        | Op::WgmmaWait { .. }
        | Op::Nop
        | Op::Ret
        | Op::Exit
        | Op::Trap => {}
    }
}
