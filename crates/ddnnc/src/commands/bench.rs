//! `ddnnc bench`: how fast the training step runs on random data.

use crate::cli::BenchArgs;
use crate::load_notes::LoadNotes;
use crate::output::{apart, bytes, named_as_drawn, print, print_json, write_file};
use crate::profile::{KEPT, Profile, median};
use crate::{Failure, Spec, Ui, device, profile_picture, weights};
use ddnnc_ir::{DType, Mode, Model};
use ddnnc_passes::{Executable, Goal};
use serde_json::json;
use std::sync::Arc;
use std::time::Instant;

/// Steps before the clock runs, so that memory is touched and caches are warm.
const WARM_UP: u32 = 2;

/// Runs the training step on random data and shows its speed.
pub fn run(args: &BenchArgs, ui: Ui) -> Result<(), Failure> {
    let options = device::options_on(&args.device, &args.passes)?;
    named_as_drawn(&args.profile_svg)?;
    apart([&args.spec.spec], &args.profile_svg)?;
    let spec = Spec::load(&args.spec.spec, &args.spec.set, ui)?;
    let mut model = spec.lower_in(args.phase.phase.as_deref(), Mode::Train, args.batch)?;
    // Speed does not depend on the weights: what the spec loads from files begins at random here.
    model.parameters.values_mut().for_each(|p| p.load = None);
    model.states.values_mut().for_each(|s| s.load = None);
    let notes = Arc::new(LoadNotes::new(ui));
    let device = device::open_watched(&args.device, ui, Arc::clone(&notes))?;
    let compiled = device::compile(&model, Goal::Train, &options)?;
    let mut run = device.load(&compiled.program).map_err(device::failed)?;
    weights::fill(run.as_mut(), &weights::initial(&spec, &model, model.recipe.seed)?)?;
    let profiles = args.profile || args.profile_svg.is_some();
    let launches = compiled.program.launches.len();
    // Of every launch, in every step.
    let mut of_launches = vec![Vec::new(); if profiles { launches } else { 0 }];
    let mut seconds = vec![0.0; launches];
    let mut first_step = 0.0;
    let mut times = Vec::new();
    for step in 0..WARM_UP + args.steps {
        feed(run.as_mut(), &model, step)?;
        let start = Instant::now();
        if profiles {
            seconds.fill(0.0);
            if !run.run_timed(&mut seconds).map_err(device::failed)? {
                return Err(no_profile(device.name()));
            }
        } else {
            run.run().map_err(device::failed)?;
        }
        // A device may run on behind the call; reading what the step gives waits for it.
        run.read_f32("loss.total", &mut [0.0]).map_err(device::failed)?;
        if step == 0 {
            first_step = crate::started().elapsed().as_secs_f64() * 1e3;
        }
        if step >= WARM_UP {
            times.push(start.elapsed().as_secs_f64() * 1e3);
            let kept = of_launches.iter_mut().zip(&seconds).filter(|(all, _)| all.len() < KEPT);
            kept.for_each(|(all, &seconds)| all.push(seconds));
        }
    }
    let rss = peak_rss();
    let profile = profiles.then(|| {
        // The memory of the step goes before that of the probes comes.
        let methods = run.methods();
        drop(run);
        Profile::new(&compiled.program, methods, of_launches, device.limits())
    });
    let median = median(&mut times);
    let rate = if median > 0.0 { model.batch as f64 / median * 1e3 } else { 0.0 };
    let precision = model.recipe.precision.as_str();
    let loaded = notes.last();
    let phase = model.phases.get(model.phase).map_or(String::new(), |phase| format!(" in {}", phase.name));
    let on = format!("{}, batch {}, {precision}", device::describe(device.as_ref()), model.batch);
    if let (Some(profile), Some(path)) = (&profile, &args.profile_svg) {
        let about = format!("{on}; {:.2} ms in {launches} launches", profile.seconds() * 1e3);
        write_file(path, profile_picture::picture(profile, &about).as_bytes())?;
        ui.note(&format!("drew the profile to {}", path.display()));
    }
    if args.json {
        let mut figures = json!({
            "model": model.name, "images_per_second": rate, "step_ms": median, "batch": model.batch,
            "device": device.name(), "precision": precision, "steps": args.steps, "peak_rss_bytes": rss,
            "first_step_ms": first_step,
        });
        if let Some(phase) = model.phases.get(model.phase) {
            figures["phase"] = json!(phase.name);
        }
        for (name, value) in device.settings() {
            figures[name] = value.parse::<u64>().map_or_else(|_| json!(value), |n| json!(n));
        }
        if let Some(loaded) = loaded {
            figures["device_bytes"] = json!(loaded.memory.total());
            figures["kernels"] = json!(loaded.kernels);
            figures["load_ms"] = json!(loaded.milliseconds);
        }
        if let Some(profile) = &profile {
            figures["profile"] = profile.json();
        }
        return print_json(&figures);
    }
    let on_device = loaded
        .map_or(String::new(), |loaded| format!(", {} on the device", bytes(loaded.memory.total() as u64)));
    let mut text = format!(
        "{}{phase} on {}, batch {}, {precision}: {rate:.1} images/s, {median:.2} ms a step (median of {}), peak memory {}{on_device}, first step after {first_step:.0} ms\n",
        model.name,
        device.name(),
        model.batch,
        args.steps,
        bytes(rss),
    );
    if let Some(profile) = &profile {
        text.push_str(&format!("\n  device  {}\n", device::describe(device.as_ref())));
        text.push_str(&profile.table(args.top));
    }
    print(&text)
}

fn no_profile(device: &str) -> Failure {
    Failure::usage(format!("the {device} device does not tell what each launch of a step takes"))
        .hint("`--profile` and `--profile-svg` need `--device cpu` or `--device cuda`")
}

/// Fills every input of the step: noise for the image, labels in turn, and small numbers for the rest.
fn feed(run: &mut dyn Executable, model: &Model, step: u32) -> Result<(), Failure> {
    let inputs: Vec<(String, DType, usize)> = {
        let program = run.program();
        let shape = |id| program.buffer(id);
        program
            .inputs
            .iter()
            .map(|(n, &id)| (n.clone(), shape(id).ty.dtype, shape(id).ty.elements()))
            .collect()
    };
    let mut noise = 0x9e37_79b9_7f4a_7c15u64.wrapping_mul(u64::from(step) + 1) | 1;
    for (name, dtype, elements) in inputs {
        let written = match (name.as_str(), dtype) {
            ("lr", _) => run.write_f32(&name, &[1e-3]),
            ("rng", DType::I64) => run.write_i64(&name, &[0, i64::from(step)]),
            (_, DType::I64) => {
                let labels: Vec<i64> = (0..elements).map(|i| (i % model.target.1.max(1)) as i64).collect();
                run.write_i64(&name, &labels)
            }
            (n, DType::F32 | DType::Bf16) if n == model.input.0 => {
                let image: Vec<f32> = (0..elements).map(|_| uniform(&mut noise)).collect();
                run.write_f32(&name, &image)
            }
            (_, DType::F32 | DType::Bf16) => run.write_f32(&name, &vec![1.0; elements]),
        };
        written.map_err(device::failed)?;
    }
    Ok(())
}

/// The next of a stream of numbers in [−1, 1) (xorshift64).
fn uniform(state: &mut u64) -> f32 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    (*state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
}

/// The most memory that this process has had, in bytes; 0 where the system does not tell.
fn peak_rss() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok()).map_or(0, |kib| kib * 1024)
}
