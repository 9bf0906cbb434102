//! Kernel variants that are measured on an adapter before use, and the shapes that decide.

use super::{AttentionSpec, Conv, Epilogue, Graph, Heads, Result, Tensor, attention, conv2d, linear};
use crate::base::DType;
use crate::gpu::{AdapterClass, Caps, Variants};

/// Variants of one kind of kernel.
pub struct Choice {
    /// Kind: `gemm` or `attention`, the key in [`crate::gpu::Variants`].
    pub key: &'static str,
    /// Names; the first is the default.
    pub variants: &'static [&'static str],
    /// Function that records the work to time.
    pub probe: fn(&mut Graph) -> Result<Vec<Tensor>>,
}

/// Choices of an adapter with `caps`.
pub fn choices(caps: &Caps) -> Vec<Choice> {
    match caps.class {
        // Handing operands round within a subgroup, or every thread for itself.
        AdapterClass::Cpu if caps.subgroup > 0 => vec![
            Choice { key: "gemm", variants: &["subgroup", "thread"], probe: products },
            Choice { key: "attention", variants: &["subgroup", "thread"], probe: attentions },
        ],
        AdapterClass::Cpu => Vec::new(),
        // How many workgroups a product must have before tiles are made smaller and its sums cut into parts.
        AdapterClass::Gpu => {
            let variants = &["workgroups-96", "workgroups-32", "workgroups-384"];
            vec![Choice { key: "gemm", variants, probe: products }]
        }
    }
}

/// Choices that give hardware's small products the tiles of large ones, so that tests and dumps reach every tile.
pub fn large_tiles() -> Vec<Variants> {
    let choice = |enough: usize| Variants { chosen: [("gemm".to_owned(), format!("workgroups-{enough}"))].into() };
    [1, 2, 5].map(choice).into()
}

/// Records a linear layer and two convolutions, of shallow and deep layers.
fn products(g: &mut Graph) -> Result<Vec<Tensor>> {
    let (x, w) = (g.stored("x", [512, 320], DType::F32)?, g.stored("w", [320, 320], DType::F32)?);
    let mut results = vec![linear(g, x, w, Epilogue::default())?];
    for (name, side, channels) in [("shallow", 16, 64), ("deep", 8, 160)] {
        let x = g.stored(&format!("{name} x"), [2, side, side, channels], DType::F32)?;
        let w = g.stored(&format!("{name} w"), [channels, 3, 3, channels], DType::F32)?;
        results.push(conv2d(g, x, None, w, Conv::same(3), Epilogue::default())?);
    }
    Ok(results)
}

/// Records self- and cross-attention.
fn attentions(g: &mut Graph) -> Result<Vec<Tensor>> {
    let spec = AttentionSpec { heads: 2, head_dim: 32, scale: 0.2, causal: false };
    let mut results = Vec::new();
    for (name, keys) in [("self", 256), ("cross", 77)] {
        let q = g.stored(&format!("{name} q"), [2, 256, 64], DType::F32)?;
        let k = g.stored(&format!("{name} k"), [2, keys, 64], DType::F32)?;
        results.push(attention(g, Heads::from(q), Heads::from(k), Heads::from(k), spec)?);
    }
    Ok(results)
}
