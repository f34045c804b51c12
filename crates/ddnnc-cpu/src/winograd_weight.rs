//! The weight gradient of 3×3 convolutions of stride 1 by Winograd's F(4×4, 3×3), in f32.
//!
//! The adjoint of the forward algorithm: with V = Bᵀ d B of the 6×6 patches of x and M = A dY Aᵀ of the 4×4 patches of dy,
//! dU[ξ, c, o] is the sum over all patches of V[ξ, c] · M[ξ, o] for each of the 36 points ξ, and dw = Gᵀ dU G.
//!
//! Patches are transformed in groups, each of which lies in one piece: blocks of input channels, then blocks of output
//! channels, both `[ξ][patch][channel]`. Where dU is small, a task takes a slice of the groups, keeps dU in cache and
//! transforms it once. Otherwise all groups of a chunk are transformed first; then each task takes one pair of blocks
//! with all points and adds their dw, a quarter of dU, so that dU never goes to memory.

use crate::ahead::Ahead;
use crate::convolution::Geometry;
use crate::convolution_weight::GradPart;
use crate::device::Machine;
use crate::launch::Need;
use crate::tile::{Blocks, Evenly, Tiles, Walk};
use crate::winograd_patches::{self, Into, Map, POINTS};

/// Multiply-adds of a product that take as long as the transform of one channel of a patch.
const TRANSFORM: usize = 160;

/// Patches that a group aims at.
const GROUP: usize = 32;

/// Patches whose products are summed in registers in one go: their panel stays in the first cache.
const DEPTH: usize = 128;

/// The same where dU is small beside the second cache, which then holds the patches too.
const SHALLOW: usize = 64;

/// Elements of the second cache.
const CACHE: usize = 1 << 18;

/// Elements of dU that a task may keep for all channels.
const SMALL: usize = 1 << 18;

/// Slices of the batch where every task takes all channels.
const SLICES: usize = 16;

/// Elements of V and M of a chunk that all tasks share, unless that are fewer than [`DEPTH`] patches.
const CHUNK: usize = 1 << 22;

/// The widest block of input channels.
const WIDTH: usize = 64;

/// The most lanes of a vector, to which blocks of input channels are padded.
const LANES: usize = 16;

/// How the patches and channels are cut.
#[derive(Clone, Copy, Debug)]
struct Cut {
    /// Patches of a row of patches, and rows of patches of an image.
    tiles: [usize; 2],
    /// Rows of patches of a group.
    rows: usize,
    /// Groups of all images.
    groups: usize,
    /// Blocks of input channels.
    inputs: Blocks,
    /// Blocks of output channels.
    outputs: Blocks,
    /// Whether every task takes all channels.
    small: bool,
    /// Groups that are transformed before they are multiplied.
    together: usize,
    /// Slices of the groups.
    slices: usize,
}

impl Cut {
    fn new(g: &Geometry, images: usize, outputs: Blocks) -> Cut {
        let tiles = [g.output[1].div_ceil(4), g.output[0].div_ceil(4)];
        let rows = (GROUP / tiles[0].max(1)).max(1);
        let groups = (images * tiles[1]).div_ceil(rows);
        let count = g.inputs.div_ceil(WIDTH);
        let width = if count == 1 { g.inputs.next_multiple_of(LANES) } else { WIDTH };
        let inputs = Blocks { count, width };
        let patches = rows * tiles[0].max(1);
        // By channels alone, so that it does not depend on the level.
        let small = POINTS * g.inputs * g.outputs <= SMALL;
        let per_patch = POINTS * (g.inputs + g.outputs);
        let (together, slices) = if small {
            let cached = POINTS * g.inputs * g.outputs + per_patch * SHALLOW <= CACHE;
            let together = (if cached { SHALLOW } else { DEPTH } / patches).max(1);
            (together, SLICES.min(groups.div_ceil(together)).max(1))
        } else {
            (((CHUNK / per_patch).max(DEPTH) / patches).max(1).min(groups), 1)
        };
        Cut { tiles, rows, groups, inputs, outputs, small, together, slices }
    }

    /// Patches of a group.
    fn patches(&self) -> usize {
        self.rows * self.tiles[0]
    }

    /// Patches that a group has room for: one more, so that the points of a patch do not push each other out of the cache.
    fn room(&self) -> usize {
        self.patches() + 1
    }

    /// Elements of V and M of a group.
    fn group(&self) -> usize {
        POINTS
            * self.room()
            * (self.inputs.count * self.inputs.width + self.outputs.count * self.outputs.width)
    }

    /// Pairs of blocks.
    fn pairs(&self) -> usize {
        self.inputs.count * self.outputs.count
    }

    /// Elements of a pair of blocks.
    fn pair(&self) -> usize {
        self.inputs.width * self.outputs.width
    }

    /// Elements of the sums of all tasks: a slice's pairs of blocks, each `[tap][input][output]`.
    fn sums(&self) -> usize {
        self.slices * self.pairs() * 9 * self.pair()
    }
}

/// f32 for rows of x and of dy that are computed.
fn loaded(g: &Geometry, cut: &Cut) -> [usize; 2] {
    let [down, across] = [0, 1].map(|i| g.input[i] + 2 * g.conv.pad[i]);
    let x = (4 * cut.rows + 2).min(down) * across * g.inputs;
    let dy = (4 * cut.rows).min(g.output[0]) * g.output[1] * g.outputs;
    [x, dy]
}

/// Whether it computes such a weight gradient.
pub fn fits(g: &Geometry) -> bool {
    g.kernel == [3, 3] && g.conv.stride == [1, 1] && g.conv.dilation == [1, 1] && g.conv.groups == 1
}

/// Whether it is faster than the sum over all taps, by what was measured: whole vectors of channels, patches at least half
/// of which lies in the map, and enough of them beside the transform of the result.
///
/// Beside products of pairs of bf16 there have to be twice as many patches, of which next to nothing lies outside, and more
/// channels, for fewer make the transforms long. And a map of one patch has none for a third of what the taps reach, which sums
/// over taps leave out.
pub fn pays(g: &Geometry, images: &[usize], bf16: bool) -> bool {
    let [height, width] = g.output;
    let patches = height.div_ceil(4) * width.div_ceil(4);
    let (inside, covered) = (height * width, 16 * patches);
    let (channels, all) = (g.inputs.min(g.outputs), patches * images.iter().sum::<usize>());
    if bf16 {
        channels > LANES && patches > 1 && 10 * covered <= 11 * inside && all >= 2 * GROUP
    } else {
        channels >= LANES && covered <= 2 * inside && all >= GROUP
    }
}

/// Workspace of [`grad_weight`] for parts of so many images.
pub fn need(g: &Geometry, images: &[usize]) -> Need {
    let mut need = Need::default();
    for tiles in Tiles::all() {
        let cut = Cut::new(g, images.iter().sum(), tiles.blocks(g.outputs));
        let rows: usize = loaded(g, &cut).iter().sum();
        let (mut scratch, mut shared) = (rows, cut.sums());
        if cut.small {
            scratch += POINTS * cut.pairs() * cut.pair() + cut.together * cut.group();
        } else {
            scratch = scratch.max(POINTS * cut.pair());
            shared += cut.together * cut.group();
        }
        need.include(Need { scratch, shared, ..Need::default() });
    }
    need
}

/// dw = the sum over all parts, row-major `[O, C, 3, 3]`; the stride is 1 and there are no groups of channels.
pub fn grad_weight(machine: &mut Machine<'_>, g: &Geometry, parts: &[GradPart<'_>], dw: &mut [f32]) {
    let tiles = Tiles::new(machine.level);
    let cut = Cut::new(g, parts.iter().map(|p| p.images).sum(), tiles.blocks(g.outputs));
    let chunk = if cut.small { 0 } else { cut.together * cut.group() };
    let (machine, shared) = machine.with_shared(cut.sums() + chunk);
    let (sums, chunk) = shared.split_at_mut(cut.sums());
    let launch = Launch { machine: &machine, g, parts, cut, tiles };
    if cut.small {
        launch.slices(sums);
    } else {
        launch.chunks(sums, chunk);
    }
    launch.collect(sums, dw);
}

struct Launch<'a> {
    machine: &'a Machine<'a>,
    g: &'a Geometry,
    parts: &'a [GradPart<'a>],
    cut: Cut,
    tiles: Tiles,
}

impl Launch<'_> {
    /// Each task takes all channels of a slice of the groups.
    fn slices(&self, sums: &mut [f32]) {
        let cut = &self.cut;
        let pairs = cut.pairs();
        self.machine.pool.split(sums, pairs * 9 * cut.pair(), |slice, sums, worker| {
            self.machine.with_scratch(worker, |scratch| {
                let (du, scratch) = scratch.split_at_mut(POINTS * pairs * cut.pair());
                let (space, rows) = scratch.split_at_mut(cut.together * cut.group());
                let [from, to] = [slice, slice + 1].map(|s| cut.groups * s / cut.slices);
                for first in (from..to).step_by(cut.together) {
                    let count = cut.together.min(to - first);
                    let mut ahead = Ahead::default();
                    let later = if first + count < to {
                        first + count
                    } else {
                        // The slice that a worker draws next, if all take as long.
                        cut.groups * (slice + self.machine.pool.threads()) / cut.slices
                    };
                    self.list(later, count, &mut ahead);
                    let [of_x, of_dy, of_point] = self.asked(ahead.lines(), count);
                    for (i, out) in space.chunks_exact_mut(cut.group()).take(count).enumerate() {
                        self.transform(first + i, out, rows, worker, (&ahead, [of_x, of_dy]));
                    }
                    for (pair, du) in du.chunks_exact_mut(POINTS * cut.pair()).enumerate() {
                        self.multiply(
                            &space[..count * cut.group()],
                            pair,
                            du,
                            first > from,
                            (&ahead, of_point),
                        );
                    }
                }
                for (du, sums) in
                    du.chunks_exact(POINTS * cut.pair()).zip(sums.chunks_exact_mut(9 * cut.pair()))
                {
                    winograd_patches::weight(self.machine.level, du, sums, false);
                }
            });
        });
    }

    /// Each task takes a pair of blocks of channels of all groups of a chunk.
    fn chunks(&self, sums: &mut [f32], space: &mut [f32]) {
        let cut = &self.cut;
        for first in (0..cut.groups).step_by(cut.together) {
            let count = cut.together.min(cut.groups - first);
            let space = &mut space[..count * cut.group()];
            self.machine.pool.split(space, cut.group(), |group, out, worker| {
                let mut ahead = Ahead::default();
                self.list(first + group + self.machine.pool.threads(), 1, &mut ahead);
                let asked = ahead.lines().div_ceil(2 * cut.patches().max(1));
                self.machine.with_scratch(worker, |rows| {
                    self.transform(first + group, out, rows, worker, (&ahead, [asked; 2]));
                });
            });
            let space = &*space;
            self.machine.pool.split(sums, 9 * cut.pair(), |pair, sums, worker| {
                self.machine.with_scratch(worker, |scratch| {
                    let du = &mut scratch[..POINTS * cut.pair()];
                    self.multiply(space, pair, du, false, (&Ahead::default(), 0));
                    winograd_patches::weight(self.machine.level, du, sums, first > 0);
                });
            });
        }
    }

    /// Lists the rows of x and dy of some groups.
    fn list(&self, first: usize, count: usize, ahead: &mut Ahead) {
        let [_, down] = self.cut.tiles;
        let rows = first * self.cut.rows..(first + count) * self.cut.rows;
        let mut before = 0;
        for part in self.parts {
            let of_part = before..before + part.images * down;
            before = of_part.end;
            let (begin, end) = (rows.start.max(of_part.start), rows.end.min(of_part.end));
            if begin >= end {
                continue;
            }
            for (map, size) in [(part.x, self.g.input), (part.dy, self.g.output)] {
                let line = |row: usize| {
                    let row = row - of_part.start;
                    row / down * size[0] + (4 * (row % down)).min(size[0])
                };
                map.list(line(begin) * size[1], (line(end) - line(begin)) * size[1], ahead);
            }
        }
    }

    /// How many of so many lines are to be asked for beside a patch of x, a patch of dy and a point of a pair of blocks,
    /// while so many groups are transformed and multiplied: by the time that each takes.
    fn asked(&self, lines: usize, groups: usize) -> [usize; 3] {
        let (g, cut) = (self.g, &self.cut);
        let patches = groups * cut.patches();
        let (x, dy, products) = (TRANSFORM * g.inputs, TRANSFORM * g.outputs, POINTS * g.inputs * g.outputs);
        let share =
            |time: usize, pieces: usize| (lines * time).div_ceil((pieces * (x + dy + products)).max(1));
        [share(x, patches), share(dy, patches), share(products, POINTS * cut.pairs())]
    }

    /// V and M of a group; zero past the last row of patches.
    fn transform(
        &self,
        group: usize,
        out: &mut [f32],
        scratch: &mut [f32],
        worker: usize,
        (ahead, asked): (&Ahead, [usize; 2]),
    ) {
        let (g, cut, machine) = (self.g, &self.cut, self.machine);
        let [size_x, size_dy] = loaded(g, cut);
        let (xs, scratch) = scratch.split_at_mut(size_x);
        let dys = &mut scratch[..size_dy];
        let (patches, room) = (cut.patches(), cut.room());
        let (v, m) = out.split_at_mut(POINTS * room * cut.inputs.count * cut.inputs.width);
        let (mut row, end) = (group * cut.rows, (group + 1) * cut.rows);
        let [across, down] = cut.tiles;
        let (mut before, mut done) = (0, 0);
        for part in self.parts {
            let rows = before..before + part.images * down;
            before = rows.end;
            while row < end && rows.contains(&row) {
                let (image, first) = ((row - rows.start) / down, (row - rows.start) % down);
                let count = (end - row).min(down - first);
                let (low, high) = (4 * first, 4 * (first + count));
                let pad = g.conv.pad;
                let [end_x, end_dy] = [g.input[0] + 2 * pad[0], g.output[0]];
                let lines = low.min(end_x)..(high + 2).min(end_x);
                let x = Map::load(machine, part.x, (image, g.input), lines, pad, worker, xs);
                let lines = low.min(end_dy)..high.min(end_dy);
                let dy = Map::load(machine, part.dy, (image, g.output), lines, [0, 0], worker, dys);
                let into = |width| Into { patches, room, first: done, width };
                let corner = [low, 0];
                winograd_patches::input(
                    machine.level,
                    &x,
                    corner,
                    pad,
                    [count, across],
                    into(cut.inputs.width),
                    v,
                    || ahead.ask(asked[0]),
                );
                winograd_patches::gradient(
                    machine.level,
                    &dy,
                    corner,
                    [count, across],
                    into(cut.outputs.width),
                    m,
                    || ahead.ask(asked[1]),
                );
                done += count * across;
                row += count;
            }
        }
        let clear = |all: &mut [f32], width: usize| {
            for of_point in all.chunks_exact_mut(room * width) {
                of_point[done * width..patches * width].fill(0.0);
            }
        };
        if done < patches {
            clear(v, cut.inputs.width);
            clear(m, cut.outputs.width);
        }
    }

    /// dU `[ξ][input][output]` of a pair of blocks; added to what is there where `add`.
    fn multiply(
        &self,
        groups: &[f32],
        pair: usize,
        du: &mut [f32],
        add: bool,
        (ahead, asked): (&Ahead, usize),
    ) {
        let (g, cut) = (self.g, &self.cut);
        let (i, o) = (pair / cut.outputs.count, pair % cut.outputs.count);
        let (wide, high) = (cut.inputs.width, cut.outputs.width);
        let columns = wide.min(g.inputs - i * wide);
        let rows = high.min(g.outputs - o * high);
        let (patches, room, size) = (cut.patches(), cut.room(), cut.group());
        let count = groups.len() / size;
        let some = (DEPTH / patches).max(1);
        for point in 0..POINTS {
            // Beside the first of its sums.
            let mut lines = ahead.take(asked);
            let v = (i * POINTS + point) * room * wide;
            let m = POINTS * room * cut.inputs.count * wide + (o * POINTS + point) * room * high;
            let du = &mut du[point * wide * high..(point + 1) * wide * high];
            for first in (0..count).step_by(some) {
                let walk = Walk {
                    counts: [1, some.min(count - first), patches],
                    panel: [0, size, high],
                    data: [0, size, wide],
                };
                let (panel, data) = (&groups[first * size + m..], &groups[first * size + v..]);
                let sum = self.tiles.sum(rows, &walk, panel, data, add || first > 0);
                sum.beside(std::mem::take(&mut lines))
                    .run_evenly(Evenly { count: columns, data: 1, out: high }, du);
            }
        }
    }

    /// Adds the slices up, in order, and brings them into the order of the weights.
    fn collect(&self, sums: &[f32], dw: &mut [f32]) {
        let (g, cut) = (self.g, &self.cut);
        let (wide, high, size) = (cut.inputs.width, cut.outputs.width, 9 * cut.pair());
        let some = [16, 8, 4, 2]
            .into_iter()
            .find(|&n| g.outputs.is_multiple_of(n) && high.is_multiple_of(n))
            .unwrap_or(1);
        self.machine.pool.split(dw, some * g.inputs * 9, |task, dw, _| {
            let o = task * some;
            self.machine.level.run(|| {
                for c in 0..g.inputs {
                    let pair = c / wide * cut.outputs.count + o / high;
                    for tap in 0..9 {
                        let at = pair * size + (tap * wide + c % wide) * high + o % high;
                        let mut total = [0.0f32; 16];
                        for slice in 0..cut.slices {
                            let from = slice * cut.pairs() * size + at;
                            total.iter_mut().zip(&sums[from..from + some]).for_each(|(t, s)| *t += s);
                        }
                        for (i, t) in total.iter().enumerate().take(some) {
                            dw[(i * g.inputs + c) * 9 + tap] = *t;
                        }
                    }
                }
            });
        });
    }
}
