//! `portray demo`: from four images of a subject to a sheet of that subject anywhere, with the bundled model.

mod check;
mod progress;
mod recipe;
mod report;
mod scenes;
mod sheet;
mod studio;
mod study;
mod subject;

use std::path::{Path, PathBuf};

use portray::low_level::io::{Place, image, write_atomic};
use portray::{Error, Picture, Result};

use super::args::{DemoArgs, Global};
use super::{files, stop, terminal};
use check::{Drift, Figures};
use progress::Job;
use recipe::{CLASS_PICTURES, RANK, SEED_GAP};
use report::Report;
use scenes::Scenes;
use sheet::{Cell, Row, Sheet, Strip};
use studio::{Lesson, Studio, Training};
use subject::Subject;

/// Seeds that judge drift, and none of which made a class image.
const DRIFT_PICTURES: usize = 12;

/// Trains, makes all images, writes the sheet as it grows and the report, and judges them if asked to.
pub fn run(global: &Global, args: &DemoArgs) -> Result<()> {
    if args.study {
        return study::run(global, args);
    }
    let out = &args.out;
    files::check_folder(out, &names(args).iter().map(String::as_str).collect::<Vec<_>>(), args.force)?;
    let _lock = Place::folder(out, Vec::new(), true).lock(|text| terminal::warn(global.json, &text))?;
    let subject = Subject::open(args, &out.join("photos"), studio::side()?)?;
    let scenes = subject.phrases.scenes();
    stop::listen();
    let studio = Studio::open(global, args, work(args, &scenes).units(args.sampling_steps))?;
    let mut demo = Demo {
        global,
        args,
        subject: &subject,
        scenes: &scenes,
        studio,
        tuned: Vec::new(),
        base: Vec::new(),
        sheet: Written::new(out.join("sheet.png"), args.force),
    };
    let made = demo.make();
    let Demo { studio, sheet, .. } = demo;
    let Made { report, figures } = studio.progress.finish(made, out)?;
    let written = Place::file(out.join("report.md"), args.force)
        .put(|at| write_atomic(at, |out| out.write_all(report.as_bytes())))?;
    for path in [&out.join("lora.safetensors"), &written.path] {
        terminal::tell_saved(global.json, path);
    }
    sheet.result()?;
    written.path()?;
    figures.map_or(Ok(()), |figures| judge(global, &figures))
}

/// Names of the files that the demo writes.
fn names(args: &DemoArgs) -> Vec<String> {
    let mut loras = vec!["lora.safetensors"];
    loras.extend(args.check.then_some("lora-without-prior.safetensors"));
    let mut names = vec!["sheet.png".to_owned(), "report.md".to_owned()];
    for lora in loras {
        names.push(lora.to_owned());
        names.extend((!args.force).then(|| format!("{lora}.state")));
    }
    names.extend((0..CLASS_PICTURES).map(class_name));
    names.extend((0..4).filter(|_| args.images.is_none()).map(|i| format!("photos/{i}.png")));
    names
}

fn class_name(index: usize) -> String {
    format!("class/{index:04}.png")
}

/// All that is to be done.
fn work(args: &DemoArgs, scenes: &[Scenes]) -> Job {
    let shown = 2 * scenes.iter().map(|s| s.prompts.len()).sum::<usize>();
    Job {
        pictures: CLASS_PICTURES + shown + if args.check { 3 * DRIFT_PICTURES } else { 0 },
        with_prior: args.steps,
        without_prior: if args.check { args.steps } else { 0 },
    }
}

/// A file that is written again and again, as a whole each time.
struct Written {
    place: Place,
    fault: Option<Error>,
    path: Option<PathBuf>,
}

impl Written {
    fn new(path: PathBuf, force: bool) -> Written {
        Written { place: Place::file(path, force), fault: None, path: None }
    }

    /// Writes `picture`; where it went, if that is for the first time.
    fn put(&mut self, picture: &image::Picture) -> Result<Option<PathBuf>> {
        let placed = self.place.put(|at| image::write_png(at, picture, &[]))?;
        // What stands there from now on is the demo's own.
        self.place = Place::file(&placed.path, true);
        let first = self.path.as_ref() != Some(&placed.path);
        self.path = Some(placed.path.clone());
        self.fault = placed.path().err().or(self.fault.take());
        Ok(self.path.clone().filter(|_| first))
    }

    /// # Errors
    /// Why the file is not where it was to go, where it is not.
    fn result(self) -> Result<()> {
        self.fault.map_or(Ok(()), Err)
    }
}

/// The demo under way.
struct Demo<'a> {
    global: &'a Global,
    args: &'a DemoArgs,
    subject: &'a Subject,
    scenes: &'a [Scenes],
    studio: Studio<'a>,
    /// Personalized images, in the scenes' order, as far as they are made.
    tuned: Vec<Picture>,
    /// The base model's of the same prompts and seeds.
    base: Vec<Picture>,
    sheet: Written,
}

/// What came of it.
struct Made {
    report: String,
    figures: Option<Figures>,
}

impl Demo<'_> {
    fn make(&mut self) -> Result<Made> {
        let (out, subject) = (&self.args.out, self.subject);
        let base = self.studio.model(None)?;
        self.make_class_pictures(&base)?;
        let lora = out.join("lora.safetensors");
        let class = Some((out.join("class"), CLASS_PICTURES));
        let with_prior = self.studio.train("training with prior preservation", &self.lesson(class, &lora))?;
        let personalized = self.studio.model(Some(&lora))?;
        let scenes = self.scenes;
        for scene in scenes {
            let prompts: Vec<String> = scene.prompts.iter().map(|(_, prompt)| prompt.clone()).collect();
            let seed = self.seed(self.tuned.len());
            let title = format!("{}: personalized", scene.title);
            self.tuned.extend(self.studio.pictures(&title, &personalized, &prompts, 1, seed)?);
            if self.base.is_empty() {
                self.write_sheet(None)?;
            }
            let title = format!("{}: the base model", scene.title);
            self.base.extend(self.studio.pictures(&title, &base, &prompts, 1, seed)?);
            self.write_sheet(None)?;
        }
        let (mut without_prior, mut figures) = (None, None);
        if self.args.check {
            let (training, drift) = self.drift(&base, &personalized)?;
            without_prior = Some(training);
            self.write_sheet(Some(&drift))?;
            let (base, tuned) = (judged(scenes, &self.base), judged(scenes, &self.tuned));
            figures = Some(Figures::measure(&drift, &base, &tuned, &subject.photos));
        }
        let (args, studio) = (self.args, &self.studio);
        let report = Report { subject, args, studio, with_prior, without_prior, figures: figures.as_ref() }.text();
        Ok(Made { report, figures })
    }

    /// A training of the subject's photos into `out`, with class images or without.
    fn lesson<'b>(&self, class: Option<(PathBuf, usize)>, out: &'b Path) -> Lesson<'b>
    where
        Self: 'b,
    {
        let (photos, phrases) = (&self.subject.folder, &self.subject.phrases);
        Lesson { photos, phrases, class, seed: self.args.seed, out, force: self.args.force }
    }

    /// The seed of the sheet's image number `index`.
    fn seed(&self, index: usize) -> u64 {
        self.args.seed.wrapping_add(SEED_GAP + index as u64)
    }

    /// Class images in few steps, in a folder of the demo's.
    fn make_class_pictures(&mut self, base: &portray::Model) -> Result<()> {
        let prompt = std::slice::from_ref(&self.subject.phrases.class);
        let made = self.studio.pictures("class images", base, prompt, CLASS_PICTURES, self.args.seed)?;
        for (index, picture) in made.iter().enumerate() {
            picture.write_png(self.args.out.join(class_name(index)))?;
        }
        Ok(())
    }

    /// Trains without prior preservation, and shows what either training did to the class.
    fn drift(&mut self, base: &portray::Model, personalized: &portray::Model) -> Result<(Training, Drift)> {
        let (seed, plain) = (self.seed(0), self.args.out.join("lora-without-prior.safetensors"));
        let training = self.studio.train("training without prior preservation", &self.lesson(None, &plain))?;
        let prompt = std::slice::from_ref(&self.subject.phrases.class);
        let studio = &mut self.studio;
        let unguarded = studio.model(Some(&plain))?;
        let mut of = |title: &str, model| studio.pictures(title, model, prompt, DRIFT_PICTURES, seed);
        let drift = Drift {
            before: of("class prompt before training", base)?,
            with: of("class prompt after training with prior preservation", personalized)?,
            without: of("class prompt after training without it", &unguarded)?,
        };
        Ok((training, drift))
    }

    /// Writes what there is of the sheet, and says where it is when that is new.
    fn write_sheet(&mut self, drift: Option<&Drift>) -> Result<()> {
        let subtitle = format!(
            "On the right all that training saw, as “{}”. {} steps of a rank {RANK} LoRA later:",
            self.subject.phrases.instance, self.args.steps
        );
        let class = &self.subject.phrases.class;
        let labels = [
            format!("“{class}” before training"),
            format!("“{class}” after training with prior preservation, the same seeds"),
            format!("“{class}” after training without it"),
        ];
        let strips = drift.map_or(Vec::new(), |d| {
            let pictures = [&d.before, &d.with, &d.without];
            labels.iter().zip(pictures).map(|(label, pictures)| Strip { label, pictures }).collect()
        });
        let page = Sheet {
            title: "Four images in, the subject anywhere",
            subtitle: &subtitle,
            photos: &self.subject.photos,
            rows: rows(self.scenes, &self.tuned, &self.base),
            strips,
        }
        .draw()?;
        let (width, height) = (page.width() as usize, page.height() as usize);
        let page = image::Picture { width, height, rgb: page.into_raw() };
        if let Some(path) = self.sheet.put(&page)? {
            self.studio.progress.note("the first images are there; the sheet grows with every row:");
            terminal::tell_saved(self.global.json, &path);
        }
        Ok(())
    }
}

/// The rows of which personalized images are made.
fn rows<'a>(scenes: &'a [Scenes], tuned: &'a [Picture], base: &'a [Picture]) -> Vec<Row<'a>> {
    let mut rows = Vec::new();
    let mut start = 0;
    for scene in scenes {
        let of = |(i, (_, prompt)): (usize, &'a (String, String))| {
            Some(Cell { prompt, tuned: tuned.get(start + i)?, base: base.get(start + i) })
        };
        let cells: Vec<Cell<'a>> = scene.prompts.iter().enumerate().filter_map(of).collect();
        start += scene.prompts.len();
        if !cells.is_empty() {
            rows.push(Row { title: scene.title, note: scene.note, cells });
        }
    }
    rows
}

/// Those of the scenes' `pictures` that `--check` holds against each other.
fn judged(scenes: &[Scenes], pictures: &[Picture]) -> Vec<Picture> {
    let mut rest = pictures;
    let mut judged = Vec::new();
    for scene in scenes {
        let (row, after) = rest.split_at(scene.prompts.len().min(rest.len()));
        judged.extend(row.iter().take(scene.judged).cloned());
        rest = after;
    }
    judged
}

fn judge(global: &Global, figures: &Figures) -> Result<()> {
    let verdicts = figures.verdicts();
    for v in &verdicts {
        let mark = if v.met { "ok    " } else { "MISSED" };
        terminal::tell(if global.json {
            serde_json::json!({"event": "check", "what": v.what, "measured": v.measured, "bar": v.bar, "met": v.met})
                .to_string()
        } else {
            format!("{mark} {}: {:.2} ({})", v.what, v.measured, v.bar)
        });
    }
    match verdicts.iter().filter(|v| !v.met).count() {
        0 => Ok(()),
        missed => Err(Error::limit(format!("demo --check: {missed} of {} bars missed", verdicts.len()))),
    }
}
