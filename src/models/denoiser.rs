//! The network between noise and image, as samplers and training steps see it, and the latents that it works on.

use super::conditioning::Conditioning;
use super::unet::{KeyValue, Sample, UNet};
use super::{UnetConfig, VaeConfig};
use crate::error::Result;
use crate::graph::{Graph, Tensor};
use crate::nn::Scope;

/// Latents of an autoencoder.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LatentSpec {
    /// Channels.
    pub channels: usize,
    /// Image pixels per side of one latent pixel.
    pub factor: usize,
    /// Factor that brings encoded values to about unit variance.
    pub scaling_factor: f64,
}

impl LatentSpec {
    /// Returns `[height, width]` of the latent of an image of `[width, height]` pixels.
    pub fn size(&self, [width, height]: [usize; 2]) -> [usize; 2] {
        [height / self.factor, width / self.factor]
    }
}

impl VaeConfig {
    /// Returns the latents that it encodes images to.
    pub fn latent(&self) -> LatentSpec {
        let VaeConfig { latent_channels: channels, scaling_factor, .. } = *self;
        LatentSpec { channels, factor: self.factor(), scaling_factor }
    }
}

/// Network that predicts noise, velocity or image from noised latents. A family whose denoiser is no UNet implements this;
/// sampling and training know no more of it.
pub trait Denoiser: std::fmt::Debug + Send + Sync {
    /// Records the prediction `[n, h, w, c]` for `sample` at `timestep [n]` (f32).
    ///
    /// # Errors
    /// [`Error::Op`](crate::Error::Op) if shapes do not fit the configuration, or the conditioning lacks what the network
    /// reads.
    fn predict(
        &self,
        g: &mut Graph,
        sample: Sample,
        timestep: Tensor,
        conditioning: Conditioning<'_>,
    ) -> Result<Tensor>;

    /// Records what depends on the prompts' states `hidden [n, tokens, width]` alone: it does not change while an image is
    /// sampled.
    ///
    /// # Errors
    /// [`Error::Op`](crate::Error::Op) if the width is not the network's.
    fn context(&self, g: &mut Graph, hidden: Tensor) -> Result<Vec<KeyValue>>;

    /// Records [`Denoiser::context`] and leaves the result in the store, for plans that read it by
    /// [`Denoiser::stored_context`].
    ///
    /// # Errors
    /// As [`Denoiser::context`].
    fn store_context(&self, g: &mut Graph, hidden: Tensor) -> Result<()> {
        let (n, tokens) = (g.shape(hidden)[0], g.shape(hidden)[1]);
        let stored = self.stored_context(g, n, tokens)?;
        for (from, to) in self.context(g, hidden)?.into_iter().zip(stored) {
            g.assign(to.key.tensor, from.key.tensor)?;
            if to.value.tensor != to.key.tensor {
                g.assign(to.value.tensor, from.value.tensor)?;
            }
        }
        Ok(())
    }

    /// Returns what [`Denoiser::store_context`] left for `n` prompts of `tokens` tokens.
    ///
    /// # Errors
    /// [`Error::Op`](crate::Error::Op) if the graph holds other tensors under its keys.
    fn stored_context(&self, g: &mut Graph, n: usize, tokens: usize) -> Result<Vec<KeyValue>>;

    /// Returns keys and bytes of what [`Denoiser::store_context`] writes, for [`Store::allocate`](crate::gpu::Store::allocate).
    fn context_tensors(&self, n: usize, tokens: usize) -> Vec<(String, u64)>;
}

impl UnetConfig {
    /// Builds the network over `scope`, whose settings say for what.
    ///
    /// # Errors
    /// As [`UNet::new`].
    pub fn denoiser(&self, scope: &Scope) -> Result<Box<dyn Denoiser>> {
        Ok(Box::new(UNet::new(scope, self.clone())?))
    }
}

impl Denoiser for UNet {
    fn predict(
        &self,
        g: &mut Graph,
        sample: Sample,
        timestep: Tensor,
        conditioning: Conditioning<'_>,
    ) -> Result<Tensor> {
        self.forward(g, sample, timestep, conditioning)
    }

    fn context(&self, g: &mut Graph, hidden: Tensor) -> Result<Vec<KeyValue>> {
        UNet::context(self, g, hidden)
    }

    fn stored_context(&self, g: &mut Graph, n: usize, tokens: usize) -> Result<Vec<KeyValue>> {
        UNet::stored_context(self, g, n, tokens)
    }

    fn context_tensors(&self, n: usize, tokens: usize) -> Vec<(String, u64)> {
        UNet::context_tensors(self, n, tokens)
    }
}
