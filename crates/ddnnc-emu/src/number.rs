//! Constants of PTX text.

use crate::inst::Type;

/// An integer: decimal, `0x`, `0b` or octal with a leading 0, with or without `U`.
pub(crate) fn integer(text: &str) -> Option<i128> {
    let text = text.strip_suffix('U').unwrap_or(text);
    let parse = |digits: &str, radix| u64::from_str_radix(digits, radix).ok().map(i128::from);
    // `from_str_radix` would take a sign.
    if !text.starts_with(|c: char| c.is_ascii_digit()) || text.contains('+') || text.contains('-') {
        return None;
    }
    if text == "0" {
        return Some(0);
    }
    match text.strip_prefix('0') {
        None => parse(text, 10),
        Some(rest) => match rest.as_bytes().first() {
            Some(b'x' | b'X') => parse(&rest[1..], 16),
            Some(b'b' | b'B') => parse(&rest[1..], 2),
            _ => parse(rest, 8),
        },
    }
}

/// A floating-point constant.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Float {
    /// `0f3F800000`
    Single(u32),
    /// `0d3FF0000000000000`
    Double(u64),
    /// `1.5`
    Decimal(f64),
}

/// A floating-point constant: exact bits or decimal.
pub(crate) fn float(text: &str) -> Option<Float> {
    let hex = |prefix: [&str; 2], digits: usize| {
        let rest = text.strip_prefix(prefix[0]).or_else(|| text.strip_prefix(prefix[1]))?;
        let valid = rest.len() == digits && rest.bytes().all(|c| c.is_ascii_hexdigit());
        if valid { u64::from_str_radix(rest, 16).ok() } else { None }
    };
    if let Some(bits) = hex(["0f", "0F"], 8) {
        return Some(Float::Single(bits as u32));
    }
    if let Some(bits) = hex(["0d", "0D"], 16) {
        return Some(Float::Double(bits));
    }
    let decimal = text.starts_with(|c: char| c.is_ascii_digit())
        && text.contains('.')
        && text.bytes().all(|c| c.is_ascii_digit() || matches!(c, b'.' | b'e' | b'E' | b'+' | b'-'));
    if decimal { text.parse().ok().map(Float::Decimal) } else { None }
}

/// The low bits of a value, as wide as a type.
fn low(value: u64, ty: Type) -> u64 {
    if ty.bits() >= 64 { value } else { value & ((1 << ty.bits()) - 1) }
}

/// The bits of a constant as a type has them; `minus` where a `-` stands before it.
pub(crate) fn bits(text: &str, minus: bool, ty: Type) -> Result<u64, String> {
    let shown = if minus { format!("-{text}") } else { text.to_owned() };
    let mismatch = || format!("the constant `{shown}` is not one of type `.{}`", ty.name());
    let value = if text == "WARP_SZ" { Some(32) } else { integer(text) };
    if let Some(value) = value {
        let value = if minus { -value } else { value };
        return match ty {
            Type::Pred => Ok(u64::from(value != 0)),
            _ if ty.is_float() => Err(mismatch()),
            // Sign-extended where it is narrower than the type.
            _ => Ok(low(value as u64, ty)),
        };
    }
    let sign32 = u32::from(minus) << 31;
    let sign64 = u64::from(minus) << 63;
    match (float(text), ty) {
        (Some(Float::Single(bits)), Type::F32 | Type::B32) => Ok(u64::from(bits ^ sign32)),
        (Some(Float::Double(bits)), Type::F64 | Type::B64) => Ok(bits ^ sign64),
        (Some(Float::Decimal(value)), Type::F32) => Ok(u64::from((value as f32).to_bits() ^ sign32)),
        (Some(Float::Decimal(value)), Type::F64) => Ok(value.to_bits() ^ sign64),
        (Some(_), _) => Err(mismatch()),
        (None, _) => Err(format!("`{shown}` is neither declared nor a number")),
    }
}
