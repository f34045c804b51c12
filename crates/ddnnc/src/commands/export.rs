//! `ddnnc export`: one sub-net as a model of its own.

use crate::cli::ExportArgs;
use crate::output::{apart, bytes, grouped, write_file};
use crate::training::{SPEC_TEXT, SUBNET, net, spec_and_weights};
use crate::weights::Format;
use crate::{Failure, Ui, weights};
use ddnnc_ir::{Mode, Model};
use ddnnc_train::onnx::MAX_BYTES;
use ddnnc_train::{
    DataError, OnnxError, class_names, onnx_bytes, onnx_model, preparation, subnet_weights, write_weights,
};
use serde_json::json;
use std::collections::BTreeMap;

/// Writes the tensors of one net, or the whole net as ONNX.
pub fn run(args: &ExportArgs, ui: Ui) -> Result<(), Failure> {
    let weights = &args.weights;
    let format = weights::exported_format(&args.output)?;
    apart([&args.spec.spec].into_iter().chain(&weights.weights).chain(&weights.run), [&args.output])?;
    let (spec, source) = spec_and_weights(&args.spec, &args.weights, ui)?;
    // Nothing that is written depends on the batch.
    let mut model = spec.lower(Mode::Eval, Some(1))?;
    let trained = source.read_for(&mut model, ui)?;
    let net = net(&model, Some(&args.subnet))?;
    let picked = subnet_weights(&model, &trained.values, &net.name).map_err(weights::failed)?;
    let stages: Vec<String> = net.stages.iter().map(|(stage, n)| format!("{stage}={n}")).collect();
    let metadata = [
        ("model", model.name.clone()),
        (SUBNET, net.name.clone()),
        ("stages", stages.join(" ")),
        ("input", model.input.1.to_string()),
        ("classes", model.target.1.to_string()),
        (SPEC_TEXT, spec.text().to_string()),
    ];
    let mut metadata: BTreeMap<String, String> =
        metadata.into_iter().map(|(k, v)| (k.to_string(), v)).collect();
    metadata.extend(class_names(&trained.classes));
    match image_keys(&model) {
        Ok(keys) => metadata.extend(keys.map(|(k, v)| (k.to_string(), v))),
        Err(why) => ui.warn(&format!("the file does not say how images are prepared: {why}")),
    }
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
