//! A whole program as kernels: every launch's code, and which texts there are to compile.

use crate::arch::Target;
use crate::code::{EmitError, Kernel, LaunchCode};
use crate::emit::emit_launch;
use ddnnc_passes::Program;
use indexmap::IndexMap;
use rustc_hash::FxBuildHasher;

/// A kernel of a launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Use {
    /// The launch's number in the program.
    pub launch: usize,
    /// The kernel's number in the launch.
    pub kernel: usize,
}

/// The kernels of a program.
#[derive(Clone, Debug)]
pub struct Emitted {
    /// The code of every launch, in order.
    pub launches: Vec<LaunchCode>,
    /// For every text that differs from all before it, the kernels that are made of it; in the order in which the program
    /// first needs them.
    pub texts: Vec<Vec<Use>>,
    /// For every launch and kernel, the number of its text.
    pub text_of: Vec<Vec<usize>>,
}

impl Emitted {
    /// Emits every launch of a program.
    ///
    /// # Errors
    ///
    /// The first launch that no kernel can do.
    pub fn new(program: &Program, target: &Target) -> Result<Emitted, EmitError> {
        let launches = program
            .launches
            .iter()
            .map(|launch| emit_launch(program, launch, target))
            .collect::<Result<Vec<LaunchCode>, EmitError>>()?;
        let mut texts: IndexMap<&str, Vec<Use>, FxBuildHasher> = IndexMap::default();
        let mut text_of = Vec::with_capacity(launches.len());
        for (launch, code) in launches.iter().enumerate() {
            let mut numbers = Vec::with_capacity(code.kernels.len());
            for (kernel, made) in code.kernels.iter().enumerate() {
                let entry = texts.entry(&made.source);
                numbers.push(entry.index());
                entry.or_default().push(Use { launch, kernel });
            }
            text_of.push(numbers);
        }
        let texts = texts.into_values().collect();
        Ok(Emitted { launches, texts, text_of })
    }

    /// The kernel of a use.
    pub fn kernel(&self, of: Use) -> &Kernel {
        &self.launches[of.launch].kernels[of.kernel]
    }

    /// The first kernel of a text: its name and source are those of all.
    pub fn first(&self, text: usize) -> &Kernel {
        self.kernel(self.texts[text][0])
    }

    /// Bytes of workspace of the launch that needs most; launches run one after the other and share it.
    pub fn workspace_bytes(&self) -> usize {
        self.launches.iter().map(|code| code.workspace_bytes).max().unwrap_or(0)
    }

    /// Counters of all launches; every launch has its own.
    pub fn counters(&self) -> usize {
        self.launches.iter().map(|code| code.counters).sum()
    }
}
