//! Expressions to values; a pipe runs its steps on the trace of the net at hand.

use crate::args::{Args, Given};
use crate::diags::{Diags, no_input};
use crate::limits;
use crate::names::Names;
use crate::operators;
use crate::signature::{Bound, Signature};
use crate::trace::Trace;
use crate::value::{ArithmeticError, Tensor, Value, binary, unary};
use ddnnc_diag::{Code, Diagnostic, Span, did_you_mean};
use ddnnc_syntax::{Arg, BinaryOp, Body, Expr, ExprKind, Ident};
use rustc_hash::FxHashMap;
use std::rc::Rc;

/// The names of operators in one instance of a block, segment or exit.
#[derive(Debug, Default)]
pub(crate) struct Scope {
    /// Path of the instance, without the backbone.
    pub(crate) prefix: String,
    counts: FxHashMap<&'static str, usize>,
    blocks: FxHashMap<String, usize>,
    used: FxHashMap<String, Span>,
}

impl Scope {
    /// An instance with no operators yet.
    pub(crate) fn new(prefix: impl Into<String>) -> Scope {
        Scope { prefix: prefix.into(), ..Scope::default() }
    }

    /// The path of a new operator: its own name, or its kind and a number.
    pub(crate) fn operator(
        &mut self,
        kind: &'static str,
        own: Option<&Ident>,
        at: Span,
        diags: &mut Diags,
    ) -> String {
        match own {
            Some(own) => self.own(own, diags),
            None => loop {
                let count = self.counts.entry(kind).or_insert(0);
                *count += 1;
                let name = format!("{kind}{count}");
                if !self.used.contains_key(&name) {
                    break self.take(name, at);
                }
            },
        }
    }

    /// The path of a block within this instance.
    pub(crate) fn block(&mut self, block: &str, own: Option<&Ident>, at: Span, diags: &mut Diags) -> String {
        match own {
            Some(own) => self.own(own, diags),
            None => loop {
                let count = self.blocks.entry(block.to_string()).or_insert(0);
                *count += 1;
                let name = format!("{block}{count}");
                if !self.used.contains_key(&name) {
                    break self.take(name, at);
                }
            },
        }
    }

    fn own(&mut self, own: &Ident, diags: &mut Diags) -> String {
        if let Some(first) = self.used.get(&own.name) {
            diags.push_once(
                Diagnostic::error(Code::DuplicateName, format!("a second operator named `{}`", own.name))
                    .at(own.span, "again here")
                    .with(*first, "first here")
                    .hint(
                        "operators of one block need names of their own: their weights are saved under them",
                    ),
            );
        }
        self.take(own.name.clone(), own.span)
    }

    fn take(&mut self, name: String, at: Span) -> String {
        let path = if self.prefix.is_empty() { name.clone() } else { format!("{}.{name}", self.prefix) };
        self.used.insert(name, at);
        path
    }
}

/// What an expression sees.
#[derive(Debug, Default)]
pub(crate) struct Env<'a> {
    /// Parameters and `let`s, the inner ones last.
    pub(crate) vars: Vec<(&'a str, Value)>,
    /// Names of operators.
    pub(crate) scope: Scope,
    /// The value of `in`.
    pub(crate) input: Option<Tensor>,
}

/// A name at the top level, evaluated when it is first asked for.
enum Global {
    Busy,
    Done(Value),
}

/// The evaluator, with the budget for a whole file.
pub(crate) struct Evaluator<'a> {
    /// The declarations.
    pub(crate) names: &'a Names<'a>,
    /// The errors so far.
    pub(crate) diags: Diags,
    /// The operators of the net at hand.
    pub(crate) trace: Trace,
    /// Whether the net's head is being evaluated.
    pub(crate) head: bool,
    /// Blocks that are being evaluated, the outer ones first.
    pub(crate) active: Vec<&'a str>,
    /// Operators made so far.
    pub(crate) operators: usize,
    /// Blocks made so far.
    pub(crate) blocks: usize,
    globals: FxHashMap<&'a str, Global>,
    steps: usize,
    level: usize,
    /// The phase whose losses are planned.
    pub(crate) phase: Option<&'a str>,
    /// A limit has been passed; everything that follows is poison.
    pub(crate) exhausted: bool,
}

impl<'a> Evaluator<'a> {
    /// An evaluator with its whole budget.
    pub(crate) fn new(names: &'a Names<'a>, diags: Diags) -> Evaluator<'a> {
        Evaluator {
            names,
            diags,
            trace: Trace::default(),
            head: false,
            active: Vec::new(),
            operators: 0,
            blocks: 0,
            globals: FxHashMap::default(),
            steps: 0,
            level: 0,
            phase: None,
            exhausted: false,
        }
    }

    /// Says that a limit is passed, once for the file.
    pub(crate) fn exhaust(&mut self, message: String, span: Span) -> Value {
        if !self.exhausted {
            self.exhausted = true;
            self.diags.push(Diagnostic::error(Code::TooLarge, message).at(span, ""));
        }
        Value::Poison
    }

    pub(crate) fn fail(&mut self, diagnostic: Diagnostic) -> Value {
        self.diags.push_once(diagnostic);
        Value::Poison
    }

    /// A value at the top level, where neither blocks nor `in` are known.
    pub(crate) fn constant(&mut self, expr: &'a Expr) -> Value {
        let mut env = Env::default();
        self.value(expr, &mut env)
    }

    /// A value that is not a step of a pipe.
    pub(crate) fn value(&mut self, expr: &'a Expr, env: &mut Env<'a>) -> Value {
        self.eval(expr, env, None)
    }

    /// The value of an expression; operators in it are applied to `incoming`.
    pub(crate) fn eval(&mut self, expr: &'a Expr, env: &mut Env<'a>, incoming: Option<Tensor>) -> Value {
        self.steps += 1;
        if self.exhausted {
            return Value::Poison;
        }
        if self.steps > limits::STEPS {
            return self.exhaust("the model takes too long to evaluate".into(), expr.span);
        }
        if self.level >= limits::EVAL_DEPTH {
            return self.exhaust("expressions nested too deep".into(), expr.span);
        }
        self.level += 1;
        let value = self.kind(expr, env, incoming);
        self.level -= 1;
        value
    }

    fn kind(&mut self, expr: &'a Expr, env: &mut Env<'a>, incoming: Option<Tensor>) -> Value {
        match &expr.kind {
            ExprKind::Int(i) => Value::Int(*i),
            ExprKind::Float(x) if x.is_finite() => Value::Float(*x),
            ExprKind::Float(_) => {
                self.fail(Diagnostic::error(Code::Arithmetic, "the number is too large").at(expr.span, ""))
            }
            ExprKind::Bool(b) => Value::Bool(*b),
            ExprKind::Str(s) => Value::Str(Rc::from(s.as_str())),
            ExprKind::List(items) => self.list(items, env),
            ExprKind::Name(name) => self.name(name, expr.span, env, incoming, None),
            ExprKind::Call { callee, args } => self.call(callee, args, expr.span, env, incoming, None),
            ExprKind::Named { step, name } => match &step.kind {
                ExprKind::Name(n) => self.name(n, step.span, env, incoming, Some(name)),
                ExprKind::Call { callee, args } => {
                    self.call(callee, args, step.span, env, incoming, Some(name))
                }
                _ => self.fail(
                    Diagnostic::error(Code::WrongKind, "only an operator or a block has a name after `as`")
                        .at(step.span, ""),
                ),
            },
            ExprKind::Field { base, field } => self.field(base, field, env),
            ExprKind::Index { base, index } => self.index(base, index, env),
            ExprKind::Unary { op, operand } => {
                let value = self.value(operand, env);
                let result = unary(*op, &value);
                self.arithmetic(result, expr.span, expr.span)
            }
            ExprKind::Binary { op, op_span, lhs, rhs } => {
                self.binary(*op, *op_span, lhs, rhs, expr.span, env)
            }
            ExprKind::If { condition, then, otherwise } => match self.value(condition, env) {
                Value::Bool(true) => self.body(then, env, incoming),
                Value::Bool(false) => self.body(otherwise, env, incoming),
                Value::Poison => Value::Poison,
                other => self.fail(
                    Diagnostic::error(
                        Code::WrongKind,
                        format!("a condition is true or false, not {}", other.kind()),
                    )
                    .at(condition.span, ""),
                ),
            },
            ExprKind::Pipe(items) => self.pipe(items, env, incoming),
            ExprKind::Arrow { .. } => self.fail(
                Diagnostic::error(Code::WrongKind, "`->` stands only between two stages in `at = […]`")
                    .at(expr.span, ""),
            ),
        }
    }

    fn list(&mut self, items: &'a [Expr], env: &mut Env<'a>) -> Value {
        let mut values = Vec::with_capacity(items.len());
        let mut poisoned = false;
        for item in items {
            let value = self.value(item, env);
            if matches!(value, Value::List(_)) {
                self.fail(Diagnostic::error(Code::WrongKind, "a list inside a list").at(item.span, ""));
                poisoned = true;
            }
            poisoned |= value.is_poison();
            values.push(value);
        }
        if poisoned { Value::Poison } else { Value::List(values.into()) }
    }

    /// `let`s, then the value; the `let`s of a block apply operators to its input.
    pub(crate) fn body(&mut self, body: &'a Body, env: &mut Env<'a>, incoming: Option<Tensor>) -> Value {
        let outer = env.vars.len();
        for l in &body.lets {
            let input = env.input;
            let value = self.eval(&l.value, env, input);
            env.vars.push((&l.name.name, value));
        }
        let value = self.eval(&body.result, env, incoming);
        env.vars.truncate(outer);
        value
    }

    fn pipe(&mut self, items: &'a [Expr], env: &mut Env<'a>, incoming: Option<Tensor>) -> Value {
        let mut current = incoming;
        for (i, item) in items.iter().enumerate() {
            // A value after `|>` would throw away what comes before it.
            if i > 0
                && let ExprKind::Name(name) = &item.kind
                && (name == "in" || env.vars.iter().any(|(n, _)| n == name))
            {
                return self.fail(
                    Diagnostic::error(Code::WrongKind, format!("`{name}` is a value, not an operator"))
                        .at(item.span, "after `|>` stands an operator, a block or an `if`")
                        .hint(format!("to add it to the value before it, write `add({name})`")),
                );
            }
            match self.eval(item, env, current) {
                Value::Tensor(t) => {
                    if let (Some(before), Some(left)) = (current, i.checked_sub(1))
                        && !self.trace.follows(t.step, before.step)
                    {
                        self.diags.push_once(thrown_away(&items[left], item));
                    }
                    current = Some(t);
                }
                Value::Poison => return Value::Poison,
                other => {
                    let what = if i == 0 {
                        "a pipe begins with a value of the network"
                    } else {
                        "an operator is wanted here"
                    };
                    return self.fail(
                        Diagnostic::error(Code::WrongKind, format!("{what}, not {}", other.kind()))
                            .at(item.span, ""),
                    );
                }
            }
        }
        current.map_or(Value::Poison, Value::Tensor)
    }

    fn binary(
        &mut self,
        op: BinaryOp,
        op_span: Span,
        lhs: &'a Expr,
        rhs: &'a Expr,
        span: Span,
        env: &mut Env<'a>,
    ) -> Value {
        let a = self.value(lhs, env);
        if matches!(op, BinaryOp::And | BinaryOp::Or) {
            let mut side = |value: Value, at: Span| match value {
                Value::Bool(b) => Some(b),
                Value::Poison => None,
                other => {
                    let message = format!("`{}` takes booleans, not {}", op.as_str(), other.kind());
                    self.fail(Diagnostic::error(Code::WrongKind, message).at(at, ""));
                    None
                }
            };
            let Some(a) = side(a, lhs.span) else { return Value::Poison };
            if a == (op == BinaryOp::Or) {
                return Value::Bool(a);
            }
            let b = self.value(rhs, env);
            return match b {
                Value::Bool(_) | Value::Poison => b,
                other => {
                    let message = format!("`{}` takes booleans, not {}", op.as_str(), other.kind());
                    self.fail(Diagnostic::error(Code::WrongKind, message).at(rhs.span, ""))
                }
            };
        }
        let b = self.value(rhs, env);
        let result = binary(op, &a, &b);
        self.arithmetic(result, op_span, span)
    }

    fn arithmetic(
        &mut self,
        result: Result<Value, ArithmeticError>,
        kind_at: Span,
        number_at: Span,
    ) -> Value {
        match result {
            Ok(value) => value,
            Err(ArithmeticError::Kind(message)) => {
                self.fail(Diagnostic::error(Code::WrongKind, message).at(kind_at, ""))
            }
            Err(ArithmeticError::Number(message)) => {
                self.fail(Diagnostic::error(Code::Arithmetic, message).at(number_at, ""))
            }
        }
    }

    fn field(&mut self, base: &'a Expr, field: &Ident, env: &mut Env<'a>) -> Value {
        const FIELDS: [&str; 3] = ["channels", "height", "width"];
        let t = match self.value(base, env) {
            Value::Tensor(t) => t,
            Value::Poison => return Value::Poison,
            other => {
                return self.fail(
                    Diagnostic::error(Code::WrongKind, format!("{} has no fields", other.kind()))
                        .at(field.span, "")
                        .hint("values of the network have `channels`, `height` and `width`"),
                );
            }
        };
        let Some(axis) = FIELDS.iter().position(|f| *f == field.name) else {
            let error =
                Diagnostic::error(Code::UnknownName, format!("no field `{}`", field.name)).at(field.span, "");
            let hint = match did_you_mean(&field.name, FIELDS) {
                Some(meant) => format!("did you mean `{meant}`?"),
                None => "values of the network have `channels`, `height` and `width`".into(),
            };
            return self.fail(error.hint(hint));
        };
        let shape = &self.trace.steps[t.step].shape;
        match shape.dims().get(axis) {
            Some(&extent) => Value::Int(i64::try_from(extent).unwrap_or(i64::MAX)),
            None => {
                let message = format!("a value of shape {shape} has no `{}`", field.name);
                self.fail(
                    Diagnostic::error(Code::BadShape, message).at(field.span, "").with(t.span, "made here"),
                )
            }
        }
    }

    fn index(&mut self, base: &'a Expr, index: &'a Expr, env: &mut Env<'a>) -> Value {
        let (list, at) = (self.value(base, env), self.value(index, env));
        match (&list, &at) {
            (Value::Poison, _) | (_, Value::Poison) => Value::Poison,
            (Value::List(items), Value::Int(i)) => {
                match usize::try_from(*i).ok().and_then(|i| items.get(i)) {
                    Some(item) => item.clone(),
                    None => {
                        let message = format!("no entry {i} in a list of {}", items.len());
                        let d = Diagnostic::error(Code::OutOfRange, message).at(index.span, "");
                        self.fail(d.hint("entries count from 0"))
                    }
                }
            }
            (Value::List(_), other) => self.fail(
                Diagnostic::error(Code::WrongKind, format!("an index is an integer, not {}", other.kind()))
                    .at(index.span, ""),
            ),
            (other, _) => self.fail(
                Diagnostic::error(Code::WrongKind, format!("{} has no entries", other.kind()))
                    .at(base.span, ""),
            ),
        }
    }

    fn name(
        &mut self,
        name: &'a str,
        span: Span,
        env: &mut Env<'a>,
        incoming: Option<Tensor>,
        own: Option<&'a Ident>,
    ) -> Value {
        let value = if name == "in" {
            match env.input {
                Some(input) => Value::Tensor(input),
                None => self.fail(no_input(span)),
            }
        } else if let Some((_, value)) = env.vars.iter().rev().find(|(n, _)| *n == name) {
            value.clone()
        } else if name == "classes" || self.names.lets.contains_key(name) {
            self.global(name, span)
        } else {
            return self.apply_name(name, span, &[], span, env, incoming, own);
        };
        if own.is_some() && !value.is_poison() {
            return self.fail(
                Diagnostic::error(Code::WrongKind, "only an operator or a block has a name after `as`")
                    .at(span, ""),
            );
        }
        value
    }

    fn call(
        &mut self,
        callee: &'a Ident,
        args: &'a [Arg],
        span: Span,
        env: &mut Env<'a>,
        incoming: Option<Tensor>,
        own: Option<&'a Ident>,
    ) -> Value {
        self.apply_name(&callee.name, callee.span, args, span, env, incoming, own)
    }

    #[allow(clippy::too_many_arguments)]
    fn apply_name(
        &mut self,
        name: &'a str,
        name_span: Span,
        args: &'a [Arg],
        span: Span,
        env: &mut Env<'a>,
        incoming: Option<Tensor>,
        own: Option<&'a Ident>,
    ) -> Value {
        let entry = operators::find(name);
        let block = self.names.blocks.get(name).copied();
        if entry.is_none() && block.is_none() {
            // The bodies' names are checked beforehand; this speaks for settings and other single expressions.
            if !self.diags.has_error_at(name_span) {
                let candidates = self.diags.candidates(self.names.lets.keys().copied().chain(["classes"]));
                let ident = Ident { name: name.to_string(), span: name_span };
                let error = self.names.unknown("a value", &ident, candidates);
                self.diags.push(error);
            }
            return Value::Poison;
        }
        let Some(x) = incoming else {
            let what = if entry.is_some() { "an operator" } else { "a block" };
            let arguments = if args.is_empty() { "" } else { "(…)" };
            return self.fail(
                Diagnostic::error(Code::WrongKind, format!("`{name}` is {what}, not a value"))
                    .at(span, "a value is wanted here")
                    .hint(format!("apply it to a value: `in |> {name}{arguments}`")),
            );
        };
        match (entry, block) {
            (Some(entry), _) => {
                let Ok(bound) = entry.fixed.signature().bind(args, span) else { return Value::Poison };
                let args = self.args(&entry.fixed.signature(), &bound, env);
                if args.poisoned() || self.exhausted {
                    return Value::Poison;
                }
                self.operator(entry, &args, span, env, x, own)
            }
            (None, Some(block)) => {
                let signature = Signature::of(&block.name.name, &block.params);
                let Ok(bound) = signature.bind(args, span) else { return Value::Poison };
                let args = self.args(&signature, &bound, env);
                self.block(block, args, span, env, x, own)
            }
            (None, None) => Value::Poison,
        }
    }

    /// Evaluates the arguments of a call.
    pub(crate) fn args(&mut self, signature: &Signature<'_>, bound: &Bound<'a>, env: &mut Env<'a>) -> Args {
        let mut given = Vec::with_capacity(bound.args.len());
        for ((param, _), expr) in signature.params.iter().zip(&bound.args) {
            let value = expr.map(|e| Given {
                what: format!("`{param}` of `{}`", signature.name),
                value: self.value(e, env),
                span: e.span,
            });
            given.push(((*param).to_string(), value));
        }
        let mut more = Vec::with_capacity(bound.more.len());
        for e in &bound.more {
            let what = format!("an argument of `{}`", signature.name);
            more.push(Given { what, value: self.value(e, env), span: e.span });
        }
        Args { given, more }
    }

    /// A name at the top level.
    fn global(&mut self, name: &'a str, span: Span) -> Value {
        match self.globals.get(name) {
            Some(Global::Done(value)) => return value.clone(),
            Some(Global::Busy) => {
                return self.fail(
                    Diagnostic::error(Code::Recursion, format!("`{name}` is defined by itself")).at(span, ""),
                );
            }
            None => {}
        }
        self.globals.insert(name, Global::Busy);
        let value = if name == "classes" {
            match self.names.target {
                Some(t) if t.ty.kind.name == "class" && t.ty.dims.len() == 1 => {
                    let value = self.constant(&t.ty.dims[0]);
                    let given =
                        Given { what: "the number of classes".into(), value, span: t.ty.dims[0].span };
                    given.int(2, limits::EXTENT, &mut self.diags).map_or(Value::Poison, Value::Int)
                }
                _ => Value::Poison,
            }
        } else {
            match self.names.lets.get(name) {
                Some(l) => self.constant(&l.value),
                None => Value::Poison,
            }
        };
        self.globals.insert(name, Global::Done(value.clone()));
        value
    }

    /// Evaluates every `let` at the top level, also those that nothing uses.
    pub(crate) fn top_level(&mut self) {
        let names = self.names;
        for (name, l) in &names.lets {
            self.global(name, l.name.span);
        }
    }

    /// The number of classes, where the target says it.
    pub(crate) fn classes(&mut self) -> Option<usize> {
        match self.global("classes", Span::default()) {
            Value::Int(k) => usize::try_from(k).ok(),
            _ => None,
        }
    }
}

/// Warns of a step whose value does not come from the one before it: a branch that gives `in`, or a pipe in parentheses.
fn thrown_away(before: &Expr, step: &Expr) -> Diagnostic {
    Diagnostic::warning(Code::Unused, "this step throws away what comes before it")
        .at(step.span, "its value does not come from it")
        .with(before.span, "this has no effect")
        .hint("`in` is the input of the block; the step that changes nothing is `identity`")
}
