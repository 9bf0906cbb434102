//! Options for the model, its LoRAs and the sampler: one definition for the library, the command line and the page.

use super::sizes::{PixelOffset, PixelSize};
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use crate::base::rng::RngKind;
use crate::diffusion::{Prediction, SamplerKind, Spacing};
use crate::io::files;
use crate::io::files::path_form;

/// Storage type of the large weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "lowercase")]
pub enum WeightType {
    /// f16 on hardware, f32 on software adapters.
    #[default]
    Auto,
    /// 32-bit floats.
    F32,
    /// 16-bit floats.
    F16,
    /// 8-bit integers in blocks of 64, each with a scale, for frozen weights; f16 for weights that do not fit this.
    Q8,
    /// 4-bit codes in blocks of 32, each with a scale and a minimum, for frozen weights; layers on which most depends, or
    /// that lose more than 0.08 of their RMS, as with q8.
    Q4,
}

impl WeightType {
    /// Name of the type to try where the weights take too much memory in this one.
    pub(crate) fn smaller(self) -> Option<&'static str> {
        match self {
            WeightType::Auto | WeightType::F32 | WeightType::F16 => Some("q8"),
            WeightType::Q8 => Some("q4"),
            WeightType::Q4 => None,
        }
    }
}

/// Options that select and store a model.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::Args))]
#[serde(default, deny_unknown_fields)]
pub struct ModelOptions {
    /// Model: a diffusers folder or a single .safetensors file [default: the built-in miniature SD 2]
    #[cfg_attr(feature = "cli", arg(long, value_name = "DIR|FILE"))]
    #[serde(with = "path_form::optional")]
    pub model: Option<PathBuf>,
    /// Autoencoder in place of the model's own: a diffusers folder or a .safetensors file
    #[cfg_attr(feature = "cli", arg(long, value_name = "FILE|DIR"))]
    #[serde(with = "path_form::optional")]
    pub vae: Option<PathBuf>,
    /// UNet in place of the model's own: a .safetensors file that holds one, or a diffusers folder
    #[cfg_attr(feature = "cli", arg(long, value_name = "FILE|DIR"))]
    #[serde(with = "path_form::optional")]
    pub unet: Option<PathBuf>,
    /// Storage type of the large weights
    #[cfg_attr(feature = "cli", arg(long, value_enum, default_value_t))]
    pub dtype: WeightType,
    /// Adapter memory that the job may use, in bytes (12G, 800M, or a number); 1G is 10^9
    #[cfg_attr(feature = "cli", arg(long, value_name = "BYTES", value_parser = parse_bytes))]
    pub memory: Option<u64>,
    /// What the UNet predicts, if the model does not say or is wrong
    #[cfg_attr(feature = "cli", arg(long, value_enum))]
    pub prediction: Option<Prediction>,
}

/// Options of the sampler.
#[derive(Clone, Debug, Default, PartialEq, serde::Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::Args))]
#[serde(default, deny_unknown_fields)]
pub struct SamplingOptions {
    /// What the image should not show
    #[cfg_attr(feature = "cli", arg(long, value_name = "TEXT", default_value = ""))]
    pub negative: String,
    /// Sampler steps, 1 or more [default: 25; 4 for lcm and Turbo models]
    #[cfg_attr(feature = "cli", arg(long, value_name = "N", allow_negative_numbers = true, value_parser = parse_count))]
    pub steps: Option<usize>,
    /// Classifier-free guidance scale; at 1 or below, --negative has no effect [default: 7.5, SDXL 5; 1 for lcm and Turbo models]
    #[cfg_attr(feature = "cli", arg(long, value_name = "G", allow_negative_numbers = true))]
    pub guidance: Option<f64>,
    /// Share of the guided prediction that gets the prompt's own spread, 0 to 1; 0.7 for zero-terminal-SNR models [default: 0]
    #[cfg_attr(feature = "cli", arg(long, value_name = "PHI", allow_negative_numbers = true))]
    pub guidance_rescale: Option<f64>,
    /// Sampler; `None` takes the one that the model's scheduler config names.
    #[cfg_attr(feature = "cli", arg(long, help = sampler_help()))]
    pub sampler: Option<SamplerKind>,
    /// Timestep spacing: leading, linspace or trailing [default: from the model's scheduler config]
    #[cfg_attr(feature = "cli", arg(long))]
    pub spacing: Option<Spacing>,
    /// Use Karras sigmas
    #[cfg_attr(feature = "cli", arg(long))]
    pub karras: bool,
    /// Seed; image i of a prompt uses seed + i, counted from 0
    #[cfg_attr(feature = "cli", arg(long, default_value_t = 0))]
    pub seed: u64,
    /// Random number generator whose noise to reproduce
    #[cfg_attr(feature = "cli", arg(long, value_enum, default_value_t))]
    pub rng: RngKind,
    /// Text encoder layers to leave out at the end, beyond those that the model leaves out anyway
    #[cfg_attr(feature = "cli", arg(long, value_name = "N"))]
    pub clip_skip: Option<usize>,
    /// SDXL: size that the image is said to have had before it was resized [default: the image's size]
    #[cfg_attr(feature = "cli", arg(long, value_name = "WxH"))]
    pub original_size: Option<PixelSize>,
    /// SDXL: top and left edge of the part of the image that is said to be shown [default: 0,0]
    #[cfg_attr(feature = "cli", arg(long, value_name = "Y,X"))]
    pub crop: Option<PixelOffset>,
    /// SDXL: size that is said to be aimed at [default: the image's size]
    #[cfg_attr(feature = "cli", arg(long, value_name = "WxH"))]
    pub target_size: Option<PixelSize>,
    /// Image width in pixels, at most 8192 [default: the model's native width, or that of --init]
    #[cfg_attr(feature = "cli", arg(long))]
    pub width: Option<usize>,
    /// Image height in pixels, at most 8192 [default: the model's native height, or that of --init]
    #[cfg_attr(feature = "cli", arg(long))]
    pub height: Option<usize>,
}

impl SamplingOptions {
    /// Sizes that a UNet with `text_time` conditioning is told of an image of `width` x `height` pixels: original height and
    /// width, top and left of the crop, target height and width.
    pub(crate) fn time_ids(&self, [width, height]: [usize; 2]) -> [f32; 6] {
        let own = PixelSize { width: width as u32, height: height as u32 };
        let (original, target) = (self.original_size.unwrap_or(own), self.target_size.unwrap_or(own));
        let PixelOffset { top, left } = self.crop.unwrap_or(PixelOffset { top: 0, left: 0 });
        [original.height, original.width, top, left, target.height, target.width].map(|pixels| pixels as f32)
    }

    /// Options of sizes, each with whether it is given and does nothing: where the model's UNet `reads` no sizes.
    pub(crate) fn idle_sizes(&self, reads: bool) -> [(&'static str, bool); 3] {
        let idle = !reads;
        [
            ("original_size", idle && self.original_size.is_some()),
            ("crop", idle && self.crop.is_some()),
            ("target_size", idle && self.target_size.is_some()),
        ]
    }
}

/// LoRA file or folder with its scale.
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
    /// Parses `FILE`, with a scale of 1, or `FILE=SCALE`, split at the last `=`. The whole text is the path if what follows
    /// `=` is not a finite number, or if a file with the whole text as its name exists and none with the part before `=`.
    pub fn new(text: impl AsRef<OsStr>) -> LoraArg {
        let text = text.as_ref();
        let scale = |text: &str| text.parse::<f64>().ok().filter(|scale| scale.is_finite());
        let (path, scale) = split_scale(text, scale).unwrap_or_else(|| (text.into(), 1.0));
        LoraArg { path, scale }
    }
}

/// Splits `FILE=SCALE` at the last `=`; `parse` reads what follows it. `None` if the whole text is the path: if that cannot
/// be read, or if a file with the whole text as its name exists and none with the part before `=`.
pub(crate) fn split_scale<T>(text: &OsStr, parse: impl FnOnce(&str) -> Option<T>) -> Option<(PathBuf, T)> {
    let bytes = text.as_encoded_bytes();
    let at = bytes.iter().rposition(|&byte| byte == b'=')?;
    let scale = parse(std::str::from_utf8(&bytes[at + 1..]).ok()?)?;
    // SAFETY: the bytes are those of an `OsStr` that ends before an ASCII character of it.
    let path = unsafe { OsStr::from_encoded_bytes_unchecked(&bytes[..at]) };
    (files::exists(path) || !files::exists(text)).then(|| (path.into(), scale))
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

/// Command-line parser of [`LoraArg`]; accepts paths that are not UTF-8.
#[cfg(feature = "cli")]
pub fn lora_parser() -> impl clap::builder::TypedValueParser<Value = LoraArg> {
    use clap::builder::{OsStringValueParser, TypedValueParser as _};
    OsStringValueParser::new().map(LoraArg::from)
}

/// Parses a whole number of at least 1.
///
/// # Errors
/// A sentence for the user if `text` is anything else.
pub fn parse_count(text: &str) -> Result<usize, String> {
    match text.parse::<usize>() {
        Ok(n) if n >= 1 => Ok(n),
        _ => Err("must be a whole number, 1 or more".into()),
    }
}

/// Parses a number of bytes such as `12G`, `800M` or `4096`. Multiples are decimal: 1G is 10^9 bytes.
///
/// # Errors
/// A sentence for the user if `text` is not a positive number of bytes.
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
    format!("{} [default: from the model's scheduler config]", SamplerKind::names())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heights_come_before_widths() {
        let mut options = SamplingOptions::default();
        assert_eq!(options.time_ids([96, 128]), [128.0, 96.0, 0.0, 0.0, 128.0, 96.0]);
        options.original_size = "333x701".parse().ok();
        options.crop = "16,40".parse().ok();
        options.target_size = "128x96".parse().ok();
        assert_eq!(options.time_ids([1, 1]), [701.0, 333.0, 16.0, 40.0, 96.0, 128.0]);
    }
}
