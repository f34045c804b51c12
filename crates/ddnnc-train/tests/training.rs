//! The loop on a device made by hand: metrics, checkpoints, resumption, recalibration, what stops it.

mod common;

use common::{FakeDevice, Goal, mnist, model, program};
use ddnnc_train::{
    Checkpoint, DataSource, Ending, EpochRecord, Evaluator, Job, Observer, RunFolder, StepRecord, Summary,
    TrainError, TrainOptions, initial_values, read_records, train,
};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

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
    recalibrate: bool,
    nan_at: Option<u64>,
    overflow_at: Option<u64>,
    apart: bool,
    early: Arc<AtomicU64>,
}

impl Setup {
    /// 50 images to train on: 6 steps of 8 an epoch; 10 held out; 25 to test.
    fn new() -> Setup {
        let folder = tempfile::tempdir().unwrap();
        let data = mnist(&folder.path().join("data"), 60, 25, 0.1, vec![]);
        Setup {
            folder,
            data,
            recalibrate: false,
            nan_at: None,
            overflow_at: None,
            apart: false,
            early: Arc::default(),
        }
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
        let model = model(8, 3, self.recalibrate);
        let (step, eval, calibrate) =
            (program(Goal::Train, 8), program(Goal::Eval, 7), program(Goal::Calibrate, 8));
        let mut options = TrainOptions::new(self.run(name), SPEC);
        change(&mut options);
        let job = Job {
            model: &model,
            train: &step,
            eval_model: &model,
            eval: &eval,
            calibrate: Some(&calibrate),
            device: &FakeDevice {
                nan_at: self.nan_at,
                overflow_at: self.overflow_at,
                apart: self.apart,
                early: self.early.clone(),
            },
            data: &self.data,
            start: initial_values(&model, 7, Path::new("")).unwrap(),
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
