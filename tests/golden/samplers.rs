//! Whole generations against diffusers pipelines: every latent of trajectories with a model that stays open, and image to
//! image through [`Engine::generate`] (`tests/fixtures/golden`; `img2img.*` by `tests/fixtures/make_img2img.py`).

use std::path::{Path, PathBuf};

use crate::common;
use portray::low_level::io::SafeTensors;
use portray::{
    Engine, Event, Flow, GenerateOptions, Generated, Latents, ModelOptions, Result, SamplerKind, SamplingOptions,
    Spacing, WeightType,
};

const PROMPT: &str = "a photo of a sks dog";

pub fn open(path: &Path) -> SafeTensors {
    SafeTensors::open(path).unwrap_or_else(|e| panic!("{e}"))
}

pub fn tensor(file: &SafeTensors, name: &str) -> (Vec<usize>, Vec<f64>) {
    let t = file.get(name).unwrap_or_else(|e| panic!("{e}"));
    (t.shape.to_vec(), t.to_f32().unwrap().into_iter().map(f64::from).collect())
}

fn job(model: PathBuf, steps: usize, sampler: SamplerKind) -> GenerateOptions {
    // The recorded fast samplers ran without guidance.
    let guided = steps != 4;
    GenerateOptions {
        prompts: vec![PROMPT.into()],
        model: ModelOptions { model: Some(model), dtype: WeightType::F32, ..Default::default() },
        sampling: SamplingOptions {
            negative: if guided { "blurry".into() } else { String::new() },
            steps: Some(steps),
            guidance: Some(if guided { 5.0 } else { 1.0 }),
            sampler: Some(sampler),
            seed: 1234,
            ..Default::default()
        },
        count: 1,
        keep_latents: true,
        ..Default::default()
    }
}

fn latents(engine: &Engine, job: &GenerateOptions) -> Latents {
    latents_of(pollster::block_on(engine.generate(job, &mut |_: Event| Flow::Continue)))
}

fn latents_of(made: Result<Generated>) -> Latents {
    made.unwrap_or_else(|e| panic!("{e}")).latents.expect("latents were asked for")
}

/// Every step's latent, within `tolerance` of the largest of its own.
pub fn compare(got: &Latents, expected: &[f64], tolerance: f64) -> Result<(), String> {
    let each = expected.len() / got.steps.len().max(1);
    if got.steps.len() * each != expected.len() || got.steps.is_empty() {
        return Err(format!("{} steps do not make up {} values", got.steps.len(), expected.len()));
    }
    for (i, (step, expected)) in got.steps.iter().zip(expected.chunks(each)).enumerate() {
        portray::low_level::ops::oracle::close(step, expected, tolerance).map_err(|e| format!("step {i}: {e}"))?;
    }
    Ok(())
}

/// Recorded trajectories of the golden model `kind`: name, file, and what its tensors' names begin with. Those that are not
/// among the golden values lie in `trajectories/`, a file each (`tests/fixtures/make_trajectories.py`).
fn recorded(kind: &str) -> Vec<(String, SafeTensors, String)> {
    let golden =
        ["ddim", "ddpm", "pndm", "euler", "euler-trailing", "euler-a", "dpm++2m", "dpm++2m-karras", "unipc", "lcm"];
    let golden = golden.map(|name| {
        let file = open(&common::golden(&format!("{kind}.safetensors")));
        (name.to_owned(), file, format!("sampler.{name}"))
    });
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/trajectories");
    let others = std::fs::read_dir(folder).into_iter().flatten().map(|entry| {
        let path = entry.unwrap().path();
        (path.file_stem().unwrap().to_str().unwrap().to_owned(), open(&path), kind.to_owned())
    });
    let all: Vec<_> = golden.into_iter().chain(others).collect();
    for sampler in SamplerKind::ALL {
        assert!(all.iter().any(|(name, ..)| name == sampler.name()), "no trajectory of {}", sampler.name());
    }
    all
}

#[test]
fn trajectories_are_those_of_diffusers() {
    let engine = common::engine();
    let mut wrong = Vec::new();
    for kind in ["sd2", "sd15"] {
        // Opened once: the samplers are what differs.
        let options = ModelOptions { model: Some(common::golden(kind)), dtype: WeightType::F32, ..Default::default() };
        let model = pollster::block_on(engine.open(&options, &[], |_| Flow::Continue)).unwrap();
        for (name, file, prefix) in recorded(kind) {
            let (shape, expected) = tensor(&file, &format!("{prefix}.latents"));
            let kind_of: SamplerKind = name.trim_end_matches("-trailing").trim_end_matches("-karras").parse().unwrap();
            let steps = if ["euler-trailing", "lcm"].contains(&name.as_str()) { 4 } else { 7 };
            let mut job = job(common::golden(kind), steps, kind_of);
            job.sampling.spacing = name.ends_with("-trailing").then_some(Spacing::Trailing);
            job.sampling.karras = name.ends_with("-karras");
            let factor = vae_factor(&common::golden(kind));
            (job.sampling.height, job.sampling.width) = (Some(shape[2] * factor), Some(shape[3] * factor));
            let got = latents_of(pollster::block_on(engine.generate_with(&model, &job, |_| Flow::Continue)));
            if let Err(e) = compare(&got, &expected, 1e-3) {
                wrong.push(format!("{kind} {name}: {e}"));
            }
            let recorded = tensor(&file, &format!("{prefix}.timesteps")).1;
            if got.timesteps.iter().zip(&recorded).any(|(a, b)| (a - b).abs() > 1e-2)
                || got.timesteps.len() != recorded.len()
            {
                wrong.push(format!("{kind} {name}: timesteps {:?}, recorded {recorded:?}", got.timesteps));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn vae_factor(model: &Path) -> usize {
    let text = std::fs::read(model.join("vae/config.json")).unwrap();
    let config: serde_json::Value = serde_json::from_slice(&text).unwrap();
    1 << (config["block_out_channels"].as_array().unwrap().len() - 1)
}

#[test]
fn image_to_image_is_that_of_diffusers() {
    let engine = common::engine();
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/img2img");
    let file = open(&fixtures.join("latents.safetensors"));
    for kind in ["sd2", "sd15"] {
        for (name, strength) in [("0.6", 0.6), ("1.0", 1.0)] {
            let mut job = job(
                Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/golden").join(kind),
                7,
                SamplerKind::Ddim,
            );
            job.init = Some(fixtures.join("init.png"));
            (job.sampling.width, job.sampling.height) = (Some(40), Some(48));
            job.strength = Some(strength);
            let got = latents(engine, &job);
            let (shape, expected) = tensor(&file, &format!("{kind}.{name}"));
            assert_eq!(got.shape, shape);
            portray::low_level::ops::oracle::close(&got.last, &expected, 1e-3)
                .unwrap_or_else(|e| panic!("{kind}, strength {name}: {e}"));
        }
    }
}

#[test]
fn the_comparison_rejects_what_is_wrong() {
    let good = Latents {
        shape: vec![1, 1, 1, 2],
        last: vec![3.0, 4.0],
        steps: vec![vec![1.0, 2.0], vec![3.0, 4.0]],
        timesteps: vec![],
    };
    assert!(compare(&good, &[1.0, 2.0, 3.0, 4.0], 1e-3).is_ok());
    assert!(compare(&good, &[1.0, 2.01, 3.0, 4.0], 1e-3).is_err(), "an early step is off");
    assert!(compare(&good, &[1.0, 2.0, 3.0], 1e-3).is_err());
    assert!(compare(&Latents { steps: vec![], ..good }, &[1.0], 1e-3).is_err());
}
