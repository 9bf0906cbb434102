//! Where a training runs, and what is trained.

use crate::gpu::Gpu;
use crate::pipeline::Model;
use crate::pipeline::context::Context;

use super::TrainOptions;

/// The surroundings of a training: those of any job, its options and the open model.
pub(super) struct TrainContext<'a> {
    pub context: Context,
    pub job: &'a TrainOptions,
    pub model: &'a Model,
}

impl TrainContext<'_> {
    /// The device.
    pub fn gpu(&self) -> &Gpu {
        &self.context.gpu
    }

    /// The same surroundings on another handle of the device.
    pub fn on(&self, gpu: &Gpu) -> Self {
        TrainContext { context: self.context.on(gpu), ..*self }
    }
}
