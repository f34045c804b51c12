//! The `ddnnc` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    ddnnc::main()
}
