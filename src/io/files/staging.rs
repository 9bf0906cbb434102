//! Unfinished files and folders, beside their place, under names of their own.

use std::io::Result;
use std::path::Path;

use tempfile::Builder;

/// Beginnings of the names of unfinished files and folders: hidden, and for places that refuse that.
pub const BEGINNINGS: [&str; 2] = [".portray-", "portray-"];
/// Ending of these names.
pub const ENDING: &str = ".part";

/// Returns whether `path` is a file being written, or one that a killed run left.
pub fn is_staging(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().as_encoded_bytes();
    name.ends_with(ENDING.as_bytes()) && BEGINNINGS.iter().any(|beginning| name.starts_with(beginning.as_bytes()))
}

/// Returns whether `folder` is a part of a result that is being assembled: it is synced as a whole, before it gets its
/// name.
pub fn is_staged(folder: &Path) -> bool {
    folder.ancestors().any(is_staging)
}

/// The folder that `path` lies in.
pub fn parent(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Makes a file or folder with a name of its own, and with the rights that the umask leaves of `mode`.
pub fn staged<T>(mode: u32, make: impl Fn(&Builder<'_, '_>) -> Result<T>) -> Result<T> {
    let with = |prefix: &str| {
        let mut builder = Builder::new();
        builder.prefix(prefix).suffix(ENDING);
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(mode));
        #[cfg(not(unix))]
        let _ = mode;
        make(&builder)
    };
    // Some file servers refuse hidden names.
    with(BEGINNINGS[0]).or_else(|e| with(BEGINNINGS[1]).map_err(|_| e))
}
