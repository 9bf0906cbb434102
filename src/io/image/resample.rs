//! Resizing and cropping in one go, as Pillow's `LANCZOS` filter and torchvision's crops do it.

use std::borrow::Cow;
use std::f64::consts::PI;
use std::ops::Range;

use crate::error::{Error, Result};

/// Position of a crop: the share of what is cut that is left of it and above it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Crop {
    /// 0: the left edge is kept, 1: the right one.
    pub x: f64,
    /// 0: the upper edge is kept, 1: the lower one.
    pub y: f64,
}

impl Crop {
    /// The middle.
    pub const CENTER: Crop = Crop { x: 0.5, y: 0.5 };
}

/// Way to resize an image to a given size.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fit {
    /// Scaled until it just covers the size, then cropped to it.
    Cover(Crop),
    /// Each side scaled by itself, as diffusers' `VaeImageProcessor.resize` does: nothing is left out.
    Stretch,
}

/// Width and height of a picture of `from` once it is scaled to cover `to`; cropping leaves `to` of it.
pub fn covering(from: [usize; 2], to: [usize; 2]) -> [usize; 2] {
    let ([w, h], [width, height]) = (from.map(|n| n as u128), to.map(|n| n as u128));
    // The side that has less to spare gets its exact size, the other one follows, rounded down as torchvision does.
    match width * h >= height * w {
        true => [to[0], (h * width / w.max(1)) as usize],
        false => [(w * height / h.max(1)) as usize, to[1]],
    }
}

/// Pixels that are cut left of and above an image of `from`, of the image scaled to cover `to`: left, top.
pub fn cut(from: [usize; 2], to: [usize; 2], crop: Crop) -> [usize; 2] {
    let [w, h] = covering(from, to);
    [offset(w, to[0], crop.x), offset(h, to[1], crop.y)]
}

/// Source rows that are looked at in one go.
const BAND: usize = 64;

/// Pixels (RGB) of the picture of `from` pixels whose rows `rows` gives, resized with Lanczos to `to` as `fit` says. It
/// asks for each row once, in order, and only for those that count; so a 20000x20 picture costs no more than a square one.
///
/// # Errors
/// [`Error::Usage`] when a side of `to` is zero or the crop is not within 0 to 1.
pub(super) fn resample<'a>(
    from: [usize; 2],
    to: [usize; 2],
    fit: Fit,
    rows: impl Fn(Range<usize>) -> Cow<'a, [u8]>,
) -> Result<Vec<u8>> {
    let ([w, h], [width, height]) = (from, to);
    let within = |share: f64| (0.0..=1.0).contains(&share);
    let crop = if let Fit::Cover(crop) = fit { crop } else { Crop::CENTER };
    if width == 0 || height == 0 || !within(crop.x) || !within(crop.y) {
        return Err(Error::argument(format!("cannot crop to {width}x{height} at {}, {}", crop.x, crop.y)));
    }
    let [full_width, full_height] = if fit == Fit::Stretch { to } else { covering(from, to) };
    let columns = taps(w, full_width.max(width), offset(full_width, width, crop.x), width);
    let lines = taps(h, full_height.max(height), offset(full_height, height, crop.y), height);

    // Pillow's order: across, rounded to bytes, then down.
    let first = lines.iter().map(|taps| taps.start).min().unwrap_or(0);
    let end = lines.iter().map(|taps| taps.start + taps.weights.len()).max().unwrap_or(0);
    let mut across = vec![0u8; (end - first) * width * 3];
    for (band, out) in across.chunks_mut(BAND * width * 3).enumerate() {
        let begin = first + band * BAND;
        let source = rows(begin..(begin + BAND).min(end));
        for (source, out) in source.chunks(w * 3).zip(out.chunks_mut(width * 3)) {
            for (taps, pixel) in columns.iter().zip(out.chunks_mut(3)) {
                for (channel, value) in pixel.iter_mut().enumerate() {
                    *value = taps.sum(|i| source[i * 3 + channel]);
                }
            }
        }
    }
    let mut rgb = vec![0u8; height * width * 3];
    for (taps, out) in lines.iter().zip(rgb.chunks_mut(width * 3)) {
        for (i, value) in out.iter_mut().enumerate() {
            *value = taps.sum(|row| across[(row - first) * width * 3 + i]);
        }
    }
    Ok(rgb)
}

/// Offset of a crop, rounded as torchvision's centre crop is.
fn offset(full: usize, kept: usize, share: f64) -> usize {
    (full.saturating_sub(kept) as f64 * share).round_ties_even() as usize
}

/// The source pixels of one destination pixel.
struct Taps {
    start: usize,
    weights: Vec<f32>,
}

impl Taps {
    fn sum(&self, value: impl Fn(usize) -> u8) -> u8 {
        let weighted = |(i, weight): (usize, &f32)| weight * f32::from(value(self.start + i));
        let sum: f32 = self.weights.iter().enumerate().map(weighted).sum();
        (sum + 0.5).clamp(0.0, 255.0) as u8
    }
}

/// Computes the filter of destination pixels `begin..begin + count` of `size` from `from` source pixels (Pillow,
/// `Resample.c`, `precompute_coeffs`). The filter widens with the reduction, which keeps a reduced image from aliasing.
fn taps(from: usize, size: usize, begin: usize, count: usize) -> Vec<Taps> {
    let scale = from as f64 / size as f64;
    let filter_scale = scale.max(1.0);
    let support = 3.0 * filter_scale;
    (begin..begin + count)
        .map(|i| {
            let center = (i as f64 + 0.5) * scale;
            let start = (center - support + 0.5).max(0.0) as usize;
            let end = ((center + support + 0.5) as usize).min(from);
            let weights: Vec<f64> = (start..end).map(|x| lanczos((x as f64 - center + 0.5) / filter_scale)).collect();
            let total: f64 = weights.iter().sum();
            Taps { start, weights: weights.iter().map(|w| (w / total) as f32).collect() }
        })
        .collect()
}

/// The Lanczos kernel with three lobes.
fn lanczos(x: f64) -> f64 {
    let sinc = |x: f64| if x == 0.0 { 1.0 } else { (PI * x).sin() / (PI * x) };
    if x.abs() < 3.0 { sinc(x) * sinc(x / 3.0) } else { 0.0 }
}
