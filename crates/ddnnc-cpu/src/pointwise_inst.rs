//! The instructions of tile programs: what they work on, where their vectors lie, what they do.

use crate::memory::Slot;
use crate::pointwise_kernels::{Adamw, Sgd};
use ddnnc_ir::{BinaryKind, Layout, UnaryKind, ValueType};

/// Elements of a tile, about: with a few temporaries it fits the first cache.
pub const TILE: usize = 1 << 11;

/// The shortest period of a repeated channel vector, so that loops over it are long enough to vectorise.
const PERIOD: usize = 256;

/// A value as a matrix: rows of channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Domain {
    /// Rows.
    pub rows: usize,
    /// Elements of a row.
    pub channels: usize,
    /// Rows of an image.
    pub area: usize,
}

impl Domain {
    /// How a value of that type lies: `[N,C,H,W]` channels-last as N·H·W rows of C, `[N,C]` as it is. Any other value
    /// is one column of its elements, and has no channels unless they are one.
    pub fn of(ty: &ValueType) -> Domain {
        let elements = ty.elements();
        let d = ty.dims();
        if d.len() < 2 || elements == 0 {
            return Domain { rows: elements, channels: 1, area: 1 };
        }
        let area: usize = d[2..].iter().product();
        if ty.layout == Layout::ChannelsLast || area == 1 || d[1] == 1 {
            return Domain { rows: d[0] * area, channels: d[1], area };
        }
        Domain { rows: elements, channels: 1, area: elements }
    }

    /// Rows in the period of a repeated channel vector.
    fn repeats(&self) -> usize {
        let least = PERIOD.div_ceil(self.channels);
        // Whole vectors of sixteen, where that does not make the period much longer.
        let whole = least.next_multiple_of(16 >> self.channels.trailing_zeros().min(4));
        if whole * self.channels <= 4 * PERIOD { whole } else { least }
    }

    /// Length of a repeated channel vector.
    pub fn period(&self) -> usize {
        self.repeats() * self.channels
    }

    /// Rows of a tile.
    pub fn tile_rows(&self) -> usize {
        let repeats = self.repeats();
        (TILE / self.channels / repeats).max(1) * repeats
    }
}

/// Where a vector of an instruction lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loc {
    /// A register.
    Register(usize),
    /// The tile's rows of that slot of the program, f32.
    Memory(usize),
    /// The tile's rows of that slot, bf16: an operand of what [`Code::reads_halves`].
    Half(usize),
    /// The rows that the caller lends.
    Rows,
}

impl Loc {
    /// The slot of the program that it is the tile's rows of.
    pub fn slot(&self) -> Option<usize> {
        match *self {
            Loc::Memory(slot) | Loc::Half(slot) => Some(slot),
            Loc::Register(_) | Loc::Rows => None,
        }
    }
}

/// Where a repeated value's element for (row, channel) lies: `row / div · row_step + channel · channel_step`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// Rows that share an entry.
    pub div: usize,
    /// Step between entries.
    pub row_step: usize,
    /// Step between channels.
    pub channel_step: usize,
}

/// What an instruction does to vectors of one length; numbers are slots of the program, of tables and of accumulators.
#[derive(Clone, Debug)]
pub enum Code {
    /// dst = src
    Copy,
    /// dst = the tile's rows of a bf16 slot
    Widen(usize),
    /// bf16 slot's rows of the tile = src
    Narrow(usize),
    /// dst = a smaller value of a slot, f32 or bf16, repeated
    Spread { slot: usize, access: Access },
    /// dst = a value per row, repeated along the channels
    SpreadRows,
    /// dst = table, repeated
    Repeat { table: usize },
    /// dst = number
    Fill(f32),
    /// dst = f(src)
    Unary(UnaryKind),
    /// dst = src1 · f'(src0)
    UnaryGrad(UnaryKind),
    /// dst = src0 ∘ src1
    Binary(BinaryKind),
    /// dst = factor · src
    Scale(f32),
    /// dst = src + table
    AddChannel { table: usize },
    /// dst = src · table
    MulChannel { table: usize },
    /// dst = (src − mean) · scale + bias, of tables
    Normalize { mean: usize, scale: usize, bias: usize },
    /// The same, then 0 for what is below it
    NormalizeRelu { mean: usize, scale: usize, bias: usize },
    /// The sum of that normalisation and src1, then 0 for what is below it; where `round`, both are rounded to bf16
    NormalizeAddRelu { mean: usize, scale: usize, bias: usize, round: bool },
    /// dst = scale · (src1 − bias − (src0 − mean) · along), of tables
    NormalizeGradInput { tables: [usize; 4] },
    /// dst = src masked; the random state is in a slot
    Dropout { rng: usize, p: f64, site: u64 },
    /// dst = keep · src0 + take · src1
    Ema { keep: f32, take: f32 },
    /// (w', b') or w' of (w, g, b) or (w, g)
    Sgd { constants: Sgd, rate: usize },
    /// (w', m', v') of (w, g, m, v)
    Adamw { constants: Adamw, rate: usize, step: usize },
    /// dst, a value per row, = factor · Σ src over the channels
    SumChannels { factor: f64 },
    /// accumulator += moments of src
    Moments { accumulator: usize },
    /// accumulator += Σ src1 · (src0 − mean), Σ src1
    Products { accumulator: usize, mean: usize },
    /// accumulator += Σ src
    Sum { accumulator: usize },
}

impl Code {
    /// Whether it is one pass over the elements, whose operands and result may be bf16 in memory.
    pub fn passes(&self) -> bool {
        match self {
            Code::Copy
            | Code::Unary(UnaryKind::Relu)
            | Code::UnaryGrad(UnaryKind::Relu)
            | Code::Binary(_)
            | Code::Scale(_)
            | Code::AddChannel { .. }
            | Code::MulChannel { .. }
            | Code::Normalize { .. }
            | Code::NormalizeRelu { .. }
            | Code::NormalizeAddRelu { .. }
            | Code::NormalizeGradInput { .. } => true,
            Code::Widen(_)
            | Code::Narrow(_)
            | Code::Spread { .. }
            | Code::SpreadRows
            | Code::Repeat { .. }
            | Code::Fill(_)
            | Code::Unary(_)
            | Code::UnaryGrad(_)
            | Code::Dropout { .. }
            | Code::Ema { .. }
            | Code::Sgd { .. }
            | Code::Adamw { .. }
            | Code::SumChannels { .. }
            | Code::Moments { .. }
            | Code::Products { .. }
            | Code::Sum { .. } => false,
        }
    }
}

impl Code {
    /// Whether its operands may be bf16 in memory.
    pub fn reads_halves(&self) -> bool {
        self.passes() || matches!(self, Code::Moments { .. } | Code::Products { .. })
    }
}

/// One instruction.
#[derive(Clone, Debug)]
pub struct Inst {
    /// What it does.
    pub code: Code,
    /// Whether its vectors hold one element per row instead of one per channel of each row.
    pub per_row: bool,
    /// Whether its result is rounded to bf16.
    pub round: bool,
    /// Whether the lent rows are rounded to bf16 as it reads them, of what [`Code::passes`].
    pub round_rows: bool,
    /// What it writes.
    pub dst: [Option<Loc>; 3],
    /// A slot to which the result goes as bf16, there as well or alone, of what [`Code::passes`].
    pub half: Option<usize>,
    /// What it reads.
    pub src: [Option<Loc>; 4],
}

/// What an accumulator gathers over the rows, per channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gather {
    /// Mean and sum of squares about it.
    Moments,
    /// Two sums.
    Products,
    /// One sum.
    Sum,
}

impl Gather {
    /// How many running sums it has for each channel; what moments are taken about counts as one.
    pub fn arrays(self) -> usize {
        match self {
            Gather::Moments => 3,
            Gather::Products => 2,
            Gather::Sum => 1,
        }
    }
}

/// An accumulator of a program: a place in the worker's sums and one in a task's partial sums.
#[derive(Clone, Copy, Debug)]
pub struct Accumulator {
    /// What it gathers.
    pub gather: Gather,
    /// Where its running sums begin.
    pub at: usize,
    /// Where its partial sums begin: 2 · channels numbers.
    pub partial: usize,
}

/// Fewer bytes of a result may stay in the caches until the next launch reads them.
pub const LARGE: usize = 2 << 20;

/// Which slots are large results, none of them among those that the program reads: to write those past the caches saves
/// to read from memory what is only written over.
pub fn past_caches(read: &[usize], slots: &[Slot]) -> Vec<bool> {
    let is_read = |slot: &Slot| read.iter().any(|&other| slots[other].overlaps(slot));
    let large = |slot: &Slot| slot.elements * slot.dtype.size() >= LARGE;
    slots.iter().map(|slot| large(slot) && !is_read(slot)).collect()
}

/// The slots that instructions read.
pub fn slots_read(insts: &[Inst]) -> Vec<usize> {
    let of_code = insts.iter().filter_map(|inst| match inst.code {
        Code::Widen(slot) | Code::Spread { slot, .. } => Some(slot),
        _ => None,
    });
    of_code.chain(insts.iter().flat_map(|inst| inst.src.iter().flatten()).filter_map(Loc::slot)).collect()
}

/// Numbers before a task's partial sums: the part that the task belongs to, and its rows so far.
pub const HEADER: usize = 2;
