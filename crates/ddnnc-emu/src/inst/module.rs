//! Modules, their kernels and variables.

use super::{Inst, Space};
use crate::source::{Loc, SourceFile};

/// A variable of a module or kernel. [`super::Src::Variable`] numbers the module's variables first, then the kernel's own
/// (parameters, `.shared`, `.local`), in order of declaration.
#[derive(Clone, Debug, PartialEq)]
pub struct Variable {
    /// Its name.
    pub name: String,
    /// `Global`, `Const`, `Shared`, `Local` or `Param`.
    pub space: Space,
    /// Bytes; 0 for `extern .shared` without extent.
    pub bytes: u64,
    /// Bytes.
    pub align: u64,
    /// `.extern .shared .align 16 .b8 x[]`: it begins where static shared memory ends.
    pub dynamic: bool,
    /// Initial content of module variables (empty: zeros).
    pub init: Vec<u8>,
}

/// A kernel (`.entry`). Device functions are refused: NVRTC inlines them; the message says `__forceinline__`.
#[derive(Clone, Debug, PartialEq)]
pub struct Kernel {
    /// Its name.
    pub name: String,
    /// Its variables: `Param` first, then the others.
    pub variables: Vec<Variable>,
    /// How many registers of each file it declares: Pred, B16, B32, B64, B128.
    pub registers: [u32; 5],
    /// The body.
    pub code: Vec<Inst>,
    /// Where in the source its instructions come from, as far as the PTX says it.
    pub locs: Vec<Loc>,
    /// `.maxntid`, as a product.
    pub max_threads: Option<u32>,
    /// `.reqntid`: the one block size it may be launched with.
    pub required_threads: Option<[u32; 3]>,
}

/// A module.
#[derive(Clone, Debug, PartialEq)]
pub struct Module {
    /// `.target sm_80` gives 80.
    pub target: u32,
    /// `.target sm_90a`: it runs on devices of exactly that target, and may use what only they have.
    pub exact_target: bool,
    /// `.global`, `.const` and module-level `.shared` variables.
    pub variables: Vec<Variable>,
    /// Its kernels.
    pub kernels: Vec<Kernel>,
    /// The source files.
    pub files: Vec<SourceFile>,
}

impl Module {
    /// Whether a device can run it: one of its target or, unless the target is exact, a newer one.
    pub fn runs_on(&self, arch: u32) -> bool {
        if self.exact_target { arch == self.target } else { arch >= self.target }
    }

    /// `sm_90` or `sm_90a`.
    pub fn target_name(&self) -> String {
        format!("sm_{}{}", self.target, if self.exact_target { "a" } else { "" })
    }
}
