//! The tree as text, without places (`ddnnc compile --emit ast`).

use crate::ast::*;
use crate::layout::quoted;

/// The tree of a file as nested parentheses, one declaration or part a line, without places and comments.
pub fn dump(file: &SpecFile) -> String {
    let mut out = Dump { text: String::new(), depth: 0 };
    out.node(&format!("model {}", file.model.name), |out| {
        for item in &file.items {
            out.item(item);
        }
    });
    out.text
}

struct Dump {
    text: String,
    depth: usize,
}

impl Dump {
    fn line(&mut self, text: &str) {
        self.text.extend(std::iter::repeat_n("  ", self.depth));
        self.text.push_str(text);
        self.text.push('\n');
    }

    /// `(head`, the lines of the inside, and `)` at the end of the last of them.
    fn node(&mut self, head: &str, inside: impl FnOnce(&mut Dump)) {
        self.line(&format!("({head}"));
        self.depth += 1;
        inside(self);
        self.depth -= 1;
        self.text.pop();
        self.text.push_str(")\n");
    }

    fn item(&mut self, item: &Item) {
        match item {
            Item::Input(d) => self.line(&format!("(input {} {})", d.name.name, type_expr(&d.ty))),
            Item::Target(d) => self.line(&format!("(target {} {})", d.name.name, type_expr(&d.ty))),
            Item::Let(d) => self.let_decl(d),
            Item::Block(d) => {
                self.node(&format!("block {}{}", d.name.name, params(&d.params)), |out| out.body(&d.body))
            }
            Item::Backbone(d) => {
                self.node(&format!("backbone {}{}", d.name.name, params(&d.params)), |out| {
                    for member in &d.members {
                        out.member(member);
                    }
                })
            }
            Item::Subnet(d) => self.line(&format!("(subnet {} {})", d.name.name, instance(&d.of))),
            Item::Exit(d) => {
                let block =
                    d.block.as_ref().map_or(String::new(), |block| format!(" (block {})", expr(block)));
                self.line(&format!(
                    "(exit {} {} (after {}{block}) {})",
                    d.name.name,
                    d.of.name,
                    d.after.name,
                    expr(&d.head)
                ));
            }
            Item::Network(d) => {
                self.node(&format!("network {} {}", d.name.name, instance(&d.of)), |out| {
                    out.settings(&d.settings)
                });
            }
            Item::Share(d) => {
                self.node(&format!("share {}", d.backbone.name), |out| out.settings(&d.settings))
            }
            Item::Supervise(d) => {
                self.node(&format!("supervise {}", names(&d.targets)), |out| out.exprs(&d.terms))
            }
            Item::Distill(d) => {
                let head = format!("distill {} {}", expr(&d.teacher), names(&d.students));
                self.node(&head, |out| out.exprs(&d.terms));
            }
            Item::Train(d) => self.node("train", |out| out.settings(&d.settings)),
            Item::Order(d) => self.node("order", |out| out.settings(&d.settings)),
            Item::Phase(d) => self.node(&format!("phase {}", d.name.name), |out| {
                out.settings(&d.settings);
                for item in &d.items {
                    out.item(item);
                }
            }),
            Item::Task(d) => self.node(&format!("task {}", d.kind.name), |out| out.settings(&d.settings)),
        }
    }

    fn let_decl(&mut self, decl: &LetDecl) {
        self.line(&format!("(let {} {})", decl.name.name, expr(&decl.value)));
    }

    fn body(&mut self, body: &Body) {
        for decl in &body.lets {
            self.let_decl(decl);
        }
        self.line(&expr(&body.result));
    }

    fn member(&mut self, member: &Member) {
        match member {
            Member::Let(d) => self.let_decl(d),
            Member::Segment(d) => self.line(&format!("(segment {} {})", d.name.name, expr(&d.value))),
            Member::Stage(d) => self.node(&format!("stage {}", d.name.name), |out| {
                for entry in &d.entries {
                    out.line(&match &entry.count {
                        Some(count) => format!("(times {} {})", expr(count), expr(&entry.block)),
                        None => expr(&entry.block),
                    });
                }
            }),
        }
    }

    fn settings(&mut self, settings: &[Setting]) {
        for setting in settings {
            self.line(&format!("(set {} {})", setting.key.name, expr(&setting.value)));
        }
    }

    fn exprs(&mut self, exprs: &[Expr]) {
        for e in exprs {
            self.line(&expr(e));
        }
    }
}

fn type_expr(ty: &TypeExpr) -> String {
    node(&format!("type {}", ty.kind.name), ty.dims.iter().map(expr))
}

fn names(names: &[Ident]) -> String {
    format!("[{}]", names.iter().map(|name| name.name.as_str()).collect::<Vec<_>>().join(" "))
}

fn params(params: &[Param]) -> String {
    let one = |param: &Param| match &param.default {
        Some(default) => format!(" ({} {})", param.name.name, expr(default)),
        None => format!(" ({})", param.name.name),
    };
    params.iter().map(one).collect()
}

fn instance(of: &Instance) -> String {
    let depth = of.depth.as_ref().map(|(depth, _)| node("depth", depth.iter().map(expr)));
    node(&format!("of {}", of.backbone.name), of.args.iter().map(arg).chain(depth))
}

fn arg(arg: &Arg) -> String {
    match &arg.name {
        Some(name) => format!("(= {} {})", name.name, expr(&arg.value)),
        None => expr(&arg.value),
    }
}

fn body(body: &Body) -> String {
    if body.lets.is_empty() {
        return expr(&body.result);
    }
    let lets = body.lets.iter().map(|decl| format!("(let {} {})", decl.name.name, expr(&decl.value)));
    node("do", lets.chain(std::iter::once(expr(&body.result))))
}

fn node(head: &str, parts: impl Iterator<Item = String>) -> String {
    let parts: String = parts.map(|part| format!(" {part}")).collect();
    format!("({head}{parts})")
}

fn expr(e: &Expr) -> String {
    match &e.kind {
        ExprKind::Int(value) => value.to_string(),
        ExprKind::Float(value) => format!("{value:?}"),
        ExprKind::Bool(value) => value.to_string(),
        ExprKind::Str(value) => quoted(value),
        ExprKind::Name(name) => name.clone(),
        ExprKind::List(elements) => node("list", elements.iter().map(expr)),
        ExprKind::Field { base, field } => format!("(field {} {})", expr(base), field.name),
        ExprKind::Index { base, index } => format!("(index {} {})", expr(base), expr(index)),
        ExprKind::Unary { op: UnaryOp::Neg, operand } => format!("(neg {})", expr(operand)),
        ExprKind::Unary { op: UnaryOp::Not, operand } => format!("(not {})", expr(operand)),
        ExprKind::Binary { op, lhs, rhs, .. } => format!("({} {} {})", op.as_str(), expr(lhs), expr(rhs)),
        ExprKind::If { condition, then, otherwise } => {
            format!("(if {} {} {})", expr(condition), body(then), body(otherwise))
        }
        ExprKind::Call { callee, args } => node(&format!("call {}", callee.name), args.iter().map(arg)),
        ExprKind::Named { step, name } => format!("(as {} {})", expr(step), name.name),
        ExprKind::Pipe(steps) => node("|>", steps.iter().map(expr)),
        ExprKind::Arrow { from, to } => format!("(-> {} {})", expr(from), expr(to)),
    }
}
