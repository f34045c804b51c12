//! Fused groups against the reference evaluator and against their own steps one after the other, at every level of the
//! processor, apart and in place, on one, two and three threads.

use ddnnc_cases::Case;
use ddnnc_cases::fixed_groups::{
    ADD, EPS, convolution_groups, gates, large, losses, overwritten, relations, residual, rows, updates,
    vector,
};
use ddnnc_cases::group::{Builder, step_by_step, tolerances, unfused};
use ddnnc_cases::random_group::random_group;
use ddnnc_cpu::CpuDevice;
use ddnnc_ir::{DType, GroupKind, Layout, Op, ValueType};
use ddnnc_passes::may_overwrite;
use proptest::prelude::*;

fn compare(case: &Case, how: &str, tol: &[f64], expected: &[Vec<f64>], found: &[Vec<f32>]) {
    for (r, (expected, found)) in expected.iter().zip(found).enumerate() {
        assert_eq!(expected.len(), found.len());
        let tol = tol[r];
        let wrong = |(e, f): (&f64, &f32)| {
            let difference = (e - f64::from(*f)).abs();
            difference > tol || difference.is_nan()
        };
        let count = expected.iter().zip(found).filter(|(e, f)| wrong((e, f))).count();
        let first = expected.iter().zip(found).position(|(e, f)| wrong((e, f)));
        let at = first.map(|i| (i, expected[i], found[i]));
        assert_eq!(
            count, 0,
            "{how}, result {r}, tolerance {tol}: first wrong (index, expected, found) {at:?}\n{case:#?}"
        );
    }
}

fn bits(results: &[Vec<f32>]) -> Vec<u32> {
    results.iter().flatten().map(|x| x.to_bits()).collect()
}

/// Devices of one, two and three threads at each level, with or without Winograd's algorithm.
fn devices(winograd: bool) -> Vec<Vec<CpuDevice>> {
    let by_threads: Vec<Vec<CpuDevice>> =
        [1, 2, 3].iter().map(|&n| CpuDevice::at_every_level(n, winograd).expect("threads")).collect();
    (0..by_threads[0].len()).map(|level| by_threads.iter().map(|d| d[level].clone()).collect()).collect()
}

/// Checks one group of sums tap by tap, to a few roundings of f32.
fn check(levels: &[Vec<CpuDevice>], case: &Case, seed: u64, same: bool) {
    check_within(levels, case, seed, Some(same), 2e-6);
}

/// Checks one group. Where `same` is given, its maps must have the same bits as when its steps run one by one, and sums
/// too where it is true.
fn check_within(levels: &[Vec<CpuDevice>], case: &Case, seed: u64, same: Option<bool>, relative: f64) {
    let operands = case.draw(seed);
    let expected = case.reference(&operands);
    let tol = tolerances(case, &operands, relative);
    for devices in levels {
        let how = format!("seed {seed}, {:?}", devices[0]);
        let one = case.run(&devices[0], &operands, &[]).expect("runs");
        compare(case, &how, &tol, &expected, &one);
        for device in &devices[1..] {
            let other = case.run(device, &operands, &[]).expect("runs");
            assert!(bits(&one) == bits(&other), "{how}: {device:?} gives other bits\n{case:#?}");
        }
        if let Some(same) = same {
            let steps = step_by_step(case, &devices[1], &operands).expect("runs step by step");
            for (r, ty) in
                case.results().iter().enumerate().filter(|r| same || r.1.layout == Layout::ChannelsLast)
            {
                let equal = bits(&one[r..=r]) == bits(&steps[r..=r]);
                assert!(equal, "{how}, result {r}: {ty} has other bits than step by step\n{case:#?}");
            }
        }
        // Each result on each operand that it may lie on, and as many as can be at once.
        let count = case.results().len();
        let mut all = vec![None; count];
        for r in 0..count {
            for over in may_overwrite(&case.op, r) {
                let mut places = vec![None; count];
                places[r] = Some(over);
                let found = case.run(&devices[2], &operands, &places).expect("runs in place");
                assert!(bits(&one) == bits(&found), "{how}: result {r} on operand {over}\n{case:#?}");
                if all[r].is_none() && !all.contains(&Some(over)) {
                    all[r] = Some(over);
                }
            }
        }
        let found = case.run(&devices[2], &operands, &all).expect("runs in place");
        assert!(bits(&one) == bits(&found), "{how}: in place {all:?}\n{case:#?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn random_elementwise_groups(seed in any::<u64>()) {
        let group = random_group(seed);
        // A chain takes sums of bf16 in f32 over a few rows first, which its steps do not.
        let halves = group.operands.iter().any(|ty| ty.dtype == DType::Bf16);
        check(&devices(true), &group, seed, !halves);
    }
}

#[test]
fn terms_that_cancel() {
    // Σ x · (dropout(x) − x − mean): what is kept and what is dropped cancel, the rounding of 1 / (1 − p) does not.
    let seed = 18_445_581_055_946_959_882;
    check(&devices(true), &random_group(seed), seed, true);
}

#[test]
fn convolutions_with_what_surrounds_them() {
    // Winograd's transforms take differences of neighbours, which costs some of the digits; and where it may be chosen, a
    // launch of several sub-nets may be computed in another way than each of them alone.
    let (levels, winograd) = (devices(false), devices(true));
    for dtype in [DType::F32, DType::Bf16] {
        for (seed, (name, case)) in (100..).zip(convolution_groups(dtype)) {
            println!("{name}, {dtype:?}");
            check(&levels, &case, seed, false);
            check_within(&winograd, &case, seed, None, 1e-4);
        }
    }
}

#[test]
fn ends_of_blocks() {
    for dtype in [DType::F32, DType::Bf16] {
        check(&devices(true), &residual(dtype), 21, true);
    }
}

#[test]
fn twenty_updates_at_once() {
    check(&devices(true), &updates(), 9, true);
}

#[test]
fn losses_one_after_the_other() {
    check(&devices(true), &losses(), 4, false);
    check(&devices(true), &relations(12), 4, false);
}

#[test]
fn sequences_give_what_their_steps_give() {
    let levels = devices(true);
    check(&levels, &gates(), 3, true);
    let device = &levels[0][1];
    for seed in 0..60 {
        let case = unfused(&random_group(seed));
        let operands = case.draw(seed);
        let steps = step_by_step(&case, device, &operands).expect("runs step by step");
        let found = case.run(device, &operands, &[]).expect("runs");
        for (r, ty) in case.results().iter().enumerate() {
            let equal = bits(&found[r..=r]) == bits(&steps[r..=r]);
            assert!(equal, "seed {seed}, result {r}: {ty} has other bits than step by step\n{case:#?}");
        }
    }
}

#[test]
fn an_overwritten_operand_is_read_whole() {
    check(&devices(true), &overwritten(), 5, true);
}

#[test]
fn products_of_a_stored_sum_with_itself() {
    // The product reads the sum, not what lay in its place before.
    for dtype in [DType::F32, DType::Bf16] {
        for ty in [ValueType::f32([40, 64]), rows([3, 64, 5, 5])] {
            let mut b = Builder::new(GroupKind::Pointwise);
            let (x, mean, var) =
                (b.operand(ty.with_dtype(dtype)), b.operand(vector(64)), b.operand(vector(64)));
            let sum = b.step(ADD, &[x, x]);
            let sums = b.steps(Op::NormalizeGradReduce { eps: EPS }, &[sum, mean, var, sum]);
            check(&devices(true), &b.finish(&[sums[0], sums[1], sum]), 7, dtype == DType::F32);
        }
    }
}

#[test]
fn large_results() {
    for dtype in [DType::F32, DType::Bf16] {
        check(&devices(true), &large(dtype), 6, true);
    }
}

#[test]
fn what_cannot_be_fused_is_refused() {
    let device = CpuDevice::new(Some(1)).expect("a thread");
    let refused = |case: &Case, part: &str| {
        let operands = case.draw(1);
        let error = case.run(&device, &operands, &[]).expect_err("is refused").to_string();
        assert!(error.contains(part), "{error}");
    };
    let mut b = Builder::new(GroupKind::Pointwise);
    let x = b.operand(rows([2, 3, 4, 4]));
    let stats = b.steps(Op::ChannelStats, &[x]);
    let (gain, bias) = (b.operand(vector(3)), b.operand(vector(3)));
    let y = b.step(Op::Normalize { eps: EPS, batch_stats: true }, &[x, stats[0], stats[1], gain, bias]);
    refused(&b.finish(&[y]), "normalize of a sum");
    let mut b = Builder::new(GroupKind::Pointwise);
    let (x, bias) = (b.operand(ValueType::f32([2, 3, 4, 4])), b.operand(vector(3)));
    let y = b.step(Op::BiasAdd, &[x, bias]);
    refused(&b.finish(&[y]), "channels-last");
}
