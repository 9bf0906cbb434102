//! Evaluations of a training as lines of text.

use portray::EvaluationReport;

/// Bars of a sparkline, from the lowest value to the highest.
const BARS: [char; 8] =
    ['\u{2581}', '\u{2582}', '\u{2583}', '\u{2584}', '\u{2585}', '\u{2586}', '\u{2587}', '\u{2588}'];
/// Evaluations that a sparkline shows, the last ones.
const LONGEST: usize = 24;

/// Evaluations of a training so far.
#[derive(Default)]
pub struct Evaluations {
    scores: Vec<f64>,
    losses: Vec<f64>,
}

impl Evaluations {
    /// Adds one; returns the line that says it, with the curve so far.
    pub fn line(&mut self, report: &EvaluationReport) -> String {
        self.losses.push(report.loss);
        self.scores.extend(report.score);
        let curve = if report.score.is_some() { &self.scores } else { &self.losses };
        format!("{}  {}", sentence(report), sparkline(curve))
    }
}

/// What an evaluation measured: `step 300: score 0.52 = likeness 0.71 - drift 0.19, loss 0.0873 (best: step 300)`.
pub fn sentence(report: &EvaluationReport) -> String {
    let EvaluationReport { step, loss, drift, .. } = report;
    let photos = if report.held_out { "photos kept out" } else { "training photos" };
    let measured = match (report.score, report.likeness) {
        (Some(score), Some(likeness)) => {
            let prompt = report.prompt_fidelity.map_or_else(String::new, |own| format!("prompt {own:.3}, "));
            format!("score {score:.3} (likeness {likeness:.3}, {prompt}drift {drift:.3})")
        }
        _ => format!("drift {drift:.3}"),
    };
    let best = report.best.map_or_else(String::new, |best| format!(", best at step {best}"));
    format!("step {step}: {measured}, loss {loss:.4} on {photos}{best}")
}

/// A bar for each of the last `values`.
fn sparkline(values: &[f64]) -> String {
    let values = &values[values.len().saturating_sub(LONGEST)..];
    let (low, high) = values.iter().fold((f64::MAX, f64::MIN), |(low, high), &v| (low.min(v), high.max(v)));
    let bar = |&value: &f64| {
        let share = if high > low { (value - low) / (high - low) } else { 0.0 };
        BARS[((share * BARS.len() as f64) as usize).min(BARS.len() - 1)]
    };
    values.iter().map(bar).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_curve_grows_line_by_line() {
        let mut evaluations = Evaluations::default();
        let report = |step, score: Option<f64>| EvaluationReport {
            step,
            loss: 0.1,
            drift: 0.25,
            likeness: score.map(|score| score + 0.25),
            score,
            best: score.map(|_| step),
            ..EvaluationReport::default()
        };
        assert!(evaluations.line(&report(0, Some(0.0))).ends_with("best at step 0  \u{2581}"));
        evaluations.line(&report(10, None));
        let line = evaluations.line(&report(20, Some(0.5)));
        assert_eq!(
            line,
            "step 20: score 0.500 (likeness 0.750, drift 0.250), loss 0.1000 on training photos, best at step 20  \u{2581}\u{2588}"
        );
        assert_eq!(sparkline(&(0..100).map(f64::from).collect::<Vec<_>>()).chars().count(), LONGEST);
    }
}
