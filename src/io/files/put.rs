//! The rules by which a result takes its place: the same before the work and at its end.

use std::fs;
use std::io::{Error, ErrorKind, Result};
use std::path::{Path, PathBuf};

use super::durable::{sync_file, sync_folder, sync_folders};
use super::paths::followed;
use super::staging::{is_staged, is_staging, parent, staged};
use crate::io::describe::describe;

/// State of a result's place; links are followed to their end.
pub enum Spot {
    /// Nothing.
    Free(PathBuf),
    /// A file or folder that the result may replace.
    Taken(PathBuf),
    /// A device or pipe, which is written through.
    Device,
}

/// Returns what is at `path`.
fn found(path: &Path) -> Result<Option<fs::Metadata>> {
    match fs::metadata(path) {
        Ok(metadata) => Ok(Some(metadata)),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(explained(e)),
    }
}

fn explained(error: Error) -> Error {
    match error.kind() {
        ErrorKind::InvalidFilename => Error::other("the name is too long for this disk: choose a shorter one"),
        ErrorKind::NotADirectory => Error::other("lies below a file: name another place to write to"),
        _ => error,
    }
}

/// Returns the place of a file that is written to `path`.
///
/// # Errors
/// If no file may go there, whatever the caller allows: a folder is there, or a protected file.
pub fn file_spot(path: &Path) -> Result<Spot> {
    // The links of /dev/stdout lead to names that are none (`pipe:[1]`): what is there says the system alone.
    if let Ok(metadata) = fs::metadata(path)
        && !metadata.is_dir()
        && !metadata.is_file()
    {
        return if is_disk(&metadata) { Err(Error::other("is a disk: name a file")) } else { Ok(Spot::Device) };
    }
    let at = followed(path)?;
    let Some(metadata) = found(&at)? else { return Ok(Spot::Free(at)) };
    if metadata.is_dir() {
        return Err(ErrorKind::IsADirectory.into());
    }
    // A rename would succeed over a write-protected file; the owner who protected it means the file.
    if metadata.permissions().readonly() {
        return Err(ErrorKind::PermissionDenied.into());
    }
    Ok(Spot::Taken(at))
}

#[cfg(unix)]
fn is_disk(metadata: &fs::Metadata) -> bool {
    std::os::unix::fs::FileTypeExt::is_block_device(&metadata.file_type())
}

#[cfg(not(unix))]
fn is_disk(_: &fs::Metadata) -> bool {
    false
}

/// Returns the place of a folder that is written to `path`. `has` says whether the new folder has a path, as a folder
/// or as a file: other contents would be lost.
///
/// # Errors
/// If no such folder may go there, whatever the caller allows.
pub fn folder_spot(path: &Path, has: &dyn Fn(&Path, bool) -> bool) -> Result<Spot> {
    let at = followed(path)?;
    let Some(metadata) = found(&at)? else { return Ok(Spot::Free(at)) };
    if !metadata.is_dir() {
        return Err(Error::other("is a file, and a folder is to be written: choose another name"));
    }
    if metadata.permissions().readonly() {
        return Err(ErrorKind::PermissionDenied.into());
    }
    if is_mount(&at, &metadata) {
        return Err(Error::other("is a file system of its own, which cannot be replaced: name a folder in it"));
    }
    match lost(&at, &at, has)? {
        Some(name) => Err(Error::other(format!("the folder holds {name:?}, which would be lost: choose another name"))),
        None => Ok(Spot::Taken(at)),
    }
}

#[cfg(unix)]
fn is_mount(path: &Path, metadata: &fs::Metadata) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    fs::metadata(parent(path)).is_ok_and(|above| above.dev() != metadata.dev())
}

#[cfg(not(unix))]
fn is_mount(_: &Path, _: &fs::Metadata) -> bool {
    false
}

/// Something below `folder` that the new folder does not have.
fn lost(top: &Path, folder: &Path, has: &dyn Fn(&Path, bool) -> bool) -> Result<Option<PathBuf>> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let (path, is_folder) = (entry.path(), entry.file_type()?.is_dir());
        let inner = path.strip_prefix(top).unwrap_or(&path);
        if is_staging(&path) {
            continue;
        }
        if !has(inner, is_folder) {
            return Ok(Some(inner.to_owned()));
        }
        if is_folder && let Some(inner) = lost(top, &path, has)? {
            return Ok(Some(inner));
        }
    }
    Ok(None)
}

/// The error of a result that is in its place, while the disk says that it may not stay.
pub fn doubtful(error: Error) -> Error {
    let what = describe(&error);
    Error::new(error.kind(), format!("the disk reports \"{what}\" after the last byte: copy what is there elsewhere"))
}

/// Returns whether a rename was refused because something is mounted on the name, as containers do with files and
/// folders, or because it comes from a lower layer of an overlay. Such a place can only be written into.
pub fn is_mounted(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::CrossesDevices | ErrorKind::ResourceBusy)
}

/// Writes the file `from` into the file `to`.
pub fn copy_over(from: &Path, to: &Path) -> Result<()> {
    let mut file = fs::File::create(to)?;
    std::io::copy(&mut fs::File::open(from)?, &mut file)?;
    sync_file(&file, to)
}

fn rename_file(from: &Path, to: &Path) -> Result<()> {
    match fs::rename(from, to) {
        Err(e) if is_mounted(&e) => copy_over(from, to),
        renamed => renamed,
    }
}

/// Moves all of `from` into the folder `into`, in place of all that is there.
fn merge(from: &Path, into: &Path) -> Result<()> {
    for entry in fs::read_dir(into)? {
        let entry = entry?;
        match (from.join(entry.file_name()).exists(), entry.file_type()?.is_dir()) {
            (true, _) => {}
            (false, true) => fs::remove_dir_all(entry.path())?,
            (false, false) => fs::remove_file(entry.path())?,
        }
    }
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let place = into.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            fs::create_dir_all(&place)?;
            merge(&entry.path(), &place)?;
        } else {
            rename_file(&entry.path(), &place)?;
        }
    }
    sync_folder(into)
}

/// Gives the file or folder `from` the name `path`, in place of what is there where `replace` allows it; of a folder there
/// also the files `earlier` (paths in it) go. What it returns is what the disk had to say when all was in its place.
///
/// # Errors
/// [`ErrorKind::AlreadyExists`] where something is at `path` that may not be replaced; else as [`file_spot`] and
/// [`folder_spot`].
pub fn settle(from: &Path, path: &Path, replace: bool, earlier: &[PathBuf]) -> Result<Option<Error>> {
    let is_folder = from.is_dir();
    if !replace && path.symlink_metadata().is_ok() {
        return Err(ErrorKind::AlreadyExists.into());
    }
    let spot = match is_folder {
        true => folder_spot(path, &|inner, folder| {
            from.join(inner).symlink_metadata().is_ok_and(|metadata| metadata.is_dir() == folder)
                || earlier.iter().any(|file| if folder { file.starts_with(inner) } else { file == inner })
        })?,
        false => file_spot(path)?,
    };
    // Whatever the disk says, what is whole gets its name: it can be copied from there.
    let synced = if is_folder && !is_staged(parent(path)) { sync_folders(from) } else { Ok(()) };
    let at = match spot {
        Spot::Device => return Err(ErrorKind::AlreadyExists.into()),
        // It appeared since.
        Spot::Taken(_) if !replace => return Err(ErrorKind::AlreadyExists.into()),
        Spot::Free(at) => {
            fs::create_dir_all(parent(&at))?;
            if is_folder {
                fs::rename(from, &at)?
            } else {
                rename_new(from, &at)?
            }
            at
        }
        Spot::Taken(at) if is_folder => {
            // Two renames, so a crash between them leaves the old folder under its staging name, complete.
            let old = staged(0o777, |builder| builder.tempdir_in(parent(&at)))?;
            match fs::rename(&at, old.path().join("old")) {
                Err(e) if is_mounted(&e) => {
                    merge(from, &at)?;
                    return Ok(synced.err().map(doubtful));
                }
                moved => moved?,
            }
            if let Err(e) = fs::rename(from, &at) {
                if fs::rename(old.path().join("old"), &at).is_err() {
                    // The old folder is the user's: better under another name than gone.
                    let _ = old.keep();
                }
                return Err(e);
            }
            at
        }
        Spot::Taken(at) => {
            rename_file(from, &at)?;
            at
        }
    };
    let synced = if is_staged(parent(&at)) { Ok(()) } else { synced.and_then(|()| sync_folder(parent(&at))) };
    Ok(synced.err().map(doubtful))
}

/// Renames a file to a name that nothing has.
fn rename_new(from: &Path, to: &Path) -> Result<()> {
    let Err(e) = tempfile::TempPath::try_from_path(from)?.persist_noclobber(to) else { return Ok(()) };
    let (error, from) = (e.error, e.path.keep().map_err(|e| e.error)?);
    if error.kind() == ErrorKind::AlreadyExists || to.symlink_metadata().is_ok() {
        return Err(ErrorKind::AlreadyExists.into());
    }
    // Some file systems know neither such a rename nor hard links.
    let unknown = [ErrorKind::Unsupported, ErrorKind::InvalidInput, ErrorKind::PermissionDenied];
    if unknown.contains(&error.kind()) { fs::rename(from, to) } else { Err(error) }
}
