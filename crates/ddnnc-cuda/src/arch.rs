//! What kernels are made for.

use std::fmt;
use std::str::FromStr;

/// A compute capability: `sm_90`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Arch(pub u32);

impl Arch {
    /// What the gate compiles for.
    pub const GATED: [Arch; 4] = [Arch(80), Arch(90), Arch(100), Arch(120)];
}

impl Arch {
    /// As compilers are told: for Hopper with the instructions that no later card has.
    pub(crate) fn for_compiler(self) -> String {
        format!("{self}{}", if self.0 == 90 { "a" } else { "" })
    }
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sm_{}", self.0)
    }
}

impl FromStr for Arch {
    type Err = String;

    fn from_str(text: &str) -> Result<Arch, String> {
        let number = text.strip_prefix("sm_").and_then(|n| n.parse().ok());
        match number {
            Some(n) if n >= 80 => Ok(Arch(n)),
            Some(_) => Err(format!("`{text}` is too old: kernels need sm_80 or newer")),
            None => Err(format!("`{text}` is no architecture; write sm_80, sm_90, sm_100 or sm_120")),
        }
    }
}

/// How products of f32 values are computed. Products of bf16 values are on matrix units always.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Math {
    /// In f32, without matrix units.
    #[default]
    Exact,
    /// On matrix units, operands rounded to tf32 (10 bits of mantissa).
    Tf32,
}

/// What emission needs to know.
#[derive(Clone, Debug, PartialEq)]
pub struct Target {
    /// The architecture.
    pub arch: Arch,
    /// Products of f32.
    pub math: Math,
    /// Streaming multiprocessors, for the choice of tiles.
    pub multiprocessors: u32,
    /// Forces the tile of matrix kernels: rows, columns, depth; `None` lets the cost model choose.
    pub tile: Option<[usize; 3]>,
    /// Whether bf16 products may use the instructions of warpgroups (`wgmma`), where the architecture has them.
    pub warpgroups: bool,
    /// What a kernel of its own costs, in microseconds, where the alternative is to do its work in another.
    pub launch_us: f64,
}

/// A kernel in a graph of kernels, on an H100.
const LAUNCH_US: f64 = 2.5;

impl Target {
    /// For an architecture, exact, with as many multiprocessors as its data-centre card has.
    pub fn new(arch: Arch) -> Target {
        let multiprocessors = match arch.0 {
            80 => 108,
            90 => 132,
            100 => 148,
            _ => 128,
        };
        Target {
            arch,
            math: Math::Exact,
            multiprocessors,
            tile: None,
            warpgroups: true,
            launch_us: LAUNCH_US,
        }
    }

    /// Whether bf16 products use the instructions of warpgroups: those of compute capability 9.0 alone.
    pub(crate) fn has_warpgroups(&self) -> bool {
        self.warpgroups && self.arch.0 == 90
    }
}
