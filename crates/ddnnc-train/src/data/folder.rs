//! A folder of images: `train/<class>/<image>`, and `val/` or `test/` alike; classes are numbered by sorted name.

use super::{DataError, ImageSet, Split};
use image::ImageFormat;
use image::imageops::FilterType;
use std::ffi::OsStr;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Endings of files that count as images; other files (licences, lists) are passed over.
const ENDINGS: [&str; 6] = ["jpg", "jpeg", "png", "bmp", "gif", "webp"];

/// The folder of a split.
fn split_folder(folder: &Path, split: Split) -> Result<PathBuf, DataError> {
    let names: &[&str] = match split {
        Split::Train => &["train"],
        Split::Test => &["val", "test"],
    };
    names.iter().map(|n| folder.join(n)).find(|p| p.is_dir()).ok_or_else(|| DataError::Missing {
        folder: folder.to_path_buf(),
        what: "folder of images".to_string(),
        looked_for: names.iter().map(|n| format!("{n}/")).collect(),
        hint: "Lay the images out as train/<class>/<image>.jpg and val/<class>/<image>.jpg, or give the right folder \
               with `--data DIR`"
            .to_string(),
    })
}

fn is_hidden(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(b".")
}

/// Names of the class folders, sorted.
fn classes(folder: &Path) -> Result<Vec<String>, DataError> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(|e| DataError::io(folder, e))? {
        let path = entry.map_err(|e| DataError::io(folder, e))?.path();
        if let (true, Some(name)) = (path.is_dir(), path.file_name().filter(|name| !is_hidden(name))) {
            names.push(name.to_string_lossy().into_owned());
        }
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
            if ending.is_some_and(|e| ENDINGS.contains(&e.as_str())) && path.is_file() {
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

/// Whether a JPEG goes on to its end marker. What begins like no JPEG is left to the decoder to refuse.
fn jpeg_is_whole(bytes: &[u8]) -> bool {
    // Behind the marker of the beginning stand segments: 0xFF, a marker, a length that counts itself. What follows a
    // start of scan has no length: in it 0xFF is followed by 0 or by a restart marker, else the next segment begins.
    const END: u8 = 0xD9;
    const SCAN: u8 = 0xDA;
    let mut at = 2;
    loop {
        let Some(&marker) = bytes.get(at + 1) else { return false };
        match (bytes[at], marker) {
            (0xFF, END) => return true,
            // Fill bytes.
            (0xFF, 0xFF) => at += 1,
            (0xFF, _) => {
                let Some(length) = bytes.get(at + 2..at + 4) else { return false };
                at += 2 + usize::from(u16::from_be_bytes([length[0], length[1]])).max(2);
                if marker == SCAN {
                    let rest = bytes.get(at..).unwrap_or_default();
                    let ends = |pair: &[u8]| pair[0] == 0xFF && !matches!(pair[1], 0 | 0xD0..=0xD7);
                    let Some(length) = rest.windows(2).position(ends) else { return false };
                    at += length;
                }
            }
            // No segment where one has to be: the decoder says so.
            _ => return true,
        }
    }
}

/// A decoded image: interleaved channels, row by row.
pub(super) enum Decoded {
    Gray(image::GrayImage),
    Rgb(image::RgbImage),
}

impl Decoded {
    /// Decodes a file to `channels` (1 or 3) channels; gray becomes RGB where three are wanted.
    pub(super) fn open(path: &Path, channels: usize) -> Result<Decoded, DataError> {
        // Some decoders end their message with a line break.
        let fail = |reason: String| DataError::Image {
            path: path.to_path_buf(),
            reason: reason.trim().trim_end_matches('.').to_string(),
        };
        let reader = image::ImageReader::open(path)
            .and_then(image::ImageReader::with_guessed_format)
            .map_err(|e| DataError::io(path, e))?;
        let decoded = if reader.format() == Some(ImageFormat::Jpeg) {
            let mut bytes = Vec::new();
            reader.into_inner().read_to_end(&mut bytes).map_err(|e| DataError::io(path, e))?;
            // The decoder makes grey of what is not there.
            if !jpeg_is_whole(&bytes) {
                return Err(fail("the JPEG breaks off before its end".to_string()));
            }
            image::load_from_memory_with_format(&bytes, ImageFormat::Jpeg)
        } else {
            reader.decode()
        };
        let decoded = decoded.map_err(|e| fail(e.to_string()))?;
        if decoded.width() == 0 || decoded.height() == 0 {
            return Err(fail("it has no pixels".to_string()));
        }
        Ok(if channels == 1 {
            Decoded::Gray(decoded.into_luma8())
        } else {
            Decoded::Rgb(decoded.into_rgb8())
        })
    }

    pub(super) fn size(&self) -> (u32, u32) {
        match self {
            Decoded::Gray(i) => i.dimensions(),
            Decoded::Rgb(i) => i.dimensions(),
        }
    }

    /// Resizes with an antialiasing triangle filter.
    pub(super) fn resize(&self, width: u32, height: u32) -> Decoded {
        match self {
            Decoded::Gray(i) => {
                Decoded::Gray(image::imageops::resize(i, width, height, FilterType::Triangle))
            }
            Decoded::Rgb(i) => Decoded::Rgb(image::imageops::resize(i, width, height, FilterType::Triangle)),
        }
    }

    /// The part of `width` × `height` pixels at (`x`, `y`).
    pub(super) fn crop(&self, x: u32, y: u32, width: u32, height: u32) -> Decoded {
        match self {
            Decoded::Gray(i) => Decoded::Gray(image::imageops::crop_imm(i, x, y, width, height).to_image()),
            Decoded::Rgb(i) => Decoded::Rgb(image::imageops::crop_imm(i, x, y, width, height).to_image()),
        }
    }

    /// Resizes so that the image just covers `margin` times `width` × `height`, and takes the centre of that size.
    pub(super) fn resize_and_centre(&self, width: u32, height: u32, margin: f64) -> Decoded {
        let (w, h) = self.size();
        // Of a very long image only the middle can come into view; resizing all of it could need any amount of memory.
        let longest =
            |short: u32| u64::from(short) * 8 * u64::from(width.max(height)) / u64::from(width.min(height));
        let (kept_w, kept_h) = (longest(h).min(u64::from(w)) as u32, longest(w).min(u64::from(h)) as u32);
        if (kept_w, kept_h) != (w, h) {
            let middle = self.crop((w - kept_w) / 2, (h - kept_h) / 2, kept_w, kept_h);
            return middle.resize_and_centre(width, height, margin);
        }
        let scale = (f64::from(width) / f64::from(w)).max(f64::from(height) / f64::from(h)) * margin;
        let scaled = |n: u32, least: u32| ((f64::from(n) * scale).round() as u32).max(least);
        let (w, h) = (scaled(w, width), scaled(h, height));
        self.resize(w, h).crop((w - width) / 2, (h - height) / 2, width, height)
    }

    /// Writes the pixels as planes: channels, rows, columns.
    pub(super) fn write_planes(&self, planes: &mut [u8]) {
        match self {
            Decoded::Gray(i) => planes.copy_from_slice(i.as_raw()),
            Decoded::Rgb(i) => {
                let area = planes.len() / 3;
                for (at, pixel) in i.as_raw().chunks_exact(3).enumerate() {
                    for (channel, &value) in pixel.iter().enumerate() {
                        planes[channel * area + at] = value;
                    }
                }
            }
        }
    }
}
