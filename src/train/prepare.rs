//! Preparation of a training on images: prompts to hidden states and images to posteriors, each once.

use std::path::PathBuf;

use crate::base::rng::{CounterRng, Stream};
use crate::error::Result;
use crate::event::{Event, Flow, Phase};
use crate::gpu::Pool;
use crate::io::image::{Decoded, Fit};
use crate::pipeline::autoencode::VaeSession;
use crate::pipeline::encode::Destination;
use crate::pipeline::events::EventSink;
use crate::pipeline::hidden::HostHidden;
use crate::pipeline::planning::Part;
use crate::pipeline::text::{TextParts, Tokens};
use crate::train::dataset::{Drawing, Variant};
use crate::train::{Conditioning, Dataset, Photo};

use super::class_images::class_pictures;
use super::context::TrainContext;
use super::data::{Batches, Run};
use super::masks::{masks_of_view, random_mask};
use super::plans::BeforeTraining;
use super::samples::SamplePrompts;
use super::training_set::{TrainingPicture, TrainingSet};
use super::views::Views;

/// Encodes the prompts and the images of `set`, class images that are made now among them, by the plans of `before`.
pub(super) async fn prepare(
    at: &TrainContext<'_>,
    set: &TrainingSet,
    before: &BeforeTraining,
    pool: &mut Pool,
    events: &mut EventSink<'_>,
) -> Result<Run> {
    let (job, model) = (at.job, at.model);
    let images = Images::new(at, set, events).await?;
    let prompts = Prompts::encode(at, set, &before.text, pool, events).await?;
    let [instances, classes] = images.encode(&before.encode, pool, events).await?;
    let drawing = Drawing {
        channels: model.vae.latent_channels,
        scaling_factor: model.vae.scaling_factor,
        seed: job.seed,
        batch: job.batch,
        offset_noise: job.offset_noise,
        train_steps: model.schedule.num_train_timesteps,
    };
    let data = Dataset::new(instances, classes, drawing)?;
    let ([width, height], factor) = (set.sizes[0], model.factor());
    Ok(Run {
        samples: data.samples(),
        latent: [height / factor, width / factor, model.vae.latent_channels],
        tokens: model.prompt_tokens(),
        conditioning: prompts.conditioning,
        batches: Batches::Pictures(data),
        sample_prompts: prompts.samples,
        evaluation_prompts: prompts.evaluations,
    })
}

/// Prompts of a training, encoded.
struct Prompts {
    /// Those of the images.
    conditioning: Conditioning,
    /// The empty prompt and those of validation samples, where there are any.
    samples: Option<SamplePrompts>,
    /// Those of evaluations, where there are any.
    evaluations: Option<SamplePrompts>,
}

impl Prompts {
    async fn encode(
        at: &TrainContext<'_>,
        set: &TrainingSet,
        parts: &TextParts,
        pool: &mut Pool,
        events: &mut EventSink<'_>,
    ) -> Result<Prompts> {
        let (job, model, tokens) = (at.job, at.model, at.model.prompt_tokens());
        let mut texts = Vec::new();
        for prompt in set.prompts.iter().chain(&job.class_prompt) {
            texts.push(model.tokens(prompt, &mut |event| events.say(event))?);
        }
        let conditioned = texts.len();
        texts.push(model.tokens("", &mut |event| events.say(event))?);
        for sample in &job.sample_prompts {
            texts.push(model.tokens(sample, &mut |event| events.say(event))?);
        }
        let sampled = texts.len();
        for prompt in set.evaluation.iter().flat_map(|set| &set.prompts) {
            texts.push(model.tokens(prompt, &mut |_| Flow::Continue)?);
        }
        let end = texts[conditioned][0].get(1).copied();
        let words = |ids: &Tokens| ids[0].iter().skip(1).position(|id| Some(*id) == end).unwrap_or(0);
        let longest = texts.iter().map(words).max().unwrap_or(0);
        events.note(format!("the longest prompt has {longest} of {} tokens", tokens.saturating_sub(2)));
        events.phase(Phase::EncodingPrompts)?;
        let mut hidden = HostHidden::new(model.hidden_shape(tokens), texts.len());
        let encoding = model.encode_prompts(at.gpu(), parts, pool, &texts, Destination::Host(&mut hidden));
        events.until_stopped(at.gpu(), encoding).await?;
        if model.zeros {
            hidden.clear(conditioned);
        }
        let evaluations = set.evaluation.as_ref().map(|_| {
            let mut hidden = hidden.split_off(sampled);
            if model.zeros {
                hidden.clear(0);
            }
            SamplePrompts { hidden, ids: texts.split_off(sampled) }
        });
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
        let ids = texts.split_off(conditioned);
        let samples = (!job.sample_prompts.is_empty()).then_some(SamplePrompts { hidden: of_samples, ids });
        Ok(Prompts { conditioning, samples, evaluations })
    }
}

/// Images to train on.
struct Images<'a> {
    at: &'a TrainContext<'a>,
    set: &'a TrainingSet,
    /// Those of the subject, and those of its class.
    kinds: [Vec<TrainingPicture>; 2],
}

impl<'a> Images<'a> {
    /// Makes the class images that are not there.
    async fn new(at: &'a TrainContext<'a>, set: &'a TrainingSet, events: &mut EventSink<'_>) -> Result<Images<'a>> {
        let (job, model) = (at.job, at.model);
        let file = |path: &PathBuf| TrainingPicture::File(path.clone());
        let mut classes: Vec<TrainingPicture> = set.classes.iter().map(file).collect();
        if let Some(class) = job.class_prompt.as_ref().filter(|_| set.classes_to_make > 0) {
            let made = job.class_job(model, class, set.classes_to_make)?;
            classes.extend(class_pictures(&at.context, model, &made, events).await?);
        }
        Ok(Images { at, set, kinds: [set.pictures.iter().map(file).collect(), classes] })
    }

    /// Encodes all images by the plans `parts` of their sizes.
    async fn encode(&self, parts: &[Part], pool: &mut Pool, events: &mut EventSink<'_>) -> Result<[Vec<Photo>; 2]> {
        let Images { at, set, kinds: [pictures, classes] } = self;
        events.phase(Phase::EncodingImages)?;
        let (views, of_class) = (set.views(at.job), Views::of_class());
        if at.model.inpaints() {
            let masks = |views: &Views| views.views.len() * masks_of_view(pictures.len(), views.views.len(), false);
            let masks = views.iter().map(masks).max().unwrap_or(0);
            events.note(format!("an inpainting model: {masks} random masks of each image"));
        }
        let mut photos = [set.photos(), set.class_photos(classes.len())];
        let (mut done, total) = (0, pictures.len() + classes.len());
        for (index, (&size, part)) in set.sizes.iter().zip(parts).enumerate() {
            pool.fit(at.gpu(), &part.plan.arena)?;
            let vae = VaeSession::new(at.gpu(), at.model, pool, part);
            let vae = events.until_stopped(at.gpu(), vae).await?;
            let encoder = Encoder { at, vae, size, images: pictures.len() };
            for (kind, (pictures, photos)) in self.kinds.iter().zip(&mut photos).enumerate() {
                let mine = pictures.iter().zip(photos).enumerate().filter(|(_, (_, photo))| photo.size == index);
                for (i, (picture, photo)) in mine {
                    let views = if kind == 0 { &views[i] } else { &of_class };
                    encoder.encode([kind, i], &picture.open()?, views, photo, events).await?;
                    done += 1;
                    events.say(Event::Progress { unit: "image", done, total });
                    events.go_on()?;
                }
            }
        }
        Ok(photos)
    }
}

/// The autoencoder at work on images of one size.
struct Encoder<'a> {
    at: &'a TrainContext<'a>,
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
        let Encoder { at: TrainContext { job, model, .. }, vae, size, images } = self;
        self.at.gpu().breathe().await;
        photo.in_turn = *in_turn;
        let masks = if model.inpaints() { masks_of_view(*images, views.len(), kind == 1) } else { 0 };
        for (number, view) in views.iter().enumerate() {
            let pixels = image.resized(*size, Fit::Cover(view.crop))?.to_unit(view.flip);
            self.at.gpu().breathe().await;
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
