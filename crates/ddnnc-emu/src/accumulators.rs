//! Registers of matrix products under way: who accesses them, and whether `wgmma.fence` stands between.
//!
//! PTX ISA, `wgmma.fence`: between any access to a register and a product that has it as accumulator or factor there must
//! be a fence, unless both are products of the same shape that have it as accumulator. Products of one first factor are
//! let pass without a fence too, as they only read it.

use crate::block::Scene;
use crate::fault::{FaultKind, Problem, problem, problem_with};
use crate::inst::Wgmma;
use crate::warp::Warp;
use crate::watched::first_factor;

/// The last access to a register.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Access {
    /// None yet.
    Never,
    /// By an instruction that is no product.
    Plain { pc: u32 },
    /// As accumulator of a product of a shape.
    Accumulator { pc: u32, shape: u32 },
    /// As first factor.
    Factor { pc: u32 },
}

/// A register that is watched.
#[derive(Clone, Copy)]
struct State {
    last: Access,
    /// How many fences there had been then.
    fences: u32,
    /// Products under way that have it.
    pending: u32,
}

/// The watched registers of a warp.
#[derive(Default)]
pub(crate) struct Accumulators {
    states: Vec<State>,
    /// How many `wgmma.fence` there have been.
    fences: u32,
}

impl Accumulators {
    /// Begins with so many registers.
    pub fn reset(&mut self, count: usize) {
        self.states.clear();
        self.states.resize(count, State { last: Access::Never, fences: 0, pending: 0 });
        self.fences = 0;
    }

    /// `wgmma.fence`
    pub fn fence(&mut self) {
        self.fences += 1;
    }
}

/// What tells products of one shape from others.
fn shape(product: &Wgmma) -> u32 {
    product.columns << 2 | product.factor as u32
}

impl Warp<'_> {
    /// An instruction that is no product accesses watched registers.
    pub fn touch(&mut self, scene: &Scene<'_>, mask: u32, numbers: &[u32]) -> Result<(), Box<Problem>> {
        let accumulators = &mut self.accumulators;
        for number in numbers {
            let state = &mut accumulators.states[*number as usize];
            if state.pending > 0 {
                let (Access::Accumulator { pc, .. } | Access::Factor { pc } | Access::Plain { pc }) =
                    state.last
                else {
                    continue;
                };
                let line = scene.launch.program.line(pc);
                let message = format!(
                    "accesses a register of the wgmma of PTX line {line}, which must be committed and waited for first"
                );
                return problem_with(FaultKind::AsyncProduct, mask.trailing_zeros(), message, pc);
            }
            state.last = Access::Plain { pc: self.pc };
            state.fences = accumulators.fences;
        }
        Ok(())
    }

    /// A product takes its registers.
    pub fn take_registers(&mut self, scene: &Scene<'_>, product: &Wgmma) -> Result<(), Box<Problem>> {
        let (program, pc) = (&scene.launch.program, self.pc);
        let accumulators = &mut self.accumulators;
        if accumulators.fences == 0 {
            let message = "no wgmma.fence stands before the first wgmma.mma_async".to_owned();
            return problem(FaultKind::AsyncProduct, 0, message);
        }
        let sums = product.d.iter().map(|reg| (reg, Access::Accumulator { pc, shape: shape(product) }));
        let factors = first_factor(product).iter().map(|reg| (reg, Access::Factor { pc }));
        for (reg, access) in sums.chain(factors) {
            let state = &mut accumulators.states[program.watched.number(*reg)];
            let since = state.fences == accumulators.fences;
            let before = match (state.last, access) {
                (Access::Plain { pc }, _) if since => Some((pc, "is accessed")),
                (Access::Factor { pc }, Access::Accumulator { .. }) if since => Some((pc, "is a factor")),
                (Access::Accumulator { pc, .. }, Access::Factor { .. }) if since => Some((pc, "is a result")),
                (Access::Accumulator { pc, shape: other }, Access::Accumulator { shape, .. })
                    if since && shape != other =>
                {
                    Some((pc, "is a result of another shape"))
                }
                _ => None,
            };
            if let Some((pc, how)) = before {
                let line = program.line(pc);
                let message =
                    format!("a register of it {how} at PTX line {line}, with no wgmma.fence between");
                return problem_with(FaultKind::AsyncProduct, 0, message, pc);
            }
            state.last = access;
            state.fences = accumulators.fences;
            state.pending += 1;
        }
        Ok(())
    }

    /// A product has ended.
    pub fn give_registers(&mut self, scene: &Scene<'_>, product: &Wgmma) {
        for reg in product.d.iter().chain(first_factor(product)) {
            self.accumulators.states[scene.launch.program.watched.number(*reg)].pending -= 1;
        }
    }
}
