//! `ddnnc export`: one sub-net as a model of its own.

use crate::cli::ExportArgs;
use crate::output::{apart, grouped};
use crate::training::{net, spec_and_weights};
use crate::{Failure, Ui, weights};
use ddnnc_ir::Mode;
use ddnnc_train::{class_names, subnet_weights, write_weights};
use std::collections::BTreeMap;

/// Writes the tensors of one net.
pub fn run(args: &ExportArgs, ui: Ui) -> Result<(), Failure> {
    let weights = &args.weights;
    apart([&args.spec.spec].into_iter().chain(&weights.weights).chain(&weights.run), [&args.output])?;
    let (spec, source) = spec_and_weights(&args.spec, &args.weights, ui)?;
    let model = spec.lower(Mode::Eval, None)?;
    let net = net(&model, Some(&args.subnet))?;
    let trained = source.read(&model, ui)?;
    let picked = subnet_weights(&model, &trained.values, &net.name).map_err(weights::failed)?;
    let stages: Vec<String> = net.stages.iter().map(|(stage, n)| format!("{stage}={n}")).collect();
    let metadata = [
        ("model", model.name.clone()),
        ("subnet", net.name.clone()),
        ("stages", stages.join(" ")),
        ("input", model.input.1.to_string()),
        ("classes", model.target.1.to_string()),
    ];
    let mut metadata: BTreeMap<String, String> =
        metadata.into_iter().map(|(k, v)| (k.to_string(), v)).collect();
    metadata.extend(class_names(&trained.classes));
    write_weights(&args.output, &picked, &metadata).map_err(weights::failed)?;
    let what = format!("`{}` ({} parameters)", net.name, grouped(net.parameter_count));
    weights::wrote(ui, &what, &args.output);
    Ok(())
}
