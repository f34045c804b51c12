//! Products with one packed operand, on the micro-kernels of the `gemm` project.
//!
//! The `gemm` crate's own driver allocates packing memory in every call, which a step must not. So the packing is ours,
//! into the workspace, where convolutions gather their columns in packed form at once; the micro-kernels are theirs.
//!
//! A panel holds `rows` rows of the left operand for `depth` steps: entry (row, k) at `k · width + row`, where width is
//! the panel's allotted height, a multiple of the vector length, and rows past the last hold anything: no result comes of them.

use crate::simd::Level;

/// Steps of depth in a panel.
pub const DEPTH: usize = 512;

/// Height of the highest panel.
pub const MAX_WIDTH: usize = 64;

/// The micro-kernels of one level.
#[derive(Clone, Copy, Debug)]
pub struct Gemm {
    level: Level,
    /// Rows of a full panel.
    pub width: usize,
    /// Lanes of a vector.
    lanes: usize,
}

/// The right operand: entry (k, column) at `k · row_step + column · column_step`.
#[derive(Clone, Copy)]
pub struct Right<'a> {
    /// The elements, from entry (0, 0) on.
    pub data: &'a [f32],
    /// Step between values of k.
    pub row_step: usize,
    /// Step between columns.
    pub column_step: usize,
}

impl Gemm {
    /// For the level of this machine.
    pub fn new(level: Level) -> Gemm {
        let (lanes, vectors) = match level {
            Level::Portable => (8, 1),
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => (8, 2),
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 | Level::Avx512Bf16 | Level::Amx => (16, 4),
            #[cfg(target_arch = "aarch64")]
            Level::Neon => (4, 4),
        };
        Gemm { level, width: lanes * vectors, lanes }
    }

    /// The allotted height of a panel of `rows` rows.
    pub fn panel_width(&self, rows: usize) -> usize {
        rows.next_multiple_of(self.lanes)
    }

    /// out(row, column) at `row + column · step` (+)= Σ over k below `depth` of panel(row, k) · right(k, column).
    ///
    /// `size` is (rows, columns, depth); what `out` held is added to where `add`.
    ///
    /// # Safety
    ///
    /// All entries of `out` can be read and written, and nothing else does so meanwhile.
    ///
    /// # Panics
    ///
    /// Where an operand does not hold that many entries.
    pub unsafe fn product(
        &self,
        size: (usize, usize, usize),
        panel: &[f32],
        right: Right<'_>,
        out: *mut f32,
        step: usize,
        add: bool,
    ) {
        let (rows, columns, depth) = size;
        if rows == 0 || columns == 0 {
            return;
        }
        let width = self.panel_width(rows);
        assert!(rows <= self.width && panel.len() >= width * depth, "the panel is packed");
        let last = depth.saturating_sub(1) * right.row_step + (columns - 1) * right.column_step;
        assert!(depth == 0 || right.data.len() > last, "the right operand is whole");
        #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
        {
            use gemm_f32::microkernel;
            let vectors = width / self.lanes;
            match self.level {
                Level::Portable => {}
                // SAFETY: the processor has the features (levels are those that `Level::available` found); the assertions above hold the
                // reads inside the slices, the writes are promised; a table row has kernels for every count of columns up to its
                // length.
                #[cfg(target_arch = "x86_64")]
                Level::Avx2 => unsafe {
                    let table = &microkernel::fma::f32::UKR[vectors - 1];
                    return drive(table, (rows, columns, depth), width, panel, right, out, step, add);
                },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                Level::Avx512 | Level::Avx512Bf16 | Level::Amx => unsafe {
                    let table = &microkernel::avx512f::f32::UKR[vectors - 1];
                    return drive(table, (rows, columns, depth), width, panel, right, out, step, add);
                },
                // SAFETY: as above.
                #[cfg(target_arch = "aarch64")]
                Level::Neon => unsafe {
                    let table = &microkernel::neon::f32::UKR[vectors - 1];
                    return drive(table, (rows, columns, depth), width, panel, right, out, step, add);
                },
            }
        }
        // SAFETY: promised.
        unsafe { portable(size, width, panel, right, out, step, add) };
    }
}

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
type Kernel = unsafe fn(
    usize,
    usize,
    usize,
    *mut f32,
    *const f32,
    *const f32,
    isize,
    isize,
    isize,
    isize,
    isize,
    f32,
    f32,
    u8,
    bool,
    bool,
    bool,
    *const f32,
);

/// Calls the kernel for as many columns as the table has, then the one for the rest.
///
/// # Safety
///
/// As the kernels: the processor has their features; panel, right operand and result hold the entries of `size`.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
#[expect(clippy::too_many_arguments, reason = "the arguments of a product")]
unsafe fn drive(
    table: &[Kernel],
    (rows, columns, depth): (usize, usize, usize),
    width: usize,
    panel: &[f32],
    right: Right<'_>,
    out: *mut f32,
    step: usize,
    add: bool,
) {
    let mut column = 0;
    while column < columns {
        let n = table.len().min(columns - column);
        // SAFETY: the column is below `columns`, so both offsets lie in their slices; the rest is promised.
        unsafe {
            table[n - 1](
                rows,
                n,
                depth,
                out.add(column * step),
                panel.as_ptr(),
                right.data.as_ptr().add(column * right.column_step),
                step as isize,
                1,
                width as isize,
                right.row_step as isize,
                right.column_step as isize,
                1.0,
                1.0,
                u8::from(add),
                false,
                false,
                false,
                panel.as_ptr(),
            );
        }
        column += n;
    }
}

/// The product in plain loops over eight rows and four columns.
///
/// # Safety
///
/// As [`Gemm::product`].
unsafe fn portable(
    (rows, columns, depth): (usize, usize, usize),
    width: usize,
    panel: &[f32],
    right: Right<'_>,
    out: *mut f32,
    step: usize,
    add: bool,
) {
    for column in (0..columns).step_by(4) {
        let n = 4.min(columns - column);
        for row in (0..rows).step_by(8) {
            let mut sums = [[0.0f32; 8]; 4];
            for k in 0..depth {
                let left = &panel[k * width + row..][..8];
                for (j, sums) in sums.iter_mut().enumerate().take(n) {
                    let r = right.data[k * right.row_step + (column + j) * right.column_step];
                    for (s, l) in sums.iter_mut().zip(left) {
                        *s += l * r;
                    }
                }
            }
            for (j, sums) in sums.iter().enumerate().take(n) {
                for (i, s) in sums.iter().enumerate().take(rows - row) {
                    // SAFETY: an entry of the result.
                    unsafe {
                        let o = out.add((column + j) * step + row + i);
                        *o = if add { *o + s } else { *s };
                    }
                }
            }
        }
    }
}
