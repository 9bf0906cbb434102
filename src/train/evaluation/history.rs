//! Evaluations of a run so far: which was best, and whether anything still gets better.

use crate::event::EvaluationReport;

/// Fewest scores that each of the two windows holds by which a plateau is found.
const WINDOW: usize = 3;
/// Fewest scores by which one is found.
pub(super) const PLATEAU_SCORES: usize = 2 * WINDOW;
/// Score that a run must have reached before it can have a plateau: before, it has hardly begun to learn.
const LEARNED: f64 = 0.1;
/// Drift above which a run has spoiled the model whatever it learned.
const SPOILED: f64 = 0.5;

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

    /// Evaluations with a score, of steps that were trained.
    fn scored(&self) -> Vec<(&EvaluationReport, f64)> {
        let trained = self.0.iter().filter(|report| report.step > 0);
        trained.filter_map(|report| report.score.map(|score| (report, score))).collect()
    }

    /// Evaluation of the best score after a step; the earliest of several.
    pub(in crate::low_level::train) fn best(&self) -> Option<&EvaluationReport> {
        let scored = self.scored();
        let best = scored.iter().rev().max_by(|(_, a), (_, b)| a.total_cmp(b));
        best.map(|(report, _)| *report)
    }

    /// For the user: when the score was best, with its parts, and what it was at last.
    pub(in crate::low_level::train) fn summary(&self) -> Option<String> {
        let (best, (last, score)) = (self.best()?, self.scored().last().copied()?);
        let EvaluationReport { step, likeness, prompt_fidelity, drift, .. } = best;
        let prompt = prompt_fidelity.map_or_else(String::new, |own| format!("prompt {own:.3}, "));
        let parts = format!("likeness {:.3}, {prompt}drift {drift:.3}", likeness.unwrap_or_default());
        let of = if last.step == *step { "the last step".to_owned() } else { format!("step {step}") };
        let then = if last.step == *step { String::new() } else { format!(" (step {}: {score:.3})", last.step) };
        let best = best.score.unwrap_or_default();
        let idle = if best > 0.0 { "" } else { "; the model before the training has 0, so nothing was gained" };
        Some(format!("the best score was that of {of}, {best:.3} ({parts}){then}{idle}"))
    }

    /// Whether the score has stopped rising: the last third of all scores (three at least) holds no new best, and its mean is
    /// not above that of as many before by more than their standard error.
    ///
    /// Scores of neighbouring checkpoints differ by more than their images' errors say, because single steps at a high
    /// learning rate move a LoRA to and fro. So windows of scores are compared, which grow with the run, and a single low or
    /// high score decides nothing.
    pub(super) fn is_plateau(&self) -> bool {
        let scored = self.scored();
        let window = WINDOW.max(scored.len() / 3);
        let Some(recent) = scored.len().checked_sub(window).filter(|before| *before >= window) else { return false };
        let (Some(best), Some((last, _))) = (self.best(), scored.last()) else { return false };
        if best.score.unwrap_or(0.0) < LEARNED && last.drift < SPOILED {
            return false;
        }
        let newest = scored.get(recent).is_some_and(|(first, _)| best.step >= first.step);
        let moments = |scores: &[(&EvaluationReport, f64)]| {
            let n = scores.len() as f64;
            let mean = scores.iter().map(|(_, score)| score).sum::<f64>() / n;
            let squares: f64 = scores.iter().map(|(_, score)| (score - mean).powi(2)).sum();
            (mean, squares / (n * (n - 1.0)))
        };
        let (before, after) = (moments(&scored[recent - window..recent]), moments(&scored[recent..]));
        !newest && after.0 - before.0 <= (before.1 + after.1).sqrt()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Step at which a run with these scores, one every 100 steps, is on its plateau.
    fn plateau(scores: &[f64], drift: f64) -> Option<usize> {
        let mut history = History::default();
        history.add(EvaluationReport { score: Some(0.0), ..EvaluationReport::default() });
        scores.iter().enumerate().find_map(|(i, &score)| {
            let step = 100 * (i + 1);
            history.add(EvaluationReport { step, score: Some(score), drift, ..EvaluationReport::default() });
            history.is_plateau().then_some(step)
        })
    }

    /// Scores of `portray train --images assets/subjects/cat --prompt "a mscds cat" --steps 1500 --rank 8 --lr 1e-3
    /// --evaluate-every 100` on lavapipe.
    const MEASURED: [f64; 14] =
        [0.278, 0.254, 0.150, 0.235, 0.308, 0.421, 0.418, 0.350, 0.356, 0.348, 0.381, 0.137, 0.298, 0.369];

    #[test]
    fn a_run_that_gets_no_better_is_found() {
        assert_eq!(plateau(&MEASURED, 0.2), Some(900));
        let noisy = |i: usize| 0.4 + if i.is_multiple_of(2) { 0.05 } else { -0.05 };
        assert_eq!(plateau(&(0..12).map(noisy).collect::<Vec<_>>(), 0.2), Some(600));
        // It overfits: the score falls.
        assert!(plateau(&[0.2, 0.4, 0.5, 0.45, 0.4, 0.3], 0.3).is_some());
    }

    #[test]
    fn a_run_that_still_learns_is_not() {
        let rising = |noise: f64| (0..15).map(move |i| 0.04 * i as f64 + if i % 2 == 0 { noise } else { -noise });
        for noise in [0.0, 0.02, 0.05] {
            assert_eq!(plateau(&rising(noise).collect::<Vec<_>>(), 0.2), None, "{noise}");
        }
        // Nothing is learned yet, or the drift comes first.
        assert_eq!(plateau(&[0.0; 15], 0.01), None);
        assert_eq!(plateau(&(0..15).map(|i| -0.01 * i as f64).collect::<Vec<_>>(), 0.15), None);
        assert!(plateau(&[-0.6; 15], 0.7).is_some(), "spoiled");
        assert_eq!(plateau(&MEASURED[..5], 0.2), None, "too few to say");
    }

    #[test]
    fn the_best_is_the_first_of_the_highest_scores() {
        let mut history = History::default();
        let report = |step, score| EvaluationReport { step, score, ..EvaluationReport::default() };
        assert_eq!(history.add(report(0, Some(0.0))).best, None, "nothing is trained yet");
        assert_eq!(history.add(report(1, Some(-0.5))).best, Some(1));
        assert_eq!(history.add(report(2, Some(0.5))).best, Some(2));
        assert_eq!(history.add(report(3, None)).best, Some(2));
        assert_eq!(history.add(report(4, Some(0.5))).best, Some(2));
        let said = history.summary().unwrap();
        assert!(said.contains("step 2, 0.500 (likeness") && said.ends_with("(step 4: 0.500)"), "{said}");
        // The same steps again, after a resume.
        assert_eq!(history.add(report(2, Some(0.1))).best, Some(2));
        assert!(history.summary().unwrap().contains("the last step, 0.100"));
        let mut worse = History::default();
        worse.add(report(1, Some(-0.5)));
        assert!(worse.summary().unwrap().ends_with("nothing was gained"));
        let json = serde_json::to_string(&history).unwrap();
        assert_eq!(serde_json::from_str::<History>(&json).unwrap(), history);
    }
}
