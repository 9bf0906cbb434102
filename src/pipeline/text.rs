//! Prompts to hidden states and pooled embeddings, by one text encoder or several in turn.

use crate::base::DType;
use crate::error::{Error, Result};
use crate::family::Encoder;
use crate::gpu::{Gpu, Pool, Store, StoredBuffer};
use crate::graph::{Graph, Plan, Session, Tensor};
use crate::io::ClipTokenizer;
use crate::models::{Taps, TextEncoder, TextEncoderConfig};
use crate::nn::{Mode, Param, Role, Scope, Settings};
use crate::ops::join_columns;

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

/// Ids of a recorded text encoder, its hidden states, and where they are read the selection of end tokens with pooled
/// embeddings.
type RecordedText = (Tensor, Tensor, Option<(Tensor, Tensor)>);

/// A recorded text encoder.
#[derive(Clone)]
pub(crate) struct EncoderPart {
    pub part: Part,
    /// Selection of end tokens, and pooled embeddings.
    pooled: Option<(Tensor, Tensor)>,
    /// Number among the model's text encoders.
    encoder: usize,
}

/// A text encoder as it takes prompts, some at once.
pub(crate) struct EncoderParts {
    /// Of the first ones, as many as all but the last take.
    pub whole: EncoderPart,
    /// Of those that are left in the end, where they are fewer.
    pub rest: Option<EncoderPart>,
}

/// Plans of all text encoders for some prompts.
pub(crate) struct TextParts {
    pub encoders: Vec<EncoderParts>,
    /// Puts the states of several encoders side by side, for one prompt; its inputs in their order.
    join: Option<(Part, Vec<Tensor>)>,
}

impl TextParts {
    pub(crate) fn plans(&self) -> impl Iterator<Item = &Plan> {
        self.parts().map(|part| &*part.plan)
    }

    /// Memory of each encoder, which run in turn.
    pub(crate) fn phases(&self) -> impl Iterator<Item = Phase> {
        let arena = |of: &EncoderParts| of_both(&of.whole, of.rest.as_ref());
        self.encoders.iter().map(move |of| Phase { arena: arena(of), ..Phase::part(&of.whole.part) })
    }

    /// All parts, in the order in which they run.
    fn parts(&self) -> impl Iterator<Item = &Part> {
        let encoders = self.encoders.iter().flat_map(|of| std::iter::once(&of.whole).chain(&of.rest));
        encoders.map(|encoder| &encoder.part).chain(self.join.iter().map(|(part, _)| part))
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

    /// The text encoders of `prompts` prompts of `tokens` tokens, [`PROMPTS`] at once, with the adapters of `settings`;
    /// `clip_skip` layers more than usual are left out.
    pub(crate) async fn plan_texts(
        &self,
        settings: &Settings,
        planning: Planning<'_>,
        [prompts, tokens]: [usize; 2],
        clip_skip: Option<usize>,
    ) -> Result<TextParts> {
        let mut encoders = Vec::with_capacity(self.texts.len());
        for index in 0..self.texts.len() {
            let plan = |prompts| self.plan_text(index, settings.clone(), planning, [prompts, tokens], clip_skip);
            let whole = plan(prompts.min(PROMPTS))?;
            planning.breathe().await;
            let left = Some(prompts % PROMPTS).filter(|&left| prompts > PROMPTS && left > 0);
            let rest = left.map(plan).transpose()?;
            planning.breathe().await;
            encoders.push(EncoderParts { whole, rest });
        }
        Ok(TextParts { encoders, join: self.plan_join(planning, tokens)? })
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
        let (input, output, pooled) = self.record_text(&mut g, (index, &encoder), shape, clip_skip)?;
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
    ) -> Result<RecordedText> {
        let text = &self.texts[index];
        let ids = g.input("ids", [prompts, tokens], DType::U32);
        let ends = text.pooled_width().map(|_| g.input("ends", [prompts, 1, tokens], DType::F32));
        let encoded = encoder.encode(g, ids, text.taps(clip_skip, ends))?;
        let normed = clip_skip.is_some() && text.place.skip.is_none();
        // Families that read the last state read earlier ones through the final norm too.
        let hidden = if normed { encoder.normalize(g, encoded.hidden)? } else { encoded.hidden };
        Ok((ids, hidden, ends.zip(encoded.pooled)))
    }

    fn plan_join(&self, planning: Planning<'_>, tokens: usize) -> Result<Option<(Part, Vec<Tensor>)>> {
        if self.texts.len() < 2 {
            return Ok(None);
        }
        let mut g = Graph::new();
        let input = |text: &TextModel| g.input("states", [1, tokens, text.config.hidden_size], DType::F32);
        let inputs: Vec<Tensor> = self.texts.iter().map(input).collect();
        let output = join_columns(&mut g, &inputs)?;
        g.output(output);
        let part = Part { name: "text", plan: planning.plan(&g)?, input: inputs[0], output, params: Vec::new() };
        Ok(Some((part, inputs)))
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

    /// Encodes `prompts`, by the plans of so many, as those of `hidden` from number `first` on.
    pub(crate) async fn encode_prompts(
        &self,
        gpu: &Gpu,
        parts: &TextParts,
        pool: &mut Pool,
        prompts: &[Tokens],
        (hidden, first): (&mut Hidden, usize),
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

/// Chunks that serve an encoder of many prompts and of those that are left.
fn of_both(whole: &EncoderPart, rest: Option<&EncoderPart>) -> Vec<u64> {
    memory::pool(std::iter::once(whole).chain(rest).map(|encoder| &encoder.part.plan.arena))
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

fn state_key(encoder: usize, prompt: usize) -> String {
    format!("{encoder}.{prompt}")
}

fn pooled_key(prompt: usize) -> String {
    format!("pooled.{prompt}")
}

/// Hidden states of each of several encoders, before they are joined.
struct States {
    store: Option<Store>,
}

impl States {
    fn new(gpu: &Gpu, model: &Model, hidden: &Hidden, joined: bool) -> Result<States> {
        if !joined {
            return Ok(States { store: None });
        }
        let mut store = Store::new(gpu);
        let mut keys = Vec::new();
        for (encoder, text) in model.texts.iter().enumerate() {
            let bytes = DType::F32.value_bytes(hidden.tokens * text.config.hidden_size);
            keys.extend((0..hidden.count).map(|prompt| (state_key(encoder, prompt), bytes)));
        }
        store.allocate("hidden states of each encoder", &keys)?;
        Ok(States { store: Some(store) })
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

/// Hidden states `[tokens, width]` and pooled embeddings of some prompts, on the device.
pub(crate) struct Hidden {
    store: Store,
    count: usize,
    tokens: usize,
    pooled: bool,
}

impl Hidden {
    /// Room for `count` prompts, filled with zeros.
    pub(crate) fn new(gpu: &Gpu, model: &Model, tokens: usize, count: usize) -> Result<Hidden> {
        let mut store = Store::new(gpu);
        let bytes = DType::F32.value_bytes(tokens * model.context_width());
        let mut keys: Vec<(String, u64)> = (0..count).map(|i| (i.to_string(), bytes)).collect();
        let pooled = model.pooled_width();
        if let Some(width) = pooled {
            keys.extend((0..count).map(|i| (pooled_key(i), DType::F32.value_bytes(width))));
        }
        store.allocate("hidden states", &keys)?;
        Ok(Hidden { store, count, tokens, pooled: pooled.is_some() })
    }

    /// Fills those of prompt `index` with zeros.
    pub(crate) fn clear(&self, index: usize) -> Result<()> {
        let keys = [Some(index.to_string()), self.pooled.then(|| pooled_key(index))];
        for key in keys.into_iter().flatten() {
            let bytes = self.store.bytes(&key).unwrap_or(0);
            self.store.write(&key, &vec![0; bytes as usize])?;
        }
        Ok(())
    }

    /// Writes those of prompts `which`, in this order, to `input` of `session`.
    pub(crate) fn give(&self, gpu: &Gpu, which: &[usize], session: &Session, input: Tensor) -> Result<()> {
        self.copy(gpu, which, session, input, |i| i.to_string())
    }

    /// Writes the pooled embeddings of prompts `which`, in this order, to `input` of `session`.
    pub(crate) fn give_pooled(&self, gpu: &Gpu, which: &[usize], session: &Session, input: Tensor) -> Result<()> {
        self.copy(gpu, which, session, input, pooled_key)
    }

    fn copy(
        &self,
        gpu: &Gpu,
        which: &[usize],
        session: &Session,
        input: Tensor,
        key: impl Fn(usize) -> String,
    ) -> Result<()> {
        let to = session.place(input)?;
        for (row, i) in which.iter().enumerate() {
            gpu.copy(self.store.entry(&key(*i))?, &to.part(row, which.len())?)?;
        }
        Ok(())
    }

    /// Copies the hidden states `from` into prompt `index`.
    fn take(&self, gpu: &Gpu, index: usize, from: &StoredBuffer) -> Result<()> {
        gpu.copy(from, self.store.entry(&index.to_string())?)
    }

    /// All hidden states, on the host.
    pub(crate) async fn read(&self) -> Result<Vec<Vec<f32>>> {
        self.read_all(|i| i.to_string()).await
    }

    /// All pooled embeddings, on the host; none where the model has none.
    pub(crate) async fn read_pooled(&self) -> Result<Vec<Vec<f32>>> {
        if self.pooled { self.read_all(pooled_key).await } else { Ok(Vec::new()) }
    }

    async fn read_all(&self, key: impl Fn(usize) -> String) -> Result<Vec<Vec<f32>>> {
        let mut all = Vec::with_capacity(self.count);
        for i in 0..self.count {
            all.push(bytemuck::pod_collect_to_vec(&self.store.read(&key(i)).await?));
        }
        Ok(all)
    }
}

/// Frozen parameters of `scope` that `g` holds, and all of its adapters, which a training writes whether or not a gradient
/// reaches them.
pub(crate) fn trained_params(scope: &Scope, g: &Graph) -> Vec<Param> {
    let read: std::collections::HashSet<String> = scope.params_in(g).into_iter().map(|param| param.key).collect();
    let all = scope.params().into_iter();
    all.filter(|param| param.role == Role::Adapter || read.contains(&param.key)).collect()
}
