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
use std::process::ExitCode;
use std::time::Duration;
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
    let limits = devices[0].limits();
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
            let (mut ran, mut runs) = (Duration::ZERO, 0);
            group.throughput(match bench.moves() {
                true => Throughput::Bytes(bench.bytes as u64),
                false => Throughput::Elements(bench.flops as u64),
            });
            let name = format!("{}/{shape}/{precision}/{method}", bench.part.name());
            group.bench_function(name, |b| {
                b.iter_custom(|times| {
                    let time = (0..times).map(|_| timed.once()).sum();
                    (ran, runs) = (time, times);
                    time
                });
            });
            if runs > 0 {
                // Of the last sample; Criterion's own figures are above.
                let seconds = ran.as_secs_f64() / runs as f64;
                let (share, of) = match (bench.moves(), bench.dtype) {
                    (true, _) => (bench.bytes / seconds / limits.bytes, "of a copy"),
                    (_, ddnnc_ir::DType::Bf16) => {
                        (bench.flops / seconds / limits.bf16_flops, "of the bf16 limit")
                    }
                    _ => (bench.flops / seconds / limits.f32_flops, "of the f32 limit"),
                };
                println!("{:24}{share:.2} {of}", "");
            }
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
