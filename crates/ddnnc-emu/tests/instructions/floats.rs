//! f32 and f64 with every rounding, flushing and saturation.

use crate::exact::{F32, F64, Format, Mode, Value, negated, ordering, product, quotient, root, sum};
use crate::suite::Expect::{self, Bits, Nan};
use crate::suite::{Suite, pairs, singles, triples};
use ddnnc_emu::inst::Type;
use std::cmp::Ordering;

pub const ROUNDINGS: [(&str, Mode); 4] =
    [(".rn", Mode::Nearest), (".rz", Mode::Zero), (".rm", Mode::Down), (".rp", Mode::Up)];

/// Zeros, denormals, ones, numbers that need rounding, the largest ones, infinities and NaN, of both signs.
pub fn edges(format: Format) -> Vec<u64> {
    let m = format.mantissa;
    let one = ((1u64 << (format.exponent - 1)) - 1) << m;
    let infinity = format.infinity(false);
    let positive = [
        0,
        1,
        (1 << m) - 1,
        1 << m,
        (1 << m) + 1,
        one,
        one + 1,
        one - 1,
        one + (1 << m) + (1 << (m - 1)),
        one | ((1 << m) - 1),
        one + ((m as u64 + 1) << m),
        infinity - 1,
        infinity,
        infinity | 1 << (m - 1),
    ];
    positive.into_iter().flat_map(|v| [v, v | format.sign(true)]).collect()
}

/// What the modifiers make of a value, as bits.
#[derive(Clone, Copy)]
pub struct Finish {
    pub format: Format,
    pub mode: Mode,
    pub ftz: bool,
    pub sat: bool,
}

impl Finish {
    pub fn read(self, bits: u64) -> Value {
        self.format.read(if self.ftz { self.format.flushed(bits) } else { bits })
    }

    pub fn write(self, value: &Value) -> Expect {
        let one = Value::Finite { negative: false, whole: crate::exact::Whole::new(1), exponent: 0 };
        if self.sat {
            let negative = matches!(value, Value::Nan | Value::Infinite(true) | Value::Finite { negative: true, .. });
            if negative {
                return Bits(0);
            }
            if ordering(value, &one) == Some(Ordering::Greater) {
                return self.write_plain(&one);
            }
        }
        self.write_plain(value)
    }

    fn write_plain(self, value: &Value) -> Expect {
        match self.format.write(value, self.mode) {
            None => Nan,
            Some(bits) => Bits(if self.ftz { self.format.flushed(bits) } else { bits }),
        }
    }
}

/// The smaller or larger of two values; −0 is below +0, and NaN loses unless it shall win.
pub fn extreme(a: &Value, b: &Value, larger: bool, nan: bool) -> Value {
    match (a, b) {
        (Value::Nan, _) | (_, Value::Nan) if nan => Value::Nan,
        (Value::Nan, other) | (other, Value::Nan) => other.clone(),
        _ => {
            let negative = |v: &Value| matches!(v, Value::Infinite(true) | Value::Finite { negative: true, .. });
            let order = ordering(a, b).unwrap_or(Ordering::Equal).then(negative(b).cmp(&negative(a)));
            if (order == Ordering::Greater) == larger { a.clone() } else { b.clone() }
        }
    }
}

pub fn cases(suite: &mut Suite) {
    for (ty, format) in [(Type::F32, F32), (Type::F64, F64)] {
        for ftz in [false, true] {
            if ftz && ty == Type::F64 {
                continue;
            }
            for (rounding, mode) in ROUNDINGS {
                for sat in [false, true] {
                    if !(sat && ty == Type::F64) {
                        rounded(suite, ty, Finish { format, mode, ftz, sat }, rounding);
                    }
                }
                divided(suite, ty, Finish { format, mode, ftz, sat: false }, rounding);
            }
            exact(suite, ty, Finish { format, mode: Mode::Nearest, ftz, sat: false });
        }
    }
    defaults(suite);
}

fn modifiers(finish: Finish, rounding: &str) -> String {
    let flag = |on: bool, name: &'static str| if on { name } else { "" };
    format!("{rounding}{}{}", flag(finish.ftz, ".ftz"), flag(finish.sat, ".sat"))
}

fn rounded(suite: &mut Suite, ty: Type, finish: Finish, rounding: &str) {
    let suffix = format!("{}.{}", modifiers(finish, rounding), ty.name());
    let edges = edges(finish.format);
    let two = pairs(&edges, &edges);
    let mode = finish.mode;
    let read = |bits| finish.read(bits);
    suite.check(&format!("add{suffix} %d, %a, %b;"), ty, &[ty; 2], &two, |v| {
        finish.write(&sum(&read(v[0]), &read(v[1]), mode))
    });
    suite.check(&format!("sub{suffix} %d, %a, %b;"), ty, &[ty; 2], &two, |v| {
        finish.write(&sum(&read(v[0]), &negated(&read(v[1])), mode))
    });
    suite.check(&format!("mul{suffix} %d, %a, %b;"), ty, &[ty; 2], &two, |v| {
        finish.write(&product(&read(v[0]), &read(v[1])))
    });
    // Every third value: the triples of all would take minutes.
    let some: Vec<u64> = edges.iter().copied().skip(1).step_by(3).collect();
    let three = triples(&some, &some, &edges);
    for op in ["fma", "mad"] {
        suite.check(&format!("{op}{suffix} %d, %a, %b, %c;"), ty, &[ty; 3], &three, |v| {
            finish.write(&sum(&product(&read(v[0]), &read(v[1])), &read(v[2]), mode))
        });
    }
}

fn divided(suite: &mut Suite, ty: Type, finish: Finish, rounding: &str) {
    let suffix = format!("{}.{}", modifiers(finish, rounding), ty.name());
    let edges = edges(finish.format);
    let read = |bits| finish.read(bits);
    let some: Vec<u64> = edges.iter().copied().step_by(2).chain([edges[1], edges[11], edges[25]]).collect();
    suite.check(&format!("div{suffix} %d, %a, %b;"), ty, &[ty; 2], &pairs(&some, &some), |v| {
        finish.write(&quotient(&read(v[0]), &read(v[1])))
    });
    let one = finish.format.read(((1 << (finish.format.exponent - 1)) - 1) << finish.format.mantissa);
    suite.check(&format!("rcp{suffix} %d, %a;"), ty, &[ty], &singles(&edges), |v| {
        finish.write(&quotient(&one, &read(v[0])))
    });
    suite.check(&format!("sqrt{suffix} %d, %a;"), ty, &[ty], &singles(&edges), |v| {
        finish.write(&root(&read(v[0])))
    });
}

fn exact(suite: &mut Suite, ty: Type, finish: Finish) {
    let suffix = format!("{}.{}", modifiers(finish, ""), ty.name());
    let edges = edges(finish.format);
    let one = singles(&edges);
    let two = pairs(&edges, &edges);
    let (format, read) = (finish.format, |bits| finish.read(bits));
    suite.check(&format!("neg{suffix} %d, %a;"), ty, &[ty], &one, |v| finish.write(&negated(&read(v[0]))));
    suite.check(&format!("abs{suffix} %d, %a;"), ty, &[ty], &one, |v| {
        finish.write(&read(v[0] & !format.sign(true)))
    });
    for (op, larger) in [("min", false), ("max", true)] {
        suite.check(&format!("{op}{suffix} %d, %a, %b;"), ty, &[ty; 2], &two, |v| {
            finish.write(&extreme(&read(v[0]), &read(v[1]), larger, false))
        });
        if ty == Type::F32 {
            let flush = if finish.ftz { ".ftz" } else { "" };
            suite.check(&format!("{op}{flush}.NaN.f32 %d, %a, %b;"), ty, &[ty; 2], &two, |v| {
                finish.write(&extreme(&read(v[0]), &read(v[1]), larger, true))
            });
        }
    }
    if !finish.ftz {
        // A sign on a value, NaN included: bits only.
        suite.check(&format!("copysign{suffix} %d, %a, %b;"), ty, &[ty; 2], &two, |v| {
            Bits(v[0] & format.sign(true) | v[1] & !format.sign(true))
        });
    }
}

/// Without a rounding modifier sums and products are rounded to the nearest.
fn defaults(suite: &mut Suite) {
    for (ty, format) in [(Type::F32, F32), (Type::F64, F64)] {
        let finish = Finish { format, mode: Mode::Nearest, ftz: false, sat: false };
        let two = pairs(&edges(format), &edges(format));
        let read = |bits| format.read(bits);
        suite.check(&format!("add.{} %d, %a, %b;", ty.name()), ty, &[ty; 2], &two, |v| {
            finish.write(&sum(&read(v[0]), &read(v[1]), Mode::Nearest))
        });
        suite.check(&format!("mul.{} %d, %a, %b;", ty.name()), ty, &[ty; 2], &two, |v| {
            finish.write(&product(&read(v[0]), &read(v[1])))
        });
    }
    // A constant as an operand.
    let one = singles(&edges(F32));
    suite.check("mul.f32 %d, %a, 0f40400000;", Type::F32, &[Type::F32], &one, |v| {
        let finish = Finish { format: F32, mode: Mode::Nearest, ftz: false, sat: false };
        finish.write(&product(&F32.read(v[0]), &F32.read(0x4040_0000)))
    });
}
