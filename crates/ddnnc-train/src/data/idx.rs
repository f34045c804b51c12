//! MNIST's IDX files (LeCun, Cortes, Burges): big-endian magic number, extents, bytes.

use super::{DataError, ImageSet, files};
use std::path::Path;

const SIDE: usize = 28;
const CLASSES: usize = 10;
const IMAGES_MAGIC: u32 = 0x0000_0803;
const LABELS_MAGIC: u32 = 0x0000_0801;
/// No IDX file of this data set is larger; it bounds what a damaged one can make us read.
const LIMIT: u64 = 1 << 30;

/// Reads `<stem>-images-idx3-ubyte` and `<stem>-labels-idx1-ubyte`, `stem` being `train` or `t10k`.
pub(super) fn read(folder: &Path, stem: &str) -> Result<ImageSet, DataError> {
    let names = [format!("{stem}-images-idx3-ubyte"), format!("{stem}-labels-idx1-ubyte")];
    let find = |i: usize, what: &str| {
        files::find(folder, &names[i])
            .ok_or_else(|| files::missing(folder, what, &[&names[i]], "the four IDX files of MNIST"))
    };
    let images_path = find(0, "file of MNIST images")?;
    let labels_path = find(1, "file of MNIST labels")?;

    let mut pixels = files::read(&images_path, LIMIT)?;
    let [count, rows, columns] = header(&images_path, &pixels, IMAGES_MAGIC, "IDX files of images")?;
    if (rows as usize, columns as usize) != (SIDE, SIDE) {
        return Err(DataError::Shape {
            path: images_path,
            dataset: "the file's",
            found: format!("1×{rows}×{columns}"),
            wanted: "1×28×28 for MNIST".to_string(),
        });
    }
    let expected = 16 + u64::from(count) * (SIDE * SIDE) as u64;
    if pixels.len() as u64 != expected {
        return Err(DataError::Length {
            path: images_path,
            found: pixels.len() as u64,
            expected,
            why: format!("a header of 16 bytes and {count} images of 28×28"),
        });
    }
    pixels.drain(..16);

    let labels = files::read(&labels_path, LIMIT)?;
    let [label_count] = header(&labels_path, &labels, LABELS_MAGIC, "IDX files of labels")?;
    let expected = 8 + u64::from(label_count);
    if labels.len() as u64 != expected {
        return Err(DataError::Length {
            path: labels_path,
            found: labels.len() as u64,
            expected,
            why: format!("a header of 8 bytes and {label_count} labels"),
        });
    }
    if label_count != count {
        return Err(DataError::Count {
            images_path,
            images: count as usize,
            labels_path,
            labels: label_count as usize,
        });
    }
    if count == 0 {
        return Err(DataError::Empty { path: images_path });
    }
    let labels = &labels[8..];
    if let Some(image) = labels.iter().position(|&l| usize::from(l) >= CLASSES) {
        return Err(DataError::Label {
            path: labels_path,
            image,
            offset: 8 + image as u64,
            found: u32::from(labels[image]),
            classes: CLASSES,
        });
    }
    Ok(ImageSet::in_memory([1, SIDE, SIDE], pixels, labels.iter().map(|&l| u32::from(l)).collect()))
}

/// Checks the magic number and gives the `N` extents after it.
fn header<const N: usize>(
    path: &Path,
    bytes: &[u8],
    magic: u32,
    what: &'static str,
) -> Result<[u32; N], DataError> {
    let word = |i: usize| {
        let part = bytes.get(4 * i..4 * i + 4)?;
        Some(u32::from_be_bytes([part[0], part[1], part[2], part[3]]))
    };
    let short = || DataError::Length {
        path: path.to_path_buf(),
        found: bytes.len() as u64,
        expected: 4 * (N as u64 + 1),
        why: "the header alone".to_string(),
    };
    let found = word(0).ok_or_else(short)?;
    if found != magic {
        return Err(DataError::Magic { path: path.to_path_buf(), what, expected: magic, found });
    }
    let mut extents = [0; N];
    for (i, extent) in extents.iter_mut().enumerate() {
        *extent = word(i + 1).ok_or_else(short)?;
    }
    Ok(extents)
}
