//! Options of `identifier`.

use crate::pipeline::{LoraArg, ModelOptions};
#[cfg(feature = "cli")]
use crate::pipeline::{lora_parser, parse_count};

/// Words that are listed if `count` is not given.
pub(super) const COUNT: usize = 20;
/// Largest number of words of one job.
pub(super) const MOST_WORDS: usize = 200;
/// Largest number of noises of a word.
pub(super) const MOST_SEEDS: usize = 16;

/// Options of [`Engine::identify`](crate::Engine::identify): what `portray identifier` takes.
#[derive(Clone, Debug, PartialEq, serde::Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::Args))]
#[serde(default, deny_unknown_fields)]
pub struct IdentifyOptions {
    /// The model and how its weights are stored.
    #[cfg_attr(feature = "cli", command(flatten))]
    pub model: ModelOptions,
    /// LoRA file or folder to apply, with an optional scale; may be given several times
    #[cfg_attr(feature = "cli", arg(long = "lora", value_name = "FILE[=SCALE]", value_parser = lora_parser()))]
    pub loras: Vec<LoraArg>,
    /// What the subject is: the word is measured in "a WORD CLASS"
    #[cfg_attr(feature = "cli", arg(long, value_name = "CLASS", default_value = "dog"))]
    pub class: String,
    /// Words to measure, separated by commas, or one an argument [default: rare short words of the tokenizer, and well-known ones]
    #[cfg_attr(feature = "cli", arg(long, value_name = "WORD", value_delimiter = ',', num_args = 1..))]
    pub words: Vec<String>,
    /// Words to list, best first [default: 20, or all of --words]
    #[cfg_attr(feature = "cli", arg(long, value_name = "N", value_parser = parse_count))]
    pub count: Option<usize>,
    /// Noises that each word is measured on, 1 to 16
    #[cfg_attr(feature = "cli", arg(long, value_name = "N", default_value = "2", value_parser = parse_count))]
    pub seeds: usize,
    /// Seed of the first noise, and of the images
    #[cfg_attr(feature = "cli", arg(long, default_value_t = 0))]
    pub seed: u64,
    /// Width in pixels of the images that are predicted [default: the model's native width]
    #[cfg_attr(feature = "cli", arg(long))]
    pub width: Option<usize>,
    /// Height in pixels [default: the model's native height]
    #[cfg_attr(feature = "cli", arg(long))]
    pub height: Option<usize>,
    /// Sampler steps of the report's images [default: 25; 4 for Turbo models]
    #[cfg_attr(feature = "cli", arg(long, value_name = "N", value_parser = parse_count))]
    pub steps: Option<usize>,
    /// Generate images of the words into [`Identifiers::pictures`](super::Identifiers::pictures). The command line does if it
    /// is to write a report.
    #[cfg_attr(feature = "cli", arg(skip))]
    pub pictures: bool,
}

/// The defaults of the command line.
impl Default for IdentifyOptions {
    fn default() -> IdentifyOptions {
        IdentifyOptions {
            model: ModelOptions::default(),
            loras: Vec::new(),
            class: "dog".into(),
            words: Vec::new(),
            count: None,
            seeds: 2,
            seed: 0,
            width: None,
            height: None,
            steps: None,
            pictures: false,
        }
    }
}

impl IdentifyOptions {
    /// Words that are listed.
    pub(super) fn listed(&self) -> usize {
        self.count.unwrap_or(if self.words.is_empty() { COUNT } else { self.words.len() })
    }

    /// The class without an article in front.
    pub(super) fn class_noun(&self) -> &str {
        let class = self.class.trim();
        let articles = ["a ", "an ", "the "];
        let article = articles.iter().find(|article| class.to_lowercase().starts_with(*article));
        article.map_or(class, |article| class.get(article.len()..).unwrap_or(class).trim_start())
    }
}
