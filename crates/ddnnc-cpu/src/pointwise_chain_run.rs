//! The run of a chain. Instead of one instruction after the other over all channels of a few rows, it takes two vectors of
//! channels through many rows: tables and sums are registers, and nothing in between is stored. Each element is computed and
//! rounded, and each sum of f32 added up, in the order in which the instructions would. Terms of bf16, which are rounded far
//! more coarsely, are summed in f32 over a few rows, about the same shifts and means, and only those sums in f64: they differ
//! from sums in f64 by as little as one rounding of each term to f32 would make them differ.
//!
//! A walk down some columns takes lines that lie far apart, which memory by itself gives at half the speed or less: moments of
//! maps in memory ask for the same lines of the next rows meanwhile; what reads or writes more reads memory from its beginning
//! to its end, a period after the other, with the sums in the first cache.

use crate::ahead::{LINE, ask_near};
use crate::half_vector::{Halves, HalvesVectored, with_floats, with_halves};
use crate::pointwise_pass::Element;
use crate::simd::Level;

/// Elements that a chain takes at a time, about: as many rows as keep two vectors of each operand in the first cache.
pub const CHAINED: usize = 1 << 13;

/// Rows of bf16 whose terms are summed in f32 before they go to the sums in f64.
const SUMMED: usize = 16;

/// The operands of a chain for some rows: elements of the type that it says, tables and sums of one period.
pub struct Ends<'a> {
    /// Elements; whole vectors, as the period.
    pub n: usize,
    /// Whether operands and result are bf16.
    pub halves: bool,
    /// The rows: f32 that are lent, or of the operands' type.
    pub rows: *const u8,
    /// Whether the rows are of the operands' type, in memory.
    pub memory: bool,
    /// Whether the result goes past the caches, of rows in memory.
    pub past: bool,
    /// What is added, or null.
    pub add: *const u8,
    /// What gates, or null.
    pub gate: *const u8,
    /// (mean, scale, bias) of what gates.
    pub normalize: Option<[&'a [f32]; 3]>,
    /// Whether that must be below 6 too.
    pub capped: bool,
    /// Where the rows are stored, or null.
    pub out: *mut u8,
    /// What is gathered.
    pub gathers: Gathers<'a>,
}

/// What is gathered: sums of one period each.
pub enum Gathers<'a> {
    /// (total, squares) += (d, d²) of d = x − shift
    Moments([&'a mut [f64]; 2], &'a [f64]),
    /// (total, along) += (x, x · (a − mean)) for each (sums, a, mean)
    Products([Option<Product<'a>>; 2]),
}

/// The sums (total, along), the value and its mean.
pub type Product<'a> = ([&'a mut [f64]; 2], *const u8, &'a [f32]);

/// Runs a chain.
///
/// # Safety
///
/// Operands and result have `n` elements each, `n` and the period are multiples of 16. The result lies apart from every
/// operand, or on the lent rows.
pub unsafe fn run(level: Level, ends: Ends<'_>) {
    match (ends.halves, ends.memory) {
        (false, false) => ends.typed::<f32, f32, false>(level),
        (false, true) => ends.typed::<f32, f32, true>(level),
        (true, false) => ends.typed::<f32, u16, false>(level),
        (true, true) => ends.typed::<u16, u16, true>(level),
    }
}

/// An element of operands and result.
trait Stored: Element {
    /// Whether values are rounded to it.
    const ROUNDS: bool;
    unsafe fn store<S: Halves>(x: S, to: *mut Self);
    unsafe fn stream<S: Halves>(x: S, to: *mut Self);
    unsafe fn store_pair<S: Halves, const PAST: bool>(pair: [S; 2], to: *mut Self);
}

impl Stored for f32 {
    const ROUNDS: bool = false;
    #[inline(always)]
    unsafe fn store<S: Halves>(x: S, to: *mut f32) {
        // SAFETY: promised by the caller of `run`.
        unsafe { x.store(to) }
    }
    #[inline(always)]
    unsafe fn stream<S: Halves>(x: S, to: *mut f32) {
        // SAFETY: as above.
        unsafe { x.stream(to) }
    }
    #[inline(always)]
    unsafe fn store_pair<S: Halves, const PAST: bool>([low, high]: [S; 2], to: *mut f32) {
        // SAFETY: as above.
        unsafe {
            let behind = to.add(S::LANES);
            if PAST {
                low.stream(to);
                high.stream(behind);
            } else {
                low.store(to);
                high.store(behind);
            }
        }
    }
}

impl Stored for u16 {
    const ROUNDS: bool = true;
    #[inline(always)]
    unsafe fn store<S: Halves>(x: S, to: *mut u16) {
        // SAFETY: promised by the caller of `run`. What a chain stores has been rounded.
        unsafe { x.store_exact(to) }
    }
    #[inline(always)]
    unsafe fn stream<S: Halves>(x: S, to: *mut u16) {
        // SAFETY: as above.
        unsafe { x.stream_half(to) }
    }
    #[inline(always)]
    unsafe fn store_pair<S: Halves, const PAST: bool>(pair: [S; 2], to: *mut u16) {
        // SAFETY: as above.
        unsafe { S::store_pair::<true, PAST>(pair, to) }
    }
}

/// What a capped value stays below where the gate is open.
const CAP: f32 = 6.0;

/// Kinds of gates and of sums, as constants.
const OPEN: u8 = 0;
const POSITIVE: u8 = 1;
const NORMALIZED: u8 = 2;
const CAPPED: u8 = 3;
const MOMENTS: u8 = 0;

/// Pointers of a chain, without what is known when it is compiled.
struct Args<R, T> {
    n: usize,
    period: usize,
    past: bool,
    rows: *const R,
    add: *const T,
    gate: *const T,
    normalize: [*const f32; 3],
    out: *mut T,
    shift: *const f64,
    values: [*const T; 2],
    means: [*const f32; 2],
    /// (total, along) of each; of moments (total, squares).
    sums: [[*mut f64; 2]; 2],
}

impl Ends<'_> {
    fn typed<R: Stored, T: Stored, const MEMORY: bool>(self, level: Level) {
        let none: *const f32 = std::ptr::null();
        let mut args = Args::<R, T> {
            n: self.n,
            period: 0,
            past: self.past,
            rows: self.rows.cast(),
            add: self.add.cast(),
            gate: self.gate.cast(),
            normalize: match self.normalize {
                Some([mean, scale, bias]) => [mean.as_ptr(), scale.as_ptr(), bias.as_ptr()],
                None => [none; 3],
            },
            out: self.out.cast(),
            shift: std::ptr::null(),
            values: [std::ptr::null(); 2],
            means: [none; 2],
            sums: [[std::ptr::null_mut(); 2]; 2],
        };
        let mut count = MOMENTS;
        match self.gathers {
            Gathers::Moments([total, squares], shift) => {
                args.period = shift.len();
                args.shift = shift.as_ptr();
                args.sums[0] = [total.as_mut_ptr(), squares.as_mut_ptr()];
            }
            Gathers::Products(products) => {
                for (i, ([total, along], value, mean)) in products.into_iter().flatten().enumerate() {
                    args.period = mean.len();
                    args.sums[i] = [total.as_mut_ptr(), along.as_mut_ptr()];
                    (args.values[i], args.means[i]) = (value.cast(), mean.as_ptr());
                    count += 1;
                }
            }
        }
        let gate = match (args.gate.is_null(), self.normalize.is_some()) {
            (true, _) => OPEN,
            (_, false) => POSITIVE,
            (_, true) if self.capped => CAPPED,
            (_, true) => NORMALIZED,
        };
        match (gate, count) {
            (OPEN, MOMENTS) => args.all::<OPEN, MOMENTS, MEMORY>(level),
            (OPEN, 1) => args.all::<OPEN, 1, MEMORY>(level),
            (OPEN, _) => args.all::<OPEN, 2, MEMORY>(level),
            (POSITIVE, 1) => args.all::<POSITIVE, 1, MEMORY>(level),
            (POSITIVE, _) => args.all::<POSITIVE, 2, MEMORY>(level),
            (NORMALIZED, 1) => args.all::<NORMALIZED, 1, MEMORY>(level),
            (NORMALIZED, _) => args.all::<NORMALIZED, 2, MEMORY>(level),
            (_, 1) => args.all::<CAPPED, 1, MEMORY>(level),
            (_, _) => args.all::<CAPPED, 2, MEMORY>(level),
        }
    }
}

/// A chain of one kind, as a function of its own for each level: one for all kinds would take long to compile.
struct Walk<R, T, const GATE: u8, const SUMS: u8, const MEMORY: bool>(Args<R, T>);

impl<R, T, const GATE: u8, const SUMS: u8, const MEMORY: bool> Walk<R, T, GATE, SUMS, MEMORY> {
    /// Whether columns are walked down through all rows, else through those of a period.
    const DEEP: bool = !MEMORY || Self::ASKS;
    /// Whether rows in memory are asked for on the way.
    const ASKS: bool = MEMORY && GATE == OPEN && SUMS == MOMENTS;
}

impl<R: Stored, T: Stored> Args<R, T> {
    /// What is f32 rounds nothing, and is compiled for fewer levels.
    fn all<const GATE: u8, const SUMS: u8, const MEMORY: bool>(self, level: Level) {
        let walk = Walk::<R, T, GATE, SUMS, MEMORY>(self);
        if T::ROUNDS { with_halves(level, walk) } else { with_floats(level, walk) }
    }
}

impl<R: Stored, T: Stored, const GATE: u8, const SUMS: u8, const MEMORY: bool> HalvesVectored
    for Walk<R, T, GATE, SUMS, MEMORY>
{
    #[inline(always)]
    unsafe fn run<S: Halves>(self) {
        let Walk(args) = self;
        let step = if Self::DEEP { args.n.max(1) } else { args.period };
        let mut first = 0;
        while first < args.n {
            let end = args.n.min(first + step);
            let columns = args.period.min(end - first);
            // What is left of a period at the end is whole vectors, but maybe no pairs of them.
            let pairs = ((end - first) % args.period).is_multiple_of(2 * S::LANES);
            let mut i = 0;
            // SAFETY: promised by the caller of `run`.
            unsafe {
                if S::PAIRS {
                    while pairs && i + 2 * S::LANES <= columns {
                        args.columns::<S, GATE, SUMS, MEMORY, 2>(i, first, end);
                        i += 2 * S::LANES;
                    }
                }
                while i < columns {
                    args.columns::<S, GATE, SUMS, MEMORY, 1>(i, first, end);
                    i += S::LANES;
                }
            }
            first = end;
        }
    }
}

impl<R: Stored, T: Stored> Args<R, T> {
    /// Stores what was made of C vectors that lie side by side.
    #[inline(always)]
    unsafe fn store<S: Halves, const C: usize>(&self, made: [S; C], at: usize) {
        // SAFETY: promised by the caller of `run`.
        unsafe {
            let to = self.out.add(at);
            match (made.as_slice(), self.past) {
                (&[low, high], true) => T::store_pair::<S, true>([low, high], to),
                (&[low, high], false) => T::store_pair::<S, false>([low, high], to),
                (_, true) => T::stream::<S>(made[0], to),
                (_, false) => T::store::<S>(made[0], to),
            }
        }
    }

    /// C vectors of a period from element `i` on, over the rows between two elements.
    #[inline(always)]
    #[expect(clippy::needless_range_loop, reason = "indices that are constants keep the sums in registers")]
    unsafe fn columns<S: Halves, const GATE: u8, const SUMS: u8, const MEMORY: bool, const C: usize>(
        &self,
        i: usize,
        first: usize,
        end: usize,
    ) {
        let stores = !self.out.is_null();
        // Nothing is added to what moments are taken of.
        let adds = SUMS != MOMENTS && !self.add.is_null();
        // No closures: they would be compiled without the level's instructions.
        // SAFETY: promised by the caller of `run`; tables and sums have a period.
        unsafe {
            let zero = S::splat(0.0);
            let nothing = zero.doubles();
            let mut normalize = [[zero; 3]; C];
            let mut about = [[zero; 2]; C];
            let mut total = [nothing; C];
            let mut along = [[nothing; 2]; C];
            for c in 0..C {
                let i = i + c * S::LANES;
                if GATE >= NORMALIZED {
                    for t in 0..3 {
                        normalize[c][t] = S::load(self.normalize[t].add(i));
                    }
                }
                total[c] = S::load_doubles(self.sums[0][0].add(i));
                if SUMS == MOMENTS {
                    about[c][0] = S::of_doubles(S::load_doubles(self.shift.add(i)));
                    along[c][0] = S::load_doubles(self.sums[0][1].add(i));
                }
                for p in 0..SUMS as usize {
                    about[c][p] = S::load(self.means[p].add(i));
                    along[c][p] = S::load_doubles(self.sums[p][1].add(i));
                }
            }
            let mut made = [zero; C];
            let mut at = first + i;
            while at < end {
                let stop = if T::ROUNDS { end.min(at + SUMMED * self.period) } else { end };
                let mut some = [zero; C];
                let mut some_along = [[zero; 2]; C];
                while at < stop {
                    if Walk::<R, T, GATE, SUMS, MEMORY>::ASKS {
                        // Where the next rows that are given to a chain have the same channels.
                        for c in (0..C * S::LANES * size_of::<R>()).step_by(LINE) {
                            ask_near(self.rows.wrapping_add(at + self.n).addr() + c);
                        }
                    }
                    for c in 0..C {
                        let at = at + c * S::LANES;
                        let mut x = R::load::<S, true>(self.rows.add(at), S::LANES);
                        if T::ROUNDS && !R::ROUNDS {
                            x = x.rounded();
                        }
                        if adds {
                            x = T::load::<S, true>(self.add.add(at), S::LANES).plus(x);
                            if T::ROUNDS {
                                x = x.rounded();
                            }
                        }
                        if GATE != OPEN {
                            let mut by = T::load::<S, true>(self.gate.add(at), S::LANES);
                            if GATE >= NORMALIZED {
                                let [mean, scale, bias] = normalize[c];
                                by = by.minus(mean).product(scale).plus(bias);
                            }
                            x = x.gated(by);
                            if GATE == CAPPED {
                                let by = if T::ROUNDS { by.rounded() } else { by };
                                x = x.gated(S::splat(CAP).minus(by));
                            }
                        }
                        if MEMORY {
                            made[c] = x;
                        } else if stores {
                            T::store::<S>(x, self.out.add(at));
                        }
                        if T::ROUNDS {
                            let terms = if SUMS == MOMENTS { x.minus(about[c][0]) } else { x };
                            some[c] = some[c].plus(terms);
                            if SUMS == MOMENTS {
                                some_along[c][0] = some_along[c][0].sum(terms, terms);
                            }
                            for p in 0..SUMS as usize {
                                let value = T::load::<S, true>(self.values[p].add(at), S::LANES);
                                some_along[c][p] = some_along[c][p].sum(x, value.minus(about[c][p]));
                            }
                            continue;
                        }
                        let x = x.doubles();
                        if SUMS == MOMENTS {
                            let d = S::distance(x, about[c][0].doubles());
                            total[c] = S::plus_doubles(total[c], d);
                            along[c][0] = S::sum_doubles(along[c][0], d, d);
                        } else {
                            total[c] = S::plus_doubles(total[c], x);
                        }
                        for p in 0..SUMS as usize {
                            let value = T::load::<S, true>(self.values[p].add(at), S::LANES).doubles();
                            let d = S::distance(value, about[c][p].doubles());
                            along[c][p] = S::sum_doubles(along[c][p], x, d);
                        }
                    }
                    if MEMORY && stores {
                        self.store::<S, C>(made, at);
                    }
                    at += self.period;
                }
                for c in 0..if T::ROUNDS { C } else { 0 } {
                    total[c] = S::plus_doubles(total[c], some[c].doubles());
                    for p in 0..(SUMS as usize).max(1) {
                        along[c][p] = S::plus_doubles(along[c][p], some_along[c][p].doubles());
                    }
                }
            }
            for c in 0..C {
                let i = i + c * S::LANES;
                for p in 0..(SUMS as usize).max(1) {
                    // Totals of the same rows are the same.
                    for (to, x) in self.sums[p].into_iter().zip([total[c], along[c][p]]) {
                        S::store_doubles(x, to.add(i));
                    }
                }
            }
        }
    }
}
