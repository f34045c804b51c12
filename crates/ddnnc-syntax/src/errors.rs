//! The parser's errors in the user's words.

use crate::grammar::{DECLARATIONS, KEYWORDS, Rule, words};
use crate::scan::{Kind, Scan, ends_operand};
use ddnnc_diag::{Code, Diagnostic, Span, did_you_mean};
use pest::error::{Error, ErrorVariant, InputLocation};
use std::collections::BTreeSet;
use std::ops::Range;

/// More alternatives than this are summed up.
const MAX_ALTERNATIVES: usize = 6;

/// For a tree that could not be built from what the parser matched, which no text is known to cause.
pub(crate) fn internal(scan: &Scan<'_>) -> Diagnostic {
    Diagnostic::error(Code::Syntax, "this file cannot be read").at(scan.span(0, 0), "")
}

/// The place of an error among the tokens, and what the parser would have taken there.
struct Place<'s> {
    scan: &'s Scan<'s>,
    /// The declaration.
    chunk: Range<usize>,
    /// The token that does not fit; the end of `chunk` where it ends too early.
    at: usize,
    expected: Vec<Rule>,
}

/// Describes the parser's error on the declaration of the tokens `chunk`, whose text begins at `base`.
pub(crate) fn describe(scan: &Scan<'_>, chunk: Range<usize>, base: usize, error: &Error<Rule>) -> Diagnostic {
    let (InputLocation::Pos(at) | InputLocation::Span((at, _))) = error.location;
    let index = scan.tokens.partition_point(|t| t.end <= base + at).clamp(chunk.start, chunk.end);
    let expected = match &error.variant {
        ErrorVariant::ParsingError { positives, .. } => summed_up(positives),
        ErrorVariant::CustomError { .. } => {
            return Diagnostic::error(Code::TooLarge, "this text takes too long to parse")
                .at(scan.span_of(index), "")
                .hint("split it into smaller declarations");
        }
    };
    let place = Place { scan, chunk, at: index, expected };
    special(&place).unwrap_or_else(|| place.generic())
}

/// The alternatives, with those that begin an expression as one.
fn summed_up(positives: &[Rule]) -> Vec<Rule> {
    let begins_expression = |rule: &Rule| {
        let alone =
            [Rule::if_expr, Rule::kw_if, Rule::boolean, Rule::neg, Rule::not, Rule::paren, Rule::call];
        alone.contains(rule) || words(*rule) == "an expression"
    };
    if !positives.iter().any(begins_expression) {
        return positives.to_vec();
    }
    let part = |rule: &Rule| {
        let shared = [
            Rule::ident,
            Rule::int,
            Rule::float,
            Rule::string,
            Rule::list,
            Rule::lbracket,
            Rule::lparen,
            Rule::callee,
        ];
        begins_expression(rule) || shared.contains(rule)
    };
    let rest = positives.iter().copied().filter(|rule| !part(rule));
    rest.chain([Rule::expr]).collect()
}

impl Place<'_> {
    fn expects(&self, rules: &[Rule]) -> bool {
        self.expected.iter().any(|rule| rules.contains(rule))
    }

    fn expects_expression(&self) -> bool {
        self.expected.iter().any(|rule| words(*rule) == "an expression")
    }

    fn expects_operator(&self) -> bool {
        self.expected.iter().any(|rule| words(*rule) == "an operator")
    }

    /// The token that does not fit; empty where the declaration ends too early.
    fn found(&self) -> &str {
        if self.at < self.chunk.end { self.scan.word(self.at) } else { "" }
    }

    fn kind(&self, at: usize) -> Option<Kind> {
        if self.chunk.contains(&at) { self.scan.tokens.get(at).map(|t| t.kind) } else { None }
    }

    /// The text of the token before; empty at the beginning of the declaration.
    fn before(&self) -> &str {
        if self.at > self.chunk.start { self.scan.word(self.at - 1) } else { "" }
    }

    fn first_on_line(&self) -> bool {
        self.chunk.contains(&self.at) && self.scan.tokens[self.at].first
    }

    /// The place of the token, or the place right after the declaration's last one.
    fn span(&self) -> Span {
        if self.at < self.chunk.end {
            return self.scan.span_of(self.at);
        }
        let end = self.at.checked_sub(1).map_or(0, |last| self.scan.tokens[last].end);
        self.scan.span(end, end)
    }

    /// What was found, in words.
    fn found_words(&self) -> String {
        match self.kind(self.at) {
            None if self.chunk.end == self.scan.tokens.len() => "the end of the file".to_string(),
            None => "the end of the declaration".to_string(),
            Some(Kind::Str) => "a string".to_string(),
            Some(Kind::Number) => format!("the number `{}`", self.found()),
            Some(Kind::Word) if KEYWORDS.contains(&self.found()) => format!("the keyword `{}`", self.found()),
            Some(_) => format!("`{}`", self.found()),
        }
    }

    /// The alternatives, sorted and short.
    fn expected_words(&self) -> String {
        let mut all: BTreeSet<&str> = self.expected.iter().map(|rule| words(*rule)).collect();
        if all.contains("an operator") {
            for postfix in ["`.`", "`[`", "`|>`", "`as`"] {
                all.remove(postfix);
            }
        }
        if self.before() == ":" && all.remove("a name") {
            all.insert("a type");
        }
        let declaration = |word: &str| DECLARATIONS.contains(&word.trim_matches('`'));
        if all.iter().filter(|word| declaration(word)).count() > 3 {
            all.retain(|word| !declaration(word));
            all.insert("a declaration");
        }
        if all.len() > MAX_ALTERNATIVES && all.contains("an expression") {
            return "an expression".to_string();
        }
        let all: Vec<&str> = all.into_iter().take(MAX_ALTERNATIVES).collect();
        match all.as_slice() {
            [] => "an expression".to_string(),
            [one] => (*one).to_string(),
            [some @ .., last] => format!("{} or {last}", some.join(", ")),
        }
    }

    fn syntax(&self, message: impl Into<String>) -> Diagnostic {
        Diagnostic::error(Code::Syntax, message)
    }

    fn generic(&self) -> Diagnostic {
        let message = format!("expected {}, found {}", self.expected_words(), self.found_words());
        let diagnostic = self.syntax(message).at(self.span(), "");
        let near = self.expected.iter().map(|rule| words(*rule).trim_matches('`'));
        match did_you_mean(self.found(), near.filter(|word| KEYWORDS.contains(word))) {
            Some(meant) if self.kind(self.at) == Some(Kind::Word) => {
                diagnostic.hint(format!("did you mean `{meant}`?"))
            }
            _ => match self.form() {
                Some(form) => diagnostic.hint(form),
                None => diagnostic,
            },
        }
    }

    /// How what was begun is written.
    fn form(&self) -> Option<&'static str> {
        if self.before() == "depth" {
            return Some("the blocks kept of every stage stand in brackets: `depth [3, 3, 3]`");
        }
        if self.in_brackets() || self.expects_expression() {
            return None;
        }
        Some(match self.declaration() {
            "model" => "a spec begins with `model` and a name, such as `model my_network`",
            "input" => "an input has a type: `input image : f32[3, 32, 32]`",
            "target" => "a target has a type: `target label : class[10]`",
            "let" if !self.expects_operator() => "a name gets its value with `=`: `let width = 16`",
            "block" => "a block is written `block basic(out, stride = 1) { in |> conv(out, 3, stride) }`",
            "backbone" => "a backbone is written `backbone resnet { stem = … }`",
            "subnet" => "a sub-net is written `subnet small = resnet depth [3, 3, 3]`",
            "exit" => "an exit is written `exit e1 = full after s1 |> global_avg_pool |> linear(classes)`",
            "network" => "a network is written `network teacher = resnet { frozen = true }`",
            "share" => "what sub-nets share is written `share resnet { norm = private, head = private }`",
            "supervise" => "losses against the label are written `supervise [full, small] { cross_entropy }`",
            "distill" => {
                "a pairing is written `distill full -> [small] { kl }`; several teachers are `mean(a, b)`"
            }
            "train" => "settings stand in braces: `train { epochs = 3 }`",
            "order" => "settings stand in braces: `order { by = shuffle }`",
            "phase" => "a phase has a name: `phase warm { epochs = 3 }`",
            "task" => "a task has a kind: `task classification`",
            _ => return None,
        })
    }

    /// Whether the token stands inside of any bracket.
    fn in_brackets(&self) -> bool {
        let kinds = self.scan.tokens[self.chunk.start..self.at].iter().map(|t| t.kind);
        let (open, close) = kinds.fold((0usize, 0usize), |(open, close), kind| {
            (open + usize::from(kind == Kind::Open), close + usize::from(kind == Kind::Close))
        });
        open > close
    }

    /// The keyword that the declaration begins with.
    fn declaration(&self) -> &str {
        self.scan.word(self.chunk.start)
    }

    /// Whether the innermost open bracket around the token is a brace.
    fn in_braces(&self) -> bool {
        let mut depth = 0usize;
        for i in (self.chunk.start..self.at).rev() {
            match (self.scan.tokens[i].kind, depth) {
                (Kind::Close, _) => depth += 1,
                (Kind::Open, 0) => return self.scan.word(i) == "{",
                (Kind::Open, _) => depth -= 1,
                _ => {}
            }
        }
        false
    }

    /// Whether the token stands in the condition of an `if`.
    fn in_condition(&self) -> bool {
        let mut depth = 0usize;
        for i in (self.chunk.start..self.at).rev() {
            match (self.scan.tokens[i].kind, self.scan.word(i)) {
                (Kind::Close, _) => depth += 1,
                (Kind::Open, "{") if depth == 0 => return false,
                (Kind::Open, _) => depth = depth.saturating_sub(1),
                (Kind::Word, "if") if depth == 0 => return true,
                _ => {}
            }
        }
        false
    }

    /// The `if` whose first branch ends right before the token.
    fn if_before(&self) -> Option<usize> {
        let mut depth = 0usize;
        for i in (self.chunk.start..self.at).rev() {
            match self.scan.tokens[i].kind {
                Kind::Close => depth += 1,
                Kind::Open => depth = depth.checked_sub(1)?,
                Kind::Word if depth == 0 && self.scan.word(i) == "if" => return Some(i),
                _ => {}
            }
        }
        None
    }
}

/// The mistakes that have a message of their own.
fn special(place: &Place<'_>) -> Option<Diagnostic> {
    missing_else(place)
        .or_else(|| misplaced_declaration(place))
        .or_else(|| keyword_as_name(place))
        .or_else(|| wrong_sign(place))
        .or_else(|| missing_pipe(place))
        .or_else(|| missing_blocks(place))
        .or_else(|| missing_value(place))
        .or_else(|| missing_operator(place))
}

fn missing_else(place: &Place<'_>) -> Option<Diagnostic> {
    if !place.expects(&[Rule::kw_else]) || place.before() != "}" {
        return None;
    }
    let start = place.if_before()?;
    Some(
        place
            .syntax("this `if` has no `else`")
            .at(place.scan.span_of(start), "")
            .with(place.span(), format!("expected `else`, found {}", place.found_words()))
            .hint("an `if` is a value and needs both: `if c { a } else { b }`"),
    )
}

fn misplaced_declaration(place: &Place<'_>) -> Option<Diagnostic> {
    let (found, around) = (place.found(), place.declaration());
    let declares = DECLARATIONS.contains(&found) || found == "stage";
    if !declares || !place.first_on_line() || place.at == place.chunk.start || !place.in_braces() {
        return None;
    }
    let named = place.kind(place.at + 1) == Some(Kind::Word) || place.scan.word(place.at + 1) == "{";
    if !named || place.before() == "=" {
        return None;
    }
    let home = if found == "stage" { "a backbone" } else { "the top level of the file" };
    let message = format!("`{found}` does not stand inside `{around}`");
    Some(place.syntax(message).at(place.span(), "").hint(format!("move it to {home}")))
}

fn keyword_as_name(place: &Place<'_>) -> Option<Diagnostic> {
    let found = place.found();
    if !KEYWORDS.contains(&found) || !(place.expects(&[Rule::ident]) || place.expects_expression()) {
        return None;
    }
    let between = matches!(found, "and" | "or" | "as" | "else" | "after" | "depth");
    if (between && place.expects_expression())
        || (place.expects(&[Rule::pipe]) && !place.expects(&[Rule::ident]))
    {
        return None;
    }
    Some(
        Diagnostic::error(Code::ReservedName, format!("`{found}` is a keyword and cannot be a name"))
            .at(place.span(), "")
            .hint(format!("choose another name, such as `{found}_`")),
    )
}

fn wrong_sign(place: &Place<'_>) -> Option<Diagnostic> {
    let here = |message: &str| place.syntax(message).at(place.span(), "");
    let after_operand = place.expects_operator();
    match place.found() {
        ":" if place.expects(&[Rule::assign]) || after_operand => {
            Some(here("`:` stands only before a type").hint("write `=` between a key and its value"))
        }
        "=" if place.expects(&[Rule::colon]) => Some(
            here("expected `:`, found `=`").hint("a type follows `:`, as in `input image : f32[3, 32, 32]`"),
        ),
        "==" if place.expects(&[Rule::assign]) => Some(
            here("expected `=`, found `==`").hint("`==` compares two values; `=` gives a name its value"),
        ),
        "=" if place.scan.word(place.at + 1) == ">" => {
            Some(here("`=>` is not a sign of the language").hint("write `->` between teacher and student"))
        }
        "=" if after_operand && place.in_condition() => {
            Some(here("`=` does not compare").hint("write `==` to compare two values"))
        }
        "=" if after_operand
            && matches!(place.declaration(), "distill" | "supervise")
            && place.in_braces() =>
        {
            Some(
                here("a loss term has no value of its own")
                    .hint("settings of a term stand in its parentheses: `kl(temperature = 3, weight = 0.5)`"),
            )
        }
        "=" if after_operand && place.in_braces() && place.declaration() == "block" => {
            Some(here("a local name begins with `let`").hint(format!("write `let {} = …`", place.before())))
        }
        "=" if after_operand => {
            Some(here("`=` does not stand inside an expression").hint("`==` compares two values"))
        }
        "(" if place.first_on_line()
            && place.kind(place.at.wrapping_sub(1)) == Some(Kind::Word)
            && after_operand =>
        {
            Some(here("the parenthesis of a call stands on the line of its name").hint("join the two lines"))
        }
        "->" if after_operand => Some(here("`->` does not stand here").hint(
            "`a -> b` stands inside lists and arguments, such as `at = [s2 -> s3]`, and after `distill`",
        )),
        _ => None,
    }
}

/// `conv(16, 3) bn |> relu` in a backbone or among settings: the grammar reads `bn` as the next key.
fn missing_pipe(place: &Place<'_>) -> Option<Diagnostic> {
    let name = place.at.checked_sub(1).filter(|name| *name > place.chunk.start)?;
    let token = place.scan.tokens[name];
    let follows = ends_operand(place.kind(name - 1)?, place.scan.word(name - 1)) && !token.first;
    if !place.expects(&[Rule::assign]) || token.kind != Kind::Word || !follows || !place.in_braces() {
        return None;
    }
    let word = place.scan.word(name);
    if KEYWORDS.contains(&word) || KEYWORDS.contains(&place.scan.word(name - 1)) {
        return None;
    }
    Some(
        place
            .syntax(format!("expected an operator, found `{word}`"))
            .at(place.scan.span_of(name), "")
            .with(place.scan.span_of(name - 1), "after this")
            .hint(format!("did you mean `|> {word}`?")),
    )
}

/// `stage s1 =` with the next part after it.
fn missing_blocks(place: &Place<'_>) -> Option<Diagnostic> {
    if !place.expected.is_empty() || place.declaration() != "backbone" {
        return None;
    }
    let start = (place.chunk.start..place.at).rev().find(|i| place.scan.word(*i) == "stage")?;
    Some(
        place
            .syntax("this stage has no blocks")
            .at(place.scan.span_of(start).to(place.scan.span_of(start + 1)), "")
            .with(place.span(), "the next part begins here")
            .hint("write a block, or how many times and a block: `stage s1 = basic(32, stride = 2), 8 * basic(32)`"),
    )
}

fn missing_value(place: &Place<'_>) -> Option<Diagnostic> {
    if place.found() != "}" || !place.expects_expression() || place.before() == "|>" {
        return None;
    }
    let lets = place.before() == "{" || place.expects(&[Rule::let_decl, Rule::kw_let]) || place.in_braces();
    lets.then(|| {
        place
            .syntax("the value before this brace is missing")
            .at(place.span(), "expected an expression")
            .hint("what stands in braces ends with the value that it computes, such as `in |> relu`")
    })
}

fn missing_operator(place: &Place<'_>) -> Option<Diagnostic> {
    let found = place.found();
    let kind = place.kind(place.at)?;
    let starts = matches!(kind, Kind::Word | Kind::Number | Kind::Str) && !KEYWORDS.contains(&found);
    let before = place.at.checked_sub(1)?;
    let follows = ends_operand(place.kind(before)?, place.before());
    if !starts || !follows || !place.expects(&[Rule::pipe]) {
        return None;
    }
    if did_you_mean(found, ["and", "or", "as", "depth", "else", "after"]).is_some() && kind == Kind::Word {
        return None;
    }
    let message = format!("expected {}, found {}", place.expected_words(), place.found_words());
    let diagnostic =
        place.syntax(message).at(place.span(), "").with(place.scan.span_of(before), "after this");
    Some(if kind == Kind::Word { diagnostic.hint(format!("did you mean `|> {found}`?")) } else { diagnostic })
}
