//! Bytes wherever they lie: in memory, in the binary, in a file.

use std::ops::Range;
use std::sync::Arc;

/// Bytes that are got slice by slice, so that no more of them than is looked at is ever in memory: a file on the disk,
/// or one that a web page was given. A page's Worker reads such files without waiting; that is why nothing here is
/// async.
pub trait Slices {
    /// Length in bytes.
    fn len(&self) -> u64;

    /// Returns whether there is nothing to read.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes of `range`, which lies within the length.
    ///
    /// # Errors
    /// A message for the user when they cannot be had.
    fn read(&self, range: Range<u64>) -> Result<Vec<u8>, String>;
}

#[cfg(not(target_arch = "wasm32"))]
type SharedSlices = Arc<dyn Slices + Send + Sync>;
/// Slices in a page: JavaScript's objects belong to one thread, and a page's engine has one.
#[cfg(target_arch = "wasm32")]
type SharedSlices = std::rc::Rc<dyn Slices>;

/// Location of a source's bytes.
#[derive(Clone)]
pub(super) enum Data {
    Shared(Arc<[u8]>),
    Static(&'static [u8]),
    Slices(SharedSlices),
}
