//! Ctrl-C: the first asks the job to save and stop, the second ends the process.

use std::sync::LazyLock;

use portray::CancelToken;

static TOKEN: LazyLock<CancelToken> = LazyLock::new(CancelToken::new);

/// Token of every engine that a command opens.
pub fn token() -> &'static CancelToken {
    &TOKEN
}

/// From now on Ctrl-C, and what asks a process to end, sets [`asked`] instead of killing it. For commands with something to
/// save.
pub fn listen() {
    system::listen();
}

/// Says whether somebody asked to stop.
pub fn asked() -> bool {
    TOKEN.is_cancelled()
}

/// Asks to stop. A second time ends the process where that was `meant`: a terminal that is closed hangs up once for itself
/// and once for its shell, and a job that is saving goes on saving.
fn ask(meant: bool) {
    if !asked() {
        TOKEN.cancel();
        super::terminal::note("stopping; press Ctrl-C again to stop at once");
    } else if meant {
        std::process::exit(130);
    }
}

#[cfg(unix)]
mod system {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    use signal_hook::iterator::Signals;

    pub fn listen() {
        // `nohup` ignores SIGHUP, and that stays so. A shell without job control has what it starts with `&` ignore SIGINT,
        // which only somebody who means this process sends then.
        let nohup = is_ignored(SIGHUP);
        let signals: Vec<i32> = [SIGINT, SIGTERM, SIGHUP].into_iter().filter(|&s| s != SIGHUP || !nohup).collect();
        // Without handlers a signal kills the process, which loses only what is not saved yet.
        if let Ok(mut signals) = Signals::new(signals) {
            let heed = move || signals.forever().for_each(|signal| super::ask(signal != SIGHUP));
            let _ = std::thread::Builder::new().name("signals".into()).spawn(heed);
        }
    }

    fn is_ignored(signal: i32) -> bool {
        // SAFETY: all zeros is a valid `sigaction`, and without a new one the call only fills in the present one.
        unsafe {
            let mut present: libc::sigaction = std::mem::zeroed();
            libc::sigaction(signal, std::ptr::null(), &mut present) == 0 && present.sa_sigaction == libc::SIG_IGN
        }
    }
}

#[cfg(not(unix))]
mod system {
    pub fn listen() {
        let _ = ctrlc::set_handler(|| super::ask(true));
    }
}
