//! CLIP's byte-pair tokenizer, exactly as `transformers` runs it for Stable Diffusion.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;
use tokenizers::{AddedToken, Tokenizer};

use super::byte_pairs::{self, one_line};
use super::tokenizer_files::{END, START, TokenizerFiles};
use crate::error::{Error, Result};

/// A prompt longer than any real model takes: configurations write 1e30 for "not set".
const LARGEST_LENGTH: u64 = 1 << 16;
/// CLIP's own context length, where the configuration names none.
const DEFAULT_LENGTH: usize = 77;

/// Text to token ids.
#[derive(Clone, Debug)]
pub struct ClipTokenizer {
    tokenizer: Tokenizer,
    start: u32,
    end: u32,
    pad: u32,
    length: usize,
    /// Words that the model added to CLIP's, by id.
    added: BTreeMap<u32, String>,
    notes: Vec<String>,
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

    /// Creates a tokenizer from open files.
    ///
    /// The pad token is that of `special_tokens_map.json`, else of `tokenizer_config.json`, else the end token. It is a
    /// special token: SD 2 pads with "!", and so reads every "!" of a prompt as padding (id 0), before any merging.
    ///
    /// # Errors
    /// Those of [`ClipTokenizer::open`].
    pub fn from_files(files: &TokenizerFiles) -> Result<ClipTokenizer> {
        let config = files.json("tokenizer_config.json")?.unwrap_or_default();
        let (source, (mut tokenizer, own)) =
            match (files.get("tokenizer.json"), files.get("vocab.json"), files.get("merges.txt")) {
                (Some(source), _, _) => (source, byte_pairs::of_file(source)?),
                (None, Some(vocab), Some(merges)) => (vocab, (byte_pairs::of_vocabulary(vocab, merges)?, Value::Null)),
                _ => {
                    let message = "holds neither tokenizer.json nor vocab.json with merges.txt: get the model again";
                    return Err(Error::file(&files.location, message));
                }
            };
        let tokens = AddedTokens::new(files, &config, &own)?;
        let [start, end, pad] = tokens.ends.clone();
        for token in [&start, &end, &pad] {
            if tokenizer.token_to_id(token).is_none()
                && !tokens.list.iter().any(|(id, own)| id.is_some() && own.content == *token)
            {
                let message = format!("the vocabulary lacks the special token '{token}'");
                return Err(Error::file(source.name(), message));
            }
        }
        let (mut added, mut notes) = (BTreeMap::new(), Vec::new());
        for (id, token) in &tokens.list {
            let known = tokenizer.token_to_id(&token.content);
            tokenizer.add_tokens(std::slice::from_ref(token));
            let Some(given) = tokenizer.token_to_id(&token.content) else { continue };
            if let Some(id) = id.filter(|id| *id != given) {
                let content = &token.content;
                notes.push(format!(
                    "{}: token '{content}' is {given}, as transformers numbers it, not {id} as its files say",
                    files.location
                ));
            }
            if known.is_none() {
                added.insert(given, token.content.clone());
            }
        }
        let id = |token: &str| tokenizer.token_to_id(token).unwrap_or_default();
        let (start, end, pad) = (id(&start), id(&end), id(&pad));
        let length = config.get("model_max_length").and_then(Value::as_u64);
        let length = length.filter(|&n| n <= LARGEST_LENGTH).map_or(DEFAULT_LENGTH, |n| n as usize).max(2);
        Ok(ClipTokenizer { tokenizer, start, end, pad, length, added, notes })
    }

    /// Returns the tokenizer with prompts of at most `length` tokens.
    pub fn at_most(mut self, length: usize) -> ClipTokenizer {
        self.length = self.length.min(length).max(2);
        self
    }

    /// Ids that every encoded prompt has: the start token, the end token and the padding.
    pub fn ends(&self) -> [u32; 3] {
        [self.start, self.end, self.pad]
    }

    /// Returns the words that the model added to CLIP's vocabulary, among `ids`.
    pub fn added(&self, ids: &[u32]) -> Vec<&str> {
        let mut found: Vec<u32> = ids.iter().copied().filter(|id| self.added.contains_key(id)).collect();
        found.sort_unstable();
        found.dedup();
        found.iter().filter_map(|id| self.added.get(id).map(String::as_str)).collect()
    }

    /// Returns the tokens of `text` with their ids, without start, end and padding.
    ///
    /// # Errors
    /// Those of [`ClipTokenizer::encode`].
    pub fn pieces(&self, text: &str) -> Result<Vec<(u32, String)>> {
        let encoding = self.tokenizer.encode(text, false).map_err(|e| refusal(&e))?;
        Ok(encoding.get_ids().iter().copied().zip(encoding.get_tokens().iter().cloned()).collect())
    }

    /// Returns the whole words of lower-case ASCII letters that are one token each, with their ids in rising order. CLIP's
    /// ids follow the order of the tokenizer's merges, which were made for the most frequent pair first.
    pub fn whole_words(&self) -> Vec<(u32, String)> {
        let word = |token: &str| {
            let word = token.strip_suffix("</w>")?;
            (!word.is_empty() && word.bytes().all(|b| b.is_ascii_lowercase())).then(|| word.to_owned())
        };
        let vocabulary = self.tokenizer.get_vocab(false);
        let mut words: Vec<(u32, String)> =
            vocabulary.iter().filter_map(|(token, id)| Some((*id, word(token)?))).collect();
        words.sort_unstable();
        words
    }

    /// Notes for the user on the tokenizer's files.
    pub fn notes(&self) -> &[String] {
        &self.notes
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
        let encoding = self.tokenizer.encode(prompt, false).map_err(|e| refusal(&e))?;
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

/// A token as files write it: its text, or an object with its text as `content` and how it is looked for. What an
/// object does not say is as `AddedToken` has it.
fn token(value: &Value, special: bool) -> Option<AddedToken> {
    if let Some(text) = value.as_str() {
        return Some(AddedToken::from(text, special));
    }
    let flag = |name: &str| value.get(name).and_then(Value::as_bool);
    let special = special || flag("special").unwrap_or(false);
    let token = AddedToken::from(value.get("content")?.as_str()?, special);
    let normalized = flag("normalized").unwrap_or(token.normalized);
    let [single_word, lstrip, rstrip] = ["single_word", "lstrip", "rstrip"].map(|name| flag(name).unwrap_or(false));
    Some(token.normalized(normalized).single_word(single_word).lstrip(lstrip).rstrip(rstrip))
}

/// Tokens beside the vocabulary, in the order in which `transformers` adds them (5.23, `PreTrainedTokenizerBase`'s
/// `_from_pretrained` and `TokenizersBackend`'s `__init__`).
struct AddedTokens {
    /// Each with the id that its file gives it.
    list: Vec<(Option<u32>, AddedToken)>,
    /// Start, end and padding.
    ends: [String; 3],
}

impl AddedTokens {
    /// Reads the folder's `files`, of which `config` is `tokenizer_config.json`, and `own`, what `tokenizer.json` adds.
    /// If the configuration lists the tokens, the other files are not read.
    fn new(files: &TokenizerFiles, config: &Value, own: &Value) -> Result<AddedTokens> {
        let listed = config.get("added_tokens_decoder").and_then(Value::as_object);
        let map = match listed {
            Some(_) => None,
            None => files.json("special_tokens_map.json")?,
        };
        let field = |name: &str| map.as_ref().and_then(|map| map.get(name)).or_else(|| config.get(name));
        let named = |name: &str| {
            let default = match name {
                "bos_token" => Some(START),
                "eos_token" | "unk_token" | "pad_token" => Some(END),
                _ => None,
            };
            let given = field(name).and_then(|value| token(value, true));
            given.or_else(|| default.map(|text| AddedToken::from(text, true)))
        };
        let in_map = |name: &str| listing(map.as_ref().and_then(|map| map.get(name)));
        // The older name of the list is asked where the newer one is empty, and in the map after the words were read.
        let (newer, older) = ("extra_special_tokens", "additional_special_tokens");
        let mut extra = listing(config.get(newer));
        if extra.is_empty() {
            extra = listing(config.get(older));
        }
        extra.extend(in_map(newer));
        let mut by_id: BTreeMap<u32, AddedToken> = BTreeMap::new();
        let mut put = |id: Option<u64>, token: Option<AddedToken>, file: &str| -> Result<()> {
            let wrong = || Error::file(format!("{}/{file}", files.location), "lists a token without a text or number");
            by_id.insert(id.and_then(|id| u32::try_from(id).ok()).ok_or_else(wrong)?, token.ok_or_else(wrong)?);
            Ok(())
        };
        for (id, value) in listed.into_iter().flatten() {
            put(id.parse().ok(), token(value, false), "tokenizer_config.json")?;
        }
        if listed.is_none() {
            let special = |text: &str| {
                let is = |token: &AddedToken| token.content == text;
                NAMED.iter().filter_map(|name| named(name)).any(|t| is(&t)) || extra.iter().any(is)
            };
            let words = files.json("added_tokens.json")?;
            for (text, id) in words.iter().filter_map(Value::as_object).flatten() {
                put(id.as_u64(), Some(AddedToken::from(text.as_str(), special(text))), "added_tokens.json")?;
            }
            for value in own.as_array().into_iter().flatten() {
                put(value.get("id").and_then(Value::as_u64), token(value, false), "tokenizer.json")?;
            }
        }
        if extra.is_empty() {
            extra = in_map(older);
        }
        let mut list: Vec<(Option<u32>, AddedToken)> = by_id.into_iter().map(|(id, token)| (Some(id), token)).collect();
        add_special(&mut list, NAMED.iter().filter_map(|name| named(name)).chain(extra));
        let text = |name: &str| named(name).map(|token| token.content);
        let (start, end) = (text("bos_token").unwrap_or_default(), text("eos_token").unwrap_or_default());
        let pad = field("pad_token").and_then(|value| token(value, true)).map_or(end.clone(), |token| token.content);
        // Those that everything depends on are special, whatever a list says of them.
        list.iter_mut().for_each(|(_, token)| token.special |= [&start, &end, &pad].contains(&&token.content));
        Ok(AddedTokens { list, ends: [start, end, pad] })
    }
}

/// Names of single special tokens.
const NAMED: [&str; 7] = ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// The special tokens of a list, or of the values of an object.
fn listing(value: Option<&Value>) -> Vec<AddedToken> {
    let tokens: Vec<&Value> = match value {
        Some(Value::Array(list)) => list.iter().collect(),
        Some(Value::Object(map)) => map.values().collect(),
        _ => Vec::new(),
    };
    tokens.into_iter().filter_map(|value| token(value, true)).collect()
}

/// Adds the special tokens `tokens` to `list`, whose own entries stand as they are.
fn add_special(list: &mut Vec<(Option<u32>, AddedToken)>, tokens: impl Iterator<Item = AddedToken>) {
    let listed = list.len();
    for token in tokens {
        match list.iter().position(|(_, own)| own.content == token.content) {
            // One text under several names is looked for as the last of them says.
            Some(at) if at >= listed => list[at].1 = token,
            Some(_) => {}
            None => list.push((None, token)),
        }
    }
}

fn refusal(error: &impl std::fmt::Display) -> Error {
    Error::argument(format!("the prompt cannot be tokenized: {}", one_line(error)))
}
