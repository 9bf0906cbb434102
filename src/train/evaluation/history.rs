//! Evaluations of a run so far: which was best, and whether anything still gets better.

use crate::event::EvaluationReport;

/// Evaluations with a score that must pass without a better one before a run has reached its plateau.
const PATIENCE: usize = 3;

/// Evaluations of a run, in the order of their steps. Part of its state.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct History(Vec<EvaluationReport>);

impl History {
    /// Adds `report`; returns it with the step of the best score so far.
    pub(super) fn add(&mut self, mut report: EvaluationReport) -> EvaluationReport {
        // A run that was killed after its last saved state comes by the same steps again.
        self.0.retain(|known| known.step < report.step);
        self.0.push(report.clone());
        report.best = self.best().map(|best| best.step);
        if let Some(last) = self.0.last_mut() {
            last.best = report.best;
        }
        report
    }

    /// Whether there is none yet.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Evaluation of the best score after a step; the earliest of several.
    pub(in crate::train) fn best(&self) -> Option<&EvaluationReport> {
        let scored = self.0.iter().filter(|report| report.step > 0);
        scored.fold(None, |best: Option<&EvaluationReport>, report| match (best.and_then(|b| b.score), report.score) {
            (_, None) => best,
            (Some(before), Some(score)) if score <= before => best,
            _ => Some(report),
        })
    }

    /// Last evaluation.
    pub(in crate::train) fn last(&self) -> Option<&EvaluationReport> {
        self.0.last()
    }
}
