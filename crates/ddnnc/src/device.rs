//! From `--device` to a device, and from programs to what runs them.

use crate::cli::PassArgs;
use crate::device_args::{DeviceArgs, DeviceName};
use crate::load_notes::LoadNotes;
use crate::output::bytes;
use crate::{Failure, Ui};
use ddnnc_cpu::{CpuDevice, CpuOptions, Tune};
use ddnnc_cuda::{CudaDevice, CudaOptions, OpenError};
use ddnnc_ir::Model;
use ddnnc_passes::{Compiled, Device, DeviceError, Goal, Options, PassError, ReferenceDevice};
use std::path::PathBuf;
use std::sync::Arc;

/// A device and what its speed goes by: `cpu (threads 2, instructions avx512)`.
pub fn describe(device: &dyn Device) -> String {
    let settings: Vec<String> =
        device.settings().iter().map(|(name, value)| format!("{name} {value}")).collect();
    match settings.is_empty() {
        true => device.name().to_owned(),
        false => format!("{} ({})", device.name(), settings.join(", ")),
    }
}

/// Opens the device that the user named.
pub fn open(args: &DeviceArgs, ui: Ui) -> Result<Box<dyn Device>, Failure> {
    open_watched(args, ui, Arc::new(LoadNotes::new(ui)))
}

/// As [`open`]; the notes learn how programs are loaded, if the device tells.
pub fn open_watched(args: &DeviceArgs, ui: Ui, notes: Arc<LoadNotes>) -> Result<Box<dyn Device>, Failure> {
    let name = args.name();
    if matches!(name, DeviceName::Cpu | DeviceName::Reference) {
        let option = if args.emulate { Some("--emulate") } else { args.kernels.given() };
        if let Some(option) = option {
            let message = format!("{option} is for the cuda device, not for `--device {}`", name.as_str());
            return Err(Failure::usage(message));
        }
    }
    if let (DeviceName::Cuda | DeviceName::Reference, Some(option)) = (name, args.processor.given()) {
        let message = format!("{option} is for the cpu device, not for `--device {}`", name.as_str());
        return Err(Failure::usage(message));
    }
    if args.emulate {
        ddnnc_emu::install().map_err(|message| {
            Failure::environment(format!("no emulated CUDA driver: {message}"))
                .hint("`cargo build -p ddnnc-emu` makes the library; DDNNC_EMU_LIBRARY says where it is")
        })?;
    }
    let device = opened(name, args, ui, notes)?;
    if args.threads.is_some() && device.name() != DeviceName::Cpu.as_str() {
        ui.note(&format!("running on {}, where --threads has no effect", device.name()));
    }
    Ok(device)
}

fn opened(
    name: DeviceName,
    args: &DeviceArgs,
    ui: Ui,
    notes: Arc<LoadNotes>,
) -> Result<Box<dyn Device>, Failure> {
    match name {
        DeviceName::Auto if CudaDevice::has_driver() => match cuda(args, notes) {
            Ok(device) => Ok(device),
            Err(error) => {
                instead_of_cuda(args, ui, &error);
                cpu(args, ui)
            }
        },
        DeviceName::Auto | DeviceName::Cpu => {
            // Who asks for the best that is there, or for certain kernels, is told what that is; who asks for nothing
            // expects the CPU.
            let asked = args.device.is_some() || args.kernels.given().is_some();
            if name == DeviceName::Auto && asked {
                instead_of_cuda(args, ui, &OpenError::NoDriver);
            }
            cpu(args, ui)
        }
        DeviceName::Cuda => cuda(args, notes).map_err(|error| {
            let failure = Failure::environment(&error).hint("use `--device cpu`");
            match error {
                OpenError::NoDriver | OpenError::NoDevice { .. } if !args.emulate => {
                    failure.hint("`--emulate` runs the kernels on the CPU, slowly and checked")
                }
                _ => failure,
            }
        }),
        DeviceName::Reference => Ok(Box::new(ReferenceDevice)),
    }
}

/// Says why `--device auto` is the CPU, and which option has no effect there.
fn instead_of_cuda(args: &DeviceArgs, ui: Ui, error: &OpenError) {
    let idle = args.kernels.given().map(|option| format!(", without {option}")).unwrap_or_default();
    ui.note(&format!("running on the cpu{idle}: {error}"));
}

fn cpu(args: &DeviceArgs, ui: Ui) -> Result<Box<dyn Device>, Failure> {
    let options = CpuOptions {
        threads: args.threads.map(usize::from),
        level: args.processor.instructions,
        winograd: !args.processor.no_winograd,
        tune: args
            .processor
            .tune
            .then(|| Tune { folder: choices_folder(), note: Arc::new(move |text: &str| ui.note(text)) }),
    };
    Ok(Box::new(CpuDevice::open(&options).map_err(failed)?))
}

/// Where measured choices are kept: `$DDNNC_CACHE`, else beside the compiled kernels' folder in the user's cache.
fn choices_folder() -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    set("DDNNC_CACHE").or_else(|| {
        let base = set("XDG_CACHE_HOME").or_else(|| Some(set("HOME")?.join(".cache")))?;
        Some(base.join("ddnnc").join("choices"))
    })
}

fn cuda(args: &DeviceArgs, notes: Arc<LoadNotes>) -> Result<Box<dyn Device>, OpenError> {
    let options = CudaOptions {
        math: args.kernels.math(),
        tile: args.kernels.cuda_tile,
        warpgroups: !args.kernels.no_wgmma,
        lines: args.emulate,
        watch: notes,
        ..CudaOptions::default()
    };
    Ok(Box::new(CudaDevice::open(options)?))
}

/// The passes that the user asked for, for a device: all but the reference device run channels-last maps only.
pub fn options_on(device: &DeviceArgs, args: &PassArgs) -> Result<Options, Failure> {
    let options = options(args)?;
    if device.device != Some(DeviceName::Reference) {
        lays_out(args)?;
    }
    Ok(options)
}

/// Refuses passes that leave maps as they are in the spec, which kernels cannot read.
pub fn lays_out(args: &PassArgs) -> Result<(), Failure> {
    match &args.passes {
        Some(names) if !names.iter().any(|name| name == LAYOUT) => {
            let list = names.join(",");
            Err(Failure::usage(format!("--passes {list}: kernels work on channels-last maps"))
                .hint(format!("with `{LAYOUT}` the maps are: `--passes {LAYOUT},{list}`"))
                .hint("`--device reference` runs any passes"))
        }
        _ => Ok(()),
    }
}

/// The pass that makes maps channels-last.
const LAYOUT: &str = "assign_layout";

/// The passes that the user asked for. An order that they cannot run in is the command line's fault.
pub fn options(args: &PassArgs) -> Result<Options, Failure> {
    let Some(names) = &args.passes else {
        return Ok(match (args.no_fuse, args.no_recompute) {
            (true, _) => Options::without_fusion(),
            (false, true) => Options::without_recomputation(),
            (false, false) => Options::default(),
        });
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

/// The way out where memory is short.
const SMALLER: &str = "a smaller batch needs less: `--batch N`";

/// A device that failed.
pub fn failed(error: DeviceError) -> Failure {
    match error {
        DeviceError::TooLarge { needed, free } => {
            let (needed, free) = (bytes(needed as u64), bytes(free as u64));
            Failure::environment(format!("the program needs {needed} and the device has {free} free"))
                .hint(SMALLER)
        }
        DeviceError::OutOfMemory { needed } => {
            let needed = bytes(needed as u64);
            Failure::environment(format!("the program needs {needed}, and as much memory cannot be had"))
                .hint(SMALLER)
        }
        error => Failure::environment(error),
    }
}
