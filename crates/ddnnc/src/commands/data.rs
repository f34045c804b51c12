//! `ddnnc data`: what lies in a folder of training data.

use crate::Failure;
use crate::cli::{DataArgs, DatasetName};
use crate::output::{grouped, print, print_json};
use crate::training::bad_data;
use ddnnc_ir::{Data, Dataset, Shape};
use ddnnc_train::{DataSource, Fit};
use serde_json::json;

/// Reads the folder as a data set of the format and describes it.
pub fn run(args: &DataArgs) -> Result<(), Failure> {
    let (dataset, title, shape, classes) = match args.dataset {
        DatasetName::Mnist => (Dataset::Mnist, "MNIST", [1, 28, 28], 10),
        DatasetName::Cifar10 => (Dataset::Cifar10, "CIFAR-10", [3, 32, 32], 10),
        DatasetName::Cifar100 => (Dataset::Cifar100, "CIFAR-100", [3, 32, 32], 100),
        DatasetName::ImageFolder => {
            (Dataset::ImageFolder, "image folder", [3, 224, 224], class_folders(args))
        }
    };
    if !args.dir.is_dir() {
        return Err(Failure::input(format!("no folder `{}`", args.dir.display())));
    }
    let data = Data { dataset, path: None, augment: Vec::new(), normalize: None };
    let input = Shape::from(shape);
    let fit = Fit { input: &input, classes, validation: 0.0, seed: 0 };
    let source = DataSource::open(&data, &args.dir, fit).map_err(bad_data)?;
    let any_size = dataset == Dataset::ImageFolder;
    if args.json {
        return print_json(&json!({
            "dataset": title, "train": source.train_len(), "test": source.test_len(),
            "shape": if any_size { json!(null) } else { json!(shape) }, "classes": source.class_names(),
        }));
    }
    let size = if any_size {
        "of any size".to_string()
    } else {
        format!("{}×{}×{}", shape[0], shape[1], shape[2])
    };
    let names = source.class_names();
    let shown = names.iter().take(12).cloned().collect::<Vec<_>>().join(", ");
    let more = if names.len() > 12 { ", …" } else { "" };
    print(&format!(
        "{title} in {}\n\n  training images  {}\n  test images      {}\n  images           {size}\n  classes          {}: {shown}{more}\n",
        args.dir.display(),
        grouped(source.train_len() as u64),
        grouped(source.test_len() as u64),
        names.len(),
    ))
}

/// How many classes an image folder has; the reader itself complains about what is wrong with it.
fn class_folders(args: &DataArgs) -> usize {
    let entries = std::fs::read_dir(args.dir.join("train")).into_iter().flatten().flatten();
    entries.filter(|e| e.path().is_dir() && !e.file_name().to_string_lossy().starts_with('.')).count()
}
