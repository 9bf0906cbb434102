//! What a job says while it runs: bars on a terminal, a line every few seconds elsewhere, or JSON events.

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use portray::{Error, Event, Flow, Result, StepReport};
use serde_json::{Value, json};

use super::args::Global;
use super::curves::Evaluations;
use super::words::CommandLine;
use super::{table, terminal};

/// Seconds between two lines of progress where there is no terminal.
const EVERY: Duration = Duration::from_secs(5);
/// What compiles within a blink is not worth a word.
const BLINK: Duration = Duration::from_millis(500);
/// Share of a new loss in the mean that is shown: losses of single steps jump with their timesteps, a mean over some tens of
/// them shows where it goes.
const SMOOTHING: f64 = 0.05;

/// The mean of losses that is shown, from the one before and the loss of a step.
pub fn smoothed(mean: Option<f64>, loss: f64) -> f64 {
    mean.map_or(loss, |mean| mean + SMOOTHING * (loss - mean))
}

#[derive(Clone, Copy, PartialEq)]
enum Style {
    Json,
    Quiet,
    Bar,
    Plain,
}

/// Hears a job's events, and stops it when something the events ask for failed.
pub struct Reporter {
    style: Style,
    phase: String,
    bar: Option<ProgressBar>,
    meter: Option<Meter>,
    spoke: Option<Instant>,
    /// When the first kernel of this phase was seen to be missing.
    compiling: Option<Instant>,
    loss: Option<f64>,
    evaluations: Evaluations,
    fault: Option<Error>,
}

/// How fast units go by, from the end of the first that was seen: that one compiles kernels.
pub struct Meter {
    unit: &'static str,
    began: Instant,
    first: usize,
}

impl Meter {
    /// The meter of a unit of which `done` are done: `known`, unless that is of another or counted further already.
    pub fn following(known: Option<Meter>, unit: &'static str, done: usize) -> Meter {
        let same = known.filter(|meter| meter.unit == unit && done >= meter.first);
        same.unwrap_or_else(|| Meter { unit, began: Instant::now(), first: done })
    }

    /// Units a second; `None` before there is anything to go by.
    fn rate(&self, done: usize) -> Option<f64> {
        let counted = done.saturating_sub(self.first);
        (counted > 0).then(|| counted as f64 / self.began.elapsed().as_secs_f64().max(1e-6))
    }

    /// Seconds until `total` are done; `None` where that is not known, or nothing is left.
    pub fn left(&self, done: usize, total: usize) -> Option<f64> {
        self.rate(done).filter(|_| done < total).map(|rate| (total - done) as f64 / rate)
    }

    /// `3.1 steps/s, 0:58 min left`, or what it took when nothing is left.
    fn text(&self, done: usize, total: usize) -> String {
        if done >= total {
            return table::seconds(self.began.elapsed().as_secs_f64());
        }
        let (Some(rate), Some(left)) = (self.rate(done), self.left(done, total)) else { return String::new() };
        let unit = self.unit;
        let speed = if rate >= 1.0 { format!("{rate:.1} {unit}s/s") } else { format!("{:.1} s/{unit}", 1.0 / rate) };
        format!("{speed}, {} left", table::seconds(left))
    }
}

impl Reporter {
    /// As the global options ask.
    pub fn new(global: &Global) -> Reporter {
        let style = match (global.json, global.quiet, std::io::stderr().is_terminal()) {
            (true, ..) => Style::Json,
            (_, true, _) => Style::Quiet,
            (.., true) => Style::Bar,
            _ => Style::Plain,
        };
        Reporter {
            style,
            phase: String::new(),
            bar: None,
            meter: None,
            spoke: None,
            compiling: None,
            loss: None,
            evaluations: Evaluations::default(),
            fault: None,
        }
    }

    /// Passes one event on; says whether the job goes on.
    pub fn hear(&mut self, event: &Event) -> Flow {
        if self.style == Style::Json {
            terminal::tell(json_line(event));
        } else {
            self.tell(event);
        }
        if self.fault.is_some() { Flow::Stop } else { Flow::Continue }
    }

    /// Does what an event asks for; a failure stops the job and becomes its result.
    pub fn hold(&mut self, result: Result<()>) {
        if let Err(e) = result {
            self.fault.get_or_insert(e);
        }
    }

    /// The job's result, or the failure that made it stop.
    ///
    /// # Errors
    /// The job's own, or what [`hold`](Self::hold) kept.
    pub fn finish<T>(mut self, result: Result<T>) -> Result<T> {
        self.clear();
        match self.fault.take() {
            Some(e) => Err(e),
            None => result,
        }
    }

    /// A line that belongs to the report and not to stdout's data.
    pub fn note(&self, text: &str) {
        // A name may have line breaks and worse.
        let text = &terminal::one_line(text);
        match (&self.bar, self.style) {
            (_, Style::Json | Style::Quiet) => {}
            (Some(bar), _) => bar.suspend(|| terminal::note(text)),
            (None, _) => terminal::note(text),
        }
    }

    fn tell(&mut self, event: &Event) {
        match event {
            Event::Phase(phase) => self.begin(&phase.to_string()),
            Event::Note(text) => self.note(&text.in_words(&CommandLine)),
            Event::Warning(text) => {
                let warning = format!("warning: {}", terminal::one_line(&text.in_words(&CommandLine)));
                match &self.bar {
                    Some(bar) => bar.suspend(|| terminal::note(&warning)),
                    None => terminal::note(&warning),
                }
            }
            Event::Progress { unit, done, total } => self.advance(unit, *done, *total, ""),
            Event::Compiling { done, total } => self.compiling(*done, *total),
            Event::Step(step) => self.step(step),
            Event::Evaluation(report) => {
                let line = self.evaluations.line(report);
                self.note(&line);
            }
            Event::Saved(path) => self.note(&format!("saved {}", path.display())),
            // Images are the caller's to show.
            _ => {}
        }
    }

    /// A phase of the command's own begins: one of several jobs.
    pub fn section(&mut self, name: &str) {
        match self.style {
            Style::Json => terminal::tell(json!({"event": "phase", "phase": "demo", "name": name})),
            _ => self.begin(name),
        }
    }

    fn begin(&mut self, name: &str) {
        self.clear();
        self.phase = name.to_owned();
        match self.style {
            Style::Plain => terminal::note(name),
            Style::Bar => {
                let bar = ProgressBar::new_spinner().with_message(name.to_owned());
                bar.enable_steady_tick(Duration::from_millis(120));
                self.bar = Some(bar);
            }
            _ => {}
        }
    }

    fn clear(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
        self.meter = None;
        self.compiling = None;
        self.loss = None;
    }

    fn compiling(&mut self, done: usize, total: usize) {
        let began = *self.compiling.get_or_insert_with(Instant::now);
        let text = compiling_text(done, total);
        match (self.style, &self.bar) {
            (Style::Bar, Some(bar)) if bar.length().is_none() && began.elapsed() >= BLINK => {
                bar.set_message(format!("{}: {text}", self.phase));
            }
            (Style::Plain, _) => {
                let spoke = self.spoke.map_or(began, |spoke| spoke.max(began));
                if spoke.elapsed() >= EVERY {
                    terminal::note(&format!("  {text}"));
                    self.spoke = Some(Instant::now());
                }
            }
            _ => {}
        }
    }

    fn step(&mut self, step: &StepReport) {
        let loss = smoothed(self.loss, step.loss);
        self.loss = Some(loss);
        self.advance("step", step.step + 1, step.steps, &format!("loss {loss:.4}"));
    }

    fn advance(&mut self, unit: &'static str, done: usize, total: usize, extra: &str) {
        if self.style == Style::Quiet {
            return;
        }
        if self.meter.is_none() {
            self.spoke = Some(Instant::now());
        }
        let meter = Meter::following(self.meter.take(), unit, done);
        let (speed, took) = (meter.text(done, total), meter.began.elapsed());
        self.meter = Some(meter);
        let text = [extra, &speed].into_iter().filter(|t| !t.is_empty()).collect::<Vec<_>>().join("  ");
        if self.style == Style::Bar {
            let bar = self.bar.get_or_insert_with(ProgressBar::new_spinner);
            if bar.length() != Some(total as u64) {
                bar.disable_steady_tick();
                bar.set_style(bar_style());
                bar.set_length(total as u64);
            }
            bar.set_prefix(self.phase.clone());
            bar.set_message(text);
            bar.set_position(done as u64);
            return;
        }
        let due = self.spoke.is_none_or(|at| at.elapsed() >= EVERY);
        if due || (done == total && took >= EVERY) {
            terminal::note(&format!("  {unit} {done}/{total}  {text}"));
            self.spoke = Some(Instant::now());
        }
    }
}

/// `compiling 41 of 63 kernels`: how many can run by now.
pub fn compiling_text(done: usize, total: usize) -> String {
    format!("compiling {done} of {total} kernels")
}

fn bar_style() -> ProgressStyle {
    let plain = ProgressStyle::default_bar;
    ProgressStyle::with_template("{prefix} {bar:28} {pos}/{len}  {msg}")
        .unwrap_or_else(|_| plain())
        .progress_chars("━━╌")
}

/// An event as one line of JSON, in the command line's words; a path that is no text is given as bytes, too.
fn json_line(event: &Event) -> Value {
    let said = event.to_json(&CommandLine);
    match event {
        Event::Saved(path) => terminal::with_path(said, "path", path),
        _ => said,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_has_the_documented_form() {
        let mut step =
            StepReport { step: 3, steps: 9, loss: 0.5, instance: 0.25, prior: Some(0.25), grad_norm: 2.0, lr: 1e-3 };
        let line = json_line(&Event::Step(step.clone())).to_string();
        assert_eq!(
            line,
            r#"{"event":"step","step":3,"steps":9,"loss":0.5,"instance":0.25,"prior":0.25,"grad_norm":2.0,"lr":0.001}"#
        );
        step.prior = None;
        assert!(!json_line(&Event::Step(step)).to_string().contains("prior"));
    }

    #[test]
    fn what_is_compiled_is_counted() {
        let line = json_line(&Event::Compiling { done: 41, total: 63 }).to_string();
        assert_eq!(line, r#"{"event":"compiling","done":41,"total":63}"#);
        assert_eq!(compiling_text(41, 63), "compiling 41 of 63 kernels");
    }

    #[test]
    fn a_fault_stops_the_job_and_becomes_its_result() {
        let mut reporter = Reporter::new(&Global { quiet: true, ..Global::default() });
        assert_eq!(reporter.hear(&Event::Note("a".into())), Flow::Continue);
        reporter.hold(Err(Error::argument("no")));
        assert_eq!(reporter.hear(&Event::Note("b".into())), Flow::Stop);
        assert!(matches!(reporter.finish(Err::<(), _>(Error::interrupted())), Err(Error::Usage { .. })));
    }
}
