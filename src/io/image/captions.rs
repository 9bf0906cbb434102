//! Captions of images, from the text files beside them.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::io::Source;

/// Endings of caption files, in small letters, the usual one first: kohya's scripts write the other.
const ENDINGS: [&str; 2] = ["txt", "caption"];
/// The captions of a whole folder as Hugging Face's `imagefolder` has them: a line of JSON for each image.
pub(super) const METADATA: &str = "metadata.jsonl";
/// Longest caption that is believed to be one, in bytes.
const LONGEST: u64 = 16 << 10;

/// Returns whether the file at `path` has a caption's name.
pub(super) fn is_called_caption(path: &Path) -> bool {
    rank(path).is_some() || path.file_name().is_some_and(|name| name == METADATA)
}

fn rank(path: &Path) -> Option<usize> {
    let ending = path.extension()?.to_string_lossy().to_lowercase();
    ENDINGS.iter().position(|known| *known == ending)
}

/// The captions of a folder's images.
#[derive(Debug, Default, PartialEq)]
pub struct Captions {
    /// Caption of each image, if it has one that is not blank.
    pub of: Vec<Option<String>>,
    /// Names of caption files, and of entries of metadata.jsonl, that belong to no image.
    pub strays: Vec<String>,
    /// Names of caption files that are not used because their image has another.
    pub second: Vec<String>,
}

impl Captions {
    /// The captions of `pictures` among `files`: of `a.jpg` the first that is there and not blank of `a.txt`,
    /// `a.jpg.txt`, `a.caption` and `a.jpg.caption`, whatever the case of the ending, else what `metadata.jsonl` says.
    /// Lines are joined.
    ///
    /// # Errors
    /// [`Error::File`] for one that is no UTF-8 text, or far longer than a caption, and for a line that is no JSON.
    pub(super) fn read(pictures: &[PathBuf], files: &[PathBuf]) -> Result<Captions> {
        let mut beside: BTreeMap<&OsStr, Vec<&Path>> = BTreeMap::new();
        let mut metadata = BTreeMap::new();
        let mut captions = Captions::default();
        for path in files {
            match path.file_stem() {
                Some(stem) if rank(path).is_some() => beside.entry(stem).or_default().push(path),
                _ if path.file_name().is_some_and(|name| name == METADATA) => metadata = entries(path)?,
                _ => {}
            }
        }
        beside.values_mut().for_each(|paths| paths.sort_by_key(|path| rank(path)));
        let mut known: Vec<&Path> = Vec::new();
        for picture in pictures {
            let mut found: Option<String> = None;
            let stems = [picture.file_stem(), picture.file_name()];
            let mut own: Vec<&Path> =
                stems.iter().flatten().filter_map(|stem| beside.get(*stem)).flatten().copied().collect();
            own.sort_by_key(|path| rank(path));
            own.dedup();
            for path in own {
                known.push(path);
                match &found {
                    None => found = one(path)?,
                    Some(_) => captions.second.push(name(path)),
                }
            }
            let listed = picture.file_name().and_then(|name| metadata.remove(&*name.to_string_lossy()));
            captions.of.push(found.or(listed));
        }
        let strays = beside.values().flatten().filter(|path| !known.contains(path)).map(|path| name(path));
        captions.strays = strays.chain(metadata.into_keys().map(|file| format!("{file} in {METADATA}"))).collect();
        Ok(captions)
    }

    /// Images that have one.
    pub fn count(&self) -> usize {
        self.of.iter().flatten().count()
    }
}

fn name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

fn one(path: &Path) -> Result<Option<String>> {
    let source = Source::open(path)?;
    if source.len() > LONGEST {
        let message = format!("{} bytes are no caption: give a line of text", source.len());
        return Err(Error::file(path, message));
    }
    Ok(words(&text(&source)?))
}

/// The words of `text` on one line; `None` where there are none.
fn words(text: &str) -> Option<String> {
    let words: Vec<&str> = text.split_whitespace().collect();
    (!words.is_empty()).then(|| words.join(" "))
}

/// UTF-8 text without the mark that Windows' editors put before it.
fn text(source: &Source) -> Result<String> {
    let bytes = source.bytes()?;
    let wrong = |what: String| Error::file(source.name(), format!("not UTF-8 text ({what}): save it as UTF-8"));
    if bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff") {
        return Err(wrong("but UTF-16".into()));
    }
    let text = std::str::from_utf8(&bytes).map_err(|e| wrong(format!("byte {}", e.valid_up_to())))?;
    match text.find('\0') {
        Some(at) => Err(wrong(format!("byte {at} is zero, as in UTF-16"))),
        None => Ok(text.trim_start_matches('\u{feff}').to_owned()),
    }
}

/// Reads a `metadata.jsonl`: of each file the field `text`, else the only other text of the line.
fn entries(path: &Path) -> Result<BTreeMap<String, String>> {
    let source = Source::open(path)?;
    let text = text(&source)?;
    let mut entries = BTreeMap::new();
    for (i, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let wrong = |what: &str| Error::file(path, format!("line {}: {what}", i + 1));
        let line: serde_json::Value = serde_json::from_str(line).map_err(|_| wrong("is no JSON object"))?;
        let fields = line.as_object().ok_or_else(|| wrong("is no JSON object"))?;
        let file = fields.get("file_name").and_then(|name| name.as_str());
        let file = file.ok_or_else(|| wrong("has no \"file_name\""))?;
        let mut texts = fields.iter().filter(|(key, _)| *key != "file_name").filter_map(|(_, value)| value.as_str());
        let caption = match (fields.get("text").and_then(|text| text.as_str()), texts.next(), texts.next()) {
            (Some(text), ..) | (None, Some(text), None) => text,
            (None, None, _) => continue,
            (None, Some(_), Some(_)) => return Err(wrong("has several texts and none is called \"text\"")),
        };
        if let Some(caption) = words(caption) {
            entries.insert(file.trim_start_matches("./").to_owned(), caption);
        }
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn captions(files: &[(&str, &[u8])], pictures: &[&str]) -> Result<Captions, String> {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        for (name, bytes) in files {
            std::fs::write(at(name), bytes).expect("a file");
        }
        let files: Vec<PathBuf> = files.iter().map(|(name, _)| at(name)).collect();
        let pictures: Vec<PathBuf> = pictures.iter().map(|name| at(name)).collect();
        Captions::read(&pictures, &files).map_err(|e| e.to_string())
    }

    fn of(bytes: &[u8]) -> Result<Option<String>, String> {
        captions(&[("a.txt", bytes)], &["a.jpg"]).map(|mut captions| captions.of.remove(0))
    }

    #[test]
    fn marks_and_line_ends_are_no_words() {
        let dog = || Ok(Some("a zorp dog".to_owned()));
        assert_eq!(of(b"a zorp dog"), dog());
        assert_eq!(of(b"\xef\xbb\xbfa zorp dog\r\n"), dog());
        assert_eq!(of(b"\xef\xbb\xbf\xef\xbb\xbf a\r\nzorp\tdog\n\n"), dog());
        for blank in [&b""[..], b" \n", b"\xef\xbb\xbf", b"\xef\xbb\xbf\r\n"] {
            assert_eq!(of(blank), Ok(None));
        }
        for (bytes, says) in [
            (&b"\xff\xfea\0"[..], "UTF-16"),
            (b"\xfe\xff\0a", "UTF-16"),
            (b"a\0 \0d\0", "byte 1 is zero"),
            (b"caf\xe9", "byte 3"),
            (&[b'a'; 20_000], "20000 bytes are no caption"),
        ] {
            let message = of(bytes).expect_err(says);
            assert!(message.contains("a.txt: ") && message.contains(says), "{message}");
        }
    }

    #[test]
    fn every_usual_name_is_found() {
        let files: [(&str, &[u8]); 9] = [
            ("1.txt", b"one"),
            ("2.caption", b"two"),
            ("3.TXT", b"three"),
            ("4.jpg.txt", b"four"),
            ("5.txt", b" "),
            ("5.caption", b"five"),
            ("6.txt", b"six"),
            ("6.caption", b"not used"),
            (
                "metadata.jsonl",
                b"{\"file_name\": \"7.png\", \"text\": \"seven\", \"by\": \"me\"}\n\n\
                  {\"file_name\": \"./8.png\", \"prompt\": \"eight\"}\r\n\
                  {\"file_name\": \"gone.png\", \"text\": \"x\"}\n",
            ),
        ];
        let pictures = ["1.jpg", "2.jpg", "3.jpg", "4.jpg", "5.jpg", "6.jpg", "7.png", "8.png", "9.png"];
        let found = captions(&files, &pictures).expect("captions");
        let texts: Vec<&str> = found.of.iter().map(|text| text.as_deref().unwrap_or("-")).collect();
        assert_eq!(texts, ["one", "two", "three", "four", "five", "six", "seven", "eight", "-"]);
        assert_eq!((found.count(), found.second), (8, vec!["6.caption".to_owned()]));
        assert_eq!(found.strays, ["gone.png in metadata.jsonl"]);

        let strays = captions(&[("other.txt", b"x"), ("a.txt", b"y")], &["a.b.jpg"]).expect("captions");
        assert_eq!((strays.of, strays.strays), (vec![None], vec!["a.txt".to_owned(), "other.txt".to_owned()]));
        for (line, says) in [
            (&b"{\"file_name\""[..], "line 1: is no JSON"),
            (b"{\"text\": \"x\"}", "file_name"),
            (b"{\"file_name\": \"a.png\", \"a\": \"x\", \"b\": \"y\"}", "several texts"),
        ] {
            let message = captions(&[("metadata.jsonl", line)], &["a.png"]).expect_err(says);
            assert!(message.contains("metadata.jsonl: line 1") && message.contains(says), "{message}");
        }
    }
}
