//! A walk through every body: names that nothing declares, calls whose arguments do not fit, blocks that use
//! themselves. It looks at each body once, whatever is evaluated later, and so finds mistakes in branches not taken.

use crate::diags::{Diags, no_input};
use crate::limits;
use crate::names::{Names, NetDecl, again, reserved};
use crate::operators::{self, OPERATORS};
use crate::signature::Signature;
use ddnnc_diag::{Code, Diagnostic, Span, did_you_mean};
use ddnnc_syntax::{BlockDecl, Body, Expr, ExprKind, Ident, LetDecl, Member, Param};
use indexmap::{IndexMap, IndexSet};

/// Checks every body of a file.
///
/// Gives whether evaluating is safe: no body is larger than its evaluation may be.
pub(crate) fn check<'a>(names: &Names<'a>, diags: &mut Diags) -> bool {
    let mut checker = Checker {
        names,
        diags,
        scope: Vec::new(),
        has_input: false,
        calls: IndexSet::new(),
        too_large: false,
        level: 0,
    };
    checker.run();
    !checker.too_large
}

struct Checker<'c, 'a> {
    names: &'c Names<'a>,
    diags: &'c mut Diags,
    /// Local names, the inner ones last.
    scope: Vec<&'a Ident>,
    /// Whether `in` has a value.
    has_input: bool,
    /// Blocks that the body calls, with the place of the first call.
    calls: IndexSet<(&'a str, Span)>,
    too_large: bool,
    level: usize,
}

impl<'a> Checker<'_, 'a> {
    fn run(&mut self) {
        let mut graph: IndexMap<&'a str, Vec<(&'a str, Span)>> = IndexMap::new();
        let mut roots: IndexSet<&'a str> = IndexSet::new();
        for (name, block) in &self.names.blocks {
            self.block(block);
            graph.insert(name, std::mem::take(&mut self.calls).into_iter().collect());
        }
        let mut used_backbones: IndexSet<&str> = IndexSet::new();
        for backbone in self.names.backbones.values() {
            self.params(&backbone.params);
            let mut members: Vec<&'a Ident> = Vec::new();
            for member in &backbone.members {
                let (name, exprs): (&'a Ident, Vec<&'a Expr>) = match member {
                    Member::Let(l) => {
                        self.has_input = false;
                        self.local_let(l);
                        continue;
                    }
                    Member::Segment(s) => (&s.name, vec![&s.value]),
                    Member::Stage(s) => {
                        (&s.name, s.entries.iter().flat_map(|e| e.count.iter().chain([&e.block])).collect())
                    }
                };
                match members.iter().find(|m| m.name == name.name) {
                    Some(first) => again(&format!("part `{}`", name.name), name, first, self.diags),
                    None => members.push(name),
                }
                self.has_input = true;
                for expr in exprs {
                    self.expr(expr);
                }
            }
            self.scope.clear();
        }
        for net in self.names.nets.values() {
            match net {
                NetDecl::Exit(exit) => {
                    self.has_input = true;
                    self.expr(&exit.head);
                    self.has_input = false;
                    exit.block.iter().for_each(|e| self.expr(e));
                }
                NetDecl::Subnet(_) | NetDecl::Network(_) => {
                    used_backbones.extend(net.instance().map(|i| i.backbone.name.as_str()));
                }
            }
        }
        roots.extend(self.calls.iter().map(|(name, _)| *name));
        self.cycles(&graph);
        self.unused(&graph, roots, &used_backbones);
    }

    fn params(&mut self, params: &'a [Param]) {
        self.has_input = false;
        for param in params {
            if let Some(default) = &param.default {
                self.expr(default);
            }
            self.declare(&param.name, 0);
        }
    }

    /// Takes up a local name; those from `from` on may not be the same.
    fn declare(&mut self, name: &'a Ident, from: usize) {
        reserved(name, self.diags);
        if self.scope.len() >= limits::LOCALS {
            return self.too_large(format!("more than {} names in one body", limits::LOCALS), name.span);
        }
        match self.scope[from..].iter().find(|n| n.name == name.name) {
            Some(first) => again(&format!("declaration of `{}`", name.name), name, first, self.diags),
            None => self.scope.push(name),
        }
    }

    /// Gives up on the bodies of the file.
    fn too_large(&mut self, message: String, span: Span) {
        if !self.too_large {
            self.too_large = true;
            self.diags.push(Diagnostic::error(Code::TooLarge, message).at(span, ""));
        }
    }

    fn local_let(&mut self, l: &'a LetDecl) {
        self.expr(&l.value);
        self.declare(&l.name, 0);
    }

    fn block(&mut self, block: &'a BlockDecl) {
        self.params(&block.params);
        self.has_input = true;
        self.body(&block.body);
        self.scope.clear();
    }

    fn body(&mut self, body: &'a Body) {
        let outer = self.scope.len();
        for l in &body.lets {
            self.local_let(l);
        }
        self.expr(&body.result);
        self.scope.truncate(outer);
    }

    fn expr(&mut self, expr: &'a Expr) {
        self.level += 1;
        if self.level > crate::limits::EVAL_DEPTH {
            if !self.too_large {
                self.too_large = true;
                self.diags.push(
                    Diagnostic::error(Code::TooLarge, "an expression nested too deep").at(expr.span, ""),
                );
            }
        } else {
            self.expr_kind(expr);
        }
        self.level -= 1;
    }

    fn expr_kind(&mut self, expr: &'a Expr) {
        match &expr.kind {
            ExprKind::Int(_) | ExprKind::Float(_) | ExprKind::Bool(_) | ExprKind::Str(_) => {}
            ExprKind::List(items) | ExprKind::Pipe(items) => items.iter().for_each(|e| self.expr(e)),
            ExprKind::Name(name) => self.name(name, expr.span),
            ExprKind::Field { base, .. } => self.expr(base),
            ExprKind::Index { base, index } => {
                self.expr(base);
                self.expr(index);
            }
            ExprKind::Unary { operand, .. } => self.expr(operand),
            ExprKind::Binary { lhs, rhs, .. } => {
                self.expr(lhs);
                self.expr(rhs);
            }
            ExprKind::If { condition, then, otherwise } => {
                self.expr(condition);
                self.body(then);
                self.body(otherwise);
            }
            ExprKind::Call { callee, args } => {
                args.iter().for_each(|a| self.expr(&a.value));
                let signature = if let Some(local) = self.local(&callee.name) {
                    self.diags.push(
                        Diagnostic::error(
                            Code::WrongKind,
                            format!("`{}` is a value, not an operator", callee.name),
                        )
                        .at(callee.span, "called here")
                        .with(local.span, "declared here"),
                    );
                    return;
                } else if let Some(entry) = operators::find(&callee.name) {
                    entry.fixed.signature()
                } else if let Some(block) = self.names.blocks.get(callee.name.as_str()) {
                    self.calls.insert((&block.name.name, callee.span));
                    Signature::of(&block.name.name, &block.params)
                } else {
                    let candidates = self.callables();
                    self.diags.push(self.names.unknown("an operator or a block", callee, candidates));
                    return;
                };
                if let Err(errors) = signature.bind(args, expr.span) {
                    errors.into_iter().for_each(|e| self.diags.push(e));
                }
            }
            ExprKind::Named { step, .. } => self.expr(step),
            ExprKind::Arrow { from, to } => {
                self.expr(from);
                self.expr(to);
            }
        }
    }

    fn local(&self, name: &str) -> Option<&'a Ident> {
        self.scope.iter().rev().find(|n| n.name == name).copied()
    }

    fn callables(&self) -> Vec<&'a str> {
        self.diags.candidates(OPERATORS.iter().map(|e| e.fixed.name).chain(self.names.blocks.keys().copied()))
    }

    fn name(&mut self, name: &'a str, span: Span) {
        if self.local(name).is_some() || name == "classes" || self.names.lets.contains_key(name) {
            return;
        }
        if name == "in" {
            if !self.has_input {
                self.diags.push(no_input(span));
            }
            return;
        }
        let signature = if let Some(entry) = operators::find(name) {
            entry.fixed.signature()
        } else if let Some(block) = self.names.blocks.get(name) {
            self.calls.insert((&block.name.name, span));
            Signature::of(&block.name.name, &block.params)
        } else {
            if let Some((kind, declared)) = self.names.all.get(name) {
                self.diags.push(
                    Diagnostic::error(Code::WrongKind, format!("`{name}` is {kind}, and has no value here"))
                        .at(span, "")
                        .with(declared.span, "declared here"),
                );
                return;
            }
            let values = self.scope.iter().map(|n| n.name.as_str()).chain(self.names.lets.keys().copied());
            let mut candidates = self.diags.candidates(values.chain(["in", "classes"]));
            candidates.extend(self.callables());
            let error = Diagnostic::error(Code::UnknownName, format!("unknown name `{name}`")).at(span, "");
            self.diags.push(match did_you_mean(name, candidates) {
                Some(meant) => error.hint(format!("did you mean `{meant}`?")),
                None => error,
            });
            return;
        };
        if let Err(errors) = signature.bind(&[], span) {
            errors.into_iter().for_each(|e| self.diags.push(e));
        }
    }

    /// Blocks that use themselves, each cycle once.
    fn cycles(&mut self, graph: &IndexMap<&'a str, Vec<(&'a str, Span)>>) {
        // 0 new, 1 on the path, 2 done; the path holds (block, next call to follow).
        let mut color: IndexMap<&str, u8> = graph.keys().map(|k| (*k, 0)).collect();
        for root in graph.keys() {
            let mut path: Vec<(&str, usize)> = Vec::new();
            if color.get(root) == Some(&0) {
                color.insert(root, 1);
                path.push((root, 0));
            }
            while let Some((name, next)) = path.pop() {
                let Some(&(callee, span)) = graph.get(name).and_then(|calls| calls.get(next)) else {
                    color.insert(name, 2);
                    continue;
                };
                path.push((name, next + 1));
                match color.get(callee) {
                    Some(0) => {
                        color.insert(callee, 1);
                        path.push((callee, 0));
                    }
                    Some(1) => {
                        let declared = self.names.blocks.get(callee).map_or(span, |b| b.name.span);
                        let message = if callee == name {
                            format!("the block `{callee}` uses itself")
                        } else {
                            format!("the block `{callee}` uses itself, by way of `{name}`")
                        };
                        self.diags.push(
                            Diagnostic::error(Code::Recursion, message)
                                .at(span, "")
                                .with(declared, "declared here"),
                        );
                    }
                    _ => {}
                }
            }
        }
    }

    fn unused(
        &mut self,
        graph: &IndexMap<&'a str, Vec<(&'a str, Span)>>,
        roots: IndexSet<&'a str>,
        backbones: &IndexSet<&str>,
    ) {
        let mut used = roots;
        let mut at = 0;
        while let Some(&name) = used.get_index(at) {
            at += 1;
            used.extend(graph.get(name).into_iter().flatten().map(|(callee, _)| *callee));
        }
        for (name, block) in self.names.blocks.iter().filter(|(name, _)| !used.contains(*name)) {
            self.diags.push(
                Diagnostic::warning(Code::Unused, format!("the block `{name}` is never used"))
                    .at(block.name.span, ""),
            );
        }
        for (name, backbone) in self.names.backbones.iter().filter(|(name, _)| !backbones.contains(*name)) {
            self.diags.push(
                Diagnostic::warning(Code::Unused, format!("the backbone `{name}` is never used"))
                    .at(backbone.name.span, "no sub-net and no network is made of it"),
            );
        }
    }
}
