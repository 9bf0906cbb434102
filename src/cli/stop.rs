//! Ctrl-C: the first asks the job to save and stop, the second ends the process.

use std::sync::atomic::{AtomicBool, Ordering};

static ASKED: AtomicBool = AtomicBool::new(false);

/// From now on Ctrl-C (and SIGTERM) sets [`asked`] instead of killing the process. For commands with something to save.
pub fn listen() {
    let handler = || {
        if ASKED.swap(true, Ordering::SeqCst) {
            std::process::exit(130);
        }
        super::terminal::note("stopping; press Ctrl-C again to stop at once");
    };
    // Without a handler Ctrl-C kills the process, which loses only what is not saved yet.
    let _ = ctrlc::set_handler(handler);
}

/// Whether somebody asked to stop.
pub fn asked() -> bool {
    ASKED.load(Ordering::SeqCst)
}
