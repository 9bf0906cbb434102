//! Steps of a check, one after another or side by side, and what came of them.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use crate::Failure;

/// What came of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It ran, and all was well.
    Passed,
    /// It ran; whoever failed has said why.
    Failed,
    /// It could not run here: why, and what to do about it.
    Skipped(String),
}

impl Outcome {
    /// What comes next, if this passed.
    pub fn and(self, next: impl FnOnce() -> Outcome) -> Outcome {
        if self == Outcome::Passed { next() } else { self }
    }
}

/// Steps that ended: name, outcome, seconds.
#[derive(Default)]
pub struct Steps(Vec<(String, Outcome, f64)>);

impl Steps {
    /// Runs `work` as the next step.
    pub fn step(&mut self, name: &str, work: impl FnOnce() -> Outcome) {
        eprintln!("\n== {name}");
        let began = Instant::now();
        let outcome = work();
        if let Outcome::Skipped(reason) = &outcome {
            eprintln!("SKIPPED: {name}: {reason}");
        }
        self.0.push((name.to_owned(), outcome, began.elapsed().as_secs_f64()));
    }

    /// Runs `jobs`, begun in their order, as many at a time as keep the cores busy: a driver without a GPU compiles and
    /// runs kernels on one core for the most part, cargo the last crate of many too.
    pub fn side_by_side(&mut self, jobs: Vec<Job>) {
        let lanes = std::thread::available_parallelism().map_or(2, |cores| cores.get().clamp(2, 4));
        let (waiting, ended) = (Mutex::new(VecDeque::from(jobs)), Mutex::new(self));
        let next = || waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        std::thread::scope(|scope| {
            for _ in 0..lanes {
                scope.spawn(|| {
                    while let Some(job) = next() {
                        let mut steps = Steps::default();
                        job(&mut steps);
                        ended.lock().unwrap_or_else(PoisonError::into_inner).0.append(&mut steps.0);
                    }
                });
            }
        });
    }

    /// Prints them all, and the seconds since `began`.
    ///
    /// # Errors
    /// Where one failed.
    pub fn print(&self, began: Instant) -> Result<(), Failure> {
        println!("\n{:<34} {:>8}", "step", "seconds");
        for (name, outcome, seconds) in &self.0 {
            let result = match outcome {
                Outcome::Passed => "passed".to_owned(),
                Outcome::Failed => "FAILED".to_owned(),
                Outcome::Skipped(reason) => format!("SKIPPED: {reason}"),
            };
            println!("{name:<34} {seconds:>8.0}  {result}");
        }
        println!("{:<34} {:>8.0}", "from begin to end", began.elapsed().as_secs_f64());
        match self.0.iter().filter(|(_, outcome, _)| *outcome == Outcome::Failed).count() {
            0 => Ok(()),
            n => Err(format!("{n} of {} steps failed", self.0.len()).into()),
        }
    }
}

/// One step or several that run one after another, beside those of other jobs.
pub type Job<'a> = Box<dyn FnOnce(&mut Steps) + Send + 'a>;

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Barrier;

    #[test]
    fn jobs_run_side_by_side_and_each_step_is_told() {
        // Two that wait for each other end only where they run together.
        let both = Barrier::new(2);
        let meet = |outcome: Outcome| {
            both.wait();
            outcome
        };
        let mut steps = Steps::default();
        steps.step("before", || Outcome::Passed);
        steps.side_by_side(vec![
            Box::new(|steps| steps.step("a", || meet(Outcome::Passed))),
            Box::new(|steps| steps.step("b", || meet(Outcome::Failed))),
            Box::new(|steps| {
                steps.step("c", || Outcome::Skipped("why".into()));
                steps.step("d", || Outcome::Passed);
            }),
        ]);
        let mut found: Vec<_> = steps.0.iter().map(|(name, outcome, _)| (name.as_str(), outcome.clone())).collect();
        found.sort_by_key(|(name, _)| *name);
        let skipped = Outcome::Skipped("why".into());
        let (passed, failed) = (Outcome::Passed, Outcome::Failed);
        let all = [("a", passed.clone()), ("b", failed), ("before", passed.clone()), ("c", skipped), ("d", passed)];
        assert_eq!(found, all);
        assert!(steps.print(Instant::now()).is_err_and(|failure| failure.message == "1 of 5 steps failed"));
    }
}
