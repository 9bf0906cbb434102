//! Normalization layers.

use super::{Param, Scope};
use crate::error::Result;
use crate::graph::{Graph, Tensor};
use crate::ops::{group_norm, layer_norm};

/// Group normalization (Wu and He 2018, arXiv 1803.08494).
#[derive(Clone, Debug)]
pub struct GroupNorm {
    /// Factor per channel.
    pub weight: Param,
    /// Addend per channel.
    pub bias: Param,
    /// Groups of channels.
    pub groups: usize,
    /// Added to the variance.
    pub eps: f64,
}

impl GroupNorm {
    /// Over `channels` channels in `groups` groups.
    pub fn new(scope: &Scope, channels: usize, groups: usize, eps: f64) -> GroupNorm {
        GroupNorm { weight: scope.vector("weight", channels), bias: scope.vector("bias", channels), groups, eps }
    }

    /// `x [n, h, w, c]`, normalized.
    pub fn forward(&self, g: &mut Graph, x: Tensor) -> Result<Tensor> {
        self.run(g, x, None, false)
    }

    /// Records the normalised input followed by SiLU; `x2` holds the last channels.
    pub fn forward_silu(&self, g: &mut Graph, x: Tensor, x2: Option<Tensor>) -> Result<Tensor> {
        self.run(g, x, x2, true)
    }

    fn run(&self, g: &mut Graph, x: Tensor, x2: Option<Tensor>, silu: bool) -> Result<Tensor> {
        let (gamma, beta) = (self.weight.get(g)?, self.bias.get(g)?);
        group_norm(g, x, x2, gamma, beta, self.groups, self.eps, silu)
    }
}

/// Layer normalization over the last dimension (Ba et al. 2016, arXiv 1607.06450).
#[derive(Clone, Debug)]
pub struct LayerNorm {
    /// Factor per channel.
    pub weight: Param,
    /// Addend per channel.
    pub bias: Param,
    /// Added to the variance.
    pub eps: f64,
}

impl LayerNorm {
    /// Over `channels` channels.
    pub fn new(scope: &Scope, channels: usize, eps: f64) -> LayerNorm {
        LayerNorm { weight: scope.vector("weight", channels), bias: scope.vector("bias", channels), eps }
    }

    /// `x [.., c]`, normalized.
    pub fn forward(&self, g: &mut Graph, x: Tensor) -> Result<Tensor> {
        let (gamma, beta) = (self.weight.get(g)?, self.bias.get(g)?);
        layer_norm(g, x, gamma, beta, self.eps)
    }
}
