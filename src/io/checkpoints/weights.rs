//! The tensors of one part under their canonical names, whatever age the files have.

use std::collections::{BTreeMap, HashSet};

use serde_json::Value;

use super::names::{Names, Stored, vae_attention};
use super::{PartId, wrappers};
use crate::error::{Error, Result};
use crate::io::source::object;
use crate::io::{SafeTensors, Source, Tensor};

/// Configuration and tensors of one part of a model.
#[derive(Clone, Debug)]
pub struct Weights {
    part: PartId,
    location: String,
    config_source: Source,
    config: Value,
    files: Vec<SafeTensors>,
    index: BTreeMap<String, Place>,
    /// Names in a single file; `None` if they are diffusers' names.
    names: Option<Names>,
    /// Whether names in the files have wrappers that diffusers' names lack.
    wrapped: bool,
}

#[derive(Clone, Debug)]
struct Place {
    file: usize,
    stored_name: String,
    /// A 1x1 convolution that stands for a linear layer is seen as `[out, in]`.
    squeeze: bool,
    /// How the tensor lies in the stored one.
    stored: Stored,
}

impl Weights {
    /// The tensors of `files` under diffusers' names.
    pub(crate) fn new(part: PartId, location: String, config: Source, files: Vec<SafeTensors>) -> Result<Weights> {
        let json = object(&config)?;
        let plain = files.into_iter().map(|file| wrappers::unwrap(file, wrappers::roots(part)));
        let (files, wrapped): (Vec<_>, Vec<_>) = plain.collect::<Result<Vec<_>>>()?.into_iter().unzip();
        let wrapped = wrapped.contains(&true);
        let index = index(part, &files, |stored| {
            canonical(part, stored).map(|name| (name, Stored::Whole)).into_iter().collect()
        })?;
        Ok(Weights { part, location, config: json, config_source: config, files, index, names: None, wrapped })
    }

    /// The tensors of a single file in the original layout that belong to `part`.
    pub(crate) fn original(
        part: PartId,
        location: String,
        config: Source,
        file: SafeTensors,
        names: Names,
    ) -> Result<Weights> {
        let (json, files) = (object(&config)?, vec![file]);
        let parameters = |stored: &str| if is_buffer(stored) { Vec::new() } else { names.canonical(stored) };
        let index = index(part, &files, parameters)?;
        Ok(Weights {
            part,
            location,
            config: json,
            config_source: config,
            files,
            index,
            names: Some(names),
            wrapped: false,
        })
    }

    /// The part.
    pub fn part(&self) -> PartId {
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
    pub(crate) fn change_config(&mut self, change: impl FnOnce(&mut Value)) {
        change(&mut self.config);
        self.config_source = Source::from_bytes(self.config_source.name(), self.config.to_string().into_bytes());
    }

    /// `config.json` as it is on the disk.
    pub fn config_source(&self) -> &Source {
        &self.config_source
    }

    /// The weight files, where they hold this part alone under diffusers' names.
    pub(super) fn own_files(&self) -> Option<&[SafeTensors]> {
        (self.names.is_none() && !self.wrapped).then_some(self.files.as_slice())
    }

    /// Canonical tensor names in order.
    pub fn names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.index.keys().map(String::as_str)
    }

    /// Returns whether there is a tensor of that name.
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
        match place.stored {
            Stored::Whole => Some(tensor),
            Stored::Third(i) => tensor.rows(tensor.shape.first()? / 3 * i, tensor.shape.first()? / 3),
            Stored::Transposed => Some(tensor.transposed()),
        }
    }

    /// The tensor `name`.
    ///
    /// # Errors
    /// [`Error::File`] naming the part's folder and the tensor.
    pub fn get(&self, name: &str) -> Result<Tensor<'_>> {
        self.find(name).ok_or_else(|| {
            Error::file(&self.location, format!("lacks tensor '{}': {}", self.stored_name(name), self.remedy()))
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
        // A convolution of one pixel and a linear layer have the same numbers.
        let stem = |shape: &[usize]| shape.strip_suffix(&[1, 1]).unwrap_or(shape).to_vec();
        if shape.len().abs_diff(tensor.shape.len()) == 2 && stem(&tensor.shape) == stem(shape) {
            return tensor.reshaped(shape.to_vec());
        }
        let by = if self.names.is_some() { "the file's other tensors" } else { "config.json" };
        let message = format!("has shape {:?}, by {by} it must be {shape:?}", tensor.shape);
        Err(tensor.renamed(self.stored_name(name)).error(message))
    }

    fn remedy(&self) -> &'static str {
        match self.names.is_some() {
            true => "get the complete checkpoint",
            false => "its config.json asks for it; get this part of the model again",
        }
    }

    /// Looks for every one of `wanted`, names and shapes, in a type that is read; nothing of their values is looked at.
    /// Gives the names in the part's own files that are neither of these nor of `others`, nor anything that the library
    /// which wrote them puts there.
    ///
    /// # Errors
    /// [`Error::File`] naming the first that is missing, how many are, and a like name that is there instead; as
    /// [`Weights::get_shaped`] and [`Tensor::check_type`].
    pub fn check(&self, wanted: &[(&str, &[usize])], others: &[&str]) -> Result<Vec<&str>> {
        let missing: Vec<&str> = wanted.iter().map(|(name, _)| *name).filter(|name| !self.contains(name)).collect();
        let stored = |name: &&str| self.index.get(*name).map(|place| place.stored_name.as_str());
        let used = wanted.iter().map(|(name, _)| name).chain(others);
        let used: HashSet<&str> = used.filter_map(stored).collect();
        let prefix = self.names.as_ref().map_or("", Names::prefix);
        let mine = |name: &&str| name.starts_with(prefix) && !used.contains(name);
        let others: Vec<&str> = self.files.iter().flat_map(|file| file.names()).filter(mine).collect();
        let Some(first) = missing.first().map(|name| self.stored_name(name)) else {
            for (name, shape) in wanted {
                let tensor = self.get_shaped(name, shape)?;
                tensor.renamed(self.stored_name(name)).check_type()?;
            }
            let stray = |name: &&str| self.names.is_none() && !BESIDE.iter().any(|mark| name.contains(mark));
            return Ok(others.into_iter().filter(stray).collect());
        };
        let part = self.part;
        let message = if missing.len() == wanted.len() {
            let has = others.first().map_or_else(String::new, |other| format!(", for example '{other}'"));
            format!("has none of the {} tensors of {part}, such as '{first}': its names are others{has}", wanted.len())
        } else {
            let more = match missing.len() - 1 {
                0 => String::new(),
                more => format!(" and {more} more of {}", wanted.len()),
            };
            match like(&first, &others) {
                Some(other) => format!(
                    "lacks tensor '{first}'{more}; '{other}' is there instead, a name that is not known: save the \
                     model again with diffusers"
                ),
                None => format!("lacks tensor '{first}'{more}: {}", self.remedy()),
            }
        };
        Err(Error::file(&self.location, message))
    }

    /// Name of the tensor `name` in the file, for messages.
    pub fn stored_name(&self, name: &str) -> String {
        if let Some(place) = self.index.get(name).filter(|_| self.names.is_some()) {
            return place.stored_name.clone();
        }
        self.names.as_ref().and_then(|names| names.original(name)).map_or(name.to_owned(), |(original, _)| original)
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

/// Marks of what libraries write beside a model's weights, and of what is told apart from them elsewhere.
const BESIDE: [&str; 6] = ["position_ids", "text_projection", "logit_scale", "n_averaged", "vision_model.", "lora"];

/// Locates each of a part's tensors; `names` maps a stored tensor to the one it stands for.
fn index(
    part: PartId,
    files: &[SafeTensors],
    names: impl Fn(&str) -> Vec<(String, Stored)>,
) -> Result<BTreeMap<String, Place>> {
    let mut index = BTreeMap::new();
    for (file, tensors) in files.iter().enumerate() {
        for tensor in tensors.iter() {
            for (name, stored) in names(&tensor.name) {
                let third = matches!(stored, Stored::Third(_));
                if third && !tensor.shape.first().is_some_and(|rows| rows.is_multiple_of(3)) {
                    return Err(tensor.error(format!("has shape {:?}: its rows are no three thirds", tensor.shape)));
                }
                let squeeze = is_vae_attention(part, &name) && matches!(*tensor.shape, [_, _, 1, 1]);
                let place = Place { file, stored_name: tensor.name.to_string(), squeeze, stored };
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
fn canonical(part: PartId, stored: &str) -> Option<String> {
    match part {
        PartId::VAE => Some(vae_name(stored)),
        _ if !part.is_text_encoder() => Some(stored.to_owned()),
        _ if is_buffer(stored) => None,
        // CLIPTextModelWithProjection's head, which a first text encoder has no use for.
        PartId::TEXT_ENCODER if stored == "text_projection.weight" => None,
        _ if stored.starts_with("text_model.") || stored == "text_projection.weight" => Some(stored.to_owned()),
        _ => Some(format!("text_model.{stored}")),
    }
}

/// Returns the one of `names` that shares most of `name`'s beginning and end, if that is most of both.
fn like<'n>(name: &str, names: &[&'n str]) -> Option<&'n str> {
    let shared = |other: &str| {
        let pairs = |a: &mut dyn Iterator<Item = (u8, u8)>| a.take_while(|(x, y)| x == y).count();
        let front = pairs(&mut name.bytes().zip(other.bytes()));
        let back = pairs(&mut name.bytes().rev().zip(other.bytes().rev()));
        (front + back).min(name.len().min(other.len())) as f64 / name.len().max(other.len()) as f64
    };
    let ranked = names.iter().map(|other| (*other, shared(other)));
    ranked.filter(|(_, share)| *share > 0.7).max_by(|a, b| a.1.total_cmp(&b.1)).map(|(other, _)| other)
}

/// The VAE's attention has had names of its own: before diffusers 0.18 (`attention_processor.py`, `AttentionBlock`),
/// and in what tools made of them.
fn vae_name(stored: &str) -> String {
    let known = || {
        let (block, rest) = stored.split_once(".attentions.0.")?;
        let (canonical, tail) = vae_attention(rest)?;
        Some(format!("{block}.attentions.0.{canonical}{tail}"))
    };
    known().unwrap_or_else(|| stored.to_owned())
}

fn is_vae_attention(part: PartId, name: &str) -> bool {
    part == PartId::VAE && name.contains(".attentions.0.to_")
}
