//! `ddnnc inspect`: what a spec declares.

use crate::cli::InspectArgs;
use crate::device::not_compiled;
use crate::graph_picture::{self, kind, weight};
use crate::output::{apart, grouped, named_as_drawn, print, print_json, si, table, write_file};
use crate::{Failure, Spec, Ui};
use ddnnc_ir::{Graph, Mode, Model, Op, Term, Weight};
use ddnnc_passes::Goal;
use serde_json::{Value, json};
use std::fmt::Write;
use std::path::Path;

/// Shows nets, losses and pairings, or the table of parameters.
pub fn run(args: &InspectArgs, ui: Ui) -> Result<(), Failure> {
    named_as_drawn(&args.graph)?;
    apart([&args.spec.spec], &args.graph)?;
    let spec = Spec::load(&args.spec.spec, &args.spec.set, ui)?;
    let model = spec.lower_in(args.phase.phase.as_deref(), Mode::Train, None)?;
    if let Some(path) = &args.graph {
        draw(&model, path, ui)?;
    }
    match (args.json, args.parameters) {
        (false, false) if args.graph.is_some() => Ok(()),
        (true, _) => print_json(&as_json(&model)),
        (false, true) => print(&parameters(&model)),
        (false, false) => print(&summary(&model)),
    }
}

/// Draws the forward graph with prefixes shared, and in it the launches of the training step.
fn draw(model: &Model, path: &Path, ui: Ui) -> Result<(), Failure> {
    let shared = phase(model, Goal::Evaluate, "shared")?;
    // Without a loss there is no step to draw.
    let trains = model.graph.output("loss.total").is_some();
    let fused = if trains { Some(phase(model, Goal::Train, "fused")?) } else { None };
    let picture =
        graph_picture::picture(model, &shared, fused.as_ref()).map_err(|e| not_compiled(&e.into()))?;
    write_file(path, picture.as_bytes())?;
    ui.note(&format!("wrote the graph to {}", path.display()));
    Ok(())
}

/// The graph of a phase of compilation with all passes.
fn phase(model: &Model, goal: Goal, wanted: &str) -> Result<Graph, Failure> {
    let mut found = None;
    ddnnc_passes::compile(model, goal, &mut |phase, graph| {
        if phase == wanted {
            found = Some(graph.clone());
        }
    })
    .map_err(|e| not_compiled(&e))?;
    Ok(found.unwrap_or_else(|| model.graph.clone()))
}

/// Name, dtype, shape and kind of every tensor of a weights file.
fn entries(model: &Model) -> impl Iterator<Item = (&str, String, &'static str)> {
    let parameters = model.parameters.iter().map(|(name, p)| {
        (name.as_str(), p.shape.to_string(), if p.frozen { "frozen parameter" } else { "parameter" })
    });
    let states =
        model.states.iter().map(|(name, s)| (name.as_str(), s.shape.to_string(), "running statistic"));
    parameters.chain(states)
}

fn parameters(model: &Model) -> String {
    entries(model).map(|(name, shape, kind)| format!("{name}\tf32\t{shape}\t{kind}\n")).collect()
}

/// What shapes a loss term besides its weight, by its name in the language.
fn setting(model: &Model, term: &Term) -> Option<(&'static str, f64)> {
    match *model.graph.op(model.graph.output(&format!("loss.{}", term.name))?) {
        Op::KlDivergence { temperature } => Some(("temperature", temperature)),
        Op::CrossEntropy { smoothing } => Some(("label_smoothing", smoothing)),
        _ => None,
    }
}

fn summary(model: &Model) -> String {
    let (input, target) = (&model.input, &model.target);
    let mut text = format!("{}\n\n  input   {} : f32{}\n", model.name, input.0, input.1);
    let _ = writeln!(text, "  target  {} : class[{}]\n", target.0, target.1);
    if !model.phases.is_empty() {
        let rows: Vec<Vec<String>> = model
            .phases
            .iter()
            .enumerate()
            .map(|(i, phase)| {
                let shown = if i == model.phase { "shown below" } else { "" };
                vec![phase.name.clone(), phase.epochs.to_string(), shown.to_string()]
            })
            .collect();
        let _ = writeln!(text, "{}", table(1, &["phase", "epochs", ""], &rows));
    }
    let rows: Vec<Vec<String>> = model
        .nets
        .iter()
        .map(|net| {
            let stages: Vec<String> = net.stages.iter().map(|(stage, n)| format!("{stage}:{n}")).collect();
            vec![
                net.name.clone(),
                kind(net).to_string(),
                grouped(net.parameter_count),
                si(net.macs),
                net.depth.to_string(),
                stages.join(" "),
            ]
        })
        .collect();
    text.push_str(&table(2, &["net", "kind", "parameters", "MACs", "depth", "blocks"], &rows));
    let rows: Vec<Vec<String>> = model
        .terms
        .iter()
        .map(|term| {
            let set = match setting(model, term) {
                // Without smoothing there is nothing to say.
                Some((_, 0.0)) => String::new(),
                Some((name, value)) => format!("{name} = {value}"),
                None => String::new(),
            };
            vec![term.name.clone(), weight(&term.weight), set]
        })
        .collect();
    let _ = write!(text, "\n{}", table(3, &["loss term", "weight", "setting"], &rows));
    if !model.pairings.is_empty() {
        let rows: Vec<Vec<String>> = model
            .pairings
            .iter()
            .map(|p| {
                let end = |(net, part): &(String, String)| format!("{net}.{part}");
                vec![p.term.clone(), end(&p.teacher), end(&p.student)]
            })
            .collect();
        let _ = write!(text, "\n{}", table(3, &["pairing", "teacher", "student"], &rows));
    }
    text
}

fn as_json(model: &Model) -> Value {
    let nets: Vec<Value> = model
        .nets
        .iter()
        .map(|net| {
            let stages: Vec<Value> =
                net.stages.iter().map(|(s, n)| json!({"stage": s, "blocks": n})).collect();
            json!({
                "name": net.name, "kind": kind(net), "parameters": net.parameter_count, "macs": net.macs,
                "depth": net.depth, "stages": stages,
            })
        })
        .collect();
    let terms: Vec<Value> = model
        .terms
        .iter()
        .map(|term| {
            let weight = match term.weight {
                Weight::Constant(w) => json!(w),
                Weight::Ramp { from, to, epochs } => json!({"from": from, "to": to, "epochs": epochs}),
            };
            let mut entry = json!({"name": term.name, "weight": weight});
            if let Some((name, value)) = setting(model, term) {
                entry[name] = json!(value);
            }
            entry
        })
        .collect();
    let pairings: Vec<Value> = model
        .pairings
        .iter()
        .map(|p| {
            let end = |(net, part): &(String, String)| json!({"net": net, "part": part});
            json!({"term": p.term, "teacher": end(&p.teacher), "student": end(&p.student)})
        })
        .collect();
    let tensors = model.parameters.iter().map(|(name, p)| (name, &p.shape, "parameter", p.frozen));
    let states = model.states.iter().map(|(name, s)| (name, &s.shape, "running statistic", false));
    let parameters: Vec<Value> = tensors
        .chain(states)
        .map(|(name, shape, kind, frozen)| {
            json!({"name": name, "dtype": "f32", "shape": shape.dims(), "kind": kind, "frozen": frozen})
        })
        .collect();
    let mut object = json!({
        "model": model.name,
        "input": {"name": model.input.0, "shape": model.input.1.dims()},
        "target": {"name": model.target.0, "classes": model.target.1},
        "nets": nets, "terms": terms, "pairings": pairings, "parameters": parameters,
    });
    if let Some(phase) = model.phases.get(model.phase) {
        let phases = model.phases.iter().map(|p| json!({"name": p.name, "epochs": p.epochs}));
        object["phase"] = json!(phase.name);
        object["phases"] = phases.collect();
    }
    object
}
