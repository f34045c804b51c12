//! Graph IR to graph IR, the pipeline that orders the passes, and the [`Program`] that every device runs.
//!
//! A pass is a function on a graph; the pipeline says which run and in what order. The last step plans the memory and
//! gives a [`Program`]. This crate knows neither the language, nor any device's kernels, nor files: devices implement
//! [`Device`].

mod device;
mod program;

pub use device::{Device, DeviceError, Executable};
pub use program::{ALIGNMENT, Buffer, BufferId, Launch, Persistent, PersistentKind, Place, Program, may_overwrite};
