//! Prompts to hidden states and pooled embeddings, by one text encoder or several in turn.

use std::collections::HashSet;
use std::ops::Range;

use crate::base::DType;
use crate::error::{Error, Result};
use crate::family::{Encoder, Family};
use crate::graph::{Graph, Plan, Tensor};
use crate::io::{Checkpoint, ClipTokenizer};
use crate::models::{Taps, TextEncoder, TextEncoderConfig};
use crate::nn::{Mode, Param, Role, Scope, Settings};

use super::memory::{self, Phase};
use super::model::Model;
use super::planning::{Part, Planning};

/// Prompts that a text encoder takes at once.
pub(crate) const PROMPTS: usize = 8;

/// What people call the text encoders.
const NAMES: [&str; 2] = ["text encoder", "text encoder 2"];

/// Token ids of a prompt, by text encoder.
pub(crate) type Tokens = Vec<Vec<u32>>;

/// Text encoder of an open model.
pub(crate) struct TextModel {
    /// Its place in the family.
    pub place: &'static Encoder,
    pub config: TextEncoderConfig,
    pub tokenizer: ClipTokenizer,
}

impl TextModel {
    /// Opens the text encoders of a checkpoint of `family`.
    pub(super) fn all(family: &Family, checkpoint: &Checkpoint) -> Result<Vec<TextModel>> {
        let open = |place: &'static Encoder| {
            let (config, tokenizer) = (place.config(checkpoint)?, checkpoint.tokenizer_in(place.tokenizer)?);
            Ok(TextModel { place, config, tokenizer })
        };
        family.encoders.iter().map(open).collect()
    }

    /// Width of its projected states, if they are read.
    pub(crate) fn pooled_width(&self) -> Option<usize> {
        self.config.projection().filter(|_| self.place.pooled)
    }

    /// What is read of its states, with `skip` layers more than usual left out and the selection of end tokens `ends`.
    pub(crate) fn taps(&self, clip_skip: Option<usize>, ends: Option<Tensor>) -> Taps {
        let skip = match (self.place.skip, clip_skip) {
            (usual, None) => usual,
            (usual, Some(more)) => Some(usual.unwrap_or(0) + more),
        };
        Taps { skip, ends }
    }

    /// Id of the token at a prompt's end.
    pub(crate) fn end(&self) -> u32 {
        self.tokenizer.ends()[1]
    }
}

/// Selection `[prompts, 1, tokens]` of the end token of each prompt of `ids`: of the first `end` in it, or of the largest id,
/// as transformers takes it, where there is none.
pub(crate) fn select_ends(ids: &[u32], tokens: usize, end: u32) -> Vec<f32> {
    let mut selection = vec![0.0; ids.len()];
    for (prompt, ids) in ids.chunks_exact(tokens.max(1)).enumerate() {
        let largest = || ids.iter().enumerate().rev().max_by_key(|(_, id)| **id).map_or(0, |(at, _)| at);
        let at = ids.iter().position(|id| *id == end).unwrap_or_else(largest);
        selection[prompt * tokens + at] = 1.0;
    }
    selection
}

/// Inputs and results of a text encoder in a graph.
struct Recorded {
    ids: Tensor,
    hidden: Tensor,
    /// Selection of end tokens and pooled embeddings, where they are read.
    pooled: Option<(Tensor, Tensor)>,
}

/// A recorded text encoder.
#[derive(Clone)]
pub(crate) struct EncoderPart {
    pub part: Part,
    /// Selection of end tokens, and pooled embeddings.
    pub pooled: Option<(Tensor, Tensor)>,
    /// Number among the model's text encoders.
    pub encoder: usize,
}

/// Prompts to be encoded.
#[derive(Clone, Copy)]
pub(crate) struct TextSpec {
    pub prompts: usize,
    /// Tokens of each.
    pub tokens: usize,
    /// Layers that are left out more than usual.
    pub clip_skip: Option<usize>,
    /// The first is a negative prompt, for which no more layers than usual are left out, as in diffusers.
    pub negative: bool,
}

impl TextSpec {
    /// Of prompts that are encoded as the model has it.
    pub(crate) fn plain(prompts: usize, tokens: usize) -> TextSpec {
        TextSpec { prompts, tokens, clip_skip: None, negative: false }
    }

    /// Prompts that are encoded at once, with the layers that are left out more than usual.
    fn batches(self) -> impl Iterator<Item = (Range<usize>, Option<usize>)> {
        let apart = usize::from(self.negative && self.clip_skip.is_some()).min(self.prompts);
        let rest = (apart..self.prompts).step_by(PROMPTS);
        let rest = rest.map(move |first| (first..self.prompts.min(first + PROMPTS), self.clip_skip));
        (0..apart).map(|first| (first..first + 1, None)).chain(rest)
    }
}

/// A text encoder as it takes prompts, some at once.
pub(crate) struct EncoderParts {
    /// Plans for each number of prompts at once and of layers that are left out: at least one.
    pub parts: Vec<EncoderPart>,
    /// Prompts that are encoded at once, and which of `parts` encodes them.
    pub batches: Vec<(usize, Range<usize>)>,
}

impl EncoderParts {
    /// What people call the encoder.
    pub(super) fn name(&self) -> &'static str {
        self.parts.first().map_or(NAMES[0], |part| part.part.name)
    }

    /// Parameters that a plan reads, each once.
    pub(super) fn params(&self) -> Vec<Param> {
        let mut params: Vec<Param> = Vec::new();
        let mut known = HashSet::new();
        for param in self.parts.iter().flat_map(|part| &part.part.params) {
            if known.insert(&param.key) {
                params.push(param.clone());
            }
        }
        params
    }

    /// Chunks that serve all plans in turn.
    pub(super) fn arena(&self) -> Vec<u64> {
        memory::pool(self.parts.iter().map(|part| &part.part.plan.arena))
    }

    fn phase(&self) -> Phase {
        let beside = self.parts.iter().map(|part| part.part.plan.input_bytes + part.part.plan.uniform_bytes).sum();
        let weights = memory::bytes(&self.params());
        Phase { name: self.name(), weights, beside, arena: self.arena(), ..Phase::default() }
    }
}

/// Plans of all text encoders for some prompts.
pub(crate) struct TextParts {
    pub encoders: Vec<EncoderParts>,
}

impl TextParts {
    /// All plans, in the order in which they run.
    pub(crate) fn plans(&self) -> impl Iterator<Item = &Plan> {
        self.encoders.iter().flat_map(|of| &of.parts).map(|encoder| &*encoder.part.plan)
    }

    /// Memory of each encoder, which run in turn.
    pub(crate) fn phases(&self) -> impl Iterator<Item = Phase> {
        self.encoders.iter().map(EncoderParts::phase)
    }
}

impl Model {
    /// Tokens of a prompt.
    pub(crate) fn prompt_tokens(&self) -> usize {
        self.texts.first().map_or(0, |text| text.tokenizer.length())
    }

    /// Text encoder `index`, and all parameters that it has, read or not.
    pub(crate) fn text_part(&self, index: usize, settings: Settings) -> Result<(TextEncoder, Scope)> {
        let text = self.texts.get(index).ok_or_else(|| Error::op("text", format!("has no text encoder {index}")))?;
        let scope = Scope::new(text.place.part.name(), settings);
        Ok((TextEncoder::new(&scope, text.config.clone())?, scope))
    }

    /// Parameters of text encoder `index` that are read to encode prompts.
    pub(crate) fn text_params(&self, index: usize, settings: Settings) -> Result<Vec<Param>> {
        let (encoder, scope) = self.text_part(index, settings)?;
        let mut g = Graph::new();
        self.record_text(&mut g, (index, &encoder), [1, self.prompt_tokens()], None)?;
        Ok(scope.params_in(&g))
    }

    /// The text encoders of the prompts `spec`, [`PROMPTS`] at once, with the adapters of `settings`.
    pub(crate) async fn plan_texts(
        &self,
        settings: &Settings,
        planning: Planning<'_>,
        spec: TextSpec,
    ) -> Result<TextParts> {
        let mut encoders = Vec::with_capacity(self.texts.len());
        for index in 0..self.texts.len() {
            let (mut parts, mut kinds, mut batches) = (Vec::new(), Vec::new(), Vec::new());
            for (range, clip_skip) in spec.batches() {
                let kind = (range.len(), clip_skip);
                let known = kinds.iter().position(|known| *known == kind);
                if known.is_none() {
                    let shape = [range.len(), spec.tokens];
                    parts.push(self.plan_text(index, settings.clone(), planning, shape, clip_skip)?);
                    kinds.push(kind);
                    planning.breathe().await;
                }
                batches.push((known.unwrap_or(kinds.len() - 1), range));
            }
            encoders.push(EncoderParts { parts, batches });
        }
        Ok(TextParts { encoders })
    }

    fn plan_text(
        &self,
        index: usize,
        settings: Settings,
        planning: Planning<'_>,
        shape: [usize; 2],
        clip_skip: Option<usize>,
    ) -> Result<EncoderPart> {
        let dtype = self.dtype(planning.caps);
        let settings = Settings { dtype, eight_bits: self.eight_bits(dtype), ..settings };
        let training = settings.mode == Mode::Training;
        let (encoder, scope) = self.text_part(index, settings)?;
        let mut g = Graph::new();
        let Recorded { ids: input, hidden: output, pooled } =
            self.record_text(&mut g, (index, &encoder), shape, clip_skip)?;
        g.output(output);
        if let Some((_, pooled)) = pooled {
            g.output(pooled);
        }
        // A training's own weights hold every adapter.
        let params = if training { scope.params() } else { scope.params_in(&g) };
        let name = NAMES[index.min(1)];
        let part = Part { name, plan: planning.plan(&g)?, input, output, params };
        Ok(EncoderPart { part, pooled, encoder: index })
    }

    /// Records text encoder `index` for ids `[prompts, tokens]`.
    fn record_text(
        &self,
        g: &mut Graph,
        (index, encoder): (usize, &TextEncoder),
        [prompts, tokens]: [usize; 2],
        clip_skip: Option<usize>,
    ) -> Result<Recorded> {
        let text = &self.texts[index];
        let ids = g.input("ids", [prompts, tokens], DType::U32);
        let ends = text.pooled_width().map(|_| g.input("ends", [prompts, 1, tokens], DType::F32));
        let encoded = encoder.encode(g, ids, text.taps(clip_skip, ends))?;
        let normed = clip_skip.is_some() && text.place.skip.is_none();
        // Families that read the last state read earlier ones through the final norm too.
        let hidden = if normed { encoder.normalize(g, encoded.hidden)? } else { encoded.hidden };
        Ok(Recorded { ids, hidden, pooled: ends.zip(encoded.pooled) })
    }

    /// Refuses to leave out more layers than a text encoder has.
    pub(crate) fn check_clip_skip(&self, clip_skip: Option<usize>) -> Result<()> {
        let room = |text: &TextModel| text.config.num_hidden_layers.saturating_sub(text.place.skip.unwrap_or(0));
        let most = self.texts.iter().map(room).min().unwrap_or(0);
        match clip_skip.filter(|&skip| skip > most) {
            Some(skip) => Err(Error::value("clip_skip", skip, format!("must be at most {most} with this model"))),
            None => Ok(()),
        }
    }
}

/// Frozen parameters of `scope` that `g` holds, and all of its adapters, which a training writes whether or not a gradient
/// reaches them.
pub(crate) fn trained_params(scope: &Scope, g: &Graph) -> Vec<Param> {
    let read: HashSet<String> = scope.params_in(g).into_iter().map(|param| param.key).collect();
    let all = scope.params().into_iter();
    all.filter(|param| param.role == Role::Adapter || read.contains(&param.key)).collect()
}
