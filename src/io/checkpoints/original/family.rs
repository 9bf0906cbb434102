//! What a single file is, told by its first bytes and its tensors' names; what cannot be used is refused by name.

use std::path::Path;

use super::names::{TextFlavour, prefix};
use crate::error::{Error, Result};
use crate::io::families::FAMILIES;
use crate::io::lora_file::is_adapter_key;
use crate::io::{Part, SafeTensors, Source};

const TAKES: &str =
    "Portray takes Stable Diffusion 1.x and 2.x (also Turbo), as a diffusers folder or as one .safetensors file";

/// What is no model of any family, and what is one by marks that LoRA files have not: a mark in tensor names, and what
/// holds it.
const OTHERS: [(&str, &str); 9] = [
    ("control_model.", "a ControlNet"),
    ("controlnet_cond_embedding.", "a ControlNet"),
    ("input_hint_block.", "a ControlNet"),
    ("conditioner.embedders.1.", "a Stable Diffusion XL checkpoint"),
    ("conditioner.embedders.0.model.transformer.", "a Stable Diffusion XL refiner"),
    ("down_blocks.0.0.channelwise.", "a Stable Cascade checkpoint"),
    ("blocks.0.cross_attn.norm_k", "a Wan checkpoint"),
    ("emb_params", "a textual inversion"),
    ("string_to_param", "a textual inversion"),
];

/// What an input convolution of other than four channels is for.
const INPUT_CHANNELS: [(usize, &str); 4] =
    [(5, "a depth-to-image"), (7, "an upscaler's"), (8, "an InstructPix2Pix"), (9, "an inpainting")];

/// Refuses what is no safetensors file before it is parsed as one.
pub fn refuse_other_formats(path: &Path, source: &Source) -> Result<()> {
    let head = source.read(0..source.len().min(8))?;
    let ending = path.extension().map(|e| e.to_string_lossy().to_lowercase()).unwrap_or_default();
    let pickled = ["ckpt", "pt", "pth", "bin"].contains(&ending.as_str());
    let message = if head.starts_with(b"GGUF") || ending == "gguf" {
        format!("is a GGUF file; {TAKES}")
    } else if pickled || head.starts_with(b"PK\x03\x04") || head.starts_with(&[0x80, 0x02]) {
        "is a Python pickle, which runs code of its author's when it is opened: get the .safetensors version, or convert it where you trust it (diffusers: StableDiffusionPipeline.from_single_file(…).save_pretrained(…))".into()
    } else {
        return Ok(());
    };
    Err(Error::file(path, message))
}

/// The flavour of a Stable Diffusion 1.x or 2.x checkpoint; anything else is refused as what it is.
pub fn flavour(file: &SafeTensors) -> Result<TextFlavour> {
    let has = |mark: &str| file.names().any(|name| name.contains(mark));
    let refuse = |message: String| Err(Error::file(file.name(), message));
    if file.names().any(is_adapter_key) {
        return refuse("is a LoRA, which changes a model: give it with --lora, and the model with --model".into());
    }
    if let Some((_, what)) = OTHERS.iter().find(|(mark, _)| has(mark)) {
        return refuse(format!("is {what}; {TAKES}"));
    }
    if let Some((_, family)) = FAMILIES.iter().find(|(mark, _)| has(mark)) {
        return refuse(format!("is a checkpoint of {family}; {TAKES}"));
    }
    let starts = |prefix: &str| file.names().any(|name| name.starts_with(prefix));
    let unet = prefix(Part::Unet, TextFlavour::Clip);
    if !starts(unet) {
        let parts = [
            ("down_blocks.", "the UNet alone, in diffusers' layout"),
            ("unet.", "a merged diffusers model"),
            ("text_model.", "a text encoder alone"),
            ("encoder.", "an autoencoder or text encoder alone"),
            (prefix(Part::Vae, TextFlavour::Clip), "an autoencoder alone"),
            ("diffusion_model.", "a UNet alone"),
        ];
        let what =
            parts.iter().find(|(mark, _)| starts(mark)).map_or("no Stable Diffusion checkpoint", |(_, what)| what);
        return refuse(format!("is {what}; {TAKES}"));
    }
    let input = format!("{unet}input_blocks.0.0.weight");
    if let Some(channels) = file.find(&input).and_then(|t| t.shape.get(1).copied()).filter(|&c| c != 4) {
        let what = INPUT_CHANNELS.iter().find(|(c, _)| *c == channels).map_or("an unknown", |(_, what)| what);
        return refuse(format!("is {what} model (its UNet reads {channels} channels, not 4); {TAKES}"));
    }
    if !starts(prefix(Part::Vae, TextFlavour::Clip)) {
        return refuse("holds no autoencoder (first_stage_model.…): get the complete checkpoint".into());
    }
    let flavours = [TextFlavour::Clip, TextFlavour::OpenClip];
    match flavours.into_iter().find(|&flavour| starts(prefix(Part::TextEncoder, flavour))) {
        Some(flavour) => Ok(flavour),
        None => refuse("holds no text encoder (cond_stage_model.…): get the complete checkpoint".into()),
    }
}
