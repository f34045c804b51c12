//! `ddnnc eval`: accuracy of every sub-net, and of cascades of them.

use crate::cascade::{cascaded, sure};
use crate::cli::{EvalArgs, SplitName};
use crate::output::{percent, print, print_json, si, table};
use crate::training::{bad_data, data_folder, failed, fit, loader_threads, results_table, spec_and_weights};
use crate::{Failure, Ui, device};
use ddnnc_ir::Mode;
use ddnnc_passes::{Goal, macs_until};
use ddnnc_train::{
    Answers, CascadeResult, DataSource, Evaluator, NetResult, Sure, cascade, shares, thresholds,
};
use serde_json::{Value, json};

/// Evaluates on the test images, or on those held out of the training set.
pub fn run(args: &EvalArgs, ui: Ui) -> Result<(), Failure> {
    let options = device::options_on(&args.device, &args.passes)?;
    // Thresholds are chosen on validation images where none is given.
    let given = sure(&args.cascade);
    let chosen = !args.cascade.nets.is_empty() && given.is_none();
    if chosen && args.split == SplitName::Validation {
        return Err(Failure::usage(
            "the thresholds of a cascade are chosen on the validation images, and say nothing there",
        )
        .hint("evaluate on `--split test`, or give a threshold: `--confidence 0.9`"));
    }
    let (spec, source) = spec_and_weights(&args.spec, &args.weights, ui)?;
    let mut model = spec.lower(Mode::Eval, args.batch)?;
    let trained = source.read_for(&mut model, ui)?;
    let nets = cascaded(&model, &args.cascade.nets)?;
    let folder = data_folder(&spec, &model, args.data.as_deref())?;
    let split = match args.split {
        SplitName::Test => "test",
        SplitName::Validation => "validation",
    };
    let data = match args.split == SplitName::Test && !chosen {
        true => DataSource::open_test(&model.recipe.data, &folder, fit(&model)),
        false => DataSource::open(&model.recipe.data, &folder, fit(&model)),
    };
    let data = data.map_err(bad_data)?;
    data.check_classes(&trained.classes).map_err(bad_data)?;
    if (chosen || args.split == SplitName::Validation) && data.validation_len() == 0 {
        let failure = Failure::input("the spec holds no images out for validation");
        return Err(failure.hint(match chosen {
            true => "give the cascade a threshold: `--confidence 0.9`",
            false => "evaluate on `--split test`",
        }));
    }
    let device = device::open(&args.device, ui)?;
    let compiled = device::compile(&model, Goal::Evaluate, &options)?;
    let mut evaluator = Evaluator::new(&model, &compiled.program, device.as_ref()).map_err(failed)?;
    evaluator.set(&trained.values).map_err(failed)?;
    let (batch, threads) = (evaluator.batch(), loader_threads());
    let loader = match args.split {
        SplitName::Test => data.test(batch, threads),
        SplitName::Validation => data.validation(batch, threads),
    };
    let (results, answers) = evaluator.run_with_answers(&nets, loader).map_err(failed)?;
    for result in results.iter().filter(|r| !r.loss.is_finite()) {
        ui.warn(&format!("`{}` gives logits that are not finite: its figures mean nothing", result.name));
    }
    let mut points = Vec::new();
    if !nets.is_empty() {
        let costs = macs_until(&model, &nets).map_err(|e| device::not_compiled(&e.into()))?;
        let sure = match given {
            Some(sure) => vec![(None, vec![sure; nets.len()])],
            None => {
                let held_out = data.validation(batch, threads);
                let (_, held_out) = evaluator.run_with_answers(&nets, held_out).map_err(failed)?;
                choices(&held_out)
            }
        };
        points.extend(sure.into_iter().map(|(ratio, sure)| {
            let result = cascade(&answers, &sure, &costs);
            Point { ratio, sure, result }
        }));
    }
    if args.json {
        let subnets: Vec<_> = results
            .iter()
            .map(|r| json!({"name": r.name, "accuracy": r.accuracy, "top5": r.top5, "loss": r.loss, "images": r.images}))
            .collect();
        let mut all = json!({"model": model.name, "split": split, "subnets": subnets});
        if !nets.is_empty() {
            let points: Vec<Value> = points.iter().map(|p| p.json(&nets)).collect();
            all["cascade"] = json!({"nets": nets, "points": points});
        }
        print_json(&all)?;
    } else {
        let images = results.first().map_or(0, |r| r.images);
        let head = format!("{} on {images} {split} images from {}\n\n", model.name, folder.display());
        let mut text = head + &results_table(&model, &[("accuracy", &results)]);
        if !nets.is_empty() {
            text.push_str(&format!("\n{}\n\n", title(&nets, given, data.validation_len())));
            text.push_str(&points_table(&nets, &points));
        }
        print(&text)?;
    }
    args.at_least.map_or(Ok(()), |least| demand(&results, least))
}

/// Ratios of the shares that neighbouring nets are to answer.
const RATIOS: [f64; 9] = [0.05, 0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 20.0];

/// Thresholds for each ratio, chosen on held-out images.
fn choices(held_out: &Answers) -> Vec<(Option<f64>, Vec<Sure>)> {
    let of = |&ratio: &f64| (Some(ratio), thresholds(held_out, &shares(held_out.len(), ratio)));
    RATIOS.iter().map(of).collect()
}

/// A choice of thresholds, and what comes of it.
struct Point {
    /// Of the shares of neighbouring nets, where the thresholds were chosen.
    ratio: Option<f64>,
    sure: Vec<Sure>,
    result: CascadeResult,
}

impl Point {
    fn json(&self, nets: &[&str]) -> Value {
        let last = nets.len() - 1;
        let threshold = |sure: &Sure| match *sure {
            Sure::Probability(least) => json!(least),
            Sure::Entropy(most) => json!(most),
            Sure::Never => Value::Null,
        };
        json!({
            "ratio": self.ratio,
            "thresholds": self.sure[..last].iter().map(threshold).collect::<Vec<_>>(),
            "shares": self.result.shares,
            "accuracy": self.result.accuracy,
            "macs": self.result.macs,
            "images": self.result.images,
        })
    }
}

/// What the table of a cascade shows.
fn title(nets: &[&str], given: Option<Sure>, held_out: usize) -> String {
    let rule = match given {
        Some(Sure::Probability(least)) => format!("a net answers with a probability of at least {least}"),
        Some(Sure::Entropy(most)) => format!("a net answers with an entropy of at most {most}"),
        Some(Sure::Never) | None => format!("least probabilities chosen on {held_out} validation images"),
    };
    format!("cascade {}: {rule}", nets.join(" -> "))
}

/// A row for each choice of thresholds.
fn points_table(nets: &[&str], points: &[Point]) -> String {
    let chosen = points.iter().any(|p| p.ratio.is_some());
    let (_, but_last) = nets.split_last().unwrap_or((&"", &[]));
    let mut header: Vec<String> = Vec::new();
    if chosen {
        header.extend(but_last.iter().map(|net| format!("{net} from")));
    }
    header.extend(nets.iter().map(|net| format!("{net} answers")));
    header.extend(["MACs".to_string(), "accuracy".to_string()]);
    let rows: Vec<Vec<String>> = points
        .iter()
        .map(|point| {
            let mut row: Vec<String> = Vec::new();
            if chosen {
                row.extend(point.sure[..but_last.len()].iter().map(|sure| match sure {
                    Sure::Probability(x) | Sure::Entropy(x) => format!("{x:.6}"),
                    Sure::Never => "never".to_string(),
                }));
            }
            row.extend(point.result.shares.iter().map(|&share| percent(share)));
            row.extend([si(point.result.macs.round() as u64), percent(point.result.accuracy)]);
            row
        })
        .collect();
    let header: Vec<&str> = header.iter().map(String::as_str).collect();
    table(0, &header, &rows)
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
