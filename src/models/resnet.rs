//! `ResnetBlock2D` (He et al. 2015, arXiv 1512.03385, with group norms and the time added inside), and the convolutions
//! that change the resolution.

use crate::error::{Error, Result};
use crate::graph::{Graph, Tensor};
use crate::nn::{Conv2d, GroupNorm, Linear, Scope};
use crate::ops::{Addend, Conv, Epilogue, upsample_nearest};

/// Time embedding as a residual block reads it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Time {
    /// SiLU of the time embedding, `[n, width]`.
    pub(super) embedding: Tensor,
    /// All blocks' projections of it side by side, where they are one layer.
    pub(super) projections: Option<Tensor>,
}

/// The projection of the time to a block's channels.
#[derive(Clone, Debug)]
pub(super) enum TimeProjection {
    Own(Box<Linear>),
    /// Columns of [`Time::projections`] from this one on.
    Slice(usize),
}

impl TimeProjection {
    fn addend(&self, g: &mut Graph, time: Option<Time>) -> Result<Addend> {
        let time = time.ok_or_else(|| Error::op("resnet", "the time is missing"))?;
        match (self, time.projections) {
            (TimeProjection::Own(layer), _) => {
                Ok(Addend::PerSample { tensor: layer.forward(g, time.embedding)?, offset: 0 })
            }
            (TimeProjection::Slice(offset), Some(tensor)) => Ok(Addend::PerSample { tensor, offset: *offset }),
            (TimeProjection::Slice(_), None) => Err(Error::op("resnet", "the time's projections are missing")),
        }
    }
}

/// Norm, SiLU, convolution, twice, beside a shortcut.
#[derive(Clone, Debug)]
pub(super) struct ResnetBlock {
    pub(super) norm1: GroupNorm,
    pub(super) conv1: Conv2d,
    time_emb_proj: Option<TimeProjection>,
    pub(super) norm2: GroupNorm,
    pub(super) conv2: Conv2d,
    pub(super) conv_shortcut: Option<Conv2d>,
    path: String,
}

impl ResnetBlock {
    /// Creates a block from `input` (a skip's channels included) to `output` channels.
    pub(super) fn new(
        scope: &Scope,
        [input, output]: [usize; 2],
        groups: usize,
        eps: f64,
        time_emb_proj: Option<TimeProjection>,
    ) -> ResnetBlock {
        ResnetBlock {
            norm1: GroupNorm::new(&scope.pp("norm1"), input, groups, eps),
            conv1: Conv2d::same(&scope.pp("conv1"), input, output, 3),
            time_emb_proj,
            norm2: GroupNorm::new(&scope.pp("norm2"), output, groups, eps),
            conv2: Conv2d::same(&scope.pp("conv2"), output, output, 3),
            conv_shortcut: (input != output).then(|| Conv2d::same(&scope.pp("conv_shortcut"), input, output, 1)),
            path: scope.path().to_string(),
        }
    }

    /// `x [n, h, w, c1]`, followed by the channels of `skip [n, h, w, c2]` -> `[n, h, w, output]`
    pub(super) fn forward(&self, g: &mut Graph, x: Tensor, skip: Option<Tensor>, time: Option<Time>) -> Result<Tensor> {
        g.segment(&self.path, |g| {
            let h = self.norm1.forward_silu(g, x, skip)?;
            let add = self.time_emb_proj.as_ref().map(|p| p.addend(g, time)).transpose()?;
            let h = self.conv1.forward_with(g, h, None, Epilogue { add, ..Epilogue::default() })?;
            let h = self.norm2.forward_silu(g, h, None)?;
            let shortcut = match (&self.conv_shortcut, skip) {
                (Some(conv), _) => conv.forward_with(g, x, skip, Epilogue::default())?,
                (None, None) => x,
                (None, Some(_)) => {
                    let message = format!("{} has a skip but no conv_shortcut", self.path);
                    return Err(Error::op("resnet", message));
                }
            };
            let residual = Epilogue { add: Some(Addend::Full(shortcut)), ..Epilogue::default() };
            self.conv2.forward_with(g, h, None, residual)
        })
    }
}

/// Half the resolution, by a convolution of stride 2. Without padding it sees a row and a column of zeros behind the
/// image.
pub(super) fn downsampler(scope: &Scope, channels: usize, padding: usize) -> Conv2d {
    let pad = if padding == 0 { [0, 0, 1, 1] } else { [padding; 4] };
    let conv = Conv { stride: 2, pad, upsample: false };
    Conv2d::new(&scope.pp("downsamplers").pp(0).pp("conv"), channels, channels, 3, conv)
}

/// Twice the resolution (nearest neighbour), or a given one, then a convolution.
#[derive(Clone, Debug)]
pub(super) struct Upsampler {
    conv: Conv2d,
    /// The convolution over its input enlarged twice.
    pub(super) doubling: Conv2d,
}

impl Upsampler {
    pub(super) fn new(scope: &Scope, channels: usize) -> Upsampler {
        let conv = Conv2d::same(&scope.pp("upsamplers").pp(0).pp("conv"), channels, channels, 3);
        let doubling = Conv2d { conv: Conv { upsample: true, ..conv.conv }, ..conv.clone() };
        Upsampler { conv, doubling }
    }

    /// `x [n, h, w, c] -> [n, size[0], size[1], c]`; without `size` twice the resolution.
    pub(super) fn forward(&self, g: &mut Graph, x: Tensor, size: Option<[usize; 2]>) -> Result<Tensor> {
        let shape = g.shape(x).clone();
        match size.filter(|s| *s != [2 * shape[1], 2 * shape[2]]) {
            None => self.doubling.forward(g, x),
            Some(size) => {
                let large = upsample_nearest(g, x, size)?;
                self.conv.forward(g, large)
            }
        }
    }
}
