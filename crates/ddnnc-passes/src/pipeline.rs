//! Which passes run, in what order, for what goal.

use crate::report::{operators, value_bytes};
use crate::{
    PassError, PersistentKind, Program, Report, Tables, assign_layout, autocast, batch_shared_weights,
    canonical, dead_code, fuse, plan_memory, recompute, schedule, share_prefixes,
};
use ddnnc_ir::{
    Graph, IrError, Model, NodeId, Op, Origin, Precision, Value, ValueType, append_optimizer, differentiate,
    order_stores, verify,
};
use indexmap::IndexMap;
use rustc_hash::{FxHashMap, FxHashSet};

/// What a program is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goal {
    /// A step of training: outputs logits and losses, updates parameters, optimizer state and running statistics.
    Train,
    /// The gradients of one step and no update: outputs logits and losses, `grad.<parameter>` for every trained
    /// parameter (zeros where the loss does not reach it), and `state.<name>` for every running statistic as the step
    /// would leave it.
    Gradients,
    /// The forward pass for the statistics of its batch alone: no outputs, and what is stored has nothing of what was.
    Statistics,
    /// The forward pass: outputs logits and losses, stores nothing.
    Evaluate,
}

/// Which passes run.
#[derive(Clone, Debug)]
pub struct Options {
    passes: Vec<(&'static str, Pass)>,
}

impl Default for Options {
    /// All passes, in the order of [`PASSES`].
    fn default() -> Options {
        Options { passes: PASSES.to_vec() }
    }
}

impl Options {
    /// Every operator a launch of its own: without `batch_shared_weights`, `fuse` and `recompute`.
    pub fn without_fusion() -> Options {
        Options::without(&["batch_shared_weights", "fuse", "recompute"])
    }

    /// Every value is kept until its last reader: without `recompute`.
    pub fn without_recomputation() -> Options {
        Options::without(&["recompute"])
    }

    fn without(names: &[&str]) -> Options {
        Options { passes: PASSES.iter().copied().filter(|(name, _)| !names.contains(name)).collect() }
    }

    /// Just these passes, in that order.
    ///
    /// # Errors
    ///
    /// [`PassError::NoPass`] for a name that no pass has; [`PassError::Order`] where a pass comes before one that must
    /// come before it.
    pub fn named<S: AsRef<str>>(names: &[S]) -> Result<Options, PassError> {
        let mut passes: Vec<(&'static str, Pass)> = Vec::with_capacity(names.len());
        for name in names.iter().map(AsRef::as_ref) {
            let known = PASSES.iter().find(|(n, _)| *n == name).copied();
            passes.push(known.ok_or_else(|| PassError::NoPass { name: name.to_owned() })?);
        }
        let late = |name: &str| LATE.iter().position(|n| *n == name);
        for (i, (name, _)) in passes.iter().enumerate() {
            let Some(place) = late(name) else { continue };
            if let Some((before, _)) = passes[..i].iter().find(|(n, _)| late(n).is_some_and(|p| p > place)) {
                return Err(PassError::Order { first: (*name).to_owned(), second: (*before).to_owned() });
            }
        }
        Ok(Options { passes })
    }

    /// The passes of this list that are wanted, in the list's order.
    fn of(&self, list: &[(&'static str, Pass)]) -> Vec<(&'static str, Pass)> {
        let wanted = |(name, _): &&(&'static str, Pass)| self.passes.iter().any(|(n, _)| n == name);
        list.iter().filter(wanted).copied().collect()
    }
}

/// The passes that work on a whole step, each on what those before it made: their order is fixed.
const LATE: [&str; 4] = ["assign_layout", "batch_shared_weights", "fuse", "recompute"];

/// What the pipeline makes of a model.
#[derive(Clone, Debug)]
pub struct Compiled {
    /// The graph after all passes.
    pub graph: Graph,
    /// What devices run.
    pub program: Program,
    /// Figures for summaries.
    pub report: Report,
}

/// A pass: a function on a graph.
pub type Pass = fn(&mut Graph) -> Result<(), IrError>;

const DEAD_CODE: (&str, Pass) = ("dead_code", dead_code);
const SHARE_PREFIXES: (&str, Pass) = ("share_prefixes", share_prefixes);
const CANONICAL: (&str, Pass) = ("canonical", canonical);
const BATCH_SHARED_WEIGHTS: (&str, Pass) = ("batch_shared_weights", batch_shared_weights);
const FUSE: (&str, Pass) = ("fuse", fuse);
const RECOMPUTE: (&str, Pass) = ("recompute", recompute);

const AUTOCAST: (&str, Pass) = ("autocast", autocast);
const ASSIGN_LAYOUT: (&str, Pass) = ("assign_layout", assign_layout);

/// The passes by name, in the order in which they run. (`autocast` is none of them: it changes what is computed, and
/// runs where a spec asks for bf16.)
pub const PASSES: [(&str, Pass); 7] =
    [DEAD_CODE, SHARE_PREFIXES, CANONICAL, ASSIGN_LAYOUT, BATCH_SHARED_WEIGHTS, FUSE, RECOMPUTE];

/// The name of the model's total loss among its graph's outputs.
const LOSS: &str = "loss.total";

/// Compiles a model for a goal with the default [`Options`]; else as [`compile_with`].
pub fn compile(
    model: &Model,
    goal: Goal,
    observe: &mut dyn FnMut(&str, &Graph),
) -> Result<Compiled, PassError> {
    compile_with(model, goal, &Options::default(), observe)
}

/// Compiles a model for a goal.
///
/// `observe` sees the graph after each phase: `forward` (as lowered), `shared` (prefixes merged), `grad` (with the
/// backward pass; for [`Goal::Train`] and [`Goal::Gradients`]), `step` (with updates and stores in order) and `fused`
/// (what is planned). In debug and test builds the verifier runs after each.
pub fn compile_with(
    model: &Model,
    goal: Goal,
    options: &Options,
    observe: &mut dyn FnMut(&str, &Graph),
) -> Result<Compiled, PassError> {
    let mut graph = model.graph.clone();
    checked("lowering", &graph)?;
    observe("forward", &graph);
    let before = operators_each_alone(model, goal)?;

    drop_unwanted_sinks(&mut graph, goal);
    if goal == Goal::Statistics {
        forget_the_past(&mut graph);
    }
    run(&mut graph, &options.of(&[DEAD_CODE, SHARE_PREFIXES, CANONICAL, SHARE_PREFIXES, DEAD_CODE]))?;
    observe("shared", &graph);

    if matches!(goal, Goal::Train | Goal::Gradients) {
        let total = loss(&graph)?;
        let gradients = differentiate(&mut graph, total)?;
        // As outputs, the gradients keep their names through the passes, which make nodes anew.
        for (name, value) in gradients {
            graph.add(Op::Output { name: gradient_name(&name) }, &[value], Origin::default())?;
        }
        checked("differentiate", &graph)?;
        observe("grad", &graph);
        // Before the updates come in: their order edges name every reader of a parameter, so none may be added later.
        run(&mut graph, &options.of(&[CANONICAL, SHARE_PREFIXES, DEAD_CODE]))?;
    }
    match model.recipe.precision {
        Precision::F32 => {}
        Precision::Bf16 => run(&mut graph, &[AUTOCAST, CANONICAL, SHARE_PREFIXES, DEAD_CODE])?,
    }
    match goal {
        Goal::Train => {
            let gradients = take_gradients(&mut graph, model);
            append_optimizer(&mut graph, &gradients, &model.recipe.optimizer)?;
        }
        Goal::Gradients => {
            show_missing_gradients(&mut graph, model)?;
            show_statistics(&mut graph, model)?;
        }
        Goal::Statistics | Goal::Evaluate => order_stores(&mut graph),
    }
    checked("the step", &graph)?;
    observe("step", &graph);
    run(&mut graph, &options.of(&[DEAD_CODE]))?;
    let value_bytes = value_bytes(&graph);
    let late: Vec<_> = options.passes.iter().filter(|(name, _)| LATE.contains(name)).copied().collect();
    run(&mut graph, &late)?;
    observe("fused", &graph);

    let order = schedule(&graph)?;
    let program = plan_memory(&graph, &order, tables(model))?;
    if cfg!(debug_assertions) {
        program.validate()?;
    }
    let report = Report::new(before, value_bytes, &graph, &program);
    Ok(Compiled { graph, program, report })
}

/// Verifies a graph in debug and test builds.
fn checked(pass: &str, graph: &Graph) -> Result<(), PassError> {
    if cfg!(debug_assertions) {
        verify(graph).map_err(|source| PassError::Broken { pass: pass.to_owned(), source })?;
    }
    Ok(())
}

fn run(graph: &mut Graph, passes: &[(&str, Pass)]) -> Result<(), PassError> {
    for (name, pass) in passes {
        pass(graph)?;
        checked(name, graph)?;
    }
    Ok(())
}

fn loss(graph: &Graph) -> Result<Value, PassError> {
    graph.output(LOSS).ok_or(PassError::NoLoss)
}

fn gradient_name(parameter: &str) -> String {
    format!("grad.{parameter}")
}

/// Removes the sinks that a goal has no use for.
fn drop_unwanted_sinks(graph: &mut Graph, goal: Goal) {
    let unwanted: Vec<NodeId> = graph
        .nodes()
        .filter(|&id| match graph.node(id).op {
            Op::Store { .. } => goal == Goal::Evaluate,
            Op::Output { .. } => goal == Goal::Statistics,
            _ => false,
        })
        .collect();
    for id in unwanted {
        graph.remove(id);
    }
}

/// Gives the batch the whole weight in the running statistics.
fn forget_the_past(graph: &mut Graph) {
    for id in graph.nodes().collect::<Vec<_>>() {
        if let Op::Ema { momentum, .. } = &mut graph.node_mut(id).op {
            *momentum = 1.0;
        }
    }
}

/// Takes the outputs that carry gradients out of the graph, in the order of the model's table.
fn take_gradients(graph: &mut Graph, model: &Model) -> IndexMap<String, Value> {
    let mut outputs: FxHashMap<String, NodeId> = FxHashMap::default();
    for id in graph.nodes() {
        if let Op::Output { name } = &graph.node(id).op {
            outputs.insert(name.clone(), id);
        }
    }
    let mut gradients = IndexMap::new();
    for name in model.parameters.keys() {
        if let Some(&id) = outputs.get(&gradient_name(name))
            && let Some(&value) = graph.operands(id).first()
        {
            gradients.insert(name.clone(), value);
            graph.remove(id);
        }
    }
    gradients
}

/// Outputs zeros for every trained parameter that the loss does not reach.
fn show_missing_gradients(graph: &mut Graph, model: &Model) -> Result<(), PassError> {
    let shown = output_names(graph);
    for (name, parameter) in model.parameters.iter().filter(|(_, p)| !p.frozen) {
        let output = gradient_name(name);
        if !shown.contains(&output) {
            let ty = ValueType::f32(parameter.shape.clone());
            let zeros = graph.add_source(Op::Constant { value: 0.0 }, ty, Origin::default())?;
            graph.add(Op::Output { name: output }, &[zeros], Origin::default())?;
        }
    }
    Ok(())
}

/// Makes outputs of the stores of running statistics, and shows the statistics that nothing changes as they are.
fn show_statistics(graph: &mut Graph, model: &Model) -> Result<(), PassError> {
    let stores: Vec<NodeId> =
        graph.nodes().filter(|&id| matches!(graph.node(id).op, Op::Store { .. })).collect();
    for id in stores {
        let op = &mut graph.node_mut(id).op;
        if let Op::Store { name } = op {
            *op = Op::Output { name: format!("state.{name}") };
        }
    }
    let shown = output_names(graph);
    let mut known: FxHashMap<String, Value> = FxHashMap::default();
    for id in graph.nodes() {
        if let Op::State { name } = &graph.node(id).op {
            known.insert(name.clone(), Value { node: id, result: 0 });
        }
    }
    for (name, state) in &model.states {
        let output = format!("state.{name}");
        if shown.contains(&output) {
            continue;
        }
        let value = match known.get(name) {
            Some(&value) => value,
            None => {
                let op = Op::State { name: name.clone() };
                graph.add_source(op, ValueType::f32(state.shape.clone()), Origin::default())?
            }
        };
        graph.add(Op::Output { name: output }, &[value], Origin::default())?;
    }
    Ok(())
}

fn output_names(graph: &Graph) -> FxHashSet<String> {
    graph
        .nodes()
        .filter_map(|id| match &graph.node(id).op {
            Op::Output { name } => Some(name.clone()),
            _ => None,
        })
        .collect()
}

/// How many operators a goal needs where every net is computed on its own and no pass runs.
fn operators_each_alone(model: &Model, goal: Goal) -> Result<usize, PassError> {
    let mut graph = model.graph.clone();
    drop_unwanted_sinks(&mut graph, goal);
    dead_code(&mut graph)?;
    if matches!(goal, Goal::Train | Goal::Gradients) {
        let total = loss(&graph)?;
        let gradients = differentiate(&mut graph, total)?;
        if goal == Goal::Train {
            append_optimizer(&mut graph, &gradients, &model.recipe.optimizer)?;
        }
    }
    Ok(operators(&graph))
}

/// Every program of a model has a place for the model's input and target, its parameters and its running statistics.
fn tables(model: &Model) -> Tables {
    let mut tables = Tables::default();
    let (input, shape) = &model.input;
    let mut dims: Vec<usize> = vec![model.batch];
    dims.extend(shape.dims());
    tables.inputs.insert(input.clone(), ValueType::f32(dims.as_slice()));
    tables.inputs.insert(model.target.0.clone(), ValueType::i64([model.batch]));
    for (name, parameter) in &model.parameters {
        let entry = (PersistentKind::Parameter, ValueType::f32(parameter.shape.clone()));
        tables.persistent.insert(name.clone(), entry);
    }
    for (name, state) in &model.states {
        let entry = (PersistentKind::Statistic, ValueType::f32(state.shape.clone()));
        tables.persistent.insert(name.clone(), entry);
    }
    tables
}
