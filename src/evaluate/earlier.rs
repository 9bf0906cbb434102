//! Images of an earlier evaluation in the same folder: what a new report does not show of them goes.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;

use crate::io::{Source, files};

use super::check::{IMAGES, REPORTS};

/// Returns the images that the report in `folder` names, as paths in it; none where there is no report that can be read.
pub(super) fn images(folder: &Path) -> BTreeSet<String> {
    let report = Source::open(folder.join(REPORTS[0])).and_then(|source| source.bytes().map(|b| b.to_vec()));
    let report: Value = report.ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
    let list = |value: &Value, name: &str| value[name].as_array().cloned().unwrap_or_default();
    let files = list(&report, "columns").into_iter().flat_map(|column| list(&column, "images"));
    files.filter_map(|image| image["file"].as_str().map(str::to_owned)).filter(|file| is_own(file)).collect()
}

/// Tells whether an evaluation writes files of this name, so that nothing else is removed whatever a report says.
fn is_own(file: &str) -> bool {
    let parts: Vec<&str> = file.split('/').collect();
    let [IMAGES, folder, name] = parts[..] else { return false };
    let plain =
        |part: &str| part.chars().all(|c| c.is_ascii_alphanumeric() || "-.".contains(c)) && !part.starts_with('.');
    !folder.is_empty() && plain(folder) && plain(name) && name.ends_with(".png")
}

/// Removes these images of `folder`, and folders that are empty then; returns how many there were.
pub(super) fn remove(folder: &Path, images: &BTreeSet<String>) -> usize {
    let removed = images.iter().filter(|file| files::remove_file(folder.join(file)).is_ok()).count();
    let folders: BTreeSet<&Path> = images.iter().filter_map(|file| Path::new(file).parent()).collect();
    for empty in folders.into_iter().chain([Path::new(IMAGES)]) {
        // One that holds something stays.
        let _ = files::remove_empty(folder.join(empty));
    }
    removed
}

/// Of `images` those that none of `kept` is, on file systems that ignore case too.
pub(super) fn without(images: &BTreeSet<String>, kept: &BTreeSet<String>) -> BTreeSet<String> {
    let kept: BTreeSet<String> = kept.iter().map(|name| name.to_lowercase()).collect();
    images.iter().filter(|name| !kept.contains(&name.to_lowercase())).cloned().collect()
}

/// `1 image` or `2 images`.
pub(super) fn counted(images: usize) -> String {
    if images == 1 { "1 image".into() } else { format!("{images} images") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_kept_in_any_case() {
        let names = |of: &[&str]| of.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<String>>();
        let earlier = names(&["images/01-Dog/01-0.png", "images/02-b/01-0.png"]);
        assert_eq!(without(&earlier, &names(&["images/01-dog/01-0.png"])), names(&["images/02-b/01-0.png"]));
    }

    #[test]
    fn only_files_of_an_evaluation_are_its_own() {
        for own in ["images/base/01-0.png", "images/02-a.b-x-0.5/class-01-18446744073709551615.png"] {
            assert!(is_own(own), "{own}");
        }
        for other in [
            "report.json",
            "images/a.png",
            "images/base/x.txt",
            "images/../../a.png",
            "images/base/../a.png",
            "/images/base/a.png",
            "images/base/.a.png",
            "images//a.png",
            "images/base\\..\\..\\a/b.png",
            "photos/base/a.png",
        ] {
            assert!(!is_own(other), "{other}");
        }
    }
}
