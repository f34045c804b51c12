//! Kernels of elementwise groups.
//!
//! Steps that operands or values connect are one part: a thread reads all that they need of an element before it writes,
//! so that a result may lie on an operand. Parts that are alike are one class; classes share a kernel, each with blocks of
//! its own. Values with sums or channel vectors are worked on in tiles of rows and channels, others in the order of
//! memory.

use crate::arch::Target;
use crate::code::{Argument, Arguments, Cost, Kernel, LaunchCode};
use crate::emit::{PRELUDE, emit_group, single};
use crate::flat::flat;
use crate::parts::{Class, classes_by_operands};
use crate::pointwise_cut::{Whole, depths, endangered, parts};
use crate::split::{append, in_turn};
use crate::tile::{ROWS, TileSpec, tile};
use crate::tile_plan::has_rows;
use ddnnc_ir::{DType, Group, GroupKind, Layout, Local, Op, Shape, ValueType, is_reduction};
use indexmap::IndexMap;
use std::collections::BTreeSet;
use std::fmt::Write as _;

/// Threads of a block.
const THREADS: usize = 256;

/// Lanes of a tile's row: with 16 bytes each, 512 bytes in a run.
const LANES: usize = 32;

/// The kernels of an elementwise group.
///
/// # Errors
///
/// What cannot be done at once.
pub fn emit(group: &Group, target: &Target) -> Result<LaunchCode, String> {
    let (depths, wholes) = depths(group);
    if depths.iter().any(|&d| d > 0) {
        return apart(group, &parts(&depths), target);
    }
    match at_once(group, &wholes, target) {
        Err(_) if group.steps.len() == 1 => {
            crate::sequence::emit(&Group { kind: GroupKind::Sequence, ..group.clone() }, target)
        }
        Err(_) => {
            let one = |s: usize| (GroupKind::Pointwise, vec![s]);
            apart(group, &(0..group.steps.len()).map(one).collect::<Vec<_>>(), target)
        }
        made => made,
    }
}

/// Parts one after the other. A result that may lie on what a later part reads is written when all have run.
fn apart(group: &Group, parts: &[(GroupKind, Vec<usize>)], target: &Target) -> Result<LaunchCode, String> {
    let mut late = BTreeSet::new();
    for (i, part) in parts.iter().enumerate() {
        for other in &parts[i + 1..] {
            late.extend(endangered(group, &part.1, &other.1));
        }
    }
    written_last(group, &late, in_turn(group, parts, target)?, target)
}

/// Kernels with some results in workspace, and copies of these to their places behind.
fn written_last(
    group: &Group,
    late: &BTreeSet<usize>,
    made: LaunchCode,
    target: &Target,
) -> Result<LaunchCode, String> {
    if late.is_empty() {
        return Ok(made);
    }
    let types = group.result_types();
    let mut code = LaunchCode::default();
    let operands: Vec<Argument> = (0..group.operands.len()).map(Argument::Operand).collect();
    let mut results: Vec<Argument> = (0..types.len()).map(Argument::Result).collect();
    for &r in late {
        results[r] = Argument::Workspace(code.workspace_bytes);
        code.workspace_bytes += types[r].bytes().next_multiple_of(256);
    }
    append(&mut code, made, &operands, &results);
    for &r in late {
        let copy = Op::Store { name: String::new() };
        let one = single(&copy, vec![types[r].clone()], vec![types[r].clone()]);
        append(&mut code, emit_group(&one, target)?, &[results[r]], &[Argument::Result(r)]);
    }
    Ok(code)
}

/// Steps of a class that work on the same rows and channels.
struct Work<'a> {
    class: &'a Class,
    ty: ValueType,
    steps: Vec<usize>,
    sums: bool,
}

/// The work of a class, by extents and layout.
fn works<'a>(group: &Group, class: &'a Class, wholes: &[Option<Whole>]) -> Vec<Work<'a>> {
    let mut all: IndexMap<(Shape, Layout), (Vec<usize>, bool)> = IndexMap::new();
    for &s in &class.steps {
        let step = &group.steps[s];
        let given = |r: usize| group.results.contains(&Local::Step { step: s as u32, result: r as u32 });
        let types: Vec<&ValueType> = step.operands.iter().filter_map(|&l| group.ty(l)).collect();
        let sum = is_reduction(&step.op, &types);
        let key = match (&wholes[s], step.results.first()) {
            (Some(whole), _) => whole.map.clone(),
            (None, Some(ty)) if (0..step.results.len()).any(given) => (ty.shape.clone(), ty.layout),
            _ => continue,
        };
        let entry = all.entry(key).or_default();
        entry.0.push(s);
        entry.1 |= sum;
    }
    let make = |((shape, layout), (steps, sums))| Work {
        class,
        ty: ValueType { dtype: DType::F32, shape, layout },
        steps,
        sums,
    };
    all.into_iter().map(make).collect()
}

fn at_once(group: &Group, wholes: &[Option<Whole>], target: &Target) -> Result<LaunchCode, String> {
    let classes = classes_by_operands(group);
    let mut all = Vec::new();
    let mut late = BTreeSet::new();
    for class in &classes {
        let works = works(group, class, wholes);
        for (i, writer) in works.iter().enumerate() {
            for (_, reader) in works.iter().enumerate().filter(|(j, _)| *j != i) {
                let of_first = endangered(group, &writer.steps, &reader.steps);
                for part in &class.parts {
                    late.extend(of_first.iter().map(|r| part.results.get(r).copied().unwrap_or(*r)));
                }
            }
        }
        all.extend(works);
    }
    let parts: usize = all.iter().map(|w| w.class.parts.len()).sum();
    let mut code = LaunchCode::default();
    let mut kernel = Text::default();
    for (n, work) in all.iter().enumerate() {
        kernel.add(group, work, n, parts, target, &mut code)?;
    }
    if let Some(kernel) = kernel.finish()? {
        code.kernels.push(kernel);
    }
    written_last(group, &late, code, target)
}

/// A kernel in the making.
#[derive(Default)]
struct Text {
    functions: BTreeSet<String>,
    body: String,
    parameters: String,
    arguments: Vec<Argument>,
    blocks: usize,
    scratch: usize,
    cost: Cost,
    choice: Vec<String>,
}

impl Text {
    fn add(
        &mut self,
        group: &Group,
        work: &Work,
        number: usize,
        parts: usize,
        target: &Target,
        code: &mut LaunchCode,
    ) -> Result<(), String> {
        if work.ty.elements() == 0 {
            return if work.sums { Err("sums of nothing".to_owned()) } else { Ok(()) };
        }
        let mut arguments = Arguments::with_parts(&format!("q{number}_"), work.class.parts.clone());
        let own = work.class.parts.len();
        let multiprocessors = target.multiprocessors as usize;
        let (body, per_part, cost) = if work.sums || (has_rows(&work.ty) && takes_vectors(group, work)) {
            let spec = cut(group, work, parts, multiprocessors);
            let made = tile(&spec, &mut arguments, code)?;
            let tiles = spec.channels.div_ceil(spec.tile_channels);
            self.functions.insert(made.functions);
            self.scratch = self.scratch.max(made.scratch_bytes);
            self.choice.push(format!("tiles {}x{}", spec.tile_rows, spec.tile_channels));
            let body = format!(
                "        [[maybe_unused]] const int row_tile = u_left % {}, channel_tile = u_left / {};\n#define ROW(r) (row_tile * {} + (int)(r))\n{}#undef \
                 ROW\n",
                spec.row_tiles, spec.row_tiles, spec.tile_rows, made.body
            );
            (body, spec.row_tiles * tiles, made.cost)
        } else {
            let maps: Vec<Local> =
                work.steps.iter().map(|&s| Local::Step { step: s as u32, result: 0 }).collect();
            let made = flat(group, &maps, &work.ty, (16 * multiprocessors / parts).max(1), &mut arguments)?;
            self.functions.insert(ROWS.to_owned());
            self.choice.push(format!("runs of {}", made.vector));
            (made.body, made.blocks, made.cost)
        };
        let (begin, end) = (self.blocks, self.blocks + own * per_part);
        let _ = write!(
            self.body,
            "    if (u_block < {end}) {{\n        const uint u_in_class = u_block - {begin};\n        [[maybe_unused]] const int part = u_in_class / \
             {per_part};\n        const uint u_left = u_in_class % {per_part};\n{}{body}        return;\n    }}\n",
            arguments.select()
        );
        let (parameters, list) = arguments.parameters();
        if !self.parameters.is_empty() && !parameters.is_empty() {
            self.parameters.push_str(", ");
        }
        self.parameters.push_str(&parameters);
        self.arguments.extend(list);
        self.blocks = end;
        self.cost += cost * own;
        Ok(())
    }

    fn finish(self) -> Result<Option<Kernel>, String> {
        if self.blocks == 0 {
            return Ok(None);
        }
        if self.scratch > 48 << 10 {
            return Err("sums that need more shared memory than a block has".to_owned());
        }
        let functions: String = self.functions.into_iter().collect();
        let source = format!(
            "{PRELUDE}\n{functions}\nextern \"C\" __global__ void BLOCK_OF({THREADS}) pointwise({}) {{\n    extern __shared__ uint4 \
             u_dynamic[];\n    [[maybe_unused]] char* const scratch = (char*)u_dynamic;\n    const uint u_block = blockIdx.x;\n{}}}\n",
            self.parameters, self.body
        );
        let blocks =
            u32::try_from(self.blocks).ok().filter(|&b| b < 1 << 31).ok_or("a grid of too many blocks")?;
        Ok(Some(Kernel {
            name: "pointwise".to_owned(),
            source,
            grid: [blocks, 1, 1],
            block: THREADS as u32,
            dynamic_shared: self.scratch as u32,
            arguments: self.arguments,
            cost: self.cost,
            choice: self.choice.join(", "),
        }))
    }
}

/// Whether constants of a channel are computed once for many rows.
fn takes_vectors(group: &Group, work: &Work) -> bool {
    let maps: Vec<Local> = work.steps.iter().map(|&s| Local::Step { step: s as u32, result: 0 }).collect();
    crate::chain::chain(group, &maps, &[]).is_ok_and(|chain| chain.channel_values > 0)
}

/// Tiles: whole rows where they are summed; as many rows as leave blocks for every multiprocessor.
fn cut<'a>(group: &'a Group, work: &Work, parts: usize, multiprocessors: usize) -> TileSpec<'a> {
    let channels = work.ty.dims()[1].max(1);
    let rows = work.ty.elements() / channels;
    let vector = [8, 4, 2, 1].into_iter().find(|v| channels.is_multiple_of(*v)).unwrap_or(1).min(4);
    let sums_rows = work
        .steps
        .iter()
        .any(|&s| matches!(&group.steps[s].op, Op::Reduce { axes, .. } if axes.as_slice() == [1]));
    let most = if sums_rows { THREADS } else { LANES };
    let tile_channels = channels.min(most * vector);
    let groups = (THREADS / tile_channels.div_ceil(vector)).max(1);
    let channel_tiles = channels.div_ceil(tile_channels);
    // What is constant along the rows is computed by every block, so many rows are better than few.
    let least = if work.sums { 4 } else { 1 };
    let wanted = if work.sums { 4 } else { 8 };
    let mut rounds = 32.min(rows.div_ceil(groups).next_power_of_two());
    while rounds > least && rows.div_ceil(groups * rounds) * channel_tiles * parts < wanted * multiprocessors
    {
        rounds /= 2;
    }
    let tile_rows = groups * rounds.max(1);
    TileSpec {
        group,
        steps: work.steps.clone(),
        given: Vec::new(),
        given_stride: 0,
        rows,
        channels,
        tile_rows,
        tile_channels,
        row_tiles: rows.div_ceil(tile_rows),
        threads: THREADS,
    }
}
