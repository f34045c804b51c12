//! Pieces of chains as C text: places of elements, and functions of one value.

use crate::chain::Access;
use crate::ctext::{axis, extents};
use ddnnc_ir::{UnaryKind, ValueType};

/// The coordinates of the element at `index` of a value, as C expressions of unsigned integers.
pub(crate) fn coordinates(ty: &ValueType, index: &Access) -> Vec<String> {
    let d = ty.dims();
    let split = |whole: &str, extents: &[usize]| -> Vec<String> {
        let mut inner = 1;
        let mut all: Vec<String> = Vec::new();
        for (i, &extent) in extents.iter().enumerate().rev() {
            let mut text = if inner > 1 { format!("{whole} / {inner}") } else { whole.to_owned() };
            if i > 0 {
                text = format!("{text} % {extent}");
            }
            all.push(if extent == 1 { "0".to_owned() } else { format!("({text})") });
            inner *= extent.max(1);
        }
        all.reverse();
        all
    };
    match index {
        Access::Repeated(place) => {
            let memory = split(&format!("({place})"), &extents(ty));
            (0..d.len()).map(|a| memory[axis(ty, a)].clone()).collect()
        }
        Access::Channel => vec!["c".to_owned(); d.len()],
        Access::Scalar | Access::Random => vec!["0".to_owned(); d.len()],
        Access::Element if d.len() < 2 => vec!["row".to_owned(); d.len()],
        Access::Element => {
            let mut rows = d.to_vec();
            rows.remove(1);
            let mut all = split("row", &rows);
            all.insert(1, "c".to_owned());
            all
        }
    }
}

/// The place in memory of the element of these coordinates.
pub(crate) fn place(ty: &ValueType, coordinates: &[String]) -> String {
    let extents = extents(ty);
    let mut steps = vec![1; extents.len()];
    for i in (0..extents.len().saturating_sub(1)).rev() {
        steps[i] = steps[i + 1] * extents[i + 1];
    }
    let term = |(a, at): (usize, &String)| match steps[axis(ty, a)] {
        _ if at == "0" => None,
        1 => Some(at.clone()),
        step => Some(format!("{at} * {step}")),
    };
    let terms: Vec<String> = coordinates.iter().enumerate().filter_map(term).collect();
    if terms.is_empty() { "0".to_owned() } else { terms.join(" + ") }
}

/// `text` with every `word` that stands alone replaced.
pub(crate) fn replace_word(text: &str, word: char, with: &str) -> String {
    let mut made = String::new();
    let mut before = ' ';
    let mut rest = text.chars().peekable();
    let part = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '.';
    while let Some(c) = rest.next() {
        let alone = c == word && !part(before) && !rest.peek().copied().is_some_and(part);
        if alone {
            made.push_str(with);
        } else {
            made.push(c);
        }
        before = c;
    }
    made
}

/// Operations and text of f(x).
pub(crate) fn unary(kind: UnaryKind) -> (usize, &'static str) {
    match kind {
        UnaryKind::Relu => (1, "x <= 0.f ? 0.f : x"),
        UnaryKind::Relu6 => (2, "x <= 0.f ? 0.f : x >= 6.f ? 6.f : x"),
        UnaryKind::Sigmoid => (12, "1.f / (1.f + expf(-x))"),
        UnaryKind::Tanh => (20, "tanhf(x)"),
        UnaryKind::HardSwish => {
            (6, "x * (x + 3.f <= 0.f ? 0.f : x + 3.f >= 6.f ? 6.f : x + 3.f) * 0.166666667f")
        }
        UnaryKind::Silu => (12, "x * (1.f / (1.f + expf(-x)))"),
        UnaryKind::Gelu => (25, "x * fmaf(0.5f, erff(x * 0.707106781f), 0.5f)"),
        UnaryKind::Square => (1, "x * x"),
        UnaryKind::Log => (21, "logf(x < 1.17549435e-38f ? 1.17549435e-38f : x)"),
    }
}
