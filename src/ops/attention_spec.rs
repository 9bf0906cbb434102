//! Attributes and extents of attention, which its passes share.

use super::{Result, Tensor};
use crate::base::{Array, Shape};
use crate::error::Error;

/// Columns of the widest head that a thread's registers hold. A wider one runs as plain matrix products, which keep the
/// scores in memory, want queries, keys and values as tensors of their own, take a single head and have no gradients.
pub const WIDEST_HEAD: usize = 160;

/// Operand of attention: a tensor and the position of its heads.
#[derive(Clone, Copy, Debug)]
pub struct Heads {
    /// [n, tokens, width]
    pub tensor: Tensor,
    /// First column of head 0.
    pub offset: usize,
}

impl From<Tensor> for Heads {
    fn from(tensor: Tensor) -> Heads {
        Heads { tensor, offset: 0 }
    }
}

/// Heads and scale.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionSpec {
    /// Number of heads.
    pub heads: usize,
    /// Columns of a head.
    pub head_dim: usize,
    /// Factor of the logits, usually `1 / sqrt(head_dim)`.
    pub scale: f64,
    /// Causal mask: a token sees only tokens up to its own position.
    pub causal: bool,
}

/// Operands q, k, v; results [n, tokens_q, heads * head_dim] and log-sum-exp [n, heads, tokens_q].
#[derive(Clone, Debug)]
pub struct Attention {
    /// Heads and scale.
    pub spec: AttentionSpec,
    /// First column of head 0 of q, k and v.
    pub offsets: [usize; 3],
}

/// Extents of the operands.
pub(super) struct Dims {
    pub n: usize,
    pub queries: usize,
    pub keys: usize,
    pub widths: [usize; 3],
}

impl Attention {
    pub(super) fn dims(&self, [q, k, v]: [&Shape; 3]) -> Result<Dims> {
        let s = &self.spec;
        let columns = s.heads * s.head_dim;
        let fits = |shape: &Shape, offset: usize| shape.len() == 3 && offset + columns <= shape[2];
        let fine = fits(q, self.offsets[0]) && fits(k, self.offsets[1]) && fits(v, self.offsets[2]);
        if !fine || q[0] != k[0] || k[..2] != v[..2] || columns == 0 {
            let message =
                format!("q is {q}, k {k}, v {v}, for {} heads of {} at {:?}", s.heads, s.head_dim, self.offsets);
            return Err(Error::op("attention", message));
        }
        Ok(Dims { n: q[0], queries: q[1], keys: k[1], widths: [q[2], k[2], v[2]] })
    }

    /// Returns whether every vector of four lies within one head.
    pub(super) fn vectors(&self, d: &Dims) -> bool {
        let four = |n: &usize| n.is_multiple_of(4);
        four(&self.spec.head_dim) && self.offsets.iter().all(four) && d.widths.iter().all(four)
    }

    /// Computes the logits of one head in f64, row by row; masked ones are `-inf`.
    pub(super) fn logits(&self, inputs: &[&Array], d: &Dims, n: usize, head: usize) -> Vec<Vec<f64>> {
        let at = |which: usize, token: usize, c: usize| {
            let tokens = if which == 0 { d.queries } else { d.keys };
            inputs[which].data
                [(n * tokens + token) * d.widths[which] + self.offsets[which] + head * self.spec.head_dim + c]
        };
        (0..d.queries)
            .map(|i| {
                let dot = |j: usize| (0..self.spec.head_dim).map(|c| at(0, i, c) * at(1, j, c)).sum::<f64>();
                let visible = |j: usize| !self.spec.causal || j <= i;
                (0..d.keys).map(|j| if visible(j) { dot(j) * self.spec.scale } else { f64::NEG_INFINITY }).collect()
            })
            .collect()
    }
}
