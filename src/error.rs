//! The error type of the library. Errors are data; each face writes them in its own words.

mod message;

use std::path::Path;

use serde_json::{Value, json};

pub(crate) use message::message;
pub use message::{FieldNames, Message, Remedy, Words, option, path};

/// Failure of a call, grouped by who can mend it.
///
/// [`Display`](std::fmt::Display) names options by their fields (`lr 0: must be above 0`); [`Error::in_words`] as a face
/// calls them (`--lr 0: must be above 0`). [`Debug`](std::fmt::Debug) is the same sentence, for that is what a program prints
/// whose `main` returns the error.
#[derive(Clone)]
#[non_exhaustive]
pub enum Error {
    /// The caller asked for something that makes no sense (exit code 2).
    Usage {
        /// The option that is wrong, by its field's name; `None` where no single one is.
        field: Option<&'static str>,
        /// One sentence on what is wrong and what to give instead.
        problem: Message,
    },
    /// A file is missing, malformed or of the wrong kind.
    File {
        /// The file or folder, as the caller named it.
        path: String,
        /// What is wrong with it, and the remedy.
        message: Message,
    },
    /// Shapes or arguments of an op do not fit. Seen when the op is recorded.
    Op {
        /// The op's name.
        op: &'static str,
        /// Which argument, and the shapes.
        message: String,
    },
    /// The job needs more than the adapter or the memory budget has.
    Limit(Message),
    /// There is no adapter, the device is lost, or a driver failed.
    Device(String),
    /// Loss or gradients of a training are no longer finite.
    Diverged {
        /// Index of the optimizer step, from 0.
        step: usize,
    },
    /// The caller stopped the job. Everything that had to be saved is saved.
    Interrupted {
        /// Unit of the two numbers: "step" or "image".
        unit: &'static str,
        /// Units done.
        done: usize,
        /// Units in all; 0 if the job was stopped before it counted any.
        total: usize,
        /// The state folder that a training with `resume` continues from.
        resumable: Option<String>,
    },
    /// A bug in Portray: an invariant of its own does not hold.
    Internal(String),
}

/// `std::result::Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// Refusal of the option `field` with a whole sentence.
    pub fn usage(field: &'static str, problem: impl Into<Message>) -> Error {
        Error::Usage { field: Some(field), problem: problem.into() }
    }

    /// Refusal of the value `value` of the option `field`: `lr 0: must be above 0`.
    pub fn value(field: &'static str, value: impl std::fmt::Display, problem: impl Into<Message>) -> Error {
        Error::usage(field, message![option(field), format!(" {value}: "), problem])
    }

    /// Refusal of arguments that are no option.
    pub fn argument(problem: impl Into<Message>) -> Error {
        Error::Usage { field: None, problem: problem.into() }
    }

    /// Fault of the file or folder at `path`.
    pub fn file(path: impl AsRef<Path>, message: impl Into<Message>) -> Error {
        Error::File { path: path.as_ref().display().to_string(), message: message.into() }
    }

    /// Refusal of an op's arguments.
    pub fn op(op: &'static str, message: impl std::fmt::Display) -> Error {
        Error::Op { op, message: message.to_string() }
    }

    /// Excess over what the adapter or the budget has.
    pub fn limit(message: impl Into<Message>) -> Error {
        Error::Limit(message.into())
    }

    /// End of a job that was stopped before it counted anything.
    pub fn interrupted() -> Error {
        Error::Interrupted { unit: "step", done: 0, total: 0, resumable: None }
    }

    /// Exit code of the command line: 2 for wrong use, 130 for an interruption, else 1.
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::Usage { .. } => 2,
            Error::Interrupted { .. } => 130,
            _ => 1,
        }
    }

    /// Stable name of the variant, for programs: "usage", "file", "op", "limit", "device", "diverged", "interrupted",
    /// "internal".
    pub fn kind(&self) -> &'static str {
        match self {
            Error::Usage { .. } => "usage",
            Error::File { .. } => "file",
            Error::Op { .. } => "op",
            Error::Limit(_) => "limit",
            Error::Device(_) => "device",
            Error::Diverged { .. } => "diverged",
            Error::Interrupted { .. } => "interrupted",
            Error::Internal(_) => "internal",
        }
    }

    /// The whole sentence.
    pub fn message(&self) -> Message {
        match self {
            Error::Usage { problem, .. } => problem.clone(),
            Error::File { path: file, message } => message![path(file), ": ", message],
            Error::Op { op, message } => message![format!("{op}: {message}")],
            Error::Limit(message) => message.clone(),
            Error::Device(text) => text.as_str().into(),
            Error::Diverged { step } => {
                message![format!("the loss is not finite at step {step}: lower "), option("lr")]
            }
            Error::Interrupted { total: 0, .. } => "interrupted".into(),
            Error::Interrupted { unit, done, total, resumable } => {
                let said: Message = format!("interrupted after {unit} {done} of {total}").into();
                match resumable {
                    Some(state) => message![said, ": ", path(state), " is saved, go on with ", option("resume")],
                    None => said,
                }
            }
            Error::Internal(text) => message![format!("internal error, please report it: {text}")],
        }
    }

    /// The whole sentence in the words of a face.
    pub fn in_words(&self, words: &dyn Words) -> String {
        self.message().in_words(words)
    }

    /// JSON for programs: `event` ("error"), `kind`, `message` in the words of a face, and the variant's own fields (`field`,
    /// `path`, `step`, `unit`, `done`, `total`, `resumable`).
    pub fn to_json(&self, words: &dyn Words) -> Value {
        let mut said = json!({"event": "error", "kind": self.kind()});
        match self {
            Error::Usage { field, .. } => said["field"] = json!(field),
            Error::File { path, .. } => said["path"] = words.path(path).into(),
            Error::Diverged { step } => said["step"] = json!(step),
            Error::Interrupted { unit, done, total, resumable } => {
                said["unit"] = json!(unit);
                (said["done"], said["total"]) = (json!(done), json!(total));
                said["resumable"] = json!(resumable);
            }
            _ => {}
        }
        said["message"] = self.in_words(words).into();
        said
    }
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.message().fmt(f)
    }
}

impl std::fmt::Debug for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for Error {}

impl From<&Error> for Message {
    fn from(error: &Error) -> Message {
        error.message()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Page;

    impl Words for Page {
        fn option(&self, name: &str) -> String {
            format!("<{name}>")
        }

        fn path(&self, path: &str) -> String {
            path.rsplit('/').next().unwrap_or_default().to_owned()
        }

        fn remedy(&self, _: Remedy) -> String {
            "begin anew".into()
        }
    }

    #[test]
    fn each_face_has_words_of_its_own() {
        let error = Error::value("lr", 0, "must be above 0");
        let said = ["lr 0: must be above 0", "<lr> 0: must be above 0"];
        assert_eq!([error.to_string(), error.in_words(&Page)], said);
        assert_eq!(format!("{error:?}"), said[0]);
        let error = Error::file("a/b", message!["is another's: ", Remedy::StartAnew]);
        let said = ["a/b: is another's: start again without resume", "b: is another's: begin anew"];
        assert_eq!([error.to_string(), error.in_words(&Page)], said);
        let state = Some("a/state".to_owned());
        let error = Error::Interrupted { unit: "step", done: 3, total: 9, resumable: state };
        let said = "interrupted after step 3 of 9: state is saved, go on with <resume>";
        assert_eq!(error.in_words(&Page), said);
        let expected = json!({"event": "error", "kind": "interrupted", "unit": "step", "done": 3, "total": 9, "resumable": "a/state", "message": said});
        assert_eq!(error.to_json(&Page), expected);
        assert_eq!(Error::interrupted().to_string(), "interrupted");
    }
}
