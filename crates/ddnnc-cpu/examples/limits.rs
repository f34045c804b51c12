//! What the processor can do at this moment, as one JSON object: `cargo run --release -p ddnnc-cpu --example limits --
//! [THREADS]`. Beside a timing it tells whether the machine was quiet; `bench/compare.py` uses it so.

use ddnnc_cpu::CpuDevice;

fn main() {
    let threads = std::env::args().nth(1).map(|n| n.parse().expect("the number of threads"));
    let limits = CpuDevice::new(threads).expect("the CPU device").limits();
    println!(
        "{{\"f32_gflops\": {:.1}, \"bf16_gflops\": {:.1}, \"copy_gb_per_s\": {:.1}}}",
        limits.f32_flops / 1e9,
        limits.bf16_flops / 1e9,
        limits.bytes / 1e9
    );
}
