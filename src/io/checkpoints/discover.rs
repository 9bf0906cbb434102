//! Finding a model's files in a folder, and saying what else the folder may be.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{PartId, Weights};
use crate::error::{Error, Message, Result, message, option};
use crate::io::lora_file::is_adapter_key;
use crate::io::source::object;
use crate::io::{SafeTensors, Source, files};

/// Remedy for a path that is no model.
pub(crate) const GIVE_A_FOLDER: &str = "give a diffusers folder (model_index.json, unet/, vae/, text_encoder/, tokenizer/, \
     scheduler/) or a single .safetensors file in the original layout";

/// Returns whether something is at `path`.
///
/// # Errors
/// [`Error::File`] for a link that leads nowhere: the hub's cache links to files that an unfinished download, or a
/// clean-up, has left out.
pub(crate) fn present(path: &Path) -> Result<bool> {
    if files::exists(path) {
        return Ok(true);
    }
    match files::dangling(path) {
        Some(target) => {
            let target = target.display();
            Err(Error::file(
                path,
                format!("not downloaded: points to {target}, which is not there; download the model again"),
            ))
        }
        None => Ok(false),
    }
}

/// Refuses a file of a model folder that was given in place of the folder.
pub(crate) fn refuse_part_of_folder(path: &Path) -> Result<()> {
    if !path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("json")) {
        return Ok(());
    }
    let folders = path.ancestors().skip(1).take(2);
    let model = folders.into_iter().find(|folder| files::exists(folder.join("model_index.json")));
    let message = match model {
        Some(folder) if folder.as_os_str().is_empty() => {
            "is one file of a model folder: give the folder it lies in, .".into()
        }
        Some(folder) => format!("is one file of a model folder: give the folder, {}", folder.display()),
        None => format!("is a JSON file: {GIVE_A_FOLDER}"),
    };
    Err(Error::file(path, message))
}

/// A file that every model has.
pub(crate) fn required(path: &Path) -> Result<Source> {
    if !present(path)? {
        return Err(Error::file(path, "no such file, which every model has: get the model again"));
    }
    Source::open(path)
}

/// Configuration and weights of one part; `notes` gets what of the files is left out.
pub(crate) fn weights(folder: &Path, part: PartId, notes: &mut Vec<Message>) -> Result<Weights> {
    let folder = folder.join(part.name());
    if !present(&folder)? || !files::is_folder(&folder) {
        return Err(Error::file(&folder, "the model lacks this folder: get the model again"));
    }
    weights_in(&folder, part, notes)
}

/// Configuration and weights of the part whose own folder is `folder`.
pub(crate) fn weights_in(folder: &Path, part: PartId, notes: &mut Vec<Message>) -> Result<Weights> {
    let config = required(&folder.join("config.json"))?;
    let files = files(folder, part.stem())?;
    if let Some(key) = files.iter().flat_map(SafeTensors::names).find(|name| is_adapter_key(name)) {
        let message = "holds a LoRA that is not merged";
        let fault = format!("{}: {message} ('{key}'): the weights are used without it", folder.display());
        notes.push(message![fault, "; to have it, save it by itself and give it with ", option("loras")]);
    }
    Weights::new(part, folder.display().to_string(), config, files)
}

/// The weight files: whole or sharded, full precision before the variants of half the size.
pub(crate) fn files(folder: &Path, stem: &str) -> Result<Vec<SafeTensors>> {
    for variant in ["", ".fp16", ".bf16"] {
        let whole = folder.join(format!("{stem}{variant}.safetensors"));
        if present(&whole)? {
            return Ok(vec![SafeTensors::open(whole)?]);
        }
        // diffusers has put the variant on either side of the ending.
        for name in
            [format!("{stem}{variant}.safetensors.index.json"), format!("{stem}.safetensors.index{variant}.json")]
        {
            let index = folder.join(name);
            if present(&index)? {
                return shards(folder, &Source::open(index)?);
            }
        }
    }
    let pickled =
        |path: &&PathBuf| path.extension().is_some_and(|ending| ["bin", "ckpt", "pt"].iter().any(|e| ending == *e));
    if let Some(name) =
        files::entries(folder).unwrap_or_default().iter().find(pickled).and_then(|path| path.file_name())
    {
        let (name, model) = (name.to_string_lossy(), folder.parent().unwrap_or(folder).display());
        let message = format!(
            "has pickled weights only ({name}), which run code of their author's when they are opened: where you trust \
             them, convert the model with python -c \"from diffusers import DiffusionPipeline as P; \
             P.from_pretrained('{model}').save_pretrained('{model}-safetensors')\""
        );
        return Err(Error::file(folder, message));
    }
    let expected = format!("has no weights: expected {stem}.safetensors");
    let names = files::entries(folder).unwrap_or_default();
    let names = names.iter().filter_map(|path| path.file_name()?.to_str().map(str::to_owned));
    let mut others: Vec<String> = names.filter(|name| name.ends_with(".safetensors")).collect();
    others.sort();
    let (shards, wholes): (Vec<&String>, Vec<&String>) = others.iter().partition(|name| is_shard(name));
    let message = match (wholes.as_slice(), shards.as_slice()) {
        ([], []) => format!("{expected}: get the model again"),
        ([], [first, ..]) => {
            let count = shards.len();
            format!(
                "has {count} shards ({first}, ...) without their index: get {stem}.safetensors.index.json, which says \
                 what is in them"
            )
        }
        _ => format!("{expected}, here are {}: give the one to be used that name", others.join(", ")),
    };
    Err(Error::file(folder, message))
}

/// Returns whether `name` is a shard: `stem-00001-of-00002.safetensors`.
fn is_shard(name: &str) -> bool {
    let numbers = name.trim_end_matches(".safetensors").rsplit_once("-of-");
    numbers.is_some_and(|(front, total)| {
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|c| c.is_ascii_digit());
        digits(total) && front.rsplit_once('-').is_some_and(|(_, number)| digits(number))
    })
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
    for name in &names {
        let path = folder.join(name);
        if !present(&path)? {
            let message = format!("no such file, a part of the weights that {} names: get it again", index.name());
            return Err(Error::file(path, message));
        }
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
