//! `portray identifier`.

mod cells;
mod page;

use std::path::Path;

use portray::error::option;
use portray::low_level::io::Place;
use portray::low_level::io::files::Lock;
use portray::{Error, Identifiers, Result};
use serde_json::{Value, json};

use cells::{legend, listed, percent, rarity};

use super::args::{Global, IdentifierArgs};
use super::report::Reporter;
use super::{files, stop, table, terminal};

/// Name of the report for programs.
const JSON: &str = "report.json";
/// Name of the report for people.
const HTML: &str = "report.html";

/// Compares the words, prints them, best first, and writes the report.
pub fn run(global: &Global, args: IdentifierArgs) -> Result<()> {
    let IdentifierArgs { mut job, out, force } = args;
    job.pictures = out.is_some();
    let _lock = match &out {
        Some(folder) => Some(check(global, folder, force)?),
        None if job.steps.is_some() => {
            let problem = option("steps") + ": images are made for a report: name its folder with ";
            return Err(Error::usage("steps", problem + option("out")));
        }
        None => None,
    };
    stop::listen();
    let engine = super::device::open(global)?;
    let mut reporter = Reporter::new(global);
    let result = pollster::block_on(engine.identify(&job, &mut |event| reporter.hear(&event)));
    let found = reporter.finish(result)?;
    let report = report(&found);
    match global.json {
        true => terminal::data(&report)?,
        false => print(&found)?,
    }
    match out {
        Some(folder) => write(global, &folder, &found, &report),
        None => Ok(()),
    }
}

/// Refuses a folder that cannot take the report; the lock keeps another run from writing there.
fn check(global: &Global, folder: &Path, force: bool) -> Result<Option<Lock>> {
    files::check_folder(folder, &[JSON, HTML], force)?;
    Place::file(folder.join(JSON), force).lock(|text| terminal::warn(global.json, &text))
}

/// The result for programs, with the names of the images.
fn report(found: &Identifiers) -> Value {
    // Nothing in a result fails to serialize.
    let mut report = serde_json::to_value(found).unwrap_or_default();
    if found.pictures.is_empty() {
        return report;
    }
    report["class_image"] = image(0).into();
    for (index, word) in report["words"].as_array_mut().into_iter().flatten().enumerate() {
        word["images"] = json!({ "with_class": image(1 + 2 * index), "alone": image(2 + 2 * index) });
    }
    report
}

/// File of image number `index`.
fn image(index: usize) -> String {
    format!("image-{index:03}.png")
}

fn write(global: &Global, folder: &Path, found: &Identifiers, report: &Value) -> Result<()> {
    for picture in &found.pictures {
        let place = Place::file(folder.join(image(picture.index)), true);
        place.put(|at| picture.write_png(at))?.path()?;
    }
    let text = |name: &str, text: String| -> Result<()> {
        let path = folder.join(name);
        let place = Place::file(&path, true);
        let put = |at: &Path| std::fs::write(at, &text).map_err(|e| Error::file(at, format!("cannot write: {e}")));
        let path = place.put(put)?.path()?;
        match global.json {
            true => terminal::tell(terminal::with_path(json!({"event": "saved"}), "path", &path)),
            false => terminal::note(&format!("saved {}", path.display())),
        }
        Ok(())
    };
    text(JSON, serde_json::to_string_pretty(report).unwrap_or_default() + "\n")?;
    text(HTML, page::page(found, image))
}

fn print(found: &Identifiers) -> Result<()> {
    let class = &found.class;
    let heads = ["word", "prior", &format!("a WORD {class}"), "a WORD", "merge", "looks like"];
    let mut rows = vec![heads.map(str::to_owned).to_vec()];
    rows.extend(found.words.iter().map(|word| {
        let prior = &word.prior;
        vec![
            word.word.clone(),
            percent(prior.score, prior.error),
            percent(prior.with_class, None),
            percent(prior.alone, None),
            rarity(word),
            listed(&word.resembles),
        ]
    }));
    for line in table::lines(&rows) {
        terminal::data(line)?;
    }
    terminal::data("nearest words in the text encoder:")?;
    let near = found.words.iter().map(|word| vec![format!("  {}", word.word), listed(&word.nearest)]);
    for line in table::lines(&near.collect::<Vec<_>>()) {
        terminal::data(line)?;
    }
    legend(found).into_iter().try_for_each(terminal::data)
}
