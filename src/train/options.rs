//! Options of `train`.

use std::path::PathBuf;

use crate::io::LoraFormat;
use crate::io::files::path_form;
use crate::pipeline::ModelOptions;
#[cfg(feature = "cli")]
use crate::pipeline::parse_count;

/// Weights that a training changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// A LoRA: low-rank factors beside frozen weights (Hu et al. 2021).
    #[default]
    Lora,
    /// Every weight of the UNet.
    Full,
}

/// Layers that get a LoRA.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "lowercase")]
pub enum Targets {
    /// to_q, to_k, to_v and to_out.0 of every attention layer.
    #[default]
    Attention,
    /// Every linear layer and convolution of the down, mid and up blocks.
    All,
}

/// Schedule of the learning rate after its warm-up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "lowercase")]
pub enum LrSchedule {
    /// Stays the same.
    #[default]
    Constant,
    /// Falls to zero along half a cosine.
    Cosine,
}

/// Place where images are cropped to their size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "lowercase")]
pub enum Crop {
    /// The middle.
    #[default]
    Center,
    /// A random place each time that an image is shown; an image has at most 64, which then repeat.
    Random,
}

/// Step of the sides of aspect buckets in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
pub enum BucketStep {
    /// Sides are multiples of 64 pixels.
    #[serde(rename = "64")]
    #[cfg_attr(feature = "cli", value(name = "64"))]
    Of64,
    /// Sides are multiples of 32 pixels.
    #[serde(rename = "32")]
    #[cfg_attr(feature = "cli", value(name = "32"))]
    Of32,
    /// No buckets: images are cropped to a square.
    #[serde(rename = "off")]
    #[cfg_attr(feature = "cli", value(name = "off"))]
    Off,
}

/// Optimizer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "lowercase")]
pub enum Optimizer {
    /// AdamW (Loshchilov and Hutter 2017).
    #[default]
    #[cfg_attr(feature = "cli", value(name = "adamw"))]
    AdamW,
    /// AdamW with 8-bit moments, which take a quarter of the memory (Dettmers et al. 2021).
    #[cfg_attr(feature = "cli", value(name = "adamw8bit"))]
    AdamW8bit,
}

/// Gradient checkpointing: activations are recomputed in the backward pass instead of kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "lowercase")]
pub enum Checkpointing {
    /// The first of off, blocks and on that needs at most what --memory allows, else 3 GB (SDXL in q8 or q4: 1.2 GB).
    #[default]
    Auto,
    /// The inputs of residual blocks and of transformers are kept: the least memory.
    On,
    /// The inputs of all blocks of transformers are kept too: less work than on where these have several, as SDXL's do.
    Blocks,
    /// Every activation is kept.
    Off,
}

/// When a training ends before its last step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "lowercase")]
pub enum Stop {
    /// Only when it is asked to.
    #[default]
    Never,
    /// When its evaluations get no better.
    Plateau,
}

/// Default number of optimizer steps.
pub(super) const STEPS: usize = 400;

/// Default number of class images that are made.
pub(super) const CLASS_PICTURES: usize = 100;

/// Options of a training: what `portray train` takes.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::Args))]
#[serde(default, deny_unknown_fields)]
pub struct TrainOptions {
    /// Folder with images of the subject
    #[cfg_attr(feature = "cli", arg(long, value_name = "DIR"))]
    #[serde(with = "path_form::optional")]
    pub images: Option<PathBuf>,
    /// Caption of the images, with a rare word for the subject: "a sks dog"; a caption beside an image (NAME.txt,
    /// NAME.caption) or in metadata.jsonl replaces it
    #[cfg_attr(feature = "cli", arg(long, value_name = "TEXT"))]
    pub prompt: Option<String>,
    /// The subject's class, for prior preservation: "a dog"
    #[cfg_attr(feature = "cli", arg(long, value_name = "TEXT"))]
    pub class_prompt: Option<String>,
    /// Folder with class (regularization) images; the base model generates what --class-count still lacks
    #[cfg_attr(feature = "cli", arg(long, value_name = "DIR", requires = "class_prompt"))]
    #[serde(with = "path_form::optional")]
    pub class_images: Option<PathBuf>,
    /// Number of class images, 1 or more [default: 100, or all of --class-images]
    #[cfg_attr(feature = "cli", arg(long, value_name = "N", value_parser = parse_count))]
    pub class_count: Option<usize>,
    /// Weight of the loss on class images
    #[cfg_attr(feature = "cli", arg(long, value_name = "W", default_value_t = 1.0))]
    pub prior_weight: f64,
    /// The model and how its weights are stored.
    #[cfg_attr(feature = "cli", command(flatten))]
    pub model: ModelOptions,
    /// Weights to train
    #[cfg_attr(feature = "cli", arg(long, value_enum, default_value_t))]
    pub method: Method,
    /// Rank of the LoRA, 1 or more
    #[cfg_attr(feature = "cli", arg(long, default_value = "4", value_parser = parse_count))]
    pub rank: usize,
    /// LoRA alpha; its scale is alpha / rank [default: the rank]
    #[cfg_attr(feature = "cli", arg(long))]
    pub alpha: Option<f64>,
    /// Layers that get a LoRA
    #[cfg_attr(feature = "cli", arg(long, value_enum, default_value_t))]
    pub targets: Targets,
    /// Also train a LoRA of the text encoder; of SDXL, of both
    #[cfg_attr(feature = "cli", arg(long))]
    pub text_encoder: bool,
    /// Learning rate of the text encoders [default: --lr]
    #[cfg_attr(feature = "cli", arg(long, value_name = "LR", requires = "text_encoder"))]
    pub text_lr: Option<f64>,
    /// Optimizer steps, 1 or more [default: 400, or all that --replay holds]
    #[cfg_attr(feature = "cli", arg(long, value_name = "N", allow_negative_numbers = true, value_parser = parse_count))]
    pub steps: Option<usize>,
    /// Learning rate [default: 1e-4 for lora, 5e-6 for full]
    #[cfg_attr(feature = "cli", arg(long))]
    pub lr: Option<f64>,
    /// Learning-rate schedule
    #[cfg_attr(feature = "cli", arg(long, value_enum, default_value_t))]
    pub schedule: LrSchedule,
    /// Optimizer steps over which the learning rate rises from zero
    #[cfg_attr(feature = "cli", arg(long, default_value_t = 0))]
    pub warmup: usize,
    /// Images of the subject per micro-batch, 1 or more; each comes with one class image, if there are any
    #[cfg_attr(feature = "cli", arg(long, default_value = "1", value_parser = parse_count))]
    pub batch: usize,
    /// Micro-batches per optimizer step, 1 or more
    #[cfg_attr(feature = "cli", arg(long, default_value = "1", value_parser = parse_count))]
    pub accumulate: usize,
    /// Optimizer
    #[cfg_attr(feature = "cli", arg(long, value_enum, default_value_t))]
    pub optimizer: Optimizer,
    /// Update each layer during the backward pass, which then runs twice; needs no memory for gradients
    #[cfg_attr(feature = "cli", arg(long))]
    pub fused_update: bool,
    /// Decoupled weight decay
    #[cfg_attr(feature = "cli", arg(long, default_value_t = 1e-2))]
    pub weight_decay: f64,
    /// Clip gradients to this norm
    #[cfg_attr(feature = "cli", arg(long, default_value_t = 1.0))]
    pub max_grad_norm: f64,
    /// Gamma of min-SNR loss weighting (Hang et al. 2023); 5 is recommended
    #[cfg_attr(feature = "cli", arg(long, value_name = "GAMMA"))]
    pub min_snr: Option<f64>,
    /// Strength of offset noise
    #[cfg_attr(feature = "cli", arg(long, value_name = "X", default_value_t = 0.0))]
    pub offset_noise: f64,
    /// Gradient checkpointing: recompute activations instead of keeping them
    #[cfg_attr(feature = "cli", arg(long, value_enum, default_value_t))]
    pub checkpointing: Checkpointing,
    /// Side of the training images in pixels [default: the model's native size]
    #[cfg_attr(feature = "cli", arg(long, value_name = "N"))]
    pub resolution: Option<usize>,
    /// Where images are cropped to their size
    #[cfg_attr(feature = "cli", arg(long, value_enum, default_value_t))]
    pub crop: Crop,
    /// Keep each image's aspect ratio, at about the same number of pixels, instead of cropping to a square
    #[cfg_attr(feature = "cli", arg(long))]
    pub buckets: bool,
    /// Aspect buckets with sides in steps of this many pixels, of at most --resolution squared in all [default: 64 for
    /// SDXL; else an eighth of --resolution with --buckets, off without]
    #[cfg_attr(feature = "cli", arg(long, value_name = "N", value_enum))]
    pub bucket_step: Option<BucketStep>,
    /// Also train on mirrored images
    #[cfg_attr(feature = "cli", arg(long))]
    pub flip: bool,
    /// Seed of all randomness
    #[cfg_attr(feature = "cli", arg(long, default_value_t = 0))]
    pub seed: u64,
    /// Start from this LoRA
    #[cfg_attr(feature = "cli", arg(long, value_name = "FILE"))]
    #[serde(with = "path_form::optional")]
    pub init_lora: Option<PathBuf>,
    /// Save a checkpoint every N optimizer steps, 1 or more
    #[cfg_attr(feature = "cli", arg(long, value_name = "N", value_parser = parse_count))]
    pub save_every: Option<usize>,
    /// Resume from the checkpoint beside --out
    #[cfg_attr(feature = "cli", arg(long))]
    pub resume: bool,
    /// Validation prompt: generate an image of it every --sample-every steps; may be given several times
    #[cfg_attr(feature = "cli", arg(long = "sample-prompt", value_name = "TEXT"))]
    pub sample_prompts: Vec<String>,
    /// Optimizer steps between validation samples, 1 or more
    #[cfg_attr(feature = "cli", arg(long, value_name = "N", default_value = "100", value_parser = parse_count))]
    pub sample_every: usize,
    /// Evaluate every N optimizer steps, 1 or more, and keep the best checkpoint beside --out as NAME.best.safetensors
    /// [default: with --stop plateau a twentieth of --steps; else no evaluations]
    #[cfg_attr(feature = "cli", arg(long, value_name = "N", value_parser = parse_count))]
    pub evaluate_every: Option<usize>,
    /// DINO or DINOv2 model whose embeddings evaluations compare [default: colours alone]
    #[cfg_attr(feature = "cli", arg(long, value_name = "DIR"))]
    #[serde(with = "path_form::optional")]
    pub vision: Option<PathBuf>,
    /// CLIP model by which evaluations also compare images with --class-prompt
    #[cfg_attr(feature = "cli", arg(long, value_name = "DIR", requires = "class_prompt"))]
    #[serde(with = "path_form::optional")]
    pub clip: Option<PathBuf>,
    /// When to end before the last step
    #[cfg_attr(feature = "cli", arg(long, value_enum, default_value_t))]
    pub stop: Stop,
    /// Images to keep out of the training, the last by name: evaluations measure the loss on them [default: one
    /// of six, from six images on, where the training is evaluated; else 0]
    #[cfg_attr(feature = "cli", arg(long, value_name = "N"))]
    pub keep_out: Option<usize>,
    /// Layout of the LoRA file
    #[cfg_attr(feature = "cli", arg(long, default_value = "diffusers"))]
    pub format: LoraFormat,
    /// LoRA file or folder to write; for --method full, a diffusers folder
    #[cfg_attr(feature = "cli", arg(long, value_name = "PATH", default_value = "portray-lora.safetensors"))]
    #[serde(with = "path_form")]
    pub out: PathBuf,
    /// Overwrite --out
    #[cfg_attr(feature = "cli", arg(long))]
    pub force: bool,
    /// Train on the recorded batches in this file instead of on images
    #[cfg_attr(feature = "cli", arg(long, value_name = "FILE", conflicts_with_all = ["images", "prompt", "class_prompt"]))]
    #[serde(with = "path_form::optional")]
    pub replay: Option<PathBuf>,
}

/// The defaults of the command line.
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
            bucket_step: None,
            flip: false,
            seed: 0,
            init_lora: None,
            save_every: None,
            resume: false,
            sample_prompts: Vec::new(),
            sample_every: 100,
            evaluate_every: None,
            vision: None,
            clip: None,
            stop: Stop::Never,
            keep_out: None,
            format: LoraFormat::default(),
            out: "portray-lora.safetensors".into(),
            force: false,
            replay: None,
        }
    }
}
