//! `portray identifier`: a word that means something is told from words that mean nothing.

use std::path::Path;

use serde_json::Value;

use super::common::inpainting_model;
use super::support::*;

/// The LoRA that `tests/fixtures/identifier/README.md` trains: "a sks cat" is the purple cat of `assets/subjects/cat`.
fn trained() -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    root.join("tests/fixtures/identifier/sks-cat.safetensors").display().to_string()
}

/// Lines of `--json` and the last of them, the result.
fn result(folder: &Path, line: &str) -> Value {
    let output = works(folder, &format!("{line} --json"));
    let text = stdout(&output);
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let found = lines.into_iter().find(|line| line["event"] == "identifiers");
    found.unwrap_or_else(|| panic!("no result of {line}:\n{text}"))
}

fn words(found: &Value) -> Vec<&str> {
    found["words"].as_array().unwrap().iter().map(|word| word["word"].as_str().unwrap()).collect()
}

/// By how much an image is purple: red and blue over green, mean over all pixels, in steps of 8 bits.
fn purple(path: &Path) -> f64 {
    let image = image::open(path).unwrap().to_rgb8();
    let each = |pixel: &image::Rgb<u8>| (f64::from(pixel[0]) + f64::from(pixel[2])) / 2.0 - f64::from(pixel[1]);
    image.pixels().map(each).sum::<f64>() / f64::from(image.width() * image.height())
}

#[test]
fn a_trained_word_is_ranked_last_of_twenty() {
    let dir = tempfile::tempdir().unwrap();
    let line = format!("identifier --lora {} --class cat --seeds 1", trained());
    let found = result(dir.path(), &line);
    let ranked = words(&found);
    assert_eq!((ranked.len(), ranked[19]), (20, "sks"), "{ranked:?}");
    let list = found["words"].as_array().unwrap();
    let prior = |word: &Value, field: &str| word["prior"][field].as_f64().unwrap();
    assert!(list.windows(2).all(|pair| prior(&pair[0], "score") <= prior(&pair[1], "score")), "best first");
    // Beside its class, where it was trained, no other word does nearly as much.
    let most = list[..19].iter().map(|word| prior(word, "with_class")).fold(0.0, f64::max);
    assert!(prior(&list[19], "with_class") > 1.1 * most, "{found}");
    for word in list {
        assert!(word["nearest"].as_array().unwrap().len() == 4 && word["resembles"].as_array().unwrap().len() == 3);
        assert!(word["prior"]["error"].is_null() && word["tokens"].as_array().unwrap().len() == 1);
    }
}

#[test]
fn images_show_what_a_trained_word_means() {
    let dir = tempfile::tempdir().unwrap();
    let line = format!("identifier --lora {} --class cat --words sks --seeds 1 --steps 8 --out r", trained());
    works(dir.path(), &line);
    let at = |name: &str| dir.path().join("r").join(name);
    let report: Value = serde_json::from_slice(&std::fs::read(at("report.json")).unwrap()).unwrap();
    let file = report["words"][0]["images"]["with_class"].as_str().unwrap();
    let (class, word) = (purple(&at(report["class_image"].as_str().unwrap())), purple(&at(file)));
    let photos = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/subjects/cat");
    let photo = purple(&photos.join("0.png"));
    assert!(photo > class + 10.0, "the photos are purple, a cat is not: {photo} {class}");
    assert!(word > class + (photo - class) / 3.0, "class {class}, word {word}, photo {photo}");
    assert_eq!((&report["model"], &report["seed"], &report["seeds"]), (&"bundled".into(), &0.into(), &1.into()));
    assert_eq!(report["loras"][0]["path"], trained());
    let page = std::fs::read_to_string(at("report.html")).unwrap();
    assert!(page.contains("predictions of bundled with ") && page.contains("1 noise (seed 0)"), "{page}");
    assert!(page.contains("alt=\"Image of &quot;a sks cat&quot;\"") && page.contains(file), "{page}");
    assert!(!page.contains("http:") && !page.contains("https:") && !page.contains("<script"), "{page}");
    // Nothing of an earlier report is replaced unasked.
    refused(dir.path(), &line, 1, &["report.json", "--force"]);
}

#[test]
fn every_kind_of_model_has_words() {
    let dir = tempfile::tempdir().unwrap();
    let inpainting = inpainting_model("sd15");
    let inpainting = inpainting.path().display();
    let xl = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/xl/xl");
    let xl = xl.display();
    let mut near = std::collections::BTreeMap::new();
    for (model, words) in [
        (format!("--model {xl} --dtype q8"), "sks,mscds"),
        (format!("--model {xl} --dtype q4 --count 1"), "sks,SKS,red"),
        (format!("--model {inpainting}"), "sks"),
        (format!("--model {inpainting}"), "gun,Sks,red"),
    ] {
        let found = result(dir.path(), &format!("identifier {model} --words {words} --seeds 2"));
        let list = found["words"].as_array().unwrap();
        let listed = match words {
            "sks,mscds" => 2,
            "gun,Sks,red" => 3,
            _ => 1,
        };
        assert_eq!(list.len(), listed, "{model}");
        let nearest = list.iter().find(|word| word["word"] == "sks").map(|word| word["nearest"].clone());
        if let Some(alone) = near.insert(model.clone(), nearest.clone()) {
            assert_eq!(alone, nearest, "the nearest words of sks beside other words");
        }
        for word in list {
            for field in ["score", "with_class", "alone", "error"] {
                assert!(word["prior"][field].as_f64().unwrap().is_finite(), "{model}: {word}");
            }
            assert_eq!(word["merge"].is_null(), word["word"] == "mscds", "{word}");
        }
    }
}

#[test]
fn what_is_no_word_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path();
    std::fs::write(at.join("file"), "").unwrap();
    for (line, named) in [
        ("identifier --words sks,,red", ["--words", "empty"]),
        ("identifier --words !!", ["--words \"!!\"", "punctuation"]),
        ("identifier --words <lora:x:1>", ["--words", "tag"]),
        ("identifier --words sks --count 0", ["--count", "1 or more"]),
        ("identifier --count 201", ["--count 201", "between 1 and 200"]),
        ("identifier --seeds 17", ["--seeds 17", "between 1 and 16"]),
        ("identifier --steps 3", ["--steps", "--out"]),
        ("identifier --words sks --width 13", ["--width 13", "multiple"]),
    ] {
        refused(at, line, 2, &named);
    }
    let long = "q7".repeat(40);
    refused(at, &format!("identifier --words {long}"), 2, &["--words", "tokens, 38 are the most"]);
    refused(at, "identifier --words sks --memory 1M", 1, &["--memory", "--dtype q8"]);
    refused(at, "identifier --words sks --lora file", 1, &["file"]);
    refused(at, "identifier --words sks --out file", 1, &["file"]);
    let phrase = portray(at).args(["identifier", "--words", "a dog"]).output().unwrap();
    assert_eq!(refusal_fault(&phrase, 2, &["--words \"a dog\"", "several words"]), None);
    let class = portray(at).args(["identifier", "--class", " "]).output().unwrap();
    assert_eq!(refusal_fault(&class, 2, &["--class", "empty"]), None);
}

/// Warnings before the first of 350 steps of a training with `prompt` and these further options.
fn warned(folder: &Path, prompt: &str, more: &[&str]) -> Vec<String> {
    use std::io::BufRead as _;
    let cats = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/subjects/cat").display().to_string();
    let line = ["train", "--images", &cats, "--class-images", &cats, "--class-prompt", "a cat", "--steps", "350"];
    let mut command = portray(folder);
    command.args(line).args(["--json", "--prompt", prompt]).args(more);
    let mut child = command.stdout(std::process::Stdio::piped()).spawn().unwrap();
    let lines = std::io::BufReader::new(child.stdout.take().unwrap()).lines();
    let events = lines.map(|line| serde_json::from_str::<Value>(&line.unwrap()).unwrap());
    let (mut warnings, mut begun) = (Vec::new(), false);
    for event in events {
        begun |= event["event"] == "step";
        if begun {
            break;
        }
        if event["event"] == "warning" {
            warnings.push(event["text"].as_str().unwrap().to_owned());
        }
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(begun, "no step with {more:?}");
    warnings
}

#[test]
fn a_training_warns_of_a_word_that_means_something() {
    let dir = tempfile::tempdir().unwrap();
    let warnings =
        warned(dir.path(), "a sks cat", &["--init-lora", &trained(), "--rank", "1", "--out", "a.safetensors"]);
    assert!(warnings.iter().any(|text| text.contains("\"sks\" means something")), "{warnings:?}");
    let warnings = warned(dir.path(), "a lun cat", &["--out", "b.safetensors"]);
    assert!(!warnings.iter().any(|text| text.contains("means something")), "{warnings:?}");
}
