//! LoRA files of other tools, and LoRAs that a training begins with.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use portray::error::Message;
use portray::low_level::generate::plan_generate;
use portray::low_level::gpu::{AdapterClass, Caps};
use portray::low_level::io::{
    Checkpoint, LoraFile, LoraModule, ModelModules, ModuleKey, PartId, SafeTensors, Tensor, write_safetensors,
};
use portray::low_level::train::plan_train;
use portray::{
    Engine, EngineOptions, Event, Flow, GenerateOptions, LoraArg, LoraFormat, Method, Model, ModelOptions, Targets,
    TrainOptions,
};

use crate::support::{fixtures, run, stdout};

fn golden(name: &str) -> PathBuf {
    fixtures().join(name)
}

fn sd15() -> ModelModules {
    Checkpoint::open(golden("sd15")).unwrap().modules()
}

fn kohya() -> LoraFile {
    LoraFile::open(golden("sd15.lora-kohya.safetensors"), None).unwrap()
}

/// Largest distance between what two files add; infinite where they change different layers.
fn apart(a: &LoraFile, b: &LoraFile) -> f32 {
    if a.modules.keys().ne(b.modules.keys()) {
        return f32::INFINITY;
    }
    let deltas = a.modules.values().zip(b.modules.values()).map(|(x, y)| (x.delta(), y.delta()));
    deltas.flat_map(|(x, y)| x.into_iter().zip(y).map(|(x, y)| (x - y).abs()).collect::<Vec<_>>()).fold(0.0, f32::max)
}

/// Where the original code has the attentions of the fixture's SD 1 model, of one residual block a resolution.
const ORIGINAL: [(&str, &str); 7] = [
    ("down_blocks.0.attentions.0", "input_blocks.1.1"),
    ("down_blocks.1.attentions.0", "input_blocks.3.1"),
    ("mid_block.attentions.0", "middle_block.1"),
    ("up_blocks.1.attentions.0", "output_blocks.2.1"),
    ("up_blocks.1.attentions.1", "output_blocks.3.1"),
    ("up_blocks.2.attentions.0", "output_blocks.4.1"),
    ("up_blocks.2.attentions.1", "output_blocks.5.1"),
];

fn original(path: &str) -> String {
    let (ours, theirs) = ORIGINAL.iter().find(|(ours, _)| path.starts_with(ours)).unwrap();
    path.replacen(ours, theirs, 1)
}

/// Writes the fixture's LoRA with the names that `named` gives the layers, and the endings `down` and `up`.
fn written(path: &Path, [down, up]: [&str; 2], alpha: bool, named: &dyn Fn(&str) -> String, more: &[Tensor<'_>]) {
    let lora = kohya();
    let mut tensors: Vec<Tensor<'_>> = more.to_vec();
    for (key, module) in &lora.modules {
        let name = named(&key.path);
        tensors.push(Tensor::f32(format!("{name}{down}"), &module.down.shape, &module.down.data));
        tensors.push(Tensor::f32(format!("{name}{up}"), &module.up.shape, &module.up.data));
        if alpha {
            tensors.push(Tensor::f32(format!("{name}.alpha"), &[], &[3.0]));
        }
    }
    write_safetensors(path, &tensors, &BTreeMap::new()).unwrap();
}

const ENDS: [&str; 2] = [".lora_down.weight", ".lora_up.weight"];
const PEFT: [&str; 2] = [".lora_A.weight", ".lora_B.weight"];
const PEFT_NAMED: [&str; 2] = [".lora_A.default.weight", ".lora_B.default.weight"];

/// What a tool is called, the ends of its factors' names, and what it makes of a layer's path.
type Naming<'a> = (&'a str, [&'a str; 2], &'a dyn Fn(&str) -> String);

/// Names of other tools and what wrappers leave in them are the layers that they stand for, with the model and without.
fn read_alike(layout: char, cases: &[Naming<'_>]) {
    let (dir, model, expected) = (tempfile::tempdir().unwrap(), sd15(), kohya());
    let path = dir.path().join("x.safetensors");
    for (what, ends, named) in cases {
        written(&path, *ends, true, named, &[]);
        for known in [Some(&model), None] {
            let lora = LoraFile::open(&path, known).unwrap();
            assert_eq!((apart(&lora, &expected), lora.rank()), (0.0, 3), "{what}");
            assert_eq!(lora.layout.map(|layout| layout.letter()), Some(layout), "{what}");
            let report = lora.match_report(&model);
            report.check().unwrap();
            assert_eq!((report.matched.len(), report.unmatched.len()), (56, 0), "{what}");
        }
    }
}

#[test]
fn r09_loras_extracted_by_comfyui() {
    read_alike(
        'G',
        &[
            ("original names", ENDS, &|path| format!("diffusion_model.{}", original(path))),
            ("diffusers' names", ENDS, &|path| format!("diffusion_model.{path}")),
            ("PEFT's ends", PEFT, &|path| format!("diffusion_model.{}", original(path))),
            ("a checkpoint's prefix", PEFT_NAMED, &|path| format!("model.diffusion_model.{}", original(path))),
        ],
    );
    read_alike('E', &[("flattened", ENDS, &|path| format!("lora_unet_{}", original(path).replace('.', "_")))]);
    let dir = tempfile::tempdir().unwrap();
    written(&dir.path().join("x.safetensors"), ENDS, true, &|path| format!("diffusion_model.{}", original(path)), &[]);
    let said = stdout(&run(dir.path(), "inspect x.safetensors --model {F}/sd15"));
    assert!(said.contains("G (ComfyUI, OneTrainer)") && said.contains("56 layers"), "{said}");
    assert!(said.lines().any(|line| line.contains("rank") && line.ends_with('3')), "{said}");
}

#[test]
fn r23_wrappers_in_the_names() {
    read_alike(
        'C',
        &[
            ("torch.compile", PEFT, &|path| format!("unet._orig_mod.{path}")),
            ("compiled layers", PEFT, &|path| format!("unet.{}", path.replace(".attn", "._orig_mod.attn"))),
            ("data parallel", PEFT, &|path| format!("module.{path}")),
            ("PEFT's inner layer", PEFT, &|path| format!("unet.{path}.base_layer")),
        ],
    );
    let compiled = |path: &str| format!("lora_unet__orig_mod_{}", path.replace('.', "_"));
    read_alike('E', &[("kohya, compiled", ENDS, &compiled)]);
}

#[test]
fn n16_pefts_prefix_behind_the_parts_name() {
    read_alike(
        'D',
        &[
            ("behind", PEFT, &|path| format!("unet.base_model.model.{path}")),
            ("before", PEFT, &|path| format!("base_model.model.unet.{path}")),
        ],
    );
}

#[test]
fn kind_the_state_of_a_diffusers_model() {
    const STATE: [&str; 2] = [".lora_layer.down.weight", ".lora_layer.up.weight"];
    read_alike(
        'H',
        &[("of the UNet", STATE, &str::to_owned), ("with its name", STATE, &|path| format!("unet.{path}"))],
    );
}

#[test]
fn kind_onetrainers_names_and_what_lies_beside() {
    let onetrainer = |path: &str| format!("unet.{}", original(path));
    read_alike('G', &[("its own", ENDS, &onetrainer), ("lora_unet.", ENDS, &|path| format!("lora_unet.{path}"))]);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.safetensors");
    let embedding = Tensor::f32("bundle_emb.sks.clip_l", &[2, 36], &[0.5; 72]);
    let extra = ["lora_down", "lora_up"]
        .map(|end| Tensor::f32(format!("unet.input_blocks.9.1.proj_in.{end}.weight"), &[1, 1], &[1.0]));
    written(&path, ENDS, true, &onetrainer, &[embedding, extra[0].clone(), extra[1].clone()]);
    // What is left out is counted and named.
    let mut said = String::new();
    let options = ModelOptions { model: Some(golden("sd15")), ..Default::default() };
    let loras = [LoraArg { path, scale: 1.0 }];
    Model::open(&options, &loras, &mut |event| {
        if let Event::Note(text) | Event::Warning(text) = event {
            said += &format!("{text}\n");
        }
        Flow::Continue
    })
    .unwrap();
    assert!(said.contains("56 layers") && said.contains("bundle_emb.sks.clip_l (an embedding"), "{said}");
    assert!(said.contains("input_blocks.9.1.proj_in"), "{said}");
}

/// A file of factors of size 2 x 2 for `names`; the first one's input is `width`.
fn small(path: &Path, names: &[&str], width: usize) {
    let values = vec![0.5f32; 2 * width];
    let tensors: Vec<_> = names
        .iter()
        .flat_map(|name| {
            [
                Tensor::f32(format!("{name}.lora_down.weight"), &[2, width], &values),
                Tensor::f32(format!("{name}.lora_up.weight"), &[2, 2], &values[..4]),
            ]
        })
        .collect();
    write_safetensors(path, &tensors, &BTreeMap::new()).unwrap();
}

#[test]
fn kind_whose_lora_it_is_from_sizes_not_from_spellings() {
    let (dir, model) = (tempfile::tempdir().unwrap(), sd15());
    let path = dir.path().join("x.safetensors");
    let keys = "transformer_blocks.0.attn2.to_k";
    for (name, width, family) in [
        (format!("diffusion_model.input_blocks.4.1.{keys}"), 768, "Stable Diffusion 1.x (cross-attention width 768)"),
        (
            format!("diffusion_model.output_blocks.4.1.{keys}"),
            1024,
            "Stable Diffusion 2.x (cross-attention width 1024)",
        ),
        (format!("diffusion_model.input_blocks.4.1.{keys}"), 2048, "Stable Diffusion XL (cross-attention width 2048)"),
        (format!("unet.down_blocks.1.attentions.0.{keys}"), 2048, "Stable Diffusion XL (cross-attention width 2048)"),
        (format!("diffusion_model.middle_block.1.{keys}"), 1280, "Stable Diffusion XL's refiner"),
        ("diffusion_model.input_blocks.4.1.transformer_blocks.1.ff.net.2".into(), 2, "Stable Diffusion XL"),
        ("text_encoders.clip_g.transformer.text_model.encoder.layers.0.mlp.fc1".into(), 2, "Stable Diffusion XL"),
        ("diffusion_model.double_blocks.0.img_attn.qkv".into(), 2, "Flux"),
        ("diffusion_model.joint_blocks.0.x_block.attn.qkv".into(), 2, "Stable Diffusion 3"),
        (
            "clip_l.text_model.encoder.layers.0.self_attn.q_proj".into(),
            1024,
            "Stable Diffusion 2.x (text encoder width",
        ),
    ] {
        small(&path, &[&name], width);
        let lora = LoraFile::open(&path, None).unwrap();
        assert!(lora.made_for().is_some_and(|found| found.starts_with(family)), "{name}: {:?}", lora.made_for());
        let error = lora.match_report(&model).check().unwrap_err().to_string();
        assert!(error.contains("LoRA of another model") && error.contains(family), "{error}");
    }
    // Names of no known layout are said to be that, and nothing is guessed.
    for name in ["diffusion_model.encoder.stage.0.proj", "unet.blocks.3.attention.query", "foo.bar"] {
        small(&path, &[name], 2);
        let error = LoraFile::open(&path, Some(&model)).unwrap().match_report(&model).check().unwrap_err().to_string();
        assert!(error.contains("names of no known layout") && error.contains(name), "{error}");
        assert!(!error.contains("made for") && !error.contains("another model"), "{error}");
    }
    // A layer of a model of this width that this model does not have.
    small(&path, &[&format!("unet.up_blocks.7.attentions.0.{keys}")], 36);
    let error = LoraFile::open(&path, Some(&model)).unwrap().match_report(&model).check().unwrap_err().to_string();
    assert!(!error.contains("made for"), "{error}");
}

/// ComfyUI writes differences of norms and biases beside the factors of the rest.
#[test]
fn kind_differences_of_norms_and_biases() {
    let (dir, model) = (tempfile::tempdir().unwrap(), sd15());
    let path = dir.path().join("x.safetensors");
    let values: Vec<f32> = (0..16).map(|i| i as f32 / 8.0).collect();
    let more = [
        Tensor::f32("diffusion_model.input_blocks.1.0.in_layers.0.diff", &[16], &values),
        Tensor::f32("diffusion_model.input_blocks.1.0.in_layers.0.diff_b", &[16], &values),
        Tensor::f32("diffusion_model.input_blocks.1.0.in_layers.2.diff_b", &[16], &values),
    ];
    written(&path, ENDS, false, &|path| format!("diffusion_model.{}", original(path)), &more);
    let lora = LoraFile::open(&path, Some(&model)).unwrap();
    let report = lora.match_report(&model);
    report.check().unwrap();
    assert_eq!((report.matched.len(), report.unmatched.len()), (58, 0));
    let norm = ModuleKey { part: PartId::UNET, path: "down_blocks.0.resnets.0.norm1".into() };
    let (mut factors, mut offsets) = ([1.0; 16], [0.0; 16]);
    assert!(lora.changes[&norm].add_to_weight(&mut factors, 0..16, 1.0));
    assert!(lora.changes[&norm].add_to_bias(&mut offsets, 0..16, 2.0));
    assert!((0..16).all(|i| factors[i] == 1.0 + values[i] && offsets[i] == 2.0 * values[i]));
}

/// The fixture's LoRA with its first layer cut to rank 1 and alpha 0.5, and layers `more`.
fn mixed(path: &Path, more: &[(&str, LoraModule)]) -> LoraFile {
    let mut lora = kohya();
    let first = lora.modules.values_mut().next().unwrap();
    first.down.data.truncate(first.down.data.len() / 3);
    first.up.data = first.up.data.chunks(3).map(|row| row[0]).collect();
    (first.down.shape[0], first.up.shape[1], first.alpha) = (1, 1, Some(0.5));
    for (path, module) in more {
        lora.modules.insert(ModuleKey { part: PartId::UNET, path: (*path).into() }, module.clone());
    }
    lora.write(path, LoraFormat::Peft).unwrap();
    LoraFile::open(path, None).unwrap()
}

fn training(init: &Path, rank: usize) -> TrainOptions {
    let model = ModelOptions { model: Some(golden("sd15")), ..Default::default() };
    TrainOptions { model, rank, init_lora: Some(init.into()), prompt: Some("x".into()), ..TrainOptions::default() }
}

fn planned(job: &TrainOptions) -> Result<String, String> {
    let caps = Caps::webgpu_defaults(AdapterClass::Cpu);
    plan_train(job, &caps).map(|report| Message::join(report.notes, "\n").to_string()).map_err(|e| e.to_string())
}

#[test]
fn r10_more_layers_than_are_trained_are_refused_with_the_options() {
    let all = golden("sd15-all.lora-kohya.safetensors");
    let job = training(&all, 2);
    let error = planned(&job).unwrap_err();
    assert!(error.contains("holds 81 layers") && error.ends_with("give targets all and text_encoder"), "{error}");
    let error = planned(&TrainOptions { text_encoder: true, ..job.clone() }).unwrap_err();
    assert!(error.contains("holds 73 layers") && error.ends_with("give targets all"), "{error}");
    let error = planned(&TrainOptions { targets: Targets::All, ..job.clone() }).unwrap_err();
    assert!(error.contains("holds 8 layers") && error.ends_with("give text_encoder"), "{error}");
    let notes = planned(&TrainOptions { targets: Targets::All, text_encoder: true, ..job }).unwrap();
    assert!(notes.contains("in 137 LoRA layers") && notes.matches("layers").count() == 1, "{notes}");
    // Fewer layers are no reason to stop: the others begin at zero, which is said.
    let few = training(&golden("sd15.lora-kohya.safetensors"), 3);
    let notes = planned(&TrainOptions { targets: Targets::All, ..few }).unwrap();
    assert!(notes.contains("73 layers are not in it and begin at zero"), "{notes}");
}

#[test]
fn r10_mixed_ranks_have_one_answer() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mixed.safetensors");
    mixed(&path, &[]);
    for rank in [1, 2] {
        let error = planned(&training(&path, rank)).unwrap_err();
        assert!(error.ends_with("has layers of rank 3: give rank 3"), "{error}");
    }
    for (rank, lower) in [(3, 1), (4, 56)] {
        let notes = planned(&training(&path, rank)).unwrap();
        assert!(notes.contains(&format!("{lower} layers of lower rank grow to rank {rank}")), "{notes}");
    }
}

/// What it adds is what the trained one adds where nothing is learnt; what cannot be trained is in the result untouched.
#[test]
fn r10_all_of_it_is_in_the_result() {
    let dir = tempfile::tempdir().unwrap();
    let (path, out) = (dir.path().join("mixed.safetensors"), dir.path().join("out.safetensors"));
    let sizes = sd15();
    let factor = |shape: &[usize]| portray::low_level::io::lora_file::Factor {
        shape: shape.to_vec(),
        data: (0..shape.iter().product()).map(|i: usize| (i as f32 * 0.7).sin()).collect(),
    };
    let conv = &sizes.layers[&PartId::UNET]["conv_in"];
    let (down, up) = (factor(&[2, conv[1], 3, 3]), factor(&[conv[0], 2, 1, 1]));
    let given = mixed(&path, &[("conv_in", LoraModule { down, up, alpha: Some(1.0) })]);
    let job = TrainOptions {
        replay: Some(golden("sd15-train/replay.safetensors")),
        prompt: None,
        steps: Some(1),
        lr: Some(1e-12),
        alpha: Some(7.0),
        format: LoraFormat::Kohya,
        out: out.clone(),
        ..training(&path, 5)
    };
    let engine =
        pollster::block_on(Engine::request(&EngineOptions::default())).expect("an adapter: run `cargo xtask test`");
    let mut said = String::new();
    let trained = pollster::block_on(engine.train(&job, &mut |event| {
        if let Event::Note(text) = event {
            said += &format!("{text}\n");
        }
        Flow::Continue
    }));
    trained.unwrap_or_else(|e| panic!("{e}"));
    let result = LoraFile::open(&out, None).unwrap();
    assert_eq!(result.modules.len(), 57);
    let far = apart(&given, &result);
    assert!(far < 1e-5, "{far}");
    let key = ModuleKey { part: PartId::UNET, path: "conv_in".into() };
    assert_eq!(result.modules[&key].down, given.modules[&key].down);
    assert!(said.contains("1 layers that no option trains go into the result as they are"), "{said}");
    // What was added to reach the rank can learn: its first factor is not zero.
    let other = result.modules.iter().find(|(layer, _)| **layer != key).unwrap().1;
    assert_eq!(other.rank(), 5);
    assert!(other.down.data.iter().all(|x| *x != 0.0));
}

#[test]
fn r25_mixed_ranks_survive_every_layout() {
    let dir = tempfile::tempdir().unwrap();
    let given = mixed(&dir.path().join("mixed.safetensors"), &[]);
    for (i, format) in
        [LoraFormat::Diffusers, LoraFormat::Peft, LoraFormat::PeftFolder, LoraFormat::Kohya].into_iter().enumerate()
    {
        let path = dir.path().join(i.to_string());
        given.write(&path, format).unwrap();
        let back = LoraFile::open(&path, Some(&sd15())).unwrap();
        assert!(apart(&given, &back) < 1e-6, "{format:?}");
        let ranks: Vec<usize> = back.modules.values().map(LoraModule::rank).collect();
        assert_eq!((ranks[0], ranks[1]), (1, 3), "{format:?}");
        if format == LoraFormat::Diffusers {
            // The whole factor is in the tensors: nothing is left to a field that a reader may not know.
            let names: Vec<String> = SafeTensors::open(&path).unwrap().names().map(str::to_owned).collect();
            assert!(names.iter().all(|name| !name.ends_with("alpha")));
        }
    }
}

#[test]
fn n16_options_that_do_nothing_are_named() {
    let model = ModelOptions { model: Some(golden("sd15")), ..Default::default() };
    let job = TrainOptions {
        model: model.clone(),
        prompt: Some("x".into()),
        method: Method::Full,
        rank: 8,
        format: LoraFormat::Kohya,
        ..TrainOptions::default()
    };
    let notes = planned(&job).unwrap();
    assert!(notes.contains("method full") && notes.contains("rank, format"), "{notes}");
    let lora = TrainOptions { method: Method::Lora, ..job };
    assert!(!planned(&lora).unwrap().contains("without effect"));
    let caps = Caps::webgpu_defaults(AdapterClass::Cpu);
    let made = GenerateOptions { prompts: vec!["x".into()], model, strength: Some(0.2), ..GenerateOptions::default() };
    let notes = Message::join(plan_generate(&made, &caps).unwrap().notes, "\n").to_string();
    assert!(notes.contains("without init: without effect here: strength"), "{notes}");
}
