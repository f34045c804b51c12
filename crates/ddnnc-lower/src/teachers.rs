//! Who teaches in a `distill`: one net, or a set of nets that teach as one.

use crate::args::Range;
use crate::eval::{Env, Evaluator};
use crate::limits;
use crate::names::{Names, NetDecl};
use crate::nets::Nets;
use crate::settings::quoted;
use crate::signature::Fixed;
use crate::terms::{Ensemble, TermKind, TermPlan, Weights};
use ddnnc_diag::{Code, Diagnostic, Span, did_you_mean};
use ddnnc_ir::Weight;
use ddnnc_syntax::{Arg, Expr, ExprKind, Ident};
use std::rc::Rc;

/// The words for sets of teachers, with their parameters besides the nets.
pub(crate) const SETS: &[(Fixed, SetKind)] = &[
    (Fixed { name: "mean", params: &[] }, SetKind::Mean),
    (Fixed { name: "gated", params: &["weight"] }, SetKind::Gated),
    (Fixed { name: "adaptive", params: &["penalty"] }, SetKind::Adaptive),
];

/// What the word for a set means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SetKind {
    /// Every teacher counts the same.
    Mean,
    /// A gate on the teachers' features mixes their logits (ONE, Lan et al. 2018).
    Gated,
    /// Trained weights that depend on the student's feature mix their probabilities (AMTML-KD, Liu et al. 2020).
    Adaptive,
}

/// A set of teachers as it is written.
#[derive(Clone, Debug)]
pub(crate) struct Set<'a> {
    kind: SetKind,
    /// Two or more, in the order of declaration: a set has one name, however it is written.
    teachers: Vec<&'a str>,
    /// The weight of the gate's cross-entropy, or of the penalty.
    weight: f64,
}

impl Set<'_> {
    /// What the names of its terms have in the teacher's place.
    fn name(&self) -> String {
        let word = SETS.iter().find(|(_, kind)| *kind == self.kind).map_or("", |(fixed, _)| fixed.name);
        format!("{word}.{}", self.teachers.join("."))
    }
}

/// One net that teaches, or several.
#[derive(Clone, Debug)]
pub(crate) enum Teacher<'a> {
    /// A sub-net, an exit or a network.
    One(&'a str),
    /// Several of them.
    Set(Rc<Set<'a>>),
}

/// The `kl` of a set as it is written.
pub(crate) struct SetLesson {
    /// Its weight.
    pub(crate) weight: Weight,
    /// T
    pub(crate) temperature: f64,
    /// Whether the gradient stops before the teachers.
    pub(crate) detach: bool,
    /// Where it is written.
    pub(crate) span: Span,
}

const TEACHER: &str = "a teacher is the name of a sub-net, an exit or a network";

impl<'a> Evaluator<'a> {
    /// The teacher of a `distill`, and its place.
    pub(crate) fn teacher(&mut self, expr: &'a Expr) -> Option<(Teacher<'a>, Span)> {
        match &expr.kind {
            ExprKind::Name(name) => {
                let set = SETS.iter().find(|(fixed, _)| fixed.name == name);
                if let Some((fixed, _)) = set
                    && !self.names.all.contains_key(name.as_str())
                {
                    let message = format!("`{name}` is of two nets or more");
                    let hint = format!("name its nets: `{}(NET, NET)`", fixed.name);
                    self.diags.push(Diagnostic::error(Code::Arguments, message).at(expr.span, "").hint(hint));
                    return None;
                }
                Some((Teacher::One(self.teaching_net(name, expr.span)?), expr.span))
            }
            ExprKind::Call { callee, args } => {
                match SETS.iter().find(|(fixed, _)| fixed.name == callee.name) {
                    Some((fixed, kind)) => {
                        let set = self.set(*fixed, *kind, args, expr.span)?;
                        Some((Teacher::Set(Rc::new(set)), expr.span))
                    }
                    None => {
                        let message = format!("no set of teachers `{}`", callee.name);
                        let error = Diagnostic::error(Code::UnknownName, message).at(callee.span, "");
                        let words = || SETS.iter().map(|(fixed, _)| fixed.name);
                        self.diags.push(match did_you_mean(&callee.name, words()) {
                            Some(meant) => error.hint(format!("did you mean `{meant}`?")),
                            None => error.hint(format!("{TEACHER}; the sets are {}", quoted(words()))),
                        });
                        None
                    }
                }
            }
            _ => {
                self.diags.push(Diagnostic::error(Code::WrongKind, TEACHER).at(expr.span, ""));
                None
            }
        }
    }

    fn teaching_net(&mut self, name: &str, span: Span) -> Option<&'a str> {
        let names: &'a Names<'a> = self.names;
        if let Some((known, _)) = names.nets.get_key_value(name) {
            return Some(known);
        }
        let ident = Ident { name: name.to_string(), span };
        let candidates = self.diags.candidates(names.nets.keys().copied());
        let error = names.unknown("a sub-net, an exit or a network", &ident, candidates);
        self.diags.push(error);
        None
    }

    fn set(&mut self, fixed: Fixed, kind: SetKind, args: &'a [Arg], span: Span) -> Option<Set<'a>> {
        let count = args.iter().take_while(|arg| arg.name.is_none()).count();
        let (nets, settings) = args.split_at(count);
        if count > limits::TEACHERS {
            self.exhaust(format!("more than {} teachers in a set", limits::TEACHERS), span);
            return None;
        }
        let mut teachers: Vec<(&'a str, Span)> = Vec::new();
        let mut sound = true;
        for arg in nets {
            let net = self.net_of_set(&arg.value);
            let Some(net) = net else {
                sound = false;
                continue;
            };
            match teachers.iter().find(|(known, _)| *known == net) {
                Some((_, first)) => {
                    self.diags.push(
                        Diagnostic::error(Code::Conflict, format!("the teacher `{net}` is named twice"))
                            .at(arg.value.span, "again here")
                            .with(*first, "first here"),
                    );
                    sound = false;
                }
                None => teachers.push((net, arg.value.span)),
            }
        }
        let word = fixed.name;
        if args.iter().filter(|arg| arg.name.is_none()).count() < 2 {
            let error =
                Diagnostic::error(Code::Arguments, format!("`{word}` is of two nets or more")).at(span, "");
            self.diags.push(match nets {
                [one] if matches!(one.value.kind, ExprKind::Name(_)) => {
                    error.hint("one teacher stands alone: `distill TEACHER -> STUDENT`")
                }
                _ => error.hint(format!("name its nets: `{word}(NET, NET)`")),
            });
            sound = false;
        }
        let signature = fixed.signature();
        let weight = match signature.bind(settings, span) {
            Ok(bound) => {
                let args = self.args(&signature, &bound, &mut Env::default());
                match kind {
                    SetKind::Mean => Some(0.0),
                    SetKind::Gated => args.number("weight", 1.0, Range::Positive, &mut self.diags),
                    SetKind::Adaptive => args.number("penalty", 0.1, Range::NotNegative, &mut self.diags),
                }
            }
            Err(errors) => {
                errors.into_iter().for_each(|e| self.diags.push(e));
                None
            }
        };
        let mut teachers: Vec<&'a str> = teachers.into_iter().map(|(net, _)| net).collect();
        teachers.sort_by_cached_key(|net| self.names.nets.get_index_of(*net));
        Some(Set { kind, teachers, weight: weight? }).filter(|_| sound)
    }

    fn net_of_set(&mut self, expr: &'a Expr) -> Option<&'a str> {
        match &expr.kind {
            ExprKind::Name(name) => self.teaching_net(name, expr.span),
            ExprKind::Call { callee, .. } if SETS.iter().any(|(fixed, _)| fixed.name == callee.name) => {
                self.diags.push(
                    Diagnostic::error(Code::WrongKind, "a set of teachers within a set")
                        .at(expr.span, "")
                        .hint("name all its nets in one set"),
                );
                None
            }
            _ => {
                self.diags.push(Diagnostic::error(Code::WrongKind, TEACHER).at(expr.span, ""));
                None
            }
        }
    }

    /// Whether a student cannot learn from a teacher, as it teaches itself; says so.
    pub(crate) fn teaches_itself(&mut self, teacher: &Teacher<'a>, at: Span, student: &Ident) -> bool {
        let name = student.name.as_str();
        let error =
            Diagnostic::error(Code::Pairing, format!("`{name}` cannot teach itself")).at(student.span, "");
        match teacher {
            Teacher::One(teacher) if *teacher == name => self.diags.push(error.with(at, "the teacher")),
            // What a gate mixes is trained by the label: its students are in the set (ONE).
            Teacher::Set(set) if set.kind != SetKind::Gated && set.teachers.contains(&name) => {
                self.diags.push(
                    error
                        .with(at, "its teachers")
                        .hint("take it out of the set; of `gated` alone a student may be a teacher too"),
                )
            }
            Teacher::One(_) | Teacher::Set(_) => return false,
        }
        true
    }

    /// Says that a term has no meaning between a set and a student.
    pub(crate) fn not_of_a_set(&mut self, term: &str, at: Span) {
        self.diags.push(
            Diagnostic::error(Code::Pairing, format!("`{term}` is of one teacher, and this is a set"))
                .at(at, "")
                .hint(format!(
                    "a set teaches by `kl`; write one `distill` for each teacher with its `{term}`"
                )),
        );
    }

    /// The terms by which a set teaches its students: the `kl` of each, and what trains or holds the weights of the set.
    pub(crate) fn set_terms(
        &mut self,
        nets: &Nets<'a>,
        set: &Set<'a>,
        students: &[&'a str],
        lesson: &SetLesson,
        terms: &mut Vec<TermPlan<'a>>,
    ) {
        let of_set = set.name();
        let SetLesson { weight, temperature, detach, span } = *lesson;
        let ensemble = |weights| Rc::new(Ensemble { teachers: set.teachers.clone(), detach, weights });
        let used = weight != Weight::Constant(0.0) && !students.is_empty();
        let gate = match set.kind {
            SetKind::Gated => {
                let features: Option<Vec<usize>> = set
                    .teachers
                    .iter()
                    .map(|teacher| self.last_stage(nets, teacher, "gated", span))
                    .collect();
                let Some(features) = features else { return };
                let name = format!("ce.{of_set}");
                let gate = ensemble(Weights::Gate { features, path: name.clone() });
                if used {
                    let kind = TermKind::Gate { ensemble: gate.clone() };
                    terms.push(TermPlan { name, weight: Weight::Constant(set.weight), span, kind });
                }
                Some(gate)
            }
            SetKind::Mean | SetKind::Adaptive => None,
        };
        for student in students {
            if terms.len() > limits::TERMS {
                self.exhaust(format!("more than {} terms in the loss", limits::TERMS), span);
                return;
            }
            // A bound on what the terms of a set compute, as on what nets do.
            self.operators = self.operators.saturating_add(4 * set.teachers.len());
            if self.operators > limits::OPERATORS {
                self.exhaust(format!("more than {} operators", limits::OPERATORS), span);
                return;
            }
            let name = format!("kl.{of_set}.{student}");
            let mut penalty = None;
            let ensemble = match (&gate, set.kind) {
                (Some(gate), _) => gate.clone(),
                (None, SetKind::Adaptive) => {
                    let Some(feature) = self.last_stage(nets, student, "adaptive", span) else { continue };
                    if used {
                        penalty = Some(TermPlan {
                            name: format!("penalty.{of_set}.{student}"),
                            weight: Weight::Constant(set.weight),
                            span,
                            kind: TermKind::Penalty { path: name.clone(), student },
                        });
                    }
                    ensemble(Weights::Adaptive { feature, path: name.clone() })
                }
                (None, SetKind::Mean | SetKind::Gated) => ensemble(Weights::Equal),
            };
            let kind = TermKind::Ensemble { ensemble, student, temperature };
            terms.push(TermPlan { name, weight, span, kind });
            terms.extend(penalty);
        }
    }

    /// The step that gives the value after a net's last stage, of an exit the one at which it leaves its net; `None` where
    /// there is none, with a message, or where the net could not be evaluated.
    fn last_stage(&mut self, nets: &Nets<'a>, name: &str, word: &str, at: Span) -> Option<usize> {
        let decl = self.names.nets[name];
        let net = nets.nets.get(name)?;
        if let NetDecl::Exit(_) = decl {
            return net.own_from.checked_sub(1);
        }
        let Some(stage) = Names::stages(net.backbone).last() else {
            let message = format!("`{word}` looks at the last stage of `{name}`, which has none");
            let place = decl.name().span;
            self.diags
                .push(Diagnostic::error(Code::Pairing, message).at(at, "").with(place, "declared here"));
            return None;
        };
        net.parts.get(stage.name.as_str())?.last().map(|value| value.step)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_are_documented_with_their_parameters() {
        let text = include_str!("../../../docs/language.md");
        for (fixed, _) in SETS {
            let row = format!("| `{}(net, net, …)` |", fixed.name);
            let params = text.lines().find_map(|line| line.strip_prefix(&row)).expect("a row for each set");
            let params = params.split('|').next().unwrap_or("").trim().trim_matches('`');
            let params: Vec<&str> = params.split(", ").filter_map(|p| p.split(" = ").next()).collect();
            let wanted = if fixed.params.is_empty() { &[""] } else { fixed.params };
            assert_eq!(params, wanted, "`{}`", fixed.name);
        }
    }
}
