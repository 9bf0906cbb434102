//! Hidden states and pooled embeddings of prompts, on the device and in main memory.

use std::ops::Range;

use crate::base::DType;
use crate::error::Result;
use crate::gpu::{Gpu, Store, StoredBuffer};
use crate::graph::{Session, Tensor};

fn pooled_key(prompt: usize) -> String {
    format!("pooled.{prompt}")
}

/// Shape of what the text encoders of a model make of a prompt.
#[derive(Clone)]
pub(crate) struct HiddenShape {
    /// Tokens of the prompt.
    pub tokens: usize,
    /// Columns of each text encoder's states, which lie side by side.
    pub widths: Vec<usize>,
    /// Width of the pooled embedding; 0 where there is none.
    pub pooled: usize,
}

impl HiddenShape {
    /// Bytes that [`Hidden`] takes for `prompts` prompts.
    pub(crate) fn bytes(&self, prompts: usize) -> u64 {
        let values = |count: usize| DType::F32.bytes(count).next_multiple_of(256);
        prompts as u64 * (values(self.states()) + values(self.pooled))
    }

    /// Width of a token's states.
    fn width(&self) -> usize {
        self.widths.iter().sum()
    }

    /// Values of a prompt's states.
    fn states(&self) -> usize {
        self.tokens * self.width()
    }

    /// Columns of the states of text encoder `encoder`.
    fn columns(&self, encoder: usize) -> Range<usize> {
        let first = self.widths.iter().take(encoder).sum();
        first..first + self.widths.get(encoder).copied().unwrap_or(0)
    }
}

/// Hidden states `[tokens, width]` and pooled embeddings of some prompts, on the device.
pub(crate) struct Hidden {
    store: Store,
    shape: HiddenShape,
}

impl Hidden {
    /// Room for `count` prompts, filled with zeros.
    pub(crate) fn new(gpu: &Gpu, shape: HiddenShape, count: usize) -> Result<Hidden> {
        let bytes = DType::F32.value_bytes(shape.states());
        let mut keys: Vec<(String, u64)> = (0..count).map(|i| (i.to_string(), bytes)).collect();
        if shape.pooled > 0 {
            keys.extend((0..count).map(|i| (pooled_key(i), DType::F32.value_bytes(shape.pooled))));
        }
        let mut store = Store::new(gpu);
        store.allocate("hidden states", &keys)?;
        Ok(Hidden { store, shape })
    }

    /// Those of all prompts of `from`.
    pub(crate) fn upload(gpu: &Gpu, from: &HostHidden) -> Result<Hidden> {
        let hidden = Hidden::new(gpu, from.shape.clone(), from.count)?;
        for prompt in 0..from.count {
            let (states, pooled) = from.prompt(prompt);
            hidden.store.write(&prompt.to_string(), bytemuck::cast_slice(states))?;
            if !pooled.is_empty() {
                hidden.store.write(&pooled_key(prompt), bytemuck::cast_slice(pooled))?;
            }
        }
        Ok(hidden)
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

    /// Copies the states `[tokens, columns]` of text encoder `encoder` to its columns of prompt `prompt`.
    pub(super) fn take(&self, gpu: &Gpu, [encoder, prompt]: [usize; 2], from: &StoredBuffer) -> Result<()> {
        let first = DType::F32.value_bytes(self.shape.columns(encoder).start);
        gpu.copy_rows(from, self.store.entry(&prompt.to_string())?, self.shape.tokens, first)
    }

    /// Copies the pooled embedding of prompt `prompt`.
    pub(super) fn take_pooled(&self, gpu: &Gpu, prompt: usize, from: &StoredBuffer) -> Result<()> {
        gpu.copy(from, self.store.entry(&pooled_key(prompt))?)
    }
}

/// Hidden states and pooled embeddings of some prompts, in main memory.
pub(crate) struct HostHidden {
    /// Hidden states `[prompts, tokens, width]`.
    pub hidden: Vec<f32>,
    /// Pooled embeddings `[prompts, width]`; empty for a model that reads none.
    pub pooled: Vec<f32>,
    count: usize,
    shape: HiddenShape,
}

impl HostHidden {
    /// Room for `count` prompts, filled with zeros.
    pub(crate) fn new(shape: HiddenShape, count: usize) -> HostHidden {
        HostHidden { hidden: vec![0.0; count * shape.states()], pooled: vec![0.0; count * shape.pooled], count, shape }
    }

    /// Takes the prompts from number `first` on away.
    pub(crate) fn split_off(&mut self, first: usize) -> HostHidden {
        let first = first.min(self.count);
        let hidden = self.hidden.split_off(first * self.shape.states());
        let pooled = self.pooled.split_off(first * self.shape.pooled);
        let count = self.count - first;
        self.count = first;
        HostHidden { hidden, pooled, count, shape: self.shape.clone() }
    }

    /// Fills those of prompt `prompt` with zeros.
    pub(crate) fn clear(&mut self, prompt: usize) {
        let (states, pooled) = self.prompt_mut(prompt);
        states.fill(0.0);
        pooled.fill(0.0);
    }

    /// Takes the states `[prompts, tokens, columns]` of text encoder `encoder` for the prompts from number `first` on.
    pub(super) fn take(&mut self, [encoder, first]: [usize; 2], states: &[f32]) {
        let (columns, width) = (self.shape.columns(encoder), self.shape.width());
        let rows = self.hidden[first * self.shape.states()..].chunks_exact_mut(width.max(1));
        for (to, from) in rows.zip(states.chunks_exact(columns.len().max(1))) {
            to[columns.clone()].copy_from_slice(from);
        }
    }

    /// Takes the pooled embeddings `[prompts, width]` of the prompts from number `first` on.
    pub(super) fn take_pooled(&mut self, first: usize, pooled: &[f32]) {
        let at = first * self.shape.pooled;
        self.pooled[at..at + pooled.len()].copy_from_slice(pooled);
    }

    fn prompt(&self, prompt: usize) -> (&[f32], &[f32]) {
        let of = |all: usize| prompt * all..(prompt + 1) * all;
        (&self.hidden[of(self.shape.states())], &self.pooled[of(self.shape.pooled)])
    }

    fn prompt_mut(&mut self, prompt: usize) -> (&mut [f32], &mut [f32]) {
        let of = |all: usize| prompt * all..(prompt + 1) * all;
        (&mut self.hidden[of(self.shape.states())], &mut self.pooled[of(self.shape.pooled)])
    }
}
