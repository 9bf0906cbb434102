//! Validation samples while training.

use std::sync::Arc;

use crate::base::rng::NoiseRng;
use crate::error::{Error, Result};
use crate::event::{Event, Picture};
use crate::gpu::{Pool, Store};
use crate::graph::Plan;
use crate::io;
use crate::models::Denoiser;
use crate::nn::{Mode, Scope, Settings};
use crate::pipeline::autoencode::VaeSession;
use crate::pipeline::denoise::{OnStep, Sampling, SamplingPlan, Start};
use crate::pipeline::encode::TextSessions;
use crate::pipeline::events::EventSink;
use crate::pipeline::hidden::{Hidden, HostHidden};
use crate::pipeline::memory::bytes;
use crate::pipeline::planning::{Part, Planning};
use crate::pipeline::recipe::Recipe;
use crate::pipeline::text::{TextParts, TextSpec, Tokens};
use crate::pipeline::{Masked, Model, SamplingOptions};

use super::context::TrainContext;
use super::{Method, TrainOptions};

/// Validation samples while training, from the weights as they are.
pub(super) struct Preview {
    sampling: Sampling,
    recipe: Recipe,
    /// Hidden states of the empty prompt and the sample prompts.
    hidden: Hidden,
    /// Their token ids.
    ids: Vec<Tokens>,
    /// The text encoders where they are trained, one prompt at a time.
    text: Option<TextSessions>,
    /// Run in memory of its own, which goes each time.
    decode: Part,
    size: [usize; 2],
    /// For an inpainting model: an image of which nothing is kept, so that samples show what the prompt alone gives.
    masked: Option<Masked>,
}

/// The empty prompt and the sample prompts.
pub(super) struct SamplePrompts {
    /// Hidden states by the base model's text encoders.
    pub hidden: HostHidden,
    /// Token ids of each.
    pub ids: Vec<Tokens>,
}

/// Plans of validation samples.
pub(super) struct SamplePlans {
    recipe: Recipe,
    denoiser: Box<dyn Denoiser>,
    sampling: SamplingPlan,
    text: Option<TextParts>,
    pub decode: Part,
    /// The encoder of an inpainting model; like the decoder in memory of its own.
    pub encode: Option<Part>,
}

impl SamplePlans {
    /// Those that run on the training's own weights, in its pool.
    pub fn plans(&self) -> impl Iterator<Item = &Plan> {
        self.sampling.plans().chain(self.text.iter().flat_map(TextParts::plans))
    }

    /// FLOPs of an image: all sampler steps, and its decoding.
    pub fn image_flops(&self) -> u64 {
        self.sampling.step.total_flops() * self.recipe.trajectory.steps.len() as u64 + self.decode.plan.total_flops()
    }

    /// Bytes of the memory of their own in which images are decoded, while the training's state is in the pool's place.
    pub fn bytes_apart(&self) -> u64 {
        let bytes = |part: &Part| bytes(&part.params) + part.plan.working_bytes();
        bytes(&self.decode).max(self.encode.as_ref().map_or(0, bytes))
    }

    /// Those that run in memory of their own.
    pub fn plans_apart(&self) -> impl Iterator<Item = &Plan> {
        std::iter::once(&self.decode).chain(&self.encode).map(|part| &*part.plan)
    }
}

impl Model {
    /// The text encoders of one prompt as a training changes them, where it does.
    async fn preview_text(&self, job: &TrainOptions, planning: Planning<'_>) -> Result<Option<TextParts>> {
        if !job.text_encoder {
            return Ok(None);
        }
        let settings = Settings { mode: Mode::Training, lora: job.lora(), ..Settings::default() };
        self.plan_texts(&settings, planning, TextSpec::plain(1, self.prompt_tokens())).await.map(Some)
    }

    /// The denoiser as `job` trains it, with its adapters.
    pub(super) fn denoiser_in_training(&self, job: &TrainOptions, planning: Planning<'_>) -> Result<Box<dyn Denoiser>> {
        let storage = match job.method {
            Method::Full => Settings::default(),
            Method::Lora => self.settings(planning.caps, &Default::default()),
        };
        let scope = Scope::new("unet", Settings { mode: Mode::Training, lora: job.lora(), ..storage });
        self.unet.denoiser(&scope)
    }

    fn preview_sampling(
        &self,
        job: &TrainOptions,
        planning: Planning<'_>,
        size: [usize; 2],
        options: &SamplingOptions,
    ) -> Result<(Recipe, Box<dyn Denoiser>, SamplingPlan)> {
        let recipe = self.recipe(options, job.model.prediction, None)?;
        let denoiser = self.denoiser_in_training(job, planning)?;
        let extent = self.extent(size, recipe.guided(), recipe.trajectory.slots);
        let plan = SamplingPlan::new(planning, &*denoiser, Mode::Training, extent)?;
        Ok((recipe, denoiser, plan))
    }

    /// Plans of validation samples of `size`, width and height in pixels, sampled as `options` say.
    pub(super) async fn plan_preview(
        &self,
        job: &TrainOptions,
        planning: Planning<'_>,
        size: [usize; 2],
        options: &SamplingOptions,
    ) -> Result<SamplePlans> {
        let (recipe, denoiser, sampling) = self.preview_sampling(job, planning, size, options)?;
        let decode = self.plan_vae_decode(planning, 1, size, true)?;
        let encode = self.inpaints().then(|| self.plan_vae_encode(planning, 1, size)).transpose()?;
        Ok(SamplePlans { recipe, denoiser, sampling, text: self.preview_text(job, planning).await?, decode, encode })
    }
}

impl Preview {
    /// Puts the plans of validation samples on the device, beside the training's own weights in `store`.
    pub(super) async fn new(
        at: &TrainContext<'_>,
        plans: SamplePlans,
        prompts: SamplePrompts,
        pool: &mut Pool,
        store: &Arc<Store>,
    ) -> Result<Preview> {
        let (gpu, model) = (at.gpu(), at.model);
        let side = at.job.side(model)?;
        let SamplePlans { recipe, denoiser, sampling, text, decode, encode } = plans;
        let masked = match encode {
            Some(part) => {
                let vae = VaeSession::new(gpu, model, &mut Pool::default(), &part).await?;
                Some(vae.encode_nothing([side, side], model).await?)
            }
            None => None,
        };
        let sampling = Sampling::new(gpu, &sampling, &*denoiser, pool, [store.clone()]).await?;
        let text = match text {
            Some(parts) => Some(TextSessions::new(gpu, &parts, pool, store).await?),
            None => None,
        };
        let SamplePrompts { hidden, ids } = prompts;
        let hidden = Hidden::upload(gpu, &hidden)?;
        Ok(Preview { sampling, recipe, hidden, ids, text, decode, size: [side, side], masked })
    }

    /// Hidden states of the prompts, the empty one first.
    pub(super) fn hidden(&self) -> &Hidden {
        &self.hidden
    }

    /// Encodes the prompts anew where the text encoders are trained.
    pub(super) async fn encode_prompts(&self, model: &Model) -> Result<()> {
        let Some(sessions) = &self.text else { return Ok(()) };
        for (index, ids) in self.ids.iter().enumerate() {
            // The empty prompt stays zeros where it stands for them.
            if index > 0 || !model.zeros {
                sessions.encode(model, ids, &self.hidden, index).await?;
            }
        }
        Ok(())
    }

    /// The decoder, in memory of its own.
    pub(super) async fn decoder(&self, at: &TrainContext<'_>, events: &mut EventSink<'_>) -> Result<VaeSession> {
        events.during(at.gpu(), VaeSession::new(at.gpu(), at.model, &mut Pool::default(), &self.decode)).await
    }

    /// Width and height of images in pixels.
    pub(super) fn size(&self) -> [usize; 2] {
        self.size
    }

    /// Makes the image of prompt number `prompt` and `seed` from the weights as they are; [`Preview::latents`] are its own
    /// then.
    pub(super) async fn image(
        &self,
        vae: &VaeSession,
        prompt: usize,
        seed: u64,
        on_step: OnStep<'_>,
    ) -> Result<io::Picture> {
        let Preview { sampling, recipe, hidden, size, masked, .. } = self;
        sampling.set_prompts(hidden, 0, &[prompt]).await?;
        let mut rngs = [NoiseRng::new(Default::default(), seed)];
        let time_ids = SamplingOptions::default().time_ids(*size);
        let start = Start { latents: None, masked: masked.as_ref(), time_ids };
        sampling.run(recipe, start, &mut rngs, false, on_step).await?;
        vae.run_on(&sampling.latent(0)?).await?;
        let [width, height] = *size;
        io::Picture::from_unit(width, height, &vae.read().await?)
    }

    /// Latents of the last image, NHWC and scaled.
    pub(super) async fn latents(&self) -> Result<Vec<f32>> {
        self.sampling.read().await
    }

    /// Makes the validation samples of `step` updates. Stopped, it leaves out those that are not there yet: a training waits
    /// for its state to be saved.
    pub(super) async fn show(&self, at: &TrainContext<'_>, step: usize, events: &mut EventSink<'_>) -> Result<()> {
        let job = at.job;
        if events.stopped() {
            return Ok(());
        }
        self.encode_prompts(at.model).await?;
        let vae = self.decoder(at, events).await?;
        let steps = self.recipe.trajectory.steps.len();
        let total = steps * job.sample_prompts.len();
        for (index, prompt) in job.sample_prompts.iter().enumerate() {
            let mut on_step = |i: usize, _: Option<Vec<f32>>| {
                events.say(Event::Progress { unit: "sample step", done: index * steps + i + 1, total });
                events.go_on()
            };
            let io::Picture { width, height, rgb } = match self.image(&vae, 1 + index, job.seed, &mut on_step).await {
                Err(Error::Interrupted { .. }) => return Ok(()),
                other => other?,
            };
            let parameters = format!("{prompt}\nStep: {step}, Seed: {}", job.seed);
            let picture = Picture { width, height, rgb, prompt: prompt.clone(), seed: job.seed, index, parameters };
            events.say(Event::Sample { step, picture });
            if events.stopped() {
                return Ok(());
            }
        }
        Ok(())
    }
}
