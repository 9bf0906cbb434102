//! The file system: the machine's disk, or in a browser what the page has put under a name.

#[cfg(not(target_arch = "wasm32"))]
mod disk;
#[cfg(not(target_arch = "wasm32"))]
mod durable;
#[cfg(not(target_arch = "wasm32"))]
use disk as system;

#[cfg(target_arch = "wasm32")]
mod page;
#[cfg(target_arch = "wasm32")]
use page as system;

pub mod path_form;

use std::path::{Path, PathBuf};

#[cfg(target_arch = "wasm32")]
pub use page::{Content, below, file, put, remove, written};
pub use system::cache;
pub(super) use system::{Folder, dangling, open, write};

/// Where a page has the bundled model.
pub const BUNDLED_MODEL: &str = "/bundled";

/// Whether there is a file or folder at `path`.
pub fn exists(path: impl AsRef<Path>) -> bool {
    let path = path.as_ref();
    system::is_file(path) || system::is_folder(path)
}

/// Whether there is a file at `path`.
pub fn is_file(path: impl AsRef<Path>) -> bool {
    system::is_file(path.as_ref())
}

/// Whether there is a folder at `path`.
pub fn is_folder(path: impl AsRef<Path>) -> bool {
    system::is_folder(path.as_ref())
}

/// What lies in the folder `path` itself, unordered.
///
/// # Errors
/// When it cannot be read.
pub fn entries(path: impl AsRef<Path>) -> std::io::Result<Vec<PathBuf>> {
    system::entries(path.as_ref())
}

/// Deletes the folder `path` with all that is in it.
///
/// # Errors
/// When it cannot be deleted.
pub fn remove_folder(path: impl AsRef<Path>) -> std::io::Result<()> {
    system::remove_folder(path.as_ref())
}

/// Takes the warning that results could not be synced to the disk; there is one in the life of a process.
pub fn unsynced() -> Option<String> {
    #[cfg(not(target_arch = "wasm32"))]
    return durable::warning();
    #[cfg(target_arch = "wasm32")]
    None
}
