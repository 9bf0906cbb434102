//! Prompts through the text encoders, one encoder after the other.

use std::ops::Range;

use crate::error::Result;
use crate::gpu::{Gpu, Pool, Store};
use crate::graph::Session;

use super::hidden::{Hidden, HostHidden};
use super::model::Model;
use super::text::{EncoderPart, TextParts, Tokens, select_ends};

/// Where the hidden states of prompts go.
pub(crate) enum Destination<'a> {
    /// To the device, as those of this number and the following ones.
    Device(&'a Hidden, usize),
    /// To main memory: the device never holds those of more prompts than are encoded at once.
    Host(&'a mut HostHidden),
}

impl Model {
    /// Encodes `prompts` by the plans of so many.
    pub(crate) async fn encode_prompts(
        &self,
        gpu: &Gpu,
        parts: &TextParts,
        pool: &mut Pool,
        prompts: &[Tokens],
        mut to: Destination<'_>,
    ) -> Result<()> {
        for of in &parts.encoders {
            pool.fit(gpu, &of.arena())?;
            let weights = Store::beside(gpu, self.weights(gpu, of.name(), &of.params()).await?);
            let mut sessions = Vec::with_capacity(of.parts.len());
            for part in &of.parts {
                sessions.push(EncoderSession::new(gpu, part, pool, &weights).await?);
            }
            for (part, range) in &of.batches {
                let Some((session, chunk)) = sessions.get(*part).zip(prompts.get(range.clone())) else { continue };
                session.run(self, chunk).await?;
                session.give(range.clone(), &mut to).await?;
            }
        }
        Ok(())
    }
}

/// A text encoder on the device.
pub(crate) struct EncoderSession {
    pub session: Session,
    part: EncoderPart,
}

impl EncoderSession {
    pub(crate) async fn new(gpu: &Gpu, part: &EncoderPart, pool: &mut Pool, weights: &Store) -> Result<EncoderSession> {
        let session = Session::new(gpu, part.part.plan.clone(), pool, weights).await?;
        Ok(EncoderSession { session, part: part.clone() })
    }

    /// Encodes `prompts`, as many as were planned.
    async fn run(&self, model: &Model, prompts: &[Tokens]) -> Result<()> {
        self.write(model, prompts)?;
        self.session.run().await
    }

    /// Writes `prompts`, as many as were planned.
    pub(crate) fn write(&self, model: &Model, prompts: &[Tokens]) -> Result<()> {
        let EncoderPart { part, pooled, encoder } = &self.part;
        let ids = prompts.iter().map(|prompt| prompt[*encoder].as_slice()).collect::<Vec<_>>().concat();
        self.session.write_ids(part.input, &ids)?;
        if let Some((ends, _)) = pooled {
            let tokens = ids.len() / prompts.len().max(1);
            self.session.write(*ends, &select_ends(&ids, tokens, model.texts[*encoder].end()))?;
        }
        Ok(())
    }

    /// Copies its results, those of prompts `range`.
    async fn give(&self, range: Range<usize>, to: &mut Destination<'_>) -> Result<()> {
        let EncoderPart { part, pooled, encoder } = &self.part;
        match to {
            Destination::Device(hidden, first) => {
                let (gpu, rows) = (self.session.gpu(), range.len());
                for (row, prompt) in range.enumerate() {
                    let prompt = *first + prompt;
                    hidden.take(gpu, [*encoder, prompt], &self.session.place(part.output)?.part(row, rows)?)?;
                    if let Some((_, pooled)) = pooled {
                        hidden.take_pooled(gpu, prompt, &self.session.place(*pooled)?.part(row, rows)?)?;
                    }
                }
            }
            Destination::Host(hidden) => {
                hidden.take([*encoder, range.start], &self.session.read(part.output).await?);
                if let Some((_, pooled)) = pooled {
                    hidden.take_pooled(range.start, &self.session.read(*pooled).await?);
                }
            }
        }
        Ok(())
    }
}

/// Text encoders that are trained, on the device, for one prompt at a time.
pub(crate) struct TextSessions(Vec<EncoderSession>);

impl TextSessions {
    /// With the weights in `store`.
    pub(crate) async fn new(gpu: &Gpu, parts: &TextParts, pool: &mut Pool, store: &Store) -> Result<TextSessions> {
        let mut encoders = Vec::with_capacity(parts.encoders.len());
        for part in parts.encoders.iter().flat_map(|of| &of.parts) {
            encoders.push(EncoderSession::new(gpu, part, pool, store).await?);
        }
        Ok(TextSessions(encoders))
    }

    /// Encodes `prompt` as number `index` of `hidden`.
    pub(crate) async fn encode(&self, model: &Model, prompt: &Tokens, hidden: &Hidden, index: usize) -> Result<()> {
        for encoder in &self.0 {
            encoder.run(model, std::slice::from_ref(prompt)).await?;
            encoder.give(0..1, &mut Destination::Device(hidden, index)).await?;
        }
        Ok(())
    }
}
