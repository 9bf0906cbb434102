//! LoRAs beside the weights against LoRAs merged into them, and what a second job plans and uploads.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use portray::{
    Event, Flow, GenerateOptions, LoraArg, Model, ModelOptions, SamplerKind, SamplingOptions, TrainOptions, WeightType,
};

use super::common::{engine, golden, xl};

/// What the library logs on this thread: plans, opened models, uploads.
struct Recorder;

thread_local! {
    static LINES: RefCell<Vec<(String, String)>> = const { RefCell::new(Vec::new()) };
}

impl log::Log for Recorder {
    fn enabled(&self, metadata: &log::Metadata) -> bool {
        metadata.target().starts_with("portray::")
    }

    fn log(&self, record: &log::Record) {
        if self.enabled(record.metadata()) {
            LINES.with_borrow_mut(|lines| lines.push((record.target().to_owned(), record.args().to_string())));
        }
    }

    fn flush(&self) {}
}

/// What was logged by `run`: graphs that were planned, models that were opened, bytes of weights and adapters uploaded.
#[derive(Debug, Default)]
pub struct Work {
    pub planned: Vec<String>,
    pub opened: usize,
    pub uploaded: u64,
}

pub fn work<T>(run: impl FnOnce() -> T) -> (T, Work) {
    static RECORDER: Recorder = Recorder;
    // Another test may have been first.
    if log::set_logger(&RECORDER).is_ok() {
        log::set_max_level(log::LevelFilter::Debug);
    }
    LINES.take();
    let result = run();
    let mut work = Work::default();
    for (target, text) in LINES.take() {
        match target.as_str() {
            "portray::plan" => work.planned.push(text),
            "portray::open" => work.opened += 1,
            "portray::upload" => {
                let bytes = text.rsplit_once(": ").and_then(|(_, rest)| rest.split(' ').next()?.parse::<u64>().ok());
                work.uploaded += bytes.unwrap();
            }
            _ => {}
        }
    }
    (result, work)
}

fn lora(file: &str, scale: f64) -> LoraArg {
    LoraArg { path: golden(file), scale }
}

fn open(kind: &str, dtype: WeightType, loras: &[LoraArg]) -> Model {
    let path = if kind == "xl" { xl(kind) } else { golden(kind) };
    let options = ModelOptions { model: Some(path), dtype, ..ModelOptions::default() };
    pollster::block_on(engine().open(&options, loras, &mut |_| Flow::Continue)).unwrap()
}

fn options() -> GenerateOptions {
    let sampling = SamplingOptions {
        steps: Some(3),
        width: Some(40),
        height: Some(24),
        guidance: Some(4.0),
        sampler: Some(SamplerKind::Ddim),
        seed: 3,
        negative: "blurry".into(),
        ..SamplingOptions::default()
    };
    GenerateOptions { prompts: vec!["a sks dog".into()], sampling, keep_latents: true, ..GenerateOptions::default() }
}

fn latents(model: &Model, options: &GenerateOptions) -> Vec<f32> {
    let made = pollster::block_on(engine().generate_with(model, options, &mut |_| Flow::Continue)).unwrap();
    made.latents.unwrap().last
}

fn decibels(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    let error = a.iter().zip(b).map(|(x, y)| f64::from(x - y).powi(2)).sum::<f64>() / a.len() as f64;
    let peak = a.iter().fold(0.0f64, |most, x| most.max(f64::from(x.abs())));
    10.0 * (peak * peak / error).log10()
}

fn mixes(kind: &str) -> Vec<Vec<LoraArg>> {
    let [attention, all] = ["", "-all"].map(|which| format!("{kind}{which}.lora-diffusers.safetensors"));
    vec![
        vec![lora(&attention, 1.0)],
        vec![lora(&all, 1.5)],
        vec![lora(&attention, 0.7), lora(&all, -0.4), lora(&attention, 0.5)],
    ]
}

#[test]
fn adapters_beside_the_weights_give_what_merged_ones_give() {
    for kind in ["sd15", "sd2"] {
        let plain = latents(&open(kind, WeightType::F32, &[]), &options());
        for loras in mixes(kind) {
            let beside = latents(&open(kind, WeightType::F32, &loras), &options());
            let merged = latents(&open(kind, WeightType::F32, &loras).merging(true), &options());
            let (same, changed) = (decibels(&merged, &beside), decibels(&merged, &plain));
            assert!(same > 90.0 && changed < 45.0, "{kind}: {same:.1} dB from merged, {changed:.1} from none");
        }
    }
}

#[test]
fn coarse_weights_with_adapters_beside_are_no_further_off_than_merged_ones() {
    for kind in ["sd15", "sd2"] {
        for loras in mixes(kind) {
            let right = latents(&open(kind, WeightType::F32, &loras), &options());
            for dtype in [WeightType::F16, WeightType::Q8] {
                let beside = decibels(&right, &latents(&open(kind, dtype, &loras), &options()));
                let merged = decibels(&right, &latents(&open(kind, dtype, &loras).merging(true), &options()));
                assert!(beside > merged - 1.0, "{kind} {dtype:?}: {beside:.1} dB beside, {merged:.1} merged");
            }
        }
    }
}

#[test]
fn a_second_job_plans_nothing_and_uploads_no_weight() {
    let model = open("sd2", WeightType::F32, &[]);
    model.keep_weights(true);
    let (_, first) = work(|| latents(&model, &options()));
    assert!(first.uploaded > 100_000 && !first.planned.is_empty(), "{} bytes", first.uploaded);
    let other = GenerateOptions { prompts: vec!["a cat on the beach".into()], ..options() };
    let (_, second) = work(|| latents(&model, &other));
    assert_eq!((second.planned.len(), second.opened, second.uploaded), (0, 0, 0));

    // A LoRA beside: its own bytes, and the plans of the parts that it changes.
    let with = |loras: &[LoraArg]| model.with_loras(loras, &mut |_| Flow::Continue).unwrap();
    let file = "sd2-all.lora-diffusers.safetensors";
    let size = std::fs::metadata(golden(file)).unwrap().len();
    let one = with(&[lora(file, 1.0)]);
    let (one_latents, switched) = work(|| latents(&one, &options()));
    assert!((1..=2 * size).contains(&switched.uploaded), "{} bytes of a file of {size}", switched.uploaded);
    assert_eq!(switched.opened, 0);
    // Another scale: its bytes, no plan.
    let (half_latents, scaled) = work(|| latents(&with(&[lora(file, 0.5)]), &options()));
    assert!((1..=2 * size).contains(&scaled.uploaded) && scaled.planned.is_empty(), "{scaled:?}");
    assert!(decibels(&one_latents, &half_latents) < 60.0);
    // Layers that the smaller file lacks have planned adapters no more: another plan, still no weight.
    let small = with(&[lora("sd2.lora-diffusers.safetensors", 1.0)]);
    let (small_latents, smaller) = work(|| latents(&small, &options()));
    assert!(smaller.uploaded <= 2 * size && smaller.opened == 0, "{smaller:?}");
    let alone = open("sd2", WeightType::F32, &[lora("sd2.lora-diffusers.safetensors", 1.0)]);
    assert_eq!(small_latents, latents(&alone, &options()));
    // Back to the first, and to none.
    assert_eq!(latents(&one, &options()), one_latents);
    let (plain, none) = work(|| latents(&model, &options()));
    assert_eq!(none.uploaded, 0);
    assert_eq!(plain, latents(&open("sd2", WeightType::F32, &[]), &options()));
}

/// Two text encoders stay as one does, and load once for prompts that leave out different numbers of layers.
#[test]
fn a_second_image_of_sdxl_uploads_no_weight() {
    let sampling = SamplingOptions { steps: Some(1), clip_skip: Some(1), ..options().sampling };
    let job = GenerateOptions { sampling, ..options() };
    let model = open("xl", WeightType::F32, &[]);
    let (plain, usual) = work(|| {
        latents(
            &model,
            &GenerateOptions { sampling: SamplingOptions { clip_skip: None, ..job.sampling.clone() }, ..job.clone() },
        )
    });
    model.keep_weights(true);
    let (skipped, first) = work(|| latents(&model, &job));
    assert!(
        first.uploaded > 100_000 && first.uploaded == usual.uploaded,
        "{} and {} bytes",
        first.uploaded,
        usual.uploaded
    );
    assert!(plain != skipped);
    let other = GenerateOptions { prompts: vec!["a cat on the beach".into()], ..job.clone() };
    let (_, second) = work(|| latents(&model, &other));
    assert_eq!((second.planned.len(), second.opened, second.uploaded), (0, 0, 0));
    // A LoRA of UNet and both encoders, then another scale of it.
    let path = xl("xl-all.lora-diffusers.safetensors");
    let size = std::fs::metadata(&path).unwrap().len();
    for scale in [1.0, 0.5] {
        let with = model.with_loras(&[LoraArg { path: path.clone(), scale }], &mut |_| Flow::Continue).unwrap();
        let (changed, switched) = work(|| latents(&with, &job));
        assert!((1..=2 * size).contains(&switched.uploaded), "{} bytes of a file of {size}", switched.uploaded);
        assert!(switched.opened == 0 && changed != skipped);
    }
}

#[test]
fn a_lower_rank_runs_in_the_plans_of_a_higher_one() {
    let file = "sd2-all.lora-diffusers.safetensors";
    let model = open("sd2", WeightType::F32, &[]);
    model.keep_weights(true);
    let with = |loras: &[LoraArg]| model.with_loras(loras, &mut |_| Flow::Continue).unwrap();
    let twice = latents(&with(&[lora(file, 0.3), lora(file, 0.7)]), &options());
    let (once, work) = work(|| latents(&with(&[lora(file, 1.0)]), &options()));
    assert_eq!(work.planned, Vec::<String>::new());
    assert!(decibels(&twice, &once) > 90.0);
}

#[test]
fn a_job_plans_each_graph_once() {
    let with_class = GenerateOptions { count: 2, ..options() };
    let job = GenerateOptions {
        model: ModelOptions { model: Some(golden("sd15")), ..ModelOptions::default() },
        loras: vec![lora("sd15.lora-diffusers.safetensors", 1.0)],
        ..with_class
    };
    let mut deaf = |_: Event| Flow::Continue;
    let (made, work) = work(|| pollster::block_on(engine().generate(&job, &mut deaf)).unwrap());
    assert_eq!(made.pictures.len(), 2);
    assert_eq!(work.opened, 1);
    let distinct: BTreeSet<&String> = work.planned.iter().collect();
    assert_eq!((work.planned.len(), distinct.len()), (4, 4), "text, a prompt's keys and values, the step, the decoder");
}

#[test]
fn what_was_prepared_is_what_runs() {
    let model = Arc::new(open("sd2", WeightType::F32, &[lora("sd2.lora-diffusers.safetensors", 1.0)]));
    let mut deaf = |_: Event| Flow::Continue;
    let (prepared, ahead) = work(|| pollster::block_on(engine().prepare(&model, &options(), &mut deaf)).unwrap());
    assert_eq!((ahead.planned.len(), ahead.uploaded), (4, 0), "{ahead:?}");
    // Another job in between takes the place of what the model remembers, not of what was prepared.
    let mut larger = options();
    larger.sampling.width = Some(48);
    let other = pollster::block_on(engine().prepare(&model, &larger, &mut deaf)).unwrap();
    assert!(other.report().flops > prepared.report().flops);
    for _ in 0..2 {
        let (made, run) = work(|| pollster::block_on(prepared.run(&mut deaf)).unwrap());
        assert!(run.planned.is_empty() && run.uploaded > 0, "{run:?}");
        assert_eq!(made.latents.unwrap().last, latents(&model, &options()));
    }
    let model_options = ModelOptions { memory: Some(prepared.report().peak_bytes - 1), ..ModelOptions::default() };
    let refused = GenerateOptions { model: model_options, ..options() };
    let refusal = pollster::block_on(engine().prepare(&model, &refused, &mut deaf)).err().unwrap().to_string();
    assert!(refusal.contains("memory"), "{refusal}");
}

#[test]
fn a_training_with_samples_plans_each_graph_once() {
    let folder = tempfile::tempdir().unwrap();
    let pictures = |name: &str| Some(Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/subjects").join(name));
    let job = TrainOptions {
        images: pictures("cat"),
        prompt: Some("a sks cat".into()),
        class_images: pictures("dog"),
        class_prompt: Some("a cat".into()),
        sample_prompts: vec!["a sks cat".into(), "a sks cat asleep".into()],
        sample_every: 1,
        model: ModelOptions { model: Some(golden("sd2")), ..ModelOptions::default() },
        resolution: Some(32),
        steps: Some(2),
        out: folder.path().join("lora.safetensors"),
        ..TrainOptions::default()
    };
    let (trained, done) = work(|| pollster::block_on(engine().train(&job, &mut |_| Flow::Continue)).unwrap());
    assert_eq!((trained.steps, done.opened), (2, 1));
    let distinct: BTreeSet<&String> = done.planned.iter().collect();
    let planned = "text, encoder, a sample's step, decoder, the training step, the update";
    assert_eq!((done.planned.len(), distinct.len()), (6, 6), "{planned}");
}

#[test]
fn a_lora_file_that_was_written_anew_is_another_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lora.safetensors");
    let model = open("sd2", WeightType::F32, &[]);
    model.keep_weights(true);
    let with = |file: &str| {
        std::fs::copy(golden(file), &path).unwrap();
        let lora = LoraArg { path: path.clone(), scale: 1.0 };
        latents(&model.with_loras(&[lora], &mut |_| Flow::Continue).unwrap(), &options())
    };
    let first = with("sd2.lora-diffusers.safetensors");
    let second = with("sd2-train/init.lora-peft.safetensors");
    assert!(decibels(&first, &second) < 60.0);
    // In plans of the higher rank: equal but for the last bits.
    assert!(decibels(&first, &with("sd2.lora-diffusers.safetensors")) > 90.0);
}
