//! Why a run stops.

use crate::{DataError, WeightsError};
use ddnnc_passes::DeviceError;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

/// An error of training or evaluating.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// The data.
    #[error(transparent)]
    Data(#[from] DataError),
    /// Weights or a checkpoint.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// The device.
    #[error("the device failed: {0}")]
    Device(#[from] DeviceError),
    /// The run folder is there already.
    #[error(
        "the run folder {} exists already and is not empty. Continue it with `--resume`, or give another with \
         `--out`", path.display()
    )]
    RunExists {
        /// The folder.
        path: PathBuf,
    },
    /// No run to continue.
    #[error("there is no run to resume in {}: it has no {missing}", path.display())]
    NothingToResume {
        /// The folder.
        path: PathBuf,
        /// What is missing.
        missing: &'static str,
    },
    /// Another process trains in the run folder.
    #[error(
        "another process is training in {}. Wait until it has ended or end it (Ctrl-C leaves a checkpoint), or give \
         another folder with `--out`", path.display()
    )]
    InUse {
        /// The folder.
        path: PathBuf,
    },
    /// A run that has been trained and has no checkpoint left.
    #[error(
        "no checkpoint of the run in {} can be read: {reason}. Put a copy of one into {}, or start a new run with \
         `--out`",
        path.display(), path.join("checkpoints").display()
    )]
    NoCheckpoint {
        /// The folder.
        path: PathBuf,
        /// What is wrong with the newest, or that there is none.
        reason: String,
    },
    /// The run to continue was started with another spec.
    #[error(
        "the run in {} was started with another spec: {} differs. Resume it with that spec and the same settings, or \
         start a new run with `--out`",
        path.display(), path.join("spec.ddnn").display()
    )]
    OtherSpec {
        /// The folder.
        path: PathBuf,
    },
    /// A checkpoint of another phase than its step lies in: the run had epochs of other lengths.
    #[error(
        "the checkpoint at step {step} of the run in {} is of {found}, and with these data that step lies in {here}. \
         Resume it on the data that it was trained on, or start a new run with `--out`",
        path.display()
    )]
    OtherPhase {
        /// The run folder.
        path: PathBuf,
        /// Its steps.
        step: u64,
        /// "the phase `a`", or "no phase".
        found: String,
        /// The same of the step.
        here: String,
    },
    /// A checkpoint without the scores of just these training images.
    #[error(
        "the checkpoint at step {step} of the run in {} has scores of {found} images, and there are {here} to train on. \
         Resume it on the data that it was trained on, or start a new run with `--out`",
        path.display()
    )]
    OtherImages {
        /// The run folder.
        path: PathBuf,
        /// Its steps.
        step: u64,
        /// Images that it has scores of.
        found: usize,
        /// Images of the data.
        here: usize,
    },
    /// A file of the run folder cannot be read.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file or folder of a run cannot be made or written, whatever stands in its way.
    #[error("{} cannot be written: {source}", path.display())]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A loss, a parameter or a running statistic is NaN or infinite.
    #[error(
        "{what} is {value} at step {step}: training has diverged and stops here. {}. A smaller learning rate or a \
         warm-up is the usual cure",
        checkpoint.as_ref().map_or_else(
            || "No checkpoint had been written yet".to_string(),
            |p| format!("The last checkpoint before it is {}", p.display()),
        )
    )]
    NotFinite {
        /// The first value that is not finite: "the loss term `ce.full`".
        what: String,
        /// Its value.
        value: f32,
        /// The step, from 1.
        step: u64,
        /// The newest checkpoint.
        checkpoint: Option<PathBuf>,
    },
    /// A program that does not fit the model or the loop.
    #[error("the program `{program}` does not fit: {message}")]
    Program {
        /// The program's name.
        program: String,
        /// What does not fit.
        message: String,
    },
}

/// Whether a file could not be read because of what the user named: it is not there, is no file (or no folder), or is no
/// text. Any other reason (permissions, the disk) is the environment's.
pub fn wrongly_named(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::NotFound
            | ErrorKind::NotADirectory
            | ErrorKind::InvalidFilename
            | ErrorKind::IsADirectory
            | ErrorKind::InvalidData
    )
}

impl TrainError {
    /// Whether the environment failed (device, disk) rather than the input: exit status 3 rather than 1.
    pub fn is_environment(&self) -> bool {
        match self {
            TrainError::Device(_) | TrainError::Write { .. } => true,
            TrainError::Io { source, .. } => !wrongly_named(source),
            TrainError::Weights(e) => e.is_environment(),
            TrainError::Data(e) => e.is_environment(),
            TrainError::RunExists { .. }
            | TrainError::NothingToResume { .. }
            | TrainError::InUse { .. }
            | TrainError::NoCheckpoint { .. }
            | TrainError::OtherSpec { .. }
            | TrainError::OtherPhase { .. }
            | TrainError::OtherImages { .. }
            | TrainError::NotFinite { .. }
            | TrainError::Program { .. } => false,
        }
    }

    pub(crate) fn io(path: &Path, source: io::Error) -> TrainError {
        TrainError::Io { path: path.to_path_buf(), source }
    }

    pub(crate) fn writing(path: &Path, source: io::Error) -> TrainError {
        TrainError::Write { path: path.to_path_buf(), source }
    }
}
