//! From the steps of a group to a tile program.

use crate::memory::{Plan, Slot};
use crate::pointwise_chain::Chain;
use crate::pointwise_inst::{
    Access, Accumulator, Code, Domain, Gather, HEADER, Inst, Loc, past_caches, slots_read,
};
use crate::pointwise_kernels::{Adamw, Sgd};
use crate::pointwise_program::Program;
use crate::pointwise_tables::{Fill, FillKind, Vector};
use ddnnc_ir::{BinaryKind, DType, Local, Op, Step, UnaryKind, ValueType};

/// The steps that are compiled, with the places of what they take.
#[derive(Clone, Copy)]
pub struct Body<'a> {
    /// The steps.
    pub steps: &'a [Step],
    /// Types of the operands.
    pub operands: &'a [ValueType],
    /// Places of the operands.
    pub slots: &'a [Slot],
    /// Whether an operand lies on a result of the launch.
    pub aliased: &'a [bool],
}

impl Body<'_> {
    /// The type of a local value.
    pub fn ty(&self, local: Local) -> Result<&ValueType, String> {
        let found = match local {
            Local::Operand(i) => self.operands.get(i as usize),
            Local::Step { step, result } => {
                self.steps.get(step as usize).and_then(|s| s.results.get(result as usize))
            }
        };
        found.ok_or_else(|| "a value is not there".to_owned())
    }
}

/// How a value is read: as rows of channels, as one element per row, or as a smaller value that repeats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    /// One element per row and channel.
    Whole,
    /// One element per row.
    PerRow,
    /// Repeated.
    Spread(Access),
}

impl View {
    fn per_row(self) -> bool {
        self == View::PerRow
    }
}

/// A program, and which of its slots are operands read in which way.
#[derive(Clone, Debug)]
pub struct Compiled {
    /// The program.
    pub program: Program,
    /// (slot of the program, operand, view) of every operand read.
    pub reads: Vec<(usize, usize, View)>,
    /// (slot of the program, whether it holds one element per row) of every result.
    pub writes: Vec<(usize, bool)>,
    /// (step, accumulator) of every reduction.
    pub reductions: Vec<(usize, usize)>,
}

/// Makes one program.
pub struct Compiler<'a, 'p> {
    body: Body<'a>,
    domain: Domain,
    /// The value whose rows the caller lends.
    lent: Option<Local>,
    plan: &'p mut Plan,
    fills: &'p mut Vec<Fill>,
    prelude: Vec<Inst>,
    insts: Vec<Inst>,
    memo: Vec<(Local, View, Loc)>,
    slots: Vec<Slot>,
    tables: Vec<Slot>,
    table_keys: Vec<(FillKind, [Vector; 3])>,
    accumulators: Vec<Accumulator>,
    reads: Vec<(usize, usize, View)>,
    writes: Vec<(usize, bool)>,
    reductions: Vec<(usize, usize)>,
    /// Where each virtual register's value lies instead, if it is a result.
    bound: Vec<Option<Loc>>,
    sums: usize,
    partials: usize,
}

/// Whether a function and its derivative give bf16 numbers for bf16 numbers.
fn keeps_bf16(kind: UnaryKind) -> bool {
    matches!(kind, UnaryKind::Relu | UnaryKind::Relu6)
}

/// Whether a value comes from a sum over the channels of each row.
pub fn from_row_sums(steps: &[Step], local: Local) -> bool {
    let Local::Step { step, .. } = local else { return false };
    let Some(step) = steps.get(step as usize) else { return false };
    match &step.op {
        Op::Reduce { axes, .. } => axes.as_slice() == [1],
        // A repeated value is whole again.
        Op::Broadcast { .. } => false,
        _ => step.operands.iter().any(|&l| from_row_sums(steps, l)),
    }
}

impl<'a, 'p> Compiler<'a, 'p> {
    /// For steps on values of that domain.
    pub fn new(
        body: Body<'a>,
        domain: Domain,
        plan: &'p mut Plan,
        fills: &'p mut Vec<Fill>,
    ) -> Compiler<'a, 'p> {
        Compiler {
            body,
            domain,
            lent: None,
            plan,
            fills,
            prelude: Vec::new(),
            insts: Vec::new(),
            memo: Vec::new(),
            slots: Vec::new(),
            tables: Vec::new(),
            table_keys: Vec::new(),
            accumulators: Vec::new(),
            reads: Vec::new(),
            writes: Vec::new(),
            reductions: Vec::new(),
            bound: Vec::new(),
            sums: 0,
            partials: 0,
        }
    }

    /// Reads `local` from the rows that the caller lends; a bf16 value is rounded there first.
    pub fn lend(&mut self, local: Local) -> Result<(), String> {
        self.lent = Some(local);
        if self.body.ty(local)?.dtype == DType::Bf16 {
            let copy = Inst {
                code: Code::Copy,
                per_row: false,
                round: true,
                dst: [Some(Loc::Rows), None, None],
                half: None,
                round_rows: false,
                src: [Some(Loc::Rows), None, None, None],
            };
            self.prelude.push(copy);
        }
        Ok(())
    }

    /// Writes a value to the rows that the caller lends.
    pub fn write_rows(&mut self, local: Local) -> Result<(), String> {
        let loc = self.value(local, View::Whole)?;
        self.place(loc, Loc::Rows, false);
        Ok(())
    }

    /// Writes a value to a result.
    pub fn store(&mut self, local: Local, to: Slot) -> Result<(), String> {
        let per_row = from_row_sums(self.body.steps, local);
        let loc = self.value(local, if per_row { View::PerRow } else { View::Whole })?;
        let slot = self.slot(to);
        self.writes.push((slot, per_row));
        match to.dtype {
            DType::F32 => self.place(loc, Loc::Memory(slot), per_row),
            DType::Bf16 => {
                self.emit(Code::Narrow(slot), per_row, false, &[loc], 0);
            }
            DType::I64 => return Err("an i64 result".to_owned()),
        }
        Ok(())
    }

    /// Makes a register's value lie at a place, or copies it there.
    fn place(&mut self, loc: Loc, to: Loc, per_row: bool) {
        if let Loc::Register(r) = loc
            && self.bound[r].is_none()
            && self.insts.iter().any(|i| i.dst.contains(&Some(loc)))
        {
            self.bound[r] = Some(to);
            return;
        }
        let inst = Inst {
            code: Code::Copy,
            per_row,
            round: false,
            dst: [Some(to), None, None],
            half: None,
            round_rows: false,
            src: [Some(loc), None, None, None],
        };
        self.insts.push(inst);
    }

    /// Gathers what a reduction over the rows takes.
    pub fn gather(&mut self, index: usize) -> Result<(), String> {
        let step = &self.body.steps[index];
        let x = *step.operands.first().ok_or("a reduction of nothing")?;
        self.with_channels(x)?;
        let accumulator = self.accumulators.len();
        let source = self.value(x, View::Whole)?;
        let gather = match &step.op {
            Op::ChannelStats => {
                self.emit(Code::Moments { accumulator }, false, false, &[source], 0);
                Gather::Moments
            }
            Op::NormalizeGradReduce { .. } => {
                let dy = self.value(step.operands[3], View::Whole)?;
                let mean = self
                    .table(FillKind::Repeat, [self.vector(step.operands[1])?, Vector::NONE, Vector::NONE]);
                self.emit(Code::Products { accumulator, mean }, false, false, &[source, dy], 0);
                Gather::Products
            }
            Op::Reduce { .. } => {
                self.emit(Code::Sum { accumulator }, false, false, &[source], 0);
                Gather::Sum
            }
            op => return Err(format!("{} is not a reduction", op.mnemonic())),
        };
        self.partials = self.partials.max(HEADER);
        self.accumulators.push(Accumulator { gather, at: self.sums, partial: self.partials });
        self.sums += gather.arrays() * self.domain.period();
        self.partials += 2 * self.domain.channels;
        self.reductions.push((index, accumulator));
        Ok(())
    }

    /// The place of a value, which this makes if need be.
    fn value(&mut self, local: Local, view: View) -> Result<Loc, String> {
        if self.lent == Some(local) && view == View::Whole {
            return Ok(Loc::Rows);
        }
        if let Some(found) = self.memo.iter().find(|m| m.0 == local && m.1 == view) {
            return Ok(found.2);
        }
        let made = match local {
            Local::Operand(i) => self.operand(i as usize, view)?,
            Local::Step { step, result } => self.step(step as usize, result as usize, view)?,
        };
        self.memo.push((local, view, made));
        Ok(made)
    }

    fn operand(&mut self, i: usize, view: View) -> Result<Loc, String> {
        let ty = &self.body.operands[i];
        if let View::Spread(Access { row_step: 0, channel_step: 1, .. }) = view {
            let source = Vector { slot: Some(self.body.slots[i]), number: 0.0 };
            let table = self.table(FillKind::Repeat, [source, Vector::NONE, Vector::NONE]);
            return Ok(self.emit(Code::Repeat { table }, false, false, &[], 1)[0]);
        }
        let fits = match view {
            View::Whole => Domain::of(ty) == self.domain,
            View::PerRow => ty.elements() == self.domain.rows,
            View::Spread(_) => true,
        };
        if !fits {
            return Err(format!("{ty} does not lie along {:?}", self.domain));
        }
        let slot = self.slot(self.body.slots[i]);
        self.reads.push((slot, i, view));
        let per_row = view.per_row();
        let code = match (view, ty.dtype) {
            (_, DType::I64) => return Err(format!("{ty} where a number is needed")),
            (View::Spread(access), _) => Code::Spread { slot, access },
            (_, DType::F32) if !self.body.aliased[i] => return Ok(Loc::Memory(slot)),
            (_, DType::F32) => Code::Copy,
            (_, DType::Bf16) => Code::Widen(slot),
        };
        let src = if matches!(code, Code::Copy) { Some(Loc::Memory(slot)) } else { None };
        let dst = self.register();
        let inst = Inst {
            code,
            per_row,
            round: false,
            dst: [Some(dst), None, None],
            half: None,
            round_rows: false,
            src: [src, None, None, None],
        };
        self.prelude.push(inst);
        Ok(dst)
    }

    /// A slot of the program read as it is, for scalars and random states.
    fn raw(&mut self, local: Local) -> Result<usize, String> {
        let Local::Operand(i) = local else {
            return Err("a scalar or a random state that the group makes itself".to_owned());
        };
        let slot = self.slot(self.body.slots[i as usize]);
        let access = Access { div: 1, row_step: 0, channel_step: 0 };
        self.reads.push((slot, i as usize, View::Spread(access)));
        Ok(slot)
    }

    fn step(&mut self, index: usize, result: usize, view: View) -> Result<Loc, String> {
        let step = &self.body.steps[index];
        let whole = view == View::Whole;
        let per_row = view.per_row();
        let half = |r: usize| step.results[r].dtype == DType::Bf16;
        let round = half(0);
        let operand =
            |i: usize| step.operands.get(i).copied().ok_or_else(|| "an operand is missing".to_owned());
        let unfit = || format!("{} of a value that repeats", step.op.mnemonic());
        match &step.op {
            Op::StopGradient => self.value(operand(0)?, view),
            Op::Cast { .. } => {
                let x = self.value(operand(0)?, view)?;
                if !round || self.body.ty(operand(0)?)?.dtype == DType::Bf16 {
                    return Ok(x);
                }
                Ok(self.emit(Code::Copy, per_row, true, &[x], 1)[0])
            }
            Op::Constant { value } => Ok(self.emit(Code::Fill(*value as f32), per_row, round, &[], 1)[0]),
            Op::Broadcast { axes, .. } => {
                let ty = &step.results[0];
                self.broadcast(operand(0)?, axes, ty, view)
            }
            Op::Reduce { kind, axes } if axes.as_slice() == [1] && per_row => {
                let x = operand(0)?;
                self.with_channels(x)?;
                let factor = match kind {
                    ddnnc_ir::ReduceKind::Sum => 1.0,
                    ddnnc_ir::ReduceKind::Mean => 1.0 / self.domain.channels as f64,
                };
                let x = self.value(x, View::Whole)?;
                Ok(self.emit(Code::SumChannels { factor }, true, false, &[x], 1)[0])
            }
            Op::Unary { kind } => {
                let x = self.value(operand(0)?, view)?;
                let round = round && !keeps_bf16(*kind);
                Ok(self.emit(Code::Unary(*kind), per_row, round, &[x], 1)[0])
            }
            Op::UnaryGrad { kind } => {
                let x = [self.value(operand(0)?, view)?, self.value(operand(1)?, view)?];
                let round = round && !keeps_bf16(*kind);
                Ok(self.emit(Code::UnaryGrad(*kind), per_row, round, &x, 1)[0])
            }
            Op::Binary { kind } => {
                let x = [self.value(operand(0)?, view)?, self.value(operand(1)?, view)?];
                Ok(self.emit(Code::Binary(*kind), per_row, round, &x, 1)[0])
            }
            Op::Scale { factor } => {
                let x = self.value(operand(0)?, view)?;
                Ok(self.emit(Code::Scale(*factor as f32), per_row, round, &[x], 1)[0])
            }
            Op::Ema { momentum, scale } => {
                let x = [self.value(operand(0)?, view)?, self.value(operand(1)?, view)?];
                let code = Code::Ema { keep: (1.0 - momentum) as f32, take: (momentum * scale) as f32 };
                Ok(self.emit(code, per_row, round, &x, 1)[0])
            }
            _ if !whole => Err(unfit()),
            Op::BiasAdd => {
                self.with_channels(operand(0)?)?;
                let x = self.value(operand(0)?, view)?;
                let table = self.channel(operand(1)?)?;
                Ok(self.emit(Code::AddChannel { table }, false, round, &[x], 1)[0])
            }
            Op::Dropout { p, site } => {
                let x = self.value(operand(0)?, view)?;
                let rng = self.raw(operand(1)?)?;
                Ok(self.emit(Code::Dropout { rng, p: *p, site: *site }, false, round, &[x], 1)[0])
            }
            Op::Normalize { eps, .. } => {
                self.with_channels(operand(0)?)?;
                let x = self.value(operand(0)?, view)?;
                let mean = self.channel(operand(1)?)?;
                let scale = self.scale(operand(2)?, operand(3)?, *eps)?;
                let bias = self.channel(operand(4)?)?;
                Ok(self.emit(Code::Normalize { mean, scale, bias }, false, round, &[x], 1)[0])
            }
            Op::NormalizeGradInput { eps } => {
                self.with_channels(operand(0)?)?;
                let x = [self.value(operand(0)?, view)?, self.value(operand(4)?, view)?];
                let count = self.domain.rows as f64;
                let (var, dgain, dbias) =
                    (self.vector(operand(2)?)?, self.vector(operand(5)?)?, self.vector(operand(6)?)?);
                let tables = [
                    self.channel(operand(1)?)?,
                    self.scale(operand(2)?, operand(3)?, *eps)?,
                    self.table(FillKind::Share { count }, [dbias, Vector::NONE, Vector::NONE]),
                    self.table(FillKind::Along { count, eps: *eps }, [dgain, var, Vector::NONE]),
                ];
                Ok(self.emit(Code::NormalizeGradInput { tables }, false, round, &x, 1)[0])
            }
            Op::NormalizeGradFixed { eps } => {
                self.with_channels(operand(2)?)?;
                let dy = self.value(operand(2)?, view)?;
                let table = self.scale(operand(0)?, operand(1)?, *eps)?;
                Ok(self.emit(Code::MulChannel { table }, false, round, &[dy], 1)[0])
            }
            Op::SgdUpdate { momentum, nesterov, weight_decay } => {
                let constants =
                    Sgd { momentum: *momentum as f32, nesterov: *nesterov, decay: *weight_decay as f32 };
                let buffered = *momentum != 0.0;
                let count = if buffered { 3 } else { 2 };
                let x = (0..count).map(|i| self.value(operand(i)?, view)).collect::<Result<Vec<_>, _>>()?;
                let rate = self.raw(operand(count)?)?;
                let made =
                    self.emit(Code::Sgd { constants, rate }, false, false, &x, if buffered { 2 } else { 1 });
                self.several(index, result, view, &made)
            }
            Op::AdamwUpdate { beta1, beta2, eps, weight_decay } => {
                let constants =
                    Adamw { beta1: *beta1, beta2: *beta2, eps: *eps, weight_decay: *weight_decay };
                let x = (0..4).map(|i| self.value(operand(i)?, view)).collect::<Result<Vec<_>, _>>()?;
                let (rate, t) = (self.raw(operand(4)?)?, self.raw(operand(5)?)?);
                let made = self.emit(Code::Adamw { constants, rate, step: t }, false, false, &x, 3);
                self.several(index, result, view, &made)
            }
            op => Err(format!("{} cannot run tile by tile", op.mnemonic())),
        }
    }

    /// Remembers all results of a step and gives one.
    fn several(&mut self, step: usize, result: usize, view: View, made: &[Loc]) -> Result<Loc, String> {
        for (r, &loc) in made.iter().enumerate().filter(|&(r, _)| r != result) {
            self.memo.push((Local::Step { step: step as u32, result: r as u32 }, view, loc));
        }
        made.get(result).copied().ok_or_else(|| "a result is missing".to_owned())
    }

    fn broadcast(&mut self, x: Local, axes: &[usize], ty: &ValueType, view: View) -> Result<Loc, String> {
        let from = self.body.ty(x)?;
        let scalar = Access { div: 1, row_step: 0, channel_step: 0 };
        if axes.is_empty() {
            return match view {
                View::PerRow => {
                    let slot = self.raw(x)?;
                    Ok(self.emit(Code::Spread { slot, access: scalar }, true, false, &[], 1)[0])
                }
                _ => self.value(x, View::Spread(scalar)),
            };
        }
        let rank = ty.dims().len();
        if axes.len() == rank && from.is_row_major() && ty.is_row_major() {
            return self.value(x, view);
        }
        if view != View::Whole || Domain::of(ty) != self.domain {
            return Err("a value that repeats and repeats again".to_owned());
        }
        let Domain { channels, area, .. } = self.domain;
        let rows_only = axes.len() + 1 == rank && !axes.contains(&1);
        let unfit = || format!("axes {axes:?} of {ty} are neither its rows nor its channels");
        if rank < 2 || ty.dims()[1] != channels {
            return Err(unfit());
        }
        if rows_only && from_row_sums(self.body.steps, x) {
            let x = self.value(x, View::PerRow)?;
            return Ok(self.emit(Code::SpreadRows, false, false, &[x], 1)[0]);
        }
        let access = match axes {
            [1] => Access { div: 1, row_step: 0, channel_step: 1 },
            [0, 1] => Access { div: area, row_step: channels, channel_step: 1 },
            _ if rows_only => Access { div: 1, row_step: 1, channel_step: 0 },
            [0] => Access { div: area, row_step: 1, channel_step: 0 },
            _ => return Err(unfit()),
        };
        self.value(x, View::Spread(access))
    }

    /// Fails where the channels of a value are not the columns of the domain.
    fn with_channels(&self, x: Local) -> Result<(), String> {
        let ty = self.body.ty(x)?;
        if Domain::of(ty) == self.domain && ty.dims().get(1) == Some(&self.domain.channels) {
            return Ok(());
        }
        Err(format!("the channels of {ty} are not innermost: it must be channels-last"))
    }

    /// A channel vector: an operand or a constant.
    fn vector(&self, local: Local) -> Result<Vector, String> {
        match local {
            Local::Operand(i) => Ok(Vector { slot: Some(self.body.slots[i as usize]), number: 0.0 }),
            Local::Step { step, .. } => {
                let step = &self.body.steps[step as usize];
                match &step.op {
                    Op::Constant { value } => Ok(Vector { slot: None, number: *value as f32 }),
                    Op::StopGradient => self.vector(step.operands[0]),
                    op => Err(format!("a channel vector that {} of the same group makes", op.mnemonic())),
                }
            }
        }
    }

    fn channel(&mut self, local: Local) -> Result<usize, String> {
        let vector = self.vector(local)?;
        Ok(self.table(FillKind::Repeat, [vector, Vector::NONE, Vector::NONE]))
    }

    fn scale(&mut self, var: Local, gain: Local, eps: f64) -> Result<usize, String> {
        let vectors = [self.vector(var)?, self.vector(gain)?, Vector::NONE];
        Ok(self.table(FillKind::Scale { eps }, vectors))
    }

    fn table(&mut self, kind: FillKind, sources: [Vector; 3]) -> usize {
        let key = (kind, sources);
        if let Some(found) = self.table_keys.iter().position(|k| *k == key) {
            return found;
        }
        let slot = self.plan.slot(DType::F32, self.domain.period());
        self.fills.push(Fill { kind, sources, channels: self.domain.channels, slot });
        self.tables.push(slot);
        self.table_keys.push(key);
        self.tables.len() - 1
    }

    fn slot(&mut self, slot: Slot) -> usize {
        self.slots.push(slot);
        self.slots.len() - 1
    }

    fn register(&mut self) -> Loc {
        self.bound.push(None);
        Loc::Register(self.bound.len() - 1)
    }

    fn emit(&mut self, code: Code, per_row: bool, round: bool, src: &[Loc], results: usize) -> Vec<Loc> {
        let made: Vec<Loc> = (0..results).map(|_| self.register()).collect();
        let mut inst =
            Inst { code, per_row, round, dst: [None; 3], half: None, round_rows: false, src: [None; 4] };
        inst.dst.iter_mut().zip(&made).for_each(|(d, &loc)| *d = Some(loc));
        inst.src.iter_mut().zip(src).for_each(|(s, &loc)| *s = Some(loc));
        self.insts.push(inst);
        made
    }

    /// The program, its registers shared by values whose lives do not overlap.
    pub fn finish(self) -> Compiled {
        let Compiler { domain, mut prelude, mut insts, bound, .. } = self;
        // Narrowing rounds: what is read for that alone need not be rounded before.
        let rounded =
            insts.iter().any(|i| !matches!(i.code, Code::Narrow(_)) && i.src.contains(&Some(Loc::Rows)));
        prelude.retain(|i| rounded || i.dst[0] != Some(Loc::Rows));
        round_as_read(&mut prelude, &mut insts);
        // What rounds the lent rows may come to write a result as well: behind all operands that are read first.
        prelude.sort_by_key(|i| i.dst[0] == Some(Loc::Rows));
        insts.splice(0..0, prelude);
        fuse_relu(&mut insts, &bound);
        let mut only_narrowed = vec![true; bound.len()];
        for inst in insts.iter().filter(|i| !matches!(i.code, Code::Narrow(_))) {
            for loc in inst.src.iter().flatten() {
                if let Loc::Register(r) = *loc {
                    only_narrowed[r] = false;
                }
            }
        }
        for inst in &mut insts {
            if let Some(Loc::Register(r)) = inst.dst[0] {
                inst.round &= !only_narrowed[r] || bound[r].is_some();
            }
        }
        narrow_in_place(&mut insts, &bound);
        let aliased = |slot: usize| self.reads.iter().any(|r| r.0 == slot && self.body.aliased[r.1]);
        widen_in_place(&mut insts, &bound, aliased);
        fuse_sum(&mut insts, &bound);
        let resolve = |loc: &mut Loc| {
            if let Loc::Register(r) = *loc
                && let Some(place) = bound[r]
            {
                *loc = place;
            }
        };
        for inst in &mut insts {
            inst.dst.iter_mut().flatten().for_each(resolve);
            inst.src.iter_mut().flatten().for_each(resolve);
        }
        let mut last = vec![0; bound.len()];
        for (i, inst) in insts.iter().enumerate() {
            for loc in inst.dst.iter().chain(&inst.src).flatten() {
                if let Loc::Register(r) = *loc {
                    last[r] = i;
                }
            }
        }
        let mut taken: Vec<Option<usize>> = Vec::new();
        let mut place: Vec<usize> = vec![0; bound.len()];
        for (i, inst) in insts.iter_mut().enumerate() {
            for loc in inst.dst.iter_mut().flatten() {
                if let Loc::Register(r) = *loc {
                    let free = taken.iter().position(Option::is_none).unwrap_or_else(|| {
                        taken.push(None);
                        taken.len() - 1
                    });
                    taken[free] = Some(r);
                    place[r] = free;
                    *loc = Loc::Register(free);
                }
            }
            for loc in inst.src.iter_mut().flatten() {
                if let Loc::Register(r) = *loc {
                    *loc = Loc::Register(place[r]);
                }
            }
            taken.iter_mut().for_each(|t| {
                if t.is_some_and(|r| last[r] <= i) {
                    *t = None;
                }
            });
        }
        let chain = Chain::of(&insts, domain.channels);
        let past = match &chain {
            // What it stores is still in registers where it is read again.
            Some(chain) if chain.reads_memory() => {
                let read: Vec<usize> = chain.operands().filter_map(|loc| loc.slot()).collect();
                past_caches(&read, &self.slots)
            }
            // At the end of a convolution it writes through the caches.
            Some(_) => vec![false; self.slots.len()],
            None => past_caches(&slots_read(&insts), &self.slots),
        };
        let program = Program {
            domain,
            chain,
            past,
            asks: true,
            insts,
            slots: self.slots,
            tables: self.tables,
            accumulators: self.accumulators,
            registers: taken.len(),
            sums: self.sums,
            partials: self.partials,
        };
        Compiled { program, reads: self.reads, writes: self.writes, reductions: self.reductions }
    }
}

/// Makes one instruction of a normalisation and the ReLU that alone reads it.
fn fuse_relu(insts: &mut Vec<Inst>, bound: &[Option<Loc>]) {
    let mut uses = vec![0usize; bound.len()];
    for loc in insts.iter().flat_map(|i| i.src.iter().flatten()) {
        if let Loc::Register(r) = *loc {
            uses[r] += 1;
        }
    }
    for i in 0..insts.len() {
        let Code::Normalize { mean, scale, bias } = insts[i].code else { continue };
        let Some(Loc::Register(r)) = insts[i].dst[0] else { continue };
        if uses[r] != 1 || bound[r].is_some() {
            continue;
        }
        let reader = insts.iter().position(|other| other.src.contains(&Some(Loc::Register(r))));
        let Some(reader) = reader else { continue };
        if !matches!(insts[reader].code, Code::Unary(UnaryKind::Relu)) || insts[reader].per_row {
            continue;
        }
        // Rounding before or after the ReLU is the same.
        insts[i].round |= insts[reader].round;
        insts[i].code = Code::NormalizeRelu { mean, scale, bias };
        insts[i].dst = insts[reader].dst;
        insts.remove(reader);
        return fuse_relu(insts, bound);
    }
}

/// Makes one instruction of a normalisation, a sum and a ReLU that follow one another, each of which alone reads the one
/// before.
fn fuse_sum(insts: &mut Vec<Inst>, bound: &[Option<Loc>]) {
    let mut at = 0;
    while let Some([normalize, add, relu]) = insts.get(at..at + 3) {
        at += 1;
        let alone = |inst: &Inst| match inst.dst {
            [made @ Some(Loc::Register(r)), None, None] if bound[r].is_none() && inst.half.is_none() => {
                let reads = insts.iter().flat_map(|i| &i.src).filter(|src| **src == made).count();
                (reads == 1).then_some(made)
            }
            _ => None,
        };
        let (Some(normal), Some(sum)) = (alone(normalize), alone(add)) else { continue };
        let &Code::Normalize { mean, scale, bias } = &normalize.code else { continue };
        let fits = matches!(add.code, Code::Binary(BinaryKind::Add))
            && matches!(relu.code, Code::Unary(UnaryKind::Relu))
            && ![normalize, add, relu].iter().any(|i| i.per_row || i.round_rows)
            && normalize.round == add.round
            && relu.src[0] == sum;
        let other = match add.src {
            [first, other, ..] if first == normal => other,
            [other, second, ..] if second == normal => other,
            _ => continue,
        };
        if fits {
            let code = Code::NormalizeAddRelu { mean, scale, bias, round: add.round };
            let fused = Inst { code, src: [normalize.src[0], other, None, None], ..relu.clone() };
            insts.splice(at - 1..at + 2, [fused]);
        }
    }
}

/// Lets the one pass that reads the lent rows round them, instead of a pass before it.
fn round_as_read(prelude: &mut Vec<Inst>, insts: &mut [Inst]) {
    let rows = Some(Loc::Rows);
    let mut readers = insts.iter_mut().filter(|i| i.src.contains(&rows));
    if let (Some(reader), None) = (readers.next(), readers.next())
        && reader.code.passes()
        && !reader.per_row
    {
        let before = prelude.len();
        prelude.retain(|i| i.dst[0] != rows);
        reader.round_rows = prelude.len() < before;
    }
}

/// Lets passes write bf16 where their results are narrowed.
fn narrow_in_place(insts: &mut Vec<Inst>, bound: &[Option<Loc>]) {
    let mut at = 0;
    while at < insts.len() {
        let (code, source, per_row) = (&insts[at].code, insts[at].src[0], insts[at].per_row);
        let &Code::Narrow(slot) = code else {
            at += 1;
            continue;
        };
        let maker = insts.iter().position(|i| i.dst[0] == source && source.is_some());
        let maker = maker.filter(|&i| {
            let inst = &insts[i];
            inst.code.passes() && !inst.per_row && !per_row && inst.half.is_none() && inst.dst[1].is_none()
        });
        let Some(maker) = maker else {
            // What no pass makes is copied by one, which may come to read it as bf16.
            if !per_row {
                (insts[at].code, insts[at].half) = (Code::Copy, Some(slot));
            }
            at += 1;
            continue;
        };
        insts[maker].half = Some(slot);
        insts.remove(at);
        let read = insts.iter().any(|i| i.src.contains(&source));
        if let Some(Loc::Register(r)) = source
            && !read
            && bound[r].is_none()
        {
            insts[maker].dst[0] = None;
        }
    }
}

/// Lets passes read bf16 where it lies, and f32 on which a result lies, where else it is widened or copied first.
///
/// A value on whose memory a result lies must have been read before that is written: by passes before the first that
/// writes, or by that one, which reads an element before it writes it.
fn widen_in_place(insts: &mut Vec<Inst>, bound: &[Option<Loc>], aliased: impl Fn(usize) -> bool) {
    let mut at = 0;
    while at < insts.len() {
        let (code, per_row, made) = (&insts[at].code, insts[at].per_row, insts[at].dst[0]);
        let source = match (code, insts[at].src[0]) {
            (&Code::Widen(slot), _) => Some((slot, Loc::Half(slot))),
            (Code::Copy, Some(place @ Loc::Memory(slot))) if !insts[at].round && insts[at].half.is_none() => {
                Some((slot, place))
            }
            _ => None,
        };
        let (Some((slot, place)), Some(Loc::Register(r)), false) = (source, made, per_row) else {
            at += 1;
            continue;
        };
        let readers: Vec<usize> = (0..insts.len()).filter(|&i| insts[i].src.contains(&made)).collect();
        let writes = |i: &Inst| {
            let stored = |loc: &Loc| match loc {
                Loc::Memory(_) => true,
                Loc::Register(r) => matches!(bound[*r], Some(Loc::Memory(_))),
                Loc::Rows | Loc::Half(_) => false,
            };
            i.half.is_some() || matches!(i.code, Code::Narrow(_)) || i.dst.iter().flatten().any(stored)
        };
        let first_write = insts.iter().position(writes).unwrap_or(insts.len());
        let pass = |&i: &usize| insts[i].code.reads_halves() && !insts[i].per_row;
        let in_time = readers.iter().all(|&i| i <= first_write);
        if bound[r].is_some() || readers.len() > 2 || !readers.iter().all(pass) || (aliased(slot) && !in_time)
        {
            at += 1;
            continue;
        }
        for i in readers {
            for loc in insts[i].src.iter_mut().filter(|loc| **loc == made) {
                *loc = Some(place);
            }
        }
        insts.remove(at);
    }
}
