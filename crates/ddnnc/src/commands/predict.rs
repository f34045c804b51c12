//! `ddnnc predict`: the classes of image files.

use crate::cascade::{cascaded, sure};
use crate::cli::PredictArgs;
use crate::output::{percent, print, print_json};
use crate::training::{bad_data, net, spec_and_weights};
use crate::{Failure, Ui, device, weights};
use ddnnc_ir::{Mode, Model};
use ddnnc_passes::{Device, Executable, Goal, HANDED_ON, Options, stages};
use ddnnc_train::{Confidence, Sure, Tensors, log_probabilities, read_image};
use serde_json::json;
use std::collections::HashMap;

/// Prints the likeliest classes of each image.
pub fn run(args: &PredictArgs, ui: Ui) -> Result<(), Failure> {
    let options = device::options_on(&args.device, &args.passes)?;
    let when = sure(&args.cascade);
    if !args.cascade.nets.is_empty() && when.is_none() {
        return Err(Failure::usage("when does a net of the cascade answer?").hint(
            "give `--confidence P` or `--entropy H`; `ddnnc eval` with `--cascade` shows what thresholds come to",
        ));
    }
    let (spec, source) = spec_and_weights(&args.spec, &args.weights, ui)?;
    let mut model = spec.lower(Mode::Eval, Some(1))?;
    let trained = source.read_for(&mut model, ui)?;
    let cascade = cascaded(&model, &args.cascade.nets)?;
    let alone = [net(&model, args.subnet.as_deref())?.name.as_str()];
    let nets = if cascade.is_empty() { &alone[..] } else { &cascade[..] };
    let mut images = Vec::new();
    for path in &args.images {
        // A path that is no file is said as everywhere; what is wrong inside the file is the data reader's to say.
        std::fs::metadata(path).map_err(|e| Failure::reading(path, &e))?;
        images.push(read_image(&model.recipe.data, &model.input.1, path).map_err(bad_data)?);
    }
    let device = device::open(&args.device, ui)?;
    let mut stages = Stage::all(&model, nets, &trained.values, device.as_ref(), &options)?;
    let mut results = Vec::new();
    for (path, image) in args.images.iter().zip(&images) {
        let (stage, logits) = answer(&mut stages, &model, image, when)?;
        if let Some(bad) = logits.iter().find(|x| !x.is_finite()) {
            let message = format!("`{}` gives the logit {bad} for {}", nets[stage], path.display());
            return Err(
                Failure::input(message).hint("its weights are not finite, or too large for such an image")
            );
        }
        let mut classes = softmax(&logits);
        classes.truncate(args.top);
        results.push((path.display().to_string(), nets[stage], classes));
    }
    let name = |class: usize| trained.classes.get(class);
    if args.json {
        let images: Vec<_> = results
            .iter()
            .map(|(image, net, classes)| {
                let classes: Vec<_> = classes
                    .iter()
                    .map(|&(c, p)| json!({"class": c, "name": name(c), "probability": p}))
                    .collect();
                match cascade.is_empty() {
                    true => json!({"image": image, "classes": classes}),
                    false => json!({"image": image, "subnet": net, "classes": classes}),
                }
            })
            .collect();
        return print_json(&match cascade.is_empty() {
            true => json!({"model": model.name, "subnet": alone[0], "images": images}),
            false => json!({"model": model.name, "cascade": cascade, "images": images}),
        });
    }
    let mut text = String::new();
    for (image, net, classes) in results {
        match cascade.is_empty() {
            true => text.push_str(&format!("{image}\n")),
            false => text.push_str(&format!("{image}  answered by {net}\n")),
        }
        for (class, probability) in classes {
            let name = name(class).map_or(String::new(), |name| format!("  {name}"));
            text.push_str(&format!("  {class:>5}  {:>8}{name}\n", percent(probability)));
        }
    }
    print(&text)
}

/// What a net computes that those before it have not, on a device.
struct Stage {
    run: Box<dyn Executable>,
    /// The name of its logits among the outputs.
    logits: String,
}

impl Stage {
    /// The stages of these nets, with their weights.
    fn all(
        model: &Model,
        nets: &[&str],
        values: &Tensors,
        device: &dyn Device,
        options: &Options,
    ) -> Result<Vec<Stage>, Failure> {
        let models = stages(model, nets).map_err(|e| device::not_compiled(&e.into()))?;
        let stages = models.iter().zip(nets).map(|(stage, net)| {
            let compiled = device::compile(stage, Goal::Evaluate, options)?;
            let mut run = device.load(&compiled.program).map_err(device::failed)?;
            weights::fill(run.as_mut(), values)?;
            Ok(Stage { run, logits: format!("logits.{net}") })
        });
        stages.collect()
    }
}

/// The first stage that is sure of an image, else the last one, and its logits. Later ones are not run.
fn answer(
    stages: &mut [Stage],
    model: &Model,
    image: &[f32],
    when: Option<Sure>,
) -> Result<(usize, Vec<f32>), Failure> {
    let mut handed_on: HashMap<String, Vec<f32>> = HashMap::new();
    let mut answer = (0, vec![0.0f32; model.target.1]);
    for (number, Stage { run, logits }) in stages.iter_mut().enumerate() {
        feed(run.as_mut(), model, image, &handed_on)?;
        run.run().map_err(device::failed)?;
        run.read_f32(logits, &mut answer.1).map_err(device::failed)?;
        answer.0 = number;
        if when.is_none_or(|sure| sure.holds(Confidence::of(&answer.1))) {
            break;
        }
        let kept: Vec<(String, usize)> = {
            let program = run.program();
            let kept = program.outputs.iter().filter(|(name, _)| name.starts_with(HANDED_ON));
            kept.map(|(name, &id)| (name.clone(), program.buffer(id).ty.elements())).collect()
        };
        for (name, elements) in kept {
            let mut value = vec![0.0f32; elements];
            run.read_f32(&name, &mut value).map_err(device::failed)?;
            handed_on.insert(name, value);
        }
    }
    Ok(answer)
}

/// Sets the image and what was handed on; a label has to be there and does not matter to the logits.
fn feed(
    run: &mut dyn Executable,
    model: &Model,
    image: &[f32],
    handed_on: &HashMap<String, Vec<f32>>,
) -> Result<(), Failure> {
    let inputs: Vec<(String, usize)> = {
        let program = run.program();
        program.inputs.iter().map(|(name, &id)| (name.clone(), program.buffer(id).ty.elements())).collect()
    };
    for (name, elements) in inputs {
        let written = if name == model.input.0 {
            run.write_f32(&name, image)
        } else if let Some(value) = handed_on.get(&name) {
            run.write_f32(&name, value)
        } else if name == model.target.0 || name == "rng" {
            run.write_i64(&name, &vec![0; elements])
        } else {
            run.write_f32(&name, &vec![1.0; elements])
        };
        written.map_err(device::failed)?;
    }
    Ok(())
}

/// Classes with their probabilities, likeliest first; of equal ones the smaller class first.
fn softmax(logits: &[f32]) -> Vec<(usize, f64)> {
    let mut classes: Vec<(usize, f64)> = log_probabilities(logits).map(f64::exp).enumerate().collect();
    classes.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    classes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probabilities_sum_to_one_and_descend() {
        let classes = softmax(&[1.0, 3.0, 3.0, -1000.0]);
        assert_eq!(classes.iter().map(|c| c.0).collect::<Vec<_>>(), [1, 2, 0, 3]);
        let sum: f64 = classes.iter().map(|c| c.1).sum();
        assert!((sum - 1.0).abs() < 1e-12, "{sum}");
        assert!((classes[0].1 / classes[2].1 - 2f64.exp()).abs() < 1e-9);
    }
}
