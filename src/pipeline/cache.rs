//! Folder of everything that Portray keeps between jobs.

use std::path::PathBuf;

use crate::error::{Error, Result};
use crate::io;

/// Returns the user's cache folder for Portray.
pub fn cache_folder() -> Result<PathBuf> {
    let base = io::files::cache().ok_or_else(|| Error::argument("no cache folder: set XDG_CACHE_HOME or HOME"))?;
    Ok(base.join("portray"))
}
