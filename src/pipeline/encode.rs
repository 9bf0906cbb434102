//! Prompts through the text encoders, one encoder after the other.

use crate::error::Result;
use crate::gpu::{Gpu, Pool, Store};
use crate::graph::{Session, Tensor};

use super::hidden::{Hidden, States, pooled_key, state_key};
use super::model::Model;
use super::text::{EncoderPart, EncoderParts, PROMPTS, TextParts, Tokens, of_both, select_ends};

impl Model {
    /// Encodes `prompts`, by the plans of so many, as those of `hidden` from number `first` on.
    pub(crate) async fn encode_prompts(
        &self,
        gpu: &Gpu,
        parts: &TextParts,
        pool: &mut Pool,
        prompts: &[Tokens],
        (hidden, first): (&Hidden, usize),
    ) -> Result<()> {
        let states = States::new(gpu, self, hidden, parts.join.is_some())?;
        for EncoderParts { whole, rest } in &parts.encoders {
            pool.fit(gpu, &of_both(whole, rest.as_ref()))?;
            // A last, shorter chunk has the same weights.
            let weights = Store::beside(gpu, self.weights(gpu, whole.part.name, &whole.part.params).await?);
            let mut sessions = Vec::with_capacity(2);
            for part in std::iter::once(whole).chain(rest) {
                sessions.push(EncoderSession::new(gpu, part, pool, &weights).await?);
            }
            let mut done = 0;
            for chunk in prompts.chunks(PROMPTS) {
                let is_whole = chunk.len() == prompts.len().min(PROMPTS);
                let Some(session) = sessions.get(usize::from(!is_whole)) else { continue };
                session.run(self, chunk).await?;
                for row in 0..chunk.len() {
                    session.put([row, chunk.len()], (&states, hidden), first + done + row)?;
                }
                done += chunk.len();
            }
        }
        if let Some(join) = Joining::new(gpu, parts, pool).await? {
            for prompt in first..first + prompts.len() {
                join.run(&states, hidden, prompt).await?;
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

    /// Copies the results of row `row` of `rows` to prompt `index`.
    fn put(&self, [row, rows]: [usize; 2], (states, hidden): (&States, &Hidden), index: usize) -> Result<()> {
        let EncoderPart { part, pooled, encoder } = &self.part;
        let gpu = self.session.gpu();
        let to = match &states.store {
            Some(store) => store.entry(&state_key(*encoder, index))?,
            None => hidden.store.entry(&index.to_string())?,
        };
        gpu.copy(&self.session.place(part.output)?.part(row, rows)?, to)?;
        if let Some((_, pooled)) = pooled {
            let pooled = self.session.place(*pooled)?.part(row, rows)?;
            gpu.copy(&pooled, hidden.store.entry(&pooled_key(index))?)?;
        }
        Ok(())
    }
}

/// The states of several encoders, put side by side on the device.
struct Joining {
    session: Session,
    inputs: Vec<Tensor>,
    output: Tensor,
}

impl Joining {
    async fn new(gpu: &Gpu, parts: &TextParts, pool: &mut Pool) -> Result<Option<Joining>> {
        let Some((part, inputs)) = &parts.join else { return Ok(None) };
        let session = Session::new(gpu, part.plan.clone(), pool, &Store::new(gpu)).await?;
        Ok(Some(Joining { session, inputs: inputs.clone(), output: part.output }))
    }

    async fn run(&self, states: &States, hidden: &Hidden, prompt: usize) -> Result<()> {
        let (gpu, Some(store)) = (self.session.gpu(), &states.store) else { return Ok(()) };
        for (encoder, input) in self.inputs.iter().enumerate() {
            gpu.copy(store.entry(&state_key(encoder, prompt))?, &self.session.place(*input)?)?;
        }
        self.session.run().await?;
        hidden.take(gpu, prompt, &self.session.place(self.output)?)
    }
}

/// Text encoders that are trained, on the device, for one prompt at a time.
pub(crate) struct TextSessions {
    encoders: Vec<EncoderSession>,
    join: Option<Joining>,
    states: States,
}

impl TextSessions {
    /// With the weights in `store`; results go to the prompts of `hidden`.
    pub(crate) async fn new(
        gpu: &Gpu,
        model: &Model,
        parts: &TextParts,
        (pool, store): (&mut Pool, &Store),
        hidden: &Hidden,
    ) -> Result<TextSessions> {
        let mut encoders = Vec::with_capacity(parts.encoders.len());
        for of in &parts.encoders {
            encoders.push(EncoderSession::new(gpu, &of.whole, pool, store).await?);
        }
        let states = States::new(gpu, model, hidden, parts.join.is_some())?;
        Ok(TextSessions { encoders, join: Joining::new(gpu, parts, pool).await?, states })
    }

    /// Encodes `prompt` as number `index` of `hidden`.
    pub(crate) async fn encode(&self, model: &Model, prompt: &Tokens, hidden: &Hidden, index: usize) -> Result<()> {
        for encoder in &self.encoders {
            encoder.run(model, std::slice::from_ref(prompt)).await?;
            encoder.put([0, 1], (&self.states, hidden), index)?;
        }
        match &self.join {
            Some(join) => join.run(&self.states, hidden, index).await,
            None => Ok(()),
        }
    }
}
