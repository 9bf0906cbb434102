//! Finding a model's files in a folder, and saying what else the folder may be.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;

use super::{Part, Weights, object};
use crate::error::{Error, Result};
use crate::io::{SafeTensors, Source, files};

const GIVE_A_FOLDER: &str = "give a diffusers folder (model_index.json, unet/, vae/, text_encoder/, tokenizer/, \
     scheduler/) or a single .safetensors file in the original layout";

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
    // The families share no more than the name: SDXL has two text encoders, SD 3 and Flux no UNet.
    let known = class.starts_with("StableDiffusion") && !class.contains("XL") && !class.starts_with("StableDiffusion3");
    if !known {
        let message =
            format!("is a {class}; only Stable Diffusion 1.x and 2.x (StableDiffusionPipeline) are supported");
        return Err(Error::file(folder, message));
    }
    Ok(source)
}

/// Configuration and weights of one part.
pub fn weights(folder: &Path, part: Part) -> Result<Weights> {
    let folder = folder.join(part.name());
    if !files::is_folder(&folder) {
        return Err(Error::file(&folder, "the model lacks this folder: get the model again"));
    }
    let config = Source::open(folder.join("config.json"))?;
    let files = files(&folder, part.stem())?;
    Weights::new(part, folder.display().to_string(), config, files)
}

/// The weight files: whole or sharded, full precision before the fp16 variant.
fn files(folder: &Path, stem: &str) -> Result<Vec<SafeTensors>> {
    for variant in ["", ".fp16"] {
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
    let message = match pickled.iter().find(|name| files::exists(folder.join(name))) {
        Some(name) => format!(
            "has pickled weights only ({name}): save the model again with diffusers' save_pretrained(…, safe_serialization=True)"
        ),
        None => format!("has no weights: expected {stem}.safetensors"),
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
    let files = names.iter().map(|name| SafeTensors::open(folder.join(name))).collect::<Result<Vec<_>>>()?;
    for (tensor, file) in map {
        let at = names.iter().position(|name| Some(*name) == file.as_str());
        if !at.and_then(|i| files.get(i)).is_some_and(|f| f.contains(tensor)) {
            return Err(Error::file(index.name(), format!("tensor '{tensor}' is not in {file} as the index says")));
        }
    }
    Ok(files)
}
