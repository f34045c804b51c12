//! Comparing products on the emulator with the reference evaluator, in every order of warps.

use super::EmulatedDevice;
use ddnnc_cases::Case;
use ddnnc_cuda::arch::{Math, Target};
use ddnnc_ir::reference::{Tensor, evaluate_op};
use ddnnc_ir::{DType, Group, Local, Op};

/// How much each element of each result may differ from the reference.
pub type Bounds = Vec<Vec<f64>>;

/// The operator on the absolute values of its operands: for a sum of products Σ |a·b|.
fn magnitudes(case: &Case, operands: &[Tensor]) -> Vec<Vec<f64>> {
    let absolute: Vec<Tensor> = operands
        .iter()
        .map(|t| Tensor { ty: t.ty.clone(), data: t.data.iter().map(|x| x.abs()).collect() })
        .collect();
    case.reference(&absolute)
}

/// Bounds for one product. Exact: as for every device, 2e-6 of the largest result (f32 sums of up to thousands of
/// products). tf32: each operand is rounded to 11 bits, so each product is off by 2⁻¹⁰ of itself at most. bf16 products
/// are exact; what is of bf16 is rounded once more, from sums that differ a little.
pub fn product_bounds(case: &Case, operands: &[Tensor], expected: &[Vec<f64>], math: Math) -> Bounds {
    let half = case.operands[0].dtype == DType::Bf16;
    let sums = magnitudes(case, operands);
    let types = case.results();
    expected
        .iter()
        .enumerate()
        .map(|(r, e)| {
            let scale = e.iter().fold(1.0f64, |m, x| m.max(x.abs()));
            let of = |(x, sum): (&f64, &f64)| match (types[r].dtype, math) {
                (DType::Bf16, _) => ddnnc_cases::bf16_ulp(*x),
                (_, Math::Tf32) if !half => sum / 1000.0 + 2e-6 * scale,
                _ => 2e-6 * scale,
            };
            e.iter().zip(&sums[r]).map(of).collect()
        })
        .collect()
}

/// Bounds for the results of a group: relative to the largest value on the way to each (at least 1), a few roundings to
/// f32, or to bf16 where there are such values; for tf32, of the products on the way, 2⁻¹⁰ of the largest Σ |a·b|.
pub fn group_bounds(group: &Group, operands: &[Tensor], expected: &[Vec<f64>], math: Math) -> Bounds {
    let mut made: Vec<Vec<Tensor>> = Vec::new();
    // Of every step: the largest value on the way, whether one was bf16, and the relative error of products.
    let mut way: Vec<(f64, bool, f64)> = Vec::new();
    for step in &group.steps {
        let taken: Vec<&Tensor> = step
            .operands
            .iter()
            .map(|l| match *l {
                Local::Operand(i) => &operands[i as usize],
                Local::Step { step, result } => &made[step as usize][result as usize],
            })
            .collect();
        let results = evaluate_op(&step.op, &taken, &step.results).expect("a step");
        let before = step.operands.iter().filter_map(|l| match *l {
            Local::Operand(_) => None,
            Local::Step { step, .. } => Some(way[step as usize]),
        });
        let (mut most, mut half, mut error) =
            before.fold((1.0f64, false, 2e-6), |m, w| (m.0.max(w.0), m.1 | w.1, f64::max(m.2, w.2)));
        most = results.iter().flat_map(|t| &t.data).fold(most, |m, x| m.max(x.abs()));
        half |= step.results.iter().any(|ty| ty.dtype == DType::Bf16);
        let product =
            matches!(step.op, Op::Conv2d(_) | Op::Conv2dGradInput { .. } | Op::Conv2dGradWeight { .. });
        if product && math == Math::Tf32 {
            let absolute: Vec<Tensor> = taken
                .iter()
                .map(|t| Tensor { ty: t.ty.clone(), data: t.data.iter().map(|x| x.abs()).collect() })
                .collect();
            let sums =
                evaluate_op(&step.op, &absolute.iter().collect::<Vec<_>>(), &step.results).expect("a step");
            most = sums.iter().flat_map(|t| &t.data).fold(most, |m, x| m.max(*x));
            error = 1e-3;
        }
        way.push((most, half, error));
        made.push(results);
    }
    let of = |l: &Local| match *l {
        Local::Operand(_) => 0.0,
        Local::Step { step, .. } => match way[step as usize] {
            (most, true, _) => most / 64.0,
            (most, false, error) => most * error,
        },
    };
    group.results.iter().zip(expected).map(|(l, e)| vec![of(l); e.len()]).collect()
}

/// What is wrong with `found`; empty if nothing. Not a number is a difference too.
pub fn difference(expected: &[Vec<f64>], found: &[Vec<f32>], bounds: &Bounds) -> String {
    for (r, (expected, found)) in expected.iter().zip(found).enumerate() {
        assert_eq!(expected.len(), found.len());
        #[expect(
            clippy::neg_cmp_op_on_partial_ord,
            reason = "a comparison with not a number must count as wrong"
        )]
        let wrong = |i: usize| !((expected[i] - f64::from(found[i])).abs() <= bounds[r][i]);
        let all: Vec<usize> = (0..expected.len()).filter(|&i| wrong(i)).collect();
        if let Some(&i) = all.first() {
            return format!(
                "result {r}: {} of {} wrong, first at {i}: expected {}, found {}, bound {}",
                all.len(),
                expected.len(),
                expected[i],
                found[i],
                bounds[r][i]
            );
        }
    }
    String::new()
}

/// What a case is, in few words.
pub fn describe(case: &Case) -> String {
    let operands: Vec<String> = case.operands.iter().map(|ty| ty.to_string()).collect();
    match &case.op {
        Op::Fused(group) => {
            let steps: Vec<&str> = group.steps.iter().map(|s| s.op.mnemonic()).collect();
            format!("{} of {}", steps.join("+"), operands.join(" "))
        }
        op => format!("{op:?} of {}", operands.join(" ")),
    }
}

/// Runs a case on devices of that target in every order of warps: results within bounds, equal bits in all orders.
pub fn check(case: &Case, seed: u64, target: &Target, orders: usize) -> Result<(), String> {
    let operands = case.draw(seed);
    let expected = case.reference(&operands);
    let bounds = match &case.op {
        Op::Fused(group) => group_bounds(group, &operands, &expected, target.math),
        _ => product_bounds(case, &operands, &expected, target.math),
    };
    let mut bits: Option<Vec<u32>> = None;
    for mut device in EmulatedDevice::orders().into_iter().take(orders) {
        device.target = target.clone();
        let how = || format!("{} in order {:?} with {:?}", describe(case), device.options.order, target);
        let found = case.run(&device, &operands, &[]).map_err(|e| format!("{}: {e}", how()))?;
        let wrong = difference(&expected, &found, &bounds);
        if !wrong.is_empty() {
            return Err(format!("{}: {wrong}", how()));
        }
        let now: Vec<u32> = found.iter().flatten().map(|x| x.to_bits()).collect();
        if bits.get_or_insert_with(|| now.clone()) != &now {
            return Err(format!("{}: other bits than in the first order", how()));
        }
    }
    Ok(())
}

/// [`check`] for many cases; all that is wrong at the end.
pub fn check_all<'a>(cases: impl IntoIterator<Item = (u64, &'a Case)>, target: &Target, orders: usize) {
    let mut count = 0;
    let wrong: Vec<String> = cases
        .into_iter()
        .inspect(|_| count += 1)
        .filter_map(|(seed, case)| check(case, seed, target, orders).err())
        .collect();
    assert!(count > 0, "no cases");
    assert!(wrong.is_empty(), "{} of {count} cases:\n{}", wrong.len(), wrong.join("\n"));
}
