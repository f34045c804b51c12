//! Sums over the rows of a value, of what may be bf16 in memory: moments, and products with distances from a mean.

use crate::half_vector::{Halves, HalvesVectored, with_halves};
use crate::pointwise_pass::Port;
use crate::simd::Level;

/// What is summed up over the rows of a value, per element of a period.
#[derive(Debug)]
pub enum Gathering<'a> {
    /// (total, squares) += (d, d²) of d = a − shift
    Moments([&'a mut [f64]; 2], &'a [f64]),
    /// (total, along) += (b, b · (a − mean))
    Products([&'a mut [f64]; 2], &'a [f32]),
}

/// Sums `n` elements up; the last period may be cut off.
///
/// The sums of a vector of the period are registers over all rows. All is f64, so that how rows are cut hardly shows.
///
/// # Safety
///
/// Operands have `n` elements each, and sums and shifts or means those of a period.
pub unsafe fn gather(level: Level, what: Gathering<'_>, src: [Port; 2], n: usize) {
    // Passes alone round what they read.
    let src = src.map(|port| match port {
        Port::Rounded(x) => Port::Floats(x),
        port => port,
    });
    let what = match what {
        Gathering::Moments([total, squares], shift) => Gather {
            sums: [total, squares],
            about: About::Doubles(shift),
            src: [src[0], src[0]],
            n,
            moments: true,
        },
        Gathering::Products([total, along], mean) => {
            Gather { sums: [total, along], about: About::Floats(mean), src, n, moments: false }
        }
    };
    with_halves(level, what);
}

/// What the distance of the first operand is taken from.
enum About<'a> {
    Doubles(&'a [f64]),
    Floats(&'a [f32]),
}

struct Gather<'a> {
    sums: [&'a mut [f64]; 2],
    about: About<'a>,
    src: [Port; 2],
    n: usize,
    moments: bool,
}

impl HalvesVectored for Gather<'_> {
    #[inline(always)]
    unsafe fn run<S: Halves>(self) {
        let period = self.sums[0].len().min(self.sums[1].len());
        let [first, second] = self.sums;
        let sums = [first.as_mut_ptr(), second.as_mut_ptr()];
        let mut i = 0;
        // SAFETY: the elements of all periods are there, and those of the sums and of what is taken off.
        unsafe {
            while i + S::LANES <= period {
                let off = match self.about {
                    About::Floats(mean) => S::load(mean.as_ptr().add(i)).doubles(),
                    About::Doubles(shift) => S::load_doubles(shift.as_ptr().add(i)),
                };
                let sums = [sums[0].add(i), sums[1].add(i)];
                let column = Column { i, period, n: self.n, lanes: S::LANES, off, sums };
                column.run::<S, true>(self.src, self.moments);
                i += S::LANES;
            }
            let lanes = period - i;
            if lanes > 0 {
                // Lanes that are not there sum up zeros.
                let mut off = [0.0f64; 16];
                match self.about {
                    About::Floats(mean) => {
                        off.iter_mut().zip(&mean[i..i + lanes]).for_each(|(off, &x)| *off = f64::from(x));
                    }
                    About::Doubles(shift) => off[..lanes].copy_from_slice(&shift[i..i + lanes]),
                }
                let mut all = [[0.0f64; 16]; 2];
                for (all, sums) in all.iter_mut().zip(sums) {
                    std::ptr::copy_nonoverlapping(sums.add(i), all.as_mut_ptr(), lanes);
                }
                let off = S::load_doubles(off.as_ptr());
                let places = all.each_mut().map(|all| all.as_mut_ptr());
                let column = Column { i, period, n: self.n, lanes, off, sums: places };
                column.run::<S, false>(self.src, self.moments);
                for (all, sums) in all.iter().zip(sums) {
                    std::ptr::copy_nonoverlapping(all.as_ptr(), sums.add(i), lanes);
                }
            }
        }
    }
}

/// A vector of a period, over all rows.
struct Column<D> {
    /// Where in the period it begins.
    i: usize,
    period: usize,
    /// Elements of the operands.
    n: usize,
    /// Lanes that count.
    lanes: usize,
    /// What the distance of the first operand is taken from.
    off: [D; 2],
    /// Where the sums of its lanes are: whole vectors.
    sums: [*mut f64; 2],
}

impl<D: Copy> Column<D> {
    /// WHOLE where all lanes count. Of what types the operands are, is asked at each vector.
    #[inline(always)]
    unsafe fn run<S: Halves<Double = D>, const WHOLE: bool>(&self, [a, b]: [Port; 2], moments: bool) {
        // SAFETY: promised by the caller of `gather`.
        unsafe {
            let [mut t, mut s] = [S::load_doubles(self.sums[0]), S::load_doubles(self.sums[1])];
            let mut at = self.i;
            if WHOLE {
                while at + S::LANES <= self.n {
                    let x = a.load::<S, true>(at, S::LANES);
                    let y = if moments { x } else { b.load::<S, true>(at, S::LANES) };
                    [t, s] = self.add([t, s], x, y, moments, S::LANES);
                    at += self.period;
                }
            }
            // A period that is cut off at the end has some of the elements here, or none.
            while at < self.n {
                let lanes = self.lanes.min(self.n - at);
                let x = a.load::<S, false>(at, lanes);
                let y = if moments { x } else { b.load::<S, false>(at, lanes) };
                [t, s] = self.add([t, s], x, y, moments, lanes);
                at += self.period;
            }
            S::store_doubles(t, self.sums[0]);
            S::store_doubles(s, self.sums[1]);
        }
    }
}

impl<D: Copy> Column<D> {
    /// The sums with one more row: no closure, which would be compiled without the level's instructions.
    #[inline(always)]
    unsafe fn add<S: Halves<Double = D>>(
        &self,
        [t, s]: [[D; 2]; 2],
        x: S,
        y: S,
        moments: bool,
        lanes: usize,
    ) -> [[D; 2]; 2] {
        // SAFETY: promised by the caller of `gather`.
        unsafe {
            let d = S::distance(x.doubles(), self.off);
            // Lanes that are not there must not count: their operands are zero, not their distances.
            let d = if moments && lanes < S::LANES { first_lanes::<S>(d, lanes) } else { d };
            let y = if moments { d } else { y.doubles() };
            [S::plus_doubles(t, y), S::sum_doubles(s, y, d)]
        }
    }
}

/// The first lanes of two vectors, and zeros.
#[inline(always)]
unsafe fn first_lanes<S: Halves>([low, high]: [S::Double; 2], n: usize) -> [S::Double; 2] {
    let (mut all, half) = ([0.0f64; 16], S::LANES / 2);
    // SAFETY: the array holds all lanes; the processor has the level.
    unsafe {
        S::store_double(low, all.as_mut_ptr());
        S::store_double(high, all.as_mut_ptr().add(half));
        all[n..].fill(0.0);
        [S::load_double(all.as_ptr()), S::load_double(all.as_ptr().add(half))]
    }
}
