//! Instructions of several lanes: shuffles, votes, reductions, matrix loads and products, barriers of a warp.

use crate::block::{Arrival, ArrivalKind, Scene};
use crate::clocks::WARPS;
use crate::fault::{FaultKind, Problem, problem};
use crate::inst::{Atomic, Op, Shuffle, Src, Type, Vote};
use crate::matrix;
use crate::registers::LANES;
use crate::warp::Warp;

/// The lanes of a mask, lowest first.
pub(crate) fn lanes(mask: u32) -> impl Iterator<Item = u32> {
    (0..LANES as u32).filter(move |lane| mask >> lane & 1 != 0)
}

impl Warp<'_> {
    /// Executes such an instruction for the lanes that have all their companions here; the others wait.
    pub fn collective(&mut self, scene: &mut Scene<'_>, mask: u32, op: &Op) -> Result<(), Box<Problem>> {
        let mask = self.gather(mask);
        let whole = matches!(
            op,
            Op::LdMatrix { .. }
                | Op::StMatrix { .. }
                | Op::Mma { .. }
                | Op::Wgmma(_)
                | Op::WgmmaFence
                | Op::WgmmaCommit
                | Op::WgmmaWait { .. }
        );
        let members = match op {
            Op::BarWarp { mask: m }
            | Op::Shfl { mask: m, .. }
            | Op::Vote { mask: m, .. }
            | Op::MatchAny { mask: m, .. }
            | Op::Redux { mask: m, .. } => self.registers.source32(m, &self.context),
            _ => [u32::MAX; LANES],
        };
        if whole && self.existing != u32::MAX {
            let message = format!("an instruction of 32 lanes in a warp of {}", self.existing.count_ones());
            return problem(FaultKind::Divergence, mask.trailing_zeros(), message);
        }
        // `__syncwarp()` behind an early return names lanes that exited, and waits for the others.
        let ready = self.meet(mask, &members, matches!(op, Op::BarWarp { .. }))?;
        if ready != 0 {
            match op {
                Op::BarWarp { .. } => {
                    for_groups(ready, &members, |_, group| {
                        scene.clocks.warp_sync(self.index, group, self.live);
                    });
                }
                Op::Shfl { .. } => self.shuffle(ready, &members, op)?,
                Op::Vote { mode, dst, predicate, negate, .. } => {
                    let yes = self.registers.condition(predicate, *negate);
                    let mut result = [0; LANES];
                    for_groups(ready, &members, |_, group| {
                        let (some, all) = (yes & group != 0, yes & group == group);
                        let value = match mode {
                            Vote::All => u32::from(all),
                            Vote::Any => u32::from(some),
                            Vote::Uni => u32::from(all || !some),
                            Vote::Ballot => yes & group,
                        };
                        lanes(group).for_each(|lane| result[lane as usize] = value);
                    });
                    self.registers.put32(*dst, &result, ready);
                }
                Op::MatchAny { dst, src, ty, .. } => {
                    let wide = matches!(ty, Type::B64 | Type::U64 | Type::S64);
                    let values = self.registers.source64(src, &self.context);
                    let values = values.map(|v| if wide { v } else { u64::from(v as u32) });
                    let mut result = [0; LANES];
                    for_groups(ready, &members, |_, group| {
                        for lane in lanes(group) {
                            let same = |l: &u32| values[*l as usize] == values[lane as usize];
                            result[lane as usize] = lanes(group).filter(same).fold(0, |m, l| m | 1 << l);
                        }
                    });
                    self.registers.put32(*dst, &result, ready);
                }
                Op::Redux { op, ty, dst, src, .. } => {
                    let values = self.registers.source32(src, &self.context);
                    let mut result = [0; LANES];
                    for_groups(ready, &members, |_, group| {
                        let all = lanes(group).map(|lane| values[lane as usize]);
                        let value = all.reduce(|a, b| reduce(*op, *ty, a, b)).unwrap_or(0);
                        lanes(group).for_each(|lane| result[lane as usize] = value);
                    });
                    self.registers.put32(*dst, &result, ready);
                }
                Op::LdMatrix { trans, dst, address } => self.load_matrix(scene, *trans, dst, address)?,
                Op::StMatrix { trans, src, address } => self.store_matrix(scene, *trans, src, address)?,
                Op::Mma { shape, d, a, b, c } => {
                    scene.report.matrix_instructions += 1;
                    matrix::mma(*shape, &mut self.registers, d, a, b, c);
                }
                Op::Wgmma(product) => self.issue(scene, product)?,
                Op::WgmmaFence => {
                    self.in_warpgroup(scene, 0, 0)?;
                    self.accumulators.fence();
                }
                Op::WgmmaCommit => {
                    self.in_warpgroup(scene, 0, 0)?;
                    self.products.commit();
                }
                Op::WgmmaWait { pending } => {
                    self.in_warpgroup(scene, 0, 0)?;
                    self.products_wait(scene, *pending)?;
                }
                _ => {}
            }
        }
        self.proceed(mask & !ready);
        Ok(())
    }

    fn shuffle(&mut self, ready: u32, members: &[u32; LANES], op: &Op) -> Result<(), Box<Problem>> {
        let Op::Shfl { mode, dst, valid, src, lane: b, clamp: c, .. } = op else { return Ok(()) };
        let value = self.registers.source32(src, &self.context);
        let b = self.registers.source32(b, &self.context);
        let c = self.registers.source32(c, &self.context);
        let (mut result, mut inside) = (value, 0u32);
        for lane in lanes(ready) {
            let l = lane as usize;
            let (own, by) = (lane as i32, (b[l] & 31) as i32);
            let (clamp, segment) = ((c[l] & 31) as i32, (c[l] >> 8 & 31) as i32);
            let lowest = own & segment;
            let limit = lowest | clamp & !segment;
            let (from, good) = match mode {
                Shuffle::Up => (own - by, own - by >= limit),
                Shuffle::Down => (own + by, own + by <= limit),
                Shuffle::Bfly => (own ^ by, own ^ by <= limit),
                Shuffle::Idx => {
                    let from = lowest | by & !segment;
                    (from, from <= limit)
                }
            };
            if !good {
                continue;
            }
            inside |= 1 << lane;
            if ready & members[l] & self.existing & 1u32.wrapping_shl(from as u32) == 0 {
                let message = format!(
                    "lane {lane} reads from lane {from}, which does not take part: its mask is {:#010x}, and lanes \
                     {:#010x} are here",
                    members[l], ready
                );
                return problem(FaultKind::Divergence, lane, message);
            }
            result[l] = value[from as usize & 31];
        }
        self.registers.put32(*dst, &result, ready);
        if let Some(valid) = valid {
            let old = &mut self.registers.pred[valid.index as usize];
            *old = *old & !ready | inside & ready;
        }
        Ok(())
    }

    /// Arrival at a barrier of the block, once all lanes of the warp that have not exited are here.
    pub fn barrier(
        &mut self,
        scene: &mut Scene<'_>,
        mask: u32,
        op: &Op,
    ) -> Result<Option<Arrival>, Box<Problem>> {
        let mask = self.gather(mask);
        let ready = self.meet(mask, &[self.live; LANES], true)?;
        if ready == 0 {
            self.proceed(mask);
            return Ok(None);
        }
        let lane = ready.trailing_zeros();
        let (id, threads, kind) = match op {
            Op::BarSync { id, threads } => (id, threads.as_ref(), ArrivalKind::Wait),
            Op::BarArrive { id, threads } => (id, Some(threads), ArrivalKind::Signal),
            Op::BarRed { op, id, predicate, negate, dst } => {
                let yes = self.registers.condition(predicate, *negate) & ready;
                let kind = ArrivalKind::Reduce {
                    op: *op,
                    dst: *dst,
                    yes: yes.count_ones(),
                    threads: ready.count_ones(),
                };
                (id, None, kind)
            }
            _ => return Ok(None),
        };
        let id = self.uniform(id, ready, "barrier number")?;
        let threads = match threads {
            Some(src) => Some(self.uniform(src, ready, "thread count")?),
            None => None,
        };
        if id >= 16 {
            return problem(FaultKind::Deadlock, lane, format!("barrier {id}: there are 16"));
        }
        let most = (scene.launch.threads()).next_multiple_of(LANES as u32);
        if let Some(n) = threads
            && (n == 0 || n % LANES as u32 != 0 || n > most.min((WARPS * LANES) as u32))
        {
            let message = format!(
                "barrier {id} for {n} threads: the count must be a multiple of 32 and at most that of the block, \
                 {most}"
            );
            return problem(FaultKind::Deadlock, lane, message);
        }
        let arrival = Arrival { id, threads, kind, pc: self.pc, lanes: ready };
        self.proceed(mask & !ready);
        Ok(Some(arrival))
    }

    /// An operand that must be the same in all lanes.
    pub fn uniform(&self, src: &Src, mask: u32, what: &str) -> Result<u32, Box<Problem>> {
        let values = self.registers.source32(src, &self.context);
        let first = values[mask.trailing_zeros() as usize & 31];
        match lanes(mask).find(|l| values[*l as usize] != first) {
            None => Ok(first),
            Some(lane) => {
                let message =
                    format!("lanes of one warp give the {what} {first} and {}", values[lane as usize]);
                problem(FaultKind::Divergence, lane, message)
            }
        }
    }
}

/// Calls `f(first lane, lanes)` for each set of lanes that name the same companions.
fn for_groups(ready: u32, members: &[u32; LANES], mut f: impl FnMut(u32, u32)) {
    let mut rest = ready;
    while rest != 0 {
        let lane = rest.trailing_zeros();
        let group = members[lane as usize] & ready;
        f(lane, group);
        rest &= !group;
    }
}

fn reduce(op: Atomic, ty: Type, a: u32, b: u32) -> u32 {
    let signed = ty == Type::S32;
    match op {
        Atomic::Add => a.wrapping_add(b),
        Atomic::Min if signed => (a as i32).min(b as i32) as u32,
        Atomic::Max if signed => (a as i32).max(b as i32) as u32,
        Atomic::Min => a.min(b),
        Atomic::Max => a.max(b),
        Atomic::And => a & b,
        Atomic::Or => a | b,
        // The others are refused when the module is loaded.
        Atomic::Xor | Atomic::Exch | Atomic::Cas | Atomic::Inc | Atomic::Dec => a ^ b,
    }
}
