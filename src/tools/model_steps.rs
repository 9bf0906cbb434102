//! Plans of a model's whole steps, for timing.

use std::sync::Arc;

use crate::engine::Engine;
use crate::error::Result;
use crate::graph::Plan;
use crate::nn::{Mode, Ranks};
use crate::pipeline::Model;
use crate::pipeline::denoise::SamplingPlan;
use crate::train::TrainOptions;
use crate::train::plans::{plan_training, training_alone};

/// A guided UNet step at the model's own size, with adapters of `ranks`.
pub(super) fn unet_step(engine: &Engine, model: &Model, ranks: Ranks) -> Result<Arc<Plan>> {
    let (denoiser, _) = model.denoiser(model.settings(engine.gpu.caps(), &Arc::new(ranks)))?;
    let extent = model.extent([model.native_side(); 2], true, 1);
    Ok(SamplingPlan::new(engine.planning(), &*denoiser, Mode::Inference, extent)?.step)
}

/// A step of the training `job` at the model's own size: one image and one class image.
pub(super) async fn training_step(engine: &Engine, model: &Model, job: &TrainOptions) -> Result<Arc<Plan>> {
    let side = model.native_side() / model.factor();
    let latent = [side, side, model.vae.latent_channels];
    let setup = job.setup(model, engine.gpu.caps(), [1, 1], latent, model.prompt_tokens());
    Ok(plan_training(job, setup, engine.planning(), training_alone).await?.first.into())
}
