//! Whole files into memory, plain or gzip.

use super::DataError;
use flate2::read::MultiGzDecoder;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// The file `name` or `name.gz` in `folder`, the plain one first.
pub(super) fn find(folder: &Path, name: &str) -> Option<PathBuf> {
    [name.to_string(), format!("{name}.gz")].iter().map(|n| folder.join(n)).find(|p| p.is_file())
}

/// The error for files that are not there, with what is to be done about it.
pub(super) fn missing(folder: &Path, what: &str, names: &[&str], source: &str) -> DataError {
    let hint = if !folder.is_dir() {
        "The folder does not exist: give the right one with `--data DIR`".to_string()
    } else if let Some(packed) = names.iter().map(|n| format!("{n}.xz")).find(|n| folder.join(n).is_file()) {
        format!("`{packed}` has to be unpacked first: `unxz {packed}`")
    } else {
        format!("Give the folder that holds {source} with `--data DIR`")
    };
    let looked_for = names.iter().flat_map(|n| [(*n).to_string(), format!("{n}.gz")]).collect();
    DataError::Missing { folder: folder.to_path_buf(), what: what.to_string(), looked_for, hint }
}

/// The content of a file, unpacked where its name ends in `.gz`; at most `limit` bytes are read, and one more where
/// there is more (so that the caller sees that the file is too long).
pub(super) fn read(path: &Path, limit: u64) -> Result<Vec<u8>, DataError> {
    let file = File::open(path).map_err(|e| DataError::io(path, e))?;
    let mut bytes = Vec::new();
    let packed = path.extension().is_some_and(|e| e == "gz");
    let outcome = if packed {
        MultiGzDecoder::new(io::BufReader::new(file)).take(limit.saturating_add(1)).read_to_end(&mut bytes)
    } else {
        file.take(limit.saturating_add(1)).read_to_end(&mut bytes)
    };
    match outcome {
        Ok(_) => Ok(bytes),
        Err(e) if packed => {
            Err(DataError::Gzip { path: path.to_path_buf(), unpacked: bytes.len(), message: e.to_string() })
        }
        Err(e) => Err(DataError::io(path, e)),
    }
}
