//! `study.md`: the table of a study, and what each choice did.

use super::super::super::args::DemoArgs;
use super::super::super::table;
use super::super::recipe::{LEARNING_RATE, RANK};
use super::super::scenes::Phrases;
use super::figures::{FIGURES, Outcome, Values};

/// Standard errors from which on a difference is called one.
const CLEAR: f64 = 2.0;

/// Writes the study as Markdown.
pub fn table(args: &DemoArgs, phrases: &Phrases, outcomes: &[Outcome], times: &[(String, f64)]) -> String {
    let mut text = format!(
        "# What each choice does: “{}”\n\n\
         Each row changes one thing of the baseline. {} seeds each, {} steps of a rank {RANK} LoRA at learning rate \
         {LEARNING_RATE}. Mean ± standard error over the seeds, by the built-in measure, which sees colours alone.\n\n",
        phrases.instance, args.seeds, args.steps
    );
    let titles: Vec<&str> = FIGURES.iter().map(|(_, title, _)| *title).collect();
    text += &format!("| | {} |\n|---|{}\n", titles.join(" | "), "---|".repeat(titles.len()));
    if let Some(first) = outcomes.first() {
        let cells = first.base.iter().map(|value| value.map_or("-".into(), |value| format!("{value:.3}")));
        text += &row("base model", cells);
    }
    for outcome in outcomes {
        text += &row(&outcome.variation.title, outcome.values.iter().map(|values| number(values, "")));
    }
    text += "\n";
    for (_, title, meaning) in FIGURES {
        text += &format!("- {title}: {meaning}.\n");
    }
    text += &differences(outcomes);
    let total: f64 = times.iter().map(|(_, seconds)| seconds).sum();
    text += &format!("\nThis call worked for {}. Every LoRA and image is in this folder.\n", table::seconds(total));
    text
}

/// Differences from the baseline, seed by seed; another subject's figures are of other photos and stand for themselves.
fn differences(outcomes: &[Outcome]) -> String {
    let Some((baseline, rest)) = outcomes.split_first() else { return String::new() };
    let mut text = format!(
        "\n## Against the baseline, seed by seed\n\nBold: more than {CLEAR} standard errors from none.\n\n| | {} |\n|---|{}\n",
        FIGURES.map(|(_, title, _)| title).join(" | "),
        "---|".repeat(FIGURES.len())
    );
    for outcome in rest.iter().filter(|outcome| outcome.variation.subject == baseline.variation.subject) {
        let change = |(values, before): (&Values, &Values)| {
            let difference = values.minus(before);
            let (mean, error) = difference.estimate();
            let shown = number(&difference, "+");
            if error.is_some_and(|error| mean.abs() > CLEAR * error) { format!("**{shown}**") } else { shown }
        };
        text += &row(&outcome.variation.title, outcome.values.iter().zip(&baseline.values).map(change));
    }
    text
}

/// Mean and standard error, with `plus` in front of positive means.
fn number(values: &Values, plus: &str) -> String {
    let (mean, error) = values.estimate();
    let sign = if mean >= 0.0 { plus } else { "" };
    format!("{sign}{mean:.3}") + &error.map_or(String::new(), |error| format!(" ± {error:.3}"))
}

fn row(title: &str, cells: impl Iterator<Item = String>) -> String {
    // A bar in a subject's prompt would end its cell.
    format!("| {} | {} |\n", title.replace('|', "\\|"), cells.collect::<Vec<_>>().join(" | "))
}
