//! What a generation gives.

use std::path::Path;

use crate::error::Result;
use crate::event::Picture;
use crate::io::image;

impl Picture {
    /// Writes it to `path` as PNG, with its `parameters`; what is there is replaced, and never half.
    ///
    /// # Errors
    /// [`Error::File`](crate::Error::File) if it cannot be written; [`Error::Usage`](crate::Error::Usage) if it has no pixels,
    /// because they stay on the device as a texture.
    pub fn write_png(&self, path: impl AsRef<Path>) -> Result<()> {
        let (width, height, rgb) = (self.width, self.height, self.rgb.clone());
        image::write_png(path, &image::Picture { width, height, rgb }, &[("parameters", &self.parameters)])
    }
}

/// Result of a generation.
#[derive(Clone, Debug)]
pub struct Generated {
    /// Images, prompt by prompt. Without pixels if they stay on the device as textures ([`Engine::start_generate`]).
    ///
    /// [`Engine::start_generate`]: crate::Engine::start_generate
    pub pictures: Vec<Picture>,
    /// Latents, if [`GenerateOptions::keep_latents`](crate::GenerateOptions::keep_latents) is set.
    pub latents: Option<Latents>,
}

/// Latents in PyTorch's layout, as diffusers' `output_type="latent"` gives them.
#[derive(Clone, Debug)]
pub struct Latents {
    /// Shape: `[images, 4, height / 8, width / 8]` for Stable Diffusion.
    pub shape: Vec<usize>,
    /// Latents after the last step.
    pub last: Vec<f32>,
    /// Latents after each step.
    pub steps: Vec<Vec<f32>>,
    /// Timesteps of the sampler, one per step.
    pub timesteps: Vec<f64>,
}
