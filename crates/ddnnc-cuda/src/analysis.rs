//! What is known of a program's speed without a GPU: operations and bytes of every launch, the time that they take at
//! least, and what the compiled kernels use. No figure here is a measurement.

use crate::arch::Arch;
use crate::binaries::{Build, Progress, Unit};
use crate::cache::Cache;
use crate::code::Cost;
use crate::emitted::Emitted;
use crate::limits::{Limits, multiprocessor, resident_blocks};
use crate::machine_code::{DisassemblyError, Instructions, Resources, count, resources};
use crate::nvrtc::{NvrtcError, Output};
use ddnnc_ir::DType;
use ddnnc_passes::{Launch, Program};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Whether matrix products of a launch are of bf16 (else of tf32 or f32).
pub fn is_bf16(program: &Program, launch: &Launch) -> bool {
    launch.operands.iter().any(|&b| program.buffer(b).ty.dtype == DType::Bf16)
}

/// The least time that a cost takes on a card, in microseconds: that of the scarcest of matrix units, other arithmetic
/// and memory, all at their peak.
pub fn floor_us(cost: &Cost, bf16: bool, card: &Limits) -> f64 {
    let matrix = if bf16 { card.bf16_tflops } else { card.tf32_tflops };
    let arithmetic = cost.matrix_flops as f64 / (matrix * 1e6);
    let vector = cost.vector_flops as f64 / (card.f32_tflops * 1e6);
    let memory = (cost.bytes_read + cost.bytes_written) as f64 / (card.memory_gbs * 1e3);
    arithmetic.max(vector).max(memory)
}

/// What a compiled kernel uses.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Compiled {
    /// Registers, shared memory, stack, spills.
    pub resources: Resources,
    /// Counted instructions; `None` without nvdisasm.
    pub instructions: Option<Instructions>,
    /// Blocks that one multiprocessor holds.
    pub resident_blocks: u32,
    /// Threads that it holds, as a share of the most it can.
    pub occupancy: f64,
}

/// Why kernels could not be examined.
#[derive(Debug, thiserror::Error)]
pub enum AnalysisError {
    /// Not compiled.
    #[error(transparent)]
    Nvrtc(#[from] NvrtcError),
    /// Not disassembled.
    #[error(transparent)]
    Disassembly(#[from] DisassemblyError),
}

/// Compiles every distinct kernel to machine code, on all cores, and examines it: one entry for each of
/// [`Emitted::texts`]. Instructions are counted if `disassembled`.
///
/// # Errors
///
/// The first kernel, in the order in which the program needs them, that does not compile.
pub fn examine(
    emitted: &Emitted,
    arch: Arch,
    disassembled: bool,
    cache: Option<&Cache>,
    progress: &dyn Progress,
) -> Result<Vec<Compiled>, AnalysisError> {
    let kernels: Vec<_> = (0..emitted.texts.len()).map(|i| emitted.first(i)).collect();
    let units: Vec<Unit> = kernels.iter().map(|k| Unit { name: &k.name, source: &k.source }).collect();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let built = Build { arch, output: Output::Cubin, cache, threads }.run(&units, progress)?;
    let counted: Vec<Mutex<Option<Result<Instructions, DisassemblyError>>>> =
        built.iter().map(|_| Mutex::new(None)).collect();
    if disassembled {
        let next = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    loop {
                        let at = next.fetch_add(1, Ordering::Relaxed);
                        let Some(unit) = built.get(at) else { break };
                        let count = count(&unit.binary.bytes);
                        if let Ok(mut slot) = counted[at].lock() {
                            *slot = Some(count);
                        }
                    }
                });
            }
        });
    }
    let mut examined = Vec::with_capacity(built.len());
    for ((kernel, built), counted) in kernels.iter().zip(&built).zip(counted) {
        let resources = resources(&built.binary.log)
            .ok_or_else(|| NvrtcError::Failed(format!("the log of `{}` names no registers", kernel.name)))?;
        let instructions = counted.into_inner().ok().flatten().transpose()?;
        let shared = resources.shared + kernel.dynamic_shared;
        let blocks = resident_blocks(arch, kernel.block, resources.registers, shared);
        let threads = blocks * kernel.block.next_multiple_of(32);
        let occupancy = f64::from(threads) / f64::from(multiprocessor(arch).threads);
        examined.push(Compiled { resources, instructions, resident_blocks: blocks, occupancy });
    }
    Ok(examined)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::card_of;

    #[test]
    fn a_floor_is_that_of_the_scarcest_resource() {
        let h100 = card_of(Arch(90));
        let copy = Cost { bytes_read: 3_350_000, bytes_written: 0, ..Cost::default() };
        assert!((floor_us(&copy, true, h100) - 1.0).abs() < 1e-9);
        let product = Cost { matrix_flops: 989_400_000, ..copy };
        assert!((floor_us(&product, true, h100) - 1.0).abs() < 1e-9);
        assert!((floor_us(&product, false, h100) - 2.0).abs() < 1e-9);
        let plain = Cost { vector_flops: 66_900_000 * 3, ..product };
        assert!((floor_us(&plain, true, h100) - 3.0).abs() < 1e-9);
    }
}
