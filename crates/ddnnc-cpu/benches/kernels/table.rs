//! The quick table: every launch for a fraction of a second, between two measurements of the limits.

use crate::cases::{self, Bench, Part, Shape};
use crate::{threads, timed::Timed};
use ddnnc_cpu::{CpuDevice, CpuOptions, Level, Limits};
use ddnnc_ir::DType;
use std::time::{Duration, Instant};

/// How long a launch is run, at least and at most so many times.
const LONG: Duration = Duration::from_millis(120);
const RUNS: std::ops::RangeInclusive<usize> = 5..=200;

/// A limit below this share of the best seen: something else ran at that time.
const QUIET: f64 = 0.93;

/// How often a disturbed row is measured again.
const RETRIES: usize = 3;

pub const USAGE: &str = "--table [WHAT]… [--threads N] [--instructions LEVEL]
  WHAT is a family (resnet18, resnet50, resnet56, linear, rows), a direction (forward, input, weight), a precision
  (f32, bf16), chosen or direct (the method), or a convolution SIDExCHANNELSxOUTPUTSxKERNELxSTRIDExBATCH";

/// What is to be measured; where a list is empty, everything.
#[derive(Default)]
struct Wanted {
    families: Vec<String>,
    parts: Vec<Part>,
    dtypes: Vec<DType>,
    /// Whether Winograd's algorithm may be chosen.
    winograd: Vec<bool>,
    given: Vec<Shape>,
    options: CpuOptions,
}

impl Wanted {
    fn parse(args: &[String]) -> Result<Wanted, String> {
        let mut wanted = Wanted::default();
        wanted.options.threads = threads();
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            match arg.as_str() {
                "--threads" => {
                    let n = args.next().and_then(|n| n.parse().ok());
                    wanted.options.threads = Some(n.ok_or("--threads takes a number")?);
                }
                "--instructions" => {
                    let name = args.next().map_or("", String::as_str);
                    let level = Level::available().find(|level| level.name() == name);
                    wanted.options.level = Some(level.ok_or(format!("this processor has no `{name}`"))?);
                }
                "resnet18" | "resnet50" | "resnet56" | "linear" | "rows" => wanted.families.push(arg.clone()),
                "forward" => wanted.parts.push(Part::Forward),
                "input" => wanted.parts.push(Part::Input),
                "weight" => wanted.parts.push(Part::Weight),
                "f32" => wanted.dtypes.push(DType::F32),
                "bf16" => wanted.dtypes.push(DType::Bf16),
                "chosen" => wanted.winograd.push(true),
                "direct" => wanted.winograd.push(false),
                _ => {
                    let numbers: Result<Vec<usize>, _> = arg.split('x').map(str::parse).collect();
                    let shape = numbers.ok().and_then(|n| Shape::try_from(n).ok());
                    let shape = shape.filter(|s| s.iter().all(|&n| n > 0) && s[0] + 2 * (s[3] / 2) >= s[3]);
                    wanted.given.push(shape.ok_or(format!("`{arg}` is nothing that can be measured"))?);
                }
            }
        }
        Ok(wanted)
    }

    fn benches(&self) -> Vec<Bench> {
        let mut benches: Vec<Bench> =
            self.given.iter().flat_map(|&shape| cases::convolution("given", shape)).collect();
        if self.given.is_empty() || !self.families.is_empty() {
            benches.extend(cases::all());
        }
        benches.retain(|b| {
            (self.families.is_empty() || b.family == "given" || self.families.iter().any(|f| f == b.family))
                && (self.parts.is_empty() || self.parts.contains(&b.part))
                && (self.dtypes.is_empty() || self.dtypes.contains(&b.dtype))
        });
        benches
    }
}

struct Row {
    bench: Bench,
    method: &'static str,
    seconds: f64,
    /// The lower of the two f32 rates beside it.
    beside: f64,
    /// The mean of the two rates of copies beside it: memory that others share has no one speed.
    copied: f64,
}

/// The best of what was measured of the limits.
pub struct Best(pub Limits);

impl Best {
    /// Measures for the first time.
    pub fn new(device: &CpuDevice) -> Best {
        Best(device.limits())
    }

    /// Measures again; returns the limits of this moment.
    pub fn look(&mut self, device: &CpuDevice) -> Limits {
        let now = device.limits();
        self.0.f32_flops = self.0.f32_flops.max(now.f32_flops);
        self.0.bf16_flops = self.0.bf16_flops.max(now.bf16_flops);
        self.0.bytes = self.0.bytes.max(now.bytes);
        now
    }

    /// Whether something else ran when arithmetic had that rate.
    pub fn disturbed(&self, beside: f64) -> bool {
        beside < QUIET * self.0.f32_flops
    }
}

/// The median of some runs, in seconds.
fn measure(timed: &mut Timed) -> f64 {
    timed.once();
    let (start, mut times) = (Instant::now(), Vec::new());
    while times.len() < *RUNS.start() || (start.elapsed() < LONG && times.len() < *RUNS.end()) {
        times.push(timed.once());
    }
    times.sort_unstable();
    times[times.len() / 2].as_secs_f64()
}

/// Measures what the arguments say and prints Markdown tables.
pub fn print(args: &[String]) -> Result<(), String> {
    let wanted = Wanted::parse(args)?;
    let mut devices = Vec::new();
    for winograd in [true, false] {
        if wanted.winograd.is_empty() || wanted.winograd.contains(&winograd) {
            let options = CpuOptions { winograd, ..wanted.options.clone() };
            devices.push(CpuDevice::open(&options).map_err(|e| e.to_string())?);
        }
    }
    let benches = wanted.benches();
    let mut best = Best::new(&devices[0]);
    let mut before = best.look(&devices[0]);
    let mut rows = Vec::new();
    for bench in benches {
        let mut methods: Vec<&str> = Vec::new();
        for device in &devices {
            let mut timed = Timed::new(device, &bench);
            let method = timed.method();
            if methods.contains(&method) {
                continue;
            }
            methods.push(method);
            let mut row =
                Row { bench: bench.clone(), method, seconds: f64::INFINITY, beside: 0.0, copied: 0.0 };
            for _ in 0..=RETRIES {
                let seconds = measure(&mut timed);
                let after = best.look(device);
                let beside = before.f32_flops.min(after.f32_flops);
                let copied = (before.bytes + after.bytes) / 2.0;
                before = after;
                if beside > row.beside {
                    (row.seconds, row.beside, row.copied) = (seconds, beside, copied);
                }
                if !best.disturbed(beside) {
                    break;
                }
            }
            rows.push(row);
        }
    }
    let device = &devices[0];
    let Limits { f32_flops, bf16_flops, bytes } = best.0;
    println!(
        "{} threads, {}: {:.0} GFLOP/s f32, {:.0} GFLOP/s bf16, {:.1} GB/s copied.\n",
        device.threads(),
        device.level().name(),
        f32_flops / 1e9,
        bf16_flops / 1e9,
        bytes / 1e9
    );
    let (moving, computing): (Vec<&Row>, Vec<&Row>) = rows.iter().partition(|row| row.bench.moves());
    let mark = |row: &Row| if best.disturbed(row.beside) { " (disturbed)" } else { "" };
    if !computing.is_empty() {
        println!("| | shape | direction | precision | method | ms | GFLOP/s | of limit |");
        println!("|---|---|---|---|---|---|---|---|");
    }
    for row in &computing {
        let Row { bench, method, seconds, .. } = row;
        let limit = if bench.dtype == DType::Bf16 { bf16_flops } else { f32_flops };
        let rate = bench.flops / seconds;
        println!(
            "| {} | {} | {} | {} | {method} | {:.3}{} | {:.0} | {:.2} |",
            bench.family,
            bench.shape,
            bench.part.name(),
            bench.dtype.as_str(),
            seconds * 1e3,
            mark(row),
            rate / 1e9,
            rate / limit,
        );
    }
    if !moving.is_empty() {
        println!(
            "{}| rows | precision | ms | GB/s | of a copy beside it |",
            if computing.is_empty() { "" } else { "\n" }
        );
        println!("|---|---|---|---|---|");
    }
    for row in &moving {
        let rate = row.bench.bytes / row.seconds;
        println!(
            "| {} | {} | {:.3}{} | {:.1} | {:.2} |",
            row.bench.shape,
            row.bench.dtype.as_str(),
            row.seconds * 1e3,
            mark(row),
            rate / 1e9,
            rate / row.copied,
        );
    }
    Ok(())
}
