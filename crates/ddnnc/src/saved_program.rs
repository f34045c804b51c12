//! A training step from a file: whether it is the step of this spec.
//!
//! A program holds no spec. What can be told is compared: what it takes, gives and keeps, by name and type, and how it
//! updates. Constants in the middle of the graph (a loss weight, a temperature) are the file's.

use crate::Failure;
use ddnnc_ir::{
    DType, Graph, IrError, Model, Op, Precision, ValueType, append_optimizer, differentiate, is_update,
};
use ddnnc_passes::{BufferId, PersistentKind, Program, dead_code};
use indexmap::{IndexMap, IndexSet};
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// The largest program that is read, in bytes.
const MAX_BYTES: u64 = 1 << 30;

/// How many differences are named.
const SHOWN: usize = 8;

/// Reads the training step of a model from a file.
pub fn load(path: &Path, model: &Model, spec: &Path) -> Result<Program, Failure> {
    let compile = |to: &Path| format!("`ddnnc compile {} -o {}`", spec.display(), to.display());
    // What is no program may be a file that the user wants to keep.
    let write = format!("write a program with {}", compile(Path::new("FILE")));
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(MAX_BYTES + 1).read_to_end(&mut bytes))
        .map_err(|e| Failure::reading(path, &e))?;
    if bytes.len() as u64 > MAX_BYTES {
        let message = format!("`{}` is larger than a program may be (1 GiB)", path.display());
        return Err(Failure::input(message).hint(write));
    }
    let program = Program::from_bytes(&bytes)
        .map_err(|e| Failure::input(format!("`{}`: {e}", path.display())).hint(write))?;
    let expected = Expected::new(model)
        .map_err(|e| Failure::input(format!("the spec's step cannot be compared with a program: {e}")))?;
    let differences = expected.differences(model, &program);
    if differences.is_empty() {
        return Ok(program);
    }
    let mut lines: Vec<String> = differences.iter().take(SHOWN).cloned().collect();
    if differences.len() > SHOWN {
        lines.push(format!("… and {} more", differences.len() - SHOWN));
    }
    let message = format!("the program in `{}` is not this spec's training step:\n  ", path.display());
    Err(Failure::input(message + &lines.join("\n  "))
        .hint(format!("compile again with {}, and with the same `--set` and `--batch`", compile(path))))
}

/// What the training step of a model takes, gives, keeps and updates with.
struct Expected {
    inputs: IndexMap<String, ValueType>,
    outputs: IndexMap<String, ValueType>,
    optimizer: IndexMap<String, ValueType>,
    updates: IndexSet<String>,
}

impl Expected {
    fn new(model: &Model) -> Result<Expected, IrError> {
        let mut graph = model.graph.clone();
        dead_code(&mut graph)?;
        if let Some(total) = graph.output("loss.total") {
            let gradients = differentiate(&mut graph, total)?;
            append_optimizer(&mut graph, &gradients, &model.recipe.optimizer)?;
        }
        let mut dims = vec![model.batch];
        dims.extend(model.input.1.dims());
        let mut expected = Expected {
            inputs: IndexMap::from([
                (model.input.0.clone(), ValueType::f32(dims.as_slice())),
                (model.target.0.clone(), ValueType::i64([model.batch])),
            ]),
            outputs: IndexMap::new(),
            optimizer: IndexMap::new(),
            updates: IndexSet::new(),
        };
        expected.take_up(&graph, model);
        Ok(expected)
    }

    fn take_up(&mut self, graph: &Graph, model: &Model) {
        for id in graph.nodes() {
            let node = graph.node(id);
            match (&node.op, node.results.first()) {
                (Op::Input { name }, Some(ty)) => {
                    self.inputs.insert(name.clone(), ty.clone());
                }
                (Op::State { name }, Some(ty)) if !model.states.contains_key(name) => {
                    self.optimizer.insert(name.clone(), ty.clone());
                }
                (Op::Output { name }, _) => {
                    if let Some(&value) = graph.operands(id).first() {
                        self.outputs.insert(name.clone(), graph.ty(value).clone());
                    }
                }
                (op, _) => self.updates.extend(update(op)),
            }
        }
    }

    /// What differs, a sentence each; none where the program is the model's step.
    fn differences(&self, model: &Model, program: &Program) -> Vec<String> {
        let mut found = Vec::new();
        if program.name != model.name {
            found.push(format!("it is of the model `{}`, not `{}`", program.name, model.name));
        }
        if self.inputs.contains_key("lr") && !program.inputs.contains_key("lr") {
            found.push("it does not train: it has no input `lr`".to_string());
            return found;
        }
        let ty = |b: BufferId| &program.buffer(b).ty;
        let batch = program.inputs.get(&model.input.0).and_then(|&b| ty(b).dims().first().copied());
        if let Some(batch) = batch.filter(|&batch| batch != model.batch) {
            // Every other shape of the batch differs with it.
            found.push(format!("its batch is {batch}, not {}", model.batch));
            return found;
        }
        // Random numbers are read or not: training gives them either way.
        let inputs = program.inputs.iter().filter(|(name, _)| *name != "rng");
        let wanted = self.inputs.iter().filter(|(name, _)| *name != "rng");
        compare("input", wanted, inputs.map(|(name, &b)| (name, ty(b))), &mut found);
        let outputs = program.outputs.iter().map(|(name, &b)| (name, ty(b)));
        compare("output", self.outputs.iter(), outputs, &mut found);
        let kept = |kind| {
            let entries = program.persistent.iter().filter(move |(_, entry)| entry.kind == kind);
            entries.map(|(name, entry)| (name, ty(entry.buffer)))
        };
        let parameters: IndexMap<&String, ValueType> =
            model.parameters.iter().map(|(name, p)| (name, ValueType::f32(p.shape.clone()))).collect();
        let states: IndexMap<&String, ValueType> =
            model.states.iter().map(|(name, s)| (name, ValueType::f32(s.shape.clone()))).collect();
        let borrowed = parameters.iter().map(|(name, ty)| (*name, ty));
        compare("parameter", borrowed, kept(PersistentKind::Parameter), &mut found);
        let borrowed = states.iter().map(|(name, ty)| (*name, ty));
        compare("running statistic", borrowed, kept(PersistentKind::Statistic), &mut found);
        let optimizer = kept(PersistentKind::Optimizer);
        compare("optimizer state", self.optimizer.iter(), optimizer, &mut found);
        let updates: IndexSet<String> =
            program.launches.iter().flat_map(|launch| operators(&launch.op)).filter_map(update).collect();
        if found.is_empty() && updates != self.updates {
            let list = |of: &IndexSet<String>| of.iter().cloned().collect::<Vec<_>>().join(" and ");
            found.push(format!("it updates by {}, not by {}", list(&updates), list(&self.updates)));
        }
        let bf16 = program.buffers.iter().any(|buffer| buffer.ty.dtype == DType::Bf16);
        if bf16 && model.recipe.precision == Precision::F32 {
            found.push("it computes in bf16, not in f32".to_string());
        } else if !bf16 && self.wants_bf16(model) {
            found.push("it computes in f32, not in bf16".to_string());
        }
        found
    }

    fn wants_bf16(&self, model: &Model) -> bool {
        let multiplies = |op: &Op| matches!(op, Op::Conv2d(_) | Op::MatMul { .. });
        let graph = &model.graph;
        model.recipe.precision == Precision::Bf16 && graph.nodes().any(|id| multiplies(&graph.node(id).op))
    }
}

/// The operators that a launch runs.
fn operators(op: &Op) -> Vec<&Op> {
    match op {
        Op::Fused(group) => group.steps.iter().map(|step| &step.op).collect(),
        op => vec![op],
    }
}

/// An optimizer's update with its constants, as text.
fn update(op: &Op) -> Option<String> {
    match op {
        Op::SgdUpdate { momentum, nesterov, weight_decay } => {
            Some(format!("SGD (momentum {momentum}, nesterov {nesterov}, weight decay {weight_decay})"))
        }
        Op::AdamwUpdate { beta1, beta2, eps, weight_decay } => {
            Some(format!("AdamW (beta1 {beta1}, beta2 {beta2}, eps {eps}, weight decay {weight_decay})"))
        }
        // Running averages are the model's, not an optimizer's.
        Op::Ema { .. } => None,
        op => is_update(op).then(|| op.mnemonic().to_string()),
    }
}

/// Adds what one table has and the other has not, or has with another type.
fn compare<'a>(
    what: &str,
    wanted: impl Iterator<Item = (&'a String, &'a ValueType)>,
    has: impl Iterator<Item = (&'a String, &'a ValueType)>,
    found: &mut Vec<String>,
) {
    let mut has: IndexMap<&String, &ValueType> = has.collect();
    for (name, ty) in wanted {
        match has.shift_remove(name) {
            None => found.push(format!("it has no {what} `{name}` {ty}")),
            Some(other) if other != ty => {
                found.push(format!("its {what} `{name}` is {other}, not {ty}"));
            }
            Some(_) => {}
        }
    }
    found.extend(
        has.iter().map(|(name, ty)| format!("it has the {what} `{name}` {ty}, which the spec has not")),
    );
}
