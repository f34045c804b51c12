//! What was executed, in numbers.

use crate::machine::LaunchReport;

/// What the devices of a process did since the driver was initialised; as `ddnnc_emu_report` writes it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Kernels executed.
    pub kernels: u64,
    /// Launches of graphs executed.
    pub graphs: u64,
    /// Instructions times active lanes.
    pub thread_instructions: u64,
    /// Instructions of warps.
    pub warp_instructions: u64,
    /// Matrix instructions of warps.
    pub matrix_instructions: u64,
    /// Bytes of global memory that kernels read.
    pub global_read: u64,
    /// Bytes of global memory that kernels wrote.
    pub global_written: u64,
    /// Bytes copied from the host.
    pub host_to_device: u64,
    /// Bytes copied to the host.
    pub device_to_host: u64,
    /// Bytes copied on and between devices.
    pub device_to_device: u64,
}

impl Report {
    pub(super) fn launched(&mut self, did: &LaunchReport) {
        self.kernels += 1;
        self.thread_instructions += did.thread_instructions;
        self.warp_instructions += did.warp_instructions;
        self.matrix_instructions += did.matrix_instructions;
        self.global_read += did.global_read;
        self.global_written += did.global_written;
    }
}
