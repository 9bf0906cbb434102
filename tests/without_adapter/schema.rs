//! One schema: `web/portray.d.ts` and `docs/json.md` have the fields that the library serializes, and options are called in
//! messages as they are called in their types.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use portray::low_level::diffusion::SamplerKind;
use portray::low_level::io::{Checkpoint, LoraFile};
use portray::low_level::pipeline::SamplingOptions;
use portray::{
    Error, EvaluateOptions, EvaluationReport, Event, GenerateOptions, IdentifyOptions, LoraReport, ModelOptions,
    ModelReport, Phase, Picture, PlanReport, StepReport, TrainOptions,
};
use serde_json::{Value, json};

type Names = BTreeSet<String>;

const TYPES: &str = include_str!("../../web/portray.d.ts");

fn names<const N: usize>(names: [&str; N]) -> Names {
    names.into_iter().map(str::to_owned).collect()
}

/// The fields of a JSON object but its tag.
fn keys(value: &Value) -> Names {
    value.as_object().unwrap().keys().filter(|key| *key != "event").cloned().collect()
}

fn phases() -> Vec<Phase> {
    let making = Phase::MakingClassImages { count: 3, prompt: "a dog".into() };
    let mut all = vec![Phase::DetectingPrediction, Phase::EncodingPrompts, Phase::EncodingImages, making];
    all.extend([
        Phase::LoadingModel,
        Phase::Sampling,
        Phase::Decoding,
        Phase::MeasuringWords,
        Phase::Training,
        Phase::Measuring,
    ]);
    all
}

/// One event of each kind, with every field that it can have.
fn events() -> BTreeMap<String, Value> {
    let (prompt, parameters) = ("a cat".to_owned(), "a cat".to_owned());
    let picture = Picture { index: 0, prompt, seed: 7, width: 8, height: 8, rgb: vec![0; 192], parameters };
    let step = StepReport { step: 0, steps: 9, loss: 0.5, instance: 0.25, prior: Some(0.25), grad_norm: 2.0, lr: 1e-3 };
    let evaluation = EvaluationReport {
        step: 3,
        likeness: Some(0.5),
        likeness_error: Some(0.1),
        prompt_fidelity: Some(0.9),
        score: Some(0.25),
        best: Some(3),
        ..EvaluationReport::default()
    };
    let all = [
        Event::Phase(Phase::Sampling),
        Event::Note("a".into()),
        Event::Warning("b".into()),
        Event::Progress { unit: "step", done: 1, total: 2 },
        Event::Compiling { done: 1, total: 2 },
        Event::Preview { index: 0, step: 1, steps: 2, width: 1, height: 1, rgb: vec![0; 3] },
        Event::Picture(picture.clone()),
        Event::Step(step),
        Event::Sample { step: 3, picture },
        Event::Evaluation(evaluation),
        Event::Saved("x".into()),
    ];
    let tagged = |event: &Event| {
        let value = serde_json::to_value(event).unwrap();
        (value["event"].as_str().unwrap().to_owned(), value)
    };
    all.iter().map(tagged).collect()
}

/// `classPrompt` as `class_prompt`.
fn snake(name: &str) -> String {
    let part = |c: char| if c.is_ascii_uppercase() { format!("_{}", c.to_ascii_lowercase()) } else { c.to_string() };
    name.chars().map(part).collect()
}

/// `text` without its comments.
fn uncommented(text: &str) -> String {
    let mut parts = text.split("/*");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |all, part| all + part.split_once("*/").map_or("", |(_, rest)| rest))
}

/// What is between the first brace of `text` and its partner.
fn braced(text: &str) -> &str {
    let start = text.find('{').unwrap() + 1;
    let mut depth = 1;
    for (at, c) in text[start..].char_indices() {
        depth += i32::from(c == '{') - i32::from(c == '}');
        if depth == 0 {
            return &text[start..start + at];
        }
    }
    panic!("no closing brace")
}

/// Fields of an object type with their types, in snake case.
fn fields(body: &str) -> BTreeMap<String, String> {
    let (mut depth, mut statement, mut statements) = (0, String::new(), Vec::new());
    for c in body.chars() {
        depth += i32::from("{(".contains(c)) - i32::from("})".contains(c));
        if c == ';' && depth == 0 {
            statements.push(std::mem::take(&mut statement));
        } else {
            statement.push(c);
        }
    }
    statements.push(statement);
    let field = |statement: &String| {
        let (name, kind) = statement.split_once(':')?;
        Some((snake(name.trim().trim_end_matches('?')), kind.trim().to_owned()))
    };
    statements.iter().filter_map(field).collect()
}

fn interface(name: &str) -> BTreeMap<String, String> {
    let text = uncommented(TYPES);
    fields(braced(text.split(&format!("interface {name} ")).nth(1).unwrap()))
}

fn literals(kind: &str) -> Vec<String> {
    kind.split('"').skip(1).step_by(2).map(str::to_owned).collect()
}

/// Names of the fields that `T` takes: what it says of one that it does not.
fn taken<T: serde::de::DeserializeOwned>() -> Names {
    let error = serde_json::from_value::<T>(json!({"?": 0})).err().unwrap().to_string();
    error.split('`').skip(3).step_by(2).map(str::to_owned).collect()
}

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/golden").join(name)
}

fn reports() -> BTreeMap<&'static str, Value> {
    let checkpoint = Checkpoint::open(golden("sd2")).unwrap();
    let lora = LoraFile::open(golden("sd2.lora-kohya.safetensors"), None).unwrap();
    BTreeMap::from([
        ("plan", serde_json::to_value(PlanReport::default()).unwrap()),
        ("model", serde_json::to_value(ModelReport::of_files(&checkpoint).unwrap()).unwrap()),
        ("lora", serde_json::to_value(LoraReport::new(&lora, Some(&checkpoint.modules()))).unwrap()),
    ])
}

#[test]
fn every_event_has_a_sample() {
    let source = include_str!("../../src/event.rs");
    let body = braced(source.split("pub enum Event ").nth(1).unwrap());
    let variant = |line: &&str| line.starts_with("    ") && line[4..].starts_with(|c: char| c.is_ascii_uppercase());
    let name = |line: &str| line.trim().chars().take_while(char::is_ascii_alphanumeric).collect::<String>();
    let variants: Names = body.lines().filter(variant).map(|line| name(line).to_lowercase()).collect();
    assert_eq!(variants, events().into_keys().collect());
}

#[test]
fn the_page_has_the_events_of_the_library() {
    let text = uncommented(TYPES);
    let mut told: BTreeMap<String, Names> = BTreeMap::new();
    let mut phase = String::new();
    for part in text.split("| {").skip(1).filter(|part| part.trim_start().starts_with("type:")) {
        let mut fields = fields(braced(&format!("{{{part}")));
        phase = fields.get("phase").cloned().unwrap_or(phase);
        for tag in literals(&fields.remove("type").unwrap()) {
            told.insert(tag, fields.keys().cloned().collect());
        }
    }
    // What the page adds to an event, and tells by itself.
    let added = names(["image", "png", "texture"]);
    for own in ["done", "checkpoint", "paused", "storage"] {
        assert!(told.remove(own).is_some(), "{own}");
    }
    for (tag, event) in events() {
        match told.remove(&tag) {
            Some(fields) => assert_eq!(&fields - &added, keys(&event), "{tag}"),
            None => assert_eq!(tag, "saved"),
        }
    }
    assert!(told.is_empty(), "{told:?}");
    let codes: Names = phases().iter().map(|phase| phase.code().to_owned()).collect();
    assert_eq!(literals(&phase).into_iter().collect::<Names>(), codes);
}

#[test]
fn the_page_has_the_reports_of_the_library() {
    let reports = reports();
    for (name, report, added) in
        [("Plan", "plan", None), ("ModelInfo", "model", Some("name")), ("LoraInfo", "lora", Some("name"))]
    {
        let mut fields: Names = interface(name).into_keys().collect();
        assert!(added.is_none_or(|added| fields.remove(added)));
        assert_eq!(fields, keys(&reports[report]), "{name}");
    }
    let row = &interface("Plan")["rows"];
    assert_eq!(fields(braced(row)).into_keys().collect::<Names>(), names(["what", "bytes"]));
}

#[test]
fn the_page_has_the_options_of_the_library() {
    let (generate, train) = (interface("GenerateJob"), interface("TrainJob"));
    let own = |fields: &BTreeMap<String, String>| fields.keys().cloned().collect::<Names>();
    let taken_here = &taken::<GenerateOptions>() | &taken::<SamplingOptions>();
    assert_eq!(&own(&generate) - &taken_here, names(["prompt", "texture"]));
    assert_eq!(&taken_here - &own(&generate), names(["keep_latents", "model", "prompts", "sampling"]));
    assert_eq!(&own(&train) - &taken::<TrainOptions>(), names(["name"]));
    // What the page does by itself, or not at all.
    let left = ["class_images", "force", "format", "init_lora", "method", "model", "out", "replay", "resume"];
    assert_eq!(&taken::<TrainOptions>() - &own(&train), names(left));
    let text = uncommented(TYPES);
    let load = fields(braced(text.split(" load(").nth(1).unwrap()));
    assert_eq!(&taken::<ModelOptions>() - &own(&load), names(["memory", "model", "unet", "vae"]));
    // Values are called as they are, too.
    let mut seen = 0;
    for (field, kind) in generate.iter().chain(&train) {
        for value in literals(kind) {
            let given = json!({field: value});
            let sampling = serde_json::from_value::<SamplingOptions>(given.clone()).is_ok();
            assert!(sampling || serde_json::from_value::<TrainOptions>(given.clone()).is_ok(), "{given}");
            seen += 1;
        }
    }
    assert!(seen > 20, "{seen}");
    let samplers: Vec<&str> = SamplerKind::ALL.iter().map(|kind| kind.name()).collect();
    assert_eq!(literals(&generate["sampler"]), samplers);
}

#[test]
fn the_page_has_the_kinds_of_errors() {
    let errors = [
        Error::argument("x"),
        Error::file("x", "y"),
        Error::op("x", "y"),
        Error::limit("x"),
        Error::Device("x".into()),
        Error::Diverged { step: 1 },
        Error::interrupted(),
        Error::Internal("x".into()),
    ];
    let text = uncommented(TYPES);
    let class = fields(braced(text.split("class PortrayError ").nth(1).unwrap()));
    let mut kinds: Names = literals(&class["kind"]).into_iter().collect();
    assert!(kinds.remove("storage") && kinds.remove("unsupported"), "the page's own");
    assert_eq!(kinds, errors.iter().map(|error| error.kind().to_owned()).collect());
}

fn sources(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => sources(&path, files),
            false => files.push(path),
        }
    }
}

#[test]
fn options_are_called_by_their_fields() {
    let mut known = &taken::<GenerateOptions>() | &taken::<SamplingOptions>();
    known = &(&known | &taken::<TrainOptions>()) | &taken::<ModelOptions>();
    known = &(&known | &taken::<EvaluateOptions>()) | &taken::<IdentifyOptions>();
    known.extend(names(["adapter", "dump", "input", "latents_out", "pictures", "text"]));
    let mut seen = 0;
    let mut files = Vec::new();
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut files);
    for path in files {
        let text = std::fs::read_to_string(&path).unwrap();
        let text = text.split("#[cfg(test)]").next().unwrap_or_default().to_owned();
        for call in ["option(\"", "Error::usage(\"", "Error::value(\"", "Error::usage(\n", "Error::value(\n"] {
            for part in text.split(call).skip(1) {
                let name = part.trim_start().trim_start_matches('"').split('"').next().unwrap_or_default();
                // The documentation of messages has examples.
                let example = path.to_string_lossy().contains("error");
                assert!(known.contains(name) || example, "{}: {name}", path.display());
                seen += 1;
            }
        }
    }
    assert!(seen > 100, "{seen}");
}

#[test]
fn the_documented_lines_are_of_the_schema() {
    let text = include_str!("../../docs/json.md");
    let mut known: BTreeMap<String, Names> = events().iter().map(|(tag, event)| (tag.clone(), keys(event))).collect();
    known.extend(reports().iter().map(|(tag, report)| ((*tag).to_owned(), keys(report))));
    known.get_mut("plan").unwrap().insert("adapter".into());
    known.get_mut("lora").unwrap().insert("foreign".into());
    let mut optional = names(["prior", "matched", "unmatched", "mismatched", "foreign"]);
    optional.extend(names(["likeness", "likeness_error", "prompt_fidelity", "score", "best"]));
    let mut seen = Names::new();
    for block in text.split("```json\n").skip(1) {
        for line in block.split("```").next().unwrap_or_default().lines() {
            let value: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
            let tag = value["event"].as_str().unwrap_or_default();
            if let Some(expected) = known.get(tag) {
                assert_eq!(&keys(&value) - &optional, expected - &optional, "{line}");
                assert!(keys(&value).is_subset(expected), "{line}");
            }
            seen.insert(tag.to_owned());
        }
    }
    let missing: Vec<_> = known.into_keys().filter(|tag| !seen.contains(tag) && tag != "preview").collect();
    assert!(missing.is_empty(), "without a line: {missing:?}");
    assert!(seen.contains("error") && seen.contains("adapter") && seen.contains("done"));
}

#[test]
fn the_reader_of_types_can_fail() {
    let text = "interface A { one: number; twoThree?: { x: \"a;b\" }; four: (x: number) => void }";
    let expected = names(["one", "two_three", "four"]);
    assert_eq!(fields(braced(text)).into_keys().collect::<Names>(), expected);
    assert_eq!(uncommented("a /* b: c; */ d"), "a  d");
    assert_eq!(literals("\"a\" | \"b\""), ["a", "b"]);
    assert!(taken::<ModelOptions>().contains("dtype"));
}
