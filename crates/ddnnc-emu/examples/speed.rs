//! How fast kernels run: `cargo run --release -p ddnnc-emu --example speed [threads [name]]`.
//!
//! Prints, for a chain of arithmetic, a tiled f32 product in shared memory and a pipelined bf16 product on matrix units,
//! the instructions of threads per second (and GFLOP/s where there are any), with the checks on and off.

use std::time::Instant;

use ddnnc_emu::{Machine, Options, Properties};

const TILED: &str = include_str!("../tests/machine/ptx/tiled.ptx");
const GEMM: &str = include_str!("../tests/machine/ptx/gemm.ptx");

/// 64 dependent multiply-adds per turn of a loop.
fn chain() -> String {
    let steps = "fma.rn.f32 %f1, %f1, %f2, %f3;\nadd.s32 %r3, %r3, %r1;\n".repeat(32);
    format!(
        ".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry chain(.param .u64 p0)\n{{\n.reg .pred %p<2>;\n\
         .reg .b32 %r<5>;\n.reg .f32 %f<5>;\n.reg .b64 %rd<5>;\nld.param.u64 %rd1, [p0];\nmov.u32 %r1, %tid.x;\n\
         mov.u32 %r2, 0;\nmov.u32 %r3, 0;\nmov.f32 %f1, 0f00000000;\nmov.f32 %f2, 0f3F000000;\n\
         mov.f32 %f3, 0f3F800000;\nL:\n{steps}add.s32 %r2, %r2, 1;\nsetp.lt.s32 %p1, %r2, 2000;\n@%p1 bra L;\n\
         mul.wide.u32 %rd2, %r1, 4;\nadd.s64 %rd3, %rd1, %rd2;\nst.global.f32 [%rd3], %f1;\nret;\n}}\n"
    )
}

struct Case {
    name: &'static str,
    text: String,
    grid: [u32; 3],
    block: [u32; 3],
    buffers: Vec<usize>,
    numbers: Vec<u32>,
    flops: f64,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let threads: usize = arguments.next().map_or(Ok(1), |a| a.parse())?;
    let only = arguments.next();
    let n = 256;
    let cases = [
        Case {
            name: "chain",
            text: chain(),
            grid: [8, 1, 1],
            block: [256, 1, 1],
            buffers: vec![256],
            numbers: vec![],
            flops: 8.0 * 256.0 * 2000.0 * 64.0,
        },
        Case {
            name: "tiled",
            text: TILED.to_owned(),
            grid: [n / 16, n / 16, 1],
            block: [16, 16, 1],
            buffers: vec![(n * n) as usize; 3],
            numbers: vec![n, n, n],
            flops: 2.0 * f64::from(n).powi(3),
        },
        Case {
            name: "gemm",
            text: GEMM.to_owned(),
            grid: [2 * n / 32, 2 * n / 32, 1],
            block: [128, 1, 1],
            buffers: vec![(4 * n * n) as usize; 3],
            numbers: vec![2 * n, 2 * n],
            flops: 16.0 * f64::from(n).powi(3),
        },
    ];
    for case in cases.iter().filter(|c| only.as_deref().is_none_or(|o| o == c.name)) {
        for checks in [true, false] {
            let options = Options { races: checks, uninitialised: checks, threads, ..Options::default() };
            let mut machine = Machine::new(Properties::default(), options);
            let module = machine.load(ddnnc_emu::parse(&case.text)?)?;
            let mut params = Vec::new();
            for words in &case.buffers {
                let address = machine.alloc(4 * *words as u64).ok_or("no memory")?;
                machine.write(address, &1.0f32.to_le_bytes().repeat(*words))?;
                params.extend(address.to_le_bytes());
            }
            params.extend(case.numbers.iter().flat_map(|n| n.to_le_bytes()));
            let mut best = f64::INFINITY;
            let mut report = Default::default();
            for _ in 0..5 {
                let start = Instant::now();
                report = machine.launch(module, case.name, case.grid, case.block, 0, &params)?;
                best = best.min(start.elapsed().as_secs_f64());
            }
            println!(
                "{:6} checks {:5} {:8.1} ms {:8.1} million thread-instructions/s {:6.2} GFLOP/s",
                case.name,
                if checks { "on" } else { "off" },
                best * 1e3,
                report.thread_instructions as f64 / best / 1e6,
                case.flops / best / 1e9,
            );
        }
    }
    Ok(())
}
