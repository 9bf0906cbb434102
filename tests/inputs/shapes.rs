//! Tensors between parts whose sizes are no multiples of what the GPU reads at once, and samplers of models with zero
//! terminal SNR, against PyTorch and diffusers (`tests/fixtures/odd`).

use std::collections::BTreeMap;
use std::path::Path;

use portray::low_level::diffusion::{SamplerOptions, ScheduleConfig, Trajectory};
use portray::low_level::io::{Checkpoint, PartId, Tensor, write_safetensors};
use portray::low_level::ops::oracle::close;
use portray::low_level::tools::{ForwardInputs, ForwardPart, forward};
use portray::{
    Engine, EngineOptions, Event, Flow, GenerateOptions, Latents, LoraFormat, ModelOptions, Picture, SamplerKind,
    SamplingOptions, Spacing, TrainOptions, WeightType,
};
use serde_json::json;

use crate::support::picture;

#[path = "odd_model.rs"]
mod odd_model;
use odd_model::{PROMPTS, SIZE, expected, filled, scheduler, uniform, write};

const SAMPLERS: [&str; 10] =
    ["ddim", "ddpm", "pndm", "euler", "euler-trailing", "euler-a", "dpm++2m", "dpm++2m-karras", "unipc", "lcm"];

fn engine() -> Engine {
    pollster::block_on(Engine::request(&EngineOptions::default())).expect("an adapter: run `cargo xtask test`")
}

fn options(model: &Path) -> ModelOptions {
    ModelOptions { model: Some(model.to_owned()), dtype: WeightType::F32, ..Default::default() }
}

/// A job as the reference values were made: images of `prompts`, with guidance or without.
fn job(model: &Path, prompts: &[&str], sampler: &str, guided: bool, steps: usize) -> GenerateOptions {
    let kind: SamplerKind = sampler.trim_end_matches("-trailing").trim_end_matches("-karras").parse().unwrap();
    GenerateOptions {
        prompts: prompts.iter().map(|p| (*p).to_owned()).collect(),
        model: options(model),
        sampling: SamplingOptions {
            steps: Some(steps),
            guidance: Some(if guided { 5.0 } else { 1.0 }),
            sampler: Some(kind),
            spacing: sampler.ends_with("-trailing").then_some(Spacing::Trailing),
            karras: sampler.ends_with("-karras"),
            seed: 7,
            width: Some(SIZE[0]),
            height: Some(SIZE[1]),
            ..Default::default()
        },
        keep_latents: true,
        ..Default::default()
    }
}

fn latents(engine: &Engine, job: &GenerateOptions) -> Latents {
    let made = pollster::block_on(engine.generate(job, &mut |_: Event| Flow::Continue));
    made.unwrap_or_else(|e| panic!("{e}")).latents.unwrap()
}

fn own(width: usize, folder: &Path) -> std::path::PathBuf {
    write(folder, width, &scheduler("DDIMScheduler", json!({"clip_sample": false, "set_alpha_to_one": false})))
}

/// One to nine prompts, which the text encoder takes eight at a time.
#[test]
fn n18_hidden_states_of_any_width_and_number() {
    let engine = engine();
    for width in 33..=36 {
        let dir = tempfile::tempdir().unwrap();
        let model = options(&own(width, dir.path()));
        let all = expected(&format!("{width}.hidden"));
        let row = 9 * width;
        for count in [1, 2, 9] {
            let prompts = PROMPTS[..count].iter().map(|p| (*p).to_owned()).collect::<Vec<_>>();
            let given = ForwardInputs { model: &model, loras: &[], tensors: None, prompts: &prompts };
            let out = pollster::block_on(forward(&engine, ForwardPart::Text, given)).unwrap();
            assert_eq!(out[0].1, [count, 9, width]);
            close(&out[0].2, &all[..count * row], 1e-4).unwrap_or_else(|e| panic!("{width}, {count} prompts: {e}"));
        }
        let shifted = &all[1..=row];
        assert!(close(&all[..row].iter().map(|x| *x as f32).collect::<Vec<_>>(), shifted, 1e-4).is_err());
    }
}

#[test]
fn n18_latents_of_every_sampler_guided_and_not() {
    let engine = engine();
    let mut wrong = Vec::new();
    for width in 33..=36 {
        let dir = tempfile::tempdir().unwrap();
        let model = own(width, dir.path());
        // All samplers run the same graphs: one width shows the formulas, the others what lies between the parts.
        let samplers = if width == 33 { &SAMPLERS[..] } else { &["ddpm", "euler-trailing", "lcm"] };
        for (name, guided) in samplers.iter().flat_map(|name| [(name, true), (name, false)]) {
            let got = latents(&engine, &job(&model, &["a cat"], name, guided, 4));
            let which = if guided { "guided" } else { "alone" };
            if let Err(e) = close(&got.last, &expected(&format!("{width}.{name}.{which}")), 1e-3) {
                wrong.push(format!("{width} {name} {which}: {e}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The prompt of the reference values as the first, a middle and the last one of nine.
#[test]
fn kind_each_of_several_prompts_is_its_own() {
    let (engine, dir) = (engine(), tempfile::tempdir().unwrap());
    let model = own(33, dir.path());
    for (guided, which) in [(true, "guided"), (false, "alone")] {
        let all = expected(&format!("33.euler.{which}"));
        let mut prompts: Vec<&str> = PROMPTS[1..].to_vec();
        prompts.extend(["dog", "a cat"]);
        let got = latents(&engine, &job(&model, &prompts, "euler", guided, 4));
        for at in [0, prompts.len() - 1] {
            close(&got.last[at * all.len()..][..all.len()], &all, 1e-3).unwrap_or_else(|e| panic!("{which} {at}: {e}"));
        }
        assert!(close(&got.last[all.len()..][..all.len()], &all, 1e-3).is_err(), "another prompt is another image");
    }
}

fn replay(path: &Path, width: usize, ids: bool) {
    let hidden: Vec<f32> = expected(&format!("{width}.hidden")).into_iter().map(|x| x as f32).collect();
    let all_ids: Vec<i64> = expected("ids").into_iter().map(|x| x as i64).collect();
    let mut tensors = Vec::new();
    for (prompt, part) in [(1, "instance"), (2, "prior")] {
        let (row, states) = (&all_ids[prompt * 9..][..9], &hidden[prompt * 9 * width..][..9 * width]);
        tensors.push(match ids {
            true => Tensor::i64(format!("ids.{part}"), &[1, 9], row),
            false => Tensor::f32(format!("context.{part}"), &[1, 9, width], states),
        });
    }
    let batches: Vec<(String, Vec<f32>, Vec<i64>)> = (0..3i64)
        .flat_map(|i| [(i, "instance", 1), (i, "prior", 2)])
        .flat_map(|(i, part, factor)| ["latents", "noise"].map(|what| (i, part, factor, what)))
        .map(|(i, part, factor, what)| {
            let name = format!("{i}.{part}.{what}");
            let values = uniform(&name, 45).into_iter().map(|u| u * 3.0).collect();
            (name, values, vec![137 * (i + 1) * factor % 1000])
        })
        .collect();
    for (name, values, time) in &batches {
        tensors.push(Tensor::f32(name, &[1, 3, 5, 3], values));
        if let Some(stem) = name.strip_suffix("latents") {
            tensors.push(Tensor::i64(format!("{stem}timesteps"), &[1], time));
        }
    }
    write_safetensors(path, &tensors, &BTreeMap::new()).unwrap();
}

fn init_lora(path: &Path, model: &Path, text: bool) {
    let modules = Checkpoint::open(model).unwrap().modules();
    let mut factors = Vec::new();
    for (part, paths, ends) in [
        (PartId::UNET, &modules.layers[&PartId::UNET], &["to_q", "to_k", "to_v", "to_out.0"][..]),
        (PartId::TEXT_ENCODER, &modules.layers[&PartId::TEXT_ENCODER], &["q_proj", "k_proj", "v_proj", "out_proj"]),
    ] {
        let found = paths.iter().filter(|(path, _)| ends.iter().any(|end| path.ends_with(end)));
        for (path, shape) in found.filter(|_| part == PartId::UNET || text) {
            factors.push((format!("{part}.{path}.lora_A.weight"), [2, shape[1]]));
            factors.push((format!("{part}.{path}.lora_B.weight"), [shape[0], 2]));
        }
    }
    let values: Vec<Vec<f32>> = factors.iter().map(|(name, shape)| filled(name, shape)).collect();
    let tensors: Vec<_> = factors.iter().zip(&values).map(|((name, shape), v)| Tensor::f32(name, shape, v)).collect();
    write_safetensors(path, &tensors, &BTreeMap::new()).unwrap();
}

#[test]
fn n18_losses_of_replayed_trainings() {
    let engine = engine();
    for (width, text) in [(33, false), (33, true), (35, false), (35, true)] {
        let dir = tempfile::tempdir().unwrap();
        let model = own(width, &dir.path().join("m"));
        let [replayed, init] = ["replay.safetensors", "init.safetensors"].map(|name| dir.path().join(name));
        replay(&replayed, width, text);
        init_lora(&init, &model, text);
        let job = TrainOptions {
            replay: Some(replayed),
            init_lora: Some(init),
            model: options(&model),
            rank: 2,
            lr: Some(1e-3),
            text_encoder: text,
            format: LoraFormat::Peft,
            out: dir.path().join("out.safetensors"),
            ..Default::default()
        };
        let mut losses = Vec::new();
        let trained = pollster::block_on(engine.train(&job, &mut |event| {
            if let Event::Step(report) = event {
                losses.push(report.loss);
            }
            Flow::Continue
        }));
        trained.unwrap_or_else(|e| panic!("{e}"));
        let all = expected(&format!("{width}.losses.{}", if text { "text" } else { "unet" }));
        assert_eq!(losses.len(), all.len());
        for (got, expected) in losses.iter().zip(&all) {
            assert!((got / expected - 1.0).abs() < 1e-4, "{width}, text encoder {text}: {losses:?} against {all:?}");
        }
    }
}

/// What a training shows of a LoRA that has learnt nothing is what the model makes; captions and latents are odd in size.
#[test]
fn kind_sample_pictures_of_odd_models() {
    let (engine, dir) = (engine(), tempfile::tempdir().unwrap());
    let model = own(33, &dir.path().join("m"));
    let images = dir.path().join("images");
    std::fs::create_dir(&images).unwrap();
    for (name, caption) in [("a", "a cat"), ("b", "dog")] {
        picture(&images.join(format!("{name}.png")), 14, 10);
        std::fs::write(images.join(format!("{name}.txt")), caption).unwrap();
    }
    let sampling = SamplingOptions { seed: 3, width: Some(10), height: Some(10), ..Default::default() };
    let prompts = vec!["red car".to_owned()];
    let made = GenerateOptions { prompts: prompts.clone(), model: options(&model), sampling, ..Default::default() };
    let made = pollster::block_on(engine.generate(&made, &mut |_: Event| Flow::Continue)).unwrap().pictures;
    for text in [false, true] {
        let job = TrainOptions {
            images: Some(images.clone()),
            model: options(&model),
            lr: Some(1e-12),
            steps: Some(1),
            seed: 3,
            text_encoder: text,
            sample_prompts: prompts.clone(),
            out: dir.path().join(format!("{text}.safetensors")),
            ..Default::default()
        };
        let mut shown: Vec<Picture> = Vec::new();
        let trained = pollster::block_on(engine.train(&job, &mut |event| {
            if let Event::Sample { picture, .. } = event {
                shown.push(picture);
            }
            Flow::Continue
        }));
        trained.unwrap_or_else(|e| panic!("{e}"));
        let apart = shown[0].rgb.iter().zip(&made[0].rgb).map(|(a, b)| a.abs_diff(*b)).max();
        assert!(apart.unwrap() <= 2 && shown[0].rgb.len() == 300, "text encoder {text}: {apart:?}");
    }
}

/// `X.from_config(model's)` of every class, for models that come with DDIM and with Euler.
#[test]
fn r13_zero_snr_models_begin_at_their_last_timestep_with_every_sampler() {
    let engine = engine();
    let zero = json!({"prediction_type": "v_prediction", "rescale_betas_zero_snr": true, "timestep_spacing": "trailing",
        "clip_sample": false});
    let mut wrong = Vec::new();
    for (own, class) in [("ddim", "DDIMScheduler"), ("euler", "EulerDiscreteScheduler")] {
        let dir = tempfile::tempdir().unwrap();
        let mut fields = zero.clone();
        if own == "ddim" {
            fields["set_alpha_to_one"] = json!(false);
        }
        let model = write(dir.path(), 33, &scheduler(class, fields));
        for name in ["ddim", "ddpm", "pndm", "euler", "euler-a", "dpm++2m", "unipc", "lcm"] {
            let got = latents(&engine, &job(&model, &["a cat"], name, true, 5));
            let times = expected(&format!("zero-snr.{own}.{name}.timesteps"));
            if got.timesteps != times {
                wrong.push(format!("{own} {name}: {:?} against {times:?}", got.timesteps));
            }
            // From sigma 4096 down diffusers' own f32 samples lose digits.
            if let Err(e) = close(&got.last, &expected(&format!("zero-snr.{own}.{name}")), 2e-3) {
                wrong.push(format!("{own} {name}: {e}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn config(value: serde_json::Value) -> ScheduleConfig {
    ScheduleConfig::from_json(&value.to_string(), "scheduler_config.json").unwrap()
}

fn named(kind: &str) -> SamplerOptions {
    SamplerOptions { kind: Some(kind.parse().unwrap()), ..Default::default() }
}

#[test]
fn r13_naming_a_models_own_sampler_changes_nothing() {
    for (name, class, fields) in [
        ("ddim", "DDIMScheduler", json!({"timestep_spacing": "trailing", "set_alpha_to_one": true})),
        (
            "ddim",
            "DDIMScheduler",
            json!({"rescale_betas_zero_snr": true, "timestep_spacing": "trailing", "prediction_type": "v_prediction"}),
        ),
        ("ddpm", "DDPMScheduler", json!({"timestep_spacing": "trailing"})),
        ("pndm", "PNDMScheduler", json!({"skip_prk_steps": true, "timestep_spacing": "linspace"})),
        ("euler", "EulerDiscreteScheduler", json!({"timestep_spacing": "trailing", "final_sigmas_type": "sigma_min"})),
        ("euler-a", "EulerAncestralDiscreteScheduler", json!({"timestep_spacing": "leading"})),
        ("dpm++2m", "DPMSolverMultistepScheduler", json!({"use_karras_sigmas": true})),
        ("unipc", "UniPCMultistepScheduler", json!({"timestep_spacing": "trailing"})),
        ("lcm", "LCMScheduler", json!({"original_inference_steps": 40, "timestep_scaling": 8.0})),
    ] {
        let own = config(scheduler(class, fields.clone()));
        let run = |options: &SamplerOptions| Trajectory::new(&own, options, 6).unwrap();
        assert_eq!(run(&SamplerOptions::default()), run(&named(name)), "{name} {fields}");
        // Fields of another class are not the named one's.
        let other = if name == "euler" { "ddpm" } else { "euler" };
        if fields["rescale_betas_zero_snr"] != true {
            let plain = config(scheduler(class, json!({})));
            let times = |config: &ScheduleConfig| Trajectory::new(config, &named(other), 6).unwrap().timesteps;
            assert_eq!(times(&own), times(&plain), "{other} with a file of {class}");
        }
    }
    // What that class does here cannot be asked for by the file: by name it runs without, and says so.
    let odd = config(scheduler("DPMSolverMultistepScheduler", json!({"algorithm_type": "sde-dpmsolver++"})));
    assert!(Trajectory::new(&odd, &SamplerOptions::default(), 6).is_err());
    let run = Trajectory::new(&odd, &named("dpm++2m"), 6).unwrap();
    assert!(run.notes.len() == 1 && run.notes[0].contains("algorithm_type \"sde-dpmsolver++\""), "{:?}", run.notes);
}

#[test]
fn kind_options_still_overrule_a_zero_snr_models_file() {
    let zero = config(scheduler(
        "DDIMScheduler",
        json!({"rescale_betas_zero_snr": true, "timestep_spacing": "trailing", "prediction_type": "v_prediction"}),
    ));
    let leading = SamplerOptions { spacing: Some(Spacing::Leading), ..named("ddpm") };
    assert_eq!(Trajectory::new(&zero, &leading, 5).unwrap().timesteps[0], 801.0);
    // Where the file names no spacing, each class has its own.
    let without =
        config(scheduler("DDIMScheduler", json!({"rescale_betas_zero_snr": true, "prediction_type": "v_prediction"})));
    assert_eq!(Trajectory::new(&without, &named("ddim"), 5).unwrap().timesteps[0], 801.0);
    assert_eq!(Trajectory::new(&without, &named("euler"), 5).unwrap().timesteps[0], 999.0);
}

#[test]
fn r22_linspace_with_whole_strides_is_noted() {
    let own = config(scheduler("DDIMScheduler", json!({})));
    for (name, spacing, noted) in [
        ("ddim", Spacing::Linspace, true),
        ("pndm", Spacing::Linspace, true),
        ("ddim", Spacing::Leading, false),
        ("ddim", Spacing::Trailing, false),
        ("ddpm", Spacing::Linspace, false),
        ("euler", Spacing::Linspace, false),
    ] {
        let run = Trajectory::new(&own, &SamplerOptions { spacing: Some(spacing), ..named(name) }, 7).unwrap();
        assert_eq!(run.notes.iter().any(|note| note.contains("linspace")), noted, "{name}: {:?}", run.notes);
    }
    // It is diffusers': seven steps of 142 from timesteps 166.5 apart.
    let run = Trajectory::new(&own, &SamplerOptions { spacing: Some(Spacing::Linspace), ..named("ddim") }, 7).unwrap();
    assert_eq!(run.timesteps, [999.0, 832.0, 666.0, 500.0, 333.0, 166.0, 0.0]);
}
