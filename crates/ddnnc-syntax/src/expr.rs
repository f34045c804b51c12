//! Expressions: from the parser's pairs to the tree.

use crate::ast::*;
use crate::grammar::Rule;
use crate::tree::{Pair, Tree};
use ddnnc_diag::{Code, Diagnostic, Span};
use pest::pratt_parser::{Assoc, Op, PrattParser};
use std::sync::LazyLock;

/// Precedence, loosest first; `not` stands between `and` and the comparisons.
static PRECEDENCE: LazyLock<PrattParser<Rule>> = LazyLock::new(|| {
    let left = |rule| Op::infix(rule, Assoc::Left);
    PrattParser::new()
        .op(left(Rule::or))
        .op(left(Rule::and))
        .op(Op::prefix(Rule::not))
        .op(left(Rule::eq)
            | left(Rule::ne)
            | left(Rule::lt)
            | left(Rule::le)
            | left(Rule::gt)
            | left(Rule::ge))
        .op(left(Rule::add) | left(Rule::sub))
        .op(left(Rule::mul) | left(Rule::div) | left(Rule::rem))
        .op(Op::prefix(Rule::neg))
        .op(Op::postfix(Rule::field) | Op::postfix(Rule::index))
});

/// An expression, and the place it takes with the parentheses around it.
struct Operand {
    expr: Expr,
    outer: Span,
    parenthesised: bool,
}

impl Operand {
    fn bare(expr: Expr) -> Operand {
        Operand { outer: expr.span, expr, parenthesised: false }
    }
}

impl BinaryOp {
    /// Whether it compares its operands.
    pub fn is_comparison(self) -> bool {
        match self {
            BinaryOp::Eq | BinaryOp::Ne | BinaryOp::Lt | BinaryOp::Le | BinaryOp::Gt | BinaryOp::Ge => true,
            BinaryOp::Or
            | BinaryOp::And
            | BinaryOp::Add
            | BinaryOp::Sub
            | BinaryOp::Mul
            | BinaryOp::Div
            | BinaryOp::Rem => false,
        }
    }

    /// The operator as written.
    pub fn as_str(self) -> &'static str {
        match self {
            BinaryOp::Or => "or",
            BinaryOp::And => "and",
            BinaryOp::Eq => "==",
            BinaryOp::Ne => "!=",
            BinaryOp::Lt => "<",
            BinaryOp::Le => "<=",
            BinaryOp::Gt => ">",
            BinaryOp::Ge => ">=",
            BinaryOp::Add => "+",
            BinaryOp::Sub => "-",
            BinaryOp::Mul => "*",
            BinaryOp::Div => "/",
            BinaryOp::Rem => "%",
        }
    }
}

impl Tree<'_> {
    /// `expr`, `step`, `arith` or a primary.
    pub(crate) fn expr(&self, pair: Pair<'_>) -> Option<Expr> {
        self.operand(pair).map(|operand| operand.expr)
    }

    /// `element`: an expression or `a -> b`.
    pub(crate) fn element(&self, pair: Pair<'_>) -> Option<Expr> {
        let span = self.span(&pair);
        let mut parts = self.parts(pair);
        let from = self.expr(parts.next()?)?;
        let Some(to) = parts.next() else { return Some(from) };
        let to = self.expr(to)?;
        Some(Expr { span, kind: ExprKind::Arrow { from: Box::new(from), to: Box::new(to) } })
    }

    /// The arguments between a call's parentheses.
    pub(crate) fn args(&self, pair: Pair<'_>) -> Option<Vec<Arg>> {
        self.parts(pair)
            .map(|arg| {
                let mut parts = self.parts(arg);
                let first = parts.next()?;
                Some(match parts.next() {
                    Some(value) => Arg { name: Some(self.ident(&first)), value: self.element(value)? },
                    None => Arg { name: None, value: self.element(first)? },
                })
            })
            .collect()
    }

    /// `{ let … value }`
    pub(crate) fn body(&self, pair: Pair<'_>) -> Option<Body> {
        let span = self.span(&pair);
        let mut lets = Vec::new();
        for part in self.parts(pair) {
            if part.as_rule() == Rule::let_decl {
                lets.push(self.let_decl(part)?);
            } else {
                return Some(Body { lets, result: Box::new(self.expr(part)?), span });
            }
        }
        None
    }

    fn operand(&self, pair: Pair<'_>) -> Option<Operand> {
        let span = self.span(&pair);
        match pair.as_rule() {
            Rule::expr => {
                let mut steps =
                    self.parts(pair).map(|step| self.operand(step)).collect::<Option<Vec<_>>>()?;
                if steps.len() == 1 {
                    return steps.pop();
                }
                let steps = steps.into_iter().map(|step| step.expr).collect();
                Some(Operand::bare(Expr { span, kind: ExprKind::Pipe(steps) }))
            }
            Rule::step => {
                let mut parts = self.parts(pair);
                let step = self.operand(parts.next()?)?;
                let Some(name) = parts.next() else { return Some(step) };
                if !matches!(step.expr.kind, ExprKind::Call { .. } | ExprKind::Name(_)) {
                    self.error(
                        Diagnostic::error(Code::Syntax, "only a call or a bare name takes a name with `as`")
                            .at(step.outer, "this is neither")
                            .hint("an operator is named where it is used: `conv(16, 3) as first`"),
                    );
                }
                let name = self.ident(&name);
                Some(Operand::bare(Expr { span, kind: ExprKind::Named { step: Box::new(step.expr), name } }))
            }
            Rule::arith => self.arith(pair),
            Rule::paren => {
                let inner = self.operand(self.parts(pair).next()?)?;
                Some(Operand { outer: span, parenthesised: true, ..inner })
            }
            _ => self.primary(pair).map(Operand::bare),
        }
    }

    fn arith(&self, pair: Pair<'_>) -> Option<Operand> {
        PRECEDENCE
            .map_primary(|pair| self.operand(pair))
            .map_prefix(|op, operand: Option<Operand>| {
                let operand = operand?;
                let span = self.span(&op).to(operand.outer);
                let op = if op.as_rule() == Rule::neg { UnaryOp::Neg } else { UnaryOp::Not };
                let kind = ExprKind::Unary { op, operand: Box::new(operand.expr) };
                Some(Operand::bare(Expr { span, kind }))
            })
            .map_postfix(|base: Option<Operand>, op| {
                let base = base?;
                let span = base.outer.to(self.span(&op));
                let is_field = op.as_rule() == Rule::field;
                let inner = self.parts(op).next()?;
                let base = Box::new(base.expr);
                let kind = if is_field {
                    ExprKind::Field { base, field: self.ident(&inner) }
                } else {
                    ExprKind::Index { base, index: Box::new(self.expr(inner)?) }
                };
                Some(Operand::bare(Expr { span, kind }))
            })
            .map_infix(|lhs: Option<Operand>, op, rhs: Option<Operand>| self.binary(lhs?, op, rhs?))
            .parse(pair.into_inner())
    }

    fn binary(&self, lhs: Operand, op: Pair<'_>, rhs: Operand) -> Option<Operand> {
        let op_span = self.span(&op);
        let op = match op.as_rule() {
            Rule::or => BinaryOp::Or,
            Rule::and => BinaryOp::And,
            Rule::eq => BinaryOp::Eq,
            Rule::ne => BinaryOp::Ne,
            Rule::lt => BinaryOp::Lt,
            Rule::le => BinaryOp::Le,
            Rule::gt => BinaryOp::Gt,
            Rule::ge => BinaryOp::Ge,
            Rule::add => BinaryOp::Add,
            Rule::sub => BinaryOp::Sub,
            Rule::mul => BinaryOp::Mul,
            Rule::div => BinaryOp::Div,
            Rule::rem => BinaryOp::Rem,
            _ => return None,
        };
        if let ExprKind::Binary { op: before, op_span: before_span, .. } = &lhs.expr.kind
            && op.is_comparison()
            && before.is_comparison()
            && !lhs.parenthesised
        {
            self.error(
                Diagnostic::error(Code::Syntax, "comparisons do not chain")
                    .at(op_span, "a second comparison")
                    .with(*before_span, "the first one")
                    .hint("write `a < b and b < c`, or put parentheses around one comparison"),
            );
        }
        let span = lhs.outer.to(rhs.outer);
        let kind = ExprKind::Binary { op, op_span, lhs: Box::new(lhs.expr), rhs: Box::new(rhs.expr) };
        Some(Operand::bare(Expr { span, kind }))
    }

    fn primary(&self, pair: Pair<'_>) -> Option<Expr> {
        let span = self.span(&pair);
        let kind = match pair.as_rule() {
            Rule::int => ExprKind::Int(self.int(pair.as_str(), span)),
            Rule::float => ExprKind::Float(self.float(pair.as_str(), span)),
            Rule::boolean => ExprKind::Bool(pair.as_str() == "true"),
            Rule::string => ExprKind::Str(self.string(pair.as_str(), span)),
            Rule::ident => ExprKind::Name(pair.as_str().to_string()),
            Rule::list => ExprKind::List(self.parts(pair).map(|e| self.element(e)).collect::<Option<_>>()?),
            Rule::call => {
                let mut parts = self.parts(pair);
                let callee = self.ident(&self.parts(parts.next()?).next()?);
                ExprKind::Call { callee, args: self.args(parts.next()?)? }
            }
            Rule::if_expr => {
                let mut parts = self.parts(pair);
                let condition = Box::new(self.expr(parts.next()?)?);
                let then = self.body(parts.next()?)?;
                let otherwise = parts.next()?;
                let otherwise = if otherwise.as_rule() == Rule::if_expr {
                    let inner = self.primary(otherwise)?;
                    Body { lets: Vec::new(), span: inner.span, result: Box::new(inner) }
                } else {
                    self.body(otherwise)?
                };
                ExprKind::If { condition, then, otherwise }
            }
            _ => return None,
        };
        Some(Expr { kind, span })
    }

    fn int(&self, text: &str, span: Span) -> i64 {
        text.replace('_', "").parse().unwrap_or_else(|_| {
            self.error(
                Diagnostic::error(Code::NumberRange, "this number is too large")
                    .at(span, "")
                    .hint(format!("the largest whole number is {}", i64::MAX)),
            );
            0
        })
    }

    fn float(&self, text: &str, span: Span) -> f64 {
        let value = text.replace('_', "").parse().unwrap_or(f64::INFINITY);
        if value.is_finite() {
            return value;
        }
        self.error(
            Diagnostic::error(Code::NumberRange, "this number is too large")
                .at(span, "")
                .hint("the largest number is about 1.8e308"),
        );
        0.0
    }

    fn string(&self, text: &str, span: Span) -> String {
        let inner = text.get(1..text.len().saturating_sub(1)).unwrap_or("");
        let mut value = String::with_capacity(inner.len());
        let mut chars = inner.char_indices();
        while let Some((at, c)) = chars.next() {
            if c != '\\' {
                value.push(c);
                continue;
            }
            match chars.next() {
                Some((_, '"')) => value.push('"'),
                Some((_, '\\')) => value.push('\\'),
                Some((_, 'n')) => value.push('\n'),
                Some((_, 't')) => value.push('\t'),
                other => {
                    let c = other.map_or(' ', |(_, c)| c);
                    let start = span.start as usize + 1 + at;
                    self.error(
                        Diagnostic::error(Code::Syntax, format!("`\\{c}` is not an escape"))
                            .at(Span::new(span.source, start, start + 1 + c.len_utf8()), "")
                            .hint("the escapes are `\\\"`, `\\\\`, `\\n` and `\\t`; write `\\\\` for a backslash"),
                    );
                }
            }
        }
        value
    }
}
