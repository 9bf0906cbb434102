//! Models of other tools and ages, whole and damaged.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use portray::error::Message;
use portray::low_level::generate::plan_generate;
use portray::low_level::gpu::{AdapterClass, Caps};
use portray::low_level::io::{
    Checkpoint, ClipTokenizer, ElementType, PartId, SafeTensors, Source, Tensor, write_safetensors,
};
use portray::low_level::train::plan_train;
use portray::{
    Engine, EngineOptions, Event, Flow, GenerateOptions, Model, ModelOptions, SamplingOptions, TrainOptions,
};
use serde_json::{Value, json};

use super::support::{copy, fixtures, works};
use crate::random_model::RandomModel;

mod refusals;
mod single_files;
mod words;

/// A tensor of a file: name, type, shape, bytes.
type Stored = (String, ElementType, Vec<usize>, Vec<u8>);

fn stored(path: &Path) -> Vec<Stored> {
    let file = SafeTensors::open(path).unwrap();
    file.iter().map(|t| (t.name.to_string(), t.dtype, t.shape.to_vec(), t.bytes().unwrap().to_vec())).collect()
}

fn store(path: &Path, tensors: &[Stored], metadata: &[(&str, &str)]) {
    let tensors: Vec<Tensor> = tensors.iter().map(|(n, t, shape, bytes)| Tensor::raw(n, *t, shape, bytes)).collect();
    let metadata = metadata.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect::<BTreeMap<_, _>>();
    write_safetensors(path, &tensors, &metadata).unwrap();
}

/// Changes the tensors of the file at `path`.
fn change(path: &Path, with: impl FnOnce(&mut Vec<Stored>)) {
    let mut tensors = stored(path);
    with(&mut tensors);
    fs::remove_file(path).unwrap();
    store(path, &tensors, &[]);
}

fn rename(path: &Path, name: impl Fn(&str) -> String) {
    change(path, |tensors| tensors.iter_mut().for_each(|t| t.0 = name(&t.0)));
}

/// A few words for a tokenizer that is opened often: CLIP's own takes a tenth of a second.
fn small_tokenizer(model: &Path) {
    let folder = model.join("tokenizer");
    fs::remove_dir_all(&folder).unwrap();
    fs::create_dir(&folder).unwrap();
    let vocabulary = r#"{"a": 0, "a</w>": 1, "<|startoftext|>": 2, "<|endoftext|>": 3}"#;
    fs::write(folder.join("vocab.json"), vocabulary).unwrap();
    fs::write(folder.join("merges.txt"), "#version: 0.2\n").unwrap();
}

/// A copy of the golden model `name` in a temporary folder.
fn golden(name: &str) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let model = dir.path().join("model");
    copy(&fixtures().join(name), &model);
    small_tokenizer(&model);
    (dir, model)
}

const FILES: [(PartId, &str); 3] = [
    (PartId::TEXT_ENCODER, "text_encoder/model.safetensors"),
    (PartId::UNET, "unet/diffusion_pytorch_model.safetensors"),
    (PartId::VAE, "vae/diffusion_pytorch_model.safetensors"),
];

fn caps() -> Caps {
    Caps::webgpu_defaults(AdapterClass::Gpu)
}

fn options(model: &Path) -> ModelOptions {
    ModelOptions { model: Some(model.into()), ..ModelOptions::default() }
}

fn picture(model: &Path) -> GenerateOptions {
    let sampling = SamplingOptions { steps: Some(1), width: Some(16), height: Some(16), ..Default::default() };
    GenerateOptions { prompts: vec!["a".into()], model: options(model), sampling, ..GenerateOptions::default() }
}

fn training(model: &Path) -> TrainOptions {
    TrainOptions { model: options(model), prompt: Some("a".into()), resolution: Some(16), ..TrainOptions::default() }
}

/// What is said of planning images with `model`.
fn planned(model: &Path) -> Result<Vec<String>, String> {
    let plan = plan_generate(&picture(model), &caps()).map_err(|e| e.to_string())?;
    Ok(plan.notes.iter().map(ToString::to_string).collect())
}

/// A table of message and cause: `make` makes a model wrong, then a plan has to say each of `says`, and none of `never`.
fn says(model: &Path, says: &[&str], never: &[&str]) {
    let error = planned(model).expect_err("a refusal");
    for word in says {
        assert!(error.contains(word), "'{word}' is not in: {error}");
    }
    for word in never {
        assert!(!error.contains(word), "'{word}' is in: {error}");
    }
    assert!(!error.contains('\n'), "{error}");
}

fn json(path: &Path, change: impl FnOnce(&mut Value)) {
    let mut value: Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    change(&mut value);
    fs::write(path, value.to_string()).unwrap();
}

#[test]
fn r01_json_as_python_writes_it_is_read_everywhere() {
    let (_dir, model) = golden("sd15");
    let scheduler = model.join("scheduler/scheduler_config.json");
    let text = r#"{"_class_name": "DPMSolverMultistepScheduler", "beta_start": 0.00085, "beta_end": 0.012,
        "beta_schedule": "scaled_linear", "lambda_min_clipped": -Infinity, "note": "-Infinity, NaN"}"#;
    fs::write(&scheduler, text).unwrap();
    json(&model.join("model_index.json"), |index| index["scheduler"][1] = json!("DPMSolverMultistepScheduler"));
    let notes = planned(&model).unwrap();
    assert!(notes.iter().any(|note| note.contains("dpm++2m")), "{notes:?}");
    for file in ["model_index.json", "unet/config.json", "vae/config.json", "text_encoder/config.json"] {
        let text = fs::read_to_string(model.join(file)).unwrap();
        let changed = format!("\u{feff}{}", text.trim_start().replacen('{', "{\"extra\": [NaN, -Infinity], ", 1));
        fs::write(model.join(file), changed).unwrap();
    }
    fs::write(model.join("tokenizer/tokenizer_config.json"), "{\"model_max_length\": 77, \"x\": Infinity}").unwrap();
    planned(&model).unwrap();
    // What the words must not stand for is still refused where it is.
    fs::write(&scheduler, "{\"beta_start\": -Infinityy}").unwrap();
    says(&model, &["scheduler_config.json", "not valid JSON", "column"], &[]);
}

#[test]
fn r05_what_a_first_generation_file_predicts_is_said_or_seen() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("vp.safetensors");
    RandomModel::named("tiny-sd1", 5).unwrap().write_file(&file).unwrap();
    let opened = || Checkpoint::open(&file).unwrap();
    assert!(!opened().prediction_known());
    let yaml = dir.path().join("vp.yaml");
    for (text, prediction) in [
        ("model:\n  params:\n    parameterization: \"v\"\n", "v_prediction"),
        ("model: {params: {parameterization: v}}", "v_prediction"),
        ("prediction_type: v_prediction\n", "v_prediction"),
        ("model:\n  target: ldm.models.diffusion.ddpm.LatentDiffusion\n", "epsilon"),
    ] {
        fs::write(&yaml, text).unwrap();
        let model = opened();
        assert!(model.prediction_by().unwrap().ends_with("vp.yaml"), "{text}");
        assert_eq!(model.scheduler()["prediction_type"], prediction, "{text}");
        assert_eq!(
            model.part(PartId::UNET).unwrap().config()["sample_size"],
            64,
            "a first-generation model stays as large"
        );
        let said = planned(&file).unwrap().join("\n");
        assert!(said.contains("vp.yaml") && said.contains("where that is wrong: prediction"), "{said}");
    }
    fs::remove_file(&yaml).unwrap();
    let said = planned(&file).unwrap().join("\n");
    assert!(said.contains("does not say what it predicts"), "{said}");
    let seen = works(dir.path(), "inspect vp.safetensors");
    assert!(super::support::stdout(&seen).contains("not said: seen when it runs"));
    // What the probe takes for a velocity, and what it does not.
    let engine = pollster::block_on(Engine::request(&EngineOptions::default())).unwrap();
    for (shift, found, other) in [(0.0, "noise", "v"), (-3.0, "velocity", "epsilon")] {
        change(&file, |tensors| {
            let bias = tensors.iter_mut().find(|t| t.0 == "model.diffusion_model.out.2.bias").unwrap();
            bias.1 = ElementType::F32;
            bias.3 = [shift as f32; 4].iter().flat_map(|x| x.to_le_bytes()).collect();
        });
        let mut said = String::new();
        let mut hear = |event: Event| {
            if let Event::Note(text) = event {
                said += &text.to_string();
            }
            Flow::Continue
        };
        pollster::block_on(engine.open(&options(&file), &[], &mut hear)).unwrap();
        assert!(said.contains(&format!("seems to predict {found}")), "{said}");
        assert!(said.contains(&format!("where that is wrong: prediction {other}")), "{said}");
    }
}

#[test]
fn r11_a_file_that_is_cut_while_it_is_in_use_is_an_error() {
    let (_dir, model) = golden("sd15");
    let opened = Checkpoint::open(&model).unwrap();
    let path = model.join(FILES[1].1);
    let len = fs::metadata(&path).unwrap().len();
    fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(len / 2).unwrap();
    let unet = opened.part(PartId::UNET).unwrap();
    let errors: Vec<String> = unet.iter().filter_map(|t| t.to_f32().err()).map(|e| e.to_string()).collect();
    assert!(!errors.is_empty() && errors.len() < unet.names().len());
    for error in errors {
        assert!(error.contains(FILES[1].1) && error.contains("cut while it was in use"), "{error}");
    }
    // Opened anew, it says so at once.
    says(&model, &[FILES[1].1, "truncated"], &[]);
}

#[test]
fn r23_wrappers_in_names_are_none_of_the_model() {
    let (dir, model) = golden("sd15");
    let expected = Checkpoint::open(&model).unwrap();
    type Wrap = fn(&str) -> String;
    let wraps: [Wrap; 5] = [
        |name| format!("_orig_mod.{name}"),
        |name| format!("module.{name}"),
        |name| format!("model.module._orig_mod.{name}"),
        |name| name.replace("to_q.", "to_q.base_layer.").replace("q_proj.", "q_proj.base_layer."),
        |name| format!("base_model.model.{}", name.replace("to_k.", "to_k.base_layer.")),
    ];
    for (i, wrap) in wraps.into_iter().enumerate() {
        let wrapped = dir.path().join(format!("wrapped-{i}"));
        copy(&model, &wrapped);
        for (_, file) in FILES {
            rename(&wrapped.join(file), wrap);
        }
        planned(&wrapped).unwrap();
        let opened = Checkpoint::open(&wrapped).unwrap();
        for part in [PartId::TEXT_ENCODER, PartId::UNET, PartId::VAE] {
            let names = |model: &Checkpoint| model.part(part).unwrap().names().map(str::to_owned).collect::<Vec<_>>();
            assert_eq!(names(&opened), names(&expected), "{i} {part}");
        }
        assert_eq!(opened.fingerprint().unwrap(), expected.fingerprint().unwrap());
        // Written again, it has diffusers' names.
        let out = dir.path().join(format!("out-{i}"));
        portray::low_level::io::write_diffusers_folder(&out, &opened, &[]).unwrap();
        for (_, file) in FILES {
            assert!(stored(&out.join(file)).iter().all(|t| !t.0.contains("_orig_mod") && !t.0.contains("base_")));
        }
    }
}
