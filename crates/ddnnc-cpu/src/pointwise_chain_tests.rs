//! Which instructions are a chain, and chains against their instructions and element by element.

use crate::device::Machine;
use crate::launch::Need;
use crate::memory::{Memory, Plan, Region, Slot};
use crate::pointwise_chain::{Chain, Gate, Sums};
use crate::pointwise_chain_run::{Ends, Gathers, run};
use crate::pointwise_inst::{Accumulator, Domain, Gather, HEADER};
use crate::pointwise_inst::{Code, Inst, Loc};
use crate::pointwise_kernels::{narrow, widen};
use crate::pointwise_program::{Lent, Program};
use crate::simd::Level;
use ddnnc_ir::{BinaryKind, DType, UnaryKind};

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
    assert!(chain.halves && chain.out == Some(Loc::Half(2)) && chain.add == Some(Loc::Half(1)));
    assert!(!chain.reads_memory());
    assert!(matches!(chain.gate, Gate::Positive(Loc::Half(0))));
    assert!(matches!(chain.sums, Sums::Products([Some((0, 0, Loc::Half(3))), Some((1, 1, Loc::Half(4)))])));
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

/// Below 6 too, without a gate, and as they are.
#[test]
fn more_ends_are_chains() {
    let (register, rows) = (|r: usize| Some(Loc::Register(r)), Some(Loc::Rows));
    let round = |inst: Inst| Inst { round: true, ..inst };
    let copy = round(inst(Code::Copy, rows, None, &[Loc::Rows]));
    let product = |x, dy| inst(Code::Products { accumulator: 0, mean: 0 }, None, None, &[x, dy]);
    let capped = [
        copy.clone(),
        round(inst(Code::Normalize { mean: 0, scale: 1, bias: 2 }, register(0), None, &[Loc::Half(0)])),
        inst(Code::Unary(UnaryKind::Relu6), register(1), None, &[Loc::Register(0)]),
        inst(Code::UnaryGrad(UnaryKind::Relu6), register(0), None, &[Loc::Register(1), Loc::Rows]),
        inst(Code::Copy, None, Some(1), &[Loc::Register(0)]),
        product(Loc::Half(2), Loc::Register(0)),
    ];
    let chain = Chain::of(&capped, 32).expect("a chain");
    assert!(chain.halves && chain.rows == Loc::Rows && chain.out == Some(Loc::Half(1)));
    assert!(matches!(chain.gate, Gate::Capped(Loc::Half(0), [0, 1, 2])));
    let changed = |i: usize, change: &dyn Fn(&mut Inst)| {
        let mut insts = capped.to_vec();
        change(&mut insts[i]);
        Chain::of(&insts, 32).is_none()
    };
    assert!(!changed(0, &|_| {}));
    assert!(changed(0, &|i| i.round = false), "rows that are not rounded");
    assert!(changed(1, &|i| i.round = false), "a normalised value that is not rounded");
    assert!(changed(2, &|i| i.src[0] = Some(Loc::Register(1))), "a cap of something else");
    assert!(changed(2, &|i| i.code = Code::Unary(UnaryKind::Relu)), "another cap");
    assert!(changed(3, &|i| i.code = Code::UnaryGrad(UnaryKind::Relu)), "another gate");
    assert!(changed(3, &|i| i.src[0] = Some(Loc::Register(0))), "a gate by what is not capped");
    assert!(changed(4, &|i| i.src[0] = Some(Loc::Register(1))), "something else is stored");
    let mut exact = capped.to_vec();
    exact.remove(4);
    exact.remove(0);
    exact.iter_mut().for_each(|i| i.round = false);
    (exact[0].src[0], exact[2].dst[0]) = (Some(Loc::Memory(0)), Some(Loc::Memory(1)));
    exact[3].src = [Some(Loc::Memory(2)), Some(Loc::Memory(1)), None, None];
    assert!(Chain::of(&exact, 32).is_some_and(|c| !c.halves && c.out == Some(Loc::Memory(1))), "of f32");
    // A sum that is stored.
    let add = |dst, half, src: [Loc; 2]| inst(Code::Binary(BinaryKind::Add), dst, half, &src);
    let sum = Inst { round: true, round_rows: true, ..add(register(0), Some(1), [Loc::Half(0), Loc::Rows]) };
    let chain = Chain::of(&[sum.clone(), product(Loc::Half(2), Loc::Register(0))], 32).expect("a chain");
    assert!(chain.halves && chain.add == Some(Loc::Half(0)) && chain.out == Some(Loc::Half(1)));
    let gate =
        inst(Code::UnaryGrad(UnaryKind::Relu), register(1), Some(3), &[Loc::Half(4), Loc::Register(0)]);
    let both = [sum, gate, product(Loc::Half(2), Loc::Register(1))];
    assert!(Chain::of(&both, 32).is_none(), "two results");
    let sum = add(Some(Loc::Memory(1)), None, [Loc::Memory(0), Loc::Rows]);
    let chain = Chain::of(&[sum, product(Loc::Memory(2), Loc::Memory(1))], 32).expect("a chain");
    assert!(!chain.halves && chain.add == Some(Loc::Memory(0)) && chain.out == Some(Loc::Memory(1)));
    // Rows as they are, rounded and stored or f32.
    let store = Inst { half: Some(0), ..copy };
    let chain = Chain::of(&[store, product(Loc::Half(1), Loc::Rows)], 32).expect("a chain");
    assert!(chain.halves && chain.out == Some(Loc::Half(0)) && matches!(chain.gate, Gate::Open));
    let chain = Chain::of(&[product(Loc::Memory(1), Loc::Rows)], 32).expect("a chain");
    assert!(!chain.halves && chain.out.is_none() && chain.rows == Loc::Rows);
    let moments = inst(Code::Moments { accumulator: 0 }, None, None, &[Loc::Rows]);
    assert!(Chain::of(&[moments], 32).is_some_and(|c| !c.halves && c.out.is_none()));
}

/// Launches of their own: the rows are an operand.
#[test]
fn sums_of_memory_are_chains() {
    let register = Some(Loc::Register(0));
    let moments = |loc| inst(Code::Moments { accumulator: 0 }, None, None, &[loc]);
    let chain = Chain::of(&[moments(Loc::Half(1))], 64).expect("a chain");
    assert!(chain.halves && chain.reads_memory() && chain.out.is_none());
    let chain = Chain::of(&[moments(Loc::Memory(1))], 64).expect("a chain");
    assert!(!chain.halves && chain.rows == Loc::Memory(1));
    assert!(Chain::of(&[moments(Loc::Register(0))], 64).is_none(), "what is made before");
    let gate = |dst, half, dy| inst(Code::UnaryGrad(UnaryKind::Relu), dst, half, &[Loc::Half(0), dy]);
    let product = |x, dy| inst(Code::Products { accumulator: 0, mean: 0 }, None, None, &[x, dy]);
    let gated = [gate(register, Some(2), Loc::Half(1)), product(Loc::Half(3), Loc::Register(0))];
    let chain = Chain::of(&gated, 64).expect("a chain");
    assert!(chain.halves && chain.rows == Loc::Half(1) && chain.out == Some(Loc::Half(2)));
    assert_eq!(chain.operands().collect::<Vec<_>>(), [1, 0, 3].map(Loc::Half));
    let chain = Chain::of(&gated[1..], 64);
    assert!(chain.is_none(), "products with what is made before");
    let chain = Chain::of(&[product(Loc::Memory(3), Loc::Memory(1))], 64).expect("a chain");
    assert!(!chain.halves && chain.out.is_none() && matches!(chain.gate, Gate::Open));
    assert!(Chain::of(&[product(Loc::Memory(3), Loc::Half(1))], 64).is_none(), "two types");
    assert!(Chain::of(&[product(Loc::Half(3), Loc::Rows)], 64).is_none(), "lent rows that are not rounded");
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
#[expect(clippy::neg_cmp_op_on_partial_ord, reason = "a sum that is not a number is wrong")]
fn a_chain_gives_what_its_instructions_give() {
    let rows = Some(Loc::Rows);
    let copy = Inst { round: true, ..inst(Code::Copy, rows, Some(0), &[Loc::Rows]) };
    let moments = inst(Code::Moments { accumulator: 0 }, None, None, &[Loc::Rows]);
    let mut capped = gradient(true);
    capped.remove(1);
    capped[0].code = Code::Normalize { mean: 2, scale: 3, bias: 4 };
    capped.insert(0, Inst { half: None, ..copy.clone() });
    capped.insert(2, inst(Code::Unary(UnaryKind::Relu6), Some(Loc::Register(0)), None, &[Loc::Register(2)]));
    capped[3] =
        inst(Code::UnaryGrad(UnaryKind::Relu6), Some(Loc::Register(1)), None, &[Loc::Register(0), Loc::Rows]);
    capped.insert(4, inst(Code::Copy, None, Some(2), &[Loc::Register(1)]));
    let mut open = gradient(false);
    open.remove(1);
    open[0].half = Some(2);
    (open[1].src[1], open[2].src[1]) = (Some(Loc::Register(0)), Some(Loc::Register(0)));
    for level in Level::available() {
        let all = [
            gradient(false),
            gradient(true),
            vec![copy.clone(), moments.clone()],
            capped.clone(),
            open.clone(),
        ];
        for insts in all {
            let [one, all] = [true, false].map(|chained| run_program(level, insts.clone(), chained));
            assert!(one.0 == all.0, "{}", level.name());
            // No term is over 16, and there are 301.
            let wrong =
                one.1.iter().zip(&all.1).filter(|&(x, y)| !((x - y).abs() <= SUMS_ERROR * 16.0 * 301.0));
            assert_eq!(wrong.count(), 0, "{}", level.name());
            assert!(one.1.iter().filter(|&&x| x != 0.0).count() > 64, "sums were gathered");
        }
    }
}

/// How far sums of a chain of bf16 may lie from sums in f64, for each 1 of the sum of what its terms are without their signs: two
/// roundings of a term and one of each sum of 16 in f32.
const SUMS_ERROR: f64 = 18.0 / (1 << 24) as f64;

/// Numbers in [-2, 2), some of them 0.
fn numbers(seed: &mut u32, n: usize) -> Vec<f32> {
    let next = |_| {
        *seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        if *seed >> 29 == 0 { 0.0 } else { (*seed >> 8) as f32 / (1 << 22) as f32 - 2.0 }
    };
    (0..n).map(next).collect()
}

/// Every kind of chain against element by element, in f32 and bf16: outputs to the bit, sums as f64 allows, or f32
/// where they are of bf16.
#[test]
fn every_chain_is_what_its_instructions_are() {
    let mut seed = 7;
    for level in Level::available() {
        // Periods of one row and of several, and rows that end within a period.
        for (channels, period, rows) in [(16, 256, 37), (48, 288, 13), (512, 512, 5), (32, 256, 8)] {
            for kind in 0..64 * 3 {
                let kinds = std::array::from_fn(|bit| kind >> bit & 1 == 1);
                check(level, &mut seed, [channels, period, rows], kinds, kind / 64);
            }
        }
    }
}

#[expect(clippy::neg_cmp_op_on_partial_ord, reason = "a sum that is not a number is wrong")]
fn check(
    level: Level,
    seed: &mut u32,
    [channels, period, rows]: [usize; 3],
    [halves, memory, add, normalized, open, capped]: [bool; 6],
    sums: usize,
) {
    // Moments are gathered of rows that nothing is done with.
    let (add, gated) = (add && sums > 0, sums > 0 && !open);
    let normalized = normalized && gated;
    let capped = capped && normalized;
    // What is changed is stored, and lent rows of bf16.
    let kept = gated || add || halves && !memory;
    let n = rows * channels;
    let round = |x: f32| if halves { widen(narrow(x)) } else { x };
    let mut stored = || -> Vec<f32> { numbers(seed, n).into_iter().map(round).collect() };
    let (added, by, values) = (stored(), stored(), [stored(), stored()]);
    let x: Vec<f32> = match memory {
        true => numbers(seed, n).into_iter().map(round).collect(),
        false => numbers(seed, n),
    };
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
    let row_bytes = bytes(&x);
    // Whole lines, as past the caches.
    let nothing = bytes(&vec![9.0; n]);
    let mut place = vec![0; nothing.len() + 64];
    let aligned = place.as_ptr().align_offset(64);
    let out = &mut place[aligned..][..nothing.len()];
    out.copy_from_slice(&nothing);
    let gathers = match sums {
        0 => Gathers::Moments([&mut total, &mut along], &shift),
        _ => Gathers::Products([
            Some(([&mut total, &mut along], value_bytes[0].as_ptr(), &tables[3])),
            (sums == 2).then_some(([&mut total2, &mut along2], value_bytes[1].as_ptr(), &tables[4])),
        ]),
    };
    let pointer = |bytes: &Vec<u8>, wanted: bool| if wanted { bytes.as_ptr() } else { std::ptr::null() };
    let ends = Ends {
        n,
        halves,
        rows: if memory { row_bytes.as_ptr() } else { x.as_ptr().cast() },
        memory,
        past: memory && sums == 1,
        add: pointer(&added_bytes, add),
        gate: pointer(&by_bytes, gated),
        normalize: normalized.then_some([&tables[0], &tables[1], &tables[2]]),
        capped,
        out: if kept { out.as_mut_ptr() } else { std::ptr::null_mut() },
        gathers,
    };
    // SAFETY: all have that many elements, or a period.
    unsafe { run(level, ends) };
    crate::half_vector::settle();
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
        if capped {
            y *= if round(gate) < 6.0 { 1.0 } else { 0.0 };
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
    let kinds = [halves, memory, add, normalized, open, capped];
    let what = format!("{} {channels} {rows} {kinds:?} {sums}", level.name());
    assert!(*out == if kept { bytes(&made) } else { nothing }, "{what}");
    let near = |found: &[f64], wanted: &[[f64; 2]]| {
        let wrong = found
            .iter()
            .zip(wanted)
            .filter(|&(x, [y, size])| !((x - y).abs() <= (if halves { SUMS_ERROR } else { 1e-14 }) * size));
        assert_eq!(wrong.count(), 0, "{what}");
    };
    near(&total, &wanted[0]);
    near(&along, &wanted[1]);
    if sums == 2 {
        near(&total2, &wanted[0]);
        near(&along2, &wanted[2]);
    }
}
