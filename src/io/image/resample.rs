//! Resizing and cropping in one go, as Pillow's `LANCZOS` filter and torchvision's crops do it.

use std::f64::consts::PI;

use super::Picture;
use crate::error::{Error, Result};

/// Which part of the resized picture is kept: the share of what is cut that lies left of it and above it.
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

impl Picture {
    /// Scaled with Lanczos until it just covers `width` x `height`, then cropped to it.
    ///
    /// Only the pixels that are kept are computed, so a 20000x20 picture costs no more than a square one.
    ///
    /// # Errors
    /// [`Error::Usage`] when `width` or `height` is zero or the crop is not within 0 to 1.
    pub fn cover(&self, width: usize, height: usize, crop: Crop) -> Result<Picture> {
        let within = |share: f64| (0.0..=1.0).contains(&share);
        if width == 0 || height == 0 || !within(crop.x) || !within(crop.y) {
            return Err(Error::Usage(format!("cannot crop to {width}x{height} at {}, {}", crop.x, crop.y)));
        }
        // The side that has less to spare gets its exact size, the other one follows, rounded down as torchvision does.
        let (w, h) = (self.width, self.height);
        let (full_width, full_height) = if width as u128 * h as u128 >= height as u128 * w as u128 {
            (width, (h as u128 * width as u128 / w as u128) as usize)
        } else {
            ((w as u128 * height as u128 / h as u128) as usize, height)
        };
        let columns = taps(w, full_width.max(width), offset(full_width, width, crop.x), width);
        let rows = taps(h, full_height.max(height), offset(full_height, height, crop.y), height);

        // Pillow's order: across, rounded to bytes, then down.
        let first = rows.iter().map(|taps| taps.start).min().unwrap_or(0);
        let end = rows.iter().map(|taps| taps.start + taps.weights.len()).max().unwrap_or(0);
        let mut across = vec![0u8; (end - first) * width * 3];
        for (source, out) in self.rgb.chunks(w * 3).skip(first).zip(across.chunks_mut(width * 3)) {
            for (taps, pixel) in columns.iter().zip(out.chunks_mut(3)) {
                for (channel, value) in pixel.iter_mut().enumerate() {
                    *value = taps.sum(|i| source[i * 3 + channel]);
                }
            }
        }
        let mut rgb = vec![0u8; height * width * 3];
        for (taps, out) in rows.iter().zip(rgb.chunks_mut(width * 3)) {
            for (i, value) in out.iter_mut().enumerate() {
                *value = taps.sum(|row| across[(row - first) * width * 3 + i]);
            }
        }
        Ok(Picture { width, height, rgb })
    }

    /// What the autoencoder takes: [`cover`](Self::cover)ed, mirrored if `flip`, as NHWC values in [-1, 1].
    ///
    /// # Errors
    /// As [`Picture::cover`].
    pub fn prepare(&self, width: usize, height: usize, crop: Crop, flip: bool) -> Result<Vec<f32>> {
        let mut picture = self.cover(width, height, crop)?;
        if flip {
            for row in picture.rgb.chunks_mut(width * 3) {
                let mirrored: Vec<u8> = row.chunks(3).rev().flatten().copied().collect();
                row.copy_from_slice(&mirrored);
            }
        }
        Ok(picture.rgb.iter().map(|&value| f32::from(value) / 127.5 - 1.0).collect())
    }

    /// The picture of NHWC `values` in [-1, 1], rounded as diffusers rounds.
    ///
    /// # Errors
    /// [`Error::Usage`] when their number is not `height * width * 3`, [`Error::Limit`] when one is NaN.
    pub fn from_unit(width: usize, height: usize, values: &[f32]) -> Result<Picture> {
        if values.len() != width * height * 3 {
            return Err(Error::Usage(format!("{} values are no {width}x{height} picture", values.len())));
        }
        if let Some(i) = values.iter().position(|v| v.is_nan()) {
            let message = "numbers on the way to it grew too large: try a lower --guidance, smaller LoRA scales, or another --sampler";
            return Err(Error::Limit(format!("the picture holds NaN (value {i}); {message}")));
        }
        let byte = |&v: &f32| ((v / 2.0 + 0.5).clamp(0.0, 1.0) * 255.0).round_ties_even() as u8;
        Ok(Picture { width, height, rgb: values.iter().map(byte).collect() })
    }
}

/// Where a crop begins, rounded as torchvision's centre crop is.
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

/// For destination pixels `begin..begin + count` of `size` `from` source pixels (Pillow, `Resample.c`,
/// `precompute_coeffs`): the filter widens with the reduction, which is what keeps a reduced picture from aliasing.
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
