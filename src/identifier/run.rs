//! Run of a comparison of words: encode them, predict for each, order them.

use crate::error::Result;
use crate::event::{Listener, Phase};
use crate::generate::{GenerateOptions, generate_unmasked};
use crate::gpu::{Gpu, Pool};
use crate::graph::Plan;
use crate::pipeline::context::Context;
use crate::pipeline::encode::Destination;
use crate::pipeline::events::EventSink;
use crate::pipeline::hidden::Hidden;
use crate::pipeline::reads::Reads;
use crate::pipeline::{Model, SamplingOptions, opening};

use super::IdentifyOptions;
use super::candidates::{Candidate, Candidates, prompts};
use super::identified::{IdentifiedWord, Identifiers, Prior};
use super::neighbours::Neighbours;
use super::plans::Plans;
use super::predict::{Predictor, trajectory};
use super::prior::{Measuring, PromptNumbers, mean_change, most_alike, predictions};
use super::things::THINGS;

/// Numbers of the empty prompt and the class's in the encoded ones; the words' follow.
const AT: PromptNumbers = PromptNumbers { empty: 0, class: 1 };
/// Things that are told of a word.
const TOLD: usize = 3;

/// Opens the model of `job` and compares words.
pub(crate) async fn identify(context: &Context, job: &IdentifyOptions, listener: Listener<'_>) -> Result<Identifiers> {
    job.check()?;
    let (model, candidates, mut found) = {
        let mut events = EventSink::new(&mut *listener, &context.cancel);
        let reads = Reads { encoder: false, decoder: job.pictures, ..Reads::ALL };
        // Boxed: a host's thread may have little stack.
        let model = Box::pin(opening::open(context, &job.model, &job.loras, reads, &mut events)).await?;
        let candidates = Candidates::new(job, &model)?;
        let run = Box::pin(measure(context, job, &model, &candidates, &mut events));
        let found = context.gpu.in_error_scopes(run).await?;
        (model, candidates, found)
    };
    drop(candidates);
    if job.pictures {
        let images = images(job, &found.words);
        found.pictures = generate_unmasked(context, &model, &images, listener).await?.pictures;
    }
    Ok(found)
}

/// All prompts of a job by number: the empty one, the class's, two of each word, one of each thing.
fn all_prompts(candidates: &[&Candidate], class: &str) -> Vec<String> {
    let mut all = vec![String::new(), format!("a {class}")];
    all.extend(candidates.iter().flat_map(|candidate| prompts(&candidate.word, class)));
    all.extend(THINGS.iter().map(|thing| format!("a {thing}")));
    all
}

/// Numbers of the two prompts of candidate number `index`.
fn numbers(index: usize) -> [usize; 2] {
    [2 + 2 * index, 3 + 2 * index]
}

/// Says how the tokenizer reads words otherwise than they are written.
fn say_words(candidates: &Candidates, events: &mut EventSink<'_>) {
    for [written, known] in &candidates.doubles {
        let why = match written == known {
            true => "it is given twice".to_owned(),
            false => format!("the tokenizer reads it as \"{known}\""),
        };
        events.note(format!("\"{written}\" is left out: {why}"));
    }
    for [written, read] in &candidates.folded {
        events.note(format!("\"{written}\" is read as \"{read}\": the tokenizer knows no capitals"));
    }
    for candidate in candidates.chosen.iter().filter(|candidate| candidate.tokens.len() > 1) {
        let pieces: Vec<&str> = candidate.tokens.iter().map(|token| token.text.trim_end_matches("</w>")).collect();
        let (word, count, pieces) = (&candidate.word, pieces.len(), pieces.join(" + "));
        events.note(format!("\"{word}\" is {count} tokens, which other words share: {pieces}"));
    }
}

async fn measure(
    context: &Context,
    job: &IdentifyOptions,
    model: &Model,
    candidates: &Candidates,
    events: &mut EventSink<'_>,
) -> Result<Identifiers> {
    say_words(candidates, events);
    let class = job.class_noun();
    let all: Vec<&Candidate> = candidates.chosen.iter().chain(&candidates.pool).collect();
    let prompts = all_prompts(&all, class);
    model.check_prompts(&prompts)?;
    let size = model.size(job.width, job.height)?;
    let plans = Plans::new(model, context.planning(), prompts.len(), size, job.model.memory).await?;
    let ahead = context.gpu.compile_ahead(plans.plans().flat_map(Plan::kernels)).await?;
    let context = &context.on(&ahead.gpu);
    let gpu = &context.gpu;
    let mut pool = Pool::default();
    events.phase(Phase::EncodingPrompts)?;
    let hidden = Hidden::new(gpu, model.hidden_shape(model.prompt_tokens()), prompts.len())?;
    // Zeros, which the states are at first, stand for the empty prompt where the family has it so.
    let first = usize::from(model.zeros);
    let tokens = prompts.iter().skip(first).map(|prompt| model.tokens(prompt, &mut |event| events.say(event)));
    let tokens = tokens.collect::<Result<Vec<_>>>()?;
    let encoding = model.encode_prompts(gpu, &plans.text, &mut pool, &tokens, Destination::Device(&hidden, first));
    events.until_stopped(gpu, encoding).await?;

    events.phase(Phase::LoadingModel)?;
    let predictor = Predictor::new(gpu, model, &plans.prediction, (&mut pool, &hidden), size);
    let mut predictor = events.until_stopped(gpu, predictor).await?;
    let listed = job.listed().min(candidates.measured);
    let counts = [2 * candidates.pool.len(), candidates.measured, THINGS.len()];
    predictor.total = predictions(job.seeds, counts);
    events.phase(Phase::MeasuringWords)?;
    let (words, timesteps) = compared(job, model, candidates, &mut predictor, events).await?;
    let mut found = Identifiers {
        model: model.checkpoint.name().to_owned(),
        loras: job.loras.clone(),
        class: class.to_owned(),
        merges: merges(model),
        timesteps,
        size,
        seeds: job.seeds,
        seed: job.seed,
        predictions: predictor.done,
        words: words.into_iter().take(listed).collect(),
        pictures: Vec::new(),
    };
    drop(predictor);
    drop(hidden);
    find_neighbours(context, model, &mut pool, (&all, &mut found.words), events).await?;
    Ok(found)
}

/// Merges of the first tokenizer.
fn merges(model: &Model) -> u32 {
    let words = model.texts.first().map(|text| text.tokenizer.whole_words()).unwrap_or_default();
    words.last().map_or(0, |(id, _)| id.saturating_sub(511))
}

/// Measures the words that are chosen and those of the pool with the least prior at a glance; least prior first.
async fn compared(
    job: &IdentifyOptions,
    model: &Model,
    candidates: &Candidates,
    predictor: &mut Predictor<'_>,
    events: &mut EventSink<'_>,
) -> Result<(Vec<IdentifiedWord>, Vec<f64>)> {
    let seeds: Vec<u64> = (0..job.seeds as u64).map(|i| job.seed.wrapping_add(i)).collect();
    let trajectory = trajectory(model, job.model.prediction)?;
    let mut measuring = Measuring::new(predictor, &trajectory, AT, &seeds, events).await?;
    let first = candidates.chosen.len();
    let pooled: Vec<[usize; 2]> = (first..first + candidates.pool.len()).map(numbers).collect();
    let seen = measuring.glance(&pooled, events).await?;
    let mut order: Vec<usize> = (0..pooled.len()).collect();
    order.sort_by(|a, b| seen[*a].total_cmp(&seen[*b]));
    let taken = order.into_iter().take(candidates.measured.saturating_sub(first)).map(|at| at + first);
    let chosen: Vec<usize> = (0..first).chain(taken).collect();

    let things = 2 + 2 * (first + candidates.pool.len());
    let things: Vec<usize> = (things..things + THINGS.len()).collect();
    let things = measuring.changes_alone(&things, events).await?;
    let base = mean_change(&things);
    let things: Vec<(&str, &Vec<Vec<f32>>)> = THINGS.into_iter().zip(&things).collect();
    let all: Vec<&Candidate> = candidates.chosen.iter().chain(&candidates.pool).collect();
    let mut words = Vec::with_capacity(chosen.len());
    for index in chosen {
        let (prior, change) = measuring.measure(numbers(index), events).await?;
        let others: Vec<_> = things.iter().filter(|(thing, _)| *thing != all[index].word).copied().collect();
        words.push(identified(all[index], prior, most_alike(&change, &others, &base, TOLD)));
    }
    words.sort_by(|a, b| a.prior.score.total_cmp(&b.prior.score));
    Ok((words, measuring.timesteps()))
}

fn identified(candidate: &Candidate, prior: Prior, resembles: Vec<super::Near>) -> IdentifiedWord {
    let Candidate { word, tokens } = candidate;
    let (word, tokens, merge) = (word.clone(), tokens.clone(), candidate.merge());
    IdentifiedWord { word, tokens, merge, prior, nearest: Vec::new(), resembles }
}

/// Finds the nearest words of each of `words`.
async fn find_neighbours(
    context: &Context,
    model: &Model,
    pool: &mut Pool,
    (all, words): (&[&Candidate], &mut [IdentifiedWord]),
    events: &mut EventSink<'_>,
) -> Result<()> {
    events.phase(Phase::EncodingPrompts)?;
    let is_listed = |candidate: &&&Candidate| words.iter().any(|word| word.word == candidate.word);
    let listed: Vec<&Candidate> = all.iter().filter(is_listed).copied().collect();
    let neighbours = Neighbours::new(model, context.planning(), &listed).await?;
    let gpu: &Gpu = &context.gpu;
    let mut found = neighbours.find(gpu, model, pool, &listed, events).await?;
    for word in words {
        word.nearest = found.remove(&word.word).unwrap_or_default();
    }
    Ok(())
}

/// The images of a report: of the class, and of both prompts of each word.
fn images(job: &IdentifyOptions, words: &[IdentifiedWord]) -> GenerateOptions {
    let class = job.class_noun();
    let mut texts = vec![format!("a {class}")];
    texts.extend(words.iter().flat_map(|word| prompts(&word.word, class)));
    GenerateOptions {
        prompts: texts,
        model: job.model.clone(),
        sampling: SamplingOptions {
            seed: job.seed,
            steps: job.steps,
            width: job.width,
            height: job.height,
            ..Default::default()
        },
        loras: job.loras.clone(),
        ..Default::default()
    }
}
