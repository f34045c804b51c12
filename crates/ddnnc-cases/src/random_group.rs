//! Random elementwise groups: chains of steps and reductions side by side.

use super::Case;
use super::fixed_groups::{ADD, EPS, MUL, rows, vector};
use super::group::Builder;
use ddnnc_ir::{BinaryKind, DType, GroupKind, Local, Op, ReduceKind, Shape, UnaryKind, ValueType};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

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
        // Squares of squares grow beyond any number, and so does the slope of a logarithm near 0.
        let steep = [UnaryKind::Square, UnaryKind::Log];
        let kinds: Vec<UnaryKind> = UnaryKind::ALL.into_iter().filter(|k| !steep.contains(k)).collect();
        let kind = kinds[self.rng.random_range(0..kinds.len())];
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

/// A group drawn by a seed.
pub fn random_group(seed: u64) -> Case {
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
        let mut chain =
            Chain { rng: &mut rng, group: &mut group, ty, values: vec![first], results: Vec::new() };
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
