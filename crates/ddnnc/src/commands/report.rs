//! `ddnnc report`: a run's page anew.

use crate::cli::ReportArgs;
use crate::training::failed;
use crate::{Failure, Spec, Ui};
use ddnnc_ir::Mode;
use ddnnc_train::write_report;

/// Writes `report.html` from the run's spec and metrics.
pub fn run(args: &ReportArgs, ui: Ui) -> Result<(), Failure> {
    let spec = args.run.join("spec.ddnn");
    if !spec.is_file() {
        return Err(Failure::input(format!(
            "`{}` is no run folder: it has no spec.ddnn",
            args.run.display()
        )));
    }
    let spec = Spec::load(&spec, &[], ui)?;
    let (model, _) = spec.lower_quietly(Mode::Train, None)?;
    write_report(&args.run, &model, spec.text()).map_err(failed)?;
    ui.note(&format!("wrote {}", args.run.join("report.html").display()));
    Ok(())
}
