//! `portray watch`: a job in a window; where no display answers, the same job without one.

#[cfg(feature = "window")]
mod page;
mod shown;
#[cfg(feature = "window")]
mod stage;
#[cfg(feature = "window")]
mod task;
#[cfg(feature = "window")]
mod window;
#[cfg(feature = "window")]
mod work;

use portray::Result;

use super::args::{Global, WatchArgs, WatchJob};
use super::{generate, terminal, train};
use shown::Shown;

/// Does the job in a window, or says why not and does it all the same.
pub fn run(global: &Global, args: WatchArgs) -> Result<()> {
    let reason = match shown(global, &args) {
        Shown::Done(result) => return result,
        Shown::NoWindow(reason) => reason,
    };
    if !global.quiet {
        terminal::note(&format!("no window: {}; going on without", terminal::one_line(&reason)));
    }
    match args.job {
        WatchJob::Generate(args) => generate::run(global, *args),
        WatchJob::Train(args) => train::run(global, *args),
    }
}

#[cfg(feature = "window")]
fn shown(global: &Global, args: &WatchArgs) -> Shown {
    window::run(global, args)
}

#[cfg(not(feature = "window"))]
fn shown(_: &Global, _: &WatchArgs) -> Shown {
    Shown::NoWindow("this program was built without: cargo install --path . --features window".into())
}
