//! `ddnnc check`: diagnose specs.

use crate::cli::CheckArgs;
use crate::output::print;
use crate::spec::count;
use crate::{Failure, Spec, Ui};

/// Checks every spec, whatever the ones before it hold.
pub fn run(args: &CheckArgs, ui: Ui) -> Result<(), Failure> {
    let mut failures = Vec::new();
    for path in &args.specs {
        // Training asks more of a spec than inference does (statistics of a batch), so it is what is checked.
        match Spec::load(path, &[], ui).and_then(|spec| spec.lower_phases()) {
            Ok(_) if ui.quiet => {}
            Ok(_) => print(&format!("{}: ok\n", path.display()))?,
            Err(failure) => failures.push(failure),
        }
    }
    match failures.len() {
        0 => Ok(()),
        1 => Err(failures.remove(0)),
        n => {
            let status = failures.iter().map(Failure::status).max().unwrap_or(1);
            let text: Vec<String> = failures.iter().map(Failure::text).collect();
            let text = format!("{}\n{} of {}\n", text.join("\n"), count(n, "wrong spec"), args.specs.len());
            Err(if status == 3 { Failure::environment(text.trim_end()) } else { Failure::Diagnostics(text) })
        }
    }
}
