//! Run of a generation: encode the prompts, sample each image, decode.

use crate::base::layout;
use crate::base::rng::NoiseRng;
use crate::error::{Error, Result, message, option};
use crate::event::{Event, Listener, Phase, Picture};
use crate::gpu::{Gpu, Pool, Store};
use crate::graph::Plan;
use crate::io;
use crate::pipeline::autoencode::VaeSession;
use crate::pipeline::context::{Context, PictureSink};
use crate::pipeline::denoise::{Sampling, Start};
use crate::pipeline::encode::Destination;
use crate::pipeline::events::EventSink;
use crate::pipeline::hidden::Hidden;
use crate::pipeline::image_plans::ImagePlans;
use crate::pipeline::planning::Part;
use crate::pipeline::prompt::{unread_syntax, without_tags};
use crate::pipeline::recipe::Recipe;
use crate::pipeline::text::Tokens;
use crate::pipeline::{Model, Posterior, probe};

use super::GenerateOptions;
use super::plans::{check_memory, encodes_negative, image_spec};
use super::start_image::Encoded;

/// Result of a generation.
#[derive(Clone, Debug)]
pub struct Generated {
    /// Images, prompt by prompt. Without pixels if they stay on the device as textures ([`Engine::start_generate`]).
    ///
    /// [`Engine::start_generate`]: crate::Engine::start_generate
    pub pictures: Vec<Picture>,
    /// Latents, if [`GenerateOptions::keep_latents`] is set.
    pub latents: Option<Latents>,
}

/// Latents in PyTorch's layout, as diffusers' `output_type="latent"` gives them.
#[derive(Clone, Debug)]
pub struct Latents {
    /// Shape: `[images, 4, height / 8, width / 8]` for Stable Diffusion.
    pub shape: Vec<usize>,
    /// Latents after the last step.
    pub last: Vec<f32>,
    /// Latents after each step.
    pub steps: Vec<Vec<f32>>,
    /// Timesteps of the sampler, one per step.
    pub timesteps: Vec<f64>,
}

/// Opens the model of `job` and makes its pictures.
pub(crate) async fn generate(context: &Context, job: &GenerateOptions, listener: Listener<'_>) -> Result<Generated> {
    job.check()?;
    let mut events = EventSink::new(listener, &context.cancel);
    // Boxed: a host's thread may have little stack.
    let open = Box::pin(probe::open(context, &job.model, &job.loras, job.reads(), &mut events));
    let model = open.await?.merging(job.merge);
    job.check_mask(&model)?;
    context.gpu.in_error_scopes(Box::pin(make(context, &model, job, &mut events))).await
}

/// Makes the pictures of `job` with an open model.
pub(crate) async fn generate_with(
    context: &Context,
    model: &Model,
    job: &GenerateOptions,
    listener: Listener<'_>,
) -> Result<Generated> {
    job.check()?;
    job.check_mask(model)?;
    generate_unmasked(context, model, job, listener).await
}

/// Makes the pictures of `job` with an open model. An inpainting model without a mask keeps nothing and works from the prompt
/// alone, as the class images of a training are made.
pub(crate) async fn generate_unmasked(
    context: &Context,
    model: &Model,
    job: &GenerateOptions,
    listener: Listener<'_>,
) -> Result<Generated> {
    let mut events = EventSink::new(listener, &context.cancel);
    context.gpu.in_error_scopes(Box::pin(make(context, model, job, &mut events))).await
}

async fn make(
    context: &Context,
    model: &Model,
    job: &GenerateOptions,
    events: &mut EventSink<'_>,
) -> Result<Generated> {
    context.gpu.breathe().await;
    model.check_reads(job.reads())?;
    let recipe = Recipe::new(model, &job.sampling, job.model.prediction, job.start_strength(model))?;
    let size = job.picture_size(model, &mut |event| events.say(event))?;
    let (init, mask) = (job.start_picture(size)?, job.start_mask(size)?);
    if mask.as_ref().is_some_and(|mask| mask.share() == 0.0) {
        events.warn(message![option("mask"), " is nowhere white: nothing of ", option("init"), " is made anew"]);
    }
    let [width, height] = size;
    let (kind, steps, guidance) = (recipe.trajectory.kind.name(), recipe.steps, recipe.guidance);
    let plural = if steps == 1 { "" } else { "s" };
    events.note(format!("{kind}, {steps} step{plural}, guidance {guidance}, {width}x{height}"));
    for note in recipe.trajectory.notes.iter().map(|note| note.as_str().into()).chain(job.idle_options(model)) {
        events.note(note);
    }

    if !job.sampling.negative.is_empty() && !recipe.guided() {
        let idle = format!(" does nothing at guidance {guidance}: give a ");
        events.warn(message![option("negative"), idle, option("guidance"), " above 1"]);
    }
    for text in job.prompts.iter().chain([&job.sampling.negative]) {
        warn_of_syntax(text, events);
    }
    let mut tokens = |prompt: &String| model.tokens(&without_tags(prompt).0, &mut |event| events.say(event));
    let negative =
        (recipe.guided() && encodes_negative(job, model)).then(|| tokens(&job.sampling.negative)).transpose()?;
    let prompts = job.prompts.iter().map(tokens).collect::<Result<Vec<_>>>()?;
    events.phase(Phase::EncodingPrompts)?;
    let plans = image_spec(job, model, &recipe, size).plans(model, context.planning()).await?;
    check_memory(&plans, job, model)?;
    let ahead = context.gpu.compile_ahead(plans.plans().flat_map(Plan::kernels)).await?;
    let (gpu, context) = (&ahead.gpu, &context.on(&ahead.gpu));
    let mut pool = Pool::default();
    let encoding = encode(gpu, model, &plans, &mut pool, (negative, prompts));
    let hidden = events.until_stopped(gpu, encoding).await?;

    let encoded = match plans.encode.as_ref() {
        Some(part) => {
            pool.fit(gpu, &part.plan.arena)?;
            let vae = events.until_stopped(gpu, VaeSession::new(gpu, model, &mut pool, part)).await?;
            Encoded::new(&vae, model, job, (init, mask), size).await?
        }
        None => Encoded::default(),
    };

    events.phase(Phase::LoadingModel)?;
    let start_names = job.start_names();
    let making = Making { context, model, job, recipe, size, start_names };
    pool.fit(gpu, &plans.loop_arena())?;
    let weights = events.until_stopped(gpu, model.weights(gpu, "UNet", &plans.params)).await?;
    let sampling = Sampling::new(gpu, &plans.sampling, &plans.unet, &mut pool, weights);
    let sampling = events.until_stopped(gpu, sampling).await?;
    events.phase(Phase::Sampling)?;
    let sampled = making.sample(&sampling, &hidden, encoded, events).await?;
    drop((sampling, hidden));
    let pictures = making.decode(&plans.decode, &mut pool, &sampled, events).await?;
    let latents = job.keep_latents.then(|| making.latents(&sampled.steps));
    Ok(Generated { pictures, latents })
}

/// Encodes the negative prompt, the first of all, and the others.
async fn encode(
    gpu: &Gpu,
    model: &Model,
    plans: &ImagePlans,
    pool: &mut Pool,
    (negative, prompts): (Option<Tokens>, Vec<Tokens>),
) -> Result<Hidden> {
    let hidden = Hidden::new(gpu, model, model.prompt_tokens(), 1 + prompts.len())?;
    let first = usize::from(negative.is_none());
    let prompts: Vec<Tokens> = negative.into_iter().chain(prompts).collect();
    model.encode_prompts(gpu, &plans.text, pool, &prompts, Destination::Device(&hidden, first)).await?;
    Ok(hidden)
}

/// A job whose model, sampler and size are settled.
pub(super) struct Making<'a> {
    pub context: &'a Context,
    pub model: &'a Model,
    pub job: &'a GenerateOptions,
    pub recipe: Recipe,
    /// Width and height in pixels.
    pub size: [usize; 2],
    /// Names and digests of the start picture and the mask.
    pub start_names: Vec<(&'static str, String)>,
}

/// Says what of `prompt` loads or weighs something in other programs, and not here.
fn warn_of_syntax(prompt: &str, events: &mut EventSink<'_>) {
    for tag in without_tags(prompt).1 {
        events
            .warn(message![format!("{tag} in a prompt loads nothing and is left out: load it with "), option("loras")]);
    }
    if let Some(found) = unread_syntax(prompt) {
        let message =
            format!("\"{found}\" in a prompt is read as words: weights and breaks of other programs do nothing here");
        events.warn(message);
    }
}

/// Pictures that are sampled to their end: of a job that was stopped, those before the one that was under way.
struct Sampled {
    /// The last latent of each (NHWC) by its number.
    ends: Store,
    /// For each the latents after every step, where the job keeps them.
    steps: Vec<Vec<Vec<f32>>>,
}

impl Making<'_> {
    fn pictures(&self) -> usize {
        self.job.images()
    }

    /// The seed of picture number `index`.
    fn seed(&self, index: usize) -> u64 {
        self.job.sampling.seed.wrapping_add((index % self.job.count) as u64)
    }

    /// Samples picture after picture, from noise or from what is `encoded`.
    async fn sample(
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
            let trajectory = &recipe.trajectory;
            match sampling.run(trajectory, [recipe.guidance, recipe.rescale], start, &mut rng, read, &mut on_step).await
            {
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

    /// Says that picture number `index` has done step `i`, after which its latent is `latent`.
    ///
    /// # Errors
    /// [`Error::Interrupted`] where the picture is not to be gone on with.
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
        // After the last step the picture is as good as there.
        if i + 1 < trajectory.len() { events.go_on() } else { Ok(()) }
    }

    /// Latents to pictures: all that are sampled, whoever stops the job meanwhile, for the work is in the sampling.
    ///
    /// # Errors
    /// [`Error::Interrupted`] at the end, where they are not all that the job asked for.
    async fn decode(
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

    /// What a job keeps: the latents of every picture after each of its steps.
    fn latents(&self, latents: &[Vec<Vec<f32>>]) -> Latents {
        let (model, [width, height]) = (self.model, self.size);
        let (c, h, w) = (model.vae.latent_channels, height / model.factor(), width / model.factor());
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
