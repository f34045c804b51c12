//! Weights files as commands read and write them.

use crate::output::{bytes, other_format};
use crate::spec::Spec;
use crate::{Failure, Ui};
use ddnnc_ir::Model;
use ddnnc_passes::Executable;
use ddnnc_train::{Tensors, WeightsError, begins_as_onnx, check_weights, initial_values};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// What is wrong with weights: the input, or the disk.
pub fn failed(error: WeightsError) -> Failure {
    match error {
        WeightsError::OutOfMemory { needed } => {
            let needed = bytes(needed as u64);
            Failure::environment(format!("the weights need {needed}, and as much memory cannot be had"))
        }
        error if error.is_environment() => Failure::environment(error),
        error => Failure::input(error),
    }
}

/// Checks that tensors are exactly the parameters and running statistics of a model.
pub fn check(model: &Model, tensors: &Tensors, path: &Path) -> Result<(), Failure> {
    check_weights(model, tensors).map_err(|e| failed(e.at(path)))
}

/// Initial values; files that the spec loads are looked for as [`Spec::resolve`] does.
pub fn initial(spec: &Spec, model: &Model, seed: u64) -> Result<Tensors, Failure> {
    initial_values(&resolved(spec, model)?, seed, Path::new("")).map_err(|error| match error {
        WeightsError::Mismatch { .. } => failed(error).hint(
            "`load` takes every tensor of its network and no other: `ddnnc export` writes such a file of one net of a run",
        ),
        error => failed(error),
    })
}

/// Initial values of the tensors of these names; files that the spec loads are read only where one of them comes from such.
pub fn initial_of(spec: &Spec, model: &Model, names: &[String], seed: u64) -> Result<Tensors, Failure> {
    let mut model = model.clone();
    let loads = |name: &String| {
        model.parameters.get(name).is_some_and(|p| p.load.is_some())
            || model.states.get(name).is_some_and(|s| s.load.is_some())
    };
    if !names.iter().any(loads) {
        model.parameters.values_mut().for_each(|p| p.load = None);
        model.states.values_mut().for_each(|s| s.load = None);
    }
    let mut values = initial(spec, &model, seed)?;
    values.retain(|name, _| names.contains(name));
    Ok(values)
}

/// The model with the files that its networks load at the places where they lie.
pub fn resolved(spec: &Spec, model: &Model) -> Result<Model, Failure> {
    let mut model = model.clone();
    let loads = model.parameters.values_mut().map(|p| &mut p.load);
    for written in loads.chain(model.states.values_mut().map(|s| &mut s.load)).flatten() {
        let found = spec.resolve(written).map_err(|tried| {
            let tried: Vec<String> = tried.iter().map(|p| format!("`{}`", p.display())).collect();
            Failure::input(format!("the spec loads `{written}`, and no such file is there"))
                .hint(format!("looked for {}", tried.join(", ")))
                .hint("give another with `--set network.NAME.load='\"FILE\"'`")
        })?;
        *written = found.to_string_lossy().into_owned();
    }
    Ok(model)
}

/// The files that the networks of a [`resolved`] model load.
pub fn loaded(model: &Model) -> BTreeSet<PathBuf> {
    let parameters = model.parameters.values().map(|p| &p.load);
    parameters.chain(model.states.values().map(|s| &s.load)).flatten().map(PathBuf::from).collect()
}

/// Writes tensors into the persistent buffers of a program that bear their names.
pub fn fill(run: &mut dyn Executable, tensors: &Tensors) -> Result<(), Failure> {
    let names: Vec<String> = run.program().persistent.keys().cloned().collect();
    for name in names {
        if let Some(tensor) = tensors.get(&name) {
            run.write_f32(&name, &tensor.data).map_err(crate::device::failed)?;
        }
    }
    Ok(())
}

/// Endings by which the files of other tools are known.
const OTHER_FORMATS: &str = "caffemodel ckpt engine ggml gguf h5 hdf5 keras mlmodel mlpackage npy npz onnx ort pb \
    pdmodel pdparams pickle pkl pt pt2 pte pth tflite";

/// What `export` writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Tensors and metadata.
    Safetensors,
    /// An ONNX model.
    Onnx,
}

/// The format that the name of an exported file asks for; refuses one that promises a format which is not written.
pub fn exported_format(path: &Path) -> Result<Format, Failure> {
    match other_format(path, OTHER_FORMATS) {
        None => Ok(Format::Safetensors),
        Some(ending) if ending == ONNX => Ok(Format::Onnx),
        Some(ending) => Err(misnamed(path, "", &ending).hint(format!(
            "or `{}`, an ONNX model, which ONNX Runtime runs and which converters to other formats take",
            path.with_extension(ONNX).display()
        ))),
    }
}

/// Refuses a name that promises another format than safetensors, where that is the only one.
pub fn named_as_written(path: &Path) -> Result<(), Failure> {
    let Some(ending) = other_format(path, OTHER_FORMATS) else { return Ok(()) };
    let failure = misnamed(path, ", the only format that this command writes", &ending);
    Err(if ending == ONNX { failure.hint("`ddnnc export` writes ONNX models") } else { failure })
}

/// The ending of ONNX models.
const ONNX: &str = "onnx";

fn misnamed(path: &Path, only: &str, ending: &str) -> Failure {
    let shown = path.display();
    Failure::usage(format!("{shown} would be a safetensors file{only}, and no .{ending}")).hint(format!(
        "name it `{}`; `safetensors.torch.load_file` reads that in PyTorch, `safetensors.numpy.load_file` in NumPy",
        path.with_extension("safetensors").display()
    ))
}

/// Whether a file is an ONNX model. A pipe can be read only once, and what cannot be read is its reader's to say.
pub fn is_onnx(path: &Path) -> bool {
    let mut bytes = Vec::new();
    path.is_file()
        && File::open(path).is_ok_and(|file| file.take(16).read_to_end(&mut bytes).is_ok())
        && begins_as_onnx(&bytes)
}

/// Says where a file went.
pub fn wrote(ui: Ui, what: &str, path: &Path) {
    ui.note(&format!("wrote {what} to {}", path.display()));
}
