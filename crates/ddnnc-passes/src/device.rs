//! What a device owes: load a [`Program`], take and give tensors by name, run the step.

use crate::Program;

/// Why a device could not do something.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum DeviceError {
    /// The program has no buffer of that name.
    #[error("the program has no `{name}`")]
    UnknownName {
        /// The name.
        name: String,
    },
    /// A tensor of another length or element type.
    #[error("`{name}` is {expected}, not {got}")]
    Mismatch {
        /// The name.
        name: String,
        /// The buffer's type.
        expected: String,
        /// What was given.
        got: String,
    },
    /// Not enough memory for the program.
    #[error("the program needs {needed} bytes and they cannot be had")]
    OutOfMemory {
        /// Bytes of arena, persistent region and workspace.
        needed: usize,
    },
    /// The device has memory, but not enough.
    #[error("the program needs {needed} bytes and the device has {free} bytes free")]
    TooLarge {
        /// Bytes of arena, persistent region, workspace and staging.
        needed: usize,
        /// Bytes that nobody uses.
        free: usize,
    },
    /// The device failed.
    #[error("{0}")]
    Failed(String),
}

/// What a device can do at most, measured or as its maker says: rates of all its threads together.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// f32 multiplications and additions in a second, in vectors that stay in registers.
    pub f32_flops: f64,
    /// The same for products of pairs of bf16; that of f32 where there is no such instruction.
    pub bf16_flops: f64,
    /// Bytes in a second that are read and written by a copy of memory far larger than the caches.
    pub bytes: f64,
}

/// Something that runs programs.
pub trait Device: Send + Sync {
    /// `cpu`, `reference`, …
    fn name(&self) -> &str;

    /// Makes a program ready to run: memory, workspace, choice of kernels. All persistent buffers begin as zeros.
    fn load(&self, program: &Program) -> Result<Box<dyn Executable>, DeviceError>;

    /// What its speed goes by (threads, instructions, …) as names and values, for profiles; empty where it does not tell.
    fn settings(&self) -> Vec<(&'static str, String)> {
        Vec::new()
    }

    /// What it can do at most, measured now where that can be done; `None` where it does not tell.
    fn limits(&self) -> Option<Limits> {
        None
    }
}

/// A program on a device, with its memory.
///
/// After loading, none of these calls allocates on the CPU device.
pub trait Executable: Send {
    /// The program.
    fn program(&self) -> &Program;

    /// Sets an f32 input or persistent buffer; `data` has as many elements as the buffer.
    fn write_f32(&mut self, name: &str, data: &[f32]) -> Result<(), DeviceError>;

    /// Sets an i64 input.
    fn write_i64(&mut self, name: &str, data: &[i64]) -> Result<(), DeviceError>;

    /// Copies an f32 output or persistent buffer; `data` has as many elements as the buffer.
    fn read_f32(&self, name: &str, data: &mut [f32]) -> Result<(), DeviceError>;

    /// Runs one step. A device may return before the step has ended; what reads its results waits for it.
    fn run(&mut self) -> Result<(), DeviceError>;

    /// Runs one step and adds the seconds of every launch to `seconds`, which has an entry for each; false where the
    /// device cannot tell them apart.
    fn run_timed(&mut self, seconds: &mut [f64]) -> Result<bool, DeviceError> {
        let _ = seconds;
        self.run().map(|()| false)
    }

    /// How every launch is computed, in a word or two (`winograd`), empty where there is nothing to choose; `None` where
    /// the device does not tell.
    fn methods(&self) -> Option<Vec<String>> {
        None
    }

    /// Whether inputs of the next step may be written before the results of the last one are read. Where they may not,
    /// an input can lie on an output's memory.
    fn inputs_wait_apart(&self) -> bool {
        false
    }
}
