//! f16 and bf16, alone and in pairs. Operations of one and two operands are computed in f64, where sums, products and
//! quotients of such numbers are exact or far enough from a tie of the result's 8 or 11 digits, and rounded once; a fused
//! product and sum is computed exactly, because a product alone can be a tie that a tiny addend decides.

use super::exact::{self, Format};
use super::float;
use crate::inst::{Binary, Float, Round, Type, Unary};

/// The value of an element, exact.
pub(super) fn value(ty: Type, bits: u64) -> f64 {
    match ty {
        Type::Bf16 | Type::Bf16x2 => f64::from(f32::from_bits((bits as u32) << 16)),
        Type::F16 | Type::F16x2 => {
            let sign = if bits & 0x8000 != 0 { -1.0 } else { 1.0 };
            let fraction = (bits & 0x3ff) as f64;
            let magnitude = match bits >> 10 & 31 {
                0 => fraction / f64::from(1 << 24),
                31 if fraction == 0.0 => f64::INFINITY,
                31 => f64::NAN,
                // 2^(exponent − 15) × (1024 + fraction) / 1024, the power written as bits.
                exponent => f64::from_bits((exponent + 1023 - 15) << 52) * (1024.0 + fraction) / 1024.0,
            };
            sign * magnitude
        }
        Type::F64 => f64::from_bits(bits),
        _ => f64::from(f32::from_bits(bits as u32)),
    }
}

/// Rounds to an element.
pub(super) fn narrow(format: Format, value: f64, round: Round) -> u64 {
    match exact::format(Type::F64) {
        Some(double) => format.pack(double.unpack(value.to_bits()), round),
        None => format.nan,
    }
}

fn is_f16(ty: Type) -> bool {
    matches!(ty, Type::F16 | Type::F16x2)
}

/// `.ftz` of an operand or result, which only f16 has.
fn flush(ty: Type, ftz: bool, bits: u64) -> u64 {
    if ftz && is_f16(ty) && bits & 0x7c00 == 0 || ftz && !is_f16(ty) && bits & 0x7f80 == 0 {
        bits & 0x8000
    } else {
        bits
    }
}

fn finish(ty: Type, float: Float, relu: bool, bits: u64) -> u64 {
    let bits = flush(ty, float.ftz, bits);
    let x = value(ty, bits);
    if float.sat {
        let one = if is_f16(ty) { 0x3c00 } else { 0x3f80 };
        // NaN and −0 give +0.
        return if x >= 1.0 {
            one
        } else if x > 0.0 {
            bits
        } else {
            0
        };
    }
    if relu && !x.is_nan() && bits & 0x8000 != 0 { 0 } else { bits }
}

/// One operand; `None` for operations that there are not.
pub(super) fn unary(op: Unary, ty: Type, float: Float, a: u64) -> Option<u64> {
    let format = exact::format(ty)?;
    let a = flush(ty, float.ftz, a);
    Some(match op {
        Unary::Neg => a ^ 0x8000,
        Unary::Abs => a & 0x7fff,
        _ => {
            let result = narrow(format, float::approximate(op)?(value(ty, a)), Round::Rn);
            finish(ty, float, false, result)
        }
    })
}

/// Two operands; `None` for operations that there are not.
pub(super) fn binary(op: Binary, ty: Type, float: Float, a: u64, b: u64) -> Option<u64> {
    let format = exact::format(ty)?;
    let (a, b) = (flush(ty, float.ftz, a), flush(ty, float.ftz, b));
    let (x, y) = (value(ty, a), value(ty, b));
    let result = match op {
        Binary::Add => narrow(format, x + y, float.round),
        Binary::Sub => narrow(format, x - y, float.round),
        Binary::MulLo => narrow(format, x * y, float.round),
        Binary::Min { nan } => {
            narrow(format, f64::from_bits(float::minimum64(x.to_bits(), y.to_bits(), nan)), Round::Rn)
        }
        Binary::Max { nan } => {
            narrow(format, -f64::from_bits(float::minimum64((-x).to_bits(), (-y).to_bits(), nan)), Round::Rn)
        }
        Binary::CopySign => return Some(a & 0x8000 | b & 0x7fff),
        _ => return None,
    };
    Some(finish(ty, float, false, result))
}

/// a × b + c, rounded once.
pub(super) fn fma(ty: Type, float: Float, relu: bool, a: u64, b: u64, c: u64) -> u64 {
    let [a, b, c] = [a, b, c].map(|bits| flush(ty, float.ftz, bits));
    finish(ty, float, relu, float::exact_fma(ty, float.round, a, b, c))
}

/// Applies an operation to both halves of a pair.
pub(super) fn halves<const N: usize>(
    pairs: [u64; N],
    mut f: impl FnMut([u64; N]) -> Option<u64>,
) -> Option<u64> {
    let low = f(pairs.map(|pair| pair & 0xffff))?;
    let high = f(pairs.map(|pair| pair >> 16 & 0xffff))?;
    Some(high << 16 | low)
}
