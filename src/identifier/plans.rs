//! Plans of a comparison of words, and the memory that they take.

use std::sync::Arc;

use crate::base::DType;
use crate::error::{Result, message, option};
use crate::graph::{Graph, Plan, Tensor};
use crate::models::{Added, Conditioning, Context, Sample};
use crate::nn::Param;
use crate::pipeline::Model;
use crate::pipeline::memory::{Phase, Way, bytes, in_turn, within};
use crate::pipeline::planning::Planning;
use crate::pipeline::text::{TextParts, TextSpec};

/// Predictions that are made at once where memory allows.
const ROWS: usize = 4;

/// Predictions of the denoiser, some at once.
pub(super) struct PredictionPlan {
    pub plan: Arc<Plan>,
    pub params: Vec<Param>,
    pub inputs: PredictionInputs,
    /// Predictions at once.
    pub rows: usize,
    /// Height, width and channels of a latent.
    pub latent: [usize; 3],
    /// Channels that an inpainting model reads behind a latent's.
    pub extra: usize,
}

/// Tensors that predictions read and give.
#[derive(Clone, Copy)]
pub(super) struct PredictionInputs {
    /// Noised latents `[rows, h, w, channels]`, with an inpainting model's further channels behind.
    pub sample: Tensor,
    pub timestep: Tensor,
    pub hidden: Tensor,
    pub added: Option<Added>,
    /// Predictions `[rows, h, w, channels]`.
    pub output: Tensor,
}

impl PredictionPlan {
    /// Plans `rows` predictions of images of `width` x `height` pixels.
    pub fn new(model: &Model, planning: Planning<'_>, [width, height]: [usize; 2], rows: usize) -> Result<Self> {
        let (denoiser, params) = model.denoiser(model.settings(planning.caps, &model.ranks()))?;
        let (h, w) = (height / model.factor(), width / model.factor());
        let (channels, extra) = (model.vae.latent_channels, model.extra_channels());
        let mut g = Graph::new();
        let sample = g.input("sample", [rows, h, w, channels + extra], DType::F32);
        let timestep = g.input("timestep", [rows], DType::F32);
        let hidden = g.input("hidden", [rows, model.prompt_tokens(), model.context_width()], DType::F32);
        let added = model.pooled_width().map(|width| Added {
            pooled: g.input("pooled", [rows, width], DType::F32),
            time_ids: g.input("time ids", [rows, 6], DType::F32),
        });
        let conditioning = Conditioning { context: Context::Hidden(hidden), added };
        let output = denoiser.predict(&mut g, Sample::from(sample), timestep, conditioning)?;
        g.output(output);
        let inputs = PredictionInputs { sample, timestep, hidden, added, output };
        Ok(PredictionPlan { plan: planning.plan(&g)?, params, inputs, rows, latent: [h, w, channels], extra })
    }

    fn phase(&self) -> Phase {
        Phase {
            name: "UNet",
            weights: bytes(&self.params),
            beside: self.plan.input_bytes + self.plan.uniform_bytes,
            arena: self.plan.arena.clone(),
            ..Phase::default()
        }
    }
}

/// All plans of a comparison.
pub(super) struct Plans {
    /// Prompts that are predicted for.
    pub text: TextParts,
    pub prediction: PredictionPlan,
}

impl Plans {
    /// Plans `prompts` prompts, and as many predictions at once as `memory` allows.
    ///
    /// # Errors
    /// [`Error::Limit`](crate::Error::Limit) if one prediction at a time takes more than `memory`.
    pub async fn new(
        model: &Model,
        planning: Planning<'_>,
        prompts: usize,
        size: [usize; 2],
        memory: Option<u64>,
    ) -> Result<Plans> {
        let settings = model.settings(planning.caps, &model.ranks());
        let tokens = model.prompt_tokens();
        let text = model.plan_texts(&settings, planning, TextSpec::plain(encoded(model, prompts), tokens)).await?;
        let hidden = model.hidden_shape(tokens).bytes(prompts);
        let mut rows = ROWS;
        loop {
            let prediction = PredictionPlan::new(model, planning, size, rows);
            planning.breathe().await;
            if prediction.is_err() && rows > 1 {
                rows /= 2;
                continue;
            }
            let prediction = prediction?;
            let mut phases: Vec<Phase> = text.phases().chain([prediction.phase()]).collect();
            phases.iter_mut().for_each(|phase| phase.beside += hidden);
            let needed = in_turn(phases);
            if rows == 1 || memory.is_none_or(|memory| needed.peak <= memory) {
                within(memory, &needed, |largest| smaller(model, largest))?;
                return Ok(Plans { text, prediction });
            }
            rows /= 2;
        }
    }

    /// All of them, in the order in which they run.
    pub fn plans(&self) -> impl Iterator<Item = &Plan> {
        self.text.plans().chain([&*self.prediction.plan])
    }
}

/// Prompts that are encoded of `prompts`: all but the empty one where zeros stand for it.
fn encoded(model: &Model, prompts: usize) -> usize {
    prompts - usize::from(model.zeros)
}

/// Ways in which `largest`, the largest phase of a job, would take less memory.
fn smaller(model: &Model, largest: &Phase) -> Vec<Way> {
    let dtype = model.weight_type().smaller().map(|dtype| option("dtype") + format!(" {dtype}").as_str());
    let images = if largest.is_text() { 0 } else { largest.working() };
    let size = message!["a smaller ", option("width"), " and ", option("height")];
    let fewer = [(images, size), (largest.beside, "fewer words".into())];
    dtype.map(|dtype| (largest.weights, dtype)).into_iter().chain(fewer).collect()
}
