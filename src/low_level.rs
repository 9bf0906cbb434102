//! Everything below the facade: devices, graphs, kernels, files, models and the steps of a job.
//!
//! The command line, the page, the tests and the benchmarks of this repository are built from these modules, and so may be a
//! program that needs more than a finished job: its own operations, its own training loop, or a reader of checkpoints. They
//! are documented like the rest, but no version number covers them: any release may change them.
//!
//! Each module imports only modules above it in this table, except that [`io`] and [`diffusion`] import [`base`] alone. All
//! of them may import [`error`](crate::error), and [`pipeline`] and those below it [`event`](crate::event).
//!
//! | module | contents |
//! |---|---|
//! | [`base`] | types, shapes, arrays on the host, random number streams |
//! | [`io`] | safetensors, checkpoints, LoRA layouts, tokenizer, images |
//! | [`diffusion`] | noise schedules and samplers |
//! | [`gpu`] | device, limits, buffers, kernels |
//! | [`graph`] | recording, differentiation, memory planning, replay |
//! | [`ops`] | operations: one file and one kernel each |
//! | [`nn`], [`models`] | layers; text encoder, UNet, autoencoder and image towers |
//! | [`family`] | families of models: their parts, configurations and names; opening checkpoints and LoRA files |
//! | [`pipeline`] | running a model: opening it, its weights on the device, text, denoising, decoding |
//! | [`generate`] | prompts to images |
//! | [`identifier`] | which word to give to a subject |
//! | [`evaluate`] | how well a subject was learned, and how much of the rest was kept |
//! | [`train`] | images of a subject to a LoRA or a UNet (DreamBooth) |
//! | [`engine`] | the facade: [`Engine`](crate::Engine) and [`Job`](crate::Job) |
//! | [`tools`] | benchmarks, comparison with other implementations, checks of a device |
//!
//! # Your own operations
//!
//! An operation is a type that implements [`graph::Op`] (shape rule, kernel launch, a reference in f64, its gradient) and a
//! kernel in WGSL ([`gpu::Template`]). [`graph::Graph::push`] records it, from this crate or from yours
//! (`examples/custom_op.rs`), and [`ops::Case`] compares its kernel with its reference.

// The modules lie beside this file, and the crate's root names them too: inside the crate one is `crate::io`.
#[path = "base/mod.rs"]
pub mod base;
#[path = "diffusion/mod.rs"]
pub mod diffusion;
#[path = "engine/mod.rs"]
pub mod engine;
#[path = "evaluate/mod.rs"]
pub mod evaluate;
#[path = "family/mod.rs"]
pub mod family;
#[path = "generate/mod.rs"]
pub mod generate;
#[path = "gpu/mod.rs"]
pub mod gpu;
#[path = "graph/mod.rs"]
pub mod graph;
#[path = "identifier/mod.rs"]
pub mod identifier;
#[path = "io/mod.rs"]
pub mod io;
#[path = "models/mod.rs"]
pub mod models;
#[path = "nn/mod.rs"]
pub mod nn;
#[path = "ops/mod.rs"]
pub mod ops;
#[path = "pipeline/mod.rs"]
pub mod pipeline;
#[path = "tools/mod.rs"]
pub mod tools;
#[path = "train/mod.rs"]
pub mod train;
