//! Parameter updates, one by one and many at once, against the reference evaluator on the emulator.

mod common;

use common::EmulatedDevice;
use common::compare::check;
use ddnnc_cases::fixed_groups::updates;
use ddnnc_cases::{Case, cases};
use ddnnc_cuda::emit::emit_launch;
use ddnnc_emu::Order;
use ddnnc_ir::{Op, is_update};

#[test]
fn single_updates_agree_with_the_reference() {
    let mut all = cases();
    all.retain(|case| is_update(&case.op));
    assert!(all.len() > 10);
    check(&all);
}

#[test]
fn many_updates_run_in_one_kernel_and_agree_with_the_reference() {
    let case = updates();
    let program = case.program(&[]);
    let launch = program.launches.iter().find(|l| matches!(l.op, Op::Fused(_))).expect("the group");
    let device = EmulatedDevice::new(Order::Forward);
    let code = emit_launch(&program, launch, &device.target).expect("updates have a kernel");
    assert_eq!(code.kernels.len(), 1);
    check(&[case]);
}

/// In place: every result on the operand that it updates.
#[test]
fn updates_in_place_agree_with_the_reference() {
    let case: Case = updates();
    let group = ddnnc_cases::group::group_of(&case);
    let over: Vec<Option<usize>> = (0..group.results.len()).map(|r| group.updated_operand(r)).collect();
    assert!(over.iter().all(Option::is_some));
    let operands = case.draw(7);
    let expected = case.reference(&operands);
    let device = EmulatedDevice::new(Order::Random(4));
    let found = case.run(&device, &operands, &over).expect("the updates run");
    for (expected, found) in expected.iter().zip(&found) {
        let wrong = |(e, f): (&f64, &f32)| {
            let near = (e - f64::from(*f)).abs() <= 1e-6 * e.abs().max(1.0);
            !near
        };
        assert_eq!(expected.iter().zip(found).filter(|(e, f)| wrong((e, f))).count(), 0);
    }
}
