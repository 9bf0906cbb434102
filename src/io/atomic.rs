//! Writing so that a reader sees the old file or the new one, never half of one.

use std::io::Write;
use std::path::Path;

use super::source::describe;
use crate::error::{Error, Result};

/// Writes the file at `path` through `fill`: beside it, synced, then renamed over it. On any error the old file, if
/// there was one, is untouched and nothing is left behind. Missing parent folders are made.
///
/// # Errors
/// [`Error::File`] naming `path` when the folder is missing and cannot be made, read-only or full; `fill`'s own error.
pub fn write_atomic(path: impl AsRef<Path>, fill: impl FnOnce(&mut dyn Write) -> std::io::Result<()>) -> Result<()> {
    let path = path.as_ref();
    write_file(path, fill).map_err(|e| Error::file(path, format!("cannot write: {}", describe(&e))))
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
    let failed = |e: std::io::Error| Error::file(path, format!("cannot write: {}", describe(&e)));
    let staging = beside::folder(path).map_err(failed)?;
    fill(staging.path()).map_err(|e| under_final_name(e, staging.path(), path))?;
    staging.replace(path).map_err(failed)
}

/// The user knows nothing of the staging folder.
fn under_final_name(error: Error, staging: &Path, path: &Path) -> Error {
    match error {
        Error::File { path: at, message } => match Path::new(&at).strip_prefix(staging) {
            Ok(inner) => Error::file(path.join(inner), message),
            Err(_) => Error::File { path: at, message },
        },
        other => other,
    }
}

#[cfg(not(target_arch = "wasm32"))]
fn write_file(path: &Path, fill: impl FnOnce(&mut dyn Write) -> std::io::Result<()>) -> std::io::Result<()> {
    let existing = std::fs::metadata(path).ok();
    if existing.as_ref().is_some_and(|m| m.is_dir()) {
        return Err(std::io::ErrorKind::IsADirectory.into());
    }
    if existing.as_ref().is_some_and(|m| !m.is_file()) {
        // A device or pipe (/dev/stdout, /dev/full) must be written through, not replaced by a file.
        let mut device = std::fs::OpenOptions::new().write(true).open(path)?;
        return fill(&mut device).and_then(|()| device.flush());
    }
    // A rename would succeed over a write-protected file; the owner who protected it means the file.
    if existing.as_ref().is_some_and(|m| m.permissions().readonly()) {
        return Err(std::io::ErrorKind::PermissionDenied.into());
    }
    // A link stays a link: its target is what gets replaced.
    let target = if path.is_symlink() { std::fs::canonicalize(path)? } else { path.to_owned() };
    let parent = beside::parent(&target);
    std::fs::create_dir_all(parent)?;
    let mut builder = tempfile::Builder::new();
    builder.prefix(".portray-").suffix(".part");
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let file = builder.tempfile_in(parent)?;
    let mut out = std::io::BufWriter::with_capacity(1 << 20, file);
    fill(&mut out)?;
    let file = out.into_inner().map_err(|e| e.into_error())?;
    file.as_file().sync_all()?;
    file.persist(&target).map_err(|e| e.error)?;
    beside::sync_folder(parent)
}

#[cfg(target_arch = "wasm32")]
fn write_file(_: &Path, _: impl FnOnce(&mut dyn Write) -> std::io::Result<()>) -> std::io::Result<()> {
    Err(std::io::Error::other("a web page has no file system: take the bytes and offer them as a download"))
}

#[cfg(not(target_arch = "wasm32"))]
mod beside {
    use std::fs;
    use std::io::{Error, Result};
    use std::path::Path;

    /// A staging folder that removes itself unless it is renamed into place.
    pub struct Folder(tempfile::TempDir);

    pub fn parent(path: &Path) -> &Path {
        path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
    }

    pub fn folder(path: &Path) -> Result<Folder> {
        let parent = parent(path);
        fs::create_dir_all(parent)?;
        let mut builder = tempfile::Builder::new();
        builder.prefix(".portray-").suffix(".part");
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o777));
        builder.tempdir_in(parent).map(Folder)
    }

    impl Folder {
        pub fn path(&self) -> &Path {
            self.0.path()
        }

        pub fn replace(self, path: &Path) -> Result<()> {
            sync_tree(self.path())?;
            let parent = parent(path);
            if let Ok(metadata) = fs::metadata(path) {
                if !metadata.is_dir() {
                    return Err(Error::other("is a file, and a folder is to be written: choose another name"));
                }
                for entry in fs::read_dir(path)? {
                    let name = entry?.file_name();
                    if !self.path().join(&name).exists() {
                        let message = format!("the folder holds {name:?}, which would be lost: choose another name");
                        return Err(Error::other(message));
                    }
                }
            }
            if path.symlink_metadata().is_err() {
                fs::rename(self.path(), path)?;
            } else {
                // Two renames, so a crash between them leaves the old folder under its staging name, complete.
                let old = tempfile::Builder::new().prefix(".portray-old-").tempdir_in(parent)?;
                fs::rename(path, old.path().join("old"))?;
                if let Err(e) = fs::rename(self.path(), path) {
                    fs::rename(old.path().join("old"), path)?;
                    return Err(e);
                }
            }
            // The folder has its real name now; what is left of the guard must not delete it.
            let _ = self.0.keep();
            sync_folder(parent)
        }
    }

    fn sync_tree(folder: &Path) -> Result<()> {
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() {
                sync_tree(&path)?;
            } else {
                fs::File::open(&path)?.sync_all()?;
            }
        }
        sync_folder(folder)
    }

    /// Makes a rename durable. Windows cannot open a folder for this and does not need it.
    pub fn sync_folder(folder: &Path) -> Result<()> {
        if cfg!(unix) { fs::File::open(folder)?.sync_all() } else { Ok(()) }
    }
}

#[cfg(target_arch = "wasm32")]
mod beside {
    use std::io::{Error, Result};
    use std::path::Path;

    pub struct Folder;

    pub fn folder(_: &Path) -> Result<Folder> {
        Err(Error::other("a web page has no file system"))
    }

    impl Folder {
        pub fn path(&self) -> &Path {
            Path::new("")
        }
        pub fn replace(self, _: &Path) -> Result<()> {
            Ok(())
        }
    }
}
