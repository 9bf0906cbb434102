//! Predictions at fixed noise and fixed timesteps: the loss on photos, and the drift from the model that the training
//! started from.

use std::sync::Arc;

use crate::base::DType;
use crate::base::rng::{CounterRng, Stream};
use crate::diffusion::NoiseSchedule;
use crate::error::Result;
use crate::gpu::{Gpu, Pool, Store};
use crate::graph::{Graph, Plan, Session, Tensor};
use crate::models::{Added, Conditioning, Context, Sample};
use crate::pipeline::hidden::Hidden;
use crate::pipeline::planning::Planning;
use crate::pipeline::{Masked, Model};

use super::super::TrainOptions;
use super::set::{EvaluationPhotos, LOSS_PHOTOS};

/// Timesteps of the loss, as shares of the noise schedule.
const LOSS_TIMES: [f64; 3] = [0.15, 0.5, 0.85];
/// Timesteps of the drift.
const DRIFT_TIMES: [f64; 2] = [0.3, 0.7];

/// Predictions of an evaluation, of which the last are those of the drift.
pub(super) fn count(images: usize) -> usize {
    LOSS_PHOTOS * LOSS_TIMES.len() + drift_count(images)
}

/// Predictions of the drift from `images` images.
pub(super) fn drift_count(images: usize) -> usize {
    images * DRIFT_TIMES.len()
}

/// Plan of a prediction for one image by the UNet as it is trained.
pub(super) struct PredictionPlan {
    pub plan: Arc<Plan>,
    at: Inputs,
}

#[derive(Clone, Copy)]
struct Inputs {
    noisy: Tensor,
    extra: Option<Tensor>,
    timestep: Tensor,
    hidden: Tensor,
    added: Option<Added>,
    prediction: Tensor,
}

impl PredictionPlan {
    /// Plans it for images of `width` x `height` pixels.
    pub fn new(
        job: &TrainOptions,
        model: &Model,
        planning: Planning<'_>,
        [width, height]: [usize; 2],
    ) -> Result<PredictionPlan> {
        let denoiser = model.denoiser_in_training(job, planning)?;
        let [h, w] = [height, width].map(|side| side / model.factor());
        let mut g = Graph::new();
        let noisy = g.input("noisy", [1, h, w, model.vae.latent_channels], DType::F32);
        let further = model.extra_channels();
        let extra = (further > 0).then(|| g.input("mask and masked latents", [1, h, w, further], DType::F32));
        let timestep = g.input("timestep", [1], DType::F32);
        let hidden = g.input("hidden", [1, model.prompt_tokens(), model.context_width()], DType::F32);
        let added = model.pooled_width().map(|width| Added {
            pooled: g.input("pooled", [1, width], DType::F32),
            time_ids: g.input("time ids", [1, 6], DType::F32),
        });
        let conditioning = Conditioning { context: Context::Hidden(hidden), added };
        let prediction = denoiser.predict(&mut g, Sample { latents: noisy, extra }, timestep, conditioning)?;
        g.output(prediction);
        let at = Inputs { noisy, extra, timestep, hidden, added, prediction };
        Ok(PredictionPlan { plan: planning.plan(&g)?, at })
    }
}

/// What is predicted for.
struct Probe {
    noisy: Vec<f32>,
    target: Vec<f32>,
    timestep: usize,
    prompt: usize,
    time_ids: [f32; 6],
}

/// Makes probes, each with noise of its own.
struct Noising<'a> {
    schedule: &'a NoiseSchedule,
    train_steps: usize,
    rng: CounterRng,
    next: u32,
}

impl Noising<'_> {
    fn probe(&mut self, latents: &[f32], share: f64, prompt: usize, time_ids: [f32; 6]) -> Probe {
        let timestep = ((self.train_steps as f64 * share) as usize).min(self.train_steps.saturating_sub(1));
        let noise = self.rng.normals(self.next, 0, latents.len());
        self.next += 1;
        let (a, b) = self.schedule.target_coefficients(timestep);
        let target = latents.iter().zip(&noise).map(|(x, n)| a * n + b * x).collect();
        Probe { noisy: self.schedule.add_noise(latents, &noise, timestep), target, timestep, prompt, time_ids }
    }
}

/// The session of predictions, with what is predicted for.
pub(super) struct Predictions {
    session: Session,
    at: Inputs,
    masked: Option<Vec<f32>>,
    photos: Vec<Probe>,
    class: Vec<Probe>,
    /// Predictions for `class` by the model that the training started from.
    reference: Vec<Vec<f32>>,
}

impl Predictions {
    /// Puts `plan` on the device, beside the training's own weights in `store`.
    pub async fn new(
        gpu: &Gpu,
        plan: PredictionPlan,
        pool: &mut Pool,
        store: &Store,
        (job, model, data): (&TrainOptions, &Model, &EvaluationPhotos),
    ) -> Result<Predictions> {
        pool.reserve(gpu, &plan.plan.arena)?;
        let session = Session::new(gpu, plan.plan, pool, store).await?;
        let (factor, channels) = (model.vae.scaling_factor, model.vae.latent_channels);
        let extra = |masked: &Masked| masked.extra(&vec![0.0; masked.posterior.mean.len()], factor, channels);
        let masked = data.masked.as_ref().map(extra);
        let schedule = NoiseSchedule::new(&model.schedule);
        let mut noising = Noising::new(job, model, &schedule, 0);
        let mut photos = Vec::new();
        for photo in &data.photos {
            let mean = photo.posterior.sample(&vec![0.0; photo.posterior.mean.len()], factor);
            photos.extend(LOSS_TIMES.map(|share| noising.probe(&mean, share, photo.prompt, photo.time_ids)));
        }
        Ok(Predictions { session, at: plan.at, masked, photos, class: Vec::new(), reference: Vec::new() })
    }

    /// Predicts under `prompt` for `latents` as the model does that the training starts from, for the drift.
    pub async fn refer(
        &mut self,
        (job, model): (&TrainOptions, &Model),
        hidden: &Hidden,
        latents: &[Vec<f32>],
        (prompt, time_ids): (usize, [f32; 6]),
    ) -> Result<()> {
        let schedule = NoiseSchedule::new(&model.schedule);
        let mut noising = Noising::new(job, model, &schedule, 1 << 16);
        let probes = latents.iter().flat_map(|latents| DRIFT_TIMES.map(|share| (latents, share)));
        self.class = probes.map(|(latents, share)| noising.probe(latents, share, prompt, time_ids)).collect();
        self.reference = Vec::new();
        for i in 0..self.class.len() {
            let predicted = self.predict(&self.class[i], hidden).await?;
            self.reference.push(predicted);
        }
        Ok(())
    }

    /// Mean squared error of the predictions for the photos; 0 without any.
    pub async fn loss(&self, hidden: &Hidden) -> Result<f64> {
        let mut sum = 0.0;
        for probe in &self.photos {
            let predicted = self.predict(probe, hidden).await?;
            sum += squares(&predicted, &probe.target) / predicted.len().max(1) as f64;
        }
        Ok(sum / self.photos.len().max(1) as f64)
    }

    /// Relative change of predictions since the training started: the norm of all differences by that of the first predictions.
    pub async fn drift(&self, hidden: &Hidden) -> Result<f64> {
        let (mut change, mut whole) = (0.0, 0.0);
        for (probe, reference) in self.class.iter().zip(&self.reference) {
            let predicted = self.predict(probe, hidden).await?;
            change += squares(&predicted, reference);
            whole += reference.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>();
        }
        Ok(if whole > 0.0 { (change / whole).sqrt() } else { 0.0 })
    }

    async fn predict(&self, probe: &Probe, hidden: &Hidden) -> Result<Vec<f32>> {
        let Predictions { session, at, masked, .. } = self;
        let gpu = session.gpu();
        gpu.breathe().await;
        session.write(at.noisy, &probe.noisy)?;
        session.write(at.timestep, &[probe.timestep as f32])?;
        if let (Some(extra), Some(masked)) = (at.extra, masked) {
            session.write(extra, masked)?;
        }
        hidden.give(gpu, &[probe.prompt], session, at.hidden)?;
        if let Some(Added { pooled, time_ids }) = at.added {
            hidden.give_pooled(gpu, &[probe.prompt], session, pooled)?;
            session.write(time_ids, &probe.time_ids)?;
        }
        session.run().await?;
        session.read(at.prediction).await
    }
}

impl<'a> Noising<'a> {
    fn new(job: &TrainOptions, model: &Model, schedule: &'a NoiseSchedule, first: u32) -> Noising<'a> {
        let rng = CounterRng::new(job.seed, Stream::Evaluation);
        Noising { schedule, train_steps: model.schedule.num_train_timesteps, rng, next: first }
    }
}

/// Sum of squared differences, in f64.
fn squares(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(x, y)| (f64::from(*x) - f64::from(*y)).powi(2)).sum()
}
