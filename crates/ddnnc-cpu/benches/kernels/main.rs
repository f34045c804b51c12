//! How fast kernels run, beside what the processor can do.
//!
//! ```text
//! cargo bench -p ddnnc-cpu -- resnet18/forward            Criterion, what the name fits; DDNNC_THREADS=N
//! cargo bench -p ddnnc-cpu -- --table resnet18 f32        one Markdown table, about a second for each row
//! ```
//!
//! Convolutions are measured by the method that the device chooses and, where that is Winograd's algorithm, without it.
//! Their operations are those of the sum over all taps, so Winograd's share of the limit may exceed 1. In a step kernels
//! run with what is fused with them: `ddnnc bench --profile` shows that.

mod cases;
mod table;
mod timed;

use criterion::{Criterion, Throughput};
use ddnnc_cpu::{CpuDevice, CpuOptions};
use ddnnc_ir::DType;
use std::process::ExitCode;
use std::time::Duration;
use table::Best;
use timed::Timed;

/// The number of threads that the environment gives.
fn threads() -> Option<usize> {
    std::env::var("DDNNC_THREADS").ok()?.parse().ok()
}

/// Names are `FAMILY/DIRECTION/SHAPE/PRECISION/METHOD`.
fn criterion() {
    let mut criterion = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .configure_from_args();
    let device = |winograd| {
        CpuDevice::open(&CpuOptions { threads: threads(), winograd, ..CpuOptions::default() })
            .expect("the device opens")
    };
    let devices = [device(true), device(false)];
    let mut best = Best::new(&devices[0]);
    for bench in cases::all() {
        let (shape, precision) = (bench.shape.replace(", ", "+").replace(' ', "_"), bench.dtype.as_str());
        let mut group = criterion.benchmark_group(bench.family);
        let mut methods: Vec<&str> = Vec::new();
        for device in &devices {
            let mut timed = Timed::new(device, &bench);
            let method = timed.method();
            if methods.contains(&method) {
                continue;
            }
            methods.push(method);
            let mut samples: Vec<f64> = Vec::new();
            let mut before = None;
            group.throughput(match bench.moves() {
                true => Throughput::Bytes(bench.bytes as u64),
                false => Throughput::Elements(bench.flops as u64),
            });
            let name = format!("{}/{shape}/{precision}/{method}", bench.part.name());
            group.bench_function(name, |b| {
                // Not for what the command line leaves out.
                before.get_or_insert_with(|| best.look(device));
                b.iter_custom(|times| {
                    let time: Duration = (0..times).map(|_| timed.once()).sum();
                    samples.push(time.as_secs_f64() / times as f64);
                    time
                });
            });
            let Some(before) = before else { continue };
            samples.sort_by(f64::total_cmp);
            let seconds = samples[samples.len() / 2];
            let after = best.look(device);
            let beside = before.f32_flops.min(after.f32_flops);
            let copied = (before.bytes + after.bytes) / 2.0;
            let (share, of) = match (bench.moves(), bench.dtype) {
                (true, _) => (bench.bytes / seconds / copied, "a copy beside it"),
                (_, DType::Bf16) => (bench.flops / seconds / best.0.bf16_flops, "the bf16 limit"),
                _ => (bench.flops / seconds / best.0.f32_flops, "the f32 limit"),
            };
            let mark = if best.disturbed(beside) { " (disturbed)" } else { "" };
            println!("{:24}{share:.2} of {of}{mark}", "");
        }
        group.finish();
    }
    criterion.final_summary();
}

fn main() -> ExitCode {
    // Cargo adds `--bench`.
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    if let Some(("--table", rest)) = args.split_first().map(|(first, rest)| (first.as_str(), rest)) {
        if let Err(message) = table::print(rest) {
            eprintln!("error: {message}\n{}", table::USAGE);
            return ExitCode::from(2);
        }
        return ExitCode::SUCCESS;
    }
    criterion();
    ExitCode::SUCCESS
}
