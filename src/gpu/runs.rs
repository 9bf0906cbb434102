//! Runs of plans on a device's queue, and what is done between them.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use crate::base::lock;

/// Longest wait for the queue, so that a run that its host has left does not hold up a thread.
const PATIENCE: Duration = Duration::from_secs(1);

/// Runs of plans on a device's queue. Kernels are compiled ahead when there are none: a run's submits would wait, and the
/// device would seem slow.
#[derive(Default)]
pub(super) struct Runs {
    /// Runs under way, and kernels being compiled on the queue.
    state: Mutex<(usize, usize)>,
    ended: Condvar,
}

/// A run, until it is dropped.
pub(super) struct Running<'g>(&'g Runs);

impl Runs {
    pub fn begin(&self) -> Running<'_> {
        lock(&self.state).0 += 1;
        Running(self)
    }

    /// Returns whether a kernel is being compiled on the queue.
    pub fn compiling(&self) -> bool {
        lock(&self.state).1 > 0
    }

    /// Waits until no run is under way, then does `work` on the queue.
    pub fn between(&self, work: impl FnOnce()) {
        let state = lock(&self.state);
        let waited = self.ended.wait_timeout_while(state, PATIENCE, |state| state.0 > 0);
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        state.1 += 1;
        drop(state);
        work();
        lock(&self.state).1 -= 1;
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        lock(&self.0.state).0 -= 1;
        self.0.ended.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn kernels_are_compiled_between_runs() {
        let runs = Arc::new(Runs::default());
        let first = runs.begin();
        let (done, seen) = std::sync::mpsc::channel();
        let other = runs.clone();
        let thread = std::thread::spawn(move || {
            other.between(|| {
                assert!(other.compiling());
                done.send(()).unwrap();
            });
        });
        assert!(seen.recv_timeout(Duration::from_millis(100)).is_err(), "a run is under way");
        drop(first);
        seen.recv().unwrap();
        thread.join().unwrap();
        assert!(!runs.compiling());
    }

    #[test]
    fn a_run_that_does_not_end_is_not_waited_for_long() {
        let runs = Runs::default();
        let _left = runs.begin();
        let mut worked = false;
        runs.between(|| worked = true);
        assert!(worked);
    }
}
