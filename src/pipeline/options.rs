//! Options that say which model runs, with which LoRAs, and how it samples: one definition for the library, the command line
//! and the page.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use crate::base::rng::RngKind;
use crate::diffusion::{Prediction, SamplerKind, Spacing};
use crate::io::files;
use crate::io::files::path_form;

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
    pub prediction: Option<Prediction>,
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
    /// Sampler; `None` takes the one that the model's scheduler config names.
    #[cfg_attr(feature = "cli", arg(long, help = sampler_help()))]
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

/// Help of `--sampler`: every name.
#[cfg(feature = "cli")]
fn sampler_help() -> String {
    format!("{} [default: what the model's scheduler config says]", SamplerKind::names())
}
