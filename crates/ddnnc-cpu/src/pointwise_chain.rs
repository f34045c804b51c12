//! What follows most convolutions, as one pass: rows are added to, gated and stored, and sums over them are gathered. Launches
//! of their own that gather sums of maps in memory are the same, where the rows are an operand.
//!
//! A program of such instructions alone is a chain, which `pointwise_chain_run.rs` runs.

use crate::pointwise_inst::{Code, Inst, Loc};
use ddnnc_ir::{BinaryKind, UnaryKind};

/// A program that is a chain; places are those of its instructions.
#[derive(Clone, Debug)]
pub struct Chain {
    /// Whether operands and result are bf16 and values are rounded to it, or all are f32.
    pub halves: bool,
    /// The rows that it begins with: those that the caller lends, or an operand's.
    pub rows: Loc,
    /// What is added to them.
    pub add: Option<Loc>,
    /// What lets them through.
    pub gate: Gate,
    /// Where they are stored: all that is gated, and lent rows of bf16.
    pub out: Option<Loc>,
    /// What is gathered of them.
    pub sums: Sums,
}

/// What lets rows through: 1 or 0 times.
#[derive(Clone, Copy, Debug, Default)]
pub enum Gate {
    /// All pass.
    #[default]
    Open,
    /// Where a value is above 0.
    Positive(Loc),
    /// Where a value normalised by (mean, scale, bias) is above 0.
    Normalized(Loc, [usize; 3]),
    /// Where such a value, rounded to bf16 if all is, is above 0 and below 6.
    Capped(Loc, [usize; 3]),
}

/// Sums over the rows, by accumulator.
#[derive(Clone, Copy, Debug)]
pub enum Sums {
    /// Moments of the rows, which nothing is added to.
    Moments(usize),
    /// Products of the rows with a value less its mean: (accumulator, mean, value).
    Products([Option<(usize, usize, Loc)>; 2]),
}

impl Chain {
    /// The chain that these instructions are, if they are one. Channels are whole vectors of every level.
    pub fn of(insts: &[Inst], channels: usize) -> Option<Chain> {
        if !channels.is_multiple_of(16) || insts.iter().any(|i| i.per_row) {
            return None;
        }
        Chain::of_moments(insts).or_else(|| Chain::of_products(insts))
    }

    /// Whether its rows are an operand in memory, not lent.
    pub fn reads_memory(&self) -> bool {
        self.rows != Loc::Rows
    }

    /// Moments of an operand, of lent rows, or of those that are stored as bf16.
    fn of_moments(insts: &[Inst]) -> Option<Chain> {
        let (before, last) = insts.split_at_checked(insts.len().checked_sub(1)?)?;
        let (&Code::Moments { accumulator }, Some(rows)) = (&last[0].code, last[0].src[0]) else {
            return None;
        };
        let out = match (before, rows) {
            ([], Loc::Half(_) | Loc::Memory(_) | Loc::Rows) => None,
            ([copy], Loc::Rows)
                if matches!(copy.code, Code::Copy)
                    && copy.round
                    && copy.dst == [Some(rows), None, None]
                    && copy.src[0] == Some(rows) =>
            {
                Some(Loc::Half(copy.half?))
            }
            _ => return None,
        };
        let halves = out.is_some() || matches!(rows, Loc::Half(_));
        Some(Chain { halves, rows, add: None, gate: Gate::Open, out, sums: Sums::Moments(accumulator) })
    }

    /// Products with the rows, which may be rounded, added to and gated before.
    fn of_products(insts: &[Inst]) -> Option<Chain> {
        let mut read = Reading { rest: insts, ..Reading::default() };
        read.rounding();
        read.normalize();
        read.sum()?;
        read.gate()?;
        let Reading { rest, rows, add, gate, made, open, rounded, out } = read;
        if open.is_some() {
            return None;
        }
        // An operand, or lent rows of f32, as they are.
        let source = rest.first()?.src[1];
        let rows = rows.or(source)?;
        let rounded = rounded || made.is_none() && matches!(rows, Loc::Half(_));
        // What this pass makes is not in memory yet where its products read theirs.
        if made.is_some() && rest.iter().any(|inst| inst.src[0] == made) {
            return None;
        }
        let sums = Sums::Products(products_of(rest, made.or(source)?)?);
        let halves = matches!(out.unwrap_or(rows), Loc::Half(_));
        let chain = Chain { halves, rows, add, gate, out, sums };
        (rounded == halves && chain.operands().all(|loc| fits(loc, halves))).then_some(chain)
    }

    /// What it reads of memory.
    pub fn operands(&self) -> impl Iterator<Item = Loc> {
        let gate = match self.gate {
            Gate::Open => None,
            Gate::Positive(loc) | Gate::Normalized(loc, _) | Gate::Capped(loc, _) => Some(loc),
        };
        let values = match self.sums {
            Sums::Moments(_) => [None; 2],
            Sums::Products(products) => products.map(|product| product.map(|p| p.2)),
        };
        let rows = Some(self.rows).filter(|_| self.reads_memory());
        [rows, self.add, gate].into_iter().chain(values).flatten()
    }
}

/// Instructions before the products, of which some have been read.
#[derive(Default)]
struct Reading<'a> {
    rest: &'a [Inst],
    rows: Option<Loc>,
    add: Option<Loc>,
    gate: Gate,
    /// What the rows have become so far.
    made: Option<Loc>,
    /// The value that opens the gate, until it has been used.
    open: Option<Loc>,
    /// Whether the rows have been rounded, as bf16 must be, and any instruction that says so.
    rounded: bool,
    out: Option<Loc>,
}

impl Reading<'_> {
    /// Lent rows are rounded, and maybe stored.
    fn rounding(&mut self) {
        if let [inst, after @ ..] = self.rest
            && matches!(inst.code, Code::Copy)
            && (inst.src[0], inst.dst) == (Some(Loc::Rows), [Some(Loc::Rows), None, None])
            && inst.round
        {
            (self.rows, self.made) = (Some(Loc::Rows), Some(Loc::Rows));
            (self.rounded, self.rest) = (true, after);
            self.out = inst.half.map(Loc::Half);
        }
    }

    /// A value is normalised, for the gate.
    fn normalize(&mut self) {
        match self.rest {
            [inst, after @ ..]
                if let Code::NormalizeRelu { mean, scale, bias } = inst.code
                    && let (Some(value), Some(opens @ Loc::Register(_))) = (inst.src[0], inst.dst[0])
                    && inst.half.is_none() =>
            {
                self.gate = Gate::Normalized(value, [mean, scale, bias]);
                (self.open, self.rest) = (Some(opens), after);
            }
            [inst, cap, after @ ..]
                if let Code::Normalize { mean, scale, bias } = inst.code
                    && matches!(cap.code, Code::Unary(UnaryKind::Relu6))
                    && let (Some(value), Some(normal @ Loc::Register(_))) = (inst.src[0], inst.dst[0])
                    && let (Some(taken), Some(opens @ Loc::Register(_))) = (cap.src[0], cap.dst[0])
                    && taken == normal
                    && (inst.half, cap.half) == (None, None)
                    && inst.round == matches!(value, Loc::Half(_)) =>
            {
                self.gate = Gate::Capped(value, [mean, scale, bias]);
                (self.open, self.rest) = (Some(opens), after);
            }
            _ => {}
        }
    }

    /// The rows are added to, and the sum maybe stored.
    fn sum(&mut self) -> Option<()> {
        let lent = |loc: Loc| loc == Loc::Rows;
        if let [inst, after @ ..] = self.rest
            && let Code::Binary(BinaryKind::Add) = inst.code
            && let [Some(one), Some(two), ..] = inst.src
            && let Some(sum) = inst.dst[0]
            && (inst.round == inst.round_rows || !inst.round_rows && !lent(one) && !lent(two))
            && !(lent(one) && lent(two))
        {
            if self.made.is_some() {
                return None;
            }
            let (first, other) = if lent(two) { (two, one) } else { (one, two) };
            (self.rows, self.add, self.made) = (Some(first), Some(other), Some(sum));
            (self.rounded, self.rest) = (inst.round, after);
            self.out = match (sum, inst.half) {
                (Loc::Register(_), half) => half.map(Loc::Half),
                (sum, None) => Some(sum),
                (_, Some(_)) => return None,
            };
        }
        Some(())
    }

    /// A gate lets the rows through, and they are stored.
    fn gate(&mut self) -> Option<()> {
        let [inst, after @ ..] = self.rest else { return Some(()) };
        let Code::UnaryGrad(kind @ (UnaryKind::Relu | UnaryKind::Relu6)) = inst.code else { return Some(()) };
        // What has been stored is another result.
        if self.out.is_some() || (kind == UnaryKind::Relu6) != matches!(self.gate, Gate::Capped(..)) {
            return None;
        }
        let ([Some(by), Some(gated), ..], false) = (inst.src, inst.round) else { return None };
        match self.made {
            Some(made) if made != gated => return None,
            Some(_) => self.rounded |= inst.round_rows,
            None => {
                self.rows = Some(gated);
                self.rounded = inst.round_rows || matches!(gated, Loc::Half(_));
            }
        }
        match self.gate {
            Gate::Open => self.gate = Gate::Positive(by),
            _ if self.open == Some(by) => self.open = None,
            _ => return None,
        }
        let made = inst.dst[0]?;
        (self.out, self.rest) = match (made, inst.half, after) {
            (Loc::Register(_), Some(slot), _) => (Some(Loc::Half(slot)), after),
            (Loc::Memory(_) | Loc::Rows, None, _) => (Some(made), after),
            // Stored by a copy.
            (Loc::Register(_), None, [copy, after @ ..])
                if matches!(copy.code, Code::Copy) && (copy.src[0], copy.dst) == (Some(made), [None; 3]) =>
            {
                (Some(Loc::Half(copy.half?)), after)
            }
            _ => return None,
        };
        self.made = Some(made);
        Some(())
    }
}

/// Whether an operand is memory of the chain's element type.
fn fits(loc: Loc, halves: bool) -> bool {
    match loc {
        Loc::Half(_) => halves,
        Loc::Memory(_) => !halves,
        Loc::Register(_) | Loc::Rows => false,
    }
}

/// One or two sums of products with `rows`.
fn products_of(insts: &[Inst], rows: Loc) -> Option<[Option<(usize, usize, Loc)>; 2]> {
    if insts.is_empty() || insts.len() > 2 {
        return None;
    }
    let mut products = [None; 2];
    for (product, inst) in products.iter_mut().zip(insts) {
        let (&Code::Products { accumulator, mean }, Some(value)) = (&inst.code, inst.src[0]) else {
            return None;
        };
        if inst.src[1] != Some(rows) || value == Loc::Rows || inst.round || inst.round_rows {
            return None;
        }
        *product = Some((accumulator, mean, value));
    }
    Some(products)
}
