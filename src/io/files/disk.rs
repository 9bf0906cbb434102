//! The machine's file system.

use std::fs;
use std::io::{BufWriter, Error, ErrorKind, Result, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::io::source::{Data, Slices, describe};

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

pub fn remove_folder(path: &Path) -> Result<()> {
    fs::remove_dir_all(path)
}

/// An open file, read at positions. It is not mapped: not every file system can, and a mapped file that another program
/// shortens takes the process with it.
struct OpenFile {
    file: fs::File,
    len: u64,
}

impl Slices for OpenFile {
    fn len(&self) -> u64 {
        self.len
    }

    fn read(&self, range: Range<u64>) -> std::result::Result<Vec<u8>, String> {
        let mut bytes = vec![0; (range.end - range.start) as usize];
        let (mut at, mut left) = (range.start, bytes.as_mut_slice());
        while !left.is_empty() {
            match read_at(&self.file, left, at) {
                Ok(0) => {
                    let len = self.len;
                    return Err(format!(
                        "had {len} bytes when it was opened, and ends at byte {at} now: it was cut while it was in use, get the whole file again"
                    ));
                }
                Ok(n) => (at, left) = (at + n as u64, &mut left[n..]),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(format!("cannot read: {}", describe(&e))),
            }
        }
        Ok(bytes)
    }
}

#[cfg(unix)]
fn read_at(file: &fs::File, bytes: &mut [u8], at: u64) -> Result<usize> {
    std::os::unix::fs::FileExt::read_at(file, bytes, at)
}

#[cfg(windows)]
fn read_at(file: &fs::File, bytes: &mut [u8], at: u64) -> Result<usize> {
    std::os::windows::fs::FileExt::seek_read(file, bytes, at)
}

/// Files up to this size are read as they are opened, and closed: a model has a dozen, and a process few handles.
const SMALL: u64 = 1 << 16;

pub fn open(path: &Path) -> Result<Data> {
    let file = fs::File::open(path)?;
    let meta = file.metadata()?;
    if meta.is_dir() {
        return Err(ErrorKind::IsADirectory.into());
    }
    if !meta.is_file() {
        return Err(Error::other("is a device or pipe, expected a file"));
    }
    let open = OpenFile { file, len: meta.len() };
    if open.len > SMALL {
        return Ok(Data::Slices(Arc::new(open)));
    }
    open.read(0..open.len).map(|bytes| Data::Shared(bytes.into())).map_err(Error::other)
}

/// What the link at `path` points to, where nothing is there.
pub fn dangling(path: &Path) -> Option<PathBuf> {
    if path.exists() { None } else { fs::read_link(path).ok() }
}

/// Writes the file at `path` through `fill`: beside it, synced, then renamed.
pub fn write(path: &Path, fill: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<()> {
    let existing = fs::metadata(path).ok();
    if existing.as_ref().is_some_and(|m| m.is_dir()) {
        return Err(ErrorKind::IsADirectory.into());
    }
    if existing.as_ref().is_some_and(|m| !m.is_file()) {
        // A device or pipe (/dev/stdout, /dev/full) must be written through, not replaced by a file.
        let mut device = fs::OpenOptions::new().write(true).open(path)?;
        return fill(&mut device).and_then(|()| device.flush());
    }
    // A rename would succeed over a write-protected file; the owner who protected it means the file.
    if existing.as_ref().is_some_and(|m| m.permissions().readonly()) {
        return Err(ErrorKind::PermissionDenied.into());
    }
    // A link stays a link: its target is what gets replaced.
    let target = if path.is_symlink() { fs::canonicalize(path)? } else { path.to_owned() };
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

/// A folder beside its place that removes itself unless it is renamed into place.
pub struct Folder(tempfile::TempDir);

fn parent(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

impl Folder {
    pub fn beside(path: &Path) -> Result<Folder> {
        let parent = parent(path);
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
fn sync_folder(folder: &Path) -> Result<()> {
    if cfg!(unix) { fs::File::open(folder)?.sync_all() } else { Ok(()) }
}
