//! Where a training's batches come from: pictures and prompts, encoded once, or a replay file.

use std::path::{Path, PathBuf};

use crate::base::rng::{CounterRng, Stream};
use crate::diffusion::NoiseSchedule;
use crate::error::{Error, Result, message, option};
use crate::event::{Event, Phase};
use crate::gpu::Pool;
use crate::io::image::{Decoded, Fit};
use crate::pipeline::Model;
use crate::pipeline::autoencode::VaeSession;
use crate::pipeline::context::Context;
use crate::pipeline::encode::Destination;
use crate::pipeline::events::EventSink;
use crate::pipeline::hidden::HostHidden;
use crate::pipeline::planning::Part;
use crate::pipeline::text::{TextParts, Tokens};
use crate::train::dataset::{Drawing, Variant};
use crate::train::micro_batch::micro_batch;
use crate::train::{Conditioning, Dataset, MicroBatch, Photo, Replay};

use super::TrainOptions;
use super::class_images::{class_job, class_pictures};
use super::masks::{masks_of_view, random_mask};
use super::samples::SamplePrompts;
use super::training_set::{TrainingPicture, TrainingSet};
use super::views::Views;

/// What a training run feeds on.
pub(super) struct Run {
    pub batches: Batches,
    /// Instance and class samples of a micro-batch.
    pub samples: [usize; 2],
    /// Height, width and channels.
    pub latent: [usize; 3],
    pub tokens: usize,
    pub conditioning: Conditioning,
    pub sample_prompts: Option<SamplePrompts>,
}

/// Where the batches come from.
pub(super) enum Batches {
    Pictures(Dataset),
    Replay(Replay),
}

impl Batches {
    pub fn micro_batch(&self, index: usize, job: &TrainOptions, schedule: &NoiseSchedule) -> Result<MicroBatch> {
        let draw = match self {
            Batches::Pictures(data) => data.draw(index),
            Batches::Replay(file) => file.draw(index)?,
        };
        Ok(micro_batch(&draw, schedule, job.min_snr, job.prior_weight))
    }
}

impl TrainOptions {
    /// The batches of the replay file at `path`, which must be of `model`.
    pub(super) fn open_replay(&self, model: &Model, path: &Path) -> Result<Run> {
        let file = Replay::open(path)?;
        let conditioning = file.conditioning()?;
        let tokens = match (&conditioning, self.text_encoder) {
            (Conditioning::Context { hidden, tokens, .. }, false) => {
                let prompts = if file.samples()[1] > 0 { 2 } else { 1 };
                if hidden.len() != prompts * tokens * model.context_width() {
                    return Err(Error::file(
                        path,
                        format!("context is not {} wide: made for another model", model.context_width()),
                    ));
                }
                *tokens
            }
            (Conditioning::Ids { ids, tokens }, true) => {
                for (ids, text) in ids.iter().zip(&model.texts) {
                    let (vocabulary, positions) = (text.config.vocab_size, text.config.max_position_embeddings);
                    if let Some(id) = ids.iter().find(|&&id| id as usize >= vocabulary) {
                        return Err(Error::file(path, format!("holds token id {id}: the model has {vocabulary}")));
                    }
                    if *tokens > positions {
                        let message = format!("has {tokens} tokens a prompt: the model takes {positions}");
                        return Err(Error::file(path, message));
                    }
                }
                *tokens
            }
            (Conditioning::Ids { .. }, false) => {
                return Err(Error::file(path, message!["holds token ids: give ", option("text_encoder")]));
            }
            (Conditioning::Context { .. }, true) => {
                return Err(Error::file(path, message!["holds no token ids: leave ", option("text_encoder"), " out"]));
            }
        };
        file.check_added(model.pooled_width(), model.texts.len())?;
        let (channels, own) = (file.latent()[2], model.vae.latent_channels);
        if channels != own {
            return Err(Error::file(path, format!("latents of {channels} channels, the model has {own}")));
        }
        if file.masked() != model.inpaints() {
            let message = match model.inpaints() {
                true => {
                    "has no masks ('I.instance.mask|masked_latents'), which an inpainting model is trained with".into()
                }
                false => message!["has masks ('0.instance.mask'): ", option("model"), " is not an inpainting model"],
            };
            return Err(Error::file(path, message));
        }
        Ok(Run {
            samples: file.samples(),
            latent: file.latent(),
            tokens,
            conditioning,
            batches: Batches::Replay(file),
            sample_prompts: None,
        })
    }
}

/// Pictures to cached posteriors, by the plans `encode` of their sizes, and prompts to hidden states by those of `text`.
#[allow(clippy::too_many_arguments, reason = "a private call with one caller")]
pub(super) async fn prepare(
    context: &Context,
    job: &TrainOptions,
    model: &Model,
    set: &TrainingSet,
    text: &TextParts,
    encode: &[Part],
    pool: &mut Pool,
    events: &mut EventSink<'_>,
) -> Result<Run> {
    let (factor, side) = (model.factor(), job.side(model)?);
    let file = |path: &PathBuf| TrainingPicture::File(path.clone());
    let pictures: Vec<TrainingPicture> = set.pictures.iter().map(file).collect();
    let mut classes: Vec<TrainingPicture> = set.classes.iter().map(file).collect();
    if let Some(class) = job.class_prompt.as_ref().filter(|_| set.classes_to_make > 0) {
        let made = class_job((model, &job.model), class, set.classes_to_make, [side, side], job.seed);
        classes.extend(class_pictures(context, model, &made, events).await?);
    }
    let mut texts = Vec::new();
    for prompt in set.prompts.iter().chain(&job.class_prompt) {
        texts.push(model.tokens(prompt, &mut |event| events.say(event))?);
    }
    let conditioned = texts.len();
    texts.push(model.tokens("", &mut |event| events.say(event))?);
    for sample in &job.sample_prompts {
        texts.push(model.tokens(sample, &mut |event| events.say(event))?);
    }
    let tokens = model.prompt_tokens();
    let end = texts[conditioned][0].get(1).copied();
    let words = |ids: &Tokens| ids[0].iter().skip(1).position(|id| Some(*id) == end).unwrap_or(0);
    let longest = texts.iter().map(words).max().unwrap_or(0);
    events.note(format!("the longest prompt has {longest} of {} tokens", tokens.saturating_sub(2)));
    events.phase(Phase::EncodingPrompts)?;
    let mut hidden = HostHidden::new(model.hidden_shape(tokens), texts.len());
    let encoding = model.encode_prompts(&context.gpu, text, pool, &texts, Destination::Host(&mut hidden));
    events.until_stopped(&context.gpu, encoding).await?;
    if model.zeros {
        hidden.clear(conditioned);
    }
    let of_samples = hidden.split_off(conditioned);
    let conditioning = match job.text_encoder {
        true => {
            let ids = |encoder: usize| texts[..conditioned].iter().flat_map(move |prompt| prompt[encoder].clone());
            Conditioning::Ids { ids: (0..model.texts.len()).map(|i| ids(i).collect()).collect(), tokens }
        }
        false => {
            let HostHidden { hidden, pooled, .. } = hidden;
            Conditioning::Context { hidden, tokens, pooled }
        }
    };

    events.phase(Phase::EncodingImages)?;
    let views = set.views(job);
    if model.inpaints() {
        let masks = |views: &Views| views.views.len() * masks_of_view(pictures.len(), views.views.len(), false);
        let masks = views.iter().map(masks).max().unwrap_or(0);
        events.note(format!("an inpainting model: {masks} random masks of each picture"));
    }
    let mut photos = [set.photos(), set.class_photos(classes.len())];
    let total = pictures.len() + classes.len();
    let mut done = 0;
    for (size, (&[width, height], part)) in set.sizes.iter().zip(encode).enumerate() {
        pool.fit(&context.gpu, &part.plan.arena)?;
        let vae = events.until_stopped(&context.gpu, VaeSession::new(&context.gpu, model, pool, part)).await?;
        let encoder = Encoder { context, job, model, vae, size: [width, height], images: pictures.len() };
        for (kind, (pictures, photos)) in [&pictures, &classes].into_iter().zip(&mut photos).enumerate() {
            let mine = pictures.iter().zip(photos).enumerate().filter(|(_, (_, photo))| photo.size == size);
            for (i, (picture, photo)) in mine {
                let class = Views::of_class();
                let views = if kind == 0 { &views[i] } else { &class };
                encoder.encode([kind, i], &picture.open()?, views, photo, events).await?;
                done += 1;
                events.say(Event::Progress { unit: "picture", done, total });
                events.go_on()?;
            }
        }
    }
    let [instances, classes] = photos;
    let drawing = Drawing {
        channels: model.vae.latent_channels,
        scaling_factor: model.vae.scaling_factor,
        seed: job.seed,
        batch: job.batch,
        offset_noise: job.offset_noise,
        train_steps: model.schedule.num_train_timesteps,
    };
    let data = Dataset::new(instances, classes, drawing)?;
    let [width, height] = set.sizes[0];
    let latent = [height / factor, width / factor, model.vae.latent_channels];
    let ids = texts.split_off(conditioned);
    let sample_prompts = (!job.sample_prompts.is_empty()).then_some(SamplePrompts { hidden: of_samples, ids });
    Ok(Run { samples: data.samples(), latent, tokens, conditioning, batches: Batches::Pictures(data), sample_prompts })
}

/// The autoencoder at work on images of one size.
struct Encoder<'a> {
    context: &'a Context,
    job: &'a TrainOptions,
    model: &'a Model,
    vae: VaeSession,
    /// Width and height in pixels.
    size: [usize; 2],
    /// Images of the subject, of all sizes.
    images: usize,
}

impl Encoder<'_> {
    /// Encodes the `views` of image `i` of `kind` (0: the subject's, 1: the class's) for `photo`, and for an inpainting model
    /// masked images of each view.
    async fn encode(
        &self,
        [kind, i]: [usize; 2],
        image: &Decoded,
        Views { views, in_turn }: &Views,
        photo: &mut Photo,
        events: &mut EventSink<'_>,
    ) -> Result<()> {
        let Encoder { context, job, model, vae, size, images } = self;
        context.gpu.breathe().await;
        photo.in_turn = *in_turn;
        let masks = if model.inpaints() { masks_of_view(*images, views.len(), kind == 1) } else { 0 };
        for (number, view) in views.iter().enumerate() {
            let pixels = image.resized(*size, Fit::Cover(view.crop))?.to_unit(view.flip);
            context.gpu.breathe().await;
            let posterior = vae.encode(&pixels, model).await?;
            let size_ids = view.size_ids(image.size(), *size);
            let mut masked = Vec::with_capacity(masks);
            for number in number * masks..(number + 1) * masks {
                let mask = random_mask(CounterRng::new(job.seed, Stream::Mask), [kind, i, number], *size);
                masked.push(vae.encode_masked(pixels.clone(), &mask, model).await?);
                events.go_on()?;
            }
            photo.variants.push(Variant { posterior, masked, size_ids });
            events.go_on()?;
        }
        Ok(())
    }
}
