//! LoRA files of the families: opening and writing them, and whose they are.

mod names;
mod report;

use std::path::Path;

pub(crate) use names::original_names;
pub use report::{MatchReport, ShapeMismatch};

use super::description::{Family, Words};
use super::known::FAMILIES;
use super::refusals::TAKES_LORAS;
use super::sd1::SD1;
use super::sdxl::SDXL;
use super::single_file::other;
use crate::error::Result;
use crate::io::lora_file::{BASE_VERSION, Reading, Writing};
use crate::io::{Checkpoint, LoraFile, LoraFormat, ModelModules, SafeTensors, Source};

/// Says what a file without a LoRA is.
fn no_lora(file: &SafeTensors) -> Option<String> {
    other(file).map(|what| format!("is {what} and no LoRA; {TAKES_LORAS}"))
}

impl LoraFile {
    /// Opens a LoRA: a `.safetensors` file in any [`Layout`](crate::io::lora_file::Layout) but PEFT's folder, a PEFT folder (a
    /// folder for each part in it, or a lone one, which is the UNet's), or a folder with diffusers'
    /// `pytorch_lora_weights.safetensors`.
    ///
    /// `model`, where known, tells kohya's names apart exactly; without it the usual layer names do.
    ///
    /// # Errors
    /// [`Error::File`](crate::Error::File) naming file and key: malformed, not a LoRA, an unsupported kind (DoRA, OFT, …), a
    /// factor missing or of a shape that does not fit its partner, values that are not finite.
    pub fn open(path: impl AsRef<Path>, model: Option<&ModelModules>) -> Result<LoraFile> {
        let originals = |file: &SafeTensors| original_names(model, file.names());
        LoraFile::read(path.as_ref(), &Reading { model, originals: &originals, other: &no_lora })
    }

    /// Reads a LoRA from bytes: one file in any layout but PEFT's folder.
    ///
    /// # Errors
    /// Those of [`LoraFile::open`].
    pub fn from_source(source: Source, model: Option<&ModelModules>) -> Result<LoraFile> {
        let originals = |file: &SafeTensors| original_names(model, file.names());
        LoraFile::read_source(source, &Reading { model, originals: &originals, other: &no_lora })
    }

    /// Writes it to `path` (a folder for [`LoraFormat::PeftFolder`]), atomically; what is there is replaced.
    ///
    /// An alpha that is not the rank survives in every layout. `peft` and `peft-folder` have it in PEFT's configuration
    /// (diffusers before 0.34 does not read it from a file and would take the factor for 1). `diffusers` has no place
    /// for it: `up` is multiplied by alpha / rank. `kohya` has it as a tensor per layer.
    ///
    /// # Errors
    /// [`Error::File`](crate::Error::File) when it holds no module, was made for another family of models, has a layer that
    /// is no product of two factors (a [`Change`](crate::io::lora_file::Change)), which no layout written here can hold, or
    /// cannot be written; then the old file is as it was.
    pub fn write(&self, path: impl AsRef<Path>, format: LoraFormat) -> Result<()> {
        self.check_family()?;
        let Words { base_versions, architectures, second, text, original_unet } = self.family_written().lora;
        let velocity = usize::from(self.base_version() == Some(base_versions[1]));
        let words = Writing {
            base_version: base_versions[velocity],
            architecture: architectures[velocity],
            second,
            text,
            originals: original_unet.then(|| names::names_of_xl(self)),
        };
        self.write_as(path.as_ref(), format, &words)
    }

    /// Notes in its metadata the version of `model`, which it is for, as kohya's scripts name it: `ss_base_model_version`. A
    /// version that is there already stays.
    pub fn note_base(&mut self, model: &Checkpoint) {
        let velocity = model.scheduler().get("prediction_type").is_some_and(|kind| kind == "v_prediction");
        let version = Family::of(model).base_version(velocity);
        self.metadata.entry(BASE_VERSION.into()).or_insert_with(|| version.into());
    }

    /// The version of the model that it is for, where its metadata say it.
    pub(super) fn base_version(&self) -> Option<&str> {
        self.metadata.get(BASE_VERSION).map(String::as_str)
    }

    /// The family that its metadata name.
    pub(super) fn family_said(&self) -> Option<&'static Family> {
        let said = self.base_version()?;
        FAMILIES.into_iter().find(|family| family.lora.base_versions.contains(&said))
    }

    /// The family whose words it is written in: as its metadata say, else as its layers tell, else the first.
    fn family_written(&self) -> &'static Family {
        let by_mark = || self.mark_of_xl().map(|_| &SDXL);
        self.family_said().or_else(by_mark).or_else(|| self.family_by_width()).unwrap_or(&SD1)
    }
}
