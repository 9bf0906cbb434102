//! The options of a job: one definition for the library, the command line and the page.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

pub use crate::base::rng::RngKind;
pub use crate::diffusion::{Prediction as PredictionArg, SamplerKind, Spacing};
use crate::io::files::{self, path_form};
pub use crate::io::lora_file::LoraFormat;

/// Type of the large weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "lowercase")]
pub enum WeightType {
    /// Packed half on hardware, f32 on software adapters.
    #[default]
    Auto,
    /// 32-bit.
    F32,
    /// Packed half.
    F16,
    /// Eight bits in blocks of 64 with a scale each, for frozen weights; packed half where that does not fit.
    Q8,
}

/// Which model.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::Args))]
#[serde(default, deny_unknown_fields)]
pub struct ModelOptions {
    /// Folder in diffusers layout or a single .safetensors file; without it the bundled miniature SD 2 model
    #[cfg_attr(feature = "cli", arg(long, value_name = "DIR|FILE"))]
    #[serde(with = "path_form::optional")]
    pub model: Option<PathBuf>,
    /// Storage of the large weights
    #[cfg_attr(feature = "cli", arg(long, value_enum, default_value_t))]
    pub dtype: WeightType,
    /// Bytes that the job may take on the adapter (12G, 800M, or a number)
    #[cfg_attr(feature = "cli", arg(long, value_name = "BYTES", value_parser = parse_bytes))]
    pub memory: Option<u64>,
    /// What the network predicts, where the model does not say or is wrong
    #[cfg_attr(feature = "cli", arg(long, value_enum))]
    pub prediction: Option<PredictionArg>,
}

/// How pictures are sampled.
#[derive(Clone, Debug, Default, PartialEq, serde::Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::Args))]
#[serde(default, deny_unknown_fields)]
pub struct SamplingOptions {
    /// What the pictures should not show
    #[cfg_attr(feature = "cli", arg(long, value_name = "TEXT", default_value = ""))]
    pub negative: String,
    /// Sampler steps, 1 or more [default: 25; 4 for lcm and Turbo models]
    #[cfg_attr(feature = "cli", arg(long, value_name = "N", allow_negative_numbers = true, value_parser = parse_count))]
    pub steps: Option<usize>,
    /// Classifier-free guidance; at 1 or below no negative pass runs [default: 7.5; 1 for lcm and Turbo models]
    #[cfg_attr(feature = "cli", arg(long, value_name = "G", allow_negative_numbers = true))]
    pub guidance: Option<f64>,
    /// ddim, ddpm, pndm, euler, euler-a, dpm++2m, unipc or lcm [default: what the model's scheduler config says]
    #[cfg_attr(feature = "cli", arg(long))]
    pub sampler: Option<SamplerKind>,
    /// leading, linspace or trailing
    #[cfg_attr(feature = "cli", arg(long))]
    pub spacing: Option<Spacing>,
    /// Karras sigmas
    #[cfg_attr(feature = "cli", arg(long))]
    pub karras: bool,
    /// Seed; picture i of a prompt uses seed + i
    #[cfg_attr(feature = "cli", arg(long, default_value_t = 0))]
    pub seed: u64,
    /// Random stream
    #[cfg_attr(feature = "cli", arg(long, value_enum, default_value_t))]
    pub rng: RngKind,
    /// Width in pixels, at most 8192 [default: the model's own, or that of --init]
    #[cfg_attr(feature = "cli", arg(long))]
    pub width: Option<usize>,
    /// Height in pixels, at most 8192 [default: the model's own, or that of --init]
    #[cfg_attr(feature = "cli", arg(long))]
    pub height: Option<usize>,
}

/// A LoRA file or folder with its scale.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoraArg {
    /// File or PEFT folder.
    #[serde(with = "path_form")]
    pub path: PathBuf,
    /// Factor on top of alpha / rank.
    pub scale: f64,
}

impl LoraArg {
    /// `FILE` with a scale of one, or `FILE=SCALE`, split at the last `=`. What is no number there belongs to the name; and a
    /// number does, where there is a file of that name and none of the name before it.
    pub fn new(text: impl AsRef<OsStr>) -> LoraArg {
        let text = text.as_ref();
        let bytes = text.as_encoded_bytes();
        let split = bytes.iter().rposition(|&byte| byte == b'=').and_then(|at| {
            let scale =
                std::str::from_utf8(&bytes[at + 1..]).ok()?.parse::<f64>().ok().filter(|scale| scale.is_finite())?;
            // SAFETY: the bytes are those of an `OsStr` that ends before an ASCII character of it.
            Some((unsafe { OsStr::from_encoded_bytes_unchecked(&bytes[..at]) }, scale))
        });
        match split {
            Some((path, scale)) if files::exists(path) || !files::exists(text) => LoraArg { path: path.into(), scale },
            _ => LoraArg { path: text.into(), scale: 1.0 },
        }
    }
}

impl From<OsString> for LoraArg {
    fn from(text: OsString) -> LoraArg {
        LoraArg::new(text)
    }
}

impl std::str::FromStr for LoraArg {
    type Err = String;

    fn from_str(text: &str) -> Result<LoraArg, String> {
        Ok(LoraArg::new(text))
    }
}

/// Pictures that one job may make: their latents and names are held until its end.
pub const MOST_PICTURES: usize = 10_000;

/// `portray generate`.
#[derive(Clone, Debug, PartialEq, serde::Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::Args))]
#[serde(default, deny_unknown_fields)]
pub struct GenerateJob {
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
impl Default for GenerateJob {
    fn default() -> GenerateJob {
        GenerateJob {
            prompts: Vec::new(),
            model: ModelOptions::default(),
            sampling: SamplingOptions::default(),
            loras: Vec::new(),
            count: 1,
            init: None,
            strength: 0.7,
            keep_latents: false,
            previews: false,
        }
    }
}

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
pub struct TrainJob {
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
impl Default for TrainJob {
    fn default() -> TrainJob {
        TrainJob {
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

/// How the command line reads a LoRA with its scale: paths need not be text.
#[cfg(feature = "cli")]
pub fn lora_parser() -> impl clap::builder::TypedValueParser<Value = LoraArg> {
    use clap::builder::{OsStringValueParser, TypedValueParser as _};
    OsStringValueParser::new().map(LoraArg::from)
}

/// A whole number of at least one.
pub fn parse_count(text: &str) -> Result<usize, String> {
    match text.parse::<usize>() {
        Ok(n) if n >= 1 => Ok(n),
        _ => Err("must be a whole number, 1 or more".into()),
    }
}

/// `12G`, `800M`, `4096`: decimal multiples, as GB is 10^9 bytes.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let text = text.trim().trim_end_matches(['b', 'B']);
    let (digits, factor) = match text.char_indices().next_back() {
        Some((i, 'k' | 'K')) => (&text[..i], 1e3),
        Some((i, 'm' | 'M')) => (&text[..i], 1e6),
        Some((i, 'g' | 'G')) => (&text[..i], 1e9),
        _ => (text, 1.0),
    };
    match digits.parse::<f64>() {
        Ok(n) if n > 0.0 && n.is_finite() => Ok((n * factor) as u64),
        _ => Err("must be a positive number of bytes, such as 800M or 12G".into()),
    }
}
