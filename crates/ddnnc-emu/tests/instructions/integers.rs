//! Arithmetic of whole numbers.

use crate::suite::Expect::Bits;
use crate::suite::{Suite, mask, pairs, singles, triples};
use ddnnc_emu::inst::Type;

const WORDS: [Type; 6] = [Type::U16, Type::S16, Type::U32, Type::S32, Type::U64, Type::S64];

/// Values at the edges of a width.
pub fn edges(ty: Type) -> Vec<u64> {
    let top = 1u64 << (ty.bits() - 1);
    [0, 1, 2, 3, 7, 0x55, 0x1234_5678_9abc_def1, 0x8765_4321_0fed_cba9, top - 1, top, top + 1, u64::MAX - 1, u64::MAX]
        .map(|v| mask(v, ty))
        .to_vec()
}

/// The number that bits stand for.
pub fn number(bits: u64, ty: Type) -> i128 {
    let width = ty.bits();
    let bits = i128::from(mask(bits, ty));
    if ty.is_signed() && bits >> (width - 1) == 1 { bits - (1 << width) } else { bits }
}

/// The bits of a number, those above the width cut off.
fn cut(value: i128, ty: Type) -> u64 {
    mask(value as u64, ty)
}

fn wide(ty: Type) -> Option<Type> {
    match ty {
        Type::U16 => Some(Type::U32),
        Type::S16 => Some(Type::S32),
        Type::U32 => Some(Type::U64),
        Type::S32 => Some(Type::S64),
        _ => None,
    }
}

pub fn cases(suite: &mut Suite) {
    for ty in WORDS {
        two(suite, ty);
        three(suite, ty);
    }
    unary(suite);
    carries(suite);
    twenty_four(suite);
    dot(suite);
}

fn two(suite: &mut Suite, ty: Type) {
    let name = ty.name();
    let values = pairs(&edges(ty), &edges(ty));
    let mut check = |op: &str, f: &dyn Fn(i128, i128) -> i128| {
        let instruction = format!("{op}.{name} %d, %a, %b;");
        suite.check(&instruction, ty, &[ty, ty], &values, |v| Bits(cut(f(number(v[0], ty), number(v[1], ty)), ty)));
    };
    check("add", &|a, b| a + b);
    check("sub", &|a, b| a - b);
    check("mul.lo", &|a, b| a.wrapping_mul(b));
    let bits = ty.bits();
    // Products of 64-bit numbers have 128 bits; those of unsigned numbers need all of them.
    check("mul.hi", &|a, b| {
        if ty == Type::U64 { ((a as u128 * b as u128) >> 64) as i128 } else { (a * b) >> bits }
    });
    check("min", &|a, b| a.min(b));
    check("max", &|a, b| a.max(b));
    // The ISA leaves division by zero open (on devices all bits are set), and overflow of the smallest number by -1.
    let divisible: Vec<Vec<u64>> = values
        .iter()
        .filter(|v| v[1] != 0 && !(ty.is_signed() && number(v[1], ty) == -1 && v[0] == 1 << (bits - 1)))
        .cloned()
        .collect();
    for (op, f) in [("div", (|a, b| a / b) as fn(i128, i128) -> i128), ("rem", |a, b| a % b)] {
        let instruction = format!("{op}.{name} %d, %a, %b;");
        suite.check(&instruction, ty, &[ty, ty], &divisible, |v| {
            Bits(cut(f(number(v[0], ty), number(v[1], ty)), ty))
        });
    }
    if let Some(twice) = wide(ty) {
        let instruction = format!("mul.wide.{name} %d, %a, %b;");
        suite.check(&instruction, twice, &[ty, ty], &values, |v| {
            Bits(cut(number(v[0], ty) * number(v[1], ty), twice))
        });
    }
    // Constants as operands.
    let one = singles(&edges(ty));
    suite.check(&format!("sub.{name} %d, %a, -3;"), ty, &[ty], &one, |v| {
        Bits(cut(number(v[0], ty) - number(cut(-3, ty), ty), ty))
    });
}

fn three(suite: &mut Suite, ty: Type) {
    let name = ty.name();
    let third = [0, 1, 0x8000_0000_0000_0001, u64::MAX].map(|v| mask(v, ty));
    let values = triples(&edges(ty), &edges(ty), &third);
    let number = |bits| number(bits, ty);
    suite.check(&format!("mad.lo.{name} %d, %a, %b, %c;"), ty, &[ty; 3], &values, |v| {
        Bits(cut(number(v[0]).wrapping_mul(number(v[1])).wrapping_add(number(v[2])), ty))
    });
    suite.check(&format!("mad.hi.{name} %d, %a, %b, %c;"), ty, &[ty; 3], &values, |v| {
        let (a, b) = (number(v[0]), number(v[1]));
        let high = if ty == Type::U64 { ((a as u128 * b as u128) >> 64) as i128 } else { (a * b) >> ty.bits() };
        Bits(cut(high + number(v[2]), ty))
    });
    suite.check(&format!("sad.{name} %d, %a, %b, %c;"), ty, &[ty; 3], &values, |v| {
        Bits(cut((number(v[0]) - number(v[1])).abs() + number(v[2]), ty))
    });
    if let Some(twice) = wide(ty) {
        let values = triples(&edges(ty), &edges(ty), &[0, 1, mask(u64::MAX, twice)]);
        suite.check(&format!("mad.wide.{name} %d, %a, %b, %c;"), twice, &[ty, ty, twice], &values, |v| {
            Bits(cut(number(v[0]) * number(v[1]) + i128::from(v[2]), twice))
        });
    }
}

fn unary(suite: &mut Suite) {
    for ty in [Type::S16, Type::S32, Type::S64] {
        let values = singles(&edges(ty));
        let name = ty.name();
        suite.check(&format!("neg.{name} %d, %a;"), ty, &[ty], &values, |v| Bits(cut(-number(v[0], ty), ty)));
        suite.check(&format!("abs.{name} %d, %a;"), ty, &[ty], &values, |v| Bits(cut(number(v[0], ty).abs(), ty)));
    }
}

/// Two instructions: the carry flag that the first sets is what the second adds.
fn carries(suite: &mut Suite) {
    for ty in [Type::U32, Type::S32, Type::U64, Type::S64] {
        let name = ty.name();
        let values = pairs(&edges(ty), &edges(ty));
        let modulus = 1i128 << ty.bits();
        let raw = |v: &[u64], i: usize| i128::from(v[i]);
        let both = |first: &str, second: &str| format!("{first}.{name} %d, %a, %b;\n{second}.{name} %d, %a, %b;");
        let mut check = |text: String, f: &dyn Fn(i128, i128) -> i128| {
            let body = format!("{{ .reg .b{} %h; {text} }}", ty.bits());
            suite.check_block(&body, ty, &[ty, ty], &values, |v| Bits(cut(f(raw(v, 0), raw(v, 1)), ty)));
        };
        check(both("add.cc", "addc"), &|a, b| a + b + i128::from(a + b >= modulus));
        check(both("sub.cc", "subc"), &|a, b| a - b - i128::from(a < b));
        check(both("add.cc", "addc.cc") + &format!(" addc.{name} %d, 0, 0;"), &|a, b| {
            let carry = i128::from(a + b >= modulus);
            i128::from(a + b + carry >= modulus)
        });
        check(both("sub.cc", "subc.cc") + &format!(" subc.{name} %d, 0, 0;"), &|a, b| {
            let borrow = i128::from(a < b);
            -i128::from(a < b + borrow)
        });
        let low = |a: i128, b: i128| i128::from(cut((a as u128).wrapping_mul(b as u128) as i128, ty));
        let high = |a: i128, b: i128| {
            let product = number(a as u64, ty);
            let other = number(b as u64, ty);
            let high = if ty == Type::U64 {
                ((a as u128 * b as u128) >> 64) as i128
            } else {
                (product * other) >> ty.bits()
            };
            i128::from(cut(high, ty))
        };
        check(
            format!("mad.lo.cc.{name} %h, %a, %b, %b; madc.hi.{name} %d, %a, %b, %a;"),
            &|a, b| high(a, b) + a + i128::from(low(a, b) + b >= modulus),
        );
        check(
            format!("mad.hi.cc.{name} %h, %a, %b, %b; madc.lo.cc.{name} %h, %a, %b, %a; addc.{name} %d, 0, 0;"),
            &|a, b| {
                let carry = i128::from(high(a, b) + b >= modulus);
                i128::from(low(a, b) + a + carry >= modulus)
            },
        );
    }
}

fn twenty_four(suite: &mut Suite) {
    for ty in [Type::U32, Type::S32] {
        let name = ty.name();
        let mut edges = edges(ty);
        edges.extend([0x7f_ffff, 0x80_0000, 0xff_ffff, 0x100_0000]);
        let low = move |bits: u64| {
            let bits = i128::from(bits & 0xff_ffff);
            if ty.is_signed() && bits >> 23 == 1 { bits - (1 << 24) } else { bits }
        };
        let two = pairs(&edges, &edges);
        suite.check(&format!("mul24.lo.{name} %d, %a, %b;"), ty, &[ty; 2], &two, |v| {
            Bits(cut(low(v[0]) * low(v[1]), ty))
        });
        let three = triples(&edges, &edges, &[0, 5, 0xffff_ffff]);
        suite.check(&format!("mad24.lo.{name} %d, %a, %b, %c;"), ty, &[ty; 3], &three, |v| {
            Bits(cut(low(v[0]) * low(v[1]) + i128::from(v[2]), ty))
        });
    }
}

/// Dot products of bytes, and of halves by bytes.
fn dot(suite: &mut Suite) {
    let values = triples(&edges(Type::B32), &edges(Type::B32), &[0, 1, 0x8000_0000, 0xffff_ffff]);
    let part = |bits: u64, from: u32, width: u32, ty: Type| {
        let part = i128::from(bits >> from & ((1 << width) - 1));
        if ty.is_signed() && part >> (width - 1) == 1 { part - (1 << width) } else { part }
    };
    for a in [Type::U32, Type::S32] {
        for b in [Type::U32, Type::S32] {
            let types = format!("{}.{}", a.name(), b.name());
            let operands = [Type::B32; 3];
            suite.check(&format!("dp4a.{types} %d, %a, %b, %c;"), Type::B32, &operands, &values, |v| {
                let sum: i128 = (0..4).map(|i| part(v[0], 8 * i, 8, a) * part(v[1], 8 * i, 8, b)).sum();
                Bits(cut(sum + i128::from(v[2]), Type::B32))
            });
            for (half, first) in [("lo", 0), ("hi", 16)] {
                let instruction = format!("dp2a.{half}.{types} %d, %a, %b, %c;");
                suite.check(&instruction, Type::B32, &operands, &values, |v| {
                    let sum: i128 =
                        (0..2).map(|i| part(v[0], 16 * i, 16, a) * part(v[1], first + 8 * i, 8, b)).sum();
                    Bits(cut(sum + i128::from(v[2]), Type::B32))
                });
            }
        }
    }
}
