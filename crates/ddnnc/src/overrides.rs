//! `--set train.epochs=3`: a setting of the spec replaced or added from the command line.
//!
//! An override is spliced into the spec's text as the user could have written it there, so that everything after
//! (diagnostics, the run folder's copy of the spec) sees one spec; [`Patched`] leads diagnostics back to the override.

use crate::source::{Part, Patched};
use ddnnc_diag::{Code, Diagnostic, SourceId, Span, did_you_mean};
use ddnnc_syntax::{Arg, Expr, ExprKind, Item, PhaseDecl, Setting, SpecFile};

/// What the first word of an override's key may be.
const SECTIONS: [&str; 5] = ["train", "share", "network", "phase", "let"];

/// One `--set` argument, cut at its parts; offsets are bytes of the argument.
struct Override<'a> {
    source: SourceId,
    /// The argument as the user gave it.
    text: &'a str,
    /// The words of the key with their offsets.
    key: Vec<(usize, &'a str)>,
    /// The value with its offset.
    value: (usize, &'a str),
}

impl<'a> Override<'a> {
    /// Cuts `a.b.c=value`.
    fn cut(text: &'a str, source: SourceId) -> Result<Override<'a>, Diagnostic> {
        let whole = Span::new(source, 0, text.len());
        let Some(equals) = text.find('=') else {
            return Err(Diagnostic::error(Code::Syntax, "an override without a value")
                .at(whole, "expected KEY=VALUE")
                .hint("for instance `--set train.epochs=3`"));
        };
        let mut key = Vec::new();
        let mut at = 0;
        for word in text[..equals].split('.') {
            let trimmed = word.trim();
            let start = at + (word.len() - word.trim_start().len());
            at += word.len() + 1;
            let legal = trimmed.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
            if trimmed.is_empty() || !legal || trimmed.as_bytes()[0].is_ascii_digit() {
                return Err(Diagnostic::error(
                    Code::Syntax,
                    "an override's key is names with dots between them",
                )
                .at(Span::new(source, 0, equals), "not a key")
                .hint("for instance `--set train.epochs=3` or `--set share.resnet.norm=shared`"));
            }
            key.push((start, trimmed));
        }
        let rest = &text[equals + 1..];
        let value = rest.trim();
        if value.is_empty() {
            return Err(
                Diagnostic::error(Code::Syntax, "an override without a value").at(whole, "nothing after `=`")
            );
        }
        Ok(Override {
            source,
            text,
            key,
            value: (equals + 1 + (rest.len() - rest.trim_start().len()), value),
        })
    }

    fn key_span(&self, word: usize) -> Span {
        let (start, text) = self.key[word];
        Span::new(self.source, start, start + text.len())
    }

    /// Checks that the value is one expression of the language, so that it cannot reach beyond its setting.
    fn check_value(&self) -> Result<(), Vec<Diagnostic>> {
        // The source id stands for the text made up here until its diagnostics are traced back.
        let made_up = SourceId(u32::MAX);
        let (at, value) = self.value;
        let parse = |before: &str, after: &str| {
            let mut text = Patched::new("", made_up);
            let parts = [
                Part::Glue { text: before, at },
                Part::Written { text: value, at },
                Part::Glue { text: after, at: at + value.len() },
            ];
            text.splice((0, 0), self.source, &parts);
            ddnnc_syntax::parse(text.text(), made_up).map_err(|mut errors| {
                text.trace_back(made_up, &mut errors);
                errors
            })
        };
        match parse("model x\ntrain {\n    value = ", "\n}\n") {
            Ok(file) => match file.items.as_slice() {
                [Item::Train(train)] if train.settings.len() == 1 => Ok(()),
                _ => Err(vec![
                    Diagnostic::error(Code::Syntax, "an override sets one thing")
                        .at(Span::new(self.source, at, self.text.len()), "more than one value")
                        .hint("repeat `--set` for each setting"),
                ]),
            },
            // Without braces around the value, one that closes none of its own is what is shown.
            Err(errors) => Err(parse("model x\nlet value = ", "\n").err().unwrap_or(errors)),
        }
    }
}

/// Applies one override to a spec whose text parses to `file` (with spans of that text).
pub fn apply(
    patched: &mut Patched,
    file: &SpecFile,
    text: &str,
    source: SourceId,
) -> Result<(), Vec<Diagnostic>> {
    let cut = Override::cut(text, source).map_err(|error| vec![error])?;
    cut.check_value()?;
    let edit = place(&cut, file).map_err(|error| vec![error])?;
    let (at, value) = cut.value;
    let (key_at, key) = edit.key.unwrap_or((at, ""));
    let parts = [
        Part::Glue { text: &edit.before, at: key_at },
        Part::Written { text: key, at: key_at },
        Part::Glue { text: if key.is_empty() { "" } else { " = " }, at },
        Part::Written { text: value, at },
        Part::Glue { text: edit.after, at: at + value.len() },
    ];
    patched.splice(edit.range, source, &parts);
    Ok(())
}

/// Bytes to replace, and what stands around the override's value there.
struct Edit<'a> {
    range: (usize, usize),
    before: String,
    /// The new setting's key with its offset; none where only a value is replaced.
    key: Option<(usize, &'a str)>,
    after: &'static str,
}

impl<'a> Edit<'a> {
    fn replace(span: Span) -> Edit<'a> {
        Edit { range: range(span), before: String::new(), key: None, after: "" }
    }

    fn insert(at: usize, before: impl Into<String>, key: (usize, &'a str), after: &'static str) -> Edit<'a> {
        Edit { range: (at, at), before: before.into(), key: Some(key), after }
    }
}

fn range(span: Span) -> (usize, usize) {
    (span.start as usize, span.end as usize)
}

/// Finds where an override goes.
fn place<'a>(cut: &Override<'a>, file: &SpecFile) -> Result<Edit<'a>, Diagnostic> {
    let words: Vec<&str> = cut.key.iter().map(|(_, word)| *word).collect();
    match words.as_slice() {
        ["let", name] => {
            let found = file.items.iter().find_map(|item| match item {
                Item::Let(decl) if decl.name.name == *name => Some(decl),
                _ => None,
            });
            let names = file.items.iter().filter_map(|item| match item {
                Item::Let(decl) => Some(decl.name.name.as_str()),
                _ => None,
            });
            match found {
                Some(decl) => Ok(Edit::replace(decl.value.span)),
                None => Err(unknown(cut, 1, "`let`", names)),
            }
        }
        ["train", rest @ ..] if !rest.is_empty() => {
            let train = file.items.iter().find_map(|item| match item {
                Item::Train(decl) => Some((&decl.settings, decl.span)),
                _ => None,
            });
            match train {
                Some((settings, span)) => setting(cut, 1, settings, span),
                None => new_declaration(cut, file, 1, "train"),
            }
        }
        ["share", name, rest @ ..] if !rest.is_empty() => {
            let share = file.items.iter().find_map(|item| match item {
                Item::Share(decl) if decl.backbone.name == *name => Some((&decl.settings, decl.span)),
                _ => None,
            });
            let backbones: Vec<&str> = file
                .items
                .iter()
                .filter_map(|item| match item {
                    Item::Backbone(decl) => Some(decl.name.name.as_str()),
                    _ => None,
                })
                .collect();
            match share {
                Some((settings, span)) => setting(cut, 2, settings, span),
                None if backbones.contains(name) => new_declaration(cut, file, 2, &format!("share {name}")),
                None => Err(unknown(cut, 1, "backbone", backbones)),
            }
        }
        ["network", name, rest @ ..] if !rest.is_empty() => {
            let networks = file.items.iter().filter_map(|item| match item {
                Item::Network(decl) => Some(decl),
                _ => None,
            });
            match networks.clone().find(|decl| decl.name.name == *name) {
                Some(decl) if decl.settings.is_empty() && decl.span.end == decl.of.span.end => {
                    let at = decl.span.end as usize;
                    Ok(Edit::insert(at, " { ", joined(cut, 2, [])?, " }"))
                }
                Some(decl) => setting(cut, 2, &decl.settings, decl.span),
                None => Err(unknown(cut, 1, "network", networks.map(|decl| decl.name.name.as_str()))),
            }
        }
        ["phase", name, rest @ ..] if !rest.is_empty() => {
            let phases = file.items.iter().filter_map(|item| match item {
                Item::Phase(decl) => Some(decl),
                _ => None,
            });
            match phases.clone().find(|decl| decl.name.name == *name) {
                Some(decl) => phase(cut, decl),
                None => Err(unknown(cut, 1, "phase", phases.map(|decl| decl.name.name.as_str()))),
            }
        }
        _ => {
            let first = words[0];
            let known = SECTIONS.contains(&first);
            let message = if known {
                "an override's key stops too early"
            } else {
                "no such part of a spec to override"
            };
            let error = Diagnostic::error(Code::UnknownSetting, message).at(cut.key_span(0), "");
            Err(match did_you_mean(first, SECTIONS) {
                Some(near) if !known => error.hint(format!("did you mean `{near}`?")),
                _ => {
                    error.hint(
                        "a key is `train.KEY`, `share.BACKBONE.KEY`, `network.NAME.KEY`, `phase.NAME.KEY` or `let.NAME`",
                    )
                }
            })
        }
    }
}

/// `no such network`, with the nearest name.
fn unknown<'n>(
    cut: &Override<'_>,
    word: usize,
    kind: &str,
    names: impl IntoIterator<Item = &'n str>,
) -> Diagnostic {
    let name = cut.key[word].1;
    let error = Diagnostic::error(Code::UnknownName, format!("the spec has no {kind} `{name}`"))
        .at(cut.key_span(word), "not declared");
    match did_you_mean(name, names) {
        Some(near) => error.hint(format!("did you mean `{near}`?")),
        None => error,
    }
}

/// The only word from `first` on; an override cannot reach into what is not written, of which `written` are the names.
fn joined<'a, 'n>(
    cut: &Override<'a>,
    first: usize,
    written: impl IntoIterator<Item = &'n str>,
) -> Result<(usize, &'a str), Diagnostic> {
    match cut.key.get(first..) {
        Some([key]) => Ok(*key),
        _ => {
            let (start, key) = cut.key[first];
            let error = Diagnostic::error(Code::UnknownSetting, format!("the spec does not write `{key}`"))
                .at(Span::new(cut.source, start, start + key.len()), "nothing to change a part of");
            Err(match did_you_mean(key, written) {
                Some(near) => error.hint(format!("did you mean `{near}`?")),
                None => error.hint(format!("set the whole of it: `{key}=…`")),
            })
        }
    }
}

/// A declaration that the spec does not have, at the end of the file.
fn new_declaration<'a>(
    cut: &Override<'a>,
    file: &SpecFile,
    first: usize,
    head: &str,
) -> Result<Edit<'a>, Diagnostic> {
    let key = joined(cut, first, [])?;
    Ok(Edit::insert(file.span.end as usize, format!("\n\n{head} {{\n    "), key, "\n}\n"))
}

/// A setting of a declaration that ends with its closing brace.
fn setting<'a>(
    cut: &Override<'a>,
    first: usize,
    settings: &[Setting],
    span: Span,
) -> Result<Edit<'a>, Diagnostic> {
    let key = cut.key[first].1;
    if let Some(found) = settings.iter().find(|s| s.key.name == key) {
        return value(cut, first + 1, &found.value);
    }
    let key = joined(cut, first, settings.iter().map(|s| s.key.name.as_str()))?;
    Ok(match settings.last() {
        Some(last) => Edit::insert(last.span.end as usize, "\n    ", key, ""),
        None => Edit::insert((span.end as usize).saturating_sub(1), "\n    ", key, "\n"),
    })
}

/// A setting of a phase, among which losses may stand.
fn phase<'a>(cut: &Override<'a>, decl: &PhaseDecl) -> Result<Edit<'a>, Diagnostic> {
    let (_, key) = cut.key[2];
    if decl.settings.iter().any(|s| s.key.name == key) {
        return setting(cut, 2, &decl.settings, decl.span);
    }
    let key = joined(cut, 2, decl.settings.iter().map(|s| s.key.name.as_str()))?;
    // Behind the last brace there is nothing that it could run into.
    Ok(Edit::insert((decl.span.end as usize).saturating_sub(1), "\n    ", key, "\n"))
}

/// A value, or an argument inside it: `optimizer.lr` in `optimizer = sgd(lr = 0.1)`.
fn value<'a>(cut: &Override<'a>, depth: usize, expr: &Expr) -> Result<Edit<'a>, Diagnostic> {
    let Some((_, key)) = cut.key.get(depth) else {
        return Ok(Edit::replace(expr.span));
    };
    match &expr.kind {
        ExprKind::Call { args, .. } => match args.iter().find(|arg| named(arg, key)) {
            Some(arg) => value(cut, depth + 1, &arg.value),
            None => {
                let key =
                    joined(cut, depth, args.iter().filter_map(|a| Some(a.name.as_ref()?.name.as_str())))?;
                let gap = if args.is_empty() { "" } else { ", " };
                let at = args
                    .last()
                    .map_or((expr.span.end as usize).saturating_sub(1), |a| a.value.span.end as usize);
                Ok(Edit::insert(at, gap, key, ""))
            }
        },
        ExprKind::Name(_) => {
            let key = joined(cut, depth, [])?;
            Ok(Edit::insert(expr.span.end as usize, "(", key, ")"))
        }
        _ => Err(Diagnostic::error(Code::UnknownSetting, format!("the spec's value has no part `{key}`"))
            .at(cut.key_span(depth), "")
            .with(expr.span, "this value")),
    }
}

fn named(arg: &Arg, key: &str) -> bool {
    arg.name.as_ref().is_some_and(|name| name.name == key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ddnnc_diag::SourceMap;

    const SPEC: &str = "model m
let width = 16
backbone resnet { stem = conv(width, 3) head = linear(classes) }
subnet full = resnet
network teacher = resnet
network other = resnet { frozen = true }
phase warm { epochs = 1, distill full -> other { kl } }
train {
    data = mnist(path = \"data\") // where
    epochs = 3,
    schedule = constant
}
";

    /// The spec's text with one override, or the first line of what is wrong with it.
    fn with(text: &str) -> Result<String, String> {
        let mut sources = SourceMap::new();
        let (file_id, id) = (sources.add("m.ddnn", SPEC), sources.add("--set", text));
        let file = ddnnc_syntax::parse(SPEC, file_id).expect("the spec is right");
        let mut patched = Patched::new(SPEC, file_id);
        apply(&mut patched, &file, text, id).map_err(|errors| {
            for label in errors.iter().flat_map(|e| &e.labels) {
                assert!(label.span.source == id || label.span.source == file_id, "{label:?}");
                assert!(label.span.end as usize <= sources.text(label.span.source).len(), "{label:?}");
            }
            errors[0].message.clone()
        })?;
        let all = SourceId(7);
        ddnnc_syntax::parse(patched.text(), all).map_err(|e| format!("broke the spec: {}", e[0].message))?;
        Ok(patched.text().to_string())
    }

    #[test]
    fn overrides_replace_and_add() {
        let cases = [
            ("train.epochs=5", "    epochs = 5,\n"),
            ("train.epochs = 5 // five", "    epochs = 5"),
            ("train.batch=8", "    schedule = constant\n    batch = 8\n}"),
            ("train.data.path=\"x=y\"", "mnist(path = \"x=y\") // where"),
            ("train.data.augment=[flip]", "mnist(path = \"data\", augment = [flip]) // where"),
            ("train.schedule.warmup=1", "schedule = constant(warmup = 1)"),
            ("train.schedule=cosine(end = 0.1)", "schedule = cosine(end = 0.1)\n"),
            ("share.resnet.norm=shared", "}\n\n\nshare resnet {\n    norm = shared\n}\n"),
            ("network.teacher.frozen=true", "network teacher = resnet { frozen = true }\n"),
            ("network.other.frozen=false", "{ frozen = false }"),
            ("network.other.load=\"f\"", "{ frozen = true\n    load = \"f\" }"),
            ("let.width=32", "let width = 32\n"),
            ("phase.warm.epochs=5", "phase warm { epochs = 5, distill"),
            ("phase.warm.train=[full]", "-> other { kl } \n    train = [full]\n}\ntrain {"),
        ];
        for (text, expected) in cases {
            match with(text) {
                Ok(spec) => assert!(spec.contains(expected), "{text}:\n{spec}"),
                Err(error) => panic!("{text}: {error}"),
            }
        }
    }

    #[test]
    fn wrong_overrides_are_told() {
        let cases = [
            ("train.epochs", "an override without a value"),
            ("train.epochs=", "an override without a value"),
            ("=3", "an override's key is names with dots between them"),
            ("train..epochs=3", "an override's key is names with dots between them"),
            ("epochs=3", "no such part of a spec to override"),
            ("train=3", "an override's key stops too early"),
            ("trian.epochs=3", "no such part of a spec to override"),
            ("train.epochs.more=3", "the spec's value has no part `more`"),
            ("train.optimizer.lr=3", "the spec does not write `optimizer`"),
            ("train.epochs=3, batch = 4", "an override sets one thing"),
            ("train.epochs=3\nbatch = 4", "an override sets one thing"),
            ("share.resnt.norm=shared", "the spec has no backbone `resnt`"),
            ("network.pupil.frozen=true", "the spec has no network `pupil`"),
            ("let.height=3", "the spec has no `let` `height`"),
            ("phase.cold.epochs=3", "the spec has no phase `cold`"),
            ("phase.warm=3", "an override's key stops too early"),
            ("phase.warm.optimizer.lr=3", "the spec does not write `optimizer`"),
        ];
        for (text, expected) in cases {
            assert_eq!(with(text).expect_err(text), expected, "{text}");
        }
        for (text, place) in [("train.epochs=3}  model x", (14, 15)), ("train.epochs=3 }", (15, 16))] {
            let mut sources = SourceMap::new();
            let id = sources.add("--set", text);
            let cut = Override::cut(text, id).expect("a key and a value");
            let errors = cut.check_value().expect_err(text);
            assert_eq!(errors[0].message, "`}` closes nothing");
            assert_eq!(range(errors[0].labels[0].span), place, "{text}");
        }
        for text in [
            "train.epochs=3 }",
            "train.epochs=(",
            "train.epochs=3 } train { x = 1",
            "train.epochs=\"a",
            "é.a=1",
        ] {
            let error = with(text).expect_err(text);
            assert!(!error.starts_with("broke the spec"), "{text}: {error}");
        }
    }
}
