//! Description of a family of models: everything that is its own, as data.

use serde_json::Value;

use crate::io::PartId;

/// Family of models that share parts, names and conventions.
#[derive(Debug)]
pub struct Family {
    /// Name for people.
    pub name: &'static str,
    /// Width of the hidden states that the denoiser of a published model reads.
    pub context_width: usize,
    /// Text encoders, in the order in which their hidden states lie side by side.
    pub encoders: &'static [Encoder],
    /// Classes of `model_index.json` beside those of other families.
    pub pipelines: &'static [&'static str],
    /// Configurations of a single file, by part: what its tensors do not tell.
    pub template: &'static str,
    /// Heads of the UNet's attentions in a single file.
    pub heads: Heads,
    /// Changes the configurations of scheduler and UNet of a single file to those of a model that predicts velocities.
    pub velocity: fn(scheduler: &mut Value, unet: &mut Value),
    /// Class of the scheduler of a single file whose noise levels end in pure noise.
    pub zero_snr_scheduler: &'static str,
    /// Whether a single file predicts noise where it says nothing: if not, a prediction is looked at.
    pub noise_unless_said: bool,
    /// Whether an empty negative prompt stands for zeros where `model_index.json` says nothing of it.
    pub zeros_for_empty_prompt: bool,
    /// Class of `model_index.json` of an inpainting model.
    pub inpainting_pipeline: &'static str,
    /// Guidance where neither options nor a distilled model's scheduler ask for another.
    pub guidance: f32,
    /// Words of its LoRA files.
    pub lora: Words,
}

/// Text encoder of a family.
#[derive(Debug)]
pub struct Encoder {
    /// Part that holds its weights.
    pub part: PartId,
    /// Folder of its tokenizer.
    pub tokenizer: &'static str,
    /// Token that fills up short prompts in a single file.
    pub pad: &'static str,
    /// Layers from the end whose result is not read: `None` reads the last state after the final norm, `Some(1)` the input
    /// of the last layer without that norm.
    pub skip: Option<usize>,
    /// Whether the projected state of a prompt's end token is read as well.
    pub pooled: bool,
    /// Most layers that are read from a single file.
    pub most_layers: usize,
    /// Beginnings of its tensors' names in a single file, each with whose names follow.
    pub originals: &'static [(&'static str, TextFlavour)],
}

/// Heads of attentions, which no tensor tells.
#[derive(Clone, Copy, Debug)]
pub enum Heads {
    /// Count in every attention.
    Count(usize),
    /// Columns of each head.
    Width(usize),
}

/// Words of a family's LoRA files.
#[derive(Debug)]
pub struct Words {
    /// Version of the base model, as kohya's scripts name it: of one that predicts noise, and of one that predicts
    /// velocities.
    pub base_versions: [&'static str; 2],
    /// Architecture, as kohya's scripts fill in Stability AI's ModelSpec, of the same two.
    pub architectures: [&'static str; 2],
    /// Whether kohya's scripts count it as Stable Diffusion 2.
    pub second: bool,
    /// kohya's prefixes of the text encoders' layers, in their order.
    pub text: &'static [&'static str],
    /// Whether kohya's files have the original code's names of the UNet's layers.
    pub original_unet: bool,
}

/// Whose code the text encoder is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TextFlavour {
    /// OpenAI's CLIP under the names of transformers.
    Clip,
    /// CLIP under the names of the first releases, which lack the segment `text_model`.
    BareClip,
    /// OpenCLIP: Stable Diffusion 2.x, and the second encoder of XL.
    OpenClip,
}

impl TextFlavour {
    /// Returns the beginning of its names.
    pub fn root(self) -> &'static str {
        if self == TextFlavour::Clip { "text_model." } else { "" }
    }
}

impl Family {
    /// Returns the version of its base model, as kohya's scripts name it in the metadata of a LoRA file
    /// (`ss_base_model_version`), where the model predicts velocities or, if not `velocity`, noise.
    pub fn base_version(&self, velocity: bool) -> &'static str {
        self.lora.base_versions[usize::from(velocity)]
    }

    /// Returns its parts, in the order of their names.
    pub fn parts(&self) -> Vec<PartId> {
        let mut parts: Vec<PartId> = self.encoders.iter().map(|encoder| encoder.part).collect();
        parts.extend([PartId::UNET, PartId::VAE]);
        parts
    }
}
