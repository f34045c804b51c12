//! From `--device` to a device, and from programs to what runs them.

use crate::Failure;
use crate::cli::{DeviceArgs, DeviceName, PassArgs};
use ddnnc_cpu::CpuDevice;
use ddnnc_ir::Model;
use ddnnc_passes::{Compiled, Device, DeviceError, Goal, Options, PassError, ReferenceDevice};

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

/// The passes that the user asked for. An order that they cannot run in is the command line's fault.
pub fn options(args: &PassArgs) -> Result<Options, Failure> {
    let Some(names) = &args.passes else {
        return Ok(if args.no_fuse { Options::without_fusion() } else { Options::default() });
    };
    Options::named(names).map_err(|error| {
        let order: Vec<&str> = ddnnc_passes::PASSES.iter().map(|(name, _)| *name).collect();
        Failure::usage(format!("--passes {}: {error}", names.join(",")))
            .hint(format!("the order of all passes is {}", order.join(",")))
    })
}

/// Compiles a model for a goal.
pub fn compile(model: &Model, goal: Goal, options: &Options) -> Result<Compiled, Failure> {
    ddnnc_passes::compile_with(model, goal, options, &mut |_, _| {}).map_err(|e| not_compiled(&e))
}

/// A lowered spec that does not compile.
pub fn not_compiled(error: &PassError) -> Failure {
    Failure::input(format!("the spec does not compile: {error}"))
}

/// A device that failed.
pub fn failed(error: DeviceError) -> Failure {
    Failure::environment(error)
}
