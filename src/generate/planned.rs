//! A generation as it is planned: what its report counts is what its run runs.

use std::sync::Arc;

use crate::error::{Message, Result, message, option};
use crate::event::Listener;
use crate::pipeline::Model;
use crate::pipeline::image_plans::{ImagePlans, ImageSpec};
use crate::pipeline::kernel_texts::KernelTexts;
use crate::pipeline::memory::{Memory, Phase, PlanReport, Way, within};
use crate::pipeline::planning::Planning;
use crate::pipeline::prompt::without_tags;
use crate::pipeline::recipe::Recipe;

use super::GenerateOptions;

/// The sampler, the size and the plans of a job with an open model.
pub(crate) struct Planned {
    pub recipe: Recipe,
    /// Width and height in pixels.
    pub size: [usize; 2],
    pub plans: Arc<ImagePlans>,
}

impl Planned {
    /// Plans `job` for `model`; `listener` hears what is remarkable in the size.
    ///
    /// # Errors
    /// As [`Engine::generate`](crate::Engine::generate), as far as they are known before it runs.
    pub async fn new(
        job: &GenerateOptions,
        model: &Model,
        planning: Planning<'_>,
        listener: Listener<'_>,
    ) -> Result<Planned> {
        model.check_reads(job.reads())?;
        model.check_prompts(job.prompts.iter().chain([&job.sampling.negative]))?;
        let recipe = model.recipe(&job.sampling, job.model.prediction, job.start_strength(model))?;
        let size = job.picture_size(model, listener)?;
        let plans = model.image_plans(spec(job, model, &recipe, size), planning).await?;
        let planned = Planned { recipe, size, plans };
        within(job.model.memory, &planned.plans.memory(job.images()), |largest| smaller(job, model, largest))?;
        Ok(planned)
    }

    /// The report, with `notes` of the model in front of the job's own, and the kernels.
    ///
    /// # Errors
    /// When a kernel's text cannot be made.
    pub fn report(
        &self,
        job: &GenerateOptions,
        model: &Model,
        mut notes: Vec<Message>,
    ) -> Result<(PlanReport, KernelTexts)> {
        let Planned { recipe, size: [width, height], plans } = self;
        let Memory { rows, peak: peak_bytes, .. } = plans.memory(job.images());
        notes.push("the parts run in turn: the peak is the largest of them beside working memory and staging".into());
        let (steps, kind) = (recipe.trajectory.steps.len(), recipe.trajectory.kind.name());
        let together = match job.together() {
            1 => String::new(),
            batch => format!(", {batch} images together"),
        };
        notes.push(format!("{steps} steps of {kind}, {width}x{height}{together}").into());
        notes.extend(self.remarks(job, model));
        let texts = KernelTexts::of(plans.plans())?;
        let report = PlanReport {
            rows,
            peak_bytes,
            kept_bytes: plans.kept_bytes(job.images()),
            dispatches: plans.sampling.step.dispatch_count(),
            flops: plans.sampling.step.total_flops(),
            kernels: texts.count(),
            kernel_bytes: texts.bytes(),
            notes,
        };
        Ok((report, texts))
    }

    /// What is to be said of the sampler's timesteps, and of options that do nothing.
    pub fn remarks(&self, job: &GenerateOptions, model: &Model) -> Vec<Message> {
        let schedule = self.recipe.trajectory.notes.iter().map(|note| note.as_str().into());
        schedule.chain(job.idle_options(model)).collect()
    }
}

/// Whether the negative prompt is encoded: an empty one may stand for zeros.
pub(super) fn encodes_negative(job: &GenerateOptions, model: &Model) -> bool {
    !(model.zeros && without_tags(&job.sampling.negative).0.is_empty())
}

/// What decides the plans of a job's images of `size`, width and height in pixels.
fn spec(job: &GenerateOptions, model: &Model, recipe: &Recipe, size: [usize; 2]) -> ImageSpec {
    ImageSpec {
        prompts: job.prompts.len(),
        negative: recipe.guided() && encodes_negative(job, model),
        clip_skip: job.sampling.clip_skip,
        size,
        batch: job.together(),
        guided: recipe.guided(),
        rescaled: recipe.rescale > 0.0,
        slots: recipe.trajectory.slots,
        encodes: job.init.is_some() || model.inpaints(),
        ranks: model.ranks(),
    }
}

/// Ways in which `largest`, the largest phase of a job, would take less memory.
fn smaller(job: &GenerateOptions, model: &Model, largest: &Phase) -> Vec<Way> {
    let mut ways: Vec<Way> = Vec::new();
    if let Some(dtype) = model.weight_type().smaller().filter(|_| !largest.is_autoencoder()) {
        ways.push((largest.weights, option("dtype") + format!(" {dtype}").as_str()));
    }
    let images = if largest.is_text() { 0 } else { largest.working() };
    if job.together() > 1 && !largest.is_text() && !largest.is_autoencoder() {
        ways.push((images, message!["a smaller ", option("batch")]));
    }
    ways.push((images, "smaller images".into()));
    let fewer = if largest.is_text() { "fewer prompts" } else { "fewer images" };
    ways.push((if job.images() > 1 { largest.beside } else { 0 }, fewer.into()));
    ways
}
