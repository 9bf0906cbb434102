//! Dispatches that an op emits, over slots of memory that the plan places later.

use minijinja::Value;

use super::{Source, Tensor, TensorInfo};
use crate::base::DType;
use crate::error::{Error, Result};
use crate::gpu::{Access, AdapterClass, BindingSpec, Caps, Field, Kernel, Template, Variants};

/// Memory that a dispatch binds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Slot {
    /// A tensor (resolved through aliases to the one that owns the memory).
    Tensor(Tensor),
    /// Scratch memory `.0` of the plan, alive during one node.
    Scratch(u32),
}

/// A range of a slot, in bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Binding {
    /// The memory.
    pub slot: Slot,
    /// First byte.
    pub offset: u64,
    /// Length.
    pub bytes: u64,
    /// Whether the kernel writes it.
    pub written: bool,
}

/// One kernel launch.
#[derive(Clone, Debug)]
pub struct Dispatch {
    /// The kernel.
    pub kernel: Kernel,
    /// Bound memory, by the kernel's slots.
    pub bindings: Vec<Binding>,
    /// Workgroups.
    pub grid: [u32; 3],
    /// Node that this belongs to.
    pub node: usize,
    /// Share of the node's work, relative to the weights of its other dispatches.
    pub weight: usize,
}

/// The context in which an op emits its dispatches.
pub struct Launch<'a> {
    /// Adapter limits and class.
    pub caps: &'a Caps,
    /// Chosen kernel variants.
    pub variants: &'a Variants,
    /// All of the graph.
    pub(super) tensors: &'a [TensorInfo],
    /// Operands and results of the node.
    pub(super) inputs: &'a [Tensor],
    pub(super) outputs: &'a [Tensor],
    pub(super) node_id: usize,
    pub(super) roots: &'a [Tensor],
    pub(super) written_stored: &'a std::collections::HashSet<Tensor>,
    pub(super) dispatches: Vec<Dispatch>,
    pub(super) scratch: Vec<u64>,
    pub(super) scratch_base: u32,
    /// Scratch memory bound in place of absent operands.
    pub(super) unused: Option<u32>,
}

/// Largest number of absent operands of a dispatch.
const UNUSED: u64 = 4;

/// A vector of four.
const UNUSED_BYTES: u64 = 16;

impl<'a> Launch<'a> {
    fn info(&self, t: Tensor) -> &'a TensorInfo {
        &self.tensors[t.0 as usize]
    }

    /// Operand `i`.
    pub fn input(&self, i: usize) -> &'a TensorInfo {
        self.info(self.inputs[i])
    }

    /// Number of operands.
    pub fn input_count(&self) -> usize {
        self.inputs.len()
    }

    /// Result `i`.
    pub fn output(&self, i: usize) -> &'a TensorInfo {
        self.info(self.outputs[i])
    }

    /// Memory of operand `i`.
    pub fn input_slot(&self, i: usize) -> Slot {
        Slot::Tensor(self.roots[self.inputs[i].0 as usize])
    }

    /// Memory of result `i`.
    pub fn output_slot(&self, i: usize) -> Slot {
        Slot::Tensor(self.roots[self.outputs[i].0 as usize])
    }

    /// Allocates scratch memory of `elements` f32 values, alive during this node.
    pub fn scratch(&mut self, elements: usize) -> Slot {
        self.scratch.push(DType::F32.bytes(elements));
        Slot::Scratch(self.scratch_base + self.scratch.len() as u32 - 1)
    }

    /// Storage type and declaration of the memory of `slot`.
    pub fn declared(&self, slot: Slot) -> (DType, Access) {
        let (dtype, _, access) = self.slot_info(slot);
        (dtype, access)
    }

    /// Starts a dispatch of `template`; [`KernelLaunch::grid`] ends it.
    pub fn kernel(&mut self, template: Template) -> KernelLaunch<'_, 'a> {
        let (values, bindings, fields, table) = Default::default();
        let kernel = Kernel { template, values, bindings, fields, table, trapped: false };
        KernelLaunch { launch: self, kernel, bindings: Vec::new(), absent: 0, weight: 1 }
    }

    /// Memory bound in place of the `nth` absent operand of a dispatch; each has its own, since the kernel may declare
    /// it writable.
    fn unused(&mut self, nth: u64) -> Binding {
        debug_assert!(nth < UNUSED, "more operands are absent than there is memory for");
        let step = self.caps.storage_alignment.max(UNUSED_BYTES);
        let index = *self.unused.get_or_insert_with(|| {
            self.scratch.push(UNUSED * step);
            self.scratch_base + self.scratch.len() as u32 - 1
        });
        Binding { slot: Slot::Scratch(index), offset: nth * step, bytes: UNUSED_BYTES, written: false }
    }

    fn slot_info(&self, slot: Slot) -> (DType, u64, Access) {
        match slot {
            Slot::Tensor(t) => {
                let info = self.info(t);
                // What a driver for CPUs makes of a kernel is the same for both: one declaration, fewer texts to compile.
                let fixed = self.caps.class == AdapterClass::Gpu
                    && matches!(info.source, Source::Stored(_))
                    && !self.written_stored.contains(&t);
                (info.dtype, info.bytes(), if fixed { Access::Read } else { Access::ReadWrite })
            }
            Slot::Scratch(i) => (DType::F32, self.scratch[(i - self.scratch_base) as usize], Access::ReadWrite),
        }
    }
}

/// Builder of one dispatch.
pub struct KernelLaunch<'l, 'a> {
    launch: &'l mut Launch<'a>,
    kernel: Kernel,
    bindings: Vec<Binding>,
    /// Number of operands that are declared but absent.
    absent: u64,
    weight: usize,
}

impl KernelLaunch<'_, '_> {
    /// Sets a template value.
    pub fn value(mut self, name: &'static str, value: impl Into<Value>) -> Self {
        self.kernel.values.insert(name, value.into());
        self
    }

    /// Sets a `u32` uniform.
    pub fn u32(mut self, name: &'static str, value: usize) -> Self {
        self.kernel.fields.push((name, Field::U32(value as u32)));
        self
    }

    /// Sets an `f32` uniform.
    pub fn f32(mut self, name: &'static str, value: f64) -> Self {
        self.kernel.fields.push((name, Field::F32(value as f32)));
        self
    }

    /// Sets the table of uniforms: `p.table[i / 4][i % 4]` in the text.
    pub fn table(mut self, words: Vec<u32>) -> Self {
        self.kernel.table = words;
        self
    }

    /// Sets the dispatch's share of its node's work, relative to the node's other dispatches; 1 by default.
    pub fn weight(mut self, weight: usize) -> Self {
        self.weight = weight;
        self
    }

    /// Binds `slot` to be read as scalars.
    pub fn read(self, name: &'static str, slot: Slot) -> Self {
        self.bind(name, slot, false, false)
    }

    /// Binds `slot` to be read as scalars or, if `vec4`, as vectors of four.
    pub fn read_as(self, name: &'static str, slot: Slot, vec4: bool) -> Self {
        self.bind(name, slot, vec4, false)
    }

    /// Binds `bytes` of `slot` from `offset` on, as [`read_as`](Self::read_as) does. Indices count from there.
    pub fn read_range(mut self, name: &'static str, slot: Slot, vec4: bool, offset: u64, bytes: u64) -> Self {
        self = self.bind(name, slot, vec4, false);
        if let Some(binding) = self.bindings.last_mut() {
            (binding.offset, binding.bytes) = (offset, bytes);
        }
        self
    }

    /// Binds `slot` to be written (and read) as scalars.
    pub fn write(self, name: &'static str, slot: Slot) -> Self {
        self.bind(name, slot, false, true)
    }

    /// Binds `slot` to be written as scalars or, if `vec4`, as vectors of four.
    pub fn write_as(self, name: &'static str, slot: Slot, vec4: bool) -> Self {
        self.bind(name, slot, vec4, true)
    }

    /// Declares `name` without an operand, for a kernel that reads it only if a uniform says that it exists. Other
    /// memory is bound, so that both cases share one kernel.
    pub fn absent(mut self, name: &'static str, dtype: DType, vec4: bool, access: Access) -> Self {
        let read = self.kernel.bindings.iter().find(|b| access == Access::Read && b.access == access && !b.written);
        // Memory of the arena may be bound in one way alone.
        let (binding, access) = match read {
            Some(b) => (self.bindings[b.slot], Access::Read),
            None => (self.launch.unused(self.absent), Access::ReadWrite),
        };
        self.absent += 1;
        self.bindings.push(binding);
        self.kernel.bindings.push(BindingSpec {
            name,
            dtype,
            vec4,
            written: false,
            access,
            slot: self.bindings.len() - 1,
        });
        self
    }

    fn bind(mut self, name: &'static str, slot: Slot, vec4: bool, written: bool) -> Self {
        let (dtype, bytes, access) = self.launch.slot_info(slot);
        let range = Binding { slot, offset: 0, bytes, written };
        let index = match self.bindings.iter_mut().position(|b| b.slot == slot) {
            Some(i) => {
                self.bindings[i].written |= written;
                i
            }
            None => {
                self.bindings.push(range);
                self.bindings.len() - 1
            }
        };
        self.kernel.bindings.push(BindingSpec { name, dtype, vec4, written, access, slot: index });
        self
    }

    /// Emits the dispatch with `grid` workgroups.
    ///
    /// # Errors
    /// [`Error::Limit`](crate::error::Error::Limit) if a dimension exceeds the adapter's limit.
    pub fn grid(self, grid: [usize; 3]) -> Result<()> {
        if grid.contains(&0) {
            return Ok(());
        }
        let limit = self.launch.caps.max_workgroups_per_dimension as usize;
        if grid.iter().any(|&n| n > limit) {
            let name = self.kernel.template.name;
            return Err(Error::limit(format!(
                "{name}: a grid of {grid:?} workgroups; this adapter takes {limit} a dimension"
            )));
        }
        self.launch.dispatches.push(Dispatch {
            kernel: self.kernel,
            bindings: self.bindings,
            grid: grid.map(|n| n as u32),
            node: self.launch.node_id,
            weight: self.weight,
        });
        Ok(())
    }

    /// Emits the dispatch with `workgroups` in total, folded into as many dimensions as needed. The kernel finds its
    /// index with `linear_workgroup` and skips those beyond its bound.
    ///
    /// # Errors
    /// [`Error::Limit`](crate::error::Error::Limit) if there are too many workgroups.
    pub fn linear(self, workgroups: usize) -> Result<()> {
        let limit = self.launch.caps.max_workgroups_per_dimension as usize;
        let x = workgroups.min(limit);
        let y = workgroups.div_ceil(x.max(1)).min(limit);
        let z = workgroups.div_ceil((x * y).max(1));
        self.grid([x, y, z])
    }
}
