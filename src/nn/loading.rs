//! Parameters from their files to the device.

use std::ops::Range;

use super::weights::{FetchRows, pack_rows};
use super::{Param, Role, Source};
use crate::error::{Error, Result};
use crate::gpu::{Store, in_order};

/// About how many values a thread has on the host at a time.
const CHUNK: usize = 1 << 16;

/// Chunks of a thread after which a job looks up: a few milliseconds.
const CHUNKS_IN_A_ROW: usize = 8;

/// Parameters share buffers of about this size, so that no single allocation is hard to find room for.
const GROUP_BYTES: u64 = 256 << 20;

/// Makes room in `store` for every one of `params` that it does not hold.
pub fn allocate(store: &mut Store, label: &str, params: &[Param]) -> Result<()> {
    let mut group: Vec<(String, u64)> = Vec::new();
    let mut total = 0;
    for param in params {
        if total + param.bytes() > GROUP_BYTES && !group.is_empty() {
            store.allocate(label, &group)?;
            group.clear();
            total = 0;
        }
        total += param.bytes();
        group.push((param.key.clone(), param.bytes()));
    }
    store.allocate(label, &group)
}

/// Loads every one of `params` but the adapters' factors into `store`, a few rows at a time, so that the host never
/// holds a whole tensor. Where the job may have threads of its own, these read and convert the rows.
///
/// # Errors
/// Those of `fetch`; [`Error::Limit`] for a value that its storage type does not hold; [`Error::Device`] if the device fails.
pub async fn load(store: &mut Store, label: &str, params: &[Param], fetch: &dyn FetchRows) -> Result<()> {
    let params: Vec<Param> = params.iter().filter(|p| p.role != Role::Adapter).cloned().collect();
    store.open();
    allocate(store, label, &params)?;
    let chunks: Vec<Chunk> = params.iter().flat_map(Chunk::all).collect();
    let mut written = Written::default();
    let threads = store.threads();
    for some in chunks.chunks(threads * CHUNKS_IN_A_ROW).filter(|_| threads > 1) {
        let make = |i: usize| some[i].packed(fetch).map(|bytes| (&some[i], bytes));
        in_order(some.len(), threads, make, |packed| {
            let (chunk, bytes) = packed?;
            written.write(store, chunk, bytes)?;
            store.settle_here()
        })?;
        store.settle().await?;
    }
    for chunk in chunks.iter().filter(|_| threads == 1) {
        written.write(store, chunk, chunk.packed(fetch)?)?;
        store.settle().await?;
    }
    store.close();
    Ok(())
}

/// Some rows of a checkpoint tensor, as a parameter holds them.
struct Chunk<'p> {
    param: &'p Param,
    from: &'p Source,
    rows: Range<usize>,
    /// Whether the parameter ends with them.
    is_last: bool,
}

impl<'p> Chunk<'p> {
    /// All of `param`, in the order of its bytes.
    fn all(param: &'p Param) -> Vec<Chunk<'p>> {
        let mut chunks = Vec::new();
        for from in &param.sources {
            let rows = from.shape.first().copied().unwrap_or(1);
            let step = (CHUNK / columns(from).max(1)).max(1);
            let some = |first: usize| first..(first + step).min(rows);
            chunks.extend((0..rows).step_by(step).map(|first| Chunk {
                param,
                from,
                rows: some(first),
                is_last: false,
            }));
        }
        if let Some(last) = chunks.last_mut() {
            last.is_last = true;
        }
        chunks
    }

    /// Reads and converts them.
    fn packed(&self, fetch: &dyn FetchRows) -> Result<Vec<u8>> {
        let Chunk { param, from, rows, .. } = self;
        let values = fetch(&from.key, &from.shape, rows.clone())?;
        if values.len() != rows.len() * columns(from) {
            return Err(Error::op("load", format!("{}: {} values for rows {rows:?}", from.key, values.len())));
        }
        let mut bytes = Vec::new();
        pack_rows(param, from, &values, &mut bytes)?;
        Ok(bytes)
    }
}

/// Values of a row.
fn columns(from: &Source) -> usize {
    from.shape.iter().skip(1).product()
}

/// How far the parameter that is being written is. What is written begins and ends at whole words; a rest waits for the next
/// rows.
#[derive(Default)]
struct Written {
    offset: u64,
    rest: Vec<u8>,
}

impl Written {
    /// Writes `bytes` of `chunk`, which follows the one before.
    fn write(&mut self, store: &Store, chunk: &Chunk, bytes: Vec<u8>) -> Result<()> {
        let Written { offset, rest } = std::mem::take(self);
        let mut bytes = if rest.is_empty() { bytes } else { [rest, bytes].concat() };
        let rest = if chunk.is_last { Vec::new() } else { bytes.split_off(bytes.len() / 4 * 4) };
        store.write_at(&chunk.param.key, offset, &bytes)?;
        if !chunk.is_last {
            *self = Written { offset: offset + bytes.len() as u64, rest };
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::DType;
    use crate::gpu::{DeviceOptions, Gpu, Turn};
    use crate::nn::weights::{HostTensor, pack};
    use crate::nn::{Pack, Scope, Settings};

    fn values(key: &str, shape: &[usize]) -> Vec<f32> {
        let count = shape.iter().product::<usize>();
        (0..count).map(|i| ((i * 37 + key.len()) % 1013) as f32 - 500.0).collect()
    }

    /// Rows of 301 halves end within words, in and between chunks and tensors.
    #[test]
    fn what_several_threads_load_is_what_one_loads() {
        let root = Scope::new("unet", Settings { dtype: DType::F16, ..Settings::default() });
        let params = [
            root.pp("one").weight(&[701, 301], Pack::AsIs),
            root.stacked("kv", "weight", &[(root.pp("k"), 703), (root.pp("v"), 5)], Some(301)),
            root.pp("conv").weight(&[77, 95, 3, 3], Pack::Conv),
            root.pp("small").weight(&[3], Pack::AsIs),
        ];
        let fetch = |key: &str, shape: &[usize], rows: Range<usize>| {
            let columns: usize = shape.iter().skip(1).product();
            Ok(values(key, shape)[rows.start * columns..rows.end * columns].to_vec())
        };
        let own = pollster::block_on(Gpu::request(&DeviceOptions::default())).unwrap();
        let store = |gpu: &Gpu| {
            let mut store = Store::new(gpu);
            pollster::block_on(load(&mut store, "test", &params, &fetch)).unwrap();
            store
        };
        let loaded = store(&own);
        assert_eq!(Store::new(&own.for_host(Turn::new())).threads(), 1, "a host's step has one thread");
        for param in &params {
            let tensor =
                |from: &Source| HostTensor { shape: from.shape.clone(), values: values(&from.key, &from.shape).into() };
            let expected = pack(param, &param.sources.iter().map(tensor).collect::<Vec<_>>()).unwrap();
            let read = pollster::block_on(loaded.read(&param.key)).unwrap();
            let (bytes, padding) = read.split_at(expected.len());
            assert!(bytes == expected && padding.iter().all(|b| *b == 0), "{}: other bytes", param.key);
        }
    }

    #[test]
    fn the_first_fault_is_told() {
        let params: Vec<Param> =
            (0..40).map(|i| Scope::new("unet", Settings::default()).pp(i).weight(&[300, 300], Pack::AsIs)).collect();
        let fetch = |key: &str, shape: &[usize], rows: Range<usize>| match key {
            "unet.7.weight" | "unet.9.weight" => Err(Error::file(key, "is damaged")),
            _ => Ok(vec![0.0; rows.len() * shape[1]]),
        };
        let gpu = pollster::block_on(Gpu::request(&DeviceOptions::default())).unwrap();
        let error = pollster::block_on(load(&mut Store::new(&gpu), "test", &params, &fetch)).unwrap_err().to_string();
        assert!(error.contains("unet.7.weight"), "{error}");
    }
}
