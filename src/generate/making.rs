//! Images out of latents: sampled one after another, then decoded.

use crate::base::layout;
use crate::base::rng::NoiseRng;
use crate::error::{Error, Result};
use crate::event::{Event, Phase, Picture};
use crate::gpu::{Pool, Store};
use crate::io;
use crate::pipeline::autoencode::VaeSession;
use crate::pipeline::context::{Context, PictureSink};
use crate::pipeline::denoise::{Sampling, Start};
use crate::pipeline::events::EventSink;
use crate::pipeline::hidden::Hidden;
use crate::pipeline::planning::Part;
use crate::pipeline::recipe::Recipe;
use crate::pipeline::{Model, Posterior};

use super::GenerateOptions;
use super::generated::Latents;
use super::start_image::Encoded;

/// A job whose model, sampler and size are settled.
pub(super) struct Making<'a> {
    pub context: &'a Context,
    pub model: &'a Model,
    pub job: &'a GenerateOptions,
    pub recipe: &'a Recipe,
    /// Width and height in pixels.
    pub size: [usize; 2],
    /// Names and digests of the start image and the mask.
    pub start_names: Vec<(&'static str, String)>,
}

/// Images that are sampled to their end: of a job that was stopped, those before the one that was under way.
pub(super) struct Sampled {
    /// The last latent of each (NHWC) by its number.
    ends: Store,
    /// For each the latents after every step, where the job keeps them.
    pub steps: Vec<Vec<Vec<f32>>>,
}

impl Making<'_> {
    fn pictures(&self) -> usize {
        self.job.images()
    }

    /// The seed of image number `index`.
    fn seed(&self, index: usize) -> u64 {
        self.job.sampling.seed.wrapping_add((index % self.job.count) as u64)
    }

    /// Samples image after image, from noise or from what is `encoded`.
    pub async fn sample(
        &self,
        sampling: &Sampling,
        hidden: &Hidden,
        encoded: Encoded,
        events: &mut EventSink<'_>,
    ) -> Result<Sampled> {
        let Making { context, job, recipe, .. } = self;
        let mut sampled = Sampled { ends: Store::new(&context.gpu), steps: Vec::with_capacity(self.pictures()) };
        let state = sampling.latent()?;
        let keys: Vec<(String, u64)> = (0..self.pictures()).map(|i| (i.to_string(), state.bytes)).collect();
        sampled.ends.allocate("latents", &keys)?;
        let read = job.keep_latents || (job.previews && matches!(context.pictures, PictureSink::Pixels));
        for index in 0..self.pictures() {
            if index % job.count == 0 {
                sampling.set_prompt(hidden, [0, 1 + index / job.count]).await?;
            }
            let mut rng = NoiseRng::new(job.sampling.rng, self.seed(index));
            // diffusers draws the posterior's sample before the start noise, from the same generator.
            let latents = encoded.image.as_ref().map(|Posterior { mean, std }| {
                let noise = sampling.draw(&mut rng);
                let scale = self.model.vae.scaling_factor as f32;
                mean.iter().zip(std).zip(noise).map(|((m, s), n)| (m + s * n) * scale).collect::<Vec<f32>>()
            });
            let mut steps = Vec::new();
            let mut on_step = |i: usize, latent: Option<Vec<f32>>| {
                let outcome = self.tell(index, i, sampling, latent.as_deref(), events);
                steps.extend(latent.filter(|_| job.keep_latents));
                outcome
            };
            let time_ids = job.sampling.time_ids(self.size);
            let start = Start { latents: latents.as_deref(), masked: encoded.masked.as_ref(), time_ids };
            match sampling.run(recipe, start, &mut rng, read, &mut on_step).await {
                Ok(()) => {}
                // What came before it is complete.
                Err(Error::Interrupted { .. }) => break,
                Err(e) => return Err(e),
            }
            context.gpu.copy(&state, sampled.ends.entry(&index.to_string())?)?;
            sampled.steps.push(steps);
            if events.stopped() {
                break;
            }
        }
        Ok(sampled)
    }

    /// Says that image number `index` has done step `i`, after which its latent is `latent`.
    ///
    /// # Errors
    /// [`Error::Interrupted`] where the image is not to be gone on with.
    fn tell(
        &self,
        index: usize,
        i: usize,
        sampling: &Sampling,
        latent: Option<&[f32]>,
        events: &mut EventSink<'_>,
    ) -> Result<()> {
        let trajectory = &self.recipe.trajectory.steps;
        events.tell_compiled(&self.context.gpu);
        if self.job.previews {
            // The next step's scale brings what it starts from to about unit variance.
            let scale = trajectory.get(i + 1).map_or(1.0, |next| next.input_scale);
            let [height, width] = sampling.latent_size();
            let vae = &self.model.vae;
            let rgb = match (&self.context.pictures, latent) {
                (PictureSink::Textures(screen), _) => {
                    screen.preview(index, &sampling.latent()?, &vae.colours(scale), [width, height]);
                    Vec::new()
                }
                (PictureSink::Pixels, Some(latent)) => {
                    vae.preview(&latent.iter().map(|x| x * scale).collect::<Vec<f32>>())
                }
                (PictureSink::Pixels, None) => Vec::new(),
            };
            events.say(Event::Preview { index, step: i + 1, steps: trajectory.len(), width, height, rgb });
        }
        let (done, total) = (index * trajectory.len() + i + 1, self.pictures() * trajectory.len());
        events.say(Event::Progress { unit: "step", done, total });
        // After the last step the image is as good as there.
        if i + 1 < trajectory.len() { events.go_on() } else { Ok(()) }
    }

    /// Latents to images: all that are sampled, whoever stops the job meanwhile, for the work is in the sampling.
    ///
    /// # Errors
    /// [`Error::Interrupted`] at the end, where they are not all that the job asked for.
    pub async fn decode(
        &self,
        decode: &Part,
        pool: &mut Pool,
        sampled: &Sampled,
        events: &mut EventSink<'_>,
    ) -> Result<Vec<Picture>> {
        let Making { context, job, size: [width, height], .. } = *self;
        let count = sampled.steps.len();
        if count == 0 {
            return Err(Error::interrupted());
        }
        events.say(Event::Phase(Phase::Decoding));
        pool.fit(&context.gpu, &decode.plan.arena)?;
        let vae = events.during(&context.gpu, VaeSession::new(&context.gpu, self.model, pool, decode)).await?;
        let mut pictures = Vec::with_capacity(count);
        for index in 0..count {
            vae.run_on(sampled.ends.entry(&index.to_string())?).await?;
            let rgb = match &context.pictures {
                PictureSink::Textures(screen) => {
                    screen.show(&vae.made()?, [width, height]);
                    Vec::new()
                }
                PictureSink::Pixels => io::Picture::from_unit(width, height, &vae.read().await?)?.rgb,
            };
            let (prompt, seed) = (job.prompts[index / job.count].clone(), self.seed(index));
            let parameters = self.parameters(&prompt, seed);
            let picture = Picture { width, height, rgb, prompt, seed, index, parameters };
            events.tell_compiled(&context.gpu);
            events.say(Event::Picture(picture.clone()));
            pictures.push(picture);
            context.gpu.breathe().await;
        }
        match self.pictures() {
            total if count < total => Err(Error::Interrupted { unit: "picture", done: count, total, resumable: None }),
            _ => Ok(pictures),
        }
    }

    /// What a job keeps: the latents of every image after each of its steps.
    pub fn latents(&self, latents: &[Vec<Vec<f32>>]) -> Latents {
        let (model, [width, height]) = (self.model, self.size);
        let spec = model.vae.latent();
        let (c, [h, w]) = (spec.channels, spec.size([width, height]));
        let first = |values: &[f32]| layout::to_channels_first(values, [1, c, h, w]);
        let trajectory = &self.recipe.trajectory;
        Latents {
            shape: vec![latents.len(), c, h, w],
            last: latents.iter().flat_map(|steps| steps.last().map(|last| first(last)).unwrap_or_default()).collect(),
            steps: (0..trajectory.steps.len())
                .map(|s| latents.iter().flat_map(|steps| first(&steps[s])).collect())
                .collect(),
            timesteps: trajectory.timesteps.clone(),
        }
    }
}
