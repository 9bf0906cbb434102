//! The families that are known, and which of them a model is of.

use serde_json::Value;

use super::description::Family;
use super::sd1::SD1;
use super::sd2::SD2;
use super::sdxl::SDXL;
use crate::io::{Checkpoint, PartId};

/// Every family, the one to be tried first before the others.
pub static FAMILIES: [&Family; 3] = [&SDXL, &SD1, &SD2];

impl Family {
    /// Returns the family of `checkpoint`.
    pub fn of(checkpoint: &Checkpoint) -> &'static Family {
        if checkpoint.has(PartId::TEXT_ENCODER_2) {
            return &SDXL;
        }
        let unet = checkpoint.part(PartId::UNET).map(|unet| unet.config().clone()).unwrap_or_default();
        let width = unet.get("cross_attention_dim").and_then(Value::as_u64).unwrap_or(0) as usize;
        let linear = unet.get("use_linear_projection").and_then(Value::as_bool).unwrap_or(false);
        Family::first_or_second(width, linear).0
    }

    /// Returns Stable Diffusion 1.x or 2.x, by the width of the hidden states that its UNet reads or, where it is that of
    /// neither, as in miniatures, by whether the projections around the UNet's transformers are linear, as in the second;
    /// and whether the width tells.
    pub(super) fn first_or_second(width: usize, linear: bool) -> (&'static Family, bool) {
        let known = [&SD1, &SD2].into_iter().find(|family| family.context_width == width);
        (known.unwrap_or(if linear { &SD2 } else { &SD1 }), known.is_some())
    }
}
