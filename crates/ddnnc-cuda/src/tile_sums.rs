//! The sums of a tile program: of a tile, then of all tiles in their order, and what follows from whole sums.

use crate::chain::{Access, chain_at};
use crate::code::{LaunchCode, c_type};
use crate::ctext::float;
use crate::tile::{Lanes, Writer, block};
use crate::tile_plan::Sum;
use ddnnc_ir::Local;
use std::fmt::Write as _;

/// Row tiles whose sums one block adds; more are added in two levels.
const ONE_LEVEL: usize = 64;

impl Writer<'_> {
    /// Statements that write what follows from whole sums, at an index; the sums are floats `u_z<n>` in the plan's order.
    fn finish(&mut self, sums: &[Sum], index: &Access, place: &str) -> Result<String, String> {
        let given: Vec<Local> = sums.iter().flat_map(|s| s.results.clone()).collect();
        let mut wanted: Vec<Local> = given.clone();
        wanted.extend(self.plan.vectors(*index == Access::Channel));
        wanted.retain(|l| self.spec.group.results.contains(l));
        let at: Vec<(Local, Access)> = wanted.iter().map(|&l| (l, index.clone())).collect();
        let chain = chain_at(self.spec.group, &at, &given)?;
        let mut text = String::new();
        text.push_str(&self.constants(&chain.inputs, |_| true)?);
        for (n, input) in chain.inputs.iter().enumerate() {
            if let Some(z) = given.iter().position(|l| *l == input.local) {
                let _ = writeln!(text, "const float i{n} = u_z{z};");
            } else {
                self.cost.bytes_read += self.ty(input.local)?.bytes() as u64;
            }
        }
        text.push_str(&chain.channel_code);
        text.push_str(&chain.code);
        for (n, &local) in wanted.iter().enumerate() {
            let ctype = c_type(self.ty(local)?.dtype);
            for pointer in self.results(local)? {
                self.cost.bytes_written += self.ty(local)?.bytes() as u64;
                let _ = writeln!(text, "{pointer}[{place}] = from_float<{ctype}>(o{n});");
            }
        }
        Ok(text)
    }

    /// Sums over the channels of each row: of the tile's channels first, and where there are several tiles of channels,
    /// the last block of a tile of rows adds them up.
    pub fn row_sums(&mut self, code: &mut LaunchCode) -> Result<(), String> {
        let (spec, plan, lanes) = (self.spec, self.plan, self.lanes);
        if plan.row_sums.is_empty() {
            return Ok(());
        }
        let (parts, pitch) = lanes.parts();
        let tiles = spec.channels.div_ceil(spec.tile_channels);
        let mut declare = String::new();
        for (n, sum) in plan.row_sums.iter().enumerate() {
            let _ = writeln!(declare, "const float u_z{n} = u_t{n} * {};", float(sum.factor));
        }
        let finish = self.finish(&plan.row_sums, &Access::Repeated("row".to_owned()), "row")?;
        let count = plan.row_sums.len();
        let (rows, tile_rows, threads) = (spec.rows, spec.tile_rows, spec.threads);
        let mut t = format!(
            "__syncthreads();\nfor (int u_r = threadIdx.x; u_r < {tile_rows}; u_r += {threads}) {{\n    const int u_row = ROW(u_r);\n    \
             if ((uint)u_row >= {rows}u) continue;\n    [[maybe_unused]] const uint row = u_row;\n"
        );
        for n in 0..count {
            let _ = write!(
                t,
                "    float u_t{n} = 0.f;\n    for (int u_p = 0; u_p < {parts}; u_p++) u_t{n} += u_parts[({n} * {tile_rows} + u_r) * {pitch} + u_p];\n"
            );
        }
        if tiles == 1 {
            let _ = writeln!(t, "{}{}}}", block(&declare, 4), block(&finish, 4));
        } else {
            let bytes = 4 * tiles * count * rows;
            let partials = self.arguments.workspace(code, "float", bytes);
            let counters = self.arguments.counters(code, spec.row_tiles);
            self.cost.bytes_read += bytes as u64;
            self.cost.bytes_written += bytes as u64;
            for n in 0..count {
                let _ =
                    writeln!(t, "    {partials}[(channel_tile * {count} + {n}) * {rows} + row] = u_t{n};");
            }
            let _ = write!(
                t,
                "}}\nif (last_block({counters} + row_tile, {tiles})) {{\n    for (int u_r = threadIdx.x; u_r < {tile_rows}; u_r += {threads}) {{\n        \
                 const int u_row = ROW(u_r);\n        if ((uint)u_row >= {rows}u) continue;\n        [[maybe_unused]] const uint row = u_row;\n"
            );
            for n in 0..count {
                let _ = write!(
                    t,
                    "        float u_t{n} = 0.f;\n        for (int u_p = 0; u_p < {tiles}; u_p++) u_t{n} += {partials}[(u_p * {count} + {n}) * {rows} + row];\n"
                );
            }
            let _ = write!(t, "{}{}    }}\n}}\n", block(&declare, 8), block(&finish, 8));
        }
        self.text.push_str(&t);
        Ok(())
    }

    /// Sums over rows: of the tile in a tree, then over the tiles in order.
    pub fn channel_sums(&mut self, code: &mut LaunchCode) -> Result<(), String> {
        let (spec, plan) = (self.spec, self.plan);
        if plan.channel_sums.is_empty() {
            return Ok(());
        }
        let Lanes { vector, lanes, groups, .. } = self.lanes;
        let (sums, stats) = plan.totals();
        let slots = sums + 2 * stats + usize::from(stats > 0);
        self.scratch += (slots * groups.div_ceil(2) * lanes * vector * 4).next_multiple_of(16);
        let tiles = spec.channels.div_ceil(spec.tile_channels);
        let channels = spec.channels;
        let call = format!("<{lanes}, {groups}>");
        let mut t = format!("u_totals.combine{call}(u_shared, u_lane, u_group);\n");
        let whole = self.whole_sums()?;
        // Blocks whose sums are merged at once.
        let levels: Vec<usize> = match spec.row_tiles {
            0 | 1 => vec![],
            n if n <= ONE_LEVEL => vec![n],
            n => {
                let size = (n as f64).sqrt().ceil() as usize;
                vec![size.max(32), n.div_ceil(size.max(32))]
            }
        };
        let mut close = 0;
        let mut left = spec.row_tiles;
        let mut number = "(uint)row_tile".to_owned();
        for (level, &size) in levels.iter().enumerate() {
            let sets = left.div_ceil(size);
            let bytes = 4 * left * slots * channels;
            let partials = self.arguments.workspace(code, "float", bytes);
            let counters = self.arguments.counters(code, tiles * sets);
            self.cost.bytes_read += bytes as u64;
            self.cost.bytes_written += bytes as u64;
            let _ = write!(
                t,
                "if (u_in && u_group == 0) u_totals.put({partials} + (size_t){number} * {} + u_c, {channels});\n\
                 const uint u_set{level} = {number} / {size}, u_count{level} = min({size}u, {left}u - u_set{level} * {size});\n\
                 if (last_block({counters} + channel_tile * {sets} + u_set{level}, u_count{level})) {{\n\
                 u_totals.collect{call}({partials} + (size_t)u_set{level} * {} + u_c, {channels}, u_count{level}, u_in, u_shared, u_lane, u_group);\n",
                slots * channels,
                slots * channels * size
            );
            number = format!("u_set{level}");
            left = sets;
            close += 1;
        }
        let _ = write!(t, "if (u_in && u_group == 0) {{\n{}}}\n", block(&whole, 4));
        t.push_str(&"}\n".repeat(close));
        self.text.push_str(&t);
        Ok(())
    }

    /// Statements for whole sums over the rows.
    fn whole_sums(&mut self) -> Result<String, String> {
        let plan = self.plan;
        let mut declare = String::new();
        let (mut sum, mut stat, mut z) = (0, 0, 0);
        for of in &plan.channel_sums {
            match of {
                Sum { eps: Some((eps, var)), .. } => {
                    let chain = chain_at(self.spec.group, &[(*var, Access::Channel)], &[])?;
                    let _ = write!(
                        declare,
                        "float u_z{z} = u_totals.sum[{sum}][u_e];\nconst float u_z{} = u_totals.sum[{}][u_e];\n{{\n{}{}{}    u_z{z} \
                         /= sqrtf(o0 + {});\n}}\n",
                        z + 1,
                        sum + 1,
                        block(&self.constants(&chain.inputs, |_| true)?, 4),
                        block(&chain.channel_code, 4),
                        block(&chain.code, 4),
                        float(*eps)
                    );
                    sum += 2;
                    z += 2;
                }
                Sum { statistics: true, .. } => {
                    let _ = write!(
                        declare,
                        "const float u_z{z} = u_totals.mean[{stat}][u_e];\nconst float u_z{} = u_totals.square[{stat}][u_e] / \
                         u_totals.count;\n",
                        z + 1
                    );
                    stat += 1;
                    z += 2;
                }
                Sum { factor, .. } => {
                    let _ = writeln!(
                        declare,
                        "const float u_z{z} = u_totals.sum[{sum}][u_e] * {};",
                        float(*factor)
                    );
                    sum += 1;
                    z += 1;
                }
            }
        }
        let finish = self.finish(&plan.channel_sums, &Access::Channel, "c")?;
        let vector = self.lanes.vector;
        Ok(format!(
            "#pragma unroll\nfor (int u_e = 0; u_e < {vector}; u_e++) {{\n    [[maybe_unused]] const uint c = u_c + u_e;\n{}{}}}\n",
            block(&declare, 4),
            block(&finish, 4)
        ))
    }
}
