//! `phase NAME { … }`: what each phase of the training trains, by which losses, and for how long.

use crate::eval::Evaluator;
use crate::limits;
use crate::losses::Stated;
use crate::names::{NetDecl, again_order};
use crate::naming::Named;
use crate::nets::{Net, Nets};
use crate::order::Ordered;
use crate::settings::quoted;
use crate::terms::TermPlan;
use crate::value::Value;
use ddnnc_diag::{Code, Diagnostic, Span, did_you_mean};
use ddnnc_ir::{NetKind, Optimizer, Order, Recipe, Schedule};
use ddnnc_syntax::{Expr, ExprKind, Ident, Item, PhaseDecl, Setting};
use indexmap::{IndexMap, IndexSet};
use rustc_hash::{FxHashMap, FxHashSet};

/// What a phase can set.
pub(crate) const KEYS: &[&str] = &["epochs", "train", "freeze", "optimizer", "schedule"];

/// The weights that are not trained in a phase, by public name without `.weight` and `.bias`: those of networks that are
/// frozen in every phase are not among them.
pub(crate) type Frozen = FxHashSet<String>;

/// One phase; or the whole training, where a spec declares none.
pub(crate) struct PhasePlan<'a> {
    /// Its name; `None` where it is the whole training.
    pub(crate) name: Option<&'a Ident>,
    /// Passes over the training set.
    pub(crate) epochs: Option<usize>,
    /// The update rule, where it is not that of `train`.
    optimizer: Option<Optimizer>,
    /// The learning rate over time, where it is not that of `train`.
    schedule: Option<Schedule>,
    /// Which images an epoch has, where that is stated.
    pub(crate) order: Option<Ordered<'a>>,
    /// What it leaves as it is.
    pub(crate) frozen: Frozen,
    /// The nets of which nothing is trained.
    pub(crate) frozen_nets: IndexMap<&'a str, bool>,
    /// Its losses.
    pub(crate) terms: Vec<TermPlan<'a>>,
}

impl<'a> PhasePlan<'a> {
    /// The recipe of this phase.
    pub(crate) fn recipe(&self, mut recipe: Recipe) -> Recipe {
        recipe.epochs = self.epochs.unwrap_or(recipe.epochs);
        recipe.optimizer = self.optimizer.unwrap_or(recipe.optimizer);
        recipe.schedule = self.schedule.clone().unwrap_or(recipe.schedule);
        recipe.order = self.order.as_ref().map_or(Order::Shuffle, |ordered| ordered.order.clone());
        recipe
    }

    /// The nets that its losses read.
    pub(crate) fn nets(&self) -> FxHashSet<&'a str> {
        self.terms.iter().flat_map(|term| term.kind.nets()).collect()
    }
}

/// A name, and what of it is meant: `resnet.s1[0]` is `resnet` and (`s1`, `0`).
struct Path<'a> {
    name: Ident,
    parts: Vec<(String, Span)>,
    whole: &'a Expr,
}

impl<'a> Evaluator<'a> {
    /// The phases in order, one at least. `recipe` is that of `train`.
    pub(crate) fn phases(
        &mut self,
        nets: &Nets<'a>,
        named: &IndexMap<&'a str, Named>,
        recipe: Option<&Recipe>,
    ) -> Vec<PhasePlan<'a>> {
        let names = self.names;
        let always = self.frozen_nets(nets);
        if names.phases.is_empty() {
            let terms = self.terms(nets, &names.stated, &always, &FxHashSet::default());
            self.warn_untrained(&terms, &always);
            let plan = PhasePlan {
                name: None,
                epochs: None,
                optimizer: None,
                schedule: None,
                order: names.order.and_then(|order| self.order(order)),
                frozen: Frozen::default(),
                frozen_nets: always,
                terms,
            };
            let plans = vec![plan];
            self.warn_untrained_snapshots(nets, &plans);
            return plans;
        }
        if let Some((_, phase)) = names.phases.get_index(limits::PHASES) {
            self.exhaust(format!("more than {} phases", limits::PHASES), phase.name.span);
            return Vec::new();
        }
        let orders = |phase: &PhaseDecl| phase.items.iter().any(|item| matches!(item, Item::Order(_)));
        if let (Some(order), true) = (names.order, names.phases.values().all(|phase| orders(phase))) {
            self.order(order);
            self.diags.push(
                Diagnostic::warning(Code::Unused, "no phase has this order")
                    .at(order.keyword, "each states its own")
                    .hint("remove it"),
            );
        }
        let states = |phase: &PhaseDecl| {
            phase.items.iter().any(|item| matches!(item, Item::Supervise(_) | Item::Distill(_)))
        };
        if names.phases.values().all(|phase| states(phase)) {
            // Nothing comes of them, but what is wrong with them is told.
            self.terms(nets, &names.stated, &always, &FxHashSet::default());
            let spans = names.stated.supervises.iter().map(|d| d.span);
            for span in spans.chain(names.stated.distills.iter().map(|d| d.span)) {
                self.diags.push(
                    Diagnostic::warning(Code::Unused, "no phase has these losses")
                        .at(span, "each states its own")
                        .hint("move them into a phase, or remove them"),
                );
            }
        }
        let mut plans: Vec<PhasePlan<'a>> = Vec::with_capacity(names.phases.len());
        for phase in names.phases.values() {
            self.phase = Some(&phase.name.name);
            plans.push(self.one_phase(phase, states(phase), nets, named, &always, recipe));
            self.phase = None;
        }
        let (mut total, most) = (0usize, limits::EPOCHS as usize);
        for plan in &plans {
            total = total.saturating_add(plan.epochs.unwrap_or(0));
            if let (Some(name), true) = (plan.name, total > most) {
                let message = format!("the phases have more than {most} epochs together");
                self.diags.push(Diagnostic::error(Code::OutOfRange, message).at(name.span, "up to this one"));
                break;
            }
        }
        self.warn_untrained_snapshots(nets, &plans);
        let terms: Vec<TermPlan<'a>> = plans.iter().flat_map(|plan| plan.terms.iter().cloned()).collect();
        self.warn_untrained(&terms, &always);
        plans
    }

    fn one_phase(
        &mut self,
        phase: &'a PhaseDecl,
        states: bool,
        nets: &Nets<'a>,
        named: &IndexMap<&'a str, Named>,
        always: &IndexMap<&'a str, bool>,
        recipe: Option<&Recipe>,
    ) -> PhasePlan<'a> {
        let known = self.settings(&phase.settings, "a phase", KEYS);
        let get = |key: &str| known.get(key).copied();
        let misspelt = |s: &Setting| {
            !KEYS.contains(&s.key.name.as_str()) && did_you_mean(&s.key.name, ["epochs"]).is_some()
        };
        if !known.contains_key("epochs") && !phase.settings.iter().any(misspelt) {
            self.diags.push(
                Diagnostic::error(Code::Missing, format!("the phase `{}` has no `epochs`", phase.name.name))
                    .at(phase.name.span, "")
                    .hint("say how long it is: `epochs = 3`"),
            );
        }
        let epochs = self.int(get("epochs"), 1, 1, limits::EPOCHS);
        let optimizer = get("optimizer").and_then(|s| self.optimizer(&s.value));
        let schedule = get("schedule").and_then(|s| self.schedule(&s.value));
        self.warn_beyond(phase, get("schedule"), schedule.as_ref(), epochs, recipe);
        let frozen = self.frozen(get("train"), get("freeze"), nets, named);
        let mut frozen_nets = always.clone();
        for (name, bases) in weights(nets, named) {
            let whole = !bases.is_empty() && bases.iter().all(|base| frozen.contains(*base));
            if let Some(entry) = frozen_nets.get_mut(name) {
                *entry |= whole;
            }
        }
        let (mut stated, mut own_order) = (Stated::default(), None);
        for item in &phase.items {
            match item {
                Item::Supervise(d) => stated.supervises.push(d),
                Item::Distill(d) => stated.distills.push(d),
                Item::Order(d) => match own_order {
                    Some(first) => again_order(d, first, &mut self.diags),
                    None => own_order = Some(d),
                },
                // The grammar leaves nothing else.
                _ => {}
            }
        }
        let order = own_order.or(self.names.order).and_then(|order| self.order(order));
        let before = self.diags.errors();
        let whole = !nets.nets.is_empty() && nets.nets.keys().all(|net| frozen_nets.get(net) == Some(&true));
        if whole {
            let place = get("train").or(get("freeze")).map_or(phase.name.span, |s| s.span);
            self.diags.push(
                Diagnostic::error(Code::Conflict, "every parameter is frozen".to_string() + &self.in_phase())
                    .at(place, "")
                    .hint("leave something to train"),
            );
        }
        let stated = if states { &stated } else { &self.names.stated };
        let silent = nothing_of_their_own(&weights(nets, named), &frozen);
        let terms = self.terms(nets, stated, &frozen_nets, &silent);
        if terms.is_empty() && before == self.diags.errors() && !nets.nets.is_empty() {
            self.diags.push(
                Diagnostic::error(
                    Code::Missing,
                    format!("nothing is trained{}: no term of the loss has a weight", self.in_phase()),
                )
                .at(phase.name.span, "")
                .hint("a trained net has a cross-entropy of its own; `supervise` and `distill` add terms"),
            );
        }
        let epochs = epochs.and_then(|n| usize::try_from(n).ok());
        PhasePlan { name: Some(&phase.name), epochs, optimizer, schedule, order, frozen, frozen_nets, terms }
    }

    /// ` in the phase …`, while one is planned.
    pub(crate) fn in_phase(&self) -> String {
        self.phase.map_or(String::new(), |phase| format!(" in the phase `{phase}`"))
    }

    /// Warns of what the schedule of a phase, its own or that of `train`, plans for epochs that it does not have.
    fn warn_beyond(
        &mut self,
        phase: &'a PhaseDecl,
        setting: Option<&'a Setting>,
        own: Option<&Schedule>,
        epochs: Option<i64>,
        recipe: Option<&Recipe>,
    ) {
        let Some(epochs) = epochs.filter(|_| phase.settings.iter().any(|s| s.key.name == "epochs")) else {
            return;
        };
        let of_train = self.names.train.and_then(|d| d.settings.iter().find(|s| s.key.name == "schedule"));
        match (setting, own, recipe, of_train) {
            (Some(setting), Some(own), ..) => self.warn_unreached(own, epochs, setting.value.span),
            (None, _, Some(recipe), Some(of_train)) => {
                self.warn_unreached(&recipe.schedule, epochs, of_train.value.span);
            }
            _ => {}
        }
    }

    /// What `train` leaves out, or what `freeze` names.
    fn frozen(
        &mut self,
        train: Option<&'a Setting>,
        freeze: Option<&'a Setting>,
        nets: &Nets<'a>,
        named: &IndexMap<&'a str, Named>,
    ) -> Frozen {
        if let (Some(train), Some(freeze)) = (train, freeze) {
            let (first, second) =
                if train.span.start < freeze.span.start { (train, freeze) } else { (freeze, train) };
            self.diags.push(
                Diagnostic::error(Code::Conflict, format!("`train` and `freeze`{}", self.in_phase()))
                    .at(second.key.span, "")
                    .with(first.key.span, "")
                    .hint("what `train` does not name is frozen, what `freeze` does not name is trained: one is enough"),
            );
        }
        let mut frozen = Frozen::default();
        if let Some(freeze) = freeze {
            frozen.extend(self.covered(freeze, nets, named).unwrap_or_default());
        }
        if let Some(train) = train
            && let Some(trained) = self.covered(train, nets, named)
        {
            let all = weights(nets, named).into_values().flatten();
            frozen.extend(all.filter(|base| !trained.contains(*base)).map(String::from));
        }
        frozen
    }

    /// The weights that a setting names; `None` where something in it is wrong.
    fn covered(
        &mut self,
        setting: &'a Setting,
        nets: &Nets<'a>,
        named: &IndexMap<&'a str, Named>,
    ) -> Option<Frozen> {
        let key = &setting.key.name;
        let entries = match &setting.value.kind {
            ExprKind::List(items) => items.as_slice(),
            _ => std::slice::from_ref(&setting.value),
        };
        if entries.is_empty() {
            self.diags.push(
                Diagnostic::error(Code::Missing, format!("`{key}` names nothing"))
                    .at(setting.value.span, "")
                    .hint(format!(
                        "name nets or parts of them: `{key} = [teacher, resnet.s1]`; or remove it"
                    )),
            );
            return None;
        }
        if entries.len() > limits::PARTS {
            self.exhaust(format!("more than {} entries in `{key}`", limits::PARTS), setting.value.span);
            return None;
        }
        let mut found = Some(Frozen::default());
        for entry in entries {
            let one = self.path(entry, key).and_then(|path| self.weights_at(&path, key, nets, named));
            match (one, &mut found) {
                (Some(one), Some(all)) => all.extend(one),
                _ => found = None,
            }
        }
        found
    }

    fn path(&mut self, expr: &'a Expr, key: &str) -> Option<Path<'a>> {
        let mut parts = Vec::new();
        let mut at = expr;
        loop {
            at = match &at.kind {
                ExprKind::Name(name) => {
                    parts.reverse();
                    let name = Ident { name: name.clone(), span: at.span };
                    return Some(Path { name, parts, whole: expr });
                }
                ExprKind::Field { base, field } => {
                    parts.push((field.name.clone(), field.span));
                    base
                }
                ExprKind::Index { base, index } => {
                    match self.constant(index) {
                        Value::Int(i) if i >= 0 => parts.push((i.to_string(), index.span)),
                        Value::Poison => return None,
                        _ => {
                            self.fail(
                                Diagnostic::error(Code::WrongKind, "a block of a stage has a number from 0")
                                    .at(index.span, ""),
                            );
                            return None;
                        }
                    }
                    base
                }
                _ => {
                    self.fail(
                        Diagnostic::error(Code::WrongKind, format!("`{key}` takes nets and parts of them"))
                            .at(expr.span, "")
                            .hint("write the name of a net or a backbone, or a part: `resnet.s1`, `resnet.s1[0]`"),
                    );
                    return None;
                }
            }
        }
    }

    /// The weights of a net or a backbone that stand under a path.
    fn weights_at(
        &mut self,
        path: &Path<'a>,
        key: &str,
        nets: &Nets<'a>,
        named: &IndexMap<&'a str, Named>,
    ) -> Option<Frozen> {
        let names = self.names;
        let name = path.name.name.as_str();
        let meant: Vec<&Net<'a>> = if let Some(decl) = names.nets.get(name) {
            let net = nets.nets.get(name)?;
            if key == "train" && net.frozen {
                self.diags.push(
                    Diagnostic::error(
                        Code::Conflict,
                        format!("`{name}` is frozen: there is nothing to train"),
                    )
                    .at(path.name.span, "")
                    .with(decl.name().span, "frozen in every phase")
                    .hint("leave `frozen = true` out where phases say what is trained"),
                );
                return None;
            }
            vec![net]
        } else if names.backbones.contains_key(name) {
            let runs = |net: &&Net<'a>| net.kind != NetKind::Network && net.prefix == name;
            nets.nets.values().filter(runs).collect()
        } else {
            let candidates = self.diags.candidates(names.nets.keys().chain(names.backbones.keys()).copied());
            let error = names.unknown("a sub-net, an exit, a network or a backbone", &path.name, candidates);
            self.diags.push(error);
            return None;
        };
        if meant.is_empty() {
            self.no_sub_net(&path.name);
            return None;
        }
        // The words of each name behind the backbone's or network's, without marks.
        let mut reached: IndexMap<String, Vec<String>> = IndexMap::new();
        for net in meant {
            for base in bases(net, named.get(net.name)) {
                let words = base.strip_prefix(net.prefix).unwrap_or(base).trim_start_matches('.').split('.');
                let plain = words.map(|word| word.split('@').next().unwrap_or_default().to_string());
                reached.insert(base.to_string(), plain.collect());
            }
        }
        for (depth, (part, span)) in path.parts.iter().enumerate() {
            let there: IndexSet<String> =
                reached.values().filter_map(|words| words.get(depth).cloned()).collect();
            reached.retain(|_, words| words.get(depth) == Some(part));
            if reached.is_empty() {
                let message = format!("no parameter of `{name}` stands under `{part}`");
                let error = Diagnostic::error(Code::UnknownName, message).at(*span, "");
                let shown = there.iter().map(String::as_str);
                self.diags.push(match did_you_mean(part, self.diags.candidates(shown.clone())) {
                    Some(meant) => error.hint(format!("did you mean `{meant}`?")),
                    None if there.is_empty() => error,
                    None if there.len() == 1 => error.hint(format!("there is {}", quoted(shown))),
                    None => error.hint(format!("there are {}", quoted(shown.take(12)))),
                });
                return None;
            }
        }
        if reached.is_empty() {
            self.diags.push(
                Diagnostic::error(Code::UnknownName, format!("`{name}` has no parameters"))
                    .at(path.whole.span, ""),
            );
            return None;
        }
        Some(reached.into_keys().collect())
    }

    /// Says that a backbone has no parameters of its own.
    fn no_sub_net(&mut self, name: &Ident) {
        let names = self.names;
        let networks = names.nets.values().filter_map(|net| match net {
            NetDecl::Network(d) if d.of.backbone.name == name.name => Some(d.name.name.as_str()),
            NetDecl::Network(_) | NetDecl::Subnet(_) | NetDecl::Exit(_) => None,
        });
        let networks: Vec<&str> = networks.take(12).collect();
        let error =
            Diagnostic::error(Code::UnknownName, format!("no sub-net runs the backbone `{}`", name.name))
                .at(name.span, "so no parameter bears its name");
        self.diags.push(match networks.is_empty() {
            true => error,
            false => {
                error.hint(format!("networks have parameters of their own: {}", quoted(networks.into_iter())))
            }
        });
    }
}

/// The weights of a net by public name, without `.weight` and `.bias`.
fn bases<'n>(net: &Net<'_>, named: Option<&'n Named>) -> impl Iterator<Item = &'n str> {
    let live = net.live.clone();
    let names = named.into_iter().flat_map(|named| &named.names);
    names.zip(live).filter(|(_, live)| *live).filter_map(|(names, _)| Some(names.as_ref()?.weights.as_str()))
}

/// The nets that have weights which no other net has, and none of those is trained: what they give is not asked for.
fn nothing_of_their_own<'a>(weights: &IndexMap<&'a str, Vec<&str>>, frozen: &Frozen) -> FxHashSet<&'a str> {
    let mut nets_with: FxHashMap<&str, FxHashSet<&str>> = FxHashMap::default();
    for (net, bases) in weights {
        bases.iter().for_each(|base| _ = nets_with.entry(base).or_default().insert(net));
    }
    let silent = weights.iter().filter(|(_, bases)| {
        let mut own = bases.iter().filter(|base| nets_with[**base].len() == 1).peekable();
        own.peek().is_some() && own.all(|base| frozen.contains(*base))
    });
    silent.map(|(net, _)| *net).collect()
}

/// The weights of every net.
fn weights<'a, 'n>(
    nets: &'n Nets<'a>,
    named: &'n IndexMap<&'a str, Named>,
) -> IndexMap<&'a str, Vec<&'n str>> {
    nets.nets.values().map(|net| (net.name, bases(net, named.get(net.name)).collect())).collect()
}
