//! Options of `generate`.

use std::path::PathBuf;

use crate::io::files::path_form;
use crate::pipeline::{LoraArg, ModelOptions, SamplingOptions};
#[cfg(feature = "cli")]
use crate::pipeline::{lora_parser, parse_count};

/// Pictures that one job may make: their latents and names are held until its end.
pub const MOST_PICTURES: usize = 10_000;

/// `portray generate`.
#[derive(Clone, Debug, PartialEq, serde::Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::Args))]
#[serde(default, deny_unknown_fields)]
pub struct GenerateOptions {
    /// What the pictures should show
    #[cfg_attr(feature = "cli", arg(value_name = "PROMPT", required = true))]
    pub prompts: Vec<String>,
    /// Model.
    #[cfg_attr(feature = "cli", command(flatten))]
    pub model: ModelOptions,
    /// Sampling.
    #[cfg_attr(feature = "cli", command(flatten))]
    pub sampling: SamplingOptions,
    /// LoRA file or folder, with an optional scale; may be given several times
    #[cfg_attr(feature = "cli", arg(long = "lora", value_name = "FILE[=SCALE]", value_parser = lora_parser()))]
    pub loras: Vec<LoraArg>,
    /// Merge LoRAs into the weights instead of running them beside
    #[cfg_attr(feature = "cli", arg(long))]
    pub merge: bool,
    /// Pictures per prompt, 1 or more
    #[cfg_attr(feature = "cli", arg(long, default_value = "1", value_parser = parse_count))]
    pub count: usize,
    /// Start from this picture instead of noise
    #[cfg_attr(feature = "cli", arg(long, value_name = "IMAGE"))]
    #[serde(with = "path_form::optional")]
    pub init: Option<PathBuf>,
    /// How much of --init is replaced, above 0 up to 1
    #[cfg_attr(feature = "cli", arg(long, default_value_t = 0.7))]
    pub strength: f64,
    /// Also give latents after every step (the command line writes them to --latents-out).
    #[cfg_attr(feature = "cli", arg(skip))]
    pub keep_latents: bool,
    /// Also show what the picture will be after every step, as [`Event::Preview`](crate::event::Event::Preview).
    #[cfg_attr(feature = "cli", arg(skip))]
    pub previews: bool,
}

/// As the command line has it.
impl Default for GenerateOptions {
    fn default() -> GenerateOptions {
        GenerateOptions {
            prompts: Vec::new(),
            model: ModelOptions::default(),
            sampling: SamplingOptions::default(),
            loras: Vec::new(),
            merge: false,
            count: 1,
            init: None,
            strength: 0.7,
            keep_latents: false,
            previews: false,
        }
    }
}
