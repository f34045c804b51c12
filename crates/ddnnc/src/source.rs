//! A text that was put together from pieces of others, and the way back: which byte came from where.

use ddnnc_diag::{Diagnostic, SourceId, Span};

/// A stretch of a [`Patched`] text.
#[derive(Clone, Debug)]
struct Piece {
    len: usize,
    source: SourceId,
    /// Where it begins in its source.
    at: usize,
    /// Text that stands in no source; all of it counts as the place `at`.
    glue: bool,
}

/// A part of what is spliced in.
#[derive(Clone, Copy, Debug)]
pub enum Part<'a> {
    /// What the user did not write; it counts as the place `at` of the source.
    Glue {
        /// The text.
        text: &'a str,
        /// A byte of the source.
        at: usize,
    },
    /// What the user wrote at `at` of the source.
    Written {
        /// The text.
        text: &'a str,
        /// Its first byte in the source.
        at: usize,
    },
}

/// A text with splices. A span of it can be traced to the text that the user wrote.
#[derive(Clone, Debug)]
pub struct Patched {
    text: String,
    pieces: Vec<Piece>,
}

impl Patched {
    /// The whole of one source.
    pub fn new(text: &str, source: SourceId) -> Patched {
        Patched {
            text: text.to_string(),
            pieces: vec![Piece { len: text.len(), source, at: 0, glue: false }],
        }
    }

    /// The text with all splices.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Puts `parts` of `source` in place of a range of bytes, which must lie on character borders.
    pub fn splice(&mut self, (start, end): (usize, usize), source: SourceId, parts: &[Part<'_>]) {
        let mut middle = Vec::with_capacity(parts.len());
        let mut new = String::new();
        for part in parts {
            let (text, at, glue) = match *part {
                Part::Glue { text, at } => (text, at, true),
                Part::Written { text, at } => (text, at, false),
            };
            new.push_str(text);
            middle.push(Piece { len: text.len(), source, at, glue });
        }
        let mut pieces = Vec::with_capacity(self.pieces.len() + 4);
        let mut middle = Some(middle);
        let mut offset = 0;
        for old in &self.pieces {
            let (from, to) = (offset, offset + old.len);
            offset = to;
            if from < start {
                pieces.push(Piece { len: to.min(start) - from, ..old.clone() });
            }
            if to >= start
                && let Some(middle) = middle.take()
            {
                pieces.extend(middle);
            }
            if to > end {
                let skip = end.saturating_sub(from);
                let at = if old.glue { old.at } else { old.at + skip };
                pieces.push(Piece { len: to - from.max(end), at, ..old.clone() });
            }
        }
        pieces.extend(middle.into_iter().flatten());
        pieces.retain(|piece| piece.len > 0);
        self.pieces = pieces;
        self.text.replace_range(start..end, &new);
    }

    /// Where the byte `offset` came from; for the end of a span, the end of the piece before it.
    fn trace(&self, offset: usize, is_end: bool) -> (SourceId, usize) {
        let mut from = 0;
        for piece in &self.pieces {
            let to = from + piece.len;
            if offset < to || (is_end && offset == to) {
                let inside = if piece.glue { 0 } else { offset - from };
                return (piece.source, piece.at + inside);
            }
            from = to;
        }
        self.pieces
            .last()
            .map_or((SourceId::default(), 0), |p| (p.source, p.at + if p.glue { 0 } else { p.len }))
    }

    /// The place that the user wrote for a span of this text.
    pub fn origin(&self, span: Span) -> Span {
        let (source, start) = self.trace(span.start as usize, false);
        let (end_source, end) = self.trace(span.end as usize, span.end > span.start);
        Span::new(source, start, if end_source == source { end.max(start) } else { start })
    }

    /// Diagnostics about this text (known as `source`), as diagnostics about the texts that it was made of.
    pub fn trace_back(&self, source: SourceId, diagnostics: &mut [Diagnostic]) {
        for label in diagnostics.iter_mut().flat_map(|d| &mut d.labels) {
            if label.span.source == source {
                label.span = self.origin(label.span);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_is_traced_to_its_text() {
        let (file, first, second) = (SourceId(0), SourceId(1), SourceId(2));
        let mut text = Patched::new("a = 1, b = 2", file);
        text.splice((4, 5), first, &[Part::Written { text: "100", at: 2 }]);
        assert_eq!(text.text(), "a = 100, b = 2");
        text.splice(
            (14, 14),
            second,
            &[
                Part::Glue { text: ", ", at: 0 },
                Part::Written { text: "c = 3", at: 0 },
                Part::Glue { text: " ", at: 5 },
            ],
        );
        assert_eq!(text.text(), "a = 100, b = 2, c = 3 ");
        let whole = SourceId(9);
        let cases = [
            ((0, 1), (file, 0, 1)),
            ((4, 7), (first, 2, 5)),
            ((5, 6), (first, 3, 4)),
            ((9, 10), (file, 7, 8)),
            ((13, 14), (file, 11, 12)),
            ((16, 21), (second, 0, 5)),
            ((0, 14), (file, 0, 12)),
        ];
        for ((start, end), (source, from, to)) in cases {
            let got = text.origin(Span::new(whole, start, end));
            assert_eq!(got, Span::new(source, from, to), "{start}..{end}");
        }
        // A splice over an earlier splice leaves nothing of it.
        text.splice((4, 7), second, &[Part::Written { text: "7", at: 4 }]);
        assert_eq!(text.text(), "a = 7, b = 2, c = 3 ");
        assert_eq!(text.origin(Span::new(whole, 4, 5)), Span::new(second, 4, 5));
        assert_eq!(text.origin(Span::new(whole, 7, 8)), Span::new(file, 7, 8));
    }

    #[test]
    fn splices_inside_a_splice() {
        let mut text = Patched::new("x y", SourceId(0));
        text.splice((2, 3), SourceId(1), &[Part::Written { text: "sgd()", at: 10 }]);
        text.splice((6, 6), SourceId(2), &[Part::Written { text: "lr = 1", at: 3 }]);
        assert_eq!(text.text(), "x sgd(lr = 1)");
        assert_eq!(text.origin(Span::new(SourceId(9), 2, 6)), Span::new(SourceId(1), 10, 14));
        assert_eq!(text.origin(Span::new(SourceId(9), 6, 8)), Span::new(SourceId(2), 3, 5));
        assert_eq!(text.origin(Span::new(SourceId(9), 12, 13)), Span::new(SourceId(1), 14, 15));
    }
}
