//! The matrix product.

use crate::device::Machine;
use crate::gemm::{DEPTH, Right};
use crate::pointwise::Cells;
use crate::simd::Level;
use crate::transpose::{SIDE, transpose};

/// Fewer tasks than this may leave a thread without one.
const TASKS: usize = 8;

/// Rows of the result that are computed from a packed panel in one go.
const ROWS: usize = 96;

/// Rows of a task for a result [m, n]: a panel of columns is packed once for all of them, so they are all where there are
/// panels enough for the tasks.
fn task_rows(m: usize, panels: usize) -> usize {
    m.div_ceil(TASKS.div_ceil(panels)).next_multiple_of(6)
}

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
    let panels = n.div_ceil(gemm.width);
    let rows = task_rows(m, panels);
    let out = Cells::new(out);
    machine.pool.run(panels * m.div_ceil(rows), &|task, worker| {
        let column = task % panels * gemm.width;
        let (start, height) = (task / panels * rows, gemm.width.min(n - column));
        let (end, width) = (m.min(start + rows), gemm.panel_width(height));
        let body = |scratch: &mut [f32]| {
            for from in (0..depth).step_by(DEPTH) {
                let depth = DEPTH.min(depth - from);
                let part = &b.data[from * b_row + column * b_step..];
                pack(machine.level, part, (b_row, b_step), height, depth, width, scratch);
                for row in (start..end).step_by(ROWS) {
                    let size = (height, ROWS.min(end - row), depth);
                    let data = &a.data[row * a_row + from * a_step..];
                    let right = Right { data, row_step: a_step, column_step: a_row };
                    let block = out.at(row * n + column, (size.1 - 1) * n + height);
                    // SAFETY: the block lies in the result, as `at` checks, and no other task has an element of it.
                    unsafe { gemm.product(size, scratch, right, block, n, from > 0) };
                }
            }
        };
        machine.with_scratch(worker, |scratch| machine.level.run(|| body(scratch)));
    });
}

/// Columns and steps of depth that are transposed together without AVX-512: as many as leave every line of memory in the
/// first cache until all of it has been read, even where the columns are a power of two apart.
const BLOCK: usize = 8;

/// out(column, k) at `k · width + column`; the elements of a column or of a row lie side by side.
#[inline(always)]
fn pack(
    level: Level,
    b: &[f32],
    (row, step): (usize, usize),
    columns: usize,
    depth: usize,
    width: usize,
    out: &mut [f32],
) {
    if step == 1 {
        for (k, out) in out.chunks_exact_mut(width).take(depth).enumerate() {
            out[..columns].copy_from_slice(&b[k * row..][..columns]);
        }
        return;
    }
    // Along the depth the elements lie side by side, as one of the two steps is 1.
    if level.is_avx512() && row == 1 {
        for first in (0..columns).step_by(SIDE) {
            for k in (0..depth).step_by(SIDE) {
                let (across, down) = (SIDE.min(columns - first), SIDE.min(depth - k));
                let (from, to) = (&b[first * step + k..], &mut out[k * width + first..]);
                if (across, down) == (SIDE, SIDE) {
                    transpose(from, step, to, width);
                } else {
                    let mut block = [[[0.0f32; SIDE]; SIDE]; 2];
                    let [lines, made] = &mut block;
                    for (line, from) in lines.iter_mut().zip(from.chunks(step)).take(across) {
                        line[..down].copy_from_slice(&from[..down]);
                    }
                    transpose(lines.as_flattened(), SIDE, made.as_flattened_mut(), SIDE);
                    for (to, made) in to.chunks_mut(width).zip(made).take(down) {
                        to[..across].copy_from_slice(&made[..across]);
                    }
                }
            }
        }
        return;
    }
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
    use crate::simd::Level;

    #[test]
    fn packing_transposes() {
        let sizes = [(64, 512), (1, 1), (7, 9), (16, 8), (20, 23), (33, 5), (8, 31), (50, 40)];
        let all = Level::available().flat_map(|level| sizes.map(|(columns, depth)| (level, columns, depth)));
        for (level, columns, depth) in all {
            let width = usize::next_multiple_of(columns, 16);
            for (row, step) in [(1, depth + 3), (columns + 2, 1)] {
                let b: Vec<f32> = (0..(columns + 2) * (depth + 3)).map(|i| i as f32).collect();
                let mut out = vec![-1.0; width * depth];
                pack(level, &b, (row, step), columns, depth, width, &mut out);
                for (k, out) in out.chunks(width).enumerate() {
                    for (j, &found) in out.iter().enumerate() {
                        let expected = if j < columns { (k * row + j * step) as f32 } else { -1.0 };
                        assert_eq!(
                            found, expected,
                            "({k}, {j}) of {columns} by {depth}, steps {row} and {step}, {level:?}"
                        );
                    }
                }
            }
        }
    }
}
