//! Trainings that watch themselves.

use serde_json::Value;

use super::support::*;
use portray::io::LoraFile;

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
                 --rank 2 --seed 3 --steps 6 --save-every 2 --lr 1e-2 --flip --crop random --text-encoder --json";
    works(at, &format!("{train} --out whole.safetensors"));
    let watched = format!("{train} --evaluate-every 2 --stop plateau");
    let output = works(at, &format!("{watched} --out watched.safetensors"));
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
    let output = works(at, &format!("{watched} --out parts.safetensors --resume"));
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
    let train = "train --model {F}/sd2 --prompt cat --rank 2 --steps 4 --resolution 64 --flip --lr 1e-2 --json";
    works(at, &format!("{train} --images five --out five.safetensors"));
    let output = works(at, &format!("{train} --images six --evaluate-every 3 --out six.safetensors"));
    let said = stdout(&output);
    assert!(said.contains("kept out of the training, to measure the loss on: 5.png"), "{said}");
    let found = evaluations(&said);
    assert_eq!(steps(&found), [0, 3, 4]);
    assert!(found.iter().all(|said| said["held_out"] == true), "{found:?}");
    let read = |name: &str| std::fs::read(at.join(name)).unwrap();
    assert_eq!(read("five.safetensors"), read("six.safetensors"));
    // All are trained on where that is asked for, and one is kept out without evaluations too.
    works(at, &format!("{train} --images six --evaluate-every 4 --keep-out 0 --out all.safetensors"));
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
    let train = "train --images {A}/subjects/cat --prompt cat";
    refused(dir.path(), &format!("{train} --evaluate-every 0"), 2, &["--evaluate-every"]);
    refused(dir.path(), &format!("{train} --evaluate-every 5 --stop soon"), 2, &["--stop", "plateau"]);
    let replay = "train --model {F}/sd2 --replay {F}/sd2-train/replay.safetensors --evaluate-every 5";
    refused(dir.path(), replay, 2, &["--replay", "--evaluate-every"]);
    let said = stdout(&works(dir.path(), "plan train --images {A}/subjects/cat --prompt cat --stop plateau"));
    assert!(said.contains("without --evaluate-every") && said.contains("--stop"), "{said}");
}
