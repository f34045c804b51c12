//! Every sub-net, exit and network evaluated into a trace of its own.

use crate::args::Given;
use crate::eval::{Env, Evaluator, Scope};
use crate::limits;
use crate::names::NetDecl;
use crate::operators;
use crate::plan::{Part, Plan, depth_span};
use crate::signature::{Signature, as_call};
use crate::trace::{Kind, Step, Trace};
use crate::value::{Tensor, Value};
use ddnnc_diag::{Code, Diagnostic, Span};
use ddnnc_ir::{NetKind, Shape};
use ddnnc_syntax::{BackboneDecl, ExitDecl, Expr, NetworkDecl};
use indexmap::IndexMap;
use std::rc::Rc;

/// A net with its operators.
#[derive(Clone, Debug)]
pub(crate) struct Net<'a> {
    /// Its name.
    pub(crate) name: &'a str,
    /// Where it is declared.
    pub(crate) span: Span,
    /// What it is.
    pub(crate) kind: NetKind,
    /// The backbone it runs.
    pub(crate) backbone: &'a BackboneDecl,
    /// What the public names of its weights start with.
    pub(crate) prefix: &'a str,
    /// The net that an exit leaves.
    pub(crate) parent: Option<&'a str>,
    /// The first step that is an exit's own; 0 for other nets.
    pub(crate) own_from: usize,
    /// Nothing of it is trained.
    pub(crate) frozen: bool,
    /// Where its weights come from.
    pub(crate) load: Option<String>,
    /// Its operators.
    pub(crate) trace: Trace,
    /// The step that makes its logits.
    pub(crate) logits: usize,
    /// Which steps the logits need.
    pub(crate) live: Vec<bool>,
    /// The value after each block of each part.
    pub(crate) parts: IndexMap<&'a str, Vec<Tensor>>,
    /// Blocks kept of each stage.
    pub(crate) stages: Vec<(&'a str, usize)>,
}

/// The nets that could be evaluated, in the order of declaration, and the full net of each backbone.
#[derive(Default)]
pub(crate) struct Nets<'a> {
    /// The nets by name.
    pub(crate) nets: IndexMap<&'a str, Net<'a>>,
    /// Backbone to full net.
    pub(crate) full: IndexMap<&'a str, &'a str>,
}

/// A sub-net or network before its evaluation.
struct Planned<'a> {
    decl: NetDecl<'a>,
    plan: Plan<'a>,
    depths: Vec<usize>,
}

impl<'a> Evaluator<'a> {
    /// The shape of one image.
    pub(crate) fn input_shape(&mut self) -> Option<Shape> {
        let ty = &self.names.input?.ty;
        let unsupported = |what: String| {
            Diagnostic::error(Code::Unsupported, format!("{what} is not supported yet"))
                .at(ty.span, "")
                .hint("an input is `f32[C, H, W]`")
        };
        if ty.kind.name != "f32" {
            self.diags.push(unsupported(format!("input of type `{}`", ty.kind.name)));
            return None;
        }
        if ty.dims.len() != 3 {
            self.diags.push(unsupported(format!("input of {} dimensions", ty.dims.len())));
            return None;
        }
        let mut dims = Vec::new();
        for dim in &ty.dims {
            let value = self.constant(dim);
            let given = Given { what: "an extent of the input".into(), value, span: dim.span };
            dims.extend(given.size(1, limits::EXTENT, &mut self.diags));
        }
        let shape = Shape::from(dims.as_slice());
        if shape.rank() < 3 {
            return None;
        }
        if shape.checked_elements().is_none() {
            self.exhaust(format!("an input of shape {shape} is too large"), ty.span);
            return None;
        }
        Some(shape)
    }

    /// The number of classes, with a check of the target's type.
    pub(crate) fn target_classes(&mut self) -> Option<usize> {
        let ty = &self.names.target?.ty;
        if ty.kind.name != "class" || ty.dims.len() != 1 {
            self.diags.push(
                Diagnostic::error(
                    Code::Unsupported,
                    format!("a target of type `{}` is not supported yet", ty.kind.name),
                )
                .at(ty.span, "")
                .hint("a target is `class[K]`"),
            );
            return None;
        }
        self.classes()
    }

    /// Evaluates all nets.
    pub(crate) fn nets(&mut self, input: Option<&Shape>, classes: Option<usize>) -> Nets<'a> {
        let names = self.names;
        let mut found = Nets::default();
        if let Some((_, net)) = names.nets.get_index(limits::NETS) {
            self.exhaust(format!("more than {} nets", limits::NETS), net.name().span);
            return found;
        }
        let mut planned = Vec::new();
        for net in names.nets.values() {
            let Some(instance) = net.instance() else { continue };
            if let Some(plan) = self.plan(instance)
                && let Some(depths) = self.depths(&plan, instance)
            {
                planned.push(Planned { decl: *net, plan, depths });
            }
        }
        self.families(&planned, &mut found.full);
        for item in &planned {
            let settings = match item.decl {
                NetDecl::Network(d) => self.network_settings(d),
                NetDecl::Subnet(_) | NetDecl::Exit(_) => (false, None),
            };
            if let Some(net) = self.net(item, settings, input, classes) {
                found.nets.insert(net.name, net);
            }
        }
        for net in names.nets.values() {
            if let NetDecl::Exit(exit) = net
                && let Some(net) = self.exit(exit, &found, classes)
            {
                found.nets.insert(net.name, net);
            }
        }
        found.nets.sort_by_cached_key(|name, _| names.nets.get_index_of(name));
        found
    }

    /// Checks that the sub-nets of each backbone nest in one of them.
    fn families(&mut self, planned: &[Planned<'a>], full: &mut IndexMap<&'a str, &'a str>) {
        let mut families: IndexMap<&'a str, Vec<&Planned<'a>>> = IndexMap::new();
        for item in planned {
            if matches!(item.decl, NetDecl::Subnet(_)) {
                families.entry(&item.plan.backbone.name.name).or_default().push(item);
            }
        }
        for (backbone, family) in families {
            let sum = |item: &Planned<'_>| item.depths.iter().sum::<usize>();
            let mut deepest = family[0];
            for item in &family[1..] {
                if sum(item) > sum(deepest) {
                    deepest = item;
                }
            }
            full.insert(backbone, &deepest.decl.name().name);
            for (i, item) in family.iter().enumerate() {
                let params = item.plan.backbone.params.len();
                let (name, place) = self.place(item);
                if let Some(first) =
                    family[..i].iter().find(|f| f.plan.vars[..params] != item.plan.vars[..params])
                {
                    let whole = |f: &Planned<'a>| f.decl.instance().map_or(f.decl.name().span, |i| i.span);
                    let (other, place, there) = (&first.decl.name().name, whole(item), whole(first));
                    self.diags.push(
                        Diagnostic::error(
                            Code::Conflict,
                            format!("`{name}` and `{other}` give `{backbone}` different arguments"),
                        )
                        .at(place, "")
                        .with(there, "")
                        .hint("sub-nets share weights, and so the arguments; a `network` has weights of its own"),
                    );
                } else if let Some(first) = family[..i].iter().find(|f| f.depths == item.depths) {
                    let (other, there) = self.place(first);
                    self.diags.push(
                        Diagnostic::error(
                            Code::Conflict,
                            format!("`{name}` and `{other}` are the same sub-net"),
                        )
                        .at(place, "")
                        .with(there, "this one has the same depths"),
                    );
                } else if item.depths.iter().zip(&deepest.depths).any(|(a, b)| a > b) {
                    let (other, there) = self.place(deepest);
                    self.diags.push(
                        Diagnostic::error(
                            Code::Depth,
                            format!("neither of `{name}` and `{other}` holds the other"),
                        )
                        .at(place, format!("{:?}", item.depths))
                        .with(there, format!("{:?}", deepest.depths))
                        .hint(format!(
                            "one sub-net of `{backbone}` must be at least as deep as every other in every stage"
                        )),
                    );
                }
            }
        }
    }

    fn place(&self, item: &Planned<'a>) -> (&'a str, Span) {
        let name = item.decl.name();
        (&name.name, item.decl.instance().map_or(name.span, depth_span))
    }

    fn network_settings(&mut self, decl: &'a NetworkDecl) -> (bool, Option<String>) {
        let known =
            self.settings(&decl.settings, &format!("network `{}`", decl.name.name), &["frozen", "load"]);
        let mut frozen = false;
        let mut load = None;
        for (key, setting) in known {
            let value = self.constant(&setting.value);
            let given = Given { what: format!("`{key}`"), value, span: setting.value.span };
            match key {
                "frozen" => frozen = given.flag(&mut self.diags).unwrap_or(false),
                _ => load = given.text(&mut self.diags),
            }
        }
        if frozen && load.is_none() && !decl.settings.iter().any(|s| s.key.name == "load") {
            self.diags.push(
                Diagnostic::warning(
                    Code::Missing,
                    format!("the frozen network `{}` loads no weights", decl.name.name),
                )
                .at(decl.name.span, "it keeps the weights it begins with")
                .hint("add `load = \"file.safetensors\"`"),
            );
        }
        (frozen, load)
    }

    fn net(
        &mut self,
        item: &Planned<'a>,
        (frozen, load): (bool, Option<String>),
        input: Option<&Shape>,
        classes: Option<usize>,
    ) -> Option<Net<'a>> {
        let name = item.decl.name();
        let place = self.names.input?.name.span;
        self.trace = Trace::default();
        let image = Step {
            kind: Kind::Image,
            operands: Vec::new(),
            shape: input?.clone(),
            path: Rc::from(""),
            span: place,
            head: false,
        };
        let Value::Tensor(mut x) = self.push(image) else { return None };
        let mut env = Env { vars: item.plan.vars.clone(), ..Env::default() };
        let mut parts = IndexMap::new();
        let mut stages = Vec::new();
        let mut depths = item.depths.iter();
        for part in &item.plan.parts {
            let kept = if part.stage { depths.next().copied().unwrap_or(0) } else { 1 };
            if part.stage {
                stages.push((part.name.name.as_str(), kept));
            }
            let mut values = Vec::with_capacity(kept);
            for (i, block) in part.blocks.iter().take(kept).enumerate() {
                x = self.part_block(part, i, block, &mut env, x)?;
                values.push(x);
            }
            parts.insert(part.name.name.as_str(), values);
        }
        let trace = std::mem::take(&mut self.trace);
        let head = item.plan.parts.last()?;
        self.check_logits(
            &trace,
            x,
            classes,
            head.blocks.first()?.span,
            &format!("the head of `{}`", item.plan.backbone.name.name),
        )?;
        let live = trace.live(x.step);
        let (kind, prefix) = match item.decl {
            NetDecl::Network(_) => (NetKind::Network, name.name.as_str()),
            NetDecl::Subnet(_) | NetDecl::Exit(_) => (NetKind::Subnet, item.plan.backbone.name.name.as_str()),
        };
        Some(Net {
            name: &name.name,
            span: name.span,
            kind,
            backbone: item.plan.backbone,
            prefix,
            parent: None,
            own_from: 0,
            frozen,
            load,
            trace,
            logits: x.step,
            live,
            parts,
            stages,
        })
    }

    /// One block of a stage, or a segment.
    fn part_block(
        &mut self,
        part: &Part<'a>,
        i: usize,
        block: &'a Expr,
        env: &mut Env<'a>,
        x: Tensor,
    ) -> Option<Tensor> {
        self.head = part.name.name == "head";
        env.input = Some(x);
        let name = &part.name.name;
        let path = if part.stage { format!("{name}.{i}") } else { name.clone() };
        // A block that is a stage's entry gives its operators the entry's own path.
        if part.stage
            && let Some((callee, _, args)) = as_call(block)
            && operators::find(callee).is_none()
            && !env.vars.iter().any(|(n, _)| *n == callee)
            && let Some(decl) = self.names.blocks.get(callee).copied()
        {
            let signature = Signature::of(&decl.name.name, &decl.params);
            let bound = signature.bind(args, block.span).ok()?;
            let args = self.args(&signature, &bound, env);
            return self.network_value(block, |ev| ev.instance(decl, args, block.span, path, x));
        }
        if part.stage && !self.count_block(block.span) {
            return None;
        }
        env.scope = Scope::new(path);
        self.network_value(block, |ev| ev.eval(block, env, Some(x)))
    }

    fn network_value(&mut self, expr: &Expr, run: impl FnOnce(&mut Self) -> Value) -> Option<Tensor> {
        match run(self) {
            Value::Tensor(t) => Some(t),
            Value::Poison => None,
            other => {
                self.fail(
                    Diagnostic::error(
                        Code::WrongKind,
                        format!("a block or an operator is wanted, not {}", other.kind()),
                    )
                    .at(expr.span, ""),
                );
                None
            }
        }
    }

    fn check_logits(
        &mut self,
        trace: &Trace,
        logits: Tensor,
        classes: Option<usize>,
        place: Span,
        what: &str,
    ) -> Option<()> {
        let classes = classes?;
        let shape = &trace.steps[logits.step].shape;
        if shape.dims() == [classes] {
            return Some(());
        }
        let mut d = Diagnostic::error(
            Code::ShapeMismatch,
            format!("{what} gives {shape}, and the logits are {}", Shape::from([classes])),
        )
        .at(place, "");
        if let Some(target) = self.names.target {
            d = d.with(target.ty.span, "the classes are stated here");
        }
        self.fail(
            d.hint("end it with `global_avg_pool |> linear(classes)`, or `flatten |> linear(classes)`"),
        );
        None
    }

    fn exit(&mut self, exit: &'a ExitDecl, found: &Nets<'a>, classes: Option<usize>) -> Option<Net<'a>> {
        let names = self.names;
        let parent_decl = match names.nets.get(exit.of.name.as_str()) {
            Some(NetDecl::Exit(_)) => {
                self.diags.push(
                    Diagnostic::error(Code::WrongKind, format!("`{}` is an exit itself", exit.of.name))
                        .at(exit.of.span, "a sub-net or a network is wanted here"),
                );
                return None;
            }
            Some(decl) => *decl,
            None => {
                let candidates = self.diags.candidates(names.nets.keys().copied());
                let error = names.unknown("a sub-net or a network", &exit.of, candidates);
                self.diags.push(error);
                return None;
            }
        };
        let backbone = names.backbone_of(parent_decl)?;
        let members: Vec<_> = crate::losses::parts(backbone).collect();
        if let Some(part) = members.iter().find(|m| m.name == exit.name.name) {
            crate::names::again(
                &format!("part `{}` of `{}`", part.name, backbone.name.name),
                &exit.name,
                part,
                &mut self.diags,
            );
            return None;
        }
        if !members.iter().any(|m| m.name == exit.after.name) {
            let candidates = self.diags.candidates(members.iter().map(|m| m.name.as_str()));
            let d = crate::losses::no_part("part", backbone, &exit.after, &candidates);
            self.diags.push(d);
            return None;
        }
        if exit.after.name == "head" {
            self.diags.push(
                Diagnostic::error(Code::Conflict, "an exit after the head")
                    .at(exit.after.span, "")
                    .hint("an exit leaves after a stage or a segment before the head"),
            );
            return None;
        }
        let parent = found.nets.get(exit.of.name.as_str())?;
        let values = parent.parts.get(exit.after.name.as_str())?;
        let at = match &exit.block {
            None => values.len().checked_sub(1)?,
            Some(expr) => {
                let value = self.constant(expr);
                let given =
                    Given { what: format!("the block of `{}`", exit.after.name), value, span: expr.span };
                given.size(0, limits::EXTENT, &mut self.diags)?
            }
        };
        let Some(&tap) = values.get(at) else {
            let blocks = crate::plan::count(values.len(), "block");
            self.diags.push(
                Diagnostic::error(
                    Code::Depth,
                    format!(
                        "no block {at} in `{}` of `{}`, which has {blocks}",
                        exit.after.name, parent.name
                    ),
                )
                .at(exit.block.as_ref().map_or(exit.after.span, |e| e.span), "blocks count from 0")
                .with(parent.span, "declared here"),
            );
            return None;
        };
        let own_from = tap.step + 1;
        self.operators = self.operators.saturating_add(own_from);
        if self.operators > limits::OPERATORS {
            self.exhaust(format!("more than {} operators", limits::OPERATORS), exit.span);
            return None;
        }
        self.trace = Trace { steps: parent.trace.steps[..own_from].to_vec() };
        self.head = false;
        let mut env = Env { scope: Scope::new(&exit.name.name), input: Some(tap), ..Env::default() };
        let x = self.network_value(&exit.head, |ev| ev.eval(&exit.head, &mut env, Some(tap)))?;
        let trace = std::mem::take(&mut self.trace);
        self.check_logits(&trace, x, classes, exit.head.span, &format!("the exit `{}`", exit.name.name))?;
        let live = trace.live(x.step);
        Some(Net {
            name: &exit.name.name,
            span: exit.name.span,
            kind: NetKind::Exit,
            backbone,
            prefix: parent.prefix,
            parent: Some(parent.name),
            own_from,
            frozen: parent.frozen,
            load: parent.load.clone(),
            trace,
            logits: x.step,
            live,
            parts: IndexMap::new(),
            stages: Vec::new(),
        })
    }
}
