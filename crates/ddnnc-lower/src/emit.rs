//! Traces and terms to the graph and the tables of the model.

use crate::diags::Diags;
use crate::naming::{Named, WeightNames};
use crate::nets::{Net, Nets};
use crate::phases::{Frozen, PhasePlan};
use crate::relations::check_batch;
use crate::terms::{Features, Map, Pair, Relation, TermKind, TermPlan};
use crate::trace::Kind;
use ddnnc_diag::{Code, Diagnostic, Span};
use ddnnc_ir::{
    BinaryKind, Conv, Graph, Init, IrError, Layout, Mode, Model, Op, Origin, Pairing, Parameter, ReduceKind,
    Shape, State, Term, Value, ValueType, Weight, reach_trained,
};
use ddnnc_syntax::Ident;
use indexmap::IndexMap;
use rustc_hash::{FxHashMap, FxHashSet};
use std::sync::Arc;

/// A running statistic in the course of the step: its newest value and the batches that went into it.
struct Running {
    value: Value,
    seen: FxHashSet<u32>,
}

/// The graph being built, with its tables.
pub(crate) struct Emitter<'e> {
    model: &'e mut Model,
    diags: &'e mut Diags,
    sources: FxHashMap<String, Value>,
    running: IndexMap<String, Running>,
    /// The value of each step of each net.
    values: FxHashMap<String, Vec<Option<Value>>>,
    /// The weights that the phase at hand leaves as they are.
    frozen: Frozen,
    /// The nets that the phase at hand trains or learns from; `None` where all are computed.
    computed: Option<FxHashSet<String>>,
    /// Where the operator at hand is written.
    span: Span,
    origin: Origin,
}

pub(crate) type Emit<T> = Result<T, IrError>;

impl<'e> Emitter<'e> {
    /// An emitter for an empty model.
    pub(crate) fn new(model: &'e mut Model, diags: &'e mut Diags) -> Emitter<'e> {
        Emitter {
            model,
            diags,
            sources: FxHashMap::default(),
            running: IndexMap::new(),
            values: FxHashMap::default(),
            frozen: Frozen::default(),
            computed: None,
            span: Span::default(),
            origin: Origin::default(),
        }
    }

    /// Emits everything; what goes wrong is a diagnostic at the place of the operator.
    pub(crate) fn emit(mut self, nets: &Nets<'_>, named: &IndexMap<&str, Named>, phases: &[PhasePlan<'_>]) {
        if let Err(error) = self.all(nets, named, phases) {
            let code = match error {
                IrError::TooLarge { .. } => Code::TooLarge,
                _ => Code::BadShape,
            };
            self.diags.push_once(Diagnostic::error(code, error.to_string()).at(self.span, ""));
        }
    }

    fn all(&mut self, nets: &Nets<'_>, named: &IndexMap<&str, Named>, phases: &[PhasePlan<'_>]) -> Emit<()> {
        let at = self.model.phase;
        if let Some(phase) = phases.get(at) {
            self.frozen.clone_from(&phase.frozen);
            if phase.name.is_some() && self.model.mode == Mode::Train {
                self.computed = Some(phase.nets().into_iter().map(String::from).collect());
            }
        }
        let empty = Named::default();
        for net in nets.nets.values() {
            let frozen = phases.get(at).and_then(|phase| phase.frozen_nets.get(net.name)) == Some(&true);
            self.net(net, named.get(net.name).unwrap_or(&empty), frozen)?;
        }
        for (name, running) in std::mem::take(&mut self.running) {
            self.origin = Origin::new(&name, &[]);
            self.add_sink(Op::Store { name }, running.value)?;
        }
        for (i, phase) in phases.iter().enumerate() {
            if i == at {
                self.losses(nets, &phase.terms)?;
            } else {
                self.parameters_of(nets, &phase.terms)?;
            }
        }
        if let Some(PhasePlan { name: Some(name), .. }) = phases.get(at) {
            self.leave_computed()?;
            self.check_reach(name, &phases[at].terms)?;
        }
        Ok(())
    }

    /// Enters the parameters that the terms of another phase have for themselves, so that the table is that of all phases.
    fn parameters_of(&mut self, nets: &Nets<'_>, terms: &[TermPlan<'_>]) -> Emit<()> {
        let pairings = self.model.pairings.len();
        for term in terms {
            self.span = term.span;
            // What it computes is removed again: nothing reads it.
            self.term(nets, term)?;
        }
        self.model.pairings.truncate(pairings);
        Ok(())
    }

    /// Removes the logits that the phase does not need, and what nothing reads.
    fn leave_computed(&mut self) -> Emit<()> {
        let computed = self.computed.take();
        self.model.keep_sinks(|op| match (op, &computed) {
            (Op::Output { name }, Some(computed)) => {
                name.strip_prefix("logits.").is_none_or(|net| computed.contains(net))
            }
            _ => true,
        })
    }

    /// Says which terms of a phase train nothing.
    fn check_reach(&mut self, phase: &Ident, terms: &[TermPlan<'_>]) -> Emit<()> {
        let outputs = terms.iter().map(|term| self.graph().output(&format!("loss.{}", term.name)));
        let values: Vec<Value> = outputs.collect::<Option<_>>().unwrap_or_default();
        let reach = reach_trained(self.graph(), &values)?;
        if !reach.contains(&true) {
            let message = format!("no term of the loss reaches what the phase `{}` trains", phase.name);
            let hint = "train a part that leads to the logits or features of its losses";
            self.diags.push(Diagnostic::error(Code::Conflict, message).at(phase.span, "").hint(hint));
            return Ok(());
        }
        for (term, _) in terms.iter().zip(reach).filter(|(_, reaches)| !reaches) {
            let message = format!("`{}` reaches nothing that the phase `{}` trains", term.name, phase.name);
            self.diags
                .push(Diagnostic::warning(Code::Unused, message).at(term.span, "").with(phase.span, ""));
        }
        Ok(())
    }

    pub(crate) fn add(&mut self, op: Op, operands: &[Value]) -> Emit<Value> {
        self.model.graph.add1(op, operands, self.origin.clone())
    }

    /// Adds operators of a term that work on one net's value alone, and may be the same as that net's own.
    pub(crate) fn on_net(&mut self, net: &str, add: impl FnOnce(&mut Self) -> Emit<Value>) -> Emit<Value> {
        let own = Origin::new(&self.origin.path, &[Arc::from(net)]);
        let of_term = std::mem::replace(&mut self.origin, own);
        let made = add(self);
        self.origin = of_term;
        made
    }

    fn add_sink(&mut self, op: Op, value: Value) -> Emit<()> {
        self.model.graph.add(op, &[value], self.origin.clone()).map(|_| ())
    }

    fn source(&mut self, op: Op, name: &str, ty: ValueType) -> Emit<Value> {
        if let Some(value) = self.sources.get(name) {
            return Ok(*value);
        }
        let value = self.model.graph.add_source(op, ty, Origin::new(name, &[]))?;
        self.sources.insert(name.to_string(), value);
        Ok(value)
    }

    /// A source that is there already.
    pub(crate) fn known(&self, name: &str) -> Option<Value> {
        self.sources.get(name).copied()
    }

    fn input(&mut self, name: &str, ty: ValueType) -> Emit<Value> {
        self.source(Op::Input { name: name.to_string() }, name, ty)
    }

    fn label(&mut self) -> Emit<Value> {
        let name = self.model.target.0.clone();
        self.input(&name, ValueType::i64([self.model.batch]))
    }

    pub(crate) fn graph(&self) -> &Graph {
        &self.model.graph
    }

    /// The shape of a value of one sample in the batch.
    pub(crate) fn batched(&self, sample: &Shape) -> Shape {
        let mut dims = vec![self.model.batch];
        dims.extend_from_slice(sample.dims());
        Shape::from(dims.as_slice())
    }

    fn net(&mut self, net: &Net<'_>, named: &Named, frozen: bool) -> Emit<()> {
        let mut entry = ddnnc_ir::Net {
            name: net.name.to_string(),
            kind: net.kind,
            parameters: Vec::new(),
            states: Vec::new(),
            parameter_count: 0,
            macs: 0,
            depth: net.trace.depth(net.logits),
            frozen,
            stages: net.stages.iter().map(|(name, n)| ((*name).to_string(), *n)).collect(),
        };
        let own: Arc<str> = Arc::from(net.name);
        let still = self.still_parts(net, named, frozen);
        let mut values: Vec<Option<Value>> = vec![None; net.trace.steps.len()];
        for (i, step) in net.trace.steps.iter().enumerate() {
            if !net.live[i] {
                continue;
            }
            self.span = step.span;
            self.origin = Origin::new(&format!("{}.{}", net.prefix, step.path), std::slice::from_ref(&own));
            let operands: Vec<Value> = step.operands.iter().filter_map(|&o| values[o]).collect();
            let names = named.names.get(i).and_then(Option::as_ref);
            values[i] = Some(match (&step.kind, operands.as_slice()) {
                (Kind::Dropout { .. }, &[x]) if still.contains(part_of(&step.path)) => x,
                _ => self.step(net, i, &operands, names, named, &mut entry)?,
            });
        }
        if let Some(logits) = values[net.logits] {
            self.origin = Origin::new(&format!("{}.logits", net.name), std::slice::from_ref(&own));
            self.add_sink(Op::Output { name: format!("logits.{}", net.name) }, logits)?;
        }
        entry.parameter_count = entry
            .parameters
            .iter()
            .filter_map(|name| self.model.parameters.get(name))
            .map(|p| p.shape.elements() as u64)
            .sum();
        self.model.nets.push(entry);
        self.values.insert(net.name.to_string(), values);
        Ok(())
    }

    /// The parts of a net in which nothing drops out: all weights of such a part are frozen; of one without weights, all of
    /// the net.
    fn still_parts<'n>(&self, net: &'n Net<'_>, named: &Named, frozen: bool) -> FxHashSet<&'n str> {
        let mut trained: IndexMap<&'n str, bool> = IndexMap::new();
        for (i, step) in net.trace.steps.iter().enumerate() {
            let weights = named.names.get(i).and_then(Option::as_ref);
            let part = part_of(&step.path);
            if let Some(weights) = weights.filter(|_| net.live[i]) {
                *trained.entry(part).or_insert(false) |=
                    !net.frozen && !self.frozen.contains(&weights.weights);
            }
        }
        for step in net.trace.steps.iter().filter(|step| matches!(step.kind, Kind::Dropout { .. })) {
            trained.entry(part_of(&step.path)).or_insert(!frozen);
        }
        trained.into_iter().filter(|(_, trained)| !trained).map(|(part, _)| part).collect()
    }

    fn step(
        &mut self,
        net: &Net<'_>,
        i: usize,
        operands: &[Value],
        names: Option<&WeightNames>,
        named: &Named,
        entry: &mut ddnnc_ir::Net,
    ) -> Emit<Value> {
        let step = &net.trace.steps[i];
        let shape = self.batched(&step.shape);
        Ok(match (&step.kind, operands) {
            (Kind::Image, _) => {
                let name = self.model.input.0.clone();
                self.input(&name, ValueType::f32(shape))?
            }
            (Kind::Conv { conv, kernel, bias }, &[x]) => {
                let weight_shape = net.trace.weight_shape(i).unwrap_or_default();
                let fan_out = (weight_shape.dims()[0] * kernel[0] * kernel[1]) as f64;
                let fan_in: usize = weight_shape.dims()[1..].iter().product();
                entry.macs =
                    entry.macs.saturating_add((step.shape.elements() as u64).saturating_mul(fan_in as u64));
                // He et al. 2015, fan_out as PyTorch counts it (groups do not enter).
                let init = Init::Normal { std: (2.0 / fan_out).sqrt() };
                let w = self.weight(net, names, "weight", weight_shape, init, entry)?;
                let y = self.add(Op::Conv2d(*conv), &[x, w])?;
                self.bias(net, names, *bias, step.shape.dims()[0], fan_in, y, entry)?
            }
            (Kind::Linear { bias }, &[x]) => {
                let weight_shape = net.trace.weight_shape(i).unwrap_or_default();
                let fan_in = weight_shape.dims()[1];
                entry.macs = entry.macs.saturating_add(weight_shape.elements() as u64);
                let init = Init::Uniform { bound: 1.0 / (fan_in as f64).sqrt() };
                let w = self.weight(net, names, "weight", weight_shape, init, entry)?;
                let y = self.add(Op::MatMul { transpose_a: false, transpose_b: true }, &[x, w])?;
                self.bias(net, names, *bias, step.shape.dims()[0], fan_in, y, entry)?
            }
            (Kind::Lstm(lstm), &[x]) => self.lstm(net, i, names, *lstm, x, entry)?,
            (Kind::Norm { eps, momentum }, &[x]) => {
                let number = step.operands.first().and_then(|&o| named.numbers.get(o)).copied().unwrap_or(0);
                self.norm(net, i, names, (*eps, *momentum), (x, number), entry)?
            }
            (Kind::Dropout { p }, &[x]) => {
                if self.model.mode == Mode::Eval || *p == 0.0 {
                    return Ok(x);
                }
                let rng = self.input("rng", ValueType::i64([2]))?;
                let site = fnv1a(&format!("{}.{}", net.prefix, step.path));
                self.add(Op::Dropout { p: *p, site }, &[x, rng])?
            }
            (Kind::Unary(kind), xs) => self.add(Op::Unary { kind: *kind }, xs)?,
            (Kind::MaxPool(pool), xs) => self.add(Op::MaxPool(*pool), xs)?,
            (Kind::AvgPool(pool), xs) => self.add(Op::AvgPool(*pool), xs)?,
            (Kind::GlobalAvgPool, xs) => self.add(mean([2, 3]), xs)?,
            (Kind::Reshape, xs) => self.add(Op::Reshape { shape }, xs)?,
            (Kind::Softmax, xs) => self.add(Op::Softmax, xs)?,
            (Kind::LogSoftmax, xs) => self.add(Op::LogSoftmax, xs)?,
            (Kind::L2Normalize { eps }, xs) => self.add(Op::L2Normalize { eps: *eps }, xs)?,
            (Kind::Concat, xs) => self.add(Op::Concat { axis: 1 }, xs)?,
            (Kind::Add | Kind::Mul, xs) => {
                let kind = if step.kind == Kind::Add { BinaryKind::Add } else { BinaryKind::Mul };
                let mut stretched = Vec::with_capacity(xs.len());
                for x in xs {
                    stretched.push(self.stretch(*x, &shape)?);
                }
                self.add(Op::Binary { kind }, &stretched)?
            }
            // Every other kind has one operand; the trace says so.
            (
                Kind::Conv { .. }
                | Kind::Linear { .. }
                | Kind::Lstm(_)
                | Kind::Norm { .. }
                | Kind::Dropout { .. },
                _,
            ) => {
                return Err(IrError::Type {
                    op: "operator",
                    message: "an operand is missing".into(),
                    operand: None,
                    against: None,
                });
            }
        })
    }

    /// One number a channel over a whole map.
    fn stretch(&mut self, x: Value, shape: &Shape) -> Emit<Value> {
        if self.graph().shape(x) == shape {
            return Ok(x);
        }
        let flat = Shape::from(&shape.dims()[..2]);
        let x = if *self.graph().shape(x) == flat { x } else { self.add(Op::Reshape { shape: flat }, &[x])? };
        self.add(
            Op::Broadcast {
                shape: shape.clone(),
                axes: [0, 1].into_iter().collect(),
                layout: Layout::RowMajor,
            },
            &[x],
        )
    }

    pub(crate) fn weight(
        &mut self,
        net: &Net<'_>,
        names: Option<&WeightNames>,
        field: &str,
        shape: Shape,
        init: Init,
        entry: &mut ddnnc_ir::Net,
    ) -> Emit<Value> {
        let base = names.map_or("", |n| n.weights.as_str());
        let name = format!("{base}.{field}");
        entry.parameters.push(name.clone());
        let frozen = net.frozen || self.frozen.contains(base);
        self.parameter(name, shape, init, frozen, net.load.clone())
    }

    pub(crate) fn parameter(
        &mut self,
        name: String,
        shape: Shape,
        init: Init,
        frozen: bool,
        load: Option<String>,
    ) -> Emit<Value> {
        let value =
            self.source(Op::Parameter { name: name.clone(), frozen }, &name, ValueType::f32(shape.clone()))?;
        self.model.parameters.entry(name).or_insert(Parameter { shape, init, frozen, load });
        Ok(value)
    }

    #[allow(clippy::too_many_arguments)]
    fn bias(
        &mut self,
        net: &Net<'_>,
        names: Option<&WeightNames>,
        wanted: bool,
        channels: usize,
        fan_in: usize,
        y: Value,
        entry: &mut ddnnc_ir::Net,
    ) -> Emit<Value> {
        if !wanted {
            return Ok(y);
        }
        let init = Init::Uniform { bound: 1.0 / (fan_in as f64).sqrt() };
        let b = self.weight(net, names, "bias", Shape::from([channels]), init, entry)?;
        self.add(Op::BiasAdd, &[y, b])
    }

    fn norm(
        &mut self,
        net: &Net<'_>,
        i: usize,
        names: Option<&WeightNames>,
        (eps, momentum): (f64, f64),
        (x, number): (Value, u32),
        entry: &mut ddnnc_ir::Net,
    ) -> Emit<Value> {
        let shape = Shape::from([net.trace.steps[i].shape.dims()[0]]);
        let whole = self.graph().ty(x).shape.clone();
        let x = match *whole.dims() {
            // A map of one column, so that devices know where its channels lie.
            [n, c, l] => self.add(Op::Reshape { shape: Shape::from([n, c, l, 1]) }, &[x])?,
            _ => x,
        };
        let one = Init::Constant { value: 1.0 };
        let zero = Init::Constant { value: 0.0 };
        let gain = self.weight(net, names, "weight", shape.clone(), one, entry)?;
        let bias = self.weight(net, names, "bias", shape.clone(), zero, entry)?;
        let base = names.map_or("", |n| n.statistics.as_str());
        let recalibrate = names.is_some_and(|n| n.recalibrate);
        let mut states = Vec::with_capacity(2);
        for (field, initial) in [("running_mean", 0.0), ("running_var", 1.0)] {
            let name = format!("{base}.{field}");
            let ty = ValueType::f32(shape.clone());
            let value = self.source(Op::State { name: name.clone() }, &name, ty)?;
            entry.states.push(name.clone());
            let state = State { shape: shape.clone(), initial, load: net.load.clone(), recalibrate };
            self.model.states.entry(name.clone()).or_insert(state);
            states.push((name, value));
        }
        let frozen = net.frozen || names.is_some_and(|n| self.frozen.contains(&n.weights));
        let idle = self.computed.as_ref().is_some_and(|computed| !computed.contains(net.name));
        if self.model.mode == Mode::Eval || frozen || idle {
            let operands = [x, states[0].1, states[1].1, gain, bias];
            let y = self.add(Op::Normalize { eps, batch_stats: false }, &operands)?;
            return self.shaped(y, whole);
        }
        let per_channel = self.graph().ty(x).elements() / shape.elements().max(1);
        if per_channel < 2 {
            self.diags.push_once(
                Diagnostic::error(Code::BadShape, "a batch norm over one value for each channel")
                    .at(self.span, "one value has no variance")
                    .hint("use a larger batch, or put the norm before the pooling"),
            );
        }
        let stats = self.model.graph.add(Op::ChannelStats, &[x], self.origin.clone())?;
        let results = self.graph().results(stats);
        let (batch_mean, batch_var) = (results[0], results[1]);
        // The variance that is kept is unbiased, as PyTorch keeps it.
        let unbiased = per_channel as f64 / (per_channel.max(2) - 1) as f64;
        for ((name, initial), (value, scale)) in
            states.into_iter().zip([(batch_mean, 1.0), (batch_var, unbiased)])
        {
            self.update(name, initial, value, number, momentum, scale)?;
        }
        let y =
            self.add(Op::Normalize { eps, batch_stats: true }, &[x, batch_mean, batch_var, gain, bias])?;
        self.shaped(y, whole)
    }

    /// The value in that shape.
    fn shaped(&mut self, x: Value, shape: Shape) -> Emit<Value> {
        if self.graph().ty(x).shape == shape { Ok(x) } else { self.add(Op::Reshape { shape }, &[x]) }
    }

    /// Takes a batch's statistic into the running one, unless a net that sees the same values has done so.
    fn update(
        &mut self,
        name: String,
        initial: Value,
        x: Value,
        number: u32,
        momentum: f64,
        scale: f64,
    ) -> Emit<()> {
        let current = match self.running.get(&name) {
            Some(running) if running.seen.contains(&number) => return Ok(()),
            Some(running) => running.value,
            None => initial,
        };
        let value = self.add(Op::Ema { momentum, scale }, &[current, x])?;
        let running =
            self.running.entry(name).or_insert_with(|| Running { value, seen: FxHashSet::default() });
        running.value = value;
        running.seen.insert(number);
        Ok(())
    }

    fn losses(&mut self, nets: &Nets<'_>, terms: &[TermPlan<'_>]) -> Emit<()> {
        let mut total: Option<Value> = None;
        for term in terms {
            self.span = term.span;
            let of: Vec<Arc<str>> = term.kind.nets().into_iter().map(Arc::from).collect();
            self.origin = Origin::new(&format!("loss.{}", term.name), &of);
            let Some(value) = self.term(nets, term)? else { continue };
            self.add_sink(Op::Output { name: format!("loss.{}", term.name) }, value)?;
            self.model.terms.push(Term { name: term.name.clone(), weight: term.weight });
            let weighted = match term.weight {
                Weight::Constant(1.0) => value,
                Weight::Constant(factor) => self.add(Op::Scale { factor }, &[value])?,
                Weight::Ramp { .. } => {
                    let weight = self.input(&format!("weight.{}", term.name), ValueType::scalar())?;
                    self.add(Op::Binary { kind: BinaryKind::Mul }, &[value, weight])?
                }
            };
            total = Some(match total {
                None => weighted,
                Some(sum) => {
                    self.origin.path = Arc::from("loss.total");
                    self.add(Op::Binary { kind: BinaryKind::Add }, &[sum, weighted])?
                }
            });
        }
        if let Some(total) = total {
            self.origin = Origin::new("loss.total", &[]);
            self.add_sink(Op::Output { name: "loss.total".into() }, total)?;
        }
        Ok(())
    }

    pub(crate) fn value(&self, net: &str, step: usize) -> Option<Value> {
        self.values.get(net)?.get(step).copied().flatten()
    }

    pub(crate) fn logits(&self, nets: &Nets<'_>, net: &str) -> Option<Value> {
        self.value(net, nets.nets.get(net)?.logits)
    }

    fn detached(&mut self, pair: &Pair<'_>, value: Value) -> Emit<Value> {
        if pair.detach { self.add(Op::StopGradient, &[value]) } else { Ok(value) }
    }

    /// The value of a term; `None` where a net is missing, which is an error told elsewhere.
    fn term(&mut self, nets: &Nets<'_>, term: &TermPlan<'_>) -> Emit<Option<Value>> {
        match &term.kind {
            TermKind::CrossEntropy { net, smoothing } => {
                let Some(logits) = self.logits(nets, net) else { return Ok(None) };
                let label = self.label()?;
                self.add(Op::CrossEntropy { smoothing: *smoothing }, &[logits, label]).map(Some)
            }
            TermKind::Kl { pair, temperature } => {
                let (Some(teacher), Some(student)) =
                    (self.logits(nets, pair.teacher), self.logits(nets, pair.student))
                else {
                    return Ok(None);
                };
                let teacher = self.detached(pair, teacher)?;
                self.pairing(term, pair, None);
                self.add(Op::KlDivergence { temperature: *temperature }, &[teacher, student]).map(Some)
            }
            TermKind::Ensemble { ensemble, student, temperature } => {
                let Some(value) = self.kl_of_ensemble(nets, ensemble, student, *temperature)? else {
                    return Ok(None);
                };
                for teacher in ensemble.teachers.iter().filter(|teacher| *teacher != student) {
                    self.pairing(term, &Pair { teacher, student, detach: ensemble.detach }, None);
                }
                Ok(Some(value))
            }
            TermKind::Gate { ensemble } => {
                let Some(logits) = self.gated_logits(nets, ensemble)? else { return Ok(None) };
                let label = self.label()?;
                self.add(Op::CrossEntropy { smoothing: 0.0 }, &[logits, label]).map(Some)
            }
            TermKind::Penalty { path, .. } => self.penalty(path),
            TermKind::Attention { pair, features, map, eps } => {
                let Some((teacher, student)) = self.features(pair, features) else { return Ok(None) };
                let teacher = self.detached(pair, teacher)?;
                let teacher = self.attention(teacher, *map, *eps)?;
                let student = self.attention(student, *map, *eps)?;
                self.pairing(term, pair, Some(features));
                self.add(Op::MeanSquaredError, &[student, teacher]).map(Some)
            }
            TermKind::Relation { pair, features, relation } => {
                check_batch(*relation, self.model.batch, self.model.mode, self.span, self.diags);
                let Some((teacher, student)) = self.features(pair, features) else { return Ok(None) };
                let teacher = self.detached(pair, teacher)?;
                let (teacher, student) = (self.embedding(teacher)?, self.embedding(student)?);
                self.pairing(term, pair, Some(features));
                let op = match relation {
                    Relation::Distance => Op::RelationDistance,
                    Relation::Angle => Op::RelationAngle,
                };
                self.add(op, &[student, teacher]).map(Some)
            }
            TermKind::Hint { pair, features, adapter } => {
                let Some((teacher, mut student)) = self.features(pair, features) else { return Ok(None) };
                let teacher = self.detached(pair, teacher)?;
                if let Some(path) = adapter {
                    let (from, to) =
                        (self.graph().shape(student).dims()[1], self.graph().shape(teacher).dims()[1]);
                    let init = Init::Normal { std: (2.0 / to as f64).sqrt() };
                    let w = self.parameter(
                        format!("{path}.weight"),
                        Shape::from([to, from, 1, 1]),
                        init,
                        false,
                        None,
                    )?;
                    let conv = Conv { stride: [1, 1], pad: [0, 0], dilation: [1, 1], groups: 1 };
                    student = self.add(Op::Conv2d(conv), &[student, w])?;
                }
                self.pairing(term, pair, Some(features));
                self.add(Op::MeanSquaredError, &[student, teacher]).map(Some)
            }
        }
    }

    fn features(&self, pair: &Pair<'_>, features: &Features<'_>) -> Option<(Value, Value)> {
        let teacher = self.value(pair.teacher, features.teacher.1.step)?;
        Some((teacher, self.value(pair.student, features.student.1.step)?))
    }

    /// `[N,C,H,W]` → `[N,C]`, its mean over the positions; `[N,C]` as it is.
    fn embedding(&mut self, feature: Value) -> Emit<Value> {
        match self.graph().shape(feature).rank() {
            4 => self.add(mean([2, 3]), &[feature]),
            _ => Ok(feature),
        }
    }

    /// `[N,C,H,W]` → `[N,H·W]`
    fn attention(&mut self, feature: Value, map: Map, eps: f64) -> Emit<Value> {
        let dims: Vec<usize> = self.graph().shape(feature).dims().to_vec();
        let flat = Shape::from([dims[0], dims[2] * dims[3]]);
        match map {
            Map::ZScore => {
                let axes = [1].into_iter().collect();
                let sum = self.add(Op::Reduce { kind: ReduceKind::Sum, axes }, &[feature])?;
                let sum = self.add(Op::Reshape { shape: flat }, &[sum])?;
                self.add(Op::Standardize { eps }, &[sum])
            }
            Map::At => {
                let square = self.add(Op::Unary { kind: ddnnc_ir::UnaryKind::Square }, &[feature])?;
                let power = self.add(mean([1]), &[square])?;
                let power = self.add(Op::Reshape { shape: flat }, &[power])?;
                self.add(Op::L2Normalize { eps }, &[power])
            }
        }
    }

    fn pairing(&mut self, term: &TermPlan<'_>, pair: &Pair<'_>, features: Option<&Features<'_>>) {
        let (teacher, student) = features.map_or(("logits", "logits"), |f| (f.teacher.0, f.student.0));
        self.model.pairings.push(Pairing {
            term: term.name.clone(),
            teacher: (pair.teacher.to_string(), teacher.to_string()),
            student: (pair.student.to_string(), student.to_string()),
        });
    }
}

/// The block of a stage, the segment or the exit that an operator stands in: `s1.0` of `s1.0.conv1`, `head` of `head.linear1`.
fn part_of(path: &str) -> &str {
    let mut dots = path.match_indices('.').map(|(at, _)| at);
    let Some(first) = dots.next() else { return path };
    let block = path[first + 1..].starts_with(|c: char| c.is_ascii_digit());
    let end = if block { dots.next().unwrap_or(path.len()) } else { first };
    &path[..end]
}

fn mean<const N: usize>(axes: [usize; N]) -> Op {
    Op::Reduce { kind: ReduceKind::Mean, axes: axes.into_iter().collect() }
}

/// FNV-1a over the bytes of a path: a dropout's site, the same in every build.
fn fnv1a(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}
