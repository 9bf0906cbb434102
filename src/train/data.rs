//! Where a training's batches come from: pictures and prompts, encoded once, or a replay file.

use std::path::{Path, PathBuf};

use crate::base::rng::{CounterRng, Stream};
use crate::diffusion::NoiseSchedule;
use crate::error::{Error, Result, message, option};
use crate::event::{Event, Phase};
use crate::gpu::Pool;
use crate::io;
use crate::io::image::{Decoded, Fit};
use crate::pipeline::autoencode::VaeSession;
use crate::pipeline::context::Context;
use crate::pipeline::events::EventSink;
use crate::pipeline::planning::Part;
use crate::pipeline::text::TextParts;
use crate::pipeline::{Masked, Model};
use crate::train::dataset::{Drawing, micro_batch};
use crate::train::{Conditioning, Dataset, MicroBatch, Photo, Replay};

use super::class_images::{class_job, class_pictures};
use super::masks::{masks_of_view, random_mask};
use super::samples::SamplePrompts;
use super::training_set::{TrainingPicture, TrainingSet};
use super::{Crop, TrainOptions};

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

/// Variants that are cached of a randomly cropped picture.
const CROPS: usize = 4;

impl TrainOptions {
    /// The batches of the replay file at `path`, which must be of `model`.
    pub(super) fn open_replay(&self, model: &Model, path: &Path) -> Result<Run> {
        let file = Replay::open(path)?;
        let conditioning = file.conditioning()?;
        let tokens = match (&conditioning, self.text_encoder) {
            (Conditioning::Context(values, tokens), false) => {
                let prompts = if file.samples()[1] > 0 { 2 } else { 1 };
                if values.len() != prompts * tokens * model.context_width() {
                    return Err(Error::file(
                        path,
                        format!("context is not {} wide: made for another model", model.context_width()),
                    ));
                }
                *tokens
            }
            (Conditioning::Ids(ids, tokens), true) => {
                let (vocabulary, positions) = (model.text.vocab_size, model.text.max_position_embeddings);
                if let Some(id) = ids.iter().find(|&&id| id as usize >= vocabulary) {
                    return Err(Error::file(path, format!("holds token id {id}: the model has {vocabulary}")));
                }
                if *tokens > positions {
                    return Err(Error::file(
                        path,
                        format!("has {tokens} tokens a prompt: the model takes {positions}"),
                    ));
                }
                *tokens
            }
            (Conditioning::Ids(..), false) => {
                return Err(Error::file(path, message!["holds token ids: give ", option("text_encoder")]));
            }
            (Conditioning::Context(..), true) => {
                return Err(Error::file(path, message!["holds no token ids: leave ", option("text_encoder"), " out"]));
            }
        };
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

/// Pictures to cached posteriors, by the plans `encode` of their sizes, and prompts to hidden states by those of `text`, in
/// a pool of `chunks`.
#[allow(clippy::too_many_arguments, reason = "a private call with one caller")]
pub(super) async fn prepare(
    context: &Context,
    job: &TrainOptions,
    model: &Model,
    set: &TrainingSet,
    text: &TextParts,
    encode: &[Part],
    chunks: &[u64],
    pool: &mut Pool,
    events: &mut EventSink<'_>,
) -> Result<Run> {
    let (factor, side) = (model.factor(), job.side(model)?);
    let file = |path: &PathBuf| TrainingPicture::File(path.clone());
    let pictures: Vec<TrainingPicture> = set.pictures.iter().map(file).collect();
    let mut classes: Vec<TrainingPicture> = set.classes.iter().map(file).collect();
    if let Some(class) = job.class_prompt.as_ref().filter(|_| set.classes_to_make > 0) {
        let made = class_job(&job.model, class, set.classes_to_make, [side, side], job.seed);
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
    let tokens = texts[0].len();
    let end = texts[conditioned].get(1).copied();
    let words = |ids: &Vec<u32>| ids.iter().skip(1).position(|id| Some(*id) == end).unwrap_or(0);
    let longest = texts.iter().map(words).max().unwrap_or(0);
    events.note(format!("the longest prompt has {longest} of {} tokens", tokens.saturating_sub(2)));
    events.phase(Phase::EncodingPrompts)?;
    // Class pictures had a pool of their own; from here on one serves everything, the training included.
    pool.reserve(&context.gpu, chunks)?;
    let hidden = events.until_stopped(&context.gpu, model.encode_prompts(&context.gpu, text, pool, &texts)).await?;
    let conditioning = match job.text_encoder {
        true => Conditioning::Ids(texts[..conditioned].concat(), tokens),
        false => Conditioning::Context(hidden.read().await?[..conditioned].concat(), tokens),
    };

    events.phase(Phase::EncodingImages)?;
    if model.inpaints() {
        let views = views(job, 0, 0).len();
        let masks = views * masks_of_view(pictures.len(), views, false);
        events.note(format!("an inpainting model: {masks} random masks of each picture"));
    }
    let mut photos = [set.photos(), set.class_photos(classes.len())];
    let total = pictures.len() + classes.len();
    let mut done = 0;
    for (size, (&[width, height], part)) in set.sizes.iter().zip(encode).enumerate() {
        let vae = events.until_stopped(&context.gpu, VaeSession::new(&context.gpu, model, pool, part)).await?;
        let encoder = Encoder { context, job, model, vae, size: [width, height], images: pictures.len() };
        for (kind, (pictures, photos)) in [&pictures, &classes].into_iter().zip(&mut photos).enumerate() {
            let mine = pictures.iter().zip(photos).enumerate().filter(|(_, (_, photo))| photo.size == size);
            for (i, (picture, photo)) in mine {
                encoder.encode([kind, i], &picture.open()?, photo, events).await?;
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
    let sample_prompts = (!job.sample_prompts.is_empty()).then_some(SamplePrompts { hidden, first: conditioned, ids });
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
    /// Encodes the views of image `i` of `kind` (0: the subject's, 1: the class's) for `photo`, and for an inpainting model
    /// masked images of each view.
    async fn encode(
        &self,
        [kind, i]: [usize; 2],
        image: &Decoded,
        photo: &mut Photo,
        events: &mut EventSink<'_>,
    ) -> Result<()> {
        let Encoder { context, job, model, vae, size, images } = self;
        context.gpu.breathe().await;
        let views = views(job, kind, i);
        let masks = if model.inpaints() { masks_of_view(*images, views.len(), kind == 1) } else { 0 };
        for (view, (crop, flip)) in views.into_iter().enumerate() {
            let pixels = image.resized(*size, Fit::Cover(crop))?.to_unit(flip);
            context.gpu.breathe().await;
            photo.variants.push(vae.encode(&pixels, model).await?);
            let mut masked = Vec::with_capacity(masks);
            for number in view * masks..(view + 1) * masks {
                let mask = random_mask(CounterRng::new(job.seed, Stream::Mask), [kind, i, number], *size);
                masked.push(Masked::encode(vae, model, &mask, pixels.clone()).await?);
                events.go_on()?;
            }
            photo.masked.push(masked);
        }
        Ok(())
    }
}

/// Crops and mirrorings that are cached of picture `i`; class pictures (`kind` 1) are shown as they are.
fn views(job: &TrainOptions, kind: usize, i: usize) -> Vec<(io::Crop, bool)> {
    let crops = if kind == 0 && job.crop == Crop::Random { CROPS } else { 1 };
    let flips = if kind == 0 && job.flip { &[false, true][..] } else { &[false] };
    let rng = CounterRng::new(job.seed, Stream::Crop);
    let crop = |crop: usize| {
        let at = |axis: u64| rng.uniform(i as u32, 2 * crop as u64 + axis);
        if crops > 1 { io::Crop { x: at(0), y: at(1) } } else { io::Crop::CENTER }
    };
    (0..crops).flat_map(|n| flips.iter().map(move |&flip| (crop(n), flip))).collect()
}
