//! CLIP's vocabulary and merges, read straight into a tokenizer. A tree of their JSON takes ten times its text, which a page
//! never gives back, and longer to build than all else that a model's opening does.

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokenizers::models::bpe::{BPE, Merges, Vocab};
use tokenizers::{NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper, Tokenizer};

use super::Source;
use super::source::object;
use super::tokenizer_files::END;
use crate::base::json::parse;
use crate::error::{Error, Result};

/// What is read of `tokenizer.json`. Nothing here decodes, and a prompt's length is kept by its reader, so that what is cut can
/// be shown. Small parts pass through trees, because the library's own readers panic on text that is cut within them.
#[derive(Deserialize)]
struct File {
    #[serde(default)]
    added_tokens: Value,
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    pre_tokenizer: Value,
    #[serde(default)]
    post_processor: Value,
    model: Model,
}

#[derive(Deserialize)]
struct Model {
    #[serde(rename = "type")]
    kind: Option<String>,
    dropout: Option<f32>,
    unk_token: Option<String>,
    continuing_subword_prefix: Option<String>,
    end_of_word_suffix: Option<String>,
    fuse_unk: Option<bool>,
    byte_fallback: Option<bool>,
    ignore_merges: Option<bool>,
    vocab: Vocab,
    merges: Rules,
}

/// Merges as newer files write them, and as older ones do.
#[derive(Deserialize)]
#[serde(untagged, expecting = "model.merges: expected a list of pairs of tokens, or of lines of two tokens")]
enum Rules {
    Pairs(Merges),
    Lines(Vec<String>),
}

impl Model {
    fn build(self, source: &Source) -> Result<BPE> {
        if let Some(kind) = self.kind.filter(|kind| kind != "BPE") {
            return Err(unreadable(source, &format!("model.type is {kind}, CLIP's is BPE")));
        }
        let merges = match self.merges {
            Rules::Pairs(pairs) => pairs,
            Rules::Lines(lines) => pairs(source, lines.iter().map(String::as_str))?,
        };
        let mut model = BPE::builder()
            .vocab_and_merges(self.vocab, merges)
            .fuse_unk(self.fuse_unk.unwrap_or_default())
            .byte_fallback(self.byte_fallback.unwrap_or_default())
            .ignore_merges(self.ignore_merges.unwrap_or_default());
        if let Some(dropout) = self.dropout {
            model = model.dropout(dropout);
        }
        if let Some(token) = self.unk_token {
            model = model.unk_token(token);
        }
        if let Some(prefix) = self.continuing_subword_prefix {
            model = model.continuing_subword_prefix(prefix);
        }
        if let Some(suffix) = self.end_of_word_suffix {
            model = model.end_of_word_suffix(suffix);
        }
        model.build().map_err(|e| unreadable(source, &e))
    }
}

/// The tokenizer of a `tokenizer.json` without the tokens that it adds to the vocabulary, and those.
///
/// # Errors
/// [`Error::File`] where it is no byte-pair tokenizer.
pub(super) fn of_file(source: &Source) -> Result<(Tokenizer, Value)> {
    let file: File = parsed(source)?;
    let mut tokenizer = Tokenizer::new(file.model.build(source)?);
    tokenizer
        .with_normalizer(part::<NormalizerWrapper>(source, file.normalizer)?)
        .with_pre_tokenizer(part::<PreTokenizerWrapper>(source, file.pre_tokenizer)?)
        .with_post_processor(part::<PostProcessorWrapper>(source, file.post_processor)?);
    Ok((tokenizer, file.added_tokens))
}

/// The tokenizer that `transformers` builds for CLIP of a vocabulary and its merges (`convert_slow_tokenizer.py`,
/// `CLIPConverter`).
///
/// # Errors
/// [`Error::File`] where they are none.
pub(super) fn of_vocabulary(vocabulary: &Source, merges: &Source) -> Result<Tokenizer> {
    let words: Vocab = parsed(vocabulary)?;
    let text = merges.text()?;
    let rules = pairs(merges, text.trim_start_matches('\u{feff}').lines().filter(|line| !line.trim().is_empty()))?;
    let model = BPE::builder().vocab_and_merges(words, rules).unk_token(END.into()).end_of_word_suffix("</w>".into());
    let mut tokenizer = Tokenizer::new(model.build().map_err(|e| unreadable(vocabulary, &e))?);
    let pattern = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";
    let normalizer = json!({"type": "Sequence", "normalizers": [
        {"type": "NFC"},
        {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "},
        {"type": "Lowercase"},
    ]});
    let pre_tokenizer = json!({"type": "Sequence", "pretokenizers": [
        {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Removed", "invert": true},
        {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
    ]});
    let normalizer: Option<NormalizerWrapper> = part(vocabulary, normalizer)?;
    let pre_tokenizer: Option<PreTokenizerWrapper> = part(vocabulary, pre_tokenizer)?;
    tokenizer.with_normalizer(normalizer).with_pre_tokenizer(pre_tokenizer);
    Ok(tokenizer)
}

/// Two tokens of each of `lines` but the first, which names the format's version: no rule starts with '#version'.
fn pairs<'a>(source: &Source, lines: impl Iterator<Item = &'a str>) -> Result<Merges> {
    let pair = |line: &str| match line.split_once(' ') {
        Some((left, right)) if !right.contains(' ') => Ok((left.to_owned(), right.to_owned())),
        _ => Err(unreadable(source, &format!("'{line}' is not two tokens with a space between them"))),
    };
    lines.filter(|line| !line.starts_with("#version")).map(pair).collect()
}

fn part<T: DeserializeOwned>(source: &Source, json: Value) -> Result<Option<T>> {
    serde_json::from_value(json).map_err(|e| unreadable(source, &e))
}

/// Reads `source` as a `T`; what is no JSON object, or none at all, is told as such.
fn parsed<T: DeserializeOwned>(source: &Source) -> Result<T> {
    parse(&source.text()?).or_else(|e| object(source).and(Err(unreadable(source, &e))))
}

fn unreadable(source: &Source, error: &impl std::fmt::Display) -> Error {
    Error::file(source.name(), format!("not a tokenizer that can be read: {}", one_line(error)))
}

pub(super) fn one_line(error: &impl std::fmt::Display) -> String {
    error.to_string().replace('\n', " ")
}
