//! How a command ends where it does not end well: what is said on standard error, and the exit status.

use std::fmt::Display;
use std::io;
use std::path::Path;

/// Why a command could not do what it was asked.
#[derive(Debug)]
pub enum Failure {
    /// The input is wrong: exit status 1.
    Input(Report),
    /// The command line is wrong in a way that clap does not see: exit status 2.
    Usage(Report),
    /// The environment failed (device, disk): exit status 3.
    Environment(Report),
    /// Rendered diagnostics that say it all: exit status 1.
    Diagnostics(String),
    /// The reader of standard output has gone; there is nobody to tell, and nothing is wrong: exit status 0.
    Pipe,
}

/// One terse message and sentences that say the way out.
#[derive(Debug)]
pub struct Report {
    message: String,
    hints: Vec<String>,
}

impl Report {
    fn new(message: impl Display) -> Report {
        Report { message: message.to_string(), hints: Vec::new() }
    }

    fn text(&self) -> String {
        let mut text = format!("error: {}\n", self.message);
        for hint in &self.hints {
            text.push_str(&format!("  help: {hint}\n"));
        }
        text
    }
}

impl Failure {
    /// The input is wrong.
    pub fn input(message: impl Display) -> Failure {
        Failure::Input(Report::new(message))
    }

    /// The command line is wrong.
    pub fn usage(message: impl Display) -> Failure {
        Failure::Usage(Report::new(message))
    }

    /// The environment failed.
    pub fn environment(message: impl Display) -> Failure {
        Failure::Environment(Report::new(message))
    }

    /// A file that cannot be read: the user's mistake where [`ddnnc_train::wrongly_named`] says so, else the environment's.
    pub fn reading(path: &Path, error: &io::Error) -> Failure {
        let shown = path.display();
        match error.kind() {
            io::ErrorKind::NotFound => Failure::input(format!("no file `{shown}`")),
            io::ErrorKind::NotADirectory | io::ErrorKind::InvalidFilename => {
                Failure::input(format!("no file `{shown}`: {error}"))
            }
            io::ErrorKind::IsADirectory => Failure::input(format!("`{shown}` is a folder, not a file")),
            io::ErrorKind::InvalidData => Failure::input(format!("`{shown}` cannot be read: {error}")),
            _ => Failure::environment(format!("`{shown}` cannot be read: {error}")),
        }
    }

    /// A file that cannot be written.
    pub fn writing(path: &Path, error: &io::Error) -> Failure {
        Failure::environment(format!("`{}` cannot be written: {error}", path.display()))
    }

    /// Adds a sentence that says the way out; rendered diagnostics have their own.
    pub fn hint(mut self, text: impl Display) -> Failure {
        match &mut self {
            Failure::Input(report) | Failure::Usage(report) | Failure::Environment(report) => {
                report.hints.push(text.to_string());
            }
            Failure::Diagnostics(_) | Failure::Pipe => {}
        }
        self
    }

    /// What is written on standard error, with its line break.
    pub fn text(&self) -> String {
        match self {
            Failure::Input(report) | Failure::Usage(report) | Failure::Environment(report) => report.text(),
            Failure::Diagnostics(text) => text.clone(),
            Failure::Pipe => String::new(),
        }
    }

    /// The exit status of the process.
    pub fn status(&self) -> u8 {
        match self {
            Failure::Pipe => 0,
            Failure::Input(_) | Failure::Diagnostics(_) => 1,
            Failure::Usage(_) => 2,
            Failure::Environment(_) => 3,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ddnnc_train::{DataError, TrainError, WeightsError, wrongly_named};
    use io::ErrorKind;

    /// A spec, weights, data and a run's files fail alike where they cannot be read.
    #[test]
    fn one_rule_says_whose_fault_an_unreadable_file_is() {
        let cases = [
            (ErrorKind::NotFound, 1),
            (ErrorKind::IsADirectory, 1),
            (ErrorKind::NotADirectory, 1),
            (ErrorKind::InvalidFilename, 1),
            (ErrorKind::InvalidData, 1),
            (ErrorKind::PermissionDenied, 3),
            (ErrorKind::Other, 3),
        ];
        for (kind, status) in cases {
            let (path, source) = (Path::new("f").to_path_buf(), || io::Error::from(kind));
            assert_eq!(wrongly_named(&source()), status == 1, "{kind}");
            assert_eq!(Failure::reading(&path, &source()).status(), status, "{kind}");
            let weights = WeightsError::Read { path: path.clone(), source: source() };
            assert_eq!(crate::weights::failed(weights).status(), status, "{kind}");
            let data = DataError::Io { path: path.clone(), source: source() };
            assert_eq!(crate::training::bad_data(data).status(), status, "{kind}");
            let run = TrainError::Io { path, source: source() };
            assert_eq!(crate::training::failed(run).status(), status, "{kind}");
        }
    }
}
