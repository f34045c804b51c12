//! From text to a model, or to rendered diagnostics.

#![allow(dead_code)]

use ddnnc_diag::{Diagnostic, SourceMap, render};
use ddnnc_ir::{Mode, Model, Net};
use ddnnc_lower::{Lowered, Options, lower};

/// Parses and lowers, with the diagnostics rendered.
pub fn try_lower(text: &str, mode: Mode, batch: usize) -> Result<Lowered, String> {
    let mut sources = SourceMap::new();
    let id = sources.add("test.ddnn", text);
    let file = ddnnc_syntax::parse(text, id).map_err(|e| render(&e, &sources, false))?;
    lower(&file, &Options { mode, batch: Some(batch) }).map_err(|e| render(&e, &sources, false))
}

/// The model of a sound spec, verified.
pub fn model(text: &str, mode: Mode, batch: usize) -> Model {
    let model = match try_lower(text, mode, batch) {
        Ok(lowered) => lowered.model,
        Err(errors) => panic!("{errors}"),
    };
    ddnnc_ir::verify(&model.graph).expect("a lowered graph is well formed");
    model
}

/// The errors of a spec that parses, whatever they are.
pub fn errors(text: &str) -> Vec<Diagnostic> {
    let file = ddnnc_syntax::parse(text, ddnnc_diag::SourceId(0)).expect("the text parses");
    lower(&file, &Options { mode: Mode::Train, batch: None }).err().unwrap_or_default()
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
