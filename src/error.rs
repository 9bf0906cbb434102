//! The one error type: every message names the thing, the limit and what to do.

/// What can go wrong, grouped by whose fault it is.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The caller asked for something that makes no sense (exit code 2).
    #[error("{0}")]
    Usage(String),
    /// A file is missing, malformed or not what it should be.
    #[error("{path}: {message}")]
    File {
        /// The file or folder, as the user named it.
        path: String,
        /// What is wrong with it, and the remedy.
        message: String,
    },
    /// Shapes or arguments of an op do not fit, seen when it is recorded.
    #[error("{op}: {message}")]
    Op {
        /// The op's name.
        op: &'static str,
        /// Which argument, and the shapes.
        message: String,
    },
    /// What is asked for does not fit the adapter or the budget.
    #[error("{0}")]
    Limit(String),
    /// No adapter, a lost device, a kernel that does not compile.
    #[error("{0}")]
    Device(String),
    /// The caller stopped the job; what had to be saved is saved.
    #[error("interrupted{0}")]
    Interrupted(String),
}

/// `std::result::Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// A file's fault.
    pub fn file(path: impl AsRef<std::path::Path>, message: impl std::fmt::Display) -> Self {
        Error::File { path: path.as_ref().display().to_string(), message: message.to_string() }
    }

    /// An op's fault.
    pub fn op(op: &'static str, message: impl std::fmt::Display) -> Self {
        Error::Op { op, message: message.to_string() }
    }

    /// The exit code of the command line: 2 wrong use, 130 interrupted, else 1.
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::Usage(_) => 2,
            Error::Interrupted(_) => 130,
            _ => 1,
        }
    }
}
