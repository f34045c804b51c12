//! A folder of images: `train/<class>/<image>`, and `val/` or `test/` alike; classes are numbered by sorted name.

use super::{DataError, ImageSet, Split};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

/// Endings of files that count as images; other files (licences, lists) are passed over.
const ENDINGS: [&str; 6] = ["jpg", "jpeg", "png", "bmp", "gif", "webp"];

/// The folder of a split.
fn split_folder(folder: &Path, split: Split) -> Result<PathBuf, DataError> {
    let names: &[&str] = match split {
        Split::Train => &["train"],
        Split::Test => &["val", "test"],
    };
    names.iter().map(|n| folder.join(n)).find(|p| p.is_dir()).ok_or_else(|| {
        let (missing, hint) = match split {
            Split::Train => ("no train/ in it", LAYOUT),
            Split::Test if folder.join("train").is_dir() => (
                "neither val/ nor test/ in it, beside train/",
                "Move some images of each class from train/<class>/ to val/<class>/<image>.jpg: results are of images \
                 that nothing was trained on",
            ),
            Split::Test => ("neither val/ nor test/ in it", LAYOUT),
        };
        DataError::NoSplit { folder: folder.to_path_buf(), missing, hint }
    })
}

/// The way out where a folder is none of images.
const LAYOUT: &str = "Lay the images out as train/<class>/<image>.jpg and val/<class>/<image>.jpg, or give the right \
                      folder with `--data DIR`";

fn is_hidden(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(b".")
}

/// Names of the class folders, sorted.
fn classes(folder: &Path) -> Result<Vec<String>, DataError> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(|e| DataError::io(folder, e))? {
        let entry = entry.map_err(|e| DataError::io(folder, e))?;
        let (name, path) = (entry.file_name(), entry.path());
        // A link that leads nowhere may have been a class: it is not passed over.
        if is_hidden(&name) || !std::fs::metadata(&path).map_err(|e| DataError::io(&path, e))?.is_dir() {
            continue;
        }
        names.push(name.into_string().map_err(|_| {
            let path = path.display();
            let message = format!("{path}: the name of this class folder is no UTF-8 text. Rename it");
            DataError::Setting { message }
        })?);
    }
    names.sort();
    if names.len() < 2 {
        return Err(DataError::FewClasses { path: folder.to_path_buf(), found: names.len(), names });
    }
    Ok(names)
}

/// What stands in `a` and not in `b`, for people.
pub(super) fn only(a: &[String], b: &[String], tag: &str) -> Vec<String> {
    a.iter().filter(|n| !b.contains(n)).map(|n| format!("`{n}` only in {tag}")).collect()
}

/// Lists the images of a split; nothing is decoded yet.
pub(super) fn read(folder: &Path, split: Split) -> Result<(ImageSet, Vec<String>), DataError> {
    let root = split_folder(folder, split)?;
    let names = classes(&root)?;
    if split == Split::Test {
        // Where the training images are at hand, the numbers of the classes are theirs.
        if let Ok(train) = split_folder(folder, Split::Train) {
            let wanted = classes(&train)?;
            if wanted != names {
                let mut differences = only(&wanted, &names, "train");
                differences.extend(only(&names, &wanted, "test"));
                return Err(DataError::Classes { path: root, other: train, differences });
            }
        }
    }
    let (mut paths, mut labels) = (Vec::new(), Vec::new());
    for (class, name) in names.iter().enumerate() {
        let folder = root.join(name);
        let mut files = Vec::new();
        for entry in std::fs::read_dir(&folder).map_err(|e| DataError::io(&folder, e))? {
            let entry = entry.map_err(|e| DataError::io(&folder, e))?;
            // macOS leaves a `._1.jpg`, which is no image, beside a `1.jpg` that it packs.
            if is_hidden(&entry.file_name()) {
                continue;
            }
            let path = entry.path();
            let ending = path.extension().map(|e| e.to_string_lossy().to_ascii_lowercase());
            if ending.is_some_and(|e| ENDINGS.contains(&e.as_str()))
                && std::fs::metadata(&path).map_err(|e| DataError::io(&path, e))?.is_file()
            {
                files.push(path);
            }
        }
        if files.is_empty() {
            return Err(DataError::Empty { path: folder });
        }
        files.sort();
        labels.extend(std::iter::repeat_n(class as u32, files.len()));
        paths.extend(files);
    }
    Ok((ImageSet::on_disk(paths, labels), names))
}
