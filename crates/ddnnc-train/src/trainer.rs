//! The training loop.

use crate::data::{Batch, DataError, DataSource};
use crate::error::TrainError;
use crate::evaluate::{Evaluator, NetResult, nets_with_logits, rank};
use crate::feed::{self, Clock, Feed};
use crate::metrics::{EpochRecord, Record, StepRecord, Sums, TestRecord, by_net};
use crate::observer::{Observer, Plan};
use crate::report::write_report;
use crate::run_folder::{Checkpoint, RunFolder, check_optimizer, spec_digest};
use crate::weights::{Tensors, check_weights};
use ddnnc_ir::Model;
use ddnnc_passes::{Device, Executable, Program};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// Everything that a run needs.
pub struct Job<'a> {
    /// The model in train mode.
    pub model: &'a Model,
    /// The step: forward, backward, update.
    pub train: &'a Program,
    /// The same model in eval mode.
    pub eval_model: &'a Model,
    /// Its forward pass; its batch may differ from the training one.
    pub eval: &'a Program,
    /// Forward in train mode with nothing kept but the batch's own statistics; needed where the model has statistics to
    /// be recalibrated.
    pub calibrate: Option<&'a Program>,
    /// What runs the programs.
    pub device: &'a dyn Device,
    /// The images.
    pub data: &'a DataSource,
    /// The values before the first step, see [`crate::initial_values`].
    pub start: Tensors,
    /// The rest.
    pub options: TrainOptions,
}

/// Settings of a run that are not part of the spec.
#[derive(Clone, Debug)]
pub struct TrainOptions {
    /// The run folder.
    pub run: PathBuf,
    /// The spec's text as it takes effect, settings of the command line included.
    pub spec: String,
    /// Continue the run in the folder.
    pub resume: bool,
    /// Stop once the run has done this many steps in all; the schedule is that of the whole recipe nevertheless.
    pub steps: Option<u64>,
    /// Steps between two step records; by default about 20 records an epoch.
    pub log_every: Option<u64>,
    /// Threads that prepare batches.
    pub loader_threads: usize,
    /// Checkpoints to keep.
    pub keep: usize,
    /// Training batches that recalibrated statistics are estimated on.
    pub calibration_batches: u64,
    /// Evaluate on the test images at the end.
    pub test: bool,
}

impl TrainOptions {
    /// The defaults for a run folder and a spec's text.
    pub fn new(run: impl Into<PathBuf>, spec: impl Into<String>) -> TrainOptions {
        TrainOptions {
            run: run.into(),
            spec: spec.into(),
            resume: false,
            steps: None,
            log_every: None,
            loader_threads: 1,
            keep: 2,
            calibration_batches: 100,
            test: true,
        }
    }
}

/// How a run ended without an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// All epochs are done.
    Finished,
    /// The limit on the steps is reached.
    StepLimit,
    /// It was asked to stop.
    Interrupted,
}

/// What a run came to.
#[derive(Clone, Debug)]
pub struct Summary {
    /// How it ended.
    pub ending: Ending,
    /// Steps done, those before a resumption included.
    pub step: u64,
    /// Epochs completed.
    pub epochs: u64,
    /// Results on the held-out images after the last epoch that this process completed; empty where there are none.
    pub validation: Vec<NetResult>,
    /// The step after which they were taken: earlier than `step` where the run ended within an epoch.
    pub validation_step: u64,
    /// Results on the test images; empty where they were not evaluated.
    pub test: Vec<NetResult>,
    /// Training images per second over this process's steps, evaluation and checkpoints not counted.
    pub images_per_second: f64,
    /// Seconds from start to end.
    pub seconds: f64,
    /// The last checkpoint.
    pub checkpoint: PathBuf,
}

/// Trains into the run folder.
///
/// Set `stop` (from a signal handler, say) to end after the current step with a checkpoint. A run that is resumed
/// continues to the bit: parameters, statistics, optimizer state, the position within the epoch, and random numbers.
/// A run whose losses, parameters or running statistics are no longer finite ends with [`TrainError::NotFinite`] and makes
/// no checkpoint of them.
/// A new run that fails otherwise before its first checkpoint (an image that cannot be read, a full disk) leaves no run
/// folder behind.
///
/// Where statistics are recalibrated (`norm = recalibrated`), they are estimated anew before each validation (on a copy)
/// and at the end: as the mean of what training batches have, each counting alike, whatever the norms' momentum.
pub fn train(job: Job<'_>, observer: &mut dyn Observer, stop: &AtomicBool) -> Result<Summary, TrainError> {
    let (folder, resumed) = (job.options.run.clone(), job.options.resume);
    let result = Trainer::new(job, observer)?.run(observer, stop);
    match &result {
        // What the losses were says why it diverged.
        Ok(_) | Err(TrainError::NotFinite { .. }) => {}
        Err(_) if resumed => {}
        Err(_) => RunFolder::discard(&folder),
    }
    result
}

struct Trainer<'a> {
    job: Job<'a>,
    exec: Box<dyn Executable>,
    feed: Feed,
    evaluator: Evaluator,
    run: RunFolder,
    batch: usize,
    steps_per_epoch: u64,
    step: u64,
    sums: Sums,
    /// Training accuracy is counted on these: name, output, classes.
    nets: Vec<(String, String, usize)>,
    /// Loss outputs: name in the metrics, name of the output.
    losses: Vec<(String, String)>,
    logits: Vec<f32>,
    values: Tensors,
    checkpoint: Option<PathBuf>,
    /// Of this process: images trained on and seconds of it.
    images: u64,
    busy: f64,
}

impl<'a> Trainer<'a> {
    fn new(mut job: Job<'a>, observer: &mut dyn Observer) -> Result<Trainer<'a>, TrainError> {
        let started_values = std::mem::take(&mut job.start);
        check_weights(job.model, &started_values)?;
        let batch = feed::batch_of(job.model, job.train);
        let steps_per_epoch = job.data.steps_per_epoch(batch)?;
        let feed = Feed::new(job.model, job.train)?;
        if job.calibrate.is_none() && job.model.states.values().any(|s| s.recalibrate) {
            let message =
                "the model has statistics to recalibrate, and no program for that is given".to_string();
            return Err(feed::misfit(job.train, message));
        }
        if !job.options.resume {
            RunFolder::check_new(&job.options.run)?;
        }
        let mut losses: Vec<(String, String)> = Vec::new();
        for name in job.model.terms.iter().map(|t| t.name.as_str()).chain(["total"]) {
            let output = format!("loss.{name}");
            if !job.train.outputs.contains_key(&output) {
                return Err(feed::misfit(job.train, format!("it does not give `{output}`")));
            }
            losses.push((name.to_string(), output));
        }
        let evaluator = Evaluator::new(job.eval_model, job.eval, job.device)?;
        let mut exec = job.device.load(job.train)?;
        feed::upload(exec.as_mut(), &started_values)?;

        // Nothing is written before everything that can be wrong with the input has been looked at, and nothing but the
        // run itself can fail once a new folder is made.
        let options = &job.options;
        let (run, checkpoint) = if options.resume {
            let (run, checkpoint, warnings) = RunFolder::resume(&options.run, &options.spec, options.keep)?;
            warnings.iter().for_each(|w| observer.note(w));
            (run, checkpoint)
        } else {
            (RunFolder::create(&options.run, &options.spec, options.keep)?, None)
        };
        let (mut step, mut sums, mut values) = (0, Sums::default(), started_values);
        let mut path = None;
        if let Some(checkpoint) = checkpoint {
            job.data.check_classes(&checkpoint.classes)?;
            check_weights(job.model, &checkpoint.values)?;
            check_optimizer(&feed::download_optimizer(exec.as_ref())?, &checkpoint.optimizer)?;
            for (name, tensor) in &checkpoint.optimizer {
                exec.write_f32(name, &tensor.data)?;
            }
            (step, sums) = (checkpoint.step, checkpoint.sums);
            for (name, tensor) in checkpoint.values {
                values.insert(name, tensor);
            }
            path = RunFolder::newest_checkpoint(&options.run)?;
            feed::upload(exec.as_mut(), &values)?;
            observer.note(&format!("resuming at step {step}"));
        }
        let nets = nets_with_logits(job.model, job.train);
        Ok(Trainer {
            job,
            exec,
            feed,
            evaluator,
            run,
            batch,
            steps_per_epoch,
            step,
            sums,
            nets,
            losses,
            logits: Vec::new(),
            values,
            checkpoint: path,
            images: 0,
            busy: 0.0,
        })
    }

    fn run(mut self, observer: &mut dyn Observer, stop: &AtomicBool) -> Result<Summary, TrainError> {
        let started = Instant::now();
        let recipe = &self.job.model.recipe;
        let total = (recipe.epochs as u64).saturating_mul(self.steps_per_epoch);
        let end = self.job.options.steps.map_or(total, |n| n.min(total));
        let log_every = self.job.options.log_every.unwrap_or(self.steps_per_epoch / 20).max(1);
        observer.begin(&Plan {
            first_step: self.step,
            last_step: end,
            steps_per_epoch: self.steps_per_epoch,
            epochs: recipe.epochs as u64,
            batch: self.batch,
        });
        let threads = self.job.options.loader_threads;
        let mut loader = self.job.data.training(self.batch, self.step.min(end), end, threads)?;
        let mut record = StepRecord::default();
        let mut validation = Vec::new();
        let (mut mark, mut images_since) = (Instant::now(), 0u64);
        let (mut epoch_seconds, mut epoch_images) = (0.0, 0u64);
        let mut interrupted = stop.load(Ordering::SeqCst);
        // The batch of the next step, once the device has been given it while it ran the last one.
        let mut given: Option<Result<Batch, DataError>> = None;
        while self.step < end && !interrupted {
            let batch = match given.take() {
                Some(batch) => batch?,
                None => {
                    let Some(batch) = loader.next_batch() else { break };
                    let batch = batch?;
                    let clock = self.clock(self.step, total);
                    self.feed.write(self.exec.as_mut(), &batch, clock)?;
                    batch
                }
            };
            let lr = self.clock(self.step, total).lr;
            self.exec.run()?;
            if self.exec.inputs_wait_apart() && self.step + 1 < end {
                given = loader.next_batch();
                if let Some(Ok(next)) = &given {
                    let clock = self.clock(self.step + 1, total);
                    self.feed.write(self.exec.as_mut(), next, clock)?;
                }
            }
            self.read_step(&batch, lr, &mut record)?;
            images_since += batch.real as u64;
            epoch_images += batch.real as u64;
            loader.recycle(batch);
            let seconds = mark.elapsed().as_secs_f64();
            let epoch_ends = self.step.is_multiple_of(self.steps_per_epoch);
            let bad = self.first_bad(&record);
            record.images_per_second = images_since as f64 / seconds.max(1e-9);
            observer.step(&record);
            if self.step.is_multiple_of(log_every) || epoch_ends || self.step == end || bad.is_some() {
                self.run.append(&Record::Step(record.clone()))?;
                self.busy += seconds;
                self.images += images_since;
                epoch_seconds += seconds;
                (mark, images_since) = (Instant::now(), 0);
            }
            if let Some((term, value)) = bad {
                return Err(self.diverged(format!("the loss term `{term}`"), value));
            }
            if epoch_ends {
                validation = self.end_epoch(&record, epoch_seconds, epoch_images, observer)?;
                (epoch_seconds, epoch_images) = (0.0, 0);
                mark = Instant::now();
            }
            interrupted = stop.load(Ordering::SeqCst);
        }
        drop(loader);
        let interrupted = interrupted && self.step < end;
        self.finish(interrupted, total, validation, started, observer)
    }

    /// The numbers of a step that comes after `step` others.
    fn clock(&self, step: u64, total: u64) -> Clock {
        let recipe = &self.job.model.recipe;
        let lr = recipe.optimizer.lr() * recipe.schedule.factor(step, total, self.steps_per_epoch);
        Clock { step, lr, epochs: step as f64 / self.steps_per_epoch as f64 }
    }

    /// Reads what a step gives.
    fn read_step(&mut self, batch: &Batch, lr: f64, record: &mut StepRecord) -> Result<(), TrainError> {
        record.epoch = self.step / self.steps_per_epoch + 1;
        self.step += 1;
        record.step = self.step;
        record.lr = lr;
        for (name, output) in &self.losses {
            let mut value = [0.0f32];
            self.exec.read_f32(output, &mut value)?;
            let value = f64::from(value[0]);
            match record.loss.get_mut(name) {
                Some(slot) => *slot = value,
                None => {
                    record.loss.insert(name.clone(), value);
                }
            }
            match self.sums.loss.get_mut(name) {
                Some(sum) => *sum += value,
                None => {
                    self.sums.loss.insert(name.clone(), value);
                }
            }
        }
        for (name, output, classes) in &self.nets {
            self.logits.resize(self.batch * classes, 0.0);
            self.exec.read_f32(output, &mut self.logits)?;
            let rows = self.logits.chunks_exact((*classes).max(1)).zip(&batch.labels);
            let correct = rows.filter(|(row, label)| rank(row, **label as usize) == 0).count() as u64;
            match self.sums.correct.get_mut(name) {
                Some(sum) => *sum += correct,
                None => {
                    self.sums.correct.insert(name.clone(), correct);
                }
            }
        }
        self.sums.steps += 1;
        self.sums.images += batch.real as u64;
        Ok(())
    }

    /// The first loss that is not finite.
    fn first_bad(&self, record: &StepRecord) -> Option<(String, f32)> {
        record.loss.iter().find(|(_, v)| !v.is_finite()).map(|(n, v)| (n.clone(), *v as f32))
    }

    /// Reads parameters and running statistics into `values`. What the last update made of them shows in no loss yet.
    fn download(&mut self) -> Result<(), TrainError> {
        feed::download(self.exec.as_ref(), &mut self.values)?;
        self.check_finite(&self.values)
    }

    /// Fails where a parameter or running statistic is not finite: no checkpoint is made of such values.
    fn check_finite(&self, values: &Tensors) -> Result<(), TrainError> {
        let bad = values.iter().find_map(|(name, t)| Some((name, t.data.iter().find(|x| !x.is_finite())?)));
        let Some((name, &value)) = bad else { return Ok(()) };
        let kind = if self.job.model.states.contains_key(name) { "running statistic" } else { "parameter" };
        Err(self.diverged(format!("the {kind} `{name}`"), value))
    }

    /// Fails where the loss of a net on a split is not finite.
    fn check_results(&self, split: &str, results: &[NetResult]) -> Result<(), TrainError> {
        match results.iter().find(|r| !r.loss.is_finite()) {
            Some(bad) => Err(self.diverged(format!("the {split} loss of `{}`", bad.name), bad.loss as f32)),
            None => Ok(()),
        }
    }

    fn diverged(&self, what: String, value: f32) -> TrainError {
        TrainError::NotFinite { what, value, step: self.step, checkpoint: self.checkpoint.clone() }
    }

    /// Validation, record, checkpoint and report at the end of an epoch.
    fn end_epoch(
        &mut self,
        last: &StepRecord,
        seconds: f64,
        images: u64,
        observer: &mut dyn Observer,
    ) -> Result<Vec<NetResult>, TrainError> {
        self.download()?;
        let validation = if self.job.data.validation_len() > 0 {
            let calibrated = self.recalibrated()?;
            self.evaluator.set(calibrated.as_ref().unwrap_or(&self.values))?;
            let threads = self.job.options.loader_threads;
            self.evaluator.run(self.job.data.validation(self.evaluator.batch(), threads))?
        } else {
            Vec::new()
        };
        let sums = std::mem::take(&mut self.sums);
        let (steps, counted) = (sums.steps.max(1) as f64, sums.images.max(1) as f64);
        let record = EpochRecord {
            epoch: last.epoch,
            step: self.step,
            lr: last.lr,
            loss: sums.loss.iter().map(|(n, v)| (n.clone(), v / steps)).collect(),
            train: sums.correct.iter().map(|(n, &c)| (n.clone(), c as f64 / counted)).collect(),
            validation: by_net(&validation),
            images_per_second: images as f64 / seconds.max(1e-9),
            seconds,
        };
        observer.epoch(&record);
        self.run.append(&Record::Epoch(record))?;
        self.check_results("validation", &validation)?;
        self.save()?;
        self.report()?;
        Ok(validation)
    }

    /// Writes a checkpoint of `values` and the optimizer's state as it is on the device.
    fn save(&mut self) -> Result<(), TrainError> {
        let checkpoint = Checkpoint {
            step: self.step,
            epoch: self.step / self.steps_per_epoch,
            seed: self.job.model.recipe.seed,
            spec: spec_digest(&self.job.options.spec),
            values: self.values.clone(),
            optimizer: feed::download_optimizer(self.exec.as_ref())?,
            classes: self.job.data.named_classes().to_vec(),
            sums: self.sums.clone(),
        };
        self.checkpoint = Some(self.run.save(&checkpoint)?);
        Ok(())
    }

    fn report(&self) -> Result<(), TrainError> {
        write_report(self.run.path(), self.job.model, &self.job.options.spec)
    }

    /// A copy of `values` with recalibrated statistics estimated anew; `None` where there are none.
    fn recalibrated(&self) -> Result<Option<Tensors>, TrainError> {
        let model = self.job.model;
        let Some(program) = self.job.calibrate else { return Ok(None) };
        if !model.states.values().any(|s| s.recalibrate) {
            return Ok(None);
        }
        let mut values = self.values.clone();
        let feed = Feed::new(model, program)?;
        let mut exec = self.job.device.load(program)?;
        feed::upload(exec.as_mut(), &values)?;
        let anew = model.states.iter().filter(|(name, s)| s.recalibrate && values.contains_key(*name));
        let mut sums: Vec<(&str, Vec<f64>)> =
            anew.map(|(name, s)| (name.as_str(), vec![0.0; s.shape.elements()])).collect();
        let (batch, batches) = (feed::batch_of(model, program), self.job.options.calibration_batches);
        let mut loader = self.job.data.training(batch, 0, batches, self.job.options.loader_threads)?;
        let mut seen = 0.0;
        while let Some(batch) = loader.next_batch() {
            let batch = batch?;
            let epochs = self.step as f64 / self.steps_per_epoch as f64;
            feed.write(exec.as_mut(), &batch, Clock { step: batch.number, lr: 0.0, epochs })?;
            exec.run()?;
            loader.recycle(batch);
            seen += 1.0;
            for (name, sum) in &mut sums {
                let Some(tensor) = values.get_mut(*name) else { continue };
                exec.read_f32(name, &mut tensor.data)?;
                sum.iter_mut().zip(&tensor.data).for_each(|(sum, &x)| *sum += f64::from(x));
            }
        }
        for (name, sum) in &sums {
            if let Some(tensor) = values.get_mut(*name).filter(|_| seen > 0.0) {
                tensor.data.iter_mut().zip(sum).for_each(|(x, sum)| *x = (sum / seen) as f32);
            }
        }
        Ok(Some(values))
    }

    /// Results on the test images; empty where they are not evaluated.
    fn tested(&mut self) -> Result<Vec<NetResult>, TrainError> {
        if !self.job.options.test || self.job.data.test_len() == 0 {
            return Ok(Vec::new());
        }
        self.evaluator.set(&self.values)?;
        let threads = self.job.options.loader_threads;
        self.evaluator.run(self.job.data.test(self.evaluator.batch(), threads))
    }

    fn finish(
        mut self,
        interrupted: bool,
        total: u64,
        validation: Vec<NetResult>,
        started: Instant,
        observer: &mut dyn Observer,
    ) -> Result<Summary, TrainError> {
        self.download()?;
        let mut test = Vec::new();
        if interrupted {
            self.save()?;
            observer.note(&format!(
                "stopped after step {}; a checkpoint is written: continue with `--resume`",
                self.step
            ));
        } else {
            if let Some(values) = self.recalibrated()? {
                self.check_finite(&values)?;
                self.values = values;
            }
            // Before the checkpoint, which is not written where a loss is not finite; images that cannot be read are no
            // reason to throw it away.
            let tested = self.tested();
            if let Ok(results) = &tested {
                self.check_results("test", results)?;
            }
            self.save()?;
            test = tested?;
            if !test.is_empty() {
                observer.test(&test);
                let epoch = self.step.div_ceil(self.steps_per_epoch);
                self.run.append(&Record::Test(TestRecord { step: self.step, epoch, test: by_net(&test) }))?;
            }
        }
        self.report()?;
        let ending = match (interrupted, self.step < total) {
            (true, _) => Ending::Interrupted,
            (false, true) => Ending::StepLimit,
            (false, false) => Ending::Finished,
        };
        Ok(Summary {
            ending,
            step: self.step,
            epochs: self.step / self.steps_per_epoch,
            validation,
            validation_step: self.step - self.step % self.steps_per_epoch,
            test,
            images_per_second: self.images as f64 / self.busy.max(1e-9),
            seconds: started.elapsed().as_secs_f64(),
            checkpoint: self.checkpoint.unwrap_or_default(),
        })
    }
}
