//! How fast tile programs run beside a copy of as many bytes: `cargo run --release -p ddnnc-cpu --example
//! pointwise_speed`.

use ddnnc_cpu::CpuDevice;
use ddnnc_ir::{BinaryKind, DType, Group, GroupKind, Layout, Local, Op, Step, UnaryKind, ValueType, infer};
use ddnnc_passes::{ALIGNMENT, Buffer, BufferId, Device, Launch, Place, Program};
use std::sync::Arc;
use std::time::Instant;

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

fn program(op: &Op, over: Option<usize>) -> (Program, usize) {
    let Op::Fused(group) = op else { panic!("a group") };
    let mut p = Program {
        name: String::new(),
        buffers: Vec::new(),
        launches: Vec::new(),
        inputs: Default::default(),
        outputs: Default::default(),
        persistent: Default::default(),
        arena_bytes: 0,
        persistent_bytes: 0,
    };
    let mut bytes = 0;
    let mut add = |ty: &ValueType, place: Option<Place>| {
        let place = place.unwrap_or(Place::Arena { offset: p.arena_bytes });
        p.arena_bytes += ty.bytes().next_multiple_of(ALIGNMENT);
        bytes += ty.bytes();
        p.buffers.push(Buffer { ty: ty.clone(), place });
        BufferId(p.buffers.len() as u32 - 1)
    };
    let operands: Vec<BufferId> = group.operands.iter().map(|ty| add(ty, None)).collect();
    let place = over.map(|i| p.buffers[operands[i].index()].place);
    let mut add = |ty: &ValueType, place: Option<Place>| {
        let place = place.unwrap_or(Place::Arena { offset: p.arena_bytes });
        p.arena_bytes += ty.bytes().next_multiple_of(ALIGNMENT);
        bytes += ty.bytes();
        p.buffers.push(Buffer { ty: ty.clone(), place });
        BufferId(p.buffers.len() as u32 - 1)
    };
    let results: Vec<BufferId> = group.result_types().iter().map(|ty| add(ty, place)).collect();
    for (i, &b) in operands.iter().enumerate() {
        p.inputs.insert(format!("x{i}"), b);
    }
    for (i, &b) in results.iter().enumerate() {
        p.outputs.insert(format!("y{i}"), b);
    }
    p.launches.push(Launch { op: op.clone(), operands, results, path: String::new() });
    (p, bytes)
}

fn seconds(device: &CpuDevice, op: &Op, over: Option<usize>) -> (f64, usize) {
    let (program, bytes) = program(op, over);
    let mut executable = device.load(&program).expect("loads");
    executable.run().expect("runs");
    let one = |_| {
        let start = Instant::now();
        executable.run().expect("runs");
        start.elapsed().as_secs_f64()
    };
    ((0..9).map(one).fold(f64::INFINITY, f64::min), bytes)
}

fn main() {
    let device = CpuDevice::new(std::env::args().nth(1).and_then(|n| n.parse().ok())).expect("threads");
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
            let mut rate = 0.0;
            for (name, op, over) in &all {
                let (time, bytes) = seconds(&device, op, *over);
                let speed = bytes as f64 / time / 1e9;
                if *name == "copy" {
                    rate = speed;
                }
                println!("{ty} {name}: {:.2} ms, {speed:.1} GB/s, {:.2} of a copy", time * 1e3, speed / rate);
            }
        }
    }
}
