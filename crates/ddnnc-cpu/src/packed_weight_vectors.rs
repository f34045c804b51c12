//! What weight gradients from packed operands compute where vectors are not those of AVX-512: packing of f32, products, and
//! the order of sums.

use crate::ahead::{LINE, ask};
use crate::half_vector::{Halves, HalvesVectored, with_halves};
use crate::packed_weight_tile::{FEW_COLUMNS as COLUMNS, Half, Ordered, Product, Runs, Span};
use crate::simd::Level;
use crate::vector::{Vector, Vectored, with_vectors};

/// Vectors of rows of a tile, a whole panel.
const VECTORS: usize = 2;

/// Rows ahead that are asked for as rows are packed: some channels of rows are runs too short for the processor to see them
/// coming.
const AHEAD: usize = 8;

/// Terms that follow one another without a branch.
const TOGETHER: usize = 4;

/// [`Product::run`] of f32.
///
/// # Safety
///
/// What the product reads and writes lies inside its operands and the result.
pub unsafe fn sums(level: Level, product: &Product<'_>, out: *mut f32, step: usize, add: bool) {
    with_vectors(level, Sums { product, out, step, add });
}

struct Sums<'a> {
    product: &'a Product<'a>,
    out: *mut f32,
    step: usize,
    add: bool,
}

impl Vectored for Sums<'_> {
    #[inline(always)]
    unsafe fn run<S: Vector>(self) {
        let columns = self.product.columns;
        let mut first = 0;
        while first < columns {
            let n = COLUMNS.min(columns - first);
            // SAFETY: promised.
            unsafe {
                match n {
                    1 => self.tile::<S, 1>(first),
                    2 => self.tile::<S, 2>(first),
                    3 => self.tile::<S, 3>(first),
                    4 => self.tile::<S, 4>(first),
                    5 => self.tile::<S, 5>(first),
                    _ => self.tile::<S, COLUMNS>(first),
                }
            }
            first += n;
        }
    }
}

impl Sums<'_> {
    /// The sums of N columns from `first` on, of one panel of the data.
    #[inline(always)]
    unsafe fn tile<S: Vector, const N: usize>(&self, first: usize) {
        let rows = VECTORS * S::LANES;
        // SAFETY: promised.
        unsafe {
            let data = self.product.data.as_ptr().add(first / COLUMNS * self.product.across);
            let mut sums = [[S::splat(0.0); VECTORS]; N];
            macro_rules! term {
                ($panel:expr, $data:expr) => {{
                    let (panel, data) = ($panel, $data);
                    let mut left = [S::splat(0.0); VECTORS];
                    for v in 0..VECTORS {
                        left[v] = S::load(panel.add(v * S::LANES));
                    }
                    for j in 0..N {
                        let right = S::splat(*data.add(j));
                        for v in 0..VECTORS {
                            sums[j][v] = sums[j][v].sum(left[v], right);
                        }
                    }
                }};
            }
            for &Span { place: [row, column], count, .. } in self.product.spans {
                let mut panel = self.product.panel.as_ptr().wrapping_add(row as usize);
                let mut data = data.wrapping_add(column as usize);
                for _ in 0..count as usize / TOGETHER {
                    for t in 0..TOGETHER {
                        term!(panel.add(t * rows), data.add(t * COLUMNS));
                    }
                    panel = panel.wrapping_add(TOGETHER * rows);
                    data = data.wrapping_add(TOGETHER * COLUMNS);
                }
                for _ in 0..count as usize % TOGETHER {
                    term!(panel, data);
                    panel = panel.wrapping_add(rows);
                    data = data.wrapping_add(COLUMNS);
                }
            }
            // Written out by column, so that the sums are registers, not an array.
            macro_rules! columns {
                ($($j:literal)*) => {$(
                    if $j < N {
                        self.column(first + $j, sums[if $j < N { $j } else { 0 }]);
                    }
                )*};
            }
            columns!(0 1 2 3 4 5);
        }
    }

    /// Stores the sums of a column, in vectors of sixteen rows.
    #[inline(always)]
    #[expect(clippy::needless_range_loop, reason = "indices that are constants keep the sums in registers")]
    unsafe fn column<S: Vector>(&self, column: usize, sums: [S; VECTORS]) {
        for v in 0..VECTORS {
            // SAFETY: promised.
            unsafe {
                let to = self.out.add(column * self.step + v * S::LANES);
                (if self.add { sums[v].plus(S::load(to)) } else { sums[v] }).store(to);
            }
        }
    }
}

/// [`Runs::pack`] of f32.
///
/// # Safety
///
/// The rows lie in the slice, and the result has room.
pub unsafe fn copy<T: Half>(level: Level, runs: &Runs<'_, T>, out: *mut f32, pitch: usize, step: usize) {
    with_halves(level, Copy { runs, out, pitch, step });
}

struct Copy<'a, T> {
    runs: &'a Runs<'a, T>,
    out: *mut f32,
    pitch: usize,
    step: usize,
}

impl<T: Half> HalvesVectored for Copy<'_, T> {
    #[inline(always)]
    unsafe fn run<S: Halves>(self) {
        let Runs { channels, count, width, .. } = *self.runs;
        let mut row = self.runs.rows.as_ptr().wrapping_add(self.runs.first.0);
        let mut out = self.out;
        for _ in 0..count {
            let far = row.wrapping_add(AHEAD * self.runs.step);
            for c in (0..channels).step_by(LINE / size_of::<T>()) {
                ask(far.wrapping_add(c).addr());
            }
            let mut to = out;
            if width < S::LANES {
                // SAFETY: as below.
                unsafe { self.narrow::<S>(row, to) };
                row = row.wrapping_add(self.runs.step);
                out = out.wrapping_add(self.pitch);
                continue;
            }
            for from in (0..channels).step_by(width) {
                let some = width.min(channels - from);
                let mut i = 0;
                while i < some {
                    // SAFETY: promised: the elements are there, and what they go to.
                    unsafe {
                        let (from, to) = (row.add(from + i), to.add(i));
                        if some - i >= S::LANES {
                            T::load::<S, true>(from, S::LANES).store(to);
                        } else {
                            T::load::<S, false>(from, some - i).store_first(to, some - i);
                        }
                    }
                    i += S::LANES;
                }
                to = to.wrapping_add(self.step);
            }
            row = row.wrapping_add(self.runs.step);
            out = out.wrapping_add(self.pitch);
        }
    }
}

impl<T: Half> Copy<'_, T> {
    /// A row to panels of fewer channels than a vector has: what it spills is written over by the next row of the panel.
    #[inline(always)]
    unsafe fn narrow<S: Halves>(&self, row: *const T, mut to: *mut f32) {
        let Runs { channels, width, .. } = *self.runs;
        let mut from = 0;
        while from < channels {
            let some = S::LANES.min(channels - from);
            // SAFETY: promised.
            unsafe {
                if some == S::LANES {
                    T::load::<S, true>(row.add(from), some).store(to);
                } else {
                    T::load::<S, false>(row.add(from), some).store_first(to, width.min(some));
                }
            }
            (from, to) = (from + width, to.wrapping_add(self.step));
        }
    }
}

/// [`Ordered::run`].
pub fn order(a: &Ordered<'_>, out: &mut [f32]) {
    for (c, out) in out.chunks_exact_mut(a.taps).enumerate() {
        for (out, sums) in out.iter_mut().zip(a.sums.chunks(a.step)) {
            *out = if a.add { *out + sums[c] } else { sums[c] };
        }
    }
}
