//! Memory of software drivers, which is the host's own: weights are written into it directly, not through the queue, which
//! may be compiling meanwhile.

use crate::error::{Error, Result};

/// wgpu maps ranges that begin at multiples of this.
const ALIGNMENT: u64 = wgpu::MAP_ALIGNMENT;

/// Buffers that the host writes, and no dispatch may use yet.
#[derive(Default)]
pub(super) struct OpenBuffers {
    /// Whether new buffers are open.
    pub wanted: bool,
    buffers: Vec<wgpu::Buffer>,
}

impl OpenBuffers {
    pub fn add(&mut self, buffer: &wgpu::Buffer) {
        self.buffers.push(buffer.clone());
    }

    /// Writes `bytes`, whole words, to `buffer` from byte `start` on, if it is open.
    pub fn write(&self, buffer: &wgpu::Buffer, start: u64, bytes: &[u8]) -> Result<bool> {
        if !self.buffers.contains(buffer) {
            return Ok(false);
        }
        let begin = start / ALIGNMENT * ALIGNMENT;
        let skipped = (start - begin) as usize;
        let mapped = buffer.get_mapped_range_mut(begin..start + bytes.len() as u64);
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
