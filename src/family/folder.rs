//! A diffusers folder: which family it is of, and whether its parts are those that are read.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use super::description::Family;
use super::known::FAMILIES;
use super::refusals::TAKES;
use crate::error::{Error, Message, Result};
use crate::io::checkpoints::discover::{self, GIVE_A_FOLDER, present};
use crate::io::source::object;
use crate::io::{Checkpoint, PartId, Source, TokenizerFiles, Weights, files};

/// Pipelines of the same family whose UNet is another, or not all there is.
const OTHER_PIPELINES: [(&str, &str); 12] = [
    ("StableDiffusionXLControlNet", "a Stable Diffusion XL model with a ControlNet"),
    ("StableDiffusionXLInstructPix2Pix", "a Stable Diffusion XL InstructPix2Pix model"),
    ("StableDiffusionXLAdapter", "a Stable Diffusion XL model with a T2I-Adapter"),
    ("Kolors", "a Kolors model, whose text encoder is ChatGLM"),
    ("StableDiffusionControlNet", "a model with a ControlNet"),
    ("StableDiffusionInstructPix2Pix", "an InstructPix2Pix model"),
    ("StableDiffusionDepth2Img", "a depth-to-image model"),
    ("StableDiffusionUpscale", "an upscaler's model"),
    ("StableDiffusionLatentUpscale", "an upscaler's model"),
    ("StableDiffusionImageVariation", "a model that reads images in place of prompts"),
    ("StableDiffusionGLIGEN", "a GLIGEN model"),
    ("StableUnCLIP", "a Stable unCLIP model"),
];

/// Classes that `model_index.json` and `config.json` may name for what is read here; subclasses have names that hold
/// these.
const CLASSES: [(&str, &[&str]); 6] = [
    ("text_encoder_2", &["CLIPTextModelWithProjection"]),
    ("tokenizer_2", &["CLIPTokenizer", "TokenizersBackend", "PreTrainedTokenizerFast"]),
    ("text_encoder", &["CLIPTextModel", "CLIPModel"]),
    ("tokenizer", &["CLIPTokenizer", "TokenizersBackend", "PreTrainedTokenizerFast"]),
    ("unet", &["UNet2DConditionModel"]),
    ("vae", &["AutoencoderKL"]),
];
/// Names that a text encoder's `config.json` may give itself.
const TEXT_TYPES: [&str; 2] = ["clip_text_model", "clip"];
/// Classes of which the name holds one of the above, and which are others.
const OTHER_CLASSES: [&str; 3] = ["AutoencoderKLTemporalDecoder", "AutoencoderKLMagvit", "AsymmetricAutoencoderKL"];

/// Opens the diffusers folder `folder`.
pub(super) fn open(folder: &Path) -> Result<Checkpoint> {
    let model_index = model_index(folder)?;
    let index = object(&model_index)?;
    let family = family_of(&index, folder)?;
    let mut notes = Vec::new();
    let mut parts = BTreeMap::new();
    for part in family.parts() {
        parts.insert(part, discover::weights(folder, part, &mut notes)?);
    }
    let scheduler_source = discover::required(&folder.join("scheduler").join("scheduler_config.json"))?;
    let mut tokenizers = BTreeMap::new();
    for encoder in family.encoders {
        tokenizers.insert(encoder.tokenizer, TokenizerFiles::open(folder.join(encoder.tokenizer))?);
    }
    let mut scheduler = object(&scheduler_source)?;
    check_classes(&index, model_index.name(), &parts, &mut scheduler, &mut notes)?;
    Ok(Checkpoint {
        name: folder.display().to_string(),
        folder: Some(folder.into()),
        model_index,
        parts,
        scheduler_source,
        scheduler,
        tokenizers,
        prediction_by: Some("its scheduler_config.json".into()),
        notes,
    })
}

/// The family of the folder with that `model_index.json`, or a refusal of what it is.
fn family_of(index: &Value, folder: &Path) -> Result<&'static Family> {
    let class = index.get("_class_name").and_then(Value::as_str).unwrap_or("model of unknown class");
    let component = |name: &str| index.get(name)?.get(1)?.as_str();
    if let Some(scheduler) = component("scheduler").filter(|class| class.starts_with("EDM")) {
        let message =
            format!("is a model whose noise levels are EDM's ({scheduler}), as Playground 2.5 and CosXL; {TAKES}");
        return Err(Error::file(folder, message));
    }
    let scored = index.get("requires_aesthetics_score").and_then(Value::as_bool) == Some(true);
    let second_alone = component("text_encoder").is_none() && component("text_encoder_2").is_some();
    if class.starts_with("StableDiffusionXL") && (scored || second_alone) {
        return Err(Error::file(folder, format!("is a Stable Diffusion XL refiner ({class}); {TAKES}")));
    }
    if let Some(family) = FAMILIES.into_iter().find(|family| family.pipelines.contains(&class)) {
        return Ok(family);
    }
    let named = OTHER_PIPELINES.iter().find(|(start, _)| class.starts_with(start));
    let message = match named {
        Some((_, what)) => format!("is {what} ({class}); {TAKES}"),
        None => format!("is a {class}; {TAKES}"),
    };
    Err(Error::file(folder, message))
}

/// Refuses parts of another kind than is read, by the classes that `model_index.json` and the configurations name, and
/// settles the scheduler's class as diffusers does: by `model_index.json`.
fn check_classes(
    index: &Value,
    index_name: &str,
    parts: &BTreeMap<PartId, Weights>,
    scheduler: &mut Value,
    notes: &mut Vec<Message>,
) -> Result<()> {
    let pair = |part: &str| Some((index.get(part)?.get(0)?.as_str()?, index.get(part)?.get(1)?.as_str()?));
    for (part, known) in CLASSES {
        if let Some((library, class)) = pair(part).filter(|(_, class)| !fits(class, known)) {
            let message = format!("its {part} is a {class} of {library}, only {} is supported", known[0]);
            return Err(Error::file(index_name, message));
        }
    }
    parts.values().try_for_each(check_class)?;
    let own = scheduler.get("_class_name").and_then(Value::as_str).unwrap_or("none").to_owned();
    if let Some((_, class)) = pair("scheduler").filter(|(_, class)| *class != own) {
        notes.push(format!(
            "{index_name}: names the scheduler {class}, scheduler_config.json {own}: {class} is used, as in diffusers"
        ).into());
        scheduler["_class_name"] = class.into();
    }
    Ok(())
}

fn fits(class: &str, known: &[&str]) -> bool {
    known.iter().any(|name| class.contains(name)) && !OTHER_CLASSES.contains(&class)
}

/// Refuses a part of another kind than is read, by the class that its configuration names.
pub(super) fn check_class(weights: &Weights) -> Result<()> {
    let (config, name) = (weights.config(), weights.config_source().name());
    let known = CLASSES.iter().find(|(part, _)| *part == weights.part().name()).map_or(&[][..], |(_, known)| known);
    let listed = config.get("architectures").and_then(Value::as_array).into_iter().flatten();
    let class = config.get("_class_name").into_iter().chain(listed).filter_map(Value::as_str);
    if let Some(class) = class.into_iter().find(|class| !fits(class, known)) {
        return Err(Error::file(name, format!("is of a {class}, only {} is supported", known[0])));
    }
    let kind = config.get("model_type").and_then(Value::as_str).filter(|_| weights.part().is_text_encoder());
    match kind.filter(|kind| !TEXT_TYPES.contains(kind)) {
        Some(kind) => Err(Error::file(name, format!("model_type is {kind}, only clip_text_model is supported"))),
        None => Ok(()),
    }
}

/// Class that the configuration in `folder` names.
fn class_of(folder: &Path) -> Option<String> {
    let config = object(&Source::open(folder.join("config.json")).ok()?).ok()?;
    Some(config.get("_class_name")?.as_str()?.to_owned())
}

/// `model_index.json` of a folder.
fn model_index(folder: &Path) -> Result<Source> {
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
                _ => match class_of(folder) {
                    Some(class) if class.contains("ControlNet") => format!("is a ControlNet ({class}); {TAKES}"),
                    _ => format!("has no model_index.json: {GIVE_A_FOLDER}"),
                },
            },
        ));
    }
    Source::open(&path)
}
