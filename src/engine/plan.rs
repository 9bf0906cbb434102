//! `plan`: memory, FLOPs and dispatches of a job, without a GPU. The jobs themselves run what is planned here.

use std::task::{Context, Poll, Waker};

use crate::base::DType;
use crate::error::{Error, Result};
use crate::event::{Event, Flow};
use crate::gpu::{Caps, STAGING_BYTES, Variants};
use crate::graph::Plan;
use crate::job::{Checkpointing, GenerateJob, LoraArg, ModelOptions, TrainJob};
use crate::models::UNet;
use crate::nn::{Mode, Param, Settings};
use crate::train::{Setup, TrainPlan};

use super::Model;
use super::class_pictures::class_job;
use super::encode::{Part, Planning, TextParts};
use super::kernel_texts::KernelTexts;
use super::preview::SamplePlans;
use super::recipe::Recipe;
use super::sample::{Extent, SamplingPlan};
use super::tensors::Reads;
use super::training_set::TrainingSet;

/// What a training may take before `--checkpointing auto` recomputes activations where no `--memory` is given: it then
/// fits a GPU of 4 GB.
const MODEST_BYTES: u64 = 3_000_000_000;

/// What a job takes.
#[derive(Clone, Debug, Default)]
pub struct PlanReport {
    /// What takes how many bytes.
    pub rows: Vec<(String, u64)>,
    /// Bytes alive at once, at most.
    pub peak_bytes: u64,
    /// The same where the model keeps its weights ([`Model::keep_weights`]): of pictures; a training keeps none.
    pub kept_bytes: u64,
    /// Dispatches of a step.
    pub dispatches: usize,
    /// FLOPs of a step.
    pub flops: u64,
    /// Kernels of all phases, told apart by their texts: what a driver that knows none of them compiles.
    pub kernels: usize,
    /// Bytes of their WGSL.
    pub kernel_bytes: u64,
    /// What else is worth knowing.
    pub notes: Vec<String>,
}

/// A part of a job that runs while the others hold no memory but the shared pool.
struct Phase {
    name: &'static str,
    weights: u64,
    /// Gradients and moments.
    optimizer: u64,
    /// Inputs, uniforms, and what else is stored beside the weights.
    beside: u64,
    arena: Vec<u64>,
}

impl Phase {
    fn part(part: &Part) -> Phase {
        let beside = part.plan.input_bytes + part.plan.uniform_bytes;
        Phase { name: part.name, weights: bytes(&part.params), optimizer: 0, beside, arena: part.plan.arena.clone() }
    }

    /// Updates, and sampling between them.
    fn training(training: &TrainPlan, preview: Option<&SamplePlans>) -> Phase {
        let plans = || training.plans().chain(preview.into_iter().flat_map(SamplePlans::plans));
        Phase {
            name: "training",
            weights: bytes(&training.params),
            optimizer: training.optimizer_bytes(),
            beside: plans().map(|p| p.input_bytes + p.uniform_bytes).sum(),
            arena: pool(plans().map(|p| &p.arena)),
        }
    }

    fn alone(&self) -> u64 {
        self.weights + self.optimizer + self.beside
    }
}

/// What takes how many bytes, and how many are alive at once.
pub(crate) type Memory = (Vec<(String, u64)>, u64);

/// Refuses what takes more than `allowed`; `smaller` says what would make it take less.
fn within(allowed: Option<u64>, needed: u64, smaller: &str) -> Result<()> {
    match allowed.filter(|&allowed| needed > allowed) {
        None => Ok(()),
        Some(allowed) => {
            let megabytes = |bytes: u64| format!("{:.1} MB", bytes as f64 / 1e6);
            let (needed, allowed) = (megabytes(needed), megabytes(allowed));
            Err(Error::Limit(format!("the job takes {needed}, --memory allows {allowed}: {smaller}")))
        }
    }
}

/// Chunks of a pool that serves every one of `arenas` in turn.
fn pool<'a>(arenas: impl IntoIterator<Item = &'a Vec<u64>>) -> Vec<u64> {
    let mut chunks: Vec<u64> = Vec::new();
    for arena in arenas {
        chunks.resize(chunks.len().max(arena.len()), 0);
        chunks.iter_mut().zip(arena).for_each(|(chunk, &bytes)| *chunk = bytes.max(*chunk));
    }
    chunks
}

fn bytes(params: &[Param]) -> u64 {
    params.iter().map(|p| p.bytes().next_multiple_of(256)).sum()
}

/// Rows and peak of phases that run in turn in one pool.
fn in_turn(phases: &[Phase]) -> Memory {
    let pool: u64 = pool(phases.iter().map(|p| &p.arena)).iter().sum();
    let mut rows: Vec<(String, u64)> = Vec::new();
    for phase in phases {
        rows.push((format!("{}: weights", phase.name), phase.weights));
        if phase.optimizer > 0 {
            rows.push((format!("{}: gradients and moments", phase.name), phase.optimizer));
        }
        rows.push((format!("{}: inputs and state", phase.name), phase.beside));
    }
    let alone = phases.iter().map(Phase::alone).max().unwrap_or(0);
    let staging = STAGING_BYTES.min(phases.iter().map(|p| p.weights).max().unwrap_or(0));
    rows.push(("working memory, shared by all".into(), pool));
    rows.push(("staging".into(), staging));
    (rows, pool + alone + staging)
}

/// What `planning` gives, which waits for nothing where there is no device.
fn at_once<T>(planning: impl Future<Output = Result<T>>) -> Result<T> {
    match std::pin::pin!(planning).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(planned) => planned,
        Poll::Pending => Err(Error::op("plan", "waits for a device")),
    }
}

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

/// Bytes of the hidden states of `prompts` prompts.
fn hidden_bytes(model: &Model, prompts: usize) -> u64 {
    let each = DType::F32.bytes(model.tokenizer.length() * model.text.hidden_size);
    prompts as u64 * each.next_multiple_of(256)
}

impl GeneratePlans {
    pub(crate) async fn new(
        job: &GenerateJob,
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
        let smaller = if model.eight_bits() { "" } else { " or --dtype q8" };
        within(job.model.memory, plans.memory().1, &format!("try smaller or fewer pictures{smaller}"))?;
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

/// Keeps what a job says of its inputs, for a plan's notes.
fn told_of(told: &mut Vec<String>, event: Event) -> Flow {
    match event {
        Event::Note(text) => told.push(text),
        Event::Warning(text) => told.push(format!("warning: {text}")),
        _ => {}
    }
    Flow::Continue
}

/// Opens the model of a job that `reads` these parts, and gives what is to be said of it: nothing is computed for a plan.
fn open(options: &ModelOptions, loras: &[LoraArg], reads: Reads) -> Result<(Model, Vec<String>)> {
    let mut notes = Vec::new();
    let model = Model::open(options, loras, &mut |event| told_of(&mut notes, event))?;
    notes.extend(model.check_reads(reads)?);
    if !model.checkpoint.prediction_known() && options.prediction.is_none() {
        let name = model.checkpoint.name();
        notes.push(format!(
            "{name} does not say what it predicts: planned as for noise; a job looks at one prediction, or --prediction says it"
        ));
    }
    Ok((model, notes))
}

/// The plan of a `generate` job on an adapter with `caps`.
pub fn plan_generate(job: &GenerateJob, caps: &Caps) -> Result<PlanReport> {
    generate_report(job, caps).map(|(report, _)| report)
}

/// The same, with the job's kernels.
fn generate_report(job: &GenerateJob, caps: &Caps) -> Result<(PlanReport, KernelTexts)> {
    job.check()?;
    let (model, mut notes) = open(&job.model, &job.loras, job.reads())?;
    model.check_prompts(job.prompts.iter().chain([&job.sampling.negative]))?;
    let planning = Planning { caps, variants: &Variants::default(), gpu: None };
    let recipe = Recipe::new(&model, &job.sampling, job.model.prediction, job.init.as_ref().map(|_| job.strength))?;
    let size = job.picture_size(&model, &mut |event| told_of(&mut notes, event))?;
    let plans = at_once(GeneratePlans::new(job, &model, &recipe, planning, size))?;
    let (rows, peak_bytes) = plans.memory();
    notes.push("the parts run in turn: the peak is the largest of them beside working memory and staging".into());
    let (steps, kind, [width, height]) = (recipe.trajectory.steps.len(), recipe.trajectory.kind.name(), size);
    notes.push(format!("{steps} steps of {kind}, {width}x{height}"));
    notes.extend(recipe.trajectory.notes.iter().cloned().chain(job.idle_options()));
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

/// The plan of a job that then takes what `memory` says; with `--checkpointing auto` recomputation is turned on when that
/// asks for it.
pub(crate) async fn plan_training(
    job: &TrainJob,
    mut setup: Setup,
    planning: Planning<'_>,
    memory: impl Fn(&TrainPlan) -> Memory,
) -> Result<TrainPlan> {
    let allowed = job.model.memory;
    let mut plan = TrainPlan::new(&setup, planning.caps, planning.variants)?;
    planning.breathe().await;
    if job.checkpointing == Checkpointing::Auto && memory(&plan).1 > allowed.unwrap_or(MODEST_BYTES) {
        setup.checkpoint = true;
        plan = TrainPlan::new(&setup, planning.caps, planning.variants)?;
        planning.breathe().await;
    }
    within(allowed, memory(&plan).1, &job.smaller())?;
    Ok(plan)
}

/// What updates take with nothing before or between them, as on a replay file.
pub(super) fn training_alone(training: &TrainPlan) -> Memory {
    in_turn(&[Phase::training(training, None)])
}

/// Every plan of a `train` job on pictures.
pub(crate) struct TrainPlans {
    pub before: BeforeTraining,
    pub training: TrainPlan,
}

/// What runs before and between the updates.
pub(crate) struct BeforeTraining {
    pub text: TextParts,
    /// Bytes of all prompts' hidden states.
    hidden: u64,
    /// By size of pictures.
    pub encode: Vec<Part>,
    /// Sampling and decoding of sample pictures.
    pub(super) preview: Option<SamplePlans>,
}

impl TrainPlans {
    pub(crate) async fn new(
        job: &TrainJob,
        model: &Model,
        set: &TrainingSet,
        planning: Planning<'_>,
    ) -> Result<TrainPlans> {
        let side = job.side(model)?;
        model.check_prompts(set.prompts.iter().chain(&job.class_prompt).chain(&job.sample_prompts))?;
        let prompts = set.prompts.len() + 1 + usize::from(job.class_prompt.is_some()) + job.sample_prompts.len();
        let mut sizes = set.sizes.iter().map(|size| size.map(|n| n / model.factor())).map(|[w, h]| [h, w]);
        let [h, w] = sizes.next().unwrap_or_default();
        let latent = [h, w, model.unet.in_channels];
        let samples = [job.batch, if job.class_prompt.is_some() { job.batch } else { 0 }];
        let mut setup = job.setup(model, planning.caps, samples, latent, model.tokenizer.length());
        (setup.more_sizes, setup.captions) = (sizes.collect(), set.captioned());
        let text = model.plan_texts(planning, prompts, model.tokenizer.length()).await?;
        let mut encode = Vec::with_capacity(set.sizes.len());
        for &size in &set.sizes {
            encode.push(model.plan_vae_encode(planning, 1, size)?);
            planning.breathe().await;
        }
        let preview = match job.sample_prompts.is_empty() {
            true => None,
            false => Some(model.plan_preview(job, planning, [side, side])?),
        };
        planning.breathe().await;
        let before = BeforeTraining { text, hidden: hidden_bytes(model, prompts), encode, preview };
        let training = plan_training(job, setup, planning, |training| before.memory(training)).await?;
        Ok(TrainPlans { before, training })
    }

    /// All of them, those that are needed first in front.
    pub(crate) fn plans(&self) -> impl Iterator<Item = &Plan> {
        let encode = self.before.encode.iter().map(|part| &part.plan);
        let preview = self.before.preview.iter().flat_map(|plans| plans.plans().chain([&plans.decode.plan]));
        self.before.text.plans().chain(encode).chain(self.training.plans()).chain(preview)
    }

    /// Chunks that serve all of them in turn.
    pub(crate) fn pool(&self) -> Vec<u64> {
        pool(self.before.phases(&self.training).iter().map(|p| &p.arena))
    }
}

impl BeforeTraining {
    /// Of these and the training itself.
    fn memory(&self, training: &TrainPlan) -> Memory {
        let (mut rows, mut peak_bytes) = in_turn(&self.phases(training));
        if let Some(SamplePlans { decode, .. }) = &self.preview {
            // Decoded while the training's state is in the pool's place: in memory of its own.
            let bytes = bytes(&decode.params) + decode.plan.working_bytes();
            rows.push(("decoding sample pictures".into(), bytes));
            peak_bytes += bytes;
        }
        (rows, peak_bytes)
    }

    fn phases(&self, training: &TrainPlan) -> Vec<Phase> {
        let mut text = Phase::part(&self.text.whole);
        text.beside += self.hidden;
        let mut training = Phase::training(training, self.preview.as_ref());
        if self.preview.is_some() {
            training.beside += self.hidden;
        }
        std::iter::once(text).chain(self.encode.iter().map(Phase::part)).chain([training]).collect()
    }
}

/// The plan of a `train` job on an adapter with `caps`.
pub fn plan_train(job: &TrainJob, caps: &Caps) -> Result<PlanReport> {
    job.check_options()?;
    let (model, mut notes) = open(&job.model, &[], job.reads())?;
    notes.extend(job.idle_options());
    let mut listener = |event| told_of(&mut notes, event);
    job.open_init_lora(&model, &mut listener)?;
    let mut to_make = 0;
    let planning = Planning { caps, variants: &Variants::default(), gpu: None };
    let ((mut rows, mut peak_bytes), training, mut texts) = at_once(async {
        if let Some(path) = &job.replay {
            let run = job.open_replay(&model, path)?;
            let setup = job.setup(&model, caps, run.samples, run.latent, run.tokens);
            let training = plan_training(job, setup, planning, training_alone).await?;
            let texts = KernelTexts::of(training.plans())?;
            return Ok((training_alone(&training), training, texts));
        }
        let set = job.training_set(&model, planning, &mut listener).await?;
        to_make = set.classes_to_make;
        let plans = TrainPlans::new(job, &model, &set, planning).await?;
        let texts = KernelTexts::of(plans.plans())?;
        Ok((plans.before.memory(&plans.training), plans.training, texts))
    })?;
    notes.push(training.trained_summary());
    if let Some(prompt) = job.class_prompt.as_ref().filter(|_| to_make > 0) {
        let class = class_job(&job.model, prompt, to_make, [job.side(&model)?; 2], 0);
        let (PlanReport { peak_bytes: made, .. }, theirs) = generate_report(&class, caps)?;
        texts.join(theirs);
        rows.push(("class pictures, before all else".into(), made));
        peak_bytes = peak_bytes.max(made);
        notes.push("class pictures that are in the cache are not made again".into());
    }
    Ok(PlanReport {
        peak_bytes,
        kept_bytes: peak_bytes,
        rows,
        dispatches: training.first.dispatch_count(),
        flops: training.first.total_flops() * job.accumulate as u64,
        kernels: texts.count(),
        kernel_bytes: texts.bytes(),
        notes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::AdapterClass;

    /// What is said of a job that may take one byte less than it does.
    fn refusal(plan: impl Fn(Option<u64>) -> Result<PlanReport>) -> String {
        let peak = plan(None).unwrap().peak_bytes;
        assert!(plan(Some(peak)).is_ok());
        plan(Some(peak - 1)).unwrap_err().to_string()
    }

    #[test]
    fn the_whole_peak_of_a_job_must_be_allowed() {
        let caps = Caps::webgpu_defaults(AdapterClass::Gpu);
        let model = |memory| ModelOptions { memory, ..Default::default() };
        let generate = |memory| {
            let prompts = vec!["a cat".into()];
            plan_generate(&GenerateJob { prompts, count: 1, model: model(memory), ..Default::default() }, &caps)
        };
        let message = refusal(generate);
        assert!(message.contains("--memory") && message.contains("--dtype q8"), "{message}");
        let train = |memory| {
            let sample_prompts = vec!["a cat".into()];
            let checkpointing = Checkpointing::Off;
            plan_train(&TrainJob { model: model(memory), sample_prompts, checkpointing, ..Default::default() }, &caps)
        };
        let message = refusal(train);
        // Where all activations do not fit, some are made again.
        let kept = train(None).unwrap().peak_bytes;
        let auto =
            TrainJob { model: model(Some(kept - 1)), sample_prompts: vec!["a cat".into()], ..Default::default() };
        assert!(plan_train(&auto, &caps).unwrap().peak_bytes < kept);
        assert!(message.contains("--memory") && message.contains("--checkpointing on"), "{message}");
    }
}
