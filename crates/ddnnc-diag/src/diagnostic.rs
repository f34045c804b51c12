//! What a diagnostic says.

use crate::{Code, Span};

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The input is wrong; nothing is produced.
    Error,
    /// The input is legal and probably not meant.
    Warning,
}

/// A place in the source with what is to be said of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Label {
    /// The place.
    pub span: Span,
    /// A short phrase; may be empty.
    pub text: String,
    /// Whether the message is about this place (drawn with `^`) or it is the other place that disagrees (`-`).
    pub primary: bool,
}

/// One error or warning: a terse message, places, and the way out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// The kind of error; every kind has a case in the corpus of wrong specs.
    pub code: Code,
    /// One terse phrase, lower case, no full stop.
    pub message: String,
    /// The places, primary first.
    pub labels: Vec<Label>,
    /// Sentences that say the way out.
    pub hints: Vec<String>,
}

impl Diagnostic {
    /// An error of kind `code` with a terse message and no place yet.
    pub fn error(code: Code, message: impl Into<String>) -> Diagnostic {
        Diagnostic {
            severity: Severity::Error,
            code,
            message: message.into(),
            labels: Vec::new(),
            hints: Vec::new(),
        }
    }

    /// A warning of kind `code` with a terse message and no place yet.
    pub fn warning(code: Code, message: impl Into<String>) -> Diagnostic {
        Diagnostic { severity: Severity::Warning, ..Diagnostic::error(code, message) }
    }

    /// Adds the place that the message is about.
    pub fn at(mut self, span: Span, text: impl Into<String>) -> Diagnostic {
        self.labels.push(Label { span, text: text.into(), primary: true });
        self
    }

    /// Adds another place that has to do with it.
    pub fn with(mut self, span: Span, text: impl Into<String>) -> Diagnostic {
        self.labels.push(Label { span, text: text.into(), primary: false });
        self
    }

    /// Adds a sentence that says the way out.
    pub fn hint(mut self, text: impl Into<String>) -> Diagnostic {
        self.hints.push(text.into());
        self
    }

    /// Whether it is an error.
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }
}

/// Pairs of letters that one search for a name may compare.
const MAX_WORK: usize = 1 << 20;

/// The candidate nearest to `name`, where one is near enough to have been meant.
///
/// Near enough is a third of the letters changed, left out, put in or swapped, or any difference of case; of two equally
/// near ones it is the first in the alphabet. Of very many or very long candidates only the first ones are looked at.
pub fn did_you_mean<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let length = name.chars().count();
    let limit = (length / 3).max(1);
    let lower = name.to_lowercase();
    let mut work = MAX_WORK;
    candidates
        .into_iter()
        .filter(|candidate| *candidate != name && candidate.chars().count().abs_diff(length) <= limit)
        .take_while(|candidate| {
            let needed = length.saturating_mul(candidate.len());
            work = work.saturating_sub(needed);
            work > 0
        })
        .map(|candidate| (strsim::damerau_levenshtein(&lower, &candidate.to_lowercase()), candidate))
        // A name of one letter has nothing in common with another one.
        .filter(|(distance, candidate)| {
            *distance <= limit && *distance < length.max(candidate.chars().count())
        })
        .min()
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_names_are_found_and_far_ones_are_not() {
        assert_eq!(did_you_mean("subnett", ["input", "subnet"]), Some("subnet"));
        assert_eq!(did_you_mean("ocnv", ["conv", "bn"]), Some("conv"));
        assert_eq!(did_you_mean("ReLU", ["gelu", "relu", "relu6"]), Some("relu"));
        assert_eq!(did_you_mean("s4", ["s3", "s2"]), Some("s2"));
        assert_eq!(did_you_mean("a", ["b", "c"]), None);
        assert_eq!(did_you_mean("conv", ["conv", "linear"]), None);
        assert_eq!(did_you_mean("", ["a"]), None);
    }

    #[test]
    fn the_search_for_a_name_is_bounded() {
        let (a, b) = ("a".repeat(100_000), "b".repeat(100_000));
        assert_eq!(did_you_mean(&a, [b.as_str()]), None);
        let many: Vec<String> = (0..20_000).map(|i| format!("{i:0>200}")).collect();
        assert_eq!(did_you_mean(&"x".repeat(200), many.iter().map(String::as_str)), None);
        assert_eq!(did_you_mean("subnett", [a.as_str(), "subnet"]), Some("subnet"));
    }
}
