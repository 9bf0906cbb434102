//! `portray train`.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::time::Instant;

use portray::low_level::io::{Place, Placed};
use portray::low_level::train::{sample_file, samples_folder};
use portray::{Error, Event, Flow, Result, TrainOptions, Trained};
use serde_json::json;

use super::args::{Global, TrainArgs};
use super::report::Reporter;
use super::{stop, table, terminal};

/// Trains, saves what comes of it, and says how to go on when it is stopped.
pub fn run(global: &Global, args: TrainArgs) -> Result<()> {
    let job = args.job;
    let samples = samples(&job)?;
    stop::listen();
    let engine = super::device::open(global)?;
    let mut reporter = Reporter::new(global);
    let began = Instant::now();
    let result = pollster::block_on(engine.train(&job, &mut |event| hear(&mut reporter, &job, &samples, &event)));
    tell(global, &job, began, reporter.finish(result))
}

/// The folder for validation samples.
///
/// # Errors
/// For places that cannot be written, or hold something already.
pub fn samples(job: &TrainOptions) -> Result<PathBuf> {
    job.check_places()?;
    Ok(samples_folder(&job.out))
}

/// Writes validation samples as they come, and passes events on. One that cannot be written does not end the training.
pub fn hear(reporter: &mut Reporter, job: &TrainOptions, samples: &Path, event: &Event) -> Flow {
    if let Event::Sample { step, picture } = event {
        let place = Place::file(sample_file(samples, *step, picture.index), job.force || job.resume);
        match place.put(|at| picture.write_png(at)).and_then(Placed::path) {
            Ok(path) => reporter.note(&format!("sample {}", path.display())),
            Err(e) => {
                reporter.hear(&Event::Warning((&e).into()));
            }
        }
    }
    reporter.hear(event)
}

/// Says what came of a training that `began` then: how long it took, or how to go on.
///
/// # Errors
/// The training's.
pub fn tell(global: &Global, job: &TrainOptions, began: Instant, result: Result<Trained>) -> Result<()> {
    let trained = result.inspect_err(|e| {
        if matches!(e, Error::Interrupted { .. }) && job.replay.is_none() {
            terminal::note(&format!("go on with: {}", resume_command(std::env::args_os())));
        }
    })?;
    let seconds = began.elapsed().as_secs_f64();
    if global.json {
        let mut done = terminal::with_path(json!({"event": "done"}), "out", &trained.out);
        (done["steps"], done["seconds"]) = (trained.steps.into(), seconds.into());
        terminal::tell(done);
    } else {
        if !global.quiet {
            let steps = if trained.steps == 1 { "step" } else { "steps" };
            terminal::note(&format!("{} {steps} in {}", trained.steps, table::seconds(seconds)));
        }
        terminal::tell_path(&trained.out);
    }
    Ok(())
}

/// The command as it was given, with `--resume`.
fn resume_command(args: impl Iterator<Item = OsString>) -> String {
    let mut words: Vec<String> = args.map(|a| quoted(&a)).collect();
    if !words.iter().any(|w| w == "--resume") {
        words.push("--resume".into());
    }
    words.join(" ")
}

/// A word as a POSIX shell reads it back; `$'\344'` where it holds what is no text, or what a terminal would act on.
fn quoted(word: &OsStr) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+@%".contains(c);
    match word.to_str() {
        Some(text) if !text.is_empty() && text.chars().all(plain) => text.into(),
        Some(text) if !text.contains(char::is_control) => format!("'{}'", text.replace('\'', r"'\''")),
        _ => {
            let escaped = |&byte: &u8| match byte {
                b'\'' | b'\\' => format!("\\{}", char::from(byte)),
                b' '..=b'~' => char::from(byte).into(),
                // Three digits, so that a digit after them is not taken for one of theirs.
                _ => format!("\\{byte:03o}"),
            };
            format!("$'{}'", word.as_encoded_bytes().iter().map(escaped).collect::<String>())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resuming_repeats_the_command() {
        let args = ["portray", "train", "--prompt", "a sks dog's"].map(OsString::from);
        assert_eq!(resume_command(args.into_iter()), r"portray train --prompt 'a sks dog'\''s' --resume");
    }

    #[cfg(unix)]
    #[test]
    fn a_shell_reads_every_word_back() {
        use std::os::unix::ffi::OsStrExt as _;
        let words = [
            &b"bilder-\xe4"[..],
            b"a\nb",
            b"\x1b[2J",
            b"it's \\ \xff1",
            "\u{1f431} cat".as_bytes(),
            b"",
            b"-x",
            b"$(id)",
        ];
        for word in words {
            let line = format!("printf %s {}", quoted(OsStr::from_bytes(word)));
            let said = std::process::Command::new("bash").args(["-c", &line]).output();
            match said {
                Ok(said) => assert_eq!(said.stdout, word, "{line}"),
                Err(e) => eprintln!("skipped: no bash ({e})"),
            }
        }
    }
}
