//! `plan`: memory, FLOPs and dispatches of a job, without a GPU.

use crate::error::Result;
use crate::event::Flow;
use crate::gpu::{Caps, Variants};
use crate::job::{GenerateJob, TrainJob};
use crate::models::UNet;
use crate::nn::{Mode, Param, Scope, Settings};

use super::Model;
use super::encode::Planning;
use super::generate::Recipe;
use super::sample::{Extent, SamplingPlan};
use super::train::plan_training;

/// What a job takes.
#[derive(Clone, Debug, Default)]
pub struct PlanReport {
    /// What takes how many bytes.
    pub rows: Vec<(String, u64)>,
    /// Bytes alive at once, at most.
    pub peak_bytes: u64,
    /// Dispatches of a step.
    pub dispatches: usize,
    /// FLOPs of a step.
    pub flops: u64,
    /// What else is worth knowing.
    pub notes: Vec<String>,
}

fn bytes(params: &[Param]) -> u64 {
    params.iter().map(|p| p.bytes().next_multiple_of(256)).sum()
}

/// The plan of a `generate` job on an adapter with `caps`.
pub fn plan_generate(job: &GenerateJob, caps: &Caps) -> Result<PlanReport> {
    let mut silent = |_| Flow::Continue;
    let model = Model::open(&job.model, &job.loras, &mut silent)?;
    let planning = Planning { caps, variants: &Variants::default() };
    let recipe = Recipe::new(&model, &job.sampling, job.model.prediction, job.init.as_ref().map(|_| job.strength))?;
    let [width, height] = model.size(job.sampling.width, job.sampling.height)?;
    let tokens = model.tokenizer.length();
    let text = model.plan_text(planning, (job.prompts.len() + 1).min(8), tokens)?;
    let scope = Scope::new("unet", Settings { dtype: model.dtype(caps), ..Settings::default() });
    let unet = UNet::new(&scope, model.unet.clone())?;
    let extent = Extent {
        size: [height / model.factor(), width / model.factor()],
        channels: model.unet.in_channels,
        tokens,
        width: model.context_width(),
        guided: recipe.guided(),
        slots: recipe.trajectory.slots,
    };
    let sampling = SamplingPlan::new(planning, &unet, Mode::Inference, extent)?;
    let vae = model.plan_vae_decode(planning, 1, [width, height])?;
    let stored = sampling.step.stored_bytes().saturating_sub(bytes(&scope.params()));
    let rows = vec![
        ("text encoder weights".to_string(), bytes(&text.params)),
        ("text encoder working memory".to_string(), text.plan.working_bytes()),
        ("UNet weights".to_string(), bytes(&scope.params())),
        ("UNet working memory".to_string(), sampling.step.working_bytes() + stored),
        ("VAE weights".to_string(), bytes(&vae.params)),
        ("VAE working memory".to_string(), vae.plan.working_bytes()),
    ];
    let peak_bytes = rows.chunks(2).map(|pair| pair.iter().map(|(_, b)| b).sum()).max().unwrap_or(0);
    Ok(PlanReport {
        rows,
        peak_bytes,
        dispatches: sampling.step.dispatch_count(),
        flops: sampling.step.total_flops(),
        notes: vec![
            "text encoder, UNet and VAE run in turn: the peak is the largest of the three".into(),
            format!("{} steps of {}", recipe.trajectory.steps.len(), recipe.trajectory.kind.name()),
        ],
    })
}

/// The plan of a `train` job on an adapter with `caps`.
pub fn plan_train(job: &TrainJob, caps: &Caps) -> Result<PlanReport> {
    let mut silent = |_| Flow::Continue;
    let model = Model::open(&job.model, &[], &mut silent)?;
    let planning = Planning { caps, variants: &Variants::default() };
    let side = job.resolution.unwrap_or(model.native_side());
    model.size(Some(side), None)?;
    let latent = [side / model.factor(), side / model.factor(), model.unet.in_channels];
    let samples = [job.batch, if job.class_prompt.is_some() { job.batch } else { 0 }];
    let setup = job.setup(&model, caps, samples, latent, model.tokenizer.length());
    let plan = plan_training(job, setup, planning)?;
    let rows = vec![
        ("weights".to_string(), bytes(&plan.params)),
        ("gradients and moments".to_string(), plan.optimizer_bytes() / 4 * 3),
        ("activations and working memory".to_string(), plan.first.working_bytes()),
    ];
    Ok(PlanReport {
        peak_bytes: rows.iter().map(|(_, b)| b).sum(),
        rows,
        dispatches: plan.first.dispatch_count(),
        flops: plan.first.total_flops() * job.accumulate as u64,
        notes: vec![format!("{} trained numbers", plan.trainable())],
    })
}
