//! The weight gradient of a convolution of channels-last rows.
//!
//! Without groups and with vectors of AVX2 or AVX-512, it is made from packed operands (`packed_weight.rs`), in bf16 with
//! AMX from tiles (`amx_weight.rs`). Else dw[o, tap, c] is the sum over positions of dy[position, o] · x[position + tap, c]: tiles whose rows are output channels, straight from rows of
//! dy, whose columns are (tap, channel) and whose depth is the positions of a chunk. The
//! batch is cut into pieces, and the input channels into blocks, by shape alone; the sums of the pieces are added in order.

#[cfg(target_arch = "x86_64")]
use crate::amx_weight;
use crate::convolution::{Geometry, Rows};
use crate::depthwise_rows;
use crate::device::Machine;
use crate::launch::Need;
use crate::method::Method;
use crate::packed_weight;
use crate::plan::{Data, Plan};
use crate::simd::Level;
use crate::tile::{COLUMNS, Tiles, Walk};
use crate::winograd_weight;
use std::ops::Range;

/// The most pieces of a batch.
const PIECES: usize = 16;

/// Tasks that a launch should have.
const TASKS: usize = 16;

/// The most elements of partial weight gradients.
const PARTIALS: usize = 1 << 22;

/// Positions for which another piece is worth its addition.
const PIECE_POSITIONS: usize = 1024;

/// Rows of x that are computed at a time where a task takes some of their channels.
const LOADED: usize = 16;

/// Output channels of the widest panel.
const WIDTH: usize = 64;

/// Rows that may be read past the last output channel, to fill a vector.
const SLACK: usize = 16;

/// One sub-net's share of a weight gradient.
#[derive(Clone, Copy)]
pub struct GradPart<'a> {
    /// Images in the batch.
    pub images: usize,
    /// Rows of x.
    pub x: &'a dyn Rows,
    /// Rows of dy.
    pub dy: &'a dyn Rows,
}

/// How a weight gradient is cut into tasks.
#[derive(Clone, Copy, Debug)]
pub struct Cut {
    /// Images of all parts.
    images: usize,
    /// Pieces of the batch.
    pub pieces: usize,
    /// Blocks of input channels; one where there are groups.
    blocks: usize,
    /// Input channels (of one group) in a block.
    channels: usize,
    /// Positions of a chunk.
    positions: usize,
}

impl Cut {
    /// For parts of `images` images together; `blocks` where input channels may be cut too.
    pub fn new(g: &Geometry, images: usize, blocks: bool) -> Cut {
        let inner = g.inputs / g.conv.groups;
        let weights = g.outputs * inner * g.taps();
        let positions = images * g.output[0] * g.output[1];
        let most = (PARTIALS / weights.max(1)).min(positions.div_ceil(PIECE_POSITIONS)).min(PIECES);
        let pieces = images.min(most).max(1);
        let blocks = if blocks && g.conv.groups == 1 {
            TASKS.div_ceil(pieces).min(inner.div_ceil(16)).max(1)
        } else {
            1
        };
        let channels = inner.div_ceil(blocks).max(1);
        let blocks = inner.div_ceil(channels);
        let positions = match g.is_depthwise() {
            // Windows and rows of all channels are in the second cache together.
            true => ((1 << 16) / g.outputs).clamp(1, 512),
            false => (8192 / (g.outputs / g.conv.groups).clamp(1, 64)).clamp(96, 512),
        };
        Cut { images, pieces, blocks, channels, positions }
    }

    /// The plan of a part, whose tasks are chunks.
    pub fn plan(&self, g: &Geometry, images: usize) -> Plan {
        let plan = Plan::new(g, false, images);
        let [height, width] = plan.result;
        let lines = (self.positions / width.max(1)).max(1);
        if lines >= height {
            plan.with_lines((lines / height.max(1)).max(1) * height.max(1))
        } else {
            plan.with_lines(height.div_ceil(height.div_ceil(lines)))
        }
    }

    /// Calls `f(part, plan, lines)` for the chunks of a piece: some whole images, or lines of one image.
    pub fn each_chunk(
        &self,
        g: &Geometry,
        parts: impl Iterator<Item = usize>,
        piece: usize,
        mut f: impl FnMut(usize, &Plan, Range<usize>),
    ) {
        let [from, to] = [piece, piece + 1].map(|p| self.images * p / self.pieces);
        let mut before = 0;
        for (part, images) in parts.enumerate() {
            let plan = self.plan(g, images);
            let height = plan.result[0];
            let per_image = (plan.images * height).checked_div(images).unwrap_or(0);
            let line = |image: usize| image.saturating_sub(before).min(images) * per_image;
            let (mut at, end) = (line(from), line(to));
            while at < end {
                let mut next = end.min(at + plan.lines);
                if plan.lines < height {
                    next = next.min((at / height + 1) * height);
                }
                f(part, &plan, at..next);
                at = next;
            }
            before += images;
        }
    }

    /// f32 that a worker needs: for windows of `channels` channels, for some rows of x, for rows of dy, and for a panel of
    /// those.
    pub fn scratch(&self, g: &Geometry, images: impl Iterator<Item = usize>, channels: usize) -> [usize; 4] {
        let mut most = [0; 4];
        for images in images.filter(|&n| n > 0) {
            let plan = self.plan(g, images);
            // Chunks of one image, or of whole images, which are alike.
            let end = plan.result[0].max(plan.lines).min(plan.images * plan.result[0]);
            let window = (0..end)
                .step_by(plan.lines)
                .map(|from| plan.window(from..end.min(from + plan.lines), channels))
                .max();
            most[0] = most[0].max(window.unwrap_or(0));
            most[1] = LOADED * g.inputs;
            most[2] = most[2].max(plan.task_rows() * g.outputs + SLACK);
            most[3] = most[3].max(plan.task_rows() * WIDTH);
        }
        most
    }
}

/// Rows of dy; where not `whole` they may be read [`SLACK`] elements past their end.
pub fn dy_rows<'a>(
    machine: &Machine<'_>,
    dy: &'a dyn Rows,
    rows: Range<usize>,
    whole: bool,
    worker: usize,
    scratch: &'a mut [f32],
) -> &'a [f32] {
    let channels = dy.channels();
    let size = rows.len() * channels;
    match dy.direct() {
        Some(all) if whole => &all[rows.start * channels..rows.end * channels],
        Some(all) => {
            scratch[..size].copy_from_slice(&all[rows.start * channels..rows.end * channels]);
            &scratch[..size + SLACK]
        }
        None => {
            dy.load(machine, rows.start, rows.len(), worker, &mut scratch[..size]);
            &scratch[..size + SLACK]
        }
    }
}

/// Workspace of [`grad_weight`] for parts of so many images.
pub fn grad_weight_need(method: Method, g: &Geometry, images: &[usize]) -> Need {
    if method == Method::Depthwise {
        return depthwise_rows::grad_weight_need(g, images);
    }
    if method == Method::Winograd {
        return winograd_weight::need(g, images);
    }
    if method == Method::Bf16 {
        let mut need = Need::default();
        need.include(packed_weight::need::<u16>(g, images));
        #[cfg(target_arch = "x86_64")]
        need.include(amx_weight::need(g, images));
        return need;
    }
    let cut = Cut::new(g, images.iter().sum(), true);
    let scratch = cut.scratch(g, images.iter().copied(), cut.channels * g.conv.groups).iter().sum();
    let mut need = Need { scratch, shared: cut.pieces * cut.blocks * partial(g, &cut), ..Need::default() };
    if Level::ALL.iter().any(|&level| packed_weight::fits(level, g)) {
        need.include(packed_weight::need::<f32>(g, images));
    }
    need
}

/// Elements of a task's sums.
fn partial(g: &Geometry, cut: &Cut) -> usize {
    g.taps() * cut.channels * g.outputs
}

/// dw = the sum over all parts, row-major `[O, C/groups, kh, kw]`.
///
/// Needs the workspace that [`grad_weight_need`] says; the method fits the geometry.
pub fn grad_weight(
    machine: &mut Machine<'_>,
    method: Method,
    g: &Geometry,
    parts: &[GradPart<'_>],
    dw: &mut [f32],
) {
    let images = parts.iter().map(|p| p.images).sum();
    if images == 0 {
        return dw.fill(0.0);
    }
    if method == Method::Depthwise {
        return depthwise_rows::grad_weight(machine, g, parts, dw);
    }
    if method == Method::Winograd {
        return winograd_weight::grad_weight(machine, g, parts, dw);
    }
    if method == Method::Bf16 {
        #[cfg(target_arch = "x86_64")]
        if machine.level.multiplies_tiles() {
            return amx_weight::run(machine, g, parts, dw);
        }
        return packed_weight::run::<u16>(machine, g, parts, dw);
    }
    if packed_weight::fits(machine.level, g) {
        return packed_weight::run::<f32>(machine, g, parts, dw);
    }
    let tiles = Tiles::new(machine.level);
    let cut = Cut::new(g, images, true);
    let sizes = cut.scratch(g, parts.iter().map(|p| p.images), cut.channels * g.conv.groups);
    let size = partial(g, &cut);
    let (machine, shared) = machine.with_shared(cut.pieces * cut.blocks * size);
    let outer = g.outputs / g.conv.groups;
    machine.pool.split(shared, size, |task, out, worker| {
        let (piece, block) = (task / cut.blocks, task % cut.blocks);
        let channels = if g.conv.groups > 1 {
            0..g.inputs
        } else {
            block * cut.channels..g.inputs.min((block + 1) * cut.channels)
        };
        machine.with_scratch(worker, |scratch| {
            let (window, scratch) = scratch.split_at_mut(sizes[0]);
            let (line, scratch) = scratch.split_at_mut(sizes[1]);
            let (dy, panel) = scratch.split_at_mut(sizes[2]);
            let mut add = false;
            cut.each_chunk(g, parts.iter().map(|p| p.images), piece, |part, plan, lines| {
                let part = &parts[part];
                let rows = lines.start * plan.result[1]..lines.end * plan.result[1];
                let dy = dy_rows(&machine, part.dy, rows, outer.is_multiple_of(tiles.lanes), worker, dy);
                let (x, range) = (part.x, channels.clone());
                let data = plan.data(&machine, x, lines.clone(), range, worker, window, line);
                let chunk = Chunk { g, plan, data, dy, lines, channels: cut.channels, some: channels.len() };
                chunk.sum(&tiles, panel, out, add);
                add = true;
            });
        });
    });
    collect(&machine, g, &cut, shared, dw);
}

/// The operands of one chunk.
struct Chunk<'a> {
    g: &'a Geometry,
    plan: &'a Plan,
    data: Data<'a>,
    dy: &'a [f32],
    lines: Range<usize>,
    /// Input channels of one group for which the sums have room.
    channels: usize,
    /// Input channels of all groups that the data have.
    some: usize,
}

impl Chunk<'_> {
    fn sum(&self, tiles: &Tiles, packed: &mut [f32], out: &mut [f32], add: bool) {
        let (g, data) = (self.g, &self.data);
        let Some((mut walk, base, taps)) = self.walk() else { return };
        let outer = g.outputs / g.conv.groups;
        let inner = self.some / g.conv.groups;
        let blocks = tiles.blocks(outer);
        // The rows of one of many blocks lie far apart, where they would push each other out of the first cache.
        let pack = blocks.count > 1;
        if pack {
            walk.panel = walk.panel.map(|step| step / g.outputs * blocks.width);
        }
        for group in 0..g.conv.groups {
            for first in (0..outer).step_by(blocks.width.max(1)) {
                let rows = blocks.width.min(outer - first);
                let mut panel = &self.dy[group * outer + first..];
                if pack {
                    let positions = self.lines.len() * self.plan.result[1];
                    let to = packed.chunks_exact_mut(blocks.width).take(positions);
                    for (to, from) in to.zip(panel.chunks(g.outputs)) {
                        to[..rows].copy_from_slice(&from[..rows]);
                    }
                    panel = packed;
                }
                let sum = tiles.sum(rows, &walk, panel, data.elements, add);
                let (mut sources, mut results, mut n) = ([0; COLUMNS], [0; COLUMNS], 0);
                for tap in 0..g.taps() {
                    let at = base + tap / g.kernel[1] * taps[0] + tap % g.kernel[1] * taps[1] + group * inner;
                    let to = (group * g.taps() + tap) * self.channels * outer + first;
                    for c in 0..inner {
                        (sources[n], results[n]) = (at + c, to + c * outer);
                        n += 1;
                        if n == sum.columns {
                            sum.run(&sources[..n], out, &results[..n]);
                            n = 0;
                        }
                    }
                }
                sum.run(&sources[..n], out, &results[..n]);
            }
        }
    }

    /// The walk over the positions, where it begins in the data for tap (0, 0), and the data steps of taps.
    fn walk(&self) -> Option<(Walk, usize, [usize; 2])> {
        let (plan, data) = (self.plan, self.data);
        let [row, column] = plan.phases().next()?.0;
        let mut segments = plan.segments(self.lines.clone(), data);
        let first = segments.next()?;
        let second = segments.next();
        let width = plan.result[1];
        let images = self.lines.len() / first.lines.len();
        let outputs = self.g.outputs;
        let mut walk = Walk {
            counts: [images, first.lines.len(), width],
            panel: [first.lines.len() * width * outputs, width * outputs, outputs],
            data: [
                second.map_or(0, |s| s.at - first.at),
                row.scale * data.pitch,
                column.scale * data.channels,
            ],
        };
        if width == 1 {
            // One long loop instead of many short ones.
            walk.counts = [1, images, first.lines.len()];
            walk.panel.rotate_right(1);
            walk.data.rotate_right(1);
        }
        let base = first.at
            + row.begin(first.lines.start, first.rows[0]) * data.pitch
            + column.begin(0, data.left) * data.channels;
        Some((walk, base, [row.step * data.pitch, column.step * data.channels]))
    }
}

/// Adds the sums of the pieces up, in order, and brings them into the order of the weights.
fn collect(machine: &Machine<'_>, g: &Geometry, cut: &Cut, sums: &[f32], dw: &mut [f32]) {
    let (taps, groups) = (g.taps(), g.conv.groups);
    let (outer, inner, size) = (g.outputs / groups, g.inputs / groups, partial(g, cut));
    let some = [16, 8, 4, 2].into_iter().find(|&n| outer.is_multiple_of(n)).unwrap_or(1);
    machine.pool.split(dw, some * inner * taps, |task, dw, _| {
        let (group, o) = (task * some / outer, task * some % outer);
        machine.level.run(|| {
            for c in 0..inner {
                for tap in 0..taps {
                    let at = ((group * taps + tap) * cut.channels + c % cut.channels) * outer + o;
                    let mut total = [0.0f32; 16];
                    for piece in 0..cut.pieces {
                        let from = (piece * cut.blocks + c / cut.channels) * size + at;
                        let add = &sums[from..from + some];
                        total.iter_mut().zip(add).for_each(|(t, s)| *t += s);
                    }
                    for (i, t) in total.iter().enumerate().take(some) {
                        dw[(i * inner + c) * taps + tap] = *t;
                    }
                }
            }
        });
    });
}
