//! Stable Diffusion 1.x: OpenAI's CLIP, a UNet of four resolutions with eight heads, 512 pixels.

use super::description::{Encoder, Family, Heads, TextFlavour, Words};
use crate::io::PartId;

/// Beginnings of the names of a single text encoder, in both generations: either goes about under either's names. The second
/// is a beginning of the first, so the order counts.
pub(super) const TEXT: [(&str, TextFlavour); 3] = [
    ("cond_stage_model.transformer.", TextFlavour::Clip),
    ("cond_stage_model.transformer.", TextFlavour::BareClip),
    ("cond_stage_model.model.", TextFlavour::OpenClip),
];

/// Pipelines that are made of the parts of Stable Diffusion 1.x and 2.x, and of no others.
pub(super) const PIPELINES: [&str; 8] = [
    "StableDiffusionPipeline",
    "StableDiffusionPipelineSafe",
    "StableDiffusionKDiffusionPipeline",
    "StableDiffusionImg2ImgPipeline",
    "StableDiffusionInpaintPipeline",
    "StableDiffusionPanoramaPipeline",
    "StableDiffusionSAGPipeline",
    "StableDiffusionAttendAndExcitePipeline",
];

/// Stable Diffusion 1.x.
pub static SD1: Family = Family {
    name: "Stable Diffusion 1.x",
    context_width: 768,
    encoders: &[Encoder {
        part: PartId::TEXT_ENCODER,
        tokenizer: "tokenizer",
        pad: "<|endoftext|>",
        skip: None,
        pooled: false,
        most_layers: usize::MAX,
        originals: &TEXT,
    }],
    pipelines: &PIPELINES,
    template: include_str!("sd1.json"),
    heads: Heads::Count(8),
    velocity: |scheduler, _| scheduler["prediction_type"] = "v_prediction".into(),
    zero_snr_scheduler: "DDIMScheduler",
    noise_unless_said: false,
    zeros_for_empty_prompt: false,
    inpainting_pipeline: "StableDiffusionInpaintPipeline",
    guidance: 7.5,
    lora: Words {
        base_versions: ["sd_v1", "sd_v1_v"],
        architectures: ["stable-diffusion-v1"; 2],
        second: false,
        text: &["lora_te_"],
        original_unet: false,
    },
};
