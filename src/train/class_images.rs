//! Class images for prior preservation: made by the base model, kept in the user's cache.

use std::collections::BTreeMap;
use std::path::PathBuf;

use sha2::{Digest, Sha256};

use crate::diffusion::{SamplerKind, default_steps_and_guidance};
use crate::error::Result;
use crate::event::{CancelToken, Event, Flow, Phase, Picture};
use crate::generate::{GenerateOptions, generate_unmasked};
use crate::io;
use crate::pipeline::context::Context;
use crate::pipeline::events::EventSink;
use crate::pipeline::{Model, SamplingOptions, cache_folder};

use super::TrainOptions;
use super::places::check_class_folder;
use super::training_set::TrainingPicture;

/// Sampler steps of a class image.
const STEPS: usize = 50;
/// Images that are sampled before the first of them is decoded and written: the most that a crash costs. Each
/// group loads the weights anew.
const GROUP: usize = 25;

/// Returns the cache folder of the class images that `model` makes of this prompt, size and seed.
///
/// # Errors
/// [`Error::File`](crate::Error::File) if the model's files cannot be read or there is no cache folder.
pub fn class_folder(model: &Model, prompt: &str, size: [usize; 2], seed: u64) -> Result<PathBuf> {
    let fingerprint = model.fingerprint()?;
    let how = match Way::of(model) {
        Way::Distilled => "own sampler".to_owned(),
        Way::Ancestral(guidance) => format!("ddpm {STEPS} {guidance}"),
    };
    let key = format!("{fingerprint}\n{prompt}\n{how}\n{}x{}\n{seed}", size[0], size[1]);
    let digest: String = Sha256::digest(key.as_bytes()).iter().take(12).map(|b| format!("{b:02x}")).collect();
    Ok(cache_folder()?.join("class").join(digest))
}

/// Way to make class images.
enum Way {
    /// As the model's scheduler says: more steps and guidance spoil what a distilled model makes.
    Distilled,
    /// By the ancestral sampler, with this guidance.
    Ancestral(f64),
}

impl Way {
    fn of(model: &Model) -> Way {
        let usual = default_steps_and_guidance(&model.schedule, None, model.family.guidance).1;
        if usual > 1.0 { Way::Ancestral(f64::from(model.family.guidance)) } else { Way::Distilled }
    }
}

impl TrainOptions {
    /// The job that makes `count` class images of `prompt`.
    ///
    /// # Errors
    /// [`Error::Usage`](crate::Error::Usage) for a resolution that the model cannot take.
    pub(super) fn class_job(&self, model: &Model, prompt: &str, count: usize) -> Result<GenerateOptions> {
        let way = match Way::of(model) {
            Way::Distilled => SamplingOptions::default(),
            Way::Ancestral(guidance) => SamplingOptions {
                steps: Some(STEPS),
                guidance: Some(guidance),
                sampler: Some(SamplerKind::Ddpm),
                ..SamplingOptions::default()
            },
        };
        let side = Some(self.side(model)?);
        Ok(GenerateOptions {
            prompts: vec![prompt.to_string()],
            model: self.model.clone(),
            sampling: SamplingOptions { seed: self.seed, width: side, height: side, ..way },
            count,
            ..GenerateOptions::default()
        })
    }
}

/// The images that `folder` lacks, as stretches of at most [`GROUP`] that follow one another.
fn missing(there: &[bool]) -> Vec<std::ops::Range<usize>> {
    let mut stretches: Vec<std::ops::Range<usize>> = Vec::new();
    for i in (0..there.len()).filter(|&i| !there[i]) {
        match stretches.last_mut().filter(|last| last.end == i && last.len() < GROUP) {
            Some(last) => last.end = i + 1,
            None => stretches.push(i..i + 1),
        }
    }
    stretches
}

/// The cache of some class images: a folder, and the images that could not be written there.
struct Cache {
    folder: PathBuf,
    held: BTreeMap<usize, io::Picture>,
}

impl Cache {
    fn path(&self, index: usize) -> PathBuf {
        self.folder.join(format!("{index:04}.png"))
    }

    /// Whether image `index` is there; a damaged one is made again.
    fn holds(&self, index: usize) -> bool {
        io::Picture::open(self.path(index)).is_ok()
    }

    /// Writes image `index`. Where that fails, it is held: it is there to train on, and only other runs miss it.
    fn put(&mut self, index: usize, made: Picture, events: &mut EventSink<'_>) {
        let picture = io::Picture { width: made.width, height: made.height, rgb: made.rgb };
        let text = [("parameters", made.parameters.as_str())];
        if let Err(e) = io::write_png(self.path(index), &picture, &text) {
            self.held.insert(index, picture);
            if self.held.len() == 1 {
                events.warn(format!("class images are used, but not kept for other runs: {e}"));
            }
        }
    }

    /// The first `count` images.
    fn take(mut self, count: usize) -> Vec<TrainingPicture> {
        let picture = |i| match self.held.remove(&i) {
            Some(held) => TrainingPicture::Made(held),
            None => TrainingPicture::File(self.path(i)),
        };
        (0..count).map(picture).collect()
    }
}

/// The images of `job`, a [`TrainOptions::class_job`], by the base `model`: from the cache where they are there. Those that are
/// made are written as they come, so that a run that ends early has the less to make when it is begun again; where they
/// cannot be, they are held.
pub(super) async fn class_pictures(
    context: &Context,
    model: &Model,
    job: &GenerateOptions,
    events: &mut EventSink<'_>,
) -> Result<Vec<TrainingPicture>> {
    let (prompt, seed) = (&job.prompts[0], job.sampling.seed);
    let size = model.size(job.sampling.width, job.sampling.height)?;
    let mut cache = Cache { folder: class_folder(model, prompt, size, seed)?, held: BTreeMap::new() };
    let mut there = Vec::with_capacity(job.count);
    for i in 0..job.count {
        there.push(cache.holds(i));
        context.gpu.breathe().await;
    }
    let stretches = missing(&there);
    let total: usize = stretches.iter().map(ExactSizeIterator::len).sum();
    if total > 0 {
        check_class_folder(&cache.folder, total, size)?;
        events.phase(Phase::MakingClassImages { count: total, prompt: prompt.to_owned() })?;
    }
    let each = model.recipe(&job.sampling, job.model.prediction, None)?.trajectory.steps.len();
    let mut done = 0;
    for stretch in stretches {
        let mut part = GenerateOptions { count: stretch.len(), ..job.clone() };
        part.sampling.seed = seed.wrapping_add(stretch.start as u64);
        let mut hear = |event: Event| {
            match event {
                Event::Progress { done: steps, .. } => {
                    events.say(Event::Progress { unit: "step", done: done * each + steps, total: total * each });
                }
                Event::Warning(_) => {
                    events.say(event);
                }
                Event::Compiling { .. } => events.tell_compiled(&context.gpu),
                Event::Picture(made) => cache.put(stretch.start + made.index, made, events),
                _ => {}
            }
            if events.stopped() { Flow::Stop } else { Flow::Continue }
        };
        // The training heeds its token: to finish early is no reason to make fewer.
        let context = &Context { cancel: CancelToken::new(), ..context.clone() };
        Box::pin(generate_unmasked(context, model, &part, &mut hear)).await?;
        done += stretch.len();
    }
    Ok(cache.take(job.count))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_missing_is_made() {
        assert_eq!(missing(&[true, false, false, true, false]), [1..3, 4..5]);
        assert_eq!(missing(&[false; 2 * GROUP + 1]), [0..GROUP, GROUP..2 * GROUP, 2 * GROUP..2 * GROUP + 1]);
        assert!(missing(&[true]).is_empty());
    }
}
