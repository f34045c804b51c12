//! `cvt` of every type to every other, with every rounding, saturated and not.

use crate::exact::{BF16, F16, F32, F64, Format, Mode, TF32, Value, Whole, round_shift};
use crate::floats::{self, Finish, ROUNDINGS};
use crate::integers;
use crate::suite::Expect::{self, Bits, Nan};
use crate::suite::{Suite, mask, pairs, singles};
use ddnnc_emu::inst::Type;

const WHOLE: [Type; 8] =
    [Type::U8, Type::S8, Type::U16, Type::S16, Type::U32, Type::S32, Type::U64, Type::S64];
const FLOATS: [(Type, Format); 4] =
    [(Type::F16, F16), (Type::Bf16, BF16), (Type::F32, F32), (Type::F64, F64)];
const TO_WHOLE: [(&str, Mode); 4] =
    [(".rni", Mode::Nearest), (".rzi", Mode::Zero), (".rmi", Mode::Down), (".rpi", Mode::Up)];

pub fn cases(suite: &mut Suite) {
    for from in WHOLE {
        for to in WHOLE {
            between_integers(suite, to, from);
        }
        for (to, format) in FLOATS {
            from_integer(suite, to, format, from);
        }
    }
    for (from, format) in FLOATS {
        for to in WHOLE {
            to_integer(suite, to, from, format);
        }
        for (to, target) in FLOATS {
            between_floats(suite, (to, target), (from, format));
        }
        integers_of_floats(suite, from, format);
    }
    tensor_floats(suite);
    packed(suite);
}

/// Operands with something in the bits above an 8-bit type, which are not part of it.
fn operands(ty: Type) -> Vec<Vec<u64>> {
    let values = integers::edges(ty);
    if ty.bits() == 8 { values.iter().flat_map(|v| [vec![*v], vec![v | 0xa500]]).collect() } else { singles(&values) }
}

fn limits(ty: Type) -> (i128, i128) {
    let bits = ty.bits();
    if ty.is_signed() { (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) } else { (0, (1 << bits) - 1) }
}

fn between_integers(suite: &mut Suite, to: Type, from: Type) {
    let values = operands(from);
    let number = |v: &[u64]| integers::number(v[0], from);
    suite.check(&format!("cvt.{}.{} %d, %a;", to.name(), from.name()), to, &[from], &values, |v| {
        Bits(mask(number(v) as u64, to))
    });
    suite.check(&format!("cvt.sat.{}.{} %d, %a;", to.name(), from.name()), to, &[from], &values, |v| {
        let (low, high) = limits(to);
        Bits(mask(number(v).clamp(low, high) as u64, to))
    });
    // A source may lie in a wider register.
    if from.bits() <= 32 {
        let wider: Vec<Vec<u64>> = values.iter().map(|v| vec![v[0] | 0x1234_5678 << from.bits().max(16)]).collect();
        suite.check(&format!("cvt.{}.{} %d, %a;", to.name(), from.name()), to, &[Type::B64], &wider, |v| {
            Bits(mask(number(v) as u64, to))
        });
    }
}

fn whole(value: i128) -> Value {
    Value::Finite { negative: value < 0, whole: Whole::new(value.unsigned_abs()), exponent: 0 }
}

fn from_integer(suite: &mut Suite, to: Type, format: Format, from: Type) {
    let mut values = operands(from);
    // Ties and near ties of every format.
    values.extend(
        (0..from.bits()).flat_map(|i| [(1u64 << i) + 1, (3u64 << i) + 1, (0x1001 << i) - 1, (0x0200_0001 << i) + 1]).map(|v| vec![mask(v, from)]),
    );
    for (rounding, mode) in ROUNDINGS {
        for sat in [false, true] {
            let flag = if sat { ".sat" } else { "" };
            let instruction = format!("cvt{rounding}{flag}.{}.{} %d, %a;", to.name(), from.name());
            let finish = Finish { format, mode, ftz: false, sat };
            suite.check(&instruction, to, &[from], &values, |v| finish.write(&whole(integers::number(v[0], from))));
        }
    }
}

/// Numbers near whole ones and near the limits of every integer type.
fn near_integers(format: Format) -> Vec<u64> {
    let mut values = floats::edges(format);
    for exponent in [-2, -1, 0, 1, 2, 7, 8, 15, 16, 31, 32, 63, 64] {
        for value in [1.0, 1.25, 1.5, 1.75] {
            let value: f64 = value * 2f64.powi(exponent);
            for value in [value, -value] {
                if let Some(bits) = format.write(&F64.read(value.to_bits()), Mode::Nearest) {
                    values.extend([bits, bits + 1, bits - 1]);
                }
            }
        }
    }
    values
}

fn rounded(value: &Value, mode: Mode) -> Option<i128> {
    match value {
        Value::Nan => None,
        Value::Infinite(negative) => Some(if *negative { i128::MIN } else { i128::MAX }),
        Value::Finite { negative, whole, exponent } => {
            let whole = round_shift(*negative, whole, -exponent, mode);
            let size = if whole.length() > 100 { i128::MAX } else { whole.low() as i128 };
            Some(if *negative { -size } else { size })
        }
    }
}

fn to_integer(suite: &mut Suite, to: Type, from: Type, format: Format) {
    let values = singles(&near_integers(format));
    let (low, high) = limits(to);
    for (rounding, mode) in TO_WHOLE {
        for flags in ["", ".sat", ".ftz"] {
            let ftz = flags == ".ftz";
            if ftz && from != Type::F32 {
                continue;
            }
            let instruction = format!("cvt{rounding}{flags}.{}.{} %d, %a;", to.name(), from.name());
            suite.check(&instruction, to, &[from], &values, |v| {
                let bits = if ftz { format.flushed(v[0]) } else { v[0] };
                let wide = from == Type::F64 || to.bits() == 64;
                Bits(match rounded(&format.read(bits), mode) {
                    Some(value) => mask(value.clamp(low, high) as u64, to),
                    // NaN is zero, but the highest bit where a type has 64.
                    None if wide => 1 << (to.bits() - 1),
                    None => 0,
                })
            });
        }
    }
}

fn finish(value: &Value, format: Format, mode: Mode, ftz: bool, sat: bool, relu: bool) -> Expect {
    let negative = matches!(value, Value::Infinite(true) | Value::Finite { negative: true, .. });
    if relu && negative {
        return Bits(0);
    }
    Finish { format, mode, ftz, sat }.write(value)
}

fn between_floats(suite: &mut Suite, (to, target): (Type, Format), (from, source): (Type, Format)) {
    let narrower = to.bits() < from.bits();
    if to.bits() == from.bits() && to != from {
        return;
    }
    let mut values = floats::edges(source);
    // What lies between two numbers of the narrower format, and beyond its largest.
    for format in [F16, BF16, F32] {
        for bits in floats::edges(format) {
            if let Some(bits) = source.write(&format.read(bits), Mode::Nearest) {
                let half = 1 << source.mantissa.saturating_sub(format.mantissa + 1);
                values.extend([bits, bits + 1, bits.wrapping_sub(1), bits + half, bits + half + 1, bits + 3 * half]);
            }
        }
    }
    let values: Vec<Vec<u64>> = singles(&values.iter().map(|v| mask(*v, from)).collect::<Vec<_>>());
    let roundings: &[(&str, Mode)] = if narrower { &ROUNDINGS } else { &[("", Mode::Nearest)] };
    for (rounding, mode) in roundings {
        for flags in ["", ".sat", ".ftz", ".ftz.sat", ".relu"] {
            let (ftz, sat, relu) = (flags.contains("ftz"), flags.contains("sat"), flags == ".relu");
            let no_flush = ftz && to != Type::F32 && from != Type::F32;
            let no_relu = relu && !(from == Type::F32 && to.bits() == 16);
            if no_flush || no_relu {
                continue;
            }
            let instruction = format!("cvt{rounding}{flags}.{}.{} %d, %a;", to.name(), from.name());
            suite.check(&instruction, to, &[from], &values, |v| {
                let bits = if ftz && from == Type::F32 { source.flushed(v[0]) } else { v[0] };
                finish(&source.read(bits), target, *mode, ftz && to == Type::F32, sat, relu)
            });
        }
    }
}

/// Rounding to a whole number in the same type.
fn integers_of_floats(suite: &mut Suite, ty: Type, format: Format) {
    let values = singles(&near_integers(format));
    for (rounding, mode) in TO_WHOLE {
        let instruction = format!("cvt{rounding}.{0}.{0} %d, %a;", ty.name());
        suite.check(&instruction, ty, &[ty], &values, |v| match format.read(v[0]) {
            Value::Nan => Nan,
            Value::Finite { negative, whole, exponent } if exponent < 0 => {
                let whole = round_shift(negative, &whole, -exponent, mode);
                format.write(&Value::Finite { negative, whole, exponent: 0 }, Mode::Zero).map_or(Nan, Bits)
            }
            _ => Bits(v[0]),
        });
    }
}

fn tensor_floats(suite: &mut Suite) {
    let mut values = floats::edges(F32);
    values.extend((0..64u64).map(|i| 0x3f80_0000 + i * 0x0800 + i % 3));
    let values = singles(&values);
    for (rounding, mode) in [(".rna", Mode::Away), (".rn", Mode::Nearest), (".rz", Mode::Zero)] {
        for relu in [false, true] {
            let flag = if relu { ".relu" } else { "" };
            let instruction = format!("cvt{rounding}{flag}.tf32.f32 %d, %a;");
            suite.check(&instruction, Type::B32, &[Type::F32], &values, |v| {
                // The 19 bits of the format stand at the top of the register.
                match finish(&F32.read(v[0]), TF32, mode, false, false, relu) {
                    Bits(bits) => Bits(bits << 13),
                    other => other,
                }
            });
        }
    }
}

fn packed(suite: &mut Suite) {
    let values = pairs(&floats::edges(F32), &[floats::edges(F32), vec![0x3f80_8000, 0x3f81_8000, 0x477f_f000]].concat());
    for (ty, name, format) in [(Type::F16, "f16x2", F16), (Type::Bf16, "bf16x2", BF16)] {
        for (rounding, mode) in [(".rn", Mode::Nearest), (".rz", Mode::Zero)] {
            for relu in [false, true] {
                let flag = if relu { ".relu" } else { "" };
                // The first operand is the upper half.
                for (operand, names) in [(1, "{%d, _}"), (0, "{_, %d}")] {
                    let block =
                        format!("{{ .reg .b32 t; cvt{rounding}{flag}.{name}.f32 t, %a, %b; mov.b32 {names}, t; }}");
                    suite.check_block(&block, ty, &[Type::F32; 2], &values, |v| {
                        finish(&F32.read(v[operand]), format, mode, false, false, relu)
                    });
                }
            }
        }
    }
}
