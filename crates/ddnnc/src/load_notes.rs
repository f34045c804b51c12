//! What the user sees while kernels are compiled.

use crate::output::Ui;
use ddnnc_cuda::{LoadReport, Watch};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Compilations that end sooner are not worth a bar.
const PATIENCE: Duration = Duration::from_millis(500);

/// A bar on a terminal while kernels are compiled, a line when they are.
pub struct LoadNotes {
    ui: Ui,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    begun: Option<Instant>,
    bar: Option<ProgressBar>,
    last: Option<LoadReport>,
}

impl LoadNotes {
    /// Nothing shown yet.
    pub fn new(ui: Ui) -> LoadNotes {
        LoadNotes { ui, state: Mutex::new(State::default()) }
    }

    /// How the last program was loaded; `None` on a device that does not tell.
    pub fn last(&self) -> Option<LoadReport> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).last
    }
}

impl Watch for LoadNotes {
    fn compiling(&self, done: usize, of: usize) {
        if self.ui.quiet {
            return;
        }
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let begun = *state.begun.get_or_insert_with(Instant::now);
        if begun.elapsed() < PATIENCE {
            return;
        }
        let bar = state.bar.get_or_insert_with(|| {
            // Draws on terminals only.
            let bar = ProgressBar::with_draw_target(Some(of as u64), ProgressDrawTarget::stderr());
            match ProgressStyle::with_template("compiling kernels {bar:24} {pos}/{len}") {
                Ok(style) => bar.with_style(style),
                Err(_) => bar,
            }
        });
        bar.set_length(of as u64);
        bar.set_position(done as u64);
    }

    fn loaded(&self, report: &LoadReport) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bar) = state.bar.take() {
            bar.finish_and_clear();
        }
        state.begun = None;
        state.last = Some(*report);
        if report.compiled > 0 {
            let more = match report.cached {
                0 => String::new(),
                n => format!(", {n} more were in the cache"),
            };
            let (kernels, seconds) = (report.compiled, report.milliseconds as f64 / 1e3);
            let s = if kernels == 1 { "" } else { "s" };
            self.ui.note(&format!("compiled {kernels} kernel{s} in {seconds:.1} s{more}"));
        }
    }

    fn warn(&self, text: &str) {
        self.ui.warn(text);
    }
}
