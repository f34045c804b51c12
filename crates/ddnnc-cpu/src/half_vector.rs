//! Vectors of f32 that are bf16 in memory, as the levels of the processor have them.

#[cfg(target_arch = "x86_64")]
use crate::half_vector_x86 as x86;
use crate::pointwise_kernels::{narrow, widen};
use crate::simd::Level;
use crate::vector::{Plain, Vector};

/// Makes what was written past the caches visible before anything that this thread writes later.
pub fn settle() {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every x86-64 processor has the instruction.
    unsafe {
        std::arch::x86_64::_mm_sfence();
    }
}

/// A vector that can be read from bf16 and rounded to it, to the nearest, ties to even; not a number stays so.
///
/// What is not overridden goes lane by lane. Numbers below the least normal one may become zero where the processor has an
/// instruction that rounds.
pub trait Halves: Vector {
    /// Whether two vectors side by side are faster than one after the other; where they are not, code for them would only
    /// take long to compile.
    const PAIRS: bool = true;
    /// Reads bf16.
    ///
    /// # Safety
    ///
    /// The elements can be read; the processor has the level, here and below.
    #[inline(always)]
    unsafe fn load_half(from: *const u16) -> Self {
        let mut all = [0.0f32; 16];
        // SAFETY: promised; there are no more lanes than that.
        unsafe {
            for (i, x) in all.iter_mut().enumerate().take(Self::LANES) {
                *x = widen(*from.add(i));
            }
            Self::load(all.as_ptr())
        }
    }

    /// Reads the first `n` bf16, and zeros.
    ///
    /// # Safety
    ///
    /// So many elements can be read.
    #[inline(always)]
    unsafe fn load_half_first(from: *const u16, n: usize) -> Self {
        let mut all = [0u16; 16];
        // SAFETY: promised; there are no more lanes than that.
        unsafe {
            std::ptr::copy_nonoverlapping(from, all.as_mut_ptr(), n);
            Self::load_half(all.as_ptr())
        }
    }

    /// Writes bf16.
    ///
    /// # Safety
    ///
    /// The elements can be written.
    #[inline(always)]
    unsafe fn store_half(self, to: *mut u16) {
        let mut all = [0.0f32; 16];
        // SAFETY: promised; there are no more lanes than that.
        unsafe {
            self.store(all.as_mut_ptr());
            for (i, &x) in all.iter().enumerate().take(Self::LANES) {
                *to.add(i) = narrow(x);
            }
        }
    }

    /// Writes past the caches, where the processor can and the place is one of whole vectors; what others see of it
    /// is in order only behind [`settle`].
    ///
    /// # Safety
    ///
    /// As [`Vector::store`].
    #[inline(always)]
    unsafe fn stream(self, to: *mut f32) {
        // SAFETY: promised.
        unsafe { self.store(to) }
    }

    /// The same as bf16.
    ///
    /// # Safety
    ///
    /// As [`Halves::store_half`].
    #[inline(always)]
    unsafe fn stream_half(self, to: *mut u16) {
        // SAFETY: promised.
        unsafe { self.store_half(to) }
    }

    /// Writes bf16 of lanes that are numbers of bf16 already.
    ///
    /// # Safety
    ///
    /// As [`Halves::store_half`].
    #[inline(always)]
    unsafe fn store_exact(self, to: *mut u16) {
        // SAFETY: promised.
        unsafe { self.store_half(to) }
    }

    /// Writes two vectors side by side as bf16; EXACT where their lanes are numbers of bf16 already, PAST where they go
    /// past the caches.
    ///
    /// # Safety
    ///
    /// As [`Halves::store_half`], of two vectors.
    #[inline(always)]
    unsafe fn store_pair<const EXACT: bool, const PAST: bool>(pair: [Self; 2], to: *mut u16) {
        let [low, high] = pair;
        // SAFETY: promised.
        unsafe {
            let behind = to.add(Self::LANES);
            match (PAST, EXACT) {
                (true, _) => {
                    low.stream_half(to);
                    high.stream_half(behind);
                }
                (false, true) => {
                    low.store_exact(to);
                    high.store_exact(behind);
                }
                (false, false) => {
                    low.store_half(to);
                    high.store_half(behind);
                }
            }
        }
    }

    /// Writes the first `n` lanes as bf16.
    ///
    /// # Safety
    ///
    /// So many elements can be written.
    #[inline(always)]
    unsafe fn store_half_first(self, to: *mut u16, n: usize) {
        let mut all = [0u16; 16];
        // SAFETY: promised; there are no more lanes than that.
        unsafe {
            self.store_half(all.as_mut_ptr());
            std::ptr::copy_nonoverlapping(all.as_ptr(), to, n);
        }
    }

    /// Rounds to bf16.
    ///
    /// # Safety
    ///
    /// The processor has the level.
    #[inline(always)]
    unsafe fn rounded(self) -> Self {
        let mut all = [0u16; 16];
        // SAFETY: promised; there are no more lanes than that.
        unsafe {
            self.store_half(all.as_mut_ptr());
            Self::load_half(all.as_ptr())
        }
    }

    /// `self · a`.
    ///
    /// # Safety
    ///
    /// The processor has the level.
    #[inline(always)]
    unsafe fn product(self, a: Self) -> Self {
        let (mut one, mut two) = ([0.0f32; 16], [0.0f32; 16]);
        // SAFETY: promised; there are no more lanes than that.
        unsafe {
            self.store(one.as_mut_ptr());
            a.store(two.as_mut_ptr());
            one.iter_mut().zip(two).for_each(|(one, two)| *one *= two);
            Self::load(one.as_ptr())
        }
    }

    /// 0 for what is below it.
    ///
    /// # Safety
    ///
    /// The processor has the level.
    #[inline(always)]
    unsafe fn relu(self) -> Self {
        let mut all = [0.0f32; 16];
        // SAFETY: promised; there are no more lanes than that.
        unsafe {
            self.store(all.as_mut_ptr());
            all.iter_mut().for_each(|x| *x = if *x < 0.0 { 0.0 } else { *x });
            Self::load(all.as_ptr())
        }
    }

    /// A vector of half as many f64.
    type Double: Copy;

    /// The lower and the upper lanes as f64.
    ///
    /// # Safety
    ///
    /// The processor has the level, here and below.
    unsafe fn doubles(self) -> [Self::Double; 2];

    /// Of lanes as f64, rounded.
    ///
    /// # Safety
    ///
    /// The processor has the level.
    #[inline(always)]
    unsafe fn of_doubles(x: [Self::Double; 2]) -> Self {
        let (mut wide, mut all) = ([0.0f64; 16], [0.0f32; 16]);
        // SAFETY: promised; there are no more lanes than that.
        unsafe {
            Self::store_doubles(x, wide.as_mut_ptr());
            all.iter_mut().zip(wide).for_each(|(x, wide)| *x = wide as f32);
            Self::load(all.as_ptr())
        }
    }

    /// Reads f64.
    ///
    /// # Safety
    ///
    /// The elements can be read.
    unsafe fn load_double(from: *const f64) -> Self::Double;

    /// Writes f64.
    ///
    /// # Safety
    ///
    /// The elements can be written.
    unsafe fn store_double(x: Self::Double, to: *mut f64);

    /// `sum + a · b`.
    ///
    /// # Safety
    ///
    /// The processor has the level.
    unsafe fn sum_double(sum: Self::Double, a: Self::Double, b: Self::Double) -> Self::Double;

    /// `sum + a`.
    ///
    /// # Safety
    ///
    /// The processor has the level.
    unsafe fn plus_double(sum: Self::Double, a: Self::Double) -> Self::Double;

    /// Reads f64 for both halves of the lanes.
    ///
    /// # Safety
    ///
    /// The elements can be read; the processor has the level, here and below.
    #[inline(always)]
    unsafe fn load_doubles(from: *const f64) -> [Self::Double; 2] {
        // SAFETY: promised.
        unsafe { [Self::load_double(from), Self::load_double(from.add(Self::LANES / 2))] }
    }

    /// Writes both halves.
    ///
    /// # Safety
    ///
    /// The elements can be written.
    #[inline(always)]
    unsafe fn store_doubles(x: [Self::Double; 2], to: *mut f64) {
        // SAFETY: promised.
        unsafe {
            Self::store_double(x[0], to);
            Self::store_double(x[1], to.add(Self::LANES / 2));
        }
    }

    /// `a + b`.
    ///
    /// # Safety
    ///
    /// The processor has the level.
    #[inline(always)]
    unsafe fn plus_doubles(a: [Self::Double; 2], b: [Self::Double; 2]) -> [Self::Double; 2] {
        // SAFETY: promised.
        unsafe { [Self::plus_double(a[0], b[0]), Self::plus_double(a[1], b[1])] }
    }

    /// `sum + a · b`.
    ///
    /// # Safety
    ///
    /// The processor has the level.
    #[inline(always)]
    unsafe fn sum_doubles(
        sum: [Self::Double; 2],
        a: [Self::Double; 2],
        b: [Self::Double; 2],
    ) -> [Self::Double; 2] {
        // SAFETY: promised.
        unsafe { [Self::sum_double(sum[0], a[0], b[0]), Self::sum_double(sum[1], a[1], b[1])] }
    }

    /// `a − b`; exact, as in f64 nearly all differences of f32 are.
    ///
    /// # Safety
    ///
    /// The processor has the level.
    #[inline(always)]
    unsafe fn distance(a: [Self::Double; 2], b: [Self::Double; 2]) -> [Self::Double; 2] {
        // SAFETY: promised; the array holds half of the lanes.
        unsafe {
            let minus = Self::load_double([-1.0f64; 8].as_ptr());
            Self::sum_doubles(a, b, [minus; 2])
        }
    }

    /// `self` where it is above `best`, which not a number is unless `best` is none, and `best` elsewhere.
    ///
    /// # Safety
    ///
    /// The processor has the level.
    #[inline(always)]
    unsafe fn larger(self, best: Self) -> Self {
        let (mut all, mut bests) = ([0.0f32; 16], [0.0f32; 16]);
        // SAFETY: promised; there are no more lanes than that.
        unsafe {
            self.store(all.as_mut_ptr());
            best.store(bests.as_mut_ptr());
            for (best, x) in bests.iter_mut().zip(all) {
                *best = if (x > *best) | (x.is_nan() & !best.is_nan()) { x } else { *best };
            }
            Self::load(bests.as_ptr())
        }
    }

    /// `self` where `x` is `best` or not a number, and where it is neither, each with zeros elsewhere.
    ///
    /// # Safety
    ///
    /// The processor has the level.
    #[inline(always)]
    unsafe fn parted(self, x: Self, best: Self) -> [Self; 2] {
        let (mut all, mut rest) = ([0.0f32; 16], [0.0f32; 16]);
        let (mut xs, mut bests) = ([0.0f32; 16], [0.0f32; 16]);
        // SAFETY: promised; there are no more lanes than that.
        unsafe {
            self.store(all.as_mut_ptr());
            x.store(xs.as_mut_ptr());
            best.store(bests.as_mut_ptr());
            for i in 0..16 {
                let found = (xs[i] == bests[i]) | xs[i].is_nan();
                (all[i], rest[i]) = if found { (all[i], 0.0) } else { (0.0, all[i]) };
            }
            [Self::load(all.as_ptr()), Self::load(rest.as_ptr())]
        }
    }

    /// `self` times 1 where `by` is above 0, and times 0 elsewhere.
    ///
    /// # Safety
    ///
    /// The processor has the level.
    #[inline(always)]
    unsafe fn gated(self, by: Self) -> Self {
        let mut all = [0.0f32; 16];
        // SAFETY: promised; there are no more lanes than that.
        unsafe {
            by.store(all.as_mut_ptr());
            all.iter_mut().for_each(|x| *x = if *x > 0.0 { 1.0 } else { 0.0 });
            self.product(Self::load(all.as_ptr()))
        }
    }
}

impl Halves for Plain {
    const PAIRS: bool = false;
    type Double = [f64; 4];
    #[inline(always)]
    unsafe fn doubles(self) -> [[f64; 4]; 2] {
        let mut all = [0.0f32; 8];
        // SAFETY: the array holds all lanes.
        unsafe { self.store(all.as_mut_ptr()) };
        let mut doubles = [[0.0; 4]; 2];
        for i in 0..4 {
            doubles[0][i] = f64::from(all[i]);
            doubles[1][i] = f64::from(all[i + 4]);
        }
        doubles
    }
    #[inline(always)]
    unsafe fn load_double(from: *const f64) -> [f64; 4] {
        // SAFETY: promised.
        unsafe { from.cast::<[f64; 4]>().read() }
    }
    #[inline(always)]
    unsafe fn store_double(x: [f64; 4], to: *mut f64) {
        // SAFETY: promised.
        unsafe { to.cast::<[f64; 4]>().write(x) }
    }
    #[inline(always)]
    unsafe fn sum_double(mut sum: [f64; 4], a: [f64; 4], b: [f64; 4]) -> [f64; 4] {
        for i in 0..4 {
            sum[i] += a[i] * b[i];
        }
        sum
    }
    #[inline(always)]
    unsafe fn plus_double(mut sum: [f64; 4], a: [f64; 4]) -> [f64; 4] {
        for i in 0..4 {
            sum[i] += a[i];
        }
        sum
    }
}

/// Code that is generic over such vectors; as [`crate::vector::Vectored`].
pub trait HalvesVectored {
    /// Runs with vectors of S.
    ///
    /// # Safety
    ///
    /// The processor has the level of S.
    unsafe fn run<S: Halves>(self);
}

/// # Safety
///
/// Every processor has this level. A function of its own, as those of other levels are: else its callers would grow by it.
#[inline(never)]
unsafe fn plain(code: impl HalvesVectored) {
    // SAFETY: promised.
    unsafe { code.run::<Plain>() }
}

/// Runs `code` with the vectors of a level, compiled for it.
#[inline]
pub fn with_halves(level: Level, code: impl HalvesVectored) {
    dispatch::<true>(level, code);
}

/// Runs `code` that does not round: as [`with_halves`], but the levels that differ in rounding alone share one function.
#[inline]
pub fn with_floats(level: Level, code: impl HalvesVectored) {
    dispatch::<false>(level, code);
}

#[inline]
fn dispatch<const ROUNDS: bool>(level: Level, code: impl HalvesVectored) {
    // SAFETY: levels are those that the processor has.
    unsafe {
        match level {
            Level::Portable => plain(code),
            // The processor's own instructions are what the build is compiled for.
            #[cfg(target_arch = "aarch64")]
            Level::Neon => plain(code),
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => x86::avx2(code),
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => x86::avx512(code),
            #[cfg(target_arch = "x86_64")]
            Level::Avx512Bf16 | Level::Amx => {
                if ROUNDS {
                    x86::avx512bf16(code)
                } else {
                    x86::avx512(code)
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Halves, HalvesVectored, with_halves};
    use crate::pointwise_kernels::{narrow, widen};
    use crate::simd::Level;

    /// Two vectors, and the same rounded, written side by side in every way; the lower one starts with these bits.
    #[inline(always)]
    unsafe fn pairs<S: Halves>(low: [S; 2], high: [S; 2], lower: &[u16]) {
        #[repr(align(64))]
        struct Place([u16; 32]);
        let (mut made, mut upper, lanes) = ([(); 5].map(|()| Place([0x5555; 32])), [0u16; 16], S::LANES);
        // SAFETY: the arrays hold two vectors; the processor has the level.
        unsafe {
            high[0].store_half(upper.as_mut_ptr());
            let [one, two, three, four, five] = made.each_mut().map(|place| place.0.as_mut_ptr());
            S::store_pair::<false, false>([low[0], high[0]], one);
            S::store_pair::<false, true>([low[0], high[0]], two);
            S::store_pair::<true, false>([low[1], high[1]], three);
            S::store_pair::<true, true>([low[1], high[1]], four);
            low[1].store_exact(five);
            high[1].store_exact(five.add(lanes));
        }
        super::settle();
        for Place(made) in made {
            assert_eq!(made[..lower.len()], *lower);
            assert_eq!(made[lanes..2 * lanes], upper[..lanes]);
            assert!(made[2 * lanes..].iter().all(|&bits| bits == 0x5555), "nothing behind is written");
        }
    }

    /// All operations on runs of every length up to two vectors.
    struct Everything<'a> {
        x: &'a [f32],
        y: &'a [f32],
        /// Rounded, times y, without what is below 0, gated by y, the larger, and x parted by whether y is that.
        out: &'a mut [Vec<f32>; 7],
        halves: &'a mut Vec<u16>,
    }

    impl HalvesVectored for Everything<'_> {
        #[inline(always)]
        unsafe fn run<S: Halves>(self) {
            for (at, x) in self.x.chunks(S::LANES).enumerate() {
                let (n, y) = (x.len(), &self.y[at * S::LANES..]);
                let (mut numbers, mut bits) = ([0.0f32; 16], [0xaaaau16; 16]);
                // SAFETY: the arrays hold a vector, and `n` elements are there.
                unsafe {
                    let (x, y) = (S::load_first(x.as_ptr(), n), S::load_first(y.as_ptr(), n));
                    let larger = x.larger(y);
                    let [found, rest] = x.parted(y, larger);
                    let all = [x.rounded(), x.product(y), x.relu(), x.gated(y), larger, found, rest];
                    for (out, made) in self.out.iter_mut().zip(all) {
                        made.store(numbers.as_mut_ptr());
                        out.extend(&numbers[..n]);
                    }
                    let rounded = x.rounded();
                    x.store_half_first(bits.as_mut_ptr(), n);
                    self.halves.extend(&bits[..n]);
                    pairs([x, rounded], [y, y.rounded()], &bits[..n]);
                    assert!(bits[n..].iter().all(|&b| b == 0xaaaa), "nothing behind is written");
                    if n == S::LANES {
                        x.store_half(bits.as_mut_ptr());
                        assert_eq!(bits[..n], self.halves[self.halves.len() - n..]);
                        S::load_half(bits.as_ptr()).store(numbers.as_mut_ptr());
                    } else {
                        S::load_half_first(bits.as_ptr(), n).store(numbers.as_mut_ptr());
                    }
                    for (&bits, &number) in bits[..n].iter().zip(&numbers) {
                        assert_eq!(widen(bits).to_bits(), number.to_bits());
                    }
                }
            }
        }
    }

    #[test]
    fn every_level_rounds_and_gates_as_lane_by_lane() {
        let edges = [
            0.0,
            -0.0,
            1.0,
            -1.0,
            f32::MAX,
            f32::MIN,
            f32::INFINITY,
            f32::NEG_INFINITY,
            f32::NAN,
            -f32::NAN,
            f32::from_bits(0x7f80_0001),
            f32::MIN_POSITIVE,
            1.0 + 1.0 / 256.0,
            1.0 + 3.0 / 256.0,
            1.0 + 1.0 / 256.0 + f32::EPSILON,
            3.3895314e38,
        ];
        let mut bits = 1u32;
        let mut next = || {
            bits = bits.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            f32::from_bits(bits & 0xbfff_ffff | 0x2000_0000)
        };
        let x: Vec<f32> = edges.into_iter().chain((0..203).map(|_| next())).collect();
        let y: Vec<f32> = (0..x.len()).map(|i| if i % 5 == 0 { edges[i / 5 % 16] } else { next() }).collect();
        let same = |a: f32, b: f32| a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan();
        for level in Level::available() {
            let (mut out, mut halves) = (Default::default(), Vec::new());
            with_halves(level, Everything { x: &x, y: &y, out: &mut out, halves: &mut halves });
            for (i, (&x, &y)) in x.iter().zip(&y).enumerate() {
                let larger = if x > y || x.is_nan() && !y.is_nan() { x } else { y };
                let found = y == larger || y.is_nan();
                let exact = [
                    widen(narrow(x)),
                    x * y,
                    if x < 0.0 { 0.0 } else { x },
                    x * if y > 0.0 { 1.0 } else { 0.0 },
                    larger,
                    if found { x } else { 0.0 },
                    if found { 0.0 } else { x },
                ];
                assert_eq!(halves[i], narrow(x), "{} of {x} at {}", i, level.name());
                for (what, exact) in exact.into_iter().enumerate() {
                    let found = out[what][i];
                    assert!(
                        same(found, exact),
                        "{what} of {x}, {y} at {}: {found}, not {exact}",
                        level.name()
                    );
                }
            }
        }
    }
}
