//! Masks of inpainting: which pixels are made anew.

use std::path::Path;

use super::read::{Decoded, Picture};
use super::resample::Fit;
use crate::error::Result;

/// The pixels of an image that are made anew (white in a file) and those that are kept (black).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mask {
    /// Pixels across.
    pub width: usize,
    /// Pixels down.
    pub height: usize,
    /// Row by row: true where the pixel is made anew.
    pub anew: Vec<bool>,
}

impl Mask {
    /// A mask of `width` x `height` pixels; `anew` says of column x and row y whether the pixel is made anew.
    pub fn new(width: usize, height: usize, anew: impl Fn(usize, usize) -> bool) -> Mask {
        let pixels = (0..height).flat_map(|y| (0..width).map(move |x| (x, y)));
        Mask { width, height, anew: pixels.map(|(x, y)| anew(x, y)).collect() }
    }

    /// The mask that the image at `path` shows, brought to `size` (width and height) as the image that it belongs to is:
    /// resized, then gray, then cut in two at half, as diffusers' `VaeImageProcessor` does. Transparency counts as white.
    ///
    /// # Errors
    /// As [`Decoded::open`] and [`Decoded::resized`].
    pub fn open(path: impl AsRef<Path>, size: [usize; 2], fit: Fit) -> Result<Mask> {
        Ok(Mask::of(&Decoded::open(path)?.resized(size, fit)?))
    }

    /// The pixels of `image` that are at least half as bright as white.
    fn of(image: &Picture) -> Mask {
        let anew = image.rgb.chunks_exact(3).map(|rgb| gray([rgb[0], rgb[1], rgb[2]]) >= 128).collect();
        Mask { width: image.width, height: image.height, anew }
    }

    /// Share of the pixels that are made anew, 0 to 1.
    pub fn share(&self) -> f64 {
        self.anew.iter().filter(|anew| **anew).count() as f64 / self.anew.len().max(1) as f64
    }

    /// Zeroes what is made anew in `values`, the NHWC values of an image of the mask's size: gray, in [-1, 1].
    pub fn cut_out(&self, values: &mut [f32]) {
        let channels = values.len() / self.anew.len().max(1);
        let pixels = values.chunks_mut(channels.max(1)).zip(&self.anew);
        pixels.filter(|(_, anew)| **anew).for_each(|(pixel, _)| pixel.fill(0.0));
    }

    /// The mask for latents of `factor` pixels a side: 1 or 0 as the upper left pixel of each says, as PyTorch's
    /// `interpolate` takes the nearest.
    pub fn latent(&self, factor: usize) -> Vec<f32> {
        let rows = self.anew.chunks_exact(self.width.max(1)).step_by(factor).take(self.height / factor);
        let row = |row: &'_ [bool]| -> Vec<f32> {
            row.iter().step_by(factor).take(self.width / factor).map(|anew| f32::from(u8::from(*anew))).collect()
        };
        rows.flat_map(row).collect()
    }
}

/// Luma as Pillow's conversion to `L` rounds it (ITU-R 601-2).
fn gray([r, g, b]: [u8; 3]) -> u8 {
    ((u32::from(r) * 19595 + u32::from(g) * 38470 + u32::from(b) * 7471 + 0x8000) >> 16) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_white_is_made_anew() {
        let image = |rgb: [u8; 3]| Picture { width: 1, height: 1, rgb: rgb.to_vec() };
        for (rgb, anew) in [
            ([127; 3], false),
            ([128; 3], true),
            ([255, 0, 0], false),
            ([0, 255, 0], true),
            ([0, 217, 0], false),
            ([0, 218, 0], true),
        ] {
            assert_eq!(Mask::of(&image(rgb)).anew, [anew], "{rgb:?}");
        }
    }

    #[test]
    fn a_mask_of_latents_takes_the_upper_left_pixel() {
        let mask = Mask::new(5, 4, |x, y| (x, y) == (2, 0) || (x, y) == (1, 2) || x == 4);
        assert_eq!(mask.latent(2), [0.0, 1.0, 0.0, 0.0]);
        assert_eq!(mask.latent(1).iter().sum::<f32>(), 6.0);
        assert!((mask.share() - 0.3).abs() < 1e-9);
        let mut values: Vec<f32> = (0..40).map(|i| i as f32 + 1.0).collect();
        mask.cut_out(&mut values);
        let zeros: Vec<usize> = (0..40).filter(|&i| values[i] == 0.0).collect();
        assert_eq!(zeros, [4, 5, 8, 9, 18, 19, 22, 23, 28, 29, 38, 39]);
    }
}
