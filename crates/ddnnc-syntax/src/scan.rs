//! A linear pass over the text before the grammar sees it.
//!
//! The grammar says what a file is; this pass only cuts the text into tokens, which serves three ends: text that is
//! too large or nested too deep is refused before anything recursive sees it, lexical mistakes get a message of their
//! own, and a file with errors can be cut into declarations that are parsed one by one.

use crate::ast::Comment;
use ddnnc_diag::{Code, Diagnostic, SourceId, Span};

/// The largest text that is parsed, in bytes.
pub(crate) const MAX_BYTES: usize = 1 << 20;
/// How deep brackets, `if`s and prefix operators may nest.
pub(crate) const MAX_NESTING: usize = 64;
/// How many operators one expression may chain, its surroundings included; this bounds the depth of the tree.
pub(crate) const MAX_CHAIN: usize = 256;

/// The longest name, in bytes; what is laid out in columns is no wider than a few of them.
pub(crate) const MAX_NAME: usize = 255;

/// How many errors of one file are reported.
pub(crate) const MAX_ERRORS: usize = 20;

/// The kinds of token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A name or a keyword.
    Word,
    /// A number.
    Number,
    /// A string with its quotes.
    Str,
    /// `(`, `[` or `{`
    Open,
    /// `)`, `]` or `}`
    Close,
    /// Any other punctuation.
    Symbol,
    /// What no token begins with; a diagnostic has been made of it.
    Bad,
}

/// A token and its bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Token {
    pub kind: Kind,
    pub start: usize,
    pub end: usize,
    /// Whether it is the first token of its line.
    pub first: bool,
}

/// The tokens and comments of a text.
pub(crate) struct Scan<'t> {
    pub text: &'t str,
    pub source: SourceId,
    pub tokens: Vec<Token>,
    pub comments: Vec<Comment>,
    /// Lexical mistakes, in source order.
    pub errors: Vec<Diagnostic>,
}

impl<'t> Scan<'t> {
    /// The text of token `i`; empty past the end.
    pub fn word(&self, i: usize) -> &'t str {
        self.tokens.get(i).map_or("", |t| &self.text[t.start..t.end])
    }

    /// The span of the bytes `start..end`.
    pub fn span(&self, start: usize, end: usize) -> Span {
        Span::new(self.source, start, end)
    }

    /// The span of token `i`; empty at the end of the text past the end.
    pub fn span_of(&self, i: usize) -> Span {
        let end = self.text.len();
        self.tokens.get(i).map_or(self.span(end, end), |t| self.span(t.start, t.end))
    }

    fn error(&mut self, start: usize, end: usize, message: impl Into<String>, label: &str, hint: &str) {
        if self.errors.len() >= MAX_ERRORS {
            return;
        }
        let span = self.span(start, end);
        let diagnostic = Diagnostic::error(Code::Syntax, message).at(span, label);
        self.errors.push(if hint.is_empty() { diagnostic } else { diagnostic.hint(hint) });
    }
}

/// Cuts `text` into tokens; an error where it is too large, nested too deep, or has line ends of another kind.
pub(crate) fn scan(text: &str, source: SourceId) -> Result<Scan<'_>, Diagnostic> {
    let mut scan = Scan { text, source, tokens: Vec::new(), comments: Vec::new(), errors: Vec::new() };
    if text.len() > MAX_BYTES {
        return Err(Diagnostic::error(Code::TooLarge, format!("the text is {} bytes long", text.len()))
            .at(scan.span(0, 0), "")
            .hint(format!("a spec has at most {MAX_BYTES} bytes")));
    }
    tokenize(&mut scan)?;
    limit_depth(&scan)?;
    Ok(scan)
}

/// Fills in the tokens and comments; an error where a line end is none, which makes nonsense of the rest.
fn tokenize(scan: &mut Scan<'_>) -> Result<(), Diagnostic> {
    let text = scan.text;
    let bytes = text.as_bytes();
    let mut at = if text.starts_with('\u{feff}') { '\u{feff}'.len_utf8() } else { 0 };
    let mut first = true;
    // Where a search for the end of `/* … */` need not begin any more, as it found none.
    let mut unclosed = bytes.len();
    while at < bytes.len() {
        let start = at;
        let kind = match bytes[at] {
            b'\n' => {
                first = true;
                at += 1;
                continue;
            }
            b' ' | b'\t' | b'\r' => {
                at += 1;
                continue;
            }
            b'/' if bytes.get(at + 1) == Some(&b'/') => {
                at = line_end(bytes, at);
                let comment = text[start..at].trim_end();
                if let Some(cr) = comment.find('\r') {
                    let message = "a carriage return alone does not end a line";
                    return Err(Diagnostic::error(Code::Syntax, message)
                        .at(scan.span(start + cr, start + cr), "the comment would go on behind it")
                        .hint("save the file with line feeds, or with carriage returns and line feeds"));
                }
                scan.comments.push(Comment {
                    text: comment.to_string(),
                    span: scan.span(start, start + comment.len()),
                    trailing: !first,
                });
                continue;
            }
            b'/' if bytes.get(at + 1) == Some(&b'*') => {
                let end = if start < unclosed { text[at + 2..].find("*/") } else { None };
                if end.is_none() {
                    unclosed = unclosed.min(start);
                }
                at = end.map_or_else(|| line_end(bytes, at), |n| at + 2 + n + 2);
                scan.error(
                    start,
                    start + 2,
                    "`/*` does not begin a comment",
                    "",
                    "comments are `// …` to the end of the line",
                );
                Kind::Bad
            }
            b'#' => {
                at = line_end(bytes, at);
                scan.error(start, start + 1, "`#` does not begin a comment", "", "write `//` for a comment");
                Kind::Bad
            }
            b'"' => string(scan, &mut at),
            b'\'' => {
                let ends = |b: &u8| matches!(b, b'\'' | b'\n');
                let end = bytes[at + 1..].iter().position(ends).map_or(bytes.len(), |n| at + 1 + n);
                at = if bytes.get(end) == Some(&b'\'') { end + 1 } else { at + 1 };
                scan.error(start, at, "a string stands in double quotes", "", "write \"…\" in place of '…'");
                Kind::Bad
            }
            b'0'..=b'9' => number(scan, &mut at),
            b'.' if bytes.get(at + 1).is_some_and(u8::is_ascii_digit) => {
                at = word_end(bytes, at + 1);
                let digits = &text[start..at];
                scan.error(
                    start,
                    at,
                    "a number begins with a digit",
                    "",
                    &format!("write `0{digits}` for a number; a field's name begins with a letter"),
                );
                Kind::Number
            }
            b'a'..=b'z' | b'A'..=b'Z' | b'_' => {
                at = word_end(bytes, at);
                match text[at..].chars().next() {
                    Some(c) if c.is_alphanumeric() => foreign_name(scan, start, &mut at),
                    _ => {
                        if at - start > MAX_NAME {
                            long_name(scan, start, at);
                        }
                        Kind::Word
                    }
                }
            }
            b'(' | b'[' | b'{' => {
                at += 1;
                Kind::Open
            }
            b')' | b']' | b'}' => {
                at += 1;
                Kind::Close
            }
            _ => symbol(scan, &mut at),
        };
        scan.tokens.push(Token { kind, start, end: at, first });
        first = false;
    }
    Ok(())
}

fn line_end(bytes: &[u8], at: usize) -> usize {
    bytes[at..].iter().position(|b| *b == b'\n').map_or(bytes.len(), |n| at + n)
}

fn word_end(bytes: &[u8], at: usize) -> usize {
    let rest = bytes[at..].iter().position(|b| !(b.is_ascii_alphanumeric() || *b == b'_'));
    rest.map_or(bytes.len(), |n| at + n)
}

fn string(scan: &mut Scan<'_>, at: &mut usize) -> Kind {
    let bytes = scan.text.as_bytes();
    let start = *at;
    let mut i = start + 1;
    while let Some(byte) = bytes.get(i).filter(|b| **b != b'\n') {
        match byte {
            b'"' => {
                *at = i + 1;
                return Kind::Str;
            }
            b'\\' if bytes.get(i + 1).is_some_and(|b| *b != b'\n') => i += 2,
            _ => i += 1,
        }
    }
    let end = i;
    *at = end;
    let shown = start + scan.text[start..end].trim_end().len();
    scan.error(
        start,
        shown,
        "this string has no end",
        "it begins here, and its line ends without a closing `\"`",
        "a string stands on one line; write `\\n` for a line break and `\\\"` for a quote",
    );
    Kind::Bad
}

fn number(scan: &mut Scan<'_>, at: &mut usize) -> Kind {
    let bytes = scan.text.as_bytes();
    let start = *at;
    let digits = |mut i: usize| {
        while bytes.get(i).is_some_and(|b| b.is_ascii_digit() || *b == b'_') {
            i += 1;
        }
        i
    };
    let mut i = digits(start);
    if bytes.get(i) == Some(&b'.') {
        if bytes.get(i + 1).is_some_and(u8::is_ascii_digit) {
            i = digits(i + 1);
        } else {
            *at = i + 1;
            let whole = &scan.text[start..i];
            let hint = format!("write `{whole}.0` or `{whole}`");
            scan.error(start, i + 1, "a number does not end with a point", "", &hint);
            return Kind::Number;
        }
    }
    if matches!(bytes.get(i), Some(b'e' | b'E')) {
        let sign = usize::from(matches!(bytes.get(i + 1), Some(b'+' | b'-')));
        if bytes.get(i + 1 + sign).is_some_and(u8::is_ascii_digit) {
            i = digits(i + 1 + sign);
        }
    }
    let end = word_end(bytes, i);
    if end > i {
        scan.error(
            start,
            end,
            format!("`{}` is neither a number nor a name", &scan.text[start..end]),
            "",
            "a name begins with a letter; numbers look like `12`, `1_000`, `0.1` or `1e-4`",
        );
    }
    *at = end;
    Kind::Number
}

fn symbol(scan: &mut Scan<'_>, at: &mut usize) -> Kind {
    let start = *at;
    let rest = &scan.text[start..];
    for (wrong, right) in [("&&", "and"), ("||", "or")] {
        if rest.starts_with(wrong) {
            *at += 2;
            scan.error(start, *at, format!("`{wrong}` is not an operator"), "", &format!("write `{right}`"));
            return Kind::Symbol;
        }
    }
    for two in ["|>", "->", "==", "!=", "<=", ">="] {
        if rest.starts_with(two) {
            *at += 2;
            return Kind::Symbol;
        }
    }
    let c = rest.chars().next().unwrap_or(' ');
    *at += c.len_utf8();
    let end = *at;
    match c {
        '=' | '<' | '>' | '+' | '-' | '*' | '/' | '%' | '.' | ',' | ':' => Kind::Symbol,
        '!' => {
            scan.error(start, end, "`!` is not an operator", "", "write `not`");
            Kind::Symbol
        }
        '&' | '|' => {
            let hint = if c == '&' { "write `and`" } else { "write `or`, or `|>` for a pipe" };
            scan.error(start, end, format!("`{c}` is not an operator"), "", hint);
            Kind::Symbol
        }
        ';' => {
            scan.error(
                start,
                end,
                "`;` has no meaning here",
                "",
                "a line break or `,` ends a setting; leave `;` out",
            );
            Kind::Bad
        }
        '\u{201c}' | '\u{201d}' | '\u{2018}' | '\u{2019}' | '`' => {
            let message = format!("`{c}` is not a quote of the language");
            scan.error(
                start,
                end,
                message.replace("```", "a backquote"),
                "",
                "a string stands in straight double quotes: \"…\"",
            );
            Kind::Bad
        }
        _ if c.is_alphanumeric() => foreign_name(scan, start, at),
        _ if c.is_control() || c.is_whitespace() || c == '\u{feff}' => {
            let message = format!("the character U+{:04X} has no meaning here", c as u32);
            scan.error(start, end, message, "", "white space is the blank, the tab and the line break");
            Kind::Bad
        }
        _ => {
            scan.error(start, end, format!("the character `{c}` has no meaning here"), "", "");
            Kind::Bad
        }
    }
}

fn long_name(scan: &mut Scan<'_>, start: usize, end: usize) {
    if scan.errors.len() < MAX_ERRORS {
        let message = format!("this name has {} letters", end - start);
        let error = Diagnostic::error(Code::TooLarge, message).at(scan.span(start, end), "");
        scan.errors.push(error.hint(format!("a name has at most {MAX_NAME}")));
    }
}

/// A name from `start` on with letters of other alphabets.
fn foreign_name(scan: &mut Scan<'_>, start: usize, at: &mut usize) -> Kind {
    while let Some(c) = scan.text[*at..].chars().next().filter(|c| c.is_alphanumeric() || *c == '_') {
        *at += c.len_utf8();
    }
    let message = format!("`{}` is not a name", &scan.text[start..*at]);
    scan.error(start, *at, message, "", "a name has the letters a to z and A to Z, digits and `_`");
    Kind::Bad
}

/// Whether an expression can end with this token.
pub(crate) fn ends_operand(kind: Kind, word: &str) -> bool {
    match kind {
        Kind::Word => !matches!(word, "and" | "or" | "not" | "if" | "else" | "as" | "let" | "after"),
        Kind::Number | Kind::Str | Kind::Close => true,
        Kind::Open | Kind::Symbol | Kind::Bad => false,
    }
}

/// Refuses nesting and chains that would make the tree deep.
///
/// Every level of the tree comes from a bracket, an `if`, or an operator of the same expression. An expression ends at
/// `,`, `=` and `|>`, and where one operand follows another.
fn limit_depth(scan: &Scan<'_>) -> Result<(), Diagnostic> {
    // Operators of the expression that is open at each bracket level, with the nesting ones counted apart.
    let mut levels = vec![(0usize, 0usize)];
    let (mut chain, mut nesting) = (0usize, 0usize);
    let mut after_operand = false;
    for (i, token) in scan.tokens.iter().enumerate() {
        let word = scan.word(i);
        let starts_operand = match token.kind {
            Kind::Word => !matches!(word, "and" | "or" | "else" | "as"),
            Kind::Number | Kind::Str => true,
            Kind::Open | Kind::Close | Kind::Symbol | Kind::Bad => false,
        };
        let separator =
            matches!(word, "," | "=" | "|>") || (starts_operand && after_operand && word != "not");
        if separator && let Some(level) = levels.last_mut() {
            chain -= level.0;
            nesting -= level.1;
            *level = (0, 0);
        }
        if let Some(level) = levels.last_mut() {
            let prefix = matches!(word, "not" | "if") || (word == "-" && !after_operand);
            let operator = prefix
                || token.kind == Kind::Open
                || matches!(
                    word,
                    "and" | "or" | "+" | "-" | "*" | "/" | "%" | "." | "==" | "!=" | "<" | "<=" | ">" | ">="
                );
            level.0 += usize::from(operator);
            chain += usize::from(operator);
            level.1 += usize::from(prefix);
            nesting += usize::from(prefix);
        }
        match token.kind {
            Kind::Open => levels.push((0, 0)),
            Kind::Close if levels.len() > 1 => {
                let level = levels.pop().unwrap_or_default();
                chain -= level.0;
                nesting -= level.1;
            }
            _ => {}
        }
        if levels.len() - 1 + nesting > MAX_NESTING {
            return Err(Diagnostic::error(Code::TooLarge, "this is nested too deep")
                .at(scan.span_of(i), "")
                .hint(format!("brackets, `if`s and prefix operators nest at most {MAX_NESTING} deep; give parts a name with `let`")));
        }
        if chain > MAX_CHAIN {
            return Err(Diagnostic::error(Code::TooLarge, "this expression is too long")
                .at(scan.span_of(i), "")
                .hint(format!(
                    "an expression has at most {MAX_CHAIN} operators; give parts a name with `let`"
                )));
        }
        after_operand = ends_operand(token.kind, word);
    }
    Ok(())
}
