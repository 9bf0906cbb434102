//! The files that a tokenizer is made of.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};

use super::{Source, files};
use crate::error::{Error, Result};

/// Text of the token at a prompt's end, which also fills shorter ones in 1.x models.
pub(super) const END: &str = "<|endoftext|>";
/// Text of the token at a prompt's start.
pub(super) const START: &str = "<|startoftext|>";
/// Files of a tokenizer's folder that are read.
const FILES: [&str; 6] = [
    "tokenizer.json",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
    "special_tokens_map.json",
    "tokenizer_config.json",
];

/// The files of a `tokenizer/` folder, from disk or from the binary.
#[derive(Clone, Debug)]
pub struct TokenizerFiles {
    /// Folder or name, for messages.
    pub(super) location: String,
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

    /// CLIP's vocabulary and merges out of the bundled model that a page has beside it.
    ///
    /// # Errors
    /// [`Error::File`] where there is none.
    #[cfg(not(feature = "bundled"))]
    pub(crate) fn of_bundled_model(name: &str, pad: &str) -> Result<TokenizerFiles> {
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
        for name in FILES {
            let path = folder.join(name);
            if let Some(target) = files::dangling(&path) {
                let target = target.display();
                let message =
                    format!("not downloaded: points to {target}, which is not there; download the model again");
                return Err(Error::file(path, message));
            }
        }
        let present = FILES.into_iter().filter(|name| files::is_file(folder.join(name)));
        let files = present.map(|name| Ok((name, Source::open(folder.join(name))?))).collect::<Result<Vec<_>>>()?;
        Ok(TokenizerFiles::new(folder.display().to_string(), files))
    }

    /// The files by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Source)> {
        self.files.iter().map(|(name, source)| (name.as_str(), source))
    }

    /// The file `name`, where there is one.
    pub(super) fn get(&self, name: &str) -> Option<&Source> {
        self.files.get(name)
    }

    /// The file `name` as JSON, where there is one.
    pub(super) fn json(&self, name: &str) -> Result<Option<Value>> {
        self.get(name).map(Source::json).transpose()
    }
}
