//! Words that may name a subject: those that were asked for, or rare short ones of the tokenizer.

use std::collections::HashSet;

use crate::error::{Error, Result};
use crate::io::ClipTokenizer;
use crate::pipeline::Model;
use crate::pipeline::prompt::{WELL_KNOWN, without_tags};

use super::IdentifyOptions;

/// Letters of a candidate: the paper takes at most three characters (Ruiz et al. 2022, section 3.2).
const LETTERS: usize = 3;
/// Rare words that are looked at for one that is listed.
const LOOKED_AT: usize = 3;
/// Ids of CLIP's tokenizer that are bytes, alone and at a word's end; each later one is a merge.
const BYTES: u32 = 512;

/// Token of a word.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct WordToken {
    /// Row of the text encoder's token embedding.
    pub id: u32,
    /// The tokenizer's text of it; `</w>` marks a word's end.
    pub text: String,
}

/// Word that is measured.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Candidate {
    pub word: String,
    /// Tokens of the first tokenizer.
    pub tokens: Vec<WordToken>,
}

/// Candidates of a job.
pub(super) struct Candidates {
    /// Measured in full.
    pub chosen: Vec<Candidate>,
    /// Rare words, rarest first, of which the ones with the least prior at a glance are chosen too.
    pub pool: Vec<Candidate>,
    /// Candidates in all that are measured in full.
    pub measured: usize,
    /// Words that are written otherwise and read alike.
    pub doubles: Vec<[String; 2]>,
    /// Words with capitals, as they are written and as the tokenizer reads them.
    pub folded: Vec<[String; 2]>,
}

impl Candidate {
    /// Reads `word` with `tokenizer`.
    ///
    /// # Errors
    /// [`Error::Usage`] if the word has no tokens or fills a prompt.
    pub fn new(word: &str, tokenizer: &ClipTokenizer) -> Result<Candidate> {
        let tokens = tokenizer.pieces(word)?;
        let refuse = |problem: String| Err(Error::value("words", format!("\"{word}\""), problem));
        if tokens.is_empty() {
            return refuse("has no tokens in this model's tokenizer; give a word with letters".into());
        }
        // Half of a prompt leaves room for the class.
        let most = tokenizer.length() / 2;
        if tokens.len() > most {
            return refuse(format!("has {} tokens, {most} are the most; give a shorter word", tokens.len()));
        }
        let tokens = tokens.into_iter().map(|(id, text)| WordToken { id, text }).collect();
        Ok(Candidate { word: word.to_owned(), tokens })
    }

    /// Number of the merge that made the word's one token, from 1: the larger, the rarer the word was in the text that the
    /// tokenizer was learned from. `None` of a word of several tokens, and of single characters.
    pub fn merge(&self) -> Option<u32> {
        match self.tokens.as_slice() {
            [token] if token.id >= BYTES => Some(token.id - BYTES + 1),
            _ => None,
        }
    }
}

impl Candidates {
    /// Finds the words of `job` for `model`.
    ///
    /// # Errors
    /// [`Error::Usage`] naming a word that cannot be measured.
    pub fn new(job: &IdentifyOptions, model: &Model) -> Result<Candidates> {
        let tokenizer = match model.texts.first() {
            Some(text) => &text.tokenizer,
            None => return Err(Error::op("identifier", "the model has no text encoder")),
        };
        if job.words.is_empty() {
            return from_vocabulary(job, tokenizer);
        }
        let (mut chosen, mut doubles, mut folded): (Vec<Candidate>, Vec<_>, Vec<_>) = Default::default();
        let class: Vec<String> = job.class_noun().split_whitespace().map(str::to_lowercase).collect();
        for word in &job.words {
            let refuse = |problem: &str| Err(Error::value("words", format!("\"{word}\""), problem));
            if class.contains(&word.trim().to_lowercase()) {
                return refuse("is the class itself; a word is needed that tells the subject from others of it");
            }
            if word.trim().starts_with("<|") {
                return refuse("is a mark of the tokenizer, not a word");
            }
            let mut candidate = Candidate::new(word.trim(), tokenizer)?;
            let lower = candidate.word.to_lowercase();
            let folds = lower != candidate.word && Candidate::new(&lower, tokenizer)?.tokens == candidate.tokens;
            match chosen.iter().find(|known| known.tokens == candidate.tokens) {
                Some(known) => doubles.push([candidate.word, known.word.clone()]),
                None => {
                    if folds {
                        folded.push([candidate.word, lower.clone()]);
                        candidate.word = lower;
                    }
                    chosen.push(candidate);
                }
            }
        }
        Ok(Candidates { measured: chosen.len(), chosen, pool: Vec::new(), doubles, folded })
    }
}

/// The well-known words that are one token, and the rarest words of [`LETTERS`] letters.
fn from_vocabulary(job: &IdentifyOptions, tokenizer: &ClipTokenizer) -> Result<Candidates> {
    let listed = job.listed();
    let taken: HashSet<String> = job.class_noun().split_whitespace().map(str::to_lowercase).collect();
    let known: Vec<Candidate> = WELL_KNOWN
        .iter()
        .filter(|word| !taken.contains(**word))
        .map(|word| Candidate::new(word, tokenizer))
        .collect::<Result<_>>()?;
    let chosen: Vec<Candidate> = known.into_iter().filter(|known| known.tokens.len() == 1).collect();
    let fits = |(_, word): &&(u32, String)| {
        word.len() == LETTERS && !taken.contains(word) && !WELL_KNOWN.contains(&word.as_str())
    };
    let words = tokenizer.whole_words();
    let rare = words.iter().rev().filter(fits).take(listed * LOOKED_AT);
    let pool = rare.map(|(_, word)| Candidate::new(word, tokenizer)).collect::<Result<Vec<_>>>()?;
    let measured = listed.max(chosen.len()).min(chosen.len() + pool.len());
    if measured == 0 {
        let problem = "has no short words of one token to choose from; name words to measure";
        return Err(Error::usage("words", format!("the model's tokenizer {problem}")));
    }
    Ok(Candidates { chosen, pool, measured, doubles: Vec::new(), folded: Vec::new() })
}

/// The rarest short words of a model's tokenizer but those in `except`, at most `count`: what a word that was chosen by
/// hand is compared with.
pub(crate) fn rare_words(model: &Model, count: usize, except: &[&str]) -> Vec<String> {
    let words = model.texts.first().map(|text| text.tokenizer.whole_words()).unwrap_or_default();
    let rare = words.into_iter().rev().map(|(_, word)| word);
    rare.filter(|word| word.len() == LETTERS && !except.contains(&word.as_str())).take(count).collect()
}

/// Prompts that a word is measured in: before the class, and alone.
pub(super) fn prompts(word: &str, class: &str) -> [String; 2] {
    [format!("a {word} {class}"), format!("a {word}")].map(|prompt| without_tags(&prompt).0)
}

#[cfg(test)]
#[cfg(feature = "bundled")]
mod tests {
    use super::*;
    use crate::ModelOptions;
    use crate::event::Flow;
    use crate::pipeline::check::said;

    fn bundled() -> Model {
        Model::open(&ModelOptions::default(), &[], &mut |_| Flow::Continue).unwrap()
    }

    fn of(words: &[&str]) -> IdentifyOptions {
        IdentifyOptions { words: words.iter().map(ToString::to_string).collect(), ..Default::default() }
    }

    #[test]
    fn the_vocabulary_gives_rare_words_of_one_token() {
        let model = bundled();
        let found = Candidates::new(&IdentifyOptions::default(), &model).unwrap();
        assert_eq!((found.measured, found.pool.len()), (20, 60));
        assert!(found.chosen.iter().any(|known| known.word == "sks"));
        for candidate in found.chosen.iter().chain(&found.pool) {
            assert_eq!(candidate.tokens.len(), 1, "{}", candidate.word);
        }
        assert!(found.pool.windows(2).all(|pair| pair[0].merge() > pair[1].merge()), "rarest first");
        let of_class = IdentifyOptions { class: "lun sks".into(), ..Default::default() };
        let found = Candidates::new(&of_class, &model).unwrap();
        let words: Vec<&str> = found.chosen.iter().chain(&found.pool).map(|c| c.word.as_str()).collect();
        assert!(!words.contains(&"lun") && !words.contains(&"sks"), "the class names no subject");
    }

    #[test]
    fn words_are_read_as_the_tokenizer_reads_them() {
        let model = bundled();
        let found = Candidates::new(&of(&["sks", "SKS", "mscds", "red"]), &model).unwrap();
        assert_eq!((found.doubles, found.folded), (vec![["SKS".to_owned(), "sks".to_owned()]], Vec::new()));
        let merges: Vec<Option<u32>> = found.chosen.iter().map(Candidate::merge).collect();
        assert_eq!(merges, [Some(48136 - 511), None, Some(736 - 511)]);
        assert!(found.chosen[1].tokens.len() > 1);
        let folded = Candidates::new(&of(&["Sks", "sks"]), &model).unwrap();
        assert_eq!((folded.chosen.len(), folded.chosen[0].word.as_str()), (1, "sks"));
        assert_eq!(folded.folded, [["Sks".to_owned(), "sks".to_owned()]]);
        let long = "x1".repeat(40);
        assert!(said(Candidates::new(&of(&[&long]), &model).map(drop)).contains("tokens, 38 are the most"));
    }
}
