//! Where results go: checked before the work starts, so that an hour of it is not lost to a typing error.

use std::path::{Path, PathBuf};

use portray::error::option;
use portray::low_level::generate::MOST_PICTURES;
use portray::low_level::io::Place;
use portray::{Error, Result};

/// Refuses what is in `folder` under one of `names`, unless `force` allows it to be replaced, and what no file can replace.
///
/// # Errors
/// [`Error::File`] naming the first, or what keeps files from being made there.
pub fn check_folder(folder: &Path, names: &[&str], force: bool) -> Result<()> {
    if folder.as_os_str().is_empty() {
        return Err(Error::usage("out", option("out") + ": the path is empty"));
    }
    for name in names {
        Place::file(folder.join(name), force).check_path()?;
    }
    portray::low_level::io::files::try_folder(folder)
}

/// `path` with `suffix` in place of its extension: what belongs to a result lies beside it.
#[cfg(feature = "window")]
pub fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.file_stem().unwrap_or(path.as_os_str()).to_os_string();
    name.push(suffix);
    path.with_file_name(name)
}

/// The files of a job's images.
#[derive(Debug, PartialEq)]
pub enum Destination {
    /// One image.
    File(PathBuf),
    /// `portray-SEED.png` in a folder, with the prompt's number before the seed where there are several prompts.
    Folder {
        /// The folder.
        folder: PathBuf,
        /// Whether the prompt's number is in the names.
        numbered: bool,
    },
}

impl Destination {
    /// By the rules of `--out`: a .png for one image, else a folder.
    ///
    /// # Errors
    /// [`Error::Usage`] for more images than a run makes, a .png with several images, or an image format other than PNG.
    pub fn new(out: Option<&Path>, prompts: usize, count: usize) -> Result<Destination> {
        let Some(total) = prompts.checked_mul(count).filter(|&total| total <= MOST_PICTURES) else {
            let message = format!("{prompts} prompts at a time make {MOST_PICTURES} images at most");
            return Err(Error::value("count", count, message));
        };
        let numbered = prompts > 1;
        let Some(out) = out else { return Ok(Destination::Folder { folder: PathBuf::new(), numbered }) };
        if out.as_os_str().is_empty() {
            return Err(Error::usage("out", option("out") + ": the path is empty"));
        }
        let shown = out.display();
        match out.extension().and_then(|e| e.to_str()).map(str::to_lowercase).as_deref() {
            Some("png") if total == 1 => Ok(Destination::File(out.into())),
            Some("png") => Err(Error::value("out", shown, format!("one file for {total} images; name a folder"))),
            Some("jpg" | "jpeg" | "webp" | "gif" | "bmp" | "tif" | "tiff") => {
                Err(Error::value("out", shown, "images are written as .png"))
            }
            _ => Ok(Destination::Folder { folder: out.into(), numbered }),
        }
    }

    /// Checks that every image of seeds from `seed` on can be written, as [`Place::check`] does.
    ///
    /// # Errors
    /// As [`Place::check`].
    pub fn check(&self, prompts: usize, count: usize, seed: u64, force: bool) -> Result<()> {
        if let Destination::File(path) = self {
            return Place::file(path, force).check();
        }
        let seeds = || (0..count as u64).map(|i| seed.wrapping_add(i));
        for path in (0..prompts).flat_map(|prompt| seeds().map(move |seed| self.path(prompt, seed))) {
            Place::file(path, force).check_path()?;
        }
        portray::low_level::io::files::try_folder(self.folder())
    }

    /// The folder of an image or of all.
    pub fn folder(&self) -> &Path {
        match self {
            Destination::File(path) => path.parent().unwrap_or(Path::new("")),
            Destination::Folder { folder, .. } => folder,
        }
    }

    /// The file of the image of `seed` of prompt number `prompt` (from 0).
    pub fn path(&self, prompt: usize, seed: u64) -> PathBuf {
        match self {
            Destination::File(path) => path.clone(),
            Destination::Folder { folder, numbered: true } => folder.join(format!("portray-{}-{seed}.png", prompt + 1)),
            Destination::Folder { folder, numbered: false } => folder.join(format!("portray-{seed}.png")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destinations() {
        let path = |out: Option<&str>, prompts, count| Destination::new(out.map(Path::new), prompts, count);
        assert_eq!(path(None, 1, 1).unwrap().path(0, 7), Path::new("portray-7.png"));
        assert_eq!(path(Some("x.PNG"), 1, 1).unwrap().path(0, 7), Path::new("x.PNG"));
        assert_eq!(path(Some("d"), 1, 2).unwrap().path(0, 8), Path::new("d/portray-8.png"));
        assert_eq!(path(Some("d"), 2, 2).unwrap().path(1, 8), Path::new("d/portray-2-8.png"));
        assert!(path(Some("x.png"), 1, 2).is_err());
        assert!(path(Some("x.jpg"), 1, 1).is_err());
        assert!(path(Some(""), 1, 1).is_err());
        assert!(path(None, 2, 5000).is_ok());
        for (prompts, count) in [(2, 5001), (1, 99_999_999_999), (usize::MAX, usize::MAX)] {
            let error = path(None, prompts, count).unwrap_err();
            assert!(error.exit_code() == 2 && error.to_string().contains("10000 images at most"), "{error}");
        }
    }

    #[test]
    fn every_picture_of_a_run_is_checked() {
        let folder = tempfile::tempdir().unwrap();
        let to = Destination::new(Some(folder.path()), 2, 3).unwrap();
        assert!(to.check(2, 3, 5, false).is_ok());
        std::fs::write(folder.path().join("portray-2-7.png"), "x").unwrap();
        assert!(to.check(2, 3, 5, false).unwrap_err().to_string().contains("portray-2-7.png: exists"));
        assert!(to.check(2, 3, 5, true).is_ok());
        assert!(to.check(2, 3, 8, false).is_ok());
        std::fs::create_dir(folder.path().join("portray-1-9.png")).unwrap();
        assert!(to.check(2, 3, 8, true).unwrap_err().to_string().contains("is a folder"));
    }

    #[test]
    fn existing_and_impossible_places_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.png");
        let check = |path: &Path, force| Place::file(path, force).check();
        assert!(check(&file, false).is_ok());
        std::fs::write(&file, "x").unwrap();
        assert!(check(&file, false).is_err());
        assert!(check(&file, true).is_ok());
        assert!(check(folder.path(), true).is_err());
        assert!(check(&file.join("b.png"), false).is_err());
        assert!(check(&folder.path().join("new/deep/b.png"), false).is_ok());
        assert!(!folder.path().join("new").exists());
    }
}
