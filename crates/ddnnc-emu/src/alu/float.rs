//! f32 and f64. Rounding to nearest is the host's; directed rounding goes through [`exact`]. A result that is not a
//! number is the canonical NaN. `.approx` promises no bits: reciprocals, quotients (`div.full`
//! too) and roots are the correctly rounded ones, other functions are computed in f64 and rounded once.

use super::exact::{self, Value};
use super::lanes::{map, map2, map3, vectorised};
use crate::inst::{Binary, Float, Round, Ternary, Type, Unary};
use crate::registers::LANES;

const NAN32: u32 = 0x7fff_ffff;
const NAN64: u64 = 0xfff8_0000_0000_0000;
const SIGN32: u32 = 1 << 31;
const SIGN64: u64 = 1 << 63;

/// A denormal becomes zero of its sign.
#[inline(always)]
pub(super) fn flush(bits: u32) -> u32 {
    if bits & 0x7f80_0000 == 0 { bits & SIGN32 } else { bits }
}

/// Applies `.ftz` to an operand.
#[inline(always)]
pub(super) fn flush_all(on: bool, values: &mut [u32; LANES]) {
    if on {
        for bits in values {
            *bits = flush(*bits);
        }
    }
}

/// NaNs become canonical, then `.ftz` and `.sat` apply.
#[inline(always)]
pub(super) fn finish32(ftz: bool, sat: bool, values: &mut [u32; LANES]) {
    for bits in values.iter_mut() {
        *bits = if f32::from_bits(*bits).is_nan() { NAN32 } else { *bits };
    }
    flush_all(ftz, values);
    if sat {
        for bits in values {
            *bits = saturate32(*bits);
        }
    }
}

#[inline(always)]
fn saturate32(bits: u32) -> u32 {
    let x = f32::from_bits(bits);
    // NaN and −0 give +0.
    if x > 0.0 { x.min(1.0).to_bits() } else { 0 }
}

#[inline(always)]
fn finish64(sat: bool, values: &mut [u64; LANES]) {
    for bits in values.iter_mut() {
        *bits = if f64::from_bits(*bits).is_nan() { NAN64 } else { *bits };
        if sat {
            let x = f64::from_bits(*bits);
            *bits = if x > 0.0 { x.min(1.0).to_bits() } else { 0 };
        }
    }
}

macro_rules! minimum {
    ($name:ident, $float:ty, $bits:ty) => {
        /// The smaller value, −0 before +0; with `.NaN` a NaN wins, without it the other operand does.
        #[inline(always)]
        pub(super) fn $name(x: $bits, y: $bits, nan: bool) -> $bits {
            let (a, b) = (<$float>::from_bits(x), <$float>::from_bits(y));
            let smaller = if a < b || a == b && x > y { x } else { y };
            let first = if nan { a.is_nan() } else { b.is_nan() };
            let second = if nan { b.is_nan() } else { a.is_nan() };
            if first {
                x
            } else if second {
                y
            } else {
                smaller
            }
        }
    };
}
minimum!(minimum32, f32, u32);
minimum!(minimum64, f64, u64);

/// The larger value, as minus the smaller one of the negated ones.
#[inline(always)]
pub(super) fn maximum32(x: u32, y: u32, nan: bool) -> u32 {
    minimum32(x ^ SIGN32, y ^ SIGN32, nan) ^ SIGN32
}

#[inline(always)]
fn maximum64(x: u64, y: u64, nan: bool) -> u64 {
    minimum64(x ^ SIGN64, y ^ SIGN64, nan) ^ SIGN64
}

#[inline(always)]
fn lift32(f: impl Fn(f32, f32) -> f32) -> impl Fn(u32, u32) -> u32 {
    move |x, y| f(f32::from_bits(x), f32::from_bits(y)).to_bits()
}

#[inline(always)]
fn lift64(f: impl Fn(f64, f64) -> f64) -> impl Fn(u64, u64) -> u64 {
    move |x, y| f(f64::from_bits(x), f64::from_bits(y)).to_bits()
}

vectorised! {
    /// Two operands of type f32; false for operations that there are not.
    pub(super) fn binary32(
        op: Binary, float: Float, a: &[u32; LANES], b: &[u32; LANES], out: &mut [u32; LANES],
    ) -> bool {
        let (mut flushed_a, mut flushed_b);
        let (mut a, mut b) = (a, b);
        if float.ftz {
            (flushed_a, flushed_b) = (*a, *b);
            flush_all(true, &mut flushed_a);
            flush_all(true, &mut flushed_b);
            (a, b) = (&flushed_a, &flushed_b);
        }
        if float.round != Round::Rn {
            return directed(op, Type::F32, float, &a.map(u64::from), &b.map(u64::from), |lane, bits| {
                out[lane] = bits as u32;
            }) && { finish32(float.ftz, float.sat, out); true };
        }
        match op {
            Binary::Add => map2(a, b, out, lift32(|x, y| x + y)),
            Binary::Sub => map2(a, b, out, lift32(|x, y| x - y)),
            Binary::MulLo => map2(a, b, out, lift32(|x, y| x * y)),
            Binary::Div { .. } => map2(a, b, out, lift32(|x, y| x / y)),
            Binary::Min { nan } => map2(a, b, out, |x, y| minimum32(x, y, nan)),
            Binary::Max { nan } => map2(a, b, out, |x, y| maximum32(x, y, nan)),
            Binary::CopySign => {
                map2(a, b, out, |x, y| x & SIGN32 | y & !SIGN32);
                return true;
            }
            _ => return false,
        }
        finish32(float.ftz, float.sat, out);
        true
    }
}

vectorised! {
    /// Two operands of type f64.
    pub(super) fn binary64(
        op: Binary, float: Float, a: &[u64; LANES], b: &[u64; LANES], out: &mut [u64; LANES],
    ) -> bool {
        if float.round != Round::Rn {
            return directed(op, Type::F64, float, a, b, |lane, bits| out[lane] = bits)
                && { finish64(float.sat, out); true };
        }
        match op {
            Binary::Add => map2(a, b, out, lift64(|x, y| x + y)),
            Binary::Sub => map2(a, b, out, lift64(|x, y| x - y)),
            Binary::MulLo => map2(a, b, out, lift64(|x, y| x * y)),
            Binary::Div { .. } => map2(a, b, out, lift64(|x, y| x / y)),
            Binary::Min { nan } => map2(a, b, out, |x, y| minimum64(x, y, nan)),
            Binary::Max { nan } => map2(a, b, out, |x, y| maximum64(x, y, nan)),
            Binary::CopySign => {
                map2(a, b, out, |x, y| x & SIGN64 | y & !SIGN64);
                return true;
            }
            _ => return false,
        }
        finish64(float.sat, out);
        true
    }
}

/// Two operands with any rounding; false for operations that there are not.
fn directed(
    op: Binary,
    ty: Type,
    float: Float,
    a: &[u64; LANES],
    b: &[u64; LANES],
    mut put: impl FnMut(usize, u64),
) -> bool {
    let Some(format) = exact::format(ty) else { return false };
    for lane in 0..LANES {
        let (x, y) = (format.unpack(a[lane]), format.unpack(b[lane]));
        let Some(value) = combine(op, x, y, float.round) else { return false };
        put(lane, format.pack(value, float.round));
    }
    true
}

/// x ∘ y before rounding.
pub(super) fn combine(op: Binary, x: Value, y: Value, round: Round) -> Option<Value> {
    Some(match op {
        Binary::Add => exact::add(x, y, round),
        Binary::Sub => exact::add(x, negative(y), round),
        Binary::MulLo => exact::multiply(x, y),
        Binary::Div { .. } => exact::divide(x, y),
        _ => return None,
    })
}

fn negative(x: Value) -> Value {
    match x {
        Value::Nan => x,
        Value::Infinite { negative } => Value::Infinite { negative: !negative },
        Value::Finite(f) => Value::Finite(exact::Finite { negative: !f.negative, ..f }),
    }
}

vectorised! {
    /// a × b + c in f32, rounded once. Where the host has no such instruction `mul_add` is a function of the C library
    /// that rounds once too.
    pub(super) fn fma32(
        float: Float, a: &[u32; LANES], b: &[u32; LANES], c: &[u32; LANES], out: &mut [u32; LANES],
    ) {
        let (mut flushed_a, mut flushed_b, mut flushed_c);
        let (mut a, mut b, mut c) = (a, b, c);
        if float.ftz {
            (flushed_a, flushed_b, flushed_c) = (*a, *b, *c);
            flush_all(true, &mut flushed_a);
            flush_all(true, &mut flushed_b);
            flush_all(true, &mut flushed_c);
            (a, b, c) = (&flushed_a, &flushed_b, &flushed_c);
        }
        if float.round == Round::Rn {
            map3(a, b, c, out, |x, y, z| {
                f32::from_bits(x).mul_add(f32::from_bits(y), f32::from_bits(z)).to_bits()
            });
        } else {
            map3(a, b, c, out, |x, y, z| {
                exact_fma(Type::F32, float.round, u64::from(x), u64::from(y), u64::from(z)) as u32
            });
        }
        finish32(float.ftz, float.sat, out);
    }
}

vectorised! {
    /// a × b + c in f64, rounded once.
    pub(super) fn fma64(
        float: Float, a: &[u64; LANES], b: &[u64; LANES], c: &[u64; LANES], out: &mut [u64; LANES],
    ) {
        if float.round == Round::Rn {
            map3(a, b, c, out, |x, y, z| {
                f64::from_bits(x).mul_add(f64::from_bits(y), f64::from_bits(z)).to_bits()
            });
        } else {
            map3(a, b, c, out, |x, y, z| exact_fma(Type::F64, float.round, x, y, z));
        }
        finish64(float.sat, out);
    }
}

/// x × y + z of any format, on bits.
pub(super) fn exact_fma(ty: Type, round: Round, x: u64, y: u64, z: u64) -> u64 {
    let Some(format) = exact::format(ty) else { return 0 };
    let product = exact::multiply(format.unpack(x), format.unpack(y));
    format.pack(exact::add(product, format.unpack(z), round), round)
}

/// Whether a ternary operation is one of these.
pub(super) fn is_fma(op: Ternary) -> bool {
    matches!(op, Ternary::Fma { .. } | Ternary::MadLo)
}

vectorised! {
    /// One operand of type f32; false for operations that there are not.
    pub(super) fn unary32(op: Unary, float: Float, a: &[u32; LANES], out: &mut [u32; LANES]) -> bool {
        let mut a = *a;
        flush_all(float.ftz, &mut a);
        match op {
            Unary::Neg => {
                map(&a, out, |x| x ^ SIGN32);
                return true;
            }
            Unary::Abs => {
                map(&a, out, |x| x & !SIGN32);
                return true;
            }
            Unary::Rcp { .. } if float.round == Round::Rn => {
                map(&a, out, |x| (1.0 / f32::from_bits(x)).to_bits());
            }
            Unary::Sqrt { .. } if float.round == Round::Rn => map(&a, out, |x| f32::from_bits(x).sqrt().to_bits()),
            Unary::Rcp { .. } => *out = directed32(float.round, &a, reciprocal),
            Unary::Sqrt { .. } => *out = directed32(float.round, &a, exact::square_root),
            _ => {
                let Some(f) = approximate(op) else { return false };
                map(&a, out, |x| (f(f64::from(f32::from_bits(x))) as f32).to_bits());
            }
        }
        finish32(float.ftz, float.sat, out);
        true
    }
}

/// The function of an approximate operation.
pub(super) fn approximate(op: Unary) -> Option<fn(f64) -> f64> {
    Some(match op {
        Unary::Rcp { .. } => |x| 1.0 / x,
        Unary::Sqrt { .. } => f64::sqrt,
        Unary::RsqrtApprox => |x| 1.0 / x.sqrt(),
        Unary::Ex2Approx => f64::exp2,
        Unary::Lg2Approx => f64::log2,
        Unary::SinApprox => f64::sin,
        Unary::CosApprox => f64::cos,
        Unary::TanhApprox => f64::tanh,
        _ => return None,
    })
}

fn reciprocal(x: Value) -> Value {
    exact::divide(exact::integer(1), x)
}

fn directed32(round: Round, a: &[u32; LANES], f: fn(Value) -> Value) -> [u32; LANES] {
    rounded(Type::F32, round, &a.map(u64::from), f).map(|bits| bits as u32)
}

fn rounded(ty: Type, round: Round, a: &[u64; LANES], f: fn(Value) -> Value) -> [u64; LANES] {
    let Some(format) = exact::format(ty) else { return [0; LANES] };
    a.map(|bits| format.pack(f(format.unpack(bits)), round))
}

/// One operand of type f64.
pub(super) fn unary64(op: Unary, float: Float, a: &[u64; LANES], out: &mut [u64; LANES]) -> bool {
    match op {
        Unary::Neg => map(a, out, |x| x ^ SIGN64),
        Unary::Abs => map(a, out, |x| x & !SIGN64),
        Unary::Rcp { approx: false } => *out = rounded(Type::F64, float.round, a, reciprocal),
        Unary::Sqrt { approx: false } => *out = rounded(Type::F64, float.round, a, exact::square_root),
        // `.approx.ftz.f64` reads the upper half of its operand and writes the upper half of its result.
        Unary::Rcp { approx: true } | Unary::RsqrtApprox => {
            let Some(f) = approximate(op) else { return false };
            let half = |bits: u64| if float.ftz { bits & !0xffff_ffff } else { bits };
            let flushed = |bits: u64| if float.ftz && bits >> 52 & 0x7ff == 0 { bits & SIGN64 } else { bits };
            map(a, out, |x| {
                let y = f(f64::from_bits(flushed(half(x))));
                if y.is_nan() { NAN64 } else { half(flushed(y.to_bits())) }
            });
        }
        _ => return false,
    }
    true
}
