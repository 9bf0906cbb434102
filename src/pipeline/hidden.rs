//! Hidden states and pooled embeddings of prompts, on the device.

use crate::base::DType;
use crate::error::Result;
use crate::gpu::{Gpu, Store, StoredBuffer};
use crate::graph::{Session, Tensor};

use super::model::Model;

pub(super) fn state_key(encoder: usize, prompt: usize) -> String {
    format!("{encoder}.{prompt}")
}

pub(super) fn pooled_key(prompt: usize) -> String {
    format!("pooled.{prompt}")
}

/// Hidden states of each of several encoders, before they are joined.
pub(super) struct States {
    pub store: Option<Store>,
}

impl States {
    pub fn new(gpu: &Gpu, model: &Model, hidden: &Hidden, joined: bool) -> Result<States> {
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

/// Hidden states `[tokens, width]` and pooled embeddings of some prompts, on the device.
pub(crate) struct Hidden {
    pub(super) store: Store,
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
    pub(super) fn take(&self, gpu: &Gpu, index: usize, from: &StoredBuffer) -> Result<()> {
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
