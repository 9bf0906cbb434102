//! Stable Diffusion XL, its fine-tunes and its distilled relatives (Podell et al. 2023, arXiv 2307.01952; SSD-1B and Vega,
//! arXiv 2401.02677): two text encoders, three resolutions, the image's sizes beside the prompt.

use super::description::{Encoder, Family, Heads, TextFlavour, Words};
use crate::io::PartId;

/// Stable Diffusion XL.
pub static SDXL: Family = Family {
    name: "Stable Diffusion XL",
    context_width: 2048,
    encoders: &[
        Encoder {
            part: PartId::TEXT_ENCODER,
            tokenizer: "tokenizer",
            pad: "<|endoftext|>",
            skip: Some(1),
            pooled: false,
            most_layers: usize::MAX,
            originals: &[
                ("conditioner.embedders.0.transformer.", TextFlavour::Clip),
                ("conditioner.embedders.0.transformer.", TextFlavour::BareClip),
            ],
        },
        Encoder {
            part: PartId::TEXT_ENCODER_2,
            tokenizer: "tokenizer_2",
            pad: "!",
            skip: Some(1),
            pooled: true,
            most_layers: usize::MAX,
            originals: &[
                ("conditioner.embedders.1.model.", TextFlavour::OpenClip),
                ("conditioner.embedders.1.transformer.", TextFlavour::Clip),
            ],
        },
    ],
    pipelines: &[
        "StableDiffusionXLPipeline",
        "StableDiffusionXLImg2ImgPipeline",
        "StableDiffusionXLInpaintPipeline",
        "StableDiffusionXLKDiffusionPipeline",
    ],
    template: include_str!("sdxl.json"),
    heads: Heads::Width(64),
    velocity: |scheduler, _| scheduler["prediction_type"] = "v_prediction".into(),
    zero_snr_scheduler: "EulerDiscreteScheduler",
    // Fine-tunes that predict velocities say so: every program takes the others for noise predictors.
    noise_unless_said: true,
    zeros_for_empty_prompt: true,
    inpainting_pipeline: "StableDiffusionXLInpaintPipeline",
    guidance: 5.0,
    lora: Words {
        base_versions: ["sdxl_base_v1-0"; 2],
        architectures: ["stable-diffusion-xl-v1-base"; 2],
        second: false,
        text: &["lora_te1_", "lora_te2_"],
        original_unet: true,
    },
};
