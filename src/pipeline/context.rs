//! Where a job runs: its device, the kernels that suit it, and where its images go.

use std::sync::Arc;

use crate::event::CancelToken;
use crate::gpu::{Gpu, Variants};

use super::planning::Planning;
use super::textures::TextureSink;

/// Where finished images and previews go.
#[derive(Clone)]
pub(crate) enum PictureSink {
    /// To the listener, as pixels on the host.
    Pixels,
    /// To textures on the device; events come without pixels.
    Textures(Arc<TextureSink>),
}

/// The surroundings of a running job. Each entry point of the facade makes one.
#[derive(Clone)]
pub(crate) struct Context {
    /// The device; of a host's job, one that keeps to the host's budget.
    pub gpu: Gpu,
    /// The variants of kernels that run.
    pub variants: Variants,
    /// Where images go.
    pub pictures: PictureSink,
    /// Request to end, beside the listener's answers.
    pub cancel: CancelToken,
}

impl Context {
    /// Runs on `gpu` and gives images as pixels.
    pub fn new(gpu: Gpu, variants: Variants) -> Context {
        Context { gpu, variants, pictures: PictureSink::Pixels, cancel: CancelToken::new() }
    }

    /// The same surroundings on another handle of the device.
    pub fn on(&self, gpu: &Gpu) -> Context {
        Context { gpu: gpu.clone(), ..self.clone() }
    }

    /// The adapter and its kernels, to plan for.
    pub fn planning(&self) -> Planning<'_> {
        Planning { caps: self.gpu.caps(), variants: &self.variants, gpu: Some(&self.gpu) }
    }
}
