//! Prior of words: by how much they change what a model predicts.

use crate::diffusion::Trajectory;
use crate::error::Result;
use crate::pipeline::events::EventSink;

use super::identified::{Near, Prior};
use super::predict::{FOLLOWED, Noised, Predictor, TIMESTEPS};

/// Numbers of the prompts in the encoded ones.
#[derive(Clone, Copy)]
pub(super) struct PromptNumbers {
    pub empty: usize,
    pub class: usize,
}

/// Latents on which words are measured, by timestep and seed, with what the words' effects are shares of.
struct Ground {
    /// On the way of the prompt that words are added to, with its predictions.
    noised: Vec<Vec<Noised>>,
    /// Sum of squares of the class's effect there, by timestep and seed.
    class: Vec<Vec<f64>>,
}

/// Measuring of words with a denoiser.
pub(super) struct Measuring<'a, 'b> {
    predictor: &'b mut Predictor<'a>,
    /// On the way of the class prompt.
    beside: Ground,
    /// On the way of the empty prompt.
    alone: Ground,
}

/// Predictions of a job that looks at `pool` words at a glance, measures `words` and compares them with `things`.
pub(super) fn predictions(seeds: usize, [pool, words, things]: [usize; 3]) -> usize {
    2 * seeds * (FOLLOWED + TIMESTEPS) + pool + TIMESTEPS * (2 * seeds * words + things)
}

impl<'a, 'b> Measuring<'a, 'b> {
    /// Finds the latents of both prompts, from noise of each of `seeds`. (On the noise itself both ways predict the same two
    /// things: of twelve predictions a seed, two are made again.)
    pub async fn new(
        predictor: &'b mut Predictor<'a>,
        trajectory: &Trajectory,
        at: PromptNumbers,
        seeds: &[u64],
        events: &mut EventSink<'_>,
    ) -> Result<Measuring<'a, 'b>> {
        let mut ground = Vec::with_capacity(2);
        for [own, other] in [[at.class, at.empty], [at.empty, at.class]] {
            let noised = predictor.follow(trajectory, own, seeds, events).await?;
            let mut class = Vec::with_capacity(noised.len());
            for by_seed in &noised {
                class.push(changes(predictor, by_seed, other, events).await?);
            }
            ground.push(Ground { noised, class });
        }
        let (alone, beside) = (ground.pop(), ground.pop());
        let none = || Ground { noised: Vec::new(), class: Vec::new() };
        Ok(Measuring { predictor, beside: beside.unwrap_or_else(none), alone: alone.unwrap_or_else(none) })
    }

    /// The timesteps that are looked at.
    pub fn timesteps(&self) -> Vec<f64> {
        self.alone.noised.iter().filter_map(|by_seed| by_seed.first()).map(|noised| noised.timestep).collect()
    }

    /// Looks at words, by the numbers of their prompts "a WORD CLASS" and "a WORD", on one latent each, and returns the
    /// scores.
    pub async fn glance(&mut self, words: &[[usize; 2]], events: &mut EventSink<'_>) -> Result<Vec<f64>> {
        let mut seen = vec![[0.0; 2]; words.len()];
        for (which, ground) in [&self.beside, &self.alone].into_iter().enumerate() {
            let at = TIMESTEPS / 2;
            let (Some(noised), Some(class)) = (ground.noised.get(at).and_then(|n| n.first()), ground.class.get(at))
            else {
                continue;
            };
            let asked: Vec<(usize, &Noised)> = words.iter().map(|prompts| (prompts[which], noised)).collect();
            let predicted = self.predictor.predict(&asked, events).await?;
            for (seen, prediction) in seen.iter_mut().zip(predicted) {
                let change = squared(&difference(&prediction, &noised.prediction));
                seen[which] = shares_of(&[vec![change]], &[class[..1].to_vec()])[0];
            }
        }
        Ok(seen.into_iter().map(|[beside, alone]| score(beside, alone)).collect())
    }

    /// Measures the prompts `beside` ("a WORD CLASS") and `alone` ("a WORD") of a word, and returns the changes that the
    /// second makes on the first seed, one for each timestep.
    pub async fn measure(
        &mut self,
        [beside, alone]: [usize; 2],
        events: &mut EventSink<'_>,
    ) -> Result<(Prior, Vec<Vec<f32>>)> {
        let (mut shares, mut first) = (Vec::with_capacity(2), Vec::new());
        for (ground, prompt) in [(&self.beside, beside), (&self.alone, alone)] {
            first.clear();
            let mut by_timestep = Vec::with_capacity(TIMESTEPS);
            for by_seed in &ground.noised {
                let asked: Vec<(usize, &Noised)> = by_seed.iter().map(|noised| (prompt, noised)).collect();
                let predicted = self.predictor.predict(&asked, events).await?;
                let change = |(prediction, noised): (&Vec<f32>, &Noised)| difference(prediction, &noised.prediction);
                let mut changes: Vec<Vec<f32>> = predicted.iter().zip(by_seed).map(change).collect();
                by_timestep.push(changes.iter().map(|change| squared(change)).collect::<Vec<f64>>());
                first.push(changes.swap_remove(0));
            }
            shares.push(shares_of(&by_timestep, &ground.class));
        }
        Ok((prior(&shares[0], &shares[1]), first))
    }

    /// Returns the changes that prompts "a THING" make on the first seed of the empty prompt, by prompt and timestep.
    pub async fn changes_alone(&mut self, prompts: &[usize], events: &mut EventSink<'_>) -> Result<Vec<Vec<Vec<f32>>>> {
        let mut changes = vec![Vec::with_capacity(TIMESTEPS); prompts.len()];
        for noised in self.alone.noised.iter().filter_map(|by_seed| by_seed.first()) {
            let asked: Vec<(usize, &Noised)> = prompts.iter().map(|prompt| (*prompt, noised)).collect();
            let predicted = self.predictor.predict(&asked, events).await?;
            for (changes, prediction) in changes.iter_mut().zip(predicted) {
                changes.push(difference(&prediction, &noised.prediction));
            }
        }
        Ok(changes)
    }
}

/// Sum of squares by which the predictions of prompt number `prompt` differ from those that led to each of `noised`.
async fn changes(
    predictor: &mut Predictor<'_>,
    noised: &[Noised],
    prompt: usize,
    events: &mut EventSink<'_>,
) -> Result<Vec<f64>> {
    let asked: Vec<(usize, &Noised)> = noised.iter().map(|noised| (prompt, noised)).collect();
    let predicted = predictor.predict(&asked, events).await?;
    let change = |(prediction, noised): (&Vec<f32>, &Noised)| squared(&difference(prediction, &noised.prediction));
    Ok(predicted.iter().zip(noised).map(change).collect())
}

fn difference(prediction: &[f32], before: &[f32]) -> Vec<f32> {
    prediction.iter().zip(before).map(|(a, b)| a - b).collect()
}

/// Sum of squares.
pub(super) fn squared(values: &[f32]) -> f64 {
    values.iter().map(|x| f64::from(*x).powi(2)).sum()
}

/// Shares of a word's effect in the class's for each seed, mean over timesteps. A share does not depend on whether a model
/// predicts noise, velocity or the image: at one timestep the three differ by a factor.
fn shares_of(word: &[Vec<f64>], class: &[Vec<f64>]) -> Vec<f64> {
    let seeds = word.first().map_or(0, Vec::len);
    let share = |at: usize, seed: usize| (word[at][seed] / class[at][seed].max(f64::MIN_POSITIVE)).sqrt();
    let mean = |seed: usize| (0..word.len()).map(|at| share(at, seed)).sum::<f64>() / word.len().max(1) as f64;
    (0..seeds).map(mean).collect()
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

/// Both shares as one: the root of their mean square, in which the share beside the class counts three times, for that is
/// the prompt of a training.
fn score(beside: f64, alone: f64) -> f64 {
    ((3.0 * beside * beside + alone * alone) / 4.0).sqrt()
}

/// The prior of a word by its shares for each seed.
fn prior(beside: &[f64], alone: &[f64]) -> Prior {
    let scores: Vec<f64> = beside.iter().zip(alone).map(|(beside, alone)| score(*beside, *alone)).collect();
    let (center, n) = (mean(&scores), scores.len() as f64);
    let variance = scores.iter().map(|x| (x - center).powi(2)).sum::<f64>() / (n - 1.0);
    let error = (scores.len() > 1).then(|| (variance / n).sqrt());
    Prior { with_class: mean(beside), alone: mean(alone), score: center, error }
}

/// The `count` of `others` whose changes point most where `change` does, of changes by timestep. All are taken from `base`,
/// which any word makes, and weigh the same at every timestep.
pub(super) fn most_alike(
    change: &[Vec<f32>],
    others: &[(&str, &Vec<Vec<f32>>)],
    base: &[Vec<f32>],
    count: usize,
) -> Vec<Near> {
    let scales: Vec<f64> = base.iter().map(|base| squared(base).max(f64::MIN_POSITIVE).recip()).collect();
    let dot = |a: &[Vec<f32>], b: &[Vec<f32>]| -> f64 {
        let at = |t: usize| {
            let pairs = a[t].iter().zip(&b[t]).zip(&base[t]);
            scales[t] * pairs.map(|((x, y), z)| f64::from(x - z) * f64::from(y - z)).sum::<f64>()
        };
        (0..base.len()).map(at).sum()
    };
    let own = dot(change, change);
    let likeness = |other: &[Vec<f32>]| dot(change, other) / (own * dot(other, other)).sqrt().max(f64::MIN_POSITIVE);
    let mut near: Vec<Near> =
        others.iter().map(|(word, other)| Near { word: (*word).into(), likeness: likeness(other) }).collect();
    near.sort_by(|a, b| b.likeness.total_cmp(&a.likeness));
    near.truncate(count);
    near
}

/// Mean of `changes`, by timestep.
pub(super) fn mean_change(changes: &[Vec<Vec<f32>>]) -> Vec<Vec<f32>> {
    let Some(first) = changes.first() else { return Vec::new() };
    let share = 1.0 / changes.len() as f32;
    let mut mean: Vec<Vec<f32>> = first.iter().map(|values| vec![0.0; values.len()]).collect();
    for change in changes {
        for (mean, values) in mean.iter_mut().zip(change) {
            mean.iter_mut().zip(values).for_each(|(mean, value)| *mean += share * value);
        }
    }
    mean
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_the_roots_of_the_squares() {
        // Two timesteps, two seeds: shares of 1/2 and 1, and of 2 and 0.
        let shares = shares_of(&[vec![1.0, 16.0], vec![9.0, 0.0]], &[vec![4.0, 4.0], vec![9.0, 9.0]]);
        assert_eq!(shares, [0.75, 1.0]);
        let of_nothing = shares_of(&[vec![0.0]], &[vec![0.0]]);
        assert_eq!(of_nothing, [0.0]);
    }

    #[test]
    fn the_error_is_that_of_the_mean() {
        let two = prior(&[0.3, 0.6], &[0.3, 0.6]);
        assert!((two.with_class - 0.45).abs() < 1e-12 && (two.alone - 0.45).abs() < 1e-12);
        assert!((two.score - 0.45).abs() < 1e-12 && (two.error.unwrap() - 0.15).abs() < 1e-12, "{two:?}");
        assert!((score(1.0, 0.0).powi(2) - 0.75).abs() < 1e-12 && score(1.0, 0.0) > score(0.0, 1.0));
        assert_eq!(prior(&[0.5], &[0.5]).error, None);
    }

    #[test]
    fn likeness_is_of_what_words_do_not_share() {
        let base = vec![vec![10.0, 10.0]];
        let [own, same, other] = [[11.0, 10.0], [15.0, 10.0], [10.0, 12.0]].map(|change| vec![change.to_vec()]);
        let near = most_alike(&own, &[("other", &other), ("same", &same)], &base, 2);
        assert_eq!((near[0].word.as_str(), near[1].word.as_str()), ("same", "other"));
        assert!((near[0].likeness - 1.0).abs() < 1e-9 && near[1].likeness.abs() < 1e-9);
        assert_eq!(mean_change(&[own, same]), [[13.0, 10.0]]);
    }

    #[test]
    fn predictions_are_counted() {
        // Two ways of three steps and three cross predictions, and 3 timesteps of 2 prompts a word.
        assert_eq!(predictions(1, [0, 1, 0]), 2 * (3 + 3) + 3 * 2);
        assert_eq!(predictions(2, [60, 20, 48]), 24 + 60 + 240 + 144);
    }
}
