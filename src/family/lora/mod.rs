//! LoRA files of the families: opening and writing them, and whose they are.

mod report;

use std::path::Path;

pub use report::{MatchReport, ShapeMismatch};

use super::description::{Family, Words};
use super::known::FAMILIES;
use super::refusals::TAKES_LORAS;
use super::sd1::SD1;
use super::sdxl::SDXL;
use super::single_file::{Structure, other};
use crate::error::Result;
use crate::io::checkpoints::Names;
use crate::io::lora_file::{Reading, Writing};
use crate::io::{LoraFile, LoraFormat, ModelModules, PartId, SafeTensors, Source};

/// Resolutions of a UNet, and the residual blocks of each: in Stable Diffusion 1.x and 2.x, and in XL.
const USUAL: [usize; 2] = [4, 2];
const XL: [usize; 2] = [3, 2];

/// Parts of keys that only LoRAs of Stable Diffusion XL have.
const XL_MARKS: [&str; 6] =
    ["lora_te2_", "text_encoder_2.", "clip_g.", "transformer_blocks.1.", "transformer_blocks_1_", "label_emb"];

/// The original code's names of the UNet of `model`; without one, of the UNet that a LoRA with `keys` can be for.
pub(crate) fn original_names<'k>(model: Option<&ModelModules>, keys: impl Iterator<Item = &'k str> + Clone) -> Names {
    let numbers = |prefix: &str| {
        let paths = model.into_iter().flat_map(|model| model.of(PartId::UNET));
        let number = |path: &String| path.strip_prefix(prefix)?.split('.').next()?.parse::<usize>().ok();
        paths.filter_map(|(path, _)| number(path)).max().map(|last| last + 1)
    };
    let has = |marks: &[&str]| keys.clone().any(|key| marks.iter().any(|mark| key.contains(mark)));
    let [blocks, layers] = match (numbers("down_blocks."), numbers("down_blocks.0.resnets.")) {
        (Some(blocks), Some(layers)) => [blocks, layers],
        _ if has(&XL_MARKS) => XL,
        // With two residual blocks the third input block is a convolution.
        _ if has(&["input_blocks.3.1.", "input_blocks_3_1_"]) => [USUAL[0], 1],
        _ => USUAL,
    };
    let attends = |block: &usize| {
        let start = format!("up_blocks.{block}.att");
        model.is_some_and(|model| model.of(PartId::UNET).any(|(path, _)| path.starts_with(&start)))
    };
    let plain = match model {
        Some(_) => (0..blocks).take_while(|block| !attends(block)).count(),
        None => blocks.saturating_sub(XL[0]),
    };
    unet_names([blocks, layers], plain)
}

fn unet_names([blocks, layers]: [usize; 2], plain: usize) -> Names {
    let structure = Structure {
        unet_blocks: blocks,
        unet_layers: layers,
        unet_plain: plain,
        vae_blocks: 0,
        vae_layers: 0,
        texts: Vec::new(),
    };
    Names::new(PartId::UNET, &structure)
}

/// Says what a file without a LoRA is.
fn no_lora(file: &SafeTensors) -> Option<String> {
    other(file).map(|what| format!("is {what} and no LoRA; {TAKES_LORAS}"))
}

impl LoraFile {
    /// Opens a LoRA: a `.safetensors` file in layout A, B, C, E, F or G, a PEFT folder (D; a folder for each part in it, or a
    /// lone one, which is the UNet's), or a folder with diffusers' `pytorch_lora_weights.safetensors`.
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

    /// Reads a LoRA from bytes: one file in any layout but D.
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
        let family = self.family_written();
        let Words { base_version, architecture, second, text, original_unet } = family.lora;
        let originals = original_unet.then(|| unet_names(XL, 0));
        self.write_as(path.as_ref(), format, &Writing { base_version, architecture, second, text, originals })
    }

    /// The family whose words it is written in: as its metadata say, else as its layers tell, else the first.
    fn family_written(&self) -> &'static Family {
        let said = self.metadata.get("ss_base_model_version");
        let by_said = said.and_then(|said| FAMILIES.into_iter().find(|family| *said == family.lora.base_version));
        let by_mark = || self.mark_of_xl().map(|_| &SDXL);
        by_said.or_else(by_mark).or_else(|| self.family_by_width()).unwrap_or(&SD1)
    }
}
