//! Inpainting models: their UNet reads two things beside the noised latents, a mask and the latents of the image with the
//! mask cut out.

use super::Posterior;

/// An image with a mask cut out, as an inpainting model reads it.
#[derive(Clone, Debug, PartialEq)]
pub struct Masked {
    /// The mask by latent pixel: 1 is made anew, 0 is kept.
    pub mask: Vec<f32>,
    /// The latents of the image whose masked pixels are gray.
    pub posterior: Posterior,
}

impl Masked {
    /// The channels behind a noised latent's, NHWC: the mask, then `channels` channels of masked latents that are drawn by
    /// `noise` and scaled by `factor`.
    pub fn extra(&self, noise: &[f32], factor: f64, channels: usize) -> Vec<f32> {
        beside(&self.mask, &self.posterior.sample(noise, factor), channels)
    }
}

/// `mask` and `latents` (NHWC of `channels` channels) side by side, NHWC.
pub(crate) fn beside(mask: &[f32], latents: &[f32], channels: usize) -> Vec<f32> {
    let pixels = mask.iter().zip(latents.chunks_exact(channels.max(1)));
    pixels.flat_map(|(mask, latent)| std::iter::once(mask).chain(latent)).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mask_comes_before_the_masked_latents() {
        let posterior = Posterior { mean: vec![1.0, 2.0, 3.0, 4.0], std: vec![1.0; 4] };
        let masked = Masked { mask: vec![1.0, 0.0], posterior };
        assert_eq!(masked.extra(&[0.0, 1.0, 0.0, -1.0], 0.5, 2), [1.0, 0.5, 1.5, 0.0, 1.5, 1.5]);
    }
}
