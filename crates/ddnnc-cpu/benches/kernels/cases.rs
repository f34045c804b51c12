//! What is measured: the convolutions and linear layers of three networks for 32×32 images, and tile programs on their
//! activations.

use ddnnc_cases::Case;
use ddnnc_cases::group::Builder;
use ddnnc_ir::{BinaryKind, Conv, DType, GroupKind, Layout, Local, Op, UnaryKind, ValueType};

/// What a launch computes, as the table names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// y of x and w.
    Forward,
    /// dx of dy and w.
    Input,
    /// dw of x and dy.
    Weight,
    /// A tile program or an update.
    Rows,
}

impl Part {
    /// As the command line and the table have it.
    pub fn name(self) -> &'static str {
        match self {
            Part::Forward => "forward",
            Part::Input => "input",
            Part::Weight => "weight",
            Part::Rows => "rows",
        }
    }
}

/// One launch to measure.
#[derive(Clone, Debug)]
pub struct Bench {
    /// `resnet18`, `resnet50`, `resnet56`, `linear`, `rows`, or `given`.
    pub family: &'static str,
    /// The extents, or the extents and what is computed on them.
    pub shape: String,
    pub part: Part,
    pub dtype: DType,
    pub case: Case,
    /// The operand on whose memory each result lies.
    pub over: Vec<Option<usize>>,
    /// Multiplications and additions, by the definition of the operator.
    pub flops: f64,
    /// Bytes of all operands and results, each once.
    pub bytes: f64,
}

impl Bench {
    fn new(family: &'static str, shape: String, part: Part, dtype: DType, case: Case) -> Bench {
        let bytes = case.operands.iter().chain(&case.results()).map(ValueType::bytes).sum::<usize>() as f64;
        Bench { family, shape, part, dtype, case, over: Vec::new(), flops: 0.0, bytes }
    }

    /// Whether its time is compared with a copy of memory, not with arithmetic.
    pub fn moves(&self) -> bool {
        self.part == Part::Rows
    }
}

/// side, channels, outputs, kernel, stride, batch
pub type Shape = [usize; 6];

/// The distinct convolutions of a ResNet whose stages have these widths: of the stem, of the first block of every stage
/// and of those behind it.
fn resnet(batch: usize, stem: usize, widths: &[usize], bottleneck: bool) -> Vec<Shape> {
    let mut shapes = vec![[32, 3, stem, 3, 1, batch]];
    let (mut side, mut channels) = (32, stem);
    for (stage, &width) in widths.iter().enumerate() {
        let out = if bottleneck { 4 * width } else { width };
        for stride in [if stage > 0 { 2 } else { 1 }, 1] {
            let (before, after) = (side, side / stride);
            if bottleneck {
                shapes.push([before, channels, width, 1, 1, batch]);
                shapes.push([before, width, width, 3, stride, batch]);
                shapes.push([after, width, out, 1, 1, batch]);
            } else {
                shapes.push([before, channels, out, 3, stride, batch]);
                shapes.push([after, out, out, 3, 1, batch]);
            }
            if stride != 1 || channels != out {
                shapes.push([before, channels, out, 1, stride, batch]);
            }
            (side, channels) = (after, out);
        }
    }
    let mut seen = Vec::new();
    shapes.retain(|shape| {
        !seen.contains(shape) && {
            seen.push(*shape);
            true
        }
    });
    shapes
}

/// A convolution in its three directions, in f32 and bf16; the images' gradient is not needed where they are the input.
pub fn convolution(family: &'static str, shape: Shape) -> Vec<Bench> {
    let [side, channels, outputs, kernel, stride, batch] = shape;
    let pad = kernel / 2;
    let conv = Conv { stride: [stride; 2], pad: [pad; 2], dilation: [1; 2], groups: 1 };
    let output = (side + 2 * pad - kernel) / stride + 1;
    let mut all = Vec::new();
    for dtype in [DType::F32, DType::Bf16] {
        let map = |c, side| {
            ValueType::f32([batch, c, side, side]).with_layout(Layout::ChannelsLast).with_dtype(dtype)
        };
        let w = ValueType::f32([outputs, channels, kernel, kernel]).with_dtype(dtype);
        let (x, dy) = (map(channels, side), map(outputs, output));
        let mut parts = vec![
            (Part::Forward, Op::Conv2d(conv), vec![x.clone(), w.clone()]),
            (Part::Input, Op::Conv2dGradInput { conv, input: [side; 2] }, vec![dy.clone(), w]),
            (Part::Weight, Op::Conv2dGradWeight { conv, kernel: [kernel; 2] }, vec![x, dy]),
        ];
        parts.retain(|(part, ..)| *part != Part::Input || channels != 3);
        for (part, op, operands) in parts {
            let shape = format!("{side}x{channels}x{outputs}x{kernel}x{stride}x{batch}");
            let mut bench = Bench::new(family, shape, part, dtype, Case { op, operands });
            bench.flops = 2.0 * (batch * output * output * outputs * channels * kernel * kernel) as f64;
            all.push(bench);
        }
    }
    all
}

/// A linear layer in its three directions, of operands of f32 and of bf16; results are f32.
fn linear([batch, inputs, outputs]: [usize; 3]) -> Vec<Bench> {
    let product = |transpose_a, transpose_b| Op::MatMul { transpose_a, transpose_b };
    let mut all = Vec::new();
    for dtype in [DType::F32, DType::Bf16] {
        let ty = |dims| ValueType::f32(dims).with_dtype(dtype);
        let (x, w, dy) = (ty([batch, inputs]), ty([outputs, inputs]), ty([batch, outputs]));
        for (part, op, operands) in [
            (Part::Forward, product(false, true), vec![x.clone(), w.clone()]),
            (Part::Input, product(false, false), vec![dy.clone(), w]),
            (Part::Weight, product(true, false), vec![dy, x]),
        ] {
            let shape = format!("{batch}x{inputs}x{outputs}");
            let mut bench = Bench::new("linear", shape, part, dtype, Case { op, operands });
            bench.flops = 2.0 * (batch * inputs * outputs) as f64;
            all.push(bench);
        }
    }
    all
}

/// A launch of few elements, of which every thread has some.
pub fn small() -> Bench {
    let ty = ValueType::f32([2, 64, 32, 32]).with_layout(Layout::ChannelsLast);
    let relu = |b: &mut Builder| {
        let x = b.operand(ty.clone());
        b.steps(Op::Unary { kind: UnaryKind::Relu }, &[x])
    };
    Bench::new("rows", "small".into(), Part::Rows, DType::F32, group(relu))
}

fn group(build: impl FnOnce(&mut Builder) -> Vec<Local>) -> Case {
    let mut builder = Builder::new(GroupKind::Pointwise);
    let results = build(&mut builder);
    builder.finish(&results)
}

/// Tile programs of training steps on maps of these extents, and an update of as many weights.
fn rows(dims: [usize; 4]) -> Vec<Bench> {
    let relu = Op::Unary { kind: UnaryKind::Relu };
    let relu_grad = Op::UnaryGrad { kind: UnaryKind::Relu };
    let add = Op::Binary { kind: BinaryKind::Add };
    let eps = 1e-5;
    let mut all = Vec::new();
    for dtype in [DType::F32, DType::Bf16] {
        let ty = ValueType::f32(dims).with_layout(Layout::ChannelsLast).with_dtype(dtype);
        let vector = || ValueType::f32([dims[1]]);
        let normalize = |b: &mut Builder, x: Local| {
            let mut operands = vec![x];
            operands.extend((0..4).map(|_| b.operand(vector())));
            b.step(Op::Normalize { eps, batch_stats: false }, &operands)
        };
        let mut push = |what: &str, case: Case, over: Vec<Option<usize>>| {
            let [n, c, h, w] = dims;
            let mut bench = Bench::new("rows", format!("{n}x{c}x{h}x{w} {what}"), Part::Rows, dtype, case);
            bench.over = over;
            all.push(bench);
        };
        let copy = |b: &mut Builder| {
            let x = b.operand(ty.clone());
            b.steps(Op::StopGradient, &[x])
        };
        push("copy", group(copy), vec![]);
        let in_place = |b: &mut Builder| {
            let x = b.operand(ty.clone());
            b.steps(relu.clone(), &[x])
        };
        push("relu in place", group(in_place), vec![Some(0)]);
        let normal = |b: &mut Builder| {
            let x = b.operand(ty.clone());
            let y = normalize(b, x);
            b.steps(relu.clone(), &[y])
        };
        push("normalize, relu", group(normal), vec![]);
        let residual = |b: &mut Builder| {
            let (x, skip) = (b.operand(ty.clone()), b.operand(ty.clone()));
            let y = normalize(b, x);
            let y = b.step(add.clone(), &[y, skip]);
            b.steps(relu.clone(), &[y])
        };
        push("normalize, add, relu", group(residual), vec![]);
        let statistics = |b: &mut Builder| {
            let x = b.operand(ty.clone());
            b.steps(Op::ChannelStats, &[x])
        };
        push("channel_stats", group(statistics), vec![]);
        let reduce = |b: &mut Builder| {
            let [y, dy, x] = [(); 3].map(|()| b.operand(ty.clone()));
            let (mean, variance) = (b.operand(vector()), b.operand(vector()));
            let dy = b.step(relu_grad.clone(), &[y, dy]);
            let mut results = b.steps(Op::NormalizeGradReduce { eps }, &[x, mean, variance, dy]);
            results.push(dy);
            results
        };
        push("relu_grad, normalize_grad_reduce", group(reduce), vec![]);
        let input = |b: &mut Builder| {
            let x = b.operand(ty.clone());
            let [mean, variance, gain] = [(); 3].map(|()| b.operand(vector()));
            let dy = b.operand(ty.clone());
            let (dgain, dbias) = (b.operand(vector()), b.operand(vector()));
            b.steps(Op::NormalizeGradInput { eps }, &[x, mean, variance, gain, dy, dgain, dbias])
        };
        push("normalize_grad_input", group(input), vec![]);
        if dtype == DType::F32 {
            let op = Op::SgdUpdate { momentum: 0.9, nesterov: false, weight_decay: 5e-4 };
            let weights = || ValueType::f32([dims.iter().product::<usize>()]);
            let operands = vec![weights(), weights(), weights(), ValueType::f32([])];
            push("sgd_update", Case { op, operands }, vec![Some(0), Some(2)]);
        }
    }
    all
}

/// Everything that is measured by default.
pub fn all() -> Vec<Bench> {
    let networks = [
        ("resnet18", resnet(128, 64, &[64, 128, 256, 512], false)),
        ("resnet50", resnet(32, 64, &[64, 128, 256, 512], true)),
        ("resnet56", resnet(128, 16, &[16, 32, 64], false)),
    ];
    let mut benches = Vec::new();
    for (family, shapes) in networks {
        benches.extend(shapes.into_iter().flat_map(|shape| convolution(family, shape)));
    }
    // The heads of the three, and layers as wide as those of AlexNet and VGG.
    let layers = [[128, 512, 10], [32, 2048, 10], [128, 64, 100], [128, 1024, 1024], [128, 4096, 4096]];
    benches.extend(layers.into_iter().flat_map(linear));
    let maps = [[128, 64, 32, 32], [128, 512, 4, 4], [32, 256, 32, 32], [32, 2048, 4, 4], [128, 16, 32, 32]];
    benches.extend(maps.into_iter().flat_map(rows));
    benches
}
