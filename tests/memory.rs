//! What a job takes on the adapter, by wgpu's own report, is what its plan said.

use std::path::Path;

use portray::engine::{Engine, EngineOptions, PlanReport, plan_generate, plan_train};
use portray::event::{Event, Flow};
use portray::job::{GenerateJob, LoraArg, SamplingOptions, TrainJob};

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
    let train = TrainJob {
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
    let full = TrainJob { method: portray::job::Method::Full, out: folder.path().join("full"), ..train.clone() };
    let sampled = TrainJob { sample_prompts: vec!["a cat".into()], force: true, resolution: Some(96), ..train.clone() };
    let lean = TrainJob {
        optimizer: portray::train::Optimizer::AdamW8bit,
        fused_update: true,
        out: folder.path().join("lean"),
        ..full.clone()
    };
    for (what, job) in [("lora", train), ("full", full), ("full, lean", lean), ("with samples", sampled)] {
        let mut peak = Peak { engine: &engine, bytes: 0 };
        pollster::block_on(engine.train(&job, &mut |e| peak.hear(e))).expect("a training");
        let plan = plan_train(&job, caps).expect("a plan");
        faults.extend(check(what, peak.bytes, &plan).err());
    }
    for side in [64, 256] {
        let loras = vec![LoraArg { path: lora.clone(), scale: 1.0 }];
        let prompts = vec!["a cat".into()];
        let job =
            GenerateJob { prompts, count: 1, loras, sampling: sampling(side), strength: 1.0, ..Default::default() };
        let mut peak = Peak { engine: &engine, bytes: 0 };
        pollster::block_on(engine.generate(&job, &mut |e| peak.hear(e))).expect("a picture");
        let plan = plan_generate(&job, caps).expect("a plan");
        faults.extend(check(&format!("generate at {side}"), peak.bytes, &plan).err());
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    // Nothing of a job stays behind.
    let left = engine.gpu().allocated_bytes().expect("a report");
    assert!(left < 1 << 20, "{left} bytes are still allocated");
}

#[test]
fn the_comparison_rejects_what_is_wrong() {
    let plan = PlanReport { peak_bytes: 100, ..Default::default() };
    assert!(check("x", 100, &plan).is_ok() && check("x", 109, &plan).is_ok());
    assert!(check("x", 120, &plan).is_err() && check("x", 85, &plan).is_err());
}
