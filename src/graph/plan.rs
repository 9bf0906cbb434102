//! Plan of a graph: a flat list of dispatches in placed memory. Needs no GPU.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::placement::{Block, Place, place};
use super::{Binding, Dispatch, Graph, Launch, Node, Slot, Source, Tensor, TensorInfo, overwrites};
use crate::error::{Error, Result, message, option};
use crate::gpu::{Access, Caps, Variants};

/// Guard before and behind each block of a plan made with sentinels; a multiple of every adapter's alignment.
pub(crate) const GUARD_BYTES: u64 = 256;

/// Room for the traps of one dispatch: a word for each binding.
pub(crate) const TRAP_BYTES: u64 = 128;

/// Options of a plan.
#[derive(Clone, Debug, Default)]
pub struct PlanOptions {
    /// Leaves a guard before and behind every block of the arena and every input, for
    /// [`super::Session::check_sentinels`].
    pub sentinels: bool,
    /// Has kernels note every access outside of what they bind, for [`super::Session::check_traps`]; needs `sentinels`.
    /// Their texts are others, and they bind one more buffer.
    pub traps: bool,
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
    /// There are sentinels, and bindings reach over the guard behind: software drivers keep a kernel within its bindings.
    pub(crate) reaching: bool,
}

impl Plan {
    /// Plans `graph` for an adapter with `caps`, using the kernel `variants` chosen for it.
    ///
    /// # Errors
    /// [`Error::Limit`] if a tensor or dispatch exceeds the adapter's limits, by name; [`Error::Op`] if nodes overwrite
    /// memory that later ones read.
    pub fn new(graph: &Graph, caps: &Caps, variants: &Variants, options: &PlanOptions) -> Result<Plan> {
        log::debug!(target: "portray::plan", "{graph:?}");
        let live = live_nodes(graph);
        let roots = overwrites::roots(graph)?;
        overwrites::check(graph, &live, &roots)?;
        let written_stored = overwrites::written_stored(graph, &live, &roots);
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
                tensors: &graph.tensors,
                inputs: &node.inputs,
                outputs: &node.outputs,
                node_id: id,
                roots: &roots,
                written_stored: &written_stored,
                dispatches: Vec::new(),
                scratch: Vec::new(),
                scratch_base: scratch.len() as u32,
                unused: None,
            };
            node.op.launch(&mut launch)?;
            let mut emitted = launch.dispatches;
            scratch.extend(launch.scratch.into_iter().map(|bytes| Block { first: id, last: id, bytes }));
            if options.traps {
                emitted.iter_mut().for_each(|dispatch| trap(dispatch, &mut scratch));
            }
            dispatches.append(&mut emitted);
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
            reaching: options.sentinels && !options.traps,
        };
        plan.settle(graph, &live, &scratch, options)?;
        plan.verify()?;
        Ok(plan)
    }

    /// Assigns memory to every slot.
    fn settle(&mut self, graph: &Graph, live: &[usize], scratch: &[Block], options: &PlanOptions) -> Result<()> {
        let align = self.caps.storage_alignment.max(16);
        let guard = if options.sentinels { GUARD_BYTES } else { 0 };
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
                    self.homes.insert(Slot::Tensor(t), Home::Input(self.input_bytes + guard));
                    self.input_bytes += info.bytes().next_multiple_of(align) + 2 * guard;
                }
                Source::Node(..) => {
                    blocks.push(Block { first, last, bytes: info.bytes().next_multiple_of(align) });
                    slots.push(Slot::Tensor(t));
                }
            }
        }
        for (i, block) in scratch.iter().enumerate() {
            blocks.push(Block { bytes: block.bytes.next_multiple_of(align), ..*block });
            slots.push(Slot::Scratch(i as u32));
        }
        blocks.iter_mut().for_each(|b| b.bytes += 2 * guard);
        let (places, sizes) = place(&blocks, self.caps.max_buffer_bytes);
        self.arena = sizes;
        let homes = places.into_iter().map(|p| Home::Arena(Place { offset: p.offset + guard, ..p }));
        self.homes.extend(slots.into_iter().zip(homes));
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
                    let remedy = message!["a smaller image or batch, or ", option("dtype"), " f16"];
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

/// Gives `dispatch` traps, which lie in scratch memory of their own until the run has ended.
fn trap(dispatch: &mut Dispatch, scratch: &mut Vec<Block>) {
    dispatch.kernel.trapped = true;
    let slot = Slot::Scratch(scratch.len() as u32);
    scratch.push(Block { first: 0, last: usize::MAX, bytes: TRAP_BYTES });
    dispatch.bindings.push(Binding { slot, offset: 0, bytes: TRAP_BYTES, written: true });
}

#[derive(PartialEq)]
enum Memory<'a> {
    Chunk(usize),
    Stored(&'a str),
    Inputs,
}

/// Nodes whose results are needed, in order.
fn live_nodes(graph: &Graph) -> Vec<usize> {
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
