//! The safetensors format (<https://github.com/huggingface/safetensors>): 8 bytes of header length, a JSON header,
//! then the tensors' bytes without gaps. Little endian throughout.

mod header;
mod tensor;
mod write;

use std::collections::BTreeMap;
use std::path::Path;

pub use tensor::{ElementType, Tensor, first_non_finite};
pub use write::write_safetensors;

use super::Source;
use crate::error::{Error, Result};

/// An opened safetensors file: its header is checked in full, its tensors are read when asked for.
#[derive(Clone, Debug)]
pub struct SafeTensors {
    source: Source,
    data_start: u64,
    entries: BTreeMap<String, header::Entry>,
    metadata: BTreeMap<String, String>,
}

impl SafeTensors {
    /// Opens the file at `path` and checks its header.
    ///
    /// # Errors
    /// [`Error::File`] naming the file, the tensor and the fault: truncated, a header that is too long, not UTF-8 or
    /// not JSON, a duplicate or unknown field, offsets that overlap, leave gaps or do not fit shape and dtype.
    pub fn open(path: impl AsRef<Path>) -> Result<SafeTensors> {
        SafeTensors::from_source(Source::open(path)?)
    }

    /// Opens bytes from anywhere.
    ///
    /// # Errors
    /// Those of [`SafeTensors::open`].
    pub fn from_source(source: Source) -> Result<SafeTensors> {
        let header = header::read(&source)?;
        let header::Header { data_start, entries, metadata } = header;
        Ok(SafeTensors { source, data_start, entries, metadata })
    }

    /// The file's path or the source's name.
    pub fn name(&self) -> &str {
        self.source.name()
    }

    /// The bytes of the whole file.
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// Renames the tensors: each gets the name that `name` gives for its own, or keeps its own.
    pub(super) fn renamed(mut self, name: impl Fn(&str) -> Option<String>) -> SafeTensors {
        self.entries = self.entries.into_iter().map(|(own, entry)| (name(&own).unwrap_or(own), entry)).collect();
        self
    }

    /// Tensor names in order.
    pub fn names(&self) -> impl ExactSizeIterator<Item = &str> + Clone {
        self.entries.keys().map(String::as_str)
    }

    /// Returns whether there is a tensor of that name.
    pub fn contains(&self, name: &str) -> bool {
        self.entries.contains_key(name)
    }

    /// The header's `__metadata__`: strings to strings.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// The tensor `name`, if the file has it.
    pub fn find(&self, name: &str) -> Option<Tensor<'_>> {
        let (name, entry) = self.entries.get_key_value(name)?;
        // The range was checked against the file when its header was parsed.
        let range = self.data_start + entry.range.start..self.data_start + entry.range.end;
        Some(Tensor::view(&self.source, name, entry.dtype, &entry.shape, range))
    }

    /// The tensor `name`.
    ///
    /// # Errors
    /// [`Error::File`] naming file and tensor when it is not there.
    pub fn get(&self, name: &str) -> Result<Tensor<'_>> {
        self.find(name).ok_or_else(|| Error::file(self.name(), format!("has no tensor '{name}'")))
    }

    /// All tensors in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = Tensor<'_>> {
        self.entries.keys().filter_map(|name| self.find(name))
    }
}
