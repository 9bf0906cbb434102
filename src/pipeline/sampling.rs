//! How a model samples: all defaults resolved, and the sizes of what is sampled.

use crate::diffusion::{Prediction, SamplerOptions, Trajectory, default_steps_and_guidance};
use crate::error::{Error, Result};

use super::denoise::Extent;
use super::recipe::Recipe;
use super::{Model, ModelOptions, SamplingOptions};

impl Model {
    /// Resolves `options`; `strength` is that of an image to image.
    pub(crate) fn recipe(
        &self,
        options: &SamplingOptions,
        prediction: Option<Prediction>,
        strength: Option<f64>,
    ) -> Result<Recipe> {
        self.check_clip_skip(options.clip_skip)?;
        let (steps, guidance) = default_steps_and_guidance(&self.schedule, options.sampler, self.family.guidance);
        let steps = options.steps.unwrap_or(steps);
        let guidance = options.guidance.unwrap_or(f64::from(guidance));
        let sampler = SamplerOptions {
            kind: options.sampler,
            spacing: options.spacing,
            karras: options.karras,
            prediction,
            original_steps: None,
        };
        let trajectory = match strength {
            Some(strength) => Trajectory::image_to_image(&self.schedule, &sampler, steps, strength)?,
            None => Trajectory::new(&self.schedule, &sampler, steps)?,
        };
        let rescale = options.guidance_rescale.unwrap_or(0.0);
        if !(0.0..=1.0).contains(&rescale) {
            return Err(Error::value("guidance_rescale", format!("{rescale:?}"), "must lie between 0 and 1"));
        }
        Ok(Recipe { trajectory, steps, guidance, rescale: if guidance > 1.0 { rescale } else { 0.0 } })
    }

    /// Sampling settings of the model's own scheduler configuration.
    pub(crate) fn usual_recipe(&self, options: &ModelOptions) -> Result<Recipe> {
        self.recipe(&Default::default(), options.prediction, None)
    }

    /// Size of what is sampled for one image of `size`, width and height in pixels, by a sampler of `slots` state slots.
    pub(crate) fn extent(&self, size: [usize; 2], guided: bool, slots: usize) -> Extent {
        let latent = self.vae.latent();
        Extent {
            batch: 1,
            latent,
            size: latent.size(size),
            extra: self.extra_channels(),
            tokens: self.prompt_tokens(),
            pooled: self.pooled_width(),
            width: self.context_width(),
            guided,
            rescaled: false,
            slots,
        }
    }
}
