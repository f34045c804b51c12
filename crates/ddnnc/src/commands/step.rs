//! `ddnnc step`: one step on given tensors, or fresh weights.

use crate::cli::StepArgs;
use crate::output::apart;
use crate::training::WeightSource;
use crate::{Failure, Spec, Ui, device, weights};
use ddnnc_ir::{DType, Mode, Model, Shape};
use ddnnc_passes::{Executable, Goal, Options};
use ddnnc_train::{Tensor, Tensors, write_weights};
use safetensors::{Dtype, SafeTensors};
use std::collections::BTreeMap;
use std::path::Path;

/// Writes initial weights, or runs a step and writes what it gives.
pub fn run(args: &StepArgs, ui: Ui) -> Result<(), Failure> {
    let options = device::options_on(&args.device, &args.passes)?;
    args.out.iter().chain(&args.init).try_for_each(|path| weights::named_as_written(path))?;
    let inputs = [&args.spec.spec].into_iter().chain(&args.weights).chain(&args.batch);
    apart(inputs, args.out.iter().chain(&args.init))?;
    let spec = Spec::load(&args.spec.spec, &args.spec.set, ui)?;
    match (&args.init, &args.weights, &args.batch) {
        (Some(path), _, _) => init(args, &spec, path, ui),
        (None, Some(weights), Some(batch)) => step(args, &spec, [weights, batch], &options, ui),
        // The command line's groups leave no other case.
        _ => Err(Failure::input("`step` needs --init, or --weights and --batch")),
    }
}

fn init(args: &StepArgs, spec: &Spec, path: &Path, ui: Ui) -> Result<(), Failure> {
    // Every phase has the same weights.
    let model = spec.lower_in(args.phase.phase.as_deref(), Mode::Train, None)?;
    let seed = args.seed.unwrap_or(model.recipe.seed);
    apart(&weights::loaded(&weights::resolved(spec, &model)?), [&path.to_path_buf()])?;
    let tensors = weights::initial(spec, &model, seed)?;
    let metadata =
        BTreeMap::from([("model".to_string(), model.name.clone()), ("seed".to_string(), seed.to_string())]);
    write_weights(path, &tensors, &metadata).map_err(weights::failed)?;
    weights::wrote(ui, "fresh weights", path);
    Ok(())
}

fn step(
    args: &StepArgs,
    spec: &Spec,
    [weights, batch]: [&Path; 2],
    options: &Options,
    ui: Ui,
) -> Result<(), Failure> {
    let mode = if args.eval { Mode::Eval } else { Mode::Train };
    let batch = Batch::read(batch)?;
    let images = batch.images(spec)?;
    let model = spec.lower_in(args.phase.phase.as_deref(), mode, Some(images))?;
    let (image, label) = batch.check(&model)?;
    let tensors = WeightSource::File(weights.to_path_buf()).read(&model, ui)?.values;
    let device = device::open(&args.device, ui)?;
    let compiled = device::compile(&model, Goal::Gradients, options)?;
    let mut run = device.load(&compiled.program).map_err(device::failed)?;
    weights::fill(run.as_mut(), &tensors)?;
    feed(run.as_mut(), &model, &image, &label, args.seed.unwrap_or(model.recipe.seed))?;
    run.run().map_err(device::failed)?;
    let results = results(run.as_ref(), &tensors)?;
    let Some(out) = &args.out else {
        return crate::output::print(&losses(&results));
    };
    let metadata = BTreeMap::from([("model".to_string(), model.name.clone())]);
    write_weights(out, &results, &metadata).map_err(weights::failed)?;
    weights::wrote(ui, "logits, losses, gradients and statistics", out);
    Ok(())
}

/// Sets the inputs of a step: the batch, random state (seed, 0), and each ramped weight as at epoch 0.
fn feed(
    run: &mut dyn Executable,
    model: &Model,
    image: &[f32],
    label: &[i64],
    seed: u64,
) -> Result<(), Failure> {
    let inputs: Vec<(String, DType)> = {
        let program = run.program();
        program.inputs.iter().map(|(name, &id)| (name.clone(), program.buffer(id).ty.dtype)).collect()
    };
    for (name, dtype) in inputs {
        let written = if name == model.input.0 {
            run.write_f32(&name, image)
        } else if name == model.target.0 {
            run.write_i64(&name, label)
        } else if name == "rng" && dtype == DType::I64 {
            run.write_i64(&name, &[seed as i64, 0])
        } else {
            let term = name.strip_prefix("weight.").unwrap_or(&name);
            let weight = model.terms.iter().find(|t| t.name == term).map_or(1.0, |t| t.weight.at(0.0));
            run.write_f32(&name, &[weight as f32])
        };
        written.map_err(device::failed)?;
    }
    Ok(())
}

/// Every output of the step; a running statistic that the program does not give is as it was.
fn results(run: &dyn Executable, weights: &Tensors) -> Result<Tensors, Failure> {
    let program = run.program();
    let mut results = Tensors::new();
    for (name, &id) in &program.outputs {
        let ty = &program.buffer(id).ty;
        let mut data = vec![0.0; ty.elements()];
        run.read_f32(name, &mut data).map_err(device::failed)?;
        results.insert(name.clone(), Tensor { shape: ty.shape.clone(), data });
    }
    for (name, tensor) in weights {
        let state = format!("state.{name}");
        let statistic = name.ends_with(".running_mean") || name.ends_with(".running_var");
        if statistic && !results.contains_key(&state) {
            results.insert(state, tensor.clone());
        }
    }
    Ok(results)
}

fn losses(results: &Tensors) -> String {
    let terms = results.iter().filter(|(name, _)| name.starts_with("loss."));
    terms.filter_map(|(name, t)| Some(format!("{name}\t{}\n", t.data.first()?))).collect()
}

/// The tensors of a batch file.
struct Batch<'a> {
    path: &'a Path,
    bytes: Vec<u8>,
}

impl<'a> Batch<'a> {
    fn read(path: &'a Path) -> Result<Batch<'a>, Failure> {
        let bytes = std::fs::read(path).map_err(|e| Failure::reading(path, &e))?;
        Ok(Batch { path, bytes })
    }

    fn tensors(&self) -> Result<SafeTensors<'_>, Failure> {
        SafeTensors::deserialize(&self.bytes).map_err(|e| {
            Failure::input(format!("{} is not a complete safetensors file: {e}", self.path.display()))
        })
    }

    fn wrong(&self, problems: &[String]) -> Failure {
        Failure::input(format!(
            "the batch in {} does not fit:\n  {}",
            self.path.display(),
            problems.join("\n  ")
        ))
    }

    /// N, from whichever tensor has it; the model's own names of input and target count as `image` and `label`.
    fn images(&self, spec: &Spec) -> Result<usize, Failure> {
        let (model, _) = spec.lower_quietly(Mode::Eval, Some(1))?;
        let tensors = self.tensors()?;
        let found =
            find(&tensors, "image", &model.input.0).or_else(|| find(&tensors, "label", &model.target.0));
        match found.and_then(|view| view.shape().first().copied()) {
            Some(n) if (1..=65_536).contains(&n) => Ok(n),
            Some(n) => Err(self.wrong(&[format!("{n} images; a step takes 1 to 65536")])),
            None => Err(self.wrong(&["`image` is missing".to_string(), "`label` is missing".to_string()])),
        }
    }

    /// Image and label, once they are what the model takes; the error names all that is wrong.
    fn check(&self, model: &Model) -> Result<(Vec<f32>, Vec<i64>), Failure> {
        let tensors = self.tensors()?;
        let mut problems = Vec::new();
        let mut dims = vec![model.batch];
        dims.extend(model.input.1.dims());
        let wanted = [
            ("image", model.input.0.as_str(), Dtype::F32, "f32", Shape::from(dims.as_slice())),
            ("label", model.target.0.as_str(), Dtype::I64, "i64", Shape::from([model.batch])),
        ];
        for (name, own, dtype, text, shape) in &wanted {
            match find(&tensors, name, own) {
                None => problems.push(format!("`{name}` {text}{shape} is missing")),
                Some(view) if view.dtype() != *dtype || Shape::from(view.shape()) != *shape => {
                    let found = format!("{:?}", view.dtype()).to_lowercase();
                    problems
                        .push(format!("`{name}` is {found}{}, not {text}{shape}", Shape::from(view.shape())));
                }
                Some(_) => {}
            }
        }
        for name in tensors.names() {
            if !wanted.iter().any(|w| name == w.0 || name == w.1) {
                problems.push(format!("`{name}` is neither `image` nor `label`"));
            }
        }
        problems.sort();
        let image = find(&tensors, "image", &model.input.0).map(|v| floats(v.data())).unwrap_or_default();
        let label = find(&tensors, "label", &model.target.0).map(|v| integers(v.data())).unwrap_or_default();
        if problems.is_empty() {
            let classes = model.target.1 as i64;
            for (i, &label) in label.iter().enumerate().filter(|(_, l)| !(0..classes).contains(*l)) {
                problems.push(format!(
                    "label {label} of image {i} is out of range: there are {classes} classes, from 0"
                ));
            }
        }
        if problems.is_empty() { Ok((image, label)) } else { Err(self.wrong(&problems)) }
    }
}

fn find<'t>(tensors: &SafeTensors<'t>, name: &str, own: &str) -> Option<safetensors::tensor::TensorView<'t>> {
    tensors.tensor(name).or_else(|_| tensors.tensor(own)).ok()
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

fn integers(bytes: &[u8]) -> Vec<i64> {
    let word = |b: &[u8]| i64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]);
    bytes.chunks_exact(8).map(word).collect()
}
