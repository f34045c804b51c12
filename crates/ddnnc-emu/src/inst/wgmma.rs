//! The product of a warpgroup.

use super::{Reg, Src};

/// Elements of the factors of a warpgroup's product; sums are f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Factor {
    Bf16,
    F16,
    Tf32,
}

/// Where a warpgroup's product has its first factor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum FirstFactor {
    /// In shared memory, as a matrix descriptor says.
    Descriptor(Src),
    /// Each warp's 16 rows in its registers, as `mma` has them.
    Registers([Reg; 4]),
}

/// `wgmma.mma_async`: 64 × `columns` sums of 16 products (8 of tf32).
#[derive(Clone, Debug, PartialEq)]
pub struct Wgmma {
    /// Elements of both factors.
    pub factor: Factor,
    /// Columns of the result: a multiple of 8, at most 256.
    pub columns: u32,
    /// The accumulator, `columns / 2` registers.
    pub d: Vec<Reg>,
    /// The first factor.
    pub a: FirstFactor,
    /// Descriptor of the second factor.
    pub b: Src,
    /// `scale-d`, and whether it is negated: where it does not hold, sums begin at 0.
    pub scale_d: (Src, bool),
    /// Whether the products are negated: one of the factors' scales is −1.
    pub negate: bool,
    /// Whether the rows of A lie next to each other, not its columns.
    pub trans_a: bool,
    /// Whether the columns of B lie next to each other, not its rows.
    pub trans_b: bool,
}
