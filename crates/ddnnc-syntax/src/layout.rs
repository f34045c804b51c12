//! The formatter's writer, and the layout of expressions.
//!
//! The writer holds a queue of the file's comments and lets those out that stand before what it writes next, so that
//! every comment comes out once and in order, wherever it stands. A layout may depend only on the tree and on what the
//! output keeps of the text (comments, blank lines, a break after `{` or before `|>`), which makes it idempotent.

use crate::ast::*;
use ddnnc_diag::Span;

/// Lines are broken past this column.
const WIDTH: usize = 100;
const INDENT: usize = 4;

// How tight an expression binds, loosest first.
const PIPE: u8 = 0;
const STEP: u8 = 1;
const NOT: u8 = 4;
const COMPARISON: u8 = 5;
const PRODUCT: u8 = 7;
pub(crate) const FACTOR: u8 = 8;
const PRIMARY: u8 = 9;

pub(crate) struct Writer<'a> {
    text: &'a str,
    comments: &'a [Comment],
    next: usize,
    out: String,
    /// Where the last line of `out` begins.
    line_start: usize,
    /// The column at which the lines of the current construct begin.
    indent: usize,
}

/// What a new line begins with.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Line {
    /// The first thing after an opening bracket: no blank line before it.
    First,
    /// A further thing: one blank line before it where the text has some.
    Further,
    /// The closing bracket: no blank line before it.
    Close,
    /// What continues the thing before it: no blank line before it or its comments.
    Inside,
}

impl<'a> Writer<'a> {
    pub(crate) fn new(text: &'a str, comments: &'a [Comment]) -> Writer<'a> {
        Writer { text, comments, next: 0, out: String::new(), line_start: 0, indent: 0 }
    }

    /// The text so far, with the comments that are left at its end.
    pub(crate) fn finish(mut self) -> String {
        self.line(self.text.len(), Line::Further);
        let end = self.out.trim_end().len();
        self.out.truncate(end);
        if !self.out.is_empty() {
            self.out.push('\n');
        }
        self.out
    }

    pub(crate) fn indented(&mut self, inside: impl FnOnce(&mut Self)) {
        self.indent += INDENT;
        inside(self);
        self.indent -= INDENT;
    }

    fn slice(&self, span: Span) -> &'a str {
        self.text.get(span.start as usize..span.end as usize).unwrap_or("")
    }

    /// The last line so far.
    fn last_line(&self) -> &str {
        self.out.get(self.line_start..).unwrap_or("")
    }

    fn column(&self) -> usize {
        self.last_line().chars().count()
    }

    fn line_is_blank(&self) -> bool {
        self.last_line().trim().is_empty()
    }

    pub(crate) fn fits(&self, text: &str) -> bool {
        let mut all = self.last_line().chars().chain(text.chars());
        all.nth(WIDTH).is_none()
    }

    /// Whether a comment stands inside `span`.
    pub(crate) fn has_comment(&self, span: Span) -> bool {
        let first = self.comments.partition_point(|c| c.span.start <= span.start);
        self.comments.get(first).is_some_and(|c| c.span.start < span.end)
    }

    /// Whether the text has an empty line right before `at`.
    fn blank_before(&self, at: usize) -> bool {
        let before = self.text.get(..at).unwrap_or("");
        // Parentheses that the tree does not need may stand between.
        let kept = before.trim_end_matches(|c: char| c.is_whitespace() || c == '(').len();
        before[kept..].matches('\n').count() > 1
    }

    /// Whether the braces whose first member begins at `first` are written over several lines.
    pub(crate) fn broken_after_brace(&self, first: Span) -> bool {
        let before = self.text.get(..first.start as usize).unwrap_or("");
        before.rfind('{').is_some_and(|brace| before[brace..].contains('\n'))
    }

    fn end_line(&mut self, blank: bool) {
        self.out.truncate(self.out.trim_end_matches(' ').len());
        if self.out.is_empty() {
            return;
        }
        if !self.out.ends_with('\n') {
            self.out.push('\n');
        }
        if blank && !self.out.ends_with("\n\n") {
            self.out.push('\n');
        }
        self.line_start = self.out.len();
    }

    fn begin_line(&mut self, indent: usize) {
        self.out.extend(std::iter::repeat_n(' ', indent));
    }

    /// Ends the line and begins the one of what stands at `at`, with the comments before it.
    pub(crate) fn line(&mut self, at: usize, line: Line) {
        let mut blank = matches!(line, Line::Further | Line::Close);
        let mut commented = false;
        while let Some(comment) = self.comments.get(self.next).filter(|c| (c.span.start as usize) < at) {
            self.next += 1;
            if comment.trailing && !commented && !self.line_is_blank() {
                self.out.truncate(self.out.trim_end_matches(' ').len());
                self.out.push(' ');
            } else {
                self.end_line(blank && self.blank_before(comment.span.start as usize));
                self.begin_line(self.indent);
                blank = line != Line::Inside;
            }
            self.out.push_str(&comment.text);
            commented = true;
        }
        self.end_line(blank && line != Line::Close && self.blank_before(at));
        self.begin_line(self.indent);
    }

    /// Writes what stands at `at`, after the comments before it.
    pub(crate) fn put(&mut self, text: &str, at: usize) {
        while let Some(comment) = self.comments.get(self.next).filter(|c| (c.span.start as usize) < at) {
            self.next += 1;
            if !self.line_is_blank() {
                if comment.trailing {
                    self.out.truncate(self.out.trim_end_matches(' ').len());
                    self.out.push(' ');
                } else {
                    self.end_line(false);
                    self.begin_line(self.indent + INDENT);
                }
            }
            self.out.push_str(&comment.text);
            self.end_line(false);
            self.begin_line(self.indent + INDENT);
        }
        self.push(text);
    }

    /// Writes without looking at comments.
    pub(crate) fn push(&mut self, text: &str) {
        self.out.push_str(if self.line_is_blank() { text.trim_start() } else { text });
    }

    /// An expression on one line; none where a comment or a break of the user's stands in it.
    pub(crate) fn flat(&self, expr: &Expr, min: u8) -> Option<String> {
        if self.has_comment(Span::new(expr.span.source, start(expr), end(expr))) {
            return None;
        }
        let text = match &expr.kind {
            ExprKind::Int(_)
            | ExprKind::Float(_)
            | ExprKind::Bool(_)
            | ExprKind::Str(_)
            | ExprKind::Name(_) => self.atom(expr),
            ExprKind::List(elements) => {
                let elements = elements.iter().map(|e| self.flat(e, PIPE)).collect::<Option<Vec<_>>>()?;
                format!("[{}]", elements.join(", "))
            }
            ExprKind::Field { base, field } => {
                format!("{}.{}", self.flat(base, base_binding(base))?, field.name)
            }
            ExprKind::Index { base, index } => {
                format!("{}[{}]", self.flat(base, PRIMARY)?, self.flat(index, PIPE)?)
            }
            ExprKind::Unary { op: UnaryOp::Neg, operand } => format!("-{}", self.flat(operand, FACTOR)?),
            ExprKind::Unary { op: UnaryOp::Not, operand } => format!("not {}", self.flat(operand, NOT)?),
            ExprKind::Binary { op, lhs, rhs, .. } => {
                let (left, right) = operand_bindings(*op);
                format!("{} {} {}", self.flat(lhs, left)?, op.as_str(), self.flat(rhs, right)?)
            }
            ExprKind::If { condition, then, otherwise } => {
                let otherwise_text = match else_if(otherwise) {
                    Some(inner) => self.flat(inner, PIPE)?,
                    None => self.flat_body(otherwise)?,
                };
                format!("if {} {} else {otherwise_text}", self.flat(condition, PIPE)?, self.flat_body(then)?)
            }
            ExprKind::Call { callee, args } => format!("{}{}", callee.name, self.flat_args(args)?),
            ExprKind::Named { step, name } => format!("{} as {}", self.flat(step, PRIMARY)?, name.name),
            ExprKind::Pipe(steps) => {
                if steps.windows(2).any(|pair| self.broken_between(&pair[0], &pair[1])) {
                    return None;
                }
                let steps = steps.iter().map(|step| self.flat(step, STEP)).collect::<Option<Vec<_>>>()?;
                steps.join(" |> ")
            }
            ExprKind::Arrow { from, to } => format!("{} -> {}", self.flat(from, PIPE)?, self.flat(to, PIPE)?),
        };
        Some(if binding(expr) < min { format!("({text})") } else { text })
    }

    pub(crate) fn flat_args(&self, args: &[Arg]) -> Option<String> {
        let args = args.iter().map(|arg| {
            let value = self.flat(&arg.value, PIPE)?;
            Some(arg.name.as_ref().map_or(value.clone(), |name| format!("{} = {value}", name.name)))
        });
        Some(format!("({})", args.collect::<Option<Vec<_>>>()?.join(", ")))
    }

    /// `{ value }`; none where it has to stand on lines of its own.
    pub(crate) fn flat_body(&self, body: &Body) -> Option<String> {
        if !body.lets.is_empty() || self.has_comment(body.span) || self.body_is_broken(body) {
            return None;
        }
        Some(format!("{{ {} }}", self.flat(&body.result, PIPE)?))
    }

    fn body_is_broken(&self, body: &Body) -> bool {
        let inside = self.slice(body.span).get(1..).unwrap_or("");
        inside[..inside.len() - inside.trim_start().len()].contains('\n')
    }

    fn broken_between(&self, left: &Expr, right: &Expr) -> bool {
        self.text.get(end(left)..start(right)).is_some_and(|gap| gap.contains('\n'))
    }

    /// A literal as the user spelt it, or a name.
    fn atom(&self, expr: &Expr) -> String {
        let spelt = self.slice(expr.span);
        let is_number = spelt.starts_with(|c: char| c.is_ascii_digit());
        match &expr.kind {
            ExprKind::Int(_) | ExprKind::Float(_) if is_number => spelt.to_string(),
            ExprKind::Int(value) => value.to_string(),
            ExprKind::Float(value) => format!("{value:?}"),
            ExprKind::Bool(value) => value.to_string(),
            ExprKind::Str(_) if spelt.len() > 1 && spelt.starts_with('"') && spelt.ends_with('"') => {
                spelt.to_string()
            }
            ExprKind::Str(value) => quoted(value),
            ExprKind::Name(name) => name.clone(),
            _ => String::new(),
        }
    }

    /// Writes an expression, on one line where it fits, in parentheses where it binds looser than `min`.
    pub(crate) fn expr(&mut self, expr: &Expr, min: u8) {
        let at = start(expr);
        if let Some(text) = self.flat(expr, min)
            && (self.fits(&text) || matches!(expr.kind, ExprKind::Name(_)))
        {
            return self.put(&text, at);
        }
        let parenthesised = binding(expr) < min;
        if parenthesised {
            self.put("(", at);
        }
        match &expr.kind {
            ExprKind::Int(_)
            | ExprKind::Float(_)
            | ExprKind::Bool(_)
            | ExprKind::Str(_)
            | ExprKind::Name(_) => {
                let text = self.atom(expr);
                self.put(&text, at);
            }
            ExprKind::List(elements) => {
                self.put("[", at);
                if elements.iter().all(is_atom) && !self.has_comment(expr.span) {
                    self.filled(elements, expr.span);
                } else {
                    self.indented(|w| {
                        for (i, element) in elements.iter().enumerate() {
                            w.line(start(element), if i == 0 { Line::First } else { Line::Further });
                            w.expr(element, PIPE);
                            w.push(",");
                        }
                    });
                    self.line(expr.span.end as usize - 1, Line::Close);
                }
                self.push("]");
            }
            ExprKind::Field { base, field } => {
                self.expr(base, base_binding(base));
                self.put(&format!(".{}", field.name), field.span.start as usize);
            }
            ExprKind::Index { base, index } => {
                self.expr(base, PRIMARY);
                self.push("[");
                self.expr(index, PIPE);
                self.put("]", expr.span.end as usize - 1);
            }
            ExprKind::Unary { op, operand } => {
                self.put(if *op == UnaryOp::Neg { "-" } else { "not " }, at);
                self.expr(operand, if *op == UnaryOp::Neg { FACTOR } else { NOT });
            }
            ExprKind::Binary { op, op_span, lhs, rhs } => {
                let (left, right) = operand_bindings(*op);
                self.expr(lhs, left);
                self.push(" ");
                self.put(op.as_str(), op_span.start as usize);
                self.push(" ");
                self.expr(rhs, right);
            }
            ExprKind::If { condition, then, otherwise } => match self.branch_lines(expr) {
                Some(lines) => {
                    self.put(&lines[0], at);
                    let outer = self.indent;
                    self.indent = self.column().saturating_sub(lines[0].chars().count());
                    for line in &lines[1..] {
                        self.line(at, Line::Inside);
                        self.push(line);
                    }
                    self.indent = outer;
                }
                None => self.branches(at, condition, then, otherwise),
            },
            ExprKind::Call { callee, args } => {
                self.put(&callee.name, at);
                self.args(args, expr.span.end as usize - 1);
            }
            ExprKind::Named { step, name } => {
                self.expr(step, PRIMARY);
                self.push(" ");
                self.put(&format!("as {}", name.name), name.span.start as usize);
            }
            ExprKind::Pipe(steps) => self.pipe(steps, STEP),
            ExprKind::Arrow { from, to } => {
                self.expr(from, PIPE);
                self.push(" -> ");
                self.expr(to, PIPE);
            }
        }
        if parenthesised {
            self.push(")");
        }
    }

    /// Short elements side by side on as many lines as it takes.
    fn filled(&mut self, elements: &[Expr], list: Span) {
        self.indented(|w| {
            for (i, element) in elements.iter().enumerate() {
                let text = format!("{},", w.atom(element));
                if i == 0 || !w.fits(&format!(" {text}")) {
                    w.line(list.start as usize, Line::First);
                } else {
                    w.push(" ");
                }
                w.push(&text);
            }
        });
        self.line(list.start as usize, Line::Close);
    }

    /// Arguments in parentheses, each on a line of its own.
    pub(crate) fn args(&mut self, args: &[Arg], close: usize) {
        self.push("(");
        self.indented(|w| {
            for (i, arg) in args.iter().enumerate() {
                let at = arg.name.as_ref().map_or(start(&arg.value), |name| name.span.start as usize);
                w.line(at, if i == 0 { Line::First } else { Line::Further });
                if let Some(name) = &arg.name {
                    w.push(&format!("{} = ", name.name));
                }
                w.expr(&arg.value, PIPE);
                w.push(",");
            }
        });
        self.line(close, Line::Close);
        self.push(")");
    }

    /// Steps side by side, with breaks where the user has them and where the line is full.
    pub(crate) fn pipe(&mut self, steps: &[Expr], first: u8) {
        let base = self.indent;
        // Further lines stand under the first step where that is not far to the right, else a step in.
        let begin = self.column();
        let near = base + 1..=base + 4 * INDENT;
        let mut continued = if near.contains(&begin) { begin } else { base + INDENT };
        for (i, step) in steps.iter().enumerate() {
            if i == 0 {
                self.expr(step, first);
                // Those of a block's input stand under the first `|>`.
                if matches!(&step.kind, ExprKind::Name(name) if name == "in") {
                    continued = self.column() + 1;
                }
                continue;
            }
            let full = self.flat(step, STEP).is_some_and(|text| !self.fits(&format!(" |> {text}")));
            if full || self.broken_between(&steps[i - 1], step) {
                self.indent = continued;
                self.line(start(step), Line::Inside);
                self.push("|> ");
            } else {
                self.push(" |> ");
            }
            self.expr(step, STEP);
        }
        self.indent = base;
    }

    /// `if c { a }` and `else { b }` on a line each; none where a branch does not fit on one.
    fn branch_lines(&self, expr: &Expr) -> Option<Vec<String>> {
        let mut lines = Vec::new();
        let (mut rest, mut lead) = (expr, "");
        while let ExprKind::If { condition, then, otherwise } = &rest.kind {
            lines.push(format!("{lead}if {} {}", self.flat(condition, PIPE)?, self.flat_body(then)?));
            lead = "else ";
            match else_if(otherwise) {
                Some(inner) => rest = inner,
                None => {
                    lines.push(format!("else {}", self.flat_body(otherwise)?));
                    break;
                }
            }
        }
        let room = WIDTH.saturating_sub(self.column());
        let fits = self.fits(&lines[0]) && lines.iter().skip(1).all(|line| line.chars().count() <= room);
        (fits && !self.has_comment(expr.span)).then_some(lines)
    }

    fn branches(&mut self, at: usize, condition: &Expr, then: &Body, otherwise: &Body) {
        self.put("if ", at);
        self.expr(condition, PIPE);
        self.push(" ");
        self.body(then);
        self.push(" else ");
        match else_if(otherwise).map(|inner| (inner.span, &inner.kind)) {
            Some((span, ExprKind::If { condition, then, otherwise })) => {
                self.branches(span.start as usize, condition, then, otherwise);
            }
            _ => self.body(otherwise),
        }
    }

    /// `{`, the lines of a body, `}`
    pub(crate) fn body(&mut self, body: &Body) {
        self.put("{", body.span.start as usize);
        self.indented(|w| {
            let mut line = Line::First;
            for decl in &body.lets {
                w.line(decl.span.start as usize, line);
                line = Line::Further;
                w.push(&format!("let {} = ", decl.name.name));
                w.expr(&decl.value, PIPE);
            }
            w.line(start(&body.result), line);
            // After a `let`, `-x` and `[x]` would be read as the rest of its value.
            let apart = line == Line::Further && begins_with_sign(&body.result, PIPE);
            w.push(if apart { "(" } else { "" });
            w.expr(&body.result, PIPE);
            w.push(if apart { ")" } else { "" });
        });
        self.line(body.span.end as usize - 1, Line::Close);
        self.push("}");
    }
}

/// The `if` of an `else if`.
fn else_if(otherwise: &Body) -> Option<&Expr> {
    let inner = &*otherwise.result;
    let nested = matches!(inner.kind, ExprKind::If { .. }) && inner.span == otherwise.span;
    nested.then_some(inner)
}

/// Where the first name, literal or bracket of an expression stands, whatever parentheses are around it.
pub(crate) fn start(expr: &Expr) -> usize {
    match &expr.kind {
        ExprKind::Field { base, .. } | ExprKind::Index { base, .. } => start(base),
        ExprKind::Binary { lhs, .. } => start(lhs),
        ExprKind::Named { step, .. } => start(step),
        ExprKind::Pipe(steps) => steps.first().map_or(expr.span.start as usize, start),
        ExprKind::Arrow { from, .. } => start(from),
        ExprKind::Int(_)
        | ExprKind::Float(_)
        | ExprKind::Bool(_)
        | ExprKind::Str(_)
        | ExprKind::Name(_)
        | ExprKind::List(_)
        | ExprKind::Unary { .. }
        | ExprKind::If { .. }
        | ExprKind::Call { .. } => expr.span.start as usize,
    }
}

/// Where the last name, literal or bracket of an expression ends, whatever parentheses are around it.
fn end(expr: &Expr) -> usize {
    match &expr.kind {
        ExprKind::Unary { operand, .. } => end(operand),
        ExprKind::Binary { rhs, .. } => end(rhs),
        ExprKind::Pipe(steps) => steps.last().map_or(expr.span.end as usize, end),
        ExprKind::Arrow { to, .. } => end(to),
        ExprKind::Int(_)
        | ExprKind::Float(_)
        | ExprKind::Bool(_)
        | ExprKind::Str(_)
        | ExprKind::Name(_)
        | ExprKind::List(_)
        | ExprKind::Field { .. }
        | ExprKind::Index { .. }
        | ExprKind::If { .. }
        | ExprKind::Call { .. }
        | ExprKind::Named { .. } => expr.span.end as usize,
    }
}

/// Whether the first sign of an expression is a `-` or a `[`.
fn begins_with_sign(expr: &Expr, min: u8) -> bool {
    if binding(expr) < min {
        return false;
    }
    match &expr.kind {
        ExprKind::List(_) | ExprKind::Unary { op: UnaryOp::Neg, .. } => true,
        ExprKind::Field { base, .. } => begins_with_sign(base, base_binding(base)),
        ExprKind::Index { base, .. } => begins_with_sign(base, PRIMARY),
        ExprKind::Binary { op, lhs, .. } => begins_with_sign(lhs, operand_bindings(*op).0),
        ExprKind::Pipe(steps) => steps.first().is_some_and(|step| begins_with_sign(step, STEP)),
        ExprKind::Arrow { from, .. } => begins_with_sign(from, PIPE),
        ExprKind::Int(_)
        | ExprKind::Float(_)
        | ExprKind::Bool(_)
        | ExprKind::Str(_)
        | ExprKind::Name(_)
        | ExprKind::Unary { op: UnaryOp::Not, .. }
        | ExprKind::If { .. }
        | ExprKind::Call { .. }
        | ExprKind::Named { .. } => false,
    }
}

fn is_atom(expr: &Expr) -> bool {
    matches!(
        expr.kind,
        ExprKind::Int(_) | ExprKind::Float(_) | ExprKind::Bool(_) | ExprKind::Str(_) | ExprKind::Name(_)
    )
}

/// A point after a number would be read as part of it, so a number with a field stands in parentheses.
fn base_binding(base: &Expr) -> u8 {
    if matches!(base.kind, ExprKind::Int(_) | ExprKind::Float(_)) { PRIMARY + 1 } else { PRIMARY }
}

fn binding(expr: &Expr) -> u8 {
    match &expr.kind {
        ExprKind::Pipe(_) | ExprKind::Arrow { .. } => PIPE,
        ExprKind::Named { .. } => STEP,
        ExprKind::Unary { op: UnaryOp::Not, .. } => NOT,
        ExprKind::Unary { op: UnaryOp::Neg, .. } => FACTOR,
        ExprKind::Binary { op, .. } => binary_binding(*op),
        ExprKind::Int(_)
        | ExprKind::Float(_)
        | ExprKind::Bool(_)
        | ExprKind::Str(_)
        | ExprKind::Name(_)
        | ExprKind::List(_)
        | ExprKind::Field { .. }
        | ExprKind::Index { .. }
        | ExprKind::If { .. }
        | ExprKind::Call { .. } => PRIMARY,
    }
}

fn binary_binding(op: BinaryOp) -> u8 {
    match op {
        BinaryOp::Or => 2,
        BinaryOp::And => 3,
        BinaryOp::Eq | BinaryOp::Ne | BinaryOp::Lt | BinaryOp::Le | BinaryOp::Gt | BinaryOp::Ge => COMPARISON,
        BinaryOp::Add | BinaryOp::Sub => 6,
        BinaryOp::Mul | BinaryOp::Div | BinaryOp::Rem => PRODUCT,
    }
}

/// How tight the operands have to bind: operators of one level group to the left, and comparisons do not chain.
fn operand_bindings(op: BinaryOp) -> (u8, u8) {
    let own = binary_binding(op);
    (own + u8::from(op.is_comparison()), own + 1)
}

/// A string literal with this value.
pub(crate) fn quoted(value: &str) -> String {
    let mut out = String::from("\"");
    for c in value.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            _ => out.push(c),
        }
    }
    out.push('"');
    out
}
