//! Forward convolution and input gradient of channels-last rows, as sums over packed weights.
//!
//! The weights are packed once per launch into panels: rows are result channels, depth runs over (tap row, tap column,
//! source channel) of one phase. A task computes its tiles panel by panel, so that a piece of a panel is in cache while
//! all positions of the task use it.

use crate::ahead::{Ahead, LINE};
use crate::convolution::{Emit, Geometry, PARTS, Part, Rows, Run, Weights};
use crate::device::Machine;
use crate::half_vector::settle;
use crate::launch::Need;
use crate::plan::{Axis, Data, Element, Plan};
use crate::pointwise_inst::LARGE;
use crate::pool::Pieces;
use crate::simd::Level;
use crate::tile::{Blocks, COLUMNS, Tiles, Walk};
use crate::vector::{Vector, Vectored, with_vectors};
use std::ops::Range;

/// Terms of a sum that are added up in registers in one go, if a row of taps has no more.
const LIMIT: usize = 640;

/// Terms of a sum that are added up in registers in one go otherwise.
const DEPTH: usize = 512;

/// Workspace of a launch.
pub fn need(g: &Geometry, backward: bool, images: &[usize]) -> Need {
    let groups = g.conv.groups;
    let to = if backward { g.inputs } else { g.outputs };
    let shared = groups * Blocks::most(to / groups) * g.taps() * depth(g, backward);
    Need { scratch: scratch::<f32>(g, backward, images), shared, ..Need::default() }
}

/// f32 that a worker needs for windows of such elements, computed rows and results.
pub fn scratch<T: Element>(g: &Geometry, backward: bool, images: &[usize]) -> usize {
    let part = |&images: &usize| {
        let plan = Plan::new(g, backward, images);
        let window = (0..plan.tasks()).map(|t| window::<T>(&plan, plan.task_lines(t))).max();
        window.unwrap_or(0) + spare::<T>(&plan) + plan.task_rows() * plan.to
    };
    images.iter().map(part).max().unwrap_or(0)
}

/// f32 that the window of a task takes.
fn window<T: Element>(plan: &Plan, lines: Range<usize>) -> usize {
    (plan.window(lines, plan.from) * size_of::<T>()).div_ceil(4).next_multiple_of(16)
}

/// f32 beside the window: rows are computed in them, then they are the task's.
fn spare<T: Element>(plan: &Plan) -> usize {
    plan.line::<T>().max(T::SPARE)
}

/// Source channels of a group.
fn depth(g: &Geometry, backward: bool) -> usize {
    (if backward { g.outputs } else { g.inputs }) / g.conv.groups
}

/// Runs `compute(plan, data, lines, spare, out, ahead)` for every task of every part, then emits.
///
/// `compute` writes every element of `out`, the result rows of `lines`.
pub fn launch<T: Element>(
    machine: &Machine<'_>,
    g: &Geometry,
    backward: bool,
    parts: &mut [Part<'_>],
    emit: Option<&dyn Emit>,
    compute: impl Fn(&Plan, Data<'_, T>, Range<usize>, &mut [f32], &mut [f32], &Ahead) + Sync,
) {
    let plan = |images| Plan::new(g, backward, images);
    let size = |plan: &Plan, lines| window::<T>(plan, lines) + spare::<T>(plan);
    launch_with(machine, parts, emit, plan, size, |plan, x, lines, worker, scratch, out, ahead| {
        let (window, line) = scratch.split_at_mut(window::<T>(plan, lines.clone()));
        let rows = &mut line[..plan.line::<T>()];
        let data = plan.data(machine, x, lines.clone(), 0..plan.from, worker, T::of(window), rows);
        compute(plan, data, lines, line, out, ahead);
    });
}

/// Runs `compute(plan, x, lines, worker, scratch, out, ahead)` for every task of every part, then emits.
///
/// `plan` is that of a part of so many images, `size` the f32 of scratch that some of its lines need; `compute` writes
/// every element of `out`, the result rows of `lines`. Where results are emitted alone, they lie behind the scratch.
pub fn launch_with(
    machine: &Machine<'_>,
    parts: &mut [Part<'_>],
    emit: Option<&dyn Emit>,
    plan: impl Fn(usize) -> Plan,
    size: impl Fn(&Plan, Range<usize>) -> usize + Sync,
    compute: impl Fn(&Plan, &dyn Rows, Range<usize>, usize, &mut [f32], &mut [f32], &Ahead) + Sync,
) {
    // The tasks of all parts in one job: no thread waits at the end of a part.
    let mut places: [Option<Place<'_>>; PARTS] = [const { None }; PARTS];
    assert!(parts.len() <= PARTS, "the parts of a launch");
    let mut tasks = 0;
    for (place, part) in places.iter_mut().zip(parts.iter_mut()) {
        let plan = plan(part.images);
        let out = part.out.as_deref_mut().map(|out| Pieces::new(out, plan.task_rows() * plan.to));
        *place = Some(Place { plan, base: tasks, x: part.x, out });
        tasks += plan.tasks();
    }
    let places = &places;
    machine.pool.run(tasks, &|number, worker| {
        let Some((index, place)) = find(places, number) else { return };
        let Place { plan, base, x, out } = place;
        machine.with_scratch(worker, |scratch| {
            let lines = plan.task_lines(number - base);
            let (scratch, rest) = scratch.split_at_mut(size(plan, lines.clone()));
            // The results of the task, or a place for them behind the scratch.
            let out = match out {
                // SAFETY: each task is run once, so each piece is borrowed once.
                Some(out) => unsafe { out.get(number - base) },
                None => &mut rest[..lines.len() * plan.result[1] * plan.to],
            };
            let run = Run { task: number, part: index, first: lines.start * plan.result[1], worker };
            let mut ahead = Ahead::default();
            if let Some(emit) = emit {
                emit.list(run, lines.len() * plan.result[1], &mut ahead);
            }
            // The task that a worker draws next, if all take as long.
            let next = number + machine.pool.threads();
            if let Some((_, place)) = find(places, next) {
                let later = place.plan.source_rows(place.plan.task_lines(next - place.base));
                place.x.list(later.start, later.len(), &mut ahead);
                if let Some(out) = &place.out {
                    let (start, elements) = out.place(next - place.base);
                    ahead.list(start, elements);
                }
            }
            compute(plan, *x, lines, worker, scratch, out, &ahead);
            if let Some(emit) = emit {
                emit.emit(machine, run, out);
            }
        });
    });
}

/// A part, and the number of its first task.
struct Place<'a> {
    plan: Plan,
    base: usize,
    x: &'a dyn Rows,
    out: Option<Pieces<'a, f32>>,
}

/// The part of a task.
fn find<'a, 'b>(places: &'a [Option<Place<'b>>], task: usize) -> Option<(usize, &'a Place<'b>)> {
    let begun = |place: &&'a Place<'b>| place.base <= task;
    places.iter().flatten().take_while(begun).enumerate().last()
}

/// y = conv(x, w), or dx where `backward`.
pub fn run(
    machine: &mut Machine<'_>,
    g: &Geometry,
    backward: bool,
    w: Weights<'_>,
    parts: &mut [Part<'_>],
    emit: Option<&dyn Emit>,
) {
    let tiles = Tiles::new(machine.level);
    let groups = g.conv.groups;
    let (channels, rows) = (depth(g, backward), if backward { g.inputs } else { g.outputs } / groups);
    let blocks = tiles.blocks(rows);
    let piece = g.taps() * channels * blocks.width;
    let (machine, shared) = machine.with_shared(groups * blocks.count * piece);
    machine.pool.split(shared, piece, |panel, out, _| {
        let (group, block) = (panel / blocks.count, panel % blocks.count);
        let begin = block * blocks.width;
        let pack =
            Pack { g, backward, group, rows: begin..rows.min(begin + blocks.width), width: blocks.width };
        machine.level.run(|| match w {
            Weights::F32(w) => pack.run(out, w, |w| w),
            Weights::Bf16(w) => pack.run(out, w, |w| f32::from_bits(u32::from(w) << 16)),
        });
    });
    let sums = Sums { tiles, blocks, panels: shared, piece, groups, channels, rows, kept: emit.is_none() };
    launch::<f32>(&machine, g, backward, parts, emit, |plan, data, lines, _, out, ahead| {
        sums.task(plan, data, lines, out, ahead)
    });
}

/// The packing of one panel.
struct Pack<'a> {
    g: &'a Geometry,
    backward: bool,
    group: usize,
    /// Result channels of the group.
    rows: Range<usize>,
    width: usize,
}

impl Pack<'_> {
    #[inline(always)]
    fn run<T: Copy>(&self, out: &mut [f32], w: &[T], number: impl Fn(T) -> f32) {
        let taps = self.g.taps();
        let inner = self.g.inputs / self.g.conv.groups * taps;
        let channels = depth(self.g, self.backward);
        let (row_step, channel_step) = if self.backward { (taps, inner) } else { (inner, taps) };
        let from = self.group * (self.g.outputs / self.g.conv.groups) * inner + self.rows.start * row_step;
        // The number of images does not matter to the taps.
        let plan = Plan::new(self.g, self.backward, 1);
        // A few rows and channels at a time, so that what is read stays in the first cache until it is used up.
        for first in (0..self.rows.len()).step_by(8) {
            let rows = 8.min(self.rows.len() - first);
            for some in (0..channels).step_by(16) {
                if !self.backward && rows == 8 {
                    // All taps of a few channels follow one another in memory.
                    let len = taps * 16.min(channels - some);
                    let lines: [&[T]; 8] =
                        std::array::from_fn(|i| &w[from + (first + i) * inner + some * taps..][..len]);
                    for channel in 0..len / taps {
                        for tap in 0..taps {
                            let to = (tap * channels + some + channel) * self.width + first;
                            for (out, line) in out[to..to + 8].iter_mut().zip(lines) {
                                *out = number(line[channel * taps + tap]);
                            }
                        }
                    }
                    continue;
                }
                for (phase, before) in plan.phases() {
                    for t in 0..phase[0].taps * phase[1].taps {
                        let tap = [phase[0].tap(t / phase[1].taps), phase[1].tap(t % phase[1].taps)];
                        let from = from + first * row_step + tap[0] * self.g.kernel[1] + tap[1];
                        for channel in some..channels.min(some + 16) {
                            let from = from + channel * channel_step;
                            let to = ((before + t) * channels + channel) * self.width + first;
                            for (row, out) in out[to..to + rows].iter_mut().enumerate() {
                                *out = number(w[from + row * row_step]);
                            }
                        }
                    }
                }
            }
        }
    }
}

/// The computation of tasks.
struct Sums<'a> {
    tiles: Tiles,
    blocks: Blocks,
    panels: &'a [f32],
    /// Elements of a panel.
    piece: usize,
    groups: usize,
    /// Source channels of a group.
    channels: usize,
    /// Result channels of a group.
    rows: usize,
    /// Whether nothing of the launch reads the results.
    kept: bool,
}

impl Sums<'_> {
    fn task(&self, plan: &Plan, data: Data<'_>, lines: Range<usize>, out: &mut [f32], ahead: &Ahead) {
        let panels = self.groups * self.blocks.count;
        let tiles = (lines.len() * plan.result[1]).div_ceil(COLUMNS) * panels;
        let ahead = (ahead, ahead.share(tiles));
        let past = self.past_caches(plan, out);
        for (phase, before) in plan.phases() {
            let depths = Depths::new(phase, self.channels, self.groups == 1, &data);
            if depths.count == 0 {
                each_line(plan, phase, data, lines.clone(), |line| {
                    for row in (0..line.count).map(|i| line.row[0] + i * line.row[1]) {
                        clear(self.tiles.level, &mut out[row * plan.to..][..plan.to], past);
                    }
                });
                continue;
            }
            // Listed once for all panels.
            each_list(plan, phase, data, lines.clone(), |sources, results| {
                self.positions(&depths, before, data, sources, out, results, (past, ahead));
            });
        }
        if past {
            settle();
        }
    }

    /// Some positions of a phase, past the caches if so.
    #[expect(clippy::too_many_arguments, reason = "the operands of a product")]
    fn positions(
        &self,
        depths: &Depths,
        before: usize,
        data: Data<'_>,
        sources: &[usize],
        out: &mut [f32],
        results: &[usize],
        (past, ahead): (bool, (&Ahead, usize)),
    ) {
        for panel in 0..self.groups * self.blocks.count {
            let (group, block) = (panel / self.blocks.count, panel % self.blocks.count);
            let first = block * self.blocks.width;
            let rows = self.blocks.width.min(self.rows - first);
            let panel = &self.panels[panel * self.piece + before * self.channels * self.blocks.width..];
            let (from, to) = (group * self.channels, group * self.rows + first);
            for i in 0..depths.count {
                let (walk, panel_at, data_at) = depths.get(i, self.blocks.width);
                let data = &data.elements[from + data_at..];
                let sum = self.tiles.sum(rows, &walk, &panel[panel_at..], data, i > 0);
                let sum = sum.past_caches(past && depths.count == 1);
                sum.run_all(sources, &mut out[to..], results, ahead);
            }
        }
    }

    /// Whether results go past the caches: many, in whole lines, that nothing of the launch reads, where that was found to
    /// be faster.
    fn past_caches(&self, plan: &Plan, out: &[f32]) -> bool {
        let faster = match self.tiles.level {
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => true,
            _ => false,
        };
        let bytes = plan.images * plan.result[0] * plan.result[1] * plan.to * size_of::<f32>();
        let whole = out.as_ptr().addr().is_multiple_of(LINE)
            && (self.rows * size_of::<f32>()).is_multiple_of(LINE)
            && (self.blocks.width * size_of::<f32>()).is_multiple_of(LINE);
        faster && self.kept && bytes >= LARGE && whole
    }
}

/// Zeros, past the caches if so.
#[inline]
fn clear(level: Level, out: &mut [f32], past: bool) {
    if past {
        with_vectors(level, Zeros(out));
    } else {
        out.fill(0.0);
    }
}

/// Zeros that go past the caches.
struct Zeros<'a>(&'a mut [f32]);

impl Vectored for Zeros<'_> {
    #[inline(always)]
    unsafe fn run<S: Vector>(self) {
        let mut vectors = self.0.chunks_exact_mut(S::LANES);
        for to in &mut vectors {
            // SAFETY: a vector has room there; the processor has the level of S.
            unsafe { S::splat(0.0).store_past(to.as_mut_ptr()) };
        }
        vectors.into_remainder().fill(0.0);
    }
}

/// Positions of a line of a phase: where their data begin and their rows in the result of the task, evenly apart.
#[derive(Clone, Copy, Debug)]
pub struct Line {
    /// How many.
    pub count: usize,
    /// The first position's data, and the step to the next.
    pub data: [usize; 2],
    /// The same of rows.
    pub row: [usize; 2],
}

/// Calls `f` for the lines of a phase.
#[inline(always)]
pub fn each_line<T: Copy>(
    plan: &Plan,
    [row, column]: [Axis; 2],
    data: Data<'_, T>,
    lines: Range<usize>,
    mut f: impl FnMut(Line),
) {
    for segment in plan.segments(lines, data) {
        let rows = row.positions_in(segment.lines.clone());
        let first = |p: usize| {
            let to = ((row.first + p * row.apart) * plan.result[1]).wrapping_add_signed(segment.row);
            let at = match row.taps * column.taps {
                0 => 0,
                _ => {
                    segment.at
                        + row.begin(p, segment.rows[0]) * data.pitch
                        + column.begin(0, data.left) * data.channels
                }
            };
            (at, to + column.first)
        };
        if column.positions == 1 && !rows.is_empty() {
            // Lines of one position, as those of a map that is one column, are a line themselves.
            let (at, to) = first(rows.start);
            let steps = [row.scale * data.pitch, row.apart * plan.result[1]];
            f(Line { count: rows.len(), data: [at, steps[0]], row: [to, steps[1]] });
            continue;
        }
        for p in rows {
            let (at, to) = first(p);
            let data = [at, column.scale * data.channels];
            f(Line { count: column.positions, data, row: [to, column.apart] });
        }
    }
}

/// Positions whose places are listed at a time: whole tiles of every width.
pub const LISTED: usize = 576;

/// Calls `f` for lists of the positions of a phase, none of them empty: where their data begin, and their rows' results.
#[inline(always)]
pub fn each_list<T: Copy>(
    plan: &Plan,
    phase: [Axis; 2],
    data: Data<'_, T>,
    lines: Range<usize>,
    mut f: impl FnMut(&[usize], &[usize]),
) {
    let (mut sources, mut results, mut n) = ([0; LISTED], [0; LISTED], 0);
    each_line(plan, phase, data, lines, |line| {
        let mut done = 0;
        while done < line.count {
            let some = (line.count - done).min(LISTED - n);
            let (at, row) = (line.data[0] + done * line.data[1], line.row[0] + done * line.row[1]);
            let to = row * plan.to;
            for (i, source) in sources[n..n + some].iter_mut().enumerate() {
                *source = at + i * line.data[1];
            }
            for (i, result) in results[n..n + some].iter_mut().enumerate() {
                *result = to + i * line.row[1] * plan.to;
            }
            (done, n) = (done + some, n + some);
            if n == LISTED {
                f(&sources, &results);
                n = 0;
            }
        }
    });
    if n > 0 {
        f(&sources[..n], &results[..n]);
    }
}

/// The pieces in which the sum over the taps and channels of a phase is taken.
struct Depths {
    count: usize,
    /// Taps.
    rows: usize,
    columns: usize,
    /// Source channels.
    channels: usize,
    /// Data steps of taps.
    steps: [usize; 2],
    /// Whether the channels of a row of taps follow one another in the data.
    runs: bool,
    /// Rows of taps in a piece; `None` where a piece is at most one run.
    together: Option<usize>,
}

impl Depths {
    fn new([row, column]: [Axis; 2], channels: usize, whole: bool, data: &Data<'_>) -> Depths {
        let (rows, columns) = (row.taps, column.taps);
        let line = columns * channels;
        let runs = whole && (column.step == 1 || columns == 1);
        let steps = [row.step * data.pitch, column.step * data.channels];
        let mut depths = Depths { count: 0, rows, columns, channels, steps, runs, together: None };
        if rows * line == 0 {
            return depths;
        }
        if line <= LIMIT {
            let together = LIMIT / line;
            depths.together = Some(together);
            depths.count = rows.div_ceil(together);
        } else {
            let (runs, len) = depths.all_runs();
            depths.count = runs * len.div_ceil(DEPTH);
        }
        depths
    }

    /// Runs of contiguous data, and their length.
    fn all_runs(&self) -> (usize, usize) {
        if self.runs {
            (self.rows, self.columns * self.channels)
        } else {
            (self.rows * self.columns, self.channels)
        }
    }

    /// Piece `i` for panels of that width: its walk, and where it begins in panel and data.
    fn get(&self, i: usize, width: usize) -> (Walk, usize, usize) {
        let line = self.columns * self.channels;
        if let Some(together) = self.together {
            let first = i * together;
            let rows = together.min(self.rows - first);
            let walk = if self.runs {
                Walk { counts: [1, rows, line], panel: [0, line * width, width], data: [0, self.steps[0], 1] }
            } else {
                Walk {
                    counts: [rows, self.columns, self.channels],
                    panel: [line * width, self.channels * width, width],
                    data: [self.steps[0], self.steps[1], 1],
                }
            };
            return (walk, first * line * width, first * self.steps[0]);
        }
        let (_, len) = self.all_runs();
        let pieces = len.div_ceil(DEPTH);
        let piece = len.div_ceil(pieces);
        let (run, from) = (i / pieces, i % pieces * piece);
        let per_row = if self.runs { 1 } else { self.columns };
        let at = run / per_row * self.steps[0] + run % per_row * self.steps[1] + from;
        let walk = Walk { counts: [1, 1, piece.min(len - from)], panel: [0, 0, width], data: [0, 0, 1] };
        (walk, (run * len + from) * width, at)
    }
}
