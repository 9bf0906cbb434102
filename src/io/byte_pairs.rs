//! CLIP's vocabulary and merges, read straight into a tokenizer. A tree of their JSON takes ten times its text, which a page
//! never gives back, and longer to build than all else that a model's opening does.

use serde::Deserialize;
use serde_json::{Value, json};
use tokenizers::models::bpe::{BPE, Merges, Vocab};
use tokenizers::{DecoderWrapper, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper, Tokenizer};

use super::Source;
use super::source::object;
use super::tokenizer_files::END;
use crate::error::{Error, Result};

/// What is read of `tokenizer.json`. A prompt's length is kept by its reader, so that what is cut can be shown.
#[derive(Deserialize)]
struct File {
    #[serde(default)]
    added_tokens: Value,
    normalizer: Option<NormalizerWrapper>,
    pre_tokenizer: Option<PreTokenizerWrapper>,
    post_processor: Option<PostProcessorWrapper>,
    decoder: Option<DecoderWrapper>,
    model: BPE,
}

/// The tokenizer of a `tokenizer.json` without the tokens that it adds to the vocabulary, and those.
///
/// # Errors
/// [`Error::File`] where it is no byte-pair tokenizer.
pub(super) fn of_file(source: &Source) -> Result<(Tokenizer, Value)> {
    let file: File = parsed(source)?;
    let mut tokenizer = Tokenizer::new(file.model);
    tokenizer
        .with_normalizer(file.normalizer)
        .with_pre_tokenizer(file.pre_tokenizer)
        .with_post_processor(file.post_processor)
        .with_decoder(file.decoder);
    Ok((tokenizer, file.added_tokens))
}

/// The tokenizer that `transformers` builds for CLIP of a vocabulary and its merges (`convert_slow_tokenizer.py`,
/// `CLIPConverter`).
///
/// # Errors
/// [`Error::File`] where they are none.
pub(super) fn of_vocabulary(vocabulary: &Source, merges: &Source) -> Result<Tokenizer> {
    let words: Vocab = parsed(vocabulary)?;
    // The first line names the format's version; no merge rule starts with '#version'.
    let text = merges.text()?;
    let lines = text.trim_start_matches('\u{feff}').lines();
    let rules = lines.filter(|line| !line.starts_with("#version") && !line.trim().is_empty());
    let pair = |rule: &str| match rule.split_once(' ') {
        Some((left, right)) if !right.contains(' ') => Ok((left.to_owned(), right.to_owned())),
        _ => Err(Error::file(merges.name(), format!("'{rule}' is not two tokens with a space between them"))),
    };
    let rules = rules.map(pair).collect::<Result<Merges>>()?;
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
    let read = |e| unreadable(vocabulary, &e);
    tokenizer
        .with_normalizer(serde_json::from_value::<Option<NormalizerWrapper>>(normalizer).map_err(read)?)
        .with_pre_tokenizer(serde_json::from_value::<Option<PreTokenizerWrapper>>(pre_tokenizer).map_err(read)?);
    Ok(tokenizer)
}

/// Reads `source` as a `T`; what is no JSON object, or none at all, is told as such.
fn parsed<T: serde::de::DeserializeOwned>(source: &Source) -> Result<T> {
    match serde_json::from_str(source.text()?.trim_start_matches('\u{feff}')) {
        Ok(value) => Ok(value),
        Err(e) => object(source).and(Err(unreadable(source, &e))),
    }
}

fn unreadable(source: &Source, error: &impl std::fmt::Display) -> Error {
    Error::file(source.name(), format!("not a tokenizer that can be read: {}", one_line(error)))
}

pub(super) fn one_line(error: &impl std::fmt::Display) -> String {
    error.to_string().replace('\n', " ")
}
