//! Faults planted in the order of streams: the emulator drops the waits of one stream, and the step's results show it.
//!
//! The driver reads its settings once in a process, so that each planted fault is a process of its own: this program
//! again, with one test.

use ddnnc_cases::{Case, case};
use ddnnc_cuda::{CudaDevice, CudaOptions};
use ddnnc_ir::Op;
use ddnnc_passes::{Device, Executable};
use std::process::Command;

/// Streams of an executable, by the order in which it makes them.
const COMPUTE: &str = "0";
const INPUTS: &str = "1";

fn halve() -> Case {
    case(Op::Scale { factor: 0.5 }, &[&[64]])
}

fn load() -> Box<dyn Executable> {
    ddnnc_emu::install().expect("the emulator's library");
    let device = CudaDevice::open(CudaOptions { cache: None, ..CudaOptions::default() }).expect("a device");
    device.load(&halve().program(&[])).expect("a step")
}

fn write(step: &mut dyn Executable, x: f32) {
    step.write_f32("x0", &[x; 64]).expect("an input");
}

fn read(step: &dyn Executable) -> f32 {
    let mut y = [f32::NAN; 64];
    step.read_f32("y0", &mut y).expect("an output");
    assert!(y.iter().all(|v| v.to_bits() == y[0].to_bits()), "{y:?}");
    y[0]
}

#[test]
fn a_step_sees_its_own_input() {
    let mut step = load();
    for x in [2.0, 4.0, 8.0] {
        write(&mut *step, x);
        step.run().expect("a step");
        assert_eq!(read(&*step), x / 2.0, "the step computed with another input");
    }
}

#[test]
fn an_input_waits_for_the_step_before() {
    let mut step = load();
    write(&mut *step, 2.0);
    step.run().expect("a step");
    // Written twice, so that the first copy is done while the step may still have to take its own input.
    write(&mut *step, 4.0);
    write(&mut *step, 8.0);
    assert_eq!(read(&*step), 1.0, "the step computed with another input");
    step.run().expect("a step");
    assert_eq!(read(&*step), 4.0, "the step computed with another input");
}

/// Runs one of the tests above without the waits of a stream; it must fail by what it computes.
fn fails_without_waits_of(stream: &str, test: &str) {
    let program = std::env::current_exe().expect("this program");
    let run = |skip: &str| {
        let mut command = Command::new(&program);
        command.args(["--exact", test, "--nocapture"]).env("DDNNC_EMU_SKIP_WAITS", skip);
        let output = command.output().expect("it starts");
        let text =
            [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
        assert!(text.contains("running 1 test"), "{text}");
        (output.status.success(), text)
    };
    let (well, text) = run("");
    assert!(well, "{text}");
    let (well, text) = run(stream);
    assert!(!well && text.contains("the step computed with another input"), "{text}");
}

#[test]
fn a_step_that_does_not_wait_for_its_input_is_seen() {
    fails_without_waits_of(COMPUTE, "a_step_sees_its_own_input");
}

#[test]
fn an_input_that_does_not_wait_for_the_step_before_is_seen() {
    fails_without_waits_of(INPUTS, "an_input_waits_for_the_step_before");
}
