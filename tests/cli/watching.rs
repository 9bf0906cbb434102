//! Trainings that watch themselves.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::support::*;
use portray::low_level::evaluate::colour;
use portray::low_level::io::LoraFile;
use portray::low_level::train::best_path;
use portray::{Engine, Event, Flow, GenerateOptions, LoraArg, Picture, SamplingOptions, Stop, TrainOptions, Trained};

/// Evaluations among the lines of `text`.
fn evaluations(text: &str) -> Vec<Value> {
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines.filter(|said| said["event"] == "evaluation").collect()
}

fn steps(evaluations: &[Value]) -> Vec<u64> {
    evaluations.iter().map(|said| said["step"].as_u64().unwrap()).collect()
}

#[cfg(unix)]
#[test]
fn a_training_that_is_evaluated_ends_in_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path();
    let train = "train --model {F}/sd2 --images {A}/subjects/cat --prompt cat --class-prompt dog --class-images {A}/subjects/dog \
                 --rank 2 --seed 3 --steps 6 --save-every 2 --lr 1e-2 --flip --crop random --text-encoder --format kohya";
    works(at, &format!("{train} --out whole.safetensors"));
    let watched = format!("{train} --evaluate-every 2 --stop plateau");
    let output = works(at, &format!("{watched} --json --out watched.safetensors"));
    let read = |name: &str| std::fs::read(at.join(name)).unwrap();
    assert_eq!(read("whole.safetensors"), read("watched.safetensors"));
    let whole = evaluations(&stdout(&output));
    assert_eq!(steps(&whole)[..2], [0, 2], "{whole:?}");
    assert_eq!(steps(&whole).last(), Some(&6));
    assert!(whole.iter().all(|said| said["held_out"] == false && said["loss"].as_f64().unwrap() > 0.0), "{whole:?}");
    assert_eq!((whole[0]["drift"].as_f64(), whole[0]["score"].as_f64()), (Some(0.0), Some(0.0)));
    assert!(whole[1..].iter().all(|said| said["drift"].as_f64().unwrap() > 1e-4), "{whole:?}");
    let score = |said: &Value| said["likeness"].as_f64().unwrap().min(1.0) - said["drift"].as_f64().unwrap();
    assert!(whole.iter().all(|said| (said["score"].as_f64().unwrap() - score(said)).abs() < 1e-12), "{whole:?}");
    // What is kept is the LoRA of the best step.
    let best = whole.last().unwrap()["best"].as_u64().unwrap();
    let kept = LoraFile::open(at.join("watched.best.safetensors"), None).unwrap();
    assert_eq!(kept.metadata["ss_steps"], best.to_string());
    assert!(stdout(&output).contains("watched.best.safetensors"), "{}", stdout(&output));

    // Interrupted and gone on with, by other options of evaluations too.
    let (before, _) = interrupted(at, &format!("{watched} --out parts.safetensors"), |said| said["step"] == 3);
    let output = works(at, &format!("{watched} --json --out parts.safetensors --resume"));
    assert_eq!(read("whole.safetensors"), read("parts.safetensors"));
    assert_eq!(read("watched.best.safetensors"), read("parts.best.safetensors"));
    let before: Vec<Value> = before.into_iter().filter(|said| said["event"] == "evaluation").collect();
    assert_eq!([before, evaluations(&stdout(&output))].concat(), whole);

    // Nothing of a user's is replaced.
    std::fs::remove_file(at.join("parts.safetensors")).unwrap();
    refused(at, &format!("{watched} --out parts.safetensors"), 1, &["parts.best.safetensors", "--force"]);
}

#[test]
fn photos_are_kept_out_from_six_on() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path();
    let photo = |name: &str, from: &str| {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/subjects").join(from);
        let to = at.join(name);
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        std::fs::copy(root, to).unwrap();
    };
    for i in 0..6 {
        let from = format!("{}/{}.png", ["cat", "dog"][i / 4], i % 4);
        photo(&format!("six/{i}.png"), &from);
        if i < 5 {
            photo(&format!("five/{i}.png"), &from);
        }
    }
    std::fs::write(at.join("six/5.txt"), "a dog that is not trained on").unwrap();
    let train = "train --model {F}/sd2 --prompt cat --rank 2 --steps 4 --resolution 64 --flip --lr 1e-2";
    works(at, &format!("{train} --images five --out five.safetensors"));
    let output = works(at, &format!("{train} --json --images six --evaluate-every 3 --out six.safetensors"));
    let said = stdout(&output);
    assert!(said.contains("kept out of the training, to measure the loss on: 5.png"), "{said}");
    let found = evaluations(&said);
    assert_eq!(steps(&found), [0, 3, 4]);
    assert!(found.iter().all(|said| said["held_out"] == true), "{found:?}");
    let read = |name: &str| std::fs::read(at.join(name)).unwrap();
    assert_eq!(read("five.safetensors"), read("six.safetensors"));
    // All are trained on where that is asked for, and one is kept out without evaluations too.
    let output = works(at, &format!("{train} --json --images six --stop plateau --keep-out 0 --out all.safetensors"));
    assert!(stdout(&output).contains("--stop plateau evaluates every step"), "{}", stdout(&output));
    works(at, &format!("{train} --images six --out plain.safetensors"));
    assert_eq!(read("all.safetensors"), read("plain.safetensors"));
    works(at, &format!("{train} --images six --keep-out 1 --out one.safetensors"));
    assert_eq!(read("five.safetensors"), read("one.safetensors"));
    refused(at, &format!("{train} --images six --keep-out 6 --out none.safetensors"), 2, &["--keep-out 6"]);
    // A resumed run keeps out what it kept out.
    #[cfg(unix)]
    {
        let line = format!("{train} --images six --evaluate-every 3 --out half.safetensors");
        interrupted(at, &line, |said| said["event"] == "step");
        let other = line.replace("--evaluate-every 3 ", "");
        refused(at, &format!("{other} --resume"), 1, &["--keep-out 1, not null"]);
        works(at, &format!("{line} --resume"));
        assert_eq!(read("five.safetensors"), read("half.safetensors"));
    }
}

#[test]
fn evaluations_are_planned_and_wrong_ones_refused() {
    let dir = tempfile::tempdir().unwrap();
    let plan = |options: &str| -> Value {
        let line = format!("plan train --images {{A}}/subjects/cat --prompt cat --json {options}");
        serde_json::from_str(&stdout(&works(dir.path(), &line))).unwrap()
    };
    let (without, with) = (plan(""), plan("--evaluate-every 10"));
    let row = |plan: &Value| {
        let rows = plan["rows"].as_array().unwrap();
        let row = rows.iter().find(|row| row["what"].as_str().unwrap().starts_with("evaluations"));
        row.map(|row| row["bytes"].as_u64().unwrap())
    };
    assert_eq!(row(&without), None);
    let peak = |plan: &Value| plan["peak_bytes"].as_u64().unwrap();
    assert!(row(&with).unwrap() > 1_000_000 && peak(&with) > peak(&without), "{with}");
    assert_eq!(row(&plan("--stop plateau")), row(&with));
    let train = "train --images {A}/subjects/cat --prompt cat";
    refused(dir.path(), &format!("{train} --evaluate-every 0"), 2, &["--evaluate-every"]);
    refused(dir.path(), &format!("{train} --evaluate-every 5 --stop soon"), 2, &["--stop", "plateau"]);
    let replay = "train --model {F}/sd2 --replay {F}/sd2-train/replay.safetensors --evaluate-every 5";
    refused(dir.path(), replay, 2, &["--replay", "--evaluate-every"]);
}

/// Trains as `job` says; keeps a copy of each saved state beside `job.out` and answers `Flow::Finish` after the first step if
/// it is to be `short`.
fn train(engine: &Engine, job: &TrainOptions, short: bool) -> Trained {
    let mut done = 0;
    let state = job.out.with_extension("safetensors.state");
    let mut listener = |event: Event| {
        match &event {
            Event::Step(step) => done = step.step + 1,
            Event::Saved(path) if *path == state => copy(path, &job.out.with_file_name(format!("{done}.state"))),
            Event::Evaluation(report) => eprintln!("{report:?}"),
            _ => {}
        }
        if short && done > 0 { Flow::Finish } else { Flow::Continue }
    };
    pollster::block_on(engine.train(job, &mut listener)).unwrap()
}

/// Images of the subject's prompt and of the empty one, with a LoRA or without, by seeds that no evaluation has.
fn judged(engine: &Engine, lora: Option<&Path>) -> [Vec<Picture>; 2] {
    ["a mscds cat", ""].map(|prompt| {
        let job = GenerateOptions {
            prompts: vec![prompt.into()],
            loras: lora.iter().map(|path| LoraArg { path: path.to_path_buf(), scale: 1.0 }).collect(),
            count: 12,
            sampling: SamplingOptions { steps: Some(8), seed: 777_000, ..Default::default() },
            ..Default::default()
        };
        pollster::block_on(engine.generate(&job, &mut |_| Flow::Continue)).unwrap().pictures
    })
}

/// A training of the built-in model on the bundled cat that is to end when its score rises no more.
fn watched(out: PathBuf, steps: usize, lr: f64) -> TrainOptions {
    TrainOptions {
        images: Some(Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/subjects/cat")),
        prompt: Some("a mscds cat".into()),
        steps: Some(steps),
        rank: 8,
        lr: Some(lr),
        save_every: Some(100),
        evaluate_every: Some(100),
        stop: Stop::Plateau,
        format: portray::LoraFormat::Kohya,
        out,
        ..Default::default()
    }
}

/// At a low rate the score stays near 0 for half the run, then rises to 0.2.
/// Takes some six minutes on two cores: `cargo test --release --test cli still_learns -- --ignored --nocapture`.
#[test]
#[ignore = "trains 1500 steps"]
fn a_run_that_still_learns_is_not_stopped() {
    let engine = pollster::block_on(Engine::request(&Default::default())).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let mut scores = Vec::new();
    let mut listener = |event: Event| {
        if let Event::Evaluation(report) = event {
            eprintln!("{report:?}");
            scores.extend(report.score);
        }
        Flow::Continue
    };
    // A fiftieth of the rate at which the cat is learned in some 300 steps.
    let job = watched(dir.path().join("lora.safetensors"), 1500, 2e-5);
    let trained = pollster::block_on(engine.train(&job, &mut listener)).unwrap();
    // As many scores as find a plateau, and it did learn to the end.
    assert!(scores.len() >= 7, "{scores:?}");
    let mean = |some: &[f64]| some.iter().sum::<f64>() / some.len() as f64;
    let third = scores.len() / 3;
    assert!(mean(&scores[scores.len() - third..]) > mean(&scores[third..2 * third]) + 0.02, "{scores:?}");
    assert_eq!(trained.steps, 1500);
}

/// Takes some twenty minutes on two cores: `cargo test --release --test cli overtrained -- --ignored --nocapture`.
#[test]
#[ignore = "trains 1500 steps"]
fn an_overtrained_run_is_stopped_and_its_best_checkpoint_is_good() {
    let engine = pollster::block_on(Engine::request(&Default::default())).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let job = watched(dir.path().join("lora.safetensors"), 1500, 1e-3);
    let subject = job.images.clone().unwrap();
    let stopped = train(&engine, &job, false).steps;
    assert!((600..1500).contains(&stopped), "stopped at step {stopped}");
    let kept = LoraFile::open(best_path(&job.out), None).unwrap().metadata["ss_steps"].parse::<usize>().unwrap();
    // Let run to its end, from the state of the step at which it was stopped.
    let continued = |step: usize, name: &str| {
        let out: PathBuf = dir.path().join(name);
        copy(&dir.path().join(format!("{step}.state")), &out.with_extension("safetensors.state"));
        TrainOptions { out, resume: true, evaluate_every: None, stop: Stop::Never, ..job.clone() }
    };
    assert_eq!(train(&engine, &continued(stopped, "rest.safetensors"), false).steps, 1500);
    let photos: Vec<Picture> = (0..4)
        .map(|i| {
            let photo = portray::low_level::io::Picture::open(subject.join(format!("{i}.png"))).unwrap();
            let portray::low_level::io::Picture { width, height, rgb } = photo;
            Picture { index: 0, prompt: String::new(), seed: 0, width, height, rgb, parameters: String::new() }
        })
        .collect();
    let base = judged(&engine, None);
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    let likeness = |of: &[Picture]| of.iter().map(|image| colour::likeness(image, &photos)).collect::<Vec<_>>();
    let others =
        |i: usize| photos.iter().enumerate().filter(|(j, _)| *j != i).map(|(_, p)| p.clone()).collect::<Vec<_>>();
    let among = mean(&(0..4).map(|i| colour::likeness(&photos[i], &others(i))).collect::<Vec<_>>());
    let (lowest, apart) = (mean(&likeness(&base[0])), 2.0 * colour::diversity(&base[1]));
    // Likeness less drift, each relative to the base model, seed by seed.
    let mut scores: Vec<(usize, f64, f64)> = Vec::new();
    for step in (100..1500).step_by(100) {
        let lora = train(&engine, &continued(step, &format!("at-{step}.safetensors")), true).out;
        let made = judged(&engine, Some(&lora));
        let drift = made[1]
            .iter()
            .zip(&base[1])
            .map(|(a, b)| colour::change(std::slice::from_ref(a), std::slice::from_ref(b)) / apart);
        let each: Vec<f64> =
            likeness(&made[0]).iter().zip(drift).map(|(l, drift)| (l - lowest) / (among - lowest) - drift).collect();
        let squares: f64 = each.iter().map(|score| (score - mean(&each)).powi(2)).sum();
        scores.push((step, mean(&each), (squares / (12.0 * 11.0)).sqrt()));
        eprintln!("step {step}: {:.3} +- {:.3}", scores.last().unwrap().1, scores.last().unwrap().2);
    }
    let best = scores.iter().max_by(|a, b| a.1.total_cmp(&b.1)).unwrap();
    let ours = scores.iter().find(|(step, ..)| *step == kept).unwrap();
    let error = (best.2.powi(2) + ours.2.powi(2)).sqrt();
    eprintln!("stopped at {stopped}, kept {kept}, best {}", best.0);
    assert!(best.1 - ours.1 <= 2.0 * error, "kept {ours:?}, the best is {best:?}");
}

#[test]
fn vision_models_judge_the_images() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path();
    let clip_model = crate::common::vision_clip();
    let clip = clip_model.path().display();
    let train = "train --model {F}/sd2 --images {A}/subjects/cat --prompt cat --class-prompt dog --class-images {A}/subjects/dog \
                 --rank 2 --steps 2 --lr 1e-2 --resolution 64";
    works(at, &format!("{train} --out whole.safetensors"));
    let judged = format!("{train} --evaluate-every 1 --vision {{F}}/../vision/dino --clip {clip}");
    let output = works(at, &format!("{judged} --json --out judged.safetensors"));
    let read = |name: &str| std::fs::read(at.join(name)).unwrap();
    assert_eq!(read("whole.safetensors"), read("judged.safetensors"));
    let found = evaluations(&stdout(&output));
    let value = |said: &Value, name: &str| said[name].as_f64().unwrap_or_else(|| panic!("{name}: {said}"));
    assert_eq!((value(&found[0], "likeness"), value(&found[0], "prompt_fidelity")), (0.0, 1.0));
    for said in &found {
        let (likeness, prompt) = (value(said, "likeness").min(1.0), value(said, "prompt_fidelity"));
        let expected = if likeness > 0.0 { likeness * prompt } else { likeness } - value(said, "drift");
        assert!((value(said, "score") - expected).abs() < 1e-12, "{said}");
    }
    let last = found.last().unwrap();
    let by_colour = works(at, &format!("{train} --evaluate-every 1 --json --out colours.safetensors"));
    let by_colour = evaluations(&stdout(&by_colour));
    assert!((value(last, "likeness") - value(by_colour.last().unwrap(), "likeness")).abs() > 1e-6, "{last}");
    assert!(by_colour[0].get("prompt_fidelity").is_none());

    // Their memory is planned.
    let row = |line: &str| {
        let plan: Value = serde_json::from_str(stdout(&works(at, line)).lines().last().unwrap()).unwrap();
        let rows = plan["rows"].as_array().unwrap().clone();
        let own = rows.into_iter().find(|row| row["what"].as_str().unwrap().starts_with("evaluations")).unwrap();
        own["bytes"].as_u64().unwrap()
    };
    let plain = row(&format!("plan {train} --evaluate-every 1 --json"));
    let weights = std::fs::metadata(clip_model.path().join("model.safetensors")).unwrap().len();
    assert!(row(&format!("plan {judged} --json")) > plain.max(weights), "{plain} bytes, {weights} of weights");

    let wrong = format!("{train} --evaluate-every 1 --out wrong.safetensors");
    refused(at, &format!("{wrong} --vision {clip}"), 2, &["--vision", "CLIP model", "--clip"]);
    refused(at, &format!("{wrong} --clip {{F}}/../vision/dino"), 2, &["--clip", "ViTModel", "--vision"]);
    refused(at, &format!("{wrong} --vision none"), 1, &["none", "no such folder"]);
    let without_class =
        "train --model {F}/sd2 --images {A}/subjects/cat --prompt cat --steps 2 --out wrong.safetensors";
    refused(at, &format!("{without_class} --evaluate-every 1 --clip {clip}"), 2, &["--class-prompt"]);
    refused(at, &format!("{without_class} --vision {{F}}/../vision/dino"), 2, &["--evaluate-every"]);
}
