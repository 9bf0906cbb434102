//! What is remembered between jobs.

use std::path::PathBuf;

use crate::error::{Error, Result};
use crate::io;

/// The user's cache folder for this program.
pub fn cache_folder() -> Result<PathBuf> {
    let base = io::files::cache().ok_or_else(|| Error::argument("no cache folder: set XDG_CACHE_HOME or HOME"))?;
    Ok(base.join("portray"))
}
