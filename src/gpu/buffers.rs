//! Buffers: the arena's chunks, and tensors that outlive a run.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::Gpu;
use crate::error::{Error, Result};

/// The arena that plans share, run in turn: one set of chunks, as large as the largest plan needs.
#[derive(Default)]
pub struct Pool {
    chunks: Vec<wgpu::Buffer>,
}

impl Pool {
    /// Makes chunk `i` at least `sizes[i]` bytes. Sessions made before keep the buffers that they were made with, so
    /// reserve for all plans of a job before the first session.
    pub fn reserve(&mut self, gpu: &Gpu, sizes: &[u64]) -> Result<()> {
        for (i, &size) in sizes.iter().enumerate() {
            if self.chunks.get(i).is_some_and(|b| b.size() >= size) {
                continue;
            }
            let buffer = storage_buffer(gpu, "arena", size);
            match self.chunks.get_mut(i) {
                Some(slot) => *slot = buffer,
                None => self.chunks.push(buffer),
            }
        }
        gpu.check()
    }

    pub(crate) fn chunk(&self, i: usize) -> Option<&wgpu::Buffer> {
        self.chunks.get(i)
    }

    /// Bytes of all chunks.
    pub fn bytes(&self) -> u64 {
        self.chunks.iter().map(wgpu::Buffer::size).sum()
    }
}

pub(crate) fn storage_buffer(gpu: &Gpu, label: &str, size: u64) -> wgpu::Buffer {
    let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
    let size = size.max(16).next_multiple_of(4);
    gpu.device.create_buffer(&wgpu::BufferDescriptor { label: Some(label), size, usage, mapped_at_creation: false })
}

/// A range of a buffer that holds a stored tensor.
#[derive(Clone, Debug)]
pub(crate) struct StoredBuffer {
    pub(crate) buffer: wgpu::Buffer,
    pub(crate) offset: u64,
    pub(crate) bytes: u64,
}

/// Tensors that live across runs, by key: weights, optimizer state, sampler state.
pub struct Store {
    gpu: Gpu,
    entries: HashMap<String, StoredBuffer>,
    /// Bytes handed to the queue since it was last flushed.
    staged: AtomicU64,
}

/// How much is handed to the queue before it is flushed: bounds wgpu's own staging memory.
pub const STAGING_BYTES: u64 = 4 << 20;

impl Store {
    /// An empty store on `gpu`.
    pub fn new(gpu: &Gpu) -> Store {
        Store { gpu: gpu.clone(), entries: HashMap::new(), staged: Default::default() }
    }

    /// Whether `key` is held.
    pub fn contains(&self, key: &str) -> bool {
        self.entries.contains_key(key)
    }

    /// Bytes of `key`, if it is held.
    pub fn bytes(&self, key: &str) -> Option<u64> {
        self.entries.get(key).map(|e| e.bytes)
    }

    /// All keys, unordered.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// Makes room, zeroed, for `tensors` (key and bytes), several to a buffer; keys that are held already are left alone.
    /// Returns the ranges' buffers in order of allocation: members of one call lie in sequence, aligned to 256 bytes.
    pub fn allocate(&mut self, label: &str, tensors: &[(String, u64)]) -> Result<()> {
        self.allocate_limited(label, tensors, self.gpu.caps().max_buffer_bytes).map(drop)
    }

    /// The same as one flat vector per buffer, so that an optimizer may update many tensors in one dispatch: each buffer
    /// is also held whole as `label#i`, and fits a binding. Returns those keys with their bytes.
    pub fn allocate_flat(&mut self, label: &str, tensors: &[(String, u64)]) -> Result<Vec<(String, u64)>> {
        let buffers = self.allocate_limited(label, tensors, self.gpu.caps().max_binding_bytes)?;
        let mut keys = Vec::with_capacity(buffers.len());
        for (i, (buffer, bytes)) in buffers.into_iter().enumerate() {
            let key = format!("{label}#{i}");
            self.entries.insert(key.clone(), StoredBuffer { buffer, offset: 0, bytes });
            keys.push((key, bytes));
        }
        Ok(keys)
    }

    fn allocate_limited(
        &mut self,
        label: &str,
        tensors: &[(String, u64)],
        limit: u64,
    ) -> Result<Vec<(wgpu::Buffer, u64)>> {
        let align = self.gpu.caps().storage_alignment.max(256);
        // Bytes used so far, and members as (key, offset, bytes).
        type Group<'a> = (u64, Vec<(&'a str, u64, u64)>);
        let mut groups: Vec<Group> = Vec::new();
        for (key, bytes) in tensors {
            if self.entries.contains_key(key) {
                continue;
            }
            if *bytes > limit {
                return Err(Error::Limit(format!(
                    "{key} takes {bytes} bytes, more than the {limit} that this adapter holds in one piece; try --dtype f16"
                )));
            }
            let fits = groups.last().is_some_and(|(used, _)| used + bytes <= limit);
            if !fits {
                groups.push((0, Vec::new()));
            }
            if let Some((used, members)) = groups.last_mut() {
                members.push((key, *used, *bytes));
                *used = (*used + bytes).next_multiple_of(align);
            }
        }
        let mut buffers = Vec::with_capacity(groups.len());
        for (used, members) in groups {
            let size = used.min(limit);
            let buffer = storage_buffer(&self.gpu, label, size);
            for (key, offset, bytes) in members {
                self.entries.insert(key.to_string(), StoredBuffer { buffer: buffer.clone(), offset, bytes });
            }
            buffers.push((buffer, size));
        }
        self.gpu.check()?;
        Ok(buffers)
    }

    /// Forgets every tensor whose key `gone` accepts; a buffer is freed with its last tensor and last session.
    pub fn release(&mut self, gone: impl Fn(&str) -> bool) {
        self.entries.retain(|key, _| !gone(key));
    }

    pub(crate) fn entry(&self, key: &str) -> Result<&StoredBuffer> {
        self.entries.get(key).ok_or_else(|| Error::Device(format!("{key} is not in the store")))
    }

    /// Writes `bytes` at the start of `key`.
    pub fn write(&self, key: &str, bytes: &[u8]) -> Result<()> {
        self.write_at(key, 0, bytes)
    }

    /// Writes `bytes` from byte `first` of `key` on, a multiple of 4; what is behind them up to the next multiple of 4
    /// becomes zero.
    pub fn write_at(&self, key: &str, first: u64, bytes: &[u8]) -> Result<()> {
        let entry = self.entry(key)?;
        let end = first + bytes.len() as u64;
        if end > entry.bytes {
            return Err(Error::Device(format!("{key} holds {} bytes, not {end}", entry.bytes)));
        }
        let mut offset = entry.offset + first;
        for piece in bytes.chunks(STAGING_BYTES as usize) {
            if self.staged.fetch_add(piece.len() as u64, Relaxed) + piece.len() as u64 > STAGING_BYTES {
                self.gpu.queue.submit([]);
                self.gpu.wait()?;
                self.staged.store(piece.len() as u64, Relaxed);
            }
            let padded;
            let piece = if piece.len() % 4 == 0 {
                piece
            } else {
                padded = [piece, &[0u8; 3][..4 - piece.len() % 4]].concat();
                &padded
            };
            self.gpu.queue.write_buffer(&entry.buffer, offset, piece);
            offset += piece.len() as u64;
        }
        Ok(())
    }

    /// Reads `key` back.
    pub async fn read(&self, key: &str) -> Result<Vec<u8>> {
        let entry = self.entry(key)?;
        self.gpu.read(&entry.buffer, entry.offset, entry.bytes).await
    }
}

impl Gpu {
    /// Waits until everything submitted is done.
    pub fn wait(&self) -> Result<()> {
        let poll = self.device.poll(wgpu::PollType::wait_indefinitely());
        poll.map_err(|e| Error::Device(format!("{}: {e}", self.info().name)))?;
        self.check()
    }

    /// Copies a range of `buffer` to the host.
    pub(crate) async fn read(&self, buffer: &wgpu::Buffer, offset: u64, bytes: u64) -> Result<Vec<u8>> {
        let staging = self.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("readback"),
            size: bytes.next_multiple_of(4),
            usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        let mut encoder = self.device.create_command_encoder(&Default::default());
        encoder.copy_buffer_to_buffer(buffer, offset, &staging, 0, bytes.next_multiple_of(4));
        self.queue.submit([encoder.finish()]);
        let mapped = Mapped::start(&staging);
        #[cfg(not(target_arch = "wasm32"))]
        self.wait()?;
        mapped.await.map_err(|e| Error::Device(format!("{}: readback: {e}", self.info().name)))?;
        let view = staging.slice(..).get_mapped_range();
        let view = view.map_err(|e| Error::Device(format!("{}: readback: {e}", self.info().name)))?;
        Ok(view[..bytes as usize].to_vec())
    }
}

/// A future of `map_async`.
struct Mapped(std::sync::Arc<std::sync::Mutex<MapState>>);

#[derive(Default)]
struct MapState {
    done: Option<Result<(), wgpu::BufferAsyncError>>,
    waker: Option<std::task::Waker>,
}

impl Mapped {
    fn start(buffer: &wgpu::Buffer) -> Mapped {
        let state = std::sync::Arc::new(std::sync::Mutex::new(MapState::default()));
        let done = state.clone();
        buffer.slice(..).map_async(wgpu::MapMode::Read, move |result| {
            let mut state = done.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            state.done = Some(result);
            if let Some(waker) = state.waker.take() {
                waker.wake();
            }
        });
        Mapped(state)
    }
}

impl Future for Mapped {
    type Output = Result<(), wgpu::BufferAsyncError>;

    fn poll(self: std::pin::Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> std::task::Poll<Self::Output> {
        let mut state = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match state.done.take() {
            Some(result) => std::task::Poll::Ready(result),
            None => {
                state.waker = Some(cx.waker().clone());
                std::task::Poll::Pending
            }
        }
    }
}
