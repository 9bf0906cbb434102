//! Writing to stdout (data) and stderr (progress and complaints) without ever panicking.

use std::fmt::Display;
use std::io::{ErrorKind, Write as _};
use std::sync::atomic::{AtomicBool, Ordering};

use portray::{Error, Result};

static READER_LEFT: AtomicBool = AtomicBool::new(false);

/// Whether the program that read our stdout has closed it (`portray … | head`).
pub fn reader_left() -> bool {
    READER_LEFT.load(Ordering::Relaxed)
}

/// Writes a line to stdout.
///
/// # Errors
/// [`Error::File`] when stdout cannot be written; [`Error::Interrupted`] when its reader left, so that the job ends.
pub fn data(text: impl Display) -> Result<()> {
    let text = text.to_string();
    let mut out = std::io::stdout().lock();
    match writeln!(out, "{}", text.trim_end_matches('\n')).and_then(|()| out.flush()) {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == ErrorKind::BrokenPipe => {
            READER_LEFT.store(true, Ordering::Relaxed);
            Err(Error::Interrupted(": the reader of the output left".into()))
        }
        Err(e) => Err(Error::file("standard output", format!("cannot write: {e}"))),
    }
}

/// Writes a line for people to stderr.
pub fn note(text: &str) {
    // Nobody is left to tell if this fails.
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// Writes a one-line error to stderr.
pub fn complain(text: &str) {
    note(&format!("error: {}", one_line(text)));
}

/// `text` on one line, without control characters that would repaint the terminal.
pub fn one_line(text: &str) -> String {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ");
    lines.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// Keeps Mesa's Wayland client, which nothing here uses, from complaining on stderr where there is no desktop.
pub fn quieten_wayland() {
    if cfg!(target_os = "linux") && std::env::var_os("XDG_RUNTIME_DIR").is_none() {
        // SAFETY: called first thing in `main`, while there is one thread.
        unsafe { std::env::set_var("XDG_RUNTIME_DIR", std::env::temp_dir()) };
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn one_line_of_many() {
        assert_eq!(super::one_line("a\n\n  b\u{1b}[0m\n"), "a b [0m");
    }
}
