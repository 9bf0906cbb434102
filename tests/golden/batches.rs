//! Images that are sampled together against the same images sampled alone.

use std::path::Path;

use portray::low_level::ops::oracle::close;
use portray::{
    Error, Event, Flow, GenerateOptions, Latents, Model, ModelOptions, SamplerKind, SamplingOptions, WeightType,
};

use super::common::{engine, golden, inpainting_model, xl};

fn open(path: &Path) -> Model {
    let options = ModelOptions { model: Some(path.to_owned()), dtype: WeightType::F32, ..Default::default() };
    let model = pollster::block_on(engine().open(&options, &[], &mut |_| Flow::Continue)).unwrap();
    model.keep_weights(true);
    model
}

/// Five images: three and three are sampled together of a batch of four, the last one twice.
fn five(sampler: SamplerKind) -> GenerateOptions {
    let sampling = SamplingOptions {
        steps: Some(3),
        width: Some(40),
        height: Some(24),
        guidance: Some(4.0),
        sampler: Some(sampler),
        seed: 3,
        negative: "blurry".into(),
        ..SamplingOptions::default()
    };
    let prompts = ["a sks dog", "a cat on the beach", "a red car", "a house", "a sks dog in snow"];
    GenerateOptions { prompts: prompts.map(str::to_owned).to_vec(), sampling, keep_latents: true, ..Default::default() }
}

fn latents(model: &Model, job: &GenerateOptions) -> Latents {
    let made = pollster::block_on(engine().generate_with(model, job, &mut |_| Flow::Continue)).unwrap();
    let seeds: Vec<u64> = made.pictures.iter().map(|picture| picture.seed).collect();
    assert_eq!(seeds.len(), job.prompts.len() * job.count, "{seeds:?}");
    made.latents.unwrap()
}

/// Compares every step of all images of `job`, sampled `batch` at a time, with those of single ones.
fn same(what: &str, model: &Model, job: &GenerateOptions, batch: usize) {
    let alone = latents(model, job);
    let together = latents(model, &GenerateOptions { batch, ..job.clone() });
    assert_eq!((&together.shape, together.steps.len()), (&alone.shape, alone.steps.len()), "{what}");
    let each = alone.last.len() / alone.shape[0];
    let f64s = |values: &[f32]| values.iter().map(|&x| f64::from(x)).collect::<Vec<f64>>();
    for (step, (got, expected)) in together.steps.iter().zip(&alone.steps).enumerate() {
        close(got, &f64s(expected), 1e-4).unwrap_or_else(|e| panic!("{what}, step {step}: {e}"));
        // Another image's latent is not near.
        assert!(close(&got[..each], &f64s(&expected[each..2 * each]), 1e-2).is_err(), "{what}: images alike");
    }
    close(&together.last, &f64s(&alone.last), 1e-4).unwrap_or_else(|e| panic!("{what}: {e}"));
}

#[test]
fn images_of_a_batch_are_those_that_are_sampled_alone() {
    let rescaled = |mut job: GenerateOptions| {
        job.sampling.guidance_rescale = Some(0.7);
        job
    };
    for (kind, path) in [("sd15", golden("sd15")), ("sd2", golden("sd2")), ("xl", xl("xl"))] {
        let model = open(&path);
        // One draws noise in every step, the other keeps what came before.
        same(&format!("{kind} euler-a"), &model, &five(SamplerKind::EulerA), 4);
        same(&format!("{kind} dpm++2m, rescaled"), &model, &rescaled(five(SamplerKind::Dpmpp2m)), 4);
    }
}

#[test]
fn batches_hold_images_of_one_prompt_and_of_several() {
    let model = open(&golden("sd2"));
    let mut job = five(SamplerKind::Ddim);
    job.sampling.guidance = Some(1.0);
    job.prompts.truncate(2);
    job.count = 3;
    for batch in [2, 4, 9] {
        same(&format!("six images, {batch} together"), &model, &job, batch);
    }
}

#[test]
fn start_images_and_masks_are_those_of_every_image_of_a_batch() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let from = |init: &str, mut job: GenerateOptions| {
        (job.sampling.width, job.sampling.height) = (None, None);
        GenerateOptions { init: Some(fixtures.join(init)), strength: Some(0.7), ..job }
    };
    same("image to image", &open(&golden("sd15")), &from("img2img/init.png", five(SamplerKind::Ddim)), 2);
    let model = inpainting_model("sd15");
    let mask = Some(fixtures.join("inpaint/mask.png"));
    let job = GenerateOptions { mask, ..from("inpaint/init.png", five(SamplerKind::Ddim)) };
    same("inpainting", &open(model.path()), &job, 2);
}

#[test]
fn a_stopped_job_keeps_the_batches_that_are_done() {
    let model = open(&golden("sd2"));
    let job = GenerateOptions { batch: 2, keep_latents: false, ..five(SamplerKind::Ddim) };
    let mut made = Vec::new();
    // The second batch has done one of its three steps.
    let stopped = pollster::block_on(engine().generate_with(&model, &job, &mut |event| match event {
        Event::Progress { unit: "step", done: 8, total: 15 } => Flow::Stop,
        Event::Picture(picture) => {
            made.push(picture.index);
            Flow::Continue
        }
        _ => Flow::Continue,
    }));
    assert!(matches!(stopped, Err(Error::Interrupted { done: 2, total: 5, .. })), "{stopped:?}");
    assert_eq!(made, [0, 1]);
}

#[test]
fn an_empty_batch_is_refused_and_a_large_one_is_counted() {
    let job = GenerateOptions { batch: 0, ..five(SamplerKind::Ddim) };
    let model = open(&golden("sd2"));
    let refused = pollster::block_on(engine().generate_with(&model, &job, &mut |_| Flow::Continue));
    assert!(refused.unwrap_err().to_string().contains("batch 0"));
    let plan = |batch, memory| {
        let model = ModelOptions { model: Some(golden("sd2")), dtype: WeightType::F32, memory, ..Default::default() };
        let mut job = GenerateOptions { batch, model, ..five(SamplerKind::Ddim) };
        (job.sampling.width, job.sampling.height) = (Some(320), Some(320));
        portray::low_level::generate::plan_generate(&job, engine().gpu().caps())
    };
    let (one, four) = (plan(1, None).unwrap(), plan(4, None).unwrap());
    assert!(four.flops > 2 * one.flops && four.peak_bytes > one.peak_bytes, "{one:?} {four:?}");
    let refused = plan(4, Some(one.peak_bytes)).unwrap_err().to_string();
    assert!(refused.contains("a smaller batch"), "{refused}");
}
