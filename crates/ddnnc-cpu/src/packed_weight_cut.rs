//! How a weight gradient from packed operands is cut into tasks: by shape alone.
//!
//! A task is a piece of the batch, a block of output channels and one of input channels; the sums of the pieces are added
//! in order. Rows of x that are not in memory are computed by the task, for each chunk, where no other task reads them, else
//! once for all tasks, some images of each piece at a time.

use crate::convolution::{Geometry, Rows};
use crate::convolution_weight::GradPart;
use crate::device::Machine;
use crate::packed_weight_chunk::{Load, Packed, Source};
use crate::pointwise::Cells;
use std::ops::Range;

/// Tasks that a launch should have.
const TASKS: usize = 16;

/// The most elements of computed rows of x that are kept for all tasks.
const KEPT: usize = 1 << 21;

/// Elements of those rows that are computed as one task, about.
const KEPT_TASK: usize = 1 << 15;

/// Weights that are added up as one task.
const COLLECTED: usize = 1 << 12;

/// What of a task is in the caches while it computes.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    /// Pairs of positions that a chunk aims at.
    pub pairs: usize,
    /// Elements of sums that stay in the second cache beside the operands.
    pub sums: usize,
}

/// How a weight gradient is cut.
#[derive(Clone, Copy)]
pub struct Cut {
    /// Couples of neighbouring images of all parts.
    pub couples: usize,
    /// Pieces of the batch.
    pub pieces: usize,
    /// Blocks of output and of input channels.
    pub counts: [usize; 2],
    /// Channels of a block.
    pub sizes: [usize; 2],
    /// How computed rows of x are kept for all tasks; `None` where each task computes what it reads.
    pub kept: Option<Kept>,
}

/// Couples of neighbouring images of a part.
fn couples<T: Packed>(images: usize) -> usize {
    images.div_ceil(T::TOGETHER)
}

impl Cut {
    /// For parts of so many images, and blocks of whole panels of so many channels.
    pub fn new<T: Packed>(
        g: &Geometry,
        images: impl Iterator<Item = usize>,
        width: usize,
        room: Room,
    ) -> Cut {
        let couples = images.map(couples::<T>).sum::<usize>();
        let channels = [g.outputs, g.inputs];
        let cut = |axis: usize, count: usize| {
            let size = channels[axis].div_ceil(count).next_multiple_of(width).min(channels[axis].max(1));
            (channels[axis].div_ceil(size).max(1), size)
        };
        let mut best = (0, f64::INFINITY, (1, [1, 1], channels));
        for pieces in (0..5).map(|i| 1 << i).filter(|&n| n == 1 || n <= couples) {
            for (i, j) in (0..5).flat_map(|i| (0..5).map(move |j| (i, j))) {
                let (outer, inner) = (cut(0, 1 << i), cut(1, 1 << j));
                let (counts, sizes) = ([outer.0, inner.0], [outer.1, inner.1]);
                let tasks = (pieces * counts[0] * counts[1]).min(TASKS);
                let cost = cost(g, couples, pieces, counts, sizes, room);
                if tasks > best.0 || tasks == best.0 && cost < best.1 {
                    best = (tasks, cost, (pieces, counts, sizes));
                }
            }
        }
        let (pieces, counts, sizes) = best.2;
        // Where one task reads the rows, they are in its cache as it computes them.
        let many = counts[0] * counts[1] > 1;
        let kept = if many { Kept::new::<T>(g, couples, pieces, KEPT) } else { None };
        Cut { couples, pieces, counts, sizes, kept }
    }

    /// Channels of block `i` along axis 0 (outputs) or 1 (inputs).
    fn channels(&self, axis: usize, all: usize, i: usize) -> Range<usize> {
        let first = i * self.sizes[axis];
        first..all.min(first + self.sizes[axis])
    }

    /// Elements that the pieces need to themselves.
    fn partials(&self, g: &Geometry) -> usize {
        if self.pieces == 1 { 0 } else { self.pieces * weights(g) }
    }

    /// f32 that all tasks share.
    pub fn shared<T: Packed>(&self, g: &Geometry) -> usize {
        self.partials(g) + self.kept.map_or(0, |kept| floats::<T>(kept.size()))
    }

    /// How many tasks there are.
    pub fn tasks(&self) -> usize {
        self.pieces * self.counts[0] * self.counts[1]
    }

    /// Computes the rows of x that are kept, runs `task(round, task, worker)` for every task of every round, and adds the
    /// gradients of the pieces up.
    pub fn run<T: Packed>(
        &self,
        machine: &mut Machine<'_>,
        g: &Geometry,
        parts: &[GradPart<'_>],
        dw: &mut [f32],
        task: &(dyn Fn(&Round<'_, T>, usize, usize) + Sync),
    ) {
        if dw.is_empty() {
            return;
        }
        let kept = self.kept.filter(|_| parts.iter().any(|p| is_computed(p.x)));
        let own = self.partials(g);
        let (machine, shared) = machine.with_shared(own + kept.map_or(0, |kept| floats::<T>(kept.size())));
        let (partials, rows) = shared.split_at_mut(own);
        for round in 0..kept.map_or(1, |kept| kept.rounds) {
            if let Some(kept) = kept {
                kept.fill(&machine, g, parts, round, &mut T::of(rows)[..kept.size()]);
            }
            let out = Cells::new(if own == 0 { &mut *dw } else { &mut *partials });
            let rows = &*T::of(rows);
            let round = Round { machine: &machine, g, parts, cut: self, kept, rows, round, out };
            machine.pool.run(self.tasks(), &|i, worker| task(&round, i, worker));
        }
        if own > 0 {
            collect(&machine, partials, dw);
        }
    }
}

/// What the tasks of a round share.
pub struct Round<'a, T> {
    pub machine: &'a Machine<'a>,
    pub g: &'a Geometry,
    pub parts: &'a [GradPart<'a>],
    cut: &'a Cut,
    kept: Option<Kept>,
    /// Kept rows of x.
    rows: &'a [T],
    round: usize,
    /// The weights' gradient of each piece.
    out: Cells<'a, f32>,
}

/// What a task sums over in a round.
pub struct Task {
    piece: usize,
    /// Channels of y and of x.
    pub outer: Range<usize>,
    pub inner: Range<usize>,
    /// Couples, counted over all parts.
    pub couples: Range<usize>,
    /// Whether the sums of rounds before are there.
    pub add: bool,
}

impl<T: Packed> Round<'_, T> {
    /// A task, if there is something to sum over.
    pub fn task(&self, task: usize) -> Option<Task> {
        let (cut, g) = (self.cut, self.g);
        let inputs = cut.counts[1];
        let piece = task / (cut.counts[0] * inputs);
        let outer = cut.channels(0, g.outputs, task / inputs % cut.counts[0]);
        let inner = cut.channels(1, g.inputs, task % inputs);
        let [from, to] = [piece, piece + 1].map(|p| cut.couples * p / cut.pieces);
        let (couples, before) = match self.kept {
            Some(kept) => (kept.range(piece, self.round), kept.range(piece, 0).start),
            None => (from..to, from),
        };
        let add = couples.start > before;
        (!couples.is_empty()).then_some(Task { piece, outer, inner, couples, add })
    }

    /// Calls `f(part, couples, before)` for the parts of which a task has couples, counted within the part; `before` is
    /// how many the parts before have.
    pub fn each_part(&self, task: &Task, mut f: impl FnMut(&GradPart<'_>, Range<usize>, usize)) {
        let mut before = 0;
        for part in self.parts {
            let all = couples::<T>(part.images);
            let inside = |couple: usize| couple.clamp(before, before + all) - before;
            let some = inside(task.couples.start)..inside(task.couples.end);
            if !some.is_empty() {
                f(part, some, before);
            }
            before += all;
        }
    }

    /// The kept rows of the part behind so many couples, if rows are kept.
    pub fn kept(&self, task: &Task, before: usize) -> Option<Source<'_>> {
        self.kept.map(|kept| kept.rows(self.g, task.piece, self.round, before, self.rows))
    }

    /// The gradients of an output channel for the task's input channels.
    ///
    /// # Safety
    ///
    /// No other slice of them lives: tasks differ in the piece or in channels.
    #[expect(clippy::mut_from_ref, reason = "the exclusive use is the caller's promise")]
    pub unsafe fn out(&self, task: &Task, output: usize) -> &mut [f32] {
        let (g, taps) = (self.g, self.g.taps());
        let first = (task.piece * g.outputs + output) * g.inputs + task.inner.start;
        // SAFETY: promised.
        unsafe { self.out.range(first * taps, task.inner.len() * taps) }
    }
}

/// f32 that take as much memory as so many elements.
pub fn floats<T>(elements: usize) -> usize {
    (elements * size_of::<T>()).div_ceil(4)
}

fn weights(g: &Geometry) -> usize {
    g.outputs * g.inputs * g.taps()
}

/// About how many cycles go to all but products: packing, sums that are read and written again, and their order.
fn cost(
    g: &Geometry,
    couples: usize,
    pieces: usize,
    counts: [usize; 2],
    sizes: [usize; 2],
    room: Room,
) -> f64 {
    let taps = g.taps();
    let positions = |axis: usize| if g.kernel[axis] == 1 { g.output[axis] } else { g.input[axis] };
    let packed = (positions(0) * positions(1) * g.inputs * counts[0]
        + g.output[0] * g.output[1] * g.outputs * counts[1]) as f64;
    let pairs = (couples * g.output[0] * g.output[1]) as f64;
    let again = if taps * sizes[0] * sizes[1] > room.sums { 0.6 } else { 0.2 };
    let order = match (taps, pieces) {
        (1, 1) => 0.3,
        (1, _) => 0.6,
        (_, 1) => 1.5,
        _ => 1.8,
    };
    let all = weights(g) as f64;
    0.3 * couples as f64 * packed + all * (again * pairs / room.pairs as f64 + order * pieces as f64)
}

/// Rows of x that are computed once and kept while all tasks read them. That is done in rounds, so that they take
/// little memory: in a round, tasks sum over the same share of the couples of each piece.
#[derive(Clone, Copy)]
pub struct Kept {
    /// Couples of all parts.
    couples: usize,
    /// Images of a couple.
    together: usize,
    pieces: usize,
    rounds: usize,
    /// The most couples of a piece in a round.
    share: usize,
    /// Elements of one image.
    image: usize,
}

impl Kept {
    /// For room for so many elements; `None` where one couple of each piece is more.
    pub fn new<T: Packed>(g: &Geometry, couples: usize, pieces: usize, room: usize) -> Option<Kept> {
        let image = g.input[0] * g.input[1] * g.inputs;
        let together = T::TOGETHER;
        let most = room / (together * pieces * image).max(1);
        if most == 0 || couples == 0 {
            return None;
        }
        let rounds = couples.div_ceil(pieces * most);
        Some(Kept { couples, together, pieces, rounds, share: couples.div_ceil(pieces * rounds), image })
    }

    /// Elements of a round.
    fn size(&self) -> usize {
        self.pieces * self.share * self.together * self.image
    }

    /// The couples of a piece in a round, counted over all parts.
    fn range(&self, piece: usize, round: usize) -> Range<usize> {
        let [from, to] =
            [0, 1].map(|i| self.couples * (piece * self.rounds + round + i) / (self.pieces * self.rounds));
        from..to
    }

    /// Computes the rows of a round, of the parts that do not lie in memory.
    fn fill<T: Packed>(
        &self,
        machine: &Machine<'_>,
        g: &Geometry,
        parts: &[GradPart<'_>],
        round: usize,
        out: &mut [T],
    ) {
        let some = (KEPT_TASK / self.image.max(1)).max(1);
        machine.pool.split(out, some * self.image, |task, out, worker| {
            machine.with_scratch(worker, |line| {
                for (i, out) in out.chunks_exact_mut(self.image).enumerate() {
                    let image = task * some + i;
                    let together = self.together;
                    let (piece, image) = (image / (together * self.share), image % (together * self.share));
                    let range = self.range(piece, round);
                    let (mut couple, mut part) = (range.start + image / together, 0);
                    if couple >= range.end {
                        continue;
                    }
                    while couple >= couples::<T>(parts[part].images) {
                        couple -= couples::<T>(parts[part].images);
                        part += 1;
                    }
                    let (x, image) = (parts[part].x, together * couple + image % together);
                    if is_computed(x) && image < parts[part].images {
                        let lines = image * g.input[0]..(image + 1) * g.input[0];
                        Load { machine, worker, g }.lines(x, lines, line, out);
                    }
                }
            });
        });
    }

    /// The kept rows of a piece that belong to the part behind so many couples.
    fn rows<'a, T: Packed>(
        &self,
        g: &Geometry,
        piece: usize,
        round: usize,
        before: usize,
        kept: &'a [T],
    ) -> Source<'a> {
        let range = self.range(piece, round);
        let first = range.start.max(before);
        let rows = &kept[self.image * self.together * (piece * self.share + first - range.start)..];
        let image = g.input[0] * g.input[1];
        Source { rows: T::stored(rows), image, base: self.together * (first - before) * image }
    }
}

/// Whether rows do not lie in memory.
fn is_computed(rows: &dyn Rows) -> bool {
    rows.direct().is_none() && rows.direct_bf16().is_none()
}

/// Adds the gradients of the pieces up, in order.
fn collect(machine: &Machine<'_>, partials: &[f32], dw: &mut [f32]) {
    let size = dw.len();
    machine.pool.split(dw, COLLECTED, |task, dw, _| {
        machine.level.run(|| {
            for (piece, all) in partials.chunks_exact(size).enumerate() {
                let from = &all[task * COLLECTED..][..dw.len()];
                if piece == 0 {
                    dw.copy_from_slice(from);
                } else {
                    dw.iter_mut().zip(from).for_each(|(to, from)| *to += from);
                }
            }
        });
    });
}
