//! The file system: the machine's disk, or in a browser what the page has put under a name.

#[cfg(not(target_arch = "wasm32"))]
mod disk;
#[cfg(not(target_arch = "wasm32"))]
mod durable;
#[cfg(not(target_arch = "wasm32"))]
mod lock;
#[cfg(not(target_arch = "wasm32"))]
mod paths;
#[cfg(not(target_arch = "wasm32"))]
mod put;
#[cfg(not(target_arch = "wasm32"))]
mod staging;
#[cfg(not(target_arch = "wasm32"))]
mod system {
    pub use super::disk::*;
    pub use super::lock::{Lock, Locked, lock};
    pub use super::paths::{free_bytes, same, try_folder, within};
    pub use super::put::{Spot, file_spot, folder_spot, settle};
    pub use super::staging::is_staging;
}

#[cfg(target_arch = "wasm32")]
mod page;
#[cfg(target_arch = "wasm32")]
use page as system;

pub mod path_form;

use std::path::{Path, PathBuf};

use super::describe::describe;
use crate::error::{Error, Result};

#[cfg(target_arch = "wasm32")]
pub use page::{Content, below, file, put, remove, written};
pub(super) use system::{Folder, Locked, Spot, dangling, file_spot, folder_spot, lock, open, settle, temporary, write};
pub use system::{Lock, cache, free_bytes, is_staging, same, within};

/// Path of the built-in model in a page.
pub const BUNDLED_MODEL: &str = "/bundled";

/// Returns whether there is a file or folder at `path`.
pub fn exists(path: impl AsRef<Path>) -> bool {
    let path = path.as_ref();
    system::is_file(path) || system::is_folder(path)
}

/// Returns whether there is a file at `path`.
pub fn is_file(path: impl AsRef<Path>) -> bool {
    system::is_file(path.as_ref())
}

/// Returns whether there is a folder at `path`.
pub fn is_folder(path: impl AsRef<Path>) -> bool {
    system::is_folder(path.as_ref())
}

/// Lists the folder `path`, in no particular order.
///
/// # Errors
/// If it cannot be read.
pub fn entries(path: impl AsRef<Path>) -> std::io::Result<Vec<PathBuf>> {
    system::entries(path.as_ref())
}

/// Deletes the file `path`.
///
/// # Errors
/// When it cannot be deleted.
pub fn remove_file(path: impl AsRef<Path>) -> std::io::Result<()> {
    system::remove_file(path.as_ref())
}

/// Deletes the folder `path` if nothing is in it.
///
/// # Errors
/// When it cannot be deleted.
pub fn remove_empty(path: impl AsRef<Path>) -> std::io::Result<()> {
    system::remove_empty(path.as_ref())
}

/// Returns whether anything is at `path`, even a link that leads nowhere.
pub fn is_taken(path: impl AsRef<Path>) -> bool {
    let path = path.as_ref();
    exists(path) || path.symlink_metadata().is_ok()
}

/// Tries whether files can be made in `folder`, which need not exist yet.
///
/// # Errors
/// [`Error::File`] naming the folder that cannot be written, and why.
pub fn try_folder(folder: impl AsRef<Path>) -> Result<()> {
    system::try_folder(folder.as_ref()).map_err(|(at, e)| {
        let reason = describe(&e);
        // What the system says has no remedy, what we say has.
        let message = match (e.kind(), reason.contains(':')) {
            (std::io::ErrorKind::Other, _) => reason,
            (_, true) => format!("cannot write here: {reason}"),
            (_, false) => format!("cannot write here: {reason}: free it or name another place"),
        };
        Error::file(at, message)
    })
}

/// Takes the warning that results could not be synced to the disk; there is one in the life of a process.
pub fn unsynced() -> Option<String> {
    #[cfg(not(target_arch = "wasm32"))]
    return durable::warning();
    #[cfg(target_arch = "wasm32")]
    None
}
