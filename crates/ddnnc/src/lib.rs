//! The driver library and the command line.
//!
//! Each command is one function in `commands/`: it reads what the user named, hands it from crate to crate (text to
//! syntax tree, model, program, device, training loop) and shows what came of it. Nothing here knows what an operator
//! means or what a kernel looks like.
//!
//! A command ends with `Ok` or with a [`Failure`], which holds what the user is told and the exit status: 0 done, 1 the
//! input is wrong, 2 the command line is wrong (which is nearly always clap's to say), 3 the environment failed.

mod cascade;
mod cli;
mod commands;
mod device;
mod device_args;
mod failure;
mod graph_launches;
mod graph_layout;
mod graph_parts;
mod graph_picture;
mod graph_terms;
mod interrupt;
mod kernel_facts;
mod kernel_text;
mod launch_boxes;
mod launches;
mod load_notes;
mod memory_picture;
mod output;
mod overrides;
mod profile;
mod profile_picture;
mod saved_program;
mod source;
mod spec;
mod svg;
mod training;
mod weights;

pub use failure::Failure;
pub use output::Ui;
pub use spec::Spec;

use clap::Parser;
use cli::{Cli, Color, Command};
use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::sync::OnceLock;
use std::time::Instant;

/// When the command line began.
static STARTED: OnceLock<Instant> = OnceLock::new();

/// When the command line began, or this was first asked.
fn started() -> Instant {
    *STARTED.get_or_init(Instant::now)
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    started();
    interrupt::let_large_writes_fail();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let written = error.print().and_then(|()| std::io::stdout().flush());
            // Help and version count as errors to clap, with exit status 0: they are output that was asked for.
            return match output::printed(written) {
                Err(failure) if !error.use_stderr() => ended(&failure),
                _ => ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2)),
            };
        }
    };
    let color = match cli.color {
        Color::Always => true,
        Color::Never => false,
        Color::Auto => {
            std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
                && std::io::stderr().is_terminal()
        }
    };
    let ui = Ui { color, quiet: cli.quiet };
    match run(&cli.command, ui) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => ended(&failure),
    }
}

/// Says why a command could not do what it was asked, and gives its status.
fn ended(failure: &Failure) -> ExitCode {
    let _ = std::io::stderr().write_all(failure.text().as_bytes());
    ExitCode::from(failure.status())
}

fn run(command: &Command, ui: Ui) -> Result<(), Failure> {
    match command {
        Command::Compile(args) => commands::compile::run(args, ui),
        Command::Train(args) => commands::train::run(args, ui),
        Command::Eval(args) => commands::eval::run(args, ui),
        Command::Predict(args) => commands::predict::run(args, ui),
        Command::Export(args) => commands::export::run(args, ui),
        Command::Import(args) => commands::import::run(args, ui),
        Command::Step(args) => commands::step::run(args, ui),
        Command::Inspect(args) => commands::inspect::run(args, ui),
        Command::Bench(args) => commands::bench::run(args, ui),
        Command::Fmt(args) => commands::fmt::run(args, ui),
        Command::Check(args) => commands::check::run(args, ui),
        Command::Opt(args) => commands::opt::run(args),
        Command::Data(args) => commands::data::run(args),
        Command::Report(args) => commands::report::run(args, ui),
    }
}
