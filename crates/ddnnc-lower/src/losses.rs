//! `supervise` and `distill`: pairings resolved, shapes compared, terms named.

use crate::args::{Args, Given, Range};
use crate::eval::{Env, Evaluator};
use crate::limits;
use crate::names::{Names, NetDecl};
use crate::nets::{Net, Nets};
use crate::settings::quoted;
use crate::signature::{Bound, Fixed, as_call};
use crate::teachers::{SetLesson, Teacher};
use crate::terms::{Features, Map, Pair, TermKind, TermPlan};
use crate::value::Tensor;
use ddnnc_diag::{Code, Diagnostic, Span, did_you_mean};
use ddnnc_ir::Weight;
use ddnnc_syntax::{BackboneDecl, DistillDecl, Expr, ExprKind, Ident, Member, SuperviseDecl};
use indexmap::IndexMap;
use rustc_hash::FxHashSet;

/// Terms against the label.
pub(crate) const SUPERVISED: &[(Fixed, Label)] =
    &[(Fixed { name: "cross_entropy", params: &["weight", "label_smoothing"] }, Label::CrossEntropy)];

/// What the word of a term against the label means.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Label {
    /// The cross-entropy.
    CrossEntropy,
}

/// Terms against a teacher.
pub(crate) const DISTILLED: &[(Fixed, Lesson)] = &[
    (Fixed { name: "kl", params: &["temperature", "weight", "detach"] }, Lesson::Kl),
    (
        Fixed { name: "attention", params: &["at", "weight", "mode", "detach", "eps"] },
        Lesson::Stages(Compared::Attention),
    ),
    (Fixed { name: "hint", params: &["at!", "weight", "detach", "adapter"] }, Lesson::Stages(Compared::Hint)),
    (
        Fixed { name: "relation", params: &["distance", "angle", "at", "weight", "detach"] },
        Lesson::Stages(Compared::Relation),
    ),
];

/// What the word of a term against a teacher means.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Lesson {
    /// The divergence of softened probabilities.
    Kl,
    /// A comparison of what stages give.
    Stages(Compared),
}

/// What is compared of stages.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Compared {
    /// Attention maps.
    Attention,
    /// Distances and angles between samples.
    Relation,
    /// Features.
    Hint,
}

/// All terms.
fn terms() -> impl Iterator<Item = &'static Fixed> {
    SUPERVISED.iter().map(|(term, _)| term).chain(DISTILLED.iter().map(|(term, _)| term))
}

/// Weights that are no number.
pub(crate) const RAMP: &[(Fixed, ())] = &[(Fixed { name: "ramp", params: &["from", "to", "epochs"] }, ())];

/// Segments and stages of a backbone, in order.
pub(crate) fn parts(backbone: &BackboneDecl) -> impl Iterator<Item = &Ident> {
    backbone.members.iter().filter_map(|m| match m {
        Member::Stage(s) => Some(&s.name),
        Member::Segment(s) => Some(&s.name),
        Member::Let(_) => None,
    })
}

/// An error for a part or stage that a backbone does not have.
pub(crate) fn no_part(what: &str, backbone: &BackboneDecl, name: &Ident, candidates: &[&str]) -> Diagnostic {
    let error = Diagnostic::error(
        Code::UnknownName,
        format!("the backbone `{}` has no {what} `{}`", backbone.name.name, name.name),
    )
    .at(name.span, "")
    .with(backbone.name.span, "declared here");
    match did_you_mean(&name.name, candidates.iter().copied()) {
        Some(meant) => error.hint(format!("did you mean `{meant}`?")),
        None if candidates.is_empty() => error,
        None => error.hint(format!("its {what}s are {}", quoted(candidates.iter().copied()))),
    }
}

/// The arguments of a term: expressions bound, not all of them evaluated.
struct TermCall<'a> {
    name: &'static str,
    span: Span,
    bound: Bound<'a>,
    params: Vec<&'static str>,
}

impl<'a> TermCall<'a> {
    fn expr(&self, param: &str) -> Option<&'a Expr> {
        let at = self.params.iter().position(|p| *p == param)?;
        self.bound.args.get(at).copied().flatten()
    }
}

/// The settings of a term that are plain values; words and stages are read on their own.
const WORDS: [&str; 4] = ["weight", "at", "mode", "adapter"];

/// What is stated of the loss, at the top level or in a phase.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stated<'a> {
    /// Losses against the label.
    pub(crate) supervises: Vec<&'a SuperviseDecl>,
    /// Losses against teachers.
    pub(crate) distills: Vec<&'a DistillDecl>,
}

impl<'a> Evaluator<'a> {
    /// Which nets are frozen whatever the phase.
    pub(crate) fn frozen_nets(&mut self, nets: &Nets<'a>) -> IndexMap<&'a str, bool> {
        let names = self.names;
        names.nets.iter().map(|(name, net)| (*name, self.is_frozen(*net, nets))).collect()
    }

    /// Every term of the loss that is stated, in order, where these nets are frozen; the silent ones have no cross-entropy by
    /// default.
    pub(crate) fn terms(
        &mut self,
        nets: &Nets<'a>,
        stated: &Stated<'a>,
        frozen: &IndexMap<&'a str, bool>,
        silent: &FxHashSet<&'a str>,
    ) -> Vec<TermPlan<'a>> {
        let names = self.names;
        let mut terms: Vec<TermPlan<'a>> = Vec::new();
        let mut supervised: IndexMap<&'a str, Vec<TermPlan<'a>>> = IndexMap::new();
        let mut places: IndexMap<&'a str, Span> = IndexMap::new();
        for decl in &stated.supervises {
            self.supervise(decl, frozen, &mut places, &mut supervised);
        }
        for (name, net) in &names.nets {
            match supervised.shift_remove(name) {
                Some(own) => terms.extend(own),
                None if frozen.get(name) == Some(&true) || silent.contains(name) => {}
                None => terms.push(TermPlan {
                    name: format!("ce.{name}"),
                    weight: Weight::Constant(1.0),
                    span: net.name().span,
                    kind: TermKind::CrossEntropy { net: name, smoothing: 0.0 },
                }),
            }
        }
        for decl in &stated.distills {
            self.distill(decl, nets, frozen, &mut terms);
        }
        let mut first: IndexMap<String, Span> = IndexMap::new();
        for term in &terms {
            if let Some(span) = first.insert(term.name.clone(), term.span) {
                self.diags.push(
                    Diagnostic::error(Code::Conflict, format!("a second term `{}`", term.name))
                        .at(term.span, "again here")
                        .with(span, "first here")
                        .hint(match term.kind {
                            TermKind::Gate { .. } => "name all students of a gated set in one `distill`",
                            _ => "state each pairing once, with the weight that it shall have",
                        }),
                );
            }
        }
        terms.retain(|t| t.weight != Weight::Constant(0.0));
        terms
    }

    /// Warns of nets that no term trains, where there is a term.
    pub(crate) fn warn_untrained(&mut self, terms: &[TermPlan<'a>], frozen: &IndexMap<&'a str, bool>) {
        let mut trained: FxHashSet<&str> = FxHashSet::default();
        for term in terms {
            match &term.kind {
                TermKind::CrossEntropy { net, .. } => {
                    trained.insert(net);
                }
                TermKind::Ensemble { ensemble, student, .. } => {
                    trained.insert(student);
                    if !ensemble.detach {
                        trained.extend(&ensemble.teachers);
                    }
                }
                TermKind::Gate { ensemble } => {
                    if !ensemble.detach {
                        trained.extend(&ensemble.teachers);
                    }
                }
                TermKind::Penalty { .. } => {}
                TermKind::Kl { pair, .. }
                | TermKind::Attention { pair, .. }
                | TermKind::Relation { pair, .. }
                | TermKind::Hint { pair, .. } => {
                    trained.insert(pair.student);
                    if !pair.detach {
                        trained.insert(pair.teacher);
                    }
                }
            }
        }
        for (name, net) in &self.names.nets {
            if terms.is_empty() || trained.contains(name) || frozen.get(name) == Some(&true) {
                continue;
            }
            self.diags.push(
                Diagnostic::warning(Code::Unused, format!("no term of the loss trains `{name}`"))
                    .at(net.name().span, "what it does not share with others stays as it begins")
                    .hint("give it a `cross_entropy` in `supervise`, or make it a student of a `distill`"),
            );
        }
    }

    /// Says that a list of nets is empty.
    fn no_nets(&mut self, declared: &str, span: Span) {
        self.diags.push(
            Diagnostic::error(Code::Missing, format!("this `{declared}` names no net"))
                .at(span, "")
                .hint("name one or several: `[small, medium]`; or remove it"),
        );
    }

    fn is_frozen(&mut self, net: NetDecl<'a>, nets: &Nets<'a>) -> bool {
        match net {
            NetDecl::Subnet(_) => false,
            NetDecl::Exit(exit) => matches!(
                self.names.nets.get(exit.of.name.as_str()),
                Some(parent @ NetDecl::Network(_)) if self.is_frozen(*parent, nets)
            ),
            NetDecl::Network(d) => match nets.nets.get(d.name.name.as_str()) {
                Some(net) => net.frozen,
                None => {
                    d.settings.iter().any(|s| s.key.name == "frozen" && s.value.kind == ExprKind::Bool(true))
                }
            },
        }
    }

    fn net_name(&mut self, name: &'a Ident) -> Option<&'a str> {
        let names: &'a Names<'a> = self.names;
        match names.nets.get_key_value(name.name.as_str()) {
            Some((known, _)) => Some(known),
            None => {
                let candidates = self.diags.candidates(names.nets.keys().copied());
                let error = names.unknown("a sub-net, an exit or a network", name, candidates);
                self.diags.push(error);
                None
            }
        }
    }

    fn supervise(
        &mut self,
        decl: &'a SuperviseDecl,
        frozen: &IndexMap<&'a str, bool>,
        places: &mut IndexMap<&'a str, Span>,
        supervised: &mut IndexMap<&'a str, Vec<TermPlan<'a>>>,
    ) {
        if decl.targets.is_empty() {
            self.no_nets("supervise", decl.span);
        }
        let calls: Vec<_> = decl.terms.iter().filter_map(|e| self.term_call(e, SUPERVISED)).collect();
        let mut read = Vec::new();
        for (Label::CrossEntropy, call) in &calls {
            let args = self.term_args(call);
            let weight = self.weight(call, 1.0);
            let smoothing = args.number("label_smoothing", 0.0, Range::BelowOne, &mut self.diags);
            read.push((call.span, weight, smoothing));
        }
        if let [(first, ..), (second, ..), ..] = read.as_slice() {
            self.diags.push(
                Diagnostic::error(Code::Conflict, "a second `cross_entropy`")
                    .at(*second, "again here")
                    .with(*first, "first here"),
            );
            read.truncate(1);
        }
        for target in &decl.targets {
            let Some(net) = self.net_name(target) else { continue };
            if frozen.get(net) == Some(&true) {
                self.diags.push(
                    Diagnostic::error(
                        Code::Conflict,
                        format!("`{net}` is frozen{}: there is nothing to supervise", self.in_phase()),
                    )
                    .at(target.span, "")
                    .with(self.names.nets[net].name().span, "declared here"),
                );
                continue;
            }
            if let Some(first) = places.insert(net, target.span) {
                self.diags.push(
                    Diagnostic::error(Code::Conflict, format!("`{net}` is supervised twice"))
                        .at(target.span, "again here")
                        .with(first, "first here"),
                );
                continue;
            }
            let own = supervised.entry(net).or_default();
            for (span, weight, smoothing) in &read {
                if let (Some(weight), Some(smoothing)) = (*weight, *smoothing) {
                    let kind = TermKind::CrossEntropy { net, smoothing };
                    own.push(TermPlan { name: format!("ce.{net}"), weight, span: *span, kind });
                }
            }
        }
    }

    fn term_call<T: Copy>(&mut self, expr: &'a Expr, choices: &[(Fixed, T)]) -> Option<(T, TermCall<'a>)> {
        let names = || choices.iter().map(|(c, _)| c.name);
        let Some((name, span, args)) = as_call(expr) else {
            self.fail(
                Diagnostic::error(Code::WrongKind, "a loss term is wanted here")
                    .at(expr.span, "")
                    .hint(format!("the terms are {}", quoted(names()))),
            );
            return None;
        };
        let Some((choice, meaning)) = choices.iter().find(|(c, _)| c.name == name) else {
            let elsewhere = terms().any(|term| term.name == name);
            let error = Diagnostic::error(
                Code::UnknownName,
                if elsewhere {
                    format!("the term `{name}` does not stand here")
                } else {
                    format!("no loss term `{name}`")
                },
            )
            .at(span, "");
            let hint = match did_you_mean(name, names()) {
                Some(meant) => format!("did you mean `{meant}`?"),
                None if name == "cross_entropy" => "`cross_entropy` stands in `supervise`".into(),
                None if elsewhere => format!("`{name}` stands in `distill`"),
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
                let params = signature.params.iter().map(|p| p.0).collect();
                Some((*meaning, TermCall { name: choice.name, span: expr.span, bound, params }))
            }
            Err(errors) => {
                errors.into_iter().for_each(|e| self.diags.push(e));
                None
            }
        }
    }

    fn term_args(&mut self, call: &TermCall<'a>) -> Args {
        let mut given = Vec::new();
        for param in call.params.iter().filter(|p| !WORDS.contains(p)) {
            let value = call.expr(param).map(|e| Given {
                what: format!("`{param}` of `{}`", call.name),
                value: self.value(e, &mut Env::default()),
                span: e.span,
            });
            given.push(((*param).to_string(), value));
        }
        Args { given, more: Vec::new() }
    }

    fn weight(&mut self, call: &TermCall<'a>, default: f64) -> Option<Weight> {
        let Some(expr) = call.expr("weight") else { return Some(Weight::Constant(default)) };
        if matches!(as_call(expr), Some(("ramp", ..))) {
            let ((), args) = self.choice(expr, "weight", RAMP)?;
            let from = args.number("from", 0.0, Range::NotNegative, &mut self.diags);
            let to = args.number("to", 1.0, Range::NotNegative, &mut self.diags);
            let epochs = args.number("epochs", 10.0, Range::Positive, &mut self.diags);
            return Some(Weight::Ramp { from: from?, to: to?, epochs: epochs? });
        }
        let what = format!("`weight` of `{}`", call.name);
        let given = Given { what, value: self.constant(expr), span: expr.span };
        given.number(Range::NotNegative, &mut self.diags).map(Weight::Constant)
    }

    fn distill(
        &mut self,
        decl: &'a DistillDecl,
        nets: &Nets<'a>,
        frozen: &IndexMap<&'a str, bool>,
        terms: &mut Vec<TermPlan<'a>>,
    ) {
        let teacher = self.teacher(&decl.teacher);
        if decl.students.is_empty() {
            self.no_nets("distill", decl.span);
        }
        if decl.terms.is_empty() {
            self.diags.push(
                Diagnostic::error(Code::Missing, "this `distill` has no terms")
                    .at(decl.span, "")
                    .hint("say what the teacher teaches: `{ kl }`; or remove it"),
            );
        }
        let mut students = Vec::new();
        for student in &decl.students {
            let Some(name) = self.net_name(student) else { continue };
            if let Some((teacher, span)) = &teacher
                && self.teaches_itself(teacher, *span, student)
            {
                continue;
            } else if frozen.get(name) == Some(&true) {
                self.diags.push(
                    Diagnostic::error(
                        Code::Pairing,
                        format!("the student `{name}` is frozen{}", self.in_phase()),
                    )
                    .at(student.span, "a frozen network learns nothing")
                    .with(self.names.nets[name].name().span, "declared here"),
                );
            } else if students.contains(&name) {
                self.diags.push(
                    Diagnostic::error(Code::Conflict, format!("the student `{name}` is named twice"))
                        .at(student.span, ""),
                );
            } else {
                students.push(name);
            }
        }
        for expr in &decl.terms {
            let Some((lesson, call)) = self.term_call(expr, DISTILLED) else { continue };
            let args = self.term_args(&call);
            let usual = match lesson {
                Lesson::Stages(Compared::Attention) => 0.5,
                Lesson::Kl | Lesson::Stages(Compared::Relation | Compared::Hint) => 1.0,
            };
            let weight = self.weight(&call, usual);
            let relations = match lesson {
                Lesson::Stages(Compared::Relation) => self.relations(&args, weight, call.span),
                Lesson::Kl | Lesson::Stages(Compared::Attention | Compared::Hint) => None,
            };
            let detach = args.flag("detach", true, &mut self.diags);
            let temperature = args.number("temperature", 3.0, Range::Positive, &mut self.diags);
            let map = match call.expr("mode") {
                None => Some(Map::ZScore),
                Some(e) => self.word(e, "attention mode", &[("zscore", Map::ZScore), ("at", Map::At)]),
            };
            // Added to a variance, or the least norm that is divided by.
            let eps = if map == Some(Map::At) { 1e-12 } else { 1e-5 };
            let eps = args.number("eps", eps, Range::Positive, &mut self.diags);
            let adapter = match call.expr("adapter") {
                None => Some(Adapter::Auto),
                Some(e) => {
                    let words =
                        [("auto", Adapter::Auto), ("conv", Adapter::Always), ("none", Adapter::Never)];
                    self.word(e, "adapter", &words)
                }
            };
            let (Some(weight), Some(detach), Some((teacher, _))) = (weight, detach, &teacher) else {
                continue;
            };
            let teacher = match teacher {
                Teacher::One(teacher) => *teacher,
                Teacher::Set(set) => {
                    match (lesson, temperature) {
                        (Lesson::Kl, Some(temperature)) => {
                            let lesson = SetLesson { weight, temperature, detach, span: call.span };
                            self.set_terms(nets, set, &students, &lesson, terms);
                        }
                        (Lesson::Kl, None) => {}
                        (Lesson::Stages(_), _) => self.not_of_a_set(call.name, call.span),
                    }
                    continue;
                }
            };
            for student in &students {
                if self.exhausted {
                    return;
                }
                if terms.len() > limits::TERMS {
                    self.exhaust(format!("more than {} terms in the loss", limits::TERMS), call.span);
                    return;
                }
                let pair = Pair { teacher, student, detach };
                let compared = match lesson {
                    Lesson::Kl => {
                        let Some(temperature) = temperature else { continue };
                        let kind = TermKind::Kl { pair, temperature };
                        let name = format!("kl.{teacher}.{student}");
                        terms.push(TermPlan { name, weight, span: call.span, kind });
                        continue;
                    }
                    Lesson::Stages(compared) => compared,
                };
                for (from, to) in self.stages_of(&call, pair) {
                    let label = if from.name == to.name {
                        to.name.clone()
                    } else {
                        format!("{}_{}", from.name, to.name)
                    };
                    let name = format!("{}.{teacher}.{student}.{label}", call.name);
                    let Some(features) = self.features(nets, pair, &from, &to) else { continue };
                    let kind = match compared {
                        Compared::Attention => {
                            let (Some(map), Some(eps)) = (map, eps) else { continue };
                            if !self.check_maps(nets, pair, &features, call.span) {
                                continue;
                            }
                            TermKind::Attention { pair, features, map, eps }
                        }
                        Compared::Relation => {
                            let checked = self.check_embeddings(nets, pair, &features, call.span);
                            for (relation, weight) in relations.iter().flatten().filter(|_| checked) {
                                let name = format!("{}.{teacher}.{student}.{label}", relation.as_str());
                                let kind = TermKind::Relation { pair, features, relation: *relation };
                                terms.push(TermPlan { name, weight: *weight, span: call.span, kind });
                            }
                            continue;
                        }
                        Compared::Hint => {
                            let Some(adapter) = adapter else { continue };
                            let Some(adapted) = self.check_hint(nets, pair, &features, adapter, call.span)
                            else {
                                continue;
                            };
                            let adapter = adapted.then(|| format!("{name}.conv1"));
                            TermKind::Hint { pair, features, adapter }
                        }
                    };
                    terms.push(TermPlan { name, weight, span: call.span, kind });
                }
            }
        }
    }

    /// The pairs of stages that a term names, as (teacher's, student's); the last of each where it names none.
    fn stages_of(&mut self, call: &TermCall<'a>, pair: Pair<'a>) -> Vec<(Ident, Ident)> {
        let names: &'a Names<'a> = self.names;
        let mut backbones = Vec::new();
        for net in [pair.teacher, pair.student] {
            let decl = names.nets[net];
            if let NetDecl::Exit(exit) = decl {
                self.diags.push(
                    Diagnostic::error(
                        Code::Pairing,
                        format!("`{}` pairs stages, and the exit `{net}` has none", call.name),
                    )
                    .at(call.span, "")
                    .with(exit.name.span, "declared here")
                    .hint("pair an exit's logits with `kl`"),
                );
                return Vec::new();
            }
            match names.backbone_of(decl) {
                Some(backbone) => backbones.push(backbone),
                None => return Vec::new(),
            }
        }
        let [of_teacher, of_student] = backbones.as_slice() else { return Vec::new() };
        let Some(at) = call.expr("at") else {
            let last = |b: &'a BackboneDecl| Names::stages(b).last().cloned();
            return match (last(of_teacher), last(of_student)) {
                (Some(from), Some(to)) => vec![(from, to)],
                _ => {
                    self.diags.push(
                        Diagnostic::error(
                            Code::Pairing,
                            format!("`{}` pairs stages, and there are none", call.name),
                        )
                        .at(call.span, ""),
                    );
                    Vec::new()
                }
            };
        };
        let entries = match &at.kind {
            ExprKind::List(items) => items.as_slice(),
            _ => std::slice::from_ref(at),
        };
        if entries.is_empty() {
            self.fail(
                Diagnostic::error(Code::Pairing, "no stages to pair")
                    .at(at.span, "")
                    .hint("name one: `at = [s3]`"),
            );
        }
        if entries.len() > limits::PARTS {
            self.exhaust(format!("more than {} stages to pair", limits::PARTS), at.span);
            return Vec::new();
        }
        let mut found = Vec::new();
        for entry in entries {
            let (from, to) = match &entry.kind {
                ExprKind::Arrow { from, to } => (&**from, &**to),
                _ => (entry, entry),
            };
            let teacher = self.stage(of_teacher, from);
            let student = self.stage(of_student, to);
            if let (Some(teacher), Some(student)) = (teacher, student) {
                found.push((teacher, student));
            }
        }
        found
    }

    fn stage(&mut self, backbone: &'a BackboneDecl, expr: &Expr) -> Option<Ident> {
        let ExprKind::Name(name) = &expr.kind else {
            self.fail(
                Diagnostic::error(Code::WrongKind, "`at` takes stages").at(expr.span, "").hint(
                    "write `at = [s3]`, or `at = [s2 -> s3]` for the teacher's s2 and the student's s3",
                ),
            );
            return None;
        };
        let ident = Ident { name: name.clone(), span: expr.span };
        if Names::stages(backbone).any(|s| s.name == *name) {
            return Some(ident);
        }
        let candidates = self.diags.candidates(Names::stages(backbone).map(|s| s.name.as_str()));
        let error = no_part("stage", backbone, &ident, &candidates);
        self.fail(error);
        None
    }

    /// The values after two stages; `None` where a net could not be evaluated.
    fn features(&self, nets: &Nets<'a>, pair: Pair<'a>, from: &Ident, to: &Ident) -> Option<Features<'a>> {
        let end = |net: &str, stage: &Ident| {
            let (name, values) = nets.nets.get(net)?.parts.get_key_value(stage.name.as_str())?;
            values.last().map(|v| (*name, *v))
        };
        Some(Features { teacher: end(pair.teacher, from)?, student: end(pair.student, to)? })
    }

    /// Two paired features as messages show them; `None` where a net could not be evaluated.
    pub(crate) fn paired(nets: &Nets<'a>, pair: Pair<'a>, features: &Features<'a>) -> Option<Paired> {
        let side = |net: &str, (stage, value): (&str, Tensor)| {
            let net: &Net<'a> = nets.nets.get(net)?;
            let shape = &net.trace.steps[value.step].shape;
            let place = Names::stages(net.backbone).find(|s| s.name == stage).map_or(net.span, |s| s.span);
            Some((shape.dims().to_vec(), place, format!("{shape} after `{stage}` of `{}`", net.name)))
        };
        Some(Paired {
            teacher: side(pair.teacher, features.teacher)?,
            student: side(pair.student, features.student)?,
        })
    }

    /// Which stages of at least so many positions could be paired instead: pairs with one of the stages at hand first.
    fn of_one_resolution(nets: &Nets<'a>, pair: Pair<'a>, features: &Features<'a>, least: usize) -> String {
        let stages = |net: &str| {
            let net = nets.nets.get(net);
            let named = net.into_iter().flat_map(|net| Names::stages(net.backbone).map(move |s| (net, s)));
            let sized = named.filter_map(|(net, stage)| {
                let value = net.parts.get(stage.name.as_str())?.last()?;
                let dims = net.trace.steps[value.step].shape.dims();
                Some((stage.name.clone(), dims.get(1..)?.to_vec()))
            });
            sized.collect::<Vec<(String, Vec<usize>)>>()
        };
        let students = stages(pair.student);
        let mut pairs: Vec<(bool, String)> = Vec::new();
        for (from, size) in
            stages(pair.teacher).into_iter().filter(|(_, s)| s.iter().product::<usize>() >= least)
        {
            for (to, _) in students.iter().filter(|(_, s)| *s == size) {
                let far = from != features.teacher.0 && to != features.student.0;
                pairs.push((far, if from == *to { from.clone() } else { format!("{from} -> {to}") }));
            }
        }
        pairs.sort_by_key(|(far, _)| *far);
        let shown: Vec<String> = pairs.iter().take(4).map(|(_, p)| format!("`at = [{p}]`")).collect();
        if shown.is_empty() {
            return format!("no stages of `{}` and `{}` have one resolution", pair.teacher, pair.student);
        }
        format!("stages of one resolution are paired by {}", shown.join(", "))
    }

    fn check_maps(&mut self, nets: &Nets<'a>, pair: Pair<'a>, features: &Features<'a>, at: Span) -> bool {
        let Some(paired) = Self::paired(nets, pair, features) else { return false };
        let error = |code, message, at| paired.error(code, message, at);
        let d = match paired.shapes() {
            ([_, h, w], [_, y, x]) if (h, w) != (y, x) => {
                error(Code::ShapeMismatch, format!("`attention` between maps of {h}x{w} and {y}x{x}"), at)
                    .hint(Self::of_one_resolution(nets, pair, features, 2))
            }
            ([_, 1, 1], _) => error(Code::Pairing, "`attention` on a map of 1x1 teaches nothing".into(), at)
                .hint("pair an earlier stage, or use `hint`"),
            ([_, _, _], [_, _, _]) => return true,
            _ => error(Code::Pairing, "`attention` pairs maps [C,H,W]".into(), at),
        };
        self.fail(d);
        false
    }

    /// Whether the student's feature goes through an adapter; `None` where the features cannot be paired.
    fn check_hint(
        &mut self,
        nets: &Nets<'a>,
        pair: Pair<'a>,
        features: &Features<'a>,
        adapter: Adapter,
        at: Span,
    ) -> Option<bool> {
        let paired = Self::paired(nets, pair, features)?;
        let (a, b) = paired.shapes();
        let error = |code, message, at| paired.error(code, message, at);
        if a.len() != b.len() || a[1..] != b[1..] {
            let d = error(Code::ShapeMismatch, "`hint` between features of different resolution".into(), at);
            self.fail(d.hint(Self::of_one_resolution(nets, pair, features, 1)));
            return None;
        }
        let wanted = match adapter {
            Adapter::Always => true,
            Adapter::Never => false,
            Adapter::Auto => a[0] != b[0],
        };
        if !wanted && a[0] != b[0] {
            let message = format!("`hint` between {} and {} channels without an adapter", a[0], b[0]);
            let d = error(Code::ShapeMismatch, message, at).hint("leave `adapter = none` out");
            self.fail(d);
            return None;
        }
        if wanted && a.len() != 3 {
            let d = error(Code::Pairing, "a `hint` with an adapter pairs maps [C,H,W]".into(), at);
            self.fail(d);
            return None;
        }
        Some(wanted)
    }
}

/// Whether a `hint` puts a 1×1 convolution on the student's feature.
#[derive(Clone, Copy, Debug)]
enum Adapter {
    /// Where the channels differ.
    Auto,
    Always,
    Never,
}

/// Two paired features: (shape, place of the stage, words for it) of each.
pub(crate) struct Paired {
    teacher: (Vec<usize>, Span, String),
    student: (Vec<usize>, Span, String),
}

impl Paired {
    /// The shapes of the teacher's and the student's.
    pub(crate) fn shapes(&self) -> (&[usize], &[usize]) {
        (&self.teacher.0, &self.student.0)
    }

    /// An error that shows both shapes, each at its stage.
    pub(crate) fn error(&self, code: Code, message: String, at: Span) -> Diagnostic {
        let d = Diagnostic::error(code, message).at(at, "");
        let ((_, there, teacher), (_, here, student)) = (&self.teacher, &self.student);
        if there == here {
            d.with(*there, format!("{teacher}, {student}"))
        } else {
            d.with(*there, teacher.clone()).with(*here, student.clone())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table's second column for a term: `weight = 1, label_smoothing = 0`.
    fn documented(term: &str) -> Vec<String> {
        let text = include_str!("../../../docs/language.md");
        let row = text.lines().find_map(|line| line.strip_prefix(&format!("| `{term}` | `")));
        let params = row.and_then(|row| row.split('`').next()).expect("a row for each term");
        params.split(", ").map(|param| param.split(" = ").next().unwrap_or("").to_string()).collect()
    }

    #[test]
    fn arguments_stand_in_the_documented_order() {
        for term in terms() {
            let params: Vec<&str> = term.signature().params.iter().map(|param| param.0).collect();
            assert_eq!(documented(term.name), params, "`{}`", term.name);
        }
    }
}
