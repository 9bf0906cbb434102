//! Refusals of options before anything is opened.

use crate::error::{Error, Result, message, option};
use crate::pipeline::check::check_loras;
use crate::pipeline::prompt::without_tags;

use super::IdentifyOptions;
use super::options::{MOST_SEEDS, MOST_WORDS};

impl IdentifyOptions {
    /// Refuses options that make no sense whatever the model is.
    pub(super) fn check(&self) -> Result<()> {
        if self.class_noun().is_empty() {
            let problem = message![option("class"), ": is empty; name what the subject is, such as dog"];
            return Err(Error::usage("class", problem));
        }
        if self.words.len() > MOST_WORDS {
            let problem = message![option("words"), format!(": {MOST_WORDS} words are the most of one run")];
            return Err(Error::usage("words", problem));
        }
        if let Some(count) = self.count.filter(|count| !(1..=MOST_WORDS).contains(count)) {
            return Err(Error::value("count", count, format!("must lie between 1 and {MOST_WORDS}")));
        }
        if !(1..=MOST_SEEDS).contains(&self.seeds) {
            return Err(Error::value("seeds", self.seeds, format!("must lie between 1 and {MOST_SEEDS}")));
        }
        if self.steps == Some(0) {
            return Err(Error::value("steps", 0, "must be 1 or more"));
        }
        check_loras(&self.loras)?;
        self.words.iter().try_for_each(|word| check_word(word.trim()))
    }
}

/// Refuses what is no single word.
fn check_word(word: &str) -> Result<()> {
    let problem = if word.is_empty() {
        "is empty; separate words by one comma"
    } else if word.chars().any(char::is_whitespace) {
        "is several words; separate words by commas, and measure one at a time"
    } else if word.chars().any(char::is_control) {
        "holds control characters"
    } else if without_tags(word).0.trim() != word {
        "is a tag of other programs, which loads nothing here and is no word"
    } else if !word.chars().any(char::is_alphanumeric) {
        "is punctuation, which cannot name a subject; give a word with letters"
    } else {
        return Ok(());
    };
    Err(Error::value("words", format!("\"{}\"", word.escape_debug()), problem))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::check::said;

    fn of(words: &[&str]) -> IdentifyOptions {
        IdentifyOptions { words: words.iter().map(ToString::to_string).collect(), ..Default::default() }
    }

    #[test]
    fn words_are_single_words_with_letters() {
        assert!(of(&["sks", "<zorp>", "R2D2", "größe", " padded "]).check().is_ok());
        for (word, problem) in [
            ("", "empty"),
            ("  ", "empty"),
            ("a dog", "several words"),
            ("a\tb", "several words"),
            ("a\u{7}b", "control"),
            ("<lora:x:1>", "tag"),
            ("!?", "punctuation"),
        ] {
            let error = said(of(&["sks", word]).check());
            assert!(error.starts_with("words ") && error.contains(problem), "{word:?}: {error}");
        }
        let many = vec!["sks"; MOST_WORDS + 1];
        assert!(said(of(&many).check()).contains("200 words"));
    }

    #[test]
    fn numbers_have_limits_and_a_class_has_letters() {
        let base = IdentifyOptions::default;
        assert!(base().check().is_ok());
        assert!(said(IdentifyOptions { class: "  ".into(), ..base() }.check()).contains("class: is empty"));
        for count in [0, MOST_WORDS + 1, usize::MAX] {
            assert!(said(IdentifyOptions { count: Some(count), ..base() }.check()).starts_with("count "));
        }
        for seeds in [0, MOST_SEEDS + 1] {
            assert!(said(IdentifyOptions { seeds, ..base() }.check()).starts_with("seeds "));
        }
        assert!(said(IdentifyOptions { steps: Some(0), ..base() }.check()).starts_with("steps 0"));
        let loras = vec![crate::pipeline::LoraArg { path: "x".into(), scale: f64::INFINITY }];
        assert!(said(IdentifyOptions { loras, ..base() }.check()).contains("lora"));
    }

    #[test]
    fn a_class_is_named_without_its_article() {
        let noun = |class: &str| IdentifyOptions { class: class.into(), ..Default::default() }.class_noun().to_owned();
        for (class, says) in [("a dog", "dog"), ("An  old owl ", "old owl"), ("the sea", "sea"), ("ant", "ant")] {
            assert_eq!(noun(class), says);
        }
    }
}
