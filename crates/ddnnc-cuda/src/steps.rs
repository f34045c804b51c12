//! Kernels of sequences: the text of each step, in one block or in ranges of many.
//!
//! A step is one phase of statements or several; each needs all of the one before. Statements know the uints `t` and `n`:
//! the number of the thread and how many there are, of the block, or of the range of blocks that the step has. Both are
//! multiples of a warp, so that warps (and in ranges, blocks) stay together.

use crate::code::{Argument, Cost, Kernel, LaunchCode, c_type};
use crate::emit::PRELUDE;
use crate::places::{Places, is_copy};
use crate::{elementwise, losses, moves, pooling, relations, samples, sums};
use ddnnc_ir::{Group, Local, Op, Step, ValueType};
use indexmap::IndexMap;
use std::collections::BTreeSet;
use std::fmt::Write as _;

/// Threads of a block where a kernel has many.
const THREADS: usize = 256;

/// Threads of a block that is alone.
const THREADS_ALONE: usize = 512;

/// The most blocks of a step: four for each multiprocessor of a large card. More work is done in more rounds.
const MOST_BLOCKS: usize = 592;

/// The templates that steps call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Library {
    /// Sums that carry their errors, teams.
    Sums,
    /// Operators on rows.
    Samples,
    /// Losses of rows.
    Losses,
    /// Losses between the relations of a batch.
    Relations,
    /// Neighbouring channels.
    Channels,
    /// Pooling.
    Pooling,
    /// Moves.
    Moves,
}

/// Neighbouring channels as one access.
pub const CHANNELS: &str = include_str!("../../../kernels/channels.cuh");

impl Library {
    fn text(self) -> &'static str {
        match self {
            Library::Sums => include_str!("../../../kernels/sums.cuh"),
            Library::Samples => include_str!("../../../kernels/samples.cuh"),
            Library::Losses => include_str!("../../../kernels/losses.cuh"),
            Library::Relations => include_str!("../../../kernels/relations.cuh"),
            Library::Channels => CHANNELS,
            Library::Pooling => include_str!("../../../kernels/pooling.cuh"),
            Library::Moves => include_str!("../../../kernels/moves.cuh"),
        }
    }
}

/// Statements that any number of threads run together.
#[derive(Clone, Debug, Default)]
pub struct Phase {
    /// C statements.
    pub text: String,
    /// Threads that have something to do.
    pub threads: usize,
    /// What a later phase costs that is too much for one block, and where there are many is a kernel of its own.
    pub apart: Option<Cost>,
}

impl Phase {
    /// Statements for so many threads.
    pub fn new(text: String, threads: usize) -> Phase {
        Phase { text, threads, apart: None }
    }
}

/// How a kernel runs its levels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blocks {
    /// One block runs all steps in turn.
    One,
    /// One level, each step in blocks of its own.
    Many,
}

/// A kernel in the making.
pub struct Writer<'a> {
    /// The whole group.
    pub group: &'a Group,
    places: &'a mut Places,
    code: &'a mut LaunchCode,
    /// Threads of a block.
    pub threads: usize,
    /// Bytes of shared memory that a step uses; `char* shared` in the text.
    pub shared_bytes: usize,
    /// What it costs.
    pub cost: Cost,
    libraries: BTreeSet<Library>,
    parameters: IndexMap<Argument, (String, String)>,
}

impl Writer<'_> {
    /// An operand of a step as an expression: a typed pointer.
    pub fn operand(&mut self, step: &Step, i: usize) -> String {
        self.value(step.operands[i], true)
    }

    /// A result of a step, likewise.
    pub fn result(&mut self, s: usize, result: usize) -> String {
        self.value(Local::Step { step: s as u32, result: result as u32 }, false)
    }

    /// The type of an operand of a step.
    pub fn ty(&self, step: &Step, i: usize) -> ValueType {
        step.operands.get(i).and_then(|&l| self.group.ty(l)).cloned().unwrap_or_else(ValueType::scalar)
    }

    fn value(&mut self, local: Local, read: bool) -> String {
        let ctype = self.group.ty(local).map_or("float", |ty| c_type(ty.dtype));
        let place = self.places.place(self.code, self.group, local);
        let constant = if read { "const " } else { "" };
        match place {
            Argument::Workspace(offset) => {
                let base = self.parameter(Argument::Workspace(0), "w".to_owned(), "char*".to_owned());
                format!("(({constant}{ctype}*)({base} + {offset}))")
            }
            Argument::Operand(i) => self.parameter(place, format!("p{i}"), format!("const {ctype}*")),
            Argument::Result(i) => self.parameter(place, format!("r{i}"), format!("{ctype}*")),
            other => self.parameter(other, "other".to_owned(), format!("{ctype}*")),
        }
    }

    fn parameter(&mut self, argument: Argument, name: String, ctype: String) -> String {
        self.parameters.entry(argument).or_insert((name, ctype)).0.clone()
    }

    /// Workspace for that many partial results, as an expression.
    pub fn partials(&mut self, count: usize) -> String {
        self.workspace("float", 4 * count)
    }

    /// That many bytes of workspace, as an expression: a pointer to elements of a type.
    pub fn workspace(&mut self, ctype: &str, bytes: usize) -> String {
        let offset = self.code.workspace_bytes;
        self.code.workspace_bytes += bytes.next_multiple_of(256);
        let base = self.parameter(Argument::Workspace(0), "w".to_owned(), "char*".to_owned());
        format!("(({ctype}*)({base} + {offset}))")
    }

    fn counter(&mut self) -> String {
        let i = self.code.counters;
        self.code.counters += 1;
        self.parameter(Argument::Counter(i), format!("c{i}"), "uint*".to_owned())
    }

    /// The text calls this library.
    pub fn needs(&mut self, library: Library) {
        self.libraries.insert(library);
        if matches!(library, Library::Samples | Library::Losses) {
            self.libraries.insert(Library::Sums);
            self.libraries.insert(Library::Samples);
        }
        if library == Library::Pooling {
            self.libraries.insert(Library::Channels);
        }
    }

    /// Counts bytes read and written, and operations.
    pub fn costs(&mut self, read: usize, written: usize, flops: usize) {
        self.cost.bytes_read += read as u64;
        self.cost.bytes_written += written as u64;
        self.cost.vector_flops += flops as u64;
    }

    /// Threads that take a row of that length together: a warp, or for long rows a block.
    pub fn team(&mut self, len: usize) -> usize {
        let team = if len > 4096 { self.threads } else { 32 };
        self.shared_bytes = self.shared_bytes.max(4 * (team / 32));
        team
    }
}

/// What writes the phases of a step, given its number.
type Text = fn(&mut Writer<'_>, usize) -> Result<Vec<Phase>, String>;

/// What writes an operator's text; `None` for those that other kernels compute, or none does.
fn text_of(op: &Op) -> Option<Text> {
    Some(match op {
        Op::Constant { .. }
        | Op::Ema { .. }
        | Op::Unary { .. }
        | Op::UnaryGrad { .. }
        | Op::Binary { .. }
        | Op::Scale { .. }
        | Op::BiasAdd
        | Op::Dropout { .. }
        | Op::Normalize { .. }
        | Op::NormalizeGradInput { .. }
        | Op::NormalizeGradFixed { .. }
        | Op::Cast { .. } => elementwise::phases,
        Op::Store { .. } | Op::StopGradient | Op::Reshape { .. } => moves::copy,
        Op::Concat { .. } | Op::Slice { .. } | Op::Pad { .. } => moves::spans,
        Op::Broadcast { .. } => moves::broadcast,
        Op::ConvertLayout { .. } => moves::transpose,
        Op::Reduce { .. } => sums::reduce,
        Op::ChannelStats | Op::NormalizeGradReduce { .. } => sums::channels,
        Op::MatMul { .. } => sums::matmul,
        Op::MaxPool(_) | Op::MaxPoolGrad(_) | Op::AvgPool(_) | Op::AvgPoolGrad { .. } => pooling::phases,
        Op::Standardize { .. }
        | Op::StandardizeGrad { .. }
        | Op::L2Normalize { .. }
        | Op::L2NormalizeGrad { .. }
        | Op::Softmax
        | Op::SoftmaxGrad
        | Op::LogSoftmax
        | Op::LogSoftmaxGrad => samples::phases,
        Op::CrossEntropy { .. }
        | Op::CrossEntropyGrad { .. }
        | Op::KlDivergence { .. }
        | Op::KlGradTeacher { .. }
        | Op::KlGradStudent { .. }
        | Op::MeanSquaredError
        | Op::MeanSquaredErrorGrad => losses::phases,
        Op::RelationDistance | Op::RelationDistanceGrad | Op::RelationAngle | Op::RelationAngleGrad => {
            relations::phases
        }
        Op::Input { .. }
        | Op::Parameter { .. }
        | Op::State { .. }
        | Op::Output { .. }
        | Op::Conv2d(_)
        | Op::Conv2dGradInput { .. }
        | Op::Conv2dGradWeight { .. }
        | Op::SgdUpdate { .. }
        | Op::AdamwUpdate { .. }
        | Op::Fused(_) => return None,
    })
}

/// Whether this module has text for a step.
pub fn suits(group: &Group, step: &Step) -> bool {
    text_of(&step.op).is_some() && step.operands.iter().all(|local| group.ty(*local).is_some())
}

/// The phases of a step.
fn phases(w: &mut Writer<'_>, s: usize) -> Result<Vec<Phase>, String> {
    let group = w.group;
    let step = &group.steps[s];
    if is_copy(group, step) {
        return moves::copy(w, s);
    }
    let text = text_of(&step.op).ok_or_else(|| not_a(step, "step of a sequence's kernel"))?;
    text(w, s)
}

/// That a step has come to a module which has no text for its operator.
pub fn not_a(step: &Step, what: &str) -> String {
    format!("{} is no {what}", step.op.mnemonic())
}

/// The kernels for these levels, one after the other; none where there is nothing to do.
///
/// # Errors
///
/// What no kernel can do.
pub fn kernels(
    group: &Group,
    places: &mut Places,
    code: &mut LaunchCode,
    levels: &[Vec<usize>],
    blocks: Blocks,
) -> Result<Vec<Kernel>, String> {
    let threads = if blocks == Blocks::One { THREADS_ALONE } else { THREADS };
    let mut w = Writer {
        group,
        places,
        code,
        threads,
        shared_bytes: 0,
        cost: Cost::default(),
        libraries: BTreeSet::new(),
        parameters: IndexMap::new(),
    };
    // Of each kernel: statements, blocks, cost, and how the work was cut.
    let mut texts: Vec<(String, usize, Cost, String)> = Vec::new();
    match blocks {
        Blocks::One => {
            let mut body = String::new();
            let cost = alone(&mut w, levels, &mut body)?;
            let choice = format!("{} steps in one block", levels.iter().map(Vec::len).sum::<usize>());
            texts.push((body, 1, cost, choice));
        }
        Blocks::Many => {
            for (i, parts) in parts(&mut w, levels)?.into_iter().enumerate() {
                let late: Cost = parts.iter().map(|part| part.cost).sum();
                let cost = if i == 0 { w.cost + late } else { late };
                let (body, grid) = ranges(parts);
                texts.push((body, grid, cost, format!("{grid} blocks")));
            }
        }
    }
    let name = name_of(group, levels);
    let libraries: String = w.libraries.iter().map(|l| l.text()).collect();
    let parameters: Vec<String> =
        w.parameters.values().map(|(name, ctype)| format!("{ctype} {name}")).collect();
    let shared = match w.shared_bytes {
        0 => String::new(),
        bytes => format!("    __shared__ __align__(16) char shared[{bytes}];\n"),
    };
    let kernel = |(body, grid, cost, choice): (String, usize, Cost, String)| Kernel {
        source: format!(
            "{PRELUDE}\n{libraries}\nextern \"C\" __global__ void BLOCK_OF({threads}) {name}(\n    {}\n) {{\n\
             {shared}{body}}}\n",
            parameters.join(", ")
        ),
        name: name.clone(),
        grid: [grid as u32, 1, 1],
        block: threads as u32,
        dynamic_shared: 0,
        arguments: w.parameters.keys().copied().collect(),
        cost,
        choice,
    };
    Ok(texts.into_iter().map(kernel).collect())
}

/// All steps in turn, a barrier between levels and between phases; gives their cost.
fn alone(w: &mut Writer<'_>, levels: &[Vec<usize>], body: &mut String) -> Result<Cost, String> {
    let mut late = Cost::default();
    body.push_str("    const uint t = threadIdx.x, n = blockDim.x;\n");
    for (i, level) in levels.iter().enumerate() {
        let mut later: Vec<String> = Vec::new();
        if i > 0 {
            body.push_str("    __syncthreads();\n");
        }
        for &s in level {
            let mut phases = phases(w, s)?.into_iter();
            if let Some(first) = phases.next() {
                let _ = writeln!(body, "    {{ // {}\n{}    }}", w.group.steps[s].op.mnemonic(), first.text);
            }
            for (i, phase) in phases.enumerate() {
                late += phase.apart.unwrap_or_default();
                if later.len() <= i {
                    later.push(String::new());
                }
                let _ = writeln!(later[i], "    {{\n{}    }}", phase.text);
            }
        }
        for phases in later {
            let _ = write!(body, "    __syncthreads();\n{phases}");
        }
    }
    Ok(late + w.cost)
}

/// A step's statements, which a range of blocks runs.
struct Part {
    blocks: usize,
    name: &'static str,
    text: String,
    /// Of a part of a later kernel than the first.
    cost: Cost,
}

/// The parts of one kernel after the other, each of which needs all of the one before. Small later phases are run by the last
/// block of a step's range.
fn parts(w: &mut Writer<'_>, levels: &[Vec<usize>]) -> Result<Vec<Vec<Part>>, String> {
    let mut kernels: Vec<Vec<Part>> = Vec::new();
    for &s in levels.iter().flatten() {
        let name = w.group.steps[s].op.mnemonic();
        let mut own: Vec<Part> = Vec::new();
        for phase in phases(w, s)? {
            if let (Some(part), None) = (own.last_mut(), phase.apart) {
                let _ = write!(
                    part.text,
                    "        if (last_block({}, {})) {{\n        const uint t = threadIdx.x, n = {THREADS};\n{}        }}\n",
                    w.counter(),
                    part.blocks,
                    phase.text
                );
                continue;
            }
            let blocks = phase.threads.div_ceil(THREADS).clamp(1, MOST_BLOCKS);
            own.push(Part { blocks, name, text: phase.text, cost: phase.apart.unwrap_or_default() });
        }
        for (i, part) in own.into_iter().enumerate() {
            if kernels.len() <= i {
                kernels.push(Vec::new());
            }
            kernels[i].push(part);
        }
    }
    Ok(kernels)
}

/// Each part in a range of blocks. Gives the text and the number of blocks.
fn ranges(parts: Vec<Part>) -> (String, usize) {
    let mut body = String::new();
    let (mut first, count) = (0, parts.len());
    for (i, Part { blocks, name, text, .. }) in parts.into_iter().enumerate() {
        let end = first + blocks;
        let condition = match i + 1 == count {
            true => String::new(),
            false => format!("if (blockIdx.x < {end}) "),
        };
        let otherwise = if i > 0 { "    else " } else { "    " };
        let block = if first > 0 { format!("(blockIdx.x - {first})") } else { "blockIdx.x".to_owned() };
        let _ = write!(
            body,
            "{otherwise}{condition}{{ // {name}\n        const uint t = {block} * {THREADS} + threadIdx.x, n = {};\n{text}    }}\n",
            blocks * THREADS
        );
        first = end;
    }
    (body, first)
}

/// `sequence`, or with the operator where there is only one.
fn name_of(group: &Group, levels: &[Vec<usize>]) -> String {
    let mut all = levels.iter().flatten().map(|&s| group.steps[s].op.mnemonic());
    match all.next() {
        Some(first) if all.all(|name| name == first) => format!("{first}_kernel"),
        _ => "sequence_kernel".to_owned(),
    }
}
