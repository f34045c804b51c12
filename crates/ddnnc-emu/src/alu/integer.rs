//! Integers of 16, 32 and 64 bits, bits and bit fields.

use super::lanes::{map2, map3, vectorised};
use crate::inst::{Binary, Ternary, Type, Unary};
use crate::registers::LANES;

/// The operations of one width. Division by zero gives all ones, and its remainder is the dividend: the ISA leaves both
/// open.
macro_rules! width {
    ($module:ident, $unsigned:ident, $signed:ident, $double:ident, $signed_double:ident) => {
        pub(super) mod $module {
            use super::*;

            const BITS: u32 = $unsigned::BITS;

            vectorised! {
                /// Two operands and a result of this width; false for operations that there are not. `saturate` is
                /// `.sat` of signed sums.
                pub(in crate::alu) fn binary(
                    op: Binary, signed: bool, saturate: bool,
                    a: &[$unsigned; LANES], b: &[$unsigned; LANES], out: &mut [$unsigned; LANES],
                ) -> bool {
                    match op {
                        Binary::Add if saturate => {
                            map2(a, b, out, |x, y| (x as $signed).saturating_add(y as $signed) as $unsigned)
                        }
                        Binary::Sub if saturate => {
                            map2(a, b, out, |x, y| (x as $signed).saturating_sub(y as $signed) as $unsigned)
                        }
                        Binary::Add => map2(a, b, out, |x, y| x.wrapping_add(y)),
                        Binary::Sub => map2(a, b, out, |x, y| x.wrapping_sub(y)),
                        Binary::MulLo => map2(a, b, out, |x, y| x.wrapping_mul(y)),
                        Binary::MulHi if signed => map2(a, b, out, |x, y| {
                            ((x as $signed as $signed_double * y as $signed as $signed_double) >> BITS) as $unsigned
                        }),
                        Binary::MulHi => map2(a, b, out, |x, y| ((x as $double * y as $double) >> BITS) as $unsigned),
                        Binary::Mul24Lo => map2(a, b, out, |x, y| low24(x as u64, y as u64, signed) as $unsigned),
                        Binary::Div { .. } if signed => map2(a, b, out, |x, y| match y {
                            0 => $unsigned::MAX,
                            _ => (x as $signed).wrapping_div(y as $signed) as $unsigned,
                        }),
                        Binary::Div { .. } => map2(a, b, out, |x, y| x.checked_div(y).unwrap_or($unsigned::MAX)),
                        Binary::Rem if signed => map2(a, b, out, |x, y| match y {
                            0 => x,
                            _ => (x as $signed).wrapping_rem(y as $signed) as $unsigned,
                        }),
                        Binary::Rem => map2(a, b, out, |x, y| x.checked_rem(y).unwrap_or(x)),
                        Binary::And => map2(a, b, out, |x, y| x & y),
                        Binary::Or => map2(a, b, out, |x, y| x | y),
                        Binary::Xor => map2(a, b, out, |x, y| x ^ y),
                        Binary::Min { .. } if signed => {
                            map2(a, b, out, |x, y| (x as $signed).min(y as $signed) as $unsigned)
                        }
                        Binary::Max { .. } if signed => {
                            map2(a, b, out, |x, y| (x as $signed).max(y as $signed) as $unsigned)
                        }
                        Binary::Min { .. } => map2(a, b, out, |x, y| x.min(y)),
                        Binary::Max { .. } => map2(a, b, out, |x, y| x.max(y)),
                        _ => return false,
                    }
                    true
                }
            }

            vectorised! {
                /// `shl` and `shr`: amounts beyond the width shift everything out.
                pub(in crate::alu) fn shift(
                    left: bool, signed: bool,
                    a: &[$unsigned; LANES], b: &[u32; LANES], out: &mut [$unsigned; LANES],
                ) {
                    if left {
                        map2(a, b, out, |x, n| if n < BITS { x << (n & (BITS - 1)) } else { 0 });
                    } else if signed {
                        map2(a, b, out, |x, n| ((x as $signed) >> n.min(BITS - 1)) as $unsigned);
                    } else {
                        map2(a, b, out, |x, n| if n < BITS { x >> (n & (BITS - 1)) } else { 0 });
                    }
                }
            }

            vectorised! {
                /// a × b + c, of which this is the lower or upper half.
                pub(in crate::alu) fn mad(
                    high: bool, signed: bool, a: &[$unsigned; LANES], b: &[$unsigned; LANES],
                    c: &[$unsigned; LANES], out: &mut [$unsigned; LANES],
                ) {
                    if !high {
                        map3(a, b, c, out, |x, y, z| x.wrapping_mul(y).wrapping_add(z));
                    } else if signed {
                        map3(a, b, c, out, |x, y, z| {
                            let product = x as $signed as $signed_double * y as $signed as $signed_double;
                            ((product >> BITS) as $unsigned).wrapping_add(z)
                        });
                    } else {
                        map3(a, b, c, out, |x, y, z| {
                            (((x as $double * y as $double) >> BITS) as $unsigned).wrapping_add(z)
                        });
                    }
                }
            }
        }
    };
}

width!(bits16, u16, i16, u32, i32);
width!(bits32, u32, i32, u64, i64);
width!(bits64, u64, i64, u128, i128);

/// The low 32 bits of the product of the low 24 bits.
#[inline(always)]
fn low24(x: u64, y: u64, signed: bool) -> u64 {
    let low = |v: u64| if signed { ((v as i64) << 40 >> 40) as u64 } else { v & 0xff_ffff };
    low(x).wrapping_mul(low(y)) & 0xffff_ffff
}

vectorised! {
    /// 32-bit factors, 64-bit product plus `c`.
    pub(super) fn wide32(
        signed: bool, a: &[u32; LANES], b: &[u32; LANES], c: &[u64; LANES], out: &mut [u64; LANES],
    ) {
        if signed {
            map3(a, b, c, out, |x, y, z| ((i64::from(x as i32) * i64::from(y as i32)) as u64).wrapping_add(z));
        } else {
            map3(a, b, c, out, |x, y, z| (u64::from(x) * u64::from(y)).wrapping_add(z));
        }
    }
}

/// 16-bit factors, 32-bit product plus `c`.
pub(super) fn wide16(
    signed: bool,
    a: &[u16; LANES],
    b: &[u16; LANES],
    c: &[u32; LANES],
    out: &mut [u32; LANES],
) {
    if signed {
        map3(a, b, c, out, |x, y, z| ((i32::from(x as i16) * i32::from(y as i16)) as u32).wrapping_add(z));
    } else {
        map3(a, b, c, out, |x, y, z| (u32::from(x) * u32::from(y)).wrapping_add(z));
    }
}

/// A sum or difference, or a half of a product plus a third operand, with the carry flag. `carry` is the flag of each
/// lane before and after; it is the borrow of a difference.
#[derive(Clone, Copy, Debug)]
pub(super) enum Carried {
    Add,
    Sub,
    Mad { high: bool, signed: bool },
}

/// Gives the result and the flag.
pub(super) fn carried(op: Carried, bits: u32, [a, b, c]: [u64; 3], carry: bool) -> (u64, bool) {
    let ones = u64::MAX >> (64 - bits);
    let total = |x: u64, y: u64| u128::from(x & ones) + u128::from(y & ones) + u128::from(carry);
    let sum = match op {
        Carried::Add => total(a, b),
        Carried::Sub => {
            let difference = i128::from(a & ones) - i128::from(b & ones) - i128::from(carry);
            return (difference as u64 & ones, difference < 0);
        }
        Carried::Mad { high, signed } => {
            let product = if signed {
                let extend = |v: u64| i128::from((v << (64 - bits)) as i64 >> (64 - bits));
                (extend(a) * extend(b)) as u128
            } else {
                u128::from(a & ones) * u128::from(b & ones)
            };
            total((product >> if high { bits } else { 0 }) as u64, c)
        }
    };
    (sum as u64 & ones, sum >> bits != 0)
}

vectorised! {
    /// Bit by bit, the value that the table has at (a, b, c).
    pub(super) fn lop3(
        table: u8, a: &[u32; LANES], b: &[u32; LANES], c: &[u32; LANES], out: &mut [u32; LANES],
    ) {
        *out = [0; LANES];
        for term in 0..8 {
            if table >> term & 1 != 0 {
                // 0 where the term has the bit, ones where it has its complement.
                let [x, y, z] = [4, 2, 1].map(|bit| if term & bit != 0 { 0 } else { u32::MAX });
                for lane in 0..LANES {
                    out[lane] |= (a[lane] ^ x) & (b[lane] ^ y) & (c[lane] ^ z);
                }
            }
        }
    }
}

/// Three operands of 32 bits that no other function here has; false for operations that there are not.
pub(super) fn ternary32(
    op: Ternary,
    signed: bool,
    a: &[u32; LANES],
    b: &[u32; LANES],
    c: &[u32; LANES],
    out: &mut [u32; LANES],
) -> bool {
    match op {
        Ternary::Mad24Lo => {
            map3(a, b, c, out, |x, y, z| (low24(u64::from(x), u64::from(y), signed) as u32).wrapping_add(z))
        }
        Ternary::Lop3(table) => lop3(table, a, b, c, out),
        Ternary::ShfLeft { clamp } => {
            map3(a, b, c, out, |low, high, n| ((pair(low, high) << funnel(n, clamp)) >> 32) as u32)
        }
        Ternary::ShfRight { clamp } => {
            map3(a, b, c, out, |low, high, n| (pair(low, high) >> funnel(n, clamp)) as u32)
        }
        Ternary::Prmt => map3(a, b, c, out, permute),
        Ternary::Dp4a { a_signed, b_signed } => map3(a, b, c, out, |x, y, z| {
            let byte = |v: u32, i: u32, signed: bool| {
                let byte = (v >> (8 * i)) as u8;
                if signed { i32::from(byte as i8) } else { i32::from(byte) }
            };
            (0..4).fold(z, |sum, i| sum.wrapping_add((byte(x, i, a_signed) * byte(y, i, b_signed)) as u32))
        }),
        Ternary::Dp2a { high, a_signed, b_signed } => map3(a, b, c, out, |x, y, z| {
            let half = |i: u32| {
                let half = (x >> (16 * i)) as u16;
                if a_signed { i32::from(half as i16) } else { i32::from(half) }
            };
            let byte = |i: u32| {
                let byte = (y >> (8 * (i + 2 * u32::from(high)))) as u8;
                if b_signed { i32::from(byte as i8) } else { i32::from(byte) }
            };
            (0..2).fold(z, |sum, i| sum.wrapping_add((half(i) * byte(i)) as u32))
        }),
        _ => return false,
    }
    true
}

fn pair(low: u32, high: u32) -> u64 {
    u64::from(high) << 32 | u64::from(low)
}

fn funnel(amount: u32, clamp: bool) -> u32 {
    if clamp { amount.min(32) } else { amount & 31 }
}

/// `prmt`: each nibble of `selector` picks one of the eight bytes of (b, a), or spreads that byte's sign.
fn permute(a: u32, b: u32, selector: u32) -> u32 {
    let bytes = pair(a, b).to_le_bytes();
    u32::from_le_bytes(std::array::from_fn(|i| {
        let nibble = selector >> (4 * i);
        let byte = bytes[(nibble & 7) as usize];
        match nibble & 8 {
            0 => byte,
            _ => ((byte as i8) >> 7) as u8,
        }
    }))
}

/// `sad`: |a − b| + c.
pub(super) fn absolute_difference(bits: u32, signed: bool, a: u64, b: u64, c: u64) -> u64 {
    let extend = |v: u64| extend(v, bits, signed);
    let (a, b) = (extend(a), extend(b));
    let difference = if signed { (a as i64).abs_diff(b as i64) } else { a.abs_diff(b) };
    difference.wrapping_add(c)
}

/// A value of so many bits, extended to 64.
#[inline(always)]
pub(super) fn extend(value: u64, bits: u32, signed: bool) -> u64 {
    let unused = 64 - bits;
    if signed { ((value << unused) as i64 >> unused) as u64 } else { value << unused >> unused }
}

/// `bfe`: `length` bits of `a` from `position` on, with the sign of the highest of them.
pub(super) fn extract(ty: Type, a: u64, position: u32, length: u32) -> u64 {
    let (bits, signed) = (ty.bits(), ty.is_signed());
    let (position, length) = (position & 255, length & 255);
    if length == 0 {
        return 0;
    }
    let a = extend(a, bits, signed);
    // Beyond the highest bit the field is filled with the sign, which `extend` has put there.
    let shifted =
        if signed { (a as i64 >> position.min(63)) as u64 } else { a.checked_shr(position).unwrap_or(0) };
    if length >= 64 { shifted } else { extend(shifted, length, signed) }
}

/// `bfi`: `length` bits of `a` put into `b` at `position`.
pub(super) fn insert(bits: u32, a: u64, b: u64, position: u32, length: u32) -> u64 {
    let (position, length) = (position & 255, length & 255);
    if length == 0 || position >= bits {
        return b;
    }
    let field = (u64::MAX >> (64 - length.min(64))) << position;
    (a << position) & field | b & !field
}

/// One operand of any width, on 64 bits; `None` for operations that there are not.
pub(super) fn unary(op: Unary, ty: Type, a: u64) -> Option<u64> {
    let (bits, signed) = (ty.bits(), ty.is_signed());
    let a = extend(a, bits, signed);
    let plain = extend(a, bits, false);
    Some(match op {
        Unary::Not => !a,
        Unary::Neg => a.wrapping_neg(),
        Unary::Abs => (a as i64).wrapping_abs() as u64,
        Unary::Popc => u64::from(plain.count_ones()),
        Unary::Clz => u64::from(plain.leading_zeros() - (64 - bits)),
        Unary::Brev => plain.reverse_bits() >> (64 - bits),
        Unary::Cnot => u64::from(plain == 0),
        Unary::Bfind { shift_amount } => {
            let a = if signed && (a as i64) < 0 { !a } else { a };
            match a {
                0 => 0xffff_ffff,
                _ => {
                    let place = 63 - a.leading_zeros();
                    u64::from(if shift_amount { bits - 1 - place } else { place })
                }
            }
        }
        _ => return None,
    })
}
