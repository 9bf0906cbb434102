//! Nearest words in the space of a model's text encoders.
//!
//! Token embeddings of all common words name some neighbours of each word, cheaply. Those are then encoded in the prompt
//! "a WORD" and compared by the states that the denoiser reads at the prompt's end, with the LoRAs that are in play. What a
//! word is compared with depends on that word alone, not on others that are searched for at the same time.

use std::collections::{BTreeMap, BTreeSet};

use crate::error::Result;
use crate::gpu::{Gpu, Pool};
use crate::pipeline::Model;
use crate::pipeline::encode::Destination;
use crate::pipeline::events::EventSink;
use crate::pipeline::hidden::HostHidden;
use crate::pipeline::planning::Planning;
use crate::pipeline::text::{TextParts, TextSpec, Tokens};

use super::candidates::Candidate;
use super::identified::Near;
use super::prior::squared;
use super::things::THINGS;

/// Ids of the words that may be neighbours: the first merges of CLIP's tokenizer are the commonest words.
const COMMON: std::ops::Range<u32> = 512..12_000;
/// Letters of the shortest neighbour: shorter ones are mostly pieces of words.
const LETTERS: usize = 3;
/// Neighbours of each word by token embeddings that are encoded.
const SHORTLIST: usize = 12;
/// Neighbours that are told.
const TOLD: usize = 4;

/// Words and their vectors, each of length 1.
type Vectors = BTreeMap<String, Vec<f32>>;

/// Plans of a search.
pub(super) struct Neighbours {
    /// All words that are encoded, in order.
    words: Vec<String>,
    /// Words that each candidate is compared with, beside [`THINGS`].
    shortlists: Vec<BTreeSet<String>>,
    tokens: Vec<Tokens>,
    pub text: TextParts,
}

impl Neighbours {
    /// Finds words near each of `candidates` by token embeddings, and plans to encode them.
    ///
    /// # Errors
    /// [`Error::File`](crate::Error::File) if a tensor cannot be read.
    pub async fn new(model: &Model, planning: Planning<'_>, candidates: &[&Candidate]) -> Result<Neighbours> {
        let mut shortlists = vec![BTreeSet::new(); candidates.len()];
        for encoder in 0..model.texts.len() {
            for (all, own) in shortlists.iter_mut().zip(shortlist(model, encoder, candidates)?) {
                all.extend(own);
            }
            planning.breathe().await;
        }
        let mut words: BTreeSet<String> = THINGS.iter().map(ToString::to_string).collect();
        words.extend(candidates.iter().map(|candidate| candidate.word.clone()));
        words.extend(shortlists.iter().flatten().cloned());
        let words: Vec<String> = words.into_iter().collect();
        let mut silent = |_| crate::event::Flow::Continue;
        let tokens = words.iter().map(|word| model.tokens(&format!("a {word}"), &mut silent)).collect::<Result<_>>()?;
        let settings = model.settings(planning.caps, &model.ranks());
        let text = model.plan_texts(&settings, planning, TextSpec::plain(words.len(), model.prompt_tokens())).await?;
        Ok(Neighbours { words, shortlists, tokens, text })
    }

    /// Encodes all words and returns the nearest of each of `candidates`, by their words.
    pub async fn find(
        &self,
        gpu: &Gpu,
        model: &Model,
        pool: &mut Pool,
        candidates: &[&Candidate],
        events: &mut EventSink<'_>,
    ) -> Result<BTreeMap<String, Vec<Near>>> {
        let mut hidden = HostHidden::new(model.hidden_shape(model.prompt_tokens()), self.words.len());
        let to = Destination::Host(&mut hidden);
        events.until_stopped(gpu, model.encode_prompts(gpu, &self.text, pool, &self.tokens, to)).await?;
        let mut vectors = vec![Vec::new(); self.words.len()];
        let mut columns = 0;
        for text in &model.texts {
            let width = text.config.hidden_size;
            let states = self.ends(model, &hidden.hidden, columns..columns + width);
            columns += width;
            for (vector, state) in vectors.iter_mut().zip(self.centered(states)) {
                vector.extend(state);
            }
        }
        let vectors: Vectors = self.words.iter().cloned().zip(vectors.into_iter().map(unit)).collect();
        let near = |(candidate, shortlist): (&&Candidate, &BTreeSet<String>)| {
            let vector = vectors.get(&candidate.word)?;
            let is_compared = |word: &str| word != candidate.word && (shortlist.contains(word) || is_thing(word));
            let others = vectors.iter().filter(|(word, _)| is_compared(word));
            Some((candidate.word.clone(), nearest(vector, others, TOLD)))
        };
        Ok(candidates.iter().zip(&self.shortlists).filter_map(near).collect())
    }

    /// Takes the mean of the [`THINGS`] from each of `rows`, which share most of it: every prompt's end looks alike before
    /// that.
    fn centered(&self, rows: Vec<Vec<f32>>) -> Vec<Vec<f32>> {
        let width = rows.first().map_or(0, Vec::len);
        let of_things: Vec<&[f32]> =
            self.words.iter().zip(&rows).filter(|(word, _)| is_thing(word)).map(|(_, row)| row.as_slice()).collect();
        without(&mean_of(of_things.into_iter(), width), &rows)
    }

    /// These columns of `hidden [prompts, tokens, width]` at the end of every prompt.
    fn ends(&self, model: &Model, hidden: &[f32], columns: std::ops::Range<usize>) -> Vec<Vec<f32>> {
        let (tokens, width) = (model.prompt_tokens(), model.context_width());
        let end = |ids: &Tokens| {
            let end = model.texts.first().map(|text| text.end());
            let behind_start = ids.first().map(|ids| ids.iter().skip(1));
            behind_start.and_then(|mut ids| ids.position(|id| Some(*id) == end)).map_or(0, |at| at + 1)
        };
        let prompts = self.tokens.iter().zip(hidden.chunks_exact((tokens * width).max(1)));
        prompts.map(|(ids, states)| states[end(ids) * width..][columns.clone()].to_vec()).collect()
    }
}

/// Returns whether `word` is one of [`THINGS`].
fn is_thing(word: &str) -> bool {
    THINGS.contains(&word)
}

/// The common words whose token embeddings in encoder number `encoder` are nearest to that of each of `candidates`.
fn shortlist(model: &Model, encoder: usize, candidates: &[&Candidate]) -> Result<Vec<BTreeSet<String>>> {
    let text = &model.texts[encoder];
    let [rows, width] = [text.config.vocab_size, text.config.hidden_size];
    let weights = model.checkpoint.part(text.place.part)?;
    let table = weights.get_shaped("text_model.embeddings.token_embedding.weight", &[rows, width])?;
    let read = |first: usize, count: usize| {
        let some = table.rows(first, count).ok_or_else(|| table.error(format!("has no row {first}")))?;
        some.to_f32()
    };
    let common = COMMON.start as usize..(COMMON.end as usize).min(rows);
    if common.is_empty() {
        return Ok(vec![BTreeSet::new(); candidates.len()]);
    }
    let values = read(common.start, common.len())?;
    let mean = mean_of(values.chunks_exact(width), width);
    let embedding = |row: &[f32]| unit(row.iter().zip(&mean).map(|(x, mean)| x - mean).collect());
    let words = text.tokenizer.whole_words().into_iter();
    let known = words.filter(|(id, word)| common.contains(&(*id as usize)) && word.len() >= LETTERS);
    let known: Vectors =
        known.map(|(id, word)| (word, embedding(&values[(id as usize - common.start) * width..][..width]))).collect();
    let mut near = Vec::with_capacity(candidates.len());
    for candidate in candidates {
        let mut rows = Vec::with_capacity(candidate.tokens.len());
        for (id, _) in text.tokenizer.pieces(&candidate.word)? {
            rows.extend(read(id as usize, 1)?);
        }
        let vector = embedding(&mean_of(rows.chunks_exact(width), width));
        let others = known.iter().filter(|(word, _)| **word != candidate.word);
        near.push(nearest(&vector, others, SHORTLIST).into_iter().map(|near| near.word).collect());
    }
    Ok(near)
}

/// The `count` of `others` nearest to `vector`, by their cosine.
fn nearest<'v>(vector: &[f32], others: impl Iterator<Item = (&'v String, &'v Vec<f32>)>, count: usize) -> Vec<Near> {
    let cosine = |other: &[f32]| vector.iter().zip(other).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
    let mut near: Vec<Near> =
        others.map(|(word, other)| Near { word: word.clone(), likeness: cosine(other) }).collect();
    near.sort_by(|a, b| b.likeness.total_cmp(&a.likeness));
    near.truncate(count);
    near
}

fn mean_of<'v>(rows: impl ExactSizeIterator<Item = &'v [f32]>, width: usize) -> Vec<f32> {
    let share = 1.0 / rows.len().max(1) as f32;
    let mut mean = vec![0.0; width];
    for row in rows {
        mean.iter_mut().zip(row).for_each(|(mean, x)| *mean += share * x);
    }
    mean
}

/// Each of `rows` less `mean`, at length 1.
fn without(mean: &[f32], rows: &[Vec<f32>]) -> Vec<Vec<f32>> {
    rows.iter().map(|row| unit(row.iter().zip(mean).map(|(x, mean)| x - mean).collect())).collect()
}

/// `vector` at length 1.
fn unit(mut vector: Vec<f32>) -> Vec<f32> {
    let length = squared(&vector).sqrt().max(f64::from(f32::MIN_POSITIVE));
    vector.iter_mut().for_each(|x| *x = (f64::from(*x) / length) as f32);
    vector
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_come_first_and_alone() {
        let vectors: Vectors = [("far", [0.0, 1.0]), ("near", [0.8, 0.6]), ("same", [1.0, 0.0])]
            .map(|(word, vector)| (word.to_owned(), vector.to_vec()))
            .into();
        let near = nearest(&[1.0, 0.0], vectors.iter(), 2);
        assert_eq!(near.iter().map(|near| near.word.as_str()).collect::<Vec<_>>(), ["same", "near"]);
        assert!((near[1].likeness - 0.8).abs() < 1e-6);
    }

    #[test]
    fn what_all_rows_share_is_taken_away() {
        let rows = without(&[10.0, 5.0], &[vec![11.0, 5.0], vec![9.0, 5.0]]);
        assert_eq!(rows, [[1.0, 0.0], [-1.0, 0.0]]);
        assert_eq!(unit(vec![0.0, 0.0]), [0.0, 0.0]);
    }
}
