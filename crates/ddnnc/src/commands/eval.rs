//! `ddnnc eval`: accuracy of every sub-net.

use crate::cli::{EvalArgs, SplitName};
use crate::output::{print, print_json};
use crate::training::{bad_data, data_folder, failed, fit, loader_threads, results_table, spec_and_weights};
use crate::{Failure, Ui, device};
use ddnnc_ir::Mode;
use ddnnc_passes::Goal;
use ddnnc_train::{DataSource, Part, evaluate};
use serde_json::json;

/// Evaluates on the test images, or on those held out of the training set.
pub fn run(args: &EvalArgs, ui: Ui) -> Result<(), Failure> {
    let (spec, source) = spec_and_weights(&args.spec, &args.weights, ui)?;
    let model = spec.lower(Mode::Eval, args.batch)?;
    let values = source.read(&model)?;
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
    if args.split == SplitName::Validation && data.validation_len() == 0 {
        return Err(
            Failure::input("the spec holds no images out for validation").hint("evaluate on `--split test`")
        );
    }
    let device = device::open(&args.device)?;
    let compiled = device::compile(&model, Goal::Evaluate)?;
    let results =
        evaluate(&model, &compiled.program, device.as_ref(), &values, &data, part, loader_threads())
            .map_err(failed)?;
    if args.json {
        let subnets: Vec<_> = results
            .iter()
            .map(|r| json!({"name": r.name, "accuracy": r.accuracy, "top5": r.top5, "loss": r.loss, "images": r.images}))
            .collect();
        return print_json(&json!({"model": model.name, "split": split, "subnets": subnets}));
    }
    let images = results.first().map_or(0, |r| r.images);
    let head = format!("{} on {images} {split} images from {}\n\n", model.name, folder.display());
    print(&(head + &results_table(&model, &[("accuracy", &results)])))
}
