//! Finding a model's files in a folder, and saying what else the folder may be.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;

use super::{Part, Weights, object};
use crate::error::{Error, Result};
use crate::io::families::TAKES;
use crate::io::{SafeTensors, Source, files};

const GIVE_A_FOLDER: &str = "give a diffusers folder (model_index.json, unet/, vae/, text_encoder/, tokenizer/, \
     scheduler/) or a single .safetensors file in the original layout";

/// Pipelines that are made of the parts that are read here, and of no others.
const PIPELINES: [&str; 7] = [
    "StableDiffusionPipeline",
    "StableDiffusionPipelineSafe",
    "StableDiffusionKDiffusionPipeline",
    "StableDiffusionImg2ImgPipeline",
    "StableDiffusionPanoramaPipeline",
    "StableDiffusionSAGPipeline",
    "StableDiffusionAttendAndExcitePipeline",
];

/// Pipelines of the same family whose UNet is another, or not all there is.
const OTHER_PIPELINES: [(&str, &str); 9] = [
    ("StableDiffusionControlNet", "a model with a ControlNet"),
    ("StableDiffusionInpaint", "an inpainting model"),
    ("StableDiffusionInstructPix2Pix", "an InstructPix2Pix model"),
    ("StableDiffusionDepth2Img", "a depth-to-image model"),
    ("StableDiffusionUpscale", "an upscaler's model"),
    ("StableDiffusionLatentUpscale", "an upscaler's model"),
    ("StableDiffusionImageVariation", "a model that reads pictures in place of prompts"),
    ("StableDiffusionGLIGEN", "a GLIGEN model"),
    ("StableUnCLIP", "a Stable unCLIP model"),
];

/// `model_index.json` of a Stable Diffusion 1.x or 2.x folder.
pub fn model_index(folder: &Path) -> Result<Source> {
    if !files::exists(folder) {
        return Err(Error::file(folder, "no such model folder or file"));
    }
    let path = folder.join("model_index.json");
    if !files::exists(&path) {
        let inside = files::exists(folder.join("config.json")) || files::exists(folder.join("scheduler_config.json"));
        let parent = folder.parent().filter(|p| inside && files::exists(p.join("model_index.json")));
        return Err(Error::file(
            folder,
            match parent {
                Some(parent) => format!("is one part of a model: give {}", parent.display()),
                None => format!("has no model_index.json: {GIVE_A_FOLDER}"),
            },
        ));
    }
    let source = Source::open(&path)?;
    let index = object(&source)?;
    let class = index.get("_class_name").and_then(Value::as_str).unwrap_or("model of unknown class");
    if PIPELINES.contains(&class) {
        return Ok(source);
    }
    let named = OTHER_PIPELINES.iter().find(|(start, _)| class.starts_with(start));
    let message = match named {
        Some((_, what)) => format!("is {what} ({class}); {TAKES}"),
        None => format!("is a {class}; only Stable Diffusion 1.x and 2.x (StableDiffusionPipeline) are supported"),
    };
    Err(Error::file(folder, message))
}

/// A file that every model has.
pub fn required(path: &Path) -> Result<Source> {
    if !files::exists(path) {
        return Err(Error::file(path, "no such file, which every model has: get the model again"));
    }
    Source::open(path)
}

/// Configuration and weights of one part.
pub fn weights(folder: &Path, part: Part) -> Result<Weights> {
    let folder = folder.join(part.name());
    if !files::is_folder(&folder) {
        return Err(Error::file(&folder, "the model lacks this folder: get the model again"));
    }
    let config = required(&folder.join("config.json"))?;
    let files = files(&folder, part.stem())?;
    Weights::new(part, folder.display().to_string(), config, files)
}

/// The weight files: whole or sharded, full precision before the variants of half the size.
fn files(folder: &Path, stem: &str) -> Result<Vec<SafeTensors>> {
    for variant in ["", ".fp16", ".bf16"] {
        let whole = folder.join(format!("{stem}{variant}.safetensors"));
        if files::exists(&whole) {
            return Ok(vec![SafeTensors::open(whole)?]);
        }
        // diffusers has put the variant on either side of the ending.
        for name in
            [format!("{stem}{variant}.safetensors.index.json"), format!("{stem}.safetensors.index{variant}.json")]
        {
            let index = folder.join(name);
            if files::exists(&index) {
                return shards(folder, &Source::open(index)?);
            }
        }
    }
    let pickled =
        ["diffusion_pytorch_model.bin", "pytorch_model.bin", "model.ckpt", "diffusion_pytorch_model.fp16.bin"];
    if let Some(name) = pickled.iter().find(|name| files::exists(folder.join(name))) {
        let message = format!(
            "has pickled weights only ({name}): save the model again with diffusers' save_pretrained(…, safe_serialization=True)"
        );
        return Err(Error::file(folder, message));
    }
    let expected = format!("has no weights: expected {stem}.safetensors");
    let names = files::entries(folder).unwrap_or_default();
    let names = names.iter().filter_map(|path| path.file_name()?.to_str().map(str::to_owned));
    let mut others: Vec<String> = names.filter(|name| name.ends_with(".safetensors")).collect();
    others.sort();
    let message = match others.is_empty() {
        true => format!("{expected}: get the model again"),
        false => format!("{expected}, here are {}: give the one to be used that name", others.join(", ")),
    };
    Err(Error::file(folder, message))
}

/// The files an index names, each checked to hold what the index says.
fn shards(folder: &Path, index: &Source) -> Result<Vec<SafeTensors>> {
    let json = object(index)?;
    let Some(map) = json.get("weight_map").and_then(Value::as_object) else {
        return Err(Error::file(index.name(), "has no object 'weight_map'"));
    };
    let mut names = BTreeSet::new();
    for (tensor, file) in map {
        match file.as_str() {
            // A file name only: an index must not lead out of its folder.
            Some(file) if !file.is_empty() && !file.contains(['/', '\\']) && file != ".." => names.insert(file),
            _ => return Err(Error::file(index.name(), format!("'weight_map' of '{tensor}' is no file name"))),
        };
    }
    let missing = |name: &&&str| !files::exists(folder.join(name));
    if let Some(name) = names.iter().find(missing) {
        let message = format!("no such file, a part of the weights that {} names: get it again", index.name());
        return Err(Error::file(folder.join(name), message));
    }
    let files = names.iter().map(|name| SafeTensors::open(folder.join(name))).collect::<Result<Vec<_>>>()?;
    for (tensor, file) in map {
        let at = names.iter().position(|name| Some(*name) == file.as_str());
        if !at.and_then(|i| files.get(i)).is_some_and(|f| f.contains(tensor)) {
            return Err(Error::file(index.name(), format!("tensor '{tensor}' is not in {file} as the index says")));
        }
    }
    Ok(files)
}
