//! The micro-kernel of convolutions: a tile of sums held in registers, whose columns may lie anywhere.
//!
//! The micro-kernels of the `gemm` project want columns at equal distances and one run of depth. Output positions of
//! several rows of a map, or of several images, lie at other distances, and the taps of a kernel are several runs; a
//! tile takes both as they are, so that small maps fill it and results need not be read back for every row of taps.

use crate::ahead::{self, Ahead, Pace, ask};
use crate::simd::Level;
use crate::vector::{Plain, Vector};

/// The most columns that a tile takes.
pub const COLUMNS: usize = 8;

/// So many columns or fewer are a tile of their own kind.
const FEW: usize = 3;

/// Terms between the lines that are asked for.
const EVERY: usize = 8;

/// f32 of a cache line.
const LINE: usize = ahead::LINE / size_of::<f32>();

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
    /// Elements from the panel to the one that is asked for, or 0.
    next: usize,
    /// What else is asked for beside columns at equal distances.
    beside: Lines,
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
    out: *mut f32,
    add: bool,
    past: bool,
}

/// Where the columns of a sum begin.
trait Columns: Copy {
    /// How many there are.
    fn count(&self) -> usize;
    /// Where column `j` begins in the data.
    fn data(&self, j: usize) -> usize;
    /// Where its results begin.
    fn out(&self, j: usize) -> usize;
    /// Whether another panel is asked for meanwhile.
    const ASKS: bool = false;
    /// Where that begins, in elements from the panel's start.
    fn next(&self) -> usize {
        0
    }
    /// Other lines that are asked for between the terms of a tile, of so many: where they begin, and how many.
    fn lines(&self, tile: usize, tiles: usize) -> Lines;
}

/// Lines of memory: where they begin, and how many.
pub type Lines = (usize, usize);

/// The lines that one of some tiles asks for, of those that all ask for.
#[inline(always)]
fn share((first, lines): Lines, tile: usize, tiles: usize) -> Lines {
    let some = lines.div_ceil(tiles.max(1));
    let done = lines.min(tile * some);
    (first + done * ahead::LINE, some.min(lines - done))
}

/// Columns anywhere.
#[derive(Clone, Copy)]
struct Listed<'a> {
    /// In the data.
    data: &'a [usize],
    /// In the result: as many.
    out: &'a [usize],
    lines: Lines,
}

impl Columns for Listed<'_> {
    #[inline(always)]
    fn count(&self) -> usize {
        self.data.len()
    }
    #[inline(always)]
    fn data(&self, j: usize) -> usize {
        self.data[j]
    }
    #[inline(always)]
    fn out(&self, j: usize) -> usize {
        self.out[j]
    }
    #[inline(always)]
    fn lines(&self, tile: usize, tiles: usize) -> Lines {
        share(self.lines, tile, tiles)
    }
}

/// Columns at equal distances, the first at the start.
#[derive(Clone, Copy, Debug)]
pub struct Evenly {
    /// How many, any number.
    pub count: usize,
    /// From one to the next in the data.
    pub data: usize,
    /// From one to the next in the result.
    pub out: usize,
}

/// The same, between whose terms these lines are asked for.
#[derive(Clone, Copy)]
struct Beside(Evenly, Lines);

impl Columns for Beside {
    #[inline(always)]
    fn count(&self) -> usize {
        self.0.count
    }
    #[inline(always)]
    fn data(&self, j: usize) -> usize {
        j * self.0.data
    }
    #[inline(always)]
    fn out(&self, j: usize) -> usize {
        j * self.0.out
    }
    #[inline(always)]
    fn lines(&self, tile: usize, tiles: usize) -> Lines {
        share(self.1, tile, tiles)
    }
}

/// The same, beside which the panel is asked for that begins so many elements behind theirs.
#[derive(Clone, Copy)]
struct Asking(Beside, usize);

impl Columns for Asking {
    const ASKS: bool = true;
    #[inline(always)]
    fn count(&self) -> usize {
        self.0.count()
    }
    #[inline(always)]
    fn data(&self, j: usize) -> usize {
        self.0.data(j)
    }
    #[inline(always)]
    fn out(&self, j: usize) -> usize {
        self.0.out(j)
    }
    #[inline(always)]
    fn next(&self) -> usize {
        self.1
    }
    #[inline(always)]
    fn lines(&self, tile: usize, tiles: usize) -> Lines {
        self.0.lines(tile, tiles)
    }
}

impl Tiles {
    /// For the level of this machine.
    pub fn new(level: Level) -> Tiles {
        let (width, lanes) = match level {
            Level::Portable => (8, 8),
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => (16, 8),
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 | Level::Avx512Bf16 | Level::Amx => (64, 16),
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
            Level::Avx512 | Level::Avx512Bf16 | Level::Amx => {
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
            next: 0,
            beside: (0, 0),
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
    /// As [`Sum::beside`].
    pub fn beside(self, lines: Lines) -> Self {
        InPlace { sum: self.sum.beside(lines), ..self }
    }

    /// `count` columns, `step` apart: the sum with the data from `j · step` on goes to `j · step` and what follows. No
    /// column may read what an earlier one has written.
    ///
    /// # Panics
    ///
    /// As [`Sum::run_evenly`].
    #[inline]
    pub fn run(&mut self, count: usize, step: usize) {
        let (out, len) = (self.data.as_mut_ptr(), self.data.len());
        let sum = Sum { data: out, ..self.sum };
        // SAFETY: the data are borrowed exclusively, and a tile reads them before it writes.
        unsafe { sum.write_evenly(Evenly { count, data: step, out: step }, (out, len)) }
    }
}

impl Sum<'_> {
    /// The same sums, written past the caches if so, unless they are added to what is there; they are in order for other
    /// threads only behind [`settle`](crate::half_vector::settle).
    pub fn past_caches(self, past: bool) -> Self {
        Sum { past: past && !self.add, ..self }
    }

    /// The same sums; beside those of columns at equal distances the panel is asked for that begins so many elements behind
    /// theirs, a line of each of its steps beside each tile. 0 asks for nothing.
    pub fn asking(self, next: usize) -> Self {
        Sum { next, ..self }
    }

    /// The same sums; those of columns at equal distances ask for these lines, some between the terms of each tile.
    pub fn beside(self, lines: Lines) -> Self {
        Sum { beside: lines, ..self }
    }

    /// Result (row, j) at `out_at[j] + row` is the sum with the data from `data_at[j]` on.
    ///
    /// # Panics
    ///
    /// Where data or result do not hold that many entries, or there are more columns than a full tile has.
    #[inline]
    pub fn run(&self, data_at: &[usize], out: &mut [f32], out_at: &[usize]) {
        if self.rows == 0 || data_at.is_empty() {
            return;
        }
        assert!(data_at.len() <= self.columns, "the columns of a tile");
        self.check(data_at, out.len(), out_at);
        // SAFETY: checked, and the result is borrowed exclusively, so that it lies apart from the data.
        unsafe { self.write(Listed { data: data_at, out: out_at, lines: (0, 0) }, out.as_mut_ptr()) }
    }

    /// The same for any number of columns, tile by tile; asks for so many lines beside each, between its terms.
    ///
    /// # Panics
    ///
    /// Where data or result do not hold that many entries.
    pub fn run_all(&self, data_at: &[usize], out: &mut [f32], out_at: &[usize], ahead: (&Ahead, usize)) {
        if self.rows == 0 || data_at.is_empty() {
            return;
        }
        self.check(data_at, out.len(), out_at);
        for (data, out_at) in data_at.chunks(self.columns).zip(out_at.chunks(self.columns)) {
            let lines = ahead.0.take(ahead.1);
            // SAFETY: as in `run`.
            unsafe { self.write(Listed { data, out: out_at, lines }, out.as_mut_ptr()) };
        }
    }

    /// The same for any number of columns at equal distances, which costs less for each tile.
    ///
    /// # Panics
    ///
    /// Where data or result do not hold that many entries.
    #[inline]
    pub fn run_evenly(&self, columns: Evenly, out: &mut [f32]) {
        // SAFETY: the result is borrowed exclusively, so that it lies apart from the data.
        unsafe { self.write_evenly(columns, (out.as_mut_ptr(), out.len())) }
    }

    /// Whether data and a result of that length hold what some columns read and write.
    #[inline]
    fn check(&self, data_at: &[usize], len: usize, out_at: &[usize]) {
        assert!(data_at.len() == out_at.len(), "a place for every column");
        let last = |all: &[usize]| all.iter().fold(0, |most, &at| most.max(at));
        assert!(last(data_at) < self.below, "the data are whole");
        assert!(last(out_at).checked_add(self.rows).is_some_and(|end| end <= len), "the result has room");
    }

    /// # Safety
    ///
    /// So many elements of the result can be written; they may be those of the data.
    #[inline]
    unsafe fn write_evenly(&self, columns: Evenly, (out, len): (*mut f32, usize)) {
        if self.rows == 0 || columns.count == 0 {
            return;
        }
        let last = columns.count - 1;
        let data = last.checked_mul(columns.data);
        assert!(data.is_some_and(|at| at < self.below), "the data are whole");
        let end = last.checked_mul(columns.out).and_then(|at| at.checked_add(self.rows));
        assert!(end.is_some_and(|end| end <= len), "the result has room");
        // SAFETY: the assertions above.
        unsafe {
            let columns = Beside(columns, self.beside);
            if self.next == 0 {
                self.write(columns, out)
            } else {
                self.write(Asking(columns, self.next), out)
            }
        }
    }

    /// # Safety
    ///
    /// The columns begin before what `below` says, and their rows can be written to the result.
    #[inline]
    unsafe fn write(&self, columns: impl Columns, out: *mut f32) {
        let args = Args {
            rows: self.rows,
            walk: self.walk,
            panel: self.panel.as_ptr(),
            data: self.data,
            out,
            add: self.add,
            past: self.past,
        };
        // SAFETY: what is promised and the assertions of `Tiles::sum` hold every access inside the slices; levels are those
        // that the processor has.
        unsafe {
            match self.level {
                Level::Portable => portable(&args, columns),
                #[cfg(target_arch = "x86_64")]
                Level::Avx2 => avx2(&args, columns),
                #[cfg(target_arch = "x86_64")]
                Level::Avx512 | Level::Avx512Bf16 | Level::Amx => avx512(&args, columns),
                #[cfg(target_arch = "aarch64")]
                Level::Neon => neon(&args, columns),
            }
        }
    }
}

/// The columns in tiles of V vectors by N columns, the last few in one of fewer.
///
/// # Safety
///
/// As [`tile`].
#[inline(always)]
unsafe fn tiles<S: Vector, const V: usize, const N: usize>(a: &Args<'_>, columns: impl Columns) {
    let count = columns.count();
    let mut first = 0;
    // SAFETY: promised.
    unsafe {
        while count - first > FEW {
            tile::<S, _, V, N>(a, columns, first);
            first = (first + N).min(count);
        }
        if first < count {
            tile::<S, _, V, FEW>(a, columns, first);
        }
    }
}

/// The tile of V vectors by the N columns from `first` on; columns past the last repeat it and are not stored.
///
/// # Safety
///
/// What the walk reads and the columns write lies inside the operands; the processor has the features of S.
#[inline(always)]
unsafe fn tile<S: Vector, C: Columns, const V: usize, const N: usize>(
    a: &Args<'_>,
    columns: C,
    first: usize,
) {
    let n = N.min(columns.count() - first);
    let [outer, inner, depth] = a.walk.counts;
    let [panel_outer, panel_inner, panel_step] = a.walk.panel;
    let [data_outer, data_inner, data_step] = a.walk.data;
    // SAFETY: promised.
    unsafe {
        let mut data = [a.data; N];
        for (j, data) in data.iter_mut().enumerate() {
            *data = a.data.add(columns.data(first + j.min(n - 1)));
        }
        // Of the lines of a step of the panel, each tile asks for one.
        let asked = columns.next() + (first / N).min((V * S::LANES).div_ceil(LINE) - 1) * LINE;
        let lines = columns.lines(first / N, columns.count().div_ceil(N));
        let mut pace = Pace::new(lines, outer * inner * depth.div_ceil(EVERY));
        let every = pace.terms(EVERY, depth);
        let mut sums = [[S::splat(0.0); V]; N];
        for o in 0..outer {
            for i in 0..inner {
                let mut panel = a.panel.wrapping_add(o * panel_outer + i * panel_inner);
                let mut at = o * data_outer + i * data_inner;
                let mut terms = depth;
                while terms > 0 {
                    pace.ask();
                    let some = terms.min(every);
                    for _ in 0..some {
                        if C::ASKS {
                            ask(panel.wrapping_add(asked).addr());
                        }
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
                    terms -= some;
                }
            }
        }
        // Written out by column, so that the sums are registers, not an array.
        macro_rules! columns {
            ($($j:literal)*) => {$(
                if $j < N && $j < n {
                    column(a, columns.out(first + $j), sums[if $j < N { $j } else { 0 }]);
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
unsafe fn portable(a: &Args<'_>, columns: impl Columns) {
    // SAFETY: promised.
    unsafe { tiles::<Plain, 1, 4>(a, columns) }
}

/// # Safety
///
/// As [`tile`].
#[cfg(target_arch = "aarch64")]
unsafe fn neon(a: &Args<'_>, columns: impl Columns) {
    use std::arch::aarch64::float32x4_t;
    // At most 24 sums of the 32 registers, and no fewer than hide the latency of an addition where there are rows enough.
    // SAFETY: promised.
    unsafe {
        match a.rows.div_ceil(4) {
            1 => tiles::<float32x4_t, 1, 8>(a, columns),
            2 => tiles::<float32x4_t, 2, 8>(a, columns),
            3 => tiles::<float32x4_t, 3, 8>(a, columns),
            _ => tiles::<float32x4_t, 4, 6>(a, columns),
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{Args, Columns, tiles};
    use std::arch::x86_64::{__m256, __m512};

    /// # Safety
    ///
    /// As [`tile`](super::tile).
    #[target_feature(enable = "avx2,fma")]
    pub(super) unsafe fn avx2(a: &Args<'_>, columns: impl Columns) {
        // SAFETY: promised.
        unsafe {
            if a.rows > 8 { tiles::<__m256, 2, 6>(a, columns) } else { tiles::<__m256, 1, 8>(a, columns) }
        }
    }

    /// # Safety
    ///
    /// As [`tile`](super::tile).
    #[target_feature(enable = "avx2,fma,avx512f")]
    pub(super) unsafe fn avx512(a: &Args<'_>, columns: impl Columns) {
        // SAFETY: promised.
        unsafe {
            match a.rows.div_ceil(16) {
                1 if a.rows <= 8 => tiles::<__m256, 1, 8>(a, columns),
                1 => tiles::<__m512, 1, 8>(a, columns),
                2 => tiles::<__m512, 2, 8>(a, columns),
                3 => tiles::<__m512, 3, 8>(a, columns),
                _ => tiles::<__m512, 4, 6>(a, columns),
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
use x86::{avx2, avx512};

#[cfg(test)]
mod tests {
    use super::{ahead, share};

    #[test]
    fn tiles_ask_for_every_line_once() {
        for lines in 0..40 {
            for tiles in 1..50 {
                let mut next = 4096;
                for tile in 0..tiles {
                    let (first, some) = share((4096, lines), tile, tiles);
                    assert!(some == 0 || first == next, "{lines} {tiles} {tile}");
                    next += some * ahead::LINE;
                }
                assert_eq!(next, 4096 + lines * ahead::LINE, "{lines} {tiles}");
            }
        }
    }
}
