//! The micro-kernel of convolutions: a tile of sums held in registers, whose columns may lie anywhere.
//!
//! The micro-kernels of the `gemm` project want columns at equal distances and one run of depth. Output positions of
//! several rows of a map, or of several images, lie at other distances, and the taps of a kernel are several runs; a
//! tile takes both as they are, so that small maps fill it and results need not be read back for every row of taps.

use crate::ahead::Ahead;
use crate::simd::Level;
use crate::vector::{Plain, Vector};

/// The most columns that a tile takes.
pub const COLUMNS: usize = 8;

/// Three nested loops, the outermost first, over the terms of a sum.
#[derive(Clone, Copy, Debug)]
pub struct Walk {
    /// Turns of each loop.
    pub counts: [usize; 3],
    /// Step in the panel.
    pub panel: [usize; 3],
    /// Step in the data.
    pub data: [usize; 3],
}

impl Walk {
    /// The largest offset that the steps reach; nothing where there is no term.
    fn last(&self, steps: &[usize; 3]) -> Option<usize> {
        self.counts
            .iter()
            .zip(steps)
            .try_fold(0, |sum, (count, step)| Some(sum + count.checked_sub(1)? * step))
    }
}

/// The micro-kernels of one level.
#[derive(Clone, Copy, Debug)]
pub struct Tiles {
    /// What the processor has.
    pub level: Level,
    /// Rows of the highest tile.
    pub width: usize,
    /// Rows in a vector; a panel is read in whole vectors.
    pub lanes: usize,
}

/// How rows are cut into panels of one width.
#[derive(Clone, Copy, Debug)]
pub struct Blocks {
    /// Panels.
    pub count: usize,
    /// Rows of a panel, a multiple of the vector length.
    pub width: usize,
}

impl Blocks {
    /// For `rows` rows, of at most `width` in whole vectors.
    pub fn new(rows: usize, width: usize, lanes: usize) -> Blocks {
        let count = rows.div_ceil(width);
        Blocks { count, width: rows.div_ceil(count.max(1)).next_multiple_of(lanes) }
    }

    /// Rows with those that pad the panels, at the level where they are most.
    pub fn most(rows: usize) -> usize {
        [(8, 8), (16, 4), (16, 8), (64, 16)]
            .iter()
            .map(|&(width, lanes)| Blocks::new(rows, width, lanes))
            .map(|b| b.count * b.width)
            .max()
            .unwrap_or(0)
    }
}

/// Sums of one panel with columns of the data.
#[derive(Clone, Copy, Debug)]
pub struct Sum<'a> {
    level: Level,
    rows: usize,
    walk: &'a Walk,
    panel: &'a [f32],
    /// Borrowed as long as the walk.
    data: *const f32,
    /// Columns begin before this, so that all that they read is inside the data.
    below: usize,
    add: bool,
    past: bool,
    /// Columns of a full tile.
    pub columns: usize,
}

/// Sums of one panel, each column of which takes the place of its data.
#[derive(Debug)]
pub struct InPlace<'a> {
    sum: Sum<'a>,
    data: &'a mut [f32],
}

/// One tile as the kernels see it.
struct Args<'a> {
    rows: usize,
    walk: &'a Walk,
    panel: *const f32,
    data: *const f32,
    data_at: &'a [usize],
    out: *mut f32,
    out_at: &'a [usize],
    add: bool,
    past: bool,
}

impl Tiles {
    /// For the level of this machine.
    pub fn new(level: Level) -> Tiles {
        let (width, lanes) = match level {
            Level::Portable => (8, 8),
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => (16, 8),
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 | Level::Avx512Bf16 => (64, 16),
            #[cfg(target_arch = "aarch64")]
            Level::Neon => (16, 4),
        };
        Tiles { level, width, lanes }
    }

    /// Those of every kind, for what must not depend on the level.
    pub fn all() -> impl Iterator<Item = Tiles> {
        Level::ALL.iter().map(|&level| Tiles::new(level))
    }

    /// How `rows` rows are cut into panels.
    pub fn blocks(&self, rows: usize) -> Blocks {
        Blocks::new(rows, self.width, self.lanes)
    }

    /// Columns of a full tile of `rows` rows.
    fn columns(&self, rows: usize) -> usize {
        match self.level {
            Level::Portable => 4,
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => {
                if rows > 8 {
                    6
                } else {
                    8
                }
            }
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 | Level::Avx512Bf16 => {
                if rows > 48 {
                    6
                } else {
                    8
                }
            }
            #[cfg(target_arch = "aarch64")]
            Level::Neon => {
                if rows > 12 {
                    6
                } else {
                    8
                }
            }
        }
    }

    /// The sums over the walk of panel at `steps + row` times data at `steps`, for `rows` rows; what a result held is
    /// added to where `add`.
    ///
    /// # Panics
    ///
    /// Where the panel, read in whole vectors, does not hold the entries of the walk, or has too many rows.
    pub fn sum<'a>(
        &self,
        rows: usize,
        walk: &'a Walk,
        panel: &'a [f32],
        data: &'a [f32],
        add: bool,
    ) -> Sum<'a> {
        self.make(rows, walk, panel, (data.as_ptr(), data.len()), add)
    }

    /// The sum with data at an address.
    fn make<'a>(
        &self,
        rows: usize,
        walk: &'a Walk,
        panel: &'a [f32],
        (data, len): (*const f32, usize),
        add: bool,
    ) -> Sum<'a> {
        assert!(rows <= self.width, "rows are cut into panels");
        if let Some(last) = walk.last(&walk.panel) {
            assert!(last + rows.next_multiple_of(self.lanes) <= panel.len(), "the panel is whole");
        }
        let below = walk.last(&walk.data).map_or(len + 1, |last| len.saturating_sub(last));
        Sum {
            level: self.level,
            rows,
            walk,
            panel,
            data,
            below,
            add,
            past: false,
            columns: self.columns(rows),
        }
    }

    /// The same sums, which are written where the data of their column begin.
    ///
    /// # Panics
    ///
    /// As [`Tiles::sum`].
    pub fn sum_in_place<'a>(
        &self,
        rows: usize,
        walk: &'a Walk,
        panel: &'a [f32],
        data: &'a mut [f32],
    ) -> InPlace<'a> {
        let sum = self.make(rows, walk, panel, (data.as_ptr(), data.len()), false);
        InPlace { sum, data }
    }
}

impl InPlace<'_> {
    /// Columns of a full tile.
    pub fn columns(&self) -> usize {
        self.sum.columns
    }

    /// The sum with the data from `at[j]` on goes to `at[j]` and what follows. No column may read what another one of the
    /// same call or an earlier one has written.
    ///
    /// # Panics
    ///
    /// As [`Sum::run`].
    #[inline]
    pub fn run(&mut self, at: &[usize]) {
        let (out, len) = (self.data.as_mut_ptr(), self.data.len());
        let sum = Sum { data: out, ..self.sum };
        // SAFETY: the data are borrowed exclusively, and a tile reads them before it writes.
        unsafe { sum.write(at, (out, len), at) }
    }
}

impl Sum<'_> {
    /// The same sums, written past the caches if so, unless they are added to what is there; they are in order for other
    /// threads only behind [`settle`](crate::half_vector::settle).
    pub fn past_caches(self, past: bool) -> Self {
        Sum { past: past && !self.add, ..self }
    }

    /// Result (row, j) at `out_at[j] + row` is the sum with the data from `data_at[j]` on.
    ///
    /// # Panics
    ///
    /// Where data or result do not hold that many entries, or there are more columns than a full tile has.
    #[inline]
    pub fn run(&self, data_at: &[usize], out: &mut [f32], out_at: &[usize]) {
        // SAFETY: the result is borrowed exclusively, so that it lies apart from the data.
        unsafe { self.write(data_at, (out.as_mut_ptr(), out.len()), out_at) }
    }

    /// The same for any number of columns, tile by tile; asks for so many lines beside each.
    ///
    /// # Panics
    ///
    /// Where data or result do not hold that many entries.
    pub fn run_all(&self, data_at: &[usize], out: &mut [f32], out_at: &[usize], ahead: (&Ahead, usize)) {
        if self.rows == 0 {
            return;
        }
        self.check(data_at, out.len(), out_at);
        for (data_at, out_at) in data_at.chunks(self.columns).zip(out_at.chunks(self.columns)) {
            ahead.0.ask(ahead.1);
            // SAFETY: checked; the result is borrowed exclusively.
            unsafe { self.tile(data_at, out.as_mut_ptr(), out_at) };
        }
    }

    /// Whether data and a result of that length hold what the columns read and write.
    #[inline]
    fn check(&self, data_at: &[usize], len: usize, out_at: &[usize]) {
        assert!(data_at.len() == out_at.len(), "a place for every column");
        let last = |all: &[usize]| all.iter().fold(0, |most, &at| most.max(at));
        assert!(last(data_at) < self.below, "the data are whole");
        assert!(last(out_at) + self.rows <= len, "the result has room");
    }

    /// # Safety
    ///
    /// So many elements of the result can be written; they may be those of the data.
    #[inline]
    unsafe fn write(&self, data_at: &[usize], (out, len): (*mut f32, usize), out_at: &[usize]) {
        if self.rows == 0 || data_at.is_empty() {
            return;
        }
        assert!(data_at.len() <= self.columns, "the columns of a tile");
        self.check(data_at, len, out_at);
        // SAFETY: checked; the rest is promised.
        unsafe { self.tile(data_at, out, out_at) }
    }

    /// # Safety
    ///
    /// Data and result hold what the columns read and write, at most those of a tile.
    #[inline]
    unsafe fn tile(&self, data_at: &[usize], out: *mut f32, out_at: &[usize]) {
        let args = Args {
            rows: self.rows,
            walk: self.walk,
            panel: self.panel.as_ptr(),
            data: self.data,
            data_at,
            out,
            out_at,
            add: self.add,
            past: self.past,
        };
        // SAFETY: promised, and the assertions of `Tiles::sum` hold the panel; levels are those that the processor has.
        unsafe {
            match self.level {
                Level::Portable => portable(&args),
                #[cfg(target_arch = "x86_64")]
                Level::Avx2 => avx2(&args),
                #[cfg(target_arch = "x86_64")]
                Level::Avx512 | Level::Avx512Bf16 => avx512(&args),
                #[cfg(target_arch = "aarch64")]
                Level::Neon => neon(&args),
            }
        }
    }
}

/// The tile of V vectors by N columns; columns past the last repeat it and are not stored.
///
/// # Safety
///
/// What the walk reads and the columns write lies inside the operands; the processor has the features of S.
#[inline(always)]
unsafe fn tile<S: Vector, const V: usize, const N: usize>(a: &Args<'_>) {
    let n = a.data_at.len();
    let [outer, inner, depth] = a.walk.counts;
    let [panel_outer, panel_inner, panel_step] = a.walk.panel;
    let [data_outer, data_inner, data_step] = a.walk.data;
    // SAFETY: promised.
    unsafe {
        let data: [*const f32; N] = std::array::from_fn(|j| a.data.add(a.data_at[j.min(n - 1)]));
        let mut sums = [[S::splat(0.0); V]; N];
        for o in 0..outer {
            for i in 0..inner {
                let mut panel = a.panel.wrapping_add(o * panel_outer + i * panel_inner);
                let mut at = o * data_outer + i * data_inner;
                for _ in 0..depth {
                    let mut left = [S::splat(0.0); V];
                    for (v, left) in left.iter_mut().enumerate() {
                        *left = S::load(panel.add(v * S::LANES));
                    }
                    for j in 0..N {
                        let right = S::splat(*data[j].add(at));
                        for v in 0..V {
                            sums[j][v] = sums[j][v].sum(left[v], right);
                        }
                    }
                    panel = panel.wrapping_add(panel_step);
                    at += data_step;
                }
            }
        }
        // Written out by column, so that the sums are registers, not an array.
        macro_rules! columns {
            ($($j:literal)*) => {$(
                if $j < N && $j < n {
                    column(a, *a.out_at.get_unchecked($j), sums[if $j < N { $j } else { 0 }]);
                }
            )*};
        }
        columns!(0 1 2 3 4 5 6 7);
    }
}

/// Stores the sums of a column.
///
/// # Safety
///
/// As [`tile`].
#[inline(always)]
unsafe fn column<S: Vector, const V: usize>(a: &Args<'_>, at: usize, sums: [S; V]) {
    let to = a.out.wrapping_add(at);
    for (v, sum) in sums.into_iter().enumerate() {
        let to = to.wrapping_add(v * S::LANES);
        let rows = a.rows.saturating_sub(v * S::LANES);
        // SAFETY: promised.
        unsafe {
            if rows >= S::LANES {
                match (a.past, a.add) {
                    (true, _) => sum.store_past(to),
                    (_, true) => sum.plus(S::load(to)).store(to),
                    _ => sum.store(to),
                }
            } else {
                sum.store_some(to, rows, a.add);
            }
        }
    }
}

/// # Safety
///
/// As [`tile`].
unsafe fn portable(a: &Args<'_>) {
    // SAFETY: promised.
    unsafe { tile::<Plain, 1, 4>(a) }
}

/// # Safety
///
/// As [`tile`].
#[cfg(target_arch = "aarch64")]
unsafe fn neon(a: &Args<'_>) {
    use std::arch::aarch64::float32x4_t;
    // At most 24 sums of the 32 registers, and no fewer than hide the latency of an addition where there are rows enough.
    // SAFETY: promised.
    unsafe {
        match (a.rows.div_ceil(4), a.data_at.len() > 3) {
            (1, false) => tile::<float32x4_t, 1, 3>(a),
            (1, true) => tile::<float32x4_t, 1, 8>(a),
            (2, false) => tile::<float32x4_t, 2, 3>(a),
            (2, true) => tile::<float32x4_t, 2, 8>(a),
            (3, false) => tile::<float32x4_t, 3, 3>(a),
            (3, true) => tile::<float32x4_t, 3, 8>(a),
            (_, false) => tile::<float32x4_t, 4, 3>(a),
            (_, true) => tile::<float32x4_t, 4, 6>(a),
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{Args, tile};
    use std::arch::x86_64::{__m256, __m512};

    /// # Safety
    ///
    /// As [`tile`].
    #[target_feature(enable = "avx2,fma")]
    pub(super) unsafe fn avx2(a: &Args<'_>) {
        // SAFETY: promised.
        unsafe {
            match (a.rows > 8, a.data_at.len() > 3) {
                (false, false) => tile::<__m256, 1, 3>(a),
                (false, true) => tile::<__m256, 1, 8>(a),
                (true, false) => tile::<__m256, 2, 3>(a),
                (true, true) => tile::<__m256, 2, 6>(a),
            }
        }
    }

    /// # Safety
    ///
    /// As [`tile`].
    #[target_feature(enable = "avx2,fma,avx512f")]
    pub(super) unsafe fn avx512(a: &Args<'_>) {
        // SAFETY: promised.
        unsafe {
            match (a.rows.div_ceil(16), a.data_at.len() > 3) {
                (1, false) if a.rows <= 8 => tile::<__m256, 1, 3>(a),
                (1, true) if a.rows <= 8 => tile::<__m256, 1, 8>(a),
                (1, false) => tile::<__m512, 1, 3>(a),
                (1, true) => tile::<__m512, 1, 8>(a),
                (2, false) => tile::<__m512, 2, 3>(a),
                (2, true) => tile::<__m512, 2, 8>(a),
                (3, false) => tile::<__m512, 3, 3>(a),
                (3, true) => tile::<__m512, 3, 8>(a),
                (_, false) => tile::<__m512, 4, 3>(a),
                (_, true) => tile::<__m512, 4, 6>(a),
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
use x86::{avx2, avx512};
