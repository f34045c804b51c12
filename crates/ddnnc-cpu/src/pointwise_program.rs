//! Tile programs: elementwise chains and reductions as vector instructions on tiles of whole rows.
//!
//! A program works on a matrix of rows of channels ([`Domain`]). Its temporaries are registers of one tile each in the
//! worker's tile scratch. An operand on whose memory a result lies is copied to a register before anything else, so
//! all operands of a tile are read before its results are written.

use crate::ahead::Ahead;
use crate::device::Machine;
use crate::half_vector::settle;
use crate::memory::{Memory, Slot};
use crate::pointwise_chain::{Chain, Gate, Sums};
use crate::pointwise_chain_run::{self, CHAINED, Ends, Gathers};
use crate::pointwise_gather::{Gathering, gather};
use crate::pointwise_inst::{Access, Accumulator, Code, Domain, Gather, Inst, Loc, TILE};
use crate::pointwise_kernels as kernels;
use crate::pointwise_kernels::{narrow, sum, widen};
use crate::pointwise_pass::{self, Arith, Port, Ports};
use crate::pointwise_sums as sums;
use crate::simd::Level;
use ddnnc_ir::{BinaryKind, DType, UnaryKind, dropout_keeps};

/// Rows that the caller lends a program.
#[derive(Debug)]
pub enum Lent<'a> {
    /// None.
    Nothing,
    /// f32, to read and to write.
    Floats(&'a mut [f32]),
    /// bf16, to write, for a program that [gives them](Program::gives_halves).
    Halves(&'a mut [u16]),
}

/// The same for a tile.
#[derive(Clone, Copy)]
enum LentTile {
    Nothing,
    Floats(*mut f32),
    Halves(*mut u16),
}

/// A tile program.
#[derive(Clone, Debug)]
pub struct Program {
    /// What it works on.
    pub domain: Domain,
    /// What runs for each tile.
    pub insts: Vec<Inst>,
    /// The instructions as one pass, where they are one.
    pub chain: Option<Chain>,
    /// Whether it asks for the operands of its next tile; not beside a kernel that has asked for them. Rows that such a
    /// kernel wants are often no more than a line, beside each of which the same tile would be asked for again.
    pub asks: bool,
    /// The memory it reads and writes.
    pub slots: Vec<Slot>,
    /// The slots that passes write past the caches ([`past_caches`]).
    pub past: Vec<bool>,
    /// Repeated channel vectors, one period each.
    pub tables: Vec<Slot>,
    /// What it gathers.
    pub accumulators: Vec<Accumulator>,
    /// How many registers it takes.
    pub registers: usize,
    /// Numbers of running sums.
    pub sums: usize,
    /// Numbers of partial sums of a task, the header included; zero where nothing is gathered.
    pub partials: usize,
}

impl Program {
    /// Elements of a register.
    fn register_len(&self) -> usize {
        self.domain.tile_rows() * self.domain.channels
    }

    /// f32 of tile scratch.
    pub fn scratch(&self) -> usize {
        self.registers * self.register_len()
    }

    /// Runs rows `first..first + count`; `lent` are those rows of what the caller lends, and what is gathered is merged
    /// into `partial`.
    pub fn run(
        &self,
        machine: &Machine<'_>,
        memory: Memory<'_>,
        worker: usize,
        (first, count): (usize, usize),
        lent: Lent<'_>,
        partial: Option<&mut [f64]>,
    ) {
        let channels = self.domain.channels;
        let lent = match lent {
            Lent::Floats(rows) => {
                assert!(rows.len() >= count * channels, "the lent rows are whole");
                LentTile::Floats(rows.as_mut_ptr())
            }
            Lent::Halves(rows) => {
                assert!(rows.len() >= count * channels && self.gives_halves(), "the lent rows are whole");
                LentTile::Halves(rows.as_mut_ptr())
            }
            Lent::Nothing => LentTile::Nothing,
        };
        machine.with_tile_scratch(worker, |registers, sums| {
            let sums = &mut sums[..self.sums];
            sums.fill(0.0);
            let registers = &mut registers[..self.scratch()];
            let rows = self.rows_at_once();
            for at in (0..count).step_by(rows) {
                let tile = Tile {
                    program: self,
                    memory,
                    level: machine.level,
                    registers: registers.as_mut_ptr(),
                    lent: match lent {
                        LentTile::Nothing => lent,
                        // SAFETY: the lent rows reach past row `at`.
                        LentTile::Floats(start) => LentTile::Floats(unsafe { start.add(at * channels) }),
                        // SAFETY: as above.
                        LentTile::Halves(start) => LentTile::Halves(unsafe { start.add(at * channels) }),
                    },
                    first: first + at,
                    rows: rows.min(count - at),
                    more: at + rows < count,
                };
                // A chain of memory asks by itself, and so do passes.
                if self.asks && !self.chain.as_ref().is_some_and(Chain::reads_memory) {
                    self.ask(memory, first + at + rows);
                }
                if at == 0 {
                    tile.begin(sums);
                }
                match &self.chain {
                    Some(chain) => tile.chain(chain, sums),
                    None => tile.run(sums),
                }
            }
            if self.past.contains(&true) {
                settle();
            }
            if let Some(partial) = partial {
                self.fold(machine.level, count, sums, partial);
            }
        });
    }

    /// Rows that are taken at a time: a tile's, or those of a chain, whole periods.
    pub fn rows_at_once(&self) -> usize {
        let tile = self.domain.tile_rows();
        match &self.chain {
            Some(_) => tile * (CHAINED / TILE),
            None => tile,
        }
    }

    /// Whether the rows that the caller lends can be bf16: they are written once, by one pass, and not read.
    pub fn gives_halves(&self) -> bool {
        let mut writers = self.insts.iter().filter(|i| i.dst.contains(&Some(Loc::Rows)));
        let passes = writers.next().is_some_and(|i| i.code.passes() && !i.per_row && i.half.is_none());
        passes && writers.next().is_none() && !self.insts.iter().any(|i| i.src.contains(&Some(Loc::Rows)))
    }

    /// Asks for the operands and results of the tile that begins with row `first`, while another is computed: the
    /// processor by itself does not look beyond a page.
    fn ask(&self, memory: Memory<'_>, first: usize) {
        let mut ahead = Ahead::default();
        let count = self.domain.tile_rows().min(self.domain.rows.saturating_sub(first));
        let chained = self.chain.is_some();
        self.list_of(memory, first, count, &mut ahead, |code| chained || !code.passes());
        ahead.ask(usize::MAX);
    }

    /// Lists the operands and results of some rows: memory that is written is read before, unless past the caches.
    pub fn list(&self, memory: Memory<'_>, first: usize, count: usize, ahead: &mut Ahead) {
        self.list_of(memory, first, count, ahead, |_| true);
    }

    /// The same of some instructions.
    fn list_of(
        &self,
        memory: Memory<'_>,
        first: usize,
        count: usize,
        ahead: &mut Ahead,
        wanted: impl Fn(&Code) -> bool,
    ) {
        if count == 0 {
            return;
        }
        for inst in self.insts.iter().filter(|i| !i.per_row && wanted(&i.code)) {
            let widened = match inst.code {
                Code::Widen(slot) => Some(slot),
                _ => None,
            };
            let of_loc = |loc: &Loc| match *loc {
                Loc::Memory(slot) | Loc::Half(slot) => Some(slot),
                Loc::Register(_) | Loc::Rows => None,
            };
            let taken = inst.src.iter().chain(&inst.dst).flatten().filter_map(of_loc);
            let all = widened.into_iter().chain(inst.half).chain(taken);
            for slot in all.filter(|&slot| !self.past[slot]) {
                let (slot, channels) = (self.slots[slot], self.domain.channels);
                let (at, n) = (first * channels, count * channels);
                // What has one element per row is small.
                if at + n > slot.elements {
                    continue;
                }
                match slot.dtype {
                    DType::Bf16 => ahead.list(memory.pointer::<u16>(slot, at, n), n),
                    DType::F32 => ahead.list(memory.pointer::<f32>(slot, at, n), n),
                    DType::I64 => {}
                }
            }
        }
    }

    /// Merges the running sums over `count` rows into a task's partial sums.
    fn fold(&self, level: Level, count: usize, sums: &mut [f64], partial: &mut [f64]) {
        if self.partials == 0 || count == 0 {
            return;
        }
        let (channels, period) = (self.domain.channels, self.domain.period());
        let (before, n) = (partial[1], count as f64);
        for acc in &self.accumulators {
            let sums = &mut sums[acc.at..][..acc.gather.arrays() * period];
            sums.chunks_exact_mut(period).take(2).for_each(|all| sums::fold(level, all, channels));
            let mut arrays = sums.chunks_exact_mut(period).map(|all| &mut all[..channels]);
            let (Some(one), two, shift) = (arrays.next(), arrays.next(), arrays.next()) else { continue };
            let two = two.unwrap_or_default();
            if let Some(shift) = shift {
                sums::moments(level, n, [&mut *one, &mut *two], shift);
            }
            let (to, to_two) = partial[acc.partial..][..2 * channels].split_at_mut(channels);
            let to_two = &mut to_two[..two.len()];
            if before == 0.0 {
                to.copy_from_slice(one);
                to_two.copy_from_slice(two);
            } else if acc.gather == Gather::Moments {
                sums::merge_moments(level, [before, n], [to, to_two], [one, two]);
            } else {
                sums::add(level, to, one);
                sums::add(level, to_two, two);
            }
        }
        partial[1] = before + n;
    }
}

/// Takes the first row for the mean that moments are gathered about, so that the squares do not cancel, unless there is one.
///
/// # Safety
///
/// The row has that many channels.
unsafe fn take_shift(level: Level, shift: &mut [f64], channels: usize, row: Port) {
    if !shift[0].is_nan() {
        return;
    }
    let (first, others) = shift.split_at_mut(channels);
    // SAFETY: promised.
    unsafe {
        match row {
            Port::Floats(row) => {
                kernels::shifts(level, first, std::slice::from_raw_parts(row, channels), |x| x)
            }
            Port::Rounded(row) => {
                let row = std::slice::from_raw_parts(row, channels);
                kernels::shifts(level, first, row, |x| widen(narrow(x)));
            }
            Port::Halves(row) => {
                kernels::shifts(level, first, std::slice::from_raw_parts(row, channels), widen)
            }
        }
    }
    others.chunks_exact_mut(channels).for_each(|other| other.copy_from_slice(first));
}

/// A tile of a run.
struct Tile<'a> {
    program: &'a Program,
    memory: Memory<'a>,
    level: Level,
    registers: *mut f32,
    lent: LentTile,
    first: usize,
    rows: usize,
    /// Whether another tile follows in the same task.
    more: bool,
}

impl Tile<'_> {
    fn address(&self, loc: Loc, per_row: bool) -> (*mut f32, usize) {
        let width = if per_row { 1 } else { self.program.domain.channels };
        let n = self.rows * width;
        let start = match loc {
            Loc::Register(r) => {
                assert!(r < self.program.registers, "a register of the program");
                // SAFETY: the scratch holds that many registers.
                unsafe { self.registers.add(r * self.program.register_len()) }
            }
            Loc::Memory(slot) => self.memory.pointer::<f32>(self.program.slots[slot], self.first * width, n),
            Loc::Rows => {
                let LentTile::Floats(start) = self.lent else { panic!("the caller lends rows of f32") };
                start
            }
            Loc::Half(_) => unreachable!("only passes read bf16"),
        };
        (start, n)
    }

    /// A vector that an instruction reads.
    #[inline(always)]
    fn read(&self, inst: &Inst, i: usize) -> &[f32] {
        self.read_as(inst, i, inst.per_row)
    }

    #[inline(always)]
    fn read_as(&self, inst: &Inst, i: usize, per_row: bool) -> &[f32] {
        let Some(loc) = inst.src[i] else { return &[] };
        let (start, n) = self.address(loc, per_row);
        // SAFETY: the range lies in its memory. No instruction writes what it reads (`compile` gives registers so, and
        // operands that lie on a result are read by their own copies alone); other tasks write other rows.
        unsafe { std::slice::from_raw_parts(start, n) }
    }

    /// The vector that an instruction writes.
    #[inline(always)]
    #[expect(
        clippy::mut_from_ref,
        reason = "an instruction's results are apart from all else that it touches"
    )]
    fn write(&self, inst: &Inst, i: usize) -> &mut [f32] {
        let Some(loc) = inst.dst[i] else { return &mut [] };
        let (start, n) = self.address(loc, inst.per_row);
        // SAFETY: as in `read_as`; the results of an instruction are different.
        unsafe { std::slice::from_raw_parts_mut(start, n) }
    }

    /// The rows of this tile in a bf16 slot.
    fn halves(&self, inst: &Inst, slot: usize) -> (*mut u16, usize) {
        let width = if inst.per_row { 1 } else { self.program.domain.channels };
        let n = self.rows * width;
        (self.memory.pointer::<u16>(self.program.slots[slot], self.first * width, n), n)
    }

    fn table(&self, table: usize) -> &[f32] {
        // SAFETY: tables are written before the tasks run, and hold f32.
        unsafe { self.memory.view(self.program.tables[table]) }
    }

    fn scalar(&self, slot: usize) -> f32 {
        // SAFETY: no task writes a scalar operand: results that would lie on one are refused at load.
        let all: &[f32] = unsafe { self.memory.view(self.program.slots[slot]) };
        all[0]
    }

    /// Takes the first row as what moments are gathered about.
    fn begin(&self, sums: &mut [f64]) {
        let period = self.program.domain.period();
        for acc in &self.program.accumulators {
            if acc.gather == Gather::Moments {
                sums[acc.at + 2 * period..][..period].fill(f64::NAN);
            }
        }
    }

    fn run(&self, sums: &mut [f64]) {
        for inst in &self.program.insts {
            self.step(inst, sums);
            if inst.round && !inst.code.passes() {
                kernels::round(self.level, self.write(inst, 0));
            }
        }
    }

    /// Runs the program as a chain.
    fn chain(&self, chain: &Chain, sums: &mut [f64]) {
        let (period, channels) = (self.program.domain.period(), self.program.domain.channels);
        let n = self.rows * channels;
        let place = |loc: Loc| match loc {
            Loc::Half(slot) => {
                self.memory.pointer::<u16>(self.program.slots[slot], self.first * channels, n).cast::<u8>()
            }
            loc => self.address(loc, false).0.cast::<u8>(),
        };
        let rows = place(chain.rows);
        let (gate, normalize) = match chain.gate {
            Gate::Open => (std::ptr::null_mut(), None),
            Gate::Positive(by) => (place(by), None),
            Gate::Normalized(value, tables) | Gate::Capped(value, tables) => {
                (place(value), Some(tables.map(|t| self.table(t))))
            }
        };
        let gathers = match chain.sums {
            Sums::Moments(accumulator) => {
                let at = self.program.accumulators[accumulator].at;
                let (total, rest) = sums[at..][..3 * period].split_at_mut(period);
                let (squares, shift) = rest.split_at_mut(period);
                let row = match chain.rows {
                    Loc::Half(_) => Port::Halves(rows.cast()),
                    _ if chain.halves => Port::Rounded(rows.cast()),
                    _ => Port::Floats(rows.cast()),
                };
                // SAFETY: a tile has a row, of the type that the chain says.
                unsafe { take_shift(self.level, shift, channels, row) };
                Gathers::Moments([total, squares], shift)
            }
            Sums::Products(products) => {
                let mut sums = sums;
                let mut passed = 0;
                let mut next = |product: Option<(usize, usize, Loc)>| {
                    let (accumulator, mean, value) = product?;
                    // Accumulators follow one another.
                    let at = self.program.accumulators[accumulator].at - passed;
                    let (mine, rest) = std::mem::take(&mut sums)[at..].split_at_mut(2 * period);
                    (sums, passed) = (rest, passed + at + 2 * period);
                    let (along, total) = mine.split_at_mut(period);
                    Some(([total, along], place(value).cast_const(), self.table(mean)))
                };
                let [one, two] = products;
                let one = next(one);
                Gathers::Products([one, next(two)])
            }
        };
        let add = chain.add.map_or(std::ptr::null_mut(), place);
        let memory = chain.reads_memory();
        let past = chain.out.and_then(|loc| loc.slot()).is_some_and(|slot| self.program.past[slot]);
        let (halves, out) = (chain.halves, chain.out.map_or(std::ptr::null_mut(), place));
        let capped = matches!(chain.gate, Gate::Capped(..));
        let ends = Ends { n, halves, rows, memory, past, add, gate, normalize, capped, out, gathers };
        // SAFETY: `address` and `pointer` check that all rows of the tile are in their memory, and a chain's channels are
        // whole vectors. Results lie apart from operands or on one of the same type (`compile` sees to it); other tasks
        // write other rows.
        unsafe { pointwise_chain_run::run(self.level, ends) };
    }

    /// Runs an instruction that is one pass over the elements; it rounds as the instruction says.
    fn pass(&self, inst: &Inst, arith: Arith<'_>) {
        let gives = match (inst.dst[0], self.lent) {
            (Some(Loc::Rows), LentTile::Halves(start)) => Some(start),
            _ => None,
        };
        let floats = match inst.dst[0] {
            Some(loc) if gives.is_none() => self.address(loc, inst.per_row).0,
            _ => std::ptr::null_mut(),
        };
        let halves = match (inst.half, gives) {
            (Some(slot), _) => self.halves(inst, slot).0,
            (None, Some(start)) => start,
            (None, None) => std::ptr::null_mut(),
        };
        let ports = Ports {
            n: self.elements(inst),
            src: [self.port(inst, 0), self.port(inst, 1)],
            floats,
            // Of a sum that is rounded, so is what is left of it above 0.
            round: inst.round || matches!(inst.code, Code::NormalizeAddRelu { round: true, .. }),
            halves,
            past: match (inst.half, inst.dst[0]) {
                (Some(slot), _) | (None, Some(Loc::Memory(slot))) => self.program.past[slot],
                _ => false,
            },
            next: self.next(inst),
        };
        // SAFETY: `address` and `halves` check that all rows of the tile are in their memory. Results lie apart from
        // operands or on one of the same type, rows on rows (`compile` sees to it); other tasks write other rows.
        unsafe { pointwise_pass::run(self.level, arith, ports) };
    }

    /// Where operands and result of a pass go on in the next tile; of what stays in a tile, or goes past the caches, the
    /// place of another. Zeros where nothing is to be asked for.
    fn next(&self, inst: &Inst) -> [usize; 3] {
        if !self.program.asks || !self.more || self.program.chain.is_some() {
            return [0; 3];
        }
        let n = self.elements(inst);
        let result = inst.half.map(Loc::Half).or(inst.dst[0]);
        let next = [inst.src[0], inst.src[1], result].map(|loc| match loc {
            Some(Loc::Half(slot)) => self.halves(inst, slot).0.wrapping_add(n).addr(),
            Some(loc @ Loc::Memory(_)) => self.address(loc, inst.per_row).0.wrapping_add(n).addr(),
            _ => 0,
        });
        let any = next.into_iter().find(|&next| next != 0).unwrap_or(0);
        next.map(|next| if next == 0 { any } else { next })
    }

    /// Where an operand of a pass or of what is gathered lies.
    fn port(&self, inst: &Inst, i: usize) -> Port {
        match inst.src[i] {
            Some(Loc::Half(slot)) => Port::Halves(self.halves(inst, slot).0),
            Some(Loc::Rows) if inst.round_rows => Port::Rounded(self.address(Loc::Rows, inst.per_row).0),
            Some(loc) => Port::Floats(self.address(loc, inst.per_row).0),
            None => Port::Floats(std::ptr::null()),
        }
    }

    /// Elements of an instruction's vectors.
    fn elements(&self, inst: &Inst) -> usize {
        self.rows * if inst.per_row { 1 } else { self.program.domain.channels }
    }

    fn step(&self, inst: &Inst, sums: &mut [f64]) {
        let period = self.program.domain.period();
        let src = |i: usize| self.read(inst, i);
        let dst = |i: usize| self.write(inst, i);
        let level = self.level;
        match &inst.code {
            Code::Copy => self.pass(inst, Arith::Copy),
            Code::Widen(slot) => {
                let (start, n) = self.halves(inst, *slot);
                // SAFETY: as in `read_as`.
                let x = unsafe { std::slice::from_raw_parts(start, n) };
                kernels::widen_all(level, dst(0), x);
            }
            Code::Narrow(slot) => {
                let (start, n) = self.halves(inst, *slot);
                // SAFETY: as in `write`.
                let out = unsafe { std::slice::from_raw_parts_mut(start, n) };
                kernels::narrow_all(level, out, src(0));
            }
            Code::Spread { slot, access } => self.spread(inst, *slot, *access),
            Code::SpreadRows => {
                let values = self.read_as(inst, 0, true);
                let channels = self.program.domain.channels;
                dst(0).chunks_exact_mut(channels).zip(values).for_each(|(out, &x)| out.fill(x));
            }
            Code::Repeat { table } => {
                let table = self.table(*table);
                dst(0).chunks_mut(period).for_each(|out| out.copy_from_slice(&table[..out.len()]));
            }
            Code::Fill(number) => dst(0).fill(*number),
            Code::Unary(UnaryKind::Relu) => self.pass(inst, Arith::Relu),
            Code::Unary(kind) => kernels::unary(level, *kind, dst(0), src(0)),
            Code::UnaryGrad(UnaryKind::Relu) => self.pass(inst, Arith::ReluGrad),
            Code::UnaryGrad(kind) => kernels::unary_grad(level, *kind, dst(0), src(0), src(1)),
            Code::Binary(BinaryKind::Add) => self.pass(inst, Arith::Add),
            Code::Binary(BinaryKind::Sub) => self.pass(inst, Arith::Sub),
            Code::Binary(BinaryKind::Mul) => self.pass(inst, Arith::Mul),
            Code::Scale(factor) => self.pass(inst, Arith::Scale(*factor)),
            Code::AddChannel { table } => self.pass(inst, Arith::AddChannel(self.table(*table))),
            Code::MulChannel { table } => self.pass(inst, Arith::MulChannel(self.table(*table))),
            Code::Normalize { mean, scale, bias } => {
                self.pass(inst, Arith::Normalize([*mean, *scale, *bias].map(|t| self.table(t))));
            }
            Code::NormalizeRelu { mean, scale, bias } => {
                self.pass(inst, Arith::NormalizeRelu([*mean, *scale, *bias].map(|t| self.table(t))));
            }
            Code::NormalizeAddRelu { mean, scale, bias, round } => {
                let tables = [*mean, *scale, *bias].map(|t| self.table(t));
                self.pass(inst, Arith::NormalizeAddRelu(tables, *round));
            }
            Code::NormalizeGradInput { tables } => {
                self.pass(inst, Arith::NormalizeGradInput(tables.map(|t| self.table(t))));
            }
            Code::Dropout { rng, p, site } => self.dropout(dst(0), src(0), *rng, *p, *site),
            Code::Ema { keep, take } => {
                kernels::map2(level, dst(0), src(0), src(1), |a, b| keep * a + take * b)
            }
            Code::Sgd { constants, rate } => {
                let rate = self.scalar(*rate);
                if inst.dst[1].is_some() {
                    kernels::sgd(level, *constants, dst(0), dst(1), [src(0), src(1), src(2)], rate);
                } else {
                    kernels::sgd_plain(level, *constants, dst(0), src(0), src(1), rate);
                }
            }
            Code::Adamw { constants, rate, step } => {
                let operands = [src(0), src(1), src(2), src(3)];
                let (rate, step) = (self.scalar(*rate), self.scalar(*step));
                kernels::adamw(level, *constants, dst(0), dst(1), dst(2), operands, rate, step);
            }
            Code::SumChannels { factor } => {
                let channels = self.program.domain.channels;
                let rows = self.read_as(inst, 0, false);
                for (out, x) in dst(0).iter_mut().zip(rows.chunks_exact(channels)) {
                    *out = (sum(channels, |i| f64::from(x[i])) * factor) as f32;
                }
            }
            Code::Moments { accumulator } => {
                let at = self.program.accumulators[*accumulator].at;
                let (total, rest) = sums[at..][..3 * period].split_at_mut(period);
                let (squares, shift) = rest.split_at_mut(period);
                let row = match self.port(inst, 0) {
                    Port::Rounded(row) => Port::Floats(row),
                    port => port,
                };
                // SAFETY: a tile has a row, whose elements `port` finds in their memory.
                unsafe { take_shift(level, shift, self.program.domain.channels, row) };
                // SAFETY: the operand is the tile's, the sums and the shift are of one period.
                unsafe {
                    let what = Gathering::Moments([total, squares], shift);
                    gather(level, what, [self.port(inst, 0); 2], self.elements(inst));
                }
            }
            Code::Products { accumulator, mean } => {
                let at = self.program.accumulators[*accumulator].at;
                let (along, total) = sums[at..][..2 * period].split_at_mut(period);
                let src = [self.port(inst, 0), self.port(inst, 1)];
                // SAFETY: the operands are the tile's, the sums and the mean are of one period.
                unsafe {
                    let what = Gathering::Products([total, along], self.table(*mean));
                    gather(level, what, src, self.elements(inst));
                }
            }
            Code::Sum { accumulator } => {
                let at = self.program.accumulators[*accumulator].at;
                kernels::add_up(level, src(0), &mut sums[at..][..period]);
            }
        }
    }

    /// A smaller value, repeated.
    fn spread(&self, inst: &Inst, slot: usize, access: Access) {
        let slot = self.program.slots[slot];
        let channels = self.program.domain.channels;
        let width = if inst.per_row { 1 } else { channels };
        let Access { div, row_step, channel_step } = access;
        if row_step == 0 && channel_step == 0 && slot.dtype == DType::F32 {
            // SAFETY: as below.
            let x: &[f32] = unsafe { self.memory.view(slot) };
            return self.write(inst, 0).fill(x[0]);
        }
        let rows = (self.first..).zip(self.write(inst, 0).chunks_exact_mut(width));
        if slot.dtype == DType::Bf16 {
            // SAFETY: what is repeated lies on no result (`compile` reads a copy otherwise), and holds bf16.
            let x: &[u16] = unsafe { self.memory.view(slot) };
            for (row, out) in rows {
                let from = row / div * row_step;
                match channel_step {
                    0 => out.fill(widen(x[from])),
                    1 => kernels::widen_all(self.level, out, &x[from..from + out.len()]),
                    _ => out
                        .iter_mut()
                        .enumerate()
                        .for_each(|(c, out)| *out = widen(x[from + c * channel_step])),
                }
            }
        } else {
            // SAFETY: as above; it holds f32.
            let x: &[f32] = unsafe { self.memory.view(slot) };
            for (row, out) in rows {
                let from = row / div * row_step;
                match channel_step {
                    0 => out.fill(x[from]),
                    1 => out.copy_from_slice(&x[from..from + out.len()]),
                    _ => out.iter_mut().enumerate().for_each(|(c, out)| *out = x[from + c * channel_step]),
                }
            }
        }
    }

    /// out = x masked and scaled, by the element's index in row-major order.
    fn dropout(&self, out: &mut [f32], x: &[f32], rng: usize, p: f64, site: u64) {
        let Domain { channels, area, .. } = self.program.domain;
        // SAFETY: nothing writes the random state; it holds i64.
        let rng: &[i64] = unsafe { self.memory.view(self.program.slots[rng]) };
        let &[seed, step] = rng else { return };
        let scale = (1.0 / (1.0 - p)) as f32;
        let rows = out.chunks_exact_mut(channels).zip(x.chunks_exact(channels));
        for (row, (out, x)) in (self.first..).zip(rows) {
            let (image, position) = (row / area, row % area);
            for (c, (out, &x)) in out.iter_mut().zip(x).enumerate() {
                let index = (image * channels + c) * area + position;
                *out = if dropout_keeps(seed, step, site, index as u64, p) { x * scale } else { 0.0 };
            }
        }
    }
}
