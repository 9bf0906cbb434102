//! Where bytes come from: a mapped file or bytes in memory.

use std::borrow::Cow;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use crate::error::{Error, Result};

/// Named read-only bytes. Cloning shares them.
#[derive(Clone)]
pub struct Source {
    name: String,
    data: Data,
}

#[derive(Clone)]
enum Data {
    #[cfg(not(target_arch = "wasm32"))]
    Mapped(Arc<memmap2::Mmap>),
    Shared(Arc<[u8]>),
    Static(&'static [u8]),
}

impl Source {
    /// Maps the file at `path`; nothing is read until it is looked at.
    ///
    /// # Errors
    /// [`Error::File`] when the file is missing, unreadable or a folder.
    pub fn open(path: impl AsRef<Path>) -> Result<Source> {
        let path = path.as_ref();
        let data = open_data(path).map_err(|e| Error::file(path, describe(&e)))?;
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

    /// The file's path or the given name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// All bytes. A file that another program shortens while it is mapped is that program's fault.
    pub fn bytes(&self) -> &[u8] {
        match &self.data {
            #[cfg(not(target_arch = "wasm32"))]
            Data::Mapped(map) => map,
            Data::Shared(bytes) => bytes,
            Data::Static(bytes) => bytes,
        }
    }

    /// Length in bytes.
    pub fn len(&self) -> u64 {
        self.bytes().len() as u64
    }

    /// Whether there is nothing to read.
    pub fn is_empty(&self) -> bool {
        self.bytes().is_empty()
    }

    /// The bytes of `range`. Async because a remote source has to fetch them; mapped and in-memory bytes are ready.
    ///
    /// # Errors
    /// [`Error::File`] when the range goes beyond the end.
    pub async fn read(&self, range: Range<u64>) -> Result<Cow<'_, [u8]>> {
        let slice = usize::try_from(range.start)
            .ok()
            .zip(usize::try_from(range.end).ok())
            .and_then(|(start, end)| self.bytes().get(start..end));
        slice.map(Cow::Borrowed).ok_or_else(|| {
            let (start, end, len) = (range.start, range.end, self.len());
            Error::file(&self.name, format!("bytes {start}..{end} asked for, but it has {len}: the file is truncated"))
        })
    }

    /// Gives the pages of `bytes`, a part of this source, back to the system where they are mapped: they are read again
    /// from the file when they are looked at again.
    pub fn release(&self, bytes: &[u8]) {
        #[cfg(unix)]
        if let Data::Mapped(map) = &self.data {
            let Some(offset) = (bytes.as_ptr() as usize).checked_sub(map.as_ptr() as usize) else { return };
            if offset + bytes.len() <= map.len() && !bytes.is_empty() {
                // SAFETY: the map is of a file and never written, so pages that are dropped come back unchanged. That
                // the advice may be refused changes nothing.
                let _ = unsafe { map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, offset, bytes.len()) };
            }
        }
        #[cfg(not(unix))]
        let _ = bytes;
    }

    /// The bytes as UTF-8 text.
    ///
    /// # Errors
    /// [`Error::File`] with the offset of the first byte that is not UTF-8.
    pub fn text(&self) -> Result<&str> {
        std::str::from_utf8(self.bytes())
            .map_err(|e| Error::file(&self.name, format!("not UTF-8 text (byte {})", e.valid_up_to())))
    }

    /// The bytes as JSON.
    ///
    /// # Errors
    /// [`Error::File`] with line and column of what is not JSON.
    pub fn json(&self) -> Result<serde_json::Value> {
        serde_json::from_str(self.text()?).map_err(|e| Error::file(&self.name, format!("not valid JSON: {e}")))
    }
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Source({}, {} bytes)", self.name, self.len())
    }
}

#[cfg(not(target_arch = "wasm32"))]
fn open_data(path: &Path) -> std::io::Result<Data> {
    let file = std::fs::File::open(path)?;
    let meta = file.metadata()?;
    if meta.is_dir() {
        return Err(std::io::Error::other("is a folder, expected a file"));
    }
    if meta.len() == 0 {
        return Ok(Data::Static(&[]));
    }
    // SAFETY: the map is read-only and we never write a file in place (`write_atomic` renames), so the bytes change
    // only if another program rewrites the file while we read it, which no mapping reader can prevent.
    Ok(Data::Mapped(Arc::new(unsafe { memmap2::Mmap::map(&file)? })))
}

#[cfg(target_arch = "wasm32")]
fn open_data(path: &Path) -> std::io::Result<Data> {
    Ok(Data::Shared(std::fs::read(path)?.into()))
}

/// What an I/O error means to a user, without the `(os error N)` tail.
pub(crate) fn describe(error: &std::io::Error) -> String {
    use std::io::ErrorKind as K;
    match error.kind() {
        K::NotFound => "no such file or folder".into(),
        K::PermissionDenied => "permission denied".into(),
        K::StorageFull => "the disk is full: free some space or write elsewhere".into(),
        K::ReadOnlyFilesystem => "the file system is read-only: write elsewhere".into(),
        K::IsADirectory => "is a folder, expected a file".into(),
        _ => {
            let text = error.to_string();
            text.split(" (os error").next().unwrap_or(&text).to_owned()
        }
    }
}
