//! Compares random specs on every device with the f64 evaluator, and makes small what fails.
//!
//! `cargo run --release -p ddnnc-tests --example random_specs -- --help` says how; `docs/testing.md` what is compared.

use clap::{Parser, ValueEnum};
use ddnnc_cuda::cache::Cache;
use ddnnc_cuda::{CudaDevice, CudaOptions};
use ddnnc_diag::SourceId;
use ddnnc_tests::comparison::{Comparison, Finding, Verdict};
use ddnnc_tests::random_spec::random_spec;
use ddnnc_tests::reduction::reduce;
use ddnnc_tests::vocabulary::{Uses, everything, uses};
use std::io::{IsTerminal, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Compares random specs: one step of each in every way there is to compile and run it, against the f64 evaluator.
///
/// What is wrong is printed, made small, and written to a file with the command that repeats it; the exit status is 1
/// then.
#[derive(Parser)]
#[command(after_help = "Example:
  cargo run --release -p ddnnc-tests --example random_specs -- --seeds 1000..2000 --minutes 10")]
struct Args {
    /// The seeds: a range without its end, or one
    #[arg(long, value_name = "A..B", default_value = "0..100", value_parser = seeds)]
    seeds: Range<u64>,

    /// Where steps run: on the CPU at every level of instructions, or as CUDA kernels on the emulator
    #[arg(long, value_enum, default_value_t = On::Cpu)]
    device: On,

    /// Begin with no further spec after so many minutes
    #[arg(long, value_name = "N")]
    minutes: Option<f64>,

    /// Compare this file instead of random specs; `--seeds` draws the numbers
    #[arg(long, value_name = "FILE")]
    spec: Option<PathBuf>,

    /// Print the specs and compare nothing
    #[arg(long)]
    print: bool,

    /// How many smaller specs are tried for one that fails; 0 leaves it as it is
    #[arg(long, value_name = "N", default_value_t = 2000)]
    reduce: usize,

    /// Where failing specs are written
    #[arg(long, value_name = "FOLDER", default_value = "target/random_specs")]
    out: PathBuf,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum On {
    Cpu,
    Cuda,
}

impl On {
    fn word(self) -> &'static str {
        match self {
            On::Cpu => "cpu",
            On::Cuda => "cuda",
        }
    }
}

fn seeds(text: &str) -> Result<Range<u64>, String> {
    let number = |text: &str| text.parse::<u64>().map_err(|_| format!("`{text}` is no seed"));
    let range = match text.split_once("..") {
        Some((from, to)) => number(from)?..number(to)?,
        None => {
            let seed = number(text)?;
            seed..seed.checked_add(1).ok_or("the seed is too large")?
        }
    };
    if range.is_empty() { Err("no seed lies in that range".to_owned()) } else { Ok(range) }
}

/// What came of all specs.
#[derive(Default)]
struct Total {
    specs: usize,
    failed: Vec<u64>,
    variants: usize,
    without_gradients: usize,
    nearest: f64,
    uses: Uses,
}

impl Total {
    fn add(&mut self, seed: u64, text: &str, verdict: &Verdict) {
        self.specs += 1;
        self.variants += verdict.variants;
        self.without_gradients += usize::from(!verdict.gradients);
        self.nearest = self.nearest.max(verdict.nearest);
        if !verdict.findings.is_empty() {
            self.failed.push(seed);
        }
        if let Ok(file) = ddnnc_syntax::parse(text, SourceId::default()) {
            for (word, count) in uses(&file) {
                *self.uses.entry(word).or_default() += count;
            }
        }
    }

    fn line(&self) -> String {
        format!("{} specs, {} variants, {} failed", self.specs, self.variants, self.failed.len())
    }
}

/// One line on a terminal, written over.
fn progress(text: &str) {
    if std::io::stderr().is_terminal() {
        eprint!("\r{text}\x1b[K");
        let _ = std::io::stderr().flush();
    }
}

fn comparison(on: On) -> Result<Comparison, String> {
    match on {
        On::Cpu => Ok(Comparison::on_cpu()),
        On::Cuda => {
            ddnnc_emu::install().map_err(|e| e.to_string())?;
            let kernels = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/tmp/random_specs");
            let options = CudaOptions { cache: Some(Cache::new(kernels)), ..CudaOptions::default() };
            CudaDevice::open(options).map(Comparison::on_cuda).map_err(|e| e.to_string())
        }
    }
}

/// Makes a failing spec small and writes it; returns where it lies.
fn keep(
    args: &Args,
    comparison: &Comparison,
    seed: u64,
    text: &str,
    finding: &Finding,
) -> Result<PathBuf, String> {
    let mut tried = 0;
    let small = match args.reduce {
        0 => text.to_owned(),
        limit => reduce(text, limit, &mut |smaller| {
            tried += 1;
            progress(&format!("seed {seed}: smaller spec {tried}, {} bytes", smaller.len()));
            comparison.fails(smaller, seed, finding)
        }),
    };
    std::fs::create_dir_all(&args.out).map_err(|e| format!("{}: {e}", args.out.display()))?;
    let device = args.device.word();
    let write = |path: &Path, text: &str| {
        let what = finding.to_string().lines().map(|line| format!("// {line}\n")).collect::<String>();
        let again = format!(
            "// cargo run --release -p ddnnc-tests --example random_specs -- --device {device} --seeds {seed} --spec {}\n",
            path.display()
        );
        std::fs::write(path, format!("{what}{again}{text}")).map_err(|e| format!("{}: {e}", path.display()))
    };
    write(&args.out.join(format!("{device}_{seed}.ddnn")), text)?;
    let path = args.out.join(format!("{device}_{seed}_reduced.ddnn"));
    write(&path, &small)?;
    println!("{small}");
    Ok(path)
}

fn compare(args: &Args) -> Result<Total, String> {
    let comparison = comparison(args.device)?;
    // A panic of the compiler is something found, and is told as such.
    std::panic::set_hook(Box::new(|_| {}));
    let given = match &args.spec {
        None => None,
        Some(path) => Some(std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?),
    };
    let begin = Instant::now();
    let end = args.minutes.map(|minutes| Duration::from_secs_f64(60.0 * minutes.max(0.0)));
    let mut total = Total::default();
    for seed in args.seeds.clone() {
        if end.is_some_and(|end| begin.elapsed() >= end) {
            break;
        }
        progress(&format!("seed {seed}: {}", total.line()));
        let text = given.clone().unwrap_or_else(|| random_spec(seed).text);
        let verdict = comparison.check(&text, seed);
        total.add(seed, &text, &verdict);
        if let Some(first) = verdict.findings.first() {
            progress("");
            println!("seed {seed}:");
            verdict.findings.iter().for_each(|finding| println!("  {finding}"));
            let path = keep(args, &comparison, seed, &text, first)?;
            progress("");
            println!("  written to {}", path.display());
        }
    }
    progress("");
    Ok(total)
}

fn main() -> ExitCode {
    let args = Args::parse();
    if args.print {
        for seed in args.seeds {
            println!("{}", random_spec(seed).text);
        }
        return ExitCode::SUCCESS;
    }
    let total = match compare(&args) {
        Ok(total) => total,
        Err(message) => {
            eprintln!("{message}");
            return ExitCode::from(2);
        }
    };
    println!("{}", total.line());
    println!(
        "gradients were compared in {}; the largest difference in f32 was {:.2} of its tolerance",
        total.specs - total.without_gradients,
        total.nearest
    );
    // Fewer specs do not use it all.
    let unused: Vec<String> =
        everything().into_iter().filter(|word| !total.uses.contains_key(word)).collect();
    if !unused.is_empty() && total.specs >= 300 {
        println!("of the language these specs did not use {}", unused.join(", "));
    }
    if total.failed.is_empty() {
        return ExitCode::SUCCESS;
    }
    let failed: Vec<String> = total.failed.iter().map(u64::to_string).collect();
    println!("failed: seeds {}", failed.join(", "));
    ExitCode::FAILURE
}
