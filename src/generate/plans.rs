//! What `portray plan` reports of a generation.

use crate::error::{Message, Result};
use crate::gpu::{Caps, Variants};
use crate::pipeline::Model;
use crate::pipeline::kernel_texts::KernelTexts;
use crate::pipeline::memory::{PlanReport, at_once};
use crate::pipeline::opening::{open_for_plan, told_of};
use crate::pipeline::planning::Planning;

use super::options::GenerateOptions;
use super::planned::Planned;

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
    let planning = Planning { caps, variants: &Variants::default(), gpu: None };
    let planned = at_once(Planned::new(job, model, planning, &mut |event| told_of(&mut notes, event)))?;
    planned.report(job, model, notes)
}
