//! Portray: personalize text-to-image diffusion models on any GPU.
//!
//! Four pictures of one subject in; that subject in any scene out. [`engine::Engine`] generates and trains, on an adapter of
//! its own or on the device of a host application ([`embedding`]); a job's options are plain data ([`GenerateOptions`], [`TrainOptions`]), and it
//! reports through a listener ([`event`]), which can stop it.
//!
//! ```
//! # #[cfg(feature = "bundled")] {
//! use portray::{Engine, EngineOptions, Event, Flow, GenerateOptions, SamplingOptions};
//!
//! # pollster::block_on(async {
//! let engine = Engine::request(&EngineOptions::default()).await?;
//! let job = GenerateOptions {
//!     prompts: vec!["a cat on the beach".into()],
//!     sampling: SamplingOptions { steps: Some(2), seed: 7, ..Default::default() },
//!     ..Default::default() // the bundled model, as on the command line
//! };
//! let mut listener = |event: Event| {
//!     if let Event::Progress { done, total, .. } = event {
//!         println!("{done} of {total}");
//!     }
//!     Flow::Continue
//! };
//! let made = engine.generate(&job, &mut listener).await?;
//! assert_eq!(made.pictures[0].rgb.len(), 128 * 128 * 3);
//! # Ok::<(), portray::Error>(())
//! # }).unwrap();
//! # }
//! ```
//!
//! # Layers
//!
//! Imports go one way, which `tests/without_adapter/layers.rs` holds.
//!
//! | module | what lives there |
//! |---|---|
//! | [`base`] | types, shapes, host arrays, random streams |
//! | [`gpu`] | device, limits, buffers, kernels |
//! | [`graph`] | recording, differentiation, placement in memory, replay |
//! | [`ops`] | the ops: one file and one kernel each |
//! | `nn`, `models` | layers; text encoder, UNet and autoencoder |
//! | `diffusion` | noise schedules and samplers |
//! | [`io`] | safetensors, checkpoints, LoRA layouts, tokenizer, pictures |
//! | [`pipeline`] | how a model is run: opening it, its weights on the device, text, denoising, decoding; knows no job |
//! | [`generate`] | prompts to pictures |
//! | [`train`] | pictures of a subject to a LoRA or a UNet (DreamBooth) |
//! | [`engine`] | the facade: [`Engine`] and [`Job`] |
//! | [`tools`] | benchmarks, comparison with other implementations, checks of a device |
//!
//! # Adding an op
//!
//! A type that implements [`graph::Op`] - shape rule, launch, a naive f64 reference, its gradient recorded as ops - and a
//! kernel, a WGSL template ([`gpu::Template`]). [`graph::Graph::push`] records it, from this crate or from another
//! (`examples/custom_op.rs`); [`ops::Case`] compares its kernels with its reference.
//!
//! # Versions
//!
//! Semantic versioning covers what this page lists. Before 1.0 a minor version may change it, a patch does not; the
//! changelog says what changed. `nn`, `models` and `diffusion` are public for the command line and the tests only,
//! and may change in any version; so may the kernels, and with them the last bits of a result. [`wgpu`] is re-exported, and
//! its major version is part of the interface: a new one is a new minor version here.

pub mod base;
#[doc(hidden)]
pub mod diffusion;
#[doc = include_str!("embedding.md")]
pub mod embedding {}
pub mod engine;
pub mod error;
pub mod event;
pub mod generate;
pub mod gpu;
pub mod graph;
pub mod io;
#[doc(hidden)]
pub mod models;
#[doc(hidden)]
pub mod nn;
pub mod ops;
pub mod pipeline;
pub mod tools;
pub mod train;
#[cfg(all(feature = "web", target_arch = "wasm32"))]
mod web;

pub use base::rng::RngKind;
pub use diffusion::{Prediction, SamplerKind, Spacing};
pub use engine::{Engine, EngineOptions, Job, required_features, required_limits};
pub use error::{Error, Result};
pub use event::{Event, Flow, Listener, Phase, Picture, StepReport};
pub use generate::{GenerateOptions, Generated, Latents, plan_generate};
pub use gpu::Budget;
pub use io::LoraFormat;
pub use pipeline::{LoraArg, LoraReport, Model, ModelOptions, ModelReport, PlanReport, SamplingOptions, WeightType};
pub use train::{Checkpointing, Crop, LrSchedule, Method, Optimizer, Targets, TrainOptions, Trained, plan_train};
pub use wgpu;
