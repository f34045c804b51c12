//! Compiles every distinct CUDA kernel of every spec for every gated architecture, in bf16 and tf32, and holds it against
//! the gate: nothing spilled, no local memory, matrix units and asynchronous copies where they belong.
//!
//! `cargo run --release -p ddnnc-tests --example kernel_gate [SPEC…]`

use ddnnc_cuda::arch::{Arch, Math, Target};
use ddnnc_ir::{Mode, Precision};
use ddnnc_passes::Goal;
use ddnnc_tests::gate::gate;
use ddnnc_tests::harness::{model, program, spec, specs};
use std::process::ExitCode;

fn main() -> ExitCode {
    let named: Vec<String> = std::env::args().skip(1).collect();
    let mut failed = 0;
    for name in if named.is_empty() { specs() } else { named } {
        for (precision, math) in [(Precision::Bf16, Math::Exact), (Precision::F32, Math::Tf32)] {
            let mut model = model(&spec(&name), Mode::Train, 32);
            model.recipe.precision = precision;
            let program = program(&model, Goal::Train);
            for arch in Arch::GATED {
                let target = Target { math, ..Target::new(arch) };
                let found = gate(&program, &target);
                match found {
                    Ok(found) => {
                        let launches = program.launches.len();
                        println!(
                            "{name} {precision:?} {math:?} {arch}: {launches} launches, {} complaints",
                            found.len()
                        );
                        found.iter().for_each(|c| println!("  {c}"));
                        failed += found.len();
                    }
                    Err(error) => {
                        println!("{name} {precision:?} {math:?} {arch}: {error}");
                        failed += 1;
                    }
                }
            }
        }
    }
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
