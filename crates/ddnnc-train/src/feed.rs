//! The named inputs of a step, and the transfer of tensors to and from a device.

use crate::data::Batch;
use crate::error::TrainError;
use crate::weights::{Tensor, Tensors};
use ddnnc_ir::Model;
use ddnnc_passes::{DeviceError, Executable, PersistentKind, Program};

/// The numbers of a step that are not data.
#[derive(Clone, Copy)]
pub(crate) struct Clock {
    /// Steps done before this one.
    pub step: u64,
    /// Steps of its phase done before this one.
    pub of_phase: u64,
    /// Learning rate.
    pub lr: f64,
    /// Epochs of its phase done, as a fraction.
    pub epochs: f64,
}

/// Which inputs a program has.
pub(crate) struct Feed {
    image: Option<String>,
    label: Option<String>,
    lr: bool,
    optimizer_step: bool,
    rng: bool,
    weights: Vec<(String, ddnnc_ir::Weight)>,
    seed: i64,
}

impl Feed {
    /// Finds out what `program` needs; an input that the loop cannot give is an error.
    pub(crate) fn new(model: &Model, program: &Program) -> Result<Feed, TrainError> {
        let has = |name: &str| program.inputs.contains_key(name);
        let mut weights = Vec::new();
        for term in &model.terms {
            let name = format!("weight.{}", term.name);
            if has(&name) {
                weights.push((name, term.weight));
            }
        }
        let feed = Feed {
            image: has(&model.input.0).then(|| model.input.0.clone()),
            label: has(&model.target.0).then(|| model.target.0.clone()),
            lr: has("lr"),
            optimizer_step: has("optimizer.step"),
            rng: has("rng"),
            weights,
            seed: model.recipe.seed.cast_signed(),
        };
        let known = |name: &String| {
            Some(name) == feed.image.as_ref()
                || Some(name) == feed.label.as_ref()
                || ["lr", "optimizer.step", "rng"].contains(&name.as_str())
                || feed.weights.iter().any(|(n, _)| n == name)
        };
        match program.inputs.keys().find(|n| !known(n)) {
            Some(name) => {
                Err(misfit(program, format!("it has the input `{name}`, which training cannot give")))
            }
            None => Ok(feed),
        }
    }

    /// Writes every input.
    pub(crate) fn write(
        &self,
        exec: &mut dyn Executable,
        batch: &Batch,
        clock: Clock,
    ) -> Result<(), DeviceError> {
        if let Some(name) = &self.image {
            exec.write_f32(name, &batch.images)?;
        }
        if let Some(name) = &self.label {
            exec.write_i64(name, &batch.labels)?;
        }
        if self.lr {
            exec.write_f32("lr", &[clock.lr as f32])?;
        }
        if self.optimizer_step {
            exec.write_f32("optimizer.step", &[(clock.of_phase + 1) as f32])?;
        }
        if self.rng {
            exec.write_i64("rng", &[self.seed, clock.step.cast_signed()])?;
        }
        for (name, weight) in &self.weights {
            exec.write_f32(name, &[weight.at(clock.epochs) as f32])?;
        }
        Ok(())
    }
}

pub(crate) fn misfit(program: &Program, message: String) -> TrainError {
    TrainError::Program { program: program.name.clone(), message }
}

/// Images in a step of a program.
pub(crate) fn batch_of(model: &Model, program: &Program) -> usize {
    program
        .inputs
        .get(&model.input.0)
        .and_then(|&b| program.buffer(b).ty.dims().first().copied())
        .unwrap_or(model.batch)
}

/// Writes parameters and running statistics; those that the program lacks are passed over.
pub(crate) fn upload(exec: &mut dyn Executable, values: &Tensors) -> Result<(), TrainError> {
    let program = exec.program();
    let kept = program.persistent.iter().filter(|(_, entry)| entry.kind != PersistentKind::Optimizer);
    let names: Vec<String> = kept.map(|(name, _)| name.clone()).collect();
    for name in names {
        let tensor = values.get(&name).ok_or_else(|| {
            misfit(exec.program(), format!("it keeps `{name}`, which the model does not have"))
        })?;
        exec.write_f32(&name, &tensor.data)?;
    }
    Ok(())
}

/// Reads parameters and running statistics into `values`; what the program lacks stays as it is.
pub(crate) fn download(exec: &dyn Executable, values: &mut Tensors) -> Result<(), DeviceError> {
    for (name, entry) in &exec.program().persistent {
        if entry.kind == PersistentKind::Optimizer {
            continue;
        }
        if let Some(tensor) = values.get_mut(name) {
            exec.read_f32(name, &mut tensor.data)?;
        }
    }
    Ok(())
}

/// Reads the optimizer's state.
pub(crate) fn download_optimizer(exec: &dyn Executable) -> Result<Tensors, DeviceError> {
    let mut state = Tensors::new();
    let program = exec.program();
    for (name, entry) in &program.persistent {
        if entry.kind == PersistentKind::Optimizer {
            let shape = program.buffer(entry.buffer).ty.shape.clone();
            let mut data = vec![0.0; shape.elements()];
            exec.read_f32(name, &mut data)?;
            state.insert(name.clone(), Tensor { shape, data });
        }
    }
    Ok(state)
}
