//! The spanned syntax tree of one `.ddnn` file.
//!
//! The tree says what was written and where, and nothing about what it means: names are not resolved, no shape is
//! known, and a call to `conv` looks like a call to a block. Every node that a later diagnostic may point at has a
//! [`Span`].

use ddnnc_diag::Span;

/// A name as written, with its place.
#[derive(Clone, Debug, PartialEq)]
pub struct Ident {
    /// The text of the name.
    pub name: String,
    /// Where it stands.
    pub span: Span,
}

/// A whole file: `model NAME` and the declarations after it, in source order.
#[derive(Clone, Debug, PartialEq)]
pub struct SpecFile {
    /// The model's name.
    pub model: Ident,
    /// The declarations in source order.
    pub items: Vec<Item>,
    /// Every comment of the file, in source order (for the formatter).
    pub comments: Vec<Comment>,
    /// The whole text.
    pub span: Span,
}

/// `// text` up to the end of the line.
#[derive(Clone, Debug, PartialEq)]
pub struct Comment {
    /// The text, with its `//`.
    pub text: String,
    /// Where it stands.
    pub span: Span,
    /// Whether code stands before it on its line.
    pub trailing: bool,
}

/// One declaration at the top level.
#[derive(Clone, Debug, PartialEq)]
pub enum Item {
    /// `input image : f32[3, 32, 32]`
    Input(TypedName),
    /// `target label : class[100]`
    Target(TypedName),
    /// `let width = 16`
    Let(LetDecl),
    /// `block basic(out, stride = 1) { … }`
    Block(BlockDecl),
    /// `backbone resnet(width = 16) { … }`
    Backbone(BackboneDecl),
    /// `subnet r20 = resnet depth [3, 3, 3]`
    Subnet(SubnetDecl),
    /// `exit e1 = full after s1 |> global_avg_pool |> linear(classes)`
    Exit(ExitDecl),
    /// `network teacher = resnet(width = 32) depth [9, 9, 9] { frozen = true, load = "t.safetensors" }`
    Network(NetworkDecl),
    /// `share resnet { norm = private, head = private }`
    Share(ShareDecl),
    /// `supervise [full, e1] { cross_entropy(weight = 0.7) }`
    Supervise(SuperviseDecl),
    /// `distill full -> [r44, r32] { kl(temperature = 3) }`
    Distill(DistillDecl),
    /// `train { epochs = 3 }`
    Train(SettingsDecl),
    /// `phase warm { epochs = 3  distill a -> b { kl } }`
    Phase(PhaseDecl),
    /// `order { by = difficulty(snapshot = full), pace = linear(0.4, 1.0) }`
    Order(SettingsDecl),
    /// `task regression { loss = log_gradient_normal }`
    Task(TaskDecl),
}

/// A name with a type, as `input` and `target` have it.
#[derive(Clone, Debug, PartialEq)]
pub struct TypedName {
    /// The name.
    pub name: Ident,
    /// The type after the colon.
    pub ty: TypeExpr,
    /// The whole declaration.
    pub span: Span,
}

/// `f32[3, 32, 32]`, `class[100]`: a kind and its extents.
#[derive(Clone, Debug, PartialEq)]
pub struct TypeExpr {
    /// `f32`, `class`, …
    pub kind: Ident,
    /// The extents between the brackets.
    pub dims: Vec<Expr>,
    /// The whole type.
    pub span: Span,
}

/// `let name = value`
#[derive(Clone, Debug, PartialEq)]
pub struct LetDecl {
    /// The new name.
    pub name: Ident,
    /// What it stands for.
    pub value: Expr,
    /// The whole declaration.
    pub span: Span,
}

/// A formal parameter of a block or backbone: `stride = 1`.
#[derive(Clone, Debug, PartialEq)]
pub struct Param {
    /// Its name.
    pub name: Ident,
    /// Its value where the call gives none.
    pub default: Option<Expr>,
}

/// A user-defined, parameterised piece of network.
#[derive(Clone, Debug, PartialEq)]
pub struct BlockDecl {
    /// Its name.
    pub name: Ident,
    /// Its parameters.
    pub params: Vec<Param>,
    /// What it computes; the value `in` is its input.
    pub body: Body,
    /// The whole declaration.
    pub span: Span,
}

/// `let`s, then the value: the inside of a block or of an `if` branch.
#[derive(Clone, Debug, PartialEq)]
pub struct Body {
    /// Local names, in order.
    pub lets: Vec<LetDecl>,
    /// The value.
    pub result: Box<Expr>,
    /// From brace to brace.
    pub span: Span,
}

/// A network of stages: stem, stages and head, in order.
#[derive(Clone, Debug, PartialEq)]
pub struct BackboneDecl {
    /// Its name.
    pub name: Ident,
    /// Its parameters.
    pub params: Vec<Param>,
    /// Its parts in order.
    pub members: Vec<Member>,
    /// The whole declaration.
    pub span: Span,
}

/// One part of a backbone.
#[derive(Clone, Debug, PartialEq)]
pub enum Member {
    /// `let hidden = 2 * width`
    Let(LetDecl),
    /// `stem = conv(16, 3) |> bn |> relu`: a part of fixed depth; the part named `head` is the last.
    Segment(SegmentDecl),
    /// `stage s1 = basic(32, stride = 2), 8 * basic(32)`: a part that sub-nets may cut short.
    Stage(StageDecl),
}

/// `stem = conv(16, 3) |> bn |> relu`
#[derive(Clone, Debug, PartialEq)]
pub struct SegmentDecl {
    /// Its name.
    pub name: Ident,
    /// What it applies to the value before it.
    pub value: Expr,
    /// The whole declaration.
    pub span: Span,
}

/// `stage s1 = basic(32, stride = 2), 8 * basic(32)`
#[derive(Clone, Debug, PartialEq)]
pub struct StageDecl {
    /// Its name.
    pub name: Ident,
    /// Its blocks, in order.
    pub entries: Vec<StageEntry>,
    /// The whole declaration.
    pub span: Span,
}

/// `8 * basic(32)`: so many blocks in a row.
#[derive(Clone, Debug, PartialEq)]
pub struct StageEntry {
    /// How many; one where it is not written.
    pub count: Option<Expr>,
    /// A call, a bare name or a pipe of those.
    pub block: Expr,
    /// The whole entry.
    pub span: Span,
}

/// `NAME = BACKBONE(args) depth [a, b, c]`
#[derive(Clone, Debug, PartialEq)]
pub struct SubnetDecl {
    /// Its name.
    pub name: Ident,
    /// What it instantiates, and how deep.
    pub of: Instance,
    /// The whole declaration.
    pub span: Span,
}

/// `BACKBONE(args) depth [a, b, c]`
#[derive(Clone, Debug, PartialEq)]
pub struct Instance {
    /// The backbone.
    pub backbone: Ident,
    /// Arguments for its parameters.
    pub args: Vec<Arg>,
    /// Blocks kept of each stage, and the span of the list; all of them where it is not written.
    pub depth: Option<(Vec<Expr>, Span)>,
    /// The whole phrase.
    pub span: Span,
}

/// An early exit: `exit e1 = full after s2[1] |> global_avg_pool |> linear(classes)`
#[derive(Clone, Debug, PartialEq)]
pub struct ExitDecl {
    /// Its name.
    pub name: Ident,
    /// The sub-net or network it leaves.
    pub of: Ident,
    /// The stage or segment after which it leaves.
    pub after: Ident,
    /// The block of that stage, from 0; the last one where it is not written.
    pub block: Option<Expr>,
    /// What it applies to the value there: a call, a bare name or a pipe of those.
    pub head: Expr,
    /// The whole declaration.
    pub span: Span,
}

/// A further network with weights of its own.
#[derive(Clone, Debug, PartialEq)]
pub struct NetworkDecl {
    /// Its name.
    pub name: Ident,
    /// What it instantiates, and how deep.
    pub of: Instance,
    /// `frozen`, `load`, …
    pub settings: Vec<Setting>,
    /// The whole declaration.
    pub span: Span,
}

/// `share BACKBONE { … }`
#[derive(Clone, Debug, PartialEq)]
pub struct ShareDecl {
    /// The backbone.
    pub backbone: Ident,
    /// `norm`, `head`, …
    pub settings: Vec<Setting>,
    /// The whole declaration.
    pub span: Span,
}

/// `supervise TARGETS { terms }`: the loss terms against the label; replaces the default cross-entropy of each.
#[derive(Clone, Debug, PartialEq)]
pub struct SuperviseDecl {
    /// Sub-nets, exits or networks.
    pub targets: Vec<Ident>,
    /// The terms: calls or bare names.
    pub terms: Vec<Expr>,
    /// The whole declaration.
    pub span: Span,
}

/// `distill TEACHER -> STUDENTS { terms }`
#[derive(Clone, Debug, PartialEq)]
pub struct DistillDecl {
    /// A name, or a call such as `mean(a, b)`, `gated(a, b)`, `adaptive(a, b)`.
    pub teacher: Expr,
    /// Sub-nets, exits or networks.
    pub students: Vec<Ident>,
    /// The terms: calls or bare names.
    pub terms: Vec<Expr>,
    /// The whole declaration.
    pub span: Span,
}

/// `KEYWORD { key = value … }`
#[derive(Clone, Debug, PartialEq)]
pub struct SettingsDecl {
    /// The keyword's place.
    pub keyword: Span,
    /// The settings in order.
    pub settings: Vec<Setting>,
    /// The whole declaration.
    pub span: Span,
}

/// `key = value`
#[derive(Clone, Debug, PartialEq)]
pub struct Setting {
    /// The key.
    pub key: Ident,
    /// The value.
    pub value: Expr,
    /// Both.
    pub span: Span,
}

/// `phase NAME { … }`
#[derive(Clone, Debug, PartialEq)]
pub struct PhaseDecl {
    /// Its name.
    pub name: Ident,
    /// Its settings.
    pub settings: Vec<Setting>,
    /// Its own `supervise`, `distill` and `order` declarations.
    pub items: Vec<Item>,
    /// The whole declaration.
    pub span: Span,
}

/// `task KIND { … }`
#[derive(Clone, Debug, PartialEq)]
pub struct TaskDecl {
    /// `classification`, `regression`, `sequence`
    pub kind: Ident,
    /// Its settings.
    pub settings: Vec<Setting>,
    /// The whole declaration.
    pub span: Span,
}

/// An expression with its place.
#[derive(Clone, Debug, PartialEq)]
pub struct Expr {
    /// What it is.
    pub kind: ExprKind,
    /// Where it stands.
    pub span: Span,
}

/// The forms of an expression.
#[derive(Clone, Debug, PartialEq)]
pub enum ExprKind {
    /// `12`
    Int(i64),
    /// `0.1`, `1e-4`
    Float(f64),
    /// `true`, `false`
    Bool(bool),
    /// `"file.safetensors"`, with escapes resolved
    Str(String),
    /// `[1, 2, 3]`
    List(Vec<Expr>),
    /// A name: a value, a parameter, a block or an operator without arguments.
    Name(String),
    /// `in.channels`
    Field {
        /// What the field is taken of.
        base: Box<Expr>,
        /// The field's name.
        field: Ident,
    },
    /// `s2[1]`
    Index {
        /// What is indexed.
        base: Box<Expr>,
        /// The index, from 0.
        index: Box<Expr>,
    },
    /// `-x`, `not x`
    Unary {
        /// The operator.
        op: UnaryOp,
        /// Its operand.
        operand: Box<Expr>,
    },
    /// `a + b`, `a == b`, `a and b`
    Binary {
        /// The operator.
        op: BinaryOp,
        /// The operator's own place.
        op_span: Span,
        /// Left operand.
        lhs: Box<Expr>,
        /// Right operand.
        rhs: Box<Expr>,
    },
    /// `if c { a } else { b }` (`else if` nests in `otherwise`)
    If {
        /// The condition.
        condition: Box<Expr>,
        /// The value where it holds.
        then: Body,
        /// The value where it does not.
        otherwise: Body,
    },
    /// `conv(out, 3, stride = 2)`
    Call {
        /// What is called.
        callee: Ident,
        /// Its arguments in order.
        args: Vec<Arg>,
    },
    /// `conv(out, 1) as proj`, `bn as norm`: a step of a pipe with a name of its own.
    Named {
        /// A call or a bare name.
        step: Box<Expr>,
        /// The name of the operator in parameter paths.
        name: Ident,
    },
    /// `a |> b |> c`: each step is applied to the value before it.
    Pipe(Vec<Expr>),
    /// `s2 -> s3` inside `at = […]`: the teacher's part and the student's.
    Arrow {
        /// The teacher's side.
        from: Box<Expr>,
        /// The student's side.
        to: Box<Expr>,
    },
}

/// An argument: `3` or `stride = 2`.
#[derive(Clone, Debug, PartialEq)]
pub struct Arg {
    /// The name, where one is written.
    pub name: Option<Ident>,
    /// The value.
    pub value: Expr,
}

/// Operators before their operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnaryOp {
    /// `-`
    Neg,
    /// `not`
    Not,
}

/// Operators between their operands, loosest first in each group: `or`; `and`; comparisons; `+ -`; `* / %`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BinaryOp {
    /// `or`
    Or,
    /// `and`
    And,
    /// `==`
    Eq,
    /// `!=`
    Ne,
    /// `<`
    Lt,
    /// `<=`
    Le,
    /// `>`
    Gt,
    /// `>=`
    Ge,
    /// `+`
    Add,
    /// `-`
    Sub,
    /// `*`
    Mul,
    /// `/` (exact on integers only where it divides; otherwise a float)
    Div,
    /// `%`
    Rem,
}
