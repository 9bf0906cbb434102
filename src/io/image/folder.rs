//! A folder of images: what is used of it, what is not, and why.

use std::path::{Path, PathBuf};

use super::captions::{Captions, is_called_caption};
use super::kind::{Content, Foreign, accepted, called_foreign, content, is_called_picture};
use crate::error::{Error, Result};
use crate::io::describe::describe;
use crate::io::{Source, files};

/// Files that systems leave in folders.
const OF_SYSTEMS: [&str; 3] = ["thumbs.db", "desktop.ini", "icon\r"];
/// Names that a message lists of many.
const NAMED: usize = 3;
/// Folders below one another that are looked into for a hint.
const DEEPEST: usize = 3;

/// The images of a folder, and what else lies there.
#[derive(Debug, Default)]
pub struct PictureFolder {
    folder: PathBuf,
    /// Images, sorted by name: files with an image's ending, and files that are images whatever their ending.
    pub pictures: Vec<PathBuf>,
    /// Caption files, and those that may be.
    captions: Vec<PathBuf>,
    /// Images and videos of kinds that are not read.
    foreign: Vec<(&'static Foreign, String)>,
    /// Links whose target is gone.
    broken: Vec<String>,
    /// Images whose names begin with a dot.
    hidden: Vec<String>,
    /// Files that cannot be opened and are not called as images are.
    closed: Vec<String>,
    /// Folders that hold images, and how many.
    folders: Vec<(PathBuf, usize)>,
    /// Files of other kinds.
    others: Vec<String>,
}

impl PictureFolder {
    /// Looks through `folder`, not below it.
    ///
    /// # Errors
    /// [`Error::File`] when the folder is missing or holds no image that is read.
    pub fn open(folder: impl AsRef<Path>) -> Result<PictureFolder> {
        let folder = folder.as_ref();
        if files::is_file(folder) {
            return Err(Error::file(folder, "is a file: give the folder that holds the images"));
        }
        let mut found = PictureFolder { folder: folder.to_owned(), ..PictureFolder::default() };
        let mut paths = files::entries(folder).map_err(|e| Error::file(folder, describe(&e)))?;
        paths.sort();
        for path in paths {
            found.sort_in(path);
        }
        match found.pictures.is_empty() {
            true => Err(Error::file(folder, found.nothing())),
            false => Ok(found),
        }
    }

    fn sort_in(&mut self, path: PathBuf) {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let hidden = name.starts_with('.');
        if files::is_folder(&path) {
            let count = if hidden { 0 } else { count_pictures(&path, DEEPEST) };
            if count > 0 {
                self.folders.push((path, count));
            }
            return;
        }
        if !files::is_file(&path) {
            // A pipe or a device is no image; what is listed and is not there is a link to nothing.
            if !files::exists(&path) && !hidden {
                self.broken.push(name);
            }
            return;
        }
        let content = Source::open(&path).and_then(|source| content(&source));
        match content {
            Ok(Content::Picture(_)) if hidden => self.hidden.push(name),
            _ if hidden => {}
            Ok(Content::Picture(_)) => self.pictures.push(path),
            Ok(Content::Foreign(kind)) => self.foreign.push((kind, name)),
            // It is opened once more, which says what is wrong with it.
            _ if is_called_picture(&path) => self.pictures.push(path),
            _ if is_called_caption(&path) => self.captions.push(path),
            Err(_) => self.closed.push(name),
            Ok(Content::Unknown) => match called_foreign(&path) {
                Some(kind) => self.foreign.push((kind, name)),
                None if OF_SYSTEMS.contains(&name.to_lowercase().as_str()) => {}
                None => self.others.push(name),
            },
        }
    }

    /// The captions of the images.
    ///
    /// # Errors
    /// [`Error::File`] for one that cannot be read.
    pub fn captions(&self) -> Result<Captions> {
        Captions::read(&self.pictures, &self.captions)
    }

    /// A line about all that is left out though it looks as if it were meant, with what to do; `None` where that is
    /// nothing. Of `captions` those that belong to no image are named.
    pub fn left_out(&self, captions: Option<&Captions>) -> Option<String> {
        let mut parts = self.foreign_parts();
        let mut add = |names: &[String], one: &str, many: &str| {
            if !names.is_empty() {
                parts.push(format!("{} ({})", counted(names.len(), one, many), named(names)));
            }
        };
        add(&self.broken, "link to nothing", "links to nothing");
        add(&self.closed, "file that cannot be opened", "files that cannot be opened");
        add(&self.hidden, "hidden image", "hidden images");
        if let Some(captions) = captions {
            add(&captions.strays, "caption without an image", "captions without an image");
            add(&captions.second, "second caption of an image", "second captions of images");
        }
        for (path, count) in self.folders.iter().take(NAMED) {
            parts.push(format!("{} in {}", counted(*count, "image", "images"), path.display()));
        }
        (!parts.is_empty()).then(|| format!("{}: left out: {}", self.folder.display(), parts.join("; ")))
    }

    /// Names files of other kinds; empty where there are none.
    pub fn others(&self) -> String {
        match self.others.is_empty() {
            true => String::new(),
            false => format!("{} ({})", counted(self.others.len(), "other file", "other files"), named(&self.others)),
        }
    }

    fn foreign_parts(&self) -> Vec<String> {
        let mut kinds: Vec<&Foreign> = Vec::new();
        for (kind, _) in &self.foreign {
            if !kinds.contains(kind) {
                kinds.push(kind);
            }
        }
        let part = |kind: &Foreign| {
            let of_kind = self.foreign.iter().filter(|(other, _)| *other == kind);
            let names: Vec<String> = of_kind.map(|(_, name)| name.clone()).collect();
            let (one, remedy) = (kind.one, kind.remedy());
            let count = counted(names.len(), one, &format!("{one}s"));
            let count = count.replacen(' ', &format!(" {} ", kind.name), 1);
            format!("{count} ({}): {remedy}", named(&names))
        };
        kinds.into_iter().map(part).collect()
    }

    /// Why there is no image, and what to do.
    fn nothing(&self) -> String {
        if !self.foreign.is_empty() {
            return format!("holds no images that are read, only {}", self.foreign_parts().join("; "));
        }
        if let Some((path, count)) = self.folders.first() {
            let (inside, path) = (counted(*count, "is", "are"), path.display());
            return format!("holds no images itself, {inside} in {path}: give that folder");
        }
        if !self.broken.is_empty() {
            let links = counted(self.broken.len(), "link to nothing", "links to nothing");
            return format!("holds no images, only {links} ({}): mend them", named(&self.broken));
        }
        format!("holds no images: expected {} files", accepted())
    }
}

fn counted(count: usize, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

/// Some names of many.
fn named(names: &[String]) -> String {
    let mut list: Vec<&str> = names.iter().take(NAMED).map(String::as_str).collect();
    let more = format!("{} more", names.len().saturating_sub(NAMED));
    if names.len() > NAMED {
        list.push(&more);
    }
    list.join(", ")
}

/// Files below `folder` that are called as images are.
fn count_pictures(folder: &Path, depth: usize) -> usize {
    let entries = files::entries(folder).unwrap_or_default();
    let count = |path: &PathBuf| match files::is_folder(path) {
        true if depth > 1 => count_pictures(path, depth - 1),
        true => 0,
        false => usize::from(is_called_picture(path)),
    };
    entries.iter().map(count).sum()
}

/// The images in `folder` (not below it), sorted by name.
///
/// # Errors
/// As [`PictureFolder::open`].
pub fn list_pictures(folder: impl AsRef<Path>) -> Result<Vec<PathBuf>> {
    Ok(PictureFolder::open(folder)?.pictures)
}
