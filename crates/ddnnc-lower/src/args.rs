//! Evaluated arguments and settings: the value of each parameter in the kind and range that it asks for.

use crate::diags::Diags;
use crate::value::Value;
use ddnnc_diag::{Code, Diagnostic, Span};
use std::fmt;

/// Where a number may lie.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Range {
    /// > 0
    Positive,
    /// ≥ 0
    NotNegative,
    /// [0, 1)
    BelowOne,
    /// (0, 1)
    Between,
    /// (0, 1]
    Fraction,
    /// [lo, hi]
    Closed(f64, f64),
}

impl Range {
    fn holds(self, x: f64) -> bool {
        match self {
            Range::Positive => x > 0.0,
            Range::NotNegative => x >= 0.0,
            Range::BelowOne => (0.0..1.0).contains(&x),
            Range::Between => x > 0.0 && x < 1.0,
            Range::Fraction => x > 0.0 && x <= 1.0,
            Range::Closed(lo, hi) => (lo..=hi).contains(&x),
        }
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Range::Positive => f.write_str("greater than 0"),
            Range::NotNegative => f.write_str("0 or more"),
            Range::BelowOne => f.write_str("at least 0 and less than 1"),
            Range::Between => f.write_str("between 0 and 1"),
            Range::Fraction => f.write_str("greater than 0 and at most 1"),
            Range::Closed(lo, hi) => write!(f, "from {lo} to {hi}"),
        }
    }
}

/// A value under the name that messages use for it.
#[derive(Clone, Debug)]
pub(crate) struct Given {
    /// `kernel` of `conv`
    pub(crate) what: String,
    /// The value.
    pub(crate) value: Value,
    /// Where it is written.
    pub(crate) span: Span,
}

impl Given {
    /// Says that the value is of the wrong kind.
    pub(crate) fn wrong_kind<T>(&self, wanted: &str, diags: &mut Diags) -> Option<T> {
        if !self.value.is_poison() {
            let is = match &self.value {
                Value::Float(_) | Value::Str(_) | Value::Bool(_) => self.value.to_string(),
                other => other.kind().to_string(),
            };
            diags.push_once(
                Diagnostic::error(Code::WrongKind, format!("{} takes {wanted}, not {is}", self.what))
                    .at(self.span, ""),
            );
        }
        None
    }

    fn out_of_range<T>(&self, x: &dyn fmt::Display, wanted: &str, diags: &mut Diags) -> Option<T> {
        diags.push_once(
            Diagnostic::error(Code::OutOfRange, format!("{} is {x}", self.what))
                .at(self.span, format!("it must be {wanted}")),
        );
        None
    }

    fn whole(&self, wanted: &str, lo: i64, hi: i64, diags: &mut Diags) -> Option<i64> {
        let Value::Int(i) = self.value else { return self.wrong_kind(wanted, diags) };
        if (lo..=hi).contains(&i) {
            return Some(i);
        }
        let wanted = if i < lo { format!("{lo} or more") } else { format!("at most {hi}") };
        self.out_of_range(&i, &wanted, diags)
    }

    /// An integer in `lo..=hi`.
    pub(crate) fn int(&self, lo: i64, hi: i64, diags: &mut Diags) -> Option<i64> {
        self.whole("an integer", lo, hi, diags)
    }

    /// An integer in `lo..=hi`, `lo` not negative, as a size.
    pub(crate) fn size(&self, lo: i64, hi: i64, diags: &mut Diags) -> Option<usize> {
        self.int(lo, hi, diags).and_then(|i| usize::try_from(i).ok())
    }

    /// An integer for both directions, or a list of two: (rows, columns).
    pub(crate) fn pair(&self, lo: i64, hi: i64, diags: &mut Diags) -> Option<[usize; 2]> {
        const WANTED: &str = "an integer or a list of two";
        match &self.value {
            Value::List(items) => match &**items {
                [rows, columns] => {
                    Some([self.entry(rows).size(lo, hi, diags)?, self.entry(columns).size(lo, hi, diags)?])
                }
                _ => {
                    diags.push_once(
                        Diagnostic::error(
                            Code::WrongKind,
                            format!("{} takes {WANTED}, not a list of {}", self.what, items.len()),
                        )
                        .at(self.span, ""),
                    );
                    None
                }
            },
            _ => {
                let k = self.whole(WANTED, lo, hi, diags).and_then(|i| usize::try_from(i).ok())?;
                Some([k, k])
            }
        }
    }

    /// A number in a range.
    pub(crate) fn number(&self, range: Range, diags: &mut Diags) -> Option<f64> {
        let Some(x) = self.value.number() else { return self.wrong_kind("a number", diags) };
        if !range.holds(x) {
            return self.out_of_range(&x, &range.to_string(), diags);
        }
        // Programs compute in 32 bits.
        if !(x as f32).is_finite() {
            return self.out_of_range(&format_args!("{x:e}"), &format!("at most {:e}", f32::MAX), diags);
        }
        Some(x)
    }

    /// Numbers, each in a range.
    pub(crate) fn numbers(&self, range: Range, diags: &mut Diags) -> Option<Vec<f64>> {
        let Value::List(items) = &self.value else { return self.wrong_kind("a list of numbers", diags) };
        items.iter().map(|item| self.entry(item).number(range, diags)).collect()
    }

    /// An entry of a list.
    pub(crate) fn entry(&self, value: &Value) -> Given {
        Given { what: format!("an entry of {}", self.what), value: value.clone(), span: self.span }
    }

    /// A boolean.
    pub(crate) fn flag(&self, diags: &mut Diags) -> Option<bool> {
        match self.value {
            Value::Bool(b) => Some(b),
            _ => self.wrong_kind("true or false", diags),
        }
    }

    /// A text.
    pub(crate) fn text(&self, diags: &mut Diags) -> Option<String> {
        match &self.value {
            Value::Str(s) => Some(s.to_string()),
            _ => self.wrong_kind("a string", diags),
        }
    }
}

/// The evaluated arguments of one call.
#[derive(Debug)]
pub(crate) struct Args {
    /// Each parameter with what the call gives for it.
    pub(crate) given: Vec<(String, Option<Given>)>,
    /// Further arguments.
    pub(crate) more: Vec<Given>,
}

impl Args {
    /// What the call gives for a parameter.
    pub(crate) fn get(&self, param: &str) -> Option<&Given> {
        self.given.iter().find(|(name, _)| name == param).and_then(|(_, g)| g.as_ref())
    }

    /// Whether an argument is poison, so that nothing can come of the call.
    pub(crate) fn poisoned(&self) -> bool {
        self.given.iter().filter_map(|(_, g)| g.as_ref()).chain(&self.more).any(|g| g.value.is_poison())
    }

    /// A size in `lo..=hi`; `default` where it is not given.
    pub(crate) fn size(
        &self,
        param: &str,
        default: usize,
        lo: i64,
        hi: i64,
        diags: &mut Diags,
    ) -> Option<usize> {
        self.get(param).map_or(Some(default), |g| g.size(lo, hi, diags))
    }

    /// A pair of sizes; `default` where it is not given.
    pub(crate) fn pair(
        &self,
        param: &str,
        default: [usize; 2],
        lo: i64,
        hi: i64,
        diags: &mut Diags,
    ) -> Option<[usize; 2]> {
        self.get(param).map_or(Some(default), |g| g.pair(lo, hi, diags))
    }

    /// A number; `default` where it is not given.
    pub(crate) fn number(&self, param: &str, default: f64, range: Range, diags: &mut Diags) -> Option<f64> {
        self.get(param).map_or(Some(default), |g| g.number(range, diags))
    }

    /// A boolean; `default` where it is not given.
    pub(crate) fn flag(&self, param: &str, default: bool, diags: &mut Diags) -> Option<bool> {
        self.get(param).map_or(Some(default), |g| g.flag(diags))
    }
}
