//! An open folder of a vision model.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::kind::{Described, describe};
use super::processor;
use crate::error::{Error, Result};
use crate::io::checkpoints::discover;
use crate::io::image::Preprocessing;
use crate::io::{ClipTokenizer, SafeTensors, Tensor, files};
use crate::models::TextEncoderConfig;
use crate::models::vision::{Stored, VisionConfig, VisionKind, stored};

/// Text side of a CLIP.
#[derive(Clone, Debug)]
pub struct ClipText {
    /// Its configuration, with the projection.
    pub config: TextEncoderConfig,
    /// Id of the token whose state is the text's: its first occurrence. `None`: the largest id of a text, as in files that say
    /// 2, which is no token's id.
    pub end: Option<u32>,
}

/// A vision model's folder: configurations, and weight files whose headers are checked.
#[derive(Clone, Debug)]
pub struct VisionFolder {
    path: PathBuf,
    class: String,
    files: Vec<SafeTensors>,
    /// Image tower.
    pub images: VisionConfig,
    /// Text side, where there is one.
    pub texts: Option<ClipText>,
    /// Preparation of images.
    pub preprocessing: Preprocessing,
}

impl VisionFolder {
    /// Opens the folder at `path`. Tensors are looked up when asked for.
    ///
    /// # Errors
    /// [`Error::File`] in one line with the remedy: not a vision model but another one, pickled weights only, a file missing
    /// or malformed.
    pub fn open(path: &Path) -> Result<VisionFolder> {
        let Described { config, file, kind, class, whole_clip } = describe(path)?;
        refuse_pickles(path)?;
        let files = discover::files(path, "model")?;
        let has = |name: &str| files.iter().any(|file| file.contains(name) || file.contains(&format!("clip.{name}")));
        let has_text = whole_clip && has("text_model.final_layer_norm.weight");
        let (part, width) = match whole_clip {
            true => (inner(&config, "vision_config"), config.get("projection_dim").filter(|width| !width.is_null())),
            false => (config.clone(), config.get("projection_dim")),
        };
        let projected = class == "CLIPModel" || has("visual_projection.weight");
        let width = width.map_or(Some(512), Value::as_u64).and_then(|width| usize::try_from(width).ok());
        let Some(width) = width else {
            let given = config.get("projection_dim").cloned().unwrap_or_default();
            return Err(Error::file(file, format!("projection_dim is {given}: expected a whole number")));
        };
        let texts = has_text.then(|| clip_text(&file, &config, width)).transpose()?;
        Ok(VisionFolder {
            images: VisionConfig::parse(&file, &part, kind, projected.then_some(width))?,
            texts,
            preprocessing: processor::read(path, kind)?,
            path: path.into(),
            class,
            files,
        })
    }

    /// The folder, as it was given.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Class of the model: `ViTModel`, `Dinov2Model`, `Dinov2WithRegistersModel`, `CLIPModel`, or what the folder says.
    pub fn class(&self) -> &str {
        &self.class
    }

    /// The model's tokenizer.
    ///
    /// # Errors
    /// [`Error::File`] if the model reads no text, or a file is missing or malformed.
    pub fn tokenizer(&self) -> Result<ClipTokenizer> {
        self.text()?;
        ClipTokenizer::open(&self.path)
    }

    /// The text side.
    ///
    /// # Errors
    /// [`Error::File`] that says what the model is, if it reads no text.
    pub fn text(&self) -> Result<&ClipText> {
        self.texts.as_ref().ok_or_else(|| {
            let what = match self.images.kind {
                VisionKind::Clip => "is CLIP's image side alone",
                _ => "is an image model",
            };
            let class = &self.class;
            Error::file(&self.path, format!("{what} ({class}) and reads no text: give a whole CLIP (CLIPModel)"))
        })
    }

    /// Tensor `name` of the image tower, under the names of [`crate::models::vision`], as `shape` (dimensions of one in front
    /// are not counted).
    ///
    /// # Errors
    /// [`Error::File`] naming the tensor if it is missing or has another shape.
    pub fn image_tensor(&self, name: &str, shape: &[usize]) -> Result<Tensor<'_>> {
        self.tensor(&stored(self.images.kind, name), shape)
    }

    /// Tensor `name` of the text side, as `shape`.
    ///
    /// # Errors
    /// As [`VisionFolder::image_tensor`].
    pub fn text_tensor(&self, name: &str, shape: &[usize]) -> Result<Tensor<'_>> {
        let places = ["", "clip."].map(|root| Stored { name: format!("{root}{name}"), half: None });
        self.tensor(&places, shape)
    }

    fn tensor(&self, places: &[Stored], shape: &[usize]) -> Result<Tensor<'_>> {
        let find = |place: &Stored| self.files.iter().find_map(|file| file.find(&place.name));
        let found = places.iter().find_map(|place| Some((find(place)?, place.half)));
        let Some((tensor, half)) = found else {
            let name = places.first().map_or("", |place| &place.name);
            let message = format!("lacks tensor '{name}': its config.json asks for it; get the model again");
            return Err(Error::file(&self.path, message));
        };
        let mut whole = shape.to_vec();
        if let (Some(rows), Some(_)) = (whole.first_mut(), half) {
            *rows *= 2;
        }
        let kept = tensor.shape.len().saturating_sub(whole.len());
        let (ones, own) = tensor.shape.split_at(kept);
        if own != whole || ones.iter().any(|extent| *extent != 1) {
            return Err(tensor.error(format!("has shape {:?}, by config.json it must be {whole:?}", tensor.shape)));
        }
        let tensor = tensor.reshaped(whole)?;
        let Some(half) = half else { return Ok(tensor) };
        let (rows, given) = (shape[0], tensor.shape.to_vec());
        tensor.rows(half * rows, rows).ok_or_else(|| tensor.error(format!("has shape {given:?}, no two halves")))
    }
}

/// Configuration `name` inside a CLIP's. Early files have it twice, and the one that ends in `_dict` counts.
fn inner(config: &Value, name: &str) -> Value {
    let of = |name: &str| config.get(name).filter(|inner| inner.is_object()).cloned();
    of(&format!("{name}_dict")).or_else(|| of(name)).unwrap_or_else(|| json!({}))
}

fn clip_text(file: &str, config: &Value, projection: usize) -> Result<ClipText> {
    let mut text = inner(config, "text_config");
    let end = text.get("eos_token_id").cloned().unwrap_or_else(|| json!(49407));
    let end = end.as_array().and_then(|list| list.first()).unwrap_or(&end).as_u64();
    if let Some(fields) = text.as_object_mut() {
        fields.insert("architectures".into(), json!(["CLIPTextModelWithProjection"]));
        fields.insert("projection_dim".into(), json!(projection));
    }
    let config = TextEncoderConfig::parse(file, &text.to_string())?;
    Ok(ClipText { config, end: end.filter(|end| *end != 2).and_then(|end| u32::try_from(end).ok()) })
}

/// Refuses a folder whose weights are pickled only.
fn refuse_pickles(folder: &Path) -> Result<()> {
    let names = files::entries(folder).unwrap_or_default();
    let names: Vec<String> =
        names.iter().filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned())).collect();
    let pickled = names.iter().find(|name| name.ends_with(".bin") || name.ends_with(".pt") || name.ends_with(".pth"));
    let Some(name) = pickled.filter(|_| !names.iter().any(|name| name.contains(".safetensors"))) else { return Ok(()) };
    let path = folder.display();
    Err(Error::file(
        folder,
        format!(
            "has pickled weights only ({name}), which run code of their author's when they are opened: where you trust \
             them, convert the model with python -c \"from transformers import AutoModel as M; \
             M.from_pretrained('{path}').save_pretrained('{path}')\""
        ),
    ))
}
