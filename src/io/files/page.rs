//! Files in a browser: what the page has put under a path, and what the engine wrote. The page keeps what should last.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{Error, ErrorKind, Result, Write};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use crate::io::slices::{Data, Slices};

/// Content of a file.
#[derive(Clone)]
pub enum Content {
    /// Bytes in the engine's memory.
    Bytes(Arc<[u8]>),
    /// Bytes that the browser holds.
    Slices(Rc<dyn Slices>),
}

#[derive(Default)]
struct Files {
    files: BTreeMap<PathBuf, Content>,
    written: BTreeSet<PathBuf>,
}

// A Worker, or a page that runs the engine itself, is one thread with a memory of its own.
thread_local! {
    static FILES: RefCell<Files> = RefCell::default();
}

fn with<T>(work: impl FnOnce(&mut Files) -> T) -> T {
    FILES.with(|files| work(&mut files.borrow_mut()))
}

/// Puts a file at `path`, in place of what was there.
pub fn put(path: impl Into<PathBuf>, content: Content) {
    with(|f| f.files.insert(path.into(), content));
}

/// Takes away the file `path`, or everything below it.
pub fn remove(path: impl AsRef<Path>) {
    with(|f| {
        f.files.retain(|file, _| !file.starts_with(path.as_ref()));
        f.written.retain(|file| !file.starts_with(path.as_ref()));
    });
}

/// The bytes of the file at `path`, if the engine holds them.
pub fn file(path: impl AsRef<Path>) -> Option<Arc<[u8]>> {
    with(|f| match f.files.get(path.as_ref()) {
        Some(Content::Bytes(bytes)) => Some(bytes.clone()),
        _ => None,
    })
}

/// All files below `folder`.
pub fn below(folder: impl AsRef<Path>) -> Vec<PathBuf> {
    with(|f| f.files.keys().filter(|file| file.starts_with(folder.as_ref())).cloned().collect())
}

/// Takes the list of files that the engine wrote since the last call.
pub fn written() -> Vec<PathBuf> {
    with(|f| std::mem::take(&mut f.written).into_iter().collect())
}

/// The folder for what can be made again.
pub fn cache() -> Option<PathBuf> {
    Some("/cache".into())
}

pub fn is_file(path: &Path) -> bool {
    with(|f| f.files.contains_key(path))
}

pub fn is_folder(path: &Path) -> bool {
    with(|f| f.files.keys().any(|file| file != path && file.starts_with(path)))
}

pub fn entries(path: &Path) -> Result<Vec<PathBuf>> {
    let inside = |file: &PathBuf| Some(path.join(file.strip_prefix(path).ok()?.components().next()?));
    let found: BTreeSet<PathBuf> = with(|f| f.files.keys().filter_map(inside).collect());
    if found.is_empty() { Err(ErrorKind::NotFound.into()) } else { Ok(found.into_iter().collect()) }
}

pub fn remove_file(path: &Path) -> Result<()> {
    with(|f| f.files.remove(path).map(|_| f.written.remove(path)));
    Ok(())
}

/// A folder without files is none here.
pub fn remove_empty(_: &Path) -> Result<()> {
    Ok(())
}

pub fn open(path: &Path) -> Result<Data> {
    let found = with(|f| f.files.get(path).cloned());
    match found.ok_or(ErrorKind::NotFound)? {
        Content::Bytes(bytes) => Ok(Data::Shared(bytes)),
        Content::Slices(slices) => Ok(Data::Slices(slices)),
    }
}

/// A page's files are no links.
pub fn dangling(_: &Path) -> Option<PathBuf> {
    None
}

pub fn write(path: &Path, fill: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<()> {
    let mut bytes = Vec::new();
    fill(&mut bytes)?;
    with(|f| {
        f.files.insert(path.into(), Content::Bytes(bytes.into()));
        f.written.insert(path.into());
    });
    Ok(())
}

/// A folder beside its place that removes itself unless it is renamed into place.
pub struct Folder(PathBuf);

impl Folder {
    pub fn beside(path: &Path) -> Result<Folder> {
        Ok(Folder(path.with_extension("part")))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn replace(self, path: &Path) -> Result<()> {
        settle(&self.0, path, true, &[]).map(drop)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        remove(&self.0);
    }
}

/// State of a result's place.
pub enum Spot {
    /// Nothing.
    Free(PathBuf),
    /// A file or folder that the result may replace.
    Taken(PathBuf),
    /// A device of a machine.
    #[allow(dead_code, reason = "a page has no devices")]
    Device,
}

pub fn file_spot(path: &Path) -> Result<Spot> {
    match (is_file(path), is_folder(path)) {
        (_, true) => Err(ErrorKind::IsADirectory.into()),
        (true, _) => Ok(Spot::Taken(path.into())),
        _ => Ok(Spot::Free(path.into())),
    }
}

pub fn folder_spot(path: &Path, _: &dyn Fn(&Path, bool) -> bool) -> Result<Spot> {
    if is_file(path) {
        return Err(Error::other("is a file, and a folder is to be written: choose another name"));
    }
    Ok(if is_folder(path) { Spot::Taken(path.into()) } else { Spot::Free(path.into()) })
}

/// Gives the file or folder `from` the name `path`.
pub fn settle(from: &Path, path: &Path, replace: bool, _: &[PathBuf]) -> Result<Option<Error>> {
    let is_folder = is_folder(from);
    let spot = if is_folder { folder_spot(path, &|_, _| true)? } else { file_spot(path)? };
    if matches!(spot, Spot::Taken(_)) && !replace {
        return Err(ErrorKind::AlreadyExists.into());
    }
    // What the new folder lacks would be read as a part of it.
    if is_folder {
        remove(path);
    }
    with(|f| {
        let moved: Vec<PathBuf> = f.files.keys().filter(|file| file.starts_with(from)).cloned().collect();
        for file in moved {
            let (Ok(inner), Some(content)) = (file.strip_prefix(from), f.files.remove(&file)) else { continue };
            // Joined with nothing, a path would end in a slash.
            let to = if inner.as_os_str().is_empty() { path.into() } else { path.join(inner) };
            f.written.remove(&file);
            f.written.insert(to.clone());
            f.files.insert(to, content);
        }
    });
    Ok(None)
}

/// A page's memory has room, or the job ends.
pub fn try_folder(_: &Path) -> std::result::Result<(), (PathBuf, Error)> {
    Ok(())
}

/// Bytes that are free in a folder: nothing tells.
pub fn free_bytes(_: &Path) -> Option<u64> {
    None
}

/// Returns whether two paths are one file.
pub fn same(a: &Path, b: &Path) -> bool {
    a == b
}

/// Returns whether `path` is below `folder`.
pub fn within(path: &Path, folder: &Path) -> bool {
    path != folder && path.starts_with(folder)
}

/// Returns whether a killed run left `path`: never, since a page's memory ends with its run.
pub fn is_staging(_: &Path) -> bool {
    false
}

/// Folder for results that have no other place.
pub fn temporary() -> PathBuf {
    "/tmp".into()
}

/// A page's files are one engine's.
pub struct Lock(());

/// Outcome of a request for a lock.
#[allow(dead_code, reason = "a page's lock is always free")]
pub enum Locked {
    /// It is ours.
    Held(Lock),
    /// Another run has it.
    Busy(Option<String>),
    /// The folder cannot lock.
    Cannot(Error),
}

pub fn lock(_: &Path) -> Locked {
    Locked::Held(Lock(()))
}
