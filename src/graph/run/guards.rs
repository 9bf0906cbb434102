//! Guards around every block of memory, and traps of every dispatch.

use super::session::Session;
use crate::error::{Error, Result};
use crate::gpu::Buffer;
use crate::graph::Slot;
use crate::graph::plan::{GUARD_BYTES, Home, TRAP_BYTES};

/// A quiet NaN that no kernel computes.
const SENTINEL: u32 = 0x7fc0_dead;

/// `bytes` of sentinels.
fn sentinels(bytes: u64) -> Vec<u8> {
    SENTINEL.to_le_bytes().repeat(bytes as usize / 4)
}

impl Session {
    /// Fills the arena, and the guards of inputs and stored tensors, with a pattern that is a NaN: what reads memory that
    /// nobody wrote yields NaN, and what writes outside its block is found by [`Session::check_sentinels`]. For plans made
    /// with sentinels, whose stored tensors have `GUARD_BYTES` of the store's room before and behind them.
    pub fn plant_sentinels(&self) -> Result<()> {
        for (slot, home) in &self.plan.homes {
            let bytes = self.slot_bytes(*slot);
            let ranges = match home {
                Home::Arena(_) => vec![(0, bytes + 2 * GUARD_BYTES)],
                Home::Input(_) | Home::Stored(_) => vec![(0, GUARD_BYTES), (GUARD_BYTES + bytes, GUARD_BYTES)],
            };
            let (buffer, offset) = self.home(*slot)?;
            for (from, bytes) in ranges {
                self.gpu.queue.write_buffer(buffer, offset - GUARD_BYTES + from, &sentinels(bytes));
            }
        }
        self.gpu.check()
    }

    /// Reads the guards before and behind every block, input and stored tensor, after a run.
    ///
    /// # Errors
    /// [`Error::Internal`] that names the block whose guard was overwritten.
    pub async fn check_sentinels(&self) -> Result<()> {
        let slots: Vec<Slot> = self.plan.homes.keys().copied().collect();
        let mut guards = Vec::with_capacity(2 * slots.len());
        for slot in &slots {
            let (buffer, offset) = self.home(*slot)?;
            guards.extend([(buffer, offset - GUARD_BYTES), (buffer, offset + self.slot_bytes(*slot))]);
        }
        let words = self.gather(&guards, GUARD_BYTES).await?;
        for (i, guard) in words.chunks((GUARD_BYTES / 4) as usize).enumerate() {
            if guard.iter().any(|&word| word != SENTINEL) {
                let side = if i % 2 == 0 { "before" } else { "behind" };
                return Err(Error::Internal(format!("a kernel wrote {side} {}", self.plan.slot_name(slots[i / 2]))));
            }
        }
        Ok(())
    }

    /// Reads the traps of every dispatch, after a run of a plan made with [`crate::graph::PlanOptions::traps`].
    ///
    /// # Errors
    /// [`Error::Device`] that names the kernel, and the memory outside of which it read or wrote.
    pub async fn check_traps(&self) -> Result<()> {
        let trapped = self.plan.dispatches.iter().filter(|d| d.kernel.trapped);
        let split: Vec<_> = trapped.filter_map(|d| d.bindings.split_last().map(|split| (d, split))).collect();
        let places: Vec<_> = split.iter().map(|(_, (traps, _))| self.home(traps.slot)).collect::<Result<_>>()?;
        if places.is_empty() {
            return Ok(());
        }
        let words = self.gather(&places, TRAP_BYTES).await?;
        for ((d, (_, bindings)), words) in split.iter().zip(words.chunks((TRAP_BYTES / 4) as usize)) {
            if let Some((binding, _)) = bindings.iter().zip(words).find(|(_, word)| **word != SENTINEL) {
                let (kernel, memory) = (d.kernel.template.name, self.plan.slot_name(binding.slot));
                return Err(Error::Device(format!("{kernel} reads or writes outside of {memory}")));
            }
        }
        Ok(())
    }

    /// Reads `bytes` at each of `places`, one behind the other.
    async fn gather(&self, places: &[(&Buffer, u64)], bytes: u64) -> Result<Vec<u32>> {
        let all = self.gpu.buffer("gathered", bytes * places.len() as u64, wgpu::BufferUsages::COPY_SRC);
        let mut encoder = self.gpu.device.create_command_encoder(&Default::default());
        for (i, (buffer, offset)) in places.iter().enumerate() {
            encoder.copy_buffer_to_buffer(buffer, *offset, &all, i as u64 * bytes, bytes);
        }
        self.gpu.queue.submit([encoder.finish()]);
        Ok(bytemuck::pod_collect_to_vec(&self.gpu.read(&all, 0, bytes * places.len() as u64).await?))
    }

    /// Bytes that dispatches may touch of a slot's block.
    pub(super) fn slot_bytes(&self, slot: Slot) -> u64 {
        let of_slot = self.plan.dispatches.iter().flat_map(|d| &d.bindings).filter(|b| b.slot == slot);
        let bound = of_slot.map(|b| b.offset + b.bytes).max().unwrap_or(0);
        match slot {
            Slot::Tensor(t) => bound.max(self.plan.tensors[t.0 as usize].bytes()),
            Slot::Scratch(_) => bound,
        }
    }
}
