//! Options of `generate`.

use std::path::PathBuf;

use crate::io::files::path_form;
use crate::pipeline::{LoraArg, ModelOptions, SamplingOptions};
#[cfg(feature = "cli")]
use crate::pipeline::{lora_parser, parse_count};

/// Largest number of images of one job: it holds their latents and names until its end.
pub const MOST_PICTURES: usize = 10_000;

/// Options of a generation: what `portray generate` takes.
#[derive(Clone, Debug, PartialEq, serde::Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::Args))]
#[serde(default, deny_unknown_fields)]
pub struct GenerateOptions {
    /// What the image should show; several prompts make several images
    #[cfg_attr(feature = "cli", arg(value_name = "PROMPT", required = true))]
    pub prompts: Vec<String>,
    /// The model and how its weights are stored.
    #[cfg_attr(feature = "cli", command(flatten))]
    pub model: ModelOptions,
    /// The sampler and the image size.
    #[cfg_attr(feature = "cli", command(flatten))]
    pub sampling: SamplingOptions,
    /// LoRA file or folder to apply, with an optional scale; may be given several times
    #[cfg_attr(feature = "cli", arg(long = "lora", value_name = "FILE[=SCALE]", value_parser = lora_parser()))]
    pub loras: Vec<LoraArg>,
    /// Merge the LoRAs into the weights instead of applying them at run time
    #[cfg_attr(feature = "cli", arg(long))]
    pub merge: bool,
    /// Images per prompt, 1 or more
    #[cfg_attr(feature = "cli", arg(long, default_value = "1", value_parser = parse_count))]
    pub count: usize,
    /// Images to sample together, 1 or more: takes less time and more memory, and images differ from single ones by rounding
    #[cfg_attr(feature = "cli", arg(long, value_name = "N", default_value = "1", value_parser = parse_count))]
    pub batch: usize,
    /// Start from this image instead of noise; with an inpainting model, the image to change
    #[cfg_attr(feature = "cli", arg(long, value_name = "IMAGE"))]
    #[serde(with = "path_form::optional")]
    pub init: Option<PathBuf>,
    /// Image whose white pixels an inpainting model replaces in --init; it has the same aspect ratio
    #[cfg_attr(feature = "cli", arg(long, value_name = "IMAGE", requires = "init"))]
    #[serde(with = "path_form::optional")]
    pub mask: Option<PathBuf>,
    /// How much of --init changes: above 0, up to 1 [default: 0.7, with --mask 1]
    #[cfg_attr(feature = "cli", arg(long))]
    pub strength: Option<f64>,
    /// Return the latents after every step in [`Generated::latents`](super::Generated::latents). The command line writes
    /// them to --latents-out.
    #[cfg_attr(feature = "cli", arg(skip))]
    pub keep_latents: bool,
    /// Report a preview of the image after every step, as [`Event::Preview`](crate::event::Event::Preview).
    #[cfg_attr(feature = "cli", arg(skip))]
    pub previews: bool,
}

impl GenerateOptions {
    /// Images of the whole job.
    pub(crate) fn images(&self) -> usize {
        self.prompts.len() * self.count
    }

    /// Images that are sampled together: at most [`GenerateOptions::batch`], and as alike in number as they can be, for the
    /// last ones are sampled in a batch of the same size.
    pub(crate) fn together(&self) -> usize {
        let images = self.images().max(1);
        images.div_ceil(images.div_ceil(self.batch.max(1)))
    }
}

/// The defaults of the command line, without prompts.
impl Default for GenerateOptions {
    fn default() -> GenerateOptions {
        GenerateOptions {
            prompts: Vec::new(),
            model: ModelOptions::default(),
            sampling: SamplingOptions::default(),
            loras: Vec::new(),
            merge: false,
            count: 1,
            batch: 1,
            init: None,
            mask: None,
            strength: None,
            keep_latents: false,
            previews: false,
        }
    }
}
