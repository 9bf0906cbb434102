//! Tensors as a command's result.

use std::collections::BTreeMap;

use portray::Result;
use portray::low_level::io::{Place, Tensor, write_safetensors};
use serde_json::json;

use super::args::Global;
use super::terminal;

/// Writes `made`, names, shapes and values, to the file at `place`, and tells of each.
///
/// # Errors
/// [`Error::File`](portray::Error::File) if the file cannot be written, or is elsewhere than asked for.
pub fn write<N: AsRef<str>>(global: &Global, place: &Place, made: &[(N, Vec<usize>, Vec<f32>)]) -> Result<()> {
    let tensors: Vec<Tensor<'_>> =
        made.iter().map(|(name, shape, data)| Tensor::f32(name.as_ref(), shape, data)).collect();
    let placed = place.put(|at| write_safetensors(at, &tensors, &BTreeMap::new()))?;
    for (name, shape, _) in made {
        if global.json {
            terminal::tell(json!({"event": "tensor", "name": name.as_ref(), "shape": shape}));
        } else {
            terminal::tell(format!("{} {shape:?}", name.as_ref()));
        }
    }
    placed.path().map(drop)
}
