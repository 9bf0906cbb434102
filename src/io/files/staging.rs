//! What is unfinished: files and folders beside their place, under names of their own.

use std::io::Result;
use std::path::Path;

use tempfile::Builder;

/// How the names of unfinished files and folders begin: hidden, and where that is refused.
pub const BEGINNINGS: [&str; 2] = [".portray-", "portray-"];
/// How they end.
pub const ENDING: &str = ".part";

/// Whether `path` is what a killed run left of a file that it was writing, or what one is writing.
pub fn is_staging(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().as_encoded_bytes();
    name.ends_with(ENDING.as_bytes()) && BEGINNINGS.iter().any(|beginning| name.starts_with(beginning.as_bytes()))
}

/// Whether `folder` is a part of a result that is being assembled: it is synced as a whole, before it gets its name.
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
