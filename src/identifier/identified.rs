//! Result of a comparison of words.

use crate::event::Picture;
use crate::pipeline::LoraArg;

use super::candidates::WordToken;

/// Word with its likeness to another.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Near {
    /// The other word.
    pub word: String,
    /// Cosine, -1 to 1.
    pub likeness: f64,
}

/// Change of a model's predictions by a word, as a share of the change that the class makes from the empty prompt, on the
/// same noise: root of the summed squares, mean over timesteps. 0: the word does nothing; 1: as much as the class.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Prior {
    /// From "a CLASS" to "a WORD CLASS", mean over seeds.
    pub with_class: f64,
    /// From the empty prompt to "a WORD", mean over seeds.
    pub alone: f64,
    /// Both as one, by which words are ranked: the root of their mean square, in which `with_class` counts three times.
    pub score: f64,
    /// Standard error of `score` over seeds; `None` with one seed.
    pub error: Option<f64>,
}

/// Measures of one word.
#[derive(Clone, Debug, serde::Serialize)]
pub struct IdentifiedWord {
    /// The word.
    pub word: String,
    /// Its tokens by the model's first tokenizer.
    pub tokens: Vec<WordToken>,
    /// Number of the tokenizer's merge that makes the word, from 1: the larger, the rarer the word was in the text that the
    /// tokenizer was learned from. `None` of a word of several tokens.
    pub merge: Option<u32>,
    /// Prior that it carries.
    pub prior: Prior,
    /// Nearest common words in the space of the text encoder.
    pub nearest: Vec<Near>,
    /// Things that the model's predictions for "a WORD" resemble most.
    pub resembles: Vec<Near>,
}

/// Words in order of their prior, least first.
#[derive(Clone, Debug, serde::Serialize)]
#[serde(tag = "event", rename = "identifiers")]
pub struct Identifiers {
    /// Model that they were measured on.
    pub model: String,
    /// LoRAs that were applied.
    pub loras: Vec<LoraArg>,
    /// The class that they were measured with.
    pub class: String,
    /// Merges of the tokenizer: the scale of [`IdentifiedWord::merge`].
    pub merges: u32,
    /// Timesteps of the predictions, of 1000.
    pub timesteps: Vec<f64>,
    /// Width and height in pixels of the images that were predicted.
    pub size: [usize; 2],
    /// Noises of each timestep.
    pub seeds: usize,
    /// Seed of the first noise, and of the images.
    pub seed: u64,
    /// Predictions in all.
    pub predictions: usize,
    /// Words, best first.
    pub words: Vec<IdentifiedWord>,
    /// Image of "a CLASS", then of "a WORD CLASS" and "a WORD" of each of `words`, where
    /// [`IdentifyOptions::pictures`](super::IdentifyOptions::pictures) asks for them.
    #[serde(skip)]
    pub pictures: Vec<Picture>,
}
