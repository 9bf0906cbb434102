//! Portray generates images with Stable Diffusion and teaches it new subjects, on any GPU, through WebGPU.
//!
//! An [`Engine`] opens a GPU, or takes the device of an application that renders with wgpu. It does two jobs: it generates
//! images from prompts ([`GenerateOptions`]), and it trains a LoRA or a whole UNet on a few images of a subject
//! ([`TrainOptions`]). A job reports [`Event`]s to a listener, which can stop it.
//!
//! ```
//! # #[cfg(feature = "bundled")] {
//! use portray::{Engine, EngineOptions, Event, Flow, GenerateOptions, SamplingOptions};
//!
//! # pollster::block_on(async {
//! let engine = Engine::request(&EngineOptions::default()).await?;
//! let options = GenerateOptions {
//!     prompts: vec!["a cat on the beach".into()],
//!     sampling: SamplingOptions { steps: Some(2), seed: 7, ..Default::default() },
//!     ..Default::default() // the built-in model
//! };
//! let mut listener = |event: Event| {
//!     if let Event::Progress { done, total, .. } = event {
//!         println!("{done} of {total}");
//!     }
//!     Flow::Continue
//! };
//! let made = engine.generate(&options, &mut listener).await?;
//! assert_eq!(made.pictures[0].rgb.len(), 128 * 128 * 3);
//! # Ok::<(), portray::Error>(())
//! # }).unwrap();
//! # }
//! ```
//!
//! # Where to go next
//!
//! | you want to | read |
//! |---|---|
//! | use your own model, LoRAs or sampler | [`ModelOptions`], [`LoraArg`], [`SamplingOptions`] |
//! | train | [`Engine::train`], [`TrainOptions`] |
//! | choose the word that a training gives to its subject | [`Engine::identify`], [`IdentifyOptions`] |
//! | judge what was trained | [`Engine::evaluate`], [`EvaluateOptions`] |
//! | generate again and again with one model | [`Engine::open`], [`Model::keep_weights`], [`Engine::generate_with`] |
//! | run inside an application that renders with wgpu | [`embedding`], [`Engine::from_device`], [`Job`] |
//! | know memory and work before a job runs | [`Engine::prepare`], [`plan_generate`], [`plan_train`], [`PlanReport`] |
//! | embed images and texts with DINO, DINOv2 or CLIP | [`VisionModel`], [`Engine::embed_images`] |
//! | stop a job from another thread | [`CancelToken`], [`Engine::with_cancel`] |
//! | handle failures | [`Error`] |
//!
//! # Modules
//!
//! Each module imports only modules above it in this table, except that [`io`] and `diffusion` import [`base`] alone.
//!
//! | module | contents |
//! |---|---|
//! | [`error`], [`event`] | errors; what a job tells its caller |
//! | [`base`] | types, shapes, arrays on the host, random number streams |
//! | [`io`] | safetensors, checkpoints, LoRA layouts, tokenizer, images |
//! | `diffusion` | noise schedules and samplers |
//! | [`gpu`] | device, limits, buffers, kernels |
//! | [`graph`] | recording, differentiation, memory planning, replay |
//! | [`ops`] | operations: one file and one kernel each |
//! | `nn`, `models` | layers; text encoder, UNet, autoencoder and image towers |
//! | [`family`] | families of models: their parts, configurations and names; opening checkpoints and LoRA files |
//! | [`pipeline`] | running a model: opening it, its weights on the device, text, denoising, decoding |
//! | [`generate`] | prompts to images |
//! | [`identifier`] | which word to give to a subject |
//! | [`evaluate`] | how well a subject was learned, and how much of the rest was kept |
//! | [`train`] | images of a subject to a LoRA or a UNet (DreamBooth) |
//! | [`engine`] | the facade: [`Engine`] and [`Job`] |
//! | [`tools`] | benchmarks, comparison with other implementations, checks of a device |
//!
//! `ARCHITECTURE.md` in the repository follows five journeys through these modules.
//!
//! # Your own operations
//!
//! An operation is a type that implements [`graph::Op`] (shape rule, kernel launch, a reference in f64, its gradient) and a
//! kernel in WGSL ([`gpu::Template`]). [`graph::Graph::push`] records it, from this crate or from yours
//! (`examples/custom_op.rs`), and [`ops::Case`] compares its kernel with its reference.
//!
//! # Stability
//!
//! Semantic versioning covers the items on this page. Before 1.0 a minor version may change them and a patch version does
//! not; the changelog lists every change. `nn`, `models` and `diffusion` are public for the command line and the tests
//! only, and may change in any version. So may the kernels, and with them the last bits of a result. [`wgpu`] is re-exported:
//! a new major version of it is a new minor version here.

pub mod base;
#[doc(hidden)]
pub mod diffusion;
#[doc = include_str!("embedding.md")]
pub mod embedding {}
pub mod engine;
pub mod error;
pub mod evaluate;
pub mod event;
pub mod family;
pub mod generate;
pub mod gpu;
pub mod graph;
pub mod identifier;
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
pub use engine::{Engine, EngineOptions, Job, Prepared, required_features, required_limits};
pub use error::{Error, Result};
pub use evaluate::{EvaluateOptions, Evaluation};
pub use event::{CancelToken, EvaluationReport, Event, Flow, Listener, Phase, Picture, StepReport};
pub use generate::{GenerateOptions, Generated, Latents, plan_generate};
pub use gpu::Budget;
pub use identifier::{Identifiers, IdentifyOptions};
pub use io::LoraFormat;
pub use pipeline::{
    LoraArg, LoraReport, Model, ModelOptions, ModelReport, PlanReport, SamplingOptions, VisionModel, WeightType,
};
pub use train::{Checkpointing, Crop, LrSchedule, Method, Optimizer, Stop, Targets, TrainOptions, Trained, plan_train};
pub use wgpu;
