//! The one renderer.

use crate::{Diagnostic, Severity, SourceMap};
use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};

/// Renders diagnostics as text: message, source lines with carets, hints; coloured where `color` is set.
///
/// The text ends with a line break and holds nothing but what the diagnostics say.
pub fn render(diagnostics: &[Diagnostic], sources: &SourceMap, color: bool) -> String {
    let renderer = if color { Renderer::styled() } else { Renderer::plain() };
    let mut out = String::new();
    for diagnostic in diagnostics {
        let level = match diagnostic.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let title = level.primary_title(diagnostic.message.as_str()).id(diagnostic.code.as_str());
        let mut group = Group::with_title(title);
        let mut seen = Vec::new();
        for label in &diagnostic.labels {
            let source = label.span.source;
            if seen.contains(&source) {
                continue;
            }
            seen.push(source);
            let text = sources.text(source);
            let mut snippet = Snippet::source(text).path(sources.name(source)).line_start(1);
            for label in diagnostic.labels.iter().filter(|l| l.span.source == source) {
                let kind = if label.primary { AnnotationKind::Primary } else { AnnotationKind::Context };
                let start = floor_boundary(text, label.span.start as usize);
                let end = floor_boundary(text, label.span.end as usize).max(start);
                let mut annotation = kind.span(start..end);
                if !label.text.is_empty() {
                    annotation = annotation.label(label.text.as_str());
                }
                snippet = snippet.annotation(annotation);
            }
            group = group.element(snippet);
        }
        for hint in &diagnostic.hints {
            group = group.element(Level::HELP.message(hint.as_str()));
        }
        out.push_str(&renderer.render(&[group]));
        out.push_str("\n\n");
    }
    if out.ends_with("\n\n") {
        out.pop();
    }
    out
}

/// The nearest character border at or before `at`.
fn floor_boundary(text: &str, at: usize) -> usize {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Code, SourceId, Span};

    #[test]
    fn both_places_and_the_hint_are_shown() {
        let mut sources = SourceMap::new();
        let id = sources.add("a.ddnn", "let a = 1\nlet é = 2\nlet a = 3\n");
        let diagnostic = Diagnostic::error(Code::DuplicateName, "`a` is declared twice")
            .at(Span::new(id, 25, 26), "again here")
            .with(Span::new(id, 4, 5), "first here")
            .hint("remove one of them");
        let text = render(&[diagnostic.clone(), diagnostic], &sources, false);
        let one = "\
error[duplicate-name]: `a` is declared twice
 --> a.ddnn:3:5
  |
1 | let a = 1
  |     - first here
2 | let é = 2
3 | let a = 3
  |     ^ again here
  |
  = help: remove one of them
";
        assert_eq!(text, format!("{one}\n{one}"));
    }

    #[test]
    fn strange_places_do_not_panic() {
        let mut sources = SourceMap::new();
        let id = sources.add("a.ddnn", "é\r\n\té\u{1b}[0m");
        for source in [id, SourceId(9)] {
            for (start, end) in
                [(0, 0), (1, 1), (0, 1), (2, 3), (3, 2), (5, 900), (900, 901), (usize::MAX, usize::MAX)]
            {
                let span = Span::new(source, start, end);
                let diagnostic = Diagnostic::warning(Code::Syntax, "x").at(span, "").with(span, "y");
                assert!(render(&[diagnostic], &sources, true).contains('x'));
            }
        }
        assert_eq!(render(&[], &sources, false), "");
        assert_eq!(
            render(&[Diagnostic::error(Code::Missing, "no place")], &sources, false),
            "error[missing]: no place\n"
        );
    }
}
