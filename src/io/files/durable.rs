//! Syncing of what was written, as far as the file system can.

use std::fs::File;
use std::io::{Error, ErrorKind, Result};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use super::staging::is_staging;
use crate::io::describe::describe;

static WARNED: AtomicBool = AtomicBool::new(false);
static WARNING: Mutex<Option<String>> = Mutex::new(None);

/// Syncs `file`, which is open for writing (Windows flushes through no other handle) and goes to `path`.
///
/// # Errors
/// What says that its bytes may be lost; not that the file system cannot sync.
pub fn sync_file(file: &File, path: &Path) -> Result<()> {
    tolerate(file.sync_all(), path)
}

/// Makes what was renamed in `folder` durable. Windows cannot open a folder for this and does not need it.
///
/// # Errors
/// As [`sync_file`].
pub fn sync_folder(folder: &Path) -> Result<()> {
    // A folder that may not be listed cannot be opened, and can hold results all the same.
    if cfg!(unix) { tolerate(File::open(folder).and_then(|folder| folder.sync_all()), folder) } else { Ok(()) }
}

/// Syncs `folder` and the folders in it, whose files are synced as they are written.
///
/// # Errors
/// As [`sync_file`].
pub fn sync_folders(folder: &Path) -> Result<()> {
    if cfg!(unix) {
        for entry in std::fs::read_dir(folder)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                sync_folders(&entry.path())?;
            }
        }
    }
    sync_folder(folder)
}

/// Takes the warning that something could not be synced; there is one in the life of a process.
pub fn warning() -> Option<String> {
    // Asked at every event of a job.
    if !WARNED.load(Ordering::Relaxed) {
        return None;
    }
    WARNING.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).take()
}

fn tolerate(synced: Result<()>, path: &Path) -> Result<()> {
    let Err(error) = synced else { return Ok(()) };
    if !cannot_sync(&error) {
        return Err(error);
    }
    if !WARNED.swap(true, Ordering::Relaxed) {
        // Nobody knows the names of unfinished folders.
        let path = path.ancestors().find(|folder| is_staging(folder)).and_then(Path::parent).unwrap_or(path);
        let (path, what) = (path.display(), describe(&error));
        let warning = format!(
            "{path}: its file system cannot sync ({what}): what is written is there, but a power cut may lose it"
        );
        *WARNING.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = Some(warning);
    }
    Ok(())
}

/// Returns whether `error` says that the file system has no such call, as FUSE, 9p, SMB and FAT do, and not that bytes
/// are lost.
fn cannot_sync(error: &Error) -> bool {
    // macOS syncs with an ioctl: ENOTTY, the same number everywhere. Windows: ERROR_INVALID_FUNCTION.
    let raw = if cfg!(unix) { 25 } else { 1 };
    let kinds = [ErrorKind::InvalidInput, ErrorKind::Unsupported, ErrorKind::PermissionDenied];
    kinds.contains(&error.kind()) || error.raw_os_error() == Some(raw)
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_sync_is_told_from_what_is_lost() {
        for (name, code, cannot) in [
            ("EINVAL", 22, true),
            ("EPERM", 1, true),
            ("EACCES", 13, true),
            ("ENOTTY", 25, true),
            ("EIO", 5, false),
            ("ENOSPC", 28, false),
            ("EROFS", 30, false),
        ] {
            assert_eq!(cannot_sync(&Error::from_raw_os_error(code)), cannot, "{name}");
        }
        assert!(cannot_sync(&ErrorKind::Unsupported.into()));
    }
}
