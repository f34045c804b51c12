//! From text to a model, or to rendered diagnostics.

#![allow(dead_code)]

use ddnnc_diag::{Diagnostic, SourceMap, render};
use ddnnc_ir::reference::Tensor;
use ddnnc_ir::{DType, Graph, Mode, Model, Net, Op};
use ddnnc_lower::{Lowered, Options, lower};
use indexmap::IndexMap;

/// Parses and lowers, with the diagnostics rendered.
pub fn try_lower(text: &str, mode: Mode, batch: usize) -> Result<Lowered, String> {
    try_lower_phase(text, mode, batch, 0)
}

/// As [`try_lower`], in the phase at that place.
pub fn try_lower_phase(text: &str, mode: Mode, batch: usize, phase: usize) -> Result<Lowered, String> {
    let mut sources = SourceMap::new();
    let id = sources.add("test.ddnn", text);
    let file = ddnnc_syntax::parse(text, id).map_err(|e| render(&e, &sources, false))?;
    lower(&file, &Options { mode, batch: Some(batch), phase }).map_err(|e| render(&e, &sources, false))
}

/// The model of a sound spec, verified.
pub fn model(text: &str, mode: Mode, batch: usize) -> Model {
    model_in_phase(text, mode, batch, 0)
}

/// As [`model`], in the phase at that place.
pub fn model_in_phase(text: &str, mode: Mode, batch: usize, phase: usize) -> Model {
    let model = match try_lower_phase(text, mode, batch, phase) {
        Ok(lowered) => lowered.model,
        Err(errors) => panic!("{errors}"),
    };
    ddnnc_ir::verify(&model.graph).expect("a lowered graph is well formed");
    model
}

/// The errors of a spec that parses, whatever they are.
pub fn errors(text: &str) -> Vec<Diagnostic> {
    let file = ddnnc_syntax::parse(text, ddnnc_diag::SourceId(0)).expect("the text parses");
    lower(&file, &Options { mode: Mode::Train, batch: None, phase: 0 }).err().unwrap_or_default()
}

/// A spec of the project.
pub fn spec(name: &str) -> String {
    let path = format!("{}/../../specs/{name}.ddnn", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// The names of the project's specs.
pub fn specs() -> Vec<String> {
    let folder = format!("{}/../../specs", env!("CARGO_MANIFEST_DIR"));
    let mut names: Vec<String> = std::fs::read_dir(folder)
        .expect("specs/ can be listed")
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.strip_suffix(".ddnn").map(String::from))
        .collect();
    names.sort();
    names
}

/// A net of a model.
pub fn net<'m>(model: &'m Model, name: &str) -> &'m Net {
    model.nets.iter().find(|n| n.name == name).unwrap_or_else(|| panic!("no net {name}"))
}

/// How many operators of a kind a graph has.
pub fn count(graph: &Graph, wanted: impl Fn(&Op) -> bool) -> usize {
    graph.nodes().filter(|&id| wanted(&graph.node(id).op)).count()
}

/// Some content for every source of a graph, by name: variances positive, labels in range.
pub fn feeds(graph: &Graph) -> IndexMap<String, Tensor> {
    let mut feeds = IndexMap::new();
    for id in graph.nodes() {
        let node = graph.node(id);
        let (Op::Input { name } | Op::Parameter { name, .. } | Op::State { name }) = &node.op else {
            continue;
        };
        let ty = node.results[0].clone();
        let seed = name.bytes().fold(0.0, |sum, b| sum + f64::from(b));
        let data = (0..ty.elements())
            .map(|i| match ty.dtype {
                DType::I64 => (i % 5) as f64,
                DType::F32 | DType::Bf16 => (seed + 1.7 * i as f64).sin().abs() + 0.1,
            })
            .collect();
        feeds.insert(name.clone(), Tensor { ty, data });
    }
    feeds
}
