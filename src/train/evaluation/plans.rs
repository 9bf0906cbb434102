//! Plans of evaluations: predictions and images from the training's own weights, and the encoder of the photos.

use crate::diffusion::default_steps_and_guidance;
use crate::error::Result;
use crate::evaluate::Vision;
use crate::graph::Plan;
use crate::pipeline::planning::{Part, Planning};
use crate::pipeline::{Model, SamplingOptions};

use super::super::TrainOptions;
use super::super::samples::SamplePlans;
use super::predictions::PredictionPlan;

/// Sampler steps of an image, at most.
const STEPS: usize = 8;

/// Plans of a run's evaluations.
pub(in crate::low_level::train) struct EvaluationPlans {
    pub(super) predictions: PredictionPlan,
    pub(in crate::low_level::train) images: SamplePlans,
    /// Encoder of photos at the size of the images, if none of the training's own takes that size.
    pub(in crate::low_level::train) encode: Option<Part>,
    /// Bytes of vision models while they judge images, and FLOPs of one image.
    judging: [u64; 2],
    /// Width and height of photos and images in pixels.
    pub(in crate::low_level::train) size: [usize; 2],
}

impl EvaluationPlans {
    /// Plans the evaluations of `job`, if it asks for any; its training encodes images of the widths and heights `sizes`.
    ///
    /// # Errors
    /// [`Error::Limit`](crate::Error::Limit) if a part does not fit the adapter, [`Error::File`](crate::Error::File) for a
    /// folder without the vision model that its option wants.
    pub(in crate::low_level::train) async fn new(
        job: &TrainOptions,
        model: &Model,
        sizes: &[[usize; 2]],
        planning: Planning<'_>,
    ) -> Result<Option<EvaluationPlans>> {
        if job.evaluates_every().is_none() {
            return Ok(None);
        }
        let size = [job.side(model)?; 2];
        let usual = default_steps_and_guidance(&model.schedule, None, model.family.guidance).0;
        let options = SamplingOptions { steps: Some(usual.min(STEPS)), ..SamplingOptions::default() };
        let images = model.plan_preview(job, planning, size, &options).await?;
        planning.breathe().await;
        let predictions = PredictionPlan::new(job, model, planning, size)?;
        planning.breathe().await;
        let encode = (!sizes.contains(&size)).then(|| model.plan_vae_encode(planning, 1, size)).transpose()?;
        planning.breathe().await;
        let judging = Vision::open(job.vision.as_deref(), job.clip.as_deref())?.cost(planning)?;
        planning.breathe().await;
        Ok(Some(EvaluationPlans { predictions, images, encode, judging, size }))
    }

    /// Bytes of inputs, uniforms and decoding; the training's own weights and working memory serve for the rest.
    pub(in crate::low_level::train) fn bytes(&self) -> u64 {
        self.plans().map(|plan| plan.input_bytes + plan.uniform_bytes).sum::<u64>() + self.bytes_apart()
    }

    /// Bytes of the memory of their own in which images are decoded, then judged.
    pub(in crate::low_level::train) fn bytes_apart(&self) -> u64 {
        self.images.bytes_apart().max(self.judging[0])
    }

    /// FLOPs of an image with what judges it.
    pub(super) fn image_flops(&self) -> u64 {
        self.images.image_flops() + self.judging[1]
    }

    /// Plans that run on the training's own weights, in its pool.
    pub(in crate::low_level::train) fn plans(&self) -> impl Iterator<Item = &Plan> {
        std::iter::once(&*self.predictions.plan).chain(self.images.plans())
    }
}
