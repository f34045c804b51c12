//! Fused groups against the reference evaluator and against their own steps one after the other, at every level of the
//! processor, apart and in place, on one, two and three threads.

mod common;

use common::Case;
use common::group::{Builder, group_of, unfused};
use ddnnc_cpu::CpuDevice;
use ddnnc_ir::reference::{Tensor, evaluate_op};
use ddnnc_ir::{
    BinaryKind, Conv, DType, GroupKind, Layout, Local, Op, ReduceKind, Shape, UnaryKind, ValueType,
};
use ddnnc_passes::may_overwrite;
use proptest::prelude::*;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

const ADD: Op = Op::Binary { kind: BinaryKind::Add };
const MUL: Op = Op::Binary { kind: BinaryKind::Mul };
const RELU: Op = Op::Unary { kind: UnaryKind::Relu };
const RELU_GRAD: Op = Op::UnaryGrad { kind: UnaryKind::Relu };
const EPS: f64 = 1e-5;

fn rows(dims: [usize; 4]) -> ValueType {
    ValueType::f32(dims).with_layout(Layout::ChannelsLast)
}

fn vector(channels: usize) -> ValueType {
    ValueType::f32([channels])
}

/// The largest value that any step gives.
fn largest(case: &Case, operands: &[Tensor]) -> f64 {
    let group = group_of(case);
    let mut made: Vec<Vec<Tensor>> = Vec::new();
    let mut most = 1.0f64;
    for step in &group.steps {
        let taken: Vec<&Tensor> = step
            .operands
            .iter()
            .map(|l| match *l {
                Local::Operand(i) => &operands[i as usize],
                Local::Step { step, result } => &made[step as usize][result as usize],
            })
            .collect();
        made.push(evaluate_op(&step.op, &taken, &step.results).expect("a step"));
        let values = made.last().expect("just pushed").iter().flat_map(|t| &t.data);
        most = values.fold(most, |m, x| m.max(x.abs()));
    }
    most
}

/// Whether a rounding to bf16 stands between operands and results.
fn halves(case: &Case) -> bool {
    let group = group_of(case);
    group.steps.iter().flat_map(|s| &s.results).any(|ty| ty.dtype == DType::Bf16)
}

/// Whether all sums are of few terms, so that only a few roundings come together.
fn compare(case: &Case, how: &str, tol: f64, expected: &[Vec<f64>], found: &[Vec<f32>]) {
    for (r, (expected, found)) in expected.iter().zip(found).enumerate() {
        assert_eq!(expected.len(), found.len());
        let wrong = |(e, f): (&f64, &f32)| {
            let difference = (e - f64::from(*f)).abs();
            difference > tol || difference.is_nan()
        };
        let count = expected.iter().zip(found).filter(|(e, f)| wrong((e, f))).count();
        let first = expected.iter().zip(found).position(|(e, f)| wrong((e, f)));
        let at = first.map(|i| (i, expected[i], found[i]));
        assert_eq!(count, 0, "{how}, result {r}, tolerance {tol}: first wrong (index, expected, found) {at:?}\n{case:#?}");
    }
}

fn bits(results: &[Vec<f32>]) -> Vec<u32> {
    results.iter().flatten().map(|x| x.to_bits()).collect()
}

/// Devices of one, two and three threads at each level.
fn devices() -> Vec<Vec<CpuDevice>> {
    let by_threads: Vec<Vec<CpuDevice>> =
        [1, 2, 3].iter().map(|&n| CpuDevice::at_every_level(n).expect("threads")).collect();
    (0..by_threads[0].len()).map(|level| by_threads.iter().map(|d| d[level].clone()).collect()).collect()
}

/// Checks one group; `same` where its steps one by one must give the same bits.
fn check(levels: &[Vec<CpuDevice>], case: &Case, seed: u64, same: bool) {
    let operands = case.draw(seed);
    let expected = case.reference(&operands);
    let scale = largest(case, &operands);
    let tol = if halves(case) { scale / 32.0 } else { 2e-6 * scale };
    for devices in levels {
        let how = format!("seed {seed}, {:?}", devices[0]);
        let one = case.cpu(&devices[0], &operands, &[]).expect("runs");
        compare(case, &how, tol, &expected, &one);
        for device in &devices[1..] {
            let other = case.cpu(device, &operands, &[]).expect("runs");
            assert!(bits(&one) == bits(&other), "{how}: {device:?} gives other bits\n{case:#?}");
        }
        if same {
            let steps = unfused(case).cpu(&devices[1], &operands, &[]).expect("runs step by step");
            assert!(bits(&one) == bits(&steps), "{how}: the steps one by one give other bits\n{case:#?}");
        }
        // Each result on each operand that it may lie on, and as many as can be at once.
        let count = case.results().len();
        let mut all = vec![None; count];
        for r in 0..count {
            for over in may_overwrite(&case.op, r) {
                let mut places = vec![None; count];
                places[r] = Some(over);
                let found = case.cpu(&devices[2], &operands, &places).expect("runs in place");
                assert!(bits(&one) == bits(&found), "{how}: result {r} on operand {over}\n{case:#?}");
                if all[r].is_none() && !all.contains(&Some(over)) {
                    all[r] = Some(over);
                }
            }
        }
        let found = case.cpu(&devices[2], &operands, &all).expect("runs in place");
        assert!(bits(&one) == bits(&found), "{how}: in place {all:?}\n{case:#?}");
    }
}

/// One chain of random elementwise steps and reductions.
struct Chain<'a> {
    rng: &'a mut ChaCha8Rng,
    group: &'a mut Builder,
    ty: ValueType,
    values: Vec<Local>,
    results: Vec<Local>,
}

impl Chain<'_> {
    fn fresh(&mut self, ty: ValueType) -> Local {
        self.group.operand(ty)
    }

    fn any(&mut self) -> Local {
        let i = self.rng.random_range(0..self.values.len());
        self.values[i]
    }

    /// A value of the chain's own element type.
    fn whole(&mut self) -> Local {
        let x = self.any();
        if self.group.ty(x).dtype == self.ty.dtype {
            return x;
        }
        self.group.step(Op::Cast { dtype: self.ty.dtype }, &[x])
    }

    fn channels(&mut self) -> Local {
        let channels = self.ty.dims()[1];
        match self.rng.random_range(0..4) {
            0 => self.group.constant(0.7, vector(channels)),
            _ => self.fresh(vector(channels)),
        }
    }

    fn broadcast(&mut self) -> Local {
        let d = self.ty.dims().to_vec();
        let axes: Vec<usize> = match (d.len(), self.rng.random_range(0..5)) {
            (_, 0) => vec![],
            (_, 1) => vec![1],
            (_, 2) => vec![0],
            (4, 3) => vec![0, 1],
            (4, _) => vec![0, 2, 3],
            (_, _) => vec![0],
        };
        let dims: Vec<usize> = axes.iter().map(|&a| d[a]).collect();
        let mut x = self.fresh(ValueType::f32(Shape::from(dims.as_slice())).with_dtype(self.ty.dtype));
        if self.rng.random_range(0..2) == 0 {
            x = self.group.step(Op::Scale { factor: -0.7 }, &[x]);
        }
        let op = Op::Broadcast { shape: self.ty.shape.clone(), axes, layout: self.ty.layout };
        self.group.step(op, &[x])
    }

    fn grow(&mut self) {
        let ty = self.ty.clone();
        let kind = UnaryKind::ALL[self.rng.random_range(0..UnaryKind::ALL.len() - 1)];
        let made = match self.rng.random_range(0..16) {
            0 | 1 => {
                let x = self.whole();
                self.group.step(Op::Unary { kind }, &[x])
            }
            2 => {
                // Of an operand, since a value that differs a little may lie on the other side of a kink.
                let (saved, dy) = (self.fresh(ty), self.whole());
                self.group.step(Op::UnaryGrad { kind }, &[saved, dy])
            }
            3 | 4 => {
                let pair = [self.whole(), self.whole()];
                let op = Op::Binary { kind: [BinaryKind::Add, BinaryKind::Sub][self.rng.random_range(0..2)] };
                self.group.step(op, &pair)
            }
            5 => {
                let pair = [self.whole(), self.fresh(ty)];
                self.group.step(MUL, &pair)
            }
            6 => {
                let x = self.any();
                self.group.step(Op::Scale { factor: 0.3 }, &[x])
            }
            7 => {
                let pair = [self.any(), self.channels()];
                self.group.step(Op::BiasAdd, &pair)
            }
            8 => {
                let rng = self.fresh(ValueType::i64([2]));
                let x = self.any();
                self.group.step(Op::Dropout { p: 0.4, site: 5 }, &[x, rng])
            }
            9 => {
                let var = self.fresh(vector(ty.dims()[1]));
                let all = [self.any(), self.channels(), var, self.channels(), self.channels()];
                self.group.step(Op::Normalize { eps: EPS, batch_stats: false }, &all)
            }
            10 => {
                let var = self.fresh(vector(ty.dims()[1]));
                let (x, dy) = (self.whole(), self.whole());
                let all = [x, self.channels(), var, self.channels(), dy, self.channels(), self.channels()];
                self.group.step(Op::NormalizeGradInput { eps: EPS }, &all)
            }
            11 => {
                let var = self.fresh(vector(ty.dims()[1]));
                let all = [var, self.channels(), self.any()];
                self.group.step(Op::NormalizeGradFixed { eps: EPS }, &all)
            }
            12 => self.broadcast(),
            13 => {
                let x = self.any();
                let dtype = [DType::F32, DType::Bf16][self.rng.random_range(0..2)];
                self.group.step(Op::Cast { dtype }, &[x])
            }
            14 => self.group.constant(-0.6, ty),
            _ => {
                let x = self.any();
                self.group.step(Op::StopGradient, &[x])
            }
        };
        self.values.push(made);
    }

    fn reduce(&mut self) {
        let channels = self.ty.dims()[1];
        let rank = self.ty.shape.rank();
        let kind = [ReduceKind::Sum, ReduceKind::Mean][self.rng.random_range(0..2)];
        let x = self.whole();
        match self.rng.random_range(0..4) {
            0 => {
                let made = self.group.steps(Op::ChannelStats, &[x]);
                let state = self.fresh(vector(channels));
                let ema = Op::Ema { momentum: 0.1, scale: 1.25 };
                self.results.push(self.group.step(ema, &[state, made[1]]));
                self.results.push(made[0]);
            }
            1 => {
                let var = self.fresh(vector(channels));
                let (mean, dy) = (self.fresh(vector(channels)), self.whole());
                let made = self.group.steps(Op::NormalizeGradReduce { eps: EPS }, &[x, mean, var, dy]);
                self.results.extend(made);
            }
            2 => {
                let axes = (0..rank).filter(|&a| a != 1).collect();
                let made = self.group.step(Op::Reduce { kind, axes }, &[x]);
                let more = self.fresh(vector(channels));
                let scaled = self.group.step(Op::Scale { factor: 0.5 }, &[made]);
                self.results.push(self.group.step(ADD, &[scaled, more]));
            }
            _ => {
                let made = self.group.step(Op::Reduce { kind, axes: vec![1] }, &[x]);
                let scaled = self.group.step(Op::Scale { factor: 0.25 }, &[made]);
                self.results.push(scaled);
                let axes: Vec<usize> = (0..rank).filter(|&a| a != 1).collect();
                let op = Op::Broadcast { shape: self.ty.shape.clone(), axes, layout: self.ty.layout };
                let wide = self.group.step(op, &[scaled]);
                if self.ty.dtype == DType::F32 {
                    self.values.push(wide);
                }
            }
        }
    }
}

fn random_group(seed: u64) -> Case {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut group = Builder::new(GroupKind::Pointwise);
    let mut results = Vec::new();
    for _ in 0..rng.random_range(1..4) {
        let channels = [1, 2, 3, 10, 16, 64, 70, 300][rng.random_range(0..8)];
        let side = |rng: &mut ChaCha8Rng| rng.random_range(1..12usize);
        let ty = match rng.random_range(0..4) {
            0 => ValueType::f32([[3, 40][rng.random_range(0..2)], channels]),
            1 => rows([8, channels.min(16), 30, 19]),
            _ => rows([rng.random_range(1..4), channels, side(&mut rng), side(&mut rng)]),
        };
        let ty = ty.with_dtype([DType::F32, DType::F32, DType::Bf16][rng.random_range(0..3)]);
        let first = group.operand(ty.clone());
        let mut chain = Chain { rng: &mut rng, group: &mut group, ty, values: vec![first], results: Vec::new() };
        for _ in 0..chain.rng.random_range(1..8) {
            chain.grow();
            if chain.rng.random_range(0..4) == 0 {
                chain.reduce();
            }
        }
        let last = chain.values[chain.values.len() - 1];
        if chain.results.is_empty() || chain.rng.random_range(0..3) > 0 {
            chain.results.push(last);
        }
        let other = chain.any();
        chain.results.push(other);
        let mine: Vec<Local> =
            chain.results.iter().copied().filter(|l| matches!(l, Local::Step { .. })).collect();
        results.extend(mine);
    }
    results.dedup();
    group.finish(&results)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn random_elementwise_groups(seed in any::<u64>()) {
        check(&devices(), &random_group(seed), seed, true);
    }
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
fn convolution_groups(dtype: DType) -> Vec<(&'static str, Case)> {
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
            let (y, mean, var) = (b.operand(act([images, 4, 7, 5])), b.operand(vector(4)), b.operand(vector(4)));
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

#[test]
fn convolutions_with_what_surrounds_them() {
    let levels = devices();
    for dtype in [DType::F32, DType::Bf16] {
        for (seed, (name, case)) in (100..).zip(convolution_groups(dtype)) {
            println!("{name}, {dtype:?}");
            check(&levels, &case, seed, false);
        }
    }
}

#[test]
fn twenty_updates_at_once() {
    let levels = devices();
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
    check(&levels, &b.finish(&results), 9, true);
}

#[test]
fn losses_one_after_the_other() {
    let levels = devices();
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
    check(&levels, &b.finish(&[logits, hard, total, grad, total, square]), 4, false);
}

/// An operand that a result lies on may be read in another order by another chain.
#[test]
fn an_overwritten_operand_is_read_whole() {
    let levels = devices();
    let mut b = Builder::new(GroupKind::Pointwise);
    let (x, small) = (b.operand(rows([40, 20, 9, 9])), b.operand(ValueType::f32([40, 20])));
    let op = Op::Broadcast { shape: Shape::from([40, 20, 9, 9]), axes: vec![0, 1], layout: Layout::ChannelsLast };
    let wide = b.step(op, &[small]);
    let sum = b.step(ADD, &[x, wide]);
    let twice = b.step(Op::Scale { factor: 2.0 }, &[small]);
    check(&levels, &b.finish(&[sum, twice]), 5, true);
}

#[test]
fn what_cannot_be_fused_is_refused() {
    let device = CpuDevice::new(Some(1)).expect("a thread");
    let refused = |case: &Case, part: &str| {
        let operands = case.draw(1);
        let error = case.cpu(&device, &operands, &[]).expect_err("is refused").to_string();
        assert!(error.contains(part), "{error}");
    };
    let mut b = Builder::new(GroupKind::Pointwise);
    let x = b.operand(rows([2, 3, 4, 4]));
    let stats = b.steps(Op::ChannelStats, &[x]);
    let (gain, bias) = (b.operand(vector(3)), b.operand(vector(3)));
    let y = b.step(Op::Normalize { eps: EPS, batch_stats: true }, &[x, stats[0], stats[1], gain, bias]);
    refused(&b.finish(&[y]), "normalize of a sum");
    let mut b = Builder::new(GroupKind::Pointwise);
    let (x, bias) = (b.operand(ValueType::f32([2, 3, 4, 4])), b.operand(vector(3)));
    let y = b.step(Op::BiasAdd, &[x, bias]);
    refused(&b.finish(&[y]), "channels-last");
}
