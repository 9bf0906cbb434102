//! `evaluate`: figures of given embeddings, and a report of images that are made, judged and kept.

use std::collections::BTreeMap;
use std::path::Path;

use portray::low_level::io::{SafeTensors, Tensor, write_safetensors};
use serde_json::Value;

use super::common::vision_clip;
use super::support::*;

const FIGURES: [&str; 6] = ["DINO", "CLIP_I", "CLIP_T", "PRES", "DIV", "DRIFT"];

fn fixture(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// What `--embeddings` gives for a file.
fn figures(folder: &Path, file: &Path) -> Value {
    let output = portray(folder).args(["evaluate", "--json", "--embeddings"]).arg(file).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    serde_json::from_str(stdout(&output).trim()).unwrap()
}

/// The embeddings of the fixture, changed by `change`, in a file of `folder`.
fn changed(folder: &Path, change: impl Fn(&mut BTreeMap<String, Vec<f32>>)) -> std::path::PathBuf {
    let file = SafeTensors::open(fixture("metrics.safetensors")).unwrap();
    let mut values: BTreeMap<String, Vec<f32>> =
        file.iter().map(|tensor| (tensor.name.to_string(), tensor.to_numbers().unwrap())).collect();
    change(&mut values);
    let prompt: Vec<i64> = values.get("prompt").into_iter().flatten().map(|&p| p as i64).collect();
    let width = |name: &str| file.get(name).map_or(12, |tensor| *tensor.shape.last().unwrap());
    let tensor = |(name, values): (&String, &'_ Vec<f32>)| match name.as_str() {
        "prompt" => Tensor::i64("prompt", &[prompt.len()], &prompt),
        _ => Tensor::owned_f32(name.as_str(), &[values.len() / width(name), width(name)], values),
    };
    let path = folder.join("changed.safetensors");
    write_safetensors(&path, &values.iter().map(tensor).collect::<Vec<_>>(), &BTreeMap::new()).unwrap();
    path
}

#[test]
fn given_embeddings_have_the_figures_of_pytorch() {
    let dir = tempfile::tempdir().unwrap();
    let expected: Value = serde_json::from_slice(&std::fs::read(fixture("metrics.json")).unwrap()).unwrap();
    let found = figures(dir.path(), &fixture("metrics.safetensors"));
    for name in FIGURES {
        let (found, expected) = (found[name].as_f64().unwrap(), expected[name].as_f64().unwrap());
        assert!((found - expected).abs() < 1e-6, "{name}: {found} for {expected}");
    }
    // An image of the first prompt takes the place of one of the last.
    let swapped = changed(dir.path(), |values| {
        for (name, width) in [("made", 12), ("clip_made", 7)] {
            let rows = values.get_mut(name).unwrap();
            (0..width).for_each(|i| rows.swap(i, 8 * width + i));
        }
        // At right angles, and alike.
        let axis = |i: usize| (0..12).map(move |j| if i == j { 1.0 } else { 0.0 });
        values.insert("unrelated".into(), axis(0).chain(axis(1)).collect());
        values.insert("unrelated_base".into(), axis(0).chain(axis(2)).collect());
    });
    let other = figures(dir.path(), &swapped);
    for name in FIGURES {
        let differs = (other[name].as_f64().unwrap() - found[name].as_f64().unwrap()).abs() > 1e-3;
        assert_eq!(differs, ["CLIP_T", "DIV"].contains(&name), "{name}");
    }
    assert_eq!(other["DRIFT_UNRELATED"].as_f64(), Some(0.5), "{other}");
}

#[test]
fn figures_of_absent_embeddings_are_left_out_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let path = changed(dir.path(), |values| {
        values.retain(|name, _| ["made", "real", "class"].contains(&name.as_str()));
        values.insert("other".into(), vec![1.0; 12]);
    });
    assert!(path.is_file());
    let found = figures(dir.path(), Path::new("changed.safetensors"));
    let there: Vec<&str> = FIGURES.into_iter().filter(|name| found.get(name).is_some()).collect();
    assert_eq!(there, ["DINO", "PRES"]);
    let notes = found["notes"].to_string();
    for said in [
        "CLIP_I is left out",
        "no clip_real and no clip_made",
        "DIV is left out",
        "no prompt",
        "DRIFT_UNRELATED is left out",
        "no unrelated and no unrelated_base",
        "not read: other",
    ] {
        assert!(notes.contains(said), "{said}: {notes}");
    }
    let args = ["evaluate", "--embeddings", "changed.safetensors", "--out", "figures"];
    let output = portray(dir.path()).args(args).output().unwrap();
    let written = std::fs::read(dir.path().join("figures/report.json")).unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&written).unwrap(), found);
    refused(dir.path(), &args.join(" "), 1, &["report.json: exists already", "--force"]);
    assert!(stdout(&output).starts_with("DINO") && stderr(&output).contains("DRIFT is left out"));
    type Spoil<'a> = &'a dyn Fn(&mut BTreeMap<String, Vec<f32>>);
    let faults: [(&str, Spoil<'_>); 5] = [
        ("tensor 'prompt': holds 3: 'clip_text' has rows 0 to 2", &|v| v.get_mut("prompt").unwrap()[0] = 3.0),
        ("tensor 'prompt': has 8 numbers and 'made' 9 rows", &|v| v.get_mut("prompt").unwrap().truncate(8)),
        ("'class' has 3 rows and 'class_base' 4", &|v| v.get_mut("class").unwrap().truncate(36)),
        ("tensor 'real': row 1 is all zeros", &|v| v.get_mut("real").unwrap()[12..24].fill(0.0)),
        ("holds no embeddings", &|v| v.retain(|name, _| name == "prompt")),
    ];
    for (said, fault) in faults {
        changed(dir.path(), fault);
        refused(dir.path(), "evaluate --embeddings changed.safetensors", 1, &[said]);
    }
}

/// Photos of a subject in `folder/photos`.
fn photos(folder: &Path, count: usize) {
    std::fs::create_dir(folder.join("photos")).unwrap();
    for i in 0..count {
        let photo = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("assets/subjects/cat/{i}.png"));
        std::fs::copy(photo, folder.join(format!("photos/{i}.png"))).unwrap();
    }
}

const LINE: &str = "evaluate --model {F}/sd2 --photos photos --steps 1 --seeds 2";

fn report(folder: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(folder.join("ev/report.json")).unwrap()).unwrap()
}

#[test]
fn a_lora_at_two_scales_is_compared_with_its_base() {
    let dir = tempfile::tempdir().unwrap();
    photos(dir.path(), 3);
    std::fs::copy(dir.path().join("photos/1.png"), dir.path().join("photos/again.png")).unwrap();
    let clip = vision_clip();
    std::fs::write(dir.path().join("p.txt"), "a {subject} in the snow\na photo of the {class} and a {subject}\n")
        .unwrap();
    let mut command = portray(dir.path());
    let clip = clip.path().display();
    let line = format!("{LINE} --lora {{F}}/sd2.lora-kohya.safetensors=0,8 --prompts p.txt --clip {clip} --out ev");
    command.args(words(&line)).args(["--prompt", "a sks <cat>", "--class-prompt", "a cat"]);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(stdout(&output), "ev/report.html\n");
    for said in ["sees colours alone", "warning: photos/again.png shows the same as photos/1.png"] {
        assert!(stderr(&output).contains(said), "{}", stderr(&output));
    }

    let report = report(dir.path());
    assert_eq!(
        (&report["complete"], &report["seeds"], &report["size"]),
        (&true.into(), &2.into(), &vec![48, 48].into())
    );
    let columns = report["columns"].as_array().unwrap();
    let names: Vec<&str> = columns.iter().map(|column| column["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["base model", "sd2.lora-kohya x 0", "sd2.lora-kohya x 8"]);
    let mean = |column: usize, figure: &str| columns[column]["figures"][figure]["mean"].as_f64();
    for figure in ["DRIFT", "DRIFT_UNRELATED"] {
        assert_eq!(mean(0, figure), None);
        // But for pixels that are rounded the other way.
        let [none, much] = [1, 2].map(|column| mean(column, figure).unwrap());
        assert!(none.abs() < 1e-7 && much > 1e-6, "{figure}: {none} at scale 0, {much} at scale 8");
    }
    assert!((mean(0, "COLOUR").unwrap() - mean(1, "COLOUR").unwrap()).abs() < 1e-5);
    assert!(["COLOUR", "PRES", "DIV"].iter().all(|figure| mean(2, figure).is_some()));
    assert!(report["among_photos"]["COLOUR"]["mean"].as_f64().unwrap() > 0.5);

    let html = std::fs::read_to_string(dir.path().join("ev/report.html")).unwrap();
    for column in columns {
        let images = column["images"].as_array().unwrap();
        // Two prompts and the class, two seeds each, and one of each of four unrelated prompts.
        assert_eq!(images.len(), 10);
        for image in images {
            let file = image["file"].as_str().unwrap();
            assert!(dir.path().join("ev").join(file).is_file(), "{file}");
            assert_eq!(image.get("base").is_some(), column["name"] != "base model");
        }
    }
    check_page(&html, 2 * 10);
    check_prompt_fidelity(dir.path(), &clip.to_string(), &columns[2]);
    refused(dir.path(), &format!("{line} --prompt sks"), 1, &["ev: holds files already", "--force"]);
}

/// CLIP_T of a column is the mean cosine of its images and of the prompts without the identifier, as `embed` embeds them.
fn check_prompt_fidelity(folder: &Path, clip: &str, column: &Value) {
    let images = column["images"].as_array().unwrap().iter().filter(|image| image["role"] == "subject");
    let (mut command, mut prompts) = (portray(folder), Vec::new());
    command.args(["embed", "--vision", clip, "--out", "e.safetensors"]);
    for image in images {
        command.arg(Path::new("ev").join(image["file"].as_str().unwrap()));
        prompts.push(image["prompt"].as_u64().unwrap() as usize);
    }
    assert_eq!(prompts, [0, 0, 1, 1]);
    let output = command.args(["--text", "a cat in the snow", "a photo of the cat and a cat"]).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let file = SafeTensors::open(folder.join("e.safetensors")).unwrap();
    let rows = |name: &str| -> Vec<Vec<f64>> {
        let tensor = file.get(name).unwrap();
        let values = tensor.to_f32().unwrap();
        values.chunks(tensor.shape[1]).map(|row| row.iter().map(|x| f64::from(*x)).collect()).collect()
    };
    let (images, texts) = (rows("images"), rows("texts"));
    let product = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f64>();
    let cosine = |a: &[f64], b: &[f64]| product(a, b) / (product(a, a) * product(b, b)).sqrt();
    let mean = |prompt: usize, text: usize| {
        let own = prompts.iter().zip(&images).filter(|(own, _)| **own == prompt);
        own.map(|(_, image)| cosine(image, &texts[text])).sum::<f64>() / 2.0
    };
    let found = |figures: &Value| figures["figures"]["CLIP_T"]["mean"].as_f64().unwrap();
    for prompt in [0, 1] {
        let found = found(&column["prompts"][prompt]);
        assert!((found - mean(prompt, prompt)).abs() < 1e-6, "prompt {prompt}: {found}");
        assert!((found - mean(prompt, 1 - prompt)).abs() > 1e-4, "the other text would do as well");
    }
    assert!((found(column) - (mean(0, 0) + mean(1, 1)) / 2.0).abs() < 1e-6, "{column}");
}

/// The page loads nothing from elsewhere, and says in words what each image shows.
fn check_page(html: &str, cards: usize) {
    assert_eq!(html.matches("<article").count(), cards);
    let images: Vec<&str> = html.split("<img ").skip(1).map(|rest| rest.split('>').next().unwrap()).collect();
    assert!(images.len() >= 2 * cards);
    for image in images {
        assert!(image.contains("src=\"data:image/jpeg;base64,") && image.contains("alt=\""), "{image:.80}");
        assert!(!image.contains("alt=\"\""), "{image:.80}");
    }
    for svg in html.split("<svg ").skip(1) {
        assert!(svg.starts_with("class=\"plot\"") && svg.split('>').next().unwrap().contains("aria-label=\""));
    }
    for outside in ["http://", "https://", "<script", "<link", "@import", "url(", "<cat>"] {
        assert!(!html.contains(outside), "{outside}");
    }
    assert!(html.contains("a sks &lt;cat&gt; in the snow"));
}

#[cfg(unix)]
#[test]
fn what_was_made_before_ctrl_c_is_reported() {
    let dir = tempfile::tempdir().unwrap();
    photos(dir.path(), 1);
    let dino = "--vision {F}/../vision/dino";
    let line = format!("{LINE} --lora {{F}}/sd2.lora-kohya.safetensors --prompt sks --out ev --force");
    // An earlier evaluation, of another LoRA, and what a user put beside its images.
    let at = |name: &str| dir.path().join("ev").join(name);
    std::fs::create_dir_all(at("images/01-old")).unwrap();
    let named = ["images/01-old/01-0.png", "images/01-old/../../mine.png", "mine.png"];
    named.iter().for_each(|name| std::fs::write(at(name), "x").unwrap());
    std::fs::write(at("images/01-old/note.txt"), "x").unwrap();
    let images = named.map(|file| serde_json::json!({"file": file}));
    std::fs::write(at("report.json"), serde_json::json!({"columns": [{"images": images}]}).to_string()).unwrap();
    // Without anything to compare, nothing is left, and what was there stays.
    let before = listing(dir.path());
    let (lines, _) = interrupted(dir.path(), &line, |said| said["event"] == "picture");
    let last = lines.last().unwrap();
    assert!(last["kind"] == "interrupted" && last["done"].as_u64().unwrap() <= 6, "{last}");
    assert_eq!(listing(dir.path()), before);

    let made = std::cell::Cell::new(0);
    // Without a class prompt: two images of the subject and four of unrelated prompts.
    let (lines, _) = interrupted(dir.path(), &format!("{line} {dino}"), |said| {
        made.set(made.get() + usize::from(said["event"] == "picture"));
        made.get() == 7
    });
    let report = report(dir.path());
    let columns = report["columns"].as_array().unwrap();
    let images: Vec<usize> = columns.iter().map(|column| column["images"].as_array().unwrap().len()).collect();
    let images = images[0] + images[1];
    let pictures: Vec<u64> =
        lines.iter().filter(|l| l["event"] == "picture").map(|l| l["index"].as_u64().unwrap()).collect();
    assert_eq!(pictures, (0..images as u64).collect::<Vec<_>>());
    assert!((7..12).contains(&images) && report["complete"] == false, "{images}");
    assert_eq!(report["among_photos"], serde_json::json!({}), "one photo alone");
    assert!(report["notes"].to_string().contains("one photo alone"), "{}", report["notes"]);
    assert_eq!(report["judges"]["likeness"], "dino (ViTModel)");
    // The base model's figures are over the same images as the LoRA's.
    for column in columns {
        assert_eq!(column["counted"].as_u64(), Some(images as u64 - 6), "{column}");
    }
    let counts = [0, 1].map(|i| columns[i]["figures"]["DINO"]["count"].as_u64().unwrap());
    assert!(counts[0] == counts[1] && counts[0] <= 2, "{counts:?}");
    assert!(report["notes"][0].as_str().unwrap().contains(&format!("over {} of 6 images", images - 6)), "{report}");
    let table = lines.iter().find(|said| said["event"] == "evaluation").expect("a table");
    assert_eq!(table["columns"].as_array().unwrap().len(), 2);
    let last = lines.last().unwrap();
    assert_eq!((&last["kind"], &last["done"], &last["total"]), (&"interrupted".into(), &images.into(), &12.into()));
    // Of the earlier evaluation nothing is left, of the user's all.
    assert!(!at(named[0]).exists() && at("mine.png").is_file() && at("images/01-old/note.txt").is_file());
    assert!(
        lines
            .iter()
            .any(|said| said["text"].as_str().is_some_and(|text| text.starts_with("removed 1 image of the earlier")))
    );
}

#[test]
fn what_cannot_be_evaluated_is_said_before_the_first_step() {
    let dir = tempfile::tempdir().unwrap();
    photos(dir.path(), 1);
    std::fs::write(dir.path().join("p.txt"), "a {subject}\na {subjects} b\n").unwrap();
    let lora = "--lora {F}/sd2.lora-kohya.safetensors";
    let cases = [
        (format!("{LINE} {lora} --prompt sks --prompts p.txt"), 1, "p.txt: line 2: unknown placeholder {subjects}"),
        (format!("{LINE} {lora} --prompt sks --prompts live"), 1, "dreambooth-live, dreambooth-objects"),
        (format!("{LINE} {lora} --prompt sks --prompts dreambooth-cats"), 1, "dreambooth-cats"),
        (format!("{LINE} {lora}"), 2, "--prompt"),
        (format!("{LINE} --prompt sks"), 2, "--lora, or the model before its fine-tune as --base"),
        (format!("{LINE} {lora} --prompt sks --vision {{F}}/sd2"), 1, "sd2"),
        (
            format!("{LINE} {lora} --prompt sks --clip {{F}}/../vision/dino"),
            2,
            "expected a CLIP model with its text side",
        ),
        (format!("{LINE} {lora} --prompt sks --out photos"), 2, "--photos"),
        (format!("{LINE} {lora}=1,0.5,1 --prompt sks"), 2, "sd2.lora-kohya.safetensors=1: is given twice"),
        (format!("{LINE} {lora}=1,x --prompt sks"), 2, "separated by commas"),
        (format!("{LINE} --lora p.txt --prompt sks"), 1, "p.txt"),
        ("evaluate --photos none --lora x --prompt sks".into(), 1, "none"),
        ("evaluate --lora x --prompt sks".into(), 2, "--photos"),
    ];
    for (line, code, named) in cases {
        refused(dir.path(), &line, code, &[named]);
    }
}
