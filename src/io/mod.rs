//! Files: safetensors, diffusers folders, LoRA layouts, tokenizer, images.
//!
//! Everything that is read is checked before it is believed, and every error names the file, the tensor or field in
//! it, and what to do. Everything that is written is written beside its destination and renamed, so that a full disk
//! or a killed process never leaves half a file.

pub mod atomic;
#[cfg(feature = "bundled")]
pub mod bundled;
mod byte_pairs;
pub mod checkpoints;
pub(crate) mod describe;
pub mod files;
pub mod image;
pub mod lora_file;
pub mod place;
pub mod safetensors;
mod slices;
pub mod source;
pub mod tokenizer;
mod tokenizer_files;

pub use atomic::{write_atomic, write_folder};
pub use checkpoints::{Bundle, Checkpoint, ModelModules, PartId, Weights, write_diffusers_folder};
pub use image::{Crop, Parameters, Picture, list_pictures, write_png};
pub use lora_file::{Layout, LoraFile, LoraFormat, LoraModule, ModuleKey};
pub use place::{Place, Placed};
pub use safetensors::{ElementType, SafeTensors, Tensor, write_safetensors};
pub use slices::Slices;
pub use source::Source;
pub use tokenizer::{ClipTokenizer, Encoded};
pub use tokenizer_files::TokenizerFiles;
