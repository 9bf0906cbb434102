//! Writing to stdout (data) and stderr (progress and complaints) without ever panicking.

use std::fmt::Display;
use std::io::{ErrorKind, Write as _};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use portray::low_level::io::files::path_form;
use portray::{Error, Result};
use serde_json::Value;

static READER_LEFT: AtomicBool = AtomicBool::new(false);
static UNTOLD: AtomicBool = AtomicBool::new(false);
static LOST: AtomicBool = AtomicBool::new(false);

/// Whether a command's answer went unread, because the program that read it left (`portray … | head`).
pub fn reader_left() -> bool {
    READER_LEFT.load(Ordering::Relaxed)
}

/// Whether something of a job's report could not be written, its reader being there.
pub fn has_lost() -> bool {
    LOST.load(Ordering::Relaxed)
}

/// Writes a line to stdout: the answer of a command that does nothing else.
///
/// # Errors
/// [`Error::File`] when stdout cannot be written; [`Error::Interrupted`] when its reader left, so that the command ends.
pub fn data(text: impl Display) -> Result<()> {
    write(text.to_string().trim_end_matches('\n').as_bytes()).map_err(|e| match e.kind() {
        ErrorKind::BrokenPipe => {
            READER_LEFT.store(true, Ordering::Relaxed);
            Error::interrupted()
        }
        _ => Error::file("standard output", format!("cannot write: {}", reason(&e))),
    })
}

/// Writes a line to stdout: what a job has to tell. A job goes on without being heard, for its result is not the line; that
/// it is not is said once, on stderr.
pub fn tell(text: impl Display) {
    told(write(text.to_string().trim_end_matches('\n').as_bytes()));
}

/// Names a file or folder that was written, as the system has its name.
pub fn tell_path(path: &Path) {
    // On Unix these are the name's bytes, whether they are text or not.
    told(if cfg!(unix) {
        write(path.as_os_str().as_encoded_bytes())
    } else {
        write(path.to_string_lossy().as_bytes())
    });
}

fn told(written: std::io::Result<()>) {
    let Err(e) = written else { return };
    LOST.fetch_or(e.kind() != ErrorKind::BrokenPipe, Ordering::Relaxed);
    if !UNTOLD.swap(true, Ordering::Relaxed) {
        note(&match e.kind() {
            ErrorKind::BrokenPipe => "the reader of standard output left: going on without it".to_owned(),
            _ => format!("warning: standard output: cannot write: {}: going on without it", reason(&e)),
        });
    }
}

/// The system's words without their number.
fn reason(error: &std::io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or(&text).to_lowercase()
}

fn write(line: &[u8]) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(line)?;
    out.write_all(b"\n")?;
    out.flush()
}

/// `said`, an object, with `path` as its field `name`, and as the field `name_os` too where it is no text.
pub fn with_path(mut said: Value, name: &str, path: &Path) -> Value {
    said[name] = path.to_string_lossy().into();
    if path.to_str().is_none() {
        said[format!("{name}_os")] = path_form::value(path);
    }
    said
}

/// Tells where a result is: as a line, or as an event of `--json`.
pub fn tell_saved(json: bool, path: &Path) {
    match json {
        true => tell(with_path(serde_json::json!({"event": "saved"}), "path", path)),
        false => tell_path(path),
    }
}

/// Writes a line for people to stderr.
pub fn note(text: &str) {
    // Nobody is left to tell if this fails.
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// Warns of something that does not end a command: on stderr, or as an event of `--json`.
pub fn warn(json: bool, text: &str) {
    if json {
        tell(serde_json::json!({"event": "warning", "text": text}));
    } else {
        note(&format!("warning: {}", one_line(text)));
    }
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

    #[cfg(unix)]
    #[test]
    fn a_path_is_text_and_where_it_is_none_bytes_too() {
        use std::os::unix::ffi::OsStrExt as _;
        let said = |bytes: &[u8]| {
            let path = std::path::Path::new(std::ffi::OsStr::from_bytes(bytes));
            super::with_path(serde_json::json!({"event": "saved"}), "path", path).to_string()
        };
        assert_eq!(said(b"a b"), r#"{"event":"saved","path":"a b"}"#);
        assert_eq!(said(b"a\xe4"), "{\"event\":\"saved\",\"path\":\"a\u{fffd}\",\"path_os\":{\"Unix\":[97,228]}}");
    }
}
