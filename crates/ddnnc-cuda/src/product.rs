//! Kernels of matrix products: classes of products of one form, and the text of the kernel that computes them all.
//!
//! The blocks of a kernel are dealt to its classes in order; in a class, to the parts (sub-nets), the tiles of rows, the
//! groups of channels, the runs of the depth and the tiles of columns, the last fastest: blocks that run at the same time
//! read the same rows.

use crate::arch::Target;
use crate::code::{Argument, Arguments, Cost, Kernel, LaunchCode};
use crate::emit::PRELUDE;
use crate::operand::Operand;
use crate::partial_sums::Sums;
use crate::tiles::{self, Beside, Choice, Extent, Tile, Unit};
use std::fmt::Write as _;

const MMA: &str = include_str!("../../../kernels/mma.cuh");
const LOAD: &str = include_str!("../../../kernels/load.cuh");
const WGMMA: &str = include_str!("../../../kernels/wgmma.cuh");
const GEMM: &str = include_str!("../../../kernels/gemm.cuh");

/// The largest value, in bytes, that is expected to stay in the L2 cache while blocks read it again.
const CACHED: u64 = 20 << 20;

/// Rows that have a depth in common. Every phase begins a tile of its own.
#[derive(Clone, Debug)]
pub(crate) struct Rows {
    /// How many.
    pub rows: usize,
    /// Their depth.
    pub depth: usize,
    /// The initialiser of the kernel's `phase`, where the indices ask for it.
    pub phase: String,
}

/// What a class does with a finished tile.
#[derive(Clone, Debug, Default)]
pub(crate) struct Finish {
    /// Functions at file scope.
    pub functions: String,
    /// Statements that all threads run once the tile is in shared memory: `tile` of rows of TILE_PITCH floats. They may
    /// use `m_tile`, `n_tile`, `group`, `first_row`, `first_column`, `scratch` and `ROW`.
    pub body: String,
    /// Bytes of shared memory from `scratch` on.
    pub scratch: usize,
    /// Its cost, of all parts.
    pub cost: Cost,
}

/// A tile as a finish sees it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cut {
    /// The tile and how the depth is cut.
    pub choice: Choice,
    /// Tiles of rows of one part.
    pub row_tiles: usize,
}

/// Makes a finish for a tile; pointers come from the arguments.
pub(crate) type MakeFinish<'a> = dyn Fn(Cut, &mut Arguments, &mut LaunchCode) -> Result<Finish, String> + 'a;

/// Products that differ in their pointers only.
pub(crate) struct Class<'a> {
    /// Begins every name of the class.
    pub prefix: String,
    /// Its parts and pointers.
    pub arguments: Arguments,
    /// Declarations that the indices ask for.
    pub declarations: String,
    /// First operand.
    pub a: Operand,
    /// Second operand.
    pub b: Operand,
    /// Rows, by phase.
    pub rows: Vec<Rows>,
    /// Columns of one group.
    pub columns: usize,
    /// Groups of channels.
    pub groups: usize,
    /// The value of ROW(r).
    pub row: String,
    /// What follows.
    pub finish: Box<MakeFinish<'a>>,
    /// For each part the number of the sum that it is a summand of; empty where every part is a sum of its own.
    pub sums: Vec<usize>,
}

impl Class<'_> {
    pub(crate) fn parts(&self) -> usize {
        self.arguments.parts()
    }

    pub(crate) fn row_tiles(&self, tile_rows: usize) -> usize {
        self.rows.iter().map(|r| r.rows.div_ceil(tile_rows)).sum()
    }

    fn extents(&self) -> impl Iterator<Item = Extent> {
        let count = self.groups * self.parts();
        self.rows.iter().map(move |r| Extent { rows: r.rows, columns: self.columns, depth: r.depth, count })
    }
}

/// Classes that one kernel computes.
pub(crate) struct Products<'a> {
    /// The kernel's name.
    pub name: &'static str,
    /// What multiplies.
    pub unit: Unit,
    /// The classes; their operands lie the same way.
    pub classes: Vec<Class<'a>>,
    /// The columns of a tile must divide this; 0 where any will do.
    pub column_multiple: usize,
}

impl Products<'_> {
    /// Adds the kernel to a launch, cut by the best choice that fits.
    ///
    /// # Errors
    ///
    /// No tile fits, or what a finish cannot do.
    pub(crate) fn emit(&self, target: &Target, code: &mut LaunchCode) -> Result<(), String> {
        let extents: Vec<Extent> = self.classes.iter().flat_map(Class::extents).collect();
        if extents.iter().all(|e| e.rows * e.columns * e.count == 0) {
            return Ok(());
        }
        let element = self.unit.element();
        let beside = |operand: for<'c> fn(&'c Class) -> &'c Operand| {
            self.classes.iter().map(|c| operand(c).beside(element)).fold(Beside::default(), |most, b| {
                let size = |t: Option<(usize, Option<usize>)>| t.map_or(0, |(v, e)| v * e.unwrap_or(128));
                let table = if size(b.table) > size(most.table) { b.table } else { most.table };
                Beside { raw: most.raw.max(b.raw), table, made: most.made || b.made }
            })
        };
        let sides = [beside(|c| &c.a), beside(|c| &c.b)];
        for choice in tiles::ranked(target, self.unit, &extents, sides, self.column_multiple)? {
            let mut tried = code.clone();
            let kernel = self.kernel(&choice, &mut tried)?;
            if kernel.dynamic_shared as usize <= choice.tile.shared_limit(target) {
                tried.kernels.push(kernel);
                *code = tried;
                return Ok(());
            }
        }
        Err("no tile fits into shared memory".to_owned())
    }

    fn kernel(&self, choice: &Choice, code: &mut LaunchCode) -> Result<Kernel, String> {
        let tile = choice.tile;
        let first = self.classes.first().ok_or("a kernel of nothing")?;
        let mut head = Text::new();
        let (ctype, math) = match self.unit {
            Unit::Exact => ("float", 0),
            Unit::Tf32 => ("float", 1),
            Unit::Bf16 => ("bf16", if tile.warpgroups { 3 } else { 2 }),
        };
        let outer = [first.a.outer, first.b.outer];
        let warpgroups = if tile.warpgroups { warpgroup_text(&tile, outer) } else { String::new() };
        let _ = write!(
            head,
            "{PRELUDE}\n{MMA}\ntypedef {ctype} E;\n#define MATH {math}\nconstexpr int BM = {}, BN = {}, BK = {}, STAGES = {}, \
             THREADS = {};\nconstexpr int ROW_UNITS = {}, COLUMN_UNITS = {}, TILE_ALIGN = {};\nconstexpr bool A_OUTER = {}, \
             B_OUTER = {};\n{LOAD}\n{warpgroups}{GEMM}\n",
            tile.rows,
            tile.columns,
            tile.depth,
            choice.stages,
            tile.threads,
            tile.units[0],
            tile.units[1],
            tile.alignment(),
            outer[0],
            outer[1]
        );
        let sums = Sums::new(&self.classes, choice, code);
        let (mut text, mut arguments, mut parameters) = (Text::new(), Vec::new(), Text::new());
        let (mut blocks, mut shared, mut cost) = (0u64, 0usize, Cost::default());
        for (number, class) in self.classes.iter().enumerate() {
            let made = self.class(class, number, choice, &sums, blocks, code, &mut head)?;
            blocks = made.end;
            shared = shared.max(made.shared);
            text.push_str(&made.text);
            cost += made.cost;
            if !parameters.is_empty() && !made.parameters.0.is_empty() {
                parameters.push_str(", ");
            }
            parameters.push_str(&made.parameters.0);
            arguments.extend(made.parameters.1);
        }
        let (name, align) = (self.name, tile.alignment());
        let source = format!(
            "{head}\nextern \"C\" __global__ void BLOCK_OF(THREADS) {name}({parameters}) {{\n    \
             extern __shared__ __align__({align}) uint4 dynamic[];\n    char* shared = (char*)dynamic;\n    const int block = blockIdx.x;\n{text}}}\n"
        );
        let grid = u32::try_from(blocks).ok().filter(|&b| b < 1 << 31).ok_or("a grid of too many blocks")?;
        Ok(Kernel {
            name: name.to_owned(),
            source,
            grid: [grid, 1, 1],
            block: tile.threads as u32,
            dynamic_shared: shared as u32,
            arguments,
            cost,
            choice: choice.describe(),
        })
    }

    #[expect(clippy::too_many_arguments, reason = "the pieces of one kernel")]
    fn class(
        &self,
        class: &Class,
        number: usize,
        choice: &Choice,
        sums: &Sums,
        begin: u64,
        code: &mut LaunchCode,
        head: &mut Text,
    ) -> Result<Made, String> {
        let (tile, element, prefix) = (choice.tile, self.unit.element(), &class.prefix);
        let row_tiles = class.row_tiles(tile.rows);
        let column_tiles = class.columns.div_ceil(tile.columns);
        let (groups, splits, parts) = (class.groups, choice.splits, class.parts());
        let mut arguments = class.arguments.clone();
        let finish = (class.finish)(Cut { choice: *choice, row_tiles }, &mut arguments, code)?;

        head.push_str(&class.declarations);
        let (table_a, table_b) = (class.a.table(element, tile.rows), class.b.table(element, tile.columns));
        let chain_a = class.a.declare(&format!("{prefix}ChainA"), element, head);
        let chain_b = class.b.declare(&format!("{prefix}ChainB"), element, head);
        // Classes share functions; each stands there once.
        if !head.contains(&finish.functions) {
            head.push_str(&finish.functions);
        }

        let blocks = (row_tiles * column_tiles * groups * splits * parts) as u64;
        let end = begin + blocks;
        let mut t = Text::new();
        let _ = write!(
            t,
            "    if (block < {end}) {{\n        int left = block - {begin};\n        const int n_tile = left % {column_tiles}; left \
             /= {column_tiles};\n        const int split = left % {splits}; left /= {splits};\n        const int group = left % \
             {groups}; left /= {groups};\n        const int m_tile = left % {row_tiles}, part = left / {row_tiles};\n        (void)part;\n"
        );
        let split_code = sums.combine(number, class, column_tiles, &mut arguments);
        for line in arguments.select().lines() {
            let _ = writeln!(t, "    {line}");
        }
        t.push_str(&phases(&class.rows, tile.rows));
        let _ = write!(
            t,
            "        const int tiles = (depth + BK - 1) / BK, run = (tiles + {splits} - 1) / {splits}, first = split * run;\n        \
             const int first_column = n_tile * BN;\n        (void)first_column;\n"
        );
        for (object, operand, chain, rows, columns, table) in [
            ("a", &class.a, &chain_a, tile.rows, tile.depth, table_a),
            ("b", &class.b, &chain_b, tile.columns, tile.depth, table_b),
        ] {
            let (rows, columns) = if operand.outer { (columns, rows) } else { (rows, columns) };
            let _ = write!(
                t,
                "        Operand<{}, {chain}, E, {rows}, {columns}, {}, THREADS, {}> {object};\n        {object}.index = {{{}}};\n",
                operand.index, operand.outer, table.0, operand.members
            );
            t.push_str(&operand.bind(object));
        }
        let _ = write!(
            t,
            "        Accumulator sums;\n        sums.clear();\n        add_products<{}, {}>(a, b, shared, first_row, first_column, \
             first, max(0, min(run, tiles - first)), {}, {}, sums);\n{split_code}        \
             float* tile = (float*)shared;\n        char* scratch = shared + {};\n        (void)scratch;\n        \
             sums.store(tile);\n        __syncthreads();\n#define ROW(r) ({})\n        {{\n{}\n        }}\n#undef ROW\n        return;\n    }}\n",
            table_a.1,
            table_b.1,
            class.a.channel,
            class.b.channel,
            tile.finished_bytes(),
            class.row,
            finish.body
        );
        let (tables, stage) =
            tiles::pipeline(&tile, self.unit, class.a.beside(element), class.b.beside(element));
        let shared = (tables + choice.stages * stage).max(tile.finished_bytes() + finish.scratch);
        let mut cost = finish.cost;
        self.count(class, choice, row_tiles, column_tiles, sums.are_cut(), &mut cost);
        Ok(Made { text: t, end, shared, parameters: arguments.parameters(), cost })
    }

    /// Adds what the products themselves cost.
    fn count(
        &self,
        class: &Class,
        choice: &Choice,
        row_tiles: usize,
        column_tiles: usize,
        cut: bool,
        cost: &mut Cost,
    ) {
        let (tile, element) = (choice.tile, self.unit.element() as u64);
        let parts = class.parts() as u64;
        let copies = (class.groups * column_tiles) as u64 * parts;
        let mut depths = 0u64;
        for rows in &class.rows {
            let steps = rows.depth.div_ceil(tile.depth) * rows.rows.div_ceil(tile.rows);
            depths += (steps * tile.depth) as u64 * copies;
        }
        let flops = depths * 2 * (tile.rows * tile.columns) as u64;
        match self.unit {
            Unit::Exact => cost.vector_flops += flops,
            Unit::Tf32 | Unit::Bf16 => cost.matrix_flops += flops,
        }
        cost.vector_flops += depths
            * (tile.rows as u64 * class.a.source.flops() + tile.columns as u64 * class.b.source.flops());
        // The blocks that read the same rows of A run side by side; those that read the same columns of B do not.
        let again = |bytes: u64, times: u64| if bytes > CACHED { bytes * times } else { bytes };
        let loaded = |extent: usize| depths * extent as u64 * element;
        cost.bytes_read += (class.a.bytes * parts).min(loaded(tile.rows).max(class.a.bytes));
        cost.bytes_read +=
            again(class.b.bytes * parts, row_tiles as u64).min(loaded(tile.columns).max(class.b.bytes));
        if cut {
            let partial =
                (row_tiles * column_tiles * class.groups * choice.splits * tile.rows * tile.columns * 4)
                    as u64;
            cost.bytes_written += partial * parts;
            cost.bytes_read += partial * parts;
        }
    }
}

/// `wgmma.cuh` and the product that it asks for: 64 rows, the columns of a warpgroup, 16 of depth.
fn warpgroup_text(tile: &Tile, outer: [bool; 2]) -> String {
    let columns = tile.columns / tile.units[1];
    let sums = columns / 2;
    let list = |item: &dyn Fn(usize) -> String| (0..sums).map(item).collect::<Vec<_>>().join(", ");
    let [a, b] = outer.map(usize::from);
    format!(
        "{WGMMA}\n__device__ __forceinline__ void multiply_warpgroup(float (&c)[{sums}], ulong a, ulong b) {{\n    asm volatile(\n        \
         \"{{ .reg .pred add; setp.eq.b32 add, 0, 0;\\n\"\n        \"wgmma.mma_async.sync.aligned.m64n{columns}k16.f32.bf16.bf16 {{{}}}, %{sums}, %{}, add, 1, 1, {a}, {b}; }}\"\n        \
         : {}\n        : \"l\"(a), \"l\"(b));\n}}\n",
        list(&|i| format!("%{i}")),
        sums + 1,
        list(&|i| format!("\"+f\"(c[{i}])")),
    )
}

/// One class as text.
struct Made {
    text: String,
    end: u64,
    shared: usize,
    parameters: (String, Vec<Argument>),
    cost: Cost,
}

type Text = String;

/// Declares `first_row`, `depth` and, where there is one, `phase` of a block's tile of rows.
fn phases(rows: &[Rows], tile_rows: usize) -> String {
    let mut text = String::new();
    if let [only] = rows {
        if !only.phase.is_empty() {
            let _ = writeln!(text, "        const Phase phase = {{{}}};", only.phase);
        }
        let _ = writeln!(text, "        const int first_row = m_tile * BM, depth = {};", only.depth);
        return text;
    }
    text.push_str("        Phase phase = {};\n        int first_row = 0, depth = 0;\n");
    let mut begin = 0;
    for (i, r) in rows.iter().enumerate() {
        let end = begin + r.rows.div_ceil(tile_rows);
        let or = if i > 0 { "else " } else { "" };
        let _ = writeln!(
            text,
            "        {or}if (m_tile < {end}) {{ phase = {{{}}}; first_row = (m_tile - {begin}) * BM; depth = {}; }}",
            r.phase, r.depth
        );
        begin = end;
    }
    text
}
