//! What can be wrong with data: where, what was expected and found, and the way out.

use crate::error::wrongly_named;
use std::io;
use std::path::{Path, PathBuf};

/// An error of reading a data set.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// A file or folder that has to be there is not.
    #[error("{}: no {what} here; looked for {}. {hint}", folder.display(), looked_for.join(", "))]
    Missing {
        /// Where it should be.
        folder: PathBuf,
        /// What is missing.
        what: String,
        /// The names tried.
        looked_for: Vec<String>,
        /// The way out.
        hint: String,
    },
    /// A folder of images has no folder for a split.
    #[error("{}: there is {missing}. {hint}", folder.display())]
    NoSplit {
        /// The folder of images.
        folder: PathBuf,
        /// What it has not.
        missing: &'static str,
        /// The way out.
        hint: &'static str,
    },
    /// The operating system refused.
    #[error("{} cannot be read: {source}. Check that it is there and may be read", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A compressed file that does not unpack.
    #[error(
        "{}: the gzip stream breaks after {unpacked} unpacked bytes ({message}). The file is truncated or damaged: \
         fetch it again",
        path.display()
    )]
    Gzip {
        /// The file.
        path: PathBuf,
        /// Bytes that came out before the break.
        unpacked: usize,
        /// What the decoder said.
        message: String,
    },
    /// A file of the wrong length.
    #[error("{}: {found} bytes, but {expected} are expected ({why}). The file is truncated or of another format: fetch it again", path.display())]
    Length {
        /// The file.
        path: PathBuf,
        /// Bytes, unpacked.
        found: u64,
        /// Bytes that it should have.
        expected: u64,
        /// Where the expectation comes from.
        why: String,
    },
    /// A wrong magic number.
    #[error(
        "{}: the magic number at offset 0 is 0x{found:08x}, but {what} begin with 0x{expected:08x}. This is another \
         kind of file",
        path.display()
    )]
    Magic {
        /// The file.
        path: PathBuf,
        /// What it should be.
        what: &'static str,
        /// What it should begin with.
        expected: u32,
        /// What it begins with.
        found: u32,
    },
    /// A label that is no class.
    #[error(
        "{}: label {found} of image {image} (offset {offset}) is out of range: there are {classes} classes, 0 to {}. \
         The file is damaged or of another data set",
        path.display(), classes.saturating_sub(1)
    )]
    Label {
        /// The file.
        path: PathBuf,
        /// Number of the image, from 0.
        image: usize,
        /// Byte offset of the label, unpacked.
        offset: u64,
        /// The label.
        found: u32,
        /// Number of classes.
        classes: usize,
    },
    /// As many labels as images there should be.
    #[error(
        "{}: {images} images, but {} has {labels} labels. The two files do not belong together",
        images_path.display(), labels_path.display()
    )]
    Count {
        /// The file of images.
        images_path: PathBuf,
        /// Images.
        images: usize,
        /// The file of labels.
        labels_path: PathBuf,
        /// Labels.
        labels: usize,
    },
    /// A split without images.
    #[error("{}: there is no image in it", path.display())]
    Empty {
        /// The file or folder.
        path: PathBuf,
    },
    /// Too few classes to tell apart.
    #[error(
        "{}: {found} class folder(s) ({}), but at least 2 are needed. Put the images of each class in a folder of its \
         own: {}/<class>/<image>.jpg",
        path.display(), names.join(", "), path.display()
    )]
    FewClasses {
        /// The folder.
        path: PathBuf,
        /// Class folders.
        found: usize,
        /// Their names.
        names: Vec<String>,
    },
    /// Class folders that differ between the splits.
    #[error(
        "{}: the class folders are not those of {}: {}. Both must have the same classes",
        path.display(), other.display(), differences.join(", ")
    )]
    Classes {
        /// The test folder.
        path: PathBuf,
        /// The training folder.
        other: PathBuf,
        /// What only one of them has.
        differences: Vec<String>,
    },
    /// Class folders that differ from those that weights were trained on.
    #[error(
        "{}: its classes are not those that the weights were trained on: {}. Give the folder of that training with \
         `--data DIR`, or train anew",
        path.display(), differences.join(", ")
    )]
    OtherClasses {
        /// The folder.
        path: PathBuf,
        /// What only one of them has.
        differences: Vec<String>,
    },
    /// An image that cannot be decoded.
    #[error("{}: not a readable image: {reason}. Remove or replace it", path.display())]
    Image {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// Images that do not fit the model.
    #[error(
        "{}: {dataset} images are {found} (channels × height × width), but the spec's input is {wanted}. Change the \
         `input` of the spec, or the data set",
        path.display()
    )]
    Shape {
        /// Where the data lies.
        path: PathBuf,
        /// The data set.
        dataset: &'static str,
        /// Its images.
        found: String,
        /// The model's input.
        wanted: String,
    },
    /// Another number of classes than the model's.
    #[error(
        "{}: {dataset} has {found} classes, but the spec's target has {wanted}. Write `class[{found}]` in the spec, or \
         change the data set",
        path.display()
    )]
    ClassCount {
        /// Where the data lies.
        path: PathBuf,
        /// The data set.
        dataset: &'static str,
        /// Its classes.
        found: usize,
        /// The model's classes.
        wanted: usize,
    },
    /// Fewer training images than a batch.
    #[error(
        "{}: {images} training images (after the validation split) are fewer than one batch of {batch}. Make `batch` \
         smaller",
        path.display()
    )]
    SmallerThanBatch {
        /// Where the data lies.
        path: PathBuf,
        /// Images to train on.
        images: usize,
        /// Images in a batch.
        batch: usize,
    },
    /// Settings of the recipe that the data cannot follow.
    #[error("{message}")]
    Setting {
        /// What does not fit, and the way out.
        message: String,
    },
}

impl DataError {
    /// Whether the environment failed (disk, permissions), rather than the data.
    pub fn is_environment(&self) -> bool {
        matches!(self, DataError::Io { source, .. } if !wrongly_named(source))
    }

    pub(crate) fn io(path: &Path, source: io::Error) -> DataError {
        DataError::Io { path: path.to_path_buf(), source }
    }
}
