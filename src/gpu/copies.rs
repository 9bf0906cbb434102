//! Copies of tensors on the device.

use super::{Gpu, StoredBuffer};
use crate::error::{Error, Result};

impl Gpu {
    /// Copies a tensor's values on the device. The two ranges must be in different buffers.
    ///
    /// # Errors
    /// [`Error::Internal`] if they differ in length.
    pub(crate) fn copy(&self, from: &StoredBuffer, to: &StoredBuffer) -> Result<()> {
        if from.bytes != to.bytes {
            return Err(Error::Internal(format!("a tensor of {} bytes has no room for {}", to.bytes, from.bytes)));
        }
        let mut encoder = self.device.create_command_encoder(&Default::default());
        encoder.copy_buffer_to_buffer(&from.buffer, from.offset, &to.buffer, to.offset, from.bytes);
        self.queue.submit([encoder.finish()]);
        Ok(())
    }

    /// Copies `from`, `rows` rows of equal length, to the bytes from `at` on of as many rows of `to`, in which more may lie
    /// beside them. The two ranges must be in different buffers.
    ///
    /// # Errors
    /// [`Error::Internal`] if the rows of `to` end before those of `from` would.
    pub(crate) fn copy_rows(&self, from: &StoredBuffer, to: &StoredBuffer, rows: usize, at: u64) -> Result<()> {
        let rows = rows as u64;
        let [bytes, of] = [from.bytes, to.bytes].map(|bytes| bytes / rows.max(1));
        if [from.bytes, to.bytes] != [bytes * rows, of * rows] || at + bytes > of {
            return Err(Error::Internal(format!("rows of {of} bytes have no room for {bytes} from byte {at} on")));
        }
        if bytes == of {
            return self.copy(from, to);
        }
        let mut encoder = self.device.create_command_encoder(&Default::default());
        for row in 0..rows {
            let (source, target) = (from.offset + row * bytes, to.offset + row * of + at);
            encoder.copy_buffer_to_buffer(&from.buffer, source, &to.buffer, target, bytes);
        }
        self.queue.submit([encoder.finish()]);
        Ok(())
    }
}
