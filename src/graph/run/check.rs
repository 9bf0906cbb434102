//! Checks of a run: guards around every block, and references of every node.

use super::Session;
use crate::base::Array;
use crate::error::{Error, Result};
use crate::graph::Slot;
use crate::graph::plan::{GUARD_BYTES, Home};

/// A quiet NaN that no kernel computes.
const SENTINEL: u32 = 0x7fc0_dead;

/// Node whose result differs from its reference, found by [`Session::check`].
#[derive(Clone, Debug)]
pub struct Mismatch {
    /// Name of the node, and index of its result.
    pub node: String,
    /// Largest difference, relative to the largest magnitude of the reference.
    pub error: f64,
}

impl Session {
    /// Fills the arena with a NaN pattern. A read of memory that nobody wrote then yields NaN, and
    /// [`Session::check_sentinels`] finds writes outside a block. For plans made with sentinels.
    pub fn plant_sentinels(&self) -> Result<()> {
        for (slot, home) in &self.plan.homes {
            if let Home::Arena(_) = home {
                let (buffer, offset) = self.home(*slot)?;
                let words = vec![SENTINEL; ((self.slot_bytes(*slot) + GUARD_BYTES) / 4) as usize];
                self.gpu.queue.write_buffer(buffer, offset, bytemuck::cast_slice(&words));
            }
        }
        self.gpu.check()
    }

    /// Checks the guards after a run.
    ///
    /// # Errors
    /// [`Error::Device`] that names the block whose guard was overwritten.
    pub async fn check_sentinels(&self) -> Result<()> {
        for (slot, home) in &self.plan.homes {
            if let Home::Arena(_) = home {
                let (buffer, offset) = self.home(*slot)?;
                let guard = self.gpu.read(buffer, offset + self.slot_bytes(*slot), GUARD_BYTES).await?;
                if bytemuck::pod_collect_to_vec::<u8, u32>(&guard).iter().any(|&word| word != SENTINEL) {
                    return Err(Error::Internal(format!("a kernel wrote behind {}", self.plan.slot_name(*slot))));
                }
            }
        }
        Ok(())
    }

    /// Bytes of the slot's block, padded as placed.
    fn slot_bytes(&self, slot: Slot) -> u64 {
        let of_slot = self.plan.dispatches.iter().flat_map(|d| &d.bindings).filter(|b| b.slot == slot);
        let used = of_slot.map(|b| b.offset + b.bytes).max();
        used.unwrap_or(0).next_multiple_of(self.plan.caps.storage_alignment.max(16))
    }

    /// Computes every node's reference from the values that the GPU gave its inputs, after a run of a plan made with
    /// [`crate::graph::PlanOptions::keep_all`]. Returns the first node whose result is off by more than `tolerance`.
    pub async fn check(&self, tolerance: f64) -> Result<Option<Mismatch>> {
        for (id, node) in self.plan.nodes.iter().enumerate() {
            if !node.op.in_place().is_empty() {
                continue;
            }
            let mut inputs = Vec::new();
            for &t in &node.inputs {
                let shape = self.plan.tensors[t.0 as usize].shape.clone();
                inputs.push(Array::from_f32(shape, &self.read(t).await?));
            }
            let expected = node.op.reference(&inputs.iter().collect::<Vec<_>>());
            for (i, (t, expected)) in node.outputs.iter().zip(&expected).enumerate() {
                let got = self.read(*t).await?;
                let largest = expected.data.iter().fold(1e-6f64, |m, x| m.max(x.abs()));
                let worst = (got.iter().zip(&expected.data))
                    .map(|(&g, &e)| if g.is_nan() { f64::INFINITY } else { (f64::from(g) - e).abs() })
                    .fold(0.0, f64::max);
                if worst > tolerance * largest {
                    let node = format!("node {id} {}, result {i} {}", node.op.name(), expected.shape);
                    return Ok(Some(Mismatch { node, error: worst / largest }));
                }
            }
        }
        Ok(None)
    }
}
