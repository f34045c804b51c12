//! Progress on standard error: a bar per epoch on a terminal, else a line per epoch.

use crate::metrics::{EpochRecord, StepRecord};
use crate::observer::{Observer, Plan};
use indexmap::IndexMap;
use indicatif::{ProgressBar, ProgressStyle};
use std::io::{IsTerminal, Write};

/// Shows progress on standard error.
#[derive(Debug, Default)]
pub struct Progress {
    terminal: bool,
    plan: Option<Plan>,
    bar: Option<ProgressBar>,
}

impl Progress {
    /// Bars where standard error is a terminal, else lines.
    pub fn stderr() -> Progress {
        Progress { terminal: std::io::stderr().is_terminal(), plan: None, bar: None }
    }

    fn line(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| write_line(text)),
            None => write_line(text),
        }
    }
}

fn write_line(text: &str) {
    // Nobody may be reading; training goes on.
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// `total 1.234  ce.full 0.567 …`, as many as fit.
fn losses(loss: &IndexMap<String, f64>, room: usize) -> String {
    let mut text = String::new();
    let total = loss.get_key_value("total");
    let rest = loss.iter().filter(|(name, _)| name.as_str() != "total");
    for (name, value) in total.into_iter().chain(rest) {
        let part = format!("{}{name} {value:.4}", if text.is_empty() { "" } else { "  " });
        if text.len() + part.len() > room {
            text.push_str(" …");
            break;
        }
        text.push_str(&part);
    }
    text
}

fn accuracies(pairs: impl Iterator<Item = (String, f64)>) -> String {
    pairs.map(|(name, accuracy)| format!("{name} {:.2}%", accuracy * 100.0)).collect::<Vec<_>>().join("  ")
}

impl Observer for Progress {
    fn begin(&mut self, plan: &Plan) {
        self.plan = Some(plan.clone());
    }

    fn phase(&mut self, name: &str, place: usize, of: usize, epochs: u64) {
        let plural = if epochs == 1 { "" } else { "s" };
        self.line(&format!("phase {name} ({place} of {of}): {epochs} epoch{plural}"));
    }

    fn step(&mut self, record: &StepRecord) {
        let (true, Some(plan)) = (self.terminal, &self.plan) else { return };
        let steps = plan.timeline.epoch_steps(record.epoch.saturating_sub(1));
        let bar = self.bar.get_or_insert_with(|| {
            let bar = ProgressBar::new(steps.end - steps.start);
            let style = ProgressStyle::with_template("{prefix} {bar:24} {pos}/{len} [{eta}] {msg}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            let phase = record.phase.as_ref().map_or(String::new(), |phase| format!("{phase}, "));
            bar.set_prefix(format!("{phase}epoch {}/{}", record.epoch, plan.timeline.epochs()));
            bar
        });
        bar.set_position(record.step.saturating_sub(steps.start));
        bar.set_message(format!("{:.0} images/s  {}", record.images_per_second, losses(&record.loss, 100)));
    }

    fn epoch(&mut self, record: &EpochRecord) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
        let epochs = self.plan.as_ref().map_or(record.epoch, |p| p.timeline.epochs());
        let (kind, scores) = if record.validation.is_empty() {
            ("train", accuracies(record.train.iter().map(|(n, a)| (n.clone(), *a))))
        } else {
            ("validation", accuracies(record.validation.iter().map(|(n, s)| (n.clone(), s.accuracy))))
        };
        self.line(&format!(
            "epoch {}/{epochs}  {}  {kind}: {scores}  {:.0} images/s",
            record.epoch,
            losses(&record.loss, 100),
            record.images_per_second
        ));
    }

    fn note(&mut self, text: &str) {
        self.line(text);
    }
}
