//! Run of an evaluation: open the models, make the images, judge them, write the report.

use std::collections::BTreeSet;
use std::path::PathBuf;

use crate::error::{Error, Result};
use crate::event::{CancelToken, Event, Listener, Phase};
use crate::io::files::Lock;
use crate::io::image::title;
use crate::io::{Place, Placed, write_atomic};
use crate::pipeline::context::Context;
use crate::pipeline::events::EventSink;
use crate::pipeline::reads::Reads;
use crate::pipeline::{LoraArg, Model, opening};

use super::check::REPORTS;
use super::compared::{Compared, interruption, key};
use super::earlier;
use super::judge::{Seen, Set, Standard};
use super::judges::Vision;
use super::make::{Maker, Role, Shot, Shown, UNRELATED, choose_memory};
use super::measures::closest_pair;
use super::options::EvaluateOptions;
use super::photos::{self, Photo};
use super::prompts::{self, Prompt};
use super::report::{Judges, Report, SCHEMA, Thumbnails, page};

/// Result of an evaluation.
#[derive(Clone, Debug)]
pub struct Evaluation {
    /// Figures and the images that they are of.
    pub report: Report,
    /// Where `report.json` lies.
    pub json: PathBuf,
    /// Where `report.html` lies.
    pub html: PathBuf,
    /// Images that were made.
    pub made: usize,
    /// Images that were to be made: more than [`made`](Self::made) if the evaluation was interrupted.
    pub total: usize,
}

impl Evaluation {
    /// Returns it if it is whole.
    ///
    /// # Errors
    /// [`Error::Interrupted`] if images were left out.
    pub fn whole(self) -> Result<Evaluation> {
        if self.made < self.total { Err(interrupted(self.made, self.total)) } else { Ok(self) }
    }
}

/// A model to evaluate, with the name of its images' folder.
struct Candidate {
    name: String,
    folder: String,
    lora: Option<LoraArg>,
    model: Model,
}

/// What an evaluation needs before the first image is made.
struct Prepared {
    photos: Vec<Photo>,
    prompts: Vec<Prompt>,
    vision: Vision,
    /// The base model first.
    candidates: Vec<Candidate>,
    /// Width and height of images in pixels.
    size: [usize; 2],
    notes: Vec<String>,
    /// Images that the report of an earlier evaluation in the same folder names.
    earlier: BTreeSet<String>,
    _lock: Option<Lock>,
}

/// Evaluates as `job` says. Stopped, it reports on the images that were made; [`Error::Interrupted`] where they are too few to
/// compare anything.
pub(crate) async fn evaluate(context: &Context, job: &EvaluateOptions, listener: Listener<'_>) -> Result<Evaluation> {
    job.check()?;
    let mut events = EventSink::new(listener, &context.cancel);
    let prepared = Box::pin(prepare(context, job, &mut events)).await?;
    let (sets, made) = Box::pin(make(context, job, &prepared, &mut events)).await?;
    let total = prepared.images(job);
    let done = sets.iter().map(|(_, shown)| shown.len()).sum::<usize>();
    match made {
        Err(Error::Interrupted { .. }) if sets.len() < 2 => {
            discard(job, &prepared, &sets, &mut events);
            return Err(interrupted(done, total));
        }
        Err(e) if !matches!(e, Error::Interrupted { .. }) => return Err(e),
        _ => {}
    }
    // What was made is judged, whoever asks to stop: that takes moments beside the making, and nothing is to be lost.
    let context = &Context { cancel: CancelToken::new(), ..context.clone() };
    events.say(Event::Phase(Phase::Measuring));
    let evaluation = Box::pin(report(context, job, (prepared, sets), &mut events)).await?;
    for path in [&evaluation.json, &evaluation.html] {
        events.say(Event::Saved(path.clone()));
    }
    Ok(evaluation)
}

/// Removes images of an evaluation that has nothing to compare: nothing would say what they are.
fn discard(job: &EvaluateOptions, prepared: &Prepared, sets: &Sets, events: &mut EventSink<'_>) {
    let made: BTreeSet<String> = sets.iter().flat_map(|(_, shown)| shown).map(|shown| shown.name.clone()).collect();
    let removed = earlier::remove(&job.out, &earlier::without(&made, &prepared.earlier));
    if removed > 0 {
        events.note(format!("nothing to compare yet: removed {} of the base model", earlier::counted(removed)));
    }
}

fn interrupted(done: usize, total: usize) -> Error {
    Error::Interrupted { unit: "image", done, total, resumable: None }
}

/// Opens all that is read, so that nothing is missing after an hour of work.
async fn prepare(context: &Context, job: &EvaluateOptions, events: &mut EventSink<'_>) -> Result<Prepared> {
    let (prompt, mut notes) = (job.prompt.as_deref().unwrap_or_default(), Vec::new());
    let (prompts, strange) = prompts::read(job.prompt_list.as_deref(), prompt, job.class_prompt.as_deref())?;
    let vision = Vision::open(job.vision.as_deref(), job.clip.as_deref())?;
    let (photos, doubles) = photos::read(job.photos.as_deref().unwrap_or(".".as_ref()), events)?;
    for warning in strange.into_iter().chain(doubles) {
        events.warn(warning.as_str());
        notes.push(warning);
    }
    for warning in job.doubts() {
        notes.push(warning.to_string());
        events.warn(warning);
    }
    let mut note = |events: &mut EventSink<'_>, text: &str| {
        events.note(text);
        notes.push(text.to_owned());
    };
    if photos.len() == 1 {
        note(events, "one photo alone: how alike the photos are among themselves is left out, and with it copying");
    }
    if job.class_prompt.is_none() {
        note(events, "without a class prompt, PRES, DRIFT and CLIP_T are left out");
    }
    let candidates = Box::pin(candidates(context, job, events)).await?;
    let size = candidates[candidates.len() - 1].model.size(job.sampling.width, job.sampling.height)?;
    let lock = Place::file(job.out.join(REPORTS[0]), job.force).lock(|text| events.warn(text))?;
    let earlier = earlier::images(&job.out);
    Ok(Prepared { photos, prompts, vision, candidates, size, notes, earlier, _lock: lock })
}

/// Opens the base model, and the model with each LoRA at each scale, or the fine-tuned model.
async fn candidates(context: &Context, job: &EvaluateOptions, events: &mut EventSink<'_>) -> Result<Vec<Candidate>> {
    let reads = Reads { encoder: false, ..Reads::ALL };
    let mut all = Vec::new();
    let mut base = None;
    if let Some(options) = job.base_options() {
        base = Some(Box::pin(opening::open(context, &options, &[], reads, events)).await?);
    }
    let model = Box::pin(opening::open(context, &job.model, &[], reads, events)).await?;
    let (loras, name) = (job.loras.iter().flat_map(|lora| lora.each()).collect::<Vec<_>>(), own_name(job, &model));
    for lora in &loras {
        // From the one before: a file at another scale is held once.
        let from = all.last().map_or(&model, |last: &Candidate| &last.model);
        let with = from.with_loras(std::slice::from_ref(lora), &mut |event| events.say(event))?;
        let name = lora_name(&loras, lora);
        all.push(Candidate { folder: folder(all.len() + 1, &name), name, lora: Some(lora.clone()), model: with });
    }
    let base_model = match base {
        Some(base) => {
            if all.is_empty() {
                all.push(Candidate { folder: folder(1, &name), name, lora: None, model });
            }
            base
        }
        None => model,
    };
    let base = Candidate { name: "base model".into(), folder: "base".into(), lora: None, model: base_model };
    all.insert(0, base);
    Ok(all)
}

/// Name of the evaluated model.
fn own_name(job: &EvaluateOptions, model: &Model) -> String {
    let path = job.model.unet.as_deref().or(job.model.model.as_deref());
    path.map_or_else(|| model.checkpoint.name().to_owned(), title)
}

/// Name of a LoRA in tables: its file's, or its path where another file has the same name, with its scale.
fn lora_name(all: &[LoraArg], lora: &LoraArg) -> String {
    let name = title(&lora.path);
    let twice = all.iter().any(|other| other.path != lora.path && title(&other.path) == name);
    let name = if twice { lora.path.display().to_string() } else { name };
    let scaled = all.iter().any(|other| other.path == lora.path && other.scale != lora.scale) || lora.scale != 1.0;
    if scaled { format!("{name} x {}", lora.scale) } else { name }
}

/// Name of the images' folder of candidate number `number`.
fn folder(number: usize, name: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' };
    let name: String = name.chars().map(plain).collect();
    let name: Vec<&str> = name.split('-').filter(|part| !part.is_empty()).collect();
    let name: String = name.join("-").chars().take(60).collect();
    format!("{number:02}-{name}").trim_end_matches(['-', '.']).to_owned()
}

/// Images to make with each model.
fn shots(job: &EvaluateOptions, prompts: &[Prompt]) -> Vec<Shot> {
    let subject = prompts.iter().enumerate().map(|(prompt, own)| (Role::Subject, prompt, own.text.as_str(), job.seeds));
    let class = job.class_prompt.iter().map(|text| (Role::Class, 0, text.as_str(), job.seeds));
    // As many in all as of one prompt, and at least one of each.
    let few = job.seeds.div_ceil(UNRELATED.len());
    let unrelated = UNRELATED.iter().enumerate().map(|(prompt, text)| (Role::Unrelated, prompt, *text, few));
    let all = subject.chain(class).chain(unrelated);
    all.map(|(role, prompt, text, count)| Shot { role, prompt, text: text.to_owned(), count }).collect()
}

/// Candidates, by index, with their images.
type Sets = Vec<(usize, Vec<Shown>)>;

/// Makes all images, the base model's first; those that were made come with an interruption.
async fn make(
    context: &Context,
    job: &EvaluateOptions,
    prepared: &Prepared,
    events: &mut EventSink<'_>,
) -> Result<(Sets, Result<()>)> {
    let shots = shots(job, &prepared.prompts);
    let images: usize = shots.iter().map(|shot| shot.count).sum();
    let mut each = Vec::with_capacity(prepared.candidates.len());
    for candidate in &prepared.candidates {
        let recipe = candidate.model.recipe(&job.sampling, job.model.prediction, None)?;
        each.push(recipe.trajectory.steps.len());
    }
    let steps = [0, 0, images * each.iter().sum::<usize>()];
    events.phase(Phase::Sampling)?;
    let (size, said) = (prepared.size, BTreeSet::new());
    let mut maker = Maker { context, job, shots: &shots, batch: job.batch, size, events, steps, made: 0, said };
    let mut sets = Sets::new();
    for (index, candidate) in prepared.candidates.iter().enumerate() {
        maker.steps[0] = each[index];
        let (batch, keep) = choose_memory(context, &candidate.model, job, prepared.size)?;
        maker.batch = batch.min(maker.batch);
        candidate.model.keep_weights(keep);
        let (shown, made) = maker.make(&candidate.model, &candidate.folder).await;
        if !shown.is_empty() {
            sets.push((index, shown));
        }
        // What the next model does not share goes before it comes.
        if index == 0 && job.base_options().is_some() || made.is_err() {
            candidate.model.keep_weights(false);
        }
        if made.is_err() {
            return Ok((sets, made));
        }
    }
    prepared.candidates.iter().for_each(|candidate| candidate.model.keep_weights(false));
    Ok((sets, Ok(())))
}

/// Judges the images of `sets`, the base model's first, and writes the report.
async fn report(
    context: &Context,
    job: &EvaluateOptions,
    (prepared, sets): (Prepared, Sets),
    events: &mut EventSink<'_>,
) -> Result<Evaluation> {
    let Prepared { photos, prompts, vision, candidates, .. } = &prepared;
    let made = sets.iter().map(|(_, shown)| shown.len()).sum::<usize>();
    let (mut done, total) = (0, (photos.len() + made) * vision.models());
    let mut tick = |count| {
        done += count;
        events.say(Event::Progress { unit: "image", done, total });
    };
    let paths: Vec<PathBuf> = photos.iter().map(|photo| photo.path.clone()).collect();
    let seen = Seen::by_colour(photos.iter().map(|photo| &photo.colours));
    let (real, texts) = (vision.see(context, &paths, seen, &mut tick).await?, vision.read(context, prompts).await?);
    let keys: Vec<_> = sets.iter().map(|(_, shown)| shown.iter().map(key).collect()).collect();
    let compared = Compared::new(&keys);
    let mut judged = Vec::with_capacity(sets.len());
    for ((index, shown), left_out) in sets.into_iter().zip(&compared.left_out) {
        let paths: Vec<PathBuf> = shown.iter().map(|shown| shown.path.clone()).collect();
        let seen = Seen::by_colour(shown.iter().map(|shown| &shown.colours));
        let (seen, candidate) = (vision.see(context, &paths, seen, &mut tick).await?, &candidates[index]);
        let (name, lora) = (candidate.name.clone(), candidate.lora.clone());
        judged.push(Set { name, lora, shown, seen, left_out: *left_out });
    }
    vision.release();
    let (texts, by_colour) = (texts.as_ref(), vision.by_colour());
    let standard = Standard { photos: &real, texts, by_colour, base: &judged[0], compared: &compared.keys };
    let total = prepared.images(job);
    let mut report = Report {
        among_photos: standard.among_photos(),
        closest_photos: closest_pair(&real.subject),
        columns: judged.iter().map(|set| standard.judge(set)).collect(),
        complete: made == total,
        ..prepared.facts(job)?
    };
    if made < total {
        let note = prepared.interruption(&compared, &judged, job);
        events.note(note.as_str());
        report.notes.insert(0, note);
    }
    let thumbnails = Thumbnails {
        photos: photos.iter().map(|photo| &photo.thumbnails).collect(),
        images: judged.iter().flat_map(|set| &set.shown).map(|shown| (&*shown.name, &*shown.thumbnail)).collect(),
    };
    let (json, html) = write(job, &report, &page(&report, &thumbnails)?)?;
    let shown = judged.iter().flat_map(|set| &set.shown).map(|shown| shown.name.clone()).collect();
    let removed = earlier::remove(&job.out, &earlier::without(&prepared.earlier, &shown));
    if removed > 0 {
        events.note(format!(
            "removed {} of the earlier evaluation in {}",
            earlier::counted(removed),
            job.out.display()
        ));
    }
    Ok(Evaluation { report, json, html, made, total })
}

/// Writes the report, as data and as a page; returns the paths of both.
fn write(job: &EvaluateOptions, report: &Report, html: &str) -> Result<(PathBuf, PathBuf)> {
    let json = serde_json::to_vec_pretty(report).map_err(|e| Error::Internal(e.to_string()))?;
    let put = |name: &str, bytes: &[u8]| {
        let place = Place::file(job.out.join(name), job.force);
        place.put(|at| write_atomic(at, |out| out.write_all(bytes))).and_then(Placed::path)
    };
    Ok((put(REPORTS[0], &json)?, put(REPORTS[1], html.as_bytes())?))
}

impl Prepared {
    /// Number of images of the whole evaluation.
    fn images(&self, job: &EvaluateOptions) -> usize {
        self.candidates.len() * shots(job, &self.prompts).iter().map(|shot| shot.count).sum::<usize>()
    }

    /// Says what the figures of an interrupted evaluation are over.
    fn interruption(&self, compared: &Compared, judged: &[Set], job: &EvaluateOptions) -> String {
        let made = |i: usize| judged.get(i).map_or(0, |set| set.shown.len());
        let models = self.candidates.iter().enumerate().map(|(i, candidate)| (candidate.name.as_str(), made(i)));
        interruption(compared, &models.collect::<Vec<_>>(), self.images(job) / self.candidates.len())
    }

    /// Report of what is evaluated, without figures.
    fn facts(&self, job: &EvaluateOptions) -> Result<Report> {
        let model = &self.candidates[self.candidates.len() - 1].model;
        let recipe = model.recipe(&job.sampling, job.model.prediction, None)?;
        let (kind, steps, guidance) = (recipe.trajectory.kind.name(), recipe.steps, recipe.guidance);
        let vision = &self.vision;
        Ok(Report {
            schema: SCHEMA,
            portray: env!("CARGO_PKG_VERSION"),
            complete: false,
            model: own_name(job, model),
            base: job.base.as_deref().map(title),
            prompt: job.prompt.clone().unwrap_or_default(),
            class_prompt: job.class_prompt.clone(),
            prompts: self.prompts.clone(),
            unrelated_prompts: UNRELATED.map(str::to_owned).to_vec(),
            seeds: job.seeds,
            seed: job.sampling.seed,
            size: self.size,
            sampling: format!("{kind}, {steps} steps, guidance {guidance}"),
            judges: Judges { likeness: vision.likeness_name(), clip: vision.clip_name(), blind_to: vision.blind_to() },
            notes: self.notes.clone(),
            photos: self.photos.iter().map(|photo| photo.path.to_string_lossy().into_owned()).collect(),
            among_photos: Default::default(),
            closest_photos: None,
            columns: Vec::new(),
        })
    }
}
