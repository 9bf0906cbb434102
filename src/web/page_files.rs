//! Files that JavaScript puts for the engine, and takes from it.

use std::ops::Range;
use std::path::PathBuf;
use std::rc::Rc;

use js_sys::{Function, Uint8Array};
use wasm_bindgen::prelude::*;

use crate::io::files::Content;
use crate::io::{Slices, files};

/// A file that JavaScript reads: `read(start, end)` gives a `Uint8Array` at once, or throws.
struct JsSlices {
    len: u64,
    read: Function,
}

impl Slices for JsSlices {
    fn len(&self) -> u64 {
        self.len
    }

    fn read(&self, range: Range<u64>) -> Result<Vec<u8>, String> {
        let [start, end] = [range.start, range.end].map(|at| JsValue::from_f64(at as f64));
        let bytes = self.read.call2(&JsValue::NULL, &start, &end).map_err(|e| text_of(&e))?;
        Ok(Uint8Array::new(&bytes).to_vec())
    }
}

fn text_of(error: &JsValue) -> String {
    let message = js_sys::Reflect::get(error, &"message".into()).ok().and_then(|m| m.as_string());
    message.or_else(|| error.as_string()).unwrap_or_else(|| format!("{error:?}"))
}

/// Puts bytes at `path`.
#[wasm_bindgen]
pub fn put(path: &str, bytes: Vec<u8>) {
    files::put(path, Content::Bytes(bytes.into()));
}

/// Puts a file of `len` bytes at `path` that `read(start, end)` reads.
#[wasm_bindgen(js_name = putSlices)]
pub fn put_slices(path: &str, len: f64, read: Function) {
    files::put(path, Content::Slices(Rc::new(JsSlices { len: len as u64, read })));
}

/// Takes away the file at `path`, or what is below it.
#[wasm_bindgen]
pub fn remove(path: &str) {
    files::remove(path);
}

/// The bytes of the file at `path`, where the engine holds them.
#[wasm_bindgen]
pub fn file(path: &str) -> Option<Uint8Array> {
    files::file(path).map(|bytes| Uint8Array::from(&*bytes))
}

fn names(paths: Vec<PathBuf>) -> Vec<String> {
    paths.into_iter().map(|path| path.display().to_string()).collect()
}

/// All files below `folder`.
#[wasm_bindgen]
pub fn below(folder: &str) -> Vec<String> {
    names(files::below(folder))
}

/// What was written since this was asked last.
#[wasm_bindgen]
pub fn written() -> Vec<String> {
    names(files::written())
}
