//! The matrix product.

use crate::device::Machine;
use crate::gemm::{DEPTH, Right};

/// Columns of a task, in panels.
const PANELS: usize = 4;

/// Rows of the result in one task.
const ROWS: usize = 96;

/// A stored matrix [rows, columns], to be read transposed or not.
#[derive(Clone, Copy)]
pub struct Matrix<'a> {
    /// The elements.
    pub data: &'a [f32],
    /// The two extents as stored.
    pub dims: &'a [usize],
    /// Whether it is read transposed.
    pub transpose: bool,
}

impl Matrix<'_> {
    /// Steps between rows and between columns as read.
    fn steps(&self) -> (usize, usize) {
        if self.transpose { (1, self.dims[1]) } else { (self.dims[1], 1) }
    }
}

/// out [m, n] = a · b. A result row has its columns along the panel's rows, since those lie side by side.
pub fn matmul(machine: &Machine<'_>, a: Matrix<'_>, b: Matrix<'_>, n: usize, out: &mut [f32]) {
    let depth = a.dims[if a.transpose { 0 } else { 1 }];
    if depth == 0 || n == 0 {
        out.fill(0.0);
        return;
    }
    let m = out.len() / n;
    let ((a_row, a_step), (b_row, b_step)) = (a.steps(), b.steps());
    let gemm = &machine.gemm;
    // A task writes whole rows of the result, so that its memory is one piece; small results have fewer rows a task.
    let rows = ROWS.min(m.div_ceil(8).next_multiple_of(6));
    machine.pool.split(out, rows * n, |task, out, worker| {
        let (row, count) = (task * rows, out.len() / n);
        let mut body = |scratch: &mut [f32]| {
            for first in (0..n).step_by(gemm.width * PANELS) {
                let end = n.min(first + gemm.width * PANELS);
                for from in (0..depth).step_by(DEPTH) {
                    let depth = DEPTH.min(depth - from);
                    for column in (first..end).step_by(gemm.width) {
                        let height = gemm.width.min(n - column);
                        let width = gemm.panel_width(height);
                        pack(
                            &b.data[from * b_row + column * b_step..],
                            (b_row, b_step),
                            height,
                            depth,
                            width,
                            scratch,
                        );
                        let right = Right {
                            data: &a.data[row * a_row + from * a_step..],
                            row_step: a_step,
                            column_step: a_row,
                        };
                        gemm.product((height, count, depth), scratch, right, &mut out[column..], n, from > 0);
                    }
                }
            }
        };
        machine.with_scratch(worker, |scratch| machine.level.run(|| body(scratch)));
    });
}

/// Columns and steps of depth that are transposed together: as many as leave every line of memory in the first cache
/// until all of it has been read, even where the columns are a power of two apart.
const BLOCK: usize = 8;

/// out(column, k) at `k · width + column`.
#[inline(always)]
fn pack(b: &[f32], (row, step): (usize, usize), columns: usize, depth: usize, width: usize, out: &mut [f32]) {
    if step == 1 {
        for (k, out) in out.chunks_exact_mut(width).take(depth).enumerate() {
            out[..columns].copy_from_slice(&b[k * row..][..columns]);
        }
        return;
    }
    // Along the depth the elements lie side by side, as one of the two steps is 1.
    let (whole_columns, whole_depth) = if row == 1 { (columns / BLOCK, depth / BLOCK) } else { (0, 0) };
    for first in (0..whole_columns).map(|i| i * BLOCK) {
        for k in (0..whole_depth).map(|i| i * BLOCK) {
            let mut block = [[0.0f32; BLOCK]; BLOCK];
            for (j, line) in block.iter_mut().enumerate() {
                line.copy_from_slice(&b[(first + j) * step + k..][..BLOCK]);
            }
            let out = &mut out[k * width..][..BLOCK * width];
            for (i, out) in out.chunks_exact_mut(width).enumerate() {
                let made: [f32; BLOCK] = std::array::from_fn(|j| block[j][i]);
                out[first..][..BLOCK].copy_from_slice(&made);
            }
        }
    }
    for (k, out) in out.chunks_exact_mut(width).take(depth).enumerate() {
        let done = if k < whole_depth * BLOCK { whole_columns * BLOCK } else { 0 };
        for (j, out) in out.iter_mut().enumerate().take(columns).skip(done) {
            *out = b[k * row + j * step];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::pack;

    #[test]
    fn packing_transposes() {
        for (columns, depth) in [(64, 512), (1, 1), (7, 9), (16, 8), (20, 23), (33, 5), (8, 31)] {
            let width = usize::next_multiple_of(columns, 16);
            for (row, step) in [(1, depth + 3), (columns + 2, 1)] {
                let b: Vec<f32> = (0..(columns + 2) * (depth + 3)).map(|i| i as f32).collect();
                let mut out = vec![-1.0; width * depth];
                pack(&b, (row, step), columns, depth, width, &mut out);
                for (k, out) in out.chunks(width).enumerate() {
                    for (j, &found) in out.iter().enumerate() {
                        let expected = if j < columns { (k * row + j * step) as f32 } else { -1.0 };
                        assert_eq!(
                            found, expected,
                            "({k}, {j}) of {columns} by {depth}, steps {row} and {step}"
                        );
                    }
                }
            }
        }
    }
}
