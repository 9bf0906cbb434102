//! The plans of a job that makes images. A model remembers the last ones: another prompt, another image and another LoRA of
//! the same layers plan nothing.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::base::DType;
use crate::error::Result;
use crate::gpu::{Caps, Variants};
use crate::graph::Plan;
use crate::models::Denoiser;
use crate::nn::{Mode, Param, Ranks};

use super::Model;
use super::denoise::{Extent, SamplingPlan};
use super::memory::{Memory, Phase, apart_bytes, bytes, hidden_bytes, in_turn, pool, staging};
use super::planning::{Part, Planning};
use super::text::TextParts;

/// What decides the plans of images.
#[derive(Clone, PartialEq)]
pub(crate) struct ImageSpec {
    /// Prompts beside the negative one.
    pub prompts: usize,
    /// The negative prompt is encoded.
    pub negative: bool,
    /// Layers of the text encoders that are left out more than usual, for all prompts but the negative one.
    pub clip_skip: Option<usize>,
    /// Width and height in pixels.
    pub size: [usize; 2],
    /// An unconditional pass runs beside.
    pub guided: bool,
    /// The guided prediction gets the prompt's own spread.
    pub rescaled: bool,
    /// State slots of the sampler.
    pub slots: usize,
    /// A start image is encoded.
    pub encodes: bool,
    /// Ranks of the adapters, by layer.
    pub ranks: Arc<Ranks>,
}

/// Every plan of a job that makes images.
pub(crate) struct ImagePlans {
    spec: ImageSpec,
    pub text: TextParts,
    /// The text encoders of the negative prompt, where they leave out fewer layers than the others.
    pub negative: Option<TextParts>,
    pub encode: Option<Part>,
    pub denoiser: Box<dyn Denoiser>,
    pub params: Vec<Param>,
    pub sampling: SamplingPlan,
    pub decode: Part,
    /// Bytes of all prompts' hidden states, of those of each text encoder, and of one image's latent.
    stores: [u64; 3],
}

/// The last plans that were made for a model, with the adapter and the kernels that they are for: a job that needs the same
/// runs them again.
#[derive(Default)]
pub(crate) struct LastPlans(Mutex<Option<Planned>>);

struct Planned {
    caps: Caps,
    variants: Variants,
    plans: Arc<ImagePlans>,
}

impl ImageSpec {
    /// Whether plans of `other` serve: adapters on the same layers may have lower ranks, whose factors end in zeros.
    fn is_served_by(&self, other: &ImageSpec) -> bool {
        let same_layers = self.ranks.len() == other.ranks.len();
        let fits = self.ranks.iter().all(|(layer, rank)| other.ranks.get(layer).is_some_and(|most| rank <= most));
        same_layers && fits && *self == ImageSpec { ranks: self.ranks.clone(), ..other.clone() }
    }

    /// The plans: those that were made last for `model` where they serve, else new ones.
    pub(crate) async fn plans(self, model: &Model, planning: Planning<'_>) -> Result<Arc<ImagePlans>> {
        let last = |planned: &&Planned| {
            planned.caps == *planning.caps
                && planned.variants == *planning.variants
                && self.is_served_by(&planned.plans.spec)
        };
        if let Some(planned) = model.last_plans().as_ref().filter(last) {
            return Ok(planned.plans.clone());
        }
        let plans = Arc::new(ImagePlans::new(self, model, planning).await?);
        let (caps, variants) = (planning.caps.clone(), planning.variants.clone());
        *model.last_plans() = Some(Planned { caps, variants, plans: plans.clone() });
        Ok(plans)
    }
}

impl ImagePlans {
    async fn new(spec: ImageSpec, model: &Model, planning: Planning<'_>) -> Result<ImagePlans> {
        let (size, settings) = (spec.size, model.settings(planning.caps, &spec.ranks));
        let tokens = model.prompt_tokens();
        let plan = |prompts, clip_skip| model.plan_texts(&settings, planning, [prompts, tokens], clip_skip);
        let apart = spec.negative && spec.clip_skip.is_some();
        let text = plan(spec.prompts + usize::from(spec.negative && !apart), spec.clip_skip).await?;
        let negative = if apart { Some(plan(1, None).await?) } else { None };
        let encode = spec.encodes.then(|| model.plan_vae_encode(planning, 1, size)).transpose()?;
        planning.breathe().await;
        let (denoiser, params) = model.denoiser(settings.clone())?;
        let extent = Extent { rescaled: spec.rescaled, ..Extent::new(model, size, spec.guided, spec.slots) };
        let sampling = SamplingPlan::new(planning, &*denoiser, Mode::Inference, extent)?;
        planning.breathe().await;
        let decode = model.plan_vae_decode(planning, 1, size, true)?;
        planning.breathe().await;
        let latent = DType::F32.bytes(extent.elements()).next_multiple_of(256);
        let stores = [hidden_bytes(model, spec.prompts + 1), apart_bytes(model, spec.prompts + 1), latent];
        Ok(ImagePlans { spec, text, negative, encode, denoiser, params, sampling, decode, stores })
    }

    /// Memory of the phases, which run in turn.
    pub(crate) fn memory(&self, images: usize) -> Memory {
        in_turn(&self.phases(images))
    }

    /// What they take where no weights go before the next job: those of all parts stay, beside what the largest needs.
    pub(crate) fn kept_bytes(&self, images: usize) -> u64 {
        // The text encoders of the negative prompt have the weights of the others.
        let apart = self.negative.iter().flat_map(TextParts::phases).count();
        let mut phases = self.phases(images);
        phases.drain(..apart);
        let weights: u64 = phases.iter().map(|phase| phase.weights).sum();
        weights + phases.iter().map(|phase| phase.beside + phase.working()).max().unwrap_or(0) + staging(&phases)
    }

    /// All of them, in the order in which they run.
    pub(crate) fn plans(&self) -> impl Iterator<Item = &Plan> {
        let encode = self.encode.iter().map(|part| &*part.plan);
        self.texts().flat_map(TextParts::plans).chain(encode).chain(self.sampling.plans()).chain([&*self.decode.plan])
    }

    /// Chunks that serve the loop.
    pub(crate) fn loop_arena(&self) -> Vec<u64> {
        pool(self.sampling.plans().map(|plan| &plan.arena))
    }

    fn texts(&self) -> impl Iterator<Item = &TextParts> {
        self.negative.iter().chain([&self.text])
    }

    fn phases(&self, images: usize) -> Vec<Phase> {
        let weights = bytes(&self.params);
        let step = &self.sampling.step;
        let beside = self.sampling.plans().map(|p| p.input_bytes + p.uniform_bytes).sum::<u64>();
        let [hidden, apart, latent] = self.stores;
        let latents = images as u64 * latent;
        let mut phases: Vec<Phase> = self.texts().flat_map(TextParts::phases).collect();
        phases.iter_mut().for_each(|phase| phase.beside += apart);
        phases.extend(self.encode.as_ref().map(Phase::part));
        phases.iter_mut().for_each(|phase| phase.beside += hidden);
        phases.push(Phase {
            name: "UNet",
            weights,
            optimizer: 0,
            beside: beside + step.stored_bytes().saturating_sub(weights) + hidden + latents,
            arena: self.loop_arena(),
        });
        let mut decode = Phase::part(&self.decode);
        decode.beside += latents;
        phases.push(decode);
        phases
    }
}

impl Model {
    fn last_plans(&self) -> MutexGuard<'_, Option<Planned>> {
        self.plans.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
