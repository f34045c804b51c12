//! The loop on a device made by hand: metrics, checkpoints, resumption, recalibration, what stops it.

mod common;

use common::{FakeDevice, Goal, mnist, model, phases, program};
use ddnnc_ir::{Curriculum, Order, Pace, Shape};
use ddnnc_train::{
    Checkpoint, DataSource, Ending, EpochRecord, Evaluator, Job, JobPhase, Observer, RunFolder, StepRecord,
    Summary, TrainError, TrainOptions, initial_values, read_records, train,
};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

const SPEC: &str = "model tiny // <spec> & text";

/// Asks for a stop after a step.
struct StopAt<'a> {
    step: u64,
    stop: &'a AtomicBool,
    epochs: Vec<u64>,
    notes: Vec<String>,
}

impl Observer for StopAt<'_> {
    fn step(&mut self, record: &StepRecord) {
        if record.step == self.step {
            self.stop.store(true, Ordering::SeqCst);
        }
    }

    fn epoch(&mut self, record: &EpochRecord) {
        self.epochs.push(record.epoch);
    }

    fn note(&mut self, text: &str) {
        self.notes.push(text.into());
    }
}

struct Setup {
    folder: tempfile::TempDir,
    data: DataSource,
    /// Epochs of each phase; none where the training has none, and 3 epochs.
    phases: Vec<usize>,
    /// How the last phase orders its images.
    order: Order,
    recalibrate: bool,
    nan_at: Option<u64>,
    overflow_at: Option<u64>,
    apart: bool,
    early: Arc<AtomicU64>,
    loaded: Arc<[AtomicU64; 2]>,
    seen: Arc<Mutex<Vec<Vec<i64>>>>,
}

impl Setup {
    /// 50 images to train on: 6 steps of 8 an epoch; 10 held out; 25 to test.
    fn new() -> Setup {
        let folder = tempfile::tempdir().unwrap();
        let data = mnist(&folder.path().join("data"), 60, 25, 0.1, vec![]);
        Setup {
            folder,
            data,
            phases: vec![],
            order: Order::Shuffle,
            recalibrate: false,
            nan_at: None,
            overflow_at: None,
            apart: false,
            early: Arc::default(),
            loaded: Arc::default(),
            seen: Arc::default(),
        }
    }

    fn in_phases(epochs: &[usize]) -> Setup {
        Setup { phases: epochs.to_vec(), ..Setup::new() }
    }

    fn run(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn train(
        &self,
        name: &str,
        stop_at: u64,
        change: impl Fn(&mut TrainOptions),
    ) -> Result<(Summary, Vec<String>), TrainError> {
        let mut models = match self.phases.as_slice() {
            [] => vec![model(8, 3, self.recalibrate)],
            epochs => phases(8, epochs, self.recalibrate),
        };
        models.last_mut().unwrap().recipe.order = self.order.clone();
        let model = &models[0];
        let (step, eval, calibrate) =
            (program(Goal::Train, 8), program(Goal::Eval, 7), program(Goal::Calibrate, 8));
        let mut options = TrainOptions::new(self.run(name), SPEC);
        change(&mut options);
        let job = Job {
            phases: models
                .iter()
                .map(|model| JobPhase { model, train: &step, calibrate: Some(&calibrate) })
                .collect(),
            eval_model: model,
            eval: &eval,
            device: &FakeDevice {
                nan_at: self.nan_at,
                overflow_at: self.overflow_at,
                apart: self.apart,
                early: self.early.clone(),
                loaded: self.loaded.clone(),
                seen: self.seen.clone(),
            },
            data: &self.data,
            start: initial_values(model, 7, Path::new("")).unwrap(),
            options,
        };
        let stop = AtomicBool::new(false);
        let mut observer = StopAt { step: stop_at, stop: &stop, epochs: vec![], notes: vec![] };
        let summary = train(job, &mut observer, &stop)?;
        Ok((summary, observer.notes))
    }

    fn last(&self, name: &str) -> Checkpoint {
        Checkpoint::read(&RunFolder::newest_checkpoint(&self.run(name)).unwrap().unwrap()).unwrap()
    }

    /// The records without what time puts into them.
    fn records(&self, name: &str) -> Vec<Value> {
        let mut records = read_records(&self.run(name)).unwrap();
        for record in &mut records {
            let map = record.as_object_mut().unwrap();
            map.remove("images_per_second");
            map.remove("seconds");
        }
        records
    }
}

#[test]
fn a_run_leaves_what_the_contract_asks() {
    let setup = Setup::new();
    let (summary, _) = setup.train("run", 0, |_| {}).unwrap();
    assert_eq!((summary.ending, summary.step, summary.epochs), (Ending::Finished, 18, 3));
    let accuracies: Vec<_> = summary.test.iter().map(|r| (r.name.as_str(), r.accuracy, r.images)).collect();
    assert_eq!(accuracies, [("right", 1.0, 25), ("wrong", 0.0, 25)]);
    assert_eq!(summary.test[0].top5, 1.0);
    assert!(summary.test[1].top5 < 1.0 && summary.test[1].loss > summary.test[0].loss);

    let run = setup.run("run");
    assert_eq!(fs::read_to_string(run.join("spec.ddnn")).unwrap(), SPEC);
    let mut files: Vec<_> = fs::read_dir(run.join("checkpoints"))
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    files.sort();
    assert_eq!(files, ["step-00000012.safetensors", "step-00000018.safetensors"]);

    let records = read_records(&run).unwrap();
    let of = |kind: &str| records.iter().filter(|r| r["kind"] == kind).collect::<Vec<_>>();
    assert_eq!((of("step").len(), of("epoch").len(), of("test").len()), (18, 3, 1));
    let step = of("step")[6];
    assert_eq!((step["step"].as_u64(), step["epoch"].as_u64()), (Some(7), Some(2)));
    for term in ["ce.right", "kl.right.wrong", "total"] {
        assert!(step["loss"][term].is_f64(), "{term} in {step}");
    }
    assert!(step["lr"].as_f64().unwrap() > 0.0 && step["images_per_second"].as_f64().unwrap() > 0.0);
    let epoch = of("epoch")[1];
    assert_eq!(epoch["train"]["right"], 1.0);
    assert_eq!(epoch["train"]["wrong"], 0.0);
    assert_eq!(epoch["validation"]["right"]["accuracy"], 1.0);
    assert_eq!(epoch["validation"]["right"]["images"], 10);
    let mean = of("step")[6..12].iter().map(|r| r["loss"]["total"].as_f64().unwrap()).sum::<f64>() / 6.0;
    assert!((epoch["loss"]["total"].as_f64().unwrap() - mean).abs() <= 1e-9 * mean);
    assert_eq!(records.last().unwrap()["test"]["wrong"]["accuracy"], 0.0);

    let html = fs::read_to_string(run.join("report.html")).unwrap();
    for part in ["<svg", "polyline", "kl.right.wrong", "tiny&lt;1&gt;", "&lt;spec&gt; &amp; text", "100.00 %"]
    {
        assert!(html.contains(part), "{part}");
    }
    assert!(!html.contains("http") && !html.contains("<script"));
}

#[test]
fn a_resumed_run_equals_the_uninterrupted_one_to_the_bit() {
    let setup = Setup::new();
    setup.train("whole", 0, |_| {}).unwrap();
    for at in [1, 5, 6, 7, 11, 12, 17] {
        let name = format!("part{at}");
        let (summary, notes) = setup.train(&name, at, |_| {}).unwrap();
        assert_eq!((summary.ending, summary.step), (Ending::Interrupted, at));
        assert!(notes.last().unwrap().contains("--resume"), "{notes:?}");
        assert!(summary.test.is_empty());
        let (summary, _) = setup.train(&name, 0, |o| (o.resume, o.loader_threads) = (true, 3)).unwrap();
        assert_eq!(summary.ending, Ending::Finished);
        assert_eq!(setup.last(&name), setup.last("whole"), "stopped at {at}");
        assert_eq!(setup.records(&name), setup.records("whole"), "stopped at {at}");
    }
}

#[test]
fn a_device_that_keeps_inputs_apart_gets_batches_early_and_trains_to_the_same_bits() {
    let mut setup = Setup::new();
    setup.train("plain", 0, |_| {}).unwrap();
    assert_eq!(setup.early.load(Ordering::Relaxed), 0);
    setup.apart = true;
    setup.train("apart", 0, |o| o.loader_threads = 2).unwrap();
    assert_eq!(setup.early.load(Ordering::Relaxed), 17, "every batch but the first of 18");
    assert_eq!(setup.last("apart"), setup.last("plain"));
    assert_eq!(setup.records("apart"), setup.records("plain"));
    // Stopped and resumed, a batch that was given and never used changes nothing.
    for at in [5, 6, 17] {
        let name = format!("part{at}");
        assert_eq!(setup.train(&name, at, |_| {}).unwrap().0.step, at);
        setup.train(&name, 0, |o| o.resume = true).unwrap();
        assert_eq!(setup.last(&name), setup.last("plain"), "stopped at {at}");
        assert_eq!(setup.records(&name), setup.records("plain"), "stopped at {at}");
    }
}

#[test]
fn a_killed_run_goes_on_from_the_newest_whole_checkpoint() {
    let setup = Setup::new();
    setup.train("whole", 0, |_| {}).unwrap();
    setup.train("killed", 14, |_| {}).unwrap();
    // The newest checkpoint is damaged in one byte, a temporary file and half a line are left over.
    let checkpoints = setup.run("killed").join("checkpoints");
    let newest = checkpoints.join("step-00000014.safetensors");
    let mut bytes = fs::read(&newest).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&newest, bytes).unwrap();
    fs::write(checkpoints.join(".ddnnc-x.tmp"), "half").unwrap();
    let metrics = setup.run("killed").join("metrics.jsonl");
    fs::write(&metrics, fs::read_to_string(&metrics).unwrap() + "{\"kind\":\"st").unwrap();
    let (_, notes) = setup.train("killed", 0, |o| o.resume = true).unwrap();
    assert!(notes[0].contains("step-00000014") && notes[0].contains("checksum"), "{notes:?}");
    assert!(notes[1].contains("step 12"), "{notes:?}");
    assert_eq!(setup.last("killed"), setup.last("whole"));
    assert_eq!(setup.records("killed"), setup.records("whole"));
    assert!(!checkpoints.join(".ddnnc-x.tmp").exists());
    assert!(checkpoints.join("step-00000014.damaged").exists());

    // With no whole checkpoint left, nothing is begun anew and nothing is removed.
    for entry in fs::read_dir(&checkpoints).unwrap() {
        fs::write(entry.unwrap().path(), "rubbish").unwrap();
    }
    let before = setup.records("killed");
    let error = setup.train("killed", 0, |o| o.resume = true).unwrap_err().to_string();
    assert!(error.contains("step-00000018"), "the newest: {error}");
    assert!(error.contains("not a complete safetensors file") && error.contains("`--out`"), "{error}");
    assert_eq!(setup.records("killed"), before);
    let error = RunFolder::newest_complete(&setup.run("killed")).unwrap_err().to_string();
    assert!(error.contains("step-00000018") && error.contains("Put a copy"), "{error}");
    fs::remove_dir_all(&checkpoints).unwrap();
    let error = setup.train("killed", 0, |o| o.resume = true).unwrap_err().to_string();
    assert!(error.contains("go to step 18") && error.contains("Put a copy"), "{error}");
    assert_eq!(setup.records("killed"), before);
}

#[test]
fn a_run_killed_before_its_first_checkpoint_begins_anew_and_says_so() {
    let setup = Setup::new();
    setup.train("whole", 0, |_| {}).unwrap();
    setup.train("killed", 3, |_| {}).unwrap();
    fs::remove_dir_all(setup.run("killed").join("checkpoints")).unwrap();
    let (_, notes) = setup.train("killed", 0, |o| o.resume = true).unwrap();
    assert_eq!(notes, ["the run has no checkpoint: beginning at step 0"]);
    assert_eq!(setup.records("killed"), setup.records("whole"));
}

#[test]
fn run_folders_are_guarded() {
    let setup = Setup::new();
    setup.train("run", 0, |o| o.steps = Some(2)).unwrap();
    let before = setup.records("run");
    let error = setup.train("run", 0, |_| {}).unwrap_err();
    assert!(
        matches!(error, TrainError::RunExists { .. }) && error.to_string().contains("--resume"),
        "{error}"
    );
    let error = setup
        .train("run", 0, |o| {
            o.resume = true;
            o.spec.push('x');
        })
        .unwrap_err();
    assert!(matches!(error, TrainError::OtherSpec { .. }), "{error}");
    assert_eq!(setup.records("run"), before);
    let error = setup.train("none", 0, |o| o.resume = true).unwrap_err();
    assert!(matches!(error, TrainError::NothingToResume { .. }), "{error}");
    assert!(!setup.run("none").exists());
}

#[test]
fn what_a_process_leaves_that_was_killed_at_the_start_is_no_run() {
    let setup = Setup::new();
    let run = setup.run("run");
    fs::create_dir_all(run.join("checkpoints")).unwrap();
    fs::write(run.join(".ddnnc-x.tmp"), "half").unwrap();
    setup.train("run", 0, |o| o.steps = Some(2)).unwrap();
    assert!(!run.join(".ddnnc-x.tmp").exists());
    // A checkpoint without a spec is somebody's.
    fs::remove_file(run.join("spec.ddnn")).unwrap();
    let error = setup.train("run", 0, |_| {}).unwrap_err();
    assert!(matches!(error, TrainError::RunExists { .. }), "{error}");
}

#[test]
fn a_step_limit_keeps_the_schedule() {
    let setup = Setup::new();
    let (summary, _) = setup.train("short", 0, |o| (o.steps, o.test) = (Some(4), false)).unwrap();
    assert_eq!((summary.ending, summary.step), (Ending::StepLimit, 4));
    assert!(summary.test.is_empty());
    setup.train("whole", 0, |_| {}).unwrap();
    assert_eq!(setup.records("short")[..], setup.records("whole")[..4]);
}

#[test]
fn a_loss_that_is_nan_stops_the_run() {
    let mut setup = Setup::new();
    setup.nan_at = Some(9);
    let error = setup.train("run", 0, |_| {}).unwrap_err();
    let TrainError::NotFinite { what, step, checkpoint, .. } = &error else { panic!("{error}") };
    assert_eq!((what.as_str(), *step), ("the loss term `kl.right.wrong`", 9));
    assert_eq!(Checkpoint::read(checkpoint.as_ref().unwrap()).unwrap().step, 6);
    assert!(error.to_string().contains("step-00000006"), "{error}");
    let last = setup.records("run").pop().unwrap();
    assert_eq!(last["step"], 9);
    assert!(last["loss"]["kl.right.wrong"].is_null() && last["loss"]["ce.right"].is_f64());
}

#[test]
fn weights_that_are_not_finite_become_no_checkpoint() {
    // The update of the last step of an epoch, of the step before a limit, and of the step before an interruption.
    for (step, stop_at, limit) in [(12, 0, None), (10, 0, Some(10)), (9, 9, None)] {
        let mut setup = Setup::new();
        setup.overflow_at = Some(step);
        let error = setup.train("run", stop_at, |o| o.steps = limit).unwrap_err();
        let TrainError::NotFinite { what, step: at, checkpoint, .. } = &error else { panic!("{error}") };
        assert_eq!((what.as_str(), *at), ("the parameter `net.w`", step));
        assert_eq!(setup.last("run").step, 6);
        assert!(checkpoint.as_ref().unwrap().ends_with("step-00000006.safetensors"), "{error}");
        assert!(error.to_string().contains("is inf at step") && error.to_string().contains("learning rate"));
    }
}

#[test]
fn recalibrated_statistics_are_estimated_anew() {
    let mut setup = Setup::new();
    setup.recalibrate = true;
    let (_, _) = setup.train("run", 0, |_| {}).unwrap();
    let mut plain = Setup::new();
    plain.recalibrate = false;
    plain.train("run", 0, |_| {}).unwrap();
    let (after, before) = (setup.last("run"), plain.last("run"));
    assert_eq!(after.values["net.w"], before.values["net.w"]);
    // The fake statistic is an average of the images' means, about the same in each batch.
    let mean = 124.5 / 255.0 / 5.0;
    for (&a, &b) in after.values["net.running_mean"].data.iter().zip(&before.values["net.running_mean"].data)
    {
        assert!((f64::from(a) - mean).abs() < 2e-3, "{a} is not near {mean}");
        assert!((f64::from(b) - mean).abs() > 1e-2, "18 steps cannot forget 0.25, but {b}");
    }
}

#[test]
fn recalibration_is_a_mean_of_batches() {
    let mut setup = Setup::new();
    setup.recalibrate = true;
    let means = |batches: u64| {
        let name = format!("run{batches}");
        setup.train(&name, 0, |o| o.calibration_batches = batches).unwrap();
        setup.last(&name).values["net.running_mean"].data.clone()
    };
    let (one, two, three) = (means(1), means(2), means(3));
    for ((one, two), three) in one.into_iter().zip(two).zip(three) {
        let (second, third) = (2.0 * two - one, 3.0 * three - 2.0 * two);
        for batch in [one, second, third] {
            assert!((f64::from(batch) - 124.5 / 255.0 / 5.0).abs() < 5e-3, "{batch} has something of 0.25");
        }
        assert!(one != second && second != third, "the batches differ");
    }
}

#[test]
fn evaluation_counts_real_images_only() {
    let setup = Setup::new();
    let model = model(8, 1, false);
    let values = initial_values(&model, 1, Path::new("")).unwrap();
    for (test, images) in [(true, 25), (false, 10)] {
        for batch in [1, 7, 64] {
            let program = program(Goal::Eval, batch);
            let device = FakeDevice::default();
            let mut evaluator = Evaluator::new(&model, &program, &device).unwrap();
            evaluator.set(&values).unwrap();
            let loader = if test { setup.data.test(batch, 2) } else { setup.data.validation(batch, 2) };
            let names: Vec<&str> = model.nets.iter().map(|net| net.name.as_str()).rev().collect();
            let (results, answers) = evaluator.run_with_answers(&names, loader).unwrap();
            // Padding is answered by nobody.
            assert!(answers.iter().all(|of_net| of_net.len() as u64 == images));
            assert!(answers[0].iter().all(|a| !a.correct) && answers[1].iter().all(|a| a.correct));
            assert_eq!((results[0].images, results[0].accuracy), (images, 1.0));
            assert_eq!((results[1].images, results[1].accuracy), (images, 0.0));
        }
    }
}

#[test]
fn phases_come_one_after_the_other() {
    let setup = Setup::in_phases(&[1, 2]);
    let (summary, _) = setup.train("run", 0, |o| o.keep = 3).unwrap();
    assert_eq!((summary.ending, summary.step, summary.epochs), (Ending::Finished, 18, 3));
    let loaded = setup.loaded.each_ref().map(|n| n.load(Ordering::Relaxed));
    assert_eq!(loaded, [0, 1], "one program at a time");

    let records = setup.records("run");
    let steps: Vec<&Value> = records.iter().filter(|r| r["kind"] == "step").collect();
    let epochs: Vec<&Value> = records.iter().filter(|r| r["kind"] == "epoch").collect();
    let phase = |at: u64| if at <= 6 { "warm" } else { "cool" };
    for (record, at) in steps.iter().zip(1..) {
        assert_eq!((record["step"].as_u64(), record["phase"].as_str()), (Some(at), Some(phase(at))));
        assert_eq!(record["epoch"].as_u64(), Some(at.div_ceil(6)));
    }
    assert_eq!(steps.len(), 18);
    let of_epochs: Vec<_> = epochs.iter().map(|r| (r["epoch"].as_u64(), r["phase"].as_str())).collect();
    assert_eq!(of_epochs, [(Some(1), Some("warm")), (Some(2), Some("cool")), (Some(3), Some("cool"))]);
    // Schedule and ramp begin anew, each over its own length: three steps of warm-up, half a cosine; the weight rises from 0.
    let lr = |at: usize| steps[at - 1]["lr"].as_f64().unwrap();
    let near = |a: f64, b: f64| assert!((a - b).abs() < 1e-12, "{a} is not {b}");
    for (first, rate, steps_of) in [(1, 0.1, 6.0), (7, 0.05, 12.0)] {
        near(lr(first), rate / 3.0);
        near(lr(first + 2), rate);
        near(lr(first + 4), rate * 0.5 * (1.0 + (std::f64::consts::PI / (steps_of - 3.0)).cos()));
        assert_eq!(steps[first - 1]["loss"]["kl.right.wrong"], 0.0);
        let loss = |term: &str| steps[first]["loss"][term].as_f64().unwrap() as f32;
        assert_eq!(loss("kl.right.wrong"), loss("ce.right") * (1.0 / 12.0), "a twelfth of two epochs");
    }
    let checkpoint = |step: u64| {
        Checkpoint::read(&setup.run("run").join(format!("checkpoints/step-{step:08}.safetensors"))).unwrap()
    };
    let of = |c: &Checkpoint| (c.epoch, c.phase.clone(), c.optimizer.len());
    let cool = Some("cool".to_string());
    assert_eq!(of(&checkpoint(6)), (1, cool.clone(), 0), "the next phase begins with no optimizer state");
    assert_eq!(of(&checkpoint(12)), (2, cool.clone(), 1));
    assert_eq!(of(&checkpoint(18)), (3, cool, 1));
    let html = fs::read_to_string(setup.run("run").join("report.html")).unwrap();
    for part in ["Phase warm: epoch 1.", "Phase cool: epochs 2 to 3.", "3 of 3 epochs", "stroke-dasharray"] {
        assert!(html.contains(part), "{part}");
    }
}

#[test]
fn the_optimizer_counts_the_steps_of_its_phase() {
    let mut setup = Setup::in_phases(&[1, 2]);
    // The device takes the step from what the optimizer is given: the first phase has no ninth one.
    setup.nan_at = Some(9);
    let error = setup.train("run", 0, |_| {}).unwrap_err();
    assert!(matches!(error, TrainError::NotFinite { step: 15, .. }), "{error}");
}

#[test]
fn statistics_are_recalibrated_at_the_end_of_each_phase() {
    let setup = Setup { recalibrate: true, ..Setup::in_phases(&[1, 2]) };
    setup.train("run", 0, |o| (o.keep, o.calibration_batches) = (3, 20)).unwrap();
    let mean = 124.5 / 255.0 / 5.0;
    let far = |step: u64| {
        let path = setup.run("run").join(format!("checkpoints/step-{step:08}.safetensors"));
        let values = Checkpoint::read(&path).unwrap().values;
        values["net.running_mean"].data.iter().map(|&x| (f64::from(x) - mean).abs()).fold(0.0, f64::max)
    };
    assert!(far(6) < 4e-3 && far(18) < 4e-3, "{} {}", far(6), far(18));
    // Within a phase they are the running ones, which change slowly; the second phase went on from the recalibrated ones.
    assert!(far(12) > far(6), "{} {}", far(12), far(6));
}

#[test]
fn a_run_resumed_within_phases_equals_the_uninterrupted_one_to_the_bit() {
    let few = |o: &mut TrainOptions| o.calibration_batches = 3;
    for (recalibrate, stops) in [(false, [1, 6, 7, 23]), (true, [5, 6, 12, 13])] {
        let setup = Setup { recalibrate, apart: recalibrate, ..Setup::in_phases(&[1, 1, 2]) };
        setup.train("whole", 0, few).unwrap();
        for at in stops {
            let name = format!("part{at}");
            let (summary, _) = setup.train(&name, at, few).unwrap();
            assert_eq!((summary.ending, summary.step), (Ending::Interrupted, at));
            let (_, notes) = setup
                .train(&name, 0, |o| {
                    few(o);
                    (o.resume, o.loader_threads) = (true, 3)
                })
                .unwrap();
            assert!(notes[0].contains(&format!("step {at}")), "{notes:?}");
            assert_eq!(setup.last(&name), setup.last("whole"), "stopped at {at}");
            assert_eq!(setup.records(&name), setup.records("whole"), "stopped at {at}");
        }
        // A limit on the steps counts the whole run, and may fall between two phases.
        for limit in [9, 12] {
            let name = format!("limit{limit}");
            let (summary, _) = setup
                .train(&name, 0, |o| {
                    few(o);
                    o.steps = Some(limit)
                })
                .unwrap();
            assert_eq!((summary.ending, summary.step), (Ending::StepLimit, limit));
            setup
                .train(&name, 0, |o| {
                    few(o);
                    o.resume = true
                })
                .unwrap();
            assert_eq!(setup.last(&name), setup.last("whole"), "a limit of {limit}");
            assert_eq!(setup.records(&name), setup.records("whole"), "a limit of {limit}");
        }
    }
}

#[test]
fn a_checkpoint_of_another_phase_is_refused() {
    let setup = Setup::in_phases(&[1, 2]);
    setup.train("run", 3, |_| {}).unwrap();
    let path = RunFolder::newest_checkpoint(&setup.run("run")).unwrap().unwrap();
    let mut checkpoint = Checkpoint::read(&path).unwrap();
    for (phase, words) in [(Some("cool".to_string()), "is of the phase `cool`"), (None, "is of no phase")] {
        checkpoint.phase = phase;
        checkpoint.write(&path).unwrap();
        let error = setup.train("run", 0, |o| o.resume = true).unwrap_err();
        assert!(matches!(error, TrainError::OtherPhase { .. }) && !error.is_environment(), "{error}");
        let text = error.to_string();
        assert!(text.contains(words) && text.contains("lies in the phase `warm`"), "{text}");
    }
}

#[test]
fn what_is_wrong_with_a_later_phase_is_found_before_the_first() {
    let setup = Setup::new();
    let models = phases(8, &[1, 1], false);
    let (step, eval) = (program(Goal::Train, 8), program(Goal::Eval, 7));
    let mut silent = step.clone();
    silent.outputs.shift_remove("loss.total");
    let larger = program(Goal::Train, 16);
    for (wrong, words) in [(silent, "does not give `loss.total`"), (larger, "does not take 8 images")] {
        let programs = [&step, &wrong];
        let job = Job {
            phases: models
                .iter()
                .zip(programs)
                .map(|(model, train)| JobPhase { model, train, calibrate: None })
                .collect(),
            eval_model: &models[0],
            eval: &eval,
            device: &FakeDevice::default(),
            data: &setup.data,
            start: initial_values(&models[0], 7, Path::new("")).unwrap(),
            options: TrainOptions::new(setup.run("run"), SPEC),
        };
        let stop = AtomicBool::new(false);
        let mut observer = StopAt { step: 0, stop: &stop, epochs: vec![], notes: vec![] };
        let error = train(job, &mut observer, &stop).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
        assert!(!setup.run("run").exists());
    }
}

fn by_difficulty(mode: Curriculum) -> Setup {
    let (snapshot, pace) = ("right".to_string(), Pace { from: 0.4, to: 1.0 });
    Setup { order: Order::Difficulty { snapshot, mode, pace }, ..Setup::in_phases(&[1, 4]) }
}

#[test]
fn a_curriculum_goes_from_the_easiest_images_to_all() {
    // Of 50 images, five of each class: pools of 20, 30, 40 and 50 after an epoch of all, so 2, 3, 5 and 6 steps after 6.
    let classes = |mode| {
        let setup = by_difficulty(mode);
        let (summary, notes) = setup.train("run", 0, |_| {}).unwrap();
        assert_eq!((summary.ending, summary.step, summary.epochs), (Ending::Finished, 22, 5));
        let records = setup.records("run");
        let ends: Vec<u64> =
            records.iter().filter(|r| r["kind"] == "epoch").filter_map(|r| r["step"].as_u64()).collect();
        assert_eq!(ends, [6, 8, 11, 16, 22]);
        let lr = |step: usize| {
            records.iter().find(|r| r["kind"] == "step" && r["step"] == step).unwrap()["lr"].as_f64()
        };
        // Half an epoch of warm-up is one step; a cosine over the fifteen others.
        let last = 0.05 * 0.5 * (1.0 + (std::f64::consts::PI * 14.0 / 15.0).cos());
        assert_eq!(lr(7), Some(0.05));
        assert!((lr(22).unwrap() - last).abs() < 1e-12);
        let seen = std::mem::take(&mut *setup.seen.lock().unwrap());
        let of =
            |steps: std::ops::Range<usize>| seen[steps].iter().flatten().copied().collect::<BTreeSet<i64>>();
        (notes, [of(6..8), of(8..11), of(11..16), of(16..22)])
    };
    let set = |of: &[i64]| of.iter().copied().collect::<BTreeSet<_>>();
    // The first and the last class have the least neighbours, and so the least cross-entropy.
    let (notes, [first, second, third, all]) = classes(Curriculum::Curriculum);
    assert_eq!(notes, ["scoring 50 images by `right`"]);
    assert!(first.is_subset(&set(&[0, 9, 1, 8])) && first.len() == 4, "{first:?}");
    assert_eq!(second, set(&[0, 9, 1, 8, 2, 7]));
    assert_eq!(third, set(&[0, 9, 1, 8, 2, 7, 3, 6]));
    assert_eq!(all.len(), 10);
    let (_, [first, second, ..]) = classes(Curriculum::AntiCurriculum);
    assert!(first.is_subset(&set(&[4, 5, 3, 6])) && first.len() == 4, "{first:?}");
    assert_eq!(second, set(&[4, 5, 3, 6, 2, 7]));
    let (notes, [first, ..]) = classes(Curriculum::RandomCurriculum);
    assert!(notes.is_empty() && first.len() > 4, "{first:?}");
}

#[test]
fn a_curriculum_is_resumed_to_the_bit() {
    for mode in [Curriculum::Curriculum, Curriculum::RandomCurriculum] {
        let setup = by_difficulty(mode);
        setup.train("whole", 0, |_| {}).unwrap();
        // Before its phase, where it begins, and within its epochs; the weights that scored are gone then.
        for at in [5, 6, 7, 13] {
            let name = format!("part{at}");
            setup.train(&name, at, |_| {}).unwrap();
            let scores = setup.last(&name).scores.map_or(0, |scores| scores.data.len());
            assert_eq!(scores, if at > 6 && mode == Curriculum::Curriculum { 50 } else { 0 });
            setup.train(&name, 0, |o| o.resume = true).unwrap();
            assert_eq!(setup.last(&name), setup.last("whole"), "stopped at {at}");
            assert_eq!(setup.records(&name), setup.records("whole"), "stopped at {at}");
        }
    }
    // Scores are of parameters as they were: as weights to begin with, a checkpoint gives none.
    let setup = by_difficulty(Curriculum::Curriculum);
    setup.train("run", 9, |_| {}).unwrap();
    let path = RunFolder::newest_checkpoint(&setup.run("run")).unwrap().unwrap();
    let values = ddnnc_train::read_weights(&path).unwrap().into_values();
    assert_eq!(values.keys().collect::<Vec<_>>(), ["net.w", "net.running_mean"]);
    let mut checkpoint = Checkpoint::read(&path).unwrap();
    for scores in
        [None, checkpoint.scores.clone().map(|mut s| (s.data.pop(), s.shape = Shape::from([49]), s).2)]
    {
        checkpoint.scores = scores;
        checkpoint.write(&path).unwrap();
        let error = setup.train("run", 0, |o| o.resume = true).unwrap_err();
        assert!(matches!(error, TrainError::OtherImages { here: 50, .. }), "{error}");
        assert!(!error.is_environment() && error.to_string().contains("50 to train on"), "{error}");
    }
}
