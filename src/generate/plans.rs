//! Plans of a generation: what runs, and what `portray plan` reports.

use crate::error::{Message, Result, option};
use crate::gpu::{Caps, Variants};
use crate::pipeline::Model;
use crate::pipeline::image_plans::{ImagePlans, ImageSpec};
use crate::pipeline::kernel_texts::KernelTexts;
use crate::pipeline::memory::{Memory, Phase, PlanReport, Way, at_once, open_for_plan, told_of, within};
use crate::pipeline::planning::Planning;
use crate::pipeline::prompt::without_tags;
use crate::pipeline::recipe::Recipe;

use super::options::GenerateOptions;

/// Whether the negative prompt is encoded: an empty one may stand for zeros.
pub(super) fn encodes_negative(job: &GenerateOptions, model: &Model) -> bool {
    !(model.zeros && without_tags(&job.sampling.negative).0.is_empty())
}

/// What decides the plans of a job's images of `size`, width and height in pixels.
pub(super) fn image_spec(job: &GenerateOptions, model: &Model, recipe: &Recipe, size: [usize; 2]) -> ImageSpec {
    ImageSpec {
        prompts: job.prompts.len(),
        negative: recipe.guided() && encodes_negative(job, model),
        clip_skip: job.sampling.clip_skip,
        size,
        guided: recipe.guided(),
        rescaled: recipe.rescale > 0.0,
        slots: recipe.trajectory.slots,
        encodes: job.init.is_some() || model.inpaints(),
        ranks: model.ranks(),
    }
}

/// Refuses what takes more memory than the job may.
pub(super) fn check_memory(plans: &ImagePlans, job: &GenerateOptions, model: &Model) -> Result<()> {
    let ways = |largest: &Phase| {
        let mut ways: Vec<Way> = Vec::new();
        if let Some(dtype) = model.weight_type().smaller().filter(|_| !largest.is_autoencoder()) {
            ways.push((largest.weights, option("dtype") + format!(" {dtype}").as_str()));
        }
        let images = if largest.is_text() { 0 } else { largest.working() };
        ways.push((images, "smaller images".into()));
        let fewer = if largest.is_text() { "fewer prompts" } else { "fewer images" };
        ways.push((if job.images() > 1 { largest.beside } else { 0 }, fewer.into()));
        ways
    };
    within(job.model.memory, &plans.memory(job.images()), ways)
}

/// Plans a generation for an adapter with `caps`. Needs no GPU.
///
/// # Errors
/// Those of [`Engine::generate`](crate::Engine::generate) that are known before it runs.
pub fn plan_generate(job: &GenerateOptions, caps: &Caps) -> Result<PlanReport> {
    job.check()?;
    let (model, notes) = open_for_plan(&job.model, &job.loras, job.reads())?;
    let model = model.merging(job.merge);
    job.check_mask(&model)?;
    generate_report(job, caps, &model, notes).map(|(report, _)| report)
}

/// The plan of a job for which an inpainting model needs no mask yet: a page asks whether a model fits when it is loaded.
#[cfg_attr(not(feature = "web"), allow(dead_code, reason = "the page asks for it"))]
pub(crate) fn plan_without_mask(job: &GenerateOptions, caps: &Caps) -> Result<PlanReport> {
    job.check()?;
    let (model, notes) = open_for_plan(&job.model, &job.loras, job.reads())?;
    generate_report(job, caps, &model.merging(job.merge), notes).map(|(report, _)| report)
}

/// The plan of a job with an open model, which the job then runs; an inpainting model needs a mask where `masked`. `notes`
/// are what is said of the model.
#[cfg_attr(not(feature = "web"), allow(dead_code, reason = "the page asks for it"))]
pub(crate) fn plan_with(
    model: &Model,
    job: &GenerateOptions,
    caps: &Caps,
    masked: bool,
    notes: Vec<Message>,
) -> Result<PlanReport> {
    job.check()?;
    if masked {
        job.check_mask(model)?;
    }
    generate_report(job, caps, model, notes).map(|(report, _)| report)
}

/// The plan of `job` with an open model, and its kernels; `notes` are what is said of the model.
pub(crate) fn generate_report(
    job: &GenerateOptions,
    caps: &Caps,
    model: &Model,
    mut notes: Vec<Message>,
) -> Result<(PlanReport, KernelTexts)> {
    model.check_prompts(job.prompts.iter().chain([&job.sampling.negative]))?;
    let planning = Planning { caps, variants: &Variants::default(), gpu: None };
    let recipe = Recipe::new(model, &job.sampling, job.model.prediction, job.start_strength(model))?;
    let size = job.picture_size(model, &mut |event| told_of(&mut notes, event))?;
    let plans = at_once(image_spec(job, model, &recipe, size).plans(model, planning))?;
    check_memory(&plans, job, model)?;
    let Memory { rows, peak: peak_bytes, .. } = plans.memory(job.images());
    notes.push("the parts run in turn: the peak is the largest of them beside working memory and staging".into());
    let (steps, kind, [width, height]) = (recipe.trajectory.steps.len(), recipe.trajectory.kind.name(), size);
    notes.push(format!("{steps} steps of {kind}, {width}x{height}").into());
    notes.extend(recipe.trajectory.notes.iter().map(|note| note.as_str().into()).chain(job.idle_options(model)));
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
