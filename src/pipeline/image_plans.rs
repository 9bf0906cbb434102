//! The plans of a job that makes images. A model remembers the last ones: another prompt, another image and another LoRA of
//! the same layers plan nothing.

use std::sync::{Arc, Mutex, MutexGuard};

use crate::base::lock;
use crate::gpu::{Caps, Variants};
use crate::graph::Plan;
use crate::models::Denoiser;
use crate::nn::{Param, Ranks};

use super::denoise::SamplingPlan;
use super::memory::{Memory, Phase, bytes, in_turn, pool, staging};
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
    /// Images that are sampled together.
    pub batch: usize,
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

/// Every plan of a job that makes images, as [`Model::image_plans`](super::Model::image_plans) makes them.
pub(crate) struct ImagePlans {
    pub(super) spec: ImageSpec,
    pub text: TextParts,
    pub encode: Option<Part>,
    pub denoiser: Box<dyn Denoiser>,
    pub params: Vec<Param>,
    pub sampling: SamplingPlan,
    pub decode: Part,
    /// Bytes of all prompts' hidden states, and of one image's latent.
    pub(super) stores: [u64; 2],
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

impl LastPlans {
    fn last(&self) -> MutexGuard<'_, Option<Planned>> {
        lock(&self.0)
    }

    /// The last plans, if they serve for `spec` with the adapter and kernels of `planning`.
    pub(super) fn find(&self, spec: &ImageSpec, planning: Planning<'_>) -> Option<Arc<ImagePlans>> {
        let serves = |planned: &&Planned| {
            planned.caps == *planning.caps
                && planned.variants == *planning.variants
                && spec.is_served_by(&planned.plans.spec)
        };
        self.last().as_ref().filter(serves).map(|planned| planned.plans.clone())
    }

    /// Remembers `plans`, which were made with `planning`.
    pub(super) fn keep(&self, plans: &Arc<ImagePlans>, planning: Planning<'_>) {
        let (caps, variants) = (planning.caps.clone(), planning.variants.clone());
        *self.last() = Some(Planned { caps, variants, plans: plans.clone() });
    }
}

impl ImageSpec {
    /// Whether plans of `other` serve: adapters on the same layers may have lower ranks, whose factors end in zeros.
    fn is_served_by(&self, other: &ImageSpec) -> bool {
        let same_layers = self.ranks.len() == other.ranks.len();
        let fits = self.ranks.iter().all(|(layer, rank)| other.ranks.get(layer).is_some_and(|most| rank <= most));
        same_layers && fits && *self == ImageSpec { ranks: self.ranks.clone(), ..other.clone() }
    }
}

impl ImagePlans {
    /// Memory of the phases, which run in turn.
    pub(crate) fn memory(&self, images: usize) -> Memory {
        in_turn(self.phases(images))
    }

    /// Bytes that they take where no weights go before the next job: those of all parts stay, beside what the largest needs.
    pub(crate) fn kept_bytes(&self, images: usize) -> u64 {
        let phases = self.phases(images);
        let weights: u64 = phases.iter().map(|phase| phase.weights).sum();
        weights + phases.iter().map(|phase| phase.beside + phase.working()).max().unwrap_or(0) + staging(&phases)
    }

    /// All of them, in the order in which they run.
    pub(crate) fn plans(&self) -> impl Iterator<Item = &Plan> {
        let encode = self.encode.iter().map(|part| &*part.plan);
        self.text.plans().chain(encode).chain(self.sampling.plans()).chain([&*self.decode.plan])
    }

    /// Chunks that serve the loop.
    pub(crate) fn loop_arena(&self) -> Vec<u64> {
        pool(self.sampling.plans().map(|plan| &plan.arena))
    }

    fn phases(&self, images: usize) -> Vec<Phase> {
        let weights = bytes(&self.params);
        let step = &self.sampling.step;
        let beside = self.sampling.plans().map(|p| p.input_bytes + p.uniform_bytes).sum::<u64>();
        let [hidden, latent] = self.stores;
        let latents = images as u64 * latent;
        let mut phases: Vec<Phase> = self.text.phases().collect();
        phases.extend(self.encode.as_ref().map(Phase::part));
        phases.iter_mut().for_each(|phase| phase.beside += hidden);
        phases.push(Phase {
            name: "UNet",
            weights,
            beside: beside + step.stored_bytes().saturating_sub(weights) + hidden + latents,
            arena: self.loop_arena(),
            ..Phase::default()
        });
        let mut decode = Phase::part(&self.decode);
        decode.beside += latents;
        phases.push(decode);
        phases
    }
}
