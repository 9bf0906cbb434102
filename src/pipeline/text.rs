//! Prompts to hidden states and pooled embeddings, by one text encoder or several in turn.

use std::collections::HashSet;
use std::ops::Range;

use crate::error::Result;
use crate::family::{Encoder, Family};
use crate::graph::{Graph, Plan, Tensor};
use crate::io::{Checkpoint, ClipTokenizer};
use crate::models::{Taps, TextEncoderConfig};
use crate::nn::{Param, Role, Scope};

use super::memory::{self, Phase};
use super::planning::Part;

/// Prompts that a text encoder takes at once.
pub(crate) const PROMPTS: usize = 8;

/// What people call the text encoders.
pub(super) const NAMES: [&str; 2] = ["text encoder", "text encoder 2"];

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
    pub(super) fn batches(self) -> impl Iterator<Item = (Range<usize>, Option<usize>)> {
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

/// Frozen parameters of `scope` that `g` holds, and all of its adapters, which a training writes whether or not a gradient
/// reaches them.
pub(crate) fn trained_params(scope: &Scope, g: &Graph) -> Vec<Param> {
    let read: HashSet<String> = scope.params_in(g).into_iter().map(|param| param.key).collect();
    let all = scope.params().into_iter();
    all.filter(|param| param.role == Role::Adapter || read.contains(&param.key)).collect()
}
