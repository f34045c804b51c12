//! Forward convolution and input gradient of 3×3 kernels by Winograd's F(4×4, 3×3), in f32.
//!
//! The weights are transformed once per launch. A task transforms its source patches, multiplies them with the weights of
//! a block of result channels, one small product for each of the 36 elements, and transforms the products back, block by
//! block: what it works on stays in the second cache. The input gradient is the same sum with the kernel turned by half a
//! turn and the channels exchanged.

use crate::convolution::{Emit, Geometry, Part, Rows, Weights};
use crate::correlation::launch_with;
use crate::device::Machine;
use crate::launch::Need;
use crate::method::Direction;
use crate::plan::Plan;
use crate::simd::Level;
use crate::tile::{Blocks, Evenly, Tiles, Walk};
use crate::winograd_transform::{POINTS, Planes, ROWS, SIDE, input, output, patches, weight};
use std::ops::Range;

/// Patches that a task aims at: enough to use a transformed weight often, few enough for the second cache.
const PATCHES: usize = 48;

/// The fewest patches that a task is cut down to, where there are twice as many.
const FEW: usize = 32;

/// Tasks that a launch should have.
const TASKS: usize = 8;

/// Result channels of the widest block, at any level.
const WIDTH: usize = 64;

/// f32 between the transformed weights of one element and the next, so that the elements of one pair of channels do not
/// push each other out of the first cache.
const SKIP: usize = 16;

/// Source channels that are gathered together.
const GATHERED: usize = 16;

/// Whether it computes such convolutions: forward ones and input gradients.
pub fn fits(g: &Geometry) -> bool {
    let conv = &g.conv;
    g.kernel == [3, 3]
        && (conv.stride, conv.dilation, conv.groups) == ([1, 1], [1, 1], 1)
        && conv.pad.iter().all(|&pad| pad <= 2)
        && g.inputs > 0
        && g.outputs > 0
}

/// Whether it is faster than the sum over the taps, of f32 or, where `bf16`, of pairs of bf16.
///
/// Times in multiply-adds of a full tile, of one channel pair: a sum over taps takes nine a position, products of patches
/// 36 a patch. The transforms take time for each channel of a patch, those of weights for each pair of channels.
pub fn pays(g: &Geometry, direction: Direction, images: &[usize], bf16: bool) -> bool {
    let [height, width] = if direction == Direction::InputGradient { g.input } else { g.output };
    // Those of one part, so that a sub-net beside others is computed as it is alone.
    let images = images.iter().copied().max().unwrap_or(0);
    let (inputs, outputs) = (g.inputs as f64, g.outputs as f64);
    let positions = (images * height * width) as f64;
    let patches = (images * height.div_ceil(SIDE) * width.div_ceil(SIDE)) as f64;
    let direct = (if bf16 { 4.5 } else { 9.0 }) * positions * inputs * outputs;
    let products = patches * 36.0 * inputs * outputs;
    let transforms = 320.0 * patches * (inputs + outputs) + 1000.0 * inputs * outputs;
    inputs.min(outputs) >= 8.0 && 1.1 * (products + transforms) < direct
}

/// The plan of a part: tasks of whole rows of patches.
pub fn plan(g: &Geometry, backward: bool, images: usize) -> Plan {
    let plan = Plan::new(g, backward, images);
    let [height, width] = plan.result;
    let (down, across) = (height.div_ceil(SIDE).max(1), width.div_ceil(SIDE).max(1));
    let all = images * down * across;
    let target = PATCHES.min((all / TASKS).max(FEW.min(all.div_ceil(2))));
    if down * across <= target {
        return plan.with_lines((target / (down * across) * height).max(1));
    }
    let pieces = down.div_ceil((target / across).max(1));
    let lines = down.div_ceil(pieces) * SIDE;
    // Tasks go on from image to image, so that only lines of whole patches can be cut.
    let whole = height.is_multiple_of(SIDE) || down * across > 4 * PATCHES;
    plan.with_lines(if whole { lines } else { height })
}

/// Source channels whose transformed weights lie together.
fn chunk(channels: usize) -> usize {
    [64, 48, 32].into_iter().find(|&n| channels.is_multiple_of(n)).unwrap_or(channels)
}

/// f32 that some lines of a task need: for a window, for transformed source patches, and for products.
fn sizes(plan: &Plan, lines: Range<usize>, width: usize) -> [usize; 3] {
    let count = patches(plan, lines.clone());
    let planes = |channels| Planes::new(count, channels).size();
    [plan.window(lines, plan.from), planes(plan.from), planes(width.min(plan.to))]
}

/// Workspace of a launch.
pub fn need(g: &Geometry, backward: bool, images: &[usize]) -> Need {
    let (from, to) = if backward { (g.outputs, g.inputs) } else { (g.inputs, g.outputs) };
    let part = |&images: &usize| {
        let plan = plan(g, backward, images);
        let task = |t| sizes(&plan, plan.task_lines(t), WIDTH).iter().sum::<usize>();
        (0..plan.tasks()).map(task).max().unwrap_or(0) + plan.task_rows() * plan.to
    };
    let scratch = images.iter().map(part).max().unwrap_or(0);
    let skips = (from / chunk(from)) * to.div_ceil(ROWS / 2) * SKIP;
    Need { scratch, shared: POINTS * (from * Blocks::most(to) + skips), ..Need::default() }
}

/// y = conv(x, w), or dx where `backward`; the arguments are those of [`crate::convolution::run`].
pub fn run(
    machine: &mut Machine<'_>,
    g: &Geometry,
    backward: bool,
    w: Weights<'_>,
    parts: &mut [Part<'_>],
    emit: Option<&dyn Emit>,
) {
    let tiles = Tiles::new(machine.level);
    let (from, to) = if backward { (g.outputs, g.inputs) } else { (g.inputs, g.outputs) };
    let (blocks, chunk) = (tiles.blocks(to), chunk(from));
    let chunks = from / chunk;
    // By block of result channels, chunk of source channels, element, source channel, result channel.
    let plane = chunk * blocks.width + SKIP;
    let piece = POINTS * plane;
    let (machine, shared) = machine.with_shared(blocks.count * chunks * piece);
    machine.pool.split(shared, piece, |task, out, _| {
        let (block, first) = (task / chunks, task % chunks * chunk);
        let begin = block * blocks.width;
        let rows = begin..to.min(begin + blocks.width);
        let pack = Pack { g, backward, rows, channels: first..first + chunk, width: blocks.width };
        match w {
            Weights::F32(w) => pack.run(machine.level, out, w, |w| w),
            Weights::Bf16(w) => pack.run(machine.level, out, w, |w| f32::from_bits(u32::from(w) << 16)),
        }
    });
    let weights = &*shared;
    let size = |plan: &Plan, lines| sizes(plan, lines, blocks.width).iter().sum();
    let plan = |images| plan(g, backward, images);
    launch_with(
        &machine,
        parts,
        emit,
        plan,
        size,
        |plan, x: &dyn Rows, lines, worker, scratch, out, ahead| {
            let sizes = sizes(plan, lines.clone(), blocks.width);
            let (window, rest) = scratch.split_at_mut(sizes[0]);
            let (sources, products) = rest.split_at_mut(sizes[1]);
            let data = match x.direct() {
                Some(all) => plan.unpadded(all),
                None => plan.data(&machine, x, lines.clone(), 0..from, worker, window, &mut []),
            };
            let count = patches(plan, lines.clone());
            let planes = Planes::new(count, from);
            input(machine.level, plan, data, lines.clone(), &planes, sources);
            let asked = ahead.share(blocks.count * POINTS);
            let walk =
                Walk { counts: [1, chunks, chunk], panel: [0, piece, blocks.width], data: [0, chunk, 1] };
            if blocks.count == 1 && blocks.width <= planes.row {
                // Products take the place of what they were made of: fewer lines to hold and to fetch.
                for k in 0..POINTS {
                    let source = &mut sources[k * planes.plane..][..planes.plane];
                    let sum = tiles.sum_in_place(to, &walk, &weights[k * plane..], source);
                    sum.beside(ahead.take(asked)).run(count, planes.row);
                }
                let results = Planes { channels: to, ..planes };
                return output(machine.level, plan, data, lines, &results, sources, out, 0);
            }
            for block in 0..blocks.count {
                let first = block * blocks.width;
                let results = Planes::new(count, blocks.width.min(to - first));
                for k in 0..POINTS {
                    let panel = &weights[block * chunks * piece + k * plane..];
                    let (source, product) =
                        (&sources[k * planes.plane..][..planes.plane], &mut products[k * results.plane..]);
                    // The panel of the next element, or of the next block.
                    let next = match (k + 1 < POINTS, block + 1 < blocks.count) {
                        (true, _) => plane,
                        (false, true) => chunks * piece - k * plane,
                        (false, false) => 0,
                    };
                    let sum = tiles.sum(results.channels, &walk, panel, source, false).asking(next);
                    let sum = sum.beside(ahead.take(asked));
                    sum.run_evenly(Evenly { count, data: planes.row, out: results.row }, product);
                }
                output(machine.level, plan, data, lines.clone(), &results, products, out, first);
            }
        },
    );
}

/// The transformed weights of some result and source channels.
struct Pack<'a> {
    g: &'a Geometry,
    backward: bool,
    /// Result channels.
    rows: Range<usize>,
    /// Source channels.
    channels: Range<usize>,
    width: usize,
}

impl Pack<'_> {
    fn run<T: Copy>(&self, level: Level, out: &mut [f32], w: &[T], number: impl Fn(T) -> f32) {
        let row = self.g.inputs * 9;
        let (row_step, channel_step) = if self.backward { (9, row) } else { (row, 9) };
        let plane = self.channels.len() * self.width + SKIP;
        let mut taps = [0.0f32; GATHERED * 9 * ROWS];
        for first in (0..self.width).step_by(ROWS) {
            let rows = ROWS.min(self.width - first);
            let there = rows.min(self.rows.len().saturating_sub(first));
            // Rows that fill a block are zero.
            taps.fill(0.0);
            for some in (0..self.channels.len()).step_by(GATHERED) {
                let count = GATHERED.min(self.channels.len() - some);
                for r in 0..there {
                    let from = (self.rows.start + first + r) * row_step;
                    for c in 0..count {
                        let from = from + (self.channels.start + some + c) * channel_step;
                        let w: &[T] = &w[from..from + 9];
                        let to = &mut taps[c * 9 * ROWS..(c + 1) * 9 * ROWS];
                        for (t, &w) in w.iter().enumerate() {
                            to[(if self.backward { 8 - t } else { t }) * ROWS + r] = number(w);
                        }
                    }
                }
                let to = &mut out[some * self.width + first..];
                weight(level, [count, rows], &taps, to, plane, self.width);
            }
        }
    }
}
