//! Reverse-mode differentiation as a graph edit: backward nodes are recorded like any others.

use std::collections::{HashMap, HashSet};

use super::{Graph, NodeId, Source, Tensor, Vjp};
use crate::error::{Error, Result};

/// Gradients to record, and the two ops that recording them takes: this layer knows no concrete op, so the caller passes
/// them; `ops::grad` does.
#[derive(Clone, Copy)]
pub struct Gradients<'a> {
    /// Scalar that is differentiated.
    pub loss: Tensor,
    /// Tensors by which it is differentiated.
    pub wrt: &'a [Tensor],
    /// Records each [`Graph::segment`] again just before its own backward, so that its intermediates need not outlive the
    /// forward pass. Of segments inside a segment, each is recorded once more before its own backward.
    pub checkpoint: bool,
    /// Gradient of the loss by itself: a one.
    pub seed: Tensor,
    /// Records the addition of two gradients.
    pub sum: fn(&mut Graph, Tensor, Tensor) -> Result<Tensor>,
}

/// Appends nodes that compute the gradients in `wanted`. Calls `each` with the index in [`Gradients::wrt`] and the
/// gradient as soon as it is complete. Nothing recorded later reads that tensor, so `each` may record an op that overwrites
/// it.
///
/// Only nodes on a path from the tensors to the loss get gradients.
///
/// # Errors
/// If an op on a path has no gradient rule, or an operation cannot be recorded.
pub fn grad(
    g: &mut Graph,
    wanted: &Gradients,
    each: &mut dyn FnMut(&mut Graph, usize, Tensor) -> Result<()>,
) -> Result<()> {
    let (loss, wrt) = (wanted.loss, wanted.wrt);
    if g.shape(loss).elements() != 1 {
        return Err(Error::op("grad", format!("the loss must have one element, not {}", g.shape(loss))));
    }
    let forward = match g.info(loss).source {
        Source::Node(id, _) => id + 1,
        _ => return Err(Error::op("grad", "the loss is not computed by the graph")),
    };
    let mut backward = Backward::new(g, wanted, forward);
    // A gradient is whole once the first node that reads its tensor is behind.
    let mut whole: HashMap<NodeId, Vec<usize>> = HashMap::new();
    for (i, t) in wrt.iter().enumerate() {
        let first = g.nodes[..forward].iter().position(|node| node.inputs.contains(t));
        let first =
            first.ok_or_else(|| Error::op("grad", format!("the loss does not depend on {}", g.info(*t).name)))?;
        whole.entry(first).or_default().push(i);
    }
    for id in (0..forward).rev() {
        backward.node(g, id)?;
        for i in whole.remove(&id).unwrap_or_default() {
            let gradient = backward.grads.get(&wrt[i]).copied();
            let lost = || Error::op("grad", format!("the loss does not depend on {}", g.info(wrt[i]).name));
            let gradient = gradient.ok_or_else(lost)?;
            each(g, i, gradient)?;
        }
    }
    Ok(())
}

/// Backward pass that is being recorded, from the last node to the first.
struct Backward {
    /// Number of nodes of the forward pass.
    forward: NodeId,
    /// Tensors that need a gradient.
    needs: HashSet<Tensor>,
    /// Gradient of each tensor so far.
    grads: HashMap<Tensor, Tensor>,
    /// Segments that were recorded again, with [`Gradients::checkpoint`].
    again: Option<Rerecord>,
    sum: fn(&mut Graph, Tensor, Tensor) -> Result<Tensor>,
}

impl Backward {
    fn new(g: &Graph, wanted: &Gradients, forward: NodeId) -> Backward {
        Backward {
            forward,
            needs: reachable(g, wanted.wrt, forward),
            grads: HashMap::from([(wanted.loss, wanted.seed)]),
            again: wanted.checkpoint.then(Rerecord::default),
            sum: wanted.sum,
        }
    }

    /// Records the backward of node `id`.
    fn node(&mut self, g: &mut Graph, id: NodeId) -> Result<()> {
        let node = g.nodes[id].clone();
        let output_grads: Vec<Option<Tensor>> = node.outputs.iter().map(|t| self.grads.get(t).copied()).collect();
        let wanted: Vec<bool> = node.inputs.iter().map(|t| self.needs.contains(t)).collect();
        if output_grads.iter().all(Option::is_none) || !wanted.contains(&true) {
            return Ok(());
        }
        let (mut inputs, mut outputs) = (node.inputs.clone(), node.outputs.clone());
        if let (Some(again), Some(_)) = (&mut self.again, node.segment) {
            again.segments(g, node.segment, self.forward)?;
            for t in inputs.iter_mut().chain(outputs.iter_mut()) {
                *t = again.map.get(t).copied().unwrap_or(*t);
            }
        }
        let before = g.nodes.len();
        let found = node.op.vjp(&mut Vjp::new(g, inputs, outputs, output_grads, wanted.clone()))?;
        for ((input, gradient), wanted) in node.inputs.iter().zip(&found).zip(wanted) {
            let (true, Some(gradient)) = (wanted, *gradient) else {
                continue;
            };
            if g.shape(*input).elements() != g.shape(gradient).elements() {
                let message = format!("gradient of {} has shape {}", g.shape(*input), g.shape(gradient));
                return Err(Error::op(node.op.name(), message));
            }
            let total = match self.grads.get(input) {
                Some(&earlier) => {
                    let alone = found.iter().filter(|other| **other == Some(gradient)).count() == 1;
                    let added = alone && adds(g, before, gradient, earlier);
                    if added { gradient } else { (self.sum)(g, earlier, gradient)? }
                }
                None => gradient,
            };
            self.grads.insert(*input, total);
        }
        Ok(())
    }
}

/// Makes the node that computes `gradient` add `earlier` to it, if it can: it was recorded after the first `before` nodes,
/// nothing reads what it computes now, and `earlier` is there before it and is none of its operands: a kernel that binds
/// memory twice is another one.
fn adds(g: &mut Graph, before: usize, gradient: Tensor, earlier: Tensor) -> bool {
    let Source::Node(id, _) = g.info(gradient).source else { return false };
    let known = match g.info(earlier).source {
        Source::Node(from, _) => from < id,
        _ => true,
    };
    let alike = g.shape(earlier) == g.shape(gradient) && g.info(earlier).dtype == g.info(gradient).dtype;
    let node = &g.nodes[id];
    let unread = g.nodes[id + 1..].iter().all(|later| !later.inputs.contains(&gradient));
    if id < before || !known || !alike || !unread || node.outputs.len() != 1 || node.inputs.contains(&earlier) {
        return false;
    }
    let Some((op, place)) = node.op.adding() else { return false };
    let node = &mut g.nodes[id];
    node.op = op;
    node.inputs.insert(place, earlier);
    true
}

/// Tensors that depend on any of `wrt`, themselves included.
fn reachable(g: &Graph, wrt: &[Tensor], forward: NodeId) -> HashSet<Tensor> {
    let mut needs: HashSet<Tensor> = wrt.iter().copied().collect();
    for node in &g.nodes[..forward] {
        if node.inputs.iter().any(|t| needs.contains(t)) {
            needs.extend(node.outputs.iter().copied());
        }
    }
    needs
}

/// Copies of segments' nodes, for gradient checkpointing.
#[derive(Default)]
struct Rerecord {
    done: HashSet<usize>,
    /// Latest copy of each tensor.
    map: HashMap<Tensor, Tensor>,
}

impl Rerecord {
    /// Records what is not recorded again yet of `segment` and those around it, the outermost first.
    fn segments(&mut self, g: &mut Graph, segment: Option<usize>, forward: NodeId) -> Result<()> {
        let around: Vec<usize> = g.segments_around(segment).collect();
        for &segment in around.iter().rev() {
            if self.done.insert(segment) {
                self.segment(g, segment, forward)?;
            }
        }
        Ok(())
    }

    /// Records the nodes of `segment` again, those of segments inside included. They read copies of their own, and of
    /// the segments around it.
    fn segment(&mut self, g: &mut Graph, segment: usize, forward: NodeId) -> Result<()> {
        let within = |g: &Graph, id: NodeId, segment: usize| {
            g.segments_around(g.nodes[id].segment).any(|around| around == segment)
        };
        let outermost = g.segments_around(Some(segment)).last().unwrap_or(segment);
        let nodes: Vec<NodeId> = (0..forward).filter(|&id| within(g, id, segment)).collect();
        for id in nodes {
            let node = g.nodes[id].clone();
            let made_in = |t: &Tensor, segment: usize| match g.info(*t).source {
                Source::Node(from, _) => within(g, from, segment),
                _ => false,
            };
            if let Some((_, i)) = node.op.in_place().into_iter().find(|(_, i)| !made_in(&node.inputs[*i], segment)) {
                let (segment, name) = (&g.segments[segment].name, &g.info(node.inputs[i]).name);
                let message = format!(
                    "updates {name} in place, and its checkpointed segment {segment} is recorded twice; record it outside"
                );
                return Err(Error::op(node.op.name(), message));
            }
            let copied = |t: &Tensor| made_in(t, outermost);
            let latest = |t: &Tensor| if copied(t) { self.map.get(t).copied().unwrap_or(*t) } else { *t };
            let inputs: Vec<Tensor> = node.inputs.iter().map(latest).collect();
            let copies = g.push_dyn(node.op.clone(), &inputs)?;
            self.map.extend(node.outputs.iter().copied().zip(copies));
        }
        Ok(())
    }
}
