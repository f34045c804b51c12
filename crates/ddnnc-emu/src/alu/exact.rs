//! Floating-point numbers of any format as sign, 128-bit integer and exponent, with one rounding at the end: what the
//! host has no instruction for (directed rounding, 16-bit formats) is computed here.

use crate::inst::{Round, Type};

/// An IEEE format, stored in the low bits of a word above `padding` zeros.
#[derive(Clone, Copy, Debug)]
pub(super) struct Format {
    exponent: u32,
    mantissa: u32,
    padding: u32,
    /// What an operation gives that has no number as its result.
    pub nan: u64,
}

const F16: Format = Format { exponent: 5, mantissa: 10, padding: 0, nan: 0x7fff };
const BF16: Format = Format { exponent: 8, mantissa: 7, padding: 0, nan: 0x7fff };
const F32: Format = Format { exponent: 8, mantissa: 23, padding: 0, nan: 0x7fff_ffff };
/// A tf32 is an f32 whose low 13 bits are zero.
const TF32: Format = Format { exponent: 8, mantissa: 10, padding: 13, nan: 0x7fff_ffff };
/// The ISA names no NaN for f64; this is the one that `CUDART_NAN` names.
const F64: Format = Format { exponent: 11, mantissa: 52, padding: 0, nan: 0xfff8_0000_0000_0000 };

/// The format of a floating-point type, of one element where it is packed.
pub(super) fn format(ty: Type) -> Option<Format> {
    match ty {
        Type::F16 | Type::F16x2 => Some(F16),
        Type::Bf16 | Type::Bf16x2 => Some(BF16),
        Type::F32 => Some(F32),
        Type::Tf32 => Some(TF32),
        Type::F64 => Some(F64),
        _ => None,
    }
}

/// (−1)^negative × mantissa × 2^exponent. The lowest bit may stand for any number of lost bits that are not all zero
/// where at least 60 bits lie above it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Finite {
    pub negative: bool,
    pub mantissa: u128,
    pub exponent: i32,
}

/// A value of a format.
#[derive(Clone, Copy, Debug)]
pub(super) enum Value {
    Nan,
    Infinite { negative: bool },
    Finite(Finite),
}

use Value::{Infinite, Nan};

impl Format {
    fn bias(self) -> i32 {
        (1 << (self.exponent - 1)) - 1
    }

    fn sign(self, negative: bool) -> u64 {
        u64::from(negative) << (self.exponent + self.mantissa)
    }

    fn infinity(self) -> u64 {
        ((1 << self.exponent) - 1) << self.mantissa
    }

    /// Reads bits.
    pub fn unpack(self, bits: u64) -> Value {
        let bits = bits >> self.padding;
        let negative = bits >> (self.exponent + self.mantissa) & 1 != 0;
        let fraction = bits & ((1 << self.mantissa) - 1);
        let biased = (bits >> self.mantissa & ((1 << self.exponent) - 1)) as i32;
        if biased == (1 << self.exponent) - 1 {
            return if fraction == 0 { Infinite { negative } } else { Nan };
        }
        let hidden = if biased == 0 { 0 } else { 1 << self.mantissa };
        Value::Finite(Finite {
            negative,
            mantissa: u128::from(hidden | fraction),
            exponent: biased.max(1) - self.bias() - self.mantissa as i32,
        })
    }

    /// The bits of a value rounded to this format.
    pub fn pack(self, value: Value, round: Round) -> u64 {
        match value {
            Nan => self.nan,
            Infinite { negative } => (self.sign(negative) | self.infinity()) << self.padding,
            Value::Finite(number) => {
                (self.sign(number.negative) | self.magnitude(number, round)) << self.padding
            }
        }
    }

    fn magnitude(self, number: Finite, round: Round) -> u64 {
        let Finite { negative, mantissa, exponent } = number;
        if mantissa == 0 {
            return 0;
        }
        let digits = self.mantissa as i32;
        let top = 127 - mantissa.leading_zeros() as i32 + exponent;
        // Exponent of the last place that the result has.
        let mut last = top.max(1 - self.bias()) - digits;
        let shift = last - exponent;
        let (mut kept, rest, half) = match shift {
            ..=0 => ((mantissa << -shift) as u64, 0, 1),
            1..=127 => ((mantissa >> shift) as u64, mantissa & ((1 << shift) - 1), 1 << (shift - 1)),
            _ => (0, 1, 2),
        };
        let up = match round {
            Round::Rn => rest > half || rest == half && kept & 1 != 0,
            Round::Rna => rest >= half,
            Round::Rz => false,
            Round::Rm => negative && rest != 0,
            Round::Rp => !negative && rest != 0,
        };
        kept += u64::from(up);
        if kept >> (self.mantissa + 1) != 0 {
            kept >>= 1;
            last += 1;
        }
        if kept >> self.mantissa == 0 {
            return kept;
        }
        let biased = last + digits + self.bias();
        if biased >= (1 << self.exponent) - 1 {
            let to_infinity = match round {
                Round::Rn | Round::Rna => true,
                Round::Rz => false,
                Round::Rm => negative,
                Round::Rp => !negative,
            };
            return self.infinity() - u64::from(!to_infinity);
        }
        (biased as u64) << self.mantissa | kept & ((1 << self.mantissa) - 1)
    }
}

/// An integer as a value.
pub(super) fn integer(value: i128) -> Value {
    Value::Finite(Finite { negative: value < 0, mantissa: value.unsigned_abs(), exponent: 0 })
}

/// Moves the highest bit to place 125.
fn normal(x: Finite) -> Finite {
    let up = x.mantissa.leading_zeros() as i32 - 2;
    let mantissa = if up >= 0 { x.mantissa << up } else { x.mantissa >> -up };
    Finite { mantissa, exponent: x.exponent - up, ..x }
}

/// x + y. `round` decides the sign of an exact zero only.
pub(super) fn add(x: Value, y: Value, round: Round) -> Value {
    let (x, y) = match (x, y) {
        (Nan, _) | (_, Nan) => return Nan,
        (Infinite { negative: a }, Infinite { negative: b }) => return if a == b { x } else { Nan },
        (Infinite { .. }, _) => return x,
        (_, Infinite { .. }) => return y,
        (Value::Finite(x), Value::Finite(y)) => (x, y),
    };
    let zero = Finite { negative: round == Round::Rm, mantissa: 0, exponent: 0 };
    let sum = match (x.mantissa, y.mantissa) {
        (0, 0) if x.negative == y.negative => x,
        (0, 0) => zero,
        (0, _) => y,
        (_, 0) => x,
        _ => {
            let (x, y) = (normal(x), normal(y));
            let (large, small) =
                if (x.exponent, x.mantissa) >= (y.exponent, y.mantissa) { (x, y) } else { (y, x) };
            let shift = (large.exponent - small.exponent).min(127);
            // Of factors and addends of at most 106 bits nothing is lost below a shift of 20, and above it
            // cancellation costs one bit at most, so the bit that stands for what is lost stays far from the rounding.
            let lost = small.mantissa & ((1 << shift) - 1) != 0;
            let aligned = small.mantissa >> shift | u128::from(lost);
            let mantissa = if large.negative == small.negative {
                large.mantissa + aligned
            } else {
                large.mantissa - aligned
            };
            if mantissa == 0 { zero } else { Finite { mantissa, ..large } }
        }
    };
    Value::Finite(sum)
}

/// x × y, exact.
pub(super) fn multiply(x: Value, y: Value) -> Value {
    let sign = |v: Value| match v {
        Nan => false,
        Infinite { negative } | Value::Finite(Finite { negative, .. }) => negative,
    };
    let negative = sign(x) != sign(y);
    match (x, y) {
        (Nan, _) | (_, Nan) => Nan,
        (Infinite { .. }, Value::Finite(f)) | (Value::Finite(f), Infinite { .. }) if f.mantissa == 0 => Nan,
        (Infinite { .. }, _) | (_, Infinite { .. }) => Infinite { negative },
        (Value::Finite(x), Value::Finite(y)) => Value::Finite(Finite {
            negative,
            mantissa: x.mantissa * y.mantissa,
            exponent: x.exponent + y.exponent,
        }),
    }
}

/// x / y.
pub(super) fn divide(x: Value, y: Value) -> Value {
    match (x, y) {
        (Nan, _) | (_, Nan) | (Infinite { .. }, Infinite { .. }) => Nan,
        (Infinite { negative }, Value::Finite(y)) => Infinite { negative: negative != y.negative },
        (Value::Finite(x), Infinite { negative }) => {
            Value::Finite(Finite { negative: negative != x.negative, mantissa: 0, exponent: 0 })
        }
        (Value::Finite(x), Value::Finite(y)) => {
            let negative = x.negative != y.negative;
            match (x.mantissa, y.mantissa) {
                (0, 0) => Nan,
                (_, 0) => Infinite { negative },
                (0, _) => Value::Finite(Finite { negative, mantissa: 0, exponent: 0 }),
                _ => {
                    let x = normal(x);
                    let (quotient, rest) = (x.mantissa / y.mantissa, x.mantissa % y.mantissa);
                    let mantissa = quotient | u128::from(rest != 0);
                    Value::Finite(Finite { negative, mantissa, exponent: x.exponent - y.exponent })
                }
            }
        }
    }
}

/// √x.
pub(super) fn square_root(x: Value) -> Value {
    match x {
        Value::Finite(f) if f.mantissa == 0 => x,
        Infinite { negative: false } => x,
        Value::Finite(f) if !f.negative => {
            let f = normal(f);
            // An odd exponent lends one bit to the number below the root.
            let odd = f.exponent & 1;
            let square = f.mantissa << odd;
            let root = square.isqrt();
            let mantissa = root | u128::from(root * root != square);
            Value::Finite(Finite { negative: false, mantissa, exponent: (f.exponent - odd) / 2 })
        }
        _ => Nan,
    }
}
