//! The matrix product of bf16 by products of pairs, summed in f32.
//!
//! Where the left operand is read as it lies, a task packs a panel of columns of the right one, as `matmul` does, and a tile
//! of sums takes it with rows of the left one (`bf16_tile`). The product of a transposed left operand is the gradient of a
//! linear layer's weight: a weight gradient of maps of one position.

use crate::ahead::Ahead;
use crate::bf16_tile::{LANES, Products, Sum, WIDTH, Walk, pack_turned};
use crate::convolution::{Geometry, Rows};
use crate::convolution_weight::{GradPart, grad_weight, grad_weight_need};
use crate::device::Machine;
use crate::launch::Need;
use crate::memory::halves;
use crate::method::Method;
use crate::packed_weight_tile::Runs;
use crate::pointwise::Cells;
use crate::pointwise_kernels::widen_all;
use crate::simd::Level;
use crate::tile::Blocks;
use ddnnc_ir::Conv;
use std::ops::Range;

/// Multiply-adds below which products of f32 are as fast.
const LEAST: usize = 1 << 22;

/// Pairs of terms that are added up in one go: their panel stays in the second cache.
const DEPTH: usize = 512;

/// The most rows of the result that a task takes: as much of the left operand stays in the second cache beside the panel.
const ROWS: usize = 192;

/// Where the rows of the left operand are so many elements apart, or a multiple, they share few sets of the caches.
const APART: usize = 256;

/// Elements of the left operand that are copied as one task, about.
const COPIED: usize = 1 << 15;

/// Fewer tasks than this may leave a thread without one.
const TASKS: usize = 8;

/// A product [m, n] = a · b of stored matrices, either of which may be read transposed.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Rows and columns of the result.
    pub result: [usize; 2],
    /// Terms of a sum.
    pub depth: usize,
    /// Which operands are read transposed.
    pub transpose: [bool; 2],
}

impl Sizes {
    /// Of operands of these extents, as stored.
    pub fn new(a: &[usize], b: &[usize], transpose: [bool; 2]) -> Sizes {
        let read =
            |dims: &[usize], transpose: bool| if transpose { [dims[1], dims[0]] } else { [dims[0], dims[1]] };
        let ([m, depth], [_, n]) = (read(a, transpose[0]), read(b, transpose[1]));
        Sizes { result: [m, n], depth, transpose }
    }

    /// Whether it is computed here, by a processor of any level that multiplies pairs.
    fn fits(&self) -> bool {
        let [m, n] = self.result;
        m * n * self.depth >= LEAST && self.transpose != [true; 2]
    }

    /// Whether it is computed here at a level. Tiles of AMX have another product, which this does not know.
    pub fn pays(&self, level: Level) -> bool {
        self.fits() && level.multiplies_bf16() && !level.multiplies_tiles()
    }

    /// The weight gradient that a product with a transposed left operand is.
    fn gradient(&self) -> Geometry {
        let conv = Conv { stride: [1; 2], pad: [0; 2], dilation: [1; 2], groups: 1 };
        let [outputs, inputs] = self.result;
        Geometry { conv, input: [1; 2], output: [1; 2], kernel: [1; 2], inputs, outputs }
    }

    /// Workspace, whatever the level.
    pub fn need(&self) -> Need {
        if self.fits() { self.need_of_any() } else { Need::default() }
    }

    /// The same of a product of any size.
    fn need_of_any(&self) -> Need {
        if self.transpose[0] {
            return grad_weight_need(Method::Bf16, &self.gradient(), &[self.depth]);
        }
        let shared = self.copied().map_or(0, |pitch| (self.result[0] * pitch).div_ceil(2));
        Need { scratch: (DEPTH + ROWS) * WIDTH, shared, ..Need::default() }
    }

    /// Elements between rows of a copy of the left operand, where it is copied.
    fn copied(&self) -> Option<usize> {
        self.depth.is_multiple_of(APART).then_some(self.depth + 32)
    }

    /// out = a · b.
    pub fn run(&self, machine: &mut Machine<'_>, a: &[u16], b: &[u16], out: &mut [f32]) {
        let [outputs, inputs] = self.result;
        if self.transpose[0] {
            let (x, dy) = (Stored { channels: inputs, all: b }, Stored { channels: outputs, all: a });
            let part = GradPart { images: self.depth, x: &x, dy: &dy };
            return grad_weight(machine, Method::Bf16, &self.gradient(), &[part], out);
        }
        let Some(pitch) = self.copied() else {
            return self.panels(machine, (a, self.depth), b, out);
        };
        let (machine, shared) = machine.with_shared((self.result[0] * pitch).div_ceil(2));
        let copy = &mut halves(shared)[..self.result[0] * pitch];
        let some = (COPIED / pitch).max(1);
        machine.pool.split(copy, some * pitch, |task, copy, _| {
            let rows = a[task * some * self.depth..].chunks_exact(self.depth);
            copy.chunks_exact_mut(pitch)
                .zip(rows)
                .for_each(|(to, row)| to[..self.depth].copy_from_slice(row));
        });
        self.panels(&machine, (copy, pitch), b, out);
    }

    /// out = a · b; the rows of a are `pitch` apart.
    fn panels(&self, machine: &Machine<'_>, (a, pitch): (&[u16], usize), b: &[u16], out: &mut [f32]) {
        let ([m, n], terms) = (self.result, self.depth);
        let blocks = Blocks::new(n, WIDTH, LANES);
        let rows = m.div_ceil(TASKS.div_ceil(blocks.count)).clamp(1, ROWS);
        let out = Cells::new(out);
        machine.pool.run(blocks.count * m.div_ceil(rows), &|task, worker| {
            let first = task % blocks.count * blocks.width;
            let columns = first..n.min(first + blocks.width);
            let start = task / blocks.count * rows;
            let count = rows.min(m - start);
            machine.with_scratch(worker, |scratch| {
                let (panel, scratch) = scratch.split_at_mut(DEPTH * WIDTH);
                let sums = &mut scratch[..count * WIDTH];
                let data_at: [usize; ROWS] = std::array::from_fn(|i| (start + i) * pitch);
                let out_at: [usize; ROWS] = std::array::from_fn(|i| i * WIDTH);
                for from in (0..terms).step_by(2 * DEPTH) {
                    let some = (2 * DEPTH).min(terms - from);
                    self.pack(machine.level, b, columns.clone(), from, some, blocks.width, panel);
                    let sum = Sum {
                        rows: columns.len(),
                        width: blocks.width,
                        walk: Walk { counts: [1, 1], steps: [0, 0], terms: some },
                        panel: halves(panel),
                        data: &a[from..],
                        add: from > 0,
                        far: false,
                        ahead: (&Ahead::default(), 0),
                        products: Products::Pairs,
                    };
                    sum.run(&data_at[..count], sums, &out_at[..count]);
                }
                for (i, sums) in sums.chunks_exact(WIDTH).enumerate() {
                    // SAFETY: no other task has these columns of these rows.
                    let out = unsafe { out.range((start + i) * n + first, columns.len()) };
                    out.copy_from_slice(&sums[..columns.len()]);
                }
            });
        });
    }

    /// Packs some terms of some columns of the right operand into a panel of pairs of terms.
    #[expect(clippy::too_many_arguments, reason = "what is packed, and where to")]
    fn pack(
        &self,
        level: Level,
        b: &[u16],
        columns: Range<usize>,
        from: usize,
        terms: usize,
        width: usize,
        panel: &mut [f32],
    ) {
        let ([_, n], depth) = (self.result, self.depth);
        if self.transpose[1] {
            let b = &b[columns.start * depth + from..];
            return level.run(|| {
                pack_turned(b, depth, columns.len(), terms, terms.div_ceil(2), width, halves(panel));
            });
        }
        let first = from * n + columns.start;
        let (count, channels, vectors) = (terms / 2, columns.len(), 2 * LANES);
        let second = Some(first + n);
        let runs = Runs {
            rows: b,
            first: (first, second),
            step: 2 * n,
            count,
            channels,
            pairs: true,
            width: vectors,
        };
        if count > 0 {
            runs.pack(level, panel, width, vectors);
        }
        if terms % 2 == 1 {
            let last = Runs { first: (first + 2 * count * n, None), count: 1, ..runs };
            last.pack(level, &mut panel[count * width..], width, vectors);
        }
    }
}

/// Rows of bf16 that lie in memory.
struct Stored<'a> {
    channels: usize,
    all: &'a [u16],
}

impl Stored<'_> {
    fn rows(&self, first: usize, count: usize) -> &[u16] {
        &self.all[first * self.channels..(first + count) * self.channels]
    }
}

impl Rows for Stored<'_> {
    fn channels(&self) -> usize {
        self.channels
    }

    fn direct(&self) -> Option<&[f32]> {
        None
    }

    fn direct_bf16(&self) -> Option<&[u16]> {
        Some(self.all)
    }

    fn load(&self, machine: &Machine<'_>, first: usize, count: usize, _: usize, out: &mut [f32]) {
        widen_all(machine.level, out, self.rows(first, count));
    }

    fn load_bf16(&self, _: &Machine<'_>, first: usize, count: usize, _: usize, out: &mut [u16]) -> bool {
        out.copy_from_slice(self.rows(first, count));
        true
    }

    fn list(&self, first: usize, count: usize, ahead: &mut Ahead) {
        let rows = self.rows(first, count);
        ahead.list(rows.as_ptr(), rows.len());
    }
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::{DEPTH, ROWS, Sizes};
    use crate::device::Machine;
    use crate::simd::Level;

    fn number(i: usize) -> f32 {
        // Small whole numbers, of which every sum here is exact.
        ((i * 7919 + i / 13) % 9) as f32 - 4.0
    }

    #[test]
    fn products_are_those_of_the_reference() {
        // Rows, terms, columns: partial panels and tiles, odd terms, several pieces of the terms and of the rows, rows that are
        // copied and that are not, fewer panels than tasks and more.
        let sizes = [
            (1, 1, 1),
            (7, 33, 17),
            (5, 2 * DEPTH + 1, 64),
            (ROWS + 3, 256, 40),
            (9, 2 * DEPTH + 512, 130),
            (2 * ROWS, 31, 700),
            (30, 15, 9),
        ];
        for level in Level::available().filter(|level| level.multiplies_bf16()) {
            for ((m, depth, n), transpose) in
                sizes.iter().flat_map(|&s| [[false, false], [false, true], [true, false]].map(|t| (s, t)))
            {
                let stored = |transpose: bool, [rows, columns]: [usize; 2]| {
                    if transpose { [columns, rows] } else { [rows, columns] }
                };
                let (a_dims, b_dims) = (stored(transpose[0], [m, depth]), stored(transpose[1], [depth, n]));
                let sizes = Sizes::new(&a_dims, &b_dims, transpose);
                assert_eq!((sizes.result, sizes.depth), ([m, n], depth));
                let draw = |count: usize, first: usize| -> Vec<u16> {
                    (first..first + count).map(|i| (number(i).to_bits() >> 16) as u16).collect()
                };
                let (a, b) = (draw(m * depth, 0), draw(depth * n, 5));
                let read = |all: &[u16], dims: [usize; 2], transpose: bool, row: usize, column: usize| {
                    let at = if transpose { column * dims[1] + row } else { row * dims[1] + column };
                    f64::from(f32::from_bits(u32::from(all[at]) << 16))
                };
                let mut expected = Vec::new();
                for row in 0..m {
                    for column in 0..n {
                        let term = |k| {
                            read(&a, a_dims, transpose[0], row, k) * read(&b, b_dims, transpose[1], k, column)
                        };
                        expected.push((0..depth).map(term).sum::<f64>() as f32);
                    }
                }
                for threads in 1..=3 {
                    let mut out = vec![f32::NAN; m * n];
                    Machine::testing(level, threads, sizes.need_of_any(), |machine| {
                        sizes.run(machine, &a, &b, &mut out);
                    });
                    assert!(out == expected, "{sizes:?} {level:?} {threads} threads");
                }
            }
        }
    }

    #[test]
    fn large_products_are_of_pairs() {
        let of = |m: usize, transpose| Sizes::new(&[m, 4096], &[1000, 4096], transpose);
        assert!(of(128, [false, true]).pays(Level::Avx512Bf16));
        assert!(!of(1, [false, true]).pays(Level::Avx512Bf16));
        assert!(!of(128, [false, true]).pays(Level::Avx512));
        assert!(!of(128, [false, true]).pays(Level::Amx));
        assert!(!Sizes::new(&[4096, 128], &[1000, 4096], [true, true]).pays(Level::Avx512Bf16));
    }
}
