//! What changes while a training runs: its result, and its state, are somewhere that is named.

use std::path::{Path, PathBuf};
use std::process::Output;

use portray::{Engine, Event, Flow, Method, ModelOptions, TrainOptions};

use super::super::support::*;
use super::{TRAIN, contents, engine, home, job};

/// What a training says whose surroundings `mischief` changes after its first update: its end, warnings, places saved.
fn train_with(
    engine: &Engine,
    job: &TrainOptions,
    mischief: impl Fn(),
) -> (Result<PathBuf, String>, Vec<String>, Vec<PathBuf>) {
    let (mut warnings, mut saved, mut done) = (Vec::new(), Vec::new(), false);
    let result = pollster::block_on(engine.train(job, &mut |event| {
        match event {
            Event::Step(_) if !std::mem::replace(&mut done, true) => mischief(),
            Event::Warning(text) => warnings.push(text.to_string()),
            Event::Saved(path) => saved.push(path),
            _ => {}
        }
        Flow::Continue
    }));
    (result.map(|trained| trained.out).map_err(|e| e.to_string()), warnings, saved)
}

#[test]
fn n04_what_appears_meanwhile_is_not_replaced() {
    let (home, engine) = (home(), engine());
    let dir = home.path();
    let out = dir.join("a.safetensors");
    let precious = || std::fs::write(&out, "precious").unwrap();
    let (result, warnings, saved) = train_with(&engine, &job(dir, "a.safetensors"), precious);
    let error = result.unwrap_err();
    assert!(error.contains("exists already") && error.contains("a-1.safetensors"), "{error}");
    assert!(warnings.iter().any(|text| text.contains("a-1.safetensors")), "{warnings:?}");
    assert_eq!(saved, [dir.join("a-1.safetensors")]);
    assert_eq!(std::fs::read_to_string(&out).unwrap(), "precious");
    assert!(portray::low_level::io::LoraFile::open(&saved[0], None).is_ok());
    // A whole folder in the place of a LoRA, with --force.
    let folder = dir.join("b.safetensors");
    let forced = TrainOptions { force: true, ..job(dir, "b.safetensors") };
    let (result, _, saved) = train_with(&engine, &forced, || {
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join("notes.txt"), "precious").unwrap();
    });
    assert!(result.unwrap_err().contains("b-1.safetensors"));
    assert_eq!(saved, [dir.join("b-1.safetensors")]);
    assert!(folder.join("notes.txt").is_file());
    // A folder of a model that somebody puts something into.
    let model = dir.join("m");
    let full = TrainOptions { method: Method::Full, ..job(dir, "m") };
    let (result, _, saved) = train_with(&engine, &full, || std::fs::create_dir(&model).unwrap());
    assert!(result.unwrap_err().contains("m-1"));
    assert!(saved[0].join("unet/diffusion_pytorch_model.safetensors").is_file());
}

#[test]
fn n14_a_checkpoint_that_cannot_be_written_is_a_warning() {
    let (home, engine) = (home(), engine());
    let dir = home.path();
    let state = dir.join("a.safetensors.state");
    let often = TrainOptions { save_every: Some(1), steps: Some(3), ..job(dir, "a.safetensors") };
    let (result, warnings, _) = train_with(&engine, &often, || {
        // After the listener has heard the first step: a file where the state's folder belongs.
        std::fs::write(&state, "precious").unwrap();
    });
    assert_eq!(result.unwrap(), dir.join("a.safetensors"));
    assert!(
        warnings.iter().any(|text| text.contains("checkpoint of step 1") && text.contains("goes on")),
        "{warnings:?}"
    );
    assert_eq!(std::fs::read_to_string(&state).unwrap(), "precious");
}

#[cfg(unix)]
#[test]
fn n04_two_runs_on_one_name() {
    let (home, engine) = (home(), engine());
    let dir = home.path();
    std::os::unix::fs::symlink(dir, dir.join("here")).unwrap();
    let first = job(dir, "a.safetensors");
    let (result, ..) = train_with(&engine, &first, || {
        let train = |out: &str| format!("{TRAIN} --force --out {out}");
        for second in [
            train("a.safetensors"),
            train("here/a.safetensors"),
            train("pics/../a.safetensors"),
            "convert in.safetensors --format kohya --out a.safetensors --force".into(),
            "forward text --model {F}/sd2 --prompt x --out a.safetensors --force".into(),
            "generate x --model {F}/sd2 --steps 1 --out g.png --latents-out a.safetensors --force".into(),
        ] {
            let text = stderr(&works_not(dir, &second));
            let who = format!("process {}", std::process::id());
            assert!(text.contains("is being written by") && text.contains(&who), "{second}: {text}");
        }
    });
    assert_eq!(result.unwrap(), first.out);
    let left: Vec<_> = contents(dir).into_keys().filter(|path| path.to_string_lossy().contains(".lock")).collect();
    assert!(left.is_empty(), "{left:?}");
}

fn works_not(folder: &Path, line: &str) -> Output {
    let output = run(folder, line);
    assert!(!output.status.success(), "portray {line}");
    output
}

/// An input that is gone when the result is written: the updates are kept, and the result comes of them.
#[test]
fn kind_a_finished_training_whose_input_is_cut_is_kept() {
    let (home, engine) = (home(), engine());
    let dir = home.path();
    copy(&fixtures().join("sd2"), &dir.join("m"));
    let vae = dir.join("m/vae/diffusion_pytorch_model.safetensors");
    let whole = std::fs::read(&vae).unwrap();
    let model = ModelOptions { model: Some(dir.join("m")), ..Default::default() };
    let full = TrainOptions { method: Method::Full, model, ..job(dir, "full") };
    let (result, ..) = train_with(&engine, &full, || {
        std::fs::OpenOptions::new().write(true).open(&vae).unwrap().set_len(whole.len() as u64 / 2).unwrap();
    });
    let error = result.unwrap_err();
    assert!(error.contains("full.state") && error.contains("with resume") && error.contains("cut"), "{error}");
    std::fs::write(&vae, &whole).unwrap();
    let resumed = TrainOptions { resume: true, ..full };
    let (result, _, saved) = train_with(&engine, &resumed, || panic!("no update is left"));
    assert_eq!((result.unwrap(), saved), (dir.join("full"), vec![dir.join("full")]));
    assert!(dir.join("full/unet/diffusion_pytorch_model.safetensors").is_file() && !dir.join("full.state").exists());
}

/// A run that is stopped where its state cannot be: the state is somewhere that is named.
#[test]
fn kind_a_stopped_run_finds_a_place_for_its_state() {
    let home = home();
    let dir = home.path();
    let stopped = TrainOptions { steps: Some(3), ..job(dir, "a.safetensors") };
    let result = pollster::block_on(engine().train(&stopped, &mut |event| match event {
        Event::Step(_) => {
            std::fs::write(dir.join("a.safetensors.state"), "precious").unwrap();
            Flow::Stop
        }
        _ => Flow::Continue,
    }));
    let error = result.unwrap_err().to_string();
    assert!(error.contains("a.safetensors.state-1") && error.contains("with resume"), "{error}");
    assert_eq!(std::fs::read_to_string(dir.join("a.safetensors.state")).unwrap(), "precious");
    // As it says.
    std::fs::remove_file(dir.join("a.safetensors.state")).unwrap();
    std::fs::rename(dir.join("a.safetensors.state-1"), dir.join("a.safetensors.state")).unwrap();
    let resumed = TrainOptions { resume: true, ..stopped };
    let mut first = None;
    pollster::block_on(engine().train(&resumed, &mut |event| {
        if let Event::Step(step) = event {
            first.get_or_insert(step.step);
        }
        Flow::Continue
    }))
    .unwrap();
    assert_eq!(first, Some(1));
}

/// What is no file is written through, whatever its links are called.
#[cfg(unix)]
#[test]
fn kind_pipes_are_written_through() {
    let home = home();
    let line = "convert in.safetensors --format kohya --quiet --json --out";
    works(home.path(), "convert in.safetensors --format kohya --out file.safetensors");
    let whole = std::fs::read(home.path().join("file.safetensors")).unwrap();
    for out in ["/dev/stdout", "/proc/self/fd/1", "/dev/fd/1"] {
        let output = works(home.path(), &format!("{line} {out}"));
        assert!(output.stdout.starts_with(&whole), "{out}");
    }
    works(home.path(), &format!("{line} /dev/null"));
    // A pipe that nobody reads is not waited for.
    assert!(std::process::Command::new("mkfifo").arg(home.path().join("pipe")).status().unwrap().success());
    let said = stderr(&works_not(home.path(), &format!("{line} pipe")));
    assert!(said.contains("nobody reads") && said.contains("result-1") || said.contains("pipe-1"), "{said}");
}
