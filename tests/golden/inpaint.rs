//! Inpainting models against diffusers' `StableDiffusionInpaintPipeline` and its way to train them
//! (`tests/fixtures/inpaint`, by `tests/fixtures/make_inpaint.py`).

use std::path::{Path, PathBuf};

use super::samplers::{compare, open, tensor};
use super::train::{EXACT, Recording, follow};
use crate::common::{engine, inpainting_model};
use portray::low_level::io::SafeTensors;
use portray::low_level::ops::oracle::close;
use portray::low_level::tools::{ForwardInputs, ForwardPart, forward};
use portray::{Event, Flow, GenerateOptions, LoraFormat, ModelOptions, SamplingOptions, TrainOptions, WeightType};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/inpaint").join(name)
}

fn options(model: &Path) -> ModelOptions {
    ModelOptions { model: Some(model.to_owned()), dtype: WeightType::F32, ..Default::default() }
}

/// The job that `case`, as `SAMPLER.STRENGTH.GUIDANCE`, names.
fn job(model: &Path, case: &str) -> GenerateOptions {
    let (sampler, numbers) = case.split_once('.').expect("a sampler");
    let (strength, guidance) = numbers.split_at(3);
    let guidance: f64 = guidance[1..].parse().expect("a guidance");
    GenerateOptions {
        prompts: vec!["a photo of a sks dog".into()],
        model: options(model),
        sampling: SamplingOptions {
            negative: if guidance > 1.0 { "blurry".into() } else { String::new() },
            steps: Some(6),
            guidance: Some(guidance),
            sampler: Some(sampler.parse().expect("a sampler")),
            seed: 1234,
            ..Default::default()
        },
        init: Some(fixture("init.png")),
        mask: Some(fixture("mask.png")),
        // What is not said is 1.
        strength: Some(strength.parse().expect("a strength")).filter(|strength| *strength != 1.0),
        keep_latents: true,
        ..Default::default()
    }
}

/// Peak signal to noise of 8 bits, in decibels.
fn psnr(a: &[u8], b: &[f64]) -> f64 {
    let square: f64 = a.iter().zip(b).map(|(&a, b)| (f64::from(a) - b).powi(2)).sum();
    20.0 * 255f64.log10() - 10.0 * (square / a.len() as f64).max(1e-9).log10()
}

#[test]
fn inpainting_is_that_of_diffusers() {
    let mut wrong = Vec::new();
    for kind in ["sd15", "sd2"] {
        let (model, file) = (inpainting_model(kind), open(&fixture(&format!("{kind}.safetensors"))));
        let cases: Vec<String> =
            file.names().filter_map(|name| Some(name.strip_suffix(".latents")?.to_owned())).collect();
        assert!(cases.len() >= 3, "{cases:?}");
        for case in cases {
            let made = pollster::block_on(engine().generate(&job(model.path(), &case), &mut |_: Event| Flow::Continue));
            let made = made.unwrap_or_else(|e| panic!("{kind} {case}: {e}"));
            let (latents, picture) = (made.latents.expect("latents"), &made.pictures[0]);
            if let Err(e) = compare(&latents, &tensor(&file, &format!("{case}.latents")).1, 1e-3) {
                wrong.push(format!("{kind} {case}: {e}"));
            }
            let expected = file.get(&format!("{case}.picture")).expect("an image");
            let bytes: Vec<f64> = expected.bytes().expect("bytes").iter().map(|&x| f64::from(x)).collect();
            assert_eq!([picture.height, picture.width, 3], *expected.shape);
            let near = psnr(&picture.rgb, &bytes);
            println!("{kind} {case}: {near:.1} dB");
            if near < 40.0 {
                wrong.push(format!("{kind} {case}: the image is {near:.1} dB from diffusers'"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn forward_takes_all_nine_channels() {
    for kind in ["sd15", "sd2"] {
        let (model, file) = (inpainting_model(kind), open(&fixture(&format!("{kind}.safetensors"))));
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("in.safetensors");
        let bytes: Vec<_> = file.iter().map(|t| (t.clone(), t.bytes().expect("bytes").to_vec())).collect();
        let inputs = bytes.iter().filter_map(|(t, bytes)| {
            Some(portray::low_level::io::Tensor::raw(
                t.name.strip_prefix("forward.")?.to_owned(),
                t.dtype,
                &t.shape,
                bytes,
            ))
        });
        portray::low_level::io::write_safetensors(&path, &inputs.collect::<Vec<_>>(), &Default::default())
            .expect("a file");
        let inputs = SafeTensors::open(&path).expect("inputs");
        let given = ForwardInputs { model: &options(model.path()), loras: &[], tensors: Some(&inputs), prompts: &[] };
        let got = pollster::block_on(forward(engine(), ForwardPart::Unet, given));
        let (name, shape, values) = &got.expect("a prediction")[0];
        let (expected_shape, expected) = tensor(&file, "forward.out");
        assert_eq!((name.as_str(), shape), ("out", &expected_shape));
        close(values, &expected, 1e-4).unwrap_or_else(|e| panic!("{kind}: {e}"));
    }
}

#[test]
fn a_lora_trains_on_an_inpainting_model() {
    for kind in ["sd15", "sd2"] {
        let (model, folder) = (inpainting_model(kind), tempfile::tempdir().expect("a folder"));
        let out = folder.path().join("lora.safetensors");
        let init = fixture(&format!("../golden/{kind}-train/init.lora-peft.safetensors"));
        let job = TrainOptions {
            model: options(model.path()),
            replay: Some(fixture(&format!("{kind}.replay.safetensors"))),
            init_lora: Some(init.clone()),
            rank: 4,
            lr: Some(1e-3),
            batch: 2,
            weight_decay: 1e-2,
            format: LoraFormat::Peft,
            out: out.clone(),
            ..Default::default()
        };
        let end = fixture(&format!("{kind}.final.safetensors"));
        let recording = Recording { steps: fixture(&format!("{kind}.jsonl")), end, start: init };
        follow(&job, &out, &recording, EXACT).unwrap_or_else(|e| panic!("{kind}: {e}"));
    }
}
