//! Sample pictures while training.

use std::sync::Arc;

use crate::base::rng::NoiseRng;
use crate::error::{Error, Result};
use crate::event::{Event, Picture};
use crate::gpu::{Gpu, Pool, Store};
use crate::graph::Plan;
use crate::io;
use crate::models::Denoiser;
use crate::nn::{Mode, Scope, Settings};
use crate::pipeline::autoencode::VaeSession;
use crate::pipeline::denoise::{Extent, Sampling, SamplingPlan, Start};
use crate::pipeline::encode::TextSessions;
use crate::pipeline::events::EventSink;
use crate::pipeline::hidden::Hidden;
use crate::pipeline::planning::{Part, Planning};
use crate::pipeline::recipe::Recipe;
use crate::pipeline::text::{TextParts, Tokens};
use crate::pipeline::{Masked, Model, SamplingOptions};

use super::{Method, TrainOptions};

/// Sample pictures while training, from the weights as they are.
pub(super) struct Preview {
    sampling: Sampling,
    recipe: Recipe,
    prompts: SamplePrompts,
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
    /// Hidden states by the untouched text encoder, of other prompts too.
    pub hidden: Hidden,
    /// The number of the empty prompt's; those of the sample prompts follow.
    pub first: usize,
    /// Token ids of each.
    pub ids: Vec<Tokens>,
}

/// Plans of sample pictures.
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

    /// Whether the text encoders are trained, and encode the prompts of every sample anew.
    pub fn encodes(&self) -> bool {
        self.text.is_some()
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
        self.plan_texts(&settings, planning, [1, self.prompt_tokens()], None).await.map(Some)
    }

    fn preview_sampling(
        &self,
        job: &TrainOptions,
        planning: Planning<'_>,
        size: [usize; 2],
    ) -> Result<(Recipe, Box<dyn Denoiser>, SamplingPlan)> {
        let recipe = Recipe::new(self, &Default::default(), job.model.prediction, None)?;
        let storage = match job.method {
            Method::Full => Settings::default(),
            Method::Lora => self.settings(planning.caps, &Default::default()),
        };
        let scope = Scope::new("unet", Settings { mode: Mode::Training, lora: job.lora(), ..storage });
        let denoiser = self.unet.denoiser(&scope)?;
        let extent = Extent::new(self, size, recipe.guided(), recipe.trajectory.slots);
        let plan = SamplingPlan::new(planning, &*denoiser, Mode::Training, extent)?;
        Ok((recipe, denoiser, plan))
    }

    /// Plans of sample pictures of `size`, width and height in pixels.
    pub(super) async fn plan_preview(
        &self,
        job: &TrainOptions,
        planning: Planning<'_>,
        size: [usize; 2],
    ) -> Result<SamplePlans> {
        let (recipe, denoiser, sampling) = self.preview_sampling(job, planning, size)?;
        let decode = self.plan_vae_decode(planning, 1, size, true)?;
        let encode = self.inpaints().then(|| self.plan_vae_encode(planning, 1, size)).transpose()?;
        Ok(SamplePlans { recipe, denoiser, sampling, text: self.preview_text(job, planning).await?, decode, encode })
    }
}

impl Preview {
    /// Puts the plans of sample pictures on the device, beside the training's own weights in `store`.
    pub(super) async fn new(
        gpu: &Gpu,
        job: &TrainOptions,
        model: &Model,
        plans: SamplePlans,
        pool: &mut Pool,
        store: &Arc<Store>,
        prompts: SamplePrompts,
    ) -> Result<Preview> {
        let side = job.side(model)?;
        let SamplePlans { recipe, denoiser, sampling, text, decode, encode } = plans;
        let masked = match encode {
            Some(part) => {
                let vae = VaeSession::new(gpu, model, &mut Pool::default(), &part).await?;
                Some(Masked::nothing(&vae, model, [side, side]).await?)
            }
            None => None,
        };
        let sampling = Sampling::new(gpu, &sampling, &*denoiser, pool, [store.clone()]).await?;
        let text = match text {
            Some(parts) => Some(TextSessions::new(gpu, model, &parts, (pool, store), &prompts.hidden).await?),
            None => None,
        };
        Ok(Preview { sampling, recipe, prompts, text, decode, size: [side, side], masked })
    }

    /// Makes the sample pictures of `step` updates. Stopped, it leaves out those that are not there yet: a training waits
    /// for its state to be saved.
    pub(super) async fn show(
        &self,
        gpu: &Gpu,
        job: &TrainOptions,
        model: &Model,
        step: usize,
        events: &mut EventSink<'_>,
    ) -> Result<()> {
        let Preview { sampling, recipe, prompts: SamplePrompts { hidden, first, ids }, text, decode, size, masked } =
            self;
        if events.stopped() {
            return Ok(());
        }
        for (index, ids) in ids.iter().enumerate() {
            let Some(sessions) = text else { break };
            // The empty prompt stays zeros where it stands for them.
            if index > 0 || !model.zeros {
                sessions.encode(model, ids, hidden, first + index).await?;
            }
        }
        let mut pool = Pool::default();
        let vae = events.during(gpu, VaeSession::new(gpu, model, &mut pool, decode)).await?;
        let (steps, total) = (recipe.trajectory.steps.len(), recipe.trajectory.steps.len() * job.sample_prompts.len());
        for (index, prompt) in job.sample_prompts.iter().enumerate() {
            sampling.set_prompt(hidden, [*first, first + 1 + index]).await?;
            let mut rng = NoiseRng::new(Default::default(), job.seed);
            let mut on_step = |i: usize, _: Option<Vec<f32>>| {
                events.say(Event::Progress { unit: "sample step", done: index * steps + i + 1, total });
                events.go_on()
            };
            let time_ids = SamplingOptions::default().time_ids(*size);
            let start = Start { latents: None, masked: masked.as_ref(), time_ids };
            match sampling
                .run(&recipe.trajectory, [recipe.guidance, recipe.rescale], start, &mut rng, false, &mut on_step)
                .await
            {
                Err(Error::Interrupted { .. }) => return Ok(()),
                other => other?,
            }
            vae.run_on(&sampling.latent()?).await?;
            let [width, height] = *size;
            let rgb = io::Picture::from_unit(width, height, &vae.read().await?)?.rgb;
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
