//! Errors in the page's words.

use std::collections::BTreeMap;

use wasm_bindgen::JsValue;

use crate::error::{Error, Remedy, Words};

/// The page's words for what messages name: its own labels of options, else their names in JavaScript.
#[derive(Default)]
pub(super) struct Labels(pub(super) BTreeMap<String, String>);

impl Words for Labels {
    fn option(&self, name: &str) -> String {
        self.0.get(name).cloned().unwrap_or_else(|| camel(name))
    }

    /// Folders that the page made up say nothing to its reader: a model, a LoRA or a training is called by its own name.
    fn path(&self, path: &str) -> String {
        let mut parts = path.trim_start_matches('/').split('/');
        let skipped = match parts.next() {
            Some("models" | "loras" | "runs" | "vision") => 1,
            Some("converted") => 0,
            Some("pictures") => return "this image".to_owned(),
            _ => return path.to_owned(),
        };
        parts.skip(skipped).collect::<Vec<_>>().join("/")
    }

    fn remedy(&self, remedy: Remedy) -> String {
        match remedy {
            Remedy::StartAnew => "begin a new training".into(),
        }
    }
}

impl Labels {
    /// An error as JavaScript gets it: an `Error` with the fields of its JSON.
    pub(super) fn thrown(&self, error: &Error) -> JsValue {
        let thrown = js_sys::Error::new(&error.in_words(self));
        // Setting properties of a fresh object cannot fail, nor can the JSON that was just written.
        if let Ok(fields) = js_sys::JSON::parse(&error.to_json(self).to_string()) {
            let _ = js_sys::Object::assign(&thrown, &fields.into());
        }
        thrown.into()
    }
}

/// `class_prompt` as `classPrompt`.
fn camel(name: &str) -> String {
    let mut words = name.split('_');
    let first = words.next().unwrap_or_default().to_owned();
    words.fold(first, |name, word| {
        let mut letters = word.chars();
        let initial: String = letters.next().into_iter().flat_map(char::to_uppercase).collect();
        name + &initial + letters.as_str()
    })
}
