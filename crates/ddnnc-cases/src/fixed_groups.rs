//! Groups as the compiler makes them.

use super::Case;
use super::group::Builder;
use ddnnc_ir::{
    BinaryKind, Conv, DType, GroupKind, Layout, Local, Op, ReduceKind, Shape, UnaryKind, ValueType,
};

pub const ADD: Op = Op::Binary { kind: BinaryKind::Add };
pub const MUL: Op = Op::Binary { kind: BinaryKind::Mul };
pub const RELU: Op = Op::Unary { kind: UnaryKind::Relu };
pub const RELU_GRAD: Op = Op::UnaryGrad { kind: UnaryKind::Relu };
pub const EPS: f64 = 1e-5;

pub fn rows(dims: [usize; 4]) -> ValueType {
    ValueType::f32(dims).with_layout(Layout::ChannelsLast)
}

pub fn vector(channels: usize) -> ValueType {
    ValueType::f32([channels])
}

fn conv(stride: usize, pad: usize, groups: usize) -> Conv {
    Conv { stride: [stride; 2], pad: [pad; 2], dilation: [1; 2], groups }
}

/// relu(normalize(x)) with statistics of its own.
fn normalized(b: &mut Builder, x: Local) -> Local {
    let channels = b.ty(x).dims()[1];
    let mut all = vec![x];
    all.extend((0..4).map(|_| b.operand(vector(channels))));
    let y = b.step(Op::Normalize { eps: EPS, batch_stats: false }, &all);
    b.step(RELU, &[y])
}

/// Every convolution group, with activations of that element type.
pub fn convolution_groups(dtype: DType) -> Vec<(&'static str, Case)> {
    let act = |dims: [usize; 4]| rows(dims).with_dtype(dtype);
    let weight = |dims: [usize; 4]| ValueType::f32(dims).with_dtype(dtype);
    let mut all = Vec::new();
    {
        let mut b = Builder::new(GroupKind::Convolution);
        let (x, w) = (b.operand(act([3, 5, 9, 8])), b.operand(weight([7, 5, 3, 3])));
        let y = b.step(Op::Conv2d(conv(1, 1, 1)), &[x, w]);
        let stats = b.steps(Op::ChannelStats, &[y]);
        let old = b.operand(vector(7));
        let new = b.step(Op::Ema { momentum: 0.1, scale: 1.1 }, &[old, stats[1]]);
        all.push(("statistics", b.finish(&[y, stats[0], stats[1], new])));
    }
    for (stride, pad, groups, kernel) in [(1, 1, 1, 3), (2, 1, 1, 3), (2, 0, 1, 1), (1, 1, 16, 3)] {
        let mut b = Builder::new(GroupKind::Convolution);
        let w = b.operand(weight([16, 16 / groups, kernel, kernel]));
        let mut results = Vec::new();
        for images in [1, 3, 2, 20] {
            let x = b.operand(act([images, 16, 8, 8]));
            let x = normalized(&mut b, x);
            let y = b.step(Op::Conv2d(conv(stride, pad, groups)), &[x, w]);
            results.push(y);
            results.extend(b.steps(Op::ChannelStats, &[y]));
        }
        all.push(("sub-nets with prologues", b.finish(&results)));
    }
    {
        let mut b = Builder::new(GroupKind::Convolution);
        let w = b.operand(weight([6, 4, 3, 3]));
        let mut results = Vec::new();
        for images in [2, 5] {
            let dy = b.operand(act([images, 6, 7, 5]));
            let op = Op::Conv2dGradInput { conv: conv(1, 1, 1), input: [7, 5] };
            let dx = b.step(op, &[dy, w]);
            let (residual, saved) = (b.operand(act([images, 4, 7, 5])), b.operand(act([images, 4, 7, 5])));
            let sum = b.step(ADD, &[dx, residual]);
            let dz = b.step(RELU_GRAD, &[saved, sum]);
            let (y, mean, var) =
                (b.operand(act([images, 4, 7, 5])), b.operand(vector(4)), b.operand(vector(4)));
            let gains = b.steps(Op::NormalizeGradReduce { eps: EPS }, &[y, mean, var, dz]);
            results.push(dz);
            results.extend(gains);
        }
        // The shared norm's gradient is the sum over the sub-nets.
        let (a, c) = (results[1], results[4]);
        results.push(b.step(ADD, &[a, c]));
        all.push(("input gradient with epilogue", b.finish(&results)));
    }
    {
        let mut b = Builder::new(GroupKind::Convolution);
        let mut sums = Vec::new();
        for images in [3, 1, 4] {
            let x = b.operand(act([images, 8, 6, 6]));
            let x = normalized(&mut b, x);
            let mut all = vec![b.operand(act([images, 10, 6, 6]))];
            all.extend((0..3).map(|_| b.operand(vector(10))));
            all.push(b.operand(act([images, 10, 6, 6])));
            all.extend((0..2).map(|_| b.operand(vector(10))));
            let dy = b.step(Op::NormalizeGradInput { eps: EPS }, &all);
            let op = Op::Conv2dGradWeight { conv: conv(1, 1, 1), kernel: [3, 3] };
            sums.push(b.step(op, &[x, dy]));
        }
        let two = b.step(ADD, &[sums[0], sums[1]]);
        let three = b.step(ADD, &[two, sums[2]]);
        let other = b.operand(ValueType::f32([10, 8, 3, 3]));
        let more = b.step(ADD, &[three, other]);
        let scaled = b.step(Op::Scale { factor: 0.5 }, &[more]);
        all.push(("weight gradient of three", b.finish(&[scaled])));
    }
    {
        let mut b = Builder::new(GroupKind::Convolution);
        let op = || Op::Conv2dGradWeight { conv: conv(2, 1, 1), kernel: [3, 3] };
        let made: Vec<Local> = [2, 3]
            .iter()
            .map(|&n| {
                let pair = [b.operand(act([n, 4, 7, 7])), b.operand(act([n, 6, 4, 4]))];
                b.step(op(), &pair)
            })
            .collect();
        let sum = b.step(ADD, &made);
        all.push(("weight gradients and their sum", b.finish(&[made[0], sum])));
    }
    {
        let mut b = Builder::new(GroupKind::Convolution);
        let (x, w) = (b.operand(act([2, 6, 5, 5])), b.operand(weight([9, 6, 1, 1])));
        let x = normalized(&mut b, x);
        let y = b.step(Op::Conv2d(conv(1, 0, 1)), &[x, w]);
        let z = normalized(&mut b, y);
        let residual = b.operand(act([2, 9, 5, 5]));
        let sum = b.step(ADD, &[z, residual]);
        all.push(("a prologue that is a result, an epilogue alone", b.finish(&[x, sum])));
    }
    {
        // Statistics and what follows them cannot be one epilogue.
        let mut b = Builder::new(GroupKind::Convolution);
        let (x, w) = (b.operand(act([2, 6, 5, 5])), b.operand(weight([9, 6, 3, 3])));
        let y = b.step(Op::Conv2d(conv(1, 1, 1)), &[x, w]);
        let stats = b.steps(Op::ChannelStats, &[y]);
        let (gain, bias) = (b.operand(vector(9)), b.operand(vector(9)));
        let op = Op::Normalize { eps: EPS, batch_stats: true };
        let z = b.step(op, &[y, stats[0], stats[1], gain, bias]);
        all.push(("step by step", b.finish(&[y, z])));
    }
    all
}

/// Ends of blocks, relu(normalize(x) + skip): the sum either way round, and of a normalisation that is a result too.
pub fn residual(dtype: DType) -> Case {
    let act = rows([3, 37, 7, 5]).with_dtype(dtype);
    let mut b = Builder::new(GroupKind::Pointwise);
    let skip = b.operand(act.clone());
    let mut results = Vec::new();
    for end in 0..3 {
        let mut all = vec![b.operand(act.clone())];
        all.extend((0..4).map(|_| b.operand(vector(37))));
        let normal = b.step(Op::Normalize { eps: EPS, batch_stats: false }, &all);
        let sum = b.step(ADD, &if end == 1 { [skip, normal] } else { [normal, skip] });
        results.push(b.step(RELU, &[sum]));
        if end == 2 {
            results.push(normal);
        }
    }
    b.finish(&results)
}

/// Updates of twenty tensors.
pub fn updates() -> Case {
    let shapes: [&[usize]; 5] = [&[16, 3, 3, 3], &[16], &[1], &[300, 70], &[64, 33]];
    let mut b = Builder::new(GroupKind::Update);
    let (lr, t) = (b.operand(ValueType::scalar()), b.operand(ValueType::scalar()));
    let mut results = Vec::new();
    for i in 0..20 {
        let ty = ValueType::f32(shapes[i % 5]);
        let mut take = |n: usize| -> Vec<Local> { (0..n).map(|_| b.operand(ty.clone())).collect() };
        match i % 4 {
            0 => {
                let mut x = take(3);
                x.push(lr);
                results.extend(
                    b.steps(Op::SgdUpdate { momentum: 0.9, nesterov: i % 8 == 0, weight_decay: 0.01 }, &x),
                );
            }
            1 => {
                let mut x = take(2);
                x.push(lr);
                results.extend(
                    b.steps(Op::SgdUpdate { momentum: 0.0, nesterov: false, weight_decay: 0.01 }, &x),
                );
            }
            2 => {
                let mut x = take(4);
                x.extend([lr, t]);
                let op = Op::AdamwUpdate { beta1: 0.9, beta2: 0.99, eps: 1e-6, weight_decay: 0.01 };
                results.extend(b.steps(op, &x));
            }
            _ => {
                // A running mean of several sub-nets, one after the other.
                let x = take(4);
                let ema = |scale: f64| Op::Ema { momentum: 0.1, scale };
                let one = b.step(ema(1.0), &[x[0], x[1]]);
                let two = b.step(ema(1.25), &[one, x[2]]);
                results.push(b.step(ema(1.0), &[two, x[3]]));
            }
        }
    }
    b.finish(&results)
}

/// Losses and their gradients.
pub fn losses() -> Case {
    let mut b = Builder::new(GroupKind::Sequence);
    let x = b.operand(rows([6, 10, 4, 4]));
    let label = b.operand(ValueType::i64([6]));
    let w = b.operand(ValueType::f32([10, 12]));
    let teacher = b.operand(ValueType::f32([6, 12]));
    let one = b.operand(ValueType::scalar());
    let pooled = b.step(Op::Reduce { kind: ReduceKind::Mean, axes: vec![2, 3] }, &[x]);
    let flat = b.step(Op::Reshape { shape: Shape::from([6, 10]) }, &[pooled]);
    let logits = b.step(Op::MatMul { transpose_a: false, transpose_b: false }, &[flat, w]);
    let hard = b.step(Op::CrossEntropy { smoothing: 0.1 }, &[logits, label]);
    let soft = b.step(Op::KlDivergence { temperature: 4.0 }, &[teacher, logits]);
    let scaled = b.step(Op::Scale { factor: 0.5 }, &[soft]);
    let total = b.step(ADD, &[hard, scaled]);
    let hard_grad = b.step(Op::CrossEntropyGrad { smoothing: 0.1 }, &[logits, label, one]);
    let soft_grad = b.step(Op::KlGradStudent { temperature: 4.0 }, &[teacher, logits, one]);
    let grad = b.step(ADD, &[hard_grad, soft_grad]);
    let again = b.step(Op::StopGradient, &[logits]);
    let square = b.step(Op::Unary { kind: UnaryKind::Square }, &[again]);
    b.finish(&[logits, hard, total, grad, total, square])
}

/// The gates of two recurrent layers, as one column follows another: parts of values, and elementwise steps between them. Some of
/// what stays inside is a result too, one value twice.
pub fn gates() -> Case {
    let mut b = Builder::new(GroupKind::Sequence);
    let (wide, narrow) = (ValueType::f32([5, 28]), ValueType::f32([5, 7]));
    let unary = |kind| Op::Unary { kind };
    let mut results = Vec::new();
    for _ in 0..2 {
        let (column, state, cell) =
            (b.operand(wide.clone()), b.operand(wide.clone()), b.operand(narrow.clone()));
        let all = b.step(ADD, &[column, state]);
        let kinds = [UnaryKind::Sigmoid, UnaryKind::Sigmoid, UnaryKind::Tanh, UnaryKind::Sigmoid];
        let mut parts = Vec::new();
        for (i, kind) in kinds.into_iter().enumerate() {
            let part = b.step(Op::Slice { axis: 1, start: 7 * i, len: 7 }, &[all]);
            parts.push(b.step(unary(kind), &[part]));
        }
        let new = b.step(MUL, &[parts[0], parts[2]]);
        let kept = b.step(MUL, &[parts[1], cell]);
        let cell = b.step(ADD, &[kept, new]);
        let shown = b.step(unary(UnaryKind::Tanh), &[cell]);
        let state = b.step(MUL, &[parts[3], shown]);
        let flat = b.step(Op::Reshape { shape: Shape::from([5, 7, 1, 1]) }, &[state]);
        results.extend([state, parts[1], cell, flat, state]);
    }
    b.finish(&results)
}

/// The relations of a batch of maps and one of vectors, and both gradients of their losses.
pub fn relations(batch: usize) -> Case {
    let mut b = Builder::new(GroupKind::Sequence);
    let map = b.operand(rows([batch, 6, 3, 2]));
    let (teacher, one) = (b.operand(ValueType::f32([batch, 9])), b.operand(ValueType::scalar()));
    let student = b.step(Op::Reduce { kind: ReduceKind::Mean, axes: vec![2, 3] }, &[map]);
    // So that gradients are of the size of 1.
    let dl = b.step(Op::Scale { factor: 8.0 * batch as f64 }, &[one]);
    let distance = b.step(Op::RelationDistance, &[teacher, student]);
    let angle = b.step(Op::RelationAngle, &[teacher, student]);
    let total = b.step(ADD, &[distance, angle]);
    let pull = b.step(Op::RelationDistanceGrad, &[student, teacher, dl]);
    let turn = b.step(Op::RelationAngleGrad, &[student, teacher, dl]);
    let grad = b.step(ADD, &[pull, turn]);
    let back = b.step(Op::RelationAngleGrad, &[teacher, student, dl]);
    b.finish(&[distance, angle, total, pull, turn, grad, back])
}

/// An operand that a result may lie on is read in another order by the rest of the chain.
pub fn overwritten() -> Case {
    let mut b = Builder::new(GroupKind::Pointwise);
    let (x, small) = (b.operand(rows([40, 20, 9, 9])), b.operand(ValueType::f32([40, 20])));
    let op =
        Op::Broadcast { shape: Shape::from([40, 20, 9, 9]), axes: vec![0, 1], layout: Layout::ChannelsLast };
    let wide = b.step(op, &[small]);
    let sum = b.step(ADD, &[x, wide]);
    let twice = b.step(Op::Scale { factor: 2.0 }, &[small]);
    b.finish(&[twice, sum])
}

/// A map of megabytes, and its ReLU: results that a device may keep out of its caches, of rows that are no whole vectors.
pub fn large(dtype: DType) -> Case {
    let ty = rows([2, 259, 46, 46]).with_dtype(dtype);
    let mut b = Builder::new(GroupKind::Pointwise);
    let (x, y) = (b.operand(ty.clone()), b.operand(ty));
    let sum = b.step(ADD, &[x, y]);
    let relu = b.step(RELU, &[sum]);
    b.finish(&[sum, relu])
}
