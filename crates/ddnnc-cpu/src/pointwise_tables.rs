//! Channel vectors of tile programs: constants folded once per launch, repeated to a whole period.

use crate::memory::{Memory, Slot};
use crate::pointwise_kernels::widen;
use ddnnc_ir::DType;

/// A channel vector that an operand holds, or one number in every channel.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Vector {
    /// The operand's place.
    pub slot: Option<Slot>,
    /// The number where there is no operand.
    pub number: f32,
}

impl Vector {
    /// No vector.
    pub const NONE: Vector = Vector { slot: None, number: 0.0 };

    /// Its element of channel c.
    fn at(&self, memory: Memory<'_>, c: usize) -> f32 {
        match self.slot {
            Some(slot) if slot.dtype == DType::Bf16 => {
                // SAFETY: vectors are operands, which nothing writes before the tasks run; the element type is matched.
                let all: &[u16] = unsafe { memory.view(slot) };
                widen(all[c])
            }
            Some(slot) => {
                // SAFETY: as above.
                let all: &[f32] = unsafe { memory.view(slot) };
                all[c]
            }
            None => self.number,
        }
    }
}

/// What a table holds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum FillKind {
    /// The vector.
    Repeat,
    /// gain / √(var + eps) of (var, gain)
    Scale {
        /// Added to the variance.
        eps: f64,
    },
    /// x / count
    Share {
        /// Rows.
        count: f64,
    },
    /// dgain / √(var + eps) / count of (dgain, var)
    Along {
        /// Rows.
        count: f64,
        /// Added to the variance.
        eps: f64,
    },
}

/// A table to be written before the tasks run.
#[derive(Clone, Copy, Debug)]
pub struct Fill {
    /// What it holds.
    pub kind: FillKind,
    /// Of which vectors.
    pub sources: [Vector; 3],
    /// Channels.
    pub channels: usize,
    /// Where it lies: whole repetitions of the channels.
    pub slot: Slot,
}

/// 1/√(var + eps).
pub fn inverse(var: f32, eps: f64) -> f64 {
    1.0 / (f64::from(var) + eps).sqrt()
}

impl Fill {
    /// Writes the table.
    pub fn run(&self, memory: Memory<'_>) {
        // SAFETY: tables lie apart from each other and from all operands in the launch's own memory, and hold f32.
        let out: &mut [f32] = unsafe { memory.view_mut(self.slot) };
        if self.channels == 0 || out.is_empty() {
            return;
        }
        let [a, b, _] = self.sources;
        let (first, rest) = out.split_at_mut(self.channels);
        for (c, out) in first.iter_mut().enumerate() {
            let x = a.at(memory, c);
            *out = match self.kind {
                FillKind::Repeat => x,
                FillKind::Scale { eps } => (f64::from(b.at(memory, c)) * inverse(x, eps)) as f32,
                FillKind::Share { count } => (f64::from(x) / count) as f32,
                FillKind::Along { count, eps } => {
                    (inverse(b.at(memory, c), eps) * f64::from(x) / count) as f32
                }
            };
        }
        rest.chunks_mut(self.channels).for_each(|out| out.copy_from_slice(&first[..out.len()]));
    }
}
