//! Writing: the same tensors always give the same bytes.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value, json};

use super::Tensor;
use crate::error::{Error, Result};
use crate::io::atomic::write_copying;
use crate::io::source::CopyError;

/// Writes `tensors` and string `metadata` to `path`, atomically. The order in the file depends on names and types
/// alone (wide elements first, then by name, as the reference implementation does), never on the order given.
///
/// # Errors
/// [`Error::File`] when it cannot be written (the old file stays as it was), when two tensors have one name, or when
/// a tensor's bytes do not fit its shape.
pub fn write_safetensors(
    path: impl AsRef<Path>,
    tensors: &[Tensor<'_>],
    metadata: &BTreeMap<String, String>,
) -> Result<()> {
    let path = path.as_ref();
    let mut order: Vec<&Tensor<'_>> = tensors.iter().collect();
    order.sort_by(|a, b| b.dtype.bytes().cmp(&a.dtype.bytes()).then_with(|| a.name.cmp(&b.name)));

    let mut header = Map::new();
    if !metadata.is_empty() {
        header.insert("__metadata__".into(), json!(metadata));
    }
    let mut offset = 0;
    for tensor in &order {
        let bytes = tensor.byte_len();
        if bytes != tensor.elements() * tensor.dtype.bytes() {
            return Err(Error::file(
                path,
                format!("tensor '{}': {bytes} bytes for shape {:?}", tensor.name, tensor.shape),
            ));
        }
        let entry =
            json!({"dtype": tensor.dtype.name(), "shape": &*tensor.shape, "data_offsets": [offset, offset + bytes]});
        if tensor.name == "__metadata__" || header.insert(tensor.name.to_string(), entry).is_some() {
            return Err(Error::file(path, format!("tensor '{}' would be written twice", tensor.name)));
        }
        offset += bytes;
    }
    // Spaces after the JSON keep the data 8-byte aligned for readers that map the file.
    let mut text = Value::Object(header).to_string().into_bytes();
    text.resize(text.len().next_multiple_of(8), b' ');

    write_copying(path, |out| {
        let head = [&(text.len() as u64).to_le_bytes()[..], &text];
        head.into_iter().try_for_each(|bytes| out.write_all(bytes)).map_err(CopyError::Write)?;
        order.iter().try_for_each(|tensor| tensor.write_to(out))
    })
}
