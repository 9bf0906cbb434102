//! What the table and the report say of a word.

use portray::Identifiers;
use portray::low_level::identifier::{IdentifiedWord, Near};

/// `rifle 0.42, gun 0.40`.
pub fn listed(near: &[Near]) -> String {
    near.iter().map(|near| format!("{} {:.2}", near.word, near.likeness)).collect::<Vec<_>>().join(", ")
}

/// How rare the word is to the tokenizer, in a cell.
pub fn rarity(word: &IdentifiedWord) -> String {
    match word.merge {
        Some(merge) => merge.to_string(),
        None => format!("{} tokens", word.tokens.len()),
    }
}

/// Percent, with the standard error where there is one.
pub fn percent(share: f64, error: Option<f64>) -> String {
    let error = error.map_or_else(String::new, |error| format!(" ±{:.0}", 100.0 * error));
    format!("{:.0}{error} %", 100.0 * share)
}

/// Sentences on what the columns say.
pub fn legend(found: &Identifiers) -> Vec<String> {
    let Identifiers { class, merges, seeds, timesteps, .. } = found;
    let steps: Vec<String> = timesteps.iter().map(|t| format!("{t:.0}")).collect();
    let noises = if *seeds == 1 { "1 noise".into() } else { format!("{seeds} noises") };
    let best = found.words.first().map(|word| format!("best: {}", word.word));
    best.into_iter()
        .chain([
            format!(
                "prior: how much a word changes what is predicted, in percent of what \"a {class}\" changes: both columns as one"
            ),
            format!("(timesteps {}, {noises} each; ± is the standard error over noises)", steps.join(", ")),
            format!(
                "merge: the word's number among the tokenizer's {merges} merges: the larger, the rarer in the text that it was \
                 learned from; it says nothing of images"
            ),
            "looks like: things whose predictions change as \"a WORD\" does, by cosine, most alike first".into(),
        ])
        .collect()
}
