//! Writing a trained model as a diffusers folder: a new UNet, the rest as it was.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::{Checkpoint, PartId, Weights};
use crate::error::{Error, Result};
use crate::io::atomic::write_copying;
use crate::io::describe::describe;
use crate::io::{Source, Tensor, files, write_folder, write_safetensors};

/// Writes `destination` as a diffusers folder like `source`, its UNet's tensors replaced by `unet`; those that `unet`
/// does not have, such as what a file holds beyond its model, stay as they are. It is assembled beside its destination
/// and renamed at the end; an existing folder is replaced, so ask before. Only files that the model needs are copied:
/// the weights in use, configurations, tokenizer and scheduler.
///
/// # Errors
/// [`Error::File`] when a tensor is none of the UNet's or of another shape, or when writing fails; then the destination
/// is as it was.
pub fn write_diffusers_folder(destination: impl AsRef<Path>, source: &Checkpoint, unet: &[Tensor<'_>]) -> Result<()> {
    let destination = destination.as_ref();
    check(destination, source.part(PartId::UNET)?, unet)?;
    let files = contents(source)?;
    write_folder(destination, |folder| {
        for (path, content) in &files {
            let to = folder.join(path);
            match content {
                Content::Copy(source) => copy(source, &to)?,
                Content::Other(path) => copy(&Source::open(path)?, &to)?,
                Content::Weights(weights) => write_weights(weights, unet, &to)?,
            }
        }
        Ok(())
    })
}

/// Content of a file of the folder.
enum Content<'a> {
    Copy(&'a Source),
    Other(PathBuf),
    Weights(&'a Weights),
}

/// The files of the folder that [`write_diffusers_folder`] writes, by their paths in it.
///
/// # Errors
/// When a folder of the source cannot be read.
pub fn diffusers_folder_files(source: &Checkpoint) -> Result<Vec<PathBuf>> {
    Ok(contents(source)?.into_iter().map(|(path, _)| path).collect())
}

fn contents(source: &Checkpoint) -> Result<Vec<(PathBuf, Content<'_>)>> {
    let mut files = vec![
        ("model_index.json".into(), Content::Copy(&source.model_index)),
        (Path::new("scheduler").join("scheduler_config.json"), Content::Copy(&source.scheduler_source)),
    ];
    for (folder, tokenizer) in &source.tokenizers {
        files.extend(tokenizer.iter().map(|(name, file)| (Path::new(folder).join(name), Content::Copy(file))));
    }
    for (part, weights) in source.parts() {
        let folder = Path::new(part.name());
        files.push((folder.join("config.json"), Content::Copy(weights.config_source())));
        files.push((folder.join(format!("{}.safetensors", part.stem())), Content::Weights(weights)));
    }
    if let Some(from) = source.folder() {
        other_components(from, &mut files)?;
    }
    Ok(files)
}

fn write_weights(weights: &Weights, unet: &[Tensor<'_>], to: &Path) -> Result<()> {
    let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
    match (weights.part(), weights.own_files()) {
        (PartId::UNET, _) => write_safetensors(to, &renewed(weights, unet), &metadata),
        (_, Some([whole])) => copy(whole.source(), to),
        // Shards become one file, under the names they are stored with.
        (_, Some(shards)) => {
            let tensors: Vec<_> = shards.iter().flat_map(|shard| shard.iter()).collect();
            write_safetensors(to, &tensors, &metadata)
        }
        (_, None) => write_safetensors(to, &weights.iter().collect::<Vec<_>>(), &metadata),
    }
}

fn check(destination: &Path, old: &Weights, new: &[Tensor<'_>]) -> Result<()> {
    for tensor in new {
        let fault = match old.find(&tensor.name) {
            None => "is not a tensor of the UNet".to_owned(),
            Some(old) if old.shape != tensor.shape => format!("has shape {:?}, expected {:?}", tensor.shape, old.shape),
            Some(_) => continue,
        };
        return Err(Error::file(destination, format!("tensor '{}' {fault}", tensor.name)));
    }
    Ok(())
}

/// `new`, and what of `old` it does not replace.
fn renewed<'a>(old: &'a Weights, new: &[Tensor<'a>]) -> Vec<Tensor<'a>> {
    let names: BTreeSet<&str> = new.iter().map(|tensor| tensor.name.as_ref()).collect();
    let kept = old.iter().filter(|tensor| !names.contains(tensor.name.as_ref()));
    new.iter().cloned().chain(kept).collect()
}

fn copy(from: &Source, to: &Path) -> Result<()> {
    write_copying(to, |out| from.copy_to(0..from.len(), out))
}

/// Lists other components that `model_index.json` may name: a feature extractor, a safety checker.
fn other_components(from: &Path, files: &mut Vec<(PathBuf, Content<'_>)>) -> Result<()> {
    for component in ["feature_extractor", "safety_checker", "image_encoder"] {
        let folder = from.join(component);
        if !files::is_folder(&folder) {
            continue;
        }
        let paths = files::entries(&folder).map_err(|e| Error::file(&folder, describe(&e)))?;
        let ends = |path: &Path, ending: &str| path.extension().is_some_and(|e| e == ending);
        let has_safetensors = paths.iter().any(|path| ends(path, "safetensors"));
        for path in paths.into_iter().filter(|path| files::is_file(path)) {
            let superseded = has_safetensors && ["bin", "ckpt", "msgpack", "h5"].iter().any(|e| ends(&path, e));
            if let (false, Some(name)) = (superseded, path.file_name()) {
                files.push((Path::new(component).join(name), Content::Other(path.clone())));
            }
        }
    }
    Ok(())
}
