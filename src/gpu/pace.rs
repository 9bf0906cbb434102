//! Throughput estimate of a device: seconds per cost unit, learnt within the rhythm of a host.
//!
//! A host sees finished work only when it polls, usually once per frame. Work seen done `s` seconds after its submit
//! took at most `s`, and at least `s` minus the time between two polls. That time is known from steps in which the job
//! rests. If the host waits for the display, everything that fits into a frame looks alike. So a job does a little more
//! in each frame until one takes too long, and knows the speed from then on.

use super::AdapterClass;

/// Observation of the device between two steps of a host.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Seen {
    /// Cost units done.
    pub cost: f64,
    /// Seconds from their first submit, or from when earlier work was seen done, until they were done.
    pub secs: f64,
    /// Whether other work came before: they may have begun earlier than was seen.
    pub chained: bool,
    /// Budget of the step.
    pub budget_secs: f64,
}

/// Initial estimate of seconds per cost unit. Rather too long: a frame that takes too long is visible, one that could
/// hold more is not.
pub(super) fn guess(class: AdapterClass) -> f64 {
    match class {
        AdapterClass::Cpu => 1e-10,
        AdapterClass::Gpu => 1e-11,
    }
}

/// Steps with work after which one rests, so that the host's own frame time stays known.
const REST_EVERY: usize = 64;
/// Steps with work after which one rests while the estimate is being found.
const REST_OFTEN: usize = 8;
/// Steps with work after which the estimate is doubted: it may have been another program's load.
const LOOK_AGAIN: usize = 1000;
/// Factor by which each step does more while the estimate is being found.
const MORE: f64 = 1.3;
/// Frame time above which a host's rhythm is not worth filling.
const SLOW_FRAME_SECS: f64 = 0.05;

/// Estimator of one job: what it knows of its host and of the device.
pub(super) struct Pacer {
    /// Seconds between two steps without work of the job on the device.
    frame_secs: Option<f64>,
    /// Seconds per cost unit below which the search stops; 0 if nothing was found yet.
    floor: f64,
    /// Steps that should rest.
    rests_due: usize,
    since_rest: usize,
    since_look: usize,
    /// Seconds per cost unit of the last observation, if it took longer than expected: the device is slow, or the host
    /// was.
    doubted: Option<f64>,
}

impl Pacer {
    pub fn new() -> Pacer {
        // Two, for the host may pause in one.
        Pacer { frame_secs: None, floor: 0.0, rests_due: 2, since_rest: 0, since_look: 0, doubted: None }
    }

    /// Returns whether the next step should submit nothing.
    pub fn wants_rest(&self) -> bool {
        self.rests_due > 0
    }

    /// Returns whether `secs` span so many of the host's frames that one more does not matter.
    pub fn is_long(&self, secs: f64) -> bool {
        self.frame_secs.is_none_or(|frame| secs > 4.0 * frame)
    }

    /// Records a step without work on the device, `secs` before the next step.
    pub fn rested(&mut self, secs: f64) {
        self.frame_secs = Some(match self.frame_secs {
            // A pause of the host's is not its rhythm; where what came before was slow as well, it may be.
            Some(known) if self.doubted.is_none() => secs.min(2.0 * known),
            _ => secs,
        });
        self.rests_due = self.rests_due.saturating_sub(1);
        self.since_rest = 0;
    }

    /// Updates the estimate `old` of seconds per cost unit from an observation.
    pub fn learn(&mut self, seen: Seen, old: f64) -> f64 {
        let Some(frame) = self.frame_secs else { return old };
        (self.since_rest, self.since_look) = (self.since_rest + 1, self.since_look + 1);
        if self.since_look >= LOOK_AGAIN {
            (self.floor, self.since_look) = (0.0, 0);
        }
        if self.since_rest >= if self.floor == 0.0 { REST_OFTEN } else { REST_EVERY } {
            self.rests_due = self.rests_due.max(1);
        }
        if seen.chained && !self.is_long(seen.secs) {
            return old;
        }
        let most = (seen.secs + if seen.chained { frame } else { 0.0 }) / seen.cost;
        self.floor = self.floor.min(most);
        if seen.secs > 1.5 * frame {
            let least = (seen.secs - frame) / seen.cost;
            return if old > most { towards(old, most) } else { self.took_long(old, (least + most) / 2.0) };
        }
        self.doubted = None;
        // What was held back by something else than time tells nothing of more.
        let full = seen.cost * old >= seen.budget_secs / 2.0;
        let regular = frame <= SLOW_FRAME_SECS.max(4.0 * seen.budget_secs);
        if self.floor == 0.0 && full && regular {
            return most.clamp(old / 2.0, old / MORE);
        }
        towards(old, old.clamp(self.floor, most))
    }

    /// Records a frame with work that took longer than the host's own, as if a cost unit took `likely` seconds.
    fn took_long(&mut self, old: f64, likely: f64) -> f64 {
        if likely <= old {
            self.floor = self.floor.max(likely);
            return old;
        }
        if likely > 1.5 * old && self.doubted.is_none() {
            // Once may be the host's own: a step rests, and tells.
            (self.doubted, self.rests_due) = (Some(likely), 1);
            return old;
        }
        let likely = self.doubted.take().map_or(likely, |before| likely.min(before.max(old)));
        self.floor = likely;
        towards(old, likely)
    }
}

/// Moves from `old` towards `new`: smoothly if it is near, else by a factor of two.
fn towards(old: f64, new: f64) -> f64 {
    if new > 2.0 * old {
        2.0 * old
    } else if new < old / 2.0 {
        old / 2.0
    } else {
        0.7 * old + 0.3 * new
    }
}
