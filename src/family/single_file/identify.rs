//! Identification of a single file by its first bytes and its tensors' names; unusable ones are refused by name.

use std::path::Path;

use super::names::{TextNames, UNET, VAE};
use super::structure::text_layers;
use crate::error::{Error, Message, Result, message, option};
use crate::family::description::{Encoder, Family};
use crate::family::refusals::{self, TAKES, by_input_channels};
use crate::family::sdxl::SDXL;
use crate::io::lora_file::is_adapter_key;
use crate::io::source::begins_safetensors;
use crate::io::{SafeTensors, Source};

/// Channels of a Stable Diffusion latent.
const LATENT: usize = 4;
/// Channels that the UNet of an inpainting model reads: latent, mask and masked latent.
pub const INPAINTING: usize = 2 * LATENT + 1;

/// Other contents, and other families by marks that LoRA files lack: a mark in tensor names, and its meaning.
const OTHERS: [(&str, &str); 10] = [
    ("control_model.", "a ControlNet"),
    ("controlnet_cond_embedding.", "a ControlNet"),
    ("input_hint_block.", "a ControlNet"),
    ("edm_mean", "a Playground 2.5 checkpoint, whose noise levels are EDM's"),
    ("edm_vpred.sigma", "a CosXL checkpoint, whose noise levels are EDM's"),
    ("conditioner.embedders.0.model.transformer.", "a Stable Diffusion XL refiner"),
    ("down_blocks.0.0.channelwise.", "a Stable Cascade checkpoint"),
    ("blocks.0.cross_attn.norm_k", "a Wan checkpoint"),
    ("noise_augmentor.", "a Stable unCLIP checkpoint"),
    ("embedder.model.visual.", "a Stable unCLIP checkpoint"),
];

/// Marks of a textual inversion; trainers leave one inside whole models, too.
const TEXTUAL_INVERSION: [&str; 2] = ["emb_params", "string_to_param"];

/// Parts without a UNet of the original layout, by the beginning of their tensors' names.
const PARTS: [(&str, &str); 6] = [
    ("down_blocks.", "the UNet alone, in diffusers' layout"),
    ("unet.down_blocks.", "a merged diffusers model"),
    ("text_model.", "a text encoder alone"),
    ("encoder.", "an autoencoder or text encoder alone"),
    ("first_stage_model.", "an autoencoder alone"),
    ("diffusion_model.", "a UNet alone"),
];

/// Refuses what is no safetensors file before it is parsed as one.
pub fn refuse_other_formats(path: &Path, source: &Source) -> Result<()> {
    let head = source.read(0..source.len().min(9))?;
    let ending = path.extension().map(|e| e.to_string_lossy().to_lowercase()).unwrap_or_default();
    let marked = |mark: &[u8]| head.starts_with(mark) && !begins_safetensors(&head);
    let pickled = ["ckpt", "pt", "pth", "bin"].contains(&ending.as_str());
    let message = if marked(b"GGUF") || ending == "gguf" {
        format!("is a GGUF file; {TAKES}")
    } else if pickled || marked(b"PK\x03\x04") || marked(&[0x80, 0x02]) {
        "is a Python pickle, which runs code of its author's when it is opened: get the .safetensors version, or \
         convert it where you trust it (diffusers: \
         StableDiffusionPipeline.from_single_file(…).save_pretrained(…))"
            .into()
    } else {
        return Ok(());
    };
    Err(Error::file(path, message))
}

/// Returns whether `file` holds a UNet of the original layout, wrapped or not.
pub fn is_checkpoint(file: &SafeTensors) -> bool {
    let (unet, bare) = (UNET, "diffusion_model.input_blocks.");
    let holds = |name: &str| name.contains(unet) || (name.contains("_orig_mod.") && name.contains(bare));
    file.names().any(holds)
}

/// Returns what `file` is, if its tensors' names identify it as something other than a checkpoint that is
/// read.
pub fn other(file: &SafeTensors) -> Option<String> {
    let has = |mark: &str| file.names().any(|name| name.contains(mark));
    let starts = |prefix: &str| file.names().any(|name| name.starts_with(prefix));
    let unet = UNET;
    if let Some(what) = foreign(file) {
        return Some(what);
    }
    if has("label_emb") && starts("cond_stage_model.") {
        return Some("a checkpoint whose UNet takes class labels (Stable unCLIP or another)".into());
    }
    if starts(unet) {
        return None;
    }
    if TEXTUAL_INVERSION.iter().any(|mark| has(mark)) {
        return Some("a textual inversion".into());
    }
    // A UNet whose names nothing stands before.
    if starts("input_blocks.") {
        return Some("a UNet alone".into());
    }
    PARTS.iter().find(|(mark, _)| starts(mark)).map(|(_, what)| (*what).into())
}

/// Returns whose a file of another family, or with other contents, is, by marks in its tensors' names and by the channels
/// that its UNet reads.
pub fn foreign(file: &SafeTensors) -> Option<String> {
    let has = |mark: &str| file.names().any(|name| name.contains(mark));
    // Upscalers have marks of SDXL: the channels come first.
    let inputs = [format!("{UNET}input_blocks.0.0.weight"), "input_blocks.0.0.weight".into(), "conv_in.weight".into()];
    let shapes = inputs.iter().filter_map(|name| Some(file.find(name)?.shape));
    let mut channels = shapes.filter(|shape| shape.len() == 4).map(|shape| shape[1]);
    if let Some(channels) = channels.find(|channels| ![LATENT, INPAINTING].contains(channels)) {
        return Some(by_input_channels(channels, LATENT));
    }
    if let Some((_, what)) = OTHERS.iter().find(|(mark, _)| has(mark)) {
        return Some((*what).into());
    }
    let family = refusals::OTHERS.iter().find(|(mark, _)| has(mark))?.1;
    Some(format!("a checkpoint of {family}"))
}

/// A single file that can be read.
pub struct Identified {
    pub family: &'static Family,
    pub texts: Vec<TextNames>,
    /// Message for the user where the family is no more than likely.
    pub guessed: Option<String>,
}

/// Identifies the family of `file` and its text encoders; anything else is refused as what it is.
pub fn identify(file: &SafeTensors) -> Result<Identified> {
    let starts = |prefix: &str| file.names().any(|name| name.starts_with(prefix));
    let refuse = |message: Message| Err(Error::file(file.name(), message));
    if let Some(key) = file.names().find(|name| is_adapter_key(name)) {
        if !starts(UNET) {
            let fault = "is a LoRA, which changes a model: give it with ";
            return refuse(message![fault, option("loras"), ", and the model with ", option("model")]);
        }
        let fault =
            format!("is a model with a LoRA that is not merged ('{key}'): merge it first, or save it by itself");
        return refuse(message![fault, " and give it with ", option("loras")]);
    }
    if let Some(what) = other(file) {
        return refuse(format!("is {what}; {TAKES}").into());
    }
    if !starts(UNET) {
        return refuse(format!("is no Stable Diffusion checkpoint; {TAKES}").into());
    }
    if !starts(VAE) {
        return refuse("holds no autoencoder (first_stage_model.…): get the complete checkpoint".into());
    }
    let (family, guessed) = family(file);
    let mut texts = Vec::with_capacity(family.encoders.len());
    for encoder in family.encoders {
        match text_names(file, encoder) {
            Some(names) => texts.push(names),
            None => {
                let stem = encoder.originals.first().map_or("", |(prefix, _)| prefix.trim_end_matches("transformer."));
                return refuse(format!("holds no text encoder ({stem}…): get the complete checkpoint").into());
            }
        }
    }
    Ok(Identified { family, texts, guessed })
}

/// The names of `encoder` in `file`, if it is there.
fn text_names(file: &SafeTensors, encoder: &Encoder) -> Option<TextNames> {
    let found = encoder.originals.iter().find(|(prefix, flavour)| {
        let root = format!("{prefix}{}", flavour.root());
        file.names().any(|name| name.starts_with(&root))
    });
    let (prefix, flavour) = *found?;
    let layers = text_layers(file, prefix, flavour).min(encoder.most_layers);
    Some(TextNames { part: encoder.part, prefix, flavour, layers, projects: encoder.pooled })
}

/// The family of a checkpoint that is read, and a message where it is no more than likely. Names say nothing of whether a
/// text encoder is of the first or the second generation: both go about under either's.
fn family(file: &SafeTensors) -> (&'static Family, Option<String>) {
    let mut texts = SDXL.encoders.iter().flat_map(|encoder| encoder.originals);
    let starts = |prefix: &str| file.names().any(|name| name.starts_with(prefix));
    // Without a text encoder, the sizes that its UNet reads tell.
    if texts.any(|(prefix, _)| starts(prefix)) || starts(&format!("{UNET}label_emb.")) {
        return (&SDXL, None);
    }
    let shape = |ending: &str| {
        let name = file.names().find(|name| name.starts_with(UNET) && name.ends_with(ending))?;
        Some(file.find(name)?.shape.to_vec())
    };
    let width = shape(".attn2.to_k.weight").and_then(|shape| shape.get(1).copied()).unwrap_or(0);
    let linear = shape(".proj_in.weight").is_some_and(|shape| shape.len() == 2);
    let (family, known) = Family::first_or_second(width, linear);
    let why = if linear { "linear projections" } else { "projections that are convolutions" };
    let guessed = || {
        format!(
            "{}: taken for {} by its {why}, its context width {width} being that of neither 1.x nor 2.x; where that is \
             wrong: give a diffusers folder",
            file.name(),
            family.name
        )
    };
    (family, (!known).then(guessed))
}
