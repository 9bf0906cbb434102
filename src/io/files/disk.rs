//! The machine's file system.

use std::fs;
use std::io::{BufWriter, Error, ErrorKind, Result, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tempfile::NamedTempFile;

use super::durable::{sync_file, sync_folder};
use super::paths::followed;
use super::put::{Spot, copy_over, doubtful, file_spot, is_mounted, settle};
use super::staging::{is_staged, parent, staged};
use crate::io::describe::describe;
use crate::io::slices::{Data, Slices};

/// The user's folder for what can be made again. A path that is not absolute is left alone, as the XDG specification
/// asks: it would be another folder for every folder that the program is started in.
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

pub fn remove_file(path: &Path) -> Result<()> {
    fs::remove_file(path)
}

/// Removes the folder `path` if nothing is in it.
pub fn remove_empty(path: &Path) -> Result<()> {
    fs::remove_dir(path)
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
                        "had {len} bytes when it was opened, and ends at byte {at} now: it was cut while it was in \
                         use, get the whole file again"
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

/// Returns the target of the link at `path`, if nothing is there.
pub fn dangling(path: &Path) -> Option<PathBuf> {
    if path.exists() { None } else { fs::read_link(path).ok() }
}

/// Writes the file at `path` through `fill`: beside it, synced, then renamed.
pub fn write(path: &Path, fill: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<()> {
    // A link stays a link: its target is what gets replaced.
    let target = match file_spot(path)? {
        Spot::Free(target) | Spot::Taken(target) => target,
        Spot::Device => {
            // A device or pipe (/dev/stdout, /dev/full) must be written through, not replaced by a file.
            let mut device = open_device(path)?;
            return fill(&mut device).and_then(|()| device.flush());
        }
    };
    let parent = parent(&target);
    fs::create_dir_all(parent)?;
    let file = staged(0o666, |builder| builder.tempfile_in(parent))?;
    let mut out = BufWriter::with_capacity(1 << 20, file);
    fill(&mut out)?;
    let file = out.into_inner().map_err(|e| e.into_error())?;
    sync_file(file.as_file(), &target)?;
    place(file, &target)?;
    // A folder that is being assembled is synced as a whole, before it gets its name.
    if is_staged(parent) { Ok(()) } else { sync_folder(parent).map_err(doubtful) }
}

/// Opens a device or pipe to write to. A pipe that nobody reads is refused: opening it would wait for ever.
fn open_device(path: &Path) -> Result<fs::File> {
    let mut options = fs::OpenOptions::new();
    options.write(true);
    #[cfg(unix)]
    let _reader_is_there = {
        use std::os::unix::fs::OpenOptionsExt as _;
        let flags = rustix::fs::OFlags::NONBLOCK.bits() as i32;
        let at_once = fs::OpenOptions::new().write(true).custom_flags(flags).open(path);
        at_once.map_err(|e| match e.raw_os_error() == Some(rustix::io::Errno::NXIO.raw_os_error()) {
            true => Error::other("is a pipe that nobody reads: start its reader first"),
            false => e,
        })?
    };
    options.open(path)
}

/// Gives `file` the name `target`.
fn place(file: NamedTempFile, target: &Path) -> Result<()> {
    match file.persist(target) {
        Err(refused) if is_mounted(&refused.error) => copy_over(refused.file.path(), target),
        placed => placed.map(drop).map_err(|refused| refused.error),
    }
}

/// Folder for results that have no other place.
pub fn temporary() -> PathBuf {
    std::env::temp_dir()
}

/// A folder beside its place that removes itself unless it is renamed into place.
pub struct Folder(tempfile::TempDir);

impl Folder {
    pub fn beside(path: &Path) -> Result<Folder> {
        let target = followed(path)?;
        let parent = parent(&target);
        fs::create_dir_all(parent)?;
        staged(0o777, |builder| builder.tempdir_in(parent)).map(Folder)
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Gives it the name `path`, in place of a folder that has nothing more.
    pub fn replace(self, path: &Path) -> Result<()> {
        // What is left of the guard has no such folder to remove any more.
        settle(self.path(), path, true, &[])?.map_or(Ok(()), Err)
    }
}
