//! Planning of a job that makes images with a model.

use std::sync::Arc;

use crate::base::DType;
use crate::error::Result;
use crate::nn::Mode;

use super::Model;
use super::denoise::{Extent, SamplingPlan};
use super::image_plans::{ImagePlans, ImageSpec};
use super::planning::Planning;
use super::text::TextSpec;

impl Model {
    /// Returns the plans of `spec`: those that were made last where they serve, else new ones.
    pub(crate) async fn image_plans(&self, spec: ImageSpec, planning: Planning<'_>) -> Result<Arc<ImagePlans>> {
        if let Some(known) = self.plans.find(&spec, planning) {
            return Ok(known);
        }
        let plans = Arc::new(self.plan_images(spec, planning).await?);
        self.plans.keep(&plans, planning);
        Ok(plans)
    }

    async fn plan_images(&self, spec: ImageSpec, planning: Planning<'_>) -> Result<ImagePlans> {
        let (size, settings) = (spec.size, self.settings(planning.caps, &spec.ranks));
        let texts = TextSpec {
            prompts: spec.prompts + usize::from(spec.negative),
            tokens: self.prompt_tokens(),
            clip_skip: spec.clip_skip,
            negative: spec.negative,
        };
        let text = self.plan_texts(&settings, planning, texts).await?;
        let encode = spec.encodes.then(|| self.plan_vae_encode(planning, 1, size)).transpose()?;
        planning.breathe().await;
        let (denoiser, params) = self.denoiser(settings.clone())?;
        let extent =
            Extent { batch: spec.batch, rescaled: spec.rescaled, ..self.extent(size, spec.guided, spec.slots) };
        let sampling = SamplingPlan::new(planning, &*denoiser, Mode::Inference, extent)?;
        planning.breathe().await;
        let decode = self.plan_vae_decode(planning, 1, size, true)?;
        planning.breathe().await;
        let latent = DType::F32.bytes(extent.elements()).next_multiple_of(256);
        let stores = [self.hidden_shape(self.prompt_tokens()).bytes(spec.prompts + 1), latent];
        Ok(ImagePlans { spec, text, encode, denoiser, params, sampling, decode, stores })
    }
}
