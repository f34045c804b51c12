//! `ddnnc train`: every sub-net of a spec at once.

use crate::cli::TrainArgs;
use crate::output::print;
use crate::training::{WeightSource, bad_data, data_folder, failed, fit, loader_threads, results_table};
use crate::{Failure, Spec, Ui, device, interrupt, saved_program, weights};
use ddnnc_ir::{Mode, Model};
use ddnnc_passes::Goal;
use ddnnc_train::{
    DataSource, Ending, Job, JobPhase, Observer, Progress, RunFolder, Silent, Summary, TrainOptions, train,
};
use std::path::Path;

/// Trains into a run folder.
pub fn run(args: &TrainArgs, ui: Ui) -> Result<(), Failure> {
    let passes = device::options_on(&args.device, &args.passes)?;
    // Options that say what the spec could say become part of the run's spec, so that `eval` and `--resume` see them.
    let mut set = args.spec.set.clone();
    set.extend(args.batch.map(|n| format!("train.batch={n}")));
    set.extend(args.seed.map(|n| format!("train.seed={n}")));
    let spec = Spec::load(&args.spec.spec, &set, ui)?;
    let models = spec.lower_phases()?;
    let model = &models[0];
    if args.program.is_some() && models.len() > 1 {
        let message =
            format!("`--program` holds one training step, and the spec trains in {} phases", models.len());
        return Err(Failure::usage(message).hint("leave it out: the step of every phase is compiled"));
    }
    // Warnings were shown once.
    let (eval_model, _) = spec.lower_quietly(Mode::Eval, None)?;
    let folder = args.out.clone().unwrap_or_else(|| Path::new("runs").join(&model.name));
    if folder.exists() && !folder.is_dir() {
        let message = format!("`{}` is a file; a run needs a folder", folder.display());
        return Err(if args.resume { Failure::input(message) } else { Failure::environment(message) });
    }
    match args.resume {
        true => RunFolder::check_resume(&folder, spec.text()),
        false => RunFolder::check_new(&folder),
    }
    .map_err(failed)?;
    let device = device::open(&args.device, ui)?;
    let data_folder = data_folder(&spec, model, args.data.as_deref())?;
    let data = DataSource::open(&model.recipe.data, &data_folder, fit(model)).map_err(bad_data)?;
    // The checkpoint of a run that goes on has all its values: files that it began with may have gone since.
    let start = match &args.weights {
        Some(file) => WeightSource::File(file.clone()).read(model, ui).map(|trained| trained.values),
        None => weights::initial(&spec, model, model.recipe.seed),
    };
    let start = start.or_else(|failure| {
        let kept = args.resume.then(|| RunFolder::newest_complete(&folder).ok()).flatten();
        kept.map(|(_, checkpoint, _)| checkpoint.values).ok_or(failure)
    })?;
    let mut programs = Vec::with_capacity(models.len());
    for model in &models {
        let step = match &args.program {
            Some(path) => saved_program::load(path, model, &args.spec.spec)?,
            None => device::compile(model, Goal::Train, &passes)?.program,
        };
        let calibrate = match model.states.values().any(|s| s.recalibrate) {
            true => Some(device::compile(model, Goal::Statistics, &passes)?.program),
            false => None,
        };
        programs.push((step, calibrate));
    }
    let eval = device::compile(&eval_model, Goal::Evaluate, &passes)?;
    let mut options = TrainOptions::new(folder.clone(), spec.text());
    options.resume = args.resume;
    options.steps = args.steps;
    options.loader_threads = loader_threads();
    let job = Job {
        phases: models
            .iter()
            .zip(&programs)
            .map(|(model, (train, calibrate))| JobPhase { model, train, calibrate: calibrate.as_ref() })
            .collect(),
        eval_model: &eval_model,
        eval: &eval.program,
        device: device.as_ref(),
        data: &data,
        start,
        options,
    };
    let stop = interrupt::watch()?;
    ui.note(&format!(
        "{}: {} images from {}, {} held out, on {}",
        model.name,
        data.train_len(),
        data_folder.display(),
        data.validation_len(),
        // What is forced is said; the rest goes without saying.
        match args.device.processor.given() {
            Some(_) => device::describe(device.as_ref()),
            None => device.name().to_owned(),
        },
    ));
    let mut progress: Box<dyn Observer> =
        if ui.quiet { Box::new(Silent) } else { Box::new(Progress::stderr()) };
    let summary = train(job, progress.as_mut(), stop).map_err(failed)?;
    drop(progress);
    print(&text(args, model, &summary, &folder, &data_folder))
}

/// The command that goes on with the run: whatever changes the spec or leads to the data belongs to it.
fn resume_command(args: &TrainArgs, folder: &Path) -> String {
    let mut words = vec!["ddnnc".to_string(), "train".to_string(), args.spec.spec.display().to_string()];
    let mut option = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            words.extend([name.to_string(), value]);
        }
    };
    args.spec.set.iter().for_each(|set| option("--set", Some(set.clone())));
    option("--batch", args.batch.map(|n| n.to_string()));
    option("--seed", args.seed.map(|n| n.to_string()));
    option("--steps", args.steps.map(|n| n.to_string()));
    option("--data", args.data.as_ref().map(|p| p.display().to_string()));
    // The same device again, so that the bits go on as they would have.
    option("--device", args.device.device.map(|device| device.as_str().to_string()));
    option("--cuda-tile", args.device.kernels.cuda_tile.map(|[m, n, k]| format!("{m}x{n}x{k}")));
    option("--passes", args.passes.passes.as_ref().map(|names| names.join(",")));
    option("--weights", args.weights.as_ref().map(|p| p.display().to_string()));
    option("--program", args.program.as_ref().map(|p| p.display().to_string()));
    option("--out", Some(folder.display().to_string()));
    words.extend(args.device.emulate.then(|| "--emulate".to_string()));
    words.extend(args.device.kernels.tf32.then(|| "--tf32".to_string()));
    words.extend(args.device.kernels.no_wgmma.then(|| "--no-wgmma".to_string()));
    words.extend(args.device.processor.words());
    words.extend(args.passes.no_fuse.then(|| "--no-fuse".to_string()));
    words.extend(args.passes.no_recompute.then(|| "--no-recompute".to_string()));
    words.push("--resume".to_string());
    command(&words)
}

/// The command that evaluates the run. The data are named, unless the path in the run's spec leads to them from here.
fn eval_command(args: &TrainArgs, model: &Model, folder: &Path, data: &Path) -> String {
    let mut words = vec!["ddnnc".to_string(), "eval".to_string(), folder.display().to_string()];
    if args.data.is_some() || model.recipe.data.path.as_ref().is_none_or(|path| Path::new(path) != data) {
        words.extend(["--data".to_string(), data.display().to_string()]);
    }
    command(&words)
}

/// The command that writes a net of the run as a model of its own.
fn export_command(folder: &Path, net: &str) -> String {
    let folder = folder.display().to_string();
    let file = format!("{net}.safetensors");
    command(&["ddnnc", "export", &folder, "--subnet", net, "-o", &file])
}

/// Words as a line for a shell.
fn command(words: &[impl AsRef<str>]) -> String {
    words.iter().map(|word| quoted(word.as_ref())).collect::<Vec<_>>().join(" ")
}

/// A word as a shell takes it.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "-_./=,:+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_string();
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}

fn text(args: &TrainArgs, model: &Model, summary: &Summary, folder: &Path, data: &Path) -> String {
    let how = match summary.ending {
        Ending::Finished => "trained",
        Ending::StepLimit => "stopped at the limit of steps",
        Ending::Interrupted => "interrupted",
    };
    let steps = if summary.step == 1 { "step" } else { "steps" };
    let mut text =
        format!("{}: {how} after {} {steps}, {:.0} s\n\n", model.name, summary.step, summary.seconds);
    // Beside results on the test images at the end, those of an earlier epoch say so.
    let validation = match summary.validation_step == summary.step {
        true => "validation".to_string(),
        false => format!("validation, epoch {}", summary.epochs),
    };
    text.push_str(&results_table(model, &[(&validation, &summary.validation), ("test", &summary.test)]));
    text.push_str(&format!("\nrun        {}\n", folder.display()));
    text.push_str(&format!("checkpoint {}\n", summary.checkpoint.display()));
    let mut next = Vec::new();
    if summary.ending == Ending::Interrupted {
        next.push(resume_command(args, folder));
    } else {
        next.push(eval_command(args, model, folder, data));
    }
    if let Some(net) = model.nets.last() {
        next.push(export_command(folder, &net.name));
    }
    for (i, command) in next.iter().enumerate() {
        let head = if i == 0 { "next" } else { "" };
        text.push_str(&format!("{head:<10} {command}\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use clap::Parser;

    #[test]
    fn the_command_to_go_on_repeats_what_changed_the_spec() {
        let line = [
            "ddnnc",
            "train",
            "a b.ddnn",
            "--set",
            "train.data.path=\"it's\"",
            "--batch",
            "8",
            "--data",
            "d",
            "--weights",
            "w",
            "--program",
            "p",
            "--device",
            "cuda",
            "--tf32",
            "--no-wgmma",
            "--cuda-tile",
            "64x64x32",
            "--passes",
            "dead_code,fuse",
            "--instructions",
            "portable",
            "--no-winograd",
            "--tune",
        ];
        let Command::Train(args) = Cli::parse_from(line).command else { panic!("it is `train`") };
        assert_eq!(
            resume_command(&args, Path::new("r")),
            "ddnnc train 'a b.ddnn' --set 'train.data.path=\"it'\\''s\"' --batch 8 --data d --device cuda --cuda-tile 64x64x32 --passes dead_code,fuse --weights w --program p --out r --tf32 --no-wgmma --instructions portable --no-winograd --tune --resume"
        );
    }
}
