//! The outcome of showing a job.

use portray::Result;

/// Outcome of trying to show a job.
pub enum Shown {
    /// It was shown, and ended so.
    #[cfg_attr(not(feature = "window"), allow(dead_code, reason = "nothing is shown without a window"))]
    Done(Result<()>),
    /// No window could be opened, and nothing was begun.
    NoWindow(String),
}
