//! The training loop.

use crate::data::{Batch, DataError, DataSource, Pools};
use crate::error::TrainError;
use crate::evaluate::{Evaluator, NetResult};
use crate::feed::{self, Clock, Feed};
use crate::metrics::{EpochRecord, Record, StepRecord, Sums, TestRecord, by_net};
use crate::observer::{Observer, Plan};
use crate::phase::{JobPhase, Running};
use crate::report::write_report;
use crate::run_folder::{Checkpoint, RunFolder, spec_digest};
use crate::timeline::Timeline;
use crate::weights::{Tensor, Tensors, check_weights};
use ddnnc_ir::{Model, Shape};
use ddnnc_passes::{Device, Program};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// Everything that a run needs.
pub struct Job<'a> {
    /// The phases in order, one at least: all have the same images in a step, parameters and running statistics.
    pub phases: Vec<JobPhase<'a>>,
    /// The model in eval mode.
    pub eval_model: &'a Model,
    /// Its forward pass; its batch may differ from the training one.
    pub eval: &'a Program,
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
/// The phases come one after the other. Each begins with the parameters and statistics of the one before it and with an
/// optimizer that has no state; its schedule, its weights that change over time and the optimizer's count of steps begin
/// anew, while steps and epochs (and with them the order of the images and all random numbers) count on. The program of a
/// phase is loaded when it begins, once that of the phase before it has gone.
///
/// Where statistics are recalibrated (`norm = recalibrated`), they are estimated anew before each validation (on a copy)
/// and at the end of each phase: as the mean of what training batches have, each counting alike, whatever the norms' momentum.
pub fn train(job: Job<'_>, observer: &mut dyn Observer, stop: &AtomicBool) -> Result<Summary, TrainError> {
    let (folder, resumed) = (job.options.run.clone(), job.options.resume);
    let (trainer, running) = Trainer::new(job, observer)?;
    let result = trainer.run(running, observer, stop);
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
    evaluator: Evaluator,
    run: RunFolder,
    batch: usize,
    timeline: Timeline,
    step: u64,
    sums: Sums,
    values: Tensors,
    checkpoint: Option<PathBuf>,
    /// Of this process: images trained on and seconds of it.
    images: u64,
    busy: f64,
}

/// The phase that a run begins with.
fn first<'a>(job: &Job<'a>) -> Result<JobPhase<'a>, TrainError> {
    let none = || feed::misfit(job.eval, "there is no step to train with".to_string());
    job.phases.first().copied().ok_or_else(none)
}

impl<'a> Trainer<'a> {
    fn new(mut job: Job<'a>, observer: &mut dyn Observer) -> Result<(Trainer<'a>, Running<'a>), TrainError> {
        let mut values = std::mem::take(&mut job.start);
        let beginning = first(&job)?;
        check_weights(beginning.model, &values)?;
        let batch = feed::batch_of(beginning.model, beginning.train);
        // There is one step at least.
        job.data.steps_per_epoch(batch)?;
        let mut timeline = Timeline::default();
        for phase in &job.phases {
            phase.check()?;
            if feed::batch_of(phase.model, phase.train) != batch {
                return Err(feed::misfit(phase.train, format!("it does not take {batch} images")));
            }
            let epochs = phase.epochs(job.data.train_len(), batch);
            timeline.push(phase.name(), &epochs.into_iter().map(|(steps, _)| steps).collect::<Vec<_>>());
        }
        if !job.options.resume {
            RunFolder::check_new(&job.options.run)?;
        }
        let evaluator = Evaluator::new(job.eval_model, job.eval, job.device)?;

        // Nothing is written before everything that can be wrong with the input has been looked at, and nothing but the
        // run itself can fail once a new folder is made.
        let options = &job.options;
        let (mut step, mut sums, mut path) = (0, Sums::default(), None);
        let (run, running) = if options.resume {
            let (run, checkpoint, warnings) = RunFolder::resume(&options.run, &options.spec, options.keep)?;
            warnings.iter().for_each(|w| observer.note(w));
            let running = match checkpoint {
                None => Running::load(beginning, 0, job.device, &values)?,
                Some(checkpoint) => {
                    job.data.check_classes(&checkpoint.classes)?;
                    check_weights(beginning.model, &checkpoint.values)?;
                    (step, sums) = (checkpoint.step, checkpoint.sums);
                    values.extend(checkpoint.values);
                    path = RunFolder::newest_checkpoint(&options.run)?;
                    let number = timeline.phase_at(step);
                    let (name, steps, _) = timeline.phase(number);
                    if checkpoint.phase.as_deref() != name {
                        let (found, here) = (said(checkpoint.phase.as_deref()), said(name));
                        return Err(TrainError::OtherPhase { path: options.run.clone(), step, found, here });
                    }
                    let mut running = Running::load(job.phases[number], number, job.device, &values)?;
                    // Where a further phase begins, its optimizer has no state yet.
                    if number == 0 || step > steps.start {
                        running.restore(&checkpoint.optimizer)?;
                    }
                    // Where a phase begins, its images are scored by the net as it is now.
                    if step > steps.start && matches!(running.phase.curriculum(), Some((_, Some(_)))) {
                        let scores = checkpoint.scores.map(|scores| scores.data).unwrap_or_default();
                        let (found, here) = (scores.len(), job.data.train_len());
                        if found != here {
                            return Err(TrainError::OtherImages {
                                path: options.run.clone(),
                                step,
                                found,
                                here,
                            });
                        }
                        running.scores = Some(scores);
                    }
                    observer.note(&format!("resuming at step {step}"));
                    running
                }
            };
            (run, running)
        } else {
            let running = Running::load(beginning, 0, job.device, &values)?;
            (RunFolder::create(&options.run, &options.spec, options.keep)?, running)
        };
        let trainer = Trainer {
            job,
            evaluator,
            run,
            batch,
            timeline,
            step,
            sums,
            values,
            checkpoint: path,
            images: 0,
            busy: 0.0,
        };
        Ok((trainer, running))
    }

    fn run(
        mut self,
        mut running: Running<'a>,
        observer: &mut dyn Observer,
        stop: &AtomicBool,
    ) -> Result<Summary, TrainError> {
        let started = Instant::now();
        let total = self.timeline.steps();
        let end = self.job.options.steps.map_or(total, |n| n.min(total));
        observer.begin(&Plan {
            first_step: self.step,
            last_step: end,
            timeline: self.timeline.clone(),
            batch: self.batch,
        });
        let mut validation = Vec::new();
        let interrupted = loop {
            if let Some(results) = self.run_phase(&mut running, end, observer, stop)? {
                validation = results;
            }
            if !self.phase_ends(&running) || self.step >= end || stop.load(Ordering::SeqCst) {
                break self.step < end;
            }
            let number = running.number + 1;
            // The memory of its program goes before that of the next one comes.
            drop(running);
            running = Running::load(self.job.phases[number], number, self.job.device, &self.values)?;
        };
        self.finish(&running, interrupted, total, validation, started, observer)
    }

    /// Trains to the end of a phase, to a step, or until it is asked to stop; gives the results on the held-out images after
    /// the last epoch that it completes.
    fn run_phase(
        &mut self,
        running: &mut Running<'a>,
        end: u64,
        observer: &mut dyn Observer,
        stop: &AtomicBool,
    ) -> Result<Option<Vec<NetResult>>, TrainError> {
        let (name, of_phase, epochs) = self.timeline.phase(running.number);
        let (name, end) = (name.map(String::from), end.min(of_phase.end));
        let mut interrupted = stop.load(Ordering::SeqCst);
        if let Some(name) = name.as_ref().filter(|_| self.step < end && !interrupted) {
            observer.phase(name, running.number + 1, self.timeline.phases(), epochs.end - epochs.start);
        }
        let threads = self.job.options.loader_threads;
        if self.step < end && !interrupted {
            self.order(running, observer)?;
        }
        let steps = self.step.min(end)..end;
        let mut loader = match &running.pools {
            Some(pools) => self.job.data.pooled(self.batch, pools, steps, threads),
            None => self.job.data.training(self.batch, steps.start, steps.end, threads)?,
        };
        let mut record = StepRecord { phase: name, ..StepRecord::default() };
        let mut validation = None;
        let (mut mark, mut images_since) = (Instant::now(), 0u64);
        let (mut epoch_seconds, mut epoch_images) = (0.0, 0u64);
        // The batch of the next step, once the device has been given it while it ran the last one.
        let mut given: Option<Result<Batch, DataError>> = None;
        while self.step < end && !interrupted {
            let clock = self.clock(running, self.step);
            let batch = match given.take() {
                Some(batch) => batch?,
                None => {
                    let Some(batch) = loader.next_batch() else { break };
                    let batch = batch?;
                    running.write(&batch, clock)?;
                    batch
                }
            };
            let epoch = self.timeline.epochs_done(self.step);
            let of_epoch = self.timeline.epoch_steps(epoch);
            running.exec.run()?;
            if running.exec.inputs_wait_apart() && self.step + 1 < end {
                given = loader.next_batch();
                if let Some(Ok(next)) = &given {
                    running.write(next, self.clock(running, self.step + 1))?;
                }
            }
            running.read(&batch, &mut record, &mut self.sums)?;
            self.step += 1;
            (record.epoch, record.step, record.lr) = (epoch + 1, self.step, clock.lr);
            images_since += batch.real as u64;
            epoch_images += batch.real as u64;
            loader.recycle(batch);
            let seconds = mark.elapsed().as_secs_f64();
            let epoch_ends = self.step == of_epoch.end;
            let bad = first_bad(&record);
            record.images_per_second = images_since as f64 / seconds.max(1e-9);
            observer.step(&record);
            let log_every = self.job.options.log_every.unwrap_or((of_epoch.end - of_epoch.start) / 20).max(1);
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
                validation = Some(self.end_epoch(running, &record, epoch_seconds, epoch_images, observer)?);
                (epoch_seconds, epoch_images) = (0.0, 0);
                mark = Instant::now();
            }
            interrupted = stop.load(Ordering::SeqCst);
        }
        Ok(validation)
    }

    /// Decides which images each epoch of a phase has, where they are ordered: by the scores of a net as it is when the phase
    /// begins.
    fn order(&mut self, running: &mut Running<'_>, observer: &mut dyn Observer) -> Result<(), TrainError> {
        let phase = running.phase;
        let Some((mode, snapshot)) = phase.curriculum() else { return Ok(()) };
        if let (Some(net), None) = (snapshot, &running.scores) {
            observer.note(&format!("scoring {} images by `{net}`", self.job.data.train_len()));
            self.evaluator.set(&self.values)?;
            let loader = self.job.data.scored(self.evaluator.batch(), self.job.options.loader_threads);
            let scores = self.evaluator.scores(net, loader)?;
            if let Some(&bad) = scores.iter().find(|score| !score.is_finite()) {
                return Err(self.diverged(format!("the score of an image by `{net}`"), bad));
            }
            running.scores = Some(scores);
        }
        let (_, _, epochs) = self.timeline.phase(running.number);
        let scores = running.scores.as_deref().unwrap_or_default();
        let ranking = self.job.data.ranking(mode, scores, epochs.start);
        let sizes = phase.epochs(self.job.data.train_len(), self.batch).into_iter().map(|(_, pool)| pool);
        let steps = epochs.clone().map(|epoch| self.timeline.epoch_steps(epoch));
        running.pools = Some(Pools::new(ranking, epochs.start, steps.zip(sizes).collect()));
        Ok(())
    }

    /// The numbers of the step of a phase that comes after `step` others.
    fn clock(&self, running: &Running<'_>, step: u64) -> Clock {
        let recipe = &running.phase.model.recipe;
        let moment = self.timeline.moment(running.number, step);
        let warmup = self.timeline.steps_of(running.number, recipe.schedule.warmup);
        let factor = recipe.schedule.factor_in(moment.step, moment.total, moment.epoch, warmup);
        Clock { step, of_phase: moment.step, lr: recipe.optimizer.lr() * factor, epochs: moment.epochs }
    }

    /// Reads parameters and running statistics into `values`. What the last update made of them shows in no loss yet.
    fn download(&mut self, running: &Running<'_>) -> Result<(), TrainError> {
        feed::download(running.exec.as_ref(), &mut self.values)?;
        self.check_finite(&self.values)
    }

    /// Fails where a parameter or running statistic is not finite: no checkpoint is made of such values.
    fn check_finite(&self, values: &Tensors) -> Result<(), TrainError> {
        let bad = values.iter().find_map(|(name, t)| Some((name, t.data.iter().find(|x| !x.is_finite())?)));
        let Some((name, &value)) = bad else { return Ok(()) };
        let kind =
            if self.job.eval_model.states.contains_key(name) { "running statistic" } else { "parameter" };
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
        running: &mut Running<'_>,
        last: &StepRecord,
        seconds: f64,
        images: u64,
        observer: &mut dyn Observer,
    ) -> Result<Vec<NetResult>, TrainError> {
        self.download(running)?;
        let mut calibrated = None;
        if self.job.data.validation_len() > 0 || self.phase_ends(running) {
            calibrated = self.recalibrated(running)?;
        }
        if let Some(values) = calibrated.take_if(|_| self.phase_ends(running)) {
            self.check_finite(&values)?;
            feed::upload(running.exec.as_mut(), &values)?;
            self.values = values;
        }
        let validation = if self.job.data.validation_len() > 0 {
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
            phase: last.phase.clone(),
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
        self.save(running)?;
        self.report()?;
        Ok(validation)
    }

    /// Whether all steps of a phase are done, and another follows.
    fn phase_ends(&self, running: &Running<'_>) -> bool {
        running.number < self.timeline.phase_at(self.step)
    }

    /// Writes a checkpoint of `values` and the optimizer's state as it is on the device; where another phase follows, which
    /// begins with none, without it.
    fn save(&mut self, running: &Running<'_>) -> Result<(), TrainError> {
        let (phase, ..) = self.timeline.phase(self.timeline.phase_at(self.step));
        let optimizer = match self.phase_ends(running) {
            true => Tensors::new(),
            false => feed::download_optimizer(running.exec.as_ref())?,
        };
        let checkpoint = Checkpoint {
            step: self.step,
            epoch: self.timeline.epochs_done(self.step),
            phase: phase.map(String::from),
            seed: running.phase.model.recipe.seed,
            spec: spec_digest(&self.job.options.spec),
            values: self.values.clone(),
            optimizer,
            scores: running
                .scores
                .clone()
                .filter(|_| !self.phase_ends(running))
                .map(|data| Tensor { shape: Shape::from([data.len()]), data }),
            classes: self.job.data.named_classes().to_vec(),
            sums: self.sums.clone(),
        };
        self.checkpoint = Some(self.run.save(&checkpoint)?);
        Ok(())
    }

    fn report(&self) -> Result<(), TrainError> {
        write_report(self.run.path(), self.job.eval_model, &self.job.options.spec)
    }

    /// A copy of `values` with recalibrated statistics estimated anew; `None` where there are none.
    fn recalibrated(&self, running: &Running<'_>) -> Result<Option<Tensors>, TrainError> {
        let model = running.phase.model;
        let Some(program) = running.phase.calibrate else { return Ok(None) };
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
            let epochs = self.timeline.moment(running.number, self.step).epochs;
            feed.write(exec.as_mut(), &batch, Clock { step: batch.number, of_phase: 0, lr: 0.0, epochs })?;
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
        running: &Running<'_>,
        interrupted: bool,
        total: u64,
        validation: Vec<NetResult>,
        started: Instant,
        observer: &mut dyn Observer,
    ) -> Result<Summary, TrainError> {
        self.download(running)?;
        let mut test = Vec::new();
        if interrupted {
            self.save(running)?;
            observer.note(&format!(
                "stopped after step {}; a checkpoint is written: continue with `--resume`",
                self.step
            ));
        } else {
            if let Some(values) = self.recalibrated(running)? {
                self.check_finite(&values)?;
                self.values = values;
            }
            // Before the checkpoint, which is not written where a loss is not finite; images that cannot be read are no
            // reason to throw it away.
            let tested = self.tested();
            if let Ok(results) = &tested {
                self.check_results("test", results)?;
            }
            self.save(running)?;
            test = tested?;
            if !test.is_empty() {
                observer.test(&test);
                let epoch = self.timeline.epochs_begun(self.step);
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
            epochs: self.timeline.epochs_done(self.step),
            validation,
            validation_step: self.timeline.epoch_steps(self.timeline.epochs_done(self.step)).start,
            test,
            images_per_second: self.images as f64 / self.busy.max(1e-9),
            seconds: started.elapsed().as_secs_f64(),
            checkpoint: self.checkpoint.unwrap_or_default(),
        })
    }
}

/// A phase, or none, for a message.
fn said(phase: Option<&str>) -> String {
    phase.map_or("no phase".to_string(), |name| format!("the phase `{name}`"))
}

/// The first loss that is not finite.
fn first_bad(record: &StepRecord) -> Option<(String, f32)> {
    record.loss.iter().find(|(_, v)| !v.is_finite()).map(|(n, v)| (n.clone(), *v as f32))
}
