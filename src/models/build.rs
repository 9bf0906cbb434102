//! State of a UNet under construction.

use super::config::UnetConfig;
use super::resnet::{ResnetBlock, TimeProjection};
use crate::nn::{Linear, Scope};

/// Counts what a UNet's blocks share while it is built.
pub(super) struct Build<'a> {
    pub(super) config: &'a UnetConfig,
    /// Time projections that become one layer, with their channels.
    pub(super) time_projections: Vec<(Scope, usize)>,
    cross_attentions: usize,
}

impl<'a> Build<'a> {
    pub(super) fn new(config: &'a UnetConfig) -> Build<'a> {
        Build { config, time_projections: Vec::new(), cross_attentions: 0 }
    }

    /// Index of the next cross-attention.
    pub(super) fn next_cross_attention(&mut self) -> usize {
        self.cross_attentions += 1;
        self.cross_attentions - 1
    }

    /// Adds a residual block from `input` to `output` channels, with its time projection.
    pub(super) fn resnet(&mut self, scope: &Scope, input: usize, output: usize) -> ResnetBlock {
        let name = "time_emb_proj";
        let projection = if scope.fuses(&[name]) {
            let offset = self.time_projections.iter().map(|(_, channels)| channels).sum();
            self.time_projections.push((scope.pp(name), output));
            TimeProjection::Slice(offset)
        } else {
            TimeProjection::Own(Box::new(Linear::new(&scope.pp(name), self.config.time_embed_dim(), output, true)))
        };
        let UnetConfig { norm_num_groups, norm_eps, .. } = self.config;
        ResnetBlock::new(scope, [input, output], *norm_num_groups, *norm_eps, Some(projection))
    }
}
