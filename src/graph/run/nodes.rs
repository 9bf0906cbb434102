//! Runs of a plan node by node: to time each, or to hold its results against its reference.

use web_time::Instant;

use super::session::Session;
use crate::base::{Array, DType, Shape};
use crate::error::Result;
use crate::gpu::AdapterClass;
use crate::graph::{Node, Source, Tensor, TensorInfo, reference};

/// Runs of a dispatch in one submit where a submit takes longer than many a dispatch.
const REPEATS: usize = 16;

/// Time of one node, run alone.
#[derive(Clone, Copy, Debug)]
pub struct NodeTime {
    /// Its op's name.
    pub op: &'static str,
    /// Seconds of all its dispatches.
    pub seconds: f64,
    /// Its FLOPs.
    pub flops: u64,
    /// Rows of its first result.
    pub rows: usize,
}

/// Largest difference between a node's results on the device and its op's f64 reference.
#[derive(Clone, Debug)]
pub struct Compared {
    /// Index of the node in its graph.
    pub node: usize,
    /// Its op's name.
    pub op: &'static str,
    /// Shapes of its operands.
    pub operands: Vec<Shape>,
    /// Shape of the result that differs most.
    pub result: Shape,
    /// Parameters that it reads; where it reads none, the one that was read last on the way to it.
    pub place: String,
    /// The difference, as a fraction of the reference's largest magnitude; infinite where one of the two is not a number.
    pub error: f64,
}

impl std::fmt::Display for Compared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let operands: Vec<_> = self.operands.iter().map(Shape::to_string).collect();
        let Compared { node, op, result, place, error, .. } = self;
        write!(f, "node {node}, {op} {} -> {result}, {place}: off by {error:.1e}", operands.join(", "))
    }
}

/// Outcome of [`Session::check`].
#[derive(Clone, Debug, Default)]
pub struct Replayed {
    /// Nodes that were compared.
    pub nodes: usize,
    /// The one of them that differs most without being wrong.
    pub worst: Option<Compared>,
    /// The first node that is off by more than the bound, at which the replay ended.
    pub wrong: Option<Compared>,
}

impl Session {
    /// Runs every dispatch alone, waits for it, and returns the time of each node. On hardware a dispatch is run
    /// many times in one submit, so that the submit itself, some 0.1 ms, counts little.
    ///
    /// # Errors
    /// [`Error::Device`](crate::Error::Device) if the device fails.
    pub async fn profile(&self) -> Result<Vec<NodeTime>> {
        let repeats = if self.gpu.caps().class == AdapterClass::Cpu { 1 } else { REPEATS };
        let mut nodes: Vec<(usize, &'static str, f64)> = Vec::new();
        for (i, d) in self.plan.dispatches.iter().enumerate() {
            let start = Instant::now();
            self.gpu.queue.submit([self.encode(std::iter::repeat_n((i, self.steps[i].grid), repeats))]);
            self.gpu.wait().await?;
            let seconds = start.elapsed().as_secs_f64() / repeats as f64;
            match nodes.last_mut().filter(|(node, ..)| *node == d.node) {
                Some((_, _, total)) => *total += seconds,
                None => nodes.push((d.node, self.plan.nodes[d.node].op.name(), seconds)),
            }
        }
        let time = |(node, op, seconds): (usize, &'static str, f64)| {
            let output = self.plan.nodes[node].outputs.first();
            let rows = output.map_or(0, |t| self.plan.tensors[t.0 as usize].shape.rows());
            NodeTime { op, seconds, flops: self.plan.flops.get(&node).copied().unwrap_or(0), rows }
        };
        Ok(nodes.into_iter().map(time).collect())
    }

    /// Runs the plan node by node, in place of [`Session::run`], and compares each node's results with its op's f64
    /// reference of the operands that the device held, up to the first that is off by more than `bound`: a fraction of the
    /// reference's largest magnitude. Operands are read before the node runs, so it may overwrite them, and later nodes may
    /// reuse their memory. Not compared are reshapes, which run nothing, and packed words (moments of 8 bits).
    ///
    /// # Errors
    /// [`Error::Device`](crate::Error::Device) if the device fails; [`Error::Op`](crate::Error::Op) if a reference does not
    /// match its op's shape rule.
    pub async fn check(&self, bound: f64) -> Result<Replayed> {
        let mut replayed = Replayed::default();
        let mut steps = 0;
        self.tell_slice(None);
        while let Some(id) = self.plan.dispatches.get(steps).map(|dispatch| dispatch.node) {
            let operands = self.arrays(&self.plan.nodes[id].inputs).await?;
            let first = steps;
            steps += self.plan.dispatches[first..].iter().take_while(|dispatch| dispatch.node == id).count();
            self.gpu.queue.submit([self.encode((first..steps).map(|step| (step, self.steps[step].grid)))]);
            let Some(compared) = self.compare(id, &operands).await? else { continue };
            replayed.nodes += 1;
            if compared.error > bound {
                replayed.wrong = Some(compared);
                break;
            }
            if replayed.worst.as_ref().is_none_or(|worst| worst.error < compared.error) {
                replayed.worst = Some(compared);
            }
        }
        Ok(replayed)
    }

    /// Compares the results that node `id` has left with its reference of `operands`.
    async fn compare(&self, id: usize, operands: &[Array]) -> Result<Option<Compared>> {
        let node = &self.plan.nodes[id];
        let infos: Vec<_> = node.outputs.iter().map(|&t| self.info(t)).collect();
        let expected = reference(&*node.op, &operands.iter().collect::<Vec<_>>(), &infos)?;
        let mut worst: Option<(f64, Shape)> = None;
        for ((&t, info), expected) in node.outputs.iter().zip(&infos).zip(&expected) {
            if info.dtype == DType::U32 {
                continue;
            }
            let error = difference(&self.array(t).await?.data, &expected.data);
            if worst.as_ref().is_none_or(|(most, _)| *most < error) {
                worst = Some((error, info.shape.clone()));
            }
        }
        let compared = |(error, result)| Compared {
            node: id,
            op: node.op.name(),
            operands: operands.iter().map(|operand| operand.shape.clone()).collect(),
            result,
            place: self.locate(id),
            error,
        };
        Ok(worst.map(compared))
    }

    fn info(&self, t: Tensor) -> &TensorInfo {
        &self.plan.tensors[t.0 as usize]
    }

    async fn arrays(&self, tensors: &[Tensor]) -> Result<Vec<Array>> {
        let mut arrays = Vec::with_capacity(tensors.len());
        for &t in tensors {
            arrays.push(self.array(t).await?);
        }
        Ok(arrays)
    }

    /// Reads the values that a tensor has now.
    async fn array(&self, t: Tensor) -> Result<Array> {
        let info = self.info(t);
        if info.dtype != DType::U32 {
            return Ok(Array::from_f32(info.shape.clone(), &self.read(t).await?));
        }
        let at = self.place(t)?;
        let words: Vec<u32> = bytemuck::pod_collect_to_vec(&self.gpu.read(&at.buffer, at.offset, at.bytes).await?);
        Ok(Array::new(info.shape.clone(), words.into_iter().map(f64::from).collect()))
    }

    /// Says in the model's own names where node `id` stands.
    fn locate(&self, id: usize) -> String {
        let parameters = |node: &Node| {
            let stored = node.inputs.iter().map(|&t| self.info(t)).filter(|t| matches!(t.source, Source::Stored(_)));
            stored.map(|t| t.name.as_str()).collect::<Vec<_>>().join(", ")
        };
        let own = parameters(&self.plan.nodes[id]);
        if !own.is_empty() {
            return format!("with {own}");
        }
        // Nodes stand in the order in which they were recorded: the highest index is the last on the way.
        let mut above = std::collections::BTreeSet::from([id]);
        while let Some(last) = above.pop_last() {
            let node = &self.plan.nodes[last];
            let read = parameters(node);
            if !read.is_empty() {
                return format!("after {read}");
            }
            above.extend(node.inputs.iter().filter_map(|&t| match self.info(t).source {
                Source::Node(from, _) => Some(from),
                _ => None,
            }));
        }
        "before any parameter".into()
    }
}

/// Largest difference of `got` from `expected`, as a fraction of the largest finite magnitude expected.
fn difference(got: &[f64], expected: &[f64]) -> f64 {
    let largest = expected.iter().filter(|x| x.is_finite()).fold(1e-6f64, |most, x| most.max(x.abs()));
    let off = |(&got, &expected): (&f64, &f64)| {
        let same = got == expected || (got.is_nan() && expected.is_nan());
        let off = (got - expected).abs();
        if same {
            0.0
        } else if off.is_nan() {
            f64::INFINITY
        } else {
            off / largest
        }
    };
    got.iter().zip(expected).map(off).fold(0.0, f64::max)
}
