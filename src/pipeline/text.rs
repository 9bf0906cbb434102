//! Prompts to hidden states.

use crate::base::DType;
use crate::error::Result;
use crate::gpu::{Gpu, Pool, Store, StoredBuffer};
use crate::graph::{Graph, Plan, Session, Tensor};
use crate::nn::Settings;

use super::model::Model;
use super::planning::{Part, Planning};

/// Prompts that the text encoder takes at once.
pub(crate) const PROMPTS: usize = 8;

/// The text encoder as it takes prompts, some at once.
pub(crate) struct TextParts {
    /// Of the first ones, as many as all but the last take.
    pub whole: Part,
    /// Of those that are left in the end, where they are fewer.
    pub rest: Option<Part>,
}

impl TextParts {
    pub(crate) fn plans(&self) -> impl Iterator<Item = &Plan> {
        std::iter::once(&self.whole).chain(&self.rest).map(|part| &*part.plan)
    }
}

impl Model {
    /// The text encoder of `prompts` prompts, [`PROMPTS`] at once, with the adapters of `settings`.
    pub(crate) async fn plan_texts(
        &self,
        settings: &Settings,
        planning: Planning<'_>,
        prompts: usize,
        tokens: usize,
    ) -> Result<TextParts> {
        let plan = |prompts| self.plan_text_as(settings.clone(), planning, prompts, tokens);
        let whole = plan(prompts.min(PROMPTS))?;
        planning.breathe().await;
        let left = Some(prompts % PROMPTS).filter(|&left| prompts > PROMPTS && left > 0);
        let rest = left.map(plan).transpose()?;
        planning.breathe().await;
        Ok(TextParts { whole, rest })
    }

    /// That of so many prompts at once, with the mode and the adapters of `settings`.
    pub(crate) fn plan_text_as(
        &self,
        settings: Settings,
        planning: Planning<'_>,
        prompts: usize,
        tokens: usize,
    ) -> Result<Part> {
        let dtype = self.dtype(planning.caps);
        let (model, params) = self.text_part(Settings { dtype, eight_bits: self.eight_bits(dtype), ..settings })?;
        let mut g = Graph::new();
        let input = g.input("ids", [prompts, tokens], DType::U32);
        let output = model.forward(&mut g, input)?;
        g.output(output);
        Ok(Part { name: "text encoder", plan: planning.plan(&g)?, input, output, params })
    }

    /// Hidden states of each of `prompts`, by the plans of so many.
    pub(crate) async fn encode_prompts(
        &self,
        gpu: &Gpu,
        TextParts { whole, rest }: &TextParts,
        pool: &mut Pool,
        prompts: &[Vec<u32>],
    ) -> Result<Hidden> {
        let tokens = prompts.first().map_or(0, Vec::len);
        let mut hidden = Hidden { store: Store::new(gpu), count: prompts.len() };
        let bytes = DType::F32.value_bytes(tokens * self.text.hidden_size);
        let keys: Vec<(String, u64)> = (0..prompts.len()).map(|i| (i.to_string(), bytes)).collect();
        hidden.store.allocate("hidden states", &keys)?;
        // A last, shorter chunk has the same weights.
        let weights = Store::beside(gpu, self.weights(gpu, whole.name, &whole.params).await?);
        let mut sessions = Vec::with_capacity(2);
        for part in std::iter::once(whole).chain(rest) {
            sessions.push((Session::new(gpu, part.plan.clone(), pool, &weights).await?, part.input, part.output));
        }
        let mut done = 0;
        for chunk in prompts.chunks(PROMPTS) {
            let is_whole = chunk.len() == prompts.len().min(PROMPTS);
            let Some((session, input, output)) = sessions.get(usize::from(!is_whole)) else { continue };
            session.write_ids(*input, &chunk.concat())?;
            session.run().await?;
            let states = session.place(*output)?;
            for row in 0..chunk.len() {
                hidden.take(gpu, done + row, &states.part(row, chunk.len())?)?;
            }
            done += chunk.len();
        }
        Ok(hidden)
    }
}

/// Hidden states `[tokens, width]` of some prompts, on the device.
pub(crate) struct Hidden {
    store: Store,
    count: usize,
}

impl Hidden {
    /// Writes those of prompts `which`, in this order, to `input` of `session`.
    pub(crate) fn give(&self, gpu: &Gpu, which: &[usize], session: &Session, input: Tensor) -> Result<()> {
        let to = session.place(input)?;
        for (row, i) in which.iter().enumerate() {
            gpu.copy(self.store.entry(&i.to_string())?, &to.part(row, which.len())?)?;
        }
        Ok(())
    }

    /// Copies the hidden states `from` into prompt `index`.
    pub(crate) fn take(&self, gpu: &Gpu, index: usize, from: &StoredBuffer) -> Result<()> {
        gpu.copy(from, self.store.entry(&index.to_string())?)
    }

    /// All of them, on the host.
    pub(crate) async fn read(&self) -> Result<Vec<Vec<f32>>> {
        let mut all = Vec::with_capacity(self.count);
        for i in 0..self.count {
            all.push(bytemuck::pod_collect_to_vec(&self.store.read(&i.to_string()).await?));
        }
        Ok(all)
    }
}
