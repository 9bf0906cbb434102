//! `portray evaluate`.

use std::path::Path;

use portray::low_level::evaluate::{Estimate, Figure, Figures, figures_of_file};
use portray::low_level::io::{Place, Placed, write_atomic};
use portray::{EvaluateOptions, Evaluation, Result};
use serde_json::{Value, json};

use super::args::{EvaluateArgs, Global};
use super::report::Reporter;
use super::words::CommandLine;
use super::{files, stop, table, terminal};

/// Figures in the order of the tables.
const ALL: [Figure; 8] = [
    Figure::Dino,
    Figure::Colour,
    Figure::ClipI,
    Figure::ClipT,
    Figure::Pres,
    Figure::Div,
    Figure::Drift,
    Figure::DriftUnrelated,
];

/// Evaluates, and prints the table of figures and where the report lies.
pub fn run(global: &Global, args: EvaluateArgs) -> Result<()> {
    if let Some(path) = &args.embeddings {
        return given(global, path, &args.job);
    }
    let job = args.job;
    stop::listen();
    let engine = super::device::open(global)?;
    let mut reporter = Reporter::new(global);
    let result = pollster::block_on(engine.evaluate(&job, &mut |event| reporter.hear(&event)));
    let evaluation = reporter.finish(result)?;
    tell(global, &evaluation)?;
    evaluation.whole().map(drop)
}

/// Prints the figures of given embeddings, and writes them to `report.json` where a folder is named.
fn given(global: &Global, path: &Path, job: &EvaluateOptions) -> Result<()> {
    let written = (job.out != EvaluateOptions::default().out).then(|| job.out.join("report.json"));
    if written.is_some() {
        files::check_folder(&job.out, &["report.json"], job.force)?;
    }
    let found = figures_of_file(path)?;
    let mut said = json!({"event": "figures"});
    for (figure, estimate) in &found.figures {
        said[figure.name()] = estimate.mean.into();
    }
    said["standard_errors"] = errors(&found.figures);
    said["notes"] = found.notes.iter().map(|note| note.in_words(&CommandLine)).collect::<Vec<_>>().into();
    if let Some(path) = written {
        let text = format!("{said:#}\n");
        Place::file(path, job.force)
            .put(|at| write_atomic(at, |out| out.write_all(text.as_bytes())))
            .and_then(Placed::path)?;
    }
    if global.json {
        return terminal::data(said);
    }
    for note in &found.notes {
        terminal::note(&terminal::one_line(&note.in_words(&CommandLine)));
    }
    let row = |(figure, estimate): (&Figure, &Estimate)| {
        let error = estimate.standard_error.map_or_else(String::new, |error| format!("± {error:.6}"));
        vec![figure.name().to_owned(), format!("{:.8}", estimate.mean), error]
    };
    let rows: Vec<Vec<String>> = found.figures.iter().map(row).collect();
    terminal::data(table::lines(&rows).join("\n"))
}

/// Standard errors by figure; null where there is too little to know them.
fn errors(figures: &Figures) -> Value {
    let mut all = json!({});
    for (figure, estimate) in figures {
        all[figure.name()] = estimate.standard_error.into();
    }
    all
}

/// Prints the table of an evaluation, what follows from it, and the report's path.
fn tell(global: &Global, evaluation: &Evaluation) -> Result<()> {
    let report = &evaluation.report;
    if global.json {
        let column = |column: &portray::low_level::evaluate::Column| json!({"name": column.name, "counted": column.counted, "figures": column.figures, "gain": column.gain, "copies": column.copies, "verdicts": column.verdicts});
        let columns: Vec<Value> = report.columns.iter().map(column).collect();
        let mut said = terminal::with_path(json!({"event": "evaluation"}), "report", &evaluation.json);
        said = terminal::with_path(said, "html", &evaluation.html);
        said["complete"] = report.complete.into();
        said["notes"] = report.notes.clone().into();
        said["judges"] = serde_json::to_value(&report.judges).unwrap_or_default();
        said["among_photos"] = serde_json::to_value(&report.among_photos).unwrap_or_default();
        said["columns"] = columns.into();
        terminal::tell(said);
        return Ok(());
    }
    if !global.quiet {
        for line in table::lines(&rows(evaluation)) {
            terminal::note(&line);
        }
        for column in &report.columns {
            column
                .verdicts
                .iter()
                .for_each(|said| terminal::note(&format!("{}: {said}", terminal::one_line(&column.name))));
        }
        report.judges.blind_to.iter().for_each(|said| terminal::note(said));
    }
    terminal::tell_path(&evaluation.html);
    Ok(())
}

/// Rows of the table: a heading, then a model each.
fn rows(evaluation: &Evaluation) -> Vec<Vec<String>> {
    let report = &evaluation.report;
    let photos = (!report.among_photos.is_empty()).then_some(("photos among themselves", &report.among_photos));
    let columns = report.columns.iter().map(|column| (column.name.as_str(), &column.figures));
    let all: Vec<(&str, &Figures)> = photos.into_iter().chain(columns).collect();
    let there: Vec<Figure> = ALL.into_iter().filter(|figure| all.iter().any(|(_, f)| f.contains_key(figure))).collect();
    let cell = |estimate: Option<&Estimate>| match estimate {
        Some(Estimate { mean, standard_error: Some(error), .. }) => format!("{mean:.3} ± {error:.3}"),
        Some(Estimate { mean, .. }) => format!("{mean:.3}"),
        None => "-".into(),
    };
    let heading = std::iter::once(String::new()).chain(there.iter().map(|figure| figure.name().to_owned())).collect();
    let row = |(name, figures): &(&str, &Figures)| {
        let cells = there.iter().map(|figure| cell(figures.get(figure)));
        std::iter::once(terminal::one_line(name)).chain(cells).collect()
    };
    std::iter::once(heading).chain(all.iter().map(row)).collect()
}
