//! Settings blocks: keys known and given once; and values that are one of a list of names.

use crate::args::Args;
use crate::eval::{Env, Evaluator};
use crate::naming::{NormShare, Share};
use crate::signature::{Fixed, as_call};
use ddnnc_diag::{Code, Diagnostic, did_you_mean};
use ddnnc_syntax::{Expr, Ident, Setting};
use indexmap::IndexMap;

impl<'a> Evaluator<'a> {
    /// The settings whose keys are known, each once.
    pub(crate) fn settings(
        &mut self,
        settings: &'a [Setting],
        what: &str,
        keys: &[&'static str],
    ) -> IndexMap<&'static str, &'a Setting> {
        let mut found: IndexMap<&'static str, &'a Setting> = IndexMap::new();
        for setting in settings {
            let key = &setting.key;
            let Some(known) = keys.iter().find(|k| **k == key.name) else {
                let error =
                    Diagnostic::error(Code::UnknownSetting, format!("{what} has no setting `{}`", key.name))
                        .at(key.span, "");
                let hint = match did_you_mean(&key.name, keys.iter().copied()) {
                    Some(meant) => format!("did you mean `{meant}`?"),
                    None => format!("its settings are {}", quoted(keys.iter().copied())),
                };
                self.diags.push(error.hint(hint));
                continue;
            };
            match found.get(known) {
                Some(first) => self.diags.push(
                    Diagnostic::error(Code::DuplicateName, format!("`{known}` is set twice"))
                        .at(key.span, "again here")
                        .with(first.key.span, "first here"),
                ),
                None => {
                    found.insert(known, setting);
                }
            }
        }
        found
    }

    /// A call or bare name out of a list of callables: what it stands for, and its arguments evaluated.
    pub(crate) fn choice<T: Copy>(
        &mut self,
        expr: &'a Expr,
        what: &str,
        choices: &[(Fixed, T)],
    ) -> Option<(T, Args)> {
        let names = || choices.iter().map(|(c, _)| c.name);
        let Some((name, span, args)) = as_call(expr) else {
            self.fail(
                Diagnostic::error(Code::WrongKind, format!("the {what} is {}", listed(names(), "or")))
                    .at(expr.span, ""),
            );
            return None;
        };
        let Some((choice, meaning)) = choices.iter().find(|(c, _)| c.name == name) else {
            let error = Diagnostic::error(Code::UnknownName, format!("no {what} `{name}`")).at(span, "");
            let hint = match did_you_mean(name, names()) {
                Some(meant) => format!("did you mean `{meant}`?"),
                None => {
                    format!("there {} {}", if choices.len() == 1 { "is" } else { "are" }, quoted(names()))
                }
            };
            self.fail(error.hint(hint));
            return None;
        };
        let signature = choice.signature();
        match signature.bind(args, expr.span) {
            Ok(bound) => {
                let args = self.args(&signature, &bound, &mut Env::default());
                Some((*meaning, args))
            }
            Err(errors) => {
                errors.into_iter().for_each(|e| self.diags.push(e));
                None
            }
        }
    }

    /// What a bare name out of a list stands for.
    pub(crate) fn word<T: Copy>(
        &mut self,
        expr: &'a Expr,
        what: &str,
        words: &[(&'static str, T)],
    ) -> Option<T> {
        let choices: Vec<(Fixed, T)> =
            words.iter().map(|(name, meaning)| (Fixed { name, params: &[] }, *meaning)).collect();
        Some(self.choice(expr, what, &choices)?.0)
    }

    /// What every backbone's sub-nets share.
    pub(crate) fn shares(&mut self) -> IndexMap<&'a str, Share> {
        let names = self.names;
        let mut found = IndexMap::new();
        for (name, decl) in &names.shares {
            if !names.backbones.contains_key(name) {
                let candidates = self.diags.candidates(names.backbones.keys().copied());
                let ident = Ident { name: (*name).to_string(), span: decl.backbone.span };
                let error = names.unknown("a backbone", &ident, candidates);
                self.diags.push(error);
            }
            let mut share = Share::default();
            for (key, setting) in self.settings(&decl.settings, "`share`", &["norm", "head"]) {
                if key == "head" {
                    let words = [("private", false), ("shared", true)];
                    share.shared_head =
                        self.word(&setting.value, "sharing of heads", &words).unwrap_or_default();
                    continue;
                }
                let words = [
                    ("private", NormShare::Private),
                    ("private_everywhere", NormShare::PrivateEverywhere),
                    ("shared", NormShare::Shared),
                    ("recalibrated", NormShare::Recalibrated),
                ];
                share.norm = self.word(&setting.value, "sharing of norms", &words).unwrap_or_default();
            }
            found.insert(*name, share);
        }
        found
    }
}

/// `a`, `b` and `c`
pub(crate) fn quoted<'n>(names: impl Iterator<Item = &'n str>) -> String {
    listed(names, "and")
}

fn listed<'n>(names: impl Iterator<Item = &'n str>, last_word: &str) -> String {
    let mut quoted: Vec<String> = names.map(|n| format!("`{n}`")).collect();
    match quoted.pop() {
        None => String::new(),
        Some(last) if quoted.is_empty() => last,
        Some(last) => format!("{} {last_word} {last}", quoted.join(", ")),
    }
}
