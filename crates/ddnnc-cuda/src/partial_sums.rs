//! Products whose depth is cut among blocks: each block leaves its sums in the workspace, and the last one to arrive at a
//! tile adds them in their order.

use crate::code::{Argument, Arguments, LaunchCode};
use crate::product::Class;
use crate::tiles::Choice;

/// Where partial sums meet: the summands of a sum, in the order of the classes, their parts and their runs.
pub(crate) struct Sums {
    /// For each class and part: the sum, and the number of the part's first summand in it.
    places: Vec<Vec<(usize, usize)>>,
    /// How many summands a sum has.
    counts: Vec<usize>,
    /// Offset of the workspace and the first counter of each sum; `None` where tiles are whole.
    memory: Vec<Option<(usize, usize)>>,
}

impl Sums {
    /// Reserves their memory.
    pub(crate) fn new(classes: &[Class], choice: &Choice, code: &mut LaunchCode) -> Sums {
        let (mut places, mut counts, mut tiles) = (Vec::new(), Vec::<usize>::new(), Vec::<usize>::new());
        for class in classes {
            let rows = class.row_tiles(choice.tile.rows);
            let of_class = rows * class.columns.div_ceil(choice.tile.columns) * class.groups;
            let mut mine = Vec::new();
            for part in 0..class.parts() {
                let sum = class.sums.get(part).copied().unwrap_or(counts.len());
                if sum >= counts.len() {
                    counts.resize(sum + 1, 0);
                    tiles.resize(sum + 1, 0);
                }
                mine.push((sum, counts[sum]));
                counts[sum] += choice.splits;
                tiles[sum] = of_class;
            }
            places.push(mine);
        }
        // One way for all sums of a kernel: those of one summand go through memory where others do.
        let cut = counts.iter().any(|&count| count > 1);
        let memory = counts
            .iter()
            .zip(&tiles)
            .map(|(&count, &tiles)| {
                cut.then(|| {
                    let at = (code.workspace_bytes, code.counters);
                    let bytes = tiles * count * choice.tile.rows * choice.tile.columns * 4;
                    code.workspace_bytes += bytes.next_multiple_of(256);
                    code.counters += tiles;
                    at
                })
            })
            .collect();
        Sums { places, counts, memory }
    }

    /// Whether blocks have parts of sums only.
    pub(crate) fn are_cut(&self) -> bool {
        self.memory.iter().any(Option::is_some)
    }

    /// Statements that turn a block's own sums into the whole, or end the block.
    pub(crate) fn combine(
        &self,
        number: usize,
        class: &Class,
        column_tiles: usize,
        arguments: &mut Arguments,
    ) -> String {
        let places = &self.places[number];
        let memory: Option<Vec<(usize, usize)>> = places.iter().map(|p| self.memory[p.0]).collect();
        let Some(memory) = memory else { return String::new() };
        let partials = memory.iter().map(|m| Argument::Workspace(m.0)).collect();
        let partials = arguments.placed("partials", "float*", partials);
        let counters = memory.iter().map(|m| Argument::Counter(m.1)).collect();
        let counters = arguments.placed("arrived", "uint*", counters);
        let by_part = |values: Vec<usize>| {
            let same = values.iter().all(|v| *v == values[0]);
            let last = values[values.len() - 1].to_string();
            if same {
                return last;
            }
            let others = values[..values.len() - 1].iter().enumerate().rev();
            others.fold(last, |rest, (part, v)| format!("part == {part} ? {v} : {rest}"))
        };
        let first = by_part(places.iter().map(|p| p.1).collect());
        let count = by_part(places.iter().map(|p| self.counts[p.0]).collect());
        let groups = class.groups;
        format!(
            "        {{\n            const int at = (m_tile * {groups} + group) * {column_tiles} + n_tile, first_summand = {first}, \
             summands = {count};\n            float* partial = {partials} + (ulong)at * summands * (BM * BN);\n            \
             save_partial(sums, partial + (first_summand + split) * (BM * BN));\n            \
             if (!last_block({counters} + at, summands)) return;\n            add_partials(sums, partial, summands);\n        }}\n"
        )
    }
}
