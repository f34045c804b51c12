//! `setp` and `set`: every comparison of every type, alone and combined with a predicate.

use crate::exact::{BF16, F16, F32, F64, Format, ordering};
use crate::suite::Expect::Bits;
use crate::suite::{Suite, pairs, triples};
use crate::{floats, integers};
use ddnnc_emu::inst::Type;
use std::cmp::Ordering;

fn format(ty: Type) -> Option<Format> {
    match ty {
        Type::F16 => Some(F16),
        Type::Bf16 => Some(BF16),
        Type::F32 => Some(F32),
        Type::F64 => Some(F64),
        _ => None,
    }
}

/// Comparisons as the ISA names them: by what order makes them true; the last letter `u` makes NaN true.
fn holds(compare: &str, order: Option<Ordering>) -> bool {
    let (name, unordered) = match compare {
        "equ" => ("eq", true),
        "neu" => ("ne", true),
        "ltu" => ("lt", true),
        "leu" => ("le", true),
        "gtu" => ("gt", true),
        "geu" => ("ge", true),
        name => (name, false),
    };
    let Some(order) = order else { return unordered || name == "nan" };
    match name {
        "eq" => order == Ordering::Equal,
        "ne" => order != Ordering::Equal,
        "lt" | "lo" => order == Ordering::Less,
        "le" | "ls" => order != Ordering::Greater,
        "gt" | "hi" => order == Ordering::Greater,
        "ge" | "hs" => order != Ordering::Less,
        name => name == "num",
    }
}

fn comparisons(ty: Type) -> &'static [&'static str] {
    if format(ty).is_some() {
        return &[
            "eq", "ne", "lt", "le", "gt", "ge", "equ", "neu", "ltu", "leu", "gtu", "geu", "num", "nan",
        ];
    }
    match ty.name().as_bytes()[0] {
        b'b' => &["eq", "ne"],
        b'u' => &["eq", "ne", "lt", "le", "gt", "ge", "lo", "ls", "hi", "hs"],
        _ => &["eq", "ne", "lt", "le", "gt", "ge"],
    }
}

fn compared(ty: Type, ftz: bool, a: u64, b: u64) -> Option<Ordering> {
    match format(ty) {
        Some(format) => {
            let read = |bits| format.read(if ftz { format.flushed(bits) } else { bits });
            ordering(&read(a), &read(b))
        }
        None => Some(integers::number(a, ty).cmp(&integers::number(b, ty))),
    }
}

pub fn cases(suite: &mut Suite) {
    use Type::{B16, B32, B64, Bf16, F16, F32, F64, Pred, S16, S32, S64, U16, U32, U64};
    for ty in [B16, B32, B64, U16, U32, U64, S16, S32, S64, F16, Bf16, F32, F64] {
        let values = format(ty).map_or_else(|| integers::edges(ty), floats::edges);
        let two = pairs(&values, &values);
        // Every third value, of both signs: the logic does not look at them.
        let some: Vec<u64> = values.iter().copied().step_by(3).chain(values.last().copied()).collect();
        let three = triples(&some, &some, &[0, 1]);
        for compare in comparisons(ty) {
            for ftz in [false, true] {
                if ftz && !matches!(ty, F32 | F16) {
                    continue;
                }
                let flush = if ftz { ".ftz" } else { "" };
                let name = ty.name();
                let result = |v: &[u64]| holds(compare, compared(ty, ftz, v[0], v[1]));
                suite.check(&format!("setp.{compare}{flush}.{name} %d, %a, %b;"), Pred, &[ty; 2], &two, |v| {
                    Bits(u64::from(result(v)))
                });
                for to in [U32, S32, F32, F16, Bf16] {
                    suite.check(&format!("set.{compare}{flush}.{}.{name} %d, %a, %b;", to.name()), to, &[ty; 2], &two, |v| {
                        let one = format(to).map_or(0xffff_ffff, |f| (f.infinity(false) >> 1) & f.infinity(false));
                        Bits(if result(v) { one } else { 0 })
                    });
                }
                if ftz {
                    continue;
                }
                for (logic, f) in [
                    ("and", (|a, b| a && b) as fn(bool, bool) -> bool),
                    ("or", |a, b| a || b),
                    ("xor", |a, b| a != b),
                ] {
                    for not in ["", "!"] {
                        let other = |v: &[u64]| (v[2] == 1) != (not == "!");
                        let operands = [ty, ty, Pred];
                        let instruction = format!("setp.{compare}.{logic}.{name} %d, %a, %b, {not}%c;");
                        suite.check(&instruction, Pred, &operands, &three, |v| {
                            Bits(u64::from(f(result(v), other(v))))
                        });
                        let instruction = format!("set.{compare}.{logic}.u32.{name} %d, %a, %b, {not}%c;");
                        suite.check(&instruction, U32, &operands, &three, |v| {
                            Bits(if f(result(v), other(v)) { 0xffff_ffff } else { 0 })
                        });
                        // The second result is the opposite comparison, combined likewise.
                        let second = format!("setp.{compare}.{logic}.{name} _|%d, %a, %b, {not}%c;");
                        suite.check(&second, Pred, &operands, &three, |v| {
                            Bits(u64::from(f(!result(v), other(v))))
                        });
                    }
                }
            }
        }
    }
}
