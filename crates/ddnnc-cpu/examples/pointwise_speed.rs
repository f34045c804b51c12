//! How fast tile programs run beside a copy of memory: `cargo run --release -p ddnnc-cpu --example pointwise_speed
//! [THREADS]`.

use ddnnc_cases::Case;
use ddnnc_cpu::CpuDevice;
use ddnnc_ir::{BinaryKind, DType, Group, GroupKind, Layout, Local, Op, Step, UnaryKind, ValueType, infer};
use ddnnc_passes::Device;
use std::sync::Arc;

struct Builder(Group);

impl Builder {
    fn new() -> Builder {
        Builder(Group {
            kind: GroupKind::Pointwise,
            name: String::new(),
            operands: Vec::new(),
            steps: Vec::new(),
            results: Vec::new(),
        })
    }

    fn operand(&mut self, ty: &ValueType) -> Local {
        self.0.operands.push(ty.clone());
        Local::Operand(self.0.operands.len() as u32 - 1)
    }

    fn step(&mut self, op: Op, operands: &[Local]) -> Vec<Local> {
        let types: Vec<ValueType> =
            operands.iter().map(|&l| self.0.ty(l).expect("a value of the group").clone()).collect();
        let results = infer::result_types(&op, &types.iter().collect::<Vec<_>>()).expect("a legal step");
        let step = self.0.steps.len() as u32;
        let made = (0..results.len() as u32).map(|result| Local::Step { step, result }).collect();
        self.0.steps.push(Step {
            op,
            operands: operands.iter().copied().collect(),
            results,
            path: String::new(),
        });
        made
    }

    fn normalize(&mut self, x: Local, channels: usize) -> Local {
        let mut all = vec![x];
        all.extend((0..4).map(|_| self.operand(&ValueType::f32([channels]))));
        self.step(Op::Normalize { eps: 1e-5, batch_stats: false }, &all)[0]
    }

    fn finish(mut self, results: &[Local]) -> Op {
        self.0.results = results.to_vec();
        Op::Fused(Arc::new(self.0))
    }
}

/// The median time of a launch on random operands, and the bytes that it reads and writes.
fn seconds(device: &CpuDevice, op: &Op, over: Option<usize>) -> (f64, usize) {
    let Op::Fused(group) = op else { panic!("a group") };
    let case = Case { op: op.clone(), operands: group.operands.clone() };
    let program = case.program(&[over]);
    let mut run = device.load(&program).expect("loads");
    for (i, t) in case.draw(1).iter().enumerate() {
        run.write_f32(&format!("x{i}"), &t.data.iter().map(|&x| x as f32).collect::<Vec<_>>())
            .expect("writes");
    }
    let launch = program.launches.iter().position(|l| l.path == "here").expect("the launch");
    let mut times: Vec<f64> = (0..9)
        .map(|_| {
            let mut seconds = vec![0.0; program.launches.len()];
            run.run_timed(&mut seconds).expect("runs");
            seconds[launch]
        })
        .collect();
    times.sort_by(f64::total_cmp);
    let bytes = case.operands.iter().chain(&case.results()).map(ValueType::bytes).sum();
    (times[times.len() / 2], bytes)
}

fn main() {
    let device = CpuDevice::new(std::env::args().nth(1).and_then(|n| n.parse().ok())).expect("threads");
    let limit = device.limits().bytes;
    println!("{device:?}: {:.1} GB/s", limit / 1e9);
    let relu = Op::Unary { kind: UnaryKind::Relu };
    let add = Op::Binary { kind: BinaryKind::Add };
    for dims in [[128, 16, 32, 32], [32, 64, 56, 56], [32, 512, 14, 14], [64, 2048, 7, 7]] {
        for dtype in [DType::F32, DType::Bf16] {
            let ty = ValueType::f32(dims).with_layout(Layout::ChannelsLast).with_dtype(dtype);
            let channels = dims[1];
            let mut all: Vec<(&str, Op, Option<usize>)> = Vec::new();
            let mut b = Builder::new();
            let x = b.operand(&ty);
            let y = b.step(Op::StopGradient, &[x]);
            all.push(("copy", b.finish(&y), None));
            let mut b = Builder::new();
            let x = b.operand(&ty);
            let y = b.step(relu.clone(), &[x]);
            all.push(("relu in place", b.finish(&y), Some(0)));
            let mut b = Builder::new();
            let x = b.operand(&ty);
            let y = b.normalize(x, channels);
            let y = b.step(relu.clone(), &[y]);
            all.push(("normalize, relu", b.finish(&y), None));
            let mut b = Builder::new();
            let (x, z) = (b.operand(&ty), b.operand(&ty));
            let y = b.normalize(x, channels);
            let y = b.step(add.clone(), &[y, z])[0];
            let y = b.step(relu.clone(), &[y]);
            all.push(("normalize, add, relu", b.finish(&y), None));
            let mut b = Builder::new();
            let x = b.operand(&ty);
            let y = b.step(Op::ChannelStats, &[x]);
            all.push(("channel_stats", b.finish(&y), None));
            let mut b = Builder::new();
            let (z, dy, x) = (b.operand(&ty), b.operand(&ty), b.operand(&ty));
            let dy = b.step(Op::UnaryGrad { kind: UnaryKind::Relu }, &[z, dy])[0];
            let v: Vec<Local> = (0..2).map(|_| b.operand(&ValueType::f32([channels]))).collect();
            let mut results = b.step(Op::NormalizeGradReduce { eps: 1e-5 }, &[x, v[0], v[1], dy]);
            results.push(dy);
            all.push(("relu_grad, normalize_grad_reduce", b.finish(&results), None));
            for (name, op, over) in &all {
                let (time, bytes) = seconds(&device, op, *over);
                let speed = bytes as f64 / time / 1e9;
                let share = speed * 1e9 / limit;
                println!("{ty} {name}: {:.2} ms, {speed:.1} GB/s, {share:.2} of memory speed", time * 1e3);
            }
        }
    }
}
