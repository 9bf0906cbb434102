//! Options of `train`.

use std::path::PathBuf;

use crate::io::LoraFormat;
use crate::io::files::path_form;
use crate::pipeline::ModelOptions;
#[cfg(feature = "cli")]
use crate::pipeline::parse_count;

/// What is trained.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// Low-rank factors beside frozen weights (Hu et al. 2021).
    #[default]
    Lora,
    /// Every weight of the UNet.
    Full,
}

/// Which layers get a LoRA.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "lowercase")]
pub enum Targets {
    /// to_q, to_k, to_v and to_out.0 of every attention.
    #[default]
    Attention,
    /// Every linear layer and convolution inside down, mid and up blocks.
    All,
}

/// How the learning rate goes after its warm-up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "lowercase")]
pub enum LrSchedule {
    /// Stays.
    #[default]
    Constant,
    /// Falls along half a cosine to zero.
    Cosine,
}

/// Where pictures are cropped to a square.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "lowercase")]
pub enum Crop {
    /// In the middle.
    #[default]
    Center,
    /// Somewhere else for each cached variant.
    Random,
}

/// The optimizer of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "lowercase")]
pub enum Optimizer {
    /// AdamW (Loshchilov and Hutter 2017).
    #[default]
    #[cfg_attr(feature = "cli", value(name = "adamw"))]
    AdamW,
    /// AdamW with moments of eight bits, a quarter of their memory (Dettmers et al. 2021).
    #[cfg_attr(feature = "cli", value(name = "adamw8bit"))]
    AdamW8bit,
}

/// Gradient checkpointing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "lowercase")]
pub enum Checkpointing {
    /// On when --memory asks for it, or without that when the job would take more than 3 GB.
    #[default]
    Auto,
    /// Always.
    On,
    /// Never.
    Off,
}

/// `portray train`.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::Args))]
#[serde(default, deny_unknown_fields)]
pub struct TrainOptions {
    /// Folder with the subject's pictures
    #[cfg_attr(feature = "cli", arg(long, value_name = "DIR"))]
    #[serde(with = "path_form::optional")]
    pub images: Option<PathBuf>,
    /// What they show, with a rare word for the subject: "a sks dog"; a picture with a NAME.txt beside it has that text
    #[cfg_attr(feature = "cli", arg(long, value_name = "TEXT"))]
    pub prompt: Option<String>,
    /// The subject's class, for prior preservation: "a dog"
    #[cfg_attr(feature = "cli", arg(long, value_name = "TEXT"))]
    pub class_prompt: Option<String>,
    /// Folder with class pictures; those that it lacks of --class-count, or all without it, the untouched model makes
    #[cfg_attr(feature = "cli", arg(long, value_name = "DIR", requires = "class_prompt"))]
    #[serde(with = "path_form::optional")]
    pub class_images: Option<PathBuf>,
    /// Class pictures that are used, 1 or more [default: 100, or all of --class-images]
    #[cfg_attr(feature = "cli", arg(long, value_name = "N", value_parser = parse_count))]
    pub class_count: Option<usize>,
    /// Weight of the class pictures' loss
    #[cfg_attr(feature = "cli", arg(long, value_name = "W", default_value_t = 1.0))]
    pub prior_weight: f64,
    /// Model.
    #[cfg_attr(feature = "cli", command(flatten))]
    pub model: ModelOptions,
    /// lora or full
    #[cfg_attr(feature = "cli", arg(long, value_enum, default_value_t))]
    pub method: Method,
    /// Rank of the LoRA, 1 or more
    #[cfg_attr(feature = "cli", arg(long, default_value = "4", value_parser = parse_count))]
    pub rank: usize,
    /// LoRA scale times rank [default: the rank]
    #[cfg_attr(feature = "cli", arg(long))]
    pub alpha: Option<f64>,
    /// Layers that get a LoRA
    #[cfg_attr(feature = "cli", arg(long, value_enum, default_value_t))]
    pub targets: Targets,
    /// Train a LoRA of the text encoder too
    #[cfg_attr(feature = "cli", arg(long))]
    pub text_encoder: bool,
    /// Learning rate of the text encoder [default: --lr]
    #[cfg_attr(feature = "cli", arg(long, value_name = "LR", requires = "text_encoder"))]
    pub text_lr: Option<f64>,
    /// Optimizer updates, 1 or more
    #[cfg_attr(feature = "cli", arg(long, value_name = "N", allow_negative_numbers = true, value_parser = parse_count))]
    pub steps: Option<usize>,
    /// Learning rate [default: 1e-4 for lora, 5e-6 for full]
    #[cfg_attr(feature = "cli", arg(long))]
    pub lr: Option<f64>,
    /// Learning-rate schedule
    #[cfg_attr(feature = "cli", arg(long, value_enum, default_value_t))]
    pub schedule: LrSchedule,
    /// Updates over which the rate rises from zero
    #[cfg_attr(feature = "cli", arg(long, default_value_t = 0))]
    pub warmup: usize,
    /// Instance pictures a micro-batch, 1 or more, each with one class picture
    #[cfg_attr(feature = "cli", arg(long, default_value = "1", value_parser = parse_count))]
    pub batch: usize,
    /// Micro-batches an update, 1 or more
    #[cfg_attr(feature = "cli", arg(long, default_value = "1", value_parser = parse_count))]
    pub accumulate: usize,
    /// Who updates the parameters
    #[cfg_attr(feature = "cli", arg(long, value_enum, default_value_t))]
    pub optimizer: Optimizer,
    /// Update each layer within the backward pass, which then runs twice: no memory for gradients
    #[cfg_attr(feature = "cli", arg(long))]
    pub fused_update: bool,
    /// Decoupled weight decay
    #[cfg_attr(feature = "cli", arg(long, default_value_t = 1e-2))]
    pub weight_decay: f64,
    /// Gradients are scaled down to this norm
    #[cfg_attr(feature = "cli", arg(long, default_value_t = 1.0))]
    pub max_grad_norm: f64,
    /// Min-SNR weighting (Hang et al. 2023), recommended 5
    #[cfg_attr(feature = "cli", arg(long, value_name = "GAMMA"))]
    pub min_snr: Option<f64>,
    /// Offset noise
    #[cfg_attr(feature = "cli", arg(long, value_name = "X", default_value_t = 0.0))]
    pub offset_noise: f64,
    /// Gradient checkpointing
    #[cfg_attr(feature = "cli", arg(long, value_enum, default_value_t))]
    pub checkpointing: Checkpointing,
    /// Pixels of a side [default: what the model was made for]
    #[cfg_attr(feature = "cli", arg(long, value_name = "N"))]
    pub resolution: Option<usize>,
    /// Where pictures are cropped
    #[cfg_attr(feature = "cli", arg(long, value_enum, default_value_t))]
    pub crop: Crop,
    /// Keep each picture's aspect: shapes of about as many pixels, instead of a square crop
    #[cfg_attr(feature = "cli", arg(long))]
    pub buckets: bool,
    /// Also show pictures mirrored
    #[cfg_attr(feature = "cli", arg(long))]
    pub flip: bool,
    /// Seed of everything random
    #[cfg_attr(feature = "cli", arg(long, default_value_t = 0))]
    pub seed: u64,
    /// Start from this LoRA
    #[cfg_attr(feature = "cli", arg(long, value_name = "FILE"))]
    #[serde(with = "path_form::optional")]
    pub init_lora: Option<PathBuf>,
    /// Save a checkpoint every N updates, 1 or more
    #[cfg_attr(feature = "cli", arg(long, value_name = "N", value_parser = parse_count))]
    pub save_every: Option<usize>,
    /// Go on from the checkpoint beside --out
    #[cfg_attr(feature = "cli", arg(long))]
    pub resume: bool,
    /// Make a picture of this now and then; may be given several times
    #[cfg_attr(feature = "cli", arg(long = "sample-prompt", value_name = "TEXT"))]
    pub sample_prompts: Vec<String>,
    /// Updates between sample pictures, 1 or more
    #[cfg_attr(feature = "cli", arg(long, value_name = "N", default_value = "100", value_parser = parse_count))]
    pub sample_every: usize,
    /// Layout of the LoRA file
    #[cfg_attr(feature = "cli", arg(long, default_value = "diffusers"))]
    pub format: LoraFormat,
    /// LoRA file or folder to write; a diffusers folder for --method full
    #[cfg_attr(feature = "cli", arg(long, value_name = "PATH", default_value = "portray-lora.safetensors"))]
    #[serde(with = "path_form")]
    pub out: PathBuf,
    /// Overwrite --out
    #[cfg_attr(feature = "cli", arg(long))]
    pub force: bool,
    /// Take the batches from this file instead of pictures
    #[cfg_attr(feature = "cli", arg(long, value_name = "FILE", conflicts_with_all = ["images", "prompt", "class_prompt"]))]
    #[serde(with = "path_form::optional")]
    pub replay: Option<PathBuf>,
}

/// As the command line has it.
impl Default for TrainOptions {
    fn default() -> TrainOptions {
        TrainOptions {
            images: None,
            prompt: None,
            class_prompt: None,
            class_images: None,
            class_count: None,
            prior_weight: 1.0,
            model: ModelOptions::default(),
            method: Method::Lora,
            rank: 4,
            alpha: None,
            targets: Targets::Attention,
            text_encoder: false,
            text_lr: None,
            steps: None,
            lr: None,
            schedule: LrSchedule::Constant,
            warmup: 0,
            batch: 1,
            accumulate: 1,
            optimizer: Optimizer::AdamW,
            fused_update: false,
            weight_decay: 1e-2,
            max_grad_norm: 1.0,
            min_snr: None,
            offset_noise: 0.0,
            checkpointing: Checkpointing::Auto,
            resolution: None,
            crop: Crop::Center,
            buckets: false,
            flip: false,
            seed: 0,
            init_lora: None,
            save_every: None,
            resume: false,
            sample_prompts: Vec::new(),
            sample_every: 100,
            format: LoraFormat::default(),
            out: "portray-lora.safetensors".into(),
            force: false,
            replay: None,
        }
    }
}
