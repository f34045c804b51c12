//! `ddnnc predict`: the classes of image files.

use crate::cli::PredictArgs;
use crate::output::{percent, print, print_json};
use crate::training::{bad_data, net, spec_and_weights};
use crate::{Failure, Ui, device, weights};
use ddnnc_ir::Mode;
use ddnnc_passes::Goal;
use ddnnc_train::read_image;
use serde_json::json;

/// Prints the likeliest classes of each image.
pub fn run(args: &PredictArgs, ui: Ui) -> Result<(), Failure> {
    let options = device::options_on(&args.device, &args.passes)?;
    let (spec, source) = spec_and_weights(&args.spec, &args.weights, ui)?;
    let mut model = spec.lower(Mode::Eval, Some(1))?;
    let trained = source.read_for(&mut model, ui)?;
    let net = net(&model, args.subnet.as_deref())?.name.clone();
    let mut images = Vec::new();
    for path in &args.images {
        // A path that is no file is said as everywhere; what is wrong inside the file is the data reader's to say.
        std::fs::metadata(path).map_err(|e| Failure::reading(path, &e))?;
        images.push(read_image(&model.recipe.data, &model.input.1, path).map_err(bad_data)?);
    }
    let device = device::open(&args.device, ui)?;
    let compiled = device::compile(&model, Goal::Evaluate, &options)?;
    let mut run = device.load(&compiled.program).map_err(device::failed)?;
    weights::fill(run.as_mut(), &trained.values)?;
    let mut logits = vec![0.0f32; model.target.1];
    let mut results = Vec::new();
    for (path, image) in args.images.iter().zip(&images) {
        feed(run.as_mut(), &model, image)?;
        run.run().map_err(device::failed)?;
        run.read_f32(&format!("logits.{net}"), &mut logits).map_err(device::failed)?;
        let mut classes = softmax(&logits);
        classes.truncate(args.top);
        results.push((path.display().to_string(), classes));
    }
    let name = |class: usize| trained.classes.get(class);
    if args.json {
        let images: Vec<_> = results
            .iter()
            .map(|(image, classes)| {
                let classes: Vec<_> = classes
                    .iter()
                    .map(|&(c, p)| json!({"class": c, "name": name(c), "probability": p}))
                    .collect();
                json!({"image": image, "classes": classes})
            })
            .collect();
        return print_json(&json!({"model": model.name, "subnet": net, "images": images}));
    }
    let mut text = String::new();
    for (image, classes) in results {
        text.push_str(&format!("{image}\n"));
        for (class, probability) in classes {
            let name = name(class).map_or(String::new(), |name| format!("  {name}"));
            text.push_str(&format!("  {class:>5}  {:>8}{name}\n", percent(probability)));
        }
    }
    print(&text)
}

/// Sets the image; a label has to be there and does not matter to the logits.
fn feed(
    run: &mut dyn ddnnc_passes::Executable,
    model: &ddnnc_ir::Model,
    image: &[f32],
) -> Result<(), Failure> {
    let inputs: Vec<(String, usize)> = {
        let program = run.program();
        program.inputs.iter().map(|(name, &id)| (name.clone(), program.buffer(id).ty.elements())).collect()
    };
    for (name, elements) in inputs {
        let written = if name == model.input.0 {
            run.write_f32(&name, image)
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
    let most = logits.iter().fold(f64::NEG_INFINITY, |m, &x| m.max(f64::from(x)));
    let powers: Vec<f64> = logits.iter().map(|&x| (f64::from(x) - most).exp()).collect();
    let sum: f64 = powers.iter().sum();
    let mut classes: Vec<(usize, f64)> = powers.iter().map(|p| p / sum).enumerate().collect();
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
