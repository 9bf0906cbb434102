//! Tensors of a graph: what is known of each before anything runs.

use crate::base::{DType, Shape};

/// Handle to a tensor of one [`Graph`](super::Graph).
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
