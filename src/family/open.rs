//! Opening a checkpoint.

use std::path::Path;

use super::{folder, single_file};
use crate::error::Result;
use crate::io::{Checkpoint, files};

impl Checkpoint {
    /// Opens the diffusers folder or the single file `path`.
    ///
    /// # Errors
    /// [`Error::File`](crate::Error::File) in one line with the remedy: not there, a pickle, a model of another family, a
    /// part or file missing, JSON or safetensors malformed.
    pub fn open(path: impl AsRef<Path>) -> Result<Checkpoint> {
        let path = path.as_ref();
        if files::is_file(path) { single_file::open::open(path) } else { folder::open(path) }
    }
}
