//! Models of other tools and ages, whole and damaged.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use portray::engine::{Engine, EngineOptions, Model, plan_generate, plan_train};
use portray::event::{Event, Flow};
use portray::gpu::{AdapterClass, Caps};
use portray::io::{Checkpoint, ClipTokenizer, ElementType, Part, SafeTensors, Source, Tensor, write_safetensors};
use portray::job::{GenerateJob, ModelOptions, SamplingOptions, TrainJob};
use serde_json::{Value, json};

use super::support::{copy, fixtures, works};

#[path = "../../examples/make_model/random_model.rs"]
mod random_model;
use random_model::RandomModel;

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

const FILES: [(Part, &str); 3] = [
    (Part::TextEncoder, "text_encoder/model.safetensors"),
    (Part::Unet, "unet/diffusion_pytorch_model.safetensors"),
    (Part::Vae, "vae/diffusion_pytorch_model.safetensors"),
];

fn caps() -> Caps {
    Caps::webgpu_defaults(AdapterClass::Gpu)
}

fn options(model: &Path) -> ModelOptions {
    ModelOptions { model: Some(model.into()), ..ModelOptions::default() }
}

fn picture(model: &Path) -> GenerateJob {
    let sampling = SamplingOptions { steps: Some(1), width: Some(16), height: Some(16), ..Default::default() };
    GenerateJob { prompts: vec!["a".into()], model: options(model), sampling, ..GenerateJob::default() }
}

fn training(model: &Path) -> TrainJob {
    TrainJob { model: options(model), prompt: Some("a".into()), resolution: Some(16), ..TrainJob::default() }
}

/// What is said of planning pictures with `model`.
fn planned(model: &Path) -> Result<Vec<String>, String> {
    plan_generate(&picture(model), &caps()).map(|plan| plan.notes).map_err(|e| e.to_string())
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
    for part in Part::ALL {
        let (a, b) = (file.part(part), folder.part(part));
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
            assert_eq!(opened.part(Part::TextEncoder).config()["hidden_act"], act);
            // A width that neither generation has: that is a guess, and said.
            let said = opened.notes().join("\n");
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

/// Every tensor that a job reads is missed before it computes, and no other.
#[test]
fn n03_each_tensor_that_a_job_reads_is_looked_for_by_its_plan() {
    let (_dir, model) = golden("sd15");
    for (part, file) in FILES {
        let path = model.join(file);
        let all = stored(&path);
        let names: Vec<&String> = all.iter().map(|t| &t.0).filter(|name| !name.contains("position_ids")).collect();
        // Of layers that are alike a few are enough; each kind of name is among them.
        let step = if part == Part::Vae { 1 } else { (names.len() / 40).max(1) };
        for name in names.into_iter().step_by(step) {
            let rest: Vec<Stored> = all.iter().filter(|t| t.0 != *name).cloned().collect();
            fs::remove_file(&path).unwrap();
            store(&path, &rest, &[]);
            let encoder = part == Part::Vae && (name.starts_with("encoder.") || name.starts_with("quant_conv"));
            let decoder = part == Part::Vae && !encoder;
            let refusals = [
                (plan_generate(&picture(&model), &caps()).err(), !encoder),
                (plan_train(&training(&model), &caps()).err(), !decoder),
            ];
            for (error, read) in refusals {
                match (error.map(|e| e.to_string()), read) {
                    (Some(error), true) => {
                        let short = name.trim_start_matches("text_model.");
                        assert!(error.contains(short) && error.contains("lacks tensor"), "{name}: {error}");
                        assert!(!error.contains("damaged") && !error.contains("is there instead"), "{error}");
                    }
                    (None, false) => {}
                    (error, read) => panic!("{name}, read {read}: {error:?}"),
                }
            }
        }
        fs::remove_file(&path).unwrap();
        store(&path, &all, &[]);
    }
    // A training with samples decodes.
    change(&model.join(FILES[2].1), |t| t.retain(|t| t.0 != "decoder.conv_in.weight"));
    let sampled = TrainJob { sample_prompts: vec!["a".into()], ..training(&model) };
    let error = plan_train(&sampled, &caps()).unwrap_err().to_string();
    assert!(error.contains("lacks tensor 'decoder.conv_in.weight'"), "{error}");
}

/// The jobs themselves refuse before a phase of theirs begins.
#[test]
fn n03_jobs_refuse_before_they_compute() {
    let engine = pollster::block_on(Engine::request(&EngineOptions::default())).unwrap();
    let (dir, model) = golden("sd15");
    let vae = model.join(FILES[2].1);
    let whole = stored(&vae);
    let wrong = |with: &dyn Fn(&mut Vec<Stored>)| {
        let mut tensors = whole.clone();
        with(&mut tensors);
        fs::remove_file(&vae).unwrap();
        store(&vae, &tensors, &[]);
    };
    let mut phases = Vec::new();
    let mut hear = |event: Event| {
        if let Event::Phase(name) = event {
            phases.push(name);
        }
        Flow::Continue
    };
    let decoder = "decoder.conv_in.weight";
    let at = |tensors: &[Stored], name: &str| tensors.iter().position(|t| t.0 == name).unwrap();
    let cases: [(&dyn Fn(&mut Vec<Stored>), &str); 3] = [
        (&|t| t.retain(|t| t.0 != decoder), "lacks tensor 'decoder.conv_in.weight'"),
        (
            &|t| {
                let i = at(t, decoder);
                t[i].2.reverse()
            },
            "by config.json it must be",
        ),
        (
            &|t| {
                let i = at(t, decoder);
                let elements = t[i].2.iter().product();
                (t[i].1, t[i].3) = (ElementType::F8E4M3, vec![0; elements]);
            },
            "is F8_E4M3, which is not read: get the file in F16, BF16 or F32",
        ),
    ];
    for (with, says) in cases {
        wrong(with);
        let error = pollster::block_on(engine.generate(&picture(&model), &mut hear)).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }
    fs::create_dir(dir.path().join("photos")).unwrap();
    super::support::picture(&dir.path().join("photos/a.png"), 16, 16);
    let job = TrainJob {
        images: Some(dir.path().join("photos")),
        out: dir.path().join("out.safetensors"),
        steps: Some(1),
        ..training(&model)
    };
    wrong(&|t| t.retain(|t| t.0 != "encoder.conv_in.weight"));
    let error = pollster::block_on(engine.train(&job, &mut hear)).unwrap_err().to_string();
    assert!(error.contains("lacks tensor 'encoder.conv_in.weight'"), "{error}");
    assert!(phases.is_empty(), "{phases:?}");
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
        assert_eq!(model.part(Part::Unet).config()["sample_size"], 64, "a first-generation model stays as large");
        let said = planned(&file).unwrap().join("\n");
        assert!(said.contains("vp.yaml") && said.contains("--prediction"), "{said}");
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
                said += &text;
            }
            Flow::Continue
        };
        pollster::block_on(engine.open(&options(&file), &[], &mut hear)).unwrap();
        assert!(said.contains(&format!("seems to predict {found}")), "{said}");
        assert!(said.contains(&format!("--prediction {other}")), "{said}");
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
    assert_eq!(ids[..4], [2, 1, 4, 3]);
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
    let unet = opened.part(Part::Unet);
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
        for part in Part::ALL {
            let names = |model: &Checkpoint| model.part(part).names().map(str::to_owned).collect::<Vec<_>>();
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

#[test]
fn r24_eight_bit_floats_are_refused_by_name_before_the_work() {
    let (_dir, model) = golden("sd15");
    change(&model.join(FILES[1].1), |tensors| {
        let tensor = tensors.iter_mut().find(|t| t.0 == "conv_in.weight").unwrap();
        (tensor.1, tensor.3) = (ElementType::F8E5M2, vec![0; tensor.2.iter().product()]);
    });
    says(&model, &[FILES[1].1, "'conv_in.weight'", "F8_E5M2", "get the file in F16, BF16 or F32"], &["damaged"]);
}

#[cfg(unix)]
#[test]
fn n10_a_link_to_what_was_not_downloaded_says_so() {
    let (_dir, model) = golden("sd15");
    let files = [
        "model_index.json",
        "scheduler/scheduler_config.json",
        "unet/config.json",
        "tokenizer/merges.txt",
        FILES[0].1,
        FILES[1].1,
        FILES[2].1,
    ];
    for file in files {
        let (path, aside) = (model.join(file), model.join("aside"));
        fs::rename(&path, &aside).unwrap();
        std::os::unix::fs::symlink("../../blobs/0123abcd", &path).unwrap();
        says(&model, &[file, "not downloaded", "../../blobs/0123abcd"], &["give the one", "has no", "lacks"]);
        fs::remove_file(&path).unwrap();
        fs::rename(&aside, &path).unwrap();
    }
    planned(&model).unwrap();
}

#[test]
fn n16_what_is_no_model_is_told_what_it_is() {
    let (dir, model) = golden("sd15");
    says(&model.join("model_index.json"), &["is one file of a model folder: give the folder"], &["header"]);
    says(&model.join("unet/config.json"), &["is one file of a model folder: give the folder"], &["header"]);
    let unet = model.join(FILES[1].1);
    says(&unet, &["is the UNet alone, in diffusers' layout"], &["damaged"]);
    for (name, bytes, word) in [
        ("a.safetensors", &b"{\"a\": 1}                    "[..], "text, such as JSON"),
        ("b.safetensors", b"\x89PNG\r\n\x1a\n0000000000000", "PNG"),
        ("c.safetensors", b"\x1f\x8b\x08\0\0\0\0\0\0\0\0\0", "gzip"),
        ("d.safetensors", b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        ("e.safetensors", b"", "empty"),
    ] {
        fs::write(dir.path().join(name), bytes).unwrap();
        says(&dir.path().join(name), &[name, word], &["announces", "damaged"]);
    }
    // Shards without their index, and an index without its shards.
    let shard = |i: usize| unet.with_file_name(format!("diffusion_pytorch_model-0000{i}-of-00002.safetensors"));
    fs::copy(&unet, shard(1)).unwrap();
    fs::rename(&unet, shard(2)).unwrap();
    says(&model, &["2 shards", "index", "diffusion_pytorch_model.safetensors.index.json"], &["give the one"]);
    let index = json!({"weight_map": {"conv_in.weight": "diffusion_pytorch_model-00003-of-00003.safetensors"}});
    fs::write(unet.with_extension("safetensors.index.json"), index.to_string()).unwrap();
    says(&model, &["00003-of-00003", "no such file", "index.json names"], &["give the one"]);
    // A whole file beside them is the model's.
    fs::rename(shard(2), &unet).unwrap();
    planned(&model).unwrap();
}

#[test]
fn n19_a_text_encoder_of_another_kind_is_refused() {
    for (file, change) in [
        ("model_index.json", (|v| v["text_encoder"] = json!(["transformers", "T5EncoderModel"])) as fn(&mut Value)),
        ("text_encoder/config.json", |v| v["architectures"] = json!(["T5EncoderModel"])),
        ("text_encoder/config.json", |v| v["model_type"] = json!("t5")),
        ("model_index.json", |v| v["unet"] = json!(["diffusers", "UNetMotionModel"])),
        ("unet/config.json", |v| v["_class_name"] = json!("UNetSpatioTemporalConditionModel")),
        ("model_index.json", |v| v["vae"] = json!(["diffusers", "AutoencoderTiny"])),
        ("vae/config.json", |v| v["_class_name"] = json!("AutoencoderKLTemporalDecoder")),
        ("model_index.json", |v| v["tokenizer"] = json!(["transformers", "T5Tokenizer"])),
    ] {
        let (_dir, model) = golden("sd15");
        json(&model.join(file), change);
        says(&model, &[file, "only", "is supported"], &["lacks", "damaged"]);
    }
    // A scheduler that the index names is the one that diffusers makes.
    let (_dir, model) = golden("sd15");
    json(&model.join("model_index.json"), |v| v["scheduler"][1] = json!("EulerDiscreteScheduler"));
    let said = planned(&model).unwrap().join("\n");
    assert!(said.contains("EulerDiscreteScheduler is used") && said.contains("steps of euler"), "{said}");
}

#[test]
fn kind_reasons_are_true() {
    // Another tool's names, where nearly all are right.
    let (_dir, model) = golden("sd15");
    rename(&model.join(FILES[1].1), |name| name.replace("conv_in.", "conv_inn."));
    says(&model, &["lacks tensor 'conv_in.", "'conv_inn.", "is there instead"], &["config.json", "complete"]);
    // And where none is.
    let (_dir, model) = golden("sd15");
    rename(&model.join(FILES[1].1), |name| format!("x{name}").replace('.', "_"));
    says(&model, &["has none of the", "for example 'x"], &["damaged", "complete"]);
    // A configuration of a deeper model.
    let (_dir, model) = golden("sd15");
    json(&model.join("text_encoder/config.json"), |v| {
        v["num_hidden_layers"] = json!(v["num_hidden_layers"].as_u64().unwrap() + 2);
    });
    says(&model, &["text_encoder", "lacks tensor", "more of", "config.json asks for it"], &["damaged"]);
    // What is there and not read is said.
    let (_dir, model) = golden("sd15");
    change(&model.join(FILES[1].1), |t| t.push(("extra.weight".into(), ElementType::F32, vec![1], vec![0; 4])));
    let said = planned(&model).unwrap().join("\n");
    assert!(said.contains("1 of its tensors are none of the model's") && said.contains("'extra.weight'"), "{said}");
    // A LoRA that was never merged.
    let (_dir, model) = golden("sd15");
    change(&model.join(FILES[1].1), |t| {
        t.push(("mid_block.attentions.0.proj_in.lora_A.default.weight".into(), ElementType::F32, vec![1], vec![0; 4]));
    });
    assert!(planned(&model).unwrap().join("\n").contains("a LoRA that is not merged"));
    // The library's format wants strings; what tools wrote instead costs nothing.
    let header = br#"{"__metadata__":{"epoch":3,"tags":["a"],"none":null}}"#;
    let bytes = [&(header.len() as u64).to_le_bytes()[..], header].concat();
    let file = SafeTensors::from_source(Source::from_bytes("x", bytes)).unwrap();
    assert_eq!((file.metadata()["epoch"].as_str(), file.metadata()["tags"].as_str()), ("3", "[\"a\"]"));
}

#[test]
fn kind_odd_places_are_named() {
    let (dir, model) = golden("sd15");
    fs::remove_file(model.join(FILES[2].1)).unwrap();
    fs::create_dir(model.join(FILES[2].1)).unwrap();
    says(&model, &[FILES[2].1, "is a folder, expected a file"], &["damaged"]);
    let hub = dir.path().join("models--a--b");
    copy(&fixtures().join("sd15"), &hub.join("snapshots/abc"));
    says(&hub, &["hub's cache: give", "snapshots/abc"], &[]);
    fs::write(dir.path().join("x.json"), "{}").unwrap();
    refused(
        dir.path(),
        "generate a --model x.json --out y.png",
        1,
        &["x.json", "is a JSON file", "give a diffusers folder"],
    );
}
