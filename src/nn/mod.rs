//! Layers over stored parameters. A [`Scope`] walks the checkpoint's names while a model is built; every layer asks it
//! for its [`Param`]s, and the scope remembers them, so that [`loading`] knows what to load and
//! [`weights`] what to pack and write back.

mod conv;
mod embedding;
mod linear;
pub mod loading;
pub mod lora;
mod norm;
mod params;
mod settings;
pub mod weights;

pub use conv::Conv2d;
pub use embedding::Embedding;
pub use linear::Linear;
pub use lora::Adapter;
pub use norm::{GroupNorm, LayerNorm};
pub use params::{Pack, Param, Role, Scope, Source};
pub use settings::{LoraSpec, Mode, Ranks, Settings, Targets};
