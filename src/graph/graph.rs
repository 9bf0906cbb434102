//! Computation as it is recorded: the graph, and the contract of the operations in it. Each is made of the other: a node
//! holds an op, and an op's gradient rule records nodes. A new op is `src/ops/<op>.rs`, `shaders/<op>.wgsl` and its name
//! in `src/ops/mod.rs`.

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::Arc;

use super::{Launch, Source, Tensor, TensorInfo};
use crate::base::{Array, DType, Shape};
use crate::error::{Error, Result};

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

/// Part of a graph that is recorded again for its backward pass, with [`grad`](super::grad)'s `checkpoint`.
pub(super) struct Segment {
    pub(super) name: String,
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
    pub(super) segments: Vec<Segment>,
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

    /// Records `f` as one segment for gradient checkpointing. With [`grad`](super::grad)'s `checkpoint`, its nodes are recorded
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
    pub(super) fn segments_around(&self, segment: Option<usize>) -> impl Iterator<Item = usize> {
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

/// Differentiable operation on tensors of static shape.
pub trait Op: Debug + Send + Sync {
    /// Name, as in `src/ops/<name>.rs`.
    fn name(&self) -> &'static str;

    /// Shape rule: returns the shapes and types of the results.
    ///
    /// # Errors
    /// [`Error::Op`](crate::error::Error::Op) that names the argument and the shapes.
    fn infer(&self, inputs: &[&TensorInfo]) -> Result<Vec<(Shape, DType)>>;

    /// Emits the dispatches that compute the outputs. Runs without a GPU.
    fn launch(&self, launch: &mut Launch) -> Result<()>;

    /// Computes the results naively in f64: the oracle for the kernel and for finite differences.
    fn reference(&self, inputs: &[&Array]) -> Vec<Array>;

    /// Vector-Jacobian product: records the gradient of each input that [`Vjp::needs`] one.
    fn vjp(&self, vjp: &mut Vjp) -> Result<Vec<Option<Tensor>>> {
        let _ = vjp;
        Err(Error::op(self.name(), "has no gradient rule"))
    }

    /// Number of floating-point operations (a multiply-add counts as two), for plans and benchmarks.
    fn flops(&self, inputs: &[&TensorInfo], outputs: &[&TensorInfo]) -> u64 {
        let _ = inputs;
        outputs.iter().map(|t| t.shape.elements() as u64).sum()
    }

    /// This op with one operand more, which it adds to its only result, and the place of that operand; `None` where it
    /// cannot. [`super::grad`] sums gradients so, without a pass of its own.
    fn adding(&self) -> Option<(Arc<dyn Op>, usize)> {
        None
    }

    /// Input whose memory output 0 is, under another shape and without a dispatch, if any.
    fn alias(&self) -> Option<usize> {
        None
    }

    /// Pairs `(output, input)` whose memory is the same: the kernel updates the input in place. A plan refuses a node that
    /// reads the input later, and [`super::grad`] an update, inside a segment that it would record twice, of what is not
    /// computed there.
    fn in_place(&self) -> Vec<(usize, usize)> {
        Vec::new()
    }

    /// Says that element `i` of a result depends on no element of the operands but `i`, so that the result may lie in an
    /// operand's memory ([`Graph::assign`]).
    fn is_elementwise(&self) -> bool {
        false
    }
}

/// Context of an op's gradient rule.
pub struct Vjp<'a> {
    /// The graph to record into.
    pub g: &'a mut Graph,
    /// The node's operands.
    pub inputs: Vec<Tensor>,
    /// The node's results.
    pub outputs: Vec<Tensor>,
    /// Gradient of the loss by each result, if it has one.
    pub grads: Vec<Option<Tensor>>,
    needs: Vec<bool>,
}

impl<'a> Vjp<'a> {
    pub(crate) fn new(
        g: &'a mut Graph,
        inputs: Vec<Tensor>,
        outputs: Vec<Tensor>,
        grads: Vec<Option<Tensor>>,
        needs: Vec<bool>,
    ) -> Self {
        Vjp { g, inputs, outputs, grads, needs }
    }

    /// Returns whether input `i` is on a path to a trainable tensor.
    pub fn needs(&self, i: usize) -> bool {
        self.needs.get(i).copied().unwrap_or(false)
    }

    /// Returns the gradient of the first result.
    ///
    /// # Errors
    /// [`Error::Op`](crate::error::Error::Op) if it has none.
    pub fn grad(&self) -> Result<Tensor> {
        self.grads.first().copied().flatten().ok_or_else(|| Error::op("grad", "the op's first result has no gradient"))
    }

    /// Shape of input `i`.
    pub fn shape(&self, i: usize) -> Shape {
        self.g.shape(self.inputs[i]).clone()
    }
}
