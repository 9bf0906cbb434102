//! The tensors of one part under their canonical names, whatever age the files have.

use std::collections::BTreeMap;

use serde_json::Value;

use super::original::{Names, Third};
use super::{Part, object};
use crate::error::{Error, Result};
use crate::io::{SafeTensors, Source, Tensor};

/// Configuration and tensors of one part of a model.
#[derive(Clone, Debug)]
pub struct Weights {
    part: Part,
    location: String,
    config_source: Source,
    config: Value,
    files: Vec<SafeTensors>,
    index: BTreeMap<String, Place>,
    /// What a single file calls the tensors; `None` where they have diffusers' names.
    names: Option<Names>,
}

#[derive(Clone, Debug)]
struct Place {
    file: usize,
    stored_name: String,
    /// A 1x1 convolution that stands for a linear layer is seen as `[out, in]`.
    squeeze: bool,
    /// The tensor is these rows of the stored one.
    third: Option<Third>,
}

impl Weights {
    /// The tensors of `files` under diffusers' names.
    pub(super) fn new(part: Part, location: String, config: Source, files: Vec<SafeTensors>) -> Result<Weights> {
        let json = object(&config)?;
        let index =
            index(part, &files, |stored| canonical(part, stored).map(|name| (name, None)).into_iter().collect())?;
        Ok(Weights { part, location, config: json, config_source: config, files, index, names: None })
    }

    /// The tensors of a single file in the original layout that belong to `part`.
    pub(super) fn original(
        part: Part,
        location: String,
        config: Source,
        file: SafeTensors,
        names: Names,
    ) -> Result<Weights> {
        let (json, files) = (object(&config)?, vec![file]);
        let parameters = |stored: &str| if is_buffer(stored) { Vec::new() } else { names.canonical(stored) };
        let index = index(part, &files, parameters)?;
        Ok(Weights { part, location, config: json, config_source: config, files, index, names: Some(names) })
    }

    /// Which part this is.
    pub fn part(&self) -> Part {
        self.part
    }

    /// Its folder, for messages.
    pub fn location(&self) -> &str {
        &self.location
    }

    /// `config.json`.
    pub fn config(&self) -> &Value {
        &self.config
    }

    /// Changes what a single file's configuration says: it has none of its own.
    pub(super) fn change_config(&mut self, change: impl FnOnce(&mut Value)) {
        change(&mut self.config);
        self.config_source = Source::from_bytes(self.config_source.name(), self.config.to_string().into_bytes());
    }

    /// `config.json` as it is on the disk.
    pub fn config_source(&self) -> &Source {
        &self.config_source
    }

    /// The weight files, where they hold this part alone under diffusers' names.
    pub(super) fn own_files(&self) -> Option<&[SafeTensors]> {
        self.names.is_none().then_some(self.files.as_slice())
    }

    /// Canonical tensor names in order.
    pub fn names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.index.keys().map(String::as_str)
    }

    /// Whether there is a tensor of that name.
    pub fn contains(&self, name: &str) -> bool {
        self.index.contains_key(name)
    }

    /// The tensor `name`, if the part has it.
    pub fn find(&self, name: &str) -> Option<Tensor<'_>> {
        let (name, place) = self.index.get_key_value(name)?;
        let mut tensor = self.files.get(place.file)?.find(&place.stored_name)?.renamed(name.as_str());
        if place.squeeze {
            tensor.shape = tensor.shape[..2].to_vec().into();
        }
        if let Some(Third(i)) = place.third {
            tensor = tensor.rows(tensor.shape.first()? / 3 * i, tensor.shape.first()? / 3)?;
        }
        Some(tensor)
    }

    /// The tensor `name`.
    ///
    /// # Errors
    /// [`Error::File`] naming the part's folder and the tensor.
    pub fn get(&self, name: &str) -> Result<Tensor<'_>> {
        self.find(name).ok_or_else(|| {
            let stored = self.stored_name(name);
            let message = match self.names.is_some() {
                true => format!("lacks tensor '{stored}': get the complete checkpoint"),
                false => format!("the weights have no tensor '{name}': config.json and weights differ"),
            };
            Error::file(&self.location, message)
        })
    }

    /// The tensor `name`, which must have `shape`.
    ///
    /// # Errors
    /// As [`Weights::get`], and [`Error::File`] with both shapes when they differ.
    pub fn get_shaped(&self, name: &str, shape: &[usize]) -> Result<Tensor<'_>> {
        let tensor = self.get(name)?;
        if *tensor.shape == *shape {
            return Ok(tensor);
        }
        let by = if self.names.is_some() { "the file's other tensors" } else { "config.json" };
        let message = format!("has shape {:?}, by {by} it must be {shape:?}", tensor.shape);
        Err(tensor.renamed(self.stored_name(name)).error(message))
    }

    /// What the file calls the tensor `name`, for messages.
    pub fn stored_name(&self, name: &str) -> String {
        self.names.as_ref().and_then(|names| names.original(name)).map_or(name.to_owned(), |(original, _)| original)
    }

    /// Gives the pages of `tensor`, one of these, back to the system; see [`Source::release`].
    pub fn release(&self, tensor: &Tensor<'_>) {
        self.files.iter().for_each(|file| tensor.release(file.source()));
    }

    /// All tensors in the order of their canonical names.
    pub fn iter(&self) -> impl Iterator<Item = Tensor<'_>> {
        self.index.keys().filter_map(|name| self.find(name))
    }

    /// Number of parameters.
    pub fn parameters(&self) -> usize {
        self.iter().map(|tensor| tensor.elements()).sum()
    }

    /// Linear layers and convolutions by module path, with the shape of their weight.
    pub fn modules(&self) -> BTreeMap<String, Vec<usize>> {
        self.weights_of(|extents| matches!(extents, 2 | 4))
    }

    /// Norms by module path, with the shape of their factors.
    pub fn norms(&self) -> BTreeMap<String, Vec<usize>> {
        self.weights_of(|extents| extents == 1)
    }

    fn weights_of(&self, with: impl Fn(usize) -> bool) -> BTreeMap<String, Vec<usize>> {
        self.iter()
            .filter(|tensor| with(tensor.shape.len()) && !tensor.name.contains("embeddings."))
            .filter_map(|tensor| Some((tensor.name.strip_suffix(".weight")?.to_owned(), tensor.shape.to_vec())))
            .collect()
    }
}

/// Where each of a part's tensors lies; `names` gives what a stored tensor stands for.
fn index(
    part: Part,
    files: &[SafeTensors],
    names: impl Fn(&str) -> Vec<(String, Option<Third>)>,
) -> Result<BTreeMap<String, Place>> {
    let mut index = BTreeMap::new();
    for (file, tensors) in files.iter().enumerate() {
        for tensor in tensors.iter() {
            for (name, third) in names(&tensor.name) {
                if third.is_some() && !tensor.shape.first().is_some_and(|rows| rows.is_multiple_of(3)) {
                    return Err(tensor.error(format!("has shape {:?}: its rows are no three thirds", tensor.shape)));
                }
                let squeeze = is_vae_attention(part, &name) && matches!(*tensor.shape, [_, _, 1, 1]);
                let place = Place { file, stored_name: tensor.name.to_string(), squeeze, third };
                if index.insert(name.clone(), place).is_some() {
                    return Err(tensor.error(format!("is there twice, both stand for '{name}'")));
                }
            }
        }
    }
    Ok(index)
}

/// Older transformers saved this buffer of 0, 1, 2, …
fn is_buffer(stored: &str) -> bool {
    stored.ends_with("embeddings.position_ids")
}

/// The name that today's diffusers gives the tensor; `None` for what is no parameter.
fn canonical(part: Part, stored: &str) -> Option<String> {
    match part {
        Part::Unet => Some(stored.to_owned()),
        Part::TextEncoder if is_buffer(stored) => None,
        // CLIPTextModelWithProjection's head, which Stable Diffusion does not use.
        Part::TextEncoder if stored == "text_projection.weight" => None,
        Part::TextEncoder if stored.starts_with("text_model.") => Some(stored.to_owned()),
        Part::TextEncoder => Some(format!("text_model.{stored}")),
        Part::Vae => Some(vae_name(stored)),
    }
}

/// Before diffusers 0.18 the VAE's attention had names of its own (`attention_processor.py`, `AttentionBlock`).
fn vae_name(stored: &str) -> String {
    const RENAMED: [(&str, &str); 4] =
        [("query", "to_q"), ("key", "to_k"), ("value", "to_v"), ("proj_attn", "to_out.0")];
    if let Some((module, leaf)) = stored.rsplit_once('.') {
        for (old, new) in RENAMED {
            if let Some(block) = module.strip_suffix(old).filter(|block| block.ends_with(".attentions.0.")) {
                return format!("{block}{new}.{leaf}");
            }
        }
    }
    stored.to_owned()
}

fn is_vae_attention(part: Part, name: &str) -> bool {
    part == Part::Vae && name.contains(".attentions.0.to_")
}
