use crate::build::{Builder, SGD, model};
use ddnnc_ir::ValueType;
use ddnnc_passes::{Device, DeviceError, Goal, Program, ReferenceDevice, Tables, compile, plan_memory};

fn doubling() -> Program {
    let mut b = Builder::new();
    let x = b.input("x", ValueType::f32([3]));
    let label = b.input("label", ValueType::i64([2]));
    b.output("same", label);
    let w = b.parameter("w", &[3]);
    let y = b.scale(2.0, x);
    let y = b.add(y, w);
    b.output("y", y);
    let order = b.graph.topological().unwrap();
    plan_memory(&b.graph, &order, Tables::default()).unwrap()
}

#[test]
fn tensors_go_in_and_out_by_name() {
    let device: Box<dyn Device> = Box::new(ReferenceDevice);
    assert_eq!(device.name(), "reference");
    let mut program = device.load(&doubling()).unwrap();
    let mut y = [0.0; 3];
    // Persistent buffers begin as zeros.
    program.write_f32("x", &[1.0, 2.0, 3.0]).unwrap();
    program.run().unwrap();
    program.read_f32("y", &mut y).unwrap();
    assert_eq!(y, [2.0, 4.0, 6.0]);
    program.write_f32("w", &[1.0, 0.0, 0.5]).unwrap();
    program.write_f32("x", &[1.0, 2.0, 3.0]).unwrap();
    program.run().unwrap();
    program.read_f32("y", &mut y).unwrap();
    assert_eq!(y, [3.0, 4.0, 6.5]);
    program.read_f32("w", &mut y).unwrap();
    assert_eq!(y, [1.0, 0.0, 0.5]);
}

#[test]
fn wrong_names_lengths_and_types_are_errors() {
    let mut program = ReferenceDevice.load(&doubling()).unwrap();
    assert_eq!(program.write_f32("z", &[]), Err(DeviceError::UnknownName { name: "z".into() }));
    assert_eq!(program.write_f32("y", &[0.0; 3]), Err(DeviceError::UnknownName { name: "y".into() }));
    assert!(matches!(program.write_f32("x", &[0.0; 2]), Err(DeviceError::Mismatch { .. })));
    assert!(matches!(program.write_f32("label", &[0.0; 2]), Err(DeviceError::Mismatch { .. })));
    assert!(matches!(program.write_i64("x", &[0; 3]), Err(DeviceError::Mismatch { .. })));
    assert!(matches!(program.read_f32("y", &mut [0.0; 2]), Err(DeviceError::Mismatch { .. })));
    assert!(matches!(program.read_f32("same", &mut [0.0; 2]), Err(DeviceError::Mismatch { .. })));
}

#[test]
fn a_label_out_of_range_is_an_error() {
    let program = compile(&model(SGD), Goal::Evaluate, &mut |_, _| {}).unwrap().program;
    let mut device = ReferenceDevice.load(&program).unwrap();
    device.write_i64("label", &[0, 1, 2, 3]).unwrap();
    assert!(matches!(device.run(), Err(DeviceError::Failed(_))));
}

#[test]
fn a_broken_plan_does_not_load() {
    let mut program = doubling();
    let y = program.outputs["y"];
    program.buffers[y.index()].place = ddnnc_passes::Place::Arena { offset: 1 << 20 };
    assert!(matches!(ReferenceDevice.load(&program), Err(DeviceError::Failed(_))));
}
