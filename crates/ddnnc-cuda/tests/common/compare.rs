//! Cases against the reference evaluator, in every order of warps and blocks.

use super::EmulatedDevice;
use ddnnc_cases::Case;
use ddnnc_ir::reference::Tensor;
use ddnnc_ir::{DType, Op};

/// The largest difference allowed for an operator, relative to its largest result (at least 1).
pub fn operator_tolerance(op: &Op) -> f64 {
    match op {
        // Moves and masks.
        Op::Store { .. } | Op::Concat { .. } | Op::Slice { .. } | Op::Pad { .. } | Op::Broadcast { .. } => {
            0.0
        }
        Op::MaxPool(_) | Op::ConvertLayout { .. } | Op::Cast { .. } => 0.0,
        // f32 sums over up to thousands of products.
        Op::Conv2d(_) | Op::Conv2dGradInput { .. } | Op::Conv2dGradWeight { .. } | Op::MatMul { .. } => 2e-6,
        // A few roundings each.
        _ => 1e-6,
    }
}

/// For every result of a case, how far an element may be from what the reference says.
pub fn tolerances(case: &Case, operands: &[Tensor], expected: &[Vec<f64>]) -> Vec<Box<dyn Fn(f64) -> f64>> {
    if let Op::Fused(_) = case.op {
        let of = |tol: f64| -> Box<dyn Fn(f64) -> f64> { Box::new(move |_| tol) };
        return ddnnc_cases::group::tolerances(case, operands, 2e-6).into_iter().map(of).collect();
    }
    let of = |(expected, ty): (&Vec<f64>, ddnnc_ir::ValueType)| -> Box<dyn Fn(f64) -> f64> {
        let scale = expected.iter().fold(1.0f64, |m, x| m.max(x.abs()));
        let tol = operator_tolerance(&case.op) * scale;
        // Results are rounded to bf16 from sums that differ a little.
        let half = ty.dtype == DType::Bf16 && tol > 0.0;
        Box::new(move |e| if half { ddnnc_cases::bf16_ulp(e) } else { tol })
    };
    expected.iter().zip(case.results()).map(of).collect()
}

/// What is wrong with one run, if anything. Not a number is a difference too.
#[expect(clippy::neg_cmp_op_on_partial_ord, reason = "a comparison with not a number must count as wrong")]
pub fn difference(
    expected: &[Vec<f64>],
    found: &[Vec<f32>],
    tolerances: &[Box<dyn Fn(f64) -> f64>],
) -> Option<String> {
    for (r, (expected, found)) in expected.iter().zip(found).enumerate() {
        assert_eq!(expected.len(), found.len());
        let wrong = |(e, f): (&f64, &f32)| !((e - f64::from(*f)).abs() <= tolerances[r](*e));
        let count = expected.iter().zip(found).filter(|(e, f)| wrong((e, f))).count();
        if let Some(i) = expected.iter().zip(found).position(|(e, f)| wrong((e, f))) {
            return Some(format!(
                "result {r}: {count} wrong, first at {i}: expected {}, found {}, tolerance {}",
                expected[i],
                found[i],
                tolerances[r](expected[i])
            ));
        }
    }
    None
}

/// Runs each case in every order; panics with all that is wrong. The orders must agree to the bit.
pub fn check(cases: &[Case]) {
    let mut wrong = Vec::new();
    for (i, case) in cases.iter().enumerate() {
        let operands = case.draw(1000 + i as u64);
        let expected = case.reference(&operands);
        let tolerances = tolerances(case, &operands, &expected);
        let mut bits: Option<Vec<u32>> = None;
        for device in EmulatedDevice::orders() {
            let order = device.options.order;
            let found = match case.run(&device, &operands, &[]) {
                Ok(found) => found,
                Err(e) => {
                    wrong.push(format!("{case:?} {order:?}: {e}"));
                    break;
                }
            };
            if let Some(message) = difference(&expected, &found, &tolerances) {
                wrong.push(format!("{case:?} {order:?}: {message}"));
                break;
            }
            let now: Vec<u32> = found.iter().flatten().map(|x| x.to_bits()).collect();
            if bits.get_or_insert_with(|| now.clone()) != &now {
                wrong.push(format!("{case:?} {order:?}: other bits than in the first order"));
                break;
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {} cases:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}
