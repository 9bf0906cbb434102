//! GPU layer: device, limits, buffers, kernels, readback. Only this module, the replay of plans and the facade name
//! wgpu.

mod buffers;
mod caps;
mod compile;
mod copies;
#[cfg_attr(target_arch = "wasm32", allow(dead_code, reason = "a page has one thread"))]
mod crew;
mod device;
mod in_order;
mod kernel;
mod kernels;
#[cfg(not(target_arch = "wasm32"))]
mod late;
mod open;
mod pace;
mod paint;
mod pool;
#[cfg(not(target_arch = "wasm32"))]
mod runs;
#[cfg(test)]
mod simulated_hosts;
mod turn;
mod waiting;
mod watch;

pub(crate) use buffers::{Buffer, StoredBuffer, flat_bytes, storage_buffer};
pub use buffers::{STAGING_BYTES, Store};
pub use caps::{AdapterClass, Caps, Variants};
pub(crate) use compile::Ahead;
pub(crate) use device::USED_FEATURES;
pub use device::{AdapterEntry, DeviceOptions, Gpu, adapters, choose_adapter};
pub use in_order::Shared;
pub(crate) use in_order::in_order;
pub(crate) use kernel::shader;
pub use kernel::{Access, BindingSpec, Field, Kernel, Template};
pub(crate) use kernels::Pipeline;
pub(crate) use paint::{Colours, Painter};
pub use pool::Pool;
pub use turn::Budget;
pub(crate) use turn::{Allowance, Turn};
pub(crate) use waiting::Flight;
pub(crate) use watch::Watch;
