//! Every operator against the reference evaluator, at every level of the processor that the machine has, apart and in
//! place, on one, two and three threads.

use ddnnc_cases::{Case, LAUNCHED, cases, number};
use ddnnc_cpu::CpuDevice;
use ddnnc_ir::{Conv, DType, Layout, Op, Pool, ReduceKind, UnaryKind, ValueType};
use ddnnc_passes::{Device, DeviceError, may_overwrite};

/// The largest difference allowed, relative to the largest result (at least 1).
fn tolerance(op: &Op, sums: f64) -> f64 {
    match op {
        // Moves and masks.
        Op::Store { .. } | Op::Concat { .. } | Op::Slice { .. } | Op::Pad { .. } | Op::Broadcast { .. } => {
            0.0
        }
        Op::MaxPool(_) | Op::ConvertLayout { .. } | Op::Cast { .. } => 0.0,
        Op::MatMul { .. } => 2e-6,
        Op::Conv2d(_) | Op::Conv2dGradInput { .. } | Op::Conv2dGradWeight { .. } => sums,
        // A few roundings each.
        _ => 1e-6,
    }
}

fn compare(case: &Case, seed: u64, sums: f64, how: &str, expected: &[Vec<f64>], found: &[Vec<f32>]) {
    for (r, (expected, found)) in expected.iter().zip(found).enumerate() {
        assert_eq!(expected.len(), found.len());
        let scale = expected.iter().fold(1.0f64, |m, x| m.max(x.abs()));
        let tol = tolerance(&case.op, sums) * scale;
        // Results are rounded to bf16 from sums that differ a little.
        let half = case.results()[r].dtype == DType::Bf16 && tol > 0.0;
        let tol = move |e: &f64| if half { ddnnc_cases::bf16_ulp(*e) } else { tol };
        // Not a number is a difference too.
        #[expect(
            clippy::neg_cmp_op_on_partial_ord,
            reason = "a comparison with not a number must count as wrong"
        )]
        let wrong = |(e, f): (&f64, &f32)| !((e - f64::from(*f)).abs() <= tol(e));
        let count = expected.iter().zip(found).filter(|(e, f)| wrong((e, f))).count();
        let first = expected.iter().zip(found).position(|(e, f)| wrong((e, f)));
        let at = first.map(|i| (i, expected[i], found[i]));
        assert_eq!(
            count, 0,
            "{case:?} seed {seed} {how}, result {r}: first wrong (index, expected, found) {at:?}"
        );
    }
}

/// Compares at one level; the devices have one, two and three threads. `sums` is what sums of products may differ by.
fn at_one_level(devices: &[CpuDevice], sums: f64) {
    let mut seen = [false; LAUNCHED];
    for (i, case) in cases().iter().enumerate() {
        let seed = 1000 + i as u64;
        if let Some(n) = number(&case.op) {
            seen[n] = true;
        }
        let operands = case.draw(seed);
        let expected = case.reference(&operands);
        let one = case.run(&devices[0], &operands, &[]).expect("runs");
        compare(case, seed, sums, &format!("apart, {:?}", devices[0]), &expected, &one);
        for device in &devices[1..] {
            let other = case.run(device, &operands, &[]).expect("runs");
            let bits = |r: &[Vec<f32>]| -> Vec<u32> { r.iter().flatten().map(|x| x.to_bits()).collect() };
            assert!(bits(&one) == bits(&other), "{case:?} seed {seed}: {device:?} gives other bits");
        }
        let results = case.results();
        for r in 0..results.len() {
            for over in may_overwrite(&case.op, r) {
                let mut places = vec![None; results.len()];
                places[r] = Some(over);
                let found = case.run(&devices[1], &operands, &places).expect("runs in place");
                let how = format!("result {r} on operand {over}, {:?}", devices[1]);
                compare(case, seed, sums, &how, &expected, &found);
            }
        }
    }
    let missing: Vec<usize> = (0..LAUNCHED).filter(|&n| !seen[n]).collect();
    assert!(missing.is_empty(), "operators without a case: {missing:?}");
}

#[test]
fn every_operator_agrees_with_the_reference() {
    // f32 sums over up to thousands of products; Winograd's transforms cost some of the digits.
    for (winograd, sums) in [(false, 2e-6), (true, 1e-4)] {
        let at = |&n: &usize| CpuDevice::at_every_level(n, winograd).expect("threads");
        let by_threads: Vec<Vec<CpuDevice>> = [1, 2, 3].iter().map(at).collect();
        for level in 0..by_threads[0].len() {
            let devices: Vec<CpuDevice> = by_threads.iter().map(|devices| devices[level].clone()).collect();
            at_one_level(&devices, sums);
        }
    }
}

/// Results that may be written past the caches, with lines that no position of the other operand reaches.
#[test]
fn large_results_of_convolutions() {
    let rows = |dims| ValueType::f32(dims).with_layout(Layout::ChannelsLast);
    for stride in [1, 2] {
        let conv = Conv { stride: [stride; 2], pad: [0; 2], dilation: [1; 2], groups: 1 };
        let side = 32 / stride;
        let forward = Case {
            op: Op::Conv2d(conv),
            operands: vec![rows([8 * stride * stride, 4, 32, 32]), ValueType::f32([64, 4, 1, 1])],
        };
        let input = Case {
            op: Op::Conv2dGradInput { conv, input: [32; 2] },
            operands: vec![rows([8, 4, side, side]), ValueType::f32([4, 64, 1, 1])],
        };
        for case in [forward, input] {
            assert!(case.results()[0].bytes() >= 2 << 20);
            let operands = case.draw(7);
            let expected = case.reference(&operands);
            for device in CpuDevice::at_every_level(2, false).expect("threads") {
                let found = case.run(&device, &operands, &[]).expect("runs");
                compare(&case, 7, 2e-6, &format!("{device:?}"), &expected, &found);
            }
        }
    }
}

/// Products of bf16 that are large enough for pairs (2²² multiply-adds), in every way that linear layers have them.
#[test]
fn large_products_of_bf16() {
    let half = |dims| ValueType { dtype: DType::Bf16, ..ValueType::f32(dims) };
    for (transpose_a, transpose_b) in [(false, false), (false, true), (true, false), (true, true)] {
        let dims = |rows, columns, transpose| if transpose { [columns, rows] } else { [rows, columns] };
        let case = Case {
            op: Op::MatMul { transpose_a, transpose_b },
            operands: vec![half(dims(99, 513, transpose_a)), half(dims(513, 91, transpose_b))],
        };
        let operands = case.draw(9);
        let expected = case.reference(&operands);
        for device in CpuDevice::at_every_level(2, true).expect("threads") {
            let found = case.run(&device, &operands, &[]).expect("runs");
            compare(&case, 9, 2e-6, &format!("{device:?}"), &expected, &found);
        }
    }
}

/// Sums over nothing are zero, whatever the memory of the result held before.
#[test]
fn sums_over_nothing_are_zero() {
    let geometry = |stride: usize| Conv { stride: [stride; 2], pad: [1, 1], dilation: [1, 1], groups: 1 };
    let mut cases = vec![
        ddnnc_cases::case(Op::MatMul { transpose_a: false, transpose_b: false }, &[&[3, 0], &[0, 5]]),
        ddnnc_cases::case(Op::Conv2d(geometry(1)), &[&[2, 0, 4, 4], &[3, 0, 3, 3]]),
        ddnnc_cases::case(Op::Reduce { kind: ReduceKind::Sum, axes: vec![1] }, &[&[4, 0]]),
        ddnnc_cases::case(
            Op::Conv2dGradWeight { conv: geometry(1), kernel: [3, 3] },
            &[&[0, 2, 4, 4], &[0, 3, 4, 4]],
        ),
    ];
    for (stride, side) in [(1, 4), (2, 2)] {
        let op = Op::Conv2dGradInput { conv: geometry(stride), input: [4, 4] };
        cases.push(ddnnc_cases::case(op, &[&[2, 0, side, side], &[0, 3, 3, 3]]));
    }
    for case in cases.iter_mut().filter(|c| !matches!(c.op, Op::MatMul { .. } | Op::Reduce { .. })) {
        let weight = !matches!(case.op, Op::Conv2dGradWeight { .. });
        case.operands[0].layout = Layout::ChannelsLast;
        case.operands[1].layout = if weight { Layout::RowMajor } else { Layout::ChannelsLast };
    }
    for device in CpuDevice::at_every_level(2, true).expect("threads") {
        for case in &cases {
            let operands = case.draw(5);
            assert!(case.reference(&operands)[0].iter().all(|&x| x == 0.0));
            let mut program = case.program(&[]);
            // What the result held must not stay: it lies where an input does that nobody reads.
            let main = program.launches.iter().find(|l| l.op == case.op).expect("the launch");
            let result = main.results[0];
            let ty = ValueType::f32(program.buffer(result).ty.shape.clone());
            let place = program.buffer(result).place;
            let old = ddnnc_cases::add(&mut program, &ty, Some(place));
            program.inputs.insert("old".to_owned(), old);
            let mut executable = device.load(&program).expect("loads");
            let count = program.buffer(result).ty.elements();
            assert!(count > 0);
            executable.write_f32("old", &vec![7.0; count]).expect("an input");
            executable.run().expect("runs");
            let mut found = vec![7.0; count];
            executable.read_f32("y0", &mut found).expect("an output");
            assert!(found.iter().all(|&x| x == 0.0), "{case:?} on {device:?}");
        }
    }
}

#[test]
fn relations_of_nearly_equal_embeddings() {
    for device in CpuDevice::at_every_level(2, true).expect("threads") {
        for (case, operands) in ddnnc_cases::crowded_relations() {
            let expected = case.reference(&operands);
            let found = case.run(&device, &operands, &[]).expect("runs");
            compare(&case, 0, 0.0, &format!("{device:?}"), &expected, &found);
        }
    }
}

#[test]
fn both_operands_may_be_the_result() {
    let device = CpuDevice::new(Some(2)).expect("threads");
    let case = ddnnc_cases::case(Op::Binary { kind: ddnnc_ir::BinaryKind::Mul }, &[&[100], &[100]]);
    let mut program = case.program(&[Some(0)]);
    program.launches[0].operands[1] = program.launches[0].operands[0];
    let mut executable = device.load_cpu(&program).expect("loads");
    use ddnnc_passes::Executable;
    let x: Vec<f32> = (0..100).map(|i| i as f32).collect();
    executable.write_f32("x0", &x).expect("an input");
    executable.run().expect("runs");
    let mut y = vec![0.0; 100];
    executable.read_f32("y0", &mut y).expect("an output");
    assert!(y.iter().zip(&x).all(|(y, x)| *y == x * x));
}

#[test]
fn a_label_out_of_range_is_an_error() {
    let device = CpuDevice::new(Some(2)).expect("threads");
    for op in [Op::CrossEntropy { smoothing: 0.0 }, Op::CrossEntropyGrad { smoothing: 0.1 }] {
        let mut operands = vec![ValueType::f32([4, 10]), ValueType::i64([4])];
        if matches!(op, Op::CrossEntropyGrad { .. }) {
            operands.push(ValueType::scalar());
        }
        let case = Case { op, operands };
        for label in [-1.0, 10.0, 1e18] {
            let mut operands = case.draw(3);
            operands[1].data[2] = label;
            match case.run(&device, &operands, &[]) {
                Err(DeviceError::Failed(message)) => {
                    assert!(message.contains(&format!("label {}", label as i64)), "{message}");
                }
                other => panic!("{label}: {other:?}"),
            }
        }
    }
}

#[test]
fn not_a_number_stays_so() {
    let device = CpuDevice::new(Some(1)).expect("threads");
    for kind in UnaryKind::ALL {
        let case = ddnnc_cases::case(Op::Unary { kind }, &[&[70]]);
        let mut operands = case.draw(1);
        operands[0].data[69] = f64::NAN;
        let found = case.run(&device, &operands, &[]).expect("runs");
        let count = found[0].iter().filter(|x| x.is_nan()).count();
        assert!(count == 1 && found[0][69].is_nan(), "{kind:?}: {count}");
    }
    let pool = Pool { kernel: [2, 2], stride: [2, 2], pad: [0, 0] };
    let mut case = ddnnc_cases::case(Op::MaxPool(pool), &[&[1, 1, 4, 4]]);
    case.operands[0].layout = Layout::ChannelsLast;
    for at in [0, 1, 4, 5] {
        let mut operands = case.draw(2);
        operands[0].data[at] = f64::NAN;
        let found = case.run(&device, &operands, &[]).expect("runs");
        assert!(found[0][0].is_nan() && found[0][1..].iter().all(|x| !x.is_nan()), "{at}");
    }
}

/// Of equal elements, and of several that are not numbers, the first of a window is the largest.
#[test]
fn the_first_of_the_largest_is_pooled() {
    let pool = Pool { kernel: [3, 3], stride: [2, 2], pad: [1, 1] };
    for (seed, dtype) in [(3, DType::F32), (4, DType::Bf16)] {
        let mut case = ddnnc_cases::case(Op::MaxPoolGrad(pool), &[&[2, 21, 6, 7], &[2, 21, 3, 4]]);
        for ty in &mut case.operands {
            (ty.dtype, ty.layout) = (dtype, Layout::ChannelsLast);
        }
        let mut operands = case.draw(seed);
        for (i, x) in operands[0].data.iter_mut().enumerate() {
            *x = if i % 29 == 0 { f64::NAN } else { x.signum() };
        }
        let expected = case.reference(&operands);
        for device in CpuDevice::at_every_level(1, true).expect("threads") {
            let found = case.run(&device, &operands, &[]).expect("runs");
            compare(&case, seed, 0.0, &format!("{device:?}"), &expected, &found);
        }
    }
}

#[test]
fn bad_calls_are_errors() {
    use ddnnc_passes::Executable;
    assert!(CpuDevice::new(Some(0)).is_err());
    let device = CpuDevice::new(Some(1)).expect("a thread");
    let mut program = ddnnc_cases::case(Op::Scale { factor: 2.0 }, &[&[3]]).program(&[]);
    let mut executable = device.load_cpu(&program).expect("loads");
    assert!(matches!(executable.write_f32("no", &[0.0]), Err(DeviceError::UnknownName { .. })));
    assert!(matches!(executable.write_f32("x0", &[0.0]), Err(DeviceError::Mismatch { .. })));
    assert!(matches!(executable.write_i64("x0", &[0, 0, 0]), Err(DeviceError::Mismatch { .. })));
    assert!(matches!(executable.read_f32("y0", &mut [0.0]), Err(DeviceError::Mismatch { .. })));
    program.arena_bytes = 1 << 62;
    assert!(matches!(device.load_cpu(&program), Err(DeviceError::OutOfMemory { .. })));
}
