//! Image files as pixels: decoded, cut, resized.

use super::DataError;
use fast_image_resize::images::{CroppedImage, Image, ImageRef};
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};
use image::error::UnsupportedErrorKind;
use image::{DynamicImage, ImageError, ImageFormat};
use std::fs::File;
use std::io::{Cursor, Read};
use std::path::{Path, PathBuf};

/// A scan may end with so many zeros; more of them fill up what was never written.
const FEW: usize = 4;

/// How the bytes of a JPEG end.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Ending {
    /// With the marker of the end. What begins like no JPEG counts as this too, and is left to the decoder to refuse.
    Marked,
    /// In a scan that can be the last one, without a marker behind it: the scan's data go on to this byte at most.
    Open(usize),
    /// Before what could be the last scan, or in one that does not tell: of several that refine each other, or of intervals
    /// between which the decoder begins anew.
    Cut,
}

fn ending(bytes: &[u8]) -> Ending {
    // Behind the marker of the beginning stand segments: 0xFF, a marker, a length that counts itself. What follows a
    // start of scan has no length: in it 0xFF is followed by 0 or by a restart marker, else the next segment begins.
    const END: u8 = 0xD9;
    const SCAN: u8 = 0xDA;
    const RESTARTS: u8 = 0xDD;
    // Frames whose scans each hold whole blocks of the components that they name (baseline, extended sequential).
    const SEQUENTIAL: [u8; 2] = [0xC0, 0xC1];
    let mut at = 2;
    // Components of a sequential frame that no scan has named so far.
    let mut missing = None;
    let mut restarts = false;
    loop {
        let Some(&marker) = bytes.get(at + 1) else { return Ending::Cut };
        match (bytes[at], marker) {
            (0xFF, END) => return Ending::Marked,
            // Fill bytes.
            (0xFF, 0xFF) => at += 1,
            (0xFF, _) => {
                let Some(length) = bytes.get(at + 2..at + 4) else { return Ending::Cut };
                let length = usize::from(u16::from_be_bytes([length[0], length[1]])).max(2);
                let segment = bytes.get(at + 4..at + 2 + length).unwrap_or_default();
                if SEQUENTIAL.contains(&marker) {
                    missing = segment.get(5).map(|&components| usize::from(components));
                }
                restarts |= marker == RESTARTS && segment != [0, 0];
                at += 2 + length;
                if marker == SCAN {
                    missing =
                        missing.map(|n| n.saturating_sub(segment.first().map_or(0, |&n| usize::from(n))));
                    let rest = bytes.get(at..).unwrap_or_default();
                    let ends = |pair: &[u8]| pair[0] == 0xFF && !matches!(pair[1], 0 | 0xD0..=0xD7);
                    match rest.windows(2).position(ends) {
                        Some(length) => at += length,
                        None if missing == Some(0) && !restarts => {
                            let zeros = rest.iter().rev().take_while(|&&b| b == 0).count();
                            let filled = if zeros > FEW { zeros } else { 0 };
                            return Ending::Open(bytes.len() - filled);
                        }
                        None => return Ending::Cut,
                    }
                }
            }
            // No segment where one has to be: the decoder says so.
            _ => return Ending::Marked,
        }
    }
}

/// Decodes a JPEG. The decoder makes something of what is not there, so that one that breaks off is refused here; one that
/// lacks nothing but the marker of its end is not.
fn jpeg(mut bytes: Vec<u8>) -> Result<DynamicImage, String> {
    let decode = |bytes: &[u8]| {
        image::load_from_memory_with_format(bytes, ImageFormat::Jpeg).map_err(|e| e.to_string())
    };
    let breaks_off = || "the JPEG breaks off before its end".to_string();
    match ending(&bytes) {
        Ending::Marked => decode(&bytes),
        Ending::Cut => Err(breaks_off()),
        Ending::Open(length) => {
            // The decoder does not say whether it came to the end of the pixels. Where it did, they do not depend on what
            // follows; else what follows is decoded in place of what is missing.
            bytes.truncate(length);
            if bytes.last() == Some(&0xFF) {
                // Half of a marker, which is none, or half of a byte of the scan, which is this one.
                bytes.push(0);
            }
            let length = bytes.len();
            let mut images = TAILS.iter().map(|&tail| {
                bytes.truncate(length);
                bytes.extend([tail; TAIL]);
                bytes.extend([0xFF, 0xD9]);
                decode(&bytes)
            });
            let first = images.next().ok_or_else(breaks_off)??;
            if images.all(|other| other.as_ref() == Ok(&first)) { Ok(first) } else { Err(breaks_off()) }
        }
    }
}

/// Bytes that are put behind a scan without an end, in turn: to a Huffman decoder they have nothing in common.
const TAILS: [u8; 4] = [0x00, 0x55, 0xAA, 0x33];

/// How many of them: more than the blocks of a few pixels take.
const TAIL: usize = 256;

/// So many bytes tell the format of a file.
const MAGIC: u64 = 64;

/// A rectangle of pixels: left, top, width, height.
pub(super) type Part = [u32; 4];

/// A decoded image: interleaved channels, row by row.
pub(super) struct Decoded {
    path: PathBuf,
    pixels: Vec<u8>,
    /// 1 or 3.
    channels: usize,
    /// Width and height.
    size: [u32; 2],
}

impl Decoded {
    /// Decodes a file to `channels` (1 or 3) channels; gray becomes RGB where three are wanted.
    pub(super) fn open(path: &Path, channels: usize) -> Result<Decoded, DataError> {
        let fail = |reason: String| unreadable(path, &reason);
        let unread = |e| DataError::io(path, e);
        let unknown = || fail("it is not of a format that is read: JPEG, PNG, BMP, GIF, WebP".to_string());
        // What is no image is not read to its end, which a device need not have; a pipe cannot be sought in.
        let (mut file, mut bytes) = (File::open(path).map_err(unread)?, Vec::new());
        file.by_ref().take(MAGIC).read_to_end(&mut bytes).map_err(unread)?;
        let format = image::guess_format(&bytes).map_err(|_| unknown())?;
        file.read_to_end(&mut bytes).map_err(unread)?;
        let decoded = if format == ImageFormat::Jpeg {
            jpeg(bytes).map_err(fail)?
        } else {
            let decoded = image::ImageReader::with_format(Cursor::new(bytes), format).decode();
            decoded.map_err(|e| match e {
                ImageError::Unsupported(e) if matches!(e.kind(), UnsupportedErrorKind::Format(_)) => {
                    unknown()
                }
                e => fail(e.to_string()),
            })?
        };
        let size = [decoded.width(), decoded.height()];
        if size.contains(&0) {
            return Err(fail("it has no pixels".to_string()));
        }
        let pixels =
            if channels == 1 { decoded.into_luma8().into_raw() } else { decoded.into_rgb8().into_raw() };
        Ok(Decoded { path: path.to_path_buf(), pixels, channels, size })
    }

    /// Width and height.
    pub(super) fn size(&self) -> [u32; 2] {
        self.size
    }

    /// The planes (channels, rows, columns) of a part of it that is resized to `width` × `height`, with an antialiasing
    /// triangle filter.
    pub(super) fn resized(
        &self,
        part: Part,
        [width, height]: [u32; 2],
        resizer: &mut Resizer,
        planes: &mut [u8],
    ) -> Result<(), DataError> {
        let whole = [0, 0, width, height];
        self.resized_part(part, [width, height], whole, resizer, planes)
    }

    /// The planes of the centre, `width` × `height`, of the image resized so that it just covers `covered`, no less than that.
    pub(super) fn centre(
        &self,
        [width, height]: [u32; 2],
        covered: [u32; 2],
        resizer: &mut Resizer,
        planes: &mut [u8],
    ) -> Result<(), DataError> {
        // Of a very long image only the middle can come into view; resizing all of it could need any amount of memory.
        let longest =
            |short: u32| u64::from(short) * 8 * u64::from(width.max(height)) / u64::from(width.min(height));
        let [w, h] = self.size;
        let (kept_w, kept_h) = (longest(h).min(u64::from(w)) as u32, longest(w).min(u64::from(h)) as u32);
        let part = [(w - kept_w) / 2, (h - kept_h) / 2, kept_w, kept_h];
        let (w, h) = (kept_w, kept_h);
        let [least_w, least_h] = covered;
        let scale = (f64::from(least_w) / f64::from(w)).max(f64::from(least_h) / f64::from(h));
        let scaled = |n: u32, least: u32| ((f64::from(n) * scale).round() as u32).max(least);
        let (w, h) = (scaled(w, least_w), scaled(h, least_h));
        let middle = [(w - width) / 2, (h - height) / 2, width, height];
        self.resized_part(part, [w, h], middle, resizer, planes)
    }

    /// Resizes `part` to `size`, and writes `kept` of that as planes.
    fn resized_part(
        &self,
        part: Part,
        size: [u32; 2],
        kept: Part,
        resizer: &mut Resizer,
        planes: &mut [u8],
    ) -> Result<(), DataError> {
        let fail = |reason: &dyn std::fmt::Display| unreadable(&self.path, &reason.to_string());
        let kind = if self.channels == 1 { PixelType::U8 } else { PixelType::U8x3 };
        let whole = ImageRef::new(self.size[0], self.size[1], &self.pixels, kind).map_err(|e| fail(&e))?;
        // A view of its own: with `ResizeOptions::crop` the filter would look over its border.
        let [left, top, width, height] = part;
        let from = CroppedImage::new(&whole, left, top, width, height).map_err(|e| fail(&e))?;
        let options = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(FilterType::Bilinear));
        let mut out = Image::new(size[0], size[1], kind);
        resizer.resize(&from, &mut out, &options).map_err(|e| fail(&e))?;
        let [left, top, width, height] = kept.map(|n| n as usize);
        let (pitch, area) = (size[0] as usize * self.channels, width * height);
        for (y, row) in out.buffer().chunks_exact(pitch).skip(top).take(height).enumerate() {
            let row = &row[left * self.channels..(left + width) * self.channels];
            for channel in 0..self.channels {
                let to = &mut planes[channel * area + y * width..][..width];
                to.iter_mut()
                    .zip(row.chunks_exact(self.channels))
                    .for_each(|(to, pixel)| *to = pixel[channel]);
            }
        }
        Ok(())
    }
}

fn unreadable(path: &Path, reason: &str) -> DataError {
    // Some decoders end their message with a line break.
    DataError::Image { path: path.to_path_buf(), reason: reason.trim().trim_end_matches('.').to_string() }
}

#[cfg(test)]
mod tests {
    use super::Decoded;
    use fast_image_resize::Resizer;
    use std::path::PathBuf;

    /// What the triangle filter makes of a part of an image, in f64 and without any rounding: along each axis, output i
    /// looks at (i + ½) · scale, with weights that fall to 0 at the distance of one pixel or, where it shrinks, of `scale`.
    fn exact(
        image: &Decoded,
        [left, top, w, h]: [u32; 4],
        [width, height]: [u32; 2],
        channel: usize,
    ) -> Vec<f64> {
        let weights = |from: u32, to: u32| -> Vec<Vec<f64>> {
            let scale = f64::from(from) / f64::from(to);
            let reach = scale.max(1.0);
            (0..to)
                .map(|i| {
                    let centre = (f64::from(i) + 0.5) * scale;
                    let weight = |j: u32| (1.0 - ((f64::from(j) + 0.5 - centre) / reach).abs()).max(0.0);
                    let all: f64 = (0..from).map(weight).sum();
                    (0..from).map(|j| weight(j) / all).collect()
                })
                .collect()
        };
        let (columns, rows) = (weights(w, width), weights(h, height));
        let pixel = |x: usize, y: usize| {
            let at = (top as usize + y) * image.size[0] as usize + left as usize + x;
            f64::from(image.pixels[at * image.channels + channel])
        };
        let mut out = Vec::new();
        for row in &rows {
            for column in &columns {
                let line = |y: usize| column.iter().enumerate().map(|(x, a)| a * pixel(x, y)).sum::<f64>();
                out.push(row.iter().enumerate().map(|(y, b)| b * line(y)).sum());
            }
        }
        out
    }

    fn noise(channels: usize, size: [u32; 2]) -> Decoded {
        let mut state = 9u32;
        let next = |_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        let pixels = (0..channels * (size[0] * size[1]) as usize).map(next).collect();
        Decoded { path: PathBuf::new(), pixels, channels, size }
    }

    /// Both passes round, so that a pixel may be a whole step off.
    #[test]
    #[expect(clippy::neg_cmp_op_on_partial_ord, reason = "a value that is not a number is wrong")]
    fn parts_are_resized_by_the_triangle_filter() {
        let mut resizer = Resizer::new();
        for channels in [1, 3] {
            let image = noise(channels, [37, 23]);
            for part in [[0, 0, 37, 23], [5, 3, 20, 11], [36, 22, 1, 1], [0, 4, 37, 1]] {
                for to in [[37, 23], [8, 9], [64, 50], [1, 1], [13, 40]] {
                    let area = (to[0] * to[1]) as usize;
                    let mut planes = vec![0u8; channels * area];
                    image.resized(part, to, &mut resizer, &mut planes).expect("it can be resized");
                    for (channel, plane) in planes.chunks(area).enumerate() {
                        let wanted = exact(&image, part, to, channel);
                        let off =
                            plane.iter().zip(&wanted).filter(|&(&x, y)| !((f64::from(x) - y).abs() <= 1.01));
                        assert_eq!(off.count(), 0, "{channels} {part:?} {to:?} {channel}");
                    }
                }
            }
        }
    }

    /// The centre is a part of the resized image.
    #[test]
    fn centres_are_cut_from_the_resized_image() {
        let (image, mut resizer) = (noise(3, [60, 40]), Resizer::new());
        let [width, height] = [16usize, 12];
        let mut planes = vec![0u8; 3 * width * height];
        image.centre([16, 12], [20, 15], &mut resizer, &mut planes).expect("it can be resized");
        // 60 × 40 covers 20 × 15 at a scale of 3/8.
        let all = [23usize, 15];
        let mut whole = vec![0u8; 3 * all[0] * all[1]];
        image.resized([0, 0, 60, 40], [23, 15], &mut resizer, &mut whole).expect("it can be resized");
        let (left, top) = (3, 1);
        for (channel, plane) in planes.chunks(width * height).enumerate() {
            for (y, row) in plane.chunks(width).enumerate() {
                let from = channel * all[0] * all[1] + (top + y) * all[0] + left;
                assert_eq!(row, &whole[from..from + width]);
            }
        }
    }
}
