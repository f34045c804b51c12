//! The training loop: data, schedules, metrics, checkpoints, export and import.
//!
//! A [`Job`] is a lowered model (one for each phase of the training), its programs for a device, the data and the initial
//! values; [`train`] runs it into a
//! run folder and reports what happens to an [`Observer`]. Everything random is drawn from counter-based streams keyed
//! by the seed and by what is drawn (parameter name, epoch, sample), so a run depends neither on the number of threads
//! nor on where it was interrupted.
//!
//! This crate knows neither the language nor any kernel: a device is a `&dyn Device`, a program a table of names.

mod cascade;
pub mod data;
mod error;
mod evaluate;
mod feed;
mod init;
mod metrics;
mod observer;
pub mod onnx;
mod phase;
mod progress;
mod random;
mod report;
mod run_folder;
mod timeline;
mod trainer;
mod weights;

pub use cascade::{Answer, Answers, CascadeResult, Confidence, Sure, cascade, shares, thresholds};
pub use data::{
    Batch, DataError, DataSource, Fit, Loader, Pools, Preparation, Split, preparation, read_image,
};
pub use error::{TrainError, wrongly_named};
pub use evaluate::{Evaluator, NetResult, log_probabilities};
pub use init::{initial_values, unmarked};
pub use metrics::{EpochRecord, Record, StepRecord, TestRecord};
pub use observer::{Observer, Plan, Silent};
pub use onnx::{OnnxError, begins_as_onnx, onnx_bytes, onnx_model, onnx_stage};
pub use phase::JobPhase;
pub use progress::Progress;
pub use report::{read_records, report_html, write_report};
pub use run_folder::{Checkpoint, FORMAT_VERSION, RunFolder, class_names, named_classes, spec_digest};
pub use timeline::Timeline;
pub use trainer::{Ending, Job, Summary, TrainOptions, train};
pub use weights::{
    Tensor, Tensors, WeightsError, WeightsFile, atomic_write, atomic_write_all, check_weights, read_metadata,
    read_weights, read_weights_where, subnet_weights, write_tensors, write_weights,
};
