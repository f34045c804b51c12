//! From `--device` to a device, and from programs to what runs them.

use crate::Failure;
use crate::cli::{DeviceArgs, DeviceName};
use ddnnc_cpu::CpuDevice;
use ddnnc_ir::Model;
use ddnnc_passes::{Compiled, Device, DeviceError, Goal, PassError, ReferenceDevice};

/// Opens the device that the user named.
pub fn open(args: &DeviceArgs) -> Result<Box<dyn Device>, Failure> {
    match args.device {
        DeviceName::Auto | DeviceName::Cpu => {
            let device = CpuDevice::new(args.threads.map(usize::from)).map_err(failed)?;
            Ok(Box::new(device))
        }
        DeviceName::Reference => Ok(Box::new(ReferenceDevice)),
        DeviceName::Cuda => {
            Err(Failure::environment("this build has no CUDA device").hint("use `--device cpu`"))
        }
    }
}

/// Compiles a model for a goal.
pub fn compile(model: &Model, goal: Goal) -> Result<Compiled, Failure> {
    ddnnc_passes::compile(model, goal, &mut |_, _| {}).map_err(|e| not_compiled(&e))
}

/// A lowered spec that does not compile.
pub fn not_compiled(error: &PassError) -> Failure {
    Failure::input(format!("the spec does not compile: {error}"))
}

/// A device that failed.
pub fn failed(error: DeviceError) -> Failure {
    Failure::environment(error)
}
