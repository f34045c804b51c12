//! What a backbone consists of under given arguments: its parts, and the blocks of each stage.

use crate::args::Given;
use crate::eval::{Env, Evaluator};
use crate::limits;
use crate::signature::Signature;
use crate::value::Value;
use ddnnc_diag::{Code, Diagnostic, Span};
use ddnnc_syntax::{BackboneDecl, Expr, Ident, Instance, Member};

/// One part of a backbone.
#[derive(Debug)]
pub(crate) struct Part<'a> {
    /// Its name.
    pub(crate) name: &'a Ident,
    /// What runs in it, in order: the one expression of a segment, or the blocks of a stage.
    pub(crate) blocks: Vec<&'a Expr>,
    /// Whether sub-nets may cut it short.
    pub(crate) stage: bool,
}

/// A backbone's parts with the values of its parameters and `let`s.
pub(crate) struct Plan<'a> {
    /// The backbone.
    pub(crate) backbone: &'a BackboneDecl,
    /// Its parts in order.
    pub(crate) parts: Vec<Part<'a>>,
    /// Parameters and `let`s.
    pub(crate) vars: Vec<(&'a str, Value)>,
}

impl<'a> Plan<'a> {
    /// The stages, in order.
    pub(crate) fn stages(&self) -> impl Iterator<Item = &Part<'a>> {
        self.parts.iter().filter(|p| p.stage)
    }
}

impl<'a> Evaluator<'a> {
    /// The plan of an instance; `None` where something in it is wrong.
    pub(crate) fn plan(&mut self, instance: &'a Instance) -> Option<Plan<'a>> {
        let Some(backbone) = self.names.backbones.get(instance.backbone.name.as_str()).copied() else {
            let candidates = self.diags.candidates(self.names.backbones.keys().copied());
            let error = self.names.unknown("a backbone", &instance.backbone, candidates);
            self.diags.push(error);
            return None;
        };
        if backbone.members.len() > limits::PARTS {
            self.exhaust(format!("more than {} parts in a backbone", limits::PARTS), backbone.name.span);
            return None;
        }
        let signature = Signature::of(&backbone.name.name, &backbone.params);
        let bound = match signature.bind(&instance.args, instance.backbone.span) {
            Ok(bound) => bound,
            Err(errors) => {
                errors.into_iter().for_each(|e| self.diags.push(e));
                return None;
            }
        };
        let mut outside = Env::default();
        let args = self.args(&signature, &bound, &mut outside);
        let mut env = Env::default();
        let mut sound = !args.poisoned();
        for (param, (_, given)) in backbone.params.iter().zip(args.given) {
            let value = match (given, &param.default) {
                (Some(given), _) => given.value,
                (None, Some(default)) => self.value(default, &mut env),
                (None, None) => Value::Poison,
            };
            env.vars.push((&param.name.name, value));
        }
        let mut parts = Vec::new();
        let mut total = 0usize;
        for member in &backbone.members {
            match member {
                Member::Let(l) => {
                    let value = self.value(&l.value, &mut env);
                    env.vars.push((&l.name.name, value));
                }
                Member::Segment(s) => {
                    parts.push(Part { name: &s.name, blocks: vec![&s.value], stage: false });
                }
                Member::Stage(s) => {
                    let mut part = Part { name: &s.name, blocks: Vec::new(), stage: true };
                    let mut known = true;
                    for entry in &s.entries {
                        let count = match &entry.count {
                            None => Some(1),
                            Some(count) => {
                                let value = self.value(count, &mut env);
                                let what = format!("the number of blocks in `{}`", s.name.name);
                                let given = Given { what, value, span: count.span };
                                given.size(0, limits::EXTENT, &mut self.diags)
                            }
                        };
                        let Some(count) = count else {
                            known = false;
                            continue;
                        };
                        total = total.saturating_add(count);
                        if total > limits::BLOCKS {
                            self.exhaust(format!("more than {} blocks", limits::BLOCKS), entry.span);
                            return None;
                        }
                        part.blocks.extend(std::iter::repeat_n(&entry.block, count));
                    }
                    if known && part.blocks.is_empty() {
                        self.diags.push(
                            Diagnostic::error(
                                Code::Depth,
                                format!("the stage `{}` has no blocks", s.name.name),
                            )
                            .at(s.name.span, ""),
                        );
                    }
                    sound &= known && !part.blocks.is_empty();
                    parts.push(part);
                }
            }
        }
        sound &= self.check_head(backbone, &parts);
        sound.then_some(Plan { backbone, parts, vars: env.vars })
    }

    fn check_head(&mut self, backbone: &BackboneDecl, parts: &[Part<'a>]) -> bool {
        match parts.iter().position(|p| p.name.name == "head") {
            Some(at) if parts[at].stage => {
                self.diags.push(
                    Diagnostic::error(Code::Conflict, "`head` is a stage")
                        .at(parts[at].name.span, "")
                        .hint("the head is a segment: `head = global_avg_pool |> linear(classes)`"),
                );
                false
            }
            Some(at) if at + 1 < parts.len() => {
                self.diags.push(
                    Diagnostic::error(
                        Code::Conflict,
                        format!("`{}` stands after the head", parts[at + 1].name.name),
                    )
                    .at(parts[at + 1].name.span, "")
                    .with(parts[at].name.span, "the head is the last part of a backbone"),
                );
                false
            }
            Some(_) => true,
            None => {
                self.diags.push(
                    Diagnostic::error(
                        Code::Missing,
                        format!("the backbone `{}` has no `head`", backbone.name.name),
                    )
                    .at(backbone.name.span, "")
                    .hint("end it with `head = global_avg_pool |> linear(classes)`"),
                );
                false
            }
        }
    }

    /// How many blocks of each stage an instance keeps.
    pub(crate) fn depths(&mut self, plan: &Plan<'a>, instance: &'a Instance) -> Option<Vec<usize>> {
        let whole: Vec<usize> = plan.stages().map(|s| s.blocks.len()).collect();
        let Some((list, span)) = &instance.depth else { return Some(whole) };
        if list.len() != whole.len() {
            let name = &plan.backbone.name;
            self.diags.push(
                Diagnostic::error(
                    Code::Depth,
                    format!("{} for {}", count(list.len(), "depth"), count(whole.len(), "stage")),
                )
                .at(*span, "")
                .with(name.span, format!("`{}` has {}", name.name, count(whole.len(), "stage")))
                .hint("give one number for each stage"),
            );
            return None;
        }
        let mut depths = Some(Vec::with_capacity(whole.len()));
        for (stage, expr) in plan.stages().zip(list) {
            let value = self.constant(expr);
            let given = Given { what: format!("the depth of `{}`", stage.name.name), value, span: expr.span };
            let kept = self.depth(stage.name, stage.blocks.len(), &given);
            match (kept, &mut depths) {
                (Some(kept), Some(depths)) => depths.push(kept),
                _ => depths = None,
            }
        }
        depths
    }

    fn depth(&mut self, stage: &Ident, blocks: usize, given: &Given) -> Option<usize> {
        let Value::Int(n) = given.value else { return given.wrong_kind("an integer", &mut self.diags) };
        let has = format!("`{}` has {}", stage.name, count(blocks, "block"));
        match usize::try_from(n) {
            Ok(n) if n >= 1 && n <= blocks => Some(n),
            Ok(n) if n > blocks => {
                let message = format!("depth {n} of `{}`, which has {}", stage.name, count(blocks, "block"));
                self.diags
                    .push(Diagnostic::error(Code::Depth, message).at(given.span, "").with(stage.span, has));
                None
            }
            _ => {
                let message = format!("depth {n} of `{}`", stage.name);
                self.diags.push(
                    Diagnostic::error(Code::Depth, message).at(given.span, "").with(stage.span, has).hint(
                        "a sub-net keeps at least one block of every stage: the first one changes the shape",
                    ),
                );
                None
            }
        }
    }
}

/// `1 stage`, `3 stages`
pub(crate) fn count(n: usize, what: &str) -> String {
    if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") }
}

/// The span of a depth list, or of the whole instance.
pub(crate) fn depth_span(instance: &Instance) -> Span {
    instance.depth.as_ref().map_or(instance.span, |(_, span)| *span)
}
