//! The place of a result: asked about before the work, and found again when the work is done.

use std::path::{Path, PathBuf};

use super::atomic::{cannot_write, under_final_name};
use super::files::{self, Folder, Lock, Locked, Spot};
use crate::error::{Error, Result, message, option};

/// Place of a result: a file or a folder, with what may be replaced there.
#[derive(Clone, Debug)]
pub struct Place {
    path: PathBuf,
    /// The files of a folder, by their paths in it.
    folder: Option<Vec<PathBuf>>,
    /// Files of an earlier result that lies there, which this one need not have.
    earlier: Vec<PathBuf>,
    replace: bool,
}

/// Place where a result was put.
#[derive(Debug)]
pub struct Placed {
    /// The file or folder.
    pub path: PathBuf,
    /// Why it is not where it was to go, where it is not.
    pub reason: Option<Error>,
}

/// Names that are tried beside a place that is taken.
const NAMES: usize = 1000;

impl Place {
    /// Creates the place of a file, which replaces another only if `replace` is set.
    pub fn file(path: impl Into<PathBuf>, replace: bool) -> Place {
        Place { path: path.into(), folder: None, earlier: Vec::new(), replace }
    }

    /// Creates the place of a folder that will hold `files` (paths in it). It replaces another folder only if `replace`
    /// is set and that one holds nothing else.
    pub fn folder(path: impl Into<PathBuf>, files: Vec<PathBuf>, replace: bool) -> Place {
        Place { path: path.into(), folder: Some(files), earlier: Vec::new(), replace }
    }

    /// Says which files of a folder there are an earlier result of the same kind (paths in it): they may go.
    pub(super) fn after(mut self, earlier: Vec<PathBuf>) -> Place {
        self.earlier = earlier;
        self
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Checks that the result can be put there: everything that [`put`](Self::put) checks at the end, and that the
    /// folder can be written.
    ///
    /// # Errors
    /// [`Error::File`] that names the path, the obstacle and the remedy.
    pub fn check(&self) -> Result<()> {
        match self.spot(&self.path, self.replace)? {
            Spot::Device => Ok(()),
            Spot::Free(at) | Spot::Taken(at) => files::try_folder(at.parent().unwrap_or(Path::new(""))),
        }
    }

    /// Checks as [`check`](Self::check) does, except for the folder: for many places in one folder.
    ///
    /// # Errors
    /// Those of [`check`](Self::check).
    pub fn check_path(&self) -> Result<()> {
        self.spot(&self.path, self.replace).map(drop)
    }

    /// Checks that there is room for `bytes` of `what`. Passes if the system does not report free space.
    ///
    /// # Errors
    /// [`Error::File`] with both figures.
    pub fn check_space(&self, bytes: u64, what: &str) -> Result<()> {
        match files::free_bytes(self.parent()) {
            Some(free) if free < bytes => {
                let megabytes = |bytes: u64| format!("{:.1} MB", bytes as f64 / 1e6);
                let (needed, free) = (megabytes(bytes), megabytes(free));
                let message =
                    format!("{what} takes {needed}, {free} are free there: free some space or name another place");
                Err(Error::file(&self.path, message))
            }
            _ => Ok(()),
        }
    }

    /// Locks the place against other runs for as long as the lock is kept. Where the folder cannot lock, `note` hears
    /// why.
    ///
    /// # Errors
    /// [`Error::File`] naming the run that has it.
    pub fn lock(&self, note: impl FnOnce(String)) -> Result<Option<Lock>> {
        if matches!(self.spot(&self.path, true), Ok(Spot::Device)) {
            return Ok(None);
        }
        let path = self.path.display();
        match files::lock(&self.path) {
            Locked::Held(lock) => Ok(Some(lock)),
            Locked::Busy(who) => {
                let who = who.unwrap_or_else(|| "another run".into());
                Err(Error::file(&self.path, format!("is being written by {who}: wait for it or name another")))
            }
            Locked::Cannot(e) => {
                note(format!("{path} cannot be locked against other runs ({})", super::source::describe(&e)));
                Ok(None)
            }
        }
    }

    /// Puts what `write` writes at the place; where that cannot be, beside it under a free name, else in the user's
    /// cache folder, else in the folder for temporary files. `write` gets the path of a file or folder that is not
    /// there, perhaps several times.
    ///
    /// # Errors
    /// Of the place itself, where there is no other.
    pub fn put(&self, write: impl Fn(&Path) -> Result<()>) -> Result<Placed> {
        let reason = match self.put_at(&self.path, self.replace, &write) {
            Ok(reason) => return Ok(Placed { path: self.path.clone(), reason }),
            // A fault of what is written, or of what it is made from, is one at every place.
            Err(fault) if !self.is_of_place(&fault) => return Err(fault),
            Err(reason) => reason,
        };
        let folders =
            [Some(self.parent().to_owned()), files::cache().map(|cache| cache.join("portray").join("results"))];
        for folder in folders.into_iter().flatten().chain([files::temporary()]) {
            // A device has nothing beside it.
            if folder == self.parent() && matches!(self.spot(&self.path, true), Ok(Spot::Device)) {
                continue;
            }
            for name in self.names().map(|name| folder.join(name)).filter(|path| !files::is_taken(path)) {
                match self.put_at(&name, false, &write) {
                    Ok(_) => return Ok(Placed { path: name, reason: Some(reason) }),
                    // Another took that very name.
                    Err(_) if files::is_taken(&name) => {}
                    Err(_) => break,
                }
            }
        }
        Err(reason)
    }

    /// Returns whether `fault` names the place, or something in it.
    fn is_of_place(&self, fault: &Error) -> bool {
        matches!(fault, Error::File { path, .. } if path.starts_with(&self.path.display().to_string()))
    }

    /// `out-1.safetensors`, `out-2.safetensors`, ...
    fn names(&self) -> impl Iterator<Item = PathBuf> {
        let name = Path::new(self.path.file_name().unwrap_or("result".as_ref()));
        let split = self.folder.is_none();
        let stem = if split { name.file_stem() } else { None }.unwrap_or(name.as_os_str());
        // What is too long for a disk is not made longer.
        let stem = if stem.len() > 100 { "result".as_ref() } else { stem };
        let ending = name.extension().filter(|ending| split && ending.len() <= 100);
        (1..NAMES).map(move |number| {
            let mut free = stem.to_os_string();
            free.push(format!("-{number}"));
            if let Some(ending) = ending {
                free.push(".");
                free.push(ending);
            }
            free.into()
        })
    }

    fn parent(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new(""))
    }

    /// Returns what is at `path`, if the result may go there.
    fn spot(&self, path: &Path, replace: bool) -> Result<Spot> {
        if path.as_os_str().is_empty() {
            return Err(Error::usage("out", option("out") + ": the path is empty"));
        }
        if path.file_name().is_none() {
            return Err(Error::file(path, "is no name for a result: name a file or folder of its own"));
        }
        let found = match &self.folder {
            None => files::file_spot(path),
            Some(inner) => files::folder_spot(path, &|path, folder| {
                let mut known = inner.iter().chain(&self.earlier);
                known.any(|file| if folder { file.starts_with(path) } else { file == path })
            }),
        };
        if !replace && files::is_taken(path) && !matches!(found, Ok(Spot::Device)) {
            return Err(exists(path));
        }
        found.map_err(|e| cannot_write(path, &e))
    }

    /// Puts it at `path`. Returns what the disk had to say when all of it was there.
    fn put_at(&self, path: &Path, replace: bool, write: &impl Fn(&Path) -> Result<()>) -> Result<Option<Error>> {
        if let Spot::Device = self.spot(path, replace)? {
            return write(path).map(|()| None);
        }
        // A folder of its own, so that a writer need not know of what is at the place.
        let staging = Folder::beside(path).map_err(|e| cannot_write(path, &e))?;
        let staged = staging.path().join(path.file_name().unwrap_or_default());
        write(&staged).map_err(|e| under_final_name(e, &staged, path))?;
        let settled = files::settle(&staged, path, replace, &self.earlier).map_err(|e| match e.kind() {
            std::io::ErrorKind::AlreadyExists => exists(path),
            _ => cannot_write(path, &e),
        })?;
        Ok(settled.map(|e| cannot_write(path, &e)))
    }
}

fn exists(path: &Path) -> Error {
    Error::file(path, message!["exists already: name another, or add ", option("force"), " to overwrite it"])
}

impl Placed {
    /// The path, if that is the one that was asked for.
    ///
    /// # Errors
    /// Why it is not, with where the result lies.
    pub fn path(self) -> Result<PathBuf> {
        match self.reason {
            None => Ok(self.path),
            Some(reason) => Err(elsewhere(reason, &self.path)),
        }
    }
}

fn elsewhere(reason: Error, place: &Path) -> Error {
    let place = place.display();
    match reason {
        // It is where it was to go, and that is said.
        Error::File { path, message } if path == place.to_string() => Error::File { path, message },
        Error::File { path, message } => Error::File { path, message: message + format!("; the result is {place}") },
        other => Error::file(place.to_string(), message!["the result is here: ", &other]),
    }
}

/// Refuses two outputs of one name, each with its option's field, and a file among them that another would lie in.
///
/// # Errors
/// [`Error::Usage`] naming both options.
pub fn check_apart(outputs: &[(&'static str, &Path)]) -> Result<()> {
    for (i, (a, first)) in outputs.iter().enumerate() {
        for (b, second) in &outputs[i + 1..] {
            let shown = second.display();
            if files::same(first, second) {
                let problem = message![option(*a), " and ", option(*b), format!(" are one place, {shown}: name two")];
                return Err(Error::usage(b, problem));
            }
            if files::within(first, second) || files::within(second, first) {
                let problem = format!(" lie in one another, {shown}: name two places");
                return Err(Error::usage(b, message![option(*a), " and ", option(*b), problem]));
            }
        }
    }
    Ok(())
}

/// Refuses an output that is one of the inputs, or a file that is there in the folder of one.
///
/// # Errors
/// [`Error::Usage`] naming both options.
pub fn check_no_input(output: (&'static str, &Path), inputs: &[(&'static str, &Path)]) -> Result<()> {
    let (written, path) = output;
    for (input, read) in inputs {
        if files::same(path, read) || (files::exists(path) && files::within(path, read)) || files::within(read, path) {
            let shown = path.display();
            let problem = message!["would replace what ", option(*input), " reads: name another place"];
            return Err(Error::value(written, shown, problem));
        }
    }
    Ok(())
}
