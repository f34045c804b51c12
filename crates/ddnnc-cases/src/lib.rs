//! Programs of one launch, and random operands: what every device is tested with.

pub mod fixed_groups;
pub mod group;
pub mod random_group;

use ddnnc_ir::reference::{Tensor, evaluate_op, to_bf16};
use ddnnc_ir::{DType, Layout, Op, ValueType, infer};
use ddnnc_passes::{ALIGNMENT, Buffer, BufferId, Device, DeviceError, Executable, Launch, Place, Program};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// An operator on operands of these types.
#[derive(Clone, Debug)]
pub struct Case {
    pub op: Op,
    pub operands: Vec<ValueType>,
}

/// A case with f32 operands of these extents.
pub fn case(op: Op, operands: &[&[usize]]) -> Case {
    Case { op, operands: operands.iter().map(|&d| ValueType::f32(d)).collect() }
}

impl Case {
    pub fn results(&self) -> Vec<ValueType> {
        if let Op::Store { .. } = self.op {
            return self.operands.clone();
        }
        if let Op::Constant { .. } = self.op {
            return vec![ValueType::f32([3, 41])];
        }
        let types: Vec<&ValueType> = self.operands.iter().collect();
        infer::result_types(&self.op, &types).expect("a legal case").to_vec()
    }

    /// Operands that the operator accepts: variances positive, labels in range, t at least one.
    pub fn draw(&self, seed: u64) -> Vec<Tensor> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let special = match &self.op {
            Op::Fused(group) => group::special(group),
            _ => Default::default(),
        };
        let positive: &[usize] = match self.op {
            Op::Fused(_) => &special.0,
            Op::Normalize { .. } | Op::NormalizeGradReduce { .. } | Op::NormalizeGradInput { .. } => &[2],
            Op::NormalizeGradFixed { .. } => &[0],
            Op::AdamwUpdate { .. } => &[3],
            _ => &[],
        };
        let wide = matches!(self.op, Op::Unary { .. } | Op::UnaryGrad { .. });
        let coarse = matches!(self.op, Op::MaxPool(_) | Op::MaxPoolGrad(_));
        let mut draw = |i: usize, ty: &ValueType| {
            let classes = self.operands[0].dims().get(1).copied().unwrap_or(1).max(1);
            let mut one = || match ty.dtype {
                DType::I64 => rng.random_range(0..classes) as f64,
                DType::F32 if positive.contains(&i) => f64::from(rng.random_range(0.3f32..2.0)),
                // Far enough to reach every piece of a function.
                DType::F32 if wide => f64::from(rng.random_range(-8.0f32..8.0)),
                // Few numbers, so that windows have ties.
                DType::F32 if coarse => f64::from(rng.random_range(-2i8..2)),
                DType::F32 | DType::Bf16 => f64::from(rng.random_range(-2.0f32..2.0)),
            };
            let mut data: Vec<f64> = (0..ty.elements()).map(|_| one()).collect();
            if matches!(self.op, Op::AdamwUpdate { .. }) && i == 5 || special.1.contains(&i) {
                data[0] = 3.0;
            }
            if let Op::RelationDistance
            | Op::RelationDistanceGrad
            | Op::RelationAngle
            | Op::RelationAngleGrad = self.op
            {
                let [samples, len] = [self.operands[0].dims()[0], self.operands[0].dims()[1]];
                if i == 0 && samples > 3 {
                    // Two equal embeddings.
                    data.copy_within(..len, (samples - 1) * len);
                }
                if i == 2 {
                    // So that gradients are of the size of 1.
                    data[0] = 8.0 * samples as f64;
                }
            }
            // Derivatives from a result see results.
            if let Op::UnaryGrad { kind } = self.op
                && i == 0
                && kind.differentiates_from_result()
            {
                let x = Tensor { ty: ty.clone(), data };
                data = evaluate_op(&Op::Unary { kind }, &[&x], std::slice::from_ref(ty)).expect("unary")[0]
                    .data
                    .clone();
                data.iter_mut().for_each(|v| *v = f64::from(*v as f32));
            }
            if ty.dtype == DType::Bf16 {
                data.iter_mut().for_each(|v| *v = to_bf16(*v));
            }
            Tensor { ty: ty.clone(), data }
        };
        self.operands.iter().enumerate().map(|(i, ty)| draw(i, ty)).collect()
    }

    /// What the reference says.
    pub fn reference(&self, operands: &[Tensor]) -> Vec<Vec<f64>> {
        if let Op::Store { .. } = self.op {
            return vec![operands[0].data.clone()];
        }
        let operands: Vec<&Tensor> = operands.iter().collect();
        let results = evaluate_op(&self.op, &operands, &self.results()).expect("the reference evaluates");
        results.into_iter().map(|t| t.data).collect()
    }

    /// The program of this one launch, whose operands and results are converted from and to row-major f32 where they
    /// are something else; result r lies on operand `over[r]`.
    pub fn program(&self, over: &[Option<usize>]) -> Program {
        let mut program = empty();
        let mut launch = Launch {
            op: self.op.clone(),
            operands: Vec::new(),
            results: Vec::new(),
            path: "here".to_owned(),
        };
        for (i, ty) in self.operands.iter().enumerate() {
            let id = add_input(&mut program, &format!("x{i}"), ty);
            launch.operands.push(id);
        }
        for (r, ty) in self.results().iter().enumerate() {
            let place = over.get(r).copied().flatten().map(|i| program.buffer(launch.operands[i]).place);
            let id = add(&mut program, ty, place);
            launch.results.push(id);
        }
        let results = launch.results.clone();
        program.launches.push(launch);
        for (r, id) in results.into_iter().enumerate() {
            add_output(&mut program, &format!("y{r}"), id);
        }
        program
    }

    /// What a device says.
    pub fn run(
        &self,
        device: &dyn Device,
        operands: &[Tensor],
        over: &[Option<usize>],
    ) -> Result<Vec<Vec<f32>>, DeviceError> {
        let program = self.program(over);
        let mut executable = device.load(&program)?;
        for (i, t) in operands.iter().enumerate() {
            let name = format!("x{i}");
            match t.ty.dtype {
                DType::F32 | DType::Bf16 => {
                    executable.write_f32(&name, &t.data.iter().map(|&x| x as f32).collect::<Vec<_>>())?
                }
                DType::I64 => {
                    executable.write_i64(&name, &t.data.iter().map(|&x| x as i64).collect::<Vec<_>>())?
                }
            }
        }
        let types = self.results();
        let read = |executable: &dyn Executable| -> Result<Vec<Vec<f32>>, DeviceError> {
            let one = |(r, ty): (usize, &ValueType)| {
                let mut data = vec![f32::NAN; ty.elements()];
                executable.read_f32(&format!("y{r}"), &mut data).map(|()| data)
            };
            types.iter().enumerate().map(one).collect()
        };
        executable.run()?;
        let results = read(executable.as_ref())?;
        if over.iter().all(Option::is_none) {
            // Once more, on what the first run left in the results and the workspace: nothing of it may be read.
            executable.run()?;
            let again = read(executable.as_ref())?;
            let bits = |all: &[Vec<f32>]| all.iter().flatten().map(|x| x.to_bits()).collect::<Vec<u32>>();
            assert_eq!(bits(&results), bits(&again), "a second run gives other bits: {self:?}");
        }
        Ok(results)
    }
}

/// The losses of relations and their gradients, on embeddings that are nearly equal: a thousand and thousandths.
pub fn crowded_relations() -> Vec<(Case, Vec<Tensor>)> {
    let dims: [&[usize]; 3] = [&[9, 20], &[9, 33], &[]];
    let ops = [Op::RelationDistance, Op::RelationDistanceGrad, Op::RelationAngle, Op::RelationAngleGrad];
    let crowded = |(i, op): (usize, Op)| {
        let count = if matches!(op, Op::RelationDistance | Op::RelationAngle) { 2 } else { 3 };
        let case = case(op, &dims[..count]);
        let mut operands = case.draw(40 + i as u64);
        for x in operands[..2].iter_mut().flat_map(|t| &mut t.data) {
            *x = f64::from((1000.0 + 1e-3 * *x) as f32);
        }
        (case, operands)
    };
    ops.into_iter().enumerate().map(crowded).collect()
}

/// The distance of neighbouring bf16 numbers at x, and at 1 for smaller ones.
pub fn bf16_ulp(x: f64) -> f64 {
    (x.abs().max(1.0).log2().floor() - 7.0).exp2()
}

/// A program of nothing.
pub fn empty() -> Program {
    Program {
        name: "one".to_owned(),
        buffers: Vec::new(),
        launches: Vec::new(),
        inputs: Default::default(),
        outputs: Default::default(),
        persistent: Default::default(),
        arena_bytes: 0,
        persistent_bytes: 0,
    }
}

/// Adds a launch of one operand and one result of that type.
fn then(program: &mut Program, op: Op, from: BufferId, ty: &ValueType) -> BufferId {
    let id = add(program, ty, None);
    program.launches.push(Launch { op, operands: vec![from], results: vec![id], path: String::new() });
    id
}

/// Adds an input of that name, row-major and f32 unless it is i64, and its conversion to the type.
pub fn add_input(program: &mut Program, name: &str, ty: &ValueType) -> BufferId {
    let mut at = match ty.dtype {
        DType::I64 => ty.clone(),
        _ => ValueType::f32(ty.shape.clone()),
    };
    let mut id = add(program, &at, None);
    program.inputs.insert(name.to_owned(), id);
    if at.dtype != ty.dtype {
        at.dtype = ty.dtype;
        id = then(program, Op::Cast { dtype: ty.dtype }, id, &at);
    }
    if at.layout != ty.layout {
        id = then(program, Op::ConvertLayout { layout: ty.layout }, id, ty);
    }
    id
}

/// Adds an output of that name: the conversion of a value to row-major f32.
pub fn add_output(program: &mut Program, name: &str, mut id: BufferId) {
    let mut at = program.buffer(id).ty.clone();
    if at.layout != Layout::RowMajor {
        at.layout = Layout::RowMajor;
        id = then(program, Op::ConvertLayout { layout: Layout::RowMajor }, id, &at);
    }
    if at.dtype == DType::Bf16 {
        at.dtype = DType::F32;
        id = then(program, Op::Cast { dtype: DType::F32 }, id, &at);
    }
    program.outputs.insert(name.to_owned(), id);
}

/// The operands that may be bf16.
fn reals(op: &Op, count: usize) -> Vec<usize> {
    match op {
        Op::BiasAdd | Op::Normalize { .. } | Op::Dropout { .. } => vec![0],
        Op::NormalizeGradReduce { .. } => vec![0, 3],
        Op::NormalizeGradInput { .. } => vec![0, 4],
        Op::NormalizeGradFixed { .. } => vec![2],
        _ => (0..count).collect(),
    }
}

/// The case row-major and channels-last, f32 and bf16, as far as the operator and the device take it.
fn versions(case: &Case) -> Vec<Case> {
    let mut all = vec![case.clone()];
    let mut rows = case.clone();
    let weight = matches!(case.op, Op::Conv2d(_) | Op::Conv2dGradInput { .. });
    for (i, ty) in rows.operands.iter_mut().enumerate() {
        if ty.shape.rank() == 4 && !(weight && i == 1) {
            ty.layout = Layout::ChannelsLast;
        }
    }
    if let Op::Broadcast { shape, layout, .. } = &mut rows.op
        && shape.rank() == 4
    {
        *layout = Layout::ChannelsLast;
        rows.operands[0].layout = Layout::RowMajor;
    }
    if rows.operands != case.operands || rows.op != case.op {
        // Maps row-major are for moves, sums and what is elementwise; the rest takes channels-last ones.
        let channels = matches!(
            case.op,
            Op::BiasAdd
                | Op::ChannelStats
                | Op::Normalize { .. }
                | Op::NormalizeGradReduce { .. }
                | Op::NormalizeGradInput { .. }
                | Op::NormalizeGradFixed { .. }
                | Op::Conv2d(_)
                | Op::Conv2dGradInput { .. }
                | Op::Conv2dGradWeight { .. }
                | Op::MaxPool(_)
                | Op::MaxPoolGrad(_)
                | Op::AvgPool(_)
                | Op::AvgPoolGrad { .. }
        );
        if channels {
            all.clear();
        }
        all.push(rows);
    }
    for mut half in all.clone() {
        for i in reals(&half.op, half.operands.len()) {
            half.operands[i].dtype = DType::Bf16;
        }
        all.push(half);
    }
    all.retain(|case| {
        let types: Vec<&ValueType> = case.operands.iter().collect();
        matches!(case.op, Op::Store { .. } | Op::Constant { .. })
            || infer::result_types(&case.op, &types).is_ok()
    });
    all
}

/// Cases of every operator that is launched, at several shapes, in every representation.
pub fn cases() -> Vec<Case> {
    plain_cases().iter().flat_map(versions).collect()
}

/// Adds a buffer, at a place of its own unless one is given.
pub fn add(program: &mut Program, ty: &ValueType, place: Option<Place>) -> BufferId {
    let id = BufferId(program.buffers.len() as u32);
    let place = place.unwrap_or_else(|| {
        let offset = program.arena_bytes;
        program.arena_bytes += ty.bytes().max(1).next_multiple_of(ALIGNMENT);
        Place::Arena { offset }
    });
    program.buffers.push(Buffer { ty: ty.clone(), place });
    id
}

fn conv(stride: [usize; 2], pad: [usize; 2], dilation: [usize; 2], groups: usize) -> ddnnc_ir::Conv {
    ddnnc_ir::Conv { stride, pad, dilation, groups }
}

/// Cases of every operator that is launched, row-major and f32.
fn plain_cases() -> Vec<Case> {
    use ddnnc_ir::{BinaryKind, Pool, ReduceKind, Shape, UnaryKind};
    let mut cases =
        vec![case(Op::Constant { value: 0.1 }, &[]), case(Op::Store { name: "s".to_owned() }, &[&[7, 9]])];
    let shapes: [&[usize]; 5] = [&[1], &[63], &[2, 3, 5, 7], &[4, 64], &[3, 8191]];
    for dims in shapes {
        for kind in UnaryKind::ALL {
            cases.push(case(Op::Unary { kind }, &[dims]));
            cases.push(case(Op::UnaryGrad { kind }, &[dims, dims]));
        }
        for kind in [BinaryKind::Add, BinaryKind::Sub, BinaryKind::Mul] {
            cases.push(case(Op::Binary { kind }, &[dims, dims]));
        }
        cases.push(case(Op::Scale { factor: -0.3 }, &[dims]));
        cases.push(Case {
            op: Op::Dropout { p: 0.4, site: 11 },
            operands: vec![ValueType::f32(dims), ValueType::i64([2])],
        });
        cases.push(case(Op::Ema { momentum: 0.1, scale: 1.25 }, &[dims, dims]));
        for (momentum, nesterov) in [(0.0, false), (0.9, false), (0.9, true)] {
            let op = Op::SgdUpdate { momentum, nesterov, weight_decay: 0.01 };
            let operands: &[&[usize]] =
                if momentum == 0.0 { &[dims, dims, &[]] } else { &[dims, dims, dims, &[]] };
            cases.push(case(op, operands));
        }
        let adamw = Op::AdamwUpdate { beta1: 0.9, beta2: 0.99, eps: 1e-6, weight_decay: 0.01 };
        cases.push(case(adamw, &[dims, dims, dims, dims, &[], &[]]));
        cases.push(case(Op::MeanSquaredError, &[dims, dims]));
        cases.push(case(Op::MeanSquaredErrorGrad, &[dims, dims, &[]]));
    }
    let with_channels: [&[usize]; 5] = [&[1, 1, 2], &[5, 7], &[2, 3, 5, 7], &[3, 17, 8, 8], &[40, 2, 30, 30]];
    for dims in with_channels {
        let c: &[usize] = &dims[1..2];
        let eps = 1e-5;
        cases.push(case(Op::BiasAdd, &[dims, c]));
        cases.push(case(Op::ChannelStats, &[dims]));
        cases.push(case(Op::Normalize { eps, batch_stats: false }, &[dims, c, c, c, c]));
        cases.push(case(Op::NormalizeGradReduce { eps }, &[dims, c, c, dims]));
        cases.push(case(Op::NormalizeGradInput { eps }, &[dims, c, c, c, dims, c, c]));
        cases.push(case(Op::NormalizeGradFixed { eps }, &[c, c, dims]));
    }
    // (x, kernel, output channels, geometry)
    let convs = [
        ([1, 1, 1, 1], [1, 1], 1, conv([1, 1], [0, 0], [1, 1], 1)),
        ([2, 3, 9, 11], [3, 3], 5, conv([1, 1], [1, 1], [1, 1], 1)),
        ([3, 16, 8, 8], [3, 3], 16, conv([1, 1], [1, 1], [1, 1], 1)),
        ([20, 4, 9, 7], [3, 3], 70, conv([2, 2], [1, 1], [1, 1], 1)),
        ([2, 70, 8, 8], [3, 3], 66, conv([1, 1], [1, 1], [1, 1], 1)),
        ([2, 20, 6, 5], [1, 1], 33, conv([2, 2], [0, 0], [1, 1], 1)),
        ([1, 130, 7, 7], [3, 3], 48, conv([1, 1], [1, 1], [1, 1], 1)),
        ([1, 3, 33, 31], [7, 7], 8, conv([2, 2], [3, 3], [1, 1], 1)),
        ([2, 4, 11, 12], [3, 2], 6, conv([3, 1], [2, 0], [2, 3], 1)),
        ([2, 3, 3, 3], [1, 1], 2, conv([1, 1], [2, 1], [1, 1], 1)),
        ([2, 8, 9, 9], [3, 3], 12, conv([2, 1], [1, 2], [1, 2], 4)),
        // Strides with phases that no tap reaches, that share a divisor with the dilation, that exceed the map, and
        // more products than one panel is deep.
        ([2, 3, 11, 10], [3, 2], 4, conv([4, 3], [0, 1], [1, 1], 1)),
        ([2, 3, 12, 13], [3, 3], 4, conv([2, 4], [2, 3], [2, 6], 1)),
        ([1, 4, 3, 2], [3, 3], 6, conv([5, 4], [2, 1], [1, 1], 2)),
        ([1, 21, 9, 9], [3, 3], 140, conv([2, 2], [1, 1], [1, 1], 1)),
        ([2, 6, 10, 9], [3, 3], 6, conv([1, 1], [1, 1], [1, 1], 6)),
        ([2, 6, 10, 9], [3, 3], 6, conv([2, 2], [1, 1], [1, 1], 6)),
        ([1, 5, 12, 25], [5, 3], 5, conv([2, 1], [3, 4], [2, 2], 5)),
        ([2, 3, 7, 7], [3, 3], 6, conv([1, 1], [1, 1], [1, 1], 3)),
    ];
    for (x, kernel, out, c) in convs {
        let w = [out, x[1] / c.groups, kernel[0], kernel[1]];
        let [h, ww] = c.output([x[2], x[3]], kernel).expect("the kernel fits");
        let y = [x[0], out, h, ww];
        cases.push(case(Op::Conv2d(c), &[&x, &w]));
        cases.push(case(Op::Conv2dGradInput { conv: c, input: [x[2], x[3]] }, &[&y, &w]));
        cases.push(case(Op::Conv2dGradWeight { conv: c, kernel }, &[&x, &y]));
    }
    for [m, k, n] in
        [[1, 1, 1], [7, 5, 3], [128, 64, 10], [65, 1030, 130], [100, 3, 520], [2, 3, 300], [300, 2, 1]]
    {
        for (transpose_a, transpose_b) in [(false, false), (false, true), (true, false), (true, true)] {
            let a = if transpose_a { [k, m] } else { [m, k] };
            let b = if transpose_b { [n, k] } else { [k, n] };
            cases.push(case(Op::MatMul { transpose_a, transpose_b }, &[&a, &b]));
        }
    }
    let pools = [
        ([2, 3, 6, 6], Pool { kernel: [2, 2], stride: [2, 2], pad: [0, 0] }),
        ([2, 3, 9, 8], Pool { kernel: [3, 3], stride: [2, 2], pad: [1, 1] }),
        ([1, 2, 7, 5], Pool { kernel: [3, 2], stride: [1, 3], pad: [2, 1] }),
        ([1, 1, 8, 8], Pool { kernel: [2, 2], stride: [3, 3], pad: [0, 0] }),
        ([1, 21, 7, 6], Pool { kernel: [3, 3], stride: [2, 1], pad: [1, 0] }),
    ];
    for (x, pool) in pools {
        let [h, w] = pool.output([x[2], x[3]]).expect("the window fits");
        let y = [x[0], x[1], h, w];
        cases.push(case(Op::MaxPool(pool), &[&x]));
        cases.push(case(Op::MaxPoolGrad(pool), &[&x, &y]));
        cases.push(case(Op::AvgPool(pool), &[&x]));
        cases.push(case(Op::AvgPoolGrad { pool, input: [x[2], x[3]] }, &[&y]));
    }
    for (axis, dims) in
        [[[2, 3, 4], [5, 3, 4]], [[2, 3, 4], [2, 1, 4]], [[2, 3, 4], [2, 3, 9]]].iter().enumerate()
    {
        cases.push(case(Op::Concat { axis }, &[&dims[0], &dims[1], &dims[0]]));
        cases.push(case(Op::Slice { axis, start: 1, len: 2 }, &[&[4, 5, 6]]));
        cases.push(case(Op::Pad { axis, start: 2, total: 9 }, &[&[4, 5, 6]]));
    }
    let all: [&[usize]; 12] =
        [&[], &[0], &[1], &[2], &[3], &[0, 1], &[0, 2], &[1, 3], &[2, 3], &[1, 2], &[0, 2, 3], &[0, 1, 2, 3]];
    for dims in [[2usize, 3, 5, 70], [6, 1, 9, 4], [3, 33, 1, 1]] {
        for axes in all {
            for kind in [ReduceKind::Sum, ReduceKind::Mean] {
                cases.push(case(Op::Reduce { kind, axes: axes.to_vec() }, &[&dims]));
            }
            let x: Vec<usize> = axes.iter().map(|&a| dims[a]).collect();
            cases.push(case(
                Op::Broadcast { shape: Shape::from(dims), axes: axes.to_vec(), layout: Layout::RowMajor },
                &[&x],
            ));
        }
    }
    for dims in [[2usize, 3, 5, 7], [3, 40, 17, 1], [2, 1, 4, 4], [5, 19, 1, 1]] {
        for layout in [Layout::RowMajor, Layout::ChannelsLast] {
            cases.push(case(Op::ConvertLayout { layout }, &[&dims]));
        }
        for dtype in [DType::F32, DType::Bf16] {
            cases.push(case(Op::Cast { dtype }, &[&dims]));
        }
        for axis in 0..4 {
            cases.push(case(Op::Concat { axis }, &[&dims, &dims]));
            cases.push(case(Op::Slice { axis, start: dims[axis] / 2, len: 1 }, &[&dims]));
            cases.push(case(Op::Pad { axis, start: 2, total: dims[axis] + 3 }, &[&dims]));
        }
    }
    let samples: [&[usize]; 3] = [&[1, 2], &[3, 4, 5], &[9, 1000]];
    for dims in samples {
        cases.push(case(Op::Standardize { eps: 1e-5 }, &[dims]));
        cases.push(case(Op::StandardizeGrad { eps: 1e-5 }, &[dims, dims]));
        for eps in [1e-12, 1e3] {
            cases.push(case(Op::L2Normalize { eps }, &[dims]));
            cases.push(case(Op::L2NormalizeGrad { eps }, &[dims, dims]));
        }
    }
    for dims in [[1, 1], [5, 10], [70, 100]] {
        cases.push(case(Op::Softmax, &[&dims]));
        cases.push(case(Op::SoftmaxGrad, &[&dims, &dims]));
        cases.push(case(Op::LogSoftmax, &[&dims]));
        cases.push(case(Op::LogSoftmaxGrad, &[&dims, &dims]));
        for smoothing in [0.0, 0.1] {
            let logits = ValueType::f32(dims);
            let labels = ValueType::i64([dims[0]]);
            cases.push(Case {
                op: Op::CrossEntropy { smoothing },
                operands: vec![logits.clone(), labels.clone()],
            });
            cases.push(Case {
                op: Op::CrossEntropyGrad { smoothing },
                operands: vec![logits, labels, ValueType::scalar()],
            });
        }
        for temperature in [1.0, 4.0] {
            cases.push(case(Op::KlDivergence { temperature }, &[&dims, &dims]));
            cases.push(case(Op::KlGradTeacher { temperature }, &[&dims, &dims, &[]]));
            cases.push(case(Op::KlGradStudent { temperature }, &[&dims, &dims, &[]]));
        }
    }
    for (a, b) in
        [([1, 4], [1, 4]), ([3, 2], [3, 5]), ([6, 1], [6, 1]), ([19, 40], [19, 7]), ([35, 3], [35, 16])]
    {
        for (loss, grad) in
            [(Op::RelationDistance, Op::RelationDistanceGrad), (Op::RelationAngle, Op::RelationAngleGrad)]
        {
            cases.push(case(loss, &[&a, &b]));
            cases.push(case(grad, &[&a, &b, &[]]));
        }
    }
    cases
}

/// The number of a launched operator; `None` for names of memory.
pub fn number(op: &Op) -> Option<usize> {
    Some(match op {
        Op::Input { .. } | Op::Parameter { .. } | Op::State { .. } | Op::Output { .. } => return None,
        Op::StopGradient | Op::Reshape { .. } | Op::Fused(_) => return None,
        Op::Constant { .. } => 0,
        Op::Store { .. } => 1,
        Op::Unary { .. } => 2,
        Op::UnaryGrad { .. } => 3,
        Op::Binary { .. } => 4,
        Op::Scale { .. } => 5,
        Op::BiasAdd => 6,
        Op::Dropout { .. } => 7,
        Op::Conv2d(_) => 8,
        Op::Conv2dGradInput { .. } => 9,
        Op::Conv2dGradWeight { .. } => 10,
        Op::MatMul { .. } => 11,
        Op::ChannelStats => 12,
        Op::Normalize { .. } => 13,
        Op::NormalizeGradReduce { .. } => 14,
        Op::NormalizeGradInput { .. } => 15,
        Op::NormalizeGradFixed { .. } => 16,
        Op::Ema { .. } => 17,
        Op::MaxPool(_) => 18,
        Op::MaxPoolGrad(_) => 19,
        Op::AvgPool(_) => 20,
        Op::AvgPoolGrad { .. } => 21,
        Op::Concat { .. } => 22,
        Op::Slice { .. } => 23,
        Op::Pad { .. } => 24,
        Op::Reduce { .. } => 25,
        Op::Broadcast { .. } => 26,
        Op::Standardize { .. } => 27,
        Op::StandardizeGrad { .. } => 28,
        Op::L2Normalize { .. } => 29,
        Op::L2NormalizeGrad { .. } => 30,
        Op::Softmax => 31,
        Op::SoftmaxGrad => 32,
        Op::LogSoftmax => 33,
        Op::LogSoftmaxGrad => 34,
        Op::CrossEntropy { .. } => 35,
        Op::CrossEntropyGrad { .. } => 36,
        Op::KlDivergence { .. } => 37,
        Op::KlGradTeacher { .. } => 38,
        Op::KlGradStudent { .. } => 39,
        Op::MeanSquaredError => 40,
        Op::MeanSquaredErrorGrad => 41,
        Op::SgdUpdate { .. } => 42,
        Op::AdamwUpdate { .. } => 43,
        Op::Cast { .. } => 44,
        Op::ConvertLayout { .. } => 45,
        Op::RelationDistance => 46,
        Op::RelationDistanceGrad => 47,
        Op::RelationAngle => 48,
        Op::RelationAngleGrad => 49,
    })
}

/// How many operators are launched.
pub const LAUNCHED: usize = 50;
