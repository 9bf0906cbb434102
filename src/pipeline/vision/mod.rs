//! Vision models: images and texts to embeddings.

mod images;
mod resident;
mod texts;

use std::path::Path;
use std::sync::OnceLock;

use crate::error::Result;
use crate::family::vision::VisionFolder;
use crate::io::ClipTokenizer;
use crate::io::image::{Decoded, Planes};
use crate::models::vision::VisionKind;

use resident::Resident;

/// Open vision model: ViT (such as DINO), DINOv2 or CLIP. Its weights are read when a call needs them, and stay on the device
/// until [`VisionModel::release`] or the end of the model. All are f32 there.
pub struct VisionModel {
    folder: VisionFolder,
    tokenizer: OnceLock<ClipTokenizer>,
    resident: Resident,
}

impl VisionModel {
    /// Opens the folder at `path`, as transformers saves it or as it is published. Reads files only; looks for every tensor
    /// that the model needs.
    ///
    /// # Errors
    /// [`Error::File`](crate::Error::File) in one line with the remedy: another kind of model, pickled weights, a file, field
    /// or tensor that is missing or wrong.
    pub fn open(path: &Path) -> Result<VisionModel> {
        let folder = VisionFolder::open(path)?;
        let model = VisionModel { folder, tokenizer: OnceLock::new(), resident: Resident::default() };
        model.check_tensors()?;
        log::debug!(target: "portray::open", "{}", path.display());
        Ok(model)
    }

    /// Folder, as it was given.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Kind of the image tower.
    pub fn kind(&self) -> VisionKind {
        self.folder.images.kind
    }

    /// Class of the model, as transformers calls it: `CLIPModel`.
    pub fn class(&self) -> &str {
        self.folder.class()
    }

    /// Values of an embedding, of an image or a text.
    pub fn width(&self) -> usize {
        self.folder.images.width()
    }

    /// Returns whether it reads texts.
    pub fn has_text(&self) -> bool {
        self.folder.texts.is_some()
    }

    /// Refuses a model that reads no text.
    ///
    /// # Errors
    /// [`Error::File`](crate::Error::File) that says what it is, and what is wanted.
    pub fn check_text(&self) -> Result<()> {
        self.folder.text().map(drop)
    }

    /// Prepares an image as the model's image processor does.
    ///
    /// # Errors
    /// [`Error::Usage`](crate::Error::Usage) if the result would be empty or too large.
    pub fn preprocess(&self, image: &Decoded) -> Result<Planes> {
        self.folder.preprocessing.apply(image)
    }

    /// Frees the weights on the device; the next call loads them again.
    pub fn release(&self) {
        self.resident.release();
    }

    /// Bytes of the image tower's weights on the device, and of the text side's.
    pub fn weight_bytes(&self) -> Result<[u64; 2]> {
        let images = super::memory::bytes(&self.image_params()?);
        let texts = if self.has_text() { super::memory::bytes(&self.text_params()?) } else { 0 };
        Ok([images, texts])
    }

    fn check_tensors(&self) -> Result<()> {
        self.check_image_tensors()?;
        if self.has_text() { self.check_text_tensors() } else { Ok(()) }
    }
}
