//! What a job takes on the adapter, by wgpu's own report, is what its plan said.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that unwraps is a test that fails")]

mod common;

use std::path::Path;

use portray::low_level::generate::plan_generate;
use portray::low_level::io::{Tensor, write_safetensors};
use portray::low_level::train::plan_train;
use portray::{
    Engine, EngineOptions, Event, Flow, GenerateOptions, LoraArg, Method, ModelOptions, PlanReport, SamplingOptions,
    TrainOptions, WeightType,
};

/// The highest report over a job's events.
struct Peak<'a> {
    engine: &'a Engine,
    bytes: u64,
}

impl Peak<'_> {
    fn hear(&mut self, _: Event) -> Flow {
        self.bytes = self.bytes.max(self.engine.gpu().allocated_bytes().expect("this backend reports allocations"));
        Flow::Continue
    }
}

fn check(what: &str, peak: u64, plan: &PlanReport) -> Result<(), String> {
    let (measured, planned) = (peak as f64 / 1e6, plan.peak_bytes as f64 / 1e6);
    let said = format!("{what}: {measured:.1} MB were allocated, {planned:.1} MB planned\n{:#?}", plan.rows);
    if (measured - planned).abs() > 0.1 * measured {
        return Err(said);
    }
    println!("{said}");
    Ok(())
}

fn assets(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("assets").join(name)
}

#[test]
fn peaks_are_as_planned() {
    let engine = pollster::block_on(Engine::request(&EngineOptions::default())).expect("an adapter");
    let folder = tempfile::tempdir().expect("a folder");
    let caps = engine.gpu().caps();
    let sampling =
        |side| SamplingOptions { steps: Some(2), width: Some(side), height: Some(side), ..Default::default() };
    let lora = folder.path().join("l.safetensors");
    let mut faults = Vec::new();
    let train = TrainOptions {
        images: Some(assets("subjects/cat")),
        prompt: Some("a cat".into()),
        class_prompt: Some("a dog".into()),
        class_images: Some(assets("subjects/dog")),
        prior_weight: 1.0,
        rank: 8,
        batch: 1,
        accumulate: 1,
        max_grad_norm: 1.0,
        steps: Some(2),
        sample_every: 10,
        out: lora.clone(),
        ..Default::default()
    };
    let full = TrainOptions { method: Method::Full, out: folder.path().join("full"), ..train.clone() };
    let sampled =
        TrainOptions { sample_prompts: vec!["a cat".into()], force: true, resolution: Some(96), ..train.clone() };
    let lean = TrainOptions {
        optimizer: portray::Optimizer::AdamW8bit,
        fused_update: true,
        out: folder.path().join("lean"),
        ..full.clone()
    };
    let sdxl = TrainOptions {
        model: ModelOptions { model: Some(common::xl("xl")), ..Default::default() },
        text_encoder: true,
        out: folder.path().join("xl"),
        ..sampled.clone()
    };
    let jobs =
        [("lora", train), ("full", full), ("full, lean", lean), ("with samples", sampled), ("of two encoders", sdxl)];
    for (what, job) in jobs {
        let mut peak = Peak { engine: &engine, bytes: 0 };
        pollster::block_on(engine.train(&job, &mut |e| peak.hear(e))).expect("a training");
        let plan = plan_train(&job, caps).expect("a plan");
        faults.extend(check(what, peak.bytes, &plan).err());
    }
    for side in [64, 256] {
        let loras = vec![LoraArg { path: lora.clone(), scale: 1.0 }];
        let prompts = vec!["a cat".into()];
        let job = GenerateOptions { prompts, count: 1, loras, sampling: sampling(side), ..Default::default() };
        let mut peak = Peak { engine: &engine, bytes: 0 };
        pollster::block_on(engine.generate(&job, &mut |e| peak.hear(e))).expect("an image");
        let plan = plan_generate(&job, caps).expect("a plan");
        faults.extend(check(&format!("generate at {side}"), peak.bytes, &plan).err());
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    // Nothing of a job stays behind.
    let left = engine.gpu().allocated_bytes().expect("a report");
    assert!(left < 1 << 20, "{left} bytes are still allocated");
}

/// The model of full size that `PORTRAY_MODEL` names: `cargo xtask make-model sd2-base DIR` makes one.
fn full_size() -> ModelOptions {
    let model = std::env::var_os("PORTRAY_MODEL").expect("PORTRAY_MODEL: a Stable Diffusion 2 model of 512 pixels");
    ModelOptions { model: Some(model.into()), ..Default::default() }
}

/// A guided image of `side` pixels, one step.
fn full_size_picture(dtype: WeightType, side: usize, most: u64) {
    let engine = pollster::block_on(Engine::request(&EngineOptions::default())).expect("an adapter");
    let sampler = "euler".parse().ok();
    let [width, height] = [Some(side); 2];
    let sampling = SamplingOptions { steps: Some(1), sampler, width, height, ..Default::default() };
    let model = ModelOptions { dtype, ..full_size() };
    let job = GenerateOptions { prompts: vec!["a cat".into()], count: 1, model, sampling, ..Default::default() };
    let plan = plan_generate(&job, engine.gpu().caps()).expect("a plan");
    let mut peak = Peak { engine: &engine, bytes: 0 };
    let made = pollster::block_on(engine.generate(&job, &mut |e| peak.hear(e))).expect("an image");
    let rgb = &made.pictures[0].rgb;
    assert!(rgb.iter().max() > rgb.iter().min(), "an image of one colour");
    check(&format!("generate {dtype:?} at {side}"), peak.bytes, &plan).expect("as planned");
    assert!(peak.bytes <= most, "{} bytes, at most {most}", peak.bytes);
}

/// One update at `side` pixels on an image and a class image, of random latents and hidden states.
fn full_size_training(name: &str, side: usize, change: impl Fn(&mut TrainOptions), most: u64) {
    let engine = pollster::block_on(Engine::request(&EngineOptions::default())).expect("an adapter");
    let folder = tempfile::tempdir().expect("a folder");
    let mut random = portray::low_level::ops::oracle::Random::new(1);
    let mut normal = |n: usize| (0..n).map(|_| random.normal() as f32).collect::<Vec<f32>>();
    let (latent, context) = ([1, 4, side / 8, side / 8], [1, 77, 1024]);
    let values_each = side * side / 16;
    let values: Vec<(String, Vec<f32>)> = ["instance", "prior"]
        .iter()
        .flat_map(|part| ["latents", "noise"].map(|what| (format!("0.{part}.{what}"), normal(values_each))))
        .collect();
    let prompts = ["instance", "prior"].map(|part| (format!("context.{part}"), normal(77 * 1024)));
    let mut tensors: Vec<Tensor> = values.iter().map(|(name, v)| Tensor::f32(name.clone(), &latent, v)).collect();
    tensors.extend(prompts.iter().map(|(name, v)| Tensor::f32(name.clone(), &context, v)));
    tensors.extend(["instance", "prior"].map(|part| Tensor::i64(format!("0.{part}.timesteps"), &[1], &[500])));
    let replay = folder.path().join("replay.safetensors");
    write_safetensors(&replay, &tensors, &Default::default()).expect("a replay file");
    let mut job = TrainOptions {
        model: full_size(),
        replay: Some(replay),
        prior_weight: 1.0,
        rank: 4,
        batch: 1,
        accumulate: 1,
        max_grad_norm: 1.0,
        steps: Some(1),
        sample_every: 10,
        resolution: Some(side),
        out: folder.path().join("out"),
        ..Default::default()
    };
    change(&mut job);
    let planned = plan_train(
        &TrainOptions {
            replay: None,
            class_prompt: Some("a cat".into()),
            class_images: Some("x".into()),
            ..job.clone()
        },
        engine.gpu().caps(),
    );
    let plan = planned.expect("a plan");
    let mut peak = Peak { engine: &engine, bytes: 0 };
    let trained = pollster::block_on(engine.train(&job, &mut |e| peak.hear(e)));
    println!(
        "{name}: {:.2} GB were allocated, {:.2} GB planned",
        peak.bytes as f64 / 1e9,
        plan.peak_bytes as f64 / 1e9
    );
    trained.expect("a training");
    check(name, peak.bytes, &plan).expect("as planned");
    assert!(peak.bytes <= most, "{} bytes, at most {most}", peak.bytes);
}

/// Anonymous memory of this process, in bytes.
#[cfg(target_os = "linux")]
fn anonymous_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("a status");
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("a line for anonymous memory");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("kilobytes") * 1024
}

/// A software driver's memory is the process's own, so what it allocated is taken off.
#[test]
#[cfg(target_os = "linux")]
#[ignore = "a model of full size"]
fn full_size_loading_holds_few_weights_on_the_host() {
    use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

    let engine = pollster::block_on(Engine::request(&EngineOptions::default())).expect("an adapter");
    let sampling = SamplingOptions { steps: Some(1), sampler: "euler".parse().ok(), ..Default::default() };
    let model = ModelOptions { dtype: WeightType::F16, ..full_size() };
    let job = GenerateOptions { prompts: vec!["a cat".into()], count: 1, model, sampling, ..Default::default() };
    let over = AtomicBool::new(false);
    let most = std::thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let mut most = 0;
            while !over.load(Relaxed) {
                let allocated = engine.gpu().allocated_bytes().expect("this backend reports allocations");
                most = most.max(anonymous_bytes().saturating_sub(allocated));
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
            most
        });
        // The text encoder and the UNet are loaded when sampling would begin.
        let stopped = pollster::block_on(engine.generate(&job, &mut |event| match event {
            Event::Phase(portray::Phase::Sampling) => Flow::Stop,
            _ => Flow::Continue,
        }));
        over.store(true, Relaxed);
        assert!(matches!(stopped, Err(portray::Error::Interrupted { .. })), "it was not stopped");
        watch.join().expect("a figure")
    });
    println!("loading: {} MB of anonymous memory beside what the driver allocated", most / 1_000_000);
    assert!(most <= 300_000_000, "{most} bytes");
}

#[test]
#[ignore = "a model of full size: PORTRAY_MODEL=DIR cargo test --release --test memory -- --ignored"]
fn full_size_pictures_in_half_precision() {
    full_size_picture(WeightType::F16, 512, 2_300_000_000);
}

#[test]
#[ignore = "a model of full size"]
fn full_size_pictures_in_eight_bits() {
    full_size_picture(WeightType::Q8, 512, 1_500_000_000);
}

#[test]
#[ignore = "a model of full size"]
fn full_size_large_pictures() {
    full_size_picture(WeightType::F16, 1024, 3_000_000_000);
}

#[test]
#[ignore = "a model of full size"]
fn full_size_lora_at_768() {
    full_size_training("LoRA, f16, 768", 768, |job| job.model.dtype = WeightType::F16, 3_200_000_000);
}

#[test]
#[ignore = "a model of full size"]
fn full_size_lora_on_half_precision() {
    full_size_training("LoRA, f16", 512, |job| job.model.dtype = WeightType::F16, 3_000_000_000);
}

#[test]
#[ignore = "a model of full size"]
fn full_size_lora_on_eight_bits() {
    full_size_training("LoRA, q8", 512, |job| job.model.dtype = WeightType::Q8, 2_100_000_000);
}

#[test]
#[ignore = "a model of full size"]
fn full_size_fine_tuning() {
    full_size_training("full", 512, |job| job.method = Method::Full, 15_000_000_000);
}

#[test]
#[ignore = "a model of full size"]
fn full_size_lean_fine_tuning() {
    let lean = |job: &mut TrainOptions| {
        (job.method, job.optimizer, job.fused_update) = (Method::Full, portray::Optimizer::AdamW8bit, true);
    };
    full_size_training("full, lean", 512, lean, 9_000_000_000);
}

#[test]
fn the_comparison_rejects_what_is_wrong() {
    let plan = PlanReport { peak_bytes: 100, ..Default::default() };
    assert!(check("x", 100, &plan).is_ok() && check("x", 109, &plan).is_ok());
    assert!(check("x", 120, &plan).is_err() && check("x", 85, &plan).is_err());
}
