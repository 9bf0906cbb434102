//! Vision models that judge images, in place of the built-in measure.

use std::path::{Path, PathBuf};

use crate::error::{Error, Message, Result, message, option, path};
use crate::io::image::{Decoded, title};
use crate::pipeline::context::Context;
use crate::pipeline::planning::Planning;
use crate::pipeline::{VisionKind, VisionModel};

use super::colour::BLIND_TO;
use super::judge::Seen;
use super::measures::UnitVectors;
use super::prompts::Prompt;

/// Images that are prepared at a time: their pixels are in memory meanwhile.
const AT_ONCE: usize = 16;

/// Vision models of an evaluation.
pub(crate) struct Vision {
    dino: Option<VisionModel>,
    clip: Option<VisionModel>,
}

impl Vision {
    /// Opens the folders of the models that are given.
    ///
    /// # Errors
    /// [`Error::File`] for a folder without a vision model; [`Error::Usage`] for a model of another kind than its option wants.
    pub fn open(vision: Option<&Path>, clip: Option<&Path>) -> Result<Vision> {
        let (dino, clip) = (vision.map(VisionModel::open).transpose()?, clip.map(VisionModel::open).transpose()?);
        if let Some(model) = dino.as_ref().filter(|model| model.kind() == VisionKind::Clip) {
            let remedy = message!["is a CLIP model, expected DINO or DINOv2: give it with ", option("clip")];
            return Err(of_option("vision", model, remedy));
        }
        if let Some(model) = clip.as_ref().filter(|model| model.kind() != VisionKind::Clip) {
            let what = format!("is a {}, expected a CLIP model with its text side: give it with ", model.class());
            return Err(of_option("clip", model, message![what, option("vision")]));
        }
        clip.as_ref().map_or(Ok(()), VisionModel::check_text)?;
        Ok(Vision { dino, clip })
    }

    /// Returns whether likeness is by colour alone.
    pub fn by_colour(&self) -> bool {
        self.dino.is_none()
    }

    /// Name of what judges likeness.
    pub fn likeness_name(&self) -> String {
        self.dino.as_ref().map_or_else(|| "colour".into(), name)
    }

    /// Name of the CLIP model.
    pub fn clip_name(&self) -> Option<String> {
        self.clip.as_ref().map(name)
    }

    /// Sentences on what the judges cannot see.
    pub fn blind_to(&self) -> Option<String> {
        let colour = self.by_colour().then_some(BLIND_TO);
        let prompts = self.clip.is_none().then_some(
            "Nothing here reads prompts: images that ignore theirs look as good. Give a CLIP model for prompt fidelity.",
        );
        let said: Vec<&str> = colour.into_iter().chain(prompts).collect();
        (!said.is_empty()).then(|| said.join(" "))
    }

    /// Embeds the images in the files `paths`, of which `colours` are the embeddings by colour. `tick` hears of each that was
    /// embedded by a model.
    ///
    /// # Errors
    /// [`Error::File`] for an image that cannot be read or embedded; [`Error::Limit`] or [`Error::Device`] if the device fails.
    pub(super) async fn see(
        &self,
        context: &Context,
        paths: &[PathBuf],
        colours: Seen,
        tick: &mut dyn FnMut(usize),
    ) -> Result<Seen> {
        let mut seen = colours;
        if let Some(dino) = &self.dino {
            seen.subject = embed(context, dino, paths, tick).await?;
            seen.scene = seen.subject.clone();
        }
        if let Some(clip) = &self.clip {
            seen.clip = Some(embed(context, clip, paths, tick).await?);
        }
        Ok(seen)
    }

    /// Number of models that see each image.
    pub fn models(&self) -> usize {
        self.dino.iter().chain(&self.clip).count()
    }

    /// Embeds the prompts without their identifier; `None` without a CLIP model or a class prompt.
    ///
    /// # Errors
    /// As [`Vision::see`].
    pub async fn read(&self, context: &Context, prompts: &[Prompt]) -> Result<Option<UnitVectors>> {
        let Some(clip) = &self.clip else { return Ok(None) };
        let Some(texts) = prompts.iter().map(|prompt| prompt.plain.clone()).collect::<Option<Vec<String>>>() else {
            return Ok(None);
        };
        let mut read = UnitVectors::none(clip.width());
        for texts in texts.chunks(AT_ONCE) {
            read.extend(&unit(clip, clip.embed_texts(context, texts).await?, |i| texts[i].clone())?);
        }
        Ok(Some(read))
    }

    /// Embeds an image with the first model and with CLIP, as far as they are given.
    ///
    /// # Errors
    /// As [`Vision::see`].
    pub async fn see_one(&self, context: &Context, image: &Decoded) -> Result<[Option<UnitVectors>; 2]> {
        let mut seen = [None, None];
        for (model, seen) in [&self.dino, &self.clip].into_iter().zip(&mut seen) {
            let Some(model) = model else { continue };
            let rows = model.embed_images(context, &[model.preprocess(image)?]).await?;
            *seen = Some(unit(model, rows, |_| "an image".into())?);
        }
        Ok(seen)
    }

    /// Embeds a photo with the first model.
    ///
    /// # Errors
    /// As [`Vision::see`], and [`Error::Internal`] without that model.
    pub async fn see_subject(&self, context: &Context, photo: &Decoded) -> Result<UnitVectors> {
        let Some(model) = &self.dino else { return Err(Error::Internal("no vision model to see a photo".into())) };
        let rows = model.embed_images(context, &[model.preprocess(photo)?]).await?;
        unit(model, rows, |_| "a photo".into())
    }

    /// Embeds `text` with CLIP, if there is one.
    ///
    /// # Errors
    /// As [`Vision::see`].
    pub async fn read_one(&self, context: &Context, text: &str) -> Result<Option<UnitVectors>> {
        let Some(clip) = &self.clip else { return Ok(None) };
        let rows = clip.embed_texts(context, &[text.to_owned()]).await?;
        unit(clip, rows, |_| text.to_owned()).map(Some)
    }

    /// Bytes of all models on the device while they see single images, and FLOPs of one image.
    ///
    /// # Errors
    /// [`Error::Limit`] if one does not fit the adapter.
    pub fn cost(&self, planning: Planning<'_>) -> Result<[u64; 2]> {
        let texts = self.clip.as_ref().map(VisionModel::weight_bytes).transpose()?.map_or(0, |[_, texts]| texts);
        let mut all = [texts, 0];
        for model in self.dino.iter().chain(&self.clip) {
            let [bytes, flops] = model.image_cost(planning)?;
            all = [all[0] + bytes, all[1] + flops];
        }
        Ok(all)
    }

    /// Frees the weights on the device.
    pub fn release(&self) {
        self.dino.iter().chain(&self.clip).for_each(VisionModel::release);
    }
}

/// Refusal of `model` as the value of the option `field`.
fn of_option(field: &'static str, model: &VisionModel, problem: Message) -> Error {
    Error::usage(field, message![option(field), " ", path(model.path()), ": ", problem])
}

/// Name of a model with its class.
fn name(model: &VisionModel) -> String {
    format!("{} ({})", title(model.path()), model.class())
}

async fn embed(
    context: &Context,
    model: &VisionModel,
    paths: &[PathBuf],
    tick: &mut dyn FnMut(usize),
) -> Result<UnitVectors> {
    let mut all = UnitVectors::none(model.width());
    for paths in paths.chunks(AT_ONCE) {
        let mut prepared = Vec::with_capacity(paths.len());
        for path in paths {
            prepared.push(model.preprocess(&Decoded::open(path)?).map_err(|e| of_file(path, e))?);
            context.gpu.breathe().await;
        }
        let rows = model.embed_images(context, &prepared).await?;
        all.extend(&unit(model, rows, |i| paths[i].display().to_string())?);
        tick(paths.len());
    }
    Ok(all)
}

/// Names the image in an error about it.
fn of_file(path: &Path, error: Error) -> Error {
    match error {
        Error::Usage { problem, .. } => Error::file(path, problem),
        other => other,
    }
}

/// Embeddings scaled to length 1; `whose` names the image or text of a row.
fn unit(model: &VisionModel, rows: Vec<Vec<f32>>, whose: impl Fn(usize) -> String) -> Result<UnitVectors> {
    let values = rows.into_iter().flatten().map(f64::from);
    UnitVectors::new(model.width(), values).map_err(|row| {
        let whose = whose(row);
        Error::file(model.path(), format!("gives no usable embedding of {whose}: its weights may be damaged"))
    })
}
