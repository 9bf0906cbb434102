//! Finding a model's files in a folder, and saying what else the folder may be.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;

use super::{Part, Weights};
use crate::error::{Error, Message, Result, message, option};
use crate::io::families::TAKES;
use crate::io::lora_file::is_adapter_key;
use crate::io::source::object;
use crate::io::{SafeTensors, Source, files};

const GIVE_A_FOLDER: &str = "give a diffusers folder (model_index.json, unet/, vae/, text_encoder/, tokenizer/, \
     scheduler/) or a single .safetensors file in the original layout";

/// Pipelines that are made of the parts that are read here, and of no others.
const PIPELINES: [&str; 8] = [
    "StableDiffusionPipeline",
    "StableDiffusionPipelineSafe",
    "StableDiffusionKDiffusionPipeline",
    "StableDiffusionImg2ImgPipeline",
    "StableDiffusionInpaintPipeline",
    "StableDiffusionPanoramaPipeline",
    "StableDiffusionSAGPipeline",
    "StableDiffusionAttendAndExcitePipeline",
];

/// Pipelines of the same family whose UNet is another, or not all there is.
const OTHER_PIPELINES: [(&str, &str); 8] = [
    ("StableDiffusionControlNet", "a model with a ControlNet"),
    ("StableDiffusionInstructPix2Pix", "an InstructPix2Pix model"),
    ("StableDiffusionDepth2Img", "a depth-to-image model"),
    ("StableDiffusionUpscale", "an upscaler's model"),
    ("StableDiffusionLatentUpscale", "an upscaler's model"),
    ("StableDiffusionImageVariation", "a model that reads pictures in place of prompts"),
    ("StableDiffusionGLIGEN", "a GLIGEN model"),
    ("StableUnCLIP", "a Stable unCLIP model"),
];

/// Classes that `model_index.json` and `config.json` may name for what is read here; subclasses have names that hold
/// these.
const CLASSES: [(&str, &[&str]); 4] = [
    ("text_encoder", &["CLIPTextModel", "CLIPModel"]),
    ("tokenizer", &["CLIPTokenizer", "TokenizersBackend", "PreTrainedTokenizerFast"]),
    ("unet", &["UNet2DConditionModel"]),
    ("vae", &["AutoencoderKL"]),
];
/// Names that a text encoder's `config.json` may give itself.
const TEXT_TYPES: [&str; 2] = ["clip_text_model", "clip"];
/// Classes of which the name holds one of the above, and which are others.
const OTHER_CLASSES: [&str; 2] = ["AutoencoderKLTemporalDecoder", "AutoencoderKLMagvit"];

/// Returns whether something is at `path`.
///
/// # Errors
/// [`Error::File`] for a link that leads nowhere: the hub's cache links to files that an unfinished download, or a
/// clean-up, has left out.
fn present(path: &Path) -> Result<bool> {
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
pub fn refuse_part_of_folder(path: &Path) -> Result<()> {
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

/// Refuses parts of another kind than is read, by the classes that `model_index.json` and the configurations name, and
/// settles the scheduler's class as diffusers does: by `model_index.json`.
pub fn check_classes(
    index: &Value,
    index_name: &str,
    parts: &[Weights; 3],
    scheduler: &mut Value,
    notes: &mut Vec<Message>,
) -> Result<()> {
    let fits =
        |class: &str, known: &[&str]| known.iter().any(|name| class.contains(name)) && !OTHER_CLASSES.contains(&class);
    let pair = |part: &str| Some((index.get(part)?.get(0)?.as_str()?, index.get(part)?.get(1)?.as_str()?));
    for (part, known) in CLASSES {
        if let Some((library, class)) = pair(part).filter(|(_, class)| !fits(class, known)) {
            let message = format!("its {part} is a {class} of {library}, only {} is supported", known[0]);
            return Err(Error::file(index_name, message));
        }
    }
    for weights in parts {
        let (config, name) = (weights.config(), weights.config_source().name());
        let known = CLASSES.iter().find(|(part, _)| *part == weights.part().name()).map_or(&[][..], |(_, known)| known);
        let listed = config.get("architectures").and_then(Value::as_array).into_iter().flatten();
        let class = config.get("_class_name").into_iter().chain(listed).filter_map(Value::as_str);
        if let Some(class) = class.into_iter().find(|class| !fits(class, known)) {
            return Err(Error::file(name, format!("is of a {class}, only {} is supported", known[0])));
        }
        let kind = config.get("model_type").and_then(Value::as_str).filter(|_| weights.part() == Part::TextEncoder);
        if let Some(kind) = kind.filter(|kind| !TEXT_TYPES.contains(kind)) {
            return Err(Error::file(name, format!("model_type is {kind}, only clip_text_model is supported")));
        }
    }
    let own = scheduler.get("_class_name").and_then(Value::as_str).unwrap_or("none").to_owned();
    if let Some((_, class)) = pair("scheduler").filter(|(_, class)| *class != own) {
        notes.push(format!(
            "{index_name}: names the scheduler {class}, scheduler_config.json {own}: {class} is used, as in diffusers"
        ).into());
        scheduler["_class_name"] = class.into();
    }
    Ok(())
}

/// `model_index.json` of a Stable Diffusion 1.x or 2.x folder.
pub fn model_index(folder: &Path) -> Result<Source> {
    if !present(folder)? {
        return Err(Error::file(folder, "no such model folder or file"));
    }
    let path = folder.join("model_index.json");
    if !present(&path)? {
        let inside = files::exists(folder.join("config.json")) || files::exists(folder.join("scheduler_config.json"));
        let parent = folder.parent().filter(|p| inside && files::exists(p.join("model_index.json")));
        let mut snapshots = files::entries(folder.join("snapshots")).unwrap_or_default();
        snapshots.sort();
        return Err(Error::file(
            folder,
            match (parent, snapshots.last()) {
                (Some(parent), _) => format!("is one part of a model: give {}", parent.display()),
                (_, Some(inside)) => format!("is a model in the hub's cache: give {}", inside.display()),
                _ => format!("has no model_index.json: {GIVE_A_FOLDER}"),
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
    if !present(path)? {
        return Err(Error::file(path, "no such file, which every model has: get the model again"));
    }
    Source::open(path)
}

/// Configuration and weights of one part; `notes` gets what of the files is left out.
pub fn weights(folder: &Path, part: Part, notes: &mut Vec<Message>) -> Result<Weights> {
    let folder = folder.join(part.name());
    if !present(&folder)? || !files::is_folder(&folder) {
        return Err(Error::file(&folder, "the model lacks this folder: get the model again"));
    }
    let config = required(&folder.join("config.json"))?;
    let files = files(&folder, part.stem())?;
    if let Some(key) = files.iter().flat_map(SafeTensors::names).find(|name| is_adapter_key(name)) {
        let message = "holds a LoRA that is not merged";
        let fault = format!("{}: {message} ('{key}'): the weights are used without it", folder.display());
        notes.push(message![fault, "; to have it, save it by itself and give it with ", option("loras")]);
    }
    Weights::new(part, folder.display().to_string(), config, files)
}

/// The weight files: whole or sharded, full precision before the variants of half the size.
fn files(folder: &Path, stem: &str) -> Result<Vec<SafeTensors>> {
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
        ["diffusion_pytorch_model.bin", "pytorch_model.bin", "model.ckpt", "diffusion_pytorch_model.fp16.bin"];
    if let Some(name) = pickled.iter().find(|name| files::exists(folder.join(name))) {
        let message = format!(
            "has pickled weights only ({name}): save the model again with diffusers' save_pretrained(…, \
             safe_serialization=True)"
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
