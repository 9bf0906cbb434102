//! The only layer that names wgpu (with `graph::run` and the facade): device, limits, buffers, kernels, readback.

mod buffers;
mod caps;
mod device;
mod kernel;
mod waiting;

pub(crate) use buffers::{Buffer, storage_buffer};
pub use buffers::{Pool, STAGING_BYTES, Store};
pub use caps::{AdapterClass, Caps, Variants};
pub use device::{AdapterEntry, DeviceOptions, Gpu, adapters};
pub use kernel::{Access, BindingSpec, Field, Kernel, Template};
pub(crate) use waiting::Flight;
