//! Recording, differentiation, memory planning and replay of computations with static shapes.
//!
//! Models record nodes into a [`Graph`]; [`grad`] appends their backward pass; [`Plan`] assigns memory; [`Session`]
//! replays the plan on a device. This module knows the trait [`Op`], never a concrete operation.

mod depends;
mod dump;
mod eval;
mod grad;
mod launch;
mod op;
mod overwrites;
mod placement;
mod plan;
mod run;

pub use eval::eval;
pub(crate) use eval::reference;
pub use grad::grad;
pub use launch::{Binding, Dispatch, KernelLaunch, Launch, Slot};
pub use op::{Op, Vjp};
pub(crate) use plan::GUARD_BYTES;
pub use plan::{Plan, PlanOptions};
pub use run::{Compared, NodeTime, Replayed, Session};

use std::collections::HashMap;
use std::sync::Arc;

use crate::base::{DType, Shape};
use crate::error::{Error, Result};

/// Handle to a tensor of one [`Graph`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tensor(pub(crate) u32);

/// Index of a node in recording order.
pub type NodeId = usize;

/// Origin of a tensor's values.
#[derive(Clone, Debug, PartialEq)]
pub enum Source {
    /// Written by the host before a run.
    Input,
    /// Held in the [`Store`](crate::gpu::Store) under this key: weights, optimizer state, sampler state.
    Stored(String),
    /// Output `.1` of node `.0`.
    Node(NodeId, usize),
}

/// Shape, storage type, origin and name of a tensor.
#[derive(Clone, Debug)]
pub struct TensorInfo {
    /// Extents, the last one contiguous.
    pub shape: Shape,
    /// Storage type.
    pub dtype: DType,
    /// Origin of its values.
    pub source: Source,
    /// Name for people: the checkpoint key, the input's name, or the producing op.
    pub name: String,
}

impl TensorInfo {
    /// Bytes in memory, padded to whole `vec4`.
    pub fn bytes(&self) -> u64 {
        self.dtype.bytes(self.shape.elements())
    }
}

/// Recorded application of an op.
#[derive(Clone, Debug)]
pub struct Node {
    /// The op with its attributes.
    pub op: Arc<dyn Op>,
    /// Operands.
    pub inputs: Vec<Tensor>,
    /// Results.
    pub outputs: Vec<Tensor>,
    /// Innermost segment that this node was recorded in, for gradient checkpointing.
    pub segment: Option<usize>,
}

/// Part of a graph that is recorded again for its backward pass, with [`grad`]'s `checkpoint`.
struct Segment {
    name: String,
    /// Segment that this one was recorded in.
    outer: Option<usize>,
}

/// Static computation: tensors, and the nodes that make them, in order.
#[derive(Default)]
pub struct Graph {
    pub(crate) tensors: Vec<TensorInfo>,
    pub(crate) nodes: Vec<Node>,
    pub(crate) outputs: Vec<Tensor>,
    pub(crate) assigns: Vec<(Tensor, Tensor)>,
    stored: HashMap<String, Tensor>,
    segments: Vec<Segment>,
    current_segment: Option<usize>,
}

impl Graph {
    /// Creates an empty graph.
    pub fn new() -> Graph {
        Graph::default()
    }

    /// Shape, storage type, origin and name of `t`.
    pub fn info(&self, t: Tensor) -> &TensorInfo {
        &self.tensors[t.0 as usize]
    }

    /// Shape of `t`.
    pub fn shape(&self, t: Tensor) -> &Shape {
        &self.info(t).shape
    }

    /// Nodes in recording order.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The tensors that the host may read after a run.
    pub fn outputs(&self) -> &[Tensor] {
        &self.outputs
    }

    fn tensor(&mut self, info: TensorInfo) -> Tensor {
        self.tensors.push(info);
        Tensor((self.tensors.len() - 1) as u32)
    }

    /// Records a tensor that the host writes before a run.
    pub fn input(&mut self, name: &str, shape: impl Into<Shape>, dtype: DType) -> Tensor {
        self.tensor(TensorInfo { shape: shape.into(), dtype, source: Source::Input, name: name.to_string() })
    }

    /// Records a tensor that is held in the [`Store`](crate::gpu::Store) under `key`. The same key gives the same
    /// handle.
    ///
    /// # Errors
    /// [`Error::Op`] if `key` was recorded with another shape or storage type.
    pub fn stored(&mut self, key: &str, shape: impl Into<Shape>, dtype: DType) -> Result<Tensor> {
        let shape = shape.into();
        if let Some(&t) = self.stored.get(key) {
            let info = self.info(t);
            if info.shape != shape || info.dtype != dtype {
                return Err(Error::op(
                    "stored",
                    format!("{key} is {:?} {}, asked for as {dtype:?} {shape}", info.dtype, info.shape),
                ));
            }
            return Ok(t);
        }
        let source = Source::Stored(key.to_string());
        let t = self.tensor(TensorInfo { shape, dtype, source, name: key.to_string() });
        self.stored.insert(key.to_string(), t);
        Ok(t)
    }

    /// Returns whether a stored tensor was recorded under `key`.
    pub fn holds(&self, key: &str) -> bool {
        self.stored.contains_key(key)
    }

    /// All recorded stored tensors, in recording order.
    pub fn stored_tensors(&self) -> impl Iterator<Item = (&str, Tensor)> {
        self.tensors.iter().enumerate().filter_map(|(i, t)| match &t.source {
            Source::Stored(key) => Some((key.as_str(), Tensor(i as u32))),
            _ => None,
        })
    }

    /// Records `op` on `inputs` and returns its results. Runs the op's shape rule.
    ///
    /// # Errors
    /// [`Error::Op`] if the shape rule refuses the inputs.
    pub fn push(&mut self, op: impl Op + 'static, inputs: &[Tensor]) -> Result<Vec<Tensor>> {
        self.push_dyn(Arc::new(op), inputs)
    }

    /// Records an op with exactly one result.
    ///
    /// # Errors
    /// Those of [`Graph::push`], and [`Error::Op`] if the op has another number of results.
    pub fn push1(&mut self, op: impl Op + 'static, inputs: &[Tensor]) -> Result<Tensor> {
        let name = op.name();
        match self.push(op, inputs)?.as_slice() {
            [t] => Ok(*t),
            more => Err(Error::op(name, format!("has {} results, expected one", more.len()))),
        }
    }

    /// Records a shared op, as [`Graph::push`] does.
    ///
    /// # Errors
    /// Those of [`Graph::push`].
    pub fn push_dyn(&mut self, op: Arc<dyn Op>, inputs: &[Tensor]) -> Result<Vec<Tensor>> {
        let infos: Vec<&TensorInfo> = inputs.iter().map(|&t| self.info(t)).collect();
        let results = op.infer(&infos)?;
        let (id, name) = (self.nodes.len(), op.name());
        let outputs: Vec<Tensor> = (results.into_iter().enumerate())
            .map(|(i, (shape, dtype))| {
                self.tensor(TensorInfo { shape, dtype, source: Source::Node(id, i), name: name.to_string() })
            })
            .collect();
        self.nodes.push(Node { op, inputs: inputs.to_vec(), outputs: outputs.clone(), segment: self.current_segment });
        Ok(outputs)
    }

    /// Records `f` as one segment for gradient checkpointing. With [`grad`]'s `checkpoint`, its nodes are recorded
    /// again before their backward instead of being kept alive (Chen et al. 2016, arXiv 1604.06174). A segment inside a
    /// segment is recorded once more before its own backward, so that of the outer one's second recording only what
    /// lies between the inner ones is kept.
    ///
    /// # Errors
    /// Those of `f`.
    pub fn segment<T>(&mut self, name: &str, f: impl FnOnce(&mut Graph) -> Result<T>) -> Result<T> {
        let outer = self.current_segment;
        self.segments.push(Segment { name: name.to_string(), outer });
        self.current_segment = Some(self.segments.len() - 1);
        let result = f(self);
        self.current_segment = outer;
        result
    }

    /// Segments around what was recorded in `segment`, itself included, from the innermost out.
    fn segments_around(&self, segment: Option<usize>) -> impl Iterator<Item = usize> {
        std::iter::successors(segment, |&inner| self.segments[inner].outer)
    }

    /// Keeps `t` until the end of the run, so that the host can read it.
    pub fn output(&mut self, t: Tensor) {
        if !self.outputs.contains(&t) {
            self.outputs.push(t);
        }
    }

    /// Makes the run leave `value` in the stored tensor `target`: its producer writes there directly.
    ///
    /// # Errors
    /// [`Error::Op`] if `target` is not stored, `value` is not computed, or they differ in size or type.
    pub fn assign(&mut self, target: Tensor, value: Tensor) -> Result<()> {
        let (to, from) = (self.info(target), self.info(value));
        if !matches!(to.source, Source::Stored(_)) || !matches!(from.source, Source::Node(..)) {
            return Err(Error::op(
                "assign",
                format!("{} <- {}: needs a stored tensor and a computed one", to.name, from.name),
            ));
        }
        if to.shape.elements() != from.shape.elements() || to.dtype != from.dtype {
            return Err(Error::op("assign", format!("{} is {}, value is {}", to.name, to.shape, from.shape)));
        }
        self.assigns.push((target, value));
        Ok(())
    }
}
