//! How long a device takes for a unit of cost, learnt from what a host's rhythm lets through.
//!
//! That work is done is seen when the host polls, in most hosts once a frame. Work that is seen done `s` seconds after it was
//! submitted took at most `s`, and at least `s` less the time between two polls. That time is known from steps in which the
//! job rests. Where the host waits for the display, whatever fits into a frame looks alike; so a job does a little more with
//! each frame until it takes one too many, and knows from then on.

use super::AdapterClass;

/// What the device was seen to do between two steps of a host.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Seen {
    /// Cost units that were done.
    pub cost: f64,
    /// Seconds from their first submit, or from when what was before them was seen done, until they were.
    pub secs: f64,
    /// There was something before them: they may have begun earlier than was seen.
    pub chained: bool,
    /// What the step could spend.
    pub budget_secs: f64,
}

/// Seconds that a cost unit takes on a device that has not shown it yet: rather too long, for a frame that takes too long is
/// seen by whoever watches, and one that could have held more is not.
pub(super) fn guess(class: AdapterClass) -> f64 {
    match class {
        AdapterClass::Cpu => 1e-10,
        AdapterClass::Gpu => 1e-11,
    }
}

/// Steps with work on the device after which one rests, so that the host's own time stays known.
const REST_EVERY: usize = 64;
/// The same while the device's pace is being looked for.
const REST_OFTEN: usize = 8;
/// Steps with work after which what is known of the device is doubted: it may have been somebody else's load.
const LOOK_AGAIN: usize = 1000;
/// How much more each step does while it looks for what a frame holds.
const MORE: f64 = 1.3;
/// Hosts that take longer for a frame of their own do not keep a rhythm worth filling.
const SLOW_FRAME_SECS: f64 = 0.05;

/// What a job knows of its host and of the device.
pub(super) struct Pacer {
    /// Seconds between two steps where the job has nothing on the device.
    frame_secs: Option<f64>,
    /// Seconds of a cost unit below which it is not to be looked for; 0 where nothing was found yet.
    floor: f64,
    /// Steps that shall rest.
    rests_due: usize,
    since_rest: usize,
    since_look: usize,
    /// What was seen last took longer than it should, so many seconds a cost unit: the device is slow, or the host was.
    doubted: Option<f64>,
}

impl Pacer {
    pub fn new() -> Pacer {
        // Two, for the host may pause in one.
        Pacer { frame_secs: None, floor: 0.0, rests_due: 2, since_rest: 0, since_look: 0, doubted: None }
    }

    /// Whether the next step shall submit nothing.
    pub fn wants_rest(&self) -> bool {
        self.rests_due > 0
    }

    /// Whether `secs` are so many of the host's frames that one more or less does not matter.
    pub fn is_long(&self, secs: f64) -> bool {
        self.frame_secs.is_none_or(|frame| secs > 4.0 * frame)
    }

    /// A step, and what was between it and the next, took `secs`, and the device had nothing of the job.
    pub fn rested(&mut self, secs: f64) {
        self.frame_secs = Some(match self.frame_secs {
            // A pause of the host's is not its rhythm; where what came before was slow as well, it may be.
            Some(known) if self.doubted.is_none() => secs.min(2.0 * known),
            _ => secs,
        });
        self.rests_due = self.rests_due.saturating_sub(1);
        self.since_rest = 0;
    }

    /// Seconds that a cost unit takes, where it was thought to take `old`.
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

    /// A frame with work took longer than the host's own do, as if a cost unit took `likely` seconds.
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

/// From `old` to `new`: smoothly where it is near, else by a factor of two.
fn towards(old: f64, new: f64) -> f64 {
    if new > 2.0 * old {
        2.0 * old
    } else if new < old / 2.0 {
        old / 2.0
    } else {
        0.7 * old + 0.3 * new
    }
}
