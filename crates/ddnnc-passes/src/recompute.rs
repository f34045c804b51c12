//! Memory for time: values that are cheap to compute again are computed again before their late readers, not kept.

use crate::cheap_part::{Part, cheap_results};
use crate::liveness::{Life, Liveness};
use crate::rebuild::Rebuild;
use crate::{dead_code, schedule};
use ddnnc_ir::{Graph, GroupKind, IrError, NodeId, Op, Origin, Value, is_update};
use rustc_hash::FxHashMap;
use smallvec::SmallVec;
use std::collections::BinaryHeap;

/// All copies together move at most this share of the bytes that the step moves.
const TRAFFIC_SHARE: f64 = 0.10;
/// A value with a reader this many places after the one before is kept in between.
const NEAR: usize = 4;
/// Values smaller than the largest by this factor are kept.
const SMALL: usize = 256;
/// How often a copy that did not help is tried again after others did.
const ROUNDS: usize = 4;
/// The longest run of values that are made again from one another.
const LONGEST_RUN: usize = 64;

/// Computes values again just before their late readers where that lowers the most memory that is in use at once.
///
/// The order is [`schedule`]'s; from the lives of the values in it follows the peak. Of the values that live across the
/// peak and are not read near it, the one that frees most bytes for the least traffic is made again before its first
/// late reader, and so on until the peak no longer falls or the copies move 10 % of the step's bytes. Made again are
/// results of elementwise operators and of elementwise groups (a group's copy holds only the steps that the late
/// readers need), none with an exponential, a random number or a reduction in it. An operand of a copy that is gone by
/// then is made again too where it is cheap, and else kept for longer. Outputs, and what is stored, stay as they are.
///
/// A copy waits, by an order edge, for what its reader waits for last, and whatever waits for the original to have read
/// a parameter waits for the copy too. Such waiting copies count as spent when the pass runs again: a second run copies
/// more only where the peak falls further within the same 10 %. The pass must come after the last `share_prefixes`,
/// which would merge a copy with its original where both have the same operands and wait for the same.
pub fn recompute(graph: &mut Graph) -> Result<(), IrError> {
    let order = schedule(graph)?;
    let mut plan = Plan::new(Liveness::new(graph, &order));
    let before = plan.live.peak().0;
    plan.run();
    if plan.live.peak().0 >= before {
        return Ok(());
    }
    let mut new = plan.rebuild()?;
    dead_code(&mut new)?;
    let order = schedule(&new)?;
    if Liveness::new(&new, &order).peak().0 < before {
        *graph = new;
    }
    Ok(())
}

/// A node that is run again: before which place, and for which results.
#[derive(Clone, Debug)]
struct Copy {
    place: usize,
    results: SmallVec<[u16; 2]>,
    operands: Vec<Value>,
}

/// A node that could be run again before a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    /// Bytes freed per byte moved, in 1/65536, as far as known.
    ratio: u64,
    /// Of equal ones, the first in the order.
    first: std::cmp::Reverse<usize>,
    place: usize,
    node: NodeId,
    tries: u8,
}

/// What one change did, to undo it.
#[derive(Default)]
struct Journal {
    lives: Vec<(Value, Life)>,
    copies: Vec<(NodeId, Option<Copy>)>,
    spent: u64,
}

struct Plan<'g> {
    live: Liveness<'g>,
    copies: Vec<Option<Copy>>,
    /// Candidates by the stretches of places that they free: a segment tree, each node with the candidates that free
    /// all places below it.
    stretches: Vec<BinaryHeap<Candidate>>,
    size: usize,
    spent: u64,
    budget: u64,
    /// Values of fewer bytes are kept.
    small: usize,
    /// Values that an operator of its own normalises, by number: they must be those of which its statistics are.
    normalized: Vec<bool>,
    journal: Journal,
}

impl<'g> Plan<'g> {
    fn new(live: Liveness<'g>) -> Plan<'g> {
        let graph = live.graph;
        let size = live.order.len().max(1).next_power_of_two();
        let values = live.order.iter().flat_map(|&id| graph.results(id));
        let small = (values.map(|v| live.life(v).bytes).max().unwrap_or(0) / SMALL).max(1);
        let mut plan = Plan {
            copies: vec![None; graph.index_bound()],
            stretches: vec![BinaryHeap::new(); 2 * size],
            size,
            spent: 0,
            budget: 0,
            small,
            normalized: vec![false; live.aliases.len()],
            journal: Journal::default(),
            live,
        };
        let mut traffic = 0;
        for &id in plan.live.order {
            if let Op::Normalize { batch_stats: true, .. } = graph.node(id).op
                && let Some(&x) = graph.operands(id).first()
            {
                let index = plan.live.aliases.index(plan.live.aliases.root(x));
                plan.normalized[index] = true;
            }
        }
        for &id in plan.live.order {
            let node = graph.node(id);
            let named = node.op.is_source() && !matches!(node.op, Op::Constant { .. });
            if named || node.op.is_sink() || node.op.is_alias() {
                continue;
            }
            let operands: u64 = graph.operands(id).iter().map(|&v| graph.ty(v).bytes() as u64).sum();
            traffic += operands + node.results.iter().map(|ty| ty.bytes() as u64).sum::<u64>();
            let cheap = cheap_results(graph, id);
            if cheap.is_empty() {
                continue;
            }
            if graph.order_predecessors(id).is_empty() {
                plan.add_candidates(id, &cheap);
            } else {
                plan.spent += Part::new(graph, id, &cheap).cost;
            }
        }
        plan.budget = (traffic as f64 * TRAFFIC_SHARE) as u64;
        plan
    }

    fn add_candidates(&mut self, id: NodeId, cheap: &[u16]) {
        let large = |r: &u16| {
            let life = self.live.life(Value { node: id, result: *r });
            life.bytes >= self.small && !life.pinned
        };
        let results: Vec<u16> = cheap.iter().copied().filter(large).collect();
        let readers = |r: &u16| self.live.life(Value { node: id, result: *r }).early.readers.clone();
        let mut places: Vec<usize> = results.iter().flat_map(readers).collect();
        places.sort_unstable();
        places.dedup();
        for pair in places.windows(2) {
            let (from, to) = (pair[0], pair[1]);
            if to - from <= NEAR {
                continue;
            }
            let late = self.late_results(id, &results, to);
            if late.is_empty() {
                continue;
            }
            let freed: usize =
                late.iter().map(|&r| self.live.life(Value { node: id, result: r }).bytes).sum();
            let cost = Part::new(self.live.graph, id, &late).cost;
            let first = std::cmp::Reverse(self.live.place[id.index()]);
            let candidate =
                Candidate { ratio: ratio(freed as i64, cost), first, place: to, node: id, tries: 0 };
            let (mut lo, mut hi) = (from + 1 + self.size, to + self.size);
            while lo < hi {
                if lo % 2 == 1 {
                    self.stretches[lo].push(candidate);
                    lo += 1;
                }
                if hi % 2 == 1 {
                    hi -= 1;
                    self.stretches[hi].push(candidate);
                }
                (lo, hi) = (lo / 2, hi / 2);
            }
        }
    }

    /// The results that have readers both before a place and from there on.
    fn late_results(&self, id: NodeId, results: &[u16], place: usize) -> SmallVec<[u16; 2]> {
        let both = |r: &u16| {
            let life = self.live.life(Value { node: id, result: *r });
            let readers = &life.early.readers;
            !life.pinned
                && life.late.is_none()
                && life.bytes >= self.small
                && !self.normalized[self.live.aliases.index(Value { node: id, result: *r })]
                && readers.first().is_some_and(|&f| f < place)
                && readers.last().is_some_and(|&l| l >= place)
        };
        results.iter().copied().filter(both).collect()
    }

    /// Takes up copies until the peak no longer falls; the last that did not lower it are undone.
    fn run(&mut self) {
        let mut lowest = self.live.peak().0;
        let mut since: Vec<Journal> = Vec::new();
        let mut parked: Vec<(usize, Candidate)> = Vec::new();
        let (mut rounds, mut helped) = (0, false);
        loop {
            if let Some(journal) = self.take_best(&mut parked) {
                helped = true;
                since.push(journal);
                if self.live.peak().0 < lowest {
                    lowest = self.live.peak().0;
                    since.clear();
                }
            } else if helped && rounds < ROUNDS {
                (rounds, helped) = (rounds + 1, false);
                for (node, candidate) in parked.drain(..) {
                    self.stretches[node].push(Candidate { tries: 0, ..candidate });
                }
            } else {
                break;
            }
        }
        for journal in since.into_iter().rev() {
            self.undo(journal);
        }
    }

    /// Takes up the best copy that frees memory at the peak; those that would not help are parked.
    fn take_best(&mut self, parked: &mut Vec<(usize, Candidate)>) -> Option<Journal> {
        let place = self.live.first_peak();
        loop {
            let path =
                std::iter::successors(Some(place + self.size), |&i| Some(i / 2)).take_while(|&i| i > 0);
            let at = path.max_by_key(|&i| self.stretches[i].peek().copied())?;
            let candidate = self.stretches[at].pop()?;
            if self.copies[candidate.node.index()].is_some() {
                continue;
            }
            let (peak, level) = (self.live.peak(), self.live.level(place));
            let done = self.attempt(candidate);
            let journal = std::mem::take(&mut self.journal);
            let freed = level - self.live.level(place);
            let true_ratio = ratio(freed, journal.spent);
            let helps = done && freed > 0 && self.live.peak() < peak && self.spent <= self.budget;
            if helps && (true_ratio >= candidate.ratio || candidate.tries > 3) {
                return Some(journal);
            }
            self.undo(journal);
            if helps {
                let tries = candidate.tries + 1;
                self.stretches[at].push(Candidate { ratio: true_ratio, tries, ..candidate });
            } else {
                parked.push((at, candidate));
            }
        }
    }

    fn attempt(&mut self, candidate: Candidate) -> bool {
        let results = cheap_results(self.live.graph, candidate.node);
        let late = self.late_results(candidate.node, &results, candidate.place);
        !late.is_empty() && self.copy(candidate.node, late, candidate.place, 0)
    }

    /// Runs a node again before a place, for the readers of some results from there on.
    fn copy(&mut self, id: NodeId, results: SmallVec<[u16; 2]>, place: usize, run: usize) -> bool {
        if run > LONGEST_RUN || self.copies[id.index()].is_some() || !self.may_read_at(id, place) {
            return false;
        }
        let part = Part::new(self.live.graph, id, &results);
        self.spent += part.cost;
        self.journal.spent += part.cost;
        for &r in &results {
            let value = Value { node: id, result: r };
            if self.normalized[self.live.aliases.index(value)] {
                return false;
            }
            self.change(value, |life| life.split(place));
        }
        let copy = Copy { place, results, operands: part.operands.clone() };
        self.set_copy(id, Some(copy));
        part.operands.into_iter().all(|v| self.need(v, place, run + 1))
    }

    /// Whether what changes the parameters that a node reads comes no earlier than a place.
    fn may_read_at(&self, id: NodeId, place: usize) -> bool {
        let graph = self.live.graph;
        graph.order_predecessors(id).is_empty()
            && writers_after(graph, id).iter().all(|w| self.live.place[w.index()] >= place)
    }

    /// Sees to it that a value is there at a place for a copy.
    fn need(&mut self, value: Value, place: usize, run: usize) -> bool {
        let value = self.live.aliases.root(value);
        let life = self.live.life(value);
        if life.bytes == 0 || life.pinned {
            return true;
        }
        let made_late = life.late.as_ref().map(|late| late.birth);
        let there = made_late.is_some_and(|birth| birth <= place) || place <= life.early.death();
        let known = self.copies[value.node.index()].is_some();
        let large = life.bytes >= self.small;
        if !there && made_late.is_some() {
            if run > LONGEST_RUN || !self.move_copy(value.node, place, run) {
                return false;
            }
        } else if !there
            && !known
            && large
            && cheap_results(self.live.graph, value.node).contains(&value.result)
        {
            let results = SmallVec::from_slice(&[value.result]);
            if !self.copy(value.node, results, place, run) {
                return false;
            }
        }
        self.change(value, |life| life.span_at(place).insert(place));
        true
    }

    /// Lets a copy run earlier.
    fn move_copy(&mut self, id: NodeId, place: usize, run: usize) -> bool {
        let Some(copy) = self.copies[id.index()].clone() else { return false };
        for &r in &copy.results {
            self.change(Value { node: id, result: r }, |life| life.split(place));
        }
        self.set_copy(id, Some(Copy { place, ..copy.clone() }));
        copy.operands.into_iter().all(|v| {
            let root = self.live.aliases.root(v);
            self.change(root, |life| life.forget(copy.place));
            self.need(root, place, run + 1)
        })
    }

    fn change(&mut self, value: Value, how: impl FnOnce(&mut Life)) {
        self.journal.lives.push((value, self.live.life(value).clone()));
        how(self.live.life_mut(value));
        self.live.refresh(value);
    }

    fn set_copy(&mut self, id: NodeId, copy: Option<Copy>) {
        let old = std::mem::replace(&mut self.copies[id.index()], copy);
        self.journal.copies.push((id, old));
    }

    fn undo(&mut self, journal: Journal) {
        let changed: Vec<Value> = journal.lives.iter().map(|(value, _)| *value).collect();
        for (value, life) in journal.lives.into_iter().rev() {
            *self.live.life_mut(value) = life;
        }
        for value in changed {
            self.live.refresh(value);
        }
        for (id, copy) in journal.copies.into_iter().rev() {
            self.copies[id.index()] = copy;
        }
        self.spent -= journal.spent;
    }

    /// The graph in the order of its nodes, with the copies where they run.
    fn rebuild(&self) -> Result<Graph, IrError> {
        let (graph, order) = (self.live.graph, self.live.order);
        let mut at: Vec<Vec<NodeId>> = vec![Vec::new(); order.len()];
        for &id in order {
            if let Some(copy) = &self.copies[id.index()] {
                at[copy.place].push(id);
            }
        }
        let mut rb = Rebuild::new(graph);
        let mut again = Again { plan: self, values: FxHashMap::default() };
        // (copy, its original, whose reader it runs for).
        let mut made: Vec<(NodeId, NodeId, NodeId)> = Vec::new();
        let mut nodes: Vec<Option<NodeId>> = vec![None; graph.index_bound()];
        for (place, &id) in order.iter().enumerate() {
            for &original in &at[place] {
                let Some(copy) = &self.copies[original.index()] else { continue };
                let part = Part::new(graph, original, &copy.results);
                let operands = again.all(&mut rb, &part.operands, place)?;
                let origin = graph.node(original).origin.clone();
                let node = rb.add(part.op, &operands, origin)?;
                for (i, &r) in copy.results.iter().enumerate() {
                    let old = Value { node: original, result: r };
                    again.values.insert(old, Value { node, result: i as u16 });
                }
                made.push((node, original, id));
            }
            let node = graph.node(id);
            let operands = graph.operands(id);
            let late = |&v: &Value| again.is_late(v, place);
            let new = if node.op.is_source() || !operands.iter().any(late) {
                rb.copy(id)?
            } else {
                let operands = again.all(&mut rb, &operands, place)?;
                let new = rb.add(node.op.clone(), &operands, node.origin.clone())?;
                for old in graph.results(id) {
                    rb.set_value(old, Value { node: new, result: old.result });
                }
                rb.set_node(id, new);
                new
            };
            nodes[id.index()] = Some(new);
        }
        let mut new = rb.finish();
        for (copy, original, reader) in made {
            if let Some(before) = self.anchor(original, reader).and_then(|n| nodes[n.index()]) {
                new.add_order(before, copy);
            }
            for writer in writers_after(graph, original) {
                if let Some(writer) = nodes[writer.index()] {
                    new.add_order(copy, writer);
                }
            }
        }
        Ok(new)
    }

    /// What a copy waits for, so that no order runs it early: the last that its reader waits for, apart from what the
    /// copy itself makes.
    fn anchor(&self, original: NodeId, reader: NodeId) -> Option<NodeId> {
        let place = |n: &NodeId| self.live.place[n.index()];
        let graph = self.live.graph;
        let waits = graph.predecessors(reader).into_iter().filter(|n| !graph.node(*n).op.is_source());
        let last = waits.max_by_key(place).filter(|n| place(n) > place(&original));
        last.or_else(|| {
            let before = self.live.order[..self.live.place[reader.index()]].iter().rev().copied();
            before.into_iter().find(|n| !graph.node(*n).op.is_source() && !graph.node(*n).op.is_sink())
        })
    }
}

/// What must come after a node because the node reads a parameter or state that it changes.
fn writers_after(graph: &Graph, id: NodeId) -> Vec<NodeId> {
    let writes = |op: &Op| match op {
        Op::Fused(group) => group.kind == GroupKind::Update,
        op => is_update(op) || matches!(op, Op::Store { .. }),
    };
    let ordered = |after: &NodeId| {
        graph.order_predecessors(*after).binary_search(&id).is_ok() || writes(&graph.node(*after).op)
    };
    graph.successors(id).into_iter().filter(ordered).collect()
}

/// Freed bytes per byte moved, in 1/65536.
fn ratio(freed: i64, cost: u64) -> u64 {
    (freed.max(0) as u64).saturating_mul(1 << 16) / cost.max(1)
}

/// The values of copies, and names for their memory.
struct Again<'p, 'g> {
    plan: &'p Plan<'g>,
    values: FxHashMap<Value, Value>,
}

impl Again<'_, '_> {
    /// Whether a reader at a place takes a value from a copy.
    fn is_late(&self, value: Value, place: usize) -> bool {
        self.plan.live.life(value).late.as_ref().is_some_and(|late| late.birth <= place)
    }

    fn all(&mut self, rb: &mut Rebuild, old: &[Value], place: usize) -> Result<Vec<Value>, IrError> {
        old.iter().map(|&v| self.value(rb, v, place)).collect()
    }

    /// The new value of an old one for a reader at a place.
    fn value(&mut self, rb: &mut Rebuild, old: Value, place: usize) -> Result<Value, IrError> {
        if !self.is_late(old, place) {
            return rb.value(old);
        }
        if let Some(&new) = self.values.get(&old) {
            return Ok(new);
        }
        // A name for the copy's memory in place of a name for the original's.
        let node = rb.old.node(old.node).clone();
        let [operand] = rb.old.operands(old.node)[..] else { return Err(IrError::Cycle) };
        let operand = self.value(rb, operand, place)?;
        let new = rb.add(node.op, &[operand], Origin { ..node.origin })?;
        let new = Value { node: new, result: old.result };
        self.values.insert(old, new);
        Ok(new)
    }
}
