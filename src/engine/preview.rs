//! Sample pictures while training.

use crate::base::DType;
use crate::base::rng::NoiseRng;
use crate::error::{Error, Result};
use crate::event::{Event, Picture};
use crate::gpu::{Pool, Store};
use crate::io;
use crate::job::{Method, TrainJob};
use crate::models::UNet;
use crate::nn::{Mode, Scope, Settings};

use super::ear::Ear;
use super::encode::{Hidden, Part, Planning, VaeSession};
use super::recipe::Recipe;
use super::sample::{Extent, Sampling, SamplingPlan};
use super::{Engine, Model};

/// Sample pictures while training, from the weights as they are.
pub(super) struct Preview {
    sampling: Sampling,
    recipe: Recipe,
    /// Hidden states, of which the empty prompt's and the sample prompts' begin at a number.
    hidden: (Hidden, usize),
    size: [usize; 2],
}

impl Model {
    fn preview_sampling(
        &self,
        job: &TrainJob,
        planning: Planning<'_>,
        size: [usize; 2],
    ) -> Result<(Recipe, UNet, SamplingPlan)> {
        let recipe = Recipe::new(self, &Default::default(), job.model.prediction, None)?;
        let dtype = if job.method == Method::Full { DType::F32 } else { self.dtype(planning.caps) };
        let scope = Scope::new("unet", Settings { dtype, mode: Mode::Training, lora: job.lora() });
        let unet = UNet::new(&scope, self.unet.clone())?;
        let extent = Extent::new(self, size, recipe.guided(), recipe.trajectory.slots);
        let plan = SamplingPlan::new(planning, &unet, Mode::Training, extent)?;
        Ok((recipe, unet, plan))
    }

    /// Plans of sample pictures: sampling, and decoding beside it.
    pub(super) fn plan_preview(
        &self,
        job: &TrainJob,
        planning: Planning<'_>,
        size: [usize; 2],
    ) -> Result<(SamplingPlan, Part)> {
        Ok((self.preview_sampling(job, planning, size)?.2, self.plan_vae_decode(planning, 1, size, true)?))
    }
}

impl Engine {
    pub(super) async fn preview(
        &self,
        job: &TrainJob,
        model: &Model,
        pool: &mut Pool,
        store: &mut Store,
        hidden: (Hidden, usize),
    ) -> Result<Preview> {
        let side = job.side(model)?;
        let (recipe, unet, plan) = model.preview_sampling(job, self.planning(), [side, side])?;
        self.gpu.breathe().await;
        let sampling = Sampling::new(&self.gpu, plan, &unet, pool, store).await?;
        Ok(Preview { sampling, recipe, hidden, size: [side, side] })
    }

    /// Makes the sample pictures of `step` updates. Stopped, it leaves out those that are not there yet: a training waits
    /// for its state to be saved.
    pub(super) async fn show(
        &self,
        job: &TrainJob,
        model: &Model,
        preview: &Preview,
        store: &Store,
        step: usize,
        ear: &mut Ear<'_>,
    ) -> Result<()> {
        let Preview { sampling, recipe, hidden: (hidden, first), size } = preview;
        if ear.stopped() {
            return Ok(());
        }
        let part = model.plan_vae_decode(self.planning(), 1, *size, true)?;
        self.gpu.breathe().await;
        let vae = VaeSession::new(&self.gpu, model, &mut Pool::default(), part).await?;
        let (steps, total) = (recipe.trajectory.steps.len(), recipe.trajectory.steps.len() * job.sample_prompts.len());
        for (index, prompt) in job.sample_prompts.iter().enumerate() {
            sampling.set_prompt(hidden, [*first, first + 1 + index]).await?;
            let mut rng = NoiseRng::new(Default::default(), job.seed);
            let mut on_step = |i: usize, _: Option<Vec<f32>>| {
                ear.say(Event::Progress { unit: "sample step", done: index * steps + i + 1, total });
                ear.go_on()
            };
            match sampling.run(store, &recipe.trajectory, recipe.guidance, None, &mut rng, false, &mut on_step).await {
                Err(Error::Interrupted(_)) => return Ok(()),
                other => other?,
            }
            vae.run_on(&sampling.latent()?).await?;
            let [width, height] = *size;
            let rgb = io::Picture::from_unit(width, height, &vae.read().await?)?.rgb;
            let parameters = format!("{prompt}\nStep: {step}, Seed: {}", job.seed);
            let picture = Picture { width, height, rgb, prompt: prompt.clone(), seed: job.seed, index, parameters };
            ear.say(Event::Sample { step, picture });
            if ear.stopped() {
                return Ok(());
            }
        }
        Ok(())
    }
}
