//! What the commands on data and trained weights share: the folder of data, the spec and weights of a run, the table of
//! results.

use crate::cli::{SpecArgs, WeightArgs};
use crate::output::{grouped, percent, si, table};
use crate::weights;
use crate::{Failure, Spec, Ui, device};
use ddnnc_ir::Model;
use ddnnc_passes::DeviceError;
use ddnnc_train::{
    Checkpoint, DataError, Fit, NetResult, RunFolder, Tensors, TrainError, WeightsError, WeightsFile,
    named_classes, read_metadata, read_weights,
};
use std::path::{Path, PathBuf};

/// The exit status of an error of the training library.
pub fn failed(error: TrainError) -> Failure {
    if let TrainError::Device(error @ (DeviceError::TooLarge { .. } | DeviceError::OutOfMemory { .. })) =
        error
    {
        return device::failed(error);
    }
    if error.is_environment() { Failure::environment(error) } else { Failure::input(error) }
}

/// What is wrong with data is the input's fault.
pub fn bad_data(error: DataError) -> Failure {
    failed(TrainError::from(error))
}

/// Threads that prepare batches: reading files of images is work, reading memory is not.
pub fn loader_threads() -> usize {
    std::thread::available_parallelism().map_or(1, |n| n.get().div_ceil(2)).min(8)
}

/// The folder of data: `--data`, or what the spec writes.
pub fn data_folder(spec: &Spec, model: &Model, given: Option<&Path>) -> Result<PathBuf, Failure> {
    if let Some(given) = given {
        return match given.is_dir() {
            true => Ok(given.to_path_buf()),
            false if given.exists() => Err(Failure::input(format!("`{}` is no folder", given.display()))),
            false => Err(Failure::input(format!("no folder `{}`", given.display()))),
        };
    }
    let Some(written) = &model.recipe.data.path else {
        return Err(Failure::input("the spec says no path for its data")
            .hint("give the folder with `--data DIR`, or write `path = \"DIR\"` in the spec's `data`"));
    };
    spec.resolve(written).map_err(|tried| {
        let tried: Vec<String> = tried.iter().map(|p| format!("`{}`", p.display())).collect();
        Failure::input(format!("no folder `{written}` with the data of `{}`", model.name))
            .hint(format!("looked for {}", tried.join(", ")))
            .hint("give the folder with `--data DIR`")
    })
}

/// What the data has to fit.
pub fn fit(model: &Model) -> Fit<'_> {
    let recipe = &model.recipe;
    Fit { input: &model.input.1, classes: model.target.1, validation: recipe.validation, seed: recipe.seed }
}

/// Where weights come from.
#[derive(Clone, Debug)]
pub enum WeightSource {
    /// A weights file or checkpoint.
    File(PathBuf),
    /// The newest complete checkpoint of a run folder.
    Run(PathBuf),
}

/// The net that a weights file of `export` holds, in its metadata.
pub const SUBNET: &str = "subnet";

/// The text of the spec, in the metadata of a file of `export`.
pub const SPEC_TEXT: &str = "spec_text";

/// The text of its spec, where a file is one of `export`.
fn exported_spec(path: &Path) -> Result<Option<String>, Failure> {
    // A pipe can be read only once; a file that cannot be read is the spec's reader to say.
    let metadata = if path.is_file() { read_metadata(path).ok().flatten() } else { None };
    let Some(mut metadata) = metadata else { return Ok(None) };
    let text = metadata.remove(SPEC_TEXT);
    text.map(Some).ok_or_else(|| {
        Failure::input(format!("`{}` is a weights file without a spec", path.display()))
            .hint(format!("give the spec as well: `SPEC --weights {}`", path.display()))
    })
}

/// The spec that the user means, be it a file, a run folder or a file of `export`, and where the weights are.
pub fn spec_and_weights(
    spec: &SpecArgs,
    given: &WeightArgs,
    ui: Ui,
) -> Result<(Spec, WeightSource), Failure> {
    let run = spec.spec.is_dir();
    let path = if run { spec.spec.join("spec.ddnn") } else { spec.spec.clone() };
    if run && !path.is_file() {
        return Err(Failure::input(format!(
            "`{}` is no run folder: it has no spec.ddnn",
            spec.spec.display()
        )));
    }
    if weights::is_onnx(&path) {
        return Err(Failure::input(format!(
            "`{}` is an ONNX model, which `ddnnc` writes and does not read",
            path.display()
        ))
        .hint("give the run, or a safetensors file of `ddnnc export`; ONNX Runtime runs this one"));
    }
    let exported = exported_spec(&path)?;
    let source = match (&given.weights, &given.run) {
        (Some(file), _) => WeightSource::File(file.clone()),
        (None, Some(folder)) => WeightSource::Run(folder.clone()),
        (None, None) if run => WeightSource::Run(spec.spec.clone()),
        (None, None) if exported.is_some() => WeightSource::File(path.clone()),
        (None, None) if !path.exists() => {
            return Err(Failure::input(format!("no spec and no run folder `{}`", path.display())));
        }
        (None, None) => {
            return Err(Failure::usage(format!("no weights for `{}`", path.display()))
                .hint("give a file with `--weights FILE` or a run with `--run RUN`"));
        }
    };
    let spec = match exported {
        Some(text) => Spec::of_text(&path, &text, &spec.set, ui)?,
        None => Spec::load(&path, &spec.set, ui)?,
    };
    Ok((spec, source))
}

/// What was learned.
#[derive(Clone, Debug)]
pub struct Trained {
    /// Exactly the parameters and running statistics of the model.
    pub values: Tensors,
    /// The names of the classes by number; empty where they are not known.
    pub classes: Vec<String>,
}

impl Trained {
    fn new(checkpoint: Checkpoint, model: &Model, path: &Path) -> Result<Trained, Failure> {
        weights::check(model, &checkpoint.values, path)?;
        Ok(Trained { values: checkpoint.values, classes: checkpoint.classes })
    }
}

impl WeightSource {
    /// As [`WeightSource::read`]; of an inference model, a file of `export` leaves the net that it holds.
    pub fn read_for(&self, model: &mut Model, ui: Ui) -> Result<Trained, Failure> {
        let WeightSource::File(path) = self else { return self.read(model, ui) };
        let file = read_file(path)?;
        if let Some(net) = file.metadata.get(SUBNET).filter(|net| model.nets.iter().any(|n| n.name == **net))
        {
            model.keep_only(net).map_err(|e| device::not_compiled(&e.into()))?;
        }
        of_file(file, path, model)
    }

    /// Reads exactly the parameters and running statistics of a model; says which checkpoints of a run were passed over.
    pub fn read(&self, model: &Model, ui: Ui) -> Result<Trained, Failure> {
        match self {
            WeightSource::File(path) => of_file(read_file(path)?, path, model),
            WeightSource::Run(folder) => {
                let shown = folder.display();
                if !folder.is_dir() {
                    return Err(Failure::input(format!("no run folder `{shown}`")));
                }
                if !folder.join("checkpoints").is_dir() {
                    return Err(Failure::input(format!("`{shown}` is no run folder: it has no checkpoints")));
                }
                if RunFolder::newest_checkpoint(folder).map_err(failed)?.is_none() {
                    return Err(Failure::input(format!("the run `{shown}` has no checkpoint yet")));
                }
                let (path, checkpoint, warnings) = RunFolder::newest_complete(folder).map_err(failed)?;
                warnings.iter().for_each(|text| ui.warn(text));
                Trained::new(checkpoint, model, &path)
            }
        }
    }
}

/// The way out where weights come from elsewhere.
const IMPORT: &str =
    "`ddnnc import` makes a file for this spec of weights that bear other names or are for other classes";

/// Reads a file of weights.
fn read_file(path: &Path) -> Result<WeightsFile, Failure> {
    read_weights(path).map_err(|error| match error {
        WeightsError::ElementType { .. } => weights::failed(error).hint(IMPORT),
        error => weights::failed(error),
    })
}

/// What a weights file or a checkpoint holds.
fn of_file(file: WeightsFile, path: &Path, model: &Model) -> Result<Trained, Failure> {
    if file.metadata.contains_key("checksum") {
        return Trained::new(Checkpoint::read(path).map_err(weights::failed)?, model, path);
    }
    weights::check(model, &file.tensors, path).map_err(|failure| match file.metadata.get(SUBNET) {
        Some(net) => failure.hint(format!(
            "it was exported and holds `{net}` alone: `ddnnc import` renames its tensors for a spec that declares that \
             net alone"
        )),
        None => failure.hint(IMPORT),
    })?;
    let classes = named_classes(path, &file.metadata).map_err(weights::failed)?;
    Ok(Trained { values: file.tensors, classes })
}

/// The net of a name; the first where none is given.
pub fn net<'m>(model: &'m Model, name: Option<&str>) -> Result<&'m ddnnc_ir::Net, Failure> {
    let found = match name {
        Some(name) => model.nets.iter().find(|n| n.name == name),
        None => model.nets.first(),
    };
    found.ok_or_else(|| {
        let names: Vec<&str> = model.nets.iter().map(|n| n.name.as_str()).collect();
        let wanted = name.unwrap_or_default();
        let failure = Failure::input(format!("`{}` has no net `{wanted}`", model.name));
        match ddnnc_diag::did_you_mean(wanted, names.iter().copied()) {
            Some(near) => failure.hint(format!("did you mean `{near}`?")),
            None => failure.hint(format!("its nets are {}", names.join(", "))),
        }
    })
}

/// A row per net: parameters, multiply-accumulates, and accuracies where they were measured.
pub fn results_table(model: &Model, columns: &[(&str, &[NetResult])]) -> String {
    let columns: Vec<_> = columns.iter().filter(|(_, results)| !results.is_empty()).collect();
    let mut header = vec!["sub-net", "parameters", "MACs"];
    header.extend(columns.iter().map(|(name, _)| *name));
    let rows: Vec<Vec<String>> = model
        .nets
        .iter()
        .map(|net| {
            let mut row = vec![net.name.clone(), grouped(net.parameter_count), si(net.macs)];
            row.extend(columns.iter().map(|(_, results)| {
                results.iter().find(|r| r.name == net.name).map_or("-".to_string(), |r| percent(r.accuracy))
            }));
            row
        })
        .collect();
    table(1, &header, &rows)
}
