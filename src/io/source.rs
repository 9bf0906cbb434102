//! Sources of bytes: a file on the disk, bytes in memory, or anything else that gives slices.

use std::borrow::Cow;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

pub(crate) use super::describe::describe;
use super::files;
use super::slices::Data;
use crate::base::json;
use crate::error::{Error, Result};

/// Bytes that are copied at a time.
const WINDOW: u64 = 1 << 20;

/// Reason why a copy stopped.
pub(super) enum CopyError {
    /// The source, with its own message.
    Read(Error),
    /// The destination.
    Write(std::io::Error),
}

/// Named read-only bytes. Cloning shares them.
#[derive(Clone)]
pub struct Source {
    name: String,
    data: Data,
}

impl Source {
    /// Opens the file at `path`; nothing is read until it is looked at.
    ///
    /// # Errors
    /// [`Error::File`] when the file is missing, unreadable or a folder.
    pub fn open(path: impl AsRef<Path>) -> Result<Source> {
        let path = path.as_ref();
        let data = files::open(path).map_err(|e| Error::file(path, describe(&e)))?;
        Ok(Source { name: path.display().to_string(), data })
    }

    /// Bytes in memory; `name` is what errors call them.
    pub fn from_bytes(name: impl Into<String>, bytes: impl Into<Arc<[u8]>>) -> Source {
        Source { name: name.into(), data: Data::Shared(bytes.into()) }
    }

    /// Bytes of the binary itself; `name` is what errors call them.
    pub fn from_static(name: impl Into<String>, bytes: &'static [u8]) -> Source {
        Source { name: name.into(), data: Data::Static(bytes) }
    }

    /// Creates a source from `slices`; errors call it `name`.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn from_slices(name: impl Into<String>, slices: impl super::slices::Slices + Send + Sync + 'static) -> Source {
        Source { name: name.into(), data: Data::Slices(Arc::new(slices)) }
    }

    /// The file's path or the given name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// All bytes, if they are in memory.
    fn present(&self) -> Option<&[u8]> {
        match &self.data {
            Data::Shared(bytes) => Some(bytes),
            Data::Static(bytes) => Some(bytes),
            Data::Slices(_) => None,
        }
    }

    /// Length in bytes.
    pub fn len(&self) -> u64 {
        match &self.data {
            Data::Slices(slices) => slices.len(),
            _ => self.present().map_or(0, |bytes| bytes.len() as u64),
        }
    }

    /// Returns whether there is nothing to read.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Reads all bytes, for a source that is small enough to hold whole.
    ///
    /// # Errors
    /// [`Error::File`] if they cannot be read.
    pub fn bytes(&self) -> Result<Cow<'_, [u8]>> {
        self.read(0..self.len())
    }

    /// The bytes of `range`, without a copy where they are present.
    pub(super) fn slice(&self, range: &Range<u64>) -> Option<&[u8]> {
        let [start, end] = [range.start, range.end].map(|at| usize::try_from(at).ok());
        self.present()?.get(start?..end?)
    }

    /// The bytes of `range`.
    ///
    /// # Errors
    /// [`Error::File`] when the range goes beyond the end, or cannot be read.
    pub fn read(&self, range: Range<u64>) -> Result<Cow<'_, [u8]>> {
        let Range { start, end } = range;
        let len = self.len();
        if start > end || end > len {
            let message = format!("bytes {start}..{end} asked for, but it has {len}: the file is truncated");
            return Err(Error::file(&self.name, message));
        }
        if let Some(bytes) = self.slice(&range) {
            return Ok(Cow::Borrowed(bytes));
        }
        let Data::Slices(slices) = &self.data else { return Ok(Cow::Borrowed(&[])) };
        let bytes = slices.read(range).map_err(|message| Error::file(&self.name, message))?;
        match bytes.len() as u64 == end - start {
            true => Ok(Cow::Owned(bytes)),
            false => Err(Error::file(&self.name, format!("gave {} bytes for {start}..{end}", bytes.len()))),
        }
    }

    /// Writes the bytes of `range` to `out`, a window at a time: no more than that of a file is ever in memory.
    ///
    /// # Errors
    /// [`CopyError`], by which side failed.
    pub(super) fn copy_to(&self, range: Range<u64>, out: &mut dyn std::io::Write) -> Result<(), CopyError> {
        let mut at = range.start;
        while at < range.end {
            let end = range.end.min(at + WINDOW);
            out.write_all(&self.read(at..end).map_err(CopyError::Read)?).map_err(CopyError::Write)?;
            at = end;
        }
        Ok(())
    }

    /// The bytes as UTF-8 text.
    ///
    /// # Errors
    /// [`Error::File`] with the offset of the first byte that is not UTF-8.
    pub fn text(&self) -> Result<Cow<'_, str>> {
        let wrong = |e: std::str::Utf8Error| {
            let what = self.mistaken().map_or_else(String::new, |what| format!(", {what}"));
            Error::file(&self.name, format!("not UTF-8 text (byte {}){what}", e.valid_up_to()))
        };
        match self.bytes()? {
            Cow::Borrowed(bytes) => std::str::from_utf8(bytes).map(Cow::Borrowed).map_err(wrong),
            Cow::Owned(bytes) => String::from_utf8(bytes).map(Cow::Owned).map_err(|e| wrong(e.utf8_error())),
        }
    }

    /// The bytes as JSON, with what Python adds to it ([`json::parse`]).
    ///
    /// # Errors
    /// [`Error::File`] with line and column of what is not JSON.
    pub fn json(&self) -> Result<serde_json::Value> {
        json::parse(&self.text()?).map_err(|e| {
            let what = self.mistaken().map_or(String::new(), |what| format!(", {what}"));
            Error::file(&self.name, format!("not valid JSON: {e}{what}"))
        })
    }

    /// Identifies what failed downloads leave in a file's place, and the remedy.
    pub(super) fn mistaken(&self) -> Option<&'static str> {
        let head = self.read(0..self.len().min(512)).ok()?;
        let text = head.trim_ascii_start();
        let begins = |mark: &[u8]| text.get(..mark.len()).is_some_and(|t| t.eq_ignore_ascii_case(mark));
        let kind = MAGIC.iter().filter(|_| !begins_safetensors(&head)).find(|(magic, _)| head.starts_with(magic));
        let kind = kind.map(|(_, kind)| *kind);
        if head.is_empty() {
            Some("but empty, 0 bytes: get it again")
        } else if kind.is_some() {
            kind
        } else if begins(b"version https://git-lfs") {
            Some("but a Git LFS pointer, which only says where the file is: get it with `git lfs pull`, or download it")
        } else if begins(b"<!doctype") || begins(b"<html") || begins(b"<?xml") {
            Some("but a web page: download the file itself")
        } else {
            None
        }
    }
}

/// The JSON object in `source`.
///
/// # Errors
/// [`Error::File`] where it holds something else.
pub(crate) fn object(source: &Source) -> Result<serde_json::Value> {
    let value = source.json()?;
    if value.is_object() { Ok(value) } else { Err(Error::file(source.name(), "is JSON, but not an object")) }
}

/// Returns whether `head` begins with the length of a safetensors header and that header's brace, whatever else the
/// length looks like: that of 640 bytes begins as a pickle does.
pub(crate) fn begins_safetensors(head: &[u8]) -> bool {
    head.get(4..9).is_some_and(|bytes| bytes == b"\0\0\0\0{")
}

/// First bytes of what is given by mistake, and what it is.
const MAGIC: [(&[u8], &str); 15] = [
    (b"PK\x03\x04", "but a zip archive, as PyTorch's pickles are: get the .safetensors version"),
    (b"\x80\x02", "but a Python pickle: get the .safetensors version"),
    (b"\x80\x04", "but a Python pickle: get the .safetensors version"),
    (b"GGUF", "but a GGUF file: get the .safetensors version"),
    (b"\x89HDF", "but an HDF5 file: get the .safetensors version"),
    (b"\x89PNG", "but a PNG image"),
    (b"\xff\xd8\xff", "but a JPEG image"),
    (b"RIFF", "but a WebP image or another RIFF file"),
    (b"GIF8", "but a GIF image"),
    (b"\x1f\x8b", "but a gzip archive: unpack it"),
    (b"7z\xbc\xaf", "but a 7z archive: unpack it"),
    (b"Rar!", "but a RAR archive: unpack it"),
    (b"\xff\xfe", "but UTF-16 text: save it as UTF-8"),
    (b"\xfe\xff", "but UTF-16 text: save it as UTF-8"),
    (b"%PDF", "but a PDF document"),
];

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Source({}, {} bytes)", self.name, self.len())
    }
}
