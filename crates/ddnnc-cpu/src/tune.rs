//! Choosing between methods by measuring: every convolution of a program for which there is no choice yet runs in every
//! way that fits, as it stands in its launch, and the fastest is taken.

use crate::choices::{self, Choices, Kind};
use crate::device::{CpuDevice, Prepared};
use crate::launch;
use crate::memory::Plan;
use crate::method::{Method, Settings};
use ddnnc_passes::{DeviceError, Program};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// That choices are measured, and where they are kept.
#[derive(Clone)]
pub struct Tune {
    /// The folder of the files; `None` keeps nothing.
    pub folder: Option<PathBuf>,
    /// Takes what the user should know, in one line each.
    pub note: Arc<dyn Fn(&str) + Send + Sync>,
}

impl std::fmt::Debug for Tune {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tune").field("folder", &self.folder).finish_non_exhaustive()
    }
}

/// The choices of a device.
#[derive(Debug)]
pub(crate) struct Tuning {
    tune: Tune,
    kind: Kind,
    /// What is known, once the file has been read.
    known: Mutex<Option<Arc<Choices>>>,
}

/// One way to run a launch.
struct Trial {
    key: String,
    method: Method,
    seconds: f64,
}

/// How often each way runs, after once that is not timed; the fastest run counts.
const RUNS: usize = 5;

impl Tuning {
    pub(crate) fn new(tune: Tune, kind: Kind) -> Tuning {
        Tuning { tune, kind, known: Mutex::new(None) }
    }

    /// The settings with a choice for every convolution of a program.
    pub(crate) fn settings(&self, device: &CpuDevice, program: &Program) -> Result<Settings, DeviceError> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let choices = known.take().unwrap_or_else(|| Arc::new(self.read()));
        let with = |choices: &Arc<Choices>| Settings {
            choices: Arc::clone(choices),
            ..device.untuned_settings().clone()
        };
        let start = Instant::now();
        let mut trials = self.measure(device, program, &with(&choices))?;
        let mut choices = choices;
        if !trials.is_empty() {
            trials.sort_by(|a, b| a.key.cmp(&b.key).then(a.seconds.total_cmp(&b.seconds)));
            trials.dedup_by(|later, first| later.key == first.key);
            let count = trials.len();
            let s = if count == 1 { "" } else { "s" };
            (self.tune.note)(&format!(
                "tuned {count} convolution{s} in {:.1} s",
                start.elapsed().as_secs_f64()
            ));
            let mut all = Choices::clone(&choices);
            all.extend(trials.into_iter().map(|t| (t.key, t.method)));
            choices = Arc::new(self.keep(all));
        }
        *known = Some(Arc::clone(&choices));
        Ok(with(&choices))
    }

    fn read(&self) -> Choices {
        let path = self.tune.folder.as_ref().map(|folder| self.kind.path(folder));
        let read = path.map_or(Ok(Choices::new()), |path| choices::read(&path, &self.kind));
        read.unwrap_or_else(|note| {
            (self.tune.note)(&note);
            Choices::new()
        })
    }

    /// Writes the choices, and gives them back with what another process has written meanwhile: that came first.
    fn keep(&self, mut all: Choices) -> Choices {
        let Some(folder) = &self.tune.folder else {
            (self.tune.note)("the choices are not kept: no folder for them is known");
            return all;
        };
        let path = self.kind.path(folder);
        all.extend(choices::read(&path, &self.kind).unwrap_or_default());
        if let Err(e) = choices::write(&path, &self.kind, &all) {
            (self.tune.note)(&format!("the choices are not kept: {} cannot be written: {e}", path.display()));
        }
        all
    }

    /// Runs every convolution that has no choice yet in every way.
    fn measure(
        &self,
        device: &CpuDevice,
        program: &Program,
        settings: &Settings,
    ) -> Result<Vec<Trial>, DeviceError> {
        let prepared = device.prepare(program, settings)?;
        let mut first: BTreeMap<String, (usize, Vec<Method>)> = BTreeMap::new();
        for (launch, kernel) in prepared.kernels.iter().enumerate() {
            for site in kernel.sites() {
                let (key, candidates) = (site.key(), settings.candidates(site));
                if candidates.len() > 1 && !settings.choices.contains_key(&key) {
                    first.entry(key).or_insert((launch, candidates));
                }
            }
        }
        // What lies in memory when a way runs is of no matter: its time does not depend on the numbers.
        let Prepared { mut need, mut work, .. } = prepared;
        let (mut trials, mut kernels) = (Vec::new(), Vec::new());
        for (key, (number, candidates)) in first {
            for method in candidates {
                let mut choices = Choices::clone(&settings.choices);
                choices.insert(key.clone(), method);
                let forced = Settings { choices: Arc::new(choices), ..settings.clone() };
                let mut plan = Plan::default();
                let kernel = launch::prepare(program, &program.launches[number], &forced, &mut plan)?;
                need.include(kernel.need());
                work = work.max(plan.bytes);
                kernels.push(kernel);
                trials.push(Trial { key: key.clone(), method, seconds: f64::INFINITY });
            }
        }
        if trials.is_empty() {
            return Ok(trials);
        }
        let mut run = device.assemble(program, Prepared { kernels, need, work })?;
        // The ways of one convolution take turns, so that what disturbs the machine disturbs all.
        let mut first = 0;
        for ways in trials.chunk_by_mut(|a, b| a.key == b.key) {
            for turn in 0..=RUNS {
                for (i, way) in ways.iter_mut().enumerate() {
                    let start = Instant::now();
                    run.run_some(first + i..first + i + 1)?;
                    if turn > 0 {
                        way.seconds = way.seconds.min(start.elapsed().as_secs_f64());
                    }
                }
            }
            first += ways.len();
        }
        Ok(trials)
    }
}
