//! `demo --study`: what each choice of a training does, one at a time, on several seeds.
//!
//! Every run is kept in the study's folder, and a study that was stopped goes on with what is not there yet.

mod factors;
mod figures;
mod record;
mod text;

use std::path::{Path, PathBuf};

use portray::low_level::evaluate::{EvaluateOptions, ScaledLora};
use portray::low_level::io::{Place, image, write_atomic};
use portray::{Picture, Result, SamplingOptions};

use super::super::args::{DemoArgs, Global};
use super::super::{files, stop, terminal};
use super::progress::Job;
use super::recipe::{CLASS_PICTURES, GUIDANCE, SAMPLER, SEED_GAP};
use super::sheet::{Sheet, Strip};
use super::studio;
use super::studio::{Lesson, Studio};
use super::subject::Subject;
use factors::{MANY_CLASS_PICTURES, Variation, variations};
use figures::Outcome;
use record::Record;

/// What every personalized model is asked for.
const PROMPTS: &str =
    "a {subject} on the beach\na {subject} in the snow\na {subject} wearing a crown\na line drawing of a {subject}\n";
/// Images of each prompt, and of the class and each prompt that has nothing to do with the subject.
const IMAGES: usize = 2;
/// Prompts of one evaluation: those above, the class's, and four that have nothing to do with the subject.
const ASKED: usize = 4 + 1 + 4;

/// Trains every variation on every seed, evaluates them, and writes the table and the sheet.
pub fn run(global: &Global, args: &DemoArgs) -> Result<()> {
    let folder = args.out.join("study");
    files::check_folder(&folder, &[], args.force)?;
    let _lock = Place::folder(&folder, Vec::new(), true).lock(|text| terminal::warn(global.json, &text))?;
    let side = studio::side()?;
    let subject = Subject::open(args, &folder.join("photos"), side)?;
    let other = Subject::second(args, &folder.join("second-photos"), side)?;
    let variations = variations(&subject.phrases, other.as_ref().map(|other| &other.phrases));
    let record = Record::new(args, &subject.phrases);
    if record.settle(&folder, args.force)? == record::Found::Another {
        variations.iter().try_for_each(|variation| forget(&folder, variation, args.seeds))?;
    }
    stop::listen();
    let mut left = Job::default();
    let study = |studio| Study { args, folder: &folder, subjects: [Some(&subject), other.as_ref()], studio };
    for variation in &variations {
        left = left.and(work(&folder, variation, args));
    }
    left.pictures += lacking(&folder, &variations);
    let mut study = study(Studio::open(global, args, left.units(args.sampling_steps))?);
    let made = study.make(&variations);
    let (times, outcomes) = (std::mem::take(&mut study.studio.times), study.studio.progress.finish(made, &folder)?);
    let text = text::table(args, &subject.phrases, &outcomes, &times);
    for (name, bytes) in [("study.md", text.into_bytes()), ("study.json", record.with_values(&outcomes))] {
        let path = folder.join(name);
        write_atomic(&path, |out| out.write_all(&bytes))?;
        terminal::tell_saved(global.json, &path);
    }
    let path = folder.join("study.png");
    draw(args, &subject, &outcomes, &path)?;
    terminal::tell_saved(global.json, &path);
    Ok(())
}

/// A study under way.
struct Study<'a> {
    args: &'a DemoArgs,
    folder: &'a Path,
    /// The subject, and the second one where there is one.
    subjects: [Option<&'a Subject>; 2],
    studio: Studio<'a>,
}

impl Study<'_> {
    fn make(&mut self, variations: &[Variation]) -> Result<Vec<Outcome>> {
        let mut outcomes = Vec::with_capacity(variations.len());
        let prompts = self.folder.join("prompts.txt");
        write_atomic(&prompts, |out| out.write_all(PROMPTS.as_bytes()))?;
        for variation in variations {
            let Some(subject) = self.subjects[variation.subject] else { continue };
            self.make_class_pictures(variation, subject)?;
            for number in 0..self.args.seeds {
                self.train(variation, subject, number)?;
            }
            self.evaluate(variation, subject, &prompts)?;
            outcomes.push(Outcome::read(variation, &evaluation(self.folder, variation))?);
        }
        Ok(outcomes)
    }

    /// Makes the class images of the variation's subject that are not there yet.
    fn make_class_pictures(&mut self, variation: &Variation, subject: &Subject) -> Result<()> {
        let missing = missing_class_pictures(self.folder, variation);
        let Some(&first) = missing.first() else { return Ok(()) };
        let base = self.studio.model(None)?;
        let (prompt, seed) = (std::slice::from_ref(&subject.phrases.class), self.args.seed.wrapping_add(first as u64));
        let title = format!("class images: {}", subject.phrases.class);
        let made = self.studio.pictures(&title, &base, prompt, missing.len(), seed)?;
        for (index, picture) in missing.iter().zip(&made) {
            picture.write_png(class_picture(self.folder, variation.subject, *index))?;
        }
        Ok(())
    }

    fn train(&mut self, variation: &Variation, subject: &Subject, number: usize) -> Result<()> {
        let out = lora(self.folder, variation, number);
        if out.exists() {
            return Ok(());
        }
        let class = variation.class_pictures.map(|count| (class_folder(self.folder, variation.subject), count));
        let title = format!("{}: training {} of {}", variation.title, number + 1, self.args.seeds);
        let seed = self.args.seed.wrapping_add(number as u64);
        let (photos, phrases) = (&subject.folder, &variation.phrases);
        self.studio.train(&title, &Lesson { photos, phrases, class, seed, out: &out, force: true })?;
        Ok(())
    }

    /// Evaluates the LoRAs of all seeds beside the base model.
    fn evaluate(&mut self, variation: &Variation, subject: &Subject, prompts: &Path) -> Result<()> {
        let out = evaluation(self.folder, variation);
        if figures::is_complete(&out) {
            return Ok(());
        }
        let lora = |number| ScaledLora { path: lora(self.folder, variation, number), scales: vec![1.0] };
        let options = EvaluateOptions {
            loras: (0..self.args.seeds).map(lora).collect(),
            photos: Some(subject.folder.clone()),
            prompt: Some(variation.phrases.instance.clone()),
            class_prompt: Some(variation.phrases.class.clone()),
            prompt_list: Some(prompts.into()),
            seeds: IMAGES,
            sampling: SamplingOptions {
                steps: Some(self.args.sampling_steps),
                guidance: Some(GUIDANCE),
                sampler: Some(SAMPLER),
                seed: self.args.seed.wrapping_add(SEED_GAP),
                ..Default::default()
            },
            out,
            force: true,
            ..Default::default()
        };
        let units = pictures(self.args) * self.args.sampling_steps;
        self.studio.evaluate(&format!("{}: images", variation.title), &options, units)
    }
}

fn lora(folder: &Path, variation: &Variation, number: usize) -> PathBuf {
    folder.join(&variation.name).join(format!("seed-{number}.safetensors"))
}

fn evaluation(folder: &Path, variation: &Variation) -> PathBuf {
    folder.join(&variation.name).join("evaluation")
}

fn class_folder(folder: &Path, subject: usize) -> PathBuf {
    folder.join(["class", "second-class"][subject.min(1)])
}

fn class_picture(folder: &Path, subject: usize, index: usize) -> PathBuf {
    class_folder(folder, subject).join(format!("{index:04}.png"))
}

/// Numbers of the class images that a variation's training reads and that are yet to be made: all from the first that is
/// missing, so that seeds follow each other.
fn missing_class_pictures(folder: &Path, variation: &Variation) -> Vec<usize> {
    let count = variation.class_pictures.unwrap_or(0);
    let first = (0..count).find(|&i| !class_picture(folder, variation.subject, i).exists());
    first.map_or(Vec::new(), |first| (first..count).collect())
}

/// Class images that are yet to be made for all `variations`.
fn lacking(folder: &Path, variations: &[Variation]) -> usize {
    let most = |subject: usize| {
        let own = variations.iter().filter(|variation| variation.subject == subject);
        own.map(|variation| missing_class_pictures(folder, variation).len()).max().unwrap_or(0)
    };
    most(0) + most(1)
}

/// Images of an evaluation: those of every LoRA and of the base model.
fn pictures(args: &DemoArgs) -> usize {
    ASKED * IMAGES * (args.seeds + 1)
}

/// What is yet to be done for `variation`, but for class images.
fn work(folder: &Path, variation: &Variation, args: &DemoArgs) -> Job {
    let trainings = (0..args.seeds).filter(|&number| !lora(folder, variation, number).exists()).count();
    let updates = trainings * args.steps;
    let pictures = if figures::is_complete(&evaluation(folder, variation)) { 0 } else { pictures(args) };
    match variation.class_pictures {
        Some(_) => Job { pictures, with_prior: updates, without_prior: 0 },
        None => Job { pictures, with_prior: 0, without_prior: updates },
    }
}

/// Removes what an earlier study left of `variation`, so that none of it is taken for this one's.
fn forget(folder: &Path, variation: &Variation, seeds: usize) -> Result<()> {
    let report = evaluation(folder, variation).join("report.json");
    let class = (0..MANY_CLASS_PICTURES.max(CLASS_PICTURES)).map(|i| class_picture(folder, variation.subject, i));
    for path in (0..seeds).map(|number| lora(folder, variation, number)).chain([report]).chain(class) {
        match std::fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(portray::Error::file(&path, e.to_string()));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Draws a row of images of each variation's first seed: the subject by every prompt, then the class.
fn draw(args: &DemoArgs, subject: &Subject, outcomes: &[Outcome], path: &Path) -> Result<()> {
    let rows: Vec<(String, Vec<Picture>)> =
        outcomes.iter().map(|outcome| Ok((outcome.label(), outcome.pictures()?))).collect::<Result<_>>()?;
    let subtitle = format!(
        "One choice at a time, {} steps each: four prompts for the subject, then two of its class, by the first of {} seeds.",
        args.steps, args.seeds
    );
    let strips = rows.iter().map(|(label, pictures)| Strip { label, pictures }).collect();
    let title = "What each choice does";
    let page = Sheet { title, subtitle: &subtitle, photos: &subject.photos, rows: Vec::new(), strips }.draw()?;
    let (width, height) = (page.width() as usize, page.height() as usize);
    image::write_png(path, &image::Picture { width, height, rgb: page.into_raw() }, &[])
}
