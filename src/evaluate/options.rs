//! Options of `evaluate`.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use crate::io::files::path_form;
#[cfg(feature = "cli")]
use crate::pipeline::parse_count;
use crate::pipeline::{LoraArg, ModelOptions, SamplingOptions, split_scale};

/// Default number of images per prompt.
const SEEDS: usize = 4;

/// Default number of images that are sampled together.
const BATCH: usize = 4;

/// Options of an evaluation: what `portray evaluate` takes.
#[derive(Clone, Debug, PartialEq, serde::Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::Args))]
#[serde(default, deny_unknown_fields)]
pub struct EvaluateOptions {
    /// The model and how its weights are stored.
    #[cfg_attr(feature = "cli", command(flatten))]
    pub model: ModelOptions,
    /// Model to compare with instead of --model without its LoRAs: the one before a full fine-tune
    #[cfg_attr(feature = "cli", arg(long, value_name = "DIR|FILE"))]
    #[serde(with = "path_form::optional")]
    pub base: Option<PathBuf>,
    /// LoRA file or folder to evaluate, with optional scales; may be given several times
    #[cfg_attr(feature = "cli", arg(long = "lora", value_name = "FILE[=SCALE,SCALE]", value_parser = scaled_lora_parser()))]
    pub loras: Vec<ScaledLora>,
    /// Folder with photos of the subject
    #[cfg_attr(feature = "cli", arg(long, value_name = "DIR"))]
    #[serde(with = "path_form::optional")]
    pub photos: Option<PathBuf>,
    /// Prompt with the subject's identifier: "a sks dog"
    #[cfg_attr(feature = "cli", arg(long, value_name = "TEXT"))]
    pub prompt: Option<String>,
    /// The subject's class: "a dog"; without it, preservation, drift of the class and prompt fidelity are left out
    #[cfg_attr(feature = "cli", arg(long, value_name = "TEXT"))]
    pub class_prompt: Option<String>,
    /// Prompts to show the subject in: dreambooth-live, dreambooth-objects (25 each), or a file with one a line, with
    /// {subject} and {class} in them [default: --prompt itself]
    #[cfg_attr(feature = "cli", arg(long = "prompts", value_name = "NAME|FILE"))]
    #[serde(with = "path_form::optional")]
    pub prompt_list: Option<PathBuf>,
    /// Images per prompt, 1 or more; their seeds count up from --seed
    #[cfg_attr(feature = "cli", arg(long, value_name = "N", default_value_t = SEEDS, value_parser = parse_count))]
    pub seeds: usize,
    /// Images to sample together, 1 or more: one at a time where they take too much memory
    #[cfg_attr(feature = "cli", arg(long, value_name = "N", default_value_t = BATCH, value_parser = parse_count))]
    pub batch: usize,
    /// The sampler and the image size.
    #[cfg_attr(feature = "cli", command(flatten))]
    pub sampling: SamplingOptions,
    /// DINO or DINOv2 model that judges likeness: a folder as transformers saves it [default: colours alone]
    #[cfg_attr(feature = "cli", arg(long, value_name = "DIR"))]
    #[serde(with = "path_form::optional")]
    pub vision: Option<PathBuf>,
    /// CLIP model that judges prompt fidelity and likeness: a folder as transformers saves it
    #[cfg_attr(feature = "cli", arg(long, value_name = "DIR"))]
    #[serde(with = "path_form::optional")]
    pub clip: Option<PathBuf>,
    /// Folder for report.html, report.json and the images
    #[cfg_attr(feature = "cli", arg(long, value_name = "DIR", default_value = "evaluation"))]
    #[serde(with = "path_form")]
    pub out: PathBuf,
    /// Write into a folder that already holds files
    #[cfg_attr(feature = "cli", arg(long))]
    pub force: bool,
}

/// The defaults of the command line.
impl Default for EvaluateOptions {
    fn default() -> EvaluateOptions {
        EvaluateOptions {
            model: ModelOptions::default(),
            base: None,
            loras: Vec::new(),
            photos: None,
            prompt: None,
            class_prompt: None,
            prompt_list: None,
            seeds: SEEDS,
            batch: BATCH,
            sampling: SamplingOptions::default(),
            vision: None,
            clip: None,
            out: "evaluation".into(),
            force: false,
        }
    }
}

/// LoRA file or folder with the scales to evaluate it at.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScaledLora {
    /// File or PEFT folder.
    #[serde(with = "path_form")]
    pub path: PathBuf,
    /// Factors on top of alpha / rank.
    pub scales: Vec<f64>,
}

impl ScaledLora {
    /// Parses `FILE`, with a scale of 1, or `FILE=SCALE,SCALE`, split at the last `=`. The whole text is the path if what
    /// follows `=` is not a list of finite numbers, or if a file with the whole text as its name exists and none with the part
    /// before `=`.
    pub fn new(text: impl AsRef<OsStr>) -> ScaledLora {
        let text = text.as_ref();
        let number = |text: &str| text.trim().parse::<f64>().ok().filter(|scale| scale.is_finite());
        let listed = |list: &str| list.split(',').map(number).collect::<Option<Vec<f64>>>();
        let (path, scales) = split_scale(text, listed).unwrap_or_else(|| (text.into(), vec![1.0]));
        ScaledLora { path, scales }
    }

    /// The LoRA at each of its scales.
    pub(crate) fn each(&self) -> impl Iterator<Item = LoraArg> {
        self.scales.iter().map(|&scale| LoraArg { path: self.path.clone(), scale })
    }
}

impl From<OsString> for ScaledLora {
    fn from(text: OsString) -> ScaledLora {
        ScaledLora::new(text)
    }
}

/// Command-line parser of [`ScaledLora`]; accepts paths that are not UTF-8.
#[cfg(feature = "cli")]
fn scaled_lora_parser() -> impl clap::builder::TypedValueParser<Value = ScaledLora> {
    use clap::builder::{OsStringValueParser, TypedValueParser as _};
    OsStringValueParser::new().map(ScaledLora::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_follow_the_last_equals_sign() {
        let parsed = |text: &str| ScaledLora::new(text);
        let expected = |path: &str, scales: &[f64]| ScaledLora { path: path.into(), scales: scales.to_vec() };
        assert_eq!(parsed("a.safetensors"), expected("a.safetensors", &[1.0]));
        assert_eq!(parsed("a=b=0.5"), expected("a=b", &[0.5]));
        assert_eq!(parsed("a=0.6,0.8, 1"), expected("a", &[0.6, 0.8, 1.0]));
        for whole in ["a=", "a=0.6,", "a=x,1", "a=nan", "a=inf"] {
            assert_eq!(parsed(whole), expected(whole, &[1.0]));
        }
        assert_eq!(expected("a", &[0.6, 1.0]).each().map(|lora| lora.scale).collect::<Vec<_>>(), [0.6, 1.0]);
        let folder = tempfile::tempdir().unwrap();
        let name = folder.path().join("v=2");
        std::fs::write(&name, "x").unwrap();
        assert_eq!(ScaledLora::new(&name), ScaledLora { path: name.clone(), scales: vec![1.0] });
    }
}
