//! Kinds of vision models, by the folder's `config.json`, and refusals of other folders as what they are.

use std::path::Path;

use serde_json::Value;

use crate::error::{Error, Result, message, option};
use crate::io::checkpoints::discover::present;
use crate::io::source::object;
use crate::io::{Source, files};
use crate::models::vision::VisionKind;

/// Models that are read.
pub(super) const TAKES: &str = "a vision model is a folder of ViT (such as DINO), DINOv2 or CLIP as transformers saves it: config.json, \
     preprocessor_config.json, model.safetensors";

/// A folder's `config.json` and the kind that it names.
pub(super) struct Described {
    pub config: Value,
    /// Name of the file, for messages.
    pub file: String,
    pub kind: VisionKind,
    /// Class of the model, for people.
    pub class: String,
    /// Whether the model may have a text side: it is a whole CLIP.
    pub whole_clip: bool,
}

/// Reads what `folder` says of itself.
///
/// # Errors
/// [`Error::File`] that says what it is instead of a vision model.
pub(super) fn describe(folder: &Path) -> Result<Described> {
    if files::is_file(folder) {
        return Err(Error::file(folder, format!("is a file: {TAKES}")));
    }
    if !present(folder)? {
        return Err(Error::file(folder, "no such folder"));
    }
    let (path, index) = (folder.join("config.json"), folder.join("model_index.json"));
    if present(&index)? {
        let class = object(&Source::open(&index)?)?;
        let class = class.get("_class_name").and_then(Value::as_str).unwrap_or("model of unknown class");
        let what = format!("is a diffusion model's folder ({class}), which goes with ");
        return Err(Error::file(folder, message![what, option("model"), format!(": {TAKES}")]));
    }
    if !present(&path)? {
        let mut snapshots = files::entries(folder.join("snapshots")).unwrap_or_default();
        snapshots.sort();
        return Err(Error::file(
            folder,
            match snapshots.last() {
                Some(inside) => format!("is a model in the hub's cache: give {}", inside.display()),
                None => format!("has no config.json: {TAKES}"),
            },
        ));
    }
    let source = Source::open(&path)?;
    let config = object(&source)?;
    let (kind, class, whole_clip) = kind(&config, folder)?;
    Ok(Described { config, file: source.name().to_owned(), kind, class, whole_clip })
}

/// Kind, class and whether it is a whole CLIP.
fn kind(config: &Value, folder: &Path) -> Result<(VisionKind, String, bool)> {
    let text = |name: &str| config.get(name).and_then(Value::as_str);
    let listed = config.get("architectures").and_then(Value::as_array).and_then(|list| list.first()?.as_str());
    let class = listed.or(text("_class_name"));
    let known = |kind, default: &str, whole| Ok((kind, class.unwrap_or(default).to_owned(), whole));
    if class.is_some_and(|class| class.starts_with("CLIPTextModel")) || text("model_type") == Some("clip_text_model") {
        let class = class.unwrap_or("CLIPTextModel");
        return Err(Error::file(folder, format!("is CLIP's text side alone ({class}): give a whole CLIP (CLIPModel)")));
    }
    // Early files name no type.
    let by_class = match class {
        Some("ViTModel" | "ViTForImageClassification") => Some("vit"),
        Some("Dinov2Model" | "Dinov2ForImageClassification") => Some("dinov2"),
        Some("Dinov2WithRegistersModel") => Some("dinov2_with_registers"),
        Some("CLIPModel") => Some("clip"),
        Some("CLIPVisionModel" | "CLIPVisionModelWithProjection") => Some("clip_vision_model"),
        _ => None,
    };
    match text("model_type").or(by_class) {
        Some("vit") => known(VisionKind::Vit, "ViTModel", false),
        Some("dinov2") => known(VisionKind::Dinov2, "Dinov2Model", false),
        Some("dinov2_with_registers") => known(VisionKind::Dinov2WithRegisters, "Dinov2WithRegistersModel", false),
        Some("clip") => known(VisionKind::Clip, "CLIPModel", true),
        Some("clip_vision_model") => known(VisionKind::Clip, "CLIPVisionModel", false),
        other => {
            let what = match (other, class) {
                (Some(kind), Some(class)) => format!("is a model of type {kind} ({class})"),
                (Some(kind), None) => format!("is a model of type {kind}"),
                (None, Some(class)) => format!("is a {class}"),
                (None, None) => "does not say in config.json of which type it is (model_type)".into(),
            };
            Err(Error::file(folder, format!("{what}: {TAKES}")))
        }
    }
}
