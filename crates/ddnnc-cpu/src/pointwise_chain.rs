//! What follows most convolutions, as one pass: rows are added to, gated and stored, and sums over them are gathered.
//!
//! A program of such instructions alone is a chain. Instead of one instruction after the other over all channels of a few
//! rows, it takes two vectors of channels through many rows: tables and sums are registers, and nothing in between is
//! stored. Each element is computed and rounded, and each sum added up, in the order in which the instructions would.

use crate::half_vector::{Halves, HalvesVectored, with_halves};
use crate::pointwise_inst::{Code, Inst, Loc};
use crate::pointwise_kernels::{narrow, widen};
use crate::pointwise_pass::Element;
use crate::simd::Level;
use ddnnc_ir::{BinaryKind, UnaryKind};

/// Elements that a chain takes at a time, about: as many rows as keep two vectors of each operand in the first cache.
pub const CHAINED: usize = 1 << 13;

/// A program that is a chain; places are those of its instructions.
#[derive(Clone, Debug)]
pub struct Chain {
    /// Whether operands and result are bf16 and values are rounded to it, or all are f32.
    pub halves: bool,
    /// What is added to the lent rows.
    pub add: Option<Loc>,
    /// What lets them through.
    pub gate: Gate,
    /// Where they are stored.
    pub out: Loc,
    /// What is gathered of them.
    pub sums: Sums,
}

/// What lets rows through: 1 or 0 times.
#[derive(Clone, Copy, Debug)]
pub enum Gate {
    /// All pass.
    Open,
    /// Where a value is above 0.
    Positive(Loc),
    /// Where a value normalised by (mean, scale, bias) is above 0.
    Normalized(Loc, [usize; 3]),
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
        let rows = Some(Loc::Rows);
        let plain = |i: &Inst| !i.round && !i.round_rows;
        if let [copy, moments] = insts
            && let (Code::Copy, &Code::Moments { accumulator }) = (&copy.code, &moments.code)
            && let Some(slot) = copy.half
            && copy.round
            && copy.dst == [rows, None, None]
            && copy.src[0] == rows
            && moments.src[0] == rows
        {
            let (out, sums) = (Loc::Half(slot), Sums::Moments(accumulator));
            return Some(Chain { halves: true, add: None, gate: Gate::Open, out, sums });
        }
        let (mut rest, mut add, mut gate) = (insts, None, Gate::Open);
        let (mut lent, mut open) = (rows, None);
        // Whether the rows have been rounded, as bf16 must be, and any instruction that says so.
        let mut rounded = false;
        if let [inst, after @ ..] = rest
            && let Code::NormalizeRelu { mean, scale, bias } = inst.code
            && let (Some(value), Some(made @ Loc::Register(_))) = (inst.src[0], inst.dst[0])
            && inst.half.is_none()
        {
            (gate, open, rest) = (Gate::Normalized(value, [mean, scale, bias]), Some(made), after);
        }
        if let [inst, after @ ..] = rest
            && let Code::Binary(BinaryKind::Add) = inst.code
            && let [Some(other), Some(Loc::Rows), ..] | [Some(Loc::Rows), Some(other), ..] = inst.src
            && let Some(made @ Loc::Register(_)) = inst.dst[0]
            && inst.half.is_none()
            && inst.round == inst.round_rows
            && other != Loc::Rows
        {
            (add, lent, rounded, rest) = (Some(other), Some(made), inst.round, after);
        }
        let [inst, after @ ..] = rest else { return None };
        let (Code::UnaryGrad(UnaryKind::Relu), Some(by)) = (&inst.code, inst.src[0]) else { return None };
        if inst.src[1] != lent || inst.round {
            return None;
        }
        rounded |= inst.round_rows;
        match gate {
            Gate::Open if open.is_none() => gate = Gate::Positive(by),
            _ if open == Some(by) => {}
            _ => return None,
        }
        let (made, out) = match (inst.dst[0], inst.half) {
            (Some(made @ Loc::Register(_)), Some(slot)) => (made, Loc::Half(slot)),
            (Some(made @ (Loc::Memory(_) | Loc::Rows)), None) => (made, made),
            _ => return None,
        };
        if after.is_empty() || after.len() > 2 {
            return None;
        }
        let mut products = [None; 2];
        for (product, inst) in products.iter_mut().zip(after) {
            let (&Code::Products { accumulator, mean }, Some(value)) = (&inst.code, inst.src[0]) else {
                return None;
            };
            if inst.src[1] != Some(made) || value == Loc::Rows || !plain(inst) {
                return None;
            }
            *product = Some((accumulator, mean, value));
        }
        let operands = [add, Some(by).filter(|_| open.is_none())].into_iter().chain(
            products.map(|p| p.map(|p| p.2)).into_iter().chain([match gate {
                Gate::Normalized(value, _) => Some(value),
                _ => None,
            }]),
        );
        let halves = matches!(out, Loc::Half(_));
        let fits = |loc: Loc| match loc {
            Loc::Half(_) => halves,
            Loc::Memory(_) => !halves,
            Loc::Register(_) | Loc::Rows => false,
        };
        (rounded == halves && operands.flatten().all(fits)).then_some(Chain {
            halves,
            add,
            gate,
            out,
            sums: Sums::Products(products),
        })
    }
}

/// The operands of a chain for some rows: elements of the type that it says, tables and sums of one period.
pub struct Ends<'a> {
    /// Elements; whole vectors, as the period.
    pub n: usize,
    /// Whether operands and result are bf16.
    pub halves: bool,
    /// The lent rows.
    pub rows: *const f32,
    /// What is added, or null.
    pub add: *const u8,
    /// What gates, or null.
    pub gate: *const u8,
    /// (mean, scale, bias) of what gates.
    pub normalize: Option<[&'a [f32]; 3]>,
    /// Where the rows are stored.
    pub out: *mut u8,
    /// What is gathered.
    pub gathers: Gathers<'a>,
}

/// What is gathered: sums of one period each.
pub enum Gathers<'a> {
    /// (total, squares) += (d, d²) of d = x − shift
    Moments([&'a mut [f64]; 2], &'a [f64]),
    /// (total, along) += (x, x · (a − mean)) for each (sums, a, mean)
    Products([Option<Product<'a>>; 2]),
}

/// The sums (total, along), the value and its mean.
pub type Product<'a> = ([&'a mut [f64]; 2], *const u8, &'a [f32]);

/// The first row of moments, about which they are gathered: `x` as the chain rounds it.
pub fn rounded(x: f32, halves: bool) -> f32 {
    if halves { widen(narrow(x)) } else { x }
}

/// Runs a chain.
///
/// # Safety
///
/// Operands and result have `n` elements each, `n` and the period are multiples of 16. The result lies apart from every
/// operand, or on the lent rows.
pub unsafe fn run(level: Level, ends: Ends<'_>) {
    with_halves(level, ends);
}

/// An element of operands and result.
trait Stored: Element {
    /// Whether values are rounded to it.
    const ROUNDS: bool;
    unsafe fn store<S: Halves>(x: S, to: *mut Self);
}

impl Stored for f32 {
    const ROUNDS: bool = false;
    #[inline(always)]
    unsafe fn store<S: Halves>(x: S, to: *mut f32) {
        // SAFETY: promised by the caller of `run`.
        unsafe { x.store(to) }
    }
}

impl Stored for u16 {
    const ROUNDS: bool = true;
    #[inline(always)]
    unsafe fn store<S: Halves>(x: S, to: *mut u16) {
        // SAFETY: promised by the caller of `run`.
        unsafe { x.store_half(to) }
    }
}

/// Kinds of gates and of sums, as constants.
const OPEN: u8 = 0;
const POSITIVE: u8 = 1;
const NORMALIZED: u8 = 2;
const MOMENTS: u8 = 0;

impl HalvesVectored for Ends<'_> {
    #[inline(always)]
    unsafe fn run<S: Halves>(self) {
        // SAFETY: promised by the caller of `run`.
        unsafe { if self.halves { self.typed::<S, u16>() } else { self.typed::<S, f32>() } }
    }
}

/// Pointers of a chain, without what is known when it is compiled.
struct Args<T> {
    n: usize,
    period: usize,
    rows: *const f32,
    add: *const T,
    gate: *const T,
    normalize: [*const f32; 3],
    out: *mut T,
    shift: *const f64,
    values: [*const T; 2],
    means: [*const f32; 2],
    /// (total, along) of each; of moments (total, squares).
    sums: [[*mut f64; 2]; 2],
}

impl Ends<'_> {
    #[inline(always)]
    unsafe fn typed<S: Halves, T: Stored>(self) {
        let none: *const f32 = std::ptr::null();
        let mut args = Args::<T> {
            n: self.n,
            period: 0,
            rows: self.rows,
            add: self.add.cast(),
            gate: self.gate.cast(),
            normalize: match self.normalize {
                Some([mean, scale, bias]) => [mean.as_ptr(), scale.as_ptr(), bias.as_ptr()],
                None => [none; 3],
            },
            out: self.out.cast(),
            shift: std::ptr::null(),
            values: [std::ptr::null(); 2],
            means: [none; 2],
            sums: [[std::ptr::null_mut(); 2]; 2],
        };
        let mut count = MOMENTS;
        match self.gathers {
            Gathers::Moments([total, squares], shift) => {
                args.period = shift.len();
                args.shift = shift.as_ptr();
                args.sums[0] = [total.as_mut_ptr(), squares.as_mut_ptr()];
            }
            Gathers::Products(products) => {
                for (i, ([total, along], value, mean)) in products.into_iter().flatten().enumerate() {
                    args.period = mean.len();
                    args.sums[i] = [total.as_mut_ptr(), along.as_mut_ptr()];
                    (args.values[i], args.means[i]) = (value.cast(), mean.as_ptr());
                    count += 1;
                }
            }
        }
        let gate = match (args.gate.is_null(), self.normalize.is_some()) {
            (true, _) => OPEN,
            (_, false) => POSITIVE,
            (_, true) => NORMALIZED,
        };
        let add = !args.add.is_null();
        // SAFETY: promised by the caller of `run`.
        unsafe {
            match (add, gate, count) {
                (_, OPEN, _) => args.all::<S, false, OPEN, MOMENTS>(),
                (false, POSITIVE, 1) => args.all::<S, false, POSITIVE, 1>(),
                (false, POSITIVE, _) => args.all::<S, false, POSITIVE, 2>(),
                (false, _, 1) => args.all::<S, false, NORMALIZED, 1>(),
                (false, _, _) => args.all::<S, false, NORMALIZED, 2>(),
                (true, POSITIVE, 1) => args.all::<S, true, POSITIVE, 1>(),
                (true, POSITIVE, _) => args.all::<S, true, POSITIVE, 2>(),
                (true, _, 1) => args.all::<S, true, NORMALIZED, 1>(),
                (true, _, _) => args.all::<S, true, NORMALIZED, 2>(),
            }
        }
    }
}

impl<T: Stored> Args<T> {
    #[inline(always)]
    unsafe fn all<S: Halves, const ADD: bool, const GATE: u8, const SUMS: u8>(&self) {
        let mut i = 0;
        // What is left of a period at the end is whole vectors, but maybe no pairs of them.
        let pairs = (self.n % self.period).is_multiple_of(2 * S::LANES);
        // SAFETY: promised by the caller of `run`.
        unsafe {
            while pairs && i + 2 * S::LANES <= self.period {
                self.columns::<S, ADD, GATE, SUMS, 2>(i);
                i += 2 * S::LANES;
            }
            while i < self.period {
                self.columns::<S, ADD, GATE, SUMS, 1>(i);
                i += S::LANES;
            }
        }
    }

    /// C vectors of a period from element `i` on, over all rows.
    #[inline(always)]
    #[expect(clippy::needless_range_loop, reason = "indices that are constants keep the sums in registers")]
    unsafe fn columns<S: Halves, const ADD: bool, const GATE: u8, const SUMS: u8, const C: usize>(
        &self,
        i: usize,
    ) {
        // No closures: they would be compiled without the level's instructions.
        // SAFETY: promised by the caller of `run`; tables and sums have a period.
        unsafe {
            let nothing = S::splat(0.0).doubles();
            let zero = S::splat(0.0);
            let mut normalize = [[zero; 3]; C];
            let mut about = [[nothing; 2]; C];
            let mut total = [nothing; C];
            let mut along = [[nothing; 2]; C];
            for c in 0..C {
                let i = i + c * S::LANES;
                if GATE == NORMALIZED {
                    for t in 0..3 {
                        normalize[c][t] = S::load(self.normalize[t].add(i));
                    }
                }
                total[c] = S::load_doubles(self.sums[0][0].add(i));
                if SUMS == MOMENTS {
                    about[c][0] = S::load_doubles(self.shift.add(i));
                    along[c][0] = S::load_doubles(self.sums[0][1].add(i));
                }
                for p in 0..SUMS as usize {
                    about[c][p] = S::load(self.means[p].add(i)).doubles();
                    along[c][p] = S::load_doubles(self.sums[p][1].add(i));
                }
            }
            let mut at = i;
            while at < self.n {
                for c in 0..C {
                    let at = at + c * S::LANES;
                    let mut x = S::load(self.rows.add(at));
                    if T::ROUNDS {
                        x = x.rounded();
                    }
                    if ADD {
                        x = T::load::<S, true>(self.add.add(at), S::LANES).plus(x);
                        if T::ROUNDS {
                            x = x.rounded();
                        }
                    }
                    if GATE != OPEN {
                        let mut by = T::load::<S, true>(self.gate.add(at), S::LANES);
                        if GATE == NORMALIZED {
                            let [mean, scale, bias] = normalize[c];
                            by = by.minus(mean).product(scale).plus(bias);
                        }
                        x = x.gated(by);
                    }
                    T::store::<S>(x, self.out.add(at));
                    let x = x.doubles();
                    if SUMS == MOMENTS {
                        let d = S::distance(x, about[c][0]);
                        total[c] = S::plus_doubles(total[c], d);
                        along[c][0] = S::sum_doubles(along[c][0], d, d);
                    } else {
                        total[c] = S::plus_doubles(total[c], x);
                    }
                    for p in 0..SUMS as usize {
                        let value = T::load::<S, true>(self.values[p].add(at), S::LANES).doubles();
                        let d = S::distance(value, about[c][p]);
                        along[c][p] = S::sum_doubles(along[c][p], x, d);
                    }
                }
                at += self.period;
            }
            for c in 0..C {
                let i = i + c * S::LANES;
                for p in 0..(SUMS as usize).max(1) {
                    // Totals of the same rows are the same.
                    for (to, x) in self.sums[p].into_iter().zip([total[c], along[c][p]]) {
                        S::store_doubles(x, to.add(i));
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Machine;
    use crate::launch::Need;
    use crate::memory::{Memory, Plan, Region, Slot};
    use crate::pointwise_inst::{Accumulator, Domain, Gather, HEADER};
    use crate::pointwise_program::{Lent, Program};
    use ddnnc_ir::DType;

    fn inst(code: Code, dst: Option<Loc>, half: Option<usize>, src: &[Loc]) -> Inst {
        let mut inst = Inst {
            code,
            per_row: false,
            round: false,
            round_rows: false,
            dst: [dst, None, None],
            half,
            src: [None; 4],
        };
        inst.src.iter_mut().zip(src).for_each(|(to, &loc)| *to = Some(loc));
        inst
    }

    /// The end of an input gradient of bf16: added to, gated by the value or by what is normalised of it, two sums.
    fn gradient(normalized: bool) -> Vec<Inst> {
        let register = |r: usize| Some(Loc::Register(r));
        let by = if normalized { Loc::Register(2) } else { Loc::Half(0) };
        let mut insts = Vec::new();
        if normalized {
            let code = Code::NormalizeRelu { mean: 2, scale: 3, bias: 4 };
            insts.push(Inst { round: true, ..inst(code, register(2), None, &[Loc::Half(0)]) });
        }
        let sum = inst(Code::Binary(BinaryKind::Add), register(0), None, &[Loc::Half(1), Loc::Rows]);
        insts.push(Inst { round: true, round_rows: true, ..sum });
        let gated = [by, Loc::Register(0)];
        insts.push(inst(Code::UnaryGrad(UnaryKind::Relu), register(1), Some(2), &gated));
        for i in 0..2 {
            let code = Code::Products { accumulator: i, mean: i };
            insts.push(inst(code, None, None, &[Loc::Half(3 + i), Loc::Register(1)]));
        }
        insts
    }

    #[test]
    fn common_ends_are_chains() {
        let chain = Chain::of(&gradient(false), 64).expect("a chain");
        assert!(chain.halves && chain.out == Loc::Half(2) && chain.add == Some(Loc::Half(1)));
        assert!(matches!(chain.gate, Gate::Positive(Loc::Half(0))));
        assert!(matches!(
            chain.sums,
            Sums::Products([Some((0, 0, Loc::Half(3))), Some((1, 1, Loc::Half(4)))])
        ));
        let chain = Chain::of(&gradient(true), 64).expect("a chain");
        assert!(matches!(chain.gate, Gate::Normalized(Loc::Half(0), [2, 3, 4])));
        // Without what is added the ReLU's gradient rounds the rows.
        let mut bare = gradient(false);
        bare.remove(0);
        bare[0] = Inst { round_rows: true, ..bare[0].clone() };
        bare[0].src[1] = Some(Loc::Rows);
        let chain = Chain::of(&bare, 64).expect("a chain");
        assert!(chain.add.is_none());
        let rows = Some(Loc::Rows);
        let copy = Inst { round: true, ..inst(Code::Copy, rows, Some(0), &[Loc::Rows]) };
        let moments = inst(Code::Moments { accumulator: 0 }, None, None, &[Loc::Rows]);
        let chain = Chain::of(&[copy, moments], 64).expect("a chain");
        assert!(matches!((chain.sums, chain.gate), (Sums::Moments(0), Gate::Open)));
    }

    #[test]
    fn what_is_more_is_no_chain() {
        assert!(Chain::of(&gradient(false), 24).is_none(), "channels are no whole vectors");
        let changed = |change: &dyn Fn(&mut Vec<Inst>)| {
            let mut insts = gradient(true);
            change(&mut insts);
            Chain::of(&insts, 64).is_none()
        };
        assert!(!changed(&|_| {}));
        assert!(changed(&|i| i.truncate(3)), "nothing is gathered");
        assert!(changed(&|i| i.push(i[4].clone())), "three sums");
        assert!(changed(&|i| i[1].round_rows = false), "rows that are not rounded");
        assert!(changed(&|i| i[1].round = false), "a sum that is not rounded");
        assert!(changed(&|i| i[2].half = None), "a result that stays a register");
        assert!(changed(&|i| i[2].src[0] = Some(Loc::Register(0))), "a gate that is the sum");
        assert!(changed(&|i| i[2].src[1] = Some(Loc::Rows)), "rows without what is added");
        assert!(changed(&|i| i[3].src[1] = Some(Loc::Register(0))), "a sum of something else");
        assert!(changed(&|i| i[3].src[0] = Some(Loc::Rows)), "products with the rows");
        assert!(changed(&|i| i[4].src[0] = Some(Loc::Memory(4))), "an operand of f32 among bf16");
        assert!(changed(&|i| i[0].half = Some(5)), "the normalised value is a result too");
        assert!(changed(&|i| i[0].dst[0] = Some(Loc::Memory(5))), "the same in f32");
    }

    /// The result and the partial sums of a program of such instructions, whole tiles and a part of one, run as a chain or
    /// one after the other.
    fn run_program(level: Level, insts: Vec<Inst>, chained: bool) -> (Vec<u16>, Vec<f64>) {
        let domain = Domain { rows: 301, channels: 64, area: 301 };
        let n = domain.rows * domain.channels;
        let (mut plan, mut seed) = (Plan::default(), 3);
        let slots: Vec<Slot> = (0..5).map(|_| plan.slot(DType::Bf16, n)).collect();
        let tables: Vec<Slot> = (0..5).map(|_| plan.slot(DType::F32, domain.period())).collect();
        let moments = insts.iter().any(|i| matches!(i.code, Code::Moments { .. }));
        let (gather, count) = if moments { (Gather::Moments, 3) } else { (Gather::Products, 2) };
        let accumulator = |i: usize| Accumulator {
            gather,
            at: i * count * domain.period(),
            partial: HEADER + 2 * i * domain.channels,
        };
        let chain = Chain::of(&insts, domain.channels);
        assert!(chain.is_some(), "a chain");
        let program = Program {
            domain,
            past: vec![false; slots.len()],
            insts,
            chain: chain.filter(|_| chained),
            asks: true,
            slots,
            tables,
            accumulators: (0..if moments { 1 } else { 2 }).map(accumulator).collect(),
            registers: 3,
            sums: 2 * count * domain.period(),
            partials: HEADER + 4 * domain.channels,
        };
        let region = |bytes| Region::new(bytes, 0).expect("memory");
        let regions = [region(1), region(1), region(plan.bytes)];
        let memory = Memory { arena: &regions[0], persistent: &regions[1], work: &regions[2] };
        for &slot in &program.slots {
            // SAFETY: nothing else uses the memory yet.
            let to: &mut [u16] = unsafe { memory.view_mut(slot) };
            to.iter_mut().zip(numbers(&mut seed, n)).for_each(|(to, x)| *to = narrow(x));
        }
        for &slot in &program.tables {
            // A table repeats its channels.
            let channels = numbers(&mut seed, domain.channels);
            // SAFETY: as above.
            let to: &mut [f32] = unsafe { memory.view_mut(slot) };
            to.iter_mut().zip(channels.iter().cycle()).for_each(|(to, &x)| *to = x);
        }
        let mut rows = numbers(&mut seed, n);
        let mut partial = vec![0.0; program.partials];
        let need = Need { tile: program.scratch(), sums: program.sums, ..Need::default() };
        Machine::testing(level, 1, need, |machine| {
            let range = (0, domain.rows);
            program.run(machine, memory, 0, range, Lent::Floats(&mut rows), Some(&mut partial));
        });
        let out = program.slots[if moments { 0 } else { 2 }];
        // SAFETY: the program has run.
        (unsafe { memory.view::<u16>(out) }.to_vec(), partial)
    }

    #[test]
    fn a_chain_gives_the_bits_of_its_instructions() {
        let rows = Some(Loc::Rows);
        let copy = Inst { round: true, ..inst(Code::Copy, rows, Some(0), &[Loc::Rows]) };
        let moments = inst(Code::Moments { accumulator: 0 }, None, None, &[Loc::Rows]);
        for level in Level::available() {
            for insts in [gradient(false), gradient(true), vec![copy.clone(), moments.clone()]] {
                let [one, all] = [true, false].map(|chained| run_program(level, insts.clone(), chained));
                assert!(one.0 == all.0, "{}", level.name());
                let bits = |sums: &[f64]| sums.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
                assert_eq!(bits(&one.1), bits(&all.1), "{}", level.name());
                assert!(one.1.iter().filter(|&&x| x != 0.0).count() > 64, "sums were gathered");
            }
        }
    }

    /// Numbers in [-2, 2), some of them 0.
    fn numbers(seed: &mut u32, n: usize) -> Vec<f32> {
        let next = |_| {
            *seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            if *seed >> 29 == 0 { 0.0 } else { (*seed >> 8) as f32 / (1 << 22) as f32 - 2.0 }
        };
        (0..n).map(next).collect()
    }

    /// Every kind of chain against element by element, in f32 and bf16: outputs to the bit, sums as f64 allows.
    #[test]
    fn every_chain_is_what_its_instructions_are() {
        let mut seed = 7;
        for level in Level::available() {
            // Periods of one row and of several, and rows that end within a period.
            for (channels, period, rows) in [(16, 256, 37), (48, 288, 13), (512, 512, 5), (32, 256, 8)] {
                for kind in 0..2 * 2 * 2 * 3 {
                    let (halves, add, normalized, sums) =
                        (kind % 2 == 1, kind / 2 % 2 == 1, kind / 4 % 2 == 1, kind / 8);
                    check(level, &mut seed, [channels, period, rows], halves, add, normalized, sums);
                }
            }
        }
    }

    #[expect(clippy::neg_cmp_op_on_partial_ord, reason = "a sum that is not a number is wrong")]
    fn check(
        level: Level,
        seed: &mut u32,
        [channels, period, rows]: [usize; 3],
        halves: bool,
        add: bool,
        normalized: bool,
        sums: usize,
    ) {
        let n = rows * channels;
        let round = |x: f32| rounded(x, halves);
        let mut stored = || -> Vec<f32> { numbers(seed, n).into_iter().map(round).collect() };
        let (added, by, values) = (stored(), stored(), [stored(), stored()]);
        let x = numbers(seed, n);
        let tables: [Vec<f32>; 5] = std::array::from_fn(|_| numbers(seed, period));
        let shift: Vec<f64> = tables[0].iter().map(|&x| f64::from(x)).collect();
        // Sums that hold something already.
        let start = numbers(seed, period).into_iter().map(f64::from).collect::<Vec<_>>();
        let [mut total, mut along, mut total2, mut along2] = std::array::from_fn(|_| start.clone());
        // As the type says, in memory of its own.
        let bytes = |v: &[f32]| -> Vec<u8> {
            match halves {
                true => v.iter().flat_map(|&x| narrow(x).to_ne_bytes()).collect(),
                false => v.iter().flat_map(|x| x.to_ne_bytes()).collect(),
            }
        };
        let (added_bytes, by_bytes, value_bytes) =
            (bytes(&added), bytes(&by), values.each_ref().map(|v| bytes(v)));
        let mut out = bytes(&vec![9.0; n]);
        let gathers = match sums {
            0 => Gathers::Moments([&mut total, &mut along], &shift),
            _ => Gathers::Products([
                Some(([&mut total, &mut along], value_bytes[0].as_ptr(), &tables[3])),
                (sums == 2).then_some(([&mut total2, &mut along2], value_bytes[1].as_ptr(), &tables[4])),
            ]),
        };
        // Moments are gathered of rows that nothing is done with.
        let (add, gated) = (add && sums > 0, sums > 0);
        let pointer = |bytes: &Vec<u8>, wanted: bool| if wanted { bytes.as_ptr() } else { std::ptr::null() };
        let ends = Ends {
            n,
            halves,
            rows: x.as_ptr(),
            add: pointer(&added_bytes, add),
            gate: pointer(&by_bytes, gated),
            normalize: (normalized && gated).then_some([&tables[0], &tables[1], &tables[2]]),
            out: out.as_mut_ptr(),
            gathers,
        };
        // SAFETY: all have that many elements, or a period.
        unsafe { run(level, ends) };
        let mut made = Vec::with_capacity(n);
        let mut wanted: [Vec<[f64; 2]>; 3] =
            std::array::from_fn(|_| start.iter().map(|&x| [x, x.abs()]).collect());
        for i in 0..n {
            let c = i % period;
            let mut y = round(x[i]);
            if add {
                y = round(added[i] + y);
            }
            let mut gate = by[i];
            if normalized {
                gate = (gate - tables[0][c]) * tables[1][c] + tables[2][c];
            }
            if gated {
                y *= if gate > 0.0 { 1.0 } else { 0.0 };
            }
            made.push(y);
            let wide = f64::from(y);
            let d = |v: f32, mean: f32| f64::from(v) - f64::from(mean);
            let terms = match sums {
                0 => [wide - shift[c], (wide - shift[c]).powi(2), 0.0],
                _ => [wide, wide * d(values[0][i], tables[3][c]), wide * d(values[1][i], tables[4][c])],
            };
            for (wanted, term) in wanted.iter_mut().zip(terms) {
                wanted[c][0] += term;
                wanted[c][1] += term.abs();
            }
        }
        let what = format!("{} {channels} {rows} {halves} {add} {normalized} {sums}", level.name());
        assert!(out == bytes(&made), "{what}");
        let near = |found: &[f64], wanted: &[[f64; 2]]| {
            let wrong = found.iter().zip(wanted).filter(|&(x, [y, size])| !((x - y).abs() <= 1e-14 * size));
            assert_eq!(wrong.count(), 0, "{what}");
        };
        near(&total, &wanted[0]);
        near(&along, &wanted[1]);
        if sums == 2 {
            near(&total2, &wanted[0]);
            near(&along2, &wanted[2]);
        }
    }
}
