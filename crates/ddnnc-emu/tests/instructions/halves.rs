//! f16 and bf16, single and in pairs.

use crate::exact::{BF16, F16, Format, Mode, Value, negated, product, sum};
use crate::floats::{Finish, edges, extreme};
use crate::suite::Expect::{self, Bits, Nan};
use crate::suite::{Suite, pairs, singles, triples};
use ddnnc_emu::inst::Type;

/// One operation on the elements of a type.
struct Elements {
    scalar: Type,
    packed: Type,
    format: Format,
}

impl Elements {
    /// Checks an operation on single elements and, with every two tuples side by side, on pairs of them. A NaN has no
    /// certain bits, so that pairs are compared element by element through an instruction that picks one.
    fn check(
        &self,
        suite: &mut Suite,
        op: &str,
        operands: usize,
        tuples: &[Vec<u64>],
        expect: &dyn Fn(&[u64]) -> Expect,
    ) {
        let registers = &["%a", "%b", "%c"][..operands];
        let (single, pair) = (self.scalar, self.packed);
        let instruction = format!("{op}.{} %d, {};", single.name(), registers.join(", "));
        suite.check(&instruction, single, &vec![single; operands], tuples, expect);
        let reversed = tuples.iter().rev();
        let packed: Vec<Vec<u64>> = tuples
            .iter()
            .zip(reversed)
            .map(|(low, high)| low.iter().zip(high).map(|(l, h)| h << 16 | l).collect())
            .collect();
        for (half, names) in [(0, "{%d, _}"), (16, "{_, %d}")] {
            let block = format!(
                "{{ .reg .b32 t; {op}.{} t, {}; mov.b32 {names}, t; }}",
                pair.name(),
                registers.join(", ")
            );
            suite.check_block(&block, single, &vec![Type::B32; operands], &packed, |v| {
                let element: Vec<u64> = v.iter().map(|bits| bits >> half & 0xffff).collect();
                expect(&element)
            });
        }
    }
}

pub fn cases(suite: &mut Suite) {
    for (scalar, packed, format) in [(Type::F16, Type::F16x2, F16), (Type::Bf16, Type::Bf16x2, BF16)] {
        let elements = Elements { scalar, packed, format };
        let half = scalar == Type::F16;
        for ftz in [false, true] {
            for sat in [false, true] {
                // bf16 has neither.
                if half || !(ftz || sat) {
                    arithmetic(suite, &elements, ftz, sat);
                }
            }
        }
        relu(suite, &elements);
        extremes(suite, &elements);
        signs(suite, &elements);
    }
}

fn arithmetic(suite: &mut Suite, elements: &Elements, ftz: bool, sat: bool) {
    let finish = Finish { format: elements.format, mode: Mode::Nearest, ftz, sat };
    let edges = edges(elements.format);
    let two = pairs(&edges, &edges);
    let read = |bits| finish.read(bits);
    let flags = format!("{}{}", if ftz { ".ftz" } else { "" }, if sat { ".sat" } else { "" });
    for rounding in ["", ".rn"] {
        elements.check(suite, &format!("add{rounding}{flags}"), 2, &two, &|v| {
            finish.write(&sum(&read(v[0]), &read(v[1]), Mode::Nearest))
        });
        elements.check(suite, &format!("sub{rounding}{flags}"), 2, &two, &|v| {
            finish.write(&sum(&read(v[0]), &negated(&read(v[1])), Mode::Nearest))
        });
        elements.check(suite, &format!("mul{rounding}{flags}"), 2, &two, &|v| {
            finish.write(&product(&read(v[0]), &read(v[1])))
        });
    }
    elements.check(suite, &format!("fma.rn{flags}"), 3, &some_triples(elements.format), &|v| {
        finish.write(&sum(&product(&read(v[0]), &read(v[1])), &read(v[2]), Mode::Nearest))
    });
}

fn some_triples(format: Format) -> Vec<Vec<u64>> {
    let edges = edges(format);
    let some: Vec<u64> = edges.iter().copied().skip(1).step_by(2).collect();
    triples(&some, &edges, &edges)
}

fn relu(suite: &mut Suite, elements: &Elements) {
    let format = elements.format;
    let finish = Finish { format, mode: Mode::Nearest, ftz: false, sat: false };
    elements.check(suite, "fma.rn.relu", 3, &some_triples(format), &|v| {
        let value = sum(&product(&format.read(v[0]), &format.read(v[1])), &format.read(v[2]), Mode::Nearest);
        match value {
            Value::Nan => Nan,
            Value::Infinite(true) | Value::Finite { negative: true, .. } => Bits(0),
            value => finish.write(&value),
        }
    });
}

fn extremes(suite: &mut Suite, elements: &Elements) {
    let finish = Finish { format: elements.format, mode: Mode::Nearest, ftz: false, sat: false };
    let edges = edges(elements.format);
    let two = pairs(&edges, &edges);
    for (op, larger) in [("min", false), ("max", true)] {
        for nan in [false, true] {
            elements.check(suite, &format!("{op}{}", if nan { ".NaN" } else { "" }), 2, &two, &|v| {
                finish.write(&extreme(&finish.read(v[0]), &finish.read(v[1]), larger, nan))
            });
        }
    }
}

fn signs(suite: &mut Suite, elements: &Elements) {
    let finish = Finish { format: elements.format, mode: Mode::Nearest, ftz: false, sat: false };
    let one = singles(&edges(elements.format));
    elements.check(suite, "neg", 1, &one, &|v| finish.write(&negated(&finish.read(v[0]))));
    elements.check(suite, "abs", 1, &one, &|v| finish.write(&finish.read(v[0] & 0x7fff)));
}
