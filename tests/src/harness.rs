//! From spec text to numbers: compile, feed, run on a device.

use ddnnc_diag::{SourceMap, render};
use ddnnc_ir::{DType, Graph, Mode, Model, verify};
use ddnnc_lower::{Options, lower};
use ddnnc_passes::{Device, Executable, Goal, Program, compile, compile_with};
use std::collections::BTreeMap;

/// Tensors by name.
pub type Tensors = BTreeMap<String, Vec<f32>>;

/// Lowers a spec, with the diagnostics as the panic's text.
pub fn model(text: &str, mode: Mode, batch: usize) -> Model {
    try_model(text, mode, Some(batch)).unwrap_or_else(|diagnostics| panic!("{diagnostics}"))
}

/// Lowers a spec for a batch, or for its own.
///
/// # Errors
///
/// The diagnostics as a user sees them.
pub fn try_model(text: &str, mode: Mode, batch: Option<usize>) -> Result<Model, String> {
    try_model_in(text, mode, batch, 0)
}

/// As [`try_model`], in the phase at that place.
///
/// # Errors
///
/// The diagnostics as a user sees them.
pub fn try_model_in(text: &str, mode: Mode, batch: Option<usize>, phase: usize) -> Result<Model, String> {
    let mut sources = SourceMap::new();
    let id = sources.add("test.ddnn", text);
    let lowered =
        ddnnc_syntax::parse(text, id).and_then(|file| lower(&file, &Options { mode, batch, phase }));
    lowered.map(|lowered| lowered.model).map_err(|errors| render(&errors, &sources, false))
}

/// The text of a spec under `specs/`.
pub fn spec(name: &str) -> String {
    let path = format!("{}/../specs/{name}.ddnn", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// The step of a model with layouts and precision settled and nothing fused.
pub fn unfused(model: &Model, goal: Goal) -> Graph {
    let passes = ["dead_code", "share_prefixes", "canonical", "assign_layout"];
    let options = ddnnc_passes::Options::named(&passes).expect("passes by name");
    let compiled = compile_with(model, goal, &options, &mut |_, _| {}).expect("a spec compiles");
    verify(&compiled.graph).expect("the passes leave a graph that verifies");
    compiled.graph
}

/// A spec of smaller images and narrower layers, so that the evaluator is done in seconds: every number from 24 on
/// before the recipe of training becomes an eighth, the image as small as the strides allow.
pub fn narrow(name: &str, mode: Mode, batch: usize) -> Model {
    let text = spec(name);
    let (network, recipe) = text.split_once("\ntrain ").expect("a spec says how to train");
    let image = if name == "branchynet_alexnet" { 67 } else { 40 };
    let mut out = String::new();
    for line in network.lines() {
        if line.starts_with("input") {
            out += &line.replace("224", &image.to_string()).replace("32, 32]", "16, 16]");
        } else {
            narrow_line(line, &mut out);
        }
        out.push('\n');
    }
    model(&format!("{out}train {recipe}"), mode, batch)
}

fn narrow_line(line: &str, out: &mut String) {
    let mut rest = line;
    while let Some(at) = rest.find(|c: char| c.is_ascii_alphanumeric()) {
        let (before, word) = rest.split_at(at);
        let end = word.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(word.len());
        let (word, after) = word.split_at(end);
        *out += before;
        match word.parse::<usize>() {
            Ok(n) if n >= 24 => *out += &(n / 8).to_string(),
            _ => *out += word,
        }
        rest = after;
    }
    *out += rest;
}

/// The names of all specs under `specs/`, sorted.
pub fn specs() -> Vec<String> {
    let folder = format!("{}/../specs", env!("CARGO_MANIFEST_DIR"));
    let mut names: Vec<String> = std::fs::read_dir(folder)
        .expect("specs/ can be listed")
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.strip_suffix(".ddnn").map(String::from))
        .collect();
    names.sort();
    names
}

/// A program for a goal.
pub fn program(model: &Model, goal: Goal) -> Program {
    compile(model, goal, &mut |_, _| {}).expect("a lowered model compiles").program
}

/// Numbers in [−1, 1) from a counter: the same for the same seed, different for different names.
pub struct Noise(u64);

impl Noise {
    /// A stream for a name.
    pub fn new(seed: u64, name: &str) -> Noise {
        Noise(seed ^ crate::digest::fnv1a(name))
    }

    /// The stream that begins there.
    pub fn from_bits(bits: u64) -> Noise {
        Noise(bits)
    }

    /// The next 64 bits (splitmix64).
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// The next number.
    pub fn number(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
}

/// Random weights and plausible running statistics for every parameter and state of a model; private names
/// (`@small`) get values of their own.
pub fn random_weights(model: &Model, seed: u64) -> Tensors {
    let mut tensors = Tensors::new();
    for (name, parameter) in &model.parameters {
        let mut noise = Noise::new(seed, name);
        let fan: usize = parameter.shape.dims().iter().skip(1).product();
        let (scale, base) = match parameter.shape.rank() {
            1 => (0.2, if name.ends_with(".weight") { 1.0 } else { 0.0 }),
            _ => ((3.0 / fan as f32).sqrt(), 0.0),
        };
        tensors.insert(
            name.clone(),
            (0..parameter.shape.elements()).map(|_| base + scale * noise.number()).collect(),
        );
    }
    for (name, state) in &model.states {
        let mut noise = Noise::new(seed, name);
        let base = if name.ends_with("running_var") { 1.0 } else { 0.0 };
        tensors
            .insert(name.clone(), (0..state.shape.elements()).map(|_| base + 0.3 * noise.number()).collect());
    }
    tensors
}

/// A random batch under the model's input and target names.
pub fn random_batch(model: &Model, seed: u64) -> (Vec<f32>, Vec<i64>) {
    let mut noise = Noise::new(seed, "image");
    let image = (0..model.batch * model.input.1.elements()).map(|_| noise.number()).collect();
    let mut noise = Noise::new(seed, "label");
    let label = (0..model.batch).map(|_| (noise.bits() % model.target.1 as u64) as i64).collect();
    (image, label)
}

/// Loads a program and fills everything it asks for: weights by name, the batch, and neutral values for the rest.
pub fn load(
    device: &dyn Device,
    program: &Program,
    model: &Model,
    weights: &Tensors,
    batch: &(Vec<f32>, Vec<i64>),
) -> Box<dyn Executable> {
    let mut run = device.load(program).expect("the program loads");
    for name in program.persistent.keys() {
        if let Some(data) = weights.get(name) {
            run.write_f32(name, data).expect("a weight of the right length");
        }
    }
    for (name, &id) in &program.inputs {
        let ty = &program.buffer(id).ty;
        match (name.as_str(), ty.dtype) {
            (n, _) if n == model.input.0 => run.write_f32(n, &batch.0),
            (n, _) if n == model.target.0 => run.write_i64(n, &batch.1),
            ("lr", _) => run.write_f32("lr", &[0.05]),
            (n, DType::I64) => run.write_i64(n, &vec![1; ty.elements()]),
            (n, DType::F32 | DType::Bf16) => run.write_f32(n, &vec![1.0; ty.elements()]),
        }
        .expect("an input of the right length");
    }
    run
}

/// Runs a program once and reads every output and persistent buffer.
pub fn run_once(
    device: &dyn Device,
    program: &Program,
    model: &Model,
    weights: &Tensors,
    batch: &(Vec<f32>, Vec<i64>),
) -> Tensors {
    let mut run = load(device, program, model, weights, batch);
    run.run().expect("the step runs");
    read_all(run.as_ref())
}

/// Every output and persistent buffer of a program.
pub fn read_all(run: &dyn Executable) -> Tensors {
    let program = run.program();
    let mut tensors = Tensors::new();
    for name in program.outputs.keys().chain(program.persistent.keys()) {
        let id = program.named(name).expect("a name of the program");
        let mut data = vec![0.0; program.buffer(id).ty.elements()];
        run.read_f32(name, &mut data).expect("a buffer of that length");
        tensors.insert(name.clone(), data);
    }
    tensors
}

/// The bits of a tensor, for equality that tells −0 from 0 and compares NaN.
pub fn bits(data: &[f32]) -> Vec<u32> {
    data.iter().map(|x| x.to_bits()).collect()
}

/// How many pairs differ by more than `tolerance` times the largest entry of `b` (at least 1e-6); NaN counts.
pub fn mismatches(a: &[f32], b: &[f32], tolerance: f32) -> usize {
    assert_eq!(a.len(), b.len());
    let scale = b.iter().fold(1e-6f32, |m, x| m.max(x.abs()));
    a.iter()
        .zip(b)
        .filter(|(a, b)| {
            let difference = (*a - *b).abs();
            let within = difference <= tolerance * scale;
            !within
        })
        .count()
}
