//! Pillow's resampling filters (`Resample.c`), with its own rounding.

use std::f64::consts::PI;
use std::ops::Range;

/// Bits behind the point of a weight. Pillow's: a sum of weighted bytes then fits 32 bits.
const BITS: u32 = 32 - 8 - 2;

/// Resampling filter of Pillow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filter {
    /// The nearest pixel.
    Nearest,
    /// Lanczos with three lobes.
    Lanczos,
    /// Linear interpolation.
    Bilinear,
    /// Cubic interpolation with a = -0.5.
    Bicubic,
    /// Mean of the pixels below.
    Box,
    /// Hamming window of one lobe.
    Hamming,
}

impl Filter {
    /// Returns the filter of this number in `PIL.Image.Resampling`, 0 to 5.
    pub fn from_pillow(number: u64) -> Option<Filter> {
        use Filter as F;
        [F::Nearest, F::Lanczos, F::Bilinear, F::Bicubic, F::Box, F::Hamming]
            .get(usize::try_from(number).ok()?)
            .copied()
    }

    /// Distance from its middle at which it ends.
    fn support(self) -> f64 {
        match self {
            Filter::Nearest | Filter::Box => 0.5,
            Filter::Bilinear | Filter::Hamming => 1.0,
            Filter::Bicubic => 2.0,
            Filter::Lanczos => 3.0,
        }
    }

    fn value(self, x: f64) -> f64 {
        let sinc = |x: f64| if x == 0.0 { 1.0 } else { (PI * x).sin() / (PI * x) };
        match self {
            Filter::Nearest | Filter::Box => f64::from(u8::from(x > -0.5 && x <= 0.5)),
            Filter::Bilinear => (1.0 - x.abs()).max(0.0),
            Filter::Hamming if x.abs() >= 1.0 => 0.0,
            // Pillow's constants are single precision.
            Filter::Hamming => sinc(x) * (f64::from(0.54f32) + f64::from(0.46f32) * (PI * x).cos()),
            Filter::Bicubic => bicubic(x.abs(), -0.5),
            Filter::Lanczos if x.abs() >= 3.0 => 0.0,
            Filter::Lanczos => sinc(x) * sinc(x / 3.0),
        }
    }

    /// Weights of the source pixels of the destination pixels `some` of `size`, from `from` source pixels: the first one's
    /// index and one weight each, with sum 1 (`precompute_coeffs`). The filter widens with the reduction, which keeps a
    /// reduced image from aliasing. Not for [`Filter::Nearest`], which weighs nothing.
    pub fn weights(self, from: usize, size: usize, some: Range<usize>) -> impl Iterator<Item = (usize, Vec<f64>)> {
        let scale = from as f64 / size as f64;
        let filter_scale = scale.max(1.0);
        let (support, shrink) = (self.support() * filter_scale, 1.0 / filter_scale);
        some.map(move |i| {
            let center = (i as f64 + 0.5) * scale;
            let start = (center - support + 0.5).max(0.0) as usize;
            let end = ((center + support + 0.5) as usize).min(from);
            let mut weights: Vec<f64> = (start..end).map(|x| self.value((x as f64 - center + 0.5) * shrink)).collect();
            let total: f64 = weights.iter().sum();
            if total != 0.0 {
                weights.iter_mut().for_each(|weight| *weight /= total);
            }
            (start, weights)
        })
    }

    /// Taps of destination pixels `begin..begin + count` of `size`, from `from` source pixels.
    pub(super) fn taps(self, from: usize, size: usize, begin: usize, count: usize) -> Vec<Taps> {
        if self == Filter::Nearest {
            return nearest(from, size).skip(begin).take(count).collect();
        }
        let fixed = |weight: f64| (weight * f64::from(1u32 << BITS) + 0.5f64.copysign(weight)) as i32;
        let rounded =
            |(start, weights): (usize, Vec<f64>)| Taps { start, weights: weights.into_iter().map(fixed).collect() };
        self.weights(from, size, begin..begin + count).map(rounded).collect()
    }
}

/// Keys' cubic (1981, `Cubic convolution interpolation for digital image processing`) at distance `x`.
fn bicubic(x: f64, a: f64) -> f64 {
    match x {
        x if x < 1.0 => ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0,
        x if x < 2.0 => (((x - 5.0) * x + 8.0) * x - 4.0) * a,
        _ => 0.0,
    }
}

/// The nearest source pixel of each destination pixel, its place added up step by step as `ImagingScaleAffine` does.
fn nearest(from: usize, size: usize) -> impl Iterator<Item = Taps> {
    let step = from as f64 / size as f64;
    let places = std::iter::successors(Some(step * 0.5), move |at| Some(at + step));
    places.take(size).map(move |at| Taps { start: (at as usize).min(from.saturating_sub(1)), weights: vec![1 << BITS] })
}

/// The source pixels of one destination pixel.
pub(super) struct Taps {
    pub start: usize,
    pub weights: Vec<i32>,
}

impl Taps {
    /// Index behind the last source pixel.
    pub fn end(&self) -> usize {
        self.start + self.weights.len()
    }

    /// Weighted sum of source values as a byte.
    pub fn sum(&self, value: impl Fn(usize) -> u8) -> u8 {
        let weighted = |(i, weight): (usize, &i32)| weight * i32::from(value(self.start + i));
        byte(self.weights.iter().enumerate().map(weighted).sum())
    }

    /// Weight of the source value at `index`, if it counts.
    pub fn weight(&self, index: usize) -> Option<i32> {
        self.weights.get(index.checked_sub(self.start)?).copied()
    }
}

/// A sum of weighted bytes, rounded and clamped to a byte.
pub(super) fn byte(sum: i32) -> u8 {
    ((sum + (1 << (BITS - 1))) >> BITS).clamp(0, 255) as u8
}
