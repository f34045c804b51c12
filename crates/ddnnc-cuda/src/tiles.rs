//! How a matrix product is cut into tiles: the candidates, and a model of what each would cost.
//!
//! The model counts cycles of one multiprocessor. A step of a block along the depth takes its arithmetic or its copies from
//! the L2 cache, its accesses to shared memory and a constant; a block takes its steps, and a constant and its epilogue
//! besides; the blocks are dealt to the multiprocessors, and the fullest one decides. It only has to rank the candidates:
//! absolute times are not claimed. The constants for wide products in bf16 are fitted to times of an H100; for all others, and for
//! how often the depth is cut, they are estimates.

use crate::arch::{Math, Target};
use crate::limits::multiprocessor;
use ddnnc_ir::DType;

/// What multiplies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    /// f32 units.
    Exact,
    /// Matrix units on f32 rounded to tf32.
    Tf32,
    /// Matrix units on bf16.
    Bf16,
}

impl Unit {
    /// What multiplies elements of that type.
    pub(crate) fn of(dtype: DType, target: &Target) -> Unit {
        match (dtype, target.math) {
            (DType::Bf16, _) => Unit::Bf16,
            (_, Math::Tf32) => Unit::Tf32,
            (_, Math::Exact) => Unit::Exact,
        }
    }

    /// Bytes of an element in a tile.
    pub(crate) fn element(self) -> usize {
        if self == Unit::Bf16 { 2 } else { 4 }
    }

    /// Floating-point operations per cycle of one multiprocessor (A100; newer ones differ by a factor common to all
    /// candidates).
    fn rate(self) -> f64 {
        match self {
            Unit::Exact => 128.0,
            Unit::Tf32 => 1024.0,
            Unit::Bf16 => 2048.0,
        }
    }
}

/// A way of cutting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tile {
    /// Rows of a block's tile.
    pub rows: usize,
    /// Columns of it.
    pub columns: usize,
    /// Depth of a stage.
    pub depth: usize,
    /// How warps (threads, where f32 units multiply) lie over rows and columns.
    pub units: [usize; 2],
    /// Threads of a block.
    pub threads: usize,
    /// Whether the units are warpgroups: Hopper's `wgmma`, of 64 rows each, with bf16 operands in shared memory.
    pub warpgroups: bool,
}

const fn on_matrix_units(rows: usize, columns: usize, depth: usize, warps: [usize; 2]) -> Tile {
    Tile { rows, columns, depth, units: warps, threads: 32 * warps[0] * warps[1], warpgroups: false }
}

const fn by_warpgroups(rows: usize, columns: usize, units: [usize; 2]) -> Tile {
    Tile { rows, columns, depth: 64, units, threads: 128 * units[0] * units[1], warpgroups: true }
}

const fn on_f32_units(rows: usize, columns: usize, units: [usize; 2]) -> Tile {
    Tile { rows, columns, depth: 16, units, threads: units[0] * units[1], warpgroups: false }
}

/// Legal tiles. Every operand's chunks divide among the threads of each, whichever way it lies.
const BF16: [Tile; 17] = [
    on_matrix_units(256, 128, 32, [4, 2]),
    on_matrix_units(128, 256, 32, [2, 4]),
    on_matrix_units(256, 64, 32, [4, 2]),
    on_matrix_units(256, 64, 64, [4, 2]),
    on_matrix_units(128, 128, 32, [2, 2]),
    on_matrix_units(128, 128, 64, [2, 2]),
    on_matrix_units(128, 64, 32, [2, 2]),
    on_matrix_units(128, 64, 64, [2, 2]),
    on_matrix_units(64, 128, 32, [2, 2]),
    on_matrix_units(128, 32, 32, [4, 1]),
    on_matrix_units(128, 32, 64, [4, 1]),
    on_matrix_units(64, 64, 32, [2, 2]),
    on_matrix_units(64, 64, 64, [2, 2]),
    on_matrix_units(64, 32, 32, [2, 2]),
    on_matrix_units(64, 32, 64, [2, 2]),
    on_matrix_units(32, 32, 32, [2, 2]),
    on_matrix_units(32, 32, 64, [2, 2]),
];
/// Rows and columns are multiples of 64, the depth is 64: rows of 128 bytes (`wgmma.cuh`).
const WARPGROUPS: [Tile; 7] = [
    by_warpgroups(256, 128, [2, 1]),
    by_warpgroups(128, 256, [2, 1]),
    by_warpgroups(256, 64, [2, 1]),
    by_warpgroups(128, 128, [2, 1]),
    by_warpgroups(128, 64, [2, 1]),
    by_warpgroups(64, 128, [1, 1]),
    by_warpgroups(64, 64, [1, 1]),
];
const TF32: [Tile; 9] = [
    on_matrix_units(128, 128, 16, [2, 4]),
    on_matrix_units(128, 128, 32, [2, 4]),
    on_matrix_units(128, 64, 16, [2, 2]),
    on_matrix_units(128, 64, 32, [2, 2]),
    on_matrix_units(64, 128, 16, [2, 2]),
    on_matrix_units(128, 32, 32, [4, 1]),
    on_matrix_units(64, 64, 32, [2, 2]),
    on_matrix_units(64, 32, 32, [2, 2]),
    on_matrix_units(32, 32, 32, [2, 2]),
];
const EXACT: [Tile; 6] = [
    on_f32_units(128, 128, [16, 16]),
    on_f32_units(128, 64, [16, 8]),
    on_f32_units(128, 32, [16, 8]),
    on_f32_units(64, 64, [16, 8]),
    on_f32_units(64, 32, [16, 8]),
    on_f32_units(32, 32, [8, 8]),
];

impl Tile {
    /// All legal ones; of a forced tile's extents the first is taken.
    pub(crate) fn all(unit: Unit, target: &Target) -> Vec<Tile> {
        match unit {
            Unit::Exact => EXACT.to_vec(),
            Unit::Tf32 => TF32.to_vec(),
            Unit::Bf16 if target.has_warpgroups() => [&WARPGROUPS[..], &BF16].concat(),
            Unit::Bf16 => BF16.to_vec(),
        }
    }

    /// What the place of a tile in shared memory is a multiple of, in bytes.
    pub(crate) fn alignment(&self) -> usize {
        if self.warpgroups { 1024 } else { 16 }
    }

    /// Dynamic shared memory that a block may have, beside a little that is static and lies before it.
    pub(crate) fn shared_limit(&self, target: &Target) -> usize {
        let aside = if self.warpgroups { 1024 } else { 128 };
        multiprocessor(target.arch).shared_per_block as usize - aside
    }

    /// Elements of a row of the finished tile in shared memory.
    pub(crate) fn pitch(&self) -> usize {
        self.columns + 8
    }

    /// Bytes of the finished tile.
    pub(crate) fn finished_bytes(&self) -> usize {
        4 * self.rows * self.pitch()
    }

    /// The share of the peak that its inner loop can reach: small tiles of a warp read shared memory more often than
    /// the units can multiply.
    fn efficiency(&self, unit: Unit) -> f64 {
        let (rows, columns) = (self.rows / self.units[0], self.columns / self.units[1]);
        let reuse = (rows * columns) as f64 / (rows + columns) as f64;
        // Values multiplied per value read from shared memory at which both take the same time.
        let even = if unit == Unit::Exact { 2.0 } else { 10.0 };
        0.9 * reuse / (reuse + 0.35 * even)
    }
}

/// Products of one extent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    /// Rows.
    pub rows: usize,
    /// Columns.
    pub columns: usize,
    /// Depth.
    pub depth: usize,
    /// How many.
    pub count: usize,
}

/// What an operand takes in shared memory, beside its tile.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Beside {
    /// Bytes per element in each stage.
    pub raw: usize,
    /// Values of a table per entry, and its entries where they are not the tile's own columns.
    pub table: Option<(usize, Option<usize>)>,
    /// Whether it is made in shared memory of what was copied there.
    pub made: bool,
}

/// A choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Choice {
    /// The tile.
    pub tile: Tile,
    /// Stages of the pipeline.
    pub stages: usize,
    /// Into how many runs the depth is cut.
    pub splits: usize,
}

impl Choice {
    /// For people.
    pub(crate) fn describe(&self) -> String {
        let Tile { rows, columns, depth, .. } = self.tile;
        let mut text = format!("tile {rows}x{columns}x{depth}, {} stages", self.stages);
        if self.tile.warpgroups {
            text += ", warpgroups";
        }
        if self.splits > 1 {
            text += &format!(", split-K {}", self.splits);
        }
        text
    }
}

/// Bytes of tables and of one stage.
pub(crate) fn pipeline(tile: &Tile, unit: Unit, a: Beside, b: Beside) -> (usize, usize) {
    let table = |beside: Beside, columns: usize| {
        beside
            .table
            .map_or(0, |(values, entries)| 4 * (values * entries.unwrap_or(columns)).next_multiple_of(4))
    };
    let tables = (table(a, tile.rows) + table(b, tile.columns)).next_multiple_of(tile.alignment());
    let stage = tile.depth * (tile.rows * (unit.element() + a.raw) + tile.columns * (unit.element() + b.raw));
    (tables, stage)
}

/// Elements of bf16 in the 16 bytes that are copied at once.
const CHUNK: usize = 8;

/// Choices for products of these extents, the best first, each with the number of runs of the depth that pays for it. A
/// tile's columns divide `column_multiple`, unless that is 0.
///
/// # Errors
///
/// A forced tile that is not legal.
pub(crate) fn ranked(
    target: &Target,
    unit: Unit,
    extents: &[Extent],
    [a, b]: [Beside; 2],
    column_multiple: usize,
) -> Result<Vec<Choice>, String> {
    let all = Tile::all(unit, target);
    let forced = match target.tile {
        None => None,
        Some(wanted) => {
            let found = all.iter().find(|t| [t.rows, t.columns, t.depth] == wanted);
            let list =
                || all.iter().map(|t| format!("{}x{}x{}", t.rows, t.columns, t.depth)).collect::<Vec<_>>();
            let [m, n, k] = wanted;
            Some(found.ok_or_else(|| format!("tile {m}x{n}x{k}: legal are {}", list().join(", ")))?)
        }
    };
    // Narrow products were not among those that the measured ranking is fitted to, and are slower by it.
    let wide = extents.iter().any(|e| e.rows.min(e.columns) >= 128);
    // Warpgroups take what fills their smallest tile, and comes in whole chunks. The costs of both kinds of tiles do not
    // compare: other tiles come after those of warpgroups.
    let fills = |e: &Extent| {
        e.rows.min(e.columns) >= 64 && e.columns.is_multiple_of(CHUNK) && e.depth.is_multiple_of(CHUNK)
    };
    let warpgroups = unit == Unit::Bf16 && target.has_warpgroups() && extents.iter().all(fills);
    let mut costs: Vec<(f64, Choice)> = Vec::new();
    for tile in &all {
        let taken = forced.map_or(warpgroups || !tile.warpgroups, |f| f == tile);
        if !taken || !column_multiple.is_multiple_of(tile.columns) {
            continue;
        }
        // For sm_100, and for sm_120 with several parts, ptxas spills where such a tile makes an operand; their relatives are
        // taken to be alike.
        let large = !tile.warpgroups && tile.rows * tile.columns * tile.depth >= 128 * 128 * 64;
        if forced.is_none() && large && (a.made || b.made) && target.arch.0 >= 100 {
            continue;
        }
        let limit = tile.shared_limit(target);
        let (tables, stage) = pipeline(tile, unit, a, b);
        // As many stages as keep three blocks on a multiprocessor, at least three. By warpgroups, whose copies are a stage
        // less ahead, four where they do not cost a second block.
        let stages = if tile.warpgroups {
            let fits = |stages: usize, blocks: usize| {
                (tables + stages * stage).max(tile.finished_bytes()) <= limit / blocks
            };
            if fits(4, 2) || !fits(3, 2) && fits(4, 1) { 4 } else { 3 }
        } else if tables + 4 * stage <= limit / 3 {
            4
        } else {
            3
        };
        let bytes = (tables + stages * stage).max(tile.finished_bytes());
        if bytes > limit {
            continue;
        }
        let mut cuts: Vec<(f64, Choice)> = Vec::new();
        for splits in [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128] {
            if splits > 1 && extents.iter().any(|e| e.depth < 4 * splits * tile.depth) {
                break;
            }
            let choice = Choice { tile: *tile, stages, splits };
            cuts.push((cycles(target, unit, extents, &choice, bytes, [a, b]), choice));
        }
        if unit == Unit::Bf16 && (wide || tile.warpgroups) {
            let best = cuts.into_iter().min_by(|x, y| x.0.total_cmp(&y.0));
            let measured = |choice: Choice| measured_cycles(target, extents, &choice, bytes, [a, b]);
            costs.extend(best.map(|(_, choice)| (measured(choice), choice)));
        } else {
            costs.append(&mut cuts);
        }
    }
    costs.sort_by(|x, y| y.1.tile.warpgroups.cmp(&x.1.tile.warpgroups).then(x.0.total_cmp(&y.0)));
    Ok(costs.into_iter().map(|c| c.1).collect())
}

/// What tiles of bf16 products cost, in cycles of a multiprocessor.
struct Prices {
    /// Operations per cycle.
    operations: f64,
    /// Bytes per cycle from the L2 cache.
    copies: f64,
    /// For 128 bytes read from or written to shared memory.
    shared: f64,
    /// For an element that is made in shared memory.
    made: f64,
    /// For a step along the depth, whatever it does: barrier, addresses.
    step: f64,
    /// For a step of a block that is alone on its multiprocessor.
    alone: f64,
    /// For a block.
    block: f64,
    /// For an element of the finished tile with 512 threads on the multiprocessor, and how that falls with their number.
    finish: (f64, f64),
    /// For a partial sum that is written.
    partial: f64,
}

/// By warps, in cycles of an H100: what fits best the times of 150 launches of a ResNet-50's training step (32×32 images,
/// batch 256), each with nine tiles.
const WARP_PRICES: Prices = Prices {
    operations: 1425.0,
    copies: 47.0,
    shared: 0.87,
    made: 0.057,
    step: 160.0,
    alone: 206.0,
    block: 8300.0,
    finish: (0.092, 0.72),
    partial: 0.035,
};

/// By warpgroups, whose products run beside accesses to shared memory: what ranks best the times of 435 launches of
/// ResNet-18, 50 and 56 on an H200, most of them with seven tiles each (in all 2.3 % longer than with the best tile of each).
const WARPGROUP_PRICES: Prices = Prices {
    operations: 3215.0,
    copies: 37.8,
    shared: 0.0,
    made: 0.0,
    step: 111.0,
    alone: 297.0,
    block: 3575.0,
    finish: (0.126, 0.78),
    partial: 0.178,
};

/// What ranks tiles of bf16 products whose prices are known.
fn measured_cycles(
    target: &Target,
    extents: &[Extent],
    choice: &Choice,
    shared: usize,
    sides: [Beside; 2],
) -> f64 {
    let Choice { tile, splits, .. } = *choice;
    let prices = if tile.warpgroups { WARPGROUP_PRICES } else { WARP_PRICES };
    let (area, sum) = ((tile.rows * tile.columns) as f64, (tile.rows + tile.columns) as f64);
    let warp = (tile.rows / tile.units[0] + tile.columns / tile.units[1]) as f64;
    let (depth, threads) = (tile.depth as f64, tile.threads as f64);
    // Every warp reads its part of both operands; all of both was written before.
    let bytes = (threads / 32.0 * warp + sum) * depth * 2.0;
    let [made_a, made_b] = sides.map(|side| if side.made { depth } else { 0.0 });
    let made = made_a * tile.rows as f64 + made_b * tile.columns as f64;
    let arithmetic = 2.0 * area * depth / prices.operations;
    let busy = arithmetic.max(sum * depth * 2.0 / prices.copies)
        + prices.shared * bytes / 128.0
        + prices.made * made
        + prices.step;

    // Registers of a thread: its sums, and what it needs besides.
    let sums = tile.rows * tile.columns / tile.threads;
    let registers = if tile.warpgroups { sums + 46 } else { (20 + sums * 5 / 3).max(64) };
    let resident = (tile.shared_limit(target) / shared.max(1))
        .min((64 << 10) / (registers * tile.threads))
        .clamp(1, 2048 / tile.threads) as f64;
    let all: usize = extents.iter().map(|e| blocks_of(e, tile) * splits).sum();
    let each = all as f64 / f64::from(target.multiprocessors.max(1));
    // Blocks on a multiprocessor: one's beginning and end run beside the other's products.
    let here = each.clamp(1.0, resident);
    let step = busy.max((busy + prices.alone) / here);
    let (finish, fall) = prices.finish;
    let partials = if splits > 1 { prices.partial * area } else { 0.0 };
    let around =
        prices.block / here.min(2.0) + finish * area * (512.0 / (threads * here)).powf(fall) + partials;
    let work: f64 = extents
        .iter()
        .map(|e| {
            let steps = e.depth.div_ceil(tile.depth).div_ceil(splits) as f64;
            (blocks_of(e, tile) * splits) as f64 * (steps * step + around)
        })
        .sum();
    let rounds = if each < 3.0 * here { (each / here).ceil() * here } else { each };
    work / all.max(1) as f64 * rounds + partials * splits as f64 / 2.0
}

/// Blocks of products whose depth is not cut.
fn blocks_of(e: &Extent, tile: Tile) -> usize {
    e.rows.div_ceil(tile.rows) * e.columns.div_ceil(tile.columns) * e.count
}

/// What ranks ways to cut the depth, and narrow products, and all of tf32 and f32: the longer of arithmetic and copies, and
/// constants for what comes before and behind.
fn cycles(
    target: &Target,
    unit: Unit,
    extents: &[Extent],
    choice: &Choice,
    shared: usize,
    sides: [Beside; 2],
) -> f64 {
    let Choice { tile, splits, .. } = *choice;
    let raw = sides[0].raw + sides[1].raw;
    let multiprocessors = f64::from(target.multiprocessors.max(1));
    let (mut blocks, mut work, mut longest, mut last) = (0.0f64, 0.0f64, 0.0f64, 0.0f64);
    for e in extents {
        let count = (blocks_of(e, tile) * splits) as f64;
        let steps = e.depth.div_ceil(tile.depth).div_ceil(splits) as f64;
        let flops = (2 * tile.rows * tile.columns * tile.depth) as f64;
        // Bytes per cycle that a multiprocessor gets from the L2 cache.
        let copies = ((tile.rows + tile.columns) * tile.depth * (unit.element() + raw / 2)) as f64 / 40.0;
        let step = (flops / (unit.rate() * tile.efficiency(unit))).max(copies) + 20.0;
        let finish = (tile.rows * tile.columns) as f64 / 16.0;
        // Partial sums are written by every block, and read by the one that comes last.
        let partials = if splits > 1 { (tile.rows * tile.columns * 4) as f64 } else { 0.0 };
        let block = steps * step + 800.0 + finish + partials / 13.0 + partials / 30.0;
        last = last.max(partials * splits as f64 / 30.0);
        blocks += count;
        work += count * block;
        longest = longest.max(block);
    }
    // Too few warps on a multiprocessor leave it waiting.
    let resident = (tile.shared_limit(target) / shared.max(1)).clamp(1, 2048 / tile.threads) as f64;
    let filled = (blocks / multiprocessors).min(resident) * (tile.threads / 32) as f64;
    let wait = 1.0 + 4.0 / filled.max(1.0);
    let rounds = (blocks / multiprocessors).ceil() * (work / blocks.max(1.0));
    rounds.max(longest) * wait + last
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::Arch;

    /// What `load.cuh` asserts of every operand, for both ways that it may lie.
    #[test]
    fn chunks_divide_among_the_threads() {
        for unit in [Unit::Exact, Unit::Tf32, Unit::Bf16] {
            let vector = 16 / unit.element();
            for t in Tile::all(unit, &Target::new(Arch(90))) {
                for extent in [t.rows, t.columns] {
                    for (rows, columns) in [(extent, t.depth), (t.depth, extent)] {
                        let chunks = columns / vector;
                        assert_eq!(columns % vector, 0, "{t:?}");
                        assert_eq!(t.threads % chunks, 0, "{t:?}: {rows}x{columns}");
                        assert_eq!(rows * chunks % t.threads, 0, "{t:?}: {rows}x{columns}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_forced_tile_is_taken_or_refused() {
        let extents = [Extent { rows: 1000, columns: 64, depth: 576, count: 1 }];
        let mut target = Target::new(Arch(80));
        target.tile = Some([64, 32, 32]);
        let choices = ranked(&target, Unit::Bf16, &extents, [Beside::default(); 2], 0).expect("a legal tile");
        assert!(!choices.is_empty() && choices.iter().all(|c| (c.tile.rows, c.tile.columns) == (64, 32)));
        target.tile = Some([100, 1, 1]);
        let error =
            ranked(&target, Unit::Bf16, &extents, [Beside::default(); 2], 0).expect_err("no such tile");
        assert!(error.contains("128x128x32"), "{error}");
    }

    #[test]
    fn hopper_multiplies_by_warpgroups_what_fills_them() {
        let first = |target: &Target, rows, columns, depth| {
            let extents = [Extent { rows, columns, depth, count: 1 }];
            ranked(target, Unit::Bf16, &extents, [Beside::default(); 2], 0).expect("no forced tile")[0].tile
        };
        let hopper = Target::new(Arch(90));
        assert!(first(&hopper, 65_536, 64, 576).warpgroups);
        assert!(!first(&hopper, 65_536, 64, 27).warpgroups, "pieces of chunks");
        assert!(!first(&hopper, 65_536, 32, 576).warpgroups, "half a tile");
        assert!(!first(&Target { warpgroups: false, ..hopper }, 65_536, 64, 576).warpgroups);
        assert!(!first(&Target::new(Arch(100)), 65_536, 64, 576).warpgroups);
    }

    #[test]
    fn operands_are_made_in_tiles_that_do_not_spill() {
        let largest = |arch: u32, made: bool| {
            let extents = [Extent { rows: 1152, columns: 128, depth: 16_384, count: 2 }];
            let sides = [Beside { made, ..Beside::default() }; 2];
            let choices =
                ranked(&Target::new(Arch(arch)), Unit::Bf16, &extents, sides, 0).expect("no forced tile");
            choices.iter().map(|c| c.tile.rows * c.tile.columns * c.tile.depth).max().expect("a choice")
        };
        assert_eq!(largest(80, true), 128 * 128 * 64);
        for arch in [100, 120] {
            assert_eq!(largest(arch, false), 128 * 128 * 64);
            assert!(largest(arch, true) < 128 * 128 * 64);
        }
    }

    #[test]
    fn large_products_get_large_tiles_and_small_ones_many_blocks() {
        let target = Target::new(Arch(80));
        let best = |rows, columns, depth| {
            let extents = [Extent { rows, columns, depth, count: 1 }];
            ranked(&target, Unit::Bf16, &extents, [Beside::default(); 2], 0).expect("no forced tile")[0]
        };
        let large = best(200_704, 256, 2304);
        assert!(large.tile.rows * large.tile.columns >= 128 * 64 && large.splits == 1, "{large:?}");
        let deep = best(64, 64, 200_704);
        assert!(deep.splits >= 32, "{deep:?}");
    }
}
