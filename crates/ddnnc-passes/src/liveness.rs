//! How much memory of the arena is in use at every place of an order of nodes, while values come and go.

use crate::aliases::Aliases;
use crate::program::overwrites;
use ddnnc_ir::{Graph, NodeId, Op, Value};
use smallvec::SmallVec;

/// Bytes by place, with additions to ranges; the peak is known at once.
#[derive(Debug)]
struct Profile {
    /// A power of two, at least the number of places.
    size: usize,
    /// The largest level below a tree node, without what is added above it; and how many places have it.
    peak: Vec<(i64, usize)>,
    /// What is added to everything below a tree node.
    added: Vec<i64>,
}

impl Profile {
    fn new(places: usize) -> Profile {
        let size = places.max(1).next_power_of_two();
        let mut peak = vec![(0, 0); 2 * size];
        for (i, leaf) in peak[size..].iter_mut().enumerate() {
            *leaf = if i < places { (0, 1) } else { (i64::MIN / 2, 1) };
        }
        let mut profile = Profile { size, peak, added: vec![0; 2 * size] };
        for i in (1..size).rev() {
            profile.join(i);
        }
        profile
    }

    fn join(&mut self, i: usize) {
        let (a, b) = (self.peak[2 * i], self.peak[2 * i + 1]);
        let (level, count) = match a.0.cmp(&b.0) {
            std::cmp::Ordering::Less => b,
            std::cmp::Ordering::Equal => (a.0, a.1 + b.1),
            std::cmp::Ordering::Greater => a,
        };
        self.peak[i] = (level + self.added[i], count);
    }

    /// Adds to the places `first` to `last`.
    fn add(&mut self, first: usize, last: usize, bytes: i64) {
        let (mut lo, mut hi) = (first + self.size, last + self.size + 1);
        let (low, high) = (lo, hi - 1);
        while lo < hi {
            if lo % 2 == 1 {
                self.added[lo] += bytes;
                self.peak[lo].0 += bytes;
                lo += 1;
            }
            if hi % 2 == 1 {
                hi -= 1;
                self.added[hi] += bytes;
                self.peak[hi].0 += bytes;
            }
            (lo, hi) = (lo / 2, hi / 2);
        }
        for mut i in [low / 2, high / 2] {
            while i > 0 {
                self.join(i);
                i /= 2;
            }
        }
    }

    fn level(&self, place: usize) -> i64 {
        let mut i = place + self.size;
        let mut level = 0;
        while i > 0 {
            level += self.added[i];
            i /= 2;
        }
        level
    }

    fn first_peak(&self) -> usize {
        let mut i = 1;
        while i < self.size {
            i *= 2;
            if self.peak[i].0 < self.peak[i + 1].0 {
                i += 1;
            }
        }
        i - self.size
    }
}

/// A time in which a value is there: from the place that makes it to its last reader.
#[derive(Clone, Debug, Default)]
pub(crate) struct Span {
    /// The place that makes it.
    pub(crate) birth: usize,
    /// The places that read it, in order; one that reads it twice stands twice.
    pub(crate) readers: Vec<usize>,
}

impl Span {
    pub(crate) fn death(&self) -> usize {
        self.readers.last().map_or(self.birth, |&r| r.max(self.birth))
    }

    pub(crate) fn insert(&mut self, reader: usize) {
        let at = self.readers.partition_point(|&r| r <= reader);
        self.readers.insert(at, reader);
    }

    fn remove(&mut self, reader: usize) {
        let at = self.readers.partition_point(|&r| r < reader);
        if self.readers.get(at) == Some(&reader) {
            self.readers.remove(at);
        }
    }
}

/// When a value is in memory.
#[derive(Clone, Debug, Default)]
pub(crate) struct Life {
    /// Its size in the arena; 0 where it lies elsewhere or is only a name.
    pub(crate) bytes: usize,
    /// As the graph makes it.
    pub(crate) early: Span,
    /// As a copy makes it again, for every reader from there on.
    pub(crate) late: Option<Span>,
    /// Until the end of the step.
    pub(crate) pinned: bool,
}

impl Life {
    /// The span that serves a reader.
    pub(crate) fn span_at(&mut self, place: usize) -> &mut Span {
        match &mut self.late {
            Some(late) if late.birth <= place => late,
            _ => &mut self.early,
        }
    }

    /// Lets a copy at a place serve every reader from there on.
    pub(crate) fn split(&mut self, place: usize) {
        let mut all = std::mem::take(&mut self.early.readers);
        if let Some(late) = self.late.take() {
            all.extend(late.readers);
            all.sort_unstable();
        }
        let late = all.split_off(all.partition_point(|&r| r < place));
        self.early.readers = all;
        self.late = Some(Span { birth: place, readers: late });
    }

    /// Removes a reader.
    pub(crate) fn forget(&mut self, place: usize) {
        self.span_at(place).remove(place);
    }
}

/// The lives of a graph's values in an order of its nodes.
pub(crate) struct Liveness<'g> {
    pub(crate) graph: &'g Graph,
    pub(crate) order: &'g [NodeId],
    pub(crate) aliases: Aliases,
    /// Place by node.
    pub(crate) place: Vec<usize>,
    /// By value.
    lives: Vec<Life>,
    /// The spans of a value that the profile holds.
    shown: Vec<SmallVec<[(usize, usize); 2]>>,
    /// Operands that each result may overwrite, by node.
    overwrites: Vec<Vec<SmallVec<[usize; 2]>>>,
    /// The values that lie in the arena and that some result of a node may overwrite, by node.
    takeable: Vec<SmallVec<[Value; 2]>>,
    profile: Profile,
}

impl<'g> Liveness<'g> {
    /// The lives in an order that is topological and holds every node.
    pub(crate) fn new(graph: &'g Graph, order: &'g [NodeId]) -> Liveness<'g> {
        let aliases = Aliases::new(graph, order);
        let mut live = Liveness {
            graph,
            order,
            place: vec![0; graph.index_bound()],
            lives: vec![Life::default(); aliases.len()],
            shown: vec![SmallVec::new(); aliases.len()],
            overwrites: vec![Vec::new(); graph.index_bound()],
            takeable: vec![SmallVec::new(); graph.index_bound()],
            profile: Profile::new(order.len()),
            aliases,
        };
        // Whether a value lies in the persistent region, as updates do.
        let mut persistent = vec![false; live.aliases.len()];
        for (i, &id) in order.iter().enumerate() {
            live.place[id.index()] = i;
            let node = graph.node(id);
            let operands = graph.operands(id);
            for &v in &operands {
                let life = live.life_mut(v);
                life.pinned |= node.op.is_sink();
                if !node.op.is_sink() && !node.op.is_alias() {
                    life.early.insert(i);
                }
            }
            if node.op.is_alias() {
                continue;
            }
            let count = node.results.len();
            live.overwrites[id.index()] = overwrites(&node.op, count);
            let mut takeable: SmallVec<[Value; 2]> = SmallVec::new();
            for &v in live.overwrites[id.index()].iter().flatten().filter_map(|&k| operands.get(k)) {
                let root = live.aliases.root(v);
                if !persistent[live.aliases.index(root)] && !takeable.contains(&root) {
                    takeable.push(root);
                }
            }
            live.takeable[id.index()] = takeable;
            for value in graph.results(id) {
                let index = live.aliases.index(value);
                let over = &live.overwrites[id.index()][value.result as usize];
                persistent[index] = matches!(node.op, Op::Parameter { .. } | Op::State { .. })
                    || over.iter().filter_map(|&k| operands.get(k)).any(|&v| {
                        let root = live.aliases.root(v);
                        persistent[live.aliases.index(root)]
                    });
                let life = &mut live.lives[index];
                life.bytes = if persistent[index] { 0 } else { graph.ty(value).bytes() };
                life.early.birth = if matches!(node.op, Op::Input { .. }) { 0 } else { i };
            }
        }
        for &id in order {
            for value in graph.results(id) {
                live.refresh(value);
            }
        }
        live
    }

    /// The largest number of bytes in use, and in how many places.
    pub(crate) fn peak(&self) -> (i64, usize) {
        self.profile.peak[1]
    }

    /// The first place with the most bytes in use.
    pub(crate) fn first_peak(&self) -> usize {
        self.profile.first_peak()
    }

    /// The bytes in use at a place.
    pub(crate) fn level(&self, place: usize) -> i64 {
        self.profile.level(place)
    }

    /// The life of the value that a value names.
    pub(crate) fn life(&self, value: Value) -> &Life {
        &self.lives[self.aliases.index(self.aliases.root(value))]
    }

    /// The same to change; [`Liveness::refresh`] then brings the profile up to date.
    pub(crate) fn life_mut(&mut self, value: Value) -> &mut Life {
        let index = self.aliases.index(self.aliases.root(value));
        &mut self.lives[index]
    }

    /// Shows a value's life in the profile as it is.
    pub(crate) fn refresh(&mut self, value: Value) {
        let index = self.aliases.index(value);
        let bytes = self.lives[index].bytes as i64;
        if bytes == 0 {
            return;
        }
        let mut spans: SmallVec<[(usize, usize); 2]> = SmallVec::new();
        let life = &self.lives[index];
        for span in std::iter::once(&life.early).chain(&life.late) {
            let death = if life.pinned { self.order.len() - 1 } else { span.death() };
            let taken = !life.pinned && death > span.birth && self.taken_over(value, death);
            spans.push((span.birth, if taken { death - 1 } else { death }));
        }
        for (first, last) in std::mem::replace(&mut self.shown[index], spans.clone()) {
            self.profile.add(first, last, -bytes);
        }
        for (first, last) in spans {
            self.profile.add(first, last, bytes);
        }
    }

    /// Whether a result of the node at a place takes over the memory of a value that dies there.
    fn taken_over(&self, value: Value, place: usize) -> bool {
        let id = self.order[place];
        if !self.takeable[id.index()].contains(&value) {
            return false;
        }
        let operands = self.graph.operands(id);
        let roots: SmallVec<[Value; 4]> = operands.iter().map(|&v| self.aliases.root(v)).collect();
        let mut taken: SmallVec<[Value; 2]> = SmallVec::new();
        for (r, allowed) in self.overwrites[id.index()].iter().enumerate() {
            let bytes = self.life(Value { node: id, result: r as u16 }).bytes;
            let found = allowed.iter().filter_map(|&k| roots.get(k).copied()).find(|&w| {
                let life = self.life(w);
                let death = match &life.late {
                    Some(late) if late.birth <= place => late.death(),
                    _ => life.early.death(),
                };
                let whole = life.bytes == bytes && bytes > 0 && !life.pinned && death == place;
                let elsewhere = roots.iter().enumerate().any(|(k, &v)| v == w && !allowed.contains(&k));
                whole && !elsewhere && !taken.contains(&w)
            });
            taken.extend(found);
        }
        taken.contains(&value)
    }
}

#[cfg(test)]
mod tests {
    use super::Profile;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_profile_is_a_row_of_levels(
            places in 1usize..40,
            changes in prop::collection::vec((0usize..40, 0usize..40, -50i64..50), 0..40)
        ) {
            let mut plain = vec![0i64; places];
            let mut profile = Profile::new(places);
            for (a, b, bytes) in changes {
                let (a, b) = (a % places, b % places);
                let (first, last) = (a.min(b), a.max(b));
                plain[first..=last].iter_mut().for_each(|level| *level += bytes);
                profile.add(first, last, bytes);
                let max = *plain.iter().max().unwrap();
                let count = plain.iter().filter(|&&l| l == max).count();
                prop_assert_eq!(profile.peak[1], (max, count));
                prop_assert_eq!(Some(profile.first_peak()), plain.iter().position(|&l| l == max));
                for (i, &level) in plain.iter().enumerate() {
                    prop_assert_eq!(profile.level(i), level);
                }
            }
        }
    }
}
