//! The folder of a run: `spec.ddnn`, `metrics.jsonl`, `checkpoints/`, `report.html`.
//!
//! A checkpoint is written to a temporary file and renamed, and an older one is removed only after that: whenever the
//! process is killed, the newest complete checkpoint can be read. It carries a checksum of its tensors, so that a damaged
//! one is passed over for the one before.
//!
//! While a process trains in the folder, it holds a lock on `spec.ddnn`, which is written once and never replaced. The
//! lock is advisory and ends with the process, however that ends; on a filesystem without locks there is none.

use crate::error::TrainError;
use crate::metrics::{Record, Sums};
use crate::report::read_records;
use crate::weights::{
    self, Tensor, Tensors, WeightsError, atomic_create_locked, atomic_write, read_weights, write_weights,
};
use std::collections::BTreeMap;
use std::fs::{self, File, TryLockError};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

/// Version of what a checkpoint holds.
pub const FORMAT_VERSION: u32 = 1;

/// What the names of optimizer state begin with in a checkpoint.
pub(crate) const OPTIMIZER_PREFIX: &str = "optimizer/";

/// The name of the scores of images in a checkpoint.
pub(crate) const SCORES: &str = "order/scores";

/// The state of a run between two steps.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Checkpoint {
    /// Steps done.
    pub step: u64,
    /// Epochs completed.
    pub epoch: u64,
    /// The phase that the next step is of, where the training has several; of the last one at the end.
    pub phase: Option<String>,
    /// The recipe's seed.
    pub seed: u64,
    /// [`spec_digest`] of the run's spec.
    pub spec: String,
    /// Parameters and running statistics.
    pub values: Tensors,
    /// Optimizer state; none where a phase begins, which begins it anew.
    pub optimizer: Tensors,
    /// How difficult the images to train on are, in their order, where the phase goes through them by that.
    pub scores: Option<Tensor>,
    /// Names of the classes by number; empty where the data has none.
    pub classes: Vec<String>,
    /// Sums over the steps of an epoch that is not complete.
    pub(crate) sums: Sums,
}

/// The key of class names in the metadata of weights.
const CLASS_NAMES: &str = "class_names";

/// What the metadata of weights says of the names of classes: a JSON list, or nothing where they have none.
pub fn class_names(classes: &[String]) -> Option<(String, String)> {
    (!classes.is_empty()).then(|| (CLASS_NAMES.to_string(), serde_json::json!(classes).to_string()))
}

/// The names of the classes by number that the metadata of weights give (see [`class_names`]); empty where they give none.
pub fn named_classes(path: &Path, metadata: &BTreeMap<String, String>) -> Result<Vec<String>, WeightsError> {
    metadata.get(CLASS_NAMES).map_or(Ok(Vec::new()), |names| {
        serde_json::from_str(names).map_err(|_| WeightsError::Format {
            path: path.to_path_buf(),
            message: format!("its metadata `{CLASS_NAMES}` is no list of names"),
        })
    })
}

/// A digest of a spec's text, to tell whether a checkpoint belongs to it.
pub fn spec_digest(text: &str) -> String {
    format!("{:016x}", crate::random::fnv(text.as_bytes()))
}

/// A checksum over names and bits of tensors.
fn checksum(tensors: &Tensors) -> String {
    let mut sum = 0xcbf2_9ce4_8422_2325u64;
    let mut mix = |word: u64| sum = (sum ^ word).wrapping_mul(0x0100_0000_01b3).rotate_left(29);
    for (name, tensor) in tensors {
        mix(crate::random::fnv(name.as_bytes()));
        tensor.data.iter().for_each(|x| mix(u64::from(x.to_bits())));
    }
    format!("{sum:016x}")
}

impl Checkpoint {
    /// Writes it atomically.
    pub fn write(&self, path: &Path) -> Result<(), WeightsError> {
        let (tensors, metadata) = self.parts();
        write_weights(path, &tensors, &metadata)
    }

    fn parts(&self) -> (Tensors, BTreeMap<String, String>) {
        let mut tensors = self.values.clone();
        tensors.extend(self.optimizer.iter().map(|(n, t)| (format!("{OPTIMIZER_PREFIX}{n}"), t.clone())));
        tensors.extend(self.scores.iter().map(|scores| (SCORES.to_string(), scores.clone())));
        let entries = [
            ("format_version", FORMAT_VERSION.to_string()),
            ("step", self.step.to_string()),
            ("epoch", self.epoch.to_string()),
            ("seed", self.seed.to_string()),
            ("spec", self.spec.clone()),
            ("sums", self.sums.to_text()),
            ("checksum", checksum(&tensors)),
        ];
        let mut metadata: BTreeMap<String, String> = entries.map(|(k, v)| (k.to_string(), v)).into();
        metadata.extend(class_names(&self.classes));
        metadata.extend(self.phase.iter().map(|phase| ("phase".to_string(), phase.clone())));
        (tensors, metadata)
    }

    /// Reads one and verifies its checksum.
    pub fn read(path: &Path) -> Result<Checkpoint, WeightsError> {
        let file = read_weights(path)?;
        let bad =
            |message: &str| WeightsError::Format { path: path.to_path_buf(), message: message.to_string() };
        let text =
            |key: &str| file.metadata.get(key).ok_or_else(|| bad(&format!("its metadata has no `{key}`")));
        let number = |key: &str| {
            text(key)?.parse::<u64>().map_err(|_| bad(&format!("its metadata `{key}` is no number")))
        };
        let version = number("format_version")?;
        let expected = u64::from(FORMAT_VERSION);
        if version != expected {
            return Err(WeightsError::Version { path: path.to_path_buf(), found: version, expected });
        }
        if *text("checksum")? != checksum(&file.tensors) {
            return Err(bad("its checksum does not match: the file is damaged"));
        }
        let mut checkpoint = Checkpoint {
            step: number("step")?,
            epoch: number("epoch")?,
            phase: file.metadata.get("phase").cloned(),
            seed: number("seed")?,
            spec: text("spec")?.clone(),
            classes: named_classes(path, &file.metadata)?,
            sums: Sums::from_text(text("sums")?).ok_or_else(|| bad("its metadata `sums` cannot be read"))?,
            ..Checkpoint::default()
        };
        for (name, tensor) in file.tensors {
            match name.strip_prefix(OPTIMIZER_PREFIX) {
                None if name == SCORES => checkpoint.scores.replace(tensor),
                Some(rest) => checkpoint.optimizer.insert(rest.to_string(), tensor),
                None => checkpoint.values.insert(name, tensor),
            };
        }
        Ok(checkpoint)
    }
}

/// An open run folder.
#[derive(Debug)]
pub struct RunFolder {
    root: PathBuf,
    metrics: File,
    keep: usize,
    /// `spec.ddnn`, locked.
    _lock: File,
}

impl RunFolder {
    /// Whether `root` can become a new run: it does not exist, or holds no more than what is left where a process is killed
    /// before its run has begun: temporary files, and `checkpoints/` with nothing in it.
    pub fn check_new(root: &Path) -> Result<(), TrainError> {
        let left_over = |entry: fs::DirEntry| {
            let empty = || fs::read_dir(entry.path()).is_ok_and(|mut all| all.next().is_none());
            is_temporary(&entry) || (entry.file_name() == "checkpoints" && empty())
        };
        match fs::read_dir(root).map(|mut entries| entries.all(|e| e.is_ok_and(left_over))) {
            Ok(true) => Ok(()),
            Ok(false) => Err(TrainError::RunExists { path: root.to_path_buf() }),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
            Err(e) if e.kind() == ErrorKind::NotADirectory => Err(TrainError::writing(root, e)),
            Err(e) => Err(TrainError::io(root, e)),
        }
    }

    /// Begins a new run, keeping the newest `keep` checkpoints. Where that fails, no run is left behind.
    pub fn create(root: &Path, spec: &str, keep: usize) -> Result<RunFolder, TrainError> {
        RunFolder::check_new(root)?;
        fs::create_dir_all(root).map_err(|e| TrainError::writing(root, e))?;
        // The spec comes first: from then on the folder is a run, and this process's.
        let spec_path = root.join("spec.ddnn");
        let lock = atomic_create_locked(&spec_path, spec).map_err(|e| {
            // A folder that is not empty stays.
            let _ = fs::remove_dir(root);
            match e.kind() {
                ErrorKind::AlreadyExists => TrainError::RunExists { path: root.to_path_buf() },
                _ => TrainError::writing(&spec_path, e),
            }
        })?;
        remove_leftovers(root);
        RunFolder::open(root, keep, lock).inspect_err(|_| RunFolder::discard(root))
    }

    /// Whether the run in `root` can be continued: it was started with this spec, and no other process trains in it.
    pub fn check_resume(root: &Path, spec: &str) -> Result<(), TrainError> {
        RunFolder::lock(root, spec).map(drop)
    }

    /// Locks the run in `root`, once its spec is known to be this one.
    fn lock(root: &Path, spec: &str) -> Result<File, TrainError> {
        let path = root.join("spec.ddnn");
        // Over NFS, only a file that is open for writing can be locked.
        let opened = File::options().read(true).write(true).open(&path).or_else(|_| File::open(&path));
        let file = match opened {
            Ok(file) => file,
            Err(e) if e.kind() == ErrorKind::NotFound => {
                return Err(TrainError::NothingToResume { path: root.to_path_buf(), missing: "spec.ddnn" });
            }
            Err(e) => return Err(TrainError::io(&path, e)),
        };
        if let Err(TryLockError::WouldBlock) = file.try_lock() {
            return Err(TrainError::InUse { path: root.to_path_buf() });
        }
        let written = io::read_to_string(&file).map_err(|e| TrainError::io(&path, e))?;
        if spec_digest(&written) != spec_digest(spec) {
            return Err(TrainError::OtherSpec { path: root.to_path_buf() });
        }
        Ok(file)
    }

    /// Opens a run to continue it: the newest complete checkpoint (`None` where none was written yet), and warnings about
    /// that and about damaged ones, which are renamed to `.damaged`. Records after that checkpoint are removed from the
    /// metrics; where whole epochs would go because no checkpoint is left, that is an error.
    pub fn resume(
        root: &Path,
        spec: &str,
        keep: usize,
    ) -> Result<(RunFolder, Option<Checkpoint>, Vec<String>), TrainError> {
        let lock = RunFolder::lock(root, spec)?;
        let digest = spec_digest(spec);
        let (mut found, mut warnings, mut damaged) = (None, Vec::new(), Vec::new());
        for path in list_checkpoints(root)?.into_iter().rev() {
            match Checkpoint::read(&path) {
                Ok(checkpoint) if checkpoint.spec == digest => {
                    found = Some(checkpoint);
                    break;
                }
                Ok(_) => return Err(TrainError::OtherSpec { path: root.to_path_buf() }),
                Err(e @ WeightsError::Format { .. }) => {
                    warnings.push(format!("skipping a checkpoint: {e}"));
                    damaged.push((path, e));
                }
                Err(e) => return Err(e.into()),
            }
        }
        if found.is_none() {
            // To begin anew over a run whose checkpoints are damaged or gone is for the user to decide.
            if let Some((_, newest)) = damaged.first() {
                return Err(no_checkpoint(root, newest.to_string()));
            }
            let records = read_records(root).unwrap_or_default();
            if let Some(last) = records.iter().rfind(|r| r["kind"] != "step") {
                let reason = format!("there is none, though its metrics go to step {}", last["step"]);
                return Err(no_checkpoint(root, reason));
            }
            warnings.push("the run has no checkpoint: beginning at step 0".to_string());
        }
        for (path, _) in damaged {
            // Out of the way of the next checkpoints, but not lost.
            let aside = path.with_extension("damaged");
            fs::rename(&path, &aside).map_err(|e| TrainError::writing(&aside, e))?;
        }
        remove_leftovers(root);
        truncate_metrics(&root.join("metrics.jsonl"), found.as_ref().map_or(0, |c| c.step))?;
        Ok((RunFolder::open(root, keep, lock)?, found, warnings))
    }

    fn open(root: &Path, keep: usize, lock: File) -> Result<RunFolder, TrainError> {
        let checkpoints = root.join("checkpoints");
        fs::create_dir_all(&checkpoints).map_err(|e| TrainError::writing(&checkpoints, e))?;
        let path = root.join("metrics.jsonl");
        let metrics = File::options().create(true).append(true).open(&path);
        let metrics = metrics.map_err(|e| TrainError::writing(&path, e))?;
        Ok(RunFolder { root: root.to_path_buf(), metrics, keep: keep.max(1), _lock: lock })
    }

    /// Removes the files of a new run that came to nothing; one that has a checkpoint, or files of others, stays.
    pub(crate) fn discard(root: &Path) {
        if !matches!(list_checkpoints(root), Ok(all) if all.is_empty()) {
            return;
        }
        // What cannot be removed stays; the error that ended the run is the one to report.
        for file in ["metrics.jsonl", "spec.ddnn", "report.html"] {
            let _ = fs::remove_file(root.join(file));
        }
        let _ = fs::remove_dir(root.join("checkpoints"));
        let _ = fs::remove_dir(root);
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.root
    }

    /// Adds a line to the metrics.
    pub fn append(&mut self, record: &Record) -> Result<(), TrainError> {
        let path = self.root.join("metrics.jsonl");
        let mut line = serde_json::to_string(record).map_err(|e| TrainError::io(&path, e.into()))?;
        line.push('\n');
        self.metrics.write_all(line.as_bytes()).map_err(|e| TrainError::writing(&path, e))
    }

    /// Writes a checkpoint, then removes all but the newest few.
    pub fn save(&self, checkpoint: &Checkpoint) -> Result<PathBuf, TrainError> {
        let path = self.root.join("checkpoints").join(format!("step-{:08}.safetensors", checkpoint.step));
        checkpoint.write(&path)?;
        let all = list_checkpoints(&self.root)?;
        for old in &all[..all.len().saturating_sub(self.keep)] {
            fs::remove_file(old).map_err(|e| TrainError::writing(old, e))?;
        }
        Ok(path)
    }

    /// The newest checkpoint file of a run, by name; `None` where there is none.
    pub fn newest_checkpoint(root: &Path) -> Result<Option<PathBuf>, TrainError> {
        Ok(list_checkpoints(root)?.pop())
    }

    /// The newest complete checkpoint of a run, for evaluation and export, and warnings about newer ones that cannot be read.
    pub fn newest_complete(root: &Path) -> Result<(PathBuf, Checkpoint, Vec<String>), TrainError> {
        let mut errors: Vec<WeightsError> = Vec::new();
        for path in list_checkpoints(root)?.into_iter().rev() {
            match Checkpoint::read(&path) {
                Ok(checkpoint) => {
                    let used = path.file_name().unwrap_or_default().display().to_string();
                    let warning = |e: WeightsError| format!("{e}; {used} is used instead");
                    return Ok((path, checkpoint, errors.into_iter().map(warning).collect()));
                }
                Err(e) => errors.push(e),
            }
        }
        Err(match errors.first() {
            Some(newest) => no_checkpoint(root, newest.to_string()),
            None => TrainError::NothingToResume { path: root.to_path_buf(), missing: "checkpoint" },
        })
    }
}

fn no_checkpoint(root: &Path, reason: String) -> TrainError {
    TrainError::NoCheckpoint { path: root.to_path_buf(), reason }
}

fn write_text(path: &Path, text: &str) -> Result<(), TrainError> {
    atomic_write(path, &mut |out| out.write_all(text.as_bytes())).map_err(|e| TrainError::writing(path, e))
}

/// The checkpoint files of a run, oldest first.
fn list_checkpoints(root: &Path) -> Result<Vec<PathBuf>, TrainError> {
    let folder = root.join("checkpoints");
    let entries = match fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(TrainError::io(&folder, e)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(|e| TrainError::io(&folder, e))?.path();
        let step = path
            .file_name()
            .and_then(|n| n.to_str())
            .and_then(|n| n.strip_prefix("step-")?.strip_suffix(".safetensors")?.parse::<u64>().ok());
        if let Some(step) = step {
            found.push((step, path));
        }
    }
    found.sort();
    Ok(found.into_iter().map(|(_, path)| path).collect())
}

fn is_temporary(entry: &fs::DirEntry) -> bool {
    entry.file_name().to_string_lossy().starts_with(weights::TEMPORARY_PREFIX)
}

/// Removes temporary files that a killed process left behind; one that cannot be removed harms nothing.
fn remove_leftovers(root: &Path) {
    for folder in [root.to_path_buf(), root.join("checkpoints")] {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            if is_temporary(&entry) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }
}

/// Keeps the whole lines of steps up to `step`; the test record is written anew at the end.
fn truncate_metrics(path: &Path, step: u64) -> Result<(), TrainError> {
    let text = match fs::read(path) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(TrainError::io(path, e)),
    };
    let keeps = |line: &&str| {
        line.ends_with('\n')
            && serde_json::from_str::<serde_json::Value>(line)
                .is_ok_and(|v| v["kind"] != "test" && v["step"].as_u64().is_some_and(|s| s <= step))
    };
    let kept: String = text.split_inclusive('\n').filter(keeps).collect();
    if kept == text { Ok(()) } else { write_text(path, &kept) }
}

/// Shapes and names of a checkpoint's optimizer state against what a program keeps.
pub(crate) fn check_optimizer(wanted: &Tensors, found: &Tensors) -> Result<(), WeightsError> {
    weights::check_table(wanted.iter().map(|(n, t): (&String, &Tensor)| (n.as_str(), &t.shape)), found)
}
