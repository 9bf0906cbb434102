//! Facts about a path before anything is written: where it leads, whether it can be written, which paths are the same.

use std::fs;
use std::io::{Error, ErrorKind, Result, Write as _};
use std::path::{Path, PathBuf};

use super::staging::parent;

/// Links that are followed before they are taken for a circle, as Linux has it.
const LINKS: usize = 40;

/// Follows links at `path`, whether or not they lead to anything.
///
/// # Errors
/// If they lead in a circle.
pub fn followed(path: &Path) -> Result<PathBuf> {
    let mut at = path.to_owned();
    for _ in 0..LINKS {
        match fs::read_link(&at) {
            Ok(to) => at = parent(&at).join(to),
            Err(_) => return Ok(at),
        }
    }
    Err(Error::other("is a link that leads to itself"))
}

/// The folder at or above `folder` that is there, or what is there instead.
pub fn nearest(folder: &Path) -> PathBuf {
    let mut nearest = folder;
    while !nearest.as_os_str().is_empty() && nearest.symlink_metadata().is_err() {
        nearest = nearest.parent().unwrap_or(Path::new(""));
    }
    if nearest.as_os_str().is_empty() { ".".into() } else { nearest.into() }
}

/// Tries whether files can be made in `folder`, which need not exist yet.
///
/// # Errors
/// The folder that cannot be written, and why.
pub fn try_folder(folder: &Path) -> std::result::Result<(), (PathBuf, Error)> {
    let nearest = nearest(folder);
    if !nearest.is_dir() {
        return Err((nearest, Error::other("is not a folder: name another place to write to")));
    }
    // Permissions alone do not tell: a read-only or full disk shows when something is written.
    let probe = || -> Result<()> { probe(&nearest)?.write_all(&[0; 4096]) };
    probe().map_err(|e| {
        // tempfile adds the path of a file that the user does not know.
        let plain = e.raw_os_error().map_or_else(|| Error::from(e.kind()), Error::from_raw_os_error);
        (nearest, if plain.kind() == ErrorKind::Other { e } else { plain })
    })
}

fn probe(folder: &Path) -> Result<tempfile::NamedTempFile> {
    tempfile::Builder::new().prefix(".portray-PROBE-").suffix(".part").tempfile_in(folder)
}

/// Bytes that are free for files in `folder`, which need not exist yet, where that can be told.
pub fn free_bytes(folder: &Path) -> Option<u64> {
    let stats = fs4::statvfs(nearest(folder)).ok()?;
    // Some file systems of other machines say nothing: zeros.
    (stats.total_space() > 0).then(|| stats.available_space())
}

/// Returns whether two paths lead to the same file or folder, even one that does not exist yet.
pub fn same(a: &Path, b: &Path) -> bool {
    let (a, b) = (real(a), real(b));
    let lower = |path: &Path| path.to_string_lossy().to_lowercase();
    a == b || (lower(&a) == lower(&b) && ignores_case(&nearest(parent(&a))))
}

/// Returns whether `path` is below `folder`.
pub fn within(path: &Path, folder: &Path) -> bool {
    let (path, folder) = (real(path), real(folder));
    path != folder && path.starts_with(folder)
}

/// The path without links, dots and what depends on the folder that we are in.
fn real(path: &Path) -> PathBuf {
    let at = followed(path).unwrap_or_else(|_| path.to_owned());
    let nearest = nearest(&at);
    let mut real = fs::canonicalize(&nearest).unwrap_or_else(|_| nearest.clone());
    let rest =
        if nearest == Path::new(".") { at.as_path() } else { at.strip_prefix(&nearest).unwrap_or(Path::new("")) };
    for component in rest.components() {
        match component {
            std::path::Component::Normal(name) => real.push(name),
            std::path::Component::ParentDir => drop(real.pop()),
            _ => {}
        }
    }
    real
}

fn ignores_case(folder: &Path) -> bool {
    let Ok(file) = probe(folder) else { return false };
    let name = file.path().file_name().unwrap_or_default().to_string_lossy().to_lowercase();
    file.path().with_file_name(name).symlink_metadata().is_ok()
}
