//! Compiles every distinct CUDA kernel of specs for the gated architectures, and holds it against the gate: nothing
//! spilled, no local memory, matrix units and asynchronous copies where they belong.
//!
//! `cargo run --release -p ddnnc-tests --example kernel_gate -- [SPEC…] [--arch sm_90]… [--precision bf16|tf32|f32]…
//! [--batch N]`: without a spec all of them, without an architecture sm_80, sm_90, sm_100 and sm_120, without a precision
//! bf16 and tf32. Compiled kernels are kept in `target/tmp/kernel_gate`, so that a run that was stopped goes on where it
//! was.

use ddnnc_cuda::arch::{Arch, Math, Target};
use ddnnc_cuda::binaries::Progress;
use ddnnc_cuda::cache::Cache;
use ddnnc_ir::{Mode, Precision};
use ddnnc_passes::Goal;
use ddnnc_tests::gate::gate;
use ddnnc_tests::harness::{model, program, spec, specs};
use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::time::Instant;

/// What is held against the gate.
struct Wanted {
    specs: Vec<String>,
    archs: Vec<Arch>,
    precisions: Vec<&'static str>,
    batch: usize,
}

const PRECISIONS: [&str; 3] = ["bf16", "tf32", "f32"];

fn wanted(mut words: impl Iterator<Item = String>) -> Result<Wanted, String> {
    let mut wanted = Wanted { specs: vec![], archs: vec![], precisions: vec![], batch: 32 };
    let all = specs();
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| format!("{word} wants a value"));
        match word.as_str() {
            "--arch" => wanted.archs.push(value()?.parse()?),
            "--precision" => {
                let value = value()?;
                let known = PRECISIONS.into_iter().find(|p| *p == value);
                wanted.precisions.push(known.ok_or(format!("`{value}` is not one of bf16, tf32, f32"))?);
            }
            "--batch" => {
                let value = value()?;
                let batch = value.parse().ok().filter(|&n| n > 0);
                wanted.batch = batch.ok_or(format!("`{value}` is no batch"))?;
            }
            _ if all.contains(&word) => wanted.specs.push(word),
            _ => return Err(format!("`{word}` is none of {}", all.join(", "))),
        }
    }
    if wanted.specs.is_empty() {
        wanted.specs = all;
    }
    if wanted.archs.is_empty() {
        wanted.archs = Arch::GATED.to_vec();
    }
    if wanted.precisions.is_empty() {
        wanted.precisions = vec!["bf16", "tf32"];
    }
    Ok(wanted)
}

/// One line on a terminal, written over.
struct Line;

impl Progress for Line {
    fn compiling(&self, done: usize, of: usize) {
        if std::io::stderr().is_terminal() {
            eprint!("\r{done} of {of} kernels compiled{}", if done == of { "\r\x1b[K" } else { "" });
            let _ = std::io::stderr().flush();
        }
    }
    fn not_kept(&self, error: &std::io::Error) {
        eprintln!("a compiled kernel is not kept: {error}");
    }
}

fn main() -> ExitCode {
    let wanted = match wanted(std::env::args().skip(1)) {
        Ok(wanted) => wanted,
        Err(message) => {
            eprintln!("{message}");
            return ExitCode::from(2);
        }
    };
    let cache = Cache::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../target/tmp/kernel_gate"));
    let mut failed = 0;
    for name in &wanted.specs {
        for &precision in &wanted.precisions {
            let mut model = model(&spec(name), Mode::Train, wanted.batch);
            model.recipe.precision = if precision == "bf16" { Precision::Bf16 } else { Precision::F32 };
            let math = if precision == "tf32" { Math::Tf32 } else { Math::Exact };
            let program = program(&model, Goal::Train);
            for &arch in &wanted.archs {
                let begin = Instant::now();
                let found = gate(&program, &Target { math, ..Target::new(arch) }, Some(&cache), &Line);
                let seconds = begin.elapsed().as_secs();
                let complaints = match found {
                    Ok(found) => {
                        println!(
                            "{name} {precision} {arch}: {} launches, {} kernels, {} complaints, {seconds} s",
                            program.launches.len(),
                            found.kernels,
                            found.complaints.len()
                        );
                        found.complaints
                    }
                    Err(error) => {
                        println!("{name} {precision} {arch}: not examined");
                        vec![error]
                    }
                };
                complaints.iter().for_each(|c| println!("  {c}"));
                failed += complaints.len();
            }
        }
    }
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
