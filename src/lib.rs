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
//! | choose the word that a training gives to its subject | [`Engine::identify`], [`IdentifyOptions`], [`identification`] |
//! | judge what was trained | [`Engine::evaluate`], [`EvaluateOptions`], [`evaluation`] |
//! | generate again and again with one model | [`Engine::open`], [`Model::keep_weights`], [`Engine::generate_with`] |
//! | run inside an application that renders with wgpu | [`embedding`], [`Engine::from_device`], [`Job`] |
//! | know memory and work before a job runs | [`Engine::prepare`], [`PlanReport`]; for a training [`low_level::train::plan_train`] |
//! | embed images and texts with DINO, DINOv2 or CLIP | [`VisionModel`], [`Engine::embed_images`] |
//! | stop a job from another thread | [`CancelToken`], [`Engine::with_cancel`] |
//! | handle failures | [`Error`] |
//!
//! # Beneath
//!
//! [`low_level`] opens the rest: devices, graphs, kernels, files and models, for programs with their own operations or
//! training loops. `ARCHITECTURE.md` in the repository follows five journeys through it.
//!
//! # Stability
//!
//! Semantic versioning covers the items on this page. It does not cover [`low_level`], nor methods and fields with a type that
//! only [`low_level`] names. Before 1.0 a minor version may change the items and a patch version does not; the changelog lists
//! every change. The kernels may change in any version, and with them the last bits of a result. [`wgpu`] is re-exported: a
//! new major version of it is a new minor version here.

#[doc = include_str!("embedding.md")]
pub mod embedding {}
pub mod error;
/// Figures of an evaluation, and the images that they are of.
pub mod evaluation {
    #[doc(inline)]
    pub use crate::evaluate::{
        Column, Estimate, Figure, Figures, Image, Judges, Nearest, Prompt, PromptFigures, Report, Role, SCHEMA, Twin,
    };
}
pub mod event;
/// What is known of a word that may name a subject.
pub mod identification {
    #[doc(inline)]
    pub use crate::identifier::{IdentifiedWord, Near, Prior, WordToken};
}
pub mod low_level;
#[cfg(all(feature = "web", target_arch = "wasm32"))]
mod web;

use low_level::{
    base, diffusion, engine, evaluate, family, generate, gpu, graph, identifier, io, models, nn, ops, pipeline, train,
};

#[doc(inline)]
pub use base::rng::RngKind;
#[doc(inline)]
pub use diffusion::{Prediction, SamplerKind, Spacing};
#[doc(inline)]
pub use engine::{Engine, EngineOptions, Job, Prepared, required_features, required_limits};
pub use error::{Error, Result};
#[doc(inline)]
pub use evaluate::{EvaluateOptions, Evaluation, ScaledLora};
pub use event::{CancelToken, EvaluationReport, Event, Flow, Listener, Phase, Picture, StepReport};
#[doc(inline)]
pub use generate::{GenerateOptions, Generated, Latents};
#[doc(inline)]
pub use gpu::Budget;
#[doc(inline)]
pub use identifier::{Identifiers, IdentifyOptions};
#[doc(inline)]
pub use io::LoraFormat;
#[doc(inline)]
pub use pipeline::{
    LoraArg, LoraReport, Model, ModelOptions, ModelReport, PartReport, PixelOffset, PixelSize, PlanReport,
    SamplingOptions, VisionKind, VisionModel, WeightType,
};
#[doc(inline)]
pub use train::{BucketStep, Checkpointing, Crop, LrSchedule, Method, Optimizer, Stop, Targets, TrainOptions, Trained};
pub use wgpu;
