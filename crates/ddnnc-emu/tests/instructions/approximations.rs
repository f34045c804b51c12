//! Approximate functions: their special cases exactly, other values within the errors that the ISA promises.

use crate::suite::Expect::{self, Bits, Nan, Near};
use crate::suite::{Suite, number, pairs, singles};
use ddnnc_emu::inst::Type;

const INFINITY: u64 = 0x7f80_0000;
const MINUS: u64 = 0x8000_0000;
const NAN: u64 = 0x7fc0_0001;

/// Values of every size, from the smallest normal ones on.
fn values(exponents: std::ops::RangeInclusive<i32>, negative: bool) -> Vec<u64> {
    let mut found = Vec::new();
    for exponent in exponents {
        for fraction in [0u32, 1, 0x2a_aaaa, 0x40_0000, 0x7f_ffff] {
            let bits = u64::from(((exponent + 127) as u32) << 23 | fraction);
            found.push(bits);
            if negative {
                found.push(bits | MINUS);
            }
        }
    }
    found
}

fn single(bits: u64) -> f64 {
    number(Type::F32, bits)
}

/// A result within a relative error; results that f32 cannot hold are infinite.
fn relative(value: f64, error: f64) -> Expect {
    if value.abs() > f64::from(f32::MAX) {
        return Bits(INFINITY | if value < 0.0 { MINUS } else { 0 });
    }
    // The last place of denormal results.
    Near { value, tolerance: (value.abs() * error).max(2f64.powi(-148)) }
}

struct Function {
    name: &'static str,
    f: fn(f64) -> f64,
    error: f64,
    inputs: Vec<u64>,
    /// Exact results: of +0, −0, +∞, −∞, and of a negative number; `None` is NaN.
    zero: [Option<u64>; 2],
    infinite: [Option<u64>; 2],
    negative: Option<Option<u64>>,
}

pub fn cases(suite: &mut Suite) {
    let ulp = 2f64.powi(-23);
    let one = Some(0x3f80_0000);
    let functions = [
        Function {
            name: "rcp",
            f: |x| 1.0 / x,
            error: ulp,
            inputs: values(-125..=125, true),
            zero: [Some(INFINITY), Some(INFINITY | MINUS)],
            infinite: [Some(0), Some(MINUS)],
            negative: None,
        },
        Function {
            name: "sqrt",
            f: f64::sqrt,
            error: 2.0 * ulp,
            inputs: values(-126..=127, false),
            zero: [Some(0), Some(MINUS)],
            infinite: [Some(INFINITY), None],
            negative: Some(None),
        },
        Function {
            name: "rsqrt",
            f: |x| 1.0 / x.sqrt(),
            error: 2f64.powf(-22.9),
            inputs: values(-126..=127, false),
            zero: [Some(INFINITY), Some(INFINITY | MINUS)],
            infinite: [Some(0), None],
            negative: Some(None),
        },
        Function {
            name: "ex2",
            f: f64::exp2,
            error: 2f64.powf(-22.0),
            inputs: values(-20..=5, true).into_iter().chain(values(6..=6, false)).collect(),
            zero: [one, one],
            infinite: [Some(INFINITY), Some(0)],
            negative: None,
        },
        Function {
            name: "lg2",
            f: f64::log2,
            error: 2f64.powf(-22.0),
            inputs: values(1..=127, false).into_iter().chain(values(-126..=-2, false)).collect(),
            zero: [Some(INFINITY | MINUS), Some(INFINITY | MINUS)],
            infinite: [Some(INFINITY), None],
            negative: Some(None),
        },
    ];
    for function in &functions {
        for ftz in ["", ".ftz"] {
            special(suite, function, ftz);
        }
    }
    trigonometric(suite);
    tanh(suite);
    quotients(suite);
    halves(suite);
    doubles(suite);
}

fn special(suite: &mut Suite, function: &Function, ftz: &str) {
    let Function { name, f, error, inputs, zero, infinite, negative } = function;
    let instruction = format!("{name}.approx{ftz}.f32 %d, %a;");
    let ty = Type::F32;
    suite.check(&instruction, ty, &[ty], &singles(inputs), |v| relative(f(single(v[0])), *error));
    let exact = |bits: Option<u64>| bits.map_or(Nan, Bits);
    let mut table = vec![
        (0, exact(zero[0])),
        (MINUS, exact(zero[1])),
        (INFINITY, exact(infinite[0])),
        (INFINITY | MINUS, exact(infinite[1])),
        (NAN, Nan),
    ];
    if let Some(negative) = negative {
        table.push((0xbf80_0000, exact(*negative)));
    }
    if ftz == ".ftz" {
        // Denormal operands are zeros.
        table.push((1, exact(zero[0])));
        table.push((0x7f_ffff | MINUS, exact(zero[1])));
    }
    let operands: Vec<u64> = table.iter().map(|(bits, _)| *bits).collect();
    suite.check(&instruction, ty, &[ty], &singles(&operands), |v| {
        table.iter().find(|(bits, _)| *bits == v[0]).map_or(Nan, |(_, expected)| *expected)
    });
}

fn trigonometric(suite: &mut Suite) {
    let inputs: Vec<u64> = (-628..=628).map(|i| u64::from((i as f32 / 100.0).to_bits())).collect();
    let ty = Type::F32;
    for ftz in ["", ".ftz"] {
        for (name, f) in [("sin", f64::sin as fn(f64) -> f64), ("cos", f64::cos)] {
            let instruction = format!("{name}.approx{ftz}.f32 %d, %a;");
            suite.check(&instruction, ty, &[ty], &singles(&inputs), |v| {
                Near { value: f(single(v[0])), tolerance: 2f64.powf(-20.5) }
            });
            suite.check(&instruction, ty, &[ty], &singles(&[INFINITY, INFINITY | MINUS, NAN]), |_| Nan);
            suite.check(&instruction, ty, &[ty], &singles(&[0, MINUS]), |v| {
                Bits(if name == "sin" { v[0] } else { 0x3f80_0000 })
            });
        }
    }
}

fn tanh(suite: &mut Suite) {
    let ty = Type::F32;
    let inputs = singles(&values(-30..=5, true));
    suite.check("tanh.approx.f32 %d, %a;", ty, &[ty], &inputs, |v| relative(single(v[0]).tanh(), 2f64.powi(-11)));
    let special = singles(&[0, MINUS, INFINITY, INFINITY | MINUS]);
    suite.check("tanh.approx.f32 %d, %a;", ty, &[ty], &special, |v| {
        Bits(if v[0] & INFINITY == 0 { v[0] } else { v[0] & MINUS | 0x3f80_0000 })
    });
    suite.check("tanh.approx.f32 %d, %a;", ty, &[ty], &singles(&[NAN]), |_| Nan);
}

fn quotients(suite: &mut Suite) {
    // Within the range of divisors that `.approx` is made for.
    let dividends = values(-3..=3, true);
    let divisors = values(-100..=-95, true).into_iter().chain(values(-2..=2, true)).collect::<Vec<_>>();
    let ty = Type::F32;
    for kind in ["approx", "approx.ftz", "full", "full.ftz"] {
        let instruction = format!("div.{kind}.f32 %d, %a, %b;");
        suite.check(&instruction, ty, &[ty; 2], &pairs(&dividends, &divisors), |v| {
            relative(single(v[0]) / single(v[1]), 2.0 * 2f64.powi(-23))
        });
        let zeros = pairs(&[0x3f80_0000, 0xbf80_0000], &[0, MINUS]);
        suite.check(&instruction, ty, &[ty; 2], &zeros, |v| Bits(INFINITY | (v[0] ^ v[1]) & MINUS));
    }
}

/// `ex2` and `tanh` of f16 and bf16, in pairs too.
fn halves(suite: &mut Suite) {
    for (ty, pair, flush, error, one) in
        [(Type::F16, "f16x2", "", 2f64.powf(-9.9), 0x3c00), (Type::Bf16, "bf16x2", ".ftz", 2f64.powi(-7), 0x3f80)]
    {
        let inputs: Vec<u64> = (0..0x8000)
            .step_by(37)
            .flat_map(|bits| [bits, bits | 0x8000])
            .filter(|bits| (2f64.powi(-10)..8.0).contains(&number(ty, *bits).abs()))
            .collect();
        let reversed: Vec<Vec<u64>> =
            inputs.iter().zip(inputs.iter().rev()).map(|(low, high)| vec![high << 16 | low]).collect();
        for (op, f) in [(format!("ex2.approx{flush}"), f64::exp2 as fn(f64) -> f64), ("tanh.approx".to_owned(), f64::tanh)] {
            let expect = |bits: u64| {
                let value = f(number(ty, bits));
                Near { value, tolerance: value.abs() * error }
            };
            let instruction = format!("{op}.{} %d, %a;", ty.name());
            suite.check(&instruction, ty, &[ty], &singles(&inputs), |v| expect(v[0]));
            for (half, names) in [(0, "{%d, _}"), (16, "{_, %d}")] {
                let block = format!("{{ .reg .b32 t; {op}.{pair} t, %a; mov.b32 {names}, t; }}");
                suite.check_block(&block, ty, &[Type::B32], &reversed, |v| expect(v[0] >> half & 0xffff));
            }
            let infinite = if ty == Type::F16 { 0x7c00 } else { 0x7f80 };
            suite.check(&instruction, ty, &[ty], &singles(&[infinite, infinite | 0x8000]), |v| {
                let negative = v[0] >> 15 == 1;
                Bits(match (op.starts_with("ex2"), negative) {
                    (true, true) => 0,
                    (true, false) => infinite,
                    (false, _) => v[0] & 0x8000 | one,
                })
            });
            suite.check(&instruction, ty, &[ty], &singles(&[infinite + 1]), |_| Nan);
        }
    }
}

/// The approximate reciprocals of f64, from which division is made: with the low half of the result zero where denormal
/// numbers are flushed.
fn doubles(suite: &mut Suite) {
    let inputs: Vec<u64> =
        (-300..=300).map(|i| ((f64::from(i) + 0.37) * 2f64.powi(i)).to_bits()).collect();
    let positive: Vec<u64> = inputs.iter().map(|bits| bits & (u64::MAX >> 1)).collect();
    let ty = Type::F64;
    for (instruction, f, inputs, coarse) in [
        ("rcp.approx.ftz.f64 %d, %a;", (|x| 1.0 / x) as fn(f64) -> f64, &inputs, true),
        ("rsqrt.approx.f64 %d, %a;", |x| 1.0 / x.sqrt(), &positive, false),
        ("rsqrt.approx.ftz.f64 %d, %a;", |x| 1.0 / x.sqrt(), &positive, true),
    ] {
        suite.check(instruction, ty, &[ty], &singles(inputs), |v| {
            let value = f(f64::from_bits(v[0]));
            let error = if coarse { 2f64.powi(-19) } else { 2f64.powi(-22) };
            Near { value, tolerance: value.abs() * error }
        });
        if coarse {
            let block = format!(
                "{{ .reg .b64 t; {}; mov.b64 {{%d, _}}, t; }}",
                instruction.trim_end_matches(';').replace("%d", "t")
            );
            suite.check_block(&block, Type::B32, &[ty], &singles(inputs), |_| Bits(0));
        }
    }
}
