//! The binary versions of CIFAR-10 and CIFAR-100 (Krizhevsky 2009): records of label bytes and 3072 pixel bytes.

use super::{DataError, ImageSet, Split, files};
use std::path::Path;

const PIXELS: usize = 3 * 32 * 32;
/// The largest file has 50,000 records; four times that bounds what a wrong file can make us read.
const LIMIT: u64 = 4 * 50_000 * (PIXELS as u64 + 2);

/// How a version lays out its records.
struct Layout {
    /// Label bytes before the pixels; the last of them is the label that counts (CIFAR-100: coarse, then fine).
    labels: usize,
    classes: usize,
}

/// Reads CIFAR-10: every `data_batch_1..5.bin` that is there, or `test_batch.bin`.
pub(super) fn read_ten(folder: &Path, split: Split) -> Result<ImageSet, DataError> {
    let layout = Layout { labels: 1, classes: 10 };
    let names: Vec<String> = match split {
        Split::Train => (1..=5).map(|i| format!("data_batch_{i}.bin")).collect(),
        Split::Test => vec!["test_batch.bin".to_string()],
    };
    read(folder, &names, &layout, "the binary version of CIFAR-10")
}

/// Reads CIFAR-100: `train.bin` or `test.bin`, fine labels.
pub(super) fn read_hundred(folder: &Path, split: Split) -> Result<ImageSet, DataError> {
    let layout = Layout { labels: 2, classes: 100 };
    let name = match split {
        Split::Train => "train.bin",
        Split::Test => "test.bin",
    };
    read(folder, &[name.to_string()], &layout, "the binary version of CIFAR-100")
}

fn read(folder: &Path, names: &[String], layout: &Layout, source: &str) -> Result<ImageSet, DataError> {
    let paths: Vec<_> = names.iter().filter_map(|n| files::find(folder, n)).collect();
    if paths.is_empty() {
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        return Err(files::missing(folder, "file of CIFAR images", &names, source));
    }
    let record = layout.labels + PIXELS;
    let (mut pixels, mut labels) = (Vec::new(), Vec::new());
    for path in paths {
        let bytes = files::read(&path, LIMIT)?;
        if bytes.is_empty() {
            return Err(DataError::Empty { path });
        }
        if bytes.len() % record != 0 {
            return Err(DataError::Length {
                path,
                found: bytes.len() as u64,
                expected: (bytes.len().div_ceil(record) * record) as u64,
                why: format!(
                    "whole records of {record} bytes; the last one begins at {}",
                    bytes.len() / record * record
                ),
            });
        }
        for (image, bytes) in bytes.chunks_exact(record).enumerate() {
            let label = bytes[layout.labels - 1];
            if usize::from(label) >= layout.classes {
                return Err(DataError::Label {
                    path,
                    image,
                    offset: (image * record + layout.labels - 1) as u64,
                    found: u32::from(label),
                    classes: layout.classes,
                });
            }
            labels.push(u32::from(label));
            pixels.extend_from_slice(&bytes[layout.labels..]);
        }
    }
    Ok(ImageSet::in_memory([3, 32, 32], pixels, labels))
}
