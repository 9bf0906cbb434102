//! Predictions of the denoiser for prompts, on latents that the caller gives.

use crate::base::layout;
use crate::base::rng::NoiseRng;
use crate::diffusion::{SamplerKind, SamplerOptions, Spacing, Trajectory};
use crate::error::Result;
use crate::event::Event;
use crate::gpu::{Gpu, Pool, Store};
use crate::graph::Session;
use crate::models::Added;
use crate::pipeline::events::EventSink;
use crate::pipeline::hidden::Hidden;
use crate::pipeline::{Model, SamplingOptions};

use super::plans::PredictionPlan;

/// Steps from noise to an image, of which some are looked at.
const STEPS: usize = 12;
/// Number of each step that is looked at: the noisiest. There a text decides most, and a word that was trained to mean
/// something is furthest from others; later any unusual word changes details of what the class has begun.
const SEEN: [usize; 3] = [0, 1, 2];

/// Noised latent at a timestep.
#[derive(Clone)]
pub(super) struct Noised {
    pub latent: Vec<f32>,
    pub timestep: f64,
    /// The prediction of the prompt that led here.
    pub prediction: Vec<f32>,
}

/// Denoiser on the device, with the prompts that it predicts for.
pub(super) struct Predictor<'a> {
    session: Session,
    plan: &'a PredictionPlan,
    hidden: &'a Hidden,
    /// Sizes that a family reads which is told of them.
    time_ids: [f32; 6],
    /// Predictions made, of how many.
    pub done: usize,
    pub total: usize,
}

impl<'a> Predictor<'a> {
    /// Loads the weights of `plan` for images of `size`, width and height in pixels.
    pub async fn new(
        gpu: &Gpu,
        model: &Model,
        plan: &'a PredictionPlan,
        (pool, hidden): (&mut Pool, &'a Hidden),
        size: [usize; 2],
    ) -> Result<Predictor<'a>> {
        pool.fit(gpu, &plan.plan.arena)?;
        let weights = Store::beside(gpu, model.weights(gpu, "UNet", &plan.params).await?);
        let session = Session::new(gpu, plan.plan.clone(), pool, &weights).await?;
        let time_ids = SamplingOptions::default().time_ids(size);
        Ok(Predictor { session, plan, hidden, time_ids, done: 0, total: 0 })
    }

    /// Predicts for each prompt, by its number, on the latent and timestep beside it; NHWC.
    pub async fn predict(&mut self, asked: &[(usize, &Noised)], events: &mut EventSink<'_>) -> Result<Vec<Vec<f32>>> {
        let mut predictions = Vec::with_capacity(asked.len());
        for chunk in asked.chunks(self.plan.rows) {
            // The last rows are predicted again where there are fewer than planned.
            let row = |i: usize| chunk[i.min(chunk.len() - 1)];
            let rows: Vec<(usize, &Noised)> = (0..self.plan.rows).map(row).collect();
            let seen = self.run(&rows).await?;
            let values = seen.len() / self.plan.rows;
            predictions.extend(seen.chunks_exact(values.max(1)).take(chunk.len()).map(<[f32]>::to_vec));
            self.done += chunk.len();
            events.tell_compiled(self.session.gpu());
            events.say(Event::Progress { unit: "prediction", done: self.done, total: self.total.max(self.done) });
            events.go_on()?;
        }
        Ok(predictions)
    }

    async fn run(&self, rows: &[(usize, &Noised)]) -> Result<Vec<f32>> {
        let inputs = &self.plan.inputs;
        let samples: Vec<f32> = rows.iter().flat_map(|(_, noised)| self.sample(&noised.latent)).collect();
        let timesteps: Vec<f32> = rows.iter().map(|(_, noised)| noised.timestep as f32).collect();
        let prompts: Vec<usize> = rows.iter().map(|(prompt, _)| *prompt).collect();
        let gpu = self.session.gpu();
        self.session.write(inputs.sample, &samples)?;
        self.session.write(inputs.timestep, &timesteps)?;
        self.hidden.give(gpu, &prompts, &self.session, inputs.hidden)?;
        if let Some(Added { pooled, time_ids }) = inputs.added {
            self.hidden.give_pooled(gpu, &prompts, &self.session, pooled)?;
            self.session.write(time_ids, &self.time_ids.repeat(rows.len()))?;
        }
        self.session.run().await?;
        self.session.read(inputs.output).await
    }

    /// A latent as the network reads it. An inpainting model keeps nothing of its image: all of the mask is white, and of
    /// the masked image, which is the same for every prompt, it is told zeros.
    fn sample(&self, latent: &[f32]) -> Vec<f32> {
        let ([_, _, channels], extra) = (self.plan.latent, self.plan.extra);
        let beside = |at: usize| if at == 0 { 1.0 } else { 0.0 };
        let pixels = latent.chunks_exact(channels.max(1));
        pixels.flat_map(|pixel| pixel.iter().copied().chain((0..extra).map(beside))).collect()
    }

    /// Follows prompt number `prompt` from noise of each of `seeds` towards an image, and returns the latents that are
    /// looked at, by timestep and seed, with their predictions: words are compared on latents that the model meets.
    pub async fn follow(
        &mut self,
        trajectory: &Trajectory,
        prompt: usize,
        seeds: &[u64],
        events: &mut EventSink<'_>,
    ) -> Result<Vec<Vec<Noised>>> {
        let [h, w, channels] = self.plan.latent;
        let noise = |seed: &u64| {
            let drawn = NoiseRng::new(Default::default(), *seed).randn(h * w * channels);
            let noise = layout::to_channels_last(&drawn, [1, channels, h, w]);
            noise.iter().map(|x| x * trajectory.init_scale).collect::<Vec<f32>>()
        };
        let mut latents: Vec<Vec<f32>> = seeds.iter().map(noise).collect();
        let mut seen = Vec::with_capacity(SEEN.len());
        for (number, step) in trajectory.steps.iter().enumerate().take(SEEN[SEEN.len() - 1] + 1) {
            let scaled = |latent: &Vec<f32>| latent.iter().map(|x| x * step.input_scale).collect();
            let here = |latent| Noised { latent: scaled(latent), timestep: step.timestep, prediction: Vec::new() };
            let mut noised: Vec<Noised> = latents.iter().map(here).collect();
            let asked: Vec<(usize, &Noised)> = noised.iter().map(|noised| (prompt, noised)).collect();
            let predicted = self.predict(&asked, events).await?;
            for (latent, prediction) in latents.iter_mut().zip(&predicted) {
                let [own, output] = [step.matrix[0], step.matrix[1]];
                latent.iter_mut().zip(prediction).for_each(|(x, out)| *x = own * *x + output * out);
            }
            noised.iter_mut().zip(predicted).for_each(|(noised, prediction)| noised.prediction = prediction);
            if SEEN.contains(&number) {
                seen.push(noised);
            }
        }
        Ok(seen)
    }
}

/// Predictions that [`Predictor::follow`] makes of each seed.
pub(super) const FOLLOWED: usize = SEEN[SEEN.len() - 1] + 1;
/// Timesteps that are looked at.
pub(super) const TIMESTEPS: usize = SEEN.len();

/// Steps of DDIM, which keeps nothing but the latent and draws no noise.
pub(super) fn trajectory(model: &Model, prediction: Option<crate::Prediction>) -> Result<Trajectory> {
    let options = SamplerOptions {
        kind: Some(SamplerKind::Ddim),
        spacing: Some(Spacing::Trailing),
        karras: false,
        prediction,
        original_steps: None,
    };
    Trajectory::new(&model.schedule, &options, STEPS)
}
