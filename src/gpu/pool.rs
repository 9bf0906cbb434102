//! Working memory of plans.

use super::Gpu;
use super::buffers::{Buffer, storage_buffer};
use crate::error::Result;

/// Arena of chunks that plans share, one after another; as large as the largest plan needs.
#[derive(Default)]
pub struct Pool {
    chunks: Vec<Buffer>,
}

impl Pool {
    /// Grows chunk `i` to at least `sizes[i]` bytes. Existing sessions keep their buffers, so reserve for all plans of
    /// a job before the first session.
    ///
    /// # Errors
    /// [`Error::Limit`](crate::Error::Limit) or [`Error::Device`](crate::Error::Device) if the memory cannot be allocated.
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

    /// Makes chunk `i` as large as `sizes[i]`; what is not needed is freed first. No session of an earlier plan may run
    /// again.
    ///
    /// # Errors
    /// Those of [`Pool::reserve`].
    pub(crate) fn fit(&mut self, gpu: &Gpu, sizes: &[u64]) -> Result<()> {
        // A chunk that is too large takes another chunk's room, one that is too small is of no use.
        let fits = self.chunks.iter().zip(sizes).take_while(|(chunk, size)| chunk.size() == **size).count();
        self.chunks.truncate(fits);
        self.reserve(gpu, sizes)
    }

    pub(crate) fn chunk(&self, i: usize) -> Option<&Buffer> {
        self.chunks.get(i)
    }
}
