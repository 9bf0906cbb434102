//! Images to measure: the same prompts and seeds by each model, written as they come.

use std::collections::BTreeSet;
use std::path::PathBuf;

use crate::error::{Error, Result};
use crate::event::{Event, Flow, Picture};
use crate::generate::plans::generate_report;
use crate::generate::{GenerateOptions, generate_unmasked};
use crate::io;
use crate::io::image::{thumbnail, write_png};
use crate::io::{Place, Placed};
use crate::pipeline::Model;
use crate::pipeline::context::Context;
use crate::pipeline::events::EventSink;

use super::check::IMAGES;
use super::colour::Embedding;
use super::options::EvaluateOptions;

/// Longest side of a thumbnail in the report, in pixels.
pub(super) const THUMBNAIL: usize = 256;

/// Prompts that have nothing to do with a subject: whatever changes there has drifted.
pub(super) const UNRELATED: [&str; 4] =
    ["a bowl of fruit on a table", "a red car on a road", "a house by a lake", "a bunch of flowers in a vase"];

/// Subject of an image's prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// The subject, by a prompt with its identifier.
    Subject,
    /// Another member of its class.
    Class,
    /// Something else.
    Unrelated,
}

/// Images to make of one prompt.
pub(super) struct Shot {
    pub role: Role,
    /// Index of the prompt among those of its role.
    pub prompt: usize,
    pub text: String,
    pub count: usize,
}

/// Image that was made and written.
pub(super) struct Shown {
    pub role: Role,
    /// Index of its prompt among those of its role.
    pub prompt: usize,
    pub seed: u64,
    /// Path in the results' folder.
    pub name: String,
    /// Path where it lies.
    pub path: PathBuf,
    pub colours: Embedding,
    /// JPEG.
    pub thumbnail: Vec<u8>,
}

/// Makes images model by model.
pub(super) struct Maker<'a, 'e> {
    pub context: &'a Context,
    pub job: &'a EvaluateOptions,
    pub shots: &'a [Shot],
    /// Images that are sampled together.
    pub batch: usize,
    /// Width and height in pixels.
    pub size: [usize; 2],
    pub events: &'a mut EventSink<'e>,
    /// Sampler steps of an image, those that are done, and those of all images.
    pub steps: [usize; 3],
    /// Images made so far.
    pub made: usize,
    /// Texts that were said: they are the same for every prompt.
    pub said: BTreeSet<String>,
}

impl Maker<'_, '_> {
    /// Makes all shots with `model` and writes them to the images' folder `folder`. The images so far come with an error that
    /// ended the work.
    pub async fn make(&mut self, model: &Model, folder: &str) -> (Vec<Shown>, Result<()>) {
        let mut shown = Vec::new();
        for shots in jobs(self.shots, self.batch) {
            if let Err(e) = self.make_shots(model, folder, shots, &mut shown).await {
                return (shown, Err(e));
            }
        }
        (shown, Ok(()))
    }

    /// Makes `shots`, of as many images each. What takes too much memory is made one image at a time, and if that fails too,
    /// by one part of the model at a time.
    async fn make_shots(&mut self, model: &Model, folder: &str, shots: &[Shot], shown: &mut Vec<Shown>) -> Result<()> {
        let (before, mut in_turn) = (shown.len(), false);
        loop {
            let made = self.generate(model, folder, shots, shown).await;
            model.settle_weights(&made);
            match made {
                Err(Error::Limit(_) | Error::Device(_)) if shown.len() == before && self.batch > 1 => self.batch = 1,
                Err(Error::Limit(_) | Error::Device(_)) if shown.len() == before && !in_turn => {
                    in_turn = true;
                    model.keep_weights(false);
                }
                made => return made,
            }
        }
    }

    async fn generate(&mut self, model: &Model, folder: &str, shots: &[Shot], shown: &mut Vec<Shown>) -> Result<()> {
        let count = shots.first().map_or(0, |shot| shot.count);
        let prompts = shots.iter().map(|shot| shot.text.clone()).collect();
        let job = self.job.generation(prompts, count, self.job.sampling.seed, Some(self.size));
        let job = GenerateOptions { batch: self.batch, ..job };
        let mut fault = None;
        let [each, done, all] = self.steps;
        let (events, said, made, gpu) = (&mut *self.events, &mut self.said, &mut self.made, &self.context.gpu);
        let place = |name: &str| Place::file(self.job.out.join(name), self.job.force);
        let mut hear = |event: Event| {
            match event {
                Event::Progress { unit: "step", done: steps, .. } => {
                    events.say(Event::Progress { unit: "step", done: done + steps, total: all });
                }
                Event::Compiling { .. } => events.tell_compiled(gpu),
                Event::Note(text) | Event::Warning(text) if !said.insert(text.to_string()) => {}
                Event::Note(_) | Event::Warning(_) => drop(events.say(event)),
                Event::Picture(picture) => match write(&picture, &shots[picture.index / count], folder, place) {
                    Ok(written) => {
                        shown.push(written);
                        events.say(Event::Picture(Picture { index: *made, ..picture }));
                        *made += 1;
                    }
                    Err(e) => drop(fault.get_or_insert(e)),
                },
                _ => {}
            }
            if fault.is_some() || events.stopped() { Flow::Stop } else { Flow::Continue }
        };
        let made = Box::pin(generate_unmasked(self.context, model, &job, &mut hear)).await;
        match (fault, made) {
            (Some(e), _) | (None, Err(e)) => Err(e),
            (None, Ok(_)) => {
                self.steps[1] += job.prompts.len() * count * each;
                Ok(())
            }
        }
    }
}

/// Cuts `shots` into jobs: prompts of one role with as many images each, as many of them as a batch takes.
fn jobs(shots: &[Shot], batch: usize) -> impl Iterator<Item = &[Shot]> {
    let alike = shots.chunk_by(|one, next| (one.role, one.count) == (next.role, next.count));
    alike.flat_map(move |alike| alike.chunks((batch / alike[0].count.max(1)).max(1)))
}

/// Writes an image of `shot` to the images' folder `folder`.
fn write(picture: &Picture, shot: &Shot, folder: &str, place: impl Fn(&str) -> Place) -> Result<Shown> {
    let Shot { role, prompt, .. } = *shot;
    let kind = match role {
        Role::Subject => String::new(),
        Role::Class => "class-".into(),
        Role::Unrelated => "unrelated-".into(),
    };
    let name = format!("{IMAGES}/{folder}/{kind}{:02}-{}.png", prompt + 1, picture.seed);
    let image = io::Picture { width: picture.width, height: picture.height, rgb: picture.rgb.clone() };
    let text = [("parameters", picture.parameters.as_str())];
    let path = place(&name).put(|at| write_png(at, &image, &text)).and_then(Placed::path)?;
    let colours = Embedding::new(picture.width, picture.height, &picture.rgb);
    let thumbnail = thumbnail(&image, THUMBNAIL)?;
    Ok(Shown { role, prompt, seed: picture.seed, name, path, colours, thumbnail })
}

/// Chooses how many images are sampled together with `model`, and whether the weights of all its parts stay on the device:
/// where memory is limited, by the plan.
///
/// # Errors
/// [`Error::Limit`] if not even one image at a time fits.
pub(super) fn choose_memory(
    context: &Context,
    model: &Model,
    job: &EvaluateOptions,
    size: [usize; 2],
) -> Result<(usize, bool)> {
    let Some(limit) = job.model.memory else { return Ok((job.batch, true)) };
    let planned = |batch| {
        let sample = job.generation(vec!["x".into()], job.seeds, 0, Some(size));
        generate_report(&GenerateOptions { batch, ..sample }, context.gpu.caps(), model, Vec::new())
    };
    let (batch, (report, _)) = match planned(job.batch) {
        Err(Error::Limit(_)) if job.batch > 1 => (1, planned(1)?),
        other => (job.batch, other?),
    };
    Ok((batch, report.kept_bytes <= limit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompts_of_few_images_share_a_batch() {
        let shot = |role, count| Shot { role, prompt: 0, text: String::new(), count };
        let shots =
            [[shot(Role::Subject, 3), shot(Role::Subject, 3)], [shot(Role::Class, 3), shot(Role::Unrelated, 1)]];
        let shots: Vec<Shot> = shots.into_iter().flatten().chain((0..4).map(|_| shot(Role::Unrelated, 1))).collect();
        let sizes = |batch| jobs(&shots, batch).map(<[Shot]>::len).collect::<Vec<_>>();
        assert_eq!(sizes(4), [1, 1, 1, 4, 1]);
        assert_eq!(sizes(6), [2, 1, 5]);
        assert_eq!(sizes(1), [1; 8]);
    }
}
