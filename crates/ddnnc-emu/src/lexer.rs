//! PTX text to words and marks.

/// What a token is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Opcodes with their modifiers, directives, names and numbers: `ld.global.f32`, `.reg`, `%tid.x`, `0f3F800000`.
    Word,
    /// One character: `{ } [ ] ( ) < > , ; : @ ! | + - =`.
    Mark,
    /// A string in quotes, with the quotes.
    Text,
}

/// A piece of the text and its line, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Token<'a> {
    pub kind: Kind,
    pub text: &'a str,
    pub line: u32,
}

/// Splits a text; the error is the line and what is wrong there.
pub(crate) fn tokens(text: &str) -> Result<Vec<Token<'_>>, (u32, String)> {
    let bytes = text.as_bytes();
    let mut found = Vec::with_capacity(text.len() / 4);
    let (mut at, mut line) = (0, 1);
    while at < bytes.len() {
        let (c, next) = (bytes[at], bytes.get(at + 1).copied());
        match c {
            b'\n' => {
                line += 1;
                at += 1;
            }
            // NVRTC's buffers end with a null.
            b' ' | b'\t' | b'\r' | 0 => at += 1,
            b'/' if next == Some(b'/') => {
                while at < bytes.len() && bytes[at] != b'\n' {
                    at += 1;
                }
            }
            b'/' if next == Some(b'*') => {
                let Some(length) = text[at..].find("*/") else {
                    return Err((line, "the comment `/*` has no end".to_owned()));
                };
                line += newlines(&text[at..at + length]);
                at += length + 2;
            }
            b'"' => {
                let Some(length) = text[at + 1..].find('"') else {
                    return Err((line, "the string has no end".to_owned()));
                };
                let end = at + length + 2;
                found.push(Token { kind: Kind::Text, text: &text[at..end], line });
                line += newlines(&text[at..end]);
                at = end;
            }
            _ if starts_word(c) => {
                let end = word_end(bytes, at);
                found.push(Token { kind: Kind::Word, text: &text[at..end], line });
                at = end;
            }
            b'{' | b'}' | b'[' | b']' | b'(' | b')' | b'<' | b'>' | b',' | b';' | b':' | b'@' | b'!'
            | b'|' | b'+' | b'-' | b'=' => {
                found.push(Token { kind: Kind::Mark, text: &text[at..=at], line });
                at += 1;
            }
            _ => {
                let c = text[at..].chars().next().unwrap_or('\u{fffd}');
                return Err((line, format!("the character `{}` is not PTX", c.escape_debug())));
            }
        }
    }
    Ok(found)
}

fn newlines(text: &str) -> u32 {
    text.bytes().filter(|&c| c == b'\n').count() as u32
}

fn starts_word(c: u8) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, b'_' | b'$' | b'%' | b'.')
}

fn word_end(bytes: &[u8], start: usize) -> usize {
    let mut end = start;
    while end < bytes.len() {
        match bytes[end] {
            c if starts_word(c) => end += 1,
            // `.L2::128B` is one modifier; a single colon ends a label.
            b':' if bytes.get(end + 1) == Some(&b':') => end += 2,
            // The sign of a decimal exponent: `1.5e-3`.
            b'+' | b'-' if is_decimal_before_exponent(&bytes[start..end]) => end += 1,
            _ => break,
        }
    }
    end
}

fn is_decimal_before_exponent(word: &[u8]) -> bool {
    let Some((b'e' | b'E', number)) = word.split_last() else {
        return false;
    };
    number.first().is_some_and(u8::is_ascii_digit)
        && number.contains(&b'.')
        && number.iter().all(|c| c.is_ascii_digit() || *c == b'.')
}
