//! What it takes to plan, and a planned part of a model.

use std::sync::Arc;

use crate::error::Result;
use crate::gpu::{Caps, Gpu, Variants};
use crate::graph::{Graph, Plan, PlanOptions, Tensor};
use crate::nn::Param;

/// A recorded part: its graph's plan, what to write and what to read.
#[derive(Clone)]
pub(crate) struct Part {
    /// What people call it.
    pub name: &'static str,
    /// The plan.
    pub plan: Arc<Plan>,
    /// The input.
    pub input: Tensor,
    /// The result.
    pub output: Tensor,
    /// Its weights.
    pub params: Vec<Param>,
}

/// What it takes to plan: the adapter as data.
#[derive(Clone, Copy)]
pub(crate) struct Planning<'a> {
    /// Limits.
    pub caps: &'a Caps,
    /// Chosen kernels.
    pub variants: &'a Variants,
    /// The device that is planned for, where there is one.
    pub gpu: Option<&'a Gpu>,
}

impl Planning<'_> {
    pub(crate) fn plan(&self, g: &Graph) -> Result<Arc<Plan>> {
        Plan::new(g, self.caps, self.variants, &PlanOptions::default()).map(Arc::new)
    }

    /// Gives the thread back to a host whose step has had its time: between two plans, for one takes up to some tenths of a
    /// second.
    pub(crate) async fn breathe(&self) {
        if let Some(gpu) = self.gpu {
            gpu.breathe().await;
        }
    }
}
