//! Writing so that a reader sees the old file or the new one, never half of one.

use std::io::Write;
use std::path::Path;

use super::describe::describe;
use super::files;
use super::source::CopyError;
use crate::error::{Error, Result};

/// Writes the file at `path` through `fill`: beside it, synced, then renamed over it. On any error the old file, if
/// there was one, is untouched and nothing is left behind. Missing parent folders are made.
///
/// # Errors
/// [`Error::File`] naming `path` when the folder is missing and cannot be made, read-only or full; `fill`'s own error.
pub fn write_atomic(path: impl AsRef<Path>, fill: impl FnOnce(&mut dyn Write) -> std::io::Result<()>) -> Result<()> {
    let path = path.as_ref();
    files::write(path, fill).map_err(|e| cannot_write(path, &e))
}

/// Writes the file at `path` as [`write_atomic`] does, through a `fill` that reads other files: a fault of theirs is
/// named as theirs.
pub(super) fn write_copying(path: &Path, fill: impl FnOnce(&mut dyn Write) -> Result<(), CopyError>) -> Result<()> {
    let mut unread = None;
    let written = write_atomic(path, |out| {
        fill(out).map_err(|fault| match fault {
            CopyError::Write(e) => e,
            CopyError::Read(e) => {
                unread = Some(e);
                std::io::ErrorKind::InvalidData.into()
            }
        })
    });
    unread.map_or(written, Err)
}

/// Writes the folder `path` through `fill`, which gets a fresh folder beside it; that is renamed to `path` once
/// everything in it is on the disk. An existing `path` is replaced (whether it may be is the caller's decision), but
/// only by a folder that has everything that it has: nothing else of the user's is ever deleted.
///
/// # Errors
/// [`Error::File`] as [`write_atomic`], or when the existing folder holds something that the new one does not; `fill`'s
/// own error. Nothing is left behind then, and the old folder is in place.
pub fn write_folder(path: impl AsRef<Path>, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let path = path.as_ref();
    let failed = |e: std::io::Error| cannot_write(path, &e);
    let staging = files::Folder::beside(path).map_err(failed)?;
    fill(staging.path()).map_err(|e| under_final_name(e, staging.path(), path))?;
    staging.replace(path).map_err(failed)
}

/// Why `path` cannot be written.
pub(super) fn cannot_write(path: &Path, error: &std::io::Error) -> Error {
    Error::file(path, format!("cannot write: {}", describe(error)))
}

/// The user knows nothing of what is staged.
pub(super) fn under_final_name(error: Error, staging: &Path, path: &Path) -> Error {
    match error {
        Error::File { path: at, message } => match Path::new(&at).strip_prefix(staging) {
            Ok(inner) if inner.as_os_str().is_empty() => Error::file(path, message),
            Ok(inner) => Error::file(path.join(inner), message),
            Err(_) => Error::File { path: at, message },
        },
        other => other,
    }
}
