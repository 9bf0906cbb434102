//! Training runs replayed number by number against what PyTorch and PEFT recorded (`tests/fixtures/golden/*-train`,
//! `*-full`, `*-text`): the loss of every step, the gradient norm, and the final weights.

mod xl;

use std::path::{Path, PathBuf};

use crate::common;
use portray::low_level::io::{LoraFile, PartId, SafeTensors};
use portray::{
    Checkpointing, Event, Flow, GenerateOptions, LoraArg, LoraFormat, LrSchedule, Method, ModelOptions, Optimizer,
    StepReport, Targets, TrainOptions, WeightType,
};

#[derive(serde::Deserialize)]
pub struct Line {
    loss: f64,
    instance: f64,
    /// Without class images there is none.
    prior: Option<f64>,
    grad_norm: f64,
    lr: f64,
}

fn lines(path: &Path) -> Vec<Line> {
    let text = std::fs::read_to_string(path).expect("recorded steps");
    text.lines().map(|line| serde_json::from_str(line).expect("a recorded step")).collect()
}

/// The job that `run.json` describes.
fn job(kind: &str, what: &str, tag: &str, out: PathBuf) -> TrainOptions {
    let folder = format!("{kind}-{what}");
    let full = what == "full";
    let text = what == "text";
    let mut job = TrainOptions {
        model: ModelOptions { model: Some(common::golden(kind)), dtype: WeightType::F32, ..Default::default() },
        replay: Some(common::golden(&folder).join("replay.safetensors")),
        init_lora: (!full).then(|| common::golden(&folder).join("init.lora-peft.safetensors")),
        method: if full { Method::Full } else { Method::Lora },
        targets: if text { Targets::All } else { Targets::Attention },
        text_encoder: text,
        text_lr: text.then_some(5e-4),
        rank: 4,
        lr: Some(if full { 5e-5 } else { 1e-3 }),
        prior_weight: 1.0,
        batch: 2,
        accumulate: 1,
        weight_decay: 1e-2,
        max_grad_norm: 1.0,
        sample_every: 100,
        format: LoraFormat::Peft,
        out,
        ..Default::default()
    };
    match tag {
        "min-snr" => job.min_snr = Some(5.0),
        "mixed" => {
            job.max_grad_norm = 0.1;
            job.prior_weight = 0.5;
            job.accumulate = 2;
            job.warmup = 3;
            job.schedule = LrSchedule::Cosine;
            job.alpha = (!full).then_some(2.0);
        }
        _ => {}
    }
    job
}

#[test]
fn sample_pictures_are_those_that_the_lora_gives() {
    for model in [common::golden("sd2"), common::xl("xl")] {
        sampled_as_generated(&model);
    }
}

/// Trains all text encoders of `model`: its sample is what the written LoRA gives, which it is not without their part.
fn sampled_as_generated(model: &Path) {
    let engine = common::engine();
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("both.safetensors");
    let model = ModelOptions { model: Some(model.to_owned()), dtype: WeightType::F32, ..Default::default() };
    let prompt = "a mscds cat in the snow";
    let job = TrainOptions {
        model: model.clone(),
        images: Some(Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/subjects/cat")),
        prompt: Some("a mscds cat".into()),
        text_encoder: true,
        lr: Some(5e-3),
        text_lr: Some(5e-2),
        steps: Some(3),
        sample_prompts: vec![prompt.into()],
        out: out.clone(),
        ..Default::default()
    };
    let mut sample = Vec::new();
    let mut hear = |event| {
        if let Event::Sample { picture, .. } = event {
            sample = picture.rgb;
        }
        Flow::Continue
    };
    pollster::block_on(engine.train(&job, &mut hear)).expect("a training");
    // The same file without what the text encoder learnt.
    let mut half = LoraFile::open(&out, None).expect("a LoRA");
    half.modules.retain(|layer, _| layer.part == PartId::UNET);
    let unet_alone = folder.path().join("unet.safetensors");
    half.write(&unet_alone, LoraFormat::Diffusers).expect("a written LoRA");
    let off = |path: &Path| {
        let loras = vec![LoraArg { path: path.to_owned(), scale: 1.0 }];
        let job = GenerateOptions { prompts: vec![prompt.into()], model: model.clone(), loras, ..Default::default() };
        let made = pollster::block_on(engine.generate(&job, &mut |_| Flow::Continue)).expect("an image");
        let apart = made.pictures[0].rgb.iter().zip(&sample).map(|(a, b)| f64::from(a.abs_diff(*b)));
        assert_eq!(made.pictures[0].rgb.len(), sample.len());
        apart.sum::<f64>() / sample.len() as f64
    };
    let (both, one) = (off(&out), off(&unet_alone));
    println!("off by {both:.2} levels, without the text encoder's part by {one:.2}");
    assert!(both < 1.0 && one > 4.0 * both.max(0.25), "{both} {one}");
}

#[test]
fn an_initial_lora_counts_as_its_file_says() {
    let engine = common::engine();
    let folder = tempfile::tempdir().expect("a folder");
    // Factors of rank 3 and half that alpha, for a job whose alpha is its rank; and the same change without an alpha.
    let half = common::golden("sd2.lora-kohya-half.safetensors");
    let mut raw = LoraFile::open(&half, None).expect("a LoRA");
    for module in raw.modules.values_mut() {
        module.up.data.iter_mut().for_each(|x| *x *= 0.5);
        module.alpha = Some(3.0);
    }
    let same = folder.path().join("same.safetensors");
    raw.write(&same, LoraFormat::Kohya).expect("a written LoRA");
    let first_loss = |init: &Path, out: &str| {
        let mut job = job("sd2", "train", "plain", folder.path().join(out));
        (job.init_lora, job.rank, job.steps) = (Some(init.to_owned()), 3, Some(1));
        let mut loss = f64::NAN;
        let mut hear = |event| {
            if let Event::Step(report) = event {
                loss = report.loss;
            }
            Flow::Continue
        };
        pollster::block_on(engine.train(&job, &mut hear)).expect("a training");
        loss
    };
    let (stated, expected) = (first_loss(&half, "a"), first_loss(&same, "b"));
    assert!((stated - expected).abs() < 1e-6 * expected, "{stated} {expected}");
    let whole = first_loss(&common::golden("sd2.lora-kohya.safetensors"), "c");
    assert!((whole - expected).abs() > 1e-5 * expected, "the LoRA must matter: {whole} {expected}");
}

fn near(what: &str, step: usize, got: f64, expected: f64, tolerance: f64) -> Result<(), String> {
    let off = (got - expected).abs() / expected.abs().max(1e-12);
    if off.is_nan() || off > tolerance {
        return Err(format!(
            "step {step}: {what} is {got}, recorded {expected} (off by {off:.1e}, {tolerance:.0e} allowed)"
        ));
    }
    Ok(())
}

/// How far a run may be from the recorded one.
#[derive(Clone, Copy)]
pub struct Allowed {
    loss: f64,
    grad_norm: f64,
    /// Share of the change that training made.
    pub weights: f64,
}

pub const EXACT: Allowed = Allowed { loss: 1e-4, grad_norm: 1e-3, weights: 1e-2 };

pub fn compare(steps: &[StepReport], lines: &[Line], allowed: Allowed) -> Result<(), String> {
    if steps.len() != lines.len() {
        return Err(format!("{} steps, recorded {}", steps.len(), lines.len()));
    }
    for (step, (s, line)) in steps.iter().zip(lines).enumerate() {
        near("loss", step, s.loss, line.loss, allowed.loss)?;
        near("instance", step, s.instance, line.instance, allowed.loss)?;
        if s.prior.is_some() || line.prior.is_some() {
            near("prior", step, s.prior.unwrap_or(f64::NAN), line.prior.unwrap_or(f64::NAN), allowed.loss)?;
        }
        near("grad_norm", step, s.grad_norm, line.grad_norm, allowed.grad_norm)?;
        near("lr", step, s.lr + 1.0, line.lr + 1.0, 1e-9)?;
    }
    Ok(())
}

/// Distance to the recorded final weights, as a share of the change that training made, the largest of all tensors.
pub fn final_error(got: &SafeTensors, expected: &SafeTensors, start: &dyn Fn(&str) -> Vec<f32>) -> Result<f64, String> {
    let norm = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| f64::from(x - y).powi(2)).sum::<f64>().sqrt();
    let mut worst = 0.0f64;
    for tensor in expected.iter() {
        let name = tensor.name.to_string();
        let theirs = tensor.to_f32().map_err(|e| e.to_string())?;
        let ours = got.get(&name).and_then(|t| t.to_f32()).map_err(|e| e.to_string())?;
        let change = norm(&theirs, &start(&name)).max(1e-9);
        let off = norm(&ours, &theirs) / change;
        if off.is_nan() {
            return Err(format!("{name} holds NaN"));
        }
        worst = worst.max(off);
    }
    Ok(worst)
}

/// Another way to train that must come to the same.
type Change<'a> = &'a dyn Fn(&mut TrainOptions);

/// What another implementation recorded of a run.
pub struct Recording {
    /// Losses and norms of each step.
    pub steps: PathBuf,
    /// Final weights; a path where nothing is for a run of which only the steps were recorded.
    pub end: PathBuf,
    /// Weights that it started from.
    pub start: PathBuf,
}

/// Runs `job`, which writes its weights to `out`, and holds it against `recording`.
pub fn follow(job: &TrainOptions, out: &Path, recording: &Recording, allowed: Allowed) -> Result<(), String> {
    let mut steps = Vec::new();
    let mut hear = |event: Event| {
        if let Event::Step(report) = event {
            steps.push(report);
        }
        Flow::Continue
    };
    pollster::block_on(common::engine().train(job, &mut hear)).map_err(|e| e.to_string())?;
    compare(&steps, &lines(&recording.steps), allowed)?;
    if !recording.end.exists() {
        return Ok(());
    }
    let open = |path: &Path| SafeTensors::open(path).map_err(|e| e.to_string());
    let start = open(&recording.start)?;
    let before = |name: &str| start.get(name).and_then(|t| t.to_f32()).expect("a tensor to start from");
    let worst = final_error(&open(out)?, &open(&recording.end)?, &before)?;
    println!("{}: final weights off by {worst:.1e} of their change", recording.end.display());
    if worst > allowed.weights {
        return Err(format!("final weights are off by {worst:.1e} of the change that training made"));
    }
    Ok(())
}

fn replay(kind: &str, what: &str, tag: &str, change: Change<'_>, allowed: Allowed) -> Result<(), String> {
    let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
    let full = what == "full";
    let out = folder.path().join(if full { "model" } else { "lora.safetensors" });
    let mut job = job(kind, what, tag, out.clone());
    change(&mut job);
    let fixtures = common::golden(&format!("{kind}-{what}"));
    let weights = "unet/diffusion_pytorch_model.safetensors";
    let recording = Recording {
        steps: fixtures.join(format!("{tag}.jsonl")),
        end: fixtures.join(format!("{tag}.final.safetensors")),
        start: if full { common::golden(kind).join(weights) } else { fixtures.join("init.lora-peft.safetensors") },
    };
    follow(&job, &if full { out.join(weights) } else { out }, &recording, allowed)
}

fn replays(what: &str, tags: &[&str]) {
    replays_changed(what, tags, &|_| (), EXACT);
}

fn replays_changed(what: &str, tags: &[&str], change: Change<'_>, allowed: Allowed) {
    let mut wrong = Vec::new();
    for kind in ["sd2", "sd15"] {
        for tag in tags {
            if let Err(e) = replay(kind, what, tag, change, allowed) {
                wrong.push(format!("{kind} {what} {tag}: {e}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn lora_of_the_attentions() {
    replays("train", &["plain", "min-snr", "mixed"]);
}

#[test]
fn every_weight() {
    replays("full", &["plain", "min-snr", "mixed"]);
}

/// Backward twice and updates within it give what stored gradients give, with and without recomputation.
#[test]
fn fused_updates() {
    let fused =
        |checkpointing| move |job: &mut TrainOptions| (job.fused_update, job.checkpointing) = (true, checkpointing);
    replays_changed("full", &["plain"], &fused(Checkpointing::On), EXACT);
    replays_changed("train", &["plain"], &fused(Checkpointing::Off), EXACT);
}

/// Moments of eight bits change the way a little, and the losses hardly.
#[test]
fn eight_bit_moments() {
    let allowed = Allowed { loss: 2e-3, grad_norm: 2e-2, weights: 0.2 };
    let packed = |job: &mut TrainOptions| job.optimizer = Optimizer::AdamW8bit;
    replays_changed("train", &["plain"], &packed, allowed);
    let both = |job: &mut TrainOptions| (job.optimizer, job.fused_update) = (Optimizer::AdamW8bit, true);
    replays_changed("full", &["plain"], &both, allowed);
}

#[test]
fn every_layer_with_the_text_encoder() {
    replays("text", &["plain", "mixed"]);
}

#[test]
fn the_comparison_rejects_what_is_wrong() {
    let line = Line { loss: 1.0, instance: 0.5, prior: Some(0.5), grad_norm: 0.1, lr: 1e-3 };
    let good = StepReport { step: 0, steps: 1, loss: 1.0, instance: 0.5, prior: Some(0.5), grad_norm: 0.1, lr: 1e-3 };
    let lines = [line];
    assert!(compare(std::slice::from_ref(&good), &lines, EXACT).is_ok());
    assert!(compare(&[StepReport { loss: 1.001, ..good.clone() }], &lines, EXACT).is_err());
    assert!(compare(&[StepReport { grad_norm: f64::NAN, ..good.clone() }], &lines, EXACT).is_err());
    assert!(compare(&[StepReport { prior: None, ..good.clone() }], &lines, EXACT).is_err());
    assert!(compare(&[StepReport { lr: 2e-3, ..good }], &lines, EXACT).is_err());
    assert!(compare(&[], &lines, EXACT).is_err());
}
