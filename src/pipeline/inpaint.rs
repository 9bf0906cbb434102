//! Inpainting models: their UNet reads two things beside the noised latents, a mask and the latents of the image with the
//! mask cut out.

use super::Model;
use super::autoencode::{Posterior, VaeSession};
use crate::error::Result;
use crate::io::image::Mask;

/// An image with a mask cut out, as an inpainting model reads it.
#[derive(Clone, Debug, PartialEq)]
pub struct Masked {
    /// The mask by latent pixel: 1 is made anew, 0 is kept.
    pub mask: Vec<f32>,
    /// The latents of the image whose masked pixels are gray.
    pub posterior: Posterior,
}

impl Masked {
    /// Encodes the NHWC values `pixels` in [-1, 1] of an image of the size of `mask`.
    pub(crate) async fn encode(vae: &VaeSession, model: &Model, mask: &Mask, mut pixels: Vec<f32>) -> Result<Masked> {
        mask.cut_out(&mut pixels);
        Ok(Masked { mask: mask.latent(model.factor()), posterior: vae.encode(&pixels, model).await? })
    }

    /// Encodes an image of `width` x `height` pixels of which nothing is kept: the model then works from the prompt alone.
    pub(crate) async fn nothing(vae: &VaeSession, model: &Model, [width, height]: [usize; 2]) -> Result<Masked> {
        let pixels = vec![0.0; width * height * model.vae.in_channels];
        Masked::encode(vae, model, &Mask::new(width, height, |_, _| true), pixels).await
    }

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

impl Model {
    /// Whether it is an inpainting model.
    pub fn inpaints(&self) -> bool {
        self.unet.inpaints(self.vae.latent_channels)
    }

    /// Channels that the UNet reads beside the latents': those of [`Masked::extra`], or none.
    pub(crate) fn extra_channels(&self) -> usize {
        self.unet.in_channels.saturating_sub(self.vae.latent_channels)
    }
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
