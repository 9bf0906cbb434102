//! Plan of a graph: a flat list of dispatches in placed memory. Needs no GPU.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::placement::{Block, Place, place};
use super::{Binding, Dispatch, Graph, Launch, Node, Slot, Source, Tensor, TensorInfo};
use crate::error::{Error, Result, message, option};
use crate::gpu::{Access, Caps, Variants};

/// Guard behind each block of a plan made with sentinels.
pub(crate) const GUARD_BYTES: u64 = 256;

/// Options of a plan.
#[derive(Clone, Debug, Default)]
pub struct PlanOptions {
    /// Keeps every intermediate alive, so that each node can be checked after the run.
    pub keep_all: bool,
    /// Leaves a guard behind every block of the arena, for [`super::Session::check_sentinels`].
    pub sentinels: bool,
}

/// Location of a slot's memory.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Home {
    /// A chunk of the arena.
    Arena(Place),
    /// The store, by key.
    Stored(String),
    /// The session's inputs, at this offset.
    Input(u64),
}

/// Planned graph: every dispatch and every byte is known before the first one runs.
#[derive(Clone)]
pub struct Plan {
    pub(crate) dispatches: Vec<Dispatch>,
    pub(crate) homes: HashMap<Slot, Home>,
    pub(crate) tensors: Vec<TensorInfo>,
    pub(crate) roots: Vec<Tensor>,
    pub(crate) nodes: Vec<Node>,
    /// Sizes of the arena's chunks.
    pub arena: Vec<u64>,
    /// Bytes of the inputs' buffer.
    pub input_bytes: u64,
    /// Bytes of the uniform buffer.
    pub uniform_bytes: u64,
    /// Stored tensors that the plan touches, with their bytes.
    pub stored: BTreeMap<String, u64>,
    /// FLOPs of each node that runs, by node index.
    pub flops: BTreeMap<usize, u64>,
    pub(crate) caps: Caps,
}

impl Plan {
    /// Plans `graph` for an adapter with `caps`, using the kernel `variants` chosen for it.
    ///
    /// # Errors
    /// [`Error::Limit`] if a tensor or dispatch exceeds the adapter's limits, by name; [`Error::Op`] if nodes overwrite
    /// memory that later ones read.
    pub fn new(graph: &Graph, caps: &Caps, variants: &Variants, options: &PlanOptions) -> Result<Plan> {
        log::debug!(target: "portray::plan", "{graph:?}");
        let live = live_nodes(graph, options.keep_all);
        let roots = roots(graph)?;
        let written_stored = written_stored(graph, &live, &roots);
        let (mut dispatches, mut scratch) = (Vec::new(), Vec::new());
        let mut flops = BTreeMap::new();
        for &id in &live {
            let node = &graph.nodes[id];
            let io = |ts: &[Tensor]| ts.iter().map(|&t| graph.info(t)).collect::<Vec<_>>();
            flops.insert(id, node.op.flops(&io(&node.inputs), &io(&node.outputs)));
            if node.op.alias().is_some() {
                continue;
            }
            let mut launch = Launch {
                caps,
                variants,
                graph,
                node,
                node_id: id,
                roots: &roots,
                written_stored: &written_stored,
                dispatches: Vec::new(),
                scratch: Vec::new(),
                scratch_base: scratch.len() as u32,
                unused: None,
            };
            node.op.launch(&mut launch)?;
            dispatches.append(&mut launch.dispatches);
            scratch.extend(launch.scratch.into_iter().map(|bytes| (id, bytes)));
        }
        let mut plan = Plan {
            homes: HashMap::new(),
            tensors: graph.tensors.clone(),
            nodes: graph.nodes.clone(),
            roots,
            arena: Vec::new(),
            input_bytes: 0,
            uniform_bytes: 0,
            stored: BTreeMap::new(),
            flops,
            dispatches,
            caps: caps.clone(),
        };
        plan.settle(graph, &live, &scratch, options)?;
        plan.verify()?;
        Ok(plan)
    }

    /// Assigns memory to every slot.
    fn settle(&mut self, graph: &Graph, live: &[usize], scratch: &[(usize, u64)], options: &PlanOptions) -> Result<()> {
        let align = self.caps.storage_alignment.max(16);
        let mut lifetimes: BTreeMap<Tensor, (usize, usize)> = BTreeMap::new();
        for &id in live {
            let node = &graph.nodes[id];
            for &t in node.inputs.iter().chain(&node.outputs) {
                let root = self.roots[t.0 as usize];
                let life = lifetimes.entry(root).or_insert((id, id));
                life.1 = life.1.max(id);
            }
        }
        for &t in &graph.outputs {
            lifetimes.entry(self.roots[t.0 as usize]).or_insert((0, 0)).1 = usize::MAX;
        }
        let (mut blocks, mut slots) = (Vec::new(), Vec::new());
        for (&t, &(first, last)) in &lifetimes {
            let info = graph.info(t);
            match &info.source {
                Source::Stored(key) => {
                    self.homes.insert(Slot::Tensor(t), Home::Stored(key.clone()));
                    self.stored.insert(key.clone(), info.bytes());
                }
                Source::Input => {
                    self.homes.insert(Slot::Tensor(t), Home::Input(self.input_bytes));
                    self.input_bytes += info.bytes().next_multiple_of(align);
                }
                Source::Node(..) => {
                    let last = if options.keep_all { usize::MAX } else { last };
                    blocks.push(Block { first, last, bytes: info.bytes().next_multiple_of(align) });
                    slots.push(Slot::Tensor(t));
                }
            }
        }
        for (i, &(id, bytes)) in scratch.iter().enumerate() {
            blocks.push(Block { first: id, last: id, bytes: bytes.next_multiple_of(align) });
            slots.push(Slot::Scratch(i as u32));
        }
        if options.sentinels {
            blocks.iter_mut().for_each(|b| b.bytes += GUARD_BYTES);
        }
        let (places, sizes) = place(&blocks, self.caps.max_buffer_bytes);
        self.arena = sizes;
        self.homes.extend(slots.into_iter().zip(places.into_iter().map(Home::Arena)));
        let stride = self.caps.uniform_alignment;
        self.uniform_bytes =
            self.dispatches.iter().map(|d| (d.kernel.uniform_bytes().len() as u64).next_multiple_of(stride)).sum();
        Ok(())
    }

    /// Byte range that `binding` covers, as `(memory, start, end)`; ranges of different memory never meet.
    fn range(&self, binding: &Binding) -> Option<(Memory<'_>, u64, u64)> {
        let (memory, base) = match self.homes.get(&binding.slot)? {
            Home::Arena(p) => (Memory::Chunk(p.chunk), p.offset),
            Home::Stored(key) => (Memory::Stored(key), 0),
            Home::Input(offset) => (Memory::Inputs, *offset),
        };
        Some((memory, base + binding.offset, base + binding.offset + binding.bytes))
    }

    /// Checks what WebGPU would refuse or silently truncate, and what it does not check: two bindings of one dispatch
    /// that overlap while one is written.
    ///
    /// # Errors
    /// [`Error::Limit`] that names the tensor and its op.
    pub fn verify(&self) -> Result<()> {
        for d in &self.dispatches {
            let name = d.kernel.template.name;
            if d.bindings.len() > self.caps.max_storage_buffers as usize {
                let most = self.caps.max_storage_buffers;
                return Err(Error::limit(format!(
                    "{name}: binds {} storage buffers, the adapter takes {most}",
                    d.bindings.len()
                )));
            }
            let access = d.kernel.slots();
            let writable = |i: usize| access.get(i) == Some(&Access::ReadWrite);
            for (i, a) in d.bindings.iter().enumerate() {
                if a.bytes > self.caps.max_binding_bytes {
                    let (slot, bytes, most) = (self.slot_name(a.slot), a.bytes, self.caps.max_binding_bytes);
                    let fault = format!("{name}: {slot} takes {bytes} bytes, this adapter binds at most {most}; try ");
                    let remedy = message!["a smaller picture or batch, or ", option("dtype"), " f16"];
                    return Err(Error::limit(message![fault, remedy]));
                }
                let Some((memory, start, end)) = self.range(a) else {
                    return Err(Error::Internal(format!("{name}: {} has no memory", self.slot_name(a.slot))));
                };
                for (j, b) in d.bindings[..i].iter().enumerate() {
                    let Some((other, s, e)) = self.range(b) else {
                        continue;
                    };
                    if (writable(i) || writable(j)) && memory == other && start < e && s < end {
                        return Err(Error::Internal(format!(
                            "{name}: {} and {} overlap in memory and one of them may be written",
                            self.slot_name(a.slot),
                            self.slot_name(b.slot)
                        )));
                    }
                }
            }
        }
        Ok(())
    }

    /// Moves everything to the start of its memory, so that a test can see [`Plan::verify`] refuse it.
    #[doc(hidden)]
    pub fn overlap_for_test(&mut self) {
        for d in &mut self.dispatches {
            let first = d.bindings[0].slot;
            d.bindings.iter_mut().for_each(|b| b.slot = first);
        }
    }

    pub(crate) fn slot_name(&self, slot: Slot) -> String {
        match slot {
            Slot::Tensor(t) => {
                let info = &self.tensors[t.0 as usize];
                format!("{} {}", info.name, info.shape)
            }
            Slot::Scratch(i) => format!("scratch {i}"),
        }
    }

    /// Shape of a tensor of the planned graph.
    pub fn shape(&self, t: Tensor) -> &crate::base::Shape {
        &self.tensors[t.0 as usize].shape
    }

    /// Kernel of every dispatch, in order.
    pub fn kernels(&self) -> impl Iterator<Item = &crate::gpu::Kernel> {
        self.dispatches.iter().map(|d| &d.kernel)
    }

    /// Number of dispatches of one run.
    pub fn dispatch_count(&self) -> usize {
        self.dispatches.len()
    }

    /// FLOPs of one run.
    pub fn total_flops(&self) -> u64 {
        self.flops.values().sum()
    }

    /// Bytes of intermediates: the arena, inputs and uniforms. Stored tensors are counted by [`Plan::stored`].
    pub fn working_bytes(&self) -> u64 {
        self.arena.iter().sum::<u64>() + self.input_bytes + self.uniform_bytes
    }

    /// Bytes of the stored tensors that the plan touches.
    pub fn stored_bytes(&self) -> u64 {
        self.stored.values().sum()
    }
}

#[derive(PartialEq)]
enum Memory<'a> {
    Chunk(usize),
    Stored(&'a str),
    Inputs,
}

/// Nodes whose results are needed, in order.
fn live_nodes(graph: &Graph, keep_all: bool) -> Vec<usize> {
    if keep_all {
        return (0..graph.nodes.len()).collect();
    }
    let mut wanted: HashSet<Tensor> = graph.outputs.iter().copied().collect();
    wanted.extend(graph.assigns.iter().map(|(_, value)| *value));
    let mut live = Vec::new();
    for (id, node) in graph.nodes.iter().enumerate().rev() {
        if node.outputs.iter().any(|t| wanted.contains(t)) || !node.op.in_place().is_empty() {
            wanted.extend(node.inputs.iter().copied());
            live.push(id);
        }
    }
    live.reverse();
    live
}

/// Owner of each tensor's memory: through reshapes, in-place updates and assignments.
fn roots(graph: &Graph) -> Result<Vec<Tensor>> {
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
        let Source::Node(producer, _) = info.source else {
            return Err(Error::op("assign", format!("{} already has a home of its own", info.name)));
        };
        let early = graph.nodes[producer + 1..].iter().find(|n| n.inputs.contains(&target));
        if let Some(reader) = early {
            let message = format!("{} reads {} after it is overwritten", reader.op.name(), graph.info(target).name);
            return Err(Error::op("assign", message));
        }
        for root in roots.iter_mut().filter(|r| **r == from) {
            *root = target;
        }
    }
    Ok(roots)
}

/// Stored tensors that some node of the plan writes.
fn written_stored(graph: &Graph, live: &[usize], roots: &[Tensor]) -> HashSet<Tensor> {
    let outputs = live.iter().flat_map(|&id| &graph.nodes[id].outputs).zip(std::iter::repeat(()));
    let mut written: HashSet<Tensor> = HashSet::new();
    for (t, ()) in outputs {
        let Source::Node(producer, _) = graph.info(*t).source else {
            continue;
        };
        if graph.nodes[producer].op.alias().is_some() {
            continue;
        }
        let root = roots[t.0 as usize];
        if matches!(graph.info(root).source, Source::Stored(_)) {
            written.insert(root);
        }
    }
    written
}
