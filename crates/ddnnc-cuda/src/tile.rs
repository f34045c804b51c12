//! Elementwise and reducing steps over a tile of rows and channels: the body of elementwise groups, and the epilogue of
//! convolutions.

use crate::chain::{Access, Input};
use crate::code::{Arguments, Cost, LaunchCode};
use crate::tile_plan::Plan;
use ddnnc_ir::{DType, Group, Local, ValueType};
use std::fmt::Write as _;

/// Rows of channels as vectors, and sums over rows.
pub(crate) const ROWS: &str = include_str!("../../../kernels/rows.cuh");

/// What a tile program works on. All values of rank above 1 have `rows * channels` elements (or repeat to that).
#[derive(Clone, Debug)]
pub struct TileSpec<'a> {
    /// The group.
    pub group: &'a Group,
    /// The steps to run, in order: elementwise ones, reductions, and vector steps on what reductions give.
    pub steps: Vec<usize>,
    /// Values that are in shared memory already, as floats: the value, and the name of a `float*` there; the element at
    /// tile row r and tile channel j is `name[r * given_stride + j]`.
    pub given: Vec<(Local, String)>,
    /// See `given`; a multiple of 4.
    pub given_stride: usize,
    /// Rows of the values.
    pub rows: usize,
    /// Channels of the values.
    pub channels: usize,
    /// Rows of a tile.
    pub tile_rows: usize,
    /// Channels of a tile.
    pub tile_channels: usize,
    /// How many row tiles there are; each runs exactly once for each tile of channels.
    pub row_tiles: usize,
    /// Threads of the block; a power of two, at least 32.
    pub threads: usize,
}

/// The code of a tile program.
///
/// `body` is a statement block that all threads of a block run once, together, for one tile. It reads the ints
/// `row_tile` (number of the tile, from 0), `channel_tile`, and for the row of a tile's row r it writes `ROW(r)`, a macro
/// that the host kernel defines (and which gives a value ≥ `rows`, or -1, for rows that are not there). Results that lie
/// in memory are written by it; sums over all rows are finished by the last block to arrive, in the order of the row
/// tiles, so that they do not depend on which one that is.
#[derive(Clone, Debug, Default)]
pub struct TileCode {
    /// Functions at file scope.
    pub functions: String,
    /// Statements.
    pub body: String,
    /// Bytes of shared memory that the body uses for itself: `char* scratch` points there, 16-byte aligned.
    pub scratch_bytes: usize,
    /// The cost of all tiles of one part.
    pub cost: Cost,
}

/// Emits a tile program; its pointers, workspace and counters come from `arguments` and `code`.
///
/// # Errors
///
/// What no tile program can do.
pub fn tile(spec: &TileSpec, arguments: &mut Arguments, code: &mut LaunchCode) -> Result<TileCode, String> {
    let given: Vec<Local> = spec.given.iter().map(|g| g.0).collect();
    let plan = Plan::new(spec.group, &spec.steps, &given, spec.rows * spec.channels)?;
    let lanes = Lanes::new(spec, &plan)?;
    let mut writer = Writer {
        spec,
        plan: &plan,
        lanes,
        arguments,
        text: String::new(),
        scratch: 0,
        cost: Cost::default(),
    };
    writer.rows()?;
    writer.row_sums(code)?;
    writer.channel_sums(code)?;
    let body = writer.whole();
    Ok(TileCode { functions: ROWS.to_owned(), body, scratch_bytes: writer.scratch, cost: writer.cost })
}

/// How the threads of a block share a tile: each owns `vector` channels of a row, `lanes` of them a row, and the threads
/// behind those take other rows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lanes {
    pub vector: usize,
    pub lanes: usize,
    pub groups: usize,
    /// Neighbouring lanes that a warp holds and that divide a row.
    pub segment: usize,
    /// Rows that a thread reads before it works on them.
    pub batch: usize,
}

impl Lanes {
    fn new(spec: &TileSpec, plan: &Plan) -> Result<Lanes, String> {
        if spec.rows * spec.channels >= 1 << 31 {
            return Err("more elements than an index of 32 bits counts: a smaller batch has fewer".to_owned());
        }
        let half = |l: &Local| spec.group.ty(*l).is_some_and(|ty| ty.dtype == DType::Bf16);
        let widest = if plan.in_memory().iter().any(half) { 8 } else { 4 };
        let fits = |v: &usize| spec.channels.is_multiple_of(*v) && spec.tile_channels.is_multiple_of(*v);
        let vector = [8, 4, 2, 1].into_iter().filter(|v| *v <= widest).find(fits).unwrap_or(1);
        let lanes = spec.tile_channels.min(spec.channels).div_ceil(vector).max(1);
        if lanes > spec.threads {
            return Err("a tile of more channels than threads".to_owned());
        }
        let groups = (spec.threads / lanes).min(spec.tile_rows).max(1);
        let segment = 1 << lanes.trailing_zeros().min(5);
        let reads = plan.wide_inputs * vector;
        let most = match reads {
            0..=8 => 4,
            9..=16 => 2,
            _ => 1,
        };
        let rounds = spec.tile_rows.div_ceil(groups);
        let batch = if spec.given.is_empty() { most.min(rounds) } else { 1 };
        Ok(Lanes { vector, lanes, groups, segment, batch })
    }

    /// Partial sums of a row in shared memory, and the distance of rows there.
    pub fn parts(&self) -> (usize, usize) {
        let parts = self.lanes / self.segment;
        (parts, parts | 1)
    }
}

pub(crate) struct Writer<'a> {
    pub spec: &'a TileSpec<'a>,
    pub plan: &'a Plan,
    pub lanes: Lanes,
    pub arguments: &'a mut Arguments,
    pub text: String,
    pub scratch: usize,
    pub cost: Cost,
}

/// An indented block of lines.
pub(crate) fn block(text: &str, indent: usize) -> String {
    text.lines().fold(String::new(), |mut all, line| {
        let _ = writeln!(all, "{:indent$}{line}", "");
        all
    })
}

impl Writer<'_> {
    pub fn ty(&self, local: Local) -> Result<&ValueType, String> {
        self.spec.group.ty(local).ok_or_else(|| "a value that is not there".to_owned())
    }

    fn pointer(&mut self, local: Local) -> Result<String, String> {
        let Local::Operand(i) = local else {
            return Err("a tile takes what another kernel makes".to_owned());
        };
        let ty = self.ty(local)?.clone();
        Ok(self.arguments.operand(i as usize, &ty))
    }

    /// Pointers of all results that are `local`.
    pub fn results(&mut self, local: Local) -> Result<Vec<String>, String> {
        let ty = self.ty(local)?.clone();
        let group = self.spec.group;
        let places = group.results.iter().enumerate().filter(|(_, r)| **r == local);
        let made: Vec<String> = places.map(|(i, _)| self.arguments.result(i, &ty)).collect();
        Ok(made)
    }

    /// Reads inputs of a chain that do not depend on the row: declares `i<n>`.
    pub fn constants(&mut self, inputs: &[Input], which: fn(&Access) -> bool) -> Result<String, String> {
        let mut text = String::new();
        for (n, input) in inputs.iter().enumerate().filter(|(_, i)| which(&i.access)) {
            if self.spec.group.ty(input.local).is_none() || !matches!(input.local, Local::Operand(_)) {
                continue;
            }
            let pointer = self.pointer(input.local)?;
            match &input.access {
                Access::Random => {
                    let _ = writeln!(text, "const long long i{n}[2] = {{ {pointer}[0], {pointer}[1] }};");
                }
                Access::Channel => {
                    let _ = writeln!(text, "const float i{n} = to_float({pointer}[c]);");
                }
                Access::Scalar => {
                    let _ = writeln!(text, "const float i{n} = to_float({pointer}[0]);");
                }
                Access::Repeated(index) => {
                    let _ = writeln!(text, "const float i{n} = to_float({pointer}[{index}]);");
                }
                Access::Element => return Err("an element where there is no row".to_owned()),
            }
        }
        Ok(text)
    }

    /// The pass over the rows: results in memory, and sums of what a thread sees.
    fn rows(&mut self) -> Result<(), String> {
        let (spec, plan, lanes) = (self.spec, self.plan, self.lanes);
        let Lanes { vector, groups, segment, batch, .. } = lanes;
        let given: Vec<Local> = spec.given.iter().map(|g| g.0).collect();
        let chain = &plan.chain;
        let elements = (spec.rows * spec.channels) as u64;
        let is_fixed = |a: &Access| matches!(a, Access::Scalar | Access::Random);
        let fixed = self.constants(&chain.inputs, is_fixed)?;
        let of_channel = self.constants(&chain.inputs, |a| *a == Access::Channel)?;
        let mut t = String::new();
        t.push_str(&fixed);
        for k in 0..chain.channel_values {
            let _ = writeln!(t, "float u_k{k}[{vector}];");
        }
        if chain.channel_values > 0 {
            let keep: String =
                (0..chain.channel_values).map(|k| format!("        u_k{k}[u_e] = k{k};\n")).collect();
            let _ = write!(
                t,
                "if (u_in) {{\n    #pragma unroll\n    for (int u_e = 0; u_e < {vector}; u_e++) {{\n        [[maybe_unused]] \
                 const uint c = u_c + u_e;\n{}{}{keep}    }}\n}}\n",
                block(&of_channel, 8),
                block(&chain.channel_code, 8)
            );
        }
        if !plan.channel_sums.is_empty() {
            let (sums, stats) = plan.totals();
            let _ = writeln!(t, "rows::Totals<{sums}, {stats}, {vector}> u_totals;\nu_totals.clear();");
        }
        // Rows of a batch: read all, work on them, write.
        let (mut read, mut take, mut write) = (String::new(), String::new(), String::new());
        let mut declare = String::new();
        for (n, input) in chain.inputs.iter().enumerate() {
            match &input.access {
                Access::Element => {
                    let _ = writeln!(declare, "float u_x{n}[{batch}][{vector}];");
                    let at = match spec.given.iter().find(|g| g.0 == input.local) {
                        Some((_, name)) => {
                            format!(
                                "(const float*){name} + (u_first + u_b * {groups}) * {} + u_j",
                                spec.given_stride
                            )
                        }
                        None => {
                            self.cost.bytes_read += elements * self.ty(input.local)?.dtype.size() as u64;
                            format!("{} + u_at", self.pointer(input.local)?)
                        }
                    };
                    let _ = writeln!(read, "unpack<{vector}>({at}, u_x{n}[u_b]);");
                    let x = format!("u_x{n}[u_b][u_e]");
                    // What is given has the bits of its type before it is rounded to it.
                    let rounded = given.contains(&input.local) && self.ty(input.local)?.dtype == DType::Bf16;
                    let x = if rounded { format!("to_float(to_bf16({x}))") } else { x };
                    let _ = writeln!(take, "const float i{n} = {x};");
                }
                Access::Repeated(index) => {
                    self.cost.bytes_read += self.ty(input.local)?.bytes() as u64;
                    let _ = writeln!(
                        take,
                        "const float i{n} = to_float({}[{index}]);",
                        self.pointer(input.local)?
                    );
                }
                Access::Channel | Access::Scalar | Access::Random => {
                    self.cost.bytes_read += self.ty(input.local)?.bytes() as u64;
                }
            }
        }
        for k in 0..chain.channel_values {
            let _ = writeln!(take, "const float k{k} = u_k{k}[u_e];");
        }
        take.push_str(&chain.code);
        let mut own = String::new();
        for (n, &local) in plan.maps.iter().enumerate() {
            let _ = writeln!(own, "float u_y{n}[{vector}];");
            let _ = writeln!(take, "u_y{n}[u_e] = o{n};");
            for pointer in self.results(local)? {
                self.cost.bytes_written += elements * self.ty(local)?.dtype.size() as u64;
                let _ = writeln!(write, "pack<{vector}>({pointer} + u_at, u_y{n});");
            }
        }
        let (adds, flops) = plan.adds();
        take.push_str(&adds);
        self.cost.vector_flops += elements * (chain.flops + flops) as u64;
        let row_sums = plan.row_sums.len();
        let step = groups * batch;
        let _ = write!(
            t,
            "#pragma unroll 1\nfor (int u_first = u_group; u_first < {}; u_first += {step}) {{\n    int u_rows[{batch}];\n{}    \
             #pragma unroll\n    for (int u_b = 0; u_b < {batch}; u_b++) {{\n        const int u_r = u_first + u_b * {groups};\n        \
             u_rows[u_b] = -1;\n        if (u_in && u_r < {}) {{\n            const int u_row = ROW(u_r);\n            \
             if ((uint)u_row < {}u) u_rows[u_b] = u_row;\n        }}\n        if (u_rows[u_b] >= 0) {{\n            \
             [[maybe_unused]] const uint u_at = (uint)u_rows[u_b] * {} + u_c;\n{}        }}\n    }}\n",
            // The threads of a warp go round equally often.
            format_args!("{} + u_group", spec.tile_rows.next_multiple_of(step)),
            block(&declare, 4),
            spec.tile_rows,
            spec.rows,
            spec.channels,
            block(&read, 12),
        );
        let row_names: String = (0..row_sums).map(|n| format!("        float u_s{n} = 0.f;\n")).collect();
        let count = match plan.totals() {
            (_, 0) => "",
            _ => {
                "            u_totals.count += 1.f;\n            const float u_share = 1.f / u_totals.count;\n"
            }
        };
        let _ = write!(
            t,
            "    #pragma unroll\n    for (int u_b = 0; u_b < {batch}; u_b++) {{\n{row_names}        if (u_rows[u_b] >= 0) {{\n            \
             [[maybe_unused]] const uint row = u_rows[u_b];\n            [[maybe_unused]] const uint u_at = row * {} + u_c;\n{count}{}            \
             #pragma unroll\n            for (int u_e = 0; u_e < {vector}; u_e++) {{\n                [[maybe_unused]] const uint c = u_c + \
             u_e;\n{}            }}\n{}        }}\n",
            spec.channels,
            block(&own, 12),
            block(&take, 16),
            block(&write, 12),
        );
        if row_sums > 0 {
            let (_, pitch) = lanes.parts();
            let _ = writeln!(t, "        const int u_r = u_first + u_b * {groups};");
            for n in 0..row_sums {
                let _ = write!(
                    t,
                    "        u_s{n} = rows::segment_sum<{segment}>(u_s{n});\n        if (u_on && u_r < {} && u_lane % {segment} == 0) \
                     u_parts[({n} * {} + u_r) * {pitch} + u_lane / {segment}] = u_s{n};\n",
                    spec.tile_rows, spec.tile_rows
                );
            }
            self.scratch += (row_sums * spec.tile_rows * pitch * 4).next_multiple_of(16);
        }
        t.push_str("    }\n}\n");
        self.text.push_str(&t);
        Ok(())
    }

    /// The text so far, as one block of statements.
    fn whole(&mut self) -> String {
        let (spec, Lanes { vector, lanes, groups, .. }) = (self.spec, self.lanes);
        let (_, pitch) = self.lanes.parts();
        let parts = (self.plan.row_sums.len() * spec.tile_rows * pitch * 4).next_multiple_of(16);
        let mut t = format!(
            "{{\n    const int u_lane = threadIdx.x % {lanes}, u_group = threadIdx.x / {lanes};\n    const bool u_on = u_group < {groups};\n    \
             const uint u_j = u_lane * {vector}, u_c = channel_tile * {} + u_j;\n    const bool u_in = u_on && u_c < {};\n    \
             (void)u_on;\n",
            spec.tile_channels, spec.channels
        );
        if !self.plan.row_sums.is_empty() {
            t.push_str("    float* const u_parts = (float*)scratch;\n");
        }
        if !self.plan.channel_sums.is_empty() {
            let _ = writeln!(t, "    float* const u_shared = (float*)(scratch + {parts});");
        }
        t.push_str(&block(&self.text, 4));
        t.push_str("}\n");
        t
    }
}
