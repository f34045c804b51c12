//! Floating-point numbers of any format in exact arithmetic: whole numbers of any size times a power of two, rounded
//! once at the end. Slow and plain, so that it can be checked by reading.

use std::cmp::Ordering;

/// A whole number: limbs of 32 bits, the lowest first, none of them zero at the top.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Whole(Vec<u32>);

impl Whole {
    pub fn new(mut value: u128) -> Whole {
        let mut limbs = Vec::new();
        while value != 0 {
            limbs.push(value as u32);
            value >>= 32;
        }
        Whole(limbs)
    }

    fn trimmed(mut limbs: Vec<u32>) -> Whole {
        while limbs.last() == Some(&0) {
            limbs.pop();
        }
        Whole(limbs)
    }

    pub fn is_zero(&self) -> bool {
        self.0.is_empty()
    }

    /// How many bits up to the highest that is set.
    pub fn length(&self) -> i64 {
        self.0.last().map_or(0, |top| self.0.len() as i64 * 32 - i64::from(top.leading_zeros()))
    }

    pub fn bit(&self, at: i64) -> bool {
        let limb = self.0.get((at / 32) as usize);
        at >= 0 && limb.is_some_and(|limb| limb >> (at % 32) & 1 == 1)
    }

    fn any_below(&self, at: i64) -> bool {
        (0..at.max(0)).any(|i| self.bit(i))
    }

    pub fn shifted(&self, left: i64) -> Whole {
        let length = self.length() + left;
        let mut limbs = vec![0u32; (length.max(0) as usize).div_ceil(32)];
        for at in 0..length.max(0) {
            limbs[(at / 32) as usize] |= u32::from(self.bit(at - left)) << (at % 32);
        }
        Whole::trimmed(limbs)
    }

    pub fn plus(&self, other: &Whole) -> Whole {
        let (mut limbs, mut carry) = (Vec::new(), 0u64);
        for i in 0..self.0.len().max(other.0.len()) + 1 {
            let digit = |w: &Whole| u64::from(w.0.get(i).copied().unwrap_or(0));
            let sum = digit(self) + digit(other) + carry;
            limbs.push(sum as u32);
            carry = sum >> 32;
        }
        Whole::trimmed(limbs)
    }

    /// What remains; `other` is not larger.
    pub fn minus(&self, other: &Whole) -> Whole {
        let (mut limbs, mut borrow) = (Vec::new(), 0i64);
        for (i, limb) in self.0.iter().enumerate() {
            let digit = i64::from(*limb) - i64::from(other.0.get(i).copied().unwrap_or(0)) - borrow;
            borrow = i64::from(digit < 0);
            limbs.push(digit as u32);
        }
        Whole::trimmed(limbs)
    }

    pub fn times(&self, other: &Whole) -> Whole {
        let mut limbs = vec![0u32; self.0.len() + other.0.len()];
        for (i, a) in self.0.iter().enumerate() {
            let mut carry = 0u64;
            for (j, b) in other.0.iter().enumerate() {
                let t = u64::from(*a) * u64::from(*b) + u64::from(limbs[i + j]) + carry;
                limbs[i + j] = t as u32;
                carry = t >> 32;
            }
            limbs[i + other.0.len()] = carry as u32;
        }
        Whole::trimmed(limbs)
    }

    pub fn compare(&self, other: &Whole) -> Ordering {
        let by_length = self.length().cmp(&other.length());
        by_length.then_with(|| self.0.iter().rev().cmp(other.0.iter().rev()))
    }

    /// The low 128 bits.
    pub fn low(&self) -> u128 {
        self.0.iter().take(4).enumerate().fold(0, |sum, (i, limb)| sum | u128::from(*limb) << (32 * i))
    }
}

/// A binary format of IEEE 754.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Format {
    pub exponent: u32,
    pub mantissa: u32,
}

pub const F16: Format = Format { exponent: 5, mantissa: 10 };
pub const BF16: Format = Format { exponent: 8, mantissa: 7 };
pub const TF32: Format = Format { exponent: 8, mantissa: 10 };
pub const F32: Format = Format { exponent: 8, mantissa: 23 };
pub const F64: Format = Format { exponent: 11, mantissa: 52 };

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Nearest,
    Away,
    Zero,
    Down,
    Up,
}

/// A value without a format: sign, and a whole number times a power of two.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Nan,
    Infinite(bool),
    Finite { negative: bool, whole: Whole, exponent: i64 },
}

use Value::{Finite, Infinite, Nan};

impl Format {
    fn bias(self) -> i64 {
        (1 << (self.exponent - 1)) - 1
    }

    fn fields(self, bits: u64) -> (bool, u64, u64) {
        let mantissa = bits & ((1 << self.mantissa) - 1);
        let exponent = bits >> self.mantissa & ((1 << self.exponent) - 1);
        (bits >> (self.mantissa + self.exponent) & 1 == 1, exponent, mantissa)
    }

    pub fn sign(self, negative: bool) -> u64 {
        u64::from(negative) << (self.mantissa + self.exponent)
    }

    pub fn infinity(self, negative: bool) -> u64 {
        self.sign(negative) | ((1 << self.exponent) - 1) << self.mantissa
    }

    pub fn is_denormal(self, bits: u64) -> bool {
        let (_, exponent, mantissa) = self.fields(bits);
        exponent == 0 && mantissa != 0
    }

    /// Zero of the sign where it is denormal.
    pub fn flushed(self, bits: u64) -> u64 {
        if self.is_denormal(bits) { self.sign(self.fields(bits).0) } else { bits }
    }

    pub fn read(self, bits: u64) -> Value {
        let (negative, exponent, mantissa) = self.fields(bits);
        if exponent == (1 << self.exponent) - 1 {
            return if mantissa == 0 { Infinite(negative) } else { Nan };
        }
        let implicit = if exponent == 0 { 0 } else { 1 << self.mantissa };
        Finite {
            negative,
            whole: Whole::new(u128::from(mantissa | implicit)),
            exponent: exponent.max(1) as i64 - self.bias() - i64::from(self.mantissa),
        }
    }

    /// The bits nearest to a value as the mode says; `None` for NaN, of which there are many.
    pub fn write(self, value: &Value, mode: Mode) -> Option<u64> {
        let (negative, whole, exponent) = match value {
            Nan => return None,
            Infinite(negative) => return Some(self.infinity(*negative)),
            Finite { negative, whole, exponent } => (*negative, whole, *exponent),
        };
        if whole.is_zero() {
            return Some(self.sign(negative));
        }
        // The place of the last bit kept: the mantissa's, but never below that of denormal numbers.
        let lowest = 1 - self.bias() - i64::from(self.mantissa);
        let last = (exponent + whole.length() - 1 - i64::from(self.mantissa)).max(lowest);
        let mut kept = round_shift(negative, whole, last - exponent, mode).low() as u64;
        let mut last = last;
        if kept >> (self.mantissa + 1) != 0 {
            kept >>= 1;
            last += 1;
        }
        let normal = kept >> self.mantissa != 0;
        let field = if normal { last + i64::from(self.mantissa) + self.bias() } else { 0 };
        if field >= (1 << self.exponent) - 1 {
            let to_infinity = match mode {
                Mode::Nearest | Mode::Away => true,
                Mode::Zero => false,
                Mode::Down => negative,
                Mode::Up => !negative,
            };
            return Some(if to_infinity { self.infinity(negative) } else { self.infinity(negative) - 1 });
        }
        Some(self.sign(negative) | (field as u64) << self.mantissa | (kept & ((1 << self.mantissa) - 1)))
    }
}

/// A whole number without its lowest `count` bits (or with zeros appended), rounded.
pub fn round_shift(negative: bool, whole: &Whole, count: i64, mode: Mode) -> Whole {
    let kept = whole.shifted(-count);
    let (half, rest) = (whole.bit(count - 1), whole.any_below(count - 1));
    let up = match mode {
        Mode::Nearest => half && (rest || kept.bit(0)),
        Mode::Away => half,
        Mode::Zero => false,
        Mode::Down => negative && (half || rest),
        Mode::Up => !negative && (half || rest),
    };
    if up { kept.plus(&Whole::new(1)) } else { kept }
}

pub fn negated(a: &Value) -> Value {
    match a {
        Nan => Nan,
        Infinite(negative) => Infinite(!negative),
        Finite { negative, whole, exponent } => {
            Finite { negative: !negative, whole: whole.clone(), exponent: *exponent }
        }
    }
}

pub fn product(a: &Value, b: &Value) -> Value {
    match (a, b) {
        (Nan, _) | (_, Nan) => Nan,
        (Infinite(_), Finite { whole, .. }) | (Finite { whole, .. }, Infinite(_)) if whole.is_zero() => Nan,
        (Infinite(m), Infinite(n) | Finite { negative: n, .. })
        | (Finite { negative: n, .. }, Infinite(m)) => Infinite(m != n),
        (Finite { negative: m, whole: a, exponent: i }, Finite { negative: n, whole: b, exponent: j }) => {
            Finite { negative: m != n, whole: a.times(b), exponent: i + j }
        }
    }
}

/// The mode decides only the sign of an exact zero.
pub fn sum(a: &Value, b: &Value, mode: Mode) -> Value {
    match (a, b) {
        (Nan, _) | (_, Nan) => Nan,
        (Infinite(m), Infinite(n)) if m != n => Nan,
        (Infinite(m), _) | (_, Infinite(m)) => Infinite(*m),
        (Finite { negative: m, whole: a, exponent: i }, Finite { negative: n, whole: b, exponent: j }) => {
            let exponent = *i.min(j);
            let (a, b) = (a.shifted(i - exponent), b.shifted(j - exponent));
            let (negative, whole) = match (m == n, a.compare(&b)) {
                (true, _) => (*m, a.plus(&b)),
                (false, Ordering::Greater) => (*m, a.minus(&b)),
                (false, Ordering::Less) => (*n, b.minus(&a)),
                (false, Ordering::Equal) => (mode == Mode::Down, Whole::new(0)),
            };
            Finite { negative, whole, exponent }
        }
    }
}

/// More bits than any format and its rounding need; what is below them is one bit that says whether there is any.
const PRECISION: i64 = 300;

pub fn quotient(a: &Value, b: &Value) -> Value {
    match (a, b) {
        (Nan, _) | (_, Nan) | (Infinite(_), Infinite(_)) => Nan,
        (Infinite(m), Finite { negative: n, .. }) => Infinite(m != n),
        (Finite { negative: m, .. }, Infinite(n)) => {
            Finite { negative: m != n, whole: Whole::new(0), exponent: 0 }
        }
        (Finite { negative: m, whole: a, exponent: i }, Finite { negative: n, whole: b, exponent: j }) => {
            if b.is_zero() {
                return if a.is_zero() { Nan } else { Infinite(m != n) };
            }
            let shift = PRECISION + b.length() - a.length();
            let (mut rest, mut whole) = (a.shifted(shift), Whole::new(0));
            for place in (0..=PRECISION + 1).rev() {
                let part = b.shifted(place);
                if rest.compare(&part) != Ordering::Less {
                    rest = rest.minus(&part);
                    whole = whole.plus(&Whole::new(1).shifted(place));
                }
            }
            let sticky = Whole::new(u128::from(!rest.is_zero()));
            Finite { negative: m != n, whole: whole.shifted(1).plus(&sticky), exponent: i - j - shift - 1 }
        }
    }
}

pub fn root(a: &Value) -> Value {
    let (negative, whole, exponent) = match a {
        Nan | Infinite(true) => return Nan,
        Infinite(false) => return Infinite(false),
        Finite { negative, whole, exponent } => (*negative, whole, *exponent),
    };
    if whole.is_zero() {
        return a.clone();
    }
    if negative {
        return Nan;
    }
    // An even exponent, and twice as many bits as the root shall have.
    let mut shift = 2 * PRECISION - whole.length();
    shift += (exponent - shift).rem_euclid(2);
    let square = whole.shifted(shift);
    let mut found = Whole::new(0);
    for place in (0..=square.length() / 2 + 1).rev() {
        let next = found.plus(&Whole::new(1).shifted(place));
        if next.times(&next).compare(&square) != Ordering::Greater {
            found = next;
        }
    }
    let sticky = Whole::new(u128::from(found.times(&found) != square));
    Finite { negative: false, whole: found.shifted(1).plus(&sticky), exponent: (exponent - shift) / 2 - 1 }
}

/// How two values compare; `None` where one is NaN.
pub fn ordering(a: &Value, b: &Value) -> Option<Ordering> {
    let difference = match (a, b) {
        (Nan, _) | (_, Nan) => return None,
        (Infinite(m), Infinite(n)) if m == n => return Some(Ordering::Equal),
        _ => sum(a, &negated(b), Mode::Nearest),
    };
    Some(match difference {
        Finite { whole, .. } if whole.is_zero() => Ordering::Equal,
        Finite { negative: true, .. } | Infinite(true) => Ordering::Less,
        _ => Ordering::Greater,
    })
}

/// The reference itself against the host's arithmetic, where the host has it.
#[test]
fn the_reference_agrees_with_the_host() {
    let patterns: Vec<u32> = (0..4000u32).map(|i| i.wrapping_mul(0x9e37_79b9) ^ i << 13).collect();
    for pair in patterns.windows(3) {
        let [a, b, c] = [pair[0], pair[1], pair[2]].map(f32::from_bits);
        let [x, y, z] = [pair[0], pair[1], pair[2]].map(|bits| F32.read(u64::from(bits)));
        let check = |what: &str, value: Value, host: f32| {
            let found = F32.write(&value, Mode::Nearest);
            let expected = if host.is_nan() { None } else { Some(u64::from(host.to_bits())) };
            assert_eq!(found, expected, "{what} of {a:e}, {b:e}, {c:e}");
        };
        check("sum", sum(&x, &y, Mode::Nearest), a + b);
        check("product", product(&x, &y), a * b);
        check("quotient", quotient(&x, &y), a / b);
        check("root", root(&x), a.sqrt());
        check("fused product and sum", sum(&product(&x, &y), &z, Mode::Nearest), a.mul_add(b, c));
        assert_eq!(ordering(&x, &y), a.partial_cmp(&b), "{a:e} and {b:e}");
        assert_eq!(
            F64.write(&x, Mode::Zero).map(f64::from_bits).unwrap_or(0.5),
            if a.is_nan() { 0.5 } else { f64::from(a) }
        );
    }
    assert_eq!(BF16.write(&F32.read(0x3f80_8000), Mode::Nearest), Some(0x3f80));
    assert_eq!(BF16.write(&F32.read(0x3f81_8000), Mode::Nearest), Some(0x3f82));
    assert_eq!(F16.write(&F32.read(0x477f_f000), Mode::Nearest), Some(0x7c00));
    assert_eq!(F16.write(&F32.read(0x477f_f000), Mode::Zero), Some(0x7bff));
}
