//! What a job takes of memory: phases that run in turn, and the report of a plan.

use std::task::{Context, Poll, Waker};

use crate::error::{Error, Message, Result, Words, message, option};
use crate::gpu::STAGING_BYTES;
use crate::nn::Param;

use super::planning::Part;

/// Memory and work of a job, as planned. Measured peaks are within 10 % of it.
#[derive(Clone, Debug, Default, serde::Serialize)]
#[serde(tag = "event", rename = "plan")]
pub struct PlanReport {
    /// Names and bytes of everything that takes memory.
    #[serde(serialize_with = "rows")]
    pub rows: Vec<(String, u64)>,
    /// Peak: the most bytes alive at once.
    pub peak_bytes: u64,
    /// Peak in bytes of a generation whose model keeps its weights between jobs
    /// ([`Model::keep_weights`](crate::Model::keep_weights)). A training keeps none.
    pub kept_bytes: u64,
    /// Dispatches of one step.
    pub dispatches: usize,
    /// FLOPs of one step.
    pub flops: u64,
    /// Distinct kernels of all phases. A driver that has none of them cached compiles this many.
    pub kernels: usize,
    /// Bytes of WGSL of these kernels.
    pub kernel_bytes: u64,
    /// Remarks for the user.
    pub notes: Vec<Message>,
}

impl PlanReport {
    /// JSON of the report with its notes in `words`.
    pub fn to_json(&self, words: &dyn Words) -> serde_json::Value {
        // Nothing in a report fails to serialize.
        let mut said = serde_json::to_value(self).unwrap_or_default();
        said["notes"] = self.notes.iter().map(|note| note.in_words(words)).collect();
        said
    }
}

/// Rows as objects: `{"what":"UNet: weights","bytes":1234}`.
fn rows<S: serde::Serializer>(rows: &[(String, u64)], serializer: S) -> Result<S::Ok, S::Error> {
    #[derive(serde::Serialize)]
    struct Row<'a> {
        what: &'a str,
        bytes: u64,
    }
    serializer.collect_seq(rows.iter().map(|(what, bytes)| Row { what, bytes: *bytes }))
}

/// A part of a job that runs while the others hold no memory but the shared pool.
#[derive(Default)]
pub(crate) struct Phase {
    pub name: &'static str,
    pub weights: u64,
    /// Gradients and moments.
    pub optimizer: u64,
    /// Inputs, uniforms, and what else is stored beside the weights.
    pub beside: u64,
    pub arena: Vec<u64>,
    /// Memory of its own in which validation samples are decoded now and then.
    pub decoding: u64,
}

impl Phase {
    pub fn part(part: &Part) -> Phase {
        let beside = part.plan.input_bytes + part.plan.uniform_bytes;
        let (weights, arena) = (bytes(&part.params), part.plan.arena.clone());
        Phase { name: part.name, weights, beside, arena, ..Phase::default() }
    }

    /// What it takes beside working memory.
    fn alone(&self) -> u64 {
        self.weights + self.optimizer + self.beside + self.decoding
    }

    /// Bytes of its working memory.
    pub fn working(&self) -> u64 {
        self.arena.iter().sum()
    }

    fn all(&self) -> u64 {
        self.alone() + self.working()
    }

    /// Whether prompts are encoded in it.
    pub fn is_text(&self) -> bool {
        self.name.starts_with("text encoder")
    }

    /// Whether an autoencoder runs in it.
    pub fn is_autoencoder(&self) -> bool {
        self.name.starts_with("VAE")
    }
}

/// Memory of a job.
pub(crate) struct Memory {
    /// What takes how many bytes.
    pub rows: Vec<(String, u64)>,
    /// The most bytes that are alive at once.
    pub peak: u64,
    /// The phase that takes most.
    pub largest: Phase,
}

/// Something that would make a phase take less: bytes of what it makes smaller, and the words for it.
pub(crate) type Way = (u64, Message);

/// Refuses a job that takes more than `allowed`, with `ways` in which its largest phase would take less; those for next to
/// nothing of it are left out.
pub(crate) fn within(allowed: Option<u64>, memory: &Memory, ways: impl FnOnce(&Phase) -> Vec<Way>) -> Result<()> {
    let Some(allowed) = allowed.filter(|&allowed| memory.peak > allowed) else { return Ok(()) };
    let (largest, megabytes) = (&memory.largest, |bytes: u64| format!("{:.1} MB", bytes as f64 / 1e6));
    let mut ways = ways(largest);
    ways.retain(|(bytes, _)| *bytes * 20 >= largest.all());
    ways.sort_by_key(|(bytes, _)| std::cmp::Reverse(*bytes));
    let advice = match ways.is_empty() {
        true => "no option makes it smaller".into(),
        false => message!["try ", Message::join(ways.into_iter().map(|(_, way)| way), ", ")],
    };
    let (name, weights, rest) = (largest.name, largest.weights, largest.all() - largest.weights);
    let most =
        format!("; the {name} takes most ({} of weights, {} beside them): ", megabytes(weights), megabytes(rest));
    let needed = format!("the job takes {}, ", megabytes(memory.peak));
    Err(Error::limit(message![needed, option("memory"), format!(" allows {}", megabytes(allowed)), most, advice]))
}

/// Chunks of a pool that serves every one of `arenas` in turn.
pub(crate) fn pool<'a>(arenas: impl IntoIterator<Item = &'a Vec<u64>>) -> Vec<u64> {
    let mut chunks: Vec<u64> = Vec::new();
    for arena in arenas {
        chunks.resize(chunks.len().max(arena.len()), 0);
        chunks.iter_mut().zip(arena).for_each(|(chunk, &bytes)| *chunk = bytes.max(*chunk));
    }
    chunks
}

pub(crate) fn bytes(params: &[Param]) -> u64 {
    params.iter().map(|p| p.bytes().next_multiple_of(256)).sum()
}

/// Rows and peak of phases that run in turn, each in working memory of its own size.
pub(crate) fn in_turn(phases: Vec<Phase>) -> Memory {
    let mut rows: Vec<(String, u64)> = Vec::new();
    for phase in &phases {
        rows.push((format!("{}: weights", phase.name), phase.weights));
        if phase.optimizer > 0 {
            rows.push((format!("{}: gradients and moments", phase.name), phase.optimizer));
        }
        rows.push((format!("{}: inputs and state", phase.name), phase.beside));
        rows.push((format!("{}: working memory", phase.name), phase.working()));
        if phase.decoding > 0 {
            rows.push(("decoding validation samples".into(), phase.decoding));
        }
    }
    let staging = staging(&phases);
    rows.push(("staging".into(), staging));
    let largest = phases.into_iter().max_by_key(Phase::all).unwrap_or_default();
    Memory { rows, peak: largest.all() + staging, largest }
}

/// Bytes that weights pass through on their way to the device.
pub(crate) fn staging(phases: &[Phase]) -> u64 {
    STAGING_BYTES.min(phases.iter().map(|p| p.weights).max().unwrap_or(0))
}

/// What `planning` gives, which waits for nothing where there is no device.
pub(crate) fn at_once<T>(planning: impl Future<Output = Result<T>>) -> Result<T> {
    match std::pin::pin!(planning).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(planned) => planned,
        Poll::Pending => Err(Error::Internal("a plan without a device waits for one".into())),
    }
}
