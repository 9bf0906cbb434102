//! Noise, schedules and samplers against what PyTorch and diffusers gave.
//!
//! `fixtures/samplers.json` holds runs of real diffusers schedulers around a formula in the network's place
//! (`fixtures/make_samplers.py`); `fixtures/golden` holds whole pipelines' values.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::path::PathBuf;

use portray::low_level::base::rng::TorchRng;
use portray::low_level::diffusion::{
    NoiseSchedule, Prediction, SamplerOptions, ScheduleConfig, Step, Trajectory, default_steps_and_guidance,
};
use portray::{SamplerKind, Spacing};
use serde_json::Value;

const SEED: u64 = 1234;

fn fixture(name: &str) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name);
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The largest difference in units of the largest expected value; infinite where lengths differ or anything is not
/// finite.
fn distance(values: &[f64], expected: &[f64]) -> f64 {
    if values.len() != expected.len() || values.iter().chain(expected).any(|v| !v.is_finite()) {
        return f64::INFINITY;
    }
    let scale = expected.iter().fold(1e-30f64, |m, v| m.max(v.abs()));
    values.iter().zip(expected).fold(0.0f64, |m, (a, b)| m.max((a - b).abs())) / scale
}

#[test]
fn distance_sees_what_is_wrong() {
    assert_eq!(distance(&[1.0, 2.0], &[1.0, 2.0]), 0.0);
    assert!(distance(&[1.0, 2.0002], &[1.0, 2.0]) > 9e-5);
    assert!(distance(&[1.0, f64::NAN], &[1.0, 2.0]).is_infinite());
    assert!(distance(&[1.0], &[1.0, 2.0]).is_infinite());
}

fn golden(file: &str, name: &str) -> Vec<f64> {
    let bytes = fixture(file);
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let tensor = tensors.tensor(name).unwrap_or_else(|e| panic!("{file} {name}: {e}"));
    assert_eq!(tensor.dtype(), safetensors::Dtype::F32);
    tensor.data().chunks_exact(4).map(|b| f64::from(f32::from_le_bytes(b.try_into().unwrap()))).collect()
}

fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|v| f64::from(*v)).collect()
}

#[test]
fn torch_noise_is_torchs() {
    let far = |a: &[f32], b: &[f64]| a.iter().zip(b).fold(0.0f64, |m, (a, b)| m.max((f64::from(*a) - b).abs()));
    for file in ["golden/sd2.safetensors", "golden/sd15.safetensors"] {
        for n in [7, 15, 16, 396, 480] {
            let expected = golden(file, &format!("torch.randn.{n}"));
            let values = TorchRng::new(SEED).randn(n);
            assert_eq!(values.len(), expected.len());
            assert!(far(&values, &expected) <= 2e-6, "{n}");
            assert!(far(&TorchRng::new(SEED + 1).randn(n), &expected) > 0.1, "another seed must be told apart");
        }
        let expected = golden(file, "torch.randn.396+7+20");
        let mut rng = TorchRng::new(SEED);
        let values: Vec<f32> = [396, 7, 20].into_iter().flat_map(|n| rng.randn(n)).collect();
        assert_eq!(values.len(), expected.len());
        assert!(far(&values, &expected) <= 2e-6);
    }
}

fn model_config(model: &str) -> ScheduleConfig {
    let text = String::from_utf8(fixture(&format!("golden/{model}/scheduler/scheduler_config.json"))).unwrap();
    ScheduleConfig::from_json(&text, "scheduler_config.json").unwrap()
}

fn named(name: &str) -> SamplerOptions {
    let (name, karras) = name.strip_suffix("-karras").map_or((name, false), |n| (n, true));
    let (name, spacing) = name.strip_suffix("-trailing").map_or((name, None), |n| (n, Some(Spacing::Trailing)));
    SamplerOptions { kind: Some(name.parse().unwrap()), spacing, karras, ..Default::default() }
}

#[test]
fn golden_timesteps() {
    for model in ["sd2", "sd15"] {
        let (config, file) = (model_config(model), format!("golden/{model}.safetensors"));
        let run = |options: &SamplerOptions, steps| Trajectory::new(&config, options, steps).unwrap().timesteps;
        for (name, steps) in [
            ("ddim", 7),
            ("ddpm", 7),
            ("pndm", 7),
            ("euler", 7),
            ("euler-trailing", 4),
            ("euler-a", 7),
            ("dpm++2m", 7),
            ("dpm++2m-karras", 7),
            ("unipc", 7),
            ("lcm", 4),
        ] {
            assert_eq!(run(&named(name), steps), golden(&file, &format!("sampler.{name}.timesteps")), "{name}");
        }
        for name in ["euler", "dpm++2m", "ddim"] {
            for spacing in ["leading", "linspace", "trailing"] {
                let options = SamplerOptions { spacing: Some(spacing.parse().unwrap()), ..named(name) };
                assert_eq!(run(&options, 7), golden(&file, &format!("spacing.{name}.{spacing}")), "{name} {spacing}");
            }
        }
        // Without a name, the model's own scheduler: here DDIM.
        assert_eq!(run(&SamplerOptions::default(), 7), golden(&file, "sampler.ddim.timesteps"));
    }
}

/// The formula of `make_samplers.py`, in the precision and at the place where it is computed there.
fn network(sample: &[f64], timestep: f64) -> Vec<f64> {
    let value = |(i, x): (usize, &f64)| 0.7 * (0.8 * x).tanh() + 0.2 * (timestep / 97.0 + i as f64).sin();
    sample.iter().enumerate().map(value).collect()
}

fn apply(step: &Step, slots: &[Vec<f64>], output: &[f64], noise: &[f64]) -> Vec<Vec<f64>> {
    let inputs: Vec<&[f64]> = slots.iter().map(Vec::as_slice).chain([output, noise]).collect();
    let combine = |row: &[f32]| {
        (0..output.len()).map(|i| row.iter().zip(&inputs).map(|(c, v)| f64::from(*c) * v[i]).sum()).collect()
    };
    step.matrix.chunks_exact(inputs.len()).map(combine).collect()
}

/// The samples of a run, as the engine makes them.
fn samples(run: &Trajectory, image: &[f64]) -> Vec<Vec<f64>> {
    let n = image.len();
    let mut rng = TorchRng::new(SEED);
    let noise = wide(&rng.randn(n));
    let (a, b) = (f64::from(run.image_scale), f64::from(run.init_scale));
    let mut slots = vec![vec![0.0; n]; run.slots];
    slots[0] = image.iter().zip(&noise).map(|(x, e)| a * x + b * e).collect();
    let mut seen = vec![slots[0].clone()];
    for step in &run.steps {
        let scaled: Vec<f64> = slots[0].iter().map(|x| x * f64::from(step.input_scale)).collect();
        let output = network(&scaled, step.timestep);
        let noise = if step.noise { wide(&rng.randn(n)) } else { vec![0.0; n] };
        slots = apply(step, &slots, &output, &noise);
        seen.push(slots[0].clone());
    }
    seen
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
}

/// How far a recorded run is from ours at its worst step; infinite if the timesteps differ.
fn case_distance(case: &Value) -> f64 {
    let (config, options) = match case["sampler"].as_str() {
        Some(name) => {
            let mut config = model_config("sd15");
            config.prediction_type = serde_json::from_value(case["prediction"].clone()).unwrap();
            let spacing = case["spacing"].as_str().map(|s| s.parse().unwrap());
            let kind = Some(name.parse().unwrap());
            let spacing = spacing.filter(|_| kind != Some(SamplerKind::Lcm));
            (config, SamplerOptions { kind, spacing, karras: case["karras"] == true, ..Default::default() })
        }
        None => {
            let text = case["config"].as_str().unwrap();
            (ScheduleConfig::from_json(text, "scheduler_config.json").unwrap(), SamplerOptions::default())
        }
    };
    let steps = case["steps"].as_u64().unwrap() as usize;
    let run = match case["strength"].as_f64() {
        None => Trajectory::new(&config, &options, steps),
        Some(strength) => Trajectory::image_to_image(&config, &options, steps, strength),
    };
    let run = run.unwrap_or_else(|e| panic!("{e}"));
    assert!(run.slots <= 5 && run.steps.iter().all(|s| s.matrix.len() == run.slots * (run.slots + 2)));
    if distance(&run.timesteps, &numbers(&case["timesteps"])) > 1e-6 {
        return f64::INFINITY;
    }
    let expected = case["samples"].as_array().unwrap();
    let samples = samples(&run, &[-1.0, -0.5, 0.0, 0.5, 1.0]);
    assert_eq!(samples.len(), expected.len());
    samples.iter().zip(expected).map(|(a, b)| distance(a, &numbers(b))).fold(0.0, f64::max)
}

fn label(case: &Value) -> String {
    let mut fields = case.as_object().unwrap().clone();
    fields.remove("samples");
    fields.remove("timesteps");
    Value::Object(fields).to_string()
}

#[test]
fn trajectories_are_diffusers() {
    let all: Value = serde_json::from_slice(&fixture("samplers.json")).unwrap();
    let cases = all["cases"].as_array().unwrap();
    assert!(cases.len() > 300);
    for kind in SamplerKind::ALL {
        let runs = cases.iter().filter(|case| case["sampler"] == kind.name()).count();
        assert!(runs >= 20, "{runs} runs of {}", kind.name());
    }
    // Euler starts a model of zero terminal SNR at sigma 4096, and diffusers' f32 samples lose as many digits on the
    // way down.
    let bound = |case: &Value| if label(case).contains(r#"rescale_betas_zero_snr\": true"#) { 2e-4 } else { 1e-5 };
    let mut far: Vec<String> = cases
        .iter()
        .map(|case| (case_distance(case), case))
        .filter(|(distance, case)| *distance > bound(case))
        .map(|(distance, case)| format!("{distance:.1e} {}", label(case)))
        .collect();
    far.sort();
    assert!(far.is_empty(), "{} of {} runs differ:\n{}", far.len(), cases.len(), far.join("\n"));
}

#[test]
fn a_wrong_trajectory_is_seen() {
    let all: Value = serde_json::from_slice(&fixture("samplers.json")).unwrap();
    let cases = all["cases"].as_array().unwrap();
    let mut case = cases.iter().find(|c| c["sampler"] == "unipc" && c["steps"] == 7).unwrap().clone();
    assert!(case_distance(&case) < 1e-5);
    case["prediction"] = "v_prediction".into();
    assert!(case_distance(&case) > 1e-2, "another prediction type");
    case["prediction"] = "epsilon".into();
    case["sampler"] = "dpm++2m".into();
    assert!(case_distance(&case) > 1e-4, "another solver on the same timesteps");
    case["sampler"] = "unipc".into();
    case["timesteps"][3] = (case["timesteps"][3].as_f64().unwrap() + 1.0).into();
    assert!(case_distance(&case).is_infinite(), "another timestep");
}

#[test]
fn noise_levels_are_pytorchs() {
    let all: Value = serde_json::from_slice(&fixture("samplers.json")).unwrap();
    for case in all["levels"].as_array().unwrap() {
        let config = ScheduleConfig::from_json(case["config"].as_str().unwrap(), "scheduler_config.json").unwrap();
        let levels = NoiseSchedule::new(&config).alphas_cumprod;
        for (t, expected) in case["alphas_cumprod"].as_object().unwrap() {
            let (value, expected) = (levels[t.parse::<usize>().unwrap()], expected.as_f64().unwrap());
            assert!((value / expected - 1.0).abs() < 1e-6, "{} at {t}: {value} against {expected}", case["config"]);
        }
    }
}

#[test]
fn wrong_use_is_refused_with_a_remedy() {
    let config = model_config("sd15");
    let refused = |options: &SamplerOptions, steps| {
        let error = Trajectory::new(&config, options, steps).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        error.to_string()
    };
    assert_eq!(refused(&named("ddim"), 0), "steps 0: ddim takes 1 to 1000");
    assert_eq!(refused(&named("ddim"), 1001), "steps 1001: ddim takes 1 to 1000");
    assert_eq!(refused(&named("lcm"), 51), "steps 51: lcm takes 1 to 50");
    let karras = refused(&SamplerOptions { karras: true, ..named("ddim") }, 5);
    assert!(karras.starts_with("karras: ddim has no Karras noise levels; use euler, "), "{karras}");
    assert!(refused(&named("ddim"), 1000).contains("past the model's last timestep 999"));
    assert!(
        refused(&SamplerOptions { spacing: Some(Spacing::Leading), ..named("dpm++2m") }, 1000).contains("fewer steps")
    );
    let unknown = "dpm++3m".parse::<SamplerKind>().unwrap_err().to_string();
    assert!(unknown.ends_with(&format!("use one of {}", SamplerKind::names())), "{unknown}");
    let of_samples = SamplerOptions { prediction: Some(Prediction::Sample), ..named("pndm") };
    assert!(refused(&of_samples, 5).contains("pndm cannot run a model that predicts the sample; use euler"));
    for strength in [-0.1, 1.1, f64::NAN, 0.1] {
        assert_eq!(Trajectory::image_to_image(&config, &named("ddim"), 7, strength).unwrap_err().exit_code(), 2);
    }
    for (text, field) in [
        (r#"{"_class_name": "KDPM2DiscreteScheduler"}"#, "KDPM2DiscreteScheduler"),
        (r#"{"_class_name": "PNDMScheduler"}"#, "skip_prk_steps"),
        (r#"{"_class_name": "DPMSolverMultistepScheduler", "solver_order": 3}"#, "solver_order"),
        (r#"{"_class_name": "DDIMScheduler", "thresholding": true}"#, "thresholding"),
        (
            r#"{"_class_name": "EulerDiscreteScheduler", "final_sigmas_type": "denoise"}"#,
            "final_sigmas_type \"denoise\"",
        ),
    ] {
        let config = ScheduleConfig::from_json(text, "scheduler_config.json").unwrap();
        let error = Trajectory::new(&config, &SamplerOptions::default(), 5).unwrap_err().to_string();
        assert!(error.contains(field) && error.contains(" sampler"), "{error}");
        Trajectory::new(&config, &named("euler"), 5).unwrap();
    }
}

/// What diffusers' pipeline overrules, and what a class does not know, changes nothing.
#[test]
fn fields_that_diffusers_does_not_use_change_nothing() {
    let run = |class: &str, fields: &str| {
        let text = format!(r#"{{"_class_name": "{class}", "skip_prk_steps": true{fields}}}"#);
        let config = ScheduleConfig::from_json(&text, "scheduler_config.json").unwrap();
        Trajectory::new(&config, &SamplerOptions::default(), 7).unwrap()
    };
    for (class, fields) in [
        ("DDIMScheduler", r#", "steps_offset": 0"#),
        ("DDIMScheduler", r#", "clip_sample": true"#),
        ("PNDMScheduler", r#", "steps_offset": 0"#),
        ("PNDMScheduler", r#", "rescale_betas_zero_snr": true"#),
        ("EulerAncestralDiscreteScheduler", r#", "final_sigmas_type": "sigma_min""#),
        ("EulerAncestralDiscreteScheduler", r#", "final_sigmas_type": "denoise""#),
        ("DDIMScheduler", r#", "final_sigmas_type": "sigma_min""#),
    ] {
        assert_eq!(run(class, fields), run(class, ""), "{class} {fields}");
    }
    // Of fields that it does know, it does not hold.
    for (class, fields) in [
        ("DDIMScheduler", r#", "rescale_betas_zero_snr": true"#),
        ("EulerDiscreteScheduler", r#", "final_sigmas_type": "sigma_min""#),
    ] {
        assert_ne!(run(class, fields), run(class, ""), "{class} {fields}");
    }
    let leading = r#", "steps_offset": 0, "timestep_spacing": "leading""#;
    assert_eq!(run("EulerDiscreteScheduler", leading).timesteps.last(), Some(&1.0));
}

/// The lists of samplers that people read name all of them, in one order.
#[test]
fn lists_of_samplers_are_whole() {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let read = |file: &str| std::fs::read_to_string(root.join(file)).unwrap();
    let mut manual = read("README.md");
    for entry in std::fs::read_dir(root.join("docs")).into_iter().flatten() {
        manual += &std::fs::read_to_string(entry.unwrap().path()).unwrap_or_default();
    }
    let names: Vec<&str> = SamplerKind::ALL.iter().map(|kind| kind.name()).collect();
    for (place, text, list) in [
        ("README.md and docs/", manual, format!("--sampler {}`", names.join("|"))),
        ("web/portray.d.ts", read("web/portray.d.ts"), format!("sampler?: \"{}\";", names.join("\" | \""))),
        (
            "web/index.html",
            read("web/index.html"),
            format!("<option>{}</option></select>", names.join("</option><option>")),
        ),
    ] {
        assert!(text.contains(&list), "{place} has to list the samplers so: {list}");
    }
}

#[test]
fn defaults_follow_the_model() {
    let config = model_config("sd15");
    assert_eq!(default_steps_and_guidance(&config, None, 7.5), (25, 7.5));
    assert_eq!(default_steps_and_guidance(&config, Some(SamplerKind::Lcm), 7.5), (4, 1.0));
    for (class, fields, expected) in [
        ("EulerDiscreteScheduler", "", (25, 5.0)),
        ("EulerDiscreteScheduler", r#", "timestep_spacing": "leading""#, (25, 5.0)),
        ("EulerDiscreteScheduler", r#", "timestep_spacing": "trailing""#, (4, 1.0)),
        ("EulerAncestralDiscreteScheduler", r#", "timestep_spacing": "trailing""#, (4, 1.0)),
        ("DDIMScheduler", r#", "timestep_spacing": "trailing""#, (25, 5.0)),
        ("EulerDiscreteScheduler", r#", "timestep_spacing": "trailing", "prediction_type": "v_prediction""#, (25, 5.0)),
        ("EulerDiscreteScheduler", r#", "timestep_spacing": "trailing", "rescale_betas_zero_snr": true"#, (25, 5.0)),
    ] {
        let text = format!(r#"{{"_class_name": "{class}"{fields}}}"#);
        let config = ScheduleConfig::from_json(&text, "scheduler_config.json").unwrap();
        assert_eq!(default_steps_and_guidance(&config, None, 5.0), expected, "{text}");
    }
}
