//! `order { … }`: which images an epoch has.

use crate::args::Range;
use crate::eval::Evaluator;
use crate::nets::Nets;
use crate::phases::PhasePlan;
use crate::signature::Fixed;
use ddnnc_diag::{Code, Diagnostic};
use ddnnc_ir::{Curriculum, Order, Pace};
use ddnnc_syntax::{Expr, ExprKind, Ident, SettingsDecl};

/// What an `order` can set.
const KEYS: &[&str] = &["by", "pace"];

/// Orders.
pub(crate) const ORDERS: &[(Fixed, By)] = &[
    (Fixed { name: "shuffle", params: &[] }, By::Shuffle),
    (Fixed { name: "difficulty", params: &["snapshot!", "mode"] }, By::Difficulty),
];

/// What an order's word means.
#[derive(Clone, Copy, Debug)]
pub(crate) enum By {
    /// No order but chance.
    Shuffle,
    /// The scores of a net.
    Difficulty,
}

/// How pools grow.
const PACES: &[(Fixed, ())] = &[(Fixed { name: "linear", params: &["from", "to"] }, ())];

/// An order that is stated, with the place of the net that scores.
pub(crate) struct Ordered<'a> {
    /// The order.
    pub(crate) order: Order,
    /// The net that scores, where its scores count.
    snapshot: Option<&'a Expr>,
}

impl<'a> Evaluator<'a> {
    /// What an `order` comes to; `None` where something in it is wrong.
    pub(crate) fn order(&mut self, decl: &'a SettingsDecl) -> Option<Ordered<'a>> {
        let known = self.settings(&decl.settings, "`order`", KEYS);
        let (by, pace) = (known.get("by").copied(), known.get("pace").copied());
        let meant = match by {
            None => Some((By::Shuffle, Vec::new())),
            Some(setting) => self.by(&setting.value),
        };
        let fractions = match pace {
            None => Some(Pace { from: 0.4, to: 1.0 }),
            Some(setting) => self.pace(&setting.value),
        };
        let (meant, args) = meant?;
        match meant {
            By::Shuffle => {
                if let Some(pace) = pace {
                    self.diags.push(
                        Diagnostic::error(Code::Conflict, "`pace` without an order by difficulty")
                            .at(pace.key.span, "")
                            .hint(
                                "say what is difficult: `by = difficulty(snapshot = small)`; or leave it out",
                            ),
                    );
                }
                Some(Ordered { order: Order::Shuffle, snapshot: None })
            }
            By::Difficulty => {
                let [snapshot, mode] = [0, 1].map(|i| args.get(i).copied().flatten());
                let mode = match mode {
                    None => Some(Curriculum::Curriculum),
                    Some(expr) => {
                        let words = [
                            ("curriculum", Curriculum::Curriculum),
                            ("anti_curriculum", Curriculum::AntiCurriculum),
                            ("random_curriculum", Curriculum::RandomCurriculum),
                        ];
                        self.word(expr, "mode of an order", &words)
                    }
                };
                let (place, name) = (snapshot?, self.snapshot(snapshot?));
                let (mode, pace) = (mode?, fractions?);
                let order = Order::Difficulty { snapshot: name?, mode, pace };
                Some(Ordered { order, snapshot: (mode != Curriculum::RandomCurriculum).then_some(place) })
            }
        }
    }

    /// The arguments are names, and so are not evaluated as values.
    fn by(&mut self, expr: &'a Expr) -> Option<(By, Vec<Option<&'a Expr>>)> {
        if let ExprKind::Call { callee, args } = &expr.kind
            && let Some((choice, by)) = ORDERS.iter().find(|(choice, _)| choice.name == callee.name)
        {
            return match choice.signature().bind(args, expr.span) {
                Ok(bound) => Some((*by, bound.args)),
                Err(errors) => {
                    errors.into_iter().for_each(|e| self.diags.push(e));
                    None
                }
            };
        }
        Some((self.choice(expr, "order", ORDERS)?.0, Vec::new()))
    }

    fn pace(&mut self, expr: &'a Expr) -> Option<Pace> {
        let ((), args) = self.choice(expr, "pace", PACES)?;
        let from = args.number("from", 0.4, Range::Fraction, &mut self.diags);
        let to = args.number("to", 1.0, Range::Fraction, &mut self.diags);
        let (from, to) = (from?, to?);
        if from > to {
            self.fail(
                Diagnostic::error(Code::OutOfRange, format!("the pace falls from {from} to {to}"))
                    .at(expr.span, "")
                    .hint(
                        "it is the part of the images in the first epoch and in the last: `linear(0.4, 1.0)`",
                    ),
            );
        }
        Some(Pace { from, to })
    }

    /// The name of the net that scores.
    fn snapshot(&mut self, expr: &'a Expr) -> Option<String> {
        let ExprKind::Name(name) = &expr.kind else {
            self.fail(
                Diagnostic::error(Code::WrongKind, "`snapshot` of `difficulty` takes a net")
                    .at(expr.span, ""),
            );
            return None;
        };
        let names = self.names;
        if names.nets.contains_key(name.as_str()) {
            return Some(name.clone());
        }
        let ident = Ident { name: name.clone(), span: expr.span };
        let candidates = self.diags.candidates(names.nets.keys().copied());
        let error = names.unknown("a sub-net, an exit or a network", &ident, candidates);
        self.diags.push(error);
        None
    }

    /// Warns of nets that score images before anything has trained them.
    pub(crate) fn warn_untrained_snapshots(&mut self, nets: &Nets<'a>, phases: &[PhasePlan<'a>]) {
        for (i, phase) in phases.iter().enumerate() {
            let Some(Ordered { order: Order::Difficulty { snapshot, .. }, snapshot: Some(place) }) =
                &phase.order
            else {
                continue;
            };
            let loaded = nets.nets.get(snapshot.as_str()).is_none_or(|net| net.load.is_some());
            let before = |phase: &PhasePlan<'a>| {
                phase.frozen_nets.get(snapshot.as_str()) == Some(&false)
                    && phase.nets().contains(snapshot.as_str())
            };
            if loaded || phases[..i].iter().any(before) {
                continue;
            }
            let begins =
                phase.name.map_or(String::new(), |name| format!(" when the phase `{}` begins", name.name));
            self.diags.push(
                Diagnostic::warning(Code::Conflict, format!("`{snapshot}` scores images, and nothing has trained it{begins}"))
                    .at(place.span, "its scores mean little")
                    .hint("let a phase before this one train it, or begin with trained weights (`load`, `--weights`)"),
            );
        }
    }
}
