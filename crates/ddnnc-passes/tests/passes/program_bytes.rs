use crate::build::{ADAMW, SGD, model};
use ddnnc_ir::{Conv, Op, Optimizer};
use ddnnc_passes::{BufferId, Goal, Place, Program, compile};
use proptest::prelude::*;

fn program(optimizer: Optimizer) -> Program {
    compile(&model(optimizer), Goal::Train, &mut |_, _| {}).unwrap().program
}

fn unfused_program() -> Program {
    crate::build::unfused(&model(SGD), Goal::Train).program
}

#[test]
fn bytes_give_the_program_back() {
    for optimizer in [SGD, ADAMW] {
        let program = program(optimizer);
        let bytes = program.to_bytes().unwrap();
        let back = Program::from_bytes(&bytes).unwrap();
        assert_eq!(back, program);
        assert_eq!(back.to_bytes().unwrap(), bytes);
    }
}

#[test]
fn numbers_survive_exactly() {
    let mut program = unfused_program();
    let odd = f64::from_bits(0x3fd5_5555_5555_5557);
    let mut changed = 0;
    for launch in &mut program.launches {
        if let Op::Scale { factor } = &mut launch.op {
            *factor = odd;
            changed += 1;
        }
    }
    assert!(changed > 0);
    let back = Program::from_bytes(&program.to_bytes().unwrap()).unwrap();
    assert_eq!(back, program);
}

#[test]
fn what_is_not_sound_is_refused() {
    let good = unfused_program();
    let broken = |change: &dyn Fn(&mut Program)| {
        let mut program = good.clone();
        change(&mut program);
        Program::from_bytes(&program.to_bytes().unwrap()).unwrap_err().to_string()
    };
    let conv = good.launches.iter().position(|l| matches!(l.op, Op::Conv2d(_))).unwrap();
    for (change, expected) in [
        (&|p: &mut Program| p.arena_bytes /= 2, "outside its region"),
        (&|p: &mut Program| p.launches[0].results[0] = BufferId(1_000_000), "there is no b1000000"),
        (&|p: &mut Program| p.launches.truncate(3), "holds no whole write"),
        (
            &|p: &mut Program| {
                for buffer in &mut p.buffers {
                    if let Place::Arena { offset } = &mut buffer.place {
                        *offset += 4;
                    }
                }
                p.arena_bytes += 4;
            },
            "not aligned",
        ),
        (&|p: &mut Program| p.inputs[0] = p.persistent[0].buffer, "does not lie in the arena"),
        (&|p: &mut Program| p.persistent[0].buffer = p.inputs[0], "does not lie in the persistent region"),
        (&|p: &mut Program| p.arena_bytes = usize::MAX, "too large"),
    ] as [(&dyn Fn(&mut Program), &str); 7]
    {
        let message = broken(change);
        assert!(message.contains(expected), "{message}");
    }
    let message = broken(&|p| p.launches[conv].operands.truncate(1));
    assert!(message.contains("takes 2 operands"), "{message}");
    let message = broken(&|p| p.launches[conv].op = Op::StopGradient);
    assert!(message.contains("never launched"), "{message}");
    let message = broken(&|p| p.launches[conv].op = Op::Slice { axis: usize::MAX, start: 0, len: 1 });
    assert!(message.contains("slice: takes"), "{message}");
    let huge = Conv { stride: [1, 1], pad: [1 << 62, 0], dilation: [1, 1], groups: 1 };
    let message = broken(&|p| p.launches[conv].op = Op::Conv2d(huge));
    assert!(message.contains("does not fit"), "{message}");
    let message = broken(&|p| p.launches[conv].op = Op::Output { name: "x".into() });
    assert!(message.contains("never launched"), "{message}");
}

#[test]
fn other_files_are_refused() {
    for (bytes, expected) in [
        (&b""[..], "EOF"),
        (b"{}", "missing field"),
        (br#"{"format":"other","version":1}"#, "the format is `other`"),
        (br#"{"format":"ddnnc-program","version":2}"#, "version 2"),
        (br#"{"format":"ddnnc-program","version":1,"program":3}"#, "invalid type"),
    ] {
        let message = Program::from_bytes(bytes).unwrap_err().to_string();
        assert!(message.contains(expected), "{message}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn changed_bytes_never_panic(edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)) {
        use std::sync::OnceLock;
        static BYTES: OnceLock<Vec<u8>> = OnceLock::new();
        let mut bytes = BYTES.get_or_init(|| program(SGD).to_bytes().unwrap()).clone();
        for (at, byte) in edits {
            let i = at.index(bytes.len());
            // Digits for digits keep the JSON whole, so that the checks behind it are reached.
            bytes[i] = if bytes[i].is_ascii_digit() { b'0' + byte % 10 } else { byte };
        }
        let _ = Program::from_bytes(&bytes);
    }
}
