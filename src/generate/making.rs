//! Images out of latents: sampled one batch after another, then decoded.

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
use super::batch::Batch;
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

/// Images that are sampled to their end: of a job that was stopped, those before the batch that was under way.
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

    /// Samples batch after batch, from noise or from what is `encoded`.
    pub async fn sample(
        &self,
        sampling: &Sampling,
        hidden: &Hidden,
        encoded: Encoded,
        events: &mut EventSink<'_>,
    ) -> Result<Sampled> {
        let Making { context, job, recipe, .. } = self;
        let mut sampled = Sampled { ends: Store::new(&context.gpu), steps: Vec::with_capacity(self.pictures()) };
        let bytes = sampling.latent(0)?.bytes;
        let keys: Vec<(String, u64)> = (0..self.pictures()).map(|i| (i.to_string(), bytes)).collect();
        sampled.ends.allocate("latents", &keys)?;
        let read = job.keep_latents || (job.previews && matches!(context.pictures, PictureSink::Pixels));
        let mut prompts = Vec::new();
        for batch in Batch::all(self.pictures(), sampling.batch()) {
            let wanted: Vec<usize> = batch.samples().map(|index| 1 + index / job.count).collect();
            if wanted != prompts {
                sampling.set_prompts(hidden, 0, &wanted).await?;
                prompts = wanted;
            }
            let stream = |index| NoiseRng::new(job.sampling.rng, self.seed(index));
            let mut rngs: Vec<NoiseRng> = batch.samples().map(stream).collect();
            let latents = encoded.image.as_ref().map(|image| self.start_latents(sampling, image, &mut rngs));
            let mut steps = vec![Vec::new(); batch.images];
            let mut on_step = |i: usize, latents: Option<Vec<f32>>| {
                self.preview(&batch, i, (sampling, &sampled.ends), latents.as_deref(), events)?;
                if let Some(latents) = latents.filter(|_| job.keep_latents) {
                    steps.iter_mut().zip(batch.each(&latents)).for_each(|(steps, latent)| steps.push(latent.to_vec()));
                }
                self.tell(&batch, i, events)
            };
            let time_ids = job.sampling.time_ids(self.size);
            let start = Start { latents: latents.as_deref(), masked: encoded.masked.as_ref(), time_ids };
            match sampling.run(recipe, start, &mut rngs, read, &mut on_step).await {
                Ok(()) => {}
                // What came before it is complete.
                Err(Error::Interrupted { .. }) => break,
                Err(e) => return Err(e),
            }
            batch.keep(&context.gpu, sampling, &sampled.ends)?;
            sampled.steps.extend(steps);
            if events.stopped() {
                break;
            }
        }
        Ok(sampled)
    }

    /// Draws the latents that image to image starts from, by the stream of each image.
    fn start_latents(&self, sampling: &Sampling, image: &Posterior, rngs: &mut [NoiseRng]) -> Vec<f32> {
        let scale = self.model.vae.scaling_factor as f32;
        // diffusers draws the posterior's sample before the start noise, from the same generator.
        let start = |rng| {
            let noise = sampling.draw(rng);
            image.mean.iter().zip(&image.std).zip(noise).map(|((m, s), n)| (m + s * n) * scale).collect::<Vec<f32>>()
        };
        rngs.iter_mut().flat_map(start).collect()
    }

    /// Shows what the images of `batch` look like after step `i`, where the job asks for it: from `latents`, or from the
    /// device by way of each image's own place.
    fn preview(
        &self,
        batch: &Batch,
        i: usize,
        (sampling, ends): (&Sampling, &Store),
        latents: Option<&[f32]>,
        events: &mut EventSink<'_>,
    ) -> Result<()> {
        if !self.job.previews {
            return Ok(());
        }
        let trajectory = &self.recipe.trajectory.steps;
        // The next step's scale brings what it starts from to about unit variance.
        let scale = trajectory.get(i + 1).map_or(1.0, |next| next.input_scale);
        let ([height, width], vae) = (sampling.latent_size(), &self.model.vae);
        let mut each = latents.map(|latents| batch.each(latents));
        if let PictureSink::Textures(_) = &self.context.pictures {
            batch.keep(&self.context.gpu, sampling, ends)?;
        }
        for index in batch.indices() {
            let latent = each.as_mut().and_then(Iterator::next);
            let rgb = match (&self.context.pictures, latent) {
                (PictureSink::Textures(screen), _) => {
                    screen.preview(index, ends.entry(&index.to_string())?, &vae.colours(scale), [width, height]);
                    Vec::new()
                }
                (PictureSink::Pixels, Some(latent)) => {
                    vae.preview(&latent.iter().map(|x| x * scale).collect::<Vec<f32>>())
                }
                (PictureSink::Pixels, None) => Vec::new(),
            };
            events.say(Event::Preview { index, step: i + 1, steps: trajectory.len(), width, height, rgb });
        }
        Ok(())
    }

    /// Says that the images of `batch` have done step `i`.
    ///
    /// # Errors
    /// [`Error::Interrupted`] if the caller asked to stop.
    fn tell(&self, batch: &Batch, i: usize, events: &mut EventSink<'_>) -> Result<()> {
        events.tell_compiled(&self.context.gpu);
        let each = self.recipe.trajectory.steps.len();
        let done = batch.first * each + batch.images * (i + 1);
        events.say(Event::Progress { unit: "step", done, total: self.pictures() * each });
        // After the last step the images are as good as there.
        if i + 1 < each { events.go_on() } else { Ok(()) }
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
            total if count < total => Err(Error::Interrupted { unit: "image", done: count, total, resumable: None }),
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
