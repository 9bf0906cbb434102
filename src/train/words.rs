//! Look at the words that name a subject, before the first update of a training: whether they mean something to the model
//! already.
//!
//! The forward pass of the training's own step predicts, on its own weights, in its own memory and on latents of its own
//! first micro-batches: for the prompt without the word, with it, and with rare words in its place. Nothing is drawn and
//! nothing is written that an update reads, so the training comes to the same result.

use std::sync::Arc;

use crate::base::DType;
use crate::diffusion::NoiseSchedule;
use crate::error::Result;
use crate::event::Flow;
use crate::gpu::{Pool, Store};
use crate::graph::{Graph, Plan, Session, Tensor};
use crate::identifier::rare_words;
use crate::models::{Added, Conditioning, Context, Sample};
use crate::nn::{Mode, Scope, Settings};
use crate::pipeline::Model;
use crate::pipeline::encode::Destination;
use crate::pipeline::events::EventSink;
use crate::pipeline::hidden::HostHidden;
use crate::pipeline::planning::Planning;
use crate::pipeline::text::TextParts;

use super::MicroBatch;
use super::context::TrainContext;
use super::data::Batches;
use super::options::{STEPS, TrainOptions};
use super::plan::Setup;

/// Rare words that a word is compared with.
const COMPARED: usize = 3;
/// Predictions' worth of time that it takes to prepare them.
const SETUP: usize = 2;
/// Micro-batches on which words are compared at most.
const MOST_POINTS: usize = 4;
/// A word is warned of whose effect is this many times that of the best of the rare words.
const FAR: f64 = 2.0;
/// Micro-batches among which those with telling timesteps are looked for.
const LOOKED_AT: usize = 64;
/// Timesteps at which a text decides much.
const TELLING: std::ops::Range<f32> = 200.0..900.0;
/// Words of a prompt that name no subject.
const FRAME: [&str; 26] = [
    "a",
    "an",
    "the",
    "of",
    "in",
    "on",
    "at",
    "with",
    "and",
    "my",
    "our",
    "this",
    "that",
    "one",
    "photo",
    "photograph",
    "picture",
    "image",
    "portrait",
    "drawing",
    "painting",
    "rendering",
    "close-up",
    "closeup",
    "style",
    "by",
];

/// Word of a prompt with the prompts that tell its effect: without it, with it, and with rare words in its place.
struct Trial {
    word: String,
    prompts: Vec<String>,
}

/// Plan of the predictions.
pub(super) struct WordPlan {
    trials: Vec<Trial>,
    /// Micro-batches to predict on.
    points: usize,
    pub plan: Arc<Plan>,
    inputs: Inputs,
}

#[derive(Clone, Copy)]
struct Inputs {
    noisy: Tensor,
    extra: Option<Tensor>,
    timesteps: Tensor,
    hidden: Tensor,
    added: Option<Added>,
    output: Tensor,
}

/// A word as it is compared: without punctuation around it, in lower case.
fn plain(word: &str) -> String {
    word.trim_matches(|c: char| !c.is_alphanumeric()).to_lowercase()
}

/// `prompt` with `other` in place of `word`.
fn replaced(prompt: &str, word: &str, other: &str) -> String {
    let words = prompt.split_whitespace().map(|own| if plain(own) == word { other } else { own });
    words.filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
}

/// Words of `prompt` that `class` lacks and that may name a subject.
fn own_words(prompt: &str, class: &str) -> Vec<String> {
    let known: Vec<String> = class.split_whitespace().map(plain).collect();
    let mut own: Vec<String> = Vec::new();
    for word in prompt.split_whitespace().map(plain) {
        if !word.is_empty() && !known.contains(&word) && !FRAME.contains(&word.as_str()) && !own.contains(&word) {
            own.push(word);
        }
    }
    own
}

/// Micro-batches that `trials` words may be compared on within a hundredth of a run of `passes` forward and backward passes,
/// each of which costs two predictions or more.
fn points(passes: usize, trials: usize) -> usize {
    let predictions = (passes.saturating_mul(2) / 100).saturating_sub(SETUP);
    (predictions / ((2 + COMPARED) * trials).max(1)).min(MOST_POINTS)
}

impl TrainOptions {
    fn trials(&self, model: &Model) -> Vec<Trial> {
        let (Some(prompt), Some(class)) = (&self.prompt, &self.class_prompt) else { return Vec::new() };
        let all: Vec<String> = prompt.split_whitespace().map(plain).collect();
        let except: Vec<&str> = all.iter().map(String::as_str).collect();
        let rare = rare_words(model, COMPARED, &except);
        let trial = |word: String| {
            let others = rare.iter().map(|other| replaced(prompt, &word, other));
            let prompts = [replaced(prompt, &word, ""), prompt.clone()].into_iter().chain(others).collect();
            Trial { word, prompts }
        };
        if rare.len() < COMPARED { Vec::new() } else { own_words(prompt, class).into_iter().map(trial).collect() }
    }
}

impl WordPlan {
    /// Plans to look at the words of `job` that its class lacks; `None` if there are none, if the run is too short for it,
    /// and of a run that goes on from a checkpoint.
    pub fn new(job: &TrainOptions, model: &Model, setup: &Setup, planning: Planning<'_>) -> Result<Option<WordPlan>> {
        let trials = if job.resume { Vec::new() } else { job.trials(model) };
        let passes = job.steps.unwrap_or(STEPS).saturating_mul(job.accumulate);
        let points = points(passes, trials.len());
        if trials.is_empty() || points == 0 {
            return Ok(None);
        }
        let ([h, w, c], n) = (setup.latent, setup.batch());
        let mut g = Graph::new();
        let noisy = g.input("noisy", [n, h, w, c], DType::F32);
        let further = setup.unet.in_channels.saturating_sub(c);
        let extra = (further > 0).then(|| g.input("mask and masked latents", [n, h, w, further], DType::F32));
        let timesteps = g.input("timesteps", [n], DType::F32);
        let hidden = g.input("context", [n, setup.tokens, setup.unet.cross_attention_dim.get(0)], DType::F32);
        let added = setup.unet.added().map(|added| Added {
            pooled: g.input("pooled", [n, added.pooled], DType::F32),
            time_ids: g.input("time ids", [n, 6], DType::F32),
        });
        let storage = if setup.lora.is_none() { Settings::default() } else { setup.storage.clone() };
        let settings = Settings { mode: Mode::Training, lora: setup.lora.clone(), ..storage };
        let denoiser = setup.unet.denoiser(&Scope::new("unet", settings))?;
        let conditioning = Conditioning { context: Context::Hidden(hidden), added };
        let output = denoiser.predict(&mut g, Sample { latents: noisy, extra }, timesteps, conditioning)?;
        g.output(output);
        let inputs = Inputs { noisy, extra, timesteps, hidden, added, output };
        Ok(Some(WordPlan { trials, points, plan: planning.plan(&g)?, inputs }))
    }

    /// Encodes all prompts by the plans `text` of the training's own, as many at once: hidden states and pooled embeddings of
    /// each.
    pub async fn encode(
        &self,
        at: &TrainContext<'_>,
        text: &TextParts,
        pool: &mut Pool,
        events: &mut EventSink<'_>,
    ) -> Result<Vec<[Vec<f32>; 2]>> {
        let model = at.model;
        let planned = text.encoders.first().and_then(|of| of.batches.last()).map_or(1, |(_, range)| range.end.max(1));
        let prompts: Vec<&String> = self.trials.iter().flat_map(|trial| &trial.prompts).collect();
        let mut encoded = Vec::with_capacity(prompts.len());
        for chunk in prompts.chunks(planned) {
            let padded = (0..planned).map(|i| chunk[i.min(chunk.len() - 1)]);
            let tokens =
                padded.map(|prompt| model.tokens(prompt, &mut |_| Flow::Continue)).collect::<Result<Vec<_>>>()?;
            let mut host = HostHidden::new(model.hidden_shape(model.prompt_tokens()), planned);
            let encoding = model.encode_prompts(at.gpu(), text, pool, &tokens, Destination::Host(&mut host));
            events.until_stopped(at.gpu(), encoding).await?;
            let [states, pooled] = [&host.hidden, &host.pooled].map(|all| all.len() / planned);
            let part = |all: &[f32], each: usize, i: usize| all[i * each..(i + 1) * each].to_vec();
            encoded.extend((0..chunk.len()).map(|i| [part(&host.hidden, states, i), part(&host.pooled, pooled, i)]));
        }
        Ok(encoded)
    }

    /// Predicts for the prompts `encoded` on the weights in `store` and latents of `batches`, and warns of words that mean
    /// much more than rare ones.
    pub async fn look(
        &self,
        at: &TrainContext<'_>,
        encoded: &[[Vec<f32>; 2]],
        (pool, store): (&mut Pool, &Store),
        batches: &Batches,
        events: &mut EventSink<'_>,
    ) -> Result<()> {
        let session = events.until_stopped(at.gpu(), Session::new(at.gpu(), self.plan.clone(), pool, store)).await?;
        let schedule = NoiseSchedule::new(&at.model.schedule);
        let mut telling = Vec::with_capacity(self.points);
        for index in 0..LOOKED_AT {
            if telling.len() == self.points {
                break;
            }
            let batch = batches.micro_batch(index, at.job, &schedule)?;
            if batch.size == 0 && batch.timesteps.iter().all(|t| TELLING.contains(t)) {
                telling.push(batch);
            }
        }
        let mut first = 0;
        for trial in &self.trials {
            let own = &encoded[first..first + trial.prompts.len()];
            first += trial.prompts.len();
            let mut effects = vec![0.0; own.len() - 1];
            for batch in &telling {
                let before = self.predict(&session, batch, &own[0]).await?;
                for (effect, prompt) in effects.iter_mut().zip(&own[1..]) {
                    let after = self.predict(&session, batch, prompt).await?;
                    *effect += before.iter().zip(&after).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>();
                    events.go_on()?;
                }
            }
            if let Some(times) = far(&effects) {
                let means = format!("\"{}\" means something to the model already: in the prompt", trial.word);
                let much = format!(
                    "it changes predictions {times:.1} times as much as the best of {COMPARED} rare words does"
                );
                events.warn(format!("{means} {much}; 'portray identifier' finds a word that means less"));
            }
        }
        Ok(())
    }

    async fn predict(&self, session: &Session, batch: &MicroBatch, prompt: &[Vec<f32>; 2]) -> Result<Vec<f32>> {
        let (to, samples) = (&self.inputs, batch.timesteps.len());
        session.write(to.noisy, &batch.noisy)?;
        session.write(to.timesteps, &batch.timesteps)?;
        session.write(to.hidden, &prompt[0].repeat(samples))?;
        if let Some(extra) = to.extra {
            session.write(extra, &batch.extra)?;
        }
        if let Some(Added { pooled, time_ids }) = to.added {
            session.write(pooled, &prompt[1].repeat(samples))?;
            session.write(time_ids, &batch.time_ids)?;
        }
        session.run().await?;
        session.read(to.output).await
    }
}

/// How many times as much as the best of the rare words a word does, by sums of squares: its own, then theirs. `None` if it is
/// not far more.
fn far(effects: &[f64]) -> Option<f64> {
    let (own, others) = effects.split_first()?;
    let best = others.iter().copied().min_by(f64::total_cmp)?;
    let times = (own / best.max(f64::MIN_POSITIVE)).sqrt();
    (*own > 0.0 && times >= FAR).then_some(times)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_the_prompt_that_the_class_lacks() {
        assert_eq!(own_words("A photo of a Sks dog, sks", "a dog"), ["sks"]);
        assert_eq!(own_words("a mscds purple cat", "a cat"), ["mscds", "purple"]);
        assert!(own_words("a dog", "a dog").is_empty() && own_words("- a dog", "a dog").is_empty());
    }

    #[test]
    fn a_word_is_left_out_or_replaced() {
        assert_eq!(replaced("a sks dog, Sks", "sks", ""), "a dog,");
        assert_eq!(replaced("a sks  dog", "sks", "lun"), "a lun dog");
    }

    #[test]
    fn a_hundredth_of_the_run_is_not_exceeded() {
        // One point of one word takes five predictions beside two for all, a pass two.
        assert_eq!([0, 349, 350, 599, 600].map(|passes| points(passes, 1)), [0, 0, 1, 1, 2]);
        assert_eq!((points(599, 2), points(600, 2), points(100_000, 1)), (0, 1, MOST_POINTS));
    }

    #[test]
    fn only_what_is_far_above_rare_words_is_told() {
        assert_eq!(far(&[9.0, 4.0, 1.0, 16.0]), Some(3.0));
        assert_eq!(far(&[9.0, 4.0, 3.0, 16.0]), None);
        assert_eq!(far(&[0.0, 0.0, 0.0, 0.0]), None);
    }
}
