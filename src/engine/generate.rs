//! `generate`: prompts to pictures.

use crate::base::layout;
use crate::base::rng::NoiseRng;
use crate::diffusion::{Prediction, SamplerOptions, Trajectory, default_steps_and_guidance};
use crate::error::{Error, Result};
use crate::event::{Event, Flow, Listener, Picture};
use crate::gpu::{Pool, Store};
use crate::io;
use crate::job::{GenerateJob, PredictionArg, RngKind, SamplingOptions};

use super::encode::{Hidden, Planning, VaeSession, posterior};
use super::plan::GeneratePlans;
use super::sample::Sampling;
use super::{Engine, Generated, Latents, Model};

/// How a job samples, all defaults resolved.
pub(crate) struct Recipe {
    /// Coefficients of every step.
    pub trajectory: Trajectory,
    /// Steps that were asked for.
    pub steps: usize,
    /// Guidance.
    pub guidance: f64,
}

impl Recipe {
    /// Resolves `options` for `model`; `strength` for image to image.
    pub(crate) fn new(
        model: &Model,
        options: &SamplingOptions,
        prediction: Option<PredictionArg>,
        strength: Option<f64>,
    ) -> Result<Recipe> {
        let (steps, guidance) = default_steps_and_guidance(&model.schedule, options.sampler);
        let steps = options.steps.unwrap_or(steps);
        let guidance = options.guidance.unwrap_or(f64::from(guidance));
        if !guidance.is_finite() || guidance < 0.0 {
            return Err(Error::Usage(format!("--guidance {guidance}: must be 0 or more")));
        }
        let sampler = SamplerOptions {
            kind: options.sampler,
            spacing: options.spacing,
            karras: options.karras,
            prediction: prediction.map(|p| match p {
                PredictionArg::Epsilon => Prediction::Epsilon,
                PredictionArg::V => Prediction::V,
            }),
            original_steps: None,
        };
        let trajectory = match strength {
            Some(strength) if !(strength > 0.0 && strength <= 1.0) => {
                return Err(Error::Usage(format!("--strength {strength}: must be above 0 and at most 1")));
            }
            Some(strength) => Trajectory::image_to_image(&model.schedule, &sampler, steps, strength)?,
            None => Trajectory::new(&model.schedule, &sampler, steps)?,
        };
        Ok(Recipe { trajectory, steps, guidance })
    }

    /// Whether an unconditional pass runs.
    pub(crate) fn guided(&self) -> bool {
        self.guidance > 1.0
    }
}

pub(crate) fn noise_rng(kind: RngKind, seed: u64) -> NoiseRng {
    NoiseRng::new(
        match kind {
            RngKind::Torch => crate::base::rng::RngKind::Torch,
            RngKind::Philox => crate::base::rng::RngKind::Philox,
        },
        seed,
    )
}

pub(crate) fn interrupted(flow: Flow, what: &str) -> Result<()> {
    if flow != Flow::Continue { Err(Error::Interrupted(what.to_string())) } else { Ok(()) }
}

impl Engine {
    /// Makes the job's pictures; each goes to `listener` as it is done.
    ///
    /// # Errors
    /// For options that make no sense, files that are not what they should be, what does not fit the adapter, and when the
    /// listener stops the job.
    pub async fn generate(&self, job: &GenerateJob, listener: Listener<'_>) -> Result<Generated> {
        let model = self.open(&job.model, &job.loras, listener).await?;
        self.generate_with(&model, job, listener).await
    }

    /// The same with a model that is open already, whatever model and LoRAs the job names.
    ///
    /// # Errors
    /// As [`Engine::generate`].
    pub async fn generate_with(&self, model: &Model, job: &GenerateJob, listener: Listener<'_>) -> Result<Generated> {
        self.gpu.watched(self.make(model, job, listener)).await
    }

    async fn make(&self, model: &Model, job: &GenerateJob, listener: Listener<'_>) -> Result<Generated> {
        if job.prompts.is_empty() || job.count == 0 {
            return Err(Error::Usage("nothing to make: give a prompt and a --count of 1 or more".into()));
        }
        self.gpu.breathe().await;
        let init = job.init.as_ref().map(io::Picture::open).transpose()?;
        let strength = init.as_ref().map(|_| job.strength);
        let recipe = Recipe::new(model, &job.sampling, job.model.prediction, strength)?;
        let [width, height] = model.size(job.sampling.width, job.sampling.height)?;
        let (kind, steps, guidance) = (recipe.trajectory.kind.name(), recipe.steps, recipe.guidance);
        listener(Event::Note(format!("{kind}, {steps} steps, guidance {guidance}, {width}x{height}")));

        let mut texts = vec![model.tokens(&job.sampling.negative, listener)?];
        for prompt in &job.prompts {
            texts.push(model.tokens(prompt, listener)?);
        }
        interrupted(listener(Event::Phase("reading the prompts".into())), "")?;
        let planning = Planning { caps: self.gpu.caps(), variants: &self.variants };
        let plans = GeneratePlans::new(job, model, &recipe, planning, [width, height])?;
        let mut pool = Pool::default();
        pool.reserve(&self.gpu, &plans.pool())?;
        let GeneratePlans { encode, unet, params, sampling, decode, .. } = plans;
        let hidden = model.encode_prompts(&self.gpu, planning, &mut pool, &texts).await?;

        let start = match init.as_ref().zip(encode) {
            Some((picture, part)) => {
                let vae = VaeSession::new(&self.gpu, model, &mut pool, part).await?;
                let pixels = picture.prepare(width, height, io::Crop::CENTER, false)?;
                Some(posterior(&vae.run(&pixels).await?, model.vae.latent_channels))
            }
            None => None,
        };

        interrupted(listener(Event::Phase("loading the model".into())), "")?;
        let mut store = Store::new(&self.gpu);
        model.load(&mut store, "unet", &params).await?;
        let sampling = Sampling::new(&self.gpu, sampling, &unet, &mut pool, &mut store).await?;
        let (ends, steps) = self.sample_all(model, job, &recipe, &sampling, &store, &hidden, start, listener).await?;
        drop((sampling, store, hidden));
        interrupted(listener(Event::Phase("decoding".into())), "")?;
        let vae = VaeSession::new(&self.gpu, model, &mut pool, decode).await?;
        let mut pictures = Vec::with_capacity(steps.len());
        for index in 0..steps.len() {
            vae.run_on(ends.entry(&index.to_string())?).await?;
            let rgb = match &self.screen {
                Some(screen) => {
                    screen.show(&vae.made()?, [width, height]);
                    Vec::new()
                }
                None => io::Picture::from_unit(width, height, &vae.read().await?)?.rgb,
            };
            let prompt = &job.prompts[index / job.count];
            let seed = job.sampling.seed.wrapping_add((index % job.count) as u64);
            let parameters = parameters(job, model, &recipe, prompt, seed, [width, height]);
            let picture = Picture { width, height, rgb, prompt: prompt.clone(), seed, index, parameters };
            interrupted(listener(Event::Picture(picture.clone())), "")?;
            pictures.push(picture);
        }
        let latents = if job.keep_latents { Some(gather(model, &recipe, [width, height], &steps)) } else { None };
        Ok(Generated { pictures, latents })
    }

    /// The last latent of every picture (NHWC) by its number, and those after every step where the job keeps them.
    #[allow(clippy::too_many_arguments, reason = "the middle of one job, apart for its length")]
    async fn sample_all(
        &self,
        model: &Model,
        job: &GenerateJob,
        recipe: &Recipe,
        sampling: &Sampling,
        store: &Store,
        hidden: &Hidden,
        start: Option<(Vec<f32>, Vec<f32>)>,
        listener: Listener<'_>,
    ) -> Result<(Store, Vec<Vec<Vec<f32>>>)> {
        interrupted(listener(Event::Phase("sampling".into())), "")?;
        let pictures = job.prompts.len() * job.count;
        let total = pictures * recipe.trajectory.steps.len();
        let mut results = Vec::with_capacity(pictures);
        let mut ends = Store::new(&self.gpu);
        let state = sampling.latent()?;
        let keys: Vec<(String, u64)> = (0..pictures).map(|i| (i.to_string(), state.bytes)).collect();
        ends.allocate("latents", &keys)?;
        let read = job.keep_latents || (job.previews && self.screen.is_none());
        for index in 0..pictures {
            if index % job.count == 0 {
                sampling.set_prompt(hidden, [0, 1 + index / job.count]).await?;
            }
            let mut rng = noise_rng(job.sampling.rng, job.sampling.seed.wrapping_add((index % job.count) as u64));
            // diffusers draws the posterior's sample before the start noise, from the same generator.
            let latent = start.as_ref().map(|(mean, std)| {
                let noise = sampling.draw(&mut rng);
                let scale = model.vae.scaling_factor as f32;
                mean.iter().zip(std).zip(noise).map(|((m, s), n)| (m + s * n) * scale).collect::<Vec<f32>>()
            });
            let mut steps = Vec::new();
            let done = index * recipe.trajectory.steps.len();
            let trajectory = &recipe.trajectory.steps;
            let mut on_step = |i: usize, latent: Option<Vec<f32>>| {
                if job.previews {
                    // The next step's scale brings what it starts from to about unit variance.
                    let scale = trajectory.get(i + 1).map_or(1.0, |next| next.input_scale);
                    let [height, width] = sampling.latent_size();
                    let rgb = match (&self.screen, &latent) {
                        (Some(screen), _) => {
                            screen.preview(index, &state, &model.vae.colours(scale), [width, height]);
                            Vec::new()
                        }
                        (None, Some(latent)) => {
                            model.vae.preview(&latent.iter().map(|x| x * scale).collect::<Vec<f32>>())
                        }
                        (None, None) => Vec::new(),
                    };
                    let steps = trajectory.len();
                    let preview = Event::Preview { index, step: i + 1, steps, width, height, rgb };
                    interrupted(listener(preview), "")?;
                }
                steps.extend(latent.filter(|_| job.keep_latents));
                interrupted(listener(Event::Progress { unit: "step", done: done + i + 1, total }), "")
            };
            let latent = latent.as_deref();
            sampling.run(store, &recipe.trajectory, recipe.guidance, latent, &mut rng, read, &mut on_step).await?;
            self.gpu.copy(&state, ends.entry(&index.to_string())?, state.bytes);
            results.push(steps);
        }
        Ok((ends, results))
    }
}

fn parameters(
    job: &GenerateJob,
    model: &Model,
    recipe: &Recipe,
    prompt: &str,
    seed: u64,
    [w, h]: [usize; 2],
) -> String {
    let name = |path: &std::path::Path| path.file_stem().map_or_else(String::new, |s| s.to_string_lossy().into_owned());
    let model_name = job.model.model.as_deref().map_or_else(|| model.checkpoint.name().to_string(), name);
    io::Parameters {
        prompt: prompt.to_string(),
        negative: job.sampling.negative.clone(),
        steps: recipe.steps,
        sampler: recipe.trajectory.kind.name().to_string(),
        guidance: recipe.guidance,
        seed,
        size: (w, h),
        model: model_name,
        loras: job.loras.iter().map(|l| (name(&l.path), l.scale)).collect(),
        strength: job.init.as_ref().map(|_| job.strength),
    }
    .to_string()
}

/// What a job keeps: the latents of every picture after each of its steps.
fn gather(model: &Model, recipe: &Recipe, [w, h]: [usize; 2], latents: &[Vec<Vec<f32>>]) -> Latents {
    let (c, h, w) = (model.unet.in_channels, h / model.factor(), w / model.factor());
    let first = |values: &[f32]| layout::to_channels_first(values, [1, c, h, w]);
    let steps = recipe.trajectory.steps.len();
    Latents {
        shape: vec![latents.len(), c, h, w],
        last: latents.iter().flat_map(|steps| steps.last().map(|last| first(last)).unwrap_or_default()).collect(),
        steps: (0..steps).map(|s| latents.iter().flat_map(|steps| first(&steps[s])).collect()).collect(),
        timesteps: recipe.trajectory.timesteps.clone(),
    }
}
