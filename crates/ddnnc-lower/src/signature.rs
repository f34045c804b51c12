//! Parameters of everything that can be called, and the arguments of a call put to them.

use ddnnc_diag::{Code, Diagnostic, Span, did_you_mean};
use ddnnc_syntax::{Arg, Expr, ExprKind, Param};

/// What a callable takes: names in order, and which of them must be given.
#[derive(Clone, Debug)]
pub(crate) struct Signature<'a> {
    /// The callable's name, for messages.
    pub(crate) name: &'a str,
    /// (parameter, whether a call must give it).
    pub(crate) params: Vec<(&'a str, bool)>,
    /// Whether further positional arguments may follow.
    pub(crate) variadic: bool,
}

/// A fixed signature: each parameter, those that must be given with a `!` after the name; `...` for more of the last.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fixed {
    /// The callable's name.
    pub(crate) name: &'static str,
    /// Its parameters.
    pub(crate) params: &'static [&'static str],
}

impl Fixed {
    /// The signature with its marks read.
    pub(crate) fn signature(&self) -> Signature<'static> {
        let variadic = self.params.last() == Some(&"...");
        let params = self
            .params
            .iter()
            .filter(|p| **p != "...")
            .map(|p| match p.strip_suffix('!') {
                Some(name) => (name, true),
                None => (*p, false),
            })
            .collect();
        Signature { name: self.name, params, variadic }
    }
}

impl<'a> Signature<'a> {
    /// The signature of a block or backbone.
    pub(crate) fn of(name: &'a str, params: &'a [Param]) -> Signature<'a> {
        let params = params.iter().map(|p| (p.name.name.as_str(), p.default.is_none())).collect();
        Signature { name, params, variadic: false }
    }

    /// Adds the parameters as a hint, `conv(out, kernel, stride = …)`.
    fn with_parameters(&self, d: Diagnostic) -> Diagnostic {
        if self.params.is_empty() {
            return d.hint(format!("`{}` has no parameters", self.name));
        }
        let mut parts: Vec<String> = self
            .params
            .iter()
            .map(|(name, required)| if *required { (*name).to_string() } else { format!("{name} = …") })
            .collect();
        if self.variadic {
            parts.push("…".into());
        }
        d.hint(format!("its parameters are `{}({})`", self.name, parts.join(", ")))
    }

    /// The argument for each parameter, then the further ones of a variadic callable; or what is wrong with the call.
    pub(crate) fn bind<'e>(&self, args: &'e [Arg], call: Span) -> Result<Bound<'e>, Vec<Diagnostic>> {
        let mut bound = Bound { args: vec![None; self.params.len()], more: Vec::new() };
        let mut errors = Vec::new();
        let error = |message: String| Diagnostic::error(Code::Arguments, message);
        let mut named = false;
        let mut extra = 0;
        for (i, arg) in args.iter().enumerate() {
            let Some(name) = &arg.name else {
                if named {
                    errors.push(
                        error("an argument without a name after one with a name".into())
                            .at(arg.value.span, "")
                            .hint("arguments without names come first"),
                    );
                } else if let Some(slot) = bound.args.get_mut(i) {
                    *slot = Some(&arg.value);
                } else if self.variadic {
                    bound.more.push(&arg.value);
                } else {
                    extra += 1;
                    if extra == 1 {
                        let n = self.params.len();
                        let takes = match n {
                            0 => "no arguments".to_string(),
                            1 => "one argument".to_string(),
                            _ => format!("at most {n} arguments"),
                        };
                        let d = error(format!("`{}` takes {takes}", self.name))
                            .at(arg.value.span, "one too many");
                        errors.push(self.with_parameters(d));
                    }
                }
                continue;
            };
            named = true;
            let Some(at) = self.params.iter().position(|(p, _)| *p == name.name) else {
                let mut d =
                    error(format!("`{}` has no parameter `{}`", self.name, name.name)).at(name.span, "");
                d = match did_you_mean(&name.name, self.params.iter().map(|p| p.0)) {
                    Some(meant) => d.hint(format!("did you mean `{meant}`?")),
                    None => self.with_parameters(d),
                };
                errors.push(d);
                continue;
            };
            match bound.args[at] {
                Some(first) => errors.push(
                    error(format!("`{}` is given twice", name.name))
                        .at(name.span, "again here")
                        .with(first.span, "first here"),
                ),
                None => bound.args[at] = Some(&arg.value),
            }
        }
        // A misspelt name is likely the one that is missing: one message for it is enough.
        if errors.is_empty() {
            let missing: Vec<String> = self
                .params
                .iter()
                .zip(&bound.args)
                .filter(|((_, required), given)| *required && given.is_none())
                .map(|((name, _), _)| format!("`{name}`"))
                .collect();
            if !missing.is_empty() {
                let d = error(format!("`{}` needs {}", self.name, missing.join(" and "))).at(call, "");
                errors.push(self.with_parameters(d));
            }
        }
        if errors.is_empty() { Ok(bound) } else { Err(errors) }
    }
}

/// The arguments of a call, one for each parameter.
#[derive(Debug)]
pub(crate) struct Bound<'e> {
    /// What the call gives for each parameter.
    pub(crate) args: Vec<Option<&'e Expr>>,
    /// Further arguments.
    pub(crate) more: Vec<&'e Expr>,
}

/// A call or a bare name, taken apart: the name, its place, the arguments.
pub(crate) fn as_call(expr: &Expr) -> Option<(&str, Span, &[Arg])> {
    match &expr.kind {
        ExprKind::Name(name) => Some((name, expr.span, &[])),
        ExprKind::Call { callee, args } => Some((&callee.name, callee.span, args)),
        _ => None,
    }
}
