//! Prints the speed of convolutions that users run first, forward and both gradients, in GFLOP/s.
//!
//! `cargo run --release -p ddnnc-cpu --example conv_speed [THREADS]`

use ddnnc_cpu::CpuDevice;
use ddnnc_ir::{Conv, Op, ValueType, infer};
use ddnnc_passes::{ALIGNMENT, Buffer, BufferId, Device, DeviceError, Launch, Place, Program};
use std::time::Instant;

fn program(op: Op, operands: &[ValueType], result: ValueType) -> Program {
    let mut program = Program {
        name: "one".to_owned(),
        buffers: Vec::new(),
        launches: Vec::new(),
        inputs: Default::default(),
        outputs: Default::default(),
        persistent: Default::default(),
        arena_bytes: 0,
        persistent_bytes: 0,
    };
    for ty in operands.iter().chain([&result]) {
        let place = Place::Arena { offset: program.arena_bytes };
        program.arena_bytes += ty.bytes().next_multiple_of(ALIGNMENT);
        program.buffers.push(Buffer { ty: ty.clone(), place });
    }
    let ids: Vec<BufferId> = (0..operands.len() as u32).map(BufferId).collect();
    let out = BufferId(operands.len() as u32);
    for &id in &ids {
        program.inputs.insert(format!("x{}", id.0), id);
    }
    program.outputs.insert("y".to_owned(), out);
    program.launches.push(Launch { op, operands: ids, results: vec![out], path: String::new() });
    program
}

/// Least seconds of a step.
fn time(device: &CpuDevice, op: Op, operands: &[ValueType], result: ValueType) -> Result<f64, DeviceError> {
    let mut executable = device.load(&program(op, operands, result))?;
    for (i, ty) in operands.iter().enumerate() {
        executable.write_f32(&format!("x{i}"), &vec![0.5; ty.elements()])?;
    }
    executable.run()?;
    let mut least = f64::INFINITY;
    for _ in 0..30 {
        let start = Instant::now();
        executable.run()?;
        least = least.min(start.elapsed().as_secs_f64());
    }
    Ok(least)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let threads = std::env::args().nth(1).map(|n| n.parse()).transpose()?;
    let device = CpuDevice::new(threads)?;
    println!("{device:?}");
    println!("{:>28} {:>9} {:>9} {:>9}", "x, w", "forward", "dx", "dw");
    let square =
        |s: usize, p: usize, groups: usize| Conv { stride: [s, s], pad: [p, p], dilation: [1, 1], groups };
    for (x, w, c) in [
        ([64, 16, 28, 28], [16, 16, 3, 3], square(1, 1, 1)),
        ([64, 32, 14, 14], [32, 32, 3, 3], square(1, 1, 1)),
        ([128, 16, 32, 32], [16, 16, 3, 3], square(1, 1, 1)),
        ([128, 32, 16, 16], [32, 32, 3, 3], square(1, 1, 1)),
        ([128, 64, 8, 8], [64, 64, 3, 3], square(1, 1, 1)),
        ([128, 16, 32, 32], [32, 16, 3, 3], square(2, 1, 1)),
        ([128, 32, 16, 16], [64, 32, 3, 3], square(2, 1, 1)),
        ([128, 16, 32, 32], [32, 16, 1, 1], square(2, 0, 1)),
        ([8, 256, 14, 14], [256, 256, 3, 3], square(1, 1, 1)),
        ([8, 256, 56, 56], [64, 256, 1, 1], square(1, 0, 1)),
        ([8, 512, 7, 7], [512, 512, 3, 3], square(1, 1, 1)),
        ([16, 96, 28, 28], [96, 1, 3, 3], square(1, 1, 96)),
    ] {
        let (x, w) = (ValueType::f32(x), ValueType::f32(w));
        let y = infer::result_types(&Op::Conv2d(c), &[&x, &w])?.remove(0);
        let flops = 2.0 * infer::macs(&Op::Conv2d(c), &[&x, &w], std::slice::from_ref(&y)) as f64;
        let [_, _, h, wd] = *x.dims() else { continue };
        let [_, _, kh, kw] = *w.dims() else { continue };
        let forward = time(&device, Op::Conv2d(c), &[x.clone(), w.clone()], y.clone())?;
        let dx = time(
            &device,
            Op::Conv2dGradInput { conv: c, input: [h, wd] },
            &[y.clone(), w.clone()],
            x.clone(),
        )?;
        let dw =
            time(&device, Op::Conv2dGradWeight { conv: c, kernel: [kh, kw] }, &[x.clone(), y], w.clone())?;
        let speed = |seconds: f64| flops / seconds / 1e9;
        let shapes = format!("{} {}", x.shape, w.shape);
        println!("{shapes:>28} {:>9.1} {:>9.1} {:>9.1}", speed(forward), speed(dx), speed(dw));
    }
    Ok(())
}
