//! The plans of a `train` job: what runs, and what `portray plan` reports.

use crate::error::Result;
use crate::generate::plans::generate_report;
use crate::gpu::{Caps, Variants};
use crate::graph::Plan;
use crate::nn::Settings;
use crate::pipeline::kernel_texts::KernelTexts;
use crate::pipeline::memory::{Memory, Phase, PlanReport, at_once, bytes, in_turn, pool, within};
use crate::pipeline::opening::{open_for_plan, told_of};
use crate::pipeline::planning::{Part, Planning};
use crate::pipeline::text::{TextParts, TextSpec};
use crate::pipeline::{Model, WeightType};

use super::evaluation::EvaluationPlans;
use super::options::{Checkpointing, TrainOptions};
use super::plan::{Recomputed, Setup, TrainPlan};
use super::samples::SamplePlans;
use super::training_set::TrainingSet;
use super::words::WordPlan;

/// What a training may take before `--checkpointing auto` recomputes activations where no `--memory` is given: it then
/// fits a GPU of 4 GB.
const MODEST_BYTES: u64 = 3_000_000_000;

/// The same for SDXL and its relatives in eight or four bits, with which the smaller ones fit a GPU of 2 GB or a browser's
/// tab.
const SCARCE_BYTES: u64 = 1_200_000_000;

/// Chunks that serve the updates, and sampling between them.
pub(super) fn training_arena(training: &TrainPlan, between: &Between) -> Vec<u64> {
    pool(training.plans().chain(between.plans()).map(|plan| &plan.arena))
}

/// Plans of what runs between the updates, on the same weights.
#[derive(Default)]
pub(crate) struct Between {
    /// Sampling and decoding of validation samples.
    pub(super) preview: Option<SamplePlans>,
    pub(super) evaluation: Option<EvaluationPlans>,
    /// Look at the words that name the subject, before the first update.
    pub(super) words: Option<WordPlan>,
}

impl Between {
    /// Those that run in the training's pool.
    fn plans(&self) -> impl Iterator<Item = &Plan> {
        let preview = self.preview.iter().flat_map(SamplePlans::plans);
        let words = self.words.iter().map(|words| &*words.plan);
        preview.chain(self.evaluation.iter().flat_map(EvaluationPlans::plans)).chain(words)
    }

    /// Those of images, for which memory of their own is needed.
    fn images(&self) -> impl Iterator<Item = &SamplePlans> {
        self.preview.iter().chain(self.evaluation.iter().map(|plans| &plans.images))
    }

    /// Bytes of the memory of their own in which images are decoded and judged, one kind after the other.
    fn decoding(&self) -> u64 {
        let evaluated = self.evaluation.as_ref().map_or(0, EvaluationPlans::bytes_apart);
        self.preview.as_ref().map_or(0, SamplePlans::bytes_apart).max(evaluated)
    }
}

/// Updates, and what runs between them.
fn training_phase(training: &TrainPlan, between: &Between) -> Phase {
    let plans = || training.plans().chain(between.plans());
    Phase {
        name: "training",
        weights: bytes(&training.params),
        optimizer: training.optimizer_bytes(),
        beside: plans().map(|p| p.input_bytes + p.uniform_bytes).sum(),
        arena: training_arena(training, between),
        decoding: between.decoding(),
    }
}

/// The plan of a job that then takes what `memory` says; with `--checkpointing auto` as little is recomputed as what is
/// allowed asks for.
pub(crate) async fn plan_training(
    job: &TrainOptions,
    mut setup: Setup,
    planning: Planning<'_>,
    memory: impl Fn(&TrainPlan) -> Memory,
) -> Result<TrainPlan> {
    let allowed = job.model.memory;
    let mut plan = TrainPlan::new(&setup, planning.caps, planning.variants)?;
    planning.breathe().await;
    // Where no transformer has several blocks, both recompute the same.
    let deep = setup.unet.deep_transformers();
    let ways = if deep { &[Recomputed::Blocks, Recomputed::Nested][..] } else { &[Recomputed::Nested] };
    let scarce = deep && matches!(job.model.dtype, WeightType::Q8 | WeightType::Q4);
    let enough = allowed.unwrap_or(if scarce { SCARCE_BYTES } else { MODEST_BYTES });
    for &more in ways {
        if job.checkpointing != Checkpointing::Auto || memory(&plan).peak <= enough {
            break;
        }
        setup.checkpoint = more;
        plan = TrainPlan::new(&setup, planning.caps, planning.variants)?;
        planning.breathe().await;
    }
    within(allowed, &memory(&plan), |largest| job.smaller(largest))?;
    Ok(plan)
}

/// What updates take with nothing before or between them, as on a replay file.
pub(crate) fn training_alone(training: &TrainPlan) -> Memory {
    in_turn(vec![training_phase(training, &Between::default())])
}

/// Every plan of a `train` job on images.
pub(crate) struct TrainPlans {
    pub before: BeforeTraining,
    pub training: TrainPlan,
}

/// What runs before and between the updates.
pub(crate) struct BeforeTraining {
    pub text: TextParts,
    /// Bytes of the hidden states of the prompts of samples and of evaluations; those of all others are in main memory.
    hidden: [u64; 2],
    /// By size of images.
    pub encode: Vec<Part>,
    /// Bytes of the encoded images and prompts, in main memory.
    encoded: u64,
    pub(super) between: Between,
}

impl TrainPlans {
    pub(crate) async fn new(
        job: &TrainOptions,
        model: &Model,
        set: &TrainingSet,
        planning: Planning<'_>,
    ) -> Result<TrainPlans> {
        let side = job.side(model)?;
        model.check_prompts(set.prompts.iter().chain(&job.class_prompt).chain(&job.sample_prompts))?;
        let prompts = set.prompts.len() + 1 + usize::from(job.class_prompt.is_some()) + job.sample_prompts.len();
        let evaluated = set.evaluation.as_ref().map_or(0, |set| set.prompts.len());
        let prompts = prompts + evaluated;
        let mut sizes = set.sizes.iter().map(|size| size.map(|n| n / model.factor())).map(|[w, h]| [h, w]);
        let [h, w] = sizes.next().unwrap_or_default();
        let latent = [h, w, model.vae.latent_channels];
        let samples = [job.batch, if job.class_prompt.is_some() { job.batch } else { 0 }];
        let mut setup = job.setup(model, planning.caps, samples, latent, model.prompt_tokens());
        (setup.more_sizes, setup.captions) = (sizes.collect(), set.captioned());
        let text =
            model.plan_texts(&Settings::default(), planning, TextSpec::plain(prompts, model.prompt_tokens())).await?;
        let mut encode = Vec::with_capacity(set.sizes.len());
        for &size in &set.sizes {
            encode.push(model.plan_vae_encode(planning, 1, size)?);
            planning.breathe().await;
        }
        let preview = match job.sample_prompts.is_empty() {
            true => None,
            false => Some(model.plan_preview(job, planning, [side, side], &Default::default()).await?),
        };
        planning.breathe().await;
        let evaluation = EvaluationPlans::new(job, model, &set.sizes, planning).await?;
        let hidden = |prompts: usize| model.hidden_shape(model.prompt_tokens()).bytes(prompts);
        let encoded = set.encoded_bytes(job, model) + hidden(prompts);
        let words = WordPlan::new(job, model, &setup, planning)?;
        let before = BeforeTraining {
            text,
            hidden: [preview.as_ref().map_or(0, |_| 1 + job.sample_prompts.len()), evaluated].map(hidden),
            encode,
            encoded,
            between: Between { preview, evaluation, words },
        };
        let training = plan_training(job, setup, planning, |training| before.memory(training)).await?;
        Ok(TrainPlans { before, training })
    }

    /// All of them, those that are needed first in front.
    pub(crate) fn plans(&self) -> impl Iterator<Item = &Plan> {
        let encode = self.before.encode.iter().map(|part| &*part.plan);
        let further = self.before.further_encode().map(|part| &*part.plan);
        let between = &self.before.between;
        let images = between.images().flat_map(SamplePlans::plans_apart);
        let training = self.training.plans().chain(between.plans());
        self.before.text.plans().chain(encode).chain(further).chain(training).chain(images)
    }
}

impl BeforeTraining {
    /// Of these and the training itself.
    fn memory(&self, training: &TrainPlan) -> Memory {
        let mut memory = in_turn(self.phases(training));
        if self.encoded > 0 {
            memory.rows.push(("encoded images and prompts, in main memory and not in the peak".into(), self.encoded));
        }
        if let Some(plans) = &self.between.evaluation {
            memory.rows.push(("evaluations, among training's rows".into(), plans.bytes() + self.hidden[1]));
        }
        memory
    }

    /// Encoder of photos for evaluations, where it has a plan of its own.
    fn further_encode(&self) -> impl Iterator<Item = &Part> {
        self.between.evaluation.iter().filter_map(|plans| plans.encode.as_ref())
    }

    /// Encoder of photos for evaluations with its width and height, of a training of `sizes` that is evaluated.
    pub(super) fn evaluation_encoder(&self, sizes: &[[usize; 2]]) -> Option<(&Part, [usize; 2])> {
        let plans = self.between.evaluation.as_ref()?;
        let own = || sizes.iter().position(|size| *size == plans.size).and_then(|i| self.encode.get(i));
        Some((plans.encode.as_ref().or_else(own)?, plans.size))
    }

    fn phases(&self, training: &TrainPlan) -> Vec<Phase> {
        let mut training = training_phase(training, &self.between);
        training.beside += self.hidden.iter().sum::<u64>();
        let encode = self.encode.iter().chain(self.further_encode());
        self.text.phases().chain(encode.map(Phase::part)).chain([training]).collect()
    }
}

/// Plans a training for an adapter with `caps`. Needs no GPU.
///
/// # Errors
/// Those of [`Engine::train`](crate::Engine::train) that are known before it runs.
pub fn plan_train(job: &TrainOptions, caps: &Caps) -> Result<PlanReport> {
    job.check_options()?;
    let (model, mut notes) = open_for_plan(&job.model, &[], job.reads())?;
    notes.extend(job.idle_options());
    let mut listener = |event| told_of(&mut notes, event);
    job.open_init_lora(&model, &mut listener)?;
    let mut to_make = 0;
    let planning = Planning { caps, variants: &Variants::default(), gpu: None };
    let (Memory { mut rows, peak: mut peak_bytes, .. }, training, mut texts) = at_once(async {
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
    notes.push(training.trained_summary().into());
    if let Some(prompt) = job.class_prompt.as_ref().filter(|_| to_make > 0) {
        let class = job.class_job(&model, prompt, to_make)?;
        let (PlanReport { peak_bytes: made, .. }, theirs) = generate_report(&class, caps, &model, Vec::new())?;
        texts.join(theirs);
        rows.push(("class images, before all else".into(), made));
        peak_bytes = peak_bytes.max(made);
        notes.push("class images that are in the cache are not made again".into());
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
    use crate::generate::plan_generate;
    use crate::gpu::AdapterClass;
    use crate::{GenerateOptions, Method, ModelOptions};

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
            plan_generate(&GenerateOptions { prompts, count: 1, model: model(memory), ..Default::default() }, &caps)
        };
        let message = refusal(generate);
        assert!(message.contains("memory") && message.contains("dtype q8"), "{message}");
        let train = |memory| {
            let sample_prompts = vec!["a cat".into()];
            let checkpointing = Checkpointing::Off;
            plan_train(
                &TrainOptions { model: model(memory), sample_prompts, checkpointing, ..Default::default() },
                &caps,
            )
        };
        let message = refusal(train);
        // Where all activations do not fit, some are made again.
        let kept = train(None).unwrap().peak_bytes;
        let auto =
            TrainOptions { model: model(Some(kept - 1)), sample_prompts: vec!["a cat".into()], ..Default::default() };
        assert!(plan_train(&auto, &caps).unwrap().peak_bytes < kept);
        assert!(message.contains("memory") && message.contains("checkpointing on"), "{message}");
    }

    /// What is advised where `largest` does not fit.
    fn advice(job: &TrainOptions, largest: Phase) -> String {
        let memory = Memory { rows: Vec::new(), peak: 100, largest };
        within(Some(1), &memory, |largest| job.smaller(largest)).unwrap_err().to_string()
    }

    #[test]
    fn the_largest_phase_is_named_with_what_makes_it_smaller() {
        let job = TrainOptions { sample_prompts: vec!["a cat".into()], ..Default::default() };
        let full = TrainOptions { method: Method::Full, fused_update: true, ..Default::default() };
        let training = |weights, optimizer, working| Phase {
            name: "training",
            weights,
            optimizer,
            arena: vec![working],
            ..Phase::default()
        };
        let text = Phase { name: "text encoder 2", weights: 90, beside: 10, ..Phase::default() };
        let pictures = Phase { name: "VAE encoder", weights: 20, arena: vec![80], ..Phase::default() };
        let decoding = Phase { decoding: 60, ..training(40, 0, 0) };
        for (job, largest, says) in [
            (&job, text, "text encoder 2 takes most (0.0 MB of weights, 0.0 MB beside them): try dtype q8"),
            (&job, pictures, ": try a lower resolution"),
            (&job, training(90, 1, 9), ": try dtype q8, a lower resolution"),
            (
                &job,
                training(30, 60, 10),
                ": try optimizer adamw8bit, fused_update, a lower rank, dtype q8, a lower resolution",
            ),
            (&job, decoding, ": try no sample_prompts, dtype q8"),
            (&full, training(90, 9, 1), ": try method lora, optimizer adamw8bit"),
        ] {
            let message = advice(job, largest);
            assert!(message.ends_with(says), "{message}");
        }
        let least = TrainOptions { model: ModelOptions { dtype: WeightType::Q4, ..Default::default() }, ..job };
        let text = Phase { name: "text encoder", weights: 100, ..Phase::default() };
        assert!(advice(&least, text).ends_with(": no option makes it smaller"));
    }
}
