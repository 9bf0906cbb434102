//! CLIP's byte-pair tokenizer, exactly as `transformers` runs it for Stable Diffusion.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};
use tokenizers::{AddedToken, Tokenizer};

use super::{Source, files};
use crate::error::{Error, Result};

/// A prompt longer than any real model takes: configurations write 1e30 for "not set".
const LARGEST_LENGTH: u64 = 1 << 16;
/// CLIP's own context length, where the configuration names none.
const DEFAULT_LENGTH: usize = 77;
const END: &str = "<|endoftext|>";
const START: &str = "<|startoftext|>";
/// What a tokenizer's folder may hold and this reads.
const FILES: [&str; 5] =
    ["tokenizer.json", "vocab.json", "merges.txt", "special_tokens_map.json", "tokenizer_config.json"];

/// The files of a `tokenizer/` folder, from disk or from the binary.
#[derive(Clone, Debug)]
pub struct TokenizerFiles {
    location: String,
    files: BTreeMap<String, Source>,
}

impl TokenizerFiles {
    /// Files by name; names that no CLIP tokenizer has are left out.
    pub fn new<'a>(location: impl Into<String>, files: impl IntoIterator<Item = (&'a str, Source)>) -> TokenizerFiles {
        let known = files.into_iter().filter(|(name, _)| FILES.contains(name));
        TokenizerFiles { location: location.into(), files: known.map(|(n, s)| (n.to_owned(), s)).collect() }
    }

    /// CLIP's vocabulary and merges out of `files`, with the padding token `pad`; `name` is what messages call it.
    pub(super) fn clip<'a>(
        name: &str,
        pad: &str,
        files: impl IntoIterator<Item = (&'a str, Source)>,
    ) -> TokenizerFiles {
        let special = json!({"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": pad});
        let special = ("special_tokens_map.json", Source::from_bytes(name, special.to_string().into_bytes()));
        let shared = files.into_iter().filter(|(file, _)| ["vocab.json", "merges.txt"].contains(file));
        TokenizerFiles::new(name, shared.chain([special]))
    }

    /// The same out of the bundled model that a page has beside it.
    ///
    /// # Errors
    /// [`Error::File`] where there is none.
    #[cfg(not(feature = "bundled"))]
    pub(super) fn of_bundled_model(name: &str, pad: &str) -> Result<TokenizerFiles> {
        match TokenizerFiles::open(Path::new(files::BUNDLED_MODEL).join("tokenizer")) {
            Ok(shared) => {
                Ok(TokenizerFiles::clip(name, pad, shared.files.iter().map(|(n, s)| (n.as_str(), s.clone()))))
            }
            Err(_) => {
                let message = "a single file holds no tokenizer, and this build brings none: give a diffusers folder";
                Err(Error::file(name, message))
            }
        }
    }

    /// The folder's files.
    ///
    /// # Errors
    /// [`Error::File`] when the folder is missing or a file cannot be read.
    pub fn open(folder: impl AsRef<Path>) -> Result<TokenizerFiles> {
        let folder = folder.as_ref();
        if !files::is_folder(folder) {
            return Err(Error::file(folder, "the model lacks this folder: get the model again"));
        }
        let present = FILES.into_iter().filter(|name| files::is_file(folder.join(name)));
        let files = present.map(|name| Ok((name, Source::open(folder.join(name))?))).collect::<Result<Vec<_>>>()?;
        Ok(TokenizerFiles::new(folder.display().to_string(), files))
    }

    /// The files by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Source)> {
        self.files.iter().map(|(name, source)| (name.as_str(), source))
    }

    fn get(&self, name: &str) -> Option<&Source> {
        self.files.get(name)
    }

    fn json(&self, name: &str) -> Result<Option<Value>> {
        self.get(name).map(Source::json).transpose()
    }
}

/// Text to token ids.
#[derive(Clone, Debug)]
pub struct ClipTokenizer {
    tokenizer: Tokenizer,
    start: u32,
    end: u32,
    pad: u32,
    length: usize,
}

/// An encoded prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoded {
    /// Start token, the prompt's tokens, end token, padding: always the tokenizer's length (77).
    pub ids: Vec<u32>,
    /// The end of the prompt that did not fit and was left out.
    pub truncated: Option<String>,
}

impl ClipTokenizer {
    /// Opens a `tokenizer/` folder: `tokenizer.json`, else `vocab.json` and `merges.txt`.
    ///
    /// # Errors
    /// [`Error::File`] naming the missing or malformed file.
    pub fn open(folder: impl AsRef<Path>) -> Result<ClipTokenizer> {
        ClipTokenizer::from_files(&TokenizerFiles::open(folder)?)
    }

    /// The same from files that are already open.
    ///
    /// The pad token is that of `special_tokens_map.json`, else of `tokenizer_config.json`, else the end token. It is a
    /// special token: SD 2 pads with "!", and so reads every "!" of a prompt as padding (id 0), before any merging.
    ///
    /// # Errors
    /// As [`ClipTokenizer::open`].
    pub fn from_files(files: &TokenizerFiles) -> Result<ClipTokenizer> {
        let config = files.json("tokenizer_config.json")?;
        let special = files.json("special_tokens_map.json")?;
        let named = |field: &str| [&special, &config].into_iter().flatten().find_map(|map| token(map.get(field)?));

        let (source, mut tokenizer) =
            match (files.get("tokenizer.json"), files.get("vocab.json"), files.get("merges.txt")) {
                (Some(source), _, _) => (source, parse(source.name(), &source.bytes()?)?),
                (None, Some(vocab), Some(merges)) => (vocab, parse(vocab.name(), &from_vocab(vocab, merges)?)?),
                _ => {
                    let message = "holds neither tokenizer.json nor vocab.json with merges.txt: get the model again";
                    return Err(Error::file(&files.location, message));
                }
            };
        let start = named("bos_token").unwrap_or(START.into());
        let end = named("eos_token").unwrap_or(END.into());
        let pad = named("pad_token").unwrap_or(end.clone());
        let id = |tokenizer: &Tokenizer, token: &str| {
            let missing = || Error::file(source.name(), format!("the vocabulary lacks the special token '{token}'"));
            tokenizer.token_to_id(token).ok_or_else(missing)
        };
        let (start_id, end_id, pad_id) = (id(&tokenizer, &start)?, id(&tokenizer, &end)?, id(&tokenizer, &pad)?);
        let specials = [start, end, pad].map(|content| AddedToken::from(content, true).normalized(false));
        tokenizer.add_special_tokens(&specials);
        let length = config.as_ref().and_then(|c| c.get("model_max_length")?.as_u64());
        let length = length.filter(|&n| n <= LARGEST_LENGTH).map_or(DEFAULT_LENGTH, |n| n as usize).max(2);
        Ok(ClipTokenizer { tokenizer, start: start_id, end: end_id, pad: pad_id, length })
    }

    /// Tokens that every encoded prompt has.
    pub fn length(&self) -> usize {
        self.length
    }

    /// The id that fills a short prompt up: 0 in SD 2, 49407 in SD 1.
    pub fn pad(&self) -> u32 {
        self.pad
    }

    /// Encodes `prompt` to exactly [`length`](Self::length) ids, as diffusers does with `padding="max_length",
    /// truncation=True`; what did not fit is returned, so that it can be warned about.
    ///
    /// # Errors
    /// [`Error::Usage`] when the tokenizer's own patterns fail on the prompt.
    pub fn encode(&self, prompt: &str) -> Result<Encoded> {
        let encoding = self
            .tokenizer
            .encode(prompt, false)
            .map_err(|e| Error::Usage(format!("the prompt cannot be tokenized: {}", one_line(&e))))?;
        let tokens = encoding.get_ids();
        let room = self.length - 2;
        let kept = &tokens[..tokens.len().min(room)];
        let mut ids = Vec::with_capacity(self.length);
        ids.push(self.start);
        ids.extend_from_slice(kept);
        ids.push(self.end);
        ids.resize(self.length, self.pad);
        let truncated = encoding.get_offsets().get(room).map(|&(begin, _)| {
            // A token may begin inside a character's bytes.
            let begin = (0..=begin.min(prompt.len())).rev().find(|&i| prompt.is_char_boundary(i)).unwrap_or(0);
            prompt[begin..].trim().to_owned()
        });
        Ok(Encoded { ids, truncated })
    }
}

/// A special token is written as its text, or as an object with its text as `content`.
fn token(value: &Value) -> Option<String> {
    value.as_str().or_else(|| value.get("content")?.as_str()).map(str::to_owned)
}

fn one_line(error: &impl std::fmt::Display) -> String {
    error.to_string().replace('\n', " ")
}

fn parse(name: &str, bytes: &[u8]) -> Result<Tokenizer> {
    let mut tokenizer = Tokenizer::from_bytes(bytes)
        .map_err(|e| Error::file(name, format!("not a tokenizer that can be read: {}", one_line(&e))))?;
    // Length is kept here, so that what is cut can be shown.
    tokenizer.with_padding(None);
    tokenizer.with_truncation(None).map_err(|e| Error::file(name, one_line(&e)))?;
    Ok(tokenizer)
}

/// `tokenizer.json` for a vocabulary and its merges: the pipeline that `transformers` builds for CLIP
/// (`convert_slow_tokenizer.py`, `CLIPConverter`).
fn from_vocab(vocab: &Source, merges: &Source) -> Result<Vec<u8>> {
    let vocab = super::checkpoints::object(vocab)?;
    // The first line names the format's version; no merge rule starts with '#version'.
    let merges = merges.text()?;
    let rules: Vec<&str> =
        merges.lines().filter(|line| !line.starts_with("#version") && !line.trim().is_empty()).collect();
    let words = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";
    let tokenizer = json!({
        "version": "1.0",
        "added_tokens": [],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "NFC"},
            {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "},
            {"type": "Lowercase"},
        ]},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": words}, "behavior": "Removed", "invert": true},
            {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        ]},
        "model": {
            "type": "BPE", "dropout": null, "unk_token": END, "continuing_subword_prefix": "",
            "end_of_word_suffix": "</w>", "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": vocab, "merges": rules,
        },
    });
    Ok(tokenizer.to_string().into_bytes())
}
