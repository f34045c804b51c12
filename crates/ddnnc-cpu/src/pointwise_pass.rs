//! The common elementwise instructions of tile programs. Their operands may be bf16 in memory and their result may go there: one pass over the elements, where a value would else be widened, computed, rounded and
//! narrowed in passes of their own.

use crate::ahead::{LINE, ask};
use crate::half_vector::{Halves, HalvesVectored, with_floats, with_halves};
use crate::simd::Level;

/// What a pass computes of one or two operands; tables repeat with the period of their length.
#[derive(Clone, Copy, Debug)]
pub enum Arith<'a> {
    /// a
    Copy,
    /// a, or 0 where it is below
    Relu,
    /// b · (1 where a > 0, else 0)
    ReluGrad,
    /// a + b
    Add,
    /// a − b
    Sub,
    /// a · b
    Mul,
    /// factor · a
    Scale(f32),
    /// a + table
    AddChannel(&'a [f32]),
    /// a · table
    MulChannel(&'a [f32]),
    /// (a − mean) · scale + bias
    Normalize([&'a [f32]; 3]),
    /// The same, or 0 where it is below
    NormalizeRelu([&'a [f32]; 3]),
    /// (a − mean) · scale + bias, rounded to bf16 where said so, plus b, or 0 where that is below
    NormalizeAddRelu([&'a [f32]; 3], bool),
    /// scale · (b − bias − (a − mean) · along), of (mean, scale, bias, along)
    NormalizeGradInput([&'a [f32]; 4]),
}

/// Where an operand lies.
#[derive(Clone, Copy, Debug)]
pub enum Port {
    /// f32.
    Floats(*const f32),
    /// f32 that are rounded to bf16 as they are read, by passes alone.
    Rounded(*const f32),
    /// bf16.
    Halves(*const u16),
}

/// The places of a pass.
#[derive(Clone, Copy, Debug)]
pub struct Ports {
    /// Elements.
    pub n: usize,
    /// Operands; those that the pass does not take are not read.
    pub src: [Port; 2],
    /// Where the result goes as f32, or null.
    pub floats: *mut f32,
    /// Whether that is rounded to bf16.
    pub round: bool,
    /// Where the result goes as bf16, or null.
    pub halves: *mut u16,
    /// Whether it goes past the caches: as bf16 where it goes there as well, for the f32 then stay in the tile.
    pub past: bool,
    /// The addresses beside the first elements of operands and result that are asked for meanwhile; the first is 0 where
    /// nothing is. A pass on values of several types does not ask.
    pub next: [usize; 3],
}

/// Runs a pass.
///
/// # Safety
///
/// Operands and results have `n` elements each. A result lies apart from every operand, or on the elements of one of its
/// own type. Tables are not empty, and those of one pass have one length.
pub unsafe fn run(level: Level, arith: Arith<'_>, ports: Ports) {
    fn all<const N: usize>(tables: [&[f32]; N]) -> [*const f32; N] {
        tables.map(<[f32]>::as_ptr)
    }
    let n = ports.n;
    match arith {
        Arith::Copy => match ports.src[0] {
            Port::Halves(from) if ports.floats.is_null() => with_floats(level, CopyHalves { from, ports }),
            _ => pass(level, Same, ports, n),
        },
        Arith::Relu => pass(level, Relu, ports, n),
        Arith::ReluGrad => pass(level, ReluGrad, ports, n),
        Arith::Add => pass(level, Add, ports, n),
        Arith::Sub => pass(level, Sub, ports, n),
        Arith::Mul => pass(level, Mul, ports, n),
        Arith::Scale(factor) => pass(level, Scale(factor), ports, n),
        Arith::AddChannel(t) => pass(level, AddChannel(t.as_ptr()), ports, t.len()),
        Arith::MulChannel(t) => pass(level, MulChannel(t.as_ptr()), ports, t.len()),
        Arith::Normalize(t) => pass(level, Normalize::<false>(all(t)), ports, t[0].len()),
        Arith::NormalizeRelu(t) => pass(level, Normalize::<true>(all(t)), ports, t[0].len()),
        Arith::NormalizeAddRelu(t, false) => {
            pass(level, NormalizeAddRelu::<false>(all(t)), ports, t[0].len());
        }
        Arith::NormalizeAddRelu(t, true) => pass(level, NormalizeAddRelu::<true>(all(t)), ports, t[0].len()),
        Arith::NormalizeGradInput(t) => pass(level, NormalizeGradInput(all(t)), ports, t[0].len()),
    }
}

/// A pass that computes `op`, as a function of its own for each level: one for all would take long to compile.
fn pass<A: Apply>(level: Level, op: A, ports: Ports, period: usize) {
    let whole = ports.halves.is_null() && !ports.round && !A::ROUNDS;
    match ports.src {
        [Port::Floats(a), Port::Floats(b)] if whole => with_floats(level, Floats { op, a, b, ports, period }),
        [Port::Floats(a), _] if whole && !A::TWO => with_floats(level, Floats { op, a, b: a, ports, period }),
        _ => with_halves(level, Any { op, ports, period }),
    }
}

/// A pass of f32 to f32.
struct Floats<A> {
    op: A,
    a: *const f32,
    b: *const f32,
    ports: Ports,
    period: usize,
}

impl<A: Apply> HalvesVectored for Floats<A> {
    #[inline(always)]
    unsafe fn run<S: Halves>(self) {
        let Floats { op, a, b, ports, period } = self;
        let src = [Port::Floats(a), Port::Floats(b)];
        let ports = Ports { src, halves: std::ptr::null_mut(), round: false, ..ports };
        let mut start = 0;
        while start < ports.n {
            let len = period.min(ports.n - start);
            let at = (start, len);
            // SAFETY: promised by the caller of `run`.
            unsafe {
                let mut done = 0;
                if S::PAIRS {
                    done = if ports.past {
                        runs::<S, A, f32, f32, FLOATS, true>(op, a, b, &ports, at)
                    } else {
                        runs::<S, A, f32, f32, FLOATS, false>(op, a, b, &ports, at)
                    };
                }
                rest::<S, A>(op, &ports, at, done);
            }
            start += len;
        }
    }
}

/// A pass between any types.
struct Any<A> {
    op: A,
    ports: Ports,
    period: usize,
}

impl<A: Apply> HalvesVectored for Any<A> {
    #[inline(always)]
    unsafe fn run<S: Halves>(self) {
        let Any { op, ref ports, period } = self;
        let mut start = 0;
        while start < ports.n {
            let len = period.min(ports.n - start);
            // SAFETY: promised by the caller of `run`.
            unsafe {
                let mut done = 0;
                // Where the result is bf16 alone, and operands are read as such, of which one may be rounded meanwhile.
                if S::PAIRS && ports.floats.is_null() {
                    done = if ports.past {
                        halves::<S, A, true>(op, ports, (start, len))
                    } else {
                        halves::<S, A, false>(op, ports, (start, len))
                    };
                } else if S::PAIRS && ports.halves.is_null() && !ports.past {
                    done = widened::<S, A>(op, ports, (start, len));
                }
                rest::<S, A>(op, ports, (start, len), done);
            }
            start += len;
        }
    }
}

/// The whole runs of a period whose result is bf16, of the operands for which there is a loop: how many elements those are.
#[inline(always)]
unsafe fn halves<S: Halves, A: Apply, const PAST: bool>(op: A, p: &Ports, at: (usize, usize)) -> usize {
    // SAFETY: promised by the caller of `run`.
    unsafe {
        if A::TWO {
            match p.src {
                [Port::Halves(a), Port::Halves(b)] => runs::<S, A, u16, u16, HALVES, PAST>(op, a, b, p, at),
                [Port::Rounded(a), Port::Halves(b)] => {
                    runs::<S, A, Unrounded, u16, HALVES, PAST>(op, a.cast(), b, p, at)
                }
                [Port::Halves(a), Port::Rounded(b)] => {
                    runs::<S, A, u16, Unrounded, HALVES, PAST>(op, a, b.cast(), p, at)
                }
                _ => 0,
            }
        } else {
            match p.src[0] {
                Port::Halves(a) => runs::<S, A, u16, u16, HALVES, PAST>(op, a, a, p, at),
                Port::Rounded(a) => {
                    runs::<S, A, Unrounded, Unrounded, HALVES, PAST>(op, a.cast(), a.cast(), p, at)
                }
                Port::Floats(a) if A::COPIES => runs::<S, A, f32, f32, HALVES, PAST>(op, a, a, p, at),
                Port::Floats(_) => 0,
            }
        }
    }
}

/// The same to f32, of one operand of bf16: rows that a convolution in f32 reads.
#[inline(always)]
unsafe fn widened<S: Halves, A: Apply>(op: A, p: &Ports, at: (usize, usize)) -> usize {
    let Port::Halves(a) = p.src[0] else { return 0 };
    // SAFETY: promised by the caller of `run`.
    unsafe {
        if A::TWO {
            0
        } else if A::KEEPS || !p.round {
            runs::<S, A, u16, u16, FLOATS, false>(op, a, a, p, at)
        } else {
            runs::<S, A, u16, u16, ROUNDED, false>(op, a, a, p, at)
        }
    }
}

/// What of a period is left, vector by vector; of what types, is asked at each.
#[inline(always)]
unsafe fn rest<S: Halves, A: Apply>(op: A, p: &Ports, (start, len): (usize, usize), done: usize) {
    let mut i = done;
    // SAFETY: the elements of a period, or of all, are there.
    unsafe {
        while i + S::LANES <= len {
            vector::<S, A, true>(op, p, (start + i, i, S::LANES));
            i += S::LANES;
        }
        if i < len {
            vector::<S, A, false>(op, p, (start + i, i, len - i));
        }
    }
}

/// What is computed of a vector of each operand; `i` is where in the period, and `some` how many lanes count unless FULL.
trait Apply: Copy {
    /// Whether it takes both operands.
    const TWO: bool;
    /// Whether it gives numbers of bf16 for such numbers.
    const KEEPS: bool = false;
    /// Whether it gives what it takes.
    const COPIES: bool = false;
    /// Whether it rounds to bf16 itself.
    const ROUNDS: bool = false;
    unsafe fn apply<S: Halves, const FULL: bool>(self, i: usize, some: usize, a: S, b: S) -> S;
}

/// A vector of a table.
#[inline(always)]
unsafe fn table<S: Halves, const FULL: bool>(t: *const f32, i: usize, some: usize) -> S {
    // SAFETY: promised by the caller of `run`.
    unsafe { if FULL { S::load(t.add(i)) } else { S::load_first(t.add(i), some) } }
}

macro_rules! apply {
    ($name:ident $($field:ty)?, $two:expr, $keeps:expr, $op:pat, [$i:pat, $some:pat, $a:pat, $b:pat], $body:expr) => {
        #[derive(Clone, Copy)]
        struct $name $(($field))?;
        impl Apply for $name {
            const TWO: bool = $two;
            const KEEPS: bool = $keeps;
            #[inline(always)]
            unsafe fn apply<S: Halves, const FULL: bool>(self, $i: usize, $some: usize, $a: S, $b: S) -> S {
                let $op = self;
                // SAFETY: the processor has the level of S; tables hold a period.
                unsafe { $body }
            }
        }
    };
}

apply!(Relu, false, true, _, [_, _, a, _], a.relu());
apply!(ReluGrad, true, true, _, [_, _, a, b], b.gated(a));
apply!(Add, true, false, _, [_, _, a, b], a.plus(b));
apply!(Sub, true, false, _, [_, _, a, b], a.minus(b));
apply!(Mul, true, false, _, [_, _, a, b], a.product(b));
apply!(Scale f32, false, false, Scale(factor), [_, _, a, _], a.times(factor));
apply!(AddChannel *const f32, false, false, AddChannel(t), [i, some, a, _], a.plus(table::<S, FULL>(t, i, some)));
apply!(MulChannel *const f32, false, false, MulChannel(t), [i, some, a, _], a.product(table::<S, FULL>(t, i, some)));

#[derive(Clone, Copy)]
struct Same;

impl Apply for Same {
    const TWO: bool = false;
    const KEEPS: bool = true;
    const COPIES: bool = true;
    #[inline(always)]
    unsafe fn apply<S: Halves, const FULL: bool>(self, _: usize, _: usize, a: S, _: S) -> S {
        a
    }
}

#[derive(Clone, Copy)]
struct Normalize<const RELU: bool>([*const f32; 3]);

impl<const RELU: bool> Apply for Normalize<RELU> {
    const TWO: bool = false;
    #[inline(always)]
    unsafe fn apply<S: Halves, const FULL: bool>(self, i: usize, some: usize, a: S, _: S) -> S {
        let [mean, scale, bias] = self.0;
        // SAFETY: as above.
        unsafe {
            let centred = a.minus(table::<S, FULL>(mean, i, some));
            let scaled = centred.product(table::<S, FULL>(scale, i, some));
            let y = scaled.plus(table::<S, FULL>(bias, i, some));
            if RELU { y.relu() } else { y }
        }
    }
}

#[derive(Clone, Copy)]
struct NormalizeAddRelu<const ROUND: bool>([*const f32; 3]);

impl<const ROUND: bool> Apply for NormalizeAddRelu<ROUND> {
    const TWO: bool = true;
    const ROUNDS: bool = ROUND;
    #[inline(always)]
    unsafe fn apply<S: Halves, const FULL: bool>(self, i: usize, some: usize, a: S, b: S) -> S {
        // SAFETY: as above.
        unsafe {
            let normal = Normalize::<false>(self.0).apply::<S, FULL>(i, some, a, b);
            let sum = (if ROUND { normal.rounded() } else { normal }).plus(b);
            sum.relu()
        }
    }
}

#[derive(Clone, Copy)]
struct NormalizeGradInput([*const f32; 4]);

impl Apply for NormalizeGradInput {
    const TWO: bool = true;
    #[inline(always)]
    unsafe fn apply<S: Halves, const FULL: bool>(self, i: usize, some: usize, a: S, b: S) -> S {
        let [mean, scale, bias, along] = self.0;
        // SAFETY: as above.
        unsafe {
            let part = a.minus(table::<S, FULL>(mean, i, some)).product(table::<S, FULL>(along, i, some));
            let rest = b.minus(table::<S, FULL>(bias, i, some)).minus(part);
            rest.product(table::<S, FULL>(scale, i, some))
        }
    }
}

/// Copies bf16 to bf16, bit for bit: where that goes past the caches, two in each lane.
struct CopyHalves {
    from: *const u16,
    ports: Ports,
}

impl HalvesVectored for CopyHalves {
    #[inline(always)]
    unsafe fn run<S: Halves>(self) {
        let CopyHalves { from, ports: Ports { halves: to, n, past, .. } } = self;
        let width = 2 * S::LANES;
        // Up to where whole vectors of the result begin; all, where the operand cannot be taken as f32 there.
        let before = to.align_offset(2 * width).min(n);
        let streams = past && from.wrapping_add(before).cast::<f32>().is_aligned();
        let mut at = if streams { before } else { n };
        // SAFETY: promised by the caller of `run`. Where the result lies on the operand, all stays as it is.
        unsafe {
            std::ptr::copy(from, to, at);
            while at + width <= n {
                S::load(from.add(at).cast()).stream(to.add(at).cast());
                at += width;
            }
            std::ptr::copy(from.add(at), to.add(at), n - at);
        }
    }
}

impl Port {
    /// Reads a vector from an element on, or `some` elements unless FULL.
    ///
    /// # Safety
    ///
    /// The elements can be read; the processor has the level of S.
    #[inline(always)]
    pub unsafe fn load<S: Halves, const FULL: bool>(self, at: usize, some: usize) -> S {
        // SAFETY: promised.
        unsafe {
            match self {
                Port::Floats(x) => f32::load::<S, FULL>(x.add(at), some),
                Port::Rounded(x) => f32::load::<S, FULL>(x.add(at), some).rounded(),
                Port::Halves(x) => u16::load::<S, FULL>(x.add(at), some),
            }
        }
    }
}

/// An element of an operand.
pub trait Element: Copy {
    /// Whether it may be a number that bf16 does not have.
    const RAW: bool;
    /// Reads a vector, or `some` elements unless FULL.
    ///
    /// # Safety
    ///
    /// The elements can be read; the processor has the level of S.
    unsafe fn load<S: Halves, const FULL: bool>(from: *const Self, some: usize) -> S;
}

impl Element for f32 {
    const RAW: bool = true;
    #[inline(always)]
    unsafe fn load<S: Halves, const FULL: bool>(from: *const f32, some: usize) -> S {
        // SAFETY: promised by the caller of `run`.
        unsafe { if FULL { S::load(from) } else { S::load_first(from, some) } }
    }
}

impl Element for u16 {
    const RAW: bool = false;
    #[inline(always)]
    unsafe fn load<S: Halves, const FULL: bool>(from: *const u16, some: usize) -> S {
        // SAFETY: promised by the caller of `run`.
        unsafe { if FULL { S::load_half(from) } else { S::load_half_first(from, some) } }
    }
}

/// An f32 that is rounded to bf16 as it is read.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct Unrounded(f32);

impl Element for Unrounded {
    const RAW: bool = false;
    #[inline(always)]
    unsafe fn load<S: Halves, const FULL: bool>(from: *const Unrounded, some: usize) -> S {
        // SAFETY: promised by the caller of `run`; the type is an f32 in memory.
        unsafe { <f32 as Element>::load::<S, FULL>(from.cast(), some).rounded() }
    }
}

/// Results of a pass: f32, f32 that are rounded to bf16, and bf16.
const FLOATS: u8 = 0;
const ROUNDED: u8 = 1;
const HALVES: u8 = 2;

/// Elements between which memory is asked for: a line of bf16, two of f32.
const RUN: usize = 32;

/// The whole runs of a period, pairs of vectors at a time, to a result of one type, of which nothing is known only when it
/// runs; returns how many elements those are. TO says what they become; PAST where they go past the caches. Memory is asked
/// for where operands and result are of one type.
#[inline(always)]
unsafe fn runs<S: Halves, A: Apply, X: Element, Y: Element, const TO: u8, const PAST: bool>(
    op: A,
    a: *const X,
    b: *const Y,
    p: &Ports,
    (start, len): (usize, usize),
) -> usize {
    let size = if TO == HALVES { 2 } else { 4 };
    let [one, two, out] = p.next;
    let asks = one != 0 && X::RAW == (TO != HALVES);
    let mut i = 0;
    while i + RUN <= len {
        if asks {
            let mut line = 0;
            while line < RUN * size {
                let at = (start + i) * size + line;
                ask(one.wrapping_add(at));
                if A::TWO {
                    ask(two.wrapping_add(at));
                }
                if !PAST {
                    ask(out.wrapping_add(at));
                }
                line += LINE;
            }
        }
        let end = i + RUN;
        while i < end {
            // SAFETY: the elements of a period, or of all, are there.
            unsafe { pair::<S, A, X, Y, TO, PAST>(op, a, b, p, (start + i, i)) };
            i += 2 * S::LANES;
        }
    }
    i
}

/// Two whole vectors: (where, where in the period).
#[inline(always)]
unsafe fn pair<S: Halves, A: Apply, X: Element, Y: Element, const TO: u8, const PAST: bool>(
    op: A,
    a: *const X,
    b: *const Y,
    p: &Ports,
    (at, i): (usize, usize),
) {
    let (lanes, behind) = (S::LANES, at + S::LANES);
    // SAFETY: promised by the caller of `run`. All is read before anything is written, as a result may lie on an operand.
    unsafe {
        let a = [X::load::<S, true>(a.add(at), lanes), X::load::<S, true>(a.add(behind), lanes)];
        let b = match A::TWO {
            true => [Y::load::<S, true>(b.add(at), lanes), Y::load::<S, true>(b.add(behind), lanes)],
            false => a,
        };
        let low = op.apply::<S, true>(i, lanes, a[0], b[0]);
        let high = op.apply::<S, true>(i + lanes, lanes, a[1], b[1]);
        if TO == HALVES && A::KEEPS && !X::RAW {
            S::store_pair::<true, PAST>([low, high], p.halves.add(at));
        } else if TO == HALVES {
            S::store_pair::<false, PAST>([low, high], p.halves.add(at));
        } else if PAST {
            low.stream(p.floats.add(at));
            high.stream(p.floats.add(behind));
        } else {
            let [low, high] = if TO == ROUNDED { [low.rounded(), high.rounded()] } else { [low, high] };
            low.store(p.floats.add(at));
            high.store(p.floats.add(behind));
        }
    }
}

/// One vector: (where, where in the period, lanes that count).
#[inline(always)]
unsafe fn vector<S: Halves, A: Apply, const FULL: bool>(
    op: A,
    p: &Ports,
    (at, i, some): (usize, usize, usize),
) {
    // SAFETY: promised by the caller of `run`. All is read before anything is written, as a result may lie on an operand.
    unsafe {
        let a = p.src[0].load::<S, FULL>(at, some);
        let b = if A::TWO { p.src[1].load::<S, FULL>(at, some) } else { a };
        let y = op.apply::<S, FULL>(i, some, a, b);
        if !p.halves.is_null() {
            let to = p.halves.add(at);
            match FULL {
                true if p.past => y.stream_half(to),
                true => y.store_half(to),
                false => y.store_half_first(to, some),
            }
        }
        if !p.floats.is_null() {
            let y = if p.round { y.rounded() } else { y };
            let to = p.floats.add(at);
            match FULL {
                true if p.past && p.halves.is_null() => y.stream(to),
                true => y.store(to),
                false => y.store_first(to, some),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Arith, Port, Ports, run};
    use crate::half_vector::settle;
    use crate::simd::Level;

    /// More than any run and what begins or ends it.
    const N: usize = 200;

    #[repr(align(64))]
    struct Place<T>([T; N]);

    /// A pass over some elements from `first` on, whose result begins at `to`: what it leaves of memory.
    fn pass<T: Copy>(
        level: Level,
        arith: Arith<'_>,
        src: [Port; 2],
        result: impl Fn(&mut Place<T>) -> (*mut f32, *mut u16),
        nothing: T,
        (n, past): (usize, bool),
    ) -> [T; N] {
        let mut out = Place([nothing; N]);
        let (floats, halves) = result(&mut out);
        // SAFETY: operands and result have that many elements, apart from each other.
        unsafe { run(level, arith, Ports { n, src, floats, round: false, halves, past, next: [0; 3] }) };
        settle();
        out.0
    }

    #[test]
    fn a_result_past_the_caches_is_the_result() {
        let halves = Place(std::array::from_fn(|i| (i * 2617 + 0x7f70) as u16));
        let floats = Place(std::array::from_fn(|i| (i as f32 - 90.5) * 0.37));
        for level in Level::available() {
            for (from, to) in [(0, 0), (0, 1), (1, 0), (1, 1), (2, 6), (3, 16), (16, 3)] {
                for n in [0, 1, 7, 15, 16, 31, 32, 33, 63, 64, 65, 100, 160] {
                    let what = format!("{} {from} {to} {n}", level.name());
                    let (half, float) = (&halves.0[from..], &floats.0[from..]);
                    let to_halves = |out: &mut Place<u16>| (std::ptr::null_mut(), out.0[to..].as_mut_ptr());
                    let to_floats = |out: &mut Place<f32>| (out.0[to..].as_mut_ptr(), std::ptr::null_mut());
                    let half_port = [Port::Halves(half.as_ptr()); 2];
                    let float_port = [Port::Floats(float.as_ptr()); 2];
                    for past in [false, true] {
                        // Bit for bit, what is no number too.
                        let mut wanted = [0x5555u16; N];
                        wanted[to..to + n].copy_from_slice(&half[..n]);
                        let found = pass(level, Arith::Copy, half_port, to_halves, 0x5555, (n, past));
                        assert_eq!(found, wanted, "copy {what} {past}");
                        let mut wanted = [-1.0f32; N];
                        for (wanted, x) in wanted[to..to + n].iter_mut().zip(float) {
                            *wanted = x + x;
                        }
                        let found = pass(level, Arith::Add, float_port, to_floats, -1.0, (n, past));
                        assert_eq!(found, wanted, "add {what} {past}");
                        let mut wanted = [0x5555u16; N];
                        for (wanted, &x) in wanted[to..to + n].iter_mut().zip(half) {
                            *wanted = if f32::from_bits(u32::from(x) << 16) < 0.0 { 0 } else { x };
                        }
                        let mut found = pass(level, Arith::Relu, half_port, to_halves, 0x5555, (n, past));
                        for (found, wanted) in found.iter_mut().zip(wanted) {
                            // Below the least normal number a level may give zero, and no number is any bits of one.
                            let tiny = |x: u16| x & 0x7f80 == 0;
                            let nan = |x: u16| x & 0x7fff > 0x7f80;
                            if tiny(*found) && tiny(wanted) || nan(*found) && nan(wanted) {
                                *found = wanted;
                            }
                        }
                        assert_eq!(found, wanted, "relu {what} {past}");
                    }
                }
            }
        }
    }
}
