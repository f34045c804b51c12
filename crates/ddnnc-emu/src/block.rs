//! A thread block: its warps take turns, meet at barriers, and share memory.
//!
//! A barrier without a thread count waits for every thread of the block that has not exited, as the PTX ISA says of
//! `exit`; one with a count waits for that many, warps counted whole. A warp arrives when all its lanes that have not
//! exited stand at the same barrier instruction (`.aligned`).

use std::sync::atomic::AtomicU64;

use crate::access::{thread_at, thread_name};
use crate::agreement::Agreement;
use crate::clocks::{Clocks, Lesson};
use crate::fault::{Fault, FaultKind, Problem};
use crate::inst::{BarReduce, Reg};
use crate::machine::{LaunchReport, Options};
use crate::memory::GlobalMemory;
use crate::order::{Order, Random, mix};
use crate::program::Program;
use crate::registers::{Context, LANES};
use crate::shared::Shared;
use crate::warp::{Stop, Warp};

/// Instructions a warp executes before another one gets its turn even where it does not wait, so that a warp that waits
/// for another one through memory does not do so for ever.
const TURN: u64 = 1 << 20;

/// Most instructions of a turn in a random order.
const RANDOM_TURN: u32 = 64;

/// Most other instructions of a report whose places in the source it shows.
const OTHERS: usize = 4;

/// A launch, as its blocks see it.
pub(crate) struct Launch<'a> {
    pub program: &'a Program,
    pub memory: &'a GlobalMemory,
    pub options: &'a Options,
    pub grid: [u32; 3],
    pub block: [u32; 3],
    /// The parameter block.
    pub params: &'a [AtomicU64],
    pub dynamic_shared: u32,
    pub multiprocessors: u32,
}

impl Launch<'_> {
    /// Threads of a block.
    pub fn threads(&self) -> u32 {
        self.block.iter().product()
    }
}

/// What a warp works on beside its own state.
pub(crate) struct Scene<'a> {
    pub launch: &'a Launch<'a>,
    pub shared: &'a mut Shared,
    pub clocks: &'a mut Clocks,
    /// Of each warpgroup.
    pub agreements: &'a mut [Agreement],
    pub report: &'a mut LaunchReport,
}

/// A warp's arrival at a barrier.
pub(crate) struct Arrival {
    pub id: u32,
    /// How many threads the barrier is for; all that have not exited where `None`.
    pub threads: Option<u32>,
    pub kind: ArrivalKind,
    /// The instruction.
    pub pc: u32,
    /// The warp's lanes.
    pub lanes: u32,
}

/// What a warp does at a barrier.
#[derive(Clone, Copy)]
pub(crate) enum ArrivalKind {
    /// Waits.
    Wait,
    /// Goes on.
    Signal,
    /// Waits, and gets a reduction: `yes` of its `threads` bring a true predicate.
    Reduce { op: BarReduce, dst: Reg, yes: u32, threads: u32 },
}

/// A barrier in one of its phases.
#[derive(Default)]
struct Barrier {
    lesson: Lesson,
    arrived: u32,
    /// Bit per warp that has arrived.
    warps: u32,
    /// What the first arrival said.
    threads: Option<Option<u32>>,
    /// Of the reductions.
    yes: u32,
    /// Of the reductions.
    asked: u32,
}

/// Where a warp stands.
enum State {
    Ready,
    Waiting { id: u32, pc: u32, lanes: u32, result: Option<(BarReduce, Reg)> },
    Finished,
}

/// A block, used again for each block that a thread of the host runs.
pub(crate) struct Block<'a> {
    launch: &'a Launch<'a>,
    warps: Vec<Warp<'a>>,
    states: Vec<State>,
    barriers: [Barrier; 16],
    shared: Shared,
    clocks: Clocks,
    agreements: Vec<Agreement>,
    pub report: LaunchReport,
}

impl<'a> Block<'a> {
    pub fn new(launch: &'a Launch<'a>) -> Block<'a> {
        let threads = launch.threads();
        let count = threads.div_ceil(LANES as u32);
        let shared_bytes = launch.program.static_shared + launch.dynamic_shared;
        let warps = (0..count).map(|w| {
            let first = w * LANES as u32;
            let tid = |d: usize| std::array::from_fn(|lane| thread_at(launch.block, first + lane as u32)[d]);
            let context = Context {
                tid: [tid(0), tid(1), tid(2)],
                ntid: launch.block,
                ctaid: [0; 3],
                nctaid: launch.grid,
                warp: w,
                warps: count,
                sm: [0, launch.multiprocessors],
                shared_bytes: [launch.dynamic_shared, shared_bytes],
                clock: 0,
                variables: &launch.program.variables,
            };
            Warp::new(w, threads - first, launch.program, context)
        });
        Block {
            launch,
            warps: warps.collect(),
            states: Vec::new(),
            barriers: Default::default(),
            shared: Shared::new(shared_bytes, launch.program.granule, launch.options.races),
            clocks: Clocks::new(),
            agreements: Vec::new(),
            report: LaunchReport::default(),
        }
    }

    /// Runs block number `number` of the grid to its end.
    pub fn run(&mut self, number: u64) -> Result<(), Fault> {
        let [gx, gy, _] = self.launch.grid.map(u64::from);
        let ctaid = [number % gx, number / gx % gy, number / (gx * gy)].map(|n| n as u32);
        let sm = (number % u64::from(self.launch.multiprocessors.max(1))) as u32;
        let watched = self.launch.program.watched.count;
        self.warps.iter_mut().for_each(|w| w.reset(ctaid, sm, watched));
        self.agreements.clear();
        self.agreements.resize_with(self.warps.len().div_ceil(4), Agreement::default);
        self.states.clear();
        self.states.resize_with(self.warps.len(), || State::Ready);
        self.barriers = Default::default();
        self.shared.reset();
        self.clocks.reset();
        let mut turns = Turns::new(self.launch.options.order, number);
        while let Some(w) = turns.next(&self.states) {
            let mut scene = Scene {
                launch: self.launch,
                shared: &mut self.shared,
                clocks: &mut self.clocks,
                agreements: &mut self.agreements,
                report: &mut self.report,
            };
            match self.warps[w].run(&mut scene, turns.quota()) {
                Ok(Stop::Quota) => turns.tired = Some(w),
                Ok(Stop::Finished) => {
                    self.states[w] = State::Finished;
                    // The exit may be all that a barrier was waiting for.
                    (0..16).for_each(|id| self.complete(id));
                }
                Ok(Stop::Barrier(arrival)) => {
                    if let Err(p) = self.arrive(w, &arrival) {
                        return Err(self.fault(w, arrival.pc, &p));
                    }
                }
                Err(p) => return Err(self.fault(w, self.warps[w].pc, &p)),
            }
        }
        self.stuck()?;
        self.agreed()
    }

    /// At the end every warp of a warpgroup has executed the same `wgmma` instructions.
    fn agreed(&self) -> Result<(), Fault> {
        for (group, agreement) in self.agreements.iter().enumerate() {
            let Some((warp, step)) = agreement.missing() else { continue };
            let warp = 4 * group + warp as usize;
            let message = format!("warp {warp} has exited without it; all four warps must execute it");
            return Err(self.fault(
                warp,
                step.pc,
                &Problem { kind: FaultKind::Divergence, lane: 0, message, others: Vec::new() },
            ));
        }
        Ok(())
    }

    fn fault(&self, warp: usize, pc: u32, problem: &Problem) -> Fault {
        let warp = &self.warps[warp];
        let program = self.launch.program;
        let others = problem.others.iter().copied().take(OTHERS);
        Fault {
            kind: problem.kind,
            kernel: program.name.clone(),
            line: program.line(pc),
            block: warp.context.ctaid,
            thread: thread_at(self.launch.block, warp.thread(problem.lane & 31)),
            message: problem.message.clone(),
            places: program.places(std::iter::once(pc).chain(others)),
        }
    }

    fn arrive(&mut self, warp: usize, arrival: &Arrival) -> Result<(), Problem> {
        let barrier = &mut self.barriers[arrival.id as usize];
        let expected = *barrier.threads.get_or_insert(arrival.threads);
        if expected != arrival.threads {
            let count = |n: Option<u32>| n.map_or("all".to_owned(), |n| n.to_string());
            return Err(Problem {
                kind: FaultKind::Deadlock,
                lane: arrival.lanes.trailing_zeros(),
                message: format!(
                    "barrier {} for {} threads, for which others wait with {}",
                    arrival.id,
                    count(arrival.threads),
                    count(expected)
                ),
                others: Vec::new(),
            });
        }
        self.clocks.arrive(warp as u32, &mut barrier.lesson);
        barrier.arrived += LANES as u32;
        barrier.warps |= 1 << warp;
        let result = match arrival.kind {
            ArrivalKind::Signal => None,
            ArrivalKind::Wait => Some(None),
            ArrivalKind::Reduce { op, dst, yes, threads } => {
                barrier.yes += yes;
                barrier.asked += threads;
                Some(Some((op, dst)))
            }
        };
        if let Some(result) = result {
            let (id, pc, lanes) = (arrival.id, arrival.pc, arrival.lanes);
            self.states[warp] = State::Waiting { id, pc, lanes, result };
        }
        self.complete(arrival.id);
        Ok(())
    }

    /// Lets the warps at a barrier go on if all it waits for have arrived.
    fn complete(&mut self, id: u32) {
        let barrier = &mut self.barriers[id as usize];
        let done = match barrier.threads {
            None => false,
            Some(Some(n)) => barrier.arrived >= n,
            Some(None) => (self.states.iter().enumerate())
                .all(|(w, s)| matches!(s, State::Finished) || barrier.warps >> w & 1 != 0),
        };
        if !done {
            return;
        }
        let barrier = std::mem::take(barrier);
        for (w, state) in self.states.iter_mut().enumerate() {
            let State::Waiting { id: at, lanes, result, .. } = *state else { continue };
            if at != id {
                continue;
            }
            self.clocks.leave(w as u32, &barrier.lesson);
            if let Some((op, dst)) = result {
                let value = match op {
                    BarReduce::Popc => barrier.yes,
                    BarReduce::And => u32::from(barrier.yes == barrier.asked),
                    BarReduce::Or => u32::from(barrier.yes != 0),
                };
                self.warps[w].registers.put32(dst, &[value; LANES], lanes);
            }
            *state = State::Ready;
        }
    }

    /// No warp can run: well if all have finished, else a deadlock.
    fn stuck(&self) -> Result<(), Fault> {
        let mut first = None;
        let (mut places, mut others): (Vec<String>, Vec<u32>) = Default::default();
        for (w, state) in self.states.iter().enumerate() {
            let State::Waiting { id, pc, lanes, .. } = *state else { continue };
            first.get_or_insert((w, pc, lanes, id));
            let text = format!("waits at barrier {id}, line {}", self.launch.program.line(pc));
            places.push(format!("warp {w} {text}"));
            if !others.contains(&pc) {
                others.push(pc);
            }
        }
        let Some((warp, pc, lanes, id)) = first else { return Ok(()) };
        let finished = self.states.len() - places.len();
        let barrier = &self.barriers[id as usize];
        let expected = match barrier.threads.flatten() {
            Some(n) => format!("{n} threads"),
            None => "all threads that have not exited".to_owned(),
        };
        let lane = lanes.trailing_zeros();
        let message = format!(
            "no warp can go on: barrier {id} is for {expected} and {} have arrived; {}; {finished} of {} warps have \
             exited ({} is the first that waits)",
            barrier.arrived,
            places.join(", "),
            self.states.len(),
            thread_name(self.launch.block, self.warps[warp].thread(lane)),
        );
        Err(self.fault(warp, pc, &Problem { kind: FaultKind::Deadlock, lane, message, others }))
    }
}

/// Which warp of a block runs next, and for how long.
struct Turns {
    order: Order,
    random: Random,
    /// The warp that used up its turn without having to wait.
    tired: Option<usize>,
}

impl Turns {
    fn new(order: Order, block: u64) -> Turns {
        let seed = match order {
            Order::Random(seed) => mix(seed) ^ mix(!block),
            Order::Forward | Order::Reverse => 0,
        };
        Turns { order, random: Random::new(seed), tired: None }
    }

    fn quota(&mut self) -> u64 {
        match self.order {
            Order::Forward | Order::Reverse => TURN,
            Order::Random(_) => u64::from(1 + self.random.below(RANDOM_TURN)),
        }
    }

    /// The ready warp whose turn it is: the first one in the order, but after a turn that was used up the next one
    /// behind it, so that every warp gets its turn.
    fn next(&mut self, states: &[State]) -> Option<usize> {
        let n = states.len();
        let ready = |w: &usize| matches!(states[*w], State::Ready);
        let tired = self.tired.take();
        match self.order {
            Order::Forward => {
                let first = tired.map_or(0, |w| w + 1);
                (first..first + n).map(|w| w % n).find(ready)
            }
            Order::Reverse => {
                let first = tired.map_or(n, |w| w);
                (first..first + n).rev().map(|w| w % n).find(ready)
            }
            Order::Random(_) => {
                let count = (0..n).filter(ready).count() as u32;
                let skip = if count == 0 { 0 } else { self.random.below(count) as usize };
                (0..n).filter(ready).nth(skip)
            }
        }
    }
}
