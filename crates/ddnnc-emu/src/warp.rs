//! A warp: its lanes' registers and program counters, and the loop that executes instructions.
//!
//! Lanes that stand at one instruction execute it together. Where they part, the ones at the lowest program counter go
//! first, and groups that meet are one again; compilers lay code out so that this joins them soonest. An instruction of
//! several lanes (a shuffle, a matrix product, a barrier) needs all lanes that it names at that very instruction: those
//! that come first are parked there until the others arrive.

use crate::accumulators::Accumulators;
use crate::alu;
use crate::block::{Arrival, Scene};
use crate::copies::Copies;
use crate::fault::{FaultKind, Problem, problem};
use crate::inst::{Inst, Op};
use crate::program::Program;
use crate::registers::{Context, LANES, Registers};
use crate::warpgroup::Products;

/// Lanes at one place.
#[derive(Clone, Copy)]
struct Group {
    pc: u32,
    mask: u32,
}

/// Why a warp stops running.
pub(crate) enum Stop {
    /// All its lanes have exited.
    Finished,
    /// It arrived at a barrier of the block; whether it may go on at once, the arrival says.
    Barrier(Arrival),
    /// It has executed as many instructions as it was given.
    Quota,
}

/// One warp of a block.
pub(crate) struct Warp<'a> {
    /// Its number in the block.
    pub index: u32,
    pub registers: Registers,
    pub context: Context<'a>,
    /// Where the active lanes stand; past the code's end where there are none.
    pub pc: u32,
    /// The lanes that execute together now.
    pub active: u32,
    /// Lanes that could run, elsewhere. No two groups have the same place.
    others: Vec<Group>,
    /// The lowest place in `others`; `u32::MAX` if there are none.
    next_other: u32,
    /// Lanes that wait for others of their warp.
    parked: Vec<Group>,
    /// Attempts in a row that only parked lanes again.
    parks: usize,
    /// Lanes that exist and have not exited.
    pub live: u32,
    /// Lanes that exist: the last warp of a block may have fewer than 32.
    pub existing: u32,
    /// The allocation that was accessed last.
    pub hint: usize,
    pub copies: Copies,
    pub products: Products,
    pub accumulators: Accumulators,
    /// Local memory, one stretch per lane.
    pub local: Vec<u64>,
}

impl<'a> Warp<'a> {
    /// A warp of a program; [`Warp::reset`] makes it ready for a block.
    pub fn new(index: u32, threads: u32, program: &Program, context: Context<'a>) -> Warp<'a> {
        let existing = if threads >= 32 { u32::MAX } else { (1 << threads) - 1 };
        Warp {
            index,
            registers: Registers::new(program.registers),
            context,
            pc: 0,
            active: existing,
            others: Vec::new(),
            next_other: u32::MAX,
            parked: Vec::new(),
            parks: 0,
            live: existing,
            existing,
            hint: 0,
            copies: Copies::default(),
            products: Products::default(),
            accumulators: Accumulators::default(),
            local: vec![crate::memory::POISON; (program.local_bytes / 8) as usize * LANES],
        }
    }

    /// Begins a block.
    pub fn reset(&mut self, ctaid: [u32; 3], sm: u32, watched: usize) {
        self.registers.reset();
        self.context.ctaid = ctaid;
        self.context.sm[0] = sm;
        self.context.clock = 0;
        self.pc = 0;
        self.active = self.existing;
        self.live = self.existing;
        self.others.clear();
        self.next_other = u32::MAX;
        self.parked.clear();
        self.parks = 0;
        self.copies.reset();
        self.products.reset();
        self.accumulators.reset(watched);
        self.local.fill(crate::memory::POISON);
    }

    /// The number in the block of a lane's thread.
    pub fn thread(&self, lane: u32) -> u32 {
        self.index * LANES as u32 + lane
    }

    /// Executes until something stops it, at most `quota` instructions.
    pub fn run(&mut self, scene: &mut Scene<'_>, quota: u64) -> Result<Stop, Box<Problem>> {
        let launch = scene.launch;
        let code: &[Inst] = &launch.program.code;
        let fuel = launch.options.fuel.saturating_sub(self.context.clock);
        let end = self.context.clock + quota.min(fuel);
        loop {
            if self.pc >= self.next_other.min(code.len() as u32) && self.switch(code)? {
                return Ok(Stop::Finished);
            }
            if self.context.clock >= end {
                if self.context.clock >= launch.options.fuel {
                    return problem(
                        FaultKind::Trap,
                        self.active.trailing_zeros(),
                        format!(
                            "the warp has executed {} instructions, all it was given: it hangs, or waits for \
                             something that another thread block or another lane would have to do meanwhile",
                            launch.options.fuel
                        ),
                    );
                }
                return Ok(Stop::Quota);
            }
            let inst = &code[self.pc as usize];
            let mask = match inst.guard {
                None => self.active,
                Some((reg, false)) => self.active & self.registers.predicate(reg),
                Some((reg, true)) => self.active & !self.registers.predicate(reg),
            };
            self.context.clock += 1;
            scene.report.warp_instructions += 1;
            scene.report.thread_instructions += u64::from(mask.count_ones());
            if mask == 0 {
                self.pc += 1;
                continue;
            }
            let watched = launch.program.watched.accessed(self.pc);
            if !watched.is_empty() {
                self.touch(scene, mask, watched)?;
            }
            match &inst.op {
                Op::Bra { target } => {
                    self.branch(mask, *target);
                    continue;
                }
                Op::Brx { index, targets } => {
                    let index = self.registers.source32(index, &self.context);
                    self.branch_indexed(mask, &index, targets)?;
                    continue;
                }
                Op::Ret | Op::Exit => {
                    self.exit(mask);
                    continue;
                }
                Op::Trap => {
                    return problem(FaultKind::Trap, mask.trailing_zeros(), "a trap instruction".to_owned());
                }
                Op::Ld { space, ty, dst, address, .. } => {
                    self.load(scene, mask, *space, *ty, dst, address)?
                }
                Op::St { space, ty, src, address, .. } => {
                    self.store(scene, mask, *space, *ty, src, address)?
                }
                Op::Atom { .. } => self.atomic(scene, mask, &inst.op)?,
                Op::Cvta { space, to_generic, dst, src } => {
                    self.convert_address(mask, *space, *to_generic, *dst, src)?;
                }
                Op::IsSpace { space, dst, src } => {
                    self.is_space(mask, *space, *dst, src);
                }
                Op::CpAsync { .. } => self.copy_async(scene, mask, &inst.op)?,
                Op::CpAsyncCommit => self.copies.commit(mask),
                Op::CpAsyncWait { pending } => self.copies_wait(scene, mask, Some(*pending)),
                Op::CpAsyncWaitAll => self.copies_wait(scene, mask, None),
                Op::Fence | Op::Nop => {}
                Op::ProxyFence => scene.clocks.proxy_fence(self.index, mask),
                Op::Activemask { dst } => {
                    self.registers.put32(*dst, &[mask; LANES], mask);
                }
                Op::BarSync { .. } | Op::BarArrive { .. } | Op::BarRed { .. } => {
                    if let Some(arrival) = self.barrier(scene, mask, &inst.op)? {
                        return Ok(Stop::Barrier(arrival));
                    }
                    continue;
                }
                Op::BarWarp { .. }
                | Op::Shfl { .. }
                | Op::Vote { .. }
                | Op::MatchAny { .. }
                | Op::Redux { .. }
                | Op::LdMatrix { .. }
                | Op::StMatrix { .. }
                | Op::Mma { .. }
                | Op::Wgmma(_)
                | Op::WgmmaFence
                | Op::WgmmaCommit
                | Op::WgmmaWait { .. } => {
                    self.collective(scene, mask, &inst.op)?;
                    continue;
                }
                op => {
                    if !alu::execute(op, &mut self.registers, mask, &self.context) {
                        let message = format!("the emulator does not execute {op:?}");
                        return problem(FaultKind::Trap, mask.trailing_zeros(), message);
                    }
                }
            }
            self.pc += 1;
        }
    }

    /// Makes the lanes at the lowest place the active ones. True if none are left.
    #[cold]
    fn switch(&mut self, code: &[Inst]) -> Result<bool, Box<Problem>> {
        if self.active != 0 {
            let (pc, mask) = (self.pc, self.active);
            self.push_other(pc, mask);
        }
        if let Some(at) = self.others.iter().position(|g| g.pc == self.next_other) {
            let group = self.others.swap_remove(at);
            self.next_other = self.others.iter().map(|g| g.pc).min().unwrap_or(u32::MAX);
            (self.pc, self.active) = (group.pc, group.mask);
            return Ok(false);
        }
        if self.parked.is_empty() {
            return Ok(true);
        }
        // Only lanes that wait for others are left. Exits may have completed what they wait for, so each group tries
        // once more.
        let group = self.parked.remove(0);
        (self.pc, self.active) = (group.pc, group.mask);
        if self.parks > self.parked.len() + 1 {
            return Err(Box::new(Problem {
                kind: FaultKind::Divergence,
                lane: group.mask.trailing_zeros(),
                message: self.stuck(group, code),
                others: self.parked.iter().map(|other| other.pc).collect(),
            }));
        }
        Ok(false)
    }

    fn stuck(&self, group: Group, code: &[Inst]) -> String {
        let mut text =
            format!("lanes {:#010x} wait here for lanes of their warp that never come", group.mask);
        for other in &self.parked {
            text += &format!("; lanes {:#010x} wait at line {}", other.mask, code[other.pc as usize].line);
        }
        let exited = self.existing & !self.live;
        if exited != 0 {
            text += &format!("; lanes {exited:#010x} have exited");
        }
        text
    }

    fn push_other(&mut self, pc: u32, mask: u32) {
        match self.others.iter_mut().find(|g| g.pc == pc) {
            Some(group) => group.mask |= mask,
            None => self.others.push(Group { pc, mask }),
        }
        self.next_other = self.next_other.min(pc);
    }

    fn branch(&mut self, taken: u32, target: u32) {
        let stay = self.active & !taken;
        let next = self.pc + 1;
        if stay == 0 {
            self.pc = target;
        } else if target < next {
            self.push_other(next, stay);
            (self.pc, self.active) = (target, taken);
        } else {
            self.push_other(target, taken);
            (self.pc, self.active) = (next, stay);
        }
    }

    fn branch_indexed(
        &mut self,
        mask: u32,
        index: &[u32; LANES],
        targets: &[u32],
    ) -> Result<(), Box<Problem>> {
        let stay = self.active & !mask;
        for lane in (0..LANES as u32).filter(|l| mask >> l & 1 != 0) {
            let Some(target) = targets.get(index[lane as usize] as usize) else {
                let message = format!("jump number {} of a list of {}", index[lane as usize], targets.len());
                return problem(FaultKind::OutOfBounds, lane, message);
            };
            self.push_other(*target, 1 << lane);
        }
        self.active = stay;
        self.pc = if stay == 0 { u32::MAX } else { self.pc + 1 };
        Ok(())
    }

    fn exit(&mut self, mask: u32) {
        self.live &= !mask;
        self.active &= !mask;
        self.pc = if self.active == 0 { u32::MAX } else { self.pc + 1 };
    }

    /// Joins to the active lanes those that are parked at this instruction; gives the lanes that execute it.
    pub fn gather(&mut self, mask: u32) -> u32 {
        let Some(at) = self.parked.iter().position(|g| g.pc == self.pc) else { return mask };
        let group = self.parked.swap_remove(at);
        self.active |= group.mask;
        mask | group.mask
    }

    /// Of the lanes of `mask`, those whose companions are all here. `members` names each lane's companions;
    /// `exited_count` says whether lanes that exited may be named.
    pub fn meet(&self, mask: u32, members: &[u32; LANES], exited_count: bool) -> Result<u32, Box<Problem>> {
        // Most often all lanes are here and name all.
        if mask == u32::MAX && members.iter().fold(u32::MAX, |all, m| all & m) == u32::MAX {
            return Ok(mask);
        }
        let (mut ready, mut rest) = (0, mask);
        while rest != 0 {
            let lane = rest.trailing_zeros();
            let member = members[lane as usize];
            let group = (0..LANES)
                .filter(|l| rest >> l & 1 != 0 && members[*l] == member)
                .fold(0, |group, l| group | 1 << l);
            rest &= !group;
            if group & !member != 0 {
                let lane = (group & !member).trailing_zeros();
                let message = format!("lane {lane} executes it and is not in its own mask {member:#010x}");
                return problem(FaultKind::Divergence, lane, message);
            }
            let exited = member & self.existing & !self.live;
            if exited != 0 && !exited_count {
                let message =
                    format!("its mask {member:#010x} names lanes {exited:#010x}, which have exited");
                return problem(FaultKind::Divergence, lane, message);
            }
            if group == member & self.live {
                ready |= group;
            }
        }
        Ok(ready)
    }

    /// Ends an instruction of several lanes: the lanes of `waiting` are parked at it, the other active ones go on.
    pub fn proceed(&mut self, waiting: u32) {
        if waiting != 0 {
            let pc = self.pc;
            match self.parked.iter_mut().find(|g| g.pc == pc) {
                Some(group) => group.mask |= waiting,
                None => self.parked.push(Group { pc, mask: waiting }),
            }
            self.active &= !waiting;
        }
        if self.active == 0 {
            self.parks += 1;
            self.pc = u32::MAX;
        } else {
            self.parks = 0;
            self.pc += 1;
        }
    }
}
