//! What is wrong with a text that does not parse: every declaration is looked at on its own.

use crate::errors;
use crate::grammar::{DECLARATIONS, Grammar, KEYWORDS, Rule};
use crate::scan::{Kind, MAX_ERRORS, Scan, ends_operand};
use crate::tree::Tree;
use ddnnc_diag::{Code, Diagnostic, did_you_mean};
use pest::Parser;
use std::ops::Range;

/// Whether `word` may begin a line inside of a declaration that begins with `around`, so that it does not prove a
/// bracket unclosed.
fn nests(word: &str, around: &str) -> bool {
    match word {
        "let" => matches!(around, "block" | "backbone"),
        "supervise" | "distill" | "order" => around == "phase",
        _ => false,
    }
}

/// The errors of a text, in its order; never empty.
///
/// `whole` is the parser's error on the whole text, used where every declaration is fine on its own.
pub(crate) fn diagnose(scan: &Scan<'_>, whole: Option<pest::error::Error<Rule>>) -> Vec<Diagnostic> {
    let mut found = scan.errors.clone();
    let mut outline = Outline::of(scan);
    outline.errors.sort_by_key(place);
    outline.errors.truncate(MAX_ERRORS);
    found.extend(outline.errors);
    if let Some(missing) = missing_model(scan) {
        found.push(missing);
    }
    for chunk in &outline.chunks {
        let Some((first, last)) = scan.tokens.get(chunk.clone()).and_then(|t| Some((t.first()?, t.last()?)))
        else {
            continue;
        };
        let (start, end) = (first.start, last.end);
        let broken = |d: &Diagnostic| {
            d.labels.iter().any(|l| (start..=end).contains(&(l.span.start as usize)) && l.primary)
        };
        if found.iter().any(broken) || found.len() >= 2 * MAX_ERRORS {
            continue;
        }
        if chunk.start > 0 && scan.word(chunk.start) == "model" {
            found.push(
                Diagnostic::error(Code::Syntax, "`model` stands once, at the beginning of the file")
                    .at(scan.span_of(chunk.start), "")
                    .hint("move this line to the top, or remove it"),
            );
            continue;
        }
        match Grammar::parse(Rule::fragment, &scan.text[start..end]) {
            Err(error) => found.push(errors::describe(scan, chunk.clone(), start, &error)),
            Ok(pairs) => {
                let tree = Tree::new(scan, start);
                for pair in pairs.flat_map(|fragment| fragment.into_inner()) {
                    // Built for the errors that only building finds.
                    let _ = tree.item(pair);
                }
                found.extend(tree.into_errors());
            }
        }
    }
    if found.is_empty() {
        found.push(match whole {
            Some(error) => errors::describe(scan, 0..scan.tokens.len(), 0, &error),
            None => errors::internal(scan),
        });
    }
    found.sort_by_key(place);
    found.truncate(MAX_ERRORS);
    found
}

fn place(diagnostic: &Diagnostic) -> u32 {
    diagnostic.labels.first().map_or(0, |label| label.span.start)
}

fn missing_model(scan: &Scan<'_>) -> Option<Diagnostic> {
    let word = scan.word(0);
    if word == "model" || did_you_mean(word, ["model"]).is_some() {
        return None;
    }
    if word.is_empty() {
        let message = "the file is empty";
        return Some(Diagnostic::error(Code::Syntax, message).at(scan.span_of(0), "").hint(MODEL_HINT));
    }
    let message = "the file does not begin with a `model` line";
    Some(
        Diagnostic::error(Code::Syntax, message)
            .at(scan.span_of(0), "expected `model` before this")
            .hint(MODEL_HINT),
    )
}

const MODEL_HINT: &str = "a spec begins with `model` and a name, such as `model my_network`";

/// The declarations of a text, as ranges of tokens, and what is wrong with its brackets.
struct Outline {
    chunks: Vec<Range<usize>>,
    errors: Vec<Diagnostic>,
}

impl Outline {
    fn of(scan: &Scan<'_>) -> Outline {
        let mut outline = Outline { chunks: Vec::new(), errors: Vec::new() };
        let mut open: Vec<usize> = Vec::new();
        let mut begin = 0;
        for i in 0..scan.tokens.len() {
            let around = (!open.is_empty()).then_some(scan.word(begin));
            if scan.tokens[i].first && outline.begins_declaration(scan, i, around) {
                for &bracket in &open {
                    outline.unclosed(scan, bracket, Some((i, "a new declaration begins here")));
                }
                open.clear();
                if begin < i {
                    outline.chunks.push(begin..i);
                }
                begin = i;
            }
            match scan.tokens[i].kind {
                Kind::Open => open.push(i),
                Kind::Close => outline.close(scan, &mut open, i),
                _ => {}
            }
        }
        for &bracket in &open {
            outline.unclosed(scan, bracket, None);
        }
        if begin < scan.tokens.len() {
            outline.chunks.push(begin..scan.tokens.len());
        }
        outline
    }

    /// Whether a declaration begins with token `i`, which is the first of its line; `around` is the first word of the
    /// declaration whose brackets are open there.
    fn begins_declaration(&mut self, scan: &Scan<'_>, i: usize, around: Option<&str>) -> bool {
        let (word, next) = (scan.word(i), scan.word(i + 1));
        if scan.tokens[i].kind != Kind::Word {
            return false;
        }
        let next_kind = scan.tokens.get(i + 1).map(|t| t.kind);
        let next_opens = next == "{" || next_kind == Some(Kind::Word);
        if DECLARATIONS.contains(&word) {
            // Inside of brackets only what stands at the margin counts: what is indented is misplaced.
            let at_margin = scan.text[..scan.tokens[i].start].ends_with('\n');
            return around
                .is_none_or(|a| at_margin && next_opens && !nests(word, a) && !KEYWORDS.contains(&next));
        }
        if around.is_some() || KEYWORDS.contains(&word) && word != "stage" {
            return false;
        }
        let after_operand = i == 0 || ends_operand(scan.tokens[i - 1].kind, scan.word(i - 1));
        if !after_operand || !(next_opens || i == 0) || (i > 0 && KEYWORDS.contains(&scan.word(i - 1))) {
            return false;
        }
        let at = scan.span_of(i);
        if word == "stage" {
            self.errors.push(
                Diagnostic::error(Code::Syntax, "a stage stands inside a backbone")
                    .at(at, "")
                    .hint("move it between the braces of a `backbone` declaration"),
            );
        } else if let Some(meant) = did_you_mean(word, DECLARATIONS.iter().copied()) {
            let message = format!("`{word}` begins no declaration");
            self.errors.push(
                Diagnostic::error(Code::Syntax, message).at(at, "").hint(format!("did you mean `{meant}`?")),
            );
        } else if i > 0 {
            self.errors.push(
                Diagnostic::error(Code::Syntax, format!("`{word}` begins no declaration"))
                    .at(at, "")
                    .hint(format!("a declaration begins with one of {}", DECLARATIONS.join(", "))),
            );
        } else {
            return false;
        }
        true
    }

    fn close(&mut self, scan: &Scan<'_>, open: &mut Vec<usize>, i: usize) {
        let bracket = scan.word(i);
        let Some(at) = open.iter().rposition(|&o| closing(scan.word(o)) == bracket) else {
            self.errors.push(match open.pop() {
                Some(o) => {
                    let message = format!("`{bracket}` does not close `{}`", scan.word(o));
                    Diagnostic::error(Code::Syntax, message)
                        .at(scan.span_of(i), "")
                        .with(scan.span_of(o), format!("this needs `{}`", closing(scan.word(o))))
                }
                None => Diagnostic::error(Code::Syntax, format!("`{bracket}` closes nothing"))
                    .at(scan.span_of(i), "")
                    .hint("remove it, or open it where it belongs"),
            });
            return;
        };
        for &unclosed in &open[at + 1..] {
            self.unclosed(scan, unclosed, Some((i, "this closes what is around it")));
        }
        open.truncate(at);
    }

    fn unclosed(&mut self, scan: &Scan<'_>, bracket: usize, before: Option<(usize, &str)>) {
        let (open, close) = (scan.word(bracket), closing(scan.word(bracket)));
        let diagnostic = Diagnostic::error(Code::Syntax, format!("`{open}` is not closed"))
            .at(scan.span_of(bracket), format!("this needs `{close}`"));
        self.errors.push(match before {
            Some((i, text)) => diagnostic.with(scan.span_of(i), text),
            None => diagnostic.with(scan.span_of(scan.tokens.len()), "the file ends here"),
        });
    }
}

fn closing(open: &str) -> &'static str {
    match open {
        "(" => ")",
        "[" => "]",
        _ => "}",
    }
}
