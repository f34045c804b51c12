//! Prints how long recomputation, scheduling and the memory plan take on training steps of residual nets of growing
//! depth: `cargo run --release -p ddnnc-passes --example compile_time [blocks]`.

use ddnnc_ir::{
    BinaryKind, Conv, Graph, IrError, Op, Optimizer, Origin, ReduceKind, UnaryKind, Value, ValueType,
    append_optimizer, differentiate,
};
use ddnnc_passes::{Tables, canonical, dead_code, plan_memory, recompute, schedule, share_prefixes};
use std::error::Error;
use std::time::Instant;

const CHANNELS: usize = 16;

fn add(graph: &mut Graph, op: Op, operands: &[Value]) -> Result<Value, IrError> {
    let node = graph.add(op, operands, Origin::default())?;
    Ok(Value { node, result: 0 })
}

fn parameter(graph: &mut Graph, name: String, dims: &[usize]) -> Result<Value, IrError> {
    graph.add_source(Op::Parameter { name, frozen: false }, ValueType::f32(dims), Origin::default())
}

/// A training step of so many blocks z ← relu(normalize(conv(z)) + z).
fn step(blocks: usize) -> Result<Graph, IrError> {
    let mut graph = Graph::new("residual");
    let image = Op::Input { name: "image".to_owned() };
    let mut z = graph.add_source(image, ValueType::f32([8, CHANNELS, 16, 16]), Origin::default())?;
    for i in 0..blocks {
        let weight = parameter(&mut graph, format!("conv{i}"), &[CHANNELS, CHANNELS, 3, 3])?;
        let gain = parameter(&mut graph, format!("gain{i}"), &[CHANNELS])?;
        let bias = parameter(&mut graph, format!("bias{i}"), &[CHANNELS])?;
        let conv = Conv { stride: [1, 1], pad: [1, 1], dilation: [1, 1], groups: 1 };
        let y = add(&mut graph, Op::Conv2d(conv), &[z, weight])?;
        let mean = add(&mut graph, Op::ChannelStats, &[y])?;
        let var = Value { result: 1, ..mean };
        let norm = Op::Normalize { eps: 1e-5, batch_stats: true };
        let n = add(&mut graph, norm, &[y, mean, var, gain, bias])?;
        let sum = add(&mut graph, Op::Binary { kind: BinaryKind::Add }, &[n, z])?;
        z = add(&mut graph, Op::Unary { kind: UnaryKind::Relu }, &[sum])?;
    }
    let square = add(&mut graph, Op::Unary { kind: UnaryKind::Square }, &[z])?;
    let loss = add(&mut graph, Op::Reduce { kind: ReduceKind::Mean, axes: vec![0, 1, 2, 3] }, &[square])?;
    add_output(&mut graph, loss)?;
    let gradients = differentiate(&mut graph, loss)?;
    let sgd = Optimizer::Sgd { lr: 0.1, momentum: 0.9, nesterov: true, weight_decay: 1e-4 };
    append_optimizer(&mut graph, &gradients, &sgd)?;
    Ok(graph)
}

fn add_output(graph: &mut Graph, loss: Value) -> Result<(), IrError> {
    graph.add(Op::Output { name: "loss.total".to_owned() }, &[loss], Origin::default())?;
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    let blocks = match std::env::args().nth(1) {
        Some(text) => text.parse()?,
        None => 128,
    };
    println!(" nodes   shared  recomputed  scheduled  planned   arena before and after (MiB)");
    for blocks in [blocks, 2 * blocks, 4 * blocks] {
        let mut graph = step(blocks)?;
        let start = Instant::now();
        canonical(&mut graph)?;
        share_prefixes(&mut graph)?;
        dead_code(&mut graph)?;
        let shared = start.elapsed();
        let order = schedule(&graph)?;
        let before = plan_memory(&graph, &order, Tables::default())?.arena_bytes;
        let start = Instant::now();
        recompute(&mut graph)?;
        let recomputed = start.elapsed();
        let start = Instant::now();
        let order = schedule(&graph)?;
        let scheduled = start.elapsed();
        let start = Instant::now();
        let after = plan_memory(&graph, &order, Tables::default())?.arena_bytes;
        let planned = start.elapsed();
        println!(
            "{:6} {shared:8.0?} {recomputed:11.0?} {scheduled:10.0?} {planned:8.0?} {:8} {:8}",
            graph.len(),
            before >> 20,
            after >> 20,
        );
    }
    Ok(())
}
