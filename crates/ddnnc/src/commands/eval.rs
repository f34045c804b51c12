//! `ddnnc eval`: accuracy of every sub-net.

use crate::cli::{EvalArgs, SplitName};
use crate::output::{print, print_json};
use crate::training::{bad_data, data_folder, failed, fit, loader_threads, results_table, spec_and_weights};
use crate::{Failure, Ui, device};
use ddnnc_ir::Mode;
use ddnnc_passes::Goal;
use ddnnc_train::{DataSource, NetResult, Part, evaluate};
use serde_json::json;

/// Evaluates on the test images, or on those held out of the training set.
pub fn run(args: &EvalArgs, ui: Ui) -> Result<(), Failure> {
    let options = device::options_on(&args.device, &args.passes)?;
    let (spec, source) = spec_and_weights(&args.spec, &args.weights, ui)?;
    let mut model = spec.lower(Mode::Eval, args.batch)?;
    let trained = source.read_for(&mut model, ui)?;
    let folder = data_folder(&spec, &model, args.data.as_deref())?;
    let (part, split, data) = match args.split {
        SplitName::Test => {
            (Part::Test, "test", DataSource::open_test(&model.recipe.data, &folder, fit(&model)))
        }
        SplitName::Validation => {
            (Part::Validation, "validation", DataSource::open(&model.recipe.data, &folder, fit(&model)))
        }
    };
    let data = data.map_err(bad_data)?;
    data.check_classes(&trained.classes).map_err(bad_data)?;
    if args.split == SplitName::Validation && data.validation_len() == 0 {
        return Err(
            Failure::input("the spec holds no images out for validation").hint("evaluate on `--split test`")
        );
    }
    let device = device::open(&args.device, ui)?;
    let compiled = device::compile(&model, Goal::Evaluate, &options)?;
    let results =
        evaluate(&model, &compiled.program, device.as_ref(), &trained.values, &data, part, loader_threads())
            .map_err(failed)?;
    if args.json {
        let subnets: Vec<_> = results
            .iter()
            .map(|r| json!({"name": r.name, "accuracy": r.accuracy, "top5": r.top5, "loss": r.loss, "images": r.images}))
            .collect();
        print_json(&json!({"model": model.name, "split": split, "subnets": subnets}))?;
    } else {
        let images = results.first().map_or(0, |r| r.images);
        let head = format!("{} on {images} {split} images from {}\n\n", model.name, folder.display());
        print(&(head + &results_table(&model, &[("accuracy", &results)])))?;
    }
    args.at_least.map_or(Ok(()), |least| demand(&results, least))
}

/// Fails where a net is less accurate than asked for. An accuracy that is no number is below every demand.
fn demand(results: &[NetResult], least: f64) -> Result<(), Failure> {
    let below: Vec<String> = results
        .iter()
        .filter(|r| r.accuracy.is_nan() || r.accuracy < least)
        .map(|r| format!("`{}` {}", r.name, r.accuracy))
        .collect();
    if below.is_empty() {
        return Ok(());
    }
    Err(Failure::input(format!("below the accuracy of {least} asked for: {}", below.join(", "))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(name: &str, accuracy: f64) -> NetResult {
        NetResult { name: name.into(), accuracy, top5: 1.0, loss: 0.0, images: 4 }
    }

    #[test]
    fn every_net_below_the_demand_is_named() {
        let results = [result("full", 0.975), result("half", 0.97), result("none", f64::NAN)];
        let text = demand(&results, 0.975).expect_err("two are below").text();
        assert!(text.contains("`half`") && text.contains("`none`") && !text.contains("`full`"), "{text}");
        assert!(demand(&results[..1], 0.975).is_ok());
    }
}
