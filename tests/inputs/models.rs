//! Models of other tools and ages, whole and damaged.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use portray::error::Message;
use portray::gpu::{AdapterClass, Caps};
use portray::io::{Checkpoint, ClipTokenizer, ElementType, PartId, SafeTensors, Source, Tensor, write_safetensors};
use portray::{
    Engine, EngineOptions, Event, Flow, GenerateOptions, Model, ModelOptions, SamplingOptions, TrainOptions,
    plan_generate, plan_train,
};
use serde_json::{Value, json};

use super::support::{copy, fixtures, works};
use crate::random_model::RandomModel;

mod refusals;

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

/// What is said of planning pictures with `model`.
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

/// Tensors of the tiny model `name` in one file, its text encoder's under transformers' names or OpenCLIP's, changed.
fn single(folder: &Path, name: &str, open_clip: bool) -> PathBuf {
    let model = RandomModel::named(name, 5).unwrap();
    let (parts, file) = (folder.join(name), folder.join(format!("{name}-{open_clip}.safetensors")));
    model.write_folder(&parts).unwrap();
    model.write_file(&file).unwrap();
    let text = stored(&parts.join(FILES[0].1));
    change(&file, |tensors| {
        tensors.retain(|t| !t.0.starts_with("cond_stage_model."));
        tensors.extend(if open_clip {
            as_open_clip(&text)
        } else {
            text.iter().cloned().map(|t| (format!("cond_stage_model.transformer.{}", t.0), t.1, t.2, t.3)).collect()
        });
    });
    file
}

/// OpenCLIP's names of a text encoder, queries, keys and values in one.
fn as_open_clip(text: &[Stored]) -> Vec<Stored> {
    let mut out: Vec<Stored> = Vec::new();
    for (name, dtype, shape, bytes) in text {
        let inside = name.trim_start_matches("text_model.");
        let name = match inside.strip_prefix("encoder.layers.") {
            None => match inside {
                "embeddings.token_embedding.weight" => "token_embedding.weight".into(),
                "embeddings.position_embedding.weight" => "positional_embedding".into(),
                other => other.replace("final_layer_norm", "ln_final"),
            },
            Some(rest) => {
                let (layer, rest) = rest.split_once('.').unwrap();
                let rest = [
                    ("layer_norm1", "ln_1"),
                    ("layer_norm2", "ln_2"),
                    ("mlp.fc1", "mlp.c_fc"),
                    ("mlp.fc2", "mlp.c_proj"),
                    ("self_attn.out_proj", "attn.out_proj"),
                ]
                .iter()
                .fold(rest.to_owned(), |rest, (from, to)| rest.replace(from, to));
                format!("transformer.resblocks.{layer}.{rest}")
            }
        };
        out.push((format!("cond_stage_model.model.{name}"), *dtype, shape.clone(), bytes.clone()));
    }
    let find = |out: &[Stored], name: &str| out.iter().find(|t| t.0 == name).cloned().unwrap();
    let queries: Vec<String> = out.iter().map(|t| t.0.clone()).filter(|n| n.contains(".q_proj.")).collect();
    for name in queries {
        let mut whole = find(&out, &name);
        for other in ["k_proj", "v_proj"] {
            whole.3.extend(find(&out, &name.replace("q_proj", other)).3);
        }
        whole.2[0] *= 3;
        whole.0 = name.replace("self_attn.q_proj.", "attn.in_proj_");
        out.push(whole);
    }
    out.retain(|t| !t.0.contains("self_attn."));
    out
}

/// That `file` is the model in `folder`: configurations, padding, and every tensor.
fn is_the_folder(file: &Path, folder: &Path) {
    let [file, folder] = [file, folder].map(|path| Checkpoint::open(path).unwrap());
    for (part, b) in folder.parts() {
        let a = file.part(part).unwrap();
        assert_eq!(a.config().as_object(), b.config().as_object(), "{part}");
        for tensor in b.iter() {
            let same = a.get_shaped(&tensor.name, &tensor.shape).unwrap();
            assert_eq!(same.bytes().unwrap(), tensor.bytes().unwrap(), "{}", tensor.name);
        }
    }
    assert_eq!(file.tokenizer().unwrap().pad(), folder.tokenizer().unwrap().pad());
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
fn r03_a_generation_is_told_by_widths_and_projections() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["tiny-sd1", "tiny-sd2"] {
        for open_clip in [false, true] {
            let file = single(dir.path(), name, open_clip);
            is_the_folder(&file, &dir.path().join(name));
            let opened = Checkpoint::open(&file).unwrap();
            let act = if name == "tiny-sd2" { "gelu" } else { "quick_gelu" };
            assert_eq!(opened.part(PartId::TEXT_ENCODER).unwrap().config()["hidden_act"], act);
            // A width that neither generation has: that is a guess, and said.
            let said = Message::join(opened.notes(), "\n").to_string();
            let taken = if name == "tiny-sd2" { "Stable Diffusion 2.x" } else { "Stable Diffusion 1.x" };
            assert!(said.contains(&format!("taken for {taken}")) && said.contains("give a diffusers folder"), "{said}");
        }
    }
}

const SPELLINGS: [[&str; 4]; 5] = [
    ["q", "k", "v", "proj_out"],
    ["query", "key", "value", "proj_attn"],
    ["to_q", "to_k", "to_v", "to_out.0"],
    ["to_to_q", "to_to_k", "to_to_v", "to_out.0"],
    ["to_q", "to_k", "to_v", "to_out"],
];

#[test]
fn r04_the_autoencoders_attention_has_many_spellings() {
    let dir = tempfile::tempdir().unwrap();
    let model = RandomModel::named("tiny-sd1", 5).unwrap();
    let folder = dir.path().join("folder");
    model.write_folder(&folder).unwrap();
    let own = ["to_q", "to_k", "to_v", "to_out.0"];
    for (i, spelling) in SPELLINGS.iter().enumerate() {
        for flat in [true, false] {
            let path = dir.path().join(format!("{i}-{flat}.safetensors"));
            model.write_file(&path).unwrap();
            change(&path, |tensors| {
                for tensor in tensors.iter_mut().filter(|t| t.0.contains(".attn_1.")) {
                    let (module, leaf) = tensor.0.rsplit_once('.').unwrap();
                    let (front, last) = module.split_once(".attn_1.").unwrap();
                    let at = SPELLINGS[0].iter().position(|name| *name == last);
                    let module = at.map_or(last, |at| spelling[at]);
                    tensor.0 = format!("{front}.attn_1.{module}.{leaf}");
                    if flat && tensor.2.len() == 4 && at.is_some() {
                        tensor.2.truncate(2);
                    }
                }
            });
            is_the_folder(&path, &folder);
        }
        // In a folder alike.
        let path = dir.path().join(format!("folder-{i}"));
        copy(&folder, &path);
        change(&path.join(FILES[2].1), |tensors| {
            for tensor in tensors.iter_mut() {
                if let Some(at) = own.iter().position(|name| tensor.0.contains(&format!(".attentions.0.{name}."))) {
                    tensor.0 = tensor.0.replace(own[at], spelling[at]);
                    if tensor.2.len() == 2 {
                        tensor.2.extend([1, 1]);
                    }
                }
            }
        });
        is_the_folder(&path, &folder);
    }
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
fn r06_words_that_a_model_adds_are_those_of_transformers() {
    let cases: Vec<Value> = serde_json::from_str(include_str!("../fixtures/tokens/added_tokens.json")).unwrap();
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/model/tokenizer");
    let mut wrong = Vec::new();
    for case in &cases {
        let dir = tempfile::tempdir().unwrap();
        for file in ["vocab.json", "merges.txt"] {
            fs::copy(own.join(file), dir.path().join(file)).unwrap();
        }
        for (file, content) in case["files"].as_object().unwrap() {
            fs::write(dir.path().join(file), content.to_string()).unwrap();
        }
        let tokenizer = ClipTokenizer::open(dir.path()).unwrap();
        for prompt in case["prompts"].as_array().unwrap() {
            let text = prompt[0].as_str().unwrap();
            let (ids, pad) = (prompt[1].as_array().unwrap(), prompt[2].as_u64().unwrap() as u32);
            let mut expected = vec![49406];
            expected.extend(ids.iter().map(|id| id.as_u64().unwrap() as u32));
            expected.push(49407);
            expected.resize(77, pad);
            let given = tokenizer.encode(text).unwrap().ids;
            if given != expected {
                let cut = |ids: &[u32]| ids[..12].to_vec();
                wrong.push(format!("{}: '{text}': {:?}, expected {:?}", case["name"], cut(&given), cut(&expected)));
            }
        }
        assert_eq!(!tokenizer.notes().is_empty(), case["name"] == "hole", "{:?}", tokenizer.notes());
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn r06_a_whole_model_keeps_its_words() {
    let (dir, model) = golden("sd15");
    fs::write(model.join("tokenizer/added_tokens.json"), r#"{"<zorp>": 4}"#).unwrap();
    let source = Checkpoint::open(&model).unwrap();
    let out = dir.path().join("out");
    portray::io::write_diffusers_folder(&out, &source, &[]).unwrap();
    assert_eq!(fs::read(out.join("tokenizer/added_tokens.json")).unwrap(), br#"{"<zorp>": 4}"#);
    let mut said = Vec::new();
    let opened = Model::open(&options(&out), &[], &mut |_| Flow::Continue).unwrap();
    let ids = opened
        .tokens("a <zorp>", &mut |event| {
            said.push(format!("{event:?}"));
            Flow::Continue
        })
        .unwrap();
    assert_eq!(ids[0][..4], [2, 1, 4, 3]);
    assert!(said.len() == 1 && said[0].contains("<zorp>"), "{said:?}");
}

#[test]
fn r08_vocabulary_and_merges_may_begin_with_a_mark() {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/model/tokenizer");
    let dir = tempfile::tempdir().unwrap();
    for file in ["vocab.json", "merges.txt", "tokenizer_config.json"] {
        let text = fs::read_to_string(own.join(file)).unwrap();
        fs::write(dir.path().join(file), format!("\u{feff}{text}")).unwrap();
    }
    let ids = |folder: &Path| {
        ClipTokenizer::open(folder).unwrap().encode("a red cat, 12 o'clock").unwrap().ids[1..9].to_vec()
    };
    assert_eq!(ids(dir.path()), ids(&own));
    let merges = fs::read_to_string(own.join("merges.txt")).unwrap();
    let wide: Vec<u8> = std::iter::once(0xfeff).chain(merges.encode_utf16()).flat_map(u16::to_le_bytes).collect();
    fs::write(dir.path().join("merges.txt"), wide).unwrap();
    let error = ClipTokenizer::open(dir.path()).unwrap_err().to_string();
    assert!(error.contains("merges.txt") && error.contains("UTF-16"), "{error}");
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
        portray::io::write_diffusers_folder(&out, &opened, &[]).unwrap();
        for (_, file) in FILES {
            assert!(stored(&out.join(file)).iter().all(|t| !t.0.contains("_orig_mod") && !t.0.contains("base_")));
        }
    }
}

#[test]
fn kind_wrapped_single_files_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let model = RandomModel::named("tiny-sd2", 5).unwrap();
    let folder = dir.path().join("folder");
    model.write_folder(&folder).unwrap();
    type Wrap = fn(&str) -> String;
    let wraps: [Wrap; 4] = [
        |name| format!("_orig_mod.{name}"),
        |name| format!("state_dict.{name}"),
        |name| name.replace("diffusion_model.", "diffusion_model._orig_mod."),
        |name| name.replace("first_stage_model.", "first_stage_model.module."),
    ];
    for (i, wrap) in wraps.into_iter().enumerate() {
        let path = dir.path().join(format!("{i}.safetensors"));
        model.write_file(&path).unwrap();
        rename(&path, wrap);
        is_the_folder(&path, &folder);
        let said = super::support::stdout(&works(dir.path(), &format!("inspect {i}.safetensors")));
        assert!(said.contains("a single-file checkpoint"), "{said}");
    }
}
