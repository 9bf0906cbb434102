//! Paths in JSON, which holds text alone. A path that is text is a string. One that is not has serde's form of the
//! system's own strings, `{"Unix": [BYTES]}` or `{"Windows": [UTF-16 UNITS]}`: none is refused, and none comes back
//! changed.

use std::ffi::OsStr;
#[cfg(any(unix, windows))]
use std::ffi::OsString;
use std::path::{Path, PathBuf};

#[cfg(any(unix, windows))]
use serde::Serialize as _;
use serde::{Deserialize, Deserializer, Serializer};

/// Path of either form.
#[derive(Deserialize)]
#[serde(untagged)]
enum Form {
    Text(PathBuf),
    #[cfg(any(unix, windows))]
    System(OsString),
}

/// Serializes `path`, for `#[serde(with = …)]`.
///
/// # Errors
/// The serializer's own.
pub fn serialize<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    match path.to_str() {
        Some(text) => serializer.serialize_str(text),
        None => system(path.as_os_str(), serializer),
    }
}

#[cfg(any(unix, windows))]
fn system<S: Serializer>(name: &OsStr, serializer: S) -> Result<S::Ok, S::Error> {
    name.serialize(serializer)
}

/// A page's paths are text.
#[cfg(not(any(unix, windows)))]
fn system<S: Serializer>(name: &OsStr, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&name.to_string_lossy())
}

/// Deserializes either form, for `#[serde(with = …)]`.
///
/// # Errors
/// For what is neither.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PathBuf, D::Error> {
    Form::deserialize(deserializer).map(PathBuf::from)
}

impl From<Form> for PathBuf {
    fn from(form: Form) -> PathBuf {
        match form {
            Form::Text(path) => path,
            #[cfg(any(unix, windows))]
            Form::System(name) => name.into(),
        }
    }
}

/// Path as a JSON value.
pub fn value(path: &Path) -> serde_json::Value {
    serialize(path, serde_json::value::Serializer).unwrap_or_else(|_| path.to_string_lossy().into())
}

/// Paths that may be missing.
pub mod optional {
    use super::*;

    /// Serializes `path`, for `#[serde(with = …)]`.
    ///
    /// # Errors
    /// The serializer's own.
    pub fn serialize<S: Serializer>(path: &Option<PathBuf>, serializer: S) -> Result<S::Ok, S::Error> {
        match path {
            Some(path) => super::serialize(path, serializer),
            None => serializer.serialize_none(),
        }
    }

    /// Deserializes either form or null, for `#[serde(with = …)]`.
    ///
    /// # Errors
    /// For what is neither.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<PathBuf>, D::Error> {
        Ok(Option::<Form>::deserialize(deserializer)?.map(PathBuf::from))
    }
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::ffi::OsStringExt as _;

    use super::*;

    #[derive(Debug, PartialEq, serde::Serialize, Deserialize)]
    struct Named {
        #[serde(with = "super")]
        path: PathBuf,
        #[serde(with = "super::optional")]
        other: Option<PathBuf>,
    }

    #[test]
    fn every_path_comes_back() {
        for bytes in [&b"bilder"[..], b"bilder-\xe4", b"\xff\n'", "\u{1f431}".as_bytes(), b"\xed\xa0\x80"] {
            let path = PathBuf::from(OsString::from_vec(bytes.to_vec()));
            for other in [None, Some(path.clone())] {
                let named = Named { path: path.clone(), other };
                let json = serde_json::to_string(&named).unwrap();
                assert_eq!(serde_json::from_str::<Named>(&json).unwrap(), named, "{json}");
                let value = serde_json::to_value(&named).unwrap();
                assert_eq!(serde_json::from_value::<Named>(value).unwrap(), named, "{json}");
            }
        }
    }

    #[test]
    fn text_is_a_string_and_the_rest_is_bytes() {
        assert_eq!(value(Path::new("a b")), serde_json::json!("a b"));
        let path = PathBuf::from(OsString::from_vec(b"a\xe4".to_vec()));
        assert_eq!(value(&path), serde_json::json!({"Unix": [97, 0xe4]}));
    }
}
