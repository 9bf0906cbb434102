//! Tensors that share memory: through reshapes, in-place updates and assignments; and the order in which that memory is
//! overwritten and read.

use std::collections::{HashMap, HashSet};

use super::{Graph, Node, Source, Tensor};
use crate::error::{Error, Result};

/// Finds, for each tensor, the one that owns its memory.
///
/// # Errors
/// [`Error::Op`] where an assigned value lies in memory of its own already, as a stored tensor's does.
pub(super) fn roots(graph: &Graph) -> Result<Vec<Tensor>> {
    let mut roots: Vec<Tensor> = (0..graph.tensors.len() as u32).map(Tensor).collect();
    for node in &graph.nodes {
        let mut same = node.op.in_place();
        same.extend(node.op.alias().map(|i| (0, i)));
        for (o, i) in same {
            roots[node.outputs[o].0 as usize] = roots[node.inputs[i].0 as usize];
        }
    }
    for &(target, value) in &graph.assigns {
        let from = roots[value.0 as usize];
        let info = graph.info(from);
        if !matches!(info.source, Source::Node(..)) {
            return Err(Error::op("assign", format!("{} already has a home of its own", info.name)));
        }
        for root in roots.iter_mut().filter(|r| **r == from) {
            *root = target;
        }
    }
    Ok(roots)
}

/// Refuses a graph whose `live` nodes read memory after it was overwritten, by an in-place update or the producer of an
/// assigned value: the reader holds a handle to the old values, and would be given the new ones.
///
/// # Errors
/// [`Error::Op`] that names the reader, the tensor and the op that overwrites it.
pub(super) fn check(graph: &Graph, live: &[usize], roots: &[Tensor]) -> Result<()> {
    // How often the memory of a root was overwritten, and by which node last; and how often when a tensor was made.
    let mut overwritten: HashMap<Tensor, (u32, usize)> = HashMap::new();
    let mut made = vec![0; graph.tensors.len()];
    let root_of = |t: Tensor| roots[t.0 as usize];
    let stale = |t: Tensor, made: &[u32], overwritten: &HashMap<Tensor, (u32, usize)>| {
        let (times, writer) = overwritten.get(&root_of(t)).copied()?;
        (made[t.0 as usize] != times).then(|| (&graph.info(t).name, graph.nodes[writer].op.name()))
    };
    for &id in live {
        let node = &graph.nodes[id];
        if let Some((name, writer)) = node.inputs.iter().find_map(|&t| stale(t, &made, &overwritten)) {
            let message =
                format!("reads {name} after {writer} has overwritten it; record it before, or read the result");
            return Err(Error::op(node.op.name(), message));
        }
        for &t in &node.outputs {
            if let Some(i) = node.op.alias() {
                made[t.0 as usize] = made[node.inputs[i].0 as usize];
            } else if root_of(t) != t {
                check_own_reads(graph, node, t, roots)?;
                let times = overwritten.get(&root_of(t)).map_or(0, |(times, _)| *times) + 1;
                overwritten.insert(root_of(t), (times, id));
                made[t.0 as usize] = times;
            }
        }
    }
    match graph.outputs.iter().find_map(|&t| stale(t, &made, &overwritten)) {
        Some((name, writer)) => {
            Err(Error::op(writer, format!("overwrites {name}, which is an output; make the result the output")))
        }
        None => Ok(()),
    }
}

/// Refuses a `node` that reads the memory in which it leaves its result `t`, otherwise than element by element or as
/// [`super::Op::in_place`] declares: a workgroup might read what another has overwritten.
fn check_own_reads(graph: &Graph, node: &Node, t: Tensor, roots: &[Tensor]) -> Result<()> {
    let root = roots[t.0 as usize];
    let reads = |i: usize| roots[node.inputs[i].0 as usize] == root;
    let declared = node.op.in_place().into_iter().filter(|&(_, i)| reads(i)).count();
    let count = (0..node.inputs.len()).filter(|&i| reads(i)).count();
    if count > declared && !node.op.is_elementwise() {
        let message = format!("reads {} while it overwrites it; assign a copy", graph.info(root).name);
        return Err(Error::op(node.op.name(), message));
    }
    Ok(())
}

/// Finds the stored tensors that some node of the plan writes.
pub(super) fn written_stored(graph: &Graph, live: &[usize], roots: &[Tensor]) -> HashSet<Tensor> {
    let mut written: HashSet<Tensor> = HashSet::new();
    for node in live.iter().map(|&id| &graph.nodes[id]).filter(|node| node.op.alias().is_none()) {
        let own = node.outputs.iter().map(|t| roots[t.0 as usize]);
        written.extend(own.filter(|&root| matches!(graph.info(root).source, Source::Stored(_))));
    }
    written
}
