//! Tensors in safetensors files: read, check against a model, write so that a failure leaves the old file.

use crate::error::wrongly_named;
use crate::onnx::begins_as_onnx;
use crate::run_folder::{OPTIMIZER_PREFIX, SCORES};
use ddnnc_ir::{Model, Shape};
use indexmap::IndexMap;
use safetensors::{Dtype, SafeTensors};
use std::collections::{BTreeMap, HashSet};
use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use tempfile::NamedTempFile;

/// An f32 tensor on the host.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// Its extents.
    pub shape: Shape,
    /// Its elements, the last extent fastest.
    pub data: Vec<f32>,
}

/// Tensors by public name.
pub type Tensors = IndexMap<String, Tensor>;

/// What a weights file holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct WeightsFile {
    /// Its tensors, in the order of the file.
    pub tensors: Tensors,
    /// Its metadata.
    pub metadata: BTreeMap<String, String>,
}

impl WeightsFile {
    /// Parameters and running statistics: the tensors without the optimizer state that a checkpoint holds as well.
    pub fn into_values(mut self) -> Tensors {
        self.tensors.retain(|name, _| !name.starts_with(OPTIMIZER_PREFIX) && name != SCORES);
        self.tensors
    }
}

/// What can be wrong with weights.
#[derive(Debug, thiserror::Error)]
pub enum WeightsError {
    /// The file cannot be opened or read.
    #[error("cannot read the weights {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file cannot be written; what stood there before is untouched.
    #[error("cannot write {}: {source}; what was there before is untouched", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is no whole safetensors file.
    #[error("{} is not a complete safetensors file: {message}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// A checkpoint of another version of the format.
    #[error(
        "{} is of checkpoint format {found}, and this version of `ddnnc` reads {expected}. Use the version that wrote it, \
         or train anew", path.display()
    )]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u64,
        /// The version that can be read.
        expected: u64,
    },
    /// The tensors are not those of the model.
    #[error("the weights{} do not fit the model:\n{}", of(path), list(problems))]
    Mismatch {
        /// The file, where they come from one.
        path: Option<PathBuf>,
        /// One line for each missing, extra or wrongly shaped tensor.
        problems: Vec<String>,
    },
    /// Tensors that are not of f32.
    #[error(
        "the weights in {} are not all of F32, the only type that is read. Save them so (in PyTorch `tensor.float()`):\n{}",
        path.display(), list(others)
    )]
    ElementType {
        /// The file.
        path: PathBuf,
        /// Each with its type.
        others: Vec<String>,
    },
    /// Memory for initial values cannot be had.
    #[error("the weights need {needed} bytes, and as much memory cannot be had")]
    OutOfMemory {
        /// Bytes.
        needed: usize,
    },
    /// No net of that name.
    #[error("there is no net `{name}`; there are: {}", nets.join(", "))]
    UnknownNet {
        /// The name.
        name: String,
        /// The names that exist.
        nets: Vec<String>,
    },
}

fn of(path: &Option<PathBuf>) -> String {
    path.as_ref().map_or_else(String::new, |p| format!(" in {}", p.display()))
}

/// What files of `torch.save` begin with: archives, and pickles with a magic number of old.
const TORCH: [&[u8]; 2] = [b"PK\x03\x04", b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46"];

/// How many tensors are named that do not fit.
const SHOWN: usize = 12;

fn list(problems: &[String]) -> String {
    let mut lines: Vec<String> = problems.iter().take(SHOWN).map(|p| format!("  {p}")).collect();
    lines.extend((problems.len() > SHOWN).then(|| format!("  and {} more", problems.len() - SHOWN)));
    lines.join("\n")
}

impl WeightsError {
    /// Whether the environment failed (disk, permissions), rather than the input.
    pub fn is_environment(&self) -> bool {
        match self {
            WeightsError::Write { .. } | WeightsError::OutOfMemory { .. } => true,
            WeightsError::Read { source, .. } => !wrongly_named(source),
            WeightsError::Format { .. }
            | WeightsError::Version { .. }
            | WeightsError::Mismatch { .. }
            | WeightsError::ElementType { .. }
            | WeightsError::UnknownNet { .. } => false,
        }
    }

    /// The same error, with the file that it is about.
    pub fn at(self, file: &Path) -> WeightsError {
        match self {
            WeightsError::Mismatch { path: None, problems } => {
                WeightsError::Mismatch { path: Some(file.to_path_buf()), problems }
            }
            other => other,
        }
    }
}

/// Reads a safetensors file whose tensors are all f32.
pub fn read_weights(path: &Path) -> Result<WeightsFile, WeightsError> {
    read_weights_where(path, |_| true)
}

/// As [`read_weights`], of the tensors whose names are wanted; the others may be of any type.
pub fn read_weights_where(path: &Path, wanted: impl Fn(&str) -> bool) -> Result<WeightsFile, WeightsError> {
    let bytes =
        std::fs::read(path).map_err(|source| WeightsError::Read { path: path.to_path_buf(), source })?;
    let format = |message: String| WeightsError::Format { path: path.to_path_buf(), message };
    let (_, header) = SafeTensors::read_metadata(&bytes).map_err(|e| {
        format(if TORCH.iter().any(|magic| bytes.starts_with(magic)) {
            "it begins as a file of `torch.save`. Write its tensors with `safetensors.torch.save_file`".into()
        } else if begins_as_onnx(&bytes) {
            "it begins as an ONNX model, which is written and not read. Write its initializers with \
             `safetensors.numpy.save_file`"
                .into()
        } else {
            e.to_string()
        })
    })?;
    let file = SafeTensors::deserialize(&bytes).map_err(|e| format(e.to_string()))?;
    let metadata = header.metadata().clone().unwrap_or_default().into_iter().collect();
    let mut tensors = Tensors::new();
    let mut others = Vec::new();
    for name in header.offset_keys().into_iter().filter(|name| wanted(name)) {
        let view = file.tensor(&name).map_err(|e| format(e.to_string()))?;
        if view.dtype() != Dtype::F32 {
            others.push(format!("`{name}` is {:?}", view.dtype()));
            continue;
        }
        let data =
            view.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        tensors.insert(name, Tensor { shape: Shape::from(view.shape()), data });
    }
    if others.is_empty() {
        Ok(WeightsFile { tensors, metadata })
    } else {
        Err(WeightsError::ElementType { path: path.to_path_buf(), others })
    }
}

/// The metadata of a safetensors file, from its header alone; nothing where the file is of another kind.
pub fn read_metadata(path: &Path) -> Result<Option<BTreeMap<String, String>>, WeightsError> {
    let fail = |source| WeightsError::Read { path: path.to_path_buf(), source };
    let mut file = File::open(path).map_err(fail)?;
    let length = file.metadata().map_err(fail)?.len();
    let mut bytes = Vec::new();
    (&mut file).take(9).read_to_end(&mut bytes).map_err(fail)?;
    // A length that the file has, and an object behind it: no text begins so.
    let header = bytes.first_chunk().map(|size| u64::from_le_bytes(*size));
    let Some(rest) = header.filter(|&n| bytes.get(8) == Some(&b'{') && n <= length.saturating_sub(8)) else {
        return Ok(None);
    };
    file.take(rest.saturating_sub(1)).read_to_end(&mut bytes).map_err(fail)?;
    // The library's own reader wants the tensors as well.
    let header: Option<serde_json::Value> =
        bytes.get(8..).and_then(|header| serde_json::from_slice(header).ok());
    let Some(header) = header else { return Ok(None) };
    let entries = header.get("__metadata__").and_then(serde_json::Value::as_object).into_iter().flatten();
    Ok(Some(entries.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_string()))).collect()))
}

/// Writes tensors in the safetensors format, metadata sorted by key: the same input gives the same bytes.
///
/// The format: a little-endian u64 length, a JSON header padded with spaces to a multiple of 8, the data.
pub fn write_tensors(
    out: &mut dyn Write,
    tensors: &Tensors,
    metadata: &BTreeMap<String, String>,
) -> io::Result<()> {
    let mut header = serde_json::Map::new();
    if !metadata.is_empty() {
        let map = metadata.iter().map(|(k, v)| (k.clone(), v.clone().into())).collect();
        header.insert("__metadata__".into(), serde_json::Value::Object(map));
    }
    let mut offset = 0usize;
    for (name, tensor) in tensors {
        let end = offset + tensor.data.len() * 4;
        header.insert(
            name.clone(),
            serde_json::json!({"dtype": "F32", "shape": tensor.shape.dims(), "data_offsets": [offset, end]}),
        );
        offset = end;
    }
    let mut text = serde_json::to_string(&header)?;
    while text.len() % 8 != 0 {
        text.push(' ');
    }
    out.write_all(&(text.len() as u64).to_le_bytes())?;
    out.write_all(text.as_bytes())?;
    let mut chunk = Vec::with_capacity(1 << 16);
    for tensor in tensors.values() {
        for part in tensor.data.chunks(1 << 14) {
            chunk.clear();
            part.iter().for_each(|x| chunk.extend_from_slice(&x.to_le_bytes()));
            out.write_all(&chunk)?;
        }
    }
    Ok(())
}

/// Writes a file so that at every moment either the old or the whole new content stands at `path`: a temporary file
/// in the same folder, fsync, rename. On any error the old file stays and nothing else is left behind.
///
/// Symbolic links are followed, and a file that is replaced keeps its permissions. What is no regular file (a device, a
/// pipe) or already open in this process (`/dev/stdout`) is written through.
pub fn atomic_write(path: &Path, fill: &mut dyn FnMut(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    Pending::new(path, fill)?.persist()
}

/// Writes several files as [`atomic_write`] does one: all are on the disk before the first takes its place, so that an error,
/// which comes with the path that it is about, leaves all as they were (but for one of a rename, which has all it needs by
/// then, and for what is written through).
pub fn atomic_write_all(files: &[(PathBuf, &[u8])]) -> Result<(), (PathBuf, io::Error)> {
    let mut pending = Vec::with_capacity(files.len());
    for (path, content) in files {
        let one = Pending::new(path, &mut |out| out.write_all(content)).map_err(|e| (path.clone(), e))?;
        pending.push((path, one));
    }
    pending.into_iter().try_for_each(|(path, one)| one.persist().map_err(|e| (path.clone(), e)))
}

/// A file on the disk that has not taken its place yet; dropped, it is gone.
enum Pending {
    Beside {
        temporary: NamedTempFile,
        path: PathBuf,
    },
    /// Written through.
    Done,
}

impl Pending {
    fn new(path: &Path, fill: &mut dyn FnMut(&mut dyn Write) -> io::Result<()>) -> io::Result<Pending> {
        let Some(path) = replaced(path)? else {
            let mut through = BufWriter::new(OpenOptions::new().append(true).open(path)?);
            fill(&mut through)?;
            through.flush()?;
            return Ok(Pending::Done);
        };
        // A file that may not be written stays, though its folder lets it be replaced; another keeps its permissions.
        let permissions = match OpenOptions::new().write(true).open(&path) {
            Ok(there) => Some(there.metadata()?.permissions()),
            Err(error) if matches!(error.kind(), ErrorKind::PermissionDenied | ErrorKind::IsADirectory) => {
                return Err(error);
            }
            Err(_) => None,
        };
        let temporary = write_beside(&path, fill)?;
        if let Some(permissions) = permissions {
            temporary.as_file().set_permissions(permissions)?;
        }
        Ok(Pending::Beside { temporary, path })
    }

    fn persist(self) -> io::Result<()> {
        if let Pending::Beside { temporary, path } = self {
            temporary.persist(&path).map_err(|e| e.error)?;
            sync_folder(&path);
        }
        Ok(())
    }
}

/// As [`atomic_write`] where nothing stands at `path` yet (else `AlreadyExists`); gives the file, locked for this process
/// before anybody else can see it.
pub(crate) fn atomic_create_locked(path: &Path, text: &str) -> io::Result<File> {
    let temporary = write_beside(path, &mut |out| out.write_all(text.as_bytes()))?;
    // Nobody else knows the file, so that only a filesystem without locks can refuse.
    let _ = temporary.as_file().try_lock();
    let file = match temporary.persist_noclobber(path) {
        Ok(file) => file,
        Err(e) if e.error.kind() == ErrorKind::AlreadyExists => return Err(e.error),
        // A filesystem that can only replace.
        Err(e) => e.file.persist(path).map_err(|e| e.error)?,
    };
    sync_folder(path);
    Ok(file)
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// A temporary file in the folder of `path`, on the disk with all its content.
fn write_beside(
    path: &Path,
    fill: &mut dyn FnMut(&mut dyn Write) -> io::Result<()>,
) -> io::Result<NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(TEMPORARY_PREFIX).suffix(".tmp");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        // The process's umask still applies; the default of the crate would hide the file from everybody else.
        builder.permissions(std::fs::Permissions::from_mode(0o666));
    }
    let temporary = builder.tempfile_in(folder_of(path)).map_err(without_path)?;
    {
        let mut writer = BufWriter::new(temporary.as_file());
        fill(&mut writer)?;
        writer.flush()?;
    }
    temporary.as_file().sync_all()?;
    Ok(temporary)
}

/// A rename reaches the disk with its folder. Some file systems refuse to sync a folder; the rename is atomic there all
/// the same.
fn sync_folder(path: &Path) {
    if let Ok(handle) = File::open(folder_of(path)) {
        let _ = handle.sync_all();
    }
}

/// The file that takes the place of what stands at `path`; none where that is written through.
fn replaced(path: &Path) -> io::Result<Option<PathBuf>> {
    let mut path = path.to_path_buf();
    // As many links as Linux follows.
    for _ in 0..40 {
        let Ok(target) = std::fs::read_link(&path) else {
            let special = std::fs::metadata(&path).is_ok_and(|m| !m.is_file() && !m.is_dir());
            return Ok(if special { None } else { Some(path) });
        };
        path = path.parent().unwrap_or(Path::new("")).join(target);
        if path.starts_with("/proc") {
            return Ok(None);
        }
    }
    Err(io::Error::other("too many levels of symbolic links"))
}

/// The system's own error: the name of the temporary file, which `tempfile` adds, differs from call to call and says
/// nothing to the user.
fn without_path(error: io::Error) -> io::Error {
    let text = error.to_string();
    match text.split_once(" at path \"") {
        Some((reason, _)) => io::Error::new(error.kind(), reason.to_string()),
        None => error,
    }
}

/// What the name of every temporary file of [`atomic_write`] begins with.
pub(crate) const TEMPORARY_PREFIX: &str = ".ddnnc-";

/// Writes a safetensors file atomically.
pub fn write_weights(
    path: &Path,
    tensors: &Tensors,
    metadata: &BTreeMap<String, String>,
) -> Result<(), WeightsError> {
    atomic_write(path, &mut |out| write_tensors(out, tensors, metadata))
        .map_err(|source| WeightsError::Write { path: path.to_path_buf(), source })
}

/// Name and shape of every parameter and running statistic of a model.
pub(crate) fn table(model: &Model) -> impl Iterator<Item = (&str, &Shape)> {
    let parameters = model.parameters.iter().map(|(name, p)| (name.as_str(), &p.shape));
    parameters.chain(model.states.iter().map(|(name, s)| (name.as_str(), &s.shape)))
}

/// Checks that `tensors` are exactly the parameters and running statistics of `model`; the error names every missing,
/// extra and wrongly shaped one.
pub fn check_weights(model: &Model, tensors: &Tensors) -> Result<(), WeightsError> {
    check_table(table(model), tensors)
}

pub(crate) fn check_table<'a>(
    wanted: impl Iterator<Item = (&'a str, &'a Shape)>,
    tensors: &Tensors,
) -> Result<(), WeightsError> {
    let mut problems = Vec::new();
    let mut known = HashSet::new();
    for (name, shape) in wanted {
        known.insert(name);
        match tensors.get(name) {
            None => problems.push(format!("`{name}` {shape} is missing")),
            Some(t) if t.shape != *shape || t.data.len() != shape.elements() => {
                problems.push(format!("`{name}` is {}, but the model needs {shape}", t.shape));
            }
            Some(_) => {}
        }
    }
    for (name, tensor) in tensors {
        if !known.contains(name.as_str()) {
            problems.push(format!("`{name}` {} is not of the model", tensor.shape));
        }
    }
    if problems.is_empty() { Ok(()) } else { Err(WeightsError::Mismatch { path: None, problems }) }
}

/// The tensors that one net alone needs to run, in its order of use: parameters, then running statistics.
pub fn subnet_weights(model: &Model, tensors: &Tensors, net: &str) -> Result<Tensors, WeightsError> {
    let Some(found) = model.nets.iter().find(|n| n.name == net) else {
        let nets = model.nets.iter().map(|n| n.name.clone()).collect();
        return Err(WeightsError::UnknownNet { name: net.to_string(), nets });
    };
    let mut picked = Tensors::new();
    let mut problems = Vec::new();
    for name in found.parameters.iter().chain(&found.states) {
        match tensors.get(name) {
            Some(tensor) => {
                picked.insert(name.clone(), tensor.clone());
            }
            None => problems.push(format!("`{name}` is missing")),
        }
    }
    if problems.is_empty() { Ok(picked) } else { Err(WeightsError::Mismatch { path: None, problems }) }
}
