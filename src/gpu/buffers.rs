//! GPU buffers, and tensors that outlive a run.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::open::OpenBuffers;
use super::waiting::Signal;
use super::{AdapterClass, Caps, Gpu};
use crate::error::{Error, Result, message, option};

/// Buffer that is destroyed with its last owner. JavaScript would free it only at its next garbage collection, which
/// does not know about the adapter's memory.
#[derive(Clone, Debug)]
pub(crate) struct Buffer(Arc<Owned>);

#[derive(Debug)]
struct Owned(wgpu::Buffer);

impl Drop for Owned {
    fn drop(&mut self) {
        if cfg!(target_arch = "wasm32") {
            self.0.destroy();
        }
    }
}

impl std::ops::Deref for Buffer {
    type Target = wgpu::Buffer;

    fn deref(&self) -> &wgpu::Buffer {
        &self.0.0
    }
}

pub(crate) fn storage_buffer(gpu: &Gpu, label: &str, size: u64) -> Buffer {
    gpu.buffer(label, size, wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC)
}

/// Range of a buffer that holds a tensor's values. It excludes the padding that kernels may read behind them, so rows
/// are found at their true offsets whatever their length.
#[derive(Clone, Debug)]
pub(crate) struct StoredBuffer {
    pub(crate) buffer: Buffer,
    pub(crate) offset: u64,
    /// Bytes of the values.
    pub(crate) bytes: u64,
}

impl StoredBuffer {
    /// Returns part `index` of the tensor, cut into `count` equal, consecutive parts.
    ///
    /// # Errors
    /// [`Error::Internal`] if the values do not divide into `count` parts of whole words.
    pub(crate) fn part(&self, index: usize, count: usize) -> Result<StoredBuffer> {
        let (index, count) = (index as u64, count as u64);
        if index >= count || !self.bytes.is_multiple_of(4 * count) {
            return Err(Error::Internal(format!("{} bytes have no part {index} of {count}", self.bytes)));
        }
        let bytes = self.bytes / count;
        Ok(StoredBuffer { buffer: self.buffer.clone(), offset: self.offset + index * bytes, bytes })
    }
}

/// Tensors that outlive a run, by key: weights, optimizer state, sampler state.
pub struct Store {
    gpu: Gpu,
    entries: HashMap<String, StoredBuffer>,
    /// Stores whose tensors can be read through this one, but not written.
    shared: Vec<Arc<Store>>,
    /// Bytes handed to the queue since it was last flushed.
    staged: AtomicU64,
    open: OpenBuffers,
}

/// Bytes handed to the queue before it is flushed; bounds wgpu's own staging memory.
pub const STAGING_BYTES: u64 = 4 << 20;

/// Threads of a job that prepare what it writes: with eight, SD 1.5's UNet loads on an H200 at 2.5 GB/s. More were not tried.
const MOST_THREADS: usize = 8;

impl Store {
    /// Creates an empty store on `gpu`.
    pub fn new(gpu: &Gpu) -> Store {
        Store::beside(gpu, [])
    }

    /// Creates an empty store that also finds the tensors of `shared`: one job's state beside weights that several jobs
    /// read.
    pub(crate) fn beside(gpu: &Gpu, shared: impl IntoIterator<Item = Arc<Store>>) -> Store {
        let shared = shared.into_iter().collect();
        Store {
            gpu: gpu.clone(),
            entries: HashMap::new(),
            shared,
            staged: Default::default(),
            open: OpenBuffers::default(),
        }
    }

    /// Shares the store, for several jobs to read.
    #[cfg_attr(
        target_arch = "wasm32",
        allow(clippy::arc_with_non_send_sync, reason = "in a page, wgpu's objects belong to one thread")
    )]
    pub(crate) fn into_shared(self) -> Arc<Store> {
        Arc::new(self)
    }

    /// Returns whether the tensors are on the device of `gpu`.
    pub(crate) fn is_on(&self, gpu: &Gpu) -> bool {
        self.gpu.device == gpu.device
    }

    /// Returns whether the store holds `key`.
    pub fn contains(&self, key: &str) -> bool {
        self.find(key).is_some()
    }

    /// Bytes of `key`, if the store holds it.
    pub fn bytes(&self, key: &str) -> Option<u64> {
        self.find(key).map(|e| e.bytes)
    }

    fn find(&self, key: &str) -> Option<&StoredBuffer> {
        self.entries.get(key).or_else(|| self.shared.iter().find_map(|store| store.find(key)))
    }

    /// Allocates `tensors` (key and bytes), zeroed, several to a buffer. Keys that the store already holds are left
    /// alone. The tensors of one call lie in sequence, each aligned to 256 bytes, with room behind it for the padding
    /// that kernels may read.
    ///
    /// # Errors
    /// [`Error::Limit`] if a tensor exceeds the adapter's limits, by name; [`Error::Device`] if the memory cannot be
    /// allocated.
    pub fn allocate(&mut self, label: &str, tensors: &[(String, u64)]) -> Result<()> {
        self.allocate_limited(label, tensors, self.gpu.caps().max_buffer_bytes).map(drop)
    }

    /// Allocates `tensors` as flat vectors, so that an optimizer can update many tensors in one dispatch. Each buffer
    /// is also held whole, under the key `label#i`, and fits one binding. Returns these keys with their bytes.
    ///
    /// # Errors
    /// Those of [`Store::allocate`].
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

    fn allocate_limited(&mut self, label: &str, tensors: &[(String, u64)], limit: u64) -> Result<Vec<(Buffer, u64)>> {
        let new: Vec<(String, u64)> =
            tensors.iter().filter(|(key, _)| !self.entries.contains_key(key)).cloned().collect();
        let groups = groups(&new, limit, self.gpu.caps())?;
        let mut buffers = Vec::with_capacity(groups.len());
        for (size, members) in groups {
            let buffer = match self.open.wanted {
                true => self.gpu.open_buffer(label, size),
                false => storage_buffer(&self.gpu, label, size),
            };
            if self.open.wanted {
                self.open.add(&buffer);
            }
            for (key, offset, bytes) in members {
                self.entries.insert(key.to_string(), StoredBuffer { buffer: buffer.clone(), offset, bytes });
            }
            buffers.push((buffer, size));
        }
        self.gpu.check()?;
        Ok(buffers)
    }

    /// Removes every tensor whose key `gone` accepts. A buffer is freed with its last tensor and last session.
    pub fn release(&mut self, gone: impl Fn(&str) -> bool) {
        self.entries.retain(|key, _| !gone(key));
    }

    pub(crate) fn entry(&self, key: &str) -> Result<&StoredBuffer> {
        self.find(key).ok_or_else(|| Error::Internal(format!("{key} is not in the store")))
    }

    /// Writes `bytes` at the start of `key`.
    ///
    /// # Errors
    /// [`Error::Device`] if `key` is missing or shorter.
    pub fn write(&self, key: &str, bytes: &[u8]) -> Result<()> {
        self.write_at(key, 0, bytes)
    }

    /// Writes many `bytes` at the start of `key`, a few at a time, and gives the thread back in between.
    ///
    /// # Errors
    /// Those of [`Store::write`].
    pub async fn write_long(&self, key: &str, bytes: &[u8]) -> Result<()> {
        for (i, piece) in bytes.chunks(STAGING_BYTES as usize).enumerate() {
            self.write_at(key, i as u64 * STAGING_BYTES, piece)?;
            self.settle().await?;
        }
        Ok(())
    }

    /// Writes `bytes` from byte `first` of `key`, a multiple of 4. Bytes behind them up to the next multiple of 4
    /// become zero.
    ///
    /// # Errors
    /// [`Error::Device`] if `key` is missing or shorter.
    pub fn write_at(&self, key: &str, first: u64, bytes: &[u8]) -> Result<()> {
        let own = self.entries.get(key);
        let entry = own.ok_or_else(|| Error::Internal(format!("{key} is not in the store, or shared")))?;
        let end = first + bytes.len() as u64;
        if end > entry.bytes {
            return Err(Error::Internal(format!("{key} holds {} bytes, not {end}", entry.bytes)));
        }
        let (whole, rest) = bytes.split_at(bytes.len() / 4 * 4);
        self.write_words(entry, first, whole)?;
        if !rest.is_empty() {
            let padded = [rest, &[0u8; 3][..4 - rest.len()]].concat();
            self.write_words(entry, first + whole.len() as u64, &padded)?;
        }
        Ok(())
    }

    fn write_words(&self, entry: &StoredBuffer, first: u64, words: &[u8]) -> Result<()> {
        if words.is_empty() || self.open.write(&entry.buffer, entry.offset + first, words)? {
            return Ok(());
        }
        self.gpu.queue.write_buffer(&entry.buffer, entry.offset + first, words);
        self.staged.fetch_add(words.len() as u64, Relaxed);
        Ok(())
    }

    /// Makes new tensors writable without the queue until [`Store::close`], where the device computes in the host's memory.
    pub(crate) fn open(&mut self) {
        self.open.wanted = self.gpu.shares_memory();
    }

    /// Gives the tensors to the device that were allocated since [`Store::open`].
    pub(crate) fn close(&mut self) {
        self.open.close();
    }

    /// Waits until all writes have arrived, if [`STAGING_BYTES`] or more are pending; wgpu holds them in memory until
    /// then.
    ///
    /// # Errors
    /// [`Error::Device`] if the device fails.
    pub async fn settle(&self) -> Result<()> {
        self.gpu.breathe().await;
        self.gpu.look_up().await;
        if self.staged.load(Relaxed) >= self.gpu.staging_bytes() {
            self.staged.store(0, Relaxed);
            self.gpu.queue.submit([]);
            self.gpu.wait().await?;
        }
        Ok(())
    }

    /// Does as [`Store::settle`], but blocks this thread.
    ///
    /// # Errors
    /// Those of [`Store::settle`].
    pub(crate) fn settle_here(&self) -> Result<()> {
        #[cfg(not(target_arch = "wasm32"))]
        if self.staged.load(Relaxed) >= self.gpu.staging_bytes() {
            self.staged.store(0, Relaxed);
            self.gpu.wait_here(self.gpu.queue.submit([]))?;
        }
        Ok(())
    }

    /// Threads that prepare what is written here: one, the job's own, in a page, in a host's steps and on a device that is
    /// not ours.
    pub(crate) fn threads(&self) -> usize {
        self.gpu.threads()
    }

    /// Reads the bytes of `key` back to the host.
    ///
    /// # Errors
    /// [`Error::Device`] if `key` is missing or the device fails.
    pub async fn read(&self, key: &str) -> Result<Vec<u8>> {
        let entry = self.entry(key)?;
        self.gpu.read(&entry.buffer, entry.offset, entry.bytes).await
    }
}

/// Bytes of a buffer, and its members as (key, offset, bytes).
type Group<'a> = (u64, Vec<(&'a str, u64, u64)>);

/// Groups `tensors` into buffers of at most `limit` bytes.
fn groups<'a>(tensors: &'a [(String, u64)], limit: u64, caps: &Caps) -> Result<Vec<Group<'a>>> {
    let align = caps.storage_alignment.max(256);
    let mut groups: Vec<Group> = Vec::new();
    for (key, bytes) in tensors {
        if *bytes > limit {
            let fault =
                format!("{key} takes {bytes} bytes, more than the {limit} that this adapter holds in one piece");
            return Err(Error::limit(message![fault, "; try ", option("dtype"), " f16"]));
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
    groups.iter_mut().for_each(|(used, _)| *used = limit.min(*used));
    Ok(groups)
}

/// Bytes of the flat vectors that [`Store::allocate_flat`] makes of `tensors`.
pub(crate) fn flat_bytes(tensors: &[(String, u64)], caps: &Caps) -> Result<Vec<u64>> {
    Ok(groups(tensors, caps.max_binding_bytes, caps)?.into_iter().map(|(bytes, _)| bytes).collect())
}

impl Gpu {
    /// Threads that prepare what a job writes.
    fn threads(&self) -> usize {
        if cfg!(target_arch = "wasm32") || !self.is_ours() || self.turn.is_some() {
            return 1;
        }
        std::thread::available_parallelism().map_or(1, |n| n.get().min(MOST_THREADS))
    }

    /// Returns whether the device computes in the host's own memory, and lets it be written there.
    fn shares_memory(&self) -> bool {
        let features = self.device.features();
        self.caps().class == AdapterClass::Cpu && features.contains(wgpu::Features::MAPPABLE_PRIMARY_BUFFERS)
    }

    /// Creates a storage buffer that is open to the host.
    fn open_buffer(&self, label: &str, size: u64) -> Buffer {
        use wgpu::BufferUsages;
        let usage = BufferUsages::STORAGE | BufferUsages::COPY_SRC | BufferUsages::MAP_WRITE;
        self.buffer_with(label, size, usage, true)
    }

    /// Bytes handed to the queue before waiting for them. A host that draws sixty frames a second gets more at a time,
    /// since it is asked only once per frame.
    fn staging_bytes(&self) -> u64 {
        STAGING_BYTES * if self.turn.is_some() { 8 } else { 1 }
    }

    /// Creates a buffer of at least `size` bytes that can be copied to and used as `usage` says.
    pub(crate) fn buffer(&self, label: &str, size: u64, usage: wgpu::BufferUsages) -> Buffer {
        self.buffer_with(label, size, usage, false)
    }

    /// Creates such a buffer, if `open` mapped for the host to write.
    fn buffer_with(&self, label: &str, size: u64, usage: wgpu::BufferUsages, open: bool) -> Buffer {
        let size = size.max(16).next_multiple_of(4);
        let usage = usage | wgpu::BufferUsages::COPY_DST;
        let descriptor = wgpu::BufferDescriptor { label: Some(label), size, usage, mapped_at_creation: open };
        #[cfg_attr(target_arch = "wasm32", allow(clippy::arc_with_non_send_sync, reason = "a page has one thread"))]
        Buffer(Arc::new(Owned(self.device.create_buffer(&descriptor))))
    }

    /// Reads a range of `buffer` back to the host.
    pub(crate) async fn read(&self, buffer: &wgpu::Buffer, offset: u64, bytes: u64) -> Result<Vec<u8>> {
        self.count_readback();
        let staging = self.buffer("readback", bytes, wgpu::BufferUsages::MAP_READ);
        let mut encoder = self.device.create_command_encoder(&Default::default());
        encoder.copy_buffer_to_buffer(buffer, offset, &staging, 0, bytes.next_multiple_of(4));
        self.queue.submit([encoder.finish()]);
        let (mapped, give) = Signal::new();
        staging.slice(..).map_async(wgpu::MapMode::Read, give);
        let mapped = self.wait_for(None, mapped).await?;
        self.check()?;
        mapped.map_err(|e| Error::Device(format!("{}: readback: {e}", self.info().name)))?;
        let view = staging.slice(..).get_mapped_range();
        let view = view.map_err(|e| Error::Device(format!("{}: readback: {e}", self.info().name)))?;
        Ok(view[..bytes as usize].to_vec())
    }
}
