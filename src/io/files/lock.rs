//! One run on one name: a lock beside a result, which the system frees with the process that holds it.

use std::fs::{self, File, TryLockError};
use std::io::{Error, Read as _, Result, Seek as _, Write as _};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::paths::followed;
use super::staging::parent;

/// Outcome of a request for a lock.
pub enum Locked {
    /// It is ours.
    Held(Lock),
    /// Another run has it: which, where that can be read.
    Busy(Option<String>),
    /// The folder cannot lock.
    Cannot(Error),
}

/// A lock that is held until this goes.
pub struct Lock {
    file: File,
    path: PathBuf,
    /// Folders that were made for it.
    made: Vec<PathBuf>,
}

/// Beginning of a lock file.
const MARK: &str = "portray ";
/// The longest name that is part of a lock's.
const LONGEST: usize = 200;

/// Locks the result at `path`. A lock that a dead process left is taken over.
pub fn lock(path: &Path) -> Locked {
    let held = || -> Result<Locked> {
        let at = followed(path)?;
        let made = make(parent(&at))?;
        let path = parent(&at).join(name(&at));
        let held = hold(&path);
        match held {
            Ok(Some(file)) => Ok(Locked::Held(Lock { file, path, made })),
            Ok(None) => Ok(Locked::Busy(holder(&path))),
            Err(e) => {
                remove_empty(&made);
                Err(e)
            }
        }
    };
    held().unwrap_or_else(Locked::Cannot)
}

/// Makes `folder`; gives those that were not there.
fn make(folder: &Path) -> Result<Vec<PathBuf>> {
    let missing = |path: &&Path| !path.as_os_str().is_empty() && path.symlink_metadata().is_err();
    let made = folder.ancestors().take_while(missing).map(Path::to_owned).collect();
    fs::create_dir_all(folder)?;
    Ok(made)
}

/// Removes what nothing came of, the innermost first.
fn remove_empty(folders: &[PathBuf]) {
    for folder in folders {
        let _ = fs::remove_dir(folder);
    }
}

fn name(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    if name.len() <= LONGEST {
        return format!(".portray-{name}.lock");
    }
    let digest: String = Sha256::digest(name.as_bytes()).iter().take(12).map(|b| format!("{b:02x}")).collect();
    format!(".portray-{digest}.lock")
}

/// The file at `path` with the lock on it; `None` where another has that.
fn hold(path: &Path) -> Result<Option<File>> {
    // Whoever frees a lock takes its file away: what was opened before may be locked and be nobody's.
    for _ in 0..16 {
        if path.is_symlink() {
            return Err(Error::other(format!("{} is a link", path.display())));
        }
        let mut file = File::options().read(true).write(true).create(true).truncate(false).open(path)?;
        match file.try_lock() {
            Ok(()) if !is_at(&file, path) => continue,
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(e)) => {
                if file.metadata().is_ok_and(|m| m.len() == 0) {
                    let _ = fs::remove_file(path);
                }
                return Err(e);
            }
        }
        let mut text = Vec::new();
        file.read_to_end(&mut text)?;
        if !text.is_empty() && !text.starts_with(MARK.as_bytes()) {
            return Err(Error::other(format!("{} is no lock", path.display())));
        }
        let host = host().map_or_else(String::new, |host| format!(" on {host}"));
        let who = format!("{MARK}process {}{host}\n", std::process::id());
        // The lock holds on a full disk too, where others cannot read whose it is.
        let _ = file.set_len(0).and_then(|()| file.rewind()).and_then(|()| file.write_all(who.as_bytes()));
        return Ok(Some(file));
    }
    Ok(None)
}

/// `process 1234 on HOST`, where the lock at `path` can be read: on Windows nobody else can.
fn holder(path: &Path) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    text.strip_prefix(MARK).map(|who| who.trim_end().to_owned()).filter(|who| !who.is_empty())
}

#[cfg(unix)]
fn is_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    let id = |m: fs::Metadata| (m.dev(), m.ino());
    file.metadata().ok().zip(fs::symlink_metadata(path).ok()).is_some_and(|(a, b)| id(a) == id(b))
}

#[cfg(not(unix))]
fn is_at(_: &File, path: &Path) -> bool {
    path.is_file()
}

#[cfg(unix)]
fn host() -> Option<String> {
    Some(rustix::system::uname().nodename().to_string_lossy().into_owned()).filter(|name| !name.is_empty())
}

#[cfg(not(unix))]
fn host() -> Option<String> {
    std::env::var("COMPUTERNAME").ok()
}

impl Drop for Lock {
    fn drop(&mut self) {
        // While it is locked, so that nobody locks what is about to go.
        if is_at(&self.file, &self.path) {
            let _ = fs::remove_file(&self.path);
        }
        let _ = self.file.unlock();
        remove_empty(&self.made);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(path: &Path) -> Lock {
        match lock(path) {
            Locked::Held(lock) => lock,
            Locked::Busy(who) => panic!("busy: {who:?}"),
            Locked::Cannot(e) => panic!("{e}"),
        }
    }

    #[test]
    fn one_run_holds_a_name_and_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("new/deep/a.safetensors");
        let first = held(&out);
        let Locked::Busy(Some(who)) = lock(&out) else { panic!("locked twice") };
        assert!(who.starts_with(&format!("process {}", std::process::id())), "{who}");
        let other = held(&folder.path().join("new/deep/b.safetensors"));
        drop(first);
        drop(held(&out));
        drop(other);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "what is in use by another stays");
        drop(held(&out));
        let _ = fs::remove_dir_all(folder.path().join("new"));
        drop(held(&out));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_dead_process_holds_nothing_and_a_file_of_the_users_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("a");
        let file = folder.path().join(name(&out));
        fs::write(&file, "portray process 1 on nowhere\n").unwrap();
        drop(held(&out));
        assert!(!file.exists());
        fs::write(&file, "my notes").unwrap();
        assert!(matches!(lock(&out), Locked::Cannot(_)));
        assert_eq!(fs::read_to_string(&file).unwrap(), "my notes");
    }
}
