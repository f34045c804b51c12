//! `cvt`: numbers of one type as those of another.

use super::exact::{self, Value};
use super::float::{finish32, flush, flush_all};
use super::half;
use super::integer::extend;
use super::lanes::{map, vectorised};
use crate::inst::{Round, Type};
use crate::registers::LANES;

/// A conversion with its modifiers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Conversion {
    pub to: Type,
    pub from: Type,
    pub round: Round,
    pub ftz: bool,
    pub sat: bool,
    pub relu: bool,
    /// To an integer in the same floating-point type.
    pub integer: bool,
}

/// The bits of the result, extended to 64 by the sign of a signed type.
pub(super) fn convert(how: Conversion, a: &[u64; LANES], out: &mut [u64; LANES]) {
    match (how.to.is_float(), how.from.is_float()) {
        (false, false) => between_integers(how, a, out),
        (true, false) => map(a, out, |bits| from_integer(how, bits)),
        (false, true) => map(a, out, |bits| to_integer(how, bits)),
        (true, true) => map(a, out, |bits| between_floats(how, bits)),
    }
}

/// The most frequent conversions of one 32-bit register to another, many lanes at once; false for all others.
pub(super) fn convert32(how: Conversion, a: &[u32; LANES], out: &mut [u32; LANES]) -> bool {
    let Conversion { to, from, round, ftz, sat, relu, integer } = how;
    match (to, from, round) {
        (Type::F32, Type::S32, Round::Rn) if !sat => signed_to_float(a, out),
        (Type::F32, Type::U32, Round::Rn) if !sat => unsigned_to_float(a, out),
        // `as` truncates, clamps, and makes 0 of NaN, as the ISA has it for f32.
        (Type::S32, Type::F32, Round::Rz) => float_to_signed(a, out),
        (Type::U32, Type::F32, Round::Rz) => float_to_unsigned(a, out),
        (Type::F32, Type::F32, _) if !relu => {
            float_to_float(integer.then_some(round), ftz, a, out);
            finish32(ftz, sat, out);
        }
        _ => return false,
    }
    true
}

vectorised! {
    fn signed_to_float(a: &[u32; LANES], out: &mut [u32; LANES]) {
        map(a, out, |x| (x as i32 as f32).to_bits());
    }
}
vectorised! {
    fn unsigned_to_float(a: &[u32; LANES], out: &mut [u32; LANES]) {
        map(a, out, |x| (x as f32).to_bits());
    }
}
vectorised! {
    fn float_to_signed(a: &[u32; LANES], out: &mut [u32; LANES]) {
        map(a, out, |x| f32::from_bits(x) as i32 as u32);
    }
}
vectorised! {
    fn float_to_unsigned(a: &[u32; LANES], out: &mut [u32; LANES]) {
        map(a, out, |x| f32::from_bits(x) as u32);
    }
}
vectorised! {
    fn float_to_float(integer: Option<Round>, ftz: bool, a: &[u32; LANES], out: &mut [u32; LANES]) {
        let mut a = *a;
        flush_all(ftz, &mut a);
        match integer {
            None => *out = a,
            Some(Round::Rn | Round::Rna) => map(&a, out, |x| f32::from_bits(x).round_ties_even().to_bits()),
            Some(Round::Rz) => map(&a, out, |x| f32::from_bits(x).trunc().to_bits()),
            Some(Round::Rm) => map(&a, out, |x| f32::from_bits(x).floor().to_bits()),
            Some(Round::Rp) => map(&a, out, |x| f32::from_bits(x).ceil().to_bits()),
        }
    }
}

vectorised! {
    /// f32 to bf16, to the nearest, ties to even.
    pub(super) fn to_bf16(a: &[u32; LANES], out: &mut [u16; LANES]) {
        map(a, out, |x| {
            // A carry out of the fraction goes into the exponent, at the end of the range to infinity.
            let rounded = x.wrapping_add(0x7fff + (x >> 16 & 1)) >> 16;
            if f32::from_bits(x).is_nan() { 0x7fff } else { rounded as u16 }
        });
    }
}

vectorised! {
    /// bf16 to f32.
    pub(super) fn from_bf16(a: &[u16; LANES], out: &mut [u32; LANES]) {
        map(a, out, |x| {
            let bits = u32::from(x) << 16;
            if f32::from_bits(bits).is_nan() { 0x7fff_ffff } else { bits }
        });
    }
}

fn between_integers(how: Conversion, a: &[u64; LANES], out: &mut [u64; LANES]) {
    let (from, to) = (how.from.bits(), how.to.bits());
    let (from_signed, to_signed) = (how.from.is_signed(), how.to.is_signed());
    if !how.sat {
        return map(a, out, |bits| extend(extend(bits, from, from_signed), to, to_signed));
    }
    map(a, out, |bits| {
        let value = extend(bits, from, from_signed);
        let value = if from_signed { i128::from(value as i64) } else { i128::from(value) };
        clamp(how.to, value)
    });
}

/// The nearest integer of a type, extended to 64 bits.
fn clamp(to: Type, value: i128) -> u64 {
    let bits = to.bits();
    let (low, high) = if to.is_signed() {
        (-(1i128 << (bits - 1)), (1i128 << (bits - 1)) - 1)
    } else {
        (0, (1i128 << bits) - 1)
    };
    value.clamp(low, high) as u64
}

fn from_integer(how: Conversion, bits: u64) -> u64 {
    let Some(format) = exact::format(how.to) else { return 0 };
    let value = extend(bits, how.from.bits(), how.from.is_signed());
    let value = if how.from.is_signed() { i128::from(value as i64) } else { i128::from(value) };
    saturate(how, format.pack(exact::integer(value), how.round))
}

fn to_integer(how: Conversion, bits: u64) -> u64 {
    let mask = u64::MAX >> (64 - how.from.bits());
    let bits = if how.ftz && how.from == Type::F32 { u64::from(flush(bits as u32)) } else { bits & mask };
    let value = half::value(how.from, bits);
    if value.is_nan() {
        // PTX ISA 9.0, `cvt`: zero, but the highest bit where a type has 64 bits.
        let wide = how.from == Type::F64 || how.to.bits() == 64;
        let highest = 1u64 << (how.to.bits() - 1);
        return if wide { extend(highest, how.to.bits(), how.to.is_signed()) } else { 0 };
    }
    let whole = match how.round {
        Round::Rn | Round::Rna => value.round_ties_even(),
        Round::Rz => value.trunc(),
        Round::Rm => value.floor(),
        Round::Rp => value.ceil(),
    };
    clamp(how.to, whole as i128)
}

fn between_floats(how: Conversion, bits: u64) -> u64 {
    let (Some(from), Some(to)) = (exact::format(how.from), exact::format(how.to)) else { return 0 };
    let bits = bits & (u64::MAX >> (64 - how.from.bits()));
    let bits = if how.ftz && how.from == Type::F32 { u64::from(flush(bits as u32)) } else { bits };
    let result = match (how.to, how.from, how.round) {
        (Type::F32, Type::F64, Round::Rn) if !f64::from_bits(bits).is_nan() => {
            u64::from((f64::from_bits(bits) as f32).to_bits())
        }
        _ if how.integer => {
            let x = half::value(how.from, bits);
            let whole = match how.round {
                Round::Rn | Round::Rna => x.round_ties_even(),
                Round::Rz => x.trunc(),
                Round::Rm => x.floor(),
                Round::Rp => x.ceil(),
            };
            half::narrow(to, whole, Round::Rn)
        }
        _ => to.pack(from.unpack(bits), how.round),
    };
    let result = if how.ftz && how.to == Type::F32 { u64::from(flush(result as u32)) } else { result };
    saturate(how, result)
}

/// `.sat` and `.relu` on the bits of a result.
fn saturate(how: Conversion, bits: u64) -> u64 {
    let Some(format) = exact::format(how.to) else { return bits };
    match format.unpack(bits) {
        Value::Nan => {
            if how.sat {
                0
            } else {
                bits
            }
        }
        value => {
            let x = match value {
                Value::Infinite { negative } => {
                    if negative {
                        f64::NEG_INFINITY
                    } else {
                        f64::INFINITY
                    }
                }
                _ => half::value(how.to, bits),
            };
            match (how.sat, how.relu) {
                (true, _) if x >= 1.0 => format.pack(exact::integer(1), Round::Rn),
                // −0 gives +0.
                (true, _) if x <= 0.0 => 0,
                (_, true) if x <= 0.0 => 0,
                _ => bits,
            }
        }
    }
}

/// `cvt` of two f32 into the halves of a register.
pub(super) fn pack(how: Conversion, high: &[u32; LANES], low: &[u32; LANES], out: &mut [u32; LANES]) {
    if how.to == Type::Bf16x2 && how.round == Round::Rn && !how.relu && !how.sat {
        let (mut upper, mut lower) = ([0; LANES], [0; LANES]);
        to_bf16(high, &mut upper);
        to_bf16(low, &mut lower);
        for lane in 0..LANES {
            out[lane] = u32::from(upper[lane]) << 16 | u32::from(lower[lane]);
        }
        return;
    }
    for lane in 0..LANES {
        let [high, low] = [high, low].map(|source| between_floats(how, u64::from(source[lane])) as u32);
        out[lane] = high << 16 | low & 0xffff;
    }
}
