//! `portray demo`: from four pictures of a subject to a sheet of that subject anywhere, with the bundled model.

mod check;
mod report;
mod scenes;
mod sheet;
mod studio;
mod subject;

use portray::event::Picture;
use portray::io::{Place, image, write_atomic};
use portray::{Error, Result};

use super::args::{DemoArgs, Global};
use super::{files, stop, terminal};
use check::{Drift, Figures};
use report::Report;
use scenes::Scenes;
use sheet::{Band, Cell, Section};
use studio::Studio;
use subject::Subject;

/// Sampling steps of every picture on the sheet.
const STEPS: usize = 20;
/// Guidance of every picture on the sheet.
const GUIDANCE: f64 = 4.0;
/// Rank of the LoRAs.
const RANK: usize = 8;
/// Learning rate of the LoRAs.
const LEARNING_RATE: f64 = 1e-3;
/// Class pictures that training with prior preservation sees.
const CLASS_PICTURES: usize = 12;
/// Seeds that judge drift, and none of which made a class picture.
const DRIFT_PICTURES: usize = 12;
/// How far the seeds of the sheet's pictures lie from those of the class pictures.
const SEED_GAP: u64 = 1000;

/// Trains twice, makes all pictures, writes the sheet and the report, and judges them if asked to.
pub fn run(global: &Global, args: &DemoArgs) -> Result<()> {
    let out = &args.out;
    let mut names = vec!["lora.safetensors", "lora-without-prior.safetensors", "sheet.png", "report.md"];
    names.extend(["lora.safetensors.state", "lora-without-prior.safetensors.state"].iter().filter(|_| !args.force));
    if args.images.is_none() {
        names.extend(["photos/0.png", "photos/1.png", "photos/2.png", "photos/3.png"]);
    }
    files::check_folder(out, &names, args.force)?;
    let sheet = Place::file(out.join("sheet.png"), args.force);
    let _lock = Place::folder(out, Vec::new(), true).lock(|text| terminal::warn(global.json, &text))?;
    let subject = Subject::open(args, &out.join("photos"))?;
    let (phrases, seed) = (&subject.phrases, args.seed.wrapping_add(SEED_GAP));
    stop::listen();
    let mut studio = Studio::open(global, args)?;

    let drift_count = if args.check { DRIFT_PICTURES } else { 6 };
    let drift_of = |studio: &mut Studio<'_>, title, lora| {
        studio.pictures(title, std::slice::from_ref(&phrases.class), drift_count, seed, lora)
    };
    let before = drift_of(&mut studio, "class prompt before training", None)?;

    let (lora, plain) = (out.join("lora.safetensors"), out.join("lora-without-prior.safetensors"));
    let with_prior = studio.train("training with prior preservation", &subject, true, &lora)?;
    let class = studio.class_pictures(&phrases.class)?;
    let without_prior = studio.train("training without prior preservation", &subject, false, &plain)?;

    let scenes = phrases.scenes();
    let prompts: Vec<String> = scenes.iter().flat_map(|s| s.prompts.iter().map(|(_, prompt)| prompt.clone())).collect();
    let tuned = studio.pictures("personalized pictures", &prompts, 1, seed, Some(&lora))?;
    let with = drift_of(&mut studio, "class prompt after training with prior preservation", Some(&lora))?;
    let without = drift_of(&mut studio, "class prompt after training without it", Some(&plain))?;
    let drift = Drift { before, with, without };

    let subtitle = format!(
        "“{}” taught to {} from {} pictures: LoRA of rank {RANK}, {} steps. {STEPS} sampling steps a picture, seed {seed}.",
        phrases.instance,
        studio.model_name(),
        subject.photos.len(),
        args.steps,
    );
    let page = sheet::draw(
        "Four pictures in, the subject anywhere",
        &subtitle,
        &sections(&subject, &scenes, &class, &tuned, &drift),
    )?;
    let (width, height) = (page.width() as usize, page.height() as usize);
    let page = image::Picture { width, height, rgb: page.into_raw() };
    let sheet = sheet.put(|at| image::write_png(at, &page, &[]))?;

    let figures = if args.check {
        let judged = judged(&scenes, &tuned);
        let prompts: Vec<String> = judged.iter().map(|p| p.prompt.clone()).collect();
        let base = studio.pictures("the same prompts before training", &prompts, 1, seed, None)?;
        Some(Figures::measure(&drift, &base, &judged, &subject.photos))
    } else {
        None
    };
    let report =
        Report { subject: &subject, args, studio: &studio, with_prior, without_prior, figures: figures.as_ref() };
    let text = report.text();
    let written = Place::file(out.join("report.md"), args.force)
        .put(|at| write_atomic(at, |out| out.write_all(text.as_bytes())))?;
    for path in [&lora, &sheet.path, &written.path] {
        if global.json {
            terminal::tell(terminal::with_path(serde_json::json!({"event": "saved"}), "path", path));
        } else {
            terminal::tell_path(path);
        }
    }
    for placed in [sheet, written] {
        placed.path()?;
    }
    figures.map_or(Ok(()), |figures| judge(global, &figures))
}

/// The pictures that `--check` holds against the untouched model's.
fn judged(scenes: &[Scenes], tuned: &[Picture]) -> Vec<Picture> {
    let mut rest = tuned;
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
        missed => Err(Error::Limit(format!("demo --check: {missed} of {} bars missed", verdicts.len()))),
    }
}

fn sections<'a>(
    subject: &'a Subject,
    scenes: &'a [Scenes],
    class: &'a [Picture],
    tuned: &'a [Picture],
    drift: &'a Drift,
) -> Vec<Section<'a>> {
    let (instance, class_prompt) = (&subject.phrases.instance, &subject.phrases.class);
    let seeds = |pictures: &'a [Picture], most: usize| -> Vec<Cell<'a>> {
        pictures.iter().take(most).map(|p| Cell { picture: p, caption: format!("seed {}", p.seed) }).collect()
    };
    let band = |label, large, cells| Band { label, large, cells };
    let photos = subject.photos.iter().take(8).enumerate();
    let photos = photos.map(|(i, p)| Cell { picture: p, caption: format!("picture {}", i + 1) }).collect();
    let mut sections = vec![
        Section {
            title: "Training pictures",
            note: format!("All that training sees of the subject, as “{instance}”."),
            bands: vec![band("", true, photos)],
        },
        Section {
            title: "Class pictures",
            note: format!(
                "“{class_prompt}” as the untouched model draws it. Prior preservation trains on these too, so that the class stays what it was."
            ),
            bands: vec![band("", false, seeds(class, CLASS_PICTURES))],
        },
    ];
    let mut rest = tuned;
    for scene in scenes {
        let (row, after) = rest.split_at(scene.prompts.len().min(rest.len()));
        rest = after;
        let cells = row.iter().zip(&scene.prompts).map(|(p, (label, _))| Cell { picture: p, caption: label.clone() });
        let note = format!("{} “{}”", scene.note, scene.prompts.first().map_or("", |(_, prompt)| prompt));
        sections.push(Section { title: scene.title, note, bands: vec![band("", true, cells.collect())] });
    }
    sections.push(Section {
        title: "Language drift",
        note: format!("“{class_prompt}”, the same seeds three times: does the word still mean its class?"),
        bands: vec![
            band("before training", false, seeds(&drift.before, 6)),
            band("after training with prior preservation", false, seeds(&drift.with, 6)),
            band("after training without it", false, seeds(&drift.without, 6)),
        ],
    });
    sections
}
