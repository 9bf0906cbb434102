//! The plans of a `generate` job: what runs, and what `portray plan` reports.

use crate::base::DType;
use crate::error::{Message, Result, message, option};
use crate::gpu::{Caps, Variants};
use crate::graph::Plan;
use crate::models::UNet;
use crate::nn::{Mode, Param, Settings};
use crate::pipeline::Model;
use crate::pipeline::denoise::{Extent, SamplingPlan};
use crate::pipeline::kernel_texts::KernelTexts;
use crate::pipeline::memory::{
    Memory, Phase, PlanReport, at_once, bytes, hidden_bytes, in_turn, open_for_plan, pool, told_of, within,
};
use crate::pipeline::planning::{Part, Planning};
use crate::pipeline::recipe::Recipe;
use crate::pipeline::text::TextParts;

use super::options::GenerateOptions;

/// Every plan of a `generate` job.
pub(crate) struct GeneratePlans {
    pub text: TextParts,
    pub encode: Option<Part>,
    pub unet: UNet,
    pub params: Vec<Param>,
    pub sampling: SamplingPlan,
    pub decode: Part,
    /// Bytes of all prompts' hidden states, and of all pictures' latents.
    stores: [u64; 2],
}

impl GeneratePlans {
    pub(crate) async fn new(
        job: &GenerateOptions,
        model: &Model,
        recipe: &Recipe,
        planning: Planning<'_>,
        [width, height]: [usize; 2],
    ) -> Result<GeneratePlans> {
        let text = model.plan_texts(planning, job.prompts.len() + 1, model.tokenizer.length()).await?;
        let encode = job.init.as_ref().map(|_| model.plan_vae_encode(planning, 1, [width, height])).transpose()?;
        planning.breathe().await;
        let settings = Settings { dtype: model.dtype(planning.caps), ..Settings::default() };
        let (unet, params) = model.unet_part(settings)?;
        let extent = Extent::new(model, [width, height], recipe.guided(), recipe.trajectory.slots);
        let sampling = SamplingPlan::new(planning, &unet, Mode::Inference, extent)?;
        planning.breathe().await;
        let decode = model.plan_vae_decode(planning, 1, [width, height], true)?;
        planning.breathe().await;
        let latent = DType::F32.bytes(extent.elements()).next_multiple_of(256);
        let latents = (job.prompts.len() * job.count) as u64 * latent;
        let stores = [hidden_bytes(model, job.prompts.len() + 1), latents];
        let plans = GeneratePlans { text, encode, unet, params, sampling, decode, stores };
        let fewer = Message::from("try smaller or fewer pictures");
        let smaller = if model.eight_bits() { fewer } else { message![fewer, " or ", option("dtype"), " q8"] };
        within(job.model.memory, plans.memory().1, smaller)?;
        Ok(plans)
    }

    fn memory(&self) -> Memory {
        in_turn(&self.phases())
    }

    /// What they take where no weights go before the next job: those of all parts, instead of the largest part's.
    fn kept_bytes(&self) -> u64 {
        let phases = self.phases();
        let largest = phases.iter().map(Phase::alone).max().unwrap_or(0);
        let weights: u64 = phases.iter().map(|p| p.weights).sum();
        let beside = phases.iter().map(|p| p.beside).max().unwrap_or(0);
        self.memory().1 - largest + weights + beside
    }

    /// All of them, in the order in which they run.
    pub(crate) fn plans(&self) -> impl Iterator<Item = &Plan> {
        let encode = self.encode.iter().map(|part| &part.plan);
        self.text.plans().chain(encode).chain(self.sampling.plans()).chain([&self.decode.plan])
    }

    /// Chunks that serve all of them in turn.
    pub(crate) fn pool(&self) -> Vec<u64> {
        pool(self.phases().iter().map(|p| &p.arena))
    }

    fn phases(&self) -> Vec<Phase> {
        let weights = bytes(&self.params);
        let step = &self.sampling.step;
        let beside = self.sampling.plans().map(|p| p.input_bytes + p.uniform_bytes).sum::<u64>();
        let [hidden, latents] = self.stores;
        let mut phases = vec![Phase::part(&self.text.whole)];
        phases.extend(self.encode.as_ref().map(Phase::part));
        phases.iter_mut().for_each(|phase| phase.beside += hidden);
        phases.push(Phase {
            name: "UNet",
            weights,
            optimizer: 0,
            beside: beside + step.stored_bytes().saturating_sub(weights) + hidden + latents,
            arena: pool(self.sampling.plans().map(|p| &p.arena)),
        });
        let mut decode = Phase::part(&self.decode);
        decode.beside += latents;
        phases.push(decode);
        phases
    }
}

/// The plan of a `generate` job on an adapter with `caps`.
pub fn plan_generate(job: &GenerateOptions, caps: &Caps) -> Result<PlanReport> {
    generate_report(job, caps).map(|(report, _)| report)
}

/// The same, with the job's kernels.
pub(crate) fn generate_report(job: &GenerateOptions, caps: &Caps) -> Result<(PlanReport, KernelTexts)> {
    job.check()?;
    let (model, mut notes) = open_for_plan(&job.model, &job.loras, job.reads())?;
    model.check_prompts(job.prompts.iter().chain([&job.sampling.negative]))?;
    let planning = Planning { caps, variants: &Variants::default(), gpu: None };
    let recipe = Recipe::new(&model, &job.sampling, job.model.prediction, job.init.as_ref().map(|_| job.strength))?;
    let size = job.picture_size(&model, &mut |event| told_of(&mut notes, event))?;
    let plans = at_once(GeneratePlans::new(job, &model, &recipe, planning, size))?;
    let (rows, peak_bytes) = plans.memory();
    notes.push("the parts run in turn: the peak is the largest of them beside working memory and staging".into());
    let (steps, kind, [width, height]) = (recipe.trajectory.steps.len(), recipe.trajectory.kind.name(), size);
    notes.push(format!("{steps} steps of {kind}, {width}x{height}").into());
    notes.extend(recipe.trajectory.notes.iter().map(|note| note.as_str().into()).chain(job.idle_options()));
    let texts = KernelTexts::of(plans.plans())?;
    let report = PlanReport {
        rows,
        peak_bytes,
        kept_bytes: plans.kept_bytes(),
        dispatches: plans.sampling.step.dispatch_count(),
        flops: plans.sampling.step.total_flops(),
        kernels: texts.count(),
        kernel_bytes: texts.bytes(),
        notes,
    };
    Ok((report, texts))
}
