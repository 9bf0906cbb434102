//! The machine's file system.

use std::fs;
use std::io::{BufWriter, Error, Result, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::io::source::Data;

use super::put::{Spot, file_spot, followed, settle};

/// The user's folder for what can be made again.
pub fn cache() -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    set("XDG_CACHE_HOME").or_else(|| set("LOCALAPPDATA")).or_else(|| {
        set("HOME").map(|home| home.join(if cfg!(target_os = "macos") { "Library/Caches" } else { ".cache" }))
    })
}

pub fn is_file(path: &Path) -> bool {
    path.is_file()
}

pub fn is_folder(path: &Path) -> bool {
    path.is_dir()
}

pub fn entries(path: &Path) -> Result<Vec<PathBuf>> {
    fs::read_dir(path)?.map(|entry| Ok(entry?.path())).collect()
}

pub fn remove_file(path: &Path) -> Result<()> {
    fs::remove_file(path)
}

/// Removes the folder `path` if nothing is in it.
pub fn remove_empty(path: &Path) -> Result<()> {
    fs::remove_dir(path)
}

pub fn open(path: &Path) -> Result<Data> {
    let file = fs::File::open(path)?;
    let meta = file.metadata()?;
    if meta.is_dir() {
        return Err(Error::other("is a folder, expected a file"));
    }
    if meta.len() == 0 {
        return Ok(Data::Static(&[]));
    }
    // SAFETY: the map is read-only and we never write a file in place (`write_atomic` renames), so the bytes change
    // only if another program rewrites the file while we read it, which no mapping reader can prevent.
    Ok(Data::Mapped(Arc::new(unsafe { memmap2::Mmap::map(&file)? })))
}

/// Writes the file at `path` through `fill`: beside it, synced, then renamed.
pub fn write(path: &Path, fill: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<()> {
    // A link stays a link: its target is what gets replaced.
    let target = match file_spot(path)? {
        Spot::Free(target) | Spot::Taken(target) => target,
        Spot::Device => {
            // A device or pipe (/dev/stdout, /dev/full) must be written through, not replaced by a file.
            let mut device = fs::OpenOptions::new().write(true).open(path)?;
            return fill(&mut device).and_then(|()| device.flush());
        }
    };
    let parent = parent(&target);
    fs::create_dir_all(parent)?;
    let mut builder = tempfile::Builder::new();
    builder.prefix(".portray-").suffix(".part");
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let file = builder.tempfile_in(parent)?;
    let mut out = BufWriter::with_capacity(1 << 20, file);
    fill(&mut out)?;
    let file = out.into_inner().map_err(|e| e.into_error())?;
    file.as_file().sync_all()?;
    file.persist(&target).map_err(|e| e.error)?;
    sync_folder(parent)
}

/// Where results may be left that have no other place.
pub fn temporary() -> PathBuf {
    std::env::temp_dir()
}

/// A folder beside its place that removes itself unless it is renamed into place.
pub struct Folder(tempfile::TempDir);

/// The folder that `path` lies in.
pub(super) fn parent(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

impl Folder {
    pub fn beside(path: &Path) -> Result<Folder> {
        let target = followed(path)?;
        let parent = parent(&target);
        fs::create_dir_all(parent)?;
        let mut builder = tempfile::Builder::new();
        builder.prefix(".portray-").suffix(".part");
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o777));
        builder.tempdir_in(parent).map(Folder)
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Gives it the name `path`, in place of a folder that has nothing more.
    pub fn replace(self, path: &Path) -> Result<()> {
        sync_tree(self.path())?;
        settle(self.path(), path, true)?;
        // The folder has its real name now; what is left of the guard must not delete it.
        let _ = self.0.keep();
        Ok(())
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
pub(super) fn sync_folder(folder: &Path) -> Result<()> {
    if cfg!(unix) { fs::File::open(folder)?.sync_all() } else { Ok(()) }
}
