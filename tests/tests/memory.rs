//! Nothing reads memory that the plan has given away: steps on the CPU device in which every content is overwritten with
//! NaN after its last reader end with the same bits as undisturbed ones.

use ddnnc_cpu::{CpuDevice, CpuExecutable};
use ddnnc_ir::Mode;
use ddnnc_passes::{Executable, Goal, Program};
use ddnnc_tests::harness::{model, program, random_batch, random_weights, spec};

/// What a program leaves behind after two steps, as bits.
fn after_two_steps(
    program: &Program,
    load: impl Fn() -> CpuExecutable,
    step: impl Fn(&mut CpuExecutable),
    feed: impl Fn(&mut CpuExecutable),
) -> Vec<(String, Vec<u32>)> {
    let mut run = load();
    for _ in 0..2 {
        feed(&mut run);
        step(&mut run);
    }
    let named = program.outputs.iter().map(|(n, &b)| (n, b));
    let kept = program.persistent.iter().map(|(n, p)| (n, p.buffer));
    named
        .chain(kept)
        .map(|(name, b)| {
            let mut data = vec![0.0; program.buffer(b).ty.elements()];
            run.read_f32(name, &mut data).expect("what a program leaves can be read");
            (name.clone(), data.into_iter().map(f32::to_bits).collect())
        })
        .collect()
}

fn check(name: &str, goal: Goal) {
    let mode = if goal == Goal::Evaluate { Mode::Eval } else { Mode::Train };
    let model = model(&spec(name), mode, 3);
    let program = program(&model, goal);
    let weights = random_weights(&model, 3);
    let batch = random_batch(&model, 3);
    let device = CpuDevice::new(Some(2)).expect("threads start");
    let load = || {
        let mut run = device.load_cpu(&program).expect("the program loads");
        for name in program.persistent.keys() {
            if let Some(data) = weights.get(name) {
                run.write_f32(name, data).expect("a weight of the right length");
            }
        }
        run
    };
    let feed = |run: &mut CpuExecutable| {
        for (name, &b) in &program.inputs {
            let ty = &program.buffer(b).ty;
            let written = if *name == model.input.0 {
                run.write_f32(name, &batch.0)
            } else if *name == model.target.0 {
                run.write_i64(name, &batch.1)
            } else if ty.dtype == ddnnc_ir::DType::I64 {
                run.write_i64(name, &vec![1; ty.elements()])
            } else {
                run.write_f32(name, &vec![0.01; ty.elements()])
            };
            written.expect("an input of the right length");
        }
    };
    let plain = after_two_steps(&program, load, |run| run.run().expect("a step runs"), feed);
    let poisoned = after_two_steps(&program, load, |run| run.run_poisoned().expect("a step runs"), feed);
    for ((name, a), (_, b)) in plain.iter().zip(&poisoned) {
        let off = a.iter().zip(b).filter(|(a, b)| a != b).count();
        assert_eq!(off, 0, "`{name}` differs in {off} of {} elements", a.len());
    }
    assert!(plain.iter().all(|(_, bits)| bits.iter().all(|&b| f32::from_bits(b).is_finite())));
}

#[test]
fn training_reads_no_freed_memory() {
    for name in ["quickstart", "cifar10_resnet20_ekd", "byot_resnet18", "kd_two_networks"] {
        check(name, Goal::Train);
    }
}

#[test]
fn gradients_and_evaluation_read_no_freed_memory() {
    for goal in [Goal::Gradients, Goal::Statistics, Goal::Evaluate] {
        check("cifar10_resnet20_ekd", goal);
    }
}
