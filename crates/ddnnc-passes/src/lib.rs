//! Graph IR to graph IR, the pipeline that orders the passes, and the [`Program`] that every device runs.
//!
//! A pass is a function on a graph; the pipeline says which run and in what order. The last step plans the memory and
//! gives a [`Program`]. This crate knows neither the language, nor any device's kernels, nor files: devices implement
//! [`Device`].

mod aliases;
mod assign_layout;
mod autocast;
mod batch_shared_weights;
mod canonical;
mod cheap_part;
mod check_plan;
mod clusters;
mod dead_code;
mod device;
mod error;
mod freed;
mod fuse;
mod kinds;
mod liveness;
mod pack;
mod pipeline;
mod plan_memory;
mod program;
mod program_bytes;
mod program_text;
mod rebuild;
mod recompute;
mod reference_device;
mod report;
mod schedule;
mod share_prefixes;
mod stages;
mod traffic;
mod work;

pub use assign_layout::assign_layout;
pub use autocast::autocast;
pub use batch_shared_weights::batch_shared_weights;
pub use canonical::canonical;
pub use check_plan::check_plan;
pub use dead_code::dead_code;
pub use device::{Device, DeviceError, Executable, Limits};
pub use error::PassError;
pub use freed::freed_after;
pub use fuse::fuse;
pub use pipeline::{Compiled, Goal, Options, PASSES, Pass, compile, compile_with};
pub use plan_memory::{Tables, plan_memory};
pub use program::{
    ALIGNMENT, Buffer, BufferId, Launch, Persistent, PersistentKind, Place, Program, may_overwrite,
};
pub use recompute::recompute;
pub use reference_device::{ReferenceDevice, ReferenceExecutable};
pub use report::{LARGEST, LargeValue, Report};
pub use schedule::schedule;
pub use share_prefixes::share_prefixes;
pub use stages::{HANDED_ON, macs_until, stages};
pub use traffic::Traffic;
pub use work::{Work, WorkKind};
