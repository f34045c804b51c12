//! The errors found so far, each once.

use crate::limits;
use ddnnc_diag::{Code, Diagnostic, Span};
use rustc_hash::FxHashSet;

/// A collection of diagnostics without repetitions.
#[derive(Default)]
pub(crate) struct Diags {
    list: Vec<Diagnostic>,
    places: FxHashSet<(Code, Span)>,
    texts: FxHashSet<(Code, Span, String)>,
}

impl Diags {
    /// Adds a diagnostic, unless the very same is there.
    pub(crate) fn push(&mut self, diagnostic: Diagnostic) {
        let key = (diagnostic.code, place(&diagnostic));
        if self.texts.insert((key.0, key.1, diagnostic.message.clone())) {
            self.places.insert(key);
            self.list.push(diagnostic);
        }
    }

    /// Adds a diagnostic, unless one of its kind is at its place: a block that is wrong in fifty instances, perhaps
    /// with another shape in each, is one mistake.
    pub(crate) fn push_once(&mut self, diagnostic: Diagnostic) {
        if !self.places.contains(&(diagnostic.code, place(&diagnostic))) {
            self.push(diagnostic);
        }
    }

    /// Names that may have been meant: all of them, or none once there are so many errors that the search for the
    /// nearest of each would take long.
    pub(crate) fn candidates<'n>(&self, names: impl IntoIterator<Item = &'n str>) -> Vec<&'n str> {
        if self.list.len() >= limits::SUGGESTIONS { Vec::new() } else { names.into_iter().collect() }
    }

    /// Whether something is said of that place already.
    pub(crate) fn has_error_at(&self, span: Span) -> bool {
        [Code::UnknownName, Code::WrongKind, Code::Unsupported]
            .iter()
            .any(|code| self.places.contains(&(*code, span)))
    }

    /// Whether an error is among them.
    pub(crate) fn has_errors(&self) -> bool {
        self.list.iter().any(Diagnostic::is_error)
    }

    /// How many errors are among them.
    pub(crate) fn errors(&self) -> usize {
        self.list.iter().filter(|d| d.is_error()).count()
    }

    /// (errors, warnings) in the order of their places.
    pub(crate) fn finish(mut self) -> (Vec<Diagnostic>, Vec<Diagnostic>) {
        self.list.sort_by_key(place);
        let (mut errors, mut warnings): (Vec<_>, Vec<_>) =
            self.list.into_iter().partition(Diagnostic::is_error);
        errors.truncate(limits::ERRORS);
        warnings.truncate(limits::ERRORS);
        (errors, warnings)
    }
}

/// `in` where nothing comes in.
pub(crate) fn no_input(at: Span) -> Diagnostic {
    Diagnostic::error(Code::UnknownName, "`in` has no value here")
        .at(at, "")
        .hint("`in` is the input of a block; it has no value outside the bodies of blocks and stages")
}

fn place(diagnostic: &Diagnostic) -> Span {
    diagnostic.labels.first().map_or(Span::default(), |label| label.span)
}
