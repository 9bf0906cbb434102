//! The SDXL family against diffusers: parts, whole generations, LoRAs, inpainting (`tests/fixtures/xl`, by
//! `tests/fixtures/make_xl.py`).

use std::path::{Path, PathBuf};

use super::samplers::{compare, open, tensor};
use crate::common::{engine, link_folder, write_xl_single_file, xl, xl_inpainting_model};
use portray::low_level::io::{SafeTensors, Tensor, write_safetensors};
use portray::low_level::ops::oracle::close;
use portray::low_level::tools::{ForwardInputs, ForwardPart, forward};
use portray::{
    Event, Flow, GenerateOptions, Generated, LoraArg, Model, ModelOptions, SamplingOptions, Spacing, WeightType,
};

const PROMPT: &str = "a photo of a sks dog";

fn options(model: &Path) -> ModelOptions {
    ModelOptions { model: Some(model.to_owned()), dtype: WeightType::F32, ..Default::default() }
}

fn values(model: &str) -> SafeTensors {
    open(&xl(&format!("{model}.safetensors")))
}

/// Those of `file` whose names begin with `prefix`, as a file of their own without it.
fn inputs(folder: &tempfile::TempDir, file: &SafeTensors, prefix: &str) -> SafeTensors {
    let path = folder.path().join("in.safetensors");
    let named: Vec<Tensor> = file
        .iter()
        .filter_map(|t| t.name.strip_prefix(prefix).map(str::to_owned).map(|name| t.clone().renamed(name)))
        .collect();
    write_safetensors(&path, &named, &Default::default()).expect("a file");
    open(&path)
}

/// Runs `part` on what `file` holds under `prefix` and compares what comes out with what it holds under `expected`.
fn part(
    (model, loras): (&Path, &[LoraArg]),
    (part, prefix): (ForwardPart, &str),
    file: &SafeTensors,
    expected: &[(&str, &str)],
) -> Result<(), String> {
    let folder = tempfile::tempdir().unwrap();
    let inputs = inputs(&folder, file, prefix);
    let given = ForwardInputs { model: &options(model), loras, tensors: Some(&inputs), prompts: &[] };
    let made = pollster::block_on(forward(engine(), part, given)).map_err(|e| e.to_string())?;
    for (name, key) in expected {
        let (_, shape, values) = made.iter().find(|(own, ..)| own == name).ok_or(format!("no {name}"))?;
        let (expected_shape, expected) = tensor(file, key);
        // The file may have less prompts than were encoded.
        let values = &values[..expected.len().min(values.len())];
        assert_eq!(shape[1..], expected_shape[1..], "{key}");
        close(values, &expected, 1e-4).map_err(|e| format!("{key}: {e}"))?;
    }
    Ok(())
}

fn none(wrong: Vec<String>) {
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn parts_are_those_of_diffusers() {
    let mut wrong = Vec::new();
    let text = [("hidden", "text.hidden"), ("pooled", "text.pooled")];
    let mut check =
        |model: &str, result: Result<(), String>| wrong.extend(result.err().map(|e| format!("{model}: {e}")));
    for model in ["xl", "ssd", "xl-64", "bk"] {
        let (path, file) = (xl(model), values(model));
        let unet = (ForwardPart::Unet, "unet.");
        check(model, part((&path, &[]), unet, &file, &[("out", "unet.out")]));
        if file.contains("text.hidden") {
            let outputs = if file.contains("text.pooled") { &text[..] } else { &text[..1] };
            check(model, part((&path, &[]), (ForwardPart::Text, "text."), &file, outputs));
        }
        if file.contains("vae.mean") {
            let moments = [("mean", "vae.mean"), ("logvar", "vae.logvar")];
            check(model, part((&path, &[]), (ForwardPart::VaeEncode, "vae."), &file, &moments));
            check(model, part((&path, &[]), (ForwardPart::VaeDecode, "vae."), &file, &[("image", "vae.decoded")]));
        }
    }
    none(wrong);
}

#[test]
fn loras_change_all_parts() {
    let mut wrong = Vec::new();
    let mut check = |name: &str, result: Result<(), String>| wrong.extend(result.err().map(|e| format!("{name}: {e}")));
    for (model, name) in [
        ("xl", "xl.lora-kohya.safetensors"),
        ("xl", "xl-all.lora-kohya.safetensors"),
        ("xl", "xl-all.lora-kohya-diffusers-names.safetensors"),
        ("xl", "xl-all.lora-diffusers.safetensors"),
        ("xl", "xl-all.lora-peft.safetensors"),
        ("xl", "xl-all.lora-folder"),
        ("ssd", "ssd-all.lora-kohya.safetensors"),
    ] {
        let (path, file) = (xl(model), values(model));
        let loras = [LoraArg { path: xl(name), scale: 1.0 }];
        let all = name.contains("-all");
        let out = if all { "lora-all.unet.out" } else { "lora.unet.out" };
        check(name, part((&path, &loras), (ForwardPart::Unet, "unet."), &file, &[("out", out)]));
        if all {
            let source = values("xl");
            let text = [("hidden", "lora-all.text.hidden"), ("pooled", "lora-all.text.pooled")];
            if model == "xl" {
                check(name, part((&path, &loras), (ForwardPart::Text, "text."), &source, &text));
            }
        }
    }
    none(wrong);
}

/// A copy of `model` whose scheduler is another class: named samplers then have their own settings, as they were recorded.
fn with_other_scheduler(model: &Path) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("scheduler/scheduler_config.json");
    link_folder(model, folder.path(), std::slice::from_ref(&config));
    let text = std::fs::read_to_string(model.join("scheduler/scheduler_config.json")).unwrap();
    let mut json: serde_json::Value = serde_json::from_str(&text).unwrap();
    json["_class_name"] = "PNDMScheduler".into();
    json["rescale_betas_zero_snr"] = false.into();
    std::fs::write(&config, json.to_string()).unwrap();
    let index = folder.path().join("model_index.json");
    let text = std::fs::read_to_string(&index).unwrap();
    std::fs::remove_file(&index).unwrap();
    std::fs::write(&index, text.replace("EulerDiscreteScheduler", "PNDMScheduler")).unwrap();
    folder
}

/// The job of the recorded trajectory `case`.
fn job(case: &str, shape: &[usize], factor: usize) -> GenerateOptions {
    let sampler = case.trim_end_matches("-trailing").trim_end_matches("-karras");
    let few = ["euler-trailing", "lcm"].contains(&case);
    let own = case == "own";
    GenerateOptions {
        prompts: vec![PROMPT.into()],
        sampling: SamplingOptions {
            // The model's own sampler ran without a negative prompt: zeros.
            negative: if few || own { String::new() } else { "blurry".into() },
            steps: Some(if few { 4 } else { 6 }),
            guidance: Some(if few { 1.0 } else { 5.0 }),
            sampler: (!own).then(|| sampler.parse().unwrap()),
            spacing: case.ends_with("-trailing").then_some(Spacing::Trailing),
            karras: case.ends_with("-karras"),
            seed: 1234,
            height: Some(shape[2] * factor),
            width: Some(shape[3] * factor),
            ..Default::default()
        },
        keep_latents: true,
        ..Default::default()
    }
}

/// A model for several jobs, which then load and plan what differs alone.
fn opened(path: &Path) -> Model {
    let opened = pollster::block_on(engine().open(&options(path), &[], &mut |_| Flow::Continue));
    let model = opened.unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    model.keep_weights(true);
    model
}

fn make(model: &Model, job: &GenerateOptions) -> Result<Generated, String> {
    pollster::block_on(engine().generate_with(model, job, &mut |_: Event| Flow::Continue)).map_err(|e| e.to_string())
}

/// Compares the image that was made with that of the pipeline to 40 dB, and returns whether `case` has one.
fn image(made: &Generated, case: &str) -> Result<bool, String> {
    let images = open(&xl("images.safetensors"));
    let Some(expected) = images.find(case) else { return Ok(false) };
    let (expected, got) = (expected.bytes().unwrap(), &made.pictures[0].rgb);
    assert_eq!(expected.len(), got.len(), "{case}");
    let squares = expected.iter().zip(got).map(|(a, b)| f64::from(a.abs_diff(*b)).powi(2)).sum::<f64>();
    let decibels = 10.0 * (255.0 * 255.0 * got.len() as f64 / squares).log10();
    if decibels >= 40.0 { Ok(true) } else { Err(format!("the image is {decibels:.1} dB from that of diffusers")) }
}

/// Runs `job` and compares every latent with those of `case` in `file`, and the image with that of `name` where there is one;
/// returns whether there is.
fn trajectory(
    (model, name): (&Model, &str),
    job: &GenerateOptions,
    file: &SafeTensors,
    case: &str,
) -> Result<bool, String> {
    let made = make(model, job)?;
    let seen = image(&made, &format!("{name}.{case}"))?;
    let made = made.latents.expect("latents");
    compare(&made, &tensor(file, &format!("{case}.latents")).1, 1e-3)?;
    let Some(recorded) = file.find(&format!("{case}.timesteps")) else { return Ok(seen) };
    let recorded = recorded.to_f32().unwrap();
    let same = made.timesteps.iter().zip(&recorded).all(|(a, b)| (a - f64::from(*b)).abs() < 1e-2);
    match same && made.timesteps.len() == recorded.len() {
        true => Ok(seen),
        false => Err(format!("timesteps {:?}, recorded {recorded:?}", made.timesteps)),
    }
}

#[test]
fn trajectories_are_those_of_diffusers() {
    let (mut wrong, mut images) = (Vec::new(), 0);
    for model in ["xl", "xl-v", "ssd", "xl-64", "bk"] {
        let (file, folder) = (values(model), with_other_scheduler(&xl(model)));
        let (plain, other) = (opened(&xl(model)), opened(folder.path()));
        let cases: Vec<String> = file
            .names()
            .filter_map(|name| Some(name.strip_prefix("sampler.")?.strip_suffix(".latents")?.to_owned()))
            .collect();
        assert!(cases.len() >= 2, "{model}: {cases:?}");
        for case in cases {
            let key = format!("sampler.{case}");
            let shape = tensor(&file, &format!("{key}.latents")).0;
            let which = if case == "own" { &plain } else { &other };
            match trajectory((which, model), &job(&case, &shape, 4), &file, &key) {
                Ok(seen) => images += usize::from(seen),
                Err(e) => wrong.push(format!("{model} {case}: {e}")),
            }
        }
    }
    // Of three models, by their own sampler and by Euler's.
    assert!(images == 6 || !wrong.is_empty(), "{images} images");
    none(wrong);
}

#[test]
fn conditioning_is_that_of_diffusers() {
    let (mut wrong, mut images) = (Vec::new(), 0);
    for model in ["xl", "xl-v"] {
        let (file, plain) = (values(model), opened(&xl(model)));
        for case in ["clip-skip", "clip-skip-zeros", "guidance-rescale", "sizes"] {
            let shape = tensor(&file, &format!("{case}.latents")).0;
            let mut job = job("own", &shape, 4);
            job.sampling.steps = Some(3);
            job.sampling.negative = if case.ends_with("zeros") { String::new() } else { "blurry".into() };
            match case {
                "guidance-rescale" => job.sampling.guidance_rescale = Some(0.7),
                "sizes" => {
                    // diffusers names heights first.
                    job.sampling.original_size = "333x701".parse().ok();
                    job.sampling.crop = "16,40".parse().ok();
                    job.sampling.target_size = "128x96".parse().ok();
                }
                _ => job.sampling.clip_skip = Some(1),
            }
            match trajectory((&plain, model), &job, &file, case) {
                Ok(seen) => images += usize::from(seen),
                Err(e) => wrong.push(format!("{model} {case}: {e}")),
            }
            if case == "sizes" {
                // What is told of the image counts.
                job.sampling.original_size = "40x1000".parse().ok();
                assert!(trajectory((&plain, model), &job, &file, case).is_err(), "{model} {case}");
            }
        }
    }
    assert!(images == 6 || !wrong.is_empty(), "{images} images");
    none(wrong);
}

#[test]
fn image_to_image_is_that_of_diffusers() {
    let (images, mut made) = (open(&xl("images.safetensors")), Vec::new());
    for model in ["xl", "xl-64"] {
        let (shape, expected) = tensor(&images, &format!("{model}.img2img.latents"));
        let other = with_other_scheduler(&xl(model));
        let mut job = job("ddim", &shape, 4);
        (job.init, job.strength, job.sampling.steps) = (Some(xl("init.png")), Some(0.6), Some(7));
        let own = make(&opened(other.path()), &job).unwrap_or_else(|e| panic!("{model}: {e}"));
        close(&own.latents.as_ref().expect("latents").last, &expected, 1e-3).unwrap_or_else(|e| panic!("{model}: {e}"));
        image(&own, &format!("{model}.img2img")).unwrap_or_else(|e| panic!("{model}: {e}"));
        made.push(own);
    }
    assert!(image(&made[1], "xl.img2img").is_err(), "another model's image passes");
}

#[test]
fn a_single_file_makes_the_folders_latents() {
    let folder = tempfile::tempdir().unwrap();
    for model in ["xl-64", "xl-v-64", "ssd-64"] {
        let path: PathBuf = folder.path().join(format!("{model}.safetensors"));
        write_xl_single_file(model, &path);
        let latents = |model: &Path| {
            let mut job = job("own", &[1, 4, 12, 8], 4);
            job.sampling.steps = Some(2);
            job.sampling.sampler = "euler".parse().ok();
            make(&opened(model), &job).unwrap_or_else(|e| panic!("{}: {e}", model.display())).latents.unwrap().last
        };
        assert_eq!(latents(&path), latents(&xl(model)), "{model}");
    }
}

#[test]
fn inpainting_is_that_of_diffusers() {
    let (model, file) = (xl_inpainting_model(), values("inpaint"));
    let model = with_other_scheduler(model.path());
    let (plain, mut wrong) = (opened(model.path()), Vec::new());
    for case in ["euler", "ddim", "dpm++2m-karras"] {
        let shape = tensor(&file, &format!("{case}.latents")).0;
        let mut job = job(case, &shape, 4);
        (job.init, job.mask) = (Some(xl("init.png")), Some(xl("mask.png")));
        // Of its default, 0.9999, five steps run four.
        (job.sampling.steps, job.strength) = (Some(5), Some(0.9999));
        job.sampling.negative = if case == "euler" { String::new() } else { "blurry".into() };
        if let Err(e) = trajectory((&plain, "inpaint"), &job, &file, case) {
            wrong.push(format!("{case}: {e}"));
        }
    }
    let outputs = [("out", "forward.out")];
    wrong.extend(part((model.path(), &[]), (ForwardPart::Unet, "forward."), &file, &outputs).err());
    none(wrong);
}
