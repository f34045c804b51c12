//! The exact arithmetic against the host's, where the host has it; directed rounding by what it must bracket.

use super::exact::{self, Value};
use super::half;
use super::integer::{self, Carried};
use crate::inst::{Round, Type};

const EDGES: [f32; 24] = [
    0.0,
    -0.0,
    1.0,
    -1.0,
    1.5,
    -3.0,
    0.1,
    1e-3,
    f32::MIN_POSITIVE,
    -f32::MIN_POSITIVE,
    1e-40,
    -1e-45,
    f32::MAX,
    f32::MIN,
    f32::INFINITY,
    f32::NEG_INFINITY,
    f32::NAN,
    1.000_000_1,
    16_777_216.0,
    16_777_215.0,
    3.4e38,
    f32::from_bits(0x007f_ffff),
    f32::from_bits(0x0040_0000),
    2.0,
];

/// Bits of every kind: edges first, then numbers from a fixed sequence, among them many of nearly equal exponent.
fn samples() -> Vec<f32> {
    let mut state = 1u64;
    let mut next = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 32) as u32
    };
    let mut values = EDGES.to_vec();
    values.extend((0..120).map(|_| f32::from_bits(next())));
    values.extend((0..60).map(|_| f32::from_bits(next() & 0x81ff_ffff | 0x3e00_0000)));
    values
}

fn single(x: f32) -> Value {
    exact::format(Type::F32).expect("f32 is a format").unpack(u64::from(x.to_bits()))
}

fn double(x: f64) -> Value {
    exact::format(Type::F64).expect("f64 is a format").unpack(x.to_bits())
}

fn to_single(x: Value, round: Round) -> f32 {
    f32::from_bits(exact::format(Type::F32).expect("f32 is a format").pack(x, round) as u32)
}

fn to_double(x: Value, round: Round) -> f64 {
    f64::from_bits(exact::format(Type::F64).expect("f64 is a format").pack(x, round))
}

fn same32(a: f32, b: f32) -> bool {
    a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan()
}

fn same64(a: f64, b: f64) -> bool {
    a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan()
}

#[test]
fn to_the_nearest_it_is_the_host() {
    let samples = samples();
    for &x in &samples {
        assert!(same32(to_single(exact::square_root(single(x)), Round::Rn), x.sqrt()), "root of {x:e}");
        let wide = f64::from(x) * 1.000_000_000_1;
        assert!(
            same64(to_double(exact::square_root(double(wide)), Round::Rn), wide.sqrt()),
            "root of {wide:e}"
        );
        for &y in &samples {
            let checks = [
                ("+", exact::add(single(x), single(y), Round::Rn), x + y),
                ("×", exact::multiply(single(x), single(y)), x * y),
                ("/", exact::divide(single(x), single(y)), x / y),
            ];
            for (name, value, host) in checks {
                assert!(same32(to_single(value, Round::Rn), host), "{x:e} {name} {y:e}");
            }
            let (p, q) = (f64::from(x) * 1.000_000_000_1, f64::from(y) / 3.0);
            let checks = [
                ("+", exact::add(double(p), double(q), Round::Rn), p + q),
                ("×", exact::multiply(double(p), double(q)), p * q),
                ("/", exact::divide(double(p), double(q)), p / q),
            ];
            for (name, value, host) in checks {
                assert!(same64(to_double(value, Round::Rn), host), "{p:e} {name} {q:e}");
            }
            for &z in samples.iter().step_by(5) {
                let value = exact::add(exact::multiply(single(x), single(y)), single(z), Round::Rn);
                assert!(same32(to_single(value, Round::Rn), x.mul_add(y, z)), "{x:e} × {y:e} + {z:e}");
                let r = f64::from(z) * -0.3;
                let value = exact::add(exact::multiply(double(p), double(q)), double(r), Round::Rn);
                assert!(same64(to_double(value, Round::Rn), p.mul_add(q, r)), "{p:e} × {q:e} + {r:e}");
            }
        }
    }
}

#[test]
fn directed_roundings_bracket_the_exact_value() {
    let samples = samples();
    for &x in &samples {
        for &y in &samples {
            // The product of two singles is exact as a double.
            let product = f64::from(x) * f64::from(y);
            if product.is_nan() {
                continue;
            }
            let value = exact::multiply(single(x), single(y));
            let down = to_single(value, Round::Rm);
            let up = to_single(value, Round::Rp);
            assert!(f64::from(down) <= product && product <= f64::from(up), "{x:e} × {y:e}");
            let exactly = f64::from(x * y) == product;
            let apart = if exactly { down == up } else { down.next_up() == up };
            assert!(apart, "{x:e} × {y:e} is between {down:e} and {up:e}");
            let towards_zero = if product > 0.0 { down } else { up };
            let cut = to_single(value, Round::Rz);
            assert!(
                cut == towards_zero && cut.is_sign_negative() == product.is_sign_negative(),
                "{x:e} × {y:e}"
            );
        }
    }
    assert_eq!(to_single(exact::add(single(1.0), single(-1.0), Round::Rm), Round::Rm).to_bits(), 1 << 31);
    assert_eq!(to_single(exact::add(single(1.0), single(-1.0), Round::Rp), Round::Rp).to_bits(), 0);
}

#[test]
fn every_half_goes_through_a_value_and_back() {
    for ty in [Type::F16, Type::Bf16] {
        let format = exact::format(ty).expect("a format");
        for bits in 0..=0xffff {
            let value = half::value(ty, bits);
            let back = half::narrow(format, value, Round::Rn);
            assert!(back == bits || value.is_nan() && back == 0x7fff, "{ty:?} {bits:#x}");
        }
    }
}

#[test]
fn ties_and_overflow_of_bf16() {
    let format = exact::format(Type::Bf16).expect("a format");
    let narrow = |bits: u32, round| half::narrow(format, f64::from(f32::from_bits(bits)), round);
    assert_eq!(narrow(0x3f80_8000, Round::Rn), 0x3f80);
    assert_eq!(narrow(0x3f81_8000, Round::Rn), 0x3f82);
    assert_eq!(narrow(0x3f80_8000, Round::Rna), 0x3f81);
    assert_eq!(narrow(0x3f80_ffff, Round::Rz), 0x3f80);
    assert_eq!(narrow(0x7f7f_ffff, Round::Rn), 0x7f80);
    assert_eq!(narrow(0x7f7f_ffff, Round::Rz), 0x7f7f);
    assert_eq!(narrow(0xff7f_ffff, Round::Rp), 0xff7f);
}

#[test]
fn carries_chain_to_wider_sums() {
    let words = [0u64, 1, 0xffff_ffff, 0x8000_0000, 0x1234_5678];
    for (a, b) in words.iter().flat_map(|a| words.map(|b| (a << 32 | 0xffff_fffe, b << 32 | 3))) {
        for (op, expected) in [(Carried::Add, a.wrapping_add(b)), (Carried::Sub, a.wrapping_sub(b))] {
            let (low, flag) = integer::carried(op, 32, [a, b, 0].map(|v| v & 0xffff_ffff), false);
            let (high, _) = integer::carried(op, 32, [a >> 32, b >> 32, 0], flag);
            assert_eq!(high << 32 | low, expected, "{a:#x} {op:?} {b:#x}");
        }
    }
}
