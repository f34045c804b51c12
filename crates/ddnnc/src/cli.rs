//! The command line as clap reads it.

use crate::device_args::{CodeArgs, DeviceArgs};
use clap::{ArgGroup, Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;

/// A compiler for families of nested networks: one spec, one program that trains every sub-net at once.
#[derive(Debug, Parser)]
#[command(name = "ddnnc", version, after_help = FIRST_STEPS, max_term_width = 110)]
pub struct Cli {
    /// Colour on standard error
    #[arg(long, global = true, value_enum, default_value_t = Color::Auto)]
    pub color: Color,
    /// Print only errors and what was asked for
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

const FIRST_STEPS: &str = "First steps:
  ddnnc compile specs/quickstart.ddnn
  ddnnc train specs/quickstart.ddnn
  ddnnc eval runs/quickstart

Exit status: 0 done, 1 the input is wrong, 2 the command line is wrong, 3 the environment failed.";

/// When to colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Color {
    /// On a terminal
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

/// One command each; `commands/<name>.rs` does it.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Compile a spec and show what came of it
    #[command(
        after_help = "Examples:\n  ddnnc compile specs/resnet50_ekd.ddnn --batch 32\n  ddnnc compile specs/quickstart.ddnn --no-fuse\n  ddnnc compile specs/quickstart.ddnn --passes dead_code,share_prefixes,canonical,assign_layout,fuse --emit fused\n  ddnnc compile specs/quickstart.ddnn --emit cuda --arch sm_90 -o quickstart.cu\n  ddnnc compile specs/resnet50_ekd.ddnn --batch 256 --arch sm_90 --set train.precision=bf16"
    )]
    Compile(CompileArgs),
    /// Train every sub-net of a spec at once
    #[command(
        after_help = "Examples:\n  ddnnc train specs/quickstart.ddnn --set train.epochs=3 --out runs/try\n  ddnnc compile specs/quickstart.ddnn -o step.program && ddnnc train specs/quickstart.ddnn --program step.program\n  ddnnc train mine.ddnn --weights start.safetensors\n  ddnnc train specs/quickstart.ddnn --device cuda --tf32\n  ddnnc train specs/quickstart.ddnn --emulate --batch 8 --steps 20"
    )]
    Train(TrainArgs),
    /// Measure the accuracy of every sub-net
    #[command(
        after_help = "Examples:\n  ddnnc eval runs/quickstart\n  ddnnc eval specs/quickstart.ddnn --weights w.safetensors --split validation\n  ddnnc eval runs/quickstart --at-least 0.975\n  ddnnc eval runs/quickstart --cascade small,full\n  ddnnc eval runs/quickstart --device cuda"
    )]
    Eval(EvalArgs),
    /// Classify image files
    #[command(
        after_help = "Examples:\n  ddnnc predict runs/quickstart --subnet small digit.png\n  ddnnc predict small.safetensors digit.png\n  ddnnc predict runs/quickstart --cascade small,full --confidence 0.95 digit.png\n  ddnnc predict runs/quickstart --device cuda digit.png"
    )]
    Predict(PredictArgs),
    /// Write one sub-net as a model of its own
    #[command(
        after_help = "Examples:\n  ddnnc export runs/quickstart --subnet small -o small.safetensors\n  ddnnc export runs/quickstart --subnet small -o small.onnx\n  ddnnc export runs/quickstart --cascade small,full -o digits.onnx"
    )]
    Export(ExportArgs),
    /// Take over weights that bear other names
    #[command(
        after_help = "Examples:\n  ddnnc import specs/resnet50_ekd.ddnn --weights torchvision.safetensors --map names.json -o resnet50.safetensors\n  ddnnc import mine.ddnn --weights torchvision.safetensors --map names.json --except head -o start.safetensors"
    )]
    Import(ImportArgs),
    /// Run one step on given tensors, without an update; or write fresh weights
    #[command(
        after_help = "Examples:\n  ddnnc step specs/quickstart.ddnn --init w.safetensors --seed 1\n  ddnnc step specs/quickstart.ddnn --weights w.safetensors --batch b.safetensors --out g.safetensors\n  ddnnc step specs/quickstart.ddnn --weights w.safetensors --batch b.safetensors --emulate"
    )]
    Step(StepArgs),
    /// Show what a spec declares: nets, stages, losses, pairings, parameters
    #[command(after_help = "Example:\n  ddnnc inspect specs/quickstart.ddnn --parameters")]
    Inspect(InspectArgs),
    /// Measure the speed of the training step on random data
    #[command(
        after_help = "Examples:\n  ddnnc bench specs/cifar10_resnet20_ekd.ddnn --steps 20\n  ddnnc bench specs/cifar10_resnet20_ekd.ddnn --profile --profile-svg launches.svg\n  ddnnc bench specs/cifar10_resnet20_ekd.ddnn --device cuda --tf32"
    )]
    Bench(BenchArgs),
    /// Rewrite specs in the canonical form
    #[command(
        after_help = "Examples:\n  ddnnc fmt specs/quickstart.ddnn\n  ddnnc fmt --check specs/*.ddnn\n  ddnnc fmt - < spec.ddnn"
    )]
    Fmt(FmtArgs),
    /// Diagnose specs, and nothing else
    #[command(after_help = "Example:\n  ddnnc check specs/*.ddnn")]
    Check(CheckArgs),
    /// Read a graph as text, verify it, run passes, print it
    #[command(
        after_help = "Example:\n  ddnnc compile specs/quickstart.ddnn --emit ir | ddnnc opt - --pass share_prefixes"
    )]
    Opt(OptArgs),
    /// Describe a folder of training data
    #[command(after_help = "Example:\n  ddnnc data data/mnist --dataset mnist")]
    Data(DataArgs),
    /// Write a run's report.html anew from its metrics
    #[command(after_help = "Example:\n  ddnnc report runs/quickstart")]
    Report(ReportArgs),
}

/// A spec and what the command line changes in it.
#[derive(Debug, Args)]
pub struct SpecArgs {
    /// The spec file
    #[arg(value_name = "SPEC")]
    pub spec: PathBuf,
    /// Replace a setting of the spec: train.epochs=3, train.optimizer.lr=0.05, share.resnet.norm=shared, phase.warm.epochs=2, let.width=32
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
}

/// Which passes the compiler runs.
#[derive(Clone, Debug, Default, Args)]
pub struct PassArgs {
    /// Fuse nothing: every operator is a launch of its own, for every sub-net
    #[arg(long, conflicts_with = "passes")]
    pub no_fuse: bool,
    /// Compute no value again to save memory: fewer bytes moved, a higher peak
    #[arg(long, conflicts_with = "passes")]
    pub no_recompute: bool,
    /// Run these passes only, in this order; after a comma the next
    #[arg(long, value_name = "NAMES", value_delimiter = ',', value_parser = pass_parser())]
    pub passes: Option<Vec<String>>,
}

/// Of a training in phases, one.
#[derive(Debug, Args)]
pub struct PhaseArgs {
    /// The phase of the training, where the spec has several [default: the first]
    #[arg(long, value_name = "NAME")]
    pub phase: Option<String>,
}

/// Trained weights: a file, or the newest checkpoint of a run.
#[derive(Debug, Args)]
pub struct WeightArgs {
    /// A safetensors file with every parameter and running statistic
    #[arg(long, value_name = "FILE", conflicts_with = "run")]
    pub weights: Option<PathBuf>,
    /// A run folder, for its newest checkpoint
    #[arg(long, value_name = "RUN")]
    pub run: Option<PathBuf>,
}

/// The most images in a step.
const MAX_BATCH: i64 = 65_536;

fn batch_parser() -> clap::builder::RangedU64ValueParser<usize> {
    clap::builder::RangedU64ValueParser::new().range(1..=MAX_BATCH as u64)
}

/// `ddnnc compile`
#[derive(Debug, Args)]
pub struct CompileArgs {
    /// The spec
    #[command(flatten)]
    pub spec: SpecArgs,
    /// The phase
    #[command(flatten)]
    pub phase: PhaseArgs,
    /// Print a phase as text instead of the summary
    #[arg(long, value_enum, conflicts_with = "json")]
    pub emit: Option<Emit>,
    /// Write every phase into this folder
    #[arg(long, value_name = "DIR")]
    pub dump_phases: Option<PathBuf>,
    /// Write the program; with `--emit cuda|ptx|sass`, write that text
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Print the summary as one JSON object
    #[arg(long)]
    pub json: bool,
    /// Images in a step [default: the spec's]
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = batch_parser())]
    pub batch: Option<usize>,
    /// Print the memory plan instead of the summary; with a file name also draw it as SVG
    #[arg(long, value_name = "FILE", num_args = 0..=1, conflicts_with_all = ["emit", "json"])]
    pub memory: Option<Option<PathBuf>>,
    /// The training step, or inference
    #[arg(long, value_enum, default_value_t = StepMode::Train)]
    pub mode: StepMode,
    /// The kernels
    #[command(flatten)]
    pub code: CodeArgs,
    /// The passes
    #[command(flatten)]
    pub passes: PassArgs,
}

/// The phases that can be printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Emit {
    /// The syntax tree
    Ast,
    /// The forward graph, every net on its own
    Ir,
    /// Forward and backward
    Grad,
    /// The step after every pass
    Fused,
    /// Launches in order, with their buffers
    Schedule,
    /// CUDA C++ of every kernel, with the launches that use it
    Cuda,
    /// The same, compiled by NVRTC to PTX
    Ptx,
    /// The same, compiled by NVRTC to machine code and disassembled by nvdisasm
    Sass,
}

/// Training or inference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum StepMode {
    /// Batch statistics, gradients
    Train,
    /// Running statistics
    Eval,
}

/// `ddnnc train`
#[derive(Debug, Args)]
pub struct TrainArgs {
    /// The spec
    #[command(flatten)]
    pub spec: SpecArgs,
    /// The folder of training data [default: the spec's]
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// The run folder to make [default: runs/<model>]
    #[arg(long, value_name = "RUN")]
    pub out: Option<PathBuf>,
    /// Where it runs
    #[command(flatten)]
    pub device: DeviceArgs,
    /// Go on from the newest checkpoint of the run folder
    #[arg(long)]
    pub resume: bool,
    /// Stop after so many steps in all
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = clap::value_parser!(u64).range(1..))]
    pub steps: Option<u64>,
    /// Seed of everything random [default: the spec's]
    #[arg(long, value_name = "S", allow_negative_numbers = true, value_parser = clap::value_parser!(u64).range(..=i64::MAX as u64))]
    pub seed: Option<u64>,
    /// Images in a step [default: the spec's]
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = batch_parser())]
    pub batch: Option<usize>,
    /// Start from these weights (of `import`, a checkpoint, …) instead of initial values
    #[arg(long, value_name = "FILE")]
    pub weights: Option<PathBuf>,
    /// Run the training step of this file (`ddnnc compile SPEC -o FILE`) instead of compiling it
    #[arg(long, value_name = "FILE")]
    pub program: Option<PathBuf>,
    /// The passes
    #[command(flatten)]
    pub passes: PassArgs,
}

/// `ddnnc eval`
#[derive(Debug, Args)]
pub struct EvalArgs {
    /// A spec file, a run folder (its spec and newest checkpoint), or a file of `export`
    #[command(flatten)]
    pub spec: SpecArgs,
    /// The weights
    #[command(flatten)]
    pub weights: WeightArgs,
    /// The folder of data [default: the spec's]
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Which images
    #[arg(long, value_enum, default_value_t = SplitName::Test)]
    pub split: SplitName,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
    /// Exit with 1 where a net's accuracy is below this fraction
    #[arg(long, value_name = "FRACTION", allow_negative_numbers = true, value_parser = fraction)]
    pub at_least: Option<f64>,
    /// Images in a step [default: the spec's]
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = batch_parser())]
    pub batch: Option<usize>,
    /// Nets that are asked one after the other
    #[command(flatten)]
    pub cascade: CascadeArgs,
    /// Where it runs
    #[command(flatten)]
    pub device: DeviceArgs,
    /// The passes
    #[command(flatten)]
    pub passes: PassArgs,
}

/// Inference that stops early.
#[derive(Debug, Args)]
pub struct CascadeArgs {
    /// Ask these nets one after the other; the first that is sure enough answers
    #[arg(id = "cascade", long = "cascade", value_name = "NETS", value_delimiter = ',')]
    pub nets: Vec<String>,
    /// In a cascade, a net answers where its largest probability is at least this
    #[arg(long, value_name = "P", requires = "cascade", allow_negative_numbers = true, value_parser = fraction)]
    pub confidence: Option<f64>,
    /// In a cascade, a net answers where the entropy of its probabilities, in nats, is at most this
    #[arg(long, value_name = "H", requires = "cascade", conflicts_with = "confidence", allow_negative_numbers = true, value_parser = not_negative)]
    pub entropy: Option<f64>,
}

/// A number from 0 on.
fn not_negative(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(x) if x >= 0.0 && x.is_finite() => Ok(x),
        Ok(_) | Err(_) => Err("a number from 0 on is needed".to_string()),
    }
}

/// A number from 0 to 1.
fn fraction(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(x) if (0.0..=1.0).contains(&x) => Ok(x),
        Ok(_) | Err(_) => Err("a fraction from 0 to 1 is needed, 0.975 for 97.5 %".to_string()),
    }
}

/// The parts of a data set that can be measured on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SplitName {
    /// Images that training never sees
    Test,
    /// The part of the training set that is held out
    Validation,
}

/// `ddnnc predict`
#[derive(Debug, Args)]
pub struct PredictArgs {
    /// A spec file, a run folder, or a file of `export`
    #[command(flatten)]
    pub spec: SpecArgs,
    /// Image files
    #[arg(value_name = "IMAGE", required = true)]
    pub images: Vec<PathBuf>,
    /// The weights
    #[command(flatten)]
    pub weights: WeightArgs,
    /// The sub-net that answers [default: the first]
    #[arg(long, value_name = "NAME", conflicts_with = "cascade")]
    pub subnet: Option<String>,
    /// Nets that are asked one after the other
    #[command(flatten)]
    pub cascade: CascadeArgs,
    /// How many classes to name
    #[arg(long, value_name = "K", default_value_t = 5, allow_negative_numbers = true, value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..))]
    pub top: usize,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
    /// Where it runs
    #[command(flatten)]
    pub device: DeviceArgs,
    /// The passes
    #[command(flatten)]
    pub passes: PassArgs,
}

/// `ddnnc export`
#[derive(Debug, Args)]
pub struct ExportArgs {
    /// A spec file, a run folder, or a file of `export`
    #[command(flatten)]
    pub spec: SpecArgs,
    /// The weights
    #[command(flatten)]
    pub weights: WeightArgs,
    /// The sub-net, exit or network
    #[arg(long, value_name = "NAME", required_unless_present = "cascade", conflicts_with = "cascade")]
    pub subnet: Option<String>,
    /// Nets that are asked one after the other: an ONNX model of each, NAME.NET.onnx, of what those before it have not computed
    #[arg(long, value_name = "NETS", value_delimiter = ',')]
    pub cascade: Vec<String>,
    /// The file to write: as NAME.onnx an ONNX model, else safetensors; either says how images are prepared, and has the spec
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,
}

/// `ddnnc import`
#[derive(Debug, Args)]
pub struct ImportArgs {
    /// The spec
    #[command(flatten)]
    pub spec: SpecArgs,
    /// A safetensors file with other names
    #[arg(long, value_name = "FILE")]
    pub weights: PathBuf,
    /// A JSON object {"name in the file": "public name"}
    #[arg(long, value_name = "FILE")]
    pub map: Option<PathBuf>,
    /// Where several tensors have one shape, pair them in the order of their names
    #[arg(long)]
    pub by_order: bool,
    /// Leave out what bears this name or stands under it, in the file and in the model, where it keeps initial values: head, resnet.head, fc
    #[arg(long, value_name = "NAME")]
    pub except: Vec<String>,
    /// Seed of the initial values of what is left out [default: the spec's]
    #[arg(long, value_name = "S", requires = "except", allow_negative_numbers = true, value_parser = clap::value_parser!(u64).range(..=i64::MAX as u64))]
    pub seed: Option<u64>,
    /// The safetensors file to write
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,
}

/// `ddnnc step`
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("what").required(true).args(["weights", "init"])))]
pub struct StepArgs {
    /// The spec
    #[command(flatten)]
    pub spec: SpecArgs,
    /// The phase
    #[command(flatten)]
    pub phase: PhaseArgs,
    /// A safetensors file with every parameter and running statistic
    #[arg(long, value_name = "FILE", requires = "batch")]
    pub weights: Option<PathBuf>,
    /// A safetensors file with `image` (f32, N×C×H×W) and `label` (i64, N)
    #[arg(long, value_name = "FILE", conflicts_with = "init")]
    pub batch: Option<PathBuf>,
    /// Where the results go: logits, losses, gradients, running statistics
    #[arg(long, value_name = "FILE", conflicts_with = "init")]
    pub out: Option<PathBuf>,
    /// Write freshly initialised weights here instead
    #[arg(long, value_name = "FILE")]
    pub init: Option<PathBuf>,
    /// Seed of initial weights and dropout [default: the spec's]
    #[arg(long, value_name = "S", allow_negative_numbers = true, value_parser = clap::value_parser!(u64).range(..=i64::MAX as u64))]
    pub seed: Option<u64>,
    /// Training behaviour: batch statistics and dropout (the default)
    #[arg(long, conflicts_with = "eval")]
    pub train: bool,
    /// Inference behaviour: running statistics, no dropout
    #[arg(long)]
    pub eval: bool,
    /// Where it runs
    #[command(flatten)]
    pub device: DeviceArgs,
    /// The passes
    #[command(flatten)]
    pub passes: PassArgs,
}

/// `ddnnc inspect`
#[derive(Debug, Args)]
pub struct InspectArgs {
    /// The spec
    #[command(flatten)]
    pub spec: SpecArgs,
    /// The phase
    #[command(flatten)]
    pub phase: PhaseArgs,
    /// List every parameter and running statistic: name, dtype, shape, kind
    #[arg(long)]
    pub parameters: bool,
    /// Draw nets, blocks, losses and pairings as SVG into this file
    #[arg(long, value_name = "FILE")]
    pub graph: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// `ddnnc bench`
#[derive(Debug, Args)]
pub struct BenchArgs {
    /// The spec
    #[command(flatten)]
    pub spec: SpecArgs,
    /// The phase
    #[command(flatten)]
    pub phase: PhaseArgs,
    /// Images in a step [default: the spec's]
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = batch_parser())]
    pub batch: Option<usize>,
    /// Steps that are timed, after two that are not
    #[arg(long, value_name = "N", default_value_t = 10, allow_negative_numbers = true, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub steps: u32,
    /// Show what each launch takes, how it is computed, and its share of what the device can do at most
    #[arg(long)]
    pub profile: bool,
    /// Draw the profile as SVG into this file
    #[arg(long, value_name = "FILE")]
    pub profile_svg: Option<PathBuf>,
    /// How many of the slowest launches the profile lists
    #[arg(long, value_name = "N", default_value_t = 20, allow_negative_numbers = true)]
    pub top: usize,
    /// Where it runs
    #[command(flatten)]
    pub device: DeviceArgs,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
    /// The passes
    #[command(flatten)]
    pub passes: PassArgs,
}

/// `ddnnc fmt`
#[derive(Debug, Args)]
pub struct FmtArgs {
    /// Spec files, or - for standard input to standard output
    #[arg(value_name = "SPEC", required = true)]
    pub specs: Vec<PathBuf>,
    /// Change nothing; exit with 1 where a file is not in canonical form
    #[arg(long)]
    pub check: bool,
}

/// `ddnnc check`
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// Spec files
    #[arg(value_name = "SPEC", required = true)]
    pub specs: Vec<PathBuf>,
}

/// `ddnnc opt`
#[derive(Debug, Args)]
pub struct OptArgs {
    /// A file with a graph as text, or - for standard input
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// A pass to run; several run in the order given
    #[arg(long = "pass", value_name = "NAME", value_parser = pass_parser())]
    pub passes: Vec<String>,
}

/// The names of the passes.
fn pass_parser() -> clap::builder::PossibleValuesParser {
    ddnnc_passes::PASSES.iter().map(|(name, _)| *name).collect::<Vec<_>>().into()
}

/// `ddnnc data`
#[derive(Debug, Args)]
pub struct DataArgs {
    /// The folder
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
    /// Its format
    #[arg(long, value_enum)]
    pub dataset: DatasetName,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// The formats of training data by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum DatasetName {
    /// IDX files, gzip or plain
    Mnist,
    /// CIFAR-10 binary batches
    Cifar10,
    /// CIFAR-100 binary files
    Cifar100,
    /// A folder per class under train/ and val/ or test/
    ImageFolder,
}

/// `ddnnc report`
#[derive(Debug, Args)]
pub struct ReportArgs {
    /// The run folder
    #[arg(value_name = "RUN")]
    pub run: PathBuf,
}
