//! The options that say where a program runs, and how CUDA kernels are made.

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, ValueEnum};
use ddnnc_cpu::Level;
use ddnnc_cuda::arch::{Arch, Math, Target};

/// Where the program runs.
#[derive(Debug, Args)]
pub struct DeviceArgs {
    /// What runs the program (auto is cuda where a driver, a card and NVRTC are found, else cpu) [default: auto]
    #[arg(long, value_enum)]
    pub device: Option<DeviceName>,
    /// Threads of the cpu device [default: one for each core]
    #[arg(long, value_name = "T", allow_negative_numbers = true, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,
    /// How the cpu device computes
    #[command(flatten)]
    pub processor: ProcessorArgs,
    /// Run the kernels of the cuda device without a card: a driver that executes them on the CPU and checks every access
    #[arg(long)]
    pub emulate: bool,
    /// How kernels are made
    #[command(flatten)]
    pub kernels: KernelArgs,
}

impl DeviceArgs {
    /// The device that is meant: an emulated driver has only the one, and options of the cpu device mean that.
    pub fn name(&self) -> DeviceName {
        match self.device.unwrap_or(DeviceName::Auto) {
            DeviceName::Auto if self.emulate => DeviceName::Cuda,
            DeviceName::Auto if self.processor.given().is_some() => DeviceName::Cpu,
            name => name,
        }
    }
}

/// How the cpu device computes.
#[derive(Clone, Copy, Debug, Default, Args)]
pub struct ProcessorArgs {
    /// Use no better instructions than these (cpu only) [default: the best that the processor has]
    #[arg(long, value_name = "LEVEL", value_parser = instructions())]
    pub instructions: Option<Level>,
    /// Never compute convolutions by Winograd's algorithm (cpu only)
    #[arg(long)]
    pub no_winograd: bool,
    /// Measure how each convolution is fastest when a program is loaded, and keep that for the next time (cpu only)
    #[arg(long)]
    pub tune: bool,
}

impl ProcessorArgs {
    /// The first option that was given.
    pub fn given(&self) -> Option<&'static str> {
        let given = [
            (self.instructions.is_some(), "--instructions"),
            (self.no_winograd, "--no-winograd"),
            (self.tune, "--tune"),
        ];
        given.into_iter().find(|g| g.0).map(|g| g.1)
    }

    /// The options as words of a command line.
    pub fn words(&self) -> Vec<String> {
        let level = self.instructions.map(|level| ["--instructions".to_owned(), level.name().to_owned()]);
        let winograd = self.no_winograd.then(|| "--no-winograd".to_owned());
        let tune = self.tune.then(|| "--tune".to_owned());
        level.into_iter().flatten().chain(winograd).chain(tune).collect()
    }
}

/// The levels of this kind of processor by name.
fn instructions() -> impl TypedValueParser<Value = Level> {
    let names: Vec<&str> = Level::ALL.iter().map(|level| level.name()).collect();
    PossibleValuesParser::new(names).try_map(|name| {
        Level::ALL.iter().copied().find(|level| level.name() == name).ok_or("no such instructions")
    })
}

/// The devices by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DeviceName {
    /// The best that is there
    Auto,
    /// Native kernels
    Cpu,
    /// An NVIDIA GPU
    Cuda,
    /// The slow f64 evaluator
    Reference,
}

impl DeviceName {
    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            DeviceName::Auto => "auto",
            DeviceName::Cpu => "cpu",
            DeviceName::Cuda => "cuda",
            DeviceName::Reference => "reference",
        }
    }
}

/// How CUDA kernels are made.
#[derive(Clone, Copy, Debug, Default, Args)]
pub struct KernelArgs {
    /// Compute products of f32 on matrix units, their operands rounded to 10 bits of mantissa (cuda only)
    #[arg(long)]
    pub tf32: bool,
    /// Force the tile of matrix kernels: rows, columns, depth (cuda only)
    #[arg(long, value_name = "MxNxK", value_parser = tile)]
    pub cuda_tile: Option<[usize; 3]>,
    /// Multiply bf16 on Hopper as on other cards, without its instructions of warpgroups (cuda only)
    #[arg(long)]
    pub no_wgmma: bool,
}

impl KernelArgs {
    /// Products of f32.
    pub fn math(&self) -> Math {
        if self.tf32 { Math::Tf32 } else { Math::Exact }
    }

    /// What kernels are made for, where that is not a device that is there.
    pub fn target(&self, arch: Arch) -> Target {
        let (math, tile, warpgroups) = (self.math(), self.cuda_tile, !self.no_wgmma);
        Target { math, tile, warpgroups, ..Target::new(arch) }
    }

    /// The first option that was given.
    pub fn given(&self) -> Option<&'static str> {
        let tile = self.cuda_tile.is_some();
        let all = [(self.tf32, "--tf32"), (tile, "--cuda-tile"), (self.no_wgmma, "--no-wgmma")];
        all.into_iter().find(|(given, _)| *given).map(|(_, name)| name)
    }
}

/// `128x64x32`
fn tile(text: &str) -> Result<[usize; 3], String> {
    let numbers: Vec<Option<usize>> = text.split('x').map(|n| n.parse().ok().filter(|&n| n > 0)).collect();
    match numbers[..] {
        [Some(rows), Some(columns), Some(depth)] => Ok([rows, columns, depth]),
        _ => Err("three sizes are needed: rows, columns, depth, as in 128x64x32".to_owned()),
    }
}

/// What `compile --emit cuda|ptx|sass` makes kernels for.
#[derive(Clone, Debug, Args)]
pub struct CodeArgs {
    /// The architecture that kernels are for: sm_80, sm_90, sm_100, sm_120 … [default: sm_90]
    #[arg(long, value_name = "ARCH")]
    pub arch: Option<Arch>,
    /// How kernels are made
    #[command(flatten)]
    pub kernels: KernelArgs,
}

impl CodeArgs {
    /// The first option that was given.
    pub fn given(&self) -> Option<&'static str> {
        if self.arch.is_some() { Some("--arch") } else { self.kernels.given() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_are_three_positive_numbers() {
        assert_eq!(tile("128x64x32"), Ok([128, 64, 32]));
        for wrong in ["", "128", "128x64", "128x64x0", "128x64x32x1", "ax64x32", "128*64*32"] {
            assert!(tile(wrong).is_err(), "{wrong}");
        }
    }
}
