//! The machine's file system.

use std::fs;
use std::io::{BufWriter, Error, ErrorKind, Result, Seek as _, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tempfile::{Builder, NamedTempFile};

use super::durable::{sync_file, sync_folder, sync_folders};
use crate::io::source::{Data, Slices, describe};

/// The user's folder for what can be made again. A path that is not absolute is left alone, as the XDG specification asks:
/// it would be another folder for every folder that the program is started in.
pub fn cache() -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
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
    let file = temporary(0o666, |builder| builder.tempfile_in(parent))?;
    let mut out = BufWriter::with_capacity(1 << 20, file);
    fill(&mut out)?;
    let file = out.into_inner().map_err(|e| e.into_error())?;
    sync_file(file.as_file(), &target)?;
    place(file, &target)?;
    // A folder that is being assembled is synced as a whole, before it gets its name.
    if parent.ancestors().any(is_staging) { Ok(()) } else { sync_folder(parent).map_err(doubtful) }
}

/// Gives `file` the name `target`.
fn place(file: NamedTempFile, target: &Path) -> Result<()> {
    let Err(refused) = file.persist(target) else { return Ok(()) };
    if !is_mounted(&refused.error) {
        return Err(refused.error);
    }
    let (mut from, whole) = refused.file.keep()?;
    let mut fill = || {
        from.rewind()?;
        let mut into = fs::File::create(target)?;
        std::io::copy(&mut from, &mut into)?;
        sync_file(&into, target)
    };
    let kept = |e: Error| Error::new(e.kind(), format!("{}; all of it is in {}", describe(&e), whole.display()));
    fill().map_err(kept)?;
    fs::remove_file(&whole)
}

/// Whether a rename was refused because something is mounted on the name, as containers do with files and folders, or because
/// it comes from a lower layer of an overlay: what is there can only be written into.
fn is_mounted(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::CrossesDevices | ErrorKind::ResourceBusy)
}

/// The error of a result that is in its place, while the disk says that it may not stay.
fn doubtful(error: Error) -> Error {
    let what = describe(&error);
    Error::new(error.kind(), format!("the disk reports \"{what}\" after the last byte: copy what is there elsewhere"))
}

/// Makes a file or folder with a name of its own, and with the rights that the umask leaves of `mode`.
fn temporary<T>(mode: u32, make: impl Fn(&Builder<'_, '_>) -> Result<T>) -> Result<T> {
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

/// How the names of unfinished files and folders begin: hidden, and where that is refused.
const BEGINNINGS: [&str; 2] = [".portray-", "portray-"];
/// How they end.
const ENDING: &str = ".part";

/// Whether `folder` is one that is being assembled.
pub fn is_staging(folder: &Path) -> bool {
    let name = folder.file_name().unwrap_or_default().as_encoded_bytes();
    name.ends_with(ENDING.as_bytes()) && BEGINNINGS.iter().any(|beginning| name.starts_with(beginning.as_bytes()))
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
        temporary(0o777, |builder| builder.tempdir_in(parent)).map(Folder)
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    pub fn replace(self, path: &Path) -> Result<()> {
        // Whatever the disk says, what is whole gets its name: it can be copied from there.
        let synced = sync_folders(self.path());
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
            let old = temporary(0o777, |builder| builder.tempdir_in(parent))?;
            match fs::rename(path, old.path().join("old")) {
                Err(e) if is_mounted(&e) => {
                    merge(self.path(), path)?;
                    return synced.and_then(|()| sync_folders(path)).map_err(doubtful);
                }
                moved => moved?,
            }
            if let Err(e) = fs::rename(self.path(), path) {
                fs::rename(old.path().join("old"), path)?;
                return Err(e);
            }
        }
        // The folder has its real name now; what is left of the guard must not delete it.
        let _ = self.0.keep();
        synced.and_then(|()| sync_folder(parent)).map_err(doubtful)
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
        } else if let Err(e) = fs::rename(entry.path(), &place) {
            if !is_mounted(&e) {
                return Err(e);
            }
            // Across a mount.
            let mut file = fs::File::create(&place)?;
            std::io::copy(&mut fs::File::open(entry.path())?, &mut file)?;
            sync_file(&file, &place)?;
        }
    }
    Ok(())
}
