//! Data types, shapes, host arrays, random streams and JSON as Python writes it. No GPU in here.

mod array;
pub mod block4;
pub mod block8;
mod dtype;
pub mod json;
pub mod layout;
mod lock;
pub mod rng;
mod shape;

pub use array::Array;
pub use dtype::DType;
pub(crate) use lock::lock;
pub use shape::Shape;
