//! Memory of software drivers, which is the host's own: weights are written into it directly, not through the queue, which
//! may be compiling meanwhile.

use super::{AdapterClass, Buffer, Gpu, StoredBuffer};
use crate::error::{Error, Result};

/// wgpu maps ranges that begin at multiples of this.
const ALIGNMENT: u64 = wgpu::MAP_ALIGNMENT;

/// Buffers that the host writes, and no dispatch may use yet.
#[derive(Default)]
pub(super) struct OpenBuffers {
    /// Whether new buffers are open.
    pub wanted: bool,
    buffers: Vec<Buffer>,
}

impl OpenBuffers {
    pub fn add(&mut self, buffer: &Buffer) {
        self.buffers.push(buffer.clone());
    }

    /// Writes `bytes`, whole words, to `at` from byte `first` on, if its buffer is open.
    pub fn write(&self, at: &StoredBuffer, first: u64, bytes: &[u8]) -> Result<bool> {
        if !self.buffers.iter().any(|buffer| **buffer == *at.buffer) {
            return Ok(false);
        }
        let start = at.offset + first;
        let begin = start / ALIGNMENT * ALIGNMENT;
        let skipped = (start - begin) as usize;
        let mapped = at.buffer.get_mapped_range_mut(begin..start + bytes.len() as u64);
        let mut mapped = mapped.map_err(|e| Error::Device(format!("weights: {e}")))?;
        mapped.slice(skipped..).copy_from_slice(bytes);
        Ok(true)
    }

    /// Gives all buffers to the device.
    pub fn close(&mut self) {
        self.wanted = false;
        self.buffers.drain(..).for_each(|buffer| buffer.unmap());
    }
}

impl Gpu {
    /// Returns whether the device computes in the host's own memory, and lets it be written there.
    pub(super) fn shares_memory(&self) -> bool {
        let features = self.device.features();
        self.caps().class == AdapterClass::Cpu && features.contains(wgpu::Features::MAPPABLE_PRIMARY_BUFFERS)
    }

    /// Creates a storage buffer that is open to the host.
    pub(super) fn open_buffer(&self, label: &str, size: u64) -> Buffer {
        use wgpu::BufferUsages;
        let usage = BufferUsages::STORAGE | BufferUsages::COPY_SRC | BufferUsages::MAP_WRITE;
        self.buffer_with(label, size, usage, true)
    }
}
