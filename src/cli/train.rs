//! `portray train`.

use std::path::{Path, PathBuf};
use std::time::Instant;

use portray::engine::{Trained, sample_file, samples_folder};
use portray::event::{Event, Flow};
use portray::job::TrainJob;
use portray::{Error, Result};
use serde_json::json;

use super::args::{Global, TrainArgs};
use super::report::Reporter;
use super::{files, stop, table, terminal};

/// Trains, saves what comes of it, and says how to go on when it is stopped.
pub fn run(global: &Global, args: TrainArgs) -> Result<()> {
    let job = args.job;
    let samples = samples(&job)?;
    stop::listen();
    let engine = super::open(global)?;
    let mut reporter = Reporter::new(global);
    let began = Instant::now();
    let result = pollster::block_on(engine.train(&job, &mut |event| hear(&mut reporter, &samples, &event)));
    tell(global, &job, began, reporter.finish(result))
}

/// The folder for sample pictures.
///
/// # Errors
/// For places that cannot be written, or hold something already.
pub fn samples(job: &TrainJob) -> Result<PathBuf> {
    job.check_places()?;
    Ok(samples_folder(&job.out))
}

/// Writes sample pictures as they come, and passes events on. One that cannot be written does not end the training.
pub fn hear(reporter: &mut Reporter, samples: &Path, event: &Event) -> Flow {
    if let Event::Sample { step, picture } = event {
        let path = sample_file(samples, *step, picture.index);
        match files::write_picture(&path, picture) {
            Ok(()) => reporter.note(&format!("sample {}", path.display())),
            Err(e) => {
                reporter.hear(&Event::Warning(e.to_string()));
            }
        }
    }
    reporter.hear(event)
}

/// Says what came of a training that `began` then: how long it took, or how to go on.
///
/// # Errors
/// The training's.
pub fn tell(global: &Global, job: &TrainJob, began: Instant, result: Result<Trained>) -> Result<()> {
    let trained = result.inspect_err(|e| {
        if matches!(e, Error::Interrupted(_)) && !terminal::reader_left() && job.replay.is_none() {
            terminal::note(&format!("go on with: {}", resume_command(std::env::args())));
        }
    })?;
    let seconds = began.elapsed().as_secs_f64();
    if global.json {
        terminal::data(json!({"event": "done", "out": trained.out, "steps": trained.steps, "seconds": seconds}))
    } else {
        if !global.quiet {
            terminal::note(&format!("{} steps in {}", trained.steps, table::seconds(seconds)));
        }
        terminal::data(trained.out.display())
    }
}

/// The command as it was given, with `--resume`.
fn resume_command(args: impl Iterator<Item = String>) -> String {
    let mut words: Vec<String> = args.map(|a| quoted(&a)).collect();
    if !words.iter().any(|w| w == "--resume") {
        words.push("--resume".into());
    }
    words.join(" ")
}

/// A word as a POSIX shell reads it back.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) { word.into() } else { format!("'{}'", word.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    #[test]
    fn resuming_repeats_the_command() {
        let args = ["portray", "train", "--prompt", "a sks dog's"].map(String::from);
        assert_eq!(super::resume_command(args.into_iter()), r"portray train --prompt 'a sks dog'\''s' --resume");
    }
}
