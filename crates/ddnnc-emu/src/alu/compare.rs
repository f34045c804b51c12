//! `setp` and `set`: comparisons as masks of lanes.

use super::float::flush_all;
use super::half;
use super::integer::extend;
use super::lanes::{test, vectorised, view32, view64};
use crate::inst::{BoolOp, Compare, Src, Type};
use crate::registers::{Context, LANES, Registers};

/// A comparison of numbers, of which the signed ones have been told apart by type. Unordered forms are true where an
/// operand is NaN.
macro_rules! ordered {
    ($compare:expr, $a:expr, $b:expr, $view:expr) => {{
        let view = $view;
        match $compare {
            Compare::Eq | Compare::Equ => test($a, $b, |x, y| view(x) == view(y)),
            Compare::Ne | Compare::Neu => test($a, $b, |x, y| view(x) != view(y)),
            Compare::Lt | Compare::Lo | Compare::Ltu => test($a, $b, |x, y| view(x) < view(y)),
            Compare::Le | Compare::Ls | Compare::Leu => test($a, $b, |x, y| view(x) <= view(y)),
            Compare::Gt | Compare::Hi | Compare::Gtu => test($a, $b, |x, y| view(x) > view(y)),
            Compare::Ge | Compare::Hs | Compare::Geu => test($a, $b, |x, y| view(x) >= view(y)),
            Compare::Num => u32::MAX,
            Compare::Nan => 0,
        }
    }};
}

/// Adds or takes away the lanes where an operand is NaN.
#[inline(always)]
fn with_nans(compare: Compare, holds: u32, nans: u32) -> u32 {
    match compare {
        Compare::Equ
        | Compare::Neu
        | Compare::Ltu
        | Compare::Leu
        | Compare::Gtu
        | Compare::Geu
        | Compare::Nan => holds | nans,
        _ => holds & !nans,
    }
}

vectorised! {
    fn unsigned32(compare: Compare, a: &[u32; LANES], b: &[u32; LANES]) -> u32 {
        ordered!(compare, a, b, |x: u32| x)
    }
}
vectorised! {
    fn signed32(compare: Compare, a: &[u32; LANES], b: &[u32; LANES]) -> u32 {
        ordered!(compare, a, b, |x: u32| x as i32)
    }
}
vectorised! {
    fn unsigned64(compare: Compare, a: &[u64; LANES], b: &[u64; LANES]) -> u32 {
        ordered!(compare, a, b, |x: u64| x)
    }
}
vectorised! {
    fn signed64(compare: Compare, a: &[u64; LANES], b: &[u64; LANES]) -> u32 {
        ordered!(compare, a, b, |x: u64| x as i64)
    }
}
vectorised! {
    fn float32(compare: Compare, a: &[u32; LANES], b: &[u32; LANES]) -> u32 {
        let nans = test(a, b, |x, y| f32::from_bits(x).is_nan() || f32::from_bits(y).is_nan());
        with_nans(compare, ordered!(compare, a, b, f32::from_bits), nans)
    }
}
vectorised! {
    fn float64(compare: Compare, a: &[u64; LANES], b: &[u64; LANES]) -> u32 {
        let nans = test(a, b, |x, y| f64::from_bits(x).is_nan() || f64::from_bits(y).is_nan());
        with_nans(compare, ordered!(compare, a, b, f64::from_bits), nans)
    }
}

/// The lanes where a comparison holds; `None` for types that are not compared.
pub(super) fn compare(
    compare: Compare,
    ty: Type,
    ftz: bool,
    registers: &Registers,
    a: &Src,
    b: &Src,
    context: &Context<'_>,
) -> Option<u32> {
    let narrow = |src: &Src| registers.source64(src, context);
    Some(match ty {
        Type::U32 | Type::B32 | Type::S32 | Type::F32 => {
            let (mut space_a, mut space_b) = ([0; LANES], [0; LANES]);
            let mut a = view32(registers, a, context, &mut space_a);
            let mut b = view32(registers, b, context, &mut space_b);
            let (mut flushed_a, mut flushed_b);
            match ty {
                Type::S32 => signed32(compare, a, b),
                Type::F32 => {
                    if ftz {
                        (flushed_a, flushed_b) = (*a, *b);
                        flush_all(true, &mut flushed_a);
                        flush_all(true, &mut flushed_b);
                        (a, b) = (&flushed_a, &flushed_b);
                    }
                    float32(compare, a, b)
                }
                _ => unsigned32(compare, a, b),
            }
        }
        Type::U64 | Type::B64 | Type::S64 | Type::F64 => {
            let (mut space_a, mut space_b) = ([0; LANES], [0; LANES]);
            let a = view64(registers, a, context, &mut space_a);
            let b = view64(registers, b, context, &mut space_b);
            match ty {
                Type::S64 => signed64(compare, a, b),
                Type::F64 => float64(compare, a, b),
                _ => unsigned64(compare, a, b),
            }
        }
        Type::U16 | Type::B16 | Type::S16 => {
            let [a, b] = [a, b].map(|src| narrow(src).map(|bits| extend(bits, 16, ty.is_signed())));
            signed64(compare, &a, &b)
        }
        Type::F16 | Type::Bf16 => {
            let flush =
                |bits: u64| if ftz && ty == Type::F16 && bits & 0x7c00 == 0 { bits & 0x8000 } else { bits };
            let [a, b] =
                [a, b].map(|src| narrow(src).map(|bits| half::value(ty, flush(bits & 0xffff)).to_bits()));
            float64(compare, &a, &b)
        }
        _ => return None,
    })
}

/// A comparison's mask and its complement, each combined with a predicate.
pub(super) fn combine(holds: u32, with: &Option<(BoolOp, Src, bool)>, registers: &Registers) -> (u32, u32) {
    match with {
        None => (holds, !holds),
        Some((op, src, negate)) => {
            let other = registers.condition(src, *negate);
            let apply = |holds: u32| match op {
                BoolOp::And => holds & other,
                BoolOp::Or => holds | other,
                BoolOp::Xor => holds ^ other,
            };
            (apply(holds), apply(!holds))
        }
    }
}

/// What `set` writes where a comparison holds; elsewhere it writes 0.
pub(super) fn truth(to: Type) -> u32 {
    match to {
        Type::F32 => 1f32.to_bits(),
        Type::F16 => 0x3c00,
        Type::Bf16 => 0x3f80,
        _ => u32::MAX,
    }
}
