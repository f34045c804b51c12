//! A phase of the training: its programs, and its step as it is loaded on the device.

use crate::data::{Batch, Pools};
use crate::error::TrainError;
use crate::evaluate::{nets_with_logits, rank};
use crate::feed::{self, Feed};
use crate::metrics::{StepRecord, Sums};
use crate::run_folder::check_optimizer;
use crate::weights::Tensors;
use ddnnc_ir::{Curriculum, Model, Order};
use ddnnc_passes::{Device, Executable, Program};

/// What is run in a phase; a training without phases is one.
#[derive(Clone, Copy)]
pub struct JobPhase<'a> {
    /// The model in train mode, in this phase.
    pub model: &'a Model,
    /// The step: forward, backward, update.
    pub train: &'a Program,
    /// Forward in train mode with nothing kept but the batch's own statistics; needed where the model has statistics to
    /// be recalibrated.
    pub calibrate: Option<&'a Program>,
}

impl JobPhase<'_> {
    /// Its name, where the training has phases.
    pub(crate) fn name(&self) -> Option<&str> {
        self.model.phases.get(self.model.phase).map(|phase| phase.name.as_str())
    }

    /// The steps of each of its epochs, and the images that they are taken from, with so many images and so many in a step.
    pub(crate) fn epochs(&self, images: usize, batch: usize) -> Vec<(u64, usize)> {
        let epochs = self.model.recipe.epochs;
        let pool = |epoch: usize| match &self.model.recipe.order {
            Order::Shuffle => images,
            // One step at least.
            Order::Difficulty { pace, .. } => pace.images(epoch, epochs, images).max(batch),
        };
        (0..epochs).map(pool).map(|pool| ((pool / batch.max(1)) as u64, pool)).collect()
    }

    /// Which images come first, where they are ordered, and the net whose scores say so, where there are any.
    pub(crate) fn curriculum(&self) -> Option<(Curriculum, Option<&str>)> {
        match &self.model.recipe.order {
            Order::Shuffle => None,
            Order::Difficulty { mode: Curriculum::RandomCurriculum, .. } => {
                Some((Curriculum::RandomCurriculum, None))
            }
            Order::Difficulty { snapshot, mode, .. } => Some((*mode, Some(snapshot))),
        }
    }

    /// Fails where the programs are not those of a phase: the names of the losses in the metrics and among the outputs.
    pub(crate) fn check(&self) -> Result<Vec<(String, String)>, TrainError> {
        if self.calibrate.is_none() && self.model.states.values().any(|s| s.recalibrate) {
            let message =
                "the model has statistics to recalibrate, and no program for that is given".to_string();
            return Err(feed::misfit(self.train, message));
        }
        Feed::new(self.model, self.train)?;
        let mut losses: Vec<(String, String)> = Vec::new();
        for name in self.model.terms.iter().map(|t| t.name.as_str()).chain(["total"]) {
            let output = format!("loss.{name}");
            if !self.train.outputs.contains_key(&output) {
                return Err(feed::misfit(self.train, format!("it does not give `{output}`")));
            }
            losses.push((name.to_string(), output));
        }
        Ok(losses)
    }
}

/// The step of a phase on the device.
pub(crate) struct Running<'a> {
    /// The place of the phase.
    pub(crate) number: usize,
    /// The phase.
    pub(crate) phase: JobPhase<'a>,
    /// Its step.
    pub(crate) exec: Box<dyn Executable>,
    feed: Feed,
    /// Training accuracy is counted on these: name, output, classes.
    nets: Vec<(String, String, usize)>,
    /// Loss outputs: name in the metrics, name of the output.
    losses: Vec<(String, String)>,
    logits: Vec<f32>,
    /// How difficult each image to train on is, where a net has said so.
    pub(crate) scores: Option<Vec<f32>>,
    /// The images of each epoch, where they are ordered.
    pub(crate) pools: Option<Pools>,
}

impl<'a> Running<'a> {
    /// Loads the step of a phase with these parameters and statistics, and no optimizer state.
    pub(crate) fn load(
        phase: JobPhase<'a>,
        number: usize,
        device: &dyn Device,
        values: &Tensors,
    ) -> Result<Running<'a>, TrainError> {
        let losses = phase.check()?;
        let mut exec = device.load(phase.train)?;
        feed::upload(exec.as_mut(), values)?;
        Ok(Running {
            number,
            phase,
            exec,
            feed: Feed::new(phase.model, phase.train)?,
            nets: nets_with_logits(phase.model, phase.train),
            losses,
            logits: Vec::new(),
            scores: None,
            pools: None,
        })
    }

    /// Takes over the state of an optimizer.
    pub(crate) fn restore(&mut self, optimizer: &Tensors) -> Result<(), TrainError> {
        check_optimizer(&feed::download_optimizer(self.exec.as_ref())?, optimizer)?;
        for (name, tensor) in optimizer {
            self.exec.write_f32(name, &tensor.data)?;
        }
        Ok(())
    }

    /// Writes every input of a step.
    pub(crate) fn write(&mut self, batch: &Batch, clock: feed::Clock) -> Result<(), TrainError> {
        Ok(self.feed.write(self.exec.as_mut(), batch, clock)?)
    }

    /// Reads what a step gives, and adds it up.
    pub(crate) fn read(
        &mut self,
        batch: &Batch,
        record: &mut StepRecord,
        sums: &mut Sums,
    ) -> Result<(), TrainError> {
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
            match sums.loss.get_mut(name) {
                Some(sum) => *sum += value,
                None => {
                    sums.loss.insert(name.clone(), value);
                }
            }
        }
        for (name, output, classes) in &self.nets {
            self.logits.resize(batch.labels.len() * classes, 0.0);
            self.exec.read_f32(output, &mut self.logits)?;
            let rows = self.logits.chunks_exact((*classes).max(1)).zip(&batch.labels);
            let correct = rows.filter(|(row, label)| rank(row, **label as usize) == 0).count() as u64;
            match sums.correct.get_mut(name) {
                Some(sum) => *sum += correct,
                None => {
                    sums.correct.insert(name.clone(), correct);
                }
            }
        }
        sums.steps += 1;
        sums.images += batch.real as u64;
        Ok(())
    }
}
