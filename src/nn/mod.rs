//! Layers over stored parameters. A [`Scope`] walks the checkpoint's names while a model is built; every layer asks it for
//! its [`Param`]s, and the scope remembers them, so that [`weights`] knows what to load, pack and write back.

mod conv;
mod embedding;
mod linear;
pub mod lora;
mod norm;
mod params;
pub mod weights;

pub use conv::Conv2d;
pub use embedding::Embedding;
pub use linear::Linear;
pub use lora::{Adapter, LoraSpec, Targets};
pub use norm::{GroupNorm, LayerNorm};
pub use params::{Mode, Pack, Param, Ranks, Role, Scope, Settings, Source};
