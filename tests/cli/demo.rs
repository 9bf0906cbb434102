//! `demo`: a sheet that grows, the base model's images beside, one training unless `--check` asks for two.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::Stdio;

use serde_json::Value;

use crate::support::{portray, words};

/// Height of the sheet as it is now: it has to be whole at any time.
fn height(folder: &Path) -> u32 {
    image::open(folder.join("demo/sheet.png")).unwrap().height()
}

#[test]
fn the_sheet_grows_and_the_time_left_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let mut child = portray(folder.path())
        .args(words("demo --steps 2 --sampling-steps 1 --json"))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let (mut events, mut first) = (Vec::new(), None);
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        let event: Value = serde_json::from_str(&line.unwrap()).unwrap();
        if event["event"] == "saved" && event["path"] == "demo/sheet.png" {
            assert_eq!(first.replace(height(folder.path())), None, "its path is told once");
        }
        events.push(event);
    }
    assert!(child.wait().unwrap().success());
    assert!(first.unwrap() < height(folder.path()));

    let of = |kind: &str| events.iter().filter(|e| e["event"] == kind).collect::<Vec<_>>();
    let pictures: Vec<_> = of("picture").iter().map(|p| (p["prompt"].clone(), p["seed"].clone())).collect();
    let (class, rows) = pictures.split_at(12);
    assert!(class.iter().all(|(prompt, _)| prompt == "a cat"));
    assert_eq!(rows.len(), 32);
    for both in rows.chunks(8) {
        assert_eq!(both[..4], both[4..], "the base model's images have the same prompts and seeds");
    }
    assert_eq!(of("step").len(), 2, "one training");
    assert!(!folder.path().join("demo/lora-without-prior.safetensors").exists());
    assert!(folder.path().join("demo/lora.safetensors").exists());

    let left = of("left");
    assert!(!left.is_empty() && left.iter().all(|e| e["seconds"].as_f64().unwrap() >= 0.0));
    let progress = of("progress");
    let counts: Vec<[u64; 2]> = progress.iter().map(|e| ["done", "total"].map(|k| e[k].as_u64().unwrap())).collect();
    assert!(counts.windows(2).all(|w| w[0][0] <= w[1][0] && w[0][1] == w[1][1]), "one count for all: {counts:?}");
    let total = 12 + 2 * 3 + 32;
    // Four images are sampled together.
    assert_eq!((counts[0], counts[counts.len() - 1]), ([4, total], [total, total]));
}

#[test]
fn what_cannot_be_asked_for_is_said_before_the_first_step() {
    let folder = tempfile::tempdir().unwrap();
    let photos = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/subjects/cat");
    let own = |prompt: &str, class: &str| {
        ["demo", "--images", photos, "--prompt", prompt, "--class-prompt", class].map(str::to_owned).to_vec()
    };
    let cases = [
        (words("demo --sampling-steps 1001"), "--sampling-steps"),
        (words("demo --sampling-steps -1"), "--sampling-steps"),
        (own(" ", "a cat"), "--prompt is empty"),
        (own("a sks cat", ""), "--class-prompt is empty"),
    ];
    for (args, said) in cases {
        let out = portray(folder.path()).args(&args).output().unwrap();
        let text = String::from_utf8(out.stderr).unwrap();
        assert_eq!((out.status.code(), text.lines().count()), (Some(2), 1), "{args:?}: {text}");
        assert!(text.contains(said), "{args:?}: {text}");
        assert!(!folder.path().join("demo/class").exists());
    }
}
