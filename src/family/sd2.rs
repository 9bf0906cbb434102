//! Stable Diffusion 2.x and Turbo: OpenCLIP read before its last layer, linear projections, heads of 64 columns.

use serde_json::json;

use super::description::{Encoder, Family, Heads, Words};
use super::sd1::{PIPELINES, TEXT};
use crate::io::PartId;

/// Stable Diffusion 2.x.
pub static SD2: Family = Family {
    name: "Stable Diffusion 2.x",
    context_width: 1024,
    encoders: &[Encoder {
        part: PartId::TEXT_ENCODER,
        tokenizer: "tokenizer",
        pad: "!",
        // The folders hold one layer less than OpenCLIP has, and its final norm, so their last state is read.
        skip: None,
        pooled: false,
        most_layers: 23,
        originals: &TEXT,
    }],
    pipelines: &PIPELINES,
    template: include_str!("sd2.json"),
    heads: Heads::Width(64),
    velocity: |scheduler, unet| {
        scheduler["prediction_type"] = "v_prediction".into();
        scheduler["_class_name"] = "DDIMScheduler".into();
        // The model for 512 pixels predicts noise, the one for 768 velocities.
        if unet["sample_size"] == json!(64) {
            unet["sample_size"] = json!(96);
        }
    },
    zero_snr_scheduler: "DDIMScheduler",
    noise_unless_said: false,
    zeros_for_empty_prompt: false,
    inpainting_pipeline: "StableDiffusionInpaintPipeline",
    guidance: 7.5,
    lora: Words {
        base_versions: ["sd_v2", "sd_v2_v"],
        architectures: ["stable-diffusion-v2-512", "stable-diffusion-v2-768-v"],
        second: true,
        text: &["lora_te_"],
        original_unet: false,
    },
};
