//! From an image to the model's input: random changes, size, normalisation.

use super::decoded::{Decoded, Part};
use super::{DataError, ImageSet, Pixels};
use crate::random;
use ddnnc_ir::{Augment, Data, Dataset};
use fast_image_resize::Resizer;
use rand_chacha::ChaCha8Rng;
use std::path::Path;

/// How much more than the input an image of a folder covers before its centre is taken: 256 for an input of 224.
const MARGIN: f64 = 256.0 / 224.0;

/// How evaluation makes an input of an image: what whoever runs the net elsewhere has to do.
///
/// The image is scaled, keeping its aspect, so that it just covers `resize`, to the nearest whole numbers; the centre, `crop`,
/// is cut out, the smaller half of an odd rest at the top and on the left; of each channel `mean` is subtracted from pixels in
/// [0, 1], and the rest is divided by `std`.
#[derive(Clone, Debug, PartialEq)]
pub struct Preparation {
    /// Mean of each channel, of pixels in [0, 1].
    pub mean: Vec<f64>,
    /// Standard deviation of each channel.
    pub std: Vec<f64>,
    /// Height and width in pixels.
    pub resize: [usize; 2],
    /// Height and width of the input in pixels.
    pub crop: [usize; 2],
}

/// How an image becomes an input.
///
/// Random changes work on raw pixels, before normalisation: what `crop` pads with is black, as in torchvision's
/// `RandomCrop` on images.
#[derive(Debug)]
pub(crate) struct View {
    shape: [usize; 3],
    augment: Vec<Augment>,
    /// Height and width that an image file covers before its centre is taken.
    resize: [usize; 2],
    mean: Vec<f64>,
    std: Vec<f64>,
    /// For every channel, the normalised value of each pixel value.
    table: Vec<[f32; 256]>,
}

/// Buffers of one thread.
#[derive(Default)]
pub(crate) struct Scratch {
    planes: Vec<u8>,
    other: Vec<u8>,
    resizer: Resizer,
}

impl View {
    pub(super) fn new(data: &Data, shape: [usize; 3]) -> Result<View, DataError> {
        let (mean, std) = match &data.normalize {
            Some(given) => given.clone(),
            None => default_normalization(data.dataset, shape[0]),
        };
        let wrong = |message: String| Err(DataError::Setting { message });
        if mean.len() != shape[0] || std.len() != shape[0] {
            return wrong(format!(
                "`normalize` gives {} means and {} standard deviations, but the input has {} channel(s)",
                mean.len(),
                std.len(),
                shape[0]
            ));
        }
        if mean.iter().chain(&std).any(|x| !x.is_finite()) || std.iter().any(|&s| s <= 0.0) {
            return wrong("`normalize`: means must be finite and standard deviations above 0".to_string());
        }
        for step in &data.augment {
            match *step {
                Augment::ResizedCrop { .. } if data.dataset != Dataset::ImageFolder => {
                    return wrong(
                        "`resized_crop` works on image folders only; use `crop(pad = 4)` here".to_string(),
                    );
                }
                Augment::ResizedCrop { scale } if !(scale > 0.0 && scale <= 1.0) => {
                    return wrong(format!("`resized_crop`: scale {scale} is not in (0, 1]"));
                }
                Augment::Crop { pad } if pad > 1 << 14 => {
                    return wrong(format!("`crop`: pad {pad} is more than 16384"));
                }
                Augment::Crop { .. } | Augment::Flip | Augment::ResizedCrop { .. } => {}
            }
        }
        let table = mean
            .iter()
            .zip(&std)
            .map(|(m, s)| std::array::from_fn(|v| ((v as f64 / 255.0 - m) / s) as f32))
            .collect();
        // Images of a folder are cut; where all have the size of the input, nothing is but what does not have its aspect.
        let margin = match data.dataset {
            Dataset::ImageFolder => MARGIN,
            Dataset::Mnist | Dataset::Cifar10 | Dataset::Cifar100 => 1.0,
        };
        let resize = [shape[1], shape[2]].map(|n| (n as f64 * margin).round() as usize);
        Ok(View { shape, augment: data.augment.clone(), resize, mean, std, table })
    }

    /// What is done to an image file without random changes.
    pub(super) fn preparation(&self) -> Preparation {
        let [_, height, width] = self.shape;
        Preparation {
            mean: self.mean.clone(),
            std: self.std.clone(),
            resize: self.resize,
            crop: [height, width],
        }
    }

    /// Width and height that an image file covers.
    fn covered(&self) -> [u32; 2] {
        let [height, width] = self.resize;
        [width as u32, height as u32]
    }

    /// Elements of an input.
    pub(super) fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Writes image `index` as an input; with a random stream, after its random changes.
    pub(super) fn render(
        &self,
        images: &ImageSet,
        index: usize,
        mut rng: Option<ChaCha8Rng>,
        scratch: &mut Scratch,
        out: &mut [f32],
    ) -> Result<(), DataError> {
        let [channels, height, width] = self.shape;
        let count = self.elements();
        scratch.planes.resize(count, 0);
        scratch.other.resize(count, 0);
        match &images.pixels {
            Pixels::Memory { bytes, .. } => {
                scratch.planes.copy_from_slice(&bytes[index * count..(index + 1) * count]);
            }
            Pixels::Files(paths) => {
                let decoded = Decoded::open(&paths[index], channels)?;
                let size = [width as u32, height as u32];
                let scale = self.augment.iter().find_map(|a| match *a {
                    Augment::ResizedCrop { scale } => Some(scale),
                    Augment::Crop { .. } | Augment::Flip => None,
                });
                let Scratch { planes, resizer, .. } = scratch;
                match (&mut rng, scale) {
                    (Some(rng), Some(scale)) => {
                        decoded.resized(resized_crop(rng, decoded.size(), scale), size, resizer, planes)?;
                    }
                    (None, _) | (_, None) => decoded.centre(size, self.covered(), resizer, planes)?,
                }
            }
        }
        if let Some(rng) = &mut rng {
            for step in &self.augment {
                match *step {
                    Augment::Crop { pad } => {
                        let mut draw = || random::below(rng, 2 * pad as u64 + 1) as isize - pad as isize;
                        let (dy, dx) = (draw(), draw());
                        shift(&scratch.planes, &mut scratch.other, self.shape, dy, dx);
                        std::mem::swap(&mut scratch.planes, &mut scratch.other);
                    }
                    Augment::Flip => {
                        if random::below(rng, 2) == 1 {
                            scratch.planes.chunks_exact_mut(width).for_each(<[u8]>::reverse);
                        }
                    }
                    // Done while the image still had its own size.
                    Augment::ResizedCrop { .. } => {}
                }
            }
        }
        self.normalise(&scratch.planes, out);
        Ok(())
    }

    /// An image file on its own, without random changes.
    pub(super) fn render_file(&self, path: &Path) -> Result<Vec<f32>, DataError> {
        let [channels, height, width] = self.shape;
        let mut planes = vec![0; self.elements()];
        let decoded = Decoded::open(path, channels)?;
        decoded.centre([width as u32, height as u32], self.covered(), &mut Resizer::new(), &mut planes)?;
        let mut out = vec![0.0; planes.len()];
        self.normalise(&planes, &mut out);
        Ok(out)
    }

    /// Looks the normalised value of every pixel up.
    fn normalise(&self, planes: &[u8], out: &mut [f32]) {
        let area = self.shape[1] * self.shape[2];
        for ((plane, out), table) in
            planes.chunks_exact(area).zip(out.chunks_exact_mut(area)).zip(&self.table)
        {
            for (o, &p) in out.iter_mut().zip(plane) {
                *o = table[usize::from(p)];
            }
        }
    }
}

/// The window of the padded image that begins (`dy`, `dx`) away from the image's own corner.
fn shift(from: &[u8], to: &mut [u8], [_, height, width]: [usize; 3], dy: isize, dx: isize) {
    let source = |at: usize, by: isize, size: usize| at.checked_add_signed(by).filter(|&s| s < size);
    for (from, to) in from.chunks_exact(height * width).zip(to.chunks_exact_mut(height * width)) {
        for (y, row) in to.chunks_exact_mut(width).enumerate() {
            match source(y, dy, height) {
                Some(sy) => {
                    for (x, pixel) in row.iter_mut().enumerate() {
                        *pixel = source(x, dx, width).map_or(0, |sx| from[sy * width + sx]);
                    }
                }
                None => row.fill(0),
            }
        }
    }
}

/// A random part of at least `scale` of the area and aspect 3/4 to 4/3; after ten misses, the centre (as torchvision's
/// `RandomResizedCrop`).
fn resized_crop(rng: &mut ChaCha8Rng, [width, height]: [u32; 2], scale: f64) -> Part {
    let (w, h) = (f64::from(width), f64::from(height));
    for _ in 0..10 {
        let area = w * h * (scale + (1.0 - scale) * random::unit(rng));
        let bound = (4.0f64 / 3.0).ln();
        let aspect = (bound * (2.0 * random::unit(rng) - 1.0)).exp();
        let (cw, ch) = ((area * aspect).sqrt().round() as u32, (area / aspect).sqrt().round() as u32);
        if cw > 0 && ch > 0 && cw <= width && ch <= height {
            let x = random::below(rng, u64::from(width - cw) + 1) as u32;
            let y = random::below(rng, u64::from(height - ch) + 1) as u32;
            return [x, y, cw, ch];
        }
    }
    let (cw, ch) = if w / h > 4.0 / 3.0 {
        (((h * 4.0 / 3.0).round() as u32).clamp(1, width), height)
    } else if w / h < 3.0 / 4.0 {
        (width, ((w * 4.0 / 3.0).round() as u32).clamp(1, height))
    } else {
        (width, height)
    };
    [(width - cw) / 2, (height - ch) / 2, cw, ch]
}

/// Mean and standard deviation of the training pixels, as usually given for each data set.
fn default_normalization(dataset: Dataset, channels: usize) -> (Vec<f64>, Vec<f64>) {
    match dataset {
        Dataset::Mnist => (vec![0.1307], vec![0.3081]),
        Dataset::Cifar10 => (vec![0.4914, 0.4822, 0.4465], vec![0.2470, 0.2435, 0.2616]),
        Dataset::Cifar100 => (vec![0.5071, 0.4865, 0.4409], vec![0.2673, 0.2564, 0.2762]),
        // ImageNet's; one gray channel takes the mean of the three.
        Dataset::ImageFolder if channels == 1 => (vec![0.449], vec![0.226]),
        Dataset::ImageFolder => (vec![0.485, 0.456, 0.406], vec![0.229, 0.224, 0.225]),
    }
}

#[cfg(test)]
mod tests {
    use super::{Decoded, View};
    use ddnnc_ir::{Data, Dataset};
    use fast_image_resize::Resizer;

    /// An input is what somebody makes of the image who knows no more than the [`Preparation`](super::Preparation): here
    /// 8/7 of neither extent is a whole number, and the long image is of another size with either unrounded.
    #[test]
    fn inputs_are_made_as_the_preparation_says() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("long.png");
        let pixel =
            |x: u32, y: u32| image::Rgb([x * 37 + y * 11, x * y, x + y * 101].map(|v| (v % 251) as u8));
        image::RgbImage::from_fn(333, 97, pixel).save(&path).expect("an image is written");
        let data = Data { dataset: Dataset::ImageFolder, path: None, augment: Vec::new(), normalize: None };
        let view = View::new(&data, [3, 48, 40]).expect("a view");

        let made = view.preparation();
        assert_eq!((made.resize, made.crop), ([55, 46], [48, 40]));
        let scale = f64::max(55.0 / 97.0, 46.0 / 333.0);
        let [width, height] = [333.0, 97.0].map(|n| (n * scale).round() as usize);
        let mut all = vec![0; 3 * height * width];
        let decoded = Decoded::open(&path, 3).expect("an image");
        let size = [width as u32, height as u32];
        decoded.resized([0, 0, 333, 97], size, &mut Resizer::new(), &mut all).expect("it is resized");
        let (top, left) = ((height - 48) / 2, (width - 40) / 2);
        let mut expected = Vec::new();
        for (channel, plane) in all.chunks(height * width).enumerate() {
            for row in plane.chunks(width).skip(top).take(48) {
                expected.extend(
                    row[left..left + 40]
                        .iter()
                        .map(|&v| ((f64::from(v) / 255.0 - made.mean[channel]) / made.std[channel]) as f32),
                );
            }
        }
        assert!(view.render_file(&path).expect("an input") == expected);
    }
}
