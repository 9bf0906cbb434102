//! Plans of a comparison of words, and the memory that they take.

use std::sync::Arc;

use crate::base::DType;
use crate::error::{Message, Result, message, option};
use crate::graph::{Graph, Plan, Tensor};
use crate::models::{Added, Conditioning, Context, Sample};
use crate::nn::Param;
use crate::pipeline::Model;
use crate::pipeline::memory::{Phase, apart_bytes, bytes, hidden_bytes, in_turn, within};
use crate::pipeline::planning::Planning;
use crate::pipeline::text::TextParts;

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
            optimizer: 0,
            beside: self.plan.input_bytes + self.plan.uniform_bytes,
            arena: self.plan.arena.clone(),
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
        let text = model.plan_texts(&settings, planning, [prompts, model.prompt_tokens()], None).await?;
        let hidden = hidden_bytes(model, prompts);
        let mut rows = ROWS;
        loop {
            let prediction = PredictionPlan::new(model, planning, size, rows);
            planning.breathe().await;
            if prediction.is_err() && rows > 1 {
                rows /= 2;
                continue;
            }
            let prediction = prediction?;
            let mut phases: Vec<Phase> = text.phases().collect();
            phases.iter_mut().for_each(|phase| phase.beside += apart_bytes(model, prompts));
            phases.push(prediction.phase());
            phases.iter_mut().for_each(|phase| phase.beside += hidden);
            let peak = in_turn(&phases).1;
            if rows == 1 || memory.is_none_or(|memory| peak <= memory) {
                within(memory, peak, smaller(model))?;
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

/// What would make the job take less memory.
fn smaller(model: &Model) -> Message {
    let size = message!["try a smaller ", option("width"), " and ", option("height"), ", or fewer words"];
    match model.weight_type().smaller() {
        Some(dtype) => message![size, ", or ", option("dtype"), format!(" {dtype}")],
        None => size,
    }
}
