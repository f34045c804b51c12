//! Data sets: readers, the validation split, augmentation and the loader that prepares batches ahead.
//!
//! A [`DataSource`] is checked against the model when it is opened: image shape, number of classes, labels. The test
//! images are never trained on and never validated on.

mod augment;
mod cifar;
mod decoded;
mod error;
mod files;
mod folder;
mod idx;
mod loader;
mod pool;
mod split;

pub use augment::Preparation;
pub use error::DataError;
pub use loader::{Batch, Loader};
pub use pool::Pools;

use ddnnc_ir::{Data, Dataset, Shape};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The two halves of every data set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split {
    /// Images to train and validate on.
    Train,
    /// Images for the last word only.
    Test,
}

/// The images of a split, with their labels.
#[derive(Debug)]
pub(crate) struct ImageSet {
    pub(crate) pixels: Pixels,
    pub(crate) labels: Vec<u32>,
}

/// Where the pixels of a split are.
#[derive(Debug)]
pub(crate) enum Pixels {
    /// All in memory, as planes.
    Memory {
        /// Channels, height, width.
        shape: [usize; 3],
        /// One image after the other.
        bytes: Vec<u8>,
    },
    /// A file each, decoded when its batch is made.
    Files(Vec<PathBuf>),
}

impl ImageSet {
    fn in_memory(shape: [usize; 3], bytes: Vec<u8>, labels: Vec<u32>) -> ImageSet {
        ImageSet { pixels: Pixels::Memory { shape, bytes }, labels }
    }

    fn on_disk(paths: Vec<PathBuf>, labels: Vec<u32>) -> ImageSet {
        ImageSet { pixels: Pixels::Files(paths), labels }
    }
}

/// A data set that fits a model.
#[derive(Clone, Debug)]
pub struct DataSource {
    folder: PathBuf,
    pub(crate) images: Arc<ImageSet>,
    test: Option<Arc<ImageSet>>,
    /// Images of the training split to train on, and those held out; ascending.
    train_indices: Arc<Vec<u32>>,
    validation_indices: Arc<Vec<u32>>,
    test_indices: Arc<Vec<u32>>,
    pub(crate) view: Arc<augment::View>,
    seed: u64,
    class_names: Vec<String>,
}

/// What a [`DataSource`] has to fit, and how the training images are divided.
#[derive(Clone, Copy, Debug)]
pub struct Fit<'a> {
    /// The model's input, `[C,H,W]`.
    pub input: &'a Shape,
    /// The model's classes.
    pub classes: usize,
    /// Fraction of the training images held out for validation.
    pub validation: f64,
    /// Seed of the split, the order and the augmentation.
    pub seed: u64,
}

/// The name of a format, as users write it.
fn title(dataset: Dataset) -> &'static str {
    match dataset {
        Dataset::Mnist => "MNIST",
        Dataset::Cifar10 => "CIFAR-10",
        Dataset::Cifar100 => "CIFAR-100",
        Dataset::ImageFolder => "the image folder",
    }
}

impl DataSource {
    /// Opens the training and the test images under `folder` and checks them against the model.
    pub fn open(data: &Data, folder: &Path, fit: Fit<'_>) -> Result<DataSource, DataError> {
        let (train, class_names) = read(data.dataset, folder, Split::Train)?;
        let (test, _) = read(data.dataset, folder, Split::Test)?;
        DataSource::build(data, folder, fit, class_names, train, Some(test))
    }

    /// Opens the test images alone, for an evaluation.
    pub fn open_test(data: &Data, folder: &Path, fit: Fit<'_>) -> Result<DataSource, DataError> {
        let (test, class_names) = read(data.dataset, folder, Split::Test)?;
        let none = ImageSet { pixels: Pixels::Files(Vec::new()), labels: Vec::new() };
        DataSource::build(data, folder, fit, class_names, none, Some(test))
    }

    fn build(
        data: &Data,
        folder: &Path,
        fit: Fit<'_>,
        class_names: Vec<String>,
        train: ImageSet,
        test: Option<ImageSet>,
    ) -> Result<DataSource, DataError> {
        let wanted = extents(fit.input)?;
        let [channels, height, width] = wanted;
        let dataset = title(data.dataset);
        for set in std::iter::once(&train).chain(&test) {
            let found = match &set.pixels {
                Pixels::Memory { shape, .. } if *shape != wanted => {
                    format!("{}×{}×{}", shape[0], shape[1], shape[2])
                }
                Pixels::Memory { .. } => continue,
                Pixels::Files(_) => match unlike_a_file(wanted) {
                    Some(found) => found.to_string(),
                    None => continue,
                },
            };
            let wanted = format!("{channels}×{height}×{width}");
            return Err(DataError::Shape { path: folder.to_path_buf(), dataset, found, wanted });
        }
        if class_names.len() != fit.classes {
            return Err(DataError::ClassCount {
                path: folder.to_path_buf(),
                dataset,
                found: class_names.len(),
                wanted: fit.classes,
            });
        }
        let view = augment::View::new(data, wanted)?;
        let (kept, held_out) = split::stratified(&train.labels, fit.classes, fit.validation, fit.seed);
        let test_count = test.as_ref().map_or(0, |t| t.labels.len() as u32);
        Ok(DataSource {
            folder: folder.to_path_buf(),
            images: Arc::new(train),
            test: test.map(Arc::new),
            train_indices: Arc::new(kept),
            validation_indices: Arc::new(held_out),
            test_indices: Arc::new((0..test_count).collect()),
            view: Arc::new(view),
            seed: fit.seed,
            class_names,
        })
    }

    /// Where the data lies.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The classes by number: folder names, or numbers where the format gives no names.
    pub fn class_names(&self) -> &[String] {
        &self.class_names
    }

    /// The classes by number where the format gives names, else nothing.
    pub fn named_classes(&self) -> &[String] {
        match self.test.as_deref().unwrap_or(&self.images).pixels {
            Pixels::Files(_) => &self.class_names,
            Pixels::Memory { .. } => &[],
        }
    }

    /// Checks that the classes are those that weights were trained on, as far as both have names: a folder more or less would
    /// change the numbers of all classes behind it.
    pub fn check_classes(&self, trained: &[String]) -> Result<(), DataError> {
        let here = self.named_classes();
        if trained.is_empty() || here.is_empty() || trained == here {
            return Ok(());
        }
        let mut differences = folder::only(trained, here, "the weights");
        differences.extend(folder::only(here, trained, "the data"));
        Err(DataError::OtherClasses { path: self.folder.clone(), differences })
    }

    /// Images to train on.
    pub fn train_len(&self) -> usize {
        self.train_indices.len()
    }

    /// Images held out of the training set.
    pub fn validation_len(&self) -> usize {
        self.validation_indices.len()
    }

    /// Images of the test set.
    pub fn test_len(&self) -> usize {
        self.test_indices.len()
    }

    /// Training steps in an epoch; a last partial batch is dropped.
    pub fn steps_per_epoch(&self, batch: usize) -> Result<u64, DataError> {
        if batch == 0 || self.train_len() < batch {
            let (path, images) = (self.folder.clone(), self.train_len());
            return Err(DataError::SmallerThanBatch { path, images, batch });
        }
        Ok((self.train_len() / batch) as u64)
    }

    /// Training batches of the steps `first..end`, shuffled and augmented epoch by epoch, prepared by `threads`
    /// threads; what they give does not depend on how many there are.
    pub fn training(&self, batch: usize, first: u64, end: u64, threads: usize) -> Result<Loader, DataError> {
        let steps_per_epoch = self.steps_per_epoch(batch)?;
        let order = loader::Order::Shuffled { seed: self.seed, steps_per_epoch };
        Ok(Loader::start(
            self.images.clone(),
            self.train_indices.clone(),
            self.view.clone(),
            order,
            batch,
            first..end,
            threads,
        ))
    }

    /// Training batches of some steps of a phase, from the pool of each epoch and else as [`DataSource::training`] gives them.
    pub fn pooled(&self, batch: usize, pools: &Pools, steps: Range<u64>, threads: usize) -> Loader {
        let order = loader::Order::Pooled { seed: self.seed, pools: pools.clone() };
        let (images, indices) = (self.images.clone(), self.train_indices.clone());
        Loader::start(images, indices, self.view.clone(), order, batch, steps, threads)
    }

    /// Batches of the images to train on, in order and unaugmented; the last one is padded.
    pub fn scored(&self, batch: usize, threads: usize) -> Loader {
        self.in_order(self.images.clone(), self.train_indices.clone(), batch, threads)
    }

    /// Batches of the validation images, in order and unaugmented; the last one is padded.
    pub fn validation(&self, batch: usize, threads: usize) -> Loader {
        self.in_order(self.images.clone(), self.validation_indices.clone(), batch, threads)
    }

    /// Batches of the test images, in order and unaugmented; the last one is padded.
    pub fn test(&self, batch: usize, threads: usize) -> Loader {
        match &self.test {
            Some(test) => self.in_order(test.clone(), self.test_indices.clone(), batch, threads),
            None => self.in_order(self.images.clone(), Arc::default(), batch, threads),
        }
    }

    fn in_order(
        &self,
        images: Arc<ImageSet>,
        indices: Arc<Vec<u32>>,
        batch: usize,
        threads: usize,
    ) -> Loader {
        let batches = indices.len().div_ceil(batch.max(1)) as u64;
        let order = loader::Order::Sequential;
        Loader::start(images, indices, self.view.clone(), order, batch.max(1), 0..batches, threads)
    }
}

/// Channels, height and width of a model's input.
fn extents(input: &Shape) -> Result<[usize; 3], DataError> {
    let &[channels, height, width] = input.dims() else {
        return Err(DataError::Setting {
            message: format!("the spec's input is {input}; images need [channels,height,width]"),
        });
    };
    if channels * height * width == 0 {
        return Err(DataError::Setting { message: format!("the spec's input {input} has no pixels") });
    }
    Ok([channels, height, width])
}

/// What image files have that an input of this shape has not; `None` where files can be made to fit.
fn unlike_a_file([channels, height, width]: [usize; 3]) -> Option<&'static str> {
    if channels != 1 && channels != 3 {
        Some("1 or 3 channels of any size")
    } else if width.max(height) > 1 << 14 {
        Some("at most 16384 pixels wide and high")
    } else {
        None
    }
}

/// Reads one image file as the input `[C,H,W]` of a model that was trained on `data`: grey or colour as the input
/// wants, resized and cut to its centre, normalised as in training and never augmented.
pub fn read_image(data: &Data, input: &Shape, path: &Path) -> Result<Vec<f32>, DataError> {
    view_of_files(data, input)?.render_file(path)
}

/// How [`read_image`] prepares a file.
pub fn preparation(data: &Data, input: &Shape) -> Result<Preparation, DataError> {
    Ok(view_of_files(data, input)?.preparation())
}

fn view_of_files(data: &Data, input: &Shape) -> Result<augment::View, DataError> {
    let shape = extents(input)?;
    if let Some(found) = unlike_a_file(shape) {
        let message = format!("the spec's input is {input}, but image files have {found}");
        return Err(DataError::Setting { message });
    }
    augment::View::new(data, shape)
}

/// Reads one split, and the names of the classes.
fn read(dataset: Dataset, folder: &Path, split: Split) -> Result<(ImageSet, Vec<String>), DataError> {
    let numbered = |n: usize| (0..n).map(|i| i.to_string()).collect();
    Ok(match dataset {
        Dataset::Mnist => {
            let stem = match split {
                Split::Train => "train",
                Split::Test => "t10k",
            };
            (idx::read(folder, stem)?, numbered(10))
        }
        Dataset::Cifar10 => (cifar::read_ten(folder, split)?, numbered(10)),
        Dataset::Cifar100 => (cifar::read_hundred(folder, split)?, numbered(100)),
        Dataset::ImageFolder => folder::read(folder, split)?,
    })
}
