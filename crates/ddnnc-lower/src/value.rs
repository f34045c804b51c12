//! Values of expressions, and arithmetic on them.

use ddnnc_diag::Span;
use ddnnc_syntax::{BinaryOp, UnaryOp};
use std::fmt;
use std::rc::Rc;

/// A value of the network being traced: the step that makes it, and the place to show for it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Tensor {
    /// The step in the trace.
    pub(crate) step: usize,
    /// Where it is made.
    pub(crate) span: Span,
}

/// What an expression stands for.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    /// What an error left behind; silent.
    Poison,
    /// A whole number.
    Int(i64),
    /// Any other number.
    Float(f64),
    /// A truth value.
    Bool(bool),
    /// A text.
    Str(Rc<str>),
    /// A list of anything but lists.
    List(Rc<[Value]>),
    /// A value of the network.
    Tensor(Tensor),
}

impl Value {
    /// The kind, with its article.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Value::Poison => "nothing",
            Value::Int(_) => "an integer",
            Value::Float(_) => "a number",
            Value::Bool(_) => "a boolean",
            Value::Str(_) => "a string",
            Value::List(_) => "a list",
            Value::Tensor(_) => "a value of the network",
        }
    }

    /// The number, where it is one.
    pub(crate) fn number(&self) -> Option<f64> {
        match self {
            Value::Int(i) => Some(*i as f64),
            Value::Float(f) => Some(*f),
            _ => None,
        }
    }

    /// Whether an error made it.
    pub(crate) fn is_poison(&self) -> bool {
        matches!(self, Value::Poison)
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Int(i) => write!(f, "{i}"),
            Value::Float(x) => write!(f, "{x:?}"),
            Value::Bool(b) => write!(f, "{b}"),
            Value::Str(s) => write!(f, "{s:?}"),
            Value::Poison | Value::List(_) | Value::Tensor(_) => f.write_str(self.kind()),
        }
    }
}

/// Why an arithmetic expression has no value.
#[derive(Debug)]
pub(crate) enum ArithmeticError {
    /// The kinds do not fit the operator.
    Kind(String),
    /// Division by zero, overflow.
    Number(&'static str),
}

/// `-x`, `not x`
pub(crate) fn unary(op: UnaryOp, value: &Value) -> Result<Value, ArithmeticError> {
    match (op, value) {
        (_, Value::Poison) => Ok(Value::Poison),
        (UnaryOp::Neg, Value::Int(i)) => {
            i.checked_neg().map(Value::Int).ok_or(ArithmeticError::Number("the number is too large"))
        }
        (UnaryOp::Neg, Value::Float(x)) => Ok(Value::Float(-x)),
        (UnaryOp::Neg, other) => {
            Err(ArithmeticError::Kind(format!("`-` takes a number, not {}", other.kind())))
        }
        (UnaryOp::Not, Value::Bool(b)) => Ok(Value::Bool(!b)),
        (UnaryOp::Not, other) => {
            Err(ArithmeticError::Kind(format!("`not` takes a boolean, not {}", other.kind())))
        }
    }
}

/// Every operator between two values but `and` and `or`, which do not always evaluate both.
pub(crate) fn binary(op: BinaryOp, a: &Value, b: &Value) -> Result<Value, ArithmeticError> {
    if a.is_poison() || b.is_poison() {
        return Ok(Value::Poison);
    }
    let kinds = || {
        let wanted = match op {
            BinaryOp::Eq | BinaryOp::Ne => "two numbers, two booleans or two strings",
            _ => "two numbers",
        };
        ArithmeticError::Kind(format!("`{}` takes {wanted}, not {} and {}", op.as_str(), a.kind(), b.kind()))
    };
    match op {
        BinaryOp::Eq | BinaryOp::Ne => {
            let equal = match (a, b) {
                (Value::Bool(x), Value::Bool(y)) => x == y,
                (Value::Str(x), Value::Str(y)) => x == y,
                (Value::Int(x), Value::Int(y)) => x == y,
                _ => match (a.number(), b.number()) {
                    (Some(x), Some(y)) => x == y,
                    _ => return Err(kinds()),
                },
            };
            Ok(Value::Bool(equal == (op == BinaryOp::Eq)))
        }
        BinaryOp::Lt | BinaryOp::Le | BinaryOp::Gt | BinaryOp::Ge => {
            let order = match (a, b) {
                (Value::Int(x), Value::Int(y)) => Some(x.cmp(y)),
                _ => match (a.number(), b.number()) {
                    (Some(x), Some(y)) => x.partial_cmp(&y),
                    _ => return Err(kinds()),
                },
            };
            Ok(Value::Bool(order.is_some_and(|order| match op {
                BinaryOp::Lt => order.is_lt(),
                BinaryOp::Le => order.is_le(),
                BinaryOp::Gt => order.is_gt(),
                _ => order.is_ge(),
            })))
        }
        BinaryOp::Add | BinaryOp::Sub | BinaryOp::Mul | BinaryOp::Div | BinaryOp::Rem => {
            if let (Value::Int(x), Value::Int(y)) = (a, b) {
                return integers(op, *x, *y);
            }
            let (Some(x), Some(y)) = (a.number(), b.number()) else { return Err(kinds()) };
            floats(op, x, y)
        }
        BinaryOp::And | BinaryOp::Or => Err(kinds()),
    }
}

fn integers(op: BinaryOp, x: i64, y: i64) -> Result<Value, ArithmeticError> {
    if y == 0 && matches!(op, BinaryOp::Div | BinaryOp::Rem) {
        return Err(ArithmeticError::Number("division by zero"));
    }
    let result = match op {
        BinaryOp::Add => x.checked_add(y),
        BinaryOp::Sub => x.checked_sub(y),
        BinaryOp::Mul => x.checked_mul(y),
        BinaryOp::Rem => x.checked_rem(y),
        _ => match x.checked_rem(y) {
            Some(0) => x.checked_div(y),
            Some(_) => return floats(BinaryOp::Div, x as f64, y as f64),
            None => None,
        },
    };
    result.map(Value::Int).ok_or(ArithmeticError::Number("the result is too large for an integer"))
}

fn floats(op: BinaryOp, x: f64, y: f64) -> Result<Value, ArithmeticError> {
    if y == 0.0 && matches!(op, BinaryOp::Div | BinaryOp::Rem) {
        return Err(ArithmeticError::Number("division by zero"));
    }
    let result = match op {
        BinaryOp::Add => x + y,
        BinaryOp::Sub => x - y,
        BinaryOp::Mul => x * y,
        BinaryOp::Rem => x % y,
        _ => x / y,
    };
    if result.is_finite() {
        Ok(Value::Float(result))
    } else {
        Err(ArithmeticError::Number("the result is too large"))
    }
}
