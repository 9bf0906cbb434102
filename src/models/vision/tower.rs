//! Recording of an image tower.

use super::config::{VisionConfig, VisionKind};
use crate::error::{Error, Result};
use crate::graph::{Graph, Tensor};
use crate::models::attention::{OF_VISION, OF_VISION_UNBIASED, SelfAttention};
use crate::nn::{LayerNorm, Linear, Scope};
use crate::ops::{Activation, Addend, Epilogue, join_rows, repeat, reshape, slice_rows, swiglu};

/// Feed-forward layers.
#[derive(Clone, Debug)]
enum FeedForward {
    Plain {
        fc1: Linear,
        activation: Activation,
        fc2: Linear,
    },
    /// Values and gates side by side.
    Gated {
        up_gate: Linear,
        down: Linear,
    },
}

impl FeedForward {
    fn new(scope: &Scope, config: &VisionConfig) -> FeedForward {
        let VisionConfig { hidden_size: c, inner, activation, .. } = *config;
        if config.gated {
            let both = [(scope.pp("up_proj"), inner), (scope.pp("gate_proj"), inner)];
            return FeedForward::Gated {
                up_gate: Linear::stacked(scope, "up_gate", &both, c, true),
                down: Linear::new(&scope.pp("down_proj"), inner, c, true),
            };
        }
        FeedForward::Plain {
            fc1: Linear::new(&scope.pp("fc1"), c, inner, true),
            activation,
            fc2: Linear::new(&scope.pp("fc2"), inner, c, true),
        }
    }

    /// `residual + forward(x)`
    fn forward(&self, g: &mut Graph, x: Tensor, residual: Tensor) -> Result<Tensor> {
        let add = Epilogue { add: Some(Addend::Full(residual)), ..Epilogue::default() };
        match self {
            FeedForward::Plain { fc1, activation, fc2 } => {
                let h = fc1.forward_with(g, x, Epilogue { activation: Some(*activation), ..Epilogue::default() })?;
                fc2.forward_with(g, h, add)
            }
            FeedForward::Gated { up_gate, down } => {
                let h = up_gate.forward(g, x)?;
                let h = swiglu(g, h)?;
                down.forward_with(g, h, add)
            }
        }
    }
}

#[derive(Clone, Debug)]
struct Layer {
    norm1: LayerNorm,
    attention: SelfAttention,
    norm2: LayerNorm,
    mlp: FeedForward,
}

impl Layer {
    fn new(scope: &Scope, config: &VisionConfig) -> Layer {
        let VisionConfig { hidden_size: c, eps, .. } = *config;
        let kind = if config.qkv_bias { &OF_VISION } else { &OF_VISION_UNBIASED };
        Layer {
            norm1: LayerNorm::new(&scope.pp("norm1"), c, eps),
            attention: SelfAttention::new(&scope.pp("attention"), kind, c, config.heads),
            norm2: LayerNorm::new(&scope.pp("norm2"), c, eps),
            mlp: FeedForward::new(&scope.pp("mlp"), config),
        }
    }

    /// Layer of `x [n, tokens, c]`; of its result the first token alone if `last`, since nothing reads the others.
    fn forward(&self, g: &mut Graph, x: Tensor, last: bool) -> Result<Tensor> {
        let h = self.norm1.forward(g, x)?;
        let mut x = self.attention.forward(g, h, x)?;
        if last {
            x = slice_rows(g, x, 0, 1)?;
        }
        let h = self.norm2.forward(g, x)?;
        self.mlp.forward(g, h, x)
    }
}

/// Image tower. The factors of LayerScale are part of its weights ([`super::fold`]).
#[derive(Clone, Debug)]
pub struct VisionTower {
    /// Its configuration.
    pub config: VisionConfig,
    patches: Linear,
    pre_norm: Option<LayerNorm>,
    layers: Vec<Layer>,
    norm: LayerNorm,
    projection: Option<Linear>,
}

impl VisionTower {
    /// Builds it at `scope`, under the names that [`super::stored`] finds in files.
    pub fn new(scope: &Scope, config: VisionConfig) -> VisionTower {
        let VisionConfig { hidden_size: c, eps, .. } = config;
        let clip = config.kind == VisionKind::Clip;
        VisionTower {
            patches: Linear::new(&scope.pp("patches"), config.patch_values(), c, !clip),
            pre_norm: clip.then(|| LayerNorm::new(&scope.pp("pre_norm"), c, eps)),
            layers: (0..config.layers).map(|i| Layer::new(&scope.pp("layers").pp(i), &config)).collect(),
            norm: LayerNorm::new(&scope.pp("norm"), c, eps),
            projection: config.projection.map(|width| Linear::new(&scope.pp("projection"), c, width, false)),
            config,
        }
    }

    /// Records embeddings `[n, width]` of `patches [n, count, values]`, the class token after the last norm, projected where
    /// the model has a projection. `leading [1, 1 + registers, hidden_size]` and `positions [1, count, hidden_size]` are those
    /// of [`super::Tokens`].
    ///
    /// # Errors
    /// [`Error::Op`] if shapes do not fit.
    pub fn forward(&self, g: &mut Graph, patches: Tensor, [leading, positions]: [Tensor; 2]) -> Result<Tensor> {
        let [n, count, _] = g.shape(patches)[..] else {
            return Err(Error::op("vision", format!("patches are {}: expected [n, count, values]", g.shape(patches))));
        };
        let c = self.config.hidden_size;
        let (leading, positions) = (repeat(g, leading, n)?, repeat(g, positions, n)?);
        let add = Some(Addend::Full(positions));
        let h = self.patches.forward_with(g, patches, Epilogue { add, ..Epilogue::default() })?;
        let h = reshape(g, h, [n, count, c])?;
        let mut h = join_rows(g, &[leading, h])?;
        if let Some(norm) = &self.pre_norm {
            h = norm.forward(g, h)?;
        }
        for (i, layer) in self.layers.iter().enumerate() {
            h = layer.forward(g, h, i + 1 == self.layers.len())?;
        }
        let h = self.norm.forward(g, h)?;
        let h = reshape(g, h, [n, c])?;
        match &self.projection {
            Some(projection) => projection.forward(g, h),
            None => Ok(h),
        }
    }
}
