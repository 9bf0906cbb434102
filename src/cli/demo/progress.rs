//! How far the demo is, as a whole: class images, trainings and images count in one unit.

use portray::{Error, Event, Flow, Result};

use super::super::args::Global;
use super::super::report::{Meter, Reporter};
use super::super::terminal;

/// Job that is yet to be done, in sampler steps of one guided image.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Job {
    /// Images, each of so many sampler steps as all are.
    pub pictures: usize,
    /// Updates with a class image beside the subject's.
    pub with_prior: usize,
    /// Updates without.
    pub without_prior: usize,
}

/// What an update takes, in sampler steps: with a class image beside, and without. Rough weights for the time left
/// alone: the first from one run on lavapipe (0.22 s where a sampler step took 0.083 s), the second an estimate.
pub const UPDATE: [usize; 2] = [3, 2];

impl Job {
    /// Both.
    pub fn and(self, other: Job) -> Job {
        Job {
            pictures: self.pictures + other.pictures,
            with_prior: self.with_prior + other.with_prior,
            without_prior: self.without_prior + other.without_prior,
        }
    }

    /// In sampler steps.
    pub fn units(self, steps: usize) -> usize {
        self.pictures * steps + self.with_prior * UPDATE[0] + self.without_prior * UPDATE[1]
    }
}

/// Tells how far all of it is, on one line.
pub struct Progress {
    reporter: Reporter,
    json: bool,
    /// Units of parts that are done.
    before: usize,
    total: usize,
    meter: Option<Meter>,
}

impl Progress {
    /// Of `total` units.
    pub fn new(global: &Global, total: usize) -> Progress {
        let mut reporter = Reporter::new(global);
        if !global.json {
            reporter.section("demo");
        }
        Progress { reporter, json: global.json, before: 0, total, meter: None }
    }

    /// A part begins.
    pub fn begin(&mut self, title: &str) {
        if self.json {
            self.reporter.section(title);
        } else {
            self.reporter.note(title);
        }
    }

    /// A part of `units` is done.
    pub fn end(&mut self, units: usize) {
        self.before += units;
    }

    /// Passes an event of a part on: `unit` is what one of its steps counts.
    pub fn hear(&mut self, event: &Event, unit: usize) -> Flow {
        match event {
            Event::Step(step) => {
                if self.json {
                    self.reporter.hear(event);
                }
                self.advance((step.step + 1) * unit)
            }
            Event::Progress { unit: "step", done, .. } => self.advance(done * unit),
            // The phases within a part would only flicker by, and its file is told of when all is done.
            Event::Progress { .. } | Event::Saved(_) => Flow::Continue,
            Event::Phase(_) | Event::Note(_) if !self.json => Flow::Continue,
            other => self.reporter.hear(other),
        }
    }

    fn advance(&mut self, done: usize) -> Flow {
        let (done, total) = ((self.before + done).min(self.total), self.total);
        let meter = Meter::following(self.meter.take(), "step", done);
        let left = meter.left(done, total);
        self.meter = Some(meter);
        if let Some(seconds) = left.filter(|_| self.json) {
            let seconds = (seconds * 10.0).round() / 10.0;
            terminal::tell(serde_json::json!({"event": "left", "seconds": seconds, "done": done, "total": total}));
        }
        self.reporter.hear(&Event::Progress { unit: "step", done, total })
    }

    /// A line beside the progress.
    pub fn note(&self, text: &str) {
        self.reporter.note(text);
    }

    /// All is done, or came to an end.
    ///
    /// # Errors
    /// That of `result`; where the demo was stopped, with what stays.
    pub fn finish<T>(self, result: Result<T>, out: &std::path::Path) -> Result<T> {
        let result = self.reporter.finish(result);
        if matches!(result, Err(Error::Interrupted { .. })) {
            terminal::note(&format!(
                "what was finished is in {}; the demo starts anew with --force",
                terminal::one_line(&out.display().to_string())
            ));
        }
        // What a stopped training saved is of no use here.
        result.map_err(|e| if matches!(e, Error::Interrupted { .. }) { Error::interrupted() } else { e })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_work_counts_in_one_unit() {
        let work = Job { pictures: 3, with_prior: 10, without_prior: 5 };
        assert_eq!(work.units(12), 3 * 12 + 10 * UPDATE[0] + 5 * UPDATE[1]);
        assert_eq!(Job::default().units(12), 0);
    }
}
