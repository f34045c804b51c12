//! The training steps of `compare.py` in burn, on its CPU backend `flex`: the same layers, loss and update as in
//! `twins.py`, one process for one measurement; f32, one net.
//!
//! `burn-twin resnet18 --threads 2 --steps 5` prints one JSON object: the median of the steps, the loss, the largest
//! resident set, and the seconds from the start of the process to the end of the first step.

use burn::backend::{Autodiff, Flex};
use burn::module::Module;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::loss::CrossEntropyLossConfig;
use burn::nn::pool::{AdaptiveAvgPool2d, AdaptiveAvgPool2dConfig};
use burn::nn::{BatchNorm, BatchNormConfig, Linear, LinearConfig, PaddingConfig2d};
use burn::optim::decay::WeightDecayConfig;
use burn::optim::momentum::MomentumConfig;
use burn::optim::{GradientsParams, Optimizer, SgdConfig};
use burn::tensor::activation::relu;
use burn::tensor::backend::Backend;
use burn::tensor::{Distribution, Int, Tensor};
use clap::Parser;
use std::time::Instant;

type Cpu = Autodiff<Flex>;

/// Steps before the clock runs, as in `ddnnc bench`.
const WARM_UP: usize = 2;

#[derive(Parser)]
struct Arguments {
    /// resnet18 or resnet50, with a 3×3 stem for 32×32 images
    net: String,
    #[arg(long, default_value_t = 2)]
    threads: usize,
    #[arg(long, default_value_t = 5)]
    steps: usize,
    /// Images of a step; by default those of the spec
    #[arg(long)]
    batch: Option<usize>,
    /// Prints the number of parameters, and measures nothing
    #[arg(long)]
    count: bool,
}

/// A convolution without bias, and its norm.
#[derive(Module, Debug)]
struct Unit<B: Backend> {
    conv: Conv2d<B>,
    norm: BatchNorm<B>,
}

impl<B: Backend> Unit<B> {
    fn new(from: usize, to: usize, kernel: usize, stride: usize, device: &B::Device) -> Unit<B> {
        let pad = kernel / 2;
        let conv = Conv2dConfig::new([from, to], [kernel; 2])
            .with_stride([stride; 2])
            .with_padding(PaddingConfig2d::Explicit(pad, pad, pad, pad))
            .with_bias(false);
        Unit { conv: conv.init(device), norm: BatchNormConfig::new(to).init(device) }
    }

    fn forward(&self, x: Tensor<B, 4>) -> Tensor<B, 4> {
        self.norm.forward(self.conv.forward(x))
    }
}

/// A basic block of two units, or a bottleneck of three.
#[derive(Module, Debug)]
struct Block<B: Backend> {
    units: Vec<Unit<B>>,
    projection: Option<Unit<B>>,
}

impl<B: Backend> Block<B> {
    fn new(bottleneck: bool, from: usize, width: usize, stride: usize, device: &B::Device) -> Block<B> {
        let unit = |from, to, kernel, stride| Unit::new(from, to, kernel, stride, device);
        let out = if bottleneck { 4 * width } else { width };
        let units = if bottleneck {
            vec![unit(from, width, 1, 1), unit(width, width, 3, stride), unit(width, out, 1, 1)]
        } else {
            vec![unit(from, width, 3, stride), unit(width, out, 3, 1)]
        };
        let projection = (stride != 1 || from != out).then(|| unit(from, out, 1, stride));
        Block { units, projection }
    }

    fn forward(&self, x: Tensor<B, 4>) -> Tensor<B, 4> {
        let skip = match &self.projection {
            Some(projection) => projection.forward(x.clone()),
            None => x.clone(),
        };
        let last = self.units.len() - 1;
        let inner = self.units[..last].iter().fold(x, |x, unit| relu(unit.forward(x)));
        relu(self.units[last].forward(inner) + skip)
    }
}

#[derive(Module, Debug)]
struct Net<B: Backend> {
    stem: Unit<B>,
    blocks: Vec<Block<B>>,
    pool: AdaptiveAvgPool2d,
    head: Linear<B>,
}

impl<B: Backend> Net<B> {
    fn new(bottleneck: bool, depths: [usize; 4], device: &B::Device) -> Net<B> {
        let (mut blocks, mut from) = (Vec::new(), 64);
        for (stage, depth) in depths.into_iter().enumerate() {
            let width = 64 << stage;
            for i in 0..depth {
                let stride = if i == 0 && stage > 0 { 2 } else { 1 };
                blocks.push(Block::new(bottleneck, from, width, stride, device));
                from = if bottleneck { 4 * width } else { width };
            }
        }
        Net {
            stem: Unit::new(3, 64, 3, 1, device),
            blocks,
            pool: AdaptiveAvgPool2dConfig::new([1, 1]).init(),
            head: LinearConfig::new(from, 10).init(device),
        }
    }

    fn units(&self) -> impl Iterator<Item = &Unit<B>> {
        let blocks = self.blocks.iter().flat_map(|block| block.units.iter().chain(&block.projection));
        std::iter::once(&self.stem).chain(blocks)
    }

    fn forward(&self, x: Tensor<B, 4>) -> Tensor<B, 2> {
        let x = relu(self.stem.forward(x));
        let x = self.blocks.iter().fold(x, |x, block| block.forward(x));
        self.head.forward(self.pool.forward(x).flatten::<2>(1, 3))
    }
}

/// The largest resident set, in bytes.
fn peak_rss() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().trim_end_matches("kB").trim().parse::<u64>().ok()? * 1024)
}

fn main() {
    let started = Instant::now();
    let arguments = Arguments::parse();
    let (bottleneck, depths, batch) = match arguments.net.as_str() {
        "resnet18" => (false, [2, 2, 2, 2], 128),
        "resnet50" => (true, [3, 4, 6, 3], 32),
        other => {
            eprintln!("`{other}` is neither resnet18 nor resnet50");
            std::process::exit(2);
        }
    };
    let batch = arguments.batch.unwrap_or(batch);
    // SAFETY: no other thread runs yet.
    unsafe { std::env::set_var("RAYON_NUM_THREADS", arguments.threads.to_string()) };
    let device = Default::default();
    let mut net = Net::<Cpu>::new(bottleneck, depths, &device);
    if arguments.count {
        // burn counts running means and variances too, as many as gains and biases.
        let running: usize = net.units().map(|unit| unit.norm.gamma.shape().num_elements() * 2).sum();
        let parameters = net.num_params() - running;
        println!("{}", serde_json::json!({ "all_parameters": parameters, "batch": batch }));
        return;
    }
    let mut optimizer = SgdConfig::new()
        .with_momentum(Some(MomentumConfig { momentum: 0.9, dampening: 0.0, nesterov: false }))
        .with_weight_decay(Some(WeightDecayConfig::new(5e-4)))
        .init();
    let image = Tensor::<Cpu, 4>::random([batch, 3, 32, 32], Distribution::Uniform(-1.0, 1.0), &device);
    let labels: Vec<i32> = (0..batch).map(|i| (i % 10) as i32).collect();
    let label = Tensor::<Cpu, 1, Int>::from_ints(labels.as_slice(), &device);
    let loss = CrossEntropyLossConfig::new().init(&device);

    let (mut times, mut first, mut last) = (Vec::new(), 0.0, 0.0f32);
    for step in 0..WARM_UP + arguments.steps {
        let start = Instant::now();
        let value = loss.forward(net.forward(image.clone()), label.clone());
        let gradients = GradientsParams::from_grads(value.backward(), &net);
        net = optimizer.step(1e-3, net, gradients);
        last = value.into_scalar();
        if step == 0 {
            first = 1e3 * started.elapsed().as_secs_f64();
        }
        if step >= WARM_UP {
            times.push(1e3 * start.elapsed().as_secs_f64());
        }
    }
    times.sort_by(f64::total_cmp);
    let step_ms = times.get(times.len() / 2);
    println!(
        "{}",
        serde_json::json!({
            "model": arguments.net, "batch": batch, "precision": "f32", "threads": arguments.threads,
            "steps": arguments.steps, "step_ms": step_ms, "loss": last, "peak_rss_bytes": peak_rss(),
            "first_step_ms": first,
        })
    );
}
