//! `ddnnc export`: one sub-net as a model of its own.

use crate::cli::ExportArgs;
use crate::output::{apart, grouped};
use crate::training::{SPEC_TEXT, SUBNET, net, spec_and_weights};
use crate::{Failure, Ui, weights};
use ddnnc_ir::{Mode, Model};
use ddnnc_train::{DataError, class_names, preparation, subnet_weights, write_weights};
use serde_json::json;
use std::collections::BTreeMap;

/// Writes the tensors of one net.
pub fn run(args: &ExportArgs, ui: Ui) -> Result<(), Failure> {
    let weights = &args.weights;
    weights::named_as_written(&args.output)?;
    apart([&args.spec.spec].into_iter().chain(&weights.weights).chain(&weights.run), [&args.output])?;
    let (spec, source) = spec_and_weights(&args.spec, &args.weights, ui)?;
    let mut model = spec.lower(Mode::Eval, None)?;
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
    write_weights(&args.output, &picked, &metadata).map_err(weights::failed)?;
    let what = format!("`{}` ({} parameters)", net.name, grouped(net.parameter_count));
    weights::wrote(ui, &what, &args.output);
    Ok(())
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
