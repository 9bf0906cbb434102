//! Low-rank adapters beside frozen layers (Hu et al. 2021, arXiv 2106.09685).

use std::ops::Range;

use super::params::{Pack, Param, Role, Scope, Source};
use crate::base::DType;
use crate::error::{Error, Result};
use crate::graph::{Graph, Tensor};
use crate::ops::{Conv, Epilogue, LoraAdd, conv2d, linear};

/// Factors of one layer, stored in f32 as `lora.<path>.down` and `lora.<path>.up`.
#[derive(Clone, Debug)]
pub struct Adapter {
    /// `[r, in]`, or `[r, kh, kw, in]` beside a convolution.
    pub down: Param,
    /// `[out, r]`
    pub up: Param,
    /// Factor of the product: alpha / rank, or 1 where it is part of `up`.
    pub scale: f64,
}

impl Adapter {
    /// Creates the adapter of the layer at `scope`, whose checkpoint weight has `shape` and is packed by `pack`; `None`
    /// if the model's settings name none.
    pub(super) fn new(scope: &Scope, shape: &[usize], pack: Pack) -> Option<Adapter> {
        let (rank, scale) = scope.settings().adapter(scope.path())?;
        let (out, inner) = shape.split_first()?;
        let down: Vec<usize> = [rank].into_iter().chain(inner.iter().copied()).collect();
        // Beside a convolution of any window the second factor is a convolution of one pixel.
        let up: Vec<usize> = [*out, rank].into_iter().chain(inner.iter().skip(1).map(|_| 1)).collect();
        let factor = |name: &str, shape: Vec<usize>, pack: Pack| {
            let key = format!("lora.{}.{name}", scope.path());
            let sources = vec![Source { key: key.clone(), shape: shape.clone() }];
            let stored = pack.shape(&shape);
            scope.register(Param { key, shape: stored, dtype: DType::F32, pack, role: Role::Adapter, sources })
        };
        let up_pack = if shape.len() == 4 { Pack::Pixel } else { Pack::AsIs };
        Some(Adapter { down: factor("down", down, pack), up: factor("up", up, up_pack), scale })
    }

    /// The adapters of `layers` that read the same `input` channels and are stacked into one layer, `key` of `scope`, each
    /// with its output channels: `down` has the rows of all, `up` each layer's columns in its own rows and zeros elsewhere.
    /// `None` where no layer has one.
    pub(super) fn stacked(scope: &Scope, key: &str, layers: &[(Scope, usize)], input: usize) -> Option<Adapter> {
        let rank = |layer: &Scope| scope.settings().adapter(layer.path()).map_or(0, |(rank, _)| rank);
        let all: usize = layers.iter().map(|(layer, _)| rank(layer)).sum();
        if all == 0 {
            return None;
        }
        let factor = |name: &str, shape: [usize; 2], of: &dyn Fn(usize, usize) -> Vec<usize>| {
            let source = |(layer, out): &(Scope, usize)| Source {
                key: format!("lora.{}.{name}", layer.path()),
                shape: of(*out, rank(layer)),
            };
            let sources = layers.iter().map(source).collect();
            let key = format!("lora.{}.{key}.{name}", scope.path());
            let (dtype, pack, role) = (DType::F32, Pack::AsIs, Role::Adapter);
            scope.register(Param { key, shape: shape.into(), dtype, pack, role, sources })
        };
        let outputs = layers.iter().map(|(_, out)| out).sum();
        let down = factor("down", [all, input], &|_, rank| vec![rank, input]);
        let up = factor("up", [outputs, all], &|out, rank| vec![out, rank]);
        Some(Adapter { down, up, scale: 1.0 })
    }

    /// Records what the adapter adds to a linear layer of `x`.
    pub(super) fn linear(&self, g: &mut Graph, x: Tensor) -> Result<LoraAdd> {
        let (down, up) = (self.down.get(g)?, self.up.get(g)?);
        let hidden = linear(g, x, down, Epilogue::default())?;
        Ok(LoraAdd { hidden, up, scale: self.scale })
    }

    /// Records what the adapter adds to a convolution of `x` (and `x2`).
    pub(super) fn conv(&self, g: &mut Graph, x: Tensor, x2: Option<Tensor>, conv: Conv) -> Result<LoraAdd> {
        let (down, up) = (self.down.get(g)?, self.up.get(g)?);
        let hidden = conv2d(g, x, x2, down, conv, Epilogue::default())?;
        Ok(LoraAdd { hidden, up, scale: self.scale })
    }
}

/// Merges an adapter into rows of a weight of `shape` `[out, in..]` as in the checkpoint: `weight += scale * up .
/// down`, where `weight` holds the rows `rows`, `down` is `[rank, in..]` and `up` `[out, rank]` (or `[out, rank, 1,
/// 1]`).
pub fn merge(
    weight: &mut [f32],
    shape: &[usize],
    rows: Range<usize>,
    [down, up]: [&[f32]; 2],
    scale: f64,
) -> Result<()> {
    let out = shape.first().copied().unwrap_or(0);
    let inner: usize = shape.iter().skip(1).product();
    let rank = up.len().checked_div(out).unwrap_or(0);
    let fits = weight.len() == rows.len() * inner && rows.end <= out;
    if !fits || up.len() != out * rank || down.len() != rank * inner {
        let message = format!("factors of {} and {} values do not fit a weight of {shape:?}", down.len(), up.len());
        return Err(Error::op("lora", message));
    }
    let up = up[rows.start * rank..].chunks_exact(rank.max(1));
    let mut sums = vec![0.0; inner];
    for (row, up) in weight.chunks_exact_mut(inner.max(1)).zip(up) {
        sums.fill(0.0);
        for (factor, down) in up.iter().zip(down.chunks_exact(inner.max(1))) {
            sums.iter_mut().zip(down).for_each(|(sum, x)| *sum += f64::from(*factor) * f64::from(*x));
        }
        row.iter_mut().zip(&sums).for_each(|(w, sum)| *w = (f64::from(*w) + scale * sum) as f32);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merging_adds_the_scaled_product() {
        let mut weight = vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        // up [2, 1], down [1, 3]
        merge(&mut weight, &[2, 3], 0..2, [&[1.0, 0.0, -1.0], &[2.0, 4.0]], 0.5).unwrap();
        assert_eq!(weight, [2.0, 2.0, 2.0, 6.0, 5.0, 4.0]);
        merge(&mut weight[3..], &[2, 3], 1..2, [&[1.0, 0.0, -1.0], &[2.0, 4.0]], 1.0).unwrap();
        assert_eq!(weight, [2.0, 2.0, 2.0, 10.0, 5.0, 0.0]);
        assert!(merge(&mut weight, &[2, 3], 0..2, [&[1.0], &[2.0, 4.0]], 0.5).is_err());
        assert!(merge(&mut weight, &[2, 3], 1..3, [&[1.0, 0.0, -1.0], &[2.0, 4.0]], 0.5).is_err());
    }
}
