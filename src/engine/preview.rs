//! Sample pictures while training.

use crate::base::DType;
use crate::error::Result;
use crate::event::{Event, Flow, Listener, Picture};
use crate::gpu::{Pool, Store};
use crate::io;
use crate::job::{Method, TrainJob};
use crate::models::UNet;
use crate::nn::{Mode, Scope, Settings};

use super::encode::{Hidden, Part, Planning, VaeSession};
use super::generate::{Recipe, noise_rng};
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
        planning: Planning<'_>,
        pool: &mut Pool,
        store: &mut Store,
        hidden: (Hidden, usize),
    ) -> Result<Preview> {
        let side = job.side(model)?;
        let (recipe, unet, plan) = model.preview_sampling(job, planning, [side, side])?;
        let sampling = Sampling::new(&self.gpu, plan, &unet, pool, store).await?;
        Ok(Preview { sampling, recipe, hidden, size: [side, side] })
    }

    pub(super) async fn show(
        &self,
        job: &TrainJob,
        model: &Model,
        preview: &mut Preview,
        store: &Store,
        step: usize,
        listener: Listener<'_>,
    ) -> Result<Flow> {
        let planning = Planning { caps: self.gpu.caps(), variants: &self.variants };
        let part = model.plan_vae_decode(planning, 1, preview.size, true)?;
        let vae = VaeSession::new(&self.gpu, model, &mut Pool::default(), part).await?;
        let mut flow = Flow::Continue;
        for (index, prompt) in job.sample_prompts.iter().enumerate() {
            let (hidden, first) = &preview.hidden;
            preview.sampling.set_prompt(hidden, [*first, first + 1 + index]).await?;
            let mut rng = noise_rng(Default::default(), job.seed);
            let recipe = &preview.recipe;
            let sampling = &preview.sampling;
            sampling.run(store, &recipe.trajectory, recipe.guidance, None, &mut rng, false, &mut |_, _| Ok(())).await?;
            vae.run_on(&sampling.latent()?).await?;
            let [width, height] = preview.size;
            let pixels = io::Picture::from_unit(width, height, &vae.read().await?)?;
            let parameters = format!("{prompt}\nStep: {step}, Seed: {}", job.seed);
            let picture =
                Picture { width, height, rgb: pixels.rgb, prompt: prompt.clone(), seed: job.seed, index, parameters };
            flow = match listener(Event::Sample { step, picture }) {
                Flow::Continue => flow,
                other => other,
            };
        }
        Ok(flow)
    }
}
