//! Convolution and its gradients as products with gathered columns.
//!
//! Forward and input gradient: a panel is up to [`Gemm::width`] output positions of one image, gathered in packed form
//! [`DEPTH`] rows at a time and multiplied with the weights. The input gradient is, for each phase of the stride, a
//! convolution of dy with the taps of that phase; its positions lie apart in dx. Weight gradient: dy transposed into
//! panels of output channels, times gathered rows, summed over a number of batch pieces that the shapes fix.

use crate::columns::{Columns, Phase};
use crate::depthwise;
use crate::device::Machine;
use crate::gemm::{DEPTH, MAX_WIDTH, Right};
use ddnnc_ir::Conv;

/// Rows of columns in one task of the weight gradient.
const ROWS: usize = 144;

/// Positions in one panel of the weight gradient.
const POSITIONS: usize = 256;

/// The most elements of partial weight gradients.
const PARTIALS: usize = 1 << 22;

/// f32 elements that one worker needs for any convolution.
pub const SCRATCH: usize = {
    let forward = DEPTH * MAX_WIDTH;
    let weight = (ROWS + MAX_WIDTH) * POSITIONS;
    if forward > weight { forward } else { weight }
};

/// f32 elements that one worker needs for the input gradient of a convolution with weights of extents `w`.
pub fn grad_input_scratch(w: &[usize]) -> usize {
    SCRATCH.max(DEPTH * MAX_WIDTH + MAX_WIDTH * w[1])
}

/// Extents of x, w and y = conv(x, w), each four.
#[derive(Clone, Copy)]
pub struct Extents<'a> {
    /// `[N, C, H, W]`
    pub x: &'a [usize],
    /// `[O, C/groups, kh, kw]`
    pub w: &'a [usize],
    /// `[N, O, H', W']`
    pub y: &'a [usize],
}

impl Extents<'_> {
    fn kernel(&self) -> [usize; 2] {
        [self.w[2], self.w[3]]
    }

    fn taps(&self) -> usize {
        self.w[2] * self.w[3]
    }

    fn is_depthwise(&self, conv: &Conv) -> bool {
        conv.groups > 1 && conv.groups == self.x[1] && conv.groups == self.w[0]
    }

    /// Batch pieces and tasks per piece of the weight gradient.
    fn weight_tasks(&self, conv: &Conv) -> (usize, usize) {
        let most = (PARTIALS / self.w.iter().product::<usize>().max(1)).clamp(1, 8);
        let pieces = self.x[0].min(most).max(1);
        (pieces, conv.groups * (self.w[1] * self.taps()).div_ceil(ROWS))
    }

    /// Elements of partial weight gradients.
    pub fn weight_shared(&self, conv: &Conv) -> usize {
        if self.is_depthwise(conv) {
            return 0;
        }
        let (pieces, tasks) = self.weight_tasks(conv);
        pieces * tasks * ROWS * (self.w[0] / conv.groups)
    }
}

/// Pieces into which the channels of one image and group are cut so that small batches have tasks for every thread.
fn cuts(images: usize, channels: usize) -> usize {
    let mut cuts = 1;
    while images * cuts < 16 && channels.is_multiple_of(2 * cuts) && channels / cuts > 12 {
        cuts *= 2;
    }
    cuts
}

/// Positions of a result that one set of taps serves.
#[derive(Clone, Copy)]
struct Part {
    columns: Columns,
    /// Taps.
    taps: usize,
    /// Taps of the parts before it.
    before: usize,
    /// Where the positions lie in a map of the result; `None` for all of it.
    grid: Option<Grid>,
    /// Positions.
    positions: usize,
}

/// Every so many rows and columns of a map.
#[derive(Clone, Copy)]
struct Grid {
    first: [usize; 2],
    step: [usize; 2],
    /// Columns of the grid.
    width: usize,
    /// Columns of the map.
    map_width: usize,
}

impl Grid {
    /// Writes into a map; entry i of `values` is position `from + i` of the grid.
    #[inline(always)]
    fn scatter(&self, values: &[f32], from: usize, map: &mut [f32]) {
        let mut at = 0;
        while at < values.len() {
            let (row, column) = ((from + at) / self.width, (from + at) % self.width);
            let run = (self.width - column).min(values.len() - at);
            let start =
                (self.first[0] + row * self.step[0]) * self.map_width + self.first[1] + column * self.step[1];
            let to = map[start..].iter_mut().step_by(self.step[1]);
            to.zip(&values[at..at + run]).for_each(|(to, v)| *to = *v);
            at += run;
        }
    }
}

/// One product per image and group: columns of `source` times `weights`, whose row for a result channel has for each
/// part `inner` channels of the part's taps.
struct Product<'a> {
    source: &'a [f32],
    weights: &'a [f32],
    groups: usize,
    /// Channels of one group of the source.
    inner: usize,
    /// Entries of a row of weights.
    pitch: usize,
    /// Elements of one image and group of the source.
    source_group: usize,
    /// Channels of the result, all groups.
    channels: usize,
    /// Positions of the result.
    positions: usize,
}

impl Product<'_> {
    fn run(&self, machine: &Machine<'_>, parts: impl Iterator<Item = Part> + Clone + Sync, out: &mut [f32]) {
        let per_group = self.channels / self.groups;
        let groups = out.len() / (per_group * self.positions).max(1);
        let cuts = cuts(groups, per_group);
        let count = per_group / cuts;
        machine.pool.split(out, count * self.positions, |task, out, worker| {
            let (unit, cut) = (task / cuts, task % cuts);
            let group = unit % self.groups;
            let weights = &self.weights[(group * per_group + cut * count) * self.pitch..];
            let maps = &self.source[unit * self.source_group..][..self.source_group];
            machine.with_scratch(worker, |scratch| {
                machine.level.run(|| {
                    for part in parts.clone() {
                        self.image(machine, &part, maps, weights, count, scratch, out);
                    }
                });
            });
        });
    }

    #[inline(always)]
    #[expect(clippy::too_many_arguments, reason = "the operands of one task")]
    fn image(
        &self,
        machine: &Machine<'_>,
        part: &Part,
        maps: &[f32],
        weights: &[f32],
        count: usize,
        scratch: &mut [f32],
        out: &mut [f32],
    ) {
        let gemm = &machine.gemm;
        let (panel, apart) = scratch.split_at_mut(DEPTH * MAX_WIDTH);
        let (all, before) = (self.inner * part.taps, self.inner * part.before);
        for first in (0..part.positions).step_by(gemm.width) {
            let rows = gemm.width.min(part.positions - first);
            let width = gemm.panel_width(rows);
            let (to, step) = match part.grid {
                None => (&mut out[first..], self.positions),
                Some(_) => (&mut apart[..count * width], width),
            };
            if all == 0 {
                to.fill(0.0);
            }
            for from in (0..all).step_by(DEPTH) {
                let depth = DEPTH.min(all - from);
                part.columns.gather(maps, (from, depth), (first, rows), panel, width);
                let right = Right { data: &weights[before + from..], row_step: 1, column_step: self.pitch };
                gemm.product((rows, count, depth), panel, right, to, step, from > 0);
            }
            if let Some(grid) = part.grid {
                for (values, map) in apart.chunks_exact(width).zip(out.chunks_exact_mut(self.positions)) {
                    grid.scatter(&values[..rows], first, map);
                }
            }
        }
    }
}

/// y = conv(x, w).
pub fn forward(
    machine: &mut Machine<'_>,
    conv: &Conv,
    extents: Extents<'_>,
    x: &[f32],
    w: &[f32],
    y: &mut [f32],
) {
    if extents.is_depthwise(conv) {
        return depthwise::forward(machine, conv, extents, x, w, y);
    }
    let Extents { x: xd, w: wd, y: yd } = extents;
    let product = Product {
        source: x,
        weights: w,
        groups: conv.groups,
        inner: wd[1],
        pitch: wd[1] * extents.taps(),
        source_group: wd[1] * xd[2] * xd[3],
        channels: wd[0],
        positions: yd[2] * yd[3],
    };
    let part = Part {
        columns: Columns::forward(conv, [xd[2], xd[3]], extents.kernel(), yd[3]),
        taps: extents.taps(),
        before: 0,
        grid: None,
        positions: yd[2] * yd[3],
    };
    product.run(machine, std::iter::once(part), y);
}

/// The phases of the input gradient, each with the taps of those before it.
fn phases(
    conv: Conv,
    kernel: [usize; 2],
    input: [usize; 2],
) -> impl Iterator<Item = ([Phase; 2], usize)> + Clone {
    let columns = Phase::along(conv, 1, input[1], kernel[1]);
    Phase::along(conv, 0, input[0], kernel[0])
        .flat_map(move |row| columns.clone().map(move |column| [row, column]))
        .scan(0, |taps, phase| {
            let before = *taps;
            *taps += phase[0].taps * phase[1].taps;
            Some((phase, before))
        })
}

/// dx of y = conv(x, w); needs as many shared elements as w has and [`grad_input_scratch`] for each worker.
pub fn grad_input(
    machine: &mut Machine<'_>,
    conv: &Conv,
    extents: Extents<'_>,
    dy: &[f32],
    w: &[f32],
    dx: &mut [f32],
) {
    if extents.is_depthwise(conv) {
        return depthwise::grad_input(machine, conv, extents, dy, w, dx);
    }
    let Extents { x: xd, w: wd, y: yd } = extents;
    let (taps, inner, outer) = (extents.taps(), wd[1], wd[0] / conv.groups);
    let phases = phases(*conv, extents.kernel(), [xd[2], xd[3]]);
    let (machine, shared) = machine.with_shared(w.len());
    // w[g·outer + o, c] goes to shared[g·inner + c], phase by phase: a row of weights per input channel.
    machine.pool.split(shared, outer * taps, |row, out, _| {
        let (group, c) = (row / inner, row % inner);
        for ([rows, columns], before) in phases.clone() {
            let mut to = out[outer * before..].iter_mut();
            for o in 0..outer {
                let w = &w[((group * outer + o) * inner + c) * taps..][..taps];
                for k in 0..rows.taps {
                    let line = &w[(rows.tap + k * rows.skip) * wd[3]..][..wd[3]];
                    // Taps first: `zip` takes nothing of `to` once they have ended.
                    let taken = line[columns.tap..].iter().step_by(columns.skip).take(columns.taps);
                    taken.zip(&mut to).for_each(|(w, to)| *to = *w);
                }
            }
        }
    });
    let product = Product {
        source: dy,
        weights: shared,
        groups: conv.groups,
        inner: outer,
        pitch: outer * taps,
        source_group: outer * yd[2] * yd[3],
        channels: xd[1],
        positions: xd[2] * xd[3],
    };
    let parts = phases.map(|(phase, before)| {
        let [rows, columns] = phase;
        let grid = Grid {
            first: [rows.first, columns.first],
            step: conv.stride,
            width: columns.positions,
            map_width: xd[3],
        };
        Part {
            columns: Columns::backward(conv, [yd[2], yd[3]], phase),
            taps: rows.taps * columns.taps,
            before,
            grid: (conv.stride != [1, 1]).then_some(grid),
            positions: rows.positions * columns.positions,
        }
    });
    product.run(&machine, parts, dx);
}

/// dw of y = conv(x, w); needs [`Extents::weight_shared`] shared elements.
pub fn grad_weight(
    machine: &mut Machine<'_>,
    conv: &Conv,
    extents: Extents<'_>,
    x: &[f32],
    dy: &[f32],
    dw: &mut [f32],
) {
    if extents.is_depthwise(conv) {
        return depthwise::grad_weight(machine, conv, extents, x, dy, dw);
    }
    let Extents { x: xd, w: wd, y: yd } = extents;
    let depth = wd[1] * extents.taps();
    let outer = wd[0] / conv.groups;
    let (pieces, tasks) = extents.weight_tasks(conv);
    let blocks = tasks / conv.groups;
    let columns = Columns::forward(conv, [xd[2], xd[3]], extents.kernel(), yd[3]);
    let (positions, area) = (yd[2] * yd[3], xd[2] * xd[3]);
    let (machine, shared) = machine.with_shared(extents.weight_shared(conv));
    let gemm = &machine.gemm;
    machine.pool.split(shared, ROWS * outer, |task, out, worker| {
        let (piece, group, block) = (task / tasks, task % tasks / blocks, task % blocks);
        let from = block * ROWS;
        let rows = ROWS.min(depth - from);
        let mut body = |scratch: &mut [f32]| {
            out.fill(0.0);
            let (gathered, panel) = scratch.split_at_mut(ROWS * POSITIONS);
            for n in xd[0] * piece / pieces..xd[0] * (piece + 1) / pieces {
                let maps = &x[(n * xd[1] + group * wd[1]) * area..][..wd[1] * area];
                let dy = &dy[(n * wd[0] + group * outer) * positions..][..outer * positions];
                for first in (0..positions).step_by(POSITIONS) {
                    let count = POSITIONS.min(positions - first);
                    columns.gather(maps, (from, rows), (first, count), gathered, count);
                    let right = Right { data: gathered, row_step: 1, column_step: count };
                    for o in (0..outer).step_by(gemm.width) {
                        let height = gemm.width.min(outer - o);
                        let width = gemm.panel_width(height);
                        transpose(&dy[o * positions + first..], positions, height, count, width, panel);
                        gemm.product((height, rows, count), panel, right, &mut out[o..], outer, true);
                    }
                }
            }
        };
        machine.with_scratch(worker, |scratch| machine.level.run(|| body(scratch)));
    });
    let shared = &*shared;
    machine.pool.split(dw, depth, |row, dw, _| {
        let (group, o) = (row / outer, row % outer);
        for (k, dw) in dw.iter_mut().enumerate() {
            let (block, k) = (k / ROWS, k % ROWS);
            let at = |piece: usize| {
                ((piece * conv.groups + group) * blocks + block) * ROWS * outer + k * outer + o
            };
            *dw = (0..pieces).map(|piece| shared[at(piece)]).sum();
        }
    });
}

/// out(row, k) at `k · width + row` = from(row, k) at `row · pitch + k`.
#[inline(always)]
fn transpose(from: &[f32], pitch: usize, rows: usize, count: usize, width: usize, out: &mut [f32]) {
    // Sixteen steps at a time keep the lines that are written in the first cache.
    for begin in (0..count).step_by(16) {
        let len = 16.min(count - begin);
        for row in 0..rows {
            let line = &from[row * pitch + begin..][..len];
            for (k, &v) in line.iter().enumerate() {
                out[(begin + k) * width + row] = v;
            }
        }
    }
}
