//! A place in the text, the small things that are read there, and the attributes read of one line.

use crate::{IrError, MAX_ELEMENTS};

/// What is wrong, and at which byte.
#[derive(Debug)]
pub(super) struct Fault {
    at: usize,
    message: String,
}

impl Fault {
    pub(super) fn new(at: usize, message: impl Into<String>) -> Fault {
        Fault { at, message: message.into() }
    }

    /// The error with line and column in place of the byte.
    pub(super) fn locate(self, text: &str) -> IrError {
        let mut at = self.at.min(text.len());
        while !text.is_char_boundary(at) {
            at -= 1;
        }
        let before = &text[..at];
        let line = before.matches('\n').count() + 1;
        let column = before.chars().rev().take_while(|&c| c != '\n').count() + 1;
        IrError::Parse { line, column, message: self.message }
    }
}

/// A place in the text. Spaces, tabs and comments are skipped before each thing that is read; the end of a line is read
/// with [`Cursor::line_end`] only.
pub(super) struct Cursor<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(text: &'a str) -> Cursor<'a> {
        Cursor { text, at: 0 }
    }

    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn skip_blanks(&mut self) {
        let rest = self.rest();
        let blanks = rest.len() - rest.trim_start_matches([' ', '\t', '\r']).len();
        self.at += blanks;
        if self.rest().starts_with("//") {
            self.at += self.rest().find('\n').unwrap_or(self.rest().len());
        }
    }

    /// The byte where the next thing begins.
    pub(super) fn here(&mut self) -> usize {
        self.skip_blanks();
        self.at
    }

    /// A fault that names what was expected and what stands there.
    pub(super) fn expected<T>(&mut self, what: &str) -> Result<T, Fault> {
        let at = self.here();
        let found = match self.rest().chars().next() {
            None => "the end of the text".to_string(),
            Some('\n') => "the end of the line".to_string(),
            Some(c) => format!("{c:?}"),
        };
        Err(Fault::new(at, format!("expected {what}, not {found}")))
    }

    pub(super) fn at_end(&mut self) -> bool {
        self.here() == self.text.len()
    }

    /// Takes the mark where it stands next.
    pub(super) fn eat(&mut self, mark: &str) -> bool {
        self.skip_blanks();
        let found = self.rest().starts_with(mark);
        if found {
            self.at += mark.len();
        }
        found
    }

    pub(super) fn expect(&mut self, mark: &str) -> Result<(), Fault> {
        if self.eat(mark) { Ok(()) } else { self.expected(&format!("`{mark}`")) }
    }

    /// Takes the rest of an empty line.
    pub(super) fn line_end(&mut self) -> Result<(), Fault> {
        if self.eat("\n") || self.at_end() { Ok(()) } else { self.expected("the end of the line") }
    }

    /// Takes lines with nothing on them.
    pub(super) fn empty_lines(&mut self) {
        while self.eat("\n") {}
    }

    fn take_while(&mut self, keep: impl Fn(char) -> bool) -> &'a str {
        self.skip_blanks();
        let rest = self.rest();
        let end = rest.find(|c| !keep(c)).unwrap_or(rest.len());
        self.at += end;
        &rest[..end]
    }

    /// A word of letters, digits and underscores that begins with a letter or an underscore.
    pub(super) fn word(&mut self, what: &str) -> Result<&'a str, Fault> {
        self.skip_blanks();
        if self.rest().starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') {
            Ok(self.take_while(|c| c.is_ascii_alphanumeric() || c == '_'))
        } else {
            self.expected(what)
        }
    }

    /// Takes the word where it stands next, and no longer word does.
    pub(super) fn eat_word(&mut self, word: &str) -> bool {
        let at = self.here();
        let found = self.take_while(|c| c.is_ascii_alphanumeric() || c == '_') == word;
        if !found {
            self.at = at;
        }
        found
    }

    /// A whole number.
    pub(super) fn count(&mut self) -> Result<u64, Fault> {
        let at = self.here();
        let digits = self.take_while(|c| c.is_ascii_digit());
        if digits.is_empty() {
            return self.expected("a whole number");
        }
        digits.parse().map_err(|_| Fault::new(at, format!("{digits} is too large")))
    }

    /// A whole number that may be an extent.
    pub(super) fn size(&mut self) -> Result<usize, Fault> {
        let at = self.here();
        let n = self.count()?;
        usize::try_from(n)
            .ok()
            .filter(|&n| n <= MAX_ELEMENTS)
            .ok_or_else(|| Fault::new(at, format!("{n} is too large, at most {MAX_ELEMENTS} is allowed")))
    }

    /// A finite number.
    pub(super) fn float(&mut self) -> Result<f64, Fault> {
        let at = self.here();
        let digits = self.take_while(|c| c.is_ascii_digit() || matches!(c, '+' | '-' | '.' | 'e' | 'E'));
        match digits.parse::<f64>() {
            Ok(x) if x.is_finite() => Ok(x),
            Ok(_) => Err(Fault::new(at, format!("{digits} is too large"))),
            Err(_) => {
                self.at = at;
                self.expected("a number")
            }
        }
    }

    /// A string in quotes.
    pub(super) fn string(&mut self) -> Result<String, Fault> {
        let start = self.here();
        self.expect_string_start()?;
        let mut out = String::new();
        loop {
            let at = self.at;
            let Some(c) = self.rest().chars().next().filter(|&c| c != '\n') else {
                return Err(Fault::new(start, "the string has no end on its line"));
            };
            self.at += c.len_utf8();
            match c {
                '"' => return Ok(out),
                '\\' => out.push(self.escape(at)?),
                c => out.push(c),
            }
        }
    }

    /// Whether a string stands next.
    pub(super) fn starts_string(&mut self) -> bool {
        self.skip_blanks();
        self.rest().starts_with('"')
    }

    fn expect_string_start(&mut self) -> Result<(), Fault> {
        if self.eat("\"") { Ok(()) } else { self.expected("a string in quotes") }
    }

    /// What follows a backslash at `at`.
    fn escape(&mut self, at: usize) -> Result<char, Fault> {
        let fault = || {
            Fault::new(
                at,
                "expected one of the escapes `\\\"`, `\\\\` and `\\u{…}` with a character's number",
            )
        };
        let rest = self.rest();
        if let Some(c @ ('"' | '\\')) = rest.chars().next() {
            self.at += 1;
            return Ok(c);
        }
        let digits = rest.strip_prefix("u{").and_then(|r| r.split_once('}')).map(|(digits, _)| digits);
        // `from_str_radix` would take a sign.
        let hex = |d: &&str| d.len() <= 6 && d.bytes().all(|b| b.is_ascii_hexdigit());
        let digits = digits.filter(hex).ok_or_else(fault)?;
        let c = u32::from_str_radix(digits, 16).ok().and_then(char::from_u32).ok_or_else(fault)?;
        self.at += "u{".len() + digits.len() + "}".len();
        Ok(c)
    }

    /// `[1,2,3]`.
    pub(super) fn list(&mut self) -> Result<Vec<usize>, Fault> {
        self.expect("[")?;
        let mut out = Vec::new();
        if self.eat("]") {
            return Ok(out);
        }
        loop {
            out.push(self.size()?);
            if self.eat("]") {
                return Ok(out);
            }
            self.expect(",")?;
        }
    }
}

/// An attribute's value as it was read.
enum Read {
    Name(String),
    Flag(bool),
    List(Vec<usize>),
    /// Where a number stands: whether it is whole or not is known once the operator asks.
    Number(usize),
}

/// The attributes of one line, each to be asked for once.
pub(super) struct Attributes<'a> {
    text: &'a str,
    /// The byte of the operator's name, to blame for an attribute that is missing.
    operator: usize,
    read: Vec<(&'a str, usize, Read)>,
}

impl<'a> Attributes<'a> {
    /// Reads attributes as long as there are some.
    pub(super) fn read(cursor: &mut Cursor<'a>, operator: usize) -> Result<Attributes<'a>, Fault> {
        let mut out = Attributes { text: cursor.text, operator, read: Vec::new() };
        loop {
            let at = cursor.here();
            if !cursor.rest().starts_with(|c: char| c.is_ascii_alphabetic()) || cursor.eat_word("after") {
                // `after` belongs to the line, not to the attributes.
                cursor.at = at;
                return Ok(out);
            }
            let name = cursor.word("an attribute")?;
            if out.read.iter().any(|(n, _, _)| *n == name) {
                return Err(Fault::new(at, format!("the attribute `{name}` stands twice")));
            }
            cursor.expect("=")?;
            let value_at = cursor.here();
            let value = match cursor.rest().chars().next() {
                Some('"') => Read::Name(cursor.string()?),
                Some('[') => Read::List(cursor.list()?),
                Some('t' | 'f') if cursor.eat_word("true") => Read::Flag(true),
                Some('t' | 'f') if cursor.eat_word("false") => Read::Flag(false),
                Some('0'..='9' | '-' | '+' | '.') => {
                    cursor.float()?;
                    Read::Number(value_at)
                }
                _ => return cursor.expected("a number, a string, a list, `true` or `false`"),
            };
            out.read.push((name, value_at, value));
        }
    }

    fn take(&mut self, name: &str) -> Result<(usize, Read), Fault> {
        match self.read.iter().position(|(n, _, _)| *n == name) {
            Some(i) => {
                let (_, at, value) = self.read.remove(i);
                Ok((at, value))
            }
            None => Err(Fault::new(self.operator, format!("the attribute `{name}` is missing"))),
        }
    }

    fn number<T>(
        &mut self,
        name: &str,
        what: &str,
        read: impl Fn(&mut Cursor<'a>) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        match self.take(name)? {
            (_, Read::Number(at)) => {
                let mut cursor = Cursor { text: self.text, at };
                let value = read(&mut cursor)?;
                // `1.5` begins with a whole number, but is none.
                if cursor.rest().starts_with(['.', 'e', 'E', '+', '-']) {
                    return Err(Fault::new(at, format!("`{name}` takes {what}")));
                }
                Ok(value)
            }
            (at, _) => Err(Fault::new(at, format!("`{name}` takes {what}"))),
        }
    }

    pub(super) fn name(&mut self, name: &str) -> Result<String, Fault> {
        match self.take(name)? {
            (_, Read::Name(text)) => Ok(text),
            (at, _) => Err(Fault::new(at, format!("`{name}` takes a string"))),
        }
    }

    /// One of the words that an attribute takes, and what it stands for.
    pub(super) fn one_of<T: Copy>(&mut self, name: &str, words: &[(&str, T)]) -> Result<T, Fault> {
        let list = || words.iter().map(|(w, _)| format!("\"{w}\"")).collect::<Vec<_>>().join(" or ");
        match self.take(name)? {
            (at, Read::Name(text)) => match words.iter().find(|(w, _)| *w == text) {
                Some((_, found)) => Ok(*found),
                None => Err(Fault::new(at, format!("`{name}` takes {}", list()))),
            },
            (at, _) => Err(Fault::new(at, format!("`{name}` takes {}", list()))),
        }
    }

    pub(super) fn flag(&mut self, name: &str) -> Result<bool, Fault> {
        match self.take(name)? {
            (_, Read::Flag(b)) => Ok(b),
            (at, _) => Err(Fault::new(at, format!("`{name}` takes `true` or `false`"))),
        }
    }

    pub(super) fn float(&mut self, name: &str) -> Result<f64, Fault> {
        self.number(name, "a number", Cursor::float)
    }

    pub(super) fn count(&mut self, name: &str) -> Result<u64, Fault> {
        self.number(name, "a whole number", Cursor::count)
    }

    pub(super) fn size(&mut self, name: &str) -> Result<usize, Fault> {
        self.number(name, "a whole number", Cursor::size)
    }

    pub(super) fn list(&mut self, name: &str) -> Result<Vec<usize>, Fault> {
        match self.take(name)? {
            (_, Read::List(list)) => Ok(list),
            (at, _) => Err(Fault::new(at, format!("`{name}` takes a list of whole numbers"))),
        }
    }

    pub(super) fn pair(&mut self, name: &str) -> Result<[usize; 2], Fault> {
        let fault = |at| Fault::new(at, format!("`{name}` takes two whole numbers in brackets"));
        match self.take(name)? {
            (at, Read::List(list)) => list.try_into().map_err(|_| fault(at)),
            (at, _) => Err(fault(at)),
        }
    }

    /// Refuses what the operator did not ask for.
    pub(super) fn finish(self, mnemonic: &str) -> Result<(), Fault> {
        match self.read.first() {
            None => Ok(()),
            Some((name, at, _)) => Err(Fault::new(*at, format!("{mnemonic} has no attribute `{name}`"))),
        }
    }
}
