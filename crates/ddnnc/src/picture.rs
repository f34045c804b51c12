//! An image file as the input of a net, prepared as evaluation prepares its images.

use crate::Failure;
use ddnnc_ir::{Data, Dataset, Shape};
use image::imageops::{FilterType, crop_imm, resize};
use image::{ImageReader, RgbImage};
use std::path::Path;

/// Width over which an image is resized before the centre is cut out, for an input of 224 (image folders only).
const MARGIN: f64 = 256.0 / 224.0;

/// Reads an image file as `[C,H,W]` numbers, normalised as in training.
///
/// Where the data set has images of one size (MNIST, CIFAR), the image is resized to just cover the input and the
/// centre is taken; for image folders it is resized to 256/224 of that first.
pub fn read(path: &Path, input: &Shape, data: &Data) -> Result<Vec<f32>, Failure> {
    let &[channels, height, width] = input.dims() else {
        return Err(Failure::input(format!("an input of shape {input} takes no images")));
    };
    if channels != 1 && channels != 3 {
        return Err(Failure::input(format!(
            "an input of {channels} channels takes no images (grey has 1, colour 3)"
        )));
    }
    let (mean, std) = data.normalize.clone().unwrap_or_else(|| normalization(data.dataset, channels));
    if mean.len() != channels || std.len() != channels {
        return Err(Failure::input(format!("`normalize` must give {channels} means and deviations")));
    }
    let decoded = ImageReader::open(path).and_then(ImageReader::with_guessed_format);
    let decoded = decoded.map_err(|e| Failure::reading(path, &e))?.decode();
    let decoded =
        decoded.map_err(|e| Failure::input(format!("{}: not a readable image: {e}", path.display())))?;
    // A grey image has three equal channels here, and the luminance of a grey pixel is the pixel.
    let pixels = match channels {
        1 => image::DynamicImage::ImageLuma8(decoded.into_luma8()).into_rgb8(),
        _ => decoded.into_rgb8(),
    };
    let margin = if data.dataset == Dataset::ImageFolder { MARGIN } else { 1.0 };
    let pixels = cover(&pixels, width as u32, height as u32, margin);
    let area = width * height;
    let mut out = vec![0.0; channels * area];
    for (at, pixel) in pixels.pixels().enumerate() {
        for channel in 0..channels {
            let value = f64::from(pixel.0[channel]) / 255.0;
            out[channel * area + at] = ((value - mean[channel]) / std[channel]) as f32;
        }
    }
    Ok(out)
}

/// Resizes so that the image covers `margin` times `width` × `height`, and takes the centre.
fn cover(pixels: &RgbImage, width: u32, height: u32, margin: f64) -> RgbImage {
    let (w, h) = (f64::from(pixels.width().max(1)), f64::from(pixels.height().max(1)));
    let scale = (f64::from(width) / w).max(f64::from(height) / h) * margin;
    let scaled = |n: f64, least: u32| ((n * scale).round() as u32).max(least);
    let (w, h) = (scaled(w, width), scaled(h, height));
    if (w, h) == pixels.dimensions() {
        return crop_imm(pixels, (w - width) / 2, (h - height) / 2, width, height).to_image();
    }
    let sized = resize(pixels, w, h, FilterType::Triangle);
    crop_imm(&sized, (w - width) / 2, (h - height) / 2, width, height).to_image()
}

/// Mean and standard deviation per channel where the spec gives none: the data set's own, as the training loop has them.
fn normalization(dataset: Dataset, channels: usize) -> (Vec<f64>, Vec<f64>) {
    match dataset {
        Dataset::Mnist => (vec![0.1307], vec![0.3081]),
        Dataset::Cifar10 => (vec![0.4914, 0.4822, 0.4465], vec![0.2470, 0.2435, 0.2616]),
        Dataset::Cifar100 => (vec![0.5071, 0.4865, 0.4409], vec![0.2673, 0.2564, 0.2762]),
        Dataset::ImageFolder if channels == 1 => (vec![0.449], vec![0.226]),
        Dataset::ImageFolder => (vec![0.485, 0.456, 0.406], vec![0.229, 0.224, 0.225]),
    }
}
