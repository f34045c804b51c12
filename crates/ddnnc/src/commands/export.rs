//! `ddnnc export`: one sub-net as a model of its own.

use crate::cascade::{cascaded, each_once};
use crate::cli::ExportArgs;
use crate::output::{apart, bytes, grouped, write_file};
use crate::training::{SPEC_TEXT, SUBNET, net, spec_and_weights};
use crate::weights::Format;
use crate::{Failure, Ui, device, weights};
use ddnnc_ir::{Mode, Model, Net};
use ddnnc_passes::stages;
use ddnnc_train::onnx::MAX_BYTES;
use ddnnc_train::{
    DataError, OnnxError, atomic_write_all, class_names, onnx_bytes, onnx_model, onnx_stage, preparation,
    subnet_weights, write_weights,
};
use serde_json::json;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Writes the tensors of one net, or the whole net as ONNX, or the nets of a cascade as one ONNX model each.
pub fn run(args: &ExportArgs, ui: Ui) -> Result<(), Failure> {
    let format = weights::exported_format(&args.output)?;
    each_once(&args.cascade)?;
    let outputs: Vec<PathBuf> = match args.cascade.as_slice() {
        [] => vec![args.output.clone()],
        _ if format == Format::Safetensors => {
            let example = args.output.with_extension("onnx");
            return Err(Failure::usage("the nets of a cascade are written as ONNX models")
                .hint(format!("name them `{}`; or export each with `--subnet`", example.display())));
        }
        nets => nets.iter().map(|net| of_stage(&args.output, net)).collect(),
    };
    let given = &args.weights;
    apart([&args.spec.spec].into_iter().chain(&given.weights).chain(&given.run), &outputs)?;
    let (spec, source) = spec_and_weights(&args.spec, &args.weights, ui)?;
    // Nothing that is written depends on the batch.
    let mut model = spec.lower(Mode::Eval, Some(1))?;
    let trained = source.read_for(&mut model, ui)?;
    let cascade = cascaded(&model, &args.cascade)?;
    let preparation = match image_keys(&model) {
        Ok(keys) => Some(keys),
        Err(why) => {
            ui.warn(&format!("the file does not say how images are prepared: {why}"));
            None
        }
    };
    let metadata = |net: &Net| {
        let stages: Vec<String> = net.stages.iter().map(|(stage, n)| format!("{stage}={n}")).collect();
        let keys = [
            ("model", model.name.clone()),
            (SUBNET, net.name.clone()),
            ("stages", stages.join(" ")),
            ("input", model.input.1.to_string()),
            ("classes", model.target.1.to_string()),
            (SPEC_TEXT, spec.text().to_string()),
        ];
        let keys = keys.into_iter().chain(preparation.clone().into_iter().flatten());
        let mut metadata: BTreeMap<String, String> = keys.map(|(k, v)| (k.to_string(), v)).collect();
        metadata.extend(class_names(&trained.classes));
        metadata
    };
    if !cascade.is_empty() {
        let stages = stages(&model, &cascade).map_err(|e| device::not_compiled(&e.into()))?;
        let mut files = Vec::with_capacity(cascade.len());
        for (number, (stage, path)) in stages.iter().zip(&outputs).enumerate() {
            let net = net(stage, None)?;
            let mut metadata = metadata(net);
            metadata.insert("cascade".to_string(), json!(cascade).to_string());
            metadata.insert("stage".to_string(), number.to_string());
            let own = stage.parameters.keys().chain(stage.states.keys());
            let own = own.filter_map(|name| Some((name.clone(), trained.values.get(name)?.clone())));
            let onnx = onnx_stage(stage, &net.name, own.collect(), &metadata);
            files.push((path.clone(), onnx.and_then(|onnx| onnx_bytes(&onnx, MAX_BYTES)).map_err(no_onnx)?));
        }
        let contents: Vec<(PathBuf, &[u8])> =
            files.iter().map(|(path, content)| (path.clone(), content.as_slice())).collect();
        atomic_write_all(&contents).map_err(|(path, error)| Failure::writing(&path, &error))?;
        for (net, path) in cascade.iter().zip(&outputs) {
            weights::wrote(ui, &format!("`{net}`, a stage of a cascade,"), path);
        }
        return Ok(());
    }
    let net = net(&model, args.subnet.as_deref())?;
    let picked = subnet_weights(&model, &trained.values, &net.name).map_err(weights::failed)?;
    let metadata = metadata(net);
    match format {
        Format::Safetensors => {
            write_weights(&args.output, &picked, &metadata).map_err(weights::failed)?;
        }
        Format::Onnx => {
            drop(trained);
            let onnx = onnx_model(&model, &net.name, picked, &metadata);
            let content = onnx.and_then(|onnx| onnx_bytes(&onnx, MAX_BYTES)).map_err(no_onnx)?;
            write_file(&args.output, &content)?;
        }
    }
    let what = format!("`{}` ({} parameters)", net.name, grouped(net.parameter_count));
    weights::wrote(ui, &what, &args.output);
    Ok(())
}

/// The file of a stage beside that name: `digits.onnx` becomes `digits.small.onnx`.
fn of_stage(path: &Path, net: &str) -> PathBuf {
    let mut name = path.file_stem().unwrap_or_default().to_os_string();
    name.push(format!(".{net}.onnx"));
    path.with_file_name(name)
}

/// Why a net is no ONNX model, and what to write instead.
fn no_onnx(error: OnnxError) -> Failure {
    let instead = "export a safetensors file (`-o NAME.safetensors`), which `ddnnc predict` and `eval` run";
    match error {
        OnnxError::TooLarge { bytes: size, limit } => Failure::input(format!(
            "as an ONNX file the net would have {}, and such a file has {} at most",
            bytes(size as u64),
            bytes(limit as u64)
        ))
        .hint(instead),
        OnnxError::NoForm { .. } => Failure::input(error).hint(instead),
        OnnxError::Missing { .. } | OnnxError::Graph(_) => Failure::input(error),
    }
}

/// How evaluation makes an input of an image, as metadata.
fn image_keys(model: &Model) -> Result<[(&'static str, String); 5], DataError> {
    let done = preparation(&model.recipe.data, &model.input.1)?;
    let channels = if done.mean.len() == 1 { "grey" } else { "rgb" };
    Ok([
        ("channels", channels.to_string()),
        ("resize", json!(done.resize).to_string()),
        ("crop", json!(done.crop).to_string()),
        ("mean", json!(done.mean).to_string()),
        ("std", json!(done.std).to_string()),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_onnx_model_has_a_way_out() {
        let operators = vec!["`standardize` at `loss.kl`".to_string()];
        let errors = [
            (OnnxError::NoForm { operators }, "no ONNX form for `standardize` at `loss.kl`"),
            (
                OnnxError::TooLarge { bytes: 5 << 30, limit: MAX_BYTES },
                "5.00 GiB, and such a file has 2.00 GiB",
            ),
        ];
        for (error, words) in errors {
            let failure = no_onnx(error);
            let text = failure.text();
            assert_eq!(failure.status(), 1);
            assert!(text.contains(words) && text.contains("-o NAME.safetensors"), "{text}");
        }
    }
}
